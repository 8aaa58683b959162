#include "bench_common.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tensor/gemm.h"
#include "tensor/kernels.h"

const model_shape bench_gpt2_shape = {.layers = GPT2_LAYERS,
                                      .heads = GPT2_HEADS,
                                      .d_model = GPT2_WIDTH,
                                      .d_mlp = 4 * GPT2_WIDTH,
                                      .vocab = GPT2_VOCAB,
                                      .positions = 1024,
                                      .seed = 1};

double bench_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void bench_need(pb_status status, const pb_error *err, const char *what) {
    if (status == PB_OK)
        return;
    fprintf(stderr, "bench: %s: %s\n", what, err->message);
    exit(1);
}

void *bench_memory(size_t count, size_t size) {
    void *block = calloc(count ? count : 1, size);
    if (!block) {
        perror("bench");
        exit(1);
    }
    return block;
}

bool bench_wanted(const bench *b, const char *name) { return !b->filter || strstr(name, b->filter); }

/* ---- start and end -------------------------------------------------------------------------------------------------- */

void bench_make_folder(char *path, size_t size) {
    const char *parent = getenv("TMPDIR");
    snprintf(path, size, "%s/patchbay-bench-XXXXXX", parent && parent[0] ? parent : "/tmp");
    if (!mkdtemp(path)) {
        perror(path);
        exit(1);
    }
}

void bench_remove_folder(const char *path) {
    DIR *folder = opendir(path);
    struct dirent *entry;
    while (folder && (entry = readdir(folder))) {
        char name[4600];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        if (remove(name) != 0)
            bench_remove_folder(name);
    }
    if (folder)
        closedir(folder);
    rmdir(path);
}

void bench_start(bench *b, int argc, char **argv, bool model) {
    pb_error err = {0};
    *b = (bench){.whole = argc > 1 && strcmp(argv[1], "-w") == 0};
    int filter = b->whole ? 2 : 1;
    b->filter = argc > filter ? argv[filter] : NULL;
    bench_need(pb_context_create(NULL, &b->ctx, &err), &err, "context");
    if (model) {
        bench_make_folder(b->folder, sizeof b->folder);
        if (model_write(b->folder, &bench_gpt2_shape) < 0) {
            perror(b->folder);
            exit(1);
        }
        bench_need(pb_model_open(b->ctx, b->folder, NULL, &b->model, &err), &err, "model");
    }
    b->peak = pb_blas_peak_gflops(b->ctx, 1.0);
    printf("%s\nkernels %s / %s, %d threads, one large sgemm: %.1f GFLOP/s\n", pb_blas_config(), pb_blas_corename(),
           pb_kernels_name(), pb_context_threads(b->ctx), b->peak);
    double load = 0;
    if (getloadavg(&load, 1) == 1 && load > 0.5)
        printf("NOTE: others use this machine (load %.1f): the numbers below are too low\n", load);
}

void bench_end(bench *b) {
    pb_model_unref(b->model);
    pb_context_unref(b->ctx);
    if (b->folder[0])
        bench_remove_folder(b->folder);
}

/* ---- measures ------------------------------------------------------------------------------------------------------- */

double bench_peak(bench *b) {
    double earlier = b->peak;
    b->peak = pb_blas_peak_gflops(b->ctx, 0.4);
    return fmax(earlier, b->peak);
}

bool bench_reset_resident(void) {
    FILE *file = fopen("/proc/self/clear_refs", "w");
    if (!file)
        return false;
    bool good = fputs("5", file) >= 0; /* 5: the high-water mark becomes what is resident now */
    return fclose(file) == 0 && good;
}

double bench_resident_megabytes(void) {
    FILE *file = fopen("/proc/self/status", "r");
    const char *key = "VmHWM:";
    char line[256];
    double kilobytes = NAN;
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, key, strlen(key)) == 0)
            kilobytes = atof(line + strlen(key) + 1);
    if (file)
        fclose(file);
    return kilobytes / 1024;
}

void bench_draw_tokens(uint64_t seed, int32_t vocab, int32_t *ids, size_t n) {
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)(pb_rng_word(seed, 7, i) % (uint32_t)vocab);
}

pb_metric *bench_metric(pb_context *ctx, pb_metric_kind kind) {
    const int32_t answer = 100, wrong = 200;
    pb_metric_options options = {.kind = kind};
    pb_metric *metric = NULL;
    pb_error err = {0};
    if (kind != PB_METRIC_NLL) {
        options.answers = &answer;
        options.n_answers = 1;
    }
    if (kind == PB_METRIC_LOGIT_DIFF || kind == PB_METRIC_PROB_DIFF) {
        options.wrong = &wrong;
        options.n_wrong = 1;
    }
    bench_need(pb_metric_create(ctx, &options, &metric, &err), &err, "metric");
    return metric;
}

double bench_forward_seconds(pb_model *model, const pb_metric *metric, const int32_t *ids, size_t n, int repeats) {
    pb_error err = {0};
    double best = INFINITY;
    for (int i = 0; i < repeats; i++) {
        pb_run *run = NULL;
        double value = 0, start = bench_now();
        bench_need(pb_run_create(model, ids, n, &run, &err), &err, "forward pass");
        bench_need(pb_run_metric(run, metric, &value, &err), &err, "metric");
        best = fmin(best, bench_now() - start);
        pb_run_unref(run);
    }
    return best;
}

/* ---- many variants -------------------------------------------------------------------------------------------------- */

void bench_variants_header(void) {
    printf("%-28s %6s %10s %8s %8s  %7s %10s %8s\n", "workload", "number", "time", "GFLOP", "GFLOP/s", "of peak", "",
           "gain");
}

/* Steps without the factors 2, 3 and 5, so that every k-th variant visits all heads, layers and positions alike. */
static size_t step_for(double gflop, double most) {
    size_t step = 1;
    while (most > 0 && (gflop / (double)step > most || (step > 1 && (step % 2 == 0 || step % 3 == 0 || step % 5 == 0))))
        step++;
    return step;
}

double bench_measure(bench *b, const bench_variants *v) {
    pb_error err = {0};
    pb_plan all = {0}, plan = {0};
    const pb_measure_options dry = {.dry = true, .allow_unread = true}, real = {.allow_unread = true};
    double best = INFINITY, spent = 0;

    const double begin = bench_now();
    bench_need(pb_measure(v->requests, v->n, &dry, NULL, NULL, &all, &err), &err, v->name);
    const double planning = bench_now() - begin;
    const size_t step = b->whole ? 1 : step_for(all.flops * 1e-9, v->most_gflop), n = (v->n + step - 1) / step;
    pb_request *requests = bench_memory(n, sizeof *requests);
    double *values = bench_memory(n, sizeof *values);
    for (size_t i = 0; i < n; i++)
        requests[i] = v->requests[i * step];
    bench_need(pb_measure(requests, n, &dry, NULL, NULL, &plan, &err), &err, v->name);

    bench_peak(b);
    pb_context_reset_memory_peak(b->ctx);
    const size_t before = pb_context_memory_used(b->ctx);
    bool resident = bench_reset_resident();
    for (int repeat = 0; repeat < v->repeats && spent < 8; repeat++) {
        double start = bench_now();
        bench_need(pb_measure(requests, n, &real, values, NULL, NULL, &err), &err, v->name);
        double seconds = bench_now() - start;
        spent += seconds;
        best = fmin(best, seconds);
    }
    for (size_t i = 0; i < n; i++)
        if (!isfinite(values[i]))
            bench_need(pb_fail(&err, PB_ERR_NUMERIC, "variant %zu has the value %g", i * step, values[i]), &err,
                       v->name);

    const double speed = plan.flops / best * 1e-9, peak = bench_peak(b), seconds = best * all.flops / plan.flops;
    printf("%-28s %6zu %8.3f s %8.1f %8.1f  %5.1f %% ", v->name, v->n, seconds, all.flops * 1e-9, speed,
           100 * speed / peak);
    if (v->goal > 0)
        printf("(goal %2.0f) ", v->goal);
    else
        printf("          ");
    if (v->pass > 0)
        printf("%7.1fx", (double)v->n * v->pass / seconds);
    printf("  work %4.0f MB in %zu chunk%s", (double)(pb_context_memory_peak(b->ctx) - before) * 1e-6, plan.chunks,
           plan.chunks == 1 ? "" : "s");
    if (resident)
        printf(", resident %4.0f MB", bench_resident_megabytes());
    printf(", plan %.3f s", planning);
    if (step > 1)
        printf("; ran 1 of %zu in %.2f s, the rest by arithmetic", step, best);
    printf("\n");
    fflush(stdout);
    free(requests);
    free(values);
    return seconds;
}
