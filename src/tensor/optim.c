/* AdamW on contiguous tensors. */
#include "patchbay/optim.h"

#include <math.h>

static bool plain(const pb_tensor *t, const pb_tensor *like) {
    return pb_tensor_dtype(t) == PB_F32 && pb_tensor_contiguous(t) && pb_tensor_same_shape(t, like);
}

pb_status pb_adamw_step(const pb_adamw *o, pb_tensor *weight, const pb_tensor *grad, pb_tensor *m, pb_tensor *v,
                        pb_error *err) {
    if (!plain(weight, weight) || !plain(grad, weight) || !plain(m, weight) || !plain(v, weight)) {
        char text[96];
        return pb_fail(
            err, PB_ERR_ARGUMENT,
            "adamw: weight, gradient and both moments must be contiguous float32 tensors of one shape (weight: %s)",
            pb_shape_text(pb_tensor_ndim(weight), pb_tensor_shape(weight), text, sizeof text));
    }
    if (o->step < 1)
        return pb_fail(err, PB_ERR_ARGUMENT, "adamw: steps are counted from 1");
    float *w = pb_tensor_floats(weight), *first = pb_tensor_floats(m), *second = pb_tensor_floats(v);
    const float *g = pb_tensor_floats(grad);
    float keep = (float)(1.0 - o->rate * o->decay), b1 = (float)o->beta1, b2 = (float)o->beta2,
          scale = (float)o->grad_scale;
    float rate = (float)(o->rate / (1.0 - pow(o->beta1, (double)o->step))),
          root = (float)sqrt(1.0 - pow(o->beta2, (double)o->step)), eps = (float)o->eps;
    int64_t n = pb_tensor_count(weight);
    int threads = n < 100000 ? 1 : pb_context_threads(pb_tensor_context(weight));
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < n; i++) {
        float d = g[i] * scale;
        first[i] = b1 * first[i] + (1.0f - b1) * d;
        second[i] = b2 * second[i] + (1.0f - b2) * d * d;
        w[i] = w[i] * keep - rate * first[i] / (sqrtf(second[i]) / root + eps);
    }
    return PB_OK;
}
