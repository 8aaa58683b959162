/* What runs and the usual sweeps would cost, for people who have not run anything yet: plans of pb_measure on runs that have
 * tokens and no values. */
#include "engine/internal.h"

#include <string.h>

enum { SLICE = 4096 /* variants that are listed at a time */ };

static pb_status check_length(const pb_model *model, size_t n, pb_error *err) {
    int positions = pb_model_max_positions(model);
    if (n > 0 && n <= INT32_MAX / 4 && (positions == 0 || n <= (size_t)positions))
        return PB_OK;
    return pb_fail(err, PB_ERR_ARGUMENT, "a run of model %s has from 1 to %d tokens, not %zu", pb_model_name(model),
                   positions ? positions : INT32_MAX / 4, n);
}

pb_status pb_plan_run(pb_model *model, size_t n, size_t *kept, size_t *work, pb_error *err) {
    const pb_spec *spec = pb_model_spec(model);
    int64_t D = spec->d_model;
    PB_TRY(check_length(model, n, err));
    *kept = n * sizeof(float) * (size_t)(spec->layers * (D + pb_spec_qkv_width(spec)) + D);
    if (work) /* its residual stream, and a layer's buffers: a run goes through a layer whole */
        *work = n * sizeof(float) * (size_t)(D + 1) + pb_layer_bytes(spec, (int64_t)n);
    return PB_OK;
}

/* ---- sweeps -------------------------------------------------------------------------------------------------------------- */

typedef struct sweep {
    pb_run *base, *source;
    pb_metric *metric;
    int32_t *coordinates; /* 0, 1, ...: what single choices point to */
    pb_request *requests; /* [SLICE] */
    pb_patch *patches;    /* [SLICE] */
    size_t n;
    pb_plan *plan;
} sweep;

static pb_status flush(sweep *s, pb_error *err) {
    const pb_measure_options options = {.dry = true, .allow_unread = true};
    pb_plan part;
    if (s->n == 0)
        return PB_OK;
    PB_TRY(pb_measure(s->requests, s->n, &options, NULL, NULL, &part, err));
    s->plan->variants += part.variants;
    s->plan->chunks += part.chunks;
    s->plan->rows += part.rows;
    s->plan->full_rows += part.full_rows;
    s->plan->flops += part.flops;
    s->plan->full_flops += part.full_flops;
    s->plan->bytes = part.bytes > s->plan->bytes ? part.bytes : s->plan->bytes;
    s->n = 0;
    return PB_OK;
}

/* head, pos: -1 for all. */
static pb_status add(sweep *s, pb_site site, int head, int pos, pb_error *err) {
    pb_patch *p = &s->patches[s->n];
    *p = (pb_patch){.site = site, .value = PB_VALUE_RUN, .run = s->source};
    if (head >= 0)
        p->head = (pb_choice){true, 1, &s->coordinates[head]};
    if (pos >= 0)
        p->pos = (pb_choice){true, 1, &s->coordinates[pos]};
    s->requests[s->n++] = (pb_request){.base = s->base, .patches = p, .n_patches = 1, .metric = s->metric};
    return s->n == SLICE ? flush(s, err) : PB_OK;
}

static pb_status add_all(sweep *s, pb_model *model, pb_site_kind kind, bool by_head, bool by_pos, size_t n,
                         pb_error *err) {
    const int heads = by_head ? pb_site_describe(model, kind).heads : 0, positions = by_pos ? (int)n : 0;
    for (int layer = 0; layer < pb_model_layers(model); layer++) {
        pb_site site = {.kind = kind, .layer = layer};
        if (!pb_site_exists(model, site))
            continue;
        for (int head = by_head ? 0 : -1; head < heads; head++)
            for (int pos = by_pos ? 0 : -1; pos < positions; pos++)
                PB_TRY(add(s, site, head, pos, err));
    }
    return flush(s, err);
}

/* Two runs that differ from the first token on, and what else a sweep needs. */
static pb_status prepare(sweep *s, pb_model *model, size_t n, pb_error *err) {
    pb_context *ctx = pb_model_context(model);
    const int32_t answer = 0;
    pb_metric_options options = {.kind = PB_METRIC_LOGIT, .answers = &answer, .n_answers = 1};
    size_t most = n > (size_t)pb_model_heads(model) ? n : (size_t)pb_model_heads(model);
    s->coordinates = pb_alloc(ctx, most, sizeof *s->coordinates);
    s->requests = pb_alloc(ctx, SLICE, sizeof *s->requests);
    s->patches = pb_alloc(ctx, SLICE, sizeof *s->patches);
    if (!s->coordinates || !s->requests || !s->patches)
        return pb_fail_memory(err, ctx, SLICE * (sizeof *s->requests + sizeof *s->patches), "the plan of a sweep");
    memset(s->coordinates, 0, most * sizeof *s->coordinates);
    PB_TRY(pb_run_shell(model, s->coordinates, n, &s->base, err)); /* all tokens 0 */
    for (size_t i = 0; i < most; i++)
        s->coordinates[i] = 1;
    PB_TRY(pb_run_shell(model, s->coordinates, n, &s->source, err));
    for (size_t i = 0; i < most; i++)
        s->coordinates[i] = (int32_t)i;
    return pb_metric_create(ctx, &options, &s->metric, err);
}

pb_status pb_plan_sweep(pb_model *model, pb_site_kind kind, bool by_head, bool by_pos, size_t n, pb_plan *out,
                        pb_error *err) {
    PB_TRY(check_length(model, n, err));
    pb_plan plan = {0};
    sweep s = {.plan = &plan};
    pb_status status = prepare(&s, model, n, err);
    if (status == PB_OK)
        status = add_all(&s, model, kind, by_head, by_pos, n, err);
    pb_run_unref(s.base);
    pb_run_unref(s.source);
    pb_metric_unref(s.metric);
    pb_free(s.coordinates);
    pb_free(s.requests);
    pb_free(s.patches);
    if (status == PB_OK)
        *out = plan;
    return status;
}
