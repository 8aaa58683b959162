/* Mixture of experts: the router chooses for every row, each expert then takes its rows in one product. */
#include "engine/backward.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct routing {
    int k;
    float *weights; /* [n_z][k] what the chosen experts' outputs are multiplied by */
    float *indices; /* [n_z][k] the experts, as numbers (a site's value) */
} routing;

/* The k largest shares of a row, in falling order. */
static void choose(const pb_spec *spec, const float *shares, float *indices) {
    for (int j = 0; j < spec->experts_per_token; j++) {
        int best = -1;
        for (int e = 0; e < spec->experts; e++) {
            bool taken = false;
            for (int i = 0; i < j; i++)
                taken = taken || (int)indices[i] == e;
            if (!taken && (best < 0 || shares[e] > shares[best]))
                best = e;
        }
        indices[j] = (float)best;
    }
}

static void weigh(const pb_spec *spec, const float *shares, const float *indices, float *weights) {
    float sum = 0;
    for (int j = 0; j < spec->experts_per_token; j++) {
        weights[j] = shares[(int)indices[j]];
        sum += weights[j];
    }
    for (int j = 0; spec->renormalise_experts && j < spec->experts_per_token; j++)
        weights[j] /= sum;
}

static pb_status check_indices(const pb_group *g, const routing *r, pb_error *err) {
    for (int64_t i = 0; i < g->n_z * r->k; i++)
        if (!(r->indices[i] >= 0 && r->indices[i] < (float)g->spec->experts && r->indices[i] == floorf(r->indices[i])))
            return pb_fail(err, PB_ERR_ARGUMENT,
                           "a patch at blocks.%d.mlp.hook_expert_indices gave %g; experts are 0 to %d", g->layer,
                           (double)r->indices[i], g->spec->experts - 1);
    return PB_OK;
}

/* shares: [n_z][experts], the router's softmax as patches left it (hook_expert_weights); own_shares (may be NULL): before them. */
static pb_status route(pb_group *g, const float *in, routing *r, float *own_shares, float *shares, pb_error *err) {
    const pb_spec *spec = g->spec;
    int64_t E = spec->experts;
    PB_TRY(pb_linear(g->pass->ctx, in, spec->d_model, g->n_z, &g->weights->router, shares, E, 0, err));
    for (int64_t row = 0; row < g->n_z; row++)
        pb_row_softmax(shares + row * E, E);
    if (own_shares)
        memcpy(own_shares, shares, (size_t)(g->n_z * E) * sizeof *shares);
    PB_TRY(pb_group_visit(g, PB_SITE_EXPERT_WEIGHTS, shares, E, 0, err));
    for (int64_t row = 0; row < g->n_z; row++)
        choose(spec, shares + row * E, r->indices + row * r->k);
    PB_TRY(pb_group_visit(g, PB_SITE_EXPERT_INDICES, r->indices, r->k, 0, err));
    PB_TRY(check_indices(g, r, err));
    for (int64_t row = 0; row < g->n_z; row++)
        weigh(spec, shares + row * E, r->indices + row * r->k, r->weights + row * r->k);
    return PB_OK;
}

/* ---- one expert's rows ------------------------------------------------------------------------------------------------------ */

/* The rows of the group that the router gives to one expert, ascending: those of a member lie together. */
typedef struct expert_rows {
    int expert;
    int32_t n;
    int32_t *row; /* [n] in the group's z buffers */
    int32_t *pos; /* [n] their positions */
} expert_rows;

static pb_status make_rows(const pb_group *g, expert_rows *e, pb_error *err) {
    e->row = pb_alloc(g->pass->ctx, 2 * (size_t)g->n_z, sizeof *e->row);
    if (!e->row)
        return pb_fail_memory(err, g->pass->ctx, 2 * (size_t)g->n_z * sizeof *e->row, "rows of an expert");
    e->pos = e->row + g->n_z;
    return PB_OK;
}

static bool chosen(const routing *r, int64_t row, int expert) {
    for (int j = 0; j < r->k; j++)
        if ((int)r->indices[row * r->k + j] == expert)
            return true;
    return false;
}

static void list_rows(const pb_group *g, const routing *r, int expert, expert_rows *e) {
    e->expert = expert;
    e->n = 0;
    for (size_t i = 0; i < g->n; i++)
        for (int32_t z = 0; z < g->members[i].n_z; z++) {
            int64_t row = g->members[i].z0 + z;
            if (chosen(r, row, expert)) {
                e->pos[e->n] = g->members[i].z_pos[z];
                e->row[e->n++] = (int32_t)row;
            }
        }
}

/* The first of the rows that comes after member i. */
static int32_t rows_end(const pb_group *g, const expert_rows *e, int32_t from, size_t i) {
    while (from < e->n && e->row[from] < g->members[i].z0 + g->members[i].n_z)
        from++;
    return from;
}

static pb_view member_view(const pb_group *g, const expert_rows *e, float *buffer, int32_t from, int32_t to) {
    int64_t M = g->spec->d_mlp;
    return (pb_view){buffer + from * M, e->pos + from, to - from, M, M, 1, (int32_t)M, e->expert};
}

/* buffer: [n][d_mlp]. A member without rows is visited too: its functions are called, with zeros. */
static pb_status visit_expert(pb_group *g, const expert_rows *e, pb_site_kind kind, float *buffer, pb_error *err) {
    for (int32_t i = 0, from = 0, to; i < (int32_t)g->n; i++, from = to) {
        pb_lane *lane = g->members[i].lane;
        to = rows_end(g, e, from, (size_t)i);
        pb_view view = member_view(g, e, buffer, from, to);
        if (g->members[i].n_z > 0 && pb_lane_touches(lane, g->layer, kind))
            PB_TRY(pb_visit(g->pass, lane, g->layer, kind, &view, PB_EDITS_ALL, err));
    }
    return PB_OK;
}

static bool touches_experts(const pb_group *g) {
    for (size_t i = 0; i < g->n; i++)
        if (pb_lane_touches_range(g->members[i].lane, g->layer, PB_SITE_EXPERT_GATE, PB_SITE_EXPERT_POST))
            return true;
    return false;
}

static bool is_gated(const pb_group *g, int expert) {
    return g->weights->expert_linear && g->weights->expert_linear[expert].data;
}

/* rows [n][D] -> post [n][d_mlp] (may be pre), through pre and linear, which keep what the sites have. */
static pb_status expert_hidden(pb_group *g, const expert_rows *e, const float *rows, float *pre, float *linear,
                               float *post, pb_error *err) {
    const pb_layer *w = g->weights;
    pb_context *ctx = g->pass->ctx;
    int64_t D = g->spec->d_model, M = g->spec->d_mlp, n = e->n;
    const float *bias = w->expert_in[e->expert].bias;
    bool gated = is_gated(g, e->expert), touched = touches_experts(g);
    if (n == 0 && !touched)
        return PB_OK;
    PB_TRY(pb_linear(ctx, rows, D, n, &w->expert_in[e->expert], pre, M, PB_LINEAR_NO_BIAS, err));
    if (gated)
        PB_TRY(pb_linear(ctx, rows, D, n, &w->expert_linear[e->expert], linear, M, 0, err));
    for (int64_t r = 0; r < n && touched && bias; r++)
        pb_vec_add(pre + r * M, bias, pre + r * M, M);
    if (touched)
        PB_TRY(visit_expert(g, e, gated ? PB_SITE_EXPERT_GATE : PB_SITE_EXPERT_PRE, pre, err));
    if (touched && gated)
        PB_TRY(visit_expert(g, e, PB_SITE_EXPERT_PRE, linear, err));
    pb_bias_act_rows(ctx, g->spec->act, pre, M, touched ? NULL : bias, gated ? linear : NULL, M, post, M, n, M);
    return touched ? visit_expert(g, e, PB_SITE_EXPERT_POST, post, err) : PB_OK;
}

/* Which experts a row has, for a message: "0, 2". */
static void name_choice(const routing *r, int64_t row, char *out, size_t size) {
    size_t used = 0;
    for (int j = 0; j < r->k && used < size; j++)
        used += (size_t)snprintf(out + used, size - used, "%s%d", j ? ", " : "", (int)r->indices[row * r->k + j]);
}

/* A patch at an expert's site is read where the router chooses the expert: one that no row reads is an error. */
static pb_status check_reached(const routing *r, const pb_member *m, const pb_edit *e, pb_error *err) {
    int64_t row = -1;
    for (int32_t i = 0; i < e->n[0]; i++) {
        int32_t z = pb_find_row(m->z_pos, m->n_z, pb_edit_at(e, 0, i));
        if (z >= 0 && chosen(r, m->z0 + z, e->expert))
            return PB_OK;
        row = z >= 0 ? m->z0 + z : row;
    }
    char site[64], others[96], where[144] = "at none of its positions";
    if (e->n[0] == 1 && row >= 0) {
        name_choice(r, row, others, sizeof others);
        snprintf(where, sizeof where, "at pos %d, but %s", pb_edit_at(e, 0, 0), others);
    }
    return pb_fail(err, PB_ERR_ARGUMENT,
                   "nothing reads the patch at '%s': the router chooses expert %d %s (mlp.hook_expert_indices has its "
                   "choices); drop it, move it, or allow it with allow_unread = true",
                   pb_site_name(e->patch->site, site, sizeof site), e->expert, where);
}

static pb_status check_read(const pb_group *g, const routing *r, pb_error *err) {
    for (size_t i = 0; i < g->n; i++) {
        const pb_lane *lane = g->members[i].lane;
        for (size_t j = 0; j < lane->n_edits && lane->check_experts; j++) {
            const pb_edit *e = &lane->edits[j];
            if (e->layer == g->layer && pb_site_has_expert(e->kind) && e->own && e->patch->op != PB_PATCH_FN &&
                e->n[0] > 0)
                PB_TRY(check_reached(r, &g->members[i], e, err));
        }
    }
    return PB_OK;
}

/* One expert's rows: gathered, through its mlp, added with their shares. */
static pb_status run_expert(pb_group *g, const routing *r, const expert_rows *e, const float *in, float *work,
                            float *out, pb_error *err) {
    int64_t D = g->spec->d_model, M = g->spec->d_mlp;
    float *rows = work, *pre = rows + g->n_z * D, *linear = pre + g->n_z * M, *result = linear + g->n_z * M;
    for (int32_t i = 0; i < e->n; i++)
        memcpy(rows + i * D, in + e->row[i] * D, (size_t)D * sizeof *rows);
    PB_TRY(expert_hidden(g, e, rows, pre, linear, pre, err));
    if (e->n == 0)
        return PB_OK;
    PB_TRY(pb_linear(g->pass->ctx, pre, M, e->n, &g->weights->expert_out[e->expert], result, D, 0, err));
    for (int32_t i = 0; i < e->n; i++)
        for (int j = 0; j < r->k; j++)
            if ((int)r->indices[e->row[i] * r->k + j] == e->expert)
                pb_vec_axpy(r->weights[e->row[i] * r->k + j], result + i * D, out + e->row[i] * D, D);
    return PB_OK;
}

pb_status pb_group_experts(pb_group *g, const float *in, float *out, pb_error *err) {
    const pb_spec *spec = g->spec;
    int64_t D = spec->d_model, M = spec->d_mlp;
    routing r = {.k = spec->experts_per_token};
    expert_rows e;
    size_t n = (size_t)(g->n_z * (2 * D + 2 * M + 2 * r.k + spec->experts));
    float *work = pb_alloc(g->pass->ctx, n, sizeof *work);
    if (!work)
        return pb_fail_memory(err, g->pass->ctx, n * sizeof *work, "experts of one layer");
    r.weights = work + g->n_z * (2 * D + 2 * M);
    r.indices = r.weights + g->n_z * r.k;
    memset(out, 0, (size_t)(g->n_z * D) * sizeof *out);
    pb_status status = route(g, in, &r, NULL, r.indices + g->n_z * r.k, err);
    if (status == PB_OK)
        status = check_read(g, &r, err);
    if (status == PB_OK)
        status = make_rows(g, &e, err);
    bool listed = status == PB_OK;
    for (int expert = 0; expert < spec->experts && status == PB_OK; expert++) {
        list_rows(g, &r, expert, &e);
        status = run_expert(g, &r, &e, in, work, out, err);
    }
    if (listed)
        pb_free(e.row);
    pb_free(work);
    return status;
}

/* ---- reverse pass ---------------------------------------------------------------------------------------------------------- */

/* Forward again with the router's shares kept; its value is in scratch [n][experts]. */
typedef struct expert_back {
    routing r;
    float *own_shares; /* [n][experts] softmax of the router */
    float *shares;     /* as patches left it */
    float *d_shares;   /* gradient of the shares, then of the router's outputs */
    float *d_weights;  /* [n][k] */
    float *d_in;       /* [n][D] */
} expert_back;

static float *pb_expert_column(expert_back *e, int64_t row, int j) { return &e->d_weights[row * e->r.k + j]; }

/* As visit_expert, for gradients. */
static pb_status back_visit_expert(pb_back *b, const expert_rows *e, pb_site_kind kind, float *buffer, pb_error *err) {
    for (int32_t i = 0, from = 0, to; i < (int32_t)b->n; i++, from = to) {
        to = rows_end(&b->group, e, from, (size_t)i);
        pb_view view = member_view(&b->group, e, buffer, from, to);
        if (to > from && pb_back_touches(b, (size_t)i, b->group.layer, kind, kind))
            PB_TRY(pb_back_visit(b, (size_t)i, b->group.layer, kind, &view, err));
    }
    return PB_OK;
}

/* One expert's rows: forward, then back; adds to d_in and to the gradients of the shares. d: [n][D] at the mlp's output. */
static pb_status expert_back_rows(pb_back *b, expert_back *back, const expert_rows *e, const float *in, const float *d,
                                  float *work, pb_error *err) {
    const pb_spec *spec = b->pass.spec;
    const pb_layer *w = b->group.weights;
    pb_context *ctx = b->pass.ctx;
    const routing *r = &back->r;
    int64_t D = spec->d_model, M = spec->d_mlp, N = b->rows, n = e->n;
    float *rows = work, *out = rows + N * D, *dy = out + N * D, *dx = dy + N * D, *pre = dx + N * D,
          *linear = pre + N * M, *post = linear + N * M, *d_post = post + N * M, *d_pre = d_post + N * M,
          *d_linear = d_pre + N * M;
    if (n == 0)
        return PB_OK;
    bool gated = is_gated(&b->group, e->expert);
    const pb_matrix *w_in = &w->expert_in[e->expert], *w_out = &w->expert_out[e->expert];
    for (int64_t i = 0; i < n; i++) {
        int64_t row = e->row[i];
        memcpy(rows + i * D, in + row * D, (size_t)D * sizeof *rows);
        memset(dy + i * D, 0, (size_t)D * sizeof *dy);
        for (int j = 0; j < r->k; j++)
            if ((int)r->indices[row * r->k + j] == e->expert)
                pb_vec_axpy(r->weights[row * r->k + j], d + row * D, dy + i * D, D);
    }
    PB_TRY(expert_hidden(&b->group, e, rows, pre, linear, post, err));
    PB_TRY(pb_linear(ctx, post, M, n, w_out, out, D, 0, err));
    PB_TRY(pb_back_linear(b, w_out, post, M, dy, D, n, err));
    PB_TRY(pb_linear_input_grad(ctx, dy, D, n, w_out, d_post, M, 0, err));
    PB_TRY(back_visit_expert(b, e, PB_SITE_EXPERT_POST, d_post, err));
    pb_act_backward_rows(ctx, spec->act, pre, M, gated ? linear : NULL, M, d_post, M, d_pre, M, gated ? d_linear : NULL,
                         M, n, M);
    PB_TRY(back_visit_expert(b, e, gated ? PB_SITE_EXPERT_GATE : PB_SITE_EXPERT_PRE, d_pre, err));
    PB_TRY(pb_back_linear(b, w_in, rows, D, d_pre, M, n, err));
    PB_TRY(pb_linear_input_grad(ctx, d_pre, M, n, w_in, dx, D, 0, err));
    if (gated) {
        const pb_matrix *w_linear = &w->expert_linear[e->expert];
        PB_TRY(back_visit_expert(b, e, PB_SITE_EXPERT_PRE, d_linear, err));
        PB_TRY(pb_back_linear(b, w_linear, rows, D, d_linear, M, n, err));
        PB_TRY(pb_linear_input_grad(ctx, d_linear, M, n, w_linear, dx, D, PB_LINEAR_ACCUMULATE, err));
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t row = e->row[i];
        float *d_in = back->d_in + row * D;
        pb_vec_add(d_in, dx + i * D, d_in, D);
        for (int j = 0; j < r->k; j++)
            if ((int)r->indices[row * r->k + j] == e->expert)
                *pb_expert_column(back, row, j) = pb_vec_dot(out + i * D, d + row * D, D);
    }
    return PB_OK;
}

/* Weights back to the shares, through the choice and their normalisation. */
static void weights_back(const pb_spec *spec, expert_back *e, int64_t row) {
    int64_t E = spec->experts;
    float *p = e->shares + row * E, *d = e->d_shares + row * E;
    double sum = 0, dot = 0;
    memset(d, 0, (size_t)E * sizeof *d);
    for (int j = 0; j < e->r.k; j++) {
        sum += p[(int)e->r.indices[row * e->r.k + j]];
        dot += (double)*pb_expert_column(e, row, j) * e->r.weights[row * e->r.k + j];
    }
    for (int j = 0; j < e->r.k; j++) { /* weight_j = p_j / sum */
        double g = *pb_expert_column(e, row, j);
        d[(int)e->r.indices[row * e->r.k + j]] = (float)(spec->renormalise_experts ? (g - dot) / sum : g);
    }
}

static void softmax_back(int64_t n, const float *p, float *d) {
    double total = 0;
    for (int64_t i = 0; i < n; i++)
        total += (double)p[i] * d[i];
    for (int64_t i = 0; i < n; i++)
        d[i] = p[i] * (d[i] - (float)total);
}

pb_status pb_back_experts(pb_back *b, int layer, pb_error *err) {
    const pb_spec *spec = b->pass.spec;
    pb_context *ctx = b->pass.ctx;
    int64_t D = spec->d_model, M = spec->d_mlp, N = b->rows, E = spec->experts, k = spec->experts_per_token;
    expert_back e = {.r = {.k = (int)k}};
    expert_rows rows;
    size_t n = (size_t)(N * (5 * D + 6 * M + 3 * k + 3 * E));
    float *memory = pb_alloc_zero(ctx, n, sizeof *memory);
    if (!memory)
        return pb_fail_memory(err, ctx, n * sizeof *memory, "the gradient of experts");
    e.d_in = memory + N * (4 * D + 6 * M);
    e.r.weights = e.d_in + N * D;
    e.r.indices = e.r.weights + N * k;
    e.d_weights = e.r.indices + N * k;
    e.shares = e.d_weights + N * k;
    e.d_shares = e.shares + N * E;
    e.own_shares = e.d_shares + N * E;
    pb_status status = route(&b->group, b->group.mlp_in, &e.r, e.own_shares, e.shares, err);
    if (status == PB_OK)
        status = make_rows(&b->group, &rows, err);
    bool listed = status == PB_OK;
    for (int x = 0; x < E && status == PB_OK; x++) {
        list_rows(&b->group, &e.r, x, &rows);
        status = expert_back_rows(b, &e, &rows, b->group.mlp_in, b->d_norm, memory, err);
    }
    if (listed)
        pb_free(rows.row);
    for (int64_t row = 0; row < N && status == PB_OK; row++)
        weights_back(spec, &e, row);
    if (status == PB_OK)
        status = pb_back_visit_all(b, layer, PB_SITE_EXPERT_WEIGHTS, e.d_shares, 0, E, err);
    for (int64_t row = 0; row < N && status == PB_OK; row++)
        softmax_back(E, e.own_shares + row * E, e.d_shares + row * E);
    if (status == PB_OK)
        status = pb_back_linear(b, &b->group.weights->router, b->group.mlp_in, D, e.d_shares, E, N, err);
    if (status == PB_OK)
        status = pb_linear_input_grad(ctx, e.d_shares, E, N, &b->group.weights->router, e.d_in, D, PB_LINEAR_ACCUMULATE,
                                      err);
    if (status == PB_OK)
        memcpy(b->d_norm, e.d_in, (size_t)(N * D) * sizeof(float));
    pb_free(memory);
    return status;
}
