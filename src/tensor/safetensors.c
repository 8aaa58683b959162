/* Reading safetensors: [u64 little-endian header length][JSON header][data]. The file is mapped; opening looks at the
 * header only, and trusts nothing in it. Refuses to guess: every inconsistency is an error that names the tensor.
 *
 * An entry's name and dtype text live in one arena (`text`), its data in the mapping. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "tensor/stored.h"

enum { MAX_HEADER = 100000000, LENGTH_FIELD = 8 };

typedef struct metadata_pair {
    const char *key, *value;
} metadata_pair;

struct pb_safetensors {
    atomic_size_t refs;
    pb_context *ctx;
    pb_mapping map;
    char *text;        /* arena of NUL-terminated strings */
    pb_entry *entries; /* [count], in file order */
    size_t *by_name;   /* [count], indices into entries, sorted by name */
    size_t count;
    metadata_pair *metadata; /* [n_metadata] */
    size_t n_metadata;
};

/* What the functions below need while a header is taken apart. */
typedef struct reader {
    pb_safetensors *file;
    const char *path;
    const unsigned char *data; /* behind the header */
    size_t data_size;
    char *text_end; /* of the arena's used part */
    pb_error *err;
} reader;

/* ---- entries ------------------------------------------------------------------------------------------------- */

static const char *keep_text(reader *r, const char *text) {
    size_t size = strlen(text) + 1;
    char *kept = r->text_end;
    memcpy(kept, text, size);
    r->text_end += size;
    return kept;
}

static pb_stored stored_from_name(const char *name) {
    for (int type = PB_STORED_F32; type < PB_STORED_OTHER; type++) {
        if (strcmp(name, pb_stored_name((pb_stored)type)) == 0)
            return (pb_stored)type;
    }
    return PB_STORED_OTHER;
}

static pb_status fail_entry(reader *r, const char *name, const char *problem) {
    return pb_fail(r->err, PB_ERR_FORMAT, "%s: tensor '%s': %s", r->path, name, problem);
}

/* *elements: product of the shape, checked against overflow. */
static pb_status read_shape(reader *r, const char *name, const json_t *shape, pb_entry *entry, uint64_t *elements) {
    if (!json_is_array(shape))
        return fail_entry(r, name, "\"shape\" must be an array of lengths");
    size_t ndim = json_array_size(shape);
    if (ndim > PB_MAX_DIMS)
        return pb_fail(r->err, PB_ERR_UNSUPPORTED, "%s: tensor '%s' has %zu axes; at most %d are possible", r->path,
                       name, ndim, PB_MAX_DIMS);
    entry->ndim = (int)ndim;
    uint64_t product = 1;
    bool empty = false;
    for (size_t i = 0; i < ndim; i++) {
        const json_t *length = json_array_get(shape, i);
        if (!json_is_integer(length) || json_integer_value(length) < 0)
            return fail_entry(r, name, "\"shape\" must hold integers of 0 or more");
        entry->shape[i] = json_integer_value(length);
        if (entry->shape[i] == 0)
            empty = true;
        else if ((uint64_t)entry->shape[i] > (uint64_t)PTRDIFF_MAX / product)
            return fail_entry(r, name, "\"shape\" has more elements than a file can hold");
        else
            product *= (uint64_t)entry->shape[i];
    }
    *elements = empty ? 0 : product;
    return PB_OK;
}

static pb_status read_offsets(reader *r, const char *name, const json_t *offsets, uint64_t *begin, uint64_t *end) {
    const json_t *first = json_array_get(offsets, 0), *second = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(second) ||
        json_integer_value(first) < 0 || json_integer_value(second) < 0)
        return fail_entry(r, name, "\"data_offsets\" must be two integers of 0 or more");
    *begin = (uint64_t)json_integer_value(first);
    *end = (uint64_t)json_integer_value(second);
    if (*begin > *end)
        return fail_entry(r, name, "\"data_offsets\" end before they begin");
    if (*end > r->data_size)
        return pb_fail(
            r->err, PB_ERR_FORMAT,
            "%s: tensor '%s' ends at byte %llu of the data, but the file has only %zu there: it is truncated or its "
            "header is wrong",
            r->path, name, (unsigned long long)*end, r->data_size);
    return PB_OK;
}

static pb_status read_entry(reader *r, const char *name, const json_t *value, pb_entry *entry) {
    if (!json_is_object(value))
        return fail_entry(r, name, "its header entry must be an object");
    const char *key;
    json_t *ignored;
    json_object_foreach((json_t *)(uintptr_t)value, key, ignored) {
        if (strcmp(key, "dtype") != 0 && strcmp(key, "shape") != 0 && strcmp(key, "data_offsets") != 0)
            return pb_fail(r->err, PB_ERR_FORMAT, "%s: tensor '%s': unknown field \"%s\"", r->path, name, key);
    }
    const char *dtype = json_string_value(json_object_get(value, "dtype"));
    if (!dtype)
        return fail_entry(r, name, "\"dtype\" must be a string");
    uint64_t elements = 0, begin = 0, end = 0;
    PB_TRY(read_shape(r, name, json_object_get(value, "shape"), entry, &elements));
    PB_TRY(read_offsets(r, name, json_object_get(value, "data_offsets"), &begin, &end));
    entry->type = stored_from_name(dtype);
    size_t size = pb_stored_size(entry->type);
    char shape[256];
    if (size && (elements > (uint64_t)PTRDIFF_MAX / size || elements * size != end - begin))
        return pb_fail(r->err, PB_ERR_FORMAT,
                       "%s: tensor '%s': %s %s needs %llu x %zu bytes, but its data_offsets span %llu", r->path, name,
                       dtype, pb_shape_text(entry->ndim, entry->shape, shape, sizeof shape),
                       (unsigned long long)elements, size, (unsigned long long)(end - begin));
    entry->name = keep_text(r, name);
    entry->dtype = keep_text(r, dtype);
    entry->data = r->data + begin;
    entry->bytes = (size_t)(end - begin);
    return PB_OK;
}

static pb_status read_metadata(reader *r, const json_t *object) {
    if (!json_is_object(object))
        return pb_fail(r->err, PB_ERR_FORMAT, "%s: \"__metadata__\" must be an object of strings", r->path);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, key, value) {
        if (!json_is_string(value))
            return pb_fail(r->err, PB_ERR_FORMAT, "%s: \"__metadata__\": \"%s\" must be a string", r->path, key);
        metadata_pair *pair = &r->file->metadata[r->file->n_metadata++];
        pair->key = keep_text(r, key);
        pair->value = keep_text(r, json_string_value(value));
    }
    return PB_OK;
}

/* ---- the whole ----------------------------------------------------------------------------------------------- */

static int compare_places(const void *a, const void *b) {
    const pb_entry *x = a, *y = b;
    uintptr_t px = (uintptr_t)x->data, py = (uintptr_t)y->data;
    if (px != py)
        return px < py ? -1 : 1;
    if (x->bytes != y->bytes) /* empty ones first, so that they do not look like overlaps */
        return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Entries, sorted by place, must cover the data exactly. */
static pb_status check_coverage(reader *r) {
    const pb_safetensors *file = r->file;
    size_t covered = 0;
    for (size_t i = 0; i < file->count; i++) {
        const pb_entry *entry = &file->entries[i];
        size_t begin = (size_t)((const unsigned char *)entry->data - r->data);
        if (begin < covered)
            return pb_fail(r->err, PB_ERR_FORMAT, "%s: tensors '%s' and '%s' overlap in the file", r->path,
                           file->entries[i - 1].name, entry->name);
        if (begin > covered)
            return pb_fail(r->err, PB_ERR_FORMAT, "%s: %zu bytes before tensor '%s' belong to no tensor", r->path,
                           begin - covered, entry->name);
        covered = begin + entry->bytes;
    }
    if (covered != r->data_size)
        return pb_fail(r->err, PB_ERR_FORMAT, "%s: %zu bytes at the end belong to no tensor", r->path,
                       r->data_size - covered);
    return PB_OK;
}

/* qsort has no context argument: the names are sorted as pairs, then reduced to indices. */
typedef struct named_index {
    const char *name;
    size_t index;
} named_index;

static int compare_names(const void *a, const void *b) {
    return strcmp(((const named_index *)a)->name, ((const named_index *)b)->name);
}

static pb_status sort_names(pb_safetensors *file, pb_error *err) {
    named_index *pairs = pb_alloc(file->ctx, file->count, sizeof *pairs);
    if (!pairs)
        return pb_fail_memory(err, file->ctx, file->count * sizeof *pairs, "a file's list of tensors");
    for (size_t i = 0; i < file->count; i++)
        pairs[i] = (named_index){file->entries[i].name, i};
    qsort(pairs, file->count, sizeof *pairs, compare_names);
    for (size_t i = 0; i < file->count; i++)
        file->by_name[i] = pairs[i].index;
    pb_free(pairs);
    return PB_OK;
}

/* Room for everything that the header can bring: its strings are never longer than its text. */
static pb_status make_tables(reader *r, size_t header_size, size_t members, size_t metadata_members) {
    pb_safetensors *file = r->file;
    file->text = pb_alloc(file->ctx, header_size + 1, 1);
    file->entries = pb_alloc_zero(file->ctx, members, sizeof *file->entries);
    file->by_name = pb_alloc_zero(file->ctx, members, sizeof *file->by_name);
    file->metadata = pb_alloc_zero(file->ctx, metadata_members, sizeof *file->metadata);
    if (!file->text || !file->entries || !file->by_name || !file->metadata)
        return pb_fail_memory(r->err, file->ctx, header_size + members * sizeof *file->entries,
                              "a file's list of tensors");
    r->text_end = file->text;
    return PB_OK;
}

static pb_status read_members(reader *r, const json_t *header, size_t header_size) {
    const json_t *metadata = json_object_get(header, "__metadata__");
    pb_safetensors *file = r->file;
    PB_TRY(make_tables(r, header_size, json_object_size(header), json_object_size(metadata)));
    if (metadata)
        PB_TRY(read_metadata(r, metadata));
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)header, name, value) {
        if (value == metadata)
            continue;
        PB_TRY(read_entry(r, name, value, &file->entries[file->count]));
        file->count++;
    }
    qsort(file->entries, file->count, sizeof *file->entries, compare_places);
    PB_TRY(check_coverage(r));
    return sort_names(file, r->err);
}

static pb_status read_header(pb_safetensors *file, const char *path, pb_error *err) {
    const pb_mapping *map = &file->map;
    if (map->size < LENGTH_FIELD)
        return pb_fail(err, PB_ERR_FORMAT, "%s: %zu bytes are too few for a safetensors file", path, map->size);
    uint64_t length = 0;
    for (int i = LENGTH_FIELD - 1; i >= 0; i--)
        length = length << 8 | map->data[i];
    if (length > MAX_HEADER)
        return pb_fail(err, PB_ERR_FORMAT,
                       "%s: its first 8 bytes announce a header of %llu bytes; at most %d are accepted. This is not a "
                       "safetensors file, or it is damaged",
                       path, (unsigned long long)length, MAX_HEADER);
    if (length > map->size - LENGTH_FIELD)
        return pb_fail(err, PB_ERR_FORMAT, "%s: truncated: a header of %llu bytes was announced, %zu bytes follow",
                       path, (unsigned long long)length, map->size - LENGTH_FIELD);
    size_t header_size = (size_t)length;
    json_t *header = NULL;
    pb_status status = pb_json_parse((const char *)map->data + LENGTH_FIELD, header_size, path, &header, err);
    if (status != PB_OK)
        return pb_error_prefix(err, status, "safetensors header of ");
    reader r = {.file = file,
                .path = path,
                .data = map->data + LENGTH_FIELD + header_size,
                .data_size = map->size - LENGTH_FIELD - header_size,
                .err = err};
    if (json_is_object(header))
        status = read_members(&r, header, header_size);
    else
        status = pb_fail(err, PB_ERR_FORMAT, "%s: the safetensors header must be a JSON object", path);
    json_decref(header);
    return status;
}

pb_status pb_safetensors_open(pb_context *ctx, const char *path, pb_safetensors **out, pb_error *err) {
    pb_safetensors *file = pb_alloc_zero(ctx, 1, sizeof *file);
    if (!file)
        return pb_fail_memory(err, ctx, sizeof *file, path);
    atomic_init(&file->refs, 1);
    file->ctx = ctx;
    pb_status status = pb_file_map(path, &file->map, err);
    if (status == PB_OK)
        status = read_header(file, path, err);
    if (status != PB_OK) {
        pb_safetensors_unref(file);
        return status;
    }
    *out = file;
    return PB_OK;
}

pb_safetensors *pb_safetensors_ref(pb_safetensors *file) {
    atomic_fetch_add_explicit(&file->refs, 1, memory_order_relaxed);
    return file;
}

void pb_safetensors_unref(pb_safetensors *file) {
    if (!file || atomic_fetch_sub_explicit(&file->refs, 1, memory_order_acq_rel) != 1)
        return;
    pb_file_unmap(&file->map);
    pb_free(file->text);
    pb_free(file->entries);
    pb_free(file->by_name);
    pb_free(file->metadata);
    pb_free(file);
}

/* ---- looking ------------------------------------------------------------------------------------------------- */

size_t pb_safetensors_count(const pb_safetensors *file) { return file->count; }

const pb_entry *pb_safetensors_at(const pb_safetensors *file, size_t i) {
    return i < file->count ? &file->entries[i] : NULL;
}

const pb_entry *pb_safetensors_find(const pb_safetensors *file, const char *name) {
    return pb_entries_find(file->entries, file->by_name, file->count, name);
}

const char *pb_safetensors_metadata(const pb_safetensors *file, const char *key) {
    for (size_t i = 0; i < file->n_metadata; i++) {
        if (strcmp(file->metadata[i].key, key) == 0)
            return file->metadata[i].value;
    }
    return NULL;
}

pb_mapping pb_safetensors_mapping(const pb_safetensors *file) { return file->map; }

size_t pb_safetensors_bytes(const pb_safetensors *file) { return file->map.size; }
