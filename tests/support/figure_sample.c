#include "figure_sample.h"

#include <math.h>

#include "support.h"

const char *const sample_tokens[SAMPLE_TOKENS] = {"The",
                                                  " E",
                                                  "iff",
                                                  "el",
                                                  " Tower",
                                                  " is",
                                                  " \xE4\xB8\xAD\xE6\x96\x87",
                                                  "\n",
                                                  " \xF0\x9F\x98\x80",
                                                  " <b>&\"",
                                                  " \xD7\xA9\xD7\x9C\xD7\x95\xD7\x9D",
                                                  "a rather long token that somebody made"};

pb_figure *sample_figure(pb_context *ctx, const pb_figure_options *options) {
    pb_error err = {0};
    pb_figure *figure = NULL;
    assert_ok(pb_figure_create(ctx, options, &figure, &err));
    return figure;
}

/* One panel of every kind, with texts that strain the layout. */
pb_figure *sample_busy_figure(pb_context *ctx, double pixel_scale) {
    pb_error err = {0};
    pb_figure *figure = sample_figure(
        ctx,
        &(pb_figure_options){
            .title =
                "A title that is long enough to be broken into several lines because it goes on and on, as titles may",
            .subtitle = "prompt: The Eiffel Tower is located in the city of",
            .caption = "A caption.",
            .pixel_scale = pixel_scale});
    float values[SAMPLE_TOKENS * SAMPLE_TOKENS];
    for (int i = 0; i < SAMPLE_TOKENS * SAMPLE_TOKENS; i++)
        values[i] = (float)(i % 7) / 7 - (i % 5 == 0 ? 0.5f : 0);
    values[3] = NAN;
    const size_t marked[2] = {1, 4};
    assert_ok(pb_figure_add_heatmap(figure,
                                    &(pb_heatmap){.title = "a heat map with quite a long title",
                                                  .subtitle = "and subtitle",
                                                  .rows = 3,
                                                  .cols = SAMPLE_TOKENS,
                                                  .values = values,
                                                  .col_labels = sample_tokens,
                                                  .n_col_labels = SAMPLE_TOKENS,
                                                  .marked_cols = marked,
                                                  .n_marked_cols = 2,
                                                  .x_title = "the x axis has a long title too, longer than the plot",
                                                  .y_title = "and so has the y axis, longer than it",
                                                  .unit = "a unit with many words in it, longer than the bar"},
                                    &err));
    assert_ok(pb_figure_add_attention(figure,
                                      &(pb_attention){.title = "head 3.1",
                                                      .tokens = SAMPLE_TOKENS,
                                                      .pattern = values,
                                                      .labels = sample_tokens,
                                                      .n_labels = SAMPLE_TOKENS,
                                                      .marked = marked,
                                                      .n_marked = 2},
                                      &err));
    const float y[5] = {0.1f, 0.5f, NAN, 0.9f, 1.0f}, low[5] = {0, 0.4f, 0.5f, 0.8f, 0.9f},
                high[5] = {0.2f, 0.6f, 0.7f, 1.0f, 1.1f};
    const pb_series series[3] = {{.label = "band", .n = 5, .y = y, .low = low, .high = high},
                                 {.label = "bars with a name that must be wrapped somewhere",
                                  .n = 5,
                                  .y = high,
                                  .low = low,
                                  .high = high,
                                  .error_bars = true},
                                 {.label = "dashed", .n = 5, .y = low, .dashed = true}};
    const double level = 1;
    const char *const level_label = "ceiling";
    assert_ok(pb_figure_add_lines(figure,
                                  &(pb_line_plot){.title = "lines",
                                                  .x_title = "x",
                                                  .y_title = "y",
                                                  .series = series,
                                                  .n_series = 3,
                                                  .levels = &level,
                                                  .level_labels = &level_label,
                                                  .n_levels = 1},
                                  &err));
    assert_ok(pb_figure_add_lines(
        figure, &(pb_line_plot){.series = series, .n_series = 1, .x_labels = sample_tokens, .n_x_labels = 5}, &err));
    assert_ok(pb_figure_add_bars(figure,
                                 &(pb_bar_plot){.title = "bars",
                                                .groups = 5,
                                                .series = 1,
                                                .values = y,
                                                .low = low,
                                                .high = high,
                                                .group_labels = sample_tokens,
                                                .n_group_labels = 5,
                                                .numbers = true},
                                 &err));
    assert_ok(pb_figure_add_bars(
        figure,
        &(pb_bar_plot){.groups = 2, .series = 2, .values = y, .series_labels = sample_tokens, .n_series_labels = 2},
        &err));
    const int classes[5] = {0, 1, 0, 1, 1};
    assert_ok(pb_figure_add_scatter(figure,
                                    &(pb_scatter){.title = "points",
                                                  .n = 5,
                                                  .x = low,
                                                  .y = y,
                                                  .labels = sample_tokens,
                                                  .classes = classes,
                                                  .class_labels = sample_tokens,
                                                  .n_classes = 2,
                                                  .identity = true},
                                    &err));
    return figure;
}
