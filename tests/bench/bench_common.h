/* What the benchmarks of whole workloads share: random models, the speed of sgemm around a workload, memory, and the line that
 * a set of variants gets. Errors end the process: these are programs to be looked at, not tests. */
#ifndef PB_BENCH_COMMON_H
#define PB_BENCH_COMMON_H

#include "patchbay/patchbay.h"
#include "support/model_writer.h"

enum { GPT2_LAYERS = 12, GPT2_HEADS = 12, GPT2_WIDTH = 768, GPT2_VOCAB = 50257 };

typedef struct bench {
    pb_context *ctx;
    pb_model *model;    /* of the shape of GPT-2 small, when asked for */
    const char *filter; /* only workloads whose name contains it; NULL: all */
    bool whole;         /* run all variants of large workloads */
    double peak;        /* GFLOP/s of one large sgemm, measured last */
    char folder[4096];  /* of the model; removed at the end */
} bench;

extern const model_shape bench_gpt2_shape;

/* usage: PROGRAM [-w] [FILTER]. Prints the machine and its load. model: make and open the one of GPT-2 small's shape. */
void bench_start(bench *b, int argc, char **argv, bool model);
void bench_end(bench *b);

double bench_now(void); /* seconds */
void bench_need(pb_status status, const pb_error *err, const char *what);
void *bench_memory(size_t count, size_t size); /* zeroed */
bool bench_wanted(const bench *b, const char *name);

/* A new folder for a model, below TMPDIR, into path[size]; and its end. */
void bench_make_folder(char *path, size_t size);
void bench_remove_folder(const char *path);

/* The speed of sgemm around a workload: call it before and after, and use the answer of the second call (the better of both:
 * clocks and other users change it). */
double bench_peak(bench *b);

/* Linux: high-water mark of resident memory. False where it cannot be reset. */
bool bench_reset_resident(void);
double bench_resident_megabytes(void);

void bench_draw_tokens(uint64_t seed, int32_t vocab, int32_t *ids, size_t n);
pb_metric *bench_metric(pb_context *ctx, pb_metric_kind kind); /* of tokens 100 and 200, at the last position */
/* Best time of one whole forward pass with its metric. */
double bench_forward_seconds(pb_model *model, const pb_metric *metric, const int32_t *ids, size_t n, int repeats);

typedef struct bench_variants {
    const char *name;
    pb_request *requests;
    size_t n;
    double pass;       /* seconds of one whole forward pass, for the gain; 0: no gain */
    double goal;       /* per cent of peak; 0: none */
    double most_gflop; /* run every k-th variant only, so that it is about as much (not with -w); 0: run all */
    int repeats;
} bench_variants;

void bench_variants_header(void);
/* Measures, prints the line, and returns the seconds for all variants (extrapolated by arithmetic when only a part ran). */
double bench_measure(bench *b, const bench_variants *v);

#endif
