/* Float32 to the narrower stored types, to nearest, ties to even: what other programs write too. */
#include <math.h>
#include <string.h>

#include "patchbay/tensorio.h"

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static uint16_t to_bf16(float x) {
    uint32_t bits = bits_of(x);
    if (isnan(x))
        return (uint16_t)(bits >> 16 | 0x40u); /* quiet, whatever its low bits */
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

static uint16_t to_f16(float x) {
    uint32_t bits = bits_of(x), magnitude = bits & 0x7fffffffu;
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    if (magnitude > 0x7f800000u) /* NaN */
        return (uint16_t)(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude >= 0x38800000u) { /* 2^-14: normal */
        uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
        return (uint16_t)(sign | (rounded - 0x38000000u) >> 13);
    }
    /* Subnormal: a whole number of 2^-24; the product is exact, and rint rounds ties to even. */
    float small;
    memcpy(&small, &magnitude, sizeof small);
    return (uint16_t)(sign | (uint16_t)rintf(small * 16777216.0f));
}

size_t pb_narrow(pb_stored type, const float *in, size_t count, void *out) {
    size_t lost = 0;
    if (type == PB_STORED_F32) {
        memcpy(out, in, count * sizeof *in);
        return 0;
    }
    uint16_t *to = out, infinity = type == PB_STORED_F16 ? 0x7c00u : 0x7f80u;
    for (size_t i = 0; i < count; i++) {
        to[i] = type == PB_STORED_F16 ? to_f16(in[i]) : to_bf16(in[i]);
        lost += (to[i] & 0x7fffu) == infinity && !isinf(in[i]);
    }
    return lost;
}
