/* After the last layer: final norm, unembedding, metrics, captures of final sites. Logits of many lanes are made together,
 * in blocks of rows that are reduced to numbers at once; metrics of a few tokens' logits never make the others. */
#include "engine/internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_COLUMNS = 96 };
static const size_t LOGIT_BLOCK_BYTES = (size_t)48 << 20;

/* Log-probabilities of a metric's reference run at its positions. */
typedef struct pb_reference {
    const pb_metric *metric;
    float *logits;  /* [n][vocab] */
    double *logsum; /* [n] */
    int32_t n;
    struct pb_reference *next;
} pb_reference;

typedef struct row_item {
    pb_lane *lane;
    int32_t pos;
    int32_t ordinal; /* among the metric's positions */
} row_item;

typedef struct finisher {
    pb_pass *pass;
    const pb_spec *spec;
    float *rows;   /* [block][D] final states, then normed */
    float *logits; /* [block][vocab], or [block][columns] */
    row_item *items;
    int64_t n, block;
    bool full;
    int32_t columns[MAX_COLUMNS];
    int32_t n_columns;
    pb_reference *references;
} finisher;

/* ---- rows of final states ------------------------------------------------------------------------------------------------ */

static const float *final_row(const pb_spec *spec, const pb_lane *lane, int32_t pos) {
    int32_t r = pb_find_row(lane->pos, lane->n, pos);
    return r >= 0 ? lane->x + (int64_t)r * spec->d_model
                  : pb_run_resid_row(lane->base, spec->layers, pos, spec->d_model);
}

static void scale_logits(const pb_spec *spec, float *logits, int64_t n) {
    if (spec->logit_scale != 1.0f)
        for (int64_t i = 0; i < n; i++)
            logits[i] *= spec->logit_scale;
    if (spec->final_softcap > 0)
        for (int64_t i = 0; i < n; i++)
            logits[i] = spec->final_softcap * tanhf(logits[i] / spec->final_softcap);
}

/* Normed rows [n][D] to the input of the unembedding, in place (opt-350m: projected to d_embed). */
static pb_status project_out(pb_pass *pass, float *rows, int64_t n, pb_error *err) {
    const pb_spec *spec = pass->spec;
    if (!spec->project_out.data)
        return PB_OK;
    float *narrow = pb_alloc(pass->ctx, (size_t)n * (size_t)spec->d_embed, sizeof *narrow);
    if (!narrow)
        return pb_fail_memory(err, pass->ctx, (size_t)n * (size_t)spec->d_embed * sizeof *narrow, "projected rows");
    pb_status status = pb_linear(pass->ctx, rows, spec->d_model, n, &spec->project_out, narrow, spec->d_embed, 0, err);
    for (int64_t r = 0; r < n && status == PB_OK; r++)
        memcpy(rows + r * spec->d_model, narrow + r * spec->d_embed, (size_t)spec->d_embed * sizeof *rows);
    pb_free(narrow);
    return status;
}

static pb_status unembed(pb_pass *pass, float *rows, int64_t n, float *logits, pb_error *err) {
    const pb_spec *spec = pass->spec;
    PB_TRY(project_out(pass, rows, n, err));
    PB_TRY(pb_unembed(pass, rows, spec->d_model, n, logits, err));
    int64_t vocab = spec->vocab;
#pragma omp parallel for schedule(static) num_threads(pb_threads_for(pass->ctx, (double)(n * vocab)))
    for (int64_t r = 0; r < n; r++)
        scale_logits(spec, logits + r * vocab, vocab);
    return PB_OK;
}

static void final_norm(pb_pass *pass, float *rows, int64_t n) {
    if (!pass->spec->has_final_norm)
        return;
    pb_norm norm = pb_spec_norm(pass->spec, pass->spec->ln_final);
    pb_norm_rows(pass->ctx, &norm, rows, pass->spec->d_model, n, rows, pass->spec->d_model, NULL, NULL, 0);
}

/* ---- values of a metric ------------------------------------------------------------------------------------------------------ */

static double mean_at(const float *row, const int32_t *tokens, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += row[tokens[i]];
    return sum / (double)n;
}

static double weighted_at(const float *row, const int32_t *tokens, const double *weights, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += weights[i] * row[tokens[i]];
    return sum;
}

static double log_prob_of(const float *row, int64_t vocab, const int32_t *tokens, size_t n, double logsum) {
    (void)vocab;
    if (n == 1)
        return row[tokens[0]] - logsum;
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += exp(row[tokens[i]] - logsum);
    return log(sum);
}

static double prob_of(const float *row, const int32_t *tokens, size_t n, double logsum) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += exp(row[tokens[i]] - logsum);
    return sum;
}

static double kl_row(const pb_reference *ref, int32_t ordinal, const float *row, int64_t vocab, double logsum) {
    const float *p = ref->logits + (int64_t)ordinal * vocab;
    double sum = 0, ref_logsum = ref->logsum[ordinal];
    for (int64_t v = 0; v < vocab; v++) {
        double log_p = p[v] - ref_logsum, prob = exp(log_p);
        if (!(prob <= 0)) /* NaN counts: a reference that is broken must not look like agreement */
            sum += prob * (log_p - (row[v] - logsum));
    }
    return sum;
}

static const pb_reference *find_reference(const finisher *f, const pb_metric *metric) {
    const pb_reference *r = f->references;
    while (r && r->metric != metric)
        r = r->next;
    return r;
}

static double row_value(const finisher *f, const row_item *item, const float *row) {
    const pb_metric *m = item->lane->metric;
    int64_t vocab = f->spec->vocab;
    double logsum = m->kind == PB_METRIC_RANK || m->kind <= PB_METRIC_LOGITS ? 0 : pb_row_logsumexp(row, vocab);
    switch (m->kind) {
    case PB_METRIC_LOGIT:
        return mean_at(row, m->answers, m->n_answers);
    case PB_METRIC_LOGIT_DIFF:
        return mean_at(row, m->answers, m->n_answers) - mean_at(row, m->wrong, m->n_wrong);
    case PB_METRIC_LOGITS:
        return weighted_at(row, m->answers, m->weights, m->n_answers);
    case PB_METRIC_PROB:
        return prob_of(row, m->answers, m->n_answers, logsum);
    case PB_METRIC_LOG_PROB:
        return log_prob_of(row, vocab, m->answers, m->n_answers, logsum);
    case PB_METRIC_PROB_DIFF:
        return prob_of(row, m->answers, m->n_answers, logsum) - prob_of(row, m->wrong, m->n_wrong, logsum);
    case PB_METRIC_RANK:
        return isnan(row[m->answers[0]]) ? NAN : (double)pb_row_count_greater(row, vocab, row[m->answers[0]]);
    case PB_METRIC_NLL:
        return logsum - row[item->lane->tokens[item->pos + 1]];
    case PB_METRIC_KL:
        return kl_row(find_reference(f, m), item->ordinal, row, vocab, logsum);
    case PB_METRIC_FN:
        break;
    }
    return NAN;
}

/* ---- blocks of rows ----------------------------------------------------------------------------------------------------------- */

static int32_t column_of(const finisher *f, int32_t token) {
    for (int32_t i = 0; i < f->n_columns; i++)
        if (f->columns[i] == token)
            return i;
    return -1;
}

static double columns_mean(const finisher *f, const float *row, const int32_t *tokens, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += row[column_of(f, tokens[i])];
    return sum / (double)n;
}

/* A metric of a few tokens' logits, of a row that has those alone. */
static double columns_value(const finisher *f, const pb_metric *m, const float *row) {
    if (m->kind == PB_METRIC_LOGITS) {
        double sum = 0;
        for (size_t i = 0; i < m->n_answers; i++)
            sum += m->weights[i] * row[column_of(f, m->answers[i])];
        return sum;
    }
    double value = columns_mean(f, row, m->answers, m->n_answers);
    return m->kind == PB_METRIC_LOGIT_DIFF ? value - columns_mean(f, row, m->wrong, m->n_wrong) : value;
}

static pb_status flush(finisher *f, pb_error *err) {
    if (f->n == 0)
        return PB_OK;
    pb_pass *pass = f->pass;
    PB_TRY(pb_context_check(pass->ctx, err));
    final_norm(pass, f->rows, f->n);
    double *values = pb_alloc(pass->ctx, (size_t)f->n, sizeof *values);
    if (!values)
        return pb_fail_memory(err, pass->ctx, (size_t)f->n * sizeof *values, "metric values");
    pb_status status;
    if (f->full) {
        int64_t vocab = f->spec->vocab;
        status = unembed(pass, f->rows, f->n, f->logits, err);
        if (status == PB_OK) {
#pragma omp parallel for schedule(dynamic, 4) num_threads(pb_threads_for(pass->ctx, 8.0 * (double)(f->n * vocab)))
            for (int64_t r = 0; r < f->n; r++)
                values[r] = row_value(f, &f->items[r], f->logits + r * vocab);
        }
    } else {
        status = project_out(pass, f->rows, f->n, err);
        if (status == PB_OK)
            status = pb_linear_outputs(pass->ctx, f->rows, f->spec->d_model, f->n, &f->spec->unembed, f->columns,
                                       f->n_columns, f->logits, err);
        for (int64_t r = 0; r < f->n && status == PB_OK; r++) {
            float *row = f->logits + r * f->n_columns;
            scale_logits(f->spec, row, f->n_columns);
            values[r] = columns_value(f, f->items[r].lane->metric, row);
        }
    }
    for (int64_t r = 0; r < f->n && status == PB_OK; r++)
        f->items[r].lane->value += values[r];
    pb_free(values);
    f->n = 0;
    f->n_columns = 0;
    return status;
}

static bool add_columns(finisher *f, const int32_t *tokens, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (column_of(f, tokens[i]) >= 0)
            continue;
        if (f->n_columns == MAX_COLUMNS)
            return false;
        f->columns[f->n_columns++] = tokens[i];
    }
    return true;
}

static pb_status add_rows(finisher *f, pb_lane *lane, const int32_t *positions, int32_t n, pb_error *err) {
    const pb_metric *m = lane->metric;
    bool full = pb_metric_needs_all_logits(m) || m->n_answers + m->n_wrong > MAX_COLUMNS / 2;
    if (full != f->full)
        PB_TRY(flush(f, err));
    f->full = full;
    if (!full && (!add_columns(f, m->answers, m->n_answers) || !add_columns(f, m->wrong, m->n_wrong))) {
        PB_TRY(flush(f, err));
        add_columns(f, m->answers, m->n_answers);
        add_columns(f, m->wrong, m->n_wrong);
    }
    for (int32_t i = 0; i < n; i++) {
        if (f->n == f->block) {
            PB_TRY(flush(f, err));
            if (!full) {
                add_columns(f, m->answers, m->n_answers);
                add_columns(f, m->wrong, m->n_wrong);
            }
        }
        memcpy(f->rows + f->n * f->spec->d_model, final_row(f->spec, lane, positions[i]),
               (size_t)f->spec->d_model * sizeof(float));
        f->items[f->n++] = (row_item){lane, positions[i], i};
    }
    return PB_OK;
}

/* ---- lanes that are looked at or changed after the last layer ------------------------------------------------------------------ */

static pb_status whole_rows(finisher *f, pb_lane *lane, const int32_t *positions, int32_t n, pb_tensor **out,
                            pb_error *err) {
    pb_pass *pass = f->pass;
    const pb_spec *spec = f->spec;
    int64_t D = spec->d_model, shape[2] = {n, spec->vocab};
    float *rows = pb_alloc(pass->ctx, (size_t)n * (size_t)D, sizeof *rows);
    if (!rows)
        return pb_fail_memory(err, pass->ctx, (size_t)n * (size_t)D * sizeof *rows, "final rows");
    for (int32_t i = 0; i < n; i++)
        memcpy(rows + i * D, final_row(spec, lane, positions[i]), (size_t)D * sizeof *rows);
    pb_status status = PB_OK;
    if (spec->has_final_norm) {
        pb_norm norm = pb_spec_norm(spec, spec->ln_final);
        if (pb_lane_touches_range(lane, spec->layers, PB_SITE_LN_FINAL_SCALE, PB_SITE_LN_FINAL_NORMALIZED) ||
            pb_lane_touches_range(lane, -1, PB_SITE_LN_FINAL_SCALE, PB_SITE_LN_FINAL_NORMALIZED))
            status = pb_norm_visited(pass, lane, spec->layers, &norm, rows, positions, n, PB_SITE_LN_FINAL_SCALE, err);
        else
            final_norm(pass, rows, n);
    }
    pb_tensor *logits = NULL;
    if (status == PB_OK)
        status = pb_tensor_create(pass->ctx, PB_F32, 2, shape, &logits, err);
    if (status == PB_OK)
        status = unembed(pass, rows, n, pb_tensor_floats(logits), err);
    if (status == PB_OK) {
        pb_view view = {pb_tensor_floats(logits), positions, n, spec->vocab, spec->vocab, 1, spec->vocab};
        status = pb_visit(pass, lane, spec->layers, PB_SITE_LOGITS, &view, PB_EDITS_ALL, err);
    }
    pb_free(rows);
    if (status != PB_OK) {
        pb_tensor_unref(logits);
        return status;
    }
    *out = logits;
    return PB_OK;
}

static pb_status finish_whole(finisher *f, pb_lane *lane, int32_t *positions, pb_error *err) {
    int32_t n = 0;
    for (int32_t p = 0; p < lane->T; p++)
        if (lane->need[p])
            positions[n++] = p;
    pb_tensor *logits = NULL;
    PB_TRY(whole_rows(f, lane, positions, n, &logits, err));
    pb_status status = PB_OK;
    const pb_metric *m = lane->metric;
    if (m) { /* the metric's positions, among the computed ones */
        int32_t *wanted = positions + lane->T, n_wanted = 0;
        status = pb_metric_positions(m, f->pass->model, lane->T, wanted, &n_wanted, err);
        int64_t shape[2] = {n_wanted, f->spec->vocab};
        pb_tensor *chosen = NULL;
        if (status == PB_OK)
            status = pb_tensor_create(f->pass->ctx, PB_F32, 2, shape, &chosen, err);
        for (int32_t i = 0; i < n_wanted && status == PB_OK; i++) {
            const float *row =
                pb_tensor_floats(logits) + (int64_t)pb_find_row(positions, n, wanted[i]) * f->spec->vocab;
            memcpy(pb_tensor_floats(chosen) + i * shape[1], row, (size_t)shape[1] * sizeof *row);
            if (m->kind != PB_METRIC_FN) {
                row_item item = {lane, wanted[i], i};
                lane->value += row_value(f, &item, row);
            }
        }
        if (status == PB_OK && m->kind == PB_METRIC_FN)
            status = m->fn(m->user, lane->base ? lane->base : lane->keep, lane->index, chosen, &lane->value, err);
        pb_tensor_unref(chosen);
    }
    pb_tensor_unref(logits);
    return status;
}

/* ---- references of kl --------------------------------------------------------------------------------------------------------------- */

static pb_status make_reference(finisher *f, const pb_metric *metric, pb_error *err) {
    pb_pass *pass = f->pass;
    pb_run *run = metric->reference;
    int64_t vocab = f->spec->vocab;
    pb_reference *ref = pb_alloc_zero(pass->ctx, 1, sizeof *ref);
    if (!ref)
        return pb_fail_memory(err, pass->ctx, sizeof *ref, "kl");
    ref->metric = metric;
    ref->next = f->references;
    f->references = ref;
    int32_t *positions = pb_alloc(pass->ctx, (size_t)run->T, sizeof *positions);
    if (!positions)
        return pb_fail_memory(err, pass->ctx, (size_t)run->T * sizeof *positions, "kl");
    pb_status status = pb_metric_positions(metric, pass->model, run->T, positions, &ref->n, err);
    size_t size = (size_t)ref->n * (size_t)vocab;
    if (status == PB_OK) {
        ref->logits = pb_alloc(pass->ctx, size, sizeof *ref->logits);
        ref->logsum = pb_alloc(pass->ctx, (size_t)ref->n, sizeof *ref->logsum);
        if (!ref->logits || !ref->logsum)
            status = pb_fail_memory(err, pass->ctx, size * sizeof *ref->logits, "logits of the reference run of kl");
    }
    pb_tensor *logits = NULL;
    if (status == PB_OK && run->patches) { /* with whatever is patched after the last layer */
        status = pb_run_value(run, (pb_site){PB_SITE_LOGITS, -1}, &logits, err);
        for (int32_t i = 0; i < ref->n && status == PB_OK; i++)
            memcpy(ref->logits + i * vocab, pb_tensor_floats(logits) + positions[i] * vocab,
                   (size_t)vocab * sizeof(float));
    } else if (status == PB_OK) {
        pb_lane lane = {.base = run, .T = run->T, .tokens = run->tokens, .fresh_from = run->T};
        status = whole_rows(f, &lane, positions, ref->n, &logits, err);
        if (status == PB_OK)
            memcpy(ref->logits, pb_tensor_floats(logits), size * sizeof(float));
    }
    for (int32_t i = 0; i < ref->n && status == PB_OK; i++)
        ref->logsum[i] = pb_row_logsumexp(ref->logits + i * vocab, vocab);
    pb_tensor_unref(logits);
    pb_free(positions);
    return status;
}

/* ---- all lanes --------------------------------------------------------------------------------------------------------------------------- */

static bool is_whole(const pb_spec *spec, const pb_lane *lane) {
    if (lane->metric && lane->metric->kind == PB_METRIC_FN)
        return true;
    for (size_t i = 0; i < lane->n_captures; i++)
        if (lane->captures[i].site.kind >= PB_SITE_LN_FINAL_SCALE)
            return true;
    return lane->n_edits > 0 && lane->edits[lane->n_edits - 1].layer >= spec->layers;
}

static pb_status finish_lanes(finisher *f, int32_t *positions, pb_error *err) {
    pb_pass *pass = f->pass;
    for (size_t i = 0; i < pass->n_lanes; i++) {
        pb_lane *lane = &pass->lanes[i];
        if (lane->stop_layer < f->spec->layers)
            continue;
        lane->value = 0;
        if (lane->metric && lane->metric->kind == PB_METRIC_KL && !find_reference(f, lane->metric))
            PB_TRY(make_reference(f, lane->metric, err));
        if (is_whole(f->spec, lane)) {
            PB_TRY(finish_whole(f, lane, positions, err));
            continue;
        }
        int32_t n;
        PB_TRY(pb_metric_positions(lane->metric, pass->model, lane->T, positions, &n, err));
        PB_TRY(add_rows(f, lane, positions, n, err));
    }
    return flush(f, err);
}

/* A metric that is not a number is an error: in a table it would be one blank cell among thousands. */
static pb_status fail_value(const finisher *f, const pb_lane *lane, pb_error *err) {
    char whose[64], cause[512];
    pb_lane_whose(lane, whose, sizeof whose);
    if (lane->metric->kind == PB_METRIC_FN)
        return pb_fail(
            err, PB_ERR_NUMERIC,
            "the metric's function gave NaN for the logits%s: 0 / 0, or the logarithm of a negative number? Let it "
            "return a number (infinity is one) where the value is not defined",
            whose);
    if (!pb_model_find_nonfinite(f->pass->model, f->spec->layers, cause, sizeof cause))
        snprintf(cause, sizeof cause,
                 "all weights after the last layer are finite, so look at patches at the final sites");
    return pb_fail(err, PB_ERR_NUMERIC, "the metric (%s)%s is not a number, though all residual streams are finite: %s",
                   pb_metric_kind_name(lane->metric->kind), whose, cause);
}

static pb_status check_values(finisher *f, int32_t *positions, pb_error *err) {
    for (size_t i = 0; i < f->pass->n_lanes; i++) {
        pb_lane *lane = &f->pass->lanes[i];
        if (lane->stop_layer < f->spec->layers || !lane->metric)
            continue;
        int32_t n = 1;
        if (lane->metric->kind != PB_METRIC_FN)
            PB_TRY(pb_metric_positions(lane->metric, f->pass->model, lane->T, positions, &n, err));
        lane->value /= n;
        if (isnan(lane->value))
            return fail_value(f, lane, err);
    }
    return PB_OK;
}

pb_status pb_pass_finish(pb_pass *pass, pb_error *err) {
    const pb_spec *spec = pass->spec;
    finisher f = {.pass = pass, .spec = spec};
    bool any = false, full = false;
    size_t rows = 0;
    for (size_t i = 0; i < pass->n_lanes; i++) {
        const pb_lane *lane = &pass->lanes[i];
        if (lane->stop_layer < spec->layers)
            continue;
        any = true;
        if (lane->metric && !is_whole(spec, lane)) {
            full = full || pb_metric_needs_all_logits(lane->metric) ||
                   lane->metric->n_answers + lane->metric->n_wrong > MAX_COLUMNS / 2;
            for (int32_t p = 0; p < lane->T; p++)
                rows += lane->need[p];
        }
    }
    if (!any)
        return PB_OK;
    f.block = (int64_t)(LOGIT_BLOCK_BYTES / ((size_t)spec->vocab * sizeof(float)));
    f.block = f.block < 16 ? 16 : f.block > 512 ? 512 : f.block;
    if ((size_t)f.block > rows)
        f.block = rows ? (int64_t)rows : 1;
    size_t width = full ? (size_t)(spec->vocab > MAX_COLUMNS ? spec->vocab : MAX_COLUMNS) : MAX_COLUMNS;
    f.rows = pb_alloc(pass->ctx, (size_t)f.block * (size_t)spec->d_model, sizeof *f.rows);
    f.logits = pb_alloc(pass->ctx, (size_t)f.block * width, sizeof *f.logits);
    f.items = pb_alloc(pass->ctx, (size_t)f.block, sizeof *f.items);
    int32_t *positions = pb_alloc(pass->ctx, 2 * (size_t)pass->max_T, sizeof *positions);
    pb_status status = PB_OK;
    if (!f.rows || !f.logits || !f.items || !positions)
        status = pb_fail_memory(err, pass->ctx, (size_t)f.block * width * sizeof(float), "a block of logits");
    if (status == PB_OK)
        status = finish_lanes(&f, positions, err);
    pb_stream_done(pass->model, spec->layers);
    if (status == PB_OK)
        status = check_values(&f, positions, err);
    while (f.references) {
        pb_reference *next = f.references->next;
        pb_free(f.references->logits);
        pb_free(f.references->logsum);
        pb_free(f.references);
        f.references = next;
    }
    pb_free(positions);
    pb_free(f.items);
    pb_free(f.logits);
    pb_free(f.rows);
    return status;
}
