/* Matrix products and LAPACK: hand-checkable cases, and the identities that define each decomposition. */
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define SHAPE(...)                                                                                                     \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]) { __VA_ARGS__ }
#define F(...) ((const float[]){__VA_ARGS__})

static pb_tensor *floats(pb_context *ctx, int ndim, const int64_t *shape, const float *data) {
    pb_error err = {0};
    pb_tensor *t = NULL;
    assert_ok(pb_tensor_from_floats(ctx, ndim, shape, data, &t, &err));
    return t;
}

static pb_tensor *normal(pb_context *ctx, int ndim, const int64_t *shape, uint64_t seed) {
    pb_error err = {0};
    pb_tensor *t = NULL;
    assert_ok(pb_tensor_normal(ctx, ndim, shape, seed, 0, &t, &err));
    return t;
}

static pb_tensor *turned(const pb_tensor *t) {
    pb_error err = {0};
    pb_tensor *out = NULL;
    assert_ok(pb_tensor_transpose(t, -1, -2, &out, &err));
    return out;
}

/* a @ b; releases both if asked to */
static pb_tensor *times(pb_tensor *a, pb_tensor *b, bool take) {
    pb_error err = {0};
    pb_tensor *out = NULL;
    assert_ok(pb_tensor_matmul(a, b, &out, &err));
    if (take) {
        pb_tensor_unref(a);
        pb_tensor_unref(b);
    }
    return out;
}

static double at(const pb_tensor *t, int64_t r, int64_t c) {
    pb_error err = {0};
    double value = 0;
    assert_ok(pb_tensor_get(t, SHAPE(r, c), &value, &err));
    return value;
}

/* ---- matmul -------------------------------------------------------------------------------------------------- */

static void matmul__by_hand(void **state) {
    pb_tensor *a = floats(*state, SHAPE(2, 3), F(1, 2, 3, 4, 5, 6)),
              *b = floats(*state, SHAPE(3, 2), F(7, 8, 9, 10, 11, 12));
    pb_tensor *v = floats(*state, SHAPE(3), F(1, 0, -1)), *out = times(a, b, false);
    pb_tensor *wanted = floats(*state, SHAPE(2, 2), F(58, 64, 139, 154));
    assert_tensor_equal(out, wanted);
    pb_tensor_unref(out);
    pb_tensor_unref(wanted);
    out = times(a, v, false);
    wanted = floats(*state, SHAPE(2), F(-2, -2));
    assert_tensor_equal(out, wanted);
    pb_tensor_unref(out);
    pb_tensor_unref(wanted);
    out = times(v, b, false);
    wanted = floats(*state, SHAPE(2), F(-4, -4));
    assert_tensor_equal(out, wanted);
    pb_tensor_unref(out);
    pb_tensor_unref(wanted);
    out = times(v, v, false);
    assert_int_equal(pb_tensor_ndim(out), 0);
    assert_true(pb_tensor_floats(out)[0] == 2);
    pb_tensor_unref(out);
    pb_tensor_unref(v);
    pb_tensor_unref(a);
    pb_tensor_unref(b);
}

static void matmul__wrong_shapes_say_both(void **state) {
    pb_error err = {0};
    pb_tensor *a = normal(*state, SHAPE(2, 3), 1), *b = normal(*state, SHAPE(2, 2), 2), *s = normal(*state, 0, NULL, 3);
    pb_tensor *three = normal(*state, SHAPE(3, 3, 2), 4), *four = normal(*state, SHAPE(4, 2, 3), 5), *out = NULL,
              *ints = NULL;
    assert_error(pb_tensor_matmul(a, b, &out, &err), PB_ERR_ARGUMENT, "matmul of [2, 3] and [2, 2]");
    assert_error(pb_tensor_matmul(a, s, &out, &err), PB_ERR_ARGUMENT, "scalar");
    assert_error(pb_tensor_matmul(four, three, &out, &err), PB_ERR_ARGUMENT, "matmul of [4, 2, 3] and [3, 3, 2]");
    assert_ok(pb_tensor_zeros(*state, PB_I32, SHAPE(3, 3), &ints, &err));
    assert_error(pb_tensor_matmul(a, ints, &out, &err), PB_ERR_ARGUMENT, "float32");
    assert_null(out);
    pb_tensor_unref(ints);
    pb_tensor_unref(four);
    pb_tensor_unref(three);
    pb_tensor_unref(s);
    pb_tensor_unref(b);
    pb_tensor_unref(a);
}

static void matmul__empty_axes(void **state) {
    pb_tensor *a = normal(*state, SHAPE(2, 0), 1), *b = normal(*state, SHAPE(0, 3), 2), *out = times(a, b, false);
    for (int i = 0; i < 6; i++)
        assert_true(pb_tensor_floats(out)[i] == 0); /* a sum of nothing */
    pb_tensor_unref(out);
    pb_tensor *none = normal(*state, SHAPE(0, 2), 3);
    out = times(none, a, true);
    assert_true(pb_tensor_shape(out)[0] == 0 && pb_tensor_shape(out)[1] == 0);
    pb_tensor_unref(out);
    pb_tensor_unref(b);
}

/* Every combination of layouts against the plain triple loop. */
static void assert_product(const pb_tensor *a, const pb_tensor *b) {
    pb_error err = {0};
    pb_tensor *out = NULL;
    assert_ok(pb_tensor_matmul(a, b, &out, &err));
    int64_t m = pb_tensor_shape(a)[0], k = pb_tensor_shape(a)[1], n = pb_tensor_shape(b)[1];
    assert_true(pb_tensor_shape(out)[0] == m && pb_tensor_shape(out)[1] == n);
    for (int64_t r = 0; r < m; r++) {
        for (int64_t c = 0; c < n; c++) {
            double sum = 0;
            for (int64_t i = 0; i < k; i++)
                sum += at(a, r, i) * at(b, i, c);
            assert_close(at(out, r, c), sum, 1e-4);
        }
    }
    pb_tensor_unref(out);
}

static void matmul__strided_operands_match_the_plain_loop(void **state) {
    pb_error err = {0};
    pb_tensor *base = normal(*state, SHAPE(9, 10, 8), 5), *views[6];
    assert_ok(pb_tensor_select(base, 2, 3, &views[0], &err));        /* [9, 10], no stride of 1 */
    assert_ok(pb_tensor_select(base, 0, 3, &views[1], &err));        /* [10, 8] */
    views[2] = turned(views[1]);                                     /* [8, 10] */
    assert_ok(pb_tensor_narrow(views[2], 0, 1, 1, &views[3], &err)); /* [1, 10] */
    views[4] = turned(views[3]);                                     /* [10, 1] */
    pb_tensor *row = NULL;
    assert_ok(pb_tensor_narrow(views[1], 0, 2, 1, &row, &err));
    assert_ok(pb_tensor_expand(row, SHAPE(10, 8), &views[5], &err)); /* stride 0 */
    pb_tensor_unref(row);
    for (int i = 0; i < 6; i++) {
        for (int j = 0; j < 6; j++) {
            if (pb_tensor_shape(views[i])[1] == pb_tensor_shape(views[j])[0])
                assert_product(views[i], views[j]);
        }
    }
    for (int i = 0; i < 6; i++)
        pb_tensor_unref(views[i]);
    pb_tensor_unref(base);
}

static void matmul__leading_axes_broadcast(void **state) {
    pb_error err = {0};
    static const struct {
        int a_ndim, b_ndim, out_ndim;
        int64_t a[4], b[4], out[4];
    } cases[] = {
        {3, 2, 3, {4, 2, 3}, {3, 5}, {4, 2, 5}},
        {2, 3, 3, {2, 3}, {4, 3, 5}, {4, 2, 5}},
        {3, 3, 3, {4, 2, 3}, {4, 3, 5}, {4, 2, 5}},
        {4, 3, 4, {2, 1, 2, 3}, {4, 3, 5}, {2, 4, 2, 5}},
        {4, 4, 4, {2, 1, 2, 3}, {1, 4, 3, 5}, {2, 4, 2, 5}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        pb_tensor *a = normal(*state, cases[i].a_ndim, cases[i].a, 1),
                  *b = normal(*state, cases[i].b_ndim, cases[i].b, 2);
        pb_tensor *out = times(a, b, false), *wide_a = NULL, *wide_b = NULL;
        assert_int_equal(pb_tensor_ndim(out), cases[i].out_ndim);
        assert_memory_equal(pb_tensor_shape(out), cases[i].out, (size_t)cases[i].out_ndim * sizeof(int64_t));
        /* each matrix of the stack is the product of the matrices there */
        int64_t lead = cases[i].out_ndim, sa[4], sb[4];
        memcpy(sa, cases[i].out, sizeof sa);
        memcpy(sb, cases[i].out, sizeof sb);
        sa[lead - 1] = sb[lead - 2] = 3;
        assert_ok(pb_tensor_expand(a, (int)lead, sa, &wide_a, &err));
        assert_ok(pb_tensor_expand(b, (int)lead, sb, &wide_b, &err));
        int64_t batches = pb_tensor_count(out) / 10;
        pb_tensor *ca = NULL, *cb = NULL, *fa = NULL, *fb = NULL, *fo = NULL;
        assert_ok(pb_tensor_clone(wide_a, &ca, &err));
        assert_ok(pb_tensor_clone(wide_b, &cb, &err));
        assert_ok(pb_tensor_reshape(ca, SHAPE(batches, 2, 3), &fa, &err));
        assert_ok(pb_tensor_reshape(cb, SHAPE(batches, 3, 5), &fb, &err));
        assert_ok(pb_tensor_reshape(out, SHAPE(batches, 2, 5), &fo, &err));
        for (int64_t k = 0; k < batches; k++) {
            pb_tensor *x = NULL, *y = NULL, *z = NULL;
            assert_ok(pb_tensor_select(fa, 0, k, &x, &err));
            assert_ok(pb_tensor_select(fb, 0, k, &y, &err));
            assert_ok(pb_tensor_select(fo, 0, k, &z, &err));
            pb_tensor *product = times(x, y, true);
            assert_tensor_close(z, product, 1e-6);
            pb_tensor_unref(product);
            pb_tensor_unref(z);
        }
        pb_tensor *all[] = {a, b, out, wide_a, wide_b, ca, cb, fa, fb, fo};
        for (size_t k = 0; k < sizeof all / sizeof all[0]; k++)
            pb_tensor_unref(all[k]);
    }
}

/* Stacked matrices that do not lie one under the other in memory cannot be read as one tall matrix. */
static void matmul__stacked_views_match_their_copies(void **state) {
    pb_error err = {0};
    pb_tensor *base = normal(*state, SHAPE(4, 6, 3), 1), *b = normal(*state, SHAPE(3, 5), 2), *views[4], *row = NULL;
    assert_ok(pb_tensor_narrow(base, 1, 1, 2, &views[0], &err));
    assert_ok(pb_tensor_transpose(base, 0, 1, &views[1], &err));
    assert_ok(pb_tensor_narrow(base, 0, 2, 1, &row, &err));
    assert_ok(pb_tensor_expand(row, SHAPE(4, 6, 3), &views[2], &err));
    pb_tensor_unref(row);
    views[3] = pb_tensor_ref(base);
    for (int i = 0; i < 4; i++) {
        pb_tensor *copy = NULL;
        assert_ok(pb_tensor_clone(views[i], &copy, &err));
        pb_tensor *from_view = times(views[i], b, false), *from_copy = times(copy, b, false);
        assert_tensor_close(from_view, from_copy, 1e-6);
        pb_tensor *all[] = {copy, from_view, from_copy, views[i]};
        for (int k = 0; k < 4; k++)
            pb_tensor_unref(all[k]);
    }
    pb_tensor_unref(b);
    pb_tensor_unref(base);
}

static void matmul__nan_reaches_only_its_rows_and_columns(void **state) {
    pb_error err = {0};
    pb_tensor *a = normal(*state, SHAPE(4, 6), 1), *b = normal(*state, SHAPE(6, 5), 2);
    assert_ok(pb_tensor_set(a, SHAPE(2, 3), (double)NAN, &err));
    pb_tensor *out = times(a, b, true);
    for (int64_t r = 0; r < 4; r++)
        for (int64_t c = 0; c < 5; c++)
            assert_int_equal(isnan(at(out, r, c)), r == 2);
    pb_tensor_unref(out);
}

/* ---- SVD ----------------------------------------------------------------------------------------------------- */

/* q^T q = 1 */
static void assert_orthonormal_columns(pb_tensor *q) {
    pb_tensor *qt = turned(q), *product = times(qt, q, false);
    for (int64_t r = 0; r < pb_tensor_shape(product)[0]; r++)
        for (int64_t c = 0; c < pb_tensor_shape(product)[1]; c++)
            assert_close(at(product, r, c), r == c, 2e-5);
    pb_tensor_unref(product);
    pb_tensor_unref(qt);
}

static void check_svd(const pb_tensor *a) {
    pb_error err = {0};
    pb_tensor *u = NULL, *s = NULL, *vt = NULL, *scaled = NULL;
    assert_ok(pb_tensor_svd(a, &u, &s, &vt, &err));
    int64_t m = pb_tensor_shape(a)[0], n = pb_tensor_shape(a)[1], k = m < n ? m : n;
    assert_true(pb_tensor_shape(u)[0] == m && pb_tensor_shape(u)[1] == k);
    assert_true(pb_tensor_shape(vt)[0] == k && pb_tensor_shape(vt)[1] == n && pb_tensor_shape(s)[0] == k);
    for (int64_t i = 0; i < k; i++)
        assert_true(pb_tensor_floats(s)[i] >= 0 && (i == 0 || pb_tensor_floats(s)[i] <= pb_tensor_floats(s)[i - 1]));
    assert_ok(pb_tensor_binary(PB_MUL, u, s, &scaled, &err));
    pb_tensor *product = times(scaled, vt, false);
    assert_tensor_close(product, a, 5e-6);
    pb_tensor *v = turned(vt);
    assert_orthonormal_columns(u);
    assert_orthonormal_columns(v);
    pb_tensor *all[] = {u, s, vt, scaled, product, v};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        pb_tensor_unref(all[i]);
}

static void svd__reconstructs_tall_wide_and_views(void **state) {
    pb_tensor *tall = normal(*state, SHAPE(40, 7), 1), *wide = turned(tall), *square = normal(*state, SHAPE(30, 30), 2);
    check_svd(tall);
    check_svd(wide);
    check_svd(square);
    pb_tensor *one = floats(*state, SHAPE(1, 1), F(-3));
    check_svd(one);
    pb_tensor_unref(one);
    pb_tensor_unref(square);
    pb_tensor_unref(wide);
    pb_tensor_unref(tall);
}

static void svd__known_values_and_rank(void **state) {
    pb_error err = {0};
    pb_tensor *a = floats(*state, SHAPE(2, 2), F(3, 0, 4, 5)), *u = NULL, *s = NULL, *vt = NULL;
    assert_ok(pb_tensor_svd(a, &u, &s, &vt, &err));
    assert_close((double)pb_tensor_floats(s)[0], sqrt(45), 1e-6);
    assert_close((double)pb_tensor_floats(s)[1], sqrt(5), 1e-6);
    pb_tensor *made[] = {a, u, s, vt};
    for (int i = 0; i < 4; i++)
        pb_tensor_unref(made[i]);
    pb_tensor *left = normal(*state, SHAPE(20, 3), 1), *right = normal(*state, SHAPE(3, 15), 2),
              *low = times(left, right, true);
    assert_ok(pb_tensor_svd(low, &u, &s, &vt, &err));
    for (int i = 3; i < 15; i++)
        assert_true(pb_tensor_floats(s)[i] < 1e-5f * pb_tensor_floats(s)[0]);
    pb_tensor *more[] = {low, u, s, vt};
    for (int i = 0; i < 4; i++)
        pb_tensor_unref(more[i]);
    a = normal(*state, SHAPE(3, 0), 1);
    assert_ok(pb_tensor_svd(a, &u, &s, &vt, &err));
    assert_int_equal(pb_tensor_count(s), 0);
    pb_tensor *empty[] = {a, u, s, vt};
    for (int i = 0; i < 4; i++)
        pb_tensor_unref(empty[i]);
}

static void lapack__nan_and_wrong_shapes_are_refused(void **state) {
    pb_error err = {0};
    pb_tensor *bad = floats(*state, SHAPE(2, 2), F(1, 2, NAN, 4)), *wide = normal(*state, SHAPE(2, 3), 1);
    pb_tensor *vector = normal(*state, SHAPE(2), 2), *good = floats(*state, SHAPE(2, 2), F(2, 0, 0, 2));
    pb_tensor *x = NULL, *y = NULL, *z = NULL;
    assert_error(pb_tensor_svd(bad, &x, &y, &z, &err), PB_ERR_NUMERIC, "svd of a tensor [2, 2] with 1 NaN");
    assert_non_null(strstr(err.message, "first at 2"));
    assert_error(pb_tensor_eigh(bad, &x, &y, &err), PB_ERR_NUMERIC, "eigh");
    assert_error(pb_tensor_eigvals(bad, &x, &err), PB_ERR_NUMERIC, "eigvals");
    assert_error(pb_tensor_solve(bad, vector, &x, &err), PB_ERR_NUMERIC, "solve");
    assert_error(pb_tensor_cholesky(bad, &x, &err), PB_ERR_NUMERIC, "cholesky");
    assert_error(pb_tensor_lstsq(bad, vector, &x, &err), PB_ERR_NUMERIC, "lstsq");
    assert_error(pb_tensor_svd(vector, &x, &y, &z, &err), PB_ERR_ARGUMENT, "svd needs a matrix, got shape [2]");
    assert_error(pb_tensor_eigh(wide, &x, &y, &err), PB_ERR_ARGUMENT, "square matrix, got shape [2, 3]");
    assert_error(pb_tensor_eigvals(wide, &x, &err), PB_ERR_ARGUMENT, "square");
    assert_error(pb_tensor_solve(wide, vector, &x, &err), PB_ERR_ARGUMENT, "square");
    assert_error(pb_tensor_cholesky(wide, &x, &err), PB_ERR_ARGUMENT, "square");
    pb_tensor *three = normal(*state, SHAPE(3), 3);
    assert_error(pb_tensor_solve(good, three, &x, &err), PB_ERR_ARGUMENT, "must be [2] or [2, m]");
    assert_error(pb_tensor_lstsq(wide, three, &x, &err), PB_ERR_ARGUMENT, "must be [2] or [2, m]");
    assert_true(!x && !y && !z);
    pb_tensor *all[] = {bad, wide, vector, good, three};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        pb_tensor_unref(all[i]);
}

/* ---- eigenvalues --------------------------------------------------------------------------------------------- */

static pb_tensor *random_symmetric(pb_context *ctx, int64_t n, bool positive) {
    pb_error err = {0};
    pb_tensor *a = normal(ctx, SHAPE(n, n), 11), *at_ = turned(a), *out = NULL;
    if (positive)
        out = times(a, at_, false);
    else
        assert_ok(pb_tensor_binary(PB_ADD, a, at_, &out, &err));
    pb_tensor_unref(a);
    pb_tensor_unref(at_);
    return out;
}

static void eigh__defines_itself(void **state) {
    pb_error err = {0};
    pb_tensor *a = random_symmetric(*state, 25, false), *w = NULL, *v = NULL, *scaled = NULL;
    assert_ok(pb_tensor_eigh(a, &w, &v, &err));
    for (int i = 1; i < 25; i++)
        assert_true(pb_tensor_floats(w)[i] >= pb_tensor_floats(w)[i - 1]);
    assert_orthonormal_columns(v);
    pb_tensor *av = times(a, v, false);
    assert_ok(pb_tensor_binary(PB_MUL, v, w, &scaled, &err)); /* column j times w[j] */
    assert_tensor_close(av, scaled, 1e-6);
    pb_tensor *all[] = {a, w, v, scaled, av};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        pb_tensor_unref(all[i]);
    a = floats(*state, SHAPE(2, 2), F(2, 1, 1, 2));
    assert_ok(pb_tensor_eigh(a, &w, &v, &err));
    assert_close((double)pb_tensor_floats(w)[0], 1, 1e-6);
    assert_close((double)pb_tensor_floats(w)[1], 3, 1e-6);
    assert_close(fabs(at(v, 0, 1)), sqrt(0.5), 1e-6);
    pb_tensor *more[] = {a, w, v};
    for (int i = 0; i < 3; i++)
        pb_tensor_unref(more[i]);
    a = floats(*state, SHAPE(2, 2), F(2, 1, 1.01f, 2));
    assert_error(pb_tensor_eigh(a, &w, &v, &err), PB_ERR_ARGUMENT, "entries (0, 1) and (1, 0) differ");
    pb_tensor_unref(a);
    a = floats(*state, SHAPE(2, 2), F(2, 1, 1.000001f, 2)); /* rounding */
    assert_ok(pb_tensor_eigh(a, &w, &v, &err));
    pb_tensor *last[] = {a, w, v};
    for (int i = 0; i < 3; i++)
        pb_tensor_unref(last[i]);
}

static void eigvals__known_pairs_by_magnitude(void **state) {
    pb_error err = {0};
    /* block diagonal: a rotation by 90 degrees times 2 (+-2i), and 1, -3 */
    pb_tensor *a = floats(*state, SHAPE(4, 4), F(0, -2, 0, 0, 2, 0, 0, 0, 0, 0, 1, 7, 0, 0, 0, -3)), *w = NULL;
    assert_ok(pb_tensor_eigvals(a, &w, &err));
    static const double wanted[4][2] = {{-3, 0}, {0, 2}, {0, -2}, {1, 0}};
    for (int64_t i = 0; i < 4; i++)
        for (int64_t k = 0; k < 2; k++)
            assert_close(at(w, i, k), wanted[i][k], 1e-6);
    pb_tensor_unref(w);
    pb_tensor_unref(a);
    a = normal(*state, SHAPE(20, 20), 3);
    assert_ok(pb_tensor_eigvals(a, &w, &err));
    double trace = 0, sum = 0, imaginary = 0;
    for (int64_t i = 0; i < 20; i++) {
        trace += at(a, i, i);
        sum += at(w, i, 0);
        imaginary += at(w, i, 1);
        if (i > 0)
            assert_true(hypot(at(w, i, 0), at(w, i, 1)) <= hypot(at(w, i - 1, 0), at(w, i - 1, 1)) * (1 + 1e-6));
    }
    assert_close(sum, trace, 1e-4);
    assert_close(imaginary, 0, 1e-5);
    pb_tensor_unref(w);
    pb_tensor_unref(a);
}

/* ---- systems ------------------------------------------------------------------------------------------------- */

static void solve__vector_and_matrix(void **state) {
    pb_error err = {0};
    pb_tensor *a = floats(*state, SHAPE(2, 2), F(0, 2, 4, 1)), *b = floats(*state, SHAPE(2), F(6, 7)), *x = NULL;
    assert_ok(pb_tensor_solve(a, b, &x, &err)); /* needs a pivot: a[0][0] is 0 */
    pb_tensor *wanted = floats(*state, SHAPE(2), F(1, 3));
    assert_tensor_close(x, wanted, 1e-7);
    pb_tensor *made[] = {a, b, x, wanted};
    for (int i = 0; i < 4; i++)
        pb_tensor_unref(made[i]);
    pb_tensor *base = normal(*state, SHAPE(30, 30), 1), *view = turned(base), *right = normal(*state, SHAPE(30, 4), 2);
    assert_ok(pb_tensor_solve(view, right, &x, &err));
    pb_tensor *back = times(view, x, false);
    assert_tensor_close(back, right, 1e-4);
    pb_tensor *more[] = {base, view, right, x, back};
    for (int i = 0; i < 5; i++)
        pb_tensor_unref(more[i]);
}

static void solve__singular_is_numeric(void **state) {
    pb_error err = {0};
    pb_tensor *zero_pivot = floats(*state, SHAPE(2, 2), F(1, 2, 2, 4)), *b2 = floats(*state, SHAPE(2), F(1, 1));
    pb_tensor *x = NULL, *b3 = floats(*state, SHAPE(3), F(1, 1, 2));
    assert_error(pb_tensor_solve(zero_pivot, b2, &x, &err), PB_ERR_NUMERIC, "singular (pivot 1 is zero)");
    /* the last row is the sum of the others, but rounding leaves a tiny last pivot */
    pb_tensor *near = floats(*state, SHAPE(3, 3), F(3, 1, 2, 7, 5, 4, 10, 6, 6.0001f));
    pb_tensor *sum = floats(*state, SHAPE(3, 3), F(3, 1, 2, 7, 5, 4, 10, 6, 6));
    assert_error(pb_tensor_solve(sum, b3, &x, &err), PB_ERR_NUMERIC, "singular to working precision");
    assert_null(x);
    /* badly conditioned, not singular: has an answer */
    assert_ok(pb_tensor_solve(near, b3, &x, &err));
    pb_tensor *all[] = {zero_pivot, b2, b3, near, sum, x};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        pb_tensor_unref(all[i]);
}

static void cholesky__factor_and_refusal(void **state) {
    pb_error err = {0};
    pb_tensor *a = floats(*state, SHAPE(2, 2), F(4, 2, 2, 5)), *l = NULL;
    assert_ok(pb_tensor_cholesky(a, &l, &err));
    pb_tensor *wanted = floats(*state, SHAPE(2, 2), F(2, 0, 1, 2));
    assert_tensor_close(l, wanted, 1e-7);
    assert_true(at(l, 0, 1) == 0);
    pb_tensor *made[] = {a, l, wanted};
    for (int i = 0; i < 3; i++)
        pb_tensor_unref(made[i]);
    a = random_symmetric(*state, 20, true);
    assert_ok(pb_tensor_cholesky(a, &l, &err));
    pb_tensor *lt = turned(l), *product = times(l, lt, false);
    assert_tensor_close(product, a, 1e-6);
    pb_tensor *more[] = {a, l, lt, product};
    for (int i = 0; i < 4; i++)
        pb_tensor_unref(more[i]);
    a = floats(*state, SHAPE(3, 3), F(1, 0, 0, 0, 1, 2, 0, 2, 1));
    assert_error(pb_tensor_cholesky(a, &l, &err), PB_ERR_NUMERIC, "up to index 2");
    pb_tensor_unref(a);
    a = floats(*state, SHAPE(2, 2), F(1, 5, 0, 1));
    assert_error(pb_tensor_cholesky(a, &l, &err), PB_ERR_ARGUMENT, "symmetric");
    pb_tensor_unref(a);
}

static void lstsq__overdetermined_underdetermined_deficient(void **state) {
    pb_error err = {0};
    /* the line through (0, 1), (1, 3), (2, 4): slope 1.5, intercept 7/6 */
    pb_tensor *a = floats(*state, SHAPE(3, 2), F(0, 1, 1, 1, 2, 1)), *b = floats(*state, SHAPE(3), F(1, 3, 4)),
              *x = NULL;
    assert_ok(pb_tensor_lstsq(a, b, &x, &err));
    assert_close((double)pb_tensor_floats(x)[0], 1.5, 1e-6);
    assert_close((double)pb_tensor_floats(x)[1], 7.0 / 6, 1e-6);
    pb_tensor *made[] = {a, b, x};
    for (int i = 0; i < 3; i++)
        pb_tensor_unref(made[i]);
    /* x + y + z = 3: the smallest solution is (1, 1, 1); two right-hand sides at once */
    a = floats(*state, SHAPE(1, 3), F(1, 1, 1));
    b = floats(*state, SHAPE(1, 2), F(3, 6));
    assert_ok(pb_tensor_lstsq(a, b, &x, &err));
    for (int64_t i = 0; i < 3; i++) {
        assert_close(at(x, i, 0), 1, 1e-6);
        assert_close(at(x, i, 1), 2, 1e-6);
    }
    pb_tensor *more[] = {a, b, x};
    for (int i = 0; i < 3; i++)
        pb_tensor_unref(more[i]);
    a = floats(*state, SHAPE(3, 2),
               F(1, 2, 2, 4, 3, 6)); /* rank 1: x + 2y = 1 has (0.2, 0.4) as its smallest solution */
    b = floats(*state, SHAPE(3), F(1, 2, 3));
    assert_ok(pb_tensor_lstsq(a, b, &x, &err));
    assert_close((double)pb_tensor_floats(x)[0], 0.2, 1e-6);
    assert_close((double)pb_tensor_floats(x)[1], 0.4, 1e-6);
    pb_tensor *last[] = {a, b, x};
    for (int i = 0; i < 3; i++)
        pb_tensor_unref(last[i]);
    a = normal(*state, SHAPE(0, 2), 1);
    b = normal(*state, SHAPE(0), 1);
    assert_ok(pb_tensor_lstsq(a, b, &x, &err));
    assert_true(pb_tensor_count(x) == 2 && pb_tensor_floats(x)[0] == 0 && pb_tensor_floats(x)[1] == 0);
    pb_tensor *empty[] = {a, b, x};
    for (int i = 0; i < 3; i++)
        pb_tensor_unref(empty[i]);
}

/* ---- allocation failures ------------------------------------------------------------------------------------- */

#define MAKES(name, call)                                                                                              \
    static pb_status name(pb_context *ctx, void *user, pb_error *err) {                                                \
        pb_tensor *a = user, *x = NULL, *y = NULL, *z = NULL;                                                          \
        (void)ctx;                                                                                                     \
        pb_status status = (call);                                                                                     \
        if (status != PB_OK)                                                                                           \
            assert_true(!x && !y && !z);                                                                               \
        pb_tensor_unref(x);                                                                                            \
        pb_tensor_unref(y);                                                                                            \
        pb_tensor_unref(z);                                                                                            \
        return status;                                                                                                 \
    }

MAKES(make_matmul, pb_tensor_matmul(a, a, &x, err))
MAKES(make_svd, pb_tensor_svd(a, &x, &y, &z, err))
MAKES(make_eigh, pb_tensor_eigh(a, &x, &y, err))
MAKES(make_eigvals, pb_tensor_eigvals(a, &x, err))
MAKES(make_solve, pb_tensor_solve(a, a, &x, err))
MAKES(make_cholesky, pb_tensor_cholesky(a, &x, err))
MAKES(make_lstsq, pb_tensor_lstsq(a, a, &x, err))

static void linalg__survives_allocation_failure(void **state) {
    static const test_body bodies[] = {make_matmul, make_svd,      make_eigh, make_eigvals,
                                       make_solve,  make_cholesky, make_lstsq};
    pb_tensor *a = random_symmetric(*state, 5, true);
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++)
        assert_true(assert_survives_allocation_failure(*state, bodies[i], a) >= 3);
    pb_tensor_unref(a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH_CONTEXT(matmul__by_hand),
        WITH_CONTEXT(matmul__wrong_shapes_say_both),
        WITH_CONTEXT(matmul__empty_axes),
        WITH_CONTEXT(matmul__strided_operands_match_the_plain_loop),
        WITH_CONTEXT(matmul__leading_axes_broadcast),
        WITH_CONTEXT(matmul__stacked_views_match_their_copies),
        WITH_CONTEXT(matmul__nan_reaches_only_its_rows_and_columns),
        WITH_CONTEXT(svd__reconstructs_tall_wide_and_views),
        WITH_CONTEXT(svd__known_values_and_rank),
        WITH_CONTEXT(lapack__nan_and_wrong_shapes_are_refused),
        WITH_CONTEXT(eigh__defines_itself),
        WITH_CONTEXT(eigvals__known_pairs_by_magnitude),
        WITH_CONTEXT(solve__vector_and_matrix),
        WITH_CONTEXT(solve__singular_is_numeric),
        WITH_CONTEXT(cholesky__factor_and_refusal),
        WITH_CONTEXT(lstsq__overdetermined_underdetermined_deficient),
        WITH_CONTEXT(linalg__survives_allocation_failure),
    };
    return cmocka_run_group_tests_name("linalg", tests, NULL, NULL);
}
