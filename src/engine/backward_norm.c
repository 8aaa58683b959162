/* Reverse pass: norms, parameters, and the visits that note gradients and take them back through patches. */
#include <math.h>
#include <string.h>

#include "engine/backward.h"

/* ---- visits ---------------------------------------------------------------------------------------------------------------- */

static bool is_at(pb_site site, int layer, pb_site_kind kind) {
    return site.kind == kind && (site.layer == layer || kind >= PB_SITE_LN_FINAL_SCALE);
}

static bool wants(const pb_back_info *info, int layer, pb_site_kind kind) {
    for (size_t i = 0; i < info->n_grads; i++)
        if (is_at(info->grads[i].site, layer, kind))
            return true;
    for (size_t i = 0; i < info->request->n_stops; i++)
        if (is_at(info->request->stops[i], layer, kind))
            return true;
    return false;
}

bool pb_back_stops(const pb_back *back, size_t lane, pb_site site) {
    const pb_grad_request *request = back->info[lane].request;
    for (size_t i = 0; i < request->n_stops; i++)
        if (is_at(request->stops[i], site.layer, site.kind) && request->stops[i].expert == site.expert)
            return true;
    return false;
}

bool pb_back_touches(const pb_back *back, size_t lane, int layer, pb_site_kind first, pb_site_kind last) {
    for (int kind = (int)first; kind <= (int)last; kind++)
        if (wants(&back->info[lane], layer, (pb_site_kind)kind))
            return true;
    return pb_lane_touches_range(&back->lanes[lane], layer, first, last);
}

static void clear_view(const pb_view *view, bool by_head, int32_t T) {
    int32_t heads = view->heads ? view->heads : 1;
    for (int32_t r = 0; r < view->n_rows; r++)
        for (int32_t h = 0; h < heads; h++)
            memset(view->data + r * view->row_stride + h * view->head_stride, 0,
                   (size_t)(by_head ? T : view->width) * sizeof *view->data);
}

pb_status pb_back_visit(pb_back *back, size_t i, int layer, pb_site_kind kind, const pb_view *view, pb_error *err) {
    const pb_back_info *info = &back->info[i];
    bool by_head = pb_site_describe(back->pass.model, kind).shape == PB_SHAPE_HEAD_POS_POS;
    for (size_t g = 0; g < info->n_grads; g++)
        if (is_at(info->grads[g].site, layer, kind) && info->grads[g].site.expert == view->expert)
            pb_capture_fill(&info->grads[g], view, by_head);
    if (pb_back_stops(back, i, (pb_site){kind, layer, view->expert})) {
        clear_view(view, by_head, back->lanes[i].T);
        return PB_OK;
    }
    return pb_visit_back(&back->pass, &back->lanes[i], layer, kind, view, err);
}

pb_status pb_back_visit_all(pb_back *back, int layer, pb_site_kind kind, float *buffer, int heads, int64_t width,
                            pb_error *err) {
    int64_t row = width * (heads ? heads : 1);
    for (size_t i = 0; i < back->n; i++) {
        if (!pb_back_touches(back, i, layer, kind, kind))
            continue;
        pb_lane *lane = &back->lanes[i];
        pb_view view = {buffer + back->info[i].row0 * row, lane->pos, lane->T, row, width, heads, (int32_t)width};
        PB_TRY(pb_back_visit(back, i, layer, kind, &view, err));
    }
    return PB_OK;
}

/* ---- parameters -------------------------------------------------------------------------------------------------------------- */

static float *wanted(const pb_back *back, const void *parameter, pb_origin *origin) {
    if (!back->weights || !parameter || !pb_model_origin(back->pass.model, parameter, origin) ||
        !back->weights[origin->weight])
        return NULL;
    return pb_tensor_floats(back->weights[origin->weight]);
}

float *pb_back_vector(const pb_back *back, const float *parameter) {
    pb_origin origin;
    float *grad = wanted(back, parameter, &origin);
    return grad ? grad + origin.first : NULL; /* norms lie in one piece */
}

static void add_bias(const pb_back *back, const pb_matrix *w, const float *sums) {
    pb_origin origin;
    float *grad = wanted(back, w->bias, &origin);
    for (int64_t i = 0; grad && i < w->out; i++)
        grad[origin.first + i / origin.block * origin.stride + i % origin.block] += sums[i];
}

pb_status pb_back_linear(const pb_back *back, const pb_matrix *w, const float *x, int64_t ldx, const float *dy,
                         int64_t lddy, int64_t rows, pb_error *err) {
    pb_origin origin, bias_origin;
    float *grad = wanted(back, w->data, &origin);
    bool bias = wanted(back, w->bias, &bias_origin) != NULL;
    if (!grad && !bias)
        return PB_OK;
    float *sums = pb_alloc_zero(back->pass.ctx, (size_t)w->out, sizeof *sums);
    if (!sums)
        return pb_fail_memory(err, back->pass.ctx, (size_t)w->out * sizeof *sums, "the gradient of a bias");
    pb_status status = PB_OK;
    if (grad)
        status = pb_linear_weight_grad(back->pass.ctx, x, ldx, dy, lddy, rows, w, grad + origin.first, w->ld,
                                       bias ? sums : NULL, err);
    else
        for (int64_t r = 0; r < rows; r++)
            pb_vec_add(sums, dy + r * lddy, sums, w->out);
    if (status == PB_OK && bias)
        add_bias(back, w, sums);
    pb_free(sums);
    return status;
}

void pb_back_table_row(const pb_back *back, const pb_matrix *table, int64_t index, const float *d) {
    pb_origin origin;
    float *grad = wanted(back, table->data, &origin);
    if (!grad)
        return;
    if (table->in_major) {
        for (int64_t i = 0; i < table->in; i++)
            grad[origin.first + i * table->ld + index] += d[i];
    } else {
        pb_vec_add(grad + origin.first + index * table->ld, d, grad + origin.first + index * table->ld, table->in);
    }
}

/* ---- norms -------------------------------------------------------------------------------------------------------------------- */

/* dweight += sum of dy * normalized, dbias += sum of dy, in the order of the rows: a strip of columns is one thread's. */
static void parameters_back(pb_back *back, const float *centred, const float *scales, const float *dy, int64_t n,
                            int64_t D, float *dweight, float *dbias) {
    enum { STRIP = 64 };
    const int threads = pb_threads_for(back->pass.ctx, 4.0 * (double)(n * D));
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t from = 0; from < D; from += STRIP) {
        const int64_t to = from + STRIP < D ? from + STRIP : D;
        for (int64_t r = 0; r < n; r++)
            for (int64_t c = from; c < to; c++) {
                if (dweight)
                    dweight[c] += dy[r * D + c] * (centred[r * D + c] / scales[r]);
                if (dbias)
                    dbias[c] += dy[r * D + c];
            }
    }
}

static pb_status whole_rows(pb_back *back, const pb_norm *norm, const float *x, float *d, int64_t n, pb_error *err) {
    pb_context *ctx = back->pass.ctx;
    const int64_t D = norm->width;
    if (n == 0)
        return PB_OK;
    float *dweight = pb_back_vector(back, norm->weight), *dbias = pb_back_vector(back, norm->bias);
    float *centred = pb_alloc(ctx, (size_t)n * (size_t)(D + 1), sizeof *centred), *scales;
    if (!centred)
        return pb_fail_memory(err, ctx, (size_t)n * (size_t)(D + 1) * sizeof *centred, "the gradient of a norm");
    scales = centred + n * D;
    const int threads = pb_threads_for(ctx, 8.0 * (double)(n * D));
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t r = 0; r < n; r++)
        scales[r] = pb_norm_scale(norm, x + r * D, centred + r * D);
    if (dweight || dbias)
        parameters_back(back, centred, scales, d, n, D, dweight, dbias);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t r = 0; r < n; r++)
        pb_norm_backward(norm, x + r * D, scales[r], d + r * D, d + r * D, false, NULL, NULL);
    pb_free(centred);
    return PB_OK;
}

/* One lane whose norm is looked at or patched: its steps apart, forward again and back. */
pb_status pb_back_norm_rows(pb_back *back, size_t i, int layer, pb_norm_weights weights, const float *x, float *d,
                            const int32_t *positions, int32_t n, pb_site_kind scale_kind, pb_error *err) {
    pb_context *ctx = back->pass.ctx;
    pb_norm norm = pb_spec_norm(back->pass.spec, weights);
    pb_site_kind normalized_kind = (pb_site_kind)(scale_kind + 1);
    if (!pb_back_touches(back, i, layer, scale_kind, normalized_kind))
        return whole_rows(back, &norm, x, d, n, err);
    int64_t D = norm.width;
    float *centred = pb_alloc(ctx, (size_t)n * (size_t)(2 * D + 3), sizeof *centred);
    if (!centred)
        return pb_fail_memory(err, ctx, (size_t)n * (size_t)(2 * D + 3) * sizeof *centred, "the gradient of a norm");
    float *normalized = centred + n * D, *own_scale = normalized + n * D, *scale = own_scale + n, *d_scale = scale + n;
    float *dweight = pb_back_vector(back, norm.weight), *dbias = pb_back_vector(back, norm.bias);
    for (int32_t r = 0; r < n; r++)
        scale[r] = own_scale[r] = pb_norm_scale(&norm, x + r * D, centred + r * D);
    pb_view scales = {scale, positions, n, 1, 1, 1, 1}, rows = {normalized, positions, n, D, D, 1, (int32_t)D};
    pb_status status = pb_visit(&back->pass, &back->lanes[i], layer, scale_kind, &scales, PB_EDITS_ALL, err);
    for (int32_t r = 0; r < n && status == PB_OK; r++)
        pb_norm_divide(&norm, centred + r * D, scale[r], normalized + r * D);
    if (status == PB_OK)
        status = pb_visit(&back->pass, &back->lanes[i], layer, normalized_kind, &rows, PB_EDITS_ALL, err);
    for (int32_t r = 0; r < n && status == PB_OK; r++)
        for (int64_t c = 0; c < D; c++) { /* through the weight */
            float dy = d[r * D + c];
            if (dweight)
                dweight[c] += dy * normalized[r * D + c];
            if (dbias)
                dbias[c] += dy;
            d[r * D + c] = norm.weight ? dy * norm.weight[c] : dy;
        }
    rows.data = d;
    scales.data = d_scale;
    if (status == PB_OK)
        status = pb_back_visit(back, i, layer, normalized_kind, &rows, err);
    for (int32_t r = 0; r < n && status == PB_OK; r++) {
        double sum = 0;
        for (int64_t c = 0; c < D; c++) {
            sum -= (double)d[r * D + c] * centred[r * D + c];
            d[r * D + c] /= scale[r];
        }
        d_scale[r] = (float)(sum / ((double)scale[r] * scale[r]));
    }
    if (status == PB_OK)
        status = pb_back_visit(back, i, layer, scale_kind, &scales, err);
    for (int32_t r = 0; r < n && status == PB_OK; r++) { /* scale = sqrt(mean(centred^2) + eps), then the mean */
        double mean = 0;
        for (int64_t c = 0; c < D; c++) {
            d[r * D + c] += d_scale[r] * centred[r * D + c] / ((float)D * own_scale[r]);
            mean += d[r * D + c];
        }
        for (int64_t c = 0; norm.centre && c < D; c++)
            d[r * D + c] -= (float)(mean / (double)D);
    }
    pb_free(centred);
    return status;
}

pb_status pb_back_norm(pb_back *back, int layer, pb_norm_weights weights, const float *x, float *d,
                       pb_site_kind scale_kind, pb_error *err) {
    pb_norm norm = pb_spec_norm(back->pass.spec, weights);
    int64_t D = norm.width, from = 0;
    for (size_t i = 0; i <= back->n; i++) { /* untouched lanes together */
        if (i < back->n && !pb_back_touches(back, i, layer, scale_kind, (pb_site_kind)(scale_kind + 1)))
            continue;
        int64_t to = i < back->n ? back->info[i].row0 : back->rows;
        PB_TRY(whole_rows(back, &norm, x + from * D, d + from * D, to - from, err));
        if (i == back->n)
            break;
        const pb_lane *lane = &back->lanes[i];
        PB_TRY(pb_back_norm_rows(back, i, layer, weights, x + to * D, d + to * D, lane->pos, lane->T, scale_kind, err));
        from = to + lane->T;
    }
    return PB_OK;
}
