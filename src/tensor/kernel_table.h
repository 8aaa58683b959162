/* Tables of the kernels that are compiled once per instruction set, and the choice among them. Private to src/tensor.
 * Meanings and promises are in kernels.h; functions here work on one row (or one vector) in the caller's thread. */
#ifndef PB_TENSOR_KERNEL_TABLE_H
#define PB_TENSOR_KERNEL_TABLE_H

#include "tensor/kernels.h"

typedef struct pb_vector_table {
    const char *name;
    void (*exp)(const float *x, float *y, int64_t n);
    void (*tanh)(const float *x, float *y, int64_t n);
    void (*erf)(const float *x, float *y, int64_t n);
    void (*add)(const float *a, const float *b, float *y, int64_t n);
    void (*axpy)(float alpha, const float *x, float *y, int64_t n);
    void (*scale)(float alpha, float *x, int64_t n);
    float (*dot)(const float *a, const float *b, int64_t n);

    float (*norm_scale)(const pb_norm *norm, const float *x, float *centred);
    /* normalized may be NULL; y = normalized * weight + bias. */
    void (*norm_finish)(const pb_norm *norm, const float *centred, float scale, float *normalized, float *y);
    void (*norm_divide)(const float *centred, float scale, float *normalized, int64_t n);
    void (*norm_affine)(const pb_norm *norm, const float *normalized, float *y);
    void (*norm_backward)(const pb_norm *norm, const float *x, float scale, const float *dy, float *dx, bool accumulate,
                          float *dweight, float *dbias);

    void (*bias_act)(pb_act act, float *pre, const float *bias, const float *linear, float *post, int64_t n);
    void (*act_backward)(pb_act act, const float *pre, const float *linear, const float *dpost, float *dpre,
                         float *dlinear, int64_t n);
    void (*rotate)(float *low, float *high, const float *cosine, const float *sine, int64_t n); /* halves */

    double (*logsumexp)(const float *x, int64_t n);
    float (*max)(const float *x, int64_t n);
    void (*softmax)(float *x, int64_t n);
    int64_t (*count_greater)(const float *x, int64_t n, float value);
    bool (*finite)(const float *x, int64_t n);
} pb_vector_table;

typedef struct pb_attention_table {
    int group; /* query rows that `dots` takes at most */
    int width; /* keys of a packed panel; panels are packed by pb_gemm_table's pack_columns of the same width */

    /* s[r * ld + j] = q[r] . key j, for n_panels panels [d][width] that lie one after the other. */
    void (*dots)(const float *const *q, int rows, int64_t d, const float *panels, int64_t n_panels, float *s,
                 int64_t ld);
    /* What comes between the dot products and the softmax, for keys first .. first + n - 1 of one row, unmasked. */
    void (*finish)(const pb_attention_head *head, int64_t first, float *s, int64_t n);
    /* z[r] += sum over keys [begin, end), ascending, of weights[r][key] * values[key]; d floats each. */
    void (*mix)(const float *const *weights, int rows, const float *const *values, int64_t begin, int64_t end,
                int64_t d, float *const *z);
} pb_attention_table;

const pb_vector_table *pb_vector_table_here(void);
const pb_attention_table *pb_attention_table_here(void);

#endif
