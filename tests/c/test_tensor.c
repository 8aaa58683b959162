/* Tensors: making, views, broadcasting, in-place rules, reductions, order, text. Values are small enough to check by
 * hand; larger cases are compared with the plainest loop that says the same. */
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensor/internal.h"

#define SHAPE(...)                                                                                                     \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]) { __VA_ARGS__ }

static pb_tensor *floats(pb_context *ctx, int ndim, const int64_t *shape, const float *data) {
    pb_error err = {0};
    pb_tensor *t = NULL;
    assert_ok(pb_tensor_from_floats(ctx, ndim, shape, data, &t, &err));
    return t;
}

#define SCALAR                                                                                                         \
    0, (const int64_t[]) { 0 }
#define F(...) ((const float[]){__VA_ARGS__})

/* 0, 1, 2, ... in the shape */
static pb_tensor *counting(pb_context *ctx, int ndim, const int64_t *shape) {
    pb_error err = {0};
    pb_tensor *t = NULL;
    assert_ok(pb_tensor_create(ctx, PB_F32, ndim, shape, &t, &err));
    for (int64_t i = 0; i < pb_tensor_count(t); i++)
        pb_tensor_floats(t)[i] = (float)i;
    return t;
}

/* t has this shape and, read in row-major order, these values (NaN equals NaN). Releases t. */
static void assert_values_at(int line, pb_tensor *t, int ndim, const int64_t *shape, const float *wanted) {
    pb_error err = {0};
    pb_tensor *whole = NULL;
    char text[128];
    if (pb_tensor_ndim(t) != ndim || memcmp(pb_tensor_shape(t), shape, (size_t)ndim * sizeof *shape) != 0) {
        print_error("line %d: shape %s\n", line,
                    pb_shape_text(pb_tensor_ndim(t), pb_tensor_shape(t), text, sizeof text));
        fail();
    }
    assert_ok(pb_tensor_make_contiguous(t, &whole, &err));
    for (int64_t i = 0; i < pb_tensor_count(whole); i++) {
        double got = pb_tensor_dtype(whole) == PB_F32 ? (double)pb_tensor_floats(whole)[i] : pb_tensor_ints(whole)[i];
        bool same = got == (double)wanted[i] || (isnan(got) && isnan(wanted[i]));
        if (!same) {
            print_error("line %d: entry %lld is %.9g, expected %.9g\n", line, (long long)i, got, (double)wanted[i]);
            fail();
        }
    }
    pb_tensor_unref(whole);
    pb_tensor_unref(t);
}

#define assert_values(...) assert_values_at(__LINE__, __VA_ARGS__) /* t, SHAPE(2, 3), F(...) */

/* ---- making and looking -------------------------------------------------------------------------------------- */

static void tensor_create__shapes_strides_alignment(void **state) {
    pb_error err = {0};
    pb_tensor *t = NULL;
    assert_ok(pb_tensor_zeros(*state, PB_F32, SHAPE(2, 3, 4), &t, &err));
    assert_int_equal(pb_tensor_count(t), 24);
    assert_int_equal(pb_tensor_bytes(t), 96);
    assert_int_equal((uintptr_t)pb_tensor_floats(t) % 64, 0);
    assert_int_equal(pb_tensor_strides(t)[0], 12);
    assert_int_equal(pb_tensor_strides(t)[2], 1);
    assert_null(pb_tensor_ints(t));
    assert_true(pb_tensor_contiguous(t));
    for (int i = 0; i < 24; i++)
        assert_true(pb_tensor_floats(t)[i] == 0);
    pb_tensor_unref(t);
    assert_ok(pb_tensor_create(*state, PB_F32, 0, NULL, &t, &err));
    assert_int_equal(pb_tensor_count(t), 1);
    pb_tensor_unref(t);
    assert_ok(pb_tensor_create(*state, PB_I32, SHAPE(3, 0, 2), &t, &err));
    assert_int_equal(pb_tensor_count(t), 0);
    assert_true(pb_tensor_contiguous(t));
    pb_tensor_unref(t);
    pb_tensor_unref(NULL);
}

static void tensor_create__absurd_shapes_are_refused(void **state) {
    pb_error err = {0};
    pb_tensor *t = NULL;
    assert_error(pb_tensor_create(*state, PB_F32, SHAPE(2, -1), &t, &err), PB_ERR_ARGUMENT, "axis 1 has length -1");
    assert_error(pb_tensor_create(*state, PB_F32, SHAPE(1, 1, 1, 1, 1, 1, 1, 1, 1), &t, &err), PB_ERR_ARGUMENT,
                 "9 axes");
    assert_error(pb_tensor_create(*state, PB_F32, SHAPE(INT64_MAX, 2), &t, &err), PB_ERR_ARGUMENT, "more elements");
    assert_error(pb_tensor_create(*state, PB_F32, SHAPE(1ll << 31, 1ll << 31, 4), &t, &err), PB_ERR_ARGUMENT,
                 "more elements");
    assert_error(pb_tensor_create(*state, PB_F32, SHAPE(0, INT64_MAX, INT64_MAX), &t, &err), PB_ERR_ARGUMENT,
                 "more elements");
    assert_error(pb_tensor_create(*state, (pb_dtype)7, SHAPE(1), &t, &err), PB_ERR_ARGUMENT, "dtype 7");
    pb_context_set_memory_limit(*state, 1 << 20);
    assert_error(pb_tensor_create(*state, PB_F32, SHAPE(1 << 20), &t, &err), PB_ERR_MEMORY, "budget");
    assert_null(t);
}

static void tensor_get_set__negative_indices_and_ranges(void **state) {
    pb_error err = {0};
    double value = 0;
    pb_tensor *t = counting(*state, SHAPE(2, 3));
    assert_ok(pb_tensor_get(t, SHAPE(1, -1), &value, &err));
    assert_true(value == 5);
    assert_ok(pb_tensor_set(t, SHAPE(-2, 0), 7.5, &err));
    assert_ok(pb_tensor_get(t, SHAPE(0, 0), &value, &err));
    assert_true(value == 7.5);
    assert_error(pb_tensor_get(t, SHAPE(0, 3), &value, &err), PB_ERR_ARGUMENT, "index 3 is out of range for axis 1");
    assert_error(pb_tensor_get(t, SHAPE(-3, 0), &value, &err), PB_ERR_ARGUMENT, "index -3");
    assert_error(pb_tensor_get(t, SHAPE(0), &value, &err), PB_ERR_ARGUMENT, "1 indices for a tensor [2, 3]");
    assert_error(pb_tensor_item(t, &value, &err), PB_ERR_ARGUMENT, "one element");
    pb_tensor_unref(t);
    pb_tensor *ids = NULL;
    assert_ok(pb_tensor_from_ints(*state, SHAPE(2), (const int32_t[]){50256, -1}, &ids, &err));
    assert_ok(pb_tensor_get(ids, SHAPE(0), &value, &err));
    assert_true(value == 50256);
    assert_error(pb_tensor_set(ids, SHAPE(0), 0.5, &err), PB_ERR_ARGUMENT, "0.5 is not an int32");
    assert_error(pb_tensor_set(ids, SHAPE(0), 3e9, &err), PB_ERR_ARGUMENT, "not an int32");
    assert_error(pb_tensor_set(ids, SHAPE(0), (double)NAN, &err), PB_ERR_ARGUMENT, "not an int32");
    assert_ok(pb_tensor_set(ids, SHAPE(0), INT32_MIN, &err));
    assert_int_equal(pb_tensor_ints(ids)[0], INT32_MIN);
    pb_tensor_unref(ids);
}

static void tensor_range_full_random(void **state) {
    pb_error err = {0};
    pb_tensor *t = NULL;
    assert_ok(pb_tensor_range(*state, 1, 0.5, 4, &t, &err));
    assert_values(t, SHAPE(4), F(1, 1.5f, 2, 2.5f));
    assert_error(pb_tensor_range(*state, 0, 1, -1, &t, &err), PB_ERR_ARGUMENT, "length -1");
    assert_ok(pb_tensor_full(*state, SHAPE(2), 3.5f, &t, &err));
    assert_values(t, SHAPE(2), F(3.5f, 3.5f));
    float expected[6];
    assert_ok(pb_tensor_normal(*state, SHAPE(2, 3), 9, 4, &t, &err));
    pb_rng_normal(9, 4, 0, 6, expected);
    assert_values(t, SHAPE(2, 3), expected);
    assert_ok(pb_tensor_uniform(*state, SHAPE(6), 9, 4, &t, &err));
    pb_rng_uniform(9, 4, 0, 6, expected);
    assert_values(t, SHAPE(6), expected);
}

static void assert_printed(pb_tensor *t, const char *wanted) {
    pb_error err = {0};
    char *text = NULL;
    assert_ok(pb_tensor_print(t, &text, &err));
    assert_string_equal(text, wanted);
    pb_free(text);
    pb_tensor_unref(t);
}

static void tensor_print__columns_and_edges(void **state) {
    pb_error err = {0};
    pb_tensor *t = NULL;
    assert_printed(floats(*state, 0, NULL, F(2.5f)), "tensor [] float32\n2.5");
    assert_printed(floats(*state, SHAPE(2, 2), F(1, -10, 0.5f, NAN)),
                   "tensor [2, 2] float32\n[[  1, -10],\n [0.5, nan]]");
    assert_printed(counting(*state, SHAPE(0, 3)), "tensor [0, 3] float32");
    assert_printed(counting(*state, SHAPE(1001)), "tensor [1001] float32\n[   0,    1,    2, ...,  998,  999, 1000]");
    assert_ok(pb_tensor_from_ints(*state, SHAPE(1, 2), (const int32_t[]){12345678, 5}, &t, &err));
    assert_printed(t, "tensor [1, 2] int32\n[[12345678,        5]]");
    char text[16];
    assert_string_equal(pb_shape_text(SHAPE(3, 4), text, sizeof text), "[3, 4]");
    assert_string_equal(pb_shape_text(0, NULL, text, sizeof text), "[]");
    assert_string_equal(pb_shape_text(SHAPE(3, 4), text, 4), "[3,"); /* cut, never past the end */
}

/* ---- views --------------------------------------------------------------------------------------------------- */

static void view_select_narrow_transpose(void **state) {
    pb_error err = {0};
    pb_tensor *t = counting(*state, SHAPE(2, 3, 4)), *v = NULL, *w = NULL;
    assert_ok(pb_tensor_select(t, 1, -1, &v, &err));
    assert_values(v, SHAPE(2, 4), F(8, 9, 10, 11, 20, 21, 22, 23));
    assert_ok(pb_tensor_narrow(t, -1, -3, 2, &v, &err));
    assert_ok(pb_tensor_select(v, 0, 1, &w, &err));
    assert_values(w, SHAPE(3, 2), F(13, 14, 17, 18, 21, 22));
    pb_tensor_unref(v);
    assert_ok(pb_tensor_transpose(t, 0, 2, &v, &err));
    assert_false(pb_tensor_contiguous(v));
    assert_ok(pb_tensor_select(v, 0, 3, &w, &err));
    assert_values(w, SHAPE(3, 2), F(3, 15, 7, 19, 11, 23));
    pb_tensor_unref(v);
    assert_ok(pb_tensor_narrow(t, 1, 3, 0, &v, &err));
    assert_int_equal(pb_tensor_count(v), 0);
    pb_tensor_unref(v);
    assert_error(pb_tensor_select(t, 1, 3, &v, &err), PB_ERR_ARGUMENT, "index 3 is out of range for axis 1");
    assert_error(pb_tensor_select(t, 3, 0, &v, &err), PB_ERR_ARGUMENT, "axis 3 is out of range");
    assert_error(pb_tensor_narrow(t, 1, 2, 2, &v, &err), PB_ERR_ARGUMENT, "2 entries from 2");
    assert_error(pb_tensor_narrow(t, 1, 0, -1, &v, &err), PB_ERR_ARGUMENT, "-1 entries");
    assert_error(pb_tensor_narrow(t, 1, 1, INT64_MAX, &v, &err), PB_ERR_ARGUMENT, "entries from 1");
    assert_error(pb_tensor_transpose(t, 0, -4, &v, &err), PB_ERR_ARGUMENT, "axis -4");
    pb_tensor_unref(t);
}

static void view_shares_storage_and_keeps_it(void **state) {
    pb_error err = {0};
    pb_tensor *t = counting(*state, SHAPE(3, 4)), *row = NULL;
    assert_ok(pb_tensor_select(t, 0, 1, &row, &err));
    assert_ok(pb_tensor_fill(row, -1, &err));
    assert_true(pb_tensor_floats(t)[4] == -1 && pb_tensor_floats(t)[7] == -1 && pb_tensor_floats(t)[8] == 8);
    pb_tensor_unref(t);
    assert_int_equal(pb_tensor_bytes(row), 48);
    assert_values(row, SHAPE(4), F(-1, -1, -1, -1));
}

static void view_reshape__views_or_error(void **state) {
    pb_error err = {0};
    pb_tensor *t = counting(*state, SHAPE(2, 3, 4)), *v = NULL, *w = NULL;
    assert_ok(pb_tensor_reshape(t, SHAPE(6, -1), &v, &err));
    assert_int_equal(pb_tensor_shape(v)[1], 4);
    assert_ptr_equal(pb_tensor_floats(v), pb_tensor_floats(t));
    pb_tensor_unref(v);
    assert_ok(pb_tensor_narrow(t, 2, 0, 2, &v, &err)); /* strides 12, 4, 1: the first two axes still lie evenly */
    assert_ok(pb_tensor_reshape(v, SHAPE(3, 2, 1, 2), &w, &err));
    assert_values(w, SHAPE(3, 2, 1, 2), F(0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21));
    assert_error(pb_tensor_reshape(v, SHAPE(12), &w, &err), PB_ERR_ARGUMENT, "contiguous()");
    pb_tensor_unref(v);
    assert_ok(pb_tensor_transpose(t, 0, 1, &v, &err));
    assert_error(pb_tensor_reshape(v, SHAPE(6, 4), &w, &err), PB_ERR_ARGUMENT, "contiguous()");
    assert_ok(pb_tensor_reshape(v, SHAPE(3, 2, 2, 2), &w, &err));
    pb_tensor *reference = NULL, *copy = NULL;
    assert_ok(pb_tensor_clone(v, &copy, &err));
    assert_ok(pb_tensor_reshape(copy, SHAPE(3, 2, 2, 2), &reference, &err));
    assert_tensor_equal(w, reference);
    pb_tensor_unref(copy);
    pb_tensor_unref(reference);
    pb_tensor_unref(w);
    pb_tensor_unref(v);
    assert_error(pb_tensor_reshape(t, SHAPE(5, 5), &v, &err), PB_ERR_ARGUMENT,
                 "24 elements cannot take the shape [5, 5]");
    assert_error(pb_tensor_reshape(t, SHAPE(5, -1), &v, &err), PB_ERR_ARGUMENT, "[5, -1]");
    assert_error(pb_tensor_reshape(t, SHAPE(-1, -1), &v, &err), PB_ERR_ARGUMENT, "more than one -1");
    assert_error(pb_tensor_reshape(t, SHAPE(-2, 12), &v, &err), PB_ERR_ARGUMENT, "length -2");
    pb_tensor_unref(t);
    t = counting(*state, SHAPE(0, 4));
    assert_ok(pb_tensor_reshape(t, SHAPE(2, 0), &v, &err));
    pb_tensor_unref(v);
    assert_error(pb_tensor_reshape(t, SHAPE(0, -1), &v, &err), PB_ERR_ARGUMENT, "cannot take the shape");
    pb_tensor_unref(t);
    t = floats(*state, SHAPE(1, 1), F(3));
    assert_ok(pb_tensor_reshape(t, 0, NULL, &v, &err));
    assert_values(v, SCALAR, F(3));
    pb_tensor_unref(t);
}

static void view_expand_squeeze_unsqueeze(void **state) {
    pb_error err = {0};
    pb_tensor *t = counting(*state, SHAPE(3, 1)), *v = NULL, *w = NULL;
    assert_ok(pb_tensor_expand(t, SHAPE(2, 3, 2), &v, &err));
    assert_int_equal(pb_tensor_bytes(v), 12);
    assert_values(v, SHAPE(2, 3, 2), F(0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2));
    assert_error(pb_tensor_expand(t, SHAPE(4, 1), &v, &err), PB_ERR_ARGUMENT, "[3, 1] cannot be expanded to [4, 1]");
    assert_error(pb_tensor_expand(t, SHAPE(3), &v, &err), PB_ERR_ARGUMENT, "cannot be expanded");
    assert_ok(pb_tensor_squeeze(t, -1, &v, &err));
    assert_ok(pb_tensor_unsqueeze(v, 0, &w, &err));
    assert_true(pb_tensor_contiguous(w));
    assert_values(w, SHAPE(1, 3), F(0, 1, 2));
    assert_ok(pb_tensor_unsqueeze(v, -1, &w, &err));
    assert_values(w, SHAPE(3, 1), F(0, 1, 2));
    assert_error(pb_tensor_unsqueeze(v, 2, &w, &err), PB_ERR_ARGUMENT, "axis 2");
    assert_error(pb_tensor_squeeze(t, 0, &w, &err), PB_ERR_ARGUMENT, "has length 3");
    pb_tensor_unref(v);
    pb_tensor_unref(t);
}

/* ---- copies -------------------------------------------------------------------------------------------------- */

static void copy_clone_cast_index(void **state) {
    pb_error err = {0};
    pb_tensor *t = counting(*state, SHAPE(2, 3)), *v = NULL, *w = NULL;
    assert_ok(pb_tensor_transpose(t, 0, 1, &v, &err));
    assert_ok(pb_tensor_make_contiguous(t, &w, &err));
    assert_ptr_equal(w, t);
    pb_tensor_unref(w);
    assert_ok(pb_tensor_make_contiguous(v, &w, &err));
    assert_true(pb_tensor_contiguous(w));
    assert_values(w, SHAPE(3, 2), F(0, 3, 1, 4, 2, 5));
    assert_ok(pb_tensor_index(v, 0, (const int64_t[]){2, 0, -1, 2}, 4, &w, &err));
    assert_values(w, SHAPE(4, 2), F(2, 5, 0, 3, 2, 5, 2, 5));
    assert_ok(pb_tensor_index(v, 1, NULL, 0, &w, &err));
    assert_values(w, SHAPE(3, 0), F(0));
    assert_error(pb_tensor_index(v, 0, (const int64_t[]){3}, 1, &w, &err), PB_ERR_ARGUMENT, "index 3");
    assert_ok(pb_tensor_cast(v, PB_I32, &w, &err));
    assert_int_equal(pb_tensor_dtype(w), PB_I32);
    pb_tensor *back = NULL;
    assert_ok(pb_tensor_cast(w, PB_F32, &back, &err));
    assert_tensor_equal(back, v);
    pb_tensor_unref(back);
    assert_values(w, SHAPE(3, 2), F(0, 3, 1, 4, 2, 5));
    pb_tensor_unref(v);
    assert_ok(pb_tensor_set(t, SHAPE(1, 0), 2.5, &err));
    assert_error(pb_tensor_cast(t, PB_I32, &w, &err), PB_ERR_ARGUMENT, "2.5 (entry 3, counted flat)");
    assert_ok(pb_tensor_set(t, SHAPE(1, 0), 2147483648.0, &err));
    assert_error(pb_tensor_cast(t, PB_I32, &w, &err), PB_ERR_ARGUMENT, "not an int32");
    pb_tensor_unref(t);
}

static void copy_concat_stack(void **state) {
    pb_error err = {0};
    pb_tensor *a = counting(*state, SHAPE(2, 2)), *b = counting(*state, SHAPE(2, 1)), *out = NULL, *t = NULL;
    assert_ok(pb_tensor_concat((const pb_tensor *[]){a, b, a}, 3, 1, &out, &err));
    assert_values(out, SHAPE(2, 5), F(0, 1, 0, 0, 1, 2, 3, 1, 2, 3));
    assert_ok(pb_tensor_transpose(a, 0, 1, &t, &err));
    assert_ok(pb_tensor_stack((const pb_tensor *[]){a, t}, 2, -1, &out, &err));
    assert_values(out, SHAPE(2, 2, 2), F(0, 0, 1, 2, 2, 1, 3, 3));
    assert_ok(pb_tensor_stack((const pb_tensor *[]){a, t}, 2, 0, &out, &err));
    assert_values(out, SHAPE(2, 2, 2), F(0, 1, 2, 3, 0, 2, 1, 3));
    assert_error(pb_tensor_concat((const pb_tensor *[]){a, b}, 2, 0, &out, &err), PB_ERR_ARGUMENT,
                 "part 1 has the shape [2, 1]");
    assert_error(pb_tensor_stack((const pb_tensor *[]){a, b}, 2, 0, &out, &err), PB_ERR_ARGUMENT, "part 1");
    assert_error(pb_tensor_stack(NULL, 0, 0, &out, &err), PB_ERR_ARGUMENT, "no tensors");
    assert_error(pb_tensor_concat(NULL, 0, 0, &out, &err), PB_ERR_ARGUMENT, "no tensors");
    pb_tensor *ints = NULL;
    assert_ok(pb_tensor_cast(a, PB_I32, &ints, &err));
    assert_error(pb_tensor_concat((const pb_tensor *[]){a, ints}, 2, 0, &out, &err), PB_ERR_ARGUMENT, "cast them");
    pb_tensor_unref(ints);
    pb_tensor_unref(t);
    pb_tensor_unref(a);
    pb_tensor_unref(b);
}

static void copy_from_fill__assign_through_views(void **state) {
    pb_error err = {0};
    pb_tensor *t = counting(*state, SHAPE(2, 3)), *v = NULL, *row = floats(*state, SHAPE(2), F(8, 9));
    assert_ok(pb_tensor_transpose(t, 0, 1, &v, &err));
    assert_ok(pb_tensor_copy_from(v, row, &err));
    assert_true(pb_tensor_floats(t)[0] == 8 && pb_tensor_floats(t)[2] == 8 && pb_tensor_floats(t)[3] == 9);
    assert_error(pb_tensor_copy_from(row, v, &err), PB_ERR_ARGUMENT, "keeps its shape");
    pb_tensor *ints = NULL, *more = NULL;
    assert_ok(pb_tensor_zeros(*state, PB_I32, SHAPE(2), &ints, &err));
    assert_error(pb_tensor_copy_from(ints, row, &err), PB_ERR_ARGUMENT, "cast it");
    assert_error(pb_tensor_fill(ints, 0.5, &err), PB_ERR_ARGUMENT, "not an int32");
    assert_ok(pb_tensor_fill(ints, 7, &err));
    assert_ok(pb_tensor_zeros(*state, PB_I32, SHAPE(2, 2), &more, &err));
    assert_ok(pb_tensor_copy_from(more, ints, &err));
    assert_values(more, SHAPE(2, 2), F(7, 7, 7, 7));
    pb_tensor_unref(ints);
    pb_tensor_unref(v);
    pb_tensor_unref(row);
    pb_tensor_unref(t);
}

/* ---- elementwise --------------------------------------------------------------------------------------------- */

static void binary__every_operation(void **state) {
    pb_error err = {0};
    pb_tensor *a = floats(*state, SHAPE(4), F(1, -2, 3, NAN)), *b = floats(*state, SHAPE(4), F(2, -2, 2, 1));
    static const struct {
        pb_binary op;
        float wanted[4];
    } cases[] = {
        {PB_ADD, {3, -4, 5, NAN}},      {PB_SUB, {-1, 0, 1, NAN}},    {PB_MUL, {2, 4, 6, NAN}},
        {PB_DIV, {0.5f, 1, 1.5f, NAN}}, {PB_POW, {1, 0.25f, 9, NAN}}, {PB_MIN, {1, -2, 2, NAN}},
        {PB_MAX, {2, -2, 3, NAN}},      {PB_EQ, {0, 1, 0, 0}},        {PB_NE, {1, 0, 1, 1}},
        {PB_LT, {1, 0, 0, 0}},          {PB_LE, {1, 1, 0, 0}},        {PB_GT, {0, 0, 1, 0}},
        {PB_GE, {0, 1, 1, 0}},
    };
    pb_tensor *out = NULL;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_ok(pb_tensor_binary(cases[i].op, a, b, &out, &err));
        assert_values(out, SHAPE(4), cases[i].wanted);
    }
    assert_ok(pb_tensor_binary(PB_MIN, b, a, &out, &err));
    assert_values(out, SHAPE(4), F(1, -2, 2, NAN));
    assert_ok(pb_tensor_binary_scalar(PB_SUB, b, 1, &out, &err));
    assert_values(out, SHAPE(4), F(1, -3, 1, 0));
    assert_ok(pb_tensor_scalar_binary(PB_SUB, 1, b, &out, &err));
    assert_values(out, SHAPE(4), F(-1, 3, -1, 0));
    assert_error(pb_tensor_binary((pb_binary)99, a, b, &out, &err), PB_ERR_ARGUMENT, "99");
    assert_error(pb_tensor_unary((pb_unary)-1, a, &out, &err), PB_ERR_ARGUMENT, "-1");
    pb_tensor *ints = NULL;
    assert_ok(pb_tensor_zeros(*state, PB_I32, SHAPE(4), &ints, &err));
    assert_error(pb_tensor_binary(PB_ADD, a, ints, &out, &err), PB_ERR_ARGUMENT, "add needs float32");
    pb_tensor_unref(ints);
    pb_tensor_unref(a);
    pb_tensor_unref(b);
}

static void binary__broadcasts_as_numpy(void **state) {
    pb_error err = {0};
    pb_tensor *column = counting(*state, SHAPE(3, 1)), *row = floats(*state, SHAPE(2), F(10, 20)), *out = NULL;
    assert_ok(pb_tensor_binary(PB_ADD, column, row, &out, &err));
    assert_values(out, SHAPE(3, 2), F(10, 20, 11, 21, 12, 22));
    assert_ok(pb_tensor_binary(PB_SUB, row, column, &out, &err));
    assert_values(out, SHAPE(3, 2), F(10, 20, 9, 19, 8, 18));
    pb_tensor *scalar = floats(*state, 0, NULL, F(5)), *empty = counting(*state, SHAPE(0, 2));
    assert_ok(pb_tensor_binary(PB_MUL, scalar, row, &out, &err));
    assert_values(out, SHAPE(2), F(50, 100));
    assert_ok(pb_tensor_binary(PB_MUL, scalar, scalar, &out, &err));
    assert_values(out, SCALAR, F(25));
    assert_ok(pb_tensor_binary(PB_ADD, empty, row, &out, &err));
    assert_values(out, SHAPE(0, 2), F(0));
    pb_tensor *three = counting(*state, SHAPE(3));
    assert_error(pb_tensor_binary(PB_ADD, row, three, &out, &err), PB_ERR_ARGUMENT, "shapes [2] and [3] do not fit");
    pb_tensor_unref(three);
    pb_tensor_unref(scalar);
    pb_tensor_unref(empty);
    pb_tensor_unref(column);
    pb_tensor_unref(row);
}

/* Any strides, any number of axes: against the index arithmetic written out. */
static void binary__strided_operands_match_the_plain_loop(void **state) {
    pb_error err = {0};
    pb_tensor *a = NULL, *b = NULL, *av = NULL, *bv = NULL, *out = NULL;
    assert_ok(pb_tensor_normal(*state, SHAPE(5, 7, 3), 1, 0, &a, &err));
    assert_ok(pb_tensor_normal(*state, SHAPE(4, 1, 5), 2, 0, &b, &err));
    assert_ok(pb_tensor_transpose(a, 0, 2, &av, &err)); /* [3, 7, 5] */
    assert_ok(pb_tensor_narrow(b, 0, 1, 3, &bv, &err)); /* [3, 1, 5] */
    assert_ok(pb_tensor_binary(PB_SUB, av, bv, &out, &err));
    for (int64_t i = 0; i < 3; i++)
        for (int64_t j = 0; j < 7; j++)
            for (int64_t k = 0; k < 5; k++)
                assert_true(pb_tensor_floats(out)[(i * 7 + j) * 5 + k] ==
                            pb_tensor_floats(a)[(k * 7 + j) * 3 + i] - pb_tensor_floats(b)[(i + 1) * 5 + k]);
    pb_tensor_unref(out);
    pb_tensor_unref(bv);
    pb_tensor_unref(av);
    pb_tensor_unref(b);
    pb_tensor_unref(a);
}

static void binary__threads_change_no_bit(void **state) {
    (void)state;
    pb_error err = {0};
    pb_tensor *result[2];
    pb_context *ctx[2];
    for (int k = 0; k < 2; k++) {
        pb_tensor *a = NULL;
        assert_ok(pb_context_create(&(pb_context_options){.threads = k ? 4 : 1}, &ctx[k], &err));
        assert_ok(pb_tensor_normal(ctx[k], SHAPE(200001), 3, 0, &a, &err));
        assert_ok(pb_tensor_unary(PB_GELU, a, &result[k], &err));
        assert_ok(pb_tensor_binary_in_place(PB_MUL, result[k], a, &err));
        pb_tensor_unref(a);
    }
    assert_tensor_equal(result[0], result[1]);
    for (int k = 0; k < 2; k++) {
        pb_tensor_unref(result[k]);
        pb_context_unref(ctx[k]);
    }
}

static double ref_neg(double x) { return -x; }
static double ref_sign(double x) { return (x > 0) - (x < 0); }
static double ref_sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double ref_square(double x) { return x * x; }
static double ref_relu(double x) { return x < 0 ? 0 : x; }
static double ref_gelu(double x) { return 0.5 * x * (1 + erf(x / sqrt(2.0))); }
static double ref_gelu_tanh(double x) {
    return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
}
static double ref_silu(double x) { return x / (1 + exp(-x)); }
static double ref_isnan(double x) { return isnan(x); }

static double (*const REFERENCE[])(double) = {
    [PB_NEG] = ref_neg,       [PB_ABS] = fabs,      [PB_SIGN] = ref_sign,   [PB_EXP] = exp,
    [PB_LOG] = log,           [PB_SQRT] = sqrt,     [PB_TANH] = tanh,       [PB_SIGMOID] = ref_sigmoid,
    [PB_SQUARE] = ref_square, [PB_RELU] = ref_relu, [PB_GELU] = ref_gelu,   [PB_GELU_TANH] = ref_gelu_tanh,
    [PB_SILU] = ref_silu,     [PB_ERF] = erf,       [PB_ISNAN] = ref_isnan,
};

static void unary__matches_double(void **state) {
    pb_error err = {0};
    static const float values[] = {-87, -12, -3.3f, -1, -0.25f, -1e-6f, 0, 1e-6f, 0.5f, 1, 2.75f, 12, 80};
    enum { N = sizeof values / sizeof values[0] };
    pb_tensor *x = floats(*state, SHAPE(N), values), *even = NULL, *out = NULL, *strided = NULL;
    pb_tensor *pairs = NULL, *column = NULL;
    assert_ok(pb_tensor_stack((const pb_tensor *[]){x, x}, 2, 1, &pairs, &err));
    assert_ok(pb_tensor_select(pairs, 1, 0, &column, &err));
    for (int op = PB_NEG; op <= PB_ISNAN; op++) {
        assert_ok(pb_tensor_unary((pb_unary)op, x, &out, &err));
        assert_ok(pb_tensor_unary((pb_unary)op, column, &strided, &err));
        assert_tensor_equal(out, strided);
        assert_ok(pb_tensor_clone(x, &even, &err));
        assert_ok(pb_tensor_unary_in_place((pb_unary)op, even, &err));
        assert_tensor_equal(out, even);
        for (int i = 0; i < N; i++) {
            double wanted = REFERENCE[op]((double)values[i]), got = (double)pb_tensor_floats(out)[i];
            if (isnan(wanted))
                assert_true(isnan(got));
            else if (isinf(wanted))
                assert_true(got == wanted);
            else
                assert_close(got, wanted, 5e-7 * fabs(wanted) + 2e-7); /* the tails of gelu cancel: absolute there */
        }
        pb_tensor_unref(out);
        pb_tensor_unref(strided);
        pb_tensor_unref(even);
    }
    pb_tensor_unref(column);
    pb_tensor_unref(pairs);
    pb_tensor_unref(x);
}

static void unary__nan_and_infinity_stay_visible(void **state) {
    pb_error err = {0};
    pb_tensor *x = floats(*state, SHAPE(3), F(NAN, INFINITY, -INFINITY)), *out = NULL;
    for (int op = PB_NEG; op < PB_ISNAN; op++) {
        assert_ok(pb_tensor_unary((pb_unary)op, x, &out, &err));
        assert_true(isnan(pb_tensor_floats(out)[0]));
        pb_tensor_unref(out);
    }
    assert_ok(pb_tensor_unary(PB_ISNAN, x, &out, &err));
    assert_values(out, SHAPE(3), F(1, 0, 0));
    assert_ok(pb_tensor_unary(PB_RELU, x, &out, &err));
    assert_values(out, SHAPE(3), F(NAN, INFINITY, 0));
    int64_t first = 0;
    assert_int_equal(pb_tensor_count_nonfinite(x, &first), 3);
    assert_int_equal(first, 0);
    pb_tensor_unref(x);
    x = floats(*state, SHAPE(2, 2), F(1, 2, INFINITY, 4));
    assert_ok(pb_tensor_transpose(x, 0, 1, &out, &err));
    assert_int_equal(pb_tensor_count_nonfinite(out, &first), 1);
    assert_int_equal(first, 1);
    pb_tensor_unref(out);
    pb_tensor_unref(x);
    x = floats(*state, SHAPE(1), F(1));
    assert_int_equal(pb_tensor_count_nonfinite(x, &first), 0);
    assert_int_equal(first, -1);
    pb_tensor_unref(x);
}

/* ---- in place ------------------------------------------------------------------------------------------------ */

static void in_place__works_on_views_and_broadcasts_b(void **state) {
    pb_error err = {0};
    pb_tensor *t = counting(*state, SHAPE(2, 3)), *column = NULL, *row = floats(*state, SHAPE(3), F(10, 20, 30));
    assert_ok(pb_tensor_binary_in_place(PB_ADD, t, row, &err));
    assert_ok(pb_tensor_select(t, 1, 1, &column, &err));
    assert_ok(pb_tensor_binary_scalar_in_place(PB_MUL, column, 2, &err));
    assert_ok(pb_tensor_unary_in_place(PB_NEG, column, &err));
    assert_error(pb_tensor_binary_in_place(PB_ADD, row, t, &err), PB_ERR_ARGUMENT, "keeps its shape");
    pb_tensor_unref(column);
    pb_tensor_unref(row);
    assert_values(t, SHAPE(2, 3), F(10, -42, 32, 13, -48, 35));
}

static void in_place__expanded_tensors_are_refused(void **state) {
    pb_error err = {0};
    pb_tensor *t = counting(*state, SHAPE(1, 3)), *wide = NULL, *one = floats(*state, 0, NULL, F(1));
    assert_ok(pb_tensor_expand(t, SHAPE(2, 3), &wide, &err));
    assert_error(pb_tensor_binary_in_place(PB_ADD, wide, one, &err), PB_ERR_ARGUMENT, "expanded");
    assert_error(pb_tensor_binary_scalar_in_place(PB_ADD, wide, 1, &err), PB_ERR_ARGUMENT, "expanded");
    assert_error(pb_tensor_unary_in_place(PB_NEG, wide, &err), PB_ERR_ARGUMENT, "expanded");
    assert_error(pb_tensor_copy_from(wide, one, &err), PB_ERR_ARGUMENT, "expanded");
    assert_error(pb_tensor_fill(wide, 1, &err), PB_ERR_ARGUMENT, "expanded");
    assert_error(pb_tensor_set(wide, SHAPE(0, 0), 1, &err), PB_ERR_ARGUMENT, "expanded");
    pb_tensor_unref(wide);
    pb_tensor_unref(one);
    assert_values(t, SHAPE(1, 3), F(0, 1, 2)); /* nothing was changed */
}

static void in_place__overlap_is_refused_exactly(void **state) {
    pb_error err = {0};
    pb_tensor *t = counting(*state, SHAPE(4, 4)), *turned = NULL, *upper = NULL, *lower = NULL, *a = NULL, *b = NULL;
    assert_ok(pb_tensor_transpose(t, 0, 1, &turned, &err));
    assert_error(pb_tensor_binary_in_place(PB_ADD, t, turned, &err), PB_ERR_ARGUMENT, "clone() the one that is read");
    assert_ok(pb_tensor_narrow(t, 0, 0, 3, &upper, &err));
    assert_ok(pb_tensor_narrow(t, 0, 1, 3, &lower, &err));
    assert_error(pb_tensor_copy_from(lower, upper, &err), PB_ERR_ARGUMENT, "copy_from reads entries");
    assert_ok(pb_tensor_select(t, 0, 0, &a, &err)); /* a row that t's own rows are added to */
    assert_error(pb_tensor_binary_in_place(PB_ADD, t, a, &err), PB_ERR_ARGUMENT, "clone()");
    pb_tensor_unref(a);
    assert_ok(pb_tensor_select(t, 1, 0, &a, &err)); /* two columns interleave without sharing an element */
    assert_ok(pb_tensor_select(t, 1, 2, &b, &err));
    assert_ok(pb_tensor_binary_in_place(PB_ADD, a, b, &err));
    assert_true(pb_tensor_floats(t)[0] == 2 && pb_tensor_floats(t)[12] == 26 && pb_tensor_floats(t)[2] == 2);
    assert_ok(pb_tensor_binary_in_place(PB_ADD, b, b, &err)); /* exactly itself is fine */
    assert_true(pb_tensor_floats(t)[2] == 4 && pb_tensor_floats(t)[14] == 28);
    assert_ok(pb_tensor_copy_from(t, t, &err));
    pb_tensor_unref(a);
    pb_tensor_unref(b);
    pb_tensor_unref(upper);
    pb_tensor_unref(lower);
    pb_tensor_unref(turned);
    pb_tensor_unref(t);
}

static void note_release(void *owner) { ++*(int *)owner; }

static void borrowed_storage__is_read_only_and_released_once(void **state) {
    pb_error err = {0};
    static const float mapped[] = {1, 2, 3, 4};
    int released = 0;
    pb_storage *storage = NULL;
    pb_tensor *t = NULL, *v = NULL, *sum = NULL;
    assert_ok(pb_storage_borrow(*state, mapped, sizeof mapped, true, note_release, &released, &storage, &err));
    assert_ok(pb_tensor_on_storage(storage, 4, PB_F32, SHAPE(3), &t, &err));
    pb_storage_unref(storage);
    assert_ok(pb_tensor_narrow(t, 0, 1, 2, &v, &err));
    pb_tensor_unref(t);
    assert_error(pb_tensor_fill(v, 0, &err), PB_ERR_ARGUMENT, "mapped from a file");
    assert_error(pb_tensor_set(v, SHAPE(0), 0, &err), PB_ERR_ARGUMENT, "mapped from a file");
    assert_ok(pb_tensor_binary_scalar(PB_ADD, v, 1, &sum, &err));
    assert_values(sum, SHAPE(2), F(4, 5));
    assert_int_equal(released, 0);
    pb_tensor_unref(v);
    assert_int_equal(released, 1);
}

/* ---- reductions ---------------------------------------------------------------------------------------------- */

static void reduce__every_operation_by_hand(void **state) {
    pb_error err = {0};
    pb_tensor *t = floats(*state, SHAPE(2, 3), F(3, -1, 4, 1, 5, 5)), *out = NULL;
    static const struct {
        pb_reduction op;
        float rows[2], columns[3], all;
    } cases[] = {
        {PB_SUM, {6, 11}, {4, 4, 9}, 17},   {PB_MEAN, {2, 11 / 3.0f}, {2, 2, 4.5f}, 17 / 6.0f},
        {PB_MAXIMUM, {4, 5}, {3, 5, 5}, 5}, {PB_MINIMUM, {-1, 1}, {1, -1, 4}, -1},
        {PB_ARGMAX, {2, 1}, {0, 1, 1}, 4},  {PB_ARGMIN, {1, 0}, {1, 0, 0}, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_ok(pb_tensor_reduce(cases[i].op, t, -1, false, &out, &err));
        assert_values(out, SHAPE(2), cases[i].rows);
        assert_ok(pb_tensor_reduce(cases[i].op, t, 0, true, &out, &err));
        assert_values(out, SHAPE(1, 3), cases[i].columns);
        assert_ok(pb_tensor_reduce(cases[i].op, t, PB_ALL_AXES, false, &out, &err));
        assert_values(out, SCALAR, &cases[i].all);
        assert_ok(pb_tensor_reduce(cases[i].op, t, PB_ALL_AXES, true, &out, &err));
        assert_values(out, SHAPE(1, 1), &cases[i].all);
    }
    assert_ok(pb_tensor_reduce(PB_VARIANCE, t, 0, false, &out, &err));
    assert_values(out, SHAPE(3), F(1, 9, 0.25f));
    assert_ok(pb_tensor_reduce(PB_NORM, t, 1, false, &out, &err));
    assert_values(out, SHAPE(2), F(sqrtf(26), sqrtf(51)));
    assert_ok(pb_tensor_reduce(PB_LOGSUMEXP, t, 1, false, &out, &err));
    assert_close((double)pb_tensor_floats(out)[0], log(exp(3) + exp(-1) + exp(4)), 1e-6);
    pb_tensor_unref(out);
    assert_error(pb_tensor_reduce(PB_SUM, t, 2, false, &out, &err), PB_ERR_ARGUMENT, "axis 2");
    assert_error(pb_tensor_reduce((pb_reduction)50, t, 0, false, &out, &err), PB_ERR_ARGUMENT, "50");
    pb_tensor_unref(t);
}

static void reduce__nan_wins_and_infinities(void **state) {
    pb_error err = {0};
    pb_tensor *t = floats(*state, SHAPE(2, 3), F(1, NAN, 9, -INFINITY, -INFINITY, -INFINITY)), *out = NULL;
    assert_ok(pb_tensor_reduce(PB_MAXIMUM, t, 1, false, &out, &err));
    assert_values(out, SHAPE(2), F(NAN, -INFINITY));
    assert_ok(pb_tensor_reduce(PB_MINIMUM, t, 1, false, &out, &err));
    assert_values(out, SHAPE(2), F(NAN, -INFINITY));
    assert_ok(pb_tensor_reduce(PB_ARGMAX, t, 1, false, &out, &err));
    assert_values(out, SHAPE(2), F(1, 0));
    assert_ok(pb_tensor_reduce(PB_ARGMIN, t, 1, false, &out, &err));
    assert_values(out, SHAPE(2), F(1, 0));
    assert_ok(pb_tensor_reduce(PB_LOGSUMEXP, t, 1, false, &out, &err));
    assert_values(out, SHAPE(2), F(NAN, -INFINITY));
    assert_ok(pb_tensor_reduce(PB_SUM, t, 1, false, &out, &err));
    assert_values(out, SHAPE(2), F(NAN, -INFINITY));
    pb_tensor_unref(t);
}

static void reduce__empty_axes(void **state) {
    pb_error err = {0};
    pb_tensor *t = counting(*state, SHAPE(2, 0)), *out = NULL;
    assert_ok(pb_tensor_reduce(PB_SUM, t, 1, false, &out, &err));
    assert_values(out, SHAPE(2), F(0, 0));
    assert_ok(pb_tensor_reduce(PB_MEAN, t, 0, false, &out, &err)); /* no lanes at all */
    assert_values(out, SHAPE(0), F(0));
    for (int op = PB_MEAN; op <= PB_LOGSUMEXP; op++)
        assert_error(pb_tensor_reduce((pb_reduction)op, t, 1, false, &out, &err), PB_ERR_ARGUMENT, "no elements");
    assert_ok(pb_tensor_softmax(t, 1, &out, &err));
    assert_values(out, SHAPE(2, 0), F(0));
    pb_tensor_unref(t);
}

/* All axes of a strided view against the contiguous copy: the same bits, as reduce.c promises. */
static void reduce__strides_change_no_bit(void **state) {
    pb_error err = {0};
    pb_tensor *base = NULL, *view = NULL, *narrow = NULL, *copy = NULL, *a = NULL, *b = NULL;
    assert_ok(pb_tensor_normal(*state, SHAPE(19, 23, 21), 8, 0, &base, &err));
    assert_ok(pb_tensor_transpose(base, 0, 2, &view, &err));
    assert_ok(pb_tensor_narrow(view, 1, 2, 20, &narrow, &err));
    assert_ok(pb_tensor_clone(narrow, &copy, &err));
    for (int axis = 0; axis < 3; axis++) {
        for (int op = PB_SUM; op <= PB_LOGSUMEXP; op++) {
            assert_ok(pb_tensor_reduce((pb_reduction)op, narrow, axis, false, &a, &err));
            assert_ok(pb_tensor_reduce((pb_reduction)op, copy, axis, false, &b, &err));
            assert_tensor_equal(a, b);
            pb_tensor_unref(a);
            pb_tensor_unref(b);
        }
        assert_ok(pb_tensor_softmax(narrow, axis, &a, &err));
        assert_ok(pb_tensor_softmax(copy, axis, &b, &err));
        assert_tensor_equal(a, b);
        pb_tensor_unref(a);
        pb_tensor_unref(b);
    }
    assert_ok(pb_tensor_reduce(PB_SUM, copy, 1, false, &a, &err));
    double sum = 0;
    for (int j = 0; j < 20; j++)
        sum += (double)pb_tensor_floats(copy)[(5 * 20 + j) * 19 + 7];
    assert_close((double)pb_tensor_floats(a)[5 * 19 + 7], sum, 1e-6);
    pb_tensor_unref(a);
    pb_tensor_unref(copy);
    pb_tensor_unref(narrow);
    pb_tensor_unref(view);
    pb_tensor_unref(base);
}

static void reduce__sums_in_double(void **state) {
    pb_error err = {0};
    double value = 0;
    pb_tensor *t = NULL, *out = NULL;
    assert_ok(pb_tensor_full(*state, SHAPE(1 << 20), 0.1f, &t, &err));
    assert_ok(pb_tensor_set(t, SHAPE(0), 1e8, &err));
    assert_ok(pb_tensor_set(t, SHAPE(1), -1e8, &err));
    assert_ok(pb_tensor_reduce(PB_SUM, t, 0, false, &out, &err));
    assert_ok(pb_tensor_item(out, &value, &err));
    assert_close(value, (double)0.1f * ((1 << 20) - 2), 0.01);
    pb_tensor_unref(out);
    pb_tensor_unref(t);
}

static void softmax_cumsum(void **state) {
    pb_error err = {0};
    pb_tensor *t = floats(*state, SHAPE(3, 2), F(0, 1000, logf(3), -INFINITY, -INFINITY, 1000)), *out = NULL,
              *log_out = NULL;
    assert_ok(pb_tensor_softmax(t, 0, &out, &err));
    assert_close((double)pb_tensor_floats(out)[0], 0.25, 1e-7);
    assert_close((double)pb_tensor_floats(out)[2], 0.75, 1e-7);
    assert_true(pb_tensor_floats(out)[4] == 0 && pb_tensor_floats(out)[3] == 0);
    assert_true(pb_tensor_floats(out)[1] == 0.5f && pb_tensor_floats(out)[5] == 0.5f);
    assert_ok(pb_tensor_log_softmax(t, 0, &log_out, &err));
    assert_close((double)pb_tensor_floats(log_out)[2], log(0.75), 1e-6);
    assert_close((double)pb_tensor_floats(log_out)[1], log(0.5), 1e-4);
    assert_true(pb_tensor_floats(log_out)[4] == -INFINITY);
    pb_tensor_unref(out);
    pb_tensor_unref(log_out);
    pb_tensor_unref(t);
    t = floats(*state, SHAPE(2), F(-INFINITY, -INFINITY));
    assert_ok(pb_tensor_softmax(t, 0, &out, &err));
    assert_values(out, SHAPE(2), F(NAN, NAN)); /* a row without mass has no distribution */
    pb_tensor_unref(t);
    t = counting(*state, SHAPE(3, 2));
    assert_ok(pb_tensor_cumsum(t, 0, &out, &err));
    assert_values(out, SHAPE(3, 2), F(0, 1, 2, 4, 6, 9));
    assert_ok(pb_tensor_cumsum(t, 1, &out, &err));
    assert_values(out, SHAPE(3, 2), F(0, 1, 2, 5, 4, 9));
    assert_error(pb_tensor_cumsum(t, 5, &out, &err), PB_ERR_ARGUMENT, "axis 5");
    pb_tensor_unref(t);
}

static void max_difference__nan_and_infinities(void **state) {
    pb_error err = {0};
    double absolute = 0, relative = 0;
    pb_tensor *a = floats(*state, SHAPE(3), F(1, 2, INFINITY)), *b = floats(*state, SHAPE(3), F(1, 2.5f, INFINITY));
    assert_ok(pb_tensor_max_difference(a, b, &absolute, &relative, &err));
    assert_true(absolute == 0.5 && relative == 0.2);
    pb_tensor_floats(b)[2] = -INFINITY;
    assert_ok(pb_tensor_max_difference(a, b, &absolute, &relative, &err));
    assert_true(isinf(absolute) && isinf(relative));
    pb_tensor_floats(a)[2] = pb_tensor_floats(b)[2] = NAN;
    assert_ok(pb_tensor_max_difference(a, b, &absolute, &relative, &err));
    assert_true(isinf(absolute));
    pb_tensor *zero = floats(*state, SHAPE(3), F(0, 0, 0));
    assert_ok(pb_tensor_max_difference(zero, zero, &absolute, &relative, &err));
    assert_true(absolute == 0 && relative == 0);
    pb_tensor *other = counting(*state, SHAPE(1, 3));
    assert_error(pb_tensor_max_difference(a, other, &absolute, &relative, &err), PB_ERR_ARGUMENT, "different shape");
    pb_tensor_unref(other);
    pb_tensor_unref(zero);
    pb_tensor_unref(a);
    pb_tensor_unref(b);
}

/* ---- order --------------------------------------------------------------------------------------------------- */

static void topk__falling_with_ties_by_index(void **state) {
    pb_error err = {0};
    pb_tensor *t = floats(*state, SHAPE(2, 5), F(1, 7, 7, -2, 5, NAN, 0, 3, NAN, 3)), *values = NULL, *indices = NULL;
    assert_ok(pb_tensor_topk(t, 3, &values, &indices, &err));
    assert_values(values, SHAPE(2, 3), F(7, 7, 5, NAN, NAN, 3));
    assert_values(indices, SHAPE(2, 3), F(1, 2, 4, 0, 3, 2));
    assert_ok(pb_tensor_topk(t, 0, &values, &indices, &err));
    assert_values(values, SHAPE(2, 0), F(0));
    assert_values(indices, SHAPE(2, 0), F(0));
    assert_error(pb_tensor_topk(t, 6, &values, &indices, &err), PB_ERR_ARGUMENT, "6 largest of 5");
    pb_tensor_unref(t);
}

static void topk_argsort__agree_on_random_numbers(void **state) {
    pb_error err = {0};
    pb_tensor *base = NULL, *t = NULL, *order = NULL, *values = NULL, *indices = NULL;
    assert_ok(pb_tensor_uniform(*state, SHAPE(501, 2), 4, 0, &base, &err));
    for (int i = 0; i < 1002; i++) /* many ties */
        pb_tensor_floats(base)[i] = floorf(pb_tensor_floats(base)[i] * 50);
    assert_ok(pb_tensor_select(base, 1, 1, &t, &err));
    assert_ok(pb_tensor_argsort(t, true, &order, &err));
    for (int64_t k = 1; k <= 501; k += 50) {
        assert_ok(pb_tensor_topk(t, k, &values, &indices, &err));
        for (int64_t i = 0; i < k; i++) {
            assert_int_equal(pb_tensor_ints(indices)[i], pb_tensor_ints(order)[i]);
            assert_true(pb_tensor_floats(values)[i] == pb_tensor_floats(t)[2 * pb_tensor_ints(order)[i]]);
        }
        pb_tensor_unref(values);
        pb_tensor_unref(indices);
    }
    for (int64_t i = 1; i < 501; i++) {
        int32_t p = pb_tensor_ints(order)[i - 1], q = pb_tensor_ints(order)[i];
        float vp = pb_tensor_floats(t)[2 * p], vq = pb_tensor_floats(t)[2 * q];
        assert_true(vp > vq || (vp == vq && p < q));
    }
    pb_tensor_unref(order);
    pb_tensor_unref(t);
    pb_tensor_unref(base);
}

static void argsort__stable_with_nan_last(void **state) {
    pb_error err = {0};
    pb_tensor *t = floats(*state, SHAPE(6), F(3, NAN, 1, 3, -INFINITY, NAN)), *order = NULL;
    assert_ok(pb_tensor_argsort(t, false, &order, &err));
    assert_values(order, SHAPE(6), F(4, 2, 0, 3, 1, 5));
    assert_ok(pb_tensor_argsort(t, true, &order, &err));
    assert_values(order, SHAPE(6), F(0, 3, 2, 4, 1, 5));
    pb_tensor_unref(t);
    t = counting(*state, SHAPE(2, 2));
    assert_error(pb_tensor_argsort(t, true, &order, &err), PB_ERR_ARGUMENT, "one axis");
    pb_tensor_unref(t);
    t = counting(*state, SHAPE(0));
    assert_ok(pb_tensor_argsort(t, true, &order, &err));
    assert_values(order, SHAPE(0), F(0));
    pb_tensor_unref(t);
}

/* ---- allocation failures ------------------------------------------------------------------------------------- */

/* One call per entry: makes something of user's tensor [4, 3] (not contiguous) and releases it. */
#define MAKES(name, call)                                                                                              \
    static pb_status name(pb_context *ctx, void *user, pb_error *err) {                                                \
        pb_tensor *t = user, *out = NULL, *second = NULL;                                                              \
        (void)ctx;                                                                                                     \
        (void)t;                                                                                                       \
        pb_status status = (call);                                                                                     \
        if (status != PB_OK)                                                                                           \
            assert_true(out == NULL && second == NULL);                                                                \
        pb_tensor_unref(out);                                                                                          \
        pb_tensor_unref(second);                                                                                       \
        return status;                                                                                                 \
    }

static pb_status print_it(pb_context *ctx, void *user, pb_error *err) {
    char *text = NULL;
    (void)ctx;
    pb_status status = pb_tensor_print(user, &text, err);
    pb_free(text);
    return status;
}

static pb_status sort_it(const pb_tensor *t, pb_tensor **column, pb_tensor **out, pb_error *err) {
    PB_TRY(pb_tensor_select(t, 1, 0, column, err));
    pb_status status = pb_tensor_argsort(*column, false, out, err);
    pb_tensor_unref(*column);
    *column = NULL;
    return status;
}

static pb_status add_own_column(pb_context *ctx, void *user, pb_error *err) {
    pb_tensor *a = NULL, *b = NULL;
    (void)ctx;
    pb_status status = pb_tensor_select(user, 1, 0, &a, err);
    if (status == PB_OK)
        status = pb_tensor_select(user, 1, 1, &b, err);
    if (status == PB_OK)
        status = pb_tensor_binary_in_place(PB_ADD, a, b, err); /* allocates the bitmap that tells them apart */
    pb_tensor_unref(a);
    pb_tensor_unref(b);
    return status;
}

MAKES(make_zeros, pb_tensor_zeros(ctx, PB_F32, SHAPE(3), &out, err))
MAKES(make_full, pb_tensor_full(ctx, SHAPE(3), 1, &out, err))
MAKES(make_floats, pb_tensor_from_floats(ctx, SHAPE(2), F(1, 2), &out, err))
MAKES(make_ints, pb_tensor_from_ints(ctx, SHAPE(1), (const int32_t[]){1}, &out, err))
MAKES(make_range, pb_tensor_range(ctx, 0, 1, 5, &out, err))
MAKES(make_normal, pb_tensor_normal(ctx, SHAPE(5), 1, 1, &out, err))
MAKES(make_uniform, pb_tensor_uniform(ctx, SHAPE(5), 1, 1, &out, err))
MAKES(make_select, pb_tensor_select(t, 0, 1, &out, err))
MAKES(make_narrow, pb_tensor_narrow(t, 0, 1, 1, &out, err))
MAKES(make_transpose, pb_tensor_transpose(t, 0, 1, &out, err))
MAKES(make_reshape, pb_tensor_reshape(t, SHAPE(4, 1, 3), &out, err))
MAKES(make_expand, pb_tensor_expand(t, SHAPE(2, 4, 3), &out, err))
MAKES(make_unsqueeze, pb_tensor_unsqueeze(t, 0, &out, err))
MAKES(make_clone, pb_tensor_clone(t, &out, err))
MAKES(make_contiguous, pb_tensor_make_contiguous(t, &out, err))
MAKES(make_cast, pb_tensor_cast(t, PB_I32, &out, err))
MAKES(make_index, pb_tensor_index(t, 0, (const int64_t[]){1}, 1, &out, err))
MAKES(make_concat, pb_tensor_concat((const pb_tensor *[]){t, t}, 2, 0, &out, err))
MAKES(make_stack, pb_tensor_stack((const pb_tensor *[]){t, t}, 2, 0, &out, err))
MAKES(make_binary, pb_tensor_binary(PB_ADD, t, t, &out, err))
MAKES(make_scalar, pb_tensor_scalar_binary(PB_ADD, 1, t, &out, err))
MAKES(make_unary, pb_tensor_unary(PB_EXP, t, &out, err))
MAKES(make_sum, pb_tensor_reduce(PB_SUM, t, PB_ALL_AXES, false, &out, err))
MAKES(make_argmax, pb_tensor_reduce(PB_ARGMAX, t, 1, false, &out, err))
MAKES(make_softmax, pb_tensor_softmax(t, 1, &out, err))
MAKES(make_cumsum, pb_tensor_cumsum(t, 1, &out, err))
MAKES(make_topk, pb_tensor_topk(t, 2, &out, &second, err))
MAKES(make_argsort, sort_it(t, &second, &out, err))

static void tensor__survives_allocation_failure(void **state) {
    pb_error err = {0};
    static const test_body bodies[] = {
        make_zeros,     make_full,   make_floats,     make_ints,      make_range,   make_normal,
        make_uniform,   make_select, make_narrow,     make_transpose, make_reshape, make_expand,
        make_unsqueeze, make_clone,  make_contiguous, make_cast,      make_index,   make_concat,
        make_stack,     make_binary, make_scalar,     make_unary,     make_sum,     make_argmax,
        make_softmax,   make_cumsum, make_topk,       make_argsort,   print_it,     add_own_column,
    };
    pb_tensor *base = counting(*state, SHAPE(3, 4)), *t = NULL;
    assert_ok(pb_tensor_transpose(base, 0, 1, &t, &err));
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++)
        assert_true(assert_survives_allocation_failure(*state, bodies[i], t) >= 1);
    pb_tensor_unref(t);
    pb_tensor_unref(base);
}

static void reduce__can_be_stopped(void **state) {
    pb_error err = {0};
    pb_tensor *t = counting(*state, SHAPE(3, 4)), *out = NULL;
    pb_context_stop(*state);
    assert_error(pb_tensor_softmax(t, 1, &out, &err), PB_ERR_STOPPED, "stopped");
    assert_null(out);
    pb_tensor_unref(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH_CONTEXT(tensor_create__shapes_strides_alignment),
        WITH_CONTEXT(tensor_create__absurd_shapes_are_refused),
        WITH_CONTEXT(tensor_get_set__negative_indices_and_ranges),
        WITH_CONTEXT(tensor_range_full_random),
        WITH_CONTEXT(tensor_print__columns_and_edges),
        WITH_CONTEXT(view_select_narrow_transpose),
        WITH_CONTEXT(view_shares_storage_and_keeps_it),
        WITH_CONTEXT(view_reshape__views_or_error),
        WITH_CONTEXT(view_expand_squeeze_unsqueeze),
        WITH_CONTEXT(copy_clone_cast_index),
        WITH_CONTEXT(copy_concat_stack),
        WITH_CONTEXT(copy_from_fill__assign_through_views),
        WITH_CONTEXT(binary__every_operation),
        WITH_CONTEXT(binary__broadcasts_as_numpy),
        WITH_CONTEXT(binary__strided_operands_match_the_plain_loop),
        WITH_CONTEXT(binary__threads_change_no_bit),
        WITH_CONTEXT(unary__matches_double),
        WITH_CONTEXT(unary__nan_and_infinity_stay_visible),
        WITH_CONTEXT(in_place__works_on_views_and_broadcasts_b),
        WITH_CONTEXT(in_place__expanded_tensors_are_refused),
        WITH_CONTEXT(in_place__overlap_is_refused_exactly),
        WITH_CONTEXT(borrowed_storage__is_read_only_and_released_once),
        WITH_CONTEXT(reduce__every_operation_by_hand),
        WITH_CONTEXT(reduce__nan_wins_and_infinities),
        WITH_CONTEXT(reduce__empty_axes),
        WITH_CONTEXT(reduce__strides_change_no_bit),
        WITH_CONTEXT(reduce__sums_in_double),
        WITH_CONTEXT(softmax_cumsum),
        WITH_CONTEXT(max_difference__nan_and_infinities),
        WITH_CONTEXT(topk__falling_with_ties_by_index),
        WITH_CONTEXT(topk_argsort__agree_on_random_numbers),
        WITH_CONTEXT(argsort__stable_with_nan_last),
        WITH_CONTEXT(tensor__survives_allocation_failure),
        WITH_CONTEXT(reduce__can_be_stopped),
    };
    return cmocka_run_group_tests_name("tensor", tests, NULL, NULL);
}
