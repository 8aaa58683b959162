/* Matrix products through CBLAS, with numpy's rules for vectors and leading axes. Strides that sgemm can read are handed
 * over as they are; others are copied first. */
#include "tensor/internal.h"

#include <cblas.h>
#include <limits.h>
#include <string.h>

#include "tensor/blas_threads.h"

/* A matrix as sgemm can read it: row-major with rows `lead` apart, or the transpose of such a one. */
typedef struct gemm_operand {
    bool transposed;
    int64_t lead;
} gemm_operand;

static bool gemm_readable(int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride, gemm_operand *out) {
    if ((column_stride == 1 || columns == 1) && (row_stride >= columns || rows == 1)) {
        *out = (gemm_operand){false, rows == 1 ? columns : row_stride};
        return out->lead <= INT_MAX;
    }
    if ((row_stride == 1 || rows == 1) && (column_stride >= rows || columns == 1)) {
        *out = (gemm_operand){true, columns == 1 ? rows : column_stride};
        return out->lead <= INT_MAX;
    }
    return false;
}

/* Operands with both matrix axes in place (vectors got one of length 1), and the product's shape. */
typedef struct product {
    pb_tensor *a, *b; /* owned */
    int64_t m, k, n;
    int ndim; /* of the leading axes that broadcast */
    int64_t shape[PB_MAX_DIMS], a_strides[PB_MAX_DIMS], b_strides[PB_MAX_DIMS];
} product;

static pb_status fail_matmul_shapes(const pb_tensor *a, const pb_tensor *b, pb_error *err) {
    char ta[256], tb[256];
    return pb_fail(
        err, PB_ERR_ARGUMENT,
        "matmul of %s and %s: the last axis of the first must be as long as the %s of the second, and leading "
        "axes equal or 1",
        pb_shape_text(a->ndim, a->shape, ta, sizeof ta), pb_shape_text(b->ndim, b->shape, tb, sizeof tb),
        b->ndim > 1 ? "last but one" : "only axis");
}

/* One reference to t as matrices whose two last axes sgemm can read; copied only where the strides forbid it. */
static pb_status as_matrices(const pb_tensor *t, int vector_axis, pb_tensor **out, pb_error *err) {
    pb_tensor *matrix = NULL;
    if (t->ndim == 1)
        PB_TRY(pb_tensor_unsqueeze(t, vector_axis, &matrix, err));
    else
        PB_TRY(pb_tensor_view(t, t->ndim, t->shape, t->strides, t->data, &matrix, err));
    gemm_operand operand;
    int r = matrix->ndim - 2, c = matrix->ndim - 1;
    if (gemm_readable(matrix->shape[r], matrix->shape[c], matrix->strides[r], matrix->strides[c], &operand)) {
        *out = matrix;
        return PB_OK;
    }
    pb_status status = pb_tensor_clone(matrix, out, err);
    pb_tensor_unref(matrix);
    return status;
}

static pb_status prepare_product(product *p, const pb_tensor *a, const pb_tensor *b, pb_error *err) {
    PB_TRY(pb_require_float(a, "matmul", err));
    PB_TRY(pb_require_float(b, "matmul", err));
    if (a->ndim == 0 || b->ndim == 0)
        return pb_fail(err, PB_ERR_ARGUMENT, "matmul of a scalar; use mul");
    PB_TRY(as_matrices(a, 0, &p->a, err));
    PB_TRY(as_matrices(b, 1, &p->b, err));
    const pb_tensor *x = p->a, *y = p->b;
    p->m = x->shape[x->ndim - 2];
    p->k = x->shape[x->ndim - 1];
    p->n = y->shape[y->ndim - 1];
    bool fits = p->k == y->shape[y->ndim - 2];
    p->ndim = (x->ndim > y->ndim ? x->ndim : y->ndim) - 2;
    for (int i = 0; fits && i < p->ndim; i++) {
        int xi = i - (p->ndim - (x->ndim - 2)), yi = i - (p->ndim - (y->ndim - 2));
        int64_t lx = xi >= 0 ? x->shape[xi] : 1, ly = yi >= 0 ? y->shape[yi] : 1;
        fits = lx == ly || lx == 1 || ly == 1;
        p->shape[i] = lx == 1 ? ly : lx;
        p->a_strides[i] = lx == 1 ? 0 : x->strides[xi];
        p->b_strides[i] = ly == 1 ? 0 : y->strides[yi];
    }
    if (!fits)
        return fail_matmul_shapes(a, b, err);
    if (p->m > INT_MAX || p->k > INT_MAX || p->n > INT_MAX)
        return pb_fail(err, PB_ERR_UNSUPPORTED, "matmul with an axis longer than %d", INT_MAX);
    return PB_OK;
}

static void one_product(const product *p, const float *a, const float *b, float *out) {
    gemm_operand x = {0}, y = {0};
    const int64_t *xs = p->a->strides + p->a->ndim - 2, *ys = p->b->strides + p->b->ndim - 2;
    gemm_readable(p->m, p->k, xs[0], xs[1], &x);
    gemm_readable(p->k, p->n, ys[0], ys[1], &y);
    cblas_sgemm(CblasRowMajor, x.transposed ? CblasTrans : CblasNoTrans, y.transposed ? CblasTrans : CblasNoTrans,
                (int)p->m, (int)p->n, (int)p->k, 1.0f, a, (int)x.lead, b, (int)y.lead, 0.0f, out, (int)p->n);
}

/* Stacked left matrices that lie one under the other, times one right matrix, are one tall product. */
static void fold_batches(product *p) {
    if (p->ndim == 0 || p->b->ndim != 2)
        return;
    int64_t rows = p->m;
    const pb_tensor *a = p->a;
    int64_t row_stride = a->strides[a->ndim - 2];
    if (a->strides[a->ndim - 1] != 1 && p->k != 1)
        return;
    for (int i = p->ndim - 1; i >= 0; i--) {
        if (p->shape[i] != 1 && p->a_strides[i] != row_stride * rows)
            return;
        rows *= p->shape[i];
    }
    if (rows > INT_MAX || row_stride < p->k)
        return;
    p->m = rows;
    p->ndim = 0;
}

static pb_status run_product(product *p, pb_tensor *result, pb_error *err) {
    if (result->count == 0)
        return PB_OK;
    if (p->k == 0)
        return pb_tensor_fill(result, 0.0, err);
    pb_context *ctx = pb_tensor_context(result);
    fold_batches(p);
    const int64_t *strides[] = {p->a_strides, p->b_strides};
    int64_t done = 0;
    pb_walk w;
    for (pb_walk_begin(&w, p->ndim, p->shape, 2, strides); !w.done; pb_walk_next(&w)) {
        for (int64_t i = 0; i < w.inner; i++, done++) {
            PB_TRY(pb_context_check(ctx, err));
            one_product(p, pb_tensor_floats(p->a) + w.offsets[0] + i * w.inner_strides[0],
                        pb_tensor_floats(p->b) + w.offsets[1] + i * w.inner_strides[1],
                        pb_tensor_floats(result) + done * p->m * p->n);
        }
    }
    return PB_OK;
}

pb_status pb_tensor_matmul(const pb_tensor *a, const pb_tensor *b, pb_tensor **out, pb_error *err) {
    product p = {0};
    pb_tensor *result = NULL;
    pb_status status = prepare_product(&p, a, b, err);
    if (status != PB_OK)
        goto done;
    int64_t shape[PB_MAX_DIMS];
    int ndim = p.ndim;
    memcpy(shape, p.shape, sizeof shape);
    if (a->ndim > 1)
        shape[ndim++] = p.m;
    if (b->ndim > 1)
        shape[ndim++] = p.n;
    status = pb_tensor_create(pb_tensor_context(a), PB_F32, ndim, shape, &result, err);
    if (status == PB_OK) {
        int before = pb_blas_threads_use(pb_tensor_context(a));
        status = run_product(&p, result, err);
        pb_blas_threads_restore(before);
    }
    if (status != PB_OK)
        goto done;
    *out = result;
    result = NULL;
done:
    pb_tensor_unref(p.a);
    pb_tensor_unref(p.b);
    pb_tensor_unref(result);
    return status;
}
