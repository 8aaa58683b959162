/* What passes between the files of the loader while a model opens:
 *
 *   model.c    opens the folder, runs the steps below, owns the result
 *   config.c   config.json and the family's row -> the spec's numbers       (families.c, hooks.c, rotary.c)
 *   files.c    the weight files -> one sorted list of entries
 *   weights.c  the list and the family's names -> the spec's matrices and vectors
 *   process.c  optional weight processing
 *
 * A pb_loading lives on the stack of pb_model_open; everything that lasts hangs on the model. */
#ifndef PB_MODEL_LOADING_H
#define PB_MODEL_LOADING_H

#include <jansson.h>
#include <stdatomic.h>

#include "base/strbuf.h"
#include "model/family.h"

/* One tensor of the weight files. */
typedef struct pb_weight {
    const pb_entry *entry;
    const char *file; /* the file's name without folder */
    bool used;        /* the spec reads it */
    bool is_copy;     /* of the embedding: a tied unembedding that was stored all the same */
} pb_weight;

typedef struct pb_weight_file {
    char *name; /* without folder */
    pb_safetensors *file;
} pb_weight_file;

/* A vector of the spec (or a converted matrix) that is a copy, and what it is a copy of. */
typedef struct pb_copied {
    const float *data;
    int64_t n;
    pb_origin origin;
} pb_copied;

struct pb_model {
    atomic_int references;
    pb_context *ctx;
    char *folder;
    char *name;
    const pb_family *family;
    pb_spec spec;
    pb_tokenizer *tokenizer;
    pb_weight_file *files;
    size_t n_files;
    pb_weight *weights; /* [n_weights], sorted by name */
    size_t n_weights;
    void **owned; /* blocks that spec's pointers lie in */
    size_t n_owned, cap_owned;
    pb_copied *copied; /* origins.c */
    size_t n_copied, cap_copied;
};

struct pb_loading {
    pb_model *model;
    pb_context *ctx;
    pb_spec *spec;
    const pb_family *family;
    char *config_path;
    json_t *config;
    pb_strbuf assumed; /* sizes that config.json does not say, for messages about shapes */
    /* copies of the row's fields, which the hooks may change */
    pb_weight_names names;
    pb_block_form block;
    bool tied, qkv_bias, o_bias, mlp_bias, unembed_bias;
    bool norm_plain, norm_bias;
    bool qk_norm;
    bool bare_names; /* the checkpoint's names lack the family's prefix */
    int64_t window;  /* "sliding_window"; 0: none */
};

/* origins.c: note that n floats at data are a copy of a weight's elements. */
pb_status pb_origin_note(pb_model *model, const float *data, int64_t n, pb_origin origin, pb_error *err);

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
pb_status pb_files_open(pb_loading *loading, pb_error *err);
pb_weight *pb_files_find(const pb_model *model, const char *name); /* NULL if absent */

/* weights.c */
pb_status pb_weights_bind(pb_loading *loading, pb_error *err);

/* process.c */
pb_status pb_process_weights(pb_model *model, const pb_load_options *options, pb_error *err);

#endif
