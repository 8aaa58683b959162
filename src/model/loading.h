/* What passes between the files of the loader while a model opens:
 *
 *   model.c    opens the folder, runs the steps below, owns the result
 *   memory.c   the same for weights that are given as tensors, and for models that share another's weights
 *   config.c   config.json and the family's row -> the spec's numbers       (families.c, hooks.c, rotary.c)
 *   files.c    the weight files (source.c) -> one sorted list of entries
 *   weights.c  the list and the family's names -> the spec's matrices and vectors
 *   process.c  optional weight processing
 *   stream.c   whether its pages are let go layer by layer
 *
 * A pb_loading lives on the stack of pb_model_open; everything that lasts hangs on the model. */
#ifndef PB_MODEL_LOADING_H
#define PB_MODEL_LOADING_H

#include <jansson.h>
#include <stdatomic.h>

#include "base/strbuf.h"
#include "model/family.h"
#include "model/source.h"
#include "model/stream.h"

/* One named tensor of the sources. */
typedef struct pb_weight {
    const pb_entry *entry;
    const pb_source *source;
    bool used;    /* the spec reads it */
    bool is_copy; /* of the embedding: a tied unembedding that was stored all the same */
} pb_weight;

/* A vector of the spec (or a converted matrix) that is a copy, and what it is a copy of. */
typedef struct pb_copied {
    const float *data;
    int64_t n;
    pb_origin origin;
    float plus; /* added to each: 1 for Gemma's norms, 0 */
} pb_copied;

struct pb_model {
    atomic_int references;
    pb_context *ctx;
    char *folder; /* "" for a model that was made in memory */
    char *name;
    char *config; /* text of config.json */
    size_t config_length;
    pb_load_options options;
    const pb_family *family;
    pb_spec spec;
    pb_tokenizer *tokenizer;
    pb_source **sources; /* [n_sources]; each has at least one of the weights */
    size_t n_sources;
    pb_weight *weights; /* [n_weights], sorted by name */
    size_t n_weights;
    void **owned; /* blocks that spec's pointers lie in */
    size_t n_owned, cap_owned;
    pb_copied *copied; /* origins.c */
    size_t n_copied, cap_copied;
    pb_stream_choice stream_choice;
    pb_stream *stream; /* NULL: not streamed */
};

struct pb_loading {
    pb_model *model;
    pb_context *ctx;
    pb_spec *spec;
    const pb_family *family;
    const char *config_path; /* for messages */
    json_t *config;
    pb_strbuf assumed; /* sizes that config.json does not say, for messages about shapes */
    /* copies of the row's fields, which the hooks may change */
    pb_weight_names names;
    pb_block_form block;
    bool tied, qkv_bias, o_bias, mlp_bias, unembed_bias;
    bool norm_plain, norm_bias;
    bool qk_norm;
    bool bare_names; /* the checkpoint's names lack the family's prefix */
    /* A multimodal model: what stands in front of the text model's names, or in the place of their "model."; NULL: nothing. */
    bool wrapped;
    const char *outer, *outer_model;
    int64_t window; /* "sliding_window"; 0: none */
};

/* origins.c: note that n floats at data are a copy of a weight's elements. */
pb_status pb_origin_note(pb_model *model, const float *data, int64_t n, pb_origin origin, pb_error *err);
/* value is added to the n floats at data, which are copies (also when they are copied again). */
void pb_origin_add(pb_model *model, float *data, int64_t n, float value);

/* model.c: a model without anything but a folder ("": none) and a name. */
pb_status pb_model_new(pb_context *ctx, const char *folder, const char *name, pb_model **out, pb_error *err);
/* Of a model with sources and the text of its configuration: reads it (config_path: for messages), lets `list` list the
 * weights, binds and processes them. */
typedef pb_status (*pb_list_fn)(pb_loading *loading, void *user, pb_error *err);
pb_status pb_model_build(pb_model *model, const char *config_path, pb_list_fn list, void *user, pb_error *err);

/* A block that lives as long as the model; NULL: fails. */
void *pb_model_own(pb_model *model, size_t count, size_t size);

/* config.c: fills loading->spec's numbers. The family must be known. */
pb_status pb_config_read(pb_loading *loading, pb_error *err);

/* The value of the first key of "a|b|c" that is there and not null; *name: which (the first one if none). */
const json_t *pb_config_get(const pb_loading *loading, const char *keys, char *name, size_t size);
/* Typed values with the loader's bounds. Absent or null: the fallback. */
pb_status pb_config_size(const pb_loading *loading, const char *keys, int64_t low, int64_t high, int64_t fallback,
                         int64_t *out, pb_error *err);
pb_status pb_config_flag(const pb_loading *loading, pb_flag_key flag, bool *out, pb_error *err);
/* A finite number; null_value: what an explicit null means. */
pb_status pb_config_number(const pb_loading *loading, const char *key, double fallback, double null_value, double *out,
                           pb_error *err);
/* PB_ERR_UNSUPPORTED if a switch has another value than the one that is implemented. */
pb_status pb_config_require(const pb_loading *loading, const char *key, bool value, const char *why, pb_error *err);
pb_status pb_act_parse(const char *name, const char *where, pb_act *out, pb_error *err);

/* rotary.c: the model's rotation from rope_parameters or rope_scaling. layer_type: which entry of a nested rope_parameters
 * ("full_attention"). theta, theta_key: where the base is when the rope object does not say. */
pb_status pb_rotary_read(pb_loading *loading, const char *layer_type, bool scaled, const char *theta_key, double theta,
                         pb_rotary *out, pb_error *err);

/* files.c: opens model.safetensors, or the files of model.safetensors.index.json, and lists their tensors. */
pb_status pb_files_open(pb_loading *loading, void *unused, pb_error *err);
/* Lists all entries of the model's sources, sorted by name. */
pb_status pb_files_list(pb_loading *loading, pb_error *err);
/* The GGUF file that a path stands for, in a new block: the file itself, or the only one of a folder without other weights.
 * NULL: none. Several: PB_ERR_ARGUMENT. */
pb_status pb_files_find_gguf(pb_context *ctx, const char *path, char **out, pb_error *err);
bool pb_files_is_gguf(const char *name);                           /* by its ending */
pb_weight *pb_files_find(const pb_model *model, const char *name); /* NULL if absent */

/* weights.c */
pb_status pb_weights_bind(pb_loading *loading, pb_error *err);

/* process.c */
pb_status pb_process_weights(pb_model *model, const pb_load_options *options, pb_error *err);

#endif
