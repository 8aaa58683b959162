/* Speed and memory of gradients on a model of the shape of GPT-2 small.
 * usage: bench_grad [-w] [FILTER]
 *
 * forward + backward: a run, and the gradient of its mean log loss (all positions) by every weight. Arithmetic is counted as
 * three forward passes, unembedding included, though the engine makes a fourth to compute inner values again. Work: memory of
 * the run and of the call, beside the weights and the gradients asked for. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_common.h"
#include "patchbay/grad.h"

enum { L = GPT2_LAYERS, H = GPT2_HEADS, T = 15, MOST = 16, LONGEST = 1024 };

typedef struct grad_bench {
    bench common;
    size_t n_weights;
    pb_tensor **weights; /* gradients of all, made when first needed */
} grad_bench;

static double forward_flops(double n) {
    double D = GPT2_WIDTH, layers = L * (n * 24.0 * D * D + 4.0 * D * n * (n + 1) / 2);
    return layers + 2.0 * (n - 1) * D * GPT2_VOCAB;
}

static void make_weight_grads(grad_bench *b) {
    pb_error err = {0};
    pb_model *model = b->common.model;
    if (b->weights)
        return;
    b->n_weights = pb_model_weight_count(model);
    b->weights = bench_memory(b->n_weights, sizeof *b->weights);
    for (size_t i = 0; i < b->n_weights; i++) {
        bench_need(pb_model_weight(model, pb_model_weight_name(model, i), &b->weights[i], &err), &err, "a weight");
        bench_need(pb_tensor_fill(b->weights[i], 0, &err), &err, "a weight's gradient");
    }
}

/* One step of a batch of n sequences of length tokens each; seconds of the forward and of the backward half. */
static double step(grad_bench *b, const int32_t *ids, size_t length, size_t n, const pb_metric *metric, bool weights,
                   double *forward) {
    pb_error err = {0};
    const int32_t *sequences[MOST];
    size_t lengths[MOST];
    pb_run *runs[MOST];
    pb_grad_request requests[MOST] = {0};
    pb_tensor *dx[MOST] = {NULL}, **grads[MOST];
    double values[MOST];
    const pb_site embed = {PB_SITE_RESID_PRE,
                           0}; /* without weights there must be a site: the gradient goes all the way down */
    for (size_t i = 0; i < n; i++) {
        sequences[i] = ids + i * length;
        lengths[i] = length;
        grads[i] = &dx[i];
    }
    double start = bench_now();
    bench_need(pb_run_create_many(b->common.model, sequences, lengths, n, runs, &err), &err, "forward");
    *forward = bench_now() - start;
    for (size_t i = 0; i < n; i++)
        requests[i] = (pb_grad_request){
            .run = runs[i], .metric = metric, .weight = 1.0 / (double)n, .sites = &embed, .n_sites = weights ? 0 : 1};
    const pb_grad_options options = {.weights = weights ? b->weights : NULL};
    bench_need(pb_grad(requests, n, &options, values, grads, &err), &err, "backward");
    double seconds = bench_now() - start;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(values[i]))
            bench_need(pb_fail(&err, PB_ERR_NUMERIC, "the loss of sequence %zu is %g", i, values[i]), &err, "backward");
        pb_tensor_unref(dx[i]);
        pb_run_unref(runs[i]);
    }
    return seconds;
}

/* The batch's forward pass with the loss and without gradients. */
static double loss_seconds(const grad_bench *b, const int32_t *ids, size_t length, size_t n, const pb_metric *metric) {
    pb_error err = {0};
    const int32_t *sequences[MOST];
    size_t lengths[MOST];
    pb_run *runs[MOST];
    pb_request requests[MOST];
    double values[MOST];
    for (size_t i = 0; i < n; i++) {
        sequences[i] = ids + i * length;
        lengths[i] = length;
    }
    double start = bench_now();
    bench_need(pb_run_create_many(b->common.model, sequences, lengths, n, runs, &err), &err, "forward");
    for (size_t i = 0; i < n; i++)
        requests[i] = (pb_request){.base = runs[i], .metric = metric};
    bench_need(pb_measure(requests, n, NULL, values, NULL, NULL, &err), &err, "loss");
    double seconds = bench_now() - start;
    for (size_t i = 0; i < n; i++)
        pb_run_unref(runs[i]);
    return seconds;
}

static void backward(grad_bench *b, size_t length, size_t n, bool weights, int repeats) {
    static int32_t ids[LONGEST];
    char name[64];
    double best = INFINITY, forward = INFINITY;
    bench *c = &b->common;
    snprintf(name, sizeof name, "%s %zu x %zu", weights ? "forward+backward" : "to the input only", n, length);
    if (!bench_wanted(c, name))
        return;
    if (weights)
        make_weight_grads(b);
    pb_metric *metric = bench_metric(c->ctx, PB_METRIC_NLL);
    bench_draw_tokens(3, GPT2_VOCAB, ids, LONGEST);
    bench_peak(c);
    pb_context_reset_memory_peak(c->ctx);
    const size_t before = pb_context_memory_used(c->ctx);
    bool resident = bench_reset_resident();
    for (int i = 0; i < repeats; i++) {
        double half, seconds = step(b, ids, length, n, metric, weights, &half);
        best = fmin(best, seconds);
        forward = fmin(forward, half);
    }
    const double work = (double)(pb_context_memory_peak(c->ctx) - before) * 1e-6,
                 resident_peak = bench_resident_megabytes();
    double whole = INFINITY;
    for (int i = 0; i < repeats; i++)
        whole = fmin(whole, loss_seconds(b, ids, length, n, metric));
    const double flops = (weights ? 3 : 2) * (double)n * forward_flops((double)length), speed = flops / best * 1e-9;
    printf("%-28s %8.3f s %8.1f %8.1f  %5.1f %% ", name, best, flops * 1e-9, speed, 100 * speed / bench_peak(c));
    printf(weights ? "(goal 65) " : "          ");
    printf("%5.2f x  forward %.3f s, backward %.3f s, work %4.0f MB", best / whole, forward, best - forward, work);
    printf(weights && length == LONGEST ? " (goal 1000)" : "");
    if (resident)
        printf(", resident %4.0f MB", resident_peak);
    printf("\n");
    fflush(stdout);
    pb_metric_unref(metric);
}

/* ---- attribution patching ------------------------------------------------------------------------------------------- */

/* (clean - corrupt) . gradient of every head at every position: two forward passes, their z, one backward pass. */
static double attribution(const grad_bench *b, const int32_t *clean_ids, const int32_t *corrupt_ids,
                          const pb_metric *metric, float *effects) {
    pb_error err = {0};
    pb_site sites[L];
    pb_tensor *clean_z[L], *corrupt_z[L], *gradients[L], **grads = gradients;
    pb_run *clean = NULL, *corrupt = NULL;
    for (int layer = 0; layer < L; layer++)
        sites[layer] = (pb_site){PB_SITE_Z, layer};
    double start = bench_now();
    bench_need(pb_run_create(b->common.model, clean_ids, T, &clean, &err), &err, "clean run");
    bench_need(pb_run_create(b->common.model, corrupt_ids, T, &corrupt, &err), &err, "corrupted run");
    bench_need(pb_run_values(clean, sites, L, clean_z, &err), &err, "clean z");
    bench_need(pb_run_values(corrupt, sites, L, corrupt_z, &err), &err, "corrupted z");
    const pb_grad_request request = {.run = corrupt, .metric = metric, .weight = 1, .sites = sites, .n_sites = L};
    bench_need(pb_grad(&request, 1, NULL, NULL, &grads, &err), &err, "gradients");
    const int64_t dh = GPT2_WIDTH / H;
    for (int layer = 0; layer < L; layer++) {
        const float *x = pb_tensor_floats(clean_z[layer]), *y = pb_tensor_floats(corrupt_z[layer]),
                    *g = pb_tensor_floats(gradients[layer]);
        for (int64_t row = 0; row < T * H; row++) {
            double sum = 0;
            for (int64_t i = row * dh; i < (row + 1) * dh; i++)
                sum += (double)(x[i] - y[i]) * g[i];
            effects[layer * T * H + row] = (float)sum;
        }
    }
    double seconds = bench_now() - start;
    for (int layer = 0; layer < L; layer++) {
        pb_tensor_unref(clean_z[layer]);
        pb_tensor_unref(corrupt_z[layer]);
        pb_tensor_unref(gradients[layer]);
    }
    pb_run_unref(clean);
    pb_run_unref(corrupt);
    return seconds;
}

static void against_sweep(grad_bench *b) {
    const char *name = "heads 12x12x15, exact";
    const size_t n = L * H * T;
    static float effects[L * H * T];
    int32_t clean_ids[T], corrupt_ids[T], counting[T];
    pb_error err = {0};
    pb_run *clean = NULL, *corrupt = NULL;
    double best = INFINITY;
    bench *c = &b->common;
    if (!bench_wanted(c, "attribution"))
        return;
    for (int i = 0; i < T; i++)
        counting[i] = i;
    bench_draw_tokens(1, GPT2_VOCAB, clean_ids, T);
    bench_draw_tokens(2, GPT2_VOCAB, corrupt_ids, T);
    pb_metric *metric = bench_metric(c->ctx, PB_METRIC_LOGIT_DIFF);
    for (int i = 0; i < 5; i++)
        best = fmin(best, attribution(b, clean_ids, corrupt_ids, metric, effects));
    double pass = bench_forward_seconds(c->model, metric, clean_ids, T, 5);

    bench_need(pb_run_create(c->model, clean_ids, T, &clean, &err), &err, "clean run");
    bench_need(pb_run_create(c->model, corrupt_ids, T, &corrupt, &err), &err, "corrupted run");
    pb_patch *patches = bench_memory(n, sizeof *patches);
    pb_request *requests = bench_memory(n, sizeof *requests);
    for (size_t i = 0; i < n; i++) {
        const size_t layer = i / (T * H), pos = i / H % T, head = i % H;
        patches[i] = (pb_patch){.site = {PB_SITE_Z, (int)layer},
                                .pos = {true, 1, &counting[pos]},
                                .head = {true, 1, &counting[head]},
                                .op = PB_PATCH_SET,
                                .value = PB_VALUE_RUN,
                                .run = clean};
        requests[i] = (pb_request){.base = corrupt, .patches = &patches[i], .n_patches = 1, .metric = metric};
    }
    printf("\n");
    bench_variants_header();
    const bench_variants all = {
        .name = name, .requests = requests, .n = n, .pass = pass, .most_gflop = 250, .repeats = 2};
    double exact = bench_measure(c, &all);
    printf("%-28s %6zu %8.4f s  (%.1f forward passes of %.4f s)  the exact sweep takes %.1f times as long\n",
           "heads 12x12x15, attribution", n, best, best / pass, pass, exact / best);
    free(requests);
    free(patches);
    pb_run_unref(clean);
    pb_run_unref(corrupt);
    pb_metric_unref(metric);
}

int main(int argc, char **argv) {
    grad_bench b = {0};
    bench_start(&b.common, argc, argv, true);
    printf("\n%-28s %10s %8s %8s  %7s %10s %s\n", "workload", "time", "GFLOP", "GFLOP/s", "of peak", "",
           "of a forward pass with loss");
    backward(&b, 128, 1, true, 3);
    backward(&b, LONGEST, 1, true, 1);
    backward(&b, 64, MOST, true, 1);
    backward(&b, 128, 1, false, 3);
    against_sweep(&b);
    for (size_t i = 0; i < b.n_weights; i++)
        pb_tensor_unref(b.weights[i]);
    free(b.weights);
    bench_end(&b.common);
    return 0;
}
