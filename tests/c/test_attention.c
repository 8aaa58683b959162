/* Attention of one head: the three steps against double, the fused path against the steps to the bit. */
#include "support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tensor/kernel_table.h"
#include "tensor/kernels.h"

extern const pb_attention_table pb_attention_baseline;

static float next_number(uint32_t *seed) {
    *seed = *seed * 1664525u + 1013904223u;
    return (float)(int32_t)*seed * 0x1p-31f;
}

static void fill(float *x, int64_t n, float size, uint32_t seed) {
    for (int64_t i = 0; i < n; i++)
        x[i] = size * next_number(&seed);
}

enum { T_MAX = 150, D_MAX = 136 };

typedef struct attention_case {
    pb_attention_head head;
    float keys[T_MAX * D_MAX], values[T_MAX * D_MAX], queries[T_MAX * D_MAX];
    const float *key_rows[T_MAX], *value_rows[T_MAX], *query_rows[T_MAX];
    int32_t pos[T_MAX];
    float *packed;
} attention_case;

static attention_case *attention_create(int64_t n_keys, int64_t d) {
    attention_case *c = malloc(sizeof *c);
    assert_non_null(c);
    fill(c->keys, T_MAX * D_MAX, 1, 101);
    fill(c->values, T_MAX * D_MAX, 1, 102);
    fill(c->queries, T_MAX * D_MAX, 2, 103);
    for (int64_t i = 0; i < n_keys; i++) {
        c->key_rows[i] = c->keys + i * d;
        c->value_rows[i] = c->values + i * d;
        c->query_rows[i] = c->queries + i * d;
        c->pos[i] = (int32_t)i;
    }
    c->packed = malloc(pb_attention_packed_size(n_keys, d) * sizeof(float));
    assert_non_null(c->packed);
    pb_attention_pack(c->key_rows, n_keys, d, c->packed);
    c->head = (pb_attention_head){
        .n_keys = n_keys, .d_head = d, .packed_keys = c->packed, .values = c->value_rows, .scale = 1 / sqrtf((float)d)};
    return c;
}

static void attention_free(attention_case *c) {
    free(c->packed);
    free(c);
}

static double bf16_in_double(double x) {
    float value = (float)x;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
    memcpy(&value, &bits, sizeof value);
    return (double)value;
}

static double score_in_double(const attention_case *c, int64_t row, int64_t key) {
    const pb_attention_head *h = &c->head;
    if (key > c->pos[row] || (h->window > 0 && c->pos[row] - key >= h->window))
        return -INFINITY;
    double s = 0;
    for (int64_t i = 0; i < h->d_head; i++)
        s += (double)c->query_rows[row][i] * (double)c->key_rows[key][i];
    if (h->alibi_bf16)
        return (s + bf16_in_double((double)h->alibi * bf16_in_double((double)key))) * (double)h->scale;
    s *= (double)h->scale;
    if (h->softcap != 0)
        s = (double)h->softcap * tanh(s / (double)h->softcap);
    return s + (double)h->alibi * (double)key;
}

/* The three steps against double, for all rows; then the fused path against the three steps, bit for bit. */
static void check_attention(const attention_case *c) {
    const pb_attention_head *h = &c->head;
    const int64_t T = h->n_keys, d = h->d_head;
    float *s = malloc((size_t)(T * T) * sizeof *s), *z = malloc((size_t)(T * d) * sizeof *z);
    float *fused = malloc((size_t)(T * d) * sizeof *fused),
          *scratch = malloc(pb_attention_scratch_size(T) * sizeof *scratch);
    float *z_rows[T_MAX], *fused_rows[T_MAX];
    assert_true(s && z && fused && scratch);
    for (int64_t r = 0; r < T; r++) {
        z_rows[r] = z + r * d;
        fused_rows[r] = fused + r * d;
    }
    pb_attention_scores(h, c->query_rows, c->pos, T, s, T);
    for (int64_t r = 0; r < T; r++)
        for (int64_t j = 0; j < T; j++) {
            const double wanted = score_in_double(c, r, j);
            if (isinf(wanted))
                assert_true(s[r * T + j] == -INFINITY);
            else
                assert_close((double)s[r * T + j], wanted, 1e-5);
        }
    pb_attention_softmax(s, T, T, T);
    pb_attention_mix(h, s, T, T, z_rows);
    for (int64_t r = 0; r < T; r++) {
        double weights[T_MAX], sum = 0;
        for (int64_t j = 0; j < T; j++)
            sum += weights[j] = exp(score_in_double(c, r, j));
        for (int64_t j = 0; j < T; j++)
            assert_close((double)s[r * T + j], weights[j] / sum, 1e-5);
        for (int64_t i = 0; i < d; i++) {
            double wanted = 0;
            for (int64_t j = 0; j < T; j++)
                wanted += weights[j] / sum * (double)c->value_rows[j][i];
            assert_close((double)z[r * d + i], wanted, 1e-5);
        }
    }
    pb_attention_fused(h, c->query_rows, c->pos, T, fused_rows, scratch);
    assert_memory_equal(fused, z, (size_t)(T * d) * sizeof *z);
    /* Rows on their own, and a few together from the middle, out of order. */
    for (int64_t r = 0; r < T; r += 5) {
        memset(fused, 1, (size_t)(T * d) * sizeof *fused);
        pb_attention_fused(h, c->query_rows + r, c->pos + r, 1, fused_rows + r, scratch);
        assert_memory_equal(fused_rows[r], z_rows[r], (size_t)d * sizeof *z);
        const int64_t other = (r * 7 + 3) % T;
        const float *q[2] = {c->query_rows[r], c->query_rows[other]};
        float *out[2] = {fused_rows[r], fused_rows[other]};
        if (other != r) {
            pb_attention_fused(h, q, (int32_t[]){c->pos[r], c->pos[other]}, 2, out, scratch);
            assert_memory_equal(out[0], z_rows[r], (size_t)d * sizeof *z);
            assert_memory_equal(out[1], z_rows[other], (size_t)d * sizeof *z);
        }
    }
    free(s), free(z), free(fused), free(scratch);
}

static void attention__lengths_and_sizes__match_double_and_fused(void **state) {
    (void)state;
    const int64_t cases[][2] = {{1, 4}, {2, 8}, {15, 64}, {16, 16}, {33, 20}, {70, 80}, {150, 136}, {47, 1}, {150, 12}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        attention_case *c = attention_create(cases[i][0], cases[i][1]);
        check_attention(c);
        attention_free(c);
    }
}

static void attention__window_softcap_alibi__match_double_and_fused(void **state) {
    (void)state;
    for (int kind = 0; kind < 5; kind++) {
        attention_case *c = attention_create(101, 24);
        c->head.window = kind == 0 ? 1 : kind == 1 ? 40 : 0;
        c->head.softcap = kind == 2 ? 1.5f : 0;
        c->head.alibi = kind >= 3 ? 0.0137f : 0;
        c->head.alibi_bf16 = kind == 4;
        check_attention(c);
        attention_free(c);
    }
}

static void attention__nan_in_a_later_key__is_not_seen(void **state) {
    (void)state;
    attention_case *c = attention_create(40, 16);
    float z[40 * 16], *z_rows[40], s[40 * 40];
    c->keys[20 * 16 + 3] = NAN;
    c->values[25 * 16 + 2] = NAN;
    pb_attention_pack(c->key_rows, 40, 16, c->packed);
    for (int r = 0; r < 40; r++)
        z_rows[r] = z + r * 16;
    for (int fused = 0; fused < 2; fused++) {
        if (fused) {
            float *scratch = malloc(pb_attention_scratch_size(40) * sizeof *scratch);
            assert_non_null(scratch);
            pb_attention_fused(&c->head, c->query_rows, c->pos, 40, z_rows, scratch);
            free(scratch);
        } else {
            pb_attention_scores(&c->head, c->query_rows, c->pos, 40, s, 40);
            pb_attention_softmax(s, 40, 40, 40);
            pb_attention_mix(&c->head, s, 40, 40, z_rows);
        }
        for (int r = 0; r < 40; r++)
            assert_int_equal(isnan(z[r * 16 + 5]) != 0, r >= 20);
    }
    attention_free(c);
}

/* A pattern that a user edited: zeros inside, a row of zeros, weights that do not add up to 1. */
static void attention_mix__edited_pattern__is_a_plain_weighted_sum(void **state) {
    (void)state;
    enum { ROWS = 8, T = 30, D = 20 };
    attention_case *c = attention_create(T, D);
    float pattern[ROWS * T], z[ROWS * D], *z_rows[ROWS], alone[D], *alone_row = alone;
    fill(pattern, ROWS * T, 1, 111);
    for (int r = 0; r < ROWS; r++) {
        z_rows[r] = z + r * D;
        for (int j = 0; j < T; j++)
            if (r == 3 || j < r || j > T - 2 * r || j == 12)
                pattern[r * T + j] = 0;
    }
    pb_attention_mix(&c->head, pattern, T, ROWS, z_rows);
    for (int r = 0; r < ROWS; r++) {
        for (int i = 0; i < D; i++) {
            double wanted = 0;
            for (int j = 0; j < T; j++)
                wanted += (double)pattern[r * T + j] * (double)c->value_rows[j][i];
            assert_close((double)z[r * D + i], wanted, 2e-6);
        }
        pb_attention_mix(&c->head, pattern + r * T, T, 1, &alone_row);
        assert_memory_equal(alone, z_rows[r], sizeof alone);
    }
    attention_free(c);
}

static void attention_table__baseline__matches_double(void **state) {
    (void)state;
    const pb_attention_table *t = &pb_attention_baseline;
    enum { KEYS = 11, D_LARGEST = 45 };
    for (int d = 1; d <= D_LARGEST; d += 4)
        for (int rows = 1; rows <= t->group; rows++) {
            attention_case *c = attention_create(KEYS, d);
            const int width = t->width, panels = (KEYS + width - 1) / width;
            float packed[32 * D_LARGEST] = {0}, s[12 * 32], z[12 * D_LARGEST] = {0}, *z_rows[12];
            const float *weights[12];
            for (int key = 0; key < KEYS; key++)
                for (int i = 0; i < d; i++)
                    packed[key / width * width * d + i * width + key % width] = c->key_rows[key][i];
            t->dots(c->query_rows, rows, d, packed, panels, s, 32);
            for (int r = 0; r < rows; r++) {
                z_rows[r] = z + r * d;
                weights[r] = s + r * 32;
                t->finish(&c->head, 0, s + r * 32, KEYS);
            }
            t->mix(weights, rows, c->value_rows, 1, KEYS, d, z_rows);
            for (int r = 0; r < rows; r++) {
                c->pos[r] = KEYS;
                for (int key = 0; key < KEYS; key++)
                    assert_close((double)s[r * 32 + key], score_in_double(c, r, key), 1e-5);
                for (int i = 0; i < d; i++) {
                    double wanted = 0;
                    for (int key = 1; key < KEYS; key++)
                        wanted += (double)s[r * 32 + key] * (double)c->value_rows[key][i];
                    assert_close((double)z[r * d + i], wanted, 1e-5);
                }
            }
            attention_free(c);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention__lengths_and_sizes__match_double_and_fused),
        cmocka_unit_test(attention__window_softcap_alibi__match_double_and_fused),
        cmocka_unit_test(attention__nan_in_a_later_key__is_not_seen),
        cmocka_unit_test(attention_mix__edited_pattern__is_a_plain_weighted_sum),
        cmocka_unit_test(attention_table__baseline__matches_double),
    };
    return cmocka_run_group_tests_name("attention", tests, NULL, NULL);
}
