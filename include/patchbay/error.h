/* Status codes and the message that goes with a failure.
 *
 * Contract of the whole library: a function that can fail returns pb_status and takes `pb_error *err` last (may be
 * NULL). On failure nothing is changed, outputs are not written, and the message says what was wrong, what was
 * expected, and what to try. Asserts are for our own bugs, never for user data. */
#ifndef PATCHBAY_ERROR_H
#define PATCHBAY_ERROR_H

#include <stdarg.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum pb_status {
    PB_OK = 0,
    PB_ERR_ARGUMENT,    /* a value that the caller gave is wrong: unknown name, out of range, wrong shape */
    PB_ERR_MEMORY,      /* allocation failed, or the memory budget would be exceeded */
    PB_ERR_IO,          /* the operating system refused: message has the path and strerror */
    PB_ERR_FORMAT,      /* a file's contents are malformed */
    PB_ERR_UNSUPPORTED, /* well-formed, but something that Patchbay does not do (names it, lists what it does) */
    PB_ERR_NUMERIC,     /* NaN or infinity where a finite value is needed, singular matrix */
    PB_ERR_STOPPED,     /* pb_context_stop was called (Ctrl-C, time limit) */
    PB_ERR_CALLBACK     /* a user callback failed; the message is the callback's */
} pb_status;

enum { PB_ERROR_MAX = 8192 };

/* Owned by the caller; initialise with {0}. */
typedef struct pb_error {
    pb_status status;
    char message[PB_ERROR_MAX];
} pb_error;

#if defined(__GNUC__)
#define PB_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define PB_NODISCARD         __attribute__((warn_unused_result))
#else
#define PB_PRINTF(fmt, args)
#define PB_NODISCARD
#endif

/* Fill *err (if not NULL; over-long text is cut at the end with "...") and return status. */
pb_status pb_fail(pb_error *err, pb_status status, const char *format, ...) PB_PRINTF(3, 4);
pb_status pb_failv(pb_error *err, pb_status status, const char *format, va_list args);

/* Put text in front of err's message ("file 'x': "), keep its status, return it. */
pb_status pb_error_prefix(pb_error *err, pb_status status, const char *format, ...) PB_PRINTF(3, 4);

/* "argument", "memory", ... for messages and tests. Cannot fail. */
const char *pb_status_name(pb_status status);

/* Return early on failure; only where nothing must be released. */
#define PB_TRY(expr)                                                                                                   \
    do {                                                                                                               \
        pb_status pb_try_status_ = (expr);                                                                             \
        if (pb_try_status_ != PB_OK)                                                                                   \
            return pb_try_status_;                                                                                     \
    } while (0)

#ifdef __cplusplus
}
#endif
#endif
