/* Between output.c and svg.c. */
#ifndef PB_FIGURE_OUTPUT_H
#define PB_FIGURE_OUTPUT_H

#include "base/strbuf.h"
#include "figure/figure_private.h"

/* cairo's SVG made ours: title, description and metadata at the front, the texts (log, as pb_type_log wrote it) as
 * invisible text elements at the end, images enlarged without smoothing, and no numbers that differ between two
 * renderings in one process. Appends to out; errors are out's sticky failure. */
void pb_svg_finish(const char *drawn, const pb_figure *figure, const pb_text_pair *metadata, size_t n_metadata,
                   const pb_strbuf *log, pb_strbuf *out);

/* What the figure shows, in words: kinds of panels, titles, axes. For screen readers and file information. */
void pb_figure_describe(const pb_figure *figure, pb_strbuf *out);

#endif
