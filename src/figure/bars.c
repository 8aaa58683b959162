/* Grouped bars with error bars, and a legend at the right where there are several in a group. */
#include <math.h>
#include <stdio.h>

#include "figure/draw.h"

enum { HEIGHT = 180, LEGEND_GAP = 12, LEGEND_WRAP = 150, SWATCH = 9, ROW_GAP = 4, WORD_LIMIT = 66, PAGE = 480 };

/* Bars get between 6 and 26 points each, and their group a gap of a third. */
static double group_pitch(const pb_bar_plot *p) {
    double bars = (double)p->series, groups = (double)p->groups;
    double bar = 330 / (groups * (bars + 0.6));
    bar = bar > 26 ? 26 : bar < 6 ? 6 : bar;
    return bar * (bars + 0.6);
}

static bool interval_of(const pb_bar_plot *p, size_t i, double *low, double *high) {
    if (!p->low || !isfinite(p->low[i]) || !isfinite(p->high[i]))
        return false;
    *low = (double)p->low[i];
    *high = (double)p->high[i];
    return true;
}

static int decimals_of(const pb_bar_plot *p) {
    double largest = 0;
    for (size_t i = 0; i < p->series * p->groups; i++) {
        if (isfinite(p->values[i]))
            largest = fmax(largest, fabs((double)p->values[i]));
    }
    return pb_decimals_for(largest);
}

static void plan_y(pb_plan *plan) {
    const pb_bar_plot *p = &plan->panel->as.bars;
    double least = 0, most = 0; /* bars begin at zero */
    for (size_t i = 0; i < p->series * p->groups; i++) {
        double low, high;
        if (!isfinite(p->values[i]))
            continue;
        least = fmin(least, (double)p->values[i]);
        most = fmax(most, (double)p->values[i]);
        if (interval_of(p, i, &low, &high)) {
            least = fmin(least, low);
            most = fmax(most, high);
        }
    }
    double range[2] = {least, most};
    if (!(least < most))
        range[1] = 1;
    double pad = (p->numbers ? 0.08 : 0.04) * (range[1] - range[0]);
    range[0] -= least < 0 ? pad : 0;
    range[1] += most > 0 ? pad : 0;
    pb_axis_plan_make(&plan->y, range[0], range[1], p->y_range ? p->y_range : range, false, false, 5);
}

void pb_bars_plan(pb_type *type, pb_plan *plan) {
    const pb_bar_plot *p = &plan->panel->as.bars;
    double pitch = group_pitch(p);
    if (p->numbers) { /* numbers of neighbouring bars must not touch */
        char text[PB_NUMBER_TEXT];
        double widest = 0;
        for (size_t i = 0; i < p->series * p->groups; i++) {
            pb_decimal_text((double)p->values[i], decimals_of(p), text);
            widest = fmax(widest, pb_type_measure(type, PB_STYLE_CELL, text, 0).width);
        }
        pitch = fmax(pitch, (widest + 3) * ((double)p->series + 0.6));
    }
    for (size_t g = 0; p->group_labels && g < p->groups; g++) { /* labels break between words if a word fits */
        double word = pb_type_measure(type, PB_STYLE_LABEL, p->group_labels[g], 1).width;
        if (word + 8 <= WORD_LIMIT && (word + 8) * (double)p->groups <= PAGE)
            pitch = fmax(pitch, word + 8);
    }
    plan->box = (pb_box){.width = pitch * (double)p->groups, .height = HEIGHT};
    plan_y(plan);
    double line = pb_type_line_height(type, PB_STYLE_LEGEND), widest = 0, height = 0;
    for (size_t s = 0; p->series_labels && s < p->series; s++) {
        pb_extent t = pb_type_measure(type, PB_STYLE_LEGEND, p->series_labels[s], LEGEND_WRAP);
        widest = fmax(widest, t.width);
        height += fmax(t.height, line) + ROW_GAP;
    }
    plan->box.height = fmax(plan->box.height, height);
    plan->legend_width = widest > 0 ? LEGEND_GAP + SWATCH + 5 + widest : 0;
    if (p->group_labels)
        pb_labels_below_plan(type, p->group_labels, NULL, p->groups, false, pitch, &plan->x_labels);
    else
        plan->x_labels = (pb_label_plan){.step = pb_label_step(p->groups, pitch, 24), .extent = line};
    pb_axes_box(type, plan);
}

static void draw_error_bar(cairo_t *cr, double x, double low, double high) {
    cairo_set_source_rgb(cr, PB_INK.r, PB_INK.g, PB_INK.b);
    cairo_set_line_width(cr, 0.9);
    cairo_move_to(cr, x, low);
    cairo_line_to(cr, x, high);
    cairo_move_to(cr, x - 2.5, low);
    cairo_line_to(cr, x + 2.5, low);
    cairo_move_to(cr, x - 2.5, high);
    cairo_line_to(cr, x + 2.5, high);
    cairo_stroke(cr);
}

static double clamp(double t) { return t < 0 ? 0 : t > 1 ? 1 : t; }

static void draw_bar(pb_type *type, cairo_t *cr, const pb_plan *plan, size_t i, size_t series, double left,
                     double width, double y) {
    const pb_bar_plot *p = &plan->panel->as.bars;
    double value = (double)p->values[i], low, high, h = plan->box.height;
    if (!isfinite(value))
        return;
    double foot = y + h * (1 - clamp(pb_axis_position(&plan->y, 0)));
    double tip = y + h * (1 - clamp(pb_axis_position(&plan->y, value)));
    pb_rgb c = pb_series_colour(series);
    cairo_set_source_rgb(cr, c.r, c.g, c.b);
    cairo_rectangle(cr, left, fmin(foot, tip), width, fabs(foot - tip));
    cairo_fill(cr);
    double end = tip;
    if (interval_of(p, i, &low, &high)) {
        double top = y + h * (1 - clamp(pb_axis_position(&plan->y, high)));
        double bottom = y + h * (1 - clamp(pb_axis_position(&plan->y, low)));
        draw_error_bar(cr, left + width / 2, bottom, top);
        end = value < 0 ? fmax(end, bottom) : fmin(end, top);
    }
    if (p->numbers) {
        char text[PB_NUMBER_TEXT];
        pb_decimal_text(value, decimals_of(p), text);
        pb_type_draw(type, cr, PB_STYLE_CELL, text, 0, left + width / 2, value < 0 ? end + 2 : end - 2,
                     (pb_anchor){0.5, value < 0 ? 0 : 1}, 0, PB_INK);
    }
}

static void draw_legend(pb_type *type, cairo_t *cr, const pb_plan *plan, double x, double y) {
    const pb_bar_plot *p = &plan->panel->as.bars;
    double left = x + plan->box.width + LEGEND_GAP, line = pb_type_line_height(type, PB_STYLE_LEGEND);
    for (size_t s = 0; p->series_labels && s < p->series; s++) {
        pb_rgb c = pb_series_colour(s);
        pb_extent t = pb_type_measure(type, PB_STYLE_LEGEND, p->series_labels[s], LEGEND_WRAP);
        cairo_set_source_rgb(cr, c.r, c.g, c.b);
        cairo_rectangle(cr, left, y + (line - SWATCH) / 2, SWATCH, SWATCH);
        cairo_fill(cr);
        pb_type_draw(type, cr, PB_STYLE_LEGEND, p->series_labels[s], LEGEND_WRAP, left + SWATCH + 5, y,
                     (pb_anchor){0, 0}, 0, PB_INK);
        y += fmax(t.height, line) + ROW_GAP;
    }
}

static void draw_indices(pb_type *type, cairo_t *cr, const pb_plan *plan, double x, double bottom, double pitch) {
    for (size_t g = 0; g < plan->panel->as.bars.groups; g += plan->x_labels.step) {
        char text[24];
        snprintf(text, sizeof text, "%zu", g);
        pb_type_draw(type, cr, PB_STYLE_LABEL, text, 0, x + ((double)g + 0.5) * pitch, bottom + 4, (pb_anchor){0.5, 0},
                     0, PB_INK);
    }
}

void pb_bars_draw(pb_type *type, cairo_t *cr, const pb_plan *plan, double x, double y) {
    const pb_bar_plot *p = &plan->panel->as.bars;
    double pitch = plan->box.width / (double)p->groups, bar = pitch / ((double)p->series + 0.6);
    pb_axes_draw(type, cr, plan, x, y, p->numbers ? PB_GRID_NONE : PB_GRID_Y);
    for (size_t g = 0; g < p->groups; g++) {
        for (size_t s = 0; s < p->series; s++)
            draw_bar(type, cr, plan, s * p->groups + g, s, x + (double)g * pitch + bar * (0.3 + (double)s), bar - 0.6,
                     y);
    }
    if (p->group_labels)
        pb_labels_below_draw(type, cr, p->group_labels, NULL, p->groups, false, &plan->x_labels, x,
                             y + plan->box.height, pitch);
    else
        draw_indices(type, cr, plan, x, y + plan->box.height, pitch);
    draw_legend(type, cr, plan, x, y);
}
