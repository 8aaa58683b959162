/* Heat maps and attention patterns: planning and drawing. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "figure/draw.h"

enum { LABEL_GAP = 5, BAR_GAP = 12, GRID_FROM = 8, IMAGE_BELOW = 4 };

/* ---- plan --------------------------------------------------------------------------------------------------------------- */

static double clamp(double x, double low, double high) { return x < low ? low : x > high ? high : x; }

/* Multiples of half a point are whole pixels at the usual scales: cells have sharp edges. */
static double sharp(double size) { return size >= 3 ? floor(size * 2 + 0.5) / 2 : size; }

/* Rows are high enough to be labelled one by one up to 60 of them; columns too, up to 40. */
static void choose_cells(const pb_heat *heat, size_t n_panels, pb_plan *plan) {
    double rows = (double)heat->rows.n, cols = (double)heat->cols.n;
    if (heat->square) {
        double size = rows <= 10 ? 18 : rows <= 40 ? fmax(12, 190 / rows) : clamp(480 / rows, 0.5, 12);
        if (n_panels > 6) /* the heads of a model side by side */
            size = fmin(size, 12);
        plan->cell_width = plan->cell_height = sharp(size);
        return;
    }
    double height = rows <= 3    ? 22
                    : rows <= 14 ? 18
                    : rows <= 30 ? 15
                    : rows <= 60 ? 12.5
                                 : clamp(750 / rows, 0.5, 12.5);
    double page = n_panels >= 3 ? 200 : n_panels == 2 ? 280 : 330; /* three stand side by side */
    double width = clamp(cols * 26, 110, page) / cols;
    if (!heat->cols.numeric && cols <= 40)
        width = fmax(width, 16);
    plan->cell_height = sharp(height);
    plan->cell_width = sharp(clamp(width, 0.5, 40));
}

static void plan_numbers(pb_type *type, const pb_figure *figure, const pb_heat *heat, pb_plan *plan) {
    size_t cells = heat->rows.n * heat->cols.n;
    bool wanted = heat->numbers == PB_NUMBERS_ON;
    if (heat->numbers == PB_NUMBERS_AUTO)
        wanted = figure->n_panels <= 2 && cells <= 160 && heat->cols.n <= 16;
    if (!wanted)
        return;
    plan->decimals = heat->digits ? heat->digits : pb_decimals_for(fmax(fabs(heat->low), fabs(heat->high)));
    char text[PB_NUMBER_TEXT];
    double widest = 0;
    const double ends[2] = {heat->low, heat->high};
    for (int i = 0; i < 2; i++) {
        pb_decimal_text(ends[i], plan->decimals, text);
        widest = fmax(widest, pb_type_measure(type, PB_STYLE_CELL, text, 0).width);
    }
    double width = fmax(plan->cell_width, sharp(widest + 6)), height = fmax(plan->cell_height, 14);
    if (heat->numbers == PB_NUMBERS_AUTO && width * (double)heat->cols.n > 480)
        return;
    plan->numbers = true;
    plan->cell_width = width;
    plan->cell_height = height;
}

static void plan_row_labels(pb_type *type, const pb_heat *heat, pb_plan *plan) {
    double line = pb_type_line_height(type, PB_STYLE_LABEL);
    double needed = heat->rows.numeric && plan->cell_height < line ? 1.6 * line : line;
    plan->rows = (pb_label_plan){.step = pb_label_step(heat->rows.n, plan->cell_height, needed)};
    size_t n = heat->rows.n;
    for (size_t i = 0; i < n; i++) {
        bool marked = heat->rows.marked && heat->rows.marked[i];
        size_t index = heat->rows.reversed ? n - 1 - i : i;
        if (index % plan->rows.step != 0 || (heat->rows.numeric && index != 0 && index + plan->rows.step < n))
            continue;
        double width = pb_type_measure(type, marked ? PB_STYLE_MARKED : PB_STYLE_LABEL, heat->rows.labels[i], 0).width;
        plan->rows.extent = fmax(plan->rows.extent, width);
    }
}

bool pb_heat_same_axis(const pb_heat_axis *a, const pb_heat_axis *b) {
    if (a->n != b->n || a->reversed != b->reversed)
        return false;
    for (size_t i = 0; i < a->n; i++) {
        bool marked_a = a->marked && a->marked[i], marked_b = b->marked && b->marked[i];
        if (marked_a != marked_b || strcmp(a->labels[i], b->labels[i]) != 0)
            return false;
    }
    return true;
}

/* Half a label's height sticks out above the first and below the last row when rows are low. */
static void heat_box(pb_type *type, pb_plan *plan) {
    const pb_heat *heat = &plan->panel->as.heat;
    pb_box *box = &plan->box;
    *box =
        (pb_box){.width = plan->cell_width * (double)heat->cols.n, .height = plan->cell_height * (double)heat->rows.n};
    double out = fmax(0, (pb_type_line_height(type, PB_STYLE_LABEL) - plan->cell_height) / 2);
    if (!plan->hide_rows) {
        box->left = LABEL_GAP + plan->rows.extent;
        box->top = box->bottom = out;
    }
    plan->labels_left = box->left;
    if (!plan->hide_cols) {
        box->bottom = fmax(box->bottom, 4 + plan->cols.extent);
        box->left = fmax(box->left, plan->cols.overhang_left);
        box->right = plan->cols.overhang_right;
    }
    pb_extent bar = {0, 0};
    if (plan->own_bar) {
        bar = pb_colour_bar_measure(type, plan->scale, box->height);
        box->right = fmax(box->right, BAR_GAP + bar.width);
    }
    pb_titles_box(type, plan);
    box->bottom = fmax(box->bottom, bar.height - box->height);
}

void pb_heat_plan(pb_type *type, const pb_figure *figure, const pb_plan *before, pb_plan *plan) {
    const pb_heat *heat = &plan->panel->as.heat;
    choose_cells(heat, figure->n_panels, plan);
    plan_numbers(type, figure, heat, plan);
    const pb_heat *other = before && before->panel->kind == PB_PANEL_HEAT ? &before->panel->as.heat : NULL;
    if (other && before->cell_height == plan->cell_height && pb_heat_same_axis(&other->rows, &heat->rows))
        plan->rows = before->rows;
    else
        plan_row_labels(type, heat, plan);
    if (other && before->cell_width == plan->cell_width && pb_heat_same_axis(&other->cols, &heat->cols))
        plan->cols = before->cols;
    else
        pb_labels_below_plan(type, heat->cols.labels, heat->cols.marked, heat->cols.n, heat->cols.numeric,
                             plan->cell_width, &plan->cols);
    heat_box(type, plan);
}

/* ---- draw --------------------------------------------------------------------------------------------------------------- */

static void draw_cell(cairo_t *cr, const pb_plan *plan, float value, double x, double y) {
    double gap = fmin(plan->cell_width, plan->cell_height) >= GRID_FROM ? 0.5 : 0;
    if (isnan(value)) {
        pb_draw_absent(cr, x, y, plan->cell_width - gap, plan->cell_height - gap);
        return;
    }
    pb_rgb c = pb_colour_of(plan->scale->map, pb_colour_position(plan->scale, (double)value));
    cairo_set_source_rgb(cr, c.r, c.g, c.b);
    cairo_rectangle(cr, x, y, plan->cell_width - gap, plan->cell_height - gap);
    cairo_fill(cr);
}

static void draw_cells(cairo_t *cr, const pb_plan *plan, double x, double y) {
    const pb_heat *heat = &plan->panel->as.heat;
    cairo_save(cr);
    cairo_set_antialias(cr, CAIRO_ANTIALIAS_NONE); /* neighbours touch without seams */
    for (size_t r = 0; r < heat->rows.n; r++) {
        for (size_t c = 0; c < heat->cols.n; c++) {
            size_t i = r * heat->cols.n + c;
            if (!heat->masked || !heat->masked[i])
                draw_cell(cr, plan, heat->values[i], x + (double)c * plan->cell_width,
                          y + (double)r * plan->cell_height);
        }
    }
    cairo_restore(cr);
}

/* Many small cells are one image, a pixel each, enlarged without smoothing. */
static void draw_image(cairo_t *cr, const pb_plan *plan, double x, double y) {
    const pb_heat *heat = &plan->panel->as.heat;
    cairo_surface_t *image = cairo_image_surface_create(CAIRO_FORMAT_ARGB32, (int)heat->cols.n, (int)heat->rows.n);
    if (cairo_surface_status(image) == CAIRO_STATUS_SUCCESS) {
        unsigned char *pixels = cairo_image_surface_get_data(image);
        size_t stride = (size_t)cairo_image_surface_get_stride(image);
        for (size_t r = 0; r < heat->rows.n; r++) {
            for (size_t c = 0; c < heat->cols.n; c++) {
                size_t i = r * heat->cols.n + c;
                unsigned char rgb[3] = {190, 190, 194};
                if (!isnan(heat->values[i]))
                    pb_colour_map_at(plan->scale->map, pb_colour_position(plan->scale, (double)heat->values[i]), rgb);
                uint32_t argb = 0xFF000000u | (uint32_t)rgb[0] << 16 | (uint32_t)rgb[1] << 8 | rgb[2];
                if (heat->masked && heat->masked[i])
                    argb = 0;
                memcpy(pixels + r * stride + c * 4, &argb, 4);
            }
        }
        cairo_surface_mark_dirty(image);
    }
    cairo_save(cr);
    cairo_translate(cr, x, y);
    cairo_scale(cr, plan->cell_width, plan->cell_height);
    cairo_set_source_surface(cr, image, 0, 0); /* an error in image becomes cr's */
    cairo_pattern_set_filter(cairo_get_source(cr), CAIRO_FILTER_NEAREST);
    cairo_paint(cr);
    cairo_restore(cr);
    cairo_surface_destroy(image);
}

static void draw_numbers(pb_type *type, cairo_t *cr, const pb_plan *plan, double x, double y) {
    const pb_heat *heat = &plan->panel->as.heat;
    for (size_t r = 0; r < heat->rows.n; r++) {
        for (size_t c = 0; c < heat->cols.n; c++) {
            size_t i = r * heat->cols.n + c;
            double value = (double)heat->values[i];
            if (isnan(value) || (heat->masked && heat->masked[i]))
                continue;
            char text[PB_NUMBER_TEXT];
            pb_decimal_text(value, plan->decimals, text);
            pb_rgb cell = pb_colour_of(plan->scale->map, pb_colour_position(plan->scale, value));
            pb_rgb ink = pb_colour_lightness(cell) > 0.6 ? PB_INK : (pb_rgb){1, 1, 1};
            pb_type_draw(type, cr, PB_STYLE_CELL, text, 0, x + ((double)c + 0.5) * plan->cell_width - 0.25,
                         y + ((double)r + 0.5) * plan->cell_height - 0.25, (pb_anchor){0.5, 0.5}, 0, ink);
        }
    }
}

static void draw_row_labels(pb_type *type, cairo_t *cr, const pb_plan *plan, double x, double y) {
    const pb_heat_axis *axis = &plan->panel->as.heat.rows;
    for (size_t i = 0; i < axis->n; i++) {
        if ((axis->reversed ? axis->n - 1 - i : i) % plan->rows.step != 0)
            continue;
        pb_style style = axis->marked && axis->marked[i] ? PB_STYLE_MARKED : PB_STYLE_LABEL;
        pb_type_draw(type, cr, style, axis->labels[i], 0, x - LABEL_GAP, y + ((double)i + 0.5) * plan->cell_height,
                     (pb_anchor){1, 0.5}, 0, PB_INK);
    }
}

static void draw_frame(cairo_t *cr, const pb_plan *plan, double x, double y) {
    const pb_box *box = &plan->box;
    bool open = plan->panel->as.heat.masked != NULL; /* a triangle has no right and upper side */
    cairo_set_source_rgb(cr, PB_SOFT.r, PB_SOFT.g, PB_SOFT.b);
    cairo_set_line_width(cr, 0.5);
    double l = x - 0.25, t = y - 0.25, r = x + box->width - 0.25, b = y + box->height - 0.25;
    cairo_move_to(cr, l, t);
    cairo_line_to(cr, l, b);
    cairo_line_to(cr, r, b);
    if (!open) {
        cairo_line_to(cr, r, t);
        cairo_close_path(cr);
    }
    cairo_stroke(cr);
}

void pb_heat_draw(pb_type *type, cairo_t *cr, const pb_plan *plan, double x, double y) {
    const pb_heat *heat = &plan->panel->as.heat;
    if (fmin(plan->cell_width, plan->cell_height) < IMAGE_BELOW)
        draw_image(cr, plan, x, y);
    else
        draw_cells(cr, plan, x, y);
    if (plan->numbers)
        draw_numbers(type, cr, plan, x, y);
    draw_frame(cr, plan, x, y);
    if (!plan->hide_rows)
        draw_row_labels(type, cr, plan, x, y);
    if (!plan->hide_cols)
        pb_labels_below_draw(type, cr, heat->cols.labels, heat->cols.marked, heat->cols.n, heat->cols.reversed,
                             &plan->cols, x, y + plan->box.height, plan->cell_width);
    pb_titles_draw(type, cr, plan, x, y);
    if (plan->own_bar)
        pb_colour_bar_draw(type, cr, plan->scale, x + plan->box.width + BAR_GAP, y, plan->box.height);
}
