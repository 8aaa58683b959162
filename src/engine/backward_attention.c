/* Reverse pass of attention, head by head: the pattern is made again from queries and keys, so nothing of size T x T is
 * kept between layers. Lanes whose scores or pattern are patched or looked at do the steps for all heads together, so that
 * the sites can be visited in between. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "engine/backward.h"

/* Rows of one head of one lane; strides are of the whole buffers. */
typedef struct head_view {
    const float *q, *k, *v, *dz;
    float *dq, *dk, *dv;
    int64_t q_row, k_row; /* heads * d_head, kv_heads * d_head */
    int32_t T, d_head;
    pb_attention_head head;
} head_view;

static head_view head_of(const pb_back *b, size_t i, int h) {
    const pb_spec *s = b->pass.spec;
    int64_t dh = s->d_head, per = s->heads / s->kv_heads, row0 = b->info[i].row0;
    head_view v = {.q_row = s->heads * dh, .k_row = s->kv_heads * dh, .T = b->lanes[i].T, .d_head = (int32_t)dh};
    int64_t q = row0 * v.q_row + h * dh, k = row0 * v.k_row + h / per * dh;
    v.q = b->group.q + q;
    v.dz = b->dz + q;
    v.dq = b->dq + q;
    v.k = b->group.k + k;
    v.v = b->group.v + k;
    v.dk = b->dk + k;
    v.dv = b->dv + k;
    v.head = (pb_attention_head){.n_keys = v.T,
                                 .d_head = dh,
                                 .scale = b->group.weights->attn_scale,
                                 .softcap = b->group.weights->softcap,
                                 .window = b->group.weights->window};
    if (s->alibi_slopes) {
        v.head.alibi = s->alibi_slopes[h];
        v.head.alibi_bf16 = s->alibi_bf16;
    }
    return v;
}

/* Some query rows and the keys that any of them can see; everything of size rows x keys lies dense. */
typedef struct query_block {
    int32_t first, rows, keys;
} query_block;

enum { BLOCK_ROWS = 128 }; /* enough for full speed; a head's last block sees all keys, its first only these */

static int32_t block_rows(int32_t T) { return T < 2 * BLOCK_ROWS ? T : BLOCK_ROWS; }

typedef struct scratch {
    float *packed;
    const float **keys, **rows;
    int32_t *pos;
    float *scores, *probs, *grads; /* [block_rows][T] */
} scratch;

static size_t scratch_bytes(int32_t T, int32_t dh) {
    size_t packed = pb_attention_packed_size(T, dh) * sizeof(float);
    return packed + (size_t)T * (2 * sizeof(float *) + sizeof(int32_t)) +
           3 * (size_t)block_rows(T) * (size_t)T * sizeof(float) + 256;
}

static scratch carve(char *base, int32_t T, int32_t dh) {
    scratch s;
    size_t block = (size_t)block_rows(T) * (size_t)T;
    s.packed = (float *)(void *)base;
    s.scores = s.packed + ((pb_attention_packed_size(T, dh) + 15) & ~(size_t)15);
    s.probs = s.scores + block;
    s.grads = s.probs + block;
    s.keys = (const float **)(void *)(((uintptr_t)(s.grads + block) + 15) & ~(uintptr_t)15);
    s.rows = s.keys + T;
    s.pos = (int32_t *)(void *)(s.rows + T);
    return s;
}

static void pack_keys(const head_view *v, const scratch *s) {
    for (int32_t p = 0; p < v->T; p++) {
        s->keys[p] = v->k + p * v->k_row;
        s->rows[p] = v->q + p * v->q_row;
        s->pos[p] = p;
    }
    pb_attention_pack(s->keys, v->T, v->d_head, s->packed);
}

static void make_scores(const head_view *v, const scratch *s, query_block b, float *scores) {
    pb_attention_head head = v->head;
    head.packed_keys = s->packed;
    head.n_keys = b.keys;
    pb_attention_scores(&head, s->rows + b.first, s->pos + b.first, b.rows, scores, b.keys);
}

/* d pattern[i][j] = dz_i . v_j, for masked entries too */
static pb_status pattern_grad(pb_context *ctx, const head_view *v, query_block b, float *grads, pb_error *err) {
    pb_matrix values = {
        .data = v->v, .type = PB_STORED_F32, .in = v->d_head, .out = b.keys, .ld = v->k_row, .block = b.keys};
    return pb_linear(ctx, v->dz + b.first * v->q_row, v->q_row, b.rows, &values, grads, b.keys, 0, err);
}

/* Through the softmax: d_i = p_i (g_i - sum_j p_j g_j), in place in grads. */
static void softmax_back(query_block b, const float *probs, float *grads) {
    for (int32_t r = 0; r < b.rows; r++) {
        const float *p = probs + (int64_t)r * b.keys;
        float *g = grads + (int64_t)r * b.keys;
        const int32_t seen = b.first + r + 1;
        double sum = 0;
        for (int32_t j = 0; j < seen; j++)
            sum += (double)p[j] * g[j];
        const float along = (float)sum;
        for (int32_t j = 0; j < seen; j++)
            g[j] = p[j] * (g[j] - along);
        memset(g + seen, 0, (size_t)(b.keys - seen) * sizeof *g);
    }
}

/* Keys or values of the block's keys as a map from them to vectors. */
static pb_matrix across_keys(const head_view *v, query_block b, const float *rows) {
    return (pb_matrix){.data = rows,
                       .type = PB_STORED_F32,
                       .in_major = true,
                       .in = b.keys,
                       .out = v->d_head,
                       .ld = v->k_row,
                       .block = v->d_head};
}

/* Scores to queries and keys; `scores` are those that softcap gave. dk is added to: heads of a group share it. */
static pb_status scores_back(pb_context *ctx, const head_view *v, query_block b, const float *scores, float *grads,
                             pb_error *err) {
    const int64_t n = (int64_t)b.rows * b.keys, q = b.first * v->q_row;
    if (v->head.softcap > 0)
        for (int64_t i = 0; i < n; i++) {
            float t = isfinite(scores[i]) ? scores[i] / v->head.softcap : 1.0f;
            grads[i] *= 1.0f - t * t;
        }
    pb_vec_scale(v->head.scale, grads, n);
    pb_matrix keys = across_keys(v, b, v->k);
    PB_TRY(pb_linear(ctx, grads, b.keys, b.rows, &keys, v->dq + q, v->q_row, 0, err));
    return pb_linear_weight_grad(ctx, grads, b.keys, v->q + q, v->q_row, b.rows, &keys, v->dk, v->k_row, NULL, err);
}

static pb_status values_back(pb_context *ctx, const head_view *v, query_block b, const float *pattern, pb_error *err) {
    pb_matrix values = across_keys(v, b, v->v);
    return pb_linear_weight_grad(ctx, pattern, b.keys, v->dz + b.first * v->q_row, v->q_row, b.rows, &values, v->dv,
                                 v->k_row, NULL, err);
}

/* ---- lanes that nobody looks into ------------------------------------------------------------------------------------------- */

static pb_status plain_block(pb_context *ctx, const head_view *v, const scratch *s, query_block b) {
    make_scores(v, s, b, s->scores);
    memcpy(s->probs, s->scores, (size_t)b.rows * (size_t)b.keys * sizeof *s->probs);
    pb_attention_softmax(s->probs, b.keys, b.rows, b.keys);
    PB_TRY(pattern_grad(ctx, v, b, s->grads, NULL));
    PB_TRY(values_back(ctx, v, b, s->probs, NULL));
    softmax_back(b, s->probs, s->grads);
    return scores_back(ctx, v, b, s->scores, s->grads, NULL);
}

static pb_status plain_head(const pb_back *b, size_t i, int h, const scratch *s) {
    head_view v = head_of(b, i, h);
    const int32_t rows = block_rows(v.T);
    pack_keys(&v, s);
    for (int32_t first = 0; first < v.T; first += rows) {
        const int32_t n = v.T - first < rows ? v.T - first : rows;
        PB_TRY(plain_block(b->pass.ctx, &v, s, (query_block){first, n, first + n}));
    }
    return PB_OK;
}

/* ---- lanes whose scores or pattern are sites of interest ---------------------------------------------------------------------- */

typedef struct laid_out {
    float *own_scores, *scores, *own_probs, *pattern, *grads; /* [heads][T][T]: before and after patches */
} laid_out;

static pb_status forward_again(pb_back *b, size_t i, laid_out *l, const scratch *s, pb_error *err) {
    int heads = b->pass.spec->heads, layer = b->group.layer;
    int32_t T = b->lanes[i].T;
    size_t square = (size_t)T * (size_t)T, all = square * (size_t)heads;
    pb_view view = {l->scores, b->lanes[i].pos, T, T, (int64_t)square, heads, T};
    for (int h = 0; h < heads; h++) {
        head_view v = head_of(b, i, h);
        pack_keys(&v, s);
        make_scores(&v, s, (query_block){0, T, T}, l->own_scores + (size_t)h * square);
    }
    memcpy(l->scores, l->own_scores, all * sizeof(float));
    PB_TRY(pb_visit(&b->pass, &b->lanes[i], layer, PB_SITE_ATTN_SCORES, &view, PB_EDITS_ALL, err));
    memcpy(l->own_probs, l->scores, all * sizeof(float));
    pb_attention_softmax(l->own_probs, T, (int64_t)heads * T, T);
    memcpy(l->pattern, l->own_probs, all * sizeof(float));
    view.data = l->pattern;
    return pb_visit(&b->pass, &b->lanes[i], layer, PB_SITE_PATTERN, &view, PB_EDITS_ALL, err);
}

static pb_status touched_lane(pb_back *b, size_t i, const scratch *s, pb_error *err) {
    pb_context *ctx = b->pass.ctx;
    int heads = b->pass.spec->heads, layer = b->group.layer;
    int32_t T = b->lanes[i].T;
    size_t square = (size_t)T * (size_t)T, all = square * (size_t)heads;
    float *block = pb_alloc(ctx, 5 * all, sizeof *block);
    if (!block)
        return pb_fail_memory(err, ctx, 5 * all * sizeof *block, "gradients of one layer's attention pattern");
    const query_block whole = {0, T, T};
    laid_out l = {block, block + all, block + 2 * all, block + 3 * all, block + 4 * all};
    pb_view view = {l.grads, b->lanes[i].pos, T, T, (int64_t)square, heads, T};
    pb_status status = forward_again(b, i, &l, s, err);
    for (int h = 0; h < heads && status == PB_OK; h++) {
        head_view v = head_of(b, i, h);
        status = pattern_grad(ctx, &v, whole, l.grads + (size_t)h * square, err);
        if (status == PB_OK)
            status = values_back(ctx, &v, whole, l.pattern + (size_t)h * square, err);
    }
    if (status == PB_OK)
        status = pb_back_visit(b, i, layer, PB_SITE_PATTERN, &view, err);
    for (int h = 0; h < heads && status == PB_OK; h++) {
        softmax_back(whole, l.own_probs + (size_t)h * square, l.grads + (size_t)h * square);
    }
    if (status == PB_OK)
        status = pb_back_visit(b, i, layer, PB_SITE_ATTN_SCORES, &view, err);
    for (int h = 0; h < heads && status == PB_OK; h++) {
        head_view v = head_of(b, i, h);
        status = scores_back(ctx, &v, whole, l.own_scores + (size_t)h * square, l.grads + (size_t)h * square, err);
    }
    pb_free(block);
    return status;
}

pb_status pb_back_attention(pb_back *b, int layer, pb_error *err) {
    const pb_spec *spec = b->pass.spec;
    pb_context *ctx = b->pass.ctx;
    int kv_heads = spec->kv_heads, per = spec->heads / spec->kv_heads;
    double work = 0;
    size_t bytes = 0;
    for (size_t i = 0; i < b->n; i++) {
        const int32_t T = b->lanes[i].T;
        const size_t own = (scratch_bytes(T, spec->d_head) + 127) & ~(size_t)63;
        bytes = own > bytes ? own : bytes; /* not always the longest lane's: it may be cut into blocks */
        work += 5.0 * T * T * spec->heads * spec->d_head;
    }
    int threads = pb_threads_for(ctx, work);
    memset(b->dk, 0, (size_t)(b->rows * kv_heads * spec->d_head) * sizeof(float));
    memset(b->dv, 0, (size_t)(b->rows * kv_heads * spec->d_head) * sizeof(float));
    char *memory = pb_alloc(ctx, bytes, (size_t)threads);
    if (!memory)
        return pb_fail_memory(err, ctx, bytes * (size_t)threads, "the gradient of attention");
    int failed = 0;
    int64_t items = (int64_t)b->n * kv_heads;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) reduction(| : failed)
    for (int64_t item = 0; item < items; item++) {
        size_t i = (size_t)(item / kv_heads);
        int kv = (int)(item % kv_heads);
        if (pb_back_touches(b, i, layer, PB_SITE_ATTN_SCORES, PB_SITE_PATTERN))
            continue;
        scratch s = carve(memory + bytes * (size_t)omp_get_thread_num(), b->lanes[i].T, spec->d_head);
        for (int h = kv * per; h < (kv + 1) * per && !failed; h++)
            failed |= plain_head(b, i, h, &s) != PB_OK;
    }
    pb_status status = failed ? pb_fail_memory(err, ctx, bytes, "the gradient of attention") : PB_OK;
    failed = 0; /* there are no callbacks in a reverse pass: lanes can go side by side */
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) reduction(| : failed)
    for (size_t i = 0; i < b->n; i++)
        if (status == PB_OK && pb_back_touches(b, i, layer, PB_SITE_ATTN_SCORES, PB_SITE_PATTERN)) {
            scratch s = carve(memory + bytes * (size_t)omp_get_thread_num(), b->lanes[i].T, spec->d_head);
            failed |= touched_lane(b, i, &s, NULL) != PB_OK;
        }
    if (failed)
        status = pb_fail_memory(err, ctx, bytes, "gradients of one layer's attention pattern");
    pb_free(memory);
    return status;
}
