/* Every golden model: logits and every stored site, with both spellings of the configuration, and each configuration key
 * that a case lists is really read. Cases of the GPT-2 and Llama architectures are in tests/golden/models; the others are
 * taken from the shared folder where there is one. */
#include "support/support.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const own_cases[] = {
    "files-bf16",  "files-dtype", "files-f16",  "files-noprefix", "files-oldconfig", "files-sharded", "gpt2",
    "gpt2-untied", "llama",       "llama-bias", "llama-linear",   "llama-rope3",     "llama-yarn",
};

static const char *const shared_cases[] = {
    "bloom",
    "cohere",
    "cohere-qknorm",
    "falcon",
    "falcon-alibi",
    "falcon-new",
    "files-neox-buffers",
    "gemma",
    "gemma2",
    "gemma3",
    "gpt_neo",
    "gpt_neox",
    "gpt_neox-sequential",
    "gptj",
    "granite",
    "mistral",
    "mixtral",
    "olmo",
    "olmo2",
    "opt",
    "opt-postnorm",
    "phi",
    "phi3",
    "phi3-longrope",
    "qwen2",
    "qwen3",
    "smollm3",
    "stablelm",
    "stablelm-parallel",
    "starcoder2",
};

enum {
    PROMPTS = 2,
    OWN = sizeof own_cases / sizeof own_cases[0],
    SHARED = sizeof shared_cases / sizeof shared_cases[0]
};

/* ---- a case's folder with another configuration ----------------------------------------------------------------------------- */

static json_t *load_json(const char *path) {
    json_error_t problem;
    json_t *value = json_load_file(path, 0, &problem);
    if (!value)
        print_error("%s: %s\n", path, problem.text);
    assert_non_null(value);
    return value;
}

/* A temporary folder with links to the case's weights and this configuration. */
static char *folder_with(const char *source, const json_t *config) {
    char *folder = test_folder(), *real = realpath(source, NULL);
    assert_non_null(real);
    assert_int_equal(symlink(test_path(real, "model.safetensors"), test_path(folder, "model.safetensors")), 0);
    assert_int_equal(json_dump_file(config, test_path(folder, "config.json"), 0), 0);
    free(real);
    return folder;
}

/* ---- comparing ---------------------------------------------------------------------------------------------------------------- */

/* max |got - expected| / max |expected| over entries where expected is finite; infinities must be the same. */
static double difference(const pb_tensor *got, const pb_tensor *expected) {
    const float *a = pb_tensor_floats(got), *b = pb_tensor_floats(expected);
    double worst = 0.0, largest = 0.0;
    for (int64_t i = 0; i < pb_tensor_count(expected); i++) {
        if (isinf(b[i])) {
            if (a[i] != b[i])
                return INFINITY;
            continue;
        }
        if (!isfinite(a[i]))
            return INFINITY;
        worst = fmax(worst, fabs((double)a[i] - (double)b[i]));
        largest = fmax(largest, fabs((double)b[i]));
    }
    return largest > 0.0 ? worst / largest : worst;
}

static pb_run *run_prompt(pb_model *model, const pb_safetensors *expected, int prompt) {
    pb_error err = {0};
    char name[32];
    pb_tensor *ids = NULL;
    pb_run *run = NULL;
    snprintf(name, sizeof name, "p%d.input_ids", prompt);
    const pb_entry *entry = pb_safetensors_find(expected, name);
    assert_non_null(entry);
    assert_ok(pb_entry_load(pb_model_context(model), entry, &ids, &err));
    assert_ok(pb_run_create(model, pb_tensor_ints(ids), (size_t)pb_tensor_count(ids), &run, &err));
    pb_tensor_unref(ids);
    return run;
}

typedef struct outcome {
    int compared;
    int wrong;
    double worst;
} outcome;

static void compare_site(pb_model *model, pb_run *run, const pb_entry *entry, const char *label, double tolerance,
                         outcome *sum) {
    pb_error err = {0};
    pb_site site;
    pb_tensor *expected = NULL, *got = NULL;
    assert_ok(pb_site_parse(model, entry->name + 3, false, 0, &site, &err));
    assert_ok(pb_entry_load(pb_model_context(model), entry, &expected, &err));
    assert_ok(pb_run_value(run, site, &got, &err));
    int64_t shape[4];
    int ndim = pb_site_shape_of(model, site.kind, (int64_t)pb_run_length(run), shape);
    if (!pb_tensor_same_shape(got, expected) || ndim != entry->ndim ||
        memcmp(shape, entry->shape, (size_t)ndim * sizeof *shape) != 0) {
        char text[64];
        print_error("%s %s: shape %s\n", label, entry->name,
                    pb_shape_text(pb_tensor_ndim(got), pb_tensor_shape(got), text, sizeof text));
        sum->wrong++;
    } else {
        double d = difference(got, expected);
        sum->worst = fmax(sum->worst, d);
        if (!(d <= tolerance)) {
            print_error("%s %s: differs by %.3g of the largest value\n", label, entry->name, d);
            sum->wrong++;
        }
    }
    sum->compared++;
    pb_tensor_unref(expected);
    pb_tensor_unref(got);
}

/* Every stored value of the case against a model of this folder. */
static void compare_all(pb_context *ctx, const char *folder, const pb_load_options *options,
                        const pb_safetensors *expected, const char *label, double tolerance) {
    pb_error err = {0};
    pb_model *model = NULL;
    outcome sum = {0};
    assert_ok(pb_model_open(ctx, folder, options, &model, &err));
    for (int prompt = 0; prompt < PROMPTS; prompt++) {
        if (!pb_safetensors_find(expected, prompt ? "p1.input_ids" : "p0.input_ids"))
            continue;
        pb_run *run = run_prompt(model, expected, prompt);
        for (size_t i = 0; i < pb_safetensors_count(expected); i++) {
            const pb_entry *entry = pb_safetensors_at(expected, i);
            bool of_prompt = entry->name[1] == '0' + prompt && entry->name[2] == '.';
            if (of_prompt && strncmp(entry->name + 3, "grad", 4) != 0 && strcmp(entry->name + 3, "input_ids") != 0)
                compare_site(model, run, entry, label, tolerance, &sum);
        }
        pb_run_unref(run);
    }
    pb_model_unref(model);
    assert_true(sum.compared >= 6); /* two prompts, logits and two layers each */
    assert_int_equal(sum.wrong, 0);
}

/* ---- configuration keys that must be read --------------------------------------------------------------------------------------- */

/* The largest change of the logits of a prompt, relative to their largest value. */
static double logits_change(pb_model *model, const pb_safetensors *expected, int prompt) {
    pb_error err = {0};
    char name[32];
    pb_tensor *wanted = NULL, *got = NULL;
    snprintf(name, sizeof name, "p%d.logits", prompt);
    pb_run *run = run_prompt(model, expected, prompt);
    assert_ok(pb_entry_load(pb_model_context(model), pb_safetensors_find(expected, name), &wanted, &err));
    assert_ok(pb_run_value(run, (pb_site){PB_SITE_LOGITS, -1}, &got, &err));
    double change = difference(got, wanted);
    pb_run_unref(run);
    pb_tensor_unref(wanted);
    pb_tensor_unref(got);
    return change;
}

static void check_alterations(pb_context *ctx, const char *folder, const pb_safetensors *expected, const char *label,
                              const json_t *alter) {
    const char *key;
    json_t *change;
    json_object_foreach((json_t *)(uintptr_t)alter, key, change) {
        pb_error err = {0};
        pb_model *model = NULL;
        json_t *config = load_json(test_path(folder, "config.json"));
        json_object_set(config, key, json_object_get(change, "instead"));
        char *altered = folder_with(folder, config);
        assert_ok(pb_model_open(ctx, altered, NULL, &model, &err));
        double wanted = json_number_value(json_object_get(change, "relative_change_of_logits"));
        double got = logits_change(model, expected, 0);
        if (fabs(got - wanted) > 1e-3 * wanted + 1e-4) {
            print_error("%s: with another %s the logits move by %.4f, expected %.4f\n", label, key, got, wanted);
            fail();
        }
        pb_model_unref(model);
        test_folder_remove(altered);
        json_decref(config);
    }
}

/* ---- one case ---------------------------------------------------------------------------------------------------------------------- */

static void check_case(pb_context *ctx, const char *folder_path, const char *name) {
    pb_error err = {0};
    pb_safetensors *expected = NULL;
    char folder[4096], label[64];
    snprintf(folder, sizeof folder, "%s", folder_path);
    json_t *description = load_json(test_path(folder, "case.json"));
    double tolerance = json_number_value(json_object_get(json_object_get(description, "tolerance"), "values"));
    assert_true(tolerance > 0.0 && tolerance < 1e-3);
    assert_ok(pb_safetensors_open(ctx, test_path(folder, "expected.safetensors"), &expected, &err));
    compare_all(ctx, folder, NULL, expected, name, tolerance);
    if (access(test_path(folder, "config.old.json"), R_OK) == 0) {
        json_t *config = load_json(test_path(folder, "config.old.json"));
        char *old = folder_with(folder, config);
        snprintf(label, sizeof label, "%s (old configuration)", name);
        compare_all(ctx, old, NULL, expected, label, tolerance);
        test_folder_remove(old);
        json_decref(config);
    }
    check_alterations(ctx, folder, expected, name, json_object_get(description, "alter"));
    pb_safetensors_unref(expected);
    json_decref(description);
}

static void run_case(const char *folder, const char *name) {
    pb_context *ctx = test_context();
    check_case(ctx, folder, name);
    assert_int_equal(pb_context_memory_used(ctx), 0);
    pb_context_unref(ctx);
}

/* The same model with its weights processed, by TransformerLens (tests/golden/processed). */
static void golden_model__processed(void **state) {
    static const pb_load_options all = {
        .fold_ln = true, .center_writing_weights = true, .center_unembed = true, .fold_value_biases = true};
    const char *name = *state;
    char file[64], folder[4096];
    pb_error err = {0};
    pb_safetensors *expected = NULL;
    pb_context *ctx = test_context();
    snprintf(file, sizeof file, "%s.safetensors", name);
    snprintf(folder, sizeof folder, "%s", test_path(test_data("golden/models"), name));
    assert_ok(pb_safetensors_open(ctx, test_path(test_data("golden/processed"), file), &expected, &err));
    compare_all(ctx, folder, &all, expected, "processed weights", 2e-5);
    pb_safetensors_unref(expected);
    assert_int_equal(pb_context_memory_used(ctx), 0);
    pb_context_unref(ctx);
}

static void golden_model__own_case(void **state) {
    const char *name = *state;
    run_case(test_path(test_data("golden/models"), name), name);
}

static void golden_model__shared_case(void **state) {
    const char *name = *state;
    run_case(test_path(test_shared("golden/models"), name), name);
}

int main(void) {
    struct CMUnitTest tests[OWN + SHARED + 2];
    for (int i = 0; i < OWN; i++)
        tests[i] =
            (struct CMUnitTest){own_cases[i], golden_model__own_case, NULL, NULL, (void *)(uintptr_t)own_cases[i]};
    for (int i = 0; i < SHARED; i++)
        tests[OWN + i] = (struct CMUnitTest){shared_cases[i], golden_model__shared_case, NULL, NULL,
                                             (void *)(uintptr_t)shared_cases[i]};
    for (int i = 0; i < 2; i++)
        tests[OWN + SHARED + i] = (struct CMUnitTest){i ? "processed llama" : "processed gpt2", golden_model__processed,
                                                      NULL, NULL, (void *)(uintptr_t)(i ? "llama" : "gpt2")};
    return _cmocka_run_group_tests("golden models", tests, OWN + SHARED + 2, NULL, NULL);
}
