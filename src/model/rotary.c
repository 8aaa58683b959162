/* Rotary embeddings: inverse frequencies from config.json in both spellings (rope_parameters of transformers 5; rope_theta,
 * rope_scaling, rotary_pct and others before), in float32 step by step as transformers computes them. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "model/loading.h"

/* What the configuration says of one rotation. */
typedef struct rope {
    const json_t *object; /* rope_parameters or rope_scaling, or the entry of a layer type; NULL: neither */
    char where[512];      /* the file and the object, for messages */
    const char *type;
    double theta;
    int dims;
    int half;
    double original; /* positions the model was trained on before it was stretched */
    int64_t max_positions;
} rope;

/* rope_scaling overrules rope_parameters, as in transformers. An object by layer type holds objects under their names. */
static pb_status find_object(const pb_loading *loading, const char *layer_type, rope *r, pb_error *err) {
    const char *key = "rope_scaling";
    PB_TRY(pb_json_object_or(loading->config, loading->config_path, key, &r->object, err));
    if (!r->object || json_object_size(r->object) == 0) {
        key = "rope_parameters";
        PB_TRY(pb_json_object_or(loading->config, loading->config_path, key, &r->object, err));
    }
    snprintf(r->where, sizeof r->where, "%.400s: %s", loading->config_path, key);
    if (r->object && json_is_object(json_object_get(r->object, layer_type))) {
        r->object = json_object_get(r->object, layer_type);
        snprintf(r->where, sizeof r->where, "%.400s: %s.%s", loading->config_path, key, layer_type);
    }
    return PB_OK;
}

static pb_status positive(const rope *r, const char *key, double fallback, double *out, pb_error *err) {
    *out = fallback;
    if (r->object)
        PB_TRY(pb_json_number_or(r->object, r->where, key, fallback, out, err));
    if (!isfinite(*out) || *out <= 0.0)
        return pb_fail(err, PB_ERR_FORMAT, "%s: %s is %g; a positive number was expected", r->where, key, *out);
    return PB_OK;
}

static pb_status required(const rope *r, const char *key, double *out, pb_error *err) {
    PB_TRY(pb_json_number(r->object, r->where, key, out, err));
    if (!isfinite(*out) || *out <= 0.0)
        return pb_fail(err, PB_ERR_FORMAT, "%s: %s is %g; a positive number was expected", r->where, key, *out);
    return PB_OK;
}

/* theta and the rotated part: in the object, else at the top in the old spelling, else the family's default. */
static pb_status read_basics(pb_loading *loading, const char *theta_key, double theta, rope *r, pb_error *err) {
    const pb_family *family = loading->family;
    const pb_spec *spec = loading->spec;
    PB_TRY(pb_config_number(loading, theta_key, theta, theta, &theta, err));
    PB_TRY(positive(r, "rope_theta", theta, &r->theta, err));
    double partial = family->rotary_partial ? family->partial : 1.0;
    PB_TRY(pb_config_number(loading, "partial_rotary_factor", partial, partial, &partial, err));
    if (family->partial_key)
        PB_TRY(pb_config_number(loading, family->partial_key, partial, partial, &partial, err));
    PB_TRY(positive(r, "partial_rotary_factor", partial, &partial, err));
    if (partial > 1.0)
        return pb_fail(err, PB_ERR_FORMAT, "%s: partial_rotary_factor is %g; more than the whole head cannot rotate",
                       r->where, partial);
    if (!family->rotary_partial && partial != 1.0)
        return pb_fail(err, PB_ERR_UNSUPPORTED, "%s: partial_rotary_factor is %g, but %s rotates whole heads", r->where,
                       partial, family->model_type);
    r->dims = (int)((double)spec->d_head * partial);
    r->half = r->dims / 2; /* that dims is even is checked when the family's hook is through */
    r->max_positions = spec->max_positions;
    r->type = "default";
    if (r->object) {
        PB_TRY(pb_json_string_or(r->object, r->where, "type", "default", &r->type, err));
        PB_TRY(pb_json_string_or(r->object, r->where, "rope_type", r->type, &r->type, err));
    }
    double top = r->max_positions > 0 ? (double)r->max_positions : 2048.0;
    PB_TRY(positive(r, "original_max_position_embeddings", top, &r->original, err));
    /* a value at the top of the file counts more than the object's: Phi-3 keeps it there */
    return pb_config_number(loading, "original_max_position_embeddings", r->original, r->original, &r->original, err);
}

/* theta ^ (2 i / dims) in float32 */
static float base_power(const rope *r, int i) {
    float exponent = (float)(2 * i) / (float)r->dims;
    return (float)pow((double)(float)r->theta, (double)exponent);
}

static void plain(const rope *r, float *inv_freq) {
    for (int i = 0; i < r->half; i++)
        inv_freq[i] = 1.0f / base_power(r, i);
}

static pb_status linear(const rope *r, float *inv_freq, pb_error *err) {
    double factor;
    PB_TRY(required(r, "factor", &factor, err));
    plain(r, inv_freq);
    for (int i = 0; i < r->half; i++)
        inv_freq[i] /= (float)factor;
    return PB_OK;
}

/* Llama 3.1: long waves are stretched, short ones kept, those between interpolated. */
static pb_status llama3(const rope *r, float *inv_freq, pb_error *err) {
    double factor, low, high;
    PB_TRY(required(r, "factor", &factor, err));
    PB_TRY(required(r, "low_freq_factor", &low, err));
    PB_TRY(required(r, "high_freq_factor", &high, err));
    if (high == low)
        return pb_fail(err, PB_ERR_FORMAT, "%s: low_freq_factor and high_freq_factor are both %g; they must differ",
                       r->where, low);
    plain(r, inv_freq);
    float low_wave = (float)(r->original / low), high_wave = (float)(r->original / high);
    for (int i = 0; i < r->half; i++) {
        float wave = (float)(2.0 * 3.14159265358979323846) / inv_freq[i];
        float stretched = wave > low_wave ? inv_freq[i] / (float)factor : inv_freq[i];
        if (!(wave < high_wave) && !(wave > low_wave)) {
            float smooth = ((float)r->original / wave - (float)low) / (float)(high - low);
            stretched = (1.0f - smooth) * stretched / (float)factor + smooth * stretched;
        }
        inv_freq[i] = stretched;
    }
    return PB_OK;
}

static double yarn_scale(double factor, double mscale) {
    return factor <= 1.0 ? 1.0 : 0.1 * mscale * log(factor) + 1.0;
}

/* Dimension at which a wave turns `rotations` times within the original length. */
static double yarn_dimension(const rope *r, double rotations) {
    return (double)r->dims * log(r->original / (rotations * 2.0 * 3.14159265358979323846)) / (2.0 * log(r->theta));
}

static pb_status yarn(const rope *r, float *inv_freq, float *attention_factor, pb_error *err) {
    double factor, fast, slow, scale;
    bool truncate;
    PB_TRY(positive(r, "factor", (double)r->max_positions / r->original, &factor, err));
    PB_TRY(positive(r, "beta_fast", 32.0, &fast, err));
    PB_TRY(positive(r, "beta_slow", 1.0, &slow, err));
    PB_TRY(pb_json_bool_or(r->object, r->where, "truncate", true, &truncate, err));
    double mscale, mscale_all;
    PB_TRY(pb_json_number_or(r->object, r->where, "mscale", 0.0, &mscale, err));
    PB_TRY(pb_json_number_or(r->object, r->where, "mscale_all_dim", 0.0, &mscale_all, err));
    scale = mscale != 0.0 && mscale_all != 0.0 ? yarn_scale(factor, mscale) / yarn_scale(factor, mscale_all)
                                               : yarn_scale(factor, 1.0);
    PB_TRY(positive(r, "attention_factor", scale, &scale, err));
    *attention_factor = (float)scale;
    double low = yarn_dimension(r, fast), high = yarn_dimension(r, slow);
    if (truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0.0);
    high = fmin(high, r->dims - 1);
    if (low == high)
        high += 0.001;
    for (int i = 0; i < r->half; i++) {
        float power = base_power(r, i);
        float ramp = ((float)i - (float)low) / (float)(high - low);
        float keep = 1.0f - fminf(fmaxf(ramp, 0.0f), 1.0f);
        float stretched = 1.0f / ((float)factor * power);
        inv_freq[i] = stretched * (1.0f - keep) + 1.0f / power * keep;
    }
    return PB_OK;
}

/* LongRoPE: a divisor per frequency, one list for sequences up to the original length and one for longer ones. */
static pb_status longrope_list(const rope *r, const char *key, float *inv_freq, pb_error *err) {
    const json_t *list;
    PB_TRY(pb_json_array(r->object, r->where, key, &list, err));
    if (json_array_size(list) != (size_t)r->half)
        return pb_fail(err, PB_ERR_FORMAT,
                       "%s: %s has %zu entries; half of the %d rotated dimensions, %d, were expected", r->where, key,
                       json_array_size(list), r->dims, r->half);
    for (int i = 0; i < r->half; i++) {
        const json_t *item = json_array_get(list, (size_t)i);
        double value = json_number_value(item);
        if (!json_is_number(item) || !(value > 0.0))
            return pb_fail(err, PB_ERR_FORMAT, "%s: %s[%d] is not a positive number", r->where, key, i);
        inv_freq[i] = 1.0f / ((float)value * base_power(r, i));
    }
    return PB_OK;
}

static pb_status longrope(const rope *r, pb_rotary *out, float *short_freq, float *long_freq, pb_error *err) {
    PB_TRY(longrope_list(r, "short_factor", short_freq, err));
    PB_TRY(longrope_list(r, "long_factor", long_freq, err));
    double factor, scale = 1.0;
    PB_TRY(positive(r, "factor", (double)r->max_positions / r->original, &factor, err));
    if (factor > 1.0)
        scale = sqrt(1.0 + log(factor) / log(r->original));
    PB_TRY(positive(r, "attention_factor", scale, &scale, err));
    out->factor = (float)scale;
    out->long_from = (int64_t)r->original;
    out->long_factor = (float)scale;
    out->long_inv_freq = long_freq;
    return PB_OK;
}

/* Dynamic NTK: plain up to the trained length; beyond it the base grows so that the slowest wave spans the sequence. */
static pb_status dynamic(pb_loading *loading, const rope *r, pb_rotary *out, float *inv_freq, pb_error *err) {
    double factor;
    PB_TRY(required(r, "factor", &factor, err));
    if (r->dims <= 2 || r->max_positions <= 0)
        return pb_fail(err, PB_ERR_FORMAT,
                       "%s: dynamic rotation of %d dimensions and %lld positions: more than 2 dimensions and a number "
                       "of positions were expected",
                       r->where, r->dims, (long long)r->max_positions);
    plain(r, inv_freq);
    out->dynamic_from = r->max_positions;
    out->dynamic_factor = factor;
    out->theta = r->theta;
    loading->spec->max_positions = 0; /* longer sequences are what it is for */
    return PB_OK;
}

void pb_rotary_dynamic(const pb_rotary *rotary, int64_t T, float *inv_freq) {
    float stretch =
        (float)rotary->dynamic_factor * (float)T / (float)rotary->dynamic_from - (float)(rotary->dynamic_factor - 1.0);
    float grown = (float)pow((double)stretch, rotary->dims / (rotary->dims - 2.0));
    const rope r = {.theta = (double)((float)rotary->theta * grown), .dims = rotary->dims, .half = rotary->dims / 2};
    plain(&r, inv_freq);
}

pb_status pb_rotary_read(pb_loading *loading, const char *layer_type, bool scaled, const char *theta_key, double theta,
                         pb_rotary *out, pb_error *err) {
    rope r = {0};
    PB_TRY(find_object(loading, layer_type, &r, err));
    if (!scaled && r.object &&
        !json_is_object(json_object_get(json_object_get(loading->config, "rope_parameters"), layer_type)))
        r.object = NULL; /* an old rope_scaling is of the other layers */
    PB_TRY(read_basics(loading, theta_key, theta, &r, err));
    float *inv_freq = pb_model_own(loading->model, 2 * (size_t)r.half, sizeof *inv_freq);
    if (!inv_freq)
        return pb_fail_memory(err, loading->ctx, 2 * (size_t)r.half * sizeof *inv_freq, "the rotary frequencies");
    *out = (pb_rotary){
        .dims = r.dims, .interleaved = loading->family->rotary_interleaved, .factor = 1.0f, .inv_freq = inv_freq};
    if (strcmp(r.type, "default") == 0) {
        plain(&r, inv_freq);
        return PB_OK;
    }
    if (strcmp(r.type, "linear") == 0)
        return linear(&r, inv_freq, err);
    if (strcmp(r.type, "llama3") == 0)
        return llama3(&r, inv_freq, err);
    /* Phi-3's first checkpoints call LongRoPE "su", or "yarn" with LongRoPE's lists */
    bool lists = json_is_array(json_object_get(r.object, "long_factor"));
    if (strcmp(r.type, "longrope") == 0 || (lists && (strcmp(r.type, "su") == 0 || strcmp(r.type, "yarn") == 0)))
        return longrope(&r, out, inv_freq, inv_freq + r.half, err);
    if (strcmp(r.type, "yarn") == 0)
        return yarn(&r, inv_freq, &out->factor, err);
    if (strcmp(r.type, "dynamic") == 0)
        return dynamic(loading, &r, out, inv_freq, err);
    return pb_fail(err, PB_ERR_UNSUPPORTED,
                   "%s: rope type '%s' is not supported; known are default, linear, dynamic, llama3, yarn, longrope",
                   r.where, r.type);
}
