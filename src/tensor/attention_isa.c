/* Inner parts of attention, compiled once per instruction set. A score is one accumulator that runs over d in order; a
 * mixed value is one accumulator that runs over keys in order: neither depends on the rows or keys beside it. */
#include "tensor/kernel_table.h"
#include "tensor/vecmath.h"

#if defined(__AVX512F__) || defined(__aarch64__)
enum { GROUP = 12, MIX_ROWS = 6 };
#elif defined(__AVX2__)
enum { GROUP = 6, MIX_ROWS = 3 };
#else
enum { GROUP = 4, MIX_ROWS = 2 };
#endif
enum { WIDTH = 2 * VL };

/* ---- scores ---------------------------------------------------------------------------------------------------------- */

PB_INLINE void dots_of(const float *const *q, const int rows, int64_t d, const float *panels, int64_t n_panels,
                       float *s, int64_t ld) {
    for (int64_t p = 0; p < n_panels; p++, s += WIDTH) {
        vf sums[GROUP][2];
        PB_UNROLL
        for (int r = 0; r < rows; r++)
            sums[r][0] = sums[r][1] = vset1(0.0f);
        for (int64_t i = 0; i < d; i++, panels += WIDTH) {
            vf low = vload(panels), high = vload(panels + VL);
            PB_UNROLL
            for (int r = 0; r < rows; r++) {
                vf x = vset1(q[r][i]);
                sums[r][0] = vfma(x, low, sums[r][0]);
                sums[r][1] = vfma(x, high, sums[r][1]);
            }
        }
        PB_UNROLL
        for (int r = 0; r < rows; r++) {
            vstore(s + r * ld, sums[r][0]);
            vstore(s + r * ld + VL, sums[r][1]);
        }
    }
}

static void dots(const float *const *q, int rows, int64_t d, const float *panels, int64_t n_panels, float *s,
                 int64_t ld) {
#define ROWS(count)                                                                                                    \
    case count:                                                                                                        \
        dots_of(q, count, d, panels, n_panels, s, ld);                                                                 \
        break
    switch (rows) {
        ROWS(1);
        ROWS(2);
        ROWS(3);
        ROWS(4);
#if defined(__AVX2__) || defined(__aarch64__)
        ROWS(5);
        ROWS(6);
#endif
#if defined(__AVX512F__) || defined(__aarch64__)
        ROWS(7);
        ROWS(8);
        ROWS(9);
        ROWS(10);
        ROWS(11);
        ROWS(12);
#endif
    }
#undef ROWS
}

/* Round to nearest even, as the conversion to bfloat16 does; positions times slopes are never NaN. */
PB_INLINE vf round_to_bf16(vf x) {
    vi bits = (vi)x;
    return (vf)((bits + 0x7fff + ((bits >> 16) & 1)) & INT32_C(-65536));
}

static void finish(const pb_attention_head *head, int64_t first, float *s, int64_t n) {
    const vf scale = vset1(head->scale), slope = vset1(head->alibi), cap = vset1(head->softcap);
    float counting[VL];
    for (int i = 0; i < VL; i++)
        counting[i] = (float)i;

    for (int64_t i = 0; i < n; i += VL) {
        const int64_t lanes = n - i < VL ? n - i : VL;
        vf x = lanes == VL ? vload(s + i) : vload_part(s + i, lanes, 0.0f);
        const vf key = vload(counting) + vset1((float)(first + i));
        vf bias = slope * key;
        if (head->alibi_bf16) /* torch rounds both factors before it multiplies: positions from 257 on change too */
            x = (x + round_to_bf16(slope * round_to_bf16(key))) * scale;
        else
            x = x * scale;
        if (head->softcap != 0)
            x = cap * vtanh(x / cap);
        if (head->alibi != 0 && !head->alibi_bf16)
            x = x + bias;
        if (lanes == VL)
            vstore(s + i, x);
        else
            vstore_part(s + i, lanes, x);
    }
}

/* ---- mixing values --------------------------------------------------------------------------------------------------- */

/* rows x vectors accumulators: the part [at, at + vectors * VL) of z. */
PB_INLINE void mix_part(const float *const *weights, const int rows, const int vectors, const float *const *values,
                        int64_t begin, int64_t end, int64_t at, float *const *z) {
    vf sums[MIX_ROWS][8];
    PB_UNROLL
    for (int r = 0; r < rows; r++) {
        PB_UNROLL
        for (int v = 0; v < vectors; v++)
            sums[r][v] = vload(z[r] + at + v * VL);
    }
    for (int64_t key = begin; key < end; key++) {
        const float *value = values[key] + at;
        vf weight[MIX_ROWS];
        PB_UNROLL
        for (int r = 0; r < rows; r++)
            weight[r] = vset1(weights[r][key]);
        PB_UNROLL
        for (int v = 0; v < vectors; v++) {
            vf x = vload(value + v * VL);
            PB_UNROLL
            for (int r = 0; r < rows; r++)
                sums[r][v] = vfma(weight[r], x, sums[r][v]);
        }
    }
    PB_UNROLL
    for (int r = 0; r < rows; r++) {
        PB_UNROLL
        for (int v = 0; v < vectors; v++)
            vstore(z[r] + at + v * VL, sums[r][v]);
    }
}

/* The last d % VL of a vector. */
PB_INLINE void mix_end(const float *const *weights, const int rows, const float *const *values, int64_t begin,
                       int64_t end, int64_t at, int64_t lanes, float *const *z) {
    for (int r = 0; r < rows; r++) {
        vf sum = vload_part(z[r] + at, lanes, 0.0f);
        for (int64_t key = begin; key < end; key++)
            sum = vfma(vset1(weights[r][key]), vload_part(values[key] + at, lanes, 0.0f), sum);
        vstore_part(z[r] + at, lanes, sum);
    }
}

PB_INLINE void mix_rows(const float *const *weights, const int rows, const float *const *values, int64_t begin,
                        int64_t end, int64_t d, float *const *z) {
    int64_t at = 0;
    if (rows == 1)
        for (; at + 8 * VL <= d; at += 8 * VL)
            mix_part(weights, rows, 8, values, begin, end, at, z);
    for (; at + 4 * VL <= d; at += 4 * VL)
        mix_part(weights, rows, 4, values, begin, end, at, z);
    if (at + 2 * VL <= d) {
        mix_part(weights, rows, 2, values, begin, end, at, z);
        at += 2 * VL;
    }
    if (at + VL <= d) {
        mix_part(weights, rows, 1, values, begin, end, at, z);
        at += VL;
    }
    if (at < d)
        mix_end(weights, rows, values, begin, end, at, d - at, z);
}

static void mix(const float *const *weights, int rows, const float *const *values, int64_t begin, int64_t end,
                int64_t d, float *const *z) {
    int done = 0;
    for (; done + MIX_ROWS <= rows; done += MIX_ROWS)
        mix_rows(weights + done, MIX_ROWS, values, begin, end, d, z + done);
    for (; done + 2 <= rows; done += 2)
        mix_rows(weights + done, 2, values, begin, end, d, z + done);
    if (done < rows)
        mix_rows(weights + done, 1, values, begin, end, d, z + done);
}

extern const pb_attention_table PB_TABLE(pb_attention_);
const pb_attention_table PB_TABLE(pb_attention_) = {
    .group = GROUP,
    .width = WIDTH,
    .dots = dots,
    .finish = finish,
    .mix = mix,
};
