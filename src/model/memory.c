/* Models whose weights are tensors in memory: made from a configuration, or from another model with some weights replaced. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/suggest.h"
#include "model/loading.h"

static const char suffix[] = " (edited)";

typedef struct request {
    const pb_model *base; /* NULL: every weight is given */
    const pb_named_tensor *given;
    size_t n;
} request;

static pb_status reserve(pb_model *model, size_t sources, size_t weights, pb_error *err) {
    model->sources = pb_alloc(model->ctx, sources, sizeof *model->sources);
    model->weights = weights ? pb_alloc(model->ctx, weights, sizeof *model->weights) : NULL;
    if (!model->sources || (weights && !model->weights))
        return pb_fail_memory(err, model->ctx, sources * sizeof *model->sources, "the list of weights");
    return PB_OK;
}

/* ---- sharing of memory ----------------------------------------------------------------------------------------------- */

static int by_address(const void *a, const void *b) {
    const pb_weight *x = *(const pb_weight *const *)a, *y = *(const pb_weight *const *)b;
    if (x->entry->data == y->entry->data)
        return strcmp(x->entry->name, y->entry->name);
    return (uintptr_t)x->entry->data < (uintptr_t)y->entry->data ? -1 : 1;
}

/* Tensors of two weights must not lie on each other: gradients and changes could not tell them apart. */
static pb_status check_apart(const pb_model *model, pb_error *err) {
    const pb_weight **sorted = pb_alloc(model->ctx, model->n_weights, sizeof *sorted);
    if (!sorted)
        return pb_fail_memory(err, model->ctx, model->n_weights * sizeof *sorted, "the list of weights");
    size_t n = 0;
    for (size_t i = 0; i < model->n_weights; i++) {
        const pb_weight *weight = &model->weights[i];
        if (pb_source_is_memory(weight->source) && !weight->is_copy && weight->entry->bytes)
            sorted[n++] = weight;
    }
    if (n > 1)
        qsort(sorted, n, sizeof *sorted, by_address);
    pb_status status = PB_OK;
    for (size_t i = 1; i < n && status == PB_OK; i++) {
        const pb_entry *a = sorted[i - 1]->entry, *b = sorted[i]->entry;
        if ((uintptr_t)b->data < (uintptr_t)a->data + a->bytes)
            status = pb_fail(err, PB_ERR_ARGUMENT,
                             "weights '%.150s' and '%.150s' share memory, so that gradients and changes could not tell "
                             "them apart; clone one of the tensors",
                             a->name, b->name);
    }
    pb_free(sorted);
    return status;
}

/* ---- from a configuration ------------------------------------------------------------------------------------------------ */

static pb_status list_given(pb_loading *loading, void *user, pb_error *err) {
    const request *r = user;
    pb_model *model = loading->model;
    PB_TRY(reserve(model, r->n, 0, err));
    for (size_t i = 0; i < r->n; i++) {
        PB_TRY(pb_source_of_tensor(loading->ctx, r->given[i].name, r->given[i].tensor, &model->sources[i], err));
        model->n_sources++;
    }
    pb_status status = pb_files_list(loading, err);
    for (size_t i = 1; status != PB_OK && status != PB_ERR_MEMORY && i < model->n_weights; i++) {
        if (strcmp(model->weights[i - 1].entry->name, model->weights[i].entry->name) == 0)
            return pb_fail(err, PB_ERR_ARGUMENT, "weight '%.200s' is given twice", model->weights[i].entry->name);
    }
    return status;
}

pb_status pb_model_create(pb_context *ctx, const pb_model_parts *parts, pb_model **out, pb_error *err) {
    pb_model *model = NULL;
    request r = {NULL, parts->weights, parts->n_weights};
    PB_TRY(pb_model_new(ctx, parts->folder ? parts->folder : "", parts->name ? parts->name : "made", &model, err));
    model->config_length = strlen(parts->config);
    model->config = pb_strdup(ctx, parts->config);
    pb_status status = model->config ? pb_model_build(model, "config", list_given, &r, err)
                                     : pb_fail_memory(err, ctx, model->config_length, "a configuration");
    if (status == PB_OK)
        status = check_apart(model, err);
    if (status != PB_OK) {
        pb_model_unref(model);
        return status;
    }
    model->tokenizer = parts->tokenizer ? pb_tokenizer_ref(parts->tokenizer) : NULL;
    *out = model;
    return PB_OK;
}

/* ---- from another model ---------------------------------------------------------------------------------------------------- */

static pb_status no_weight(const pb_model *base, const char *name, pb_error *err) {
    pb_suggestion near;
    pb_suggestion_begin(&near, name);
    for (size_t i = 0; i < base->n_weights; i++)
        pb_suggestion_offer(&near, base->weights[i].entry->name);
    return pb_fail(err, PB_ERR_ARGUMENT, "model '%s' has no weight '%.200s'%s%.200s%s", base->name, name,
                   near.best ? "; did you mean '" : "", near.best ? near.best : "", near.best ? "'?" : "");
}

/* The given tensor must fit the weight that it replaces. */
static pb_status check_given(const pb_model *base, const pb_named_tensor *given, const pb_weight **out, pb_error *err) {
    const pb_weight *old = pb_files_find(base, given->name);
    if (!old)
        return no_weight(base, given->name, err);
    if (!old->used)
        return pb_fail(err, PB_ERR_ARGUMENT,
                       "weight '%.200s' is a buffer that model '%s' does not read: replacing it would change nothing",
                       given->name, base->name);
    const pb_entry *entry = old->entry;
    int ndim = pb_tensor_ndim(given->tensor);
    const int64_t *shape = pb_tensor_shape(given->tensor);
    char have[256], want[256];
    if (ndim != entry->ndim || memcmp(shape, entry->shape, (size_t)ndim * sizeof *shape) != 0)
        return pb_fail(err, PB_ERR_ARGUMENT, "weight '%.200s' of model '%s' has shape %s; the given tensor has %s",
                       given->name, base->name, pb_shape_text(entry->ndim, entry->shape, want, sizeof want),
                       pb_shape_text(ndim, shape, have, sizeof have));
    if (pb_tensor_dtype(given->tensor) != PB_F32)
        return pb_fail(err, PB_ERR_ARGUMENT, "weight '%.200s' is given as an int32 tensor; weights are float32",
                       given->name);
    *out = old;
    return PB_OK;
}

/* The embedding's place in the list of a tied model: its copy, if one is stored, follows it. */
static size_t embedding_place(const pb_model *model) {
    for (size_t i = 0; i < model->n_weights; i++) {
        if (model->weights[i].entry->data == model->spec.embed.data && !model->weights[i].is_copy)
            return i;
    }
    return model->n_weights;
}

/* One more source; its reference is taken over. */
static void add_source(pb_model *model, pb_source *source) { model->sources[model->n_sources++] = source; }

static pb_status replace(pb_model *model, const request *r, pb_error *err) {
    const pb_model *base = r->base;
    for (size_t i = 0; i < r->n; i++) {
        const pb_weight *old = NULL;
        PB_TRY(check_given(base, &r->given[i], &old, err));
        pb_weight *weight = &model->weights[old - base->weights];
        if (weight->source != old->source)
            return pb_fail(err, PB_ERR_ARGUMENT, "weight '%.200s' is given twice", r->given[i].name);
        pb_source *source = NULL;
        PB_TRY(pb_source_of_tensor(model->ctx, r->given[i].name, r->given[i].tensor, &source, err));
        add_source(model, source);
        weight->source = source;
        weight->entry = source->entries[0];
    }
    size_t embedding = embedding_place(base);
    for (size_t i = 0; i < model->n_weights; i++) {
        pb_weight *weight = &model->weights[i];
        bool follows = base->weights[i].is_copy && weight->source == base->weights[i].source &&
                       embedding < model->n_weights &&
                       model->weights[embedding].source != base->weights[embedding].source;
        if (!follows)
            continue;
        pb_source *source = NULL;
        PB_TRY(pb_source_of_tensor(model->ctx, weight->entry->name, model->weights[embedding].source->tensor, &source,
                                   err));
        add_source(model, source);
        weight->source = source;
        weight->entry = source->entries[0];
    }
    return PB_OK;
}

static bool is_source(const pb_model *model, const pb_source *source) {
    for (size_t i = 0; i < model->n_sources; i++) {
        if (model->sources[i] == source)
            return true;
    }
    return false;
}

/* The base's list with the given weights in it, and the sources that still have one of its weights. */
static pb_status list_replaced(pb_loading *loading, void *user, pb_error *err) {
    const request *r = user;
    const pb_model *base = r->base;
    pb_model *model = loading->model;
    PB_TRY(reserve(model, base->n_sources + r->n + base->n_weights, base->n_weights, err));
    for (size_t i = 0; i < base->n_weights; i++)
        model->weights[i] = (pb_weight){.entry = base->weights[i].entry, .source = base->weights[i].source};
    model->n_weights = base->n_weights;
    PB_TRY(replace(model, r, err));
    for (size_t i = 0; i < base->n_sources; i++) {
        bool needed = false;
        for (size_t j = 0; j < model->n_weights && !needed; j++)
            needed = model->weights[j].source == base->sources[i];
        if (needed && !is_source(model, base->sources[i]))
            add_source(model, pb_source_ref(base->sources[i]));
    }
    return PB_OK;
}

static pb_status edited_name(const pb_model *base, char **out, pb_error *err) {
    size_t length = strlen(base->name), end = sizeof suffix - 1;
    bool edited = length >= end && strcmp(base->name + length - end, suffix) == 0;
    *out = pb_alloc(base->ctx, length + sizeof suffix, 1);
    if (!*out)
        return pb_fail_memory(err, base->ctx, length + sizeof suffix, "a model's name");
    snprintf(*out, length + sizeof suffix, "%s%s", base->name, edited ? "" : suffix);
    return PB_OK;
}

pb_status pb_model_with_weights(const pb_model *base, const pb_named_tensor *weights, size_t n, pb_model **out,
                                pb_error *err) {
    pb_model *model = NULL;
    char *name = NULL;
    request r = {base, weights, n};
    PB_TRY(edited_name(base, &name, err));
    pb_status status = pb_model_new(base->ctx, base->folder, name, &model, err);
    if (status != PB_OK)
        goto done;
    model->options = base->options;
    model->stream_choice = base->stream ? PB_STREAM_LIKE_BASE : PB_STREAM_IF_NEEDED;
    model->config_length = base->config_length;
    model->config = pb_strndup(base->ctx, base->config, base->config_length);
    status = model->config ? pb_model_build(model, "config.json", list_replaced, &r, err)
                           : pb_fail_memory(err, base->ctx, base->config_length, "a configuration");
    if (status == PB_OK)
        status = check_apart(model, err);
    if (status != PB_OK)
        goto done;
    model->tokenizer = base->tokenizer ? pb_tokenizer_ref(base->tokenizer) : NULL;
    *out = model;
    model = NULL;
done:
    pb_model_unref(model);
    pb_free(name);
    return status;
}
