/* Dirty cones: which rows of a lane must be computed in which layer, and what that costs.
 *
 * A row is dirty when its value may differ from the base run's. Within a layer: patches make rows dirty where they are;
 * keys or values of a dirty row make the attention of every later row (within the window) dirty; nothing else crosses
 * rows. After the last layer only rows that somebody reads are needed. */
#include "engine/internal.h"

#include <assert.h>
#include <string.h>

size_t pb_lane_edits(const pb_lane *lane, int layer, pb_site_kind kind, size_t *first) {
    /* edits are sorted by (layer, kind): binary search for the first, then count */
    size_t lo = 0, hi = lane->n_edits;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        const pb_edit *e = &lane->edits[mid];
        if (e->layer < layer || (e->layer == layer && e->kind < kind))
            lo = mid + 1;
        else
            hi = mid;
    }
    *first = lo;
    size_t n = 0;
    while (lo + n < lane->n_edits && lane->edits[lo + n].layer == layer && lane->edits[lo + n].kind == kind)
        n++;
    return n;
}

bool pb_lane_touches_range(const pb_lane *lane, int layer, pb_site_kind first, pb_site_kind last) {
    for (size_t i = 0; i < lane->n_edits; i++) {
        const pb_edit *e = &lane->edits[i];
        if (e->layer == layer && e->kind >= first && e->kind <= last)
            return true;
    }
    for (size_t i = 0; i < lane->n_captures; i++) {
        pb_site s = lane->captures[i].site;
        if (s.layer == layer && s.kind >= first && s.kind <= last)
            return true;
    }
    return false;
}

bool pb_lane_touches(const pb_lane *lane, int layer, pb_site_kind kind) {
    return pb_lane_touches_range(lane, layer, kind, kind);
}

/* ---- row sets -------------------------------------------------------------------------------------------------------------- */

size_t pb_row_sets_size(int32_t T) { return (size_t)T * 7; }

void pb_row_sets_init(pb_row_sets *sets, void *scratch, int32_t T) {
    uint8_t *p = scratch;
    memset(sets, 0, sizeof *sets);
    sets->pre = p;
    sets->a = p + T;
    sets->q = p + 2 * (size_t)T;
    sets->z = p + 3 * (size_t)T;
    sets->post = p + 4 * (size_t)T;
    sets->dirty = p + 5 * (size_t)T;
    sets->held = p + 6 * (size_t)T;
}

static void add_edit_rows(const pb_edit *e, uint8_t *mask) {
    int axis = pb_edit_row_axis(e);
    if (e->n[0] == 0 || e->n[1] == 0 || e->n[2] == 0)
        return;
    for (int32_t i = 0; i < e->n[axis]; i++)
        mask[pb_edit_at(e, axis, i)] = 1;
}

static bool touches_keys_or_values(pb_site_kind kind) {
    switch (kind) {
    case PB_SITE_ATTN_IN:
    case PB_SITE_K_INPUT:
    case PB_SITE_V_INPUT:
    case PB_SITE_LN1_SCALE:
    case PB_SITE_LN1_NORMALIZED:
    case PB_SITE_K:
    case PB_SITE_V:
    case PB_SITE_ROT_K:
        return true;
    default:
        return false;
    }
}

void pb_lane_embed_rows(const pb_lane *lane, uint8_t *mask) {
    for (int32_t p = lane->fresh_from; p < lane->T; p++)
        mask[p] = 1;
    for (size_t i = 0; i < lane->n_edits && lane->edits[i].layer < 0; i++)
        add_edit_rows(&lane->edits[i], mask);
    for (size_t i = 0; i < lane->n_captures; i++) /* values of embedding sites come from computed rows */
        if (lane->captures[i].site.kind <= PB_SITE_POS_EMBED)
            memset(mask, 1, (size_t)lane->T);
    for (int32_t p = lane->limit; p < lane->T; p++)
        mask[p] = 0;
}

static int32_t count(const uint8_t *mask, int32_t T) {
    int32_t n = 0;
    for (int32_t p = 0; p < T; p++)
        n += mask[p];
    return n;
}

/* Captures that come from rows of the layer itself (not from its boundaries). */
static bool captures_inside(const pb_lane *lane, int layer) {
    for (size_t i = 0; i < lane->n_captures; i++) {
        pb_site s = lane->captures[i].site;
        bool boundary = s.kind == PB_SITE_RESID_PRE || (s.kind == PB_SITE_RESID_POST && !lane->base_patched);
        if (s.layer == layer && !boundary && s.kind < PB_SITE_LN_FINAL_SCALE)
            return true;
    }
    return false;
}

/* Is the site `out` of the layer put in whole at all rows of the mask, and does nobody look at first .. out, what it is made of? */
static bool is_held(const pb_lane *lane, int layer, pb_site_kind first, pb_site_kind out, int32_t width,
                    const uint8_t *rows, uint8_t *held) {
    if (!pb_lane_touches(lane, layer, out))
        return false;
    for (size_t i = 0; i < lane->n_captures; i++) {
        pb_site s = lane->captures[i].site;
        if (s.layer == layer && s.kind >= first && s.kind < out)
            return false;
    }
    memset(held, 0, (size_t)lane->T);
    for (size_t i = 0; i < lane->n_edits; i++) {
        const pb_edit *e = &lane->edits[i];
        if (e->layer != layer || e->kind < first || e->kind > out)
            continue;
        bool checked = e->own && lane->check_experts && pb_site_has_expert(e->kind);
        if (e->patch->op == PB_PATCH_FN || checked) /* wants the values, or to know whether they exist */
            return false;
        if (e->kind == out && e->patch->op == PB_PATCH_SET && e->n[2] == width)
            add_edit_rows(e, held);
    }
    for (int32_t p = 0; p < lane->T; p++)
        if (rows[p] && !held[p])
            return false;
    return true;
}

/* Attention's output and the mlp's, where they are held. Shared norms: what the mlp reads has the patches at attention's. */
static void find_held(const pb_spec *spec, const pb_lane *lane, int layer, pb_row_sets *s) {
    int32_t D = spec->d_model;
    bool shared = spec->block == PB_BLOCK_PARALLEL_SHARED &&
                  pb_lane_touches_range(lane, layer, PB_SITE_LN1_SCALE, PB_SITE_LN1_NORMALIZED);
    s->attn_held = !shared && is_held(lane, layer, PB_SITE_ATTN_IN, PB_SITE_ATTN_OUT, D, s->z, s->held);
    s->mlp_held = is_held(lane, layer, PB_SITE_MLP_IN, PB_SITE_MLP_OUT, D, s->z, s->held);
}

void pb_lane_rows(const pb_spec *spec, const pb_lane *lane, int layer, pb_row_sets *s) {
    int32_t T = lane->T;
    size_t bytes = (size_t)T;
    int64_t window = spec->layer[layer].window;
    bool last = layer == spec->layers - 1;
    memcpy(s->pre, lane->dirty, bytes);
    size_t i = 0;
    while (i < lane->n_edits && lane->edits[i].layer < layer)
        i++;
    for (; i < lane->n_edits && lane->edits[i].layer == layer && lane->edits[i].kind == PB_SITE_RESID_PRE; i++)
        if (lane->edits[i].own) /* rows that come from the base's boundary have its own edits already */
            add_edit_rows(&lane->edits[i], s->pre);
    for (int32_t p = lane->limit; p < T; p++)
        s->pre[p] = 0;
    memcpy(s->a, s->pre, bytes); /* becomes: rows whose keys and values may differ */
    memcpy(s->z, s->pre, bytes); /* becomes: rows whose attention or mlp may differ */
    memset(s->post, 0, bytes);
    memset(s->q, 0, bytes);     /* rows touched before the scores */
    uint8_t *forced = s->dirty; /* for a moment: rows that a callback must see whole */
    memset(forced, 0, bytes);
    for (; i < lane->n_edits && lane->edits[i].layer == layer; i++) {
        const pb_edit *e = &lane->edits[i];
        if (touches_keys_or_values(e->kind))
            add_edit_rows(e, s->a);
        if (e->kind >= PB_SITE_ATTN_IN && e->kind <= PB_SITE_ROT_K)
            add_edit_rows(e, s->q);
        if (e->kind <= PB_SITE_MLP_OUT)
            add_edit_rows(e, s->z);
        else
            add_edit_rows(e, lane->base_patched ? s->z : s->post);
        if (e->patch->op == PB_PATCH_FN)
            add_edit_rows(e, forced);
    }
    /* a callback of the base run at the next layer's resid_pre wants its rows as they were before it */
    if (lane->base_patched)
        for (; i < lane->n_edits && lane->edits[i].layer == layer + 1 && lane->edits[i].kind == PB_SITE_RESID_PRE; i++)
            add_edit_rows(&lane->edits[i], s->z);
    /* attention spreads: row p is dirty if any key at or before p (within the window) is */
    int32_t newest = -1;
    for (int32_t p = 0; p < T; p++) {
        if (s->a[p])
            newest = p;
        if (newest >= 0 && (window == 0 || p - newest < window))
            s->z[p] = 1;
    }
    bool all = captures_inside(lane, layer);
    for (int32_t p = 0; p < T; p++) {
        bool wanted = last ? lane->need[p] : p < lane->limit;
        s->z[p] = (s->z[p] && (wanted || forced[p]));
        s->post[p] = (s->post[p] && (wanted || forced[p]));
        s->a[p] = s->a[p] && p < lane->limit;
        s->q[p] = s->q[p] && p < lane->limit;
    }
    for (int32_t p = 0; p < T; p++) {
        s->dirty[p] = s->z[p] | s->post[p];
        s->z[p] = s->z[p] | all;
    }
    find_held(spec, lane, layer, s);
    for (int32_t p = 0; p < T; p++) {
        bool touched = s->q[p];
        if (s->attn_held && !lane->keep) { /* a run that is made remembers its queries, keys and values */
            s->a[p] = s->q[p] = 0;
            s->pre[p] = s->pre[p] | all; /* rows that differ stay: a capture of resid_pre shows them */
        } else if (all) {
            s->a[p] = s->q[p] = s->pre[p] = 1;
        } else {
            s->a[p] = s->a[p] | (touched & s->z[p]);
            s->q[p] = s->a[p] & s->z[p];
            s->pre[p] = s->pre[p] & (s->a[p] | s->z[p]);
        }
        s->post[p] = s->post[p] | s->z[p];
    }
    s->n_pre = count(s->pre, T);
    s->n_a = count(s->a, T);
    s->n_q = count(s->q, T);
    s->n_z = count(s->z, T);
    s->n_post = count(s->post, T);
}

/* ---- is an edit read? -------------------------------------------------------------------------------------------------------- */

/* One entry of a pattern or of scores exists only where dest sees src. rows: of the dests that count; NULL: all do. */
static bool any_visible(const pb_edit *e, int64_t window, const uint8_t *rows) {
    for (int32_t i = 0; i < e->n[1]; i++) {
        int32_t dest = pb_edit_at(e, 1, i);
        if (rows && !rows[dest])
            continue;
        for (int32_t j = 0; j < e->n[2]; j++) {
            int32_t src = pb_edit_at(e, 2, j);
            if (src <= dest && (window == 0 || dest - src < window))
                return true;
        }
    }
    return false;
}

bool pb_edit_is_masked(const pb_spec *spec, const pb_edit *e) {
    bool known = e->n[0] == 0 || e->n[1] == 0 || e->n[2] == 0;
    return e->by_head && !known && !any_visible(e, spec->layer[e->layer].window, NULL);
}

/* A masked entry is seen nowhere but at its own site. */
static bool captured_here(const pb_lane *lane, const pb_edit *e) {
    for (size_t i = 0; i < lane->n_captures; i++)
        if (lane->captures[i].site.layer == e->layer && lane->captures[i].site.kind == e->kind)
            return true;
    return false;
}

static bool is_put_in(const pb_lane *lane, int layer, pb_site_kind out, int32_t width, int32_t row) {
    size_t first, n = pb_lane_edits(lane, layer, out, &first);
    for (size_t i = first; i < first + n; i++) {
        const pb_edit *e = &lane->edits[i];
        if (e->patch->op != PB_PATCH_SET || e->n[2] != width)
            continue;
        for (int32_t j = 0; j < e->n[0]; j++)
            if (pb_edit_at(e, 0, j) == row)
                return true;
    }
    return false;
}

/* Is the edit of something that attn_out (or mlp_out) is made of, and are all rows that it can reach put in whole there? */
static bool is_replaced(const pb_spec *spec, const pb_lane *lane, const pb_edit *e) {
    bool attention = e->kind >= PB_SITE_ATTN_IN && e->kind < PB_SITE_ATTN_OUT,
         mlp = e->kind >= PB_SITE_MLP_IN && e->kind < PB_SITE_MLP_OUT, last = e->layer == spec->layers - 1,
         ln1 = e->kind == PB_SITE_LN1_SCALE || e->kind == PB_SITE_LN1_NORMALIZED,
         ln2 = e->kind == PB_SITE_LN2_SCALE || e->kind == PB_SITE_LN2_NORMALIZED,
         post_add = spec->norm_place == PB_NORM_POST_ADD;
    if (!(attention || mlp) || (post_add && (ln1 || ln2)) || (ln1 && spec->block == PB_BLOCK_PARALLEL_SHARED))
        return false;
    pb_site_kind out = attention ? PB_SITE_ATTN_OUT : PB_SITE_MLP_OUT;
    int axis = pb_edit_row_axis(e);
    int32_t from = lane->T;
    for (int32_t i = 0; i < e->n[axis]; i++) {
        int32_t p = pb_edit_at(e, axis, i);
        from = p < from ? p : from;
        if (p < lane->limit && (!last || lane->need[p]) && !is_put_in(lane, e->layer, out, spec->d_model, p))
            return false;
    }
    for (int32_t p = from; attention && touches_keys_or_values(e->kind) && p < lane->limit; p++)
        if ((!last || lane->need[p]) && !is_put_in(lane, e->layer, out, spec->d_model, p))
            return false;
    return true;
}

bool pb_edit_is_read(const pb_spec *spec, const pb_lane *lane, const pb_edit *e) {
    int32_t first = lane->T;
    int axis = pb_edit_row_axis(e);
    bool meets_need = false;
    if (e->n[0] == 0 || e->n[1] == 0 || e->n[2] == 0)
        return true; /* known to change nothing, which is an answer */
    if (pb_edit_is_masked(spec, e))
        return captured_here(lane, e);
    for (int32_t i = 0; i < e->n[axis]; i++) {
        int32_t p = pb_edit_at(e, axis, i);
        if (p < first)
            first = p;
        meets_need = meets_need || lane->need[p];
    }
    /* captures: whatever comes before or at the captured site can be seen there */
    bool metric = lane->metric || lane->keep;
    if (!metric || lane->n_captures > 0) {
        for (size_t i = 0; i < lane->n_captures; i++) {
            pb_site s = lane->captures[i].site;
            int layer = s.kind >= PB_SITE_LN_FINAL_SCALE ? spec->layers : s.layer;
            if (layer > e->layer || (layer == e->layer && s.kind >= e->kind))
                return true;
        }
        if (!metric)
            return false;
    }
    if (lane->keep)
        return true;
    if (first >= lane->limit || is_replaced(spec, lane, e))
        return false;
    if (e->by_head) {
        int64_t window = spec->layer[e->layer].window;
        if (e->layer == spec->layers - 1)
            return any_visible(e, window, lane->need);
        for (int32_t i = 0; i < e->n[1]; i++)
            for (int32_t j = 0; j < e->n[2]; j++) {
                int32_t dest = pb_edit_at(e, 1, i), src = pb_edit_at(e, 2, j);
                if (dest < lane->limit && src <= dest && (window == 0 || dest - src < window))
                    return true;
            }
        return false;
    }
    if (e->layer >= spec->layers)
        return meets_need;
    if (e->layer == spec->layers - 1 && e->kind > PB_SITE_RESID_PRE && !touches_keys_or_values(e->kind))
        return meets_need;
    return true;
}

/* ---- cost ---------------------------------------------------------------------------------------------------------------------- */

static double layer_flops(const pb_spec *spec, int layer, const pb_row_sets *s, int32_t T) {
    double D = spec->d_model, heads = (double)spec->heads * spec->d_head, kv = (double)spec->kv_heads * spec->d_head;
    const pb_layer *w = &spec->layer[layer];
    double keys = 0;
    for (int32_t p = 0; p < T; p++)
        if (s->z[p])
            keys += w->window && p >= w->window ? (double)w->window : p + 1.0;
    double mlp = (spec->gated ? 3.0 : 2.0) * D * spec->d_mlp, attention = keys * heads * 2.0 + s->n_z * heads * D;
    if (spec->experts > 0)
        mlp = mlp * spec->experts_per_token + D * spec->experts;
    return 2.0 * (s->n_a * D * 2.0 * kv + s->n_q * D * heads + (s->attn_held ? 0 : attention) +
                  (s->mlp_held ? 0 : s->n_z * mlp));
}

pb_status pb_lane_cost(const pb_spec *spec, const pb_lane *lane, pb_cost *cost, pb_error *err) {
    pb_context *ctx = pb_model_context(lane->base ? lane->base->model : lane->keep->model);
    int32_t T = lane->T;
    memset(cost, 0, sizeof *cost);
    uint8_t *scratch = pb_alloc_zero(ctx, pb_row_sets_size(T) + (size_t)T, 1);
    if (!scratch)
        return pb_fail_memory(err, ctx, pb_row_sets_size(T), "a plan");
    pb_lane copy = *lane;
    pb_row_sets sets;
    pb_row_sets_init(&sets, scratch, T);
    copy.dirty = scratch + pb_row_sets_size(T);
    if (lane->start < 0)
        pb_lane_embed_rows(&copy, copy.dirty);
    cost->max_rows = count(copy.dirty, T);
    for (int layer = lane->start < 0 ? 0 : lane->start; layer < spec->layers && layer <= lane->stop_layer; layer++) {
        pb_lane_rows(spec, &copy, layer, &sets);
        cost->rows += sets.n_z;
        cost->flops += layer_flops(spec, layer, &sets, T);
        int32_t most = sets.n_post > sets.n_pre ? sets.n_post : sets.n_pre;
        if (most > cost->max_rows)
            cost->max_rows = most;
        int64_t work = sets.n_a > sets.n_z ? sets.n_a : sets.n_z;
        if (work > cost->layer_rows)
            cost->layer_rows = work;
        memcpy(copy.dirty, sets.dirty, (size_t)T);
    }
    if (lane->metric && lane->stop_layer >= spec->layers) {
        double width = pb_metric_needs_all_logits(lane->metric)
                           ? spec->vocab
                           : (double)(lane->metric->n_answers + lane->metric->n_wrong);
        cost->flops += 2.0 * count(lane->need, T) * spec->d_model * width;
    }
    pb_free(scratch);
    return PB_OK;
}
