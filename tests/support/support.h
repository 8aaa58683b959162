/* What the C tests share. Includes cmocka in the order that it needs; a failing check leaves the test by longjmp. */
#ifndef PB_TEST_SUPPORT_H
#define PB_TEST_SUPPORT_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include "model_writer.h"
#include "patchbay/patchbay.h"

/* ---- checks ------------------------------------------------------------------------------------------------------- */

/* The call succeeds; else the test fails and shows the error's message. Uses the variable `err` of the caller. */
#define assert_ok(call) test_assert_status((call), PB_OK, NULL, &err, #call, __FILE__, __LINE__)
/* The call fails with this status, and the message contains text (NULL: only that there is a message). */
#define assert_error(call, status, text) test_assert_status((call), (status), (text), &err, #call, __FILE__, __LINE__)
void test_assert_status(pb_status got, pb_status wanted, const char *text, const pb_error *err, const char *call,
                        const char *file, int line);

/* Same shape, and max |a - b| <= tolerance * max |b| (equal infinities are equal, NaN never is). Prints the difference. */
#define assert_tensor_close(a, b, tolerance) test_assert_tensor_close((a), (b), (tolerance), __FILE__, __LINE__)
/* Same shape, same bits. */
#define assert_tensor_equal(a, b) test_assert_tensor_equal((a), (b), __FILE__, __LINE__)
void test_assert_tensor_close(const pb_tensor *a, const pb_tensor *b, double tolerance, const char *file, int line);
void test_assert_tensor_equal(const pb_tensor *a, const pb_tensor *b, const char *file, int line);
#define assert_close(a, b, tolerance) test_assert_close((a), (b), (tolerance), __FILE__, __LINE__)
void test_assert_close(double a, double b, double tolerance, const char *file, int line); /* |a - b| <= tolerance */

/* ---- contexts, files ------------------------------------------------------------------------------------------------ */

/* A context without limits; the test fails when it cannot be made. */
pb_context *test_context(void);
/* A test whose *state is such a context; what it made must be gone at its end. */
#define WITH_CONTEXT(test) cmocka_unit_test_setup_teardown(test, test_make_context, test_drop_context)
int test_make_context(void **state);
int test_drop_context(void **state);

/* A new empty folder under TMPDIR, its path in a malloc'ed string; test_folder_remove deletes it with what is in it and
 * frees the path. */
char *test_folder(void);
void test_folder_remove(char *path);
/* "folder/name" in a static ring of buffers (the last eight results are valid). */
const char *test_path(const char *folder, const char *name);
/* Below the tests folder (PB_TEST_DATA, by default "tests"): test_data("golden/gpt2/config.json"). The same buffers. */
const char *test_data(const char *name);
/* Below the shared folder (PB_SHARED, by default "../shared"). Where it has no such file or folder the running test is
 * skipped, and says what it missed: ask before anything is made, which nobody would release. */
const char *test_shared(const char *name);

/* A gpt2-shaped and a llama-shaped model of a few kilobytes, the same for the same seed (2 layers, 4 heads, llama: 2 kv
 * heads and an explicit head size; vocabulary 64; 32 positions). Shapes can be changed before model_write. */
model_shape test_shape_gpt2(uint64_t seed);
model_shape test_shape_llama(uint64_t seed);
/* Written into a temporary folder, opened, and the folder removed (the mapped file stays readable). */
pb_model *test_model(pb_context *ctx, const model_shape *shape);
/* n token ids of the model, a function of seed alone. */
void test_tokens(int vocab, uint64_t seed, int32_t *ids, size_t n);

/* A model, two runs of n tokens with the first `same` of them in common, and a metric of their last logits, in a context of their own;
 * test_pair_drop checks that nothing of it is left. */
typedef struct test_pair {
    pb_context *ctx;
    pb_model *model;
    pb_run *run, *other;
    pb_metric *metric;
} test_pair;
test_pair test_pair_make(const char *folder, size_t n, size_t same);
void test_pair_drop(test_pair *pair);

/* ---- injected allocation failures ------------------------------------------------------------------------------------- */

/* Runs body(ctx, user, err) with the 1st, 2nd, ... allocation failing until it succeeds. body makes one thing and releases it
 * again. Each failure must be PB_ERR_MEMORY with a message, and leave as much memory in use as there was before: a leak
 * fails the test. Returns the number of allocations that were failed. */
typedef pb_status (*test_body)(pb_context *ctx, void *user, pb_error *err);
#define assert_survives_allocation_failure(ctx, body, user)                                                            \
    test_allocation_failures((ctx), (body), (user), __FILE__, __LINE__)
uint64_t test_allocation_failures(pb_context *ctx, test_body body, void *user, const char *file, int line);

#endif
