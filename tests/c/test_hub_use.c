/* The hub as a user meets it: patchbay get, pb.load and patchbay info with a model that is downloaded from a server on this
 * machine. Runs the patchbay beside this test's folder (build/patchbay for build/tests/test_hub_use). */
#include "support.h"

#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "hub_server.h"
#include "patchbay/hub.h"

#define COMMIT "0123456789abcdef0123456789abcdef01234567"
#define TOKEN  "hf_tokenThatNobodyMaySee"

enum { OUTPUT = 1 << 15 };

/* One program that runs, and what it printed once it has ended. */
typedef struct program {
    pid_t pid;
    char out_path[4096], err_path[4096];
    int terminal; /* our end; -1: standard error is a file */
    char out[OUTPUT], err[OUTPUT];
} program;

static char *folder; /* of the group */
static pb_context *ctx;
static char *config, *weights; /* of a real model */
static hub_file files[4];
static const hub_revision revisions[] = {{"main", COMMIT, files}};
static hub_server *server;
static int n_caches;

static int setup_group(void **state) {
    static const char *const variables[] = {"HF_HUB_CACHE",
                                            "HUGGINGFACE_HUB_CACHE",
                                            "HF_TOKEN_PATH",
                                            "HF_HUB_OFFLINE",
                                            "HUGGING_FACE_HUB_TOKEN",
                                            "http_proxy",
                                            "HTTP_PROXY",
                                            "all_proxy",
                                            "ALL_PROXY"};
    (void)state;
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++)
        unsetenv(variables[i]);
    pb_error err = {0};
    folder = test_folder();
    ctx = test_context();
    model_shape shape = test_shape_gpt2(5);
    assert_true(model_write(folder, &shape) > 0);
    size_t n_config, n_weights;
    assert_ok(pb_file_read(ctx, test_path(folder, "config.json"), 1 << 20, &config, &n_config, &err));
    assert_ok(pb_file_read(ctx, test_path(folder, "model.safetensors"), 1 << 24, &weights, &n_weights, &err));
    files[0] = (hub_file){"config.json", config, n_config, false};
    files[1] = (hub_file){"model.safetensors", weights, n_weights, true};
    server = hub_server_start("org/real", revisions, 1);
    setenv("HF_ENDPOINT", hub_server_url(server), 1);
    return 0;
}

static int teardown_group(void **state) {
    (void)state;
    hub_server_stop(server);
    pb_free(config);
    pb_free(weights);
    pb_context_unref(ctx);
    test_folder_remove(folder);
    return 0;
}

/* Each test has a cache of its own. */
static int setup(void **state) {
    char home[64];
    (void)state;
    snprintf(home, sizeof home, "home%d", n_caches++);
    setenv("HF_HOME", test_path(folder, home), 1);
    unsetenv("HF_TOKEN");
    hub_server_rules(server, (hub_rules){0});
    hub_server_forget(server);
    return 0;
}

/* ---- running ------------------------------------------------------------------------------------------------------ */

static void start(program *p, bool terminal, const char *command, const char *argument) {
    char path[4096];
    static int n;
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 16);
    assert_true(length > 0);
    path[length] = '\0';
    for (int i = 0; i < 2; i++)
        *strrchr(path, '/') = '\0';
    strcat(path, "/patchbay");
    *p = (program){.terminal = -1};
    snprintf(p->out_path, sizeof p->out_path, "%s/out%d", folder, n);
    snprintf(p->err_path, sizeof p->err_path, "%s/err%d", folder, n++);
    int other = -1;
    if (terminal)
        assert_int_equal(openpty(&p->terminal, &other, NULL, NULL, NULL), 0);
    fflush(NULL);
    p->pid = fork();
    assert_true(p->pid >= 0);
    if (p->pid == 0) {
        int out = open(p->out_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        int err = terminal ? other : open(p->err_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        dup2(out, STDOUT_FILENO);
        dup2(err, STDERR_FILENO);
        execl(path, "patchbay", command, argument, (char *)NULL);
        _exit(127);
    }
    if (other >= 0)
        close(other);
}

static void read_text(const char *path, char text[OUTPUT]) {
    FILE *file = fopen(path, "r");
    size_t n = file ? fread(text, 1, OUTPUT - 1, file) : 0;
    text[n] = '\0';
    if (file)
        fclose(file);
}

/* The exit code; out and err are filled. */
static int finish(program *p) {
    int status = 0;
    size_t n = 0;
    ssize_t got;
    while (p->terminal >= 0 && (got = read(p->terminal, p->err + n, OUTPUT - 1 - n)) > 0)
        n += (size_t)got;
    p->err[n] = '\0';
    assert_int_equal(waitpid(p->pid, &status, 0), p->pid);
    read_text(p->out_path, p->out);
    if (p->terminal >= 0)
        close(p->terminal);
    else
        read_text(p->err_path, p->err);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void expect(program *p, int code, const char *text) {
    int got = finish(p);
    if (got != code || !strstr(p->err, text))
        fail_msg("exit code %d, expected %d; standard error, expected to contain \"%s\":\n%s", got, code, text, p->err);
}

static void expect_run(const char *command, const char *argument, int code, const char *text, program *p) {
    start(p, false, command, argument);
    expect(p, code, text);
}

/* Waits until the storage has been asked. */
static void await_storage(void) {
    hub_request list[64];
    for (int tries = 0; tries < 1000; tries++) {
        size_t n = hub_server_requests(server, list, 64);
        for (size_t i = 0; i < n && i < 64; i++)
            if (list[i].storage)
                return;
        usleep(10000);
    }
    fail_msg("the storage was never asked");
}

static int count_storage(long *range) {
    hub_request list[64];
    size_t n = hub_server_requests(server, list, 64);
    int count = 0;
    for (size_t i = 0; i < n && i < 64; i++)
        if (list[i].storage) {
            count++;
            *range = (long)list[i].range_from;
        }
    return count;
}

static const char *recipe(const char *text) {
    const char *path = test_path(folder, "recipe.lua");
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
    return path;
}

/* ---- tests ---------------------------------------------------------------------------------------------------------- */

static void cli_get__real_model__loads_and_runs(void **state) {
    (void)state;
    static program p;
    expect_run("run", recipe("require('patchbay').load 'org/real'"), 1, "To download it: patchbay get org/real", &p);
    assert_non_null(strstr(p.err, "is not in the hub's cache"));
    expect_run("get", "org/real", 0, "commit 0123456789ab, 2 files", &p);
    char expected[4300];
    snprintf(expected, sizeof expected, "%s/hub/models--org--real/snapshots/%s\n", getenv("HF_HOME"), COMMIT);
    assert_string_equal(p.out, expected);
    assert_null(strchr(p.err, '\r'));
    expect_run("run",
               recipe("local pb = require 'patchbay'\n"
                      "local one = pb.load 'org/real'\n"
                      "for _, name in ipairs { 'org/real@main', 'org/real@0123456' } do\n"
                      "  local other = pb.load(name)\n"
                      "  local a, b = one:run { 1, 2, 3 }.logits, other:run { 1, 2, 3 }.logits\n"
                      "  assert((a - b):abs():max() == 0)\n"
                      "end\n"
                      "print(one.family, one.name)"),
               0, "", &p);
    assert_string_equal(p.out, "gpt2\torg/real\n");
    expect_run("info", "org/real", 0, "", &p);
    assert_non_null(strstr(p.out, "gpt2"));
    expect_run("run", recipe("require('patchbay').load 'org/reel'"), 1, "did you mean 'org/real'?", &p);
    expect_run("run", recipe("require('patchbay').load 'org/real@v9'"), 1,
               "not its revision 'v9' (revisions there: main", &p);
    expect_run("get", "org/real", 0, "downloaded now: 0", &p);
}

static void cli_get__interrupted__goes_on(void **state) {
    (void)state;
    static program p;
    long range = -2;
    hub_server_rules(server, (hub_rules){.cuts = 1, .cut_at = 1000, .stall = true});
    start(&p, false, "get", "org/real");
    await_storage();
    usleep(100000);
    kill(p.pid, SIGINT);
    expect(&p, 130, "stopped by Ctrl-C; the same command goes on from here");
    assert_string_equal(p.out, "");
    hub_server_forget(server);
    expect_run("get", "org/real", 0, "downloaded now: 1", &p);
    assert_int_equal(count_storage(&range), 1);
    assert_true(range == 1000 || range == -1);
}

static void cli_get__two_at_once__one_downloads(void **state) {
    (void)state;
    static program first, second;
    long range = -2;
    hub_server_rules(server, (hub_rules){.pause_ms = 700});
    start(&first, false, "get", "org/real");
    await_storage();
    start(&second, false, "get", "org/real");
    expect(&second, 0, "model.safetensors is being downloaded by another process; waiting for it");
    assert_non_null(strstr(second.err, "downloaded now: 0"));
    expect(&first, 0, "downloaded now: 2");
    assert_string_equal(first.out, second.out);
    assert_int_equal(count_storage(&range), 1);
}

static void cli_get__terminal__has_a_bar_that_is_erased(void **state) {
    (void)state;
    static program p;
    hub_server_rules(server, (hub_rules){.pause_ms = 250});
    start(&p, true, "get", "org/real");
    expect(&p, 0, "model.safetensors [############");
    const char *last = strrchr(p.err, '[');
    assert_non_null(last);
    assert_non_null(strstr(last, "K"
                                 "org/real: commit")); /* "\033[K": the line was erased before the last message */
}

static void cli_get__token__is_in_no_output(void **state) {
    (void)state;
    static program p;
    setenv("HF_TOKEN", TOKEN, 1);
    hub_server_rules(server, (hub_rules){.token = "hf_other", .echo_token = true});
    expect_run("get", "org/real", 1, "refuses 'org/real' (401) to the token of HF_TOKEN", &p);
    assert_null(strstr(p.err, TOKEN));
    hub_server_rules(server, (hub_rules){.token = TOKEN, .corrupt = -1});
    expect_run("get", "org/real", 1, "is damaged", &p);
    assert_null(strstr(p.err, TOKEN));
    hub_server_rules(server, (hub_rules){.token = TOKEN});
    expect_run("get", "org/real", 0, "2 files", &p);
    assert_null(strstr(p.err, TOKEN));
}

static void cli_get__wrong_usage__is_told(void **state) {
    (void)state;
    static program p;
    expect_run("get", NULL, 2, "get needs a model of the hub", &p);
    expect_run("get", "no/such/model", 1, "no name of a model on the hub", &p);
    expect_run("get", "org/unreal", 1, "no model 'org/unreal' on the hub", &p);
    expect_run("got", NULL, 2, "did you mean 'get'?", &p);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup(name, setup)
    static const struct CMUnitTest tests[] = {
        TEST(cli_get__real_model__loads_and_runs), TEST(cli_get__interrupted__goes_on),
        TEST(cli_get__two_at_once__one_downloads), TEST(cli_get__terminal__has_a_bar_that_is_erased),
        TEST(cli_get__token__is_in_no_output),     TEST(cli_get__wrong_usage__is_told),
    };
    return cmocka_run_group_tests(tests, setup_group, teardown_group);
}
