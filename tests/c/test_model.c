/* Models: what opening a folder gives, every way a folder can be wrong, weights in both namings, weight processing. */
#include "support/support.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "model/spec.h"

/* ---- folders to spoil ----------------------------------------------------------------------------------------------------- */

/* Plain writing: the library's writer waits for the disk. */
static void write_bytes(const char *path, const void *data, size_t size) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static void copy_file(pb_context *ctx, const char *from, const char *to) {
    pb_error err = {0};
    char *data = NULL;
    size_t size = 0;
    assert_ok(pb_file_read(ctx, from, 64 << 20, &data, &size, &err));
    write_bytes(to, data, size);
    pb_free(data);
}

/* A copy of config.json and model.safetensors of a golden case. */
static char *copy_case(pb_context *ctx, const char *name) {
    char *folder = test_folder(), source[4096];
    snprintf(source, sizeof source, "%s", test_path(test_data("golden/models"), name));
    copy_file(ctx, test_path(source, "config.json"), test_path(folder, "config.json"));
    copy_file(ctx, test_path(source, "model.safetensors"), test_path(folder, "model.safetensors"));
    return folder;
}

static void write_text(const char *path, const char *text) { write_bytes(path, text, strlen(text)); }

/* Sets keys of config.json from a JSON object; a value of "<remove>" removes the key. */
static void change_config(const char *folder, const char *changes) {
    json_error_t problem;
    const char *path = test_path(folder, "config.json"), *key;
    json_t *config = json_load_file(path, 0, &problem), *change = json_loads(changes, 0, &problem), *value;
    assert_non_null(config);
    assert_non_null(change);
    json_object_foreach(change, key, value) {
        if (json_is_string(value) && strcmp(json_string_value(value), "<remove>") == 0)
            json_object_del(config, key);
        else
            json_object_set(config, key, value);
    }
    assert_int_equal(json_dump_file(config, path, 0), 0);
    json_decref(config);
    json_decref(change);
}

/* The golden case with a changed configuration fails so. */
static void expect_config_error(pb_context *ctx, const char *name, const char *changes, pb_status status,
                                const char *text) {
    pb_error err = {0};
    pb_model *model = NULL;
    char *folder = copy_case(ctx, name);
    change_config(folder, changes);
    assert_error(pb_model_open(ctx, folder, NULL, &model, &err), status, text);
    assert_null(model);
    test_folder_remove(folder);
}

static pb_model *open_case(pb_context *ctx, const char *name, const pb_load_options *options) {
    pb_error err = {0};
    pb_model *model = NULL;
    char path[4096];
    snprintf(path, sizeof path, "%s", test_path(test_data("golden/models"), name));
    assert_ok(pb_model_open(ctx, path, options, &model, &err));
    return model;
}

/* ---- what opening gives ------------------------------------------------------------------------------------------------------ */

static void model_open__gpt2__says_its_sizes(void **state) {
    pb_model *model = open_case(*state, "gpt2", NULL);
    assert_string_equal(pb_model_name(model), "gpt2");
    assert_string_equal(pb_model_family(model), "gpt2");
    assert_int_equal(pb_model_layers(model), 2);
    assert_int_equal(pb_model_heads(model), 4);
    assert_int_equal(pb_model_kv_heads(model), 4);
    assert_int_equal(pb_model_d_model(model), 24);
    assert_int_equal(pb_model_d_head(model), 6);
    assert_int_equal(pb_model_d_mlp(model), 40);
    assert_int_equal(pb_model_vocab(model), 64);
    assert_int_equal(pb_model_max_positions(model), 16);
    assert_int_equal(pb_model_parameters(model), 10928);
    assert_int_equal(pb_model_weight_bytes(model), 4 * 10928);
    assert_null(pb_model_tokenizer(model));
    assert_ptr_equal(pb_model_context(model), *state);
    const pb_spec *spec = pb_model_spec(model);
    assert_ptr_equal(spec->unembed.data, spec->embed.data); /* tied: one table */
    assert_true(spec->layer[0].q.in_major);
    pb_model_unref(model);
}

static void model_open__trailing_slash__does_not_hide_the_name(void **state) {
    pb_error err = {0};
    pb_model *model = NULL;
    char path[4096];
    snprintf(path, sizeof path, "%s//", test_data("golden/models/llama"));
    assert_ok(pb_model_open(*state, path, NULL, &model, &err));
    assert_string_equal(pb_model_name(model), "llama");
    pb_model_unref(model);
}

/* Matrices are views of the mapped file: opening allocates little more than vectors and lists. */
static void model_open__matrices__are_not_copied(void **state) {
    model_shape shape = test_shape_gpt2(3);
    shape.d_model = 256;
    shape.d_mlp = 1024;
    pb_model *model = test_model(*state, &shape);
    assert_true((int64_t)pb_context_memory_used(*state) * 10 < pb_model_weight_bytes(model));
    pb_model_unref(model);
}

static void model_open__facts__has_a_tokenizer(void **state) {
    pb_error err = {0};
    pb_model *model = NULL;
    char path[4096];
    snprintf(path, sizeof path, "%s/../examples/models/facts", test_data(""));
    assert_ok(pb_model_open(*state, path, NULL, &model, &err));
    assert_non_null(pb_model_tokenizer(model));
    assert_int_equal(pb_model_parameters(model), 1460224);
    assert_int_equal(pb_model_spec(model)->embed.type, PB_STORED_BF16);
    pb_model_unref(model);
}

static void model_refs__share_one_model(void **state) {
    pb_model *model = open_case(*state, "llama", NULL);
    assert_ptr_equal(pb_model_ref(model), model);
    pb_model_unref(model);
    assert_int_equal(pb_model_layers(model), 2);
    pb_model_unref(model);
    pb_model_unref(NULL);
}

static void model_hash__is_of_config_and_weights(void **state) {
    pb_context *ctx = *state;
    pb_error err = {0};
    char got[65], again[65], wanted[65];
    pb_model *model = NULL;
    pb_sha256 *digest = NULL;
    char *folder = copy_case(ctx, "gpt2");
    assert_ok(pb_sha256_begin(ctx, &digest, &err));
    static const char *const names[] = {"config.json", "model.safetensors"};
    for (int i = 0; i < 2; i++) {
        char *data = NULL;
        size_t size = 0;
        assert_ok(pb_file_read(ctx, test_path(folder, names[i]), 64 << 20, &data, &size, &err));
        assert_ok(pb_sha256_add(digest, data, size, &err));
        pb_free(data);
    }
    assert_ok(pb_sha256_end(digest, wanted, &err));
    assert_ok(pb_model_open(ctx, folder, NULL, &model, &err));
    assert_ok(pb_model_hash(model, got, &err));
    assert_string_equal(got, wanted);
    pb_model_unref(model);
    change_config(folder, "{\"layer_norm_epsilon\": 0.5}");
    assert_ok(pb_model_open(ctx, folder, NULL, &model, &err));
    assert_ok(pb_model_hash(model, again, &err));
    assert_string_not_equal(got, again);
    pb_model_unref(model);
    test_folder_remove(folder);
}

/* ---- folders that are wrong ----------------------------------------------------------------------------------------------------- */

static void model_open__no_such_folder__says_where_it_looked(void **state) {
    pb_context *ctx = *state;
    pb_error err = {0};
    pb_model *model = NULL;
    char here[512];
    assert_non_null(getcwd(here, sizeof here));
    assert_error(pb_model_open(ctx, "no-such-model", NULL, &model, &err), PB_ERR_IO, here);
    assert_error(pb_model_open(ctx, "/no/such/model", NULL, &model, &err), PB_ERR_IO, "/no/such/model");
    char file[4096];
    snprintf(file, sizeof file, "%s", test_data("golden/models/gpt2/config.json"));
    assert_error(pb_model_open(ctx, file, NULL, &model, &err), PB_ERR_ARGUMENT, "is a file");
}

static void model_open__missing_parts__are_named(void **state) {
    pb_context *ctx = *state;
    pb_error err = {0};
    pb_model *model = NULL;
    char *folder = test_folder();
    assert_error(pb_model_open(ctx, folder, NULL, &model, &err), PB_ERR_IO, "no config.json");
    copy_file(ctx, test_data("golden/models/gpt2/config.json"), test_path(folder, "config.json"));
    assert_error(pb_model_open(ctx, folder, NULL, &model, &err), PB_ERR_IO, "no weights");
    write_text(test_path(folder, "tf_model.h5"), "hdf");
    assert_error(pb_model_open(ctx, folder, NULL, &model, &err), PB_ERR_UNSUPPORTED, "tf_model.h5");
    write_text(test_path(folder, "pytorch_model.bin"), "zip");
    assert_error(pb_model_open(ctx, folder, NULL, &model, &err), PB_ERR_FORMAT, "pytorch_model.bin");
    write_text(test_path(folder, "config.json"), "{\"model_type\": \"gpt2\"");
    assert_error(pb_model_open(ctx, folder, NULL, &model, &err), PB_ERR_FORMAT, "config.json");
    write_text(test_path(folder, "config.json"), "[1]");
    assert_error(pb_model_open(ctx, folder, NULL, &model, &err), PB_ERR_FORMAT, "object");
    write_text(test_path(folder, "config.json"), "{}");
    assert_error(pb_model_open(ctx, folder, NULL, &model, &err), PB_ERR_FORMAT, "model_type");
    test_folder_remove(folder);
}

static void model_open__unknown_architecture__lists_the_known(void **state) {
    pb_context *ctx = *state;
    expect_config_error(ctx, "gpt2", "{\"model_type\": \"mamba\"}", PB_ERR_UNSUPPORTED, "mamba");
    expect_config_error(ctx, "gpt2", "{\"model_type\": \"mamba\"}", PB_ERR_UNSUPPORTED, "gpt2, gpt_neo, gptj");
    expect_config_error(ctx, "gpt2", "{\"model_type\": \"mamba\"}", PB_ERR_UNSUPPORTED, "cohere");
    expect_config_error(ctx, "gpt2", "{\"model_type\": 7}", PB_ERR_FORMAT, "model_type");
}

static void model_open__absurd_sizes__name_the_key(void **state) {
    static const struct {
        const char *changes, *text;
    } cases[] = {
        {"{\"num_hidden_layers\": 0}", "num_hidden_layers"},
        {"{\"num_hidden_layers\": -2}", "num_hidden_layers"},
        {"{\"num_hidden_layers\": 1000000000}", "num_hidden_layers"},
        {"{\"num_hidden_layers\": 2.5}", "num_hidden_layers"},
        {"{\"num_hidden_layers\": \"two\"}", "num_hidden_layers"},
        {"{\"hidden_size\": 0}", "hidden_size"},
        {"{\"hidden_size\": 1e30}", "hidden_size"},
        {"{\"hidden_size\": 9223372036854775807}", "hidden_size"},
        {"{\"num_attention_heads\": 5, \"head_dim\": null}", "cannot be divided among 5 heads"},
        {"{\"num_key_value_heads\": 3}", "3 key/value heads"},
        {"{\"num_key_value_heads\": 8}", "8 key/value heads"},
        {"{\"head_dim\": 5}", "must be even"},
        {"{\"head_dim\": 0}", "head_dim"},
        {"{\"vocab_size\": -1}", "vocab_size"},
        {"{\"intermediate_size\": 0}", "intermediate_size"},
        {"{\"max_position_embeddings\": 0}", "max_position_embeddings"},
        {"{\"rms_norm_eps\": -1}", "rms_norm_eps"},
        {"{\"rms_norm_eps\": \"small\"}", "rms_norm_eps"},
        {"{\"tie_word_embeddings\": 3}", "tie_word_embeddings"},
        {"{\"rope_parameters\": 5}", "rope_parameters"},
        {"{\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": -5}}", "rope_theta"},
        {"{\"rope_parameters\": {\"rope_type\": \"linear\"}}", "factor"},
        {"{\"rope_parameters\": {\"rope_type\": \"linear\", \"factor\": 0}}", "factor"},
        {"{\"rope_parameters\": {\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1}}",
         "high_freq_factor"},
        {"{\"rope_parameters\": {\"rope_type\": \"dynamic\"}}", "factor"},
        {"{\"rope_parameters\": {\"rope_type\": \"dynamic\", \"factor\": -2}}", "positive"},
        {"{\"rope_parameters\": {\"rope_type\": \"longrope\", \"long_factor\": [1], \"short_factor\": [1, 1, 1]}}",
         "long_factor"},
        {"{\"rope_parameters\": {\"rope_type\": \"longrope\", \"long_factor\": [1, 0, 1], \"short_factor\": [1, 1, "
         "1]}}",
         "long_factor[1]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        expect_config_error(*state, "llama", cases[i].changes, PB_ERR_FORMAT, cases[i].text);
}

static pb_model *open_changed(pb_context *ctx, const char *name, const char *changes) {
    pb_error err = {0};
    pb_model *model = NULL;
    char *folder = copy_case(ctx, name);
    change_config(folder, changes);
    assert_ok(pb_model_open(ctx, folder, NULL, &model, &err));
    test_folder_remove(folder);
    return model;
}

static pb_tensor *run_logits(pb_run *run) {
    pb_error err = {0};
    pb_tensor *logits = NULL;
    assert_ok(pb_run_value(run, (pb_site){.kind = PB_SITE_LOGITS, .layer = -1}, &logits, &err));
    return logits;
}

static void assert_same_logits(pb_run *a, pb_run *b, double tolerance) {
    pb_tensor *x = run_logits(a), *y = run_logits(b);
    if (tolerance > 0.0)
        assert_tensor_close(x, y, tolerance);
    else
        assert_tensor_equal(x, y);
    pb_tensor_unref(x);
    pb_tensor_unref(y);
}

/* Up to the trained length nothing is scaled; beyond it the base grows with the sequence, whatever else is computed with it. */
static void rotary__dynamic__is_another_base_for_each_length(void **state) {
    pb_error err = {0};
    pb_model *dynamic = open_changed(*state, "llama",
                                     "{\"max_position_embeddings\": 8, \"rope_parameters\": {\"rope_type\": "
                                     "\"dynamic\", \"factor\": 2, \"rope_theta\": 10000}}");
    int32_t ids[3 * 13];
    size_t lengths[3] = {8, 12, 13};
    test_tokens(64, 9, ids + 26, 13);
    for (int i = 0; i < 2; i++)
        memcpy(ids + 13 * i, ids + 26, 13 * sizeof *ids);
    const int32_t *prompts[3] = {ids, ids + 13, ids + 26};
    pb_run *together[3];
    assert_ok(pb_run_create_many(dynamic, prompts, lengths, 3, together, &err));
    for (int i = 0; i < 3; i++) {
        char changes[128];
        double stretch = i == 0 ? 1.0 : 2.0 * (double)lengths[i] / 8.0 - 1.0;
        snprintf(changes, sizeof changes, "{\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": %.17g}}",
                 10000.0 * pow(stretch, 6.0 / 4.0));
        pb_model *plain = open_changed(*state, "llama", changes);
        pb_run *wanted = NULL, *alone = NULL, *fork = NULL;
        assert_ok(pb_run_create(plain, ids, lengths[i], &wanted, &err));
        assert_ok(pb_run_create(dynamic, ids, lengths[i], &alone, &err));
        assert_same_logits(alone, wanted, i == 0 ? 0.0 : 1e-6);
        assert_same_logits(together[i], alone, 0.0);
        assert_ok(pb_run_fork(together[2], ids, lengths[i], &fork, &err));
        assert_same_logits(fork, alone, 0.0);
        pb_run_unref(fork);
        pb_run_unref(alone);
        pb_run_unref(wanted);
        pb_model_unref(plain);
    }
    for (int i = 0; i < 3; i++)
        pb_run_unref(together[i]);
    pb_model_unref(dynamic);
}

/* A text model's folder as the text part of a multimodal one: its weights under other names, and others beside them. */
static char *wrap_case(pb_context *ctx, const char *source, const char *front, const char *model_front,
                       const char *extra) {
    pb_error err = {0};
    pb_safetensors *file = NULL;
    pb_entry entries[128];
    const pb_entry *list[128];
    char names[128][128], *folder = test_folder();
    assert_ok(pb_safetensors_open(ctx, test_path(source, "model.safetensors"), &file, &err));
    size_t n = pb_safetensors_count(file);
    assert_true(n + 1 < 128);
    for (size_t i = 0; i < n; i++) {
        entries[i] = *pb_safetensors_at(file, i);
        bool model = strncmp(entries[i].name, "model.", 6) == 0;
        snprintf(names[i], sizeof names[i], "%s%s", model ? model_front : front, entries[i].name + (model ? 6 : 0));
    }
    static const float zeros[2];
    entries[n] = (pb_entry){.type = PB_STORED_F32, .dtype = "F32", .ndim = 1, .shape = {2}, .data = zeros, .bytes = 8};
    snprintf(names[n], sizeof names[n], "%s", extra);
    for (size_t i = 0; i <= n; i++) {
        entries[i].name = names[i];
        list[i] = &entries[i];
    }
    assert_ok(pb_safetensors_write_entries(ctx, test_path(folder, "model.safetensors"), list, n + 1, PB_STORED_F32,
                                           NULL, 0, &err));
    pb_safetensors_unref(file);
    json_t *inner = json_load_file(test_path(source, "config.json"), 0, NULL);
    json_t *outer = json_pack("{s:s, s:o, s:{s:i}}", "model_type", "gemma3", "text_config", inner, "vision_config",
                              "hidden_size", 8);
    assert_int_equal(json_dump_file(outer, test_path(folder, "config.json"), 0), 0);
    json_decref(outer);
    return folder;
}

static void model_open__multimodal_gemma3__is_its_text_model(void **state) {
    pb_error err = {0};
    char source[4096];
    snprintf(source, sizeof source, "%s", test_shared("golden/models/gemma3"));
    static const char *const ways[][3] = {
        {"language_model.", "language_model.model.", "vision_tower.vision_model.post_layernorm.weight"},
        {"", "model.language_model.", "model.multi_modal_projector.mm_soft_emb_norm.weight"},
        {"", "model.", "model.vision_tower.vision_model.post_layernorm.weight"},
    };
    pb_model *text = NULL, *model = NULL;
    pb_run *wanted = NULL, *run = NULL;
    int32_t ids[11];
    assert_ok(pb_model_open(*state, source, NULL, &text, &err));
    test_tokens(pb_model_vocab(text), 3, ids, 11);
    assert_ok(pb_run_create(text, ids, 11, &wanted, &err));
    for (int i = 0; i < 3; i++) {
        char *folder = wrap_case(*state, source, ways[i][0], ways[i][1], ways[i][2]);
        assert_ok(pb_model_open(*state, folder, NULL, &model, &err));
        assert_string_equal(pb_model_family(model), "gemma3_text");
        assert_int_equal(pb_model_parameters(model), pb_model_parameters(text));
        assert_ok(pb_run_create(model, ids, 11, &run, &err));
        assert_same_logits(run, wanted, 0.0);
        pb_run_unref(run);
        pb_model_unref(model);
        test_folder_remove(folder);
    }
    char *folder = wrap_case(*state, source, "language_model.", "language_model.model.", "audio_tower.weight");
    assert_error(pb_model_open(*state, folder, NULL, &model, &err), PB_ERR_FORMAT, "'audio_tower.weight' is left over");
    change_config(folder, "{\"text_config\": null}");
    assert_error(pb_model_open(*state, folder, NULL, &model, &err), PB_ERR_FORMAT, "text_config");
    test_folder_remove(folder);
    pb_run_unref(wanted);
    pb_model_unref(text);
}

static void model_open__what_it_cannot_do__is_refused_by_name(void **state) {
    pb_context *ctx = *state;
    expect_config_error(ctx, "llama", "{\"rope_parameters\": {\"rope_type\": \"spiral\"}}", PB_ERR_UNSUPPORTED,
                        "spiral");
    expect_config_error(ctx, "llama", "{\"partial_rotary_factor\": 0.5}", PB_ERR_UNSUPPORTED, "whole heads");
    expect_config_error(ctx, "llama", "{\"hidden_act\": \"mish\"}", PB_ERR_UNSUPPORTED, "gelu_new");
    expect_config_error(ctx, "llama", "{\"quantization_config\": {\"bits\": 4}}", PB_ERR_UNSUPPORTED, "quantised");
    expect_config_error(ctx, "gpt2", "{\"add_cross_attention\": true}", PB_ERR_UNSUPPORTED, "add_cross_attention");
}

static void model_open__config_against_weights__names_tensor_and_both_shapes(void **state) {
    pb_context *ctx = *state;
    expect_config_error(ctx, "llama", "{\"intermediate_size\": 48}", PB_ERR_FORMAT,
                        "has shape [40, 24], but config.json asks for [48, 24]");
    expect_config_error(ctx, "llama", "{\"vocab_size\": 65}", PB_ERR_FORMAT, "model.embed_tokens.weight");
    expect_config_error(ctx, "llama", "{\"num_hidden_layers\": 3}", PB_ERR_FORMAT,
                        "'model.layers.2.input_layernorm.weight' is missing");
    expect_config_error(ctx, "llama", "{\"num_hidden_layers\": 1}", PB_ERR_FORMAT, "left over");
    expect_config_error(ctx, "llama", "{\"attention_bias\": true}", PB_ERR_FORMAT,
                        "'model.layers.0.self_attn.q_proj.bias' is missing");
    expect_config_error(ctx, "llama-bias", "{\"mlp_bias\": false}", PB_ERR_FORMAT,
                        "'model.layers.0.mlp.down_proj.bias' and 5 more is left over");
    expect_config_error(ctx, "gpt2", "{\"n_positions\": 32}", PB_ERR_FORMAT, "transformer.wpe.weight");
    expect_config_error(ctx, "gpt2", "{\"n_inner\": \"<remove>\"}", PB_ERR_FORMAT, "transformer.h.0.mlp.c_fc.weight");
    expect_config_error(ctx, "gpt2", "{\"tie_word_embeddings\": false}", PB_ERR_FORMAT, "'lm_head.weight' is missing");
    expect_config_error(ctx, "gpt2", "{\"model_type\": \"gpt_neo\"}", PB_ERR_FORMAT, "");
    /* a size that config.json does not say is not blamed on it alone */
    expect_config_error(ctx, "gpt2", "{\"n_embd\": 26, \"n_head\": \"<remove>\"}", PB_ERR_FORMAT,
                        "default of the family: n_head 12");
    expect_config_error(ctx, "gpt2", "{\"n_embd\": \"<remove>\"}", PB_ERR_FORMAT, "does not say n_embd 768");
    expect_config_error(ctx, "gpt2", "{\"model_type\": \"llama\", \"hidden_size\": 24, \"num_attention_heads\": 4}",
                        PB_ERR_FORMAT, "the embedding of a llama model");
}

static void model_open__truncated_weights__are_refused(void **state) {
    pb_context *ctx = *state;
    pb_error err = {0};
    pb_model *model = NULL;
    char *folder = copy_case(ctx, "gpt2");
    static const long sizes[] = {0, 4, 8, 100, 3000, 40000};
    for (size_t i = sizeof sizes / sizeof sizes[0]; i-- > 0;) {
        assert_int_equal(truncate(test_path(folder, "model.safetensors"), sizes[i]), 0);
        assert_error(pb_model_open(ctx, folder, NULL, &model, &err), PB_ERR_FORMAT, "model.safetensors");
    }
    test_folder_remove(folder);
}

/* ---- shards ------------------------------------------------------------------------------------------------------------------------- */

static char *copy_shards(pb_context *ctx) {
    static const char *const names[] = {"config.json", "model.safetensors.index.json",
                                        "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                                        "model-00003-of-00003.safetensors"};
    char *folder = test_folder();
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        copy_file(ctx, test_path(test_data("golden/models/files-sharded"), names[i]), test_path(folder, names[i]));
    return folder;
}

/* Sets one entry of the index's weight_map ("" removes it). */
static void change_index(const char *folder, const char *tensor, const char *file) {
    json_error_t problem;
    const char *path = test_path(folder, "model.safetensors.index.json");
    json_t *index = json_load_file(path, 0, &problem);
    json_t *map = json_object_get(index, "weight_map");
    assert_non_null(map);
    json_object_set_new(map, tensor, json_string(file));
    assert_int_equal(json_dump_file(index, path, 0), 0);
    json_decref(index);
}

static void model_open__lying_index__is_refused(void **state) {
    pb_context *ctx = *state;
    static const struct {
        const char *tensor, *file;
        pb_status status;
        const char *text;
    } cases[] = {
        {"lm_head.weight", "model-00009-of-00003.safetensors", PB_ERR_IO, "model-00009-of-00003.safetensors"},
        {"lm_head.weight", "model-00001-of-00003.safetensors", PB_ERR_FORMAT, "lm_head.weight"},
        {"lm_head.weight", "../../etc/passwd", PB_ERR_FORMAT, "no plain file name"},
        {"lm_head.weight", "", PB_ERR_FORMAT, "no plain file name"},
        {"no.such.tensor", "model-00001-of-00003.safetensors", PB_ERR_FORMAT, "no.such.tensor"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        pb_error err = {0};
        pb_model *model = NULL;
        char *folder = copy_shards(ctx);
        change_index(folder, cases[i].tensor, cases[i].file);
        assert_error(pb_model_open(ctx, folder, NULL, &model, &err), cases[i].status, cases[i].text);
        test_folder_remove(folder);
    }
}

static void model_open__same_tensor_in_two_shards__is_refused(void **state) {
    pb_context *ctx = *state;
    pb_error err = {0};
    pb_model *model = NULL;
    char *folder = copy_shards(ctx);
    copy_file(ctx, test_path(folder, "model-00001-of-00003.safetensors"), test_path(folder, "twice.safetensors"));
    change_index(folder, "model.embed_tokens.weight", "twice.safetensors");
    assert_error(pb_model_open(ctx, folder, NULL, &model, &err), PB_ERR_FORMAT, "is both in");
    test_folder_remove(folder);
}

/* ---- storage ------------------------------------------------------------------------------------------------------------------------- */

static uint64_t header_length(const unsigned char *file) {
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--)
        n = n << 8 | file[i];
    return n;
}

static void put_length(unsigned char *file, uint64_t n) {
    for (int i = 0; i < 8; i++)
        file[i] = (unsigned char)(n >> (8 * i));
}

/* Moves all data by one byte: a space more in the header. */
static void misalign(pb_context *ctx, const char *path) {
    pb_error err = {0};
    char *data = NULL;
    size_t size = 0;
    assert_ok(pb_file_read(ctx, path, 64 << 20, &data, &size, &err));
    uint64_t header = header_length((unsigned char *)data);
    char *moved = malloc(size + 1);
    assert_non_null(moved);
    memcpy(moved, data, 8 + header);
    moved[8 + header] = ' ';
    memcpy(moved + 8 + header + 1, data + 8 + header, size - 8 - header);
    put_length((unsigned char *)moved, header + 1);
    write_bytes(path, moved, size + 1);
    free(moved);
    pb_free(data);
}

/* Rewrites a file of float32 tensors with the same values as float64. */
static void widen_file(pb_context *ctx, const char *path) {
    pb_error err = {0};
    char *data = NULL;
    size_t size = 0;
    assert_ok(pb_file_read(ctx, path, 64 << 20, &data, &size, &err));
    uint64_t length = header_length((unsigned char *)data);
    json_error_t problem;
    json_t *header = json_loadb(data + 8, length, 0, &problem), *entry;
    const char *name;
    assert_non_null(header);
    json_object_foreach(header, name, entry) {
        json_t *offsets = json_object_get(entry, "data_offsets");
        if (!offsets)
            continue;
        json_object_set_new(entry, "dtype", json_string("F64"));
        for (size_t i = 0; i < 2; i++)
            json_array_set_new(offsets, i, json_integer(2 * json_integer_value(json_array_get(offsets, i))));
    }
    char *text = json_dumps(header, JSON_COMPACT);
    size_t text_length = strlen(text), count = (size - 8 - length) / 4;
    char *wide = malloc(8 + text_length + 8 * count);
    assert_non_null(wide);
    put_length((unsigned char *)wide, text_length);
    memcpy(wide + 8, text, text_length);
    for (size_t i = 0; i < count; i++) {
        float narrow;
        memcpy(&narrow, data + 8 + length + 4 * i, 4);
        double value = (double)narrow;
        memcpy(wide + 8 + text_length + 8 * i, &value, 8);
    }
    write_bytes(path, wide, 8 + text_length + 8 * count);
    free(wide);
    free(text);
    json_decref(header);
    pb_free(data);
}

static pb_tensor *logits_of(pb_model *model) {
    static const int32_t ids[] = {5, 17, 3, 63, 0, 17, 42};
    pb_error err = {0};
    pb_run *run = NULL;
    pb_tensor *logits = NULL;
    assert_ok(pb_run_create(model, ids, sizeof ids / sizeof ids[0], &run, &err));
    assert_ok(pb_run_value(run, (pb_site){PB_SITE_LOGITS, -1}, &logits, &err));
    pb_run_unref(run);
    return logits;
}

static void model_open__misaligned_and_wide_weights__give_the_same_numbers(void **state) {
    pb_context *ctx = *state;
    static const char *const names[] = {"gpt2", "llama"};
    for (int i = 0; i < 2; i++) {
        pb_model *plain = open_case(ctx, names[i], NULL);
        pb_tensor *wanted = logits_of(plain);
        for (int how = 0; how < 2; how++) {
            pb_error err = {0};
            pb_model *model = NULL;
            char *folder = copy_case(ctx, names[i]);
            (how ? widen_file : misalign)(ctx, test_path(folder, "model.safetensors"));
            assert_ok(pb_model_open(ctx, folder, NULL, &model, &err));
            pb_tensor *got = logits_of(model);
            assert_tensor_equal(got, wanted);
            pb_tensor_unref(got);
            pb_model_unref(model);
            test_folder_remove(folder);
        }
        pb_tensor_unref(wanted);
        pb_model_unref(plain);
    }
}

static void keep_warning(void *user, const char *message) { snprintf(user, 512, "%s", message); }

/* A checkpoint that ties by its configuration but holds another unembedding: the checkpoint counts, and it is said. */
static void model_open__tied_but_different__uses_the_file_and_warns(void **state) {
    pb_context *ctx = *state;
    pb_error err = {0};
    pb_model *model = NULL;
    char warning[512] = "";
    pb_context_on_warning(ctx, keep_warning, warning);
    char *folder = copy_case(ctx, "llama"); /* untied */
    change_config(folder, "{\"tie_word_embeddings\": true}");
    assert_ok(pb_model_open(ctx, folder, NULL, &model, &err));
    assert_non_null(strstr(warning, "lm_head.weight"));
    pb_model *untied = open_case(ctx, "llama", NULL);
    pb_tensor *got = logits_of(model), *wanted = logits_of(untied);
    assert_tensor_equal(got, wanted);
    pb_tensor_unref(got);
    pb_tensor_unref(wanted);
    pb_model_unref(untied);
    pb_model_unref(model);
    pb_model *stored = open_case(ctx, "files-f16", NULL); /* stored although tied, the same values */
    assert_ptr_equal(pb_model_spec(stored)->unembed.data, pb_model_spec(stored)->embed.data);
    assert_int_equal(pb_model_parameters(stored), 17568);
    pb_model_unref(stored);
    pb_context_on_warning(ctx, NULL, NULL);
    test_folder_remove(folder);
}

/* ---- weights ------------------------------------------------------------------------------------------------------------------------- */

static void model_weight__by_name_and_shape(void **state) {
    pb_model *model = open_case(*state, "gpt2", NULL);
    pb_error err = {0};
    pb_tensor *t = NULL;
    assert_int_equal(pb_model_weight_count(model), 28);
    for (size_t i = 0; i < pb_model_weight_count(model); i++) {
        assert_ok(pb_model_weight(model, pb_model_weight_name(model, i), &t, &err));
        pb_tensor_unref(t);
        if (i)
            assert_true(strcmp(pb_model_weight_name(model, i - 1), pb_model_weight_name(model, i)) < 0);
    }
    assert_null(pb_model_weight_name(model, 28));
    assert_ok(pb_model_weight(model, "transformer.h.1.attn.c_attn.weight", &t, &err));
    assert_int_equal(pb_tensor_shape(t)[0], 24);
    assert_int_equal(pb_tensor_shape(t)[1], 72);
    pb_tensor_unref(t);
    assert_error(pb_model_weight(model, "transformer.h.1.attn.c_attn.weigh", &t, &err), PB_ERR_ARGUMENT,
                 "did you mean 'transformer.h.1.attn.c_attn.weight'");
    pb_model_unref(model);
}

/* What element (a, b, c) of a parameter must be, from the stored tensors. */
static float stored_at(pb_model *model, const char *name, int64_t i, int64_t j) {
    pb_error err = {0};
    pb_tensor *t = NULL;
    double value = 0.0;
    assert_ok(pb_model_weight(model, name, &t, &err));
    int64_t index[2] = {i, j};
    assert_ok(pb_tensor_get(t, pb_tensor_ndim(t), index, &value, &err));
    pb_tensor_unref(t);
    return (float)value;
}

static float parameter_at(pb_model *model, const char *name, int ndim, int64_t a, int64_t b, int64_t c) {
    pb_error err = {0};
    pb_tensor *t = NULL;
    double value = 0.0;
    assert_ok(pb_model_parameter(model, name, &t, &err));
    assert_int_equal(pb_tensor_ndim(t), ndim);
    int64_t index[3] = {a, b, c};
    assert_ok(pb_tensor_get(t, ndim, index, &value, &err));
    pb_tensor_unref(t);
    return (float)value;
}

#define SAME(a, b) assert_true((a) == (b))

static void model_parameter__gpt2__is_the_stored_weight_rearranged(void **state) {
    pb_model *model = open_case(*state, "gpt2", NULL); /* 4 heads of 6; c_attn [24, q 24 | k 24 | v 24] */
    SAME(parameter_at(model, "embed.W_E", 2, 7, 3, 0), stored_at(model, "transformer.wte.weight", 7, 3));
    SAME(parameter_at(model, "pos_embed.W_pos", 2, 7, 3, 0), stored_at(model, "transformer.wpe.weight", 7, 3));
    SAME(parameter_at(model, "blocks.1.attn.W_Q", 3, 2, 5, 4),
         stored_at(model, "transformer.h.1.attn.c_attn.weight", 5, 2 * 6 + 4));
    SAME(parameter_at(model, "blocks.1.attn.W_K", 3, 2, 5, 4),
         stored_at(model, "transformer.h.1.attn.c_attn.weight", 5, 24 + 2 * 6 + 4));
    SAME(parameter_at(model, "blocks.1.attn.W_V", 3, 2, 5, 4),
         stored_at(model, "transformer.h.1.attn.c_attn.weight", 5, 48 + 2 * 6 + 4));
    SAME(parameter_at(model, "blocks.1.attn.b_V", 2, 2, 4, 0),
         stored_at(model, "transformer.h.1.attn.c_attn.bias", 48 + 2 * 6 + 4, 0));
    SAME(parameter_at(model, "blocks.1.attn.W_O", 3, 2, 5, 4),
         stored_at(model, "transformer.h.1.attn.c_proj.weight", 2 * 6 + 5, 4));
    SAME(parameter_at(model, "blocks.1.attn.b_O", 1, 9, 0, 0),
         stored_at(model, "transformer.h.1.attn.c_proj.bias", 9, 0));
    SAME(parameter_at(model, "blocks.0.mlp.W_in", 2, 9, 39, 0),
         stored_at(model, "transformer.h.0.mlp.c_fc.weight", 9, 39));
    SAME(parameter_at(model, "blocks.0.mlp.W_out", 2, 39, 9, 0),
         stored_at(model, "transformer.h.0.mlp.c_proj.weight", 39, 9));
    SAME(parameter_at(model, "blocks.0.ln2.w", 1, 9, 0, 0), stored_at(model, "transformer.h.0.ln_2.weight", 9, 0));
    SAME(parameter_at(model, "ln_final.b", 1, 9, 0, 0), stored_at(model, "transformer.ln_f.bias", 9, 0));
    SAME(parameter_at(model, "unembed.W_U", 2, 9, 63, 0), stored_at(model, "transformer.wte.weight", 63, 9));
    SAME(parameter_at(model, "unembed.b_U", 1, 63, 0, 0), 0.0f);
    pb_model_unref(model);
}

static void model_parameter__llama__is_the_stored_weight_rearranged(void **state) {
    pb_model *model = open_case(*state, "llama", NULL); /* 4 heads of 6, 2 key/value heads */
    SAME(parameter_at(model, "blocks.1.attn.W_Q", 3, 3, 5, 4),
         stored_at(model, "model.layers.1.self_attn.q_proj.weight", 3 * 6 + 4, 5));
    SAME(parameter_at(model, "blocks.1.attn.W_K", 3, 1, 5, 4),
         stored_at(model, "model.layers.1.self_attn.k_proj.weight", 6 + 4, 5));
    SAME(parameter_at(model, "blocks.1.attn.W_O", 3, 3, 5, 4),
         stored_at(model, "model.layers.1.self_attn.o_proj.weight", 4, 3 * 6 + 5));
    SAME(parameter_at(model, "blocks.1.mlp.W_gate", 2, 9, 39, 0),
         stored_at(model, "model.layers.1.mlp.gate_proj.weight", 39, 9));
    SAME(parameter_at(model, "blocks.1.mlp.W_in", 2, 9, 39, 0),
         stored_at(model, "model.layers.1.mlp.up_proj.weight", 39, 9));
    SAME(parameter_at(model, "blocks.1.attn.b_Q", 2, 3, 4, 0), 0.0f);
    SAME(parameter_at(model, "unembed.W_U", 2, 9, 63, 0), stored_at(model, "lm_head.weight", 63, 9));
    pb_model_unref(model);
}

static void model_parameter__unknown_or_absent__says_so(void **state) {
    pb_model *model = open_case(*state, "llama", NULL);
    pb_error err = {0};
    pb_tensor *t = NULL;
    assert_error(pb_model_parameter(model, "pos_embed.W_pos", &t, &err), PB_ERR_ARGUMENT, "lacks it");
    assert_error(pb_model_parameter(model, "blocks.0.ln1_post.w", &t, &err), PB_ERR_ARGUMENT, "lacks it");
    assert_error(pb_model_parameter(model, "blocks.0.attn.W_q", &t, &err), PB_ERR_ARGUMENT, "did you mean");
    assert_error(pb_model_parameter(model, "blocks.2.attn.W_Q", &t, &err), PB_ERR_ARGUMENT, "layers 0 to 1");
    assert_error(pb_model_parameter(model, "blocks.attn.W_Q", &t, &err), PB_ERR_ARGUMENT, "layer number");
    assert_error(pb_model_parameter(model, "something else", &t, &err), PB_ERR_ARGUMENT, "embed.W_E");
    assert_null(t);
    pb_model_unref(model);
}

/* Fused projections of other families: what the views give is what the stored rows say. */
static void model_parameter__grouped_projections__are_taken_apart(void **state) {
    pb_context *ctx = *state;
    pb_error err = {0};
    pb_model *model = NULL;
    char path[4096];
    snprintf(path, sizeof path, "%s", test_shared("golden/models"));
    assert_ok(
        pb_model_open(ctx, test_path(path, "gpt_neox"), NULL, &model, &err)); /* 3 heads of 8: rows head, q | k | v */
    SAME(parameter_at(model, "blocks.1.attn.W_K", 3, 2, 5, 4),
         stored_at(model, "gpt_neox.layers.1.attention.query_key_value.weight", 2 * 24 + 8 + 4, 5));
    SAME(parameter_at(model, "blocks.1.attn.b_V", 2, 2, 4, 0),
         stored_at(model, "gpt_neox.layers.1.attention.query_key_value.bias", 2 * 24 + 16 + 4, 0));
    pb_model_unref(model);
    assert_ok(
        pb_model_open(ctx, test_path(path, "falcon-new"), NULL, &model, &err)); /* 2 groups of 2 heads of 6, k, v */
    SAME(parameter_at(model, "blocks.0.attn.W_Q", 3, 3, 5, 4),
         stored_at(model, "transformer.h.0.self_attention.query_key_value.weight", 24 + 6 + 4, 5));
    SAME(parameter_at(model, "blocks.0.attn.W_V", 3, 1, 5, 4),
         stored_at(model, "transformer.h.0.self_attention.query_key_value.weight", 24 + 18 + 4, 5));
    pb_model_unref(model);
    assert_ok(pb_model_open(ctx, test_path(path, "phi3"), NULL, &model, &err));
    SAME(parameter_at(model, "blocks.0.attn.W_V", 3, 1, 5, 4),
         stored_at(model, "model.layers.0.self_attn.qkv_proj.weight", 36 + 6 + 4, 5));
    SAME(parameter_at(model, "blocks.0.mlp.W_in", 2, 9, 3, 0),
         stored_at(model, "model.layers.0.mlp.gate_up_proj.weight", 40 + 3, 9));
    pb_model_unref(model);
    assert_ok(pb_model_open(ctx, test_path(path, "mixtral"), NULL, &model, &err));
    SAME(parameter_at(model, "blocks.0.mlp.experts.3.W_in", 2, 9, 3, 0),
         stored_at(model, "model.layers.0.block_sparse_moe.experts.3.w3.weight", 3, 9));
    assert_ok(pb_model_open(ctx, test_path(path, "gemma2"), NULL, (pb_model_unref(model), &model), &err));
    assert_close((double)parameter_at(model, "blocks.0.ln1_post.w", 1, 9, 0, 0),
                 1.0 + (double)stored_at(model, "model.layers.0.post_attention_layernorm.weight", 9, 0), 1e-6);
    pb_model_unref(model);
}

/* ---- weight processing --------------------------------------------------------------------------------------------------------------- */

static const pb_load_options every_option[] = {
    {.fold_ln = true},
    {.center_writing_weights = true},
    {.center_unembed = true},
    {.fold_value_biases = true},
    {.fold_ln = true, .center_writing_weights = true, .center_unembed = true, .fold_value_biases = true},
};
enum { N_OPTIONS = sizeof every_option / sizeof every_option[0] };

static void drop_warning(void *user, const char *message) {
    (void)message;
    ++*(int *)user;
}

/* Log-probabilities are those of the raw weights, whatever is processed. */
static void check_processed_logits(pb_context *ctx, const char *folder) {
    pb_error err = {0};
    pb_model *raw = NULL;
    char path[4096];
    snprintf(path, sizeof path, "%s", folder);
    assert_ok(pb_model_open(ctx, path, NULL, &raw, &err));
    pb_tensor *logits = logits_of(raw), *wanted = NULL;
    assert_ok(pb_tensor_log_softmax(logits, -1, &wanted, &err));
    pb_tensor_unref(logits);
    for (int i = 0; i < N_OPTIONS; i++) {
        pb_model *model = NULL;
        pb_tensor *got = NULL;
        assert_ok(pb_model_open(ctx, path, &every_option[i], &model, &err));
        logits = logits_of(model);
        assert_ok(pb_tensor_log_softmax(logits, -1, &got, &err));
        assert_tensor_close(got, wanted, 1e-5);
        pb_tensor_unref(got);
        pb_tensor_unref(logits);
        pb_model_unref(model);
    }
    pb_tensor_unref(wanted);
    pb_model_unref(raw);
}

static void process__log_probs_are_unchanged(void **state) {
    int warnings = 0;
    pb_context_on_warning(*state, drop_warning, &warnings);
    static const char *const names[] = {"gpt2",       "gpt2-untied", "files-f16", "llama",
                                        "llama-bias", "llama-rope3", "files-bf16"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        check_processed_logits(*state, test_path(test_data("golden/models"), names[i]));
    assert_true(warnings > 0); /* centring says that it leaves RMS models alone */
    pb_context_on_warning(*state, NULL, NULL);
}

static void process__log_probs_are_unchanged_in_every_family(void **state) {
    int warnings = 0;
    static const char *const names[] = {
        "bloom",     "cohere",  "cohere-qknorm", "falcon",  "falcon-alibi", "falcon-new",
        "gemma",     "gemma2",  "gemma3",        "gpt_neo", "gpt_neox",     "gptj",
        "granite",   "mixtral", "olmo",          "olmo2",   "opt",          "opt-postnorm",
        "phi",       "phi3",    "qwen2",         "qwen3",   "stablelm",     "stablelm-parallel",
        "starcoder2"};
    char folder[4096];
    snprintf(folder, sizeof folder, "%s", test_shared("golden/models"));
    pb_context_on_warning(*state, drop_warning, &warnings);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        check_processed_logits(*state, test_path(folder, names[i]));
    pb_context_on_warning(*state, NULL, NULL);
}

static pb_tensor *value_of(pb_run *run, pb_site_kind kind, int layer) {
    pb_error err = {0};
    pb_tensor *t = NULL;
    assert_ok(pb_run_value(run, (pb_site){kind, layer}, &t, &err));
    return t;
}

static pb_run *run_of(pb_model *model) {
    static const int32_t ids[] = {5, 17, 3, 63, 0, 17, 42};
    pb_error err = {0};
    pb_run *run = NULL;
    assert_ok(pb_run_create(model, ids, sizeof ids / sizeof ids[0], &run, &err));
    return run;
}

/* got is base minus its mean over the last axis */
static void assert_centred(pb_tensor *got, pb_tensor *base) {
    pb_error err = {0};
    pb_tensor *mean = NULL, *centred = NULL;
    assert_ok(pb_tensor_reduce(PB_MEAN, base, -1, true, &mean, &err));
    assert_ok(pb_tensor_binary(PB_SUB, base, mean, &centred, &err));
    assert_tensor_close(got, centred, 1e-5);
    pb_tensor_unref(mean);
    pb_tensor_unref(centred);
    pb_tensor_unref(got);
    pb_tensor_unref(base);
}

static void assert_same_value(pb_run *a, pb_run *b, pb_site_kind kind, int layer) {
    pb_tensor *x = value_of(a, kind, layer), *y = value_of(b, kind, layer);
    assert_tensor_close(x, y, 1e-5);
    pb_tensor_unref(x);
    pb_tensor_unref(y);
}

/* What theory says of every site: centring takes the mean out of the stream and of all that writes to it; norms, queries,
 * keys, patterns and neurons stay. */
static void process__gpt2__sites_are_what_theory_says(void **state) {
    pb_context *ctx = *state;
    pb_model *raw = open_case(ctx, "gpt2", NULL);
    pb_model *folded = open_case(ctx, "gpt2", &(pb_load_options){.fold_ln = true});
    pb_model *centred = open_case(ctx, "gpt2", &(pb_load_options){.center_writing_weights = true});
    pb_run *a = run_of(raw), *b = run_of(folded), *c = run_of(centred);
    static const pb_site_kind kept[] = {PB_SITE_LN1_SCALE, PB_SITE_LN1_NORMALIZED, PB_SITE_Q, PB_SITE_K,
                                        PB_SITE_V,         PB_SITE_PATTERN,        PB_SITE_Z, PB_SITE_MLP_PRE,
                                        PB_SITE_MLP_POST,  PB_SITE_LN2_NORMALIZED};
    static const pb_site_kind stream[] = {PB_SITE_RESID_PRE, PB_SITE_ATTN_OUT, PB_SITE_RESID_MID, PB_SITE_MLP_OUT,
                                          PB_SITE_RESID_POST};
    for (int layer = 0; layer < 2; layer++) {
        for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++) {
            assert_same_value(b, a, kept[i], layer);
            assert_same_value(c, a, kept[i], layer);
        }
        for (size_t i = 0; i < sizeof stream / sizeof stream[0]; i++) {
            assert_same_value(b, a, stream[i], layer);
            assert_centred(value_of(c, stream[i], layer), value_of(a, stream[i], layer));
        }
    }
    assert_centred(value_of(c, PB_SITE_EMBED, -1), value_of(a, PB_SITE_EMBED, -1));
    assert_centred(value_of(c, PB_SITE_POS_EMBED, -1), value_of(a, PB_SITE_POS_EMBED, -1));
    assert_same_value(b, a, PB_SITE_LOGITS, -1);
    pb_run_unref(a);
    pb_run_unref(b);
    pb_run_unref(c);
    pb_model_unref(raw);
    pb_model_unref(folded);
    pb_model_unref(centred);
}

static void process__center_unembed__takes_the_mean_of_the_logits(void **state) {
    pb_context *ctx = *state;
    pb_model *raw = open_case(ctx, "llama", NULL),
             *model = open_case(ctx, "llama", &(pb_load_options){.center_unembed = true});
    pb_run *a = run_of(raw), *b = run_of(model);
    assert_centred(value_of(b, PB_SITE_LOGITS, -1), value_of(a, PB_SITE_LOGITS, -1));
    pb_run_unref(a);
    pb_run_unref(b);
    pb_model_unref(raw);
    pb_model_unref(model);
}

/* z loses b_V, attention's output does not change. llama-bias has as many key/value heads as heads; qwen2 is grouped. */
static void check_value_biases(pb_context *ctx, const char *folder) {
    pb_error err = {0};
    pb_model *raw = NULL, *model = NULL;
    pb_tensor *bias = NULL, *rest = NULL;
    char path[4096];
    snprintf(path, sizeof path, "%s", folder);
    assert_ok(pb_model_open(ctx, path, NULL, &raw, &err));
    assert_ok(pb_model_open(ctx, path, &(pb_load_options){.fold_value_biases = true}, &model, &err));
    pb_run *a = run_of(raw), *b = run_of(model);
    assert_same_value(b, a, PB_SITE_ATTN_OUT, 0);
    assert_same_value(b, a, PB_SITE_LOGITS, -1);
    pb_tensor *v = value_of(a, PB_SITE_V, 0), *v_folded = value_of(b, PB_SITE_V, 0);
    assert_ok(pb_model_parameter(raw, "blocks.0.attn.b_V", &bias, &err));
    assert_ok(pb_tensor_binary(PB_SUB, v, bias, &rest, &err));
    assert_tensor_close(v_folded, rest, 1e-5);
    pb_tensor_unref(bias);
    pb_tensor_unref(rest);
    assert_ok(pb_model_parameter(model, "blocks.0.attn.b_V", &bias, &err));
    for (int64_t i = 0; i < pb_tensor_count(bias); i++)
        assert_true(pb_tensor_floats(bias)[i] == 0.0f);
    pb_tensor_unref(bias);
    pb_tensor_unref(v);
    pb_tensor_unref(v_folded);
    pb_run_unref(a);
    pb_run_unref(b);
    pb_model_unref(raw);
    pb_model_unref(model);
}

static void process__fold_value_biases__moves_them_to_the_output(void **state) {
    check_value_biases(*state, test_data("golden/models/gpt2"));
    check_value_biases(*state, test_data("golden/models/llama-bias"));
}

static void process__fold_value_biases__of_grouped_heads(void **state) {
    check_value_biases(*state, test_shared("golden/models/qwen2"));
}

/* After folding, norms have no parameters and maps no mean that a centred input would read. */
static void process__fold_ln__leaves_plain_norms(void **state) {
    pb_model *model = open_case(*state, "gpt2", &(pb_load_options){.fold_ln = true});
    const pb_spec *spec = pb_model_spec(model);
    pb_error err = {0};
    pb_tensor *w = NULL, *mean = NULL;
    assert_null(spec->layer[0].ln1.weight);
    assert_null(spec->layer[1].ln2.bias);
    assert_null(spec->ln_final.weight);
    assert_ptr_not_equal(spec->unembed.data, spec->embed.data);
    assert_ok(pb_model_parameter(model, "blocks.1.attn.W_Q", &w, &err));
    assert_ok(pb_tensor_reduce(PB_MEAN, w, 1, false, &mean, &err));
    for (int64_t i = 0; i < pb_tensor_count(mean); i++)
        assert_close((double)pb_tensor_floats(mean)[i], 0.0, 1e-6);
    pb_tensor_unref(w);
    pb_tensor_unref(mean);
    pb_model_unref(model);
}

/* ---- memory ------------------------------------------------------------------------------------------------------------------------------ */

typedef struct opening {
    char path[4096];
    pb_load_options options;
} opening;

static pb_status open_and_close(pb_context *ctx, void *user, pb_error *err) {
    const opening *o = user;
    pb_model *model = NULL;
    pb_status status = pb_model_open(ctx, o->path, &o->options, &model, err);
    pb_model_unref(model);
    return status;
}

static void model_open__every_allocation_failing_once__leaks_nothing(void **state) {
    static const char *const names[] = {"gpt2", "llama", "files-sharded", "llama-yarn"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        opening o = {0};
        snprintf(o.path, sizeof o.path, "%s", test_path(test_data("golden/models"), names[i]));
        assert_true(assert_survives_allocation_failure(*state, open_and_close, &o) > 20);
        if (i > 1)
            continue;
        o.options = every_option[N_OPTIONS - 1];
        assert_true(assert_survives_allocation_failure(*state, open_and_close, &o) > 30);
    }
}

static void model_open__every_allocation_failing_once__shared_families(void **state) {
    static const char *const names[] = {"gemma3",       "mixtral",           "gptj",
                                        "falcon-alibi", "stablelm-parallel", "phi3-longrope"};
    char folder[4096];
    snprintf(folder, sizeof folder, "%s", test_shared("golden/models"));
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        opening o = {0};
        snprintf(o.path, sizeof o.path, "%s", test_path(folder, names[i]));
        assert_true(assert_survives_allocation_failure(*state, open_and_close, &o) > 20);
    }
}

static pb_status read_parameters(pb_context *ctx, void *user, pb_error *err) {
    static const char *const names[] = {"embed.W_E",         "blocks.0.attn.W_Q", "blocks.1.attn.W_O",
                                        "blocks.0.mlp.W_in", "blocks.0.attn.b_K", "ln_final.w",
                                        "unembed.W_U"};
    (void)ctx;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        pb_tensor *t = NULL;
        PB_TRY(pb_model_parameter(user, names[i], &t, err));
        pb_tensor_unref(t);
    }
    return PB_OK;
}

static void model_parameter__every_allocation_failing_once__leaks_nothing(void **state) {
    pb_model *model = open_case(*state, "gpt2", NULL);
    assert_true(assert_survives_allocation_failure(*state, read_parameters, model) > 10);
    pb_model_unref(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH_CONTEXT(model_open__gpt2__says_its_sizes),
        WITH_CONTEXT(model_open__trailing_slash__does_not_hide_the_name),
        WITH_CONTEXT(model_open__matrices__are_not_copied),
        WITH_CONTEXT(model_open__facts__has_a_tokenizer),
        WITH_CONTEXT(model_refs__share_one_model),
        WITH_CONTEXT(model_hash__is_of_config_and_weights),
        WITH_CONTEXT(model_open__no_such_folder__says_where_it_looked),
        WITH_CONTEXT(model_open__missing_parts__are_named),
        WITH_CONTEXT(model_open__unknown_architecture__lists_the_known),
        WITH_CONTEXT(model_open__absurd_sizes__name_the_key),
        WITH_CONTEXT(rotary__dynamic__is_another_base_for_each_length),
        WITH_CONTEXT(model_open__multimodal_gemma3__is_its_text_model),
        WITH_CONTEXT(model_open__what_it_cannot_do__is_refused_by_name),
        WITH_CONTEXT(model_open__config_against_weights__names_tensor_and_both_shapes),
        WITH_CONTEXT(model_open__truncated_weights__are_refused),
        WITH_CONTEXT(model_open__lying_index__is_refused),
        WITH_CONTEXT(model_open__same_tensor_in_two_shards__is_refused),
        WITH_CONTEXT(model_open__misaligned_and_wide_weights__give_the_same_numbers),
        WITH_CONTEXT(model_open__tied_but_different__uses_the_file_and_warns),
        WITH_CONTEXT(model_weight__by_name_and_shape),
        WITH_CONTEXT(model_parameter__gpt2__is_the_stored_weight_rearranged),
        WITH_CONTEXT(model_parameter__llama__is_the_stored_weight_rearranged),
        WITH_CONTEXT(model_parameter__unknown_or_absent__says_so),
        WITH_CONTEXT(model_parameter__grouped_projections__are_taken_apart),
        WITH_CONTEXT(process__log_probs_are_unchanged),
        WITH_CONTEXT(process__log_probs_are_unchanged_in_every_family),
        WITH_CONTEXT(process__gpt2__sites_are_what_theory_says),
        WITH_CONTEXT(process__center_unembed__takes_the_mean_of_the_logits),
        WITH_CONTEXT(process__fold_value_biases__moves_them_to_the_output),
        WITH_CONTEXT(process__fold_value_biases__of_grouped_heads),
        WITH_CONTEXT(process__fold_ln__leaves_plain_norms),
        WITH_CONTEXT(model_open__every_allocation_failing_once__leaks_nothing),
        WITH_CONTEXT(model_open__every_allocation_failing_once__shared_families),
        WITH_CONTEXT(model_parameter__every_allocation_failing_once__leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
