/* Layers whose attn_out or mlp_out patches put in whole: what nothing reads is not computed, and every result keeps its bits. */
#include "support/support.h"

#include <stdio.h>
#include <string.h>

#include "patchbay/patchbay.h"

enum { T = 7, MOST = 8, VARIANTS = 7 };

static pb_error err;

static const char *const families[] = {"gpt2",  "llama",   "gptj",    "gpt_neox",     "cohere", "falcon",  "gemma2",
                                       "olmo2", "mixtral", "mistral", "opt-postnorm", "phi",    "granite", "bloom"};

/* What comes before the first difference of the two runs is the base's. */
static test_pair make_fixture(const char *family) {
    char path[128];
    snprintf(path, sizeof path, "golden/models/%s", family);
    bool own = strcmp(family, "gpt2") == 0 || strcmp(family, "llama") == 0;
    return test_pair_make(own ? test_data(path) : test_shared(path), T, 2);
}

static pb_tensor *value(pb_run *run, pb_site_kind kind, int layer) {
    pb_tensor *t = NULL;
    assert_ok(pb_run_value(run, (pb_site){kind, layer}, &t, &err));
    return t;
}

/* Changes nothing, but must be shown the value. */
static pb_status look(void *user, const pb_patch *patch, const pb_run *base, size_t variant, pb_tensor *act,
                      pb_tensor **out, pb_error *error) {
    (void)patch, (void)base, (void)variant, (void)act, (void)out, (void)error;
    ++*(int *)user;
    return PB_OK;
}

/* Variant v: the stream is moved at position 2 of layer 0; then by the bits of v attn_out and mlp_out of layer 0 are held at the
 * other run's values, and for v >= 4 attn_out of layer 1 at positions from 2 on. watched: with functions that look at what the
 * held values would have been, so that everything is computed. */
typedef struct variant {
    pb_patch patches[MOST];
    size_t n;
} variant;

typedef struct sources {
    pb_tensor *attn[2], *mlp;
    pb_tensor *rows; /* of attn[1], from position 2 on */
    int32_t pos[T];  /* 2, 3, ... */
    int32_t moved;
} sources;

static sources make_sources(test_pair *f) {
    sources s = {.moved = 2};
    for (int layer = 0; layer < 2; layer++)
        s.attn[layer] = value(f->other, PB_SITE_ATTN_OUT, layer);
    s.mlp = value(f->other, PB_SITE_MLP_OUT, 0);
    for (int32_t p = 2; p < T; p++)
        s.pos[p - 2] = p;
    assert_ok(pb_tensor_narrow(s.attn[1], 0, 2, T - 2, &s.rows, &err));
    return s;
}

static void drop_sources(sources *s) {
    pb_tensor_unref(s->rows);
    pb_tensor_unref(s->attn[0]);
    pb_tensor_unref(s->attn[1]);
    pb_tensor_unref(s->mlp);
}

static variant make_variant(const sources *s, int v, int *calls) {
    variant out = {.n = 0};
    out.patches[out.n++] = (pb_patch){.site = {PB_SITE_RESID_PRE, 0},
                                      .pos = {true, 1, &s->moved},
                                      .op = PB_PATCH_SCALE,
                                      .value = PB_VALUE_NUMBER,
                                      .number = 1.5};
    if (v & 1)
        out.patches[out.n++] = (pb_patch){
            .site = {PB_SITE_ATTN_OUT, 0}, .op = PB_PATCH_SET, .value = PB_VALUE_TENSOR, .tensor = s->attn[0]};
    if (v & 2)
        out.patches[out.n++] =
            (pb_patch){.site = {PB_SITE_MLP_OUT, 0}, .op = PB_PATCH_SET, .value = PB_VALUE_TENSOR, .tensor = s->mlp};
    if (v & 4)
        out.patches[out.n++] = (pb_patch){.site = {PB_SITE_ATTN_OUT, 1},
                                          .pos = {true, T - 2, s->pos},
                                          .op = PB_PATCH_SET,
                                          .value = PB_VALUE_TENSOR,
                                          .tensor = s->rows};
    if (calls) {
        out.patches[out.n++] = (pb_patch){.site = {PB_SITE_Z, 0}, .op = PB_PATCH_FN, .fn = look, .user = calls};
        out.patches[out.n++] = (pb_patch){.site = {PB_SITE_Z, 1}, .op = PB_PATCH_FN, .fn = look, .user = calls};
        out.patches[out.n++] = (pb_patch){.site = {PB_SITE_MLP_OUT, 0}, .op = PB_PATCH_FN, .fn = look, .user = calls};
    }
    return out;
}

static void compare_family(const char *family) {
    test_pair f = make_fixture(family);
    sources s = make_sources(&f);
    variant variants[2 * VARIANTS];
    pb_request requests[2 * VARIANTS];
    pb_tensor *found[2 * VARIANTS][3], **where[2 * VARIANTS];
    double values[2 * VARIANTS];
    /* resid_pre of the last layer, its mlp_out, and what the whole does */
    const pb_site sites[3] = {{PB_SITE_RESID_PRE, 1}, {PB_SITE_MLP_OUT, 1}, {PB_SITE_LOGITS, -1}};
    int calls = 0;
    for (int captured = 0; captured < 2; captured++) {
        for (size_t i = 0; i < 2 * VARIANTS; i++) { /* held and watched ones in one group */
            variants[i] = make_variant(&s, (int)(i / 2) + 1, i % 2 ? &calls : NULL);
            requests[i] = (pb_request){.base = f.run,
                                       .patches = variants[i].patches,
                                       .n_patches = variants[i].n,
                                       .metric = f.metric,
                                       .captures = sites,
                                       .n_captures = captured ? 3 : 0};
            where[i] = found[i];
        }
        assert_ok(pb_measure(requests, 2 * VARIANTS, NULL, values, where, NULL, &err));
        for (size_t i = 0; i < 2 * VARIANTS; i += 2) {
            if (values[i] != values[i + 1])
                fail_msg("%s, variant %zu: %.9g without what nothing reads, %.9g with it", family, i / 2 + 1, values[i],
                         values[i + 1]);
            for (int c = 0; c < 3 && captured; c++) {
                assert_tensor_equal(found[i][c], found[i + 1][c]);
                pb_tensor_unref(found[i][c]);
                pb_tensor_unref(found[i + 1][c]);
            }
        }
        assert_int_equal(calls, (captured + 1) * 3 * VARIANTS);
    }
    drop_sources(&s);
    test_pair_drop(&f);
}

static void held_outputs__same_bits__every_block(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        compare_family(families[i]);
}

/* A run that is made remembers queries, keys and values of held layers too: what is asked of it later is right. */
static void held_outputs__of_a_patched_run__same_bits(void **state) {
    (void)state;
    static const char *const some[] = {"gpt2", "llama", "gptj", "gemma2", "mixtral"};
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        test_pair f = make_fixture(some[i]);
        sources s = make_sources(&f);
        int calls = 0;
        variant held = make_variant(&s, 7, NULL), watched = make_variant(&s, 7, &calls);
        pb_run *a = NULL, *b = NULL;
        assert_ok(pb_run_patched(f.run, held.patches, held.n, &a, &err));
        assert_ok(pb_run_patched(f.run, watched.patches, watched.n, &b, &err));
        assert_true(calls > 0);
        static const pb_site_kind kinds[] = {PB_SITE_RESID_PRE, PB_SITE_Q,       PB_SITE_K,
                                             PB_SITE_V,         PB_SITE_PATTERN, PB_SITE_Z,
                                             PB_SITE_ATTN_OUT,  PB_SITE_MLP_OUT, PB_SITE_RESID_POST};
        for (int layer = 0; layer < 2; layer++)
            for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
                pb_tensor *x = value(a, kinds[k], layer), *y = value(b, kinds[k], layer);
                assert_tensor_equal(x, y);
                pb_tensor_unref(x);
                pb_tensor_unref(y);
            }
        int32_t dest = T - 1;
        pb_patch later = {.site = {PB_SITE_ATTN_SCORES, 0},
                          .dest = {true, 1, &dest},
                          .op = PB_PATCH_SCALE,
                          .value = PB_VALUE_NUMBER,
                          .number = 2};
        pb_request requests[2] = {{.base = a, .patches = &later, .n_patches = 1, .metric = f.metric},
                                  {.base = b, .patches = &later, .n_patches = 1, .metric = f.metric}};
        pb_measure_options o = {.allow_unread = true};
        double values[2];
        assert_ok(pb_measure(requests, 2, &o, values, NULL, NULL, &err));
        assert_true(values[0] == values[1]);
        pb_run_unref(a);
        pb_run_unref(b);
        drop_sources(&s);
        test_pair_drop(&f);
    }
}

static double planned(const test_pair *f, const pb_patch *patches, size_t n, const pb_site *capture) {
    pb_request r = {.base = f->run,
                    .patches = patches,
                    .n_patches = n,
                    .metric = f->metric,
                    .captures = capture,
                    .n_captures = capture != NULL};
    pb_measure_options o = {.dry = true};
    pb_plan plan;
    assert_ok(pb_measure(&r, 1, &o, NULL, NULL, &plan, &err));
    return plan.flops;
}

/* With attention and mlp of both layers held nothing is left but the two logits; each alone saves its own products. */
static void held_outputs__cost_nothing(void **state) {
    (void)state;
    test_pair f = make_fixture("gpt2");
    double D = pb_model_d_model(f.model), M = pb_model_d_mlp(f.model), logits = 2 * D * 2;
    int32_t first = 0, some[2] = {0, 3}, odd[2] = {1, 2};
    pb_patch patches[5] = {{.site = {PB_SITE_RESID_PRE, 0}, .pos = {true, 1, &first}, .op = PB_PATCH_ADD, .number = 1}};
    for (int i = 0; i < 4; i++)
        patches[i + 1] = (pb_patch){.site = {i % 2 ? PB_SITE_MLP_OUT : PB_SITE_ATTN_OUT, i / 2}, .op = PB_PATCH_SET};
    double none = planned(&f, patches, 1, NULL), all = planned(&f, patches, 5, NULL);
    assert_true(all == logits);
    /* layer 0: q, k and v of the first row, attention of all; layer 1: keys and values of all, one query */
    double attention0 = 2 * (3 + T) * D * D + 2.0 * T * (T + 1) * D, mlp0 = 2 * T * 2 * D * M;
    double attention1 = 2 * (2 * T + 2) * D * D + 4.0 * T * D, mlp1 = 2 * 2 * D * M;
    assert_close(none, attention0 + mlp0 + attention1 + mlp1 + logits, 1e-6);
    assert_close(planned(&f, patches, 2, NULL), none - attention0, 1e-6);
    assert_close(planned(&f, patches, 3, NULL), none - attention0 - mlp0, 1e-6);
    assert_close(planned(&f, patches, 4, NULL), none - attention0 - mlp0 - attention1, 1e-6);
    /* not what somebody looks at, what is held in part, or what is only changed */
    pb_site inside = {PB_SITE_Z, 1};
    assert_true(planned(&f, patches, 5, &inside) >= attention1 + logits);
    patches[1].pos = (pb_choice){true, 2, some};
    assert_close(planned(&f, patches, 2, NULL), none, 1e-6);
    patches[1].pos = (pb_choice){false, 0, NULL};
    patches[1].neuron = (pb_choice){true, 2, odd};
    assert_close(planned(&f, patches, 2, NULL), none, 1e-6);
    patches[1].neuron = (pb_choice){false, 0, NULL};
    patches[1].op = PB_PATCH_ADD;
    assert_close(planned(&f, patches, 2, NULL), none, 1e-6);
    test_pair_drop(&f);
}

/* Patches at the site before the one that puts it in whole do not count, those after it do. */
static void held_outputs__other_patches_at_the_site(void **state) {
    (void)state;
    test_pair f = make_fixture("llama");
    pb_patch patches[2] = {{.site = {PB_SITE_ATTN_OUT, 0}, .op = PB_PATCH_SCALE, .number = 0},
                           {.site = {PB_SITE_ATTN_OUT, 0}, .op = PB_PATCH_SET, .number = 0.25}};
    pb_request requests[2] = {{.base = f.run, .patches = patches, .n_patches = 2, .metric = f.metric},
                              {.base = f.run, .patches = &patches[1], .n_patches = 1, .metric = f.metric}};
    double values[2];
    assert_ok(pb_measure(requests, 2, NULL, values, NULL, NULL, &err));
    assert_true(values[0] == values[1]);
    patches[1] = (pb_patch){.site = {PB_SITE_ATTN_OUT, 0}, .op = PB_PATCH_ADD, .number = 0.25}; /* after a whole one */
    patches[0].op = PB_PATCH_SET;
    requests[1] =
        (pb_request){.base = f.run,
                     .patches = &(pb_patch){.site = {PB_SITE_ATTN_OUT, 0}, .op = PB_PATCH_SET, .number = 0.25},
                     .n_patches = 1,
                     .metric = f.metric};
    assert_ok(pb_measure(requests, 2, NULL, values, NULL, NULL, &err));
    assert_true(values[0] == values[1]);
    test_pair_drop(&f);
}

/* A patch of what a held output is made of has no reader: refused, as any other. */
static void held_outputs__patches_before_them__nothing_reads(void **state) {
    (void)state;
    test_pair f = make_fixture("gpt2");
    int32_t row = 3, last = T - 1, later[2] = {3, 4};
    static const struct {
        pb_site_kind kind, out;
        bool one_row_is_enough; /* holding the patched row alone hides it */
    } cases[] = {{PB_SITE_Z, PB_SITE_ATTN_OUT, true},       {PB_SITE_Q, PB_SITE_ATTN_OUT, true},
                 {PB_SITE_RESULT, PB_SITE_ATTN_OUT, true},  {PB_SITE_V, PB_SITE_ATTN_OUT, false},
                 {PB_SITE_K, PB_SITE_ATTN_OUT, false},      {PB_SITE_LN1_SCALE, PB_SITE_ATTN_OUT, false},
                 {PB_SITE_MLP_POST, PB_SITE_MLP_OUT, true}, {PB_SITE_LN2_NORMALIZED, PB_SITE_MLP_OUT, true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pb_patch patches[2] = {{.site = {cases[i].kind, 0}, .pos = {true, 1, &row}, .op = PB_PATCH_SCALE, .number = 2},
                               {.site = {cases[i].out, 0}, .op = PB_PATCH_SET, .number = 0.25}};
        pb_request r = {.base = f.run, .patches = patches, .n_patches = 2, .metric = f.metric};
        pb_measure_options allow = {.allow_unread = true};
        double got, held;
        assert_error(pb_measure(&r, 1, NULL, &got, NULL, NULL, &err), PB_ERR_ARGUMENT, "hook_attn_out or hook_mlp_out");
        assert_ok(pb_measure(&r, 1, &allow, &got, NULL, NULL, &err));
        r = (pb_request){.base = f.run, .patches = &patches[1], .n_patches = 1, .metric = f.metric};
        assert_ok(pb_measure(&r, 1, NULL, &held, NULL, NULL, &err));
        assert_true(got == held);
        patches[1].pos = (pb_choice){true, 1, &row}; /* the patched row alone is held */
        r.patches = patches;
        r.n_patches = 2;
        if (cases[i].one_row_is_enough)
            assert_error(pb_measure(&r, 1, NULL, &got, NULL, NULL, &err), PB_ERR_ARGUMENT, "nothing reads");
        else
            assert_ok(pb_measure(&r, 1, NULL, &got, NULL, NULL, &err));
        patches[1].pos = (pb_choice){true, 1, &last}; /* another row is */
        assert_ok(pb_measure(&r, 1, NULL, &got, NULL, NULL, &err));
        patches[1].pos = (pb_choice){false, 0, NULL};
        patches[1].neuron = (pb_choice){true, 2, later}; /* a part is */
        assert_ok(pb_measure(&r, 1, NULL, &got, NULL, NULL, &err));
        pb_tensor *shown = NULL, **where = &shown; /* somebody looks */
        patches[1].neuron = (pb_choice){false, 0, NULL};
        r.captures = &patches[0].site;
        r.n_captures = 1;
        assert_ok(pb_measure(&r, 1, NULL, &got, &where, NULL, &err));
        pb_tensor_unref(shown);
    }
    test_pair_drop(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(held_outputs__same_bits__every_block),
        cmocka_unit_test(held_outputs__of_a_patched_run__same_bits),
        cmocka_unit_test(held_outputs__cost_nothing),
        cmocka_unit_test(held_outputs__patches_before_them__nothing_reads),
        cmocka_unit_test(held_outputs__other_patches_at_the_site),
    };
    return cmocka_run_group_tests_name("held", tests, NULL, NULL);
}
