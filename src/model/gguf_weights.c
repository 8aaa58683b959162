/* GGUF's tensors as those of a Hugging Face checkpoint: names by the family's row, layouts turned back to what they were before
 * llama.cpp's converter changed them. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf.h"

enum { NAME_LENGTH = 256 };

/* ---- names ------------------------------------------------------------------------------------------------------------ */

#define PART(gguf, field)                                                                                              \
    { gguf, offsetof(pb_weight_names, field) }
typedef struct part {
    const char *gguf;
    size_t field; /* of pb_weight_names */
} part;

static const part outer_parts[] = {
    PART("token_embd", embed),     PART("position_embd", pos_embed), PART("token_embd_norm", embed_norm),
    PART("output_norm", ln_final), PART("output", unembed),
};
static const part layer_parts[] = {
    PART("attn_norm", ln1),
    PART("ffn_norm", ln2),
    PART("post_attention_norm", ln1_post),
    PART("post_ffw_norm", ln2_post),
    PART("attn_q_norm", q_norm),
    PART("attn_k_norm", k_norm),
    PART("attn_q", q),
    PART("attn_k", k),
    PART("attn_v", v),
    PART("attn_qkv", qkv),
    PART("attn_output", o),
    PART("ffn_up", mlp_in),
    PART("ffn_down", mlp_out),
    PART("ffn_gate_inp", router),
    PART("ffn_gate_exps", expert_in),
    PART("ffn_up_exps", expert_linear),
    PART("ffn_down_exps", expert_out),
};
/* In a gated mlp the branch with the activation is called gate. */
static const part gated_parts[] = {PART("ffn_gate", mlp_in), PART("ffn_up", mlp_linear)};
static const part fused_parts[] = {PART("ffn_up", mlp_gate_up)};

static const char *find_part(const part *parts, size_t n, const pb_weight_names *names, const char *gguf) {
    for (size_t i = 0; i < n; i++) {
        if (strcmp(parts[i].gguf, gguf) == 0)
            return *(const char *const *)(const void *)((const char *)names + parts[i].field);
    }
    return NULL;
}
#define FIND(parts, names, gguf) find_part(parts, sizeof(parts) / sizeof((parts)[0]), names, gguf)

static const char *layer_part(const pb_gguf_model *model, const char *gguf) {
    const pb_family *family = model->family;
    const pb_weight_names *names = &family->names;
    if (strcmp(family->model_type, "falcon") == 0 && pb_gguf_has(model, "blk.0.attn_norm_2.weight")) {
        if (strcmp(gguf, "attn_norm_2") == 0)
            return "ln_attn";
        if (strcmp(gguf, "attn_norm") == 0)
            return "ln_mlp";
    }
    const char *found = names->mlp_gate_up ? FIND(fused_parts, names, gguf)
                        : family->gated    ? FIND(gated_parts, names, gguf)
                                           : NULL;
    return found ? found : FIND(layer_parts, names, gguf);
}

/* A name taken apart: "blk.3.attn_q.weight" -> 3, what the family calls the part (may hold "%d"), ".weight". False: the family
 * has no such weight. */
typedef struct weight_name {
    int layer; /* -1: none */
    char gguf[NAME_LENGTH];
    const char *part, *suffix;
} weight_name;

static bool parse_name(const pb_gguf_model *model, const char *name, weight_name *out) {
    const char *rest = name;
    out->layer = -1;
    if (strncmp(name, "blk.", 4) == 0) {
        char *end;
        unsigned long layer = strtoul(name + 4, &end, 10);
        if (end == name + 4 || *end != '.' || layer >= (unsigned long)model->layers)
            return false;
        out->layer = (int)layer;
        rest = end + 1;
    }
    out->suffix = strrchr(rest, '.');
    if (!out->suffix || (strcmp(out->suffix, ".weight") != 0 && strcmp(out->suffix, ".bias") != 0))
        return false;
    snprintf(out->gguf, sizeof out->gguf, "%.*s", (int)(out->suffix - rest), rest);
    out->part = out->layer >= 0 ? layer_part(model, out->gguf) : FIND(outer_parts, &model->family->names, out->gguf);
    return out->part != NULL;
}

/* Writes pattern with its "%d" replaced, if it has one. */
static void add(char *name, const char *pattern, int number) {
    size_t used = strlen(name);
    const char *mark = strstr(pattern, "%d");
    if (mark)
        snprintf(name + used, NAME_LENGTH - used, "%.*s%d%s", (int)(mark - pattern), pattern, number, mark + 2);
    else
        snprintf(name + used, NAME_LENGTH - used, "%s", pattern);
}

/* One more entry, a copy of `like` (its name aside). index: replaces "%d" in the part's name. */
static pb_status append(pb_gguf_model *model, const weight_name *name, int index, const pb_entry *like, pb_entry **out,
                        pb_error *err) {
    if (model->count == model->capacity) {
        size_t more = model->capacity ? 2 * model->capacity : 64;
        pb_entry *entries = pb_realloc(model->ctx, model->entries, more, sizeof *entries);
        model->entries = entries ? entries : model->entries;
        char **names = entries ? pb_realloc(model->ctx, model->names, more, sizeof *names) : NULL;
        model->names = names ? names : model->names;
        void **copies = names ? pb_realloc(model->ctx, model->copies, more, sizeof *copies) : NULL;
        if (!copies)
            return pb_fail_memory(err, model->ctx, more * sizeof *entries, "a file's list of tensors");
        model->copies = copies;
        model->capacity = more;
    }
    char text[NAME_LENGTH] = "";
    if (name->layer >= 0)
        add(text, model->family->names.layer, name->layer);
    add(text, name->part, index);
    add(text, name->suffix, 0);
    char *kept = pb_strdup(model->ctx, text);
    if (!kept)
        return pb_fail_memory(err, model->ctx, strlen(text) + 1, "a tensor's name");
    model->names[model->count] = kept;
    model->copies[model->count] = NULL;
    *out = &model->entries[model->count++];
    **out = *like;
    (*out)->name = kept;
    return PB_OK;
}

/* ---- layouts ---------------------------------------------------------------------------------------------------------- */

/* How the rows of a tensor were moved. */
typedef enum layout {
    AS_IT_IS,
    INTERLEAVED, /* halves of a head's rows: 0 1 2 | 3 4 5 became 0 3 1 4 2 5 */
    UNGROUPED,   /* groups of query heads, k and v became all of q, all of k, all of v */
    TURNED       /* rows became columns */
} layout;

static layout layout_of(const pb_gguf_model *model, const weight_name *name) {
    const pb_family *family = model->family;
    bool q = strcmp(name->gguf, "attn_q") == 0, k = strcmp(name->gguf, "attn_k") == 0;
    if (model->arch->interleaved && (q || k))
        return INTERLEAVED;
    if (family->qkv == PB_QKV_GROUPED && strcmp(name->gguf, "attn_qkv") == 0)
        return UNGROUPED;
    bool matrix = name->part == family->names.qkv || name->part == family->names.o ||
                  name->part == family->names.mlp_in || name->part == family->names.mlp_out;
    return family->in_major && matrix && strcmp(name->suffix, ".weight") == 0 ? TURNED : AS_IT_IS;
}

/* Where row `row` of the checkpoint's tensor is in the file's. */
static int64_t row_in_file(const pb_gguf_model *model, layout how, int64_t row) {
    int64_t d = model->d_head, in_head = row % d;
    if (how == INTERLEAVED)
        return row - in_head + (in_head < d / 2 ? 2 * in_head : 2 * (in_head - d / 2) + 1);
    if (how == UNGROUPED) {
        int64_t queries = model->heads / model->kv_heads, head = row / d;
        int64_t group = head / (queries + 2), place = head % (queries + 2);
        int64_t there = place < queries    ? group * queries + place
                        : place == queries ? model->heads + group
                                           : model->heads + model->kv_heads + group;
        return there * d + in_head;
    }
    return row;
}

/* Rows that the layout can be undone for; the shapes themselves are compared with the configuration later. */
static bool rows_fit(const pb_gguf_model *model, layout how, int64_t rows) {
    int64_t d = model->d_head;
    if (how == INTERLEAVED)
        return rows % d == 0 && d % 2 == 0;
    return how != UNGROUPED || rows == (model->heads + 2 * model->kv_heads) * d;
}

/* A tensor as rows: a vector has rows of one number. */
typedef struct table {
    int64_t rows, columns;
    size_t row_bytes; /* in the file */
    size_t size;      /* of a number when it is copied */
    bool q8;
    const unsigned char *data;
} table;

static table table_of(const pb_entry *entry) {
    table t = {.rows = 1, .columns = 1, .q8 = pb_entry_is_q8_0(entry), .data = entry->data};
    bool vector = entry->ndim <= 1 && !pb_entry_is_q8_0(entry);
    for (int i = 0; i < entry->ndim; i++) {
        if (i + 1 < entry->ndim || vector)
            t.rows *= entry->shape[i];
        else
            t.columns = entry->shape[i];
    }
    t.size = t.q8 ? sizeof(float) : pb_stored_size(entry->type);
    t.row_bytes = entry->bytes / (size_t)t.rows;
    return t;
}

/* A row as it is copied: the file's bytes, or `wide` filled with the numbers of Q8_0. */
static const unsigned char *row_at(const table *t, int64_t row, float *wide) {
    const unsigned char *at = t->data + (size_t)row * t->row_bytes;
    if (!t->q8)
        return at;
    pb_widen_q8_0(at, 0, (size_t)t->columns, wide);
    return (const unsigned char *)wide;
}

static void copy_rows(const pb_gguf_model *model, const table *t, layout how, unsigned char *out, float *wide) {
    size_t bytes = (size_t)t->columns * t->size;
    for (int64_t row = 0; row < t->rows; row++)
        memcpy(out + (size_t)row * bytes, row_at(t, row_in_file(model, how, row), wide), bytes);
}

static void copy_turned(const table *t, unsigned char *out, float *wide) {
    for (int64_t row = 0; row < t->rows; row++) {
        const unsigned char *from = row_at(t, row, wide);
        unsigned char *to = out + (size_t)row * t->size;
        for (int64_t column = 0; column < t->columns; column++)
            memcpy(to + (size_t)(column * t->rows) * t->size, from + (size_t)column * t->size, t->size);
    }
}

/* Puts a copy in the place of an entry's data. */
static pb_status relay(pb_gguf_model *model, pb_entry *entry, layout how, pb_error *err) {
    table t = table_of(entry);
    if (!rows_fit(model, how, t.rows))
        return pb_fail(err, PB_ERR_FORMAT,
                       "%s: tensor of '%s' has %lld rows, which do not fit %lld heads, %lld key/value heads of %lld "
                       "dimensions",
                       model->path, entry->name, (long long)t.rows, (long long)model->heads, (long long)model->kv_heads,
                       (long long)model->d_head);
    size_t numbers = (size_t)t.rows * (size_t)t.columns;
    unsigned char *out = pb_alloc(model->ctx, numbers, t.size);
    float *wide = t.q8 ? pb_alloc(model->ctx, (size_t)t.columns, sizeof *wide) : NULL;
    if (!out || (t.q8 && !wide)) {
        pb_free(out);
        pb_free(wide);
        return pb_fail_memory(err, model->ctx, numbers * t.size,
                              t.q8 ? "a weight of a GGUF file, widened from Q8_0"
                                   : "a weight of a GGUF file, rearranged");
    }
    if (how == TURNED)
        copy_turned(&t, out, wide);
    else
        copy_rows(model, &t, how, out, wide);
    pb_free(wide);
    model->copies[entry - model->entries] = out;
    entry->data = out;
    entry->bytes = numbers * t.size;
    if (t.q8) {
        entry->type = PB_STORED_F32;
        entry->dtype = "F32";
    }
    if (how == TURNED) {
        entry->shape[0] = t.columns;
        entry->shape[1] = t.rows;
    }
    return PB_OK;
}

/* Gemma's norms lie in the file with 1 added; for all weights from a half on, taking it off and adding it again when the
 * weight is bound gives the file's number. */
static pb_status subtract_one(pb_gguf_model *model, pb_entry *entry, pb_error *err) {
    size_t n = entry->bytes / pb_stored_size(entry->type);
    float *out = pb_alloc(model->ctx, n, sizeof *out);
    if (!out)
        return pb_fail_memory(err, model->ctx, n * sizeof *out, "a norm of a GGUF file");
    pb_widen(entry->type, entry->data, 0, n, out);
    for (size_t i = 0; i < n; i++)
        out[i] -= 1.0f;
    model->copies[entry - model->entries] = out;
    entry->data = out;
    entry->bytes = n * sizeof *out;
    entry->type = PB_STORED_F32;
    entry->dtype = "F32";
    return PB_OK;
}

/* ---- tensors ---------------------------------------------------------------------------------------------------------- */

static bool is_norm(const weight_name *name) {
    size_t length = strlen(name->gguf);
    return length >= 4 && strcmp(name->gguf + length - 4, "norm") == 0;
}

static pb_status lay_out(pb_gguf_model *model, const weight_name *name, pb_entry *entry, pb_error *err) {
    layout how = layout_of(model, name);
    bool floats = entry->type == PB_STORED_F32 || entry->type == PB_STORED_F16 || entry->type == PB_STORED_BF16;
    if (how == TURNED && entry->ndim != 2)
        return pb_fail(err, PB_ERR_FORMAT, "%s: the tensor of '%s' has %d axes; 2 were expected", model->path,
                       entry->name, entry->ndim);
    if (model->family->norm_plus_one && is_norm(name))
        return floats ? subtract_one(model, entry, err)
                      : pb_fail(err, PB_ERR_UNSUPPORTED, "%s: the norm '%s' is stored as %s; F32 was expected",
                                model->path, entry->name, entry->dtype);
    return how != AS_IT_IS || pb_entry_is_q8_0(entry) ? relay(model, entry, how, err) : PB_OK;
}

/* One tensor of the file: one weight, or one for each head or expert along its first axis. */
static pb_status translate(pb_gguf_model *model, const pb_entry *stored, pb_error *err) {
    static const char *const read_elsewhere[] = {"rope_freqs.weight", "rope_factors_long.weight",
                                                 "rope_factors_short.weight"};
    for (size_t i = 0; i < sizeof read_elsewhere / sizeof read_elsewhere[0]; i++) {
        if (strcmp(stored->name, read_elsewhere[i]) == 0)
            return PB_OK;
    }
    weight_name name;
    pb_entry *entry = NULL;
    if (!parse_name(model, stored->name, &name))
        return pb_fail(err, PB_ERR_UNSUPPORTED,
                       "%s: tensor '%.200s' is left over: a %s model with %lld layers has none", model->path,
                       stored->name, model->family->model_type, (long long)model->layers);
    if (!strstr(name.part, "%d")) {
        PB_TRY(append(model, &name, 0, stored, &entry, err));
        return lay_out(model, &name, entry, err);
    }
    if (stored->ndim < 2 || stored->shape[0] > 1 << 16)
        return pb_fail(err, PB_ERR_FORMAT, "%s: tensor '%.200s' has no axis of heads or experts", model->path,
                       stored->name);
    pb_entry one = *stored;
    one.ndim--;
    memmove(one.shape, one.shape + 1, (size_t)one.ndim * sizeof one.shape[0]);
    one.bytes = stored->bytes / (size_t)stored->shape[0];
    for (int i = 0; i < (int)stored->shape[0]; i++) {
        PB_TRY(append(model, &name, i, &one, &entry, err));
        entry->data = (const char *)stored->data + (size_t)i * one.bytes;
        PB_TRY(lay_out(model, &name, entry, err));
    }
    return PB_OK;
}

static pb_status open_file(pb_gguf_model *model, pb_error *err) {
    if (!model->path)
        return pb_fail_memory(err, model->ctx, 0, "a path");
    PB_TRY(pb_gguf_open(model->ctx, model->path, &model->file, err));
    PB_TRY(pb_gguf_identify(model, err));
    for (size_t i = 0; i < pb_gguf_count(model->file); i++) {
        PB_TRY(pb_context_check(model->ctx, err));
        PB_TRY(translate(model, pb_gguf_at(model->file, i), err));
    }
    return PB_OK;
}

pb_status pb_gguf_model_open(pb_context *ctx, const char *path, pb_gguf_model **out, pb_error *err) {
    pb_gguf_model *model = pb_alloc_zero(ctx, 1, sizeof *model);
    if (!model)
        return pb_fail_memory(err, ctx, sizeof *model, path);
    model->ctx = ctx;
    model->path = pb_strdup(ctx, path);
    pb_status status = open_file(model, err);
    if (status == PB_OK)
        *out = model;
    else
        pb_gguf_model_close(model);
    return status;
}

void pb_gguf_model_close(pb_gguf_model *model) {
    if (!model)
        return;
    for (size_t i = 0; i < model->count; i++) {
        pb_free(model->copies[i]);
        pb_free(model->names[i]);
    }
    pb_free(model->copies);
    pb_free(model->names);
    pb_free(model->entries);
    pb_gguf_close(model->file);
    pb_free(model->path);
    pb_free(model);
}
