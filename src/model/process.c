/* TransformerLens's weight processing, each step on its own: the model computes the same log-probabilities with other
 * weights. Steps run in TransformerLens's order. A matrix that a step changes becomes a dense float32 copy of the model's
 * own; all others stay views of the files. Sums are made in double.
 *
 * Where a step would change what the model computes it is left out with a warning, as TransformerLens does. */
#include <string.h>

#include "model/loading.h"

/* ---- copies that can be written ------------------------------------------------------------------------------------------ */

static float *row_of(const pb_matrix *m, int64_t o) { return (float *)(uintptr_t)m->data + o * m->ld; }

static float *bias_of(const pb_matrix *m) { return (float *)(uintptr_t)m->bias; }

/* Puts the model's own copy in place of *m: float32, row o = weights of output o. bias: also one that is there (zeros). */
static pb_status own_matrix(pb_model *model, pb_matrix *m, bool bias, pb_error *err) {
    float *data = pb_model_own(model, (size_t)(m->in * m->out), sizeof *data);
    if (!data)
        return pb_fail_memory(err, model->ctx, (size_t)(m->in * m->out) * sizeof *data, "a processed weight");
    for (int64_t o = 0; o < m->out; o++)
        pb_matrix_output_row(m, o, data + o * m->in);
    const float *values = m->bias;
    if (bias || values) {
        float *copy = pb_model_own(model, (size_t)m->out, sizeof *copy);
        if (!copy)
            return pb_fail_memory(err, model->ctx, (size_t)m->out * sizeof *copy, "a processed bias");
        for (int64_t o = 0; o < m->out; o++)
            copy[o] = values ? values[o] : 0.0f;
        values = copy;
    }
    *m = (pb_matrix){
        .data = data, .type = PB_STORED_F32, .in = m->in, .out = m->out, .ld = m->in, .block = m->out, .bias = values};
    return PB_OK;
}

static void subtract_mean(float *x, int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i];
    float mean = (float)(sum / (double)n);
    for (int64_t i = 0; i < n; i++)
        x[i] -= mean;
}

/* ---- fold_ln ----------------------------------------------------------------------------------------------------------------- */

/* The norm's bias goes into the bias of the map that reads it, then its weight into the map; what a centring norm gives has
 * mean 0, so the map's mean over inputs does nothing and is taken out. */
static pb_status fold_norm(pb_model *model, pb_norm_weights norm, pb_matrix *m, pb_error *err) {
    if (!m->data)
        return PB_OK;
    PB_TRY(pb_context_check(model->ctx, err));
    PB_TRY(own_matrix(model, m, norm.bias != NULL, err));
    for (int64_t o = 0; o < m->out; o++) {
        float *w = row_of(m, o);
        if (norm.bias) {
            double sum = (double)m->bias[o];
            for (int64_t i = 0; i < m->in; i++)
                sum += (double)norm.bias[i] * (double)w[i];
            bias_of(m)[o] = (float)sum;
        }
        for (int64_t i = 0; norm.weight && i < m->in; i++)
            w[i] *= norm.weight[i];
        if (model->spec.norm_centre)
            subtract_mean(w, m->in);
    }
    return PB_OK;
}

static pb_status fold_into_mlp(pb_model *model, pb_layer *layer, pb_norm_weights norm, pb_error *err) {
    PB_TRY(fold_norm(model, norm, &layer->mlp_in, err));
    PB_TRY(fold_norm(model, norm, &layer->mlp_linear, err));
    PB_TRY(fold_norm(model, norm, &layer->router, err));
    for (int e = 0; e < model->spec.experts; e++) {
        PB_TRY(fold_norm(model, norm, (pb_matrix *)(uintptr_t)&layer->expert_in[e], err));
        PB_TRY(fold_norm(model, norm, (pb_matrix *)(uintptr_t)&layer->expert_linear[e], err));
    }
    return PB_OK;
}

static pb_status fold_ln(pb_model *model, pb_error *err) {
    pb_spec *spec = &model->spec;
    static const pb_norm_weights none = {NULL, NULL};
    bool before = spec->norm_place == PB_NORM_PRE || spec->norm_place == PB_NORM_SANDWICH;
    if (spec->norm_place == PB_NORM_POST_ADD) {
        pb_context_warn(model->ctx,
                        "fold_ln does nothing for '%s': its norms write to the residual stream, no map reads them",
                        model->name);
        return PB_OK;
    }
    for (int i = 0; before && i < spec->layers; i++) {
        pb_layer *layer = &spec->layer[i];
        bool shared = spec->block == PB_BLOCK_PARALLEL_SHARED;
        PB_TRY(fold_norm(model, layer->ln1, &layer->q, err));
        PB_TRY(fold_norm(model, layer->ln1, &layer->k, err));
        PB_TRY(fold_norm(model, layer->ln1, &layer->v, err));
        PB_TRY(fold_into_mlp(model, layer, shared ? layer->ln1 : layer->ln2, err));
        layer->ln1 = layer->ln2 = none;
    }
    if (spec->has_final_norm) {
        PB_TRY(fold_norm(model, spec->ln_final, spec->project_out.data ? &spec->project_out : &spec->unembed, err));
        spec->ln_final = none;
    }
    return PB_OK;
}

/* ---- center_writing_weights ---------------------------------------------------------------------------------------------------- */

/* Rows of an embedding table. */
static pb_status centre_table(pb_model *model, pb_matrix *m, pb_error *err) {
    if (!m->data)
        return PB_OK;
    PB_TRY(own_matrix(model, m, false, err));
    for (int64_t o = 0; o < m->out; o++)
        subtract_mean(row_of(m, o), m->in);
    return PB_OK;
}

/* A map that writes to the stream: its mean over outputs, for every input and the bias. */
static pb_status centre_outputs(pb_model *model, pb_matrix *m, pb_error *err) {
    if (!m->data)
        return PB_OK;
    PB_TRY(pb_context_check(model->ctx, err));
    PB_TRY(own_matrix(model, m, false, err));
    double *sums = pb_alloc_zero(model->ctx, (size_t)m->in, sizeof *sums);
    if (!sums)
        return pb_fail_memory(err, model->ctx, (size_t)m->in * sizeof *sums, "means of a weight");
    for (int64_t o = 0; o < m->out; o++) {
        const float *w = row_of(m, o);
        for (int64_t i = 0; i < m->in; i++)
            sums[i] += (double)w[i];
    }
    for (int64_t o = 0; o < m->out; o++) {
        float *w = row_of(m, o);
        for (int64_t i = 0; i < m->in; i++)
            w[i] -= (float)(sums[i] / (double)m->out);
    }
    pb_free(sums);
    if (m->bias)
        subtract_mean(bias_of(m), m->out);
    return PB_OK;
}

static pb_status centre_writing(pb_model *model, pb_error *err) {
    pb_spec *spec = &model->spec;
    if (!spec->norm_centre || spec->norm_place != PB_NORM_PRE || !spec->has_final_norm) {
        pb_context_warn(model->ctx,
                        "center_writing_weights is left out for '%s': something reads its residual stream without a "
                        "norm that subtracts "
                        "the mean, so the mean matters",
                        model->name);
        return PB_OK;
    }
    if (spec->project_in.data)
        PB_TRY(centre_outputs(model, &spec->project_in, err));
    else if (!spec->has_embed_norm) /* behind a norm the embedding's mean is gone anyway */
        PB_TRY(centre_table(model, &spec->embed, err));
    PB_TRY(centre_table(model, &spec->pos_embed, err));
    for (int i = 0; i < spec->layers; i++) {
        pb_layer *layer = &spec->layer[i];
        PB_TRY(centre_outputs(model, &layer->o, err));
        PB_TRY(centre_outputs(model, &layer->mlp_out, err));
        for (int e = 0; e < spec->experts; e++)
            PB_TRY(centre_outputs(model, (pb_matrix *)(uintptr_t)&layer->expert_out[e], err));
    }
    return PB_OK;
}

/* ---- center_unembed, fold_value_biases ------------------------------------------------------------------------------------------- */

static pb_status centre_unembed(pb_model *model, pb_error *err) {
    if (model->spec.final_softcap != 0.0f) {
        pb_context_warn(
            model->ctx,
            "center_unembed is left out for '%s': its logits are soft-capped, so a constant in them matters",
            model->name);
        return PB_OK;
    }
    return centre_outputs(model, &model->spec.unembed, err);
}

/* Every row of a pattern sums to 1, so a constant in v is a constant in the output. */
static pb_status fold_value_bias(pb_model *model, pb_layer *layer, pb_error *err) {
    const pb_spec *spec = &model->spec;
    int64_t d = spec->d_head, group = spec->heads / spec->kv_heads;
    PB_TRY(own_matrix(model, &layer->o, true, err));
    for (int64_t o = 0; o < layer->o.out; o++) {
        const float *w = row_of(&layer->o, o);
        double sum = (double)layer->o.bias[o];
        for (int64_t i = 0; i < layer->o.in; i++)
            sum += (double)layer->v.bias[i / d / group * d + i % d] * (double)w[i];
        bias_of(&layer->o)[o] = (float)sum;
    }
    layer->v.bias = NULL;
    return PB_OK;
}

static pb_status fold_value_biases(pb_model *model, pb_error *err) {
    pb_spec *spec = &model->spec;
    if (spec->clip_qkv != 0.0f) {
        pb_context_warn(model->ctx, "fold_value_biases is left out for '%s': values are clipped after their bias",
                        model->name);
        return PB_OK;
    }
    for (int i = 0; i < spec->layers; i++) {
        if (spec->layer[i].v.bias)
            PB_TRY(fold_value_bias(model, &spec->layer[i], err));
    }
    return PB_OK;
}

pb_status pb_process_weights(pb_model *model, const pb_load_options *options, pb_error *err) {
    if (options->fold_ln)
        PB_TRY(fold_ln(model, err));
    if (options->center_writing_weights)
        PB_TRY(centre_writing(model, err));
    if (options->center_unembed)
        PB_TRY(centre_unembed(model, err));
    if (options->fold_value_biases)
        PB_TRY(fold_value_biases(model, err));
    return PB_OK;
}
