/* Adding heat maps and attention patterns: checking, copying, laying the data as it will be drawn. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "figure/figure_private.h"

enum { MAX_CELLS_PER_AXIS = 8192, MAX_NUMBERED_CELLS = 2500 };

typedef struct labels_given {
    const char *const *labels;
    size_t n;
    const size_t *marked;
    size_t n_marked;
    const char *name; /* "row", "col" */
} labels_given;

static pb_status check_axis(const pb_figure *figure, const char *title, size_t size, const labels_given *given,
                            pb_error *err) {
    if (size == 0)
        return pb_panel_fail(figure, title, err, PB_ERR_ARGUMENT, "the grid is empty (it has no %ss): nothing to draw",
                             given->name);
    if (size > MAX_CELLS_PER_AXIS)
        return pb_panel_fail(figure, title, err, PB_ERR_ARGUMENT,
                             "%zu %ss are more than can be drawn (%d): select or average a part of them", size,
                             given->name, MAX_CELLS_PER_AXIS);
    if (given->n != size && (given->labels || given->n))
        return pb_panel_fail(figure, title, err, PB_ERR_ARGUMENT,
                             "%zu %s labels for %zu %ss: one for each was expected", given->n, given->name, size,
                             given->name);
    if (given->n && !given->labels)
        return pb_panel_fail(figure, title, err, PB_ERR_ARGUMENT, "n_%s_labels is %zu, but there are no labels",
                             given->name, given->n);
    for (size_t i = 0; i < given->n_marked; i++) {
        if (given->marked[i] >= size)
            return pb_panel_fail(figure, title, err, PB_ERR_ARGUMENT,
                                 "marked %s %zu is out of range: there are %zu %ss, 0 to %zu", given->name,
                                 given->marked[i], size, given->name, size - 1);
    }
    return PB_OK;
}

static bool whole_number(const char *text) {
    size_t n = strspn(text, "0123456789");
    return n > 0 && text[n] == '\0';
}

static pb_status copy_axis(pb_pool *pool, size_t size, const labels_given *given, bool reversed, pb_heat_axis *axis,
                           pb_error *err) {
    axis->n = size;
    axis->reversed = reversed;
    axis->numeric = true;
    axis->labels = pb_pool_alloc(pool, size, sizeof *axis->labels);
    if (!axis->labels)
        return pb_fail_memory(err, pool->ctx, size * sizeof *axis->labels, "a figure's labels");
    for (size_t i = 0; i < size; i++) {
        size_t shown = reversed ? size - 1 - i : i;
        char number[24];
        const char *text = number;
        if (given->labels)
            text = given->labels[i] ? given->labels[i] : "";
        else
            snprintf(number, sizeof number, "%zu", i);
        axis->numeric = axis->numeric && whole_number(text);
        PB_TRY(pb_copy_label(pool, text, &axis->labels[shown], err));
    }
    if (given->n_marked) {
        axis->marked = pb_pool_alloc(pool, size, sizeof *axis->marked);
        if (!axis->marked)
            return pb_fail_memory(err, pool->ctx, size, "a figure's marks");
        for (size_t i = 0; i < given->n_marked; i++)
            axis->marked[reversed ? size - 1 - given->marked[i] : given->marked[i]] = true;
    }
    return PB_OK;
}

/* Values as drawn, and what is known of them. */
static pb_status copy_values(pb_pool *pool, const pb_heatmap *p, pb_heat *heat, pb_error *err) {
    size_t rows = heat->rows.n, cols = heat->cols.n;
    heat->values = pb_pool_alloc(pool, rows * cols, sizeof *heat->values);
    heat->masked = p->causal ? pb_pool_alloc(pool, rows * cols, 1) : NULL;
    if (!heat->values || (p->causal && !heat->masked))
        return pb_fail_memory(err, pool->ctx, rows * cols * sizeof *heat->values, "a heat map's values");
    heat->low = INFINITY;
    heat->high = -INFINITY;
    for (size_t r = 0; r < rows; r++) {
        size_t down = heat->rows.reversed ? rows - 1 - r : r;
        for (size_t c = 0; c < cols; c++) {
            size_t row = p->transposed ? c : down, col = p->transposed ? down : c;
            float value = p->values[row * p->cols + col];
            heat->values[r * cols + c] = value;
            if (p->causal && col > row) {
                heat->masked[r * cols + c] = 1;
            } else if (isnan(value)) {
                heat->n_nan++;
            } else if (isfinite(value)) {
                heat->low = fmin(heat->low, (double)value);
                heat->high = fmax(heat->high, (double)value);
            }
        }
    }
    return PB_OK;
}

static pb_status check_heatmap(const pb_figure *figure, const pb_heatmap *p, const labels_given *rows,
                               const labels_given *cols, pb_error *err) {
    PB_TRY(check_axis(figure, p->title, p->rows, rows, err));
    PB_TRY(check_axis(figure, p->title, p->cols, cols, err));
    if (!p->values)
        return pb_panel_fail(figure, p->title, err, PB_ERR_ARGUMENT, "the heat map has no values");
    if ((unsigned)p->map >= PB_COLOURS_COUNT)
        return pb_panel_fail(figure, p->title, err, PB_ERR_ARGUMENT, "colour map %d does not exist", (int)p->map);
    if ((unsigned)p->numbers > PB_NUMBERS_OFF)
        return pb_panel_fail(figure, p->title, err, PB_ERR_ARGUMENT, "numbers is %d, which is none of auto, on, off",
                             (int)p->numbers);
    if (p->numbers == PB_NUMBERS_ON && p->rows * p->cols > MAX_NUMBERED_CELLS)
        return pb_panel_fail(figure, p->title, err, PB_ERR_ARGUMENT,
                             "numbers cannot be written into %zu cells: %d are the most; leave numbers off, or save "
                             "the values as CSV",
                             p->rows * p->cols, MAX_NUMBERED_CELLS);
    if (p->digits < 0 || p->digits > 9)
        return pb_panel_fail(figure, p->title, err, PB_ERR_ARGUMENT, "digits is %d: 0 to 9 were expected", p->digits);
    return pb_panel_check_range(figure, p->title, p->range, "range", err);
}

static pb_status fill_heat(pb_figure *figure, pb_panel *panel, const pb_heatmap *p, const labels_given *rows,
                           const labels_given *cols, pb_error *err) {
    pb_heat *heat = &panel->as.heat;
    bool flip = p->upward;
    PB_TRY(copy_axis(&panel->pool, p->transposed ? p->cols : p->rows, p->transposed ? cols : rows, flip, &heat->rows,
                     err));
    PB_TRY(copy_axis(&panel->pool, p->transposed ? p->rows : p->cols, p->transposed ? rows : cols, false, &heat->cols,
                     err));
    PB_TRY(copy_values(&panel->pool, p, heat, err));
    if (!isfinite(heat->low))
        return pb_panel_fail(figure, p->title, err, PB_ERR_NUMERIC,
                             heat->n_nan ? "all values are NaN or infinite: there is nothing to draw"
                                         : "all values are infinite: there is nothing to draw");
    PB_TRY(pb_copy_text(&panel->pool, p->unit, &heat->unit, err));
    heat->map = p->map;
    heat->numbers = p->numbers;
    heat->digits = p->digits;
    heat->has_range = p->range != NULL;
    if (p->range)
        memcpy(heat->range, p->range, sizeof heat->range);
    return PB_OK;
}

static pb_status add_heat(pb_figure *figure, const pb_heatmap *p, bool attention, pb_error *err) {
    labels_given rows = {p->row_labels, p->n_row_labels, p->marked_rows, p->n_marked_rows, "row"};
    labels_given cols = {p->col_labels, p->n_col_labels, p->marked_cols, p->n_marked_cols, "column"};
    PB_TRY(check_heatmap(figure, p, &rows, &cols, err));
    pb_panel *panel;
    PB_TRY(pb_panel_begin(figure, PB_PANEL_HEAT, p->title, p->subtitle, p->x_title, p->y_title, &panel, err));
    pb_status status = fill_heat(figure, panel, p, &rows, &cols, err);
    panel->as.heat.square = panel->as.heat.from_zero = attention;
    if (status == PB_OK)
        status = pb_figure_take_panel(figure, panel, err);
    if (status != PB_OK)
        pb_panel_drop(panel);
    return status;
}

pb_status pb_figure_add_heatmap(pb_figure *figure, const pb_heatmap *panel, pb_error *err) {
    return add_heat(figure, panel, false, err);
}

pb_status pb_figure_add_attention(pb_figure *figure, const pb_attention *p, pb_error *err) {
    pb_heatmap heatmap = {
        .title = p->title,
        .rows = p->tokens,
        .cols = p->tokens,
        .values = p->pattern,
        .row_labels = p->labels,
        .n_row_labels = p->n_labels,
        .col_labels = p->labels,
        .n_col_labels = p->n_labels,
        .x_title = "source (key)",
        .y_title = "destination (query)",
        .marked_rows = p->marked,
        .n_marked_rows = p->n_marked,
        .marked_cols = p->marked,
        .n_marked_cols = p->n_marked,
        .causal = !p->bidirectional,
        .map = p->map == PB_COLOURS_AUTO ? PB_COLOURS_SEQUENTIAL : p->map,
        .range = p->range,
        .unit = p->unit ? p->unit : "attention",
        .numbers = PB_NUMBERS_OFF,
    };
    return add_heat(figure, &heatmap, true, err);
}
