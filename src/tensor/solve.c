/* Linear systems through LAPACK, in double: solve, Cholesky, least squares. */
#include "tensor/blas_threads.h"
#include "tensor/lapack.h"

#include <float.h>
#include <limits.h>
#include <math.h>

/* ---- right-hand sides ---------------------------------------------------------------------------------------- */

/* b [rows] or [rows, m]: *columns is m (1 for a vector). */
static pb_status check_right_side(const pb_tensor *a, const pb_tensor *b, const char *what, int *columns,
                                  pb_error *err) {
    PB_TRY(pb_require_float(b, what, err));
    char ta[256], tb[256];
    if (b->ndim < 1 || b->ndim > 2 || b->shape[0] != a->shape[0] || (b->ndim == 2 && b->shape[1] > INT_MAX / 8))
        return pb_fail(err, PB_ERR_ARGUMENT, "%s of %s with a right-hand side %s; it must be [%lld] or [%lld, m]", what,
                       pb_shape_text(2, a->shape, ta, sizeof ta), pb_shape_text(b->ndim, b->shape, tb, sizeof tb),
                       (long long)a->shape[0], (long long)a->shape[0]);
    *columns = b->ndim == 2 ? (int)b->shape[1] : 1;
    return PB_OK;
}

/* The first `rows` of each column of x (column-major, leading dimension lead) as a tensor [rows] or [rows, columns]. */
static pb_status solution_from(pb_context *ctx, const double *x, int64_t lead, int64_t rows, int64_t columns, int ndim,
                               const char *what, pb_tensor **out, pb_error *err) {
    pb_tensor *t = NULL;
    PB_TRY(pb_tensor_create(ctx, PB_F32, ndim, (int64_t[]){rows, columns}, &t, err));
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < columns; c++)
            pb_tensor_floats(t)[r * columns + c] = (float)x[c * lead + r];
    }
    if (pb_tensor_count_nonfinite(t, NULL) > 0) {
        pb_tensor_unref(t);
        return pb_fail(err, PB_ERR_NUMERIC, "%s: the solution does not fit float32", what);
    }
    *out = t;
    return PB_OK;
}

/* ---- solve --------------------------------------------------------------------------------------------------- */

/* max over columns of the sum of |entries|; a is column-major [n,n] */
static double one_norm(const double *a, int n) {
    double norm = 0;
    for (int c = 0; c < n; c++) {
        double sum = 0;
        for (int r = 0; r < n; r++)
            sum += fabs(a[(size_t)c * (size_t)n + (size_t)r]);
        norm = fmax(norm, sum);
    }
    return norm;
}

/* a is column-major and destroyed; x holds b, then the solution. A matrix whose condition exceeds what double resolves
 * is as singular as one with a zero pivot. */
static pb_status run_solve(pb_context *ctx, int n, int columns, double *a, double *x, pb_error *err) {
    int *integers = pb_alloc(ctx, (size_t)n * 2, sizeof *integers); /* pivots, and dgecon's work */
    double *work = pb_alloc(ctx, (size_t)n * 4, sizeof *work);
    pb_status status = PB_OK;
    if (!integers || !work) {
        status = pb_fail_memory(err, ctx, (size_t)n * (2 * sizeof *integers + 4 * sizeof *work), "solve");
    } else {
        double norm = one_norm(a, n), reciprocal = 0;
        int info = 0;
        dgesv_(&n, &columns, a, &n, integers, x, &n, &info);
        if (info > 0) {
            status = pb_fail(err, PB_ERR_NUMERIC, "solve: the matrix %d x %d is singular (pivot %d is zero)", n, n,
                             info - 1);
        } else {
            dgecon_("1", &n, a, &n, &norm, &reciprocal, work, integers + n, &info, 1);
            if (!(reciprocal >= DBL_EPSILON))
                status =
                    pb_fail(err, PB_ERR_NUMERIC,
                            "solve: the matrix %d x %d is singular to working precision (reciprocal condition %.2g); "
                            "lstsq() gives the smallest of the best solutions",
                            n, n, reciprocal);
        }
    }
    pb_free(integers);
    pb_free(work);
    return status;
}

pb_status pb_tensor_solve(const pb_tensor *a, const pb_tensor *b, pb_tensor **out, pb_error *err) {
    int columns = 0;
    PB_TRY(pb_require_matrix(a, true, "solve", err));
    PB_TRY(check_right_side(a, b, "solve", &columns, err));
    PB_TRY(pb_require_finite(a, "solve", err));
    PB_TRY(pb_require_finite(b, "solve", err));
    pb_context *ctx = pb_tensor_context(a);
    size_t n = (size_t)a->shape[0];
    double *matrix = pb_alloc(ctx, n * n, sizeof *matrix);
    double *x = pb_alloc(ctx, n * (size_t)columns, sizeof *x);
    pb_status status = PB_OK;
    if (!matrix || !x) {
        status = pb_fail_memory(err, ctx, n * (n + (size_t)columns) * sizeof *matrix, "solve");
    } else {
        pb_to_double(a, matrix, true, (int64_t)n);
        pb_to_double(b, x, true, (int64_t)n);
        if (n > 0 && columns > 0) {
            int before = pb_blas_threads_use(ctx);
            status = run_solve(ctx, (int)n, columns, matrix, x, err);
            pb_blas_threads_restore(before);
        }
        if (status == PB_OK)
            status = solution_from(ctx, x, (int64_t)n, (int64_t)n, columns, b->ndim, "solve", out, err);
    }
    pb_free(matrix);
    pb_free(x);
    return status;
}

/* ---- Cholesky ------------------------------------------------------------------------------------------------ */

/* The upper triangle by columns is the lower one by rows: LAPACK's a = u^T u is our a = l l^T as it lies. */
pb_status pb_tensor_cholesky(const pb_tensor *a, pb_tensor **out, pb_error *err) {
    PB_TRY(pb_require_matrix(a, true, "cholesky", err));
    PB_TRY(pb_require_finite(a, "cholesky", err));
    PB_TRY(pb_require_symmetric(a, "cholesky", err));
    pb_context *ctx = pb_tensor_context(a);
    int n = (int)a->shape[0], info = 0;
    size_t size = (size_t)n;
    pb_tensor *l = NULL;
    PB_TRY(pb_tensor_zeros(ctx, PB_F32, 2, a->shape, &l, err));
    double *matrix = pb_alloc(ctx, size * size, sizeof *matrix);
    pb_status status = PB_OK;
    if (!matrix) {
        status = pb_fail_memory(err, ctx, size * size * sizeof *matrix, "cholesky");
        goto done;
    }
    pb_to_double(a, matrix, false, n);
    if (n > 0) {
        int before = pb_blas_threads_use(ctx);
        dpotrf_("U", &n, matrix, &n, &info, 1);
        pb_blas_threads_restore(before);
    }
    if (info > 0) {
        status =
            pb_fail(err, PB_ERR_NUMERIC,
                    "cholesky: the matrix %d x %d is not positive definite (the leading minor up to index %d is not)",
                    n, n, info - 1);
        goto done;
    }
    for (size_t r = 0; r < size; r++) {
        for (size_t c = 0; c <= r; c++)
            pb_tensor_floats(l)[r * size + c] = (float)matrix[r * size + c];
    }
    *out = l;
    l = NULL;
done:
    pb_free(matrix);
    pb_tensor_unref(l);
    return status;
}

/* ---- least squares ------------------------------------------------------------------------------------------- */

/* a column-major [rows, n], destroyed; x [max(rows, n), columns] holds b, then the solution. */
static pb_status run_lstsq(pb_context *ctx, int rows, int n, int columns, double *a, double *x, pb_error *err) {
    int small = rows < n ? rows : n, lead = rows > n ? rows : n, rank = 0, info = 0, query = -1, best_int = 0;
    double best = 0, rcond = DBL_EPSILON * (double)lead; /* numpy's default: smaller singular values count as 0 */
    double *singular = pb_alloc(ctx, (size_t)small, sizeof *singular);
    if (!singular)
        return pb_fail_memory(err, ctx, (size_t)small * sizeof *singular, "lstsq");
    dgelsd_(&rows, &n, &columns, a, &rows, x, &lead, singular, &rcond, &rank, &best, &query, &best_int, &info);
    if (info != 0 || best > INT_MAX) {
        pb_free(singular);
        return pb_fail(err, PB_ERR_UNSUPPORTED, "lstsq of a matrix %d x %d is too large for LAPACK", rows, n);
    }
    int size = best < 1 ? 1 : (int)best, int_size = best_int < 1 ? 1 : best_int;
    double *work = pb_alloc(ctx, (size_t)size, sizeof *work);
    int *iwork = pb_alloc(ctx, (size_t)int_size, sizeof *iwork);
    pb_status status = PB_OK;
    if (!work || !iwork) {
        status = pb_fail_memory(err, ctx, (size_t)size * sizeof *work + (size_t)int_size * sizeof *iwork, "lstsq");
    } else {
        dgelsd_(&rows, &n, &columns, a, &rows, x, &lead, singular, &rcond, &rank, work, &size, iwork, &info);
        if (info != 0)
            status = pb_fail_info("lstsq", info, err);
    }
    pb_free(singular);
    pb_free(work);
    pb_free(iwork);
    return status;
}

pb_status pb_tensor_lstsq(const pb_tensor *a, const pb_tensor *b, pb_tensor **out, pb_error *err) {
    int columns = 0;
    PB_TRY(pb_require_matrix(a, false, "lstsq", err));
    PB_TRY(check_right_side(a, b, "lstsq", &columns, err));
    PB_TRY(pb_require_finite(a, "lstsq", err));
    PB_TRY(pb_require_finite(b, "lstsq", err));
    pb_context *ctx = pb_tensor_context(a);
    size_t rows = (size_t)a->shape[0], n = (size_t)a->shape[1], lead = rows > n ? rows : n;
    double *matrix = pb_alloc(ctx, rows * n, sizeof *matrix);
    double *x = pb_alloc_zero(ctx, lead * (size_t)columns, sizeof *x);
    pb_status status = PB_OK;
    if (!matrix || !x) {
        status = pb_fail_memory(err, ctx, (rows * n + lead * (size_t)columns) * sizeof *matrix, "lstsq");
    } else {
        pb_to_double(a, matrix, true, (int64_t)rows);
        if (rows > 0 && n > 0 && columns > 0) { /* else x is 0, the smallest solution there is */
            pb_to_double(b, x, true, (int64_t)lead);
            int before = pb_blas_threads_use(ctx);
            status = run_lstsq(ctx, (int)rows, (int)n, columns, matrix, x, err);
            pb_blas_threads_restore(before);
        }
        if (status == PB_OK)
            status = solution_from(ctx, x, (int64_t)lead, (int64_t)n, columns, b->ndim, "lstsq", out, err);
    }
    pb_free(matrix);
    pb_free(x);
    return status;
}
