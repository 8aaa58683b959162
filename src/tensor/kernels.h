/* Elementwise and row kernels of the forward and backward pass, vectorised; chosen for the processor at run time
 * (baseline x86-64, AVX2+FMA, AVX-512, or plain C elsewhere) without global state.
 *
 * Promise: what a function gives for one row (or element) depends on that row alone: not on its neighbours, the number
 * of rows, or the number of threads. Functions marked [parallel] use ctx's threads; the others run in the caller's.
 * NaN and infinity propagate (the file is never compiled with -ffast-math). exp, tanh, erf: maximal error stated at
 * the definition and tested against double. */
#ifndef PB_TENSOR_KERNELS_H
#define PB_TENSOR_KERNELS_H

#include "patchbay/tensor.h"

/* "avx512", "avx2", "baseline": what runs here. */
const char *pb_kernels_name(void);

void pb_vec_exp(const float *x, float *y, int64_t n);
void pb_vec_add(const float *a, const float *b, float *y, int64_t n); /* y = a + b; y may be a or b */
void pb_vec_axpy(float alpha, const float *x, float *y, int64_t n);   /* y += alpha x */
void pb_vec_scale(float alpha, float *x, int64_t n);
float pb_vec_dot(const float *a, const float *b, int64_t n);

/* ---- norms --------------------------------------------------------------------------------------------------------- */

/* centre: LayerNorm (subtract the mean), else RMSNorm. scale = sqrt(mean square + eps) (of the centred row).
 * normalized = centred / scale. weight, bias [width] or NULL (1, 0). */
typedef struct pb_norm {
    bool centre;
    float eps;
    int64_t width;
    const float *weight, *bias;
} pb_norm;

/* y[r] = normalized * weight + bias. scales [rows] and normalized (ld_normalized) may be NULL; x and y may be the same. [parallel] */
void pb_norm_rows(pb_context *ctx, const pb_norm *norm, const float *x, int64_t ldx, int64_t rows, float *y,
                  int64_t ldy, float *scales, float *normalized, int64_t ld_normalized);
/* The steps apart, for rows whose scale or normalized value was edited. One row each. */
float pb_norm_scale(const pb_norm *norm, const float *x, float *centred); /* centred [width] written; returns scale */
void pb_norm_divide(const pb_norm *norm, const float *centred, float scale, float *normalized);
void pb_norm_affine(const pb_norm *norm, const float *normalized, float *y); /* y may be normalized */
/* dx (+)= the gradient through y = norm(x) given dy; x is the input row, scale its scale. dweight, dbias [width] or NULL: +=. One row. */
void pb_norm_backward(const pb_norm *norm, const float *x, float scale, const float *dy, float *dx, bool accumulate,
                      float *dweight, float *dbias);

/* ---- activations --------------------------------------------------------------------------------------------------- */

typedef enum pb_act {
    PB_ACT_NONE,
    PB_ACT_RELU,
    PB_ACT_GELU /* erf */,
    PB_ACT_GELU_TANH /* gelu_new, gelu_pytorch_tanh */,
    PB_ACT_GELU_FAST /* the same formula as HF's gelu_fast */,
    PB_ACT_QUICK_GELU,
    PB_ACT_SILU,
    PB_ACT_TANH,
    PB_ACT_RELU2 /* relu squared */
} pb_act;
/* pre[r] += bias (if not NULL), in place; post[r] = act(pre[r]) * (linear ? linear[r] : 1); linear's own bias is already in.
 * post may be pre (then pre is lost). [parallel] */
void pb_bias_act_rows(pb_context *ctx, pb_act act, float *pre, int64_t ld_pre, const float *bias, const float *linear,
                      int64_t ld_linear, float *post, int64_t ld_post, int64_t rows, int64_t width);
/* dpre = dpost * act'(pre) * linear; dlinear = dpost * act(pre) (when linear is not NULL). [parallel] */
void pb_act_backward_rows(pb_context *ctx, pb_act act, const float *pre, int64_t ld_pre, const float *linear,
                          int64_t ld_linear, const float *dpost, int64_t ld_dpost, float *dpre, int64_t ld_dpre,
                          float *dlinear, int64_t ld_dlinear, int64_t rows, int64_t width);
/* y[r] = a[r] + b[r]. [parallel] */
void pb_add_rows(pb_context *ctx, const float *a, int64_t lda, const float *b, int64_t ldb, float *y, int64_t ldy,
                 int64_t rows, int64_t width);

/* ---- rotary positions -------------------------------------------------------------------------------------------------- */

/* cosine and sine [dims / 2] of position p: cos(p * inv_freq[i]) * factor (angle in float32 as torch has it: (float) p * inv_freq[i];
 * cos and sin of that angle correctly rounded from double). */
void pb_rotary_table(const float *inv_freq, int64_t half, int64_t position, float factor, float *cosine, float *sine);
/* Rotate the first `dims` (even) of a head vector in place. interleaved: pairs (2i, 2i+1) (GPT-J, Cohere), else (i, i + dims/2). */
void pb_rotary_apply(float *head, int64_t dims, bool interleaved, const float *cosine, const float *sine);
void pb_rotary_apply_back(float *grad, int64_t dims, bool interleaved, const float *cosine,
                          const float *sine); /* transpose */

/* ---- rows of logits ------------------------------------------------------------------------------------------------------ */

double pb_row_logsumexp(const float *x, int64_t n); /* accumulates in double */
float pb_row_max(const float *x, int64_t n);
void pb_row_softmax(float *x, int64_t n); /* in place; entries of -inf become exactly 0 */
/* Number of entries of x greater than value (rank of the answer, ties count in its favour). NaN: counts none. */
int64_t pb_row_count_greater(const float *x, int64_t n, float value);
bool pb_rows_finite(const float *x, int64_t ld, int64_t rows, int64_t width);

/* ---- attention: one head ---------------------------------------------------------------------------------------------------- */

/* One key/value head of one sequence. Keys are packed once (transposed, padded), then used by all query rows of the
 * group. T = number of keys. */
typedef struct pb_attention_head {
    int64_t n_keys; /* T */
    int64_t d_head;
    const float *packed_keys;   /* from pb_attention_pack; pb_attention_packed_size(T, d_head) floats */
    const float *const *values; /* [T] pointers to value vectors [d_head] */
    float scale;                /* scores = q . k * scale */
    float softcap;              /* 0: none; else cap * tanh(s / cap) */
    float alibi;                /* slope: + alibi * key position (0: none); see alibi_bf16 */
    bool alibi_bf16; /* Falcon: position and slope * position rounded to bfloat16, added before the scaling */
    int64_t window;  /* 0: none; else keys j with query - j < window */
} pb_attention_head;

size_t pb_attention_packed_size(int64_t n_keys, int64_t d_head); /* floats */
void pb_attention_pack(const float *const *keys, int64_t n_keys, int64_t d_head, float *packed);

/* Query rows q[r] (pointers to [d_head] vectors) at positions pos[r]; causal: row r sees keys 0..pos[r].
 * scores[r * ld + j], j < T: the softmax's input, -inf where masked. */
void pb_attention_scores(const pb_attention_head *head, const float *const *q, const int32_t *pos, int64_t rows,
                         float *scores, int64_t ld);
/* Row-wise softmax over [T], in place. */
void pb_attention_softmax(float *scores, int64_t ld, int64_t rows, int64_t n_keys);
/* z[r] (pointers to [d_head]) = sum_j pattern[r][j] v_j over the keys from the first to the last whose weight is not 0
 * (a NaN is not 0), in ascending order: values of masked keys before or after are never read. */
void pb_attention_mix(const pb_attention_head *head, const float *pattern, int64_t ld, int64_t rows, float *const *z);
/* The three in one, same bits, touching only keys that each row can see. scratch: pb_attention_scratch_size(T) floats. */
size_t pb_attention_scratch_size(int64_t n_keys);
void pb_attention_fused(const pb_attention_head *head, const float *const *q, const int32_t *pos, int64_t rows,
                        float *const *z, float *scratch);

#endif
