/* Text through Pango; see text.h. Pango's and fontconfig's memory is malloc's, not charged to the context. */
#include "figure/text.h"

#include <math.h>
#include <pango/pangocairo.h>
#include <string.h>

#include "figure/figure_private.h"

static const char FAMILIES[] = "DejaVu Sans, Noto Sans, Liberation Sans, Sans";
enum { LABEL_LIMIT = 240 };

static const struct {
    double size; /* points */
    bool bold;
    bool limited; /* shortened at LABEL_LIMIT */
} STYLES[PB_STYLE_COUNT] = {
    [PB_STYLE_FIGURE_TITLE] = {12.5, true, false},
    [PB_STYLE_TITLE] = {10, true, false},
    [PB_STYLE_SUBTITLE] = {8.5, false, false},
    [PB_STYLE_AXIS] = {9, false, false},
    [PB_STYLE_LABEL] = {8.5, false, true},
    [PB_STYLE_MARKED] = {8.5, true, true},
    [PB_STYLE_CELL] = {7, false, true},
    [PB_STYLE_CAPTION] = {8, false, false},
    [PB_STYLE_LEGEND] = {8.5, false, true},
};

struct pb_type {
    PangoFontMap *map;
    PangoContext *context;
    PangoFontDescription *fonts[PB_STYLE_COUNT];
    cairo_font_options_t *options;
    double line_heights[PB_STYLE_COUNT]; /* 0: not measured yet */
    pb_strbuf *log;
};

void pb_type_close(pb_type *type) {
    if (!type)
        return;
    for (int i = 0; i < PB_STYLE_COUNT; i++)
        pango_font_description_free(type->fonts[i]);
    if (type->options)
        cairo_font_options_destroy(type->options);
    if (type->context)
        g_object_unref(type->context);
    if (type->map)
        g_object_unref(type->map);
    pb_free(type);
}

/* Pango aborts the process when it has to draw without any font: ask before. */
static pb_status check_fonts(pb_type *type, pb_error *err) {
    PangoFont *font = pango_font_map_load_font(type->map, type->context, type->fonts[PB_STYLE_LABEL]);
    if (!font)
        return pb_fail(err, PB_ERR_IO,
                       "cannot draw a figure: no font is installed. Install one (Debian and Ubuntu: apt-get install "
                       "fonts-dejavu-core), or check FONTCONFIG_FILE and FONTCONFIG_PATH if you set them");
    g_object_unref(font);
    return PB_OK;
}

pb_status pb_type_open(pb_context *ctx, pb_type **out, pb_error *err) {
    pb_type *type = pb_alloc_zero(ctx, 1, sizeof *type);
    if (!type)
        return pb_fail_memory(err, ctx, sizeof *type, "a figure's fonts");
    type->map = pango_cairo_font_map_new();
    pango_cairo_font_map_set_resolution((PangoCairoFontMap *)type->map, 72); /* one unit is one point */
    type->context = pango_font_map_create_context(type->map);
    type->options = cairo_font_options_create();
    cairo_font_options_set_hint_style(type->options, CAIRO_HINT_STYLE_NONE);
    cairo_font_options_set_hint_metrics(type->options, CAIRO_HINT_METRICS_OFF);
    cairo_font_options_set_antialias(type->options, CAIRO_ANTIALIAS_GRAY);
    pango_cairo_context_set_font_options(type->context, type->options);
    pango_context_set_round_glyph_positions(type->context, FALSE);
    pango_context_set_language(type->context,
                               pango_language_from_string("en")); /* not the user's: same bytes for all */
    for (int i = 0; i < PB_STYLE_COUNT; i++) {
        type->fonts[i] = pango_font_description_from_string(FAMILIES);
        pango_font_description_set_absolute_size(type->fonts[i], STYLES[i].size * PANGO_SCALE);
        pango_font_description_set_weight(type->fonts[i], STYLES[i].bold ? PANGO_WEIGHT_BOLD : PANGO_WEIGHT_NORMAL);
    }
    pb_status status = check_fonts(type, err);
    if (status != PB_OK) {
        pb_type_close(type);
        return status;
    }
    *out = type;
    return PB_OK;
}

void pb_type_log(pb_type *type, pb_strbuf *log) { type->log = log; }

/* Letters that stand for something invisible are drawn softer than what they belong to. */
static void soften(PangoLayout *layout, const char *text) {
    static const char *const STANDINS[] = {"\xC2\xB7", "\xE2\x8F\x8E", "\xE2\x87\xA5"};
    PangoAttrList *list = NULL;
    for (size_t i = 0; i < sizeof STANDINS / sizeof *STANDINS; i++) {
        for (const char *at = text; (at = strstr(at, STANDINS[i])) != NULL; at += strlen(STANDINS[i])) {
            PangoAttribute *soft[2] = {pango_attr_foreground_new(0x8000, 0x8000, 0x8800),
                                       pango_attr_weight_new(PANGO_WEIGHT_BOLD)}; /* a thin dot would be lost */
            list = list ? list : pango_attr_list_new();
            for (int k = 0; k < 2; k++) {
                soft[k]->start_index = (guint)(at - text);
                soft[k]->end_index = soft[k]->start_index + (guint)strlen(STANDINS[i]);
                pango_attr_list_insert(list, soft[k]);
            }
        }
    }
    if (list) {
        pango_layout_set_attributes(layout, list);
        pango_attr_list_unref(list);
    }
}

static PangoLayout *lay_out(pb_type *type, pb_style style, const char *text, double wrap) {
    PangoLayout *layout = pango_layout_new(type->context);
    pango_layout_set_font_description(layout, type->fonts[style]);
    pango_layout_set_text(layout, text, -1);
    if (wrap > 0) {
        pango_layout_set_width(layout, (int)(wrap * PANGO_SCALE));
        pango_layout_set_wrap(layout, STYLES[style].limited ? PANGO_WRAP_WORD : PANGO_WRAP_WORD_CHAR);
    }
    bool label = style == PB_STYLE_LABEL || style == PB_STYLE_MARKED;
    if (style == PB_STYLE_AXIS || label)
        pango_layout_set_alignment(layout, PANGO_ALIGN_CENTER);
    if (STYLES[style].limited && wrap <= 0) {
        int width;
        pango_layout_get_size(layout, &width, NULL);
        if (width > LABEL_LIMIT * PANGO_SCALE) {
            pango_layout_set_width(layout, LABEL_LIMIT * PANGO_SCALE);
            pango_layout_set_ellipsize(layout, PANGO_ELLIPSIZE_MIDDLE);
        }
    }
    if (label)
        soften(layout, text);
    return layout;
}

/* Of the ink's box sideways (a wrapped layout is as wide as its widest line), of whole lines in height. */
static pb_extent extent_of(PangoLayout *layout) {
    PangoRectangle logical;
    pango_layout_get_extents(layout, NULL, &logical);
    return (pb_extent){(double)logical.width / PANGO_SCALE, (double)logical.height / PANGO_SCALE};
}

static double asterisk_width(pb_type *type) {
    PangoLayout *star = lay_out(type, PB_STYLE_MARKED, "*", 0);
    double width = extent_of(star).width;
    g_object_unref(star);
    return width;
}

pb_extent pb_type_measure(pb_type *type, pb_style style, const char *text, double wrap) {
    if (!text || !*text)
        return (pb_extent){0, 0};
    PangoLayout *layout = lay_out(type, style, text, wrap);
    pb_extent extent = extent_of(layout);
    g_object_unref(layout);
    if (style == PB_STYLE_MARKED)
        extent.width += asterisk_width(type);
    return extent;
}

double pb_type_line_height(pb_type *type, pb_style style) {
    if (type->line_heights[style] == 0)
        type->line_heights[style] = pb_type_measure(type, style, "Xg", 0).height;
    return type->line_heights[style];
}

static void add_escaped(pb_strbuf *b, const char *text) {
    for (const char *c = text; *c; c++) {
        switch (*c) {
        case '&':
            pb_strbuf_add(b, "&amp;");
            break;
        case '<':
            pb_strbuf_add(b, "&lt;");
            break;
        case '>':
            pb_strbuf_add(b, "&gt;");
            break;
        default:
            pb_strbuf_add_char(b, *c);
        }
    }
}

/* cr's origin is the text's top left corner, already turned. */
static void log_text(pb_type *type, cairo_t *cr, pb_style style, const char *text, double baseline) {
    cairo_matrix_t m;
    cairo_get_matrix(cr, &m);
    pb_strbuf *b = type->log;
    const double numbers[6] = {m.xx, m.yx, m.xy, m.yy, m.x0, m.y0};
    pb_strbuf_add(b, "<text transform=\"matrix(");
    for (int i = 0; i < 6; i++) {
        if (i)
            pb_strbuf_add_char(b, ' ');
        pb_strbuf_add_number(b, fabs(numbers[i]) < 1e-9 ? 0 : numbers[i], 6);
    }
    pb_strbuf_add(b, ")\" y=\"");
    pb_strbuf_add_number(b, baseline, 4);
    pb_strbuf_add(b, "\" font-size=\"");
    pb_strbuf_add_number(b, STYLES[style].size, 4);
    pb_strbuf_add(b, "\">");
    add_escaped(b, text);
    pb_strbuf_add(b, "</text>\n");
}

void pb_type_draw(pb_type *type, cairo_t *cr, pb_style style, const char *text, double wrap, double x, double y,
                  pb_anchor anchor, double angle, pb_rgb colour) {
    if (!text || !*text)
        return;
    PangoLayout *layout = lay_out(type, style, text, wrap);
    pb_extent extent = extent_of(layout);
    PangoRectangle logical;
    pango_layout_get_extents(layout, NULL, &logical);
    double star = style == PB_STYLE_MARKED ? asterisk_width(type) : 0;
    cairo_save(cr);
    cairo_translate(cr, x, y);
    if (angle != 0)
        cairo_rotate(cr, angle);
    cairo_translate(cr, -anchor.x * (extent.width + star) - (double)logical.x / PANGO_SCALE, -anchor.y * extent.height);
    cairo_set_source_rgb(cr, colour.r, colour.g, colour.b);
    if (type->log)
        log_text(type, cr, style, text, (double)pango_layout_get_baseline(layout) / PANGO_SCALE);
    pango_cairo_update_layout(cr, layout);
    cairo_move_to(cr, 0, 0);
    pango_cairo_show_layout(cr, layout);
    g_object_unref(layout);
    if (star > 0) {
        layout = lay_out(type, style, "*", 0);
        cairo_move_to(cr, extent.width + (double)logical.x / PANGO_SCALE, 0);
        pango_cairo_show_layout(cr, layout);
        g_object_unref(layout);
    }
    cairo_restore(cr);
}
