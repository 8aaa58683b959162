/* Speed and memory of sweeps on a model of the shape of GPT-2 small, with random weights from a seed.
 * usage: bench_sweep [FILTER]: only workloads whose name contains FILTER.
 *
 * Columns: best wall time of up to three runs; arithmetic of the dirty cone (from the plan, 2 per multiply-add);
 * the share of the speed of one large sgemm, measured in this process before and after the workload (the better of the
 * two counts: clocks and other users change it); and the gain over doing one whole forward pass for each variant, of
 * which some are timed and the rest extrapolated. */
#include <dirent.h>
#include <math.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "patchbay/patchbay.h"
#include "support/model_writer.h"
#include "tensor/gemm.h"
#include "tensor/kernels.h"

enum { LAYERS = 12, HEADS = 12, WIDTH = 768, T = 15, VOCAB = 50257, MAX_VARIANTS = LAYERS * HEADS * T };

extern char **environ;

typedef struct bench {
    pb_context *ctx;
    pb_model *model;
    pb_run *clean, *corrupt;        /* unrelated tokens */
    pb_run *prefix_clean, *prefix_corrupt; /* the same first ten tokens */
    pb_metric *metric;
    double peak;                    /* GFLOP/s of one large sgemm, measured last */
    double pass;                    /* seconds of one whole forward pass over T tokens, metric included */
    const char *filter;
} bench;

/* Coordinates and patches of every variant of a workload. */
typedef struct variants {
    size_t n;
    int32_t positions[MAX_VARIANTS], heads[MAX_VARIANTS];
    pb_patch patches[MAX_VARIANTS];
    pb_request requests[MAX_VARIANTS];
    double values[MAX_VARIANTS];
} variants;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void need(pb_status status, const pb_error *err, const char *what) {
    if (status == PB_OK)
        return;
    fprintf(stderr, "bench: %s: %s\n", what, err->message);
    exit(1);
}

static bool wanted(const bench *b, const char *name) { return !b->filter || strstr(name, b->filter); }

/* ---- memory of the process ---------------------------------------------------------------------------------------- */

/* Linux: 5 resets the high-water mark of resident memory. False where that is not possible. */
static bool reset_resident_peak(void) {
    FILE *file = fopen("/proc/self/clear_refs", "w");
    if (!file)
        return false;
    bool good = fputs("5", file) >= 0;
    return fclose(file) == 0 && good;
}

static double status_megabytes(const char *key) {
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    double kilobytes = NAN;
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, key, strlen(key)) == 0)
            kilobytes = atof(line + strlen(key) + 1);
    if (file)
        fclose(file);
    return kilobytes / 1024;
}

/* ---- sweeps ------------------------------------------------------------------------------------------------------------ */

static void add(variants *v, const bench *b, pb_run *base, pb_run *source, pb_site_kind kind, int layer, int pos, int head) {
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

/* The speed of sgemm around a workload: call it before and after. */
static double peak_now(bench *b) {
    double earlier = b->peak;
    b->peak = pb_blas_peak_gflops(b->ctx, 0.4);
    return fmax(earlier, b->peak);
}

static void measure_sweep(bench *b, const char *name, variants *v, double goal) {
    pb_error err = {0};
    pb_plan plan = {0};
    const pb_measure_options dry = {.dry = true, .allow_unread = true}, real = {.allow_unread = true};
    double best = INFINITY, spent = 0;

    need(pb_measure(v->requests, v->n, &dry, NULL, NULL, &plan, &err), &err, name);
    peak_now(b);
    pb_context_reset_memory_peak(b->ctx);
    const size_t before = pb_context_memory_used(b->ctx);
    bool resident = reset_resident_peak();
    for (int repeat = 0; repeat < 3 && spent < 8; repeat++) {
        double start = now();
        need(pb_measure(v->requests, v->n, &real, v->values, NULL, NULL, &err), &err, name);
        double seconds = now() - start;
        spent += seconds;
        best = fmin(best, seconds);
    }
    for (size_t i = 0; i < v->n; i++)
        if (!isfinite(v->values[i]))
            need(pb_fail(&err, PB_ERR_NUMERIC, "variant %zu has the value %g", i, v->values[i]), &err, name);

    const double speed = plan.flops / best * 1e-9, peak = peak_now(b);
    printf("%-28s %6zu %8.3f s %8.1f %8.1f  %5.1f %% ", name, v->n, best, plan.flops * 1e-9, speed, 100 * speed / peak);
    if (goal > 0)
        printf("(goal %2.0f) ", goal);
    else
        printf("          ");
    printf("%7.1fx  work %4.0f MB in %zu chunk%s", (double)v->n * b->pass / best,
           (double)(pb_context_memory_peak(b->ctx) - before) * 1e-6, plan.chunks, plan.chunks == 1 ? "" : "s");
    if (resident)
        printf(", resident %4.0f MB", status_megabytes("VmHWM:"));
    printf("\n");
    fflush(stdout);
}

static void sweeps(bench *b, variants *v) {
    if (wanted(b, "residual 12x15")) {
        v->n = 0;
        for (int layer = 0; layer < LAYERS; layer++)
            for (int pos = 0; pos < T; pos++)
                add(v, b, b->corrupt, b->clean, PB_SITE_RESID_PRE, layer, pos, -1);
        measure_sweep(b, "residual 12x15", v, 80);
    }
    if (wanted(b, "heads all positions 12x12")) {
        v->n = 0;
        for (int layer = 0; layer < LAYERS; layer++)
            for (int head = 0; head < HEADS; head++)
                add(v, b, b->corrupt, b->clean, PB_SITE_Z, layer, -1, head);
        measure_sweep(b, "heads all positions 12x12", v, 75);
    }
    if (wanted(b, "block_every 3x12x15")) {
        const pb_site_kind kinds[] = {PB_SITE_RESID_PRE, PB_SITE_ATTN_OUT, PB_SITE_MLP_OUT};
        v->n = 0;
        for (int k = 0; k < 3; k++)
            for (int layer = 0; layer < LAYERS; layer++)
                for (int pos = 0; pos < T; pos++)
                    add(v, b, b->corrupt, b->clean, kinds[k], layer, pos, -1);
        measure_sweep(b, "block_every 3x12x15", v, 80);
    }
    if (wanted(b, "shared prefix 12x15")) {
        v->n = 0;
        for (int layer = 0; layer < LAYERS; layer++)
            for (int pos = 0; pos < T; pos++)
                add(v, b, b->prefix_corrupt, b->prefix_clean, PB_SITE_RESID_PRE, layer, pos, -1);
        measure_sweep(b, "shared prefix 12x15", v, 0);
    }
    if (wanted(b, "heads 12x12x15")) {
        v->n = 0;
        for (int layer = 0; layer < LAYERS; layer++)
            for (int head = 0; head < HEADS; head++)
                for (int pos = 0; pos < T; pos++)
                    add(v, b, b->corrupt, b->clean, PB_SITE_Z, layer, pos, head);
        measure_sweep(b, "heads 12x12x15", v, 75);
    }
}

/* ---- forward passes -------------------------------------------------------------------------------------------------------- */

static void draw_tokens(uint64_t seed, int32_t *ids, size_t n) {
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)(pb_rng_word(seed, 7, i) % VOCAB);
}

static double forward_seconds(const bench *b, const int32_t *ids, size_t n, int repeats) {
    pb_error err = {0};
    double best = INFINITY;
    for (int i = 0; i < repeats; i++) {
        pb_run *run = NULL;
        double value = 0, start = now();
        need(pb_run_create(b->model, ids, n, &run, &err), &err, "forward pass");
        need(pb_run_metric(run, b->metric, &value, &err), &err, "metric");
        best = fmin(best, now() - start);
        pb_run_unref(run);
    }
    return best;
}

/* Products of one forward pass: 12 D^2 weights a row and layer, and attention over half the square. */
static double forward_flops(double n) { return LAYERS * (n * 24.0 * WIDTH * WIDTH + 4.0 * WIDTH * n * (n + 1) / 2); }

static void forwards(bench *b) {
    static int32_t ids[1024];
    const size_t lengths[] = {15, 128, 1024};
    draw_tokens(3, ids, 1024);
    for (size_t i = 0; i < 3; i++) {
        char name[64];
        snprintf(name, sizeof name, "forward of %zu tokens", lengths[i]);
        if (!wanted(b, name))
            continue;
        pb_context_reset_memory_peak(b->ctx);
        const size_t before = pb_context_memory_used(b->ctx);
        double seconds = forward_seconds(b, ids, lengths[i], 5), flops = forward_flops((double)lengths[i]);
        printf("%-28s %6d %8.4f s %8.1f %8.1f  %5.1f %%                     work %4.0f MB\n", name, 1, seconds, flops * 1e-9,
               flops / seconds * 1e-9, 100 * flops / seconds * 1e-9 / peak_now(b),
               (double)(pb_context_memory_peak(b->ctx) - before) * 1e-6);
        fflush(stdout);
    }
}

/* ---- starting ------------------------------------------------------------------------------------------------------------------ */

static double open_seconds(const char *folder) {
    pb_error err = {0};
    double best = INFINITY;
    for (int i = 0; i < 3; i++) {
        pb_context *ctx = NULL;
        pb_model *model = NULL;
        double start = now();
        need(pb_context_create(NULL, &ctx, &err), &err, "context");
        need(pb_model_open(ctx, folder, NULL, &model, &err), &err, "opening the model");
        best = fmin(best, now() - start);
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
          "assert(pb.metric.prob(\" Paris\")(run) > 0.9)\n", file);
    fclose(file);
    for (int i = 0; i < 5; i++) {
        char *const argv[] = {(char *)(uintptr_t)program, "run", recipe, "-o", output, NULL};
        pid_t child;
        int status = 0;
        double start = now();
        if (posix_spawn(&child, program, NULL, NULL, argv, environ) != 0 || waitpid(child, &status, 0) != child || status != 0)
            return NAN;
        best = fmin(best, now() - start);
    }
    return best;
}

static void remove_folder(const char *path) {
    DIR *folder = opendir(path);
    struct dirent *entry;
    while (folder && (entry = readdir(folder))) {
        char name[4600];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        if (remove(name) != 0)
            remove_folder(name);
    }
    if (folder)
        closedir(folder);
    rmdir(path);
}

static void starts(const bench *b, const char *folder, const char *self) {
    if (wanted(b, "open")) {
        double seconds = open_seconds(folder);
        printf("%-28s        %8.1f ms  (goal 100; %.0f MB of weights, in the page cache)\n", "open", 1e3 * seconds,
               (double)pb_model_weight_bytes(b->model) * 1e-6);
    }
    if (wanted(b, "cold start")) {
        char program[4200];
        const char *slash = strrchr(self, '/');
        snprintf(program, sizeof program, "%.*s/../patchbay", slash ? (int)(slash - self) : 1, slash ? self : ".");
        double seconds = access(program, X_OK) == 0 ? cold_start_seconds(program, folder) : NAN;
        if (isnan(seconds))
            printf("%-28s        not measured: %s does not run the recipe\n", "cold start", program);
        else
            printf("%-28s        %8.1f ms  (goal 50; a new process, built-in model, to the first probability)\n", "cold start",
                   1e3 * seconds);
    }
}

/* ---- all ------------------------------------------------------------------------------------------------------------------------- */

static void make_runs(bench *b) {
    pb_error err = {0};
    int32_t clean[T], corrupt[T], answer = 100, wrong = 200;
    draw_tokens(1, clean, T);
    draw_tokens(2, corrupt, T);
    const pb_metric_options options = {.kind = PB_METRIC_LOGIT_DIFF, .answers = &answer, .n_answers = 1, .wrong = &wrong, .n_wrong = 1};
    need(pb_metric_create(b->ctx, &options, &b->metric, &err), &err, "metric");
    need(pb_run_create(b->model, clean, T, &b->clean, &err), &err, "clean run");
    need(pb_run_create(b->model, corrupt, T, &b->corrupt, &err), &err, "corrupted run");
    memcpy(corrupt, clean, 10 * sizeof *clean);
    need(pb_run_create(b->model, clean, T, &b->prefix_clean, &err), &err, "clean run");
    need(pb_run_fork(b->prefix_clean, corrupt, T, &b->prefix_corrupt, &err), &err, "fork");
    b->pass = forward_seconds(b, clean, T, 7);
}

int main(int argc, char **argv) {
    pb_error err = {0};
    bench b = {.filter = argc > 1 ? argv[1] : NULL};
    const model_shape shape = {.layers = LAYERS, .heads = HEADS, .d_model = WIDTH, .d_mlp = 4 * WIDTH, .vocab = VOCAB,
                               .positions = 1024, .seed = 1};
    char folder[4096];
    const char *parent = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/patchbay-bench-XXXXXX", parent && parent[0] ? parent : "/tmp");
    if (!mkdtemp(folder) || model_write(folder, &shape) < 0) {
        perror(folder);
        return 1;
    }

    need(pb_context_create(NULL, &b.ctx, &err), &err, "context");
    need(pb_model_open(b.ctx, folder, NULL, &b.model, &err), &err, "model");
    b.peak = pb_blas_peak_gflops(b.ctx, 1.0);
    printf("%s\nkernels %s / %s, %d threads, one large sgemm: %.1f GFLOP/s\n", pb_blas_config(), pb_blas_corename(),
           pb_kernels_name(), pb_context_threads(b.ctx), b.peak);
    double load = 0;
    if (getloadavg(&load, 1) == 1 && load > 0.5)
        printf("NOTE: others use this machine (load %.1f): the numbers below are too low\n", load);
    make_runs(&b);
    printf("one whole forward pass over %d tokens: %.4f s (best of 7; the gain extrapolates it to one pass a variant)\n\n", T, b.pass);
    printf("%-28s %6s %10s %8s %8s  %7s %10s %8s\n", "workload", "number", "time", "GFLOP", "GFLOP/s", "of peak", "", "gain");

    variants *v = calloc(1, sizeof *v);
    if (!v)
        return 1;
    sweeps(&b, v);
    free(v);
    forwards(&b);
    starts(&b, folder, argv[0]);

    pb_metric_unref(b.metric);
    pb_run_unref(b.clean);
    pb_run_unref(b.corrupt);
    pb_run_unref(b.prefix_clean);
    pb_run_unref(b.prefix_corrupt);
    pb_model_unref(b.model);
    pb_context_unref(b.ctx);
    remove_folder(folder);
    return 0;
}
