/* How many threads a BLAS or LAPACK call takes: the context's, not the process's. The setting is OpenMP's for the
 * calling thread; OpenBLAS asks it at each call. */
#ifndef PB_TENSOR_BLAS_THREADS_H
#define PB_TENSOR_BLAS_THREADS_H

#include "patchbay/context.h"

#ifdef _OPENMP
#include <omp.h>
#endif

/* Returns what was set before, for pb_blas_threads_restore. */
static inline int pb_blas_threads_use(const pb_context *ctx) {
#ifdef _OPENMP
    int before = omp_get_max_threads();
    omp_set_num_threads(pb_context_threads(ctx));
    return before;
#else
    (void)ctx;
    return 1;
#endif
}

static inline void pb_blas_threads_restore(int before) {
#ifdef _OPENMP
    omp_set_num_threads(before);
#else
    (void)before;
#endif
}

#endif
