/* The colour bar: which colour is which number, its unit, and what a hatched cell means. */
#include <math.h>

#include "figure/draw.h"

enum { BAR_WIDTH = 9, TICK = 3, GAP = 3, UNIT_GAP = 7, POINT = 8, LEGEND_GAP = 8, SWATCH = 10 };
static const char ABSENT_TEXT[] = "no value (NaN)";

/* One tick for every 26 points, but at least two: one alone says no scale. */
static void bar_ticks(const pb_colour_scale *scale, double height, pb_ticks *ticks) {
    int wanted = (int)(height / 26);
    wanted = wanted < 2 ? 2 : wanted > 6 ? 6 : wanted;
    do
        pb_ticks_linear(scale->low, scale->high, wanted++, false, ticks);
    while (ticks->n < 2 && wanted <= 6);
}

static double widest_tick(pb_type *type, const pb_ticks *ticks) {
    double widest = 0;
    for (int i = 0; i < ticks->n; i++)
        widest = fmax(widest, pb_type_measure(type, PB_STYLE_LABEL, ticks->text[i], 0).width);
    return widest;
}

/* A unit is written along the bar, wrapped where it is longer. */
static double unit_wrap(double height) { return fmax(height, 90); }

pb_extent pb_colour_bar_measure(pb_type *type, const pb_colour_scale *scale, double height) {
    pb_ticks ticks;
    bar_ticks(scale, height, &ticks);
    pb_extent extent = {BAR_WIDTH + TICK + GAP + widest_tick(type, &ticks), height};
    if (scale->unit) {
        pb_extent unit = pb_type_measure(type, PB_STYLE_AXIS, scale->unit, unit_wrap(height));
        extent.width += UNIT_GAP + unit.height;
        extent.height = fmax(extent.height, unit.width);
    }
    if (scale->has_nan) {
        pb_extent text = pb_type_measure(type, PB_STYLE_LEGEND, ABSENT_TEXT, 0);
        extent.width = fmax(extent.width, SWATCH + 5 + text.width);
        extent.height += LEGEND_GAP + fmax(SWATCH, text.height);
    }
    return extent;
}

/* The bar's outline: a rectangle, or with a pointed end where values lie beyond. */
static void outline(cairo_t *cr, const pb_colour_scale *scale, double x, double y, double height) {
    double top = scale->above ? y + POINT : y, bottom = scale->below ? y + height - POINT : y + height;
    cairo_move_to(cr, x, top);
    if (scale->above)
        cairo_line_to(cr, x + BAR_WIDTH / 2.0, y);
    cairo_line_to(cr, x + BAR_WIDTH, top);
    cairo_line_to(cr, x + BAR_WIDTH, bottom);
    if (scale->below)
        cairo_line_to(cr, x + BAR_WIDTH / 2.0, y + height);
    cairo_line_to(cr, x, bottom);
    cairo_close_path(cr);
}

static void paint_colours(cairo_t *cr, const pb_colour_scale *scale, double top, double bottom) {
    cairo_pattern_t *gradient = cairo_pattern_create_linear(0, bottom, 0, top);
    enum { STOPS = 64 };
    for (int i = 0; i <= STOPS; i++) {
        pb_rgb c = pb_colour_of(scale->map, (double)i / STOPS);
        cairo_pattern_add_color_stop_rgb(gradient, (double)i / STOPS, c.r, c.g, c.b);
    }
    cairo_set_source(cr, gradient);
    cairo_paint(cr); /* within the clip */
    cairo_pattern_destroy(gradient);
}

void pb_draw_absent(cairo_t *cr, double x, double y, double width, double height) {
    cairo_save(cr);
    cairo_rectangle(cr, x, y, width, height);
    cairo_clip(cr);
    cairo_set_source_rgb(cr, PB_ABSENT.r, PB_ABSENT.g, PB_ABSENT.b);
    cairo_paint(cr);
    cairo_set_antialias(cr, CAIRO_ANTIALIAS_DEFAULT); /* cells are drawn without */
    cairo_set_source_rgb(cr, 0.62, 0.62, 0.65);
    cairo_set_line_width(cr, 0.7);
    for (double d = 2; d < width + height; d += 4) {
        cairo_move_to(cr, x + d, y);
        cairo_line_to(cr, x + d - height, y + height);
    }
    cairo_stroke(cr);
    cairo_restore(cr);
}

void pb_colour_bar_draw(pb_type *type, cairo_t *cr, const pb_colour_scale *scale, double x, double y, double height) {
    double top = scale->above ? y + POINT : y, bottom = scale->below ? y + height - POINT : y + height;
    cairo_save(cr);
    outline(cr, scale, x, y, height);
    cairo_clip(cr);
    paint_colours(cr, scale, top, bottom);
    cairo_restore(cr);
    outline(cr, scale, x, y, height);
    cairo_set_source_rgb(cr, PB_SOFT.r, PB_SOFT.g, PB_SOFT.b);
    cairo_set_line_width(cr, 0.5);
    cairo_stroke(cr);

    pb_ticks ticks;
    bar_ticks(scale, height, &ticks);
    for (int i = 0; i < ticks.n; i++) {
        double at = bottom - (bottom - top) * pb_colour_position(scale, ticks.at[i]);
        cairo_move_to(cr, x + BAR_WIDTH, at);
        cairo_rel_line_to(cr, TICK, 0);
        cairo_set_source_rgb(cr, PB_SOFT.r, PB_SOFT.g, PB_SOFT.b);
        cairo_stroke(cr);
        pb_type_draw(type, cr, PB_STYLE_LABEL, ticks.text[i], 0, x + BAR_WIDTH + TICK + GAP, at, (pb_anchor){0, 0.5}, 0,
                     PB_INK);
    }
    double unit = pb_type_measure(type, PB_STYLE_AXIS, scale->unit, unit_wrap(height)).width;
    double reach = fmax(height, unit); /* a unit may be longer than the bar: never above its top */
    if (scale->unit)
        pb_type_draw(type, cr, PB_STYLE_AXIS, scale->unit, unit_wrap(height),
                     x + BAR_WIDTH + TICK + GAP + widest_tick(type, &ticks) + UNIT_GAP, y + reach / 2,
                     (pb_anchor){0.5, 0}, -M_PI / 2, PB_INK);
    if (scale->has_nan) {
        double below = y + reach + LEGEND_GAP;
        pb_extent text = pb_type_measure(type, PB_STYLE_LEGEND, ABSENT_TEXT, 0);
        double line = fmax(SWATCH, text.height);
        pb_draw_absent(cr, x, below + (line - SWATCH) / 2, SWATCH, SWATCH);
        pb_type_draw(type, cr, PB_STYLE_LEGEND, ABSENT_TEXT, 0, x + SWATCH + 5, below + line / 2, (pb_anchor){0, 0.5},
                     0, PB_SOFT);
    }
}
