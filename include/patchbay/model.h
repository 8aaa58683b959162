/* Model: a Hugging Face folder opened for reading, or a configuration with weights in memory: configuration, weights,
 * tokenizer, and the table of its sites. Runs keep it alive. What it is never changes; the values of weights that are
 * tensors in memory may, between runs, by their owner's hand. */
#ifndef PATCHBAY_MODEL_H
#define PATCHBAY_MODEL_H

#include "patchbay/tensor.h"
#include "patchbay/tensorio.h"
#include "patchbay/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pb_model pb_model;

typedef struct pb_load_options {
    /* TransformerLens's weight processing, each on its own, all off by default (raw weights give Hugging Face's numbers). */
    bool fold_ln, center_writing_weights, center_unembed, fold_value_biases;
    /* Keep no more of the weights resident than one layer: a pass asks for the next layer's pages while it computes the present
     * one, and lets go of a layer's pages when all its variants are through it. Values are the same to the bit. The largest
     * layer's bytes (pb_model_stream_window) are charged to the context's budget while the model lives. Without this option
     * a model is streamed, and a warning says so, when its weights as stored are more than the budget has left. Not together
     * with weight processing (PB_ERR_UNSUPPORTED), nor for matrices that are not used as they lie in the file (F64, odd
     * offsets). */
    bool stream;
} pb_load_options;

/* folder: holds config.json and model.safetensors, pytorch_model.bin, or one of their .index.json with the shards (looked for
 * in this order: safetensors, its index, PyTorch, its index); tokenizer.json is optional.
 * Or a GGUF file (llama.cpp's; F32, F16, BF16, Q8_0), or a folder that has one and none of the above: its metadata stand for
 * config.json, and for tokenizer.json where there is none beside it. Mapped like the others, but for tensors that are stored
 * otherwise than in a Hugging Face checkpoint, which are copied (q and k of the Llama kind, q with k and v of NeoX, Bloom and
 * Falcon, GPT-2's matrices), and Q8_0, which is widened to float32 when it is opened.
 * options may be NULL. Opening maps the weights and checks every name and shape against the configuration; it reads
 * none of the matrices. Errors name the file, the tensor or the key. Unknown architecture: lists the known ones. */
pb_status pb_model_open(pb_context *ctx, const char *folder, const pb_load_options *options, pb_model **out,
                        pb_error *err);
/* Whether there is anything at path that pb_model_open would try: a folder with config.json or a .gguf file in it, or such a
 * file itself. */
bool pb_model_is_at(const char *path);

/* ---- weights in memory ------------------------------------------------------------------------------------------------- */

typedef struct pb_model_parts {
    const char *name;   /* NULL: "made" */
    const char *config; /* text of a config.json */
    const char *folder; /* where the tokenizer's files are, for pb_model_export and messages; NULL: nowhere */
    const pb_named_tensor *weights;
    size_t n_weights;
    pb_tokenizer *tokenizer; /* NULL: token ids only */
} pb_model_parts;

/* A model whose weights are tensors, under the checkpoint's names and in its shapes: exactly those that the configuration
 * asks for. Each is float32 and contiguous, and shared, not copied: its owner may change its values while no run is being
 * made. Matrices are read where they are, so that changes count at once; vectors (norms, biases) are copied, and
 * pb_model_refresh copies them again. Runs made before a change keep what they remember and must not be patched after it.
 * A tied unembedding that is given as well must be the embedding's own tensor to stay tied; any other is an unembedding of its
 * own. Other tensors must not share memory. Errors name the tensor. */
pb_status pb_model_create(pb_context *ctx, const pb_model_parts *parts, pb_model **out, pb_error *err);
/* A model like base with these weights instead of its own (as above: shared, float32); it shares all others, the files and
 * the tokenizer. Names must be weights of base (pb_model_weight_name), shapes the same. Weight processing that base was loaded
 * with is done again. A stored copy of a tied embedding follows a new embedding. Called NAME (edited). */
pb_status pb_model_with_weights(const pb_model *base, const pb_named_tensor *weights, size_t n, pb_model **out,
                                pb_error *err);
/* Copies the vectors again after tensors in memory have changed. No run may be in the making. PB_ERR_UNSUPPORTED for a model
 * with weight processing. */
pb_status pb_model_refresh(pb_model *model, pb_error *err);

/* Writes the model as a Hugging Face folder: model.safetensors with the checkpoint's names, the tokenizer's files where the
 * model came from a folder that has them, and config.json last. dtype: F32, F16, BF16 for all float weights; PB_STORED_OTHER:
 * what they all have, or F32 where they differ (nothing is lost). config.json is as it was read, but for its torch_dtype
 * (dtype) when that is another now. The folder is made if need be; files in it are replaced, each at once. Refused: a model with
 * weight processing (no architecture has a name for such weights), a value that dtype cannot hold, a folder with a sharded
 * model. */
pb_status pb_model_export(const pb_model *model, const char *folder, pb_stored dtype, pb_error *err);

/* ---- what a model is ---------------------------------------------------------------------------------------------------- */

pb_model *pb_model_ref(pb_model *model);
void pb_model_unref(pb_model *model);

pb_context *pb_model_context(const pb_model *model);
const char *pb_model_config(const pb_model *model); /* text of config.json, as read */
const char *pb_model_folder(const pb_model *model); /* "" for a model made in memory */
const char *pb_model_name(const pb_model *model);   /* last part of the folder's path; others: as it was made */
const char *pb_model_family(const pb_model *model); /* config's model_type: "gpt2", "llama", ... */
int pb_model_layers(const pb_model *model);
int pb_model_heads(const pb_model *model);
int pb_model_kv_heads(const pb_model *model);
int pb_model_d_model(const pb_model *model);
int pb_model_d_head(const pb_model *model);
int pb_model_d_mlp(const pb_model *model);
int pb_model_vocab(const pb_model *model);
int pb_model_max_positions(const pb_model *model);    /* 0: the architecture sets no limit */
int64_t pb_model_parameters(const pb_model *model);   /* tied weights count once */
int64_t pb_model_weight_bytes(const pb_model *model); /* as stored */
bool pb_model_streamed(const pb_model *model);
size_t pb_model_stream_window(const pb_model *model);    /* bytes; 0: not streamed */
pb_tokenizer *pb_model_tokenizer(const pb_model *model); /* borrowed; NULL if the folder has none */
/* SHA-256 (hex, 65 bytes with NUL) over config.json, the weight files' contents, and the names, shapes and present values of
 * tensors in memory; reads the files. */
pb_status pb_model_hash(const pb_model *model, char out[65], pb_error *err);
/* The same from a file in the folder `cache` (made if need be; NULL or "": none), if it was asked before and no weight file has
 * another path, file number, size or time of change since. Never for tensors in memory or for files younger than 3 seconds.
 * A cache that cannot be read or written costs time only. */
pb_status pb_model_hash_cached(const pb_model *model, const char *cache, char out[65], pb_error *err);
/* Stored types of the weights in use, most bytes first: "BF16 and F32". Into buffer (at least 96 bytes), which is returned. */
char *pb_model_dtypes(const pb_model *model, char *buffer, size_t size);
/* What they are stored in: "safetensors (2 files) and memory (1 tensor)". Likewise. */
char *pb_model_storage(const pb_model *model, char *buffer, size_t size);
/* A weight by its Hugging Face name as float32 [shape as stored] (a copy), for scripts that look at weights. */
pb_status pb_model_weight(const pb_model *model, const char *name, pb_tensor **out, pb_error *err);
size_t pb_model_weight_count(const pb_model *model);
const char *pb_model_weight_name(const pb_model *model, size_t i);
/* The weight that weight i is a stored copy of: the embedding, for an unembedding that is tied to it and was stored all the
 * same (pb_model_create: given as the same tensor). Its index, or pb_model_weight_count for every other weight. */
size_t pb_model_weight_original(const pb_model *model, size_t i);
/* A weight in TransformerLens's shape and name: embed.W_E [vocab, D], pos_embed.W_pos, blocks.i.attn.W_Q [heads, D, dh],
 * W_K W_V (kv heads), W_O [heads, dh, D], b_Q [heads, dh] ..., b_O, mlp.W_in [D, d_mlp], W_gate, W_out, b_in, b_out,
 * ln1.w ln1.b ln2.*, ln_final.*, unembed.W_U [D, vocab], b_U. Where the family has them also ln1_post.*, ln2_post.*,
 * attn.q_norm.* attn.k_norm.*, embed_norm.*, project_in, project_out, mlp.W_router [D, experts], mlp.experts.e.W_in (W_gate,
 * W_out). A gated mlp's W_gate is the branch with the activation, W_in the other. A copy, after weight processing if there
 * was any. Absent biases are zeros and weights of a norm without them ones (Gemma's 1 + w is added); other absent names are
 * an error. */
pb_status pb_model_parameter(const pb_model *model, const char *name, pb_tensor **out, pb_error *err);

/* ---- sites ------------------------------------------------------------------------------------------------------------------ */

/* In the order of the computation within a layer (a patch at a smaller kind acts before one at a larger kind). */
typedef enum pb_site_kind {
    PB_SITE_EMBED,
    PB_SITE_POS_EMBED,
    PB_SITE_RESID_PRE,
    PB_SITE_ATTN_IN,
    PB_SITE_Q_INPUT,
    PB_SITE_K_INPUT,
    PB_SITE_V_INPUT,
    PB_SITE_LN1_SCALE,
    PB_SITE_LN1_NORMALIZED,
    PB_SITE_Q,
    PB_SITE_K,
    PB_SITE_V,
    PB_SITE_ROT_Q,
    PB_SITE_ROT_K,
    PB_SITE_ATTN_SCORES,
    PB_SITE_PATTERN,
    PB_SITE_Z,
    PB_SITE_RESULT,
    PB_SITE_LN1_POST_SCALE,
    PB_SITE_LN1_POST_NORMALIZED,
    PB_SITE_ATTN_OUT,
    PB_SITE_RESID_MID,
    PB_SITE_MLP_IN,
    PB_SITE_LN2_SCALE,
    PB_SITE_LN2_NORMALIZED,
    PB_SITE_EXPERT_WEIGHTS,
    PB_SITE_EXPERT_INDICES,
    PB_SITE_EXPERT_GATE,
    PB_SITE_EXPERT_PRE,
    PB_SITE_EXPERT_POST,
    PB_SITE_MLP_PRE,
    PB_SITE_MLP_PRE_LINEAR,
    PB_SITE_MLP_POST,
    PB_SITE_LN2_POST_SCALE,
    PB_SITE_LN2_POST_NORMALIZED,
    PB_SITE_MLP_OUT,
    PB_SITE_RESID_POST,
    PB_SITE_LN_FINAL_SCALE,
    PB_SITE_LN_FINAL_NORMALIZED,
    PB_SITE_LOGITS,
    PB_SITE_KINDS
} pb_site_kind;

/* Sites of one expert of a mixture (blocks.L.mlp.experts.E.*) have TransformerLens's names: hook_gate is the branch with the
 * activation, before it, hook_pre the other one (without a gate: before the activation), hook_post the input of the expert's
 * last matrix; not times its weight. Their values have a row for every position, [pos, d_mlp]; rows where the router did not
 * choose the expert are zeros (it was not computed, and adds nothing), and so is the gradient there. A patch changes the rows
 * where the patched run chooses the expert; elsewhere nothing reads it, and one that no row reads is an error. */
typedef struct pb_site {
    pb_site_kind kind;
    int layer;  /* -1 for embed, pos_embed, ln_final.*, logits */
    int expert; /* of expert_gate, expert_pre and expert_post; 0 elsewhere */
} pb_site;

/* What the axes of a site's value are; positions are always there. */
typedef enum pb_site_shape {
    PB_SHAPE_POS_WIDTH,      /* [pos, width] */
    PB_SHAPE_POS_HEAD_WIDTH, /* [pos, head, width] (k, v: kv heads) */
    PB_SHAPE_HEAD_POS_POS    /* [head, dest, src] */
} pb_site_shape;

typedef struct pb_site_info {
    pb_site_shape shape;
    int heads;              /* 0 without a head axis */
    int width;              /* D, d_head, d_mlp, 1, vocab; 0 for HEAD_POS_POS */
    const char *width_name; /* "d_model", "d_head", "neuron", "vocab", ... */
} pb_site_info;

/* name: the full name ("blocks.7.attn.hook_z", layer -1 or the same layer), or a short one ("z", "resid_pre", "mlp_post",
 * "attn_scores", "hook_z", "attn.hook_z", "mlp.hook_post", "ln1.hook_scale", "experts.3.post") with the layer given. layer may be negative
 * (-1 the last) only when has_layer. Unknown: the nearest known name; out of range: the range; absent in this family: says so. */
pb_status pb_site_parse(const pb_model *model, const char *name, bool has_layer, int layer, pb_site *out,
                        pb_error *err);
/* Without a layer, for names that come with "over layer" or a list of layers: short, or full without a number. out->layer: the
 * layer in the name, or -1. */
pb_status pb_site_parse_kind(const pb_model *model, const char *name, pb_site *out, pb_error *err);
bool pb_site_has_layer(pb_site_kind kind);
bool pb_site_has_expert(pb_site_kind kind);
bool pb_site_equal(pb_site a, pb_site b);
/* layer -1: in any layer. */
bool pb_site_exists(const pb_model *model, pb_site site);
/* Into buffer (at least 64 bytes); return buffer. "blocks.7.attn.hook_z"; "z", "resid_pre", "mlp_post", "experts.3.post" */
char *pb_site_name(pb_site site, char *buffer, size_t size);
char *pb_site_short_name(pb_site site, char *buffer, size_t size);
pb_site_info pb_site_describe(const pb_model *model, pb_site_kind kind);
/* The value's shape for a run of T tokens; returns ndim. */
int pb_site_shape_of(const pb_model *model, pb_site_kind kind, int64_t T, int64_t shape[4]);

#ifdef __cplusplus
}
#endif
#endif
