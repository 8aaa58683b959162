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

/* Blocks of TB inputs are transposed, last rows first: they also write into the place of following inputs' first rows,
 * whose turn comes after. The last inputs, where that would be beyond the end, are done one by one. */
PB_INLINE void pack_rows_along(const float *x, int64_t row_step, int rows, int64_t depth, float *packed) {
    const int64_t whole = depth > TB ? (depth - TB) / TB * TB : 0;
    for (int64_t k = 0; k < whole; k += TB)
        for (int r = (rows - 1) / TB * TB; r >= 0; r -= TB) {
            tb_row block[TB];
            PB_UNROLL
            for (int j = 0; j < TB; j++)
                block[j] = tb_load_f32(x + (r + j < rows ? r + j : rows - 1) * row_step + k);
            tb_transpose(block);
            PB_UNROLL
            for (int j = 0; j < TB; j++)
                tb_store(packed + (k + j) * rows + r, block[j]);
        }
    for (int64_t k = whole; k < depth; k++)
        for (int r = 0; r < rows; r++)
            packed[k * rows + r] = x[r * row_step + k];
}

/* Rows that lie side by side (products with X transposed): a group of them is a piece of each of X's lines. Whole
 * vectors are copied; what they take beyond the group is overwritten by the next input's piece, and the last inputs,
 * where that would be read or written beyond the end, are done one by one. */
PB_INLINE void pack_rows_across(const float *x, int64_t depth_step, int rows, int64_t depth, float *packed) {
    enum { SPAN = (GROUP + VL - 1) / VL * VL };
    const int64_t beyond = (SPAN + rows - 1) / rows; /* inputs whose copies may reach past the end */
    const int64_t whole = depth_step >= SPAN && depth > beyond ? depth - beyond : 0;
    for (int64_t k = 0; k < whole; k++) {
        const float *piece = x + k * depth_step;
        __builtin_prefetch(piece + 8 * depth_step);
        PB_UNROLL
        for (int r = 0; r < SPAN; r += VL)
            vstore(packed + k * rows + r, vload(piece + r));
    }
    for (int64_t k = whole; k < depth; k++)
        for (int r = 0; r < rows; r++)
            packed[k * rows + r] = x[r + k * depth_step];
}

static void pack_rows(const float *x, int64_t row_step, int64_t depth_step, int rows, int64_t depth, float *packed) {
    if (rows == 1 && depth_step == 1)
        memcpy(packed, x, (size_t)depth * sizeof *x);
    else if (depth_step == 1)
        pack_rows_along(x, row_step, rows, depth, packed);
    else if (row_step == 1)
        pack_rows_across(x, depth_step, rows, depth, packed);
    else
        for (int64_t k = 0; k < depth; k++)
            for (int r = 0; r < rows; r++)
                packed[k * rows + r] = x[r * row_step + k * depth_step];
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

/* Hints for the first byte of every line of `bytes` bytes. */
PB_INLINE void prefetch(const void *p, int64_t bytes) {
    for (int64_t byte = 0; byte < bytes; byte += 64)
        __builtin_prefetch((const char *)p + byte);
}

/* TB elements of TB columns from element k on, as TB rows. */
PB_INLINE void load_transposed(pb_stored type, const char *const column[TB], int64_t k, tb_row block[TB]) {
    const int64_t size = type == PB_STORED_F32 ? 4 : 2;
    PB_UNROLL
    for (int j = 0; j < TB; j++)
        block[j] = load_block(type, column[j] + k * size);
    tb_transpose(block);
}

/* Element k of TB columns. */
PB_INLINE tb_row load_across(pb_stored type, const char *const column[TB], int64_t k) {
    const int64_t size = type == PB_STORED_F32 ? 4 : 2;
    float lanes[TB];
    for (int j = 0; j < TB; j++)
        lanes[j] = widen_one(type, column[j] + k * size);
    return tb_load_f32(lanes);
}

/* Columns j .. j + TB - 1 of n; the last one again in the place of those that there are not. */
PB_INLINE void column_group(const void *const *columns, int j, int n, const char *group[TB]) {
    for (int i = 0; i < TB; i++)
        group[i] = columns[j + i < n ? j + i : n - 1];
}

PB_INLINE void pack_columns_typed(pb_stored type, const void *const *columns, const void *const *ahead, int n,
                                  int64_t depth, float *packed) {
    const int64_t size = type == PB_STORED_F32 ? 4 : 2;
    const int64_t whole = depth - depth % TB;
    for (int j0 = 0; j0 < WIDTH; j0 += TB) {
        const char *column[TB], *next[TB];
        column_group(columns, j0, n, column);
        column_group(ahead, j0, n, next);
        for (int64_t k = 0; k < whole; k += TB) {
            tb_row block[TB];
            if (k * size % 64 == 0)
                for (int j = 0; j < TB; j++)
                    __builtin_prefetch(next[j] + k * size);
            load_transposed(type, column, k, block);
            PB_UNROLL
            for (int j = 0; j < TB; j++)
                tb_store(packed + (k + j) * WIDTH + j0, block[j]);
        }
        for (int64_t k = whole; k < depth; k++)
            tb_store(packed + k * WIDTH + j0, load_across(type, column, k));
    }
}

static void pack_columns(pb_stored type, const void *const *columns, const void *const *ahead, int n, int64_t depth,
                         float *packed) {
    if (type == PB_STORED_F32)
        pack_columns_typed(PB_STORED_F32, columns, ahead, n, depth, packed);
    else if (type == PB_STORED_BF16)
        pack_columns_typed(PB_STORED_BF16, columns, ahead, n, depth, packed);
    else
        pack_columns_typed(PB_STORED_F16, columns, ahead, n, depth, packed);
}

PB_INLINE void pack_lines_typed(pb_stored type, const void *const *rows, int64_t depth, int64_t n, float *packed,
                                int64_t panel_step) {
    const int64_t size = type == PB_STORED_F32 ? 4 : 2;
    const int64_t line = n * size;
    for (int64_t k = 0; k < depth; k++) {
        const char *row = rows[k];
        /* Rows of a stored matrix are pages apart; without a hint each begins with a miss. */
        if (k + 8 < depth)
            prefetch(rows[k + 8], line);
        float *to = packed + k * WIDTH;
        int64_t o = 0;
        for (; o + WIDTH <= n; o += WIDTH, to += panel_step) {
            PB_UNROLL
            for (int j = 0; j < WIDTH; j += TB)
                tb_store(to + j, load_block(type, row + (o + j) * size));
        }
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
    for (int r = 0; r < rows; r++) {
        __builtin_prefetch(y + r * ldy, 1); /* lies a row of Y apart, and is wanted last */
        __builtin_prefetch(y + r * ldy + n - 1, 1);
        sums[r][0] = sums[r][1] = vset1(0.0f);
    }
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

/* ---- few rows: straight from the stored weights -------------------------------------------------------------------- */

PB_INLINE void store_few(const float *sums, float *y, int64_t n, bool add, const float *bias) {
    for (int64_t j = 0; j < n; j++) {
        float value = add ? y[j] + sums[j] : sums[j];
        y[j] = bias ? value + bias[j] : value;
    }
}

PB_INLINE void few_columns_of(pb_stored type, const int rows, const void *const *columns, const void *const *ahead,
                              int n, int64_t depth, const float *x, int64_t row_step, float *y, int64_t ldy, bool add,
                              const float *bias) {
    enum { GROUPS = (int)WIDTH / (int)TB };
    const int64_t size = type == PB_STORED_F32 ? 4 : 2;
    const char *column[GROUPS][TB], *next[GROUPS][TB];
    for (int g = 0; g < GROUPS; g++) {
        column_group(columns, g * TB, n, column[g]);
        column_group(ahead, g * TB, n, next[g]);
    }

    for (int64_t k0 = 0; k0 < depth; k0 += PB_GEMM_DEPTH) {
        const int64_t end = depth - k0 < PB_GEMM_DEPTH ? depth : k0 + PB_GEMM_DEPTH;
        tb_row sums[PB_GEMM_FEW][GROUPS];
        for (int r = 0; r < rows; r++)
            for (int g = 0; g < GROUPS; g++)
                sums[r][g] = tb_set1(0.0f);
        int64_t k = k0;
        for (; k + TB <= end; k += TB) {
            PB_UNROLL
            for (int g = 0; g < GROUPS; g++) {
                tb_row block[TB];
                if (k * size % 64 == 0)
                    for (int j = 0; j < TB; j++)
                        __builtin_prefetch(next[g][j] + k * size);
                load_transposed(type, column[g], k, block);
                PB_UNROLL
                for (int j = 0; j < TB; j++) {
                    PB_UNROLL
                    for (int r = 0; r < rows; r++)
                        sums[r][g] = tb_fma(tb_set1(x[r * row_step + k + j]), block[j], sums[r][g]);
                }
            }
        }
        for (; k < end; k++)
            for (int g = 0; g < GROUPS; g++) {
                tb_row across = load_across(type, column[g], k);
                for (int r = 0; r < rows; r++)
                    sums[r][g] = tb_fma(tb_set1(x[r * row_step + k]), across, sums[r][g]);
            }
        for (int r = 0; r < rows; r++) {
            float row[WIDTH];
            for (int g = 0; g < GROUPS; g++)
                tb_store(row + g * TB, sums[r][g]);
            store_few(row, y + r * ldy, n, add || k0 > 0, end == depth ? bias : NULL);
        }
    }
}

/* Sums of a strip of outputs stay in the first-level cache; eight rows of weights are read side by side, each along a
 * long stretch, as memory likes it. */
PB_INLINE void few_lines_of(pb_stored type, const int rows, const void *const *lines, int64_t depth, int64_t n,
                            const float *x, int64_t row_step, float *y, int64_t ldy, bool add, const float *bias) {
    enum { AT_ONCE = 8 };
    const int64_t size = type == PB_STORED_F32 ? 4 : 2;
    float sums[PB_GEMM_FEW][PB_GEMM_STRIP + TB];
    for (int r = 0; r < rows; r++)
        memset(sums[r], 0, (size_t)n * sizeof(float));

    int64_t k = 0;
    for (; k + AT_ONCE <= depth; k += AT_ONCE) {
        int64_t o = 0;
        for (; o + TB <= n; o += TB) {
            tb_row w[AT_ONCE];
            PB_UNROLL
            for (int j = 0; j < AT_ONCE; j++)
                w[j] = load_block(type, (const char *)lines[k + j] + o * size);
            PB_UNROLL
            for (int r = 0; r < rows; r++) {
                tb_row sum = tb_load_f32(&sums[r][o]);
                PB_UNROLL
                for (int j = 0; j < AT_ONCE; j++)
                    sum = tb_fma(tb_set1(x[r * row_step + k + j]), w[j], sum);
                tb_store(&sums[r][o], sum);
            }
        }
        for (; o < n; o++)
            for (int j = 0; j < AT_ONCE; j++) {
                const tb_row w = tb_set1(widen_one(type, (const char *)lines[k + j] + o * size));
                for (int r = 0; r < rows; r++) {
                    float lanes[TB];
                    tb_store(lanes, tb_fma(tb_set1(x[r * row_step + k + j]), w, tb_set1(sums[r][o])));
                    sums[r][o] = lanes[0];
                }
            }
    }
    for (; k < depth; k++)
        for (int64_t o = 0; o < n; o++) {
            const tb_row w = tb_set1(widen_one(type, (const char *)lines[k] + o * size));
            for (int r = 0; r < rows; r++) {
                float lanes[TB];
                tb_store(lanes, tb_fma(tb_set1(x[r * row_step + k]), w, tb_set1(sums[r][o])));
                sums[r][o] = lanes[0];
            }
        }
    for (int r = 0; r < rows; r++)
        store_few(sums[r], y + r * ldy, n, add, bias);
}

#define FEW_ROWS(function, type, ...)                                                                                  \
    switch (rows) {                                                                                                    \
    case 1:                                                                                                            \
        function(type, 1, __VA_ARGS__);                                                                                \
        break;                                                                                                         \
    case 2:                                                                                                            \
        function(type, 2, __VA_ARGS__);                                                                                \
        break;                                                                                                         \
    case 3:                                                                                                            \
        function(type, 3, __VA_ARGS__);                                                                                \
        break;                                                                                                         \
    case 4:                                                                                                            \
        function(type, 4, __VA_ARGS__);                                                                                \
        break;                                                                                                         \
    }
_Static_assert(PB_GEMM_FEW == 4, "one case for each");

static void few_columns(pb_stored type, const void *const *columns, const void *const *ahead, int n, int64_t depth,
                        const float *x, int64_t row_step, int rows, float *y, int64_t ldy, bool add,
                        const float *bias) {
    if (type == PB_STORED_F32)
        FEW_ROWS(few_columns_of, PB_STORED_F32, columns, ahead, n, depth, x, row_step, y, ldy, add, bias)
    else if (type == PB_STORED_BF16)
        FEW_ROWS(few_columns_of, PB_STORED_BF16, columns, ahead, n, depth, x, row_step, y, ldy, add, bias)
    else
        FEW_ROWS(few_columns_of, PB_STORED_F16, columns, ahead, n, depth, x, row_step, y, ldy, add, bias)
}

static void few_lines(pb_stored type, const void *const *lines, int64_t depth, int64_t n, const float *x,
                      int64_t row_step, int rows, float *y, int64_t ldy, bool add, const float *bias) {
    if (type == PB_STORED_F32)
        FEW_ROWS(few_lines_of, PB_STORED_F32, lines, depth, n, x, row_step, y, ldy, add, bias)
    else if (type == PB_STORED_BF16)
        FEW_ROWS(few_lines_of, PB_STORED_BF16, lines, depth, n, x, row_step, y, ldy, add, bias)
    else
        FEW_ROWS(few_lines_of, PB_STORED_F16, lines, depth, n, x, row_step, y, ldy, add, bias)
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
    .few_columns = few_columns,
    .few_lines = few_lines,
};
