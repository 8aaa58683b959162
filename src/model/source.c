/* Sources of weights: mapped files and tensors in memory behind one list of entries. */
#include "model/source.h"

#include <string.h>

#include "tensor/stored.h"

static pb_status create(pb_context *ctx, const char *name, size_t count, pb_source **out, pb_error *err) {
    pb_source *source = pb_alloc_zero(ctx, 1, sizeof *source);
    if (!source)
        return pb_fail_memory(err, ctx, sizeof *source, "a source of weights");
    atomic_init(&source->references, 1);
    source->ctx = ctx;
    source->name = pb_strdup(ctx, name);
    source->entries = pb_alloc(ctx, count, sizeof *source->entries);
    source->count = count;
    if (!source->name || !source->entries) {
        pb_source_unref(source);
        return pb_fail_memory(err, ctx, strlen(name) + count * sizeof *source->entries, "a source of weights");
    }
    *out = source;
    return PB_OK;
}

static bool ends_with(const char *name, const char *end) {
    size_t length = strlen(name), n = strlen(end);
    return length >= n && strcmp(name + length - n, end) == 0;
}

static pb_status open_torch(pb_context *ctx, const char *path, const char *name, pb_source **out, pb_error *err) {
    pb_torch *file = NULL;
    PB_TRY(pb_torch_open(ctx, path, &file, err));
    pb_source *source = NULL;
    pb_status status = create(ctx, name, pb_torch_count(file), &source, err);
    if (status != PB_OK) {
        pb_torch_close(file);
        return status;
    }
    source->kind = "PyTorch";
    source->torch = file;
    for (size_t i = 0; i < source->count; i++)
        source->entries[i] = pb_torch_at(file, i);
    *out = source;
    return PB_OK;
}

static pb_status open_safetensors(pb_context *ctx, const char *path, const char *name, pb_source **out, pb_error *err) {
    pb_safetensors *file = NULL;
    PB_TRY(pb_safetensors_open(ctx, path, &file, err));
    pb_source *source = NULL;
    pb_status status = create(ctx, name, pb_safetensors_count(file), &source, err);
    if (status != PB_OK) {
        pb_safetensors_unref(file);
        return status;
    }
    source->kind = "safetensors";
    source->safetensors = file;
    for (size_t i = 0; i < source->count; i++)
        source->entries[i] = pb_safetensors_at(file, i);
    *out = source;
    return PB_OK;
}

static pb_status open_gguf(pb_context *ctx, const char *path, const char *name, pb_source **out, pb_error *err) {
    pb_gguf_model *file = NULL;
    PB_TRY(pb_gguf_model_open(ctx, path, &file, err));
    pb_source *source = NULL;
    pb_status status = create(ctx, name, file->count, &source, err);
    if (status != PB_OK) {
        pb_gguf_model_close(file);
        return status;
    }
    source->kind = "GGUF";
    source->gguf = file;
    for (size_t i = 0; i < source->count; i++)
        source->entries[i] = &file->entries[i];
    *out = source;
    return PB_OK;
}

pb_status pb_source_open(pb_context *ctx, const char *path, const char *name, pb_source **out, pb_error *err) {
    bool torch = ends_with(name, ".bin") || ends_with(name, ".pt") || ends_with(name, ".pth");
    return torch                      ? open_torch(ctx, path, name, out, err)
           : ends_with(name, ".gguf") ? open_gguf(ctx, path, name, out, err)
                                      : open_safetensors(ctx, path, name, out, err);
}

bool pb_source_has(const pb_source *source, const char *entry) {
    if (source->safetensors)
        return pb_safetensors_find(source->safetensors, entry) != NULL;
    for (size_t i = 0; i < source->count; i++) {
        if (strcmp(source->entries[i]->name, entry) == 0)
            return true;
    }
    return false;
}

pb_status pb_source_of_tensor(pb_context *ctx, const char *name, const pb_tensor *tensor, pb_source **out,
                              pb_error *err) {
    bool floats = pb_tensor_dtype(tensor) == PB_F32;
    if (!pb_tensor_contiguous(tensor))
        return pb_fail(err, PB_ERR_ARGUMENT,
                       "weight '%.200s' is a view whose elements are not in one piece; make it contiguous first", name);
    pb_source *source = NULL;
    PB_TRY(create(ctx, name, 1, &source, err));
    source->kind = "memory";
    source->tensor = pb_tensor_ref((pb_tensor *)(uintptr_t)tensor);
    source->given = (pb_entry){
        .name = source->name,
        .type = floats ? PB_STORED_F32 : PB_STORED_I32,
        .dtype = floats ? "F32" : "I32",
        .ndim = pb_tensor_ndim(tensor),
        .data = floats ? (const void *)pb_tensor_floats(tensor) : pb_tensor_ints(tensor),
        .bytes = (size_t)pb_tensor_count(tensor) * sizeof(float),
    };
    for (int i = 0; i < source->given.ndim; i++)
        source->given.shape[i] = pb_tensor_shape(tensor)[i];
    source->entries[0] = &source->given;
    *out = source;
    return PB_OK;
}

pb_source *pb_source_ref(pb_source *source) {
    atomic_fetch_add_explicit(&source->references, 1, memory_order_relaxed);
    return source;
}

void pb_source_unref(pb_source *source) {
    if (!source || atomic_fetch_sub_explicit(&source->references, 1, memory_order_acq_rel) != 1)
        return;
    pb_safetensors_unref(source->safetensors);
    pb_torch_close(source->torch);
    pb_gguf_model_close(source->gguf);
    pb_tensor_unref(source->tensor);
    pb_free(source->entries);
    pb_free(source->name);
    pb_free(source);
}

bool pb_source_is_memory(const pb_source *source) { return source->tensor != NULL; }

static pb_mapping mapping_of(const pb_source *source) {
    if (source->safetensors)
        return pb_safetensors_mapping(source->safetensors);
    if (source->gguf)
        return pb_gguf_mapping(source->gguf->file);
    return source->torch ? pb_torch_mapping(source->torch) : (pb_mapping){NULL, 0};
}

bool pb_source_maps(const pb_source *source, const void *data) {
    pb_mapping map = mapping_of(source);
    uintptr_t at = (uintptr_t)data, begin = (uintptr_t)map.data;
    return map.data && at >= begin && at - begin < map.size;
}

void pb_source_prefetch(const pb_source *source, const void *data, size_t bytes) {
    if (pb_source_maps(source, data))
        pb_mapping_prefetch(data, bytes);
}

void pb_source_release(const pb_source *source, const void *data, size_t bytes) {
    if (!pb_source_maps(source, data))
        return;
    pb_mapping map = mapping_of(source);
    size_t from = (size_t)((const unsigned char *)data - map.data), to = from + bytes;
    from = from > PB_SOURCE_AROUND ? from - PB_SOURCE_AROUND : 0;
    to = map.size - to > PB_SOURCE_AROUND ? to + PB_SOURCE_AROUND : map.size;
    pb_mapping_release(map.data + from, to - from);
}

void pb_source_release_all(const pb_source *source) {
    pb_mapping map = mapping_of(source);
    pb_mapping_release(map.data, map.size);
}
