/* Weights as tensors: by their name in the files, and in TransformerLens's names and shapes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/suggest.h"
#include "model/loading.h"

pb_status pb_model_weight(const pb_model *model, const char *name, pb_tensor **out, pb_error *err) {
    const pb_weight *weight = pb_files_find(model, name);
    if (weight) {
        pb_status status = pb_entry_load(model->ctx, weight->entry, out, err);
        if (model->stream)
            pb_source_release(weight->source, weight->entry->data, weight->entry->bytes);
        return status;
    }
    pb_suggestion near;
    pb_suggestion_begin(&near, name);
    for (size_t i = 0; i < model->n_weights; i++)
        pb_suggestion_offer(&near, model->weights[i].entry->name);
    if (near.best)
        return pb_fail(err, PB_ERR_ARGUMENT, "model '%s' has no weight '%.200s'; did you mean '%s'?", model->name, name,
                       near.best);
    return pb_fail(err, PB_ERR_ARGUMENT, "model '%s' has no weight '%.200s'; its %zu weights begin with '%s'",
                   model->name, name, model->n_weights, model->n_weights ? model->weights[0].entry->name : "");
}

/* ---- shapes of TransformerLens ------------------------------------------------------------------------------------------- */

/* Outputs are read in order. */
static void read_output(const pb_model *model, const pb_matrix *w, int64_t o, float *out) {
    pb_matrix_output_row(w, o, out);
    pb_stream_output_read(model, w, o);
}

/* [in, out] from a map. */
static pb_status in_by_out(const pb_model *model, const pb_matrix *w, pb_tensor **out, pb_error *err) {
    pb_status status;
    pb_tensor *t = NULL;
    const int64_t shape[2] = {w->in, w->out};
    float *row = pb_alloc(model->ctx, (size_t)w->in, sizeof *row);
    if (!row)
        return pb_fail_memory(err, model->ctx, (size_t)w->in * sizeof *row, "a row of a weight");
    if ((status = pb_tensor_create(model->ctx, PB_F32, 2, shape, &t, err)) != PB_OK)
        goto done;
    float *data = pb_tensor_floats(t);
    for (int64_t o = 0; o < w->out; o++) {
        read_output(model, w, o, row);
        for (int64_t i = 0; i < w->in; i++)
            data[i * w->out + o] = row[i];
    }
    *out = t;
done:
    pb_free(row);
    return status;
}

/* [out, in], rows first .. first + n - 1: a table of embeddings. */
static pb_status table(const pb_model *model, const pb_matrix *w, int64_t first, int64_t n, pb_tensor **out,
                       pb_error *err) {
    const int64_t shape[2] = {n, w->in};
    PB_TRY(pb_tensor_create(model->ctx, PB_F32, 2, shape, out, err));
    for (int64_t o = 0; o < n; o++)
        read_output(model, w, first + o, pb_tensor_floats(*out) + o * w->in);
    return PB_OK;
}

/* [heads, in, d_head] from a map whose outputs are the heads. */
static pb_status by_head(const pb_model *model, const pb_matrix *w, int64_t heads, pb_tensor **out, pb_error *err) {
    pb_status status;
    pb_tensor *t = NULL;
    int64_t d = w->out / heads;
    const int64_t shape[3] = {heads, w->in, d};
    float *row = pb_alloc(model->ctx, (size_t)w->in, sizeof *row);
    if (!row)
        return pb_fail_memory(err, model->ctx, (size_t)w->in * sizeof *row, "a row of a weight");
    if ((status = pb_tensor_create(model->ctx, PB_F32, 3, shape, &t, err)) != PB_OK)
        goto done;
    for (int64_t o = 0; o < w->out; o++) {
        float *head = pb_tensor_floats(t) + o / d * w->in * d + o % d;
        read_output(model, w, o, row);
        for (int64_t i = 0; i < w->in; i++)
            head[i * d] = row[i];
    }
    *out = t;
done:
    pb_free(row);
    return status;
}

/* [heads, d_head, out] from a map whose inputs are the heads: [in, out] already has that order. */
static pb_status from_heads(const pb_model *model, const pb_matrix *w, int64_t heads, pb_tensor **out, pb_error *err) {
    pb_tensor *flat = NULL;
    const int64_t shape[3] = {heads, w->in / heads, w->out};
    PB_TRY(in_by_out(model, w, &flat, err));
    pb_status status = pb_tensor_reshape(flat, 3, shape, out, err);
    pb_tensor_unref(flat);
    return status;
}

/* values [n], or `absent` everywhere; as [n], or [heads, n / heads]. */
static pb_status vector(pb_context *ctx, const float *values, float absent, int64_t n, int64_t heads, pb_tensor **out,
                        pb_error *err) {
    const int64_t one[1] = {n}, two[2] = {heads, heads ? n / heads : 0};
    int ndim = heads ? 2 : 1;
    const int64_t *shape = heads ? two : one;
    return values ? pb_tensor_from_floats(ctx, ndim, shape, values, out, err)
                  : pb_tensor_full(ctx, ndim, shape, absent, out, err);
}

/* ---- names ---------------------------------------------------------------------------------------------------------------- */

typedef enum shape_kind {
    SHAPE_IN_OUT,
    SHAPE_BY_HEAD,
    SHAPE_FROM_HEADS,
    SHAPE_BIAS,
    SHAPE_HEAD_BIAS,
    SHAPE_NORM_WEIGHT,
    SHAPE_NORM_BIAS
} shape_kind;

/* What a name within a layer stands for: one of the three. */
typedef struct parameter {
    shape_kind kind;
    const pb_matrix *matrix;
    const pb_norm_weights *norm;
    int64_t heads; /* SHAPE_BY_HEAD, SHAPE_FROM_HEADS, SHAPE_HEAD_BIAS */
    int64_t width; /* norms */
} parameter;

static const char *const outer_names[] = {"embed.W_E",  "pos_embed.W_pos", "embed_norm.w", "embed_norm.b",
                                          "ln_final.w", "ln_final.b",      "unembed.W_U",  "unembed.b_U",
                                          "project_in", "project_out"};
static const char *const layer_names[] = {
    "attn.W_Q",  "attn.W_K",      "attn.W_V",      "attn.W_O",      "attn.b_Q",      "attn.b_K",   "attn.b_V",
    "attn.b_O",  "attn.q_norm.w", "attn.q_norm.b", "attn.k_norm.w", "attn.k_norm.b", "mlp.W_in",   "mlp.W_gate",
    "mlp.W_out", "mlp.b_in",      "mlp.b_gate",    "mlp.b_out",     "mlp.W_router",  "ln1.w",      "ln1.b",
    "ln2.w",     "ln2.b",         "ln1_post.w",    "ln1_post.b",    "ln2_post.w",    "ln2_post.b",
};

static bool norm_exists(const pb_spec *spec, const char *name) {
    bool output = spec->norm_place == PB_NORM_OUTPUT, sandwich = spec->norm_place == PB_NORM_SANDWICH;
    if (strncmp(name, "ln1_post", 8) == 0 || strncmp(name, "ln2_post", 8) == 0)
        return output || sandwich;
    return !output && (name[2] == '1' || spec->block != PB_BLOCK_PARALLEL_SHARED);
}

/* Matrices and biases of attention and mlp. A gated mlp's W_gate is the branch with the activation, W_in the other one. */
static bool find_map(const pb_spec *spec, const pb_layer *layer, const char *name, parameter *p) {
    bool gated = spec->gated, dense = spec->experts == 0;
    const struct {
        const char *weight, *bias;
        const pb_matrix *matrix;
        shape_kind kind;
        int64_t heads;
    } maps[] = {
        {"attn.W_Q", "attn.b_Q", &layer->q, SHAPE_BY_HEAD, spec->heads},
        {"attn.W_K", "attn.b_K", &layer->k, SHAPE_BY_HEAD, spec->kv_heads},
        {"attn.W_V", "attn.b_V", &layer->v, SHAPE_BY_HEAD, spec->kv_heads},
        {"attn.W_O", "attn.b_O", &layer->o, SHAPE_FROM_HEADS, spec->heads},
        {"mlp.W_in", "mlp.b_in",
         !dense  ? NULL
         : gated ? &layer->mlp_linear
                 : &layer->mlp_in,
         SHAPE_IN_OUT, 0},
        {"mlp.W_gate", "mlp.b_gate", dense && gated ? &layer->mlp_in : NULL, SHAPE_IN_OUT, 0},
        {"mlp.W_out", "mlp.b_out", dense ? &layer->mlp_out : NULL, SHAPE_IN_OUT, 0},
        {"mlp.W_router", "mlp.b_router", dense ? NULL : &layer->router, SHAPE_IN_OUT, 0},
    };
    for (size_t i = 0; i < sizeof maps / sizeof maps[0]; i++) {
        bool weight = strcmp(name, maps[i].weight) == 0;
        if (!maps[i].matrix || (!weight && strcmp(name, maps[i].bias) != 0))
            continue;
        shape_kind bias = maps[i].kind == SHAPE_BY_HEAD ? SHAPE_HEAD_BIAS : SHAPE_BIAS;
        *p = (parameter){.kind = weight ? maps[i].kind : bias, .matrix = maps[i].matrix, .heads = maps[i].heads};
        return true;
    }
    int expert = 0, used = 0;
    char part[8];
    if (!dense && sscanf(name, "mlp.experts.%d.%7s%n", &expert, part, &used) == 2 && !name[used] && expert >= 0 &&
        expert < spec->experts) {
        const pb_matrix *matrix = strcmp(part, "W_in") == 0     ? &layer->expert_linear[expert]
                                  : strcmp(part, "W_gate") == 0 ? &layer->expert_in[expert]
                                  : strcmp(part, "W_out") == 0  ? &layer->expert_out[expert]
                                                                : NULL;
        *p = (parameter){.kind = SHAPE_IN_OUT, .matrix = matrix};
        return matrix != NULL;
    }
    return false;
}

static bool find_norm(const pb_spec *spec, const pb_layer *layer, const char *name, parameter *p) {
    bool full = spec->qk_norm == PB_QK_NORM_FULL || spec->qk_norm == PB_QK_NORM_PER_HEAD;
    const struct {
        const char *name;
        const pb_norm_weights *norm;
        int64_t width;
        bool there;
    } norms[] = {
        {"ln1", &layer->ln1, spec->d_model, norm_exists(spec, "ln1")},
        {"ln2", &layer->ln2, spec->d_model, norm_exists(spec, "ln2")},
        {"ln1_post", &layer->ln1_post, spec->d_model, norm_exists(spec, "ln1_post")},
        {"ln2_post", &layer->ln2_post, spec->d_model, norm_exists(spec, "ln2_post")},
        {"attn.q_norm", &layer->q_norm, full ? spec->heads * spec->d_head : spec->d_head,
         spec->qk_norm != PB_QK_NORM_NONE},
        {"attn.k_norm", &layer->k_norm, full ? spec->kv_heads * spec->d_head : spec->d_head,
         spec->qk_norm != PB_QK_NORM_NONE},
    };
    for (size_t i = 0; i < sizeof norms / sizeof norms[0]; i++) {
        size_t length = strlen(norms[i].name);
        if (!norms[i].there || strncmp(name, norms[i].name, length) != 0)
            continue;
        bool weight = strcmp(name + length, ".w") == 0;
        if (!weight && strcmp(name + length, ".b") != 0)
            continue;
        *p = (parameter){
            .kind = weight ? SHAPE_NORM_WEIGHT : SHAPE_NORM_BIAS, .norm = norms[i].norm, .width = norms[i].width};
        return true;
    }
    return false;
}

static bool find_outer(const pb_spec *spec, const char *name, parameter *p) {
    if (strncmp(name, "ln_final.", 9) == 0 && spec->has_final_norm)
        *p = (parameter){.norm = &spec->ln_final, .width = spec->d_model};
    else if (strncmp(name, "embed_norm.", 11) == 0 && spec->has_embed_norm)
        *p = (parameter){.norm = &spec->embed_norm, .width = spec->d_model};
    else if (strcmp(name, "unembed.W_U") == 0)
        *p = (parameter){.kind = SHAPE_IN_OUT, .matrix = &spec->unembed};
    else if (strcmp(name, "unembed.b_U") == 0)
        *p = (parameter){.kind = SHAPE_BIAS, .matrix = &spec->unembed};
    else if (strcmp(name, "project_in") == 0 && spec->project_in.data)
        *p = (parameter){.kind = SHAPE_IN_OUT, .matrix = &spec->project_in};
    else if (strcmp(name, "project_out") == 0 && spec->project_out.data)
        *p = (parameter){.kind = SHAPE_IN_OUT, .matrix = &spec->project_out};
    else
        return false;
    if (p->norm) {
        const char *end = strrchr(name, '.');
        p->kind = strcmp(end, ".b") == 0 ? SHAPE_NORM_BIAS : SHAPE_NORM_WEIGHT;
        return strcmp(end, ".b") == 0 || strcmp(end, ".w") == 0;
    }
    return true;
}

static pb_status make(const pb_model *model, const parameter *p, pb_tensor **out, pb_error *err) {
    switch (p->kind) {
    case SHAPE_IN_OUT:
        return in_by_out(model, p->matrix, out, err);
    case SHAPE_BY_HEAD:
        return by_head(model, p->matrix, p->heads, out, err);
    case SHAPE_FROM_HEADS:
        return from_heads(model, p->matrix, p->heads, out, err);
    case SHAPE_BIAS:
        return vector(model->ctx, p->matrix->bias, 0.0f, p->matrix->out, 0, out, err);
    case SHAPE_HEAD_BIAS:
        return vector(model->ctx, p->matrix->bias, 0.0f, p->matrix->out, p->heads, out, err);
    case SHAPE_NORM_WEIGHT:
        return vector(model->ctx, p->norm->weight, 1.0f, p->width, 0, out, err);
    case SHAPE_NORM_BIAS:
        return vector(model->ctx, p->norm->bias, 0.0f, p->width, 0, out, err);
    }
    return pb_fail(err, PB_ERR_ARGUMENT, "unknown kind of parameter");
}

static pb_status unknown(const pb_model *model, const char *name, const char *part, pb_error *err) {
    const char *near = part ? pb_suggest(part, layer_names, sizeof layer_names / sizeof layer_names[0])
                            : pb_suggest(name, outer_names, sizeof outer_names / sizeof outer_names[0]);
    bool known = near && strcmp(near, part ? part : name) == 0;
    if (known)
        return pb_fail(err, PB_ERR_ARGUMENT, "model '%s' (%s) has no parameter '%.200s': its architecture lacks it",
                       model->name, model->family->model_type, name);
    if (near)
        return pb_fail(err, PB_ERR_ARGUMENT, "there is no parameter '%.200s'; did you mean '%s%s'?", name,
                       part ? "blocks.N." : "", near);
    return pb_fail(
        err, PB_ERR_ARGUMENT,
        "there is no parameter '%.200s'; names are TransformerLens's: embed.W_E, blocks.0.attn.W_Q, blocks.0.mlp.W_in, "
        "unembed.W_U ...",
        name);
}

pb_status pb_model_parameter(const pb_model *model, const char *name, pb_tensor **out, pb_error *err) {
    const pb_spec *spec = &model->spec;
    parameter p = {0};
    if (strncmp(name, "blocks.", 7) == 0) {
        char *end;
        long layer = strtol(name + 7, &end, 10);
        if (end == name + 7 || *end != '.')
            return pb_fail(err, PB_ERR_ARGUMENT, "parameter '%.200s' has no layer number after 'blocks.'", name);
        if (layer < 0 || layer >= spec->layers)
            return pb_fail(err, PB_ERR_ARGUMENT,
                           "parameter '%.200s': layer %ld is out of range; model '%s' has layers 0 to %d", name, layer,
                           model->name, spec->layers - 1);
        const char *part = end + 1;
        if (!find_map(spec, &spec->layer[layer], part, &p) && !find_norm(spec, &spec->layer[layer], part, &p))
            return unknown(model, name, part, err);
        return make(model, &p, out, err);
    }
    if (strcmp(name, "embed.W_E") == 0)
        return table(model, &spec->embed, 0, spec->embed.out, out, err);
    if (strcmp(name, "pos_embed.W_pos") == 0 && spec->pos_embed.data)
        return table(model, &spec->pos_embed, spec->position_offset, spec->pos_embed.out - spec->position_offset, out,
                     err);
    if (!find_outer(spec, name, &p))
        return unknown(model, name, NULL, err);
    return make(model, &p, out, err);
}
