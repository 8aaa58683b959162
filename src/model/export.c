/* A model as a Hugging Face folder. */
#include "model/export.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "model/loading.h"

static const char weights_name[] = "model.safetensors", config_name[] = "config.json";
enum { COPY_MAX = 256 << 20 };

const char *const PB_EXPORT_FILES[] = {weights_name,
                                       "tokenizer.json",
                                       "tokenizer_config.json",
                                       "special_tokens_map.json",
                                       "added_tokens.json",
                                       "vocab.json",
                                       "merges.txt",
                                       "tokenizer.model",
                                       "chat_template.jinja",
                                       "generation_config.json",
                                       config_name,
                                       NULL};

static pb_status join(const pb_model *model, const char *folder, const char *name, char **out, pb_error *err) {
    *out = pb_path_join(model->ctx, folder, name);
    return *out ? PB_OK : pb_fail_memory(err, model->ctx, strlen(folder) + strlen(name), "a path");
}

static bool is_float(pb_stored type) {
    return type == PB_STORED_F32 || type == PB_STORED_F16 || type == PB_STORED_BF16 || type == PB_STORED_F64;
}

/* The type that all float weights have; F32 where they differ or are wider. */
static pb_stored common_type(const pb_model *model) {
    pb_stored common = PB_STORED_OTHER;
    for (size_t i = 0; i < model->n_weights; i++) {
        pb_stored type = model->weights[i].entry->type;
        if (!is_float(type))
            continue;
        if (common != PB_STORED_OTHER && common != type)
            return PB_STORED_F32;
        common = type;
    }
    return common == PB_STORED_F16 || common == PB_STORED_BF16 ? common : PB_STORED_F32;
}

static pb_status write_weights(const pb_model *model, const char *path, pb_stored dtype, pb_error *err) {
    static const char *const metadata[] = {"format", "pt"}; /* transformers asks for it */
    const pb_entry **entries = pb_alloc(model->ctx, model->n_weights, sizeof *entries);
    if (!entries)
        return pb_fail_memory(err, model->ctx, model->n_weights * sizeof *entries, "the list of weights");
    for (size_t i = 0; i < model->n_weights; i++)
        entries[i] = model->weights[i].entry;
    pb_status status =
        pb_safetensors_write_entries(model->ctx, path, entries, model->n_weights, dtype, metadata, 1, err);
    pb_free(entries);
    pb_stream_done_all(model);
    return status;
}

/* config.json, with the keys that say how transformers holds the weights brought up to date: else it would round them. */
static pb_status write_config(const pb_model *model, const char *path, pb_stored dtype, pb_error *err) {
    static const char *const keys[] = {"torch_dtype", "dtype"};
    const char *name = dtype == PB_STORED_F16 ? "float16" : dtype == PB_STORED_BF16 ? "bfloat16" : "float32";
    json_t *config = NULL;
    char *text = NULL;
    bool changed = false, failed = false;
    PB_TRY(pb_json_parse(model->config, model->config_length, config_name, &config, err));
    for (size_t i = 0; i < 2; i++) {
        const char *said = json_string_value(json_object_get(config, keys[i]));
        if (!said || strcmp(said, name) == 0)
            continue;
        failed = json_object_set_new(config, keys[i], json_string(name)) != 0 || failed;
        changed = true;
    }
    if (changed && !failed)
        text = json_dumps(config, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    pb_status status;
    if (changed && !text)
        status = pb_fail_memory(err, model->ctx, model->config_length, config_name);
    else
        status = pb_file_write(model->ctx, path, changed ? text : model->config,
                               changed ? strlen(text) : model->config_length, err);
    json_decref(config);
    free(text);
    return status;
}

/* tokenizer.json or tokenizer_config.json of a model whose tokenizer is in a GGUF file. */
static pb_status write_gguf_tokenizer(const pb_model *model, const char *name, const char *to, pb_error *err) {
    json_t *root = NULL, *config = NULL;
    for (size_t i = 0; i < model->n_sources && !root; i++) {
        if (model->sources[i]->gguf)
            PB_TRY(pb_gguf_model_tokenizer(model->sources[i]->gguf, &root, &config, err));
    }
    if (!root)
        return PB_OK;
    char *text = json_dumps(strcmp(name, "tokenizer.json") == 0 ? root : config, JSON_INDENT(1) | JSON_PRESERVE_ORDER);
    json_decref(root);
    json_decref(config);
    pb_status status = text ? pb_file_write(model->ctx, to, text, strlen(text), err)
                            : pb_fail_memory(err, model->ctx, 0, "a tokenizer");
    free(text);
    return status;
}

/* Copies a file that goes with the tokenizer; one that is not there is not missed. */
static pb_status copy_file(const pb_model *model, const char *name, const char *to, pb_error *err) {
    char *from = NULL, *data = NULL;
    size_t size = 0;
    PB_TRY(join(model, model->folder, name, &from, err));
    pb_status status = PB_OK;
    if (pb_file_exists(from)) {
        status = pb_file_read(model->ctx, from, COPY_MAX, &data, &size, err);
        if (status == PB_OK)
            status = pb_file_write(model->ctx, to, data, size, err);
    } else if (strcmp(name, "tokenizer.json") == 0 || strcmp(name, "tokenizer_config.json") == 0) {
        status = write_gguf_tokenizer(model, name, to, err);
    }
    pb_free(data);
    pb_free(from);
    return status;
}

static pb_status write_file(const pb_model *model, const char *folder, const char *name, pb_stored dtype,
                            pb_error *err) {
    char *path = NULL;
    pb_status status = PB_OK;
    PB_TRY(join(model, folder, name, &path, err));
    if (strcmp(name, weights_name) == 0)
        status = write_weights(model, path, dtype, err);
    else if (strcmp(name, config_name) == 0)
        status = write_config(model, path, dtype, err);
    else if (model->folder[0] && model->tokenizer)
        status = copy_file(model, name, path, err);
    pb_free(path);
    return status;
}

static pb_status check_folder(const pb_model *model, const char *folder, pb_error *err) {
    char *index = NULL;
    PB_TRY(join(model, folder, "model.safetensors.index.json", &index, err));
    bool sharded = pb_file_exists(index);
    pb_free(index);
    if (sharded)
        return pb_fail(err, PB_ERR_ARGUMENT,
                       "'%.500s' holds a model in shards, which one file would not replace; give an empty folder",
                       folder);
    return pb_folder_create(model->ctx, folder, err);
}

pb_status pb_model_export(const pb_model *model, const char *folder, pb_stored dtype, pb_error *err) {
    if (pb_model_is_processed(model))
        return pb_fail(err, PB_ERR_UNSUPPORTED,
                       "model '%s' was loaded with weight processing, for which a folder has no place; load it without",
                       model->name);
    if (dtype == PB_STORED_OTHER)
        dtype = common_type(model);
    if (dtype != PB_STORED_F32 && dtype != PB_STORED_F16 && dtype != PB_STORED_BF16)
        return pb_fail(err, PB_ERR_ARGUMENT, "weights can be written as F32, F16 or BF16, not as %s",
                       pb_stored_name(dtype));
    PB_TRY(check_folder(model, folder, err));
    if (model->tokenizer && !model->folder[0])
        pb_context_warn(model->ctx, "'%s': the tokenizer's files are not known and so not written", folder);
    for (size_t i = 0; PB_EXPORT_FILES[i]; i++)
        PB_TRY(write_file(model, folder, PB_EXPORT_FILES[i], dtype, err));
    return PB_OK;
}
