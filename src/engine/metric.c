/* Metrics as objects: what they read, and checking them against a model. Their values are computed in final.c. */
#include "engine/internal.h"

#include <math.h>
#include <string.h>

static const char *const kind_names[] = {"logit",     "logit_diff", "logits", "prob", "log_prob",
                                         "prob_diff", "rank",       "nll",    "kl",   "fn"};

const char *pb_metric_kind_name(pb_metric_kind kind) { return kind_names[kind]; }

pb_metric_kind pb_metric_get_kind(const pb_metric *metric) { return metric->kind; }

bool pb_metric_differentiable(const pb_metric *metric) {
    return metric->kind != PB_METRIC_RANK && metric->kind != PB_METRIC_FN;
}

bool pb_metric_needs_all_logits(const pb_metric *metric) { return metric->kind > PB_METRIC_LOGITS; }

static pb_status check_weights(const pb_metric_options *o, pb_error *err) {
    if (!o->weights)
        return pb_fail(err, PB_ERR_ARGUMENT, "metric logits needs a weight for each token");
    for (size_t i = 0; i < o->n_answers; i++) {
        if (!isfinite(o->weights[i]))
            return pb_fail(err, PB_ERR_ARGUMENT,
                           "metric logits: the weight of token %d is %g; weights are finite numbers", o->answers[i],
                           o->weights[i]);
        for (size_t j = 0; j < i; j++)
            if (o->answers[j] == o->answers[i])
                return pb_fail(err, PB_ERR_ARGUMENT,
                               "metric logits: token %d has two weights, %g and %g: give it their sum", o->answers[i],
                               o->weights[j], o->weights[i]);
    }
    return PB_OK;
}

static pb_status check_options(const pb_metric_options *o, pb_error *err) {
    const char *name = kind_names[o->kind];
    bool answers = o->kind <= PB_METRIC_RANK, wrong = o->kind == PB_METRIC_LOGIT_DIFF || o->kind == PB_METRIC_PROB_DIFF;
    if (answers && o->n_answers == 0)
        return pb_fail(err, PB_ERR_ARGUMENT, "metric %s needs the answer token(s)", name);
    if (wrong && o->n_wrong == 0)
        return pb_fail(err, PB_ERR_ARGUMENT, "metric %s needs the wrong answer token(s) to compare with", name);
    if ((!answers && o->n_answers) || (!wrong && o->n_wrong))
        return pb_fail(err, PB_ERR_ARGUMENT, "metric %s takes no %s tokens", name,
                       !answers && o->n_answers ? "answer" : "wrong");
    if (o->kind == PB_METRIC_RANK && o->n_answers != 1)
        return pb_fail(err, PB_ERR_ARGUMENT, "metric rank takes one answer token, got %zu", o->n_answers);
    if (o->kind == PB_METRIC_KL && !o->reference)
        return pb_fail(err, PB_ERR_ARGUMENT, "metric kl needs the run to compare with");
    if (o->kind == PB_METRIC_FN && !o->fn)
        return pb_fail(err, PB_ERR_ARGUMENT, "metric fn needs a function");
    if (o->kind == PB_METRIC_LOGITS)
        PB_TRY(check_weights(o, err));
    else if (o->weights)
        return pb_fail(err, PB_ERR_ARGUMENT, "metric %s takes no weights", name);
    if (o->positions.listed && o->positions.n == 0)
        return pb_fail(err, PB_ERR_ARGUMENT, "metric %s: the list of positions is empty", name);
    return PB_OK;
}

static int32_t *copy_ints(pb_context *ctx, const int32_t *from, size_t n) {
    int32_t *to = pb_alloc(ctx, n, sizeof *to);
    if (to && n)
        memcpy(to, from, n * sizeof *to);
    return to;
}

pb_status pb_metric_create(pb_context *ctx, const pb_metric_options *o, pb_metric **out, pb_error *err) {
    PB_TRY(check_options(o, err));
    pb_metric *m = pb_alloc_zero(ctx, 1, sizeof *m);
    if (!m)
        return pb_fail_memory(err, ctx, sizeof *m, "a metric");
    m->refs = 1;
    m->ctx = pb_context_ref(ctx);
    m->kind = o->kind;
    m->listed = o->positions.listed;
    m->n_positions = o->positions.listed ? o->positions.n : 0;
    m->n_answers = o->n_answers;
    m->n_wrong = o->n_wrong;
    m->positions = copy_ints(ctx, o->positions.items, m->n_positions);
    m->answers = copy_ints(ctx, o->answers, o->n_answers);
    m->wrong = copy_ints(ctx, o->wrong, o->n_wrong);
    size_t n_weights = o->weights ? o->n_answers : 0;
    m->weights = pb_alloc(ctx, n_weights, sizeof *m->weights);
    if (m->weights && n_weights)
        memcpy(m->weights, o->weights, n_weights * sizeof *m->weights);
    m->reference = o->reference ? pb_run_ref((pb_run *)(uintptr_t)o->reference) : NULL;
    m->fn = o->fn;
    m->user = o->user;
    if (!m->positions || !m->answers || !m->wrong || !m->weights) {
        size_t bytes = (m->n_positions + m->n_answers + m->n_wrong) * sizeof(int32_t) + n_weights * sizeof(double);
        pb_metric_unref(m);
        return pb_fail_memory(err, ctx, bytes, "a metric");
    }
    *out = m;
    return PB_OK;
}

pb_metric *pb_metric_ref(pb_metric *metric) {
    metric->refs++;
    return metric;
}

void pb_metric_unref(pb_metric *m) {
    if (!m || --m->refs > 0)
        return;
    pb_context *ctx = m->ctx;
    pb_free(m->positions);
    pb_free(m->answers);
    pb_free(m->wrong);
    pb_free(m->weights);
    pb_run_unref(m->reference);
    pb_free(m);
    pb_context_unref(ctx);
}

static pb_status check_tokens(const pb_metric *m, const pb_model *model, pb_error *err) {
    int vocab = pb_model_vocab(model);
    for (size_t i = 0; i < m->n_answers + m->n_wrong; i++) {
        int32_t id = i < m->n_answers ? m->answers[i] : m->wrong[i - m->n_answers];
        if (id < 0 || id >= vocab)
            return pb_fail(err, PB_ERR_ARGUMENT, "metric %s: token id %d is not in the vocabulary (0 to %d)",
                           kind_names[m->kind], id, vocab - 1);
    }
    return PB_OK;
}

static pb_status check_reference(const pb_metric *m, const pb_model *model, int32_t T, pb_error *err) {
    if (m->kind != PB_METRIC_KL)
        return PB_OK;
    if (m->reference->model != model)
        return pb_fail(err, PB_ERR_ARGUMENT, "metric kl: the reference is a run of another model");
    bool from_end = false;
    for (size_t i = 0; i < m->n_positions; i++)
        from_end = from_end || m->positions[i] < 0;
    if (m->reference->T != T && (from_end || !m->listed))
        return pb_fail(err, PB_ERR_ARGUMENT,
                       "metric kl: the reference run has %d tokens, this one %d; positions counted from the end would "
                       "not be the same ones: list "
                       "positions from the start",
                       m->reference->T, T);
    return PB_OK;
}

pb_status pb_metric_positions(const pb_metric *m, const pb_model *model, int32_t T, int32_t *out, int32_t *n,
                              pb_error *err) {
    PB_TRY(check_tokens(m, model, err));
    PB_TRY(check_reference(m, model, T, err));
    const char *name = kind_names[m->kind];
    int32_t end = m->kind == PB_METRIC_NLL ? T - 1 : T; /* nll: the token after must be there */
    if (m->kind == PB_METRIC_NLL && T < 2)
        return pb_fail(err, PB_ERR_ARGUMENT, "metric nll needs at least two tokens: the first predicts the second");
    *n = 0;
    if (!m->listed) {
        if (m->kind == PB_METRIC_NLL)
            for (int32_t p = 0; p < end; p++)
                out[(*n)++] = p;
        else
            out[(*n)++] = T - 1;
        return PB_OK;
    }
    for (size_t i = 0; i < m->n_positions; i++) {
        int32_t p = m->positions[i] < 0 ? m->positions[i] + T : m->positions[i];
        if (p < 0 || p >= end)
            return pb_fail(err, PB_ERR_ARGUMENT, "metric %s: position %d is out of range for a run of %d tokens%s",
                           name, m->positions[i], T,
                           m->kind == PB_METRIC_NLL ? " (nll at the last position would need the token after it)" : "");
        for (int32_t j = 0; j < *n; j++)
            if (out[j] == p)
                return pb_fail(err, PB_ERR_ARGUMENT, "metric %s: position %d is listed twice", name, p);
        if (*n == T)
            return pb_fail(err, PB_ERR_ARGUMENT, "metric %s: more positions than tokens", name);
        out[(*n)++] = p;
    }
    return PB_OK;
}
