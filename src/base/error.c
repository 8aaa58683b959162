/* Status names and the text of errors. Owns nothing: pb_error is the caller's. */
#include "patchbay/error.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Text that did not fit ends in "..."; the cut never falls inside a UTF-8 sequence. */
static void mark_cut(char *message) {
    size_t end = PB_ERROR_MAX - 4;
    while (end > 0 && ((unsigned char)message[end] & 0xC0u) == 0x80u)
        end--;
    memcpy(message + end, "...", 4);
}

pb_status pb_failv(pb_error *err, pb_status status, const char *format, va_list args) {
    if (!err)
        return status;
    /* Formatted aside first: an argument may be err->message itself. */
    char text[PB_ERROR_MAX];
    int length = vsnprintf(text, sizeof text, format, args);
    if (length < 0)
        snprintf(text, sizeof text, "(the message could not be formatted)");
    else if (length >= PB_ERROR_MAX)
        mark_cut(text);
    err->status = status;
    memcpy(err->message, text, strlen(text) + 1);
    return status;
}

pb_status pb_fail(pb_error *err, pb_status status, const char *format, ...) {
    va_list args;
    va_start(args, format);
    pb_failv(err, status, format, args);
    va_end(args);
    return status;
}

pb_status pb_error_prefix(pb_error *err, pb_status status, const char *format, ...) {
    if (!err)
        return status;
    char text[PB_ERROR_MAX];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (length < 0)
        return status;
    bool cut = length >= PB_ERROR_MAX;
    if (!cut)
        cut = (size_t)snprintf(text + length, sizeof text - (size_t)length, "%s", err->message) >=
              sizeof text - (size_t)length;
    if (cut)
        mark_cut(text);
    memcpy(err->message, text, strlen(text) + 1);
    return status;
}

const char *pb_status_name(pb_status status) {
    switch (status) {
    case PB_OK:
        return "ok";
    case PB_ERR_ARGUMENT:
        return "argument";
    case PB_ERR_MEMORY:
        return "memory";
    case PB_ERR_IO:
        return "io";
    case PB_ERR_FORMAT:
        return "format";
    case PB_ERR_UNSUPPORTED:
        return "unsupported";
    case PB_ERR_NUMERIC:
        return "numeric";
    case PB_ERR_STOPPED:
        return "stopped";
    case PB_ERR_CALLBACK:
        return "callback";
    }
    return "unknown";
}
