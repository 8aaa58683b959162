/* A model: opening a folder, and what it says of itself. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "model/loading.h"
#include "model/tokenizer_internal.h"

enum { CONFIG_MAX = 16 << 20 };

/* ---- life ------------------------------------------------------------------------------------------------------------- */

void *pb_model_own(pb_model *model, size_t count, size_t size) {
    if (model->n_owned == model->cap_owned) {
        size_t more = model->cap_owned ? 2 * model->cap_owned : 64;
        void **owned = pb_realloc(model->ctx, model->owned, more, sizeof *owned);
        if (!owned)
            return NULL;
        model->owned = owned;
        model->cap_owned = more;
    }
    void *block = pb_alloc(model->ctx, count, size);
    if (block)
        model->owned[model->n_owned++] = block;
    return block;
}

pb_model *pb_model_ref(pb_model *model) {
    atomic_fetch_add_explicit(&model->references, 1, memory_order_relaxed);
    return model;
}

void pb_model_unref(pb_model *model) {
    if (!model || atomic_fetch_sub_explicit(&model->references, 1, memory_order_acq_rel) != 1)
        return;
    pb_stream_free(model);
    for (size_t i = 0; i < model->n_owned; i++)
        pb_free(model->owned[i]);
    pb_free(model->owned);
    pb_free(model->copied);
    for (size_t i = 0; i < model->n_sources; i++)
        pb_source_unref(model->sources[i]);
    pb_free(model->sources);
    pb_free(model->weights);
    pb_tokenizer_unref(model->tokenizer);
    pb_free(model->folder);
    pb_free(model->name);
    pb_free(model->config);
    pb_context *ctx = model->ctx;
    pb_free(model);
    pb_context_unref(ctx);
}

/* ---- opening ------------------------------------------------------------------------------------------------------------ */

static pb_status check_folder(const char *folder, pb_error *err) {
    if (pb_folder_exists(folder))
        return PB_OK;
    if (pb_file_exists(folder))
        return pb_fail(
            err, PB_ERR_ARGUMENT,
            "'%.500s' is a file; a model is a folder with config.json and model.safetensors, or a .gguf file", folder);
    char here[512];
    bool relative = folder[0] != '/';
    if (!relative || !getcwd(here, sizeof here))
        return pb_fail(err, PB_ERR_IO, "'%.500s': there is no such folder", folder);
    return pb_fail(err, PB_ERR_IO, "'%.500s': there is no such folder (looked for '%s/%.500s')", folder, here, folder);
}

pb_status pb_model_new(pb_context *ctx, const char *folder, const char *name, pb_model **out, pb_error *err) {
    pb_model *model = pb_alloc_zero(ctx, 1, sizeof *model);
    if (!model)
        return pb_fail_memory(err, ctx, sizeof *model, "a model");
    atomic_init(&model->references, 1);
    model->ctx = pb_context_ref(ctx);
    model->folder = pb_strdup(ctx, folder);
    model->name = pb_strdup(ctx, name);
    if (!model->folder || !model->name) {
        pb_model_unref(model);
        return pb_fail_memory(err, ctx, strlen(folder) + 1, "a model's name");
    }
    *out = model;
    return PB_OK;
}

/* A folder without slashes at its end, and its last part. */
static pb_status create(pb_context *ctx, const char *folder, pb_model **out, pb_error *err) {
    size_t length = strlen(folder);
    while (length > 1 && folder[length - 1] == '/')
        length--;
    char *path = pb_strndup(ctx, folder, length);
    if (!path)
        return pb_fail_memory(err, ctx, length + 1, "a model's name");
    pb_status status = pb_model_new(ctx, path, pb_path_name(path), out, err);
    pb_free(path);
    return status;
}

/* Goes on with the text model's configuration; what holds for the whole model is said outside. */
static pb_status unwrap(pb_loading *loading, pb_error *err) {
    static const char *const whole[] = {"tie_word_embeddings", "quantization_config"};
    const json_t *text;
    PB_TRY(pb_json_object(loading->config, loading->config_path, "text_config", &text, err));
    json_t *inner = json_copy((json_t *)(uintptr_t)text);
    bool failed = !inner;
    for (size_t i = 0; i < sizeof whole / sizeof whole[0] && inner; i++) {
        json_t *value = json_object_get(loading->config, whole[i]);
        if (value && !json_object_get(inner, whole[i]))
            failed = json_object_set(inner, whole[i], value) != 0 || failed;
    }
    if (failed) {
        json_decref(inner);
        return pb_fail_memory(err, loading->ctx, loading->model->config_length, "a configuration");
    }
    json_decref(loading->config);
    loading->config = inner;
    loading->wrapped = true;
    return PB_OK;
}

static pb_status find_family(pb_loading *loading, pb_error *err) {
    const char *type;
    PB_TRY(pb_json_string(loading->config, loading->config_path, "model_type", &type, err));
    loading->family = loading->model->family = pb_family_find(type);
    if (loading->family)
        return PB_OK;
    loading->family = loading->model->family = pb_family_wrapped(type);
    if (loading->family)
        return unwrap(loading, err);
    char list[512];
    size_t used = 0;
    for (size_t i = 0; i < pb_family_count() && used < sizeof list; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s%s%s", i ? ", " : "",
                                 pb_family_at(i)->model_type, pb_family_at(i)->wrapped_in ? ", " : "",
                                 pb_family_at(i)->wrapped_in ? pb_family_at(i)->wrapped_in : "");
    return pb_fail(err, PB_ERR_UNSUPPORTED,
                   "%s: model_type '%.100s' is not an architecture that Patchbay knows; it knows %s",
                   loading->config_path, type, list);
}

static pb_status read_config(pb_loading *loading, pb_error *err) {
    const pb_model *model = loading->model;
    PB_TRY(pb_json_parse(model->config, model->config_length, loading->config_path, &loading->config, err));
    if (!json_is_object(loading->config))
        return pb_fail(err, PB_ERR_FORMAT, "%s: an object was expected", loading->config_path);
    PB_TRY(find_family(loading, err));
    return pb_config_read(loading, err);
}

pb_status pb_model_build(pb_model *model, const char *config_path, pb_list_fn list, void *user, pb_error *err) {
    pb_loading loading = {.model = model, .ctx = model->ctx, .spec = &model->spec, .config_path = config_path};
    pb_strbuf_init(&loading.assumed, model->ctx);
    pb_status status = read_config(&loading, err);
    if (status == PB_OK)
        status = list(&loading, user, err);
    if (status == PB_OK) {
        status = pb_weights_bind(&loading, err);
        if (status != PB_OK && status != PB_ERR_MEMORY)
            status = pb_error_prefix(err, status, "%s: ", model->folder[0] ? model->folder : model->name);
    }
    if (status == PB_OK)
        status = pb_process_weights(model, &model->options, err);
    if (status == PB_OK)
        status = pb_stream_prepare(model, model->stream_choice, err);
    pb_strbuf_free(&loading.assumed);
    json_decref(loading.config);
    return status;
}

static pb_status open_tokenizer(pb_model *model, pb_error *err) {
    char *path = pb_path_join(model->ctx, model->folder, "tokenizer.json");
    if (!path)
        return pb_fail_memory(err, model->ctx, strlen(model->folder) + 16, "a path");
    pb_status status = PB_OK;
    if (pb_file_exists(path))
        status = pb_tokenizer_open(model->ctx, model->folder, &model->tokenizer, err);
    pb_free(path);
    return status;
}

static pb_status open_config(pb_model *model, const char *path, pb_error *err) {
    if (!pb_file_exists(path))
        return pb_fail(err, PB_ERR_IO,
                       "'%.500s' has no config.json; a model is a folder with config.json and model.safetensors",
                       model->folder);
    return pb_file_read(model->ctx, path, CONFIG_MAX, &model->config, &model->config_length, err);
}

/* Processing makes float32 copies of most matrices, which is what a streamed model must not have. */
static pb_status check_options(const pb_load_options *o, pb_error *err) {
    const char *step = o->fold_ln                  ? "fold_ln"
                       : o->center_writing_weights ? "center_writing_weights"
                       : o->center_unembed         ? "center_unembed"
                       : o->fold_value_biases      ? "fold_value_biases"
                                                   : NULL;
    if (!o->stream || !step)
        return PB_OK;
    return pb_fail(
        err, PB_ERR_UNSUPPORTED,
        "stream and %s cannot go together: processed weights are float32 copies in memory, streamed ones stay "
        "in the file; load it without %s, or process it where memory is enough",
        step, step);
}

/* The file's own words, or the tokenizer.json beside it. */
static pb_status open_gguf_tokenizer(pb_model *model, pb_error *err) {
    json_t *root = NULL, *config = NULL;
    const pb_gguf_model *file = model->sources[0]->gguf;
    PB_TRY(open_tokenizer(model, err));
    if (model->tokenizer)
        return PB_OK;
    PB_TRY(pb_gguf_model_tokenizer(file, &root, &config, err));
    pb_status status =
        root ? pb_tokenizer_from_json(model->ctx, root, config, file->path, &model->tokenizer, err) : PB_OK;
    json_decref(root);
    json_decref(config);
    return status;
}

static pb_status list_gguf(pb_loading *loading, void *unused, pb_error *err) {
    (void)unused;
    return pb_files_list(loading, err);
}

static pb_status fill_from_gguf(pb_model *model, const char *path, pb_error *err) {
    model->sources = pb_alloc(model->ctx, 1, sizeof *model->sources);
    if (!model->sources)
        return pb_fail_memory(err, model->ctx, sizeof *model->sources, "the list of weight files");
    PB_TRY(pb_source_open(model->ctx, path, pb_path_name(path), &model->sources[0], err));
    model->n_sources = 1;
    PB_TRY(pb_gguf_model_config(model->sources[0]->gguf, &model->config, &model->config_length, err));
    PB_TRY(pb_model_build(model, path, list_gguf, NULL, err));
    return open_gguf_tokenizer(model, err);
}

static pb_status open_gguf(pb_context *ctx, const char *path, const pb_load_options *options, pb_model **out,
                           pb_error *err) {
    pb_model *model = NULL;
    char *folder = pb_path_folder(ctx, path);
    const char *file = pb_path_name(path);
    char *name = pb_strndup(ctx, file, strlen(file) - strlen(".gguf"));
    pb_status status = folder && name ? pb_model_new(ctx, folder, name, &model, err)
                                      : pb_fail_memory(err, ctx, strlen(path), "a model's name");
    pb_free(folder);
    pb_free(name);
    if (status != PB_OK)
        return status;
    if (options)
        model->options = *options;
    model->stream_choice = model->options.stream ? PB_STREAM_ASKED : PB_STREAM_IF_NEEDED;
    status = fill_from_gguf(model, path, err);
    if (status == PB_OK)
        *out = model;
    else
        pb_model_unref(model);
    return status;
}

pb_status pb_model_open(pb_context *ctx, const char *folder, const pb_load_options *options, pb_model **out,
                        pb_error *err) {
    pb_model *model = NULL;
    char *gguf = NULL;
    if (options)
        PB_TRY(check_options(options, err));
    PB_TRY(pb_files_find_gguf(ctx, folder, &gguf, err));
    if (gguf) {
        pb_status status = open_gguf(ctx, gguf, options, out, err);
        pb_free(gguf);
        return status;
    }
    PB_TRY(check_folder(folder, err));
    PB_TRY(create(ctx, folder, &model, err));
    if (options)
        model->options = *options;
    model->stream_choice = model->options.stream ? PB_STREAM_ASKED : PB_STREAM_IF_NEEDED;
    char *path = pb_path_join(ctx, model->folder, "config.json");
    pb_status status =
        path ? open_config(model, path, err) : pb_fail_memory(err, ctx, strlen(model->folder) + 16, "a path");
    if (status == PB_OK)
        status = pb_model_build(model, path, pb_files_open, NULL, err);
    if (status == PB_OK)
        status = open_tokenizer(model, err);
    pb_free(path);
    if (status == PB_OK)
        *out = model;
    else
        pb_model_unref(model);
    return status;
}

/* ---- what a model says of itself ------------------------------------------------------------------------------------------- */

const pb_spec *pb_model_spec(const pb_model *model) { return &model->spec; }

const pb_load_options *pb_model_options(const pb_model *model) { return &model->options; }

bool pb_model_is_processed(const pb_model *model) {
    const pb_load_options *o = &model->options;
    return o->fold_ln || o->center_writing_weights || o->center_unembed || o->fold_value_biases;
}

pb_norm pb_spec_norm(const pb_spec *spec, pb_norm_weights w) {
    return (pb_norm){
        .centre = spec->norm_centre, .eps = spec->norm_eps, .width = spec->d_model, .weight = w.weight, .bias = w.bias};
}

pb_context *pb_model_context(const pb_model *model) { return model->ctx; }

const char *pb_model_config(const pb_model *model) { return model->config; }

const char *pb_model_folder(const pb_model *model) { return model->folder; }

const char *pb_model_name(const pb_model *model) { return model->name; }

const char *pb_model_family(const pb_model *model) { return model->family->model_type; }

int pb_model_layers(const pb_model *model) { return model->spec.layers; }

int pb_model_heads(const pb_model *model) { return model->spec.heads; }

int pb_model_kv_heads(const pb_model *model) { return model->spec.kv_heads; }

int pb_model_d_model(const pb_model *model) { return model->spec.d_model; }

int pb_model_d_head(const pb_model *model) { return model->spec.d_head; }

int pb_model_d_mlp(const pb_model *model) { return model->spec.d_mlp; }

int pb_model_vocab(const pb_model *model) { return model->spec.vocab; }

int pb_model_max_positions(const pb_model *model) { return model->spec.max_positions; }

pb_tokenizer *pb_model_tokenizer(const pb_model *model) { return model->tokenizer; }

static int64_t elements(const pb_entry *entry) {
    int64_t n = 1;
    for (int i = 0; i < entry->ndim; i++)
        n *= entry->shape[i];
    return n;
}

int64_t pb_model_parameters(const pb_model *model) {
    int64_t n = 0;
    for (size_t i = 0; i < model->n_weights; i++) {
        const pb_weight *weight = &model->weights[i];
        if (weight->used && !weight->is_copy)
            n += elements(weight->entry);
    }
    return n;
}

int64_t pb_model_weight_bytes(const pb_model *model) {
    int64_t bytes = 0;
    for (size_t i = 0; i < model->n_weights; i++)
        bytes += (int64_t)model->weights[i].entry->bytes;
    return bytes;
}

size_t pb_model_weight_count(const pb_model *model) { return model->n_weights; }

const char *pb_model_weight_name(const pb_model *model, size_t i) {
    return i < model->n_weights ? model->weights[i].entry->name : NULL;
}

size_t pb_model_weight_original(const pb_model *model, size_t i) {
    if (i >= model->n_weights || !model->weights[i].is_copy)
        return model->n_weights;
    for (size_t e = 0; e < model->n_weights; e++) {
        if (!model->weights[e].is_copy && model->weights[e].entry->data == model->spec.embed.data)
            return e;
    }
    return model->n_weights;
}

/* ---- how it is stored ---------------------------------------------------------------------------------------------------- */

/* Appends "word" or " and word" to a text of at most size bytes. */
static void add_word(char *text, size_t size, const char *word) {
    size_t used = strlen(text);
    snprintf(text + used, size - used, "%s%s", used ? " and " : "", word);
}

char *pb_model_dtypes(const pb_model *model, char *buffer, size_t size) {
    size_t bytes[PB_STORED_OTHER + 1] = {0};
    for (size_t i = 0; i < model->n_weights; i++) {
        if (model->weights[i].used)
            bytes[model->weights[i].entry->type] += model->weights[i].entry->bytes;
    }
    buffer[0] = '\0';
    for (;;) {
        int most = 0;
        for (int type = 1; type <= PB_STORED_OTHER; type++)
            most = bytes[type] > bytes[most] ? type : most;
        if (!bytes[most])
            return buffer;
        bytes[most] = 0;
        add_word(buffer, size, pb_stored_name((pb_stored)most));
    }
}

char *pb_model_storage(const pb_model *model, char *buffer, size_t size) {
    static const char *const kinds[] = {"safetensors", "PyTorch", "GGUF", "memory"};
    buffer[0] = '\0';
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        size_t n = 0;
        for (size_t i = 0; i < model->n_sources; i++)
            n += strcmp(model->sources[i]->kind, kinds[k]) == 0;
        char word[64];
        if (k + 1 == sizeof kinds / sizeof kinds[0])
            snprintf(word, sizeof word, "%s (%zu tensor%s)", kinds[k], n, n == 1 ? "" : "s");
        else
            snprintf(word, sizeof word, "%s (%zu file%s)", kinds[k], n, n == 1 ? "" : "s");
        if (n)
            add_word(buffer, size, word);
    }
    return buffer;
}
