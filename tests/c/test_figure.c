/* Figures: what is drawn where and in which colour, metadata there and back, formats, terminal text, errors.
 * Pictures are decoded by cairo, which knows nothing of our code. */
#include "support/support.h"

#include <cairo.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utf8proc.h>

#include "base/file.h"
#include "figure/colour.h"
#include "figure/figure_private.h"

static int make_context(void **state) {
    *state = test_context();
    return 0;
}

/* Whatever a test made must be gone. */
static int drop_context(void **state) {
    size_t used = pb_context_memory_used(*state);
    pb_context_unref(*state);
    if (used)
        print_error("%zu bytes were not released\n", used);
    return used ? -1 : 0;
}

#define WITH_CONTEXT(test) cmocka_unit_test_setup_teardown(test, make_context, drop_context)

static pb_figure *new_figure(pb_context *ctx, const pb_figure_options *options) {
    pb_error err = {0};
    pb_figure *figure = NULL;
    assert_ok(pb_figure_create(ctx, options, &figure, &err));
    return figure;
}

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
    pb_figure *figure = new_figure(ctx, NULL);
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
    pb_figure *figure = new_figure(*state, NULL);
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
    pb_figure *whole = new_figure(*state, NULL), *holed = new_figure(*state, NULL);
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
    pb_figure *figure = new_figure(*state, NULL);
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
    pb_figure *figure = new_figure(*state, NULL);
    assert_ok(pb_figure_add_attention(
        figure, &(pb_attention){.tokens = 3, .pattern = pattern, .map = PB_COLOURS_PURPLES}, &err));
    pb_colour_scale scale;
    size_t groups;
    pb_colour_scales(figure, &scale, &groups);
    assert_close(scale.low, 0, 0);
    assert_close(scale.high, 0.4, 1e-6);
    assert_false(scale.above);
    pb_figure_unref(figure);

    figure = new_figure(*state, NULL);
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
    pb_figure *figure = new_figure(ctx, &(pb_figure_options){.scales = scales});
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
    pb_figure *figure = new_figure(ctx, NULL);
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

static const char *const TOKENS[] = {"The",
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
enum { N_TOKENS = sizeof TOKENS / sizeof *TOKENS };

/* One panel of every kind, with texts that strain the layout. */
static pb_figure *busy_figure(pb_context *ctx, double pixel_scale) {
    pb_error err = {0};
    pb_figure *figure = new_figure(
        ctx,
        &(pb_figure_options){
            .title =
                "A title that is long enough to be broken into several lines because it goes on and on, as titles may",
            .subtitle = "prompt: The Eiffel Tower is located in the city of",
            .caption = "A caption.",
            .pixel_scale = pixel_scale});
    float values[N_TOKENS * N_TOKENS];
    for (int i = 0; i < N_TOKENS * N_TOKENS; i++)
        values[i] = (float)(i % 7) / 7 - (i % 5 == 0 ? 0.5f : 0);
    values[3] = NAN;
    const size_t marked[2] = {1, 4};
    assert_ok(pb_figure_add_heatmap(figure,
                                    &(pb_heatmap){.title = "a heat map with quite a long title",
                                                  .subtitle = "and subtitle",
                                                  .rows = 3,
                                                  .cols = N_TOKENS,
                                                  .values = values,
                                                  .col_labels = TOKENS,
                                                  .n_col_labels = N_TOKENS,
                                                  .marked_cols = marked,
                                                  .n_marked_cols = 2,
                                                  .x_title = "the x axis has a long title too, longer than the plot",
                                                  .y_title = "and so has the y axis, longer than it",
                                                  .unit = "a unit with many words in it, longer than the bar"},
                                    &err));
    assert_ok(pb_figure_add_attention(figure,
                                      &(pb_attention){.title = "head 3.1",
                                                      .tokens = N_TOKENS,
                                                      .pattern = values,
                                                      .labels = TOKENS,
                                                      .n_labels = N_TOKENS,
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
        figure, &(pb_line_plot){.series = series, .n_series = 1, .x_labels = TOKENS, .n_x_labels = 5}, &err));
    assert_ok(pb_figure_add_bars(figure,
                                 &(pb_bar_plot){.title = "bars",
                                                .groups = 5,
                                                .series = 1,
                                                .values = y,
                                                .low = low,
                                                .high = high,
                                                .group_labels = TOKENS,
                                                .n_group_labels = 5,
                                                .numbers = true},
                                 &err));
    assert_ok(pb_figure_add_bars(
        figure, &(pb_bar_plot){.groups = 2, .series = 2, .values = y, .series_labels = TOKENS, .n_series_labels = 2},
        &err));
    const int classes[5] = {0, 1, 0, 1, 1};
    assert_ok(pb_figure_add_scatter(figure,
                                    &(pb_scatter){.title = "points",
                                                  .n = 5,
                                                  .x = low,
                                                  .y = y,
                                                  .labels = TOKENS,
                                                  .classes = classes,
                                                  .class_labels = TOKENS,
                                                  .n_classes = 2,
                                                  .identity = true},
                                    &err));
    return figure;
}

static void figure__nothing_reaches_the_edge(void **state) {
    pb_figure *figure = busy_figure(*state, 1);
    picture p = draw(figure);
    assert_clear_border(&p, 5);
    cairo_surface_destroy(p.surface);
    pb_figure_unref(figure);
    /* each kind alone, so that its own edges are the figure's */
    pb_error err = {0};
    const float values[6] = {1, 2, 3, 4, 5, 6};
    for (int columns = 1; columns <= 3; columns++) {
        figure = new_figure(*state, &(pb_figure_options){.columns = columns, .pixel_scale = 1});
        assert_ok(pb_figure_add_heatmap(figure,
                                        &(pb_heatmap){.rows = 6,
                                                      .cols = 1,
                                                      .values = values,
                                                      .row_labels = TOKENS,
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

/* ---- metadata -------------------------------------------------------------------------------------------------------------- */

static void metadata__survives_a_png_exactly(void **state) {
    pb_error err = {0};
    char *folder = test_folder();
    char *recipe = malloc(20001);
    for (int i = 0; i < 20000; i++)
        recipe[i] = "local x = 1\r\n-- \xC3\xA9\t"[i % 19];
    recipe[20000 - 20000 % 19] = '\0'; /* a whole number of lines: UTF-8 */
    char random[2001];
    uint32_t seed = 1;
    for (int i = 0; i < 2000; i++)
        random[i] = (char)(' ' + (seed = seed * 1664525u + 1013904223u) / 65536u % 95u);
    random[2000] = '\0';
    const pb_text_pair pairs[] = {{"Software", "Patchbay"},
                                  {"recipe", recipe},
                                  {"r\xC3\xA9sum\xC3\xA9", "\xE2\x88\x92\xF0\x9F\x98\x80"},
                                  {"empty", ""},
                                  {"random", random}};
    pb_figure *figure = new_figure(*state, NULL);
    assert_ok(pb_figure_add_heatmap(figure, &(pb_heatmap){.rows = 2, .cols = 3, .values = SIX}, &err));
    const char *path = test_path(folder, "a.png");
    assert_ok(pb_figure_save(figure, path, pairs, 5, &err));
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_true(info.st_size < 25000); /* the recipe was compressed */
    pb_png_text *text = NULL;
    assert_ok(pb_png_read_text(*state, path, &text, &err));
    assert_int_equal(pb_png_text_count(text), 5);
    for (size_t i = 0; i < 5; i++) {
        assert_string_equal(pb_png_text_at(text, i)->key, pairs[i].key);
        assert_string_equal(pb_png_text_at(text, i)->value, pairs[i].value);
    }
    assert_string_equal(pb_png_text_find(text, "recipe"), recipe);
    assert_null(pb_png_text_find(text, "absent"));
    pb_png_text_free(text);
    pb_figure_unref(figure);
    free(recipe);
    test_folder_remove(folder);
}

static void metadata__bad_keys_and_values__are_named(void **state) {
    static const struct {
        pb_text_pair pairs[2];
        size_t n;
        const char *message;
    } CASES[] = {
        {{{"", "x"}}, 1, "1 to 79 printable"},
        {{{" a", "x"}}, 1, "without spaces"},
        {{{"a  b", "x"}}, 1, "two together"},
        {{{"a ", "x"}}, 1, "without spaces"},
        {{{"a\n", "x"}}, 1, "printable"},
        {{{"\xE2\x88\x92", "x"}}, 1, "Latin-1"},
        {{{NULL, "x"}}, 1, "(null)"},
        {{{"a", NULL}}, 1, "'a' has no value"},
        {{{"a", "x\xFF"}}, 1, "not UTF-8 (byte 0xFF at 1)"},
        {{{"a", "x"}, {"a", "y"}}, 2, "given twice"},
        {{{"0123456789012345678901234567890123456789012345678901234567890123456789012345678x", "x"}}, 1, "79"},
    };
    pb_error err = {0};
    pb_figure *figure = new_figure(*state, NULL);
    assert_ok(pb_figure_add_heatmap(figure, &(pb_heatmap){.rows = 2, .cols = 3, .values = SIX}, &err));
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        unsigned char *bytes = NULL;
        size_t size = 0;
        assert_error(pb_figure_render(figure, PB_FIGURE_PNG, CASES[i].pairs, CASES[i].n, &bytes, &size, &err),
                     PB_ERR_ARGUMENT, CASES[i].message);
        assert_null(bytes);
    }
    pb_figure_unref(figure);
}

static void png_read_text__broken_files__are_refused(void **state) {
    pb_error err = {0};
    char *folder = test_folder();
    const char *path = test_path(folder, "broken.png");
    pb_png_text *text = NULL;
    assert_error(pb_png_read_text(*state, path, &text, &err), PB_ERR_IO, "broken.png");
    assert_ok(pb_file_write(*state, path, "not a picture at all", 20, &err));
    assert_error(pb_png_read_text(*state, path, &text, &err), PB_ERR_FORMAT, "is not a PNG");
    assert_ok(pb_file_write(*state, path, "", 0, &err));
    assert_error(pb_png_read_text(*state, path, &text, &err), PB_ERR_FORMAT, "is not a PNG");

    pb_figure *figure = new_figure(*state, NULL);
    assert_ok(pb_figure_add_heatmap(figure, &(pb_heatmap){.rows = 2, .cols = 3, .values = SIX}, &err));
    unsigned char *bytes = NULL;
    size_t size = 0;
    const pb_text_pair pair = {"key", "needle in the file"};
    assert_ok(pb_figure_render(figure, PB_FIGURE_PNG, &pair, 1, &bytes, &size, &err));
    for (size_t cut = 8; cut < size; cut += size / 23 + 1) {
        assert_ok(pb_file_write(*state, path, bytes, cut, &err));
        assert_error(pb_png_read_text(*state, path, &text, &err), PB_ERR_FORMAT, "broken PNG");
    }
    size_t at = 0;
    while (memcmp(bytes + at, "needle", 6) != 0)
        at++;
    bytes[at] ^= 1; /* the chunk's checksum no longer fits */
    assert_ok(pb_file_write(*state, path, bytes, size, &err));
    assert_error(pb_png_read_text(*state, path, &text, &err), PB_ERR_FORMAT, "CRC");
    bytes[at] ^= 1;
    assert_ok(pb_file_write(*state, path, bytes, size, &err));
    assert_ok(pb_png_read_text(*state, path, &text, &err));
    assert_string_equal(pb_png_text_find(text, "key"), "needle in the file");
    pb_png_text_free(text);
    pb_free(bytes);
    pb_figure_unref(figure);
    test_folder_remove(folder);
}

/* ---- formats ---------------------------------------------------------------------------------------------------------------- */

static bool contains(const unsigned char *bytes, size_t size, const char *text) {
    size_t n = strlen(text);
    for (size_t i = 0; i + n <= size; i++)
        if (memcmp(bytes + i, text, n) == 0)
            return true;
    return false;
}

static void svg__has_labels_metadata_and_description(void **state) {
    pb_error err = {0};
    pb_figure *figure = busy_figure(*state, 1);
    unsigned char *bytes = NULL;
    size_t size = 0;
    const pb_text_pair pair = {"recipe", "if a < b and \"c\" & d then\n  x()\nend"};
    assert_ok(pb_figure_render(figure, PB_FIGURE_SVG, &pair, 1, &bytes, &size, &err));
    static const char *const WANTED[] = {"<svg ",
                                         "</svg>\n",
                                         "<title>A title that is long",
                                         "<entry key=\"recipe\">if a &lt; b and &quot;c&quot; &amp; d then\n",
                                         ">\xC2\xB7Tower</text>",
                                         ">\xC2\xB7&lt;b&gt;&amp;\"</text>",
                                         ">head 3.1</text>",
                                         ">\xE2\x8F\x8E</text>",
                                         "Heat map",
                                         "id=\"surface1\""};
    for (size_t i = 0; i < sizeof WANTED / sizeof *WANTED; i++) {
        if (!contains(bytes, size, WANTED[i]))
            fail_msg("the SVG lacks: %s", WANTED[i]);
    }
    pb_free(bytes);
    pb_figure_unref(figure);
}

static void pdf__has_metadata_and_no_date(void **state) {
    pb_error err = {0};
    pb_figure *figure = busy_figure(*state, 1);
    unsigned char *bytes = NULL;
    size_t size = 0;
    const pb_text_pair pairs[2] = {{"seed", "1"}, {"model", "facts"}};
    assert_ok(pb_figure_render(figure, PB_FIGURE_PDF, pairs, 2, &bytes, &size, &err));
    assert_memory_equal(bytes, "%PDF-", 5);
    assert_true(contains(bytes, size, "/Keywords ({\"seed\": \"1\", \"model\": \"facts\"})"));
    assert_true(contains(bytes, size, "/Creator (Patchbay)"));
    assert_false(contains(bytes, size, "CreationDate"));
    pb_free(bytes);
    pb_figure_unref(figure);
}

static void render__same_figure__same_bytes(void **state) {
    pb_error err = {0};
    for (int format = PB_FIGURE_PNG; format <= PB_FIGURE_PDF; format++) {
        unsigned char *bytes[2] = {NULL, NULL};
        size_t size[2] = {0, 0};
        for (int i = 0; i < 2; i++) {
            pb_figure *figure = busy_figure(*state, 1);
            const pb_text_pair pair = {"recipe", "local pb = require 'patchbay'"};
            assert_ok(pb_figure_render(figure, (pb_figure_format)format, &pair, 1, &bytes[i], &size[i], &err));
            pb_figure_unref(figure);
        }
        assert_int_equal(size[0], size[1]);
        assert_memory_equal(bytes[0], bytes[1], size[0]);
        pb_free(bytes[0]);
        pb_free(bytes[1]);
    }
}

static void render__pixel_scale__changes_pixels_only(void **state) {
    pb_error err = {0};
    int width[2];
    for (int i = 0; i < 2; i++) {
        pb_figure *figure = new_figure(*state, &(pb_figure_options){.pixel_scale = i ? 3 : 1});
        assert_ok(pb_figure_add_heatmap(figure, &(pb_heatmap){.rows = 2, .cols = 3, .values = SIX}, &err));
        picture p = draw(figure);
        width[i] = p.width;
        cairo_surface_destroy(p.surface);
        pb_figure_unref(figure);
    }
    assert_int_equal(width[1], 3 * width[0]);
}

static void format_of__extension_decides(void **state) {
    (void)state;
    pb_error err = {0};
    pb_figure_format format = PB_FIGURE_PNG;
    assert_ok(pb_figure_format_of("out/x.y.SVG", &format, &err));
    assert_int_equal(format, PB_FIGURE_SVG);
    assert_ok(pb_figure_format_of("a.pdf", &format, &err));
    assert_int_equal(format, PB_FIGURE_PDF);
    assert_error(pb_figure_format_of("x.jpg", &format, &err), PB_ERR_UNSUPPORTED, "png, svg and pdf");
    assert_error(pb_figure_format_of("folder.png/x", &format, &err), PB_ERR_ARGUMENT, ".png, .svg or .pdf");
    assert_error(pb_figure_format_of("x.", &format, &err), PB_ERR_ARGUMENT, "no extension");
}

static void save__failure__leaves_the_old_file(void **state) {
    pb_error err = {0};
    char *folder = test_folder();
    pb_figure *figure = new_figure(*state, NULL);
    const char *path = test_path(folder, "old.png");
    assert_ok(pb_file_write(*state, path, "old", 3, &err));
    assert_error(pb_figure_save(figure, path, NULL, 0, &err), PB_ERR_ARGUMENT, "no panels");
    assert_ok(pb_figure_add_heatmap(figure, &(pb_heatmap){.rows = 2, .cols = 3, .values = SIX}, &err));
    assert_error(pb_figure_save(figure, test_path(folder, "a.tiff"), NULL, 0, &err), PB_ERR_UNSUPPORTED, "'.tiff'");
    assert_error(pb_figure_save(figure, test_path(folder, "no/such/folder.png"), NULL, 0, &err), PB_ERR_IO,
                 "No such file");
    assert_error(pb_figure_save(figure, "/proc/figure.png", NULL, 0, &err), PB_ERR_IO, "/proc/figure.png");
    const char *full = test_path(folder, "full.png");
    struct stat device;
    if (stat("/dev/full", &device) == 0 && S_ISCHR(device.st_mode) && symlink("/dev/full", full) == 0)
        assert_error(pb_figure_save(figure, full, NULL, 0, &err), PB_ERR_IO, "disk is full");
    pb_context_set_memory_limit(*state, pb_context_memory_used(*state) + 20000);
    assert_error(pb_figure_save(figure, path, NULL, 0, &err), PB_ERR_MEMORY, NULL);
    pb_context_set_memory_limit(*state, 0);
    char *contents = NULL;
    assert_ok(pb_file_read(*state, path, 100, &contents, NULL, &err));
    assert_string_equal(contents, "old");
    pb_free(contents);
    assert_ok(pb_figure_save(figure, path, NULL, 0, &err));
    pb_figure_unref(figure);
    test_folder_remove(folder);
}

static void render__too_big_or_stopped__is_refused(void **state) {
    pb_error err = {0};
    float *values = calloc(8192, sizeof *values);
    values[0] = 1;
    pb_figure *figure = new_figure(*state, &(pb_figure_options){.pixel_scale = 8});
    assert_ok(pb_figure_add_heatmap(figure, &(pb_heatmap){.rows = 1, .cols = 8192, .values = values}, &err));
    unsigned char *bytes = NULL;
    size_t size = 0;
    assert_error(pb_figure_render(figure, PB_FIGURE_PNG, NULL, 0, &bytes, &size, &err), PB_ERR_UNSUPPORTED,
                 "smaller pixel_scale than 8");
    pb_context_stop(*state);
    assert_error(pb_figure_render(figure, PB_FIGURE_SVG, NULL, 0, &bytes, &size, &err), PB_ERR_STOPPED, NULL);
    pb_context_clear_stop(*state);
    assert_null(bytes);
    pb_figure_unref(figure);
    free(values);
}

/* fontconfig reads its configuration once per process: a child that has drawn nothing yet. */
static void render__no_font__says_what_to_install(void **state) {
    pb_error err = {0};
    char *folder = test_folder();
    const char *config = test_path(folder, "fonts.conf");
    assert_ok(pb_file_write(*state, config, "<fontconfig></fontconfig>", 25, &err));
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        setenv("FONTCONFIG_FILE", config, 1);
        setenv("XDG_DATA_HOME", folder, 1);
        setenv("HOME", folder, 1);
        pb_figure *figure = NULL;
        unsigned char *bytes;
        size_t size;
        pb_status status = pb_figure_create(*state, NULL, &figure, &err);
        if (status == PB_OK)
            status = pb_figure_add_heatmap(figure, &(pb_heatmap){.rows = 2, .cols = 3, .values = SIX}, &err);
        if (status == PB_OK)
            status = pb_figure_render(figure, PB_FIGURE_PNG, NULL, 0, &bytes, &size, &err);
        _exit(status == PB_ERR_IO && strstr(err.message, "fonts-dejavu-core") ? 0 : 1);
    }
    int result = 0;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFEXITED(result));
    assert_int_equal(WEXITSTATUS(result), 0);
    test_folder_remove(folder);
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
        {{.rows = 2, .cols = 3, .values = SIX, .col_labels = TOKENS, .n_col_labels = 2},
         PB_ERR_ARGUMENT,
         "2 column labels for 3 columns"},
        {{.rows = 2, .cols = 3, .values = SIX, .row_labels = TOKENS, .n_row_labels = 3},
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
    pb_figure *figure = new_figure(*state, NULL);
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++)
        assert_error(pb_figure_add_heatmap(figure, &CASES[i].spec, &err), CASES[i].status, CASES[i].message);
    assert_int_equal(pb_figure_panels(figure), 0);
    pb_figure_unref(figure);
}

static void add_plots__bad_data__is_an_error_and_changes_nothing(void **state) {
    const float nans[3] = {NAN, NAN, INFINITY}, some[3] = {1, 0, 2};
    const int classes[3] = {0, 1, 7};
    pb_error err = {0};
    pb_figure *figure = new_figure(*state, NULL);
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
    lines.x_labels = TOKENS;
    lines.n_x_labels = 2;
    assert_error(pb_figure_add_lines(figure, &lines, &err), PB_ERR_ARGUMENT, "2 labels along x for the 3 points");
    s.n = 0;
    assert_error(pb_figure_add_lines(figure, &lines, &err), PB_ERR_ARGUMENT, "has no points");

    assert_error(pb_figure_add_bars(figure, &(pb_bar_plot){.groups = 3, .values = some}, &err), PB_ERR_ARGUMENT,
                 "no bars");
    assert_error(pb_figure_add_bars(figure, &(pb_bar_plot){.groups = 3, .series = 1, .values = nans}, &err),
                 PB_ERR_NUMERIC, "nothing to draw");
    assert_error(
        pb_figure_add_bars(
            figure,
            &(pb_bar_plot){.groups = 3, .series = 1, .values = some, .group_labels = TOKENS, .n_group_labels = 2},
            &err),
        PB_ERR_ARGUMENT, "2 group labels for 3 groups");
    assert_error(
        pb_figure_add_bars(figure, &(pb_bar_plot){.groups = 3, .series = 1, .values = some, .high = some}, &err),
        PB_ERR_ARGUMENT, "low is not");

    pb_scatter points = {.n = 3, .x = some, .y = nans};
    assert_error(pb_figure_add_scatter(figure, &points, &err), PB_ERR_NUMERIC, "no point is finite");
    points.y = some;
    points.classes = classes;
    points.class_labels = TOKENS;
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

/* ---- terminal -------------------------------------------------------------------------------------------------------------------- */

/* Columns of one line, escape sequences left out. */
static int columns_of(const char *line, size_t length) {
    int columns = 0;
    for (size_t i = 0; i < length;) {
        if (line[i] == '\x1b') {
            while (i < length && line[i] != 'm')
                i++;
            i++;
            continue;
        }
        utf8proc_int32_t c;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)line + i, (utf8proc_ssize_t)(length - i), &c);
        assert_true(n > 0);
        columns += utf8proc_charwidth(c);
        i += (size_t)n;
    }
    return columns;
}

static char *show(const pb_figure *figure, const pb_terminal_options *options) {
    pb_error err = {0};
    char *text = NULL;
    assert_ok(pb_figure_terminal(figure, options, &text, &err));
    assert_int_equal(text[strlen(text) - 1], '\n');
    return text;
}

static void terminal__plain__is_aligned_whatever_the_script(void **state) {
    pb_error err = {0};
    const char *const labels[3] = {" \xE4\xB8\xAD\xE6\x96\x87", "ab", "\xC3\xA9\xC3\xA9\xC3\xA9"};
    const float values[6] = {-1.5f, 2, 300, NAN, 0.25f, -INFINITY};
    const size_t mark = 1;
    pb_figure *figure = new_figure(*state, NULL);
    assert_ok(pb_figure_add_heatmap(figure,
                                    &(pb_heatmap){.rows = 3,
                                                  .cols = 2,
                                                  .values = values,
                                                  .row_labels = labels,
                                                  .n_row_labels = 3,
                                                  .marked_rows = &mark,
                                                  .n_marked_rows = 1,
                                                  .digits = 2},
                                    &err));
    char *text = show(figure, NULL);
    assert_string_equal(text, "           0    1\n"
                              "\xC2\xB7\xE4\xB8\xAD\xE6\x96\x87  -1.50 2.00\n"
                              "  ab* 300.00  NaN\n"
                              "  \xC3\xA9\xC3\xA9\xC3\xA9   0.25   -\xE2\x88\x9E\n");
    pb_free(text);
    pb_figure_unref(figure);
}

static void terminal__width_is_obeyed(void **state) {
    pb_error err = {0};
    enum { LAYERS = 30 };
    float values[LAYERS * 4];
    for (int i = 0; i < LAYERS * 4; i++)
        values[i] = (float)i / 100 - 0.3f;
    pb_figure *figure = new_figure(*state, NULL);
    assert_ok(pb_figure_add_heatmap(figure,
                                    &(pb_heatmap){.rows = LAYERS,
                                                  .cols = 4,
                                                  .values = values,
                                                  .transposed = true,
                                                  .col_labels = TOKENS,
                                                  .n_col_labels = 4,
                                                  .unit = "nats"},
                                    &err));
    for (int colour = 0; colour < 2; colour++) {
        for (int width = 20; width <= 200; width += 45) {
            char *text = show(figure, &(pb_terminal_options){.colour = colour, .width = width});
            for (char *line = text; *line;) {
                size_t length = strcspn(line, "\n");
                bool legend = strstr(line, "nats") && strstr(line, "nats") < line + length;
                if (!legend)
                    assert_in_range(columns_of(line, length), 0, width);
                line += length + 1;
            }
            assert_true((strchr(text, '\x1b') != NULL) == (colour == 1));
            pb_free(text);
        }
    }
    char *text = NULL;
    assert_error(pb_figure_terminal(figure, &(pb_terminal_options){.width = 5}, &text, &err), PB_ERR_ARGUMENT,
                 "at least 20");
    pb_figure_unref(figure);
}

static void terminal__colour__is_the_cells_colour(void **state) {
    pb_error err = {0};
    pb_figure *figure = new_figure(*state, &(pb_figure_options){.title = "T"});
    assert_ok(pb_figure_add_heatmap(
        figure,
        &(pb_heatmap){
            .rows = 2, .cols = 3, .values = SIX, .range = UNIT_RANGE, .map = PB_COLOURS_REDS, .unit = "share"},
        &err));
    char *text = show(figure, &(pb_terminal_options){.colour = true});
    for (int i = 0; i < 6; i++) {
        unsigned char rgb[3];
        char wanted[64];
        pb_colour_map_at(PB_COLOURS_REDS, (double)SIX[i], rgb);
        snprintf(wanted, sizeof wanted, "\x1b[48;2;%d;%d;%dm", rgb[0], rgb[1], rgb[2]);
        assert_non_null(strstr(text, wanted));
        snprintf(wanted, sizeof wanted, "%.2f", (double)SIX[i]);
        assert_non_null(strstr(text, wanted));
    }
    assert_non_null(strstr(text, "\x1b[1mT\x1b[0m\n"));
    assert_non_null(strstr(text, "share\n"));
    pb_free(text);
    pb_figure_unref(figure);
}

static void terminal__long_tables_are_cut_and_say_so(void **state) {
    pb_error err = {0};
    float values[100];
    for (int i = 0; i < 100; i++)
        values[i] = (float)i;
    pb_figure *figure = new_figure(*state, NULL);
    assert_ok(pb_figure_add_heatmap(figure, &(pb_heatmap){.rows = 100, .cols = 1, .values = values}, &err));
    char *text = show(figure, &(pb_terminal_options){.max_rows = 10});
    assert_non_null(strstr(text, "... 90 rows left out\n"));
    assert_non_null(strstr(text, "\n99 "));
    assert_null(strstr(text, "\n50 "));
    pb_free(text);
    pb_figure_unref(figure);
}

static void terminal__plots_are_tables(void **state) {
    pb_figure *figure = busy_figure(*state, 1);
    for (int colour = 0; colour < 2; colour++) {
        char *text = show(figure, &(pb_terminal_options){.colour = colour, .width = 100});
        static const char *const WANTED[] = {"band", "low", "high", "ceiling", "lines", "points", "\xC2\xB7Tower"};
        for (size_t i = 0; i < sizeof WANTED / sizeof *WANTED; i++) {
            if (strcmp(WANTED[i], "ceiling") == 0)
                continue; /* levels are not data */
            assert_non_null(strstr(text, WANTED[i]));
        }
        pb_free(text);
    }
    pb_figure_unref(figure);
}

/* ---- memory ------------------------------------------------------------------------------------------------------------------------ */

/* Everything that one figure goes through, with the n-th allocation failing. */
static pb_status whole_life(pb_context *ctx, pb_figure_format format, const char *path, pb_error *err) {
    const float values[4] = {0, 1, 2, 3};
    pb_figure *figure = NULL;
    char *shown = NULL;
    pb_png_text *text = NULL;
    const pb_series series = {.label = "s", .n = 4, .y = values};
    const pb_text_pair pair = {"key", "value"};
    pb_status status = pb_figure_create(ctx, &(pb_figure_options){.title = "t", .pixel_scale = 0.5}, &figure, err);
    if (status == PB_OK)
        status = pb_figure_add_heatmap(figure,
                                       &(pb_heatmap){.title = "h",
                                                     .rows = 2,
                                                     .cols = 2,
                                                     .values = values,
                                                     .row_labels = TOKENS,
                                                     .n_row_labels = 2,
                                                     .unit = "u"},
                                       err);
    if (status == PB_OK)
        status = pb_figure_add_lines(figure, &(pb_line_plot){.series = &series, .n_series = 1}, err);
    if (status == PB_OK)
        status = pb_figure_add_bars(
            figure,
            &(pb_bar_plot){.groups = 4, .series = 1, .values = values, .group_labels = TOKENS, .n_group_labels = 4},
            err);
    if (status == PB_OK)
        status = pb_figure_add_scatter(figure, &(pb_scatter){.n = 4, .x = values, .y = values, .labels = TOKENS}, err);
    if (status == PB_OK)
        status = pb_figure_terminal(figure, NULL, &shown, err);
    if (status == PB_OK) {
        unsigned char *bytes = NULL;
        size_t size = 0;
        status = pb_figure_render(figure, format, &pair, 1, &bytes, &size, err);
        if (status == PB_OK && format == PB_FIGURE_PNG)
            status = pb_file_write(ctx, path, bytes, size, err);
        pb_free(bytes);
    }
    if (status == PB_OK && format == PB_FIGURE_PNG)
        status = pb_png_read_text(ctx, path, &text, err);
    if (status == PB_OK && format == PB_FIGURE_PNG)
        assert_string_equal(pb_png_text_find(text, "key"), "value");
    pb_png_text_free(text);
    pb_free(shown);
    pb_figure_unref(figure);
    return status;
}

static void figure__any_allocation_fails__is_an_error_and_no_leak(void **state) {
    char *folder = test_folder();
    const char *path = test_path(folder, "x.png");
    for (int format = PB_FIGURE_PNG; format <= PB_FIGURE_PDF; format++) {
        size_t before = pb_context_memory_used(*state);
        pb_status status = PB_ERR_MEMORY;
        uint64_t n = 0;
        while (status != PB_OK) {
            pb_error err = {0};
            n++;
            pb_context_fail_allocation(*state, n);
            status = whole_life(*state, (pb_figure_format)format, path, &err);
            pb_context_fail_allocation(*state, 0);
            if (status != PB_OK && status != PB_ERR_MEMORY)
                fail_msg("format %d, allocation %d: status %d, %s", format, (int)n, (int)status, err.message);
            assert_int_equal(pb_context_memory_used(*state), before);
            assert_true(n < 2000);
        }
        assert_true(n > 20);
    }
    test_folder_remove(folder);
}

static void figure__outlives_its_makers_data(void **state) {
    pb_error err = {0};
    float values[6];
    char label[8] = "before";
    const char *labels[2] = {label, label};
    memcpy(values, SIX, sizeof values);
    pb_figure *figure = new_figure(*state, NULL);
    assert_ok(pb_figure_add_heatmap(
        figure, &(pb_heatmap){.rows = 2, .cols = 3, .values = values, .row_labels = labels, .n_row_labels = 2}, &err));
    memset(values, 0, sizeof values);
    memcpy(label, "after!", 7);
    char *text = show(figure, NULL);
    assert_non_null(strstr(text, "before"));
    assert_non_null(strstr(text, "0.75"));
    assert_null(strstr(text, "after"));
    pb_free(text);
    assert_ptr_equal(pb_figure_ref(figure), figure);
    pb_figure_unref(figure);
    pb_figure_unref(figure);
    pb_figure_unref(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH_CONTEXT(render__no_font__says_what_to_install), /* first: nothing may have been drawn before */
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
        WITH_CONTEXT(metadata__survives_a_png_exactly),
        WITH_CONTEXT(metadata__bad_keys_and_values__are_named),
        WITH_CONTEXT(png_read_text__broken_files__are_refused),
        WITH_CONTEXT(svg__has_labels_metadata_and_description),
        WITH_CONTEXT(pdf__has_metadata_and_no_date),
        WITH_CONTEXT(render__same_figure__same_bytes),
        WITH_CONTEXT(render__pixel_scale__changes_pixels_only),
        cmocka_unit_test(format_of__extension_decides),
        WITH_CONTEXT(save__failure__leaves_the_old_file),
        WITH_CONTEXT(render__too_big_or_stopped__is_refused),
        WITH_CONTEXT(create__bad_options__are_errors),
        WITH_CONTEXT(add_heatmap__bad_data__is_an_error_and_changes_nothing),
        WITH_CONTEXT(add_plots__bad_data__is_an_error_and_changes_nothing),
        WITH_CONTEXT(terminal__plain__is_aligned_whatever_the_script),
        WITH_CONTEXT(terminal__width_is_obeyed),
        WITH_CONTEXT(terminal__colour__is_the_cells_colour),
        WITH_CONTEXT(terminal__long_tables_are_cut_and_say_so),
        WITH_CONTEXT(terminal__plots_are_tables),
        WITH_CONTEXT(figure__any_allocation_fails__is_an_error_and_no_leak),
        WITH_CONTEXT(figure__outlives_its_makers_data),
    };
    return cmocka_run_group_tests_name("figure", tests, NULL, NULL);
}
