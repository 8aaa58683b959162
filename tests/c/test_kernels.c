/* Row kernels: accuracy against double, and that a row's bits depend on nothing but the row. Everything
 * that is compiled per instruction set runs here in the table that this processor uses and in the portable one. */
#include "support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tensor/kernel_table.h"
#include "tensor/kernels.h"

extern const pb_vector_table pb_vector_baseline;

enum { N_TABLES = 2 };
static const pb_vector_table *table_at(int i) { return i == 0 ? &pb_vector_baseline : pb_vector_table_here(); }

static float next_number(uint32_t *seed) {
    *seed = *seed * 1664525u + 1013904223u;
    return (float)(int32_t)*seed * 0x1p-31f;
}

static void fill(float *x, int64_t n, float size, uint32_t seed) {
    for (int64_t i = 0; i < n; i++)
        x[i] = size * next_number(&seed);
}

static float *numbers(int64_t n, float size, uint32_t seed) {
    float *x = malloc((size_t)(n + 1) * sizeof *x);
    assert_non_null(x);
    fill(x, n, size, seed);
    return x;
}

/* ---- exp, tanh, erf ------------------------------------------------------------------------------------------------ */

/* The distance in units of the last place of the true value, at the least of a denormal's. */
static double ulps(float got, double wanted) {
    int exponent;
    frexp(wanted, &exponent);
    const double unit = ldexp(1.0, (exponent < -125 ? -125 : exponent) - 24);
    return fabs((double)got - wanted) / unit;
}

/* Every 1,009th float between low and high in size, of both signs where low is negative. */
static double worst_ulps(void (*f)(const float *, float *, int64_t), double (*exact)(double), float low, float high) {
    enum { AT_ONCE = 1000 };
    float x[AT_ONCE], y[AT_ONCE];
    double worst = 0;
    int n = 0;
    for (uint64_t bits = 0; bits <= UINT32_MAX; bits += 1009) {
        const uint32_t b = (uint32_t)bits;
        float value;
        memcpy(&value, &b, sizeof value);
        if (!(value >= low && value <= high))
            continue;
        x[n++] = value;
        if (n < AT_ONCE)
            continue;
        f(x, y, n);
        for (int i = 0; i < n; i++)
            worst = fmax(worst, ulps(y[i], exact((double)x[i])));
        n = 0;
    }
    return worst;
}

static void exp__dense_sample__within_stated_ulps(void **state) {
    (void)state;
    for (int t = 0; t < N_TABLES; t++) {
        const double worst = worst_ulps(table_at(t)->exp, exp, -87.3f, 88.72f);
        print_message("exp, %s: %.2f ulp\n", table_at(t)->name, worst);
        assert_true(worst < 2.0);
        /* Where results are denormal the absolute error is at most one unit of them. */
        assert_true(worst_ulps(table_at(t)->exp, exp, -104.0f, -87.3f) < 2.0);
    }
}

static void tanh__dense_sample__within_stated_ulps(void **state) {
    (void)state;
    for (int t = 0; t < N_TABLES; t++) {
        const double worst = worst_ulps(table_at(t)->tanh, tanh, -100, 100);
        print_message("tanh, %s: %.2f ulp\n", table_at(t)->name, worst);
        assert_true(worst < 3.0);
    }
}

static void erf__dense_sample__within_stated_ulps(void **state) {
    (void)state;
    for (int t = 0; t < N_TABLES; t++) {
        const double worst = worst_ulps(table_at(t)->erf, erf, -10, 10);
        print_message("erf, %s: %.2f ulp\n", table_at(t)->name, worst);
        assert_true(worst < 3.0);
    }
}

static void exp_tanh_erf__special_values__are_exact(void **state) {
    (void)state;
    const float x[10] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 89.0f, -104.5f, 1e30f, -1e30f, -3e38f};
    for (int t = 0; t < N_TABLES; t++) {
        float y[10];
        table_at(t)->exp(x, y, 10);
        const float wanted[10] = {1, 1, INFINITY, 0, 0, INFINITY, 0, INFINITY, 0, 0};
        for (int i = 0; i < 10; i++)
            assert_true(i == 4 ? isnan(y[i]) : y[i] == wanted[i]);
        void (*const bounded[2])(const float *, float *, int64_t) = {table_at(t)->tanh, table_at(t)->erf};
        for (int f = 0; f < 2; f++) {
            bounded[f](x, y, 10);
            const float limits[10] = {0, 0, 1, -1, 0, 1, -1, 1, -1, -1};
            for (int i = 0; i < 10; i++)
                assert_true(i == 4 ? isnan(y[i]) : y[i] == limits[i]);
            assert_true(signbit(y[1]) != 0);
        }
    }
}

static void elementwise__any_length_and_place__same_bits(void **state) {
    (void)state;
    float x[64], whole[64], part[65];
    fill(x, 64, 3, 1);
    for (int t = 0; t < N_TABLES; t++) {
        void (*const functions[3])(const float *, float *, int64_t) = {table_at(t)->exp, table_at(t)->tanh,
                                                                       table_at(t)->erf};
        for (int f = 0; f < 3; f++) {
            functions[f](x, whole, 64);
            for (int first = 0; first < 20; first++)
                for (int n = 1; first + n <= 64; n += 3) {
                    part[n] = 77;
                    functions[f](x + first, part, n);
                    assert_memory_equal(part, whole + first, (size_t)n * sizeof *part);
                    assert_true(part[n] == 77);
                }
        }
    }
}

static void vectors__odd_lengths__match_double(void **state) {
    (void)state;
    for (int t = 0; t < N_TABLES; t++)
        for (int n = 0; n <= 150; n = n < 40 ? n + 1 : n + 37) {
            float *a = numbers(n, 1, 3), *b = numbers(n, 1, 4), *y = numbers(n, 1, 5);
            double dot = 0;
            for (int i = 0; i < n; i++)
                dot += (double)a[i] * (double)b[i];
            assert_close((double)table_at(t)->dot(a, b, n), dot, 2e-6);
            table_at(t)->add(a, b, y, n);
            for (int i = 0; i < n; i++)
                assert_true(y[i] == a[i] + b[i]);
            table_at(t)->axpy(-0.5f, a, y, n);
            for (int i = 0; i < n; i++)
                assert_close((double)y[i], 0.5 * (double)a[i] + (double)b[i], 2e-7);
            table_at(t)->scale(3, a, n);
            table_at(t)->add(a, a, a, n); /* in place */
            uint32_t seed = 3;
            for (int i = 0; i < n; i++)
                assert_close((double)a[i], 6 * (double)next_number(&seed), 1e-6);
            free(a), free(b), free(y);
        }
}

/* ---- norms ---------------------------------------------------------------------------------------------------------- */

static void norm_in_double(const pb_norm *norm, const float *x, double *scale, double *normalized, double *y) {
    double mean = 0, squares = 0;
    for (int64_t i = 0; i < norm->width && norm->centre; i++)
        mean += (double)x[i] / (double)norm->width;
    for (int64_t i = 0; i < norm->width; i++)
        squares += ((double)x[i] - mean) * ((double)x[i] - mean) / (double)norm->width;
    *scale = sqrt(squares + (double)norm->eps);
    for (int64_t i = 0; i < norm->width; i++) {
        normalized[i] = ((double)x[i] - mean) / *scale;
        y[i] = normalized[i] * (norm->weight ? (double)norm->weight[i] : 1) + (norm->bias ? (double)norm->bias[i] : 0);
    }
}

static void norm_rows__every_kind__matches_double_and_its_steps(void **state) {
    (void)state;
    enum { ROWS = 5, LD = 800 };
    pb_context *ctx = test_context();
    float *x = numbers(ROWS * LD, 3, 11), *y = numbers(ROWS * LD, 1, 12), *normalized = numbers(ROWS * LD, 1, 13);
    float weight[LD], bias[LD], scales[ROWS], alone[LD];
    double wanted_scale, wanted_normalized[LD], wanted[LD];
    fill(weight, LD, 2, 14);
    fill(bias, LD, 1, 15);
    for (int i = 0; i < ROWS * LD; i++)
        x[i] += 10; /* a mean much larger than the spread */
    const int64_t widths[] = {1, 3, 8, 17, 64, 768, 799};
    for (int kind = 0; kind < 8; kind++)
        for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
            const pb_norm norm = {.centre = kind & 1,
                                  .eps = 1e-5f,
                                  .width = widths[w],
                                  .weight = kind & 2 ? weight : NULL,
                                  .bias = kind & 4 ? bias : NULL};
            pb_norm_rows(ctx, &norm, x, LD, ROWS, y, LD, scales, normalized, LD);
            for (int r = 0; r < ROWS; r++) {
                norm_in_double(&norm, x + r * LD, &wanted_scale, wanted_normalized, wanted);
                assert_close((double)scales[r], wanted_scale, 3e-7 * wanted_scale + (norm.width == 1 ? 1e-5 : 0));
                for (int i = 0; i < norm.width; i++) {
                    assert_close((double)normalized[r * LD + i], wanted_normalized[i], 2e-6);
                    assert_close((double)y[r * LD + i], wanted[i], 4e-6);
                }
                float scale = pb_norm_scale(&norm, x + r * LD, alone);
                assert_memory_equal(&scale, &scales[r], sizeof scale);
                pb_norm_divide(&norm, alone, scale, alone);
                assert_memory_equal(alone, normalized + r * LD, (size_t)norm.width * sizeof *alone);
                pb_norm_affine(&norm, alone, alone);
                assert_memory_equal(alone, y + r * LD, (size_t)norm.width * sizeof *alone);
            }
            float in_place[LD];
            memcpy(in_place, x + LD, sizeof in_place);
            pb_norm_rows(ctx, &norm, in_place, LD, 1, in_place, LD, NULL, NULL, 0);
            assert_memory_equal(in_place, y + LD, (size_t)norm.width * sizeof *y);
        }
    free(x), free(y), free(normalized);
    pb_context_unref(ctx);
}

static void norm_baseline__rows__match_double(void **state) {
    (void)state;
    float x[100], y[100], weight[100], bias[100];
    double wanted_scale, wanted_normalized[100], wanted[100];
    fill(x, 100, 2, 21), fill(weight, 100, 1, 22), fill(bias, 100, 1, 23);
    for (int centre = 0; centre < 2; centre++) {
        const pb_norm norm = {.centre = centre, .eps = 1e-6f, .width = 99, .weight = weight, .bias = bias};
        float scale = pb_vector_baseline.norm_scale(&norm, x, y);
        pb_vector_baseline.norm_finish(&norm, y, scale, NULL, y);
        norm_in_double(&norm, x, &wanted_scale, wanted_normalized, wanted);
        for (int i = 0; i < 99; i++)
            assert_close((double)y[i], wanted[i], 1e-6);
    }
}

/* sum_i direction_i * y_i in double, at x + h * step in element k. */
static double norm_objective(const pb_norm *norm, const float *x, const float *direction, int k, double h) {
    enum { WIDTH = 20 };
    double mean = 0, squares = 0, sum = 0, moved[WIDTH];
    for (int i = 0; i < WIDTH; i++) {
        moved[i] = (double)x[i] + (i == k ? h : 0);
        mean += norm->centre ? moved[i] / WIDTH : 0;
    }
    for (int i = 0; i < WIDTH; i++)
        squares += (moved[i] - mean) * (moved[i] - mean) / WIDTH;
    for (int i = 0; i < WIDTH; i++)
        sum += (double)direction[i] * (moved[i] - mean) / sqrt(squares + (double)norm->eps) * (double)norm->weight[i];
    return sum;
}

static void norm_backward__both_kinds__match_differences(void **state) {
    (void)state;
    enum { WIDTH = 20 };
    float x[WIDTH], weight[WIDTH], dy[WIDTH], dx[WIDTH], centred[WIDTH], dweight[WIDTH], dbias[WIDTH];
    fill(x, WIDTH, 2, 31), fill(weight, WIDTH, 1, 32), fill(dy, WIDTH, 1, 33);
    for (int centre = 0; centre < 2; centre++) {
        const pb_norm norm = {.centre = centre, .eps = 1e-5f, .width = WIDTH, .weight = weight};
        const float scale = pb_norm_scale(&norm, x, centred);
        for (int i = 0; i < WIDTH; i++)
            dx[i] = dweight[i] = dbias[i] = 100;
        pb_norm_backward(&norm, x, scale, dy, dx, true, dweight, dbias);
        for (int i = 0; i < WIDTH; i++) {
            double slope = (norm_objective(&norm, x, dy, i, 1e-4) - norm_objective(&norm, x, dy, i, -1e-4)) / 2e-4;
            assert_close((double)dx[i], 100 + slope, 2e-5);
            assert_close((double)dweight[i], 100 + (double)dy[i] * (double)centred[i] / (double)scale, 2e-5);
            assert_close((double)dbias[i], 100 + (double)dy[i], 2e-5);
        }
        pb_norm_backward(&norm, x, scale, dy, dx, false, NULL, NULL);
        assert_close((double)dx[3],
                     (norm_objective(&norm, x, dy, 3, 1e-4) - norm_objective(&norm, x, dy, 3, -1e-4)) / 2e-4, 1e-5);
    }
}

/* ---- activations ---------------------------------------------------------------------------------------------------- */

static const pb_act every_act[] = {PB_ACT_NONE,       PB_ACT_RELU, PB_ACT_GELU, PB_ACT_GELU_TANH, PB_ACT_GELU_FAST,
                                   PB_ACT_QUICK_GELU, PB_ACT_SILU, PB_ACT_TANH, PB_ACT_RELU2};
enum { N_ACTS = sizeof every_act / sizeof *every_act };

static double act_in_double(pb_act act, double x) {
    switch (act) {
    case PB_ACT_RELU:
        return x > 0 ? x : 0;
    case PB_ACT_GELU:
        return 0.5 * x * (1 + erf(x / sqrt(2)));
    case PB_ACT_GELU_TANH:
    case PB_ACT_GELU_FAST:
        return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
    case PB_ACT_QUICK_GELU:
        return x / (1 + exp(-1.702 * x));
    case PB_ACT_SILU:
        return x / (1 + exp(-x));
    case PB_ACT_TANH:
        return tanh(x);
    case PB_ACT_RELU2:
        return x > 0 ? x * x : 0;
    case PB_ACT_NONE:
        break;
    }
    return x;
}

static void bias_act_rows__every_activation__matches_double(void **state) {
    (void)state;
    enum { ROWS = 3, WIDTH = 203, LD = 210 };
    pb_context *ctx = test_context();
    float *x = numbers(ROWS * LD, 9, 41), *pre = malloc(ROWS * LD * sizeof *pre), *post = numbers(ROWS * LD, 1, 42);
    float bias[WIDTH], *linear = numbers(ROWS * LD, 2, 43);
    assert_non_null(pre);
    fill(bias, WIDTH, 1, 44);
    for (int a = 0; a < N_ACTS; a++)
        for (int with = 0; with < 4; with++) {
            memcpy(pre, x, ROWS * LD * sizeof *pre);
            pb_bias_act_rows(ctx, every_act[a], pre, LD, with & 1 ? bias : NULL, with & 2 ? linear : NULL, LD, post, LD,
                             ROWS, WIDTH);
            for (int r = 0; r < ROWS; r++)
                for (int i = 0; i < WIDTH; i++) {
                    const float in = x[r * LD + i] + (with & 1 ? bias[i] : 0);
                    assert_true(pre[r * LD + i] == in);
                    const double size = fabs((double)in) + (every_act[a] == PB_ACT_RELU2 ? (double)(in * in) : 0);
                    const double factor = with & 2 ? (double)linear[r * LD + i] : 1;
                    assert_close((double)post[r * LD + i], act_in_double(every_act[a], (double)in) * factor,
                                 5e-7 * (size + 0.1) * (1 + fabs(factor)));
                }
        }
    free(x), free(pre), free(post), free(linear);
    pb_context_unref(ctx);
}

static void act_backward_rows__every_activation__matches_differences(void **state) {
    (void)state;
    enum { ROWS = 2, WIDTH = 101 };
    pb_context *ctx = test_context();
    float pre[ROWS * WIDTH], linear[ROWS * WIDTH], dpost[ROWS * WIDTH], dpre[ROWS * WIDTH], dlinear[ROWS * WIDTH];
    fill(pre, ROWS * WIDTH, 6, 51), fill(linear, ROWS * WIDTH, 2, 52), fill(dpost, ROWS * WIDTH, 1, 53);
    for (int t = 0; t < N_TABLES; t++)
        for (int a = 0; a < N_ACTS; a++)
            for (int gated = 0; gated < 2; gated++) {
                if (t == 0)
                    for (int r = 0; r < ROWS; r++)
                        pb_vector_baseline.act_backward(every_act[a], pre + r * WIDTH,
                                                        gated ? linear + r * WIDTH : NULL, dpost + r * WIDTH,
                                                        dpre + r * WIDTH, gated ? dlinear + r * WIDTH : NULL, WIDTH);
                else
                    pb_act_backward_rows(ctx, every_act[a], pre, WIDTH, gated ? linear : NULL, WIDTH, dpost, WIDTH,
                                         dpre, WIDTH, gated ? dlinear : NULL, WIDTH, ROWS, WIDTH);
                for (int i = 0; i < ROWS * WIDTH; i++) {
                    const double x = (double)pre[i], factor = gated ? (double)linear[i] : 1;
                    const double slope =
                        (act_in_double(every_act[a], x + 1e-5) - act_in_double(every_act[a], x - 1e-5)) / 2e-5;
                    assert_close((double)dpre[i], (double)dpost[i] * slope * factor, 5e-6);
                    if (gated)
                        assert_close((double)dlinear[i], (double)dpost[i] * act_in_double(every_act[a], x), 5e-6);
                }
            }
    pb_context_unref(ctx);
}

static void activations__nan_and_infinity__propagate(void **state) {
    (void)state;
    pb_context *ctx = test_context();
    for (int a = 0; a < N_ACTS; a++) {
        float pre[5] = {NAN, INFINITY, 2, -200, -0.0f}, post[5];
        pb_bias_act_rows(ctx, every_act[a], pre, 5, NULL, NULL, 0, post, 5, 1, 5);
        assert_true(isnan(post[0]));
        assert_true(every_act[a] == PB_ACT_TANH ? post[1] == 1 : isinf(post[1]) != 0);
        assert_close((double)post[3], act_in_double(every_act[a], -200), 1e-6);
        assert_true(post[4] == 0);
    }
    pb_context_unref(ctx);
}

static void row_kernels__many_rows_and_threads__same_bits(void **state) {
    (void)state;
    enum { ROWS = 61, WIDTH = 700 };
    pb_error err = {0};
    pb_context *ctx = NULL;
    assert_ok(pb_context_create(&(pb_context_options){.threads = 3}, &ctx, &err));
    float *x = numbers(ROWS * WIDTH, 3, 61), *y = numbers(ROWS * WIDTH, 1, 62), *z = numbers(ROWS * WIDTH, 1, 63);
    float alone[WIDTH], pre[WIDTH];
    const pb_norm norm = {.centre = true, .eps = 1e-5f, .width = WIDTH};
    pb_norm_rows(ctx, &norm, x, WIDTH, ROWS, y, WIDTH, NULL, NULL, 0);
    pb_add_rows(ctx, x, WIDTH, y, WIDTH, z, WIDTH, ROWS, WIDTH);
    for (int r = 0; r < ROWS; r++) {
        pb_norm_rows(ctx, &norm, x + r * WIDTH, WIDTH, 1, alone, WIDTH, NULL, NULL, 0);
        assert_memory_equal(alone, y + r * WIDTH, sizeof alone);
        for (int i = 0; i < WIDTH; i++)
            assert_true(z[r * WIDTH + i] == x[r * WIDTH + i] + y[r * WIDTH + i]);
    }
    memcpy(y, x, ROWS * WIDTH * sizeof *y);
    pb_bias_act_rows(ctx, PB_ACT_GELU, y, WIDTH, NULL, NULL, 0, z, WIDTH, ROWS, WIDTH);
    for (int r = 0; r < ROWS; r++) {
        memcpy(pre, x + r * WIDTH, sizeof pre);
        pb_bias_act_rows(ctx, PB_ACT_GELU, pre, WIDTH, NULL, NULL, 0, alone, WIDTH, 1, WIDTH);
        assert_memory_equal(alone, z + r * WIDTH, sizeof alone);
    }
    free(x), free(y), free(z);
    pb_context_unref(ctx);
}

/* ---- rotary positions ------------------------------------------------------------------------------------------------- */

static void rotary__both_pairings__rotate_and_back(void **state) {
    (void)state;
    enum { DIMS = 22, HEAD = 26 };
    float inv_freq[DIMS / 2], cosine[DIMS / 2], sine[DIMS / 2], head[HEAD], before[HEAD];
    for (int i = 0; i < DIMS / 2; i++)
        inv_freq[i] = powf(10000, -2.0f * (float)i / DIMS);
    pb_rotary_table(inv_freq, DIMS / 2, 1000, 0.5f, cosine, sine);
    for (int i = 0; i < DIMS / 2; i++) {
        const float angle = 1000.0f * inv_freq[i];
        assert_true(cosine[i] == (float)cos((double)angle) * 0.5f);
        assert_true(sine[i] == (float)sin((double)angle) * 0.5f);
    }
    for (int interleaved = 0; interleaved < 2; interleaved++) {
        fill(before, HEAD, 1, 71);
        memcpy(head, before, sizeof head);
        pb_rotary_apply(head, DIMS, interleaved, cosine, sine);
        for (int i = 0; i < DIMS / 2; i++) {
            const int a = interleaved ? 2 * i : i, b = interleaved ? 2 * i + 1 : i + DIMS / 2;
            const double c = (double)cosine[i], s = (double)sine[i], x = (double)before[a], y = (double)before[b];
            assert_close((double)head[a], x * c - y * s, 1e-7);
            assert_close((double)head[b], y * c + x * s, 1e-7);
        }
        assert_memory_equal(head + DIMS, before + DIMS, (HEAD - DIMS) * sizeof *head);
        /* The transpose of a rotation scaled by 1/2 takes it back, scaled by 1/4. */
        pb_rotary_apply_back(head, DIMS, interleaved, cosine, sine);
        for (int i = 0; i < DIMS; i++)
            assert_close((double)head[i], 0.25 * (double)before[i], 1e-7);
    }
}

/* ---- rows of logits ------------------------------------------------------------------------------------------------------ */

static void logit_rows__odd_lengths__match_double(void **state) {
    (void)state;
    const int64_t lengths[] = {1, 2, 7, 8, 9, 31, 33, 50257};
    for (int t = 0; t < N_TABLES; t++)
        for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
            const int64_t n = lengths[l];
            float *x = numbers(n, 20, 81), max = -INFINITY;
            double sum = 0;
            int64_t greater = 0;
            for (int64_t i = 0; i < n; i++) {
                sum += exp((double)x[i]);
                greater += x[i] > x[0];
                max = fmaxf(max, x[i]);
            }
            assert_close(table_at(t)->logsumexp(x, n), log(sum), 1e-6);
            assert_true(table_at(t)->max(x, n) == max);
            assert_int_equal(table_at(t)->count_greater(x, n, x[0]), greater);
            assert_int_equal(table_at(t)->count_greater(x, n, NAN), 0);
            assert_true(table_at(t)->finite(x, n));
            float *p = malloc((size_t)n * sizeof *p);
            assert_non_null(p);
            memcpy(p, x, (size_t)n * sizeof *p);
            table_at(t)->softmax(p, n);
            for (int64_t i = 0; i < n; i++)
                assert_close((double)p[i], exp((double)x[i]) / sum, 5e-6 * exp((double)x[i]) / sum);

            x[n - 1] = NAN;
            assert_true(isnan(table_at(t)->logsumexp(x, n)));
            assert_false(table_at(t)->finite(x, n));
            x[n - 1] = -INFINITY;
            assert_false(table_at(t)->finite(x, n));
            x[0] = INFINITY;
            assert_true(table_at(t)->logsumexp(x, n) > 1e30 || n == 1);
            free(x), free(p);
        }
    float x[3] = {-INFINITY, -INFINITY, -INFINITY};
    assert_true(pb_row_logsumexp(x, 3) < -1e300);
    assert_true(pb_rows_finite(x, 3, 0, 3));
    assert_false(pb_rows_finite(x, 1, 3, 1));
}

static void softmax__masked_tail__changes_no_bit(void **state) {
    (void)state;
    for (int t = 0; t < N_TABLES; t++)
        for (int n = 1; n < 70; n++) {
            float alone[200], padded[200];
            fill(alone, n, 8, 91);
            memcpy(padded, alone, sizeof alone);
            for (int i = n; i < 200; i++)
                padded[i] = -INFINITY;
            table_at(t)->softmax(alone, n);
            table_at(t)->softmax(padded, 140);
            assert_memory_equal(alone, padded, (size_t)n * sizeof *alone);
            for (int i = n; i < 140; i++)
                assert_true(padded[i] == 0);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp__dense_sample__within_stated_ulps),
        cmocka_unit_test(tanh__dense_sample__within_stated_ulps),
        cmocka_unit_test(erf__dense_sample__within_stated_ulps),
        cmocka_unit_test(exp_tanh_erf__special_values__are_exact),
        cmocka_unit_test(elementwise__any_length_and_place__same_bits),
        cmocka_unit_test(vectors__odd_lengths__match_double),
        cmocka_unit_test(norm_rows__every_kind__matches_double_and_its_steps),
        cmocka_unit_test(norm_baseline__rows__match_double),
        cmocka_unit_test(norm_backward__both_kinds__match_differences),
        cmocka_unit_test(bias_act_rows__every_activation__matches_double),
        cmocka_unit_test(act_backward_rows__every_activation__matches_differences),
        cmocka_unit_test(activations__nan_and_infinity__propagate),
        cmocka_unit_test(row_kernels__many_rows_and_threads__same_bits),
        cmocka_unit_test(rotary__both_pairings__rotate_and_back),
        cmocka_unit_test(logit_rows__odd_lengths__match_double),
        cmocka_unit_test(softmax__masked_tail__changes_no_bit),
    };
    return cmocka_run_group_tests_name("kernels", tests, NULL, NULL);
}
