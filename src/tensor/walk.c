/* The loop nest under elementwise operations, copies and reductions, and the question whether memory overlaps. */
#include "tensor/internal.h"

#include <string.h>

void pb_walk_begin(pb_walk *w, int ndim, const int64_t *shape, int operands, const int64_t *const *strides) {
    memset(w, 0, sizeof *w);
    w->operands = operands;
    int n = 0;
    for (int axis = 0; axis < ndim; axis++) {
        if (shape[axis] == 0)
            w->done = true;
        if (shape[axis] == 1)
            continue;
        bool merges = n > 0;
        for (int k = 0; merges && k < operands; k++)
            merges = w->strides[k][n - 1] == strides[k][axis] * shape[axis];
        if (!merges)
            n++;
        w->shape[n - 1] = merges ? w->shape[n - 1] * shape[axis] : shape[axis];
        for (int k = 0; k < operands; k++)
            w->strides[k][n - 1] = strides[k][axis];
    }
    w->ndim = n > 0 ? n - 1 : 0;
    w->inner = n > 0 ? w->shape[n - 1] : 1;
    for (int k = 0; k < operands; k++)
        w->inner_strides[k] = n > 0 ? w->strides[k][n - 1] : 0;
}

void pb_walk_next(pb_walk *w) {
    for (int axis = w->ndim - 1; axis >= 0; axis--) {
        if (++w->index[axis] < w->shape[axis]) {
            for (int k = 0; k < w->operands; k++)
                w->offsets[k] += w->strides[k][axis];
            return;
        }
        for (int k = 0; k < w->operands; k++)
            w->offsets[k] -= w->strides[k][axis] * (w->shape[axis] - 1);
        w->index[axis] = 0;
    }
    w->done = true;
}

/* True if two different indices share an element. With axes sorted by stride, none do if each stride steps over all
 * that the smaller ones reach; views made by this library never fail that test but by a stride of 0. */
static bool overlaps_itself(const pb_tensor *t) {
    int order[PB_MAX_DIMS], n = 0;
    if (t->count == 0)
        return false;
    for (int axis = 0; axis < t->ndim; axis++) {
        if (t->shape[axis] == 1)
            continue;
        int at = n++;
        for (; at > 0 && t->strides[order[at - 1]] > t->strides[axis]; at--)
            order[at] = order[at - 1];
        order[at] = axis;
    }
    int64_t reach = 0;
    for (int i = 0; i < n; i++) {
        int64_t stride = t->strides[order[i]];
        if (stride <= reach)
            return true;
        reach += stride * (t->shape[order[i]] - 1);
    }
    return false;
}

pb_status pb_require_writable(const pb_tensor *t, const char *what, pb_error *err) {
    if (t->storage->read_only)
        return pb_fail(err, PB_ERR_ARGUMENT,
                       "%s would write into a tensor that is mapped from a file; clone() it first", what);
    if (overlaps_itself(t))
        return pb_fail(err, PB_ERR_ARGUMENT,
                       "%s would write into an expanded tensor, where many entries are one number; clone() it first",
                       what);
    return PB_OK;
}

/* ---- copying ------------------------------------------------------------------------------------------------- */

void pb_copy_strided(int ndim, const int64_t *shape, const char *in, const int64_t *in_strides, char *out,
                     const int64_t *out_strides) {
    const int64_t *strides[] = {in_strides, out_strides};
    pb_walk w;
    for (pb_walk_begin(&w, ndim, shape, 2, strides); !w.done; pb_walk_next(&w)) {
        const char *from = in + w.offsets[0] * PB_ELEMENT;
        char *to = out + w.offsets[1] * PB_ELEMENT;
        if (w.inner_strides[0] == 1 && w.inner_strides[1] == 1) {
            memcpy(to, from, (size_t)w.inner * PB_ELEMENT);
            continue;
        }
        int64_t from_step = w.inner_strides[0] * PB_ELEMENT, to_step = w.inner_strides[1] * PB_ELEMENT;
        for (int64_t i = 0; i < w.inner; i++)
            memcpy(to + i * to_step, from + i * from_step, PB_ELEMENT);
    }
}

/* ---- broadcasting -------------------------------------------------------------------------------------------- */

static void aligned_axis(const pb_tensor *t, int ndim, int axis, int64_t *length, int64_t *stride) {
    int own = axis - (ndim - t->ndim);
    *length = own >= 0 ? t->shape[own] : 1;
    *stride = own >= 0 && t->shape[own] != 1 ? t->strides[own] : 0;
}

pb_status pb_broadcast_shapes(const pb_tensor *a, const pb_tensor *b, pb_broadcast *out, pb_error *err) {
    out->ndim = a->ndim > b->ndim ? a->ndim : b->ndim;
    for (int axis = 0; axis < out->ndim; axis++) {
        int64_t la, lb;
        aligned_axis(a, out->ndim, axis, &la, &out->a_strides[axis]);
        aligned_axis(b, out->ndim, axis, &lb, &out->b_strides[axis]);
        if (la != lb && la != 1 && lb != 1) {
            char ta[256], tb[256];
            return pb_fail(
                err, PB_ERR_ARGUMENT,
                "shapes %s and %s do not fit together: counted from the last axis, lengths must be equal or 1",
                pb_shape_text(a->ndim, a->shape, ta, sizeof ta), pb_shape_text(b->ndim, b->shape, tb, sizeof tb));
        }
        out->shape[axis] = la == 1 ? lb : la;
    }
    int64_t count;
    return pb_shape_check(out->ndim, out->shape, &count, err);
}

pb_status pb_broadcast_onto(const pb_tensor *t, const pb_tensor *b, pb_broadcast *out, pb_error *err) {
    PB_TRY(pb_broadcast_shapes(t, b, out, err));
    bool same = out->ndim == t->ndim;
    for (int axis = 0; same && axis < t->ndim; axis++)
        same = out->shape[axis] == t->shape[axis];
    char tt[256], tb[256];
    if (!same)
        return pb_fail(
            err, PB_ERR_ARGUMENT, "a tensor %s cannot be written into one of shape %s, which keeps its shape",
            pb_shape_text(b->ndim, b->shape, tb, sizeof tb), pb_shape_text(t->ndim, t->shape, tt, sizeof tt));
    return PB_OK;
}

/* ---- overlap ------------------------------------------------------------------------------------------------- */

typedef struct span {
    const char *begin, *end; /* end: one past the last byte */
} span;

static span reach_of(const pb_tensor *t) {
    int64_t last = 0;
    for (int axis = 0; axis < t->ndim; axis++)
        last += (t->shape[axis] - 1) * t->strides[axis]; /* strides are never negative here */
    return (span){t->data, t->data + (last + 1) * PB_ELEMENT};
}

static bool same_layout(const pb_tensor *t, const pb_tensor *b, const int64_t *b_strides) {
    if (t->data != b->data)
        return false;
    for (int axis = 0; axis < t->ndim; axis++) {
        if (t->shape[axis] > 1 && t->strides[axis] != b_strides[axis])
            return false;
    }
    return true;
}

/* Marks (or looks for marks of) the elements of t in a bitmap over the bytes from `origin` on. */
static bool mark_elements(const pb_tensor *t, const char *origin, unsigned char *marks, bool looking) {
    const int64_t *strides[] = {t->strides};
    pb_walk w;
    for (pb_walk_begin(&w, t->ndim, t->shape, 1, strides); !w.done; pb_walk_next(&w)) {
        int64_t at = (t->data - origin) / PB_ELEMENT + w.offsets[0];
        for (int64_t i = 0; i < w.inner; i++, at += w.inner_strides[0]) {
            unsigned bit = 1u << (at & 7);
            if (!looking)
                marks[at >> 3] = (unsigned char)(marks[at >> 3] | bit);
            else if (marks[at >> 3] & bit)
                return true;
        }
    }
    return false;
}

pb_status pb_require_no_overlap(const pb_tensor *t, const pb_tensor *b, const int64_t *b_strides, const char *what,
                                pb_error *err) {
    if (t->storage != b->storage || t->count == 0 || b->count == 0 || same_layout(t, b, b_strides))
        return PB_OK;
    span st = reach_of(t), sb = reach_of(b);
    if (st.end <= sb.begin || sb.end <= st.begin)
        return PB_OK;
    /* The ranges cross, yet two columns of one matrix share no element: look at each. Rare, and exact. */
    const char *begin = st.begin < sb.begin ? st.begin : sb.begin;
    const char *end = st.end > sb.end ? st.end : sb.end;
    size_t size = (size_t)((end - begin) / PB_ELEMENT) / 8 + 1;
    pb_context *ctx = t->storage->ctx;
    unsigned char *marks = pb_alloc_zero(ctx, size, 1);
    if (!marks)
        return pb_fail_memory(err, ctx, size, "the check for overlapping tensors");
    mark_elements(t, begin, marks, false);
    bool shared = mark_elements(b, begin, marks, true);
    pb_free(marks);
    if (shared)
        return pb_fail(err, PB_ERR_ARGUMENT,
                       "%s reads entries of the tensor that it changes, in another order; clone() the one that is read",
                       what);
    return PB_OK;
}
