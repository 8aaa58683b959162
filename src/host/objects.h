/* What the bindings of model, tokenizer, run, patch, metric and measure share: their classes, and the way from Lua
 * values to what the engine takes. Rules of host.h apply. */
#ifndef PB_HOST_OBJECTS_H
#define PB_HOST_OBJECTS_H

#include "host/host.h"
#include "patchbay/metric.h"
#include "patchbay/model.h"
#include "patchbay/run.h"
#include "patchbay/tokenizer.h"

extern const pb_class PB_MODEL_CLASS;     /* pb_model */
extern const pb_class PB_TOKENIZER_CLASS; /* pb_tokenizer */
extern const pb_class PB_RUN_CLASS;       /* pb_run */
extern const pb_class PB_METRIC_CLASS;    /* a Lua metric is a description: object is a pb_lua_metric (bind_metric.c) */

/* ---- memory that the library hands out ------------------------------------------------------------------------------ */

/* Push a closed box for a block that a library call makes (ids, text): the call writes to box->object, pb_free is the
 * collector's. */
pb_box *pb_new_block(lua_State *L);

/* ---- tokens ------------------------------------------------------------------------------------------------------------ */

/* The model's tokenizer; raises if its folder has none. Borrowed. */
pb_tokenizer *pb_model_needs_tokenizer(lua_State *L, const pb_model *model);
/* The token's label (U+2423 for a leading space ...), or the id's digits for a model without tokenizer; pushed. */
const char *pb_push_label(lua_State *L, const pb_model *model, int32_t id);
void pb_push_id_list(lua_State *L, const int32_t *ids, size_t n);
/* Decoded text of ids, special tokens included if so asked; nil without a tokenizer. Pushed. */
void pb_push_text(lua_State *L, const pb_model *model, const int32_t *ids, size_t n, bool skip_special);
/* A prompt: text or a list of ids (borrowed; their memory is pushed, one value). */
const int32_t *pb_check_prompt(lua_State *L, int index, const pb_model *model, pb_special special, size_t *n);
/* Field bos of an options table: absent is fallback. */
pb_special pb_field_special(lua_State *L, int index, pb_special fallback);
/* One token: an id below the vocabulary, or a text that is exactly one token (else an error that shows its pieces). */
int32_t pb_check_token(lua_State *L, int index, const pb_model *model, const char *name);
/* Two token lists side by side, one position a line, the first difference marked; pushed. */
const char *pb_push_side_by_side(lua_State *L, const pb_run *a, const char *name_a, const pb_run *b,
                                 const char *name_b);

/* bind_weights.c: pb.model, and the model's methods with, refresh and save, and property config. */
int pb_model_make(lua_State *L);
int pb_model_with(lua_State *L);
int pb_model_refresh_vectors(lua_State *L);
int pb_model_save(lua_State *L);
int pb_model_config_table(lua_State *L);
int pb_model_storage_text(lua_State *L);
int pb_model_dtypes_text(lua_State *L);
/* Where digests of models are kept: XDG_CACHE_HOME or ~/.cache, then patchbay/sha256; "" when neither is known. */
const char *pb_hash_cache(char *buffer, size_t size);

/* ---- models and runs ------------------------------------------------------------------------------------------------------ */

enum { PB_MODEL_NAME = 1, PB_MODEL_SLOTS = 1 }; /* user values of a model: the name that it was loaded by */

enum {
    PB_RUN_MODEL = 1,   /* the model's box */
    PB_RUN_TEXT = 2,    /* the prompt's text, or nil: made of tokens */
    PB_RUN_SPECIAL = 3, /* pb_special that a fork's text is read with */
    PB_RUN_KEEP = 4,    /* what patches of this run need: the batch that holds their functions, and the run below */
    PB_RUN_CACHE = 5,   /* site name -> value, weak: run[at] in callbacks */
    PB_RUN_SLOTS = 5
};

pb_model *pb_check_model(lua_State *L, int index);
pb_run *pb_check_run(lua_State *L, int index);
pb_run *pb_to_run(lua_State *L, int index); /* NULL if it is something else */
/* Push a closed run box whose model is the box at model_index. */
pb_box *pb_new_run(lua_State *L, int model_index);
/* Store a run (one reference, taken), tell the collector its size. */
void pb_fill_run(lua_State *L, pb_box *box, pb_run *run);
/* Push a new box for a run that C code holds (a reference is added). */
void pb_push_run(lua_State *L, const pb_run *run);
/* Keep the run alive while the engine works on it, by one pushed value: a patch function of its own could close its box. */
void pb_guard_run(lua_State *L, const pb_run *run);

/* ---- sites and patches ------------------------------------------------------------------------------------------------------ */

/* The value at a table of site and coordinates (as a patch's, or the `at` of a patch function): all axes kept. Pushes a
 * tensor. run_index: the run's box. */
void pb_push_value_at(lua_State *L, int run_index, int at_index);

/* A batch: requests collected from Lua for one engine call, with everything that they need kept alive. It is a box; its
 * user value holds Lua functions and the boxes of runs, tensors and metrics. */
typedef struct pb_batch pb_batch;
extern const pb_class PB_BATCH_CLASS;

/* Push a new batch. */
pb_batch *pb_batch_new(lua_State *L);
/* Append one request: the run at run_index with the variant at variant_index (a list of patches, or one patch).
 * batch_index: the box. metric: NULL or one that the batch keeps (pb_batch_metric). number: the variant's place in the
 * user's list (1-based), for messages and for at.variant; 0: none. */
void pb_batch_add(lua_State *L, int batch_index, int run_index, int variant_index, const pb_metric *metric,
                  lua_Integer number);
/* The metric at metric_index, its tokens resolved by the run's model; made once per batch, metric and model. */
const pb_metric *pb_batch_metric(lua_State *L, int batch_index, int metric_index, const pb_run *run);
/* All requests so far. Valid until the next pb_batch_add. */
pb_request *pb_batch_requests(pb_batch *batch, size_t *n);

/* ---- metrics -------------------------------------------------------------------------------------------------------------------- */

/* Make the engine's metric of the description at index for a run's model (and, with pos = "all", its length). Writes *out
 * (one reference) as its last act. */
void pb_resolve_metric(lua_State *L, int index, const pb_run *run, pb_metric **out);
/* Does what is at index measure "all" positions, so that it differs with the length of the run? */
bool pb_metric_takes_all(lua_State *L, int index);

#endif
