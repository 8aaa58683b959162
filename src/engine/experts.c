/* Mixture of experts: the router chooses for every row, each expert then takes its rows in one product. */
#include "engine/internal.h"

#include <math.h>
#include <string.h>

typedef struct routing {
    int k;
    float *weights; /* [n_z][k] shares of the chosen experts */
    float *indices; /* [n_z][k] the experts, as numbers (a site's value) */
} routing;

/* The k largest shares of a row, in falling order. */
static void choose(const pb_spec *spec, float *shares, float *weights, float *indices) {
    pb_row_softmax(shares, spec->experts);
    float sum = 0;
    for (int j = 0; j < spec->experts_per_token; j++) {
        int best = 0;
        for (int e = 1; e < spec->experts; e++)
            if (shares[e] > shares[best])
                best = e;
        indices[j] = (float)best;
        weights[j] = shares[best];
        sum += shares[best];
        shares[best] = -1.0f;
    }
    for (int j = 0; spec->renormalise_experts && j < spec->experts_per_token; j++)
        weights[j] /= sum;
}

static pb_status check_indices(const pb_group *g, const routing *r, pb_error *err) {
    for (int64_t i = 0; i < g->n_z * r->k; i++)
        if (!(r->indices[i] >= 0 && r->indices[i] < (float)g->spec->experts && r->indices[i] == floorf(r->indices[i])))
            return pb_fail(err, PB_ERR_ARGUMENT, "a patch at blocks.%d.mlp.hook_expert_indices gave %g; experts are 0 to %d", g->layer,
                           (double)r->indices[i], g->spec->experts - 1);
    return PB_OK;
}

static pb_status route(pb_group *g, const float *in, routing *r, pb_error *err) {
    const pb_spec *spec = g->spec;
    int64_t E = spec->experts;
    float *shares = pb_alloc(g->pass->ctx, (size_t)(g->n_z * E), sizeof *shares);
    if (!shares)
        return pb_fail_memory(err, g->pass->ctx, (size_t)(g->n_z * E) * sizeof *shares, "the router");
    pb_status status = pb_linear(g->pass->ctx, in, spec->d_model, g->n_z, &g->weights->router, shares, E, 0, err);
    for (int64_t row = 0; row < g->n_z && status == PB_OK; row++)
        choose(spec, shares + row * E, r->weights + row * r->k, r->indices + row * r->k);
    pb_free(shares);
    if (status == PB_OK)
        status = pb_group_visit(g, PB_SITE_EXPERT_WEIGHTS, r->weights, r->k, 0, err);
    if (status == PB_OK)
        status = pb_group_visit(g, PB_SITE_EXPERT_INDICES, r->indices, r->k, 0, err);
    return status == PB_OK ? check_indices(g, r, err) : status;
}

/* Rows of one expert: gathered, through its mlp, added with their shares. */
static pb_status run_expert(pb_group *g, const routing *r, int expert, const float *in, float *work, float *out, pb_error *err) {
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
    size_t n = (size_t)(g->n_z * (2 * D + 2 * M + 2 * r.k));
    float *work = pb_alloc(g->pass->ctx, n, sizeof *work);
    if (!work)
        return pb_fail_memory(err, g->pass->ctx, n * sizeof *work, "experts of one layer");
    r.weights = work + g->n_z * (2 * D + 2 * M);
    r.indices = r.weights + g->n_z * r.k;
    memset(out, 0, (size_t)(g->n_z * D) * sizeof *out);
    pb_status status = route(g, in, &r, err);
    for (int e = 0; e < spec->experts && status == PB_OK; e++)
        status = run_expert(g, &r, e, in, work, out, err);
    pb_free(work);
    return status;
}
