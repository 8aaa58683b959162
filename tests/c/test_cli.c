/* The program as a user meets it: exit codes, messages, signals, the progress line, a disk that is full. Runs the patchbay
 * beside this test's folder (build/patchbay for build/tests/test_cli). */
#include "support/support.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST_ARGUMENTS = 12, OUTPUT = 1 << 16 };

/* What a run of the program gave. code: exit code, or 128 + signal when it was killed by one. */
typedef struct result {
    int code;
    char out[OUTPUT], err[OUTPUT];
    double seconds; /* from the last signal sent, or from the start */
} result;

typedef struct run_options {
    const char *out_path; /* standard output goes there */
    int signal;           /* sent after delay seconds, 0: none */
    double delay;
    const char *until; /* ... or as soon as standard error says this */
    bool terminal;     /* standard error is a terminal */
} run_options;

static char *folder; /* of this group: recipes and what they write */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static const char *program(char *buffer, size_t size) {
    ssize_t n = readlink("/proc/self/exe", buffer, size - 16);
    assert_true(n > 0);
    buffer[n] = '\0';
    for (int i = 0; i < 2; i++) { /* tests/test_cli */
        char *slash = strrchr(buffer, '/');
        assert_non_null(slash);
        *slash = '\0';
    }
    strcat(buffer, "/patchbay");
    assert_int_equal(access(buffer, X_OK), 0);
    return buffer;
}

static void write_file(const char *name, const char *text) {
    FILE *file = fopen(test_path(folder, name), "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

/* Both streams until the child closes them or is gone, sending the signal on the way. */
static void collect(result *r, pid_t child, int out, int err, const run_options *o) {
    double start = now();
    bool sent = o->signal == 0;
    int fds[2] = {out, err};
    char *texts[2] = {r->out, r->err};
    size_t lengths[2] = {0, 0};
    r->err[0] = '\0';
    while (fds[0] >= 0 || fds[1] >= 0) {
        struct pollfd polls[2] = {{fds[0], POLLIN, 0}, {fds[1], POLLIN, 0}};
        poll(polls, 2, 20);
        if (!sent && (now() - start >= o->delay || (o->until && strstr(r->err, o->until)))) {
            kill(child, o->signal);
            sent = true;
            start = now();
        }
        for (int i = 0; i < 2; i++) {
            if (fds[i] < 0 || !(polls[i].revents & (POLLIN | POLLHUP | POLLERR)))
                continue;
            ssize_t n = read(fds[i], texts[i] + lengths[i], OUTPUT - 1 - lengths[i]);
            if (n > 0)
                texts[i][lengths[i] += (size_t)n] = '\0';
            else if (n == 0 || errno != EINTR) /* a terminal whose other end is gone reads as EIO */
                fds[i] = -1;
        }
    }
    texts[0][lengths[0]] = texts[1][lengths[1]] = '\0';
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    r->seconds = now() - start;
    r->code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static result *run_with(const run_options *o, const char *const *arguments) {
    static result r;
    char path[4096];
    int out[2], err[2];
    assert_int_equal(pipe(out), 0);
    if (o->terminal)
        assert_int_equal(openpty(&err[0], &err[1], NULL, NULL, NULL), 0);
    else
        assert_int_equal(pipe(err), 0);
    const char *argv[MOST_ARGUMENTS + 2] = {program(path, sizeof path)};
    for (int i = 0; arguments[i]; i++)
        argv[i + 1] = arguments[i];
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        int to = o->out_path ? open(o->out_path, O_WRONLY) : out[1];
        dup2(to, STDOUT_FILENO);
        dup2(err[1], STDERR_FILENO);
        close(out[0]);
        close(err[0]);
        signal(SIGPIPE, SIG_DFL);
        execv(path, (char *const *)argv);
        _exit(127);
    }
    close(out[1]);
    close(err[1]);
    collect(&r, child, out[0], err[0], o);
    close(out[0]);
    close(err[0]);
    return &r;
}

#define run(...)                run_with(&(run_options){0}, (const char *const[]){__VA_ARGS__, NULL})
#define run_under(options, ...) run_with(options, (const char *const[]){__VA_ARGS__, NULL})

static void assert_says(const result *r, int code, const char *text) {
    if (r->code != code || (text && !strstr(r->err, text)))
        fail_msg("exit code %d, expected %d; standard error, expected to contain \"%s\":\n%s\nstandard output:\n%s",
                 r->code, code, text ? text : "", r->err, r->out);
}

/* ---- usage ------------------------------------------------------------------------------------------------------- */

static void cli__wrong_usage__exit_code_2_and_what_is_wrong(void **state) {
    (void)state;
    assert_says(run_with(&(run_options){0}, (const char *const[]){NULL}), 2, "patchbay run RECIPE.lua");
    assert_says(run("rum"), 2, "unknown command 'rum'; did you mean 'run'?");
    assert_says(run("recipe.lua"), 2, "patchbay run recipe.lua");
    assert_says(run("run"), 2, "run needs a recipe");
    assert_says(run("run", "a.lua", "b.lua"), 2, "'b.lua' is one argument too many");
    assert_says(run("run", "a.lua", "1a=2"), 2, "'1a=2': a parameter's name");
    assert_says(run("run", "a.lua", "--sed", "3"), 2, "unknown option '--sed'; did you mean '--seed'?");
    assert_says(run("run", "a.lua", "--seed", "x"), 2, "--seed needs an integer, got 'x'");
    assert_says(run("run", "a.lua", "--seed"), 2, "--seed needs a value");
    assert_says(run("run", "a.lua", "--memory", "12Q"), 2, "--memory needs a size");
    assert_says(run("run", "a.lua", "--memory", "-1G"), 2, "--memory needs a size");
    assert_says(run("run", "a.lua", "--threads", "0"), 2, "--threads needs a number");
    assert_says(run("run", "a.lua", "--time", "soon"), 2, "--time needs a number");
    assert_says(run("run", "a.lua", "--trust=yes"), 2, "--trust takes no value");
    assert_says(run("info", "facts", "more"), 2, "'more' is one argument too many");
    assert_says(run("info", "a=1"), 2, "only run takes parameters");
    assert_says(run("test"), 2, "test needs files");
    assert_says(run("test", "/nothing/here"), 2, "no test file or folder");
}

static void cli__version_and_help(void **state) {
    (void)state;
    result *r = run("--version");
    assert_int_equal(r->code, 0);
    assert_string_equal(r->out, "patchbay " PATCHBAY_VERSION "\n");
    r = run("--help");
    assert_int_equal(r->code, 0);
    assert_non_null(strstr(r->out, "--memory SIZE"));
    r = run("help", "tensor:select");
    assert_int_equal(r->code, 0);
    assert_non_null(strstr(r->out, "t:select(axis, index) -> view"));
    assert_says(run("help", "tensor:selec"), 1, "did you mean 'tensor:select'?");
    r = run("help", "--markdown");
    assert_int_equal(r->code, 0);
    assert_non_null(strstr(r->out, "### tensor:select"));
}

static void cli__info__names_blas_kernels_and_the_model(void **state) {
    (void)state;
    result *r = run("info", "facts");
    assert_says(r, 0, NULL);
    const char *const parts[] = {"OpenBLAS",
                                 "kernels",
                                 "threads",
                                 "layers     6",
                                 "parameters 1460224",
                                 "BF16",
                                 "byte-level BPE",
                                 "SHA-256    ",
                                 "a run of 16     tokens keeps ",
                                 "a run of 64     tokens keeps ",
                                 "sweeps of a prompt of 16 tokens",
                                 "resid_pre, layer x pos                  96 variants",
                                 "z, layer x head                         24 variants",
                                 "z, layer x head x pos                  384 variants",
                                 "blocks.{layer}.attn.hook_z",
                                 "[pos, head 4, d_head 32]"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!strstr(r->out, parts[i]))
            fail_msg("info does not say '%s':\n%s", parts[i], r->out);
    assert_null(strstr(r->out, "passes over the weights"));
    assert_says(run("info", "fact"), 1, "no model 'fact'; did you mean 'facts'?");
    r = run("info", "facts", "--tokens", "40");
    assert_says(r, 0, NULL);
    assert_non_null(strstr(r->out, "a run of 40     tokens keeps "));
    assert_null(strstr(r->out, "a run of 64"));
    assert_non_null(strstr(r->out, "resid_pre, layer x pos                 240 variants"));
    assert_says(run("info", "facts", "--tokens", "none"), 2, "--tokens needs");
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

static void cli__recipe__parameters_seed_output(void **state) {
    (void)state;
    write_file("hello.lua", "local pb = require 'patchbay'\n"
                            "local arg = pb.params { name = 'nobody', n = 1 }\n"
                            "print(arg.name, arg.n, pb.seed)\n"
                            "pb.write('sub/out.txt', arg.name)\n");
    const char *recipe = test_path(folder, "hello.lua"), *out = test_path(folder, "there");
    result *r = run("run", recipe, "name=you=me", "n=3", "-o", out, "--seed", "9", "--threads=1", "--memory", "1.5GiB");
    assert_says(r, 0, "wrote ");
    assert_string_equal(r->out, "you=me\t3\t9\n");
    assert_int_equal(access(test_path(folder, "there/sub/out.txt"), R_OK), 0);
    assert_says(run("run", recipe, "nme=x"), 1, "no parameter 'nme'; did you mean 'name'?");
    assert_says(run("run", "/nothing/here.lua"), 1, "'/nothing/here.lua'");
}

/* Weights of 26 MB under a budget of 16: one line says that they are streamed, and the recipe prints what it prints without. */
static void cli__weights_beyond_the_memory_limit__streamed_with_one_line(void **state) {
    (void)state;
    char text[4096], without[256];
    const char *model = test_path(folder, "large");
    const model_shape shape = {
        .layers = 8, .heads = 8, .d_model = 256, .d_mlp = 1024, .vocab = 500, .positions = 64, .seed = 1};
    assert_int_equal(mkdir(model, 0700), 0);
    assert_true(model_write(model, &shape) > 0);
    snprintf(text, sizeof text,
             "local pb = require 'patchbay'\n"
             "local model = pb.load '%s'\n"
             "local run = model:run { 1, 2, 3 }\n"
             "print(run.logits:get(2, 7), pb.metric.logit(5)(run:patched { { site = 'z', layer = 3, value = 0 } }))\n"
             "print(model.streamed)\n",
             model);
    write_file("large.lua", text);
    result *r = run("run", test_path(folder, "large.lua"));
    assert_says(r, 0, NULL);
    assert_string_equal(r->err, "");
    char *flag = strstr(r->out, "false");
    assert_non_null(flag);
    snprintf(without, sizeof without, "%.*strue\n", (int)(flag - r->out), r->out);
    r = run("run", test_path(folder, "large.lua"), "--memory", "16M");
    assert_says(r, 0, "patchbay: warning: model 'large' is streamed");
    assert_string_equal(r->out, without);
    assert_ptr_equal(strchr(r->err, '\n'), r->err + strlen(r->err) - 1); /* one line */
    assert_says(run("run", test_path(folder, "large.lua"), "--memory", "3M"), 1, "largest layer");
    r = run("info", model);
    assert_says(r, 0, NULL);
    assert_null(strstr(r->out, "streamed"));
}

static void cli__error__line_and_exit_code_1(void **state) {
    (void)state;
    write_file("bad.lua", "#!/usr/bin/env -S patchbay run\nlocal pb = require 'patchbay'\npb.zeros(2):select(0, 7)\n");
    result *r = run("run", test_path(folder, "bad.lua"));
    assert_says(r, 1, "bad.lua:3: index 7 is out of range");
    assert_string_equal(r->out, "");
}

static void cli__output_that_cannot_be_written__says_so(void **state) {
    (void)state;
    write_file("lines.lua", "for i = 1, 20000 do print 'a line of text' end\n");
    const char *recipe = test_path(folder, "lines.lua");
    assert_says(run_under((&(run_options){.out_path = "/dev/full"}), "run", recipe), 1,
                "cannot write to standard output");
    write_file("word.lua", "print 'x'\n");
    assert_says(run_under((&(run_options){.out_path = "/dev/full"}), "run", test_path(folder, "word.lua")), 1,
                "cannot write to standard output");
    write_file("write.lua", "require 'patchbay'.write('a.txt', 'x')\n");
    assert_says(run("run", test_path(folder, "write.lua"), "-o", "/proc/nowhere"), 1,
                "cannot make the folder '/proc/nowhere'");
    write_file("busy.lua", "print 'computing'\n");
    result *r = run("run", test_path(folder, "busy.lua"), "-o", test_path(folder, "word.lua/deeper/out"));
    assert_says(r, 1, "word.lua");
    assert_string_equal(r->out, ""); /* before the recipe began */
    assert_says(run("run", test_path(folder, "busy.lua"), "-o", test_path(folder, "word.lua")), 1,
                "a folder was expected");
}

/* ---- stopping ---------------------------------------------------------------------------------------------------- */

static const char ENDLESS[] = "while true do pcall(function() while true do end end) end\n";

/* A sweep of minutes, on a model that this test writes. */
static void write_long_sweep(void) {
    const char *model = test_path(folder, "model");
    if (mkdir(model, 0700) == 0) {
        const model_shape shape = {
            .layers = 4, .heads = 8, .d_model = 256, .d_mlp = 1024, .vocab = 100, .positions = 640, .seed = 1};
        assert_true(model_write(model, &shape) > 0);
    }
    char text[4096];
    snprintf(text, sizeof text,
             "local pb = require 'patchbay'\n"
             "local a, b = {}, {}\n"
             "for i = 1, 640 do a[i], b[i] = i %% 97, i %% 89 end\n"
             "local model = pb.load '%s'\n"
             "local clean, corrupt = model:run(a), model:run(b)\n"
             "print 'sweeping'\n"
             "local ok = pcall(corrupt.sweep, corrupt, { site = 'resid_pre', over = { 'layer', 'pos' }, from = clean, "
             "metric = pb.metric.logit(3) })\n"
             "print('not stopped', ok)\n",
             model);
    write_file("long.lua", text);
}

static void cli__ctrl_c__ends_an_endless_recipe(void **state) {
    (void)state;
    write_file("endless.lua", ENDLESS);
    const char *recipe = test_path(folder, "endless.lua");
    result *r = run_under((&(run_options){.signal = SIGINT, .delay = 0.5}), "run", recipe);
    assert_says(r, 130, "stopped by Ctrl-C");
    assert_true(r->seconds < 1.0);
    assert_says(run_under((&(run_options){.signal = SIGTERM, .delay = 0.5}), "run", recipe), 143, "stopped by SIGTERM");
    r = run("run", recipe, "--time", "0.3");
    assert_says(r, 1, "time of 0.3 s is over");
}

static void cli__ctrl_c__ends_a_sweep_within_a_second(void **state) {
    (void)state;
    write_long_sweep();
    result *r = run_under((&(run_options){.signal = SIGINT, .delay = 1.5}), "run", test_path(folder, "long.lua"));
    assert_says(r, 130, "stopped by Ctrl-C");
    assert_null(strstr(r->out, "not stopped"));
    if (r->seconds >= 1.0)
        fail_msg("it went on for %.2f s", r->seconds);
}

static void cli__progress__on_a_terminal_only_and_erased(void **state) {
    (void)state;
    write_long_sweep();
    result *r = run_under((&(run_options){.terminal = true, .signal = SIGINT, .delay = 100, .until = " left"}), "run",
                          test_path(folder, "long.lua"));
    assert_says(r, 130, "%, ");
    assert_non_null(strstr(r->err, " left"));
    const char *last = r->err;
    for (const char *at = r->err; (at = strstr(at, "\r\033[K")); at++)
        last = at;
    assert_null(strchr(last, '%')); /* the last thing done to the line was to erase it */
    r = run("run", test_path(folder, "long.lua"), "--time", "2.5");
    assert_null(strchr(r->err, '%'));
}

/* ---- the group --------------------------------------------------------------------------------------------------- */

static int set_up(void **state) {
    (void)state;
    folder = test_folder();
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    test_folder_remove(folder);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cli__wrong_usage__exit_code_2_and_what_is_wrong),
        cmocka_unit_test(cli__version_and_help),
        cmocka_unit_test(cli__info__names_blas_kernels_and_the_model),
        cmocka_unit_test(cli__recipe__parameters_seed_output),
        cmocka_unit_test(cli__weights_beyond_the_memory_limit__streamed_with_one_line),
        cmocka_unit_test(cli__error__line_and_exit_code_1),
        cmocka_unit_test(cli__output_that_cannot_be_written__says_so),
        cmocka_unit_test(cli__ctrl_c__ends_an_endless_recipe),
        cmocka_unit_test(cli__ctrl_c__ends_a_sweep_within_a_second),
        cmocka_unit_test(cli__progress__on_a_terminal_only_and_erased),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
