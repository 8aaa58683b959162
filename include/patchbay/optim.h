/* One optimiser step. Training itself is Lua (scripts/patchbay/train.lua) on runs, gradients and this. */
#ifndef PATCHBAY_OPTIM_H
#define PATCHBAY_OPTIM_H

#include "patchbay/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pb_adamw {
    double rate, beta1, beta2, eps, decay;
    double grad_scale; /* gradients are multiplied by this first (clipping, mean over a batch) */
    int64_t step;      /* 1 for the first */
} pb_adamw;

/* AdamW (Loshchilov & Hutter, "Decoupled weight decay regularization", ICLR 2019), in PyTorch's order: w -= rate decay w, then
 * m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2, w -= rate / (1 - beta1^step) m / (sqrt(v) / sqrt(1 - beta2^step) + eps).
 * All four are contiguous float32 of one shape; weight, m and v change in place. Other shapes: PB_ERR_ARGUMENT, nothing changed. */
pb_status pb_adamw_step(const pb_adamw *options, pb_tensor *weight, const pb_tensor *grad, pb_tensor *m, pb_tensor *v,
                        pb_error *err);

#ifdef __cplusplus
}
#endif
#endif
