/* Making tensors from Lua: from tables, constant, counting, random, from other tensors. */
#include <limits.h>
#include <math.h>
#include <string.h>

#include "host/private.h"

/* ---- from nested tables ------------------------------------------------------------------------------------------ */

typedef struct nest {
    lua_State *L;
    const char *what;
    int ndim;
    int64_t shape[PB_MAX_DIMS];
    bool integers; /* target */
    float *floats;
    int32_t *ints;
    size_t next;
} nest;

/* The shape along the first elements of the table at the top. */
static void measure_nest(nest *n) {
    lua_State *L = n->L;
    int top = lua_gettop(L);
    lua_pushvalue(L, -1);
    while (lua_type(L, -1) == LUA_TTABLE) {
        if (n->ndim == PB_MAX_DIMS)
            pb_lua_fail(L, "%s is nested more than %d deep", n->what, PB_MAX_DIMS);
        lua_Unsigned length = lua_rawlen(L, -1);
        if (length == 0) {
            lua_pushnil(L);
            if (lua_next(L, -2))
                pb_lua_fail(L, "%s must be lists of numbers, and there is a table with %s as a key", n->what,
                            pb_describe(L, -2));
        }
        n->shape[n->ndim++] = (int64_t)length;
        if (length == 0)
            break;
        lua_rawgeti(L, -1, 1);
    }
    lua_settop(L, top);
}

static void read_number(nest *n) {
    lua_State *L = n->L;
    if (lua_type(L, -1) != LUA_TNUMBER)
        pb_lua_fail(L, "%s must be numbers in lists of equal length, and there is %s among them", n->what,
                    pb_describe(L, -1));
    if (!n->integers) {
        n->floats[n->next++] = (float)lua_tonumber(L, -1);
        return;
    }
    int exact;
    lua_Integer value = lua_tointegerx(L, -1, &exact);
    if (!exact || value < INT32_MIN || value > INT32_MAX)
        pb_lua_fail(L, "%s must be 32-bit integers, and there is %s among them", n->what, pb_describe(L, -1));
    n->ints[n->next++] = (int32_t)value;
}

/* The value at the top, which is at depth `axis`, into the array. */
static void read_nest(nest *n, int axis) {
    lua_State *L = n->L;
    if (axis == n->ndim) {
        read_number(n);
        return;
    }
    luaL_checkstack(L, 4, "reading nested lists");
    if (lua_type(L, -1) != LUA_TTABLE || (int64_t)lua_rawlen(L, -1) != n->shape[axis])
        pb_lua_fail(L, "%s: lists along axis %d must all have %lld elements, and there is %s", n->what, axis,
                    (long long)n->shape[axis], pb_describe(L, -1));
    for (int64_t i = 0; i < n->shape[axis]; i++) {
        lua_rawgeti(L, -1, i + 1);
        read_nest(n, axis + 1);
        lua_pop(L, 1);
    }
}

/* Push a new tensor of the numbers in the (nested) table at index. */
static pb_tensor *push_from_table(lua_State *L, int index, const char *what, bool integers) {
    index = lua_absindex(L, index);
    nest n = {.L = L, .what = what, .integers = integers};
    lua_pushvalue(L, index);
    measure_nest(&n);
    pb_box *box = pb_new_tensor(L);
    pb_tensor *t = NULL;
    PB_LUA(L, pb_tensor_create(pb_host_context(L), integers ? PB_I32 : PB_F32, n.ndim, n.shape, &t, pb_lua_error(L)));
    pb_fill_tensor(L, box, t);
    n.floats = pb_tensor_floats(t);
    n.ints = pb_tensor_ints(t);
    lua_pushvalue(L, index);
    read_nest(&n, 0); /* writes exactly count elements: every length was compared with the shape */
    lua_pop(L, 1);
    lua_remove(L, -2);
    return t;
}

pb_tensor *pb_make_tensor(lua_State *L, int index, const char *what) {
    index = lua_absindex(L, index);
    pb_tensor *t = pb_to_tensor(L, index);
    if (t) {
        lua_pushvalue(L, index);
        return t;
    }
    if (lua_type(L, index) == LUA_TTABLE)
        return push_from_table(L, index, what, false);
    if (lua_type(L, index) != LUA_TNUMBER)
        pb_lua_fail(L, "%s must be a tensor, a number or lists of numbers, got %s", what, pb_describe(L, index));
    float value = (float)lua_tonumber(L, index);
    pb_box *box = pb_new_tensor(L);
    PB_LUA(L, pb_tensor_from_floats(pb_host_context(L), 0, NULL, &value, &t, pb_lua_error(L)));
    pb_fill_tensor(L, box, t);
    return t;
}

static int make_tensor(lua_State *L) {
    static const char *const types[] = {"float32", "int32", NULL};
    pb_check_arity(L, 2);
    bool integers = pb_check_word(L, 2, "dtype", types, 0) == 1;
    if (lua_type(L, 1) == LUA_TTABLE)
        push_from_table(L, 1, "the elements", integers);
    else if (integers)
        pb_bad_argument(L, "elements", "must be lists of integers, got %s", pb_describe(L, 1));
    else if (pb_is_box(L, 1, &PB_TENSOR_CLASS))
        pb_lua_fail(L, "this is a tensor already: t:clone() copies it");
    else
        pb_make_tensor(L, 1, "the elements");
    return 1;
}

/* ---- constant and counting --------------------------------------------------------------------------------------- */

static int constant(lua_State *L, int first_shape, double value) {
    int64_t shape[PB_MAX_DIMS];
    int ndim = pb_check_shape(L, first_shape, shape, false);
    pb_box *box = pb_new_tensor(L);
    pb_tensor *t = NULL;
    PB_LUA(L, pb_tensor_full(pb_host_context(L), ndim, shape, (float)value, &t, pb_lua_error(L)));
    pb_fill_tensor(L, box, t);
    return 1;
}

static int make_zeros(lua_State *L) { return constant(L, 1, 0); }

static int make_ones(lua_State *L) { return constant(L, 1, 1); }

static int make_full(lua_State *L) { return constant(L, 2, pb_check_number(L, 1, "value")); }

static int make_arange(lua_State *L) {
    pb_check_arity(L, 3);
    bool only_stop = lua_isnoneornil(L, 2);
    double start = only_stop ? 0 : pb_check_number(L, 1, "start");
    double stop = only_stop ? pb_check_number(L, 1, "stop") : pb_check_number(L, 2, "stop");
    double step = lua_isnoneornil(L, 3) ? 1 : pb_check_number(L, 3, "step");
    double n = ceil((stop - start) / step);
    if (!(step != 0) || !isfinite(n))
        pb_lua_fail(L, "arange needs finite numbers and a step that is not zero");
    if (n > 1e12)
        pb_lua_fail(L, "arange of %.0f elements is too long", n);
    pb_box *box = pb_new_tensor(L);
    pb_tensor *t = NULL;
    PB_LUA(L, pb_tensor_range(pb_host_context(L), start, step, n > 0 ? (int64_t)n : 0, &t, pb_lua_error(L)));
    pb_fill_tensor(L, box, t);
    return 1;
}

/* ---- random ------------------------------------------------------------------------------------------------------ */

/* { 3, 4, seed = 1, draw = 0 }: the list part is the shape. */
static int make_random(lua_State *L, bool normal) {
    static const char *const fields[] = {"seed", "draw", NULL};
    pb_check_arity(L, 1);
    pb_check_fields(L, 1, fields, PB_MAX_DIMS);
    int64_t shape[PB_MAX_DIMS];
    int ndim = pb_check_shape(L, 1, shape, false);
    uint64_t seed =
        (uint64_t)pb_field_integer(L, 1, "seed", (lua_Integer)pb_host_seed(L), LUA_MININTEGER, LUA_MAXINTEGER);
    uint64_t draw = (uint64_t)pb_field_integer(L, 1, "draw", -1, 0, LUA_MAXINTEGER);
    if (!pb_has_field(L, 1, "draw"))
        draw = pb_host_of(L)->next_draw++;
    pb_box *box = pb_new_tensor(L);
    pb_tensor *t = NULL;
    pb_context *ctx = pb_host_context(L);
    PB_LUA(L, normal ? pb_tensor_normal(ctx, ndim, shape, seed, draw, &t, pb_lua_error(L))
                     : pb_tensor_uniform(ctx, ndim, shape, seed, draw, &t, pb_lua_error(L)));
    pb_fill_tensor(L, box, t);
    return 1;
}

static int make_randn(lua_State *L) { return make_random(L, true); }

static int make_rand(lua_State *L) { return make_random(L, false); }

/* ---- from other tensors ------------------------------------------------------------------------------------------ */

typedef pb_status (*joining)(const pb_tensor *const *parts, int n, int axis, pb_tensor **out, pb_error *err);

static int join(lua_State *L, joining fn) {
    pb_check_arity(L, 2);
    if (lua_type(L, 1) != LUA_TTABLE || lua_rawlen(L, 1) == 0)
        pb_bad_argument(L, "parts", "must be a list of tensors, got %s", pb_describe(L, 1));
    int axis = lua_isnoneornil(L, 2) ? 0 : (int)pb_check_integer(L, 2, "axis", -PB_MAX_DIMS, PB_MAX_DIMS);
    lua_Unsigned n = lua_rawlen(L, 1);
    if (n > INT_MAX)
        pb_lua_fail(L, "too many tensors");
    const pb_tensor **parts = pb_lua_scratch(L, (size_t)n, sizeof *parts);
    for (lua_Unsigned i = 0; i < n; i++) {
        lua_rawgeti(L, 1, (lua_Integer)i + 1); /* the list keeps them alive */
        parts[i] = pb_check_tensor(L, -1);
        lua_pop(L, 1);
    }
    pb_box *box = pb_new_tensor(L);
    pb_tensor *t = NULL;
    PB_LUA(L, fn(parts, (int)n, axis, &t, pb_lua_error(L)));
    pb_fill_tensor(L, box, t);
    return 1;
}

static int make_stack(lua_State *L) { return join(L, pb_tensor_stack); }

static int make_concat(lua_State *L) { return join(L, pb_tensor_concat); }

void pb_open_tensor_make(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"tensor", make_tensor}, {"zeros", make_zeros}, {"ones", make_ones}, {"full", make_full},
        {"arange", make_arange}, {"randn", make_randn}, {"rand", make_rand}, {"stack", make_stack},
        {"concat", make_concat}, {NULL, NULL}};
    pb_add_functions(L, "", functions);
}
