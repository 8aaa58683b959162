/* Elementwise and row kernels, compiled once per instruction set; see kernels.h for meanings and promises.
 *
 * Reductions keep one partial result per lane, lanes counted from the row's first element, and fold them in a fixed
 * order: alignment and neighbours change nothing. */
#include "tensor/kernel_table.h"
#include "tensor/vecmath.h"

#include <math.h>

/* Vectors of a row: i is the first element, `lanes` how many there are (VL but at the end). */
#define FOR_VECTORS(i, lanes, n) for (int64_t i = 0, lanes; i < (n) && (lanes = (n)-i < VL ? (n)-i : VL, true); i += VL)

PB_INLINE vf load_lanes(const float *p, int64_t lanes) { return lanes == VL ? vload(p) : vload_part(p, lanes, 0.0f); }

PB_INLINE void store_lanes(float *p, int64_t lanes, vf v) {
    if (lanes == VL)
        vstore(p, v);
    else
        vstore_part(p, lanes, v);
}

/* ---- vectors --------------------------------------------------------------------------------------------------------- */

static void vec_exp(const float *x, float *y, int64_t n) {
    FOR_VECTORS(i, lanes, n) { store_lanes(y + i, lanes, vexp(load_lanes(x + i, lanes))); }
}

static void vec_tanh(const float *x, float *y, int64_t n) {
    FOR_VECTORS(i, lanes, n) { store_lanes(y + i, lanes, vtanh(load_lanes(x + i, lanes))); }
}

static void vec_erf(const float *x, float *y, int64_t n) {
    FOR_VECTORS(i, lanes, n) { store_lanes(y + i, lanes, verf(load_lanes(x + i, lanes))); }
}

static void vec_add(const float *a, const float *b, float *y, int64_t n) {
    FOR_VECTORS(i, lanes, n) { store_lanes(y + i, lanes, load_lanes(a + i, lanes) + load_lanes(b + i, lanes)); }
}

static void vec_axpy(float alpha, const float *x, float *y, int64_t n) {
    const vf factor = vset1(alpha);
    FOR_VECTORS(i, lanes, n) {
        store_lanes(y + i, lanes, vfma(factor, load_lanes(x + i, lanes), load_lanes(y + i, lanes)));
    }
}

static void vec_scale(float alpha, float *x, int64_t n) {
    const vf factor = vset1(alpha);
    FOR_VECTORS(i, lanes, n) { store_lanes(x + i, lanes, factor * load_lanes(x + i, lanes)); }
}

static float vec_dot(const float *a, const float *b, int64_t n) {
    vf sums[4] = {vset1(0.0f), vset1(0.0f), vset1(0.0f), vset1(0.0f)};
    int64_t i = 0;
    for (; i + 4 * VL <= n; i += 4 * VL)
        for (int j = 0; j < 4; j++)
            sums[j] = vfma(vload(a + i + j * VL), vload(b + i + j * VL), sums[j]);
    for (int j = 0; i < n; i += VL, j++) {
        const int64_t lanes = n - i < VL ? n - i : VL;
        sums[j] = vfma(load_lanes(a + i, lanes), load_lanes(b + i, lanes), sums[j]);
    }
    return vsum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

/* ---- norms ------------------------------------------------------------------------------------------------------------- */

/* Sum of a row in double: four vectors of partial sums, then the rest in order. */
static double sum_in_double(const float *x, int64_t n) {
    vd sums[4] = {{0}, {0}, {0}, {0}};
    int64_t i = 0;
    for (; i + 2 * VL <= n; i += 2 * VL) {
        PB_UNROLL
        for (int j = 0; j < 4; j++)
            sums[j] += vload_double(x + i + j * (VL / 2));
    }
    double sum = vsum_double((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (; i < n; i++)
        sum += (double)x[i];
    return sum;
}

/* Subtracts the mean and sums the squares of the differences in double, in one pass. */
static double centre_and_sum_squares(const float *x, float mean, float *centred, int64_t n) {
    const vf shift = vset1(mean);
    vd sums[4] = {{0}, {0}, {0}, {0}};
    int64_t i = 0;
    for (; i + 2 * VL <= n; i += 2 * VL) {
        vf a = vload(x + i) - shift, b = vload(x + i + VL) - shift;
        vstore(centred + i, a);
        vstore(centred + i + VL, b);
        const vd parts[4] = {vlow_double(a), vhigh_double(a), vlow_double(b), vhigh_double(b)};
        PB_UNROLL
        for (int j = 0; j < 4; j++)
            sums[j] += parts[j] * parts[j];
    }
    double sum = vsum_double((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (; i < n; i++) {
        centred[i] = x[i] - mean;
        sum += (double)centred[i] * (double)centred[i];
    }
    return sum;
}

static float norm_mean(const pb_norm *norm, const float *x) {
    return norm->centre ? (float)(sum_in_double(x, norm->width) / (double)norm->width) : 0.0f;
}

static float norm_scale(const pb_norm *norm, const float *x, float *centred) {
    const double squares = centre_and_sum_squares(x, norm_mean(norm, x), centred, norm->width);
    return (float)sqrt(squares / (double)norm->width + (double)norm->eps);
}

static void norm_divide(const float *centred, float scale, float *normalized, int64_t n) {
    const vf divisor = vset1(scale);
    FOR_VECTORS(i, lanes, n) { store_lanes(normalized + i, lanes, load_lanes(centred + i, lanes) / divisor); }
}

PB_INLINE vf affine(const pb_norm *norm, vf normalized, int64_t i, int64_t lanes) {
    if (!norm->weight)
        return norm->bias ? normalized + load_lanes(norm->bias + i, lanes) : normalized;
    vf weight = load_lanes(norm->weight + i, lanes);
    return norm->bias ? vfma(normalized, weight, load_lanes(norm->bias + i, lanes)) : normalized * weight;
}

static void norm_affine(const pb_norm *norm, const float *normalized, float *y) {
    FOR_VECTORS(i, lanes, norm->width) {
        store_lanes(y + i, lanes, affine(norm, load_lanes(normalized + i, lanes), i, lanes));
    }
}

static void norm_finish(const pb_norm *norm, const float *centred, float scale, float *normalized, float *y) {
    const vf divisor = vset1(scale);
    FOR_VECTORS(i, lanes, norm->width) {
        vf value = load_lanes(centred + i, lanes) / divisor;
        if (normalized)
            store_lanes(normalized + i, lanes, value);
        store_lanes(y + i, lanes, affine(norm, value, i, lanes));
    }
}

/* n = (x - mean) / scale, g = dy * weight: dx = (g - mean(g) - n mean(g n)) / scale, without mean(g) when not centred. */
static void norm_backward(const pb_norm *norm, const float *x, float scale, const float *dy, float *dx, bool accumulate,
                          float *dweight, float *dbias) {
    const int64_t n = norm->width;
    const float mean = norm_mean(norm, x);
    const vf shift = vset1(mean), divisor = vset1(scale), one = vset1(1.0f);
    vd sums[2] = {{0}, {0}}, products[2] = {{0}, {0}};
    FOR_VECTORS(i, lanes, n) {
        vf centred = load_lanes(x + i, lanes) - shift;
        vf g = load_lanes(dy + i, lanes) * (norm->weight ? load_lanes(norm->weight + i, lanes) : one);
        sums[0] += vlow_double(g);
        sums[1] += vhigh_double(g);
        products[0] += vlow_double(g) * vlow_double(centred); /* lanes beyond the end: g is 0 there */
        products[1] += vhigh_double(g) * vhigh_double(centred);
    }
    const double sum = vsum_double(sums[0] + sums[1]), product = vsum_double(products[0] + products[1]);
    const vf g_mean = vset1(norm->centre ? (float)(sum / (double)n) : 0.0f);
    const vf g_along = vset1((float)(product / (double)scale / (double)n));

    FOR_VECTORS(i, lanes, n) {
        vf value = (load_lanes(x + i, lanes) - shift) / divisor, d = load_lanes(dy + i, lanes);
        vf g = d * (norm->weight ? load_lanes(norm->weight + i, lanes) : one);
        if (dweight)
            store_lanes(dweight + i, lanes, load_lanes(dweight + i, lanes) + d * value);
        if (dbias)
            store_lanes(dbias + i, lanes, load_lanes(dbias + i, lanes) + d);
        vf grad = (g - g_mean - value * g_along) / divisor;
        store_lanes(dx + i, lanes, accumulate ? load_lanes(dx + i, lanes) + grad : grad);
    }
}

/* ---- activations --------------------------------------------------------------------------------------------------------- */

PB_INLINE vf sigmoid(vf x) { return vset1(1.0f) / (vset1(1.0f) + vexp(-x)); }

/* sqrt(2/pi) (x + 0.044715 x^3), twice: 0.5 (1 + tanh u) = sigmoid(2u). */
PB_INLINE vf gelu_tanh_argument(vf x) { return vset1(1.5957691216f) * x * vfma(vset1(0.044715f) * x, x, vset1(1.0f)); }

PB_INLINE vf activate(pb_act act, vf x) {
    const vf one = vset1(1.0f), zero = vset1(0.0f);
    switch (act) {
    case PB_ACT_RELU:
        return vat_least(x, zero);
    case PB_ACT_GELU:
        return vset1(0.5f) * x * (one + verf(x * vset1(0.70710678118f)));
    case PB_ACT_GELU_TANH:
    case PB_ACT_GELU_FAST:
        return x / (one + vexp(-gelu_tanh_argument(x)));
    case PB_ACT_QUICK_GELU:
        return x / (one + vexp(vset1(-1.702f) * x));
    case PB_ACT_SILU:
        return x / (one + vexp(-x));
    case PB_ACT_TANH:
        return vtanh(x);
    case PB_ACT_RELU2: {
        vf positive = vat_least(x, zero);
        return positive * positive;
    }
    case PB_ACT_NONE:
        break;
    }
    return x;
}

PB_INLINE vf slope(pb_act act, vf x) {
    const vf one = vset1(1.0f), zero = vset1(0.0f);
    switch (act) {
    case PB_ACT_RELU:
        return vselect(x > zero, one, vselect(x == x, zero, x));
    case PB_ACT_GELU: {
        vf density = vset1(0.39894228040f) * vexp(vset1(-0.5f) * x * x);
        return vfma(x, density, vset1(0.5f) * (one + verf(x * vset1(0.70710678118f))));
    }
    case PB_ACT_GELU_TANH:
    case PB_ACT_GELU_FAST: {
        vf s = sigmoid(gelu_tanh_argument(x));
        vf inner = vset1(1.5957691216f) * vfma(vset1(3 * 0.044715f) * x, x, one);
        return vfma(x * inner, s * (one - s), s);
    }
    case PB_ACT_QUICK_GELU: {
        vf s = sigmoid(vset1(1.702f) * x);
        return vfma(vset1(1.702f) * x, s * (one - s), s);
    }
    case PB_ACT_SILU: {
        vf s = sigmoid(x);
        return vfma(x, s * (one - s), s);
    }
    case PB_ACT_TANH: {
        vf t = vtanh(x);
        return one - t * t;
    }
    case PB_ACT_RELU2:
        return vset1(2.0f) * vat_least(x, zero);
    case PB_ACT_NONE:
        break;
    }
    return one;
}

PB_INLINE void bias_act_of(pb_act act, float *pre, const float *bias, const float *linear, float *post, int64_t n) {
    FOR_VECTORS(i, lanes, n) {
        vf x = load_lanes(pre + i, lanes);
        if (bias) {
            x = x + load_lanes(bias + i, lanes);
            store_lanes(pre + i, lanes, x);
        }
        vf y = activate(act, x);
        if (linear)
            y = y * load_lanes(linear + i, lanes);
        store_lanes(post + i, lanes, y);
    }
}

PB_INLINE void act_backward_of(pb_act act, const float *pre, const float *linear, const float *dpost, float *dpre,
                               float *dlinear, int64_t n) {
    FOR_VECTORS(i, lanes, n) {
        vf x = load_lanes(pre + i, lanes), grad = load_lanes(dpost + i, lanes);
        vf dx = grad * slope(act, x);
        if (linear) {
            dx = dx * load_lanes(linear + i, lanes);
            if (dlinear)
                store_lanes(dlinear + i, lanes, grad * activate(act, x));
        }
        store_lanes(dpre + i, lanes, dx);
    }
}

/* One loop per activation: `call` with a constant first argument. */
#define FOR_EACH_ACT(call, ...)                                                                                        \
    switch (act) {                                                                                                     \
    case PB_ACT_NONE:                                                                                                  \
        call(PB_ACT_NONE, __VA_ARGS__);                                                                                \
        break;                                                                                                         \
    case PB_ACT_RELU:                                                                                                  \
        call(PB_ACT_RELU, __VA_ARGS__);                                                                                \
        break;                                                                                                         \
    case PB_ACT_GELU:                                                                                                  \
        call(PB_ACT_GELU, __VA_ARGS__);                                                                                \
        break;                                                                                                         \
    case PB_ACT_GELU_TANH:                                                                                             \
    case PB_ACT_GELU_FAST:                                                                                             \
        call(PB_ACT_GELU_TANH, __VA_ARGS__);                                                                           \
        break;                                                                                                         \
    case PB_ACT_QUICK_GELU:                                                                                            \
        call(PB_ACT_QUICK_GELU, __VA_ARGS__);                                                                          \
        break;                                                                                                         \
    case PB_ACT_SILU:                                                                                                  \
        call(PB_ACT_SILU, __VA_ARGS__);                                                                                \
        break;                                                                                                         \
    case PB_ACT_TANH:                                                                                                  \
        call(PB_ACT_TANH, __VA_ARGS__);                                                                                \
        break;                                                                                                         \
    case PB_ACT_RELU2:                                                                                                 \
        call(PB_ACT_RELU2, __VA_ARGS__);                                                                               \
        break;                                                                                                         \
    }

static void bias_act(pb_act act, float *pre, const float *bias, const float *linear, float *post, int64_t n) {
    FOR_EACH_ACT(bias_act_of, pre, bias, linear, post, n)
}

static void act_backward(pb_act act, const float *pre, const float *linear, const float *dpost, float *dpre,
                         float *dlinear, int64_t n) {
    FOR_EACH_ACT(act_backward_of, pre, linear, dpost, dpre, dlinear, n)
}

static void rotate(float *low, float *high, const float *cosine, const float *sine, int64_t n) {
    FOR_VECTORS(i, lanes, n) {
        vf a = load_lanes(low + i, lanes), b = load_lanes(high + i, lanes);
        vf c = load_lanes(cosine + i, lanes), s = load_lanes(sine + i, lanes);
        store_lanes(low + i, lanes, a * c - b * s);
        store_lanes(high + i, lanes, b * c + a * s);
    }
}

/* ---- rows of logits ------------------------------------------------------------------------------------------------------ */

PB_INLINE vf load_logits(const float *p, int64_t lanes) {
    return lanes == VL ? vload(p) : vload_part(p, lanes, -INFINITY);
}

/* NaN is passed over. */
static float row_max(const float *x, int64_t n) {
    vf best = vset1(-INFINITY), second = best;
    int64_t i = 0;
    for (; i + 2 * VL <= n; i += 2 * VL) {
        best = vat_least(best, vload(x + i));
        second = vat_least(second, vload(x + i + VL));
    }
    for (; i < n; i += VL)
        best = vat_least(best, load_logits(x + i, n - i < VL ? n - i : VL));
    return vmaximum(vat_least(best, second));
}

static double row_logsumexp(const float *x, int64_t n) {
    const float max = row_max(x, n);
    const float shift = isfinite(max) ? max : 0.0f;
    vd low = {0}, high = {0};
    FOR_VECTORS(i, lanes, n) {
        vf weights = vexp(load_logits(x + i, lanes) - vset1(shift));
        low += vlow_double(weights);
        high += vhigh_double(weights);
    }
    return (double)shift + log(vsum_double(low + high));
}

/* Up to two vectors stay in registers: attention to a short prompt is many such rows. */
static void short_softmax(float *x, int64_t n) {
    const int64_t in_a = n < VL ? n : VL, in_b = n - in_a;
    vf a = load_logits(x, in_a), b = load_logits(x + in_a, in_b);
    const vf max = vset1(vmaximum(vat_least(a, b)));
    a = vexp(a - max);
    b = vexp(b - max);
    const vf factor = vset1(1.0f / vsum(a + b));
    store_lanes(x, in_a, factor * a);
    store_lanes(x + in_a, in_b, factor * b);
}

static void row_softmax(float *x, int64_t n) {
    if (n <= 2 * VL) {
        short_softmax(x, n);
        return;
    }
    const vf max = vset1(row_max(x, n));
    vf even = vset1(0.0f), odd = vset1(0.0f);
    int64_t i = 0;
    for (; i + 2 * VL <= n; i += 2 * VL) {
        vf a = vexp(vload(x + i) - max), b = vexp(vload(x + i + VL) - max);
        vstore(x + i, a);
        vstore(x + i + VL, b);
        even += a;
        odd += b;
    }
    for (; i < n; i += VL) {
        const int64_t lanes = n - i < VL ? n - i : VL;
        vf a = vexp(load_logits(x + i, lanes) - max);
        store_lanes(x + i, lanes, a);
        if (i % (2 * VL) == 0)
            even += a;
        else
            odd += a;
    }
    vec_scale(1.0f / vsum(even + odd), x, n);
}

static int64_t row_count_greater(const float *x, int64_t n, float value) {
    const vf than = vset1(value);
    int64_t count = 0;
    int64_t i = 0;
    while (i + VL <= n) {
        /* Lanes count in 32 bits: leave before they could overflow. */
        vi seen = {0};
        const int64_t stop = n - i > INT64_C(1) << 30 ? i + (INT64_C(1) << 30) : n;
        for (; i + VL <= stop; i += VL)
            seen -= vload(x + i) > than;
        for (int lane = 0; lane < VL; lane++)
            count += seen[lane];
    }
    for (; i < n; i++)
        count += x[i] > value;
    return count;
}

static bool row_finite(const float *x, int64_t n) {
    vi bad = {0};
    FOR_VECTORS(i, lanes, n) {
        vi exponent = (vi)load_lanes(x + i, lanes) & INT32_C(0x7f800000);
        bad |= exponent == INT32_C(0x7f800000);
    }
    for (int lane = 0; lane < VL; lane++)
        if (bad[lane])
            return false;
    return true;
}

extern const pb_vector_table PB_TABLE(pb_vector_);
const pb_vector_table PB_TABLE(pb_vector_) = {
    .name = PB_STRING(PB_ISA),
    .exp = vec_exp,
    .tanh = vec_tanh,
    .erf = vec_erf,
    .add = vec_add,
    .axpy = vec_axpy,
    .scale = vec_scale,
    .dot = vec_dot,
    .norm_scale = norm_scale,
    .norm_finish = norm_finish,
    .norm_divide = norm_divide,
    .norm_affine = norm_affine,
    .norm_backward = norm_backward,
    .bias_act = bias_act,
    .act_backward = act_backward,
    .rotate = rotate,
    .logsumexp = row_logsumexp,
    .max = row_max,
    .softmax = row_softmax,
    .count_greater = row_count_greater,
    .finite = row_finite,
};
