/* `patchbay run`, `help` and `test`. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "host/commands.h"
#include "host/private.h"

/* ---- the context of a command ------------------------------------------------------------------------------------ */

static void print_warning(void *user, const char *message) {
    (void)user;
    fprintf(stderr, "patchbay: warning: %s\n", message);
}

/* Three quarters of what this process may have: of the machine's memory, or of its control group's if that is less. */
static size_t default_memory(void) {
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGE_SIZE);
    double bytes = pages > 0 && page > 0 ? (double)pages * (double)page : 4e9;
    FILE *file = fopen("/sys/fs/cgroup/memory.max", "r");
    double limit;
    if (file) {
        if (fscanf(file, "%lf", &limit) == 1 && limit > 0 && limit < bytes)
            bytes = limit;
        fclose(file);
    }
    return (size_t)(bytes * 0.75);
}

static int failed(const pb_error *err) {
    fprintf(stderr, "patchbay: %s\n", err->message);
    return 1;
}

pb_status pb_command_context(const pb_command_options *o, pb_context **out, pb_error *err) {
    pb_context_options options = {.memory_limit = o && o->memory ? o->memory : default_memory(),
                                  .threads = o ? o->threads : 0};
    PB_TRY(pb_context_create(&options, out, err));
    pb_context_on_warning(*out, print_warning, NULL);
    return PB_OK;
}

/* ---- run --------------------------------------------------------------------------------------------------------- */

static void report_files(const pb_host *host) {
    const char *list = host->written.text ? host->written.text : "";
    for (const char *line = list; *line; line += strcspn(line, "\n") + 1)
        fprintf(stderr, "wrote %.*s\n", (int)strcspn(line, "\n"), line);
}

static int report_failure(pb_status status, const pb_error *err, pb_stop_reason reason, double seconds) {
    if (status != PB_ERR_STOPPED || reason == PB_STOP_NONE)
        return failed(err);
    if (reason == PB_STOP_TIME) {
        fprintf(stderr, "patchbay: stopped: the recipe's time of %g s is over (--time SECONDS, 0 for no limit)\n",
                seconds);
        return 1;
    }
    fprintf(stderr, "patchbay: stopped by %s; nothing half-written is left behind\n",
            reason == PB_STOP_INTERRUPT ? "Ctrl-C" : "SIGTERM");
    return reason == PB_STOP_INTERRUPT ? 130 : 143;
}

int pb_command_run(const char *recipe, const pb_command_options *o) {
    pb_error err = {0};
    pb_context *ctx = NULL;
    pb_host *host = NULL;
    int code;
    pb_status status = pb_command_context(o, &ctx, &err);
    if (status != PB_OK)
        return failed(&err);
    pb_host_options options = {.recipe = recipe,
                               .output = o->output,
                               .readable = o->readable,
                               .params = o->params,
                               .seed = o->seed,
                               .trust = o->trust,
                               .gc_stress = o->gc_stress,
                               .show_progress = isatty(STDERR_FILENO) == 1};
    setvbuf(stdout, NULL, _IOLBF, 0); /* progress is seen in a log file too */
    pb_interrupt_begin(ctx, o->time);
    if (o->output) /* said now, not after an hour of computing */
        status = pb_folder_check(ctx, o->output, &err);
    if (status == PB_OK)
        status = pb_host_create(ctx, &options, &host, &err);
    if (status == PB_OK)
        status = pb_host_run_file(host, recipe, &err);
    if (status == PB_OK)
        status = pb_host_finish(host, &err);
    pb_stop_reason reason = pb_interrupt_end();
    bool printed = fflush(stdout) == 0 && !ferror(stdout);
    if (host)
        report_files(host);
    if (status != PB_OK) {
        code = report_failure(status, &err, reason, o->time);
    } else if (!printed) {
        fprintf(stderr, "patchbay: cannot write to standard output: %s\n", strerror(errno));
        code = 1;
    } else {
        if (host->caught_out_of_memory)
            fprintf(stderr, "patchbay: warning: the recipe ran out of memory on its way and went on\n");
        code = 0;
    }
    pb_host_free(host);
    pb_context_unref(ctx);
    return code;
}

/* ---- help -------------------------------------------------------------------------------------------------------- */

typedef struct help_request {
    const char *name;
    bool markdown, found;
} help_request;

/* core.help(name, markdown) -> text, was it found */
static int print_help(lua_State *L) {
    help_request *request = lua_touserdata(L, 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &PB_KEY_CORE);
    lua_getfield(L, -1, request->markdown ? "help_markdown" : "help");
    lua_pushstring(L, request->name);
    lua_call(L, 1, 2);
    request->found = lua_toboolean(L, -1);
    fputs(luaL_checkstring(L, -2), request->found ? stdout : stderr);
    return 0;
}

int pb_command_help(const char *name, bool markdown) {
    pb_error err = {0};
    pb_context *ctx = NULL;
    pb_host *host = NULL;
    help_request request = {name, markdown, false};
    pb_host_options options = {0};
    pb_status status = pb_command_context(NULL, &ctx, &err);
    if (status == PB_OK)
        status = pb_host_create(ctx, &options, &host, &err);
    if (status == PB_OK)
        status = pb_host_call(host, print_help, &request, &err);
    pb_host_free(host);
    pb_context_unref(ctx);
    if (status != PB_OK)
        return failed(&err);
    if (fflush(stdout) != 0)
        return 1;
    return request.found ? 0 : 1;
}

/* ---- test -------------------------------------------------------------------------------------------------------- */

typedef struct test_counts {
    long passed, failed, skipped;
} test_counts;

/* core.check_counts() -> passed, failed, skipped of the file that has run */
static int read_counts(lua_State *L) {
    test_counts *counts = lua_touserdata(L, 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &PB_KEY_CORE);
    lua_getfield(L, -1, "check_counts");
    lua_call(L, 0, 3);
    counts->passed += (long)luaL_checkinteger(L, -3);
    counts->failed += (long)luaL_checkinteger(L, -2);
    counts->skipped += (long)luaL_checkinteger(L, -1);
    return 0;
}

/* One file in a context of its own. False if it was stopped. */
static bool test_file(const char *path, const char *output, const pb_command_options *o, test_counts *total) {
    pb_error err = {0};
    pb_context *ctx = NULL;
    pb_host *host = NULL;
    test_counts counts = {0, 0, 0};
    double start = pb_monotonic_seconds();
    pb_host_options options = {
        .recipe = path, .output = output, .seed = o->seed, .testing = true, .gc_stress = o->gc_stress};
    pb_status status = pb_command_context(o, &ctx, &err);
    if (status != PB_OK)
        goto done;
    pb_interrupt_begin(ctx, o->time);
    status = pb_host_create(ctx, &options, &host, &err);
    if (status == PB_OK)
        status = pb_host_run_file(host, path, &err);
    pb_status ran = status;
    pb_error unused = {0};
    if (host && !pb_context_stopping(ctx) && pb_host_call(host, read_counts, &counts, &unused) != PB_OK &&
        status == PB_OK) {
        status = PB_ERR_CALLBACK;
        err = unused;
    }
    pb_stop_reason reason = pb_interrupt_end();
    if (ran == PB_ERR_STOPPED)
        snprintf(err.message, sizeof err.message, "stopped by %s",
                 reason == PB_STOP_TIME ? "the time limit" : "a signal");
    pb_host_free(host);
    if (pb_context_memory_used(ctx) != 0 && status == PB_OK)
        status = pb_fail(&err, PB_ERR_MEMORY, "%zu bytes were not given back", pb_context_memory_used(ctx));
done:
    if (status != PB_OK) {
        counts.failed++;
        printf("FAIL %s: %s\n", path, err.message);
    }
    printf("%s: %ld passed, %ld failed, %ld skipped, %.1f s\n", path, counts.passed, counts.failed, counts.skipped,
           pb_monotonic_seconds() - start);
    fflush(stdout);
    total->passed += counts.passed;
    total->failed += counts.failed;
    total->skipped += counts.skipped;
    bool stopped = status == PB_ERR_STOPPED;
    pb_context_unref(ctx);
    return !stopped;
}

static int compare_paths(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* Every NAME.lua of a folder but those that begin with '_' (helpers), sorted. False: no folder, or it cannot be read. */
static bool test_folder(const char *folder, const char *output, const pb_command_options *o, test_counts *total) {
    enum { MOST = 512 };
    DIR *dir = opendir(folder);
    if (!dir)
        return false;
    char *paths[MOST];
    size_t n = 0;
    for (struct dirent *entry; n < MOST && (entry = readdir(dir));) {
        size_t length = strlen(entry->d_name);
        if (length <= 4 || strcmp(entry->d_name + length - 4, ".lua") != 0 || entry->d_name[0] == '_' ||
            entry->d_name[0] == '.')
            continue;
        size_t size = strlen(folder) + length + 2;
        char *path = malloc(size);
        if (!path)
            break;
        snprintf(path, size, "%s%s%s", folder, folder[strlen(folder) - 1] == '/' ? "" : "/", entry->d_name);
        paths[n++] = path;
    }
    closedir(dir);
    qsort(paths, n, sizeof *paths, compare_paths);
    bool going = true;
    for (size_t i = 0; i < n; i++) {
        going = going && test_file(paths[i], output, o, total);
        free(paths[i]);
    }
    return true;
}

/* Remove what the tests wrote. */
static void remove_folder(const char *path) {
    DIR *dir = opendir(path);
    if (!dir)
        return;
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        char inside[4096];
        struct stat info;
        snprintf(inside, sizeof inside, "%s/%s", path, entry->d_name);
        if (lstat(inside, &info) == 0 && S_ISDIR(info.st_mode))
            remove_folder(inside);
        else
            unlink(inside);
    }
    closedir(dir);
    rmdir(path);
}

int pb_command_test(const char *const *paths, const pb_command_options *o) {
    const char *temporary = getenv("TMPDIR");
    char output[1024];
    snprintf(output, sizeof output, "%s/patchbay-test-XXXXXX", temporary && *temporary ? temporary : "/tmp");
    if (!mkdtemp(output)) {
        fprintf(stderr, "patchbay: cannot make a folder for what the tests write, %s: %s\n", output, strerror(errno));
        return 1;
    }
    test_counts total = {0, 0, 0};
    int code = 0;
    setvbuf(stdout, NULL, _IOLBF, 0); /* a test that hangs has said which came before it */
    for (; *paths && code == 0; paths++) {
        if (pb_file_exists(*paths)) {
            test_file(*paths, output, o, &total);
        } else if (!test_folder(*paths, output, o, &total)) {
            fprintf(stderr, "patchbay: no test file or folder '%s'\n", *paths);
            code = 2;
        }
    }
    remove_folder(output);
    printf("%ld passed, %ld failed, %ld skipped\n", total.passed, total.failed, total.skipped);
    if (code)
        return code;
    return total.failed || total.passed + total.skipped == 0;
}
