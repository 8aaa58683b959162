/* Copies of stored tensors: entries of files to float32 or int32 tensors. */
#include "tensor/stored.h"

#include <string.h>

enum { CHUNK = 1 << 18 }; /* elements that one thread widens at a time */

static void widen_all(pb_context *ctx, pb_stored type, const void *data, int64_t count, float *out) {
    int64_t chunks = count / CHUNK;
    int threads = pb_context_threads(ctx);
    threads = chunks < 2 ? 1 : chunks < threads ? (int)chunks : threads;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t i = 0; i < count; i += CHUNK)
        pb_widen(type, data, (size_t)i, (size_t)(count - i < CHUNK ? count - i : CHUNK), out + i);
}

static int64_t stored_integer(pb_stored type, const unsigned char *at) {
    int64_t wide;
    int32_t word;
    int16_t half;
    switch (type) {
    case PB_STORED_I64:
        memcpy(&wide, at, sizeof wide);
        return wide;
    case PB_STORED_I32:
        memcpy(&word, at, sizeof word);
        return word;
    case PB_STORED_I16:
        memcpy(&half, at, sizeof half);
        return half;
    case PB_STORED_I8:
        return (int8_t)*at;
    default:
        return *at; /* U8, BOOL */
    }
}

static pb_status integers(const char *name, pb_stored type, const void *data, int64_t count, int32_t *out,
                          pb_error *err) {
    const unsigned char *at = data;
    size_t size = pb_stored_size(type);
    for (int64_t i = 0; i < count; i++, at += size) {
        int64_t value = stored_integer(type, at);
        if (value < INT32_MIN || value > INT32_MAX)
            return pb_fail(err, PB_ERR_UNSUPPORTED, "tensor '%s': entry %lld (counted flat) is %lld, which is no int32",
                           name, (long long)i, (long long)value);
        out[i] = (int32_t)value;
    }
    return PB_OK;
}

bool pb_stored_is_float(pb_stored type) {
    return type == PB_STORED_F32 || type == PB_STORED_F16 || type == PB_STORED_BF16 || type == PB_STORED_F64;
}

pb_status pb_stored_load(pb_context *ctx, const char *name, pb_stored type, int ndim, const int64_t *shape,
                         const void *data, pb_tensor **out, pb_error *err) {
    pb_tensor *t = NULL;
    bool floats = pb_stored_is_float(type);
    PB_TRY(pb_tensor_create(ctx, floats ? PB_F32 : PB_I32, ndim, shape, &t, err));
    pb_status status = PB_OK;
    if (floats)
        widen_all(ctx, type, data, pb_tensor_count(t), pb_tensor_floats(t));
    else
        status = integers(name, type, data, pb_tensor_count(t), pb_tensor_ints(t), err);
    if (status == PB_OK)
        *out = t;
    else
        pb_tensor_unref(t);
    return status;
}

pb_status pb_entry_load(pb_context *ctx, const pb_entry *entry, pb_tensor **out, pb_error *err) {
    if (entry->type == PB_STORED_OTHER)
        return pb_fail(
            err, PB_ERR_UNSUPPORTED,
            "tensor '%s' is stored as %s; what can be read is F32, F16, BF16, F64, I64, I32, I16, I8, U8, BOOL",
            entry->name, entry->dtype ? entry->dtype : "an unknown type");
    return pb_stored_load(ctx, entry->name, entry->type, entry->ndim, entry->shape, entry->data, out, err);
}

const pb_entry *pb_entries_find(const pb_entry *entries, const size_t *by_name, size_t count, const char *name) {
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const pb_entry *entry = &entries[by_name[middle]];
        int order = strcmp(name, entry->name);
        if (order == 0)
            return entry;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}
