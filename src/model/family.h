/* The table of architectures: what distinguishes one family from another, as data.
 *
 * A row says how the family spells its configuration and its weights, and which of the engine's variations it uses. What
 * a row cannot say in fields is a small named function in hooks.c that the row points to. There is no other place that
 * knows a family's name. */
#ifndef PB_MODEL_FAMILY_H
#define PB_MODEL_FAMILY_H

#include "model/spec.h"

typedef struct pb_loading pb_loading;

/* A whole number of config.json. keys: alternatives separated by '|', the first that is there counts. fallback: what
 * transformers assumes when none is there (its save_pretrained of version 4 leaves defaults out); 0: derived from others. */
typedef struct pb_size_key {
    const char *keys;
    int64_t fallback;
} pb_size_key;

/* A switch of config.json; key NULL: always the fallback. */
typedef struct pb_flag_key {
    const char *key;
    bool fallback;
} pb_flag_key;

/* How the three projections are stored. */
typedef enum pb_qkv_layout {
    PB_QKV_SEPARATE, /* three tensors */
    PB_QKV_COLUMNS,  /* one [in, q | k | v], GPT-2's Conv1D */
    PB_QKV_ROWS,     /* one [q | k | v, in] */
    PB_QKV_GROUPED /* one, per key/value head: its query heads, then k, then v (NeoX, Bloom and Falcon are cases of it) */
} pb_qkv_layout;

/* Names of weights. Those of a layer lack the layer's prefix and hold no number, but for the experts' and per-head norms'
 * "%d". NULL: the family has none. "weight" and "bias" are appended with a dot. */
typedef struct pb_weight_names {
    const char *embed, *pos_embed, *embed_norm, *project_in, *project_out, *ln_final, *unembed;
    const char *layer; /* prefix with "%d" */
    const char *ln1, *ln2, *ln1_post, *ln2_post, *q_norm, *k_norm;
    const char *q, *k, *v, *qkv, *o;
    const char *mlp_in, *mlp_linear, *mlp_gate_up, *mlp_out;
    const char *router, *expert_in, *expert_linear, *expert_out;
} pb_weight_names;

enum { PB_FAMILY_BUFFERS = 4 };

typedef struct pb_family {
    const char *model_type;
    /* The model_type of a multimodal model that has one of this family as its text model: its configuration is under
     * "text_config" there, and only its weights are read. NULL: none. */
    const char *wrapped_in;
    const char *prefix; /* of every weight but the unembedding; some checkpoints lack it; NULL: none */
    pb_weight_names names;
    const char *buffers[PB_FAMILY_BUFFERS]; /* of a layer: stored by old versions, computed now; may be left over */

    /* configuration */
    pb_size_key layers, width, heads, kv_heads, head_dim, mlp, vocab, positions;
    int mlp_factor;      /* d_mlp when it is not said: this many times d_model; 0: then it must be said */
    const char *act_key; /* NULL: act always */
    const char *act;     /* transformers' name */
    const char *eps_key; /* NULL: eps always */
    double eps;
    pb_flag_key tied;
    pb_flag_key qkv_bias, o_bias, mlp_bias;
    bool unembed_bias;

    /* the computation */
    pb_block_form block;
    pb_norm_place norm_place;
    bool norm_centre, norm_bias;
    bool norm_plain;    /* norms without weight and bias (OLMo) */
    bool norm_plus_one; /* weights are stored less one (Gemma) */
    pb_qk_norm qk_norm;
    bool qk_norm_centre, qk_norm_bias;
    bool qk_norm_split;       /* one tensor per head */
    pb_flag_key qk_norm_flag; /* whether there is one at all */
    pb_position_kind position;
    int position_offset;
    bool rotary_interleaved;
    bool rotary_partial;     /* knows partial_rotary_factor */
    double partial;          /* its default */
    const char *partial_key; /* old spelling, NULL: partial_rotary_factor */
    const char *theta_key;   /* old spelling, NULL: rope_theta */
    double theta;
    bool gated, in_major;
    pb_qkv_layout qkv;
    bool embed_scale_sqrt; /* Gemma */
    /* keys j with query - j < window. sliding: which layers have one; NULL: none has. */
    int64_t window; /* default of "sliding_window"; 0: none */
    bool (*sliding)(const pb_loading *loading, int layer);
    bool layer_types; /* a "layer_types" list overrules `sliding` */

    pb_status (*adapt)(pb_loading *loading,
                       pb_error *err); /* what fields cannot say; runs after everything above is read */
} pb_family;

const pb_family *pb_family_find(const char *model_type);    /* NULL if unknown */
const pb_family *pb_family_wrapped(const char *model_type); /* of the text model; NULL if it is no such wrapper */
size_t pb_family_count(void);
const pb_family *pb_family_at(size_t i);

/* ---- hooks.c ---------------------------------------------------------------------------------------------------- */

bool pb_sliding_all(const pb_loading *loading, int layer);
bool pb_sliding_even(const pb_loading *loading, int layer);
bool pb_sliding_pattern(const pb_loading *loading, int layer);
bool pb_sliding_upper(const pb_loading *loading, int layer);
bool pb_sliding_unrotated(const pb_loading *loading, int layer);

pb_status pb_adapt_gpt2(pb_loading *loading, pb_error *err);
pb_status pb_adapt_gpt_neo(pb_loading *loading, pb_error *err);
pb_status pb_adapt_gptj(pb_loading *loading, pb_error *err);
pb_status pb_adapt_gpt_neox(pb_loading *loading, pb_error *err);
pb_status pb_adapt_opt(pb_loading *loading, pb_error *err);
pb_status pb_adapt_bloom(pb_loading *loading, pb_error *err);
pb_status pb_adapt_falcon(pb_loading *loading, pb_error *err);
pb_status pb_adapt_mixtral(pb_loading *loading, pb_error *err);
pb_status pb_adapt_smollm3(pb_loading *loading, pb_error *err);
pb_status pb_adapt_gemma(pb_loading *loading, pb_error *err);
pb_status pb_adapt_gemma2(pb_loading *loading, pb_error *err);
pb_status pb_adapt_gemma3(pb_loading *loading, pb_error *err);
pb_status pb_adapt_olmo(pb_loading *loading, pb_error *err);
pb_status pb_adapt_stablelm(pb_loading *loading, pb_error *err);
pb_status pb_adapt_granite(pb_loading *loading, pb_error *err);
pb_status pb_adapt_cohere(pb_loading *loading, pb_error *err);

#endif
