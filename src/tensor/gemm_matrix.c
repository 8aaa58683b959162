/* Views on stored maps, single rows of them, and what there is to say about the BLAS library. */
#include <assert.h>
#include <cblas.h>
#include <omp.h>
#include <string.h>
#include <time.h>

#include "tensor/gemm.h"

static const char *advance(const pb_matrix *w, int64_t elements) {
    return w->data ? (const char *)w->data + elements * (int64_t)pb_stored_size(w->type) : NULL;
}

pb_matrix pb_matrix_outputs(const pb_matrix *w, int64_t first, int64_t n) {
    assert(first >= 0 && n >= 0 && first + n <= w->out);
    pb_matrix view = *w;
    view.out = n;
    view.bias = w->bias ? w->bias + first : NULL;
    if (w->in_major) {
        view.data = advance(w, first);
        return view;
    }
    const int64_t block = w->block > 0 ? w->block : w->out;
    const int64_t in_block = block > 0 ? first % block : 0;
    const int64_t row = block > 0 ? first / block * w->block_stride + in_block : 0;
    view.data = advance(w, row * w->ld);
    if (in_block + n <= block || block == w->block_stride) {
        view.block = n; /* one run of evenly spaced rows */
        view.block_stride = n;
    } else {
        assert(in_block == 0);
        view.block = block;
    }
    return view;
}

pb_matrix pb_matrix_inputs(const pb_matrix *w, int64_t first, int64_t n) {
    assert(first >= 0 && n >= 0 && first + n <= w->in);
    pb_matrix view = *w;
    view.in = n;
    view.bias = NULL;
    view.data = advance(w, w->in_major ? first * w->ld : first);
    return view;
}

void pb_matrix_output_row(const pb_matrix *w, int64_t o, float *out) {
    if (w->in_major) {
        for (int64_t i = 0; i < w->in; i++)
            pb_widen(w->type, w->data, (size_t)(i * w->ld + o), 1, &out[i]);
        return;
    }
    const bool blocks = w->block > 0 && w->block < w->out;
    const int64_t row = blocks ? o / w->block * w->block_stride + o % w->block : o;
    pb_widen(w->type, w->data, (size_t)(row * w->ld), (size_t)w->in, out);
}

/* ---- measuring -------------------------------------------------------------------------------------------------------- */

/* Numbers in [-1, 1) without a pattern that a kernel could be lucky with. */
static void fill(float *x, int64_t n, uint32_t seed) {
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(int32_t)seed * 0x1p-31f;
    }
}

bool pb_blas_row_invariant(pb_context *ctx) {
    enum { ROWS = 29, IN = 700, OUT = 83 };
    const size_t floats = ROWS * IN + IN * OUT + 2 * ROWS * OUT;
    float *x = pb_alloc(ctx, floats, sizeof *x);
    if (!x)
        return false;
    float *weights = x + ROWS * IN, *together = weights + IN * OUT, *apart = together + ROWS * OUT;
    fill(x, ROWS * IN + IN * OUT, 1);

    bool same = true;
    for (int in_major = 0; in_major < 2 && same; in_major++) {
        pb_matrix w = {.data = weights,
                       .type = PB_STORED_F32,
                       .in_major = in_major == 1,
                       .in = IN,
                       .out = OUT,
                       .ld = in_major ? OUT : IN,
                       .block = OUT,
                       .block_stride = OUT};
        same = pb_linear(ctx, x, IN, ROWS, &w, together, OUT, 0, NULL) == PB_OK;
        for (int64_t rows = 1; rows <= ROWS && same; rows += 1 + rows / 3) {
            const int64_t first = ROWS - rows;
            same = pb_linear(ctx, x + first * IN, IN, rows, &w, apart, OUT, 0, NULL) == PB_OK &&
                   memcmp(apart, together + first * OUT, (size_t)(rows * OUT) * sizeof *apart) == 0;
        }
    }
    pb_free(x);
    return same;
}

const char *pb_blas_config(void) { return openblas_get_config(); }

const char *pb_blas_corename(void) { return openblas_get_corename(); }

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double pb_blas_peak_gflops(pb_context *ctx, double seconds) {
    enum { SIDE = 1536 };
    float *x = pb_alloc(ctx, 3 * (size_t)SIDE * SIDE, sizeof *x);
    if (!x)
        return 0;
    float *w = x + SIDE * SIDE, *y = w + SIDE * SIDE;
    fill(x, 2 * SIDE * SIDE, 1);

    /* OpenBLAS's OpenMP build takes the caller's number of threads, which is put back after. */
    const int threads_before = omp_get_max_threads();
    omp_set_num_threads(pb_context_threads(ctx));
    double best = 0;
    const double begin = seconds_now();
    do {
        double t = seconds_now();
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, SIDE, SIDE, SIDE, 1, x, SIDE, w, SIDE, 0, y, SIDE);
        double rate = 2.0 * SIDE * SIDE * SIDE / (seconds_now() - t) * 1e-9;
        best = rate > best ? rate : best;
    } while (seconds_now() - begin < seconds);
    omp_set_num_threads(threads_before);
    pb_free(x);
    return best;
}
