/* Attention of one head: groups of query rows against panels of packed keys, softmax, and the mix of values. The fused
 * path is the three steps on a group of rows at a time, with the same inner kernels, so it gives the same bits. */
#include <math.h>
#include <string.h>

#include "tensor/gemm_table.h"
#include "tensor/kernel_table.h"

enum { GROUP_MAX = 12, KEY_UNIT = 32 /* a multiple of every panel width */ };

static int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

size_t pb_attention_packed_size(int64_t n_keys, int64_t d_head) {
    return (size_t)(round_up(n_keys, KEY_UNIT) * d_head);
}

void pb_attention_pack(const float *const *keys, int64_t n_keys, int64_t d_head, float *packed) {
    const pb_gemm_table *gemm = pb_gemm_table_here();
    const int64_t width = pb_attention_table_here()->width;
    for (int64_t key = 0; key < n_keys; key += width, packed += width * d_head) {
        const void *columns[PB_GEMM_WIDTH_MAX];
        const int n = (int)(n_keys - key < width ? n_keys - key : width);
        for (int j = 0; j < n; j++)
            columns[j] = keys[key + j];
        gemm->pack_columns(PB_STORED_F32, columns, columns, n, d_head, packed);
    }
}

typedef struct visible {
    int64_t begin, end;
} visible;

static visible visible_keys(const pb_attention_head *head, int32_t pos) {
    visible v = {0, (int64_t)pos + 1 < head->n_keys ? (int64_t)pos + 1 : head->n_keys};
    if (head->window > 0 && pos - head->window + 1 > 0)
        v.begin = pos - head->window + 1 < v.end ? pos - head->window + 1 : v.end;
    return v;
}

static void mask(float *s, int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; j++)
        s[j] = -INFINITY;
}

/* ---- the three steps -------------------------------------------------------------------------------------------------- */

void pb_attention_scores(const pb_attention_head *head, const float *const *q, const int32_t *pos, int64_t rows,
                         float *scores, int64_t ld) {
    const pb_attention_table *table = pb_attention_table_here();
    float panel[GROUP_MAX * PB_GEMM_WIDTH_MAX];
    const int64_t width = table->width;

    for (int64_t row = 0; row < rows; row += table->group) {
        const int count = (int)(rows - row < table->group ? rows - row : table->group);
        for (int64_t key = 0; key < head->n_keys; key += width) {
            const int64_t n = head->n_keys - key < width ? head->n_keys - key : width;
            table->dots(q + row, count, head->d_head, head->packed_keys + key * head->d_head, 1, panel, width);
            for (int r = 0; r < count; r++)
                memcpy(scores + (row + r) * ld + key, panel + r * width, (size_t)n * sizeof *panel);
        }
        for (int r = 0; r < count; r++) {
            float *s = scores + (row + r) * ld;
            const visible v = visible_keys(head, pos[row + r]);
            table->finish(head, 0, s, v.end);
            mask(s, 0, v.begin);
            mask(s, v.end, head->n_keys);
        }
    }
}

void pb_attention_softmax(float *scores, int64_t ld, int64_t rows, int64_t n_keys) {
    const pb_vector_table *table = pb_vector_table_here();
    for (int64_t r = 0; r < rows; r++)
        table->softmax(scores + r * ld, n_keys);
}

/* Keys outside the first and the last that are not exactly zero. */
static visible trim(const float *weights, visible v) {
    while (v.begin < v.end && weights[v.begin] == 0.0f)
        v.begin++;
    while (v.end > v.begin && weights[v.end - 1] == 0.0f)
        v.end--;
    return v;
}

/* Each row runs over its own keys in order: those before what the group has in common alone, then the common ones
 * together, then the rest alone. */
static void mix_group(const pb_attention_table *table, const pb_attention_head *head, const float *const *weights,
                      visible *keys, int rows, float *const *z) {
    visible common = {0, head->n_keys};
    for (int r = 0; r < rows; r++) {
        memset(z[r], 0, (size_t)head->d_head * sizeof *z[r]);
        keys[r] = trim(weights[r], keys[r]);
        common.begin = keys[r].begin > common.begin ? keys[r].begin : common.begin;
        common.end = keys[r].end < common.end ? keys[r].end : common.end;
    }
    if (rows == 1 || common.begin >= common.end) {
        for (int r = 0; r < rows; r++)
            table->mix(weights + r, 1, head->values, keys[r].begin, keys[r].end, head->d_head, z + r);
        return;
    }
    for (int r = 0; r < rows; r++)
        if (keys[r].begin < common.begin)
            table->mix(weights + r, 1, head->values, keys[r].begin, common.begin, head->d_head, z + r);
    table->mix(weights, rows, head->values, common.begin, common.end, head->d_head, z);
    for (int r = 0; r < rows; r++)
        if (common.end < keys[r].end)
            table->mix(weights + r, 1, head->values, common.end, keys[r].end, head->d_head, z + r);
}

void pb_attention_mix(const pb_attention_head *head, const float *pattern, int64_t ld, int64_t rows, float *const *z) {
    const pb_attention_table *table = pb_attention_table_here();
    for (int64_t row = 0; row < rows; row += table->group) {
        const int count = (int)(rows - row < table->group ? rows - row : table->group);
        const float *weights[GROUP_MAX];
        visible keys[GROUP_MAX];
        for (int r = 0; r < count; r++) {
            weights[r] = pattern + (row + r) * ld;
            keys[r] = (visible){0, head->n_keys};
        }
        mix_group(table, head, weights, keys, count, z + row);
    }
}

/* ---- fused ------------------------------------------------------------------------------------------------------------ */

size_t pb_attention_scratch_size(int64_t n_keys) { return (size_t)(GROUP_MAX * round_up(n_keys, KEY_UNIT)); }

void pb_attention_fused(const pb_attention_head *head, const float *const *q, const int32_t *pos, int64_t rows,
                        float *const *z, float *scratch) {
    const pb_attention_table *table = pb_attention_table_here();
    const pb_vector_table *vectors = pb_vector_table_here();
    const int64_t ld = round_up(head->n_keys, KEY_UNIT);

    for (int64_t row = 0; row < rows; row += table->group) {
        const int count = (int)(rows - row < table->group ? rows - row : table->group);
        visible keys[GROUP_MAX], all = {head->n_keys, 0};
        const float *weights[GROUP_MAX];
        for (int r = 0; r < count; r++) {
            keys[r] = visible_keys(head, pos[row + r]);
            all.begin = keys[r].begin < all.begin ? keys[r].begin : all.begin;
            all.end = keys[r].end > all.end ? keys[r].end : all.end;
            weights[r] = scratch + r * ld;
        }
        /* Whole panels: the softmax's lanes are counted from a multiple of the panel width, as from key 0. */
        const int64_t first = all.begin / table->width * table->width;
        const int64_t n_panels = (all.end - first + table->width - 1) / table->width;
        table->dots(q + row, count, head->d_head, head->packed_keys + first * head->d_head, n_panels, scratch + first,
                    ld);
        for (int r = 0; r < count; r++) {
            float *s = scratch + r * ld;
            table->finish(head, first, s + first, keys[r].end - first);
            mask(s, first, keys[r].begin);
            vectors->softmax(s + first, keys[r].end - first);
        }
        mix_group(table, head, weights, keys, count, z + row);
    }
}
