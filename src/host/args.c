/* Arguments: strict checks with messages that name the function, the argument, what came and what was expected. */
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/suggest.h"
#include "host/private.h"

/* ---- what is there ----------------------------------------------------------------------------------------------- */

const char *pb_describe(lua_State *L, int index) {
    index = lua_absindex(L, index);
    luaL_checkstack(L, 6, "describing a value");
    switch (lua_type(L, index)) {
    case LUA_TNONE:
        return lua_pushliteral(L, "nothing");
    case LUA_TNIL:
        return lua_pushliteral(L, "nil");
    case LUA_TBOOLEAN:
        return lua_pushstring(L, lua_toboolean(L, index) ? "true" : "false");
    case LUA_TNUMBER:
        if (lua_isinteger(L, index))
            return lua_pushfstring(L, "the number %I", (LUAI_UACINT)lua_tointeger(L, index));
        return lua_pushfstring(L, "the number %f", lua_tonumber(L, index));
    case LUA_TSTRING: {
        size_t length;
        const char *text = lua_tolstring(L, index, &length);
        if (length <= 40)
            return lua_pushfstring(L, "the text '%s'", text);
        lua_pushliteral(L, "the text '");
        lua_pushlstring(L, text, 36);
        lua_pushliteral(L, "...'");
        lua_concat(L, 3);
        return lua_tostring(L, -1);
    }
    case LUA_TTABLE: {
        lua_Unsigned n = lua_rawlen(L, index);
        return n ? lua_pushfstring(L, "a list of %I", (LUAI_UACINT)n) : lua_pushliteral(L, "a table");
    }
    case LUA_TUSERDATA:
        if (pb_is_box(L, index, &PB_TENSOR_CLASS)) {
            const pb_box *box = lua_touserdata(L, index);
            if (box->object) {
                char shape[128];
                pb_tensor *t = box->object;
                pb_shape_text(pb_tensor_ndim(t), pb_tensor_shape(t), shape, sizeof shape);
                return lua_pushfstring(L, "a tensor %s %s", shape, pb_tensor_dtype(t) == PB_F32 ? "float32" : "int32");
            }
        }
        if (luaL_getmetafield(L, index, "__name") == LUA_TSTRING) {
            const char *text = lua_pushfstring(L, "a %s", lua_tostring(L, -1));
            lua_remove(L, -2);
            return text;
        }
        return lua_pushliteral(L, "a userdata");
    default:
        return lua_pushfstring(L, "a %s", luaL_typename(L, index));
    }
}

/* The key of table (on top) under which the value at index f is, pushed; false and nothing pushed if it is not there. The table
 * stays. */
static bool push_key_of(lua_State *L, int f) {
    lua_pushnil(L);
    while (lua_next(L, -2)) {
        bool same = lua_rawequal(L, -1, f) == 1 && lua_type(L, -2) == LUA_TSTRING;
        lua_pop(L, 1);
        if (same)
            return true;
    }
    return false;
}

/* The table behind a sealed proxy at the top, or the table itself, takes its place. False: no table; then nothing is left. */
static bool open_table(lua_State *L) {
    if (lua_type(L, -1) == LUA_TTABLE) {
        pb_sandbox_unseal(L, lua_gettop(L));
        if (lua_type(L, -1) == LUA_TTABLE)
            lua_remove(L, -2);
        else
            lua_pop(L, 1);
        return true;
    }
    lua_pop(L, 1);
    return false;
}

/* "pb.zeros" or "pb.metric.prob" of a function of pb. */
static bool find_in_pb(lua_State *L, int f, char *buffer, size_t size) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &PB_KEY_PB);
    if (!open_table(L))
        return false;
    if (push_key_of(L, f)) {
        snprintf(buffer, size, "pb.%s", lua_tostring(L, -1));
        return true;
    }
    int pb = lua_gettop(L);
    for (lua_pushnil(L); lua_next(L, pb); lua_settop(L, pb + 1)) { /* pb.metric, ... */
        if (lua_type(L, -2) == LUA_TSTRING && open_table(L) && push_key_of(L, f)) {
            snprintf(buffer, size, "pb.%s.%s", lua_tostring(L, pb + 1), lua_tostring(L, -1));
            return true;
        }
    }
    return false;
}

/* "tensor:select" of a method. */
static bool find_in_classes(lua_State *L, int f, char *buffer, size_t size) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &PB_KEY_CLASSES);
    int classes = lua_gettop(L);
    for (lua_pushnil(L); lua_next(L, classes); lua_settop(L, classes + 1)) {
        if (lua_type(L, -1) != LUA_TLIGHTUSERDATA)
            continue;
        pb_class_push_methods(L, lua_touserdata(L, -1));
        if (push_key_of(L, f)) {
            snprintf(buffer, size, "%s:%s", lua_tostring(L, classes + 1), lua_tostring(L, -1));
            return true;
        }
    }
    return false;
}

/* The name of the C function that is running, as its caller wrote it: "select", "pb.zeros". After a tail call Lua does not know
 * how it was called: then it is the name that it has in pb or as a method. */
static const char *function_name(lua_State *L, char *buffer, size_t size) {
    lua_Debug ar;
    if (!lua_getstack(L, 0, &ar))
        return "?";
    lua_getinfo(L, "nf", &ar);
    int f = lua_gettop(L);
    snprintf(buffer, size, "%s", ar.name ? ar.name : "this function");
    if (ar.namewhat && strcmp(ar.namewhat, "metamethod") == 0)
        snprintf(buffer, size, "the operator '%s'", ar.name ? ar.name : "?");
    else if (!ar.name) {
        luaL_checkstack(L, 12, "looking for a function's name");
        if (!find_in_pb(L, f, buffer, size)) {
            lua_settop(L, f);
            (void)find_in_classes(L, f, buffer, size);
        }
    }
    lua_settop(L, f - 1);
    return buffer;
}

_Noreturn void pb_bad_argument(lua_State *L, const char *name, const char *format, ...) {
    char function[80];
    function_name(L, function, sizeof function);
    pb_error *err = pb_lua_error(L);
    va_list args;
    va_start(args, format);
    pb_failv(err, PB_ERR_ARGUMENT, format, args);
    va_end(args);
    pb_error_prefix(err, PB_ERR_ARGUMENT, "%s: '%s' ", function, name);
    pb_lua_raise(L, PB_ERR_ARGUMENT);
}

void pb_check_arity(lua_State *L, int most) {
    int given = lua_gettop(L);
    if (given <= most)
        return;
    char function[80];
    function_name(L, function, sizeof function);
    pb_lua_fail(L, "%s takes at most %d argument%s (an object before a colon counts), got %d", function, most,
                most == 1 ? "" : "s", given);
}

/* ---- single values ----------------------------------------------------------------------------------------------- */

lua_Number pb_check_number(lua_State *L, int index, const char *name) {
    if (lua_type(L, index) != LUA_TNUMBER)
        pb_bad_argument(L, name, "must be a number, got %s", pb_describe(L, index));
    return lua_tonumber(L, index);
}

lua_Integer pb_check_integer(lua_State *L, int index, const char *name, lua_Integer low, lua_Integer high) {
    int exact = 0;
    lua_Integer value = lua_type(L, index) == LUA_TNUMBER ? lua_tointegerx(L, index, &exact) : 0;
    if (!exact)
        pb_bad_argument(L, name, "must be an integer, got %s", pb_describe(L, index));
    if (value < low || value > high) {
        if (high == LUA_MAXINTEGER)
            pb_bad_argument(L, name, "must be at least %lld, got %lld", (long long)low, (long long)value);
        pb_bad_argument(L, name, "must be from %lld to %lld, got %lld", (long long)low, (long long)high,
                        (long long)value);
    }
    return value;
}

const char *pb_check_text(lua_State *L, int index, const char *name, size_t *length) {
    if (lua_type(L, index) != LUA_TSTRING)
        pb_bad_argument(L, name, "must be text, got %s", pb_describe(L, index));
    size_t n;
    const char *text = lua_tolstring(L, index, &n);
    if (length)
        *length = n;
    else if (strlen(text) != n)
        pb_bad_argument(L, name, "must not have a zero byte in it");
    return text;
}

bool pb_check_boolean(lua_State *L, int index, const char *name) {
    if (lua_type(L, index) != LUA_TBOOLEAN)
        pb_bad_argument(L, name, "must be true or false, got %s", pb_describe(L, index));
    return lua_toboolean(L, index);
}

/* "'a', 'b' or 'c'" */
static void list_words(const char *const *words, char *buffer, size_t size) {
    size_t used = 0;
    buffer[0] = '\0';
    for (size_t i = 0; words[i] && used + 4 < size; i++) {
        const char *before = i == 0 ? "" : words[i + 1] ? ", " : " or ";
        int n = snprintf(buffer + used, size - used, "%s'%s'", before, words[i]);
        used += n > 0 ? (size_t)n : 0;
    }
}

int pb_check_word(lua_State *L, int index, const char *name, const char *const *words, int fallback) {
    if (lua_isnoneornil(L, index) && fallback >= 0)
        return fallback;
    if (lua_type(L, index) == LUA_TSTRING) {
        const char *text = lua_tostring(L, index);
        for (int i = 0; words[i]; i++)
            if (strcmp(words[i], text) == 0)
                return i;
    }
    char list[512];
    list_words(words, list, sizeof list);
    pb_bad_argument(L, name, "must be %s, got %s", list, pb_describe(L, index));
}

int64_t pb_check_coordinate(lua_State *L, int index, const char *name, int64_t extent) {
    lua_Integer i = pb_check_integer(L, index, name, LUA_MININTEGER, LUA_MAXINTEGER);
    if (i < -extent || i >= extent)
        pb_bad_argument(L, name, "is %lld, out of range: there are %lld (0 to %lld, or -1 for the last)", (long long)i,
                        (long long)extent, (long long)extent - 1);
    return i < 0 ? i + extent : i;
}

/* ---- named arguments --------------------------------------------------------------------------------------------- */

static void check_table(lua_State *L, int index) {
    if (lua_type(L, index) != LUA_TTABLE) {
        char function[80];
        function_name(L, function, sizeof function);
        pb_lua_fail(L, "%s takes a table of named arguments, like %s { name = value }; got %s", function, function,
                    pb_describe(L, index));
    }
}

_Noreturn static void unknown_field(lua_State *L, int key, const char *const *fields) {
    char function[80], list[1024];
    function_name(L, function, sizeof function);
    list_words(fields, list, sizeof list);
    if (lua_type(L, key) != LUA_TSTRING)
        pb_lua_fail(L, "%s: the table of arguments has %s as a key; known are %s", function, pb_describe(L, key), list);
    const char *word = lua_tostring(L, key);
    size_t n = 0;
    while (fields[n])
        n++;
    const char *best = pb_suggest(word, fields, n);
    if (best)
        pb_lua_fail(L, "%s: unknown field '%s'; did you mean '%s'?", function, word, best);
    pb_lua_fail(L, "%s: unknown field '%s'; known are %s", function, word, list);
}

void pb_check_fields(lua_State *L, int index, const char *const *fields, int positional) {
    index = lua_absindex(L, index);
    check_table(L, index);
    luaL_checkstack(L, 8, "reading arguments");
    lua_pushnil(L);
    while (lua_next(L, index)) {
        lua_pop(L, 1);
        if (lua_isinteger(L, -1) && lua_tointeger(L, -1) >= 1 && lua_tointeger(L, -1) <= positional)
            continue;
        bool known = false;
        if (lua_type(L, -1) == LUA_TSTRING) {
            const char *key = lua_tostring(L, -1);
            for (size_t i = 0; fields[i] && !known; i++)
                known = strcmp(fields[i], key) == 0;
        }
        if (!known)
            unknown_field(L, lua_gettop(L), fields);
    }
}

int pb_push_field(lua_State *L, int index, const char *field) {
    index = lua_absindex(L, index);
    luaL_checkstack(L, 4, "reading arguments");
    lua_pushstring(L, field);
    return lua_rawget(L, index);
}

bool pb_has_field(lua_State *L, int index, const char *field) {
    bool there = pb_push_field(L, index, field) != LUA_TNIL;
    lua_pop(L, 1);
    return there;
}

lua_Number pb_field_number(lua_State *L, int index, const char *field, lua_Number fallback) {
    lua_Number value = fallback;
    if (pb_push_field(L, index, field) != LUA_TNIL)
        value = pb_check_number(L, -1, field);
    lua_pop(L, 1);
    return value;
}

lua_Integer pb_field_integer(lua_State *L, int index, const char *field, lua_Integer fallback, lua_Integer low,
                             lua_Integer high) {
    lua_Integer value = fallback;
    if (pb_push_field(L, index, field) != LUA_TNIL)
        value = pb_check_integer(L, -1, field, low, high);
    lua_pop(L, 1);
    return value;
}

bool pb_field_boolean(lua_State *L, int index, const char *field, bool fallback) {
    bool value = fallback;
    if (pb_push_field(L, index, field) != LUA_TNIL)
        value = pb_check_boolean(L, -1, field);
    lua_pop(L, 1);
    return value;
}

int pb_field_word(lua_State *L, int index, const char *field, const char *const *words, int fallback) {
    pb_push_field(L, index, field);
    int place = pb_check_word(L, -1, field, words, fallback);
    lua_pop(L, 1);
    return place;
}

const char *pb_field_text(lua_State *L, int index, const char *field) {
    const char *text = NULL;
    if (pb_push_field(L, index, field) != LUA_TNIL)
        text = pb_check_text(L, -1, field, NULL);
    lua_pop(L, 1); /* the table keeps the text alive */
    return text;
}

/* ---- lists of coordinates ---------------------------------------------------------------------------------------- */

static int32_t checked_item(lua_State *L, int index, const char *name, int64_t extent) {
    if (extent >= 0)
        return (int32_t)pb_check_coordinate(L, index, name, extent);
    return (int32_t)pb_check_integer(L, index, name, INT32_MIN, INT32_MAX);
}

static void refuse_duplicates(lua_State *L, const int32_t *items, size_t n, const char *name) {
    /* Choices are short (a few hundred at most in practice); large ones are sorted copies. */
    if (n < 64) {
        for (size_t i = 1; i < n; i++)
            for (size_t j = 0; j < i; j++)
                if (items[i] == items[j])
                    pb_bad_argument(L, name, "has %d twice", (int)items[i]);
        return;
    }
    lua_createtable(L, 0, n < INT_MAX ? (int)n : 0);
    for (size_t i = 0; i < n; i++) {
        if (lua_rawgeti(L, -1, items[i]) != LUA_TNIL)
            pb_bad_argument(L, name, "has %d twice", (int)items[i]);
        lua_pop(L, 1);
        lua_pushboolean(L, 1);
        lua_rawseti(L, -2, items[i]);
    }
    lua_pop(L, 1);
}

pb_choice pb_check_choice(lua_State *L, int index, const char *name, int64_t extent) {
    index = lua_absindex(L, index);
    luaL_checkstack(L, 8, "reading coordinates");
    pb_choice choice = {false, 0, NULL};
    if (lua_isnoneornil(L, index) ||
        (lua_type(L, index) == LUA_TSTRING && strcmp(lua_tostring(L, index), "all") == 0)) {
        lua_pushnil(L);
        return choice;
    }
    choice.listed = true;
    if (lua_type(L, index) == LUA_TNUMBER) {
        int32_t item = checked_item(L, index, name, extent);
        int32_t *items = pb_lua_scratch(L, 1, sizeof *items);
        items[0] = item;
        choice.n = 1;
        choice.items = items;
        return choice;
    }
    if (lua_type(L, index) != LUA_TTABLE)
        pb_bad_argument(L, name, "must be a number, a list of numbers or \"all\", got %s", pb_describe(L, index));
    choice.n = lua_rawlen(L, index);
    if (choice.n == 0)
        pb_bad_argument(L, name, "is an empty list: nothing is chosen");
    int32_t *items = pb_lua_scratch(L, choice.n, sizeof *items);
    for (size_t i = 0; i < choice.n; i++) {
        lua_rawgeti(L, index, (lua_Integer)i + 1);
        items[i] = checked_item(L, -1, name, extent);
        lua_pop(L, 1);
    }
    refuse_duplicates(L, items, choice.n, name);
    choice.items = items;
    return choice;
}

pb_choice pb_field_choice(lua_State *L, int index, const char *field, int64_t extent) {
    pb_push_field(L, index, field);
    pb_choice choice = pb_check_choice(L, -1, field, extent);
    lua_remove(L, -2);
    return choice;
}

int32_t *pb_check_ids(lua_State *L, int index, const char *name, int32_t low, size_t *n) {
    index = lua_absindex(L, index);
    luaL_checkstack(L, 8, "reading a list");
    if (lua_type(L, index) != LUA_TTABLE)
        pb_bad_argument(L, name, "must be a list of integers, got %s", pb_describe(L, index));
    *n = lua_rawlen(L, index);
    int32_t *ids = pb_lua_scratch(L, *n ? *n : 1, sizeof *ids);
    for (size_t i = 0; i < *n; i++) {
        lua_rawgeti(L, index, (lua_Integer)i + 1);
        ids[i] = (int32_t)pb_check_integer(L, -1, name, low, INT32_MAX);
        lua_pop(L, 1);
    }
    return ids;
}
