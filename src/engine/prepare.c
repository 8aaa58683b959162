/* Preparing a lane: patches become edits, sorted in the order of the computation; where it starts and stops; which rows
 * anything wanted depends on. */
#include "engine/internal.h"

#include <stdio.h>
#include <string.h>

/* Base edits before the cone's start are in the base's values already. */
static int own_start(const pb_spec *spec, const pb_lane *lane) {
    int start = lane->fresh_from < lane->T ? -1 : spec->layers;
    for (size_t i = 0; i < lane->n_edits; i++) {
        const pb_edit *e = &lane->edits[i];
        if (e->own && e->n[0] > 0 && e->n[1] > 0 && e->n[2] > 0 && e->layer < start)
            start = e->layer;
    }
    for (size_t i = 0; i < lane->n_captures; i++) { /* values come from rows of their layer */
        pb_site s = lane->captures[i].site;
        if (s.kind < PB_SITE_LN_FINAL_SCALE && s.layer < start)
            start = s.layer;
    }
    return start;
}

static bool before(const pb_edit *a, const pb_edit *b) {
    return a->layer < b->layer || (a->layer == b->layer && a->kind < b->kind);
}

/* Stable: base edits come first at one site, then the request's in list order. */
static void sort_edits(pb_edit *edits, size_t n) {
    for (size_t i = 1; i < n; i++) {
        pb_edit e = edits[i];
        size_t j = i;
        for (; j > 0 && before(&e, &edits[j - 1]); j--)
            edits[j] = edits[j - 1];
        edits[j] = e;
    }
}

static int32_t first_row(const pb_edit *e) {
    int32_t first = INT32_MAX;
    int axis = pb_edit_row_axis(e);
    for (int32_t i = 0; e->n[0] > 0 && e->n[1] > 0 && e->n[2] > 0 && i < e->n[axis]; i++)
        first = pb_edit_at(e, axis, i) < first ? pb_edit_at(e, axis, i) : first;
    return first;
}

/* Values that the base has already change nothing and cost nothing, as long as no earlier edit has changed an earlier row:
 * then they hold the base's values against that change. */
static pb_status drop_known(pb_arena *arena, pb_lane *lane, pb_error *err) {
    int32_t changed_from = lane->fresh_from; /* rows below it are the base's */
    for (size_t i = 0; i < lane->n_edits; i++) {
        pb_edit *e = &lane->edits[i];
        if (!e->own)
            continue;
        int32_t known = pb_edit_known_rows(e, lane->base);
        if (known > 0)
            PB_TRY(pb_edit_drop_rows(arena, e, known < changed_from ? known : changed_from, err));
        int32_t first = first_row(e);
        changed_from = first < changed_from ? first : changed_from;
    }
    return PB_OK;
}

pb_status pb_lane_resolve(pb_arena *arena, const pb_model *model, pb_lane *lane, const pb_patch *patches, size_t n,
                          pb_error *err) {
    bool fork = lane->fresh_from < lane->T;
    const pb_patch_list *held = lane->base && !fork ? lane->base->patches : NULL;
    size_t n_held = held ? held->n : 0;
    lane->base_patched = n_held > 0;
    lane->edits = pb_arena_get(arena, (n_held + n) * sizeof *lane->edits + 1);
    if (!lane->edits)
        return pb_fail_memory(err, arena->ctx, (n_held + n) * sizeof *lane->edits, "patches");
    for (size_t i = 0; i < n_held + n; i++) {
        pb_edit *e = &lane->edits[i];
        const pb_patch *p = i < n_held ? &held->items[i] : &patches[i - n_held];
        PB_TRY(pb_edit_resolve(arena, model, p, lane->T, e, err));
        e->own = i >= n_held;
        e->variant = lane->index;
    }
    lane->n_edits = n_held + n;
    sort_edits(lane->edits, lane->n_edits);
    return drop_known(arena, lane, err);
}

static void begin_at_own(const pb_spec *spec, pb_lane *lane) {
    lane->start = own_start(spec, lane);
    size_t kept = 0;
    for (size_t i = 0; i < lane->n_edits; i++)
        if (lane->edits[i].own || lane->edits[i].layer >= lane->start)
            lane->edits[kept++] = lane->edits[i];
    lane->n_edits = kept;
}

static void set_stop(const pb_spec *spec, pb_lane *lane) {
    lane->stop_layer = lane->metric ? spec->layers : lane->keep ? spec->layers - 1 : -1;
    lane->stop_kind = lane->keep || lane->metric ? PB_SITE_RESID_POST : PB_SITE_EMBED;
    for (size_t i = 0; i < lane->n_captures; i++) {
        pb_site s = lane->captures[i].site;
        int layer = s.kind >= PB_SITE_LN_FINAL_SCALE ? spec->layers : s.layer;
        if (layer > lane->stop_layer) {
            lane->stop_layer = layer;
            lane->stop_kind = s.kind;
        } else if (layer == lane->stop_layer && s.kind > lane->stop_kind) {
            lane->stop_kind = s.kind;
        }
    }
}

static pb_status set_need(pb_arena *arena, const pb_model *model, pb_lane *lane, pb_error *err) {
    const pb_spec *spec = pb_model_spec(model);
    size_t T = (size_t)lane->T;
    lane->need = pb_arena_get(arena, T);
    int32_t *positions = pb_arena_get(arena, T * sizeof *positions);
    if (!lane->need || !positions)
        return pb_fail_memory(err, arena->ctx, T * 5, "positions");
    lane->limit = 0;
    if (lane->metric) {
        int32_t n;
        PB_TRY(pb_metric_positions(lane->metric, model, lane->T, positions, &n, err));
        for (int32_t i = 0; i < n; i++) {
            lane->need[positions[i]] = 1;
            if (positions[i] >= lane->limit)
                lane->limit = positions[i] + 1;
        }
    }
    bool all = lane->keep != NULL;
    for (size_t i = 0; i < lane->n_captures; i++) {
        pb_site s = lane->captures[i].site;
        all = all || s.kind >= PB_SITE_LN_FINAL_SCALE || (s.kind == PB_SITE_RESID_POST && s.layer == spec->layers - 1);
    }
    if (all)
        memset(lane->need, 1, T);
    if (lane->keep || lane->n_captures > 0)
        lane->limit = lane->T;
    for (size_t i = 0; i < lane->n_edits; i++) { /* a callback sees all the rows that it asked for */
        const pb_edit *e = &lane->edits[i];
        if (e->patch->op != PB_PATCH_FN)
            continue;
        int axis = pb_edit_row_axis(e);
        for (int32_t j = 0; j < e->n[axis]; j++) {
            int32_t p = pb_edit_at(e, axis, j);
            if (p >= lane->limit)
                lane->limit = p + 1;
            if (e->layer >= spec->layers)
                lane->need[p] = 1;
        }
    }
    return PB_OK;
}

const char *pb_lane_whose(const pb_lane *lane, char *buffer, size_t size) {
    buffer[0] = '\0';
    if (lane->many)
        snprintf(buffer, size, " of variant %zu", lane->number);
    else if (lane->n_edits)
        snprintf(buffer, size, " of a patched run");
    return buffer;
}

static pb_status fail_masked(const pb_spec *spec, const pb_edit *e, pb_error *err) {
    char site[64], window[64] = "", where[96] = "";
    if (spec->layer[e->layer].window)
        snprintf(window, sizeof window, ", and no more than %lld back", (long long)spec->layer[e->layer].window - 1);
    if (e->n[1] == 1 && e->n[2] == 1)
        snprintf(where, sizeof where, " at dest %d, src %d", pb_edit_at(e, 1, 0), pb_edit_at(e, 2, 0));
    return pb_fail(
        err, PB_ERR_ARGUMENT,
        "the patch at '%s'%s would change nothing: all that it chooses is masked (dest attends to itself and to "
        "what is before it%s, so src is at most dest); were dest and src exchanged?",
        pb_site_name(e->patch->site, site, sizeof site), where, window);
}

pb_status pb_lane_check_masked(const pb_spec *spec, const pb_lane *lane, pb_error *err) {
    for (size_t i = 0; i < lane->n_edits; i++)
        if (lane->edits[i].own && pb_edit_is_masked(spec, &lane->edits[i]))
            return fail_masked(spec, &lane->edits[i], err);
    return PB_OK;
}

static pb_status check_read(const pb_model *model, const pb_lane *lane, pb_error *err) {
    for (size_t i = 0; i < lane->n_edits; i++) {
        const pb_edit *e = &lane->edits[i];
        if (!e->own || e->patch->op == PB_PATCH_FN || pb_edit_is_read(pb_model_spec(model), lane, e))
            continue;
        char site[64], where[96] = "";
        if (pb_edit_is_masked(pb_model_spec(model), e))
            return fail_masked(pb_model_spec(model), e, err);
        pb_site_name(e->patch->site, site, sizeof site);
        int axis = pb_edit_row_axis(e);
        if (e->n[axis] == 1)
            snprintf(where, sizeof where, " at %s %d", axis ? "dest" : "pos", pb_edit_at(e, axis, 0));
        return pb_fail(
            err, PB_ERR_ARGUMENT,
            "nothing reads the patch at '%s'%s: what is measured cannot depend on it (later positions never "
            "reach earlier ones, after the last layer's attention only the positions that the metric reads "
            "count, and where a patch puts in the whole of hook_attn_out or hook_mlp_out, what it is made of "
            "does not); drop it, move it, or allow it with allow_unread = true",
            site, where);
    }
    return PB_OK;
}

pb_status pb_lane_prepare(pb_arena *arena, pb_model *model, pb_lane *lane, const pb_patch *patches, size_t n_patches,
                          bool allow_unread, pb_cost *cost, pb_error *err) {
    PB_TRY(pb_lane_resolve(arena, model, lane, patches, n_patches, err));
    begin_at_own(pb_model_spec(model), lane);
    set_stop(pb_model_spec(model), lane);
    PB_TRY(set_need(arena, model, lane, err));
    lane->check_experts = !allow_unread; /* known only when the router has chosen */
    if (!allow_unread)
        PB_TRY(check_read(model, lane, err));
    PB_TRY(pb_lane_cost(pb_model_spec(model), lane, cost, err));
    lane->cap = cost->max_rows;
    return PB_OK;
}
