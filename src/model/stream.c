/* Streaming; see stream.h. The table of what a layer needs is made from the addresses of the spec's matrices, so that it knows
 * nothing of families: a matrix in a mapped file belongs to the layers that point to it. */
#include "model/stream.h"

#include <stdlib.h>

#include "model/loading.h"

enum { OUTPUTS_STEP = 256 /* the products' block of inputs, when a map is used backwards */ };

typedef struct span {
    const pb_source *source;
    const char *begin;
    size_t bytes;
    bool expert;
} span;

struct pb_stream {
    span *spans;
    size_t n,
        *first; /* [layers + 3] stages: embedding, layers, unembedding; spans of stage s: first[s] .. first[s + 1] - 1 */
    size_t window;
};

/* ---- the table -------------------------------------------------------------------------------------------------------- */

typedef struct builder {
    pb_model *model;
    pb_stream *stream;
    size_t room, begin;     /* of the present stage: its first span */
    const pb_entry *copied; /* a matrix of a file that is used as a copy; NULL: none */
} builder;

static const pb_source *mapped_in(const pb_model *model, const void *data) {
    for (size_t i = 0; data && i < model->n_sources; i++)
        if (pb_source_maps(model->sources[i], data))
            return model->sources[i];
    return NULL;
}

static pb_status add_matrix(builder *b, const pb_matrix *m, bool expert, pb_error *err) {
    pb_origin origin;
    const pb_source *source = mapped_in(b->model, m->data);
    pb_stream *s = b->stream;
    if (!m->data || !pb_model_origin(b->model, m->data, &origin))
        return PB_OK; /* absent, or made by weight processing */
    const pb_weight *weight = &b->model->weights[origin.weight];
    if (!source) {
        if (!pb_source_is_memory(weight->source))
            b->copied = weight->entry;
        return PB_OK;
    }
    if (s->n == b->room) {
        size_t room = b->room ? 2 * b->room : 64;
        span *grown = pb_realloc(b->model->ctx, s->spans, room, sizeof *grown);
        if (!grown)
            return pb_fail_memory(err, b->model->ctx, room * sizeof *grown, "the table of a streamed model");
        s->spans = grown;
        b->room = room;
    }
    s->spans[s->n++] = (span){source, weight->entry->data, weight->entry->bytes, expert};
    return PB_OK;
}

static int by_place(const void *a, const void *b) {
    const span *x = a, *y = b;
    if (x->expert != y->expert)
        return x->expert - y->expert;
    return ((uintptr_t)x->begin > (uintptr_t)y->begin) - ((uintptr_t)x->begin < (uintptr_t)y->begin);
}

/* Sorts the stage's spans, makes one of those that meet (fused maps are listed several times), and ends it. Returns its bytes. */
static size_t close_stage(builder *b, size_t stage) {
    pb_stream *s = b->stream;
    const size_t n = s->n - b->begin;
    size_t kept = b->begin, bytes = 0;
    if (n > 1)
        qsort(s->spans + b->begin, n, sizeof *s->spans, by_place);
    for (size_t i = b->begin; i < s->n; i++) {
        span *last = kept > b->begin ? &s->spans[kept - 1] : NULL, now = s->spans[i];
        uintptr_t at = (uintptr_t)now.begin, end = last ? (uintptr_t)last->begin + last->bytes : 0;
        if (last && last->source == now.source && last->expert == now.expert && at <= end + PB_SOURCE_AROUND) {
            if (at + now.bytes > end)
                last->bytes = at + now.bytes - (uintptr_t)last->begin;
        } else {
            s->spans[kept++] = now;
        }
    }
    for (size_t i = b->begin; i < kept; i++)
        bytes += s->spans[i].bytes + 2 * PB_SOURCE_AROUND;
    s->n = b->begin = s->first[stage + 1] = kept;
    return bytes;
}

static pb_status add_layer(builder *b, const pb_layer *l, pb_error *err) {
    const pb_matrix *plain[] = {&l->q, &l->k, &l->v, &l->o, &l->mlp_in, &l->mlp_linear, &l->mlp_out, &l->router};
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++)
        PB_TRY(add_matrix(b, plain[i], false, err));
    for (int e = 0; e < b->model->spec.experts; e++) {
        PB_TRY(add_matrix(b, &l->expert_in[e], true, err));
        PB_TRY(add_matrix(b, &l->expert_linear[e], true, err));
        PB_TRY(add_matrix(b, &l->expert_out[e], true, err));
    }
    return PB_OK;
}

static pb_status build(builder *b, pb_error *err) {
    const pb_spec *spec = &b->model->spec;
    size_t layers = (size_t)spec->layers;
    b->stream->first[0] = 0;
    PB_TRY(add_matrix(b, &spec->embed, false, err));
    PB_TRY(add_matrix(b, &spec->pos_embed, false, err));
    PB_TRY(add_matrix(b, &spec->project_in, false, err));
    close_stage(b, 0);
    for (size_t l = 0; l < layers; l++) {
        PB_TRY(add_layer(b, &spec->layer[l], err));
        size_t bytes = close_stage(b, l + 1);
        b->stream->window = bytes > b->stream->window ? bytes : b->stream->window;
    }
    PB_TRY(add_matrix(b, &spec->unembed, false, err));
    PB_TRY(add_matrix(b, &spec->project_out, false, err));
    close_stage(b, layers + 1);
    size_t least = (size_t)spec->unembed.ld * pb_stored_size(spec->unembed.type) * OUTPUTS_STEP;
    if (b->stream->window < least)
        b->stream->window = least;
    return PB_OK;
}

/* ---- the decision ------------------------------------------------------------------------------------------------------- */

static size_t mapped_bytes(const pb_model *model) {
    size_t bytes = 0;
    for (size_t i = 0; i < model->n_weights; i++) {
        const pb_weight *w = &model->weights[i];
        if (w->used && !w->is_copy && pb_source_maps(w->source, w->entry->data))
            bytes += w->entry->bytes;
    }
    return bytes;
}

static double megabytes(size_t bytes) { return (double)bytes / (1024.0 * 1024.0); }

static pb_status check_copies(const pb_model *model, const pb_entry *copied, pb_error *err) {
    if (!copied)
        return PB_OK;
    return pb_fail(
        err, PB_ERR_UNSUPPORTED,
        "model '%s' cannot be streamed: tensor '%.200s' (%s) is not used as it lies in the file, but as a copy in "
        "memory, because of its type, its offset or the order of its numbers; load it without stream and export "
        "it once",
        model->name, copied->name, pb_stored_name(copied->type));
}

static pb_status charge(const pb_model *model, pb_stream *stream, size_t left, pb_error *err) {
    if (pb_context_charge(model->ctx, stream->window))
        return PB_OK;
    double window = megabytes(stream->window);
    stream->window = 0; /* nothing to give back */
    return pb_fail(
        err, PB_ERR_MEMORY,
        "model '%s' needs %.1f MiB of the memory budget for its largest layer, even when it is streamed; %.1f MiB "
        "are left; a larger memory limit would help",
        model->name, window, megabytes(left));
}

pb_status pb_stream_prepare(pb_model *model, pb_stream_choice choice, pb_error *err) {
    size_t limit = pb_context_memory_limit(model->ctx), used = pb_context_memory_used(model->ctx),
           left = limit > used ? limit - used : 0, bytes = mapped_bytes(model);
    if (bytes == 0 || (choice == PB_STREAM_IF_NEEDED && (limit == 0 || bytes <= left)))
        return PB_OK;
    pb_stream *stream = pb_alloc_zero(model->ctx, 1, sizeof *stream);
    if (!stream)
        return pb_fail_memory(err, model->ctx, sizeof *stream, "a streamed model");
    model->stream = stream; /* freed with the model from now on */
    stream->first = pb_alloc_zero(model->ctx, (size_t)model->spec.layers + 3, sizeof *stream->first);
    if (!stream->first)
        return pb_fail_memory(err, model->ctx, (size_t)model->spec.layers * sizeof *stream->first, "a streamed model");
    builder b = {.model = model, .stream = stream};
    pb_status status = build(&b, err);
    if (status == PB_OK && choice == PB_STREAM_ASKED)
        status = check_copies(model, b.copied, err);
    if (status != PB_OK) {
        stream->window = 0;
        return status;
    }
    PB_TRY(charge(model, stream, left, err));
    pb_stream_done_all(model); /* binding has read vectors all over the files */
    if (choice == PB_STREAM_IF_NEEDED)
        pb_context_warn(
            model->ctx,
            "model '%s' is streamed: its weights (%.0f MiB) do not fit the %.0f MiB that are left of the memory "
            "budget, so they stay in the file and one layer at a time (%.1f MiB) is resident",
            model->name, megabytes(bytes), megabytes(left), megabytes(stream->window));
    return PB_OK;
}

void pb_stream_free(pb_model *model) {
    if (!model->stream)
        return;
    pb_context_discharge(model->ctx, model->stream->window);
    pb_free(model->stream->spans);
    pb_free(model->stream->first);
    pb_free(model->stream);
    model->stream = NULL;
}

bool pb_model_streamed(const pb_model *model) { return model->stream != NULL; }

size_t pb_model_stream_window(const pb_model *model) { return model->stream ? model->stream->window : 0; }

/* ---- advice -------------------------------------------------------------------------------------------------------------- */

void pb_stream_ahead(const pb_model *model, int layer, double rows) {
    const pb_stream *s = model->stream;
    const pb_spec *spec = &model->spec;
    bool experts = rows * spec->experts_per_token >= spec->experts;
    for (size_t i = s ? s->first[layer + 1] : 0; s && i < s->first[layer + 2]; i++)
        if (experts || !s->spans[i].expert)
            pb_source_prefetch(s->spans[i].source, s->spans[i].begin, s->spans[i].bytes);
}

void pb_stream_done(const pb_model *model, int layer) {
    const pb_stream *s = model->stream;
    for (size_t i = s ? s->first[layer + 1] : 0; s && i < s->first[layer + 2]; i++)
        pb_source_release(s->spans[i].source, s->spans[i].begin, s->spans[i].bytes);
}

void pb_stream_done_all(const pb_model *model) {
    for (size_t i = 0; model->stream && i < model->n_sources; i++)
        pb_source_release_all(model->sources[i]);
}

static bool in_rows(const pb_matrix *w) { return !w->in_major && w->block >= w->out; }

int64_t pb_stream_outputs(const pb_model *model, const pb_matrix *w) {
    if (!model->stream || !in_rows(w) || !mapped_in(model, w->data))
        return w->out;
    int64_t row = w->ld * (int64_t)pb_stored_size(w->type),
            fit = (int64_t)model->stream->window / row / OUTPUTS_STEP * OUTPUTS_STEP;
    fit = fit < OUTPUTS_STEP ? OUTPUTS_STEP : fit;
    return fit < w->out ? fit : w->out;
}

typedef void (*advice)(const pb_source *source, const void *data, size_t bytes);

static void advise(const pb_model *model, const pb_matrix *w, int64_t first, int64_t n, advice give) {
    const pb_source *source = model->stream ? mapped_in(model, w->data) : NULL;
    if (!source || !in_rows(w) || first >= w->out)
        return;
    int64_t row = w->ld * (int64_t)pb_stored_size(w->type);
    n = first + n > w->out ? w->out - first : n;
    give(source, (const char *)w->data + first * row, (size_t)(n * row));
}

void pb_stream_outputs_ahead(const pb_model *model, const pb_matrix *w, int64_t first, int64_t n) {
    advise(model, w, first, n, pb_source_prefetch);
}

void pb_stream_outputs_done(const pb_model *model, const pb_matrix *w, int64_t first, int64_t n) {
    advise(model, w, first, n, pb_source_release);
}

void pb_stream_output_read(const pb_model *model, const pb_matrix *w, int64_t o) {
    if (!model->stream)
        return;
    int64_t step = pb_stream_outputs(model, w);
    if (in_rows(w)) {
        if ((o + 1) % step == 0 || o + 1 == w->out)
            pb_stream_outputs_done(model, w, o / step * step, step);
    } else if (o + 1 == w->out && mapped_in(model, w->data)) {
        int64_t rows = w->in_major ? w->in : o / w->block * w->block_stride + o % w->block + 1;
        size_t bytes = (size_t)((rows - 1) * w->ld + (w->in_major ? w->out : w->in)) * pb_stored_size(w->type);
        pb_source_release(mapped_in(model, w->data), w->data, bytes);
    }
}
