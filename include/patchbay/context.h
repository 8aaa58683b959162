/* Context: what one user of the library shares among all objects: memory budget, thread count, the stop flag,
 * progress and warnings. There is no global state: two contexts do not see each other.
 *
 * Refcounted; every object keeps its context alive. Calls on one context come from one thread at a time, except
 * pb_context_stop, which any thread or signal handler may call. */
#ifndef PATCHBAY_CONTEXT_H
#define PATCHBAY_CONTEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "patchbay/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pb_context pb_context;

typedef struct pb_context_options {
    size_t memory_limit; /* bytes that all objects of this context may hold together; 0: no limit */
    int threads;         /* threads for kernels; 0: as OpenMP decides (OMP_NUM_THREADS is respected) */
} pb_context_options;

/* options may be NULL (all defaults). Returns one reference. */
pb_status pb_context_create(const pb_context_options *options, pb_context **out, pb_error *err);
pb_context *pb_context_ref(pb_context *ctx);
void pb_context_unref(pb_context *ctx); /* NULL is a no-op */

int pb_context_threads(const pb_context *ctx); /* at least 1 */

/* ---- memory ------------------------------------------------------------------------------------------------ */

size_t pb_context_memory_limit(const pb_context *ctx); /* 0: none */
void pb_context_set_memory_limit(pb_context *ctx, size_t bytes);
size_t pb_context_memory_used(const pb_context *ctx);
size_t pb_context_memory_peak(const pb_context *ctx);
void pb_context_reset_memory_peak(pb_context *ctx);

/* Count memory that was not allocated here (the Lua heap). False if it would exceed the limit (nothing is charged). */
bool pb_context_charge(pb_context *ctx, size_t bytes);
void pb_context_discharge(pb_context *ctx, size_t bytes);

/* For tests: the n-th allocation from now (1: the next) fails, once. 0 switches it off. */
void pb_context_fail_allocation(pb_context *ctx, uint64_t n);
/* Allocations made so far through this context. */
uint64_t pb_context_allocations(const pb_context *ctx);

/* 64-byte aligned blocks charged to the budget; count * size is checked for overflow. NULL on failure or when the
 * budget would be exceeded; zero bytes give a valid pointer. The block remembers its context: pb_free needs the
 * pointer only (NULL is a no-op). pb_realloc keeps the old block when it fails. Thread-safe. */
void *pb_alloc(pb_context *ctx, size_t count, size_t size);
void *pb_alloc_zero(pb_context *ctx, size_t count, size_t size);
void *pb_realloc(pb_context *ctx, void *block, size_t count, size_t size);
void pb_free(void *block);
char *pb_strdup(pb_context *ctx, const char *text);
char *pb_strndup(pb_context *ctx, const char *text, size_t length);

/* The error of a NULL from above: says what the memory was for, how much, and what the budget is. */
pb_status pb_fail_memory(pb_error *err, const pb_context *ctx, size_t bytes, const char *what);

/* ---- stopping, progress, warnings ---------------------------------------------------------------------------- */

/* Ask long work to end with PB_ERR_STOPPED soon. Async-signal-safe. */
void pb_context_stop(pb_context *ctx);
void pb_context_clear_stop(pb_context *ctx);
bool pb_context_stopping(const pb_context *ctx);
/* PB_ERR_STOPPED with a message if stopping, else PB_OK. Kernels call it between blocks of work. */
pb_status pb_context_check(const pb_context *ctx, pb_error *err);

/* done of total units (of unspecified but proportional cost); what: short, e.g. "sweep, layer 3 of 12". */
typedef void (*pb_progress_fn)(void *user, const char *what, double done, double total);
void pb_context_on_progress(pb_context *ctx, pb_progress_fn fn, void *user);
void pb_context_progress(pb_context *ctx, const char *what, double done, double total);

/* Things that a person should know but that are no failure. Without a handler they are dropped. */
typedef void (*pb_warning_fn)(void *user, const char *message);
void pb_context_on_warning(pb_context *ctx, pb_warning_fn fn, void *user);
void pb_context_warn(pb_context *ctx, const char *format, ...) PB_PRINTF(2, 3);

#ifdef __cplusplus
}
#endif
#endif
