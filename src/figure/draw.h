/* Drawing a figure: every panel is first planned (sizes that follow from texts and cells), then all are placed, then
 * drawn. Planning needs no surface, so that all formats have the same layout. Units are points, y grows downwards. */
#ifndef PB_FIGURE_DRAW_H
#define PB_FIGURE_DRAW_H

#include "figure/figure_private.h"
#include "figure/text.h"

/* A panel is a plot area with room for texts around it. */
typedef struct pb_box {
    double left, top, right, bottom; /* room around the plot area */
    double width, height;            /* of the plot area */
} pb_box;

/* How the labels below a plot are written. */
typedef struct pb_label_plan {
    double angle;                         /* 0, or turned counter-clockwise: -pi/4, -pi/2 */
    size_t step;                          /* every step-th label is written */
    double extent;                        /* height that the labels need (width, for labels beside a plot) */
    double overhang_left, overhang_right; /* beyond the plot area's edges */
    double wrap;                          /* lines of level labels are broken at this width; 0: one line */
} pb_label_plan;

typedef struct pb_axis_plan {
    double low, high;
    bool log;
    pb_ticks ticks;
} pb_axis_plan;

typedef struct pb_plan {
    const pb_panel *panel;
    pb_box box;
    double title_wrap, labels_below; /* set by pb_titles_box: where titles break; room between plot and x title */
    double labels_left;              /* room between plot and y title, without what slanted labels of x stick out */
    bool hide_rows, hide_cols;       /* a neighbour shows the same labels and axis title */

    /* heat maps */
    const pb_colour_scale *scale;
    bool own_bar; /* the colour bar stands right of the plot area */
    double cell_width, cell_height;
    bool numbers;
    int decimals;
    double bar_width;
    pb_label_plan rows, cols;

    /* lines, bars, points */
    pb_axis_plan x, y;
    pb_label_plan x_labels;
    double legend_width;
    size_t n_left_out; /* points that are not finite */
} pb_plan;

/* heat.c. before: the plan of the panel before, or NULL; equal labels are then not measured again. */
void pb_heat_plan(pb_type *type, const pb_figure *figure, const pb_plan *before, pb_plan *plan);
void pb_heat_draw(pb_type *type, cairo_t *cr, const pb_plan *plan, double x, double y);
bool pb_heat_same_axis(const pb_heat_axis *a, const pb_heat_axis *b);

/* colour_bar.c. The bar's top left corner is (x, y); extent includes ticks, unit and the legend of absent values. */
pb_extent pb_colour_bar_measure(pb_type *type, const pb_colour_scale *scale, double height);
void pb_colour_bar_draw(pb_type *type, cairo_t *cr, const pb_colour_scale *scale, double x, double y, double height);
/* The look of cells without a value. */
void pb_draw_absent(cairo_t *cr, double x, double y, double width, double height);

/* axes.c: what lines, bars and points have in common. */
typedef enum pb_grid { PB_GRID_NONE, PB_GRID_Y, PB_GRID_BOTH } pb_grid;
/* (x, y) is the plot area's top left corner. Draws what lies below everything else: call first. */
void pb_axes_draw(pb_type *type, cairo_t *cr, const pb_plan *plan, double x, double y, pb_grid grid);
/* Box from ticks and titles; call when ranges, plot size and x_labels are known. legend_width is added at the right. */
void pb_axes_box(pb_type *type, pb_plan *plan);
/* 0..1 along the axis, from low to high. */
double pb_axis_position(const pb_axis_plan *axis, double value);
/* Range, ticks. data low <= high. range NULL: widened to nice numbers. */
void pb_axis_plan_make(pb_axis_plan *axis, double low, double high, const double *range, bool log, bool whole,
                       int wanted);
/* Titles around any plot area: grows box for them, which has the room for labels and whatever stands at the right.
 * What lies below the x title is added to box.bottom afterwards. pb_titles_draw draws them at the same places. */
void pb_titles_box(pb_type *type, pb_plan *plan);
void pb_titles_draw(pb_type *type, cairo_t *cr, const pb_plan *plan, double x, double y);
/* n labels, pitch apart, below a plot. */
void pb_labels_below_plan(pb_type *type, const char *const *labels, const bool *marked, size_t n, bool numeric,
                          double pitch, pb_label_plan *out);
void pb_labels_below_draw(pb_type *type, cairo_t *cr, const char *const *labels, const bool *marked, size_t n,
                          bool reversed, const pb_label_plan *plan, double x, double y, double pitch);
size_t pb_label_step(size_t n, double pitch, double needed);

/* several: the panel is one of more, and is drawn smaller. */
void pb_lines_plan(pb_type *type, pb_plan *plan, bool several);
void pb_lines_draw(pb_type *type, cairo_t *cr, const pb_plan *plan, double x, double y);
void pb_bars_plan(pb_type *type, pb_plan *plan);
void pb_bars_draw(pb_type *type, cairo_t *cr, const pb_plan *plan, double x, double y);
void pb_scatter_plan(pb_type *type, pb_plan *plan);
/* Allocates the boxes of placed labels. */
pb_status pb_scatter_draw(pb_type *type, cairo_t *cr, const pb_plan *plan, double x, double y, pb_error *err);

/* axes.c */
void pb_draw_marker(cairo_t *cr, size_t shape, double x, double y, double radius); /* leaves a path: fill it */

/* layout.c: a figure whose every part has its place. */
typedef struct pb_layout pb_layout;

pb_status pb_layout_make(const pb_figure *figure, pb_type *type, pb_layout **out, pb_error *err);
void pb_layout_free(pb_layout *layout); /* NULL is a no-op */
pb_extent pb_layout_size(const pb_layout *layout);
pb_status pb_layout_draw(pb_layout *layout, cairo_t *cr, pb_error *err);

#endif
