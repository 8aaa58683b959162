/* A laid-out figure as a file: PNG, SVG, PDF. */
#include <cairo-pdf.h>
#include <cairo-svg.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

#include "base/file.h"
#include "base/json.h"
#include "figure/draw.h"
#include "figure/output.h"

enum { PIXEL_LIMIT = 30000 };

pb_status pb_figure_format_of(const char *path, pb_figure_format *out, pb_error *err) {
    static const char *const NAMES[] = {"png", "svg", "pdf"};
    const char *name = pb_path_name(path), *dot = strrchr(name, '.');
    for (int i = 0; dot && i < 3; i++) {
        if (strcasecmp(dot + 1, NAMES[i]) == 0) {
            *out = (pb_figure_format)i;
            return PB_OK;
        }
    }
    if (!dot || !dot[1])
        return pb_fail(err, PB_ERR_ARGUMENT,
                       "'%s' has no extension that says what to write: end it in .png, .svg or .pdf", path);
    return pb_fail(err, PB_ERR_UNSUPPORTED, "a figure cannot be written as '%s' ('%s'): there are png, svg and pdf",
                   dot, path);
}

static pb_status cairo_error(const pb_figure *figure, cairo_status_t status, pb_error *err) {
    if (status == CAIRO_STATUS_SUCCESS)
        return PB_OK;
    if (status == CAIRO_STATUS_NO_MEMORY || status == CAIRO_STATUS_WRITE_ERROR)
        return pb_fail_memory(err, figure->ctx, 0, "drawing a figure");
    return pb_fail(err, PB_ERR_UNSUPPORTED, "the figure cannot be drawn: %s", cairo_status_to_string(status));
}

/* Draws, destroys cr, and says whether all went well on the surface. */
static pb_status draw_on(const pb_figure *figure, pb_layout *layout, cairo_surface_t *surface, double scale,
                         pb_error *err) {
    cairo_t *cr = cairo_create(surface);
    cairo_scale(cr, scale, scale);
    pb_status status = pb_layout_draw(layout, cr, err);
    if (status == PB_OK)
        status = cairo_error(figure, cairo_status(cr), err);
    cairo_destroy(cr);
    cairo_surface_finish(surface);
    if (status == PB_OK)
        status = cairo_error(figure, cairo_surface_status(surface), err);
    return status;
}

static pb_status render_png(const pb_figure *figure, pb_layout *layout, const pb_text_pair *metadata, size_t n,
                            unsigned char **bytes, size_t *size, pb_error *err) {
    double scale = figure->options.pixel_scale;
    pb_extent extent = pb_layout_size(layout);
    double across = ceil(extent.width * scale), down = ceil(extent.height * scale);
    if (across > PIXEL_LIMIT || down > PIXEL_LIMIT)
        return pb_fail(
            err, PB_ERR_UNSUPPORTED,
            "the figure would have %.0f x %.0f pixels, more than %d: use a smaller pixel_scale than %g, fewer "
            "panels, more columns of panels, or write SVG or PDF",
            across, down, PIXEL_LIMIT, scale);
    size_t width = (size_t)across, height = (size_t)down,
           stride = width * 4; /* a stride that cairo accepts for RGB24 */
    unsigned char *pixels = pb_alloc_zero(figure->ctx, height, stride);
    if (!pixels)
        return pb_fail_memory(err, figure->ctx, height * stride, "a figure's pixels");
    cairo_surface_t *surface =
        cairo_image_surface_create_for_data(pixels, CAIRO_FORMAT_RGB24, (int)width, (int)height, (int)stride);
    pb_status status = draw_on(figure, layout, surface, scale, err);
    cairo_surface_destroy(surface);
    if (status == PB_OK)
        status = pb_png_encode(figure->ctx, pixels, width, height, stride, scale * 72 / 0.0254, metadata, n, bytes,
                               size, err);
    pb_free(pixels);
    return status;
}

static cairo_status_t collect(void *closure, const unsigned char *data, unsigned length) {
    pb_strbuf *b = closure;
    pb_strbuf_add_bytes(b, data, length);
    return b->failed ? CAIRO_STATUS_WRITE_ERROR : CAIRO_STATUS_SUCCESS;
}

static pb_status render_svg(const pb_figure *figure, pb_type *type, pb_layout *layout, const pb_text_pair *metadata,
                            size_t n, unsigned char **bytes, size_t *size, pb_error *err) {
    pb_strbuf drawn, log, finished;
    pb_strbuf_init(&drawn, figure->ctx);
    pb_strbuf_init(&log, figure->ctx);
    pb_strbuf_init(&finished, figure->ctx);
    pb_extent extent = pb_layout_size(layout);
    cairo_surface_t *surface = cairo_svg_surface_create_for_stream(collect, &drawn, extent.width, extent.height);
    pb_type_log(type, &log);
    pb_status status = draw_on(figure, layout, surface, 1, err);
    pb_type_log(type, NULL);
    cairo_surface_destroy(surface);
    if (status != PB_OK)
        goto done;
    finished.failed = drawn.failed || log.failed;
    if (!finished.failed)
        pb_svg_finish(drawn.text, figure, metadata, n, &log, &finished);
    char *text;
    status = pb_strbuf_take(&finished, &text, size, "an SVG file", err);
    if (status == PB_OK)
        *bytes = (unsigned char *)text;
done:
    pb_strbuf_free(&drawn);
    pb_strbuf_free(&log);
    pb_strbuf_free(&finished);
    return status;
}

/* PDF has fixed fields only: the pairs go into the keywords, as a JSON object in the given order. */
static pb_status describe_pdf(const pb_figure *figure, cairo_surface_t *surface, const pb_text_pair *metadata, size_t n,
                              pb_error *err) {
    json_t *object = json_object();
    bool failed = !object;
    for (size_t i = 0; i < n && !failed; i++)
        failed = json_object_set_new(object, metadata[i].key, json_string(metadata[i].value)) != 0;
    char *keywords = failed ? NULL : json_dumps(object, JSON_PRESERVE_ORDER);
    json_decref(object);
    if (!keywords)
        return pb_fail_memory(err, figure->ctx, 0, "a PDF's metadata");
    pb_strbuf words;
    pb_strbuf_init(&words, figure->ctx);
    pb_figure_describe(figure, &words);
    const char *title = figure->options.title ? figure->options.title : figure->panels[0]->title;
    if (title)
        cairo_pdf_surface_set_metadata(surface, CAIRO_PDF_METADATA_TITLE, title);
    cairo_pdf_surface_set_metadata(surface, CAIRO_PDF_METADATA_CREATOR, "Patchbay");
    cairo_pdf_surface_set_metadata(surface, CAIRO_PDF_METADATA_CREATE_DATE, ""); /* none: equal figures, equal bytes */
    if (words.text)
        cairo_pdf_surface_set_metadata(surface, CAIRO_PDF_METADATA_SUBJECT, words.text);
    if (n)
        cairo_pdf_surface_set_metadata(surface, CAIRO_PDF_METADATA_KEYWORDS, keywords);
    pb_status status = words.failed ? pb_fail_memory(err, figure->ctx, 0, "a PDF's description") : PB_OK;
    pb_strbuf_free(&words);
    free(keywords);
    return status;
}

static pb_status render_pdf(const pb_figure *figure, pb_layout *layout, const pb_text_pair *metadata, size_t n,
                            unsigned char **bytes, size_t *size, pb_error *err) {
    pb_strbuf drawn;
    pb_strbuf_init(&drawn, figure->ctx);
    pb_extent extent = pb_layout_size(layout);
    cairo_surface_t *surface = cairo_pdf_surface_create_for_stream(collect, &drawn, extent.width, extent.height);
    pb_status status = describe_pdf(figure, surface, metadata, n, err);
    if (status == PB_OK)
        status = draw_on(figure, layout, surface, 1, err);
    cairo_surface_destroy(surface); /* writes to drawn if draw_on did not get that far */
    char *text;
    if (status == PB_OK)
        status = pb_strbuf_take(&drawn, &text, size, "a PDF file", err);
    if (status == PB_OK)
        *bytes = (unsigned char *)text;
    pb_strbuf_free(&drawn);
    return status;
}

pb_status pb_figure_render(const pb_figure *figure, pb_figure_format format, const pb_text_pair *metadata,
                           size_t n_metadata, unsigned char **bytes, size_t *size, pb_error *err) {
    PB_TRY(pb_metadata_check(metadata, n_metadata, err));
    pb_type *type = NULL;
    pb_layout *layout = NULL;
    pb_status status = pb_type_open(figure->ctx, &type, err);
    if (status == PB_OK)
        status = pb_layout_make(figure, type, &layout, err);
    if (status != PB_OK)
        goto done;
    switch (format) {
    case PB_FIGURE_PNG:
        status = render_png(figure, layout, metadata, n_metadata, bytes, size, err);
        break;
    case PB_FIGURE_SVG:
        status = render_svg(figure, type, layout, metadata, n_metadata, bytes, size, err);
        break;
    case PB_FIGURE_PDF:
        status = render_pdf(figure, layout, metadata, n_metadata, bytes, size, err);
        break;
    default:
        status = pb_fail(err, PB_ERR_ARGUMENT, "figure format %d is none of png, svg, pdf", (int)format);
    }
done:
    pb_layout_free(layout);
    pb_type_close(type);
    return status;
}

pb_status pb_figure_save(const pb_figure *figure, const char *path, const pb_text_pair *metadata, size_t n_metadata,
                         pb_error *err) {
    pb_figure_format format;
    PB_TRY(pb_figure_format_of(path, &format, err));
    unsigned char *bytes;
    size_t size;
    PB_TRY(pb_figure_render(figure, format, metadata, n_metadata, &bytes, &size, err));
    pb_status status = pb_file_write(figure->ctx, path, bytes, size, err);
    pb_free(bytes);
    return status;
}
