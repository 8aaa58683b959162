/* Patch: one change at one site. A variant is a list of patches applied together to one run, in list order at one site;
 * a site's value that a later site reads is the patched one. Patching a pattern entry does not renormalise its row. */
#ifndef PATCHBAY_PATCH_H
#define PATCHBAY_PATCH_H

#include "patchbay/model.h"

#ifdef __cplusplus
extern "C" {
#endif

struct pb_run;

/* Chosen coordinates along one axis: all of them, or a list (0-based; negative counts from the end; no duplicates). */
typedef struct pb_choice {
    bool listed; /* false: all */
    size_t n;
    const int32_t *items; /* [n] */
} pb_choice;

typedef enum pb_patch_op {
    PB_PATCH_SET,   /* x = value */
    PB_PATCH_ADD,   /* x = x + value */
    PB_PATCH_SCALE, /* x = x * value */
    PB_PATCH_FN     /* x = fn(x) */
} pb_patch_op;

typedef enum pb_value_kind {
    PB_VALUE_NUMBER, /* a constant, for all chosen entries */
    PB_VALUE_TENSOR, /* broadcasts (numpy) to the chosen shape, see pb_patch_shape */
    PB_VALUE_RUN,    /* the same coordinates of another run's value (or those of from_*) */
    PB_VALUE_DROPOUT, /* 0 with probability noise_std, else 1 / (1 - noise_std): for PB_PATCH_SCALE. Uniform draws indexed like noise */
    PB_VALUE_NOISE /* std * normal draw; element = flat index in the whole site's value [T, ...], so that the choice of
                      * coordinates and of layer does not change what an entry gets; the same draw in every variant */
} pb_value_kind;

/* A user's function at a site. act: a copy of the chosen entries, pb_patch_shape; the function may change it in place, or
 * give a replacement of the same shape through *out (one reference). Called in the thread that called the engine, outside
 * parallel regions, once per variant and site. variant: index of the request in the call. */
struct pb_patch;
typedef pb_status (*pb_patch_fn)(void *user, const struct pb_patch *patch, const struct pb_run *base, size_t variant,
                                 pb_tensor *act, pb_tensor **out, pb_error *err);

typedef struct pb_patch {
    pb_site site;
    /* Coordinates. pos: sites with positions first. dest, src: scores and pattern. head: sites with heads. neuron: the last
     * axis (d_model, d_head, d_mlp, vocab). A choice on an axis that the site does not have is an error. */
    pb_choice pos, head, neuron, dest, src;
    pb_patch_op op;
    pb_value_kind value;
    double number;
    pb_tensor *tensor;        /* borrowed */
    const struct pb_run *run; /* borrowed; a run of the same model */
    /* PB_VALUE_RUN: read there instead of at the same place. Listed ones have as many items as the target's choice.
     * Without from_pos the two runs must have the same length. */
    bool has_from_site;
    pb_site from_site; /* same shape of value per position */
    pb_choice from_pos, from_head, from_dest, from_src;
    double noise_std;
    uint64_t noise_seed, noise_draw;
    pb_patch_fn fn;
    void *user;
} pb_patch;

/* Shape of the chosen entries for a run of T tokens, axes kept even when one coordinate is chosen: [pos, (head,) neuron] or
 * [head, dest, src]. Checks the patch against the model and T. Returns ndim through *ndim. */
pb_status pb_patch_shape(const pb_model *model, const pb_patch *patch, int64_t T, int *ndim, int64_t shape[3],
                         pb_error *err);

#ifdef __cplusplus
}
#endif
#endif
