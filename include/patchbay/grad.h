/* Gradients: one reverse pass gives d metric / d site for every site, and d metric / d weight. Layer by layer from the top;
 * a layer's inner values are computed again from its boundary, so memory is one layer plus the boundaries that the runs
 * keep. Runs of any lengths go together.
 *
 * The gradient at a site is the total derivative by the value that later sites read (the patched one, where a patch is in
 * place): the gradient of hook_resid_mid includes the skip path. Entries that a patch replaced pass nothing on to what came
 * before them. Every entry of a pattern has a gradient, masked ones too; rows are not renormalised. */
#ifndef PATCHBAY_GRAD_H
#define PATCHBAY_GRAD_H

#include "patchbay/run.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pb_grad_request {
    pb_run *run;             /* patched or not; its patches must not be functions (PB_ERR_UNSUPPORTED) */
    const pb_metric *metric; /* rank and fn have no derivative (PB_ERR_ARGUMENT, which lists those that do) */
    double weight;           /* the gradient is that of weight * metric */
    const pb_site *sites;    /* [n_sites] */
    size_t n_sites;
    /* [n_stops] the gradient does not flow back through these: what the site has counts as a constant (as PyTorch's detach), as
     * if its own value were patched in. The gradient at a stop itself is what it is without. With every hook_scale of the norms:
     * the gradient of the model with its norms frozen. */
    const pb_site *stops;
    size_t n_stops;
} pb_grad_request;

typedef struct pb_grad_options {
    /* [pb_model_weight_count] float32 tensors of the weights' stored shapes, to which the gradients of all requests are added;
     * NULL entries are not wanted. NULL: no weights. A tied matrix has both parts, under the embedding's name and, where the
     * unembedding is stored too (pb_model_weight_original), the same under that one's: its value is one, so do not count or move
     * it twice. PB_ERR_UNSUPPORTED for a model with weight processing: its weights are copies that no name stands for. */
    pb_tensor *const *weights;
    size_t memory; /* for the work; 0: as pb_measure */
} pb_grad_options;

/* values[n]: the metrics (not times weight), may be NULL. grads[i][j]: a new tensor of the site's shape, all positions; exactly
 * zero everywhere when the metric does not depend on the site. All runs are of one model. options may be NULL.
 * Time: about 3 forward passes of the requests (one of them to compute inner values again). */
pb_status pb_grad(const pb_grad_request *requests, size_t n, const pb_grad_options *options, double *values,
                  pb_tensor ***grads, pb_error *err);

#ifdef __cplusplus
}
#endif
#endif
