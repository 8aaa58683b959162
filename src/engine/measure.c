/* Measuring many variants: everything is checked and planned before anything runs; then chunk after chunk goes through
 * the pass. */
#include "engine/internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const size_t DEFAULT_WORK = (size_t)512 << 20;

typedef struct chunk_bounds {
    size_t first, n;
    double flops;
    int64_t group_rows;
} chunk_bounds;

typedef struct plan_state {
    pb_context *ctx;
    pb_model *model;
    const pb_spec *spec;
    const pb_request *requests;
    size_t n;
    const pb_measure_options *options;
    size_t memory;
    chunk_bounds *chunks;
    size_t n_chunks, cap_chunks;
    pb_plan plan;
} plan_state;

static size_t number_of(const plan_state *s, size_t i) { return i + (s->options ? s->options->first_number : 0); }

/* An error of request i says which it is. */
static pb_status place_error(const plan_state *s, size_t i, pb_status status, pb_error *err) {
    if (status == PB_OK || s->n == 1 || status == PB_ERR_MEMORY || status == PB_ERR_STOPPED)
        return status;
    return pb_error_prefix(err, status, "variant %zu: ", number_of(s, i));
}

/* A lane for a request; captures' data is set only when it runs. */
static pb_status lane_of(const plan_state *s, size_t i, pb_arena *arena, pb_lane *lane, pb_cost *cost, pb_error *err) {
    const pb_request *r = &s->requests[i];
    memset(lane, 0, sizeof *lane);
    lane->base = r->base;
    lane->T = r->base->T;
    lane->tokens = r->base->tokens;
    lane->fresh_from = r->base->T;
    lane->metric = r->metric;
    lane->index = i;
    lane->many = s->n > 1;
    lane->number = number_of(s, i);
    lane->n_captures = r->n_captures;
    lane->captures = pb_arena_get(arena, r->n_captures * sizeof *lane->captures + 1);
    if (!lane->captures)
        return pb_fail_memory(err, s->ctx, r->n_captures * sizeof *lane->captures, "captures");
    for (size_t c = 0; c < r->n_captures; c++) {
        if (!pb_site_exists(s->model, r->captures[c]))
            return pb_fail(err, PB_ERR_ARGUMENT, "a captured site does not exist in this model");
        lane->captures[c].site = r->captures[c];
    }
    bool unread = s->options && s->options->allow_unread;
    return pb_lane_prepare(arena, s->model, lane, r->patches, r->n_patches, unread, cost, err);
}

static size_t lane_bytes(const pb_spec *spec, const pb_lane *lane) {
    return (size_t)lane->cap * ((size_t)spec->d_model + 1) * sizeof(float) + (size_t)lane->T * 8 + sizeof *lane +
           lane->n_edits * (sizeof(pb_edit) + 64);
}

/* What a chunk needs beside its lanes: a layer's buffers, attention scratch, a block of logits. */
static size_t fixed_bytes(const pb_spec *spec, int64_t group_rows, int32_t T, bool logits) {
    size_t attention = (size_t)T * ((size_t)spec->d_head + 8) * sizeof(float) * 4;
    size_t block = (size_t)spec->vocab * sizeof(float) * 512, most = (size_t)48 << 20;
    return pb_layer_bytes(spec, group_rows) + attention + (logits ? (block < most ? block : most) : 0);
}

static pb_status close_chunk(plan_state *s, chunk_bounds *open, size_t bytes, pb_error *err) {
    if (open->n == 0)
        return PB_OK;
    if (s->n_chunks == s->cap_chunks) {
        size_t cap = s->cap_chunks ? 2 * s->cap_chunks : 8;
        chunk_bounds *grown = pb_realloc(s->ctx, s->chunks, cap, sizeof *grown);
        if (!grown)
            return pb_fail_memory(err, s->ctx, cap * sizeof *grown, "a plan");
        s->chunks = grown;
        s->cap_chunks = cap;
    }
    s->chunks[s->n_chunks++] = *open;
    if (bytes > s->plan.bytes)
        s->plan.bytes = bytes;
    *open = (chunk_bounds){open->first + open->n, 0, 0, 0};
    return PB_OK;
}

static double whole_pass_flops(const pb_spec *spec, const pb_lane *lane) {
    double D = spec->d_model, heads = (double)spec->heads * spec->d_head, kv = (double)spec->kv_heads * spec->d_head,
           T = lane->T;
    double mlp = (spec->gated ? 3.0 : 2.0) * D * spec->d_mlp * (spec->experts ? spec->experts_per_token : 1);
    double layer = 2.0 * T * (D * (heads + 2 * kv) + heads * D + mlp) + 2.0 * T * (T + 1) * heads;
    double rows = 0;
    for (int32_t p = 0; p < lane->T; p++)
        rows += lane->need[p];
    return layer * spec->layers + 2.0 * rows * D * spec->vocab;
}

static pb_status make_plan(plan_state *s, pb_error *err) {
    chunk_bounds open = {0, 0, 0, 0};
    size_t bytes = 0;
    pb_arena arena = {.ctx = s->ctx};
    pb_status status = PB_OK;
    for (size_t i = 0; i < s->n && status == PB_OK; i++) {
        pb_lane lane;
        pb_cost cost;
        if (i % 64 == 0) {
            pb_arena_free(&arena);
            status = pb_context_check(s->ctx, err);
            if (status != PB_OK)
                break;
        }
        status = place_error(s, i, lane_of(s, i, &arena, &lane, &cost, err), err);
        if (status != PB_OK)
            break;
        int64_t group = pb_group_rows_for(s->spec, s->memory / 3);
        if (cost.layer_rows > group)
            group = cost.layer_rows;
        if (open.group_rows > group)
            group = open.group_rows;
        size_t fixed = fixed_bytes(s->spec, group, lane.T, lane.metric != NULL), own = lane_bytes(s->spec, &lane);
        if (open.n > 0 && bytes + own + fixed > s->memory) {
            status = close_chunk(s, &open, bytes + fixed, err);
            bytes = 0;
        }
        if (status == PB_OK && own + fixed > s->memory && s->options && s->options->memory)
            status = pb_fail(
                err, PB_ERR_MEMORY,
                "variant %zu alone needs %.1f MB of working memory (%d rows of %d), the call may use %.1f MB",
                number_of(s, i), (double)(own + fixed) / 1e6, cost.max_rows, s->spec->d_model, (double)s->memory / 1e6);
        bytes += own;
        open.n++;
        open.flops += cost.flops;
        open.group_rows = group;
        s->plan.rows += cost.rows;
        s->plan.flops += cost.flops;
        s->plan.full_rows += (double)lane.T * s->spec->layers;
        s->plan.full_flops += whole_pass_flops(s->spec, &lane);
        if (i + 1 == s->n && status == PB_OK)
            status = close_chunk(s, &open, bytes + fixed, err);
    }
    s->plan.variants = s->n;
    s->plan.chunks = s->n_chunks;
    pb_arena_free(&arena);
    return status;
}

static pb_status make_captures(const plan_state *s, size_t first, pb_lane *lanes, size_t n, pb_tensor ***captures,
                               pb_error *err) {
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < lanes[i].n_captures; c++) {
            pb_capture *capture = &lanes[i].captures[c];
            capture->ndim = pb_site_shape_of(s->model, capture->site.kind, lanes[i].T, capture->shape);
            pb_tensor *t = NULL;
            if (pb_site_has_expert(capture->site.kind)) /* only rows that the router chose are written */
                PB_TRY(pb_tensor_zeros(s->ctx, PB_F32, capture->ndim, capture->shape, &t, err));
            else
                PB_TRY(pb_tensor_create(s->ctx, PB_F32, capture->ndim, capture->shape, &t, err));
            captures[first + i][c] = t;
            capture->data = pb_tensor_floats(t);
        }
    return PB_OK;
}

static pb_status run_chunk(const plan_state *s, const chunk_bounds *chunk, const char *what, double done,
                           double *values, pb_tensor ***captures, pb_error *err) {
    pb_arena arena = {.ctx = s->ctx};
    pb_lane *lanes = pb_alloc(s->ctx, chunk->n, sizeof *lanes);
    if (!lanes)
        return pb_fail_memory(err, s->ctx, chunk->n * sizeof *lanes, "variants");
    pb_status status = PB_OK;
    for (size_t i = 0; i < chunk->n && status == PB_OK; i++) {
        pb_cost cost;
        status = lane_of(s, chunk->first + i, &arena, &lanes[i], &cost, err);
    }
    if (status == PB_OK)
        status = make_captures(s, chunk->first, lanes, chunk->n, captures, err);
    if (status == PB_OK)
        status = pb_lanes_run(s->model, lanes, chunk->n, what, chunk->group_rows, done, s->plan.flops, err);
    for (size_t i = 0; i < chunk->n && status == PB_OK && values; i++)
        values[chunk->first + i] = lanes[i].metric ? lanes[i].value : NAN;
    pb_free(lanes);
    pb_arena_free(&arena);
    return status;
}

static pb_status check_requests(const pb_request *requests, size_t n, const pb_measure_options *options,
                                const double *values, pb_tensor ***captures, pb_error *err) {
    bool dry = options && options->dry;
    size_t first = options ? options->first_number : 0;
    if (n == 0)
        return pb_fail(err, PB_ERR_ARGUMENT, "there is no variant to measure");
    for (size_t i = 0; i < n; i++) {
        if (requests[i].base->model != requests[0].base->model)
            return pb_fail(err, PB_ERR_ARGUMENT,
                           "variant %zu is of another model: measure the models one after the other", first + i);
        if (!requests[i].metric && requests[i].n_captures == 0)
            return pb_fail(err, PB_ERR_ARGUMENT, "variant %zu has neither a metric nor a site to look at", first + i);
        if (dry) /* writes nothing */
            continue;
        if ((requests[i].metric && !values) || (requests[i].n_captures && !captures))
            return pb_fail(err, PB_ERR_ARGUMENT, "variant %zu asks for results that have nowhere to go", first + i);
    }
    return PB_OK;
}

static void drop_captures(const pb_request *requests, size_t n, pb_tensor ***captures) {
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < requests[i].n_captures; c++) {
            pb_tensor_unref(captures[i][c]);
            captures[i][c] = NULL;
        }
}

pb_status pb_measure(const pb_request *requests, size_t n, const pb_measure_options *options, double *values,
                     pb_tensor ***captures, pb_plan *plan, pb_error *err) {
    bool dry = options && options->dry;
    PB_TRY(check_requests(requests, n, options, values, captures, err));
    pb_model *model = requests[0].base->model;
    pb_context *ctx = pb_model_context(model);
    plan_state s = {
        .ctx = ctx, .model = model, .spec = pb_model_spec(model), .requests = requests, .n = n, .options = options};
    s.memory = options && options->memory ? options->memory : pb_work_left(ctx, DEFAULT_WORK);
    pb_status status = make_plan(&s, err);
    for (size_t i = 0; i < n && captures && !dry; i++)
        for (size_t c = 0; c < requests[i].n_captures; c++)
            captures[i][c] = NULL;
    char what[64];
    double done = 0;
    snprintf(what, sizeof what, "measuring %zu variant%s", n, n == 1 ? "" : "s");
    for (size_t c = 0; c < s.n_chunks && status == PB_OK && !dry; c++) {
        status = run_chunk(&s, &s.chunks[c], what, done, values, captures, err);
        done += s.chunks[c].flops;
    }
    if (status != PB_OK && captures && !dry)
        drop_captures(requests, n, captures);
    if (status == PB_OK && plan)
        *plan = s.plan;
    pb_free(s.chunks);
    return status;
}
