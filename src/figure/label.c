/* Texts that were given, as texts that can be drawn: valid UTF-8, and in labels nothing invisible. */
#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

#include "base/strbuf.h"
#include "figure/figure_private.h"

static void add_code_point(pb_strbuf *b, utf8proc_int32_t c) {
    utf8proc_uint8_t bytes[4];
    utf8proc_ssize_t n = utf8proc_encode_char(c, bytes);
    pb_strbuf_add_bytes(b, bytes, (size_t)n);
}

/* Letters that have width and ink. Format characters (joiners, direction marks) are left alone: fonts need them. */
static void add_visible(pb_strbuf *b, utf8proc_int32_t c) {
    if (c == '\n')
        add_code_point(b, 0x23CE);
    else if (c == '\t')
        add_code_point(b, 0x21E5);
    else if (c < 0x20)
        add_code_point(b, 0x2400 + c);
    else if (c == 0x7F)
        add_code_point(b, 0x2421);
    else if (c == 0xA0 || c == 0x3000) /* spaces that are not ' ' */
        add_code_point(b, 0x237D);
    else if (c >= 0x80 && c < 0xA0)
        pb_strbuf_printf(b, "\\x%02X", (unsigned)c);
    else
        add_code_point(b, c);
}

static void rewrite(pb_strbuf *b, const char *text, bool label) {
    size_t length = strlen(text), first = 0, last = length;
    if (label) {
        while (first < length && text[first] == ' ')
            first++;
        while (last > first && text[last - 1] == ' ')
            last--;
    }
    for (size_t i = 0; i < length;) {
        utf8proc_int32_t c;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)(length - i), &c);
        if (n <= 0) {
            pb_strbuf_printf(b, "\\x%02X", (unsigned)(unsigned char)text[i]);
            i++;
            continue;
        }
        if (label && c == ' ' && (i < first || i >= last))
            add_code_point(b, 0xB7);
        else if (!label && (c == '\n' || c == '\t'))
            pb_strbuf_add_char(b, c == '\n' ? '\n' : ' ');
        else
            add_visible(b, c);
        i += (size_t)n;
    }
}

static pb_status copy(pb_pool *pool, const char *text, bool label, const char **out, pb_error *err) {
    if (!text) {
        *out = NULL;
        return PB_OK;
    }
    pb_strbuf b;
    pb_strbuf_init(&b, pool->ctx);
    rewrite(&b, text, label);
    char *copied = b.failed ? NULL : pb_pool_alloc(pool, b.length + 1, 1);
    if (copied && b.length)
        memcpy(copied, b.text, b.length);
    size_t length = b.length;
    pb_strbuf_free(&b);
    if (!copied)
        return pb_fail_memory(err, pool->ctx, length + 1, "a figure's text");
    *out = copied;
    return PB_OK;
}

pb_status pb_copy_label(pb_pool *pool, const char *text, const char **out, pb_error *err) {
    return copy(pool, text, true, out, err);
}

pb_status pb_copy_text(pb_pool *pool, const char *text, const char **out, pb_error *err) {
    if (text && !*text)
        text = NULL; /* an empty title is no title: it must not take room */
    return copy(pool, text, false, out, err);
}

pb_status pb_copy_labels(pb_pool *pool, const char *const *labels, size_t n, const char ***out, pb_error *err) {
    const char **copies = pb_pool_alloc(pool, n, sizeof *copies);
    if (!copies)
        return pb_fail_memory(err, pool->ctx, n * sizeof *copies, "a figure's labels");
    for (size_t i = 0; i < n; i++)
        PB_TRY(pb_copy_label(pool, labels[i] ? labels[i] : "", &copies[i], err));
    *out = copies;
    return PB_OK;
}
