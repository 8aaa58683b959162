/* Checkpoints of a trainer: weights and both moments as float32, and two texts (what the run is, how far it has come), with a
 * digest over all of it. A file is read whole and checked before the first number is taken over. */
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "host/private.h"
#include "host/training.h"

enum { PARTS = 3 };
static const char *const PART[PARTS] = {"weight", "first", "second"};

static pb_tensor *part_of(const pb_trained *w, int part) {
    return part == 0 ? w->weight : part == 1 ? w->first : w->second;
}

/* One tensor of the checkpoint: data is where its numbers are. */
typedef struct item {
    const char *name;
    pb_tensor *tensor; /* the trainer's */
    const void *data;
    size_t bytes;
} item;

/* The trainer's tensors in the model's order of weights. Pushes their memory and their names. */
static item *push_items(lua_State *L, const pb_trainer *t, size_t *n) {
    item *items = pb_lua_scratch(L, t->n * PARTS + 1, sizeof *items);
    *n = 0;
    lua_createtable(L, (int)t->n * PARTS, 0); /* keeps the names */
    for (size_t i = 0; i < t->n; i++)
        for (int part = 0; part < PARTS && t->weights[i].weight; part++) {
            pb_tensor *tensor = part_of(&t->weights[i], part);
            item *it = &items[(*n)++];
            it->name = lua_pushfstring(L, "%s.%s", PART[part], t->weights[i].name);
            lua_rawseti(L, -2, (lua_Integer)*n);
            it->tensor = tensor;
            it->data = pb_tensor_floats(tensor);
            it->bytes = (size_t)pb_tensor_count(tensor) * sizeof(float);
        }
    return items;
}

static pb_status digest_of(pb_context *ctx, const char *identity, const char *state, const item *items, size_t n,
                           char text[PB_SHA256_TEXT], pb_error *err) {
    pb_sha256 *hash = NULL;
    PB_TRY(pb_sha256_begin(ctx, &hash, err));
    pb_status status = pb_sha256_add(hash, identity, strlen(identity) + 1, err);
    if (status == PB_OK)
        status = pb_sha256_add(hash, state, strlen(state) + 1, err);
    for (size_t i = 0; i < n && status == PB_OK; i++) {
        status = pb_sha256_add(hash, items[i].name, strlen(items[i].name) + 1, err);
        if (status == PB_OK)
            status = pb_sha256_add(hash, items[i].data, items[i].bytes, err);
    }
    if (status == PB_OK)
        return pb_sha256_end(hash, text, err);
    pb_sha256_drop(hash);
    return status;
}

/* trainer:save(file, identity, state) -> digest */
int pb_trainer_save(lua_State *L) {
    pb_check_arity(L, 4);
    const pb_trainer *t = pb_check_trainer(L, 1);
    const char *identity = pb_check_text(L, 3, "identity", NULL), *state = pb_check_text(L, 4, "state", NULL);
    const char *path = pb_host_output_path(L, pb_check_text(L, 2, "file", NULL));
    pb_context *ctx = pb_host_context(L);
    size_t n = 0;
    const item *items = push_items(L, t, &n);
    pb_named_tensor *tensors = pb_lua_scratch(L, n, sizeof *tensors);
    for (size_t i = 0; i < n; i++)
        tensors[i] = (pb_named_tensor){items[i].name, items[i].tensor};
    char digest[PB_SHA256_TEXT];
    PB_LUA(L, digest_of(ctx, identity, state, items, n, digest, pb_lua_error(L)));
    const char *const texts[] = {"digest", digest, "identity", identity, "state", state};
    PB_LUA(L, pb_safetensors_write(ctx, path, tensors, n, texts, 3, pb_lua_error(L)));
    pb_host_wrote(L, path);
    lua_pushstring(L, digest);
    return 1;
}

_Noreturn static void refuse(lua_State *L, const char *file, const char *why) {
    pb_lua_fail(L, "checkpoint '%s' %s; to begin anew, remove it or give the checkpoint another name", file, why);
}

static bool fits(const pb_entry *entry, const pb_tensor *tensor) {
    int ndim = pb_tensor_ndim(tensor);
    return entry && entry->type == PB_STORED_F32 && entry->ndim == ndim &&
           memcmp(entry->shape, pb_tensor_shape(tensor), (size_t)ndim * sizeof *entry->shape) == 0;
}

/* trainer:load(file, identity) -> state, or nil if the output folder has no such file */
int pb_trainer_load(lua_State *L) {
    pb_check_arity(L, 3);
    const pb_trainer *t = pb_check_trainer(L, 1);
    const char *file = pb_check_text(L, 2, "file", NULL), *identity = pb_check_text(L, 3, "identity", NULL);
    const char *path = pb_host_output_path(L, file);
    if (!pb_file_exists(path)) {
        lua_pushnil(L);
        return 1;
    }
    pb_context *ctx = pb_host_context(L);
    pb_box *box = pb_box_new(L, &PB_SAFETENSORS_CLASS, 0);
    pb_safetensors *saved = NULL;
    PB_LUA(L, pb_safetensors_open(ctx, path, &saved, pb_lua_error(L)));
    box->object = saved;
    const char *its_identity = pb_safetensors_metadata(saved, "identity"),
               *state = pb_safetensors_metadata(saved, "state"), *its_digest = pb_safetensors_metadata(saved, "digest");
    if (!its_identity || !state || !its_digest)
        refuse(L, file, "is no checkpoint of train.run");
    if (strcmp(its_identity, identity) != 0)
        refuse(L, file, lua_pushfstring(L, "is of another training run (there: %s; here: %s)", its_identity, identity));
    size_t n = 0;
    item *items = push_items(L, t, &n);
    for (size_t i = 0; i < n; i++) {
        const pb_entry *entry = pb_safetensors_find(saved, items[i].name);
        if (!fits(entry, items[i].tensor))
            refuse(L, file, lua_pushfstring(L, "has no '%s' of the model's shape", items[i].name));
        items[i].data = entry->data;
    }
    char digest[PB_SHA256_TEXT];
    PB_LUA(L, digest_of(ctx, identity, state, items, n, digest, pb_lua_error(L)));
    if (strcmp(digest, its_digest) != 0)
        refuse(L, file, "is damaged: its digest is not that of its numbers");
    lua_pushstring(L, state);
    for (size_t i = 0; i < n; i++)
        memcpy(pb_tensor_floats(items[i].tensor), items[i].data, items[i].bytes);
    PB_LUA(L, pb_model_refresh(t->model, pb_lua_error(L)));
    return 1;
}
