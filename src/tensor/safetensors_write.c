/* Writing safetensors: tensors in the order given, data aligned to 64 bytes (readers map it), header padded with spaces.
 * Strided tensors are written as they read, row by row, through one contiguous copy at a time. Entries of other files are
 * converted in pieces. */
#include <string.h>

#include "base/file.h"
#include "base/strbuf.h"
#include "tensor/stored.h"

enum { LENGTH_FIELD = 8, ALIGNMENT = 64, PIECE = 1 << 16 /* elements */ };

/* One tensor to write: of memory, or an entry whose floats are written as `type`. */
typedef struct item {
    const char *name;
    const pb_tensor *tensor; /* NULL: entry */
    const pb_entry *entry;
    pb_stored type;
} item;

static size_t item_bytes(const item *it) {
    if (it->tensor)
        return (size_t)pb_tensor_count(it->tensor) * 4;
    return it->entry->bytes / pb_stored_size(it->entry->type) * pb_stored_size(it->type);
}

/* JSON string. Valid UTF-8 passes through; the caller's bytes are checked by check_name. */
static void add_quoted(pb_strbuf *b, const char *text) {
    pb_strbuf_add_char(b, '"');
    for (const char *c = text; *c; c++) {
        if (*c == '"' || *c == '\\')
            pb_strbuf_printf(b, "\\%c", *c);
        else if ((unsigned char)*c < 0x20)
            pb_strbuf_printf(b, "\\u%04x", (unsigned)*c);
        else
            pb_strbuf_add_char(b, *c);
    }
    pb_strbuf_add_char(b, '"');
}

/* Well-formed UTF-8 (no surrogates, no overlong forms), or other programs could not read the header. */
static bool is_utf8(const char *text) {
    const unsigned char *c = (const unsigned char *)text;
    while (*c) {
        unsigned lead = *c++;
        if (lead < 0x80)
            continue;
        int more = lead >= 0xC2 && lead <= 0xDF   ? 1
                   : lead >= 0xE0 && lead <= 0xEF ? 2
                   : lead >= 0xF0 && lead <= 0xF4 ? 3
                                                  : 0;
        if (!more)
            return false;
        unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
        unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
        for (; more > 0; more--, low = 0x80, high = 0xBF) {
            if (*c < low || *c > high)
                return false;
            c++;
        }
    }
    return true;
}

static pb_status check_names(const char *path, const item *tensors, size_t n, const char *const *metadata,
                             size_t n_metadata, pb_error *err) {
    for (size_t i = 0; i < n; i++) {
        if (!is_utf8(tensors[i].name))
            return pb_fail(err, PB_ERR_ARGUMENT, "%s: the name of tensor %zu is not valid UTF-8", path, i);
        if (strcmp(tensors[i].name, "__metadata__") == 0)
            return pb_fail(err, PB_ERR_ARGUMENT, "%s: a tensor cannot be named __metadata__ in a safetensors file",
                           path);
        for (size_t k = 0; k < i; k++) {
            if (strcmp(tensors[i].name, tensors[k].name) == 0)
                return pb_fail(err, PB_ERR_ARGUMENT, "%s: two tensors are named '%s'", path, tensors[i].name);
        }
    }
    for (size_t i = 0; i < 2 * n_metadata; i++) {
        if (!is_utf8(metadata[i]))
            return pb_fail(err, PB_ERR_ARGUMENT, "%s: metadata text %zu is not valid UTF-8", path, i);
    }
    for (size_t i = 0; i < n_metadata; i++) {
        for (size_t k = 0; k < i; k++) {
            if (strcmp(metadata[2 * i], metadata[2 * k]) == 0)
                return pb_fail(err, PB_ERR_ARGUMENT, "%s: two metadata entries are named '%s'", path, metadata[2 * i]);
        }
    }
    return PB_OK;
}

static void add_header(pb_strbuf *b, const item *items, size_t n, const char *const *metadata, size_t n_metadata) {
    uint64_t at = 0;
    const char *separator = "";
    pb_strbuf_add_char(b, '{');
    for (size_t i = 0; i < n_metadata; i++) {
        pb_strbuf_add(b, i ? "," : "\"__metadata__\":{");
        add_quoted(b, metadata[2 * i]);
        pb_strbuf_add_char(b, ':');
        add_quoted(b, metadata[2 * i + 1]);
    }
    if (n_metadata) {
        pb_strbuf_add_char(b, '}');
        separator = ",";
    }
    for (size_t i = 0; i < n; i++, separator = ",") {
        const pb_tensor *t = items[i].tensor;
        const pb_entry *entry = items[i].entry;
        char shape[256];
        uint64_t end = at + item_bytes(&items[i]);
        pb_strbuf_add(b, separator);
        add_quoted(b, items[i].name);
        pb_strbuf_printf(b, ":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%llu,%llu]}",
                         pb_stored_name(items[i].type),
                         t ? pb_shape_text(pb_tensor_ndim(t), pb_tensor_shape(t), shape, sizeof shape)
                           : pb_shape_text(entry->ndim, entry->shape, shape, sizeof shape),
                         (unsigned long long)at, (unsigned long long)end);
        at = end;
    }
    pb_strbuf_add_char(b, '}');
    while ((LENGTH_FIELD + b->length) % ALIGNMENT != 0 && !b->failed)
        pb_strbuf_add_char(b, ' ');
}

static pb_status write_tensor(pb_file_writer *w, const pb_tensor *t, pb_error *err) {
    pb_tensor *whole = NULL;
    PB_TRY(pb_tensor_make_contiguous(t, &whole, err));
    const void *data = pb_tensor_dtype(whole) == PB_F32 ? (const void *)pb_tensor_floats(whole) : pb_tensor_ints(whole);
    pb_status status = pb_file_writer_add(w, data, (size_t)pb_tensor_count(whole) * 4, err);
    pb_tensor_unref(whole);
    return status;
}

static pb_status write_entry(pb_context *ctx, pb_file_writer *w, const item *it, pb_error *err) {
    const pb_entry *entry = it->entry;
    if (entry->type == it->type)
        return pb_file_writer_add(w, entry->data, entry->bytes, err);
    size_t count = entry->bytes / pb_stored_size(entry->type), size = pb_stored_size(it->type);
    float *wide = pb_alloc(ctx, 2 * PIECE, sizeof *wide);
    if (!wide)
        return pb_fail_memory(err, ctx, 2 * PIECE * sizeof *wide, "converting a weight");
    pb_status status = PB_OK;
    for (size_t at = 0; at < count && status == PB_OK; at += PIECE) {
        size_t n = count - at < PIECE ? count - at : PIECE;
        pb_widen(entry->type, entry->data, at, n, wide);
        if (pb_narrow(it->type, wide, n, wide + PIECE))
            status = pb_fail(err, PB_ERR_ARGUMENT, "tensor '%.200s' has a value that %s cannot hold; write F32 or BF16",
                             it->name, pb_stored_name(it->type));
        else
            status = pb_file_writer_add(w, wide + PIECE, n * size, err);
    }
    pb_free(wide);
    return status;
}

static pb_status write_items(pb_context *ctx, const char *path, const item *items, size_t n,
                             const char *const *metadata, size_t n_metadata, pb_error *err) {
    PB_TRY(check_names(path, items, n, metadata, n_metadata, err));
    pb_strbuf text;
    char *header = NULL;
    size_t length = 0;
    pb_strbuf_init(&text, ctx);
    add_header(&text, items, n, metadata, n_metadata);
    PB_TRY(pb_strbuf_take(&text, &header, &length, "a safetensors header", err));
    pb_file_writer *w = NULL;
    pb_status status = pb_file_writer_open(ctx, path, &w, err);
    if (status != PB_OK)
        goto done;
    unsigned char prefix[LENGTH_FIELD];
    for (int i = 0; i < LENGTH_FIELD; i++)
        prefix[i] = (unsigned char)((uint64_t)length >> (8 * i));
    status = pb_file_writer_add(w, prefix, sizeof prefix, err);
    if (status == PB_OK)
        status = pb_file_writer_add(w, header, length, err);
    for (size_t i = 0; status == PB_OK && i < n; i++) {
        status = items[i].tensor ? write_tensor(w, items[i].tensor, err) : write_entry(ctx, w, &items[i], err);
        if (status == PB_OK)
            status = pb_context_check(ctx, err);
    }
    if (status != PB_OK)
        goto done;
    status = pb_file_writer_commit(w, err);
    w = NULL;
done:
    pb_file_writer_drop(w);
    pb_free(header);
    return status;
}

pb_status pb_safetensors_write(pb_context *ctx, const char *path, const pb_named_tensor *tensors, size_t n,
                               const char *const *metadata, size_t n_metadata, pb_error *err) {
    item *items = pb_alloc(ctx, n, sizeof *items);
    if (!items)
        return pb_fail_memory(err, ctx, n * sizeof *items, "a list of tensors");
    for (size_t i = 0; i < n; i++) {
        const pb_tensor *t = tensors[i].tensor;
        items[i] = (item){tensors[i].name, t, NULL, pb_tensor_dtype(t) == PB_F32 ? PB_STORED_F32 : PB_STORED_I32};
    }
    pb_status status = write_items(ctx, path, items, n, metadata, n_metadata, err);
    pb_free(items);
    return status;
}

pb_status pb_safetensors_write_entries(pb_context *ctx, const char *path, const pb_entry *const *entries, size_t n,
                                       pb_stored type, const char *const *metadata, size_t n_metadata, pb_error *err) {
    item *items = pb_alloc(ctx, n, sizeof *items);
    if (!items)
        return pb_fail_memory(err, ctx, n * sizeof *items, "a list of tensors");
    pb_status status = PB_OK;
    for (size_t i = 0; i < n && status == PB_OK; i++) {
        const pb_entry *entry = entries[i];
        items[i] = (item){entry->name, NULL, entry, pb_stored_is_float(entry->type) ? type : entry->type};
        if (entry->type == PB_STORED_OTHER)
            status = pb_fail(err, PB_ERR_UNSUPPORTED, "tensor '%.200s' is stored as %.40s, which cannot be written",
                             entry->name, entry->dtype);
    }
    if (status == PB_OK)
        status = write_items(ctx, path, items, n, metadata, n_metadata, err);
    pb_free(items);
    return status;
}
