/* From the residual stream to queries, keys and values: norm, projections, clipping, q/k norm, rotation, and the sites
 * on the way (attn_in, q/k/v_input, ln1.*, q, k, v, rot_q, rot_k). */
#include "engine/internal.h"

#include <string.h>

int64_t pb_spec_qkv_width(const pb_spec *spec) { return (int64_t)(spec->heads + 2 * spec->kv_heads) * spec->d_head; }

/* Residual row of a member at the layer's beginning: computed, or the base's. */
static const float *resid_row(const pb_group *g, const pb_member *m, int32_t pos) {
    int32_t row = pb_find_row(m->lane->pos, m->lane->n, pos);
    int64_t D = g->spec->d_model;
    return row >= 0 ? m->lane->x + row * D : pb_run_resid_row(m->lane->base, g->layer, pos, D);
}

static bool has_ln1(const pb_spec *spec) {
    return spec->norm_place == PB_NORM_PRE || spec->norm_place == PB_NORM_SANDWICH;
}

/* ---- the norm before attention --------------------------------------------------------------------------------------- */

pb_status pb_norm_visited(pb_pass *pass, pb_lane *lane, int layer, const pb_norm *norm, float *rows, const int32_t *pos,
                          int32_t n, pb_site_kind scale_kind, pb_error *err) {
    if (n == 0)
        return PB_OK;
    int64_t D = norm->width;
    float *centred = pb_alloc(pass->ctx, (size_t)n * (size_t)(D + 1), sizeof *centred);
    if (!centred)
        return pb_fail_memory(err, pass->ctx, (size_t)n * (size_t)(D + 1) * sizeof *centred, "a patched norm");
    float *scales = centred + n * D;
    for (int32_t r = 0; r < n; r++)
        scales[r] = pb_norm_scale(norm, rows + r * D, centred + r * D);
    pb_view scale_view = {scales, pos, n, 1, 1, 1, 1};
    pb_status status = pb_visit(pass, lane, layer, scale_kind, &scale_view, PB_EDITS_ALL, err);
    if (status == PB_OK) {
        for (int32_t r = 0; r < n; r++)
            pb_norm_divide(norm, centred + r * D, scales[r], rows + r * D);
        pb_view view = {rows, pos, n, D, D, 1, (int32_t)D};
        status = pb_visit(pass, lane, layer, (pb_site_kind)(scale_kind + 1), &view, PB_EDITS_ALL, err);
    }
    if (status == PB_OK)
        for (int32_t r = 0; r < n; r++)
            pb_norm_affine(norm, rows + r * D, rows + r * D);
    pb_free(centred);
    return status;
}

static pb_status norm_rows(pb_group *g, pb_error *err) {
    int64_t D = g->spec->d_model;
    for (size_t i = 0; i < g->n; i++) {
        const pb_member *m = &g->members[i];
        for (int32_t r = 0; r < m->n_a; r++)
            memcpy(g->normed + (m->a0 + r) * D, resid_row(g, m, m->a_pos[r]), (size_t)D * sizeof(float));
    }
    if (g->saved)
        memcpy(g->saved->pre_norm, g->normed, (size_t)(g->n_a * D) * sizeof(float));
    if (!has_ln1(g->spec))
        return PB_OK;
    pb_norm norm = pb_spec_norm(g->spec, g->weights->ln1);
    /* runs of untouched lanes in one call, touched lanes by themselves */
    int64_t from = 0;
    for (size_t i = 0; i <= g->n; i++) {
        pb_member *m = i < g->n ? &g->members[i] : NULL;
        bool touched = m && pb_lane_touches_range(m->lane, g->layer, PB_SITE_LN1_SCALE, PB_SITE_LN1_NORMALIZED);
        if (m && !touched)
            continue;
        int64_t to = m ? m->a0 : g->n_a;
        if (to > from)
            pb_norm_rows(g->pass->ctx, &norm, g->normed + from * D, D, to - from, g->normed + from * D, D, NULL, NULL,
                         0);
        if (m) {
            PB_TRY(pb_norm_visited(g->pass, m->lane, g->layer, &norm, g->normed + m->a0 * D, m->a_pos, m->n_a,
                                   PB_SITE_LN1_SCALE, err));
            from = m->a0 + m->n_a;
        }
    }
    return PB_OK;
}

/* ---- one input per head ----------------------------------------------------------------------------------------------- */

/* Heads whose input was changed: inputs [n][heads][D] -> norm -> that head's outputs of w -> out rows (row stride out_ld,
 * head h at h * dh). Heads that read the residual stream as it is keep what the whole product gave them. pos[n]: the rows. */
static pb_status project_by_head(pb_group *g, const pb_member *m, float *inputs, const int32_t *pos, int32_t n,
                                 int heads, const pb_matrix *w, float *out, pb_error *err) {
    int64_t D = g->spec->d_model, dh = g->spec->d_head;
    for (int h = 0; h < heads; h++) {
        bool changed = false;
        for (int32_t r = 0; r < n && !changed; r++)
            changed =
                memcmp(inputs + ((int64_t)r * heads + h) * D, resid_row(g, m, pos[r]), (size_t)D * sizeof *inputs) != 0;
        if (!changed)
            continue;
        float *rows = inputs + h * D;
        if (has_ln1(g->spec)) {
            pb_norm norm = pb_spec_norm(g->spec, g->weights->ln1);
            pb_norm_rows(g->pass->ctx, &norm, rows, heads * D, n, rows, heads * D, NULL, NULL, 0);
        }
        pb_matrix head = pb_matrix_outputs(w, h * dh, dh);
        PB_TRY(pb_linear(g->pass->ctx, rows, heads * D, n, &head, out + h * dh, heads * dh, 0, err));
    }
    return PB_OK;
}

/* Does the lane change one of the sites first..last of the layer (and not only look at it)? */
static bool has_edit(const pb_lane *lane, int layer, pb_site_kind first, pb_site_kind last) {
    for (size_t i = 0; i < lane->n_edits; i++)
        if (lane->edits[i].layer == layer && lane->edits[i].kind >= first && lane->edits[i].kind <= last)
            return true;
    return false;
}

/* attn_in, q_input, k_input, v_input: copies of the residual stream before ln1, one per head. A key/value head of a grouped
 * model reads the attn_in copy of its group's first query head. */
static pb_status split_inputs(pb_group *g, pb_member *m, pb_error *err) {
    const pb_spec *spec = g->spec;
    int64_t D = spec->d_model, H = spec->heads, KV = spec->kv_heads, n = m->n_a, row = (H + KV + KV) * D;
    if (n == 0)
        return PB_OK;
    if (has_edit(m->lane, g->layer, PB_SITE_ATTN_IN, PB_SITE_V_INPUT) &&
        has_edit(m->lane, g->layer, PB_SITE_LN1_SCALE, PB_SITE_LN1_NORMALIZED))
        return pb_fail(err, PB_ERR_UNSUPPORTED,
                       "layer %d is patched both per head before ln1 (attn_in, q_input, k_input or v_input) and at "
                       "ln1: the norm of "
                       "which copy is meant? Patch one of them",
                       g->layer);
    float *in = pb_alloc(g->pass->ctx, (size_t)(n * row), sizeof *in);
    if (!in)
        return pb_fail_memory(err, g->pass->ctx, (size_t)(n * row) * sizeof *in, "per-head inputs of attention");
    float *q = in, *k = q + n * H * D, *v = k + n * KV * D;
    for (int64_t r = 0; r < n; r++)
        for (int64_t h = 0; h < H; h++)
            memcpy(q + (r * H + h) * D, resid_row(g, m, m->a_pos[r]), (size_t)D * sizeof *q);
    pb_view view = {q, m->a_pos, m->n_a, H * D, D, (int32_t)H, (int32_t)D};
    pb_status status = pb_visit(g->pass, m->lane, g->layer, PB_SITE_ATTN_IN, &view, PB_EDITS_ALL, err);
    for (int64_t r = 0; r < n; r++)
        for (int64_t h = 0; h < KV; h++) {
            const float *copy = q + (r * H + h * (H / KV)) * D;
            memcpy(k + (r * KV + h) * D, copy, (size_t)D * sizeof *k);
            memcpy(v + (r * KV + h) * D, copy, (size_t)D * sizeof *v);
        }
    if (status == PB_OK)
        status = pb_visit(g->pass, m->lane, g->layer, PB_SITE_Q_INPUT, &view, PB_EDITS_ALL, err);
    view = (pb_view){k, m->a_pos, m->n_a, KV * D, D, (int32_t)KV, (int32_t)D};
    if (status == PB_OK)
        status = pb_visit(g->pass, m->lane, g->layer, PB_SITE_K_INPUT, &view, PB_EDITS_ALL, err);
    view.data = v;
    if (status == PB_OK)
        status = pb_visit(g->pass, m->lane, g->layer, PB_SITE_V_INPUT, &view, PB_EDITS_ALL, err);
    int64_t dh = spec->d_head;
    if (status == PB_OK)
        status = project_by_head(g, m, k, m->a_pos, m->n_a, (int)KV, &g->weights->k, g->k + m->a0 * KV * dh, err);
    if (status == PB_OK)
        status = project_by_head(g, m, v, m->a_pos, m->n_a, (int)KV, &g->weights->v, g->v + m->a0 * KV * dh, err);
    if (status == PB_OK && m->n_q > 0) { /* queries are wanted for some of the rows: move those together first */
        for (int32_t r = 0; r < m->n_q; r++)
            memmove(q + r * H * D, q + pb_find_row(m->a_pos, m->n_a, m->q_pos[r]) * H * D, (size_t)(H * D) * sizeof *q);
        status = project_by_head(g, m, q, m->q_pos, m->n_q, (int)H, &g->weights->q, g->q + m->q0 * H * dh, err);
    }
    pb_free(in);
    return status;
}

/* ---- after the projections --------------------------------------------------------------------------------------------- */

typedef struct head_rows {
    float *data; /* [n][heads * d_head] */
    const int32_t *pos;
    int32_t n;
    int heads;
    float factor;
    pb_norm_weights norm;
} head_rows;

static void norm_heads(const pb_spec *spec, const head_rows *rows, float *row) {
    int64_t dh = spec->d_head;
    pb_norm norm = {spec->qk_norm_centre, spec->qk_norm_eps, dh, rows->norm.weight, rows->norm.bias};
    if (spec->qk_norm == PB_QK_NORM_FULL) {
        norm.width = rows->heads * dh;
        pb_norm_affine(&norm, row, row);
        return;
    }
    for (int h = 0; h < rows->heads; h++) {
        if (spec->qk_norm == PB_QK_NORM_PER_HEAD) {
            norm.weight = rows->norm.weight ? rows->norm.weight + h * dh : NULL;
            norm.bias = rows->norm.bias ? rows->norm.bias + h * dh : NULL;
        }
        pb_norm_affine(&norm, row + h * dh, row + h * dh);
    }
}

/* normalized values in place (without weight), through scratch [heads * d_head] */
static void normalise_heads(const pb_spec *spec, const head_rows *rows, float *row, float *scratch) {
    int64_t dh = spec->d_head, width = spec->qk_norm == PB_QK_NORM_FULL ? rows->heads * dh : dh;
    pb_norm norm = {spec->qk_norm_centre, spec->qk_norm_eps, width, NULL, NULL};
    for (int64_t at = 0; at < rows->heads * dh; at += width) {
        float scale = pb_norm_scale(&norm, row + at, scratch);
        pb_norm_divide(&norm, scratch, scale, row + at);
    }
}

static void clip_row(float *row, int64_t n, float clip) {
    for (int64_t i = 0; i < n; i++)
        row[i] = row[i] > clip ? clip : row[i] < -clip ? -clip : row[i];
}

/* What happens between hook_q (hook_k) and the scores. */
static pb_status finish_heads(pb_group *g, pb_member *m, const head_rows *rows, pb_error *err) {
    const pb_spec *spec = g->spec;
    int64_t dh = spec->d_head, width = rows->heads * dh;
    if (rows->factor != 1.0f)
        pb_vec_scale(rows->factor, rows->data, rows->n * width);
    if (spec->clip_qkv > 0)
        clip_row(rows->data, rows->n * width, spec->clip_qkv);
    if (spec->qk_norm != PB_QK_NORM_NONE) {
        float *scratch = pb_alloc(g->pass->ctx, (size_t)width, sizeof *scratch);
        if (!scratch)
            return pb_fail_memory(err, g->pass->ctx, (size_t)width * sizeof *scratch, "q/k norm");
        for (int32_t r = 0; r < rows->n; r++) {
            normalise_heads(spec, rows, rows->data + r * width, scratch);
            norm_heads(spec, rows, rows->data + r * width);
        }
        pb_free(scratch);
    }
    if (g->weights->rotary < 0)
        return PB_OK;
    const pb_rotary *rotary = &spec->rotaries[g->weights->rotary];
    const float *cosine, *sine;
    PB_TRY(pb_pass_rotary(g->pass, g->weights->rotary, m->lane->T, &cosine, &sine, err));
    int64_t half = rotary->dims / 2;
    for (int32_t r = 0; r < rows->n; r++)
        for (int h = 0; h < rows->heads; h++)
            pb_rotary_apply(rows->data + r * width + h * dh, rotary->dims, rotary->interleaved,
                            cosine + rows->pos[r] * half, sine + rows->pos[r] * half);
    return PB_OK;
}

static pb_status visit_heads(pb_group *g, pb_member *m, pb_site_kind kind, const head_rows *rows, pb_error *err) {
    int64_t dh = g->spec->d_head;
    pb_view view = {rows->data, rows->pos, rows->n, rows->heads * dh, dh, rows->heads, (int32_t)dh};
    return pb_visit(g->pass, m->lane, g->layer, kind, &view, PB_EDITS_ALL, err);
}

static pb_status finish_member(pb_group *g, pb_member *m, pb_error *err) {
    const pb_spec *spec = g->spec;
    int64_t dh = spec->d_head, qw = spec->heads * dh, kw = spec->kv_heads * dh;
    head_rows q = {g->q + m->q0 * qw, m->q_pos, m->n_q, spec->heads, spec->query_factor, g->weights->q_norm};
    head_rows k = {g->k + m->a0 * kw, m->a_pos, m->n_a, spec->kv_heads, 1.0f, g->weights->k_norm};
    head_rows v = {g->v + m->a0 * kw, m->a_pos, m->n_a, spec->kv_heads, 1.0f, {NULL, NULL}};
    PB_TRY(visit_heads(g, m, PB_SITE_Q, &q, err));
    PB_TRY(visit_heads(g, m, PB_SITE_K, &k, err));
    PB_TRY(visit_heads(g, m, PB_SITE_V, &v, err));
    if (g->saved && g->saved->q_raw) {
        memcpy(g->saved->q_raw + m->q0 * qw, q.data, (size_t)(q.n * qw) * sizeof(float));
        memcpy(g->saved->k_raw + m->a0 * kw, k.data, (size_t)(k.n * kw) * sizeof(float));
        memcpy(g->saved->v_raw + m->a0 * kw, v.data, (size_t)(v.n * kw) * sizeof(float));
    }
    PB_TRY(finish_heads(g, m, &q, err));
    PB_TRY(finish_heads(g, m, &k, err));
    if (spec->clip_qkv > 0)
        clip_row(v.data, v.n * kw, spec->clip_qkv);
    PB_TRY(visit_heads(g, m, PB_SITE_ROT_Q, &q, err));
    PB_TRY(visit_heads(g, m, PB_SITE_ROT_K, &k, err));
    return PB_OK;
}

/* Where attention finds each row: computed now, or the base's. Kept runs remember theirs. */
static void point_member(pb_group *g, pb_member *m) {
    const pb_spec *spec = g->spec;
    pb_lane *lane = m->lane;
    int64_t dh = spec->d_head, qw = spec->heads * dh, kw = spec->kv_heads * dh, width = pb_spec_qkv_width(spec);
    int32_t a = 0, q = 0;
    for (int32_t p = 0; p < lane->T; p++) {
        bool computed = a < m->n_a && m->a_pos[a] == p;
        const float *base =
            computed || !lane->base || p >= lane->fresh_from ? NULL : pb_run_qkv_row(lane->base, g->layer, p, width);
        m->k_row[p] = computed ? g->k + (m->a0 + a) * kw : base ? base + qw : NULL;
        m->v_row[p] = computed ? g->v + (m->a0 + a) * kw : base ? base + qw + kw : NULL;
        a += computed;
    }
    for (int32_t r = 0; r < m->n_z; r++) {
        bool computed = q < m->n_q && m->q_pos[q] == m->z_pos[r];
        m->q_row[r] = computed ? g->q + (m->q0 + q) * qw : pb_run_qkv_row(lane->base, g->layer, m->z_pos[r], width);
        q += computed;
    }
    if (!lane->keep)
        return;
    pb_block *block = lane->keep->qkv[g->layer];
    for (int32_t r = 0; r < m->n_a; r++) {
        float *row = block->data + (m->a_pos[r] - block->first) * width;
        memcpy(row + qw, g->k + (m->a0 + r) * kw, (size_t)kw * sizeof *row);
        memcpy(row + qw + kw, g->v + (m->a0 + r) * kw, (size_t)kw * sizeof *row);
    }
    for (int32_t r = 0; r < m->n_q; r++)
        memcpy(block->data + (m->q_pos[r] - block->first) * width, g->q + (m->q0 + r) * qw, (size_t)qw * sizeof(float));
}

/* Normed rows that have queries, gathered when they are not all of them. */
static pb_status project_queries(pb_group *g, pb_error *err) {
    int64_t D = g->spec->d_model, qw = (int64_t)g->spec->heads * g->spec->d_head;
    if (g->n_q == g->n_a)
        return pb_linear(g->pass->ctx, g->normed, D, g->n_a, &g->weights->q, g->q, qw, 0, err);
    float *rows = g->attn_out; /* free until attention is done, and at least n_q rows long */
    for (size_t i = 0; i < g->n; i++) {
        const pb_member *m = &g->members[i];
        for (int32_t r = 0; r < m->n_q; r++)
            memcpy(rows + (m->q0 + r) * D, g->normed + (m->a0 + pb_find_row(m->a_pos, m->n_a, m->q_pos[r])) * D,
                   (size_t)D * sizeof *rows);
    }
    return pb_linear(g->pass->ctx, rows, D, g->n_q, &g->weights->q, g->q, qw, 0, err);
}

/* Queries, keys and values as the lanes' own runs keep them, after every patch: what the reverse pass needs of them. */
static void recall_heads(pb_group *g) {
    const int64_t dh = g->spec->d_head, qw = g->spec->heads * dh, kw = g->spec->kv_heads * dh,
                  width = pb_spec_qkv_width(g->spec);
    for (size_t i = 0; i < g->n; i++) {
        const pb_member *m = &g->members[i];
        for (int32_t r = 0; r < m->n_a; r++) {
            const float *row = pb_run_qkv_row(m->lane->base, g->layer, m->a_pos[r], width);
            memcpy(g->q + (m->q0 + r) * qw, row, (size_t)qw * sizeof *row);
            memcpy(g->k + (m->a0 + r) * kw, row + qw, (size_t)kw * sizeof *row);
            memcpy(g->v + (m->a0 + r) * kw, row + qw + kw, (size_t)kw * sizeof *row);
        }
    }
}

pb_status pb_group_project(pb_group *g, pb_error *err) {
    int64_t D = g->spec->d_model, kw = (int64_t)g->spec->kv_heads * g->spec->d_head;
    PB_TRY(norm_rows(g, err));
    if (g->saved && !g->saved->q_raw) {
        recall_heads(g);
        for (size_t i = 0; i < g->n; i++)
            point_member(g, &g->members[i]);
        return PB_OK;
    }
    PB_TRY(project_queries(g, err));
    PB_TRY(pb_linear(g->pass->ctx, g->normed, D, g->n_a, &g->weights->k, g->k, kw, 0, err));
    PB_TRY(pb_linear(g->pass->ctx, g->normed, D, g->n_a, &g->weights->v, g->v, kw, 0, err));
    /* rotation tables first: members are finished in parallel where no callback can run */
    const float *cosine, *sine;
    for (size_t i = 0; i < g->n && g->weights->rotary >= 0; i++)
        PB_TRY(pb_pass_rotary(g->pass, g->weights->rotary, g->members[i].lane->T, &cosine, &sine, err));
    int failed = 0;
    double work = 8.0 * (double)g->n_a * (double)pb_spec_qkv_width(g->spec); /* rotation, copies */
#pragma omp parallel for schedule(dynamic, 1) num_threads(pb_threads_for(g->pass->ctx, work)) reduction(| : failed)
    for (size_t i = 0; i < g->n; i++)
        if (!pb_lane_touches_range(g->members[i].lane, g->layer, PB_SITE_ATTN_IN, PB_SITE_ROT_K)) {
            failed |= finish_member(g, &g->members[i], NULL) != PB_OK;
            point_member(g, &g->members[i]);
        }
    if (failed)
        return pb_fail_memory(err, g->pass->ctx, (size_t)g->spec->heads * (size_t)g->spec->d_head * sizeof(float),
                              "queries and keys");
    for (size_t i = 0; i < g->n; i++) {
        pb_member *m = &g->members[i];
        if (!pb_lane_touches_range(m->lane, g->layer, PB_SITE_ATTN_IN, PB_SITE_ROT_K))
            continue;
        if (pb_lane_touches_range(m->lane, g->layer, PB_SITE_ATTN_IN, PB_SITE_V_INPUT))
            PB_TRY(split_inputs(g, m, err));
        PB_TRY(finish_member(g, m, err));
        point_member(g, m);
    }
    return PB_OK;
}
