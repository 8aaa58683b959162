/* Numbers on axes: ticks, their texts, and the colour scales that heat maps share. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "figure/figure_private.h"

/* ---- numbers as text ---------------------------------------------------------------------------------------------- */

static const char MINUS[] = "\xE2\x88\x92";

/* printf's text with '.' whatever the locale, and a true minus sign (also in an exponent). */
static void typeset(const char *plain, char out[PB_NUMBER_TEXT]) {
    size_t used = 0;
    bool zero = strspn(plain, "-0.,") == strlen(plain); /* "-0.00" is written "0.00" */
    for (const char *c = plain; *c && used + 4 < PB_NUMBER_TEXT; c++) {
        if (*c == '-') {
            if (!zero) {
                memcpy(out + used, MINUS, 3);
                used += 3;
            }
        } else {
            bool known = (*c >= '0' && *c <= '9') || (*c >= 'a' && *c <= 'z') || *c == '+' || *c == '.';
            out[used++] = known ? *c : '.';
        }
    }
    out[used] = '\0';
}

void pb_decimal_text(double value, int decimals, char out[PB_NUMBER_TEXT]) {
    char plain[PB_NUMBER_TEXT];
    if (isnan(value)) {
        snprintf(out, PB_NUMBER_TEXT, "NaN");
        return;
    }
    if (isinf(value)) {
        snprintf(out, PB_NUMBER_TEXT, "%s\xE2\x88\x9E", value < 0 ? MINUS : "");
        return;
    }
    if (fabs(value) >= 1e6 || decimals > 6)
        snprintf(plain, sizeof plain, "%.*e", decimals > 6 ? 1 : 2, value);
    else
        snprintf(plain, sizeof plain, "%.*f", decimals, value);
    typeset(plain, out);
}

int pb_decimals_for(double largest) {
    if (!(largest > 0) || largest >= 100)
        return 0;
    if (largest >= 10)
        return 1;
    if (largest >= 0.1)
        return 2;
    int leading = (int)floor(-log10(largest)); /* zeros behind the point */
    return leading + 2 > 7 ? 7 : leading + 2;
}

/* ---- ticks ---------------------------------------------------------------------------------------------------------- */

static double nice_step(double span, int wanted, bool whole) {
    double rough = span / (wanted < 1 ? 1 : wanted);
    double power = pow(10, floor(log10(rough)));
    double factor = rough / power;
    double step = power * (factor <= 1.0001 ? 1 : factor <= 2.0001 ? 2 : factor <= 5.0001 ? 5 : 10);
    return whole && step < 1 ? 1 : step;
}

void pb_ticks_linear(double low, double high, int wanted, bool whole, pb_ticks *out) {
    out->n = 0;
    double step = nice_step(high - low, wanted, whole), slack = 1e-6 * (high - low);
    int decimals = step >= 1 ? 0 : (int)ceil(-log10(step) - 1e-9);
    bool long_numbers = fmax(fabs(low), fabs(high)) >= 1e6 || decimals > 6;
    for (double i = ceil((low - slack) / step); i * step <= high + slack && out->n < PB_MAX_TICKS; i++) {
        double at = i * step;
        out->at[out->n] = at;
        if (long_numbers) {
            char plain[PB_NUMBER_TEXT];
            snprintf(plain, sizeof plain, "%.4g", at);
            typeset(plain, out->text[out->n]);
        } else {
            pb_decimal_text(at, decimals, out->text[out->n]);
        }
        out->n++;
    }
    if (out->n == 0) { /* a narrow range between two nice numbers */
        out->n = 1;
        out->at[0] = (low + high) / 2;
        pb_decimal_text(out->at[0], 4, out->text[0]);
    }
}

static void power_text(int exponent, char out[PB_NUMBER_TEXT]) {
    static const char *const DIGITS[10] = {"\xE2\x81\xB0", "\xC2\xB9",     "\xC2\xB2",     "\xC2\xB3",
                                           "\xE2\x81\xB4", "\xE2\x81\xB5", "\xE2\x81\xB6", "\xE2\x81\xB7",
                                           "\xE2\x81\xB8", "\xE2\x81\xB9"};
    char plain[16];
    snprintf(plain, sizeof plain, "%d", exponent);
    int used = snprintf(out, PB_NUMBER_TEXT, "10");
    for (const char *c = plain; *c; c++)
        used +=
            snprintf(out + used, (size_t)(PB_NUMBER_TEXT - used), "%s", *c == '-' ? "\xE2\x81\xBB" : DIGITS[*c - '0']);
}

static void log_text(double value, int exponent, int factor, char out[PB_NUMBER_TEXT]) {
    if (exponent >= -3 && exponent <= 4)
        pb_decimal_text(value, exponent < 0 ? -exponent : 0, out);
    else if (factor == 1)
        power_text(exponent, out);
    else
        out[0] = '\0'; /* a tick without a text */
}

void pb_ticks_log(double low, double high, int wanted, pb_ticks *out) {
    out->n = 0;
    int first = (int)floor(log10(low) + 1e-9), last = (int)ceil(log10(high) - 1e-9);
    int every = wanted < 1 ? 1 : (last - first + wanted) / wanted;
    static const int FACTORS[3] = {1, 2, 5};
    int n_factors = last - first <= 2 ? 3 : 1;
    for (int e = first; e <= last; e += every < 1 ? 1 : every) {
        for (int f = 0; f < n_factors && out->n < PB_MAX_TICKS; f++) {
            double at = FACTORS[f] * pow(10, e);
            if (at < low * (1 - 1e-9) || at > high * (1 + 1e-9))
                continue;
            out->at[out->n] = at;
            log_text(at, e, FACTORS[f], out->text[out->n]);
            out->n++;
        }
    }
    if (out->n == 0) {
        out->n = 1;
        out->at[0] = sqrt(low * high);
        char plain[PB_NUMBER_TEXT];
        snprintf(plain, sizeof plain, "%.3g", out->at[0]);
        typeset(plain, out->text[0]);
    }
}

void pb_range_widen(double *low, double *high) {
    if (*low >= *high || *high - *low < 1e-9 * fmax(fabs(*low), fabs(*high))) {
        double pad = *low == 0 ? 1 : 0.1 * fabs(*low);
        *low -= pad;
        *high += pad;
        return;
    }
    double step = nice_step(*high - *low, 5, false);
    double down = floor(*low / step + 1e-9) * step, up = ceil(*high / step - 1e-9) * step;
    double span = *high - *low;
    *low = *low - down <= 0.25 * step ? down : *low - 0.05 * span;
    *high = up - *high <= 0.25 * step ? up : *high + 0.05 * span;
}

/* ---- colour scales ---------------------------------------------------------------------------------------------------- */

static bool same_text(const char *a, const char *b) { return a == b || (a && b && strcmp(a, b) == 0); }

static bool same_scale(const pb_figure *figure, const pb_heat *a, const pb_heat *b) {
    if (a == b)
        return true;
    switch (figure->options.scales) {
    case PB_SCALES_SHARED:
        return true;
    case PB_SCALES_OWN:
        return false;
    case PB_SCALES_AUTO:
        break;
    }
    bool ranges =
        a->has_range == b->has_range && (!a->has_range || (a->range[0] == b->range[0] && a->range[1] == b->range[1]));
    return a->map == b->map && ranges && same_text(a->unit, b->unit);
}

static pb_colour_map resolve_map(pb_colour_map asked, double low, double high) {
    if (asked != PB_COLOURS_AUTO)
        return asked;
    double largest = fmax(fabs(low), fabs(high));
    bool both_sides = low < -0.05 * largest && high > 0.05 * largest;
    bool hangs_from_zero = low < 0 && high <= 0.05 * largest && high >= -0.1 * largest;
    return both_sides || hangs_from_zero ? PB_COLOURS_DIVERGING : PB_COLOURS_SEQUENTIAL;
}

/* Ends of a scale over data low..high. */
static void choose_range(pb_colour_scale *scale, const pb_heat *heat, double low, double high) {
    scale->low = heat->has_range ? heat->range[0] : low;
    scale->high = heat->has_range ? heat->range[1] : high;
    if (scale->map == PB_COLOURS_DIVERGING) {
        double largest = fmax(fabs(scale->low), fabs(scale->high));
        scale->high = largest > 0 ? largest : 1;
        scale->low = -scale->high;
        return;
    }
    if (!heat->has_range && scale->low > 0 && (heat->from_zero || scale->low < 0.25 * scale->high))
        scale->low = 0;
    if (scale->low >= scale->high) {
        double pad = scale->high == 0 ? 1 : 0.1 * fabs(scale->high);
        scale->high += pad;
        scale->low -= scale->low == 0 ? 0 : pad;
    }
}

static void scan_beyond(const pb_heat *heat, pb_colour_scale *scale) {
    scale->has_nan = scale->has_nan || heat->n_nan > 0;
    double slack = 1e-6 * (scale->high - scale->low);
    for (size_t i = 0; i < heat->rows.n * heat->cols.n; i++) {
        if (heat->masked && heat->masked[i])
            continue;
        scale->below = scale->below || (double)heat->values[i] < scale->low - slack;
        scale->above = scale->above || (double)heat->values[i] > scale->high + slack;
    }
}

void pb_colour_scales(const pb_figure *figure, pb_colour_scale *out, size_t *groups) {
    size_t n = figure->n_panels;
    memset(out, 0, n * sizeof *out);
    *groups = 0;
    for (size_t i = 0; i < n; i++) {
        const pb_heat *heat = &figure->panels[i]->as.heat;
        if (figure->panels[i]->kind != PB_PANEL_HEAT || out[i].map != PB_COLOURS_AUTO)
            continue; /* no heat map, or done with an earlier one */
        double low = INFINITY, high = -INFINITY;
        for (size_t k = i; k < n; k++) {
            const pb_heat *other = &figure->panels[k]->as.heat;
            if (figure->panels[k]->kind == PB_PANEL_HEAT && same_scale(figure, heat, other)) {
                low = fmin(low, other->low);
                high = fmax(high, other->high);
            }
        }
        pb_colour_scale scale = {.map = resolve_map(heat->map, heat->has_range ? heat->range[0] : low,
                                                    heat->has_range ? heat->range[1] : high),
                                 .unit = heat->unit,
                                 .group = *groups};
        choose_range(&scale, heat, low, high);
        for (size_t k = i; k < n; k++) {
            if (figure->panels[k]->kind == PB_PANEL_HEAT && same_scale(figure, heat, &figure->panels[k]->as.heat))
                scan_beyond(&figure->panels[k]->as.heat, &scale);
        }
        for (size_t k = i; k < n; k++) {
            const pb_heat *other = &figure->panels[k]->as.heat;
            if (figure->panels[k]->kind != PB_PANEL_HEAT || !same_scale(figure, heat, other))
                continue;
            out[k] = scale;
            if (other->map != PB_COLOURS_AUTO && scale.map != PB_COLOURS_DIVERGING &&
                other->map != PB_COLOURS_DIVERGING)
                out[k].map = other->map; /* one range, the panel's own colours */
        }
        (*groups)++;
    }
}

double pb_colour_position(const pb_colour_scale *scale, double value) {
    double t = (value - scale->low) / (scale->high - scale->low);
    return t < 0 ? 0 : t > 1 ? 1 : t;
}
