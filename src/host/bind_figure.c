/* Lua: figures. pb.figure { ... } and its panels, a thin layer on figure.h: scripts/patchbay/core/plot.lua and grid:heatmap
 * are made of it, and so can anyone's own picture be. */
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "host/host.h"
#include "host/private.h"
#include "patchbay/figure.h"
#include "patchbay/patchbay.h"

static void release_figure(void *object) { pb_figure_unref(object); }

static const pb_class PB_FIGURE_CLASS;
enum { FACTS = 1 }; /* user value: what is written into files beside the picture, key -> text */

static pb_figure *check_figure(lua_State *L) { return pb_check_box(L, 1, &PB_FIGURE_CLASS); }

/* ---- reading panels ---------------------------------------------------------------------------------------------------------
 * Every reader pushes what its result points to; a panel's function returns to Lua soon after, so nothing is popped. */

/* A list of texts (numbers are texts too); NULL and n 0 if absent. */
static const char *const *field_texts(lua_State *L, int index, const char *field, size_t *n) {
    *n = 0;
    luaL_checkstack(L, 8, "reading a figure");
    int type = pb_push_field(L, index, field);
    if (type == LUA_TNIL)
        return NULL;
    int list = lua_gettop(L);
    if (type != LUA_TTABLE)
        pb_bad_argument(L, field, "must be a list of texts, got %s", pb_describe(L, list));
    size_t count = (size_t)lua_rawlen(L, list);
    const char **texts = pb_lua_scratch(L, count, sizeof *texts);
    lua_createtable(L, (int)count, 0); /* numbers become texts here: the user's table is left as it is */
    for (size_t i = 0; i < count; i++) {
        lua_rawgeti(L, list, (lua_Integer)i + 1);
        if (lua_type(L, -1) != LUA_TSTRING && lua_type(L, -1) != LUA_TNUMBER)
            pb_bad_argument(L, field, "entry %d must be a text, got %s", (int)i + 1, pb_describe(L, -1));
        texts[i] = lua_tostring(L, -1);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    *n = count;
    return texts;
}

/* 0-based places; NULL and n 0 if absent. */
static const size_t *field_places(lua_State *L, int index, const char *field, int64_t extent, size_t *n) {
    *n = 0;
    pb_push_field(L, index, field);
    if (lua_isnil(L, -1) || (lua_type(L, -1) == LUA_TTABLE && lua_rawlen(L, -1) == 0))
        return NULL;
    pb_choice choice = pb_check_choice(L, -1, field, extent);
    size_t *places = pb_lua_scratch(L, choice.n, sizeof *places);
    for (size_t i = 0; i < choice.n; i++)
        places[i] = (size_t)choice.items[i];
    *n = choice.n;
    return places;
}

/* Two numbers; NULL if absent. */
static const double *field_range(lua_State *L, int index, const char *field) {
    if (pb_push_field(L, index, field) == LUA_TNIL)
        return NULL;
    if (lua_type(L, -1) != LUA_TTABLE || lua_rawlen(L, -1) != 2)
        pb_bad_argument(L, field, "must be { low, high }, got %s", pb_describe(L, -1));
    double *range = pb_lua_scratch(L, 2, sizeof *range);
    for (int i = 0; i < 2; i++) {
        lua_rawgeti(L, -2, i + 1);
        range[i] = pb_check_number(L, -1, field);
        lua_pop(L, 1);
    }
    return range;
}

static const double *field_numbers(lua_State *L, int index, const char *field, size_t *n) {
    *n = 0;
    if (pb_push_field(L, index, field) == LUA_TNIL)
        return NULL;
    int list = lua_gettop(L);
    if (lua_type(L, list) != LUA_TTABLE)
        pb_bad_argument(L, field, "must be a list of numbers, got %s", pb_describe(L, list));
    *n = (size_t)lua_rawlen(L, list);
    double *numbers = pb_lua_scratch(L, *n, sizeof *numbers);
    for (size_t i = 0; i < *n; i++) {
        lua_rawgeti(L, list, (lua_Integer)i + 1);
        numbers[i] = pb_check_number(L, -1, field);
        lua_pop(L, 1);
    }
    return numbers;
}

/* Numbers of a tensor or list with ndim axes, contiguous; NULL if absent (raises if needed). */
static const float *field_floats(lua_State *L, int index, const char *field, int ndim, bool needed, int64_t shape[2]) {
    luaL_checkstack(L, 8, "reading a figure");
    if (pb_push_field(L, index, field) == LUA_TNIL) {
        if (needed)
            pb_bad_argument(L, field, "is missing: a tensor or a list of numbers");
        return NULL;
    }
    pb_tensor *tensor = pb_make_tensor(L, -1, field);
    if (pb_tensor_ndim(tensor) != ndim || pb_tensor_dtype(tensor) != PB_F32)
        pb_bad_argument(L, field, "must be %d ax%ss of float32 numbers, got %s", ndim, ndim == 1 ? "i" : "e",
                        pb_describe(L, -1));
    pb_box *box = pb_new_tensor(L);
    pb_tensor *contiguous = NULL;
    PB_LUA(L, pb_tensor_make_contiguous(tensor, &contiguous, pb_lua_error(L)));
    pb_fill_tensor(L, box, contiguous);
    for (int i = 0; i < ndim; i++)
        shape[i] = pb_tensor_shape(contiguous)[i];
    return pb_tensor_floats(contiguous);
}

/* The same with a shape that is known; names what it must match. */
static const float *field_matching(lua_State *L, int index, const char *field, int ndim, const int64_t *want) {
    int64_t shape[2] = {0, 0};
    const float *numbers = field_floats(L, index, field, ndim, false, shape);
    for (int i = 0; numbers && i < ndim; i++) {
        if (shape[i] != want[i])
            pb_bad_argument(L, field, "has length %lld where the values have %lld", (long long)shape[i],
                            (long long)want[i]);
    }
    return numbers;
}

static pb_colour_map field_colours(lua_State *L, int index) {
    pb_colour_map map = PB_COLOURS_AUTO;
    const char *name = pb_field_text(L, index, "colours");
    if (name)
        PB_LUA(L, pb_colour_map_parse(name, &map, pb_lua_error(L)));
    return map;
}

/* ---- figures ------------------------------------------------------------------------------------------------------------ */

static int new_figure(lua_State *L) {
    static const char *const fields[] = {"title",  "subtitle",    "caption", "columns",
                                         "scales", "pixel_scale", "facts",   NULL};
    static const char *const scales[] = {"auto", "shared", "own", NULL};
    pb_check_arity(L, 1);
    pb_figure_options options = {0};
    if (!lua_isnoneornil(L, 1)) {
        pb_check_fields(L, 1, fields, 0);
        options.title = pb_field_text(L, 1, "title");
        options.subtitle = pb_field_text(L, 1, "subtitle");
        options.caption = pb_field_text(L, 1, "caption");
        options.columns = (int)pb_field_integer(L, 1, "columns", 0, 0, 64);
        options.scales = (pb_scales)pb_field_word(L, 1, "scales", scales, 0);
        options.pixel_scale = pb_field_number(L, 1, "pixel_scale", 0);
    }
    pb_box *box = pb_box_new(L, &PB_FIGURE_CLASS, FACTS);
    pb_figure *figure = NULL;
    PB_LUA(L, pb_figure_create(pb_host_context(L), &options, &figure, pb_lua_error(L)));
    box->object = figure;
    if (lua_type(L, 1) == LUA_TTABLE && pb_push_field(L, 1, "facts") != LUA_TNIL) {
        if (lua_type(L, -1) != LUA_TTABLE)
            pb_bad_argument(L, "facts", "must be a table of texts, got %s", pb_describe(L, -1));
        lua_setiuservalue(L, -2, FACTS);
    } else if (lua_type(L, 1) == LUA_TTABLE) {
        lua_pop(L, 1);
    }
    return 1;
}

static int figure_heatmap(lua_State *L) {
    static const char *const fields[] = {"values",  "title",       "subtitle",    "row_labels", "col_labels", "x_title",
                                         "y_title", "marked_rows", "marked_cols", "transposed", "upward",     "causal",
                                         "colours", "range",       "unit",        "numbers",    "digits",     NULL};
    pb_check_arity(L, 2);
    pb_figure *figure = check_figure(L);
    pb_check_fields(L, 2, fields, 0);
    int64_t shape[2] = {0, 0};
    pb_heatmap panel = {
        .title = pb_field_text(L, 2, "title"),
        .subtitle = pb_field_text(L, 2, "subtitle"),
        .x_title = pb_field_text(L, 2, "x_title"),
        .y_title = pb_field_text(L, 2, "y_title"),
        .unit = pb_field_text(L, 2, "unit"),
        .transposed = pb_field_boolean(L, 2, "transposed", false),
        .upward = pb_field_boolean(L, 2, "upward", false),
        .causal = pb_field_boolean(L, 2, "causal", false),
        .digits = (int)pb_field_integer(L, 2, "digits", 0, 0, 9),
        .map = field_colours(L, 2),
    };
    if (pb_has_field(L, 2, "numbers"))
        panel.numbers = pb_field_boolean(L, 2, "numbers", false) ? PB_NUMBERS_ON : PB_NUMBERS_OFF;
    panel.values = field_floats(L, 2, "values", 2, true, shape);
    panel.rows = (size_t)shape[0];
    panel.cols = (size_t)shape[1];
    panel.row_labels = field_texts(L, 2, "row_labels", &panel.n_row_labels);
    panel.col_labels = field_texts(L, 2, "col_labels", &panel.n_col_labels);
    panel.marked_rows = field_places(L, 2, "marked_rows", shape[0], &panel.n_marked_rows);
    panel.marked_cols = field_places(L, 2, "marked_cols", shape[1], &panel.n_marked_cols);
    panel.range = field_range(L, 2, "range");
    PB_LUA(L, pb_figure_add_heatmap(figure, &panel, pb_lua_error(L)));
    lua_settop(L, 1);
    return 1;
}

static int figure_attention(lua_State *L) {
    static const char *const fields[] = {"pattern", "title", "labels", "mark", "bidirectional",
                                         "colours", "range", "unit",   NULL};
    pb_check_arity(L, 2);
    pb_figure *figure = check_figure(L);
    pb_check_fields(L, 2, fields, 0);
    int64_t shape[2] = {0, 0};
    pb_attention panel = {
        .title = pb_field_text(L, 2, "title"),
        .unit = pb_field_text(L, 2, "unit"),
        .bidirectional = pb_field_boolean(L, 2, "bidirectional", false),
        .map = field_colours(L, 2),
    };
    panel.pattern = field_floats(L, 2, "pattern", 2, true, shape);
    if (shape[0] != shape[1])
        pb_bad_argument(L, "pattern", "must be square, [dest, src], not [%lld, %lld]", (long long)shape[0],
                        (long long)shape[1]);
    panel.tokens = (size_t)shape[0];
    panel.labels = field_texts(L, 2, "labels", &panel.n_labels);
    panel.marked = field_places(L, 2, "mark", shape[0], &panel.n_marked);
    panel.range = field_range(L, 2, "range");
    PB_LUA(L, pb_figure_add_attention(figure, &panel, pb_lua_error(L)));
    lua_settop(L, 1);
    return 1;
}

static void read_series(lua_State *L, int index, pb_series *series) {
    static const char *const fields[] = {"label", "x", "y", "low", "high", "error_bars", "dashed", "markers", NULL};
    int64_t shape[2] = {0, 0};
    pb_check_fields(L, index, fields, 0);
    series->label = pb_field_text(L, index, "label");
    series->error_bars = pb_field_boolean(L, index, "error_bars", false);
    series->dashed = pb_field_boolean(L, index, "dashed", false);
    series->no_markers = !pb_field_boolean(L, index, "markers", true);
    series->y = field_floats(L, index, "y", 1, true, shape);
    series->n = (size_t)shape[0];
    series->x = field_matching(L, index, "x", 1, shape);
    series->low = field_matching(L, index, "low", 1, shape);
    series->high = field_matching(L, index, "high", 1, shape);
}

static int figure_lines(lua_State *L) {
    static const char *const fields[] = {"title",    "subtitle", "x_title", "y_title", "series",       "log_x", "log_y",
                                         "x_labels", "x_range",  "y_range", "levels",  "level_labels", NULL};
    pb_check_arity(L, 2);
    pb_figure *figure = check_figure(L);
    pb_check_fields(L, 2, fields, 0);
    pb_line_plot panel = {
        .title = pb_field_text(L, 2, "title"),
        .subtitle = pb_field_text(L, 2, "subtitle"),
        .x_title = pb_field_text(L, 2, "x_title"),
        .y_title = pb_field_text(L, 2, "y_title"),
        .log_x = pb_field_boolean(L, 2, "log_x", false),
        .log_y = pb_field_boolean(L, 2, "log_y", false),
    };
    if (pb_push_field(L, 2, "series") != LUA_TTABLE)
        pb_bad_argument(L, "series", "must be a list of { y =, x =, label = ... }, got %s", pb_describe(L, -1));
    int list = lua_gettop(L);
    panel.n_series = (size_t)lua_rawlen(L, list);
    pb_series *series = pb_lua_scratch(L, panel.n_series, sizeof *series);
    panel.series = series;
    for (size_t i = 0; i < panel.n_series; i++) {
        lua_rawgeti(L, list, (lua_Integer)i + 1);
        read_series(L, lua_gettop(L), &series[i]);
    }
    size_t n_level_labels = 0;
    panel.x_labels = field_texts(L, 2, "x_labels", &panel.n_x_labels);
    panel.x_range = field_range(L, 2, "x_range");
    panel.y_range = field_range(L, 2, "y_range");
    panel.levels = field_numbers(L, 2, "levels", &panel.n_levels);
    panel.level_labels = field_texts(L, 2, "level_labels", &n_level_labels);
    if (panel.level_labels && n_level_labels != panel.n_levels)
        pb_bad_argument(L, "level_labels", "has %d texts for %d levels", (int)n_level_labels, (int)panel.n_levels);
    PB_LUA(L, pb_figure_add_lines(figure, &panel, pb_lua_error(L)));
    lua_settop(L, 1);
    return 1;
}

static int figure_bars(lua_State *L) {
    static const char *const fields[] = {"title", "subtitle", "x_title",       "y_title", "values",  "low",
                                         "high",  "labels",   "series_labels", "y_range", "numbers", NULL};
    pb_check_arity(L, 2);
    pb_figure *figure = check_figure(L);
    pb_check_fields(L, 2, fields, 0);
    int64_t shape[2] = {0, 0};
    pb_bar_plot panel = {
        .title = pb_field_text(L, 2, "title"),
        .subtitle = pb_field_text(L, 2, "subtitle"),
        .x_title = pb_field_text(L, 2, "x_title"),
        .y_title = pb_field_text(L, 2, "y_title"),
        .numbers = pb_field_boolean(L, 2, "numbers", false),
    };
    panel.values = field_floats(L, 2, "values", 2, true, shape);
    panel.series = (size_t)shape[0];
    panel.groups = (size_t)shape[1];
    panel.low = field_matching(L, 2, "low", 2, shape);
    panel.high = field_matching(L, 2, "high", 2, shape);
    panel.group_labels = field_texts(L, 2, "labels", &panel.n_group_labels);
    panel.series_labels = field_texts(L, 2, "series_labels", &panel.n_series_labels);
    panel.y_range = field_range(L, 2, "y_range");
    PB_LUA(L, pb_figure_add_bars(figure, &panel, pb_lua_error(L)));
    lua_settop(L, 1);
    return 1;
}

/* classes = { 1, 1, 2 }: 1-based places in class_labels. */
static const int *field_classes(lua_State *L, int index, size_t n, size_t n_classes) {
    if (pb_push_field(L, index, "classes") == LUA_TNIL)
        return NULL;
    int list = lua_gettop(L);
    if (lua_type(L, list) != LUA_TTABLE || (size_t)lua_rawlen(L, list) != n)
        pb_bad_argument(L, "classes", "must be a list of %d places in class_labels, got %s", (int)n,
                        pb_describe(L, list));
    int *classes = pb_lua_scratch(L, n, sizeof *classes);
    for (size_t i = 0; i < n; i++) {
        lua_rawgeti(L, list, (lua_Integer)i + 1);
        classes[i] = (int)pb_check_integer(L, -1, "classes", 1, (lua_Integer)n_classes) - 1;
        lua_pop(L, 1);
    }
    return classes;
}

static int figure_scatter(lua_State *L) {
    static const char *const fields[] = {"title", "subtitle", "x_title", "y_title",      "x",
                                         "y",     "labels",   "classes", "class_labels", "identity",
                                         "log_x", "log_y",    "x_range", "y_range",      NULL};
    pb_check_arity(L, 2);
    pb_figure *figure = check_figure(L);
    pb_check_fields(L, 2, fields, 0);
    int64_t shape[2] = {0, 0};
    size_t n_labels = 0;
    pb_scatter panel = {
        .title = pb_field_text(L, 2, "title"),
        .subtitle = pb_field_text(L, 2, "subtitle"),
        .x_title = pb_field_text(L, 2, "x_title"),
        .y_title = pb_field_text(L, 2, "y_title"),
        .identity = pb_field_boolean(L, 2, "identity", false),
        .log_x = pb_field_boolean(L, 2, "log_x", false),
        .log_y = pb_field_boolean(L, 2, "log_y", false),
    };
    panel.y = field_floats(L, 2, "y", 1, true, shape);
    panel.x = field_matching(L, 2, "x", 1, shape);
    if (!panel.x)
        pb_bad_argument(L, "x", "is missing: a tensor or a list of numbers");
    panel.n = (size_t)shape[0];
    panel.labels = field_texts(L, 2, "labels", &n_labels);
    if (panel.labels && n_labels != panel.n)
        pb_bad_argument(L, "labels", "has %d texts for %d points", (int)n_labels, (int)panel.n);
    panel.class_labels = field_texts(L, 2, "class_labels", &panel.n_classes);
    panel.classes = field_classes(L, 2, panel.n, panel.n_classes);
    panel.x_range = field_range(L, 2, "x_range");
    panel.y_range = field_range(L, 2, "y_range");
    PB_LUA(L, pb_figure_add_scatter(figure, &panel, pb_lua_error(L)));
    lua_settop(L, 1);
    return 1;
}

/* ---- output -------------------------------------------------------------------------------------------------------------------- */

static int by_key(const void *a, const void *b) {
    return strcmp(((const pb_text_pair *)a)->key, ((const pb_text_pair *)b)->key);
}

/* Copy the entries of the table at `from` into the one at `to`; all must be texts. */
static void merge_facts(lua_State *L, int from, int to) {
    if (lua_type(L, from) != LUA_TTABLE)
        return;
    for (lua_pushnil(L); lua_next(L, from) != 0; lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING)
            pb_bad_argument(L, "facts", "must be a table of texts, got %s as a value", pb_describe(L, -1));
        lua_pushvalue(L, -2);
        lua_pushvalue(L, -2);
        lua_rawset(L, to);
    }
}

/* The table at index as pairs, by key, so that files are the same from run to run. Pushes their memory. */
static const pb_text_pair *push_pairs(lua_State *L, int index, size_t *n) {
    size_t count = 0;
    for (lua_pushnil(L); lua_next(L, index) != 0; lua_pop(L, 1))
        count++;
    pb_text_pair *pairs = pb_lua_scratch(L, count, sizeof *pairs);
    *n = 0;
    for (lua_pushnil(L); lua_next(L, index) != 0; lua_pop(L, 1))
        pairs[(*n)++] = (pb_text_pair){lua_tostring(L, -2), lua_tostring(L, -1)}; /* the table holds the texts */
    qsort(pairs, *n, sizeof *pairs, by_key);
    return pairs;
}

/* figure:save(path [, facts]). The program's version and the seed are always told. */
static int figure_save(lua_State *L) {
    pb_check_arity(L, 3);
    const pb_figure *figure = check_figure(L);
    const char *name = pb_check_text(L, 2, "path", NULL);
    lua_settop(L, 3);
    if (!lua_isnil(L, 3))
        luaL_checktype(L, 3, LUA_TTABLE);
    pb_figure_format format;
    PB_LUA(L, pb_figure_format_of(name, &format, pb_lua_error(L)));
    lua_getiuservalue(L, 1, FACTS); /* 4 */
    lua_newtable(L);                /* 5 */
    lua_pushliteral(L, "Patchbay " PATCHBAY_VERSION);
    lua_setfield(L, 5, "Software");
    lua_pushfstring(L, "%I", (LUAI_UACINT)pb_host_seed(L));
    lua_setfield(L, 5, "seed");
    merge_facts(L, 4, 5);
    merge_facts(L, 3, 5);
    size_t n = 0;
    const pb_text_pair *facts = push_pairs(L, 5, &n);
    const char *path = pb_host_output_path(L, name);
    PB_LUA(L, pb_figure_save(figure, path, facts, n, pb_lua_error(L)));
    pb_host_wrote(L, path);
    lua_settop(L, 1);
    return 1;
}

/* Width of the terminal on standard output, 0 if it is none. */
static int terminal_width(void) {
    struct winsize size;
    if (!isatty(STDOUT_FILENO))
        return 0;
    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 20 ? size.ws_col : 80;
}

/* figure:text { colour =, width =, max_rows = } -> text. Without options: as standard output can show it. */
static int figure_text(lua_State *L) {
    static const char *const fields[] = {"colour", "width", "max_rows", NULL};
    pb_check_arity(L, 2);
    const pb_figure *figure = check_figure(L);
    lua_settop(L, 2);
    int width = terminal_width();
    const char *no_colour = getenv("NO_COLOR");
    pb_terminal_options options = {.colour = width > 0 && !(no_colour && *no_colour), .width = width};
    if (!lua_isnil(L, 2)) {
        pb_check_fields(L, 2, fields, 0);
        options.colour = pb_field_boolean(L, 2, "colour", options.colour);
        options.width = (int)pb_field_integer(L, 2, "width", options.width, 0, 4096);
        options.max_rows = (size_t)pb_field_integer(L, 2, "max_rows", 0, 0, 1 << 20);
    }
    pb_box *block = pb_box_new(L, &PB_MEMORY_CLASS, 0);
    char *text = NULL;
    PB_LUA(L, pb_figure_terminal(figure, &options, &text, pb_lua_error(L)));
    block->object = text;
    lua_pushstring(L, text);
    return 1;
}

static int figure_len(lua_State *L) {
    lua_pushinteger(L, (lua_Integer)pb_figure_panels(check_figure(L)));
    return 1;
}

static const luaL_Reg methods[] = {
    {"heatmap", figure_heatmap}, {"attention", figure_attention}, {"lines", figure_lines}, {"bars", figure_bars},
    {"scatter", figure_scatter}, {"save", figure_save},           {"text", figure_text},   {NULL, NULL},
};

static const luaL_Reg metamethods[] = {{"__len", figure_len}, {NULL, NULL}};

static const pb_class PB_FIGURE_CLASS = {
    .name = "figure",
    .release = release_figure,
    .methods = methods,
    .metamethods = metamethods,
};

void pb_open_figure(lua_State *L);

void pb_open_figure(lua_State *L) {
    static const luaL_Reg functions[] = {{"figure", new_figure}, {NULL, NULL}};
    pb_class_open(L, &PB_FIGURE_CLASS);
    pb_add_functions(L, "", functions);
}
