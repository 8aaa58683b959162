/* Text: measuring and drawing through Pango, one set of fonts and styles for the whole figure.
 *
 * A pb_type belongs to one rendering: it has its own font map, so nothing is shared between figures or threads but
 * what fontconfig itself keeps. Sizes are in points; metrics are unhinted, so that all formats have one layout. */
#ifndef PB_FIGURE_TEXT_H
#define PB_FIGURE_TEXT_H

#include <cairo.h>

#include "base/strbuf.h"
#include "figure/colour.h"

typedef struct pb_type pb_type;

typedef enum pb_style {
    PB_STYLE_FIGURE_TITLE,
    PB_STYLE_TITLE, /* of a panel */
    PB_STYLE_SUBTITLE,
    PB_STYLE_AXIS,   /* axis titles and units */
    PB_STYLE_LABEL,  /* tokens, ticks */
    PB_STYLE_MARKED, /* an emphasised label: bold, an asterisk behind it */
    PB_STYLE_CELL,   /* numbers inside cells */
    PB_STYLE_CAPTION,
    PB_STYLE_LEGEND,
    PB_STYLE_COUNT
} pb_style;

typedef struct pb_extent {
    double width, height;
} pb_extent;

/* PB_ERR_IO when no font is installed. */
pb_status pb_type_open(pb_context *ctx, pb_type **out, pb_error *err);
void pb_type_close(pb_type *type); /* NULL is a no-op */

/* From now on every text that is drawn is also appended to log as an invisible SVG <text> (to be searched, selected and
 * read aloud; cairo draws letters as outlines). NULL: off. */
void pb_type_log(pb_type *type, pb_strbuf *log);

/* wrap: lines are broken at this width (0: only at newlines). Labels wider than 240 points are shortened. */
pb_extent pb_type_measure(pb_type *type, pb_style style, const char *text, double wrap);
double pb_type_line_height(pb_type *type, pb_style style);

/* Where (x, y) lies in the text's box: 0 left/top, 0.5 middle, 1 right/bottom. */
typedef struct pb_anchor {
    double x, y;
} pb_anchor;

/* angle: radians, clockwise positive (y grows downwards), about (x, y). */
void pb_type_draw(pb_type *type, cairo_t *cr, pb_style style, const char *text, double wrap, double x, double y,
                  pb_anchor anchor, double angle, pb_rgb colour);

#endif
