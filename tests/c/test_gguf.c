/* Models in GGUF files: the same numbers as in the folder they were made of, to the bit; the tokenizer in them; and what is
 * refused. The files are made here, by what llama.cpp's converter does to a folder. */
#include "support/support.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gguf_writer.h"
#include "tensor/gguf.h"
#include "tokenizers.h"

/* ---- from a folder to GGUF ---------------------------------------------------------------------------------------------- */

typedef struct rename_rule {
    const char *from, *to; /* "#" stands for the layer's number */
} rename_rule;

static const rename_rule llama_names[] = {
    {"model.embed_tokens", "token_embd"},
    {"model.norm", "output_norm"},
    {"lm_head", "output"},
    {"model.layers.#.input_layernorm", "blk.#.attn_norm"},
    {"model.layers.#.post_attention_layernorm", "blk.#.ffn_norm"},
    {"model.layers.#.self_attn.q_proj", "blk.#.attn_q"},
    {"model.layers.#.self_attn.k_proj", "blk.#.attn_k"},
    {"model.layers.#.self_attn.v_proj", "blk.#.attn_v"},
    {"model.layers.#.self_attn.o_proj", "blk.#.attn_output"},
    {"model.layers.#.self_attn.q_norm", "blk.#.attn_q_norm"},
    {"model.layers.#.self_attn.k_norm", "blk.#.attn_k_norm"},
    {"model.layers.#.mlp.gate_proj", "blk.#.ffn_gate"},
    {"model.layers.#.mlp.up_proj", "blk.#.ffn_up"},
    {"model.layers.#.mlp.down_proj", "blk.#.ffn_down"},
    {NULL, NULL},
};
static const rename_rule gpt2_names[] = {
    {"transformer.wte", "token_embd"},
    {"transformer.wpe", "position_embd"},
    {"transformer.ln_f", "output_norm"},
    {"lm_head", "output"},
    {"transformer.h.#.ln_1", "blk.#.attn_norm"},
    {"transformer.h.#.ln_2", "blk.#.ffn_norm"},
    {"transformer.h.#.attn.c_attn", "blk.#.attn_qkv"},
    {"transformer.h.#.attn.c_proj", "blk.#.attn_output"},
    {"transformer.h.#.mlp.c_fc", "blk.#.ffn_up"},
    {"transformer.h.#.mlp.c_proj", "blk.#.ffn_down"},
    {NULL, NULL},
};
static const rename_rule neox_names[] = {
    {"gpt_neox.embed_in", "token_embd"},
    {"gpt_neox.final_layer_norm", "output_norm"},
    {"embed_out", "output"},
    {"gpt_neox.layers.#.input_layernorm", "blk.#.attn_norm"},
    {"gpt_neox.layers.#.post_attention_layernorm", "blk.#.ffn_norm"},
    {"gpt_neox.layers.#.attention.query_key_value", "blk.#.attn_qkv"},
    {"gpt_neox.layers.#.attention.dense", "blk.#.attn_output"},
    {"gpt_neox.layers.#.mlp.dense_h_to_4h", "blk.#.ffn_up"},
    {"gpt_neox.layers.#.mlp.dense_4h_to_h", "blk.#.ffn_down"},
    {NULL, NULL},
};

typedef struct recipe {
    const char *arch;
    const rename_rule *names;
    bool interleave, turn, plus_one, ungroup;
    const char *eps; /* its key in config.json */
} recipe;

static const recipe llama = {"llama", llama_names, true, false, false, false, "rms_norm_eps"};
static const recipe qwen3 = {"qwen3", llama_names, false, false, false, false, "rms_norm_eps"};
static const recipe gemma = {"gemma", llama_names, false, false, true, false, "rms_norm_eps"};
static const recipe gpt2 = {"gpt2", gpt2_names, false, true, false, false, "layer_norm_epsilon"};
static const recipe gptneox = {"gptneox", neox_names, false, false, false, true, "layer_norm_eps"};

/* "model.layers.3.mlp.up_proj.bias" by the rules -> "blk.3.ffn_up.bias". */
static void rename_weight(const rename_rule *rules, const char *name, char *out, size_t size) {
    for (; rules->from; rules++) {
        const char *mark = strchr(rules->from, '#'), *rest = name;
        size_t head = mark ? (size_t)(mark - rules->from) : strlen(rules->from);
        long layer = -1;
        if (strncmp(name, rules->from, head) != 0)
            continue;
        rest += head;
        if (mark) {
            char *end;
            layer = strtol(rest, &end, 10);
            size_t tail = strlen(mark + 1);
            if (end == rest || strncmp(end, mark + 1, tail) != 0)
                continue;
            rest = end + tail;
        }
        if (*rest != '.' || strchr(rest + 1, '.'))
            continue;
        const char *there = strchr(rules->to, '#');
        if (there)
            snprintf(out, size, "%.*s%ld%s%s", (int)(there - rules->to), rules->to, layer, there + 1, rest);
        else
            snprintf(out, size, "%s%s", rules->to, rest);
        return;
    }
    print_error("no rule for '%s'\n", name);
    fail();
}

/* Row r of what the converter writes, as a row of the folder's tensor. */
static int64_t row_of(const recipe *how, const pb_model *model, const char *name, int64_t r) {
    int64_t d = pb_model_d_head(model), heads = pb_model_heads(model);
    if (how->interleave && (strstr(name, "attn_q.") || strstr(name, "attn_k.")))
        return r / d * d + (r % 2 == 0 ? r % d / 2 : d / 2 + r % d / 2);
    if (how->ungroup && strstr(name, "attn_qkv.")) {
        int64_t which = r / (heads * d), head = r % (heads * d) / d; /* as many heads of k and v as of q */
        return (head * 3 + which) * d + r % d;
    }
    return r;
}

/* What the reader has to make of a stored number, put back where the folder has it. */
static void write_weight(gguf_writer *w, const recipe *how, const pb_model *model, const char *folder_name,
                         pb_tensor *t, uint32_t type) {
    char name[128];
    rename_weight(how->names, folder_name, name, sizeof name);
    int ndim = pb_tensor_ndim(t);
    int64_t rows = pb_tensor_shape(t)[0], columns = ndim == 2 ? pb_tensor_shape(t)[1] : 1;
    bool turn = how->turn && ndim == 2 && strstr(name, "blk."), norm = strstr(name, "norm") != NULL;
    float *values = pb_tensor_floats(t), *moved = malloc((size_t)(rows * columns) * sizeof *moved), *stored;
    stored = malloc((size_t)(rows * columns) * sizeof *stored);
    assert_true(moved && stored);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++) {
            float value = values[row_of(how, model, name, r) * columns + c] + (how->plus_one && norm ? 1.0f : 0.0f);
            moved[turn ? c * rows + r : r * columns + c] = value;
        }
    int64_t shape[2] = {turn ? columns : rows, turn ? rows : columns};
    gguf_tensor(w, name, ndim == 1 ? GGUF_F32 : type, ndim, shape, moved, stored);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++) {
            float value = stored[turn ? c * rows + r : r * columns + c];
            values[row_of(how, model, name, r) * columns + c] = how->plus_one && norm ? value - 1.0f : value;
        }
    free(moved);
    free(stored);
}

static void key(gguf_writer *w, const char *arch, const char *name, char *out, size_t size) {
    (void)w;
    snprintf(out, size, "%s.%s", arch, name);
}

static void size_pair(gguf_writer *w, const char *arch, const char *name, int value) {
    char text[96];
    key(w, arch, name, text, sizeof text);
    gguf_u32(w, text, (uint32_t)value);
}

static void write_metadata(gguf_writer *w, const recipe *how, const pb_model *model) {
    json_t *config = json_loads(pb_model_config(model), 0, NULL);
    double eps = json_number_value(json_object_get(config, how->eps));
    json_t *rope = json_object_get(config, "rope_parameters");
    double theta = json_number_value(json_object_get(rope ? rope : config, "rope_theta"));
    double part = json_number_value(json_object_get(rope, "partial_rotary_factor"));
    char text[96];
    gguf_text(w, "general.architecture", how->arch);
    size_pair(w, how->arch, "block_count", pb_model_layers(model));
    size_pair(w, how->arch, "embedding_length", pb_model_d_model(model));
    size_pair(w, how->arch, "feed_forward_length", pb_model_d_mlp(model));
    size_pair(w, how->arch, "context_length", pb_model_max_positions(model));
    size_pair(w, how->arch, "attention.head_count", pb_model_heads(model));
    size_pair(w, how->arch, "attention.head_count_kv", pb_model_kv_heads(model));
    size_pair(w, how->arch, "attention.key_length", pb_model_d_head(model));
    key(w, how->arch,
        strncmp(how->eps, "rms", 3) == 0 ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon", text,
        sizeof text);
    gguf_f32(w, text, (float)eps);
    if (theta > 0.0) {
        key(w, how->arch, "rope.freq_base", text, sizeof text);
        gguf_f32(w, text, (float)theta);
    }
    if (part > 0.0)
        size_pair(w, how->arch, "rope.dimension_count", (int)(part * pb_model_d_head(model)));
    json_decref(config);
}

/* The file, and a model in memory that has exactly the numbers which the file holds. */
static pb_model *convert(const recipe *how, pb_model *model, uint32_t type, gguf_writer *w) {
    pb_error err = {0};
    size_t n = pb_model_weight_count(model);
    pb_named_tensor *all = calloc(n, sizeof *all);
    assert_non_null(all);
    write_metadata(w, how, model);
    for (size_t i = 0; i < n; i++) {
        pb_tensor *t = NULL;
        all[i].name = pb_model_weight_name(model, i);
        assert_ok(pb_model_weight(model, all[i].name, &t, &err));
        write_weight(w, how, model, all[i].name, t, type);
        all[i].tensor = t;
    }
    pb_model *rounded = NULL;
    assert_ok(pb_model_with_weights(model, all, n, &rounded, &err));
    for (size_t i = 0; i < n; i++)
        pb_tensor_unref((pb_tensor *)(uintptr_t)all[i].tensor);
    free(all);
    return rounded;
}

/* ---- comparing ---------------------------------------------------------------------------------------------------------- */

static pb_model *open_model(pb_context *ctx, const char *path) {
    pb_error err = {0};
    pb_model *model = NULL;
    assert_ok(pb_model_open(ctx, path, NULL, &model, &err));
    return model;
}

static pb_tensor *logits_of(pb_model *model) {
    pb_error err = {0};
    int32_t ids[9];
    pb_run *run = NULL;
    pb_tensor *logits = NULL;
    test_tokens(pb_model_vocab(model), 5, ids, 9);
    assert_ok(pb_run_create(model, ids, 9, &run, &err));
    assert_ok(pb_run_value(run, (pb_site){.kind = PB_SITE_LOGITS, .layer = -1}, &logits, &err));
    pb_run_unref(run);
    return logits;
}

static void assert_same_model(pb_model *got, pb_model *wanted) {
    pb_error err = {0};
    assert_string_equal(pb_model_family(got), pb_model_family(wanted));
    assert_int_equal(pb_model_parameters(got), pb_model_parameters(wanted));
    assert_int_equal(pb_model_weight_count(got), pb_model_weight_count(wanted));
    for (size_t i = 0; i < pb_model_weight_count(wanted); i++) {
        pb_tensor *a = NULL, *b = NULL;
        assert_string_equal(pb_model_weight_name(got, i), pb_model_weight_name(wanted, i));
        assert_ok(pb_model_weight(got, pb_model_weight_name(got, i), &a, &err));
        assert_ok(pb_model_weight(wanted, pb_model_weight_name(got, i), &b, &err));
        assert_tensor_equal(a, b);
        pb_tensor_unref(a);
        pb_tensor_unref(b);
    }
    pb_tensor *x = logits_of(got), *y = logits_of(wanted);
    assert_tensor_equal(x, y);
    pb_tensor_unref(x);
    pb_tensor_unref(y);
}

/* Converted, opened and compared; model is released. */
static void check(const recipe *how, pb_model *model, uint32_t type, const char *dtypes) {
    char *folder = test_folder(), text[96];
    gguf_writer w = {0};
    pb_model *wanted = convert(how, model, type, &w);
    gguf_save(&w, test_path(folder, "some.model.gguf"));
    pb_model *got = open_model(pb_model_context(model), test_path(folder, "some.model.gguf"));
    assert_same_model(got, wanted);
    assert_string_equal(pb_model_name(got), "some.model");
    assert_string_equal(pb_model_storage(got, text, sizeof text), "GGUF (1 file)");
    assert_string_equal(pb_model_dtypes(got, text, sizeof text), dtypes);
    pb_model *again = open_model(pb_model_context(model), folder); /* the folder that holds one */
    assert_string_equal(pb_model_folder(again), folder);
    pb_model_unref(again);
    pb_model_unref(got);
    pb_model_unref(wanted);
    pb_model_unref(model);
    test_folder_remove(folder);
}

static void gguf__float32__is_the_folder_to_the_bit(void **state) {
    check(&gpt2, open_model(*state, test_data("golden/models/gpt2")), GGUF_F32, "F32");
    check(&llama, open_model(*state, test_data("golden/models/llama")), GGUF_F32, "F32");
    check(&llama, open_model(*state, test_data("golden/models/llama-bias")), GGUF_F32, "F32");
}

static void gguf__other_families__are_the_folder_to_the_bit(void **state) {
    check(&gemma, open_model(*state, test_shared("golden/models/gemma")), GGUF_F32, "F32");
    check(&qwen3, open_model(*state, test_shared("golden/models/qwen3")), GGUF_F32, "F32");
    check(&gptneox, open_model(*state, test_shared("golden/models/gpt_neox")), GGUF_F32, "F32");
}

static void gguf__half_types__are_their_own_numbers(void **state) {
    check(&gpt2, open_model(*state, test_data("golden/models/gpt2")), GGUF_F16, "F16 and F32");
    check(&gpt2, open_model(*state, test_data("golden/models/gpt2")), GGUF_BF16, "BF16 and F32");
    check(&llama, open_model(*state, test_data("golden/models/llama")), GGUF_F16, "F16 and F32");
    check(&llama, open_model(*state, test_data("golden/models/llama")), GGUF_BF16, "BF16 and F32");
}

static void gguf__q8_0__is_widened_exactly(void **state) {
    model_shape shapes[2] = {test_shape_llama(3), test_shape_gpt2(4)};
    for (int i = 0; i < 2; i++) {
        shapes[i].d_model = 64;
        shapes[i].d_mlp = 96;
        shapes[i].d_head = i == 0 ? 32 : 0;
        check(i == 0 ? &llama : &gpt2, test_model(*state, &shapes[i]), GGUF_Q8_0, "F32");
    }
}

/* Where a layout had to be undone there is a copy in memory, which streaming refuses. */
static void gguf__streamed_with_copies__is_refused(void **state) {
    pb_error err = {0};
    char *folder = test_folder();
    const pb_load_options streamed = {.stream = true};
    pb_model *got = NULL, *model = open_model(*state, test_data("golden/models/llama"));
    gguf_writer w = {0};
    pb_model_unref(convert(&llama, model, GGUF_F32, &w));
    pb_model_unref(model);
    gguf_save(&w, test_path(folder, "m.gguf"));
    assert_error(pb_model_open(*state, folder, &streamed, &got, &err), PB_ERR_UNSUPPORTED, "cannot be streamed");
    test_folder_remove(folder);
}

/* Layer by layer from the file. */
static void gguf__streamed__is_the_folder_to_the_bit(void **state) {
    pb_error err = {0};
    const char *golden = test_shared("golden/models/qwen3");
    char *folder = test_folder();
    const pb_load_options streamed = {.stream = true};
    pb_model *got = NULL, *model = open_model(*state, golden);
    gguf_writer w = {0};
    pb_model_unref(convert(&qwen3, model, GGUF_F32, &w));
    gguf_save(&w, test_path(folder, "m.gguf"));
    assert_ok(pb_model_open(*state, folder, &streamed, &got, &err));
    assert_true(pb_model_streamed(got));
    assert_same_model(got, model);
    pb_model_unref(got);
    pb_model_unref(model);
    test_folder_remove(folder);
}

/* Rounding to eight bits is small, and there: the logits are near the folder's and not the same. */
static void gguf__q8_0__is_near_the_folder(void **state) {
    model_shape shape = test_shape_llama(7);
    shape.d_model = shape.d_mlp = 64;
    shape.d_head = 32;
    pb_model *model = test_model(*state, &shape);
    gguf_writer w = {0};
    char *folder = test_folder();
    pb_model_unref(convert(&llama, model, GGUF_Q8_0, &w));
    gguf_save(&w, test_path(folder, "m.gguf"));
    pb_model *got = open_model(*state, folder);
    pb_tensor *x = logits_of(got), *y = logits_of(model);
    assert_tensor_close(x, y, 0.05);
    assert_true(memcmp(pb_tensor_floats(x), pb_tensor_floats(y), (size_t)pb_tensor_count(x) * sizeof(float)) != 0);
    pb_tensor_unref(x);
    pb_tensor_unref(y);
    pb_model_unref(got);
    pb_model_unref(model);
    test_folder_remove(folder);
}

/* Frequencies divided one by one: Llama 3's scaling as the converter writes it. */
static void gguf__rope_freqs__are_llama3s_scaling(void **state) {
    pb_model *model = open_model(*state, test_data("golden/models/llama-rope3"));
    gguf_writer w = {0};
    char *folder = test_folder();
    pb_model *wanted = convert(&llama, model, GGUF_F32, &w);
    float factors[4];
    for (int i = 0; i < 4; i++) { /* theta 10000, 8 dimensions, factor 8, low 1, high 4, original length 16 */
        double wave = 2.0 * 3.14159265358979323846 * (i == 0 ? 1.0 : i == 1 ? 10.0 : i == 2 ? 100.0 : 1000.0);
        double smooth = (16.0 / wave - 1.0) / 3.0;
        factors[i] = (float)(wave < 4.0 ? 1.0 : wave > 16.0 ? 8.0 : 1.0 / ((1.0 - smooth) / 8.0 + smooth));
    }
    gguf_tensor(&w, "rope_freqs.weight", GGUF_F32, 1, (int64_t[]){4}, factors, NULL);
    gguf_save(&w, test_path(folder, "m.gguf"));
    pb_model *got = open_model(*state, folder);
    pb_tensor *x = logits_of(got), *y = logits_of(wanted);
    assert_tensor_close(x, y, 1e-6);
    pb_tensor_unref(x);
    pb_tensor_unref(y);
    pb_model_unref(got);
    pb_model_unref(wanted);
    pb_model_unref(model);
    test_folder_remove(folder);
}

static void gguf__export__is_a_folder_with_the_same_logits(void **state) {
    pb_error err = {0};
    pb_model *model = open_model(*state, test_data("golden/models/gpt2"));
    gguf_writer w = {0};
    char *folder = test_folder(), *exported = test_folder();
    pb_model_unref(convert(&gpt2, model, GGUF_F32, &w));
    gguf_save(&w, test_path(folder, "m.gguf"));
    pb_model *got = open_model(*state, folder);
    assert_ok(pb_model_export(got, exported, PB_STORED_OTHER, &err));
    pb_model *back = open_model(*state, exported);
    assert_same_model(back, model);
    char hash[65];
    assert_ok(pb_model_hash(got, hash, &err));
    pb_model_unref(back);
    pb_model_unref(got);
    pb_model_unref(model);
    test_folder_remove(folder);
    test_folder_remove(exported);
}

/* ---- where files are ------------------------------------------------------------------------------------------------------ */

static void model_open__several_files__asks_for_one(void **state) {
    pb_error err = {0};
    pb_model *model = open_model(*state, test_data("golden/models/gpt2")), *none = NULL;
    gguf_writer w = {0};
    char *folder = test_folder();
    assert_false(pb_model_is_at(folder));
    pb_model_unref(convert(&gpt2, model, GGUF_F32, &w));
    gguf_bytes file = gguf_finish(&w);
    gguf_write(test_path(folder, "a.gguf"), file.data, file.size);
    gguf_write(test_path(folder, "b.gguf"), file.data, file.size);
    free(file.data);
    assert_error(pb_model_open(*state, folder, NULL, &none, &err), PB_ERR_ARGUMENT, "give the path of one");
    assert_true(pb_model_is_at(folder));
    assert_true(pb_model_is_at(test_path(folder, "a.gguf")));
    assert_false(pb_model_is_at(test_path(folder, "c.gguf")));
    pb_model *b = open_model(*state, test_path(folder, "b.gguf"));
    assert_same_model(b, model);
    pb_model_unref(b);
    /* safetensors beside them count first */
    assert_ok(pb_model_export(model, folder, PB_STORED_OTHER, &err));
    char text[96];
    pb_model *own = open_model(*state, folder);
    assert_string_equal(pb_model_storage(own, text, sizeof text), "safetensors (1 file)");
    pb_model_unref(own);
    pb_model_unref(model);
    test_folder_remove(folder);
}

/* ---- tokenizers ----------------------------------------------------------------------------------------------------------- */

/* A golden tokenizer.json's parts as the converter writes them. scores: SentencePiece's, made so that their order is that of the
 * merges. */
static void write_tokenizer(gguf_writer *w, const char *folder, const char *pre, bool pieces) {
    json_t *root = json_load_file(test_path(folder, "tokenizer.json"), 0, NULL);
    assert_non_null(root);
    json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab"),
           *merges = json_object_get(model, "merges"), *added = json_object_get(root, "added_tokens"), *item, *value;
    size_t n = 0, i;
    const char *token, **tokens = calloc(1 << 16, sizeof *tokens);
    int *types = calloc(1 << 16, sizeof *types);
    float *scores = calloc(1 << 16, sizeof *scores);
    assert_true(tokens && types && scores);
    json_object_foreach(vocab, token, value) {
        size_t id = (size_t)json_integer_value(value);
        assert_true(id < 1 << 16);
        tokens[id] = token;
        types[id] = pieces && token[0] == '<' && token[1] == '0' ? 6 : 1;
        scores[id] = -1e6f;
        n = id >= n ? id + 1 : n;
    }
    json_array_foreach(added, i, item) {
        size_t id = (size_t)json_integer_value(json_object_get(item, "id"));
        tokens[id] = json_string_value(json_object_get(item, "content"));
        types[id] = json_is_true(json_object_get(item, "special")) ? 3 : 4;
        n = id >= n ? id + 1 : n;
    }
    gguf_text(w, "tokenizer.ggml.model", pieces ? "llama" : "gpt2");
    if (pre)
        gguf_text(w, "tokenizer.ggml.pre", pre);
    if (!pieces)
        gguf_list(w, "tokenizer.ggml.merges", 8, json_array_size(merges));
    json_array_foreach(merges, i, item) {
        char joined[512];
        if (json_is_string(item))
            snprintf(joined, sizeof joined, "%s", json_string_value(item));
        else
            snprintf(joined, sizeof joined, "%s %s", json_string_value(json_array_get(item, 0)),
                     json_string_value(json_array_get(item, 1)));
        if (!pieces) {
            gguf_add_text(&w->pairs, joined);
            continue;
        }
        char *space = strchr(joined, ' ');
        memmove(space, space + 1, strlen(space));
        json_t *id = json_object_get(vocab, joined);
        if (scores[json_integer_value(id)] < -1e5f)
            scores[json_integer_value(id)] = -(float)i;
    }
    gguf_list(w, "tokenizer.ggml.tokens", 8, n);
    for (i = 0; i < n; i++)
        gguf_add_text(&w->pairs, tokens[i] ? tokens[i] : "");
    gguf_list(w, "tokenizer.ggml.token_type", 5, n);
    for (i = 0; i < n; i++)
        gguf_add_number(&w->pairs, (uint64_t)types[i], 4);
    if (pieces) {
        gguf_list(w, "tokenizer.ggml.scores", 6, n);
        gguf_add(&w->pairs, scores, n * sizeof *scores);
    }
    free(tokens);
    free(types);
    free(scores);
    json_decref(root);
}

/* A model of a few numbers with this vocabulary size; the tokenizer is what matters. */
static void begin_small(gguf_writer *w) {
    model_shape shape = test_shape_gpt2(1);
    pb_context *ctx = test_context();
    pb_model *model = test_model(ctx, &shape);
    pb_model_unref(convert(&gpt2, model, GGUF_F32, w));
    pb_model_unref(model);
    pb_context_unref(ctx);
}

/* All golden cases of a tokenizer, by way of GGUF. */
static void check_tokenizer(pb_context *ctx, const char *golden, const char *pre, bool pieces, const char *bos,
                            bool prefix) {
    char *folder = test_folder(), *line = NULL, *real = realpath(golden, NULL);
    size_t capacity = 0;
    int compared = 0;
    pb_error err = {0};
    gguf_writer w = {0};
    begin_small(&w);
    write_tokenizer(&w, real, pre, pieces);
    pb_tokenizer *wanted = test_tokenizer(ctx, real);
    if (bos) {
        gguf_u32(&w, "tokenizer.ggml.bos_token_id", (uint32_t)pb_tokenizer_find(wanted, bos));
        gguf_bool(&w, "tokenizer.ggml.add_bos_token", true);
    }
    if (pieces)
        gguf_u32(&w, "tokenizer.ggml.unknown_token_id", (uint32_t)pb_tokenizer_find(wanted, "<unk>"));
    if (!prefix)
        gguf_bool(&w, "tokenizer.ggml.add_space_prefix", false);
    gguf_save(&w, test_path(folder, "m.gguf"));
    pb_model *model = open_model(ctx, folder);
    const pb_tokenizer *t = pb_model_tokenizer(model);
    assert_non_null(t);
    assert_int_equal(pb_tokenizer_size(t), pb_tokenizer_size(wanted));
    if (bos) {
        assert_int_equal(pb_tokenizer_bos(t), pb_tokenizer_find(wanted, bos));
        assert_true(pb_tokenizer_adds_special(t));
        /* exported as files, it is the same */
        char *exported = test_folder();
        assert_ok(pb_model_export(model, exported, PB_STORED_OTHER, &err));
        pb_tokenizer *back = test_tokenizer(ctx, exported);
        assert_int_equal(pb_tokenizer_bos(back), pb_tokenizer_bos(t));
        assert_int_equal(pb_tokenizer_eos(back), pb_tokenizer_eos(t));
        assert_int_equal(pb_tokenizer_size(back), pb_tokenizer_size(t));
        pb_tokenizer_unref(back);
        test_folder_remove(exported);
    }
    FILE *cases = test_open_lines(test_path(real, "cases.jsonl"));
    for (json_t *c; (c = test_next_line(cases, &line, &capacity)); json_decref(c), compared++) {
        const json_t *text = json_object_get(c, "text");
        int32_t *a = NULL, *b = NULL;
        size_t n = 0, m = 0, bytes = 0, other = 0;
        char *x = NULL, *y = NULL;
        if (strstr(json_string_value(text), "<pad>"))
            continue; /* looked for in the normalised text by the golden file, a flag that GGUF does not have */
        assert_ok(pb_tokenizer_encode(t, json_string_value(text), json_string_length(text), PB_SPECIAL_DEFAULT, &a, &n,
                                      &err));
        assert_ok(pb_tokenizer_encode(wanted, json_string_value(text), json_string_length(text), PB_SPECIAL_DEFAULT, &b,
                                      &m, &err));
        if (n != m || memcmp(a, b, n * sizeof *a) != 0)
            print_error("%s: '%s' is cut differently\n", golden, json_string_value(text));
        assert_true(n == m && memcmp(a, b, n * sizeof *a) == 0);
        assert_ok(pb_tokenizer_decode(t, a, n, false, &x, &bytes, &err));
        assert_ok(pb_tokenizer_decode(wanted, b, m, false, &y, &other, &err));
        bool same = bytes == other && memcmp(x, y, bytes) == 0;
        if (!same)
            print_error("%s: '%s' is read back as '%s', not '%s'\n", golden, json_string_value(text), x, y);
        assert_true(same);
        pb_free(a);
        pb_free(b);
        pb_free(x);
        pb_free(y);
    }
    assert_true(compared > 20);
    fclose(cases);
    free(line);
    free(real);
    pb_tokenizer_unref(wanted);
    pb_model_unref(model);
    test_folder_remove(folder);
}

static void tokenizer__byte_level__is_the_golden_one(void **state) {
    check_tokenizer(*state, test_data("golden/tokenizers/01_gpt2"), "gpt-2", false, NULL, true);
}

static void tokenizer__pieces__are_the_golden_ones(void **state) {
    check_tokenizer(*state, test_data("golden/tokenizers/06_llama2"), "default", true, "<s>", true);
}

static void tokenizer__shared__are_the_golden_ones(void **state) {
    check_tokenizer(*state, test_shared("golden/tokenizers/03_llama3"), "llama-bpe", false, "<|begin_of_text|>", true);
    check_tokenizer(*state, test_shared("golden/tokenizers/04_qwen"), "qwen2", false, NULL, true);
    check_tokenizer(*state, test_shared("golden/tokenizers/10_starcoder"), "starcoder", false, NULL, true);
    check_tokenizer(*state, test_shared("golden/tokenizers/08_gemma"), "default", true, "<bos>", false);
}

/* ---- hostile files -------------------------------------------------------------------------------------------------------- */

static pb_status open_bytes(pb_context *ctx, const char *path, const void *data, size_t size, pb_error *err) {
    pb_model *model = NULL;
    gguf_write(path, data, size);
    pb_status status = pb_model_open(ctx, path, NULL, &model, err);
    pb_model_unref(model);
    return status;
}

/* A whole small model with a tokenizer of each kind. */
static gguf_bytes small_file(bool pieces, size_t *header) {
    gguf_writer w = {0};
    begin_small(&w);
    static const char *const tokens[] = {"<unk>", "a", "b", "ab"};
    gguf_text(&w, "tokenizer.ggml.model", pieces ? "llama" : "gpt2");
    gguf_text(&w, "tokenizer.ggml.pre", "gpt-2");
    gguf_list(&w, "tokenizer.ggml.tokens", 8, 4);
    for (int i = 0; i < 4; i++)
        gguf_add_text(&w.pairs, tokens[i]);
    gguf_list(&w, "tokenizer.ggml.scores", 6, 4);
    for (int i = 0; i < 4; i++)
        gguf_add(&w.pairs, &(float){(float)-i}, sizeof(float));
    gguf_list(&w, "tokenizer.ggml.merges", 8, 1);
    gguf_add_text(&w.pairs, "a b");
    gguf_u32(&w, "tokenizer.ggml.unknown_token_id", 0);
    gguf_bytes file = gguf_finish(&w);
    *header = w.header;
    return file;
}

static void open__truncated_anywhere__is_an_error(void **state) {
    char *folder = test_folder(), path[512];
    pb_error err = {0};
    size_t header;
    gguf_bytes file = small_file(false, &header);
    snprintf(path, sizeof path, "%s", test_path(folder, "m.gguf"));
    assert_ok(open_bytes(*state, path, file.data, file.size, &err));
    for (size_t size = 0; size < header + 64; size++)
        assert_error(open_bytes(*state, path, file.data, size, &err), PB_ERR_FORMAT, "m.gguf");
    for (size_t size = header; size < file.size; size += 997)
        assert_error(open_bytes(*state, path, file.data, size, &err), PB_ERR_FORMAT, "m.gguf");
    free(file.data);
    test_folder_remove(folder);
}

/* Whatever a byte of the header becomes: an error, or a model whose numbers another name or size does not touch. */
static void open__any_byte_changed__does_no_harm(void **state) {
    static const unsigned char flips[] = {0x01, 0x80, 0xff};
    char *folder = test_folder(), path[512];
    pb_error err = {0};
    int refused = 0;
    for (int pieces = 0; pieces < 2; pieces++) {
        size_t header;
        gguf_bytes file = small_file(pieces, &header);
        snprintf(path, sizeof path, "%s", test_path(folder, "m.gguf"));
        assert_ok(open_bytes(*state, path, file.data, file.size, &err));
        for (size_t at = 0; at < header; at++) {
            file.data[at] ^= flips[at % 3];
            pb_status status = open_bytes(*state, path, file.data, file.size, &err);
            assert_true(status == PB_OK || err.message[0]);
            refused += status != PB_OK;
            file.data[at] ^= flips[at % 3];
        }
        free(file.data);
    }
    assert_true(refused > 1000);
    test_folder_remove(folder);
}

typedef void (*damage)(gguf_writer *w);

static void one_tensor(gguf_writer *w, const char *name, int ndim, const uint64_t *axes, uint64_t type,
                       uint64_t place) {
    gguf_add_text(&w->tensors, name);
    gguf_add_number(&w->tensors, (uint64_t)ndim, 4);
    for (int i = 0; i < ndim; i++)
        gguf_add_number(&w->tensors, axes[i], 8);
    gguf_add_number(&w->tensors, type, 4);
    gguf_add_number(&w->tensors, place, 8);
    w->n_tensors++;
    while (w->data.size < 256)
        gguf_add_number(&w->data, 0, 1);
}

#define AXES(...)                                                                                                      \
    (int)(sizeof((uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t)), (uint64_t[]) { __VA_ARGS__ }

static void many_tensors(gguf_writer *w) { w->n_tensors = UINT64_MAX; }
static void many_pairs(gguf_writer *w) { w->n_pairs = (uint64_t)1 << 60; }
static void some_tensors(gguf_writer *w) { w->n_tensors = 1000; }
static void old(gguf_writer *w) { w->version = 1; }
static void new (gguf_writer *w) { w->version = 4; }
static void swapped(gguf_writer *w) { w->version = 3u << 24; }
static void long_text(gguf_writer *w) {
    gguf_add_number(&w->pairs, UINT64_MAX - 4, 8);
    w->n_pairs++;
    one_tensor(w, "x", AXES(1), 0, 0);
}
static void long_list(gguf_writer *w) { gguf_list(w, "general.list", 10, (uint64_t)1 << 61); }
static void long_texts(gguf_writer *w) { gguf_list(w, "general.list", 8, (uint64_t)1 << 61); }
static void lists_of_lists(gguf_writer *w) { gguf_list(w, "general.list", 9, 1); }
static void unknown_type(gguf_writer *w) { gguf_list(w, "general.list", 77, 1); }
static void key_twice(gguf_writer *w) {
    gguf_u32(w, "general.x", 1);
    gguf_u32(w, "general.x", 2);
}
static void no_alignment(gguf_writer *w) { gguf_u32(w, "general.alignment", 0); }
static void odd_alignment(gguf_writer *w) { gguf_u32(w, "general.alignment", 24); }
static void text_alignment(gguf_writer *w) { gguf_text(w, "general.alignment", "32"); }
static void name_twice(gguf_writer *w) {
    one_tensor(w, "x", AXES(8), 0, 0);
    one_tensor(w, "x", AXES(8), 0, 32);
}
static void upon_each_other(gguf_writer *w) {
    one_tensor(w, "x", AXES(9), 0, 0);
    one_tensor(w, "y", AXES(8), 0, 32);
}
static void unaligned(gguf_writer *w) { one_tensor(w, "x", AXES(1), 0, 4); }
static void outside(gguf_writer *w) { one_tensor(w, "x", AXES(1), 0, (uint64_t)1 << 40); }
static void almost_inside(gguf_writer *w) { one_tensor(w, "x", AXES(64), 0, 32); }
static void wraps_around(gguf_writer *w) { one_tensor(w, "x", AXES(8), 0, UINT64_MAX - 31); }
static void no_axis(gguf_writer *w) { one_tensor(w, "x", AXES(8, 0), 0, 0); }
static void many_axes(gguf_writer *w) { one_tensor(w, "x", AXES(1, 1, 1, 1, 1, 1, 1, 1, 1), 0, 0); }
static void many_numbers(gguf_writer *w) { one_tensor(w, "x", AXES((uint64_t)1 << 32, (uint64_t)1 << 32), 0, 0); }
static void many_bytes(gguf_writer *w) { one_tensor(w, "x", AXES((uint64_t)1 << 62), 0, 0); }
static void no_name(gguf_writer *w) { one_tensor(w, "", AXES(1), 0, 0); }
static void long_name(gguf_writer *w) {
    char name[400];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    one_tensor(w, name, AXES(1), 0, 0);
}
static void quantised(gguf_writer *w) { one_tensor(w, "blk.0.attn_q.weight", AXES(256), 12, 0); }
static void unheard_of(gguf_writer *w) { one_tensor(w, "x", AXES(256), 1000, 0); }
static void half_a_block(gguf_writer *w) { one_tensor(w, "x", AXES(48, 2), 8, 0); }
static void unknown_architecture(gguf_writer *w) { gguf_text(w, "general.architecture", "mamba"); }
static void no_architecture(gguf_writer *w) { gguf_u32(w, "general.architecture", 3); }
static void a_part(gguf_writer *w) {
    gguf_text(w, "general.architecture", "llama");
    gguf_u32(w, "split.count", 3);
}
static void no_layers(gguf_writer *w) { gguf_text(w, "general.architecture", "llama"); }

static void open__wrong_in_one_thing__says_what(void **state) {
    static const struct {
        damage damage;
        pb_status status;
        const char *text;
    } cases[] = {
        {many_tensors, PB_ERR_FORMAT, "18446744073709551615 tensors are announced"},
        {some_tensors, PB_ERR_FORMAT, "1000 tensors are announced"},
        {many_pairs, PB_ERR_FORMAT, "pairs of metadata are announced"},
        {old, PB_ERR_UNSUPPORTED, "GGUF version 1"},
        {new, PB_ERR_UNSUPPORTED, "GGUF version 4"},
        {swapped, PB_ERR_UNSUPPORTED, "big-endian"},
        {long_text, PB_ERR_FORMAT, "ends within the metadata"},
        {long_list, PB_ERR_FORMAT, "ends within the metadata"},
        {long_texts, PB_ERR_FORMAT, "ends within the metadata"},
        {lists_of_lists, PB_ERR_UNSUPPORTED, "'general.list' is a list of lists"},
        {unknown_type, PB_ERR_FORMAT, "'general.list' has the unknown type 77"},
        {key_twice, PB_ERR_FORMAT, "'general.x' is given twice"},
        {no_alignment, PB_ERR_FORMAT, "general.alignment"},
        {odd_alignment, PB_ERR_FORMAT, "general.alignment"},
        {text_alignment, PB_ERR_FORMAT, "general.alignment"},
        {name_twice, PB_ERR_FORMAT, "tensor 'x' is given twice"},
        {upon_each_other, PB_ERR_FORMAT, "'x' and 'y' lie upon each other"},
        {unaligned, PB_ERR_FORMAT, "not a multiple of the file's alignment"},
        {outside, PB_ERR_FORMAT, "the file has only 256 there"},
        {almost_inside, PB_ERR_FORMAT, "256 bytes from byte 32"},
        {wraps_around, PB_ERR_FORMAT, "the file has only 256 there"},
        {no_axis, PB_ERR_FORMAT, "an axis is empty"},
        {many_axes, PB_ERR_FORMAT, "9 axes"},
        {many_numbers, PB_ERR_FORMAT, "more elements than a file can hold"},
        {many_bytes, PB_ERR_FORMAT, "more bytes than a file can hold"},
        {no_name, PB_ERR_FORMAT, "name of tensor 0"},
        {long_name, PB_ERR_FORMAT, "name of tensor 0"},
        {quantised, PB_ERR_UNSUPPORTED, "'blk.0.attn_q.weight' is quantised as Q4_K"},
        {unheard_of, PB_ERR_UNSUPPORTED, "type number 1000"},
        {half_a_block, PB_ERR_FORMAT, "blocks of 32"},
        {unknown_architecture, PB_ERR_UNSUPPORTED, "'mamba' is not one that Patchbay reads from GGUF; it reads gpt2"},
        {no_architecture, PB_ERR_FORMAT, "no general.architecture"},
        {a_part, PB_ERR_UNSUPPORTED, "one of 3 files of a model"},
        {no_layers, PB_ERR_FORMAT, "no 'llama.block_count'"},
    };
    pb_error err = {0};
    char *folder = test_folder(), path[512];
    snprintf(path, sizeof path, "%s", test_path(folder, "m.gguf"));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        gguf_writer w = {0};
        cases[i].damage(&w);
        gguf_bytes file = gguf_finish(&w);
        assert_error(open_bytes(*state, path, file.data, file.size, &err), cases[i].status, cases[i].text);
        free(file.data);
    }
    assert_error(open_bytes(*state, path, "", 0, &err), PB_ERR_FORMAT, "not a GGUF file");
    assert_error(open_bytes(*state, path, "GGML....", 8, &err), PB_ERR_FORMAT, "not a GGUF file");
    test_folder_remove(folder);
}

/* A whole model with one thing more or less than a model has. */
static void open__a_model_that_is_none__says_what(void **state) {
    static const struct {
        const char *name, *text;
        pb_status status;
    } cases[] = {
        {"blk.0.attn_rel_b.weight", "'blk.0.attn_rel_b.weight' is left over", PB_ERR_UNSUPPORTED},
        {"blk.2.attn_norm.weight", "'blk.2.attn_norm.weight' is left over", PB_ERR_UNSUPPORTED},
        {"blk.99999999999999999999.attn_norm.weight", "is left over", PB_ERR_UNSUPPORTED},
        {"blk.0.ffn_gate.weight", "is left over", PB_ERR_UNSUPPORTED},
        {"output_norm", "'output_norm' is left over", PB_ERR_UNSUPPORTED},
        {"output.bias", "'lm_head.bias' is left over", PB_ERR_FORMAT},
        {"blk.00.attn_norm.weight", "is both in", PB_ERR_FORMAT},
    };
    pb_error err = {0};
    char *folder = test_folder(), path[512];
    snprintf(path, sizeof path, "%s", test_path(folder, "m.gguf"));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        gguf_writer w = {0};
        begin_small(&w);
        gguf_tensor(&w, cases[i].name, GGUF_F32, 1, (int64_t[]){1}, (float[]){1}, NULL);
        gguf_bytes file = gguf_finish(&w);
        assert_error(open_bytes(*state, path, file.data, file.size, &err), cases[i].status, cases[i].text);
        free(file.data);
    }
    test_folder_remove(folder);
}

/* What a tokenizer's metadata can have wrong; only those of a kind that is not read leave the model without one. */
static void open__tokenizers__wrong_or_unknown(void **state) {
    static const char *const kinds[][2] = {{"bert", "default"}, {"gpt2", "some-new-one"}, {"llama", "no scores"}};
    pb_error err = {0};
    char *folder = test_folder(), path[512];
    snprintf(path, sizeof path, "%s", test_path(folder, "m.gguf"));
    for (int i = 0; i < 3; i++) {
        gguf_writer w = {0};
        begin_small(&w);
        gguf_text(&w, "tokenizer.ggml.model", kinds[i][0]);
        gguf_text(&w, "tokenizer.ggml.pre", kinds[i][1]);
        gguf_save(&w, path);
        pb_model *model = open_model(*state, path);
        assert_null(pb_model_tokenizer(model));
        pb_model_unref(model);
    }
    static const struct {
        const char *tokens[3];
        uint64_t types, scores;
        bool merges;
        const char *text;
    } cases[] = {
        {{"a", "b", "a"}, 3, 0, true, "token 2, 'a', is there twice"},
        {{"a", "b", "\xff"}, 3, 0, true, "token 2 is not UTF-8"},
        {{"a", "b", "c"}, 2, 0, true, "token_type must have one number for each token"},
        {{"a", "b", "c"}, 3, 0, false, "merges must be a list of texts"},
        {{"a", "b", "c"}, 3, 0, true, "\"ab\" is not in the vocabulary"},
        {{"a", "b", "ab"}, 3, 2, true, "scores must hold one number for each token"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        gguf_writer w = {0};
        begin_small(&w);
        gguf_text(&w, "tokenizer.ggml.model", cases[i].scores ? "llama" : "gpt2");
        gguf_text(&w, "tokenizer.ggml.pre", "gpt-2");
        gguf_list(&w, "tokenizer.ggml.tokens", 8, 3);
        for (int k = 0; k < 3; k++)
            gguf_add_text(&w.pairs, cases[i].tokens[k]);
        gguf_list(&w, "tokenizer.ggml.token_type", 5, cases[i].types);
        for (uint64_t k = 0; k < cases[i].types; k++)
            gguf_add_number(&w.pairs, 1, 4);
        gguf_list(&w, "tokenizer.ggml.scores", 6, cases[i].scores);
        for (uint64_t k = 0; k < cases[i].scores; k++)
            gguf_add_number(&w.pairs, 0, 4);
        if (cases[i].merges) {
            gguf_list(&w, "tokenizer.ggml.merges", 8, 1);
            gguf_add_text(&w.pairs, "a b");
        }
        gguf_bytes file = gguf_finish(&w);
        assert_error(open_bytes(*state, path, file.data, file.size, &err), PB_ERR_FORMAT, cases[i].text);
        free(file.data);
    }
    test_folder_remove(folder);
}

static pb_status open_it(pb_context *ctx, void *path, pb_error *err) {
    pb_model *model = NULL;
    pb_status status = pb_model_open(ctx, path, NULL, &model, err);
    pb_model_unref(model);
    return status;
}

static void open__no_memory__says_so(void **state) {
    char *folder = test_folder(), path[512];
    size_t header;
    for (int pieces = 0; pieces < 2; pieces++) {
        gguf_bytes file = small_file(pieces, &header);
        snprintf(path, sizeof path, "%s", test_path(folder, "m.gguf"));
        gguf_write(path, file.data, file.size);
        free(file.data);
        assert_true(assert_survives_allocation_failure(*state, open_it, path) > 20);
    }
    test_folder_remove(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH_CONTEXT(gguf__float32__is_the_folder_to_the_bit),
        WITH_CONTEXT(gguf__other_families__are_the_folder_to_the_bit),
        WITH_CONTEXT(gguf__half_types__are_their_own_numbers),
        WITH_CONTEXT(gguf__q8_0__is_widened_exactly),
        WITH_CONTEXT(gguf__streamed_with_copies__is_refused),
        WITH_CONTEXT(gguf__streamed__is_the_folder_to_the_bit),
        WITH_CONTEXT(gguf__q8_0__is_near_the_folder),
        WITH_CONTEXT(gguf__rope_freqs__are_llama3s_scaling),
        WITH_CONTEXT(gguf__export__is_a_folder_with_the_same_logits),
        WITH_CONTEXT(model_open__several_files__asks_for_one),
        WITH_CONTEXT(tokenizer__byte_level__is_the_golden_one),
        WITH_CONTEXT(tokenizer__pieces__are_the_golden_ones),
        WITH_CONTEXT(tokenizer__shared__are_the_golden_ones),
        WITH_CONTEXT(open__truncated_anywhere__is_an_error),
        WITH_CONTEXT(open__any_byte_changed__does_no_harm),
        WITH_CONTEXT(open__wrong_in_one_thing__says_what),
        WITH_CONTEXT(open__a_model_that_is_none__says_what),
        WITH_CONTEXT(open__tokenizers__wrong_or_unknown),
        WITH_CONTEXT(open__no_memory__says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
