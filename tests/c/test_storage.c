/* Where weights are: tensors in memory, models that share weights. */
#include "support/support.h"

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "model/spec.h"

/* ---- models to compare ------------------------------------------------------------------------------------------------ */

enum { TOKENS = 7 };

static pb_tensor *logits_of(pb_model *model) {
    pb_error err = {0};
    int32_t ids[TOKENS];
    pb_run *run = NULL;
    pb_tensor *logits = NULL;
    test_tokens(pb_model_vocab(model), 5, ids, TOKENS);
    assert_ok(pb_run_create(model, ids, TOKENS, &run, &err));
    assert_ok(pb_run_value(run, (pb_site){PB_SITE_LOGITS, -1}, &logits, &err));
    pb_run_unref(run);
    return logits;
}

static void assert_same_logits(pb_model *a, pb_model *b) {
    pb_tensor *x = logits_of(a), *y = logits_of(b);
    assert_tensor_equal(x, y);
    pb_tensor_unref(x);
    pb_tensor_unref(y);
}

static double logits_difference(pb_model *model, const pb_tensor *before) {
    pb_error err = {0};
    double absolute, relative;
    pb_tensor *now = logits_of(model);
    assert_ok(pb_tensor_max_difference(now, before, &absolute, &relative, &err));
    pb_tensor_unref(now);
    return absolute;
}

static pb_model *open_folder(pb_context *ctx, const char *folder, const pb_load_options *options) {
    pb_error err = {0};
    pb_model *model = NULL;
    assert_ok(pb_model_open(ctx, folder, options, &model, &err));
    return model;
}

static pb_model *open_golden(pb_context *ctx, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "golden/models/%s", name);
    return open_folder(ctx, test_data(path), NULL);
}

/* Every weight of a model as tensors; a stored copy of a tied embedding is the embedding's tensor. */
typedef struct weight_list {
    pb_named_tensor *items;
    size_t n;
} weight_list;

static weight_list take_weights(const pb_model *model) {
    pb_error err = {0};
    weight_list list = {calloc(pb_model_weight_count(model), sizeof *list.items), pb_model_weight_count(model)};
    for (size_t i = 0; i < list.n; i++) {
        pb_tensor *t = NULL;
        assert_ok(pb_model_weight(model, pb_model_weight_name(model, i), &t, &err));
        list.items[i] = (pb_named_tensor){pb_model_weight_name(model, i), t};
    }
    pb_origin embed;
    const pb_spec *spec = pb_model_spec(model);
    bool tied = spec->embed.data == spec->unembed.data && pb_model_origin(model, spec->embed.data, &embed);
    for (size_t i = 0; tied && i < list.n; i++) {
        if (strcmp(list.items[i].name, "lm_head.weight") == 0) {
            pb_tensor_unref((pb_tensor *)(uintptr_t)list.items[i].tensor);
            list.items[i].tensor = pb_tensor_ref((pb_tensor *)(uintptr_t)list.items[embed.weight].tensor);
        }
    }
    return list;
}

static void drop_weights(weight_list list) {
    for (size_t i = 0; i < list.n; i++)
        pb_tensor_unref((pb_tensor *)(uintptr_t)list.items[i].tensor);
    free(list.items);
}

static pb_tensor *find_weight(weight_list list, const char *name) {
    for (size_t i = 0; i < list.n; i++) {
        if (strcmp(list.items[i].name, name) == 0)
            return (pb_tensor *)(uintptr_t)list.items[i].tensor;
    }
    fail_msg("no weight %s", name);
    return NULL;
}

static pb_model *make_like(pb_context *ctx, const pb_model *model, weight_list list) {
    pb_error err = {0};
    pb_model *made = NULL;
    pb_model_parts parts = {.config = pb_model_config(model), .weights = list.items, .n_weights = list.n};
    assert_ok(pb_model_create(ctx, &parts, &made, &err));
    return made;
}

static pb_model *tiny(pb_context *ctx, bool llama) {
    model_shape shape = llama ? test_shape_llama(4) : test_shape_gpt2(4);
    return test_model(ctx, &shape);
}

/* ---- weights in memory ----------------------------------------------------------------------------------------------------- */

/* Whatever the files store (sharded, f16, bf16, float64 and mixed, without prefix): its numbers as float32 tensors are the
 * same model. */
static void model_create__every_golden_folder__same_logits(void **state) {
    static const char *const cases[] = {"gpt2",      "gpt2-untied",    "llama",         "llama-bias", "files-bf16",
                                        "files-f16", "files-noprefix", "files-sharded", "files-dtype"};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        pb_model *model = open_golden(*state, cases[i]);
        weight_list list = take_weights(model);
        pb_model *made = make_like(*state, model, list);
        drop_weights(list); /* the model keeps them */
        assert_int_equal(pb_model_parameters(made), pb_model_parameters(model));
        assert_same_logits(made, model);
        pb_model_unref(model);
        pb_model_unref(made);
    }
}

/* All the families, with what the folders beside the repository have. */
static void model_create__every_family__same_logits_and_refresh_changes_nothing(void **state) {
    pb_error err = {0};
    DIR *dir = opendir(test_shared("golden/models"));
    assert_non_null(dir);
    int families = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", test_shared("golden/models"), entry->d_name);
        if (entry->d_name[0] == '.' || !pb_file_exists(test_path(path, "config.json")))
            continue;
        pb_model *model = open_folder(*state, path, NULL);
        weight_list list = take_weights(model);
        pb_model *made = make_like(*state, model, list);
        pb_tensor *before = logits_of(made);
        assert_same_logits(made, model);
        assert_ok(pb_model_refresh(made, &err));
        assert_true(logits_difference(made, before) == 0.0);
        pb_tensor_unref(before);
        drop_weights(list);
        pb_model_unref(model);
        pb_model_unref(made);
        families++;
    }
    closedir(dir);
    assert_true(families > 30);
}

/* Every weight, doubled in place, must reach the computation after a refresh, as if the model were made anew. */
static void model_refresh__each_weight_changed__equals_a_new_model(void **state) {
    static const char *const cases[] = {"gpt2", "llama-bias"};
    pb_error err = {0};
    for (size_t c = 0; c < 2; c++) {
        pb_model *model = open_golden(*state, cases[c]);
        weight_list list = take_weights(model);
        pb_model *made = make_like(*state, model, list);
        for (size_t i = 0; i < list.n; i++) {
            pb_tensor *before = logits_of(made);
            pb_tensor *weight = (pb_tensor *)(uintptr_t)list.items[i].tensor;
            assert_ok(pb_tensor_binary_scalar_in_place(PB_MUL, weight, 1.5, &err));
            assert_ok(pb_model_refresh(made, &err));
            pb_model *anew = make_like(*state, model, list);
            assert_same_logits(made, anew);
            /* a bias of keys moves every score of a row alike */
            if (!strstr(list.items[i].name, "k_proj.bias"))
                assert_true(logits_difference(made, before) > 0.0);
            pb_tensor_unref(before);
            pb_model_unref(anew);
        }
        pb_model_unref(made);
        pb_model_unref(model);
        drop_weights(list);
    }
}

static void model_refresh__gemma__norms_stay_one_plus_w(void **state) {
    pb_error err = {0};
    pb_model *model = open_folder(*state, test_shared("golden/models/gemma3"), NULL);
    weight_list list = take_weights(model);
    pb_model *made = make_like(*state, model, list);
    for (size_t i = 0; i < list.n; i++) {
        if (strstr(list.items[i].name, "norm"))
            assert_ok(
                pb_tensor_binary_scalar_in_place(PB_ADD, (pb_tensor *)(uintptr_t)list.items[i].tensor, 0.25, &err));
    }
    assert_ok(pb_model_refresh(made, &err));
    pb_model *anew = make_like(*state, model, list);
    assert_same_logits(made, anew);
    pb_model_unref(anew);
    pb_model_unref(made);
    pb_model_unref(model);
    drop_weights(list);
}

static void model_refresh__processed_model__is_refused(void **state) {
    pb_error err = {0};
    pb_load_options options = {.fold_ln = true};
    pb_model *model = open_folder(*state, test_data("golden/models/gpt2"), &options);
    assert_error(pb_model_refresh(model, &err), PB_ERR_UNSUPPORTED, "weight processing");
    pb_model_unref(model);
}

/* ---- other weights ------------------------------------------------------------------------------------------------------------ */

/* A file with the new weight, written by the library, is the model to compare with. */
static void model_with_weights__equals_a_file_with_the_new_weight(void **state) {
    pb_error err = {0};
    static const char *const cases[] = {"gpt2", "llama", "gpt2-untied"};
    for (size_t c = 0; c < 3; c++) {
        pb_model *model = open_golden(*state, cases[c]);
        pb_tensor *before = logits_of(model);
        weight_list list = take_weights(model);
        for (size_t i = 0; i < list.n; i++) {
            pb_named_tensor old = list.items[i], new = old;
            pb_tensor *changed = NULL;
            assert_ok(pb_tensor_binary_scalar(PB_ADD, old.tensor, 0.125, &changed, &err));
            new.tensor = changed;
            pb_model *edited = NULL;
            assert_ok(pb_model_with_weights(model, &new, 1, &edited, &err));

            char *folder = test_folder();
            list.items[i].tensor = changed;
            assert_ok(pb_file_write(*state, test_path(folder, "config.json"), pb_model_config(model),
                                    strlen(pb_model_config(model)), &err));
            assert_ok(pb_safetensors_write(*state, test_path(folder, "model.safetensors"), list.items, list.n, NULL, 0,
                                           &err));
            list.items[i] = old;
            pb_model *written = open_folder(*state, folder, NULL);
            test_folder_remove(folder);
            assert_same_logits(edited, written);
            assert_true(logits_difference(model, before) == 0.0); /* the old one stays as it was */
            pb_tensor_unref(changed);
            pb_model_unref(edited);
            pb_model_unref(written);
        }
        drop_weights(list);
        pb_tensor_unref(before);
        pb_model_unref(model);
    }
}

/* Chains of edits: the last word counts, the rest is shared, and what nobody reads any more is let go. */
static void model_with_weights__chain__keeps_only_what_is_read(void **state) {
    pb_error err = {0};
    pb_model *model = tiny(*state, false);
    const char *name = "transformer.h.1.mlp.c_proj.weight";
    pb_tensor *w = NULL;
    assert_ok(pb_model_weight(model, name, &w, &err));
    pb_model *now = pb_model_ref(model);
    size_t used = 0;
    for (int i = 0; i < 5; i++) {
        pb_tensor *changed = NULL;
        pb_model *next = NULL;
        assert_ok(pb_tensor_binary_scalar(PB_MUL, w, i, &changed, &err));
        pb_named_tensor given = {name, changed};
        assert_ok(pb_model_with_weights(now, &given, 1, &next, &err));
        pb_model_unref(now);
        pb_tensor_unref(changed);
        now = next;
        assert_string_equal(strstr(pb_model_name(now), " (edited)"), " (edited)");
        if (i == 1)
            used = pb_context_memory_used(*state);
        if (i > 0)
            assert_int_equal(pb_context_memory_used(*state), used);
    }
    const pb_spec *a = pb_model_spec(now), *b = pb_model_spec(model);
    assert_ptr_equal(a->embed.data, b->embed.data); /* mapped once */
    assert_ptr_not_equal(a->layer[1].mlp_out.data, b->layer[1].mlp_out.data);
    pb_model_unref(model);
    pb_tensor *last = NULL;
    assert_ok(pb_model_weight(now, name, &last, &err));
    assert_ok(pb_tensor_binary_scalar_in_place(PB_MUL, w, 4, &err));
    assert_tensor_equal(last, w);
    pb_tensor_unref(last);
    pb_tensor_unref(w);
    pb_model_unref(now);
}

static void model_with_weights__processed_model__is_processed_again(void **state) {
    pb_error err = {0};
    pb_load_options options = {.fold_ln = true, .center_writing_weights = true};
    pb_model *processed = open_folder(*state, test_data("golden/models/gpt2"), &options);
    pb_model *plain = open_golden(*state, "gpt2");
    pb_tensor *w = NULL, *x = NULL, *y = NULL;
    const char *name = "transformer.h.0.ln_1.weight";
    assert_ok(pb_model_weight(plain, name, &w, &err));
    assert_ok(pb_tensor_binary_scalar_in_place(PB_MUL, w, 0.5, &err));
    pb_named_tensor given = {name, w};
    pb_model *a = NULL, *b = NULL;
    assert_ok(pb_model_with_weights(processed, &given, 1, &a, &err));
    assert_ok(pb_model_with_weights(plain, &given, 1, &b, &err));
    assert_null(pb_model_spec(a)->layer[0].ln1.weight);
    x = logits_of(a);
    y = logits_of(b);
    assert_tensor_close(x, y, 1e-4);
    pb_tensor_unref(x);
    pb_tensor_unref(y);
    pb_tensor_unref(w);
    pb_model_unref(a);
    pb_model_unref(b);
    pb_model_unref(processed);
    pb_model_unref(plain);
}

/* An unembedding stored beside the embedding it is tied to: it follows a new embedding, and a new one of its own counts. */
static void model_with_weights__stored_copy_of_a_tied_embedding(void **state) {
    pb_error err = {0};
    pb_model *model = tiny(*state, false);
    weight_list list = take_weights(model), both = list;
    const pb_tensor *table = find_weight(list, "transformer.wte.weight");
    both.items = calloc(list.n + 1, sizeof *both.items);
    memcpy(both.items, list.items, list.n * sizeof *both.items);
    both.items[both.n++] = (pb_named_tensor){"lm_head.weight", table};
    pb_model *tied = make_like(*state, model, both);
    assert_ptr_equal(pb_model_spec(tied)->embed.data, pb_model_spec(tied)->unembed.data);
    assert_int_equal(pb_model_parameters(tied), pb_model_parameters(model));
    pb_origin origin;
    assert_true(pb_model_origin(tied, pb_model_spec(tied)->unembed.data, &origin));
    assert_string_equal(pb_model_weight_name(tied, origin.weight), "transformer.wte.weight");

    pb_tensor *changed = NULL;
    pb_model *follows = NULL, *apart = NULL, *direct = NULL;
    assert_ok(pb_tensor_binary_scalar(PB_MUL, table, 2, &changed, &err));
    pb_named_tensor embed = {"transformer.wte.weight", changed}, unembed = {"lm_head.weight", changed};
    assert_ok(pb_model_with_weights(tied, &embed, 1, &follows, &err));
    assert_ok(pb_model_with_weights(model, &embed, 1, &direct, &err));
    assert_same_logits(follows, direct);
    assert_ok(pb_model_with_weights(tied, &unembed, 1, &apart, &err));
    assert_ptr_not_equal(pb_model_spec(apart)->embed.data, pb_model_spec(apart)->unembed.data);
    pb_tensor *x = logits_of(apart), *y = logits_of(model), *z = NULL;
    assert_ok(pb_tensor_binary_scalar(PB_MUL, y, 2, &z, &err));
    assert_tensor_equal(x, z); /* twice the unembedding, twice the logits */
    pb_tensor_unref(x);
    pb_tensor_unref(y);
    pb_tensor_unref(z);
    pb_tensor_unref(changed);
    pb_model_unref(follows);
    pb_model_unref(apart);
    pb_model_unref(direct);
    pb_model_unref(tied);
    pb_model_unref(model);
    free(both.items);
    drop_weights(list);
}

/* ---- export ---------------------------------------------------------------------------------------------------------------------- */

static pb_model *export_and_open(pb_context *ctx, const pb_model *model, pb_stored dtype) {
    pb_error err = {0};
    char *folder = test_folder();
    assert_ok(pb_model_export(model, test_path(folder, "new/folder"), dtype, &err));
    pb_model *back = open_folder(ctx, test_path(folder, "new/folder"), NULL);
    test_folder_remove(folder);
    return back;
}

static void model_export__every_golden_folder__loads_with_the_same_logits(void **state) {
    static const char *const cases[] = {"gpt2",      "gpt2-untied",    "llama",         "llama-bias", "files-bf16",
                                        "files-f16", "files-noprefix", "files-sharded", "files-dtype"};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        pb_model *model = open_golden(*state, cases[i]);
        pb_model *kept = export_and_open(*state, model, PB_STORED_OTHER);
        pb_model *wide = export_and_open(*state, model, PB_STORED_F32);
        assert_same_logits(kept, model);
        assert_same_logits(wide, model);
        assert_int_equal(pb_model_weight_count(kept), pb_model_weight_count(model));
        if (strcmp(cases[i], "files-bf16") == 0)
            assert_int_equal(pb_model_weight_bytes(kept), pb_model_weight_bytes(model));
        pb_model_unref(kept);
        pb_model_unref(wide);
        pb_model_unref(model);
    }
}

static void model_export__edited_model__equals_it(void **state) {
    pb_error err = {0};
    pb_model *model = open_golden(*state, "files-bf16"), *edited = NULL;
    pb_tensor *w = NULL;
    const char *name = pb_model_weight_name(model, 2);
    assert_ok(pb_model_weight(model, name, &w, &err));
    assert_ok(pb_tensor_binary_scalar_in_place(PB_ADD, w, 0.001, &err)); /* no bf16 any more */
    pb_named_tensor given = {name, w};
    assert_ok(pb_model_with_weights(model, &given, 1, &edited, &err));
    pb_model *back = export_and_open(*state, edited, PB_STORED_OTHER);
    assert_same_logits(back, edited);
    pb_model_unref(back);
    back = export_and_open(*state, edited, PB_STORED_BF16);
    assert_int_equal(2 * pb_model_parameters(back), pb_model_weight_bytes(back));
    pb_tensor *x = logits_of(back), *y = logits_of(edited);
    assert_tensor_close(x, y, 0.02);
    pb_tensor_unref(x);
    pb_tensor_unref(y);
    pb_tensor_unref(w);
    pb_model_unref(back);
    pb_model_unref(edited);
    pb_model_unref(model);
}

static void model_export__config__says_the_type(void **state) {
    pb_error err = {0};
    pb_model *model = open_golden(*state, "files-bf16");
    pb_model *wide = export_and_open(*state, model, PB_STORED_F32),
             *same = export_and_open(*state, model, PB_STORED_BF16);
    assert_string_equal(pb_model_config(same), pb_model_config(model));
    assert_non_null(strstr(pb_model_config(model), "\"bfloat16\""));
    assert_null(strstr(pb_model_config(wide), "\"bfloat16\""));
    assert_non_null(strstr(pb_model_config(wide), "dtype\": \"float32\""));
    (void)err;
    pb_model_unref(same);
    pb_model_unref(wide);
    pb_model_unref(model);
}

static void model_export__tokenizer__is_copied(void **state) {
    pb_error err = {0};
    pb_model *model = open_folder(*state, "examples/models/facts", NULL);
    char *folder = test_folder();
    assert_ok(pb_model_export(model, folder, PB_STORED_OTHER, &err));
    assert_ok(pb_model_export(model, folder, PB_STORED_F16, &err)); /* once more over it */
    pb_model *back = open_folder(*state, folder, NULL);
    assert_int_equal(pb_tokenizer_size(pb_model_tokenizer(back)), pb_tokenizer_size(pb_model_tokenizer(model)));
    pb_model_unref(back);
    pb_model_unref(model);
    test_folder_remove(folder);
}

static void model_export__what_cannot_be_written__is_refused(void **state) {
    pb_error err = {0};
    pb_load_options options = {.fold_ln = true};
    char *folder = test_folder();
    pb_model *model = open_folder(*state, test_data("golden/models/gpt2"), &options);
    assert_error(pb_model_export(model, folder, PB_STORED_F32, &err), PB_ERR_UNSUPPORTED, "weight processing");
    pb_model_unref(model);

    model = tiny(*state, true);
    weight_list list = take_weights(model);
    pb_tensor_floats(find_weight(list, "model.norm.weight"))[3] = 1e6f;
    pb_model *big = make_like(*state, model, list);
    assert_error(pb_model_export(big, folder, PB_STORED_F16, &err), PB_ERR_ARGUMENT, "'model.norm.weight'");
    assert_false(pb_file_exists(test_path(folder, "model.safetensors")));
    assert_ok(pb_model_export(big, folder, PB_STORED_BF16, &err));
    assert_error(pb_model_export(big, folder, PB_STORED_I8, &err), PB_ERR_ARGUMENT, "I8");
    assert_error(pb_model_export(big, test_path(folder, "config.json"), PB_STORED_F32, &err), PB_ERR_IO, "config.json");
    assert_ok(pb_file_write(*state, test_path(folder, "model.safetensors.index.json"), "{}", 2, &err));
    assert_error(pb_model_export(big, folder, PB_STORED_F32, &err), PB_ERR_ARGUMENT, "shards");
    pb_model_unref(big);
    drop_weights(list);
    pb_model_unref(model);
    test_folder_remove(folder);
}

/* Every f16 is itself again; the nearest one is taken, ties to even; what is too large is counted. */
static void narrow__rounds_to_nearest_even(void **state) {
    (void)state;
    for (pb_stored type = PB_STORED_F16; type <= PB_STORED_BF16; type++) {
        for (uint32_t bits = 0; bits < 0x10000; bits++) {
            uint16_t half = (uint16_t)bits, back = 0;
            float wide;
            pb_widen(type, &half, 0, 1, &wide);
            assert_int_equal(pb_narrow(type, &wide, 1, &back), 0);
            if (isnan(wide))
                assert_true((back & (type == PB_STORED_F16 ? 0x7e00 : 0x7fc0)) >=
                            (type == PB_STORED_F16 ? 0x7e00 : 0x7fc0));
            else
                assert_int_equal(back, half);
            /* half way to the next: the even one of the two */
            uint16_t next = (uint16_t)(half + 1);
            float upper;
            pb_widen(type, &next, 0, 1, &upper);
            if (!isfinite(wide) || !isfinite(upper) || (next & 0x7fff) == 0)
                continue;
            float middle = (float)(((double)wide + (double)upper) / 2);
            pb_narrow(type, &middle, 1, &back);
            assert_int_equal(back, half & 1 ? next : half);
            float above = nextafterf(middle, upper), below = nextafterf(middle, wide);
            pb_narrow(type, &above, 1, &back);
            assert_int_equal(back, next);
            pb_narrow(type, &below, 1, &back);
            assert_int_equal(back, half);
        }
    }
    float large[4] = {65519.0f, 65520.0f, INFINITY, -1e30f};
    uint16_t out[4];
    assert_int_equal(pb_narrow(PB_STORED_F16, large, 4, out), 2);
    assert_int_equal(out[0], 0x7bff);
    assert_int_equal(pb_narrow(PB_STORED_BF16, (float[]){3.4e38f}, 1, out), 1);
}

static pb_status export_once(pb_context *ctx, void *user, pb_error *err) {
    (void)ctx;
    char *folder = test_folder();
    pb_status status = pb_model_export(user, folder, PB_STORED_BF16, err);
    test_folder_remove(folder);
    return status;
}

static void model_export__failing_allocations__leak_nothing(void **state) {
    pb_model *model = open_folder(*state, "examples/models/facts", NULL);
    assert_true(assert_survives_allocation_failure(*state, export_once, model) > 20);
    pb_model_unref(model);
}

/* ---- origins and hashes ------------------------------------------------------------------------------------------------------- */

static void model_origin__tensors_in_memory__are_found(void **state) {
    pb_model *model = tiny(*state, false);
    weight_list list = take_weights(model);
    pb_model *made = make_like(*state, model, list);
    const pb_layer *layer = &pb_model_spec(made)->layer[1];
    pb_origin origin;
    assert_true(pb_model_origin(made, layer->mlp_in.data, &origin));
    assert_string_equal(pb_model_weight_name(made, origin.weight), "transformer.h.1.mlp.c_fc.weight");
    assert_int_equal(origin.first, 0);
    assert_true(pb_model_origin(made, layer->k.bias, &origin));
    assert_string_equal(pb_model_weight_name(made, origin.weight), "transformer.h.1.attn.c_attn.bias");
    assert_int_equal(origin.first, pb_model_d_model(made));
    assert_true(pb_model_origin(made, layer->ln2.weight, &origin));
    assert_string_equal(pb_model_weight_name(made, origin.weight), "transformer.h.1.ln_2.weight");
    pb_model_unref(made);
    pb_model_unref(model);
    drop_weights(list);
}

static void model_hash__tensors_in_memory__are_part_of_it(void **state) {
    pb_error err = {0};
    char before[65], after[65], again[65];
    pb_model *model = tiny(*state, true);
    weight_list list = take_weights(model);
    pb_model *made = make_like(*state, model, list);
    assert_ok(pb_model_hash(made, before, &err));
    pb_tensor *w = find_weight(list, "model.norm.weight");
    float old = pb_tensor_floats(w)[0];
    pb_tensor_floats(w)[0] += 1.0f;
    assert_ok(pb_model_hash(made, after, &err));
    assert_string_not_equal(before, after);
    pb_tensor_floats(w)[0] = old;
    assert_ok(pb_model_hash(made, again, &err));
    assert_string_equal(before, again);
    pb_model_unref(made);
    pb_model_unref(model);
    drop_weights(list);
}

/* The digest is kept, and kept no longer than the files stay as they are. */
static void model_hash_cached__changed_file__is_read_again(void **state) {
    pb_error err = {0};
    char first[65], second[65], *folder = test_folder(), *cache = test_folder();
    struct timespec old[2] = {{.tv_sec = 1000000000}, {.tv_sec = 1000000000}};
    pb_model *model = tiny(*state, true);
    assert_ok(pb_model_export(model, folder, PB_STORED_F32, &err));
    pb_model_unref(model);
    const char *weights = test_path(folder, "model.safetensors");
    model = open_folder(*state, folder, NULL);
    assert_ok(pb_model_hash(model, first, &err));
    assert_ok(pb_model_hash_cached(model, test_path(cache, "new"), second, &err)); /* too young to be kept */
    assert_string_equal(first, second);
    assert_false(pb_folder_exists(test_path(cache, "new")));
    assert_int_equal(utimensat(AT_FDCWD, weights, old, 0), 0);
    assert_ok(pb_model_hash_cached(model, test_path(cache, "new"), second, &err));
    assert_true(pb_folder_exists(test_path(cache, "new")));
    /* other bytes, but path, size and time as before: the kept digest is given, which shows that it was kept */
    FILE *file = fopen(test_path(folder, "model.safetensors"), "r+b");
    assert_int_equal(fseek(file, -1, SEEK_END), 0);
    assert_int_not_equal(fputc('x', file), EOF);
    fclose(file);
    assert_int_equal(utimensat(AT_FDCWD, test_path(folder, "model.safetensors"), old, 0), 0);
    assert_ok(pb_model_hash_cached(model, test_path(cache, "new"), second, &err));
    assert_string_equal(first, second);
    old[1].tv_nsec = 1;
    assert_int_equal(utimensat(AT_FDCWD, test_path(folder, "model.safetensors"), old, 0), 0);
    assert_ok(pb_model_hash_cached(model, test_path(cache, "new"), second, &err));
    assert_string_not_equal(first, second);
    assert_ok(pb_model_hash(model, first, &err));
    assert_string_equal(first, second);
    assert_ok(pb_model_hash_cached(model, test_path(folder, "config.json"), second, &err)); /* no folder at all */
    assert_string_equal(first, second);
    pb_model_unref(model);
    test_folder_remove(folder);
    test_folder_remove(cache);
}

static void model_storage__says_kinds_and_types(void **state) {
    pb_error err = {0};
    char text[128];
    pb_model *model = open_golden(*state, "files-sharded"), *edited = NULL;
    assert_non_null(strstr(pb_model_storage(model, text, sizeof text), "safetensors ("));
    assert_non_null(strstr(text, "files)"));
    assert_string_equal(pb_model_dtypes(model, text, sizeof text), "F32");
    pb_model_unref(model);
    model = open_golden(*state, "files-bf16");
    pb_tensor *w = NULL;
    assert_ok(pb_model_weight(model, pb_model_weight_name(model, 0), &w, &err));
    pb_named_tensor given = {pb_model_weight_name(model, 0), w};
    assert_ok(pb_model_with_weights(model, &given, 1, &edited, &err));
    assert_string_equal(pb_model_storage(edited, text, sizeof text), "safetensors (1 file) and memory (1 tensor)");
    assert_non_null(strstr(pb_model_dtypes(edited, text, sizeof text), " and "));
    pb_tensor_unref(w);
    pb_model_unref(edited);
    pb_model_unref(model);
}

/* ---- what is refused --------------------------------------------------------------------------------------------------------- */

static pb_status create_with(pb_context *ctx, const pb_model *like, weight_list list, pb_error *err) {
    pb_model *made = NULL;
    pb_model_parts parts = {.config = pb_model_config(like), .weights = list.items, .n_weights = list.n};
    pb_status status = pb_model_create(ctx, &parts, &made, err);
    pb_model_unref(made);
    return status;
}

static pb_status with(const pb_model *model, const char *name, const pb_tensor *tensor, pb_error *err) {
    pb_model *made = NULL;
    pb_named_tensor given = {name, tensor};
    pb_status status = pb_model_with_weights(model, &given, 1, &made, err);
    pb_model_unref(made);
    return status;
}

static void model_create__bad_weights__are_named(void **state) {
    pb_error err = {0};
    pb_model *model = tiny(*state, false);
    weight_list list = take_weights(model), less = {list.items + 1, list.n - 1};
    const char *first = list.items[0].name; /* transformer.h.0.attn.c_attn.bias */
    assert_error(create_with(*state, model, less, &err), PB_ERR_FORMAT, first);
    pb_named_tensor old = list.items[0];
    list.items[0] = list.items[1];
    assert_error(create_with(*state, model, list, &err), PB_ERR_ARGUMENT, "given twice");
    list.items[0] = old;
    list.items[0].name = "transformer.h.0.attn.c_attn.bios";
    assert_error(create_with(*state, model, list, &err), PB_ERR_FORMAT, "missing from the given weights");
    list.items[0] = old;

    pb_tensor *ints = NULL, *turned = NULL;
    assert_ok(pb_tensor_zeros(*state, PB_I32, 1, pb_tensor_shape(old.tensor), &ints, &err));
    list.items[0].tensor = ints;
    assert_error(create_with(*state, model, list, &err), PB_ERR_UNSUPPORTED, "I32");
    list.items[0] = old;
    size_t square = 0;
    while (strcmp(list.items[square].name, "transformer.h.0.attn.c_proj.weight") != 0)
        square++;
    pb_named_tensor matrix = list.items[square];
    assert_ok(pb_tensor_transpose(matrix.tensor, 0, 1, &turned, &err));
    list.items[square].tensor = turned;
    assert_error(create_with(*state, model, list, &err), PB_ERR_ARGUMENT, "contiguous");
    list.items[square] = matrix;

    size_t other = 0;
    while (strcmp(list.items[other].name, "transformer.h.1.attn.c_proj.weight") != 0)
        other++;
    pb_named_tensor kept = list.items[other];
    list.items[other].tensor = matrix.tensor;
    assert_error(create_with(*state, model, list, &err), PB_ERR_ARGUMENT, "share memory");
    list.items[other] = kept;
    assert_ok(create_with(*state, model, list, &err));

    pb_model *made = NULL;
    pb_model_parts parts = {.config = "{\"model_type\": \"gpt3\"}", .weights = list.items, .n_weights = list.n};
    assert_error(pb_model_create(*state, &parts, &made, &err), PB_ERR_UNSUPPORTED, "gpt3");
    parts.config = "[1]";
    assert_error(pb_model_create(*state, &parts, &made, &err), PB_ERR_FORMAT, "object");
    parts.config = "";
    assert_error(pb_model_create(*state, &parts, &made, &err), PB_ERR_FORMAT, "config");
    parts.config = pb_model_config(model);
    parts.n_weights = 0;
    assert_error(pb_model_create(*state, &parts, &made, &err), PB_ERR_FORMAT, "nothing");
    assert_null(made);
    pb_tensor_unref(ints);
    pb_tensor_unref(turned);
    drop_weights(list);
    pb_model_unref(model);
}

static void model_with_weights__bad_weights__are_named(void **state) {
    pb_error err = {0};
    pb_model *model = tiny(*state, true);
    pb_tensor *w = NULL, *wrong = NULL;
    const char *name = "model.layers.0.mlp.up_proj.weight";
    assert_ok(pb_model_weight(model, name, &w, &err));
    assert_ok(pb_tensor_zeros(*state, PB_F32, 1, (int64_t[]){7}, &wrong, &err));
    assert_error(with(model, "model.layers.0.mlp.up_prj.weight", w, &err), PB_ERR_ARGUMENT,
                 "did you mean 'model.layers.0.mlp.up_proj");
    assert_error(with(model, "x", w, &err), PB_ERR_ARGUMENT, "no weight 'x'");
    assert_error(with(model, name, wrong, &err), PB_ERR_ARGUMENT, "the given tensor has [7]");
    pb_tensor *ints = NULL;
    assert_ok(pb_tensor_zeros(*state, PB_I32, 2, pb_tensor_shape(w), &ints, &err));
    assert_error(with(model, name, ints, &err), PB_ERR_ARGUMENT, "int32");
    pb_tensor_unref(ints);
    pb_named_tensor twice[2] = {{name, w}, {name, wrong}};
    pb_model *made = NULL;
    assert_error(pb_model_with_weights(model, twice, 2, &made, &err), PB_ERR_ARGUMENT, "[7]");
    twice[1].tensor = w;
    assert_error(pb_model_with_weights(model, twice, 2, &made, &err), PB_ERR_ARGUMENT, "given twice");
    twice[1].name = "model.layers.1.mlp.up_proj.weight";
    assert_error(pb_model_with_weights(model, twice, 2, &made, &err), PB_ERR_ARGUMENT, "share memory");
    assert_ok(pb_model_with_weights(model, NULL, 0, &made, &err));
    assert_same_logits(made, model);
    pb_model_unref(made);
    pb_tensor_unref(w);
    pb_tensor_unref(wrong);
    pb_model_unref(model);
}

typedef struct making {
    pb_model *model;
    weight_list list;
} making;

static pb_status make_once(pb_context *ctx, void *user, pb_error *err) {
    const making *m = user;
    return create_with(ctx, m->model, m->list, err);
}

static pb_status edit_once(pb_context *ctx, void *user, pb_error *err) {
    const making *m = user;
    (void)ctx;
    return with(m->model, m->list.items[0].name, m->list.items[0].tensor, err);
}

static void models_in_memory__failing_allocations__leak_nothing(void **state) {
    for (int llama = 0; llama < 2; llama++) {
        making m = {tiny(*state, llama), {0}};
        m.list = take_weights(m.model);
        assert_true(assert_survives_allocation_failure(*state, make_once, &m) > 20);
        assert_true(assert_survives_allocation_failure(*state, edit_once, &m) > 20);
        drop_weights(m.list);
        pb_model_unref(m.model);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH_CONTEXT(model_create__every_golden_folder__same_logits),
        WITH_CONTEXT(model_create__every_family__same_logits_and_refresh_changes_nothing),
        WITH_CONTEXT(model_refresh__each_weight_changed__equals_a_new_model),
        WITH_CONTEXT(model_refresh__gemma__norms_stay_one_plus_w),
        WITH_CONTEXT(model_refresh__processed_model__is_refused),
        WITH_CONTEXT(model_with_weights__equals_a_file_with_the_new_weight),
        WITH_CONTEXT(model_with_weights__chain__keeps_only_what_is_read),
        WITH_CONTEXT(model_with_weights__processed_model__is_processed_again),
        WITH_CONTEXT(model_with_weights__stored_copy_of_a_tied_embedding),
        WITH_CONTEXT(model_export__every_golden_folder__loads_with_the_same_logits),
        WITH_CONTEXT(model_export__edited_model__equals_it),
        WITH_CONTEXT(model_export__config__says_the_type),
        WITH_CONTEXT(model_export__tokenizer__is_copied),
        WITH_CONTEXT(model_export__what_cannot_be_written__is_refused),
        WITH_CONTEXT(model_export__failing_allocations__leak_nothing),
        WITH_CONTEXT(narrow__rounds_to_nearest_even),
        WITH_CONTEXT(model_origin__tensors_in_memory__are_found),
        WITH_CONTEXT(model_hash__tensors_in_memory__are_part_of_it),
        WITH_CONTEXT(model_hash_cached__changed_file__is_read_again),
        WITH_CONTEXT(model_storage__says_kinds_and_types),
        WITH_CONTEXT(model_create__bad_weights__are_named),
        WITH_CONTEXT(model_with_weights__bad_weights__are_named),
        WITH_CONTEXT(models_in_memory__failing_allocations__leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
