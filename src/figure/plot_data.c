/* Adding lines, bars and points: checking and copying. */
#include <math.h>
#include <string.h>

#include "figure/figure_private.h"

enum { MAX_SERIES = 64, MAX_POINTS = 1000000, MAX_GROUPS = 1024, MAX_BAR_SERIES = 32, MAX_CLASSES = 32 };

/* ---- copying helpers ------------------------------------------------------------------------------------------- */

static pb_status copy_floats(pb_pool *pool, const float **data, size_t n, pb_error *err) {
    const float *copy = NULL;
    PB_TRY(pb_pool_copy(pool, *data, n, sizeof **data, &copy, err));
    *data = copy;
    return PB_OK;
}

static pb_status copy_range(pb_pool *pool, const double **range, pb_error *err) {
    const double *copy = NULL;
    PB_TRY(pb_pool_copy(pool, *range, 2, sizeof **range, &copy, err));
    *range = copy;
    return PB_OK;
}

static pb_status copy_texts(pb_pool *pool, const char *const **texts, size_t n, pb_error *err) {
    if (!*texts || !n) {
        *texts = NULL;
        return PB_OK;
    }
    const char **copy = NULL;
    PB_TRY(pb_copy_labels(pool, *texts, n, &copy, err));
    *texts = copy;
    return PB_OK;
}

/* Take the panel, or drop it where filling it failed. */
static pb_status finish(pb_figure *figure, pb_panel *panel, pb_status status, pb_error *err) {
    if (status == PB_OK)
        status = pb_figure_take_panel(figure, panel, err);
    if (status != PB_OK)
        pb_panel_drop(panel);
    return status;
}

/* First finite value that a logarithmic axis cannot show; NULL if none. */
static const float *not_positive(const float *data, size_t n) {
    for (size_t i = 0; data && i < n; i++) {
        if (isfinite(data[i]) && data[i] <= 0)
            return &data[i];
    }
    return NULL;
}

static pb_status check_log(const pb_figure *figure, const char *title, bool log, const float *data, size_t n,
                           const double *range, const char *axis, pb_error *err) {
    if (!log)
        return PB_OK;
    const float *bad = not_positive(data, n);
    if (bad)
        return pb_panel_fail(figure, title, err, PB_ERR_ARGUMENT,
                             "the %s axis is logarithmic, but there is a value %g: only values above 0 can be shown",
                             axis, (double)*bad);
    if (range && range[0] <= 0)
        return pb_panel_fail(figure, title, err, PB_ERR_ARGUMENT,
                             "the %s axis is logarithmic, but its range begins at %g: it must be above 0", axis,
                             range[0]);
    return PB_OK;
}

static pb_status check_intervals(const pb_figure *figure, const char *title, const float *low, const float *high,
                                 pb_error *err) {
    if (!low == !high)
        return PB_OK;
    return pb_panel_fail(figure, title, err, PB_ERR_ARGUMENT, "intervals need both ends: %s is given, %s is not",
                         low ? "low" : "high", low ? "high" : "low");
}

/* ---- lines ------------------------------------------------------------------------------------------------------- */

static pb_status check_series(const pb_figure *figure, const pb_line_plot *p, const pb_series *s, size_t index,
                              size_t *n_finite, pb_error *err) {
    if (s->n == 0 || !s->y)
        return pb_panel_fail(figure, p->title, err, PB_ERR_ARGUMENT, "line %zu ('%s') has no points", index,
                             s->label ? s->label : "");
    if (s->n > MAX_POINTS)
        return pb_panel_fail(figure, p->title, err, PB_ERR_ARGUMENT, "line %zu has %zu points: %d are the most", index,
                             s->n, MAX_POINTS);
    PB_TRY(check_intervals(figure, p->title, s->low, s->high, err));
    PB_TRY(check_log(figure, p->title, p->log_x, s->x, s->n, p->x_range, "x", err));
    PB_TRY(check_log(figure, p->title, p->log_y, s->y, s->n, p->y_range, "y", err));
    PB_TRY(check_log(figure, p->title, p->log_y, s->low, s->n, NULL, "y", err));
    if (p->log_x && !s->x)
        return pb_panel_fail(figure, p->title, err, PB_ERR_ARGUMENT,
                             "the x axis is logarithmic, but line %zu has no x, so it begins at 0", index);
    for (size_t i = 0; i < s->n; i++)
        *n_finite += isfinite(s->y[i]) && (!s->x || isfinite(s->x[i]));
    return PB_OK;
}

static pb_status check_lines(const pb_figure *figure, const pb_line_plot *p, pb_error *err) {
    if (p->n_series == 0 || !p->series)
        return pb_panel_fail(figure, p->title, err, PB_ERR_ARGUMENT,
                             "there are no lines: at least one series was expected");
    if (p->n_series > MAX_SERIES)
        return pb_panel_fail(figure, p->title, err, PB_ERR_ARGUMENT, "%zu lines are more than can be told apart (%d)",
                             p->n_series, MAX_SERIES);
    if (p->n_x_labels && !p->x_labels)
        return pb_panel_fail(figure, p->title, err, PB_ERR_ARGUMENT, "n_x_labels is %zu, but there are no labels",
                             p->n_x_labels);
    PB_TRY(pb_panel_check_range(figure, p->title, p->x_range, "x_range", err));
    PB_TRY(pb_panel_check_range(figure, p->title, p->y_range, "y_range", err));
    size_t n_finite = 0;
    for (size_t i = 0; i < p->n_series; i++) {
        PB_TRY(check_series(figure, p, &p->series[i], i, &n_finite, err));
        if (p->n_x_labels && !p->series[i].x && p->series[i].n != p->n_x_labels)
            return pb_panel_fail(figure, p->title, err, PB_ERR_ARGUMENT,
                                 "%zu labels along x for the %zu points of line %zu: one for each was expected",
                                 p->n_x_labels, p->series[i].n, i);
    }
    if (n_finite == 0)
        return pb_panel_fail(figure, p->title, err, PB_ERR_NUMERIC,
                             "no line has a finite point (all values are NaN or infinite): there is nothing to draw");
    if (p->n_levels > MAX_SERIES || (p->n_levels && !p->levels))
        return pb_panel_fail(figure, p->title, err, PB_ERR_ARGUMENT, "%zu levels: 0 to %d were expected", p->n_levels,
                             MAX_SERIES);
    for (size_t i = 0; i < p->n_levels; i++) {
        if (!isfinite(p->levels[i]) || (p->log_y && p->levels[i] <= 0))
            return pb_panel_fail(figure, p->title, err, PB_ERR_ARGUMENT,
                                 "level %zu is %g, which the y axis does not have", i, p->levels[i]);
    }
    return PB_OK;
}

static pb_status copy_lines(pb_panel *panel, pb_error *err) {
    pb_pool *pool = &panel->pool;
    pb_line_plot *p = &panel->as.lines;
    pb_series *series = NULL;
    PB_TRY(pb_pool_copy(pool, p->series, p->n_series, sizeof *series, &series, err));
    p->series = series;
    for (size_t i = 0; i < p->n_series; i++) {
        PB_TRY(pb_copy_label(pool, series[i].label, &series[i].label, err));
        PB_TRY(copy_floats(pool, &series[i].x, series[i].n, err));
        PB_TRY(copy_floats(pool, &series[i].y, series[i].n, err));
        PB_TRY(copy_floats(pool, &series[i].low, series[i].n, err));
        PB_TRY(copy_floats(pool, &series[i].high, series[i].n, err));
    }
    PB_TRY(copy_texts(pool, &p->x_labels, p->n_x_labels, err));
    PB_TRY(copy_range(pool, &p->x_range, err));
    PB_TRY(copy_range(pool, &p->y_range, err));
    const double *levels = NULL;
    PB_TRY(pb_pool_copy(pool, p->levels, p->n_levels, sizeof *levels, &levels, err));
    p->levels = levels;
    return copy_texts(pool, &p->level_labels, p->n_levels, err);
}

pb_status pb_figure_add_lines(pb_figure *figure, const pb_line_plot *p, pb_error *err) {
    PB_TRY(check_lines(figure, p, err));
    pb_panel *panel;
    PB_TRY(pb_panel_begin(figure, PB_PANEL_LINES, p->title, p->subtitle, p->x_title, p->y_title, &panel, err));
    panel->as.lines = *p;
    return finish(figure, panel, copy_lines(panel, err), err);
}

/* ---- bars -------------------------------------------------------------------------------------------------------- */

static pb_status check_bars(const pb_figure *figure, const pb_bar_plot *p, pb_error *err) {
    if (p->groups == 0 || p->series == 0 || !p->values)
        return pb_panel_fail(figure, p->title, err, PB_ERR_ARGUMENT, "there are no bars: groups is %zu, series is %zu",
                             p->groups, p->series);
    if (p->groups > MAX_GROUPS || p->series > MAX_BAR_SERIES)
        return pb_panel_fail(
            figure, p->title, err, PB_ERR_ARGUMENT,
            "%zu groups of %zu bars are more than can be read: %d groups and %d bars in each are the most", p->groups,
            p->series, MAX_GROUPS, MAX_BAR_SERIES);
    if ((p->group_labels || p->n_group_labels) && (p->n_group_labels != p->groups || !p->group_labels))
        return pb_panel_fail(figure, p->title, err, PB_ERR_ARGUMENT,
                             "%zu group labels for %zu groups: one for each was expected", p->n_group_labels,
                             p->groups);
    if ((p->series_labels || p->n_series_labels) && (p->n_series_labels != p->series || !p->series_labels))
        return pb_panel_fail(figure, p->title, err, PB_ERR_ARGUMENT,
                             "%zu series labels for %zu series: one for each was expected", p->n_series_labels,
                             p->series);
    PB_TRY(check_intervals(figure, p->title, p->low, p->high, err));
    PB_TRY(pb_panel_check_range(figure, p->title, p->y_range, "y_range", err));
    for (size_t i = 0; i < p->groups * p->series; i++) {
        if (isfinite(p->values[i]))
            return PB_OK;
    }
    return pb_panel_fail(figure, p->title, err, PB_ERR_NUMERIC,
                         "all values are NaN or infinite: there is nothing to draw");
}

static pb_status copy_bars(pb_panel *panel, pb_error *err) {
    pb_pool *pool = &panel->pool;
    pb_bar_plot *p = &panel->as.bars;
    size_t n = p->groups * p->series;
    PB_TRY(copy_floats(pool, &p->values, n, err));
    PB_TRY(copy_floats(pool, &p->low, n, err));
    PB_TRY(copy_floats(pool, &p->high, n, err));
    PB_TRY(copy_texts(pool, &p->group_labels, p->n_group_labels, err));
    PB_TRY(copy_texts(pool, &p->series_labels, p->n_series_labels, err));
    return copy_range(pool, &p->y_range, err);
}

pb_status pb_figure_add_bars(pb_figure *figure, const pb_bar_plot *p, pb_error *err) {
    PB_TRY(check_bars(figure, p, err));
    pb_panel *panel;
    PB_TRY(pb_panel_begin(figure, PB_PANEL_BARS, p->title, p->subtitle, p->x_title, p->y_title, &panel, err));
    panel->as.bars = *p;
    return finish(figure, panel, copy_bars(panel, err), err);
}

/* ---- points ------------------------------------------------------------------------------------------------------ */

static pb_status check_scatter(const pb_figure *figure, const pb_scatter *p, pb_error *err) {
    if (p->n == 0 || !p->x || !p->y)
        return pb_panel_fail(figure, p->title, err, PB_ERR_ARGUMENT, "there are no points to draw");
    if (p->n > MAX_POINTS)
        return pb_panel_fail(figure, p->title, err, PB_ERR_ARGUMENT, "%zu points are more than can be drawn (%d)", p->n,
                             MAX_POINTS);
    if (p->n_classes > MAX_CLASSES || (p->classes && (p->n_classes == 0 || !p->class_labels)))
        return pb_panel_fail(figure, p->title, err, PB_ERR_ARGUMENT,
                             "%zu class labels: 1 to %d were expected where points have classes", p->n_classes,
                             MAX_CLASSES);
    size_t n_finite = 0;
    for (size_t i = 0; i < p->n; i++) {
        if (p->classes && (p->classes[i] < 0 || (size_t)p->classes[i] >= p->n_classes))
            return pb_panel_fail(figure, p->title, err, PB_ERR_ARGUMENT, "point %zu has class %d: there are 0 to %zu",
                                 i, p->classes[i], p->n_classes - 1);
        n_finite += isfinite(p->x[i]) && isfinite(p->y[i]);
    }
    if (n_finite == 0)
        return pb_panel_fail(figure, p->title, err, PB_ERR_NUMERIC,
                             "no point is finite (all have NaN or infinity): there is nothing to draw");
    PB_TRY(check_log(figure, p->title, p->log_x, p->x, p->n, p->x_range, "x", err));
    PB_TRY(check_log(figure, p->title, p->log_y, p->y, p->n, p->y_range, "y", err));
    if (p->identity && p->log_x != p->log_y)
        return pb_panel_fail(figure, p->title, err, PB_ERR_ARGUMENT,
                             "the line y = x needs both axes linear or both logarithmic");
    PB_TRY(pb_panel_check_range(figure, p->title, p->x_range, "x_range", err));
    return pb_panel_check_range(figure, p->title, p->y_range, "y_range", err);
}

static pb_status copy_scatter(pb_panel *panel, pb_error *err) {
    pb_pool *pool = &panel->pool;
    pb_scatter *p = &panel->as.scatter;
    PB_TRY(copy_floats(pool, &p->x, p->n, err));
    PB_TRY(copy_floats(pool, &p->y, p->n, err));
    PB_TRY(copy_texts(pool, &p->labels, p->n, err));
    const int *classes = NULL;
    PB_TRY(pb_pool_copy(pool, p->classes, p->n, sizeof *classes, &classes, err));
    p->classes = classes;
    PB_TRY(copy_texts(pool, &p->class_labels, p->n_classes, err));
    PB_TRY(copy_range(pool, &p->x_range, err));
    return copy_range(pool, &p->y_range, err);
}

pb_status pb_figure_add_scatter(pb_figure *figure, const pb_scatter *p, pb_error *err) {
    PB_TRY(check_scatter(figure, p, err));
    pb_panel *panel;
    PB_TRY(pb_panel_begin(figure, PB_PANEL_SCATTER, p->title, p->subtitle, p->x_title, p->y_title, &panel, err));
    panel->as.scatter = *p;
    return finish(figure, panel, copy_scatter(panel, err), err);
}
