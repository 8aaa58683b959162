/* Points, with labels that keep clear of points and of each other, a legend of classes and the line y = x. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "figure/draw.h"

enum { WIDTH = 260, HEIGHT = 220, SQUARE = 230, LEGEND_GAP = 12, LEGEND_WRAP = 150, ROW_GAP = 4, MANY = 400 };

static bool finite_point(const pb_scatter *p, size_t i) { return isfinite(p->x[i]) && isfinite(p->y[i]); }

static double radius_of(const pb_scatter *p) { return p->n > 20 * MANY ? 1.2 : p->n > MANY ? 1.7 : 2.6; }

/* ---- plan --------------------------------------------------------------------------------------------------------- */

void pb_scatter_plan(pb_type *type, pb_plan *plan) {
    const pb_scatter *p = &plan->panel->as.scatter;
    double x_low = INFINITY, x_high = -INFINITY, y_low = INFINITY, y_high = -INFINITY;
    plan->n_left_out = 0;
    for (size_t i = 0; i < p->n; i++) {
        if (!finite_point(p, i)) {
            plan->n_left_out++;
            continue;
        }
        x_low = fmin(x_low, (double)p->x[i]);
        x_high = fmax(x_high, (double)p->x[i]);
        y_low = fmin(y_low, (double)p->y[i]);
        y_high = fmax(y_high, (double)p->y[i]);
    }
    const double *x_range = p->x_range, *y_range = p->y_range;
    if (p->identity) { /* one range for both: the line is the diagonal */
        x_low = y_low = fmin(x_low, y_low);
        x_high = y_high = fmax(x_high, y_high);
        x_range = x_range ? x_range : y_range;
        y_range = x_range;
    }
    plan->box = (pb_box){.width = p->identity ? SQUARE : WIDTH, .height = p->identity ? SQUARE : HEIGHT};
    pb_axis_plan_make(&plan->x, x_low, x_high, x_range, p->log_x, false, 5);
    pb_axis_plan_make(&plan->y, y_low, y_high, y_range, p->log_y, false, 5);
    double widest = 0, height = 0;
    for (size_t k = 0; p->class_labels && k < p->n_classes; k++) {
        pb_extent t = pb_type_measure(type, PB_STYLE_LEGEND, p->class_labels[k], LEGEND_WRAP);
        widest = fmax(widest, t.width);
        height += t.height + ROW_GAP;
    }
    plan->box.height = fmax(plan->box.height, p->identity ? SQUARE : height);
    plan->legend_width = widest > 0 ? LEGEND_GAP + 12 + widest : 0;
    plan->x_labels = (pb_label_plan){0};
    pb_axes_box(type, plan);
    if (plan->n_left_out > 0)
        plan->box.bottom += pb_type_line_height(type, PB_STYLE_CAPTION) + 2;
}

/* ---- labels ------------------------------------------------------------------------------------------------------- */

typedef struct rect {
    double x, y, w, h;
} rect;

static bool overlap(rect a, rect b) { return a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h; }

typedef struct placing {
    const pb_plan *plan;
    double x, y; /* of the plot area */
    rect *placed;
    size_t n_placed;
} placing;

static void place_of(const placing *pl, size_t i, double *px, double *py) {
    const pb_scatter *p = &pl->plan->panel->as.scatter;
    *px = pl->x + pl->plan->box.width * pb_axis_position(&pl->plan->x, (double)p->x[i]);
    *py = pl->y + pl->plan->box.height * (1 - pb_axis_position(&pl->plan->y, (double)p->y[i]));
}

/* Overlaps with labels weigh more than with points; leaving the plot area most of all. */
static double cost(const placing *pl, rect r, size_t self) {
    const pb_scatter *p = &pl->plan->panel->as.scatter;
    const pb_box *box = &pl->plan->box;
    double sum = 0;
    if (r.x < pl->x || r.y < pl->y || r.x + r.w > pl->x + box->width || r.y + r.h > pl->y + box->height)
        sum += 50;
    for (size_t k = 0; k < pl->n_placed; k++)
        sum += overlap(r, pl->placed[k]) ? 10 : 0;
    for (size_t i = 0; i < p->n && i < 5 * MANY; i++) {
        double px, py;
        if (i == self || !finite_point(p, i))
            continue;
        place_of(pl, i, &px, &py);
        sum += overlap(r, (rect){px - 2, py - 2, 4, 4}) ? 1 : 0;
    }
    return sum;
}

static void draw_label(pb_type *type, cairo_t *cr, placing *pl, size_t i, pb_rgb colour) {
    static const double PLACES[8][2] = {{1, 0}, {-1, 0}, {0, -1}, {0, 1}, {1, -1}, {1, 1}, {-1, -1}, {-1, 1}};
    const char *text = pl->plan->panel->as.scatter.labels[i];
    pb_extent t = pb_type_measure(type, PB_STYLE_LABEL, text, 0);
    double px, py, best_cost = INFINITY;
    place_of(pl, i, &px, &py);
    rect best = {0, 0, 0, 0};
    for (int ring = 0; ring < 3 && best_cost > 0; ring++) {
        double away = 5 + 9 * ring;
        for (int k = 0; k < 8; k++) {
            rect r = {px + PLACES[k][0] * away -
                          (PLACES[k][0] < 0    ? t.width
                           : PLACES[k][0] == 0 ? t.width / 2
                                               : 0),
                      py + PLACES[k][1] * away * 0.8 -
                          (PLACES[k][1] < 0    ? t.height
                           : PLACES[k][1] == 0 ? t.height / 2
                                               : 0),
                      t.width, t.height};
            double c = cost(pl, r, i) + 0.3 * ring;
            if (c < best_cost) {
                best_cost = c;
                best = r;
            }
        }
    }
    double near_x = fmax(best.x, fmin(px, best.x + best.w)), near_y = fmax(best.y, fmin(py, best.y + best.h));
    if (hypot(near_x - px, near_y - py) > 9) { /* far away: say whose label it is */
        cairo_set_source_rgb(cr, PB_SOFT.r, PB_SOFT.g, PB_SOFT.b);
        cairo_set_line_width(cr, 0.5);
        cairo_move_to(cr, px, py);
        cairo_line_to(cr, near_x, near_y);
        cairo_stroke(cr);
    }
    pb_type_draw(type, cr, PB_STYLE_LABEL, text, 0, best.x, best.y, (pb_anchor){0, 0}, 0, colour);
    pl->placed[pl->n_placed++] = best;
}

/* ---- draw --------------------------------------------------------------------------------------------------------- */

static void draw_points(cairo_t *cr, const placing *pl) {
    const pb_scatter *p = &pl->plan->panel->as.scatter;
    for (size_t i = 0; i < p->n; i++) {
        double px, py;
        if (!finite_point(p, i))
            continue;
        place_of(pl, i, &px, &py);
        size_t class = p->classes ? (size_t)p->classes[i] : 0;
        pb_rgb c = pb_series_colour(class);
        cairo_set_source_rgba(cr, c.r, c.g, c.b, p->n > MANY ? 0.5 : 0.85);
        pb_draw_marker(cr, class, px, py, radius_of(p));
        cairo_fill(cr);
    }
}

static void draw_legend(pb_type *type, cairo_t *cr, const pb_plan *plan, double x, double y) {
    const pb_scatter *p = &plan->panel->as.scatter;
    double left = x + plan->box.width + LEGEND_GAP, line = pb_type_line_height(type, PB_STYLE_LEGEND);
    for (size_t k = 0; p->class_labels && k < p->n_classes; k++) {
        pb_rgb c = pb_series_colour(k);
        cairo_set_source_rgb(cr, c.r, c.g, c.b);
        pb_draw_marker(cr, k, left + 4, y + line / 2, 3);
        cairo_fill(cr);
        pb_type_draw(type, cr, PB_STYLE_LEGEND, p->class_labels[k], LEGEND_WRAP, left + 12, y, (pb_anchor){0, 0}, 0,
                     PB_INK);
        y += pb_type_measure(type, PB_STYLE_LEGEND, p->class_labels[k], LEGEND_WRAP).height + ROW_GAP;
    }
}

static void draw_identity(cairo_t *cr, const pb_plan *plan, double x, double y) {
    const double dash[2] = {4, 3};
    cairo_set_source_rgb(cr, PB_SOFT.r, PB_SOFT.g, PB_SOFT.b);
    cairo_set_line_width(cr, 0.8);
    cairo_set_dash(cr, dash, 2, 0);
    cairo_move_to(cr, x, y + plan->box.height);
    cairo_line_to(cr, x + plan->box.width, y);
    cairo_stroke(cr);
    cairo_set_dash(cr, NULL, 0, 0);
}

static void note_left_out(pb_type *type, cairo_t *cr, const pb_plan *plan, double x, double y) {
    char text[80];
    snprintf(text, sizeof text, "%zu of %zu points left out (not finite)", plan->n_left_out, plan->panel->as.scatter.n);
    pb_type_draw(type, cr, PB_STYLE_CAPTION, text, 0, x + plan->box.width, y + plan->box.height + plan->box.bottom,
                 (pb_anchor){1, 1}, 0, PB_SOFT);
}

pb_status pb_scatter_draw(pb_type *type, cairo_t *cr, const pb_plan *plan, double x, double y, pb_error *err) {
    const pb_scatter *p = &plan->panel->as.scatter;
    pb_context *ctx = plan->panel->pool.ctx;
    placing pl = {.plan = plan, .x = x, .y = y};
    pl.placed = pb_alloc(ctx, p->labels ? p->n : 0, sizeof *pl.placed);
    if (!pl.placed)
        return pb_fail_memory(err, ctx, p->n * sizeof *pl.placed, "the labels of points");
    pb_axes_draw(type, cr, plan, x, y, PB_GRID_BOTH);
    cairo_save(cr);
    cairo_rectangle(cr, x - 3, y - 3, plan->box.width + 6, plan->box.height + 6);
    cairo_clip(cr);
    if (p->identity)
        draw_identity(cr, plan, x, y);
    draw_points(cr, &pl);
    cairo_restore(cr);
    for (size_t i = 0; p->labels && i < p->n; i++) {
        double px, py;
        if (!finite_point(p, i) || !*p->labels[i])
            continue;
        place_of(&pl, i, &px, &py);
        bool inside = px >= x - 1 && px <= x + plan->box.width + 1 && py >= y - 1 && py <= y + plan->box.height + 1;
        if (inside)
            draw_label(type, cr, &pl, i, PB_INK);
    }
    draw_legend(type, cr, plan, x, y);
    if (plan->n_left_out > 0)
        note_left_out(type, cr, plan, x, y);
    pb_free(pl.placed);
    return PB_OK;
}
