#define _XOPEN_SOURCE 700 /* nftw */
#include "support.h"

#include <errno.h>
#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- checks ------------------------------------------------------------------------------------------------------- */

void test_assert_status(pb_status got, pb_status wanted, const char *text, const pb_error *err, const char *call,
                        const char *file, int line) {
    if (got != wanted) {
        print_error("%s:%d: %s\n  gave status '%s', expected '%s'%s%s\n", file, line, call, pb_status_name(got),
                    pb_status_name(wanted), got != PB_OK ? "; message: " : "", got != PB_OK ? err->message : "");
        _fail(file, line);
    }
    if (got == PB_OK)
        return;
    if (err->message[0] == '\0') {
        print_error("%s:%d: %s\n  failed without a message\n", file, line, call);
        _fail(file, line);
    }
    if (text && !strstr(err->message, text)) {
        print_error("%s:%d: %s\n  message: %s\n  does not contain: %s\n", file, line, call, err->message, text);
        _fail(file, line);
    }
}

static void require_same_shape(const pb_tensor *a, const pb_tensor *b, const char *file, int line) {
    char text_a[128], text_b[128];
    if (pb_tensor_same_shape(a, b) && pb_tensor_dtype(a) == pb_tensor_dtype(b))
        return;
    print_error("%s:%d: shapes %s and %s (or types) differ\n", file, line,
                pb_shape_text(pb_tensor_ndim(a), pb_tensor_shape(a), text_a, sizeof text_a),
                pb_shape_text(pb_tensor_ndim(b), pb_tensor_shape(b), text_b, sizeof text_b));
    _fail(file, line);
}

void test_assert_tensor_close(const pb_tensor *a, const pb_tensor *b, double tolerance, const char *file, int line) {
    pb_error err = {0};
    double absolute = 0, relative = 0;
    require_same_shape(a, b, file, line);
    test_assert_status(pb_tensor_max_difference(a, b, &absolute, &relative, &err), PB_OK, NULL, &err,
                       "pb_tensor_max_difference", file, line);
    if (relative <= tolerance)
        return;
    print_error("%s:%d: tensors differ by %.3g of the largest value (%.3g absolute), allowed %.3g\n", file, line,
                relative, absolute, tolerance);
    _fail(file, line);
}

void test_assert_tensor_equal(const pb_tensor *a, const pb_tensor *b, const char *file, int line) {
    pb_error err = {0};
    pb_tensor *x = NULL, *y = NULL;
    require_same_shape(a, b, file, line);
    test_assert_status(pb_tensor_make_contiguous(a, &x, &err), PB_OK, NULL, &err, "make_contiguous", file, line);
    test_assert_status(pb_tensor_make_contiguous(b, &y, &err), PB_OK, NULL, &err, "make_contiguous", file, line);
    /* both types have four bytes */
    const void *left =
        pb_tensor_dtype(x) == PB_F32 ? (const void *)pb_tensor_floats(x) : (const void *)pb_tensor_ints(x);
    const void *right =
        pb_tensor_dtype(y) == PB_F32 ? (const void *)pb_tensor_floats(y) : (const void *)pb_tensor_ints(y);
    const int64_t count = pb_tensor_count(x);
    int64_t first = -1;
    for (int64_t i = 0; i < count && first < 0; i++)
        if (memcmp((const char *)left + 4 * i, (const char *)right + 4 * i, 4) != 0)
            first = i;
    double va = 0, vb = 0;
    if (first >= 0 && pb_tensor_dtype(x) == PB_F32) {
        va = pb_tensor_floats(x)[first];
        vb = pb_tensor_floats(y)[first];
    } else if (first >= 0) {
        va = pb_tensor_ints(x)[first];
        vb = pb_tensor_ints(y)[first];
    }
    pb_tensor_unref(x);
    pb_tensor_unref(y);
    if (first < 0)
        return;
    print_error("%s:%d: tensors differ at flat index %lld: %.9g and %.9g\n", file, line, (long long)first, va, vb);
    _fail(file, line);
}

void test_assert_close(double a, double b, double tolerance, const char *file, int line) {
    if (fabs(a - b) <= tolerance)
        return;
    print_error("%s:%d: %.9g and %.9g differ by more than %.3g\n", file, line, a, b, tolerance);
    _fail(file, line);
}

/* ---- contexts, files ------------------------------------------------------------------------------------------------ */

pb_context *test_context(void) {
    pb_error err = {0};
    pb_context *ctx = NULL;
    assert_ok(pb_context_create(NULL, &ctx, &err));
    return ctx;
}

int test_make_context(void **state) {
    *state = test_context();
    return 0;
}

int test_drop_context(void **state) {
    size_t used = pb_context_memory_used(*state);
    pb_context_unref(*state);
    if (used)
        print_error("%zu bytes were not released\n", used);
    return used ? -1 : 0;
}

char *test_folder(void) {
    const char *parent = getenv("TMPDIR");
    char *path = malloc(4096);
    assert_non_null(path);
    snprintf(path, 4096, "%s/patchbay-test-XXXXXX", parent && parent[0] ? parent : "/tmp");
    if (!mkdtemp(path)) {
        print_error("cannot make the folder %s: %s\n", path, strerror(errno));
        free(path);
        fail();
    }
    return path;
}

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *place) {
    (void)info;
    (void)kind;
    (void)place;
    return remove(path);
}

void test_folder_remove(char *path) {
    if (!path)
        return;
    nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    free(path);
}

const char *test_path(const char *folder, const char *name) {
    enum { RING = 8, SIZE = 4096 };
    static char buffers[RING][SIZE];
    static int next;
    char *buffer = buffers[next++ % RING];
    int n = snprintf(buffer, SIZE, "%s/%s", folder, name);
    assert_true(n > 0 && n < SIZE);
    return buffer;
}

static const char *setting(const char *variable, const char *otherwise) {
    const char *value = getenv(variable);
    return value && value[0] ? value : otherwise;
}

const char *test_data(const char *name) { return test_path(setting("PB_TEST_DATA", "tests"), name); }

const char *test_shared(const char *name) {
    const char *path = test_path(setting("PB_SHARED", "../shared"), name);
    if (access(path, R_OK) != 0) {
        print_message("skipped: there is no %s here (PB_SHARED names the folder)\n", path);
        skip();
    }
    return path;
}

model_shape test_shape_gpt2(uint64_t seed) {
    return (model_shape){
        .layers = 2, .heads = 4, .d_model = 24, .d_mlp = 40, .vocab = 64, .positions = 32, .seed = seed};
}

model_shape test_shape_llama(uint64_t seed) {
    return (model_shape){.llama = true,
                         .layers = 2,
                         .heads = 4,
                         .kv_heads = 2,
                         .d_head = 8,
                         .d_model = 24,
                         .d_mlp = 40,
                         .vocab = 64,
                         .positions = 32,
                         .untied = true,
                         .seed = seed};
}

pb_model *test_model(pb_context *ctx, const model_shape *shape) {
    pb_error err = {0};
    pb_model *model = NULL;
    char *folder = test_folder();
    int64_t parameters = model_write(folder, shape);
    pb_status status = parameters > 0 ? pb_model_open(ctx, folder, NULL, &model, &err)
                                      : pb_fail(&err, PB_ERR_IO, "cannot write a model into %s", folder);
    test_folder_remove(folder);
    test_assert_status(status, PB_OK, NULL, &err, "test_model", __FILE__, __LINE__);
    assert_int_equal(pb_model_parameters(model), parameters);
    return model;
}

void test_tokens(int vocab, uint64_t seed, int32_t *ids, size_t n) {
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)(pb_rng_word(seed, 0, i) % (uint32_t)vocab);
}

test_pair test_pair_make(const char *folder, size_t n, size_t same) {
    enum { MOST = 64 };
    test_pair p = {.ctx = test_context()};
    pb_error err = {0};
    int32_t ids[MOST], others[MOST], answer = 3, wrong = 8;
    assert_true(n <= MOST && same <= n);
    assert_ok(pb_model_open(p.ctx, folder, NULL, &p.model, &err));
    test_tokens(pb_model_vocab(p.model), 9, ids, n);
    test_tokens(pb_model_vocab(p.model), 4, others, n);
    memcpy(others, ids, same * sizeof *ids);
    assert_ok(pb_run_create(p.model, ids, n, &p.run, &err));
    assert_ok(pb_run_create(p.model, others, n, &p.other, &err));
    pb_metric_options o = {
        .kind = PB_METRIC_LOGIT_DIFF, .answers = &answer, .n_answers = 1, .wrong = &wrong, .n_wrong = 1};
    assert_ok(pb_metric_create(p.ctx, &o, &p.metric, &err));
    return p;
}

void test_pair_drop(test_pair *p) {
    pb_metric_unref(p->metric);
    pb_run_unref(p->other);
    pb_run_unref(p->run);
    pb_model_unref(p->model);
    assert_int_equal(pb_context_memory_used(p->ctx), 0);
    pb_context_unref(p->ctx);
}

/* ---- injected allocation failures ------------------------------------------------------------------------------------- */

uint64_t test_allocation_failures(pb_context *ctx, test_body body, void *user, const char *file, int line) {
    enum { ENOUGH = 100000 };
    for (uint64_t n = 1; n < ENOUGH; n++) {
        pb_error err = {0};
        size_t used = pb_context_memory_used(ctx);
        pb_context_fail_allocation(ctx, n);
        pb_status status = body(ctx, user, &err);
        pb_context_fail_allocation(ctx, 0);
        if (status == PB_OK)
            return n - 1;
        size_t left = pb_context_memory_used(ctx);
        if (status != PB_ERR_MEMORY || err.message[0] == '\0' || left != used) {
            print_error("%s:%d: allocation %llu failed: status '%s', message '%s', %lld bytes leaked\n", file, line,
                        (unsigned long long)n, pb_status_name(status), err.message, (long long)left - (long long)used);
            _fail(file, line);
        }
    }
    print_error("%s:%d: still failing after %d injected failures\n", file, line, ENOUGH);
    _fail(file, line);
    return 0;
}
