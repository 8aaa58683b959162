/* A growing string whose memory is charged to a context. Errors are sticky: append as often as you like, then ask
 * once (pb_strbuf_take). Also owns how a number is written as text, whatever the locale. */
#ifndef PB_BASE_STRBUF_H
#define PB_BASE_STRBUF_H

#include "patchbay/context.h"

typedef struct pb_strbuf {
    pb_context *ctx;
    char *text; /* NUL-terminated once anything was appended; NULL before */
    size_t length;
    size_t capacity;
    bool failed; /* an allocation failed; further appends do nothing */
} pb_strbuf;

void pb_strbuf_init(pb_strbuf *b, pb_context *ctx); /* borrows ctx; allocates nothing yet */
void pb_strbuf_free(pb_strbuf *b);                  /* idempotent */
void pb_strbuf_clear(pb_strbuf *b);                 /* length 0, memory kept, failure kept */

void pb_strbuf_add(pb_strbuf *b, const char *text);
void pb_strbuf_add_bytes(pb_strbuf *b, const void *bytes, size_t length);
void pb_strbuf_add_char(pb_strbuf *b, char c);
void pb_strbuf_printf(pb_strbuf *b, const char *format, ...) PB_PRINTF(2, 3);
/* value with `digits` significant digits (%g), '.' as the decimal point in every locale; "nan", "inf", "-inf". */
void pb_strbuf_add_number(pb_strbuf *b, double value, int digits);

/* Hand the text over (pb_free it), empty string included, and leave b empty. *length may be NULL.
 * PB_ERR_MEMORY if any append failed; what: for the message, e.g. "a printed tensor". b is emptied either way. */
pb_status pb_strbuf_take(pb_strbuf *b, char **text, size_t *length, const char *what, pb_error *err);

/* The same number format into a buffer of at least 32 bytes; returns it. */
char *pb_number_text(double value, int digits, char *buffer, size_t size);

#endif
