/* Speed of whole techniques on a model of the shape of GPT-2 small and 15 tokens: pattern entries of a layer, every head by
 * position, causal tracing of a fact, path patching from all heads.
 * usage: bench_techniques [-w] [FILTER]
 *
 * Columns as in bench_sweep. Of the large ones, every k-th variant runs, and the time of all is the measured one times the
 * ratio of arithmetic; -w runs all. Planning (in the line, not in the time) is that of all variants. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_common.h"

enum { L = GPT2_LAYERS, H = GPT2_HEADS, T = 15, SAMPLES = 11, WINDOW = 10, MOST_GFLOP = 500 };

typedef struct techniques {
    bench common;
    pb_run *clean, *corrupt;
    pb_metric *metric;
    double pass;
    int32_t counting[T > H ? T : H]; /* 0, 1, 2 ...: lists of one item point into it */
} techniques;

static pb_choice one(const techniques *b, int i) { return (pb_choice){true, 1, &b->counting[i]}; }

static pb_patch from_run(pb_site_kind kind, int layer, const pb_run *run) {
    return (pb_patch){.site = {kind, layer}, .op = PB_PATCH_SET, .value = PB_VALUE_RUN, .run = run};
}

static pb_request request_of(pb_run *base, const pb_patch *patches, size_t n, const pb_metric *metric) {
    return (pb_request){.base = base, .patches = patches, .n_patches = n, .metric = metric};
}

/* ---- patterns ------------------------------------------------------------------------------------------------------- */

static void pattern_entries(techniques *b, int layer) {
    char name[64];
    const size_t n = H * T * T;
    snprintf(name, sizeof name, "pattern 12x15x15, layer %d", layer);
    if (!bench_wanted(&b->common, name))
        return;
    pb_patch *patches = bench_memory(n, sizeof *patches);
    pb_request *requests = bench_memory(n, sizeof *requests);
    size_t i = 0;
    for (int head = 0; head < H; head++)
        for (int dest = 0; dest < T; dest++)
            for (int src = 0; src < T; src++, i++) {
                patches[i] = from_run(PB_SITE_PATTERN, layer, b->clean);
                patches[i].head = one(b, head);
                patches[i].dest = one(b, dest);
                patches[i].src = one(b, src);
                requests[i] = request_of(b->corrupt, &patches[i], 1, b->metric);
            }
    const bench_variants all = {
        .name = name, .requests = requests, .n = n, .pass = b->pass, .most_gflop = MOST_GFLOP, .repeats = 2};
    bench_measure(&b->common, &all);
    free(requests);
    free(patches);
}

/* ---- every head by position ----------------------------------------------------------------------------------------- */

/* 5 x 12 x 15 x 12: q, k, v, z of a head at a position, and a row of its pattern. */
static void heads_by_position(techniques *b, const char *name, const pb_site_kind *kinds, size_t n_kinds) {
    const size_t n = n_kinds * L * T * H;
    if (!bench_wanted(&b->common, name))
        return;
    pb_patch *patches = bench_memory(n, sizeof *patches);
    pb_request *requests = bench_memory(n, sizeof *requests);
    size_t i = 0;
    for (size_t k = 0; k < n_kinds; k++)
        for (int layer = 0; layer < L; layer++)
            for (int pos = 0; pos < T; pos++)
                for (int head = 0; head < H; head++, i++) {
                    patches[i] = from_run(kinds[k], layer, b->clean);
                    patches[i].head = one(b, head);
                    *(kinds[k] == PB_SITE_PATTERN ? &patches[i].dest : &patches[i].pos) = one(b, pos);
                    requests[i] = request_of(b->corrupt, &patches[i], 1, b->metric);
                }
    const bench_variants all = {
        .name = name, .requests = requests, .n = n, .pass = b->pass, .most_gflop = MOST_GFLOP, .repeats = 2};
    bench_measure(&b->common, &all);
    free(requests);
    free(patches);
}

static void every_head(techniques *b) {
    const pb_site_kind kinds[] = {PB_SITE_Q, PB_SITE_K, PB_SITE_V, PB_SITE_Z, PB_SITE_PATTERN};
    const char *const names[] = {"heads by pos: q", "heads by pos: k", "heads by pos: v", "heads by pos: z",
                                 "heads by pos: pattern"};
    heads_by_position(b, "head_by_pos_every", kinds, 5);
    for (size_t k = 0; k < 5 && b->common.filter; k++) /* each alone only when asked for by name */
        heads_by_position(b, names[k], &kinds[k], 1);
}

/* ---- causal tracing --------------------------------------------------------------------------------------------------- */

/* Noise on the subject's embeddings, then one clean state restored: a block's output, or the mlp or attention outputs of
 * WINDOW layers around it; every layer and token, for each sample of noise. */
static void trace(techniques *b) {
    const char *name = "trace of a fact, 11 samples";
    const int32_t subject[] = {3, 4, 5};
    const pb_site_kind kinds[] = {PB_SITE_RESID_POST, PB_SITE_MLP_OUT, PB_SITE_ATTN_OUT};
    const size_t n = SAMPLES * 3 * L * T;
    pb_run *noisy[SAMPLES];
    pb_error err = {0};
    size_t i = 0, next = 0;
    if (!bench_wanted(&b->common, name))
        return;
    pb_metric *metric = bench_metric(b->common.ctx, PB_METRIC_PROB);
    double pass = bench_forward_seconds(b->common.model, metric, pb_run_tokens(b->clean), T, 5);
    pb_patch *patches = bench_memory(n * WINDOW, sizeof *patches);
    pb_request *requests = bench_memory(n, sizeof *requests);
    for (int sample = 0; sample < SAMPLES; sample++) {
        const pb_patch noise = {.site = {PB_SITE_EMBED, -1},
                                .pos = {true, 3, subject},
                                .op = PB_PATCH_ADD,
                                .value = PB_VALUE_NOISE,
                                .noise_std = 1.5,
                                .noise_seed = 1,
                                .noise_draw = (uint64_t)sample};
        bench_need(pb_run_patched(b->clean, &noise, 1, &noisy[sample], &err), &err, "noisy run");
        for (int kind = 0; kind < 3; kind++)
            for (int layer = 0; layer < L; layer++)
                for (int pos = 0; pos < T; pos++, i++) {
                    int from = kind == 0 ? layer : layer < WINDOW / 2 ? 0 : layer - WINDOW / 2;
                    int to = kind == 0 ? layer + 1 : layer + WINDOW / 2 > L ? L : layer + WINDOW / 2;
                    size_t first = next;
                    for (int at = from; at < to; at++) {
                        patches[next] = from_run(kinds[kind], at, b->clean);
                        patches[next++].pos = one(b, pos);
                    }
                    requests[i] = request_of(noisy[sample], &patches[first], next - first, metric);
                }
    }
    const bench_variants all = {
        .name = name, .requests = requests, .n = n, .pass = pass, .most_gflop = MOST_GFLOP, .repeats = 2};
    bench_measure(&b->common, &all);
    for (int sample = 0; sample < SAMPLES; sample++)
        pb_run_unref(noisy[sample]);
    pb_metric_unref(metric);
    free(requests);
    free(patches);
}

/* ---- path patching -------------------------------------------------------------------------------------------------- */

enum { SENDERS = L * H, RECEIVERS = 3, RECEIVER_LAYERS = 2 };

typedef struct paths {
    pb_tensor *z[SENDERS],
        *attn[L]; /* the run's own values: the other heads of the sender's layer; whole later layers */
    int32_t others[SENDERS][H - 1];
    pb_patch hold[SENDERS][L + 1];
    pb_request first[SENDERS], second[SENDERS];
    pb_tensor *arrived[SENDERS][RECEIVER_LAYERS], **captures[SENDERS];
    pb_tensor *received[SENDERS][RECEIVERS];
    pb_patch put[SENDERS][RECEIVERS];
    double values[SENDERS];
} paths;

static const pb_site receiver_sites[RECEIVER_LAYERS] = {{PB_SITE_Q, 9}, {PB_SITE_Q, 10}};
static const int receiver_of[RECEIVERS][2] = {{0, 6}, {0, 9}, {1, 0}}; /* queries of 9.6, 9.9 and 10.0 */

static pb_patch hold(pb_site_kind kind, int layer, pb_tensor *value) {
    return (pb_patch){.site = {kind, layer}, .op = PB_PATCH_SET, .value = PB_VALUE_TENSOR, .tensor = value};
}

/* A sender's head from the other run; every other head, in its layer and later ones, at the run's own values; mlps live. */
static void prepare_paths(const techniques *b, paths *p) {
    pb_error err = {0};
    for (int layer = 0; layer < L; layer++) {
        pb_tensor *z = NULL;
        bench_need(pb_run_value(b->corrupt, (pb_site){PB_SITE_Z, layer}, &z, &err), &err, "z");
        bench_need(pb_run_value(b->corrupt, (pb_site){PB_SITE_ATTN_OUT, layer}, &p->attn[layer], &err), &err,
                   "attn_out");
        for (int head = 0; head < H; head++) {
            int s = layer * H + head;
            int64_t list[H - 1];
            for (int other = 0, n = 0; other < H; other++)
                if (other != head) {
                    p->others[s][n] = other;
                    list[n++] = other;
                }
            bench_need(pb_tensor_index(z, 1, list, H - 1, &p->z[s], &err), &err, "z of the other heads");
        }
        pb_tensor_unref(z);
    }
    for (int layer = 0; layer < L; layer++)
        for (int head = 0; head < H; head++) {
            int s = layer * H + head;
            size_t n = 0;
            p->hold[s][n] = hold(PB_SITE_Z, layer, p->z[s]);
            p->hold[s][n++].head = (pb_choice){true, H - 1, p->others[s]};
            for (int later = layer + 1; later < L; later++)
                p->hold[s][n++] = hold(PB_SITE_ATTN_OUT, later, p->attn[later]);
            p->hold[s][n] = from_run(PB_SITE_Z, layer, b->clean);
            p->hold[s][n++].head = one(b, head);
            p->first[s] = (pb_request){.base = b->corrupt,
                                       .patches = p->hold[s],
                                       .n_patches = n,
                                       .captures = receiver_sites,
                                       .n_captures = RECEIVER_LAYERS};
            p->captures[s] = p->arrived[s];
        }
}

/* What arrived at the receivers goes into them, all else free. Receivers that are not after the sender got nothing new. */
static void receive(const techniques *b, paths *p) {
    pb_error err = {0};
    for (int s = 0; s < SENDERS; s++) {
        size_t n = 0;
        for (int r = 0; r < RECEIVERS; r++) {
            const int64_t head = receiver_of[r][1];
            const pb_site site = receiver_sites[receiver_of[r][0]];
            if (site.layer <= s / H)
                continue;
            bench_need(pb_tensor_index(p->arrived[s][receiver_of[r][0]], 1, &head, 1, &p->received[s][n], &err), &err,
                       "a receiver");
            p->put[s][n] = hold(site.kind, site.layer, p->received[s][n]);
            p->put[s][n++].head = one(b, (int)head);
        }
        p->second[s] = request_of(b->corrupt, p->put[s], n, b->metric);
    }
}

static void forget(paths *p) {
    for (int s = 0; s < SENDERS; s++) {
        for (int c = 0; c < RECEIVER_LAYERS; c++) {
            pb_tensor_unref(p->arrived[s][c]);
            p->arrived[s][c] = NULL;
        }
        for (int r = 0; r < RECEIVERS; r++) {
            pb_tensor_unref(p->received[s][r]);
            p->received[s][r] = NULL;
        }
    }
}

static void path_patching(techniques *b) {
    const char *name = "paths of 144 senders";
    const pb_measure_options options = {.allow_unread = true};
    pb_error err = {0};
    double best = INFINITY, first = 0;
    pb_plan to = {0}, after = {0};
    if (!bench_wanted(&b->common, name))
        return;
    paths *p = bench_memory(1, sizeof *p);
    prepare_paths(b, p);
    bench_peak(&b->common);
    for (int repeat = 0; repeat < 3; repeat++) {
        double start = bench_now();
        bench_need(pb_measure(p->first, SENDERS, &options, NULL, p->captures, &to, &err), &err, name);
        double half = bench_now();
        receive(b, p);
        bench_need(pb_measure(p->second, SENDERS, &options, p->values, NULL, &after, &err), &err, name);
        double end = bench_now();
        if (end - start < best) {
            best = end - start;
            first = half - start;
        }
        forget(p);
    }
    const double flops = to.flops + after.flops, speed = flops / best * 1e-9;
    printf("%-28s %6d %8.3f s %8.1f %8.1f  %5.1f %%           %7.1fx  first pass %.3f s at %.1f GFLOP/s, second %.3f s "
           "at %.1f\n",
           name, 2 * SENDERS, best, flops * 1e-9, speed, 100 * speed / bench_peak(&b->common),
           2 * SENDERS * b->pass / best, first, to.flops / first * 1e-9, best - first,
           after.flops / (best - first) * 1e-9);
    fflush(stdout);
    for (int s = 0; s < SENDERS; s++)
        pb_tensor_unref(p->z[s]);
    for (int layer = 0; layer < L; layer++)
        pb_tensor_unref(p->attn[layer]);
    free(p);
}

int main(int argc, char **argv) {
    techniques b = {0};
    pb_error err = {0};
    int32_t ids[T];
    bench_start(&b.common, argc, argv, true);
    for (int i = 0; i < (int)(sizeof b.counting / sizeof *b.counting); i++)
        b.counting[i] = i;
    bench_draw_tokens(2, GPT2_VOCAB, ids, T);
    bench_need(pb_run_create(b.common.model, ids, T, &b.corrupt, &err), &err, "corrupted run");
    bench_draw_tokens(1, GPT2_VOCAB, ids, T);
    bench_need(pb_run_create(b.common.model, ids, T, &b.clean, &err), &err, "clean run");
    b.metric = bench_metric(b.common.ctx, PB_METRIC_LOGIT_DIFF);
    b.pass = bench_forward_seconds(b.common.model, b.metric, ids, T, 7);
    printf("one whole forward pass over %d tokens: %.4f s (best of 7; the gain is over one such pass for each "
           "variant)\n\n",
           T, b.pass);
    bench_variants_header();

    pattern_entries(&b, 0);
    pattern_entries(&b, 6);
    every_head(&b);
    trace(&b);
    path_patching(&b);

    pb_metric_unref(b.metric);
    pb_run_unref(b.clean);
    pb_run_unref(b.corrupt);
    bench_end(&b.common);
    return 0;
}
