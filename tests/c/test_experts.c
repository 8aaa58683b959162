/* The sites of single experts (golden model mixtral): their values from the weights, patches, what is not chosen, gradients. */
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "patchbay/grad.h"

enum { T = 6, EXPERTS = 4 };

static pb_error err;

static test_pair make_fixture(void) { return test_pair_make(test_shared("golden/models/mixtral"), T, 0); }

static pb_tensor *value(pb_run *run, pb_site_kind kind, int layer, int expert) {
    pb_tensor *t = NULL;
    assert_ok(pb_run_value(run, (pb_site){kind, layer, expert}, &t, &err));
    return t;
}

static pb_tensor *parameter(const pb_model *model, const char *format, int layer, int expert) {
    char name[64];
    pb_tensor *t = NULL;
    snprintf(name, sizeof name, format, layer, expert);
    assert_ok(pb_model_parameter(model, name, &t, &err));
    return t;
}

/* Does the run's router give the row to the expert? */
static bool is_chosen(pb_run *run, int layer, int expert, int32_t pos) {
    pb_tensor *indices = value(run, PB_SITE_EXPERT_INDICES, layer, 0);
    int64_t k = pb_tensor_shape(indices)[1];
    bool chosen = false;
    for (int64_t j = 0; j < k; j++)
        chosen = chosen || (int)pb_tensor_floats(indices)[pos * k + j] == expert;
    pb_tensor_unref(indices);
    return chosen;
}

static int32_t a_row(pb_run *run, int layer, int expert, bool chosen) {
    for (int32_t p = T - 1; p >= 0; p--)
        if (is_chosen(run, layer, expert, p) == chosen)
            return p;
    return -1;
}

/* ---- values --------------------------------------------------------------------------------------------------------------- */

static void multiply_rows(const pb_tensor *x, const pb_tensor *w, double *out) {
    int64_t D = pb_tensor_shape(w)[0], M = pb_tensor_shape(w)[1];
    for (int64_t p = 0; p < pb_tensor_shape(x)[0]; p++)
        for (int64_t m = 0; m < M; m++) {
            double sum = 0;
            for (int64_t d = 0; d < D; d++)
                sum += (double)pb_tensor_floats(x)[p * D + d] * pb_tensor_floats(w)[d * M + m];
            out[p * M + m] = sum;
        }
}

static void check_rows(pb_run *run, const pb_tensor *got, int layer, int expert, const double *wanted) {
    int64_t M = pb_tensor_shape(got)[1];
    assert_int_equal(pb_tensor_ndim(got), 2);
    assert_int_equal(pb_tensor_shape(got)[0], T);
    for (int32_t p = 0; p < T; p++) {
        bool chosen = is_chosen(run, layer, expert, p);
        for (int64_t m = 0; m < M; m++)
            assert_close(pb_tensor_floats(got)[p * M + m], chosen ? wanted[p * M + m] : 0, chosen ? 2e-5 : 0);
    }
}

static void expert_sites__are_the_products_of_its_weights(void **state) {
    (void)state;
    test_pair f = make_fixture();
    for (int layer = 0; layer < 2; layer++)
        for (int expert = 0; expert < EXPERTS; expert++) {
            pb_tensor *x = value(f.run, PB_SITE_LN2_NORMALIZED, layer, 0),
                      *w = parameter(f.model, "blocks.%d.ln2.w", layer, 0),
                      *w_gate = parameter(f.model, "blocks.%d.mlp.experts.%d.W_gate", layer, expert),
                      *w_in = parameter(f.model, "blocks.%d.mlp.experts.%d.W_in", layer, expert),
                      *gate = value(f.run, PB_SITE_EXPERT_GATE, layer, expert),
                      *pre = value(f.run, PB_SITE_EXPERT_PRE, layer, expert),
                      *post = value(f.run, PB_SITE_EXPERT_POST, layer, expert);
            double gates[1024], pres[1024], posts[1024];
            int64_t n = pb_tensor_count(gate);
            assert_true(n <= 1024 && pb_tensor_shape(gate)[1] == pb_model_d_mlp(f.model));
            assert_ok(pb_tensor_binary_in_place(PB_MUL, x, w, &err));
            multiply_rows(x, w_gate, gates);
            multiply_rows(x, w_in, pres);
            for (int64_t i = 0; i < n; i++)
                posts[i] = gates[i] / (1 + exp(-gates[i])) * pres[i];
            check_rows(f.run, gate, layer, expert, gates);
            check_rows(f.run, pre, layer, expert, pres);
            check_rows(f.run, post, layer, expert, posts);
            pb_tensor *all[] = {x, w, w_gate, w_in, gate, pre, post};
            for (size_t i = 0; i < 7; i++)
                pb_tensor_unref(all[i]);
        }
    test_pair_drop(&f);
}

/* ---- patches -------------------------------------------------------------------------------------------------------------- */

/* As PB_VALUE_TENSOR, so that nothing is known to be the run's own. */
static void expert_sites__own_values_put_back__change_no_bit(void **state) {
    (void)state;
    test_pair f = make_fixture();
    static const pb_site_kind kinds[] = {PB_SITE_EXPERT_GATE, PB_SITE_EXPERT_PRE, PB_SITE_EXPERT_POST};
    double own, values[2 * EXPERTS * 3];
    pb_patch patches[2 * EXPERTS * 3];
    pb_request requests[2 * EXPERTS * 3];
    size_t n = 0;
    for (int layer = 0; layer < 2; layer++)
        for (int expert = 0; expert < EXPERTS; expert++)
            for (int k = 0; k < 3; k++, n++) {
                patches[n] = (pb_patch){.site = {kinds[k], layer, expert},
                                        .op = PB_PATCH_SET,
                                        .value = PB_VALUE_TENSOR,
                                        .tensor = value(f.run, kinds[k], layer, expert)};
                requests[n] = (pb_request){
                    .base = f.run, .patches = &patches[n], .n_patches = 1, .metric = f.metric, .captures = NULL};
            }
    pb_measure_options o = {.allow_unread = true};
    assert_ok(pb_run_metric(f.run, f.metric, &own, &err));
    assert_ok(pb_measure(requests, n, &o, values, NULL, NULL, &err));
    for (size_t i = 0; i < n; i++) {
        assert_true(values[i] == own);
        pb_tensor_unref(patches[i].tensor);
    }
    test_pair_drop(&f);
}

/* What an expert adds is its weight times W_out post: with the other run's router and every expert's post, mlp_out is the
 * other run's, to the bit. */
static void expert_sites__all_of_another_run__give_its_mlp_out(void **state) {
    (void)state;
    test_pair f = make_fixture();
    pb_patch patches[EXPERTS + 1];
    for (int e = 0; e < EXPERTS; e++)
        patches[e] =
            (pb_patch){.site = {PB_SITE_EXPERT_POST, 1, e}, .op = PB_PATCH_SET, .value = PB_VALUE_RUN, .run = f.other};
    patches[EXPERTS] =
        (pb_patch){.site = {PB_SITE_EXPERT_WEIGHTS, 1}, .op = PB_PATCH_SET, .value = PB_VALUE_RUN, .run = f.other};
    pb_run *patched = NULL;
    assert_ok(pb_run_patched(f.run, patches, EXPERTS + 1, &patched, &err));
    pb_tensor *got = value(patched, PB_SITE_MLP_OUT, 1, 0), *wanted = value(f.other, PB_SITE_MLP_OUT, 1, 0),
              *own = value(f.run, PB_SITE_MLP_OUT, 1, 0);
    double gap, relative;
    assert_tensor_equal(got, wanted);
    assert_ok(pb_tensor_max_difference(own, wanted, &gap, &relative, &err));
    assert_true(gap > 1e-3);
    pb_tensor_unref(got);
    pb_tensor_unref(wanted);
    pb_tensor_unref(own);
    /* one expert's post as hook_post shows it: the other's at rows that chose it here, zeros elsewhere */
    for (int e = 0; e < EXPERTS; e++) {
        pb_tensor *there = value(f.other, PB_SITE_EXPERT_POST, 1, e);
        got = value(patched, PB_SITE_EXPERT_POST, 1, e);
        assert_tensor_equal(got, there);
        pb_tensor_unref(got);
        pb_tensor_unref(there);
    }
    pb_run_unref(patched);
    test_pair_drop(&f);
}

static void expert_sites__where_it_is_not_chosen__nothing_reads_the_patch(void **state) {
    (void)state;
    test_pair f = make_fixture();
    int expert = 0;
    while (expert < EXPERTS && (a_row(f.run, 0, expert, true) < 0 || a_row(f.run, 0, expert, false) < 0))
        expert++;
    assert_true(expert < EXPERTS);
    int32_t in = a_row(f.run, 0, expert, true), out = a_row(f.run, 0, expert, false), both[2] = {in, out};
    pb_patch patch = {.site = {PB_SITE_EXPERT_POST, 0, expert},
                      .pos = {true, 1, &out},
                      .op = PB_PATCH_SET,
                      .value = PB_VALUE_NUMBER,
                      .number = 3};
    pb_request request = {.base = f.run, .patches = &patch, .n_patches = 1, .metric = f.metric};
    pb_measure_options allow = {.allow_unread = true}, strict = {.allow_unread = false};
    double own, got, one;
    char message[64];
    snprintf(message, sizeof message, "chooses expert %d at pos %d, but ", expert, out);
    assert_ok(pb_run_metric(f.run, f.metric, &own, &err));
    assert_error(pb_measure(&request, 1, NULL, &got, NULL, NULL, &err), PB_ERR_ARGUMENT, "nothing reads the patch");
    assert_error(pb_measure(&request, 1, &strict, &got, NULL, NULL, &err), PB_ERR_ARGUMENT, message);
    assert_ok(pb_measure(&request, 1, &allow, &got, NULL, NULL, &err));
    assert_true(got == own);
    patch.pos = (pb_choice){true, 1, &in};
    assert_ok(pb_measure(&request, 1, NULL, &one, NULL, NULL, &err));
    assert_true(one != own);
    patch.pos = (pb_choice){true, 2, both}; /* one row reads it: as if only that one were named */
    assert_ok(pb_measure(&request, 1, NULL, &got, NULL, NULL, &err));
    assert_true(got == one);
    /* what the site shows there stays zero */
    pb_run *patched = NULL;
    assert_ok(pb_run_patched(f.run, &patch, 1, &patched, &err));
    pb_tensor *shown = value(patched, PB_SITE_EXPERT_POST, 0, expert);
    int64_t M = pb_tensor_shape(shown)[1];
    assert_true(pb_tensor_floats(shown)[in * M] == 3 && pb_tensor_floats(shown)[out * M] == 0);
    pb_tensor_unref(shown);
    pb_run_unref(patched);
    test_pair_drop(&f);
}

/* The router of the patched run decides: where hook_expert_indices gives the row to another expert, that one's patch is read. */
static void expert_sites__the_choice_is_the_patched_one(void **state) {
    (void)state;
    test_pair f = make_fixture();
    int32_t last = T - 1;
    int expert = 0;
    while (is_chosen(f.run, 1, expert, last))
        expert++;
    pb_patch patches[] = {{.site = {PB_SITE_EXPERT_POST, 1, expert},
                           .pos = {true, 1, &last},
                           .op = PB_PATCH_SCALE,
                           .value = PB_VALUE_NUMBER,
                           .number = 0},
                          {.site = {PB_SITE_EXPERT_INDICES, 1},
                           .pos = {true, 1, &last},
                           .op = PB_PATCH_SET,
                           .value = PB_VALUE_NUMBER,
                           .number = expert}};
    pb_request request = {.base = f.run, .patches = patches, .n_patches = 1, .metric = f.metric};
    double got;
    assert_error(pb_measure(&request, 1, NULL, &got, NULL, NULL, &err), PB_ERR_ARGUMENT, "nothing reads");
    request.n_patches = 2;
    assert_ok(pb_measure(&request, 1, NULL, &got, NULL, NULL, &err));
    pb_run *patched = NULL;
    assert_ok(pb_run_patched(f.run, patches, 2, &patched, &err));
    pb_tensor *out = value(patched, PB_SITE_MLP_OUT, 1, 0);
    int64_t D = pb_tensor_shape(out)[1];
    for (int64_t d = 0; d < D; d++) /* both choices are the expert that was scaled to nothing */
        assert_true(pb_tensor_floats(out)[last * D + d] == 0);
    pb_tensor_unref(out);
    pb_run_unref(patched);
    test_pair_drop(&f);
}

typedef struct seen {
    int calls;
    int64_t zeros, shape[2];
} seen;

static pb_status look(void *user, const pb_patch *patch, const pb_run *base, size_t variant, pb_tensor *act,
                      pb_tensor **out, pb_error *error) {
    (void)patch, (void)base, (void)variant, (void)out, (void)error;
    seen *s = user;
    s->calls++;
    s->shape[0] = pb_tensor_shape(act)[0];
    s->shape[1] = pb_tensor_shape(act)[1];
    for (int64_t r = 0; r < s->shape[0]; r++)
        s->zeros += pb_tensor_floats(act)[r * s->shape[1]] == 0;
    return pb_tensor_fill(act, 0, error);
}

static void expert_sites__a_function_sees_all_rows(void **state) {
    (void)state;
    test_pair f = make_fixture();
    for (int e = 0; e < EXPERTS; e++) {
        seen s = {0};
        int64_t zeros = 0;
        for (int32_t p = 0; p < T; p++)
            zeros += !is_chosen(f.run, 1, e, p);
        pb_patch function = {.site = {PB_SITE_EXPERT_POST, 1, e}, .op = PB_PATCH_FN, .fn = look, .user = &s};
        pb_patch zero = {.site = {PB_SITE_EXPERT_POST, 1, e}, .op = PB_PATCH_SET, .value = PB_VALUE_NUMBER};
        pb_request requests[2] = {{.base = f.run, .patches = &function, .n_patches = 1, .metric = f.metric},
                                  {.base = f.run, .patches = &zero, .n_patches = 1, .metric = f.metric}};
        pb_measure_options o = {.allow_unread = true};
        double values[2];
        assert_ok(pb_measure(requests, 2, &o, values, NULL, NULL, &err));
        assert_int_equal(s.calls, 1);
        assert_int_equal(s.shape[0], T);
        assert_int_equal(s.shape[1], pb_model_d_mlp(f.model));
        assert_int_equal(s.zeros, zeros);
        assert_true(values[0] == values[1]);
    }
    test_pair_drop(&f);
}

static void expert_sites__out_of_range__refused(void **state) {
    (void)state;
    test_pair f = make_fixture();
    pb_tensor *t = NULL;
    double got;
    pb_patch patch = {.site = {PB_SITE_EXPERT_POST, 0, EXPERTS}, .op = PB_PATCH_SET, .value = PB_VALUE_NUMBER};
    pb_request request = {.base = f.run, .patches = &patch, .n_patches = 1, .metric = f.metric};
    assert_error(pb_run_value(f.run, patch.site, &t, &err), PB_ERR_ARGUMENT, "does not exist");
    assert_error(pb_measure(&request, 1, NULL, &got, NULL, NULL, &err), PB_ERR_ARGUMENT, "experts.4.hook_post");
    patch.site = (pb_site){PB_SITE_RESID_PRE, 0, 1};
    assert_error(pb_measure(&request, 1, NULL, &got, NULL, NULL, &err), PB_ERR_ARGUMENT, "does not exist");
    test_pair_drop(&f);
}

/* ---- gradients (of plain runs: test_grad.c, finite differences at every site) --------------------------------------------------- */

/* In a run whose experts are patched: the metric's slope along a direction at a layer before them. */
static void expert_sites__gradients_pass_through_patches(void **state) {
    (void)state;
    test_pair f = make_fixture();
    int32_t pos = 2, neurons[2] = {1, 5};
    pb_tensor *direction = NULL, *moved = NULL, *grad = NULL, **where = &grad;
    pb_patch held[3 * EXPERTS];
    size_t n = 0;
    for (int e = 0; e < EXPERTS; e++) {
        held[n++] = (pb_patch){
            .site = {PB_SITE_EXPERT_GATE, 1, e}, .op = PB_PATCH_SCALE, .value = PB_VALUE_NUMBER, .number = 1.5};
        held[n++] = (pb_patch){.site = {PB_SITE_EXPERT_PRE, 1, e},
                               .pos = {true, 1, &pos},
                               .op = PB_PATCH_ADD,
                               .value = PB_VALUE_NUMBER,
                               .number = 0.25};
        held[n++] = (pb_patch){.site = {PB_SITE_EXPERT_POST, 0, e},
                               .neuron = {true, 2, neurons},
                               .op = PB_PATCH_SET,
                               .value = PB_VALUE_NUMBER,
                               .number = 0.5};
    }
    pb_run *patched = NULL;
    assert_ok(pb_run_patched(f.run, held, n, &patched, &err));
    pb_site site = {PB_SITE_RESID_PRE, 0};
    pb_grad_request request = {.run = patched, .metric = f.metric, .weight = 1, .sites = &site, .n_sites = 1};
    assert_ok(pb_grad(&request, 1, NULL, NULL, &where, &err));
    assert_ok(pb_tensor_normal(f.ctx, 2, pb_tensor_shape(grad), 7, 0, &direction, &err));
    double slope = 0, size = 0, d[2];
    for (int64_t i = 0; i < pb_tensor_count(grad); i++) {
        slope += (double)pb_tensor_floats(grad)[i] * pb_tensor_floats(direction)[i];
        size += (double)pb_tensor_floats(grad)[i] * pb_tensor_floats(grad)[i];
    }
    for (int s = 0; s < 2; s++) {
        double step = s ? 0.001 : 0.002, ends[2];
        for (int end = 0; end < 2; end++) {
            assert_ok(pb_tensor_binary_scalar(PB_MUL, direction, end ? -step : step, &moved, &err));
            pb_patch add = {.site = site, .op = PB_PATCH_ADD, .value = PB_VALUE_TENSOR, .tensor = moved};
            pb_request r = {.base = patched, .patches = &add, .n_patches = 1, .metric = f.metric};
            assert_ok(pb_measure(&r, 1, NULL, &ends[end], NULL, NULL, &err));
            pb_tensor_unref(moved);
        }
        d[s] = (ends[0] - ends[1]) / (2 * step);
    }
    assert_true(size > 1e-4);
    assert_close(slope, (4 * d[1] - d[0]) / 3, 2e-3 * sqrt(size) + 4e-3);
    pb_tensor_unref(direction);
    pb_tensor_unref(grad);
    pb_run_unref(patched);
    test_pair_drop(&f);
}

/* ---- memory ------------------------------------------------------------------------------------------------------------------ */

static pb_status all_of_it(pb_context *ctx, void *user, pb_error *error) {
    (void)ctx;
    test_pair *f = user;
    pb_site sites[2] = {{PB_SITE_EXPERT_PRE, 1, 1}, {PB_SITE_EXPERT_POST, 0, 2}};
    pb_patch patch = {.site = {PB_SITE_EXPERT_POST, 0, 1}, .op = PB_PATCH_SET, .value = PB_VALUE_RUN, .run = f->other};
    pb_tensor *values[2], **where = values;
    pb_run *patched = NULL;
    PB_TRY(pb_run_values(f->run, sites, 2, values, error));
    pb_tensor_unref(values[0]);
    pb_tensor_unref(values[1]);
    PB_TRY(pb_run_patched(f->run, &patch, 1, &patched, error));
    pb_grad_request request = {.run = patched, .metric = f->metric, .weight = 1, .sites = sites, .n_sites = 2};
    pb_status status = pb_grad(&request, 1, NULL, NULL, &where, error);
    if (status == PB_OK) {
        pb_tensor_unref(values[0]);
        pb_tensor_unref(values[1]);
    }
    pb_run_unref(patched);
    return status;
}

static void expert_sites__under_allocation_failure(void **state) {
    (void)state;
    test_pair f = make_fixture();
    assert_true(assert_survives_allocation_failure(f.ctx, all_of_it, &f) > 20);
    test_pair_drop(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(expert_sites__are_the_products_of_its_weights),
        cmocka_unit_test(expert_sites__own_values_put_back__change_no_bit),
        cmocka_unit_test(expert_sites__all_of_another_run__give_its_mlp_out),
        cmocka_unit_test(expert_sites__where_it_is_not_chosen__nothing_reads_the_patch),
        cmocka_unit_test(expert_sites__the_choice_is_the_patched_one),
        cmocka_unit_test(expert_sites__a_function_sees_all_rows),
        cmocka_unit_test(expert_sites__out_of_range__refused),
        cmocka_unit_test(expert_sites__gradients_pass_through_patches),
        cmocka_unit_test(expert_sites__under_allocation_failure),
    };
    return cmocka_run_group_tests_name("experts", tests, NULL, NULL);
}
