/* Tensors as CSV in long form, one row per element, so that any spreadsheet or data frame can pivot it. RFC 4180:
 * comma, CRLF, quotes where needed; '.' is the decimal point in every locale. */
#include <string.h>

#include "base/file.h"
#include "base/strbuf.h"
#include "patchbay/tensorio.h"
#include "tensor/internal.h"

enum { DIGITS = 9, FLUSH = 1 << 15 };

static void add_field(pb_strbuf *b, const char *text) {
    if (!strpbrk(text, ",\"\r\n") && text[0] != ' ' && (text[0] == '\0' || text[strlen(text) - 1] != ' ')) {
        pb_strbuf_add(b, text);
        return;
    }
    pb_strbuf_add_char(b, '"');
    for (const char *c = text; *c; c++) {
        if (*c == '"')
            pb_strbuf_add_char(b, '"');
        pb_strbuf_add_char(b, *c);
    }
    pb_strbuf_add_char(b, '"');
}

static void add_row(pb_strbuf *b, const pb_tensor *t, const char *const *const *labels, const int64_t *index,
                    const char *element) {
    for (int axis = 0; axis < t->ndim; axis++) {
        if (labels && labels[axis])
            add_field(b, labels[axis][index[axis]]);
        else
            pb_strbuf_printf(b, "%lld", (long long)index[axis]);
        pb_strbuf_add_char(b, ',');
    }
    if (t->dtype == PB_F32)
        pb_strbuf_add_number(b, (double)*(const float *)(const void *)element, DIGITS);
    else
        pb_strbuf_printf(b, "%ld", (long)*(const int32_t *)(const void *)element);
    pb_strbuf_add(b, "\r\n");
}

static pb_status flush(pb_strbuf *b, pb_file_writer *w, pb_error *err) {
    if (b->failed)
        return pb_fail_memory(err, b->ctx, b->length, "a CSV file's rows");
    PB_TRY(pb_file_writer_add(w, b->text, b->length, err));
    pb_strbuf_clear(b);
    return PB_OK;
}

static pb_status write_rows(pb_strbuf *b, const pb_tensor *t, const char *const *const *labels, pb_file_writer *w,
                            pb_error *err) {
    int64_t index[PB_MAX_DIMS] = {0};
    for (int64_t row = 0; row < t->count; row++) {
        int64_t offset = 0;
        for (int axis = 0; axis < t->ndim; axis++)
            offset += index[axis] * t->strides[axis];
        add_row(b, t, labels, index, t->data + offset * PB_ELEMENT);
        if (b->length >= FLUSH || b->failed)
            PB_TRY(flush(b, w, err));
        for (int axis = t->ndim - 1; axis >= 0 && ++index[axis] == t->shape[axis]; axis--)
            index[axis] = 0;
    }
    return flush(b, w, err);
}

pb_status pb_csv_write(const pb_tensor *t, const char *const *axis_names, const char *const *const *labels,
                       const char *path, pb_error *err) {
    pb_context *ctx = pb_tensor_context(t);
    pb_strbuf b;
    pb_strbuf_init(&b, ctx);
    for (int axis = 0; axis < t->ndim; axis++) {
        add_field(&b, axis_names[axis]);
        pb_strbuf_add_char(&b, ',');
    }
    pb_strbuf_add(&b, "value\r\n");
    pb_file_writer *w = NULL;
    pb_status status = pb_file_writer_open(ctx, path, &w, err);
    if (status == PB_OK)
        status = write_rows(&b, t, labels, w, err);
    if (status == PB_OK) {
        status = pb_file_writer_commit(w, err);
        w = NULL;
    }
    pb_file_writer_drop(w);
    pb_strbuf_free(&b);
    return status;
}
