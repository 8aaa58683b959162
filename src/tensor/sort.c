/* Order: the k largest, and sorting permutations. Both are total orders, so that the result never depends on the
 * algorithm: NaN has a fixed place and equal numbers keep their order. */
#include "tensor/internal.h"

#include <math.h>

/* ---- top k --------------------------------------------------------------------------------------------------- */

typedef struct ranked {
    float value;
    int32_t index;
} ranked;

/* a comes before b among the k largest: NaN first (it wins in the maximum, too), then falling, then by index. */
static bool ranks_before(ranked a, ranked b) {
    bool a_nan = isnan(a.value), b_nan = isnan(b.value);
    if (a_nan != b_nan)
        return a_nan;
    if (!a_nan && a.value != b.value)
        return a.value > b.value;
    return a.index < b.index;
}

/* heap[0] is the entry that leaves first. Moves heap[at] down to its place among n. */
static void sift_down(ranked *heap, int64_t n, int64_t at) {
    ranked moving = heap[at];
    for (;;) {
        int64_t child = 2 * at + 1;
        if (child >= n)
            break;
        if (child + 1 < n && ranks_before(heap[child], heap[child + 1]))
            child++;
        if (!ranks_before(moving, heap[child]))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moving;
}

static void topk_lane(const float *x, int64_t step, int64_t n, int64_t k, ranked *heap) {
    for (int64_t i = 0; i < k; i++)
        heap[i] = (ranked){x[i * step], (int32_t)i};
    for (int64_t i = k / 2 - 1; i >= 0; i--)
        sift_down(heap, k, i);
    for (int64_t i = k; i < n; i++) {
        ranked candidate = {x[i * step], (int32_t)i};
        if (ranks_before(candidate, heap[0])) {
            heap[0] = candidate;
            sift_down(heap, k, 0);
        }
    }
    for (int64_t left = k - 1; left > 0; left--) { /* the last-ranked goes to the end, one by one */
        ranked last = heap[0];
        heap[0] = heap[left];
        heap[left] = last;
        sift_down(heap, left, 0);
    }
}

static pb_status check_topk(const pb_tensor *t, int64_t k, pb_error *err) {
    char text[256];
    pb_shape_text(t->ndim, t->shape, text, sizeof text);
    PB_TRY(pb_require_float(t, "topk", err));
    if (t->ndim == 0)
        return pb_fail(err, PB_ERR_ARGUMENT, "topk of a scalar; it needs an axis");
    int64_t n = t->shape[t->ndim - 1];
    if (k < 0 || k > n)
        return pb_fail(err, PB_ERR_ARGUMENT, "the %lld largest of %lld entries (shape %s); k is 0 to %lld",
                       (long long)k, (long long)n, text, (long long)n);
    if (n > INT32_MAX)
        return pb_fail(err, PB_ERR_UNSUPPORTED, "topk over %lld entries; int32 indices reach to %d", (long long)n,
                       INT32_MAX);
    return PB_OK;
}

pb_status pb_tensor_topk(const pb_tensor *t, int64_t k, pb_tensor **values, pb_tensor **indices, pb_error *err) {
    PB_TRY(check_topk(t, k, err));
    pb_context *ctx = pb_tensor_context(t);
    int last = t->ndim - 1;
    int64_t n = t->shape[last];
    int64_t shape[PB_MAX_DIMS], others[PB_MAX_DIMS];
    for (int i = 0; i < t->ndim; i++) {
        shape[i] = i == last ? k : t->shape[i];
        others[i] = i == last ? 1 : t->shape[i];
    }
    pb_tensor *top = NULL, *places = NULL;
    ranked *heap = NULL;
    pb_status status = pb_tensor_create(ctx, PB_F32, t->ndim, shape, &top, err);
    if (status == PB_OK)
        status = pb_tensor_create(ctx, PB_I32, t->ndim, shape, &places, err);
    if (status != PB_OK)
        goto done;
    heap = pb_alloc(ctx, (size_t)k, sizeof *heap);
    if (!heap) {
        status = pb_fail_memory(err, ctx, (size_t)k * sizeof *heap, "topk");
        goto done;
    }
    const int64_t *strides[] = {t->strides, top->strides};
    pb_walk w;
    for (pb_walk_begin(&w, t->ndim, others, 2, strides); !w.done && k > 0; pb_walk_next(&w)) {
        for (int64_t lane = 0; lane < w.inner; lane++) {
            int64_t to = w.offsets[1] + lane * w.inner_strides[1];
            topk_lane(pb_tensor_floats(t) + w.offsets[0] + lane * w.inner_strides[0], t->strides[last], n, k, heap);
            for (int64_t i = 0; i < k; i++) {
                pb_tensor_floats(top)[to + i] = heap[i].value;
                pb_tensor_ints(places)[to + i] = heap[i].index;
            }
        }
    }
    *values = top;
    *indices = places;
    top = places = NULL;
done:
    pb_free(heap);
    pb_tensor_unref(top);
    pb_tensor_unref(places);
    return status;
}

/* ---- argsort ------------------------------------------------------------------------------------------------- */

/* y must go before x, which stands before it: only then does a stable sort swap them. */
static bool out_of_order(float x, float y, bool descending) {
    if (isnan(x) || isnan(y))
        return isnan(x) && !isnan(y);
    return descending ? y > x : y < x;
}

static void merge(const float *keys, bool descending, const int32_t *from, int64_t begin, int64_t middle, int64_t end,
                  int32_t *to) {
    int64_t left = begin, right = middle;
    for (int64_t i = begin; i < end; i++) {
        bool take_right =
            left == middle || (right < end && out_of_order(keys[from[left]], keys[from[right]], descending));
        to[i] = take_right ? from[right++] : from[left++];
    }
}

static void merge_sort(const float *keys, bool descending, int64_t n, int32_t *order, int32_t *scratch) {
    int32_t *from = order, *to = scratch;
    for (int64_t width = 1; width < n; width *= 2) {
        for (int64_t begin = 0; begin < n; begin += 2 * width) {
            int64_t middle = begin + width < n ? begin + width : n;
            int64_t end = middle + width < n ? middle + width : n;
            merge(keys, descending, from, begin, middle, end, to);
        }
        int32_t *swap = from;
        from = to;
        to = swap;
    }
    for (int64_t i = 0; from != order && i < n; i++)
        order[i] = from[i];
}

pb_status pb_tensor_argsort(const pb_tensor *t, bool descending, pb_tensor **out, pb_error *err) {
    PB_TRY(pb_require_float(t, "argsort", err));
    if (t->ndim != 1 || t->count > INT32_MAX) {
        char text[256];
        return pb_fail(err, PB_ERR_ARGUMENT, "argsort needs a tensor of one axis and less than 2^31 entries, got %s",
                       pb_shape_text(t->ndim, t->shape, text, sizeof text));
    }
    pb_context *ctx = pb_tensor_context(t);
    pb_tensor *keys = NULL, *order = NULL;
    int32_t *scratch = NULL;
    pb_status status = pb_tensor_make_contiguous(t, &keys, err);
    if (status == PB_OK)
        status = pb_tensor_create(ctx, PB_I32, 1, t->shape, &order, err);
    if (status != PB_OK)
        goto done;
    scratch = pb_alloc(ctx, (size_t)t->count, sizeof *scratch);
    if (!scratch) {
        status = pb_fail_memory(err, ctx, (size_t)t->count * sizeof *scratch, "argsort");
        goto done;
    }
    for (int64_t i = 0; i < t->count; i++)
        pb_tensor_ints(order)[i] = (int32_t)i;
    merge_sort(pb_tensor_floats(keys), descending, t->count, pb_tensor_ints(order), scratch);
    *out = order;
    order = NULL;
done:
    pb_free(scratch);
    pb_tensor_unref(keys);
    pb_tensor_unref(order);
    return status;
}
