/* The inside of a context, for context.c and alloc.c alone. */
#ifndef PB_BASE_CONTEXT_PRIVATE_H
#define PB_BASE_CONTEXT_PRIVATE_H

#include <stdatomic.h>

#include "patchbay/context.h"

struct pb_context {
    atomic_size_t refs; /* holders: users, objects, and one per live block */
    int threads;
    atomic_int stopping; /* lock-free: written by signal handlers */

    atomic_size_t memory_limit; /* 0: none */
    atomic_size_t memory_used;
    atomic_size_t memory_peak;
    atomic_uint_fast64_t allocations;
    atomic_uint_fast64_t fail_in; /* allocations until the injected failure, counting that one; 0: off */

    pb_progress_fn progress_fn;
    void *progress_user;
    pb_warning_fn warning_fn;
    void *warning_user;
};

#endif
