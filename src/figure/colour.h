/* Colours: the maps from numbers to colours, the palette of series, and the greys of text and lines.
 * Every choice of colour in a figure is made in colour.c. */
#ifndef PB_FIGURE_COLOUR_H
#define PB_FIGURE_COLOUR_H

#include "patchbay/figure.h"

typedef struct pb_rgb {
    double r, g, b; /* sRGB, 0..1 */
} pb_rgb;

/* The same as pb_colour_map_at, unrounded bytes / 255: what is drawn equals what that function says. */
pb_rgb pb_colour_of(pb_colour_map map, double t);

/* Perceived lightness (OKLab L, 0 black .. 1 white). */
double pb_colour_lightness(pb_rgb colour);

/* Colour of series i: distinguishable by the colour-blind for i < 8, then repeated. */
pb_rgb pb_series_colour(size_t i);
/* Series beyond the palette are told apart by dashes and marker shapes: how often the palette was used up before i. */
size_t pb_series_round(size_t i);

extern const pb_rgb PB_INK;    /* titles, labels */
extern const pb_rgb PB_SOFT;   /* subtitles, captions, made-visible characters, axis lines */
extern const pb_rgb PB_FAINT;  /* grid lines */
extern const pb_rgb PB_ABSENT; /* background of cells without a value */

#endif
