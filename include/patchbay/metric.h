/* Metric: a number made from the logits of a run at some positions (default: the last one). Immutable, refcounted.
 * With several positions it is the mean over them. Tokens are ids 0..vocab-1, checked when the metric meets a model. */
#ifndef PATCHBAY_METRIC_H
#define PATCHBAY_METRIC_H

#include "patchbay/patch.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pb_metric pb_metric;

typedef enum pb_metric_kind {
    PB_METRIC_LOGIT,      /* mean logit of the answers */
    PB_METRIC_LOGIT_DIFF, /* mean logit of the answers - mean logit of the wrong ones */
    PB_METRIC_LOGITS,     /* sum of the answers' logits, each times its weight */
    PB_METRIC_PROB,       /* sum of the answers' softmax probabilities */
    PB_METRIC_LOG_PROB,   /* log of that (natural logarithm, computed through logsumexp) */
    PB_METRIC_PROB_DIFF,  /* sum of the answers' probabilities - sum of the wrong ones' (greater-than) */
    PB_METRIC_RANK,       /* number of tokens with a larger logit than the answer (0: it is the argmax); one answer */
    PB_METRIC_NLL,        /* mean over positions p of -log P(token p + 1 | tokens 0..p), of the run's own tokens;
                           * positions default to all but the last */
    PB_METRIC_KL,         /* KL(reference || run) in nats: sum_v P_ref(v) (log P_ref(v) - log P_run(v)) */
    PB_METRIC_FN          /* a user's function of the logits at the positions */
} pb_metric_kind;

/* logits: [positions, vocab], of one variant. */
typedef pb_status (*pb_metric_fn)(void *user, const struct pb_run *base, size_t variant, const pb_tensor *logits,
                                  double *out, pb_error *err);

typedef struct pb_metric_options {
    pb_metric_kind kind;
    pb_choice positions;    /* not listed: the default */
    const int32_t *answers; /* logit, logit_diff, logits, prob, log_prob, prob_diff, rank */
    size_t n_answers;
    const double *weights; /* [n_answers] logits: any finite ones; no token twice */
    const int32_t *wrong;  /* logit_diff, prob_diff */
    size_t n_wrong;
    const struct pb_run
        *reference; /* kl: kept alive by the metric; same positions (same length if they are negative or defaults) */
    pb_metric_fn fn;
    void *user;
} pb_metric_options;

/* Copies what options point to. */
pb_status pb_metric_create(pb_context *ctx, const pb_metric_options *options, pb_metric **out, pb_error *err);
pb_metric *pb_metric_ref(pb_metric *metric);
void pb_metric_unref(pb_metric *metric);
pb_metric_kind pb_metric_get_kind(const pb_metric *metric);
const char *pb_metric_kind_name(pb_metric_kind kind); /* "logit_diff", ... */
bool pb_metric_differentiable(const pb_metric *metric);

#ifdef __cplusplus
}
#endif
#endif
