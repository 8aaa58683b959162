/* What the readers of file formats share. */
#ifndef PB_TENSOR_STORED_H
#define PB_TENSOR_STORED_H

#include "base/file.h"
#include "patchbay/tensorio.h"

bool pb_stored_is_float(pb_stored type); /* what pb_widen takes */

/* Row-major data of a known type (any alignment) as a new tensor; name is for messages. */
pb_status pb_stored_load(pb_context *ctx, const char *name, pb_stored type, int ndim, const int64_t *shape,
                         const void *data, pb_tensor **out, pb_error *err);

/* The entry of this name; by_name [count]: indices into entries, sorted by name (strcmp). NULL if absent. */
const pb_entry *pb_entries_find(const pb_entry *entries, const size_t *by_name, size_t count, const char *name);

/* Where the file is mapped; entries that are copies lie elsewhere. */
pb_mapping pb_safetensors_mapping(const pb_safetensors *file);
pb_mapping pb_torch_mapping(const pb_torch *file);

#endif
