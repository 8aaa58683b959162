/* Copies: clone, contiguous, cast, gather along an axis, concatenate, stack, assignment. */
#include "tensor/internal.h"

#include <math.h>
#include <string.h>

pb_status pb_tensor_clone(const pb_tensor *t, pb_tensor **out, pb_error *err) {
    pb_tensor *copy = NULL;
    PB_TRY(pb_tensor_create(pb_tensor_context(t), t->dtype, t->ndim, t->shape, &copy, err));
    pb_copy_strided(t->ndim, t->shape, t->data, t->strides, copy->data, copy->strides);
    *out = copy;
    return PB_OK;
}

pb_status pb_tensor_make_contiguous(const pb_tensor *t, pb_tensor **out, pb_error *err) {
    if (!pb_tensor_contiguous(t))
        return pb_tensor_clone(t, out, err);
    *out = pb_tensor_ref((pb_tensor *)(uintptr_t)t); /* the count is the only thing that changes */
    return PB_OK;
}

/* ---- cast ---------------------------------------------------------------------------------------------------- */

static pb_status cast_to_int(const pb_tensor *t, int32_t *out, pb_error *err) {
    const float *in = pb_tensor_floats(t);
    for (int64_t i = 0; i < t->count; i++) {
        double value = (double)in[i];
        if (!(value >= INT32_MIN && value <= INT32_MAX) || floor(value) != value)
            return pb_fail(err, PB_ERR_ARGUMENT,
                           "%.9g (entry %lld, counted flat) is not an int32; only exact integers are cast", value,
                           (long long)i);
        out[i] = (int32_t)value;
    }
    return PB_OK;
}

pb_status pb_tensor_cast(const pb_tensor *t, pb_dtype dtype, pb_tensor **out, pb_error *err) {
    if (dtype == t->dtype)
        return pb_tensor_clone(t, out, err);
    pb_tensor *in = NULL, *cast = NULL;
    pb_status status = pb_tensor_make_contiguous(t, &in, err);
    if (status == PB_OK)
        status = pb_tensor_create(pb_tensor_context(t), dtype, t->ndim, t->shape, &cast, err);
    if (status != PB_OK)
        goto done;
    if (dtype == PB_I32) {
        status = cast_to_int(in, pb_tensor_ints(cast), err);
        if (status != PB_OK)
            goto done;
    } else {
        const int32_t *from = pb_tensor_ints(in);
        float *to = pb_tensor_floats(cast);
        for (int64_t i = 0; i < in->count; i++)
            to[i] = (float)from[i];
    }
    *out = cast;
    cast = NULL;
done:
    pb_tensor_unref(in);
    pb_tensor_unref(cast);
    return status;
}

/* ---- along an axis ------------------------------------------------------------------------------------------- */

/* shape without one axis */
static int other_axes(const pb_tensor *t, int axis, int64_t *shape, int64_t *strides) {
    int n = 0;
    for (int i = 0; i < t->ndim; i++) {
        if (i == axis)
            continue;
        if (shape)
            shape[n] = t->shape[i];
        strides[n++] = t->strides[i];
    }
    return n;
}

pb_status pb_tensor_index(const pb_tensor *t, int axis, const int64_t *indices, int64_t n, pb_tensor **out,
                          pb_error *err) {
    int a;
    PB_TRY(pb_axis_resolve(t, axis, &a, err));
    char text[256];
    for (int64_t i = 0; i < n; i++) {
        if (indices[i] < -t->shape[a] || indices[i] >= t->shape[a])
            return pb_fail(err, PB_ERR_ARGUMENT,
                           "index %lld is out of range for axis %d of a tensor %s; indices start at 0",
                           (long long)indices[i], a, pb_shape_text(t->ndim, t->shape, text, sizeof text));
    }
    int64_t shape[PB_MAX_DIMS];
    memcpy(shape, t->shape, sizeof shape);
    shape[a] = n;
    pb_tensor *copy = NULL;
    PB_TRY(pb_tensor_create(pb_tensor_context(t), t->dtype, t->ndim, shape, &copy, err));
    int64_t rest[PB_MAX_DIMS], in_strides[PB_MAX_DIMS], out_strides[PB_MAX_DIMS];
    int ndim = other_axes(t, a, rest, in_strides);
    other_axes(copy, a, NULL, out_strides);
    for (int64_t i = 0; i < n; i++) {
        int64_t row = indices[i] < 0 ? indices[i] + t->shape[a] : indices[i];
        pb_copy_strided(ndim, rest, t->data + row * t->strides[a] * PB_ELEMENT, in_strides,
                        copy->data + i * copy->strides[a] * PB_ELEMENT, out_strides);
    }
    *out = copy;
    return PB_OK;
}

static pb_status check_parts(const pb_tensor *const *parts, int n, int axis, bool lengths_may_differ, pb_error *err) {
    const pb_tensor *first = parts[0];
    for (int k = 1; k < n; k++) {
        bool same = parts[k]->ndim == first->ndim;
        for (int i = 0; same && i < first->ndim; i++)
            same = parts[k]->shape[i] == first->shape[i] || (lengths_may_differ && i == axis);
        char a[256], b[256];
        if (!same)
            return pb_fail(err, PB_ERR_ARGUMENT, "part %d has the shape %s, which does not fit the first one's %s", k,
                           pb_shape_text(parts[k]->ndim, parts[k]->shape, a, sizeof a),
                           pb_shape_text(first->ndim, first->shape, b, sizeof b));
        if (parts[k]->dtype != first->dtype)
            return pb_fail(err, PB_ERR_ARGUMENT, "part %d is %s, the first one is %s; cast them to one type", k,
                           parts[k]->dtype == PB_F32 ? "float32" : "int32",
                           first->dtype == PB_F32 ? "float32" : "int32");
    }
    return PB_OK;
}

pb_status pb_tensor_concat(const pb_tensor *const *parts, int n, int axis, pb_tensor **out, pb_error *err) {
    if (n < 1)
        return pb_fail(err, PB_ERR_ARGUMENT, "concatenation of no tensors");
    int a;
    PB_TRY(pb_axis_resolve(parts[0], axis, &a, err));
    PB_TRY(check_parts(parts, n, a, true, err));
    int64_t shape[PB_MAX_DIMS];
    memcpy(shape, parts[0]->shape, sizeof shape);
    for (int k = 1; k < n; k++) {
        if (parts[k]->shape[a] > INT64_MAX - shape[a])
            return pb_fail(err, PB_ERR_ARGUMENT, "the parts are together longer than an axis can be");
        shape[a] += parts[k]->shape[a];
    }
    pb_tensor *joined = NULL;
    PB_TRY(pb_tensor_create(pb_tensor_context(parts[0]), parts[0]->dtype, parts[0]->ndim, shape, &joined, err));
    int64_t at = 0;
    for (int k = 0; k < n; k++) {
        pb_copy_strided(parts[k]->ndim, parts[k]->shape, parts[k]->data, parts[k]->strides,
                        joined->data + at * joined->strides[a] * PB_ELEMENT, joined->strides);
        at += parts[k]->shape[a];
    }
    *out = joined;
    return PB_OK;
}

pb_status pb_tensor_stack(const pb_tensor *const *parts, int n, int axis, pb_tensor **out, pb_error *err) {
    if (n < 1)
        return pb_fail(err, PB_ERR_ARGUMENT, "stack of no tensors");
    PB_TRY(check_parts(parts, n, 0, false, err));
    const pb_tensor *first = parts[0];
    int ndim = first->ndim + 1;
    if (ndim > PB_MAX_DIMS)
        return pb_fail(err, PB_ERR_ARGUMENT, "these tensors have %d axes already, no more are possible", first->ndim);
    if (axis < -ndim || axis >= ndim)
        return pb_fail(err, PB_ERR_ARGUMENT, "axis %d is out of range; the new axis can be %d to %d", axis, -ndim,
                       ndim - 1);
    int a = axis < 0 ? axis + ndim : axis;
    int64_t shape[PB_MAX_DIMS];
    for (int i = 0; i < ndim; i++)
        shape[i] = i == a ? n : first->shape[i > a ? i - 1 : i];
    pb_tensor *stacked = NULL;
    PB_TRY(pb_tensor_create(pb_tensor_context(first), first->dtype, ndim, shape, &stacked, err));
    int64_t strides[PB_MAX_DIMS];
    other_axes(stacked, a, NULL, strides);
    for (int k = 0; k < n; k++)
        pb_copy_strided(first->ndim, first->shape, parts[k]->data, parts[k]->strides,
                        stacked->data + k * stacked->strides[a] * PB_ELEMENT, strides);
    *out = stacked;
    return PB_OK;
}

/* ---- assignment ---------------------------------------------------------------------------------------------- */

pb_status pb_tensor_copy_from(pb_tensor *t, const pb_tensor *b, pb_error *err) {
    pb_broadcast shapes;
    if (t->dtype != b->dtype)
        return pb_fail(err, PB_ERR_ARGUMENT, "a tensor of %s cannot be copied into one of %s; cast it first",
                       b->dtype == PB_F32 ? "float32" : "int32", t->dtype == PB_F32 ? "float32" : "int32");
    PB_TRY(pb_broadcast_onto(t, b, &shapes, err));
    PB_TRY(pb_require_writable(t, "copy_from", err));
    PB_TRY(pb_require_no_overlap(t, b, shapes.b_strides, "copy_from", err));
    if (t->data != b->data) /* equal only when b lies exactly on t: nothing to do */
        pb_copy_strided(t->ndim, t->shape, b->data, shapes.b_strides, t->data, t->strides);
    return PB_OK;
}

pb_status pb_tensor_fill(pb_tensor *t, double value, pb_error *err) {
    PB_TRY(pb_require_writable(t, "fill", err));
    char bytes[PB_ELEMENT];
    if (t->dtype == PB_F32) {
        float number = (float)value;
        memcpy(bytes, &number, sizeof bytes);
    } else {
        if (!(value >= INT32_MIN && value <= INT32_MAX) || floor(value) != value)
            return pb_fail(err, PB_ERR_ARGUMENT, "%g is not an int32", value);
        int32_t number = (int32_t)value;
        memcpy(bytes, &number, sizeof bytes);
    }
    static const int64_t repeated[PB_MAX_DIMS] = {0};
    pb_copy_strided(t->ndim, t->shape, bytes, repeated, t->data, t->strides);
    return PB_OK;
}
