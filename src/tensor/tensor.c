/* Making tensors and looking at them: shape, one element, text. */
#include "tensor/internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/strbuf.h"
#include "patchbay/rng.h"

/* ---- shapes -------------------------------------------------------------------------------------------------- */

char *pb_shape_text(int ndim, const int64_t *shape, char *buffer, size_t size) {
    size_t at = 0;
    if (size == 0)
        return buffer;
    buffer[0] = '\0';
    for (int i = -1; i <= ndim && at < size; i++) {
        int n;
        if (i < 0)
            n = snprintf(buffer + at, size - at, "[");
        else if (i == ndim)
            n = snprintf(buffer + at, size - at, "]");
        else
            n = snprintf(buffer + at, size - at, i ? ", %lld" : "%lld", (long long)shape[i]);
        at += n > 0 ? (size_t)n : 0;
    }
    return buffer;
}

pb_status pb_shape_check(int ndim, const int64_t *shape, int64_t *count, pb_error *err) {
    if (ndim < 0 || ndim > PB_MAX_DIMS)
        return pb_fail(err, PB_ERR_ARGUMENT, "a tensor of %d axes; 0 to %d are possible", ndim, PB_MAX_DIMS);
    const int64_t most = PTRDIFF_MAX / 2 / PB_ELEMENT;
    int64_t product = 1;
    bool empty = false;
    char text[256];
    for (int i = 0; i < ndim; i++) {
        if (shape[i] < 0)
            return pb_fail(err, PB_ERR_ARGUMENT, "shape %s: axis %d has length %lld; lengths are 0 or more",
                           pb_shape_text(ndim, shape, text, sizeof text), i, (long long)shape[i]);
        if (shape[i] == 0)
            empty = true;
        else if (shape[i] > most / product)
            return pb_fail(err, PB_ERR_ARGUMENT, "shape %s: more elements than memory can hold",
                           pb_shape_text(ndim, shape, text, sizeof text));
        else
            product *= shape[i];
    }
    *count = empty ? 0 : product;
    return PB_OK;
}

void pb_shape_strides(int ndim, const int64_t *shape, int64_t *strides) {
    int64_t step = 1;
    for (int i = ndim - 1; i >= 0; i--) {
        strides[i] = step;
        step *= shape[i] > 1 ? shape[i] : 1;
    }
}

pb_status pb_axis_resolve(const pb_tensor *t, int axis, int *out, pb_error *err) {
    if (axis >= -t->ndim && axis < t->ndim) {
        *out = axis < 0 ? axis + t->ndim : axis;
        return PB_OK;
    }
    char text[256];
    pb_shape_text(t->ndim, t->shape, text, sizeof text);
    if (t->ndim == 0)
        return pb_fail(err, PB_ERR_ARGUMENT, "axis %d of a scalar; it has no axes", axis);
    return pb_fail(err, PB_ERR_ARGUMENT, "axis %d is out of range for a tensor %s; axes are %d to %d", axis, text,
                   -t->ndim, t->ndim - 1);
}

/* ---- making -------------------------------------------------------------------------------------------------- */

pb_status pb_tensor_on_storage(pb_storage *storage, size_t offset, pb_dtype dtype, int ndim, const int64_t *shape,
                               pb_tensor **out, pb_error *err) {
    int64_t count;
    PB_TRY(pb_shape_check(ndim, shape, &count, err));
    pb_tensor *t = pb_alloc_zero(storage->ctx, 1, sizeof *t);
    if (!t)
        return pb_fail_memory(err, storage->ctx, sizeof *t, "a tensor");
    atomic_init(&t->refs, 1);
    t->storage = pb_storage_ref(storage);
    t->dtype = dtype;
    t->ndim = ndim;
    for (int i = 0; i < ndim; i++)
        t->shape[i] = shape[i];
    pb_shape_strides(ndim, shape, t->strides);
    t->count = count;
    t->data = storage->data + offset;
    *out = t;
    return PB_OK;
}

static pb_status create(pb_context *ctx, pb_dtype dtype, int ndim, const int64_t *shape, bool zero, pb_tensor **out,
                        pb_error *err) {
    int64_t count;
    PB_TRY(pb_shape_check(ndim, shape, &count, err));
    if (dtype != PB_F32 && dtype != PB_I32)
        return pb_fail(err, PB_ERR_ARGUMENT, "dtype %d is neither float32 nor int32", (int)dtype);
    pb_storage *storage = NULL;
    PB_TRY(pb_storage_create(ctx, (size_t)count * PB_ELEMENT, zero, &storage, err));
    pb_status status = pb_tensor_on_storage(storage, 0, dtype, ndim, shape, out, err);
    pb_storage_unref(storage);
    return status;
}

pb_status pb_tensor_create(pb_context *ctx, pb_dtype dtype, int ndim, const int64_t *shape, pb_tensor **out,
                           pb_error *err) {
    return create(ctx, dtype, ndim, shape, false, out, err);
}

pb_status pb_tensor_zeros(pb_context *ctx, pb_dtype dtype, int ndim, const int64_t *shape, pb_tensor **out,
                          pb_error *err) {
    return create(ctx, dtype, ndim, shape, true, out, err);
}

pb_status pb_tensor_full(pb_context *ctx, int ndim, const int64_t *shape, float value, pb_tensor **out, pb_error *err) {
    pb_tensor *t = NULL;
    PB_TRY(create(ctx, PB_F32, ndim, shape, false, &t, err));
    float *data = pb_tensor_floats(t);
    for (int64_t i = 0; i < t->count; i++)
        data[i] = value;
    *out = t;
    return PB_OK;
}

static pb_status from_memory(pb_context *ctx, pb_dtype dtype, int ndim, const int64_t *shape, const void *data,
                             pb_tensor **out, pb_error *err) {
    pb_tensor *t = NULL;
    PB_TRY(create(ctx, dtype, ndim, shape, false, &t, err));
    if (t->count)
        memcpy(t->data, data, (size_t)t->count * PB_ELEMENT);
    *out = t;
    return PB_OK;
}

pb_status pb_tensor_from_floats(pb_context *ctx, int ndim, const int64_t *shape, const float *data, pb_tensor **out,
                                pb_error *err) {
    return from_memory(ctx, PB_F32, ndim, shape, data, out, err);
}

pb_status pb_tensor_from_ints(pb_context *ctx, int ndim, const int64_t *shape, const int32_t *data, pb_tensor **out,
                              pb_error *err) {
    return from_memory(ctx, PB_I32, ndim, shape, data, out, err);
}

pb_status pb_tensor_range(pb_context *ctx, double start, double step, int64_t n, pb_tensor **out, pb_error *err) {
    pb_tensor *t = NULL;
    PB_TRY(create(ctx, PB_F32, 1, &n, false, &t, err));
    float *data = pb_tensor_floats(t);
    for (int64_t i = 0; i < n; i++)
        data[i] = (float)(start + (double)i * step);
    *out = t;
    return PB_OK;
}

pb_status pb_tensor_normal(pb_context *ctx, int ndim, const int64_t *shape, uint64_t seed, uint64_t draw,
                           pb_tensor **out, pb_error *err) {
    PB_TRY(create(ctx, PB_F32, ndim, shape, false, out, err));
    pb_rng_normal(seed, draw, 0, (size_t)(*out)->count, pb_tensor_floats(*out));
    return PB_OK;
}

pb_status pb_tensor_uniform(pb_context *ctx, int ndim, const int64_t *shape, uint64_t seed, uint64_t draw,
                            pb_tensor **out, pb_error *err) {
    PB_TRY(create(ctx, PB_F32, ndim, shape, false, out, err));
    pb_rng_uniform(seed, draw, 0, (size_t)(*out)->count, pb_tensor_floats(*out));
    return PB_OK;
}

pb_tensor *pb_tensor_ref(pb_tensor *t) {
    atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed);
    return t;
}

void pb_tensor_unref(pb_tensor *t) {
    if (!t || atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) != 1)
        return;
    pb_storage *storage = t->storage;
    pb_free(t);
    pb_storage_unref(storage);
}

/* ---- looking ------------------------------------------------------------------------------------------------- */

pb_context *pb_tensor_context(const pb_tensor *t) { return t->storage->ctx; }
pb_dtype pb_tensor_dtype(const pb_tensor *t) { return t->dtype; }
int pb_tensor_ndim(const pb_tensor *t) { return t->ndim; }
const int64_t *pb_tensor_shape(const pb_tensor *t) { return t->shape; }
const int64_t *pb_tensor_strides(const pb_tensor *t) { return t->strides; }
int64_t pb_tensor_count(const pb_tensor *t) { return t->count; }
size_t pb_tensor_bytes(const pb_tensor *t) { return t->storage->bytes; }
float *pb_tensor_floats(const pb_tensor *t) { return t->dtype == PB_F32 ? (float *)(void *)t->data : NULL; }
int32_t *pb_tensor_ints(const pb_tensor *t) { return t->dtype == PB_I32 ? (int32_t *)(void *)t->data : NULL; }

bool pb_tensor_contiguous(const pb_tensor *t) {
    if (t->count == 0)
        return true;
    int64_t step = 1;
    for (int i = t->ndim - 1; i >= 0; i--) {
        if (t->shape[i] != 1 && t->strides[i] != step)
            return false;
        step *= t->shape[i];
    }
    return true;
}

bool pb_tensor_same_shape(const pb_tensor *a, const pb_tensor *b) {
    return a->ndim == b->ndim && memcmp(a->shape, b->shape, (size_t)a->ndim * sizeof a->shape[0]) == 0;
}

pb_status pb_require_float(const pb_tensor *t, const char *what, pb_error *err) {
    if (t->dtype == PB_F32)
        return PB_OK;
    return pb_fail(err, PB_ERR_ARGUMENT, "%s needs float32 numbers, this tensor is int32; cast it first", what);
}

static pb_status locate(const pb_tensor *t, int n, const int64_t *index, char **out, pb_error *err) {
    char shape[256];
    if (n != t->ndim)
        return pb_fail(err, PB_ERR_ARGUMENT, "%d indices for a tensor %s of %d axes", n,
                       pb_shape_text(t->ndim, t->shape, shape, sizeof shape), t->ndim);
    int64_t offset = 0;
    for (int i = 0; i < n; i++) {
        if (index[i] < -t->shape[i] || index[i] >= t->shape[i])
            return pb_fail(err, PB_ERR_ARGUMENT,
                           "index %lld is out of range for axis %d of a tensor %s; indices start at 0",
                           (long long)index[i], i, pb_shape_text(t->ndim, t->shape, shape, sizeof shape));
        offset += (index[i] < 0 ? index[i] + t->shape[i] : index[i]) * t->strides[i];
    }
    *out = t->data + offset * PB_ELEMENT;
    return PB_OK;
}

static double element(const pb_tensor *t, const char *at) {
    if (t->dtype == PB_F32)
        return (double)*(const float *)(const void *)at;
    return (double)*(const int32_t *)(const void *)at;
}

pb_status pb_tensor_get(const pb_tensor *t, int n, const int64_t *index, double *out, pb_error *err) {
    char *at = NULL;
    PB_TRY(locate(t, n, index, &at, err));
    *out = element(t, at);
    return PB_OK;
}

pb_status pb_tensor_set(pb_tensor *t, int n, const int64_t *index, double value, pb_error *err) {
    char *at = NULL;
    PB_TRY(locate(t, n, index, &at, err));
    PB_TRY(pb_require_writable(t, "set", err));
    if (t->dtype == PB_F32) {
        *(float *)(void *)at = (float)value;
        return PB_OK;
    }
    if (!(value >= INT32_MIN && value <= INT32_MAX) || floor(value) != value)
        return pb_fail(err, PB_ERR_ARGUMENT, "%g is not an int32", value);
    *(int32_t *)(void *)at = (int32_t)value;
    return PB_OK;
}

pb_status pb_tensor_item(const pb_tensor *t, double *out, pb_error *err) {
    char shape[256];
    if (t->count != 1)
        return pb_fail(err, PB_ERR_ARGUMENT,
                       "item() is the value of a tensor with one element; this one is %s with %lld",
                       pb_shape_text(t->ndim, t->shape, shape, sizeof shape), (long long)t->count);
    *out = element(t, t->data);
    return PB_OK;
}

/* ---- text ---------------------------------------------------------------------------------------------------- */

enum { PRINT_WHOLE = 1000, PRINT_EDGE = 3, PRINT_DIGITS = 5 };

typedef struct printer {
    const pb_tensor *t;
    pb_strbuf *text;
    bool edges; /* only the first and last PRINT_EDGE of each long axis */
    int width;  /* of a number's column; found by a first pass that writes nothing */
    bool measuring;
} printer;

static void print_number(printer *p, const char *at) {
    char number[64];
    if (p->t->dtype == PB_F32)
        pb_number_text(element(p->t, at), PRINT_DIGITS, number, sizeof number);
    else
        snprintf(number, sizeof number, "%ld", (long)*(const int32_t *)(const void *)at);
    int length = (int)strlen(number);
    if (!p->measuring)
        pb_strbuf_printf(p->text, "%*s", p->width, number);
    else if (length > p->width)
        p->width = length;
}

static void print_axis(printer *p, int axis, const char *at) {
    const pb_tensor *t = p->t;
    if (axis == t->ndim) {
        print_number(p, at);
        return;
    }
    bool last = axis == t->ndim - 1;
    int64_t n = t->shape[axis];
    bool cut = p->edges && n > 2 * PRINT_EDGE;
    if (!p->measuring)
        pb_strbuf_add_char(p->text, '[');
    for (int64_t i = 0; i < n; i++) {
        if (i > 0 && !p->measuring) {
            pb_strbuf_add(p->text, last ? ", " : ",\n");
            if (!last)
                pb_strbuf_printf(p->text, "%*s", axis + 1, "");
        }
        if (cut && i == PRINT_EDGE) {
            if (!p->measuring)
                pb_strbuf_add(p->text, "...");
            i = n - PRINT_EDGE - 1;
            continue;
        }
        print_axis(p, axis + 1, at + i * t->strides[axis] * PB_ELEMENT);
    }
    if (!p->measuring)
        pb_strbuf_add_char(p->text, ']');
}

pb_status pb_tensor_print(const pb_tensor *t, char **out, pb_error *err) {
    char shape[256];
    pb_strbuf text;
    pb_strbuf_init(&text, pb_tensor_context(t));
    pb_strbuf_printf(&text, "tensor %s %s", pb_shape_text(t->ndim, t->shape, shape, sizeof shape),
                     t->dtype == PB_F32 ? "float32" : "int32");
    if (t->count > 0) {
        printer p = {.t = t, .text = &text, .edges = t->count > PRINT_WHOLE, .measuring = true};
        print_axis(&p, 0, t->data);
        p.measuring = false;
        pb_strbuf_add_char(&text, '\n');
        print_axis(&p, 0, t->data);
    }
    return pb_strbuf_take(&text, out, NULL, "a printed tensor", err);
}
