/* config.json and the family's row -> the numbers of the specification. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/suggest.h"
#include "model/loading.h"

/* ---- reading values ------------------------------------------------------------------------------------------------- */

const json_t *pb_config_get(const pb_loading *loading, const char *keys, char *name, size_t size) {
    const char *at = keys;
    bool first = true;
    for (;;) {
        size_t length = strcspn(at, "|");
        char key[64];
        snprintf(key, sizeof key, "%.*s", (int)length, at);
        const json_t *value = json_object_get(loading->config, key);
        bool there = value && !json_is_null(value);
        if (there || first)
            snprintf(name, size, "%s", key);
        if (there)
            return value;
        first = false;
        if (!at[length])
            return NULL;
        at += length + 1;
    }
}

pb_status pb_config_size(const pb_loading *loading, const char *keys, int64_t low, int64_t high, int64_t fallback,
                         int64_t *out, pb_error *err) {
    char key[64];
    if (!pb_config_get(loading, keys, key, sizeof key)) {
        *out = fallback;
        return PB_OK;
    }
    return pb_json_int(loading->config, loading->config_path, key, low, high, out, err);
}

pb_status pb_config_flag(const pb_loading *loading, pb_flag_key flag, bool *out, pb_error *err) {
    *out = flag.fallback;
    if (!flag.key)
        return PB_OK;
    return pb_json_bool_or(loading->config, loading->config_path, flag.key, flag.fallback, out, err);
}

pb_status pb_config_number(const pb_loading *loading, const char *key, double fallback, double null_value, double *out,
                           pb_error *err) {
    const json_t *value = json_object_get(loading->config, key);
    if (!value || json_is_null(value)) {
        *out = value ? null_value : fallback;
        return PB_OK;
    }
    double number;
    PB_TRY(pb_json_number(loading->config, loading->config_path, key, &number, err));
    if (!isfinite(number) || fabs(number) > 1e30)
        return pb_fail(err, PB_ERR_FORMAT, "%s: %s is %g, which is not a usable number", loading->config_path, key,
                       number);
    *out = number;
    return PB_OK;
}

pb_status pb_config_require(const pb_loading *loading, const char *key, bool value, const char *why, pb_error *err) {
    bool is;
    PB_TRY(pb_json_bool_or(loading->config, loading->config_path, key, value, &is, err));
    if (is == value)
        return PB_OK;
    return pb_fail(err, PB_ERR_UNSUPPORTED, "%s: %s is %s: %s", loading->config_path, key, is ? "true" : "false", why);
}

pb_status pb_act_parse(const char *name, const char *where, pb_act *out, pb_error *err) {
    static const struct {
        const char *name;
        pb_act act;
    } known[] = {
        {"gelu", PB_ACT_GELU},
        {"gelu_python", PB_ACT_GELU},
        {"gelu_new", PB_ACT_GELU_TANH},
        {"gelu_pytorch_tanh", PB_ACT_GELU_TANH},
        {"gelu_python_tanh", PB_ACT_GELU_TANH},
        {"gelu_accurate", PB_ACT_GELU_TANH},
        {"gelu_fast", PB_ACT_GELU_FAST},
        {"quick_gelu", PB_ACT_QUICK_GELU},
        {"relu", PB_ACT_RELU},
        {"relu2", PB_ACT_RELU2},
        {"silu", PB_ACT_SILU},
        {"swish", PB_ACT_SILU},
        {"tanh", PB_ACT_TANH},
        {"linear", PB_ACT_NONE},
    };
    char list[256] = "";
    size_t used = 0;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(known[i].name, name) == 0) {
            *out = known[i].act;
            return PB_OK;
        }
        if (used < sizeof list)
            used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", known[i].name);
    }
    return pb_fail(err, PB_ERR_UNSUPPORTED, "%s: activation '%s' is not known; known are %s", where, name, list);
}

/* ---- sizes ------------------------------------------------------------------------------------------------------------ */

/* A size within bounds; when config.json does not say it, the family's default is noted for later messages. */
static pb_status read_size(pb_loading *loading, pb_size_key key, int64_t high, int *out, pb_error *err) {
    *out = 0;
    if (!key.keys)
        return PB_OK;
    char name[64];
    int64_t value = key.fallback;
    if (pb_config_get(loading, key.keys, name, sizeof name))
        PB_TRY(pb_json_int(loading->config, loading->config_path, name, 1, high, &value, err));
    else if (key.fallback)
        pb_strbuf_printf(&loading->assumed, "%s%s %lld", loading->assumed.length ? ", " : "", name,
                         (long long)key.fallback);
    *out = (int)value;
    return PB_OK;
}

static pb_status read_sizes(pb_loading *loading, pb_error *err) {
    const pb_family *family = loading->family;
    pb_spec *spec = loading->spec;
    PB_TRY(read_size(loading, family->layers, 4096, &spec->layers, err));
    PB_TRY(read_size(loading, family->width, 1 << 20, &spec->d_model, err));
    PB_TRY(read_size(loading, family->heads, 1 << 16, &spec->heads, err));
    PB_TRY(read_size(loading, family->kv_heads, 1 << 16, &spec->kv_heads, err));
    PB_TRY(read_size(loading, family->head_dim, 1 << 16, &spec->d_head, err));
    PB_TRY(read_size(loading, family->mlp, 1 << 24, &spec->d_mlp, err));
    PB_TRY(read_size(loading, family->vocab, 1 << 26, &spec->vocab, err));
    PB_TRY(read_size(loading, family->positions, 1 << 30, &spec->max_positions, err));
    if (!spec->kv_heads)
        spec->kv_heads = spec->heads;
    bool assumed = loading->assumed.length > 0;
    if (!spec->d_head) {
        if (spec->d_model % spec->heads != 0)
            return pb_fail(err, PB_ERR_FORMAT, "%s: the width %d cannot be divided among %d heads%s%.300s%s",
                           loading->config_path, spec->d_model, spec->heads,
                           assumed ? " (not said there, and so the default of the family: " : "",
                           assumed ? loading->assumed.text : "", assumed ? ")" : "");
        spec->d_head = spec->d_model / spec->heads;
    }
    if (!spec->d_mlp)
        spec->d_mlp = family->mlp_factor * spec->d_model;
    spec->d_embed = spec->d_model;
    return PB_OK;
}

/* What the hooks may have changed must fit together too. */
static pb_status check_sizes(const pb_loading *loading, pb_error *err) {
    const pb_spec *spec = loading->spec;
    if (spec->kv_heads > spec->heads || spec->heads % spec->kv_heads != 0)
        return pb_fail(err, PB_ERR_FORMAT, "%s: %d heads cannot be divided among %d key/value heads",
                       loading->config_path, spec->heads, spec->kv_heads);
    if ((int64_t)spec->heads * spec->d_head > 1 << 24)
        return pb_fail(err, PB_ERR_FORMAT,
                       "%s: %d heads of %d dimensions are more than Patchbay accepts (2^24 together)",
                       loading->config_path, spec->heads, spec->d_head);
    for (int i = 0; i < spec->n_rotaries; i++) {
        int dims = spec->rotaries[i].dims;
        if (dims < 2 || dims % 2 != 0 || dims > spec->d_head)
            return pb_fail(err, PB_ERR_FORMAT,
                           "%s: rotation of %d of the %d dimensions of a head: the number must be even, at least 2, at "
                           "most the head's",
                           loading->config_path, dims, spec->d_head);
    }
    return PB_OK;
}

/* ---- layers ----------------------------------------------------------------------------------------------------------- */

static pb_status read_window(pb_loading *loading, pb_error *err) {
    loading->window = 0;
    if (!loading->family->sliding)
        return PB_OK;
    const json_t *value = json_object_get(loading->config, "sliding_window");
    int64_t fallback = json_is_null(value) ? 0 : loading->family->window; /* an explicit null means none */
    return pb_config_size(loading, "sliding_window", 1, INT32_MAX, fallback, &loading->window, err);
}

/* Whether a layer slides by the list "layer_types". */
static pb_status layer_type(const pb_loading *loading, const json_t *types, int layer, bool *sliding, pb_error *err) {
    const char *name = json_string_value(json_array_get(types, (size_t)layer));
    bool full = name && strcmp(name, "full_attention") == 0;
    *sliding = name && strcmp(name, "sliding_attention") == 0;
    if (full || *sliding)
        return PB_OK;
    return pb_fail(err, PB_ERR_UNSUPPORTED,
                   "%s: layer_types[%d] is '%s'; known are full_attention and sliding_attention", loading->config_path,
                   layer, name ? name : "not a text");
}

static pb_status read_layers(pb_loading *loading, pb_error *err) {
    pb_spec *spec = loading->spec;
    spec->layer = pb_model_own(loading->model, (size_t)spec->layers, sizeof *spec->layer);
    if (!spec->layer)
        return pb_fail_memory(err, loading->ctx, (size_t)spec->layers * sizeof *spec->layer, "the model's layers");
    memset(spec->layer, 0, (size_t)spec->layers * sizeof *spec->layer);
    const json_t *types = NULL;
    if (loading->family->layer_types)
        PB_TRY(pb_json_array_or(loading->config, loading->config_path, "layer_types", &types, err));
    if (types && json_array_size(types) != (size_t)spec->layers)
        return pb_fail(err, PB_ERR_FORMAT, "%s: layer_types has %zu entries, but there are %d layers",
                       loading->config_path, json_array_size(types), spec->layers);
    for (int i = 0; i < spec->layers; i++) {
        pb_layer *layer = &spec->layer[i];
        bool sliding = loading->family->sliding && loading->window && loading->family->sliding(loading, i);
        if (types) {
            PB_TRY(layer_type(loading, types, i, &sliding, err));
            if (sliding && !loading->window)
                return pb_fail(err, PB_ERR_FORMAT,
                               "%s: layer_types[%d] is sliding_attention, but there is no sliding_window",
                               loading->config_path, i);
        }
        layer->window = sliding ? loading->window : 0;
        layer->attn_scale = (float)(1.0 / sqrt((double)spec->d_head));
        layer->rotary = spec->position == PB_POSITION_ROTARY ? 0 : -1;
    }
    return PB_OK;
}

static pb_status read_rotary(pb_loading *loading, pb_error *err) {
    pb_spec *spec = loading->spec;
    if (spec->position != PB_POSITION_ROTARY)
        return PB_OK;
    const pb_family *family = loading->family;
    pb_rotary *rotary = pb_model_own(loading->model, 1, sizeof *rotary);
    if (!rotary)
        return pb_fail_memory(err, loading->ctx, sizeof *rotary, "the rotary embedding");
    PB_TRY(pb_rotary_read(loading, "full_attention", true, family->theta_key ? family->theta_key : "rope_theta",
                          family->theta, rotary, err));
    spec->rotaries = rotary;
    spec->n_rotaries = 1;
    return PB_OK;
}

/* x rounded to bfloat16, to nearest even. */
static float round_to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Attention with linear biases: a geometric series of slopes, as transformers computes it in float32. */
static pb_status make_alibi(pb_loading *loading, pb_error *err) {
    pb_spec *spec = loading->spec;
    float *slopes = pb_model_own(loading->model, (size_t)spec->heads, sizeof *slopes);
    if (!slopes)
        return pb_fail_memory(err, loading->ctx, (size_t)spec->heads * sizeof *slopes, "the alibi slopes");
    int power = 1, log2 = 0;
    while (power * 2 <= spec->heads) {
        power *= 2;
        log2++;
    }
    double base = (float)pow(2.0, -pow(2.0, -(log2 - 3.0)));
    double between = (float)pow(2.0, -pow(2.0, -(log2 + 1 - 3.0)));
    for (int i = 0; i < spec->heads; i++)
        slopes[i] = (float)(i < power ? pow(base, i + 1) : pow(between, 2 * (i - power) + 1));
    for (int i = 0; spec->alibi_bf16 && i < spec->heads; i++)
        slopes[i] = round_to_bf16(slopes[i]);
    spec->alibi_slopes = slopes;
    return PB_OK;
}

/* ---- all together ------------------------------------------------------------------------------------------------------ */

static pb_status read_switches(pb_loading *loading, pb_error *err) {
    const pb_family *family = loading->family;
    pb_spec *spec = loading->spec;
    PB_TRY(pb_config_flag(loading, family->tied, &loading->tied, err));
    PB_TRY(pb_config_flag(loading, family->qkv_bias, &loading->qkv_bias, err));
    PB_TRY(pb_config_flag(loading, family->o_bias, &loading->o_bias, err));
    PB_TRY(pb_config_flag(loading, family->mlp_bias, &loading->mlp_bias, err));
    PB_TRY(pb_config_flag(loading, family->qk_norm_flag, &loading->qk_norm, err));
    double eps = family->eps;
    if (family->eps_key)
        PB_TRY(pb_config_number(loading, family->eps_key, family->eps, family->eps, &eps, err));
    if (eps < 0.0 || eps > 1e6)
        return pb_fail(err, PB_ERR_FORMAT, "%s: %s is %g; a small positive number was expected", loading->config_path,
                       family->eps_key, eps);
    const char *act = family->act;
    if (family->act_key)
        PB_TRY(pb_json_string_or(loading->config, loading->config_path, family->act_key, family->act, &act, err));
    PB_TRY(pb_act_parse(act, loading->config_path, &spec->act, err));
    spec->norm_eps = (float)eps;
    spec->qk_norm_eps = (float)eps;
    return PB_OK;
}

pb_status pb_config_read(pb_loading *loading, pb_error *err) {
    const pb_family *family = loading->family;
    pb_spec *spec = loading->spec;
    if (json_is_object(json_object_get(loading->config, "quantization_config")))
        return pb_fail(err, PB_ERR_UNSUPPORTED,
                       "%s: the weights are quantised (quantization_config); Patchbay reads f32, f16 and bf16",
                       loading->config_path);
    loading->names = family->names;
    loading->block = family->block;
    loading->norm_plain = family->norm_plain;
    loading->norm_bias = family->norm_bias;
    loading->unembed_bias = family->unembed_bias;
    spec->norm_place = family->norm_place;
    spec->norm_centre = family->norm_centre;
    spec->has_final_norm = true;
    spec->position = family->position;
    spec->position_offset = family->position_offset;
    spec->qk_norm_centre = family->qk_norm_centre;
    spec->query_factor = 1.0f;
    spec->embed_scale = 1.0f;
    spec->residual_scale = 1.0f;
    spec->logit_scale = 1.0f;
    spec->gated = family->gated;
    spec->has_embed_norm = family->names.embed_norm != NULL;
    PB_TRY(read_sizes(loading, err));
    PB_TRY(read_switches(loading, err));
    spec->qk_norm = loading->qk_norm ? family->qk_norm : PB_QK_NORM_NONE;
    if (family->embed_scale_sqrt)
        spec->embed_scale = (float)sqrt((double)spec->d_model);
    PB_TRY(read_window(loading, err));
    PB_TRY(read_layers(loading, err));
    PB_TRY(read_rotary(loading, err));
    if (family->adapt)
        PB_TRY(family->adapt(loading, err));
    if (spec->position == PB_POSITION_ALIBI) {
        PB_TRY(make_alibi(loading, err));
        spec->max_positions = 0;
    }
    spec->block = loading->block;
    return check_sizes(loading, err);
}
