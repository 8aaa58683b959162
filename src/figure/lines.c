/* Line plots: bands and error bars, lines with markers, and each line's name at its right end in its colour. */
#include <math.h>

#include "figure/draw.h"

enum {
    WIDTH = 330,
    HEIGHT = 190,
    SMALL_WIDTH = 230,
    SMALL_HEIGHT = 150,
    MARKERS_UP_TO = 40,
    LEGEND_GAP = 8,
    LEGEND_WRAP = 150,
    NAME_SPACE = 2,
    ABOVE_GAP = 6
};

static double x_of(const pb_series *s, size_t i) { return s->x ? (double)s->x[i] : (double)i; }

static bool point_of(const pb_series *s, size_t i, double *x, double *y) {
    *x = x_of(s, i);
    *y = (double)s->y[i];
    return isfinite(*x) && isfinite(*y);
}

static bool interval_of(const pb_series *s, size_t i, double *low, double *high) {
    if (!s->low || !isfinite(s->low[i]) || !isfinite(s->high[i]))
        return false;
    *low = (double)s->low[i];
    *high = (double)s->high[i];
    return true;
}

/* ---- plan --------------------------------------------------------------------------------------------------------- */

typedef struct extremes {
    double x_low, x_high, y_low, y_high;
    bool whole; /* all x are whole numbers */
} extremes;

static void scan(const pb_line_plot *p, extremes *e) {
    *e = (extremes){INFINITY, -INFINITY, INFINITY, -INFINITY, true};
    for (size_t k = 0; k < p->n_series; k++) {
        const pb_series *s = &p->series[k];
        for (size_t i = 0; i < s->n; i++) {
            double x, y, low, high;
            if (!point_of(s, i, &x, &y))
                continue;
            e->whole = e->whole && x == floor(x);
            e->x_low = fmin(e->x_low, x);
            e->x_high = fmax(e->x_high, x);
            e->y_low = fmin(e->y_low, y);
            e->y_high = fmax(e->y_high, y);
            if (interval_of(s, i, &low, &high)) {
                e->y_low = fmin(e->y_low, low);
                e->y_high = fmax(e->y_high, high);
            }
        }
    }
    for (size_t i = 0; i < p->n_levels; i++) {
        e->y_low = fmin(e->y_low, p->levels[i]);
        e->y_high = fmax(e->y_high, p->levels[i]);
    }
}

static void plan_x(pb_type *type, pb_plan *plan, const extremes *e) {
    const pb_line_plot *p = &plan->panel->as.lines;
    if (p->x_labels) {
        double n = (double)p->n_x_labels;
        plan->x = (pb_axis_plan){.low = -0.5, .high = n - 0.5};
        plan->box.width = fmax(plan->box.width, n <= 40 ? 16 * n : 0);
        pb_labels_below_plan(type, p->x_labels, NULL, p->n_x_labels, false, plan->box.width / n, &plan->x_labels);
        return;
    }
    double range[2] = {e->x_low, e->x_high};
    bool degenerate = !(e->x_low < e->x_high);
    if (!p->log_x && !degenerate && !p->x_range) { /* the first and last points stand a little inside */
        double pad = 0.02 * (e->x_high - e->x_low);
        range[0] -= pad;
        range[1] += pad;
    }
    pb_axis_plan_make(&plan->x, e->x_low, e->x_high,
                      p->x_range               ? p->x_range
                      : p->log_x || degenerate ? NULL
                                               : range,
                      p->log_x, e->whole, 8);
}

static double names_height(pb_type *type, const pb_line_plot *p, double *widest) {
    double total = 0;
    *widest = 0;
    for (size_t k = 0; k < p->n_series; k++) {
        pb_extent t = pb_type_measure(type, PB_STYLE_LEGEND, p->series[k].label, LEGEND_WRAP);
        total += t.height > 0 ? t.height + NAME_SPACE : 0;
        *widest = fmax(*widest, t.width);
    }
    for (size_t k = 0; k < p->n_levels && p->level_labels; k++) {
        pb_extent t = pb_type_measure(type, PB_STYLE_LEGEND, p->level_labels[k], LEGEND_WRAP);
        total += t.height > 0 ? t.height + NAME_SPACE : 0;
        *widest = fmax(*widest, t.width);
    }
    return total;
}

/* A single line's name stands above the plot, where it needs no room at the side. */
static bool named_above(const pb_line_plot *p) {
    return p->n_series == 1 && p->series[0].label && *p->series[0].label && !(p->n_levels && p->level_labels);
}

void pb_lines_plan(pb_type *type, pb_plan *plan, bool several) {
    const pb_line_plot *p = &plan->panel->as.lines;
    extremes e;
    scan(p, &e);
    double widest, height = names_height(type, p, &widest);
    plan->box =
        (pb_box){.width = several ? SMALL_WIDTH : WIDTH, .height = fmax(several ? SMALL_HEIGHT : HEIGHT, height)};
    plan->x_labels = (pb_label_plan){0};
    plan_x(type, plan, &e);
    pb_axis_plan_make(&plan->y, e.y_low, e.y_high, p->y_range, p->log_y, false, 5);
    plan->legend_width = widest > 0 ? LEGEND_GAP + widest : 0;
    if (named_above(p)) {
        plan->legend_width = 0;
        plan->box.top = pb_type_measure(type, PB_STYLE_LEGEND, p->series[0].label, plan->box.width).height + ABOVE_GAP;
    }
    pb_axes_box(type, plan);
}

/* ---- draw --------------------------------------------------------------------------------------------------------- */

typedef struct frame {
    cairo_t *cr;
    const pb_plan *plan;
    double x, y; /* of the plot area */
} frame;

static double across(const frame *f, double value) {
    return f->x + f->plan->box.width * pb_axis_position(&f->plan->x, value);
}

static double down(const frame *f, double value) {
    return f->y + f->plan->box.height * (1 - pb_axis_position(&f->plan->y, value));
}

/* One filled area for each stretch of points that have an interval. */
static void draw_band(const frame *f, const pb_series *s, pb_rgb c) {
    cairo_set_source_rgba(f->cr, c.r, c.g, c.b, 0.18);
    for (size_t i = 0; i < s->n;) {
        double x, y, low = 0, high = 0;
        size_t end = i;
        while (end < s->n && point_of(s, end, &x, &y) && interval_of(s, end, &low, &high)) {
            cairo_line_to(f->cr, across(f, x), down(f, high));
            end++;
        }
        for (size_t k = end; k > i; k--) {
            interval_of(s, k - 1, &low, &high);
            cairo_line_to(f->cr, across(f, x_of(s, k - 1)), down(f, low));
        }
        if (end > i) {
            cairo_close_path(f->cr);
            cairo_fill(f->cr);
        }
        i = end > i ? end : i + 1;
    }
}

static void draw_error_bars(const frame *f, const pb_series *s, pb_rgb c) {
    cairo_set_source_rgb(f->cr, c.r, c.g, c.b);
    cairo_set_line_width(f->cr, 0.9);
    for (size_t i = 0; i < s->n; i++) {
        double x, y, low, high;
        if (!point_of(s, i, &x, &y) || !interval_of(s, i, &low, &high))
            continue;
        double at = across(f, x);
        cairo_move_to(f->cr, at, down(f, low));
        cairo_line_to(f->cr, at, down(f, high));
        cairo_move_to(f->cr, at - 2, down(f, low));
        cairo_line_to(f->cr, at + 2, down(f, low));
        cairo_move_to(f->cr, at - 2, down(f, high));
        cairo_line_to(f->cr, at + 2, down(f, high));
    }
    cairo_stroke(f->cr);
}

static void draw_line(const frame *f, const pb_series *s, size_t index, pb_rgb c) {
    static const double DASHES[3][2] = {{5, 3}, {2, 2}, {8, 2}};
    size_t round = pb_series_round(index);
    cairo_set_source_rgb(f->cr, c.r, c.g, c.b);
    cairo_set_line_width(f->cr, 1.5);
    cairo_set_line_join(f->cr, CAIRO_LINE_JOIN_ROUND);
    if (s->dashed || round > 0)
        cairo_set_dash(f->cr, DASHES[round % 3], 2, 0);
    bool joined = false;
    for (size_t i = 0; i < s->n; i++) {
        double x, y;
        bool here = point_of(s, i, &x, &y);
        if (here && joined)
            cairo_line_to(f->cr, across(f, x), down(f, y));
        else if (here)
            cairo_move_to(f->cr, across(f, x), down(f, y));
        joined = here;
    }
    cairo_stroke(f->cr);
    cairo_set_dash(f->cr, NULL, 0, 0);
}

/* Also where there are too many for markers: a point between two gaps would otherwise be invisible. */
static void draw_markers(const frame *f, const pb_series *s, size_t index, pb_rgb c) {
    bool all = !s->no_markers && s->n <= MARKERS_UP_TO;
    cairo_set_source_rgb(f->cr, c.r, c.g, c.b);
    for (size_t i = 0; i < s->n; i++) {
        double x, y, unused;
        if (!point_of(s, i, &x, &y))
            continue;
        bool alone = (i == 0 || !point_of(s, i - 1, &unused, &unused)) &&
                     (i + 1 == s->n || !point_of(s, i + 1, &unused, &unused));
        if (all || alone)
            pb_draw_marker(f->cr, index, across(f, x), down(f, y), 2.2);
    }
    cairo_fill(f->cr);
}

static void draw_levels(const frame *f) {
    const pb_line_plot *p = &f->plan->panel->as.lines;
    const double dash[2] = {3, 2.5};
    cairo_set_source_rgb(f->cr, PB_SOFT.r, PB_SOFT.g, PB_SOFT.b);
    cairo_set_line_width(f->cr, 0.9);
    cairo_set_dash(f->cr, dash, 2, 0);
    for (size_t i = 0; i < p->n_levels; i++) {
        cairo_move_to(f->cr, f->x, down(f, p->levels[i]));
        cairo_rel_line_to(f->cr, f->plan->box.width, 0);
    }
    cairo_stroke(f->cr);
    cairo_set_dash(f->cr, NULL, 0, 0);
}

/* ---- names at the right -------------------------------------------------------------------------------------------- */

enum { MAX_NAMES = 192 };

typedef struct name {
    const char *text;
    pb_rgb colour;
    double at, height; /* middle */
    double from;       /* where its line ends */
    double from_x;
} name;

/* From top to bottom; lines that end at one place keep their order. */
static void sort_names(name *names, size_t n) {
    for (size_t i = 1; i < n; i++) {
        name moved = names[i];
        size_t k = i;
        for (; k > 0 && names[k - 1].from > moved.from; k--)
            names[k] = names[k - 1];
        names[k] = moved;
    }
}

/* Names stand at their line's end, moved apart as little as needed, within top..bottom. In order of `from`. */
static void spread(name *names, size_t n, double top, double bottom) {
    double edge = top;
    for (size_t i = 0; i < n; i++) {
        names[i].at = fmax(names[i].from, edge + names[i].height / 2);
        edge = names[i].at + names[i].height / 2 + NAME_SPACE;
    }
    edge = bottom;
    for (size_t i = n; i-- > 0;) {
        names[i].at = fmin(names[i].at, edge - names[i].height / 2);
        edge = names[i].at - names[i].height / 2 - NAME_SPACE;
    }
}

static size_t collect_names(pb_type *type, const frame *f, name *names) {
    const pb_line_plot *p = &f->plan->panel->as.lines;
    size_t n = 0;
    for (size_t k = 0; k < p->n_series && n < MAX_NAMES; k++) {
        const pb_series *s = &p->series[k];
        double x = 0, y = 0;
        size_t i = s->n;
        while (i > 0 && !point_of(s, i - 1, &x, &y))
            i--;
        if (i == 0 || !s->label || !*s->label)
            continue;
        double at = fmin(fmax(down(f, y), f->y), f->y + f->plan->box.height);
        names[n++] = (name){s->label, pb_series_colour(k),
                            at,       pb_type_measure(type, PB_STYLE_LEGEND, s->label, LEGEND_WRAP).height,
                            at,       across(f, x)};
    }
    for (size_t k = 0; k < p->n_levels && p->level_labels && n < MAX_NAMES; k++) {
        if (!*p->level_labels[k])
            continue;
        double at = down(f, p->levels[k]);
        names[n++] = (name){p->level_labels[k],
                            PB_SOFT,
                            at,
                            pb_type_measure(type, PB_STYLE_LEGEND, p->level_labels[k], LEGEND_WRAP).height,
                            at,
                            f->x + f->plan->box.width};
    }
    return n;
}

static void draw_names(pb_type *type, const frame *f) {
    name names[MAX_NAMES];
    size_t n = collect_names(type, f, names);
    sort_names(names, n);
    const pb_box *box = &f->plan->box;
    spread(names, n, f->y - 4, f->y + box->height + 4);
    for (size_t i = 0; i < n; i++) {
        double edge = f->x + box->width + LEGEND_GAP;
        if (fabs(names[i].at - names[i].from) > 3 || names[i].from_x < f->x + 0.9 * box->width) {
            cairo_set_source_rgba(f->cr, names[i].colour.r, names[i].colour.g, names[i].colour.b, 0.45);
            cairo_set_line_width(f->cr, 0.6);
            cairo_move_to(f->cr, names[i].from_x + 3, names[i].from);
            cairo_line_to(f->cr, edge - 2, names[i].at);
            cairo_stroke(f->cr);
        }
        pb_type_draw(type, f->cr, PB_STYLE_LEGEND, names[i].text, LEGEND_WRAP, edge, names[i].at, (pb_anchor){0, 0.5},
                     0, names[i].colour);
    }
}

void pb_lines_draw(pb_type *type, cairo_t *cr, const pb_plan *plan, double x, double y) {
    const pb_line_plot *p = &plan->panel->as.lines;
    frame f = {cr, plan, x, y};
    pb_axes_draw(type, cr, plan, x, y, PB_GRID_Y);
    if (p->x_labels)
        pb_labels_below_draw(type, cr, p->x_labels, NULL, p->n_x_labels, false, &plan->x_labels, x,
                             y + plan->box.height, plan->box.width / (double)p->n_x_labels);
    cairo_save(cr);
    cairo_rectangle(cr, x - 3, y - 3, plan->box.width + 6, plan->box.height + 6); /* values beyond a given range */
    cairo_clip(cr);
    draw_levels(&f);
    for (size_t k = 0; k < p->n_series; k++) {
        pb_rgb c = pb_series_colour(k);
        if (p->series[k].low && p->series[k].error_bars)
            draw_error_bars(&f, &p->series[k], c);
        else if (p->series[k].low)
            draw_band(&f, &p->series[k], c);
    }
    for (size_t k = 0; k < p->n_series; k++) {
        draw_line(&f, &p->series[k], k, pb_series_colour(k));
        draw_markers(&f, &p->series[k], k, pb_series_colour(k));
    }
    cairo_restore(cr);
    if (named_above(p))
        pb_type_draw(type, cr, PB_STYLE_LEGEND, p->series[0].label, plan->box.width, x, y - ABOVE_GAP,
                     (pb_anchor){0, 1}, 0, pb_series_colour(0));
    else
        draw_names(type, &f);
}
