/* The weight files of a folder: one file, or the shards that an index names; safetensors before PyTorch's. */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "model/loading.h"

/* In the order of preference. */
static const struct {
    const char *name;
    bool index; /* names the shards */
} places[] = {
    {"model.safetensors", false},
    {"model.safetensors.index.json", true},
    {"pytorch_model.bin", false},
    {"pytorch_model.bin.index.json", true},
};
enum { INDEX_MAX = 64 << 20, SHARDS_MAX = 4096 };

static pb_status has_file(const pb_loading *loading, const char *name, bool *there, pb_error *err) {
    char *path = pb_path_join(loading->ctx, loading->model->folder, name);
    if (!path)
        return pb_fail_memory(err, loading->ctx, strlen(name), "a file name");
    *there = pb_file_exists(path);
    pb_free(path);
    return PB_OK;
}

static pb_status no_weights(const pb_loading *loading, pb_error *err) {
    static const char *const others[] = {"tf_model.h5", "flax_model.msgpack", "adapter_model.safetensors",
                                         "consolidated.00.pth"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        bool there;
        PB_TRY(has_file(loading, others[i], &there, err));
        if (there)
            return pb_fail(
                err, PB_ERR_UNSUPPORTED,
                "'%s' has %s but no %s: that format is not supported; save the model again with transformers' "
                "save_pretrained, which writes safetensors",
                loading->model->folder, others[i], places[0].name);
    }
    return pb_fail(err, PB_ERR_IO, "'%s' has no weights: none of %s, %s, %s, %s is there", loading->model->folder,
                   places[0].name, places[1].name, places[2].name, places[3].name);
}

/* Adds a file to the model's sources, which have room for it. */
static pb_status open_file(pb_loading *loading, const char *name, pb_error *err) {
    pb_model *model = loading->model;
    char *path = pb_path_join(loading->ctx, model->folder, name);
    if (!path)
        return pb_fail_memory(err, loading->ctx, strlen(name), "a file name");
    pb_status status = pb_source_open(loading->ctx, path, name, &model->sources[model->n_sources], err);
    if (status == PB_OK)
        model->n_sources++;
    pb_free(path);
    return status;
}

static pb_status reserve_sources(pb_loading *loading, size_t n, pb_error *err) {
    loading->model->sources = pb_alloc(loading->ctx, n, sizeof *loading->model->sources);
    return loading->model->sources
               ? PB_OK
               : pb_fail_memory(err, loading->ctx, n * sizeof *loading->model->sources, "the list of weight files");
}

static const pb_source *find_source(const pb_model *model, const char *name) {
    for (size_t i = 0; i < model->n_sources; i++) {
        if (strcmp(model->sources[i]->name, name) == 0)
            return model->sources[i];
    }
    return NULL;
}

/* Opens every file that the index names, and checks that each tensor is where the index says. */
static pb_status open_shards(pb_loading *loading, const char *index_path, const json_t *map, pb_error *err) {
    const char *tensor;
    json_t *value;
    PB_TRY(reserve_sources(loading, SHARDS_MAX, err));
    json_object_foreach((json_t *)(uintptr_t)map, tensor, value) {
        const char *name = json_string_value(value);
        if (!name || !*name || strchr(name, '/') || strchr(name, '\\'))
            return pb_fail(err, PB_ERR_FORMAT, "%s: weight_map gives tensor '%.200s' no plain file name", index_path,
                           tensor);
        const pb_source *file = find_source(loading->model, name);
        if (!file) {
            if (loading->model->n_sources == SHARDS_MAX)
                return pb_fail(err, PB_ERR_FORMAT, "%s: weight_map names more than %d files", index_path, SHARDS_MAX);
            pb_status status = open_file(loading, name, err);
            if (status != PB_OK)
                return pb_error_prefix(err, status, "%s names the file: ", pb_path_name(index_path));
            file = loading->model->sources[loading->model->n_sources - 1];
        }
        if (!pb_source_has(file, tensor))
            return pb_fail(err, PB_ERR_FORMAT, "%s: tensor '%.200s' should be in %s, but it is not there", index_path,
                           tensor, name);
    }
    if (loading->model->n_sources == 0)
        return pb_fail(err, PB_ERR_FORMAT, "%s: weight_map is empty", index_path);
    return PB_OK;
}

static pb_status open_index(pb_loading *loading, const char *index_name, pb_error *err) {
    json_t *index = NULL;
    const json_t *map;
    pb_status status;
    char *path = pb_path_join(loading->ctx, loading->model->folder, index_name);
    if (!path)
        return pb_fail_memory(err, loading->ctx, strlen(index_name), "a file name");
    if ((status = pb_json_load(loading->ctx, path, INDEX_MAX, &index, err)) != PB_OK)
        goto done;
    if ((status = pb_json_object(index, path, "weight_map", &map, err)) != PB_OK)
        goto done;
    status = open_shards(loading, path, map, err);
done:
    json_decref(index);
    pb_free(path);
    return status;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const pb_weight *)a)->entry->name, ((const pb_weight *)b)->entry->name);
}

pb_status pb_files_list(pb_loading *loading, pb_error *err) {
    pb_model *model = loading->model;
    size_t n = 0;
    for (size_t i = 0; i < model->n_sources; i++)
        n += model->sources[i]->count;
    model->weights = pb_alloc(loading->ctx, n, sizeof *model->weights);
    if (!model->weights)
        return pb_fail_memory(err, loading->ctx, n * sizeof *model->weights, "the list of tensors");
    for (size_t i = 0; i < model->n_sources; i++) {
        const pb_source *source = model->sources[i];
        for (size_t j = 0; j < source->count; j++)
            model->weights[model->n_weights++] = (pb_weight){.entry = source->entries[j], .source = source};
    }
    if (n > 1)
        qsort(model->weights, n, sizeof *model->weights, by_name);
    for (size_t i = 1; i < n; i++) {
        if (by_name(&model->weights[i - 1], &model->weights[i]) == 0)
            return pb_fail(err, PB_ERR_FORMAT, "tensor '%.200s' is both in %s and in %s", model->weights[i].entry->name,
                           model->weights[i - 1].source->name, model->weights[i].source->name);
    }
    return PB_OK;
}

pb_status pb_files_open(pb_loading *loading, void *unused, pb_error *err) {
    (void)unused;
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        bool there;
        PB_TRY(has_file(loading, places[i].name, &there, err));
        if (!there)
            continue;
        if (places[i].index) {
            PB_TRY(open_index(loading, places[i].name, err));
        } else {
            PB_TRY(reserve_sources(loading, 1, err));
            PB_TRY(open_file(loading, places[i].name, err));
        }
        return pb_files_list(loading, err);
    }
    return no_weights(loading, err);
}

/* ---- GGUF -------------------------------------------------------------------------------------------------------------- */

bool pb_files_is_gguf(const char *name) {
    size_t length = strlen(name);
    return length > 5 && strcmp(name + length - 5, ".gguf") == 0;
}

/* Whether the folder has weights of the Hugging Face kind. */
static pb_status has_places(pb_context *ctx, const char *folder, bool *there, pb_error *err) {
    *there = false;
    for (size_t i = 0; !*there && i < sizeof places / sizeof places[0]; i++) {
        char *path = pb_path_join(ctx, folder, places[i].name);
        if (!path)
            return pb_fail_memory(err, ctx, strlen(folder), "a file name");
        *there = pb_file_exists(path);
        pb_free(path);
    }
    return PB_OK;
}

/* The only .gguf of a folder, in a new block; NULL: it has none. */
static pb_status only_gguf(pb_context *ctx, const char *folder, char **out, pb_error *err) {
    char *found = NULL;
    pb_status status = PB_OK;
    DIR *dir = opendir(folder);
    for (struct dirent *entry; dir && status == PB_OK && (entry = readdir(dir));) {
        if (entry->d_name[0] == '.' || !pb_files_is_gguf(entry->d_name))
            continue;
        if (found)
            status = pb_fail(err, PB_ERR_ARGUMENT,
                             "'%.500s' has several .gguf files, %.100s and %.100s among them; give the path of one",
                             folder, pb_path_name(found), entry->d_name);
        else if (!(found = pb_path_join(ctx, folder, entry->d_name)))
            status = pb_fail_memory(err, ctx, strlen(folder), "a file name");
    }
    if (dir)
        closedir(dir);
    if (status == PB_OK)
        *out = found;
    else
        pb_free(found);
    return status;
}

pb_status pb_files_find_gguf(pb_context *ctx, const char *path, char **out, pb_error *err) {
    *out = NULL;
    if (pb_file_exists(path) && pb_files_is_gguf(path)) {
        *out = pb_strdup(ctx, path);
        return *out ? PB_OK : pb_fail_memory(err, ctx, strlen(path), "a file name");
    }
    bool others = true;
    if (pb_folder_exists(path))
        PB_TRY(has_places(ctx, path, &others, err));
    return others ? PB_OK : only_gguf(ctx, path, out, err);
}

bool pb_model_is_at(const char *path) {
    if (!pb_folder_exists(path))
        return pb_file_exists(path) && pb_files_is_gguf(path);
    bool found = false;
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && !found && (entry = readdir(dir));)
        found =
            strcmp(entry->d_name, "config.json") == 0 || (entry->d_name[0] != '.' && pb_files_is_gguf(entry->d_name));
    if (dir)
        closedir(dir);
    return found;
}

/* ---- looking up -------------------------------------------------------------------------------------------------------- */

static int name_against(const void *name, const void *weight) {
    return strcmp(name, ((const pb_weight *)weight)->entry->name);
}

pb_weight *pb_files_find(const pb_model *model, const char *name) {
    return model->n_weights ? bsearch(name, model->weights, model->n_weights, sizeof *model->weights, name_against)
                            : NULL;
}
