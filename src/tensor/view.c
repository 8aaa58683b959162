/* Views: other shapes and strides on the same storage. Nothing here copies an element. */
#include "tensor/internal.h"

#include <string.h>

pb_status pb_tensor_view(const pb_tensor *t, int ndim, const int64_t *shape, const int64_t *strides, char *data,
                         pb_tensor **out, pb_error *err) {
    pb_tensor *view = NULL;
    PB_TRY(pb_tensor_on_storage(t->storage, 0, t->dtype, ndim, shape, &view, err));
    for (int i = 0; i < ndim; i++)
        view->strides[i] = strides[i];
    view->data = data;
    *out = view;
    return PB_OK;
}

pb_status pb_tensor_select(const pb_tensor *t, int axis, int64_t index, pb_tensor **out, pb_error *err) {
    int a;
    PB_TRY(pb_axis_resolve(t, axis, &a, err));
    char text[256];
    if (index < -t->shape[a] || index >= t->shape[a])
        return pb_fail(err, PB_ERR_ARGUMENT,
                       "index %lld is out of range for axis %d of a tensor %s; indices start at 0", (long long)index, a,
                       pb_shape_text(t->ndim, t->shape, text, sizeof text));
    int64_t i = index < 0 ? index + t->shape[a] : index;
    int64_t shape[PB_MAX_DIMS], strides[PB_MAX_DIMS];
    int n = 0;
    for (int d = 0; d < t->ndim; d++) {
        if (d == a)
            continue;
        shape[n] = t->shape[d];
        strides[n++] = t->strides[d];
    }
    return pb_tensor_view(t, n, shape, strides, t->data + i * t->strides[a] * PB_ELEMENT, out, err);
}

pb_status pb_tensor_narrow(const pb_tensor *t, int axis, int64_t start, int64_t length, pb_tensor **out,
                           pb_error *err) {
    int a;
    PB_TRY(pb_axis_resolve(t, axis, &a, err));
    int64_t n = t->shape[a];
    int64_t first = start < 0 ? start + n : start;
    char text[256];
    if (start < -n || first > n || length < 0 || length > n - first)
        return pb_fail(err, PB_ERR_ARGUMENT, "%lld entries from %lld on do not lie within axis %d of a tensor %s",
                       (long long)length, (long long)start, a, pb_shape_text(t->ndim, t->shape, text, sizeof text));
    int64_t shape[PB_MAX_DIMS];
    memcpy(shape, t->shape, sizeof shape);
    shape[a] = length;
    /* An empty view keeps the old start: a pointer past the end would be of no use to anybody. */
    char *data = length ? t->data + first * t->strides[a] * PB_ELEMENT : t->data;
    return pb_tensor_view(t, t->ndim, shape, t->strides, data, out, err);
}

pb_status pb_tensor_transpose(const pb_tensor *t, int axis_a, int axis_b, pb_tensor **out, pb_error *err) {
    int a, b;
    PB_TRY(pb_axis_resolve(t, axis_a, &a, err));
    PB_TRY(pb_axis_resolve(t, axis_b, &b, err));
    int64_t shape[PB_MAX_DIMS], strides[PB_MAX_DIMS];
    memcpy(shape, t->shape, sizeof shape);
    memcpy(strides, t->strides, sizeof strides);
    shape[a] = t->shape[b];
    shape[b] = t->shape[a];
    strides[a] = t->strides[b];
    strides[b] = t->strides[a];
    return pb_tensor_view(t, t->ndim, shape, strides, t->data, out, err);
}

/* ---- reshape ------------------------------------------------------------------------------------------------- */

/* Replaces a -1 and checks that the number of elements stays. */
static pb_status resolve_shape(const pb_tensor *t, int ndim, const int64_t *wanted, int64_t *shape, pb_error *err) {
    char from[256], to[256];
    if (ndim < 0 || ndim > PB_MAX_DIMS)
        return pb_fail(err, PB_ERR_ARGUMENT, "a tensor of %d axes; 0 to %d are possible", ndim, PB_MAX_DIMS);
    pb_shape_text(t->ndim, t->shape, from, sizeof from);
    pb_shape_text(ndim, wanted, to, sizeof to);
    int open = -1;
    for (int i = 0; i < ndim; i++) {
        shape[i] = wanted[i];
        if (wanted[i] != -1)
            continue;
        if (open >= 0)
            return pb_fail(err, PB_ERR_ARGUMENT, "shape %s has more than one -1", to);
        open = i;
        shape[i] = 1;
    }
    int64_t count;
    PB_TRY(pb_shape_check(ndim, shape, &count, err));
    if (open >= 0 && count > 0 && t->count % count == 0) {
        shape[open] = t->count / count;
        return PB_OK;
    }
    if (open >= 0 || count != t->count)
        return pb_fail(err, PB_ERR_ARGUMENT, "a tensor %s of %lld elements cannot take the shape %s", from,
                       (long long)t->count, to);
    return PB_OK;
}

/* Strides of the new shape on the old memory: old and new axes are cut into groups of equal size; the old axes of each
 * group must lie evenly in memory. False if they do not. */
static bool strides_for(const pb_tensor *t, int ndim, const int64_t *shape, int64_t *strides) {
    int64_t old_shape[PB_MAX_DIMS], old_strides[PB_MAX_DIMS];
    int old_ndim = 0;
    for (int i = 0; i < t->ndim; i++) {
        if (t->shape[i] == 1)
            continue;
        old_shape[old_ndim] = t->shape[i];
        old_strides[old_ndim++] = t->strides[i];
    }
    int old_at = 0, new_at = 0;
    while (old_at < old_ndim) {
        int old_end = old_at + 1, new_end = new_at;
        int64_t old_size = old_shape[old_at], new_size = 1;
        while (new_end < ndim && new_size < old_size)
            new_size *= shape[new_end++];
        while (new_size != old_size) {
            if (new_size < old_size)
                new_size *= shape[new_end++];
            else
                old_size *= old_shape[old_end++];
        }
        for (int i = old_at; i + 1 < old_end; i++) {
            if (old_strides[i] != old_strides[i + 1] * old_shape[i + 1])
                return false;
        }
        int64_t step = old_strides[old_end - 1];
        for (int i = new_end - 1; i >= new_at; i--) {
            strides[i] = step;
            step *= shape[i];
        }
        old_at = old_end;
        new_at = new_end;
    }
    for (; new_at < ndim; new_at++) /* axes of length 1 at the end */
        strides[new_at] = 1;
    return true;
}

pb_status pb_tensor_reshape(const pb_tensor *t, int ndim, const int64_t *wanted, pb_tensor **out, pb_error *err) {
    int64_t shape[PB_MAX_DIMS] = {0}, strides[PB_MAX_DIMS] = {0};
    PB_TRY(resolve_shape(t, ndim, wanted, shape, err));
    char from[256], to[256];
    if (t->count == 0 || pb_tensor_contiguous(t))
        pb_shape_strides(ndim, shape, strides);
    else if (!strides_for(t, ndim, shape, strides))
        return pb_fail(err, PB_ERR_ARGUMENT,
                       "a view of shape %s does not fit the memory of this tensor %s (it is transposed, narrowed or "
                       "expanded); use contiguous() first, which copies it",
                       pb_shape_text(ndim, shape, to, sizeof to), pb_shape_text(t->ndim, t->shape, from, sizeof from));
    return pb_tensor_view(t, ndim, shape, strides, t->data, out, err);
}

/* ---- axes of length 1 ---------------------------------------------------------------------------------------- */

pb_status pb_tensor_expand(const pb_tensor *t, int ndim, const int64_t *shape, pb_tensor **out, pb_error *err) {
    char from[256], to[256];
    int64_t count;
    PB_TRY(pb_shape_check(ndim, shape, &count, err));
    int more = ndim - t->ndim;
    bool fits = more >= 0;
    int64_t strides[PB_MAX_DIMS] = {0};
    for (int i = 0; fits && i < ndim; i++) {
        if (i < more)
            continue;
        int old = i - more;
        if (t->shape[old] == shape[i])
            strides[i] = t->strides[old];
        else
            fits = t->shape[old] == 1;
    }
    if (!fits)
        return pb_fail(err, PB_ERR_ARGUMENT,
                       "a tensor %s cannot be expanded to %s; only axes of length 1 can be repeated",
                       pb_shape_text(t->ndim, t->shape, from, sizeof from), pb_shape_text(ndim, shape, to, sizeof to));
    return pb_tensor_view(t, ndim, shape, strides, t->data, out, err);
}

pb_status pb_tensor_unsqueeze(const pb_tensor *t, int axis, pb_tensor **out, pb_error *err) {
    int n = t->ndim + 1;
    if (n > PB_MAX_DIMS)
        return pb_fail(err, PB_ERR_ARGUMENT, "this tensor has %d axes already, no more are possible", t->ndim);
    if (axis < -n || axis >= n)
        return pb_fail(err, PB_ERR_ARGUMENT, "axis %d is out of range; the new axis can be %d to %d", axis, -n, n - 1);
    int a = axis < 0 ? axis + n : axis;
    int64_t shape[PB_MAX_DIMS], strides[PB_MAX_DIMS];
    for (int i = 0; i < n; i++) {
        int old = i > a ? i - 1 : i;
        shape[i] = i == a ? 1 : t->shape[old];
        /* the stride of a length of 1 is never used; this one keeps the view tidy */
        strides[i] = i != a ? t->strides[old] : old < t->ndim ? t->strides[old] * t->shape[old] : 1;
    }
    return pb_tensor_view(t, n, shape, strides, t->data, out, err);
}

pb_status pb_tensor_squeeze(const pb_tensor *t, int axis, pb_tensor **out, pb_error *err) {
    int a;
    char text[256];
    PB_TRY(pb_axis_resolve(t, axis, &a, err));
    if (t->shape[a] != 1)
        return pb_fail(err, PB_ERR_ARGUMENT, "axis %d of a tensor %s has length %lld; only an axis of length 1 can go",
                       a, pb_shape_text(t->ndim, t->shape, text, sizeof text), (long long)t->shape[a]);
    return pb_tensor_select(t, a, 0, out, err);
}
