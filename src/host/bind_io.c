/* Files for recipes: the parts of pb.read and pb.write that are in C. scripts/patchbay/core/io.lua puts them together by
 * the file's extension. Every function takes a name as the recipe gave it and applies the sandbox's rules to it. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "host/private.h"
#include "patchbay/tensorio.h"

static void release_safetensors(void *object) { pb_safetensors_unref(object); }

static void release_torch(void *object) { pb_torch_close(object); }

const pb_class PB_TORCH_CLASS = {.name = "PyTorch file", .release = release_torch};
const pb_class PB_SAFETENSORS_CLASS = {.name = "safetensors", .release = release_safetensors};

enum { TEXT_BYTES = 1 << 30 };

static const char *input(lua_State *L) { return pb_host_input_path(L, pb_check_text(L, 1, "file", NULL)); }

static const char *output(lua_State *L) { return pb_host_output_path(L, pb_check_text(L, 1, "file", NULL)); }

/* ---- reading ----------------------------------------------------------------------------------------------------- */

/* Entry i of an open file: its name, and a new tensor. */
typedef pb_status (*entry_reader)(pb_context *ctx, void *file, size_t i, const char **name, pb_tensor **out,
                                  pb_error *err);

static int push_entries(lua_State *L, void *file, size_t n, entry_reader read) {
    lua_createtable(L, 0, (int)n);
    for (size_t i = 0; i < n; i++) {
        pb_box *item = pb_new_tensor(L);
        const char *name = NULL;
        pb_tensor *t = NULL;
        PB_LUA(L, read(pb_host_context(L), file, i, &name, &t, pb_lua_error(L)));
        pb_fill_tensor(L, item, t);
        lua_setfield(L, -2, name);
    }
    return 1;
}

static pb_status safetensors_entry(pb_context *ctx, void *file, size_t i, const char **name, pb_tensor **out,
                                   pb_error *err) {
    *name = pb_safetensors_at(file, i)->name;
    return pb_safetensors_tensor(ctx, file, i, out, err);
}

static int read_safetensors(lua_State *L) {
    const char *path = input(L);
    pb_box *box = pb_box_new(L, &PB_SAFETENSORS_CLASS, 0);
    pb_safetensors *file = NULL;
    PB_LUA(L, pb_safetensors_open(pb_host_context(L), path, &file, pb_lua_error(L)));
    box->object = file;
    return push_entries(L, file, pb_safetensors_count(file), safetensors_entry);
}

static pb_status torch_entry(pb_context *ctx, void *file, size_t i, const char **name, pb_tensor **out, pb_error *err) {
    *name = pb_torch_at(file, i)->name;
    return pb_entry_load(ctx, pb_torch_at(file, i), out, err);
}

static int read_torch(lua_State *L) {
    const char *path = input(L);
    pb_box *box = pb_box_new(L, &PB_TORCH_CLASS, 0);
    pb_torch *file = NULL;
    PB_LUA(L, pb_torch_open(pb_host_context(L), path, &file, pb_lua_error(L)));
    box->object = file;
    return push_entries(L, file, pb_torch_count(file), torch_entry);
}

static int read_npy(lua_State *L) {
    const char *path = input(L);
    pb_box *box = pb_new_tensor(L);
    pb_tensor *t = NULL;
    PB_LUA(L, pb_npy_read(pb_host_context(L), path, &t, pb_lua_error(L)));
    pb_fill_tensor(L, box, t);
    return 1;
}

/* The whole file as a string, and its path. */
static int read_text(lua_State *L) {
    const char *path = input(L);
    pb_box *box = pb_box_new(L, &PB_MEMORY_CLASS, 0);
    char *text = NULL;
    size_t length = 0;
    PB_LUA(L, pb_file_read(pb_host_context(L), path, TEXT_BYTES, &text, &length, pb_lua_error(L)));
    box->object = text;
    lua_pushlstring(L, text, length);
    return 1;
}

static int json_decode(lua_State *L) {
    size_t length;
    const char *text = pb_check_text(L, 1, "text", &length);
    pb_json_decode(L, text, length, luaL_optstring(L, 2, "JSON text"));
    return 1;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

/* Names in the table at index, in an order that does not depend on the hash. Pushes their memory. */
static int compare_names(const void *a, const void *b) {
    return strcmp(((const pb_named_tensor *)a)->name, ((const pb_named_tensor *)b)->name);
}

/* (file, { name = tensor }, { key = text }) */
static int write_safetensors(lua_State *L) {
    if (lua_type(L, 2) != LUA_TTABLE)
        pb_bad_argument(L, "data", "must be a table of names and tensors for .safetensors, got %s", pb_describe(L, 2));
    bool metadata = lua_type(L, 3) == LUA_TTABLE;
    size_t n = 0, pairs = 0;
    for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1))
        n++;
    if (metadata)
        for (lua_pushnil(L); lua_next(L, 3); lua_pop(L, 1))
            pairs++;
    pb_named_tensor *tensors = pb_lua_scratch(L, n + 1, sizeof *tensors);
    const char **texts = pb_lua_scratch(L, 2 * pairs + 1, sizeof *texts);
    size_t i = 0;
    for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TSTRING || !pb_is_box(L, -1, &PB_TENSOR_CLASS))
            pb_bad_argument(L, "data", "must be a table of names and tensors, and has %s under %s", pb_describe(L, -1),
                            pb_describe(L, -2));
        tensors[i].name = lua_tostring(L, -2);
        tensors[i++].tensor = pb_check_tensor(L, -1);
    }
    qsort(tensors, n, sizeof *tensors, compare_names);
    i = 0;
    if (metadata)
        for (lua_pushnil(L); lua_next(L, 3); lua_pop(L, 1)) {
            if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING)
                pb_bad_argument(L, "metadata", "must be a table of texts");
            texts[i++] = lua_tostring(L, -2);
            texts[i++] = lua_tostring(L, -1);
        }
    const char *path = output(L);
    PB_LUA(L, pb_safetensors_write(pb_host_context(L), path, tensors, n, texts, pairs, pb_lua_error(L)));
    pb_host_wrote(L, path);
    return 0;
}

static int write_npy(lua_State *L) {
    const pb_tensor *t = pb_check_tensor(L, 2);
    const char *path = output(L);
    PB_LUA(L, pb_npy_write(t, path, pb_lua_error(L)));
    pb_host_wrote(L, path);
    return 0;
}

/* A list of texts at index -> array; pushes its memory. The list keeps the texts alive. */
static const char **check_texts(lua_State *L, int index, const char *name, int64_t n) {
    index = lua_absindex(L, index);
    if (lua_type(L, index) != LUA_TTABLE || (int64_t)lua_rawlen(L, index) != n)
        pb_bad_argument(L, name, "must be a list of %lld texts, got %s", (long long)n, pb_describe(L, index));
    const char **texts = pb_lua_scratch(L, (size_t)n + 1, sizeof *texts);
    for (int64_t i = 0; i < n; i++) {
        lua_rawgeti(L, index, i + 1);
        texts[i] = pb_check_text(L, -1, name, NULL);
        lua_pop(L, 1);
    }
    return texts;
}

/* (file, tensor, axis names or nil, labels or nil): labels is a list with one list of texts (or false) per axis. */
static int write_csv(lua_State *L) {
    lua_settop(L, 4);
    const pb_tensor *t = pb_check_tensor(L, 2);
    int ndim = pb_tensor_ndim(t);
    const char *const *axes;
    if (lua_isnil(L, 3)) {
        static const char *const plain[PB_MAX_DIMS] = {"axis0", "axis1", "axis2", "axis3",
                                                       "axis4", "axis5", "axis6", "axis7"};
        axes = plain;
    } else {
        axes = (const char *const *)check_texts(L, 3, "axes", ndim);
    }
    const char *const **labels = NULL;
    if (!lua_isnil(L, 4)) {
        if (lua_type(L, 4) != LUA_TTABLE || (int)lua_rawlen(L, 4) != ndim)
            pb_bad_argument(L, "labels", "must be a list of %d lists of texts (or false)", ndim);
        labels = pb_lua_scratch(L, PB_MAX_DIMS, sizeof *labels);
        luaL_checkstack(L, 2 * PB_MAX_DIMS, "labels");
        for (int i = 0; i < ndim; i++)
            if (lua_rawgeti(L, 4, i + 1) == LUA_TTABLE)
                labels[i] = (const char *const *)check_texts(L, -1, "labels", pb_tensor_shape(t)[i]);
    }
    const char *path = output(L);
    PB_LUA(L, pb_csv_write(t, axes, labels, path, pb_lua_error(L)));
    pb_host_wrote(L, path);
    return 0;
}

static int write_text(lua_State *L) {
    size_t length;
    const char *text = pb_check_text(L, 2, "data", &length);
    const char *path = output(L);
    PB_LUA(L, pb_file_write(pb_host_context(L), path, text, length, pb_lua_error(L)));
    pb_host_wrote(L, path);
    return 0;
}

static int json_encode(lua_State *L) {
    luaL_checkany(L, 1);
    pb_json_encode(L, 1, luaL_optstring(L, 2, "JSON"));
    return 1;
}

const luaL_Reg PB_CORE_IO[] = {{"read_safetensors", read_safetensors},
                               {"read_torch", read_torch},
                               {"read_npy", read_npy},
                               {"read_text", read_text},
                               {"json_decode", json_decode},
                               {"write_npy", write_npy},
                               {"write_csv", write_csv},
                               {"write_safetensors", write_safetensors},
                               {"write_text", write_text},
                               {"json_encode", json_encode},
                               {NULL, NULL}};
