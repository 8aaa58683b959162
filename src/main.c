/* The command line. Everything it starts is in src/host; this file alone ends the process. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/suggest.h"
#include "host/commands.h"
#include "patchbay/patchbay.h"

static const char USAGE[] =
    "patchbay: activation patching of transformers, in short Lua recipes\n"
    "\n"
    "  patchbay run RECIPE.lua [key=value ...]   run a recipe; key=value sets what it declares with pb.params\n"
    "      -o DIR            where it writes (default: RECIPE.out in the current folder)\n"
    "      --seed N          start of every random number (default 0)\n"
    "      --threads N       threads for the kernels (default: OMP_NUM_THREADS, else all cores)\n"
    "      --memory SIZE     what it may hold, e.g. 800M or 4G (default: three quarters of the machine's); weights\n"
    "                        that do not fit stay in their files, one layer at a time is held (pb.load's stream)\n"
    "      --time SECONDS    when to stop it (default 21600, six hours; 0: never)\n"
    "      --read DIR        one more folder that it may read in (besides its own); may be repeated\n"
    "      --trust           lift the sandbox: io, os, debug, package, any file\n"
    "  patchbay info [MODEL]                     version, BLAS and kernels; a model's shape, size, memory and sites\n"
    "      --tokens N        plan for runs of N tokens\n"
    "  patchbay get ORG/NAME[@REVISION]          download a model into the Hugging Face cache\n"
    "  patchbay help [NAME]                      every function, or one: patchbay help tensor:select\n"
    "  patchbay test PATH ...                    run Lua tests: files, or every .lua file of a folder\n"
    "  patchbay --version\n"
    "\n"
    "The built-in model is called 'facts'. A recipe to start with:\n"
    "\n"
    "  local pb = require \"patchbay\"\n"
    "  local model   = pb.load \"facts\"\n"
    "  local clean   = model:run \"The Eiffel Tower is located in the city of\"\n"
    "  local corrupt = clean:fork \"The Roman Forum is located in the city of\"\n"
    "  local grid    = corrupt:sweep { site = \"resid_pre\", over = { \"layer\", \"pos\" }, from = clean,\n"
    "                                  metric = pb.metric.prob \" Paris\" }\n"
    "  grid:recovered():heatmap \"trace.png\"\n";

static const char *const COMMANDS[] = {"run", "info", "get", "help", "test"};

typedef struct arguments {
    pb_command_options options;
    const char **words; /* what is no option, NULL-terminated */
    size_t n_words;
    const char **params, **readable;
    size_t n_params, n_readable;
    bool markdown, help;
} arguments;

static int usage_error(const char *format, const char *what) {
    fprintf(stderr, "patchbay: ");
    fprintf(stderr, format, what);
    fprintf(stderr, "\n(patchbay help shows how it is used)\n");
    return 2;
}

/* ---- values of options ------------------------------------------------------------------------------------------- */

/* "800M", "4G", "1.5GiB", "1000000" */
static bool read_size(const char *text, size_t *out) {
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (end == text || errno || !(value > 0) || !isdigit((unsigned char)*text))
        return false;
    static const char units[] = "kmgt";
    const char *unit = *end ? strchr(units, tolower((unsigned char)*end)) : NULL;
    if (unit) {
        for (const char *u = units; u <= unit; u++)
            value *= 1024;
        end++;
    }
    if (*end == 'i' && unit)
        end++;
    if (*end == 'B' || *end == 'b')
        end++;
    if (*end || value >= 9e18)
        return false;
    *out = (size_t)value;
    return true;
}

static bool read_integer(const char *text, long long low, long long high, long long *out) {
    char *end;
    errno = 0;
    *out = strtoll(text, &end, 10);
    return end != text && !*end && !errno && *out >= low && *out <= high;
}

static bool read_seconds(const char *text, double *out) {
    char *end;
    *out = strtod(text, &end);
    return end != text && !*end && *out >= 0 && *out < 1e9;
}

/* ---- options ----------------------------------------------------------------------------------------------------- */

typedef enum option_kind {
    OPT_OUTPUT,
    OPT_SEED,
    OPT_THREADS,
    OPT_MEMORY,
    OPT_TIME,
    OPT_TOKENS,
    OPT_READ,
    OPT_TRUST,
    OPT_STRESS,
    OPT_MARKDOWN,
    OPT_HELP
} option_kind;

static const struct {
    const char *name;
    option_kind kind;
    bool has_value;
} OPTIONS[] = {
    {"-o", OPT_OUTPUT, true},           {"--output", OPT_OUTPUT, true},
    {"--seed", OPT_SEED, true},         {"--threads", OPT_THREADS, true},
    {"--memory", OPT_MEMORY, true},     {"--time", OPT_TIME, true},
    {"--read", OPT_READ, true},         {"--trust", OPT_TRUST, false},
    {"--gc-stress", OPT_STRESS, false}, {"--markdown", OPT_MARKDOWN, false},
    {"--help", OPT_HELP, false},        {"-h", OPT_HELP, false},
    {"--tokens", OPT_TOKENS, true},
};
enum { N_OPTIONS = sizeof OPTIONS / sizeof *OPTIONS };

/* 0, or the exit code of a complaint. */
static int set_option(arguments *a, option_kind kind, const char *value) {
    long long number = 0;
    switch (kind) {
    case OPT_OUTPUT:
        a->options.output = value;
        return *value ? 0 : usage_error("-o needs the name of a folder%s", "");
    case OPT_SEED:
        if (!read_integer(value, INT64_MIN, INT64_MAX, &number))
            return usage_error("--seed needs an integer, got '%s'", value);
        a->options.seed = (uint64_t)number;
        return 0;
    case OPT_THREADS:
        if (!read_integer(value, 1, 4096, &number))
            return usage_error("--threads needs a number from 1 to 4096, got '%s'", value);
        a->options.threads = (int)number;
        return 0;
    case OPT_MEMORY:
        return read_size(value, &a->options.memory)
                   ? 0
                   : usage_error("--memory needs a size such as 800M or 4G, got '%s'", value);
    case OPT_TIME:
        return read_seconds(value, &a->options.time) ? 0
                                                     : usage_error("--time needs a number of seconds, got '%s'", value);
    case OPT_TOKENS:
        if (!read_integer(value, 1, 1 << 24, &number))
            return usage_error("--tokens needs the number of tokens of a prompt, got '%s'", value);
        a->options.tokens = (size_t)number;
        return 0;
    case OPT_READ:
        a->readable[a->n_readable++] = value;
        return 0;
    case OPT_TRUST:
        a->options.trust = true;
        return 0;
    case OPT_STRESS:
        a->options.gc_stress = true;
        return 0;
    case OPT_MARKDOWN:
        a->markdown = true;
        return 0;
    default:
        a->help = true;
        return 0;
    }
}

static int unknown_option(const char *text) {
    const char *names[N_OPTIONS];
    for (int i = 0; i < N_OPTIONS; i++)
        names[i] = OPTIONS[i].name;
    const char *best = pb_suggest(text, names, N_OPTIONS);
    fprintf(stderr, "patchbay: unknown option '%s'", text);
    if (best)
        fprintf(stderr, "; did you mean '%s'?", best);
    fprintf(stderr, "\n(patchbay help shows how it is used)\n");
    return 2;
}

static bool is_param(const char *text) {
    if (!isalpha((unsigned char)*text) && *text != '_')
        return false;
    while (isalnum((unsigned char)*text) || *text == '_')
        text++;
    return *text == '=';
}

/* "--name value" or "--name=value"; everything behind "--" is a word. */
static int read_arguments(arguments *a, int count, char **texts) {
    bool only_words = false;
    for (int i = 0; i < count; i++) {
        const char *text = texts[i];
        if (only_words || text[0] != '-' || !text[1]) {
            if (!only_words && is_param(text))
                a->params[a->n_params++] = text;
            else
                a->words[a->n_words++] = text;
            continue;
        }
        if (strcmp(text, "--") == 0) {
            only_words = true;
            continue;
        }
        const char *equals = text[1] == '-' ? strchr(text, '=') : NULL;
        size_t length = equals ? (size_t)(equals - text) : strlen(text);
        int found = -1;
        for (int j = 0; j < N_OPTIONS; j++)
            if (strlen(OPTIONS[j].name) == length && strncmp(OPTIONS[j].name, text, length) == 0)
                found = j;
        if (found < 0)
            return unknown_option(text);
        const char *value = NULL;
        if (OPTIONS[found].has_value) {
            value = equals ? equals + 1 : i + 1 < count ? texts[++i] : NULL;
            if (!value)
                return usage_error("%s needs a value", text);
        } else if (equals) {
            return usage_error("%s takes no value", OPTIONS[found].name);
        }
        int code = set_option(a, OPTIONS[found].kind, value);
        if (code)
            return code;
    }
    return 0;
}

/* ---- commands ---------------------------------------------------------------------------------------------------- */

static int too_many(const arguments *a, size_t most) {
    if (a->n_words > most) {
        const char *word = a->words[most];
        return usage_error(strchr(word, '=')
                               ? "'%s': a parameter's name has letters, digits and '_' before the '='"
                               : "'%s' is one argument too many (a recipe's parameters have the form key=value)",
                           word);
    }
    return 0;
}

static int dispatch(const char *command, arguments *a) {
    int code;
    if (strcmp(command, "run") == 0) {
        if (a->n_words == 0)
            return usage_error("run needs a recipe: patchbay run recipe.lua%s", "");
        code = too_many(a, 1);
        return code ? code : pb_command_run(a->words[0], &a->options);
    }
    if (a->n_params)
        return usage_error("'%s': only run takes parameters", a->params[0]);
    if (strcmp(command, "info") == 0) {
        code = too_many(a, 1);
        return code ? code : pb_command_info(a->words[0], &a->options);
    }
    if (strcmp(command, "get") == 0) {
        if (a->n_words == 0)
            return usage_error("get needs a model of the hub: patchbay get org/name%s", "");
        code = too_many(a, 1);
        return code ? code : pb_command_get(a->words[0], &a->options);
    }
    if (strcmp(command, "test") == 0)
        return a->n_words ? pb_command_test(a->words, &a->options) : usage_error("test needs files or folders%s", "");
    code = too_many(a, 1);
    if (code)
        return code;
    if (!a->n_words && !a->markdown)
        fputs(USAGE, stdout);
    return pb_command_help(a->words[0], a->markdown);
}

static int unknown_command(const char *text) {
    const char *best = pb_suggest(text, COMMANDS, sizeof COMMANDS / sizeof *COMMANDS);
    size_t n = strlen(text);
    if (n > 4 && strcmp(text + n - 4, ".lua") == 0)
        return usage_error("a recipe is run with: patchbay run %s", text);
    fprintf(stderr, "patchbay: unknown command '%s'", text);
    if (best)
        fprintf(stderr, "; did you mean '%s'?", best);
    fprintf(stderr, "\n\n%s", USAGE);
    return 2;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fputs(USAGE, stderr);
        return 2;
    }
    const char *command = argv[1];
    if (strcmp(command, "--version") == 0 || strcmp(command, "-V") == 0) {
        printf("patchbay %s\n", PATCHBAY_VERSION);
        return 0;
    }
    if (strcmp(command, "--help") == 0 || strcmp(command, "-h") == 0) {
        fputs(USAGE, stdout);
        return 0;
    }
    bool known = false;
    for (size_t i = 0; i < sizeof COMMANDS / sizeof *COMMANDS; i++)
        known = known || strcmp(command, COMMANDS[i]) == 0;
    if (!known)
        return unknown_command(command);

    size_t room = (size_t)argc + 1;
    const char **lists = calloc(3 * room, sizeof *lists);
    if (!lists) {
        fprintf(stderr, "patchbay: out of memory\n");
        return 1;
    }
    arguments a = {.words = lists, .params = lists + room, .readable = lists + 2 * room};
    a.options.time = strcmp(command, "run") == 0 ? 21600 : 0;
    a.options.params = a.params;
    a.options.readable = a.readable;
    int code = read_arguments(&a, argc - 2, argv + 2);
    if (code == 0 && a.help)
        fputs(USAGE, stdout);
    else if (code == 0)
        code = dispatch(command, &a);
    free(lists);
    if (fflush(stdout) != 0 && code == 0)
        code = 1;
    return code;
}
