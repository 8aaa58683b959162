/* Speed and memory of sweeps on a model of the shape of GPT-2 small, with random weights from a seed.
 * usage: bench_sweep [FILTER]: only workloads whose name contains FILTER.
 *
 * Columns: best wall time of up to three runs; arithmetic of the dirty cone (from the plan, 2 per multiply-add);
 * the share of the speed of one large sgemm, measured in this process before and after the workload (the better of the
 * two counts: clocks and other users change it); and the gain over doing one whole forward pass for each variant, of
 * which some are timed and the rest extrapolated. */
#include <math.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench_common.h"

enum { LAYERS = GPT2_LAYERS, HEADS = GPT2_HEADS, T = 15, MAX_VARIANTS = LAYERS * HEADS * T };

extern char **environ;

typedef struct sweep_bench {
    bench common;
    pb_run *clean, *corrupt;               /* unrelated tokens */
    pb_run *prefix_clean, *prefix_corrupt; /* the same first ten tokens */
    pb_metric *metric;
    double pass; /* seconds of one whole forward pass over T tokens, metric included */
} sweep_bench;

/* Coordinates and patches of every variant of a workload. */
typedef struct variants {
    size_t n;
    int32_t positions[MAX_VARIANTS], heads[MAX_VARIANTS];
    pb_patch patches[MAX_VARIANTS];
    pb_request requests[MAX_VARIANTS];
} variants;

/* ---- sweeps ------------------------------------------------------------------------------------------------------------ */

static void add(variants *v, const sweep_bench *b, pb_run *base, pb_run *source, pb_site_kind kind, int layer, int pos,
                int head) {
    const size_t i = v->n++;
    v->positions[i] = pos;
    v->heads[i] = head;
    v->patches[i] = (pb_patch){.site = {kind, layer}, .op = PB_PATCH_SET, .value = PB_VALUE_RUN, .run = source};
    if (pos >= 0)
        v->patches[i].pos = (pb_choice){true, 1, &v->positions[i]};
    if (head >= 0)
        v->patches[i].head = (pb_choice){true, 1, &v->heads[i]};
    v->requests[i] = (pb_request){.base = base, .patches = &v->patches[i], .n_patches = 1, .metric = b->metric};
}

static void measure_sweep(sweep_bench *b, const char *name, const variants *v, double goal) {
    const bench_variants all = {.name = name,
                                .requests = (pb_request *)(uintptr_t)v->requests,
                                .n = v->n,
                                .pass = b->pass,
                                .goal = goal,
                                .repeats = 3};
    bench_measure(&b->common, &all);
}

static void sweeps(sweep_bench *b, variants *v) {
    if (bench_wanted(&b->common, "residual 12x15")) {
        v->n = 0;
        for (int layer = 0; layer < LAYERS; layer++)
            for (int pos = 0; pos < T; pos++)
                add(v, b, b->corrupt, b->clean, PB_SITE_RESID_PRE, layer, pos, -1);
        measure_sweep(b, "residual 12x15", v, 80);
    }
    if (bench_wanted(&b->common, "heads all positions 12x12")) {
        v->n = 0;
        for (int layer = 0; layer < LAYERS; layer++)
            for (int head = 0; head < HEADS; head++)
                add(v, b, b->corrupt, b->clean, PB_SITE_Z, layer, -1, head);
        measure_sweep(b, "heads all positions 12x12", v, 75);
    }
    if (bench_wanted(&b->common, "block_every 3x12x15")) {
        const pb_site_kind kinds[] = {PB_SITE_RESID_PRE, PB_SITE_ATTN_OUT, PB_SITE_MLP_OUT};
        v->n = 0;
        for (int k = 0; k < 3; k++)
            for (int layer = 0; layer < LAYERS; layer++)
                for (int pos = 0; pos < T; pos++)
                    add(v, b, b->corrupt, b->clean, kinds[k], layer, pos, -1);
        measure_sweep(b, "block_every 3x12x15", v, 80);
    }
    if (bench_wanted(&b->common, "shared prefix 12x15")) {
        v->n = 0;
        for (int layer = 0; layer < LAYERS; layer++)
            for (int pos = 0; pos < T; pos++)
                add(v, b, b->prefix_corrupt, b->prefix_clean, PB_SITE_RESID_PRE, layer, pos, -1);
        measure_sweep(b, "shared prefix 12x15", v, 0);
    }
    if (bench_wanted(&b->common, "heads 12x12x15")) {
        v->n = 0;
        for (int layer = 0; layer < LAYERS; layer++)
            for (int head = 0; head < HEADS; head++)
                for (int pos = 0; pos < T; pos++)
                    add(v, b, b->corrupt, b->clean, PB_SITE_Z, layer, pos, head);
        measure_sweep(b, "heads 12x12x15", v, 75);
    }
}

/* ---- starting ------------------------------------------------------------------------------------------------------------------ */

static double open_seconds(const char *folder) {
    pb_error err = {0};
    double best = INFINITY;
    for (int i = 0; i < 3; i++) {
        pb_context *ctx = NULL;
        pb_model *model = NULL;
        double start = bench_now();
        bench_need(pb_context_create(NULL, &ctx, &err), &err, "context");
        bench_need(pb_model_open(ctx, folder, NULL, &model, &err), &err, "opening the model");
        best = fmin(best, bench_now() - start);
        pb_model_unref(model);
        pb_context_unref(ctx);
    }
    return best;
}

/* The program beside this one runs a recipe that loads the built-in model and asks for one probability: a new process. */
static double cold_start_seconds(const char *program, const char *folder) {
    char recipe[4200], output[4200];
    double best = INFINITY;
    snprintf(recipe, sizeof recipe, "%s/cold.lua", folder);
    snprintf(output, sizeof output, "%s/cold", folder);
    FILE *file = fopen(recipe, "w");
    if (!file)
        return NAN;
    fputs("local pb = require \"patchbay\"\n"
          "local run = pb.load(\"facts\"):run \"The Eiffel Tower is located in the city of\"\n"
          "assert(pb.metric.prob(\" Paris\")(run) > 0.9)\n",
          file);
    fclose(file);
    for (int i = 0; i < 5; i++) {
        char *const argv[] = {(char *)(uintptr_t)program, "run", recipe, "-o", output, NULL};
        pid_t child;
        int status = 0;
        double start = bench_now();
        if (posix_spawn(&child, program, NULL, NULL, argv, environ) != 0 || waitpid(child, &status, 0) != child ||
            status != 0)
            return NAN;
        best = fmin(best, bench_now() - start);
    }
    return best;
}

static void starts(const sweep_bench *b, const char *folder, const char *self) {
    if (bench_wanted(&b->common, "open")) {
        double seconds = open_seconds(folder);
        printf("%-28s        %8.1f ms  (goal 100; %.0f MB of weights, in the page cache)\n", "open", 1e3 * seconds,
               (double)pb_model_weight_bytes(b->common.model) * 1e-6);
    }
    if (bench_wanted(&b->common, "cold start")) {
        char program[4200];
        const char *slash = strrchr(self, '/');
        snprintf(program, sizeof program, "%.*s/../patchbay", slash ? (int)(slash - self) : 1, slash ? self : ".");
        double seconds = access(program, X_OK) == 0 ? cold_start_seconds(program, folder) : NAN;
        if (isnan(seconds))
            printf("%-28s        not measured: %s does not run the recipe\n", "cold start", program);
        else
            printf("%-28s        %8.1f ms  (goal 50; a new process, built-in model, to the first probability)\n",
                   "cold start", 1e3 * seconds);
    }
}

/* ---- all ------------------------------------------------------------------------------------------------------------------------- */

static void make_runs(sweep_bench *b) {
    pb_error err = {0};
    int32_t clean[T], corrupt[T];
    pb_model *model = b->common.model;
    bench_draw_tokens(1, GPT2_VOCAB, clean, T);
    bench_draw_tokens(2, GPT2_VOCAB, corrupt, T);
    b->metric = bench_metric(b->common.ctx, PB_METRIC_LOGIT_DIFF);
    bench_need(pb_run_create(model, clean, T, &b->clean, &err), &err, "clean run");
    bench_need(pb_run_create(model, corrupt, T, &b->corrupt, &err), &err, "corrupted run");
    memcpy(corrupt, clean, 10 * sizeof *clean);
    bench_need(pb_run_create(model, clean, T, &b->prefix_clean, &err), &err, "clean run");
    bench_need(pb_run_fork(b->prefix_clean, corrupt, T, &b->prefix_corrupt, &err), &err, "fork");
    b->pass = bench_forward_seconds(model, b->metric, clean, T, 7);
}

int main(int argc, char **argv) {
    sweep_bench b = {0};
    bench_start(&b.common, argc, argv, true);
    make_runs(&b);
    printf(
        "one whole forward pass over %d tokens: %.4f s (best of 7; the gain extrapolates it to one pass a variant)\n\n",
        T, b.pass);
    bench_variants_header();

    variants *v = bench_memory(1, sizeof *v);
    sweeps(&b, v);
    free(v);
    starts(&b, b.common.folder, argv[0]);

    pb_metric_unref(b.metric);
    pb_run_unref(b.clean);
    pb_run_unref(b.corrupt);
    pb_run_unref(b.prefix_clean);
    pb_run_unref(b.prefix_corrupt);
    bench_end(&b.common);
    return 0;
}
