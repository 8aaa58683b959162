/* Errors, contexts, allocation, strings, suggestions, files, JSON, hashes. */
#include "support/support.h"

#include <locale.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/strbuf.h"
#include "base/suggest.h"

/* ---- errors -------------------------------------------------------------------------------------------------- */

static void error_fail__writes_status_and_message(void **state) {
    (void)state;
    pb_error err = {0};
    assert_int_equal(pb_fail(&err, PB_ERR_IO, "cannot open '%s'", "x"), PB_ERR_IO);
    assert_int_equal(err.status, PB_ERR_IO);
    assert_string_equal(err.message, "cannot open 'x'");
    assert_int_equal(pb_fail(NULL, PB_ERR_FORMAT, "nobody reads this"), PB_ERR_FORMAT);
}

static void error_fail__long_text_is_cut_between_characters(void **state) {
    (void)state;
    pb_error err = {0};
    char text[3 * PB_ERROR_MAX];
    for (size_t i = 0; i + 3 < sizeof text; i += 2)
        memcpy(text + i, "\xC3\xA9", 3); /* two bytes each */
    pb_fail(&err, PB_ERR_FORMAT, "%s", text);
    size_t length = strlen(err.message);
    assert_in_range(length, PB_ERROR_MAX - 5, PB_ERROR_MAX - 1);
    assert_string_equal(err.message + length - 3, "...");
    assert_int_equal((length - 3) % 2, 0);
    pb_fail(&err, PB_ERR_FORMAT, "x%s", text);
    length = strlen(err.message);
    assert_string_equal(err.message + length - 3, "...");
    assert_int_equal((length - 4) % 2, 0);
}

static void error_prefix__goes_in_front(void **state) {
    (void)state;
    pb_error err = {0};
    pb_fail(&err, PB_ERR_FORMAT, "bad header");
    assert_int_equal(pb_error_prefix(&err, PB_ERR_FORMAT, "file '%s': ", "m.bin"), PB_ERR_FORMAT);
    assert_string_equal(err.message, "file 'm.bin': bad header");
    for (int i = 0; i < 2000; i++)
        pb_error_prefix(&err, PB_ERR_FORMAT, "again: ");
    assert_memory_equal(err.message, "again: again: ", 14);
    assert_string_equal(err.message + strlen(err.message) - 3, "...");
    assert_int_equal(pb_error_prefix(NULL, PB_ERR_IO, "x"), PB_ERR_IO);
}

static void error_fail__message_may_be_its_own_argument(void **state) {
    (void)state;
    pb_error err = {0};
    pb_fail(&err, PB_ERR_IO, "inner");
    pb_fail(&err, PB_ERR_FORMAT, "outer (%s)", err.message);
    assert_string_equal(err.message, "outer (inner)");
}

static void status_name__all_differ(void **state) {
    (void)state;
    for (int a = PB_OK; a <= PB_ERR_CALLBACK; a++)
        for (int b = PB_OK; b < a; b++)
            assert_string_not_equal(pb_status_name((pb_status)a), pb_status_name((pb_status)b));
    assert_string_equal(pb_status_name(PB_ERR_MEMORY), "memory");
    assert_string_equal(pb_status_name((pb_status)99), "unknown");
}

/* ---- context ------------------------------------------------------------------------------------------------- */

static void context_create__refuses_absurd_threads(void **state) {
    (void)state;
    pb_error err = {0};
    pb_context *ctx = NULL;
    assert_error(pb_context_create(&(pb_context_options){.threads = -1}, &ctx, &err), PB_ERR_ARGUMENT, "threads is -1");
    assert_null(ctx);
    assert_ok(pb_context_create(&(pb_context_options){.threads = 3, .memory_limit = 1000}, &ctx, &err));
    assert_int_equal(pb_context_threads(ctx), 3);
    assert_int_equal(pb_context_memory_limit(ctx), 1000);
    pb_context_unref(ctx);
    pb_context_unref(NULL);
}

static void context_default__has_a_thread(void **state) {
    assert_true(pb_context_threads(*state) >= 1);
    assert_int_equal(pb_context_memory_limit(*state), 0);
}

static void context_block__keeps_the_context_alive(void **state) {
    (void)state;
    pb_context *ctx = test_context();
    char *text = pb_strdup(ctx, "still here");
    pb_context_unref(ctx);
    assert_string_equal(text, "still here"); /* ASan sees it if the context went */
    pb_free(text);
}

static void context_stop__is_seen_and_cleared(void **state) {
    pb_error err = {0};
    assert_ok(pb_context_check(*state, &err));
    pb_context_stop(*state);
    assert_true(pb_context_stopping(*state));
    assert_error(pb_context_check(*state, &err), PB_ERR_STOPPED, "stopped");
    pb_context_clear_stop(*state);
    assert_ok(pb_context_check(*state, &err));
}

typedef struct heard {
    int calls;
    double done, total;
    char text[64];
} heard;

static void hear_progress(void *user, const char *what, double done, double total) {
    heard *h = user;
    h->calls++;
    h->done = done;
    h->total = total;
    snprintf(h->text, sizeof h->text, "%s", what);
}

static void hear_warning(void *user, const char *message) {
    heard *h = user;
    h->calls++;
    snprintf(h->text, sizeof h->text, "%s", message);
}

static void context_handlers__are_called(void **state) {
    heard h = {0};
    pb_context_progress(*state, "nobody listens", 1, 2);
    pb_context_warn(*state, "nobody listens");
    pb_context_on_progress(*state, hear_progress, &h);
    pb_context_progress(*state, "sweep", 3, 4);
    assert_int_equal(h.calls, 1);
    assert_true(h.done == 3 && h.total == 4);
    assert_string_equal(h.text, "sweep");
    pb_context_on_warning(*state, hear_warning, &h);
    pb_context_warn(*state, "layer %d is odd", 7);
    assert_int_equal(h.calls, 2);
    assert_string_equal(h.text, "layer 7 is odd");
}

/* ---- allocation ---------------------------------------------------------------------------------------------- */

static void alloc__blocks_are_aligned_and_charged(void **state) {
    pb_context *ctx = *state;
    for (size_t size = 0; size < 300; size += 7) {
        size_t before = pb_context_memory_used(ctx);
        unsigned char *block = pb_alloc_zero(ctx, size, 1);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % 64, 0);
        for (size_t i = 0; i < size; i++)
            assert_int_equal(block[i], 0);
        assert_true(pb_context_memory_used(ctx) >= before + size);
        pb_free(block);
        assert_int_equal(pb_context_memory_used(ctx), before);
    }
    pb_free(NULL);
}

static void alloc__overflow_is_refused(void **state) {
    assert_null(pb_alloc(*state, SIZE_MAX, 2));
    assert_null(pb_alloc(*state, SIZE_MAX / 2, 3));
    assert_null(pb_alloc(*state, 1, SIZE_MAX));
    assert_null(pb_alloc(*state, 1, SIZE_MAX - 8));
    assert_null(pb_strndup(*state, "x", SIZE_MAX));
    assert_int_equal(pb_context_memory_used(*state), 0);
}

static void realloc__keeps_contents_alignment_and_old_block(void **state) {
    pb_context *ctx = *state;
    unsigned char *block = pb_realloc(ctx, NULL, 10, 1);
    assert_non_null(block);
    for (unsigned i = 0; i < 10; i++)
        block[i] = (unsigned char)(i + 1);
    for (size_t size = 11; size < 3000000; size = size * 2 + 13) {
        block = pb_realloc(ctx, block, size, 1);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % 64, 0);
        for (unsigned i = 0; i < 10; i++)
            assert_int_equal(block[i], i + 1);
    }
    size_t used = pb_context_memory_used(ctx);
    pb_context_set_memory_limit(ctx, used + 100);
    assert_null(pb_realloc(ctx, block, 30000000, 1));
    assert_null(pb_realloc(ctx, block, SIZE_MAX, 3));
    pb_context_fail_allocation(ctx, 1);
    assert_null(pb_realloc(ctx, block, 5, 1));
    assert_int_equal(block[9], 10);
    assert_int_equal(pb_context_memory_used(ctx), used);
    block = pb_realloc(ctx, block, 5, 1);
    assert_int_equal(block[4], 5);
    assert_true(pb_context_memory_used(ctx) < 300);
    pb_free(block);
}

static void budget__is_obeyed_and_the_error_says_so(void **state) {
    pb_context *ctx = *state;
    pb_error err = {0};
    pb_context_set_memory_limit(ctx, 1 << 20);
    void *half = pb_alloc(ctx, 1 << 19, 1);
    assert_non_null(half);
    assert_null(pb_alloc(ctx, 1 << 19, 1)); /* the headers do not fit any more */
    assert_error(pb_fail_memory(&err, ctx, 1 << 19, "a big thing"), PB_ERR_MEMORY, "budget of 1.0 MiB");
    assert_non_null(strstr(err.message, "0.5 MiB for a big thing"));
    assert_false(pb_context_charge(ctx, 1 << 20));
    assert_true(pb_context_charge(ctx, 1000));
    pb_context_discharge(ctx, 1000);
    pb_free(half);
    assert_int_equal(pb_context_memory_used(ctx), 0);
    assert_in_range(pb_context_memory_peak(ctx), 1 << 19, 1 << 20);
    pb_context_reset_memory_peak(ctx);
    assert_int_equal(pb_context_memory_peak(ctx), 0);
    assert_true(pb_context_charge(ctx, 1 << 20)); /* exactly the limit */
    assert_false(pb_context_charge(ctx, 1));
    assert_false(pb_context_charge(ctx, SIZE_MAX));
    pb_context_discharge(ctx, 1 << 20);
}

static void fault_injection__fails_the_nth_once(void **state) {
    pb_context *ctx = *state;
    pb_context_fail_allocation(ctx, 3);
    void *a = pb_alloc(ctx, 1, 1), *b = pb_alloc(ctx, 1, 1), *c = pb_alloc(ctx, 1, 1), *d = pb_alloc(ctx, 1, 1);
    assert_non_null(a);
    assert_non_null(b);
    assert_null(c);
    assert_non_null(d);
    assert_int_equal(pb_context_allocations(ctx), 3);
    pb_free(a);
    pb_free(b);
    pb_free(d);
}

/* ---- strings ------------------------------------------------------------------------------------------------- */

static void strbuf__grows_and_is_taken(void **state) {
    pb_error err = {0};
    pb_strbuf b;
    char *text = NULL;
    size_t length = 0;
    pb_strbuf_init(&b, *state);
    for (int i = 0; i < 1000; i++)
        pb_strbuf_printf(&b, "%d,", i);
    pb_strbuf_add(&b, "end");
    pb_strbuf_add_char(&b, '.');
    assert_ok(pb_strbuf_take(&b, &text, &length, "text", &err));
    assert_int_equal(length, strlen(text));
    assert_int_equal(length, 10 * 2 + 90 * 3 + 900 * 4 + 4);
    assert_string_equal(text + length - 8, "999,end.");
    pb_free(text);
    assert_ok(pb_strbuf_take(&b, &text, NULL, "text", &err)); /* empty again */
    assert_string_equal(text, "");
    pb_free(text);
}

static pb_status build_string(pb_context *ctx, void *user, pb_error *err) {
    (void)user;
    pb_strbuf b;
    char *text = NULL;
    pb_strbuf_init(&b, ctx);
    for (int i = 0; i < 400; i++)
        pb_strbuf_printf(&b, "%s %d", "number", i);
    PB_TRY(pb_strbuf_take(&b, &text, NULL, "a list", err));
    pb_free(text);
    return PB_OK;
}

static void strbuf__failure_is_sticky_and_reported(void **state) {
    assert_true(assert_survives_allocation_failure(*state, build_string, NULL) >= 3);
}

static void number_text__ignores_the_locale(void **state) {
    (void)state;
    char text[64];
    char *old = strdup(setlocale(LC_NUMERIC, NULL));
    bool comma = setlocale(LC_NUMERIC, "de_DE.UTF-8") || setlocale(LC_NUMERIC, "fr_FR.UTF-8");
    assert_string_equal(pb_number_text(1234.5, 9, text, sizeof text), "1234.5");
    assert_string_equal(pb_number_text(-2.5e-7, 9, text, sizeof text), "-2.5e-07");
    setlocale(LC_NUMERIC, old);
    free(old);
    if (!comma)
        print_message("no locale with a decimal comma here: only C was tried\n");
    assert_string_equal(pb_number_text((double)-NAN, 5, text, sizeof text), "nan");
    assert_string_equal(pb_number_text((double)-INFINITY, 5, text, sizeof text), "-inf");
    assert_string_equal(pb_number_text(3, 5, text, sizeof text), "3");
}

static void suggest__finds_the_near_one_or_none(void **state) {
    (void)state;
    static const char *const names[] = {"hook_resid_pre", "hook_resid_post", "hook_mlp_out", "attn.hook_z", "logits"};
    const size_t n = sizeof names / sizeof names[0];
    assert_string_equal(pb_suggest("hook_resid_prt", names, n), "hook_resid_pre");
    assert_string_equal(pb_suggest("hook_reisd_post", names, n), "hook_resid_post");
    assert_string_equal(pb_suggest("HOOK_MLP_OUT", names, n), "hook_mlp_out");
    assert_string_equal(pb_suggest("logit", names, n), "logits");
    assert_string_equal(pb_suggest("z", names, n), "attn.hook_z");
    assert_string_equal(pb_suggest("form", (const char *const[]){"farn", "from"}, 2), "from"); /* a swap counts once */
    assert_null(pb_suggest("embedding", names, n));
    assert_null(pb_suggest("", names, n));
    assert_null(pb_suggest("x", names, 0));
}

/* ---- files --------------------------------------------------------------------------------------------------- */

static int make_folder_too(void **state) {
    static struct {
        pb_context *ctx;
        char *folder;
    } both;
    both.ctx = test_context();
    both.folder = test_folder();
    *state = &both;
    return 0;
}

static int drop_folder_too(void **state) {
    struct {
        pb_context *ctx;
        char *folder;
    } *both = *state;
    size_t used = pb_context_memory_used(both->ctx);
    test_folder_remove(both->folder);
    pb_context_unref(both->ctx);
    return used ? -1 : 0;
}

#define WITH_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder_too, drop_folder_too)
#define CTX(state)        (*(pb_context **)*(state))
#define FOLDER(state)     (((char **)*(state))[1])

static void assert_contents(pb_context *ctx, const char *path, const char *wanted) {
    pb_error err = {0};
    char *text = NULL;
    size_t size = 0;
    assert_ok(pb_file_read(ctx, path, 1 << 20, &text, &size, &err));
    assert_int_equal(size, strlen(wanted));
    assert_string_equal(text, wanted);
    pb_free(text);
}

static int files_in(const char *folder) {
    char command[4200];
    int count = -1;
    snprintf(command, sizeof command, "ls -A '%s' | wc -l", folder);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    assert_int_equal(fscanf(pipe, "%d", &count), 1);
    pclose(pipe);
    return count;
}

static void file_write__is_read_and_mapped_back(void **state) {
    pb_error err = {0};
    const char *path = test_path(FOLDER(state), "a.txt");
    assert_ok(pb_file_write(CTX(state), path, "hello", 5, &err));
    assert_contents(CTX(state), path, "hello");
    assert_ok(pb_file_write(CTX(state), path, "", 0, &err));
    assert_contents(CTX(state), path, "");
    assert_ok(pb_file_write(CTX(state), path, "other", 5, &err));
    pb_mapping map = {0};
    assert_ok(pb_file_map(path, &map, &err));
    assert_int_equal(map.size, 5);
    assert_memory_equal(map.data, "other", 5);
    pb_file_unmap(&map);
    pb_file_unmap(&map);
    uint64_t size = 0;
    assert_ok(pb_file_size(path, &size, &err));
    assert_int_equal(size, 5);
    assert_int_equal(files_in(FOLDER(state)), 1);
    assert_true(pb_file_exists(path));
    assert_false(pb_folder_exists(path));
    assert_true(pb_folder_exists(FOLDER(state)));
}

static void file_map__names_what_is_wrong(void **state) {
    pb_error err = {0};
    pb_mapping map = {0};
    char *text = NULL;
    assert_error(pb_file_map(test_path(FOLDER(state), "none"), &map, &err), PB_ERR_IO, "No such file");
    assert_non_null(strstr(err.message, "/none'"));
    assert_error(pb_file_map(FOLDER(state), &map, &err), PB_ERR_IO, "it is a folder");
    assert_error(pb_file_map("/dev/null", &map, &err), PB_ERR_IO, "not a regular file");
    const char *fifo = test_path(FOLDER(state), "fifo");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_error(pb_file_map(fifo, &map, &err), PB_ERR_IO, "not a regular file"); /* and does not hang */
    const char *path = test_path(FOLDER(state), "big");
    assert_ok(pb_file_write(CTX(state), path, "12345", 5, &err));
    assert_error(pb_file_read(CTX(state), path, 4, &text, NULL, &err), PB_ERR_FORMAT, "at most 4");
    const char *empty = test_path(FOLDER(state), "empty");
    assert_ok(pb_file_write(CTX(state), empty, "", 0, &err));
    assert_ok(pb_file_map(empty, &map, &err));
    assert_null(map.data);
    pb_file_unmap(&map);
}

static void file_writer__large_pieces_arrive_in_order(void **state) {
    pb_error err = {0};
    enum { SIZE = 300000 };
    const char *path = test_path(FOLDER(state), "large");
    unsigned char *bytes = malloc(SIZE);
    for (size_t i = 0; i < SIZE; i++)
        bytes[i] = (unsigned char)(i * 2654435761u >> 13);
    pb_file_writer *w = NULL;
    assert_ok(pb_file_writer_open(CTX(state), path, &w, &err));
    size_t step = 1;
    for (size_t at = 0; at < SIZE; at += step, step = step * 3 + 1) {
        if (step > SIZE - at)
            step = SIZE - at;
        assert_ok(pb_file_writer_add(w, bytes + at, step, &err));
    }
    assert_false(pb_file_exists(path)); /* not before the commit */
    assert_ok(pb_file_writer_commit(w, &err));
    pb_mapping map = {0};
    assert_ok(pb_file_map(path, &map, &err));
    assert_int_equal(map.size, SIZE);
    assert_memory_equal(map.data, bytes, SIZE);
    pb_file_unmap(&map);
    free(bytes);
}

static void file_writer__drop_leaves_the_old_file(void **state) {
    pb_error err = {0};
    const char *path = test_path(FOLDER(state), "kept");
    assert_ok(pb_file_write(CTX(state), path, "old", 3, &err));
    pb_file_writer *w = NULL;
    assert_ok(pb_file_writer_open(CTX(state), path, &w, &err));
    assert_ok(pb_file_writer_add(w, "new", 3, &err));
    pb_file_writer_drop(w);
    assert_contents(CTX(state), path, "old");
    assert_int_equal(files_in(FOLDER(state)), 1);
}

static void file_write__full_disk_leaves_the_old_file(void **state) {
    pb_error err = {0};
    enum { SIZE = 200000 };
    const char *path = test_path(FOLDER(state), "kept");
    char *bytes = calloc(1, SIZE);
    assert_ok(pb_file_write(CTX(state), path, "old", 3, &err));
    /* A limit on file sizes stands in for the full disk: the write fails half way. */
    struct rlimit old, small = {.rlim_cur = 100000};
    void (*old_handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small.rlim_max = old.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    pb_status status = pb_file_write(CTX(state), path, bytes, SIZE, &err);
    setrlimit(RLIMIT_FSIZE, &old);
    signal(SIGXFSZ, old_handler);
    free(bytes);
    assert_error(status, PB_ERR_IO, "File too large");
    assert_non_null(strstr(err.message, path));
    assert_contents(CTX(state), path, "old");
    assert_int_equal(files_in(FOLDER(state)), 1);
}

/* Through links in the test's own folder: a writer that renamed over its target would replace the link, not the
 * machine's device. */
static void file_write__device_is_written_directly(void **state) {
    pb_error err = {0};
    struct stat info;
    const char *full = test_path(FOLDER(state), "full"), *null = test_path(FOLDER(state), "null");
    assert_int_equal(symlink("/dev/full", full), 0);
    assert_int_equal(symlink("/dev/null", null), 0);
    assert_error(pb_file_write(CTX(state), full, "x", 1, &err), PB_ERR_IO, "disk is full");
    assert_ok(pb_file_write(CTX(state), null, "x", 1, &err));
    assert_true(lstat(full, &info) == 0 && S_ISLNK(info.st_mode));
    assert_true(lstat(null, &info) == 0 && S_ISLNK(info.st_mode));
    assert_int_equal(files_in(FOLDER(state)), 2);
}

static void file_write__refuses_folders_and_names_missing_ones(void **state) {
    pb_error err = {0};
    assert_error(pb_file_write(CTX(state), FOLDER(state), "x", 1, &err), PB_ERR_IO, "it is a folder");
    assert_error(pb_file_write(CTX(state), test_path(FOLDER(state), "none/x"), "x", 1, &err), PB_ERR_IO, "none/x");
    const char *file = test_path(FOLDER(state), "file");
    assert_ok(pb_file_write(CTX(state), file, "x", 1, &err));
    assert_error(pb_file_write(CTX(state), test_path(file, "below"), "x", 1, &err), PB_ERR_IO, "Not a directory");
    if (geteuid() == 0) {
        print_message("root may write anywhere: the folder without permission was not tried\n");
        return;
    }
    const char *locked = test_path(FOLDER(state), "locked");
    assert_ok(pb_folder_create(CTX(state), locked, &err));
    assert_int_equal(chmod(locked, 0500), 0);
    assert_error(pb_file_write(CTX(state), test_path(locked, "x"), "x", 1, &err), PB_ERR_IO, "Permission denied");
}

static void file_write__follows_links_and_keeps_permissions(void **state) {
    pb_error err = {0};
    struct stat info;
    const char *target = test_path(FOLDER(state), "target"), *link = test_path(FOLDER(state), "link");
    assert_ok(pb_file_write(CTX(state), target, "old", 3, &err));
    assert_int_equal(chmod(target, 0640), 0);
    assert_int_equal(symlink("target", link), 0);
    assert_ok(pb_file_write(CTX(state), link, "new", 3, &err));
    assert_contents(CTX(state), target, "new");
    assert_int_equal(lstat(link, &info), 0);
    assert_true(S_ISLNK(info.st_mode));
    assert_int_equal(stat(target, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0640);
}

static void path__join_name_folder(void **state) {
    static const char *const joins[][3] = {
        {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"", "b", "./b"}, {"/", "b", "/b"}, {"a", "/b", "/b"}};
    for (size_t i = 0; i < sizeof joins / sizeof joins[0]; i++) {
        char *path = pb_path_join(*state, joins[i][0], joins[i][1]);
        assert_string_equal(path, joins[i][2]);
        pb_free(path);
    }
    static const char *const parts[][3] = {{"a/b/c", "a/b", "c"}, {"c", ".", "c"}, {"/c", "/", "c"}, {"a/", "a", ""}};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        char *folder = pb_path_folder(*state, parts[i][0]);
        assert_string_equal(folder, parts[i][1]);
        assert_string_equal(pb_path_name(parts[i][0]), parts[i][2]);
        pb_free(folder);
    }
}

static void folder_create__makes_all_above(void **state) {
    pb_error err = {0};
    const char *deep = test_path(FOLDER(state), "a/b//c/");
    assert_ok(pb_folder_create(CTX(state), deep, &err));
    assert_true(pb_folder_exists(deep));
    assert_ok(pb_folder_create(CTX(state), deep, &err));
    assert_ok(pb_folder_create(CTX(state), "/", &err));
    const char *file = test_path(FOLDER(state), "a/file");
    assert_ok(pb_file_write(CTX(state), file, "x", 1, &err));
    assert_error(pb_folder_create(CTX(state), test_path(file, "below"), &err), PB_ERR_IO, "a/file");
    assert_error(pb_folder_create(CTX(state), "", &err), PB_ERR_ARGUMENT, "empty");
}

static pb_status write_and_read(pb_context *ctx, void *user, pb_error *err) {
    char *text = NULL;
    PB_TRY(pb_file_write(ctx, user, "text", 4, err));
    PB_TRY(pb_file_read(ctx, user, 100, &text, NULL, err));
    pb_free(text);
    return PB_OK;
}

static void file_write__survives_allocation_failure(void **state) {
    char path[4200];
    snprintf(path, sizeof path, "%s/file", FOLDER(state));
    assert_true(assert_survives_allocation_failure(CTX(state), write_and_read, path) >= 4);
    assert_int_equal(files_in(FOLDER(state)), 1);
}

/* ---- JSON ---------------------------------------------------------------------------------------------------- */

static json_t *parsed(const char *text) {
    pb_error err = {0};
    json_t *value = NULL;
    assert_ok(pb_json_parse(text, strlen(text), "config.json", &value, &err));
    return value;
}

static void json_parse__errors_name_file_and_line(void **state) {
    (void)state;
    pb_error err = {0};
    json_t *value = NULL;
    const char *bad = "{\n  \"a\": 1,\n  oops\n}";
    assert_error(pb_json_parse(bad, strlen(bad), "config.json", &value, &err), PB_ERR_FORMAT, "config.json: line 3");
    const char *twice = "{\"a\": 1, \"a\": 2}";
    assert_error(pb_json_parse(twice, strlen(twice), "c", &value, &err), PB_ERR_FORMAT, "duplicate");
    assert_error(pb_json_parse("{} x", 4, "c", &value, &err), PB_ERR_FORMAT, "c: line 1");
    assert_error(pb_json_parse("", 0, "c", &value, &err), PB_ERR_FORMAT, "c:");
    assert_error(pb_json_parse(NULL, 0, "c", &value, &err), PB_ERR_FORMAT, "c:");
    value = parsed("\"a\\u0000b\"");
    assert_int_equal(json_string_length(value), 3);
    json_decref(value);
}

static void json_load__caps_the_size(void **state) {
    pb_error err = {0};
    json_t *value = NULL;
    const char *path = test_path(FOLDER(state), "config.json");
    assert_ok(pb_file_write(CTX(state), path, "{\"n\": 3}", 8, &err));
    assert_error(pb_json_load(CTX(state), path, 7, &value, &err), PB_ERR_FORMAT, "8 bytes");
    assert_ok(pb_json_load(CTX(state), path, 8, &value, &err));
    json_decref(value);
}

static void json_get__right_kinds(void **state) {
    (void)state;
    pb_error err = {0};
    json_t *object = parsed(
        "{\"i\": 12, \"whole\": 64.0, \"r\": 0.5, \"t\": true, \"s\": \"x\", \"n\": null, \"a\": [1], \"o\": {}}");
    int64_t i = 0;
    double r = 0;
    bool b = false;
    const char *s = NULL;
    const json_t *j = NULL;
    assert_ok(pb_json_int(object, "c", "i", 1, 100, &i, &err));
    assert_int_equal(i, 12);
    assert_ok(pb_json_int(object, "c", "whole", 1, 100, &i, &err));
    assert_int_equal(i, 64);
    assert_ok(pb_json_number(object, "c", "i", &r, &err));
    assert_true(r == 12);
    assert_ok(pb_json_number(object, "c", "r", &r, &err));
    assert_true(r == 0.5);
    assert_ok(pb_json_bool(object, "c", "t", &b, &err));
    assert_true(b);
    assert_ok(pb_json_string(object, "c", "s", &s, &err));
    assert_string_equal(s, "x");
    assert_ok(pb_json_array(object, "c", "a", &j, &err));
    assert_int_equal(json_array_size(j), 1);
    assert_ok(pb_json_object(object, "c", "o", &j, &err));
    assert_ok(pb_json_int_or(object, "c", "n", 1, 100, 7, &i, &err)); /* null counts as absent */
    assert_int_equal(i, 7);
    assert_ok(pb_json_int_or(object, "c", "i", 1, 100, 7, &i, &err));
    assert_int_equal(i, 12);
    assert_ok(pb_json_string_or(object, "c", "none", NULL, &s, &err));
    assert_null(s);
    assert_ok(pb_json_number_or(object, "c", "none", 2.5, &r, &err));
    assert_true(r == 2.5);
    assert_ok(pb_json_bool_or(object, "c", "none", true, &b, &err));
    assert_true(b);
    assert_ok(pb_json_array_or(object, "c", "none", &j, &err));
    assert_null(j);
    assert_ok(pb_json_object_or(object, "c", "o", &j, &err));
    assert_non_null(j);
    json_decref(object);
}

static void json_get__errors_say_expected_and_got(void **state) {
    (void)state;
    pb_error err = {0};
    json_t *object = parsed(
        "{\"n_head\": \"x\", \"big\": 7e9, \"half\": 0.5, \"zero\": 0, \"list\": [1,2], \"nul\": \"a\\u0000b\"}");
    int64_t i = -5;
    double r = 0;
    const char *s = NULL;
    assert_error(pb_json_int(object, "config.json", "n_head", 1, INT32_MAX, &i, &err), PB_ERR_FORMAT,
                 "config.json: \"n_head\" must be a positive integer, got \"x\"");
    assert_error(pb_json_int(object, "config.json", "n_layer", 1, INT32_MAX, &i, &err), PB_ERR_FORMAT,
                 "config.json: \"n_layer\" is missing; it must be a positive integer");
    assert_error(pb_json_int(object, "c", "zero", 1, 100, &i, &err), PB_ERR_FORMAT, "a positive integer, got 0");
    assert_error(pb_json_int(object, "c", "big", 1, INT32_MAX, &i, &err), PB_ERR_FORMAT, "at most 2147483647");
    assert_error(pb_json_int(object, "c", "half", 0, 5, &i, &err), PB_ERR_FORMAT, "an integer from 0 to 5, got 0.5");
    assert_error(pb_json_int_or(object, "c", "n_head", 1, 5, 1, &i, &err), PB_ERR_FORMAT, "got \"x\"");
    assert_error(pb_json_number(object, "c", "list", &r, &err), PB_ERR_FORMAT, "must be a number, got [1,2]");
    assert_error(pb_json_string(object, "c", "nul", &s, &err), PB_ERR_FORMAT, "without NUL");
    assert_int_equal(i, -5);
    json_decref(object);
    char text[16];
    object = parsed("\"a rather long string\"");
    assert_string_equal(pb_json_text(object, text, sizeof text), "\"a rather lo...");
    json_decref(object);
}

/* ---- hashes -------------------------------------------------------------------------------------------------- */

static void sha256__known_answers(void **state) {
    pb_error err = {0};
    char text[PB_SHA256_TEXT];
    assert_ok(pb_sha256_buffer(CTX(state), "abc", 3, text, &err));
    assert_string_equal(text, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_ok(pb_sha256_buffer(CTX(state), NULL, 0, text, &err));
    assert_string_equal(text, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    const char *path = test_path(FOLDER(state), "abc");
    assert_ok(pb_file_write(CTX(state), path, "abc", 3, &err));
    assert_ok(pb_sha256_file(CTX(state), path, text, &err));
    assert_string_equal(text, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    pb_context_stop(CTX(state));
    assert_error(pb_sha256_file(CTX(state), path, text, &err), PB_ERR_STOPPED, "stopped");
}

static pb_status hash_something(pb_context *ctx, void *user, pb_error *err) {
    char text[PB_SHA256_TEXT];
    (void)user;
    return pb_sha256_buffer(ctx, "abc", 3, text, err);
}

static void sha256__survives_allocation_failure(void **state) {
    assert_int_equal(assert_survives_allocation_failure(*state, hash_something, NULL), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_fail__writes_status_and_message),
        cmocka_unit_test(error_fail__long_text_is_cut_between_characters),
        cmocka_unit_test(error_prefix__goes_in_front),
        cmocka_unit_test(error_fail__message_may_be_its_own_argument),
        cmocka_unit_test(status_name__all_differ),
        cmocka_unit_test(context_create__refuses_absurd_threads),
        WITH_CONTEXT(context_default__has_a_thread),
        cmocka_unit_test(context_block__keeps_the_context_alive),
        WITH_CONTEXT(context_stop__is_seen_and_cleared),
        WITH_CONTEXT(context_handlers__are_called),
        WITH_CONTEXT(alloc__blocks_are_aligned_and_charged),
        WITH_CONTEXT(alloc__overflow_is_refused),
        WITH_CONTEXT(realloc__keeps_contents_alignment_and_old_block),
        WITH_CONTEXT(budget__is_obeyed_and_the_error_says_so),
        WITH_CONTEXT(fault_injection__fails_the_nth_once),
        WITH_CONTEXT(strbuf__grows_and_is_taken),
        WITH_CONTEXT(strbuf__failure_is_sticky_and_reported),
        cmocka_unit_test(number_text__ignores_the_locale),
        cmocka_unit_test(suggest__finds_the_near_one_or_none),
        WITH_FOLDER(file_write__is_read_and_mapped_back),
        WITH_FOLDER(file_map__names_what_is_wrong),
        WITH_FOLDER(file_writer__large_pieces_arrive_in_order),
        WITH_FOLDER(file_writer__drop_leaves_the_old_file),
        WITH_FOLDER(file_write__full_disk_leaves_the_old_file),
        WITH_FOLDER(file_write__device_is_written_directly),
        WITH_FOLDER(file_write__refuses_folders_and_names_missing_ones),
        WITH_FOLDER(file_write__follows_links_and_keeps_permissions),
        WITH_CONTEXT(path__join_name_folder),
        WITH_FOLDER(folder_create__makes_all_above),
        WITH_FOLDER(file_write__survives_allocation_failure),
        cmocka_unit_test(json_parse__errors_name_file_and_line),
        WITH_FOLDER(json_load__caps_the_size),
        cmocka_unit_test(json_get__right_kinds),
        cmocka_unit_test(json_get__errors_say_expected_and_got),
        WITH_FOLDER(sha256__known_answers),
        WITH_CONTEXT(sha256__survives_allocation_failure),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
