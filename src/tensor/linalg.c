/* Decompositions through LAPACK: SVD, eigenvalues; and the checks that all users of LAPACK share. */
#include "tensor/blas_threads.h"
#include "tensor/lapack.h"

#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>

/* ---- what LAPACK needs --------------------------------------------------------------------------------------- */

pb_status pb_require_matrix(const pb_tensor *a, bool square, const char *what, pb_error *err) {
    PB_TRY(pb_require_float(a, what, err));
    char text[256];
    pb_shape_text(a->ndim, a->shape, text, sizeof text);
    if (a->ndim != 2 || (square && a->shape[0] != a->shape[1]))
        return pb_fail(err, PB_ERR_ARGUMENT, "%s needs a %smatrix, got shape %s", what, square ? "square " : "", text);
    if (a->shape[0] > INT_MAX / 8 || a->shape[1] > INT_MAX / 8)
        return pb_fail(err, PB_ERR_UNSUPPORTED, "%s of a matrix %s: LAPACK's integers are too small for it", what,
                       text);
    return PB_OK;
}

pb_status pb_require_finite(const pb_tensor *a, const char *what, pb_error *err) {
    int64_t first;
    int64_t bad = pb_tensor_count_nonfinite(a, &first);
    if (!bad)
        return PB_OK;
    char text[256];
    return pb_fail(err, PB_ERR_NUMERIC,
                   "%s of a tensor %s with %lld NaN or infinite entries, the first at %lld (counted flat)", what,
                   pb_shape_text(a->ndim, a->shape, text, sizeof text), (long long)bad, (long long)first);
}

pb_status pb_fail_info(const char *what, int info, pb_error *err) {
    return pb_fail(err, PB_ERR_NUMERIC, "%s did not converge (LAPACK's info is %d)", what, info);
}

void pb_to_double(const pb_tensor *a, double *out, bool by_columns, int64_t lead) {
    int64_t rows = a->shape[0], columns = a->ndim > 1 ? a->shape[1] : 1;
    const float *in = pb_tensor_floats(a);
    int64_t column_stride = a->ndim > 1 ? a->strides[1] : 0;
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < columns; c++)
            out[by_columns ? c * lead + r : r * columns + c] = (double)in[r * a->strides[0] + c * column_stride];
    }
}

pb_status pb_require_symmetric(const pb_tensor *a, const char *what, pb_error *err) {
    const float *in = pb_tensor_floats(a);
    int64_t n = a->shape[0], sr = a->strides[0], sc = a->strides[1];
    double largest = 0, worst = 0;
    int64_t at_row = 0, at_column = 0;
    for (int64_t r = 0; r < n; r++) {
        for (int64_t c = r; c < n; c++) {
            double upper = (double)in[r * sr + c * sc], lower = (double)in[c * sr + r * sc];
            largest = fmax(largest, fmax(fabs(upper), fabs(lower)));
            if (fabs(upper - lower) > worst) {
                worst = fabs(upper - lower);
                at_row = r;
                at_column = c;
            }
        }
    }
    if (worst <= 1e-5 * largest)
        return PB_OK;
    return pb_fail(
        err, PB_ERR_ARGUMENT,
        "%s needs a symmetric matrix; entries (%lld, %lld) and (%lld, %lld) differ by %g. 0.5 * (a + a^T) would do",
        what, (long long)at_row, (long long)at_column, (long long)at_column, (long long)at_row, worst);
}

/* ---- SVD ----------------------------------------------------------------------------------------------------- */

/* What lies in memory as row-major a [m,n] is a^T = v s u^T in column-major: LAPACK's first factor (n x k, by columns)
 * lies as vt [k,n] by rows, its second (k x m) as u [m,k]. Nothing has to be transposed. */
static pb_status run_svd(const pb_tensor *copy, pb_tensor *u, pb_tensor *s, pb_tensor *vt, pb_error *err) {
    pb_context *ctx = pb_tensor_context(copy);
    int rows = (int)copy->shape[1], columns = (int)copy->shape[0], k = (int)s->shape[0], info = 0, query = -1;
    float best = 0;
    float *a = pb_tensor_floats(copy), *sv = pb_tensor_floats(s), *first = pb_tensor_floats(vt),
          *second = pb_tensor_floats(u);
    int *iwork = pb_alloc(ctx, (size_t)k * 8, sizeof *iwork);
    if (!iwork)
        return pb_fail_memory(err, ctx, (size_t)k * 8 * sizeof *iwork, "the SVD");
    sgesdd_("S", &rows, &columns, a, &rows, sv, first, &rows, second, &k, &best, &query, iwork, &info, 1);
    /* The size comes back as a float, which may have been rounded down. */
    double wanted = ceil((double)best * (1 + (double)FLT_EPSILON));
    if (info != 0 || wanted > INT_MAX) {
        pb_free(iwork);
        return pb_fail(err, PB_ERR_UNSUPPORTED, "the SVD of a matrix %d x %d is too large for LAPACK", columns, rows);
    }
    int size = wanted < 1 ? 1 : (int)wanted;
    float *work = pb_alloc(ctx, (size_t)size, sizeof *work);
    pb_status status = PB_OK;
    if (!work) {
        status = pb_fail_memory(err, ctx, (size_t)size * sizeof *work, "the SVD");
    } else {
        sgesdd_("S", &rows, &columns, a, &rows, sv, first, &rows, second, &k, work, &size, iwork, &info, 1);
        if (info != 0)
            status = pb_fail_info("the SVD", info, err);
    }
    pb_free(work);
    pb_free(iwork);
    return status;
}

pb_status pb_tensor_svd(const pb_tensor *a, pb_tensor **u, pb_tensor **s, pb_tensor **vt, pb_error *err) {
    PB_TRY(pb_require_matrix(a, false, "svd", err));
    PB_TRY(pb_require_finite(a, "svd", err));
    pb_context *ctx = pb_tensor_context(a);
    int64_t m = a->shape[0], n = a->shape[1], k = m < n ? m : n;
    pb_tensor *copy = NULL, *left = NULL, *values = NULL, *right = NULL;
    pb_status status = pb_tensor_clone(a, &copy, err);
    if (status == PB_OK)
        status = pb_tensor_create(ctx, PB_F32, 2, (int64_t[]){m, k}, &left, err);
    if (status == PB_OK)
        status = pb_tensor_create(ctx, PB_F32, 1, &k, &values, err);
    if (status == PB_OK)
        status = pb_tensor_create(ctx, PB_F32, 2, (int64_t[]){k, n}, &right, err);
    if (status == PB_OK && k > 0) {
        int before = pb_blas_threads_use(ctx);
        status = run_svd(copy, left, values, right, err);
        pb_blas_threads_restore(before);
    }
    if (status == PB_OK) {
        *u = left;
        *s = values;
        *vt = right;
        left = values = right = NULL;
    }
    pb_tensor_unref(copy);
    pb_tensor_unref(left);
    pb_tensor_unref(values);
    pb_tensor_unref(right);
    return status;
}

/* ---- eigenvalues --------------------------------------------------------------------------------------------- */

/* matrix [n * n] is replaced by the vectors, one per row (LAPACK's columns); values [n]. LAPACK's lower triangle is the
 * upper one by rows. */
static pb_status run_eigh(pb_context *ctx, int n, double *matrix, double *values, pb_error *err) {
    double best = 0;
    int best_int = 0, query = -1, info = 0;
    dsyevd_("V", "L", &n, matrix, &n, values, &best, &query, &best_int, &query, &info, 1, 1);
    if (info != 0 || best > INT_MAX)
        return pb_fail(err, PB_ERR_UNSUPPORTED, "eigh of a matrix %d x %d is too large for LAPACK", n, n);
    int size = best < 1 ? 1 : (int)best, int_size = best_int < 1 ? 1 : best_int;
    double *work = pb_alloc(ctx, (size_t)size, sizeof *work);
    int *iwork = pb_alloc(ctx, (size_t)int_size, sizeof *iwork);
    pb_status status = PB_OK;
    if (!work || !iwork) {
        status = pb_fail_memory(err, ctx, (size_t)size * sizeof *work + (size_t)int_size * sizeof *iwork, "eigh");
    } else {
        dsyevd_("V", "L", &n, matrix, &n, values, work, &size, iwork, &int_size, &info, 1, 1);
        if (info != 0)
            status = pb_fail_info("eigh", info, err);
    }
    pb_free(work);
    pb_free(iwork);
    return status;
}

pb_status pb_tensor_eigh(const pb_tensor *a, pb_tensor **values, pb_tensor **vectors, pb_error *err) {
    PB_TRY(pb_require_matrix(a, true, "eigh", err));
    PB_TRY(pb_require_finite(a, "eigh", err));
    PB_TRY(pb_require_symmetric(a, "eigh", err));
    pb_context *ctx = pb_tensor_context(a);
    int64_t n = a->shape[0];
    pb_tensor *w = NULL, *v = NULL;
    double *matrix = pb_alloc(ctx, (size_t)n * (size_t)n, sizeof *matrix);
    double *numbers = pb_alloc(ctx, (size_t)n, sizeof *numbers);
    pb_status status = PB_OK;
    if (!matrix || !numbers)
        status = pb_fail_memory(err, ctx, (size_t)n * (size_t)(n + 1) * sizeof *matrix, "eigh");
    if (status == PB_OK)
        status = pb_tensor_create(ctx, PB_F32, 1, &n, &w, err);
    if (status == PB_OK)
        status = pb_tensor_create(ctx, PB_F32, 2, (int64_t[]){n, n}, &v, err);
    if (status == PB_OK && n > 0) {
        pb_to_double(a, matrix, false, n);
        int before = pb_blas_threads_use(ctx);
        status = run_eigh(ctx, (int)n, matrix, numbers, err);
        pb_blas_threads_restore(before);
    }
    if (status == PB_OK) {
        for (int64_t i = 0; i < n; i++) {
            pb_tensor_floats(w)[i] = (float)numbers[i];
            for (int64_t r = 0; r < n; r++)
                pb_tensor_floats(v)[r * n + i] = (float)matrix[i * n + r];
        }
        *values = w;
        *vectors = v;
        w = v = NULL;
    }
    pb_free(matrix);
    pb_free(numbers);
    pb_tensor_unref(w);
    pb_tensor_unref(v);
    return status;
}

typedef struct eigenvalue {
    double re, im;
} eigenvalue;

/* Falling magnitude; then falling real part; then the one above the axis first: a total order. */
static int compare_eigenvalues(const void *a, const void *b) {
    const eigenvalue *x = a, *y = b;
    double mx = hypot(x->re, x->im), my = hypot(y->re, y->im);
    if (mx != my)
        return mx > my ? -1 : 1;
    if (x->re != y->re)
        return x->re > y->re ? -1 : 1;
    return x->im > y->im ? -1 : x->im < y->im;
}

/* The eigenvalues of a and of a^T are the same, so the layout does not matter. */
static pb_status run_eigvals(pb_context *ctx, int n, double *matrix, double *re, double *im, pb_error *err) {
    double best = 0, none = 0;
    int query = -1, info = 0, one = 1;
    dgeev_("N", "N", &n, matrix, &n, re, im, &none, &one, &none, &one, &best, &query, &info, 1, 1);
    if (info != 0 || best > INT_MAX)
        return pb_fail(err, PB_ERR_UNSUPPORTED, "eigvals of a matrix %d x %d is too large for LAPACK", n, n);
    int size = best < 1 ? 1 : (int)best;
    double *work = pb_alloc(ctx, (size_t)size, sizeof *work);
    if (!work)
        return pb_fail_memory(err, ctx, (size_t)size * sizeof *work, "eigvals");
    dgeev_("N", "N", &n, matrix, &n, re, im, &none, &one, &none, &one, work, &size, &info, 1, 1);
    pb_free(work);
    return info == 0 ? PB_OK : pb_fail_info("eigvals", info, err);
}

pb_status pb_tensor_eigvals(const pb_tensor *a, pb_tensor **values, pb_error *err) {
    PB_TRY(pb_require_matrix(a, true, "eigvals", err));
    PB_TRY(pb_require_finite(a, "eigvals", err));
    pb_context *ctx = pb_tensor_context(a);
    int64_t n = a->shape[0];
    pb_tensor *out = NULL;
    double *matrix = pb_alloc(ctx, (size_t)n * (size_t)n, sizeof *matrix);
    double *parts = pb_alloc(ctx, (size_t)n * 2, sizeof *parts);
    eigenvalue *sorted = pb_alloc(ctx, (size_t)n, sizeof *sorted);
    pb_status status = PB_OK;
    if (!matrix || !parts || !sorted)
        status = pb_fail_memory(err, ctx, (size_t)n * (size_t)(n + 4) * sizeof *matrix, "eigvals");
    if (status == PB_OK)
        status = pb_tensor_create(ctx, PB_F32, 2, (int64_t[]){n, 2}, &out, err);
    if (status == PB_OK && n > 0) {
        pb_to_double(a, matrix, false, n);
        int before = pb_blas_threads_use(ctx);
        status = run_eigvals(ctx, (int)n, matrix, parts, parts + n, err);
        pb_blas_threads_restore(before);
    }
    if (status == PB_OK) {
        for (int64_t i = 0; i < n; i++)
            sorted[i] = (eigenvalue){parts[i], parts[n + i]};
        qsort(sorted, (size_t)n, sizeof *sorted, compare_eigenvalues);
        for (int64_t i = 0; i < n; i++) {
            pb_tensor_floats(out)[2 * i] = (float)sorted[i].re;
            pb_tensor_floats(out)[2 * i + 1] = (float)sorted[i].im;
        }
        *values = out;
        out = NULL;
    }
    pb_free(matrix);
    pb_free(parts);
    pb_free(sorted);
    pb_tensor_unref(out);
    return status;
}
