/* The tensor class in Lua: looking at a tensor, views and copies. Making: bind_tensor_make.c; arithmetic, reductions and
 * linear algebra: bind_tensor_math.c. Indices are 0-based, negative ones count from the end; tables are 1-based. */
#include <limits.h>
#include <string.h>

#include "host/private.h"

static void release_tensor(void *object) { pb_tensor_unref(object); }

pb_tensor *pb_check_tensor(lua_State *L, int index) { return pb_check_box(L, index, &PB_TENSOR_CLASS); }

pb_tensor *pb_to_tensor(lua_State *L, int index) { return pb_to_box(L, index, &PB_TENSOR_CLASS); }

pb_box *pb_new_tensor(lua_State *L) { return pb_box_new(L, &PB_TENSOR_CLASS, 0); }

void pb_fill_tensor(lua_State *L, pb_box *box, pb_tensor *t) {
    box->object = t;
    pb_lua_charge(L, pb_tensor_bytes(t));
}

/* A view holds no memory of its own. */
static int filled_view(pb_box *box, pb_tensor *t) {
    box->object = t;
    return 1;
}

/* ---- looking ----------------------------------------------------------------------------------------------------- */

static int get_shape(lua_State *L) {
    const pb_tensor *t = pb_check_tensor(L, 1);
    int ndim = pb_tensor_ndim(t);
    lua_createtable(L, ndim, 0);
    for (int i = 0; i < ndim; i++) {
        lua_pushinteger(L, pb_tensor_shape(t)[i]);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

static int get_ndim(lua_State *L) {
    lua_pushinteger(L, pb_tensor_ndim(pb_check_tensor(L, 1)));
    return 1;
}

static int get_count(lua_State *L) {
    lua_pushinteger(L, pb_tensor_count(pb_check_tensor(L, 1)));
    return 1;
}

static int get_dtype(lua_State *L) {
    lua_pushstring(L, pb_tensor_dtype(pb_check_tensor(L, 1)) == PB_F32 ? "float32" : "int32");
    return 1;
}

static int get_is_contiguous(lua_State *L) {
    lua_pushboolean(L, pb_tensor_contiguous(pb_check_tensor(L, 1)));
    return 1;
}

/* Indices in arguments first .. first + ndim - 1. */
static int check_indices(lua_State *L, const pb_tensor *t, int first, int count, int64_t index[PB_MAX_DIMS]) {
    int ndim = pb_tensor_ndim(t);
    if (count != ndim) {
        char shape[128];
        pb_shape_text(ndim, pb_tensor_shape(t), shape, sizeof shape);
        pb_lua_fail(L, "a tensor %s needs %d ind%s, got %d (t:select(axis, index) gives a part of it)", shape, ndim,
                    ndim == 1 ? "ex" : "ices", count);
    }
    for (int i = 0; i < ndim; i++)
        index[i] = pb_check_coordinate(L, first + i, "index", pb_tensor_shape(t)[i]);
    return ndim;
}

static void push_element(lua_State *L, const pb_tensor *t, double value) {
    if (pb_tensor_dtype(t) == PB_I32)
        lua_pushinteger(L, (lua_Integer)value);
    else
        lua_pushnumber(L, value);
}

static int tensor_get(lua_State *L) {
    const pb_tensor *t = pb_check_tensor(L, 1);
    int64_t index[PB_MAX_DIMS];
    int n = check_indices(L, t, 2, lua_gettop(L) - 1, index);
    double value = 0;
    PB_LUA(L, pb_tensor_get(t, n, index, &value, pb_lua_error(L)));
    push_element(L, t, value);
    return 1;
}

static int tensor_set(lua_State *L) {
    pb_tensor *t = pb_check_tensor(L, 1);
    int64_t index[PB_MAX_DIMS];
    int count = lua_gettop(L) - 2;
    if (count < 0)
        pb_lua_fail(L, "t:set(i, j, ..., value) needs a value");
    int n = check_indices(L, t, 2, count, index);
    double value = pb_check_number(L, n + 2, "value");
    PB_LUA(L, pb_tensor_set(t, n, index, value, pb_lua_error(L)));
    lua_settop(L, 1);
    return 1;
}

static int tensor_item(lua_State *L) {
    pb_check_arity(L, 1);
    const pb_tensor *t = pb_check_tensor(L, 1);
    double value = 0;
    PB_LUA(L, pb_tensor_item(t, &value, pb_lua_error(L)));
    push_element(L, t, value);
    return 1;
}

/* Element at a place in the storage, counted from the first one. */
static void push_at(lua_State *L, const pb_tensor *t, int64_t offset) {
    if (pb_tensor_dtype(t) == PB_I32)
        lua_pushinteger(L, pb_tensor_ints(t)[offset]);
    else
        lua_pushnumber(L, (lua_Number)pb_tensor_floats(t)[offset]);
}

static void push_nested(lua_State *L, const pb_tensor *t, int axis, int64_t offset) {
    if (axis == pb_tensor_ndim(t)) {
        push_at(L, t, offset);
        return;
    }
    luaL_checkstack(L, 4, "a table of a tensor");
    int64_t n = pb_tensor_shape(t)[axis], stride = pb_tensor_strides(t)[axis];
    lua_createtable(L, n < INT_MAX ? (int)n : 0, 0);
    for (int64_t i = 0; i < n; i++) {
        push_nested(L, t, axis + 1, offset + i * stride);
        lua_rawseti(L, -2, i + 1);
    }
}

static int tensor_totable(lua_State *L) {
    pb_check_arity(L, 1);
    push_nested(L, pb_check_tensor(L, 1), 0, 0);
    return 1;
}

static void append_flat(lua_State *L, const pb_tensor *t, int axis, int64_t offset, lua_Integer *next) {
    if (axis == pb_tensor_ndim(t)) {
        push_at(L, t, offset);
        lua_rawseti(L, -2, (*next)++);
        return;
    }
    for (int64_t i = 0; i < pb_tensor_shape(t)[axis]; i++)
        append_flat(L, t, axis + 1, offset + i * pb_tensor_strides(t)[axis], next);
}

static int tensor_tolist(lua_State *L) {
    pb_check_arity(L, 1);
    const pb_tensor *t = pb_check_tensor(L, 1);
    int64_t count = pb_tensor_count(t);
    lua_createtable(L, count < INT_MAX ? (int)count : 0, 0);
    lua_Integer next = 1;
    append_flat(L, t, 0, 0, &next);
    return 1;
}

static int tensor_text(lua_State *L) {
    const pb_box *closed = lua_touserdata(L, 1);
    if (pb_is_box(L, 1, &PB_TENSOR_CLASS) && !closed->object) {
        lua_pushliteral(L, "tensor (closed)");
        return 1;
    }
    const pb_tensor *t = pb_check_tensor(L, 1);
    pb_box *block = pb_box_new(L, &PB_MEMORY_CLASS, 0);
    char *text = NULL;
    PB_LUA(L, pb_tensor_print(t, &text, pb_lua_error(L)));
    block->object = text;
    lua_pushstring(L, text);
    return 1;
}

static int tensor_length(lua_State *L) {
    const pb_tensor *t = pb_check_tensor(L, 1);
    if (pb_tensor_ndim(t) == 0)
        pb_lua_fail(L, "a scalar has no length");
    lua_pushinteger(L, pb_tensor_shape(t)[0]);
    return 1;
}

static int tensor_max_difference(lua_State *L) {
    pb_check_arity(L, 2);
    const pb_tensor *a = pb_check_tensor(L, 1), *b = pb_check_tensor(L, 2);
    double absolute = 0, relative = 0;
    PB_LUA(L, pb_tensor_max_difference(a, b, &absolute, &relative, pb_lua_error(L)));
    lua_pushnumber(L, absolute);
    lua_pushnumber(L, relative);
    return 2;
}

static int tensor_nonfinite(lua_State *L) {
    pb_check_arity(L, 1);
    int64_t first = -1;
    lua_pushinteger(L, pb_tensor_count_nonfinite(pb_check_tensor(L, 1), &first));
    if (first < 0)
        return 1;
    lua_pushinteger(L, first);
    return 2;
}

/* ---- views ------------------------------------------------------------------------------------------------------- */

static int64_t check_size(lua_State *L, int index, const char *name) {
    return pb_check_integer(L, index, name, INT64_MIN, INT64_MAX);
}

static int check_axis(lua_State *L, int index, const char *name) {
    return (int)pb_check_integer(L, index, name, -PB_MAX_DIMS, PB_MAX_DIMS);
}

static int tensor_select(lua_State *L) {
    pb_check_arity(L, 3);
    const pb_tensor *t = pb_check_tensor(L, 1);
    int axis = check_axis(L, 2, "axis");
    int64_t index = check_size(L, 3, "index");
    pb_box *box = pb_new_tensor(L);
    pb_tensor *view = NULL;
    PB_LUA(L, pb_tensor_select(t, axis, index, &view, pb_lua_error(L)));
    return filled_view(box, view);
}

static int tensor_narrow(lua_State *L) {
    pb_check_arity(L, 4);
    const pb_tensor *t = pb_check_tensor(L, 1);
    int axis = check_axis(L, 2, "axis");
    int64_t start = check_size(L, 3, "start"), length = check_size(L, 4, "length");
    pb_box *box = pb_new_tensor(L);
    pb_tensor *view = NULL;
    PB_LUA(L, pb_tensor_narrow(t, axis, start, length, &view, pb_lua_error(L)));
    return filled_view(box, view);
}

static int tensor_transpose(lua_State *L) {
    pb_check_arity(L, 3);
    const pb_tensor *t = pb_check_tensor(L, 1);
    int a = lua_isnoneornil(L, 2) ? -2 : check_axis(L, 2, "axis_a");
    int b = lua_isnoneornil(L, 3) ? -1 : check_axis(L, 3, "axis_b");
    pb_box *box = pb_new_tensor(L);
    pb_tensor *view = NULL;
    PB_LUA(L, pb_tensor_transpose(t, a, b, &view, pb_lua_error(L)));
    return filled_view(box, view);
}

int pb_check_shape(lua_State *L, int first, int64_t shape[PB_MAX_DIMS], bool allow_inferred) {
    bool list = lua_type(L, first) == LUA_TTABLE;
    if (list)
        pb_check_arity(L, first);
    lua_Unsigned n = list ? lua_rawlen(L, first) : (lua_Unsigned)(lua_gettop(L) - first + 1);
    if (n > PB_MAX_DIMS)
        pb_lua_fail(L, "a tensor has at most %d axes, got %d lengths", PB_MAX_DIMS, (int)n);
    for (int i = 0; i < (int)n; i++) {
        if (list)
            lua_rawgeti(L, first, i + 1);
        shape[i] = pb_check_integer(L, list ? -1 : first + i, "shape", allow_inferred ? -1 : 0, INT64_MAX);
        if (list)
            lua_pop(L, 1);
    }
    return (int)n;
}

static int tensor_reshape(lua_State *L) {
    const pb_tensor *t = pb_check_tensor(L, 1);
    int64_t shape[PB_MAX_DIMS];
    int ndim = pb_check_shape(L, 2, shape, true);
    pb_box *box = pb_new_tensor(L);
    pb_tensor *view = NULL;
    PB_LUA(L, pb_tensor_reshape(t, ndim, shape, &view, pb_lua_error(L)));
    return filled_view(box, view);
}

static int tensor_expand(lua_State *L) {
    const pb_tensor *t = pb_check_tensor(L, 1);
    int64_t shape[PB_MAX_DIMS];
    int ndim = pb_check_shape(L, 2, shape, false);
    pb_box *box = pb_new_tensor(L);
    pb_tensor *view = NULL;
    PB_LUA(L, pb_tensor_expand(t, ndim, shape, &view, pb_lua_error(L)));
    return filled_view(box, view);
}

static int tensor_unsqueeze(lua_State *L) {
    pb_check_arity(L, 2);
    const pb_tensor *t = pb_check_tensor(L, 1);
    int axis = check_axis(L, 2, "axis");
    pb_box *box = pb_new_tensor(L);
    pb_tensor *view = NULL;
    PB_LUA(L, pb_tensor_unsqueeze(t, axis, &view, pb_lua_error(L)));
    return filled_view(box, view);
}

static int tensor_squeeze(lua_State *L) {
    pb_check_arity(L, 2);
    const pb_tensor *t = pb_check_tensor(L, 1);
    int axis = check_axis(L, 2, "axis");
    pb_box *box = pb_new_tensor(L);
    pb_tensor *view = NULL;
    PB_LUA(L, pb_tensor_squeeze(t, axis, &view, pb_lua_error(L)));
    return filled_view(box, view);
}

/* ---- copies ------------------------------------------------------------------------------------------------------ */

static int tensor_clone(lua_State *L) {
    pb_check_arity(L, 1);
    const pb_tensor *t = pb_check_tensor(L, 1);
    pb_box *box = pb_new_tensor(L);
    pb_tensor *copy = NULL;
    PB_LUA(L, pb_tensor_clone(t, &copy, pb_lua_error(L)));
    pb_fill_tensor(L, box, copy);
    return 1;
}

static int tensor_contiguous(lua_State *L) {
    pb_check_arity(L, 1);
    const pb_tensor *t = pb_check_tensor(L, 1);
    if (pb_tensor_contiguous(t))
        return 1;
    pb_box *box = pb_new_tensor(L);
    pb_tensor *copy = NULL;
    PB_LUA(L, pb_tensor_make_contiguous(t, &copy, pb_lua_error(L)));
    pb_fill_tensor(L, box, copy);
    return 1;
}

static int tensor_cast(lua_State *L) {
    static const char *const types[] = {"float32", "int32", NULL};
    pb_check_arity(L, 2);
    const pb_tensor *t = pb_check_tensor(L, 1);
    pb_dtype dtype = pb_check_word(L, 2, "dtype", types, -1) == 0 ? PB_F32 : PB_I32;
    pb_box *box = pb_new_tensor(L);
    pb_tensor *copy = NULL;
    PB_LUA(L, pb_tensor_cast(t, dtype, &copy, pb_lua_error(L)));
    pb_fill_tensor(L, box, copy);
    return 1;
}

/* Items of a list of integers or of an int32 tensor [n], as 64-bit numbers; pushes their memory. */
static const int64_t *check_positions(lua_State *L, int index, int64_t *n) {
    const pb_tensor *t = pb_to_tensor(L, index);
    if (t) {
        if (pb_tensor_dtype(t) != PB_I32 || pb_tensor_ndim(t) != 1)
            pb_bad_argument(L, "indices", "must be a list of integers or an int32 tensor [n], got %s",
                            pb_describe(L, index));
        *n = pb_tensor_shape(t)[0];
        int64_t *items = pb_lua_scratch(L, (size_t)*n + 1, sizeof *items);
        for (int64_t i = 0; i < *n; i++)
            items[i] = pb_tensor_ints(t)[i * pb_tensor_strides(t)[0]];
        return items;
    }
    size_t count;
    const int32_t *ids = pb_check_ids(L, index, "indices", INT32_MIN, &count);
    int64_t *items = pb_lua_scratch(L, count + 1, sizeof *items);
    for (size_t i = 0; i < count; i++)
        items[i] = ids[i];
    *n = (int64_t)count;
    return items;
}

static int tensor_index(lua_State *L) {
    pb_check_arity(L, 3);
    const pb_tensor *t = pb_check_tensor(L, 1);
    int axis = check_axis(L, 2, "axis");
    int64_t n;
    const int64_t *items = check_positions(L, 3, &n);
    pb_box *box = pb_new_tensor(L);
    pb_tensor *copy = NULL;
    PB_LUA(L, pb_tensor_index(t, axis, items, n, &copy, pb_lua_error(L)));
    pb_fill_tensor(L, box, copy);
    return 1;
}

static int tensor_copy_in_place(lua_State *L) {
    pb_check_arity(L, 2);
    pb_tensor *t = pb_check_tensor(L, 1);
    const pb_tensor *from = pb_make_tensor(L, 2, "source");
    PB_LUA(L, pb_tensor_copy_from(t, from, pb_lua_error(L)));
    lua_settop(L, 1);
    return 1;
}

static int tensor_fill_in_place(lua_State *L) {
    pb_check_arity(L, 2);
    pb_tensor *t = pb_check_tensor(L, 1);
    double value = pb_check_number(L, 2, "value");
    PB_LUA(L, pb_tensor_fill(t, value, pb_lua_error(L)));
    lua_settop(L, 1);
    return 1;
}

/* ---- the class --------------------------------------------------------------------------------------------------- */

static const luaL_Reg METHODS[] = {{"get", tensor_get},
                                   {"set", tensor_set},
                                   {"item", tensor_item},
                                   {"totable", tensor_totable},
                                   {"tolist", tensor_tolist},
                                   {"max_difference", tensor_max_difference},
                                   {"nonfinite", tensor_nonfinite},
                                   {"select", tensor_select},
                                   {"narrow", tensor_narrow},
                                   {"transpose", tensor_transpose},
                                   {"reshape", tensor_reshape},
                                   {"expand", tensor_expand},
                                   {"unsqueeze", tensor_unsqueeze},
                                   {"squeeze", tensor_squeeze},
                                   {"clone", tensor_clone},
                                   {"contiguous", tensor_contiguous},
                                   {"cast", tensor_cast},
                                   {"index", tensor_index},
                                   {"copy_", tensor_copy_in_place},
                                   {"fill_", tensor_fill_in_place},
                                   {NULL, NULL}};

static const luaL_Reg PROPERTIES[] = {{"shape", get_shape},
                                      {"ndim", get_ndim},
                                      {"count", get_count},
                                      {"dtype", get_dtype},
                                      {"is_contiguous", get_is_contiguous},
                                      {NULL, NULL}};

static const luaL_Reg METAMETHODS[] = {{"__tostring", tensor_text}, {"__len", tensor_length}, {NULL, NULL}};

const pb_class PB_TENSOR_CLASS = {.name = "tensor",
                                  .release = release_tensor,
                                  .methods = METHODS,
                                  .properties = PROPERTIES,
                                  .metamethods = METAMETHODS};

void pb_open_tensor(lua_State *L) {
    pb_class_open(L, &PB_TENSOR_CLASS);
    pb_class_push_methods(L, &PB_TENSOR_CLASS);
    luaL_setfuncs(L, PB_TENSOR_MATH_METHODS, 0);
    lua_pop(L, 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &PB_TENSOR_CLASS);
    luaL_setfuncs(L, PB_TENSOR_OPERATORS, 0);
    lua_pop(L, 1);
}
