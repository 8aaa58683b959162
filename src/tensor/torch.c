/* PyTorch's files of state dicts: a zip archive with data.pkl, which says what tensors there are, and one entry data/KEY for
 * each storage. Tensors that lie in their storage in row-major order are views of the mapped file; others are copied. */
#include <stdlib.h>
#include <string.h>

#include "tensor/pickle.h"
#include "tensor/stored.h"
#include "tensor/zip.h"

struct pb_torch {
    pb_context *ctx;
    pb_mapping map;
    pb_zip zip;
    const char *root; /* what every entry's name begins with, "archive/" */
    size_t root_length;
    pb_entry *entries;
    size_t count;
    char *text;    /* names */
    void **copies; /* [count], NULL for views */
};

static const pb_zip_entry *find(const pb_torch *file, const char *folder, const char *name, size_t length) {
    char full[512];
    size_t used = strlen(folder);
    if (file->root_length + used + length > sizeof full)
        return NULL;
    memcpy(full, file->root, file->root_length);
    memcpy(full + file->root_length, folder, used);
    memcpy(full + file->root_length + used, name, length);
    return pb_zip_find(&file->zip, full, file->root_length + used + length);
}

/* The folder of the archive: where data.pkl is. */
static pb_status find_root(pb_torch *file, const char *path, pb_error *err) {
    static const char pickle[] = "/data.pkl";
    size_t length = sizeof pickle - 1;
    for (size_t i = 0; i < file->zip.count; i++) {
        const pb_zip_entry *entry = &file->zip.entries[i];
        if (entry->name_length <= length || memcmp(entry->name + entry->name_length - length, pickle, length) != 0)
            continue;
        file->root = entry->name;
        file->root_length = entry->name_length - length + 1;
        if (!memchr(file->root, '/', file->root_length - 1))
            break;
        file->root = NULL;
    }
    if (!file->root)
        return pb_fail(err, PB_ERR_FORMAT, "%s: the zip archive has no data.pkl: torch.save did not write it", path);
    if (find(file, "", "constants.pkl", 13))
        return pb_fail(err, PB_ERR_UNSUPPORTED, "%s: a TorchScript program, not a state dict; save model.state_dict()",
                       path);
    for (size_t i = 0; i < file->zip.count; i++) {
        const pb_zip_entry *entry = &file->zip.entries[i];
        if (entry->compressed)
            return pb_fail(err, PB_ERR_UNSUPPORTED,
                           "%s: entry '%.*s' is compressed; torch.save stores entries as they are", path,
                           entry->name_length > 100 ? 100 : (int)entry->name_length, entry->name);
    }
    const pb_zip_entry *order = find(file, "", "byteorder", 9);
    if (order && !(order->size == 6 && memcmp(order->data, "little", 6) == 0))
        return pb_fail(err, PB_ERR_UNSUPPORTED, "%s: its numbers are not little-endian", path);
    return PB_OK;
}

/* Elements that the tensor has, and whether they lie in order; every index must be inside the storage. */
static pb_status measure(const pb_pickled *t, int64_t available, int64_t *count, bool *in_order) {
    int64_t last = 0, expected = 1;
    bool empty = false;
    *in_order = true;
    for (int i = 0; i < t->ndim; i++)
        empty = empty || t->shape[i] == 0;
    *count = empty ? 0 : 1;
    for (int i = t->ndim - 1; i >= 0 && !empty; i--) {
        int64_t length = t->shape[i], stride = t->strides[i];
        if (length > 1 && stride != expected)
            *in_order = false;
        /* each axis at most once through the storage: no repeats that make much of little */
        if (length > available || expected > available / length)
            return PB_ERR_FORMAT;
        if (length > 1 && stride > 0 && length - 1 > (available - last) / stride)
            return PB_ERR_FORMAT;
        last += length > 1 ? stride * (length - 1) : 0;
        expected *= length;
    }
    *count = empty ? 0 : expected;
    return empty || (t->offset <= available && last < available - t->offset) ? PB_OK : PB_ERR_FORMAT;
}

static void copy_strided(const pb_pickled *t, const unsigned char *storage, int64_t count, size_t size, char *out) {
    int64_t index[PB_MAX_DIMS] = {0};
    for (int64_t done = 0; done < count; done++) {
        int64_t at = t->offset;
        for (int i = 0; i < t->ndim; i++)
            at += index[i] * t->strides[i];
        memcpy(out + (size_t)done * size, storage + (size_t)at * size, size);
        for (int i = t->ndim - 1; i >= 0 && ++index[i] == t->shape[i]; i--)
            index[i] = 0;
    }
}

static pb_status make_entry(pb_torch *file, const pb_pickled *t, size_t place, const char *path, pb_error *err) {
    pb_entry *entry = &file->entries[place];
    const pb_zip_entry *storage = find(file, "data/", t->key, t->key_length);
    size_t size = pb_stored_size(t->type);
    if (!storage)
        return pb_fail(err, PB_ERR_FORMAT, "%s: tensor '%.200s': the archive has no storage '%.*s'", path, entry->name,
                       t->key_length > 60 ? 60 : (int)t->key_length, t->key);
    if ((uint64_t)t->storage_count != storage->size / size || storage->size % size != 0)
        return pb_fail(err, PB_ERR_FORMAT,
                       "%s: tensor '%.200s': its storage should have %lld numbers of %zu bytes, but it has %zu bytes",
                       path, entry->name, (long long)t->storage_count, size, storage->size);
    int64_t count;
    bool in_order;
    char shape[256];
    if (measure(t, t->storage_count, &count, &in_order) != PB_OK)
        return pb_fail(
            err, PB_ERR_FORMAT,
            "%s: tensor '%.200s' of shape %s does not lie in its storage of %lld numbers (a view that repeats "
            "numbers must be saved as a copy)",
            path, entry->name, pb_shape_text(t->ndim, t->shape, shape, sizeof shape), (long long)t->storage_count);
    entry->type = t->type;
    entry->dtype = pb_stored_name(t->type);
    entry->ndim = t->ndim;
    memcpy(entry->shape, t->shape, sizeof entry->shape);
    entry->bytes = (size_t)count * size;
    entry->data = storage->data + (count ? (size_t)t->offset * size : 0);
    if (in_order)
        return PB_OK;
    char *copy = pb_alloc(file->ctx, (size_t)count, size);
    if (!copy)
        return pb_fail_memory(err, file->ctx, entry->bytes, "a weight whose numbers are not in order");
    copy_strided(t, storage->data, count, size, copy);
    file->copies[place] = copy;
    entry->data = copy;
    return PB_OK;
}

static pb_status make_entries(pb_torch *file, const pb_pickled *tensors, size_t n, const char *path, pb_error *err) {
    size_t length = 1;
    for (size_t i = 0; i < n; i++)
        length += tensors[i].name_length + 1;
    file->entries = pb_alloc_zero(file->ctx, n, sizeof *file->entries);
    file->copies = pb_alloc_zero(file->ctx, n, sizeof *file->copies);
    file->text = pb_alloc(file->ctx, length, 1);
    if (!file->entries || !file->copies || !file->text)
        return pb_fail_memory(err, file->ctx, n * sizeof *file->entries + length, "a file's list of tensors");
    char *text = file->text;
    file->count = n;
    for (size_t i = 0; i < n; i++) {
        memcpy(text, tensors[i].name, tensors[i].name_length);
        text[tensors[i].name_length] = '\0';
        file->entries[i].name = text;
        text += tensors[i].name_length + 1;
        PB_TRY(make_entry(file, &tensors[i], i, path, err));
    }
    return PB_OK;
}

static pb_status check_magic(const pb_mapping *map, const char *path, pb_error *err) {
    static const unsigned char legacy[] = {0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19};
    if (map->size >= 2 + sizeof legacy && map->data[0] == 0x80 && memcmp(map->data + 2, legacy, sizeof legacy) == 0)
        return pb_fail(
            err, PB_ERR_UNSUPPORTED,
            "%s: the format that PyTorch wrote before version 1.6, which is not supported; load it with torch "
            "and save it again",
            path);
    if (map->size < 4 || memcmp(map->data, "PK\3\4", 4) != 0)
        return pb_fail(err, PB_ERR_FORMAT, "%s: not a file of torch.save: it does not begin as a zip archive", path);
    return PB_OK;
}

static pb_status read_file(pb_torch *file, const char *path, pb_error *err) {
    pb_pickled *tensors = NULL;
    size_t n = 0;
    PB_TRY(pb_file_map(path, &file->map, err));
    PB_TRY(check_magic(&file->map, path, err));
    PB_TRY(pb_zip_open(file->ctx, &file->map, path, &file->zip, err));
    PB_TRY(find_root(file, path, err));
    const pb_zip_entry *pickle = find(file, "", "data.pkl", 8);
    if (!pickle)
        return pb_fail(err, PB_ERR_FORMAT, "%s: the name of the archive's folder is too long", path);
    PB_TRY(pb_pickle_read(file->ctx, pickle->data, pickle->size, path, &tensors, &n, err));
    pb_status status = make_entries(file, tensors, n, path, err);
    pb_free(tensors);
    return status;
}

pb_status pb_torch_open(pb_context *ctx, const char *path, pb_torch **out, pb_error *err) {
    pb_torch *file = pb_alloc_zero(ctx, 1, sizeof *file);
    if (!file)
        return pb_fail_memory(err, ctx, sizeof *file, path);
    file->ctx = ctx;
    pb_status status = read_file(file, path, err);
    if (status == PB_OK)
        *out = file;
    else
        pb_torch_close(file);
    return status;
}

void pb_torch_close(pb_torch *file) {
    if (!file)
        return;
    for (size_t i = 0; i < file->count; i++)
        pb_free(file->copies[i]);
    pb_free(file->copies);
    pb_free(file->entries);
    pb_free(file->text);
    pb_zip_close(&file->zip);
    pb_file_unmap(&file->map);
    pb_free(file);
}

size_t pb_torch_count(const pb_torch *file) { return file->count; }

const pb_entry *pb_torch_at(const pb_torch *file, size_t i) { return i < file->count ? &file->entries[i] : NULL; }

pb_mapping pb_torch_mapping(const pb_torch *file) { return file->map; }
