/* Speed of forward passes and of decoding, for a model of the shape of GPT-2 small and one with Llama's architecture, with
 * float32 and with bfloat16 weights.
 * usage: bench_forward [FILTER]: only lines whose name contains FILTER ("llama bf16", "decode")
 *
 * Forward: share of the speed of one large sgemm; attention's products count for half the square. Decoding: bytes of weights
 * read for each token (all matrices, and the embedding table as the unembedding), as share of what all threads together read from
 * memory in a plain loop in this process. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_common.h"

enum { PROMPT = 16, NEW_TOKENS = 33, LONGEST = 1024 };

static const model_shape llama_shape = {.llama = true,
                                        .layers = 12,
                                        .heads = 16,
                                        .kv_heads = 4,
                                        .d_model = 1024,
                                        .d_mlp = 2816,
                                        .vocab = 32000,
                                        .positions = 1024,
                                        .seed = 2};

typedef struct shape_bench {
    bench *common;
    const char *name;
    pb_model *model;
    double bandwidth; /* bytes a second */
    double bytes;     /* of weights read for a token */
} shape_bench;

/* All threads read an array that no cache holds; the best of five. */
static double read_bandwidth(const bench *b) {
    const size_t n = (size_t)32 << 20; /* 256 MiB */
    uint64_t *words = pb_alloc(b->ctx, n, sizeof *words), sum = 0;
    const int threads = pb_context_threads(b->ctx);
    double best = INFINITY;
    if (!words)
        return NAN;
#pragma omp parallel for num_threads(threads)
    for (size_t i = 0; i < n; i++)
        words[i] = i;
    for (int repeat = 0; repeat < 5; repeat++) {
        double start = bench_now();
#pragma omp parallel for simd num_threads(threads) reduction(+ : sum)
        for (size_t i = 0; i < n; i++)
            sum += words[i];
        best = fmin(best, bench_now() - start);
    }
    if (sum != 5 * (n / 2 * (n - 1)))
        best = NAN; /* and the sum cannot be left out */
    pb_free(words);
    return (double)(n * sizeof *words) / best;
}

static double forward_flops(const pb_model *m, double n) {
    double D = pb_model_d_model(m), q = (double)pb_model_heads(m) * pb_model_d_head(m),
           kv = (double)pb_model_kv_heads(m) * pb_model_d_head(m);
    double mlp = (strcmp(pb_model_family(m), "llama") == 0 ? 3.0 : 2.0) * D * pb_model_d_mlp(m);
    return pb_model_layers(m) * (2.0 * n * (2.0 * D * q + 2.0 * D * kv + mlp) + 4.0 * q * n * (n + 1) / 2);
}

static void forward(const shape_bench *b, size_t n) {
    static int32_t ids[LONGEST];
    char name[64];
    snprintf(name, sizeof name, "%s, forward of %zu", b->name, n);
    if (!bench_wanted(b->common, name))
        return;
    pb_context *ctx = b->common->ctx;
    pb_metric *metric = bench_metric(ctx, PB_METRIC_LOGIT_DIFF);
    bench_draw_tokens(3, pb_model_vocab(b->model), ids, n);
    bench_peak(b->common);
    pb_context_reset_memory_peak(ctx);
    const size_t before = pb_context_memory_used(ctx);
    const double seconds = bench_forward_seconds(b->model, metric, ids, n, n > 500 ? 3 : 6),
                 speed = forward_flops(b->model, (double)n) / seconds * 1e-9;
    const double work = (double)(pb_context_memory_peak(ctx) - before) * 1e-6;
    printf("%-30s %9.4f s  %7.1f GFLOP/s  %5.1f %% of sgemm ", name, seconds, speed,
           100 * speed / bench_peak(b->common));
    printf(n >= 128 ? "(goal 75)" : "         ");
    printf("  work %4.0f MB\n", work);
    fflush(stdout);
    pb_metric_unref(metric);
}

static double generate_seconds(pb_run *prompt, int tokens) {
    pb_error err = {0};
    const pb_generate_options options = {.tokens = tokens};
    int32_t *ids = NULL;
    size_t n = 0;
    double start = bench_now();
    bench_need(pb_generate(prompt, &options, &ids, &n, &err), &err, "generating");
    double seconds = bench_now() - start;
    pb_free(ids);
    return seconds;
}

/* The difference between many new tokens and one: copying the prompt and its own logits are in neither. */
static void decode(shape_bench *b) {
    char name[64];
    int32_t ids[PROMPT];
    pb_run *prompt = NULL;
    pb_error err = {0};
    double best = INFINITY;
    snprintf(name, sizeof name, "%s, decode", b->name);
    if (!bench_wanted(b->common, name))
        return;
    bench_draw_tokens(4, pb_model_vocab(b->model), ids, PROMPT);
    bench_need(pb_run_create(b->model, ids, PROMPT, &prompt, &err), &err, "prompt");
    b->bandwidth = read_bandwidth(b->common);
    for (int i = 0; i < 3; i++) {
        double one = generate_seconds(prompt, 1);
        best = fmin(best, (generate_seconds(prompt, NEW_TOKENS) - one) / (NEW_TOKENS - 1));
    }
    double bandwidth = fmax(b->bandwidth, read_bandwidth(b->common)), speed = b->bytes / best;
    printf("%-30s %9.4f s  %7.1f tokens/s  %5.1f GB/s  %5.1f %% of %.1f GB/s (goal 60)\n", name, best, 1 / best,
           speed * 1e-9, 100 * speed / bandwidth, bandwidth * 1e-9);
    fflush(stdout);
    pb_run_unref(prompt);
}

static void one_shape(bench *common, const char *folder, const char *name, const model_shape *shape) {
    shape_bench b = {.common = common, .name = name};
    pb_error err = {0};
    bench_need(pb_model_open(common->ctx, folder, NULL, &b.model, &err), &err, name);
    b.bytes = (double)pb_model_weight_bytes(b.model);
    if (!shape->llama) /* of the learned positions one row is read */
        b.bytes *= 1 - (double)shape->positions * shape->d_model / (double)pb_model_parameters(b.model);
    forward(&b, 128);
    forward(&b, LONGEST);
    decode(&b);
    pb_model_unref(b.model);
}

/* The shape in float32, then its bfloat16 export. */
static void both_types(bench *common, const char *f32_name, const char *bf16_name, const model_shape *shape) {
    char folder[4096], narrow[4200];
    pb_error err = {0};
    pb_model *model = NULL;
    bench_make_folder(folder, sizeof folder);
    snprintf(narrow, sizeof narrow, "%s/bf16", folder);
    if (model_write(folder, shape) < 0) {
        perror(folder);
        exit(1);
    }
    one_shape(common, folder, f32_name, shape);
    bench_need(pb_model_open(common->ctx, folder, NULL, &model, &err), &err, f32_name);
    bench_need(pb_model_export(model, narrow, PB_STORED_BF16, &err), &err, bf16_name);
    pb_model_unref(model);
    one_shape(common, narrow, bf16_name, shape);
    bench_remove_folder(folder);
}

int main(int argc, char **argv) {
    bench b = {0};
    bench_start(&b, argc, argv, false);
    printf("\n");
    both_types(&b, "gpt2 f32", "gpt2 bf16", &bench_gpt2_shape);
    both_types(&b, "llama f32", "llama bf16", &llama_shape);
    bench_end(&b);
    return 0;
}
