/* Lua: models made of tensors (pb.model, model:with), and what changes with them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "host/objects.h"
#include "host/private.h"
#include "model/export.h"

static int compare_names(const void *a, const void *b) {
    return strcmp(((const pb_named_tensor *)a)->name, ((const pb_named_tensor *)b)->name);
}

/* The table { name = tensor } at index, sorted by name; pushes its memory. The table keeps names and tensors alive. */
static const pb_named_tensor *check_weights(lua_State *L, int index, const char *what, size_t *n) {
    index = lua_absindex(L, index);
    if (lua_type(L, index) != LUA_TTABLE)
        pb_bad_argument(L, what, "must be a table of names and tensors, got %s", pb_describe(L, index));
    size_t count = 0;
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1))
        count++;
    pb_named_tensor *tensors = pb_lua_scratch(L, count + 1, sizeof *tensors);
    size_t i = 0;
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TSTRING)
            pb_bad_argument(L, what, "must be a table of names and tensors, and has the key %s", pb_describe(L, -2));
        const char *name = lua_tostring(L, -2);
        if (strlen(name) != lua_rawlen(L, -2))
            pb_bad_argument(L, what, "has a name with a zero byte after '%s'", name);
        if (!pb_is_box(L, -1, &PB_TENSOR_CLASS))
            pb_bad_argument(L, what, "has %s as weight '%s'; a tensor is needed", pb_describe(L, -1), name);
        tensors[i].name = name;
        tensors[i++].tensor = pb_check_tensor(L, -1);
    }
    qsort(tensors, count, sizeof *tensors, compare_names);
    *n = count;
    return tensors;
}

/* Push a box for a model that `status` says was made. */
static void name_box(lua_State *L, const pb_model *model, const char *name) {
    lua_pushstring(L, name ? name : pb_model_name(model));
    lua_setiuservalue(L, -2, PB_MODEL_NAME);
}

/* pb.model { config = table | JSON text | model, weights = { name = tensor }, tokenizer = tokenizer | model, name = } */
int pb_model_make(lua_State *L) {
    static const char *const fields[] = {"config", "weights", "tokenizer", "name", NULL};
    pb_check_arity(L, 1);
    pb_check_fields(L, 1, fields, 0);
    pb_model_parts parts = {.name = pb_field_text(L, 1, "name")};
    lua_settop(L, 1);
    int type = pb_push_field(L, 1, "config"); /* 2 */
    if (pb_is_box(L, 2, &PB_MODEL_CLASS)) {
        pb_model *like = pb_check_model(L, 2);
        parts.config = pb_model_config(like);
        parts.folder = pb_model_folder(like);
        parts.tokenizer = pb_model_tokenizer(like);
    } else if (type == LUA_TTABLE) {
        pb_json_encode(L, 2, "config");
        lua_replace(L, 2);
        parts.config = lua_tostring(L, 2);
    } else if (type == LUA_TSTRING) {
        parts.config = pb_check_text(L, 2, "config", NULL);
    } else {
        pb_bad_argument(L, "config", "must be a table, JSON text or a model, got %s", pb_describe(L, 2));
    }
    pb_push_field(L, 1, "tokenizer"); /* 3 */
    if (pb_is_box(L, 3, &PB_TOKENIZER_CLASS)) {
        parts.tokenizer = pb_check_box(L, 3, &PB_TOKENIZER_CLASS);
        parts.folder = NULL;
    } else if (pb_is_box(L, 3, &PB_MODEL_CLASS)) {
        parts.tokenizer = pb_model_needs_tokenizer(L, pb_check_model(L, 3));
        parts.folder = pb_model_folder(pb_check_model(L, 3));
    } else if (!lua_isnil(L, 3)) {
        pb_bad_argument(L, "tokenizer", "must be a tokenizer or a model, got %s", pb_describe(L, 3));
    }
    pb_push_field(L, 1, "weights"); /* 4 */
    parts.weights = check_weights(L, 4, "weights", &parts.n_weights);
    pb_box *box = pb_box_new(L, &PB_MODEL_CLASS, PB_MODEL_SLOTS);
    pb_model *made = NULL;
    PB_LUA(L, pb_model_create(pb_host_context(L), &parts, &made, pb_lua_error(L)));
    box->object = made;
    name_box(L, made, NULL);
    return 1;
}

/* model:with { [weight's name] = tensor, ... } -> a new model */
int pb_model_with(lua_State *L) {
    pb_check_arity(L, 2);
    const pb_model *base = pb_check_model(L, 1);
    size_t n = 0;
    const pb_named_tensor *weights = check_weights(L, 2, "weights", &n);
    pb_box *box = pb_box_new(L, &PB_MODEL_CLASS, PB_MODEL_SLOTS);
    pb_model *made = NULL;
    PB_LUA(L, pb_model_with_weights(base, weights, n, &made, pb_lua_error(L)));
    box->object = made;
    name_box(L, made, NULL);
    return 1;
}

/* model:refresh() -> the model */
int pb_model_refresh_vectors(lua_State *L) {
    pb_check_arity(L, 1);
    pb_model *model = pb_check_model(L, 1);
    PB_LUA(L, pb_model_refresh(model, pb_lua_error(L)));
    lua_settop(L, 1);
    return 1;
}

/* model.config -> table */
int pb_model_config_table(lua_State *L) {
    const char *text = pb_model_config(pb_check_model(L, 1));
    pb_json_decode(L, text, strlen(text), "config.json");
    return 1;
}

/* model:save(folder [, { dtype = "f32" | "f16" | "bf16" }]) */
int pb_model_save(lua_State *L) {
    static const char *const fields[] = {"dtype", NULL};
    static const char *const words[] = {"f32", "f16", "bf16", NULL};
    static const pb_stored types[] = {PB_STORED_F32, PB_STORED_F16, PB_STORED_BF16, PB_STORED_OTHER};
    pb_check_arity(L, 3);
    const pb_model *model = pb_check_model(L, 1);
    const char *folder = pb_check_text(L, 2, "folder", NULL);
    pb_stored dtype = PB_STORED_OTHER;
    if (!lua_isnoneornil(L, 3)) {
        pb_check_fields(L, 3, fields, 0);
        dtype = types[pb_field_word(L, 3, "dtype", words, 3)];
    }
    for (size_t i = 0; PB_EXPORT_FILES[i]; i++) { /* each may be written there */
        lua_settop(L, 3);
        lua_pushfstring(L, "%s/%s", folder, PB_EXPORT_FILES[i]);
        pb_host_output_path(L, lua_tostring(L, 4));
    }
    const char *last = lua_tostring(L, -1); /* config.json's path */
    lua_pushlstring(L, last, strlen(last) - strlen(pb_path_name(last)));
    PB_LUA(L, pb_model_export(model, lua_tostring(L, -1), dtype, pb_lua_error(L)));
    pb_host_wrote(L, last);
    return 0;
}

/* model.storage -> text */
int pb_model_storage_text(lua_State *L) {
    char text[128];
    lua_pushstring(L, pb_model_storage(pb_check_model(L, 1), text, sizeof text));
    return 1;
}

/* model.dtypes -> text */
int pb_model_dtypes_text(lua_State *L) {
    char text[128];
    lua_pushstring(L, pb_model_dtypes(pb_check_model(L, 1), text, sizeof text));
    return 1;
}

const char *pb_hash_cache(char *buffer, size_t size) {
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int length = 0;
    if (cache && *cache == '/')
        length = snprintf(buffer, size, "%s/patchbay/sha256", cache);
    else if (home && *home == '/')
        length = snprintf(buffer, size, "%s/.cache/patchbay/sha256", home);
    if (length <= 0 || (size_t)length >= size)
        buffer[0] = '\0';
    return buffer;
}
