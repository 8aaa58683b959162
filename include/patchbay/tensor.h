/* Tensor: float32 (or int32, for token lists) numbers in row-major order, as strided views on refcounted storage.
 *
 * Ownership: every function that returns a tensor through `out` gives one reference; release with pb_tensor_unref.
 * Arguments are borrowed. Views keep the storage alive; a tensor's shape never changes.
 * Axes and indices are 0-based; negative axes and indices count from the end everywhere in this header.
 * Arithmetic broadcasts as numpy does. Unless said otherwise inputs are float32 of any strides, outputs are new,
 * contiguous and 64-byte aligned. */
#ifndef PATCHBAY_TENSOR_H
#define PATCHBAY_TENSOR_H

#include "patchbay/context.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { PB_MAX_DIMS = 8 };

typedef enum pb_dtype { PB_F32, PB_I32 } pb_dtype;

typedef struct pb_tensor pb_tensor;

/* ---- making ---------------------------------------------------------------------------------------------------- */

/* Uninitialised / zero / constant. shape[ndim], entries >= 0; ndim 0 is a scalar. */
pb_status pb_tensor_create(pb_context *ctx, pb_dtype dtype, int ndim, const int64_t *shape, pb_tensor **out,
                           pb_error *err);
pb_status pb_tensor_zeros(pb_context *ctx, pb_dtype dtype, int ndim, const int64_t *shape, pb_tensor **out,
                          pb_error *err);
pb_status pb_tensor_full(pb_context *ctx, int ndim, const int64_t *shape, float value, pb_tensor **out, pb_error *err);
/* Copies. */
pb_status pb_tensor_from_floats(pb_context *ctx, int ndim, const int64_t *shape, const float *data, pb_tensor **out,
                                pb_error *err);
pb_status pb_tensor_from_ints(pb_context *ctx, int ndim, const int64_t *shape, const int32_t *data, pb_tensor **out,
                              pb_error *err);
/* 0, 1, ... n-1 scaled: start + i * step, [n]. */
pb_status pb_tensor_range(pb_context *ctx, double start, double step, int64_t n, pb_tensor **out, pb_error *err);
/* Standard normal / uniform [0,1) draws of the counter-based generator (rng.h): element i of draw `draw`. */
pb_status pb_tensor_normal(pb_context *ctx, int ndim, const int64_t *shape, uint64_t seed, uint64_t draw,
                           pb_tensor **out, pb_error *err);
pb_status pb_tensor_uniform(pb_context *ctx, int ndim, const int64_t *shape, uint64_t seed, uint64_t draw,
                            pb_tensor **out, pb_error *err);

pb_tensor *pb_tensor_ref(pb_tensor *t);
void pb_tensor_unref(pb_tensor *t); /* NULL is a no-op */

/* ---- looking ---------------------------------------------------------------------------------------------------- */

pb_context *pb_tensor_context(const pb_tensor *t);
pb_dtype pb_tensor_dtype(const pb_tensor *t);
int pb_tensor_ndim(const pb_tensor *t);
const int64_t *pb_tensor_shape(const pb_tensor *t);
const int64_t *pb_tensor_strides(const pb_tensor *t); /* in elements */
int64_t pb_tensor_count(const pb_tensor *t);          /* number of elements */
size_t pb_tensor_bytes(const pb_tensor *t);           /* of the storage that this view keeps alive */
bool pb_tensor_contiguous(const pb_tensor *t);
bool pb_tensor_same_shape(const pb_tensor *a, const pb_tensor *b);
/* First element; NULL when dtype differs. Elements beyond it are at strides. */
float *pb_tensor_floats(const pb_tensor *t);
int32_t *pb_tensor_ints(const pb_tensor *t);
/* Index tuple of length n (= ndim, or the call fails). Works for both dtypes. */
pb_status pb_tensor_get(const pb_tensor *t, int n, const int64_t *index, double *out, pb_error *err);
pb_status pb_tensor_set(pb_tensor *t, int n, const int64_t *index, double value, pb_error *err);
/* The value of a tensor with one element. */
pb_status pb_tensor_item(const pb_tensor *t, double *out, pb_error *err);
/* "tensor [3, 4] float32" and, when small (or edges of large ones, as numpy prints), the values. Into a new
 * NUL-terminated block of the tensor's context (pb_free). */
pb_status pb_tensor_print(const pb_tensor *t, char **out, pb_error *err);
/* "[3, 4]" into buffer; returns buffer. */
char *pb_shape_text(int ndim, const int64_t *shape, char *buffer, size_t size);

/* ---- views (share storage) ---------------------------------------------------------------------------------------- */

pb_status pb_tensor_select(const pb_tensor *t, int axis, int64_t index, pb_tensor **out, pb_error *err);
pb_status pb_tensor_narrow(const pb_tensor *t, int axis, int64_t start, int64_t length, pb_tensor **out, pb_error *err);
pb_status pb_tensor_transpose(const pb_tensor *t, int axis_a, int axis_b, pb_tensor **out, pb_error *err);
/* One entry may be -1. A view: an error, which says to use contiguous(), when strides do not allow it. */
pb_status pb_tensor_reshape(const pb_tensor *t, int ndim, const int64_t *shape, pb_tensor **out, pb_error *err);
/* Axes of length 1 repeated with stride 0 (read-only: in-place operations refuse it). */
pb_status pb_tensor_expand(const pb_tensor *t, int ndim, const int64_t *shape, pb_tensor **out, pb_error *err);
pb_status pb_tensor_unsqueeze(const pb_tensor *t, int axis, pb_tensor **out, pb_error *err);
pb_status pb_tensor_squeeze(const pb_tensor *t, int axis, pb_tensor **out, pb_error *err); /* axis of length 1 */

/* ---- copies --------------------------------------------------------------------------------------------------------- */

pb_status pb_tensor_clone(const pb_tensor *t, pb_tensor **out, pb_error *err);
pb_status pb_tensor_make_contiguous(const pb_tensor *t, pb_tensor **out, pb_error *err); /* itself if it is already */
pb_status pb_tensor_cast(const pb_tensor *t, pb_dtype dtype, pb_tensor **out,
                         pb_error *err); /* to int: exact integers only */
/* Rows `indices[n]` along axis, copied. */
pb_status pb_tensor_index(const pb_tensor *t, int axis, const int64_t *indices, int64_t n, pb_tensor **out,
                          pb_error *err);
pb_status pb_tensor_concat(const pb_tensor *const *parts, int n, int axis, pb_tensor **out, pb_error *err);
pb_status pb_tensor_stack(const pb_tensor *const *parts, int n, int axis, pb_tensor **out, pb_error *err);

/* ---- elementwise ------------------------------------------------------------------------------------------------------ */

typedef enum pb_binary {
    PB_ADD,
    PB_SUB,
    PB_MUL,
    PB_DIV,
    PB_POW,
    PB_MIN,
    PB_MAX,
    PB_EQ,
    PB_NE,
    PB_LT,
    PB_LE,
    PB_GT,
    PB_GE
} pb_binary; /* comparisons give 0 or 1 */
typedef enum pb_unary {
    PB_NEG,
    PB_ABS,
    PB_SIGN,
    PB_EXP,
    PB_LOG,
    PB_SQRT,
    PB_TANH,
    PB_SIGMOID,
    PB_SQUARE,
    PB_RELU,
    PB_GELU,
    PB_GELU_TANH,
    PB_SILU,
    PB_ERF,
    PB_ISNAN
} pb_unary;

pb_status pb_tensor_binary(pb_binary op, const pb_tensor *a, const pb_tensor *b, pb_tensor **out, pb_error *err);
pb_status pb_tensor_binary_scalar(pb_binary op, const pb_tensor *a, double b, pb_tensor **out, pb_error *err);
pb_status pb_tensor_scalar_binary(pb_binary op, double a, const pb_tensor *b, pb_tensor **out, pb_error *err);
pb_status pb_tensor_unary(pb_unary op, const pb_tensor *a, pb_tensor **out, pb_error *err);

/* In place on `t`; b broadcasts to t's shape, never the other way. An expanded (stride 0) or self-overlapping t is an
 * error, and so is a b that overlaps t with another layout. */
pb_status pb_tensor_binary_in_place(pb_binary op, pb_tensor *t, const pb_tensor *b, pb_error *err);
pb_status pb_tensor_binary_scalar_in_place(pb_binary op, pb_tensor *t, double b, pb_error *err);
pb_status pb_tensor_unary_in_place(pb_unary op, pb_tensor *t, pb_error *err);
pb_status pb_tensor_copy_from(pb_tensor *t, const pb_tensor *b,
                              pb_error *err); /* t[...] = b, broadcasting b; int32 too */
pb_status pb_tensor_fill(pb_tensor *t, double value, pb_error *err);

/* ---- reductions --------------------------------------------------------------------------------------------------------- */

typedef enum pb_reduction {
    PB_SUM,
    PB_MEAN,
    PB_MAXIMUM,
    PB_MINIMUM,
    PB_ARGMAX,
    PB_ARGMIN,
    PB_VARIANCE, /* divides by n */
    PB_NORM /* euclidean */,
    PB_LOGSUMEXP
} pb_reduction;
enum { PB_ALL_AXES = -1000 };
/* axis PB_ALL_AXES reduces to a scalar. keep: the axis stays with length 1. Sums accumulate in double.
 * argmax/argmin give int32, first of equals; NaN wins in maximum, minimum and arg*. An empty axis is an error but for the sum. */
pb_status pb_tensor_reduce(pb_reduction op, const pb_tensor *t, int axis, bool keep, pb_tensor **out, pb_error *err);
pb_status pb_tensor_softmax(const pb_tensor *t, int axis, pb_tensor **out, pb_error *err);
pb_status pb_tensor_log_softmax(const pb_tensor *t, int axis, pb_tensor **out, pb_error *err);
pb_status pb_tensor_cumsum(const pb_tensor *t, int axis, pb_tensor **out, pb_error *err);
/* The k largest along the last axis, in falling order (ties: lower index first; NaN first, as it wins in maximum): values
 * float32, indices int32. */
pb_status pb_tensor_topk(const pb_tensor *t, int64_t k, pb_tensor **values, pb_tensor **indices, pb_error *err);
/* Permutation that sorts a 1-d tensor, int32; stable, NaN last. */
pb_status pb_tensor_argsort(const pb_tensor *t, bool descending, pb_tensor **out, pb_error *err);
/* Number of NaN or infinite entries, and the flat index of the first (-1 if none). */
int64_t pb_tensor_count_nonfinite(const pb_tensor *t, int64_t *first);
/* max |a - b| over all entries / max |b|; equal infinities count 0, NaN or other infinities give infinity. */
pb_status pb_tensor_max_difference(const pb_tensor *a, const pb_tensor *b, double *absolute, double *relative,
                                   pb_error *err);

/* ---- linear algebra (BLAS, LAPACK) ----------------------------------------------------------------------------------------- */

/* As numpy.matmul: 1-d and 2-d operands, leading axes broadcast. */
pb_status pb_tensor_matmul(const pb_tensor *a, const pb_tensor *b, pb_tensor **out, pb_error *err);
/* a = u diag(s) vt, thin: u [m,k], s [k] falling, vt [k,n]. */
pb_status pb_tensor_svd(const pb_tensor *a, pb_tensor **u, pb_tensor **s, pb_tensor **vt, pb_error *err);
/* Symmetric a [n,n] (the upper triangle is read; asymmetry beyond rounding is an error): values [n] rising, vectors in columns [n,n]. */
pb_status pb_tensor_eigh(const pb_tensor *a, pb_tensor **values, pb_tensor **vectors, pb_error *err);
/* General a [n,n]: eigenvalues as [n,2] (real, imaginary), by falling magnitude. */
pb_status pb_tensor_eigvals(const pb_tensor *a, pb_tensor **values, pb_error *err);
/* x with a x = b; a [n,n], b [n] or [n,m]; computed in double. Singular: PB_ERR_NUMERIC. */
pb_status pb_tensor_solve(const pb_tensor *a, const pb_tensor *b, pb_tensor **out, pb_error *err);
/* Lower triangular l with l l^T = a. Not positive definite: PB_ERR_NUMERIC with the pivot's index. */
pb_status pb_tensor_cholesky(const pb_tensor *a, pb_tensor **out, pb_error *err);
/* Least squares: x [n] or [n,m] minimising |a x - b|, a [m,n] (minimum norm if rank deficient; rcond as numpy's default). */
pb_status pb_tensor_lstsq(const pb_tensor *a, const pb_tensor *b, pb_tensor **out, pb_error *err);

#ifdef __cplusplus
}
#endif
#endif
