/* Derivatives of metrics, and the reverse pass from a metric to the residual stream after the last layer. */
#include <math.h>
#include <string.h>

#include "engine/backward.h"

static double prob_of(const float *logits, double logsum, const int32_t *tokens, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += exp(logits[tokens[i]] - logsum);
    return sum;
}

/* out = factor * softmax(logits) */
static void scaled_softmax(const float *logits, int64_t vocab, double logsum, double factor, float *out) {
    for (int64_t v = 0; v < vocab; v++)
        out[v] = (float)(logits[v] - logsum);
    pb_vec_exp(out, out, vocab);
    pb_vec_scale((float)factor, out, vocab);
}

/* The tokens' own part of d (sum of their probabilities) / d logits; the rest is -sum * softmax. */
static void add_prob_grad(const float *logits, double logsum, const int32_t *tokens, size_t n, double scale,
                          float *out) {
    for (size_t i = 0; i < n; i++)
        out[tokens[i]] += (float)(scale * exp(logits[tokens[i]] - logsum));
}

/* The whole of d log(sum of the tokens' probabilities) / d logits, times scale; returns the logarithm. */
static double log_prob_grad(const float *logits, int64_t vocab, double logsum, const int32_t *tokens, size_t n,
                            double scale, float *out) {
    double log_sum = n == 1 ? logits[tokens[0]] - logsum : log(prob_of(logits, logsum, tokens, n));
    scaled_softmax(logits, vocab, logsum, -scale, out);
    add_prob_grad(logits, logsum + log_sum, tokens, n, scale, out);
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

void pb_metric_row_grad(const pb_metric *m, const pb_lane *lane, int32_t pos, const float *logits, int64_t vocab,
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
    case PB_METRIC_PROB: {
        double sum = prob_of(logits, logsum, m->answers, m->n_answers);
        scaled_softmax(logits, vocab, logsum, -scale * sum, out);
        add_prob_grad(logits, logsum, m->answers, m->n_answers, scale, out);
        *value += sum;
        break;
    }
    case PB_METRIC_LOG_PROB:
        *value += log_prob_grad(logits, vocab, logsum, m->answers, m->n_answers, scale, out);
        break;
    case PB_METRIC_PROB_DIFF: {
        double sum = prob_of(logits, logsum, m->answers, m->n_answers) - prob_of(logits, logsum, m->wrong, m->n_wrong);
        scaled_softmax(logits, vocab, logsum, -scale * sum, out);
        add_prob_grad(logits, logsum, m->answers, m->n_answers, scale, out);
        add_prob_grad(logits, logsum, m->wrong, m->n_wrong, -scale, out);
        *value += sum;
        break;
    }
    case PB_METRIC_NLL: {
        int32_t next = lane->tokens[pos + 1];
        *value -= log_prob_grad(logits, vocab, logsum, &next, 1, -scale, out);
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
    case PB_METRIC_FN: /* refused before */
        break;
    }
}

/* ---- final sites ------------------------------------------------------------------------------------------------------------------ */

/* The rows that the lanes' metrics read, lane after lane. */
typedef struct lane_rows {
    int64_t row0;
    int32_t n;
    pb_tensor *reference; /* [n][vocab] for kl, else NULL */
} lane_rows;

typedef struct final_rows {
    lane_rows *lanes;
    int64_t n, block; /* all rows; rows whose logits are made at once */
    int32_t *pos;     /* [n] ascending within a lane */
    double *values;   /* [n] the metric's, row by row */
    float *x;         /* [n][D] residual stream after the last layer */
    float *y;         /* [n][D] normed, then what the unembedding reads [n][d_embed] */
    float *narrow;    /* [n][d_embed] or y */
    float *dy;        /* [n][D] */
    float *logits;    /* [block][vocab] */
    float *d;         /* [block][vocab] */
} final_rows;

static void sort_positions(int32_t *pos, int32_t n) {
    for (int32_t r = 1; r < n; r++)
        for (int32_t j = r; j > 0 && pos[j] < pos[j - 1]; j--) {
            int32_t p = pos[j];
            pos[j] = pos[j - 1];
            pos[j - 1] = p;
        }
}

static pb_status reference_logits(pb_back *b, const pb_metric *m, const int32_t *pos, lane_rows *l, pb_error *err) {
    if (m->kind != PB_METRIC_KL)
        return PB_OK;
    pb_tensor *all = NULL;
    PB_TRY(pb_run_value(m->reference, (pb_site){PB_SITE_LOGITS, -1}, &all, err));
    int64_t *rows = pb_alloc(b->pass.ctx, (size_t)l->n, sizeof *rows);
    pb_status status = rows ? PB_OK : pb_fail_memory(err, b->pass.ctx, (size_t)l->n * sizeof *rows, "kl");
    for (int32_t r = 0; r < l->n && status == PB_OK; r++)
        rows[r] = pos[r];
    if (status == PB_OK)
        status = pb_tensor_index(all, 0, rows, l->n, &l->reference, err);
    pb_free(rows);
    pb_tensor_unref(all);
    return status;
}

/* Rows of all lanes, and what their metrics compare them with. */
static pb_status list_rows(pb_back *b, final_rows *f, pb_error *err) {
    f->n = 0;
    for (size_t i = 0; i < b->n; i++) {
        lane_rows *l = &f->lanes[i];
        const pb_metric *metric = b->info[i].request->metric;
        l->row0 = f->n;
        PB_TRY(pb_metric_positions(metric, b->pass.model, b->lanes[i].T, f->pos + f->n, &l->n, err));
        sort_positions(f->pos + f->n, l->n);
        PB_TRY(reference_logits(b, metric, f->pos + f->n, l, err));
        f->n += l->n;
    }
    return PB_OK;
}

static pb_status norm_lane(pb_back *b, size_t i, const final_rows *f, pb_error *err) {
    const pb_spec *spec = b->pass.spec;
    int64_t D = spec->d_model;
    const lane_rows *l = &f->lanes[i];
    const int32_t *pos = f->pos + l->row0;
    float *x = f->x + l->row0 * D, *y = f->y + l->row0 * D;
    for (int32_t r = 0; r < l->n; r++)
        memcpy(x + r * D, pb_run_resid_row(b->lanes[i].base, spec->layers, pos[r], D), (size_t)D * sizeof *x);
    memcpy(y, x, (size_t)(l->n * D) * sizeof *y);
    if (!spec->has_final_norm)
        return PB_OK;
    pb_norm norm = pb_spec_norm(spec, spec->ln_final);
    if (pb_lane_touches_range(&b->lanes[i], spec->layers, PB_SITE_LN_FINAL_SCALE, PB_SITE_LN_FINAL_NORMALIZED))
        return pb_norm_visited(&b->pass, &b->lanes[i], spec->layers, &norm, y, pos, l->n, PB_SITE_LN_FINAL_SCALE, err);
    pb_norm_rows(b->pass.ctx, &norm, y, D, l->n, y, D, NULL, NULL, 0);
    return PB_OK;
}

/* Through scaling and soft cap, as the forward pass has them. */
static void cap_row(const pb_spec *spec, float *logits, int64_t n) {
    if (spec->logit_scale != 1.0f)
        pb_vec_scale(spec->logit_scale, logits, n);
    for (int64_t v = 0; v < n && spec->final_softcap > 0; v++)
        logits[v] = spec->final_softcap * tanhf(logits[v] / spec->final_softcap);
}

static void cap_row_back(const pb_spec *spec, const float *logits, float *d, int64_t n) {
    for (int64_t v = 0; v < n && spec->final_softcap > 0; v++) {
        float t = logits[v] / spec->final_softcap;
        d[v] *= 1.0f - t * t;
    }
    if (spec->logit_scale != 1.0f)
        pb_vec_scale(spec->logit_scale, d, n);
}

/* Logits of lane i from its row `from` on, n rows of the present block beginning at `logits` and d: the metric's derivative. */
static pb_status metric_back(pb_back *b, size_t i, const final_rows *f, int32_t from, int32_t n, float *logits,
                             float *d, pb_error *err) {
    const pb_spec *spec = b->pass.spec;
    pb_context *ctx = b->pass.ctx;
    pb_lane *lane = &b->lanes[i];
    const lane_rows *l = &f->lanes[i];
    const pb_grad_request *request = b->info[i].request;
    const int64_t vocab = spec->vocab, row0 = l->row0 + from;
    const float *reference = l->reference ? pb_tensor_floats(l->reference) + from * vocab : NULL;
    const bool patched = pb_lane_touches(lane, spec->layers, PB_SITE_LOGITS);
    float *seen = logits; /* after patches */
    if (patched) {
        seen = pb_alloc(ctx, (size_t)(n * vocab), sizeof *seen);
        if (!seen)
            return pb_fail_memory(err, ctx, (size_t)(n * vocab) * sizeof *seen, "patched logits");
        memcpy(seen, logits, (size_t)(n * vocab) * sizeof *seen);
    }
    pb_view view = {seen, f->pos + row0, n, vocab, vocab, 1, (int32_t)vocab};
    pb_status status = pb_visit(&b->pass, lane, spec->layers, PB_SITE_LOGITS, &view, PB_EDITS_ALL, err);
    const int32_t rows = status == PB_OK ? n : 0;
#pragma omp parallel for schedule(static) num_threads(pb_threads_for(ctx, (double)(n * vocab)))
    for (int32_t r = 0; r < rows; r++) {
        f->values[row0 + r] = 0;
        pb_metric_row_grad(request->metric, lane, f->pos[row0 + r], seen + r * vocab, vocab,
                           reference ? reference + r * vocab : NULL, request->weight / l->n, d + r * vocab,
                           &f->values[row0 + r]);
    }
    view.data = d;
    if (status == PB_OK)
        status = pb_back_visit(b, i, spec->layers, PB_SITE_LOGITS, &view, err);
    if (patched)
        pb_free(seen);
    return status;
}

/* Rows first .. first + n of all: logits, the metrics' derivatives, back to the unembedding's input (dy). */
static pb_status unembed_back(pb_back *b, const final_rows *f, int64_t first, int64_t n, pb_error *err) {
    const pb_spec *spec = b->pass.spec;
    pb_context *ctx = b->pass.ctx;
    const int64_t vocab = spec->vocab, E = spec->d_embed;
    const float *in = f->narrow + first * E;
    const int threads = pb_threads_for(ctx, (double)(n * vocab));
    PB_TRY(pb_unembed(&b->pass, in, E, n, f->logits, err));
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t r = 0; r < n; r++)
        cap_row(spec, f->logits + r * vocab, vocab);
    for (size_t i = 0; i < b->n; i++) {
        const lane_rows *l = &f->lanes[i];
        const int64_t from = l->row0 > first ? l->row0 : first;
        const int64_t to = l->row0 + l->n < first + n ? l->row0 + l->n : first + n;
        if (from < to)
            PB_TRY(metric_back(b, i, f, (int32_t)(from - l->row0), (int32_t)(to - from),
                               f->logits + (from - first) * vocab, f->d + (from - first) * vocab, err));
    }
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t r = 0; r < n; r++)
        cap_row_back(spec, f->logits + r * vocab, f->d + r * vocab, vocab);
    PB_TRY(pb_back_linear(b, &spec->unembed, in, E, f->d, vocab, n, err));
    return pb_unembed_input_grad(&b->pass, f->d, n, f->dy + first * E, E, err);
}

static void sum_values(pb_back *b, const final_rows *f) {
    for (size_t i = 0; i < b->n; i++) {
        double sum = 0;
        for (int32_t r = 0; r < f->lanes[i].n; r++)
            sum += f->values[f->lanes[i].row0 + r];
        b->info[i].value = sum / f->lanes[i].n;
    }
}

/* dy -> dx of the lanes */
static pb_status final_norm_back(pb_back *b, const final_rows *f, float *dy, pb_error *err) {
    const pb_spec *spec = b->pass.spec;
    const int64_t D = spec->d_model;
    for (size_t i = 0; i < b->n; i++) {
        const lane_rows *l = &f->lanes[i];
        const int32_t *pos = f->pos + l->row0;
        float *d = dy + l->row0 * D;
        if (spec->has_final_norm)
            PB_TRY(pb_back_norm_rows(b, i, spec->layers, spec->ln_final, f->x + l->row0 * D, d, pos, l->n,
                                     PB_SITE_LN_FINAL_SCALE, err));
        for (int32_t r = 0; r < l->n; r++)
            memcpy(b->dx + (b->info[i].row0 + pos[r]) * D, d + r * D, (size_t)D * sizeof *d);
    }
    return PB_OK;
}

static pb_status all_lanes_back(pb_back *b, const final_rows *f, pb_error *err) {
    const pb_spec *spec = b->pass.spec;
    pb_context *ctx = b->pass.ctx;
    const int64_t D = spec->d_model, E = spec->d_embed;
    for (size_t i = 0; i < b->n; i++)
        PB_TRY(norm_lane(b, i, f, err));
    if (spec->project_out.data)
        PB_TRY(pb_linear(ctx, f->y, D, f->n, &spec->project_out, f->narrow, E, 0, err));
    for (int64_t first = 0; first < f->n; first += f->block)
        PB_TRY(unembed_back(b, f, first, f->n - first < f->block ? f->n - first : f->block, err));
    sum_values(b, f);
    if (!spec->project_out.data)
        return final_norm_back(b, f, f->dy, err);
    PB_TRY(pb_back_linear(b, &spec->project_out, f->y, D, f->dy, E, f->n, err));
    /* y is not needed again: the norm starts from x */
    PB_TRY(pb_linear_input_grad(ctx, f->dy, E, f->n, &spec->project_out, f->y, D, 0, err));
    return final_norm_back(b, f, f->y, err);
}

pb_status pb_back_final(pb_back *b, pb_error *err) {
    enum { BLOCK_BYTES = 64 << 20, WHOLE = 256 }; /* the unembedding's gradient is read and written once a block */
    const pb_spec *spec = b->pass.spec;
    pb_context *ctx = b->pass.ctx;
    const size_t rows = (size_t)b->rows, D = (size_t)spec->d_model, E = (size_t)spec->d_embed,
                 vocab = (size_t)spec->vocab;
    const size_t left = pb_work_left(ctx, 4 * (size_t)BLOCK_BYTES); /* two blocks in half of it */
    const size_t fitting = left / 4 / (vocab * sizeof(float));
    const size_t block = fitting >= WHOLE ? fitting / WHOLE * WHOLE : fitting < 8 ? 8 : fitting;
    final_rows f = {.block = (int64_t)(block < rows ? block : rows)};
    f.lanes = pb_alloc_zero(ctx, b->n, sizeof *f.lanes);
    f.pos = pb_alloc(ctx, rows, sizeof *f.pos);
    f.values = pb_alloc(ctx, rows, sizeof *f.values);
    f.x = pb_alloc(ctx, rows * (3 * D + E), sizeof *f.x);
    f.logits = pb_alloc(ctx, 2 * (size_t)f.block * vocab, sizeof *f.logits);
    pb_status status = f.lanes && f.pos && f.values && f.x && f.logits
                           ? PB_OK
                           : pb_fail_memory(err, ctx, rows * (3 * D + E) * sizeof *f.x, "the gradient of logits");
    if (status == PB_OK) {
        f.y = f.x + rows * D;
        f.dy = f.y + rows * D;
        f.narrow = spec->project_out.data ? f.dy + rows * D : f.y;
        f.d = f.logits + (size_t)f.block * vocab;
        memset(b->dx, 0, rows * D * sizeof *b->dx);
        status = pb_sources_prepare(&b->pass, spec->layers, err);
    }
    if (status == PB_OK)
        status = list_rows(b, &f, err);
    if (status == PB_OK)
        status = all_lanes_back(b, &f, err);
    pb_stream_done(b->pass.model, spec->layers);
    for (size_t i = 0; f.lanes && i < b->n; i++)
        pb_tensor_unref(f.lanes[i].reference);
    pb_free(f.logits);
    pb_free(f.x);
    pb_free(f.values);
    pb_free(f.pos);
    pb_free(f.lanes);
    return status;
}
