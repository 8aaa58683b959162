/* JSON text and Lua values. Objects are tables, arrays are lists, null is pb.null (a list with nil in it would have a hole);
 * integers stay integers. Written: keys sorted, so that the same data gives the same bytes; tensors as nested arrays. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "host/private.h"

enum { JSON_DEPTH = 64 };

/* ---- boxes ------------------------------------------------------------------------------------------------------- */

static void release_strbuf(void *object) {
    pb_strbuf_free(object);
    pb_free(object);
}

static void release_json(void *object) { json_decref(object); }

const pb_class PB_STRBUF_CLASS = {.name = "text buffer", .release = release_strbuf};
const pb_class PB_JSON_CLASS = {.name = "json", .release = release_json};

pb_strbuf *pb_new_strbuf(lua_State *L) {
    pb_context *ctx = pb_host_context(L);
    pb_box *box = pb_box_new(L, &PB_STRBUF_CLASS, 0);
    pb_strbuf *buffer = pb_alloc(ctx, 1, sizeof *buffer);
    if (!buffer)
        pb_lua_raise(L, pb_fail_memory(pb_lua_error(L), ctx, sizeof *buffer, "a text"));
    pb_strbuf_init(buffer, ctx);
    box->object = buffer;
    return buffer;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static void push_value(lua_State *L, const json_t *value, const char *where, int depth) {
    if (depth > JSON_DEPTH)
        pb_lua_fail(L, "%s: JSON is nested more than %d deep", where, JSON_DEPTH);
    luaL_checkstack(L, 6, "reading JSON");
    switch (json_typeof(value)) {
    case JSON_OBJECT: {
        lua_createtable(L, 0, (int)json_object_size(value));
        const char *key;
        const json_t *item;
        void *at = json_object_iter((json_t *)value);
        for (; at; at = json_object_iter_next((json_t *)value, at)) {
            key = json_object_iter_key(at);
            item = json_object_iter_value(at);
            lua_pushstring(L, key);
            push_value(L, item, where, depth + 1);
            lua_rawset(L, -3);
        }
        break;
    }
    case JSON_ARRAY:
        lua_createtable(L, (int)json_array_size(value), 0);
        for (size_t i = 0; i < json_array_size(value); i++) {
            push_value(L, json_array_get(value, i), where, depth + 1);
            lua_rawseti(L, -2, (lua_Integer)i + 1);
        }
        break;
    case JSON_STRING:
        lua_pushlstring(L, json_string_value(value), json_string_length(value));
        break;
    case JSON_INTEGER:
        lua_pushinteger(L, json_integer_value(value));
        break;
    case JSON_REAL:
        lua_pushnumber(L, json_real_value(value));
        break;
    case JSON_TRUE:
        lua_pushboolean(L, 1);
        break;
    case JSON_FALSE:
        lua_pushboolean(L, 0);
        break;
    default:
        lua_pushlightuserdata(L, NULL);
        break;
    }
}

void pb_json_decode(lua_State *L, const char *text, size_t length, const char *where) {
    pb_box *box = pb_box_new(L, &PB_JSON_CLASS, 0);
    json_t *root = NULL;
    PB_LUA(L, pb_json_parse(text, length, where, &root, pb_lua_error(L)));
    box->object = root;
    push_value(L, root, where, 0);
    box->object = NULL;
    json_decref(root);
    lua_remove(L, -2);
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static void add_text(lua_State *L, pb_strbuf *out, const char *text, size_t length, const char *where) {
    json_t *check = json_stringn(text, length); /* NULL for what is not UTF-8 */
    if (!check)
        pb_lua_fail(L, "%s: JSON text is UTF-8, and this is not: '%s'", where, text);
    json_decref(check);
    pb_strbuf_add_char(out, '"');
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '"' || c == '\\')
            pb_strbuf_printf(out, "\\%c", c);
        else if (c == '\n')
            pb_strbuf_add(out, "\\n");
        else if (c == '\t')
            pb_strbuf_add(out, "\\t");
        else if (c < 0x20 || c == 0x7f)
            pb_strbuf_printf(out, "\\u%04x", c);
        else
            pb_strbuf_add_char(out, (char)c);
    }
    pb_strbuf_add_char(out, '"');
}

/* The shortest of %.15g, %.16g, %.17g (%.7g to %.9g for a tensor's floats) that reads back as the same number. */
static void add_number(lua_State *L, pb_strbuf *out, double value, bool single, const char *where) {
    if (!isfinite(value))
        pb_lua_fail(L, "%s: JSON has no %s", where, isnan(value) ? "NaN" : "infinity");
    char text[40];
    for (int digits = single ? 7 : 15; digits <= 17; digits++) {
        pb_number_text(value, digits, text, sizeof text);
        double back = strtod(text, NULL);
        if (single ? (float)back == (float)value : back == value)
            break;
    }
    pb_strbuf_add(out, text);
}

static void add_tensor(lua_State *L, pb_strbuf *out, const pb_tensor *t, int axis, int64_t offset, const char *where) {
    if (axis == pb_tensor_ndim(t)) {
        if (pb_tensor_dtype(t) == PB_I32)
            pb_strbuf_printf(out, "%d", (int)pb_tensor_ints(t)[offset]);
        else
            add_number(L, out, (double)pb_tensor_floats(t)[offset], true, where);
        return;
    }
    pb_strbuf_add_char(out, '[');
    for (int64_t i = 0; i < pb_tensor_shape(t)[axis]; i++) {
        if (i)
            pb_strbuf_add(out, ", ");
        add_tensor(L, out, t, axis + 1, offset + i * pb_tensor_strides(t)[axis], where);
    }
    pb_strbuf_add_char(out, ']');
}

static int compare_texts(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void add_value(lua_State *L, pb_strbuf *out, int index, int depth, const char *where);

static void add_indent(pb_strbuf *out, int depth) {
    pb_strbuf_add_char(out, '\n');
    for (int i = 0; i < depth; i++)
        pb_strbuf_add(out, "  ");
}

static void add_object(lua_State *L, pb_strbuf *out, int index, size_t count, int depth, const char *where) {
    const char **keys = pb_lua_scratch(L, count, sizeof *keys);
    size_t n = 0;
    lua_pushnil(L);
    while (lua_next(L, index)) {
        lua_pop(L, 1);
        keys[n++] = lua_tostring(L, -1); /* the table keeps them alive */
    }
    qsort(keys, n, sizeof *keys, compare_texts);
    pb_strbuf_add_char(out, '{');
    for (size_t i = 0; i < n; i++) {
        if (i)
            pb_strbuf_add_char(out, ',');
        add_indent(out, depth + 1);
        add_text(L, out, keys[i], strlen(keys[i]), where);
        pb_strbuf_add(out, ": ");
        lua_getfield(L, index, keys[i]);
        add_value(L, out, lua_gettop(L), depth + 1, where);
        lua_pop(L, 1);
    }
    add_indent(out, depth);
    pb_strbuf_add_char(out, '}');
    lua_pop(L, 1);
}

static void add_table(lua_State *L, pb_strbuf *out, int index, int depth, const char *where) {
    size_t list = 0, object = 0, length = lua_rawlen(L, index);
    lua_pushnil(L);
    while (lua_next(L, index)) {
        lua_pop(L, 1);
        if (lua_isinteger(L, -1) && lua_tointeger(L, -1) >= 1 && (size_t)lua_tointeger(L, -1) <= length)
            list++;
        else if (lua_type(L, -1) == LUA_TSTRING && strlen(lua_tostring(L, -1)) == lua_rawlen(L, -1))
            object++;
        else
            pb_lua_fail(L, "%s: JSON has no place for %s as a key", where, pb_describe(L, -1));
    }
    if (list != length || (list && object))
        pb_lua_fail(L,
                    "%s: a table is a list or has names for JSON, not both (or a list with a hole; pb.null fills it)",
                    where);
    if (object) {
        add_object(L, out, index, object, depth, where);
        return;
    }
    pb_strbuf_add_char(out, '[');
    for (size_t i = 1; i <= length; i++) {
        if (i > 1)
            pb_strbuf_add(out, ", ");
        lua_rawgeti(L, index, (lua_Integer)i);
        add_value(L, out, lua_gettop(L), depth + 1, where);
        lua_pop(L, 1);
    }
    pb_strbuf_add_char(out, ']');
}

static void add_value(lua_State *L, pb_strbuf *out, int index, int depth, const char *where) {
    if (depth > JSON_DEPTH)
        pb_lua_fail(L, "%s: tables are nested more than %d deep (or contain themselves)", where, JSON_DEPTH);
    luaL_checkstack(L, 8, "writing JSON");
    size_t length;
    switch (lua_type(L, index)) {
    case LUA_TBOOLEAN:
        pb_strbuf_add(out, lua_toboolean(L, index) ? "true" : "false");
        return;
    case LUA_TNUMBER:
        if (lua_isinteger(L, index))
            pb_strbuf_printf(out, "%lld", (long long)lua_tointeger(L, index));
        else
            add_number(L, out, lua_tonumber(L, index), false, where);
        return;
    case LUA_TSTRING: {
        const char *text = lua_tolstring(L, index, &length);
        add_text(L, out, text, length, where);
        return;
    }
    case LUA_TTABLE:
        add_table(L, out, index, depth, where);
        return;
    case LUA_TLIGHTUSERDATA:
        pb_strbuf_add(out, "null");
        return;
    default:
        if (pb_is_box(L, index, &PB_TENSOR_CLASS)) {
            add_tensor(L, out, pb_check_tensor(L, index), 0, 0, where);
            return;
        }
        pb_lua_fail(L, "%s: JSON has no place for %s", where, pb_describe(L, index));
    }
}

void pb_json_encode(lua_State *L, int index, const char *where) {
    index = lua_absindex(L, index);
    pb_strbuf *out = pb_new_strbuf(L);
    add_value(L, out, index, 0, where);
    if (out->failed)
        pb_lua_raise(L, pb_fail_memory(pb_lua_error(L), pb_host_context(L), out->capacity * 2, "JSON text"));
    lua_pushlstring(L, out->text ? out->text : "", out->length);
    lua_remove(L, -2);
}
