/* Gradients: PyTorch's values (golden models gpt2 and llama: sites; gpt2: weights), and finite differences at every site of
 * every architecture, of weights, and under patches. */
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "patchbay/grad.h"

static pb_error err;

/* ---- tools ---------------------------------------------------------------------------------------------------------------------- */

static pb_run *golden_run(pb_model *model, const pb_safetensors *file, const char *name) {
    pb_tensor *ids = NULL;
    pb_run *run = NULL;
    assert_ok(pb_entry_load(pb_model_context(model), pb_safetensors_find(file, name), &ids, &err));
    assert_ok(pb_run_create(model, pb_tensor_ints(ids), (size_t)pb_tensor_count(ids), &run, &err));
    pb_tensor_unref(ids);
    return run;
}

static pb_metric *difference_metric(pb_context *ctx, int32_t answer, int32_t wrong) {
    pb_metric_options o = {
        .kind = PB_METRIC_LOGIT_DIFF, .answers = &answer, .n_answers = 1, .wrong = &wrong, .n_wrong = 1};
    pb_metric *m = NULL;
    assert_ok(pb_metric_create(ctx, &o, &m, &err));
    return m;
}

static pb_tensor *site_grad(pb_run *run, const pb_metric *metric, pb_site site) {
    pb_tensor *grad = NULL, **where = &grad;
    pb_grad_request r = {.run = run, .metric = metric, .weight = 1, .sites = &site, .n_sites = 1};
    assert_ok(pb_grad(&r, 1, NULL, NULL, &where, &err));
    return grad;
}

static double dot(const pb_tensor *a, const pb_tensor *b) {
    double sum = 0;
    for (int64_t i = 0; i < pb_tensor_count(a); i++)
        sum += (double)pb_tensor_floats(a)[i] * pb_tensor_floats(b)[i];
    return sum;
}

/* ---- PyTorch's values --------------------------------------------------------------------------------------------------------------- */

static void golden_sites(const char *name) {
    pb_context *ctx = test_context();
    pb_model *model = NULL;
    pb_safetensors *file = NULL;
    char path[256];
    snprintf(path, sizeof path, "golden/models/%s", name);
    assert_ok(pb_model_open(ctx, test_data(path), NULL, &model, &err));
    assert_ok(pb_safetensors_open(ctx, test_path(test_data(path), "expected.safetensors"), &file, &err));
    pb_run *run = golden_run(model, file, "p1.input_ids");
    pb_tensor *tokens = NULL;
    assert_ok(pb_entry_load(ctx, pb_safetensors_find(file, "p1.grad_tokens"), &tokens, &err));
    pb_metric *m = difference_metric(ctx, pb_tensor_ints(tokens)[0], pb_tensor_ints(tokens)[1]);
    int compared = 0;
    for (size_t i = 0; i < pb_safetensors_count(file); i++) {
        const pb_entry *entry = pb_safetensors_at(file, i);
        if (strncmp(entry->name, "p1.grad.", 8) != 0)
            continue;
        pb_site site;
        pb_tensor *expected = NULL;
        assert_ok(pb_site_parse(model, entry->name + 8, false, 0, &site, &err));
        assert_ok(pb_entry_load(ctx, entry, &expected, &err));
        pb_tensor *got = site_grad(run, m, site);
        assert_tensor_close(got, expected, 1e-4);
        pb_tensor_unref(got);
        pb_tensor_unref(expected);
        compared++;
    }
    assert_true(compared > 20);
    pb_tensor_unref(tokens);
    pb_metric_unref(m);
    pb_run_unref(run);
    pb_safetensors_unref(file);
    pb_model_unref(model);
    assert_int_equal(pb_context_memory_used(ctx), 0);
    pb_context_unref(ctx);
}

static void grad__of_sites__as_pytorch__gpt2(void **state) {
    (void)state;
    golden_sites("gpt2");
}

static void grad__of_sites__as_pytorch__llama(void **state) {
    (void)state;
    golden_sites("llama");
}

static pb_tensor **zero_weights(pb_model *model) {
    size_t n = pb_model_weight_count(model);
    pb_tensor **weights = calloc(n, sizeof *weights);
    for (size_t i = 0; i < n; i++) {
        pb_tensor *w = NULL;
        assert_ok(pb_model_weight(model, pb_model_weight_name(model, i), &w, &err));
        assert_ok(
            pb_tensor_zeros(pb_model_context(model), PB_F32, pb_tensor_ndim(w), pb_tensor_shape(w), &weights[i], &err));
        pb_tensor_unref(w);
    }
    return weights;
}

static void drop_weights(pb_model *model, pb_tensor **weights) {
    for (size_t i = 0; i < pb_model_weight_count(model); i++)
        pb_tensor_unref(weights[i]);
    free(weights);
}

static void grad__of_weights__as_pytorch__gpt2(void **state) {
    (void)state;
    pb_context *ctx = test_context();
    pb_model *model = NULL;
    pb_safetensors *file = NULL, *grads = NULL;
    const char *folder = test_data("golden/models/gpt2");
    assert_ok(pb_model_open(ctx, folder, NULL, &model, &err));
    assert_ok(pb_safetensors_open(ctx, test_path(folder, "expected.safetensors"), &file, &err));
    assert_ok(pb_safetensors_open(ctx, test_path(folder, "grads.safetensors"), &grads, &err));
    pb_run *run = golden_run(model, file, "p1.input_ids");
    pb_metric_options o = {.kind = PB_METRIC_NLL};
    pb_metric *m = NULL;
    assert_ok(pb_metric_create(ctx, &o, &m, &err));
    pb_tensor **weights = zero_weights(model), *loss = NULL;
    pb_grad_request r = {.run = run, .metric = m, .weight = 1};
    pb_grad_options options = {.weights = weights};
    double value, expected_loss;
    assert_ok(pb_grad(&r, 1, &options, &value, NULL, &err));
    assert_ok(pb_entry_load(ctx, pb_safetensors_find(grads, "p1.loss"), &loss, &err));
    assert_ok(pb_tensor_item(loss, &expected_loss, &err));
    assert_close(value, expected_loss, 1e-5);
    for (size_t i = 0; i < pb_model_weight_count(model); i++) {
        char name[256];
        pb_tensor *expected = NULL;
        snprintf(name, sizeof name, "p1.wgrad.%s", pb_model_weight_name(model, i));
        const pb_entry *entry = pb_safetensors_find(grads, name);
        assert_non_null(entry);
        assert_ok(pb_entry_load(ctx, entry, &expected, &err));
        assert_tensor_close(weights[i], expected, 1e-4);
        pb_tensor_unref(expected);
    }
    drop_weights(model, weights);
    pb_tensor_unref(loss);
    pb_metric_unref(m);
    pb_run_unref(run);
    pb_safetensors_unref(grads);
    pb_safetensors_unref(file);
    pb_model_unref(model);
    assert_int_equal(pb_context_memory_used(ctx), 0);
    pb_context_unref(ctx);
}

/* ---- finite differences ----------------------------------------------------------------------------------------------------------------- */

enum { MOST_SITES = 400 };

/* What a site is moved by: random, but nothing where a pattern is masked (a patch never writes there). */
static pb_tensor *direction_at(pb_run *run, pb_site site) {
    pb_model *model = pb_run_model(run);
    int64_t shape[4];
    pb_tensor *direction = NULL, *pattern = NULL;
    int nd = pb_site_shape_of(model, site.kind, (int64_t)pb_run_length(run), shape);
    assert_ok(pb_tensor_normal(pb_model_context(model), nd, shape, 5, (uint64_t)(100 * site.expert + (int)site.kind),
                               &direction, &err));
    if (site.kind != PB_SITE_PATTERN && site.kind != PB_SITE_ATTN_SCORES)
        return direction;
    assert_ok(pb_run_value(run, (pb_site){PB_SITE_PATTERN, site.layer}, &pattern, &err));
    for (int64_t i = 0; i < pb_tensor_count(direction); i++)
        if (pb_tensor_floats(pattern)[i] == 0)
            pb_tensor_floats(direction)[i] = 0;
    pb_tensor_unref(pattern);
    return direction;
}

static size_t list_sites(const pb_model *model, bool beside_heads, pb_site *out) {
    size_t n = 0;
    for (int kind = 0; kind < PB_SITE_KINDS; kind++)
        for (int layer = 0; layer < (pb_site_has_layer((pb_site_kind)kind) ? pb_model_layers(model) : 1); layer++) {
            pb_site site = {(pb_site_kind)kind, pb_site_has_layer((pb_site_kind)kind) ? layer : -1, 0};
            bool ln1 = kind == PB_SITE_LN1_SCALE ||
                       kind == PB_SITE_LN1_NORMALIZED; /* no patch beside one at a head's own input */
            bool several = pb_site_has_expert(site.kind),
                 wanted = kind != PB_SITE_EXPERT_INDICES && !(ln1 && beside_heads);
            for (; wanted && pb_site_exists(model, site) && (several || site.expert == 0); site.expert++)
                out[n++] = site;
        }
    return n;
}

/* The gradient at every site against the slope of the metric along a direction there: central differences at two steps, and
 * Richardson's extrapolation. beside_heads: a q_input is patched. */
static void check_sites(pb_run *run, const pb_metric *metric, const char *label, double step, bool beside_heads) {
    pb_site sites[MOST_SITES];
    static pb_patch patches[4 * MOST_SITES];
    static pb_request requests[4 * MOST_SITES];
    static double values[4 * MOST_SITES];
    pb_tensor *grads[MOST_SITES], **where = grads, *directions[MOST_SITES];
    size_t n = list_sites(pb_run_model(run), beside_heads, sites);
    pb_grad_request r = {.run = run, .metric = metric, .weight = 1, .sites = sites, .n_sites = n};
    assert_ok(pb_grad(&r, 1, NULL, NULL, &where, &err));
    double steps[4] = {step, -step, step / 2, -step / 2};
    for (size_t i = 0; i < n; i++) {
        directions[i] = direction_at(run, sites[i]);
        for (size_t s = 0; s < 4; s++) {
            pb_patch *p = &patches[4 * i + s];
            *p = (pb_patch){.site = sites[i], .op = PB_PATCH_ADD, .value = PB_VALUE_TENSOR};
            assert_ok(pb_tensor_binary_scalar(PB_MUL, directions[i], steps[s], &p->tensor, &err));
            requests[4 * i + s] = (pb_request){.base = run, .patches = p, .n_patches = 1, .metric = metric};
        }
    }
    pb_measure_options o = {.allow_unread = true};
    assert_ok(pb_measure(requests, 4 * n, &o, values, NULL, NULL, &err));
    for (size_t i = 0; i < n; i++) {
        const double *v = &values[4 * i];
        double wide = (v[0] - v[1]) / (2 * step), narrow = (v[2] - v[3]) / step, expected = (4 * narrow - wide) / 3,
               got = dot(grads[i], directions[i]);
        double size = sqrt(dot(grads[i], grads[i]));
        if (!(fabs(got - expected) <= 2e-3 * size + 4e-6 / step)) {
            char name[64];
            fail_msg("%s, %s: the gradient says %.6g, finite differences %.6g (size %.3g)", label,
                     pb_site_name(sites[i], name, sizeof name), got, expected, size);
        }
        pb_tensor_unref(grads[i]);
        pb_tensor_unref(directions[i]);
        for (size_t s = 0; s < 4; s++)
            pb_tensor_unref(patches[4 * i + s].tensor);
    }
}

static void check_weights(pb_run *run, const char *label);

static void check_folder(const char *folder, const char *label, bool with_weights) {
    pb_context *ctx = test_context();
    pb_model *model = NULL;
    int32_t ids[6];
    assert_ok(pb_model_open(ctx, folder, NULL, &model, &err));
    test_tokens(pb_model_vocab(model), 9, ids, 6); /* away from kinks: clips, choices of experts */
    pb_run *run = NULL;
    pb_metric *m = difference_metric(ctx, 3, 8);
    assert_ok(pb_run_create(model, ids, 6, &run, &err));
    bool kinks = strcmp(label, "olmo") == 0 || strncmp(label, "opt", 3) == 0; /* clips, relu: never far away */
    check_sites(run, m, label, kinks ? 0.0005 : 0.004, false);
    if (with_weights)
        check_weights(run, label);
    pb_metric_unref(m);
    pb_run_unref(run);
    pb_model_unref(model);
    assert_int_equal(pb_context_memory_used(ctx), 0);
    pb_context_unref(ctx);
}

/* ---- weights: each moved in the stored file ------------------------------------------------------------------------------------------ */

/* The loss of the run's tokens with one weight moved along a direction, through a folder written for it. */
static double loss_with(pb_model *model, const int32_t *ids, size_t n, size_t which, const pb_tensor *direction,
                        float step) {
    pb_context *ctx = pb_model_context(model);
    size_t count = pb_model_weight_count(model);
    pb_named_tensor *all = calloc(count, sizeof *all);
    pb_tensor *moved = NULL;
    for (size_t i = 0; i < count; i++) {
        pb_tensor *w = NULL;
        all[i].name = pb_model_weight_name(model, i);
        assert_ok(pb_model_weight(model, all[i].name, &w, &err));
        if (i == which) {
            assert_ok(pb_tensor_binary_scalar(PB_MUL, direction, step, &moved, &err));
            assert_ok(pb_tensor_binary_in_place(PB_ADD, w, moved, &err));
            pb_tensor_unref(moved);
        }
        all[i].tensor = w;
    }
    char *folder = test_folder();
    char command[1024];
    snprintf(command, sizeof command, "cp '%s/config.json' '%s/'", pb_model_folder(model), folder);
    assert_int_equal(system(command), 0);
    assert_ok(pb_safetensors_write(ctx, test_path(folder, "model.safetensors"), all, count, NULL, 0, &err));
    for (size_t i = 0; i < count; i++)
        pb_tensor_unref((pb_tensor *)(uintptr_t)all[i].tensor);
    free(all);
    pb_model *other = NULL;
    pb_run *run = NULL;
    pb_metric *m = NULL;
    pb_metric_options o = {.kind = PB_METRIC_NLL};
    double loss;
    assert_ok(pb_model_open(ctx, folder, NULL, &other, &err));
    assert_ok(pb_run_create(other, ids, n, &run, &err));
    assert_ok(pb_metric_create(ctx, &o, &m, &err));
    assert_ok(pb_run_metric(run, m, &loss, &err));
    pb_metric_unref(m);
    pb_run_unref(run);
    pb_model_unref(other);
    test_folder_remove(folder);
    return loss;
}

static void check_weights(pb_run *run, const char *label) {
    pb_model *model = pb_run_model(run);
    pb_context *ctx = pb_model_context(model);
    pb_metric_options o = {.kind = PB_METRIC_NLL};
    pb_metric *m = NULL;
    assert_ok(pb_metric_create(ctx, &o, &m, &err));
    pb_tensor **weights = zero_weights(model);
    pb_grad_request r = {.run = run, .metric = m, .weight = 1};
    pb_grad_options options = {.weights = weights};
    assert_ok(pb_grad(&r, 1, &options, NULL, NULL, &err));
    for (size_t i = 0; i < pb_model_weight_count(model); i++) {
        pb_tensor *direction = NULL;
        assert_ok(
            pb_tensor_normal(ctx, pb_tensor_ndim(weights[i]), pb_tensor_shape(weights[i]), 6, i, &direction, &err));
        double size = 0, d[2];
        for (int64_t j = 0; j < pb_tensor_count(weights[i]); j++)
            size += (double)pb_tensor_floats(weights[i])[j] * pb_tensor_floats(weights[i])[j];
        for (int s = 0; s < 2; s++) {
            float step = s ? 0.001f : 0.002f;
            d[s] = (loss_with(model, pb_run_tokens(run), pb_run_length(run), i, direction, step) -
                    loss_with(model, pb_run_tokens(run), pb_run_length(run), i, direction, -step)) /
                   (2.0 * step);
        }
        double expected = (4 * d[1] - d[0]) / 3, got = dot(weights[i], direction);
        if (!(fabs(got - expected) <= 1e-2 * sqrt(size) + 1e-3))
            fail_msg("%s, weight %s: the gradient says %.6g, finite differences %.6g (size %.3g)", label,
                     pb_model_weight_name(model, i), got, expected, sqrt(size));
        pb_tensor_unref(direction);
    }
    drop_weights(model, weights);
    pb_metric_unref(m);
}

static void grad__finite_differences__gpt2(void **state) {
    (void)state;
    check_folder(test_data("golden/models/gpt2"), "gpt2", false);
}

static void grad__finite_differences__llama(void **state) {
    (void)state;
    check_folder(test_data("golden/models/llama"), "llama", true);
}

static void grad__finite_differences__every_family(void **state) {
    (void)state;
    static const char *const cases[] = {"bloom",         "cohere",
                                        "cohere-qknorm", "falcon",
                                        "falcon-alibi",  "falcon-new",
                                        "gemma",         "gemma2",
                                        "gemma3",        "gpt_neo",
                                        "gpt_neox",      "gptj",
                                        "granite",       "mistral",
                                        "mixtral",       "olmo",
                                        "olmo2",         "opt",
                                        "opt-postnorm",  "phi",
                                        "phi3",          "qwen2",
                                        "qwen3",         "smollm3",
                                        "stablelm",      "stablelm-parallel",
                                        "starcoder2"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char name[64];
        snprintf(name, sizeof name, "golden/models/%s", cases[i]);
        bool weights =
            strcmp(cases[i], "gemma3") == 0 || strcmp(cases[i], "mixtral") == 0 || strcmp(cases[i], "gpt_neox") == 0;
        check_folder(test_shared(name), cases[i], weights);
    }
}

/* ---- patched runs ---------------------------------------------------------------------------------------------------------------------- */

static void patched(bool llama) {
    pb_context *ctx = test_context();
    model_shape shape = llama ? test_shape_llama(8) : test_shape_gpt2(8);
    pb_model *model = test_model(ctx, &shape);
    int32_t ids[7], other[7], row = 3, head = 1, src[2] = {1, 2}, last = 6;
    test_tokens(shape.vocab, 1, ids, 7);
    test_tokens(shape.vocab, 2, other, 7);
    pb_run *run = NULL, *source = NULL;
    assert_ok(pb_run_create(model, ids, 7, &run, &err));
    assert_ok(pb_run_create(model, other, 7, &source, &err));
    const pb_patch patches[] = {
        {.site = {PB_SITE_Z, 0},
         .pos = {true, 1, &row},
         .head = {true, 1, &head},
         .op = PB_PATCH_SET,
         .value = PB_VALUE_RUN,
         .run = source},
        {.site = {PB_SITE_ATTN_SCORES, 1},
         .dest = {true, 1, &last},
         .src = {true, 2, src},
         .op = PB_PATCH_SET,
         .value = PB_VALUE_NUMBER,
         .number = -INFINITY},
        {.site = {PB_SITE_PATTERN, 1},
         .dest = {true, 1, &row},
         .op = PB_PATCH_SCALE,
         .value = PB_VALUE_NUMBER,
         .number = 0.5},
        {.site = {PB_SITE_MLP_POST, 0},
         .pos = {true, 1, &row},
         .op = PB_PATCH_SCALE,
         .value = PB_VALUE_NUMBER,
         .number = 2},
        {.site = {PB_SITE_Q_INPUT, 1},
         .pos = {true, 1, &last},
         .head = {true, 1, &head},
         .op = PB_PATCH_ADD,
         .value = PB_VALUE_NUMBER,
         .number = 0.3},
        {.site = {PB_SITE_LN2_SCALE, 1},
         .pos = {true, 1, &last},
         .op = PB_PATCH_SET,
         .value = PB_VALUE_NUMBER,
         .number = 1.5},
        {.site = {PB_SITE_RESULT, 1},
         .pos = {true, 1, &last},
         .head = {true, 1, &head},
         .op = PB_PATCH_SCALE,
         .value = PB_VALUE_NUMBER,
         .number = -1},
        {.site = {PB_SITE_LN_FINAL_NORMALIZED, -1}, .op = PB_PATCH_SCALE, .value = PB_VALUE_NUMBER, .number = 1.25},
        {.site = {PB_SITE_RESID_PRE, 1},
         .pos = {true, 1, &row},
         .op = PB_PATCH_ADD,
         .value = PB_VALUE_NOISE,
         .noise_std = 0.1,
         .noise_seed = 3},
    };
    pb_run *held = NULL;
    assert_ok(pb_run_patched(run, patches, sizeof patches / sizeof *patches, &held, &err));
    pb_metric *m = difference_metric(ctx, 3, 8);
    check_sites(held, m, llama ? "patched llama" : "patched gpt2", 0.004, true);
    pb_metric_unref(m);
    static const int32_t answers[2] = {4, 6};
    static const int32_t wrong = 1;
    static const double weights[2] = {2, -0.5};
    int32_t positions[2] = {5, 2};
    pb_metric_options others[] = {
        {.kind = PB_METRIC_PROB, .answers = answers, .n_answers = 2},
        {.kind = PB_METRIC_LOG_PROB, .answers = answers, .n_answers = 2, .positions = {true, 2, positions}},
        {.kind = PB_METRIC_PROB_DIFF, .answers = answers, .n_answers = 2, .wrong = &wrong, .n_wrong = 1},
        {.kind = PB_METRIC_LOGIT, .answers = answers, .n_answers = 2},
        {.kind = PB_METRIC_LOGITS, .answers = answers, .n_answers = 2, .weights = weights},
        {.kind = PB_METRIC_NLL},
        {.kind = PB_METRIC_KL, .reference = source},
    };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        assert_ok(pb_metric_create(ctx, &others[i], &m, &err));
        check_sites(i % 2 ? held : run, m, pb_metric_kind_name(others[i].kind), 0.004, i % 2);
        pb_metric_unref(m);
    }
    pb_run_unref(held);
    pb_run_unref(source);
    pb_run_unref(run);
    pb_model_unref(model);
    assert_int_equal(pb_context_memory_used(ctx), 0);
    pb_context_unref(ctx);
}

static void grad__under_patches__gpt2(void **state) {
    (void)state;
    patched(false);
}

static void grad__under_patches__llama(void **state) {
    (void)state;
    patched(true);
}

/* Runs made with patches from the start are patched runs; dropout has its scale. */
static void run_create_patched__equals_patched_run(void **state) {
    (void)state;
    pb_context *ctx = test_context();
    model_shape shape = test_shape_gpt2(8);
    pb_model *model = test_model(ctx, &shape);
    int32_t ids[7], dest[3] = {4, 5, 6}, src[2] = {1, 2};
    test_tokens(shape.vocab, 1, ids, 7);
    const pb_patch patches[] = {
        {.site = {PB_SITE_ATTN_SCORES, 0},
         .dest = {true, 3, dest},
         .src = {true, 2, src},
         .op = PB_PATCH_SET,
         .value = PB_VALUE_NUMBER,
         .number = -INFINITY},
        {.site = {PB_SITE_MLP_OUT, 1},
         .op = PB_PATCH_SCALE,
         .value = PB_VALUE_DROPOUT,
         .noise_std = 0.25,
         .noise_seed = 4},
    };
    const int32_t *sequences[2] = {ids, ids};
    const pb_patch *held[2] = {patches, NULL};
    size_t lengths[2] = {7, 5}, n_held[2] = {2, 0};
    pb_run *made[2] = {NULL}, *plain = NULL, *patched_run = NULL;
    assert_ok(pb_run_create_patched(model, sequences, lengths, held, n_held, 2, made, &err));
    assert_ok(pb_run_create(model, ids, 7, &plain, &err));
    assert_ok(pb_run_patched(plain, patches, 2, &patched_run, &err));
    pb_site sites[] = {{PB_SITE_LOGITS, -1}, {PB_SITE_PATTERN, 0}, {PB_SITE_MLP_OUT, 1}};
    pb_tensor *a[3], *b[3], *free_of_it = NULL;
    assert_ok(pb_run_values(made[0], sites, 3, a, &err));
    assert_ok(pb_run_values(patched_run, sites, 3, b, &err));
    for (int i = 0; i < 3; i++)
        assert_tensor_close(a[i], b[i], 1e-6);
    pb_run *masked = NULL;
    assert_ok(pb_run_patched(plain, patches, 1, &masked, &err));
    assert_ok(pb_run_value(masked, sites[2], &free_of_it, &err));
    int zeros = 0;
    for (int64_t i = 0; i < pb_tensor_count(a[2]); i++) {
        float got = pb_tensor_floats(a[2])[i], was = pb_tensor_floats(free_of_it)[i];
        zeros += got == 0;
        assert_true(got == 0 || fabsf(got - was / 0.75f) <= 1e-5f * fabsf(was) + 1e-6f);
    }
    double share = (double)zeros / (double)pb_tensor_count(a[2]);
    assert_true(share > 0.15 && share < 0.35);
    pb_metric *m = difference_metric(ctx, 3, 8);
    check_sites(made[0], m, "masked and dropped out", 0.004, false);
    pb_metric_unref(m);
    pb_tensor_unref(free_of_it);
    for (int i = 0; i < 3; i++) {
        pb_tensor_unref(a[i]);
        pb_tensor_unref(b[i]);
    }
    pb_run_unref(masked);
    pb_run_unref(made[0]);
    pb_run_unref(made[1]);
    pb_run_unref(plain);
    pb_run_unref(patched_run);
    pb_model_unref(model);
    assert_int_equal(pb_context_memory_used(ctx), 0);
    pb_context_unref(ctx);
}

/* ---- batches, refusals, failing memory ----------------------------------------------------------------------------------------------------- */

static void grad__of_a_ragged_batch__is_that_of_each(void **state) {
    (void)state;
    pb_context *ctx = test_context();
    model_shape shape = test_shape_gpt2(8);
    pb_model *model = test_model(ctx, &shape);
    int32_t ids[12];
    test_tokens(shape.vocab, 1, ids, 12);
    pb_metric *m = difference_metric(ctx, 3, 8);
    pb_site site = {PB_SITE_Z, 0};
    pb_run *runs[3];
    pb_grad_request requests[3];
    pb_tensor *grads[3], **where[3];
    double values[3];
    for (int i = 0; i < 3; i++) {
        assert_ok(pb_run_create(model, ids + i, (size_t)(12 - 3 * i), &runs[i], &err));
        requests[i] = (pb_grad_request){runs[i], m, 1, &site, 1};
        where[i] = &grads[i];
    }
    assert_ok(pb_grad(requests, 3, NULL, values, where, &err));
    for (int i = 0; i < 3; i++) {
        double value;
        pb_tensor *alone = site_grad(runs[i], m, site);
        assert_tensor_close(grads[i], alone, 1e-6);
        assert_ok(pb_run_metric(runs[i], m, &value, &err));
        assert_close(values[i], value, 1e-5);
        pb_tensor_unref(alone);
        pb_tensor_unref(grads[i]);
        pb_run_unref(runs[i]);
    }
    pb_metric_unref(m);
    pb_model_unref(model);
    assert_int_equal(pb_context_memory_used(ctx), 0);
    pb_context_unref(ctx);
}

/* Sequences long enough to be taken in blocks of queries: the same as with the pattern laid out whole, which a lane is
 * whose pattern is asked for. Beside a shorter lane that needs more memory than a block. */
static void grad__of_long_sequences__is_that_of_whole_patterns(void **state) {
    (void)state;
    pb_context *ctx = test_context();
    model_shape shape = test_shape_gpt2(8);
    shape.positions = 300;
    pb_model *model = test_model(ctx, &shape);
    int32_t ids[300];
    test_tokens(shape.vocab, 1, ids, 300);
    pb_metric *m = difference_metric(ctx, 3, 8);
    const size_t lengths[] = {300, 255, 256};
    pb_site plain[] = {{PB_SITE_RESID_PRE, 0}, {PB_SITE_K, 0}, {PB_SITE_V, 1}}, whole[5];
    memcpy(whole, plain, sizeof plain);
    whole[3] = (pb_site){PB_SITE_PATTERN, 0};
    whole[4] = (pb_site){PB_SITE_PATTERN, 1};
    pb_run *runs[3];
    pb_grad_request requests[3];
    pb_tensor *blocks[3][3], **where[3];
    for (int i = 0; i < 3; i++) {
        assert_ok(pb_run_create(model, ids, lengths[i], &runs[i], &err));
        requests[i] = (pb_grad_request){runs[i], m, 1, plain, 3};
        where[i] = blocks[i];
    }
    assert_ok(pb_grad(requests, 3, NULL, NULL, where, &err));
    for (int i = 0; i < 3; i++) {
        pb_tensor *expected[5], **at = expected;
        pb_grad_request request = {runs[i], m, 1, whole, 5};
        assert_ok(pb_grad(&request, 1, NULL, NULL, &at, &err));
        for (int g = 0; g < 3; g++) {
            assert_tensor_close(blocks[i][g], expected[g], 2e-6);
            pb_tensor_unref(blocks[i][g]);
        }
        for (int g = 0; g < 5; g++)
            pb_tensor_unref(expected[g]);
        pb_run_unref(runs[i]);
    }
    pb_metric_unref(m);
    pb_model_unref(model);
    assert_int_equal(pb_context_memory_used(ctx), 0);
    pb_context_unref(ctx);
}

/* ---- where the gradient ends ------------------------------------------------------------------------------------------------------------ */

/* The gradient that ends at a site is that of the run whose own values are patched in there: of some site before and of some
 * after each, and of the weights where both can be had. Not for patches at a head's own input: beside them ln1 has no
 * gradient, beside stops it has. */
static void check_stop(pb_run *run, const pb_metric *metric, pb_site stop, const char *label, double tolerance) {
    pb_model *model = pb_run_model(run);
    bool by_head = stop.kind >= PB_SITE_ATTN_IN && stop.kind <= PB_SITE_V_INPUT;
    pb_site sites[] = {{PB_SITE_EMBED, -1},  {PB_SITE_RESID_PRE, 1}, {PB_SITE_Z, 0},          {PB_SITE_K, 1},
                       {PB_SITE_MLP_OUT, 0}, {PB_SITE_PATTERN, 1},   {PB_SITE_RESID_POST, 1}, stop};
    enum { N = sizeof sites / sizeof *sites };
    pb_tensor *got[N], *wanted[N], **where_got = got, **where_wanted = wanted;
    pb_patch own = {.site = stop, .op = PB_PATCH_SET, .value = PB_VALUE_RUN, .run = run};
    pb_run *held = NULL;
    char name[64];
    assert_ok(pb_run_patched(run, &own, 1, &held, &err));
    pb_tensor **weights_got = by_head ? NULL : zero_weights(model),
              **weights_wanted = by_head ? NULL : zero_weights(model);
    pb_grad_options o_got = {.weights = weights_got}, o_wanted = {.weights = weights_wanted};
    pb_grad_request r = {
        .run = run, .metric = metric, .weight = 1, .sites = sites, .n_sites = N, .stops = &stop, .n_stops = 1};
    assert_ok(pb_grad(&r, 1, &o_got, NULL, &where_got, &err));
    r = (pb_grad_request){.run = held, .metric = metric, .weight = 1, .sites = sites, .n_sites = N};
    assert_ok(pb_grad(&r, 1, &o_wanted, NULL, &where_wanted, &err));
    for (size_t i = 0; i < N; i++) {
        double gap = 0, most = 0;
        for (int64_t j = 0; j < pb_tensor_count(got[i]); j++) {
            gap = fmax(gap, fabs(pb_tensor_floats(got[i])[j] - pb_tensor_floats(wanted[i])[j]));
            most = fmax(most, fabs(pb_tensor_floats(wanted[i])[j]));
        }
        if (!(gap <= tolerance * most))
            fail_msg("%s: a stop at %s and a patch of its own values differ at site %zu by %g of %g", label,
                     pb_site_name(stop, name, sizeof name), i, gap, most);
        pb_tensor_unref(got[i]);
        pb_tensor_unref(wanted[i]);
    }
    for (size_t i = 0; i < pb_model_weight_count(model) && !by_head; i++)
        assert_tensor_close(weights_got[i], weights_wanted[i], tolerance);
    if (!by_head) {
        drop_weights(model, weights_got);
        drop_weights(model, weights_wanted);
    }
    pb_run_unref(held);
}

static void grad__stops__as_if_own_values_were_patched_in(void **state) {
    (void)state;
    static const char *const cases[] = {"gpt2",    "llama",        "gemma2", "gptj",
                                        "mixtral", "opt-postnorm", "cohere", "olmo2"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[128];
        snprintf(path, sizeof path, "golden/models/%s", cases[i]);
        const char *folder = i < 2 ? test_data(path) : test_shared(path);
        pb_context *ctx = test_context();
        pb_model *model = NULL;
        pb_run *run = NULL;
        pb_site sites[MOST_SITES];
        int32_t ids[6];
        assert_ok(pb_model_open(ctx, folder, NULL, &model, &err));
        test_tokens(pb_model_vocab(model), 9, ids, 6);
        assert_ok(pb_run_create(model, ids, 6, &run, &err));
        pb_metric *m = difference_metric(ctx, 3, 8);
        size_t n = list_sites(model, false, sites);
        for (size_t s = 0; s < n; s++) /* the per-head way sums in another order */
            check_stop(run, m, sites[s], cases[i],
                       sites[s].kind >= PB_SITE_ATTN_IN && sites[s].kind <= PB_SITE_V_INPUT ? 2e-5 : 1e-6);
        pb_metric_unref(m);
        pb_run_unref(run);
        pb_model_unref(model);
        assert_int_equal(pb_context_memory_used(ctx), 0);
        pb_context_unref(ctx);
    }
}

/* Norms whose scales are constants make the whole of a layer's stream linear in what is added to it after the last nonlinear
 * part: the gradient along the stream is then the effect itself. */
static void grad__stops__at_the_scales__are_frozen_norms(void **state) {
    (void)state;
    pb_context *ctx = test_context();
    model_shape shape = test_shape_llama(8);
    pb_model *model = test_model(ctx, &shape);
    int32_t ids[6], last = 5;
    test_tokens(shape.vocab, 1, ids, 6);
    pb_run *run = NULL;
    pb_metric *m = difference_metric(ctx, 3, 8);
    assert_ok(pb_run_create(model, ids, 6, &run, &err));
    pb_site site = {PB_SITE_RESID_POST, 1}, scale = {PB_SITE_LN_FINAL_SCALE, -1};
    pb_tensor *grads[2] = {NULL}, **where[2] = {&grads[0], &grads[1]}, *direction = NULL, *own = NULL;
    pb_grad_request requests[2] = {
        {.run = run, .metric = m, .weight = 1, .sites = &site, .n_sites = 1, .stops = &scale, .n_stops = 1},
        {.run = run, .metric = m, .weight = 1, .sites = &site, .n_sites = 1}}; /* each request has its own stops */
    assert_ok(pb_grad(requests, 2, NULL, NULL, where, &err));
    assert_ok(pb_tensor_normal(ctx, 2, pb_tensor_shape(grads[0]), 3, 0, &direction, &err));
    assert_ok(pb_run_value(run, scale, &own, &err));
    pb_patch patches[2] = {{.site = site, .op = PB_PATCH_ADD, .value = PB_VALUE_TENSOR, .tensor = direction},
                           {.site = scale, .op = PB_PATCH_SET, .value = PB_VALUE_TENSOR, .tensor = own}};
    pb_request r[2] = {{.base = run, .metric = m}, {.base = run, .patches = patches, .n_patches = 2, .metric = m}};
    double values[2], frozen = 0, whole = 0;
    assert_ok(pb_measure(r, 2, NULL, values, NULL, NULL, &err));
    int64_t D = pb_tensor_shape(direction)[1];
    for (int64_t c = 0; c < D; c++) {
        frozen += (double)pb_tensor_floats(grads[0])[last * D + c] * pb_tensor_floats(direction)[last * D + c];
        whole += (double)pb_tensor_floats(grads[1])[last * D + c] * pb_tensor_floats(direction)[last * D + c];
    }
    assert_close(frozen, values[1] - values[0], 1e-4);
    assert_true(fabs(whole - frozen) > 1e-2);
    pb_tensor_unref(own);
    pb_tensor_unref(direction);
    pb_tensor_unref(grads[0]);
    pb_tensor_unref(grads[1]);
    pb_metric_unref(m);
    pb_run_unref(run);
    pb_model_unref(model);
    assert_int_equal(pb_context_memory_used(ctx), 0);
    pb_context_unref(ctx);
}

/* Logits of all positions at once would be more than the budget: they are made in smaller blocks. */
static void grad__within_a_small_budget__is_the_same(void **state) {
    (void)state;
    enum { N = 300, BUDGET = 60 << 20 };
    pb_context *ctx = test_context();
    model_shape shape = test_shape_gpt2(8);
    shape.positions = N;
    shape.vocab = 60000;
    pb_model *model = test_model(ctx, &shape);
    int32_t ids[N];
    test_tokens(shape.vocab, 1, ids, N);
    pb_metric_options o = {.kind = PB_METRIC_NLL};
    pb_metric *m = NULL;
    pb_run *run = NULL;
    assert_ok(pb_metric_create(ctx, &o, &m, &err));
    assert_ok(pb_run_create(model, ids, N, &run, &err));
    const pb_site site = {PB_SITE_RESID_PRE, 0};
    pb_tensor *free_of = site_grad(run, m, site);
    pb_context_set_memory_limit(ctx, pb_context_memory_used(ctx) + BUDGET);
    pb_tensor *within = site_grad(run, m, site);
    assert_tensor_close(within, free_of, 1e-6);
    assert_true(2 * sizeof(float) * (size_t)shape.vocab * N > BUDGET);
    pb_tensor_unref(free_of);
    pb_tensor_unref(within);
    pb_run_unref(run);
    pb_metric_unref(m);
    pb_model_unref(model);
    assert_int_equal(pb_context_memory_used(ctx), 0);
    pb_context_unref(ctx);
}

static pb_status nothing(void *user, const pb_patch *p, const pb_run *b, size_t v, pb_tensor *act, pb_tensor **out,
                         pb_error *e) {
    (void)user;
    (void)p;
    (void)b;
    (void)v;
    (void)act;
    (void)out;
    (void)e;
    return PB_OK;
}

static void grad__what_has_no_derivative__is_refused(void **state) {
    (void)state;
    pb_context *ctx = test_context();
    model_shape shape = test_shape_gpt2(8);
    pb_model *model = test_model(ctx, &shape);
    int32_t ids[4] = {1, 2, 3, 4};
    pb_run *run = NULL, *held = NULL;
    assert_ok(pb_run_create(model, ids, 4, &run, &err));
    pb_metric_options o = {.kind = PB_METRIC_RANK, .answers = ids, .n_answers = 1};
    pb_metric *rank = NULL, *m = difference_metric(ctx, 1, 2);
    assert_ok(pb_metric_create(ctx, &o, &rank, &err));
    pb_grad_request r = {.run = run, .metric = rank, .weight = 1};
    assert_error(pb_grad(&r, 1, NULL, NULL, NULL, &err), PB_ERR_ARGUMENT, "no derivative");
    pb_patch p = {.site = {PB_SITE_Z, 0}, .op = PB_PATCH_FN, .fn = nothing};
    assert_ok(pb_run_patched(run, &p, 1, &held, &err));
    r = (pb_grad_request){.run = held, .metric = m, .weight = 1};
    assert_error(pb_grad(&r, 1, NULL, NULL, NULL, &err), PB_ERR_UNSUPPORTED, "function");
    pb_site absent = {PB_SITE_ROT_Q, 0};
    r = (pb_grad_request){.run = run, .metric = m, .weight = 1, .stops = &absent, .n_stops = 1};
    assert_error(pb_grad(&r, 1, NULL, NULL, NULL, &err), PB_ERR_ARGUMENT, "hook_rot_q' does not exist");
    pb_run_unref(held);
    pb_run_unref(run);
    pb_metric_unref(rank);
    pb_metric_unref(m);
    pb_model_unref(model);
    pb_context_unref(ctx);
}

typedef struct story {
    pb_run *run;
    pb_metric *metric;
    pb_tensor **weights;
} story;

static pb_status all_sites(pb_context *ctx, void *user, pb_error *e) {
    story *s = user;
    (void)ctx;
    pb_site sites[] = {
        {PB_SITE_PATTERN, 0}, {PB_SITE_Q_INPUT, 1}, {PB_SITE_LN1_SCALE, 0}, {PB_SITE_RESULT, 1}, {PB_SITE_LOGITS, -1}};
    pb_tensor *grads[5] = {NULL}, **where = grads;
    pb_grad_request r = {s->run, s->metric, 1, sites, 5};
    pb_grad_options o = {.weights = s->weights};
    double value;
    pb_status status = pb_grad(&r, 1, &o, &value, &where, e);
    for (int i = 0; i < 5 && status == PB_OK; i++)
        pb_tensor_unref(grads[i]);
    return status;
}

static void grad__under_allocation_failure(void **state) {
    (void)state;
    pb_context *ctx = test_context();
    model_shape shape = test_shape_llama(8);
    pb_model *model = test_model(ctx, &shape);
    int32_t ids[4] = {1, 2, 3, 4};
    story s = {NULL, difference_metric(ctx, 1, 2), zero_weights(model)};
    assert_ok(pb_run_create(model, ids, 4, &s.run, &err));
    assert_true(assert_survives_allocation_failure(ctx, all_sites, &s) > 20);
    drop_weights(model, s.weights);
    pb_metric_unref(s.metric);
    pb_run_unref(s.run);
    pb_model_unref(model);
    assert_int_equal(pb_context_memory_used(ctx), 0);
    pb_context_unref(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grad__of_sites__as_pytorch__gpt2),
        cmocka_unit_test(grad__of_sites__as_pytorch__llama),
        cmocka_unit_test(grad__of_weights__as_pytorch__gpt2),
        cmocka_unit_test(grad__finite_differences__gpt2),
        cmocka_unit_test(grad__finite_differences__llama),
        cmocka_unit_test(grad__finite_differences__every_family),
        cmocka_unit_test(grad__under_patches__gpt2),
        cmocka_unit_test(grad__under_patches__llama),
        cmocka_unit_test(grad__of_a_ragged_batch__is_that_of_each),
        cmocka_unit_test(grad__of_long_sequences__is_that_of_whole_patterns),
        cmocka_unit_test(grad__stops__as_if_own_values_were_patched_in),
        cmocka_unit_test(grad__stops__at_the_scales__are_frozen_norms),
        cmocka_unit_test(grad__within_a_small_budget__is_the_same),
        cmocka_unit_test(grad__what_has_no_derivative__is_refused),
        cmocka_unit_test(grad__under_allocation_failure),
        cmocka_unit_test(run_create_patched__equals_patched_run),
    };
    return cmocka_run_group_tests_name("grad", tests, NULL, NULL);
}
