/* Speed of the kernels: products beside one large sgemm, memory bandwidth of one-row products, row kernels, attention.
 * usage: bench_kernels [FILTER]: only lines whose name contains FILTER. Each figure is the best of several runs. */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tensor/gemm.h"
#include "tensor/kernels.h"

typedef struct bench {
    pb_context *ctx;
    const char *filter;
    double peak;      /* GFLOP/s of one large sgemm */
    double bandwidth; /* GB/s of all threads reading a large array */
} bench;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static bool wanted(const bench *b, const char *name) { return !b->filter || strstr(name, b->filter); }

static float *numbers(const bench *b, int64_t n, uint32_t seed) {
    float *x = pb_alloc(b->ctx, (size_t)n, sizeof *x);
    if (!x) {
        fprintf(stderr, "bench: no memory for %lld floats\n", (long long)n);
        exit(1);
    }
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(int32_t)seed * 0x1p-31f;
    }
    return x;
}

/* Shortest time of one call of body, over at least 5 calls and 0.2 seconds. */
static double shortest(void (*body)(void *), void *user) {
    double best = 1e9;
    const double begin = now();
    for (int i = 0; i < 5 || now() - begin < 0.2; i++) {
        const double t = now();
        body(user);
        const double took = now() - t;
        best = took < best ? took : best;
    }
    return best;
}

typedef struct reading {
    const float *x;
    int64_t n;
    double sum;
    int threads;
} reading;

static void read_all(void *user) {
    reading *r = user;
    double sum = 0;
#pragma omp parallel for num_threads(r->threads) reduction(+ : sum)
    for (int64_t i = 0; i < r->n; i += 4096)
        sum += (double)pb_row_max(r->x + i, 4096);
    r->sum = sum;
}

/* ---- products -------------------------------------------------------------------------------------------------------- */

typedef struct product {
    const bench *b;
    pb_matrix w;
    const float *x;
    float *y;
    int64_t rows;
} product;

static void multiply(void *user) {
    product *p = user;
    pb_error err = {0};
    if (pb_linear(p->b->ctx, p->x, p->w.in, p->rows, &p->w, p->y, p->w.out, 0, &err) != PB_OK) {
        fprintf(stderr, "bench: %s\n", err.message);
        exit(1);
    }
}

static void bench_product(const bench *b, int64_t rows, int64_t in, int64_t out) {
    char name[80];
    for (int layout = 0; layout < 4; layout++) {
        const bool in_major = layout % 2 == 0, narrow = layout >= 2;
        snprintf(name, sizeof name, "linear [%lld,%lld]x[%lld,%lld] %s %s", (long long)rows, (long long)in,
                 (long long)in, (long long)out, narrow ? "bf16" : "f32", in_major ? "in-major" : "out-major");
        if (!wanted(b, name))
            continue;
        /* As bf16 the floats' memory holds twice as many numbers as needed; any bits but NaN's will do. */
        float *x = numbers(b, rows * in, 1), *w = numbers(b, in * out, 2), *y = numbers(b, rows * out, 3);
        product p = {.b = b,
                     .x = x,
                     .y = y,
                     .rows = rows,
                     .w = {.data = w,
                           .type = narrow ? PB_STORED_BF16 : PB_STORED_F32,
                           .in_major = in_major,
                           .in = in,
                           .out = out,
                           .ld = in_major ? out : in,
                           .block = out,
                           .block_stride = out}};
        const double seconds = shortest(multiply, &p);
        const double gflops = 2e-9 * (double)(rows * in * out) / seconds;
        const double gbytes = 1e-9 * (double)(in * out) * (narrow ? 2 : 4) / seconds;
        printf("%-58s %8.3f ms %7.1f GFLOP/s %3.0f%% of sgemm %6.1f GB/s %3.0f%% of memory\n", name, seconds * 1e3,
               gflops, 100 * gflops / b->peak, gbytes, 100 * gbytes / b->bandwidth);
        pb_free(x);
        pb_free(w);
        pb_free(y);
    }
}

/* ---- rows ------------------------------------------------------------------------------------------------------------- */

enum { ROWS = 240, WIDTH = 3072 };

typedef struct rows_work {
    pb_context *ctx;
    float *x, *y, *bias;
    pb_act act;
} rows_work;

static void act_rows(void *user) {
    rows_work *w = user;
    pb_bias_act_rows(w->ctx, w->act, w->x, WIDTH, NULL, NULL, 0, w->y, WIDTH, ROWS, WIDTH);
}

static void layer_norm_rows(void *user) {
    rows_work *w = user;
    const pb_norm norm = {.centre = true, .eps = 1e-5f, .width = 768, .weight = w->bias, .bias = w->bias};
    pb_norm_rows(w->ctx, &norm, w->x, 768, ROWS * WIDTH / 768, w->y, 768, NULL, NULL, 0);
}

static void softmax_rows(void *user) {
    rows_work *w = user;
    for (int r = 0; r < ROWS; r++)
        pb_row_softmax(w->x + r * WIDTH, WIDTH);
}

static void logsumexp_rows(void *user) {
    rows_work *w = user;
    double sum = 0;
    for (int r = 0; r < ROWS; r++)
        sum += pb_row_logsumexp(w->x + r * WIDTH, WIDTH);
    w->y[0] = (float)sum;
}

static void exp_rows(void *user) {
    rows_work *w = user;
    for (int r = 0; r < ROWS; r++)
        pb_vec_exp(w->x + r * WIDTH, w->y + r * WIDTH, WIDTH);
}

static void add_rows(void *user) {
    rows_work *w = user;
    pb_add_rows(w->ctx, w->x, WIDTH, w->y, WIDTH, w->y, WIDTH, ROWS, WIDTH);
}

static void bench_rows(const bench *b) {
    const struct {
        const char *name;
        void (*body)(void *);
        pb_act act;
    } all[] = {{"gelu (erf) [parallel]", act_rows, PB_ACT_GELU},
               {"gelu (tanh) [parallel]", act_rows, PB_ACT_GELU_TANH},
               {"silu [parallel]", act_rows, PB_ACT_SILU},
               {"layer norm, 768 [parallel]", layer_norm_rows, 0},
               {"add [parallel]", add_rows, 0},
               {"exp", exp_rows, 0},
               {"softmax, 3072", softmax_rows, 0},
               {"logsumexp, 3072", logsumexp_rows, 0}};
    rows_work w = {.ctx = b->ctx,
                   .x = numbers(b, ROWS * WIDTH, 4),
                   .y = numbers(b, ROWS * WIDTH, 5),
                   .bias = numbers(b, WIDTH, 6)};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (!wanted(b, all[i].name))
            continue;
        w.act = all[i].act;
        printf("%-58s %8.3f ns/element\n", all[i].name, shortest(all[i].body, &w) * 1e9 / (ROWS * WIDTH));
    }
    pb_free(w.x);
    pb_free(w.y);
    pb_free(w.bias);
}

/* ---- attention -------------------------------------------------------------------------------------------------------- */

/* `heads` heads of one sequence in rows of heads * d floats, as a model has them; each thread takes whole heads. All
 * rows >= first are queries. */
typedef struct attention_work {
    const bench *b;
    int64_t n_keys, d, heads, first;
    float *q, *k, *v, *z, *scratch;
} attention_work;

static size_t attention_floats(int64_t n_keys, int64_t d) {
    return pb_attention_packed_size(n_keys, d) + pb_attention_scratch_size(n_keys);
}

static void attend_head(const attention_work *w, int64_t h, const float **rows, float **z, int32_t *pos,
                        float *scratch) {
    const int64_t ld = w->heads * w->d, n = w->n_keys, queries = n - w->first;
    float *packed = scratch, *rest = scratch + pb_attention_packed_size(n, w->d);
    for (int64_t i = 0; i < n; i++)
        rows[i] = w->k + i * ld + h * w->d;
    pb_attention_pack(rows, n, w->d, packed);
    for (int64_t i = 0; i < n; i++)
        rows[i] = w->v + i * ld + h * w->d;
    for (int64_t i = 0; i < queries; i++) {
        rows[n + i] = w->q + (w->first + i) * ld + h * w->d;
        z[i] = w->z + (w->first + i) * ld + h * w->d;
        pos[i] = (int32_t)(w->first + i);
    }
    const pb_attention_head head = {
        .n_keys = n, .d_head = w->d, .packed_keys = packed, .values = rows, .scale = 0.125f};
    pb_attention_fused(&head, rows + n, pos, queries, z, rest);
}

static void attend(void *user) {
    const attention_work *w = user;
    const size_t n = (size_t)w->n_keys;
    const int threads = pb_context_threads(w->b->ctx);
#pragma omp parallel num_threads(threads)
    {
        const float **rows = malloc(2 * n * sizeof *rows);
        float **z = malloc(n * sizeof *z);
        int32_t *pos = malloc(n * sizeof *pos);
        float *scratch = w->scratch + (size_t)omp_get_thread_num() * attention_floats(w->n_keys, w->d);
        if (rows && z && pos) {
#pragma omp for schedule(dynamic)
            for (int64_t h = 0; h < w->heads; h++)
                attend_head(w, h, rows, z, pos, scratch);
        }
        free(rows);
        free(z);
        free(pos);
    }
}

static void bench_attention(const bench *b, int64_t n_keys, int64_t d, int64_t heads, int64_t first) {
    char name[80];
    snprintf(name, sizeof name, "attention T=%lld d=%lld heads=%lld rows=%lld..", (long long)n_keys, (long long)d,
             (long long)heads, (long long)first);
    if (!wanted(b, name))
        return;
    const int64_t n = n_keys * d * heads;
    attention_work w = {.b = b,
                        .n_keys = n_keys,
                        .d = d,
                        .heads = heads,
                        .first = first,
                        .q = numbers(b, n, 7),
                        .k = numbers(b, n, 8),
                        .v = numbers(b, n, 9),
                        .z = numbers(b, n, 10)};
    w.scratch = numbers(b, (int64_t)attention_floats(n_keys, d) * pb_context_threads(b->ctx), 11);
    const double seconds = shortest(attend, &w);
    double pairs = 0; /* (query, visible key) */
    for (int64_t row = first; row < n_keys; row++)
        pairs += (double)(row + 1);
    const double gflops = 4e-9 * pairs * (double)(d * heads) / seconds;
    printf("%-58s %8.3f ms %7.1f GFLOP/s %3.0f%% of sgemm, %6.1f us a head\n", name, seconds * 1e3, gflops,
           100 * gflops / b->peak, seconds * 1e6 / (double)heads * pb_context_threads(b->ctx));
    pb_free(w.q);
    pb_free(w.k);
    pb_free(w.v);
    pb_free(w.z);
    pb_free(w.scratch);
}

int main(int argc, char **argv) {
    pb_error err = {0};
    bench b = {.filter = argc > 1 ? argv[1] : NULL};
    if (pb_context_create(NULL, &b.ctx, &err) != PB_OK) {
        fprintf(stderr, "bench: %s\n", err.message);
        return 1;
    }
    b.peak = pb_blas_peak_gflops(b.ctx, 1.0);
    reading r = {.n = 64 << 20, .threads = pb_context_threads(b.ctx)};
    float *memory = numbers(&b, r.n, 12);
    r.x = memory;
    b.bandwidth = 4e-9 * (double)r.n / shortest(read_all, &r);
    pb_free(memory);
    printf("%s\n%s kernels, %d threads; one large sgemm %.1f GFLOP/s, memory %.1f GB/s; rows independent: %s\n",
           pb_blas_config(), pb_kernels_name(), pb_context_threads(b.ctx), b.peak, b.bandwidth,
           pb_blas_row_invariant(b.ctx) ? "yes" : "NO");

    static const int64_t rows[] = {2160, 150, 15, 1};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bench_product(&b, rows[i], 768, 768);
        bench_product(&b, rows[i], 768, 2304);
        bench_product(&b, rows[i], 768, 3072);
        bench_product(&b, rows[i], 3072, 768);
        bench_product(&b, rows[i] > 500 ? 500 : rows[i], 768, 50257);
    }
    bench_rows(&b);
    bench_attention(&b, 15, 64, 12 * 32, 0);
    bench_attention(&b, 15, 64, 12 * 32, 14);
    bench_attention(&b, 15, 64, 12 * 32, 10);
    bench_attention(&b, 128, 64, 12, 0);
    bench_attention(&b, 1024, 64, 12, 0);
    bench_attention(&b, 1024, 64, 12, 1023);
    bench_attention(&b, 4096, 128, 8, 0);
    pb_context_unref(b.ctx);
    return 0;
}
