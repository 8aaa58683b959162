/* Models in GGUF files: the metadata as a config.json and a tokenizer.json, the tensors under the checkpoint's names and in
 * its shapes, so that all that follows is the same as for a Hugging Face folder. */
#ifndef PB_MODEL_GGUF_H
#define PB_MODEL_GGUF_H

#include <jansson.h>

#include "model/family.h"
#include "tensor/gguf.h"

/* One of llama.cpp's architectures that is also one of ours. */
typedef struct pb_gguf_arch {
    const char *name;
    const char *model_type;
    bool interleaved; /* rows of q and k are stored for a rotation of neighbours, not of halves */
} pb_gguf_arch;

typedef struct pb_gguf_model {
    pb_context *ctx;
    pb_gguf *file;
    char *path; /* for messages */
    const pb_gguf_arch *arch;
    const pb_family *family;
    int64_t layers, width, heads, kv_heads, d_head, experts;
    pb_entry *entries; /* [count]: what the file's tensors are in a Hugging Face folder */
    char **names;      /* [count] */
    void **copies;     /* [count]; NULL where the entry lies in the mapped file */
    size_t count, capacity;
} pb_gguf_model;

/* Opens the file and translates all its tensors. Those that are stored otherwise than in a Hugging Face checkpoint are copied
 * (interleaved rows of q and k, regrouped q, k and v, GPT-2's matrices, Gemma's norms), Q8_0 is widened to float32 (exact);
 * all others are views of the mapped file. */
pb_status pb_gguf_model_open(pb_context *ctx, const char *path, pb_gguf_model **out, pb_error *err);
void pb_gguf_model_close(pb_gguf_model *model); /* NULL is a no-op */

/* The text of a config.json in a new block. */
pb_status pb_gguf_model_config(const pb_gguf_model *model, char **text, size_t *length, pb_error *err);
/* A tokenizer.json and a tokenizer_config.json (json_decref both); NULL with a warning if the file has a kind of tokenizer that
 * Patchbay does not read, and without one if it has none. */
pb_status pb_gguf_model_tokenizer(const pb_gguf_model *model, json_t **out, json_t **config, pb_error *err);

/* ---- gguf_config.c --------------------------------------------------------------------------------------------------- */

/* Finds the architecture and reads the sizes that the tensors' layout depends on. */
pb_status pb_gguf_identify(pb_gguf_model *model, pb_error *err);
/* The value of "ARCH.name"; NULL if absent. */
const pb_gguf_value *pb_gguf_model_get(const pb_gguf_model *model, const char *name);
/* Is there a tensor of this name, with "%d" as layer 0? */
bool pb_gguf_has(const pb_gguf_model *model, const char *name);

#endif
