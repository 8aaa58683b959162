/* Where the numbers behind the spec's pointers are stored, for gradients by weight: matrices are views into the weights, and
 * their address tells; vectors are float32 copies, which the binder notes here. */
#include "model/loading.h"

pb_status pb_origin_note(pb_model *model, const float *data, int64_t n, pb_origin origin, pb_error *err) {
    if (model->n_copied == model->cap_copied) {
        size_t more = model->cap_copied ? 2 * model->cap_copied : 64;
        pb_copied *grown = pb_realloc(model->ctx, model->copied, more, sizeof *grown);
        if (!grown)
            return pb_fail_memory(err, model->ctx, more * sizeof *grown, "the table of weights");
        model->copied = grown;
        model->cap_copied = more;
    }
    model->copied[model->n_copied++] = (pb_copied){data, n, origin, 0.0f};
    return PB_OK;
}

void pb_origin_add(pb_model *model, float *data, int64_t n, float value) {
    for (int64_t i = 0; i < n; i++)
        data[i] += value;
    for (size_t i = 0; i < model->n_copied; i++) {
        if (model->copied[i].data >= data && model->copied[i].data < data + n)
            model->copied[i].plus += value;
    }
}

static bool in_weights(const pb_model *model, const char *at, pb_origin *out) {
    for (size_t i = 0; i < model->n_weights; i++) {
        const pb_entry *entry = model->weights[i].entry;
        const char *begin = entry->data;
        if (model->weights[i].is_copy) /* the embedding's name is the one */
            continue;
        if (at >= begin && at < begin + entry->bytes) {
            int64_t n = (int64_t)(entry->bytes / pb_stored_size(entry->type));
            *out = (pb_origin){i, (at - begin) / (int64_t)pb_stored_size(entry->type), n, 0};
            return true;
        }
    }
    return false;
}

bool pb_model_origin(const pb_model *model, const void *data, pb_origin *out) {
    if (!data)
        return false;
    for (size_t i = 0; i < model->n_copied; i++) {
        const pb_copied *c = &model->copied[i];
        const float *at = data;
        if (at >= c->data && at < c->data + c->n) {
            *out = c->origin;
            if (out->stride == 0) /* in one piece: a part of it begins further on */
                out->first += at - c->data;
            return true;
        }
    }
    return in_weights(model, data, out);
}

/* The copied numbers of one record, anew from the weight. */
static void copy_again(const pb_copied *c, const pb_entry *entry) {
    float *to = (float *)(uintptr_t)c->data;
    const pb_origin *at = &c->origin;
    for (int64_t done = 0; done < c->n;) {
        int64_t block = at->stride ? at->block : c->n, n = c->n - done < block ? c->n - done : block;
        int64_t first = at->stride ? at->first + done / block * at->stride : at->first;
        pb_widen(entry->type, entry->data, (size_t)first, (size_t)n, to + done);
        done += n;
    }
    for (int64_t i = 0; c->plus != 0.0f && i < c->n; i++)
        to[i] += c->plus;
}

pb_status pb_model_refresh(pb_model *model, pb_error *err) {
    if (pb_model_is_processed(model))
        return pb_fail(err, PB_ERR_UNSUPPORTED,
                       "model '%s' cannot be refreshed: it was loaded with weight processing, so that its weights are "
                       "copies; load it without",
                       model->name);
    for (size_t i = 0; i < model->n_copied; i++) {
        const pb_weight *weight = &model->weights[model->copied[i].origin.weight];
        if (pb_source_is_memory(weight->source))
            copy_again(&model->copied[i], weight->entry);
    }
    return PB_OK;
}
