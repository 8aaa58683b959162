/* Products with the unembedding, the largest matrix of many models. Of a streamed model a part of its outputs is used at a time:
 * the next part is asked for, the present one computed and let go. The parts have the whole product's bits: outputs do not
 * depend on each other, and backwards the parts are whole blocks of the sum (gemm_table.h), added in the same order. */
#include "engine/internal.h"

pb_status pb_unembed(pb_pass *pass, const float *x, int64_t ldx, int64_t rows, float *logits, pb_error *err) {
    const pb_matrix *w = &pass->spec->unembed;
    int64_t step = pb_stream_outputs(pass->model, w);
    pb_status status = PB_OK;
    pb_stream_outputs_ahead(pass->model, w, 0, step);
    for (int64_t first = 0; first < w->out && status == PB_OK; first += step) {
        int64_t n = w->out - first < step ? w->out - first : step;
        pb_matrix part = pb_matrix_outputs(w, first, n);
        pb_stream_outputs_ahead(pass->model, w, first + n, step);
        status = pb_linear(pass->ctx, x, ldx, rows, &part, logits + first, w->out, 0, err);
        pb_stream_outputs_done(pass->model, w, first, n);
    }
    return status;
}

pb_status pb_unembed_input_grad(pb_pass *pass, const float *d, int64_t rows, float *dx, int64_t lddx, pb_error *err) {
    const pb_matrix *w = &pass->spec->unembed;
    int64_t step = pb_stream_outputs(pass->model, w);
    pb_status status = PB_OK;
    for (int64_t first = 0; first < w->out && status == PB_OK; first += step) {
        int64_t n = w->out - first < step ? w->out - first : step;
        pb_matrix part = pb_matrix_outputs(w, first, n);
        pb_stream_outputs_ahead(pass->model, w, first + n, step);
        status = pb_linear_input_grad(pass->ctx, d + first, w->out, rows, &part, dx, lddx,
                                      first ? PB_LINEAR_ACCUMULATE : 0, err);
        pb_stream_outputs_done(pass->model, w, first, n);
    }
    return status;
}
