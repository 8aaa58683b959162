/* Runs: making them (all through the pass), what they keep, and the values of their sites. */
#include "engine/internal.h"

#include <assert.h>
#include <string.h>

/* ---- blocks ---------------------------------------------------------------------------------------------------------------- */

pb_block *pb_block_create(pb_context *ctx, int64_t rows, int64_t width, int32_t first) {
    pb_block *b = pb_alloc(ctx, 1, sizeof *b);
    if (!b)
        return NULL;
    b->refs = 1;
    b->first = first;
    b->data = pb_alloc(ctx, (size_t)rows * (size_t)width, sizeof *b->data);
    if (!b->data) {
        pb_free(b);
        return NULL;
    }
    return b;
}

void pb_block_unref(pb_block *block) {
    if (!block || --block->refs > 0)
        return;
    pb_free(block->data);
    pb_free(block);
}

static pb_block *block_ref(pb_block *block) {
    block->refs++;
    return block;
}

/* ---- life ------------------------------------------------------------------------------------------------------------------ */

pb_status pb_run_shell(pb_model *model, const int32_t *ids, size_t n, pb_run **out, pb_error *err) {
    pb_context *ctx = pb_model_context(model);
    const pb_spec *spec = pb_model_spec(model);
    pb_run *run = pb_alloc_zero(ctx, 1, sizeof *run);
    if (!run)
        return pb_fail_memory(err, ctx, sizeof *run, "a run");
    run->refs = 1;
    run->model = pb_model_ref(model);
    run->T = (int32_t)n;
    run->tokens = pb_alloc(ctx, n, sizeof *run->tokens);
    run->resid = pb_alloc_zero(ctx, (size_t)spec->layers + 1, sizeof *run->resid);
    run->qkv = pb_alloc_zero(ctx, (size_t)spec->layers, sizeof *run->qkv);
    if (!run->tokens || !run->resid || !run->qkv) {
        pb_run_unref(run);
        return pb_fail_memory(err, ctx, n * sizeof *ids, "a run");
    }
    memcpy(run->tokens, ids, n * sizeof *ids);
    *out = run;
    return PB_OK;
}

pb_run *pb_run_ref(pb_run *run) {
    run->refs++;
    return run;
}

void pb_run_unref(pb_run *run) {
    while (run && --run->refs == 0) {
        int layers = pb_model_spec(run->model)->layers;
        for (int l = 0; run->resid && l <= layers; l++)
            pb_block_unref(run->resid[l]);
        for (int l = 0; run->qkv && l < layers; l++)
            pb_block_unref(run->qkv[l]);
        pb_free(run->resid);
        pb_free(run->qkv);
        pb_free(run->tokens);
        pb_patch_list_unref(run->patches);
        pb_model_unref(run->model);
        pb_run *prefix = run->prefix;
        pb_free(run);
        run = prefix;
    }
}

pb_model *pb_run_model(const pb_run *run) { return run->model; }
size_t pb_run_length(const pb_run *run) { return (size_t)run->T; }
const int32_t *pb_run_tokens(const pb_run *run) { return run->tokens; }
size_t pb_run_patch_count(const pb_run *run) { return run->patches ? run->patches->n : 0; }

size_t pb_run_bytes(const pb_run *run) {
    const pb_spec *s = pb_model_spec(run->model);
    size_t bytes = sizeof *run;
    for (int l = 0; l <= s->layers; l++)
        bytes += (size_t)(run->T - run->resid[l]->first) * (size_t)s->d_model * sizeof(float);
    for (int l = 0; l < s->layers; l++)
        bytes += (size_t)(run->T - run->qkv[l]->first) * (size_t)pb_spec_qkv_width(s) * sizeof(float);
    return bytes;
}

/* Longrope turns by other frequencies beyond a length: sequences on two sides of it share nothing. Dynamic scaling has
 * frequencies for every length beyond. */
static bool same_rotation(const pb_spec *spec, int32_t a, int32_t b) {
    for (int i = 0; i < spec->n_rotaries; i++) {
        int64_t from = spec->rotaries[i].long_from, dynamic = spec->rotaries[i].dynamic_from;
        if (from > 0 && (a > from) != (b > from))
            return false;
        if (dynamic > 0 && a != b && (a > dynamic || b > dynamic))
            return false;
    }
    return true;
}

size_t pb_run_shared_prefix(const pb_run *a, const pb_run *b) {
    if (a->model != b->model || a->patches || b->patches || !same_rotation(pb_model_spec(a->model), a->T, b->T))
        return 0;
    int32_t n = 0;
    while (n < a->T && n < b->T && a->tokens[n] == b->tokens[n])
        n++;
    return (size_t)n;
}

/* ---- making ---------------------------------------------------------------------------------------------------------------- */

static pb_status check_tokens(const pb_model *model, const int32_t *ids, size_t n, pb_error *err) {
    int vocab = pb_model_vocab(model), positions = pb_model_max_positions(model);
    if (n == 0)
        return pb_fail(err, PB_ERR_ARGUMENT, "the prompt has no tokens");
    if (positions > 0 && n > (size_t)positions)
        return pb_fail(err, PB_ERR_ARGUMENT, "the prompt has %zu tokens, model %s has %d positions", n,
                       pb_model_name(model), positions);
    if (n > INT32_MAX / 4)
        return pb_fail(err, PB_ERR_ARGUMENT, "the prompt has %zu tokens: too many", n);
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return pb_fail(err, PB_ERR_ARGUMENT,
                           "token %zu of the prompt is %d, which is not in the vocabulary (0 to %d)", i, ids[i],
                           vocab - 1);
    return PB_OK;
}

/* New blocks for the rows first .. T-1 of boundaries >= from and of layers >= from; copied from base where it is given. */
static pb_status add_blocks(pb_run *run, const pb_run *base, int from, int32_t first, pb_error *err) {
    pb_context *ctx = pb_model_context(run->model);
    const pb_spec *s = pb_model_spec(run->model);
    int64_t D = s->d_model, width = pb_spec_qkv_width(s), rows = run->T - first;
    for (int l = from < 0 ? 0 : from; l <= s->layers; l++) {
        run->resid[l] = pb_block_create(ctx, rows, D, first);
        if (l < s->layers && run->resid[l])
            run->qkv[l] = pb_block_create(ctx, rows, width, first);
        if (!run->resid[l] || (l < s->layers && !run->qkv[l]))
            return pb_fail_memory(err, ctx, (size_t)(rows * (D + width)) * sizeof(float),
                                  "a run's residual stream, queries, keys and values");
        for (int32_t p = first; base && p < run->T; p++) {
            memcpy(run->resid[l]->data + (p - first) * D, pb_run_resid_row(base, l, p, D), (size_t)D * sizeof(float));
            if (l < s->layers)
                memcpy(run->qkv[l]->data + (p - first) * width, pb_run_qkv_row(base, l, p, width),
                       (size_t)width * sizeof(float));
        }
    }
    return PB_OK;
}

static const size_t GROUP_BYTES = (size_t)128 << 20; /* of a layer's buffers, where the budget has them */

/* Lanes that make runs, in portions whose residual streams stay small beside what the runs keep. */
static pb_status run_lanes(pb_model *model, pb_lane *lanes, size_t n, const pb_patch *const *patches,
                           const size_t *n_patches, pb_error *err) {
    pb_arena arena = {.ctx = pb_model_context(model)};
    const pb_spec *spec = pb_model_spec(model);
    pb_status status = PB_OK;
    size_t left = pb_work_left(arena.ctx, 2 * GROUP_BYTES);
    int64_t most = (int64_t)(left / 4 / ((size_t)spec->d_model * sizeof(float))); /* rows of residual streams */
    most = most < 16384 ? most : 16384;
    for (size_t first = 0; first < n && status == PB_OK;) {
        size_t count = 0;
        int64_t rows = 0, largest = 0;
        double flops = 0;
        while (first + count < n && (count == 0 || rows < most) && status == PB_OK) {
            pb_cost cost;
            size_t i = first + count;
            status = pb_lane_prepare(&arena, model, &lanes[i], patches ? patches[i] : NULL, patches ? n_patches[i] : 0,
                                     true, &cost, err);
            rows += lanes[first + count].cap;
            largest = cost.layer_rows > largest ? cost.layer_rows : largest;
            flops += cost.flops;
            count++;
        }
        int64_t group = pb_group_rows_for(spec, left / 2);
        if (status == PB_OK)
            status = pb_lanes_run(model, lanes + first, count, n > 1 ? "running prompts" : NULL,
                                  group > largest ? group : largest, 0, flops, err);
        pb_arena_free(&arena);
        first += count;
    }
    return status;
}

pb_status pb_run_create_many(pb_model *model, const int32_t *const *ids, const size_t *lengths, size_t n, pb_run **runs,
                             pb_error *err) {
    return pb_run_create_patched(model, ids, lengths, NULL, NULL, n, runs, err);
}

pb_status pb_run_create_patched(pb_model *model, const int32_t *const *ids, const size_t *lengths,
                                const pb_patch *const *patches, const size_t *n_patches, size_t n, pb_run **runs,
                                pb_error *err) {
    pb_context *ctx = pb_model_context(model);
    for (size_t i = 0; i < n; i++)
        PB_TRY(check_tokens(model, ids[i], lengths[i], err));
    pb_lane *lanes = pb_alloc_zero(ctx, n, sizeof *lanes);
    pb_run **made = pb_alloc_zero(ctx, n, sizeof *made);
    pb_status status = PB_OK;
    if (!lanes || !made)
        status = pb_fail_memory(err, ctx, n * sizeof *lanes, "runs");
    for (size_t i = 0; i < n && status == PB_OK; i++) {
        status = pb_run_shell(model, ids[i], lengths[i], &made[i], err);
        if (status == PB_OK)
            status = add_blocks(made[i], NULL, 0, 0, err);
        if (status == PB_OK)
            lanes[i] = (pb_lane){.T = made[i]->T, .tokens = made[i]->tokens, .keep = made[i], .index = i};
        if (status == PB_OK && patches && n_patches[i])
            status = pb_patch_list_create(ctx, NULL, patches[i], n_patches[i], &made[i]->patches, err);
    }
    if (status == PB_OK)
        status = run_lanes(model, lanes, n, patches, n_patches, err);
    for (size_t i = 0; i < n && made; i++) {
        if (status == PB_OK)
            runs[i] = made[i];
        else
            pb_run_unref(made[i]);
    }
    pb_free(made);
    pb_free(lanes);
    return status;
}

pb_status pb_run_create(pb_model *model, const int32_t *ids, size_t n, pb_run **out, pb_error *err) {
    return pb_run_create_many(model, &ids, &n, 1, out, err);
}

pb_status pb_run_fork(pb_run *run, const int32_t *ids, size_t n, pb_run **out, pb_error *err) {
    if (run->patches)
        return pb_fail(err, PB_ERR_ARGUMENT, "a patched run cannot be forked: fork the plain run, then patch the fork");
    PB_TRY(check_tokens(run->model, ids, n, err));
    int32_t shared = 0;
    if (same_rotation(pb_model_spec(run->model), run->T, (int32_t)n))
        while (shared < run->T && shared < (int32_t)n && run->tokens[shared] == ids[shared])
            shared++;
    pb_run *owner = run; /* of the shared rows: not a fork of a fork where the first has them all */
    while (owner->prefix && shared <= owner->resid[0]->first)
        owner = owner->prefix;
    pb_run *fork = NULL;
    PB_TRY(pb_run_shell(run->model, ids, n, &fork, err));
    fork->prefix = shared > 0 ? pb_run_ref(owner) : NULL;
    pb_status status = add_blocks(fork, NULL, 0, shared, err);
    pb_lane lane = {
        .base = shared > 0 ? owner : NULL, .T = fork->T, .tokens = fork->tokens, .fresh_from = shared, .keep = fork};
    if (status == PB_OK && shared < fork->T)
        status = run_lanes(run->model, &lane, 1, NULL, NULL, err);
    if (status != PB_OK) {
        pb_run_unref(fork);
        return status;
    }
    *out = fork;
    return PB_OK;
}

pb_status pb_run_patched(pb_run *run, const pb_patch *patches, size_t n, pb_run **out, pb_error *err) {
    pb_context *ctx = pb_model_context(run->model);
    const pb_spec *spec = pb_model_spec(run->model);
    pb_arena arena = {.ctx = ctx};
    pb_run *made = NULL;
    PB_TRY(pb_run_shell(run->model, run->tokens, (size_t)run->T, &made, err));
    pb_lane lane = {.base = run, .T = run->T, .tokens = made->tokens, .fresh_from = run->T, .keep = made};
    pb_cost cost;
    pb_status status = pb_lane_prepare(&arena, run->model, &lane, patches, n, true, &cost, err);
    if (status == PB_OK)
        status = pb_lane_check_masked(spec, &lane, err);
    if (status == PB_OK)
        status = pb_patch_list_create(ctx, run->patches, patches, n, &made->patches, err);
    if (status == PB_OK) {
        int start = lane.start < 0 ? 0 : lane.start;
        made->prefix = run->prefix ? pb_run_ref(run->prefix) : NULL;
        for (int l = 0; l < start && l <= spec->layers; l++) {
            made->resid[l] = block_ref(run->resid[l]);
            if (l < spec->layers)
                made->qkv[l] = block_ref(run->qkv[l]);
        }
        status = add_blocks(made, run, start, 0, err);
    }
    if (status == PB_OK && lane.start < spec->layers) {
        int64_t group = pb_group_rows_for(spec, pb_work_left(ctx, 2 * GROUP_BYTES) / 2);
        status = pb_lanes_run(run->model, &lane, 1, NULL, group > cost.layer_rows ? group : cost.layer_rows, 0,
                              cost.flops, err);
    }
    pb_arena_free(&arena);
    if (status != PB_OK) {
        pb_run_unref(made);
        return status;
    }
    *out = made;
    return PB_OK;
}

/* ---- values ------------------------------------------------------------------------------------------------------------------ */

static pb_status boundary_value(pb_run *run, pb_site site, pb_tensor **out, pb_error *err) {
    int64_t shape[2] = {run->T, pb_model_spec(run->model)->d_model};
    int boundary = site.layer + (site.kind == PB_SITE_RESID_POST);
    PB_TRY(pb_tensor_create(pb_model_context(run->model), PB_F32, 2, shape, out, err));
    for (int32_t p = 0; p < run->T; p++)
        memcpy(pb_tensor_floats(*out) + p * shape[1], pb_run_resid_row(run, boundary, p, shape[1]),
               (size_t)shape[1] * sizeof(float));
    return PB_OK;
}

pb_status pb_run_values(pb_run *run, const pb_site *sites, size_t n, pb_tensor **out, pb_error *err) {
    pb_context *ctx = pb_model_context(run->model);
    pb_site *asked = pb_alloc(ctx, n, sizeof *asked);
    pb_tensor **values = pb_alloc_zero(ctx, n, sizeof *values);
    size_t *which = pb_alloc(ctx, n, sizeof *which), n_asked = 0;
    pb_status status = PB_OK;
    if (!asked || !values || !which)
        status = pb_fail_memory(err, ctx, n * sizeof *values, "site values");
    for (size_t i = 0; i < n && status == PB_OK; i++) {
        char name[64];
        if (!pb_site_exists(run->model, sites[i]))
            status = pb_fail(err, PB_ERR_ARGUMENT, "site '%s' does not exist in this model",
                             pb_site_name(sites[i], name, sizeof name));
        else if (pb_site_is_boundary(run, sites[i]))
            status = boundary_value(run, sites[i], &values[i], err);
        else {
            which[n_asked] = i;
            asked[n_asked++] = sites[i];
        }
    }
    if (status == PB_OK && n_asked > 0) {
        pb_tensor **captured = pb_alloc_zero(ctx, n_asked, sizeof *captured);
        if (!captured)
            status = pb_fail_memory(err, ctx, n_asked * sizeof *captured, "site values");
        pb_request request = {.base = run, .captures = asked, .n_captures = n_asked};
        pb_measure_options options = {.allow_unread = true};
        if (status == PB_OK)
            status = pb_measure(&request, 1, &options, NULL, &captured, NULL, err);
        for (size_t i = 0; i < n_asked && status == PB_OK; i++)
            values[which[i]] = captured[i];
        pb_free(captured);
    }
    for (size_t i = 0; i < n && values; i++) {
        if (status == PB_OK)
            out[i] = values[i];
        else
            pb_tensor_unref(values[i]);
    }
    pb_free(which);
    pb_free(values);
    pb_free(asked);
    return status;
}

pb_status pb_run_value(pb_run *run, pb_site site, pb_tensor **out, pb_error *err) {
    return pb_run_values(run, &site, 1, out, err);
}

pb_status pb_run_metric(pb_run *run, const pb_metric *metric, double *out, pb_error *err) {
    pb_request request = {.base = run, .metric = metric};
    return pb_measure(&request, 1, NULL, out, NULL, NULL, err);
}
