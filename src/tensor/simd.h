/* Vectors for the files that are compiled once per instruction set (the *_isa.c files): the compilers' vector
 * extensions plus the few operations that those lack (fused multiply-add, shuffles for transposing).
 *
 * VL floats make a vector: 16 with AVX-512, 8 with AVX2, 4 elsewhere. Everything here is inlined, so that no function
 * compiled for a newer instruction set can be linked into code that runs on an older one. Multiply-adds are fused only
 * where the code says vfma (the compiler is told not to contract), so an expression has the same bits wherever it is
 * inlined. */
#ifndef PB_TENSOR_SIMD_H
#define PB_TENSOR_SIMD_H

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define PB_INLINE static inline __attribute__((always_inline, unused))

/* Complete unrolling of loops with constant bounds, which keeps small arrays of vectors in registers. */
#if defined(__clang__)
#define PB_UNROLL _Pragma("clang loop unroll(full)")
#else
#define PB_UNROLL _Pragma("GCC unroll 32")
#endif

/* Names of the tables that each compilation defines: PB_ISA is given by the Makefile. */
#define PB_PASTE2(a, b)  a##b
#define PB_PASTE(a, b)   PB_PASTE2(a, b)
#define PB_STRING2(a)    #a
#define PB_STRING(a)     PB_STRING2(a)
#define PB_TABLE(prefix) PB_PASTE(prefix, PB_ISA)

#if defined(__AVX512F__)
enum { VL = 16 };
#elif defined(__AVX2__)
enum { VL = 8 };
#else
enum { VL = 4 };
#endif

typedef float vf __attribute__((vector_size(VL * 4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
typedef float vf_unaligned __attribute__((vector_size(VL * 4), aligned(1), may_alias));
/* Half as many, for arithmetic in double. */
typedef float vh __attribute__((vector_size(VL * 2)));
typedef float vh_unaligned __attribute__((vector_size(VL * 2), aligned(1), may_alias));
typedef double vd __attribute__((vector_size(VL * 4)));

PB_INLINE vf vload(const void *p) { return *(const vf_unaligned *)p; }

PB_INLINE void vstore(void *p, vf v) { *(vf_unaligned *)p = v; }

PB_INLINE vd vload_double(const float *p) {
    return __builtin_convertvector(*(const vh_unaligned *)(const void *)p, vd);
}

PB_INLINE vd vlow_double(vf v) {
#if defined(__AVX512F__)
    return __builtin_convertvector(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7), vd);
#elif defined(__AVX2__)
    return __builtin_convertvector(__builtin_shufflevector(v, v, 0, 1, 2, 3), vd);
#else
    return __builtin_convertvector(__builtin_shufflevector(v, v, 0, 1), vd);
#endif
}

PB_INLINE vd vhigh_double(vf v) {
#if defined(__AVX512F__)
    return __builtin_convertvector(__builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15), vd);
#elif defined(__AVX2__)
    return __builtin_convertvector(__builtin_shufflevector(v, v, 4, 5, 6, 7), vd);
#else
    return __builtin_convertvector(__builtin_shufflevector(v, v, 2, 3), vd);
#endif
}

PB_INLINE vf vset1(float x) {
#if defined(__AVX512F__)
    return (vf)_mm512_set1_ps(x);
#elif defined(__AVX2__)
    return (vf)_mm256_set1_ps(x);
#else
    return (vf){x, x, x, x};
#endif
}

/* The first n < VL elements; the others are `fill`, and their memory is not touched. */
#if defined(__AVX512F__)
PB_INLINE vf vload_part(const float *p, int64_t n, float fill) {
    return (vf)_mm512_mask_loadu_ps(_mm512_set1_ps(fill), (__mmask16)((1u << n) - 1), p);
}

PB_INLINE void vstore_part(float *p, int64_t n, vf v) {
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
}
#elif defined(__AVX2__)
PB_INLINE __m256i vmask_of(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

PB_INLINE vf vload_part(const float *p, int64_t n, float fill) {
    const __m256i mask = vmask_of(n);
    return (vf)_mm256_blendv_ps(_mm256_set1_ps(fill), _mm256_maskload_ps(p, mask), _mm256_castsi256_ps(mask));
}

PB_INLINE void vstore_part(float *p, int64_t n, vf v) { _mm256_maskstore_ps(p, vmask_of(n), (__m256)v); }
#else
PB_INLINE vf vload_part(const float *p, int64_t n, float fill) {
    return (vf){n > 0 ? p[0] : fill, n > 1 ? p[1] : fill, n > 2 ? p[2] : fill, fill};
}

PB_INLINE void vstore_part(float *p, int64_t n, vf v) {
    for (int i = 0; i < 3 && i < n; i++)
        p[i] = v[i];
}
#endif

/* a * b + c; rounded once where the instruction set has it (not in baseline x86-64). */
PB_INLINE vf vfma(vf a, vf b, vf c) {
#if defined(__AVX512F__)
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__ARM_NEON) && defined(__ARM_FEATURE_FMA)
    return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

PB_INLINE vf vselect(vi mask, vf yes, vf no) {
#if defined(__AVX2__) && !defined(__AVX512F__)
    return (vf)_mm256_blendv_ps((__m256)no, (__m256)yes, (__m256)mask);
#else
    return (vf)((mask & (vi)yes) | (~mask & (vi)no));
#endif
}

/* The smaller, the larger of x and limit; x where it is NaN (limit is not). */
PB_INLINE vf vat_most(vf x, vf limit) {
#if defined(__AVX512F__)
    return (vf)_mm512_min_ps((__m512)limit, (__m512)x);
#elif defined(__AVX2__)
    return (vf)_mm256_min_ps((__m256)limit, (__m256)x);
#elif defined(__x86_64__)
    return (vf)_mm_min_ps((__m128)limit, (__m128)x);
#else
    return vselect(limit < x, limit, x);
#endif
}

PB_INLINE vf vat_least(vf x, vf limit) {
#if defined(__AVX512F__)
    return (vf)_mm512_max_ps((__m512)limit, (__m512)x);
#elif defined(__AVX2__)
    return (vf)_mm256_max_ps((__m256)limit, (__m256)x);
#elif defined(__x86_64__)
    return (vf)_mm_max_ps((__m128)limit, (__m128)x);
#else
    return vselect(limit > x, limit, x);
#endif
}

PB_INLINE vf vabs(vf x) { return (vf)((vi)x & INT32_C(0x7fffffff)); }

PB_INLINE vf vcopysign(vf magnitude, vf sign) {
    return (vf)(((vi)magnitude & INT32_C(0x7fffffff)) | ((vi)sign & INT32_MIN));
}

/* The lanes from 1, 2, 4, 8 on in the place of as many first ones. */
PB_INLINE vf vfold1(vf v) {
#if defined(__AVX512F__)
    return __builtin_shufflevector(v, v, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#elif defined(__AVX2__)
    return __builtin_shufflevector(v, v, 1, 1, 2, 3, 4, 5, 6, 7);
#else
    return __builtin_shufflevector(v, v, 1, 1, 2, 3);
#endif
}

PB_INLINE vf vfold2(vf v) {
#if defined(__AVX512F__)
    return __builtin_shufflevector(v, v, 2, 3, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#elif defined(__AVX2__)
    return __builtin_shufflevector(v, v, 2, 3, 2, 3, 4, 5, 6, 7);
#else
    return __builtin_shufflevector(v, v, 2, 3, 2, 3);
#endif
}

#if defined(__AVX2__)
PB_INLINE vf vfold4(vf v) {
#if defined(__AVX512F__)
    return __builtin_shufflevector(v, v, 4, 5, 6, 7, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#else
    return __builtin_shufflevector(v, v, 4, 5, 6, 7, 4, 5, 6, 7);
#endif
}
#endif

#if defined(__AVX512F__)
PB_INLINE vf vfold8(vf v) {
    return __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15);
}
#endif

/* Sums and maxima over lanes: halves are folded onto each other, in this fixed order. */
PB_INLINE float vsum(vf v) {
#if defined(__AVX512F__)
    v += vfold8(v);
#endif
#if defined(__AVX2__)
    v += vfold4(v);
#endif
    v += vfold2(v);
    v += vfold1(v);
    return v[0];
}

PB_INLINE float vmaximum(vf v) {
#if defined(__AVX512F__)
    v = vat_least(v, vfold8(v));
#endif
#if defined(__AVX2__)
    v = vat_least(v, vfold4(v));
#endif
    v = vat_least(v, vfold2(v));
    v = vat_least(v, vfold1(v));
    return v[0];
}

PB_INLINE double vsum_double(vd v) {
    double sum = 0;
    for (int i = 0; i < VL / 2; i++)
        sum += v[i];
    return sum;
}

/* Four-by-four or eight-by-eight transposing, for packing. TB rows of TB floats. */
#if defined(__AVX2__)
enum { TB = 8 };
typedef __m256 tb_row;

PB_INLINE tb_row tb_load_f32(const void *p) { return _mm256_loadu_ps(p); }

PB_INLINE tb_row tb_load_bf16(const void *p) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

PB_INLINE tb_row tb_load_f16(const void *p) { return _mm256_cvtph_ps(_mm_loadu_si128(p)); }

PB_INLINE void tb_store(float *p, tb_row v) { _mm256_storeu_ps(p, v); }

PB_INLINE tb_row tb_set1(float x) { return _mm256_set1_ps(x); }

PB_INLINE tb_row tb_fma(tb_row a, tb_row b, tb_row c) { return _mm256_fmadd_ps(a, b, c); }

PB_INLINE void tb_transpose(tb_row r[TB]) {
    __m256 a0 = _mm256_unpacklo_ps(r[0], r[1]), a1 = _mm256_unpackhi_ps(r[0], r[1]);
    __m256 a2 = _mm256_unpacklo_ps(r[2], r[3]), a3 = _mm256_unpackhi_ps(r[2], r[3]);
    __m256 a4 = _mm256_unpacklo_ps(r[4], r[5]), a5 = _mm256_unpackhi_ps(r[4], r[5]);
    __m256 a6 = _mm256_unpacklo_ps(r[6], r[7]), a7 = _mm256_unpackhi_ps(r[6], r[7]);
    __m256 b0 = _mm256_shuffle_ps(a0, a2, 0x44), b1 = _mm256_shuffle_ps(a0, a2, 0xee);
    __m256 b2 = _mm256_shuffle_ps(a1, a3, 0x44), b3 = _mm256_shuffle_ps(a1, a3, 0xee);
    __m256 b4 = _mm256_shuffle_ps(a4, a6, 0x44), b5 = _mm256_shuffle_ps(a4, a6, 0xee);
    __m256 b6 = _mm256_shuffle_ps(a5, a7, 0x44), b7 = _mm256_shuffle_ps(a5, a7, 0xee);
    r[0] = _mm256_permute2f128_ps(b0, b4, 0x20);
    r[1] = _mm256_permute2f128_ps(b1, b5, 0x20);
    r[2] = _mm256_permute2f128_ps(b2, b6, 0x20);
    r[3] = _mm256_permute2f128_ps(b3, b7, 0x20);
    r[4] = _mm256_permute2f128_ps(b0, b4, 0x31);
    r[5] = _mm256_permute2f128_ps(b1, b5, 0x31);
    r[6] = _mm256_permute2f128_ps(b2, b6, 0x31);
    r[7] = _mm256_permute2f128_ps(b3, b7, 0x31);
}
#else
enum { TB = 4 };
typedef vf tb_row;

PB_INLINE tb_row tb_load_f32(const void *p) { return vload(p); }

PB_INLINE tb_row tb_load_bf16(const void *p) {
    uint16_t raw[4];
    memcpy(raw, p, sizeof raw);
    uint32_t wide[4];
    for (int i = 0; i < 4; i++)
        wide[i] = (uint32_t)raw[i] << 16;
    return vload(wide);
}

/* Half precision without hardware: shift exponent and fraction into place, scale by 2^112; inf and NaN apart. */
PB_INLINE float half_to_float(uint16_t h) {
    uint32_t bits = (uint32_t)(h & 0x7fff) << 13;
    float value;
    memcpy(&value, &bits, sizeof value);
    value *= 0x1p112f;
    memcpy(&bits, &value, sizeof value);
    if ((h & 0x7c00) == 0x7c00)
        bits = 0x7f800000u | (uint32_t)(h & 0x3ff) << 13;
    bits |= (uint32_t)(h & 0x8000) << 16;
    memcpy(&value, &bits, sizeof value);
    return value;
}

PB_INLINE tb_row tb_load_f16(const void *p) {
    uint16_t raw[4];
    memcpy(raw, p, sizeof raw);
    return (vf){half_to_float(raw[0]), half_to_float(raw[1]), half_to_float(raw[2]), half_to_float(raw[3])};
}

PB_INLINE void tb_store(float *p, tb_row v) { vstore(p, v); }

PB_INLINE tb_row tb_set1(float x) { return vset1(x); }

PB_INLINE tb_row tb_fma(tb_row a, tb_row b, tb_row c) { return vfma(a, b, c); }

PB_INLINE void tb_transpose(tb_row r[TB]) {
    vf a = r[0], b = r[1], c = r[2], d = r[3];
    r[0] = (vf){a[0], b[0], c[0], d[0]};
    r[1] = (vf){a[1], b[1], c[1], d[1]};
    r[2] = (vf){a[2], b[2], c[2], d[2]};
    r[3] = (vf){a[3], b[3], c[3], d[3]};
}
#endif

#endif
