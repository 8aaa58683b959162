/* Reverse pass: requests in groups of runs; for each group from the metric down through the layers to the embedding. A
 * layer's inner values are computed again by the forward code, from the boundary that the run keeps. */
#include "engine/backward.h"

#include <stdio.h>
#include <string.h>

/* ---- memory of a group ------------------------------------------------------------------------------------------------------ */

typedef struct buffer {
    float **at;
    int64_t size; /* 0: not needed */
} buffer;

enum { BUFFERS = 21 };

static void list_buffers(pb_back *b, const pb_spec *s, int64_t n, buffer out[BUFFERS]) {
    int64_t D = s->d_model, qw = (int64_t)s->heads * s->d_head, kw = (int64_t)s->kv_heads * s->d_head,
            M = s->experts ? 0 : s->d_mlp;
    bool raw = s->qk_norm != PB_QK_NORM_NONE || s->clip_qkv > 0,
         post = s->norm_place == PB_NORM_SANDWICH || s->norm_place == PB_NORM_OUTPUT,
         sums = s->norm_place == PB_NORM_POST_ADD, shared = s->block == PB_BLOCK_PARALLEL_SHARED;
    buffer all[BUFFERS] = {
        {&b->dx, n * D},
        {&b->d_attn, n * D},
        {&b->d_norm, n * D},
        {&b->d_shared, shared ? n * D : 0},
        {&b->dz, n * qw},
        {&b->dq, n * qw},
        {&b->dk, n * kw},
        {&b->dv, n * kw},
        {&b->d_post, n * M},
        {&b->d_pre, n * M},
        {&b->d_linear, s->gated ? n * M : 0},
        {&b->saved.pre_norm, n * D},
        {&b->saved.mid, n * D},
        {&b->saved.q_raw, raw ? n * qw : 0},
        {&b->saved.k_raw, raw ? n * kw : 0},
        {&b->saved.v_raw, raw ? n * kw : 0},
        {&b->saved.attn_raw, post ? n * D : 0},
        {&b->saved.mlp_raw, post ? n * D : 0},
        {&b->saved.sum1, sums ? n * D : 0},
        {&b->saved.sum2, sums ? n * D : 0},
        {&b->lanes[0].x, n * D},
    };
    memcpy(out, all, sizeof all);
}

static int64_t floats_of(const buffer list[BUFFERS]) {
    int64_t total = 0;
    for (int i = 0; i < BUFFERS; i++)
        total += (list[i].size + 15) & ~(int64_t)15;
    return total;
}

static int64_t rows_that_fit(const pb_spec *spec, size_t memory) {
    pb_back none = {0};
    pb_lane lane;
    buffer list[BUFFERS];
    none.lanes = &lane;
    list_buffers(&none, spec, 16, list);
    size_t per_row = (size_t)floats_of(list) / 16 * sizeof(float) + pb_layer_bytes(spec, 1);
    int64_t rows = (int64_t)(memory / per_row);
    return rows < 16 ? 16 : rows > 2048 ? 2048 : rows;
}

/* ---- one group ------------------------------------------------------------------------------------------------------------------- */

static pb_status check_differentiable(const pb_grad_request *r, pb_error *err) {
    char name[64];
    if (!pb_metric_differentiable(r->metric))
        return pb_fail(
            err, PB_ERR_ARGUMENT,
            "metric %s has no derivative; logit, logit_diff, logits, prob, log_prob, prob_diff, nll and kl have one",
            pb_metric_kind_name(pb_metric_get_kind(r->metric)));
    for (size_t i = 0; r->run->patches && i < r->run->patches->n; i++)
        if (r->run->patches->items[i].op == PB_PATCH_FN)
            return pb_fail(err, PB_ERR_UNSUPPORTED,
                           "the patch at '%s' is a function, through which no gradient can be taken; say it with "
                           "value, add or scale",
                           pb_site_name(r->run->patches->items[i].site, name, sizeof name));
    for (size_t i = 0; i < r->n_sites + r->n_stops; i++) {
        pb_site site = i < r->n_sites ? r->sites[i] : r->stops[i - r->n_sites];
        if (!pb_site_exists(r->run->model, site))
            return pb_fail(err, PB_ERR_ARGUMENT, "site '%s' does not exist in this model",
                           pb_site_name(site, name, sizeof name));
        if (site.kind == PB_SITE_EXPERT_INDICES)
            return pb_fail(err, PB_ERR_ARGUMENT, "the choice of experts has no derivative (site '%s')",
                           pb_site_name(site, name, sizeof name));
    }
    return PB_OK;
}

static pb_status make_lane(pb_back *b, pb_arena *arena, size_t i, const pb_grad_request *r, pb_tensor **grads,
                           pb_error *err) {
    pb_lane *lane = &b->lanes[i];
    pb_back_info *info = &b->info[i];
    pb_model *model = b->pass.model;
    *lane = (pb_lane){.base = r->run,
                      .T = r->run->T,
                      .tokens = r->run->tokens,
                      .fresh_from = r->run->T,
                      .index = i,
                      .limit = r->run->T,
                      .stop_layer = b->pass.spec->layers};
    *info = (pb_back_info){.request = r, .n_grads = r->n_sites, .row0 = b->rows};
    PB_TRY(pb_lane_resolve(arena, model, lane, NULL, 0, err));
    info->grads = pb_arena_get(arena, r->n_sites * sizeof *info->grads + 1);
    if (!info->grads)
        return pb_fail_memory(err, b->pass.ctx, r->n_sites * sizeof *info->grads, "gradients");
    for (size_t g = 0; g < r->n_sites; g++) {
        pb_capture *c = &info->grads[g];
        c->site = r->sites[g];
        c->ndim = pb_site_shape_of(model, c->site.kind, lane->T, c->shape);
        c->data = pb_tensor_floats(grads[g]);
    }
    pb_member *m = &b->group.members[i];
    size_t T = (size_t)lane->T;
    lane->pos = pb_arena_get(arena, T * sizeof *lane->pos);
    m->k_row = pb_arena_get(arena, 3 * T * sizeof *m->k_row);
    if (!lane->pos || !m->k_row)
        return pb_fail_memory(err, b->pass.ctx, T * 28, "rows of a lane");
    m->lane = lane;
    m->v_row = m->k_row + T;
    m->q_row = m->v_row + T;
    m->a_pos = m->q_pos = m->z_pos = m->post_pos = lane->pos;
    m->n_a = m->n_q = m->n_z = m->n_post = lane->n = lane->cap = lane->T;
    m->a0 = m->q0 = m->z0 = b->rows;
    for (int32_t p = 0; p < lane->T; p++)
        lane->pos[p] = p;
    b->rows += lane->T;
    if (lane->T > b->pass.max_T)
        b->pass.max_T = lane->T;
    return PB_OK;
}

/* Inner values of a layer, as they were. */
static pb_status forward_layer(pb_back *b, int layer, pb_error *err) {
    const pb_spec *spec = b->pass.spec;
    int64_t D = spec->d_model;
    pb_group *g = &b->group;
    g->layer = layer;
    g->weights = &spec->layer[layer];
    for (size_t i = 0; i < b->n; i++)
        for (int32_t p = 0; p < b->lanes[i].T; p++)
            memcpy(b->lanes[i].x + p * D, pb_run_resid_row(b->lanes[i].base, layer, p, D), (size_t)D * sizeof(float));
    PB_TRY(pb_sources_prepare(&b->pass, layer, err));
    PB_TRY(pb_group_carve(g, err));
    PB_TRY(pb_group_project(g, err));
    PB_TRY(pb_group_attention(g, err));
    PB_TRY(pb_group_attention_output(g, err));
    return pb_group_mlp(g, err);
}

/* Embedding: gradients at its sites and of its tables. */
static pb_status embedding_back(pb_back *b, pb_error *err) {
    const pb_spec *spec = b->pass.spec;
    int64_t D = spec->d_model, E = spec->d_embed;
    bool tables = b->weights != NULL;
    PB_TRY(pb_sources_prepare(&b->pass, -1, err));
    if (spec->position == PB_POSITION_LEARNED) {
        memcpy(b->d_norm, b->dx, (size_t)(b->rows * D) * sizeof(float));
        PB_TRY(pb_back_visit_all(b, -1, PB_SITE_POS_EMBED, b->d_norm, 0, D, err));
        for (size_t i = 0; i < b->n && tables; i++)
            for (int32_t p = 0; p < b->lanes[i].T; p++)
                pb_back_table_row(b, &spec->pos_embed, p + spec->position_offset,
                                  b->d_norm + (b->info[i].row0 + p) * D);
    }
    PB_TRY(pb_back_visit_all(b, -1, PB_SITE_EMBED, b->dx, 0, D, err));
    if (!tables)
        return PB_OK;
    float *rows = pb_alloc(b->pass.ctx, (size_t)b->rows * (size_t)(E + D), sizeof *rows);
    if (!rows)
        return pb_fail_memory(err, b->pass.ctx, (size_t)b->rows * (size_t)(E + D) * sizeof *rows, "embeddings");
    float *wide = rows + b->rows * E, *d = b->dx;
    pb_status status = PB_OK;
    for (size_t i = 0; i < b->n; i++)
        for (int32_t p = 0; p < b->lanes[i].T; p++) {
            float *row = rows + (b->info[i].row0 + p) * E;
            pb_matrix_output_row(&spec->embed, b->lanes[i].tokens[p], row);
            pb_vec_scale(spec->embed_scale, row, E);
        }
    if (spec->has_embed_norm) { /* its input: the embedding, projected where it is narrower */
        memcpy(wide, rows, (size_t)(b->rows * E) * sizeof *rows);
        if (spec->project_in.data)
            status = pb_linear(b->pass.ctx, rows, E, b->rows, &spec->project_in, wide, D, 0, err);
        pb_norm norm = pb_spec_norm(spec, spec->embed_norm);
        norm.centre = true;
        float *dweight = pb_back_vector(b, norm.weight), *dbias = pb_back_vector(b, norm.bias);
        for (int64_t r = 0; r < b->rows && status == PB_OK; r++) {
            float scale = pb_norm_scale(&norm, wide + r * D, b->d_attn);
            pb_norm_backward(&norm, wide + r * D, scale, d + r * D, d + r * D, false, dweight, dbias);
        }
    }
    if (spec->project_in.data && status == PB_OK) {
        status = pb_back_linear(b, &spec->project_in, rows, E, d, D, b->rows, err);
        if (status == PB_OK)
            status = pb_linear_input_grad(b->pass.ctx, d, D, b->rows, &spec->project_in, rows, E, 0, err);
        d = rows;
    }
    for (size_t i = 0; i < b->n && status == PB_OK; i++)
        for (int32_t p = 0; p < b->lanes[i].T; p++) {
            float *row = d + (b->info[i].row0 + p) * E;
            pb_vec_scale(spec->embed_scale, row, E);
            pb_back_table_row(b, &spec->embed, b->lanes[i].tokens[p], row);
        }
    pb_free(rows);
    return status;
}

/* The lowest layer whose gradient somebody asked for; -1: the embedding. */
static int lowest(const pb_back *b) {
    int layer = b->weights ? -1 : b->pass.spec->layers;
    for (size_t i = 0; i < b->n; i++)
        for (size_t g = 0; g < b->info[i].n_grads; g++) {
            pb_site s = b->info[i].grads[g].site;
            if (s.kind < PB_SITE_LN_FINAL_SCALE && s.layer < layer)
                layer = s.layer;
        }
    return layer;
}

static pb_status run_group(pb_back *b, pb_error *err) {
    const pb_spec *spec = b->pass.spec;
    pb_context *ctx = b->pass.ctx;
    buffer list[BUFFERS];
    list_buffers(b, spec, b->rows, list);
    float *memory = pb_alloc(ctx, (size_t)floats_of(list), sizeof *memory), *p = memory;
    b->pass.rotary = pb_alloc_zero(ctx, 2 * (size_t)spec->n_rotaries, sizeof *b->pass.rotary);
    pb_status status = PB_OK;
    if (!memory || !b->pass.rotary)
        status =
            pb_fail_memory(err, ctx, (size_t)floats_of(list) * sizeof *memory, "the reverse pass through one layer");
    for (int i = 0; i < BUFFERS && memory; i++) {
        *list[i].at = list[i].size ? p : NULL;
        p += (list[i].size + 15) & ~(int64_t)15;
    }
    float *x = b->lanes[0].x;
    for (size_t i = 0; i < b->n; i++)
        b->lanes[i].x = x + b->info[i].row0 * spec->d_model;
    b->group = (pb_group){.pass = &b->pass,
                          .spec = spec,
                          .members = b->group.members,
                          .n = b->n,
                          .n_a = b->rows,
                          .n_q = b->rows,
                          .n_z = b->rows,
                          .saved = &b->saved};
    if (status == PB_OK)
        status = pb_back_final(b, err);
    int low = lowest(b);
    int last = low < 0 ? 0 : low;
    for (int layer = spec->layers - 1; layer >= last && status == PB_OK; layer--) {
        char what[64];
        if (layer > last)
            pb_stream_ahead(b->pass.model, layer - 1, (double)b->rows);
        status = forward_layer(b, layer, err);
        if (status == PB_OK)
            status = pb_back_layer(b, layer, err);
        pb_stream_done(b->pass.model, layer);
        pb_sources_drop(&b->pass, INT32_MAX);
        if (status == PB_OK)
            status = pb_context_check(ctx, err);
        snprintf(what, sizeof what, "gradient, layer %d", layer);
        pb_context_progress(ctx, what, spec->layers - layer, spec->layers);
    }
    if (status == PB_OK && low < 0)
        status = embedding_back(b, err);
    pb_stream_done(b->pass.model, PB_STREAM_EMBED);
    pb_sources_drop(&b->pass, INT32_MAX);
    pb_pass_free_rotaries(&b->pass);
    pb_free(b->pass.work);
    pb_free(memory);
    return status;
}

/* ---- all requests ------------------------------------------------------------------------------------------------------------------ */

static pb_status group_of(const pb_grad_request *requests, size_t n, const pb_grad_options *options, double *values,
                          pb_tensor ***grads, pb_error *err) {
    pb_model *model = requests[0].run->model;
    pb_context *ctx = pb_model_context(model);
    pb_arena arena = {.ctx = ctx};
    pb_back b = {
        .pass = {.ctx = ctx, .model = model, .spec = pb_model_spec(model), .group_rows = 2048, .arena = {.ctx = ctx}},
        .n = n,
        .weights = options ? options->weights : NULL};
    b.lanes = pb_arena_get(&arena, n * sizeof *b.lanes);
    b.info = pb_arena_get(&arena, n * sizeof *b.info);
    b.group.members = pb_arena_get(&arena, n * sizeof *b.group.members);
    pb_status status =
        b.lanes && b.info && b.group.members ? PB_OK : pb_fail_memory(err, ctx, n * sizeof *b.lanes, "gradients");
    b.pass.lanes = b.lanes;
    b.pass.n_lanes = n;
    for (size_t i = 0; i < n && status == PB_OK; i++)
        status = make_lane(&b, &arena, i, &requests[i], grads ? grads[i] : NULL, err);
    if (status == PB_OK)
        status = run_group(&b, err);
    for (size_t i = 0; i < n && status == PB_OK && values; i++)
        values[i] = b.info[i].value;
    pb_arena_free(&arena);
    return status;
}

static pb_status make_tensors(const pb_grad_request *requests, size_t n, pb_tensor ***grads, pb_error *err) {
    for (size_t i = 0; i < n; i++)
        for (size_t g = 0; g < requests[i].n_sites; g++)
            grads[i][g] = NULL;
    for (size_t i = 0; i < n; i++)
        for (size_t g = 0; g < requests[i].n_sites; g++) {
            pb_model *model = requests[i].run->model;
            int64_t shape[4];
            int nd = pb_site_shape_of(model, requests[i].sites[g].kind, requests[i].run->T, shape);
            PB_TRY(pb_tensor_zeros(pb_model_context(model), PB_F32, nd, shape, &grads[i][g], err));
        }
    return PB_OK;
}

/* ---- weights ----------------------------------------------------------------------------------------------------------------------- */

/* What the passes add to. The gradient of a tied embedding that is stored a second time is wanted under that name: the passes
 * know one name only, the embedding's. */
typedef struct wanted_weights {
    pb_tensor **list; /* [n], or NULL: nothing is wanted */
    size_t embedding, copy;
    pb_tensor *sum; /* of this call, where both names have a tensor of their own */
} wanted_weights;

static pb_status check_weights(const pb_model *model, pb_tensor *const *weights, pb_error *err) {
    bool any = false;
    for (size_t i = 0; weights && i < pb_model_weight_count(model); i++)
        any = any || weights[i];
    if (!any || !pb_model_is_processed(model))
        return PB_OK;
    const pb_load_options *o = pb_model_options(model);
    return pb_fail(
        err, PB_ERR_UNSUPPORTED,
        "gradients of weights are by the weights in the file, and model '%s' was loaded with weight processing "
        "(%s%s%s%s ), whose results no name stands for: load it without",
        pb_model_name(model), o->fold_ln ? " fold_ln" : "", o->center_writing_weights ? " center_writing_weights" : "",
        o->center_unembed ? " center_unembed" : "", o->fold_value_biases ? " fold_value_biases" : "");
}

static pb_status open_weights(const pb_model *model, pb_tensor *const *weights, wanted_weights *w, pb_error *err) {
    size_t n = pb_model_weight_count(model);
    pb_context *ctx = pb_model_context(model);
    w->copy = n;
    if (!weights)
        return PB_OK;
    w->list = pb_alloc(ctx, n, sizeof *w->list);
    if (!w->list)
        return pb_fail_memory(err, ctx, n * sizeof *w->list, "gradients of weights");
    memcpy(w->list, weights, n * sizeof *w->list);
    for (size_t i = 0; i < n; i++) {
        size_t original = pb_model_weight_original(model, i);
        if (!weights[i] || original == n || weights[i] == weights[original])
            continue;
        w->copy = i;
        w->embedding = original;
        if (weights[original])
            PB_TRY(pb_tensor_zeros(ctx, PB_F32, pb_tensor_ndim(weights[i]), pb_tensor_shape(weights[i]), &w->sum, err));
        w->list[original] = w->sum ? w->sum : weights[i];
    }
    return PB_OK;
}

/* Both names have what was summed. */
static pb_status close_weights(pb_tensor *const *weights, wanted_weights *w, pb_status status, pb_error *err) {
    if (status == PB_OK && w->sum)
        status = pb_tensor_binary_in_place(PB_ADD, weights[w->embedding], w->sum, err);
    if (status == PB_OK && w->sum)
        status = pb_tensor_binary_in_place(PB_ADD, weights[w->copy], w->sum, err);
    pb_tensor_unref(w->sum);
    pb_free(w->list);
    return status;
}

/* ---- all requests in groups ---------------------------------------------------------------------------------------------------- */

pb_status pb_grad(const pb_grad_request *requests, size_t n, const pb_grad_options *options, double *values,
                  pb_tensor ***grads, pb_error *err) {
    if (n == 0)
        return pb_fail(err, PB_ERR_ARGUMENT, "there is no run to differentiate");
    pb_model *model = requests[0].run->model;
    const pb_spec *spec = pb_model_spec(model);
    for (size_t i = 0; i < n; i++) {
        if (requests[i].run->model != model)
            return pb_fail(err, PB_ERR_ARGUMENT,
                           "run %zu is of another model: differentiate the models one after the other", i);
        if (requests[i].n_sites && !grads)
            return pb_fail(err, PB_ERR_ARGUMENT, "run %zu asks for gradients that have nowhere to go", i);
        PB_TRY(check_differentiable(&requests[i], err));
    }
    PB_TRY(check_weights(model, options ? options->weights : NULL, err));
    pb_context *ctx = pb_model_context(model);
    const size_t most = (size_t)512 << 20;
    int64_t fit = rows_that_fit(spec, options && options->memory ? options->memory : pb_work_left(ctx, most));
    wanted_weights weights = {0};
    pb_status status = grads ? make_tensors(requests, n, grads, err) : PB_OK;
    if (status == PB_OK)
        status = open_weights(model, options ? options->weights : NULL, &weights, err);
    const pb_grad_options own = {.weights = weights.list};
    for (size_t first = 0; first < n && status == PB_OK;) {
        size_t count = 1;
        int64_t rows = requests[first].run->T;
        while (first + count < n && rows + requests[first + count].run->T <= fit)
            rows += requests[first + count++].run->T;
        status =
            group_of(requests + first, count, &own, values ? values + first : NULL, grads ? grads + first : NULL, err);
        first += count;
    }
    status = close_weights(options ? options->weights : NULL, &weights, status, err);
    for (size_t i = 0; i < n && status != PB_OK && grads; i++)
        for (size_t g = 0; g < requests[i].n_sites; g++) {
            pb_tensor_unref(grads[i][g]);
            grads[i][g] = NULL;
        }
    return status;
}
