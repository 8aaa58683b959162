/* Figures: panels of numbers (heat maps, attention patterns, lines, bars, points) that are laid out, drawn and written
 * as PNG, SVG or PDF by one drawing code, or printed in a terminal.
 *
 * A figure is made, panels are added (drawn from left to right, then top to bottom), then it is saved as often as
 * wanted. Every add function checks its data at once and copies all of it (texts too): nothing of the caller's is kept,
 * and after an error the figure is as before. Sizes follow from the texts and the number of cells; nothing is cut off and
 * no two texts overlap. Nothing is drawn, and no font is looked for, before the first save or render.
 *
 * Texts are UTF-8. In labels, what cannot be seen is made visible: a space at either end is a middle dot, a newline is
 * U+23CE, a tab U+21E5, other control characters are their pictures (U+2400...), and bytes that are no UTF-8 are
 * written as \xE2. Labels wider than 240 points are shortened in the middle. Scripts that the installed fonts lack are
 * drawn as boxes with the character's code.
 *
 * All structs may start as {0}: every field's zero is its default, and NULL texts are absent. */
#ifndef PATCHBAY_FIGURE_H
#define PATCHBAY_FIGURE_H

#include "patchbay/context.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pb_figure pb_figure;

/* ---- the figure ------------------------------------------------------------------------------------------------- */

/* Which heat maps have one colour scale (one range, and one colour bar where all of the figure's heat maps agree). */
typedef enum pb_scales {
    PB_SCALES_AUTO,   /* those with the same unit and the same asked-for colour map */
    PB_SCALES_SHARED, /* all of them */
    PB_SCALES_OWN     /* each its own */
} pb_scales;

typedef struct pb_figure_options {
    const char *title;    /* above all panels */
    const char *subtitle; /* below the title, small: the prompt, the metric */
    const char *caption;  /* below all panels, small, wrapped: what is raw or normalised, n, intervals */
    int columns;          /* panels side by side; 0: as many as fit a page's width */
    pb_scales scales;
    double pixel_scale; /* PNG pixels per point (1/72 inch at 1); 0: 2. Between 0.5 and 8. */
} pb_figure_options;

/* options may be NULL. Gives one reference. */
pb_status pb_figure_create(pb_context *ctx, const pb_figure_options *options, pb_figure **out, pb_error *err);
pb_figure *pb_figure_ref(pb_figure *figure);
void pb_figure_unref(pb_figure *figure); /* NULL is a no-op */
size_t pb_figure_panels(const pb_figure *figure);

/* ---- heat maps -------------------------------------------------------------------------------------------------- */

/* All are uniform in perceived lightness (made in the OKLab space), and safe for every kind of colour blindness. */
typedef enum pb_colour_map {
    PB_COLOURS_AUTO,       /* diverging where the values of the scale lie on both sides of zero (each by at least 5 % of
                              the largest magnitude) or hang down from zero; else sequential */
    PB_COLOURS_SEQUENTIAL, /* white, green-blue, dark indigo: more is darker */
    PB_COLOURS_DIVERGING,  /* red below zero, white at zero, blue above; the range is symmetric about zero */
    PB_COLOURS_PURPLES, /* white to purple, green, red: the colours of the ROME paper for block states, MLP and attention */
    PB_COLOURS_GREENS,
    PB_COLOURS_REDS,
    PB_COLOURS_GREYS,
    PB_COLOURS_COUNT
} pb_colour_map;

/* "auto", "sequential", ... for messages and bindings. Cannot fail. */
const char *pb_colour_map_name(pb_colour_map map);
/* The map with that name; the error lists the names and suggests the nearest. */
pb_status pb_colour_map_parse(const char *name, pb_colour_map *out, pb_error *err);
/* The colour at t in 0..1 (clipped; AUTO is SEQUENTIAL): red, green, blue, 0..255. */
void pb_colour_map_at(pb_colour_map map, double t, unsigned char rgb[3]);

typedef enum pb_numbers {
    PB_NUMBERS_AUTO, /* in small grids */
    PB_NUMBERS_ON,   /* cells are made big enough; 2,500 cells at most, an error beyond */
    PB_NUMBERS_OFF
} pb_numbers;

/* A grid of numbers. NaN cells are hatched and explained by a legend entry; infinities have the colour of that end of
 * the scale and do not widen it.
 *
 * Which way round: rows go down the y axis as the caller gives them. A [layer, pos] grid is most readable with
 * transposed = true: tokens down the y axis, where long labels need no turning, layers along x as in the ROME paper.
 * For [layer, head] leave it false; upward = true then puts layer 0 at the bottom. Field names always speak of the data
 * before the transposition, except x_title and y_title, which are the axes as drawn. */
typedef struct pb_heatmap {
    const char *title, *subtitle;
    size_t rows, cols;   /* 1 to 8192 each */
    const float *values; /* [rows, cols], row-major */

    /* Labels: n_row_labels must be rows (n_col_labels: cols); NULL with 0: the indices 0, 1, ... are the labels. */
    const char *const *row_labels;
    size_t n_row_labels;
    const char *const *col_labels;
    size_t n_col_labels;
    const char *x_title, *y_title; /* as drawn */

    /* 0-based rows and columns whose labels are emphasised (bold, with an asterisk): the subject's tokens. */
    const size_t *marked_rows;
    size_t n_marked_rows;
    const size_t *marked_cols;
    size_t n_marked_cols;

    bool transposed; /* rows along x */
    bool upward;     /* the first row at the bottom (after transposition: the first column) */
    bool causal;     /* attention: cells with col > row are masked, not drawn and not looked at; ROWS then are dest */

    pb_colour_map map;
    const double *range; /* [2], low < high, finite; NULL: from the data. Values beyond have the end's colour, and the
                            colour bar says so with a pointed end. A diverging map uses +-max(|low|, |high|). */
    const char *unit;    /* beside the colour bar: "recovered share of logit difference" */
    pb_numbers numbers;
    int digits; /* decimals of numbers in cells; 0: by the data's magnitude */
} pb_heatmap;

/* Errors: no cells, more than 8192 along an axis, label counts that differ from the shape, a mark out of range, a
 * range that is none (PB_ERR_ARGUMENT); all values NaN or infinite (PB_ERR_NUMERIC). */
pb_status pb_figure_add_heatmap(pb_figure *figure, const pb_heatmap *panel, pb_error *err);

/* The attention pattern of one head: a triangular heat map with square cells, dest down the y axis, src along x.
 * Panels of heads over the same tokens show the labels once per row and column of panels. */
typedef struct pb_attention {
    const char *title;         /* "head 3.1" */
    size_t tokens;             /* T, 1 to 8192 */
    const float *pattern;      /* [T, T], (dest, src), row-major */
    const char *const *labels; /* [n_labels], n_labels = T; NULL with 0: positions */
    size_t n_labels;
    const size_t *marked; /* tokens to emphasise, on both axes */
    size_t n_marked;
    bool bidirectional; /* draw src > dest too */
    pb_colour_map map;
    const double *range; /* NULL: from 0 to the largest weight of the scale */
    const char *unit;    /* NULL: "attention" */
} pb_attention;

pb_status pb_figure_add_attention(pb_figure *figure, const pb_attention *panel, pb_error *err);

/* ---- lines, bars, points ------------------------------------------------------------------------------------------ */

/* y over x. NaN in x or y is a gap in the line. */
typedef struct pb_series {
    const char *label; /* written beside the line, in its colour */
    size_t n;
    const float *x;    /* [n]; NULL: 0, 1, ... */
    const float *y;    /* [n] */
    const float *low;  /* [n] lower ends of intervals, as values (not distances); NULL: none. Both or neither. */
    const float *high; /* [n] upper ends */
    bool error_bars;   /* intervals as bars; default: as a band */
    bool dashed;
    bool no_markers; /* default: markers where n <= 40 */
} pb_series;

typedef struct pb_line_plot {
    const char *title, *subtitle, *x_title, *y_title;
    const pb_series *series;
    size_t n_series;   /* 1 to 64 */
    bool log_x, log_y; /* all values must be > 0 */
    /* Names for x = 0, 1, ... instead of numbers (tokens, layers by name). NULL with 0: numbers. */
    const char *const *x_labels;
    size_t n_x_labels;
    const double *x_range, *y_range; /* [2], low < high; NULL: from the data */
    const double *levels;            /* [n_levels] dashed horizontal lines: baselines */
    const char *const *level_labels; /* [n_levels] or NULL */
    size_t n_levels;                 /* at most 64 */
} pb_line_plot;

/* Errors: no series, no points, low without high, nothing finite to draw, values <= 0 on a log axis. */
pb_status pb_figure_add_lines(pb_figure *figure, const pb_line_plot *panel, pb_error *err);

typedef struct pb_bar_plot {
    const char *title, *subtitle, *x_title, *y_title;
    size_t groups, series;           /* groups along x (1 to 1024), series side by side within each (1 to 32) */
    const float *values;             /* [series, groups]; NaN: no bar */
    const float *low, *high;         /* [series, groups] ends of error bars, as values; NULL: none. Both or neither. */
    const char *const *group_labels; /* n_group_labels = groups; NULL with 0: 0, 1, ... */
    size_t n_group_labels;
    const char *const *series_labels; /* n_series_labels = series; NULL with 0: no legend */
    size_t n_series_labels;
    const double *y_range; /* [2]; NULL: from the data, with zero */
    bool numbers;          /* write each bar's value at its end */
} pb_bar_plot;

pb_status pb_figure_add_bars(pb_figure *figure, const pb_bar_plot *panel, pb_error *err);

typedef struct pb_scatter {
    const char *title, *subtitle, *x_title, *y_title;
    size_t n;
    const float *x, *y;              /* [n]; points with NaN or infinity are not drawn, and their number is stated */
    const char *const *labels;       /* [n] entries NULL or "": not labelled; NULL: none is */
    const int *classes;              /* [n] index into class_labels, which gives colour and legend; NULL: one colour */
    const char *const *class_labels; /* [n_classes], 1 to 32 */
    size_t n_classes;
    bool identity;     /* the line y = x; both axes then have the same range and length */
    bool log_x, log_y; /* all finite values must be > 0 */
    const double *x_range, *y_range;
} pb_scatter;

pb_status pb_figure_add_scatter(pb_figure *figure, const pb_scatter *panel, pb_error *err);

/* ---- output ------------------------------------------------------------------------------------------------------- */

typedef enum pb_figure_format { PB_FIGURE_PNG, PB_FIGURE_SVG, PB_FIGURE_PDF } pb_figure_format;

/* By the part after the last dot, in any case. The error lists what there is. */
pb_status pb_figure_format_of(const char *path, pb_figure_format *out, pb_error *err);

/* A fact about a figure, both UTF-8. key: 1 to 79 printable characters of Latin-1, no space at the ends and no two
 * together, each once per figure; value of any length without NUL. */
typedef struct pb_text_pair {
    const char *key;
    const char *value;
} pb_text_pair;

/* The whole file in a new block (pb_free). metadata goes into PNG iTXt chunks (compressed from 256 bytes on), an SVG
 * <metadata> element, or (as a JSON object) the PDF's keywords. The same figure and metadata give the same bytes in one
 * installation (fonts and libraries): there are no time stamps. A figure without panels is PB_ERR_ARGUMENT;
 * without any installed font PB_ERR_IO (install fonts-dejavu-core); bigger than 30,000 pixels PB_ERR_UNSUPPORTED. */
pb_status pb_figure_render(const pb_figure *figure, pb_figure_format format, const pb_text_pair *metadata,
                           size_t n_metadata, unsigned char **bytes, size_t *size, pb_error *err);

/* Render by the extension of path, then write beside it and rename: after a failure an older file is untouched. */
pb_status pb_figure_save(const pb_figure *figure, const char *path, const pb_text_pair *metadata, size_t n_metadata,
                         pb_error *err);

typedef struct pb_terminal_options {
    bool colour;     /* 24-bit colour: cells as blocks, with the value inside where it fits, and a legend. False: plain
                      aligned numbers (lines, bars and points are always plain tables). */
    int width;       /* columns; 0: 80. Wider tables are folded into blocks of columns. At least 20. */
    size_t max_rows; /* longer tables are cut in the middle, with a line that says so; 0: 60 */
} pb_terminal_options;

/* Text with a newline at the end, in a new block (pb_free). No font is needed. options may be NULL. */
pb_status pb_figure_terminal(const pb_figure *figure, const pb_terminal_options *options, char **out, pb_error *err);

/* ---- what a PNG says about itself ------------------------------------------------------------------------------------ */

/* All text chunks (tEXt, zTXt, iTXt) of a PNG file, in file order, as UTF-8. */
typedef struct pb_png_text pb_png_text;

/* PB_ERR_IO: cannot be read. PB_ERR_FORMAT: not a PNG, or broken (checksums are checked; a chunk may hold 64 MB). */
pb_status pb_png_read_text(pb_context *ctx, const char *path, pb_png_text **out, pb_error *err);
void pb_png_text_free(pb_png_text *text); /* NULL is a no-op */
size_t pb_png_text_count(const pb_png_text *text);
const pb_text_pair *pb_png_text_at(const pb_png_text *text, size_t i);  /* valid while text is; i < count */
const char *pb_png_text_find(const pb_png_text *text, const char *key); /* NULL if absent */

#ifdef __cplusplus
}
#endif
#endif
