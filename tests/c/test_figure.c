/* Figures as pictures: what is drawn where and in which colour, scales, labels, what adding a panel refuses.
 * Pictures are decoded by cairo, which knows nothing of our code. */
#include "support/figure_sample.h"
#include "support/support.h"

#include <cairo.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "figure/colour.h"
#include "figure/figure_private.h"

/* ---- pictures ---------------------------------------------------------------------------------------------------- */

typedef struct picture {
    cairo_surface_t *surface;
    int width, height;
} picture;

typedef struct stream {
    const unsigned char *bytes;
    size_t size, at;
} stream;

static cairo_status_t next_bytes(void *closure, unsigned char *out, unsigned n) {
    stream *s = closure;
    if (n > s->size - s->at)
        return CAIRO_STATUS_READ_ERROR;
    memcpy(out, s->bytes + s->at, n);
    s->at += n;
    return CAIRO_STATUS_SUCCESS;
}

static picture decode(const unsigned char *bytes, size_t size) {
    stream s = {bytes, size, 0};
    picture p = {.surface = cairo_image_surface_create_from_png_stream(next_bytes, &s)};
    assert_int_equal(cairo_surface_status(p.surface), CAIRO_STATUS_SUCCESS);
    p.width = cairo_image_surface_get_width(p.surface);
    p.height = cairo_image_surface_get_height(p.surface);
    return p;
}

static picture draw(const pb_figure *figure) {
    pb_error err = {0};
    unsigned char *bytes = NULL;
    size_t size = 0;
    assert_ok(pb_figure_render(figure, PB_FIGURE_PNG, NULL, 0, &bytes, &size, &err));
    picture p = decode(bytes, size);
    pb_free(bytes);
    return p;
}

static uint32_t pixel(const picture *p, int x, int y) {
    uint32_t value;
    memcpy(&value,
           cairo_image_surface_get_data(p->surface) + (size_t)y * (size_t)cairo_image_surface_get_stride(p->surface) +
               4 * (size_t)x,
           4);
    return value & 0xFFFFFF;
}

typedef struct patch_of_colour {
    int count;
    double x, y; /* mean place */
} patch_of_colour;

static patch_of_colour find_colour(const picture *p, const unsigned char rgb[3]) {
    uint32_t wanted = (uint32_t)rgb[0] << 16 | (uint32_t)rgb[1] << 8 | rgb[2];
    patch_of_colour found = {0, 0, 0};
    for (int y = 0; y < p->height; y++) {
        for (int x = 0; x < p->width; x++) {
            if (pixel(p, x, y) == wanted) {
                found.count++;
                found.x += x;
                found.y += y;
            }
        }
    }
    if (found.count) {
        found.x /= found.count;
        found.y /= found.count;
    }
    return found;
}

static patch_of_colour find_value(const picture *p, pb_colour_map map, double t) {
    unsigned char rgb[3];
    pb_colour_map_at(map, t, rgb);
    return find_colour(p, rgb);
}

/* No ink within `border` pixels of the edges: nothing was cut off. */
static void assert_clear_border(const picture *p, int border) {
    for (int y = 0; y < p->height; y++) {
        for (int x = 0; x < p->width; x++) {
            bool inside = x >= border && y >= border && x < p->width - border && y < p->height - border;
            if (!inside && pixel(p, x, y) != 0xFFFFFF)
                fail_msg("ink at %d, %d of %d x %d: too near to the edge", x, y, p->width, p->height);
        }
    }
}

/* ---- heat maps ---------------------------------------------------------------------------------------------------- */

static const float SIX[6] = {0.0f, 0.25f, 0.5f, 0.625f, 0.75f, 1.0f}; /* [2, 3] */
static const double UNIT_RANGE[2] = {0, 1};

/* The six cells' colours in reading order of the drawing must be those of `order`, all of one size. */
static void check_order(pb_context *ctx, const pb_heatmap *spec, int cols, const int order[6]) {
    pb_error err = {0};
    pb_figure *figure = sample_figure(ctx, NULL);
    assert_ok(pb_figure_add_heatmap(figure, spec, &err));
    picture p = draw(figure);
    patch_of_colour cells[6];
    for (int i = 0; i < 6; i++) {
        cells[i] = find_value(&p, PB_COLOURS_GREENS, (double)SIX[order[i]]);
        assert_true(cells[i].count > 600);
        assert_true(abs(cells[i].count - cells[0].count) < 0.25 * cells[0].count); /* the bar has these colours too */
    }
    for (int i = 0; i < 6; i++) {
        if (i % cols)
            assert_true(cells[i].x > cells[i - 1].x + 20 && fabs(cells[i].y - cells[i - 1].y) < 20);
        if (i >= cols)
            assert_true(cells[i].y > cells[i - cols].y + 20 && fabs(cells[i].x - cells[i - cols].x) < 20);
    }
    assert_clear_border(&p, 8);
    cairo_surface_destroy(p.surface);
    pb_figure_unref(figure);
}

static void heatmap__cells_have_their_colour_and_place(void **state) {
    pb_heatmap spec = {
        .rows = 2, .cols = 3, .values = SIX, .range = UNIT_RANGE, .map = PB_COLOURS_GREENS, .numbers = PB_NUMBERS_OFF};
    check_order(*state, &spec, 3, (const int[]){0, 1, 2, 3, 4, 5});
    spec.upward = true;
    check_order(*state, &spec, 3, (const int[]){3, 4, 5, 0, 1, 2});
    spec.upward = false;
    spec.transposed = true;
    check_order(*state, &spec, 2, (const int[]){0, 3, 1, 4, 2, 5});
    spec.upward = true;
    check_order(*state, &spec, 2, (const int[]){2, 5, 1, 4, 0, 3});
}

static void heatmap__many_small_cells__keep_their_colour(void **state) {
    enum { N = 400 };
    pb_error err = {0};
    float *values = calloc(N * N, sizeof *values);
    for (int r = 0; r < N; r++)
        for (int c = 0; c < N; c++)
            values[r * N + c] = r < N / 2 ? (c < N / 2 ? 0.125f : 0.375f) : (c < N / 2 ? 0.625f : 0.875f);
    pb_figure *figure = sample_figure(*state, NULL);
    assert_ok(pb_figure_add_heatmap(
        figure, &(pb_heatmap){.rows = N, .cols = N, .values = values, .range = UNIT_RANGE, .map = PB_COLOURS_REDS},
        &err));
    picture p = draw(figure);
    patch_of_colour q[4];
    for (int i = 0; i < 4; i++) {
        q[i] = find_value(&p, PB_COLOURS_REDS, 0.125 + 0.25 * i);
        assert_true(q[i].count > 100000);
    }
    assert_true(q[1].x > q[0].x + 100 && q[2].y > q[0].y + 100 && q[3].x > q[2].x + 100 && q[3].y > q[1].y + 100);
    cairo_surface_destroy(p.surface);
    pb_figure_unref(figure);
    free(values);
}

static void heatmap__nan__is_hatched_and_explained(void **state) {
    pb_error err = {0};
    float values[4] = {0, 1, 0.5f, 0.25f};
    const unsigned char absent[3] = {238, 238, 238}; /* PB_ABSENT */
    pb_heatmap spec = {.rows = 2, .cols = 2, .values = values, .range = UNIT_RANGE, .numbers = PB_NUMBERS_OFF};
    pb_figure *whole = sample_figure(*state, NULL), *holed = sample_figure(*state, NULL);
    assert_ok(pb_figure_add_heatmap(whole, &spec, &err));
    values[3] = NAN;
    assert_ok(pb_figure_add_heatmap(holed, &spec, &err));
    picture a = draw(whole), b = draw(holed);
    assert_in_range(find_colour(&a, absent).count, 0, 60); /* edges of letters have that grey too */
    assert_true(find_colour(&b, absent).count > 1500);
    assert_true(b.width > a.width); /* the legend entry */
    assert_clear_border(&b, 8);
    cairo_surface_destroy(a.surface);
    cairo_surface_destroy(b.surface);
    pb_figure_unref(whole);
    pb_figure_unref(holed);
}

static void heatmap__infinities__do_not_widen_the_scale(void **state) {
    pb_error err = {0};
    const float values[4] = {INFINITY, -INFINITY, 0.0f, 2.0f};
    pb_figure *figure = sample_figure(*state, NULL);
    assert_ok(pb_figure_add_heatmap(figure, &(pb_heatmap){.rows = 1, .cols = 4, .values = values}, &err));
    pb_colour_scale scale;
    size_t groups;
    pb_colour_scales(figure, &scale, &groups);
    assert_close(scale.low, 0, 0);
    assert_close(scale.high, 2, 0);
    assert_true(scale.below && scale.above);
    assert_close(pb_colour_position(&scale, INFINITY), 1, 0);
    assert_close(pb_colour_position(&scale, -INFINITY), 0, 0);
    picture p = draw(figure);
    cairo_surface_destroy(p.surface);
    pb_figure_unref(figure);
}

static void attention__upper_triangle__is_neither_drawn_nor_looked_at(void **state) {
    pb_error err = {0};
    const float pattern[9] = {0.4f, 77, 78, 0.1f, 0.2f, 79, 0.1f, 0.1f, 0.3f};
    const double range[2] = {0, 0.5};
    pb_figure *figure = sample_figure(*state, NULL);
    assert_ok(pb_figure_add_attention(
        figure, &(pb_attention){.tokens = 3, .pattern = pattern, .map = PB_COLOURS_PURPLES}, &err));
    pb_colour_scale scale;
    size_t groups;
    pb_colour_scales(figure, &scale, &groups);
    assert_close(scale.low, 0, 0);
    assert_close(scale.high, 0.4, 1e-6);
    assert_false(scale.above);
    pb_figure_unref(figure);

    figure = sample_figure(*state, NULL);
    assert_ok(pb_figure_add_attention(
        figure, &(pb_attention){.tokens = 3, .pattern = pattern, .range = range, .map = PB_COLOURS_PURPLES}, &err));
    picture p = draw(figure);
    patch_of_colour first =
        find_value(&p, PB_COLOURS_PURPLES, pb_colour_position(&(pb_colour_scale){.low = 0, .high = 0.5}, (double)0.4f));
    patch_of_colour last =
        find_value(&p, PB_COLOURS_PURPLES, pb_colour_position(&(pb_colour_scale){.low = 0, .high = 0.5}, (double)0.3f));
    patch_of_colour small =
        find_value(&p, PB_COLOURS_PURPLES, pb_colour_position(&(pb_colour_scale){.low = 0, .high = 0.5}, (double)0.1f));
    assert_true(first.count > 800 && last.count > 800);
    assert_true(small.count > 2.4 * first.count && small.count < 3.6 * first.count);
    assert_true(last.x > first.x + 40 && last.y > first.y + 40);
    assert_int_equal(pixel(&p, (int)last.x, (int)first.y), 0xFFFFFF); /* (0, 2) */
    cairo_surface_destroy(p.surface);
    pb_figure_unref(figure);
}

/* ---- scales ---------------------------------------------------------------------------------------------------------- */

static pb_figure *two_panels(pb_context *ctx, pb_scales scales, const char *unit_a, const char *unit_b) {
    pb_error err = {0};
    const float small[2] = {0.0f, 1.0f}, large[2] = {0.0f, 4.0f};
    pb_figure *figure = sample_figure(ctx, &(pb_figure_options){.scales = scales});
    assert_ok(
        pb_figure_add_heatmap(figure, &(pb_heatmap){.rows = 1, .cols = 2, .values = small, .unit = unit_a}, &err));
    assert_ok(
        pb_figure_add_heatmap(figure, &(pb_heatmap){.rows = 1, .cols = 2, .values = large, .unit = unit_b}, &err));
    return figure;
}

static void scales__are_shared_by_unit_unless_asked_otherwise(void **state) {
    static const struct {
        pb_scales scales;
        const char *a, *b;
        size_t groups;
        double high; /* of the first panel */
    } CASES[] = {{PB_SCALES_AUTO, "share", "share", 1, 4},
                 {PB_SCALES_AUTO, NULL, NULL, 1, 4},
                 {PB_SCALES_AUTO, "share", "nats", 2, 1},
                 {PB_SCALES_SHARED, "share", "nats", 1, 4},
                 {PB_SCALES_OWN, "share", "share", 2, 1}};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        pb_figure *figure = two_panels(*state, CASES[i].scales, CASES[i].a, CASES[i].b);
        pb_colour_scale scales[2];
        size_t groups;
        pb_colour_scales(figure, scales, &groups);
        assert_int_equal(groups, CASES[i].groups);
        assert_close(scales[0].high, CASES[i].high, 0);
        assert_close(scales[1].high, 4, 0);
        picture p = draw(figure);
        assert_clear_border(&p, 8);
        cairo_surface_destroy(p.surface);
        pb_figure_unref(figure);
    }
}

static pb_colour_scale scale_of(pb_context *ctx, float low, float high) {
    pb_error err = {0};
    const float values[2] = {low, high};
    pb_figure *figure = sample_figure(ctx, NULL);
    assert_ok(pb_figure_add_heatmap(figure, &(pb_heatmap){.rows = 2, .cols = 1, .values = values}, &err));
    pb_colour_scale scale;
    size_t groups;
    pb_colour_scales(figure, &scale, &groups);
    scale.unit = NULL;
    pb_figure_unref(figure);
    return scale;
}

static void scales__auto_map__diverges_about_zero_only_where_zero_is_the_middle(void **state) {
    pb_colour_scale s = scale_of(*state, -0.5f, 2.0f);
    assert_int_equal(s.map, PB_COLOURS_DIVERGING);
    assert_close(s.low, -2, 0);
    assert_close(s.high, 2, 0);
    assert_int_equal(scale_of(*state, -0.01f, 1.0f).map, PB_COLOURS_SEQUENTIAL);  /* noise about zero */
    assert_int_equal(scale_of(*state, -3.0f, 0.0f).map, PB_COLOURS_DIVERGING);    /* drops */
    assert_int_equal(scale_of(*state, -12.0f, -3.0f).map, PB_COLOURS_SEQUENTIAL); /* log probabilities */
    s = scale_of(*state, 0.1f, 0.9f);
    assert_close(s.low, 0, 0); /* begins at zero where that costs little */
    s = scale_of(*state, 0.8f, 0.9f);
    assert_close(s.low, 0.8, 1e-6);
    s = scale_of(*state, 0.0f, 0.0f);
    assert_true(s.low < s.high);
    s = scale_of(*state, -5.0f, -5.0f);
    assert_true(s.low < s.high);
}

static void ticks__are_nice_numbers_in_range(void **state) {
    (void)state;
    static const double RANGES[][2] = {{0, 1},       {-1, 1},    {0.013, 0.0271}, {-7, 1234},
                                       {1e-9, 3e-9}, {1e7, 5e7}, {0.999, 1.001}};
    for (size_t k = 0; k < sizeof RANGES / sizeof *RANGES; k++) {
        pb_ticks t;
        pb_ticks_linear(RANGES[k][0], RANGES[k][1], 5, false, &t);
        assert_in_range(t.n, 2, 7);
        for (int i = 0; i < t.n; i++) {
            double span = RANGES[k][1] - RANGES[k][0];
            assert_true(t.at[i] >= RANGES[k][0] - 1e-5 * span && t.at[i] <= RANGES[k][1] + 1e-5 * span);
            for (int j = 0; j < i; j++)
                assert_string_not_equal(t.text[i], t.text[j]);
        }
    }
    pb_ticks t;
    pb_ticks_linear(-1, 1, 4, false, &t);
    assert_int_equal(t.n, 5);
    assert_string_equal(t.text[0], "\xE2\x88\x92"
                                   "1.0");
    assert_string_equal(t.text[2], "0.0");
    pb_ticks_linear(0, 2, 8, true, &t);
    assert_int_equal(t.n, 3);
    pb_ticks_log(1, 1000, 5, &t);
    assert_int_equal(t.n, 4);
    assert_string_equal(t.text[3], "1000");
    pb_ticks_log(1e-9, 1e-7, 5, &t);
    assert_string_equal(t.text[0], "10\xE2\x81\xBB\xE2\x81\xB9");
}

static void decimal_text__has_a_true_minus_and_no_negative_zero(void **state) {
    (void)state;
    char text[PB_NUMBER_TEXT];
    pb_decimal_text(-0.001, 2, text);
    assert_string_equal(text, "0.00");
    pb_decimal_text(-1.5, 1, text);
    assert_string_equal(text, "\xE2\x88\x92"
                              "1.5");
    pb_decimal_text((double)NAN, 1, text);
    assert_string_equal(text, "NaN");
    pb_decimal_text((double)-INFINITY, 1, text);
    assert_string_equal(text, "\xE2\x88\x92\xE2\x88\x9E");
    assert_int_equal(pb_decimals_for(0.5), 2);
    assert_int_equal(pb_decimals_for(250), 0);
    assert_int_equal(pb_decimals_for(0.004), 4);
}

/* ---- colour maps -------------------------------------------------------------------------------------------------------- */

static double decode_gamma(double x) { return x <= 0.04045 ? x / 12.92 : pow((x + 0.055) / 1.055, 2.4); }

static double encode_gamma(double x) { return x <= 0.0031308 ? 12.92 * x : 1.055 * pow(x, 1 / 2.4) - 0.055; }

static void to_oklab(pb_rgb c, double out[3]) {
    double r = decode_gamma(c.r), g = decode_gamma(c.g), b = decode_gamma(c.b);
    double x = cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
    double y = cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
    double z = cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
    out[0] = 0.2104542553 * x + 0.7936177850 * y - 0.0040720468 * z;
    out[1] = 1.9779984951 * x - 2.4285922050 * y + 0.4505937099 * z;
    out[2] = 0.0259040371 * x + 0.7827717662 * y - 0.8086757660 * z;
}

/* Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB. */
static const double VISION[4][9] = {
    {1, 0, 0, 0, 1, 0, 0, 0, 1},
    {0.367322, 0.860646, -0.227968, 0.280085, 0.672501, 0.047413, -0.011820, 0.042940, 0.968881},
    {0.152286, 1.052583, -0.204868, 0.114503, 0.786281, 0.099216, -0.003882, -0.048116, 1.051998},
    {1.255528, -0.076749, -0.178779, -0.078411, 0.930809, 0.147602, 0.004733, 0.691367, 0.303900},
};

static pb_rgb seen(pb_rgb c, const double m[9]) {
    double in[3] = {decode_gamma(c.r), decode_gamma(c.g), decode_gamma(c.b)}, out[3];
    for (int i = 0; i < 3; i++) {
        double v = m[3 * i] * in[0] + m[3 * i + 1] * in[1] + m[3 * i + 2] * in[2];
        out[i] = encode_gamma(v < 0 ? 0 : v > 1 ? 1 : v);
    }
    return (pb_rgb){out[0], out[1], out[2]};
}

static double distance(const double a[3], const double b[3]) {
    return sqrt((a[0] - b[0]) * (a[0] - b[0]) + (a[1] - b[1]) * (a[1] - b[1]) + (a[2] - b[2]) * (a[2] - b[2]));
}

static void colour_maps__steps_are_even_and_lightness_monotone_for_every_vision(void **state) {
    (void)state;
    enum { STEPS = 16 };
    for (int map = PB_COLOURS_SEQUENTIAL; map < PB_COLOURS_COUNT; map++) {
        for (int v = 0; v < 4; v++) {
            double lab[STEPS + 1][3], shortest = 10, longest = 0;
            for (int i = 0; i <= STEPS; i++)
                to_oklab(seen(pb_colour_of((pb_colour_map)map, (double)i / STEPS), VISION[v]), lab[i]);
            for (int i = 1; i <= STEPS; i++) {
                bool rising = map == PB_COLOURS_DIVERGING && i <= STEPS / 2;
                double change = lab[i][0] - lab[i - 1][0];
                if ((rising ? change : -change) < 0.02)
                    fail_msg("%s, vision %d, step %d: lightness changes by %g", pb_colour_map_name((pb_colour_map)map),
                             v, i, change);
                double d = distance(lab[i], lab[i - 1]);
                shortest = d < shortest ? d : shortest;
                longest = d > longest ? d : longest;
            }
            if (v == 0)
                assert_true(longest < 1.25 * shortest);
        }
    }
}

static void colour_maps__diverging_arms_differ_for_every_vision(void **state) {
    (void)state;
    for (int v = 0; v < 4; v++) {
        for (int i = 0; i <= 5; i++) {
            double low[3], high[3];
            to_oklab(seen(pb_colour_of(PB_COLOURS_DIVERGING, 0.05 * i), VISION[v]), low);
            to_oklab(seen(pb_colour_of(PB_COLOURS_DIVERGING, 1 - 0.05 * i), VISION[v]), high);
            assert_true(distance(low, high) > 0.1);
        }
    }
}

static void colour_map_parse__unknown__lists_and_suggests(void **state) {
    (void)state;
    pb_error err = {0};
    pb_colour_map map = PB_COLOURS_REDS;
    assert_ok(pb_colour_map_parse("diverging", &map, &err));
    assert_int_equal(map, PB_COLOURS_DIVERGING);
    assert_error(pb_colour_map_parse("divergin", &map, &err), PB_ERR_ARGUMENT, "did you mean 'diverging'");
    assert_error(pb_colour_map_parse("jet", &map, &err), PB_ERR_ARGUMENT, "sequential, diverging, purples");
    assert_error(pb_colour_map_parse("", &map, &err), PB_ERR_ARGUMENT, "auto");
    assert_int_equal(map, PB_COLOURS_DIVERGING);
}

/* ---- texts ---------------------------------------------------------------------------------------------------------------- */

static void label__invisible_characters_become_visible(void **state) {
    static const char *const CASES[][2] = {
        {" Tower", "\xC2\xB7Tower"},
        {"  x ", "\xC2\xB7\xC2\xB7x\xC2\xB7"},
        {"a b", "a b"},
        {" ", "\xC2\xB7"},
        {"\n", "\xE2\x8F\x8E"},
        {"\t", "\xE2\x87\xA5"},
        {"\x01", "\xE2\x90\x81"},
        {"\x7F", "\xE2\x90\xA1"},
        {"\xE4\xB8\xAD", "\xE4\xB8\xAD"},
        {"a\xE2\x82", "a\\xE2\\x82"},
        {"\xFF", "\\xFF"},
        {"\xED\xA0\x80", "\\xED\\xA0\\x80"},
        {"", ""},
    };
    pb_error err = {0};
    pb_pool pool = {.ctx = *state};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const char *out = NULL;
        assert_ok(pb_copy_label(&pool, CASES[i][0], &out, &err));
        assert_string_equal(out, CASES[i][1]);
    }
    const char *text = "unchanged";
    assert_ok(pb_copy_text(&pool, "two\nlines\x02", &text, &err));
    assert_string_equal(text, "two\nlines\xE2\x90\x82");
    assert_ok(pb_copy_text(&pool, "", &text, &err));
    assert_null(text);
    pb_pool_free(&pool);
}

static void figure__nothing_reaches_the_edge(void **state) {
    pb_figure *figure = sample_busy_figure(*state, 1);
    picture p = draw(figure);
    assert_clear_border(&p, 5);
    cairo_surface_destroy(p.surface);
    pb_figure_unref(figure);
    /* each kind alone, so that its own edges are the figure's */
    pb_error err = {0};
    const float values[6] = {1, 2, 3, 4, 5, 6};
    for (int columns = 1; columns <= 3; columns++) {
        figure = sample_figure(*state, &(pb_figure_options){.columns = columns, .pixel_scale = 1});
        assert_ok(pb_figure_add_heatmap(figure,
                                        &(pb_heatmap){.rows = 6,
                                                      .cols = 1,
                                                      .values = values,
                                                      .row_labels = sample_tokens,
                                                      .n_row_labels = 6,
                                                      .x_title = "a title much wider than one column",
                                                      .title = "and a title above it, wider still than that"},
                                        &err));
        const pb_series one = {
            .label = "a single line's name, long enough to need two lines over the plot", .n = 6, .y = values};
        assert_ok(pb_figure_add_lines(figure, &(pb_line_plot){.series = &one, .n_series = 1, .log_y = true}, &err));
        assert_int_equal(pb_figure_panels(figure), 2);
        p = draw(figure);
        assert_clear_border(&p, 5);
        cairo_surface_destroy(p.surface);
        pb_figure_unref(figure);
    }
}

static bool has_ink(const picture *p, int x, int y) { return (pixel(p, x, y) & 0xFF) < 200; }

static int leftmost_ink(const picture *p, int from_y, int to_y) {
    for (int x = 0; x < p->width; x++) {
        for (int y = from_y; y < to_y; y++) {
            if (has_ink(p, x, y))
                return x;
        }
    }
    return p->width;
}

static void heatmap__slanted_labels__do_not_push_the_y_title_away(void **state) {
    pb_error err = {0};
    const float values[6] = {1, 1, 1, 1, 1, 1};
    const char *const labels[3] = {"middle subject tokens", "last subject token", "further tokens"};
    pb_figure *figure = sample_figure(*state, &(pb_figure_options){.pixel_scale = 1});
    assert_ok(pb_figure_add_heatmap(
        figure,
        &(pb_heatmap){.rows = 2, .cols = 3, .values = values, .col_labels = labels, .n_col_labels = 3, .y_title = "l"},
        &err));
    picture p = draw(figure);
    int title = leftmost_ink(&p, 0, p.height / 3), slanted = leftmost_ink(&p, p.height / 3, p.height);
    assert_in_range(title, slanted + 10, p.width / 2); /* beside the rows' labels, not beyond those below */
    cairo_surface_destroy(p.surface);
    pb_figure_unref(figure);
}

/* Groups of rows with ink right of a colour bar: its ticks' texts. */
static void colour_bar__low__has_two_ticks_at_least(void **state) {
    static const float LOWEST[3] = {-4.94f, -0.7f, -3.1f};
    for (int k = 0; k < 3; k++) {
        pb_error err = {0};
        const float values[4] = {LOWEST[k], 0, LOWEST[k] / 2, 0};
        pb_figure *figure = sample_figure(*state, &(pb_figure_options){.pixel_scale = 1});
        assert_ok(pb_figure_add_heatmap(
            figure, &(pb_heatmap){.rows = 2, .cols = 2, .values = values, .map = PB_COLOURS_DIVERGING}, &err));
        picture p = draw(figure);
        patch_of_colour bar = {0, 0, 0}; /* of a colour that no cell has */
        for (double t = 0.98; bar.count == 0 && t > 0.6; t -= 0.002)
            bar = find_value(&p, PB_COLOURS_DIVERGING, t);
        assert_true(bar.count > 0);
        int groups = 0;
        bool inside = false;
        for (int y = 0; y < p.height; y++) {
            bool ink = false;
            for (int x = (int)bar.x + 11; x < p.width; x++)
                ink = ink || has_ink(&p, x, y);
            groups += ink && !inside;
            inside = ink;
        }
        assert_in_range(groups, 2, 7);
        cairo_surface_destroy(p.surface);
        pb_figure_unref(figure);
    }
}

static void render__pixel_scale__changes_pixels_only(void **state) {
    pb_error err = {0};
    int width[2];
    for (int i = 0; i < 2; i++) {
        pb_figure *figure = sample_figure(*state, &(pb_figure_options){.pixel_scale = i ? 3 : 1});
        assert_ok(pb_figure_add_heatmap(figure, &(pb_heatmap){.rows = 2, .cols = 3, .values = SIX}, &err));
        picture p = draw(figure);
        width[i] = p.width;
        cairo_surface_destroy(p.surface);
        pb_figure_unref(figure);
    }
    assert_int_equal(width[1], 3 * width[0]);
}

/* ---- errors of adding ----------------------------------------------------------------------------------------------------------- */

static void create__bad_options__are_errors(void **state) {
    pb_error err = {0};
    pb_figure *figure = NULL;
    assert_error(pb_figure_create(*state, &(pb_figure_options){.columns = -1}, &figure, &err), PB_ERR_ARGUMENT,
                 "-1 columns");
    assert_error(pb_figure_create(*state, &(pb_figure_options){.pixel_scale = 100}, &figure, &err), PB_ERR_ARGUMENT,
                 "pixel_scale is 100");
    assert_error(pb_figure_create(*state, &(pb_figure_options){.scales = (pb_scales)9}, &figure, &err), PB_ERR_ARGUMENT,
                 "scales is 9");
    assert_null(figure);
}

static void add_heatmap__bad_data__is_an_error_and_changes_nothing(void **state) {
    const float nans[2] = {NAN, INFINITY};
    const size_t mark = 3;
    const double backwards[2] = {1, 0};
    const struct {
        pb_heatmap spec;
        pb_status status;
        const char *message;
    } CASES[] = {
        {{.rows = 0, .cols = 3, .values = SIX}, PB_ERR_ARGUMENT, "no rows"},
        {{.rows = 2, .cols = 0, .values = SIX}, PB_ERR_ARGUMENT, "no columns"},
        {{.rows = 9000, .cols = 1, .values = SIX}, PB_ERR_ARGUMENT, "9000 rows are more than can be drawn"},
        {{.rows = 2, .cols = 3}, PB_ERR_ARGUMENT, "no values"},
        {{.rows = 2, .cols = 3, .values = SIX, .col_labels = sample_tokens, .n_col_labels = 2},
         PB_ERR_ARGUMENT,
         "2 column labels for 3 columns"},
        {{.rows = 2, .cols = 3, .values = SIX, .row_labels = sample_tokens, .n_row_labels = 3},
         PB_ERR_ARGUMENT,
         "3 row labels for 2 rows"},
        {{.rows = 2, .cols = 3, .values = SIX, .n_row_labels = 2}, PB_ERR_ARGUMENT, "there are no labels"},
        {{.rows = 2, .cols = 3, .values = SIX, .marked_cols = &mark, .n_marked_cols = 1},
         PB_ERR_ARGUMENT,
         "marked column 3 is out of range"},
        {{.rows = 2, .cols = 3, .values = SIX, .range = backwards}, PB_ERR_ARGUMENT, "range is 1 to 0"},
        {{.rows = 2, .cols = 3, .values = SIX, .map = (pb_colour_map)77}, PB_ERR_ARGUMENT, "colour map 77"},
        {{.rows = 2, .cols = 3, .values = SIX, .digits = 12}, PB_ERR_ARGUMENT, "digits is 12"},
        {{.rows = 100, .cols = 100, .values = SIX, .numbers = PB_NUMBERS_ON}, PB_ERR_ARGUMENT, "10000 cells"},
        {{.title = "lost", .rows = 1, .cols = 2, .values = nans},
         PB_ERR_NUMERIC,
         "panel 0 ('lost'): all values are NaN"},
    };
    pb_error err = {0};
    pb_figure *figure = sample_figure(*state, NULL);
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++)
        assert_error(pb_figure_add_heatmap(figure, &CASES[i].spec, &err), CASES[i].status, CASES[i].message);
    assert_int_equal(pb_figure_panels(figure), 0);
    pb_figure_unref(figure);
}

static void add_plots__bad_data__is_an_error_and_changes_nothing(void **state) {
    const float nans[3] = {NAN, NAN, INFINITY}, some[3] = {1, 0, 2};
    const int classes[3] = {0, 1, 7};
    pb_error err = {0};
    pb_figure *figure = sample_figure(*state, NULL);
    pb_series s = {.label = "s", .n = 3, .y = nans};
    pb_line_plot lines = {.series = &s};
    assert_error(pb_figure_add_lines(figure, &lines, &err), PB_ERR_ARGUMENT, "no lines");
    lines.n_series = 1;
    assert_error(pb_figure_add_lines(figure, &lines, &err), PB_ERR_NUMERIC, "nothing to draw");
    s.y = some;
    s.low = some;
    assert_error(pb_figure_add_lines(figure, &lines, &err), PB_ERR_ARGUMENT, "low is given, high is not");
    s.low = NULL;
    lines.log_y = true;
    assert_error(pb_figure_add_lines(figure, &lines, &err), PB_ERR_ARGUMENT, "there is a value 0");
    lines.log_y = false;
    lines.log_x = true;
    assert_error(pb_figure_add_lines(figure, &lines, &err), PB_ERR_ARGUMENT, "begins at 0");
    lines.log_x = false;
    lines.x_labels = sample_tokens;
    lines.n_x_labels = 2;
    assert_error(pb_figure_add_lines(figure, &lines, &err), PB_ERR_ARGUMENT, "2 labels along x for the 3 points");
    s.n = 0;
    assert_error(pb_figure_add_lines(figure, &lines, &err), PB_ERR_ARGUMENT, "has no points");

    assert_error(pb_figure_add_bars(figure, &(pb_bar_plot){.groups = 3, .values = some}, &err), PB_ERR_ARGUMENT,
                 "no bars");
    assert_error(pb_figure_add_bars(figure, &(pb_bar_plot){.groups = 3, .series = 1, .values = nans}, &err),
                 PB_ERR_NUMERIC, "nothing to draw");
    assert_error(pb_figure_add_bars(
                     figure,
                     &(pb_bar_plot){
                         .groups = 3, .series = 1, .values = some, .group_labels = sample_tokens, .n_group_labels = 2},
                     &err),
                 PB_ERR_ARGUMENT, "2 group labels for 3 groups");
    assert_error(
        pb_figure_add_bars(figure, &(pb_bar_plot){.groups = 3, .series = 1, .values = some, .high = some}, &err),
        PB_ERR_ARGUMENT, "low is not");

    pb_scatter points = {.n = 3, .x = some, .y = nans};
    assert_error(pb_figure_add_scatter(figure, &points, &err), PB_ERR_NUMERIC, "no point is finite");
    points.y = some;
    points.classes = classes;
    points.class_labels = sample_tokens;
    points.n_classes = 2;
    assert_error(pb_figure_add_scatter(figure, &points, &err), PB_ERR_ARGUMENT,
                 "point 2 has class 7: there are 0 to 1");
    points.classes = NULL;
    points.log_x = true;
    assert_error(pb_figure_add_scatter(figure, &points, &err), PB_ERR_ARGUMENT, "logarithmic");
    points.n = 0;
    assert_error(pb_figure_add_scatter(figure, &points, &err), PB_ERR_ARGUMENT, "no points");
    assert_int_equal(pb_figure_panels(figure), 0);
    pb_figure_unref(figure);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH_CONTEXT(heatmap__cells_have_their_colour_and_place),
        WITH_CONTEXT(heatmap__many_small_cells__keep_their_colour),
        WITH_CONTEXT(heatmap__nan__is_hatched_and_explained),
        WITH_CONTEXT(heatmap__infinities__do_not_widen_the_scale),
        WITH_CONTEXT(attention__upper_triangle__is_neither_drawn_nor_looked_at),
        WITH_CONTEXT(scales__are_shared_by_unit_unless_asked_otherwise),
        WITH_CONTEXT(scales__auto_map__diverges_about_zero_only_where_zero_is_the_middle),
        cmocka_unit_test(ticks__are_nice_numbers_in_range),
        cmocka_unit_test(decimal_text__has_a_true_minus_and_no_negative_zero),
        cmocka_unit_test(colour_maps__steps_are_even_and_lightness_monotone_for_every_vision),
        cmocka_unit_test(colour_maps__diverging_arms_differ_for_every_vision),
        cmocka_unit_test(colour_map_parse__unknown__lists_and_suggests),
        WITH_CONTEXT(label__invisible_characters_become_visible),
        WITH_CONTEXT(figure__nothing_reaches_the_edge),
        WITH_CONTEXT(heatmap__slanted_labels__do_not_push_the_y_title_away),
        WITH_CONTEXT(colour_bar__low__has_two_ticks_at_least),
        WITH_CONTEXT(render__pixel_scale__changes_pixels_only),
        WITH_CONTEXT(create__bad_options__are_errors),
        WITH_CONTEXT(add_heatmap__bad_data__is_an_error_and_changes_nothing),
        WITH_CONTEXT(add_plots__bad_data__is_an_error_and_changes_nothing),
    };
    return cmocka_run_group_tests_name("figure", tests, NULL, NULL);
}
