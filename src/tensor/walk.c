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
        return pb_fail(err, PB_ERR_ARGUMENT, "%s would write into a tensor that is mapped from a file; clone() it first", what);
    if (overlaps_itself(t))
        return pb_fail(err, PB_ERR_ARGUMENT,
                       "%s would write into an expanded tensor, where many entries are one number; clone() it first", what);
    return PB_OK;
}
