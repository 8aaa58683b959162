/* Which stored weight is not finite: looked for only when a pass has met NaN or infinity, since it reads the weights. */
#include <math.h>
#include <stdio.h>

#include "model/loading.h"

typedef struct search {
    const pb_model *model;
    bool *wanted; /* [n_weights] */
} search;

static void want(const search *s, const void *data) {
    pb_origin origin;
    if (pb_model_origin(s->model, data, &origin))
        s->wanted[origin.weight] = true;
}

static void want_matrix(const search *s, const pb_matrix *m) {
    want(s, m->data);
    want(s, m->bias);
}

static void want_norm(const search *s, const pb_norm_weights *n) {
    want(s, n->weight);
    want(s, n->bias);
}

static void want_layer(const search *s, const pb_layer *l) {
    const pb_matrix *matrices[] = {&l->q, &l->k, &l->v, &l->o, &l->mlp_in, &l->mlp_linear, &l->mlp_out, &l->router};
    const pb_norm_weights *norms[] = {&l->ln1, &l->ln2, &l->ln1_post, &l->ln2_post, &l->q_norm, &l->k_norm};
    for (size_t i = 0; i < sizeof matrices / sizeof matrices[0]; i++)
        want_matrix(s, matrices[i]);
    for (size_t i = 0; i < sizeof norms / sizeof norms[0]; i++)
        want_norm(s, norms[i]);
    for (int e = 0; e < s->model->spec.experts; e++) {
        want_matrix(s, &l->expert_in[e]);
        want_matrix(s, &l->expert_linear[e]);
        want_matrix(s, &l->expert_out[e]);
    }
}

static void want_stage(const search *s, int layer) {
    const pb_spec *spec = &s->model->spec;
    if (pb_model_is_processed(s->model)) { /* it mixes them, and forgets where its own came from */
        for (size_t i = 0; i < s->model->n_weights; i++)
            s->wanted[i] = s->model->weights[i].used;
    } else if (layer >= 0 && layer < spec->layers) {
        want_layer(s, &spec->layer[layer]);
    } else if (layer < 0) {
        want_matrix(s, &spec->embed);
        want_matrix(s, &spec->pos_embed);
        want_matrix(s, &spec->project_in);
        want_norm(s, &spec->embed_norm);
    } else {
        want_norm(s, &spec->ln_final);
        want_matrix(s, &spec->project_out);
        want_matrix(s, &spec->unembed);
    }
}

/* The first element that is not finite; false: all are. */
static bool find_in(const pb_entry *entry, size_t *at, float *value) {
    enum { PIECE = 4096 };
    float piece[PIECE];
    size_t count = entry->bytes / pb_stored_size(entry->type);
    for (size_t first = 0; first < count; first += PIECE) {
        size_t n = count - first < PIECE ? count - first : PIECE;
        pb_widen(entry->type, entry->data, first, n, piece);
        for (size_t i = 0; i < n; i++)
            if (!isfinite(piece[i])) {
                *at = first + i;
                *value = piece[i];
                return true;
            }
    }
    return false;
}

static void describe(const pb_weight *weight, size_t at, float value, char *text, size_t size) {
    const pb_entry *entry = weight->entry;
    char place[160] = "";
    size_t used = 0, rest = entry->bytes / pb_stored_size(entry->type);
    for (int i = 0; i < entry->ndim && used < sizeof place; i++) {
        rest /= (size_t)entry->shape[i];
        used += (size_t)snprintf(place + used, sizeof place - used, "%s%zu", i ? ", " : "", at / rest);
        at %= rest;
    }
    snprintf(text, size, "tensor '%.200s' of %.100s is %s at [%s]", entry->name,
             pb_source_is_memory(weight->source) ? "the given weights" : weight->source->name,
             isnan(value) ? "NaN" : "infinite", place);
}

bool pb_model_find_nonfinite(const pb_model *model, int layer, char *text, size_t size) {
    search s = {model, pb_alloc_zero(model->ctx, model->n_weights, sizeof *s.wanted)};
    bool found = false;
    if (!s.wanted)
        return false; /* only the message is poorer */
    want_stage(&s, layer);
    for (size_t i = 0; i < model->n_weights && !found; i++) {
        const pb_weight *weight = &model->weights[i];
        size_t at;
        float value;
        if (!s.wanted[i])
            continue;
        found = find_in(weight->entry, &at, &value);
        if (found)
            describe(weight, at, value, text, size);
        if (model->stream)
            pb_source_release(weight->source, weight->entry->data, weight->entry->bytes);
    }
    pb_free(s.wanted);
    return found;
}
