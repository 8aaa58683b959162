/* Linear maps as they are stored, and the product of activation rows with them.
 *
 * A pb_matrix is a view on (usually memory-mapped) weights in their stored type and layout; nothing is converted or
 * copied when a model loads. 16-bit weights are widened tile by tile inside the product.
 *
 * Determinism: a value of a product depends on its row of X, its column of W and the instruction set alone, to the
 * bit: not on the other rows or outputs of the call, their number and place, or the number of threads (the order of
 * additions is written down in gemm_table.h). The products are Patchbay's own kernels and not calls of sgemm because
 * OpenBLAS's kernels do not promise that, and because 16-bit weights can be widened while they are packed. Speed is
 * measured against sgemm (bench_kernels). */
#ifndef PB_TENSOR_GEMM_H
#define PB_TENSOR_GEMM_H

#include "patchbay/tensorio.h"

typedef struct pb_matrix {
    const void *data; /* first element; NULL: the map is absent */
    pb_stored type;   /* F32, F16, BF16 (others are converted at load) */
    bool in_major;    /* true: element (i, o) at i * ld + o (GPT-2's Conv1D); false: at row(o) * ld + i */
    int64_t in, out;  /* number of inputs and outputs of this view */
    int64_t ld;       /* elements between stored rows */
    /* Only for !in_major: outputs come in blocks, row(o) = (o / block) * block_stride + o % block (interleaved q,k,v of
     * GPT-NeoX, Bloom, Falcon). block == out where there is one block. */
    int64_t block, block_stride;
    const float *bias; /* [out], or NULL */
} pb_matrix;

/* The view on outputs first .. first + n - 1 of w (a head's rows); n must not cross a block unless the rows are evenly spaced. */
pb_matrix pb_matrix_outputs(const pb_matrix *w, int64_t first, int64_t n);
/* The view on inputs first .. first + n - 1 (a head's part of W_O), without the bias. */
pb_matrix pb_matrix_inputs(const pb_matrix *w, int64_t first, int64_t n);

enum {
    PB_LINEAR_ACCUMULATE = 1, /* y += instead of y = */
    PB_LINEAR_NO_BIAS = 2
};
/* y[r][o] = sum_i x[r][i] w(i, o) + bias[o] for rows r. ldx, ldy: elements between rows. x and y must not overlap.
 * Multi-threaded (serial inside a parallel region). Scratch: at most 4 MiB, and 256 KiB a thread. Fails only when that
 * cannot be had (y is unchanged), or when stopped (y is then undefined). */
PB_NODISCARD pb_status pb_linear(pb_context *ctx, const float *x, int64_t ldx, int64_t rows, const pb_matrix *w,
                                 float *y, int64_t ldy, unsigned flags, pb_error *err);
/* dx[r][i] (+)= sum_o dy[r][o] w(i, o). */
PB_NODISCARD pb_status pb_linear_input_grad(pb_context *ctx, const float *dy, int64_t lddy, int64_t rows,
                                            const pb_matrix *w, float *dx, int64_t lddx, unsigned flags, pb_error *err);
/* dw (float32, layout of w with its own leading dimension lddw; dense blocks: block_stride as in w) += x^T dy; dbias[out] (may
 * be NULL) += column sums of dy. */
PB_NODISCARD pb_status pb_linear_weight_grad(pb_context *ctx, const float *x, int64_t ldx, const float *dy,
                                             int64_t lddy, int64_t rows, const pb_matrix *w, float *dw, int64_t lddw,
                                             float *dbias, pb_error *err);
/* One output column: out[r] = dot(x[r], w(:, o)) + bias[o], for chosen outputs: y[r * n + j] for outputs[j]. Used for
 * the logits of a few tokens. The same bits as pb_linear gives for these outputs. */
PB_NODISCARD pb_status pb_linear_outputs(pb_context *ctx, const float *x, int64_t ldx, int64_t rows, const pb_matrix *w,
                                         const int32_t *outputs, int64_t n, float *y, pb_error *err);
/* Row o of the map as float32 [in] (embedding look-up when w is the [vocab, d] table), any type. */
void pb_matrix_output_row(const pb_matrix *w, int64_t o, float *out);

/* Whether a row of a product has the same bits whatever the number of rows and its place among them: promised above,
 * and measured here on a few shapes at each call (about a millisecond). False also when memory for it cannot be had. */
bool pb_blas_row_invariant(pb_context *ctx);
/* OpenBLAS's own words: version, kernel ("Zen", "SkylakeX"), threading model. Static strings. */
const char *pb_blas_config(void);
const char *pb_blas_corename(void);
/* Best of a few single large sgemm calls with the context's threads, in GFLOP/s (for the bench). */
double pb_blas_peak_gflops(pb_context *ctx, double seconds);

#endif
