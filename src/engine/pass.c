/* The pass: embedding, layers, final sites; the values that patches take from other runs, made when their layer comes. */
#include "engine/internal.h"

#include <string.h>

/* ---- shared scratch ------------------------------------------------------------------------------------------------------ */

pb_status pb_pass_work(pb_pass *pass, size_t n, float **out, pb_error *err) {
    if (n > pass->work_floats) {
        pb_free(pass->work);
        pass->work_floats = 0;
        pass->work = pb_alloc(pass->ctx, n, sizeof *pass->work);
        if (!pass->work)
            return pb_fail_memory(err, pass->ctx, n * sizeof *pass->work, "the rows of one layer");
        pass->work_floats = n;
    }
    *out = pass->work;
    return PB_OK;
}

/* Rows of positions 0 .. T - 1 for these frequencies. */
static pb_status fill_rotary(pb_pass *pass, const float *inv_freq, int64_t half, float factor, int32_t T,
                             pb_rotary_cache *cache, pb_error *err) {
    size_t n = (size_t)T * (size_t)half;
    float *both = pb_alloc(pass->ctx, 2 * n, sizeof *both);
    if (!both)
        return pb_fail_memory(err, pass->ctx, 2 * n * sizeof *both, "rotation tables");
    for (int32_t p = 0; p < T; p++)
        pb_rotary_table(inv_freq, half, p, factor, both + p * half, both + n + (size_t)p * (size_t)half);
    cache->cosine = both;
    cache->sine = both + n;
    cache->T = T;
    return PB_OK;
}

/* The table of a sequence of exactly T tokens, in a list behind the plain one. */
static pb_status dynamic_rotary(pb_pass *pass, const pb_rotary *r, int32_t T, pb_rotary_cache *first,
                                pb_rotary_cache **out, pb_error *err) {
    pb_rotary_cache *cache = first;
    while (cache->next && cache->T != T)
        cache = cache->next;
    *out = cache;
    if (cache->T == T)
        return PB_OK;
    int64_t half = r->dims / 2;
    float *inv_freq = pb_alloc(pass->ctx, (size_t)half, sizeof *inv_freq);
    pb_rotary_cache *made = cache->cosine ? pb_alloc_zero(pass->ctx, 1, sizeof *made) : cache;
    pb_status status =
        inv_freq && made ? PB_OK : pb_fail_memory(err, pass->ctx, (size_t)half * sizeof *inv_freq, "rotation tables");
    if (status == PB_OK) {
        pb_rotary_dynamic(r, T, inv_freq);
        status = fill_rotary(pass, inv_freq, half, r->factor, T, made, err);
    }
    pb_free(inv_freq);
    if (made != cache && status == PB_OK)
        cache->next = made;
    else if (made != cache)
        pb_free(made);
    *out = made;
    return status;
}

pb_status pb_pass_rotary(pb_pass *pass, int rotary, int32_t T, const float **cosine, const float **sine,
                         pb_error *err) {
    const pb_rotary *r = &pass->spec->rotaries[rotary];
    bool is_long = r->long_from > 0 && T > r->long_from, is_dynamic = r->dynamic_from > 0 && T > r->dynamic_from;
    pb_rotary_cache *cache = &pass->rotary[2 * rotary + (is_long || is_dynamic)];
    if (is_dynamic)
        PB_TRY(dynamic_rotary(pass, r, T, cache, &cache, err));
    else if (!cache->cosine)
        PB_TRY(fill_rotary(pass, is_long ? r->long_inv_freq : r->inv_freq, r->dims / 2,
                           is_long ? r->long_factor : r->factor, pass->max_T, cache, err));
    *cosine = cache->cosine;
    *sine = cache->sine;
    return PB_OK;
}

void pb_pass_free_rotaries(pb_pass *pass) {
    for (int r = 0; pass->rotary && r < 2 * pass->spec->n_rotaries; r++) {
        pb_free(pass->rotary[r].cosine);
        for (pb_rotary_cache *more = pass->rotary[r].next; more;) {
            pb_rotary_cache *next = more->next;
            pb_free(more->cosine);
            pb_free(more);
            more = next;
        }
    }
    pb_free(pass->rotary);
}

/* ---- values of source runs ------------------------------------------------------------------------------------------------- */

const pb_source *pb_source_find(const pb_pass *pass, const pb_run *run, pb_site site) {
    for (const pb_source *s = pass->sources; s; s = s->next)
        if (s->run == run && pb_site_equal(s->site, site))
            return s;
    return NULL;
}

static bool source_of(const pb_edit *e, pb_site *site) {
    const pb_patch *p = e->patch;
    if (p->op == PB_PATCH_FN || p->value != PB_VALUE_RUN || e->n[0] == 0 || e->n[1] == 0 || e->n[2] == 0)
        return false;
    *site = p->has_from_site ? p->from_site : p->site;
    return !pb_site_is_boundary(p->run, *site);
}

/* Note the sources that edits of this layer read and that are not there yet. */
static pb_status note_sources(pb_pass *pass, int layer, pb_error *err) {
    for (size_t i = 0; i < pass->n_lanes; i++)
        for (size_t j = 0; j < pass->lanes[i].n_edits; j++) {
            const pb_edit *e = &pass->lanes[i].edits[j];
            pb_site site;
            if (e->layer != layer || !source_of(e, &site) || pb_source_find(pass, e->patch->run, site))
                continue;
            pb_source *s = pb_alloc_zero(pass->ctx, 1, sizeof *s);
            if (!s)
                return pb_fail_memory(err, pass->ctx, sizeof *s, "a source value");
            *s = (pb_source){e->patch->run, site, NULL, layer, pass->sources};
            pass->sources = s;
        }
    return PB_OK;
}

pb_status pb_sources_prepare(pb_pass *pass, int layer, pb_error *err) {
    PB_TRY(note_sources(pass, layer, err));
    for (pb_source *s = pass->sources; s; s = s->next) {
        if (s->value)
            continue;
        pb_site sites[PB_SITE_KINDS];
        pb_source *which[PB_SITE_KINDS];
        pb_tensor *values[PB_SITE_KINDS];
        size_t n = 0;
        for (pb_source *t = s; t && n < PB_SITE_KINDS; t = t->next) /* all that this run must give, in one go */
            if (!t->value && t->run == s->run) {
                which[n] = t;
                sites[n++] = t->site;
            }
        PB_TRY(pb_run_values((pb_run *)(uintptr_t)s->run, sites, n, values, err));
        for (size_t i = 0; i < n; i++)
            which[i]->value = values[i];
    }
    /* a value that later layers read too stays until then */
    for (size_t i = 0; i < pass->n_lanes; i++)
        for (size_t j = pass->lanes[i].n_edits; j-- > 0 && pass->lanes[i].edits[j].layer > layer;) {
            const pb_edit *e = &pass->lanes[i].edits[j];
            pb_site site;
            if (!source_of(e, &site))
                continue;
            pb_source *s = (pb_source *)(uintptr_t)pb_source_find(pass, e->patch->run, site);
            if (s && s->last_layer < e->layer)
                s->last_layer = e->layer;
        }
    return PB_OK;
}

void pb_sources_drop(pb_pass *pass, int layer) {
    pb_source **at = &pass->sources;
    while (*at) {
        pb_source *s = *at;
        if (s->last_layer > layer) {
            at = &s->next;
            continue;
        }
        *at = s->next;
        pb_tensor_unref(s->value);
        pb_free(s);
    }
}

/* ---- embedding -------------------------------------------------------------------------------------------------------------- */

/* Rows that are read from the embedding tables before a streamed model lets go of them: each is another place of the file, of
 * which the system brings some pages around. */
enum { LOOKED_UP = 128 };

/* Token embeddings of the lane's rows as they are added to the stream. */
static pb_status embed_rows(pb_pass *pass, pb_lane *lane, pb_error *err) {
    const pb_spec *s = pass->spec;
    int64_t D = s->d_model, E = s->d_embed;
    float *narrow = lane->x;
    if (s->project_in.data && !(narrow = pb_alloc(pass->ctx, (size_t)lane->n * (size_t)E, sizeof *narrow)))
        return pb_fail_memory(err, pass->ctx, (size_t)lane->n * (size_t)E * sizeof *narrow, "embeddings");
    for (int32_t r = 0; r < lane->n; r++) {
        if (++pass->looked_up % LOOKED_UP == 0)
            pb_stream_done(pass->model, PB_STREAM_EMBED);
        pb_matrix_output_row(&s->embed, lane->tokens[lane->pos[r]], narrow + r * E);
        if (s->embed_scale != 1.0f)
            pb_vec_scale(s->embed_scale, narrow + r * E, E);
    }
    pb_status status = PB_OK;
    if (s->project_in.data) {
        status = pb_linear(pass->ctx, narrow, E, lane->n, &s->project_in, lane->x, D, 0, err);
        pb_free(narrow);
    }
    if (status == PB_OK && s->has_embed_norm) {
        pb_norm norm = pb_spec_norm(s, s->embed_norm);
        norm.centre = true;
        pb_norm_rows(pass->ctx, &norm, lane->x, D, lane->n, lane->x, D, NULL, NULL, 0);
    }
    return status;
}

static pb_status add_positions(pb_pass *pass, pb_lane *lane, pb_error *err) {
    const pb_spec *s = pass->spec;
    int64_t D = s->d_model;
    float *rows = pb_alloc(pass->ctx, (size_t)lane->n * (size_t)D, sizeof *rows);
    if (!rows)
        return pb_fail_memory(err, pass->ctx, (size_t)lane->n * (size_t)D * sizeof *rows, "position embeddings");
    for (int32_t r = 0; r < lane->n; r++)
        pb_matrix_output_row(&s->pos_embed, lane->pos[r] + s->position_offset, rows + r * D);
    pb_view view = {rows, lane->pos, lane->n, D, D, 1, (int32_t)D};
    pb_status status = pb_visit(pass, lane, -1, PB_SITE_POS_EMBED, &view, PB_EDITS_ALL, err);
    if (status == PB_OK)
        pb_vec_add(lane->x, rows, lane->x, lane->n * D);
    pb_free(rows);
    return status;
}

static pb_status begin_at_embedding(pb_pass *pass, pb_lane *lane, pb_error *err) {
    int64_t D = pass->spec->d_model;
    pb_lane_embed_rows(lane, lane->dirty);
    lane->n = 0;
    for (int32_t p = 0; p < lane->T; p++)
        if (lane->dirty[p])
            lane->pos[lane->n++] = p;
    PB_TRY(embed_rows(pass, lane, err));
    pb_view view = {lane->x, lane->pos, lane->n, D, D, 1, (int32_t)D};
    PB_TRY(pb_visit(pass, lane, -1, PB_SITE_EMBED, &view, PB_EDITS_ALL, err));
    if (pass->spec->position == PB_POSITION_LEARNED)
        PB_TRY(add_positions(pass, lane, err));
    return PB_OK;
}

/* ---- the loop ------------------------------------------------------------------------------------------------------------------ */

/* Lanes that go through the layer, into active; returns how many. */
static size_t list_active(pb_pass *pass, int layer, pb_lane **active) {
    size_t n = 0;
    for (size_t i = 0; i < pass->n_lanes; i++)
        if (pass->lanes[i].start <= layer && pass->lanes[i].stop_layer >= layer)
            active[n++] = &pass->lanes[i];
    return n;
}

/* The first layer from `layer` on that a lane goes through; the number of layers if there is none. Its pages are asked for. */
static int next_layer(pb_pass *pass, int layer, pb_lane **active) {
    for (; layer < pass->spec->layers; layer++) {
        size_t n = list_active(pass, layer, active);
        double rows = 0;
        for (size_t i = 0; i < n; i++)
            rows += active[i]->cap;
        if (n > 0) {
            pb_stream_ahead(pass->model, layer, rows);
            break;
        }
    }
    return layer;
}

static pb_status run_layers(pb_pass *pass, pb_lane **active, pb_error *err) {
    pb_status status = PB_OK;
    int layer = next_layer(pass, 0, active);
    while (layer < pass->spec->layers && status == PB_OK) {
        int next = next_layer(pass, layer + 1, active);
        size_t n = list_active(pass, layer, active);
        status = pb_sources_prepare(pass, layer, err);
        if (status == PB_OK)
            status = pb_layer_run(pass, layer, active, n, err);
        pb_stream_done(pass->model, layer);
        if (status == PB_OK)
            pb_sources_drop(pass, layer);
        layer = next;
    }
    return status;
}

pb_status pb_pass_run(pb_pass *pass, pb_error *err) {
    bool embed = false;
    PB_TRY(pb_context_check(pass->ctx, err));
    for (size_t i = 0; i < pass->n_lanes; i++)
        embed = embed || pass->lanes[i].start < 0;
    if (embed) {
        PB_TRY(pb_sources_prepare(pass, -1, err));
        for (size_t i = 0; i < pass->n_lanes; i++)
            if (pass->lanes[i].start < 0)
                PB_TRY(begin_at_embedding(pass, &pass->lanes[i], err));
        pb_stream_done(pass->model, PB_STREAM_EMBED);
        pb_sources_drop(pass, -1);
    }
    pb_lane **active = pb_alloc(pass->ctx, pass->n_lanes, sizeof *active);
    if (!active)
        return pb_fail_memory(err, pass->ctx, pass->n_lanes * sizeof *active, "variants");
    pb_status status = run_layers(pass, active, err);
    pb_free(active);
    if (status == PB_OK)
        status = pb_sources_prepare(pass, pass->spec->layers, err);
    if (status == PB_OK)
        status = pb_pass_finish(pass, err);
    return status;
}

/* ---- lanes: memory around a pass --------------------------------------------------------------------------------------------------- */

size_t pb_layer_bytes(const pb_spec *s, int64_t rows) {
    int64_t D = s->d_model, qw = (int64_t)s->heads * s->d_head, kw = (int64_t)s->kv_heads * s->d_head;
    int64_t hidden = (s->gated ? 2 : 1) * (int64_t)s->d_mlp;
    return (size_t)rows * (size_t)(4 * D + 2 * qw + 2 * kw + hidden) * sizeof(float);
}

size_t pb_work_left(const pb_context *ctx, size_t most) {
    size_t limit = pb_context_memory_limit(ctx), used = pb_context_memory_used(ctx);
    size_t left = limit > used ? (limit - used) / 10 * 9 : 0;
    return limit == 0 || left > most ? most : left;
}

int64_t pb_group_rows_for(const pb_spec *spec, size_t bytes) {
    int64_t rows = (int64_t)(bytes / pb_layer_bytes(spec, 1));
    return rows < 16 ? 16 : rows > 2048 ? 2048 : rows;
}

pb_status pb_lanes_run(pb_model *model, pb_lane *lanes, size_t n, const char *what, int64_t group_rows, double done,
                       double total, pb_error *err) {
    pb_context *ctx = pb_model_context(model);
    const pb_spec *spec = pb_model_spec(model);
    pb_pass pass = {.ctx = ctx,
                    .model = model,
                    .spec = spec,
                    .lanes = lanes,
                    .n_lanes = n,
                    .what = what,
                    .done = done,
                    .total = total,
                    .group_rows = group_rows,
                    .arena = {.ctx = ctx}};
    size_t rows = 0, positions = 0;
    for (size_t i = 0; i < n; i++) {
        rows += (size_t)lanes[i].cap;
        positions += (size_t)lanes[i].T;
        if (lanes[i].T > pass.max_T)
            pass.max_T = lanes[i].T;
    }
    float *x = pb_alloc(ctx, rows * (size_t)spec->d_model, sizeof *x);
    int32_t *pos = pb_alloc(ctx, rows, sizeof *pos);
    uint8_t *dirty = pb_alloc_zero(ctx, positions, 1);
    pass.rotary = pb_alloc_zero(ctx, 2 * (size_t)spec->n_rotaries, sizeof *pass.rotary);
    pb_status status = PB_OK;
    if (!x || !pos || !dirty || !pass.rotary)
        status =
            pb_fail_memory(err, ctx, rows * (size_t)spec->d_model * sizeof *x, "the residual streams of the variants");
    for (size_t i = 0, row = 0, p = 0; i < n; i++) {
        lanes[i].x = x ? x + row * (size_t)spec->d_model : NULL;
        lanes[i].pos = pos ? pos + row : NULL;
        lanes[i].dirty = dirty ? dirty + p : NULL;
        lanes[i].n = 0;
        row += (size_t)lanes[i].cap;
        p += (size_t)lanes[i].T;
    }
    if (status == PB_OK)
        status = pb_pass_run(&pass, err);
    pb_sources_drop(&pass, INT32_MAX);
    pb_pass_free_rotaries(&pass);
    pb_free(pass.work);
    pb_free(x);
    pb_free(pos);
    pb_free(dirty);
    return status;
}
