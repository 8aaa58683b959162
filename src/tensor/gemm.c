/* Products of activation rows with stored weights: cutting into tiles, packing, threads. The arithmetic of one tile is
 * in gemm_isa.c; what a value depends on is said in gemm_table.h.
 *
 * One call: the rows of X are packed slab by slab (a slab is as many inputs as fit some megabytes), shared by all
 * threads; then each thread takes tiles of outputs, packs that part of W block by block into its own buffer - widening
 * 16-bit weights on the way - and multiplies all rows by it. So every weight is read and widened once per call (once
 * per ROWS_AT_ONCE rows). */
#include "tensor/gemm.h"

#include <assert.h>
#include <omp.h>
#include <string.h>

#include "tensor/gemm_table.h"

enum {
    ROWS_AT_ONCE = 4096,   /* rows of X packed together */
    SLAB_FLOATS = 1 << 20, /* of packed X, unless one block of inputs is already more */
    ROWS_IN_CACHE = 192,   /* rows of one block that stay in the second-level cache */
    TILE_MIN = 64,
    TILE_MAX = 256 /* outputs of a tile: multiples of every panel width */
};

/* Below this many multiply-adds waking the other threads costs more than they save. */
static const int64_t SERIAL_WORK = 400000;

/* W as vectors that lie contiguous in memory: along the outputs ("lines", one per input) or along the inputs
 * ("columns", one per output). Vector i begins at element ((i / block) * block_stride + i % block) * ld. */
typedef struct source {
    const char *data;
    pb_stored type;
    int64_t size; /* bytes of an element */
    bool lines;
    int64_t ld, block, block_stride;
    const int32_t *chosen; /* the outputs wanted, or NULL: 0, 1, ... */
} source;

typedef struct product {
    const pb_gemm_table *table;
    pb_context *ctx;
    const float *x; /* element (r, k) at r * row_step + k * depth_step */
    int64_t row_step, depth_step;
    int64_t rows, in, out;
    source w;
    float *y;
    int64_t ldy;
    bool accumulate;
    const float *bias;

    int threads;
    int64_t tile;        /* outputs */
    int64_t row_parts;   /* tasks that share a tile of outputs */
    int64_t slab;        /* inputs */
    float *packed_rows;  /* [rows of this chunk][slab], group after group */
    float *packed_tiles; /* per thread [tile / width][PB_GEMM_DEPTH][width] */
} product;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

static const char *source_vector(const source *s, int64_t i) {
    return s->data + ((i / s->block) * s->block_stride + i % s->block) * s->ld * s->size;
}

/* ---- blocks of weights --------------------------------------------------------------------------------------------- */

/* Outputs o .. o + n - 1 (at most a tile) by inputs k .. k + depth - 1 (at most PB_GEMM_DEPTH): as vectors in W,
 * depth lines or n columns. */
typedef struct weight_block {
    int64_t o, n, k, depth;
    const void *vectors[(int)TILE_MAX > (int)PB_GEMM_DEPTH ? TILE_MAX : PB_GEMM_DEPTH];
} weight_block;

/* Vectors along the inputs of outputs o .. o + n - 1, from input k on. */
static void columns_at(const source *w, int64_t k, int64_t o, int64_t n, const void **columns) {
    for (int64_t j = 0; j < n; j++)
        columns[j] = source_vector(w, w->chosen ? w->chosen[o + j] : o + j) + k * w->size;
}

/* Vectors along the outputs of inputs k .. k + depth - 1, from output o on. */
static void lines_at(const source *w, int64_t k, int64_t depth, int64_t o, const void **lines) {
    for (int64_t i = 0; i < depth; i++)
        lines[i] = source_vector(w, k + i) + o * w->size;
}

static bool by_element(const source *w) { return w->lines && w->chosen; }

static void block_at(const product *p, int64_t o, int64_t n, int64_t k, int64_t depth, weight_block *b) {
    b->o = o;
    b->n = n;
    b->k = k;
    b->depth = depth;
    if (p->w.lines)
        lines_at(&p->w, k, depth, by_element(&p->w) ? 0 : o, b->vectors);
    else
        columns_at(&p->w, k, o, n, b->vectors);
}

/* Chosen outputs of vectors that run along the outputs: element by element. */
static void pack_chosen(const product *p, const weight_block *b, float *packed) {
    const int64_t width = p->table->width;
    for (int64_t done = 0; done < b->n; done += width, packed += width * PB_GEMM_DEPTH)
        for (int64_t i = 0; i < b->depth; i++)
            for (int64_t j = 0; j < width; j++) {
                const int64_t output = p->w.chosen[b->o + least(done + j, b->n - 1)];
                pb_widen(p->w.type, b->vectors[i], (size_t)output, 1, &packed[i * width + j]);
            }
}

/* Into panels, one every PB_GEMM_DEPTH * width floats. */
static void pack_block(const product *p, const weight_block *b, float *packed) {
    const int64_t width = p->table->width;
    const int64_t panel_step = width * PB_GEMM_DEPTH;
    if (by_element(&p->w)) {
        pack_chosen(p, b, packed);
    } else if (p->w.lines) {
        p->table->pack_lines(p->w.type, b->vectors, b->depth, b->n, packed, panel_step);
    } else {
        for (int64_t done = 0; done < b->n; done += width, packed += panel_step) {
            const void *const *columns = b->vectors + done;
            const void *const *ahead = done + 2 * width <= b->n ? columns + width : columns;
            p->table->pack_columns(p->w.type, columns, ahead, (int)least(width, b->n - done), b->depth, packed);
        }
    }
}

/* ---- one chunk of rows ------------------------------------------------------------------------------------------------ */

/* What all threads work on together: some rows, and the slab of inputs that is packed for them. Rows are in groups of
 * nearly equal size, so that none is much shorter than the inner kernel likes. */
typedef struct row_chunk {
    int64_t first_row, rows, groups;
    int64_t k0, slab;
} row_chunk;

static int64_t group_begin(const row_chunk *c, int64_t group) { return c->rows * group / c->groups; }

static void pack_group(const product *p, const row_chunk *c, int64_t group) {
    const int64_t begin = group_begin(c, group), end = group_begin(c, group + 1);
    p->table->pack_rows(p->x + (c->first_row + begin) * p->row_step + c->k0 * p->depth_step, p->row_step, p->depth_step,
                        (int)(end - begin), c->slab, p->packed_rows + begin * c->slab);
}

/* A group of rows times the panel of outputs done, done + 1, ... of the block. */
static void multiply_group(const product *p, const row_chunk *c, int64_t group, const weight_block *b, int64_t done,
                           const float *panel) {
    const int64_t begin = group_begin(c, group), rows = group_begin(c, group + 1) - begin;
    const int64_t o = b->o + done;
    const bool last = b->k + b->depth == p->in;
    p->table->multiply(p->packed_rows + begin * c->slab + (b->k - c->k0) * rows, (int)rows, panel, b->depth,
                       p->y + (c->first_row + begin) * p->ldy + o, p->ldy, (int)least(p->table->width, b->n - done),
                       p->accumulate || b->k > 0, last && p->bias ? p->bias + o : NULL);
}

/* Groups from `group` on to `group_end` times a packed block. */
static void multiply_block(const product *p, const row_chunk *c, int64_t group, int64_t group_end,
                           const weight_block *b, const float *packed) {
    const int64_t width = p->table->width;
    const int64_t groups_in_cache = ROWS_IN_CACHE / p->table->group;
    for (int64_t near = group; near < group_end; near += groups_in_cache) {
        const int64_t near_end = least(near + groups_in_cache, group_end);
        for (int64_t done = 0; done < b->n; done += width)
            for (int64_t g = near; g < near_end; g++)
                multiply_group(p, c, g, b, done, packed + done * PB_GEMM_DEPTH);
    }
}

/* A task is a tile of outputs and one of row_parts shares of the groups. */
static void multiply_tile(const product *p, const row_chunk *c, int thread, int64_t task) {
    const int64_t o = task / p->row_parts * p->tile, n = least(p->tile, p->out - o);
    const int64_t part = task % p->row_parts;
    float *packed = p->packed_tiles + (int64_t)thread * p->tile * PB_GEMM_DEPTH;
    for (int64_t k = c->k0; k < c->k0 + c->slab; k += PB_GEMM_DEPTH) {
        weight_block b;
        block_at(p, o, n, k, least(PB_GEMM_DEPTH, c->k0 + c->slab - k), &b);
        pack_block(p, &b, packed);
        multiply_block(p, c, c->groups * part / p->row_parts, c->groups * (part + 1) / p->row_parts, &b, packed);
    }
}

static row_chunk chunk_of(const product *p, int64_t first_row, int64_t rows, int64_t k0) {
    return (row_chunk){.first_row = first_row,
                       .rows = rows,
                       .groups = (rows + p->table->group - 1) / p->table->group,
                       .k0 = k0,
                       .slab = least(p->slab, p->in - k0)};
}

static void multiply_rows(const product *p, int64_t first_row, int64_t rows, int64_t tasks) {
    for (int64_t k0 = 0; k0 < p->in; k0 += p->slab) {
        const row_chunk c = chunk_of(p, first_row, rows, k0);
        for (int64_t g = 0; g < c.groups; g++)
            pack_group(p, &c, g);
        for (int64_t task = 0; task < tasks && !pb_context_stopping(p->ctx); task++)
            multiply_tile(p, &c, 0, task);
    }
}

/* The same, called by every thread of a team; each loop ends with all of them waiting for each other. */
static void multiply_rows_as_team(const product *p, int64_t first_row, int64_t rows, int64_t tasks) {
    for (int64_t k0 = 0; k0 < p->in; k0 += p->slab) {
        const row_chunk c = chunk_of(p, first_row, rows, k0);
#pragma omp for schedule(static)
        for (int64_t g = 0; g < c.groups; g++)
            pack_group(p, &c, g);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < tasks; task++)
            if (!pb_context_stopping(p->ctx))
                multiply_tile(p, &c, omp_get_thread_num(), task);
    }
}

/* ---- few rows ----------------------------------------------------------------------------------------------------- */

static void multiply_few(const product *p, int64_t task) {
    const source *w = &p->w;
    const int64_t o = task * p->tile, n = least(p->tile, p->out - o);
    const float *bias = p->bias ? p->bias + o : NULL;
    const void *vectors[TILE_MAX];

    if (w->lines) {
        for (int64_t k = 0; k < p->in; k += PB_GEMM_DEPTH) {
            const int64_t depth = least(PB_GEMM_DEPTH, p->in - k);
            lines_at(w, k, depth, o, vectors);
            p->table->few_lines(w->type, vectors, depth, n, p->x + k, p->row_step, (int)p->rows, p->y + o, p->ldy,
                                p->accumulate || k > 0, k + depth == p->in ? bias : NULL);
        }
        return;
    }
    const int64_t width = p->table->width;
    columns_at(w, 0, o, n, vectors);
    for (int64_t done = 0; done < n; done += width) {
        const void *const *ahead = vectors + done + (done + 2 * width <= n ? width : 0);
        p->table->few_columns(w->type, vectors + done, ahead, (int)least(width, n - done), p->in, p->x, p->row_step,
                              (int)p->rows, p->y + o + done, p->ldy, p->accumulate, bias ? bias + done : NULL);
    }
}

static pb_status run_few(product *p, pb_error *err) {
    const int64_t share = round_up((p->out + 2 * p->threads - 1) / (2 * p->threads), TILE_MIN);
    p->tile = least(share, p->w.lines ? PB_GEMM_STRIP : TILE_MAX);
    const int64_t tasks = (p->out + p->tile - 1) / p->tile;
#pragma omp parallel for schedule(dynamic) num_threads(p->threads) if (p->threads > 1)
    for (int64_t task = 0; task < tasks; task++)
        if (!pb_context_stopping(p->ctx))
            multiply_few(p, task);
    return pb_context_check(p->ctx, err);
}

/* ---- the whole call ------------------------------------------------------------------------------------------------ */

static void choose_threads(product *p) {
    const bool alone = omp_in_parallel() || p->rows * p->in * p->out < SERIAL_WORK;
    p->threads = alone ? 1 : pb_context_threads(p->ctx);
}

/* Two tasks or more for every thread where outputs and rows allow it, and the last round of tasks as full as can be:
 * the tile (of those that are multiples of every panel width) with which the busiest thread has least to do. */
static void choose_tiles(product *p) {
    const int64_t chunk = least(p->rows, ROWS_AT_ONCE);
    const int64_t wanted = p->threads == 1 ? 1 : 2 * p->threads;
    double best = 0;
    for (int64_t tile = TILE_MAX; tile >= TILE_MIN; tile -= TILE_MIN) {
        const int64_t tiles = (p->out + tile - 1) / tile;
        const int64_t parts =
            least((wanted + tiles - 1) / tiles, (chunk + ROWS_IN_CACHE / 2 - 1) / (ROWS_IN_CACHE / 2));
        const int64_t rounds = (tiles * parts + p->threads - 1) / p->threads;
        const double work = (double)(rounds * tile) / (double)parts;
        if (best > 0 && work > 0.97 * best) /* small tiles and parts cost packing */
            continue;
        best = work;
        p->tile = tile;
        p->row_parts = parts;
    }
    const int64_t fitting = SLAB_FLOATS / chunk / PB_GEMM_DEPTH * PB_GEMM_DEPTH;
    p->slab = least(fitting > 0 ? fitting : PB_GEMM_DEPTH, p->in);
}

/* No inputs: the empty sum, and the bias. */
static void multiply_nothing(const product *p) {
    for (int64_t r = 0; r < p->rows; r++)
        for (int64_t o = 0; o < p->out; o++) {
            float before = p->accumulate ? p->y[r * p->ldy + o] : 0.0f;
            p->y[r * p->ldy + o] = p->bias ? before + p->bias[o] : before;
        }
}

static pb_status product_run(product *p, pb_error *err) {
    if (p->rows <= 0 || p->out <= 0)
        return PB_OK;
    PB_TRY(pb_context_check(p->ctx, err));
    if (p->in <= 0) {
        multiply_nothing(p);
        return PB_OK;
    }
    p->table = pb_gemm_table_here();
    choose_threads(p);
    if (p->rows <= PB_GEMM_FEW && p->depth_step == 1 && !(p->w.lines && p->w.chosen))
        return run_few(p, err);
    choose_tiles(p);

    const int64_t chunk = least(p->rows, ROWS_AT_ONCE);
    const int64_t tasks = (p->out + p->tile - 1) / p->tile * p->row_parts;
    const size_t rows_floats = (size_t)round_up(chunk * p->slab, 16);
    const size_t floats = rows_floats + (size_t)p->threads * (size_t)p->tile * PB_GEMM_DEPTH;
    p->packed_rows = pb_alloc(p->ctx, floats, sizeof(float));
    if (!p->packed_rows)
        return pb_fail_memory(err, p->ctx, floats * sizeof(float), "packing a matrix product");
    p->packed_tiles = p->packed_rows + rows_floats;

    for (int64_t first = 0; first < p->rows; first += chunk) {
        const int64_t rows = least(chunk, p->rows - first);
        if (p->threads == 1) {
            multiply_rows(p, first, rows, tasks);
            continue;
        }
#pragma omp parallel num_threads(p->threads)
        multiply_rows_as_team(p, first, rows, tasks);
    }
    pb_free(p->packed_rows);
    return pb_context_check(p->ctx, err);
}

static source source_of(const pb_matrix *w, bool transposed) {
    assert(w->type == PB_STORED_F32 || w->type == PB_STORED_F16 || w->type == PB_STORED_BF16);
    const bool blocks = !w->in_major && w->block > 0 && w->block < w->out;
    const int64_t vectors = w->in_major ? w->in : w->out;
    return (source){.data = w->data,
                    .type = w->type,
                    .size = (int64_t)pb_stored_size(w->type),
                    .lines = w->in_major != transposed,
                    .ld = w->ld,
                    .block = blocks        ? w->block
                             : vectors > 0 ? vectors
                                           : 1,
                    .block_stride = blocks ? w->block_stride : 0};
}

static source source_of_rows(const float *x, int64_t ldx, int64_t rows) {
    return (source){.data = (const char *)x,
                    .type = PB_STORED_F32,
                    .size = sizeof(float),
                    .lines = true,
                    .ld = ldx,
                    .block = rows > 0 ? rows : 1};
}

pb_status pb_linear(pb_context *ctx, const float *x, int64_t ldx, int64_t rows, const pb_matrix *w, float *y,
                    int64_t ldy, unsigned flags, pb_error *err) {
    product p = {.ctx = ctx,
                 .x = x,
                 .row_step = ldx,
                 .depth_step = 1,
                 .rows = rows,
                 .in = w->in,
                 .out = w->out,
                 .w = source_of(w, false),
                 .y = y,
                 .ldy = ldy,
                 .accumulate = (flags & PB_LINEAR_ACCUMULATE) != 0,
                 .bias = (flags & PB_LINEAR_NO_BIAS) ? NULL : w->bias};
    return product_run(&p, err);
}

pb_status pb_linear_outputs(pb_context *ctx, const float *x, int64_t ldx, int64_t rows, const pb_matrix *w,
                            const int32_t *outputs, int64_t n, float *y, pb_error *err) {
    float *bias = NULL;
    if (w->bias && n > 0) {
        bias = pb_alloc(ctx, (size_t)n, sizeof *bias);
        if (!bias)
            return pb_fail_memory(err, ctx, (size_t)n * sizeof *bias, "the biases of chosen outputs");
        for (int64_t j = 0; j < n; j++)
            bias[j] = w->bias[outputs[j]];
    }
    product p = {.ctx = ctx,
                 .x = x,
                 .row_step = ldx,
                 .depth_step = 1,
                 .rows = rows,
                 .in = w->in,
                 .out = n,
                 .w = source_of(w, false),
                 .y = y,
                 .ldy = n,
                 .bias = bias};
    p.w.chosen = outputs;
    pb_status status = product_run(&p, err);
    pb_free(bias);
    return status;
}

pb_status pb_linear_input_grad(pb_context *ctx, const float *dy, int64_t lddy, int64_t rows, const pb_matrix *w,
                               float *dx, int64_t lddx, unsigned flags, pb_error *err) {
    product p = {.ctx = ctx,
                 .x = dy,
                 .row_step = lddy,
                 .depth_step = 1,
                 .rows = rows,
                 .in = w->out,
                 .out = w->in,
                 .w = source_of(w, true),
                 .y = dx,
                 .ldy = lddx,
                 .accumulate = (flags & PB_LINEAR_ACCUMULATE) != 0};
    return product_run(&p, err);
}

enum { SUMS_AT_ONCE = 64 };

static void add_strip_sums(const float *dy, int64_t lddy, int64_t rows, int64_t n, float *dbias) {
    double sums[SUMS_AT_ONCE] = {0};
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < n; j++)
            sums[j] += (double)dy[r * lddy + j];
    for (int64_t j = 0; j < n; j++)
        dbias[j] = (float)((double)dbias[j] + sums[j]);
}

/* Sums of columns in double, in the order of the rows. */
static void add_column_sums(pb_context *ctx, const float *dy, int64_t lddy, int64_t rows, int64_t out, float *dbias) {
    const int threads = omp_in_parallel() || rows * out < SERIAL_WORK / 8 ? 1 : pb_context_threads(ctx);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t o = 0; o < out; o += SUMS_AT_ONCE)
        add_strip_sums(dy + o, lddy, rows, least(SUMS_AT_ONCE, out - o), dbias + o);
}

pb_status pb_linear_weight_grad(pb_context *ctx, const float *x, int64_t ldx, const float *dy, int64_t lddy,
                                int64_t rows, const pb_matrix *w, float *dw, int64_t lddw, float *dbias,
                                pb_error *err) {
    if (w->in_major) {
        product p = {.ctx = ctx,
                     .x = x,
                     .row_step = 1,
                     .depth_step = ldx,
                     .rows = w->in,
                     .in = rows,
                     .out = w->out,
                     .w = source_of_rows(dy, lddy, rows),
                     .y = dw,
                     .ldy = lddw,
                     .accumulate = true};
        PB_TRY(product_run(&p, err));
    } else {
        const int64_t block = w->block > 0 && w->block < w->out ? w->block : w->out;
        for (int64_t o = 0; o < w->out; o += block) {
            product p = {.ctx = ctx,
                         .x = dy + o,
                         .row_step = 1,
                         .depth_step = lddy,
                         .rows = least(block, w->out - o),
                         .in = rows,
                         .out = w->in,
                         .w = source_of_rows(x, ldx, rows),
                         .y = dw + o / block * w->block_stride * lddw,
                         .ldy = lddw,
                         .accumulate = true};
            PB_TRY(product_run(&p, err));
        }
    }
    if (dbias)
        add_column_sums(ctx, dy, lddy, rows, w->out, dbias);
    return PB_OK;
}
