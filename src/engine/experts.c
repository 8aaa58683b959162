/* Mixture of experts: the router chooses for every row, each expert then takes its rows in one product. */
#include "engine/backward.h"

#include <math.h>
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

/* Rows of one expert: gathered, through its mlp, added with their shares. */
static pb_status run_expert(pb_group *g, const routing *r, int expert, const float *in, float *work, float *out,
                            pb_error *err) {
    const pb_spec *spec = g->spec;
    const pb_layer *w = g->weights;
    pb_context *ctx = g->pass->ctx;
    int64_t D = spec->d_model, M = spec->d_mlp, n = 0;
    float *rows = work, *pre = rows + g->n_z * D, *linear = pre + g->n_z * M, *result = linear + g->n_z * M;
    for (int64_t row = 0; row < g->n_z; row++)
        for (int j = 0; j < r->k; j++)
            if ((int)r->indices[row * r->k + j] == expert) {
                memcpy(rows + n++ * D, in + row * D, (size_t)D * sizeof *rows);
                break;
            }
    if (n == 0)
        return PB_OK;
    bool gated = w->expert_linear && w->expert_linear[expert].data;
    PB_TRY(pb_linear(ctx, rows, D, n, &w->expert_in[expert], pre, M, PB_LINEAR_NO_BIAS, err));
    if (gated)
        PB_TRY(pb_linear(ctx, rows, D, n, &w->expert_linear[expert], linear, M, 0, err));
    pb_bias_act_rows(ctx, spec->act, pre, M, w->expert_in[expert].bias, gated ? linear : NULL, M, pre, M, n, M);
    PB_TRY(pb_linear(ctx, pre, M, n, &w->expert_out[expert], result, D, 0, err));
    n = 0;
    for (int64_t row = 0; row < g->n_z; row++) {
        bool mine = false;
        for (int j = 0; j < r->k; j++)
            if ((int)r->indices[row * r->k + j] == expert) {
                pb_vec_axpy(r->weights[row * r->k + j], result + n * D, out + row * D, D);
                mine = true;
            }
        n += mine;
    }
    return PB_OK;
}

pb_status pb_group_experts(pb_group *g, const float *in, float *out, pb_error *err) {
    const pb_spec *spec = g->spec;
    int64_t D = spec->d_model, M = spec->d_mlp;
    routing r = {.k = spec->experts_per_token};
    size_t n = (size_t)(g->n_z * (2 * D + 2 * M + 2 * r.k + spec->experts));
    float *work = pb_alloc(g->pass->ctx, n, sizeof *work);
    if (!work)
        return pb_fail_memory(err, g->pass->ctx, n * sizeof *work, "experts of one layer");
    r.weights = work + g->n_z * (2 * D + 2 * M);
    r.indices = r.weights + g->n_z * r.k;
    memset(out, 0, (size_t)(g->n_z * D) * sizeof *out);
    pb_status status = route(g, in, &r, NULL, r.indices + g->n_z * r.k, err);
    for (int e = 0; e < spec->experts && status == PB_OK; e++)
        status = run_expert(g, &r, e, in, work, out, err);
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

/* One expert's rows: forward, then back; adds to d_in and to the gradients of the shares. d: [n][D] at the mlp's output. */
static pb_status expert_back_rows(pb_back *b, expert_back *e, int expert, const float *in, const float *d, float *work,
                                  pb_error *err) {
    const pb_spec *spec = b->pass.spec;
    const pb_layer *w = b->group.weights;
    pb_context *ctx = b->pass.ctx;
    int64_t D = spec->d_model, M = spec->d_mlp, N = b->rows, n = 0;
    float *rows = work, *out = rows + N * D, *dy = out + N * D, *dx = dy + N * D, *pre = dx + N * D,
          *linear = pre + N * M, *post = linear + N * M, *d_post = post + N * M, *d_pre = d_post + N * M,
          *d_linear = d_pre + N * M;
    for (int64_t row = 0; row < N; row++)
        for (int j = 0; j < e->r.k; j++)
            if ((int)e->r.indices[row * e->r.k + j] == expert) {
                memcpy(rows + n * D, in + row * D, (size_t)D * sizeof *rows);
                for (int64_t c = 0; c < D; c++)
                    dy[n * D + c] = d[row * D + c] * e->r.weights[row * e->r.k + j];
                n++;
                break;
            }
    if (n == 0)
        return PB_OK;
    bool gated = w->expert_linear && w->expert_linear[expert].data;
    PB_TRY(pb_linear(ctx, rows, D, n, &w->expert_in[expert], pre, M, PB_LINEAR_NO_BIAS, err));
    if (gated)
        PB_TRY(pb_linear(ctx, rows, D, n, &w->expert_linear[expert], linear, M, 0, err));
    pb_bias_act_rows(ctx, spec->act, pre, M, w->expert_in[expert].bias, gated ? linear : NULL, M, post, M, n, M);
    PB_TRY(pb_linear(ctx, post, M, n, &w->expert_out[expert], out, D, 0, err));
    PB_TRY(pb_back_linear(b, &w->expert_out[expert], post, M, dy, D, n, err));
    PB_TRY(pb_linear_input_grad(ctx, dy, D, n, &w->expert_out[expert], d_post, M, 0, err));
    pb_act_backward_rows(ctx, spec->act, pre, M, gated ? linear : NULL, M, d_post, M, d_pre, M, gated ? d_linear : NULL,
                         M, n, M);
    PB_TRY(pb_back_linear(b, &w->expert_in[expert], rows, D, d_pre, M, n, err));
    PB_TRY(pb_linear_input_grad(ctx, d_pre, M, n, &w->expert_in[expert], dx, D, 0, err));
    if (gated) {
        PB_TRY(pb_back_linear(b, &w->expert_linear[expert], rows, D, d_linear, M, n, err));
        PB_TRY(pb_linear_input_grad(ctx, d_linear, M, n, &w->expert_linear[expert], dx, D, PB_LINEAR_ACCUMULATE, err));
    }
    n = 0;
    for (int64_t row = 0; row < N; row++)
        for (int j = 0; j < e->r.k; j++)
            if ((int)e->r.indices[row * e->r.k + j] == expert) {
                pb_vec_add(e->d_in + row * D, dx + n * D, e->d_in + row * D, D);
                *pb_expert_column(e, row, j) = pb_vec_dot(out + n * D, d + row * D, D);
                n++;
                break;
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
    for (int x = 0; x < E && status == PB_OK; x++)
        status = expert_back_rows(b, &e, x, b->group.mlp_in, b->d_norm, memory, err);
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
