/* Run: one forward pass over one token sequence, which remembers the residual stream at every layer boundary and the
 * queries, keys and values of every layer: enough to give any site's value and to restart from any layer. Immutable,
 * refcounted. Memory: layers * T * (d_model + (heads + 2 kv_heads) * d_head) + T * d_model floats; a fork and a patched
 * run share with their base what is the same. */
#ifndef PATCHBAY_RUN_H
#define PATCHBAY_RUN_H

#include "patchbay/metric.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pb_run pb_run;

/* ids[n], n >= 1, each below the vocabulary; n at most the model's positions. */
pb_status pb_run_create(pb_model *model, const int32_t *ids, size_t n, pb_run **out, pb_error *err);
/* Several sequences of any lengths in one pass over the weights: ids of sequence i are ids[i][0..lengths[i]). runs[n] is filled. */
pb_status pb_run_create_many(pb_model *model, const int32_t *const *ids, const size_t *lengths, size_t n, pb_run **runs,
                             pb_error *err);
/* The same with patches held in place from the start (as pb_run_patched of a plain run, in one pass): sequence i has
 * patches[i][0..n_patches[i]). */
pb_status pb_run_create_patched(pb_model *model, const int32_t *const *ids, const size_t *lengths,
                                const pb_patch *const *patches, const size_t *n_patches, size_t n, pb_run **runs,
                                pb_error *err);
/* A run on tokens that may share a prefix with `run` (which must be unpatched): the shared part is taken over, not computed. */
pb_status pb_run_fork(pb_run *run, const int32_t *ids, size_t n, pb_run **out, pb_error *err);
/* The run with patches held in place. All sites, all positions have the patched run's values. Patches of a patched run stay. A
 * patch of scores or of a pattern that chooses masked entries only (src after dest) is refused: it would change nothing. */
pb_status pb_run_patched(pb_run *run, const pb_patch *patches, size_t n, pb_run **out, pb_error *err);

pb_run *pb_run_ref(pb_run *run);
void pb_run_unref(pb_run *run);
pb_model *pb_run_model(const pb_run *run); /* borrowed */
size_t pb_run_length(const pb_run *run);
const int32_t *pb_run_tokens(const pb_run *run);
size_t pb_run_patch_count(const pb_run *run);
/* Number of leading tokens that two runs are known to share (fork relation or equal tokens, both unpatched). */
size_t pb_run_shared_prefix(const pb_run *a, const pb_run *b);
size_t pb_run_bytes(const pb_run *run);

/* The value of any site, a new tensor (T positions). Sites that are not kept are recomputed for their layer. */
pb_status pb_run_value(pb_run *run, pb_site site, pb_tensor **out, pb_error *err);
/* Several at once, each layer recomputed once at most; out[n] is filled. */
pb_status pb_run_values(pb_run *run, const pb_site *sites, size_t n, pb_tensor **out, pb_error *err);
/* The metric of the run as it is. */
pb_status pb_run_metric(pb_run *run, const pb_metric *metric, double *out, pb_error *err);

/* ---- measuring variants ------------------------------------------------------------------------------------------------- */

/* One variant of one run: what to change, what to measure, what to look at. */
typedef struct pb_request {
    pb_run *base;
    const pb_patch *patches; /* [n_patches]; none: the base run itself */
    size_t n_patches;
    const pb_metric *metric; /* NULL: only captures */
    const pb_site *captures; /* [n_captures] sites whose values in the patched run are wanted, all positions */
    size_t n_captures;
} pb_request;

typedef struct pb_measure_options {
    bool dry;          /* plan only: nothing runs */
    bool allow_unread; /* a patch that nothing measured can depend on gives the base's value instead of an error */
    size_t memory; /* bytes that the call may use for its work; 0: what the context's budget leaves, at most 512 MiB */
    size_t
        first_number; /* what messages call requests[0], and so on up: of a list from 1, or of a part of a longer one */
} pb_measure_options;

/* What a call costs. A row is one position of one variant in one layer. */
typedef struct pb_plan {
    size_t variants, chunks;
    double rows;      /* of the dirty cones, all layers together */
    double full_rows; /* of whole forward passes done one by one */
    double flops;     /* multiply-adds * 2 of all products of the dirty cones (attention and unembedding included) */
    double full_flops;
    size_t bytes; /* peak working memory of the call */
} pb_plan;

/* All requests (of runs of one model, any lengths) go through the model together, layer by layer; each is computed only
 * where its patches can reach (its dirty cone). values[n]: the metric of request i (NaN without a metric); captures:
 * captures[i][j] is filled for capture j of request i; either may be NULL when nothing asks for it. plan may be NULL.
 * Time: plan->flops; memory: plan->bytes, chunked to fit options->memory; refused with the figure when one variant does not fit.
 * A value does not depend on the order of requests, the chunks or the number of threads (docs/internals: what is promised). */
pb_status pb_measure(const pb_request *requests, size_t n, const pb_measure_options *options, double *values,
                     pb_tensor ***captures, pb_plan *plan, pb_error *err);

/* ---- what something would cost ---------------------------------------------------------------------------------------------- */

/* Bytes of a run of n tokens, and (may be NULL) of the work while it is made, both without the weights. */
pb_status pb_plan_run(pb_model *model, size_t n, size_t *kept, size_t *work, pb_error *err);
/* The plan of a sweep over every layer that has the site, and over all heads (by_head) and positions (by_pos) of it, in which each
 * variant takes its values from another run of n tokens and the metric is a logit at the end. Nothing is run: a model of any size
 * is planned in the time that its variants take to list. */
pb_status pb_plan_sweep(pb_model *model, pb_site_kind kind, bool by_head, bool by_pos, size_t n, pb_plan *out,
                        pb_error *err);

/* ---- generation ------------------------------------------------------------------------------------------------------------- */

typedef struct pb_generate_options {
    int tokens;         /* how many new tokens at most */
    double temperature; /* 0: greedy (argmax; ties: lowest id) */
    int top_k;          /* 0: all; only with temperature > 0 */
    uint64_t seed;
    const int32_t *stop; /* stop after one of these (it is kept) */
    size_t n_stop;
    const pb_patch
        *patches; /* held in place; a choice of all positions covers the new ones, listed positions stay where they are;
                              * negative positions are the prompt's */
    size_t n_patches;
} pb_generate_options;

/* New tokens only: *ids is a new block of *n (pb_free). */
pb_status pb_generate(pb_run *prompt, const pb_generate_options *options, int32_t **ids, size_t *n, pb_error *err);

#ifdef __cplusplus
}
#endif
#endif
