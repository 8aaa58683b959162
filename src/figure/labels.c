/* Labels and titles around a plot area. */
#include <math.h>

#include "figure/draw.h"

enum { LABEL_GAP = 4, TITLE_GAP = 6, PANEL_TITLE_GAP = 5, MIN_WRAP = 120, WRAP_FROM = 36 };

static pb_style label_style(const bool *marked, size_t i) {
    return marked && marked[i] ? PB_STYLE_MARKED : PB_STYLE_LABEL;
}

/* 1, 2, 5, 10, ...: the first that gives labels the room they need. */
size_t pb_label_step(size_t n, double pitch, double needed) {
    static const size_t FACTORS[3] = {1, 2, 5};
    size_t power = 1;
    for (;; power *= 10) {
        for (int f = 0; f < 3; f++) {
            size_t step = FACTORS[f] * power;
            if (pitch * (double)step >= needed || step >= n)
                return step;
        }
    }
}

/* With many labels only some are measured: widths of numbers follow from their digits, and a thinned axis shows few. */
void pb_labels_below_plan(pb_type *type, const char *const *labels, const bool *marked, size_t n, bool numeric,
                          double pitch, pb_label_plan *out) {
    double line = pb_type_line_height(type, PB_STYLE_LABEL), widest = 0;
    *out = (pb_label_plan){.step = 1};
    if (numeric)
        widest = fmax(pb_type_measure(type, PB_STYLE_LABEL, labels[0], 0).width,
                      pb_type_measure(type, PB_STYLE_LABEL, labels[n - 1], 0).width);
    else
        out->step = pb_label_step(n, pitch, line);
    for (size_t i = 0; i < n && !numeric; i += out->step)
        widest = fmax(widest, pb_type_measure(type, label_style(marked, i), labels[i], 0).width);

    double needed = widest + (numeric ? 6 : 8);
    if (numeric)
        out->step = pb_label_step(n, pitch, needed);
    if (numeric || needed <= pitch) {
        out->extent = line;
        double first = pb_type_measure(type, label_style(marked, 0), labels[0], 0).width;
        double last = pb_type_measure(type, label_style(marked, n - 1), labels[n - 1], 0).width;
        out->overhang_left = fmax(0, (first - pitch) / 2);
        out->overhang_right = fmax(0, (last - pitch) / 2);
        return;
    }
    if (pitch >= WRAP_FROM && out->step == 1) { /* "first subject" on two lines */
        double wrap = pitch - 6, tallest = 0, broadest = 0;
        for (size_t i = 0; i < n; i++) {
            pb_extent t = pb_type_measure(type, label_style(marked, i), labels[i], wrap);
            tallest = fmax(tallest, t.height);
            broadest = fmax(broadest, t.width);
        }
        if (broadest <= wrap + 0.01 && tallest <= 3.2 * line) {
            out->wrap = wrap;
            out->extent = tallest;
            return;
        }
    }
    bool slanted = pitch * (double)out->step * M_SQRT1_2 >= line;
    out->angle = slanted ? -M_PI / 4 : -M_PI / 2;
    out->extent = slanted ? (widest + line) * M_SQRT1_2 : widest;
    for (size_t i = 0; slanted && i < n; i += out->step) {
        double width = pb_type_measure(type, label_style(marked, i), labels[i], 0).width;
        out->overhang_left = fmax(out->overhang_left, (width + line / 2) * M_SQRT1_2 - ((double)i + 0.5) * pitch);
    }
}

/* The middle of label 0 is half a pitch from x; y is the lower edge of the plot area. */
void pb_labels_below_draw(pb_type *type, cairo_t *cr, const char *const *labels, const bool *marked, size_t n,
                          bool reversed, const pb_label_plan *plan, double x, double y, double pitch) {
    double line = pb_type_line_height(type, PB_STYLE_LABEL);
    for (size_t i = 0; i < n; i++) {
        if ((reversed ? n - 1 - i : i) % plan->step != 0)
            continue;
        double at = x + ((double)i + 0.5) * pitch;
        if (plan->angle == 0)
            pb_type_draw(type, cr, label_style(marked, i), labels[i], plan->wrap, at, y + LABEL_GAP,
                         (pb_anchor){0.5, 0}, 0, PB_INK);
        else if (plan->angle < -M_PI / 3)
            pb_type_draw(type, cr, label_style(marked, i), labels[i], 0, at, y + LABEL_GAP, (pb_anchor){1, 0.5},
                         plan->angle, PB_INK);
        else /* the end of the text's middle line lies below the column's middle */
            pb_type_draw(type, cr, label_style(marked, i), labels[i], 0, at + line * 0.25, y + LABEL_GAP + line * 0.25,
                         (pb_anchor){1, 0.5}, plan->angle, PB_INK);
    }
}

/* ---- titles ---------------------------------------------------------------------------------------------------------- */

void pb_titles_box(pb_type *type, pb_plan *plan) {
    const pb_panel *panel = plan->panel;
    pb_box *box = &plan->box;
    plan->title_wrap = fmax(box->width + box->right, MIN_WRAP);
    plan->labels_below = box->bottom;
    if (panel->x_title && !plan->hide_cols) {
        pb_extent t = pb_type_measure(type, PB_STYLE_AXIS, panel->x_title, fmax(box->width, MIN_WRAP));
        box->bottom += TITLE_GAP + t.height;
        double overhang = (t.width - box->width) / 2;
        box->left = fmax(box->left, overhang);
        box->right = fmax(box->right, overhang);
    }
    if (panel->y_title && !plan->hide_rows) {
        pb_extent t = pb_type_measure(type, PB_STYLE_AXIS, panel->y_title, fmax(box->height, MIN_WRAP));
        double overhang = (t.width - box->height) / 2;
        if (overhang > 0) /* it reaches down beside the labels of x */
            plan->labels_left = box->left;
        box->left = fmax(box->left, plan->labels_left + TITLE_GAP + t.height);
        box->top = fmax(box->top, overhang);
        box->bottom = fmax(box->bottom, overhang);
    }
    const char *texts[2] = {panel->title, panel->subtitle};
    const pb_style styles[2] = {PB_STYLE_TITLE, PB_STYLE_SUBTITLE};
    double height = 0, width = 0;
    for (int i = 0; i < 2; i++) {
        pb_extent t = pb_type_measure(type, styles[i], texts[i], plan->title_wrap);
        height += t.height + (t.height > 0 && height > 0 ? 1 : 0);
        width = fmax(width, t.width);
    }
    if (height > 0)
        box->top += height + PANEL_TITLE_GAP;
    box->right = fmax(box->right, width - box->width);
}

void pb_titles_draw(pb_type *type, cairo_t *cr, const pb_plan *plan, double x, double y) {
    const pb_panel *panel = plan->panel;
    const pb_box *box = &plan->box;
    double top = y - box->top;
    if (panel->title) {
        pb_type_draw(type, cr, PB_STYLE_TITLE, panel->title, plan->title_wrap, x, top, (pb_anchor){0, 0}, 0, PB_INK);
        top += pb_type_measure(type, PB_STYLE_TITLE, panel->title, plan->title_wrap).height + 1;
    }
    if (panel->subtitle)
        pb_type_draw(type, cr, PB_STYLE_SUBTITLE, panel->subtitle, plan->title_wrap, x, top, (pb_anchor){0, 0}, 0,
                     PB_SOFT);
    if (panel->x_title && !plan->hide_cols) {
        pb_type_draw(type, cr, PB_STYLE_AXIS, panel->x_title, fmax(box->width, MIN_WRAP), x + box->width / 2,
                     y + box->height + plan->labels_below + TITLE_GAP, (pb_anchor){0.5, 0}, 0, PB_INK);
    }
    if (panel->y_title && !plan->hide_rows)
        pb_type_draw(type, cr, PB_STYLE_AXIS, panel->y_title, fmax(box->height, MIN_WRAP),
                     x - plan->labels_left - TITLE_GAP, y + box->height / 2, (pb_anchor){0.5, 1}, -M_PI / 2, PB_INK);
}
