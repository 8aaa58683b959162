/* Generation: one new row a step, on a private run that grows. Patches held in place are those of the prompt's patched run;
 * a choice of all positions is applied to every new position too. */
#include "engine/internal.h"

#include <math.h>
#include <string.h>

#include "patchbay/rng.h"

typedef struct sampler {
    const pb_generate_options *options;
    pb_context *ctx;
    uint64_t step;
    int32_t chosen;
} sampler;

static int32_t argmax(const float *row, int64_t n) {
    int32_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (row[i] > row[best])
            best = (int32_t)i;
    return best;
}

/* The k-th largest logit; rows are searched k times, k being small. */
static float kth_largest(const float *row, int64_t n, int k, float *copy) {
    memcpy(copy, row, (size_t)n * sizeof *copy);
    float value = INFINITY;
    for (int i = 0; i < k && i < n; i++) {
        int32_t best = argmax(copy, n);
        value = copy[best];
        copy[best] = -INFINITY;
    }
    return value;
}

static pb_status sample(sampler *s, const float *row, int64_t n, pb_error *err) {
    const pb_generate_options *o = s->options;
    if (!(o->temperature > 0)) {
        s->chosen = argmax(row, n);
        return PB_OK;
    }
    float *weights = pb_alloc(s->ctx, (size_t)n, sizeof *weights);
    if (!weights)
        return pb_fail_memory(err, s->ctx, (size_t)n * sizeof *weights, "sampling");
    float least = o->top_k > 0 && o->top_k < n ? kth_largest(row, n, o->top_k, weights) : -INFINITY,
          top = pb_row_max(row, n);
    double total = 0;
    for (int64_t i = 0; i < n; i++) {
        weights[i] = row[i] >= least ? (float)exp(((double)row[i] - top) / o->temperature) : 0.0f;
        total += weights[i];
    }
    float draw;
    pb_rng_uniform(o->seed, 0, s->step, 1, &draw);
    double left = draw * total;
    s->chosen = -1;
    for (int64_t i = 0; i < n; i++) {
        if (weights[i] > 0)
            s->chosen = (int32_t)i; /* the last possible one, should rounding leave something over */
        left -= weights[i];
        if (left < 0)
            break;
    }
    pb_free(weights);
    return PB_OK;
}

static pb_status on_logits(void *user, const pb_run *base, size_t variant, const pb_tensor *logits, double *out,
                           pb_error *err) {
    (void)base;
    (void)variant;
    *out = 0;
    int64_t n = pb_tensor_count(logits);
    const float *row = pb_tensor_floats(logits);
    if (!pb_rows_finite(row, n, 1, n)) {
        bool bad = false;
        for (int64_t i = 0; i < n; i++)
            bad = bad || isnan(row[i]) || row[i] == INFINITY;
        if (bad)
            return pb_fail(err, PB_ERR_NUMERIC, "a logit of the next token is NaN or infinite");
    }
    return sample(user, row, n, err);
}

/* The patches as they apply to the one new position; choices of listed positions do not include it. */
static size_t patches_at(const pb_generate_options *o, const int32_t *position, pb_patch *out, const pb_model *model) {
    size_t n = 0;
    pb_choice here = {true, 1, position};
    for (size_t i = 0; i < o->n_patches; i++) {
        pb_patch p = o->patches[i];
        bool by_head = pb_site_describe(model, p.site.kind).shape == PB_SHAPE_HEAD_POS_POS;
        pb_choice *rows = by_head ? &p.dest : &p.pos;
        if (rows->listed)
            continue;
        *rows = here;
        if (p.op != PB_PATCH_FN && p.value == PB_VALUE_RUN) /* the same position of the source, if it has one */
            *(by_head ? &p.from_dest : &p.from_pos) = here;
        out[n++] = p;
    }
    return n;
}

/* A private copy of the prompt's run with room for more rows. */
static pb_status growing_copy(pb_run *prompt, int32_t room, pb_run **out, pb_error *err) {
    const pb_spec *s = pb_model_spec(prompt->model);
    pb_context *ctx = pb_model_context(prompt->model);
    int64_t D = s->d_model, width = pb_spec_qkv_width(s);
    pb_run *run = pb_alloc_zero(ctx, 1, sizeof *run);
    if (!run)
        return pb_fail_memory(err, ctx, sizeof *run, "generation");
    run->refs = 1;
    run->model = pb_model_ref(prompt->model);
    run->T = prompt->T;
    run->tokens = pb_alloc(ctx, (size_t)room, sizeof *run->tokens);
    run->resid = pb_alloc_zero(ctx, (size_t)s->layers + 1, sizeof *run->resid);
    run->qkv = pb_alloc_zero(ctx, (size_t)s->layers, sizeof *run->qkv);
    bool ok = run->tokens && run->resid && run->qkv;
    for (int l = 0; ok && l <= s->layers; l++) {
        ok = (run->resid[l] = pb_block_create(ctx, room, D, 0)) &&
             (l == s->layers || (run->qkv[l] = pb_block_create(ctx, room, width, 0)));
        for (int32_t p = 0; ok && p < prompt->T; p++) {
            memcpy(run->resid[l]->data + p * D, pb_run_resid_row(prompt, l, p, D), (size_t)D * sizeof(float));
            if (l < s->layers)
                memcpy(run->qkv[l]->data + p * width, pb_run_qkv_row(prompt, l, p, width),
                       (size_t)width * sizeof(float));
        }
    }
    if (!ok) {
        pb_run_unref(run);
        return pb_fail_memory(err, ctx, (size_t)room * (size_t)(D + width) * (size_t)s->layers * sizeof(float),
                              "generation");
    }
    memcpy(run->tokens, prompt->tokens, (size_t)prompt->T * sizeof *run->tokens);
    *out = run;
    return PB_OK;
}

/* One more token: its row goes through the model, the next token is drawn from its logits. */
static pb_status step(pb_run *run, int32_t token, const pb_generate_options *o, const pb_metric *draw,
                      pb_patch *scratch, pb_error *err) {
    pb_arena arena = {.ctx = pb_model_context(run->model)};
    int32_t position = run->T;
    run->tokens[position] = token;
    pb_lane lane = {
        .base = run, .T = position + 1, .tokens = run->tokens, .fresh_from = position, .keep = run, .metric = draw};
    size_t n = patches_at(o, &position, scratch, run->model);
    pb_cost cost;
    pb_status status = pb_lane_prepare(&arena, run->model, &lane, scratch, n, true, &cost, err);
    if (status == PB_OK) /* only the new row's logits, whatever a kept run would want */
        memset(lane.need, 0, (size_t)position);
    if (status == PB_OK)
        status =
            pb_lanes_run(run->model, &lane, 1, NULL, cost.layer_rows > 16 ? cost.layer_rows : 16, 0, cost.flops, err);
    if (status == PB_OK)
        run->T++;
    pb_arena_free(&arena);
    return status;
}

static bool is_stop(const pb_generate_options *o, int32_t id) {
    for (size_t i = 0; i < o->n_stop; i++)
        if (o->stop[i] == id)
            return true;
    return false;
}

static pb_status check_options(const pb_run *prompt, const pb_generate_options *o, pb_error *err) {
    int positions = pb_model_max_positions(prompt->model);
    if (o->tokens < 1)
        return pb_fail(err, PB_ERR_ARGUMENT, "generate: tokens must be at least 1, got %d", o->tokens);
    if (o->temperature < 0 || !isfinite(o->temperature))
        return pb_fail(err, PB_ERR_ARGUMENT, "generate: temperature must be 0 (greedy) or more");
    if (positions > 0 && prompt->T + o->tokens - 1 > positions)
        return pb_fail(err, PB_ERR_ARGUMENT,
                       "generate: %d prompt tokens and %d new ones do not fit the model's %d positions", prompt->T,
                       o->tokens, positions);
    if (prompt->patches)
        return pb_fail(err, PB_ERR_ARGUMENT,
                       "generate: give the patches with the plain run, so that they hold for new positions too");
    return PB_OK;
}

pb_status pb_generate(pb_run *prompt, const pb_generate_options *o, int32_t **ids, size_t *n, pb_error *err) {
    PB_TRY(check_options(prompt, o, err));
    pb_context *ctx = pb_model_context(prompt->model);
    sampler s = {.options = o, .ctx = ctx};
    pb_metric_options draw_options = {.kind = PB_METRIC_FN, .fn = on_logits, .user = &s};
    pb_run *start = NULL, *run = NULL;
    pb_metric *draw = NULL;
    double unused;
    int32_t count = 0;
    int32_t *made = pb_alloc(ctx, (size_t)o->tokens, sizeof *made);
    pb_patch *scratch = pb_alloc(ctx, o->n_patches, sizeof *scratch);
    pb_status status =
        made && scratch ? PB_OK : pb_fail_memory(err, ctx, (size_t)o->tokens * sizeof *made, "generation");
    if (status == PB_OK)
        status = pb_metric_create(ctx, &draw_options, &draw, err);
    if (status == PB_OK)
        status = o->n_patches ? pb_run_patched(prompt, o->patches, o->n_patches, &start, err) : PB_OK;
    if (status == PB_OK && !start)
        start = pb_run_ref(prompt);
    if (status == PB_OK)
        status = growing_copy(start, prompt->T + o->tokens, &run, err);
    if (status == PB_OK)
        status = pb_run_metric(start, draw, &unused, err);
    while (status == PB_OK) {
        made[count++] = s.chosen;
        if (count == o->tokens || is_stop(o, s.chosen))
            break;
        s.step++;
        status = step(run, s.chosen, o, draw, scratch, err);
    }
    pb_run_unref(run);
    pb_run_unref(start);
    pb_metric_unref(draw);
    pb_free(scratch);
    if (status != PB_OK) {
        pb_free(made);
        return status;
    }
    *ids = made;
    *n = (size_t)count;
    return PB_OK;
}
