/* Axes of lines, bars and points: ranges, ticks, grid lines, markers. */
#include <math.h>
#include <string.h>

#include "figure/draw.h"

enum { TICK_LENGTH = 3, TICK_GAP = 3, LABEL_GAP = 4 };

double pb_axis_position(const pb_axis_plan *axis, double value) {
    if (axis->log)
        return (log(value) - log(axis->low)) / (log(axis->high) - log(axis->low));
    return (value - axis->low) / (axis->high - axis->low);
}

void pb_axis_plan_make(pb_axis_plan *axis, double low, double high, const double *range, bool log, bool whole,
                       int wanted) {
    axis->log = log;
    axis->low = range ? range[0] : low;
    axis->high = range ? range[1] : high;
    if (log) {
        double factor = axis->low < axis->high ? pow(axis->high / axis->low, 0.04) : 2;
        if (!range) {
            axis->low /= factor;
            axis->high *= factor;
        }
        pb_ticks_log(axis->low, axis->high, wanted, &axis->ticks);
        return;
    }
    if (!range)
        pb_range_widen(&axis->low, &axis->high);
    pb_ticks_linear(axis->low, axis->high, wanted, whole, &axis->ticks);
}

void pb_axes_box(pb_type *type, pb_plan *plan) {
    pb_box *box = &plan->box;
    double widest = 0, line = pb_type_line_height(type, PB_STYLE_LABEL);
    for (int i = 0; i < plan->y.ticks.n; i++)
        widest = fmax(widest, pb_type_measure(type, PB_STYLE_LABEL, plan->y.ticks.text[i], 0).width);
    box->left = plan->labels_left = TICK_GAP + widest + 2;
    box->top = fmax(box->top, line / 2); /* of the uppermost tick's text */
    if (plan->x_labels.step > 0) {       /* names along x */
        box->bottom = LABEL_GAP + plan->x_labels.extent;
        box->left = fmax(box->left, plan->x_labels.overhang_left);
        box->right = plan->x_labels.overhang_right;
    } else {
        box->bottom = TICK_LENGTH + TICK_GAP + line;
        int last = plan->x.ticks.n - 1;
        double half = pb_type_measure(type, PB_STYLE_LABEL, plan->x.ticks.text[last], 0).width / 2;
        double room = box->width * (1 - pb_axis_position(&plan->x, plan->x.ticks.at[last]));
        box->right = fmax(0, half - room);
    }
    box->right = fmax(box->right, plan->legend_width);
    pb_titles_box(type, plan);
}

static void hair(cairo_t *cr, double x0, double y0, double x1, double y1, pb_rgb c, double width) {
    cairo_set_source_rgb(cr, c.r, c.g, c.b);
    cairo_set_line_width(cr, width);
    cairo_move_to(cr, x0, y0);
    cairo_line_to(cr, x1, y1);
    cairo_stroke(cr);
}

void pb_axes_draw(pb_type *type, cairo_t *cr, const pb_plan *plan, double x, double y, pb_grid grid) {
    const pb_box *box = &plan->box;
    double bottom = y + box->height;
    for (int i = 0; i < plan->y.ticks.n; i++) {
        double at = bottom - box->height * pb_axis_position(&plan->y, plan->y.ticks.at[i]);
        bool zero = plan->y.ticks.at[i] == 0 && plan->y.low < 0;
        if (zero || grid != PB_GRID_NONE)
            hair(cr, x, at, x + box->width, at, zero ? PB_SOFT : PB_FAINT, zero ? 0.8 : 0.6);
        pb_type_draw(type, cr, PB_STYLE_LABEL, plan->y.ticks.text[i], 0, x - TICK_GAP - 2, at, (pb_anchor){1, 0.5}, 0,
                     PB_INK);
    }
    if (plan->x_labels.step == 0) {
        for (int i = 0; i < plan->x.ticks.n; i++) {
            double at = x + box->width * pb_axis_position(&plan->x, plan->x.ticks.at[i]);
            if (grid == PB_GRID_BOTH)
                hair(cr, at, y, at, bottom, PB_FAINT, 0.6);
            hair(cr, at, bottom, at, bottom + TICK_LENGTH, PB_SOFT, 0.6);
            pb_type_draw(type, cr, PB_STYLE_LABEL, plan->x.ticks.text[i], 0, at, bottom + TICK_LENGTH + TICK_GAP - 1,
                         (pb_anchor){0.5, 0}, 0, PB_INK);
        }
    }
    bool bars = plan->panel->kind == PB_PANEL_BARS; /* they stand on zero, wherever that is */
    if (!bars || plan->y.low >= 0)
        hair(cr, x, bottom, x + box->width, bottom, PB_SOFT, 0.8);
    pb_titles_draw(type, cr, plan, x, y);
}

void pb_draw_marker(cairo_t *cr, size_t shape, double x, double y, double r) {
    cairo_new_sub_path(cr);
    switch (shape % 4) {
    case 0:
        cairo_arc(cr, x, y, r, 0, 2 * M_PI);
        break;
    case 1:
        cairo_rectangle(cr, x - 0.9 * r, y - 0.9 * r, 1.8 * r, 1.8 * r);
        break;
    case 2:
        cairo_move_to(cr, x, y - 1.25 * r);
        cairo_line_to(cr, x + 1.15 * r, y + 0.85 * r);
        cairo_line_to(cr, x - 1.15 * r, y + 0.85 * r);
        cairo_close_path(cr);
        break;
    default:
        cairo_move_to(cr, x, y - 1.3 * r);
        cairo_line_to(cr, x + 1.3 * r, y);
        cairo_line_to(cr, x, y + 1.3 * r);
        cairo_line_to(cr, x - 1.3 * r, y);
        cairo_close_path(cr);
    }
}
