/* Where everything is: panels in rows and columns, the shared colour bar at their right, texts above and below. */
#include <math.h>
#include <string.h>

#include "figure/draw.h"

enum {
    MARGIN = 12,
    GAP_ACROSS = 16,
    GAP_DOWN = 16,
    TITLE_GAP = 10,
    CAPTION_GAP = 10,
    BAR_GAP = 14,
    PAGE_WIDTH = 780,
    BAR_LIMIT = 220,
    MIN_TEXT_WIDTH = 240
};

struct pb_layout {
    const pb_figure *figure;
    pb_type *type;
    pb_plan *plans;          /* [n_panels] */
    pb_colour_scale *scales; /* [n_panels] */
    pb_box *columns, *rows;  /* [n_columns], [n_rows]: the largest box of each */
    size_t n_columns, n_rows;
    bool shared_bar;
    double bar_height;
    double text_width; /* at which title, subtitle and caption wrap */
    double head;       /* from the upper margin to the panels */
    double body_width, body_height;
    pb_extent size;
};

static void plan_panel(pb_layout *l, size_t i) {
    pb_plan *plan = &l->plans[i];
    switch (plan->panel->kind) {
    case PB_PANEL_HEAT:
        pb_heat_plan(l->type, l->figure, i ? &l->plans[i - 1] : NULL, plan);
        break;
    case PB_PANEL_LINES:
        pb_lines_plan(l->type, plan, l->figure->n_panels > 1);
        break;
    case PB_PANEL_BARS:
        pb_bars_plan(l->type, plan);
        break;
    case PB_PANEL_SCATTER:
        pb_scatter_plan(l->type, plan);
        break;
    }
}

static bool same_title(const char *a, const char *b) { return a == b || (a && b && strcmp(a, b) == 0); }

static bool same_rows(const pb_plan *a, const pb_plan *b) {
    return a->panel->kind == PB_PANEL_HEAT && b->panel->kind == PB_PANEL_HEAT && a->cell_height == b->cell_height &&
           same_title(a->panel->y_title, b->panel->y_title) &&
           pb_heat_same_axis(&a->panel->as.heat.rows, &b->panel->as.heat.rows);
}

static bool same_cols(const pb_plan *a, const pb_plan *b) {
    return a->panel->kind == PB_PANEL_HEAT && b->panel->kind == PB_PANEL_HEAT && a->cell_width == b->cell_width &&
           same_title(a->panel->x_title, b->panel->x_title) &&
           pb_heat_same_axis(&a->panel->as.heat.cols, &b->panel->as.heat.cols);
}

/* Labels that the panel to the left (below) shows too are written there only; but for a whole column (row) of panels at
 * a time: as soon as one panel of it needs the room, all use it. */
static void hide_repeats(pb_layout *l, size_t columns) {
    size_t n = l->figure->n_panels;
    for (size_t c = 0; c < columns; c++) {
        bool hide = c > 0;
        for (size_t i = c; i < n && hide; i += columns)
            hide = same_rows(&l->plans[i - 1], &l->plans[i]);
        for (size_t i = c; i < n; i += columns)
            l->plans[i].hide_rows = hide;
    }
    for (size_t first = 0; first < n; first += columns) {
        bool hide = true;
        for (size_t i = first; i < first + columns && i < n && hide; i++)
            hide = i + columns < n && same_cols(&l->plans[i], &l->plans[i + columns]);
        for (size_t i = first; i < first + columns && i < n; i++)
            l->plans[i].hide_cols = hide;
    }
}

/* The largest boxes of each row and column of panels; body_width and body_height. */
static void measure_table(pb_layout *l, size_t columns) {
    size_t n = l->figure->n_panels;
    l->n_columns = columns;
    l->n_rows = (n + columns - 1) / columns;
    memset(l->columns, 0, n * sizeof *l->columns);
    memset(l->rows, 0, n * sizeof *l->rows);
    for (size_t i = 0; i < n; i++) {
        const pb_box *box = &l->plans[i].box;
        pb_box *column = &l->columns[i % columns], *row = &l->rows[i / columns];
        column->left = fmax(column->left, box->left);
        column->width = fmax(column->width, box->width);
        column->right = fmax(column->right, box->right + box->width); /* from the plot's left edge, for now */
        row->top = fmax(row->top, box->top);
        row->height = fmax(row->height, box->height);
        row->bottom = fmax(row->bottom, box->bottom + box->height);
    }
    l->body_width = (double)(columns - 1) * GAP_ACROSS;
    for (size_t c = 0; c < columns; c++) {
        l->columns[c].right -= l->columns[c].width;
        l->body_width += l->columns[c].left + l->columns[c].width + l->columns[c].right;
    }
    l->body_height = (double)(l->n_rows - 1) * GAP_DOWN;
    for (size_t r = 0; r < l->n_rows; r++) {
        l->rows[r].bottom -= l->rows[r].height;
        l->body_height += l->rows[r].top + l->rows[r].height + l->rows[r].bottom;
    }
}

static void arrange(pb_layout *l, size_t columns) {
    hide_repeats(l, columns);
    for (size_t i = 0; i < l->figure->n_panels; i++)
        plan_panel(l, i);
    measure_table(l, columns);
}

/* As many columns as the page's width allows, then as few as need the same number of rows. */
static void choose_columns(pb_layout *l) {
    size_t n = l->figure->n_panels, columns = (size_t)l->figure->options.columns;
    if (columns > 0) {
        arrange(l, columns < n ? columns : n);
        return;
    }
    double narrowest = INFINITY;
    for (size_t i = 0; i < n; i++)
        narrowest = fmin(narrowest, l->plans[i].box.width);
    columns = (size_t)((PAGE_WIDTH + GAP_ACROSS) / (narrowest + GAP_ACROSS));
    columns = columns < 1 ? 1 : columns > n ? n : columns;
    arrange(l, columns);
    while (columns > 1 && l->body_width > PAGE_WIDTH)
        arrange(l, --columns);
    size_t rows = (n + columns - 1) / columns, balanced = (n + rows - 1) / rows;
    if (balanced != columns)
        arrange(l, balanced);
}

static void choose_bars(pb_layout *l) {
    size_t n = l->figure->n_panels, groups;
    pb_colour_scales(l->figure, l->scales, &groups);
    l->shared_bar = n > 1 && groups == 1;
    for (size_t i = 0; i < n; i++) {
        l->shared_bar =
            l->shared_bar && l->plans[i].panel->kind == PB_PANEL_HEAT && l->scales[i].map == l->scales[0].map;
        l->plans[i].scale = &l->scales[i];
    }
    for (size_t i = 0; i < n; i++)
        l->plans[i].own_bar = !l->shared_bar;
}

/* Title and subtitle above, caption below, all wrapped at the panels' width (which they may widen a little). */
static void frame(pb_layout *l) {
    const pb_figure_options *o = &l->figure->options;
    double width = l->body_width, bar = 0;
    if (l->shared_bar) {
        l->bar_height = fmin(BAR_LIMIT, l->body_height - l->rows[0].top - l->rows[l->n_rows - 1].bottom);
        pb_extent extent = pb_colour_bar_measure(l->type, &l->scales[0], l->bar_height);
        bar = BAR_GAP + extent.width;
        l->body_height = fmax(l->body_height, l->rows[0].top + extent.height);
    }
    width += bar;
    l->text_width = fmax(width, MIN_TEXT_WIDTH);
    pb_extent title = pb_type_measure(l->type, PB_STYLE_FIGURE_TITLE, o->title, l->text_width);
    pb_extent subtitle = pb_type_measure(l->type, PB_STYLE_SUBTITLE, o->subtitle, l->text_width);
    pb_extent caption = pb_type_measure(l->type, PB_STYLE_CAPTION, o->caption, l->text_width);
    l->head = title.height + (title.height > 0 && subtitle.height > 0 ? 2 : 0) + subtitle.height;
    l->head += l->head > 0 ? TITLE_GAP : 0;
    double foot = caption.height > 0 ? CAPTION_GAP + caption.height : 0;
    l->size.width = 2 * MARGIN + fmax(fmax(width, title.width), fmax(subtitle.width, caption.width));
    l->size.height = 2 * MARGIN + l->head + l->body_height + foot;
    l->size.width = ceil(l->size.width);
    l->size.height = ceil(l->size.height);
}

pb_status pb_layout_make(const pb_figure *figure, pb_type *type, pb_layout **out, pb_error *err) {
    size_t n = figure->n_panels;
    if (n == 0)
        return pb_fail(err, PB_ERR_ARGUMENT, "the figure has no panels: add at least one before it is drawn");
    pb_layout *l = pb_alloc_zero(figure->ctx, 1, sizeof *l);
    if (!l)
        return pb_fail_memory(err, figure->ctx, sizeof *l, "a figure's layout");
    l->figure = figure;
    l->type = type;
    l->plans = pb_alloc_zero(figure->ctx, n, sizeof *l->plans);
    l->scales = pb_alloc_zero(figure->ctx, n, sizeof *l->scales);
    l->columns = pb_alloc_zero(figure->ctx, n, sizeof *l->columns);
    l->rows = pb_alloc_zero(figure->ctx, n, sizeof *l->rows);
    if (!l->plans || !l->scales || !l->columns || !l->rows) {
        pb_layout_free(l);
        return pb_fail_memory(err, figure->ctx, n * sizeof *l->plans, "a figure's layout");
    }
    for (size_t i = 0; i < n; i++)
        l->plans[i].panel = figure->panels[i];
    choose_bars(l);
    for (size_t i = 0; i < n; i++)
        plan_panel(l, i);
    choose_columns(l);
    frame(l);
    *out = l;
    return PB_OK;
}

void pb_layout_free(pb_layout *l) {
    if (!l)
        return;
    pb_free(l->plans);
    pb_free(l->scales);
    pb_free(l->columns);
    pb_free(l->rows);
    pb_free(l);
}

pb_extent pb_layout_size(const pb_layout *l) { return l->size; }

static pb_status draw_panel(pb_layout *l, cairo_t *cr, const pb_plan *plan, double x, double y, pb_error *err) {
    switch (plan->panel->kind) {
    case PB_PANEL_HEAT:
        pb_heat_draw(l->type, cr, plan, x, y);
        break;
    case PB_PANEL_LINES:
        pb_lines_draw(l->type, cr, plan, x, y);
        break;
    case PB_PANEL_BARS:
        pb_bars_draw(l->type, cr, plan, x, y);
        break;
    case PB_PANEL_SCATTER:
        return pb_scatter_draw(l->type, cr, plan, x, y, err);
    }
    return PB_OK;
}

static pb_status draw_panels(pb_layout *l, cairo_t *cr, pb_error *err) {
    double y = MARGIN + l->head;
    for (size_t r = 0; r < l->n_rows; r++) {
        y += l->rows[r].top;
        double x = MARGIN;
        for (size_t c = 0; c < l->n_columns && r * l->n_columns + c < l->figure->n_panels; c++) {
            x += l->columns[c].left;
            PB_TRY(draw_panel(l, cr, &l->plans[r * l->n_columns + c], x, y, err));
            PB_TRY(pb_context_check(l->figure->ctx, err));
            x += l->columns[c].width + l->columns[c].right + GAP_ACROSS;
        }
        y += l->rows[r].height + l->rows[r].bottom + GAP_DOWN;
    }
    return PB_OK;
}

pb_status pb_layout_draw(pb_layout *l, cairo_t *cr, pb_error *err) {
    const pb_figure_options *o = &l->figure->options;
    cairo_set_source_rgb(cr, 1, 1, 1);
    cairo_paint(cr);
    double y = MARGIN;
    if (o->title) {
        pb_type_draw(l->type, cr, PB_STYLE_FIGURE_TITLE, o->title, l->text_width, MARGIN, y, (pb_anchor){0, 0}, 0,
                     PB_INK);
        y += pb_type_measure(l->type, PB_STYLE_FIGURE_TITLE, o->title, l->text_width).height + 2;
    }
    if (o->subtitle)
        pb_type_draw(l->type, cr, PB_STYLE_SUBTITLE, o->subtitle, l->text_width, MARGIN, y, (pb_anchor){0, 0}, 0,
                     PB_SOFT);
    PB_TRY(draw_panels(l, cr, err));
    if (l->shared_bar)
        pb_colour_bar_draw(l->type, cr, &l->scales[0], MARGIN + l->body_width + BAR_GAP,
                           MARGIN + l->head + l->rows[0].top, l->bar_height);
    if (o->caption)
        pb_type_draw(l->type, cr, PB_STYLE_CAPTION, o->caption, l->text_width, MARGIN,
                     MARGIN + l->head + l->body_height + CAPTION_GAP, (pb_anchor){0, 0}, 0, PB_SOFT);
    return PB_OK;
}
