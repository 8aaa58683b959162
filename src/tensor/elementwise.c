/* Elementwise arithmetic with numpy's broadcasting. Every operation is a lane function over strided operands; the walk
 * finds the longest lanes. Threads take chunks of a lane, so their number changes no bit. NaN: comparisons are false
 * (but for !=), minimum and maximum give NaN, as numpy's do. */
#include "tensor/internal.h"

#include <math.h>

enum { CHUNK = 1 << 15 }; /* elements; below two of them threads cost more than they bring */

typedef void (*binary_lane)(int64_t n, const float *a, int64_t sa, const float *b, int64_t sb, float *out, int64_t so);
typedef void (*unary_lane)(int64_t n, const float *a, int64_t sa, float *out, int64_t so);

/* How a lane's unit-stride loop runs. SIMD: out may be a or b itself, never shifted against them
 * (pb_require_no_overlap), so no iteration reads what another wrote. CALLS: the expression calls libm for each element. */
#define SIMD _Pragma("omp simd")
#define CALLS

/* ---- binary lanes -------------------------------------------------------------------------------------------- */

#define BINARY_LANE(name, how, expression)                                                                             \
    static void name(int64_t n, const float *a, int64_t sa, const float *b, int64_t sb, float *out, int64_t so) {      \
        if (so == 1 && sa == 1 && sb == 1) {                                                                           \
            how for (int64_t i = 0; i < n; i++) {                                                                      \
                const float x = a[i], y = b[i];                                                                        \
                out[i] = (expression);                                                                                 \
            }                                                                                                          \
        } else if (so == 1 && sa == 1 && sb == 0) {                                                                    \
            const float y = *b;                                                                                        \
            how for (int64_t i = 0; i < n; i++) {                                                                      \
                const float x = a[i];                                                                                  \
                out[i] = (expression);                                                                                 \
            }                                                                                                          \
        } else {                                                                                                       \
            for (int64_t i = 0; i < n; i++) {                                                                          \
                const float x = a[i * sa], y = b[i * sb];                                                              \
                out[i * so] = (expression);                                                                            \
            }                                                                                                          \
        }                                                                                                              \
    }

BINARY_LANE(lane_add, SIMD, x + y)
BINARY_LANE(lane_sub, SIMD, x - y)
BINARY_LANE(lane_mul, SIMD, (x) * (y))
BINARY_LANE(lane_div, SIMD, x / y)
BINARY_LANE(lane_pow, CALLS, powf(x, y))
BINARY_LANE(lane_min, SIMD, x < y || x != x ? x : y)
BINARY_LANE(lane_max, SIMD, x > y || x != x ? x : y)
BINARY_LANE(lane_eq, SIMD, x == y ? 1.0f : 0.0f)
BINARY_LANE(lane_ne, SIMD, x != y ? 1.0f : 0.0f)
BINARY_LANE(lane_lt, SIMD, x < y ? 1.0f : 0.0f)
BINARY_LANE(lane_le, SIMD, x <= y ? 1.0f : 0.0f)
BINARY_LANE(lane_gt, SIMD, x > y ? 1.0f : 0.0f)
BINARY_LANE(lane_ge, SIMD, x >= y ? 1.0f : 0.0f)

static const struct {
    binary_lane lane;
    const char *name;
} BINARY[] = {
    [PB_ADD] = {lane_add, "add"}, [PB_SUB] = {lane_sub, "sub"}, [PB_MUL] = {lane_mul, "mul"},
    [PB_DIV] = {lane_div, "div"}, [PB_POW] = {lane_pow, "pow"}, [PB_MIN] = {lane_min, "min"},
    [PB_MAX] = {lane_max, "max"}, [PB_EQ] = {lane_eq, "eq"},    [PB_NE] = {lane_ne, "ne"},
    [PB_LT] = {lane_lt, "lt"},    [PB_LE] = {lane_le, "le"},    [PB_GT] = {lane_gt, "gt"},
    [PB_GE] = {lane_ge, "ge"},
};

/* ---- unary lanes --------------------------------------------------------------------------------------------- */

#define UNARY_LANE(name, how, expression)                                                                              \
    static void name(int64_t n, const float *a, int64_t sa, float *out, int64_t so) {                                  \
        if (so == 1 && sa == 1) {                                                                                      \
            how for (int64_t i = 0; i < n; i++) {                                                                      \
                const float x = a[i];                                                                                  \
                out[i] = (expression);                                                                                 \
            }                                                                                                          \
        } else {                                                                                                       \
            for (int64_t i = 0; i < n; i++) {                                                                          \
                const float x = a[i * sa];                                                                             \
                out[i * so] = (expression);                                                                            \
            }                                                                                                          \
        }                                                                                                              \
    }

static const float SQRT_HALF = 0.70710678118654752440f, SQRT_2_OVER_PI = 0.79788456080286535588f;

UNARY_LANE(lane_neg, SIMD, -x)
UNARY_LANE(lane_abs, SIMD, fabsf(x))
UNARY_LANE(lane_sign, SIMD, x > 0.0f ? 1.0f : (x < 0.0f ? -1.0f : x)) /* 0 and NaN stay what they are */
UNARY_LANE(lane_exp, CALLS, expf(x))
UNARY_LANE(lane_log, CALLS, logf(x))
UNARY_LANE(lane_sqrt, SIMD, sqrtf(x))
UNARY_LANE(lane_tanh, CALLS, tanhf(x))
UNARY_LANE(lane_sigmoid, CALLS, 1.0f / (1.0f + expf(-x)))
UNARY_LANE(lane_square, SIMD, (x) * (x))
UNARY_LANE(lane_relu, SIMD, x < 0.0f ? 0.0f : x) /* NaN stays */
UNARY_LANE(lane_gelu, CALLS, 0.5f * x * (1.0f + erff(x * SQRT_HALF)))
UNARY_LANE(lane_gelu_tanh, CALLS, 0.5f * x * (1.0f + tanhf(SQRT_2_OVER_PI * (x + 0.044715f * x * x * x))))
UNARY_LANE(lane_silu, CALLS, x / (1.0f + expf(-x)))
UNARY_LANE(lane_erf, CALLS, erff(x))
UNARY_LANE(lane_isnan, SIMD, x != x ? 1.0f : 0.0f)

static const struct {
    unary_lane lane;
    const char *name;
} UNARY[] = {
    [PB_NEG] = {lane_neg, "neg"},          [PB_ABS] = {lane_abs, "abs"},
    [PB_SIGN] = {lane_sign, "sign"},       [PB_EXP] = {lane_exp, "exp"},
    [PB_LOG] = {lane_log, "log"},          [PB_SQRT] = {lane_sqrt, "sqrt"},
    [PB_TANH] = {lane_tanh, "tanh"},       [PB_SIGMOID] = {lane_sigmoid, "sigmoid"},
    [PB_SQUARE] = {lane_square, "square"}, [PB_RELU] = {lane_relu, "relu"},
    [PB_GELU] = {lane_gelu, "gelu"},       [PB_GELU_TANH] = {lane_gelu_tanh, "gelu_tanh"},
    [PB_SILU] = {lane_silu, "silu"},       [PB_ERF] = {lane_erf, "erf"},
    [PB_ISNAN] = {lane_isnan, "isnan"},
};

static pb_status check_binary(pb_binary op, pb_error *err) {
    if ((unsigned)op < sizeof BINARY / sizeof BINARY[0])
        return PB_OK;
    return pb_fail(err, PB_ERR_ARGUMENT, "%d is no binary operation", (int)op);
}

static pb_status check_unary(pb_unary op, pb_error *err) {
    if ((unsigned)op < sizeof UNARY / sizeof UNARY[0])
        return PB_OK;
    return pb_fail(err, PB_ERR_ARGUMENT, "%d is no unary operation", (int)op);
}

/* ---- running them -------------------------------------------------------------------------------------------- */

static int threads_for(const pb_context *ctx, int64_t n) {
    int64_t chunks = n / CHUNK;
    int threads = pb_context_threads(ctx);
    return chunks < 2 ? 1 : chunks < threads ? (int)chunks : threads;
}

static void run_binary(pb_context *ctx, binary_lane lane, int ndim, const int64_t *shape, const float *a,
                       const int64_t *a_strides, const float *b, const int64_t *b_strides, float *out,
                       const int64_t *out_strides) {
    const int64_t *strides[] = {a_strides, b_strides, out_strides};
    pb_walk w;
    for (pb_walk_begin(&w, ndim, shape, 3, strides); !w.done; pb_walk_next(&w)) {
        const float *x = a + w.offsets[0], *y = b + w.offsets[1];
        float *z = out + w.offsets[2];
        const int64_t n = w.inner, sx = w.inner_strides[0], sy = w.inner_strides[1], sz = w.inner_strides[2];
        const int threads = threads_for(ctx, n);
        if (threads == 1) {
            lane(n, x, sx, y, sy, z, sz);
            continue;
        }
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int64_t i = 0; i < n; i += CHUNK)
            lane(n - i < CHUNK ? n - i : CHUNK, x + i * sx, sx, y + i * sy, sy, z + i * sz, sz);
    }
}

static void run_unary(pb_context *ctx, unary_lane lane, int ndim, const int64_t *shape, const float *a,
                      const int64_t *a_strides, float *out, const int64_t *out_strides) {
    const int64_t *strides[] = {a_strides, out_strides};
    pb_walk w;
    for (pb_walk_begin(&w, ndim, shape, 2, strides); !w.done; pb_walk_next(&w)) {
        const float *x = a + w.offsets[0];
        float *z = out + w.offsets[1];
        const int64_t n = w.inner, sx = w.inner_strides[0], sz = w.inner_strides[1];
        const int threads = threads_for(ctx, n);
        if (threads == 1) {
            lane(n, x, sx, z, sz);
            continue;
        }
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int64_t i = 0; i < n; i += CHUNK)
            lane(n - i < CHUNK ? n - i : CHUNK, x + i * sx, sx, z + i * sz, sz);
    }
}

/* ---- new tensors --------------------------------------------------------------------------------------------- */

static const int64_t REPEATED[PB_MAX_DIMS] = {0}; /* strides of a scalar operand */

pb_status pb_tensor_binary(pb_binary op, const pb_tensor *a, const pb_tensor *b, pb_tensor **out, pb_error *err) {
    PB_TRY(check_binary(op, err));
    PB_TRY(pb_require_float(a, BINARY[op].name, err));
    PB_TRY(pb_require_float(b, BINARY[op].name, err));
    pb_broadcast common;
    PB_TRY(pb_broadcast_shapes(a, b, &common, err));
    pb_tensor *result = NULL;
    pb_context *ctx = pb_tensor_context(a);
    PB_TRY(pb_tensor_create(ctx, PB_F32, common.ndim, common.shape, &result, err));
    run_binary(ctx, BINARY[op].lane, common.ndim, common.shape, pb_tensor_floats(a), common.a_strides,
               pb_tensor_floats(b), common.b_strides, pb_tensor_floats(result), result->strides);
    *out = result;
    return PB_OK;
}

static pb_status with_scalar(pb_binary op, const pb_tensor *t, double number, bool scalar_first, pb_tensor **out,
                             pb_error *err) {
    PB_TRY(check_binary(op, err));
    PB_TRY(pb_require_float(t, BINARY[op].name, err));
    pb_tensor *result = NULL;
    pb_context *ctx = pb_tensor_context(t);
    PB_TRY(pb_tensor_create(ctx, PB_F32, t->ndim, t->shape, &result, err));
    const float scalar = (float)number;
    const float *x = pb_tensor_floats(t);
    run_binary(ctx, BINARY[op].lane, t->ndim, t->shape, scalar_first ? &scalar : x,
               scalar_first ? REPEATED : t->strides, scalar_first ? x : &scalar, scalar_first ? t->strides : REPEATED,
               pb_tensor_floats(result), result->strides);
    *out = result;
    return PB_OK;
}

pb_status pb_tensor_binary_scalar(pb_binary op, const pb_tensor *a, double b, pb_tensor **out, pb_error *err) {
    return with_scalar(op, a, b, false, out, err);
}

pb_status pb_tensor_scalar_binary(pb_binary op, double a, const pb_tensor *b, pb_tensor **out, pb_error *err) {
    return with_scalar(op, b, a, true, out, err);
}

pb_status pb_tensor_unary(pb_unary op, const pb_tensor *a, pb_tensor **out, pb_error *err) {
    PB_TRY(check_unary(op, err));
    PB_TRY(pb_require_float(a, UNARY[op].name, err));
    pb_tensor *result = NULL;
    pb_context *ctx = pb_tensor_context(a);
    PB_TRY(pb_tensor_create(ctx, PB_F32, a->ndim, a->shape, &result, err));
    run_unary(ctx, UNARY[op].lane, a->ndim, a->shape, pb_tensor_floats(a), a->strides, pb_tensor_floats(result),
              result->strides);
    *out = result;
    return PB_OK;
}

/* ---- in place ------------------------------------------------------------------------------------------------ */

pb_status pb_tensor_binary_in_place(pb_binary op, pb_tensor *t, const pb_tensor *b, pb_error *err) {
    PB_TRY(check_binary(op, err));
    PB_TRY(pb_require_float(t, BINARY[op].name, err));
    PB_TRY(pb_require_float(b, BINARY[op].name, err));
    pb_broadcast shapes;
    PB_TRY(pb_broadcast_onto(t, b, &shapes, err));
    PB_TRY(pb_require_writable(t, BINARY[op].name, err));
    PB_TRY(pb_require_no_overlap(t, b, shapes.b_strides, BINARY[op].name, err));
    float *x = pb_tensor_floats(t);
    run_binary(pb_tensor_context(t), BINARY[op].lane, t->ndim, t->shape, x, t->strides, pb_tensor_floats(b),
               shapes.b_strides, x, t->strides);
    return PB_OK;
}

pb_status pb_tensor_binary_scalar_in_place(pb_binary op, pb_tensor *t, double b, pb_error *err) {
    PB_TRY(check_binary(op, err));
    PB_TRY(pb_require_float(t, BINARY[op].name, err));
    PB_TRY(pb_require_writable(t, BINARY[op].name, err));
    const float scalar = (float)b;
    float *x = pb_tensor_floats(t);
    run_binary(pb_tensor_context(t), BINARY[op].lane, t->ndim, t->shape, x, t->strides, &scalar, REPEATED, x,
               t->strides);
    return PB_OK;
}

pb_status pb_tensor_unary_in_place(pb_unary op, pb_tensor *t, pb_error *err) {
    PB_TRY(check_unary(op, err));
    PB_TRY(pb_require_float(t, UNARY[op].name, err));
    PB_TRY(pb_require_writable(t, UNARY[op].name, err));
    float *x = pb_tensor_floats(t);
    run_unary(pb_tensor_context(t), UNARY[op].lane, t->ndim, t->shape, x, t->strides, x, t->strides);
    return PB_OK;
}
