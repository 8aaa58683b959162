/* The product's inner parts, one table per instruction set, and what gemm.c asks of them. Private to src/tensor.
 *
 * Y[r][o] = sum_k X[r][k] W(k, o) is defined to the bit: the inputs are cut into blocks of PB_GEMM_DEPTH (fixed, from 0
 * on); within a block one accumulator per (r, o) runs over k in ascending order with fused multiply-adds, starting
 * from 0; block sums are added to the output in order; the bias comes last. So a value depends on its row of X, its
 * column of W and the instruction set, on nothing else: neither tiles, threads, nor other rows. OpenBLAS gives no such
 * promise (its Haswell kernel rounds a row differently as part of a group of 12 and as a leftover), which is why the
 * product is not a call of sgemm. */
#ifndef PB_TENSOR_GEMM_TABLE_H
#define PB_TENSOR_GEMM_TABLE_H

#include "patchbay/tensorio.h"

enum {
    PB_GEMM_DEPTH = 256,    /* inputs per block */
    PB_GEMM_WIDTH_MAX = 32, /* largest panel width of any table */
    PB_GEMM_ROWS_MAX = 12,  /* largest group of rows of any table */
    PB_GEMM_FEW = 4,        /* rows for which packing does not pay */
    PB_GEMM_STRIP = 1024    /* outputs of one few_lines call, at most */
};

typedef struct pb_gemm_table {
    const char *name;
    int group; /* rows of X that one pass of the inner kernel takes, at most */
    int width; /* outputs of a packed panel of W */

    /* X -> [depth][rows] for one group; element (r, k) is at x[r * row_step + k * depth_step]. */
    void (*pack_rows)(const float *x, int64_t row_step, int64_t depth_step, int rows, int64_t depth, float *packed);

    /* One panel [depth][width] of W from vectors that run along k: column j is at columns[j], elements of `type`. Panel
     * columns from n on hold anything. ahead [n]: what will be packed next, for the cache (may be `columns`). */
    void (*pack_columns)(pb_stored type, const void *const *columns, const void *const *ahead, int n, int64_t depth,
                         float *packed);
    /* Panels from vectors that run along o: row k is at rows[k], n outputs. Panel p begins at packed + p * panel_step. */
    void (*pack_lines)(pb_stored type, const void *const *rows, int64_t depth, int64_t n, float *packed,
                       int64_t panel_step);

    /* y [rows][n] from one group and one panel (n <= width), depth <= PB_GEMM_DEPTH. add: onto what y holds. bias
     * [n]: added last, or NULL. */
    void (*multiply)(const float *rows_packed, int rows, const float *panel, int64_t depth, float *y, int64_t ldy,
                     int n, bool add, const float *bias);

    /* For rows <= PB_GEMM_FEW, the same bits without packing; element (r, k) is at x[r * row_step + k]. Columns: all
     * inputs at once (depth is unbounded), n <= width outputs. Lines: depth <= PB_GEMM_DEPTH, n <= PB_GEMM_STRIP. */
    void (*few_columns)(pb_stored type, const void *const *columns, const void *const *ahead, int n, int64_t depth,
                        const float *x, int64_t row_step, int rows, float *y, int64_t ldy, bool add, const float *bias);
    void (*few_lines)(pb_stored type, const void *const *lines, int64_t depth, int64_t n, const float *x,
                      int64_t row_step, int rows, float *y, int64_t ldy, bool add, const float *bias);
} pb_gemm_table;

const pb_gemm_table *pb_gemm_table_here(void);

#endif
