/* GGUF's metadata -> config.json: the family's row says how each number is called there. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf.h"

static const pb_gguf_arch architectures[] = {
    {"gpt2", "gpt2", false},      {"gptneox", "gpt_neox", false},  {"bloom", "bloom", false},
    {"falcon", "falcon", false},  {"llama", "llama", true}, /* also Mistral (where there is a window) and Mixtral (where there are experts) */
    {"qwen2", "qwen2", false},    {"qwen3", "qwen3", false},       {"smollm3", "smollm3", true},
    {"gemma", "gemma", false},    {"gemma2", "gemma2", false},     {"gemma3", "gemma3_text", false},
    {"phi2", "phi", false},       {"phi3", "phi3", false},         {"olmo", "olmo", true},
    {"olmo2", "olmo2", false},    {"stablelm", "stablelm", false}, {"starcoder2", "starcoder2", false},
    {"granite", "granite", true}, {"command-r", "cohere", false},
};
enum { ARCHITECTURES = sizeof architectures / sizeof architectures[0], KEY_MAX = 128 };

/* ---- reading ---------------------------------------------------------------------------------------------------------- */

const pb_gguf_value *pb_gguf_model_get(const pb_gguf_model *model, const char *name) {
    char key[KEY_MAX];
    snprintf(key, sizeof key, "%s.%s", model->arch->name, name);
    return pb_gguf_get(model->file, key);
}

bool pb_gguf_has(const pb_gguf_model *model, const char *name) { return pb_gguf_find(model->file, name) != NULL; }

/* A whole number, or a list of equal ones (one for each layer). Absent: the fallback; -1: an error. */
static pb_status read_size(const pb_gguf_model *model, const char *name, int64_t fallback, int64_t *out,
                           pb_error *err) {
    const pb_gguf_value *value = pb_gguf_model_get(model, name);
    *out = fallback;
    if (!value && fallback >= 0)
        return PB_OK;
    if (!value)
        return pb_fail(err, PB_ERR_FORMAT, "%s: the metadata have no '%s.%s'", model->path, model->arch->name, name);
    if (!pb_gguf_integer(value, 0, out) || *out < 0 || *out > 1 << 30)
        return pb_fail(err, PB_ERR_FORMAT, "%s: metadata '%s.%s' must be a whole number from 0 to 2^30", model->path,
                       model->arch->name, name);
    for (uint64_t i = 1; i < value->count; i++) {
        int64_t other = -1;
        if (!pb_gguf_integer(value, i, &other) || other != *out)
            return pb_fail(err, PB_ERR_UNSUPPORTED, "%s: metadata '%s.%s' differ from layer to layer", model->path,
                           model->arch->name, name);
    }
    return PB_OK;
}

/* A number as the shortest decimal that is the same float32: 1e-06 and not 9.9999999747524271e-07. */
static double shortest(double number) {
    char text[40];
    for (int digits = 6; digits < 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, number);
        double back = strtod(text, NULL);
        if ((float)back == (float)number)
            return back;
    }
    return number;
}

/* *there: it is there and a finite number. */
static pb_status read_number(const pb_gguf_model *model, const char *name, bool *there, double *out, pb_error *err) {
    const pb_gguf_value *value = pb_gguf_model_get(model, name);
    *there = value != NULL;
    if (!value)
        return PB_OK;
    if (!pb_gguf_number(value, 0, out) || !isfinite(*out))
        return pb_fail(err, PB_ERR_FORMAT, "%s: metadata '%s.%s' must be a number", model->path, model->arch->name,
                       name);
    *out = shortest(*out);
    return PB_OK;
}

static pb_status unknown_architecture(const pb_gguf_model *model, const char *name, size_t length, pb_error *err) {
    char list[512];
    size_t used = 0;
    for (size_t i = 0; i < ARCHITECTURES && used < sizeof list; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", architectures[i].name);
    return pb_fail(err, PB_ERR_UNSUPPORTED,
                   "%s: general.architecture '%.*s' is not one that Patchbay reads from GGUF; it reads %s", model->path,
                   length < 100 ? (int)length : 100, name, list);
}

pb_status pb_gguf_identify(pb_gguf_model *model, pb_error *err) {
    const char *name;
    size_t length;
    if (!pb_gguf_text(pb_gguf_get(model->file, "general.architecture"), &name, &length))
        return pb_fail(err, PB_ERR_FORMAT, "%s: the metadata have no general.architecture", model->path);
    for (size_t i = 0; i < ARCHITECTURES; i++) {
        if (strlen(architectures[i].name) == length && memcmp(architectures[i].name, name, length) == 0)
            model->arch = &architectures[i];
    }
    if (!model->arch)
        return unknown_architecture(model, name, length, err);
    int64_t window = 0, parts = 1;
    if (pb_gguf_integer(pb_gguf_get(model->file, "split.count"), 0, &parts) && parts > 1)
        return pb_fail(err, PB_ERR_UNSUPPORTED,
                       "%s: one of %lld files of a model; put them together first (llama-gguf-split --merge)",
                       model->path, (long long)parts);
    PB_TRY(read_size(model, "block_count", -1, &model->layers, err));
    PB_TRY(read_size(model, "embedding_length", -1, &model->width, err));
    PB_TRY(read_size(model, "attention.head_count", -1, &model->heads, err));
    PB_TRY(read_size(model, "attention.head_count_kv", model->heads, &model->kv_heads, err));
    PB_TRY(read_size(model, "expert_count", 0, &model->experts, err));
    PB_TRY(read_size(model, "attention.sliding_window", 0, &window, err));
    if (!model->layers || !model->width || !model->heads || !model->kv_heads || model->heads % model->kv_heads != 0)
        return pb_fail(err, PB_ERR_FORMAT,
                       "%s: %lld layers of width %lld with %lld heads and %lld key/value heads do not make a model",
                       model->path, (long long)model->layers, (long long)model->width, (long long)model->heads,
                       (long long)model->kv_heads);
    PB_TRY(read_size(model, "attention.key_length", model->width / model->heads, &model->d_head, err));
    int64_t values;
    PB_TRY(read_size(model, "attention.value_length", model->d_head, &values, err));
    if (values != model->d_head || !values)
        return pb_fail(err, PB_ERR_UNSUPPORTED, "%s: keys of %lld and values of %lld dimensions; they must be the same",
                       model->path, (long long)model->d_head, (long long)values);
    const char *type = model->arch->model_type;
    if (strcmp(type, "llama") == 0)
        type = model->experts ? "mixtral" : window ? "mistral" : type;
    model->family = pb_family_find(type);
    return PB_OK;
}

/* ---- writing ---------------------------------------------------------------------------------------------------------- */

/* What the functions below share; a failed allocation of jansson is noticed at the end. */
typedef struct writer {
    const pb_gguf_model *model;
    json_t *config;
    bool failed;
} writer;

/* keys: the first of "a|b|c" is written. */
static void put(writer *w, const char *keys, json_t *value) {
    char key[KEY_MAX];
    snprintf(key, sizeof key, "%.*s", (int)strcspn(keys, "|"), keys);
    w->failed = json_object_set_new(w->config, key, value) != 0 || w->failed;
}

static void put_size(writer *w, pb_size_key key, int64_t value) {
    if (key.keys)
        put(w, key.keys, json_integer(value));
}

static pb_status put_number(writer *w, const char *name, const char *key, pb_error *err) {
    bool there;
    double number = 0.0;
    PB_TRY(read_number(w->model, name, &there, &number, err));
    if (there)
        put(w, key, json_real(number));
    return PB_OK;
}

static pb_status put_flag(writer *w, const char *name, const char *key, pb_error *err) {
    const pb_gguf_value *value = pb_gguf_model_get(w->model, name);
    bool flag;
    if (!value)
        return PB_OK;
    if (!pb_gguf_bool(value, &flag))
        return pb_fail(err, PB_ERR_FORMAT, "%s: metadata '%s.%s' must be true or false", w->model->path,
                       w->model->arch->name, name);
    put(w, key, json_boolean(flag));
    return PB_OK;
}

static pb_status write_sizes(writer *w, pb_error *err) {
    const pb_gguf_model *model = w->model;
    const pb_family *family = model->family;
    const pb_entry *embed = pb_gguf_find(model->file, "token_embd.weight");
    const pb_entry *positions = pb_gguf_find(model->file, "position_embd.weight");
    int64_t mlp, context;
    if (!embed || embed->ndim != 2)
        return pb_fail(err, PB_ERR_FORMAT, "%s: there is no matrix token_embd.weight", model->path);
    PB_TRY(read_size(model, "feed_forward_length", -1, &mlp, err));
    PB_TRY(read_size(model, "context_length", -1, &context, err));
    put_size(w, family->layers, model->layers);
    put_size(w, family->width, model->width);
    put_size(w, family->heads, model->heads);
    put_size(w, family->kv_heads, model->kv_heads);
    put_size(w, family->head_dim, model->d_head);
    put_size(w, family->mlp, mlp);
    put_size(w, family->vocab, embed->shape[0]);
    put_size(w, family->positions, positions && positions->ndim == 2 ? positions->shape[0] : context);
    if (!family->head_dim.keys && model->d_head * model->heads != model->width)
        return pb_fail(err, PB_ERR_UNSUPPORTED,
                       "%s: %lld heads of %lld dimensions in a width of %lld, which %s cannot have", model->path,
                       (long long)model->heads, (long long)model->d_head, (long long)model->width, family->model_type);
    if (model->experts) {
        int64_t chosen;
        PB_TRY(read_size(model, "expert_used_count", -1, &chosen, err));
        put(w, "num_local_experts", json_integer(model->experts));
        put(w, "num_experts_per_tok", json_integer(chosen));
    }
    return PB_OK;
}

/* The unembedding is tied where there is none; GPT-2's and Bloom's is often written as a copy of the embedding. */
static bool is_tied(const pb_gguf_model *model) {
    const pb_entry *embed = pb_gguf_find(model->file, "token_embd.weight");
    const pb_entry *other = pb_gguf_find(model->file, "output.weight");
    if (!other)
        return true;
    return model->family->tied.fallback && other->type == embed->type && other->bytes == embed->bytes &&
           memcmp(other->data, embed->data, embed->bytes) == 0;
}

static void write_switches(writer *w) {
    const pb_gguf_model *model = w->model;
    const pb_family *family = model->family;
    bool qkv = pb_gguf_has(model, "blk.0.attn_q.bias") || pb_gguf_has(model, "blk.0.attn_qkv.bias");
    const struct {
        pb_flag_key flag;
        bool value;
    } flags[] = {
        {family->tied, is_tied(model)},
        {family->mlp_bias, pb_gguf_has(model, "blk.0.ffn_up.bias")},
        {family->o_bias, pb_gguf_has(model, "blk.0.attn_output.bias")},
        {family->qkv_bias, qkv}, /* the last: one switch is often that of both, and this the more telling one */
        {family->qk_norm_flag, pb_gguf_has(model, "blk.0.attn_q_norm.weight")},
    };
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        if (flags[i].flag.key)
            put(w, flags[i].flag.key, json_boolean(flags[i].value));
    }
}

/* ---- rotation --------------------------------------------------------------------------------------------------------- */

static json_t *list_of(const pb_entry *entry) {
    json_t *list = json_array();
    for (int64_t i = 0; list && i < entry->shape[0]; i++) {
        float number;
        pb_widen(entry->type, entry->data, (size_t)i, 1, &number);
        json_array_append_new(list, json_real(shortest((double)number)));
    }
    return list;
}

static const pb_entry *factors(const pb_gguf_model *model, const char *name) {
    const pb_entry *entry = pb_gguf_find(model->file, name);
    return entry && entry->ndim == 1 && entry->type == PB_STORED_F32 ? entry : NULL;
}

/* Divisors of the frequencies as tensors: LongRoPE's two lists (Phi 3), or one that is made of Llama 3's numbers. Both are
 * LongRoPE for config.json. */
static pb_status scaling_by_lists(writer *w, json_t *scaling, bool *done, pb_error *err) {
    const pb_gguf_model *model = w->model;
    const pb_entry *one = factors(model, "rope_freqs.weight"), *lower = factors(model, "rope_factors_short.weight"),
                   *upper = factors(model, "rope_factors_long.weight");
    *done = (lower && upper) || one;
    if (!*done)
        return PB_OK;
    bool there;
    double factor = 1.0;
    int64_t context, original;
    PB_TRY(read_number(model, "rope.scaling.attn_factor", &there, &factor, err));
    PB_TRY(read_size(model, "context_length", -1, &context, err));
    PB_TRY(read_size(model, "rope.scaling.original_context_length", context, &original, err));
    bool pair = lower && upper;
    w->failed = json_object_set_new(scaling, "rope_type", json_string("longrope")) != 0 ||
                json_object_set_new(scaling, "short_factor", list_of(pair ? lower : one)) != 0 ||
                json_object_set_new(scaling, "long_factor", list_of(pair ? upper : one)) != 0 ||
                json_object_set_new(scaling, "attention_factor", json_real(factor > 0.0 ? factor : 1.0)) != 0 ||
                json_object_set_new(scaling, "original_max_position_embeddings", json_integer(original)) != 0 ||
                w->failed;
    if (pair) /* Phi 3 keeps it at the top */
        put(w, "original_max_position_embeddings", json_integer(original));
    return PB_OK;
}

static pb_status scaling_by_name(writer *w, json_t *scaling, pb_error *err) {
    const pb_gguf_model *model = w->model;
    const char *type = "none";
    size_t length = 4;
    const pb_gguf_value *value = pb_gguf_model_get(model, "rope.scaling.type");
    if (value && !pb_gguf_text(value, &type, &length))
        return pb_fail(err, PB_ERR_FORMAT, "%s: metadata '%s.rope.scaling.type' must be a text", model->path,
                       model->arch->name);
    bool linear = length == 6 && memcmp(type, "linear", 6) == 0, yarn = length == 4 && memcmp(type, "yarn", 4) == 0;
    bool none = length == 4 && memcmp(type, "none", 4) == 0, there;
    if (!linear && !yarn && !none)
        return pb_fail(err, PB_ERR_UNSUPPORTED,
                       "%s: rope scaling '%.*s' is not read from GGUF; none, linear and yarn are", model->path,
                       length < 60 ? (int)length : 60, type);
    double factor = 0.0;
    PB_TRY(read_number(model, "rope.scaling.factor", &there, &factor, err));
    if (none || (linear && factor == 0.0))
        return PB_OK;
    if (factor <= 0.0)
        return pb_fail(err, PB_ERR_FORMAT, "%s: rope scaling has the factor %g; a positive number was expected",
                       model->path, factor);
    w->failed = json_object_set_new(scaling, "rope_type", json_string(linear ? "linear" : "yarn")) != 0 ||
                json_object_set_new(scaling, "factor", json_real(factor)) != 0 || w->failed;
    int64_t original;
    PB_TRY(read_size(model, "rope.scaling.original_context_length", 0, &original, err));
    if (original)
        w->failed =
            json_object_set_new(scaling, "original_max_position_embeddings", json_integer(original)) != 0 || w->failed;
    return PB_OK;
}

static pb_status write_rotary(writer *w, pb_error *err) {
    const pb_gguf_model *model = w->model;
    const pb_family *family = model->family;
    if (family->position != PB_POSITION_ROTARY)
        return PB_OK;
    bool there, lists;
    double theta = 10000.0;
    int64_t dims;
    PB_TRY(read_number(model, "rope.freq_base", &there, &theta, err));
    put(w, family->theta_key ? family->theta_key : "rope_theta", json_real(theta));
    PB_TRY(read_size(model, "rope.dimension_count", model->d_head, &dims, err));
    if (!family->rotary_partial && dims != model->d_head)
        return pb_fail(err, PB_ERR_UNSUPPORTED, "%s: %lld of %lld dimensions rotate, but %s rotates whole heads",
                       model->path, (long long)dims, (long long)model->d_head, family->model_type);
    if (family->rotary_partial) {
        double part = (double)dims / (double)model->d_head;
        if ((int64_t)((double)model->d_head * part) != dims) /* rounded down where the number is taken apart again */
            part = ((double)dims + 0.25) / (double)model->d_head;
        put(w, family->partial_key ? family->partial_key : "partial_rotary_factor", json_real(part));
    }
    json_t *scaling = json_object();
    pb_status status = scaling_by_lists(w, scaling, &lists, err);
    if (status == PB_OK && !lists)
        status = scaling_by_name(w, scaling, err);
    if (status == PB_OK && json_object_size(scaling) > 0)
        put(w, "rope_scaling", json_incref(scaling));
    json_decref(scaling);
    return status;
}

/* ---- single families -------------------------------------------------------------------------------------------------- */

/* Gemma divides by the root of the head's width, but for the models of 27 billion parameters, which have their own number that
 * the file does not hold: they are known by their layers, as in llama.cpp. */
static void write_gemma_scale(writer *w) {
    const pb_gguf_model *model = w->model;
    bool second = strcmp(model->arch->name, "gemma2") == 0, third = strcmp(model->arch->name, "gemma3") == 0;
    if (second || third) {
        bool large = model->layers == (second ? 46 : 62);
        put(w, "query_pre_attn_scalar", json_integer(large ? model->width / model->heads : model->d_head));
    }
}

/* Falcon's three architectures are told apart by their norms and key/value heads. */
static void write_falcon(writer *w) {
    const pb_gguf_model *model = w->model;
    if (strcmp(model->arch->name, "falcon") != 0)
        return;
    bool two = pb_gguf_has(model, "blk.0.attn_norm_2.weight");
    bool grouped = two || (model->kv_heads > 1 && model->kv_heads < model->heads);
    put(w, "new_decoder_architecture", json_boolean(grouped));
    put(w, "num_ln_in_parallel_attn", json_integer(two ? 2 : 1));
    put(w, "multi_query", json_boolean(model->kv_heads == 1));
    put(w, "parallel_attn", json_true());
}

/* For who reads an exported folder: transformers would take the family's usual ids. */
static void write_special(writer *w) {
    static const char *const names[] = {"bos_token_id", "eos_token_id"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char key[KEY_MAX];
        int64_t id;
        snprintf(key, sizeof key, "tokenizer.ggml.%s", names[i]);
        bool there = pb_gguf_integer(pb_gguf_get(w->model->file, key), 0, &id);
        put(w, names[i], there ? json_integer((json_int_t)id) : json_null());
    }
}

static pb_status write_rest(writer *w, pb_error *err) {
    const pb_gguf_model *model = w->model;
    const pb_family *family = model->family;
    const char *eps = family->norm_centre ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon";
    if (family->eps_key) {
        if (!pb_gguf_model_get(model, eps))
            return pb_fail(err, PB_ERR_FORMAT, "%s: the metadata have no '%s.%s'", model->path, model->arch->name, eps);
        PB_TRY(put_number(w, eps, family->eps_key, err));
    }
    int64_t window;
    PB_TRY(read_size(model, "attention.sliding_window", 0, &window, err));
    if (family->sliding && window)
        put(w, "sliding_window", json_integer(window));
    PB_TRY(put_flag(w, "use_parallel_residual", "use_parallel_residual", err));
    PB_TRY(put_number(w, "attention.clamp_kqv", "clip_qkv", err));
    PB_TRY(put_number(w, "attn_logit_softcapping", "attn_logit_softcapping", err));
    PB_TRY(put_number(w, "final_logit_softcapping", "final_logit_softcapping", err));
    PB_TRY(put_number(w, "attention.scale", "attention_multiplier", err));
    PB_TRY(put_number(w, "embedding_scale", "embedding_multiplier", err));
    PB_TRY(put_number(w, "residual_scale", "residual_multiplier", err));
    PB_TRY(put_number(w, "logit_scale", strcmp(family->model_type, "granite") == 0 ? "logits_scaling" : "logit_scale",
                      err));
    write_gemma_scale(w);
    write_falcon(w);
    write_special(w);
    return PB_OK;
}

pb_status pb_gguf_model_config(const pb_gguf_model *model, char **text, size_t *length, pb_error *err) {
    writer w = {.model = model, .config = json_object()};
    put(&w, "model_type", json_string(model->family->model_type));
    pb_status status = write_sizes(&w, err);
    if (status == PB_OK) {
        write_switches(&w);
        status = write_rotary(&w, err);
    }
    if (status == PB_OK)
        status = write_rest(&w, err);
    char *dump = status == PB_OK && !w.failed ? json_dumps(w.config, JSON_INDENT(2) | JSON_PRESERVE_ORDER) : NULL;
    if (status == PB_OK) {
        *text = dump ? pb_strdup(model->ctx, dump) : NULL;
        *length = dump ? strlen(dump) : 0;
        if (!*text)
            status = pb_fail_memory(err, model->ctx, *length, "a configuration");
    }
    free(dump);
    json_decref(w.config);
    return status;
}
