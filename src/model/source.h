/* Where weights are: a mapped file, or a tensor in memory. Refcounted, because models made from one another share them. */
#ifndef PB_MODEL_SOURCE_H
#define PB_MODEL_SOURCE_H

#include <stdatomic.h>

#include "model/gguf.h"
#include "patchbay/tensorio.h"

typedef struct pb_source {
    atomic_int references;
    pb_context *ctx;
    const char *kind; /* "safetensors", ... : how pb_model_storage names it */
    char *name;       /* for messages: the file's name without folder, or "the given weights" */
    size_t count;
    const pb_entry **entries; /* [count], borrowed from what the fields below hold */
    pb_safetensors *safetensors;
    pb_torch *torch;
    pb_gguf_model *gguf;
    pb_tensor *tensor; /* in memory: one tensor, whose values its owner may change */
    pb_entry given;    /* what it looks like as an entry */
} pb_source;

/* path: of the file; name: its name without folder. What ends with .bin, .pt or .pth is a PyTorch state dict, with
 * .gguf GGUF, all else safetensors. */
pb_status pb_source_open(pb_context *ctx, const char *path, const char *name, pb_source **out, pb_error *err);
bool pb_source_has(const pb_source *source, const char *entry);
/* A reference to the tensor is taken. It must be contiguous: errors name it. int32 is for buffers that nobody reads. */
pb_status pb_source_of_tensor(pb_context *ctx, const char *name, const pb_tensor *tensor, pb_source **out,
                              pb_error *err);
pb_source *pb_source_ref(pb_source *source);
void pb_source_unref(pb_source *source); /* NULL is a no-op */
bool pb_source_is_memory(const pb_source *source);
/* Does data lie in the source's mapped file? Not so for tensors in memory, and for tensors that were copied on opening. */
bool pb_source_maps(const pb_source *source, const void *data);
/* Advice on a part of the mapped file (pb_mapping_prefetch, pb_mapping_release). What is released is a little more on both sides:
 * an access brings the pages around it too. */
void pb_source_prefetch(const pb_source *source, const void *data, size_t bytes);
void pb_source_release(const pb_source *source, const void *data, size_t bytes);
void pb_source_release_all(const pb_source *source);
enum { PB_SOURCE_AROUND = 64 << 10 }; /* Linux's fault_around_bytes */

#endif
