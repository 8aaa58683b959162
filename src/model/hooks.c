/* What a row of the table of architectures cannot say in fields: one small function per oddity. */
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "model/loading.h"

/* ---- which layers have a sliding window --------------------------------------------------------------------------------- */

static int64_t whole(const pb_loading *loading, const char *key, int64_t fallback) {
    const json_t *value = json_object_get(loading->config, key);
    return json_is_integer(value) ? (int64_t)json_integer_value(value) : fallback;
}

bool pb_sliding_all(const pb_loading *loading, int layer) {
    (void)loading;
    (void)layer;
    return true;
}

bool pb_sliding_even(const pb_loading *loading, int layer) {
    (void)loading;
    return layer % 2 == 0;
}

/* Gemma 3: every sixth layer sees everything. */
bool pb_sliding_pattern(const pb_loading *loading, int layer) {
    int64_t every = whole(loading, "sliding_window_pattern", whole(loading, "_sliding_window_pattern", 6));
    return every <= 0 || (layer + 1) % every != 0;
}

/* Qwen: layers from max_window_layers on, if switched on at all. */
bool pb_sliding_upper(const pb_loading *loading, int layer) {
    return json_is_true(json_object_get(loading->config, "use_sliding_window")) &&
           layer >= whole(loading, "max_window_layers", 28);
}

static bool rotates(const pb_loading *loading, int layer) {
    const json_t *list = json_object_get(loading->config, "no_rope_layers");
    if (json_is_array(list))
        return json_integer_value(json_array_get(list, (size_t)layer)) != 0;
    int64_t interval = whole(loading, "no_rope_layer_interval", 4);
    return interval <= 0 || (layer + 1) % interval != 0;
}

bool pb_sliding_unrotated(const pb_loading *loading, int layer) {
    return json_is_true(json_object_get(loading->config, "use_sliding_window")) && !rotates(loading, layer);
}

/* ---- families ------------------------------------------------------------------------------------------------------------- */

pb_status pb_adapt_gpt2(pb_loading *loading, pb_error *err) {
    pb_spec *spec = loading->spec;
    bool scale, by_layer;
    PB_TRY(pb_config_flag(loading, (pb_flag_key){"scale_attn_weights", true}, &scale, err));
    PB_TRY(pb_config_flag(loading, (pb_flag_key){"scale_attn_by_inverse_layer_idx", false}, &by_layer, err));
    PB_TRY(pb_config_require(loading, "add_cross_attention", false, "Patchbay runs decoder-only models", err));
    for (int i = 0; i < spec->layers; i++) {
        double divisor = (scale ? sqrt((double)spec->d_head) : 1.0) * (by_layer ? i + 1 : 1);
        spec->layer[i].attn_scale = (float)(1.0 / divisor);
    }
    return PB_OK;
}

/* attention_types [[["global", "local"], n], ...] is a list of kinds, each repeated n times. */
static pb_status gpt_neo_kinds(const pb_loading *loading, const json_t *types, int64_t window, pb_error *err) {
    pb_spec *spec = loading->spec;
    int layer = 0;
    for (size_t i = 0; i < json_array_size(types); i++) {
        const json_t *item = json_array_get(types, i), *kinds = json_array_get(item, 0),
                     *times = json_array_get(item, 1);
        if (!json_is_array(kinds) || !json_is_integer(times) || json_integer_value(times) < 0)
            return pb_fail(err, PB_ERR_FORMAT, "%s: attention_types[%zu] must be a list of kinds and a number",
                           loading->config_path, i);
        int64_t n = json_integer_value(times);
        for (int64_t repeat = 0; repeat < n && layer < spec->layers && json_array_size(kinds) > 0; repeat++) {
            for (size_t k = 0; k < json_array_size(kinds) && layer < spec->layers; k++, layer++) {
                const char *kind = json_string_value(json_array_get(kinds, k));
                if (!kind || (strcmp(kind, "global") != 0 && strcmp(kind, "local") != 0))
                    return pb_fail(err, PB_ERR_FORMAT, "%s: attention_types[%zu] has '%s'; known are global and local",
                                   loading->config_path, i, kind ? kind : "something that is no text");
                spec->layer[layer].window = strcmp(kind, "local") == 0 ? window : 0;
            }
        }
    }
    if (layer != spec->layers)
        return pb_fail(err, PB_ERR_FORMAT, "%s: attention_types gives kinds for %d layers, but there are %d",
                       loading->config_path, layer, spec->layers);
    return PB_OK;
}

pb_status pb_adapt_gpt_neo(pb_loading *loading, pb_error *err) {
    pb_spec *spec = loading->spec;
    int64_t window;
    PB_TRY(pb_config_size(loading, "window_size", 1, INT32_MAX, 256, &window, err));
    const json_t *types;
    PB_TRY(pb_json_array_or(loading->config, loading->config_path, "attention_types", &types, err));
    for (int i = 0; i < spec->layers; i++) {
        spec->layer[i].attn_scale = 1.0f; /* scores are not divided by sqrt(d_head) */
        spec->layer[i].window = i % 2 == 1 ? window : 0;
    }
    return types ? gpt_neo_kinds(loading, types, window, err) : PB_OK;
}

/* The rotated part is said in dimensions. */
pb_status pb_adapt_gptj(pb_loading *loading, pb_error *err) {
    pb_spec *spec = loading->spec;
    int64_t dims;
    PB_TRY(pb_config_size(loading, "rotary_dim", 2, 1 << 16, 64, &dims, err));
    if (dims % 2 != 0 || dims > spec->d_head)
        return pb_fail(err, PB_ERR_FORMAT,
                       "%s: rotary_dim is %d; an even number of at most the %d dimensions of a head was expected",
                       loading->config_path, (int)dims, spec->d_head);
    float *inv_freq = pb_model_own(loading->model, (size_t)dims / 2, sizeof *inv_freq);
    pb_rotary *rotary = pb_model_own(loading->model, 1, sizeof *rotary);
    if (!inv_freq || !rotary)
        return pb_fail_memory(err, loading->ctx, (size_t)dims * sizeof *inv_freq, "the rotary frequencies");
    for (int i = 0; i < (int)dims / 2; i++)
        inv_freq[i] = 1.0f / (float)pow(10000.0, (double)((float)(2 * i) / (float)dims));
    *rotary = (pb_rotary){.dims = (int)dims, .interleaved = true, .factor = 1.0f, .inv_freq = inv_freq};
    spec->rotaries = rotary;
    return PB_OK;
}

pb_status pb_adapt_gpt_neox(pb_loading *loading, pb_error *err) {
    bool parallel;
    PB_TRY(pb_config_flag(loading, (pb_flag_key){"use_parallel_residual", true}, &parallel, err));
    loading->block = parallel ? PB_BLOCK_PARALLEL : PB_BLOCK_SEQUENTIAL;
    return PB_OK;
}

pb_status pb_adapt_opt(pb_loading *loading, pb_error *err) {
    pb_spec *spec = loading->spec;
    bool before, affine, removed;
    PB_TRY(pb_config_flag(loading, (pb_flag_key){"do_layer_norm_before", true}, &before, err));
    PB_TRY(pb_config_flag(loading, (pb_flag_key){"layer_norm_elementwise_affine", true}, &affine, err));
    PB_TRY(pb_config_flag(loading, (pb_flag_key){"_remove_final_layer_norm", false}, &removed, err));
    spec->norm_place = before ? PB_NORM_PRE : PB_NORM_POST_ADD;
    spec->has_final_norm = before && !removed;
    loading->norm_plain = !affine;
    int64_t width;
    PB_TRY(pb_config_size(loading, "word_embed_proj_dim", 1, 1 << 20, spec->d_model, &width, err));
    spec->d_embed = (int)width;
    return PB_OK;
}

pb_status pb_adapt_bloom(pb_loading *loading, pb_error *err) {
    return pb_config_require(loading, "apply_residual_connection_post_layernorm", false,
                             "a residual stream of normalised values is not supported", err);
}

/* Falcon is three architectures: one key/value head and a parallel block (7b), grouped heads and a parallel block with one or
 * two norms (40b, 180b, 11b), and as many key/value heads as query heads with either block (rw). */
pb_status pb_adapt_falcon(pb_loading *loading, pb_error *err) {
    pb_spec *spec = loading->spec;
    bool grouped, single, parallel, alibi;
    int64_t norms;
    PB_TRY(pb_config_flag(loading, (pb_flag_key){"new_decoder_architecture", false}, &grouped, err));
    PB_TRY(pb_config_flag(loading, (pb_flag_key){"multi_query", true}, &single, err));
    PB_TRY(pb_config_flag(loading, (pb_flag_key){"parallel_attn", true}, &parallel, err));
    PB_TRY(pb_config_flag(loading, (pb_flag_key){"alibi", false}, &alibi, err));
    PB_TRY(pb_config_size(loading, "num_ln_in_parallel_attn", 1, 2, grouped ? 2 : 1, &norms, err));
    if (grouped && !parallel)
        return pb_fail(err, PB_ERR_UNSUPPORTED, "%s: new_decoder_architecture without parallel_attn does not exist",
                       loading->config_path);
    if (!grouped)
        spec->kv_heads = single ? 1 : spec->heads;
    loading->block = !parallel               ? PB_BLOCK_SEQUENTIAL
                     : grouped && norms == 2 ? PB_BLOCK_PARALLEL
                                             : PB_BLOCK_PARALLEL_SHARED;
    if (parallel && norms == 2) {
        loading->names.ln1 = "ln_attn";
        loading->names.ln2 = "ln_mlp";
    }
    if (alibi) {
        spec->position = PB_POSITION_ALIBI;
        spec->alibi_bf16 = true;
        spec->n_rotaries = 0;
        spec->rotaries = NULL;
        for (int i = 0; i < spec->layers; i++)
            spec->layer[i].rotary = -1;
    }
    return PB_OK;
}

pb_status pb_adapt_mixtral(pb_loading *loading, pb_error *err) {
    pb_spec *spec = loading->spec;
    int64_t experts, chosen;
    PB_TRY(pb_config_size(loading, "num_local_experts|num_experts", 1, 4096, 8, &experts, err));
    PB_TRY(pb_config_size(loading, "num_experts_per_tok", 1, experts, 2, &chosen, err));
    spec->experts = (int)experts;
    spec->experts_per_token = (int)chosen;
    spec->renormalise_experts = true;
    return PB_OK;
}

pb_status pb_adapt_smollm3(pb_loading *loading, pb_error *err) {
    pb_spec *spec = loading->spec;
    const json_t *list;
    PB_TRY(pb_json_array_or(loading->config, loading->config_path, "no_rope_layers", &list, err));
    if (list && json_array_size(list) < (size_t)spec->layers)
        return pb_fail(err, PB_ERR_FORMAT, "%s: no_rope_layers has %zu entries, but there are %d layers",
                       loading->config_path, json_array_size(list), spec->layers);
    for (int i = 0; i < spec->layers; i++)
        spec->layer[i].rotary = rotates(loading, i) ? 0 : -1;
    return PB_OK;
}

/* The first configurations say "gelu" and mean its tanh form. */
pb_status pb_adapt_gemma(pb_loading *loading, pb_error *err) {
    if (loading->spec->act == PB_ACT_GELU)
        loading->spec->act = PB_ACT_GELU_TANH;
    return pb_config_require(loading, "use_bidirectional_attention", false,
                             "attention to later tokens is not supported", err);
}

pb_status pb_adapt_gemma2(pb_loading *loading, pb_error *err) {
    pb_spec *spec = loading->spec;
    double scalar, cap, final_cap;
    bool capped =
        loading->family->norm_place == PB_NORM_SANDWICH && !loading->qk_norm; /* Gemma 3 has neither cap by default */
    PB_TRY(pb_config_number(loading, "query_pre_attn_scalar", 256.0, 256.0, &scalar, err));
    PB_TRY(pb_config_number(loading, "attn_logit_softcapping", capped ? 50.0 : 0.0, 0.0, &cap, err));
    PB_TRY(pb_config_number(loading, "final_logit_softcapping", capped ? 30.0 : 0.0, 0.0, &final_cap, err));
    PB_TRY(pb_config_require(loading, "use_bidirectional_attention", false,
                             "attention to later tokens is not supported", err));
    if (scalar <= 0.0 || cap < 0.0 || final_cap < 0.0)
        return pb_fail(err, PB_ERR_FORMAT,
                       "%s: query_pre_attn_scalar %g, attn_logit_softcapping %g, final_logit_softcapping %g: positive "
                       "numbers were expected",
                       loading->config_path, scalar, cap, final_cap);
    for (int i = 0; i < spec->layers; i++) {
        spec->layer[i].attn_scale = (float)(1.0 / sqrt(scalar));
        spec->layer[i].softcap = (float)cap;
    }
    spec->final_softcap = (float)final_cap;
    return PB_OK;
}

/* Layers with a window rotate by a base of their own. */
pb_status pb_adapt_gemma3(pb_loading *loading, pb_error *err) {
    PB_TRY(pb_adapt_gemma2(loading, err));
    pb_spec *spec = loading->spec;
    pb_rotary *both = pb_model_own(loading->model, 2, sizeof *both);
    if (!both)
        return pb_fail_memory(err, loading->ctx, 2 * sizeof *both, "the rotary embeddings");
    both[0] = spec->rotaries[0];
    PB_TRY(pb_rotary_read(loading, "sliding_attention", false, "rope_local_base_freq", 10000.0, &both[1], err));
    spec->rotaries = both;
    spec->n_rotaries = 2;
    for (int i = 0; i < spec->layers; i++)
        spec->layer[i].rotary = spec->layer[i].window ? 1 : 0;
    return PB_OK;
}

pb_status pb_adapt_olmo(pb_loading *loading, pb_error *err) {
    double clip;
    PB_TRY(pb_config_number(loading, "clip_qkv", 0.0, 0.0, &clip, err));
    if (clip < 0.0)
        return pb_fail(err, PB_ERR_FORMAT, "%s: clip_qkv is %g; a positive number was expected", loading->config_path,
                       clip);
    loading->spec->clip_qkv = (float)clip;
    return PB_OK;
}

pb_status pb_adapt_stablelm(pb_loading *loading, pb_error *err) {
    bool parallel;
    PB_TRY(pb_config_flag(loading, (pb_flag_key){"use_parallel_residual", false}, &parallel, err));
    loading->block = parallel ? PB_BLOCK_PARALLEL_SHARED : PB_BLOCK_SEQUENTIAL;
    return PB_OK;
}

pb_status pb_adapt_granite(pb_loading *loading, pb_error *err) {
    pb_spec *spec = loading->spec;
    double embedding, attention, residual, logits;
    PB_TRY(pb_config_number(loading, "embedding_multiplier", 1.0, 1.0, &embedding, err));
    PB_TRY(pb_config_number(loading, "attention_multiplier", 1.0, 1.0, &attention, err));
    PB_TRY(pb_config_number(loading, "residual_multiplier", 1.0, 1.0, &residual, err));
    PB_TRY(pb_config_number(loading, "logits_scaling", 1.0, 1.0, &logits, err));
    if (logits == 0.0)
        return pb_fail(err, PB_ERR_FORMAT, "%s: logits_scaling is 0, and logits are divided by it",
                       loading->config_path);
    for (int i = 0; i < spec->layers; i++)
        spec->layer[i].attn_scale = (float)attention;
    spec->embed_scale = (float)embedding;
    spec->residual_scale = (float)residual;
    spec->logit_scale = (float)(1.0 / logits);
    return PB_OK;
}

pb_status pb_adapt_cohere(pb_loading *loading, pb_error *err) {
    double scale;
    PB_TRY(pb_config_number(loading, "logit_scale", 0.0625, 1.0, &scale, err));
    loading->spec->logit_scale = (float)scale;
    return PB_OK;
}
