/* Files of tensors: what is written is read back, and every way in which a header can lie is an error that names the
 * file and the tensor. */
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

#define SHAPE(...)                                                                                                     \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]) { __VA_ARGS__ }

typedef struct fixture {
    pb_context *ctx;
    char *folder;
} fixture;

static int set_up(void **state) {
    fixture *f = malloc(sizeof *f);
    f->ctx = test_context();
    f->folder = test_folder();
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    fixture *f = *state;
    size_t used = pb_context_memory_used(f->ctx);
    test_folder_remove(f->folder);
    pb_context_unref(f->ctx);
    free(f);
    if (used)
        print_error("%zu bytes were not released\n", used);
    return used ? -1 : 0;
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

/* Plainly, without the flush to disk that a thousand small files would wait for. */
static void put_file(const char *path, const void *bytes, size_t size) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

/* Writes [length][header][data_size bytes 0, 1, 2...] by hand. */
static const char *write_raw(const fixture *f, const char *header, size_t data_size) {
    const char *path = test_path(f->folder, "raw.safetensors");
    size_t length = strlen(header), size = 8 + length + data_size;
    unsigned char *bytes = malloc(size);
    for (size_t i = 0; i < 8; i++)
        bytes[i] = (unsigned char)((uint64_t)length >> (8 * i));
    memcpy(bytes + 8, header, length);
    for (size_t i = 0; i < data_size; i++)
        bytes[8 + length + i] = (unsigned char)i;
    put_file(path, bytes, size);
    free(bytes);
    return path;
}

static pb_tensor *normal(pb_context *ctx, int ndim, const int64_t *shape) {
    pb_error err = {0};
    pb_tensor *t = NULL;
    assert_ok(pb_tensor_normal(ctx, ndim, shape, 42, 0, &t, &err));
    return t;
}

/* ---- widening ------------------------------------------------------------------------------------------------ */

/* The meaning of a half's bits, written down with ldexp. */
static double half_value(unsigned h) {
    double sign = h & 0x8000 ? -1 : 1;
    int exponent = (h >> 10) & 31, mantissa = h & 1023;
    if (exponent == 31)
        return mantissa ? (double)NAN : sign * (double)INFINITY;
    return exponent ? sign * ldexp(1024 + mantissa, exponent - 25) : sign * ldexp(mantissa, -24);
}

static void widen__every_half(void **state) {
    (void)state;
    enum { N = 65536 };
    uint16_t *halves = malloc(N * sizeof *halves);
    float *out = malloc(N * sizeof *out);
    for (unsigned h = 0; h < N; h++)
        halves[h] = (uint16_t)h;
    pb_widen(PB_STORED_F16, halves, 0, N, out);
    for (unsigned h = 0; h < N; h++) {
        double wanted = half_value(h);
        if (isnan(wanted))
            assert_true(isnan(out[h]));
        else
            assert_true((double)out[h] == wanted && !!signbit(out[h]) == !!(h & 0x8000));
    }
    free(halves);
    free(out);
}

static void widen__every_bfloat(void **state) {
    (void)state;
    enum { N = 65536 };
    unsigned char *bytes = malloc(2 * N + 1);
    float *out = malloc(N * sizeof *out);
    for (unsigned h = 0; h < N; h++) { /* at an odd address, too */
        bytes[1 + 2 * h] = (unsigned char)h;
        bytes[2 + 2 * h] = (unsigned char)(h >> 8);
    }
    pb_widen(PB_STORED_BF16, bytes + 1, 0, N, out);
    for (unsigned h = 0; h < N; h++) {
        uint32_t bits;
        memcpy(&bits, &out[h], sizeof bits);
        assert_int_equal(bits, h << 16);
    }
    free(bytes);
    free(out);
}

static void widen__offsets_and_other_types(void **state) {
    (void)state;
    float out[4] = {-1, -1, -1, -1};
    const double wide[] = {1.5, 1e300, 0.1, -2};
    pb_widen(PB_STORED_F64, wide, 1, 3, out);
    assert_true(isinf(out[0]) && out[1] == (float)0.1 && out[2] == -2 && out[3] == -1);
    char bytes[17];
    memcpy(bytes + 1, (const float[]){1, 2, 3, 4}, 16);
    pb_widen(PB_STORED_F32, bytes + 1, 2, 2, out);
    assert_true(out[0] == 3 && out[1] == 4 && out[2] == -2);
    pb_widen(PB_STORED_F16, bytes, 0, 0, out);
    assert_true(out[0] == 3);
    for (int type = PB_STORED_F32; type <= PB_STORED_OTHER; type++)
        assert_true((pb_stored_size((pb_stored)type) == 0) == (type == PB_STORED_OTHER));
    assert_string_equal(pb_stored_name(PB_STORED_BF16), "BF16");
}

/* ---- safetensors: reading ------------------------------------------------------------------------------------ */

static void safetensors_open__every_type(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    const char *path = write_raw(f,
                                 "{\"__metadata__\":{\"format\":\"pt\"},"
                                 "\"z\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]},"
                                 "\"b\":{\"dtype\":\"BOOL\",\"shape\":[2],\"data_offsets\":[8,10]},"
                                 "\"h\":{\"dtype\":\"I16\",\"shape\":[1,1],\"data_offsets\":[10,12]},"
                                 "\"e\":{\"dtype\":\"F32\",\"shape\":[3,0],\"data_offsets\":[12,12]},"
                                 "\"s\":{\"dtype\":\"I8\",\"shape\":[],\"data_offsets\":[12,13]},"
                                 "\"x\":{\"dtype\":\"F8_E4M3\",\"shape\":[3],\"data_offsets\":[13,16]}}   ",
                                 16);
    pb_safetensors *file = NULL;
    assert_ok(pb_safetensors_open(f->ctx, path, &file, &err));
    assert_int_equal(pb_safetensors_count(file), 6);
    assert_string_equal(pb_safetensors_at(file, 0)->name, "z");
    assert_string_equal(pb_safetensors_at(file, 5)->name, "x");
    assert_null(pb_safetensors_at(file, 6));
    assert_string_equal(pb_safetensors_metadata(file, "format"), "pt");
    assert_null(pb_safetensors_metadata(file, "none"));
    assert_null(pb_safetensors_find(file, "none"));
    pb_tensor *t = NULL;
    double value = 0;
    assert_ok(pb_entry_load(f->ctx, pb_safetensors_find(file, "b"), &t, &err));
    assert_int_equal(pb_tensor_dtype(t), PB_I32);
    assert_true(pb_tensor_ints(t)[0] == 8 && pb_tensor_ints(t)[1] == 9);
    pb_tensor_unref(t);
    assert_ok(pb_entry_load(f->ctx, pb_safetensors_find(file, "h"), &t, &err));
    assert_int_equal(pb_tensor_ints(t)[0], 10 + 256 * 11);
    pb_tensor_unref(t);
    assert_ok(pb_entry_load(f->ctx, pb_safetensors_find(file, "s"), &t, &err));
    assert_ok(pb_tensor_item(t, &value, &err));
    assert_true(value == 12 && pb_tensor_ndim(t) == 0);
    pb_tensor_unref(t);
    assert_ok(pb_entry_load(f->ctx, pb_safetensors_find(file, "e"), &t, &err));
    assert_int_equal(pb_tensor_count(t), 0);
    pb_tensor_unref(t);
    assert_int_equal(pb_safetensors_find(file, "x")->type, PB_STORED_OTHER);
    assert_error(pb_entry_load(f->ctx, pb_safetensors_find(file, "x"), &t, &err), PB_ERR_UNSUPPORTED,
                 "tensor 'x' is stored as F8_E4M3");
    assert_error(pb_entry_load(f->ctx, pb_safetensors_find(file, "z"), &t, &err), PB_ERR_UNSUPPORTED, "is no int32");
    assert_ptr_equal(pb_safetensors_ref(file), file);
    pb_safetensors_unref(file);
    assert_non_null(pb_safetensors_find(file, "z"));
    pb_safetensors_unref(file);
    pb_safetensors_unref(NULL);
}

static void safetensors_open__lying_headers(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    static const struct {
        const char *header;
        size_t data;
        const char *message;
    } cases[] = {
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 7, "tensor 'a' ends at byte 8"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 9,
         "1 bytes at the end belong to no tensor"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8,
         "tensor 'a': F32 [3] needs 3 x 4 bytes"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, "end before they begin"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}", 8, "two integers of 0 or more"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8, "two integers of 0 or more"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8.0]}}", 8, "two integers of 0 or more"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, "integers of 0 or more"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[\"2\"],\"data_offsets\":[0,8]}}", 8, "integers of 0 or more"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":2,\"data_offsets\":[0,8]}}", 8, "must be an array"},
        {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, "must be an array"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "\"data_offsets\" must be"},
        {"{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "\"dtype\" must be a string"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"extra\":1}}", 8, "unknown field \"extra\""},
        {"{\"a\":[1]}", 0, "must be an object"},
        {"[1]", 0, "must be a JSON object"},
        {"{\"a\":", 0, "line 1"},
        {"", 0, "safetensors header of"},
        {"{\"__metadata__\":{\"a\":1}}", 0, "\"a\" must be a string"},
        {"{\"__metadata__\":[]}", 0, "must be an object of strings"},
        /* overlaps, holes, duplicates */
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_"
         "offsets\":[2,6]}}",
         6, "'a' and 'b' overlap"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_"
         "offsets\":[0,4]}}",
         4, "overlap"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_"
         "offsets\":[5,6]}}",
         6, "1 bytes before tensor 'b' belong to no tensor"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,8]}}", 8, "4 bytes before tensor 'a'"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_"
         "offsets\":[1,2]}}",
         2, "duplicate"},
        /* numbers that overflow something */
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,0]}}", 0, "more elements"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0, "more elements"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}}", 0,
         "needs 4611686018427387904 x 4"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,0]}}", 0, "line 1"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[9223372036854775807,9223372036854775807]}}", 0,
         "ends at byte"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,1,1,1,1,1,1,1,1],\"data_offsets\":[0,8]}}", 8, "has 9 axes"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *path = write_raw(f, cases[i].header, cases[i].data);
        pb_safetensors *file = NULL;
        pb_status status = pb_safetensors_open(f->ctx, path, &file, &err);
        if (status != PB_ERR_FORMAT && status != PB_ERR_UNSUPPORTED)
            print_error("case %zu: %s\n", i, cases[i].header);
        assert_error(status, strstr(cases[i].message, "9 axes") ? PB_ERR_UNSUPPORTED : PB_ERR_FORMAT, cases[i].message);
        assert_non_null(strstr(err.message, "raw.safetensors"));
        assert_null(file);
        assert_int_equal(pb_context_memory_used(f->ctx), 0);
    }
}

static void safetensors_open__length_field(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    pb_safetensors *file = NULL;
    const char *path = test_path(f->folder, "x");
    static const unsigned char huge[16] = {255, 255, 255, 255, 255, 255, 255, 255}, big[16] = {1, 225, 245, 5},
                               long_[16] = {9, 0}, none[8] = {0};
    put_file(path, "", 0);
    assert_error(pb_safetensors_open(f->ctx, path, &file, &err), PB_ERR_FORMAT, "0 bytes are too few");
    put_file(path, huge, 7);
    assert_error(pb_safetensors_open(f->ctx, path, &file, &err), PB_ERR_FORMAT, "7 bytes are too few");
    put_file(path, huge, 16);
    assert_error(pb_safetensors_open(f->ctx, path, &file, &err), PB_ERR_FORMAT, "18446744073709551615");
    put_file(path, big, 16); /* 100,000,001 */
    assert_error(pb_safetensors_open(f->ctx, path, &file, &err), PB_ERR_FORMAT, "at most 100000000");
    put_file(path, long_, 16);
    assert_error(pb_safetensors_open(f->ctx, path, &file, &err), PB_ERR_FORMAT, "truncated: a header of 9 bytes");
    put_file(path, none, 8);
    assert_error(pb_safetensors_open(f->ctx, path, &file, &err), PB_ERR_FORMAT, "safetensors header");
    assert_error(pb_safetensors_open(f->ctx, f->folder, &file, &err), PB_ERR_IO, "folder");
    path = write_raw(f, "{}", 0);
    assert_ok(pb_safetensors_open(f->ctx, path, &file, &err));
    assert_int_equal(pb_safetensors_count(file), 0);
    assert_null(pb_safetensors_find(file, "a"));
    pb_safetensors_unref(file);
}

/* Every file that lacks its last bytes, however many, is refused. */
static void safetensors_open__every_truncation_is_refused(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    const char *header = "{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}";
    const char *path = write_raw(f, header, 8);
    char *bytes = NULL;
    size_t size = 0;
    pb_safetensors *file = NULL;
    assert_ok(pb_file_read(f->ctx, path, 1000, &bytes, &size, &err));
    for (size_t cut = 0; cut < size; cut++) {
        put_file(path, bytes, cut);
        assert_error(pb_safetensors_open(f->ctx, path, &file, &err), PB_ERR_FORMAT, "raw.safetensors");
    }
    put_file(path, bytes, size);
    assert_ok(pb_safetensors_open(f->ctx, path, &file, &err));
    pb_safetensors_unref(file);
    pb_free(bytes);
}

/* 5 GiB of holes in a sparse file: offsets beyond 32 bits, and no byte of it is read by opening. */
static void safetensors_open__beyond_4_gib(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    const uint64_t first = 5ull << 30;
    char header[256];
    snprintf(header, sizeof header,
             "{\"big\":{\"dtype\":\"F16\",\"shape\":[%llu],\"data_offsets\":[0,%llu]},"
             "\"last\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%llu,%llu]}}",
             (unsigned long long)first / 2, (unsigned long long)first, (unsigned long long)first,
             (unsigned long long)first + 1);
    const char *path = write_raw(f, header, 0);
    if (truncate(path, (off_t)(8 + strlen(header) + first + 1)) != 0) {
        print_message("skipped: no sparse file of 5 GiB can be made here\n");
        return;
    }
    pb_safetensors *file = NULL;
    assert_ok(pb_safetensors_open(f->ctx, path, &file, &err));
    const pb_entry *big = pb_safetensors_find(file, "big"), *last = pb_safetensors_find(file, "last");
    assert_true(big->bytes == first && big->shape[0] == (int64_t)(first / 2));
    assert_true((const char *)last->data - (const char *)big->data == (ptrdiff_t)first);
    float tail[2] = {1, 1};
    pb_widen(PB_STORED_F16, big->data, (size_t)(first / 2) - 2, 2, tail);
    assert_true(tail[0] == 0 && tail[1] == 0);
    pb_context_set_memory_limit(f->ctx, 1 << 20);
    pb_tensor *t = NULL;
    assert_error(pb_entry_load(f->ctx, big, &t, &err), PB_ERR_MEMORY, "10240.0 MiB");
    pb_safetensors_unref(file);
}

/* float32 and int32 lie in the file and may be changed, which the file is not; other types are copies. The tensor outlives the
 * file's handle. */
static void safetensors_tensor__lies_in_the_file(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    enum { N = 1 << 20 };
    const char *path = test_path(f->folder, "mapped.safetensors");
    pb_tensor *x = normal(f->ctx, SHAPE(N / 4, 4)), *ids = NULL, *back = NULL, *again = NULL;
    assert_ok(pb_tensor_from_ints(f->ctx, SHAPE(3), (const int32_t[]){1, -2, 3}, &ids, &err));
    const pb_named_tensor named[] = {{"ids", ids}, {"x", x}};
    assert_ok(pb_safetensors_write(f->ctx, path, named, 2, NULL, 0, &err));
    pb_safetensors *file = NULL;
    assert_ok(pb_safetensors_open(f->ctx, path, &file, &err));
    size_t place = strcmp(pb_safetensors_at(file, 0)->name, "x") == 0 ? 0 : 1, before = pb_context_memory_used(f->ctx);
    assert_ok(pb_safetensors_tensor(f->ctx, file, place, &back, &err));
    assert_true(pb_context_memory_used(f->ctx) - before < 4096);
    assert_ptr_equal(pb_tensor_floats(back), pb_safetensors_at(file, place)->data);
    pb_tensor *small = NULL;
    assert_ok(pb_safetensors_tensor(f->ctx, file, 1 - place, &small, &err));
    assert_tensor_equal(small, ids);
    pb_safetensors_unref(file);
    assert_tensor_equal(back, x);
    assert_ok(pb_tensor_fill(back, 7.0, &err));
    assert_true(pb_tensor_floats(back)[N - 1] == 7.0f);
    pb_tensor_unref(small);
    assert_ok(pb_safetensors_open(f->ctx, path, &file, &err)); /* as it was */
    assert_ok(pb_safetensors_tensor(f->ctx, file, place, &again, &err));
    assert_tensor_equal(again, x);
    pb_safetensors_unref(file);
    pb_tensor_unref(again);
    pb_tensor_unref(back);
    pb_tensor_unref(ids);
    pb_tensor_unref(x);

    /* half floats, and float32 at an odd place, are copied */
    path = write_raw(f,
                     "{\"h\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,2]},"
                     "\"o\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[2,6]}}",
                     6);
    assert_ok(pb_safetensors_open(f->ctx, path, &file, &err));
    for (size_t i = 0; i < 2; i++) {
        assert_ok(pb_safetensors_tensor(f->ctx, file, i, &back, &err));
        assert_ptr_not_equal(pb_tensor_floats(back), pb_safetensors_at(file, i)->data);
        pb_tensor_unref(back);
    }
    pb_safetensors_unref(file);
}

/* ---- safetensors: writing ------------------------------------------------------------------------------------ */

static void safetensors_write__round_trip_bit_for_bit(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    pb_tensor *a = normal(f->ctx, SHAPE(3, 5)), *view = NULL, *scalar = normal(f->ctx, 0, NULL), *ids = NULL,
              *empty = NULL;
    pb_tensor_floats(a)[0] = NAN;
    pb_tensor_floats(a)[1] = -0.0f;
    pb_tensor_floats(a)[2] = -INFINITY;
    assert_ok(pb_tensor_transpose(a, 0, 1, &view, &err));
    assert_ok(pb_tensor_from_ints(f->ctx, SHAPE(2), (const int32_t[]){INT32_MIN, 50256}, &ids, &err));
    assert_ok(pb_tensor_zeros(f->ctx, PB_F32, SHAPE(2, 0), &empty, &err));
    const pb_named_tensor named[] = {
        {"blocks.0.\"quoted\"\\\n", view}, {"s", scalar}, {"\xC3\xA9\xF0\x9F\x98\x80", ids}, {"", empty}};
    const char *const metadata[] = {"recipe", "print \"hi\"\n", "seed", "3"};
    const char *path = test_path(f->folder, "out.safetensors");
    assert_ok(pb_safetensors_write(f->ctx, path, named, 4, metadata, 2, &err));
    pb_safetensors *file = NULL;
    assert_ok(pb_safetensors_open(f->ctx, path, &file, &err));
    assert_int_equal(pb_safetensors_count(file), 4);
    assert_string_equal(pb_safetensors_metadata(file, "recipe"), "print \"hi\"\n");
    uint64_t size = 0;
    assert_ok(pb_file_size(path, &size, &err));
    assert_int_equal(pb_safetensors_bytes(file), size);
    assert_int_equal((uintptr_t)pb_safetensors_at(file, 0)->data % 64, 0);
    for (size_t i = 0; i < 4; i++) {
        pb_tensor *back = NULL;
        const pb_entry *entry = pb_safetensors_find(file, named[i].name);
        assert_non_null(entry);
        assert_ok(pb_entry_load(f->ctx, entry, &back, &err));
        assert_tensor_equal(back, named[i].tensor);
        pb_tensor_unref(back);
    }
    /* writing over a file that is mapped leaves the mapping as it was */
    assert_ok(pb_safetensors_write(f->ctx, path, named + 1, 1, NULL, 0, &err));
    pb_tensor *back = NULL;
    assert_ok(pb_entry_load(f->ctx, pb_safetensors_find(file, named[2].name), &back, &err));
    assert_tensor_equal(back, ids);
    pb_tensor_unref(back);
    pb_safetensors_unref(file);
    pb_tensor *all[] = {a, view, scalar, ids, empty};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        pb_tensor_unref(all[i]);
}

static void safetensors_write__bad_names_are_refused(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    pb_tensor *t = normal(f->ctx, SHAPE(2));
    const char *path = test_path(f->folder, "out");
    static const char *const bad[] = {"\xFF", "\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "a\xC3"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_error(pb_safetensors_write(f->ctx, path, &(pb_named_tensor){bad[i], t}, 1, NULL, 0, &err),
                     PB_ERR_ARGUMENT, "UTF-8");
    assert_error(pb_safetensors_write(f->ctx, path, (pb_named_tensor[]){{"a", t}, {"a", t}}, 2, NULL, 0, &err),
                 PB_ERR_ARGUMENT, "two tensors are named 'a'");
    assert_error(pb_safetensors_write(f->ctx, path, &(pb_named_tensor){"__metadata__", t}, 1, NULL, 0, &err),
                 PB_ERR_ARGUMENT, "__metadata__");
    assert_error(pb_safetensors_write(f->ctx, path, NULL, 0, (const char *const[]){"k", "1", "k", "2"}, 2, &err),
                 PB_ERR_ARGUMENT, "'k'");
    assert_false(pb_file_exists(path));
    pb_tensor_unref(t);
}

static void writers__report_a_full_disk(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    pb_tensor *t = normal(f->ctx, SHAPE(300, 200));
    const pb_named_tensor named = {"t", t};
    const char *full = test_path(f->folder, "full"); /* a link of ours, so that nothing can happen to the device */
    assert_int_equal(symlink("/dev/full", full), 0);
    assert_error(pb_safetensors_write(f->ctx, full, &named, 1, NULL, 0, &err), PB_ERR_IO, "disk is full");
    assert_error(pb_npy_write(t, full, &err), PB_ERR_IO, "disk is full");
    assert_error(pb_csv_write(t, (const char *const[]){"a", "b"}, NULL, full, &err), PB_ERR_IO, "disk is full");
    assert_error(pb_npy_write(t, test_path(f->folder, "none/x.npy"), &err), PB_ERR_IO, "none/x.npy");
    pb_tensor_unref(t);
}

/* ---- npy ----------------------------------------------------------------------------------------------------- */

static void npy__round_trip(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    pb_tensor *base = normal(f->ctx, SHAPE(4, 3, 2)), *view = NULL, *ids = NULL, *back = NULL,
              *scalar = normal(f->ctx, 0, NULL);
    pb_tensor *row = normal(f->ctx, SHAPE(3)), *empty = normal(f->ctx, SHAPE(0, 3));
    assert_ok(pb_tensor_transpose(base, 0, 2, &view, &err));
    assert_ok(pb_tensor_from_ints(f->ctx, SHAPE(1, 2), (const int32_t[]){-7, 9}, &ids, &err));
    pb_tensor *all[] = {base, view, ids, scalar, row, empty};
    const char *path = test_path(f->folder, "t.npy");
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        assert_ok(pb_npy_write(all[i], path, &err));
        assert_ok(pb_npy_read(f->ctx, path, &back, &err));
        assert_tensor_equal(back, all[i]);
        pb_tensor_unref(back);
    }
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        pb_tensor_unref(all[i]);
}

/* A .npy file with this version, header text and data. */
static const char *write_npy(const fixture *f, int version, const char *text, const void *data, size_t size) {
    const char *path = test_path(f->folder, "raw.npy");
    char bytes[512] = "\x93NUMPY";
    size_t length = strlen(text), at = version == 1 ? 10 : 12;
    bytes[6] = (char)version;
    bytes[8] = (char)(length & 255);
    bytes[9] = (char)(length >> 8);
    memcpy(bytes + at, text, length);
    memcpy(bytes + at + length, data, size);
    put_file(path, bytes, at + length + size);
    return path;
}

static void npy_read__types_orders_versions(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    pb_tensor *t = NULL;
    const double wide[] = {1, 2, 3, 4, 5, 6};
    const char *path =
        write_npy(f, 2, "{'descr': '<f8', 'fortran_order': True, 'shape': (2, 3), }\n", wide, sizeof wide);
    assert_ok(pb_npy_read(f->ctx, path, &t, &err));
    assert_true(pb_tensor_shape(t)[0] == 2 && pb_tensor_shape(t)[1] == 3);
    static const float turned[] = {1, 3, 5, 2, 4, 6};
    assert_memory_equal(pb_tensor_floats(t), turned, sizeof turned);
    pb_tensor_unref(t);
    const int64_t ids[] = {-5, INT32_MAX};
    path = write_npy(f, 1, "{\"shape\":(2,),\"fortran_order\":False,\"descr\":\"<i8\"}", ids, sizeof ids);
    assert_ok(pb_npy_read(f->ctx, path, &t, &err));
    assert_true(pb_tensor_ints(t)[0] == -5 && pb_tensor_ints(t)[1] == INT32_MAX);
    pb_tensor_unref(t);
    const int64_t large[] = {1ll << 31};
    path = write_npy(f, 1, "{'descr': '<i8', 'fortran_order': False, 'shape': (), }", large, sizeof large);
    assert_error(pb_npy_read(f->ctx, path, &t, &err), PB_ERR_UNSUPPORTED, "is no int32");
}

static void npy_read__malformed(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    pb_tensor *t = NULL;
    static const struct {
        const char *text;
        size_t size;
        pb_status status;
        const char *message;
    } cases[] = {
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", 7, PB_ERR_FORMAT,
         "needs 2 x 4 bytes, the file has 7"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", 9, PB_ERR_FORMAT, "the file has 9"},
        {"{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }", 8, PB_ERR_UNSUPPORTED, "type '>f4'"},
        {"{'descr': '|O', 'fortran_order': False, 'shape': (2,), }", 8, PB_ERR_UNSUPPORTED, "type '|O'"},
        {"{'descr': '<f4', 'fortran_order': False}", 8, PB_ERR_FORMAT, "must all be there"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'x': 1}", 8, PB_ERR_FORMAT, "unknown key 'x'"},
        {"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", 8, PB_ERR_FORMAT,
         "duplicate key 'descr'"},
        {"{'descr': '<f4', 'fortran_order': 0, 'shape': (2,)}", 8, PB_ERR_FORMAT, "True or False"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}", 8, PB_ERR_FORMAT, "a length was expected"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}", 8, PB_ERR_FORMAT, "too large"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904,4)}", 8, PB_ERR_FORMAT,
         "more elements"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,2)}", 8, PB_ERR_UNSUPPORTED,
         "more than 8 axes"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} x", 8, PB_ERR_FORMAT, "text after"},
        {"{'descr': '<f4", 8, PB_ERR_FORMAT, "a string does not end"},
        {"{'descr'", 8, PB_ERR_FORMAT, "':' was expected"},
        {"{'descr': '<f4' 'x'", 8, PB_ERR_FORMAT, "',' or '}' was expected"},
        {"[1]", 8, PB_ERR_FORMAT, "a dictionary was expected"},
        {"", 8, PB_ERR_FORMAT, "a dictionary was expected"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *path = write_npy(f, 1, cases[i].text, "0123456789", cases[i].size);
        assert_error(pb_npy_read(f->ctx, path, &t, &err), cases[i].status, cases[i].message);
        assert_non_null(strstr(err.message, "raw.npy"));
    }
    const char *path = write_npy(f, 9, "{}", "", 0);
    assert_error(pb_npy_read(f->ctx, path, &t, &err), PB_ERR_UNSUPPORTED, "version 9");
    put_file(path, "not numpy at all", 16);
    assert_error(pb_npy_read(f->ctx, path, &t, &err), PB_ERR_FORMAT, "not a .npy file");
    put_file(path, "\x93NUMPY\x01\x00\xFF\x00{}", 12);
    assert_error(pb_npy_read(f->ctx, path, &t, &err), PB_ERR_FORMAT, "truncated within its header");
    assert_null(t);
}

/* ---- csv ----------------------------------------------------------------------------------------------------- */

static void csv_write__long_form_with_quotes(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    const int64_t shape[] = {2, 2};
    const float values[] = {0.1f, -3, NAN, 16777216};
    pb_tensor *t = NULL, *view = NULL;
    char *text = NULL;
    assert_ok(pb_tensor_from_floats(f->ctx, 2, shape, values, &t, &err));
    const char *const tokens[] = {" Paris, \"F\"", "\n"};
    const char *const *const labels[] = {NULL, tokens};
    const char *path = test_path(f->folder, "t.csv");
    assert_ok(pb_csv_write(t, (const char *const[]){"layer", "token"}, labels, path, &err));
    assert_ok(pb_file_read(f->ctx, path, 1000, &text, NULL, &err));
    assert_string_equal(text, "layer,token,value\r\n0,\" Paris, \"\"F\"\"\",0.100000001\r\n0,\"\n\",-3\r\n"
                              "1,\" Paris, \"\"F\"\"\",nan\r\n1,\"\n\",16777216\r\n");
    pb_free(text);
    assert_ok(pb_tensor_transpose(t, 0, 1, &view, &err));
    assert_ok(pb_csv_write(view, (const char *const[]){"a,b", "c"}, NULL, path, &err));
    assert_ok(pb_file_read(f->ctx, path, 1000, &text, NULL, &err));
    assert_string_equal(text, "\"a,b\",c,value\r\n0,0,0.100000001\r\n0,1,nan\r\n1,0,-3\r\n1,1,16777216\r\n");
    pb_free(text);
    pb_tensor_unref(view);
    pb_tensor_unref(t);
}

static void csv_write__large_and_scalar(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    pb_tensor *t = normal(f->ctx, SHAPE(100, 50)), *scalar = normal(f->ctx, 0, NULL);
    const char *path = test_path(f->folder, "t.csv");
    char *text = NULL;
    assert_ok(pb_csv_write(t, (const char *const[]){"r", "c"}, NULL, path, &err));
    assert_ok(pb_file_read(f->ctx, path, 1 << 20, &text, NULL, &err));
    char *line = strchr(text, '\n') + 1;
    for (int i = 0; i < 5000; i++) { /* nine digits give the float back exactly */
        char *end = NULL;
        assert_int_equal(strtol(line, &end, 10), i / 50);
        assert_int_equal(strtol(end + 1, &end, 10), i % 50);
        assert_true(strtof(end + 1, &end) == pb_tensor_floats(t)[i]);
        line = end + 2;
    }
    assert_string_equal(line, "");
    pb_free(text);
    assert_ok(pb_csv_write(scalar, NULL, NULL, path, &err));
    assert_ok(pb_file_read(f->ctx, path, 100, &text, NULL, &err));
    assert_memory_equal(text, "value\r\n", 7);
    pb_free(text);
    pb_tensor_unref(scalar);
    pb_tensor_unref(t);
}

/* ---- allocation failures ------------------------------------------------------------------------------------- */

typedef struct io_case {
    const char *path;
    pb_tensor *t;
} io_case;

static pb_status write_and_open(pb_context *ctx, void *user, pb_error *err) {
    io_case *c = user;
    pb_safetensors *file = NULL;
    pb_tensor *t = NULL;
    const char *const metadata[] = {"k", "v"};
    pb_status status = pb_safetensors_write(ctx, c->path, &(pb_named_tensor){"t", c->t}, 1, metadata, 1, err);
    if (status == PB_OK)
        status = pb_safetensors_open(ctx, c->path, &file, err);
    if (status == PB_OK)
        status = pb_entry_load(ctx, pb_safetensors_at(file, 0), &t, err);
    pb_tensor_unref(t);
    pb_safetensors_unref(file);
    return status;
}

static pb_status npy_and_csv(pb_context *ctx, void *user, pb_error *err) {
    io_case *c = user;
    pb_tensor *t = NULL;
    pb_status status = pb_npy_write(c->t, c->path, err);
    if (status == PB_OK)
        status = pb_npy_read(ctx, c->path, &t, err);
    if (status == PB_OK)
        status = pb_csv_write(t, (const char *const[]){"r", "c"}, NULL, c->path, err);
    pb_tensor_unref(t);
    return status;
}

static pb_status fortran_npy(pb_context *ctx, void *user, pb_error *err) {
    pb_tensor *t = NULL;
    pb_status status = pb_npy_read(ctx, user, &t, err);
    pb_tensor_unref(t);
    return status;
}

static void files__survive_allocation_failure(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    char path[4200], fortran[4200];
    pb_tensor *base = normal(f->ctx, SHAPE(3, 4));
    io_case c = {path, NULL};
    snprintf(path, sizeof path, "%s/x", f->folder);
    assert_ok(pb_tensor_transpose(base, 0, 1, &c.t, &err));
    assert_true(assert_survives_allocation_failure(f->ctx, write_and_open, &c) >= 12);
    assert_true(assert_survives_allocation_failure(f->ctx, npy_and_csv, &c) >= 10);
    const double wide[] = {1, 2, 3, 4, 5, 6};
    snprintf(fortran, sizeof fortran, "%s",
             write_npy(f, 1, "{'descr': '<f8', 'fortran_order': True, 'shape': (2, 3), }", wide, sizeof wide));
    assert_true(assert_survives_allocation_failure(f->ctx, fortran_npy, fortran) >= 5);
    pb_tensor_unref(c.t);
    pb_tensor_unref(base);
}

/* ---- files that others wrote --------------------------------------------------------------------------------- */

static void safetensors_open__files_of_the_shared_folder(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    static const char *const names[] = {"golden/models/files-f16/model.safetensors",
                                        "golden/models/files-bf16/model.safetensors",
                                        "golden/models/gpt2/model.safetensors"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        pb_safetensors *file = NULL;
        assert_ok(pb_safetensors_open(f->ctx, test_shared(names[i]), &file, &err));
        for (size_t k = 0; k < pb_safetensors_count(file); k++) {
            pb_tensor *t = NULL;
            const pb_entry *entry = pb_safetensors_at(file, k);
            assert_ptr_equal(pb_safetensors_find(file, entry->name), entry);
            assert_ok(pb_entry_load(f->ctx, entry, &t, &err));
            assert_int_equal(pb_tensor_count_nonfinite(t, NULL), 0);
            pb_tensor_unref(t);
        }
        pb_safetensors_unref(file);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(widen__every_half),
        cmocka_unit_test(widen__every_bfloat),
        cmocka_unit_test(widen__offsets_and_other_types),
        TEST(safetensors_open__every_type),
        TEST(safetensors_open__lying_headers),
        TEST(safetensors_open__length_field),
        TEST(safetensors_open__every_truncation_is_refused),
        TEST(safetensors_open__beyond_4_gib),
        TEST(safetensors_tensor__lies_in_the_file),
        TEST(safetensors_write__round_trip_bit_for_bit),
        TEST(safetensors_write__bad_names_are_refused),
        TEST(writers__report_a_full_disk),
        TEST(npy__round_trip),
        TEST(npy_read__types_orders_versions),
        TEST(npy_read__malformed),
        TEST(csv_write__long_form_with_quotes),
        TEST(csv_write__large_and_scalar),
        TEST(files__survive_allocation_failure),
        TEST(safetensors_open__files_of_the_shared_folder),
    };
    return cmocka_run_group_tests_name("tensorio", tests, NULL, NULL);
}
