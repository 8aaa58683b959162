/* Attention of many short sequences at once: the unit of parallel work is one key/value head of one lane. Lanes whose
 * scores or pattern are patched or looked at have them laid out in memory; the others go through the fused kernel, with
 * the same bits. */
#include "engine/internal.h"

#include <math.h>
#include <omp.h>
#include <string.h>

/* Scratch of one thread, for lanes of up to n_keys keys and n_rows queries. */
typedef struct thread_scratch {
    float *packed;
    float *scores;
    const float **keys, **values, **q;
    float **z;
} thread_scratch;

typedef struct scratch_plan {
    int32_t n_keys, n_rows;
    size_t packed, scores, pointers, bytes;
} scratch_plan;

static size_t round_up(size_t n) { return (n + 63) & ~(size_t)63; }

static scratch_plan plan_scratch(const pb_group *g) {
    scratch_plan p = {0, 0, 0, 0, 0, 0};
    for (size_t i = 0; i < g->n; i++) {
        const pb_member *m = &g->members[i];
        if (m->lane->T > p.n_keys)
            p.n_keys = m->lane->T;
        if (m->n_z > p.n_rows)
            p.n_rows = m->n_z;
    }
    p.packed = round_up(pb_attention_packed_size(p.n_keys, g->spec->d_head) * sizeof(float));
    p.scores = round_up(pb_attention_scratch_size(p.n_keys) * sizeof(float));
    p.pointers = round_up(sizeof(void *) * (2 * (size_t)p.n_keys + 2 * (size_t)p.n_rows));
    p.bytes = p.packed + p.scores + p.pointers;
    return p;
}

static thread_scratch carve(const scratch_plan *p, char *base) {
    thread_scratch s;
    s.packed = (float *)(void *)base;
    s.scores = (float *)(void *)(base + p->packed);
    s.keys = (const float **)(void *)(base + p->packed + p->scores);
    s.values = s.keys + p->n_keys;
    s.q = s.values + p->n_keys;
    s.z = (float **)(void *)(s.q + p->n_rows);
    return s;
}

static pb_attention_head head_of(const pb_group *g, const thread_scratch *s, int head, int32_t n_keys) {
    pb_attention_head h = {.n_keys = n_keys,
                           .d_head = g->spec->d_head,
                           .packed_keys = s->packed,
                           .values = s->values,
                           .scale = g->weights->attn_scale,
                           .softcap = g->weights->softcap,
                           .window = g->weights->window};
    if (g->spec->alibi_slopes) {
        h.alibi = g->spec->alibi_slopes[head];
        h.alibi_bf16 = g->spec->alibi_bf16;
    }
    return h;
}

/* Number of keys that any of the member's queries can see. */
static int32_t keys_of(const pb_member *m) { return m->n_z ? m->z_pos[m->n_z - 1] + 1 : 0; }

static void pack_head(const pb_group *g, const pb_member *m, int kv, int32_t n_keys, thread_scratch *s) {
    int64_t offset = (int64_t)kv * g->spec->d_head;
    for (int32_t j = 0; j < n_keys; j++) {
        s->keys[j] = m->k_row[j] + offset;
        s->values[j] = m->v_row[j] + offset;
    }
    pb_attention_pack(s->keys, n_keys, g->spec->d_head, s->packed);
}

static void point_rows(const pb_group *g, const pb_member *m, int head, thread_scratch *s) {
    int64_t offset = (int64_t)head * g->spec->d_head, width = (int64_t)g->spec->heads * g->spec->d_head;
    for (int32_t r = 0; r < m->n_z; r++) {
        s->q[r] = m->q_row[r] + offset;
        s->z[r] = g->z + (m->z0 + r) * width + offset;
    }
}

static void fused_item(const pb_group *g, const pb_member *m, int kv, thread_scratch *s) {
    int per = g->spec->heads / g->spec->kv_heads;
    int32_t n_keys = keys_of(m);
    pack_head(g, m, kv, n_keys, s);
    for (int h = kv * per; h < (kv + 1) * per; h++) {
        pb_attention_head head = head_of(g, s, h, n_keys);
        point_rows(g, m, h, s);
        pb_attention_fused(&head, s->q, m->z_pos, m->n_z, s->z, s->scores);
    }
}

/* Scores laid out as [heads][n_z][T]; keys that no row sees are -inf. */
static void scores_item(const pb_group *g, const pb_member *m, int kv, thread_scratch *s, float *scores) {
    int per = g->spec->heads / g->spec->kv_heads;
    int32_t T = m->lane->T, n_keys = keys_of(m);
    pack_head(g, m, kv, n_keys, s);
    for (int h = kv * per; h < (kv + 1) * per; h++) {
        float *out = scores + (int64_t)h * m->n_z * T;
        pb_attention_head head = head_of(g, s, h, n_keys);
        point_rows(g, m, h, s);
        pb_attention_scores(&head, s->q, m->z_pos, m->n_z, out, T);
        for (int32_t r = 0; r < m->n_z; r++)
            for (int32_t j = n_keys; j < T; j++)
                out[(int64_t)r * T + j] = -INFINITY;
    }
}

static void mix_item(const pb_group *g, const pb_member *m, int h, thread_scratch *s, const float *pattern) {
    int per = g->spec->heads / g->spec->kv_heads;
    int32_t T = m->lane->T, n_keys = keys_of(m);
    int64_t offset = (int64_t)(h / per) * g->spec->d_head;
    for (int32_t j = 0; j < n_keys; j++)
        s->values[j] = m->v_row[j] + offset;
    pb_attention_head head = head_of(g, s, h, n_keys);
    point_rows(g, m, h, s);
    pb_attention_mix(&head, pattern + (int64_t)h * m->n_z * T, T, m->n_z, s->z);
}

/* All heads of one lane, in the calling thread. */
static pb_status laid_out(const pb_group *g, const pb_member *m, thread_scratch *s, pb_error *err) {
    int heads = g->spec->heads;
    int32_t T = m->lane->T;
    size_t n = (size_t)heads * (size_t)m->n_z * (size_t)T;
    float *scores = pb_alloc(g->pass->ctx, n, sizeof *scores);
    if (!scores)
        return pb_fail_memory(err, g->pass->ctx, n * sizeof *scores, "attention scores of one layer");
    for (int kv = 0; kv < g->spec->kv_heads; kv++)
        scores_item(g, m, kv, s, scores);
    pb_view view = {scores, m->z_pos, m->n_z, T, (int64_t)m->n_z * T, heads, T};
    pb_status status = pb_visit(g->pass, m->lane, g->layer, PB_SITE_ATTN_SCORES, &view, PB_EDITS_ALL, err);
    if (status == PB_OK) {
        pb_attention_softmax(scores, T, (int64_t)heads * m->n_z, T);
        status = pb_visit(g->pass, m->lane, g->layer, PB_SITE_PATTERN, &view, PB_EDITS_ALL, err);
    }
    for (int h = 0; h < heads && status == PB_OK; h++)
        mix_item(g, m, h, s, scores);
    pb_free(scores);
    return status;
}

static bool is_laid_out(const pb_group *g, const pb_member *m) {
    return m->n_z > 0 && pb_lane_touches_range(m->lane, g->layer, PB_SITE_ATTN_SCORES, PB_SITE_PATTERN);
}

/* Callbacks run in the caller's thread only. */
static bool has_callback(const pb_group *g, const pb_member *m) {
    for (size_t i = 0; i < m->lane->n_edits; i++) {
        const pb_edit *e = &m->lane->edits[i];
        if (e->layer == g->layer && e->by_head && e->patch->op == PB_PATCH_FN)
            return true;
    }
    return false;
}

pb_status pb_group_attention(pb_group *g, pb_error *err) {
    int kv_heads = g->spec->kv_heads;
    double work = 0; /* of scores and mixing */
    for (size_t i = 0; i < g->n; i++)
        work += 4.0 * g->members[i].n_z * g->members[i].lane->T * g->spec->heads * g->spec->d_head;
    int threads = pb_threads_for(g->pass->ctx, work);
    scratch_plan plan = plan_scratch(g);
    char *scratch = pb_alloc(g->pass->ctx, plan.bytes, (size_t)threads);
    if (!scratch)
        return pb_fail_memory(err, g->pass->ctx, plan.bytes * (size_t)threads, "attention of one layer");
    int64_t items = (int64_t)g->n * kv_heads;
    int chunk = items > 64 ? 4 : 1;
#pragma omp parallel for schedule(dynamic, chunk) num_threads(threads)
    for (int64_t i = 0; i < items; i++) {
        const pb_member *m = &g->members[i / kv_heads];
        if (m->n_z == 0 || pb_lane_touches_range(m->lane, g->layer, PB_SITE_ATTN_SCORES, PB_SITE_PATTERN))
            continue;
        thread_scratch s = carve(&plan, scratch + plan.bytes * (size_t)omp_get_thread_num());
        fused_item(g, m, (int)(i % kv_heads), &s);
    }
    int failed = 0;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) reduction(| : failed)
    for (size_t i = 0; i < g->n; i++) {
        const pb_member *m = &g->members[i];
        if (!is_laid_out(g, m) || has_callback(g, m))
            continue;
        thread_scratch s = carve(&plan, scratch + plan.bytes * (size_t)omp_get_thread_num());
        failed |= laid_out(g, m, &s, NULL) != PB_OK;
    }
    pb_status status = failed ? pb_fail_memory(err, g->pass->ctx, plan.bytes, "attention scores of one layer") : PB_OK;
    for (size_t i = 0; i < g->n && status == PB_OK; i++)
        if (is_laid_out(g, &g->members[i]) && has_callback(g, &g->members[i])) {
            thread_scratch s = carve(&plan, scratch);
            status = laid_out(g, &g->members[i], &s, err);
        }
    pb_free(scratch);
    return status;
}
