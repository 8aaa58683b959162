/* Philox against the authors' known answers; the two distributions against their definition and their moments. */
#include "support/support.h"

#include <math.h>
#include <string.h>

static void philox__known_answers(void **state) {
    (void)state;
    /* Random123's kat_vectors, philox4x32 10 */
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        uint32_t out[4];
        pb_philox(known[i].counter, known[i].key, out);
        assert_memory_equal(out, known[i].out, sizeof out);
    }
}

static void rng_word__follows_the_layout_of_the_header(void **state) {
    (void)state;
    const uint64_t seed = 0x299f31d0a4093822u, draw = 0x0370734413198a2eu;
    const uint64_t index = 0x85a308d3243f6a88u; /* of the group; its words are 4 * index + k */
    assert_int_equal(pb_rng_word(0, 0, 0), 0x6627e8d5);
    assert_int_equal(pb_rng_word(0, 0, 3), 0x9b00dbd8);
    /* 4 * index overflows 64 bits, so use what remains of it after division */
    const uint64_t small = index >> 2;
    uint32_t counter[4] = {(uint32_t)small, (uint32_t)(small >> 32), 0x13198a2e, 0x03707344}, out[4];
    const uint32_t key[2] = {0xa4093822, 0x299f31d0};
    pb_philox(counter, key, out);
    for (uint64_t k = 0; k < 4; k++)
        assert_int_equal(pb_rng_word(seed, draw, small * 4 + k), out[k]);
}

static void rng_uniform__any_window_gives_the_same_elements(void **state) {
    (void)state;
    enum { N = 67 };
    float whole[N], part[N];
    pb_rng_uniform(5, 6, 1000, N, whole);
    for (size_t i = 0; i < N; i++)
        assert_true(whole[i] == (float)(pb_rng_word(5, 6, 1000 + i) >> 8) * 0x1p-24f);
    for (size_t first = 0; first < 9; first++) {
        for (size_t n = 0; n < N - first; n += 5) {
            memset(part, 0x7f, sizeof part);
            pb_rng_uniform(5, 6, 1000 + first, n, part);
            assert_memory_equal(part, whole + first, n * sizeof(float));
        }
    }
}

/* To the last digit of a float, also where the logarithm is nearly 0 and the + 0.5 shows. */
static void rng_normal__is_box_muller(void **state) {
    (void)state;
    enum { N = 40001 };
    static float whole[N], part[N];
    pb_rng_normal(77, 3, 0, N, whole);
    for (size_t i = 0; i < N; i++) {
        double a = pb_rng_word(77, 3, i & ~1ull), b = pb_rng_word(77, 3, i | 1);
        double radius = sqrt(-2 * log((a + 0.5) / 4294967296.0)), angle = 2 * acos(-1.0) * b / 4294967296.0;
        double wanted = i & 1 ? radius * sin(angle) : radius * cos(angle);
        assert_close((double)whole[i], wanted, 1.2e-7 * fabs(wanted));
    }
    for (size_t first = 0; first < 9; first++) {
        pb_rng_normal(77, 3, first, 41 - first, part);
        assert_memory_equal(part, whole + first, (41 - first) * sizeof(float));
    }
}

static void rng__moments(void **state) {
    (void)state;
    enum { N = 100000 };
    static float x[N];
    double mean = 0, square = 0, fourth = 0;
    pb_rng_normal(1, 2, 0, N, x);
    for (size_t i = 0; i < N; i++) {
        double v = (double)x[i];
        assert_true(isfinite(v));
        mean += v / N;
        square += v * v / N;
        fourth += v * v * v * v / N;
    }
    assert_close(mean, 0, 0.016); /* five standard errors each */
    assert_close(square, 1, 0.0224);
    assert_close(fourth, 3, 0.155);
    pb_rng_uniform(1, 2, 0, N, x);
    mean = 0;
    for (size_t i = 0; i < N; i++) {
        assert_true(x[i] >= 0 && x[i] < 1);
        mean += (double)x[i] / N;
    }
    assert_close(mean, 0.5, 0.0046);
}

static void rng__seed_and_draw_matter(void **state) {
    (void)state;
    float a[8], b[8];
    pb_rng_uniform(1, 0, 0, 8, a);
    pb_rng_uniform(2, 0, 0, 8, b);
    assert_memory_not_equal(a, b, sizeof a);
    pb_rng_uniform(1, 1, 0, 8, b);
    assert_memory_not_equal(a, b, sizeof a);
    pb_rng_uniform(1ull << 40, 0, 0, 8, b);
    assert_memory_not_equal(a, b, sizeof a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox__known_answers),
        cmocka_unit_test(rng_word__follows_the_layout_of_the_header),
        cmocka_unit_test(rng_uniform__any_window_gives_the_same_elements),
        cmocka_unit_test(rng_normal__is_box_muller),
        cmocka_unit_test(rng__moments),
        cmocka_unit_test(rng__seed_and_draw_matter),
    };
    return cmocka_run_group_tests_name("rng", tests, NULL, NULL);
}
