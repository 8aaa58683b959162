/* Derivatives of metrics, and the reverse pass from a metric to the residual stream after the last layer. */
#include <math.h>
#include <string.h>

#include "engine/backward.h"

/* d (sum of the tokens' probabilities) / d logits, times scale, added to out; returns the sum. */
static double add_prob_grad(const float *logits, int64_t vocab, double logsum, const int32_t *tokens, size_t n,
                            double scale, float *out) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += exp(logits[tokens[i]] - logsum);
    for (int64_t v = 0; v < vocab; v++)
        out[v] -= (float)(scale * sum * exp(logits[v] - logsum));
    for (size_t i = 0; i < n; i++)
        out[tokens[i]] += (float)(scale * exp(logits[tokens[i]] - logsum));
    return sum;
}

static double add_log_prob_grad(const float *logits, int64_t vocab, double logsum, const int32_t *tokens, size_t n,
                                double scale, float *out) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += exp(logits[tokens[i]] - logsum);
    double log_sum = n == 1 ? logits[tokens[0]] - logsum : log(sum);
    for (int64_t v = 0; v < vocab; v++)
        out[v] -= (float)(scale * exp(logits[v] - logsum));
    for (size_t i = 0; i < n; i++)
        out[tokens[i]] += (float)(scale * exp(logits[tokens[i]] - logsum - log_sum));
    return log_sum;
}

static double add_mean_grad(const float *logits, const int32_t *tokens, size_t n, double scale, float *out) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += logits[tokens[i]];
        out[tokens[i]] += (float)(scale / (double)n);
    }
    return sum / (double)n;
}

pb_status pb_metric_row_grad(const pb_metric *m, const pb_lane *lane, int32_t pos, const float *logits, int64_t vocab,
                             const float *reference, double scale, float *out, double *value) {
    double logsum = m->kind <= PB_METRIC_LOGITS ? 0 : pb_row_logsumexp(logits, vocab);
    memset(out, 0, (size_t)vocab * sizeof *out);
    switch (m->kind) {
    case PB_METRIC_LOGIT:
        *value += add_mean_grad(logits, m->answers, m->n_answers, scale, out);
        break;
    case PB_METRIC_LOGIT_DIFF:
        *value += add_mean_grad(logits, m->answers, m->n_answers, scale, out) -
                  add_mean_grad(logits, m->wrong, m->n_wrong, -scale, out);
        break;
    case PB_METRIC_LOGITS:
        for (size_t i = 0; i < m->n_answers; i++) {
            *value += m->weights[i] * logits[m->answers[i]];
            out[m->answers[i]] = (float)(scale * m->weights[i]);
        }
        break;
    case PB_METRIC_PROB:
        *value += add_prob_grad(logits, vocab, logsum, m->answers, m->n_answers, scale, out);
        break;
    case PB_METRIC_LOG_PROB:
        *value += add_log_prob_grad(logits, vocab, logsum, m->answers, m->n_answers, scale, out);
        break;
    case PB_METRIC_PROB_DIFF:
        *value += add_prob_grad(logits, vocab, logsum, m->answers, m->n_answers, scale, out) -
                  add_prob_grad(logits, vocab, logsum, m->wrong, m->n_wrong, -scale, out);
        break;
    case PB_METRIC_NLL: {
        int32_t next = lane->tokens[pos + 1];
        *value -= add_log_prob_grad(logits, vocab, logsum, &next, 1, -scale, out);
        break;
    }
    case PB_METRIC_KL: {
        double ref_logsum = pb_row_logsumexp(reference, vocab), sum = 0;
        for (int64_t v = 0; v < vocab; v++) {
            double p = exp(logits[v] - logsum), r = exp(reference[v] - ref_logsum);
            out[v] = (float)(scale * (p - r));
            if (r > 0)
                sum += r * ((reference[v] - ref_logsum) - (logits[v] - logsum));
        }
        *value += sum;
        break;
    }
    case PB_METRIC_RANK:
    case PB_METRIC_FN:
        break;
    }
    return PB_OK;
}

/* ---- final sites ------------------------------------------------------------------------------------------------------------------ */

/* Rows of one lane that its metric reads. */
typedef struct final_rows {
    int32_t n;
    int32_t *pos;
    float *x;      /* [n][D] residual stream after the last layer */
    float *y;      /* [n][D] normed, then what the unembedding reads [n][d_embed] */
    float *narrow; /* [n][d_embed] or y */
    float *logits; /* [block][vocab] */
    float *d;      /* [block][vocab] */
    float *dy;     /* [n][D] */
} final_rows;

static pb_status normed_rows(pb_back *b, size_t i, const final_rows *f, pb_error *err) {
    const pb_spec *spec = b->pass.spec;
    int64_t D = spec->d_model;
    memcpy(f->y, f->x, (size_t)(f->n * D) * sizeof *f->y);
    if (spec->has_final_norm) {
        pb_norm norm = pb_spec_norm(spec, spec->ln_final);
        if (pb_lane_touches_range(&b->lanes[i], spec->layers, PB_SITE_LN_FINAL_SCALE, PB_SITE_LN_FINAL_NORMALIZED))
            PB_TRY(pb_norm_visited(&b->pass, &b->lanes[i], spec->layers, &norm, f->y, f->pos, f->n,
                                   PB_SITE_LN_FINAL_SCALE, err));
        else
            pb_norm_rows(b->pass.ctx, &norm, f->y, D, f->n, f->y, D, NULL, NULL, 0);
    }
    if (spec->project_out.data)
        return pb_linear(b->pass.ctx, f->y, D, f->n, &spec->project_out, f->narrow, spec->d_embed, 0, err);
    return PB_OK;
}

static void unscale(const pb_spec *spec, const float *logits, float *d, int64_t n) {
    for (int64_t v = 0; v < n && spec->final_softcap > 0; v++) {
        float t = logits[v] / spec->final_softcap;
        d[v] *= 1.0f - t * t;
    }
    if (spec->logit_scale != 1.0f)
        pb_vec_scale(spec->logit_scale, d, n);
}

/* Rows first .. first + n of the lane's: logits, the metric's derivative, back to the unembedding's input (dy). */
static pb_status unembed_back(pb_back *b, size_t i, const final_rows *f, int32_t first, int32_t n,
                              const float *reference, pb_error *err) {
    const pb_spec *spec = b->pass.spec;
    pb_context *ctx = b->pass.ctx;
    pb_lane *lane = &b->lanes[i];
    const pb_grad_request *request = b->info[i].request;
    int64_t vocab = spec->vocab, E = spec->d_embed;
    const float *in = f->narrow + first * E;
    PB_TRY(pb_linear(ctx, in, E, n, &spec->unembed, f->logits, vocab, 0, err));
    bool patched = pb_lane_touches(lane, spec->layers, PB_SITE_LOGITS);
    float *own = f->logits; /* before patches */
    for (int64_t v = 0; v < n * vocab; v++) {
        own[v] *= spec->logit_scale;
        if (spec->final_softcap > 0)
            own[v] = spec->final_softcap * tanhf(own[v] / spec->final_softcap);
    }
    float *seen = own;
    if (patched) {
        seen = pb_alloc(ctx, (size_t)(n * vocab), sizeof *seen);
        if (!seen)
            return pb_fail_memory(err, ctx, (size_t)(n * vocab) * sizeof *seen, "patched logits");
        memcpy(seen, own, (size_t)(n * vocab) * sizeof *seen);
    }
    pb_view view = {seen, f->pos + first, n, vocab, vocab, 1, (int32_t)vocab};
    pb_status status = pb_visit(&b->pass, lane, spec->layers, PB_SITE_LOGITS, &view, PB_EDITS_ALL, err);
    for (int32_t r = 0; r < n && status == PB_OK; r++)
        status = pb_metric_row_grad(request->metric, lane, f->pos[first + r], seen + r * vocab, vocab,
                                    reference ? reference + (first + r) * vocab : NULL, request->weight / f->n,
                                    f->d + r * vocab, &b->info[i].value);
    view.data = f->d;
    if (status == PB_OK)
        status = pb_back_visit(b, i, spec->layers, PB_SITE_LOGITS, &view, err);
    for (int32_t r = 0; r < n && status == PB_OK; r++)
        unscale(spec, own + r * vocab, f->d + r * vocab, vocab);
    if (status == PB_OK)
        status = pb_back_linear(b, &spec->unembed, in, E, f->d, vocab, n, err);
    if (status == PB_OK)
        status = pb_linear_input_grad(ctx, f->d, vocab, n, &spec->unembed, f->dy + first * E, E, 0, err);
    if (patched)
        pb_free(seen);
    return status;
}

static pb_status reference_logits(pb_back *b, size_t i, const final_rows *f, pb_tensor **out, pb_error *err) {
    const pb_metric *m = b->info[i].request->metric;
    *out = NULL;
    if (m->kind != PB_METRIC_KL)
        return PB_OK;
    pb_tensor *all = NULL;
    PB_TRY(pb_run_value(m->reference, (pb_site){PB_SITE_LOGITS, -1}, &all, err));
    int64_t *rows = pb_alloc(b->pass.ctx, (size_t)f->n, sizeof *rows);
    pb_status status = rows ? PB_OK : pb_fail_memory(err, b->pass.ctx, (size_t)f->n * sizeof *rows, "kl");
    for (int32_t r = 0; r < f->n && status == PB_OK; r++)
        rows[r] = f->pos[r];
    if (status == PB_OK)
        status = pb_tensor_index(all, 0, rows, f->n, out, err);
    pb_free(rows);
    pb_tensor_unref(all);
    return status;
}

static pb_status final_lane(pb_back *b, size_t i, final_rows *f, int32_t block, pb_error *err) {
    const pb_spec *spec = b->pass.spec;
    pb_lane *lane = &b->lanes[i];
    pb_back_info *info = &b->info[i];
    int64_t D = spec->d_model, E = spec->d_embed;
    PB_TRY(pb_metric_positions(info->request->metric, b->pass.model, lane->T, f->pos, &f->n, err));
    for (int32_t r = 1; r < f->n; r++) /* views want ascending positions */
        for (int32_t j = r; j > 0 && f->pos[j] < f->pos[j - 1]; j--) {
            int32_t p = f->pos[j];
            f->pos[j] = f->pos[j - 1];
            f->pos[j - 1] = p;
        }
    for (int32_t r = 0; r < f->n; r++)
        memcpy(f->x + r * D, pb_run_resid_row(lane->base, spec->layers, f->pos[r], D), (size_t)D * sizeof *f->x);
    PB_TRY(normed_rows(b, i, f, err));
    pb_tensor *reference = NULL;
    PB_TRY(reference_logits(b, i, f, &reference, err));
    pb_status status = PB_OK;
    info->value = 0;
    for (int32_t first = 0; first < f->n && status == PB_OK; first += block)
        status = unembed_back(b, i, f, first, f->n - first < block ? f->n - first : block,
                              reference ? pb_tensor_floats(reference) : NULL, err);
    pb_tensor_unref(reference);
    PB_TRY(status);
    info->value /= f->n;
    float *dy = f->dy;
    if (spec->project_out.data) {
        PB_TRY(pb_back_linear(b, &spec->project_out, f->y, D, f->dy, E, f->n, err));
        dy = f->y; /* not needed again: the norm starts from x */
        PB_TRY(pb_linear_input_grad(b->pass.ctx, f->dy, E, f->n, &spec->project_out, dy, D, 0, err));
    }
    if (spec->has_final_norm)
        PB_TRY(
            pb_back_norm_rows(b, i, spec->layers, spec->ln_final, f->x, dy, f->pos, f->n, PB_SITE_LN_FINAL_SCALE, err));
    for (int32_t r = 0; r < f->n; r++)
        memcpy(b->dx + (info->row0 + f->pos[r]) * D, dy + r * D, (size_t)D * sizeof *dy);
    return PB_OK;
}

pb_status pb_back_final(pb_back *b, pb_error *err) {
    const pb_spec *spec = b->pass.spec;
    pb_context *ctx = b->pass.ctx;
    int64_t D = spec->d_model, E = spec->d_embed;
    size_t T = 0;
    for (size_t i = 0; i < b->n; i++)
        T = (size_t)b->lanes[i].T > T ? (size_t)b->lanes[i].T : T;
    int32_t block = (int32_t)(((size_t)32 << 20) / ((size_t)spec->vocab * sizeof(float)));
    block = block < 8 ? 8 : block;
    block = (size_t)block > T ? (int32_t)T : block;
    final_rows f = {0};
    float *rows = pb_alloc(ctx, T * (size_t)(3 * D + E), sizeof *rows);
    f.pos = pb_alloc(ctx, T, sizeof *f.pos);
    f.logits = pb_alloc(ctx, 2 * (size_t)block * (size_t)spec->vocab, sizeof *f.logits);
    pb_status status = rows && f.pos && f.logits
                           ? PB_OK
                           : pb_fail_memory(err, ctx, T * (size_t)(3 * D + E) * sizeof *rows, "the gradient of logits");
    if (status == PB_OK) {
        f.x = rows;
        f.y = f.x + T * (size_t)D;
        f.dy = f.y + T * (size_t)D;
        f.narrow = spec->project_out.data ? f.dy + T * (size_t)D : f.y;
        f.d = f.logits + (size_t)block * (size_t)spec->vocab;
        memset(b->dx, 0, (size_t)(b->rows * D) * sizeof *b->dx);
    }
    if (status == PB_OK)
        status = pb_sources_prepare(&b->pass, spec->layers, err);
    for (size_t i = 0; i < b->n && status == PB_OK; i++)
        status = final_lane(b, i, &f, block, err);
    pb_free(f.logits);
    pb_free(f.pos);
    pb_free(rows);
    return status;
}
