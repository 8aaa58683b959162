/* Figures as files and as text: metadata there and back, formats, saving, terminal, failing allocations. */
#include "support/figure_sample.h"
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utf8proc.h>

#include "base/file.h"

static const float SIX[6] = {0.0f, 0.25f, 0.5f, 0.625f, 0.75f, 1.0f}; /* [2, 3] */
static const double UNIT_RANGE[2] = {0, 1};

/* ---- metadata -------------------------------------------------------------------------------------------------------------- */

static void metadata__survives_a_png_exactly(void **state) {
    pb_error err = {0};
    char *folder = test_folder();
    char *recipe = malloc(20001);
    for (int i = 0; i < 20000; i++)
        recipe[i] = "local x = 1\r\n-- \xC3\xA9\t"[i % 19];
    recipe[20000 - 20000 % 19] = '\0'; /* a whole number of lines: UTF-8 */
    char random[2001];
    uint32_t seed = 1;
    for (int i = 0; i < 2000; i++)
        random[i] = (char)(' ' + (seed = seed * 1664525u + 1013904223u) / 65536u % 95u);
    random[2000] = '\0';
    const pb_text_pair pairs[] = {{"Software", "Patchbay"},
                                  {"recipe", recipe},
                                  {"r\xC3\xA9sum\xC3\xA9", "\xE2\x88\x92\xF0\x9F\x98\x80"},
                                  {"empty", ""},
                                  {"random", random}};
    pb_figure *figure = sample_figure(*state, NULL);
    assert_ok(pb_figure_add_heatmap(figure, &(pb_heatmap){.rows = 2, .cols = 3, .values = SIX}, &err));
    const char *path = test_path(folder, "a.png");
    assert_ok(pb_figure_save(figure, path, pairs, 5, &err));
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_true(info.st_size < 25000); /* the recipe was compressed */
    pb_png_text *text = NULL;
    assert_ok(pb_png_read_text(*state, path, &text, &err));
    assert_int_equal(pb_png_text_count(text), 5);
    for (size_t i = 0; i < 5; i++) {
        assert_string_equal(pb_png_text_at(text, i)->key, pairs[i].key);
        assert_string_equal(pb_png_text_at(text, i)->value, pairs[i].value);
    }
    assert_string_equal(pb_png_text_find(text, "recipe"), recipe);
    assert_null(pb_png_text_find(text, "absent"));
    pb_png_text_free(text);
    pb_figure_unref(figure);
    free(recipe);
    test_folder_remove(folder);
}

static void metadata__bad_keys_and_values__are_named(void **state) {
    static const struct {
        pb_text_pair pairs[2];
        size_t n;
        const char *message;
    } CASES[] = {
        {{{"", "x"}}, 1, "1 to 79 printable"},
        {{{" a", "x"}}, 1, "without spaces"},
        {{{"a  b", "x"}}, 1, "two together"},
        {{{"a ", "x"}}, 1, "without spaces"},
        {{{"a\n", "x"}}, 1, "printable"},
        {{{"\xE2\x88\x92", "x"}}, 1, "Latin-1"},
        {{{NULL, "x"}}, 1, "(null)"},
        {{{"a", NULL}}, 1, "'a' has no value"},
        {{{"a", "x\xFF"}}, 1, "not UTF-8 (byte 0xFF at 1)"},
        {{{"a", "x"}, {"a", "y"}}, 2, "given twice"},
        {{{"0123456789012345678901234567890123456789012345678901234567890123456789012345678x", "x"}}, 1, "79"},
    };
    pb_error err = {0};
    pb_figure *figure = sample_figure(*state, NULL);
    assert_ok(pb_figure_add_heatmap(figure, &(pb_heatmap){.rows = 2, .cols = 3, .values = SIX}, &err));
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        unsigned char *bytes = NULL;
        size_t size = 0;
        assert_error(pb_figure_render(figure, PB_FIGURE_PNG, CASES[i].pairs, CASES[i].n, &bytes, &size, &err),
                     PB_ERR_ARGUMENT, CASES[i].message);
        assert_null(bytes);
    }
    pb_figure_unref(figure);
}

static void png_read_text__broken_files__are_refused(void **state) {
    pb_error err = {0};
    char *folder = test_folder();
    const char *path = test_path(folder, "broken.png");
    pb_png_text *text = NULL;
    assert_error(pb_png_read_text(*state, path, &text, &err), PB_ERR_IO, "broken.png");
    assert_ok(pb_file_write(*state, path, "not a picture at all", 20, &err));
    assert_error(pb_png_read_text(*state, path, &text, &err), PB_ERR_FORMAT, "is not a PNG");
    assert_ok(pb_file_write(*state, path, "", 0, &err));
    assert_error(pb_png_read_text(*state, path, &text, &err), PB_ERR_FORMAT, "is not a PNG");

    pb_figure *figure = sample_figure(*state, NULL);
    assert_ok(pb_figure_add_heatmap(figure, &(pb_heatmap){.rows = 2, .cols = 3, .values = SIX}, &err));
    unsigned char *bytes = NULL;
    size_t size = 0;
    const pb_text_pair pair = {"key", "needle in the file"};
    assert_ok(pb_figure_render(figure, PB_FIGURE_PNG, &pair, 1, &bytes, &size, &err));
    for (size_t cut = 8; cut < size; cut += size / 23 + 1) {
        assert_ok(pb_file_write(*state, path, bytes, cut, &err));
        assert_error(pb_png_read_text(*state, path, &text, &err), PB_ERR_FORMAT, "broken PNG");
    }
    size_t at = 0;
    while (memcmp(bytes + at, "needle", 6) != 0)
        at++;
    bytes[at] ^= 1; /* the chunk's checksum no longer fits */
    assert_ok(pb_file_write(*state, path, bytes, size, &err));
    assert_error(pb_png_read_text(*state, path, &text, &err), PB_ERR_FORMAT, "CRC");
    bytes[at] ^= 1;
    assert_ok(pb_file_write(*state, path, bytes, size, &err));
    assert_ok(pb_png_read_text(*state, path, &text, &err));
    assert_string_equal(pb_png_text_find(text, "key"), "needle in the file");
    pb_png_text_free(text);
    pb_free(bytes);
    pb_figure_unref(figure);
    test_folder_remove(folder);
}

/* ---- formats ---------------------------------------------------------------------------------------------------------------- */

static bool contains(const unsigned char *bytes, size_t size, const char *text) {
    size_t n = strlen(text);
    for (size_t i = 0; i + n <= size; i++)
        if (memcmp(bytes + i, text, n) == 0)
            return true;
    return false;
}

static void svg__has_labels_metadata_and_description(void **state) {
    pb_error err = {0};
    pb_figure *figure = sample_busy_figure(*state, 1);
    unsigned char *bytes = NULL;
    size_t size = 0;
    const pb_text_pair pair = {"recipe", "if a < b and \"c\" & d then\n  x()\nend"};
    assert_ok(pb_figure_render(figure, PB_FIGURE_SVG, &pair, 1, &bytes, &size, &err));
    static const char *const WANTED[] = {"<svg ",
                                         "</svg>\n",
                                         "<title>A title that is long",
                                         "<entry key=\"recipe\">if a &lt; b and &quot;c&quot; &amp; d then\n",
                                         ">\xC2\xB7Tower</text>",
                                         ">\xC2\xB7&lt;b&gt;&amp;\"</text>",
                                         ">head 3.1</text>",
                                         ">\xE2\x8F\x8E</text>",
                                         "Heat map",
                                         "id=\"surface1\""};
    for (size_t i = 0; i < sizeof WANTED / sizeof *WANTED; i++) {
        if (!contains(bytes, size, WANTED[i]))
            fail_msg("the SVG lacks: %s", WANTED[i]);
    }
    pb_free(bytes);
    pb_figure_unref(figure);
}

static void pdf__has_metadata_and_no_date(void **state) {
    pb_error err = {0};
    pb_figure *figure = sample_busy_figure(*state, 1);
    unsigned char *bytes = NULL;
    size_t size = 0;
    const pb_text_pair pairs[2] = {{"seed", "1"}, {"model", "facts"}};
    assert_ok(pb_figure_render(figure, PB_FIGURE_PDF, pairs, 2, &bytes, &size, &err));
    assert_memory_equal(bytes, "%PDF-", 5);
    assert_true(contains(bytes, size, "/Keywords ({\"seed\": \"1\", \"model\": \"facts\"})"));
    assert_true(contains(bytes, size, "/Creator (Patchbay)"));
    assert_false(contains(bytes, size, "CreationDate"));
    pb_free(bytes);
    pb_figure_unref(figure);
}

static void render__same_figure__same_bytes(void **state) {
    pb_error err = {0};
    for (int format = PB_FIGURE_PNG; format <= PB_FIGURE_PDF; format++) {
        unsigned char *bytes[2] = {NULL, NULL};
        size_t size[2] = {0, 0};
        for (int i = 0; i < 2; i++) {
            pb_figure *figure = sample_busy_figure(*state, 1);
            const pb_text_pair pair = {"recipe", "local pb = require 'patchbay'"};
            assert_ok(pb_figure_render(figure, (pb_figure_format)format, &pair, 1, &bytes[i], &size[i], &err));
            pb_figure_unref(figure);
        }
        assert_int_equal(size[0], size[1]);
        assert_memory_equal(bytes[0], bytes[1], size[0]);
        pb_free(bytes[0]);
        pb_free(bytes[1]);
    }
}

static void format_of__extension_decides(void **state) {
    (void)state;
    pb_error err = {0};
    pb_figure_format format = PB_FIGURE_PNG;
    assert_ok(pb_figure_format_of("out/x.y.SVG", &format, &err));
    assert_int_equal(format, PB_FIGURE_SVG);
    assert_ok(pb_figure_format_of("a.pdf", &format, &err));
    assert_int_equal(format, PB_FIGURE_PDF);
    assert_error(pb_figure_format_of("x.jpg", &format, &err), PB_ERR_UNSUPPORTED, "png, svg and pdf");
    assert_error(pb_figure_format_of("folder.png/x", &format, &err), PB_ERR_ARGUMENT, ".png, .svg or .pdf");
    assert_error(pb_figure_format_of("x.", &format, &err), PB_ERR_ARGUMENT, "no extension");
}

static void save__failure__leaves_the_old_file(void **state) {
    pb_error err = {0};
    char *folder = test_folder();
    pb_figure *figure = sample_figure(*state, NULL);
    const char *path = test_path(folder, "old.png");
    assert_ok(pb_file_write(*state, path, "old", 3, &err));
    assert_error(pb_figure_save(figure, path, NULL, 0, &err), PB_ERR_ARGUMENT, "no panels");
    assert_ok(pb_figure_add_heatmap(figure, &(pb_heatmap){.rows = 2, .cols = 3, .values = SIX}, &err));
    assert_error(pb_figure_save(figure, test_path(folder, "a.tiff"), NULL, 0, &err), PB_ERR_UNSUPPORTED, "'.tiff'");
    assert_error(pb_figure_save(figure, test_path(folder, "no/such/folder.png"), NULL, 0, &err), PB_ERR_IO,
                 "No such file");
    assert_error(pb_figure_save(figure, "/proc/figure.png", NULL, 0, &err), PB_ERR_IO, "/proc/figure.png");
    const char *full = test_path(folder, "full.png");
    struct stat device;
    if (stat("/dev/full", &device) == 0 && S_ISCHR(device.st_mode) && symlink("/dev/full", full) == 0)
        assert_error(pb_figure_save(figure, full, NULL, 0, &err), PB_ERR_IO, "disk is full");
    pb_context_set_memory_limit(*state, pb_context_memory_used(*state) + 20000);
    assert_error(pb_figure_save(figure, path, NULL, 0, &err), PB_ERR_MEMORY, NULL);
    pb_context_set_memory_limit(*state, 0);
    char *contents = NULL;
    assert_ok(pb_file_read(*state, path, 100, &contents, NULL, &err));
    assert_string_equal(contents, "old");
    pb_free(contents);
    assert_ok(pb_figure_save(figure, path, NULL, 0, &err));
    pb_figure_unref(figure);
    test_folder_remove(folder);
}

static void render__too_big_or_stopped__is_refused(void **state) {
    pb_error err = {0};
    float *values = calloc(8192, sizeof *values);
    values[0] = 1;
    pb_figure *figure = sample_figure(*state, &(pb_figure_options){.pixel_scale = 8});
    assert_ok(pb_figure_add_heatmap(figure, &(pb_heatmap){.rows = 1, .cols = 8192, .values = values}, &err));
    unsigned char *bytes = NULL;
    size_t size = 0;
    assert_error(pb_figure_render(figure, PB_FIGURE_PNG, NULL, 0, &bytes, &size, &err), PB_ERR_UNSUPPORTED,
                 "smaller pixel_scale than 8");
    pb_context_stop(*state);
    assert_error(pb_figure_render(figure, PB_FIGURE_SVG, NULL, 0, &bytes, &size, &err), PB_ERR_STOPPED, NULL);
    pb_context_clear_stop(*state);
    assert_null(bytes);
    pb_figure_unref(figure);
    free(values);
}

/* fontconfig reads its configuration once per process: a child that has drawn nothing yet. */
static void render__no_font__says_what_to_install(void **state) {
    pb_error err = {0};
    char *folder = test_folder();
    const char *config = test_path(folder, "fonts.conf");
    assert_ok(pb_file_write(*state, config, "<fontconfig></fontconfig>", 25, &err));
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        setenv("FONTCONFIG_FILE", config, 1);
        setenv("XDG_DATA_HOME", folder, 1);
        setenv("HOME", folder, 1);
        pb_figure *figure = NULL;
        unsigned char *bytes;
        size_t size;
        pb_status status = pb_figure_create(*state, NULL, &figure, &err);
        if (status == PB_OK)
            status = pb_figure_add_heatmap(figure, &(pb_heatmap){.rows = 2, .cols = 3, .values = SIX}, &err);
        if (status == PB_OK)
            status = pb_figure_render(figure, PB_FIGURE_PNG, NULL, 0, &bytes, &size, &err);
        pb_figure_unref(figure);
        free(folder);
        _exit(status == PB_ERR_IO && strstr(err.message, "fonts-dejavu-core") ? 0 : 1);
    }
    int result = 0;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFEXITED(result));
    assert_int_equal(WEXITSTATUS(result), 0);
    test_folder_remove(folder);
}

/* ---- terminal -------------------------------------------------------------------------------------------------------------------- */

/* Columns of one line, escape sequences left out. */
static int columns_of(const char *line, size_t length) {
    int columns = 0;
    for (size_t i = 0; i < length;) {
        if (line[i] == '\x1b') {
            while (i < length && line[i] != 'm')
                i++;
            i++;
            continue;
        }
        utf8proc_int32_t c;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)line + i, (utf8proc_ssize_t)(length - i), &c);
        assert_true(n > 0);
        columns += utf8proc_charwidth(c);
        i += (size_t)n;
    }
    return columns;
}

static char *show(const pb_figure *figure, const pb_terminal_options *options) {
    pb_error err = {0};
    char *text = NULL;
    assert_ok(pb_figure_terminal(figure, options, &text, &err));
    assert_int_equal(text[strlen(text) - 1], '\n');
    return text;
}

static void terminal__plain__is_aligned_whatever_the_script(void **state) {
    pb_error err = {0};
    const char *const labels[3] = {" \xE4\xB8\xAD\xE6\x96\x87", "ab", "\xC3\xA9\xC3\xA9\xC3\xA9"};
    const float values[6] = {-1.5f, 2, 300, NAN, 0.25f, -INFINITY};
    const size_t mark = 1;
    pb_figure *figure = sample_figure(*state, NULL);
    assert_ok(pb_figure_add_heatmap(figure,
                                    &(pb_heatmap){.rows = 3,
                                                  .cols = 2,
                                                  .values = values,
                                                  .row_labels = labels,
                                                  .n_row_labels = 3,
                                                  .marked_rows = &mark,
                                                  .n_marked_rows = 1,
                                                  .digits = 2},
                                    &err));
    char *text = show(figure, NULL);
    assert_string_equal(text, "           0    1\n"
                              "\xC2\xB7\xE4\xB8\xAD\xE6\x96\x87  -1.50 2.00\n"
                              "  ab* 300.00  NaN\n"
                              "  \xC3\xA9\xC3\xA9\xC3\xA9   0.25   -\xE2\x88\x9E\n");
    pb_free(text);
    pb_figure_unref(figure);
}

static void terminal__width_is_obeyed(void **state) {
    pb_error err = {0};
    enum { LAYERS = 30 };
    float values[LAYERS * 4];
    for (int i = 0; i < LAYERS * 4; i++)
        values[i] = (float)i / 100 - 0.3f;
    pb_figure *figure = sample_figure(*state, NULL);
    assert_ok(pb_figure_add_heatmap(figure,
                                    &(pb_heatmap){.rows = LAYERS,
                                                  .cols = 4,
                                                  .values = values,
                                                  .transposed = true,
                                                  .col_labels = sample_tokens,
                                                  .n_col_labels = 4,
                                                  .unit = "nats"},
                                    &err));
    for (int colour = 0; colour < 2; colour++) {
        for (int width = 20; width <= 200; width += 45) {
            char *text = show(figure, &(pb_terminal_options){.colour = colour, .width = width});
            for (char *line = text; *line;) {
                size_t length = strcspn(line, "\n");
                bool legend = strstr(line, "nats") && strstr(line, "nats") < line + length;
                if (!legend)
                    assert_in_range(columns_of(line, length), 0, width);
                line += length + 1;
            }
            assert_true((strchr(text, '\x1b') != NULL) == (colour == 1));
            pb_free(text);
        }
    }
    char *text = NULL;
    assert_error(pb_figure_terminal(figure, &(pb_terminal_options){.width = 5}, &text, &err), PB_ERR_ARGUMENT,
                 "at least 20");
    pb_figure_unref(figure);
}

static void terminal__colour__is_the_cells_colour(void **state) {
    pb_error err = {0};
    pb_figure *figure = sample_figure(*state, &(pb_figure_options){.title = "T"});
    assert_ok(pb_figure_add_heatmap(
        figure,
        &(pb_heatmap){
            .rows = 2, .cols = 3, .values = SIX, .range = UNIT_RANGE, .map = PB_COLOURS_REDS, .unit = "share"},
        &err));
    char *text = show(figure, &(pb_terminal_options){.colour = true});
    for (int i = 0; i < 6; i++) {
        unsigned char rgb[3];
        char wanted[64];
        pb_colour_map_at(PB_COLOURS_REDS, (double)SIX[i], rgb);
        snprintf(wanted, sizeof wanted, "\x1b[48;2;%d;%d;%dm", rgb[0], rgb[1], rgb[2]);
        assert_non_null(strstr(text, wanted));
        snprintf(wanted, sizeof wanted, "%.2f", (double)SIX[i]);
        assert_non_null(strstr(text, wanted));
    }
    assert_non_null(strstr(text, "\x1b[1mT\x1b[0m\n"));
    assert_non_null(strstr(text, "share\n"));
    pb_free(text);
    pb_figure_unref(figure);
}

static void terminal__long_tables_are_cut_and_say_so(void **state) {
    pb_error err = {0};
    float values[100];
    for (int i = 0; i < 100; i++)
        values[i] = (float)i;
    pb_figure *figure = sample_figure(*state, NULL);
    assert_ok(pb_figure_add_heatmap(figure, &(pb_heatmap){.rows = 100, .cols = 1, .values = values}, &err));
    char *text = show(figure, &(pb_terminal_options){.max_rows = 10});
    assert_non_null(strstr(text, "... 90 rows left out\n"));
    assert_non_null(strstr(text, "\n99 "));
    assert_null(strstr(text, "\n50 "));
    pb_free(text);
    pb_figure_unref(figure);
}

static void terminal__plots_are_tables(void **state) {
    pb_figure *figure = sample_busy_figure(*state, 1);
    for (int colour = 0; colour < 2; colour++) {
        char *text = show(figure, &(pb_terminal_options){.colour = colour, .width = 100});
        static const char *const WANTED[] = {"band", "low", "high", "ceiling", "lines", "points", "\xC2\xB7Tower"};
        for (size_t i = 0; i < sizeof WANTED / sizeof *WANTED; i++) {
            if (strcmp(WANTED[i], "ceiling") == 0)
                continue; /* levels are not data */
            assert_non_null(strstr(text, WANTED[i]));
        }
        pb_free(text);
    }
    pb_figure_unref(figure);
}

/* ---- memory ------------------------------------------------------------------------------------------------------------------------ */

/* Everything that one figure goes through, with the n-th allocation failing. */
static pb_status whole_life(pb_context *ctx, pb_figure_format format, const char *path, pb_error *err) {
    const float values[4] = {0, 1, 2, 3};
    pb_figure *figure = NULL;
    char *shown = NULL;
    pb_png_text *text = NULL;
    const pb_series series = {.label = "s", .n = 4, .y = values};
    const pb_text_pair pair = {"key", "value"};
    pb_status status = pb_figure_create(ctx, &(pb_figure_options){.title = "t", .pixel_scale = 0.5}, &figure, err);
    if (status == PB_OK)
        status = pb_figure_add_heatmap(figure,
                                       &(pb_heatmap){.title = "h",
                                                     .rows = 2,
                                                     .cols = 2,
                                                     .values = values,
                                                     .row_labels = sample_tokens,
                                                     .n_row_labels = 2,
                                                     .unit = "u"},
                                       err);
    if (status == PB_OK)
        status = pb_figure_add_lines(figure, &(pb_line_plot){.series = &series, .n_series = 1}, err);
    if (status == PB_OK)
        status = pb_figure_add_bars(
            figure,
            &(pb_bar_plot){
                .groups = 4, .series = 1, .values = values, .group_labels = sample_tokens, .n_group_labels = 4},
            err);
    if (status == PB_OK)
        status = pb_figure_add_scatter(figure, &(pb_scatter){.n = 4, .x = values, .y = values, .labels = sample_tokens},
                                       err);
    if (status == PB_OK)
        status = pb_figure_terminal(figure, NULL, &shown, err);
    if (status == PB_OK) {
        unsigned char *bytes = NULL;
        size_t size = 0;
        status = pb_figure_render(figure, format, &pair, 1, &bytes, &size, err);
        if (status == PB_OK && format == PB_FIGURE_PNG)
            status = pb_file_write(ctx, path, bytes, size, err);
        pb_free(bytes);
    }
    if (status == PB_OK && format == PB_FIGURE_PNG)
        status = pb_png_read_text(ctx, path, &text, err);
    if (status == PB_OK && format == PB_FIGURE_PNG)
        assert_string_equal(pb_png_text_find(text, "key"), "value");
    pb_png_text_free(text);
    pb_free(shown);
    pb_figure_unref(figure);
    return status;
}

static void figure__any_allocation_fails__is_an_error_and_no_leak(void **state) {
    char *folder = test_folder();
    const char *path = test_path(folder, "x.png");
    for (int format = PB_FIGURE_PNG; format <= PB_FIGURE_PDF; format++) {
        size_t before = pb_context_memory_used(*state);
        pb_status status = PB_ERR_MEMORY;
        uint64_t n = 0;
        while (status != PB_OK) {
            pb_error err = {0};
            n++;
            pb_context_fail_allocation(*state, n);
            status = whole_life(*state, (pb_figure_format)format, path, &err);
            pb_context_fail_allocation(*state, 0);
            if (status != PB_OK && status != PB_ERR_MEMORY)
                fail_msg("format %d, allocation %d: status %d, %s", format, (int)n, (int)status, err.message);
            assert_int_equal(pb_context_memory_used(*state), before);
            assert_true(n < 2000);
        }
        assert_true(n > 20);
    }
    test_folder_remove(folder);
}

static void figure__outlives_its_makers_data(void **state) {
    pb_error err = {0};
    float values[6];
    char label[8] = "before";
    const char *labels[2] = {label, label};
    memcpy(values, SIX, sizeof values);
    pb_figure *figure = sample_figure(*state, NULL);
    assert_ok(pb_figure_add_heatmap(
        figure, &(pb_heatmap){.rows = 2, .cols = 3, .values = values, .row_labels = labels, .n_row_labels = 2}, &err));
    memset(values, 0, sizeof values);
    memcpy(label, "after!", 7);
    char *text = show(figure, NULL);
    assert_non_null(strstr(text, "before"));
    assert_non_null(strstr(text, "0.75"));
    assert_null(strstr(text, "after"));
    pb_free(text);
    assert_ptr_equal(pb_figure_ref(figure), figure);
    pb_figure_unref(figure);
    pb_figure_unref(figure);
    pb_figure_unref(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH_CONTEXT(render__no_font__says_what_to_install), /* first: nothing may have been drawn before */
        WITH_CONTEXT(metadata__survives_a_png_exactly),
        WITH_CONTEXT(metadata__bad_keys_and_values__are_named),
        WITH_CONTEXT(png_read_text__broken_files__are_refused),
        WITH_CONTEXT(svg__has_labels_metadata_and_description),
        WITH_CONTEXT(pdf__has_metadata_and_no_date),
        WITH_CONTEXT(render__same_figure__same_bytes),
        cmocka_unit_test(format_of__extension_decides),
        WITH_CONTEXT(save__failure__leaves_the_old_file),
        WITH_CONTEXT(render__too_big_or_stopped__is_refused),
        WITH_CONTEXT(terminal__plain__is_aligned_whatever_the_script),
        WITH_CONTEXT(terminal__width_is_obeyed),
        WITH_CONTEXT(terminal__colour__is_the_cells_colour),
        WITH_CONTEXT(terminal__long_tables_are_cut_and_say_so),
        WITH_CONTEXT(terminal__plots_are_tables),
        WITH_CONTEXT(figure__any_allocation_fails__is_an_error_and_no_leak),
        WITH_CONTEXT(figure__outlives_its_makers_data),
    };
    return cmocka_run_group_tests_name("figure output", tests, NULL, NULL);
}
