/* The second half of a layer: from attn_out to resid_post. */
#include "engine/internal.h"

#include <string.h>

/* ---- visiting all members ---------------------------------------------------------------------------------------------- */

pb_status pb_group_visit(pb_group *g, pb_site_kind kind, float *buffer, int64_t width, int heads, pb_error *err) {
    for (size_t i = 0; i < g->n; i++) {
        pb_member *m = &g->members[i];
        if (m->n_z == 0 || !pb_lane_touches(m->lane, g->layer, kind))
            continue;
        int64_t row = width * (heads ? heads : 1);
        pb_view view = {buffer + m->z0 * row, m->z_pos, m->n_z, row, width, heads, (int32_t)width};
        PB_TRY(pb_visit(g->pass, m->lane, g->layer, kind, &view, PB_EDITS_ALL, err));
    }
    return PB_OK;
}

pb_status pb_group_norm(pb_group *g, pb_norm_weights weights, float *rows, pb_site_kind scale_kind, pb_error *err) {
    pb_norm norm = pb_spec_norm(g->spec, weights);
    int64_t D = norm.width, from = 0;
    for (size_t i = 0; i <= g->n; i++) {
        pb_member *m = i < g->n ? &g->members[i] : NULL;
        if (m && !pb_lane_touches_range(m->lane, g->layer, scale_kind, (pb_site_kind)(scale_kind + 1)))
            continue;
        int64_t to = m ? m->z0 : g->n_z;
        if (to > from)
            pb_norm_rows(g->pass->ctx, &norm, rows + from * D, D, to - from, rows + from * D, D, NULL, NULL, 0);
        if (m) {
            PB_TRY(pb_norm_visited(g->pass, m->lane, g->layer, &norm, rows + m->z0 * D, m->z_pos, m->n_z, scale_kind,
                                   err));
            from = m->z0 + m->n_z;
        }
    }
    return PB_OK;
}

/* ---- the plain and the gated mlp ------------------------------------------------------------------------------------------ */

/* Rows from .. to: bias, activation, gate; nobody looks in between. */
static void activate(pb_group *g, int64_t from, int64_t to, const float *bias) {
    int64_t width = g->spec->d_mlp;
    if (to > from)
        pb_bias_act_rows(g->pass->ctx, g->spec->act, g->pre + from * width, width, bias,
                         g->linear ? g->linear + from * width : NULL, width, g->hidden + from * width, width, to - from,
                         width);
}

/* The hidden layer of all rows: pre and linear hold the products, pre without its bias. */
static pb_status hidden_sites(pb_group *g, pb_error *err) {
    int64_t width = g->spec->d_mlp, from = 0;
    const float *bias = g->weights->mlp_in.bias;
    for (size_t i = 0; i <= g->n; i++) {
        pb_member *m = i < g->n ? &g->members[i] : NULL;
        if (m && !pb_lane_touches_range(m->lane, g->layer, PB_SITE_MLP_PRE, PB_SITE_MLP_POST))
            continue;
        activate(g, from, m ? m->z0 : g->n_z, bias);
        if (!m)
            break;
        from = m->z0 + m->n_z;
        for (int64_t r = m->z0; bias && r < from; r++)
            pb_vec_add(g->pre + r * width, bias, g->pre + r * width, width);
        pb_view view = {g->pre + m->z0 * width, m->z_pos, m->n_z, width, width, 1, (int32_t)width};
        PB_TRY(pb_visit(g->pass, m->lane, g->layer, PB_SITE_MLP_PRE, &view, PB_EDITS_ALL, err));
        if (g->linear) {
            view.data = g->linear + m->z0 * width;
            PB_TRY(pb_visit(g->pass, m->lane, g->layer, PB_SITE_MLP_PRE_LINEAR, &view, PB_EDITS_ALL, err));
        }
        activate(g, m->z0, from, NULL);
        view.data = g->hidden + m->z0 * width;
        PB_TRY(pb_visit(g->pass, m->lane, g->layer, PB_SITE_MLP_POST, &view, PB_EDITS_ALL, err));
    }
    return PB_OK;
}

/* The reverse pass reads the mlp's output only where a norm comes after it. */
static bool output_is_read(const pb_group *g) {
    return !g->saved || g->saved->mlp_raw || g->saved->sum2 || g->spec->experts;
}

static pb_status dense_mlp(pb_group *g, const float *in, float *out, pb_error *err) {
    const pb_layer *w = g->weights;
    int64_t D = g->spec->d_model, width = g->spec->d_mlp;
    PB_TRY(pb_linear(g->pass->ctx, in, D, g->n_z, &w->mlp_in, g->pre, width, PB_LINEAR_NO_BIAS, err));
    if (g->linear)
        PB_TRY(pb_linear(g->pass->ctx, in, D, g->n_z, &w->mlp_linear, g->linear, width, 0, err));
    PB_TRY(hidden_sites(g, err));
    if (!output_is_read(g))
        return PB_OK;
    return pb_linear(g->pass->ctx, g->hidden, width, g->n_z, &w->mlp_out, out, D, 0, err);
}

/* ---- the block's second half --------------------------------------------------------------------------------------------- */

/* What the mlp reads before its norm: resid_mid, or resid_pre in parallel blocks; lanes' rows are their z rows. */
static void gather_input(pb_group *g, float *in) {
    int64_t D = g->spec->d_model;
    for (size_t i = 0; i < g->n; i++)
        if (g->members[i].n_z > 0) /* a lane without rows here has no x either */
            memcpy(in + g->members[i].z0 * D, g->members[i].lane->x, (size_t)(g->members[i].n_z * D) * sizeof *in);
}

/* PARALLEL_SHARED: ln1's output, with its patches: computed rows have it already, the others' is the base's. */
static void gather_shared(pb_group *g, float *in) {
    int64_t D = g->spec->d_model;
    pb_norm norm = pb_spec_norm(g->spec, g->weights->ln1);
    for (size_t i = 0; i < g->n; i++) {
        pb_member *m = &g->members[i];
        for (int32_t r = 0; r < m->n_z; r++) {
            int32_t a = pb_find_row(m->a_pos, m->n_a, m->z_pos[r]);
            float *row = in + (m->z0 + r) * D;
            if (a >= 0)
                memcpy(row, g->normed + (m->a0 + a) * D, (size_t)D * sizeof *in);
            else
                pb_norm_rows(g->pass->ctx, &norm, m->lane->x + r * D, D, 1, row, D, NULL, NULL, 0);
        }
    }
}

static void add_to_lanes(pb_group *g, const float *rows) {
    int64_t D = g->spec->d_model;
#pragma omp parallel for schedule(static) num_threads(pb_threads_for(g->pass->ctx, (double)(g->n_z * D)))
    for (size_t i = 0; i < g->n; i++) {
        const pb_member *m = &g->members[i];
        pb_vec_add(m->lane->x, rows + m->z0 * D, m->lane->x, m->n_z * D);
    }
}

/* opt-350m: the stream itself is normed after the addition. */
static pb_status norm_lanes(pb_group *g, pb_norm_weights weights, pb_site_kind scale_kind, float *scratch, float *save,
                            pb_error *err) {
    int64_t D = g->spec->d_model;
    gather_input(g, scratch);
    if (save)
        memcpy(save, scratch, (size_t)(g->n_z * D) * sizeof *save);
    PB_TRY(pb_group_norm(g, weights, scratch, scale_kind, err));
    for (size_t i = 0; i < g->n; i++)
        memcpy(g->members[i].lane->x, scratch + g->members[i].z0 * D,
               (size_t)(g->members[i].n_z * D) * sizeof *scratch);
    return PB_OK;
}

static pb_status visit_stream(pb_group *g, pb_site_kind kind, pb_error *err) {
    int64_t D = g->spec->d_model;
    for (size_t i = 0; i < g->n; i++) {
        pb_member *m = &g->members[i];
        if (m->n_z == 0 || !pb_lane_touches(m->lane, g->layer, kind))
            continue;
        pb_view view = {m->lane->x, m->z_pos, m->n_z, D, D, 1, (int32_t)D};
        PB_TRY(pb_visit(g->pass, m->lane, g->layer, kind, &view, PB_EDITS_ALL, err));
    }
    return PB_OK;
}

/* What the mlp adds: [n_z][D] mlp_in -> mlp_out, with the norms before and after it. */
static pb_status mlp_output(pb_group *g, pb_error *err) {
    const pb_spec *spec = g->spec;
    const pb_layer *w = g->weights;
    int64_t D = spec->d_model;
    float *in = g->mlp_in, *out = g->mlp_out;
    if (spec->block == PB_BLOCK_PARALLEL_SHARED)
        gather_shared(g, in);
    else if (spec->norm_place == PB_NORM_PRE || spec->norm_place == PB_NORM_SANDWICH)
        PB_TRY(pb_group_norm(g, w->ln2, in, PB_SITE_LN2_SCALE, err));
    PB_TRY(spec->experts ? pb_group_experts(g, in, out, err) : dense_mlp(g, in, out, err));
    if (!output_is_read(g))
        return PB_OK;
    if (g->saved && g->saved->mlp_raw)
        memcpy(g->saved->mlp_raw, out, (size_t)(g->n_z * D) * sizeof *out);
    if (spec->norm_place == PB_NORM_SANDWICH || spec->norm_place == PB_NORM_OUTPUT)
        PB_TRY(pb_group_norm(g, w->ln2_post, out, PB_SITE_LN2_POST_SCALE, err));
    if (spec->residual_scale != 1.0f)
        pb_vec_scale(spec->residual_scale, out, g->n_z * D);
    return PB_OK;
}

/* Of the members whose mlp_out no patch puts in whole; zeros for the others, in whose place it will come. */
static pb_status mlp_of_members(pb_group *g, pb_error *err) {
    size_t first = g->n_mlp_held, n = g->n - first - g->n_both_held;
    pb_group_clear(g, 0, first, g->mlp_out);
    pb_group_clear(g, first + n, g->n_both_held, g->mlp_out);
    if (n == 0)
        return PB_OK;
    pb_group part = pb_group_part(g, first, n);
    pb_status status = mlp_output(&part, err);
    pb_group_rejoin(g, &part);
    return status;
}

pb_status pb_group_mlp(pb_group *g, pb_error *err) {
    const pb_spec *spec = g->spec;
    const pb_layer *w = g->weights;
    int64_t D = spec->d_model;
    bool parallel = spec->block != PB_BLOCK_SEQUENTIAL;
    float *in = g->mlp_in, *out = g->mlp_out;
    if (!parallel) {
        add_to_lanes(g, g->attn_out);
        if (spec->norm_place == PB_NORM_POST_ADD)
            PB_TRY(norm_lanes(g, w->ln1, PB_SITE_LN1_SCALE, out, g->saved ? g->saved->sum1 : NULL, err));
        PB_TRY(visit_stream(g, PB_SITE_RESID_MID, err));
    }
    gather_input(g, in);
    PB_TRY(pb_group_visit(g, PB_SITE_MLP_IN, in, D, 0, err));
    if (g->saved)
        memcpy(g->saved->mid, in, (size_t)(g->n_z * D) * sizeof *in);
    PB_TRY(mlp_of_members(g, err));
    if (!output_is_read(g))
        return PB_OK;
    PB_TRY(pb_group_visit(g, PB_SITE_MLP_OUT, out, D, 0, err));
    if (parallel)
        add_to_lanes(g, g->attn_out);
    add_to_lanes(g, out);
    if (spec->norm_place == PB_NORM_POST_ADD)
        PB_TRY(norm_lanes(g, w->ln2, PB_SITE_LN2_SCALE, in, g->saved ? g->saved->sum2 : NULL, err));
    return PB_OK;
}
