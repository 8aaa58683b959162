/* What the engine needs to know of a model: the architecture as data, and views on its weights. Filled by the loader from
 * the family's row in families.c and config.json; read-only afterwards. The engine has no `if (family == ...)`: whatever
 * distinguishes two families is a field here. */
#ifndef PB_MODEL_SPEC_H
#define PB_MODEL_SPEC_H

#include "patchbay/model.h"
#include "tensor/gemm.h"
#include "tensor/kernels.h"

typedef enum pb_norm_place {
    PB_NORM_PRE,      /* x + f(norm(x)): ln1, ln2 */
    PB_NORM_SANDWICH, /* x + post(f(norm(x))): ln1, ln1_post, ln2, ln2_post (gemma2, gemma3) */
    PB_NORM_OUTPUT,   /* x + post(f(x)): ln1_post, ln2_post only (olmo2) */
    PB_NORM_POST_ADD /* norm(x + f(x)): resid_mid = ln1(resid_pre + attn_out), resid_post = ln2(resid_mid + mlp_out) (opt-350m) */
} pb_norm_place;

typedef enum pb_block_form {
    PB_BLOCK_SEQUENTIAL,     /* attention, then mlp on resid_mid */
    PB_BLOCK_PARALLEL,       /* both read resid_pre, each through its own norm (ln1, ln2): NeoX, falcon-new */
    PB_BLOCK_PARALLEL_SHARED /* both read ln1's output; there is no ln2: GPT-J, phi, falcon, cohere, stablelm-parallel */
} pb_block_form;

typedef enum pb_position_kind {
    PB_POSITION_NONE,
    PB_POSITION_LEARNED,
    PB_POSITION_ROTARY,
    PB_POSITION_ALIBI
} pb_position_kind;

/* One way of rotating; layers choose among the model's rotaries. */
typedef struct pb_rotary {
    int dims; /* rotated part of the head, even */
    bool interleaved;
    float factor;          /* attention factor on cosine and sine (yarn, longrope); 1 */
    const float *inv_freq; /* [dims / 2] */
    /* longrope: sequences longer than long_from use these instead. long_from 0: never. */
    int64_t long_from;
    float long_factor;
    const float *long_inv_freq;
    /* dynamic: sequences longer than dynamic_from turn by a base that grows with their length (pb_rotary_dynamic). 0: never. */
    int64_t dynamic_from;
    double dynamic_factor, theta;
} pb_rotary;

/* inv_freq [dims / 2] of a sequence of T > dynamic_from tokens. */
void pb_rotary_dynamic(const pb_rotary *rotary, int64_t T, float *inv_freq);

typedef enum pb_qk_norm {
    PB_QK_NORM_NONE,
    PB_QK_NORM_SHARED /* weight [d_head] */,
    PB_QK_NORM_PER_HEAD /* [heads, d_head] */,
    PB_QK_NORM_FULL /* over the whole width [heads * d_head] */
} pb_qk_norm;

typedef struct pb_norm_weights {
    const float *weight, *bias;
} pb_norm_weights; /* NULL: 1, 0; Gemma's 1 + w is already added */

typedef struct pb_layer {
    pb_norm_weights ln1, ln2, ln1_post, ln2_post, q_norm, k_norm;
    pb_matrix q, k, v;    /* D -> heads * d_head, kv_heads * d_head (head-major outputs after blocks are resolved) */
    pb_matrix o;          /* heads * d_head -> D */
    pb_matrix mlp_in;     /* D -> d_mlp (plain), or the gate's branch */
    pb_matrix mlp_linear; /* D -> d_mlp, the other branch; data NULL when not gated */
    pb_matrix mlp_out;    /* d_mlp -> D */
    /* mixture of experts (spec.experts > 0): the plain matrices above are empty */
    pb_matrix router;                                        /* D -> experts */
    const pb_matrix *expert_in, *expert_linear, *expert_out; /* [experts] */
    float attn_scale;                                        /* scores = q . k * attn_scale */
    float softcap;                                           /* of the scores, 0: none */
    int64_t window;                                          /* keys j with query - j < window; 0: all */
    int rotary; /* index into spec.rotaries; -1: this layer does not rotate */
} pb_layer;

typedef struct pb_spec {
    int layers, d_model, heads, kv_heads, d_head, d_mlp, vocab, max_positions, d_embed /* = d_model but for opt-350m */;
    pb_block_form block;
    pb_norm_place norm_place;
    bool norm_centre; /* LayerNorm, else RMSNorm (ln1, ln2, ln_final, post norms) */
    float norm_eps;
    bool has_final_norm;
    pb_position_kind position;
    int position_offset; /* learned: row of position 0 (OPT: 2) */
    int n_rotaries;
    const pb_rotary *rotaries;
    const float *alibi_slopes; /* [heads] or NULL */
    bool alibi_bf16;           /* Falcon, see kernels.h */
    pb_qk_norm qk_norm;
    bool qk_norm_centre; /* LayerNorm (stablelm, cohere), else RMSNorm */
    float qk_norm_eps;
    float clip_qkv; /* 0: none; else q, k, v clamped to +-clip before rotation, after the hook (olmo) */
    float
        query_factor; /* q is multiplied by this after the hook and before scores (OPT scales q with its bias); folded into attn_scale: 1 */
    float embed_scale;    /* token embedding * this (gemma: sqrt(d) rounded as HF has it; granite); 1 */
    float residual_scale; /* attn_out and mlp_out * this before they are added (granite); 1. The hook is after it. */
    float logit_scale;    /* logits * this (cohere, granite 1/logits_scaling); 1 */
    float final_softcap;  /* 0: none; else cap * tanh(logits / cap) */
    pb_act act;
    bool gated;
    int experts, experts_per_token;
    bool renormalise_experts; /* mixtral: softmax over all, top-k weights divided by their sum */
    pb_matrix embed;          /* the table as a map d_embed -> vocab, [vocab, d_embed]: row o is token o's embedding */
    pb_matrix pos_embed;      /* [positions, D]; data NULL without learned positions */
    pb_norm_weights embed_norm;
    bool has_embed_norm;               /* bloom: LayerNorm after the embedding */
    pb_matrix project_in, project_out; /* opt-350m: d_embed -> D, D -> d_embed; data NULL elsewhere */
    pb_norm_weights ln_final;
    pb_matrix unembed; /* D (or d_embed) -> vocab */
    pb_layer *layer;   /* [layers] */
} pb_spec;

/* Where numbers that the spec points to are stored: number i of them is element first + (i / block) * stride + i % block of
 * the weight (pb_model_weight_name). Matrices: only `weight` and `first` count; their own strides lead on from there. */
typedef struct pb_origin {
    size_t weight;
    int64_t first, block, stride;
} pb_origin;

/* The origin of a matrix's data or of a vector (bias, norm) of the spec; false for NULL and for what processing made. */
bool pb_model_origin(const pb_model *model, const void *data, pb_origin *out);

/* Names the first weight of a layer (-1: the embedding; the number of layers: what comes after them) that holds NaN or infinity:
 * "tensor 'h.0.mlp.c_fc.weight' of model.safetensors is NaN at [3, 7]", into text. False: there is none. Reads the weights; of a
 * model with weight processing, all of them. */
bool pb_model_find_nonfinite(const pb_model *model, int layer, char *text, size_t size);

const pb_spec *pb_model_spec(const pb_model *model);
const pb_load_options *pb_model_options(const pb_model *model); /* that it was loaded with */
/* Was it loaded with any weight processing? Its weights are copies then, which no name of the file stands for. */
bool pb_model_is_processed(const pb_model *model);

/* pb_norm of the model's width for weights w (kernels.h). */
pb_norm pb_spec_norm(const pb_spec *spec, pb_norm_weights w);

#endif
