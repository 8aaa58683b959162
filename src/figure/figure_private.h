/* The inside of a figure, for src/figure alone: what panels hold, and what drawing code shares.
 *
 * Panels hold copies that are ready to draw: texts are valid UTF-8 with the invisible made visible, heat maps lie as
 * drawn (row 0 at the top), so that PNG, SVG, PDF and terminal cannot differ in orientation. */
#ifndef PB_FIGURE_PRIVATE_H
#define PB_FIGURE_PRIVATE_H

#include "patchbay/figure.h"

/* ---- memory of one panel: many small pieces, released together --------------------------------------------------- */

struct pb_pool_chunk;

typedef struct pb_pool {
    pb_context *ctx;
    struct pb_pool_chunk *chunks; /* newest first */
} pb_pool;

/* Zeroed, aligned for any type; count * size is checked for overflow. NULL when memory is out. */
void *pb_pool_alloc(pb_pool *pool, size_t count, size_t size);
void pb_pool_free(pb_pool *pool); /* all of it; idempotent */
pb_status pb_pool_copy(pb_pool *pool, const void *data, size_t count, size_t size, void *out, pb_error *err);

/* ---- panels ---------------------------------------------------------------------------------------------------------- */

typedef enum pb_panel_kind { PB_PANEL_HEAT, PB_PANEL_LINES, PB_PANEL_BARS, PB_PANEL_SCATTER } pb_panel_kind;

/* Labels of one axis of a heat map, as drawn from the top or left. */
typedef struct pb_heat_axis {
    size_t n;
    const char **labels; /* [n] */
    bool *marked;        /* [n] or NULL */
    bool numeric;        /* all labels are whole numbers: may be thinned out rather than turned */
    bool reversed;       /* the last entry is index 0 */
} pb_heat_axis;

typedef struct pb_heat {
    pb_heat_axis rows, cols;
    float *values;         /* [rows, cols] */
    unsigned char *masked; /* [rows, cols] cells that do not exist, or NULL */
    double low, high;      /* of the finite values that are not masked */
    size_t n_nan;
    pb_colour_map map;
    bool has_range;
    double range[2];
    const char *unit;
    pb_numbers numbers;
    int digits;
    bool square; /* cells as wide as high */
    bool from_zero;
} pb_heat;

typedef struct pb_panel {
    pb_panel_kind kind;
    pb_pool pool;
    const char *title, *subtitle, *x_title, *y_title; /* NULL: absent */
    union {
        pb_heat heat;
        /* Pointers lead into the pool; title, subtitle, x_title and y_title are above instead. */
        pb_line_plot lines;
        pb_bar_plot bars;
        pb_scatter scatter;
    } as;
} pb_panel;

struct pb_figure {
    size_t refs;
    pb_context *ctx;
    pb_pool pool; /* title, subtitle, caption */
    pb_figure_options options;
    pb_panel **panels;
    size_t n_panels, capacity;
};

/* A panel that is not yet part of the figure: fill it, then pb_figure_take_panel or pb_panel_drop. Messages of its
 * errors begin with "panel 2 ('title'): " (pb_panel_fail). */
pb_status pb_panel_begin(pb_figure *figure, pb_panel_kind kind, const char *title, const char *subtitle,
                         const char *x_title, const char *y_title, pb_panel **out, pb_error *err);
pb_status pb_figure_take_panel(pb_figure *figure, pb_panel *panel, pb_error *err);
void pb_panel_drop(pb_panel *panel);
pb_status pb_panel_fail(const pb_figure *figure, const char *title, pb_error *err, pb_status status, const char *format,
                        ...) PB_PRINTF(5, 6);
/* PB_ERR_ARGUMENT unless range is NULL or finite with low < high. what: "x_range". */
pb_status pb_panel_check_range(const pb_figure *figure, const char *title, const double *range, const char *what,
                               pb_error *err);

/* ---- texts -------------------------------------------------------------------------------------------------------------- */

/* Copies in the pool. Label: all that is invisible is made visible; text: newlines stay. NULL stays NULL. */
pb_status pb_copy_label(pb_pool *pool, const char *text, const char **out, pb_error *err);
pb_status pb_copy_text(pb_pool *pool, const char *text, const char **out, pb_error *err);
/* [n] labels; NULL entries become "". */
pb_status pb_copy_labels(pb_pool *pool, const char *const *labels, size_t n, const char ***out, pb_error *err);

/* ---- scales -------------------------------------------------------------------------------------------------------------- */

enum { PB_MAX_TICKS = 32, PB_NUMBER_TEXT = 48 };

typedef struct pb_ticks {
    int n;
    double at[PB_MAX_TICKS];
    char text[PB_MAX_TICKS][PB_NUMBER_TEXT];
} pb_ticks;

/* Multiples of 1, 2 or 5 times a power of ten within low..high, at most about `wanted` of them, at least one. */
void pb_ticks_linear(double low, double high, int wanted, bool whole, pb_ticks *out);
/* Powers of ten; with few of them also their 2- and 5-fold. 0 < low < high. */
void pb_ticks_log(double low, double high, int wanted, pb_ticks *out);
/* low and high moved outwards to the next tick when a tick is near; equal ends are spread. */
void pb_range_widen(double *low, double *high);

/* value with `decimals` places and U+2212 for minus, '.' in every locale; scientific when it would be very long. */
void pb_decimal_text(double value, int decimals, char out[PB_NUMBER_TEXT]);
/* Places that show values of this largest magnitude with about three digits. */
int pb_decimals_for(double largest);

/* The colour scale of one or more heat maps. */
typedef struct pb_colour_scale {
    pb_colour_map map; /* never AUTO */
    double low, high;
    bool below, above; /* values beyond the ends exist */
    bool has_nan;
    const char *unit; /* or NULL */
    size_t group;     /* heat maps with equal group have this scale in common */
} pb_colour_scale;

/* One scale per panel (entries of panels that are no heat maps are zero). *groups: number of different scales. */
void pb_colour_scales(const pb_figure *figure, pb_colour_scale *out, size_t *groups);
/* 0..1 position of a value that is not NaN. */
double pb_colour_position(const pb_colour_scale *scale, double value);

/* ---- output ---------------------------------------------------------------------------------------------------------------- */

/* png.c: rows of 32-bit native-endian xRGB pixels. pixels_per_metre for the pHYs chunk. */
pb_status pb_png_encode(pb_context *ctx, const unsigned char *pixels, size_t width, size_t height, size_t stride,
                        double pixels_per_metre, const pb_text_pair *texts, size_t n_texts, unsigned char **out,
                        size_t *size, pb_error *err);
/* PB_ERR_ARGUMENT naming the first key or value that pb_figure_render's contract does not allow. */
pb_status pb_metadata_check(const pb_text_pair *pairs, size_t n, pb_error *err);

#endif
