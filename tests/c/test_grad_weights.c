/* Gradients of weights: a tied embedding that is stored a second time, and models whose weights no name stands for. */
#include "support/support.h"

#include <string.h>

#include "patchbay/grad.h"

static pb_error err;

typedef struct fixture {
    pb_context *ctx;
    pb_model *model;
    pb_run *run;
    pb_metric *metric;
    size_t embedding, copy, n;
} fixture;

/* files-f16: transformer.wte.weight, and lm_head.weight with the same contents. */
static fixture make_fixture(void) {
    fixture f = {.ctx = test_context()};
    int32_t ids[6];
    pb_metric_options o = {.kind = PB_METRIC_NLL};
    assert_ok(pb_model_open(f.ctx, test_data("golden/models/files-f16"), NULL, &f.model, &err));
    test_tokens(pb_model_vocab(f.model), 9, ids, 6);
    assert_ok(pb_run_create(f.model, ids, 6, &f.run, &err));
    assert_ok(pb_metric_create(f.ctx, &o, &f.metric, &err));
    f.n = pb_model_weight_count(f.model);
    for (size_t i = 0; i < f.n; i++) {
        if (strcmp(pb_model_weight_name(f.model, i), "transformer.wte.weight") == 0)
            f.embedding = i;
        if (strcmp(pb_model_weight_name(f.model, i), "lm_head.weight") == 0)
            f.copy = i;
    }
    return f;
}

static void drop_fixture(fixture *f) {
    pb_metric_unref(f->metric);
    pb_run_unref(f->run);
    pb_model_unref(f->model);
    assert_int_equal(pb_context_memory_used(f->ctx), 0);
    pb_context_unref(f->ctx);
}

/* A tensor of the embedding's shape, all of one value. */
static pb_tensor *table(const fixture *f, float value) {
    pb_tensor *weight = NULL, *out = NULL;
    assert_ok(pb_model_weight(f->model, "lm_head.weight", &weight, &err));
    assert_ok(pb_tensor_full(f->ctx, 2, pb_tensor_shape(weight), value, &out, &err));
    pb_tensor_unref(weight);
    return out;
}

static pb_status gradients(const fixture *f, pb_tensor *embedding, pb_tensor *copy, pb_error *error) {
    pb_tensor *weights[64] = {NULL};
    assert_true(f->n <= 64);
    weights[f->embedding] = embedding;
    weights[f->copy] = copy;
    pb_grad_request r = {.run = f->run, .metric = f->metric, .weight = 1};
    pb_grad_options o = {.weights = weights};
    return pb_grad(&r, 1, &o, NULL, NULL, error);
}

static void weight_original__of_a_tied_copy(void **state) {
    (void)state;
    fixture f = make_fixture();
    for (size_t i = 0; i <= f.n; i++)
        assert_int_equal(pb_model_weight_original(f.model, i), i == f.copy ? f.embedding : f.n);
    assert_true(f.embedding != f.copy);
    drop_fixture(&f);
}

static void grad__of_a_tied_embedding_stored_twice__under_each_name(void **state) {
    (void)state;
    fixture f = make_fixture();
    pb_tensor *alone = table(&f, 0), *copy_alone = table(&f, 0), *both = table(&f, 0), *both_copy = table(&f, 2),
              *one = table(&f, 0);
    assert_ok(gradients(&f, alone, NULL, &err));
    assert_true(pb_tensor_count(alone) > 0);
    double most = 0;
    for (int64_t i = 0; i < pb_tensor_count(alone); i++)
        most = pb_tensor_floats(alone)[i] > most ? pb_tensor_floats(alone)[i] : most;
    assert_true(most > 1e-3);
    assert_ok(gradients(&f, NULL, copy_alone, &err));
    assert_tensor_equal(copy_alone, alone);
    assert_ok(gradients(&f, both, both_copy, &err)); /* added to what is there, in both */
    assert_tensor_equal(both, alone);
    for (int64_t i = 0; i < pb_tensor_count(alone); i++)
        assert_true(pb_tensor_floats(both_copy)[i] == pb_tensor_floats(alone)[i] + 2);
    assert_ok(gradients(&f, one, one, &err)); /* one tensor for both: once */
    assert_tensor_equal(one, alone);
    pb_tensor *all[] = {alone, copy_alone, both, both_copy, one};
    for (size_t i = 0; i < 5; i++)
        pb_tensor_unref(all[i]);
    drop_fixture(&f);
}

static void grad__of_processed_weights__refused_with_the_reason(void **state) {
    (void)state;
    static const struct {
        pb_load_options options;
        const char *says;
    } cases[] = {{{.fold_ln = true}, "weight processing ( fold_ln )"},
                 {{.center_writing_weights = true}, "center_writing_weights"},
                 {{.center_unembed = true}, "center_unembed"},
                 {{.fold_value_biases = true}, "fold_value_biases"},
                 {{.fold_ln = true, .center_unembed = true}, "( fold_ln center_unembed )"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture f = make_fixture();
        pb_model *model = NULL;
        pb_run *run = NULL;
        int32_t ids[3] = {1, 2, 3};
        pb_tensor *weights[64] = {NULL}, *before = table(&f, 3), *grad = NULL, **where = &grad;
        weights[f.embedding] = table(&f, 3);
        assert_ok(pb_model_open(f.ctx, test_data("golden/models/files-f16"), &cases[i].options, &model, &err));
        assert_ok(pb_run_create(model, ids, 3, &run, &err));
        pb_site site = {PB_SITE_Z, 0};
        pb_grad_request r = {.run = run, .metric = f.metric, .weight = 1, .sites = &site, .n_sites = 1};
        pb_grad_options o = {.weights = weights};
        assert_error(pb_grad(&r, 1, &o, NULL, &where, &err), PB_ERR_UNSUPPORTED, cases[i].says);
        assert_tensor_equal(weights[f.embedding], before);
        pb_tensor_unref(weights[f.embedding]);
        weights[f.embedding] = NULL; /* sites have theirs; a list that wants nothing is none */
        assert_ok(pb_grad(&r, 1, &o, NULL, &where, &err));
        pb_tensor_unref(grad);
        pb_tensor_unref(before);
        pb_run_unref(run);
        pb_model_unref(model);
        drop_fixture(&f);
    }
}

static pb_status both_names(pb_context *ctx, void *user, pb_error *error) {
    fixture *f = user;
    pb_tensor *embedding = NULL, *copy = NULL;
    int64_t shape[2] = {pb_model_vocab(f->model), pb_model_d_model(f->model)};
    pb_status status = pb_tensor_zeros(ctx, PB_F32, 2, shape, &embedding, error);
    if (status == PB_OK)
        status = pb_tensor_zeros(ctx, PB_F32, 2, shape, &copy, error);
    if (status == PB_OK)
        status = gradients(f, embedding, copy, error);
    pb_tensor_unref(copy);
    pb_tensor_unref(embedding);
    return status;
}

static void grad__of_a_tied_embedding__under_allocation_failure(void **state) {
    (void)state;
    fixture f = make_fixture();
    assert_true(assert_survives_allocation_failure(f.ctx, both_names, &f) > 5);
    drop_fixture(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weight_original__of_a_tied_copy),
        cmocka_unit_test(grad__of_a_tied_embedding_stored_twice__under_each_name),
        cmocka_unit_test(grad__of_processed_weights__refused_with_the_reason),
        cmocka_unit_test(grad__of_a_tied_embedding__under_allocation_failure),
    };
    return cmocka_run_group_tests_name("grad weights", tests, NULL, NULL);
}
