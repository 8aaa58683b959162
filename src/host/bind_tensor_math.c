/* The tensor class in Lua: arithmetic (methods, their in-place forms with a trailing '_', operators), reductions, order,
 * linear algebra. Each method is one line of a table at the end; the functions here read the arguments of a whole group. */
#include <string.h>

#include "host/private.h"

/* ---- elementwise with two operands ------------------------------------------------------------------------------- */

/* Operators reach other classes: tensor + grid is the grid's business. Calls the other operand's metamethod. */
static int other_class(lua_State *L, const char *event) {
    int other = pb_is_box(L, 1, &PB_TENSOR_CLASS) ? 2 : 1;
    int type = lua_type(L, other);
    if ((type != LUA_TTABLE && type != LUA_TUSERDATA) || luaL_getmetafield(L, other, event) == LUA_TNIL)
        pb_lua_fail(L, "arithmetic on a tensor and %s: expected a tensor or a number", pb_describe(L, other));
    lua_insert(L, 1);
    lua_call(L, 2, 1);
    return 1;
}

static int binary(lua_State *L, pb_binary op, const char *event) {
    if (event)
        lua_settop(L, 2); /* unary minus passes its operand twice */
    else
        pb_check_arity(L, 2);
    bool number_a = lua_type(L, 1) == LUA_TNUMBER, number_b = lua_type(L, 2) == LUA_TNUMBER;
    if (event &&
        ((!number_a && !pb_is_box(L, 1, &PB_TENSOR_CLASS)) || (!number_b && !pb_is_box(L, 2, &PB_TENSOR_CLASS))))
        return other_class(L, event);
    if (!event)
        pb_check_tensor(L, 1);
    const pb_tensor *a = number_a ? NULL : pb_check_tensor(L, 1), *b = number_b ? NULL : pb_check_tensor(L, 2);
    double x = number_a ? lua_tonumber(L, 1) : 0, y = number_b ? lua_tonumber(L, 2) : 0;
    pb_box *box = pb_new_tensor(L);
    pb_tensor *out = NULL;
    pb_error *err = pb_lua_error(L);
    PB_LUA(L, number_a   ? pb_tensor_scalar_binary(op, x, b, &out, err)
              : number_b ? pb_tensor_binary_scalar(op, a, y, &out, err)
                         : pb_tensor_binary(op, a, b, &out, err));
    pb_fill_tensor(L, box, out);
    return 1;
}

static int binary_in_place(lua_State *L, pb_binary op) {
    pb_check_arity(L, 2);
    pb_tensor *t = pb_check_tensor(L, 1);
    pb_error *err = pb_lua_error(L);
    if (lua_type(L, 2) == LUA_TNUMBER) {
        double y = lua_tonumber(L, 2);
        PB_LUA(L, pb_tensor_binary_scalar_in_place(op, t, y, err));
    } else {
        const pb_tensor *b = pb_check_tensor(L, 2);
        PB_LUA(L, pb_tensor_binary_in_place(op, t, b, err));
    }
    lua_settop(L, 1);
    return 1;
}

#define BINARY(name, op)                                                                                               \
    static int tensor_##name(lua_State *L) { return binary(L, op, NULL); }
#define BINARY_BOTH(name, op)                                                                                          \
    BINARY(name, op)                                                                                                   \
    static int tensor_##name##_in_place(lua_State *L) { return binary_in_place(L, op); }
#define OPERATOR(name, op)                                                                                             \
    static int operator_##name(lua_State *L) { return binary(L, op, "__" #name); }

BINARY_BOTH(add, PB_ADD)
BINARY_BOTH(sub, PB_SUB)
BINARY_BOTH(mul, PB_MUL)
BINARY_BOTH(div, PB_DIV)
BINARY_BOTH(pow, PB_POW)
BINARY_BOTH(minimum, PB_MIN)
BINARY_BOTH(maximum, PB_MAX)
BINARY(eq, PB_EQ)
BINARY(ne, PB_NE)
BINARY(lt, PB_LT)
BINARY(le, PB_LE)
BINARY(gt, PB_GT)
BINARY(ge, PB_GE)
OPERATOR(add, PB_ADD)
OPERATOR(sub, PB_SUB)
OPERATOR(mul, PB_MUL)
OPERATOR(div, PB_DIV)
OPERATOR(pow, PB_POW)

/* ---- elementwise with one operand -------------------------------------------------------------------------------- */

static int unary(lua_State *L, pb_unary op, bool in_place) {
    pb_check_arity(L, 1);
    pb_tensor *t = pb_check_tensor(L, 1);
    if (in_place) {
        PB_LUA(L, pb_tensor_unary_in_place(op, t, pb_lua_error(L)));
        return 1;
    }
    pb_box *box = pb_new_tensor(L);
    pb_tensor *out = NULL;
    PB_LUA(L, pb_tensor_unary(op, t, &out, pb_lua_error(L)));
    pb_fill_tensor(L, box, out);
    return 1;
}

#define UNARY(name, op)                                                                                                \
    static int tensor_##name(lua_State *L) { return unary(L, op, false); }                                             \
    static int tensor_##name##_in_place(lua_State *L) { return unary(L, op, true); }

UNARY(neg, PB_NEG)
UNARY(abs, PB_ABS)
UNARY(sign, PB_SIGN)
UNARY(exp, PB_EXP)
UNARY(log, PB_LOG)
UNARY(sqrt, PB_SQRT)
UNARY(tanh, PB_TANH)
UNARY(sigmoid, PB_SIGMOID)
UNARY(square, PB_SQUARE)
UNARY(relu, PB_RELU)
UNARY(gelu, PB_GELU)
UNARY(gelu_tanh, PB_GELU_TANH)
UNARY(silu, PB_SILU)
UNARY(erf, PB_ERF)
UNARY(isnan, PB_ISNAN)

static int operator_unm(lua_State *L) {
    lua_settop(L, 1);
    return unary(L, PB_NEG, false);
}

/* ---- reductions -------------------------------------------------------------------------------------------------- */

/* (axis, keep): without an axis, a number. */
static int reduce(lua_State *L, pb_reduction op) {
    pb_check_arity(L, 3);
    const pb_tensor *t = pb_check_tensor(L, 1);
    bool all = lua_isnoneornil(L, 2);
    int axis = all ? PB_ALL_AXES : (int)pb_check_integer(L, 2, "axis", -PB_MAX_DIMS, PB_MAX_DIMS);
    bool keep = lua_isnoneornil(L, 3) ? false : pb_check_boolean(L, 3, "keep");
    pb_box *box = pb_new_tensor(L);
    pb_tensor *out = NULL;
    PB_LUA(L, pb_tensor_reduce(op, t, axis, keep, &out, pb_lua_error(L)));
    pb_fill_tensor(L, box, out);
    if (all && !keep) {
        double value = 0;
        PB_LUA(L, pb_tensor_item(out, &value, pb_lua_error(L)));
        if (pb_tensor_dtype(out) == PB_I32)
            lua_pushinteger(L, (lua_Integer)value);
        else
            lua_pushnumber(L, value);
    }
    return 1;
}

#define REDUCTION(name, op)                                                                                            \
    static int tensor_##name(lua_State *L) { return reduce(L, op); }

REDUCTION(sum, PB_SUM)
REDUCTION(mean, PB_MEAN)
REDUCTION(max, PB_MAXIMUM)
REDUCTION(min, PB_MINIMUM)
REDUCTION(argmax, PB_ARGMAX)
REDUCTION(argmin, PB_ARGMIN)
REDUCTION(var, PB_VARIANCE)
REDUCTION(norm, PB_NORM)
REDUCTION(logsumexp, PB_LOGSUMEXP)

typedef pb_status (*along_axis)(const pb_tensor *t, int axis, pb_tensor **out, pb_error *err);

static int along(lua_State *L, along_axis fn) {
    pb_check_arity(L, 2);
    const pb_tensor *t = pb_check_tensor(L, 1);
    int axis = lua_isnoneornil(L, 2) ? -1 : (int)pb_check_integer(L, 2, "axis", -PB_MAX_DIMS, PB_MAX_DIMS);
    pb_box *box = pb_new_tensor(L);
    pb_tensor *out = NULL;
    PB_LUA(L, fn(t, axis, &out, pb_lua_error(L)));
    pb_fill_tensor(L, box, out);
    return 1;
}

static int tensor_softmax(lua_State *L) { return along(L, pb_tensor_softmax); }

static int tensor_log_softmax(lua_State *L) { return along(L, pb_tensor_log_softmax); }

static int tensor_cumsum(lua_State *L) { return along(L, pb_tensor_cumsum); }

static int tensor_topk(lua_State *L) {
    pb_check_arity(L, 2);
    const pb_tensor *t = pb_check_tensor(L, 1);
    int64_t k = pb_check_integer(L, 2, "k", 1, LUA_MAXINTEGER);
    pb_box *values = pb_new_tensor(L), *indices = pb_new_tensor(L);
    pb_tensor *v = NULL, *i = NULL;
    PB_LUA(L, pb_tensor_topk(t, k, &v, &i, pb_lua_error(L)));
    values->object = v;
    indices->object = i;
    pb_lua_charge(L, pb_tensor_bytes(v) + pb_tensor_bytes(i));
    return 2;
}

static int tensor_argsort(lua_State *L) {
    pb_check_arity(L, 2);
    const pb_tensor *t = pb_check_tensor(L, 1);
    bool descending = lua_isnoneornil(L, 2) ? false : pb_check_boolean(L, 2, "descending");
    pb_box *box = pb_new_tensor(L);
    pb_tensor *out = NULL;
    PB_LUA(L, pb_tensor_argsort(t, descending, &out, pb_lua_error(L)));
    pb_fill_tensor(L, box, out);
    return 1;
}

/* ---- linear algebra ---------------------------------------------------------------------------------------------- */

typedef pb_status (*of_one)(const pb_tensor *a, pb_tensor **out, pb_error *err);
typedef pb_status (*of_two)(const pb_tensor *a, const pb_tensor *b, pb_tensor **out, pb_error *err);

static int one_to_one(lua_State *L, of_one fn) {
    pb_check_arity(L, 1);
    const pb_tensor *a = pb_check_tensor(L, 1);
    pb_box *box = pb_new_tensor(L);
    pb_tensor *out = NULL;
    PB_LUA(L, fn(a, &out, pb_lua_error(L)));
    pb_fill_tensor(L, box, out);
    return 1;
}

static int two_to_one(lua_State *L, of_two fn) {
    pb_check_arity(L, 2);
    const pb_tensor *a = pb_check_tensor(L, 1), *b = pb_check_tensor(L, 2);
    pb_box *box = pb_new_tensor(L);
    pb_tensor *out = NULL;
    PB_LUA(L, fn(a, b, &out, pb_lua_error(L)));
    pb_fill_tensor(L, box, out);
    return 1;
}

static int tensor_matmul(lua_State *L) { return two_to_one(L, pb_tensor_matmul); }

static int tensor_solve(lua_State *L) { return two_to_one(L, pb_tensor_solve); }

static int tensor_lstsq(lua_State *L) { return two_to_one(L, pb_tensor_lstsq); }

static int tensor_cholesky(lua_State *L) { return one_to_one(L, pb_tensor_cholesky); }

static int tensor_eigvals(lua_State *L) { return one_to_one(L, pb_tensor_eigvals); }

static int tensor_svd(lua_State *L) {
    pb_check_arity(L, 1);
    const pb_tensor *a = pb_check_tensor(L, 1);
    pb_box *box_u = pb_new_tensor(L), *box_s = pb_new_tensor(L), *box_vt = pb_new_tensor(L);
    pb_tensor *u = NULL, *s = NULL, *vt = NULL;
    PB_LUA(L, pb_tensor_svd(a, &u, &s, &vt, pb_lua_error(L)));
    box_u->object = u;
    box_s->object = s;
    box_vt->object = vt;
    pb_lua_charge(L, pb_tensor_bytes(u) + pb_tensor_bytes(s) + pb_tensor_bytes(vt));
    return 3;
}

static int tensor_eigh(lua_State *L) {
    pb_check_arity(L, 1);
    const pb_tensor *a = pb_check_tensor(L, 1);
    pb_box *box_values = pb_new_tensor(L), *box_vectors = pb_new_tensor(L);
    pb_tensor *values = NULL, *vectors = NULL;
    PB_LUA(L, pb_tensor_eigh(a, &values, &vectors, pb_lua_error(L)));
    box_values->object = values;
    box_vectors->object = vectors;
    pb_lua_charge(L, pb_tensor_bytes(values) + pb_tensor_bytes(vectors));
    return 2;
}

/* ---- the tables -------------------------------------------------------------------------------------------------- */

#define ENTRY(name)                                                                                                    \
    { #name, tensor_##name }
#define ENTRY_BOTH(name)                                                                                               \
    {#name, tensor_##name}, { #name "_", tensor_##name##_in_place }

const luaL_Reg PB_TENSOR_MATH_METHODS[] = {
    ENTRY_BOTH(add),     ENTRY_BOTH(sub),     ENTRY_BOTH(mul),   ENTRY_BOTH(div),    ENTRY_BOTH(pow),
    ENTRY_BOTH(minimum), ENTRY_BOTH(maximum), ENTRY(eq),         ENTRY(ne),          ENTRY(lt),
    ENTRY(le),           ENTRY(gt),           ENTRY(ge),         ENTRY_BOTH(neg),    ENTRY_BOTH(abs),
    ENTRY_BOTH(sign),    ENTRY_BOTH(exp),     ENTRY_BOTH(log),   ENTRY_BOTH(sqrt),   ENTRY_BOTH(tanh),
    ENTRY_BOTH(sigmoid), ENTRY_BOTH(square),  ENTRY_BOTH(relu),  ENTRY_BOTH(gelu),   ENTRY_BOTH(gelu_tanh),
    ENTRY_BOTH(silu),    ENTRY_BOTH(erf),     ENTRY_BOTH(isnan), ENTRY(sum),         ENTRY(mean),
    ENTRY(max),          ENTRY(min),          ENTRY(argmax),     ENTRY(argmin),      ENTRY(var),
    ENTRY(norm),         ENTRY(logsumexp),    ENTRY(softmax),    ENTRY(log_softmax), ENTRY(cumsum),
    ENTRY(topk),         ENTRY(argsort),      ENTRY(matmul),     ENTRY(solve),       ENTRY(lstsq),
    ENTRY(cholesky),     ENTRY(eigvals),      ENTRY(svd),        ENTRY(eigh),        {NULL, NULL}};

const luaL_Reg PB_TENSOR_OPERATORS[] = {{"__add", operator_add},
                                        {"__sub", operator_sub},
                                        {"__mul", operator_mul},
                                        {"__div", operator_div},
                                        {"__pow", operator_pow},
                                        {"__unm", operator_unm},
                                        {NULL, NULL}};
