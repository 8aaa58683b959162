/* Doing what patches say to the rows of a site, and filling captures from them. */
#include "engine/internal.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "patchbay/rng.h"

int32_t pb_find_row(const int32_t *rows, int32_t n, int32_t pos) {
    if (n > 0 && pos >= rows[0] && pos - rows[0] < n && rows[pos - rows[0]] == pos)
        return pos - rows[0]; /* the usual case: a contiguous range */
    int32_t lo = 0, hi = n;
    while (lo < hi) {
        int32_t mid = (lo + hi) / 2;
        if (rows[mid] < pos)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < n && rows[lo] == pos ? lo : -1;
}

/* ---- values ------------------------------------------------------------------------------------------------------------- */

/* What an edit writes, as floats for the n entries (a, b, c[0..n)) of one innermost line. */
typedef struct line_source {
    const pb_edit *edit;
    const pb_run *run; /* boundary of a run, row by row */
    int boundary;
    const float *values;          /* contiguous site value [n0][n1][n2] of the source run */
    int64_t n1, n2;               /* its lengths */
    int64_t target_n1, target_n2; /* of the patched site, for noise */
    int64_t width;                /* of boundary rows */
} line_source;

static pb_status open_source(const pb_pass *pass, const pb_lane *lane, const pb_edit *e, line_source *s,
                             pb_error *err) {
    const pb_patch *p = e->patch;
    pb_site_info info = pb_site_describe(pass->model, e->kind);
    memset(s, 0, sizeof *s);
    s->edit = e;
    s->target_n1 = e->by_head ? lane->T : (info.heads ? info.heads : 1);
    s->target_n2 = e->by_head ? lane->T : info.width;
    if (p->op == PB_PATCH_FN || p->value != PB_VALUE_RUN)
        return PB_OK;
    pb_site from = p->has_from_site ? p->from_site : p->site;
    if (pb_site_is_boundary(p->run, from)) {
        s->run = p->run;
        s->boundary = from.layer + (from.kind == PB_SITE_RESID_POST);
        s->width = pass->spec->d_model;
        return PB_OK;
    }
    const pb_source *source = pb_source_find(pass, p->run, from);
    if (!source)
        return pb_fail(err, PB_ERR_ARGUMENT, "internal: the source value of a patch was not prepared");
    const int64_t *shape = pb_tensor_shape(source->value);
    int nd = pb_tensor_ndim(source->value);
    s->values = pb_tensor_floats(source->value);
    s->n2 = shape[nd - 1];
    s->n1 = nd == 3 ? shape[1] : 1;
    return PB_OK;
}

static int32_t from_at(const pb_edit *e, int axis, int32_t i) {
    return e->from[axis] ? e->from[axis][i] : pb_edit_at(e, axis, i);
}

/* Values of line (i, j) - indices into the edit's lists - into out[n2]. */
static void read_line(const line_source *s, int32_t i, int32_t j, float *out) {
    const pb_edit *e = s->edit;
    const pb_patch *p = e->patch;
    int32_t n = e->n[2];
    const float *row;
    switch (p->value) {
    case PB_VALUE_NUMBER:
        for (int32_t c = 0; c < n; c++)
            out[c] = (float)p->number;
        return;
    case PB_VALUE_TENSOR:
        for (int32_t c = 0; c < n; c++)
            out[c] = e->tensor[i * e->stride[0] + j * e->stride[1] + c * e->stride[2]];
        return;
    case PB_VALUE_DROPOUT:
    case PB_VALUE_NOISE: {
        void (*draw)(uint64_t, uint64_t, uint64_t, size_t, float *) =
            p->value == PB_VALUE_NOISE ? pb_rng_normal : pb_rng_uniform;
        uint64_t line = (uint64_t)pb_edit_at(e, 0, i) * (uint64_t)s->target_n1 + (uint64_t)pb_edit_at(e, 1, j);
        uint64_t first = line * (uint64_t)s->target_n2;
        if (!e->at[2])
            draw(p->noise_seed, p->noise_draw, first, (size_t)n, out);
        else
            for (int32_t c = 0; c < n; c++)
                draw(p->noise_seed, p->noise_draw, first + (uint64_t)e->at[2][c], 1, &out[c]);
        float std = (float)p->noise_std;
        for (int32_t c = 0; c < n; c++)
            out[c] = p->value == PB_VALUE_NOISE ? out[c] * std : out[c] < std ? 0.0f : 1.0f / (1.0f - std);
        return;
    }
    case PB_VALUE_RUN:
        break;
    }
    int32_t a = from_at(e, 0, i), b = from_at(e, 1, j);
    if (s->run)
        row = pb_run_resid_row(s->run, s->boundary, a, s->width);
    else
        row = s->values + ((int64_t)a * s->n1 + b) * s->n2;
    if (!e->at[2] && !e->from[2])
        memcpy(out, row, (size_t)n * sizeof *out);
    else
        for (int32_t c = 0; c < n; c++)
            out[c] = row[from_at(e, 2, c)];
}

/* ---- writing ------------------------------------------------------------------------------------------------------------- */

static float *view_line(const pb_edit *e, const pb_view *view, int32_t i, int32_t j) {
    int32_t a = pb_edit_at(e, 0, i), b = pb_edit_at(e, 1, j);
    int32_t pos = e->by_head ? b : a, head = e->by_head ? a : b;
    int32_t row = pb_find_row(view->rows, view->n_rows, pos);
    return row < 0 ? NULL : view->data + row * view->row_stride + head * view->head_stride;
}

static inline float combine(pb_patch_op op, float x, float value) {
    return op == PB_PATCH_SET ? value : op == PB_PATCH_ADD ? x + value : x * value;
}

static void write_line(const pb_edit *e, float *line, const float *values, int32_t dest, int64_t window) {
    pb_patch_op op = e->patch->op == PB_PATCH_FN ? PB_PATCH_SET : e->patch->op;
    for (int32_t c = 0; c < e->n[2]; c++) {
        int32_t at = pb_edit_at(e, 2, c);
        if (e->by_head && (at > dest || (window && dest - at >= window)))
            continue; /* a masked entry: the query cannot see it */
        line[at] = combine(op, line[at], values[c]);
    }
}

static pb_status apply_plain(const pb_pass *pass, const pb_lane *lane, const pb_edit *e, const pb_view *view,
                             int64_t window, pb_error *err) {
    line_source source;
    PB_TRY(open_source(pass, lane, e, &source, err));
    float small[1024], *values = small;
    if (e->n[2] > 1024 && !(values = pb_alloc(pass->ctx, (size_t)e->n[2], sizeof *values)))
        return pb_fail_memory(err, pass->ctx, (size_t)e->n[2] * sizeof *values, "a patch");
    for (int32_t i = 0; i < e->n[0]; i++)
        for (int32_t j = 0; j < e->n[1]; j++) {
            float *line = view_line(e, view, i, j);
            if (!line)
                continue;
            read_line(&source, i, j, values);
            write_line(e, line, values, pb_edit_at(e, 1, j), window);
        }
    if (values != small)
        pb_free(values);
    return PB_OK;
}

static pb_status apply_function(const pb_pass *pass, const pb_lane *lane, const pb_edit *e, const pb_view *view,
                                int64_t window, pb_error *err) {
    char site[64];
    int64_t shape[3];
    int nd;
    pb_tensor *act = NULL, *result = NULL;
    PB_TRY(pb_patch_shape(pass->model, e->patch, lane->T, &nd, shape, err));
    pb_status status = pb_tensor_create(pass->ctx, PB_F32, nd, shape, &act, err);
    if (status != PB_OK)
        return status;
    float *p = pb_tensor_floats(act);
    for (int32_t i = 0; i < e->n[0]; i++)
        for (int32_t j = 0; j < e->n[1]; j++) {
            const float *line = view_line(e, view, i, j);
            assert((line || pb_site_has_expert(e->kind)) && "rows of a callback are always computed");
            for (int32_t c = 0; c < e->n[2]; c++) /* an expert that was not chosen there: zeros */
                *p++ = line ? line[pb_edit_at(e, 2, c)] : 0.0f;
        }
    status =
        e->patch->fn(e->patch->user, e->patch, lane->base ? lane->base : lane->keep, e->variant, act, &result, err);
    if (status != PB_OK)
        goto done;
    const pb_tensor *changed = result ? result : act;
    if (pb_tensor_dtype(changed) != PB_F32 || !pb_tensor_same_shape(changed, act)) {
        char got[96], want[96];
        status = pb_fail(err, PB_ERR_CALLBACK,
                         "the patch function at '%s' returned a tensor %s; it must have the shape it was given, %s",
                         pb_site_name(e->patch->site, site, sizeof site),
                         pb_shape_text(pb_tensor_ndim(changed), pb_tensor_shape(changed), got, sizeof got),
                         pb_shape_text(nd, shape, want, sizeof want));
        goto done;
    }
    if (!pb_tensor_contiguous(changed)) {
        pb_tensor *packed = NULL;
        status = pb_tensor_make_contiguous(changed, &packed, err);
        if (status != PB_OK)
            goto done;
        pb_tensor_unref(result);
        result = packed;
        changed = packed;
    }
    const float *values = pb_tensor_floats(changed);
    for (int32_t i = 0; i < e->n[0]; i++)
        for (int32_t j = 0; j < e->n[1]; j++, values += e->n[2]) {
            float *line = view_line(e, view, i, j);
            if (line)
                write_line(e, line, values, pb_edit_at(e, 1, j), window);
        }
done:
    pb_tensor_unref(result);
    pb_tensor_unref(act);
    return status;
}

/* ---- captures -------------------------------------------------------------------------------------------------------------- */

void pb_capture_fill(const pb_capture *c, const pb_view *view, bool by_head) {
    if (by_head) {
        for (int32_t h = 0; h < view->heads; h++)
            for (int32_t r = 0; r < view->n_rows; r++)
                memcpy(c->data + ((int64_t)h * c->shape[1] + view->rows[r]) * c->shape[2],
                       view->data + h * view->head_stride + r * view->row_stride, (size_t)c->shape[2] * sizeof(float));
        return;
    }
    int64_t heads = view->heads ? view->heads : 1;
    for (int32_t r = 0; r < view->n_rows; r++)
        for (int64_t h = 0; h < heads; h++)
            memcpy(c->data + (view->rows[r] * heads + h) * view->width,
                   view->data + r * view->row_stride + h * view->head_stride, (size_t)view->width * sizeof(float));
}

pb_status pb_visit(pb_pass *pass, pb_lane *lane, int layer, pb_site_kind kind, const pb_view *view, pb_edit_who who,
                   pb_error *err) {
    size_t first, n = pb_lane_edits(lane, layer, kind, &first);
    int64_t window = layer >= 0 && layer < pass->spec->layers ? pass->spec->layer[layer].window : 0;
    for (size_t i = first; i < first + n; i++) {
        const pb_edit *e = &lane->edits[i];
        if ((who == PB_EDITS_BASE && e->own) || (who == PB_EDITS_OWN && !e->own) || e->n[0] == 0 || e->n[1] == 0 ||
            e->n[2] == 0 || e->expert != view->expert)
            continue;
        pb_status status = e->patch->op == PB_PATCH_FN ? apply_function(pass, lane, e, view, window, err)
                                                       : apply_plain(pass, lane, e, view, window, err);
        if (status != PB_OK)
            return status;
    }
    if (who == PB_EDITS_BASE)
        return PB_OK;
    bool by_head = pb_site_describe(pass->model, kind).shape == PB_SHAPE_HEAD_POS_POS;
    for (size_t i = 0; i < lane->n_captures; i++) {
        const pb_capture *c = &lane->captures[i];
        if (c->site.kind == kind && c->site.expert == view->expert &&
            (c->site.layer == layer || kind >= PB_SITE_LN_FINAL_SCALE))
            pb_capture_fill(c, view, by_head);
    }
    return PB_OK;
}

/* ---- gradients ---------------------------------------------------------------------------------------------------------------- */

static pb_status edit_back(const pb_pass *pass, const pb_lane *lane, const pb_edit *e, const pb_view *view,
                           int64_t window, pb_error *err) {
    line_source source;
    if (e->patch->op == PB_PATCH_ADD)
        return PB_OK;
    PB_TRY(open_source(pass, lane, e, &source, err));
    float *values = pb_alloc(pass->ctx, (size_t)e->n[2], sizeof *values);
    if (!values)
        return pb_fail_memory(err, pass->ctx, (size_t)e->n[2] * sizeof *values, "a patch");
    for (int32_t i = 0; i < e->n[0]; i++)
        for (int32_t j = 0; j < e->n[1]; j++) {
            float *line = view_line(e, view, i, j);
            int32_t dest = pb_edit_at(e, 1, j);
            if (!line)
                continue;
            if (e->patch->op == PB_PATCH_SCALE)
                read_line(&source, i, j, values);
            for (int32_t c = 0; c < e->n[2]; c++) {
                int32_t at = pb_edit_at(e, 2, c);
                if (e->by_head && (at > dest || (window && dest - at >= window)))
                    continue;
                line[at] = e->patch->op == PB_PATCH_SCALE ? line[at] * values[c] : 0.0f;
            }
        }
    pb_free(values);
    return PB_OK;
}

pb_status pb_visit_back(pb_pass *pass, pb_lane *lane, int layer, pb_site_kind kind, const pb_view *view,
                        pb_error *err) {
    size_t first, n = pb_lane_edits(lane, layer, kind, &first);
    int64_t window = layer >= 0 && layer < pass->spec->layers ? pass->spec->layer[layer].window : 0;
    for (size_t i = first + n; i-- > first;)
        if (lane->edits[i].expert == view->expert)
            PB_TRY(edit_back(pass, lane, &lane->edits[i], view, window, err));
    return PB_OK;
}
