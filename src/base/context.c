/* Context: life, threads, the stop flag, progress and warnings. The memory side is in alloc.c. */
#include "base/context_private.h"

#include <stdio.h>
#include <stdlib.h>

#ifdef _OPENMP
#include <omp.h>
#endif

enum { MAX_THREADS = 4096 };

static int default_threads(void) {
#ifdef _OPENMP
    int threads = omp_get_max_threads();
    return threads < 1 ? 1 : threads;
#else
    return 1;
#endif
}

pb_status pb_context_create(const pb_context_options *options, pb_context **out, pb_error *err) {
    int threads = options ? options->threads : 0;
    if (threads < 0 || threads > MAX_THREADS)
        return pb_fail(err, PB_ERR_ARGUMENT, "threads is %d; it must be 1 to %d, or 0 for OpenMP's default", threads,
                       MAX_THREADS);
    pb_context *ctx = malloc(sizeof *ctx);
    if (!ctx)
        return pb_fail(err, PB_ERR_MEMORY, "out of memory: %zu bytes for a context", sizeof *ctx);
    atomic_init(&ctx->refs, 1);
    ctx->threads = threads > 0 ? threads : default_threads();
    atomic_init(&ctx->stopping, 0);
    atomic_init(&ctx->memory_limit, options ? options->memory_limit : 0);
    atomic_init(&ctx->memory_used, 0);
    atomic_init(&ctx->memory_peak, 0);
    atomic_init(&ctx->allocations, 0);
    atomic_init(&ctx->fail_in, 0);
    ctx->progress_fn = NULL;
    ctx->progress_user = NULL;
    ctx->warning_fn = NULL;
    ctx->warning_user = NULL;
    *out = ctx;
    return PB_OK;
}

pb_context *pb_context_ref(pb_context *ctx) {
    atomic_fetch_add_explicit(&ctx->refs, 1, memory_order_relaxed);
    return ctx;
}

void pb_context_unref(pb_context *ctx) {
    if (ctx && atomic_fetch_sub_explicit(&ctx->refs, 1, memory_order_acq_rel) == 1)
        free(ctx);
}

int pb_context_threads(const pb_context *ctx) { return ctx->threads; }

/* ---- stopping ------------------------------------------------------------------------------------------------ */

void pb_context_stop(pb_context *ctx) { atomic_store_explicit(&ctx->stopping, 1, memory_order_relaxed); }

void pb_context_clear_stop(pb_context *ctx) { atomic_store_explicit(&ctx->stopping, 0, memory_order_relaxed); }

bool pb_context_stopping(const pb_context *ctx) {
    return atomic_load_explicit(&ctx->stopping, memory_order_relaxed) != 0;
}

pb_status pb_context_check(const pb_context *ctx, pb_error *err) {
    return pb_context_stopping(ctx) ? pb_fail(err, PB_ERR_STOPPED, "stopped before the work was done") : PB_OK;
}

/* ---- progress and warnings ----------------------------------------------------------------------------------- */

void pb_context_on_progress(pb_context *ctx, pb_progress_fn fn, void *user) {
    ctx->progress_fn = fn;
    ctx->progress_user = user;
}

void pb_context_progress(pb_context *ctx, const char *what, double done, double total) {
    if (ctx->progress_fn)
        ctx->progress_fn(ctx->progress_user, what, done, total);
}

void pb_context_on_warning(pb_context *ctx, pb_warning_fn fn, void *user) {
    ctx->warning_fn = fn;
    ctx->warning_user = user;
}

void pb_context_warn(pb_context *ctx, const char *format, ...) {
    if (!ctx->warning_fn)
        return;
    pb_error text; /* only for its "cut with ..." formatting */
    va_list args;
    va_start(args, format);
    pb_failv(&text, PB_OK, format, args);
    va_end(args);
    ctx->warning_fn(ctx->warning_user, text.message);
}
