/* The engine: exact identities on two random models (a GPT-2 and a grouped-query Llama). Where OpenBLAS's kernel computes
 * every row of a product alike, they hold bit for bit; elsewhere within a bound. */
#include "support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tensor/gemm.h"

enum { T = 9 };

typedef struct fixture {
    pb_context *ctx;
    pb_model *model;
    pb_run *clean, *corrupt;
    int32_t clean_ids[T], corrupt_ids[T];
    bool exact;
} fixture;

static pb_error err;

static fixture make_fixture(bool llama) {
    fixture f = {.ctx = test_context()};
    model_shape shape = llama ? test_shape_llama(3) : test_shape_gpt2(3);
    shape.layers = 3;
    f.model = test_model(f.ctx, &shape);
    test_tokens(shape.vocab, 11, f.clean_ids, T);
    memcpy(f.corrupt_ids, f.clean_ids, sizeof f.clean_ids);
    for (int i = 3; i < 6; i++)
        f.corrupt_ids[i] = (f.clean_ids[i] + 7 * i) % shape.vocab;
    f.exact = pb_blas_row_invariant(f.ctx);
    assert_ok(pb_run_create(f.model, f.clean_ids, T, &f.clean, &err));
    assert_ok(pb_run_fork(f.clean, f.corrupt_ids, T, &f.corrupt, &err));
    return f;
}

static void drop_fixture(fixture *f) {
    pb_run_unref(f->clean);
    pb_run_unref(f->corrupt);
    pb_model_unref(f->model);
    assert_int_equal(pb_context_memory_used(f->ctx), 0);
    pb_context_unref(f->ctx);
}

static void same(const fixture *f, const pb_tensor *a, const pb_tensor *b) {
    if (f->exact)
        assert_tensor_equal(a, b);
    else
        assert_tensor_close(a, b, 1e-5);
}

static void same_number(const fixture *f, double a, double b) {
    if (f->exact)
        assert_true(a == b);
    else
        assert_close(a, b, 1e-4);
}

static pb_tensor *value(pb_run *run, pb_site_kind kind, int layer) {
    pb_tensor *t = NULL;
    assert_ok(pb_run_value(run, (pb_site){kind, layer}, &t, &err));
    return t;
}

static void same_value(const fixture *f, pb_run *a, pb_run *b, pb_site_kind kind, int layer) {
    pb_tensor *x = value(a, kind, layer), *y = value(b, kind, layer);
    same(f, x, y);
    pb_tensor_unref(x);
    pb_tensor_unref(y);
}

static pb_metric *difference(const fixture *f) {
    static const int32_t answer = 5, wrong = 9;
    pb_metric_options o = {
        .kind = PB_METRIC_LOGIT_DIFF, .answers = &answer, .n_answers = 1, .wrong = &wrong, .n_wrong = 1};
    pb_metric *m = NULL;
    assert_ok(pb_metric_create(f->ctx, &o, &m, &err));
    return m;
}

static pb_patch set_from(pb_run *run, pb_site_kind kind, int layer) {
    return (pb_patch){.site = {kind, layer}, .op = PB_PATCH_SET, .value = PB_VALUE_RUN, .run = run};
}

/* Every site that exists, with a layer where it has one: kinds from the attention input on are patched in the middle layer. */
#define FOR_ALL_SITES(f, site)                                                                                         \
    for (int k_ = 0; k_ < PB_SITE_KINDS; k_++)                                                                         \
        for (pb_site site = {(pb_site_kind)k_, pb_site_has_layer((pb_site_kind)k_) ? 1 : -1};                          \
             site.kind < PB_SITE_KINDS && pb_site_exists((f)->model, site); site.kind = PB_SITE_KINDS)

static void run_fork__equals_fresh_run(bool llama) {
    fixture f = make_fixture(llama);
    pb_run *fresh = NULL;
    assert_ok(pb_run_create(f.model, f.corrupt_ids, T, &fresh, &err));
    FOR_ALL_SITES(&f, s)
    same_value(&f, f.corrupt, fresh, s.kind, s.layer);
    assert_true(pb_run_shared_prefix(f.corrupt, f.clean) == 3);
    assert_true(pb_run_bytes(f.corrupt) < pb_run_bytes(fresh));
    pb_run *longer = NULL, *of_fork = NULL, *again = NULL; /* other lengths, and a fork of a fork */
    int32_t ids[T + 4];
    test_tokens(pb_model_vocab(f.model), 5, ids, T + 4);
    memcpy(ids, f.corrupt_ids, 5 * sizeof *ids);
    assert_ok(pb_run_fork(f.corrupt, ids, T + 4, &of_fork, &err));
    assert_ok(pb_run_create(f.model, ids, T + 4, &longer, &err));
    same_value(&f, of_fork, longer, PB_SITE_LOGITS, -1);
    assert_ok(pb_run_fork(of_fork, f.clean_ids, T, &again, &err));
    same_value(&f, again, f.clean, PB_SITE_LOGITS, -1);
    pb_run_unref(again);
    pb_run_unref(of_fork);
    pb_run_unref(longer);
    pb_run_unref(fresh);
    drop_fixture(&f);
}

static void values__of_many_runs__do_not_depend_on_company(bool llama) {
    fixture f = make_fixture(llama);
    const int32_t *ids[3] = {f.corrupt_ids, f.clean_ids, f.clean_ids + 2};
    size_t lengths[3] = {T, 4, T - 2};
    pb_run *runs[3] = {NULL}, *alone = NULL;
    assert_ok(pb_run_create_many(f.model, ids, lengths, 3, runs, &err));
    same_value(&f, runs[0], f.corrupt, PB_SITE_LOGITS, -1);
    for (int i = 1; i < 3; i++) {
        assert_ok(pb_run_create(f.model, ids[i], lengths[i], &alone, &err));
        same_value(&f, runs[i], alone, PB_SITE_LOGITS, -1);
        same_value(&f, runs[i], alone, PB_SITE_PATTERN, 1);
        pb_run_unref(alone);
    }
    for (int i = 0; i < 3; i++)
        pb_run_unref(runs[i]);
    drop_fixture(&f);
}

/* A tensor that holds the run's own values goes through the engine (a run as a source of itself is known to change nothing). */
static void patch__own_values__changes_nothing(bool llama) {
    fixture f = make_fixture(llama);
    pb_metric *m = difference(&f);
    pb_tensor *logits = value(f.corrupt, PB_SITE_LOGITS, -1);
    double base, patched;
    assert_ok(pb_run_metric(f.corrupt, m, &base, &err));
    FOR_ALL_SITES(&f, s) {
        pb_tensor *own = value(f.corrupt, s.kind, s.layer);
        pb_patch p = {.site = s, .op = PB_PATCH_SET, .value = PB_VALUE_TENSOR, .tensor = own};
        pb_run *run = NULL;
        assert_ok(pb_run_patched(f.corrupt, &p, 1, &run, &err));
        pb_tensor *after = value(run, PB_SITE_LOGITS, -1);
        same(&f, after, logits);
        pb_request r = {.base = f.corrupt, .patches = &p, .n_patches = 1, .metric = m};
        assert_ok(pb_measure(&r, 1, NULL, &patched, NULL, NULL, &err));
        same_number(&f, patched, base);
        pb_tensor_unref(after);
        pb_tensor_unref(own);
        pb_run_unref(run);
    }
    pb_tensor_unref(logits);
    pb_metric_unref(m);
    drop_fixture(&f);
}

/* What cuts the computation in two gives the clean run's logits when it is all taken from the clean run. */
static void patch__whole_cut_from_clean__gives_clean_logits(bool llama) {
    fixture f = make_fixture(llama);
    pb_tensor *clean = value(f.clean, PB_SITE_LOGITS, -1);
    const pb_site_kind cuts[] = {PB_SITE_EMBED,      PB_SITE_RESID_PRE,           PB_SITE_RESID_MID,
                                 PB_SITE_RESID_POST, PB_SITE_LN_FINAL_NORMALIZED, PB_SITE_LOGITS};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++)
        for (int layer = 0; layer < (pb_site_has_layer(cuts[i]) ? 3 : 1); layer++) {
            pb_patch p = set_from(f.clean, cuts[i], pb_site_has_layer(cuts[i]) ? layer : -1);
            pb_run *run = NULL;
            assert_ok(pb_run_patched(f.corrupt, &p, 1, &run, &err));
            pb_tensor *after = value(run, PB_SITE_LOGITS, -1);
            same(&f, after, clean);
            pb_tensor_unref(after);
            pb_run_unref(run);
        }
    pb_patch all[1 + 2 * 3] = {set_from(f.clean, PB_SITE_EMBED, -1)}; /* every writer of the stream */
    for (int l = 0; l < 3; l++) {
        all[1 + 2 * l] = set_from(f.clean, PB_SITE_ATTN_OUT, l);
        all[2 + 2 * l] = set_from(f.clean, PB_SITE_MLP_OUT, l);
    }
    pb_run *run = NULL;
    assert_ok(pb_run_patched(f.corrupt, all, 7, &run, &err));
    pb_tensor *after = value(run, PB_SITE_LOGITS, -1);
    same(&f, after, clean);
    pb_tensor_unref(after);
    pb_run_unref(run);
    pb_tensor_unref(clean);
    drop_fixture(&f);
}

/* A variant's cone against the whole patched run, for single rows of every site; then all of them in other orders and chunks. */
static void measure__equals_patched_run__in_any_company(bool llama) {
    fixture f = make_fixture(llama);
    pb_metric *m = difference(&f);
    enum { MOST = 400 };
    static pb_patch patches[MOST];
    static pb_request requests[MOST], turned[MOST];
    static int32_t positions[MOST];
    double values[MOST], others[MOST];
    size_t n = 0;
    for (int pos = 3; pos < T; pos += 2)
        for (int layer = 0; layer < 3; layer++)
            FOR_ALL_SITES(&f, s) {
                assert_true(n < MOST);
                patches[n] = set_from(f.clean, s.kind, s.layer < 0 ? -1 : layer);
                positions[n] = pos;
                bool by_head = pb_site_describe(f.model, s.kind).shape == PB_SHAPE_HEAD_POS_POS;
                *(by_head ? &patches[n].dest : &patches[n].pos) = (pb_choice){true, 1, &positions[n]};
                requests[n] = (pb_request){.base = f.corrupt, .patches = &patches[n], .n_patches = 1, .metric = m};
                n++;
            }
    pb_measure_options loose = {.allow_unread = true};
    pb_plan plan;
    assert_ok(pb_measure(requests, n, &loose, values, NULL, &plan, &err));
    assert_true(plan.variants == n && plan.chunks == 1 && plan.flops < plan.full_flops && plan.rows < plan.full_rows);
    for (size_t i = 0; i < n; i++) {
        pb_run *run = NULL;
        double whole;
        assert_ok(pb_run_patched(f.corrupt, &patches[i], 1, &run, &err));
        assert_ok(pb_run_metric(run, m, &whole, &err));
        same_number(&f, values[i], whole);
        pb_run_unref(run);
        turned[i] = requests[n - 1 - i];
    }
    assert_ok(pb_measure(turned, n, &loose, others, NULL, NULL, &err));
    for (size_t i = 0; i < n; i++)
        same_number(&f, others[n - 1 - i], values[i]);
    size_t chunks = 0;
    for (size_t memory = plan.bytes / 2;;
         memory = memory * 3 / 4) { /* smaller and smaller, until one variant does not fit */
        pb_measure_options tight = {.allow_unread = true, .memory = memory};
        if (pb_measure(requests, n, &tight, others, NULL, &plan, &err) == PB_ERR_MEMORY)
            break;
        assert_true(plan.bytes <= memory);
        chunks = plan.chunks;
        for (size_t i = 0; i < n; i++)
            same_number(&f, others[i], values[i]);
    }
    assert_true(chunks > 1);
    pb_metric_unref(m);
    drop_fixture(&f);
}

static void threads__change_no_bit(bool llama) {
    double values[2];
    for (int threads = 1; threads <= 2; threads++) {
        pb_context_options o = {.threads = threads};
        pb_context *ctx = NULL;
        assert_ok(pb_context_create(&o, &ctx, &err));
        model_shape shape = llama ? test_shape_llama(3) : test_shape_gpt2(3);
        pb_model *model = test_model(ctx, &shape);
        int32_t ids[20], answer = 1;
        test_tokens(shape.vocab, 2, ids, 20);
        pb_run *run = NULL;
        pb_metric *m = NULL;
        pb_metric_options mo = {.kind = PB_METRIC_LOG_PROB, .answers = &answer, .n_answers = 1};
        assert_ok(pb_run_create(model, ids, 20, &run, &err));
        assert_ok(pb_metric_create(ctx, &mo, &m, &err));
        assert_ok(pb_run_metric(run, m, &values[threads - 1], &err));
        pb_metric_unref(m);
        pb_run_unref(run);
        pb_model_unref(model);
        pb_context_unref(ctx);
    }
    assert_true(values[0] == values[1]);
}

/* A patched run as base: its patches stay in place under further ones, as if both had been given together. */
static void patched_run__patched_again__equals_both_at_once(bool llama) {
    fixture f = make_fixture(llama);
    int32_t p4 = 4, p6 = 6, h1 = 1;
    pb_patch first[] = {
        {.site = {PB_SITE_RESID_PRE, 1},
         .pos = {true, 1, &p4},
         .op = PB_PATCH_ADD,
         .value = PB_VALUE_NUMBER,
         .number = 0.5},
        {.site = {PB_SITE_Z, 1},
         .pos = {true, 1, &p6},
         .head = {true, 1, &h1},
         .op = PB_PATCH_SCALE,
         .value = PB_VALUE_NUMBER,
         .number = 3},
        {.site = {PB_SITE_RESID_POST, 1},
         .pos = {true, 1, &p6},
         .op = PB_PATCH_ADD,
         .value = PB_VALUE_NUMBER,
         .number = -0.25},
        {.site = {PB_SITE_RESID_PRE, 2},
         .pos = {true, 1, &p6},
         .op = PB_PATCH_ADD,
         .value = PB_VALUE_NUMBER,
         .number = 0.25},
        {.site = {PB_SITE_LOGITS, -1}, .op = PB_PATCH_SCALE, .value = PB_VALUE_NUMBER, .number = 2},
    };
    pb_patch second[] = {
        {.site = {PB_SITE_MLP_POST, 0},
         .pos = {true, 1, &p4},
         .op = PB_PATCH_SET,
         .value = PB_VALUE_NUMBER,
         .number = 1},
        {.site = {PB_SITE_RESID_POST, 1},
         .pos = {true, 1, &p6},
         .op = PB_PATCH_SCALE,
         .value = PB_VALUE_NUMBER,
         .number = 2},
    };
    for (int which = 0; which < 2; which++) {
        pb_patch both[6];
        memcpy(both, first, sizeof first);
        both[5] = second[which];
        pb_run *a = NULL, *ab = NULL, *at_once = NULL;
        assert_ok(pb_run_patched(f.corrupt, first, 5, &a, &err));
        assert_ok(pb_run_patched(a, &second[which], 1, &ab, &err));
        assert_ok(pb_run_patched(f.corrupt, both, 6, &at_once, &err));
        FOR_ALL_SITES(&f, s)
        same_value(&f, ab, at_once, s.kind, s.layer);
        same_value(&f, ab, at_once, PB_SITE_RESID_PRE, 2);
        assert_int_equal(pb_run_patch_count(ab), 6);
        pb_run_unref(a);
        pb_run_unref(ab);
        pb_run_unref(at_once);
    }
    drop_fixture(&f);
}

static pb_status halve(void *user, const pb_patch *patch, const pb_run *base, size_t variant, pb_tensor *act,
                       pb_tensor **out, pb_error *e) {
    (void)patch;
    (void)base;
    (void)variant;
    ++*(int *)user;
    return pb_tensor_binary_scalar(PB_MUL, act, 0.5, out, e);
}

static void patch__function__equals_the_same_patch_as_data(bool llama) {
    fixture f = make_fixture(llama);
    FOR_ALL_SITES(&f, s) {
        if (s.kind == PB_SITE_ATTN_SCORES)
            continue; /* half of -inf is -inf, but masked entries are never written: the two would agree only by luck */
        int calls = 0;
        pb_patch by_call = {.site = s, .op = PB_PATCH_FN, .fn = halve, .user = &calls};
        pb_patch by_data = {.site = s, .op = PB_PATCH_SCALE, .value = PB_VALUE_NUMBER, .number = 0.5};
        pb_run *a = NULL, *b = NULL;
        assert_ok(pb_run_patched(f.corrupt, &by_call, 1, &a, &err));
        assert_ok(pb_run_patched(f.corrupt, &by_data, 1, &b, &err));
        if (s.kind != PB_SITE_LOGITS && s.kind != PB_SITE_LN_FINAL_NORMALIZED && s.kind != PB_SITE_LN_FINAL_SCALE)
            assert_int_equal(calls, 1);
        same_value(&f, a, b, PB_SITE_LOGITS, -1);
        pb_run_unref(a);
        pb_run_unref(b);
    }
    drop_fixture(&f);
}

static void capture__equals_value_of_the_patched_run(bool llama) {
    fixture f = make_fixture(llama);
    int32_t p4 = 4;
    pb_patch p = set_from(f.clean, PB_SITE_ATTN_OUT, 0);
    p.pos = (pb_choice){true, 1, &p4};
    pb_run *run = NULL;
    assert_ok(pb_run_patched(f.corrupt, &p, 1, &run, &err));
    pb_site sites[PB_SITE_KINDS];
    size_t n = 0;
    FOR_ALL_SITES(&f, s)
    if (s.kind > PB_SITE_ATTN_OUT || s.layer == 1)
        sites[n++] = s;
    pb_tensor *values[PB_SITE_KINDS] = {NULL}, **where = values;
    pb_request r = {.base = f.corrupt, .patches = &p, .n_patches = 1, .captures = sites, .n_captures = n};
    assert_ok(pb_measure(&r, 1, NULL, NULL, &where, NULL, &err));
    for (size_t i = 0; i < n; i++) {
        pb_tensor *expected = value(run, sites[i].kind, sites[i].layer);
        same(&f, values[i], expected);
        pb_tensor_unref(expected);
        pb_tensor_unref(values[i]);
    }
    pb_run_unref(run);
    drop_fixture(&f);
}

/* Holding a run's own values against an earlier change is no empty patch. */
static void patch__own_values_after_a_change__hold(bool llama) {
    fixture f = make_fixture(llama);
    pb_metric *m = difference(&f);
    pb_patch hold[8] = {
        set_from(f.clean, PB_SITE_EMBED, -1)}; /* the clean prompt's embeddings, everything after as it was */
    for (int l = 0; l < 3; l++) {
        hold[1 + 2 * l] = set_from(f.corrupt, PB_SITE_ATTN_OUT, l);
        hold[2 + 2 * l] = set_from(f.corrupt, PB_SITE_MLP_OUT, l);
    }
    double got, base;
    pb_request r = {.base = f.corrupt, .patches = hold, .n_patches = 7, .metric = m};
    assert_ok(pb_measure(&r, 1, NULL, &got, NULL, NULL, &err));
    pb_tensor *sum = value(f.clean, PB_SITE_EMBED, -1), *part = NULL; /* the stream's end is the sum of its parts */
    for (int l = 0; l < 3; l++)
        for (int k = 0; k < 2; k++) {
            part = value(f.corrupt, k ? PB_SITE_MLP_OUT : PB_SITE_ATTN_OUT, l);
            assert_ok(pb_tensor_binary_in_place(PB_ADD, sum, part, &err));
            pb_tensor_unref(part);
        }
    if (!llama) {
        part = value(f.clean, PB_SITE_POS_EMBED, -1);
        assert_ok(pb_tensor_binary_in_place(PB_ADD, sum, part, &err));
        pb_tensor_unref(part);
    }
    pb_patch end = {.site = {PB_SITE_RESID_POST, 2}, .op = PB_PATCH_SET, .value = PB_VALUE_TENSOR, .tensor = sum};
    r = (pb_request){.base = f.corrupt, .patches = &end, .n_patches = 1, .metric = m};
    assert_ok(pb_measure(&r, 1, NULL, &base, NULL, NULL, &err));
    /* the embedding differs at positions 3 to 5, the metric reads the last: held parts are the corrupted run's */
    assert_close(got, base, 1e-4);
    pb_tensor_unref(sum);
    pb_metric_unref(m);
    drop_fixture(&f);
}

static void capture__last_residual__has_all_rows(bool llama) {
    fixture f = make_fixture(llama);
    int32_t p4 = 4;
    pb_patch p = set_from(f.clean, PB_SITE_ATTN_OUT, 0);
    p.pos = (pb_choice){true, 1, &p4};
    pb_site site = {PB_SITE_RESID_POST, 2};
    pb_tensor *got = NULL, **where = &got;
    pb_request r = {.base = f.corrupt, .patches = &p, .n_patches = 1, .captures = &site, .n_captures = 1};
    assert_ok(pb_measure(&r, 1, NULL, NULL, &where, NULL, &err));
    pb_run *run = NULL;
    assert_ok(pb_run_patched(f.corrupt, &p, 1, &run, &err));
    pb_tensor *expected = value(run, site.kind, site.layer);
    same(&f, got, expected);
    pb_tensor_unref(got);
    pb_tensor_unref(expected);
    pb_run_unref(run);
    drop_fixture(&f);
}

/* Sites fit together as the model's formulas say. */
static void sites__add_up(bool llama) {
    fixture f = make_fixture(llama);
    pb_tensor *pre = value(f.clean, PB_SITE_RESID_PRE, 1), *mid = value(f.clean, PB_SITE_RESID_MID, 1),
              *post = value(f.clean, PB_SITE_RESID_POST, 1), *attn = value(f.clean, PB_SITE_ATTN_OUT, 1),
              *mlp = value(f.clean, PB_SITE_MLP_OUT, 1), *sum = NULL, *result = value(f.clean, PB_SITE_RESULT, 1),
              *heads = NULL, *pattern = value(f.clean, PB_SITE_PATTERN, 1), *rows = NULL,
              *next = value(f.clean, PB_SITE_RESID_PRE, 2);
    assert_ok(pb_tensor_binary(PB_ADD, pre, attn, &sum, &err));
    assert_tensor_close(sum, mid, 1e-6);
    pb_tensor_unref(sum);
    assert_ok(pb_tensor_binary(PB_ADD, mid, mlp, &sum, &err));
    assert_tensor_close(sum, post, 1e-6);
    assert_tensor_equal(post, next);
    assert_ok(pb_tensor_reduce(PB_SUM, pattern, 2, false, &rows, &err));
    pb_tensor *ones = NULL;
    assert_ok(pb_tensor_full(f.ctx, 2, pb_tensor_shape(rows), 1.0f, &ones, &err));
    assert_tensor_close(rows, ones, 1e-6);
    assert_ok(pb_tensor_reduce(PB_SUM, result, 1, false, &heads, &err));
    if (llama) /* no output bias */
        assert_tensor_close(heads, attn, 1e-5);
    pb_tensor *all[] = {pre, mid, post, attn, mlp, sum, result, heads, pattern, rows, ones, next};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        pb_tensor_unref(all[i]);
    drop_fixture(&f);
}

static void metrics__by_hand(bool llama) {
    fixture f = make_fixture(llama);
    pb_tensor *logits = value(f.clean, PB_SITE_LOGITS, -1);
    int vocab = pb_model_vocab(f.model);
    const float *all = pb_tensor_floats(logits), *last = all + (T - 1) * vocab;
    double sum = 0, ref_sum = 0, kl = 0, nll = 0;
    int rank = 0;
    int32_t answers[2] = {5, 7}, wrong = 9;
    for (int v = 0; v < vocab; v++) {
        sum += exp(last[v]);
        rank += last[v] > last[5];
    }
    for (int p = 0; p + 1 < T; p++) {
        double s = 0;
        for (int v = 0; v < vocab; v++)
            s += exp(all[p * vocab + v]);
        nll += (log(s) - all[p * vocab + f.clean_ids[p + 1]]) / (T - 1);
    }
    pb_tensor *other = value(f.corrupt, PB_SITE_LOGITS, -1);
    const float *ref = pb_tensor_floats(other) + (T - 1) * vocab;
    for (int v = 0; v < vocab; v++)
        ref_sum += exp(ref[v]);
    for (int v = 0; v < vocab; v++)
        kl += exp(ref[v]) / ref_sum * ((ref[v] - log(ref_sum)) - (last[v] - log(sum)));
    double p2 = (exp(last[5]) + exp(last[7])) / sum;
    static const double weights[2] = {0.5, -3};
    struct {
        pb_metric_options o;
        double expected;
    } cases[] = {
        {{.kind = PB_METRIC_LOGITS, .answers = answers, .n_answers = 2, .weights = weights},
         0.5 * last[5] - 3.0 * last[7]},
        {{.kind = PB_METRIC_LOGIT, .answers = answers, .n_answers = 2}, (last[5] + last[7]) / 2.0},
        {{.kind = PB_METRIC_LOGIT_DIFF, .answers = answers, .n_answers = 2, .wrong = &wrong, .n_wrong = 1},
         (last[5] + last[7]) / 2.0 - last[9]},
        {{.kind = PB_METRIC_PROB, .answers = answers, .n_answers = 2}, p2},
        {{.kind = PB_METRIC_LOG_PROB, .answers = answers, .n_answers = 2}, log(p2)},
        {{.kind = PB_METRIC_PROB_DIFF, .answers = answers, .n_answers = 2, .wrong = &wrong, .n_wrong = 1},
         p2 - exp(last[9]) / sum},
        {{.kind = PB_METRIC_RANK, .answers = answers, .n_answers = 1}, rank},
        {{.kind = PB_METRIC_NLL}, nll},
        {{.kind = PB_METRIC_KL, .reference = f.corrupt}, kl},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pb_metric *m = NULL;
        double got;
        assert_ok(pb_metric_create(f.ctx, &cases[i].o, &m, &err));
        assert_ok(pb_run_metric(f.clean, m, &got, &err));
        assert_close(got, cases[i].expected, 2e-5);
        pb_metric_unref(m);
    }
    pb_tensor_unref(logits);
    pb_tensor_unref(other);
    drop_fixture(&f);
}

static void metric_logits__what_is_refused(void **state) {
    (void)state;
    pb_context *ctx = test_context();
    const int32_t twice[2] = {5, 5}, tokens[2] = {5, 7};
    const double weights[2] = {1, -1}, infinite[2] = {1, INFINITY}, nan[2] = {NAN, 1};
    const struct {
        pb_metric_options o;
        const char *says;
    } cases[] = {
        {{.kind = PB_METRIC_LOGITS, .weights = weights}, "answer"},
        {{.kind = PB_METRIC_LOGITS, .answers = tokens, .n_answers = 2}, "a weight for each"},
        {{.kind = PB_METRIC_LOGITS, .answers = twice, .n_answers = 2, .weights = weights}, "two weights, 1 and -1"},
        {{.kind = PB_METRIC_LOGITS, .answers = tokens, .n_answers = 2, .weights = infinite}, "token 7 is inf"},
        {{.kind = PB_METRIC_LOGITS, .answers = tokens, .n_answers = 2, .weights = nan}, "token 5 is"},
        {{.kind = PB_METRIC_LOGITS,
          .answers = tokens,
          .n_answers = 2,
          .weights = weights,
          .wrong = tokens,
          .n_wrong = 1},
         "wrong"},
        {{.kind = PB_METRIC_LOGIT, .answers = tokens, .n_answers = 2, .weights = weights}, "takes no weights"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pb_metric *m = NULL;
        assert_error(pb_metric_create(ctx, &cases[i].o, &m, &err), PB_ERR_ARGUMENT, cases[i].says);
        assert_null(m);
    }
    assert_int_equal(pb_context_memory_used(ctx), 0);
    pb_context_unref(ctx);
}

static void generate__equals_fresh_runs(bool llama) {
    fixture f = make_fixture(llama);
    int32_t *ids = NULL, all[T + 6];
    size_t n;
    pb_generate_options o = {.tokens = 6};
    pb_patch held = {.site = {PB_SITE_RESID_POST, 1}, .op = PB_PATCH_ADD, .value = PB_VALUE_NUMBER, .number = 0.3};
    for (int patched = 0; patched < 2; patched++) {
        o.patches = patched ? &held : NULL;
        o.n_patches = (size_t)patched;
        assert_ok(pb_generate(f.clean, &o, &ids, &n, &err));
        assert_int_equal(n, 6);
        memcpy(all, f.clean_ids, sizeof f.clean_ids);
        for (size_t i = 0; i < n; i++) {
            pb_run *plain = NULL, *run = NULL;
            assert_ok(pb_run_create(f.model, all, T + i, &plain, &err));
            assert_ok(pb_run_patched(plain, &held, (size_t)patched, &run, &err));
            pb_tensor *logits = value(run, PB_SITE_LOGITS, -1), *best = NULL;
            assert_ok(pb_tensor_reduce(PB_ARGMAX, logits, 1, false, &best, &err));
            all[T + i] = pb_tensor_ints(best)[T + i - 1];
            assert_int_equal(ids[i], all[T + i]);
            pb_tensor_unref(best);
            pb_tensor_unref(logits);
            pb_run_unref(run);
            pb_run_unref(plain);
        }
        pb_free(ids);
    }
    int32_t *again = NULL;
    o = (pb_generate_options){.tokens = 8, .temperature = 1.5, .seed = 4, .top_k = 20};
    assert_ok(pb_generate(f.clean, &o, &ids, &n, &err));
    assert_ok(pb_generate(f.clean, &o, &again, &n, &err));
    assert_memory_equal(ids, again, n * sizeof *ids);
    pb_free(again);
    o.seed = 5;
    assert_ok(pb_generate(f.clean, &o, &again, &n, &err));
    assert_memory_not_equal(ids, again, n * sizeof *ids);
    pb_free(ids);
    pb_free(again);
    drop_fixture(&f);
}

static void noise__is_the_same_wherever_it_is_cut(bool llama) {
    fixture f = make_fixture(llama);
    int32_t rows[2] = {2, 5};
    int64_t shape[2] = {T, pb_model_d_model(f.model)};
    pb_tensor *draw = NULL, *scaled = NULL, *chosen = NULL;
    assert_ok(pb_tensor_normal(f.ctx, 2, shape, 17, 3, &draw, &err));
    assert_ok(pb_tensor_binary_scalar(PB_MUL, draw, 0.1f, &scaled, &err));
    assert_ok(pb_tensor_index(scaled, 0, (int64_t[]){2, 5}, 2, &chosen, &err));
    pb_patch noise = {.site = {PB_SITE_EMBED, -1},
                      .pos = {true, 2, rows},
                      .op = PB_PATCH_ADD,
                      .value = PB_VALUE_NOISE,
                      .noise_std = 0.1,
                      .noise_seed = 17,
                      .noise_draw = 3};
    pb_patch same_noise = {.site = {PB_SITE_EMBED, -1},
                           .pos = {true, 2, rows},
                           .op = PB_PATCH_ADD,
                           .value = PB_VALUE_TENSOR,
                           .tensor = chosen};
    pb_run *a = NULL, *b = NULL;
    assert_ok(pb_run_patched(f.clean, &noise, 1, &a, &err));
    assert_ok(pb_run_patched(f.clean, &same_noise, 1, &b, &err));
    same_value(&f, a, b, PB_SITE_LOGITS, -1);
    pb_run_unref(a);
    pb_run_unref(b);
    pb_tensor_unref(draw);
    pb_tensor_unref(scaled);
    pb_tensor_unref(chosen);
    drop_fixture(&f);
}

static void bad_input__is_refused_with_words(bool llama) {
    fixture f = make_fixture(llama);
    pb_metric *m = difference(&f);
    int32_t early = 2, far = 40, twice[2] = {1, 1}, bad_ids[2] = {1, 1000};
    double v;
    pb_run *run = NULL, *other = NULL;
    pb_patch p = set_from(f.clean, PB_SITE_Z, 2);
    pb_request r = {.base = f.corrupt, .patches = &p, .n_patches = 1, .metric = m};
    p.pos = (pb_choice){true, 1, &far};
    assert_error(pb_measure(&r, 1, NULL, &v, NULL, NULL, &err), PB_ERR_ARGUMENT, "pos 40 is out of range");
    p.pos = (pb_choice){true, 2, twice};
    assert_error(pb_measure(&r, 1, NULL, &v, NULL, NULL, &err), PB_ERR_ARGUMENT, "chosen twice");
    p = (pb_patch){
        .site = {PB_SITE_Z, 2}, .pos = {true, 1, &early}, .op = PB_PATCH_SCALE, .value = PB_VALUE_NUMBER, .number = 2};
    assert_error(pb_measure(&r, 1, NULL, &v, NULL, NULL, &err), PB_ERR_ARGUMENT, "nothing reads");
    p.site.kind = PB_SITE_RESID_PRE;
    p.head = (pb_choice){true, 1, &early};
    assert_error(pb_measure(&r, 1, NULL, &v, NULL, NULL, &err), PB_ERR_ARGUMENT, "no head axis");
    assert_ok(pb_run_create(f.model, f.clean_ids, 5, &other, &err));
    p = set_from(other, PB_SITE_RESID_PRE, 1);
    assert_error(pb_measure(&r, 1, NULL, &v, NULL, NULL, &err), PB_ERR_ARGUMENT, "from_pos");
    assert_error(pb_run_create(f.model, bad_ids, 2, &run, &err), PB_ERR_ARGUMENT, "not in the vocabulary");
    assert_error(pb_run_create(f.model, bad_ids, 0, &run, &err), PB_ERR_ARGUMENT, "no tokens");
    p = (pb_patch){.site = {PB_SITE_MLP_POST, 1}, .op = PB_PATCH_SET, .value = PB_VALUE_NUMBER, .number = NAN};
    assert_error(pb_measure(&r, 1, NULL, &v, NULL, NULL, &err), PB_ERR_NUMERIC, "layer 1");
    p = (pb_patch){.site = {PB_SITE_ATTN_SCORES, 1}, .op = PB_PATCH_SET, .value = PB_VALUE_NUMBER, .number = -INFINITY};
    assert_error(pb_measure(&r, 1, NULL, &v, NULL, NULL, &err), PB_ERR_NUMERIC, "attention row");
    p = set_from(f.clean, PB_SITE_RESID_PRE, 1);
    pb_measure_options tiny = {.memory = 1000};
    assert_error(pb_measure(&r, 1, &tiny, &v, NULL, NULL, &err), PB_ERR_MEMORY, "working memory");
    pb_context_stop(f.ctx);
    assert_error(pb_measure(&r, 1, NULL, &v, NULL, NULL, &err), PB_ERR_STOPPED, NULL);
    pb_context_clear_stop(f.ctx);
    pb_run_unref(other);
    pb_metric_unref(m);
    drop_fixture(&f);
}

static pb_status whole_story(pb_context *ctx, void *user, pb_error *e) {
    fixture *f = user;
    (void)ctx;
    pb_run *run = NULL, *fork = NULL, *patched = NULL;
    pb_metric *m = NULL;
    pb_tensor *z = NULL;
    int32_t answer = 3, pos = 4, *ids = NULL;
    size_t n;
    double v;
    pb_metric_options o = {.kind = PB_METRIC_KL, .reference = f->clean};
    pb_patch p = set_from(f->clean, PB_SITE_PATTERN, 1);
    p.dest = (pb_choice){true, 1, &pos};
    pb_request r = {.base = f->corrupt, .patches = &p, .n_patches = 1};
    pb_generate_options g = {.tokens = 2, .temperature = 1, .top_k = 3};
    (void)answer;
    pb_status s = pb_run_create(f->model, f->clean_ids, T, &run, e);
    if (s == PB_OK)
        s = pb_run_fork(run, f->corrupt_ids, T, &fork, e);
    if (s == PB_OK)
        s = pb_run_patched(fork, &p, 1, &patched, e);
    if (s == PB_OK)
        s = pb_run_value(patched, (pb_site){PB_SITE_RESULT, 1}, &z, e);
    if (s == PB_OK)
        s = pb_metric_create(ctx, &o, &m, e);
    r.metric = m;
    if (s == PB_OK)
        s = pb_measure(&r, 1, NULL, &v, NULL, NULL, e);
    if (s == PB_OK)
        s = pb_generate(run, &g, &ids, &n, e);
    pb_free(ids);
    pb_tensor_unref(z);
    pb_metric_unref(m);
    pb_run_unref(patched);
    pb_run_unref(fork);
    pb_run_unref(run);
    return s;
}

static void everything__under_allocation_failure(bool llama) {
    fixture f = make_fixture(llama);
    assert_true(assert_survives_allocation_failure(f.ctx, whole_story, &f) > 50);
    drop_fixture(&f);
}

#define BOTH(name)                                                                                                     \
    static void name##__gpt2(void **state) {                                                                           \
        (void)state;                                                                                                   \
        name(false);                                                                                                   \
    }                                                                                                                  \
    static void name##__llama(void **state) {                                                                          \
        (void)state;                                                                                                   \
        name(true);                                                                                                    \
    }
BOTH(run_fork__equals_fresh_run)
BOTH(values__of_many_runs__do_not_depend_on_company)
BOTH(patch__own_values__changes_nothing)
BOTH(patch__whole_cut_from_clean__gives_clean_logits)
BOTH(measure__equals_patched_run__in_any_company)
BOTH(threads__change_no_bit)
BOTH(patched_run__patched_again__equals_both_at_once)
BOTH(patch__function__equals_the_same_patch_as_data)
BOTH(capture__equals_value_of_the_patched_run)
BOTH(patch__own_values_after_a_change__hold)
BOTH(capture__last_residual__has_all_rows)
BOTH(sites__add_up)
BOTH(metrics__by_hand)
BOTH(generate__equals_fresh_runs)
BOTH(noise__is_the_same_wherever_it_is_cut)
BOTH(bad_input__is_refused_with_words)
BOTH(everything__under_allocation_failure)

#define TESTS(name) cmocka_unit_test(name##__gpt2), cmocka_unit_test(name##__llama)
int main(void) {
    const struct CMUnitTest tests[] = {
        TESTS(run_fork__equals_fresh_run),
        TESTS(values__of_many_runs__do_not_depend_on_company),
        TESTS(patch__own_values__changes_nothing),
        TESTS(patch__whole_cut_from_clean__gives_clean_logits),
        TESTS(measure__equals_patched_run__in_any_company),
        TESTS(threads__change_no_bit),
        TESTS(patched_run__patched_again__equals_both_at_once),
        TESTS(patch__function__equals_the_same_patch_as_data),
        TESTS(capture__equals_value_of_the_patched_run),
        TESTS(patch__own_values_after_a_change__hold),
        TESTS(capture__last_residual__has_all_rows),
        TESTS(sites__add_up),
        TESTS(metrics__by_hand),
        cmocka_unit_test(metric_logits__what_is_refused),
        TESTS(generate__equals_fresh_runs),
        TESTS(noise__is_the_same_wherever_it_is_cut),
        TESTS(bad_input__is_refused_with_words),
        TESTS(everything__under_allocation_failure),
    };
    return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}
