/* Random numbers from a counter: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as
 * 1, 2, 3", SC 2011). A draw depends on (seed, draw, index) alone: not on the machine, the number of threads, or what
 * was drawn before.
 *
 * key = (low, high 32 bits of seed); counter = (low, high of index / 4, low, high of draw); word index % 4 of the output.
 * uniform: (word >> 8) * 2^-24, in [0, 1). normal: Box-Muller on words 0,1 -> elements 4i, 4i+1 and on words 2,3 ->
 * elements 4i+2, 4i+3: r = sqrt(-2 ln((a + 0.5) 2^-32)), angle = 2 pi b 2^-32, (r cos, r sin), in double, rounded to float. */
#ifndef PATCHBAY_RNG_H
#define PATCHBAY_RNG_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

void pb_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);
/* Elements first .. first + n - 1 of the draw. */
void pb_rng_uniform(uint64_t seed, uint64_t draw, uint64_t first, size_t n, float *out);
void pb_rng_normal(uint64_t seed, uint64_t draw, uint64_t first, size_t n, float *out);
/* One 32-bit word: element `index` of the draw. */
uint32_t pb_rng_word(uint64_t seed, uint64_t draw, uint64_t index);

#ifdef __cplusplus
}
#endif
#endif
