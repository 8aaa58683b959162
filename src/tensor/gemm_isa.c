/* Inner parts of the product, compiled once per instruction set; see gemm_table.h for what they promise. */
#include "tensor/gemm_table.h"
#include "tensor/simd.h"

/* Accumulators fill the register file: 6 x 2 of 16 registers (AVX2), 12 x 2 of 32 (AVX-512, NEON). */
#if defined(__AVX512F__) || defined(__aarch64__)
enum { GROUP = 12 };
#elif defined(__AVX2__)
enum { GROUP = 6 };
#else
enum { GROUP = 4 };
#endif
enum { WIDTH = 2 * VL };

_Static_assert((int)WIDTH <= (int)PB_GEMM_WIDTH_MAX && (int)GROUP <= (int)PB_GEMM_ROWS_MAX,
               "gemm.c sizes its arrays by these");
_Static_assert((int)WIDTH % (int)TB == 0, "panels are transposed in whole blocks");

/* ---- packing ------------------------------------------------------------------------------------------------------ */

PB_INLINE void pack_rows_along(const float *x, int64_t row_step, int rows, int64_t depth, float *packed) {
    for (int64_t k = 0; k < depth; k++)
        for (int r = 0; r < rows; r++)
            packed[k * rows + r] = x[r * row_step + k];
}

static void pack_rows(const float *x, int64_t row_step, int64_t depth_step, int rows, int64_t depth, float *packed) {
    if (depth_step != 1) {
        for (int64_t k = 0; k < depth; k++)
            for (int r = 0; r < rows; r++)
                packed[k * rows + r] = x[r * row_step + k * depth_step];
    } else if (rows == 1) {
        memcpy(packed, x, (size_t)depth * sizeof *x);
    } else if (rows == GROUP) {
        pack_rows_along(x, row_step, GROUP, depth, packed);
    } else {
        pack_rows_along(x, row_step, rows, depth, packed);
    }
}

PB_INLINE float widen_one(pb_stored type, const char *p) {
    if (type == PB_STORED_F32) {
        float value;
        memcpy(&value, p, sizeof value);
        return value;
    }
    uint16_t raw;
    memcpy(&raw, p, sizeof raw);
    if (type == PB_STORED_BF16) {
        uint32_t bits = (uint32_t)raw << 16;
        float value;
        memcpy(&value, &bits, sizeof value);
        return value;
    }
#if defined(__AVX2__)
    return _cvtsh_ss(raw);
#else
    return half_to_float(raw);
#endif
}

PB_INLINE tb_row load_block(pb_stored type, const char *p) {
    return type == PB_STORED_F32 ? tb_load_f32(p) : type == PB_STORED_BF16 ? tb_load_bf16(p) : tb_load_f16(p);
}

PB_INLINE void pack_columns_typed(pb_stored type, const void *const *columns, int n, int64_t depth, float *packed) {
    const int64_t size = type == PB_STORED_F32 ? 4 : 2;
    int64_t whole = depth - depth % TB;
    int j0 = 0;
    for (; j0 + TB <= n; j0 += TB) {
        const char *column[TB];
        for (int j = 0; j < TB; j++)
            column[j] = columns[j0 + j];
        for (int64_t k = 0; k < whole; k += TB) {
            tb_row block[TB];
            PB_UNROLL
            for (int j = 0; j < TB; j++)
                block[j] = load_block(type, column[j] + k * size);
            tb_transpose(block);
            PB_UNROLL
            for (int j = 0; j < TB; j++)
                tb_store(packed + (k + j) * WIDTH + j0, block[j]);
        }
        for (int64_t k = whole; k < depth; k++)
            for (int j = 0; j < TB; j++)
                packed[k * WIDTH + j0 + j] = widen_one(type, column[j] + k * size);
    }
    for (int j = j0; j < WIDTH; j++)
        for (int64_t k = 0; k < depth; k++)
            packed[k * WIDTH + j] = j < n ? widen_one(type, (const char *)columns[j] + k * size) : 0.0f;
}

static void pack_columns(pb_stored type, const void *const *columns, int n, int64_t depth, float *packed) {
    if (type == PB_STORED_F32)
        pack_columns_typed(PB_STORED_F32, columns, n, depth, packed);
    else if (type == PB_STORED_BF16)
        pack_columns_typed(PB_STORED_BF16, columns, n, depth, packed);
    else
        pack_columns_typed(PB_STORED_F16, columns, n, depth, packed);
}

PB_INLINE void pack_lines_typed(pb_stored type, const void *const *rows, int64_t depth, int64_t n, float *packed,
                                int64_t panel_step) {
    const int64_t size = type == PB_STORED_F32 ? 4 : 2;
    const int64_t line = n * size;
    for (int64_t k = 0; k < depth; k++) {
        const char *row = rows[k];
        /* Rows of a stored matrix are pages apart; without a hint each begins with a miss. */
        if (k + 8 < depth)
            for (int64_t byte = 0; byte < line; byte += 64)
                __builtin_prefetch((const char *)rows[k + 8] + byte);
        float *to = packed + k * WIDTH;
        int64_t o = 0;
        for (; o + WIDTH <= n; o += WIDTH, to += panel_step)
            PB_UNROLL
        for (int j = 0; j < WIDTH; j += TB)
            tb_store(to + j, load_block(type, row + (o + j) * size));
        if (o < n)
            for (int j = 0; j < WIDTH; j++)
                to[j] = o + j < n ? widen_one(type, row + (o + j) * size) : 0.0f;
    }
}

static void pack_lines(pb_stored type, const void *const *rows, int64_t depth, int64_t n, float *packed,
                       int64_t panel_step) {
    if (type == PB_STORED_F32)
        pack_lines_typed(PB_STORED_F32, rows, depth, n, packed, panel_step);
    else if (type == PB_STORED_BF16)
        pack_lines_typed(PB_STORED_BF16, rows, depth, n, packed, panel_step);
    else
        pack_lines_typed(PB_STORED_F16, rows, depth, n, packed, panel_step);
}

/* ---- multiplying --------------------------------------------------------------------------------------------------- */

/* A panel that is not whole: from the accumulators by way of a row on the stack. */
PB_INLINE void store_part(const vf sums[2], float *y, int n, bool add, const float *bias) {
    float row[WIDTH];
    vstore(row, sums[0]);
    vstore(row + VL, sums[1]);
    for (int j = 0; j < n; j++) {
        float value = add ? y[j] + row[j] : row[j];
        y[j] = bias ? value + bias[j] : value;
    }
}

PB_INLINE void store_whole(const vf sums[2], float *y, bool add, const float *bias) {
    vf low = sums[0], high = sums[1];
    if (add) {
        low = vload(y) + low;
        high = vload(y + VL) + high;
    }
    if (bias) {
        low = low + vload(bias);
        high = high + vload(bias + VL);
    }
    vstore(y, low);
    vstore(y + VL, high);
}

PB_INLINE void multiply_group(const float *a, const int rows, const float *b, int64_t depth, float *y, int64_t ldy,
                              int n, bool add, const float *bias) {
    vf sums[GROUP][2];
    PB_UNROLL
    for (int r = 0; r < rows; r++)
        sums[r][0] = sums[r][1] = vset1(0.0f);
    for (int64_t k = 0; k < depth; k++, a += rows, b += WIDTH) {
        vf low = vload(b), high = vload(b + VL);
        PB_UNROLL
        for (int r = 0; r < rows; r++) {
            vf x = vset1(a[r]);
            sums[r][0] = vfma(x, low, sums[r][0]);
            sums[r][1] = vfma(x, high, sums[r][1]);
        }
    }
    PB_UNROLL
    for (int r = 0; r < rows; r++) {
        if (n == WIDTH)
            store_whole(sums[r], y + r * ldy, add, bias);
        else
            store_part(sums[r], y + r * ldy, n, add, bias);
    }
}

static void multiply(const float *rows_packed, int rows, const float *panel, int64_t depth, float *y, int64_t ldy,
                     int n, bool add, const float *bias) {
#define ROWS(count)                                                                                                    \
    case count:                                                                                                        \
        multiply_group(rows_packed, count, panel, depth, y, ldy, n, add, bias);                                        \
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

extern const pb_gemm_table PB_TABLE(pb_gemm_);
const pb_gemm_table PB_TABLE(pb_gemm_) = {
    .name = PB_STRING(PB_ISA),
    .group = GROUP,
    .width = WIDTH,
    .pack_rows = pack_rows,
    .pack_columns = pack_columns,
    .pack_lines = pack_lines,
    .multiply = multiply,
};
