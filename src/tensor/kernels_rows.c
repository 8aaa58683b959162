/* Row kernels over many rows: norms, activations, sums; rows are dealt out to the context's threads. */
#include <omp.h>

#include "tensor/kernel_table.h"

/* Elements below which waking threads costs more than it saves. */
enum { SERIAL_ELEMENTS = 16384 };

static int threads_for(const pb_context *ctx, int64_t rows, int64_t width) {
    if (rows < 2 || rows * width < SERIAL_ELEMENTS || omp_in_parallel())
        return 1;
    const int threads = pb_context_threads(ctx);
    return rows < threads ? (int)rows : threads;
}

void pb_norm_rows(pb_context *ctx, const pb_norm *norm, const float *x, int64_t ldx, int64_t rows, float *y,
                  int64_t ldy, float *scales, float *normalized, int64_t ld_normalized) {
    const pb_vector_table *table = pb_vector_table_here();
    const int threads = threads_for(ctx, rows, norm->width);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t r = 0; r < rows; r++) {
        float *out = y + r * ldy;
        float scale = table->norm_scale(norm, x + r * ldx, out);
        table->norm_finish(norm, out, scale, normalized ? normalized + r * ld_normalized : NULL, out);
        if (scales)
            scales[r] = scale;
    }
}

float pb_norm_scale(const pb_norm *norm, const float *x, float *centred) {
    return pb_vector_table_here()->norm_scale(norm, x, centred);
}

void pb_norm_divide(const pb_norm *norm, const float *centred, float scale, float *normalized) {
    pb_vector_table_here()->norm_divide(centred, scale, normalized, norm->width);
}

void pb_norm_affine(const pb_norm *norm, const float *normalized, float *y) {
    pb_vector_table_here()->norm_affine(norm, normalized, y);
}

void pb_norm_backward(const pb_norm *norm, const float *x, float scale, const float *dy, float *dx, bool accumulate,
                      float *dweight, float *dbias) {
    pb_vector_table_here()->norm_backward(norm, x, scale, dy, dx, accumulate, dweight, dbias);
}

void pb_bias_act_rows(pb_context *ctx, pb_act act, float *pre, int64_t ld_pre, const float *bias, const float *linear,
                      int64_t ld_linear, float *post, int64_t ld_post, int64_t rows, int64_t width) {
    const pb_vector_table *table = pb_vector_table_here();
    const int threads = threads_for(ctx, rows, width);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t r = 0; r < rows; r++)
        table->bias_act(act, pre + r * ld_pre, bias, linear ? linear + r * ld_linear : NULL, post + r * ld_post, width);
}

void pb_act_backward_rows(pb_context *ctx, pb_act act, const float *pre, int64_t ld_pre, const float *linear,
                          int64_t ld_linear, const float *dpost, int64_t ld_dpost, float *dpre, int64_t ld_dpre,
                          float *dlinear, int64_t ld_dlinear, int64_t rows, int64_t width) {
    const pb_vector_table *table = pb_vector_table_here();
    const int threads = threads_for(ctx, rows, width);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t r = 0; r < rows; r++)
        table->act_backward(act, pre + r * ld_pre, linear ? linear + r * ld_linear : NULL, dpost + r * ld_dpost,
                            dpre + r * ld_dpre, dlinear ? dlinear + r * ld_dlinear : NULL, width);
}

void pb_add_rows(pb_context *ctx, const float *a, int64_t lda, const float *b, int64_t ldb, float *y, int64_t ldy,
                 int64_t rows, int64_t width) {
    const pb_vector_table *table = pb_vector_table_here();
    const int threads = threads_for(ctx, rows, width);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t r = 0; r < rows; r++)
        table->add(a + r * lda, b + r * ldb, y + r * ldy, width);
}
