/* A figure with a panel of every kind, and texts that strain its layout. */
#ifndef PB_TEST_FIGURE_SAMPLE_H
#define PB_TEST_FIGURE_SAMPLE_H

#include "patchbay/figure.h"

enum { SAMPLE_TOKENS = 12 };
/* With CJK, Hebrew, an emoji, a newline, XML's special characters, and one long token. */
extern const char *const sample_tokens[SAMPLE_TOKENS];

/* A figure of these options (NULL: defaults); the test fails when it cannot be made. */
pb_figure *sample_figure(pb_context *ctx, const pb_figure_options *options);
/* Seven panels: heat map, attention, lines twice, bars twice, points. */
pb_figure *sample_busy_figure(pb_context *ctx, double pixel_scale);

#endif
