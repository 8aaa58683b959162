/* NumPy's .npy: magic, version, a header that is a Python dictionary, row- or column-major data. Written as version 1.0;
 * read in versions 1 to 3 for little-endian f4, f8, i4, i8. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "tensor/internal.h"
#include "tensor/stored.h"

static const char MAGIC[] = "\x93NUMPY";
enum { MAGIC_SIZE = 6, PREFIX = 10 /* magic, version, 16-bit header length */, ALIGNMENT = 64 };

/* ---- writing ------------------------------------------------------------------------------------------------- */

pb_status pb_npy_write(const pb_tensor *t, const char *path, pb_error *err) {
    char shape[256], header[512];
    pb_shape_text(t->ndim, t->shape, shape, sizeof shape);
    size_t inner = strlen(shape) - 2; /* between the brackets */
    int used = snprintf(header + PREFIX, sizeof header - PREFIX - ALIGNMENT,
                        "{'descr': '%s', 'fortran_order': False, 'shape': (%.*s%s), }",
                        t->dtype == PB_F32 ? "<f4" : "<i4", (int)inner, shape + 1, t->ndim == 1 ? "," : "");
    size_t size = PREFIX + (size_t)used;
    while ((size + 1) % ALIGNMENT != 0)
        header[size++] = ' ';
    header[size++] = '\n';
    memcpy(header, MAGIC, MAGIC_SIZE);
    header[6] = 1;
    header[7] = 0;
    header[8] = (char)((size - PREFIX) & 255);
    header[9] = (char)((size - PREFIX) >> 8);

    pb_context *ctx = pb_tensor_context(t);
    pb_tensor *whole = NULL;
    pb_file_writer *w = NULL;
    pb_status status = pb_tensor_make_contiguous(t, &whole, err);
    if (status == PB_OK)
        status = pb_file_writer_open(ctx, path, &w, err);
    if (status == PB_OK)
        status = pb_file_writer_add(w, header, size, err);
    if (status == PB_OK)
        status = pb_file_writer_add(w, whole->data, (size_t)whole->count * PB_ELEMENT, err);
    if (status == PB_OK) {
        status = pb_file_writer_commit(w, err);
        w = NULL;
    }
    pb_file_writer_drop(w);
    pb_tensor_unref(whole);
    return status;
}

/* ---- the header ---------------------------------------------------------------------------------------------- */

typedef struct npy_header {
    pb_stored type;
    bool fortran;
    int ndim;
    int64_t shape[PB_MAX_DIMS];
    bool has_type, has_order, has_shape;
} npy_header;

/* A cursor over the header's text; the text ends in NUL. */
typedef struct scanner {
    const char *at;
    const char *path;
    pb_error *err;
} scanner;

static pb_status malformed(const scanner *s, const char *problem) {
    return pb_fail(s->err, PB_ERR_FORMAT, "%s: .npy header: %s near \"%.20s\"", s->path, problem, s->at);
}

static void skip_space(scanner *s) {
    while (*s->at == ' ' || *s->at == '\n' || *s->at == '\t')
        s->at++;
}

static bool accept(scanner *s, const char *token) {
    skip_space(s);
    size_t length = strlen(token);
    if (strncmp(s->at, token, length) != 0)
        return false;
    s->at += length;
    return true;
}

/* 'text' or "text" into out (cut text is a mismatch for every caller). */
static pb_status scan_string(scanner *s, char *out, size_t size) {
    skip_space(s);
    char quote = *s->at;
    if (quote != '\'' && quote != '"')
        return malformed(s, "a quoted string was expected");
    const char *end = strchr(s->at + 1, quote);
    if (!end)
        return malformed(s, "a string does not end");
    size_t length = (size_t)(end - s->at - 1);
    if (length >= size)
        length = size - 1;
    memcpy(out, s->at + 1, length);
    out[length] = '\0';
    s->at = end + 1;
    return PB_OK;
}

static pb_status scan_type(scanner *s, npy_header *h) {
    static const struct {
        const char *descr;
        pb_stored type;
    } known[] = {{"<f4", PB_STORED_F32}, {"<f8", PB_STORED_F64}, {"<i4", PB_STORED_I32}, {"<i8", PB_STORED_I64}};
    char descr[16];
    PB_TRY(scan_string(s, descr, sizeof descr));
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(descr, known[i].descr) == 0) {
            h->type = known[i].type;
            return PB_OK;
        }
    }
    return pb_fail(s->err, PB_ERR_UNSUPPORTED, "%s: elements of type '%s'; what can be read is <f4, <f8, <i4, <i8",
                   s->path, descr);
}

static pb_status scan_shape(scanner *s, npy_header *h) {
    if (!accept(s, "("))
        return malformed(s, "a shape in parentheses was expected");
    h->ndim = 0;
    while (!accept(s, ")")) {
        skip_space(s);
        if (*s->at < '0' || *s->at > '9')
            return malformed(s, "a length was expected");
        if (h->ndim == PB_MAX_DIMS)
            return pb_fail(s->err, PB_ERR_UNSUPPORTED, "%s: more than %d axes", s->path, PB_MAX_DIMS);
        int64_t length = 0;
        for (; *s->at >= '0' && *s->at <= '9'; s->at++) {
            if (length > (INT64_MAX - 9) / 10)
                return malformed(s, "a length is too large");
            length = length * 10 + (*s->at - '0');
        }
        accept(s, "L"); /* as Python 2 wrote it */
        h->shape[h->ndim++] = length;
        if (!accept(s, ",")) {
            if (!accept(s, ")"))
                return malformed(s, "',' or ')' was expected");
            break;
        }
    }
    return PB_OK;
}

static pb_status scan_header(scanner *s, npy_header *h) {
    if (!accept(s, "{"))
        return malformed(s, "a dictionary was expected");
    while (!accept(s, "}")) {
        char key[32];
        PB_TRY(scan_string(s, key, sizeof key));
        if (!accept(s, ":"))
            return malformed(s, "':' was expected");
        bool *seen = strcmp(key, "descr") == 0           ? &h->has_type
                     : strcmp(key, "fortran_order") == 0 ? &h->has_order
                     : strcmp(key, "shape") == 0         ? &h->has_shape
                                                         : NULL;
        if (!seen || *seen)
            return pb_fail(s->err, PB_ERR_FORMAT, "%s: .npy header: %s key '%s'", s->path,
                           seen ? "duplicate" : "unknown", key);
        *seen = true;
        if (seen == &h->has_type)
            PB_TRY(scan_type(s, h));
        else if (seen == &h->has_shape)
            PB_TRY(scan_shape(s, h));
        else if (accept(s, "True"))
            h->fortran = true;
        else if (!accept(s, "False"))
            return malformed(s, "True or False was expected");
        if (!accept(s, ",")) {
            if (!accept(s, "}"))
                return malformed(s, "',' or '}' was expected");
            break;
        }
    }
    skip_space(s);
    if (*s->at)
        return malformed(s, "text after the dictionary");
    if (!h->has_type || !h->has_order || !h->has_shape)
        return pb_fail(s->err, PB_ERR_FORMAT, "%s: .npy header: 'descr', 'fortran_order' and 'shape' must all be there",
                       s->path);
    return PB_OK;
}

/* ---- reading ------------------------------------------------------------------------------------------------- */

/* *begin: where the data starts. */
static pb_status parse(pb_context *ctx, const pb_mapping *map, const char *path, npy_header *h, size_t *begin,
                       pb_error *err) {
    if (map->size < PREFIX + 2 || memcmp(map->data, MAGIC, MAGIC_SIZE) != 0)
        return pb_fail(err, PB_ERR_FORMAT, "%s: not a .npy file", path);
    int version = map->data[6];
    if (version < 1 || version > 3)
        return pb_fail(err, PB_ERR_UNSUPPORTED, "%s: .npy version %d; 1 to 3 can be read", path, version);
    size_t start = version == 1 ? PREFIX : PREFIX + 2;
    size_t length = (size_t)map->data[8] | (size_t)map->data[9] << 8;
    if (version > 1)
        length |= (size_t)map->data[10] << 16 | (size_t)map->data[11] << 24;
    if (length > map->size - start)
        return pb_fail(err, PB_ERR_FORMAT, "%s: truncated within its header", path);
    char *text = pb_strndup(ctx, (const char *)map->data + start, length);
    if (!text)
        return pb_fail_memory(err, ctx, length, path);
    scanner s = {text, path, err};
    pb_status status = strlen(text) == length ? scan_header(&s, h) : malformed(&s, "a NUL character");
    pb_free(text);
    *begin = start + length;
    return status;
}

/* Column-major data is the row-major data of the reversed shape: read that, then turn the axes round. */
static pb_status load(pb_context *ctx, const char *path, const npy_header *h, const void *data, pb_tensor **out,
                      pb_error *err) {
    if (!h->fortran || h->ndim < 2)
        return pb_stored_load(ctx, path, h->type, h->ndim, h->shape, data, out, err);
    int64_t reversed[PB_MAX_DIMS], strides[PB_MAX_DIMS];
    for (int i = 0; i < h->ndim; i++)
        reversed[i] = h->shape[h->ndim - 1 - i];
    pb_tensor *stored = NULL, *view = NULL;
    pb_status status = pb_stored_load(ctx, path, h->type, h->ndim, reversed, data, &stored, err);
    if (status != PB_OK)
        return status;
    for (int i = 0; i < h->ndim; i++)
        strides[i] = stored->strides[h->ndim - 1 - i];
    status = pb_tensor_view(stored, h->ndim, h->shape, strides, stored->data, &view, err);
    if (status == PB_OK)
        status = pb_tensor_make_contiguous(view, out, err);
    pb_tensor_unref(view);
    pb_tensor_unref(stored);
    return status;
}

pb_status pb_npy_read(pb_context *ctx, const char *path, pb_tensor **out, pb_error *err) {
    pb_mapping map = {0};
    PB_TRY(pb_file_map(path, &map, err));
    npy_header h = {0};
    size_t begin = 0;
    int64_t count = 0;
    pb_status status = parse(ctx, &map, path, &h, &begin, err);
    if (status == PB_OK) {
        status = pb_shape_check(h.ndim, h.shape, &count, err);
        if (status != PB_OK)
            status = pb_error_prefix(err, PB_ERR_FORMAT, "%s: ", path);
    }
    if (status != PB_OK)
        goto done;
    size_t size = pb_stored_size(h.type);
    if ((size_t)count > (map.size - begin) / size || (size_t)count * size != map.size - begin) {
        char shape[256];
        status = pb_fail(err, PB_ERR_FORMAT, "%s: shape %s of %s needs %lld x %zu bytes, the file has %zu", path,
                         pb_shape_text(h.ndim, h.shape, shape, sizeof shape), pb_stored_name(h.type), (long long)count,
                         size, map.size - begin);
        goto done;
    }
    status = load(ctx, path, &h, map.data + begin, out, err);
done:
    pb_file_unmap(&map);
    return status;
}
