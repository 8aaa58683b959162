/* Figures as text: blocks of colour with labels and a legend, or aligned plain numbers.
 * Columns are counted as terminals count them (utf8proc_charwidth): CJK and most emoji are two wide. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

#include "base/strbuf.h"
#include "figure/colour.h"
#include "figure/figure_private.h"

enum { DEFAULT_WIDTH = 80, DEFAULT_ROWS = 60, MIN_WIDTH = 20, MAX_ROW_LABEL = 28, LEGEND_STEPS = 24 };

/* ---- widths -------------------------------------------------------------------------------------------------------- */

static int char_width(utf8proc_int32_t c) {
    int width = utf8proc_charwidth(c);
    return width < 0 ? 0 : width;
}

static int text_width(const char *text) {
    int width = 0;
    for (size_t i = 0; text[i];) {
        utf8proc_int32_t c;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)text + i, -1, &c);
        width += n > 0 ? char_width(c) : 1;
        i += n > 0 ? (size_t)n : 1;
    }
    return width;
}

static void add_spaces(pb_strbuf *b, int n) {
    for (; n > 0; n--)
        pb_strbuf_add_char(b, ' ');
}

/* Text in a field; longer text ends in an ellipsis. */
static void add_field(pb_strbuf *b, const char *text, int field, bool right) {
    int width = text_width(text);
    if (width <= field) {
        add_spaces(b, right ? field - width : 0);
        pb_strbuf_add(b, text);
        add_spaces(b, right ? 0 : field - width);
        return;
    }
    int used = 0;
    for (size_t i = 0; text[i];) {
        utf8proc_int32_t c;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)text + i, -1, &c);
        int w = n > 0 ? char_width(c) : 1;
        if (used + w > field - 1)
            break;
        pb_strbuf_add_bytes(b, text + i, n > 0 ? (size_t)n : 1);
        used += w;
        i += n > 0 ? (size_t)n : 1;
    }
    pb_strbuf_add(b, field > 0 ? "\xE2\x80\xA6" : "");
    add_spaces(b, field - used - 1);
}

/* ---- a table: what every kind of panel becomes ------------------------------------------------------------------------ */

typedef struct table {
    size_t rows, cols;
    const char **row_labels, **col_labels;
    const bool *row_marked, *col_marked; /* or NULL */
    const char *corner;                  /* above the row labels */
    const double *values;                /* [rows, cols]; NaN with absent set: an empty cell */
    const unsigned char *absent;         /* [rows, cols] or NULL */
    int decimals;
    const pb_colour_scale *scale; /* NULL: plain */
    int padding;                  /* blanks around each number: 1 at its left; 2: 1 at each side */
    bool bare;                    /* colours without numbers */
} table;

static void number_text(const table *t, size_t row, size_t col, char out[PB_NUMBER_TEXT]) {
    size_t i = row * t->cols + col;
    if (t->bare || (t->absent && t->absent[i]))
        out[0] = '\0';
    else
        pb_decimal_text(t->values[i], t->decimals, out);
    if (!t->scale && strncmp(out, "\xE2\x88\x92", 3) == 0) { /* plain numbers are for programs too */
        out[0] = '-';
        memmove(out + 1, out + 3, strlen(out + 3) + 1);
    }
}

static void label_text(const char *label, bool marked, pb_strbuf *out) {
    pb_strbuf_clear(out);
    pb_strbuf_add(out, label);
    if (marked)
        pb_strbuf_add_char(out, '*');
}

static const char *text_of(const pb_strbuf *b) { return b->text ? b->text : ""; }

static int column_width(const table *t, size_t col, pb_strbuf *scratch) {
    label_text(t->col_labels[col], t->col_marked && t->col_marked[col], scratch);
    int width = text_width(text_of(scratch));
    if (width > 12)
        width = 12; /* longer names are shortened: the numbers matter more */
    for (size_t r = 0; r < t->rows; r++) {
        char text[PB_NUMBER_TEXT];
        number_text(t, r, col, text);
        int w = text_width(text);
        width = w > width ? w : width;
    }
    return width;
}

static void add_cell(pb_strbuf *b, const table *t, size_t row, size_t col, int width) {
    char text[PB_NUMBER_TEXT];
    number_text(t, row, col, text);
    size_t i = row * t->cols + col;
    bool absent = t->absent && t->absent[i];
    if (!t->scale || absent || isnan(t->values[i])) {
        add_spaces(b, 1);
        add_field(b, text, width, true);
        add_spaces(b, t->padding - 1);
        return;
    }
    pb_rgb c = pb_colour_of(t->scale->map, pb_colour_position(t->scale, t->values[i]));
    int ink = pb_colour_lightness(c) > 0.6 ? 0 : 255;
    pb_strbuf_printf(b, "\x1b[48;2;%d;%d;%dm\x1b[38;2;%d;%d;%dm ", (int)(c.r * 255 + 0.5), (int)(c.g * 255 + 0.5),
                     (int)(c.b * 255 + 0.5), ink, ink, ink);
    add_field(b, text, width, true);
    add_spaces(b, t->padding - 1);
    pb_strbuf_add(b, "\x1b[0m");
}

static void add_label(pb_strbuf *b, const table *t, const char *label, bool marked, int field, bool right,
                      pb_strbuf *scratch) {
    label_text(label, marked, scratch);
    if (t->scale && marked)
        pb_strbuf_add(b, "\x1b[1m");
    add_field(b, text_of(scratch), field, right);
    if (t->scale && marked)
        pb_strbuf_add(b, "\x1b[0m");
}

/* Rows that are shown: all, or the first and last half of max_rows. */
static bool row_shown(const table *t, size_t row, size_t max_rows) {
    return t->rows <= max_rows || row < (max_rows + 1) / 2 || row >= t->rows - max_rows / 2;
}

static void add_block(pb_strbuf *b, const table *t, size_t first, size_t last, const int *widths, int label_width,
                      size_t max_rows, pb_strbuf *scratch) {
    add_field(b, t->corner ? t->corner : "", label_width, false);
    for (size_t c = first; c < last; c++) {
        add_spaces(b, 1);
        add_label(b, t, t->col_labels[c], t->col_marked && t->col_marked[c], widths[c], true, scratch);
        add_spaces(b, t->padding - 1);
    }
    pb_strbuf_add_char(b, '\n');
    for (size_t r = 0; r < t->rows; r++) {
        if (!row_shown(t, r, max_rows)) {
            if (row_shown(t, r - 1, max_rows))
                pb_strbuf_printf(b, "... %zu rows left out\n", t->rows - max_rows);
            continue;
        }
        add_label(b, t, t->row_labels[r], t->row_marked && t->row_marked[r], label_width, true, scratch);
        for (size_t c = first; c < last; c++)
            add_cell(b, t, r, c, widths[c]);
        pb_strbuf_add_char(b, '\n');
    }
}

/* Cells of colour have one size; columns of plain numbers each their own. Returns the width of all. */
static int measure_columns(const table *t, int *widths, pb_strbuf *scratch) {
    int widest = 0, total = 0;
    for (size_t c = 0; c < t->cols; c++) {
        widths[c] = column_width(t, c, scratch);
        widest = widths[c] > widest ? widths[c] : widest;
        total += widths[c] + t->padding;
    }
    if (!t->scale)
        return total;
    for (size_t c = 0; c < t->cols; c++)
        widths[c] = widest;
    return (int)t->cols * (widest + t->padding);
}

/* Coloured tables that are too wide get narrower cells, then one decimal, then colours alone if labels are short. */
static void fit_columns(table *t, int *widths, int room, pb_strbuf *scratch) {
    t->padding = t->scale ? 2 : 1;
    if (measure_columns(t, widths, scratch) <= room || !t->scale)
        return;
    t->padding = 1;
    if (measure_columns(t, widths, scratch) <= room)
        return;
    int decimals = t->decimals;
    if (decimals > 1) {
        t->decimals = 1;
        if (measure_columns(t, widths, scratch) <= room)
            return;
        t->decimals = decimals;
    }
    t->bare = true;
    measure_columns(t, widths, scratch);
    if (widths[0] <= 3)
        return;
    t->bare = false;
    measure_columns(t, widths, scratch);
}

static int label_column(const table *t, int width, pb_strbuf *scratch) {
    int needed = t->corner ? text_width(t->corner) : 0;
    for (size_t r = 0; r < t->rows; r++) {
        label_text(t->row_labels[r], t->row_marked && t->row_marked[r], scratch);
        int w = text_width(text_of(scratch));
        needed = w > needed ? w : needed;
    }
    int most = width / 2 < MAX_ROW_LABEL ? width / 2 : MAX_ROW_LABEL;
    return needed > most ? most : needed;
}

/* Blocks of columns that fit the width, all with the row labels. */
static pb_status add_table(pb_strbuf *b, table *t, int width, size_t max_rows, pb_error *err) {
    int *widths = pb_alloc(b->ctx, t->cols, sizeof *widths);
    if (!widths)
        return pb_fail_memory(err, b->ctx, t->cols * sizeof *widths, "a figure as text");
    pb_strbuf scratch;
    pb_strbuf_init(&scratch, b->ctx);
    int label_width = label_column(t, width, &scratch);
    fit_columns(t, widths, width - label_width, &scratch);
    for (size_t first = 0; first < t->cols;) {
        size_t last = first;
        int used = label_width;
        while (last < t->cols && (last == first || used + widths[last] + t->padding <= width)) {
            used += widths[last] + t->padding;
            last++;
        }
        if (first > 0)
            pb_strbuf_add_char(b, '\n');
        add_block(b, t, first, last, widths, label_width, max_rows, &scratch);
        first = last;
    }
    b->failed = b->failed || scratch.failed;
    pb_strbuf_free(&scratch);
    pb_free(widths);
    return PB_OK;
}

/* ---- heat maps --------------------------------------------------------------------------------------------------------- */

static void add_legend(pb_strbuf *b, const pb_colour_scale *scale) {
    char text[PB_NUMBER_TEXT];
    int decimals = pb_decimals_for(fmax(fabs(scale->low), fabs(scale->high)));
    pb_decimal_text(scale->low, decimals, text);
    pb_strbuf_printf(b, "%s%s ", scale->below ? "\xE2\x89\xA4" : "", text);
    for (int i = 0; i < LEGEND_STEPS; i++) {
        pb_rgb c = pb_colour_of(scale->map, (i + 0.5) / LEGEND_STEPS);
        pb_strbuf_printf(b, "\x1b[48;2;%d;%d;%dm ", (int)(c.r * 255 + 0.5), (int)(c.g * 255 + 0.5),
                         (int)(c.b * 255 + 0.5));
    }
    pb_decimal_text(scale->high, decimals, text);
    pb_strbuf_printf(b, "\x1b[0m %s%s", scale->above ? "\xE2\x89\xA5" : "", text);
    if (scale->unit)
        pb_strbuf_printf(b, "  %s", scale->unit);
    pb_strbuf_add_char(b, '\n');
}

static pb_status add_heat(pb_strbuf *b, const pb_panel *panel, const pb_colour_scale *scale,
                          const pb_terminal_options *o, pb_error *err) {
    const pb_heat *heat = &panel->as.heat;
    size_t n = heat->rows.n * heat->cols.n;
    double *values = pb_alloc(b->ctx, n, sizeof *values);
    pb_strbuf corner;
    pb_strbuf_init(&corner, b->ctx);
    if (!values)
        return pb_fail_memory(err, b->ctx, n * sizeof *values, "a figure as text");
    for (size_t i = 0; i < n; i++)
        values[i] = (double)heat->values[i];
    if (panel->y_title && panel->x_title)
        pb_strbuf_printf(&corner, "%s \\ %s", panel->y_title, panel->x_title);
    else if (panel->y_title || panel->x_title)
        pb_strbuf_add(&corner, panel->y_title ? panel->y_title : panel->x_title);
    table t = {.rows = heat->rows.n,
               .cols = heat->cols.n,
               .row_labels = heat->rows.labels,
               .col_labels = heat->cols.labels,
               .row_marked = heat->rows.marked,
               .col_marked = heat->cols.marked,
               .corner = corner.text,
               .values = values,
               .absent = heat->masked,
               .scale = o->colour ? scale : NULL};
    t.decimals = heat->digits ? heat->digits : pb_decimals_for(fmax(fabs(heat->low), fabs(heat->high)));
    pb_status status = add_table(b, &t, o->width, o->max_rows, err);
    if (status == PB_OK && o->colour)
        add_legend(b, scale);
    else if (status == PB_OK && heat->unit)
        pb_strbuf_printf(b, "(%s)\n", heat->unit);
    b->failed = b->failed || corner.failed;
    pb_strbuf_free(&corner);
    pb_free(values);
    return status;
}

/* ---- lines, bars, points: one row per x, per group, per point ------------------------------------------------------------ */

/* Decimals for a column of mixed numbers: whole numbers have none. */
static int decimals_of(const double *values, size_t n) {
    double largest = 0;
    bool whole = true;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(values[i]))
            continue;
        largest = fmax(largest, fabs(values[i]));
        whole = whole && values[i] == floor(values[i]);
    }
    return whole ? 0 : pb_decimals_for(largest) + 1;
}

/* A table in a pool of its own: `rows` rows labelled by `label`, cols columns. */
static pb_status make_table(pb_pool *pool, size_t rows, size_t cols, table *t, double **values, pb_error *err) {
    *t = (table){.rows = rows, .cols = cols};
    t->row_labels = pb_pool_alloc(pool, rows, sizeof *t->row_labels);
    t->col_labels = pb_pool_alloc(pool, cols, sizeof *t->col_labels);
    *values = pb_pool_alloc(pool, rows * cols, sizeof **values);
    t->values = *values;
    if (!t->row_labels || !t->col_labels || !*values)
        return pb_fail_memory(err, pool->ctx, rows * cols * sizeof **values, "a figure as text");
    return PB_OK;
}

static pb_status index_label(pb_pool *pool, double value, int decimals, const char **out, pb_error *err) {
    char *text = pb_pool_alloc(pool, PB_NUMBER_TEXT, 1);
    if (!text)
        return pb_fail_memory(err, pool->ctx, PB_NUMBER_TEXT, "a figure as text");
    if (decimals < 0)
        pb_number_text(value, 6, text, PB_NUMBER_TEXT);
    else
        pb_decimal_text(value, decimals, text);
    *out = text;
    return PB_OK;
}

/* One table per line: lines need not have the same x. */
static pb_status add_series(pb_strbuf *b, pb_pool *pool, const pb_panel *panel, const pb_series *s,
                            const pb_terminal_options *o, pb_error *err) {
    const pb_line_plot *p = &panel->as.lines;
    size_t cols = s->low ? 3 : 1;
    table t;
    double *values;
    PB_TRY(make_table(pool, s->n, cols, &t, &values, err));
    const char *const names[3] = {s->label ? s->label : panel->y_title ? panel->y_title : "y", "low", "high"};
    for (size_t c = 0; c < cols; c++)
        t.col_labels[c] = names[c];
    for (size_t i = 0; i < s->n; i++) {
        if (p->x_labels && !s->x)
            t.row_labels[i] = p->x_labels[i];
        else
            PB_TRY(index_label(pool, s->x ? (double)s->x[i] : (double)i, -1, &t.row_labels[i], err));
        values[i * cols] = (double)s->y[i];
        if (cols == 3) {
            values[i * 3 + 1] = (double)s->low[i];
            values[i * 3 + 2] = (double)s->high[i];
        }
    }
    t.decimals = decimals_of(values, s->n * cols);
    t.corner = panel->x_title;
    return add_table(b, &t, o->width, o->max_rows, err);
}

static pb_status add_lines(pb_strbuf *b, pb_pool *pool, const pb_panel *panel, const pb_terminal_options *o,
                           pb_error *err) {
    const pb_line_plot *p = &panel->as.lines;
    for (size_t k = 0; k < p->n_series; k++) {
        if (k)
            pb_strbuf_add_char(b, '\n');
        if (p->series[k].label && text_width(p->series[k].label) > 12)
            pb_strbuf_printf(b, "%s\n", p->series[k].label); /* the column's name is too narrow for it */
        PB_TRY(add_series(b, pool, panel, &p->series[k], o, err));
    }
    return PB_OK;
}

static pb_status add_bars(pb_strbuf *b, pb_pool *pool, const pb_panel *panel, const pb_terminal_options *o,
                          pb_error *err) {
    const pb_bar_plot *p = &panel->as.bars;
    size_t each = p->low ? 3 : 1, cols = p->series * each;
    table t;
    double *values;
    PB_TRY(make_table(pool, p->groups, cols, &t, &values, err));
    for (size_t s = 0; s < p->series; s++) {
        const float *columns[3] = {p->values, p->low, p->high};
        for (size_t k = 0; k < each; k++) {
            t.col_labels[s * each + k] = k == 1             ? "low"
                                         : k == 2           ? "high"
                                         : p->series_labels ? p->series_labels[s]
                                                            : "value";
            for (size_t g = 0; g < p->groups; g++)
                values[g * cols + s * each + k] = (double)columns[k][s * p->groups + g];
        }
    }
    for (size_t g = 0; g < p->groups; g++) {
        if (p->group_labels)
            t.row_labels[g] = p->group_labels[g];
        else
            PB_TRY(index_label(pool, (double)g, 0, &t.row_labels[g], err));
    }
    t.decimals = decimals_of(values, p->groups * cols);
    t.corner = panel->x_title;
    return add_table(b, &t, o->width, o->max_rows, err);
}

static pb_status add_scatter(pb_strbuf *b, pb_pool *pool, const pb_panel *panel, const pb_terminal_options *o,
                             pb_error *err) {
    const pb_scatter *p = &panel->as.scatter;
    table t;
    double *values;
    PB_TRY(make_table(pool, p->n, 2, &t, &values, err));
    t.col_labels[0] = panel->x_title ? panel->x_title : "x";
    t.col_labels[1] = panel->y_title ? panel->y_title : "y";
    for (size_t i = 0; i < p->n; i++) {
        values[2 * i] = (double)p->x[i];
        values[2 * i + 1] = (double)p->y[i];
        if (p->labels && *p->labels[i])
            t.row_labels[i] = p->labels[i];
        else if (p->classes)
            t.row_labels[i] = p->class_labels[p->classes[i]];
        else
            PB_TRY(index_label(pool, (double)i, 0, &t.row_labels[i], err));
    }
    t.decimals = decimals_of(values, 2 * p->n);
    return add_table(b, &t, o->width, o->max_rows, err);
}

/* ---- all ----------------------------------------------------------------------------------------------------------------- */

static void add_heading(pb_strbuf *b, const char *text, bool bold) {
    if (text)
        pb_strbuf_printf(b, bold ? "\x1b[1m%s\x1b[0m\n" : "%s\n", text);
}

static pb_status add_panel(pb_strbuf *b, const pb_panel *panel, const pb_colour_scale *scale,
                           const pb_terminal_options *o, pb_error *err) {
    add_heading(b, panel->title, o->colour);
    add_heading(b, panel->subtitle, false);
    pb_pool pool = {.ctx = b->ctx};
    pb_status status = PB_OK;
    switch (panel->kind) {
    case PB_PANEL_HEAT:
        status = add_heat(b, panel, scale, o, err);
        break;
    case PB_PANEL_LINES:
        status = add_lines(b, &pool, panel, o, err);
        break;
    case PB_PANEL_BARS:
        status = add_bars(b, &pool, panel, o, err);
        break;
    case PB_PANEL_SCATTER:
        status = add_scatter(b, &pool, panel, o, err);
        break;
    }
    pb_pool_free(&pool);
    return status;
}

pb_status pb_figure_terminal(const pb_figure *figure, const pb_terminal_options *options, char **out, pb_error *err) {
    pb_terminal_options o = options ? *options : (pb_terminal_options){0};
    o.width = o.width ? o.width : DEFAULT_WIDTH;
    o.max_rows = o.max_rows ? o.max_rows : DEFAULT_ROWS;
    if (o.width < MIN_WIDTH)
        return pb_fail(err, PB_ERR_ARGUMENT, "a width of %d columns is too narrow: at least %d were expected", o.width,
                       MIN_WIDTH);
    if (figure->n_panels == 0)
        return pb_fail(err, PB_ERR_ARGUMENT, "the figure has no panels: add at least one before it is shown");
    pb_colour_scale *scales = pb_alloc(figure->ctx, figure->n_panels, sizeof *scales);
    if (!scales)
        return pb_fail_memory(err, figure->ctx, figure->n_panels * sizeof *scales, "a figure as text");
    size_t groups;
    pb_colour_scales(figure, scales, &groups);
    pb_strbuf b;
    pb_strbuf_init(&b, figure->ctx);
    add_heading(&b, figure->options.title, o.colour);
    add_heading(&b, figure->options.subtitle, false);
    pb_status status = PB_OK;
    for (size_t i = 0; i < figure->n_panels && status == PB_OK; i++) {
        if (i || figure->options.title)
            pb_strbuf_add_char(&b, '\n');
        status = add_panel(&b, figure->panels[i], &scales[i], &o, err);
    }
    add_heading(&b, figure->options.caption, false);
    if (status == PB_OK)
        status = pb_strbuf_take(&b, out, NULL, "a figure as text", err);
    pb_strbuf_free(&b);
    pb_free(scales);
    return status;
}
