/* Reverse pass of one layer, in the reverse order of project.c, layer.c and mlp.c. */
#include <math.h>
#include <string.h>

#include "engine/backward.h"

static bool has_ln1(const pb_spec *s) { return s->norm_place == PB_NORM_PRE || s->norm_place == PB_NORM_SANDWICH; }

static bool has_post_norms(const pb_spec *s) {
    return s->norm_place == PB_NORM_SANDWICH || s->norm_place == PB_NORM_OUTPUT;
}

/* ---- mlp ---------------------------------------------------------------------------------------------------------------------- */

/* d at the last matrix's output (d_norm) -> d at the mlp's input (d_norm). */
static pb_status dense_back(pb_back *b, int layer, pb_error *err) {
    const pb_spec *spec = b->pass.spec;
    const pb_layer *w = b->group.weights;
    pb_context *ctx = b->pass.ctx;
    int64_t D = spec->d_model, M = spec->d_mlp, n = b->rows;
    PB_TRY(pb_back_linear(b, &w->mlp_out, b->group.hidden, M, b->d_norm, D, n, err));
    PB_TRY(pb_linear_input_grad(ctx, b->d_norm, D, n, &w->mlp_out, b->d_post, M, 0, err));
    PB_TRY(pb_back_visit_all(b, layer, PB_SITE_MLP_POST, b->d_post, 0, M, err));
    pb_act_backward_rows(ctx, spec->act, b->group.pre, M, b->group.linear, M, b->d_post, M, b->d_pre, M, b->d_linear, M,
                         n, M);
    PB_TRY(pb_back_visit_all(b, layer, PB_SITE_MLP_PRE, b->d_pre, 0, M, err));
    PB_TRY(pb_back_linear(b, &w->mlp_in, b->group.mlp_in, D, b->d_pre, M, n, err));
    PB_TRY(pb_linear_input_grad(ctx, b->d_pre, M, n, &w->mlp_in, b->d_norm, D, 0, err));
    if (!b->group.linear)
        return PB_OK;
    PB_TRY(pb_back_visit_all(b, layer, PB_SITE_MLP_PRE_LINEAR, b->d_linear, 0, M, err));
    PB_TRY(pb_back_linear(b, &w->mlp_linear, b->group.mlp_in, D, b->d_linear, M, n, err));
    return pb_linear_input_grad(ctx, b->d_linear, M, n, &w->mlp_linear, b->d_norm, D, PB_LINEAR_ACCUMULATE, err);
}

static pb_status mlp_back(pb_back *b, int layer, pb_error *err) {
    const pb_spec *spec = b->pass.spec;
    const pb_layer *w = b->group.weights;
    int64_t D = spec->d_model, all = b->rows * D;
    if (spec->norm_place == PB_NORM_POST_ADD)
        PB_TRY(pb_back_norm(b, layer, w->ln2, b->saved.sum2, b->dx, PB_SITE_LN2_SCALE, err));
    memcpy(b->d_norm, b->dx, (size_t)all * sizeof(float));
    PB_TRY(pb_back_visit_all(b, layer, PB_SITE_MLP_OUT, b->d_norm, 0, D, err));
    if (spec->residual_scale != 1.0f)
        pb_vec_scale(spec->residual_scale, b->d_norm, all);
    if (has_post_norms(spec))
        PB_TRY(pb_back_norm(b, layer, w->ln2_post, b->saved.mlp_raw, b->d_norm, PB_SITE_LN2_POST_SCALE, err));
    PB_TRY(spec->experts ? pb_back_experts(b, layer, err) : dense_back(b, layer, err));
    if (spec->block == PB_BLOCK_PARALLEL_SHARED) {
        memcpy(b->d_shared, b->d_norm, (size_t)all * sizeof(float));
        return PB_OK; /* joins attention's part at ln1's output */
    }
    if (has_ln1(spec))
        PB_TRY(pb_back_norm(b, layer, w->ln2, b->saved.mid, b->d_norm, PB_SITE_LN2_SCALE, err));
    PB_TRY(pb_back_visit_all(b, layer, PB_SITE_MLP_IN, b->d_norm, 0, D, err));
    pb_vec_add(b->dx, b->d_norm, b->dx, all);
    return PB_OK;
}

/* ---- attention's output ---------------------------------------------------------------------------------------------------------- */

/* hook_result of one lane: every head's part has the gradient of the sum; patched parts give their heads' z another one. */
static pb_status result_back(pb_back *b, size_t i, int layer, pb_error *err) {
    const pb_spec *spec = b->pass.spec;
    pb_context *ctx = b->pass.ctx;
    int64_t D = spec->d_model, H = spec->heads, dh = spec->d_head, row = H * D;
    pb_lane *lane = &b->lanes[i];
    float *parts = pb_alloc(ctx, (size_t)(lane->T * row), sizeof *parts);
    if (!parts)
        return pb_fail_memory(err, ctx, (size_t)(lane->T * row) * sizeof *parts, "the gradient of hook_result");
    for (int64_t r = 0; r < lane->T; r++)
        for (int64_t h = 0; h < H; h++)
            memcpy(parts + r * row + h * D, b->d_attn + (b->info[i].row0 + r) * D, (size_t)D * sizeof *parts);
    pb_view view = {parts, lane->pos, lane->T, row, D, (int32_t)H, (int32_t)D};
    pb_status status = pb_back_visit(b, i, layer, PB_SITE_RESULT, &view, err);
    bool patched =
        pb_lane_touches(lane, layer, PB_SITE_RESULT) || pb_back_stops(b, i, (pb_site){PB_SITE_RESULT, layer});
    for (int64_t h = 0; h < H && patched && status == PB_OK; h++) {
        pb_matrix head = pb_matrix_inputs(&b->group.weights->o, h * dh, dh);
        status = pb_linear_input_grad(ctx, parts + h * D, row, lane->T, &head,
                                      b->dz + b->info[i].row0 * H * dh + h * dh, H * dh, 0, err);
    }
    pb_free(parts);
    return status;
}

static pb_status attention_output_back(pb_back *b, int layer, pb_error *err) {
    const pb_spec *spec = b->pass.spec;
    const pb_layer *w = b->group.weights;
    int64_t D = spec->d_model, width = (int64_t)spec->heads * spec->d_head;
    PB_TRY(pb_back_visit_all(b, layer, PB_SITE_ATTN_OUT, b->d_attn, 0, D, err));
    if (spec->residual_scale != 1.0f)
        pb_vec_scale(spec->residual_scale, b->d_attn, b->rows * D);
    if (has_post_norms(spec))
        PB_TRY(pb_back_norm(b, layer, w->ln1_post, b->saved.attn_raw, b->d_attn, PB_SITE_LN1_POST_SCALE, err));
    PB_TRY(pb_back_linear(b, &w->o, b->group.z, width, b->d_attn, D, b->rows, err));
    PB_TRY(pb_linear_input_grad(b->pass.ctx, b->d_attn, D, b->rows, &w->o, b->dz, width, 0, err));
    for (size_t i = 0; i < b->n; i++)
        if (pb_back_touches(b, i, layer, PB_SITE_RESULT, PB_SITE_RESULT))
            PB_TRY(result_back(b, i, layer, err));
    return pb_back_visit_all(b, layer, PB_SITE_Z, b->dz, spec->heads, spec->d_head, err);
}

/* ---- from the scores' queries and keys back to the projections ---------------------------------------------------------------------- */

typedef struct head_grads {
    float *d;         /* [rows][heads * d_head] */
    const float *raw; /* values before clip and norm, or NULL */
    int heads;
    float factor;
    pb_norm_weights norm;
} head_grads;

static void qk_norm_back(const pb_back *b, const head_grads *g, const float *raw, float *d) {
    const pb_spec *spec = b->pass.spec;
    int64_t dh = spec->d_head, width = spec->qk_norm == PB_QK_NORM_FULL ? g->heads * dh : dh;
    for (int64_t at = 0; at < g->heads * dh; at += width) {
        int64_t offset = spec->qk_norm == PB_QK_NORM_PER_HEAD ? at : 0;
        pb_norm norm = {spec->qk_norm_centre, spec->qk_norm_eps, width, g->norm.weight ? g->norm.weight + offset : NULL,
                        g->norm.bias ? g->norm.bias + offset : NULL};
        float *dweight = pb_back_vector(b, norm.weight), *dbias = pb_back_vector(b, norm.bias);
        double sum = 0, squares = 0;
        for (int64_t i = 0; spec->qk_norm_centre && i < width; i++)
            sum += raw[at + i];
        double mean = sum / (double)width;
        for (int64_t i = 0; i < width; i++)
            squares += (raw[at + i] - mean) * (raw[at + i] - mean);
        float scale = (float)sqrt(squares / (double)width + norm.eps);
        pb_norm_backward(&norm, raw + at, scale, d + at, d + at, false, dweight, dbias);
    }
}

/* Norm, clip and factor; raw holds the hook's values, the norm saw them clipped and scaled. */
static pb_status raw_back(pb_back *b, const head_grads *g, pb_error *err) {
    const pb_spec *spec = b->pass.spec;
    int64_t width = (int64_t)g->heads * spec->d_head;
    float *row = pb_alloc(b->pass.ctx, (size_t)width, sizeof *row);
    if (!row)
        return pb_fail_memory(err, b->pass.ctx, (size_t)width * sizeof *row, "the gradient of queries and keys");
    for (int64_t r = 0; r < b->rows; r++) {
        float *d = g->d + r * width;
        for (int64_t i = 0; i < width; i++) {
            float x = g->raw[r * width + i] * g->factor;
            row[i] = spec->clip_qkv > 0 ? (x > spec->clip_qkv    ? spec->clip_qkv
                                           : x < -spec->clip_qkv ? -spec->clip_qkv
                                                                 : x)
                                        : x;
        }
        if (spec->qk_norm != PB_QK_NORM_NONE)
            qk_norm_back(b, g, row, d);
        for (int64_t i = 0; i < width; i++) {
            float x = g->raw[r * width + i] * g->factor;
            d[i] = spec->clip_qkv > 0 && fabsf(x) > spec->clip_qkv ? 0.0f : d[i] * g->factor;
        }
    }
    pb_free(row);
    return PB_OK;
}

static pb_status rotation_back(pb_back *b, const head_grads *g, pb_error *err) {
    const pb_spec *spec = b->pass.spec;
    int index = b->group.weights->rotary;
    if (index < 0)
        return PB_OK;
    const pb_rotary *rotary = &spec->rotaries[index];
    int64_t half = rotary->dims / 2, width = (int64_t)g->heads * spec->d_head;
    for (size_t i = 0; i < b->n; i++) {
        const float *cosine, *sine;
        PB_TRY(pb_pass_rotary(&b->pass, index, b->lanes[i].T, &cosine, &sine, err));
        int threads = pb_threads_for(b->pass.ctx, 4.0 * b->lanes[i].T * (double)width);
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int32_t p = 0; p < b->lanes[i].T; p++)
            for (int h = 0; h < g->heads; h++)
                pb_rotary_apply_back(g->d + (b->info[i].row0 + p) * width + (int64_t)h * spec->d_head, rotary->dims,
                                     rotary->interleaved, cosine + p * half, sine + p * half);
    }
    return PB_OK;
}

static pb_status heads_back(pb_back *b, int layer, pb_error *err) {
    const pb_spec *spec = b->pass.spec;
    bool norms = spec->qk_norm != PB_QK_NORM_NONE;
    head_grads q = {b->dq, b->saved.q_raw, spec->heads, spec->query_factor, b->group.weights->q_norm};
    head_grads k = {b->dk, b->saved.k_raw, spec->kv_heads, 1.0f, b->group.weights->k_norm};
    PB_TRY(pb_back_visit_all(b, layer, PB_SITE_ROT_Q, b->dq, spec->heads, spec->d_head, err));
    PB_TRY(pb_back_visit_all(b, layer, PB_SITE_ROT_K, b->dk, spec->kv_heads, spec->d_head, err));
    PB_TRY(rotation_back(b, &q, err));
    PB_TRY(rotation_back(b, &k, err));
    if (norms || spec->clip_qkv > 0) {
        PB_TRY(raw_back(b, &q, err));
        PB_TRY(raw_back(b, &k, err));
    } else if (spec->query_factor != 1.0f) {
        pb_vec_scale(spec->query_factor, b->dq, b->rows * spec->heads * spec->d_head);
    }
    int64_t v_all = b->rows * spec->kv_heads * spec->d_head;
    for (int64_t i = 0; spec->clip_qkv > 0 && i < v_all; i++)
        if (fabsf(b->saved.v_raw[i]) > spec->clip_qkv)
            b->dv[i] = 0.0f;
    PB_TRY(pb_back_visit_all(b, layer, PB_SITE_Q, b->dq, spec->heads, spec->d_head, err));
    PB_TRY(pb_back_visit_all(b, layer, PB_SITE_K, b->dk, spec->kv_heads, spec->d_head, err));
    return pb_back_visit_all(b, layer, PB_SITE_V, b->dv, spec->kv_heads, spec->d_head, err);
}

/* ---- one input per head ------------------------------------------------------------------------------------------------------------------ */

/* Gradient at one head kind's inputs: [T][heads][D] from d [T][heads * dh] of a lane; x: the inputs (post patches), same layout. */
static pb_status inputs_back(pb_back *b, const float *d, int32_t T, int heads, const pb_matrix *w, const float *x,
                             float *out, pb_error *err) {
    const pb_spec *spec = b->pass.spec;
    int64_t D = spec->d_model, dh = spec->d_head;
    pb_norm norm = pb_spec_norm(spec, b->group.weights->ln1);
    for (int h = 0; h < heads; h++) {
        pb_matrix head = pb_matrix_outputs(w, h * dh, dh);
        PB_TRY(pb_linear_input_grad(b->pass.ctx, d + h * dh, heads * dh, T, &head, out + h * D, heads * D, 0, err));
    }
    if (!has_ln1(spec))
        return PB_OK;
    float *centred = pb_alloc(b->pass.ctx, (size_t)D, sizeof *centred);
    if (!centred)
        return pb_fail_memory(err, b->pass.ctx, (size_t)D * sizeof *centred, "the gradient of a norm");
    for (int64_t r = 0; r < (int64_t)T * heads; r++) {
        float scale = pb_norm_scale(&norm, x + r * D, centred);
        pb_norm_backward(&norm, x + r * D, scale, out + r * D, out + r * D, false, NULL, NULL);
    }
    pb_free(centred);
    return PB_OK;
}

/* attn_in, q_input, k_input, v_input of one lane. If they are patched, this is also the lane's way back to the residual
 * stream: its gradients at q, k and v are then taken out of the common way, as they are where the gradient stops. */
static pb_status split_back(pb_back *b, size_t i, int layer, pb_error *err) {
    const pb_spec *spec = b->pass.spec;
    pb_context *ctx = b->pass.ctx;
    pb_lane *lane = &b->lanes[i];
    int64_t D = spec->d_model, H = spec->heads, KV = spec->kv_heads, dh = spec->d_head, T = lane->T,
            row0 = b->info[i].row0;
    bool patched = pb_lane_touches_range(lane, layer, PB_SITE_ATTN_IN, PB_SITE_V_INPUT);
    if (patched && b->weights)
        return pb_fail(err, PB_ERR_UNSUPPORTED,
                       "layer %d: gradients of weights under a patch at attn_in, q_input, k_input or v_input", layer);
    size_t q_size = (size_t)(T * H * D), k_size = (size_t)(T * KV * D);
    float *x = pb_alloc(ctx, 2 * (q_size + 2 * k_size), sizeof *x);
    if (!x)
        return pb_fail_memory(err, ctx, 2 * (q_size + 2 * k_size) * sizeof *x, "gradients of per-head inputs");
    float *xk = x + q_size, *xv = xk + k_size, *d = xv + k_size, *dk = d + q_size, *dv = dk + k_size;
    for (int64_t r = 0; r < T; r++)
        for (int64_t h = 0; h < H; h++)
            memcpy(x + (r * H + h) * D, b->saved.pre_norm + (row0 + r) * D, (size_t)D * sizeof *x);
    pb_view q_view = {x, lane->pos, lane->T, H * D, D, (int32_t)H, (int32_t)D},
            k_view = {xk, lane->pos, lane->T, KV * D, D, (int32_t)KV, (int32_t)D};
    pb_status status = pb_visit(&b->pass, lane, layer, PB_SITE_ATTN_IN, &q_view, PB_EDITS_ALL, err);
    for (int64_t r = 0; r < T; r++)
        for (int64_t h = 0; h < KV; h++) {
            memcpy(xk + (r * KV + h) * D, x + (r * H + h * (H / KV)) * D, (size_t)D * sizeof *x);
            memcpy(xv + (r * KV + h) * D, x + (r * H + h * (H / KV)) * D, (size_t)D * sizeof *x);
        }
    if (status == PB_OK)
        status = pb_visit(&b->pass, lane, layer, PB_SITE_Q_INPUT, &q_view, PB_EDITS_ALL, err);
    if (status == PB_OK)
        status = pb_visit(&b->pass, lane, layer, PB_SITE_K_INPUT, &k_view, PB_EDITS_ALL, err);
    k_view.data = xv;
    if (status == PB_OK)
        status = pb_visit(&b->pass, lane, layer, PB_SITE_V_INPUT, &k_view, PB_EDITS_ALL, err);
    const pb_layer *w = b->group.weights;
    if (status == PB_OK)
        status = inputs_back(b, b->dq + row0 * H * dh, lane->T, (int)H, &w->q, x, d, err);
    if (status == PB_OK)
        status = inputs_back(b, b->dk + row0 * KV * dh, lane->T, (int)KV, &w->k, xk, dk, err);
    if (status == PB_OK)
        status = inputs_back(b, b->dv + row0 * KV * dh, lane->T, (int)KV, &w->v, xv, dv, err);
    k_view.data = dv;
    if (status == PB_OK)
        status = pb_back_visit(b, i, layer, PB_SITE_V_INPUT, &k_view, err);
    k_view.data = dk;
    if (status == PB_OK)
        status = pb_back_visit(b, i, layer, PB_SITE_K_INPUT, &k_view, err);
    q_view.data = d;
    if (status == PB_OK)
        status = pb_back_visit(b, i, layer, PB_SITE_Q_INPUT, &q_view, err);
    for (int64_t r = 0; r < T; r++) /* the key/value heads read their group's first copy */
        for (int64_t h = 0; h < KV; h++) {
            float *copy = d + (r * H + h * (H / KV)) * D;
            pb_vec_add(copy, dk + (r * KV + h) * D, copy, D);
            pb_vec_add(copy, dv + (r * KV + h) * D, copy, D);
        }
    if (status == PB_OK)
        status = pb_back_visit(b, i, layer, PB_SITE_ATTN_IN, &q_view, err);
    bool all = pb_back_stops(b, i, (pb_site){PB_SITE_ATTN_IN, layer});
    bool stop_q = patched || all || pb_back_stops(b, i, (pb_site){PB_SITE_Q_INPUT, layer}),
         stop_k = patched || all || pb_back_stops(b, i, (pb_site){PB_SITE_K_INPUT, layer}),
         stop_v = patched || all || pb_back_stops(b, i, (pb_site){PB_SITE_V_INPUT, layer});
    if (stop_q)
        memset(b->dq + row0 * H * dh, 0, (size_t)(T * H * dh) * sizeof *d);
    if (stop_k)
        memset(b->dk + row0 * KV * dh, 0, (size_t)(T * KV * dh) * sizeof *d);
    if (stop_v)
        memset(b->dv + row0 * KV * dh, 0, (size_t)(T * KV * dh) * sizeof *d);
    for (int64_t r = 0; r < T && patched && status == PB_OK; r++)
        for (int64_t h = 0; h < H; h++)
            pb_vec_add(b->dx + (row0 + r) * D, d + (r * H + h) * D, b->dx + (row0 + r) * D, D);
    pb_free(x);
    return status;
}

/* ---- the layer ------------------------------------------------------------------------------------------------------------------------------- */

static pb_status projections_back(pb_back *b, int layer, pb_error *err) {
    const pb_spec *spec = b->pass.spec;
    const pb_layer *w = b->group.weights;
    pb_context *ctx = b->pass.ctx;
    int64_t D = spec->d_model, qw = (int64_t)spec->heads * spec->d_head, kw = (int64_t)spec->kv_heads * spec->d_head,
            n = b->rows;
    PB_TRY(pb_back_linear(b, &w->q, b->group.normed, D, b->dq, qw, n, err));
    PB_TRY(pb_back_linear(b, &w->k, b->group.normed, D, b->dk, kw, n, err));
    PB_TRY(pb_back_linear(b, &w->v, b->group.normed, D, b->dv, kw, n, err));
    for (size_t i = 0; i < b->n; i++)
        if (pb_back_touches(b, i, layer, PB_SITE_ATTN_IN, PB_SITE_V_INPUT))
            PB_TRY(split_back(b, i, layer, err));
    PB_TRY(pb_linear_input_grad(ctx, b->dq, qw, n, &w->q, b->d_norm, D, 0, err));
    PB_TRY(pb_linear_input_grad(ctx, b->dk, kw, n, &w->k, b->d_norm, D, PB_LINEAR_ACCUMULATE, err));
    PB_TRY(pb_linear_input_grad(ctx, b->dv, kw, n, &w->v, b->d_norm, D, PB_LINEAR_ACCUMULATE, err));
    if (spec->block == PB_BLOCK_PARALLEL_SHARED)
        pb_vec_add(b->d_norm, b->d_shared, b->d_norm, n * D);
    if (has_ln1(spec))
        PB_TRY(pb_back_norm(b, layer, w->ln1, b->saved.pre_norm, b->d_norm, PB_SITE_LN1_SCALE, err));
    pb_vec_add(b->dx, b->d_norm, b->dx, n * D);
    return PB_OK;
}

pb_status pb_back_layer(pb_back *b, int layer, pb_error *err) {
    const pb_spec *spec = b->pass.spec;
    int64_t D = spec->d_model;
    size_t bytes = (size_t)(b->rows * D) * sizeof(float);
    bool parallel = spec->block != PB_BLOCK_SEQUENTIAL;
    PB_TRY(pb_back_visit_all(b, layer, PB_SITE_RESID_POST, b->dx, 0, D, err));
    if (parallel) /* both halves read resid_pre, and both are added to it */
        memcpy(b->d_attn, b->dx, bytes);
    PB_TRY(mlp_back(b, layer, err));
    if (!parallel) {
        PB_TRY(pb_back_visit_all(b, layer, PB_SITE_RESID_MID, b->dx, 0, D, err));
        if (spec->norm_place == PB_NORM_POST_ADD)
            PB_TRY(pb_back_norm(b, layer, b->group.weights->ln1, b->saved.sum1, b->dx, PB_SITE_LN1_SCALE, err));
        memcpy(b->d_attn, b->dx, bytes);
    }
    PB_TRY(attention_output_back(b, layer, err));
    PB_TRY(pb_back_attention(b, layer, err));
    PB_TRY(heads_back(b, layer, err));
    PB_TRY(projections_back(b, layer, err));
    return pb_back_visit_all(b, layer, PB_SITE_RESID_PRE, b->dx, 0, D, err);
}
