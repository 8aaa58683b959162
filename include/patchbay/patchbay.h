/* Patchbay's C library: include this one.
 *
 *     pb_context *ctx;  pb_context_create(NULL, &ctx, &err);
 *     pb_model *model;  pb_model_open(ctx, "examples/models/facts", NULL, &model, &err);
 *     pb_run *clean;    pb_run_create(model, clean_ids, n, &clean, &err);
 *     pb_run *corrupt;  pb_run_fork(clean, corrupt_ids, n, &corrupt, &err);
 *     pb_metric *prob;  pb_metric_create(ctx, &(pb_metric_options){.kind = PB_METRIC_PROB, ...}, &prob, &err);
 *     pb_measure(requests, n_requests, NULL, values, NULL, NULL, &err);
 *
 * The objects, bottom up: context, tensor, model (with tokenizer and sites), run, patch, metric, and measure, the one
 * primitive under every sweep. Figures: figure.h. */
#ifndef PATCHBAY_PATCHBAY_H
#define PATCHBAY_PATCHBAY_H

#define PATCHBAY_VERSION "0.1.0"

#include "patchbay/context.h"
#include "patchbay/error.h"
#include "patchbay/figure.h"
#include "patchbay/grad.h"
#include "patchbay/hub.h"
#include "patchbay/metric.h"
#include "patchbay/model.h"
#include "patchbay/optim.h"
#include "patchbay/patch.h"
#include "patchbay/rng.h"
#include "patchbay/run.h"
#include "patchbay/tensor.h"
#include "patchbay/tensorio.h"
#include "patchbay/tokenizer.h"

#endif
