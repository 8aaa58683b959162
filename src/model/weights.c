/* Binds the tensors of the weight files to the specification: names from the family's row, shapes from the configuration.
 *
 * Matrices of f32, f16 and bf16 are views into the mapped files; other float types, and data that is not aligned to its own
 * size, become float32 copies. Vectors (norms, biases) are always float32 copies: they are small, and kernels want them so. */
#include <stdio.h>
#include <string.h>

#include "model/loading.h"

enum { NAME_MAX_LENGTH = 256 };

/* ---- names ------------------------------------------------------------------------------------------------------------ */

/* Appends pattern with "%d" replaced by number. */
static void append(char *name, const char *pattern, int number) {
    size_t used = strlen(name);
    const char *mark = strstr(pattern, "%d");
    if (mark)
        snprintf(name + used, NAME_MAX_LENGTH - used, "%.*s%d%s", (int)(mark - pattern), pattern, number, mark + 2);
    else
        snprintf(name + used, NAME_MAX_LENGTH - used, "%s", pattern);
}

/* The name that the text model's weight has in the multimodal model. */
static void wrap_name(const pb_loading *loading, char name[NAME_MAX_LENGTH]) {
    char inner[NAME_MAX_LENGTH];
    bool model = loading->outer_model && strncmp(name, "model.", 6) == 0;
    const char *front = model ? loading->outer_model : loading->outer ? loading->outer : "";
    snprintf(inner, sizeof inner, "%s", model ? name + 6 : name);
    snprintf(name, NAME_MAX_LENGTH, "%s%.*s", front, (int)(NAME_MAX_LENGTH - 1 - strlen(front)), inner);
}

/* layer -1: part is a whole name; index replaces "%d" in part. */
static void make_name(const pb_loading *loading, int layer, const char *part, int index, const char *suffix,
                      char name[NAME_MAX_LENGTH]) {
    name[0] = '\0';
    if (layer >= 0)
        append(name, loading->names.layer, layer);
    append(name, part, index);
    if (suffix)
        append(name, suffix, 0);
    const char *prefix = loading->family->prefix;
    size_t length = prefix ? strlen(prefix) : 0;
    if (loading->bare_names && length && strncmp(name, prefix, length) == 0)
        memmove(name, name + length, strlen(name + length) + 1);
    if (loading->wrapped)
        wrap_name(loading, name);
}

/* ---- single tensors ----------------------------------------------------------------------------------------------------- */

/* Where a weight is, for messages. */
static const char *file_of(const pb_weight *weight) {
    return pb_source_is_memory(weight->source) ? "the given weights" : weight->source->name;
}

static pb_status shape_error(const pb_loading *loading, const pb_weight *weight, int ndim, const int64_t *shape,
                             pb_error *err) {
    char have[96], want[96];
    const pb_spec *spec = loading->spec;
    bool assumed = loading->assumed.length > 0;
    return pb_fail(err, PB_ERR_FORMAT,
                   "%s: tensor '%.200s' has shape %s, but config.json asks for %s (layers %d, width %d, heads %d, "
                   "key/value heads %d, "
                   "dimensions of a head %d, mlp %d, vocabulary %d)%s%.300s%s",
                   file_of(weight), weight->entry->name,
                   pb_shape_text(weight->entry->ndim, weight->entry->shape, have, sizeof have),
                   pb_shape_text(ndim, shape, want, sizeof want), spec->layers, spec->d_model, spec->heads,
                   spec->kv_heads, spec->d_head, spec->d_mlp, spec->vocab, assumed ? "; config.json does not say " : "",
                   assumed ? loading->assumed.text : "", assumed ? ", so these defaults of the family were taken" : "");
}

static pb_status missing(const pb_loading *loading, const char *name, pb_error *err) {
    const pb_model *model = loading->model;
    return pb_fail(err, PB_ERR_FORMAT, "tensor '%s' is missing from %s%s; config.json says %s with %d layers", name,
                   model->n_sources && !pb_source_is_memory(model->sources[0])
                       ? model->n_sources == 1 ? model->sources[0]->name : "all weight files"
                       : "the given weights",
                   loading->bare_names ? " (names there have no prefix)" : "", loading->family->model_type,
                   loading->spec->layers);
}

/* A tensor of exactly this shape; marks it as used. */
static pb_status take(pb_loading *loading, const char *name, int ndim, const int64_t *shape, pb_weight **out,
                      pb_error *err) {
    pb_weight *weight = pb_files_find(loading->model, name);
    if (!weight)
        return missing(loading, name, err);
    const pb_entry *entry = weight->entry;
    if (entry->ndim != ndim || memcmp(entry->shape, shape, (size_t)ndim * sizeof *shape) != 0)
        return shape_error(loading, weight, ndim, shape, err);
    if (entry->type != PB_STORED_F32 && entry->type != PB_STORED_F16 && entry->type != PB_STORED_BF16 &&
        entry->type != PB_STORED_F64)
        return pb_fail(err, PB_ERR_UNSUPPORTED,
                       "%s: tensor '%s' is stored as %s; weights must be F32, F16, BF16 or F64", file_of(weight), name,
                       entry->dtype ? entry->dtype : pb_stored_name(entry->type));
    weight->used = true;
    *out = weight;
    return PB_OK;
}

static pb_status own_floats(pb_loading *loading, size_t count, const char *name, float **out, pb_error *err) {
    *out = pb_model_own(loading->model, count, sizeof **out);
    return *out ? PB_OK : pb_fail_memory(err, loading->ctx, count * sizeof **out, name);
}

/* n floats at data are those of the weight, in one piece. */
static pb_status note(pb_loading *loading, const float *data, int64_t n, const pb_weight *weight, pb_error *err) {
    return pb_origin_note(loading->model, data, n, (pb_origin){(size_t)(weight - loading->model->weights), 0, n, 0},
                          err);
}

/* The tensor as stored, [rows, columns]. */
static pb_status take_matrix(pb_loading *loading, const char *name, int64_t rows, int64_t columns, pb_matrix *out,
                             pb_error *err) {
    pb_weight *weight;
    const int64_t shape[2] = {rows, columns};
    PB_TRY(take(loading, name, 2, shape, &weight, err));
    const pb_entry *entry = weight->entry;
    pb_matrix m = {.data = entry->data, .type = entry->type, .in = columns, .out = rows, .ld = columns, .block = rows};
    if (entry->type == PB_STORED_F64 || (uintptr_t)entry->data % pb_stored_size(entry->type) != 0) {
        float *copy;
        PB_TRY(own_floats(loading, (size_t)(rows * columns), name, &copy, err));
        pb_widen(entry->type, entry->data, 0, (size_t)(rows * columns), copy);
        PB_TRY(note(loading, copy, rows * columns, weight, err));
        m.data = copy;
        m.type = PB_STORED_F32;
    }
    *out = m;
    return PB_OK;
}

/* n numbers as float32, into `out`. */
static pb_status take_vector_into(pb_loading *loading, const char *name, int64_t n, float *out, pb_error *err) {
    pb_weight *weight;
    PB_TRY(take(loading, name, 1, &n, &weight, err));
    pb_widen(weight->entry->type, weight->entry->data, 0, (size_t)n, out);
    return note(loading, out, n, weight, err);
}

static pb_status take_vector(pb_loading *loading, const char *name, int64_t n, float **out, pb_error *err) {
    float *copy;
    PB_TRY(own_floats(loading, (size_t)n, name, &copy, err));
    PB_TRY(take_vector_into(loading, name, n, copy, err));
    *out = copy;
    return PB_OK;
}

/* ---- maps and norms ------------------------------------------------------------------------------------------------------ */

/* The map `part` with `in` inputs and `out` outputs, with its bias. layer -1: part is a whole name. */
static pb_status take_linear(pb_loading *loading, int layer, const char *part, int index, int64_t in, int64_t out,
                             bool bias, pb_matrix *matrix, pb_error *err) {
    char name[NAME_MAX_LENGTH];
    pb_matrix m;
    make_name(loading, layer, part, index, ".weight", name);
    if (loading->family->in_major && layer >= 0) {
        PB_TRY(take_matrix(loading, name, in, out, &m, err));
        m = (pb_matrix){
            .data = m.data, .type = m.type, .in_major = true, .in = in, .out = out, .ld = out, .block = out};
    } else {
        PB_TRY(take_matrix(loading, name, out, in, &m, err));
    }
    if (bias) {
        float *values;
        make_name(loading, layer, part, index, ".bias", name);
        PB_TRY(take_vector(loading, name, out, &values, err));
        m.bias = values;
    }
    *matrix = m;
    return PB_OK;
}

/* Weight (and bias) of a norm of n numbers; part NULL or a family without parameters: nothing. */
static pb_status take_norm(pb_loading *loading, int layer, const char *part, int64_t n, pb_norm_weights *norm,
                           pb_error *err) {
    *norm = (pb_norm_weights){NULL, NULL};
    if (!part || loading->norm_plain)
        return PB_OK;
    char name[NAME_MAX_LENGTH];
    float *weight, *bias;
    make_name(loading, layer, part, 0, ".weight", name);
    PB_TRY(take_vector(loading, name, n, &weight, err));
    if (loading->family->norm_plus_one)
        pb_origin_add(loading->model, weight, n, 1.0f);
    norm->weight = weight;
    if (!loading->norm_bias)
        return PB_OK;
    make_name(loading, layer, part, 0, ".bias", name);
    PB_TRY(take_vector(loading, name, n, &bias, err));
    norm->bias = bias;
    return PB_OK;
}

/* ---- attention ------------------------------------------------------------------------------------------------------------- */

static const void *element(const pb_matrix *m, int64_t at) {
    return (const char *)m->data + at * (int64_t)pb_stored_size(m->type);
}

/* n outputs of a fused map, from output `first` on: blocks of `block` that begin `stride` apart. */
static pb_status split(pb_loading *loading, const pb_matrix *fused, int64_t first, int64_t n, int64_t block,
                       int64_t stride, pb_matrix *out, pb_error *err) {
    pb_matrix m = *fused;
    m.out = n;
    m.block = block;
    m.block_stride = n == block ? 0 : stride;
    m.data = element(fused, fused->in_major ? first : first * fused->ld);
    m.bias = NULL;
    if (fused->bias) {
        float *bias;
        PB_TRY(own_floats(loading, (size_t)n, "a bias", &bias, err));
        for (int64_t o = 0; o < n; o++)
            bias[o] = fused->bias[first + o / block * stride + o % block];
        m.bias = bias;
        pb_origin origin;
        if (pb_model_origin(loading->model, fused->bias, &origin))
            PB_TRY(pb_origin_note(loading->model, bias, n,
                                  (pb_origin){origin.weight, origin.first + first, block, stride}, err));
    }
    *out = m;
    return PB_OK;
}

static pb_status bind_fused_qkv(pb_loading *loading, int i, pb_error *err) {
    const pb_spec *spec = loading->spec;
    pb_layer *layer = &spec->layer[i];
    int64_t d = spec->d_head, q = (int64_t)spec->heads * d, kv = (int64_t)spec->kv_heads * d;
    pb_matrix fused;
    PB_TRY(take_linear(loading, i, loading->names.qkv, 0, spec->d_model, q + 2 * kv, loading->qkv_bias, &fused, err));
    if (loading->family->qkv != PB_QKV_GROUPED) {
        PB_TRY(split(loading, &fused, 0, q, q, 0, &layer->q, err));
        PB_TRY(split(loading, &fused, q, kv, kv, 0, &layer->k, err));
        return split(loading, &fused, q + kv, kv, kv, 0, &layer->v, err);
    }
    int64_t group = q / spec->kv_heads, stride = group + 2 * d; /* outputs of a group: its query heads, one k, one v */
    PB_TRY(split(loading, &fused, 0, q, group, stride, &layer->q, err));
    PB_TRY(split(loading, &fused, group, kv, d, stride, &layer->k, err));
    return split(loading, &fused, group + d, kv, d, stride, &layer->v, err);
}

/* One norm of q or k, whichever way the family shares it among heads. */
static pb_status bind_qk_norm(pb_loading *loading, int i, const char *part, int heads, pb_norm_weights *norm,
                              pb_error *err) {
    const pb_family *family = loading->family;
    char name[NAME_MAX_LENGTH];
    int64_t d = loading->spec->d_head;
    int64_t n = loading->spec->qk_norm == PB_QK_NORM_SHARED ? d : heads * d;
    float *weight, *bias;
    PB_TRY(own_floats(loading, (size_t)n, "a norm of q and k", &weight, err));
    if (family->qk_norm_split) {
        for (int h = 0; h < heads; h++) {
            make_name(loading, i, part, h, ".weight", name);
            PB_TRY(take_vector_into(loading, name, d, weight + h * d, err));
        }
    } else {
        make_name(loading, i, part, 0, ".weight", name);
        pb_weight *stored;
        int64_t two[2] = {heads, d};
        bool per_head = loading->spec->qk_norm == PB_QK_NORM_PER_HEAD;
        PB_TRY(take(loading, name, per_head ? 2 : 1, per_head ? two : &n, &stored, err));
        pb_widen(stored->entry->type, stored->entry->data, 0, (size_t)n, weight);
        PB_TRY(note(loading, weight, n, stored, err));
    }
    if (family->norm_plus_one)
        pb_origin_add(loading->model, weight, n, 1.0f);
    *norm = (pb_norm_weights){weight, NULL};
    if (family->qk_norm_bias) {
        make_name(loading, i, part, 0, ".bias", name);
        PB_TRY(take_vector(loading, name, n, &bias, err));
        norm->bias = bias;
    }
    return PB_OK;
}

static pb_status bind_attention(pb_loading *loading, int i, pb_error *err) {
    const pb_spec *spec = loading->spec;
    const pb_weight_names *names = &loading->names;
    pb_layer *layer = &spec->layer[i];
    int64_t d = spec->d_model, q = (int64_t)spec->heads * spec->d_head, kv = (int64_t)spec->kv_heads * spec->d_head;
    if (loading->family->qkv == PB_QKV_SEPARATE) {
        PB_TRY(take_linear(loading, i, names->q, 0, d, q, loading->qkv_bias, &layer->q, err));
        PB_TRY(take_linear(loading, i, names->k, 0, d, kv, loading->qkv_bias, &layer->k, err));
        PB_TRY(take_linear(loading, i, names->v, 0, d, kv, loading->qkv_bias, &layer->v, err));
    } else {
        PB_TRY(bind_fused_qkv(loading, i, err));
    }
    if (spec->qk_norm != PB_QK_NORM_NONE) {
        PB_TRY(bind_qk_norm(loading, i, names->q_norm, spec->heads, &layer->q_norm, err));
        PB_TRY(bind_qk_norm(loading, i, names->k_norm, spec->kv_heads, &layer->k_norm, err));
    }
    return take_linear(loading, i, names->o, 0, q, d, loading->o_bias, &layer->o, err);
}

/* ---- mlp --------------------------------------------------------------------------------------------------------------------- */

static pb_status bind_experts(pb_loading *loading, int i, pb_error *err) {
    const pb_spec *spec = loading->spec;
    const pb_weight_names *names = &loading->names;
    pb_layer *layer = &spec->layer[i];
    size_t n = (size_t)spec->experts;
    pb_matrix *all = pb_model_own(loading->model, 3 * n, sizeof *all);
    if (!all)
        return pb_fail_memory(err, loading->ctx, 3 * n * sizeof *all, "the experts");
    PB_TRY(take_linear(loading, i, names->router, 0, spec->d_model, spec->experts, false, &layer->router, err));
    for (int e = 0; e < spec->experts; e++) {
        PB_TRY(
            take_linear(loading, i, names->expert_in, e, spec->d_model, spec->d_mlp, loading->mlp_bias, &all[e], err));
        PB_TRY(take_linear(loading, i, names->expert_linear, e, spec->d_model, spec->d_mlp, loading->mlp_bias,
                           &all[n + (size_t)e], err));
        PB_TRY(take_linear(loading, i, names->expert_out, e, spec->d_mlp, spec->d_model, loading->mlp_bias,
                           &all[2 * n + (size_t)e], err));
    }
    layer->expert_in = all;
    layer->expert_linear = all + n;
    layer->expert_out = all + 2 * n;
    return PB_OK;
}

static pb_status bind_mlp(pb_loading *loading, int i, pb_error *err) {
    const pb_spec *spec = loading->spec;
    const pb_weight_names *names = &loading->names;
    pb_layer *layer = &spec->layer[i];
    int64_t d = spec->d_model, m = spec->d_mlp;
    if (spec->experts)
        return bind_experts(loading, i, err);
    if (names->mlp_gate_up) {
        pb_matrix both;
        PB_TRY(take_linear(loading, i, names->mlp_gate_up, 0, d, 2 * m, loading->mlp_bias, &both, err));
        PB_TRY(split(loading, &both, 0, m, m, 0, &layer->mlp_in, err));
        PB_TRY(split(loading, &both, m, m, m, 0, &layer->mlp_linear, err));
    } else {
        PB_TRY(take_linear(loading, i, names->mlp_in, 0, d, m, loading->mlp_bias, &layer->mlp_in, err));
        if (spec->gated)
            PB_TRY(take_linear(loading, i, names->mlp_linear, 0, d, m, loading->mlp_bias, &layer->mlp_linear, err));
    }
    return take_linear(loading, i, names->mlp_out, 0, m, d, loading->mlp_bias, &layer->mlp_out, err);
}

/* ---- the whole model -------------------------------------------------------------------------------------------------------- */

static pb_status bind_layer(pb_loading *loading, int i, pb_error *err) {
    const pb_spec *spec = loading->spec;
    const pb_weight_names *names = &loading->names;
    pb_layer *layer = &spec->layer[i];
    bool second = spec->block != PB_BLOCK_PARALLEL_SHARED;
    PB_TRY(take_norm(loading, i, names->ln1, spec->d_model, &layer->ln1, err));
    PB_TRY(take_norm(loading, i, names->ln1_post, spec->d_model, &layer->ln1_post, err));
    PB_TRY(take_norm(loading, i, second ? names->ln2 : NULL, spec->d_model, &layer->ln2, err));
    PB_TRY(take_norm(loading, i, names->ln2_post, spec->d_model, &layer->ln2_post, err));
    PB_TRY(bind_attention(loading, i, err));
    return bind_mlp(loading, i, err);
}

/* Of two weights in files: piece by piece, so that large tables are never resident whole. */
static bool same_contents(const pb_weight *a, const pb_weight *b) {
    enum { PIECE = 8 << 20 };
    const char *x = a->entry->data, *y = b->entry->data;
    size_t bytes = a->entry->bytes;
    bool same = true;
    for (size_t at = 0; at < bytes && same; at += PIECE) {
        size_t n = bytes - at < PIECE ? bytes - at : PIECE;
        same = memcmp(x + at, y + at, n) == 0;
        pb_source_release(a->source, x + at, n);
        pb_source_release(b->source, y + at, n);
    }
    return same;
}

/* Tied, but the checkpoint has an unembedding too: when it differs, the checkpoint is right (transformers 5 does so). */
static bool really_tied(pb_loading *loading, const char *name) {
    pb_weight *other = pb_files_find(loading->model, name);
    if (!loading->tied || !other)
        return loading->tied;
    char embed[NAME_MAX_LENGTH];
    make_name(loading, -1, loading->names.embed, 0, ".weight", embed);
    const pb_weight *table = pb_files_find(loading->model, embed);
    const pb_entry *a = table->entry, *b = other->entry;
    /* Tensors in memory may change: two that are equal now are not one. */
    bool memory = pb_source_is_memory(table->source) || pb_source_is_memory(other->source);
    bool same =
        a->type == b->type && a->bytes == b->bytes && (a->data == b->data || (!memory && same_contents(table, other)));
    if (same)
        other->used = other->is_copy = true;
    else if (!memory)
        pb_context_warn(
            loading->ctx,
            "%s: config.json ties '%s' to the embedding, but the file has different values for it: those are used",
            other->source->name, name);
    return same;
}

static pb_status bind_unembed(pb_loading *loading, pb_error *err) {
    pb_spec *spec = loading->spec;
    char name[NAME_MAX_LENGTH];
    make_name(loading, -1, loading->names.unembed, 0, ".weight", name);
    if (!really_tied(loading, name))
        return take_linear(loading, -1, loading->names.unembed, 0, spec->d_embed, spec->vocab, loading->unembed_bias,
                           &spec->unembed, err);
    spec->unembed = spec->embed;
    if (loading->unembed_bias) {
        float *bias;
        make_name(loading, -1, loading->names.unembed, 0, ".bias", name);
        PB_TRY(take_vector(loading, name, spec->vocab, &bias, err));
        spec->unembed.bias = bias;
    }
    return PB_OK;
}

/* How a multimodal model's names begin: the hub's way, or that of transformers since version 4.52; text weights alone have none. */
static void find_wrapping(pb_loading *loading) {
    static const char *const ways[][2] = {{"language_model.", NULL}, {NULL, "model.language_model."}};
    char name[NAME_MAX_LENGTH];
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        loading->outer = ways[i][0];
        loading->outer_model = ways[i][1];
        make_name(loading, -1, loading->names.embed, 0, ".weight", name);
        if (pb_files_find(loading->model, name))
            return;
    }
    loading->outer = loading->outer_model = NULL;
}

/* Whether names have the family's prefix; the embedding tells. */
static pb_status find_prefix(pb_loading *loading, pb_error *err) {
    char with[NAME_MAX_LENGTH], without[NAME_MAX_LENGTH];
    if (loading->wrapped)
        find_wrapping(loading);
    make_name(loading, -1, loading->names.embed, 0, ".weight", with);
    if (pb_files_find(loading->model, with) || !loading->family->prefix)
        return PB_OK;
    loading->bare_names = true;
    make_name(loading, -1, loading->names.embed, 0, ".weight", without);
    if (pb_files_find(loading->model, without))
        return PB_OK;
    loading->bare_names = false;
    return pb_fail(err, PB_ERR_FORMAT,
                   "the weights have neither '%s' nor '%s', the embedding of a %s model; they begin with '%.100s'",
                   with, without, loading->family->model_type,
                   loading->model->n_weights ? loading->model->weights[0].entry->name : "nothing");
}

static pb_status bind_outer(pb_loading *loading, pb_error *err) {
    pb_spec *spec = loading->spec;
    const pb_weight_names *names = &loading->names;
    PB_TRY(take_linear(loading, -1, names->embed, 0, spec->d_embed, spec->vocab, false, &spec->embed, err));
    if (spec->position == PB_POSITION_LEARNED) {
        int64_t rows = (int64_t)spec->max_positions + spec->position_offset;
        PB_TRY(take_linear(loading, -1, names->pos_embed, 0, spec->d_model, rows, false, &spec->pos_embed, err));
    }
    if (spec->d_embed != spec->d_model) {
        PB_TRY(take_linear(loading, -1, names->project_in, 0, spec->d_embed, spec->d_model, false, &spec->project_in,
                           err));
        PB_TRY(take_linear(loading, -1, names->project_out, 0, spec->d_model, spec->d_embed, false, &spec->project_out,
                           err));
    }
    PB_TRY(take_norm(loading, -1, names->embed_norm, spec->d_model, &spec->embed_norm, err));
    PB_TRY(take_norm(loading, -1, spec->has_final_norm ? names->ln_final : NULL, spec->d_model, &spec->ln_final, err));
    return bind_unembed(loading, err);
}

/* Names of buffers that old versions stored with each layer: computed now, so their values do not matter. */
static bool is_buffer(const pb_loading *loading, const char *name) {
    char known[NAME_MAX_LENGTH];
    for (int i = 0; i < loading->spec->layers; i++) {
        make_name(loading, i, "", 0, NULL, known);
        if (strncmp(name, known, strlen(known)) != 0)
            continue;
        for (int b = 0; b < PB_FAMILY_BUFFERS && loading->family->buffers[b]; b++) {
            if (strcmp(name + strlen(known), loading->family->buffers[b]) == 0)
                return true;
        }
    }
    return false;
}

/* Weights of a multimodal model's other parts. */
static bool is_other_part(const pb_loading *loading, const char *name) {
    static const char *const parts[] = {"vision_tower.", "multi_modal_projector."};
    const char *inner = strncmp(name, "model.", 6) == 0 ? name + 6 : name;
    for (size_t i = 0; loading->wrapped && i < sizeof parts / sizeof parts[0]; i++) {
        if (strncmp(inner, parts[i], strlen(parts[i])) == 0)
            return true;
    }
    return false;
}

static pb_status check_left_over(const pb_loading *loading, pb_error *err) {
    const pb_model *model = loading->model;
    size_t left = 0, first = 0;
    for (size_t i = model->n_weights; i-- > 0;) {
        const char *name = model->weights[i].entry->name;
        if (!model->weights[i].used && !is_buffer(loading, name) && !is_other_part(loading, name)) {
            first = i;
            left++;
        }
    }
    if (!left)
        return PB_OK;
    char more[64] = "";
    if (left > 1)
        snprintf(more, sizeof more, " and %zu more", left - 1);
    return pb_fail(err, PB_ERR_FORMAT,
                   "%s: tensor '%.200s'%s is left over: a %s model with the %d layers and the switches of config.json "
                   "has no such weight",
                   file_of(&model->weights[first]), model->weights[first].entry->name, more,
                   loading->family->model_type, loading->spec->layers);
}

pb_status pb_weights_bind(pb_loading *loading, pb_error *err) {
    PB_TRY(find_prefix(loading, err));
    PB_TRY(bind_outer(loading, err));
    for (int i = 0; i < loading->spec->layers; i++)
        PB_TRY(bind_layer(loading, i, err));
    return check_left_over(loading, err);
}
