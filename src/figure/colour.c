/* Colour maps as control points in OKLab, at equal distances from each other, so that equal steps of value are equal
 * steps of perceived difference. Lightness rises or falls steadily along each map (each arm of the diverging one), also
 * as seen with deuteranopia, protanopia and tritanopia; tests/c/test_figure.c checks both. */
#include "figure/colour.h"

#include <math.h>

#include "base/suggest.h"

typedef struct oklab {
    float l, a, b;
} oklab;

enum { STEPS = 9 };

static const oklab SEQUENTIAL[STEPS] = {
    {0.9750f, -0.0093f, 0.0199f},  {0.8922f, -0.0567f, 0.0434f},  {0.8065f, -0.0951f, 0.0164f},
    {0.7207f, -0.1024f, -0.0315f}, {0.6350f, -0.0818f, -0.0766f}, {0.5475f, -0.0490f, -0.1098f},
    {0.4576f, -0.0119f, -0.1280f}, {0.3638f, 0.0180f, -0.1278f},  {0.2700f, 0.0259f, -0.0966f},
};
static const oklab PURPLES[STEPS] = {
    {0.9750f, 0.0040f, -0.0069f}, {0.8970f, 0.0189f, -0.0328f}, {0.8189f, 0.0338f, -0.0586f},
    {0.7394f, 0.0458f, -0.0815f}, {0.6595f, 0.0562f, -0.1037f}, {0.5784f, 0.0636f, -0.1222f},
    {0.4963f, 0.0682f, -0.1371f}, {0.4133f, 0.0668f, -0.1414f}, {0.3300f, 0.0610f, -0.1370f},
};
static const oklab GREENS[STEPS] = {
    {0.9750f, -0.0104f, 0.0060f}, {0.9042f, -0.0435f, 0.0251f}, {0.8323f, -0.0746f, 0.0432f},
    {0.7551f, -0.0938f, 0.0553f}, {0.6771f, -0.1098f, 0.0659f}, {0.5967f, -0.1092f, 0.0656f},
    {0.5164f, -0.1054f, 0.0632f}, {0.4381f, -0.0901f, 0.0530f}, {0.3600f, -0.0736f, 0.0425f},
};
static const oklab REDS[STEPS] = {
    {0.9750f, 0.0061f, 0.0051f}, {0.9047f, 0.0352f, 0.0286f}, {0.8342f, 0.0650f, 0.0507f},
    {0.7624f, 0.0951f, 0.0673f}, {0.6903f, 0.1261f, 0.0801f}, {0.6129f, 0.1443f, 0.0825f},
    {0.5345f, 0.1575f, 0.0812f}, {0.4569f, 0.1436f, 0.0717f}, {0.3800f, 0.1258f, 0.0614f},
};
static const oklab GREYS[2] = {{0.9750f, 0.0f, 0.0f}, {0.2800f, 0.0f, 0.0f}};

/* Red arm, white, blue arm. */
static const oklab DIVERGING[2 * STEPS - 1] = {
    {0.4000f, 0.1337f, 0.0681f},   {0.4745f, 0.1434f, 0.0782f},   {0.5492f, 0.1474f, 0.0871f},
    {0.6219f, 0.1264f, 0.0865f},   {0.6941f, 0.1039f, 0.0821f},   {0.7633f, 0.0756f, 0.0702f},
    {0.8325f, 0.0493f, 0.0539f},   {0.9003f, 0.0236f, 0.0321f},   {0.9680f, 0.0000f, 0.0000f},
    {0.9008f, -0.0191f, -0.0317f}, {0.8329f, -0.0346f, -0.0565f}, {0.7616f, -0.0408f, -0.0756f},
    {0.6902f, -0.0440f, -0.0948f}, {0.6182f, -0.0422f, -0.1117f}, {0.5461f, -0.0376f, -0.1279f},
    {0.4731f, -0.0295f, -0.1366f}, {0.4000f, -0.0202f, -0.1436f},
};

static const struct {
    const char *name;
    const oklab *points;
    int count;
} MAPS[PB_COLOURS_COUNT] = {
    [PB_COLOURS_AUTO] = {"auto", SEQUENTIAL, STEPS},
    [PB_COLOURS_SEQUENTIAL] = {"sequential", SEQUENTIAL, STEPS},
    [PB_COLOURS_DIVERGING] = {"diverging", DIVERGING, 2 * STEPS - 1},
    [PB_COLOURS_PURPLES] = {"purples", PURPLES, STEPS},
    [PB_COLOURS_GREENS] = {"greens", GREENS, STEPS},
    [PB_COLOURS_REDS] = {"reds", REDS, STEPS},
    [PB_COLOURS_GREYS] = {"greys", GREYS, 2},
};

const pb_rgb PB_INK = {0.13, 0.13, 0.15};
const pb_rgb PB_SOFT = {0.40, 0.40, 0.44};
const pb_rgb PB_FAINT = {0.89, 0.89, 0.90};
const pb_rgb PB_ABSENT = {238 / 255.0, 238 / 255.0, 238 / 255.0};

const char *pb_colour_map_name(pb_colour_map map) {
    return (unsigned)map < PB_COLOURS_COUNT ? MAPS[map].name : "unknown";
}

pb_status pb_colour_map_parse(const char *name, pb_colour_map *out, pb_error *err) {
    pb_suggestion near;
    pb_suggestion_begin(&near, name);
    char list[256];
    size_t used = 0;
    for (int i = 0; i < PB_COLOURS_COUNT; i++) {
        const char *known = MAPS[i].name;
        size_t k = 0;
        while (known[k] && known[k] == name[k])
            k++;
        if (!known[k] && !name[k]) {
            *out = (pb_colour_map)i;
            return PB_OK;
        }
        pb_suggestion_offer(&near, known);
        for (const char *c = i ? ", " : ""; *c && used + 1 < sizeof list; c++)
            list[used++] = *c;
        for (const char *c = known; *c && used + 1 < sizeof list; c++)
            list[used++] = *c;
    }
    list[used] = '\0';
    if (near.best)
        return pb_fail(err, PB_ERR_ARGUMENT, "unknown colour map '%s': did you mean '%s'? There are: %s", name,
                       near.best, list);
    return pb_fail(err, PB_ERR_ARGUMENT, "unknown colour map '%s': there are %s", name, list);
}

static double gamma_encode(double linear) {
    double x = linear < 0 ? 0 : linear > 1 ? 1 : linear;
    return x <= 0.0031308 ? 12.92 * x : 1.055 * pow(x, 1 / 2.4) - 0.055;
}

static double gamma_decode(double x) { return x <= 0.04045 ? x / 12.92 : pow((x + 0.055) / 1.055, 2.4); }

static double cube(double x) { return x * x * x; }

void pb_colour_map_at(pb_colour_map map, double t, unsigned char rgb[3]) {
    const oklab *p = MAPS[map].points;
    int last = MAPS[map].count - 1;
    double at = !(t > 0) ? 0 : t > 1 ? last : t * last;
    int i = at >= last ? last - 1 : (int)at;
    double w = at - i;
    double l = p[i].l + w * (p[i + 1].l - p[i].l);
    double a = p[i].a + w * (p[i + 1].a - p[i].a);
    double b = p[i].b + w * (p[i + 1].b - p[i].b);
    /* OKLab to linear sRGB (Ottosson 2020) */
    double x = cube(l + 0.3963377774 * a + 0.2158037573 * b);
    double y = cube(l - 0.1055613458 * a - 0.0638541728 * b);
    double z = cube(l - 0.0894841775 * a - 1.2914855480 * b);
    double linear[3] = {4.0767416621 * x - 3.3077115913 * y + 0.2309699292 * z,
                        -1.2684380046 * x + 2.6097574011 * y - 0.3413193965 * z,
                        -0.0041960863 * x - 0.7034186147 * y + 1.7076147010 * z};
    for (int c = 0; c < 3; c++)
        rgb[c] = (unsigned char)(gamma_encode(linear[c]) * 255 + 0.5);
}

pb_rgb pb_colour_of(pb_colour_map map, double t) {
    unsigned char rgb[3];
    pb_colour_map_at(map, t, rgb);
    return (pb_rgb){rgb[0] / 255.0, rgb[1] / 255.0, rgb[2] / 255.0};
}

double pb_colour_lightness(pb_rgb c) {
    double r = gamma_decode(c.r), g = gamma_decode(c.g), b = gamma_decode(c.b);
    double x = cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
    double y = cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
    double z = cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
    return 0.2104542553 * x + 0.7936177850 * y - 0.0040720468 * z;
}

/* Okabe and Ito's palette (2008), in an order that puts strong contrasts first, its yellow darkened to be read on white. */
static const unsigned char PALETTE[][3] = {{0, 114, 178}, {213, 94, 0},   {0, 158, 115}, {204, 121, 167},
                                           {230, 159, 0}, {86, 180, 233}, {90, 90, 95},  {160, 140, 20}};
enum { PALETTE_SIZE = sizeof PALETTE / sizeof *PALETTE };

pb_rgb pb_series_colour(size_t i) {
    const unsigned char *c = PALETTE[i % PALETTE_SIZE];
    return (pb_rgb){c[0] / 255.0, c[1] / 255.0, c[2] / 255.0};
}

size_t pb_series_round(size_t i) { return i / PALETTE_SIZE; }
