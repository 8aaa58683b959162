/* The inside of tensors and storage, for src/tensor alone (and for the loader: tensors on mapped memory). */
#ifndef PB_TENSOR_INTERNAL_H
#define PB_TENSOR_INTERNAL_H

#include <stdatomic.h>

#include "patchbay/tensor.h"

/* ---- storage ------------------------------------------------------------------------------------------------- */

/* Bytes shared by views. Owned bytes follow the header in one 64-byte aligned block; borrowed bytes belong to somebody
 * whom `release` tells when the last view has gone. */
typedef struct pb_storage {
    atomic_size_t refs;
    pb_context *ctx; /* kept alive by the storage's own block */
    char *data;
    size_t bytes;
    bool read_only;               /* mapped from a file: writing would be a fault */
    void (*release)(void *owner); /* NULL: owned */
    void *owner;
} pb_storage;

pb_status pb_storage_create(pb_context *ctx, size_t bytes, bool zero, pb_storage **out, pb_error *err);
/* data must stay valid until release(owner) is called (once, by the last unref; on failure here it is not called). */
pb_status pb_storage_borrow(pb_context *ctx, const void *data, size_t bytes, bool read_only,
                            void (*release)(void *owner), void *owner, pb_storage **out, pb_error *err);
pb_storage *pb_storage_ref(pb_storage *s);
void pb_storage_unref(pb_storage *s); /* NULL is a no-op */

/* ---- tensor -------------------------------------------------------------------------------------------------- */

struct pb_tensor {
    atomic_size_t refs;
    pb_storage *storage;
    pb_dtype dtype;
    int ndim;
    int64_t shape[PB_MAX_DIMS];
    int64_t strides[PB_MAX_DIMS]; /* in elements; 0 where expanded */
    int64_t count;                /* product of shape */
    char *data;                   /* the first element, inside storage */
};

enum { PB_ELEMENT = 4 }; /* bytes of one element, float32 and int32 alike */

/* Checks ndim and entries; product into *count. PB_ERR_ARGUMENT for wrong ones or more elements than memory has. */
pb_status pb_shape_check(int ndim, const int64_t *shape, int64_t *count, pb_error *err);
/* Row-major strides of shape. */
void pb_shape_strides(int ndim, const int64_t *shape, int64_t *strides);
/* Axis -ndim .. ndim - 1 to 0 .. ndim - 1. */
pb_status pb_axis_resolve(const pb_tensor *t, int axis, int *out, pb_error *err);
/* Contiguous tensor on bytes of a storage (one reference is taken). */
pb_status pb_tensor_on_storage(pb_storage *storage, size_t offset, pb_dtype dtype, int ndim, const int64_t *shape,
                               pb_tensor **out, pb_error *err);
/* Another view on t's storage; data points into it. */
pb_status pb_tensor_view(const pb_tensor *t, int ndim, const int64_t *shape, const int64_t *strides, char *data,
                         pb_tensor **out, pb_error *err);
pb_status pb_require_float(const pb_tensor *t, const char *what, pb_error *err);
/* Refuses read-only, expanded and self-overlapping views. */
pb_status pb_require_writable(const pb_tensor *t, const char *what, pb_error *err);

/* ---- walking ------------------------------------------------------------------------------------------------- */

enum { PB_MAX_OPERANDS = 3 };

/* A nest of loops over one shape for several operands at once. Axes of length 1 are dropped and neighbours merged
 * where every operand allows; the last axis is the inner loop, left to the caller. Lanes come in row-major order. */
typedef struct pb_walk {
    int operands;
    int ndim; /* of the outer loops */
    int64_t shape[PB_MAX_DIMS];
    int64_t strides[PB_MAX_OPERANDS][PB_MAX_DIMS];
    int64_t inner; /* length of the inner loop */
    int64_t inner_strides[PB_MAX_OPERANDS];
    int64_t index[PB_MAX_DIMS];
    int64_t offsets[PB_MAX_OPERANDS]; /* of the current lane's first element */
    bool done;
} pb_walk;

/* strides[operand][axis], in elements. */
void pb_walk_begin(pb_walk *w, int ndim, const int64_t *shape, int operands, const int64_t *const *strides);
void pb_walk_next(pb_walk *w);

/* out[i] = in[i] for every index of shape; strides in elements. The two must not overlap. */
void pb_copy_strided(int ndim, const int64_t *shape, const char *in, const int64_t *in_strides, char *out,
                     const int64_t *out_strides);

/* ---- broadcasting -------------------------------------------------------------------------------------------- */

/* numpy's rule for two shapes; strides of both operands on the common shape (0 where repeated). */
typedef struct pb_broadcast {
    int ndim;
    int64_t shape[PB_MAX_DIMS];
    int64_t a_strides[PB_MAX_DIMS], b_strides[PB_MAX_DIMS];
} pb_broadcast;

pb_status pb_broadcast_shapes(const pb_tensor *a, const pb_tensor *b, pb_broadcast *out, pb_error *err);
/* b onto t's own shape. PB_ERR_ARGUMENT when t would have to grow. */
pb_status pb_broadcast_onto(const pb_tensor *t, const pb_tensor *b, pb_broadcast *out, pb_error *err);
/* b (with the strides it is read with) may be read while t is written element by element: it shares no element with t,
 * or lies exactly on it. */
pb_status pb_require_no_overlap(const pb_tensor *t, const pb_tensor *b, const int64_t *b_strides, const char *what,
                                pb_error *err);

#endif
