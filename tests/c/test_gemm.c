/* Products with stored weights: values against double, bits against the written definition, independence of rows. */
#include "support.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "tensor/gemm.h"
#include "tensor/gemm_table.h"
#include "tensor/kernels.h"

/* ---- material --------------------------------------------------------------------------------------------------- */

static float next_number(uint32_t *seed) {
    *seed = *seed * 1664525u + 1013904223u;
    return (float)(int32_t)*seed * 0x1p-31f;
}

static float *numbers(size_t n, uint32_t seed) {
    float *x = malloc((n + 1) * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = next_number(&seed);
    return x;
}

/* A map with stored bytes of its own (one byte off any alignment), and the same weights as float32 [in][out]. */
typedef struct map {
    pb_matrix w;
    char *bytes;
    float *dense;
    float *bias;
} map;

static uint16_t to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)(bits >> 16);
}

/* Multiples of 1/512 below 1 in size are exact in half precision with this encoding of normal numbers. */
static uint16_t to_f16(float x) {
    if (x == 0)
        return 0;
    int exponent;
    float fraction = frexpf(fabsf(x), &exponent);
    uint16_t mantissa = (uint16_t)((fraction * 2 - 1) * 1024);
    return (uint16_t)((x < 0 ? 0x8000 : 0) | ((exponent - 1 + 15) << 10) | mantissa);
}

static map map_create(pb_stored type, bool in_major, int64_t in, int64_t out, int64_t block, int64_t stride,
                      uint32_t seed) {
    const int64_t vectors = in_major ? in : out, length = in_major ? out : in, ld = length + 3;
    const int64_t rows = in_major ? in : (vectors + block - 1) / block * stride + 1;
    const size_t size = pb_stored_size(type);
    map m = {.dense = numbers((size_t)(in * out), seed), .bias = numbers((size_t)out, seed + 1)};
    m.bytes = calloc((size_t)(rows * ld) + 1, size);
    assert_non_null(m.bytes);
    for (int64_t i = 0; i < in; i++)
        for (int64_t o = 0; o < out; o++) {
            float *value = &m.dense[i * out + o];
            *value = roundf(*value * 512) / 512; /* exact in every type but bf16 */
            const int64_t at = in_major ? i * ld + o : (o / block * stride + o % block) * ld + i;
            char *to = m.bytes + 1 + (size_t)at * size;
            uint16_t half;
            if (type == PB_STORED_F32) {
                memcpy(to, value, sizeof *value);
                continue;
            }
            half = type == PB_STORED_BF16 ? to_bf16(*value) : to_f16(*value);
            memcpy(to, &half, sizeof half);
            if (type == PB_STORED_BF16) {
                uint32_t wide = (uint32_t)half << 16;
                memcpy(value, &wide, sizeof wide);
            }
        }
    m.w = (pb_matrix){.data = m.bytes + 1,
                      .type = type,
                      .in_major = in_major,
                      .in = in,
                      .out = out,
                      .ld = ld,
                      .block = block,
                      .block_stride = stride,
                      .bias = m.bias};
    return m;
}

static void map_free(map *m) {
    free(m->bytes);
    free(m->dense);
    free(m->bias);
}

static const struct {
    pb_stored type;
    bool in_major;
    int64_t block_share; /* outputs in so many blocks, with a gap after each */
} layouts[] = {{PB_STORED_F32, true, 1},   {PB_STORED_F32, false, 1}, {PB_STORED_BF16, true, 1},
               {PB_STORED_BF16, false, 1}, {PB_STORED_F16, true, 1},  {PB_STORED_F16, false, 1},
               {PB_STORED_F32, false, 3},  {PB_STORED_BF16, false, 4}};
enum { N_LAYOUTS = sizeof layouts / sizeof *layouts };

static map map_of_layout(int layout, int64_t in, int64_t out, uint32_t seed) {
    const int64_t share = layouts[layout].block_share;
    const int64_t block = (out + share - 1) / share;
    return map_create(layouts[layout].type, layouts[layout].in_major, in, out, block, share > 1 ? 2 * block + 1 : block,
                      seed);
}

static pb_context *context_with_threads(int threads) {
    pb_context *ctx = NULL;
    pb_error err = {0};
    assert_ok(pb_context_create(&(pb_context_options){.threads = threads}, &ctx, &err));
    return ctx;
}

/* The definition of gemm_table.h, word for word. */
static bool fused(void) {
#if defined(__aarch64__)
    return true;
#else
    return strcmp(pb_kernels_name(), "baseline") != 0;
#endif
}

static float defined_value(const float *x, const float *dense, int64_t in, int64_t out, int64_t o, float before,
                           const float *bias) {
    float y = before;
    for (int64_t k0 = 0; k0 < in; k0 += PB_GEMM_DEPTH) {
        float sum = 0;
        for (int64_t k = k0; k < in && k < k0 + PB_GEMM_DEPTH; k++) {
            volatile float product = x[k] * dense[k * out + o];
            sum = fused() ? fmaf(x[k], dense[k * out + o], sum) : product + sum;
        }
        y += sum;
    }
    return bias ? y + bias[o] : y;
}

static const int64_t shapes[][3] = {{1, 1, 1},     {2, 3, 5},     {3, 515, 70},  {4, 264, 33},
                                    {7, 256, 64},  {13, 257, 65}, {5, 40, 33},   {31, 520, 130},
                                    {1, 300, 300}, {200, 17, 23}, {1, 270, 1100}};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

/* ---- values ------------------------------------------------------------------------------------------------------- */

static void linear__every_type_and_layout__has_the_defined_bits(void **state) {
    (void)state;
    pb_error err = {0};
    pb_context *ctx = context_with_threads(2);
    for (int layout = 0; layout < N_LAYOUTS; layout++)
        for (int s = 0; s < N_SHAPES; s++)
            for (unsigned flags = 0; flags < 4; flags++) {
                const int64_t rows = shapes[s][0], in = shapes[s][1], out = shapes[s][2], ldx = in + 2, ldy = out + 1;
                map m = map_of_layout(layout, in, out, 3);
                float *x = numbers((size_t)(rows * ldx), 5), *y = numbers((size_t)(rows * ldy), 7);
                float *before = numbers((size_t)(rows * ldy), 7);
                assert_ok(pb_linear(ctx, x, ldx, rows, &m.w, y, ldy, flags, &err));
                for (int64_t r = 0; r < rows; r++) {
                    for (int64_t o = 0; o < out; o++) {
                        float start = flags & PB_LINEAR_ACCUMULATE ? before[r * ldy + o] : 0.0f;
                        const float *bias = flags & PB_LINEAR_NO_BIAS ? NULL : m.bias;
                        float wanted = defined_value(x + r * ldx, m.dense, in, out, o, start, bias);
                        if (memcmp(&wanted, &y[r * ldy + o], sizeof wanted) != 0)
                            fail_msg("layout %d shape %d flags %u: [%d][%d] is %.9g, not %.9g", layout, s, flags,
                                     (int)r, (int)o, (double)y[r * ldy + o], (double)wanted);
                    }
                    assert_memory_equal(&y[r * ldy + out], &before[r * ldy + out], sizeof(float)); /* beyond the row */
                }
                free(x), free(y), free(before);
                map_free(&m);
            }
    pb_context_unref(ctx);
}

static void linear__deep_sum__is_close_to_double(void **state) {
    (void)state;
    enum { ROWS = 3, IN = 3072, OUT = 70 };
    pb_error err = {0};
    pb_context *ctx = context_with_threads(2);
    map m = map_of_layout(1, IN, OUT, 11);
    float *x = numbers(ROWS * IN, 12), *y = numbers(ROWS * OUT, 13);
    assert_ok(pb_linear(ctx, x, IN, ROWS, &m.w, y, OUT, 0, &err));
    double worst = 0;
    for (int r = 0; r < ROWS; r++)
        for (int o = 0; o < OUT; o++) {
            double sum = (double)m.bias[o];
            for (int k = 0; k < IN; k++)
                sum += (double)x[r * IN + k] * (double)m.dense[k * OUT + o];
            worst = fmax(worst, fabs(sum - (double)y[r * OUT + o]));
        }
    /* Sums are about 18 in size; a block of 256 terms and 12 additions lose a few units of 2^-24 of that. */
    assert_true(worst < 2e-5);
    free(x), free(y);
    map_free(&m);
    pb_context_unref(ctx);
}

static void linear__nothing_to_sum__gives_the_bias(void **state) {
    (void)state;
    pb_error err = {0};
    pb_context *ctx = context_with_threads(1);
    float bias[3] = {1, 2, 3}, y[6] = {9, 9, 9, 9, 9, 9}, x = 0;
    pb_matrix w = {.data = &x, .type = PB_STORED_F32, .in_major = true, .in = 0, .out = 3, .ld = 3, .bias = bias};
    assert_ok(pb_linear(ctx, &x, 0, 2, &w, y, 3, 0, &err));
    assert_memory_equal(y, ((float[]){1, 2, 3, 1, 2, 3}), sizeof y);
    w.in = 1;
    assert_ok(pb_linear(ctx, &x, 1, 0, &w, y, 3, 0, &err)); /* no rows: nothing is touched */
    assert_memory_equal(y, ((float[]){1, 2, 3, 1, 2, 3}), sizeof y);
    pb_context_unref(ctx);
}

/* ---- independence --------------------------------------------------------------------------------------------------- */

static void linear__row_among_others__keeps_its_bits(void **state) {
    (void)state;
    enum { ROWS = 403, IN = 530, OUT = 333 };
    pb_error err = {0};
    for (int layout = 0; layout < 4; layout++) {
        map m = map_of_layout(layout, IN, OUT, 21);
        float *x = numbers(ROWS * IN, 22), *all = numbers(ROWS * OUT, 23), *some = numbers(ROWS * OUT, 24);
        pb_context *one = context_with_threads(1);
        assert_ok(pb_linear(one, x, IN, ROWS, &m.w, all, OUT, 0, &err));
        for (int threads = 1; threads <= 3; threads++) {
            pb_context *ctx = context_with_threads(threads);
            for (int64_t rows = 1; rows <= ROWS; rows += rows / 2 + 1) {
                const int64_t first = (ROWS - rows) / 2;
                assert_ok(pb_linear(ctx, x + first * IN, IN, rows, &m.w, some, OUT, 0, &err));
                assert_memory_equal(some, all + first * OUT, (size_t)(rows * OUT) * sizeof *all);
            }
            pb_context_unref(ctx);
        }
        free(x), free(all), free(some);
        map_free(&m);
        pb_context_unref(one);
    }
}

static void linear__more_rows_than_one_chunk__keeps_bits(void **state) {
    (void)state;
    enum { ROWS = 4500, IN = 270, OUT = 9 };
    pb_error err = {0};
    pb_context *ctx = context_with_threads(2);
    map m = map_of_layout(1, IN, OUT, 31);
    float *x = numbers(ROWS * IN, 32), *all = numbers(ROWS * OUT, 33), alone[OUT];
    assert_ok(pb_linear(ctx, x, IN, ROWS, &m.w, all, OUT, 0, &err));
    for (int r = 0; r < ROWS; r += 331) {
        assert_ok(pb_linear(ctx, x + r * IN, IN, 1, &m.w, alone, OUT, 0, &err));
        assert_memory_equal(alone, all + r * OUT, sizeof alone);
    }
    free(x), free(all);
    map_free(&m);
    pb_context_unref(ctx);
}

static void linear__nan_in_one_row__stays_there(void **state) {
    (void)state;
    enum { ROWS = 14, IN = 20, OUT = 40 };
    pb_error err = {0};
    pb_context *ctx = context_with_threads(1);
    map m = map_of_layout(0, IN, OUT, 41);
    float *x = numbers(ROWS * IN, 42), y[ROWS * OUT];
    x[4 * IN + 7] = NAN;
    assert_ok(pb_linear(ctx, x, IN, ROWS, &m.w, y, OUT, 0, &err));
    for (int r = 0; r < ROWS; r++)
        for (int o = 0; o < OUT; o++)
            assert_int_equal(isnan(y[r * OUT + o]) != 0, r == 4);
    free(x);
    map_free(&m);
    pb_context_unref(ctx);
}

static void linear__inside_a_parallel_region__gives_the_same(void **state) {
    (void)state;
    enum { ROWS = 40, IN = 300, OUT = 200 };
    pb_error err = {0};
    pb_context *ctx = context_with_threads(2);
    map m = map_of_layout(1, IN, OUT, 51);
    float *x = numbers(ROWS * IN, 52), *y = numbers(ROWS * OUT, 53), *z = numbers(2 * ROWS * OUT, 54);
    assert_ok(pb_linear(ctx, x, IN, ROWS, &m.w, y, OUT, 0, &err));
    int failed = 0;
#pragma omp parallel for num_threads(2) reduction(+ : failed)
    for (int i = 0; i < 2; i++)
        failed += pb_linear(ctx, x, IN, ROWS, &m.w, z + i * ROWS * OUT, OUT, 0, NULL) != PB_OK;
    assert_int_equal(failed, 0);
    assert_memory_equal(y, z, ROWS * OUT * sizeof *y);
    assert_memory_equal(y, z + ROWS * OUT, ROWS * OUT * sizeof *y);
    free(x), free(y), free(z);
    map_free(&m);
    pb_context_unref(ctx);
}

static void row_invariant__measured__is_true(void **state) {
    (void)state;
    pb_context *ctx = context_with_threads(2);
    assert_true(pb_blas_row_invariant(ctx));
    pb_context_unref(ctx);
}

/* ---- chosen outputs, views --------------------------------------------------------------------------------------------- */

static void linear_outputs__chosen__equal_those_of_linear(void **state) {
    (void)state;
    enum { ROWS = 9, IN = 300, OUT = 90, N = 35 };
    pb_error err = {0};
    pb_context *ctx = context_with_threads(2);
    for (int layout = 0; layout < N_LAYOUTS; layout++) {
        map m = map_of_layout(layout, IN, OUT, 61);
        float *x = numbers(ROWS * IN, 62), all[ROWS * OUT], some[ROWS * N];
        int32_t outputs[N];
        for (int j = 0; j < N; j++)
            outputs[j] = (j * 37 + 5) % OUT;
        outputs[1] = outputs[0]; /* twice the same is allowed */
        assert_ok(pb_linear(ctx, x, IN, ROWS, &m.w, all, OUT, 0, &err));
        for (int rows = 2; rows <= ROWS; rows += ROWS - 2) {
            assert_ok(pb_linear_outputs(ctx, x, IN, rows, &m.w, outputs, N, some, &err));
            for (int r = 0; r < rows; r++)
                for (int j = 0; j < N; j++)
                    assert_memory_equal(&some[r * N + j], &all[r * OUT + outputs[j]], sizeof(float));
        }
        free(x);
        map_free(&m);
    }
    pb_context_unref(ctx);
}

static void matrix_views__parts__equal_parts_of_the_whole(void **state) {
    (void)state;
    enum { ROWS = 4, IN = 48, OUT = 60 };
    pb_error err = {0};
    pb_context *ctx = context_with_threads(1);
    for (int layout = 0; layout < N_LAYOUTS; layout++) {
        map m = map_of_layout(layout, IN, OUT, 71);
        const int64_t block = layouts[layout].in_major ? OUT : m.w.block;
        float *x = numbers(ROWS * IN, 72), all[ROWS * OUT], part[ROWS * OUT], row[IN];
        assert_ok(pb_linear(ctx, x, IN, ROWS, &m.w, all, OUT, 0, &err));
        for (int64_t first = 0; first < OUT; first += block / 2 + 1) {
            const int64_t n = block - first % block;
            pb_matrix view = pb_matrix_outputs(&m.w, first, n);
            assert_ok(pb_linear(ctx, x, IN, ROWS, &view, part, n, 0, &err));
            for (int r = 0; r < ROWS; r++)
                assert_memory_equal(part + r * n, all + r * OUT + first, (size_t)n * sizeof(float));
        }
        pb_matrix whole = pb_matrix_outputs(&m.w, 0, OUT);
        assert_ok(pb_linear(ctx, x, IN, ROWS, &whole, part, OUT, 0, &err));
        assert_memory_equal(part, all, sizeof all);

        for (int64_t o = 0; o < OUT; o += 7) {
            pb_matrix_output_row(&m.w, o, row);
            for (int i = 0; i < IN; i++)
                assert_true(row[i] == m.dense[i * OUT + o]);
        }

        /* Inputs 0..31 and 32..47, added up, give the whole without the bias. */
        pb_matrix low = pb_matrix_inputs(&m.w, 0, 32), high = pb_matrix_inputs(&m.w, 32, IN - 32);
        assert_null(low.bias);
        assert_ok(pb_linear(ctx, x, IN, ROWS, &low, part, OUT, 0, &err));
        assert_ok(pb_linear(ctx, x + 32, IN, ROWS, &high, part, OUT, PB_LINEAR_ACCUMULATE, &err));
        for (int r = 0; r < ROWS; r++)
            for (int o = 0; o < OUT; o++)
                assert_close((double)part[r * OUT + o], (double)(all[r * OUT + o] - m.bias[o]), 1e-5);
        free(x);
        map_free(&m);
    }
    pb_context_unref(ctx);
}

/* ---- gradients ---------------------------------------------------------------------------------------------------------- */

static void check_grads(const int rows) {
    enum { IN = 70, OUT = 300 };
    pb_error err = {0};
    pb_context *ctx = context_with_threads(2);
    for (int layout = 0; layout < N_LAYOUTS; layout++) {
        map m = map_of_layout(layout, IN, OUT, 81);
        map grad = map_create(PB_STORED_F32, m.w.in_major, IN, OUT, m.w.block, m.w.block_stride, 82);
        float *x = numbers((size_t)rows * IN, 83), *dy = numbers((size_t)rows * OUT, 84),
              *dx = numbers((size_t)rows * IN, 85);
        float *dbias = numbers(OUT, 86), *dx_before = numbers((size_t)rows * IN, 85), *dbias_before = numbers(OUT, 86);

        assert_ok(pb_linear_input_grad(ctx, dy, OUT, rows, &m.w, dx, IN, PB_LINEAR_ACCUMULATE, &err));
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < IN; i++) {
                double sum = (double)dx_before[r * IN + i];
                for (int o = 0; o < OUT; o++)
                    sum += (double)dy[r * OUT + o] * (double)m.dense[i * OUT + o];
                assert_close((double)dx[r * IN + i], sum, 3e-5);
            }

        float *dw = malloc((size_t)(OUT * 3 * grad.w.ld + OUT) * sizeof *dw * 2);
        assert_non_null(dw);
        const size_t stored =
            (size_t)(grad.w.in_major
                         ? IN * grad.w.ld
                         : ((OUT - 1) / grad.w.block * grad.w.block_stride + (OUT - 1) % grad.w.block + 1) * grad.w.ld);
        memcpy(dw, grad.w.data, stored * sizeof *dw);
        assert_ok(pb_linear_weight_grad(ctx, x, IN, dy, OUT, rows, &m.w, dw, grad.w.ld, dbias, &err));
        for (int o = 0; o < OUT; o++) {
            double bias = (double)dbias_before[o];
            for (int r = 0; r < rows; r++)
                bias += (double)dy[r * OUT + o];
            assert_close((double)dbias[o], bias, 1e-5);
            for (int i = 0; i < IN; i++) {
                double sum = (double)grad.dense[i * OUT + o];
                for (int r = 0; r < rows; r++)
                    sum += (double)x[r * IN + i] * (double)dy[r * OUT + o];
                const int64_t at = grad.w.in_major
                                       ? i * grad.w.ld + o
                                       : (o / grad.w.block * grad.w.block_stride + o % grad.w.block) * grad.w.ld + i;
                assert_close((double)dw[at], sum, 1e-5);
            }
        }
        free(x), free(dy), free(dx), free(dbias), free(dx_before), free(dbias_before), free(dw);
        map_free(&m);
        map_free(&grad);
    }
    pb_context_unref(ctx);
}

static void linear_grads__every_layout__match_double(void **state) {
    (void)state;
    check_grads(21);
    check_grads(3);
}

/* ---- failures -------------------------------------------------------------------------------------------------------------- */

static pb_status product_body(pb_context *ctx, void *user, pb_error *err) {
    map *m = user;
    float x[6 * 40] = {0}, y[6 * 30];
    PB_TRY(pb_linear(ctx, x, 40, 6, &m->w, y, 30, 0, err));
    return pb_linear_outputs(ctx, x, 40, 6, &m->w, (int32_t[]){3, 4}, 2, y, err);
}

static void linear__no_memory__fails_and_leaves_nothing(void **state) {
    (void)state;
    pb_error err = {0};
    pb_context *ctx = context_with_threads(1);
    map m = map_of_layout(2, 40, 30, 91);
    assert_true(assert_survives_allocation_failure(ctx, product_body, &m) >= 3);

    float x[6 * 40] = {0}, y[6 * 30] = {5};
    pb_context_set_memory_limit(ctx, pb_context_memory_used(ctx) + 1000);
    assert_error(pb_linear(ctx, x, 40, 6, &m.w, y, 30, 0, &err), PB_ERR_MEMORY, "matrix product");
    assert_true(y[0] == 5);
    map_free(&m);
    pb_context_unref(ctx);
}

static void linear__stopped_context__says_so(void **state) {
    (void)state;
    pb_error err = {0};
    pb_context *ctx = context_with_threads(1);
    map m = map_of_layout(0, 40, 30, 95);
    float x[40] = {0}, y[30];
    pb_context_stop(ctx);
    assert_error(pb_linear(ctx, x, 40, 1, &m.w, y, 30, 0, &err), PB_ERR_STOPPED, NULL);
    pb_context_clear_stop(ctx);
    assert_ok(pb_linear(ctx, x, 40, 1, &m.w, y, 30, 0, &err));
    map_free(&m);
    pb_context_unref(ctx);
}

/* ---- every table that this processor can run ----------------------------------------------------------------------------------- */

extern const pb_gemm_table pb_gemm_baseline;

/* The table in use is covered above; the portable one is what other processors get. */
static void gemm_table__baseline__packs_and_multiplies(void **state) {
    (void)state;
    const pb_gemm_table *t = &pb_gemm_baseline;
    enum { DEPTH = 37, N_MAX = PB_GEMM_WIDTH_MAX };
    for (int rows = 1; rows <= t->group; rows++)
        for (int n = 1; n <= t->width; n++)
            for (int layout = 0; layout < 6; layout++) {
                map m = map_of_layout(layout, DEPTH, n, 101);
                float *x = numbers((size_t)(rows * DEPTH), 102);
                float a[PB_GEMM_ROWS_MAX * DEPTH], panel[N_MAX * DEPTH], y[PB_GEMM_ROWS_MAX * N_MAX];
                const void *vectors[DEPTH + N_MAX];
                const int64_t stored = m.w.ld * (int64_t)pb_stored_size(m.w.type);
                for (int i = 0; i < (m.w.in_major ? DEPTH : n); i++)
                    vectors[i] = (const char *)m.w.data + i * stored;
                if (m.w.in_major)
                    t->pack_lines(m.w.type, vectors, DEPTH, n, panel, t->width * DEPTH);
                else
                    t->pack_columns(m.w.type, vectors, vectors, n, DEPTH, panel);
                t->pack_rows(x, DEPTH, 1, rows, DEPTH, a);
                t->multiply(a, rows, panel, DEPTH, y, N_MAX, n, false, m.bias);
                for (int r = 0; r < rows; r++)
                    for (int o = 0; o < n; o++) {
                        double sum = (double)m.bias[o];
                        for (int k = 0; k < DEPTH; k++)
                            sum += (double)x[r * DEPTH + k] * (double)m.dense[k * n + o];
                        assert_close((double)y[r * N_MAX + o], sum, 1e-5);
                    }
                free(x);
                map_free(&m);
            }
}

static void gemm_table__special_halves__are_widened_exactly(void **state) {
    (void)state;
    const pb_gemm_table *tables[2] = {&pb_gemm_baseline, pb_gemm_table_here()};
    /* Smallest and largest denormal, smallest normal, largest, infinities, minus zero, NaN. */
    const uint16_t halves[8] = {0x0001, 0x03ff, 0x0400, 0x7bff, 0x7c00, 0xfc00, 0x8000, 0x7e00};
    const float wanted[7] = {0x1p-24f, 0x1.ff8p-15f, 0x1p-14f, 65504.0f, INFINITY, -INFINITY, -0.0f};
    for (int i = 0; i < 2; i++) {
        float panel[8 * PB_GEMM_WIDTH_MAX];
        const void *column = halves;
        tables[i]->pack_columns(PB_STORED_F16, &column, &column, 1, 8, panel);
        for (int k = 0; k < 7; k++)
            assert_memory_equal(&panel[k * tables[i]->width], &wanted[k], sizeof(float));
        assert_true(isnan(panel[7 * tables[i]->width]));
        const void *columns[8];
        for (int j = 0; j < 8; j++)
            columns[j] = halves;
        tables[i]->pack_columns(PB_STORED_F16, columns, columns, 8, 8, panel); /* the path in blocks */
        for (int k = 0; k < 7; k++)
            assert_memory_equal(&panel[k * tables[i]->width + 5], &wanted[k], sizeof(float));
        assert_true(isnan(panel[7 * tables[i]->width + 5]));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear__every_type_and_layout__has_the_defined_bits),
        cmocka_unit_test(linear__deep_sum__is_close_to_double),
        cmocka_unit_test(linear__nothing_to_sum__gives_the_bias),
        cmocka_unit_test(linear__row_among_others__keeps_its_bits),
        cmocka_unit_test(linear__more_rows_than_one_chunk__keeps_bits),
        cmocka_unit_test(linear__nan_in_one_row__stays_there),
        cmocka_unit_test(linear__inside_a_parallel_region__gives_the_same),
        cmocka_unit_test(row_invariant__measured__is_true),
        cmocka_unit_test(linear_outputs__chosen__equal_those_of_linear),
        cmocka_unit_test(matrix_views__parts__equal_parts_of_the_whole),
        cmocka_unit_test(linear_grads__every_layout__match_double),
        cmocka_unit_test(linear__no_memory__fails_and_leaves_nothing),
        cmocka_unit_test(linear__stopped_context__says_so),
        cmocka_unit_test(gemm_table__baseline__packs_and_multiplies),
        cmocka_unit_test(gemm_table__special_halves__are_widened_exactly),
    };
    return cmocka_run_group_tests_name("gemm", tests, NULL, NULL);
}
