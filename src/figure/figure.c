/* The figure object: its texts, its panels, and the pool that a panel's copies live in. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "figure/figure_private.h"

/* ---- pool ------------------------------------------------------------------------------------------------------- */

typedef struct pb_pool_chunk {
    struct pb_pool_chunk *next;
    size_t size, used; /* of the bytes behind this header */
} pb_pool_chunk;

enum {
    POOL_ALIGN = 16,
    POOL_CHUNK = 4096,
    POOL_HEADER = (sizeof(pb_pool_chunk) + POOL_ALIGN - 1) / POOL_ALIGN * POOL_ALIGN
};

void *pb_pool_alloc(pb_pool *pool, size_t count, size_t size) {
    if (size && count > (SIZE_MAX / 4) / size)
        return NULL;
    size_t bytes = (count * size + POOL_ALIGN - 1) / POOL_ALIGN * POOL_ALIGN;
    pb_pool_chunk *chunk = pool->chunks;
    if (!chunk || chunk->size - chunk->used < bytes) {
        size_t room = bytes > POOL_CHUNK / 2 ? bytes : POOL_CHUNK;
        chunk = pb_alloc_zero(pool->ctx, 1, POOL_HEADER + room);
        if (!chunk)
            return NULL;
        chunk->size = room;
        chunk->next = pool->chunks;
        pool->chunks = chunk;
    }
    void *piece = (unsigned char *)chunk + POOL_HEADER + chunk->used;
    chunk->used += bytes;
    return piece;
}

void pb_pool_free(pb_pool *pool) {
    while (pool->chunks) {
        pb_pool_chunk *next = pool->chunks->next;
        pb_free(pool->chunks);
        pool->chunks = next;
    }
}

pb_status pb_pool_copy(pb_pool *pool, const void *data, size_t count, size_t size, void *out, pb_error *err) {
    void *copy = NULL;
    if (data) {
        copy = pb_pool_alloc(pool, count, size);
        if (!copy)
            return pb_fail_memory(err, pool->ctx, count * size, "a figure's data");
        if (count)
            memcpy(copy, data, count * size);
    }
    memcpy(out, &copy, sizeof copy);
    return PB_OK;
}

/* ---- figure ------------------------------------------------------------------------------------------------------- */

static pb_status check_options(const pb_figure_options *o, pb_error *err) {
    if (o->columns < 0 || o->columns > 64)
        return pb_fail(err, PB_ERR_ARGUMENT, "a figure cannot have %d columns of panels: 1 to 64, or 0 for automatic",
                       o->columns);
    if (o->pixel_scale != 0 && !(o->pixel_scale >= 0.5 && o->pixel_scale <= 8))
        return pb_fail(err, PB_ERR_ARGUMENT, "pixel_scale is %g: 0.5 to 8 pixels per point were expected (0: 2)",
                       o->pixel_scale);
    if ((unsigned)o->scales > PB_SCALES_OWN)
        return pb_fail(err, PB_ERR_ARGUMENT, "scales is %d, which is none of auto, shared, own", (int)o->scales);
    return PB_OK;
}

pb_status pb_figure_create(pb_context *ctx, const pb_figure_options *options, pb_figure **out, pb_error *err) {
    const pb_figure_options defaults = {0};
    const pb_figure_options *o = options ? options : &defaults;
    PB_TRY(check_options(o, err));
    pb_figure *figure = pb_alloc_zero(ctx, 1, sizeof *figure);
    if (!figure)
        return pb_fail_memory(err, ctx, sizeof *figure, "a figure");
    figure->refs = 1;
    figure->ctx = pb_context_ref(ctx);
    figure->pool.ctx = ctx;
    figure->options = *o;
    figure->options.title = figure->options.subtitle = figure->options.caption = NULL;
    if (o->pixel_scale == 0)
        figure->options.pixel_scale = 2;
    pb_status status = pb_copy_text(&figure->pool, o->title, &figure->options.title, err);
    if (status == PB_OK)
        status = pb_copy_text(&figure->pool, o->subtitle, &figure->options.subtitle, err);
    if (status == PB_OK)
        status = pb_copy_text(&figure->pool, o->caption, &figure->options.caption, err);
    if (status != PB_OK) {
        pb_figure_unref(figure);
        return status;
    }
    *out = figure;
    return PB_OK;
}

pb_figure *pb_figure_ref(pb_figure *figure) {
    figure->refs++;
    return figure;
}

void pb_figure_unref(pb_figure *figure) {
    if (!figure || --figure->refs > 0)
        return;
    for (size_t i = 0; i < figure->n_panels; i++)
        pb_panel_drop(figure->panels[i]);
    pb_free(figure->panels);
    pb_pool_free(&figure->pool);
    pb_context *ctx = figure->ctx;
    pb_free(figure);
    pb_context_unref(ctx);
}

size_t pb_figure_panels(const pb_figure *figure) { return figure->n_panels; }

/* ---- panels ------------------------------------------------------------------------------------------------------- */

pb_status pb_panel_begin(pb_figure *figure, pb_panel_kind kind, const char *title, const char *subtitle,
                         const char *x_title, const char *y_title, pb_panel **out, pb_error *err) {
    pb_panel *panel = pb_alloc_zero(figure->ctx, 1, sizeof *panel);
    if (!panel)
        return pb_fail_memory(err, figure->ctx, sizeof *panel, "a figure's panel");
    panel->kind = kind;
    panel->pool.ctx = figure->ctx;
    const char *from[4] = {title, subtitle, x_title, y_title};
    const char **to[4] = {&panel->title, &panel->subtitle, &panel->x_title, &panel->y_title};
    for (int i = 0; i < 4; i++) {
        pb_status status = pb_copy_text(&panel->pool, from[i], to[i], err);
        if (status != PB_OK) {
            pb_panel_drop(panel);
            return status;
        }
    }
    *out = panel;
    return PB_OK;
}

pb_status pb_figure_take_panel(pb_figure *figure, pb_panel *panel, pb_error *err) {
    if (figure->n_panels == figure->capacity) {
        size_t capacity = figure->capacity ? 2 * figure->capacity : 4;
        pb_panel **grown = pb_realloc(figure->ctx, figure->panels, capacity, sizeof *grown);
        if (!grown)
            return pb_fail_memory(err, figure->ctx, capacity * sizeof *grown, "a figure's list of panels");
        figure->panels = grown;
        figure->capacity = capacity;
    }
    figure->panels[figure->n_panels++] = panel;
    return PB_OK;
}

void pb_panel_drop(pb_panel *panel) {
    if (!panel)
        return;
    pb_pool_free(&panel->pool);
    pb_free(panel);
}

pb_status pb_panel_fail(const pb_figure *figure, const char *title, pb_error *err, pb_status status, const char *format,
                        ...) {
    va_list args;
    va_start(args, format);
    pb_failv(err, status, format, args);
    va_end(args);
    if (title && *title)
        return pb_error_prefix(err, status, "panel %zu ('%s'): ", figure->n_panels, title);
    return pb_error_prefix(err, status, "panel %zu: ", figure->n_panels);
}

pb_status pb_panel_check_range(const pb_figure *figure, const char *title, const double *range, const char *what,
                               pb_error *err) {
    if (!range || (isfinite(range[0]) && isfinite(range[1]) && range[0] < range[1]))
        return PB_OK;
    return pb_panel_fail(figure, title, err, PB_ERR_ARGUMENT,
                         "%s is %g to %g: two finite numbers were expected, the smaller one first", what, range[0],
                         range[1]);
}
