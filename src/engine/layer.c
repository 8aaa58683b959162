/* One layer for many lanes: cut them into groups, and take each group through attention and mlp. */
#include "engine/internal.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

/* ---- rows of a lane -------------------------------------------------------------------------------------------------------- */

void pb_lane_set_rows(const pb_spec *spec, pb_lane *lane, const int32_t *pos, int32_t n, int layer) {
    int64_t D = spec->d_model;
    size_t bytes = (size_t)D * sizeof(float);
    assert(n <= lane->cap);
    int32_t kept = 0;
    for (int32_t i = 0, j = 0; i < lane->n; i++) { /* first drop what is not wanted, moving rows down */
        while (j < n && pos[j] < lane->pos[i])
            j++;
        if (j < n && pos[j] == lane->pos[i]) {
            if (kept != i)
                memcpy(lane->x + kept * D, lane->x + i * D, bytes);
            lane->pos[kept++] = lane->pos[i];
        }
    }
    int32_t i = kept - 1;
    for (int32_t j = n - 1; j >= 0; j--) { /* then make room from the end, taking missing rows from the base */
        if (i >= 0 && lane->pos[i] == pos[j]) {
            if (i != j)
                memcpy(lane->x + j * D, lane->x + i * D, bytes);
            i--;
        } else {
            memcpy(lane->x + j * D, pb_run_resid_row(lane->base, layer, pos[j], D), bytes);
        }
    }
    memmove(lane->pos, pos, (size_t)n * sizeof *pos);
    lane->n = n;
}

/* ---- boundaries ---------------------------------------------------------------------------------------------------------------- */

static bool captures(const pb_lane *lane, int layer, pb_site_kind kind) {
    for (size_t i = 0; i < lane->n_captures; i++)
        if (lane->captures[i].site.kind == kind && lane->captures[i].site.layer == layer)
            return true;
    return false;
}

/* A capture at a boundary: computed rows are filled by the visit, the base's rows here. */
static void capture_base_rows(const pb_spec *spec, const pb_lane *lane, int layer, pb_site_kind kind, int boundary) {
    int64_t D = spec->d_model;
    if (!lane->base || !captures(lane, layer, kind))
        return;
    for (size_t i = 0; i < lane->n_captures; i++) {
        const pb_capture *c = &lane->captures[i];
        if (c->site.kind != kind || c->site.layer != layer)
            continue;
        for (int32_t p = 0; p < lane->T; p++)
            if (pb_find_row(lane->pos, lane->n, p) < 0 && p < lane->fresh_from)
                memcpy(c->data + p * D, pb_run_resid_row(lane->base, boundary, p, D), (size_t)D * sizeof(float));
    }
}

static pb_status visit_boundary(pb_pass *pass, pb_lane *lane, int layer, pb_site_kind kind, pb_edit_who who,
                                pb_error *err) {
    int64_t D = pass->spec->d_model;
    pb_view view = {lane->x, lane->pos, lane->n, D, D, 1, (int32_t)D};
    return pb_visit(pass, lane, layer, kind, &view, who, err);
}

static void keep_boundary(const pb_spec *spec, const pb_lane *lane, int boundary) {
    if (!lane->keep)
        return;
    int64_t D = spec->d_model;
    pb_block *block = lane->keep->resid[boundary];
    for (int32_t r = 0; r < lane->n; r++)
        memcpy(block->data + (lane->pos[r] - block->first) * D, lane->x + r * D, (size_t)D * sizeof(float));
}

static int32_t list_rows(const uint8_t *mask, int32_t T, int32_t *out) {
    int32_t n = 0;
    for (int32_t p = 0; p < T; p++)
        if (mask[p])
            out[n++] = p;
    return n;
}

static pb_status begin_lane(pb_pass *pass, pb_lane *lane, int layer, const pb_row_sets *sets, int32_t *list,
                            pb_error *err) {
    PB_TRY(visit_boundary(pass, lane, layer, PB_SITE_RESID_PRE, PB_EDITS_BASE, err));
    int32_t n = list_rows(sets->pre, lane->T, list);
    pb_lane_set_rows(pass->spec, lane, list, n, layer);
    PB_TRY(visit_boundary(pass, lane, layer, PB_SITE_RESID_PRE, PB_EDITS_OWN, err));
    capture_base_rows(pass->spec, lane, layer, PB_SITE_RESID_PRE, layer);
    keep_boundary(pass->spec, lane, layer);
    return PB_OK;
}

static pb_status end_lane(pb_pass *pass, pb_member *m, int layer, pb_error *err) {
    pb_lane *lane = m->lane;
    pb_lane_set_rows(pass->spec, lane, m->post_pos, m->n_post, layer + 1);
    PB_TRY(visit_boundary(pass, lane, layer, PB_SITE_RESID_POST, PB_EDITS_ALL, err));
    capture_base_rows(pass->spec, lane, layer, PB_SITE_RESID_POST, layer + 1);
    if (layer == pass->spec->layers - 1)
        keep_boundary(pass->spec, lane, layer + 1);
    memcpy(lane->dirty, m->dirty, (size_t)lane->T);
    int32_t n = list_rows(lane->dirty, lane->T, m->post_pos);
    pb_lane_set_rows(pass->spec, lane, m->post_pos, n, layer + 1);
    return PB_OK;
}

/* ---- attention's output ----------------------------------------------------------------------------------------------------------- */

/* hook_result: each head's part of attn_out. The sum is not made anew: changes of the parts are added to it, so that a patch
 * with a run's own values changes no bit. */
static pb_status visit_result(pb_group *g, pb_member *m, pb_error *err) {
    const pb_spec *spec = g->spec;
    int64_t D = spec->d_model, H = spec->heads, dh = spec->d_head, row = H * D, n = m->n_z;
    float *before = pb_alloc(g->pass->ctx, (size_t)(2 * n * row), sizeof *before);
    if (!before)
        return pb_fail_memory(err, g->pass->ctx, (size_t)(2 * n * row) * sizeof *before, "hook_result of one layer");
    float *after = before + n * row;
    pb_status status = PB_OK;
    for (int64_t h = 0; h < H && status == PB_OK; h++) {
        pb_matrix head = pb_matrix_inputs(&g->weights->o, h * dh, dh);
        status = pb_linear(g->pass->ctx, g->z + m->z0 * H * dh + h * dh, H * dh, n, &head, before + h * D, row,
                           PB_LINEAR_NO_BIAS, err);
    }
    if (status == PB_OK) {
        memcpy(after, before, (size_t)(n * row) * sizeof *after);
        pb_view view = {after, m->z_pos, m->n_z, row, D, (int32_t)H, (int32_t)D};
        status = pb_visit(g->pass, m->lane, g->layer, PB_SITE_RESULT, &view, PB_EDITS_ALL, err);
    }
    for (int64_t r = 0; r < n && status == PB_OK; r++)
        for (int64_t h = 0; h < H; h++)
            for (int64_t i = 0; i < D; i++) {
                float was = before[r * row + h * D + i], is = after[r * row + h * D + i];
                if (was != is)
                    g->attn_out[(m->z0 + r) * D + i] += is - was;
            }
    pb_free(before);
    return status;
}

pb_status pb_group_attention_output(pb_group *g, pb_error *err) {
    const pb_spec *spec = g->spec;
    int64_t D = spec->d_model, width = (int64_t)spec->heads * spec->d_head;
    PB_TRY(pb_group_visit(g, PB_SITE_Z, g->z, spec->d_head, spec->heads, err));
    PB_TRY(pb_linear(g->pass->ctx, g->z, width, g->n_z, &g->weights->o, g->attn_out, D, 0, err));
    for (size_t i = 0; i < g->n; i++)
        if (g->members[i].n_z > 0 && pb_lane_touches(g->members[i].lane, g->layer, PB_SITE_RESULT))
            PB_TRY(visit_result(g, &g->members[i], err));
    if (g->saved && g->saved->attn_raw)
        memcpy(g->saved->attn_raw, g->attn_out, (size_t)(g->n_z * D) * sizeof(float));
    if (spec->norm_place == PB_NORM_SANDWICH || spec->norm_place == PB_NORM_OUTPUT)
        PB_TRY(pb_group_norm(g, g->weights->ln1_post, g->attn_out, PB_SITE_LN1_POST_SCALE, err));
    if (spec->residual_scale != 1.0f)
        pb_vec_scale(spec->residual_scale, g->attn_out, g->n_z * D);
    return pb_group_visit(g, PB_SITE_ATTN_OUT, g->attn_out, D, 0, err);
}

/* ---- members whose attn_out or mlp_out is put in by patches ------------------------------------------------------------------ */

pb_group pb_group_part(const pb_group *g, size_t from, size_t n) {
    const pb_spec *s = g->spec;
    pb_group part = *g;
    int64_t D = s->d_model, qw = (int64_t)s->heads * s->d_head, M = s->experts ? 0 : s->d_mlp,
            row0 = n > 0 ? g->members[from].z0 : 0;
    part.members = g->members + from;
    part.n = n;
    part.n_mlp_held = part.n_attn_held = part.n_both_held = 0;
    part.n_z = 0;
    for (size_t i = 0; i < n; i++) {
        part.members[i].z0 -= row0;
        part.n_z += part.members[i].n_z;
    }
    part.z += row0 * qw;
    part.attn_out += row0 * D;
    part.mlp_in += row0 * D;
    part.mlp_out += row0 * D;
    part.hidden += row0 * M;
    part.pre += row0 * M;
    part.linear = g->linear ? g->linear + row0 * M : NULL;
    return part;
}

void pb_group_rejoin(const pb_group *g, const pb_group *part) {
    int64_t row0 = (part->z - g->z) / ((int64_t)g->spec->heads * g->spec->d_head);
    for (size_t i = 0; i < part->n; i++)
        part->members[i].z0 += row0;
}

void pb_group_clear(const pb_group *g, size_t from, size_t n, float *buffer) {
    int64_t D = g->spec->d_model;
    for (size_t i = from; i < from + n; i++)
        if (g->members[i].n_z > 0) /* a group without rows has no buffers */
            memset(buffer + g->members[i].z0 * D, 0, (size_t)(g->members[i].n_z * D) * sizeof *buffer);
}

/* Members in the order that pb_group states, so that those with attention lie together, and those with an mlp. */
static pb_status order_members(pb_group *g, pb_arena *arena, pb_error *err) {
    size_t count[4] = {0}, n = 0;
    for (size_t i = 0; i < g->n; i++)
        count[g->members[i].attn_held * 2 + (g->members[i].mlp_held == g->members[i].attn_held)]++;
    g->n_mlp_held = count[0]; /* class 0: mlp held; 1: neither; 2: attention held; 3: both */
    g->n_attn_held = count[2];
    g->n_both_held = count[3];
    if (count[1] == g->n)
        return PB_OK;
    pb_member *ordered = pb_arena_get(arena, g->n * sizeof *ordered);
    if (!ordered)
        return pb_fail_memory(err, g->pass->ctx, g->n * sizeof *ordered, "a group of variants");
    for (size_t which = 0; which < 4; which++)
        for (size_t i = 0; i < g->n; i++) {
            const pb_member *m = &g->members[i];
            if ((size_t)(m->attn_held * 2 + (m->mlp_held == m->attn_held)) == which)
                ordered[n++] = *m;
        }
    g->members = ordered;
    g->n_z = 0;
    for (size_t i = 0; i < g->n; i++) {
        ordered[i].z0 = g->n_z;
        g->n_z += ordered[i].n_z;
    }
    return PB_OK;
}

/* z -> attn_out of the members that have attention; the others' is put in by their patches. */
static pb_status attend(pb_group *g, pb_error *err) {
    size_t held = g->n_attn_held + g->n_both_held, n = g->n - held;
    pb_group part = pb_group_part(g, 0, n), rest;
    if (n > 0)
        PB_TRY(pb_group_attention(&part, err)); /* the members from the first on: z0 are as they were */
    if (n > 0)
        PB_TRY(pb_group_attention_output(&part, err));
    if (held == 0)
        return PB_OK;
    pb_group_clear(g, n, held, g->attn_out);
    rest = *g;
    rest.members += n;
    rest.n = held;
    return pb_group_visit(&rest, PB_SITE_ATTN_OUT, g->attn_out, g->spec->d_model, 0, err);
}

/* ---- groups ----------------------------------------------------------------------------------------------------------------------------- */

static pb_status add_member(pb_group *g, pb_arena *arena, pb_lane *lane, pb_error *err) {
    pb_context *ctx = g->pass->ctx;
    int32_t T = lane->T;
    pb_member *m = &g->members[g->n];
    pb_row_sets sets;
    uint8_t *masks = pb_arena_get(arena, pb_row_sets_size(T));
    int32_t *list = masks ? pb_arena_get(arena, (size_t)T * sizeof *list) : NULL;
    if (!list)
        return pb_fail_memory(err, ctx, (size_t)T * 10, "rows of a lane");
    pb_row_sets_init(&sets, masks, T);
    pb_lane_rows(g->spec, lane, g->layer, &sets);
    memset(m, 0, sizeof *m);
    m->lane = lane;
    m->dirty = sets.dirty;
    m->a_pos = pb_arena_get(arena, (size_t)(sets.n_a + sets.n_q + sets.n_z + T) * sizeof *m->a_pos);
    m->k_row = pb_arena_get(arena, (size_t)T * 2 * sizeof *m->k_row);
    m->q_row = pb_arena_get(arena, (size_t)sets.n_z * sizeof *m->q_row + 1);
    if (!m->a_pos || !m->k_row || !m->q_row)
        return pb_fail_memory(err, ctx, (size_t)T * 30, "rows of a lane");
    m->v_row = m->k_row + T;
    m->q_pos = m->a_pos + sets.n_a;
    m->z_pos = m->q_pos + sets.n_q;
    m->post_pos = m->z_pos + sets.n_z;
    m->n_a = list_rows(sets.a, T, m->a_pos);
    m->n_q = list_rows(sets.q, T, m->q_pos);
    m->n_z = list_rows(sets.z, T, m->z_pos);
    m->n_post = list_rows(sets.post, T, m->post_pos);
    m->a0 = g->n_a;
    m->q0 = g->n_q;
    m->z0 = g->n_z;
    /* norms after the addition come later than their place in the list of sites says */
    bool late_ln1 = g->spec->norm_place == PB_NORM_POST_ADD && lane->stop_kind >= PB_SITE_LN1_SCALE;
    m->attn_held = sets.attn_held;
    m->mlp_held = sets.mlp_held;
    m->skip_mlp = lane->stop_layer == g->layer && lane->stop_kind < PB_SITE_RESID_MID && !late_ln1;
    g->n_a += m->n_a;
    g->n_q += m->n_q;
    g->n_z += m->n_z;
    g->n++;
    return begin_lane(g->pass, lane, g->layer, &sets, list, err);
}

pb_status pb_group_carve(pb_group *g, pb_error *err) {
    enum { PARTS = 11 };
    const pb_spec *s = g->spec;
    int64_t D = s->d_model, qw = (int64_t)s->heads * s->d_head, kw = (int64_t)s->kv_heads * s->d_head;
    int64_t hidden = s->experts ? 0 : g->n_z * s->d_mlp, most = g->n_z > g->n_q ? g->n_z : g->n_q;
    int64_t sizes[PARTS] = {g->n_a * D, g->n_q * qw, g->n_a * kw, g->n_a * kw,           g->n_z * qw,          most * D,
                            g->n_z * D, g->n_z * D,  hidden,      s->gated ? hidden : 0, g->saved ? hidden : 0};
    float **parts[PARTS] = {&g->normed, &g->q,       &g->k,      &g->v,      &g->z,  &g->attn_out,
                            &g->mlp_in, &g->mlp_out, &g->hidden, &g->linear, &g->pre};
    int64_t total = 0;
    for (int i = 0; i < PARTS; i++) {
        sizes[i] = (sizes[i] + 15) & ~(int64_t)15;
        total += sizes[i];
    }
    float *p;
    PB_TRY(pb_pass_work(g->pass, (size_t)total, &p, err));
    for (int i = 0; i < PARTS; i++) {
        *parts[i] = p;
        p += sizes[i];
    }
    if (!s->gated)
        g->linear = NULL;
    if (!g->saved)
        g->pre = g->hidden;
    return PB_OK;
}

static pb_status run_group(pb_group *g, pb_error *err) {
    bool skip_mlp = true;
    for (size_t i = 0; i < g->n; i++)
        skip_mlp = skip_mlp && g->members[i].skip_mlp;
    PB_TRY(pb_group_carve(g, err));
    PB_TRY(pb_group_project(g, err));
    PB_TRY(attend(g, err));
    if (skip_mlp)
        return PB_OK;
    for (size_t i = 0; i < g->n; i++)
        pb_lane_set_rows(g->spec, g->members[i].lane, g->members[i].z_pos, g->members[i].n_z, g->layer);
    PB_TRY(pb_group_mlp(g, err));
    for (size_t i = 0; i < g->n; i++)
        PB_TRY(end_lane(g->pass, &g->members[i], g->layer, err));
    return PB_OK;
}

/* About the work of one row in a layer. */
static double row_flops(const pb_spec *s) {
    double D = s->d_model, mlp = (s->gated ? 3.0 : 2.0) * D * s->d_mlp * (s->experts ? s->experts_per_token : 1);
    return 2.0 * (2.0 * D * s->heads * s->d_head + 2.0 * D * s->kv_heads * s->d_head + mlp);
}

static void report(const pb_group *g) {
    pb_pass *pass = g->pass;
    if (!pass->what)
        return;
    pass->done += (double)g->n_z * row_flops(g->spec);
    pb_context_progress(pass->ctx, pass->what, pass->done < pass->total ? pass->done : pass->total, pass->total);
}

/* The first value that is not finite, so that a NaN is reported where it arose, not where it was noticed. */
static pb_status check_finite(const pb_group *g, pb_error *err) {
    int64_t D = g->spec->d_model;
    size_t bad = SIZE_MAX;
#pragma omp parallel for schedule(static) num_threads(pb_threads_for(g->pass->ctx, (double)(g->n_z * D)))              \
    reduction(min                                                                                                      \
              : bad)
    for (size_t i = 0; i < g->n; i++)
        if (!pb_rows_finite(g->members[i].lane->x, D, g->members[i].lane->n, D))
            bad = i < bad ? i : bad;
    if (bad == SIZE_MAX)
        return PB_OK;
    const pb_lane *lane = g->members[bad].lane;
    int32_t row = 0;
    while (pb_rows_finite(lane->x + row * D, D, 1, D))
        row++;
    char whose[64], cause[512];
    if (!pb_model_find_nonfinite(g->pass->model, g->layer, cause, sizeof cause) &&
        !(g->layer == 0 && pb_model_find_nonfinite(g->pass->model, -1, cause, sizeof cause)))
        snprintf(cause, sizeof cause, "all weights of the layer are finite, so %s",
                 lane->n_edits
                     ? "a patch put it there, an attention row was left without any key, or a number became too "
                       "large for float32"
                     : "a number became too large for float32");
    return pb_fail(
        err, PB_ERR_NUMERIC,
        "values stop being finite (NaN or infinity) in layer %d: blocks.%d.hook_resid_post at position %d%s; %s",
        g->layer, g->layer, lane->pos[row], pb_lane_whose(lane, whose, sizeof whose), cause);
}

pb_status pb_layer_run(pb_pass *pass, int layer, pb_lane **lanes, size_t n, pb_error *err) {
    pb_arena arena = {.ctx = pass->ctx};
    pb_group group = {.pass = pass, .spec = pass->spec, .weights = &pass->spec->layer[layer], .layer = layer};
    pb_status status = PB_OK;
    int64_t rows = 0, share; /* groups of about equal size: a small last one would read all weights for little */
    for (size_t i = 0; i < n; i++)
        rows += lanes[i]->cap;
    share = rows / ((rows + pass->group_rows - 1) / pass->group_rows + (rows == 0)) + 1;
    for (size_t i = 0; i < n && status == PB_OK;) {
        pb_arena_free(&arena);
        group.n = 0;
        group.n_a = group.n_q = group.n_z = 0;
        int64_t taken = 0;
        size_t most = n - i;
        group.members = pb_arena_get(&arena, (most < (size_t)pass->group_rows ? most : (size_t)pass->group_rows) *
                                                 sizeof *group.members);
        if (!group.members)
            status = pb_fail_memory(err, pass->ctx, most * sizeof *group.members, "a group of variants");
        while (status == PB_OK && i < n && group.n < (size_t)pass->group_rows &&
               (group.n == 0 || (taken < share && group.n_z + lanes[i]->cap <= pass->group_rows &&
                                 group.n_a + lanes[i]->cap <= pass->group_rows))) {
            taken += lanes[i]->cap;
            status = add_member(&group, &arena, lanes[i++], err);
        }
        if (status == PB_OK)
            status = order_members(&group, &arena, err);
        if (status == PB_OK)
            status = run_group(&group, err);
        if (status == PB_OK)
            status = check_finite(&group, err);
        report(&group);
        if (status == PB_OK)
            status = pb_context_check(pass->ctx, err);
    }
    pb_arena_free(&arena);
    return status;
}
