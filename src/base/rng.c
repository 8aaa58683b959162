/* Philox4x32-10 and the two distributions that rng.h writes down. Stateless. */
#include "patchbay/rng.h"

#include <math.h>

static const uint32_t MULTIPLIER_0 = 0xD2511F53u, MULTIPLIER_1 = 0xCD9E8D57u; /* of the rounds */
static const uint32_t WEYL_0 = 0x9E3779B9u, WEYL_1 = 0xBB67AE85u;             /* of the key schedule */
static const double TWO_PI = 6.283185307179586476925286766559;

void pb_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)MULTIPLIER_0 * c0;
        uint64_t p1 = (uint64_t)MULTIPLIER_1 * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        uint32_t n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += WEYL_0;
        k1 += WEYL_1;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* The four words of elements 4 * group .. 4 * group + 3. */
static void group_words(uint64_t seed, uint64_t draw, uint64_t group, uint32_t words[4]) {
    const uint32_t counter[4] = {(uint32_t)group, (uint32_t)(group >> 32), (uint32_t)draw, (uint32_t)(draw >> 32)};
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    pb_philox(counter, key, words);
}

uint32_t pb_rng_word(uint64_t seed, uint64_t draw, uint64_t index) {
    uint32_t words[4];
    group_words(seed, draw, index / 4, words);
    return words[index % 4];
}

static void uniform_group(const uint32_t words[4], float values[4]) {
    for (int i = 0; i < 4; i++)
        values[i] = (float)(words[i] >> 8) * 0x1p-24f;
}

static void normal_group(const uint32_t words[4], float values[4]) {
    for (int pair = 0; pair < 2; pair++) {
        double radius = sqrt(-2.0 * log(((double)words[2 * pair] + 0.5) * 0x1p-32));
        double angle = TWO_PI * (double)words[2 * pair + 1] * 0x1p-32;
        values[2 * pair] = (float)(radius * cos(angle));
        values[2 * pair + 1] = (float)(radius * sin(angle));
    }
}

static void fill(void (*group_values)(const uint32_t[4], float[4]), uint64_t seed, uint64_t draw, uint64_t first,
                 size_t n, float *out) {
    size_t done = 0;
    while (done < n) {
        uint64_t index = first + done;
        uint32_t words[4];
        float values[4];
        group_words(seed, draw, index / 4, words);
        group_values(words, values);
        for (size_t i = (size_t)(index % 4); i < 4 && done < n; i++)
            out[done++] = values[i];
    }
}

void pb_rng_uniform(uint64_t seed, uint64_t draw, uint64_t first, size_t n, float *out) {
    fill(uniform_group, seed, draw, first, n, out);
}

void pb_rng_normal(uint64_t seed, uint64_t draw, uint64_t first, size_t n, float *out) {
    fill(normal_group, seed, draw, first, n, out);
}
