/* Reductions, softmax and cumulative sums along an axis; statistics over all entries.
 *
 * One loop serves them all: the axis is read as lanes. A lane that is not contiguous is gathered first, sixteen
 * neighbours at a time, so that each cache line is fetched once. Sums run in double in a fixed order: the same bits for
 * any strides and number of threads. */
#include "tensor/internal.h"

#include <math.h>
#include <string.h>

enum { GATHER = 16 };

/* ---- lanes --------------------------------------------------------------------------------------------------- */

/* Eight partial sums, so that the additions overlap; always the same eight. */
enum { PARTS = 8 };

static double combine(const double parts[PARTS]) {
    return ((parts[0] + parts[4]) + (parts[2] + parts[6])) + ((parts[1] + parts[5]) + (parts[3] + parts[7]));
}

static double lane_sum(const float *x, int64_t n) {
    double parts[PARTS] = {0};
    int64_t i = 0;
    for (; i + PARTS <= n; i += PARTS) {
        for (int k = 0; k < PARTS; k++)
            parts[k] += (double)x[i + k];
    }
    for (int k = 0; i < n; i++, k++)
        parts[k] += (double)x[i];
    return combine(parts);
}

/* sum of (x - center)^2 */
static double lane_squares(const float *x, int64_t n, double center) {
    double parts[PARTS] = {0};
    int64_t i = 0;
    for (; i + PARTS <= n; i += PARTS) {
        for (int k = 0; k < PARTS; k++) {
            double d = (double)x[i + k] - center;
            parts[k] += d * d;
        }
    }
    for (int k = 0; i < n; i++, k++) {
        double d = (double)x[i] - center;
        parts[k] += d * d;
    }
    return combine(parts);
}

/* Index of the largest (sign 1) or smallest (sign -1); the first NaN if there is one. */
static int64_t lane_extreme(const float *x, int64_t n, float sign) {
    int64_t best = 0;
    for (int64_t i = 0; i < n; i++) {
        if (isnan(x[i]))
            return i;
        if (sign * x[i] > sign * x[best])
            best = i;
    }
    return best;
}

/* log(sum(exp(x))), exact for infinities; *peak: the maximum. */
static double lane_logsumexp(const float *x, int64_t n, float *peak) {
    *peak = x[lane_extreme(x, n, 1.0f)];
    if (!isfinite(*peak))
        return (double)*peak;
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += exp((double)x[i] - (double)*peak);
    return (double)*peak + log(sum);
}

static float lane_reduce(pb_reduction op, const float *x, int64_t n) {
    float peak;
    switch (op) {
    case PB_SUM:
        return (float)lane_sum(x, n);
    case PB_MEAN:
        return (float)(lane_sum(x, n) / (double)n);
    case PB_MAXIMUM:
        return x[lane_extreme(x, n, 1.0f)];
    case PB_MINIMUM:
        return x[lane_extreme(x, n, -1.0f)];
    case PB_VARIANCE:
        return (float)(lane_squares(x, n, lane_sum(x, n) / (double)n) / (double)n);
    case PB_NORM:
        return (float)sqrt(lane_squares(x, n, 0.0));
    case PB_LOGSUMEXP:
        return (float)lane_logsumexp(x, n, &peak);
    case PB_ARGMAX:
    case PB_ARGMIN:
        break; /* they give an integer, not through here */
    }
    return NAN;
}

/* What is done with one lane of n numbers: `x` is contiguous, `out` one element (reductions) or out_step apart. */
typedef struct lane_job {
    enum { REDUCE, SOFTMAX, LOG_SOFTMAX, CUMSUM } kind;
    pb_reduction op;
    int64_t n;
    int64_t out_step;
} lane_job;

static void put_softmax(const lane_job *job, const float *x, float *out) {
    float peak = x[lane_extreme(x, job->n, 1.0f)];
    double sum = 0;
    for (int64_t i = 0; i < job->n; i++) {
        float e = expf(x[i] - peak); /* a peak of +-infinity makes NaN, as it must */
        out[i * job->out_step] = e;
        sum += (double)e;
    }
    for (int64_t i = 0; i < job->n; i++)
        out[i * job->out_step] = (float)((double)out[i * job->out_step] / sum);
}

static void put_log_softmax(const lane_job *job, const float *x, float *out) {
    float peak;
    double total = lane_logsumexp(x, job->n, &peak);
    for (int64_t i = 0; i < job->n; i++)
        out[i * job->out_step] = (float)((double)x[i] - total);
}

static void put_cumsum(const lane_job *job, const float *x, float *out) {
    double sum = 0;
    for (int64_t i = 0; i < job->n; i++) {
        sum += (double)x[i];
        out[i * job->out_step] = (float)sum;
    }
}

static void do_lane(const lane_job *job, const float *x, char *out) {
    float *floats = (float *)(void *)out;
    switch (job->kind) {
    case REDUCE:
        if (job->op == PB_ARGMAX || job->op == PB_ARGMIN)
            *(int32_t *)(void *)out = (int32_t)lane_extreme(x, job->n, job->op == PB_ARGMAX ? 1.0f : -1.0f);
        else
            *floats = lane_reduce(job->op, x, job->n);
        break;
    case SOFTMAX:
        put_softmax(job, x, floats);
        break;
    case LOG_SOFTMAX:
        put_log_softmax(job, x, floats);
        break;
    case CUMSUM:
        put_cumsum(job, x, floats);
        break;
    }
}

/* ---- all lanes of a tensor ----------------------------------------------------------------------------------- */

/* For every lane of t along `axis`; out's lanes start at out_strides over the other axes. */
static pb_status for_lanes(const lane_job *job, const pb_tensor *t, int axis, char *out, const int64_t *out_strides,
                           pb_error *err) {
    pb_context *ctx = pb_tensor_context(t);
    int64_t shape[PB_MAX_DIMS];
    memcpy(shape, t->shape, sizeof shape);
    shape[axis] = 1; /* the walk goes over the other axes */
    int64_t step = t->shape[axis] > 1 ? t->strides[axis] : 1;
    float *gathered = NULL;
    if (step != 1) {
        gathered = pb_alloc(ctx, (size_t)job->n, GATHER * sizeof *gathered);
        if (!gathered)
            return pb_fail_memory(err, ctx, (size_t)job->n * GATHER * sizeof *gathered, "a reduction");
    }
    pb_status status = PB_OK;
    const int64_t *strides[] = {t->strides, out_strides};
    pb_walk w;
    for (pb_walk_begin(&w, t->ndim, shape, 2, strides); !w.done && status == PB_OK; pb_walk_next(&w)) {
        const float *x = pb_tensor_floats(t) + w.offsets[0];
        char *to = out + w.offsets[1] * PB_ELEMENT;
        int64_t next = w.inner_strides[0], to_next = w.inner_strides[1] * PB_ELEMENT;
        for (int64_t lane = 0; lane < w.inner; lane += GATHER) {
            int64_t lanes = w.inner - lane < GATHER ? w.inner - lane : GATHER;
            const float *first = x + lane * next;
            for (int64_t i = 0; gathered && i < job->n; i++) {
                for (int64_t k = 0; k < lanes; k++)
                    gathered[k * job->n + i] = first[i * step + k * next];
            }
            for (int64_t k = 0; k < lanes; k++)
                do_lane(job, gathered ? gathered + k * job->n : first + k * next, to + (lane + k) * to_next);
        }
        status = pb_context_check(ctx, err);
    }
    pb_free(gathered);
    return status;
}

static const char *reduction_name(pb_reduction op) {
    switch (op) {
    case PB_SUM:
        return "sum";
    case PB_MEAN:
        return "mean";
    case PB_MAXIMUM:
        return "max";
    case PB_MINIMUM:
        return "min";
    case PB_ARGMAX:
        return "argmax";
    case PB_ARGMIN:
        return "argmin";
    case PB_VARIANCE:
        return "var";
    case PB_NORM:
        return "norm";
    case PB_LOGSUMEXP:
        return "logsumexp";
    }
    return NULL;
}

/* t as it is reduced: itself, or flat for PB_ALL_AXES. One reference. */
static pb_status lanes_of(const pb_tensor *t, int axis, pb_tensor **out, int *resolved, pb_error *err) {
    if (axis != PB_ALL_AXES) {
        PB_TRY(pb_axis_resolve(t, axis, resolved, err));
        return pb_tensor_view(t, t->ndim, t->shape, t->strides, t->data, out, err);
    }
    *resolved = 0;
    pb_tensor *whole = NULL;
    PB_TRY(pb_tensor_make_contiguous(t, &whole, err));
    pb_status status = pb_tensor_reshape(whole, 1, &t->count, out, err);
    pb_tensor_unref(whole);
    return status;
}

pb_status pb_tensor_reduce(pb_reduction op, const pb_tensor *t, int axis, bool keep, pb_tensor **out, pb_error *err) {
    const char *name = reduction_name(op);
    if (!name)
        return pb_fail(err, PB_ERR_ARGUMENT, "%d is no reduction", (int)op);
    PB_TRY(pb_require_float(t, name, err));
    pb_tensor *lanes = NULL, *result = NULL;
    int a = 0;
    PB_TRY(lanes_of(t, axis, &lanes, &a, err));
    pb_status status = PB_OK;
    char text[256];
    int64_t n = lanes->shape[a];
    if (n == 0 && op != PB_SUM) {
        status = pb_fail(err, PB_ERR_ARGUMENT, "%s over no elements (shape %s)", name,
                         pb_shape_text(t->ndim, t->shape, text, sizeof text));
        goto done;
    }
    if (n > INT32_MAX && (op == PB_ARGMAX || op == PB_ARGMIN)) {
        status = pb_fail(err, PB_ERR_UNSUPPORTED, "%s over %lld elements; int32 indices reach to %d", name,
                         (long long)n, INT32_MAX);
        goto done;
    }
    int64_t shape[PB_MAX_DIMS], lane_strides[PB_MAX_DIMS] = {0};
    int ndim = 0;
    for (int i = 0; i < t->ndim; i++) {
        bool reduced = axis == PB_ALL_AXES || i == a;
        if (!reduced || keep)
            shape[ndim++] = reduced ? 1 : t->shape[i];
    }
    status = pb_tensor_create(pb_tensor_context(t), op == PB_ARGMAX || op == PB_ARGMIN ? PB_I32 : PB_F32, ndim, shape,
                              &result, err);
    if (status != PB_OK)
        goto done;
    for (int i = 0, j = 0; axis != PB_ALL_AXES && i < t->ndim; i++) {
        if (i == a && !keep)
            continue;
        lane_strides[i] = i == a ? 0 : result->strides[j];
        j++;
    }
    lane_job job = {.kind = REDUCE, .op = op, .n = n};
    status = for_lanes(&job, lanes, a, result->data, lane_strides, err);
    if (status != PB_OK)
        goto done;
    *out = result;
    result = NULL;
done:
    pb_tensor_unref(lanes);
    pb_tensor_unref(result);
    return status;
}

/* ---- same shape out ------------------------------------------------------------------------------------------ */

static pb_status map_lanes(lane_job job, const char *name, const pb_tensor *t, int axis, pb_tensor **out,
                           pb_error *err) {
    int a = 0;
    PB_TRY(pb_require_float(t, name, err));
    PB_TRY(pb_axis_resolve(t, axis, &a, err));
    pb_tensor *result = NULL;
    PB_TRY(pb_tensor_create(pb_tensor_context(t), PB_F32, t->ndim, t->shape, &result, err));
    job.n = t->shape[a];
    job.out_step = result->strides[a];
    pb_status status = t->count ? for_lanes(&job, t, a, result->data, result->strides, err) : PB_OK;
    if (status == PB_OK)
        *out = result;
    else
        pb_tensor_unref(result);
    return status;
}

pb_status pb_tensor_softmax(const pb_tensor *t, int axis, pb_tensor **out, pb_error *err) {
    return map_lanes((lane_job){.kind = SOFTMAX}, "softmax", t, axis, out, err);
}

pb_status pb_tensor_log_softmax(const pb_tensor *t, int axis, pb_tensor **out, pb_error *err) {
    return map_lanes((lane_job){.kind = LOG_SOFTMAX}, "log_softmax", t, axis, out, err);
}

pb_status pb_tensor_cumsum(const pb_tensor *t, int axis, pb_tensor **out, pb_error *err) {
    return map_lanes((lane_job){.kind = CUMSUM}, "cumsum", t, axis, out, err);
}

/* ---- statistics over all entries ----------------------------------------------------------------------------- */

int64_t pb_tensor_count_nonfinite(const pb_tensor *t, int64_t *first) {
    int64_t count = 0, where = -1, seen = 0;
    if (t->dtype == PB_F32) {
        const int64_t *strides[] = {t->strides};
        pb_walk w;
        for (pb_walk_begin(&w, t->ndim, t->shape, 1, strides); !w.done; pb_walk_next(&w)) {
            const float *x = pb_tensor_floats(t) + w.offsets[0];
            for (int64_t i = 0; i < w.inner; i++) {
                bool bad = !isfinite(x[i * w.inner_strides[0]]);
                if (bad && where < 0)
                    where = seen + i;
                count += bad;
            }
            seen += w.inner;
        }
    }
    if (first)
        *first = where;
    return count;
}

pb_status pb_tensor_max_difference(const pb_tensor *a, const pb_tensor *b, double *absolute, double *relative,
                                   pb_error *err) {
    PB_TRY(pb_require_float(a, "max_difference", err));
    PB_TRY(pb_require_float(b, "max_difference", err));
    char ta[256], tb[256];
    if (!pb_tensor_same_shape(a, b))
        return pb_fail(err, PB_ERR_ARGUMENT, "tensors of different shape cannot be compared: %s and %s",
                       pb_shape_text(a->ndim, a->shape, ta, sizeof ta),
                       pb_shape_text(b->ndim, b->shape, tb, sizeof tb));
    double worst = 0, largest = 0;
    const int64_t *strides[] = {a->strides, b->strides};
    pb_walk w;
    for (pb_walk_begin(&w, a->ndim, a->shape, 2, strides); !w.done; pb_walk_next(&w)) {
        const float *x = pb_tensor_floats(a) + w.offsets[0], *y = pb_tensor_floats(b) + w.offsets[1];
        for (int64_t i = 0; i < w.inner; i++) {
            double p = (double)x[i * w.inner_strides[0]], q = (double)y[i * w.inner_strides[1]];
            double size = fabs(q);
            double difference = p == q ? 0.0 : fabs(p - q); /* p == q: also equal infinities */
            if (!(difference <= worst))
                worst = isnan(difference) ? (double)INFINITY : difference;
            if (size > largest && isfinite(size))
                largest = size;
        }
    }
    *absolute = worst;
    *relative = worst == 0 ? 0.0 : largest > 0 ? worst / largest : (double)INFINITY;
    return PB_OK;
}
