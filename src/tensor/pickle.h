/* The pickle of a PyTorch state dict, read without executing anything.
 *
 * A pickle is a program for a small stack machine. This one knows the opcodes of protocols 2 to 5 that build values; of the
 * functions that a pickle may name, it knows those that rebuild tensors and ordered dictionaries, and does itself what they
 * would do. Every other name is refused, before anything else is read. */
#ifndef PB_TENSOR_PICKLE_H
#define PB_TENSOR_PICKLE_H

#include "patchbay/tensorio.h"

/* A tensor as the pickle describes it. Nothing is checked against the storage yet. */
typedef struct pb_pickled {
    const char *name; /* in the state dict; in the pickle's bytes, not NUL-terminated */
    size_t name_length;
    const char *key; /* of the storage; likewise */
    size_t key_length;
    pb_stored type;
    int64_t storage_count; /* elements that the storage has */
    int64_t offset;        /* in elements, as the strides are */
    int ndim;
    int64_t shape[PB_MAX_DIMS], strides[PB_MAX_DIMS];
} pb_pickled;

/* The tensors of a dictionary of names and tensors, in its order; a dictionary that has one under "state_dict" stands for that.
 * The result is a new block (pb_free) whose texts lie in data. path: for messages. */
pb_status pb_pickle_read(pb_context *ctx, const unsigned char *data, size_t size, const char *path, pb_pickled **out,
                         size_t *n, pb_error *err);

#endif
