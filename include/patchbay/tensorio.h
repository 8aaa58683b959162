/* Files of tensors: safetensors (memory-mapped reading, atomic writing), .npy, .csv. */
#ifndef PATCHBAY_TENSORIO_H
#define PATCHBAY_TENSORIO_H

#include "patchbay/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Types that a stored tensor can have. Sizes in bytes: pb_stored_size. */
typedef enum pb_stored {
    PB_STORED_F32,
    PB_STORED_F16,
    PB_STORED_BF16,
    PB_STORED_F64,
    PB_STORED_I64,
    PB_STORED_I32,
    PB_STORED_I16,
    PB_STORED_I8,
    PB_STORED_U8,
    PB_STORED_BOOL,
    PB_STORED_OTHER
} pb_stored;
size_t pb_stored_size(pb_stored type); /* 0 for PB_STORED_OTHER */
const char *pb_stored_name(pb_stored type);

/* One tensor of an open file; its pointers belong to the file and are valid while it is open. data lies in the
 * mapping, at any alignment. */
typedef struct pb_entry {
    const char *name;
    pb_stored type;
    const char *dtype; /* as the file spells it: says what PB_STORED_OTHER is */
    int ndim;
    int64_t shape[PB_MAX_DIMS];
    const void *data;
    size_t bytes;
} pb_entry;

typedef struct pb_safetensors pb_safetensors;

/* Maps the file and checks its header: length, JSON, dtypes, shapes against offsets, overlaps, holes, truncation.
 * Opening does not read the tensors (a 500 MB file opens in milliseconds). */
pb_status pb_safetensors_open(pb_context *ctx, const char *path, pb_safetensors **out, pb_error *err);
pb_safetensors *pb_safetensors_ref(pb_safetensors *file);
void pb_safetensors_unref(pb_safetensors *file);
size_t pb_safetensors_count(const pb_safetensors *file);
const pb_entry *pb_safetensors_at(const pb_safetensors *file, size_t i);           /* in file order */
const pb_entry *pb_safetensors_find(const pb_safetensors *file, const char *name); /* NULL if absent */
const char *pb_safetensors_metadata(const pb_safetensors *file, const char *key);  /* NULL if absent */
size_t pb_safetensors_bytes(const pb_safetensors *file);
/* Entry i as a tensor, as pb_entry_load gives it; float32 and int32 are not copied but lie in the mapped file, which stays open for
 * as long. Pages that are written to become the process's own; the file is never changed. Those are not charged to the budget. */
pb_status pb_safetensors_tensor(pb_context *ctx, pb_safetensors *file, size_t i, pb_tensor **out, pb_error *err);

/* A state dict that torch.save wrote (PyTorch 1.6 or newer): names and tensors, or a dictionary that has such a one under
 * "state_dict". The file is mapped; its pickle is read without executing anything: a name in it that does not belong to
 * rebuilding tensors is refused (PB_ERR_UNSUPPORTED, which says the name). Tensors that are not row-major are copied. */
typedef struct pb_torch pb_torch;
pb_status pb_torch_open(pb_context *ctx, const char *path, pb_torch **out, pb_error *err);
void pb_torch_close(pb_torch *file); /* NULL is a no-op */
size_t pb_torch_count(const pb_torch *file);
const pb_entry *pb_torch_at(const pb_torch *file, size_t i); /* in the dictionary's order */

/* A copy as float32 (floats of any width; integers to int32, an error where they do not fit). */
pb_status pb_entry_load(pb_context *ctx, const pb_entry *entry, pb_tensor **out, pb_error *err);
/* count elements from element `first`, widened to float32. Any alignment. Float types only. */
void pb_widen(pb_stored type, const void *data, size_t first, size_t count, float *out);

/* count float32 numbers as F32, F16 or BF16, to nearest, ties to even; out is aligned to its type. Returns how many finite
 * ones became infinite. */
size_t pb_narrow(pb_stored type, const float *in, size_t count, void *out);

typedef struct pb_named_tensor {
    const char *name;
    const pb_tensor *tensor;
} pb_named_tensor;

/* Writers make a temporary file beside `path` and rename it: after a failure (disk full, no permission) the old file,
 * if any, is untouched. metadata: n_metadata pairs key, value (may be NULL). */
pb_status pb_safetensors_write(pb_context *ctx, const char *path, const pb_named_tensor *tensors, size_t n,
                               const char *const *metadata, size_t n_metadata, pb_error *err);
/* Stored tensors as they are, but float ones as `type` (F32, F16, BF16). A finite value that the type cannot hold is an
 * error that names the tensor. */
pb_status pb_safetensors_write_entries(pb_context *ctx, const char *path, const pb_entry *const *entries, size_t n,
                                       pb_stored type, const char *const *metadata, size_t n_metadata, pb_error *err);
pb_status pb_npy_write(const pb_tensor *t, const char *path, pb_error *err);
pb_status pb_npy_read(pb_context *ctx, const char *path, pb_tensor **out,
                      pb_error *err); /* f4 f8 i4 i8, C or Fortran order */
/* Long form: one row per element: axis columns (axis_names[ndim]) then "value" with 9 significant digits; labels[axis]
 * (may be NULL, or NULL per axis) replaces the index by text. RFC 4180 quoting. */
pb_status pb_csv_write(const pb_tensor *t, const char *const *axis_names, const char *const *const *labels,
                       const char *path, pb_error *err);

#ifdef __cplusplus
}
#endif
#endif
