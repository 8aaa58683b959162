/* Stored number types: sizes, names, and widening to float32. Bytes may have any alignment. */
#include "patchbay/tensorio.h"

#include <assert.h>
#include <string.h>

size_t pb_stored_size(pb_stored type) {
    switch (type) {
    case PB_STORED_F64:
    case PB_STORED_I64:
        return 8;
    case PB_STORED_F32:
    case PB_STORED_I32:
        return 4;
    case PB_STORED_F16:
    case PB_STORED_BF16:
    case PB_STORED_I16:
        return 2;
    case PB_STORED_I8:
    case PB_STORED_U8:
    case PB_STORED_BOOL:
        return 1;
    case PB_STORED_OTHER:
        return 0;
    }
    return 0;
}

const char *pb_stored_name(pb_stored type) {
    switch (type) {
    case PB_STORED_F32:
        return "F32";
    case PB_STORED_F16:
        return "F16";
    case PB_STORED_BF16:
        return "BF16";
    case PB_STORED_F64:
        return "F64";
    case PB_STORED_I64:
        return "I64";
    case PB_STORED_I32:
        return "I32";
    case PB_STORED_I16:
        return "I16";
    case PB_STORED_I8:
        return "I8";
    case PB_STORED_U8:
        return "U8";
    case PB_STORED_BOOL:
        return "BOOL";
    case PB_STORED_OTHER:
        return "other";
    }
    return "other";
}

static uint32_t float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* All ones if the condition holds, else 0: choosing with it leaves no branch that would keep a loop from vectorising. */
static uint32_t mask_if(bool condition) { return 0u - (uint32_t)condition; }

/* The three cases of a half are all computed and one is chosen. Subnormals go through an
 * integer conversion: no step meets a float32 subnormal, so flush-to-zero modes change nothing. */
static uint32_t half_to_float_bits(uint32_t half) {
    uint32_t sign = (half & 0x8000u) << 16;
    uint32_t magnitude = half & 0x7fffu;
    uint32_t normal = (magnitude << 13) + ((127u - 15u) << 23);
    uint32_t subnormal = float_bits((float)(int32_t)magnitude * 0x1p-24f);
    uint32_t special = (magnitude << 13) | 0x7f800000u; /* infinity, NaN with its payload */
    uint32_t small = mask_if(magnitude < 0x400u), large = mask_if(magnitude >= 0x7c00u);
    return sign | (small & subnormal) | (large & special) | (~(small | large) & normal);
}

static void widen_half(const unsigned char *in, size_t count, float *out) {
#pragma omp simd
    for (size_t i = 0; i < count; i++) {
        uint16_t half;
        memcpy(&half, in + 2 * i, sizeof half);
        uint32_t bits = half_to_float_bits(half);
        memcpy(out + i, &bits, sizeof bits);
    }
}

static void widen_bfloat(const unsigned char *in, size_t count, float *out) {
#pragma omp simd
    for (size_t i = 0; i < count; i++) {
        uint16_t top;
        memcpy(&top, in + 2 * i, sizeof top);
        uint32_t bits = (uint32_t)top << 16;
        memcpy(out + i, &bits, sizeof bits);
    }
}

static void widen_double(const unsigned char *in, size_t count, float *out) {
    for (size_t i = 0; i < count; i++) {
        double value;
        memcpy(&value, in + 8 * i, sizeof value);
        out[i] = (float)value;
    }
}

void pb_widen(pb_stored type, const void *data, size_t first, size_t count, float *out) {
    const unsigned char *in = (const unsigned char *)data + first * pb_stored_size(type);
    assert(type == PB_STORED_F32 || type == PB_STORED_F16 || type == PB_STORED_BF16 || type == PB_STORED_F64);
    if (count == 0)
        return;
    switch (type) {
    case PB_STORED_F32:
        memcpy(out, in, count * sizeof *out);
        break;
    case PB_STORED_F16:
        widen_half(in, count, out);
        break;
    case PB_STORED_BF16:
        widen_bfloat(in, count, out);
        break;
    case PB_STORED_F64:
        widen_double(in, count, out);
        break;
    default:
        break;
    }
}
