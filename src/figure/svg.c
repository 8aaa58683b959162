/* What cairo's SVG lacks; see output.h. */
#include <stdlib.h>
#include <string.h>

#include "figure/output.h"

/* XML has no way to write most control characters: they become U+FFFD. */
static void add_xml(pb_strbuf *b, const char *text) {
    for (const char *c = text; c && *c; c++) {
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
        case '"':
            pb_strbuf_add(b, "&quot;");
            break;
        case '\r':
            pb_strbuf_add(b, "&#13;");
            break;
        case '\n':
        case '\t':
            pb_strbuf_add_char(b, *c);
            break;
        default:
            if ((unsigned char)*c < 0x20)
                pb_strbuf_add(b, "\xEF\xBF\xBD");
            else
                pb_strbuf_add_char(b, *c);
        }
    }
}

static void add_heads(const pb_figure *figure, const pb_text_pair *metadata, size_t n, pb_strbuf *out) {
    pb_strbuf words;
    pb_strbuf_init(&words, figure->ctx);
    pb_figure_describe(figure, &words);
    pb_strbuf_add(out, "\n<title>");
    add_xml(out, figure->options.title ? figure->options.title : figure->panels[0]->title);
    pb_strbuf_add(out, "</title>\n<desc>");
    add_xml(out, words.text);
    pb_strbuf_add(out, "</desc>\n");
    out->failed = out->failed || words.failed;
    pb_strbuf_free(&words);
    if (n) {
        pb_strbuf_add(out, "<metadata>\n<patchbay xmlns=\"urn:patchbay:figure\">\n");
        for (size_t i = 0; i < n; i++) {
            pb_strbuf_add(out, "<entry key=\"");
            add_xml(out, metadata[i].key);
            pb_strbuf_add(out, "\">");
            add_xml(out, metadata[i].value);
            pb_strbuf_add(out, "</entry>\n");
        }
        pb_strbuf_add(out, "</patchbay>\n</metadata>\n");
    }
}

/* cairo numbers its surfaces through the life of the process: count from the first one instead. */
static const char *add_number_from(const char *digits, unsigned long *base, pb_strbuf *out) {
    char *end;
    unsigned long number = strtoul(digits, &end, 10);
    if (*base == 0)
        *base = number;
    pb_strbuf_printf(out, "%lu", number - *base + 1);
    return end;
}

static void add_body(const char *body, const char *end, pb_strbuf *out) {
    unsigned long surfaces = 0, images = 0;
    for (const char *c = body; c < end;) {
        if (strncmp(c, "\"surface", 8) == 0 || strncmp(c, "#surface", 8) == 0) {
            pb_strbuf_add_bytes(out, c, 8);
            c = add_number_from(c + 8, &surfaces, out);
        } else if (strncmp(c, "\"image", 6) == 0 || strncmp(c, "#image", 6) == 0) {
            pb_strbuf_add_bytes(out, c, 6);
            c = add_number_from(c + 6, &images, out);
        } else if (strncmp(c, "<image ", 7) == 0) {
            pb_strbuf_add(out, "<image style=\"image-rendering:pixelated\" ");
            c += 7;
        } else {
            const char *next = c + 1;
            while (next < end && *next != '"' && *next != '#' && *next != '<')
                next++;
            pb_strbuf_add_bytes(out, c, (size_t)(next - c));
            c = next;
        }
    }
}

void pb_svg_finish(const char *drawn, const pb_figure *figure, const pb_text_pair *metadata, size_t n_metadata,
                   const pb_strbuf *log, pb_strbuf *out) {
    const char *root = strstr(drawn, "<svg "), *body = root ? strchr(root, '>') : NULL, *end = NULL;
    for (const char *at = body; at && (at = strstr(at, "</svg>")) != NULL; at++)
        end = at;
    if (!body || !end) { /* not as cairo 1.16 to 1.18 write: leave the drawing as it is */
        pb_strbuf_add(out, drawn);
        return;
    }
    body++;
    pb_strbuf_add_bytes(out, drawn, (size_t)(body - drawn));
    add_heads(figure, metadata, n_metadata, out);
    add_body(*body == '\n' ? body + 1 : body, end, out);
    if (log->length) {
        pb_strbuf_add(out, "<g fill-opacity=\"0\" stroke=\"none\" font-family=\"DejaVu Sans, sans-serif\">\n");
        pb_strbuf_add_bytes(out, log->text, log->length);
        pb_strbuf_add(out, "</g>\n");
    }
    pb_strbuf_add(out, "</svg>\n");
}

/* ---- description ---------------------------------------------------------------------------------------------------- */

static void add_axis(pb_strbuf *out, const char *name, const char *title, const char *const *labels, size_t n) {
    enum { SHOWN = 64 };
    if (title)
        pb_strbuf_printf(out, " %s: %s.", name, title);
    if (!labels || !n)
        return;
    pb_strbuf_printf(out, " %s labels:", name);
    for (size_t i = 0; i < n && i < SHOWN; i++)
        pb_strbuf_printf(out, "%s %s", i ? "," : "", labels[i]);
    pb_strbuf_add(out, n > SHOWN ? ", ..." : ".");
}

static void describe_panel(const pb_panel *p, pb_strbuf *out) {
    static const char *const KINDS[] = {"Heat map", "Line plot", "Bar chart", "Scatter plot"};
    pb_strbuf_add(out, KINDS[p->kind]);
    if (p->title)
        pb_strbuf_printf(out, " \xE2\x80\x9C%s\xE2\x80\x9D", p->title);
    if (p->subtitle)
        pb_strbuf_printf(out, " (%s)", p->subtitle);
    pb_strbuf_add(out, ".");
    switch (p->kind) {
    case PB_PANEL_HEAT:
        add_axis(out, "x", p->x_title, p->as.heat.cols.labels, p->as.heat.cols.n);
        add_axis(out, "y", p->y_title, p->as.heat.rows.labels, p->as.heat.rows.n);
        pb_strbuf_add(out, " Values from ");
        pb_strbuf_add_number(out, p->as.heat.low, 4);
        pb_strbuf_add(out, " to ");
        pb_strbuf_add_number(out, p->as.heat.high, 4);
        if (p->as.heat.unit)
            pb_strbuf_printf(out, " (%s)", p->as.heat.unit);
        pb_strbuf_add(out, ".");
        break;
    case PB_PANEL_LINES:
        add_axis(out, "x", p->x_title, p->as.lines.x_labels, p->as.lines.n_x_labels);
        add_axis(out, "y", p->y_title, NULL, 0);
        for (size_t i = 0; i < p->as.lines.n_series; i++)
            if (p->as.lines.series[i].label)
                pb_strbuf_printf(out, " Line: %s.", p->as.lines.series[i].label);
        break;
    case PB_PANEL_BARS:
        add_axis(out, "x", p->x_title, p->as.bars.group_labels, p->as.bars.n_group_labels);
        add_axis(out, "y", p->y_title, NULL, 0);
        add_axis(out, "Bar", NULL, p->as.bars.series_labels, p->as.bars.n_series_labels);
        break;
    case PB_PANEL_SCATTER:
        add_axis(out, "x", p->x_title, NULL, 0);
        add_axis(out, "y", p->y_title, NULL, 0);
        pb_strbuf_printf(out, " %zu points.", p->as.scatter.n);
        break;
    }
}

void pb_figure_describe(const pb_figure *figure, pb_strbuf *out) {
    if (figure->options.title)
        pb_strbuf_printf(out, "%s\n", figure->options.title);
    if (figure->options.subtitle)
        pb_strbuf_printf(out, "%s\n", figure->options.subtitle);
    for (size_t i = 0; i < figure->n_panels; i++) {
        describe_panel(figure->panels[i], out);
        pb_strbuf_add(out, "\n");
    }
    if (figure->options.caption)
        pb_strbuf_printf(out, "%s\n", figure->options.caption);
}
