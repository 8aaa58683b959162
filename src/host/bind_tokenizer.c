/* Lua: tokenizers (pb.tokenizer, model.tokenizer), and how prompts and answer tokens are read everywhere else. */
#include <string.h>

#include "host/objects.h"
#include "host/private.h"

pb_box *pb_new_block(lua_State *L) { return pb_box_new(L, &PB_MEMORY_CLASS, 0); }

static void release_tokenizer(void *object) { pb_tokenizer_unref(object); }

static pb_tokenizer *check_tokenizer(lua_State *L, int index) { return pb_check_box(L, index, &PB_TOKENIZER_CLASS); }

/* ---- helpers of other bindings --------------------------------------------------------------------------------------- */

pb_tokenizer *pb_model_needs_tokenizer(lua_State *L, const pb_model *model) {
    pb_tokenizer *tokenizer = pb_model_tokenizer(model);
    if (!tokenizer)
        pb_lua_fail(L, "model '%s' has no tokenizer.json in %s: give token ids instead of text", pb_model_name(model),
                    pb_model_folder(model));
    return tokenizer;
}

static const char *push_token_label(lua_State *L, const pb_tokenizer *tokenizer, int32_t id) {
    pb_box *block = pb_new_block(L);
    char *text_block = NULL;
    PB_LUA(L, pb_tokenizer_label(tokenizer, id, &text_block, pb_lua_error(L)));
    block->object = text_block;
    lua_pushstring(L, block->object);
    lua_remove(L, -2);
    return lua_tostring(L, -1);
}

const char *pb_push_label(lua_State *L, const pb_model *model, int32_t id) {
    const pb_tokenizer *tokenizer = pb_model_tokenizer(model);
    if (tokenizer && id >= 0 && id < pb_tokenizer_size(tokenizer) && pb_tokenizer_token(tokenizer, id))
        return push_token_label(L, tokenizer, id);
    return lua_pushfstring(L, "%d", (int)id);
}

void pb_push_id_list(lua_State *L, const int32_t *ids, size_t n) {
    lua_createtable(L, (int)n, 0);
    for (size_t i = 0; i < n; i++) {
        lua_pushinteger(L, ids[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
}

static void push_decoded(lua_State *L, const pb_tokenizer *tokenizer, const int32_t *ids, size_t n, bool skip_special) {
    size_t length = 0;
    pb_box *block = pb_new_block(L);
    char *text_block = NULL;
    PB_LUA(L, pb_tokenizer_decode(tokenizer, ids, n, skip_special, &text_block, &length, pb_lua_error(L)));
    block->object = text_block;
    lua_pushlstring(L, block->object, length);
    lua_remove(L, -2);
}

void pb_push_text(lua_State *L, const pb_model *model, const int32_t *ids, size_t n, bool skip_special) {
    const pb_tokenizer *tokenizer = pb_model_tokenizer(model);
    if (tokenizer)
        push_decoded(L, tokenizer, ids, n, skip_special);
    else
        lua_pushnil(L);
}

static const int32_t *push_encoded(lua_State *L, const pb_tokenizer *tokenizer, int index, pb_special special,
                                   size_t *n) {
    size_t length;
    const char *text = lua_tolstring(L, index, &length);
    pb_box *block = pb_new_block(L);
    int32_t *id_block = NULL;
    PB_LUA(L, pb_tokenizer_encode(tokenizer, text, length, special, &id_block, n, pb_lua_error(L)));
    block->object = id_block;
    return block->object;
}

const int32_t *pb_check_prompt(lua_State *L, int index, const pb_model *model, pb_special special, size_t *n) {
    const int32_t *ids = NULL;
    switch (lua_type(L, index)) {
    case LUA_TSTRING:
        ids = push_encoded(L, pb_model_needs_tokenizer(L, model), index, special, n);
        if (*n == 0)
            pb_bad_argument(L, "prompt", "is empty: a run needs at least one token");
        break;
    case LUA_TTABLE:
        ids = pb_check_ids(L, index, "prompt", 0, n);
        if (*n == 0)
            pb_bad_argument(L, "prompt", "is an empty list: a run needs at least one token");
        break;
    default:
        pb_bad_argument(L, "prompt", "must be a text or a list of token ids, got %s", pb_describe(L, index));
    }
    return ids;
}

pb_special pb_field_special(lua_State *L, int index, pb_special fallback) {
    if (!pb_has_field(L, index, "bos"))
        return fallback;
    return pb_field_boolean(L, index, "bos", false) ? PB_SPECIAL_ON : PB_SPECIAL_OFF;
}

int32_t pb_check_token(lua_State *L, int index, const pb_model *model, const char *name) {
    int32_t id = -1;
    if (lua_type(L, index) == LUA_TSTRING) {
        size_t length;
        const char *text = lua_tolstring(L, index, &length);
        PB_LUA(L, pb_tokenizer_single(pb_model_needs_tokenizer(L, model), text, length, &id, pb_lua_error(L)));
        return id;
    }
    if (!lua_isinteger(L, index))
        pb_bad_argument(L, name, "must be a text of one token, or a token id, got %s", pb_describe(L, index));
    return (int32_t)pb_check_integer(L, index, name, 0, pb_model_vocab(model) - 1);
}

/* Columns that a UTF-8 text takes, as far as one column a character goes. */
static int columns_of(const char *text) {
    int n = 0;
    for (; *text; text++)
        n += ((unsigned char)*text & 0xC0) != 0x80;
    return n;
}

static void add_padded(luaL_Buffer *b, const char *text, int width) {
    luaL_addstring(b, text);
    for (int i = columns_of(text); i < width; i++)
        luaL_addchar(b, ' ');
}

static void push_labels(lua_State *L, const pb_run *run) {
    const int32_t *ids = pb_run_tokens(run);
    size_t n = pb_run_length(run);
    lua_createtable(L, (int)n, 0);
    for (size_t i = 0; i < n; i++) {
        pb_push_label(L, pb_run_model(run), ids[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
}

/* Text of entry i of the list at index (absent: ""); valid while the list is. */
static const char *label_at(lua_State *L, int index, size_t i) {
    lua_rawgeti(L, index, (lua_Integer)i + 1);
    const char *text = lua_tostring(L, -1);
    lua_pop(L, 1);
    return text ? text : "";
}

const char *pb_push_side_by_side(lua_State *L, const pb_run *a, const char *name_a, const pb_run *b,
                                 const char *name_b) {
    size_t n_a = pb_run_length(a), n_b = pb_run_length(b), n = n_a > n_b ? n_a : n_b;
    const int32_t *ids_a = pb_run_tokens(a), *ids_b = pb_run_tokens(b);
    push_labels(L, a);
    int labels_a = lua_gettop(L);
    push_labels(L, b);
    int labels_b = lua_gettop(L), width = columns_of(name_a);
    for (size_t i = 0; i < n_a; i++) {
        int columns = columns_of(label_at(L, labels_a, i));
        width = columns > width ? columns : width;
    }
    luaL_Buffer text;
    luaL_buffinit(L, &text);
    luaL_addstring(&text, "   pos  ");
    add_padded(&text, name_a, width);
    luaL_addstring(&text, "  ");
    luaL_addstring(&text, name_b);
    bool differed = false;
    for (size_t i = 0; i < n; i++) {
        bool same = i < n_a && i < n_b && ids_a[i] == ids_b[i];
        char number[32];
        lua_Integer position = (lua_Integer)i;
        snprintf(number, sizeof number, "\n  %4lld  ", (long long)position);
        luaL_addstring(&text, number);
        add_padded(&text, label_at(L, labels_a, i), width);
        luaL_addstring(&text, "  ");
        luaL_addstring(&text, label_at(L, labels_b, i));
        if (!same && !differed)
            luaL_addstring(&text, "   <- the first difference");
        differed |= !same;
    }
    luaL_pushresult(&text);
    lua_replace(L, labels_a);
    lua_settop(L, labels_a);
    return lua_tostring(L, -1);
}

/* ---- the class ----------------------------------------------------------------------------------------------------------- */

/* pb.tokenizer(path) */
static int open_tokenizer(lua_State *L) {
    pb_check_arity(L, 1);
    const char *name = pb_check_text(L, 1, "path", NULL);
    const char *path = pb_host_input_path(L, name);
    pb_box *box = pb_box_new(L, &PB_TOKENIZER_CLASS, 0);
    pb_tokenizer *opened = NULL;
    PB_LUA(L, pb_tokenizer_open(pb_host_context(L), path, &opened, pb_lua_error(L)));
    box->object = opened;
    return 1;
}

static int tokenizer_encode(lua_State *L) {
    static const char *const fields[] = {"bos", NULL};
    pb_check_arity(L, 3);
    const pb_tokenizer *tokenizer = check_tokenizer(L, 1);
    pb_check_text(L, 2, "text", &(size_t){0});
    pb_special special = PB_SPECIAL_DEFAULT;
    if (!lua_isnoneornil(L, 3)) {
        pb_check_fields(L, 3, fields, 0);
        special = pb_field_special(L, 3, special);
    }
    size_t n = 0;
    const int32_t *ids = push_encoded(L, tokenizer, 2, special, &n);
    pb_push_id_list(L, ids, n);
    return 1;
}

static int tokenizer_decode(lua_State *L) {
    static const char *const fields[] = {"skip_special", NULL};
    pb_check_arity(L, 3);
    const pb_tokenizer *tokenizer = check_tokenizer(L, 1);
    size_t n = 0;
    bool skip = false;
    if (!lua_isnoneornil(L, 3)) {
        pb_check_fields(L, 3, fields, 0);
        skip = pb_field_boolean(L, 3, "skip_special", false);
    }
    const int32_t *ids = pb_check_ids(L, 2, "ids", 0, &n);
    push_decoded(L, tokenizer, ids, n, skip);
    return 1;
}

static int tokenizer_token(lua_State *L) {
    pb_check_arity(L, 2);
    const pb_tokenizer *tokenizer = check_tokenizer(L, 1);
    size_t length;
    const char *text = pb_check_text(L, 2, "text", &length);
    int32_t id = -1;
    PB_LUA(L, pb_tokenizer_single(tokenizer, text, length, &id, pb_lua_error(L)));
    lua_pushinteger(L, id);
    return 1;
}

static int32_t check_id(lua_State *L, int index, const pb_tokenizer *tokenizer) {
    return (int32_t)pb_check_integer(L, index, "id", 0, pb_tokenizer_size(tokenizer) - 1);
}

static int tokenizer_piece(lua_State *L) {
    pb_check_arity(L, 2);
    const pb_tokenizer *tokenizer = check_tokenizer(L, 1);
    int32_t id = check_id(L, 2, tokenizer);
    size_t length = 0;
    pb_box *block = pb_new_block(L);
    char *text_block = NULL;
    PB_LUA(L, pb_tokenizer_piece(tokenizer, id, &text_block, &length, pb_lua_error(L)));
    block->object = text_block;
    lua_pushlstring(L, block->object, length);
    return 1;
}

static int tokenizer_label(lua_State *L) {
    pb_check_arity(L, 2);
    const pb_tokenizer *tokenizer = check_tokenizer(L, 1);
    push_token_label(L, tokenizer, check_id(L, 2, tokenizer));
    return 1;
}

/* The id of a token in the file's own spelling ("Ġ" for a space, "▁"), or nil. */
static int tokenizer_find(lua_State *L) {
    pb_check_arity(L, 2);
    int32_t id = pb_tokenizer_find(check_tokenizer(L, 1), pb_check_text(L, 2, "token", NULL));
    if (id < 0)
        lua_pushnil(L);
    else
        lua_pushinteger(L, id);
    return 1;
}

static int tokenizer_kind(lua_State *L) {
    lua_pushstring(L, pb_tokenizer_kind(check_tokenizer(L, 1)));
    return 1;
}

static int tokenizer_size(lua_State *L) {
    lua_pushinteger(L, pb_tokenizer_size(check_tokenizer(L, 1)));
    return 1;
}

static int push_id_or_nil(lua_State *L, int32_t id) {
    if (id < 0)
        lua_pushnil(L);
    else
        lua_pushinteger(L, id);
    return 1;
}

static int tokenizer_bos(lua_State *L) { return push_id_or_nil(L, pb_tokenizer_bos(check_tokenizer(L, 1))); }

static int tokenizer_eos(lua_State *L) { return push_id_or_nil(L, pb_tokenizer_eos(check_tokenizer(L, 1))); }

static int tokenizer_tostring(lua_State *L) {
    const pb_tokenizer *tokenizer = check_tokenizer(L, 1);
    lua_pushfstring(L, "tokenizer: %s, %d tokens", pb_tokenizer_kind(tokenizer), (int)pb_tokenizer_size(tokenizer));
    return 1;
}

static const luaL_Reg methods[] = {
    {"encode", tokenizer_encode},
    {"decode", tokenizer_decode},
    {"token", tokenizer_token},
    {"piece", tokenizer_piece},
    {"label", tokenizer_label},
    {"find", tokenizer_find},
    {NULL, NULL},
};

static const luaL_Reg properties[] = {
    {"kind", tokenizer_kind}, {"size", tokenizer_size}, {"bos", tokenizer_bos}, {"eos", tokenizer_eos}, {NULL, NULL},
};

static const luaL_Reg metamethods[] = {{"__tostring", tokenizer_tostring}, {NULL, NULL}};

const pb_class PB_TOKENIZER_CLASS = {
    .name = "tokenizer",
    .release = release_tokenizer,
    .methods = methods,
    .properties = properties,
    .metamethods = metamethods,
};

void pb_open_tokenizer(lua_State *L);

void pb_open_tokenizer(lua_State *L) {
    static const luaL_Reg functions[] = {{"tokenizer", open_tokenizer}, {NULL, NULL}};
    pb_class_open(L, &PB_TOKENIZER_CLASS);
    pb_add_functions(L, "", functions);
}
