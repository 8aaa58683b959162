/* Reading GGUF: [magic, version, counts][metadata][list of tensors][padding][data]. The file is mapped; every length in it is
 * checked against what is left of it before it is used, so that nothing larger than the file is ever allocated. */
#include "tensor/gguf.h"

#include <stdlib.h>
#include <string.h>

#include "tensor/stored.h"

enum {
    LEAST_PAIR = 13,   /* bytes: length and type of a pair with an empty key and one byte of value */
    LEAST_TENSOR = 24, /* length, axes, type and place of a tensor without a name */
    TEXT_SHOWN = 100,
    LONGEST_NAME = 255,
    DEFAULT_ALIGNMENT = 32
};

struct pb_gguf {
    pb_context *ctx;
    pb_mapping map;
    pb_gguf_value *values; /* [n_values], sorted by key */
    size_t n_values;
    pb_entry *entries; /* [count], in file order */
    size_t *by_name;   /* [count], indices into entries */
    size_t count;
    char *text; /* names of the entries */
};

/* What is left to read. */
typedef struct reader {
    const unsigned char *at, *end;
    const char *path;
    pb_error *err;
} reader;

static const size_t type_sizes[PB_GGUF_TYPES] = {
    [PB_GGUF_U8] = 1,  [PB_GGUF_I8] = 1,   [PB_GGUF_U16] = 2, [PB_GGUF_I16] = 2, [PB_GGUF_U32] = 4, [PB_GGUF_I32] = 4,
    [PB_GGUF_F32] = 4, [PB_GGUF_BOOL] = 1, [PB_GGUF_U64] = 8, [PB_GGUF_I64] = 8, [PB_GGUF_F64] = 8};

/* ---- reading bytes ---------------------------------------------------------------------------------------------------- */

static uint64_t little(const unsigned char *at, size_t bytes) {
    uint64_t value = 0;
    for (size_t i = bytes; i-- > 0;)
        value = value << 8 | at[i];
    return value;
}

static size_t left(const reader *r) { return (size_t)(r->end - r->at); }

static pb_status truncated(const reader *r, const char *what) {
    return pb_fail(r->err, PB_ERR_FORMAT, "%s: the file ends within %s: it is truncated, or a count in it is wrong",
                   r->path, what);
}

static pb_status read_number(reader *r, size_t bytes, const char *what, uint64_t *out) {
    if (left(r) < bytes)
        return truncated(r, what);
    *out = little(r->at, bytes);
    r->at += bytes;
    return PB_OK;
}

static pb_status read_text(reader *r, const char *what, const char **text, size_t *length) {
    uint64_t n = 0;
    PB_TRY(read_number(r, 8, what, &n));
    if (n > left(r))
        return truncated(r, what);
    *text = (const char *)r->at;
    *length = (size_t)n;
    r->at += n;
    return PB_OK;
}

static int shown(size_t length) { return length < TEXT_SHOWN ? (int)length : TEXT_SHOWN; }

/* ---- metadata --------------------------------------------------------------------------------------------------------- */

static pb_status skip_items(reader *r, const pb_gguf_value *value) {
    const char *text;
    size_t length, size = type_sizes[value->type];
    if (value->type == PB_GGUF_TEXT) {
        for (uint64_t i = 0; i < value->count; i++)
            PB_TRY(read_text(r, "the metadata", &text, &length));
        return PB_OK;
    }
    if (value->count > left(r) / size)
        return truncated(r, "the metadata");
    r->at += value->count * size;
    return PB_OK;
}

static pb_status read_type(reader *r, const pb_gguf_value *value, uint64_t *type) {
    PB_TRY(read_number(r, 4, "the metadata", type));
    if (*type < PB_GGUF_TYPES)
        return PB_OK;
    return pb_fail(r->err, PB_ERR_FORMAT, "%s: metadata '%.*s' has the unknown type %llu", r->path,
                   shown(value->key_length), value->key, (unsigned long long)*type);
}

static pb_status read_value(reader *r, pb_gguf_value *value) {
    uint64_t type = 0;
    PB_TRY(read_text(r, "the metadata", &value->key, &value->key_length));
    PB_TRY(read_type(r, value, &type));
    value->list = type == PB_GGUF_ARRAY;
    value->count = 1;
    if (value->list) {
        PB_TRY(read_type(r, value, &type));
        if (type == PB_GGUF_ARRAY)
            return pb_fail(r->err, PB_ERR_UNSUPPORTED, "%s: metadata '%.*s' is a list of lists, which is not read",
                           r->path, shown(value->key_length), value->key);
        PB_TRY(read_number(r, 8, "the metadata", &value->count));
    }
    value->type = (pb_gguf_type)type;
    value->data = r->at;
    return skip_items(r, value);
}

static int compare_keys(const void *a, const void *b) {
    const pb_gguf_value *x = a, *y = b;
    size_t least = x->key_length < y->key_length ? x->key_length : y->key_length;
    int order = memcmp(x->key, y->key, least);
    return order ? order : (x->key_length > y->key_length) - (x->key_length < y->key_length);
}

static pb_status read_values(pb_gguf *file, reader *r, uint64_t n) {
    if (n > left(r) / LEAST_PAIR)
        return pb_fail(r->err, PB_ERR_FORMAT,
                       "%s: %llu pairs of metadata are announced, for which the file is too short", r->path,
                       (unsigned long long)n);
    file->values = pb_alloc(file->ctx, (size_t)n, sizeof *file->values);
    if (!file->values)
        return pb_fail_memory(r->err, file->ctx, (size_t)n * sizeof *file->values, "a file's metadata");
    for (; file->n_values < n; file->n_values++)
        PB_TRY(read_value(r, &file->values[file->n_values]));
    if (n > 1)
        qsort(file->values, (size_t)n, sizeof *file->values, compare_keys);
    for (size_t i = 1; i < n; i++) {
        const pb_gguf_value *value = &file->values[i];
        if (compare_keys(value - 1, value) == 0)
            return pb_fail(r->err, PB_ERR_FORMAT, "%s: metadata '%.*s' is given twice", r->path,
                           shown(value->key_length), value->key);
    }
    return PB_OK;
}

/* ---- tensors ---------------------------------------------------------------------------------------------------------- */

/* Types by their number in files; those with a size are read. */
static const struct {
    const char *name;
    pb_stored type;
    bool read;
} tensor_types[] = {
    [0] = {"F32", PB_STORED_F32, true},         [1] = {"F16", PB_STORED_F16, true},
    [2] = {"Q4_0", PB_STORED_OTHER, false},     [3] = {"Q4_1", PB_STORED_OTHER, false},
    [6] = {"Q5_0", PB_STORED_OTHER, false},     [7] = {"Q5_1", PB_STORED_OTHER, false},
    [8] = {"Q8_0", PB_STORED_OTHER, true},      [9] = {"Q8_1", PB_STORED_OTHER, false},
    [10] = {"Q2_K", PB_STORED_OTHER, false},    [11] = {"Q3_K", PB_STORED_OTHER, false},
    [12] = {"Q4_K", PB_STORED_OTHER, false},    [13] = {"Q5_K", PB_STORED_OTHER, false},
    [14] = {"Q6_K", PB_STORED_OTHER, false},    [15] = {"Q8_K", PB_STORED_OTHER, false},
    [16] = {"IQ2_XXS", PB_STORED_OTHER, false}, [17] = {"IQ2_XS", PB_STORED_OTHER, false},
    [18] = {"IQ3_XXS", PB_STORED_OTHER, false}, [19] = {"IQ1_S", PB_STORED_OTHER, false},
    [20] = {"IQ4_NL", PB_STORED_OTHER, false},  [21] = {"IQ3_S", PB_STORED_OTHER, false},
    [22] = {"IQ2_S", PB_STORED_OTHER, false},   [23] = {"IQ4_XS", PB_STORED_OTHER, false},
    [24] = {"I8", PB_STORED_I8, true},          [25] = {"I16", PB_STORED_I16, true},
    [26] = {"I32", PB_STORED_I32, true},        [27] = {"I64", PB_STORED_I64, true},
    [28] = {"F64", PB_STORED_F64, true},        [29] = {"IQ1_M", PB_STORED_OTHER, false},
    [30] = {"BF16", PB_STORED_BF16, true},      [34] = {"TQ1_0", PB_STORED_OTHER, false},
    [35] = {"TQ2_0", PB_STORED_OTHER, false},   [39] = {"MXFP4", PB_STORED_OTHER, false},
};

static pb_status fail_tensor(const reader *r, const pb_entry *entry, const char *problem) {
    return pb_fail(r->err, PB_ERR_FORMAT, "%s: tensor '%.200s': %s", r->path, entry->name, problem);
}

static pb_status read_name(reader *r, const pb_gguf *file, char **text, pb_entry *entry) {
    const char *name;
    size_t length;
    PB_TRY(read_text(r, "the list of tensors", &name, &length));
    if (!length || length > LONGEST_NAME || memchr(name, '\0', length))
        return pb_fail(r->err, PB_ERR_FORMAT,
                       "%s: the name of tensor %zu has %zu bytes or holds a zero byte; 1 to %d letters were expected",
                       r->path, (size_t)(entry - file->entries), length, LONGEST_NAME);
    memcpy(*text, name, length);
    (*text)[length] = '\0';
    entry->name = *text;
    *text += length + 1;
    return PB_OK;
}

/* The axes, from the last to the first; *elements: their product. */
static pb_status read_axes(reader *r, pb_entry *entry, uint64_t *elements) {
    uint64_t n = 0, product = 1;
    PB_TRY(read_number(r, 4, "the list of tensors", &n));
    if (n > PB_MAX_DIMS)
        return pb_fail(r->err, PB_ERR_FORMAT, "%s: tensor '%.200s' has %llu axes; at most %d are possible", r->path,
                       entry->name, (unsigned long long)n, PB_MAX_DIMS);
    entry->ndim = (int)n;
    for (size_t i = (size_t)n; i-- > 0;) {
        uint64_t length = 0;
        PB_TRY(read_number(r, 8, "the list of tensors", &length));
        if (length == 0 || length > (uint64_t)PTRDIFF_MAX / product)
            return fail_tensor(r, entry, "an axis is empty, or there are more elements than a file can hold");
        product *= length;
        entry->shape[i] = (int64_t)length;
    }
    *elements = product;
    return PB_OK;
}

static pb_status read_kind(reader *r, pb_entry *entry, uint64_t elements) {
    uint64_t type = 0;
    PB_TRY(read_number(r, 4, "the list of tensors", &type));
    const char *name = type < sizeof tensor_types / sizeof tensor_types[0] ? tensor_types[type].name : NULL;
    if (!name)
        return pb_fail(r->err, PB_ERR_UNSUPPORTED,
                       "%s: tensor '%.200s' has type number %llu, which Patchbay does not know", r->path, entry->name,
                       (unsigned long long)type);
    if (!tensor_types[type].read)
        return pb_fail(
            r->err, PB_ERR_UNSUPPORTED,
            "%s: tensor '%.200s' is quantised as %s; of GGUF, Patchbay reads F32, F16, BF16 and Q8_0: get or "
            "make the file in one of these types",
            r->path, entry->name, name);
    entry->type = tensor_types[type].type;
    entry->dtype = name;
    bool q8 = entry->type == PB_STORED_OTHER;
    if (q8 && (entry->ndim == 0 || entry->shape[entry->ndim - 1] % PB_Q8_0_NUMBERS != 0))
        return fail_tensor(r, entry, "its rows cannot be cut into Q8_0's blocks of 32");
    uint64_t units = q8 ? elements / PB_Q8_0_NUMBERS : elements;
    size_t size = q8 ? (size_t)PB_Q8_0_BYTES : pb_stored_size(entry->type);
    if (units > (uint64_t)PTRDIFF_MAX / size)
        return fail_tensor(r, entry, "it has more bytes than a file can hold");
    entry->bytes = (size_t)units * size;
    return PB_OK;
}

/* Places are kept as bytes behind the beginning of the data, whose place is not known yet. */
static pb_status read_tensors(pb_gguf *file, reader *r, uint64_t n, uint64_t *places) {
    char *text = file->text;
    for (; file->count < n; file->count++) {
        pb_entry *entry = &file->entries[file->count];
        uint64_t elements = 0;
        PB_TRY(read_name(r, file, &text, entry));
        PB_TRY(read_axes(r, entry, &elements));
        PB_TRY(read_kind(r, entry, elements));
        PB_TRY(read_number(r, 8, "the list of tensors", &places[file->count]));
    }
    return PB_OK;
}

static pb_status read_alignment(const pb_gguf *file, const reader *r, uint64_t *out) {
    int64_t alignment = DEFAULT_ALIGNMENT;
    const pb_gguf_value *value = pb_gguf_get(file, "general.alignment");
    if (value && (!pb_gguf_integer(value, 0, &alignment) || alignment < 8 || alignment > 1 << 20 ||
                  (alignment & (alignment - 1)) != 0))
        return pb_fail(r->err, PB_ERR_FORMAT, "%s: general.alignment must be a power of two from 8 on", r->path);
    *out = (uint64_t)alignment;
    return PB_OK;
}

static pb_status place_tensors(pb_gguf *file, const reader *r, const uint64_t *places) {
    uint64_t alignment = 0;
    PB_TRY(read_alignment(file, r, &alignment));
    uint64_t header = (uint64_t)(r->at - file->map.data);
    uint64_t begin = (header + alignment - 1) / alignment * alignment;
    uint64_t size = file->map.size > begin ? file->map.size - begin : 0;
    for (size_t i = 0; i < file->count; i++) {
        pb_entry *entry = &file->entries[i];
        if (places[i] % alignment != 0)
            return fail_tensor(r, entry, "its place is not a multiple of the file's alignment");
        if (places[i] > size || entry->bytes > size - places[i])
            return pb_fail(
                r->err, PB_ERR_FORMAT,
                "%s: tensor '%.200s' has %zu bytes from byte %llu of the data on, but the file has only %llu "
                "there: it is truncated, or its header is wrong",
                r->path, entry->name, entry->bytes, (unsigned long long)places[i], (unsigned long long)size);
        entry->data = file->map.data + begin + places[i];
    }
    return PB_OK;
}

/* qsort has no room for a third argument: entries are sorted by pointers. */
static int compare_places(const void *a, const void *b) {
    const pb_entry *x = *(const pb_entry *const *)a, *y = *(const pb_entry *const *)b;
    return ((uintptr_t)x->data > (uintptr_t)y->data) - ((uintptr_t)x->data < (uintptr_t)y->data);
}

static int compare_names(const void *a, const void *b) {
    return strcmp((*(const pb_entry *const *)a)->name, (*(const pb_entry *const *)b)->name);
}

static pb_status check_tensors(pb_gguf *file, const reader *r, const pb_entry **sorted) {
    for (size_t i = 0; i < file->count; i++)
        sorted[i] = &file->entries[i];
    if (file->count > 1)
        qsort(sorted, file->count, sizeof *sorted, compare_places);
    for (size_t i = 1; i < file->count; i++) {
        if ((uintptr_t)sorted[i]->data < (uintptr_t)sorted[i - 1]->data + sorted[i - 1]->bytes)
            return pb_fail(r->err, PB_ERR_FORMAT, "%s: tensors '%.200s' and '%.200s' lie upon each other", r->path,
                           sorted[i - 1]->name, sorted[i]->name);
    }
    if (file->count > 1)
        qsort(sorted, file->count, sizeof *sorted, compare_names);
    for (size_t i = 0; i < file->count; i++) {
        if (i && strcmp(sorted[i - 1]->name, sorted[i]->name) == 0)
            return pb_fail(r->err, PB_ERR_FORMAT, "%s: tensor '%.200s' is given twice", r->path, sorted[i]->name);
        file->by_name[i] = (size_t)(sorted[i] - file->entries);
    }
    return PB_OK;
}

static pb_status read_list(pb_gguf *file, reader *r, uint64_t n) {
    if (n > left(r) / LEAST_TENSOR)
        return pb_fail(r->err, PB_ERR_FORMAT, "%s: %llu tensors are announced, for which the file is too short",
                       r->path, (unsigned long long)n);
    uint64_t *places = pb_alloc(file->ctx, (size_t)n, sizeof *places);
    const pb_entry **sorted = pb_alloc(file->ctx, (size_t)n, sizeof *sorted);
    file->entries = pb_alloc_zero(file->ctx, (size_t)n, sizeof *file->entries);
    file->by_name = pb_alloc(file->ctx, (size_t)n, sizeof *file->by_name);
    /* a name has at most as many bytes as the file, where its length takes 8 more */
    size_t most = (size_t)n * (LONGEST_NAME + 1), text = left(r) < most ? left(r) : most;
    file->text = pb_alloc(file->ctx, text, 1);
    pb_status status = PB_OK;
    if (!places || !sorted || !file->entries || !file->by_name || !file->text)
        status =
            pb_fail_memory(r->err, file->ctx, (size_t)n * sizeof *file->entries + text, "a file's list of tensors");
    if (status == PB_OK)
        status = read_tensors(file, r, n, places);
    if (status == PB_OK)
        status = place_tensors(file, r, places);
    if (status == PB_OK)
        status = check_tensors(file, r, sorted);
    pb_free(sorted);
    pb_free(places);
    return status;
}

/* ---- the whole file --------------------------------------------------------------------------------------------------- */

static pb_status read_file(pb_gguf *file, const char *path, pb_error *err) {
    uint64_t version = 0, tensors = 0, values = 0;
    PB_TRY(pb_file_map(path, &file->map, err));
    if (file->map.size < 4 || memcmp(file->map.data, "GGUF", 4) != 0)
        return pb_fail(err, PB_ERR_FORMAT, "%s: not a GGUF file: it does not begin with 'GGUF'", path);
    reader r = {.at = file->map.data + 4, .end = file->map.data + file->map.size, .path = path, .err = err};
    PB_TRY(read_number(&r, 4, "the header", &version));
    if (version && version % 65536 == 0)
        return pb_fail(err, PB_ERR_UNSUPPORTED, "%s: its numbers are big-endian; Patchbay reads little-endian files",
                       path);
    if (version != 2 && version != 3)
        return pb_fail(err, PB_ERR_UNSUPPORTED, "%s: GGUF version %llu; Patchbay reads versions 2 and 3", path,
                       (unsigned long long)version);
    PB_TRY(read_number(&r, 8, "the header", &tensors));
    PB_TRY(read_number(&r, 8, "the header", &values));
    PB_TRY(read_values(file, &r, values));
    return read_list(file, &r, tensors);
}

pb_status pb_gguf_open(pb_context *ctx, const char *path, pb_gguf **out, pb_error *err) {
    pb_gguf *file = pb_alloc_zero(ctx, 1, sizeof *file);
    if (!file)
        return pb_fail_memory(err, ctx, sizeof *file, path);
    file->ctx = ctx;
    pb_status status = read_file(file, path, err);
    if (status == PB_OK)
        *out = file;
    else
        pb_gguf_close(file);
    return status;
}

void pb_gguf_close(pb_gguf *file) {
    if (!file)
        return;
    pb_free(file->text);
    pb_free(file->by_name);
    pb_free(file->entries);
    pb_free(file->values);
    pb_file_unmap(&file->map);
    pb_free(file);
}

pb_mapping pb_gguf_mapping(const pb_gguf *file) { return file->map; }

size_t pb_gguf_count(const pb_gguf *file) { return file->count; }

const pb_entry *pb_gguf_at(const pb_gguf *file, size_t i) { return i < file->count ? &file->entries[i] : NULL; }

const pb_entry *pb_gguf_find(const pb_gguf *file, const char *name) {
    return pb_entries_find(file->entries, file->by_name, file->count, name);
}

const pb_gguf_value *pb_gguf_get(const pb_gguf *file, const char *key) {
    const pb_gguf_value wanted = {.key = key, .key_length = strlen(key)};
    return file->n_values ? bsearch(&wanted, file->values, file->n_values, sizeof *file->values, compare_keys) : NULL;
}

/* ---- values ------------------------------------------------------------------------------------------------------------ */

bool pb_gguf_integer(const pb_gguf_value *value, uint64_t i, int64_t *out) {
    if (!value || i >= value->count)
        return false;
    size_t size = type_sizes[value->type];
    uint64_t bits = little(value->data + i * size, size);
    switch (value->type) {
    case PB_GGUF_U8:
    case PB_GGUF_U16:
    case PB_GGUF_U32:
        break;
    case PB_GGUF_U64:
        if (bits > INT64_MAX)
            return false;
        break;
    case PB_GGUF_I8:
        bits = (uint64_t)(int64_t)(int8_t)(uint8_t)bits;
        break;
    case PB_GGUF_I16:
        bits = (uint64_t)(int64_t)(int16_t)(uint16_t)bits;
        break;
    case PB_GGUF_I32:
        bits = (uint64_t)(int64_t)(int32_t)(uint32_t)bits;
        break;
    case PB_GGUF_I64:
        break;
    default:
        return false;
    }
    *out = (int64_t)bits;
    return true;
}

bool pb_gguf_number(const pb_gguf_value *value, uint64_t i, double *out) {
    int64_t whole;
    if (!value || i >= value->count)
        return false;
    if (value->type == PB_GGUF_F32) {
        float number;
        memcpy(&number, value->data + 4 * i, sizeof number);
        *out = (double)number;
        return true;
    }
    if (value->type == PB_GGUF_F64) {
        memcpy(out, value->data + 8 * i, sizeof *out);
        return true;
    }
    if (!pb_gguf_integer(value, i, &whole))
        return false;
    *out = (double)whole;
    return true;
}

bool pb_gguf_bool(const pb_gguf_value *value, bool *out) {
    if (!value || value->type != PB_GGUF_BOOL || value->list)
        return false;
    *out = value->data[0] != 0;
    return true;
}

size_t pb_gguf_next_text(const unsigned char **at, const char **text) {
    size_t length = (size_t)little(*at, 8);
    *text = (const char *)*at + 8;
    *at += 8 + length;
    return length;
}

bool pb_gguf_text(const pb_gguf_value *value, const char **text, size_t *length) {
    if (!value || value->type != PB_GGUF_TEXT || value->list)
        return false;
    const unsigned char *at = value->data;
    *length = pb_gguf_next_text(&at, text);
    return true;
}

/* ---- Q8_0 -------------------------------------------------------------------------------------------------------------- */

bool pb_entry_is_q8_0(const pb_entry *entry) {
    return entry->type == PB_STORED_OTHER && entry->dtype && strcmp(entry->dtype, "Q8_0") == 0;
}

void pb_widen_q8_0(const void *data, size_t first, size_t count, float *out) {
    const unsigned char *block = (const unsigned char *)data + first / PB_Q8_0_NUMBERS * PB_Q8_0_BYTES;
    for (size_t done = 0; done < count; done += PB_Q8_0_NUMBERS, block += PB_Q8_0_BYTES) {
        float scale;
        pb_widen(PB_STORED_F16, block, 0, 1, &scale);
        for (size_t i = 0; i < PB_Q8_0_NUMBERS; i++)
            out[done + i] = scale * (float)(int8_t)block[2 + i];
    }
}
