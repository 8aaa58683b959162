/* Growing string; see strbuf.h. */
#include "base/strbuf.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

void pb_strbuf_init(pb_strbuf *b, pb_context *ctx) { *b = (pb_strbuf){.ctx = ctx}; }

void pb_strbuf_free(pb_strbuf *b) {
    pb_free(b->text);
    *b = (pb_strbuf){.ctx = b->ctx};
}

void pb_strbuf_clear(pb_strbuf *b) {
    b->length = 0;
    if (b->text)
        b->text[0] = '\0';
}

/* Room for `more` bytes and the final NUL. */
static bool reserve(pb_strbuf *b, size_t more) {
    if (b->failed)
        return false;
    if (b->text && more < b->capacity - b->length)
        return true;
    size_t needed = b->length + more + 1;
    size_t wanted = b->capacity < 64 ? 128 : b->capacity + b->capacity / 2;
    if (wanted < needed)
        wanted = needed;
    char *grown = needed > more ? pb_realloc(b->ctx, b->text, wanted, 1) : NULL;
    if (!grown) {
        b->failed = true;
        return false;
    }
    b->text = grown;
    b->capacity = wanted;
    return true;
}

void pb_strbuf_add_bytes(pb_strbuf *b, const void *bytes, size_t length) {
    if (!reserve(b, length))
        return;
    if (length)
        memcpy(b->text + b->length, bytes, length);
    b->length += length;
    b->text[b->length] = '\0';
}

void pb_strbuf_add(pb_strbuf *b, const char *text) { pb_strbuf_add_bytes(b, text, strlen(text)); }

void pb_strbuf_add_char(pb_strbuf *b, char c) { pb_strbuf_add_bytes(b, &c, 1); }

void pb_strbuf_printf(pb_strbuf *b, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (length < 0) {
        b->failed = true;
        return;
    }
    if (!reserve(b, (size_t)length))
        return;
    va_start(args, format);
    vsnprintf(b->text + b->length, (size_t)length + 1, format, args);
    va_end(args);
    b->length += (size_t)length;
}

char *pb_number_text(double value, int digits, char *buffer, size_t size) {
    if (isnan(value)) {
        snprintf(buffer, size, "nan"); /* without the sign that printf may show */
        return buffer;
    }
    snprintf(buffer, size, "%.*g", digits, value);
    for (char *c = buffer; *c; c++) {
        bool plain = (*c >= '0' && *c <= '9') || (*c >= 'a' && *c <= 'z') || *c == '-' || *c == '+';
        if (plain)
            continue;
        *c = '.'; /* whatever the locale's decimal point is, and however many bytes it has */
        char *rest = c + 1;
        while ((unsigned char)*rest >= 0x80)
            rest++;
        memmove(c + 1, rest, strlen(rest) + 1);
    }
    return buffer;
}

void pb_strbuf_add_number(pb_strbuf *b, double value, int digits) {
    char text[64];
    pb_strbuf_add(b, pb_number_text(value, digits, text, sizeof text));
}

pb_status pb_strbuf_take(pb_strbuf *b, char **text, size_t *length, const char *what, pb_error *err) {
    if (!b->text)
        pb_strbuf_add_bytes(b, NULL, 0);
    if (b->failed) {
        size_t bytes = b->length;
        pb_strbuf_free(b);
        return pb_fail_memory(err, b->ctx, bytes, what);
    }
    *text = b->text;
    if (length)
        *length = b->length;
    *b = (pb_strbuf){.ctx = b->ctx};
    return PB_OK;
}
