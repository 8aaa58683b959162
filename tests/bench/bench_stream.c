/* A model bigger than memory: a budget of a quarter of its weights in float32, against the same work without a limit, in one
 * process, with the file in the page cache. Prints times, the peak of resident memory (all of the process: program, libraries,
 * weights, work), and whether the values are the same to the bit. Passes of few rows, as in decoding, do little with each weight,
 * so that making its pages resident again shows; they have no goal.
 * usage: bench_stream [FILTER]: only lines whose name contains FILTER */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_common.h"
#include "patchbay/grad.h"

enum { LAYERS = 24, TOKENS = 15, LONG = 128, NEW_TOKENS = 9, VARIANTS = LAYERS * TOKENS, REPEATS = 3 };

static const model_shape shape = {.layers = LAYERS,
                                  .heads = GPT2_HEADS,
                                  .d_model = GPT2_WIDTH,
                                  .d_mlp = 4 * GPT2_WIDTH,
                                  .vocab = GPT2_VOCAB,
                                  .positions = 1024,
                                  .seed = 1};

typedef struct side {
    pb_context *ctx;
    pb_model *model;
    pb_run *clean, *corrupt;
    double seconds, resident; /* of the present workload */
    double values[VARIANTS];
    size_t n_values;
} side;

typedef void (*workload)(side *s);

static void forward(side *s) {
    pb_error err = {0};
    int32_t ids[LONG];
    pb_run *run = NULL;
    pb_metric *metric = bench_metric(s->ctx, PB_METRIC_NLL);
    bench_draw_tokens(3, GPT2_VOCAB, ids, LONG);
    bench_need(pb_run_create(s->model, ids, LONG, &run, &err), &err, "forward");
    bench_need(pb_run_metric(run, metric, s->values, &err), &err, "forward");
    s->n_values = 1;
    pb_run_unref(run);
    pb_metric_unref(metric);
}

static void sweep(side *s) {
    pb_error err = {0};
    static pb_patch patches[VARIANTS];
    static pb_request requests[VARIANTS];
    static int32_t positions[TOKENS];
    pb_metric *metric = bench_metric(s->ctx, PB_METRIC_PROB);
    for (int i = 0; i < VARIANTS; i++) {
        positions[i % TOKENS] = i % TOKENS;
        patches[i] = (pb_patch){.site = {PB_SITE_RESID_PRE, i / TOKENS},
                                .pos = {true, 1, &positions[i % TOKENS]},
                                .value = PB_VALUE_RUN,
                                .run = s->clean};
        requests[i] = (pb_request){.base = s->corrupt, .patches = &patches[i], .n_patches = 1, .metric = metric};
    }
    pb_measure_options options = {.allow_unread = true};
    bench_need(pb_measure(requests, VARIANTS, &options, s->values, NULL, NULL, &err), &err, "sweep");
    s->n_values = VARIANTS;
    pb_metric_unref(metric);
}

static void gradient(side *s) {
    pb_error err = {0};
    const pb_site site = {PB_SITE_RESID_PRE, 0};
    pb_metric *metric = bench_metric(s->ctx, PB_METRIC_LOG_PROB);
    pb_grad_request request = {.run = s->clean, .metric = metric, .sites = &site, .n_sites = 1, .weight = 1};
    pb_tensor *grad = NULL, **grads = &grad;
    bench_need(pb_grad(&request, 1, NULL, NULL, &grads, &err), &err, "gradient");
    s->n_values = VARIANTS;
    for (size_t i = 0; i < VARIANTS; i++)
        s->values[i] = (double)pb_tensor_floats(grad)[i];
    pb_tensor_unref(grad);
    pb_metric_unref(metric);
}

static void generation(side *s) {
    pb_error err = {0};
    const pb_generate_options options = {.tokens = NEW_TOKENS};
    int32_t *ids = NULL;
    bench_need(pb_generate(s->clean, &options, &ids, &s->n_values, &err), &err, "generation");
    for (size_t i = 0; i < s->n_values; i++)
        s->values[i] = ids[i];
    pb_free(ids);
}

/* A context of this limit (0: none), the model in it, and two runs that share a prefix of 3 tokens. */
static void open_side(side *s, const char *folder, size_t limit) {
    pb_error err = {0};
    const pb_context_options options = {.memory_limit = limit};
    int32_t ids[TOKENS], others[TOKENS];
    *s = (side){0};
    bench_need(pb_context_create(&options, &s->ctx, &err), &err, "context");
    bench_need(pb_model_open(s->ctx, folder, NULL, &s->model, &err), &err, "model");
    bench_draw_tokens(1, GPT2_VOCAB, ids, TOKENS);
    bench_draw_tokens(2, GPT2_VOCAB, others, TOKENS);
    memcpy(others, ids, 3 * sizeof *ids);
    bench_need(pb_run_create(s->model, ids, TOKENS, &s->clean, &err), &err, "clean");
    bench_need(pb_run_fork(s->clean, others, TOKENS, &s->corrupt, &err), &err, "corrupt");
}

static void close_side(side *s) {
    pb_run_unref(s->clean);
    pb_run_unref(s->corrupt);
    pb_model_unref(s->model);
    pb_context_unref(s->ctx);
}

static void run_once(side *s, workload work) {
    bench_reset_resident();
    double start = bench_now();
    work(s);
    s->seconds = fmin(s->seconds, bench_now() - start);
    s->resident = fmax(s->resident, bench_resident_megabytes());
}

/* In turns, so that both see the same machine. The streamed side's peak is taken while the other's pages are not resident: the
 * files are the same, so its model is opened for its turn only. */
static void compare(const bench *b, const char *folder, size_t budget, const char *name, const char *goal,
                    workload work) {
    if (!bench_wanted(b, name))
        return;
    static side tight, roomy;
    double tight_seconds = INFINITY, roomy_seconds = INFINITY, tight_resident = 0, roomy_resident = 0;
    bool same = true;
    for (int i = 0; i < REPEATS; i++) {
        open_side(&tight, folder, budget);
        if (!pb_model_streamed(tight.model)) {
            fprintf(stderr, "bench: the model is not streamed\n");
            exit(1);
        }
        tight.seconds = INFINITY;
        run_once(&tight, work);
        run_once(&tight, work);
        close_side(&tight);
        open_side(&roomy, folder, 0);
        roomy.seconds = INFINITY;
        run_once(&roomy, work);
        run_once(&roomy, work);
        close_side(&roomy);
        same = same && tight.n_values == roomy.n_values &&
               memcmp(tight.values, roomy.values, tight.n_values * sizeof *tight.values) == 0;
        tight_seconds = fmin(tight_seconds, tight.seconds);
        roomy_seconds = fmin(roomy_seconds, roomy.seconds);
        tight_resident = fmax(tight_resident, tight.resident);
        roomy_resident = fmax(roomy_resident, roomy.resident);
    }
    printf("%-28s %8.3f s  without limit %8.3f s  ratio %5.2f %-11s  resident %4.0f MB of %4.0f (%4.0f)  %s\n", name,
           tight_seconds, roomy_seconds, tight_seconds / roomy_seconds, goal, tight_resident, (double)budget / 1048576,
           roomy_resident, same ? "same bits" : "OTHER VALUES");
    fflush(stdout);
    if (!same)
        exit(1);
}

int main(int argc, char **argv) {
    bench b = {0};
    char folder[4096];
    bench_start(&b, argc, argv, false);
    bench_make_folder(folder, sizeof folder);
    int64_t parameters = model_write(folder, &shape);
    if (parameters < 0) {
        perror(folder);
        exit(1);
    }
    const size_t budget = (size_t)parameters; /* of 4 bytes each */
    printf("\nweights of %.0f MB, budget of %.0f MB\n", (double)parameters * 4 / 1048576, (double)budget / 1048576);
    compare(&b, folder, budget, "forward of 128", "(goal 1.30)", forward);
    compare(&b, folder, budget, "residual 24 x 15", "(goal 1.30)", sweep);
    compare(&b, folder, budget, "gradient of 15", "", gradient);
    compare(&b, folder, budget, "8 tokens of decoding", "", generation);
    bench_remove_folder(folder);
    bench_end(&b);
    return 0;
}
