/* The engine's own structures. One pass takes many lanes through the model layer by layer; a plain run, a fork, a
 * patched run, a sweep's variants and the recomputation of a site are all lanes.
 *
 * A lane is one sequence of which only some rows (positions) are computed: those whose values can differ from its base
 * run's. Rows that are not computed are the base's, by reference. Nothing here knows a model family: spec.h has the data. */
#ifndef PB_ENGINE_INTERNAL_H
#define PB_ENGINE_INTERNAL_H

#include "model/spec.h"
#include "model/stream.h"
#include "patchbay/run.h"

/* Threads worth waking for about `work` elementary operations: small models run in one. */
static inline int pb_threads_for(const pb_context *ctx, double work) {
    return work < 2e5 ? 1 : pb_context_threads(ctx);
}

/* ---- runs ------------------------------------------------------------------------------------------------------------ */

/* Rows first .. T-1 of one kept quantity; shared between a run and its patched descendants. */
typedef struct pb_block {
    int refs;
    int32_t first;
    float *data;
} pb_block;

/* A list of patches that owns what it points to (choices, tensors, runs); callbacks' user pointers stay the caller's. */
typedef struct pb_patch_list {
    int refs;
    size_t n;
    pb_patch *items;
} pb_patch_list;

struct pb_run {
    int refs;
    pb_model *model;
    int32_t T;
    int32_t *tokens;
    pb_run *prefix;         /* holds the rows below a block's `first`; NULL without a shared prefix */
    pb_patch_list *patches; /* NULL: a plain run */
    pb_block **
        resid; /* [layers + 1] residual stream as layer l reads it (after resid_pre patches); [layers]: the last resid_post */
    pb_block **qkv; /* [layers] what the scores and the mix are made of: q | k | v of a row, after norm and rotation */
};

static inline const float *pb_run_resid_row(const pb_run *run, int layer, int32_t pos, int64_t width) {
    while (pos < run->resid[layer]->first)
        run = run->prefix;
    return run->resid[layer]->data + (int64_t)(pos - run->resid[layer]->first) * width;
}
static inline const float *pb_run_qkv_row(const pb_run *run, int layer, int32_t pos, int64_t width) {
    while (pos < run->qkv[layer]->first)
        run = run->prefix;
    return run->qkv[layer]->data + (int64_t)(pos - run->qkv[layer]->first) * width;
}

/* A run without blocks: its maker fills them in, and for plans it is enough. */
pb_status pb_run_shell(pb_model *model, const int32_t *ids, size_t n, pb_run **out, pb_error *err);
pb_block *pb_block_create(pb_context *ctx, int64_t rows, int64_t width, int32_t first); /* NULL: no memory */
void pb_block_unref(pb_block *block);
pb_status pb_patch_list_create(pb_context *ctx, const pb_patch_list *base, const pb_patch *patches, size_t n,
                               pb_patch_list **out, pb_error *err);
void pb_patch_list_unref(pb_patch_list *list);

/* ---- edits: patches with their coordinates resolved for one sequence --------------------------------------------------- */

/* Axes are (pos, head, width), with one head where the site has none, or (head, dest, src). */
typedef struct pb_edit {
    const pb_patch *patch;
    pb_site_kind kind;
    int layer, expert;
    bool own;               /* of the request: it opens the cone; else of the base run, whose values have it already */
    bool by_head;           /* axes are (head, dest, src) */
    int32_t n[3];           /* number of chosen coordinates along each axis */
    const int32_t *at[3];   /* the coordinates, in the patch's order; NULL: 0 .. n-1 */
    const int32_t *from[3]; /* coordinates in the source run's value; NULL: as `at` */
    const float *tensor;    /* PB_VALUE_TENSOR: element (a, b, c) at the strides */
    int64_t stride[3];
    size_t variant; /* for callbacks */
} pb_edit;

static inline int32_t pb_edit_at(const pb_edit *e, int axis, int32_t i) { return e->at[axis] ? e->at[axis][i] : i; }
static inline int pb_edit_row_axis(const pb_edit *e) { return e->by_head ? 1 : 0; }

/* Memory that lives as long as one call: blocks chained, freed together. */
typedef struct pb_arena {
    pb_context *ctx;
    void *blocks; /* newest first; each begins with the pointer to the next */
    char *next;
    size_t left;
} pb_arena;
void *pb_arena_get(pb_arena *arena, size_t bytes); /* 16-byte aligned, zeroed; NULL: no memory */
void pb_arena_free(pb_arena *arena);

/* Checks patch against the model and a run of T tokens, and fills *edit from the arena. */
pb_status pb_edit_resolve(pb_arena *arena, const pb_model *model, const pb_patch *patch, int32_t T, pb_edit *edit,
                          pb_error *err);
/* Rows below this get from the edit what base has there already: values of base itself, or of a run that shares its beginning.
 * 0 for every other kind of edit. */
int32_t pb_edit_known_rows(const pb_edit *edit, const pb_run *base);
/* Leave rows (positions, destinations) below `below` out; n may become 0. */
pb_status pb_edit_drop_rows(pb_arena *arena, pb_edit *edit, int32_t below, pb_error *err);

/* ---- lanes -------------------------------------------------------------------------------------------------------------- */

typedef struct pb_capture {
    pb_site site;
    float *data; /* the tensor's, contiguous, all T positions */
    int64_t shape[4];
    int ndim;
} pb_capture;

typedef struct pb_lane {
    /* the sequence */
    const pb_run *base; /* rows that are not computed; NULL: all are */
    int32_t T;
    const int32_t *tokens;
    int32_t fresh_from; /* rows >= this are computed from the embedding on (plain runs, forks); T: none */
    /* what is changed: base's edits first, then the request's; sorted by layer and kind, stable */
    pb_edit *edits;
    size_t n_edits;
    bool base_patched;
    bool check_experts; /* a patch at an expert that the router does not choose is an error */
    int start;          /* first layer with work: -1 the embedding, layers: only after the last layer */
    /* what is wanted */
    const pb_metric *metric;
    double value;
    size_t index;  /* of the request, for callbacks */
    bool many;     /* it is one of several: messages give its number */
    size_t number; /* ... which the caller counts from wherever it likes (pb_measure_options.first_number) */
    pb_capture *captures;
    size_t n_captures;
    int stop_layer;         /* last layer that must be computed; layers: the final norm and logits too */
    pb_site_kind stop_kind; /* within stop_layer: nothing after this site is needed */
    pb_run *keep;           /* a run being made: its blocks are filled as the lane passes */
    uint8_t *need;          /* [T] positions whose final state is read (by the metric, a capture, keep) */
    int32_t limit;          /* positions >= limit influence nothing that is wanted */
    /* state during the pass */
    uint8_t *dirty; /* [T] positions whose residual stream may differ from the base's at this point */
    int32_t *pos;   /* positions of the computed rows, ascending */
    int32_t n, cap;
    float *x; /* [cap][d_model] their residual stream */
} pb_lane;

/* Row sets of one lane in one layer, as masks [T]; see rows.c. */
typedef struct pb_row_sets {
    uint8_t *pre;   /* rows present when the layer begins, after resid_pre patches */
    uint8_t *a;     /* rows whose norm, keys and values are computed */
    uint8_t *q;     /* rows whose queries are computed (subset of a) */
    uint8_t *z;     /* rows of attention output, resid_mid and mlp */
    uint8_t *post;  /* rows present at the end of the layer */
    uint8_t *dirty; /* rows that may differ from the base's afterwards (the others are dropped) */
    uint8_t *held;  /* scratch */
    int32_t n_pre, n_a, n_q, n_z, n_post;
    bool attn_held,
        mlp_held; /* hook_attn_out (hook_mlp_out) is put in whole at all z rows: nothing reads what it would be */
} pb_row_sets;

size_t pb_row_sets_size(int32_t T); /* bytes of scratch for pb_row_sets_init */
void pb_row_sets_init(pb_row_sets *sets, void *scratch, int32_t T);
/* Rows of lane in layer, given lane->dirty at its beginning (base rows count as not dirty). */
void pb_lane_rows(const pb_spec *spec, const pb_lane *lane, int layer, pb_row_sets *sets);
/* Rows dirty after the embedding stage. */
void pb_lane_embed_rows(const pb_lane *lane, uint8_t *mask);
/* " of variant 3", " of a patched run" or "", for messages; returns buffer. */
const char *pb_lane_whose(const pb_lane *lane, char *buffer, size_t size);
/* An edit of scores or of a pattern all of whose entries are masked: no row attends there. */
bool pb_edit_is_masked(const pb_spec *spec, const pb_edit *edit);
/* Refuses a request's patches that are masked. */
pb_status pb_lane_check_masked(const pb_spec *spec, const pb_lane *lane, pb_error *err);
/* Does anything that the lane wants depend on the edit? */
bool pb_edit_is_read(const pb_spec *spec, const pb_lane *lane, const pb_edit *edit);
/* Edits of lane at (layer, kind): first index, and how many. */
size_t pb_lane_edits(const pb_lane *lane, int layer, pb_site_kind kind, size_t *first);
bool pb_lane_touches(const pb_lane *lane, int layer, pb_site_kind kind); /* an edit or a capture is there */
bool pb_lane_touches_range(const pb_lane *lane, int layer, pb_site_kind first, pb_site_kind last);

/* ---- values of a site within a lane ----------------------------------------------------------------------------------------- */

/* Where the rows of a site's value lie at this moment. (pos, head, width): data + row * row_stride + head * head_stride + i;
 * (head, dest, src): data + head * head_stride + row * row_stride + src. */
typedef struct pb_view {
    float *data;
    const int32_t *rows; /* positions, ascending */
    int32_t n_rows;
    int64_t row_stride, head_stride;
    int32_t heads, width;
    int expert; /* of an expert's sites; rows are those that the router gave it */
} pb_view;

struct pb_pass;
/* The reverse of an edit on the gradient of what comes after it: replaced entries get none, scaled ones theirs times the
 * factor; in reverse list order. The lane has no callbacks. */
pb_status pb_visit_back(struct pb_pass *pass, pb_lane *lane, int layer, pb_site_kind kind, const pb_view *view,
                        pb_error *err);
/* Copy the view's rows into a capture's tensor. */
void pb_capture_fill(const pb_capture *capture, const pb_view *view, bool by_head);
/* Apply the lane's edits at (layer, kind) to the view, then fill its captures of it. only_base / only_own restrict to one
 * kind of edit (resid_pre, see pass.c). */
typedef enum pb_edit_who { PB_EDITS_ALL, PB_EDITS_BASE, PB_EDITS_OWN } pb_edit_who;
pb_status pb_visit(struct pb_pass *pass, pb_lane *lane, int layer, pb_site_kind kind, const pb_view *view,
                   pb_edit_who who, pb_error *err);

/* ---- the pass ------------------------------------------------------------------------------------------------------------------ */

/* Values of source runs at the present layer, made before the layer's lanes are computed. */
typedef struct pb_source {
    const pb_run *run;
    pb_site site;
    pb_tensor *value; /* contiguous */
    int last_layer;   /* of the lanes' layers that read it; then it is dropped */
    struct pb_source *next;
} pb_source;

typedef struct pb_rotary_cache {
    int32_t T;
    float *cosine, *sine;         /* [T][dims / 2] */
    struct pb_rotary_cache *next; /* of another length, where frequencies depend on it (dynamic) */
} pb_rotary_cache;

typedef struct pb_pass {
    pb_context *ctx;
    pb_model *model;
    const pb_spec *spec;
    pb_lane *lanes;
    size_t n_lanes;
    const char *what;   /* for progress; NULL: silent */
    double done, total; /* FLOPs of the whole call: before this pass (growing as groups are done), and all */
    pb_arena arena;
    pb_source *sources;
    pb_rotary_cache *rotary; /* [n_rotaries * 2]: short and long */
    int32_t max_T;           /* longest lane */
    size_t looked_up;        /* rows read from the embedding tables */
    float *work;             /* scratch of the present group */
    size_t work_floats;
    int64_t group_rows; /* rows that go through a layer's products together */
} pb_pass;

/* Takes all lanes through the model: fills captures, kept runs, and lane->value where there is a metric. */
pb_status pb_pass_run(pb_pass *pass, pb_error *err);
/* Make the values that the lanes' edits of this layer read (layer -1: embedding sites; layers: final sites). */
pb_status pb_sources_prepare(pb_pass *pass, int layer, pb_error *err);
void pb_sources_drop(pb_pass *pass, int layer);
const pb_source *pb_source_find(const pb_pass *pass, const pb_run *run, pb_site site);
/* Row `pos` of a source's (pos, head, width) value, or NULL when it is kept as a tensor. */
static inline bool pb_site_is_boundary(const pb_run *run, pb_site site) {
    return !run->patches && (site.kind == PB_SITE_RESID_PRE || site.kind == PB_SITE_RESID_POST);
}
/* What a row of logits of a metric's reference run is compared with. */
struct pb_reference;
/* cos and sin rows of all positions for a layer's rotary in a sequence of T tokens. */
void pb_pass_free_rotaries(pb_pass *pass);
pb_status pb_pass_rotary(pb_pass *pass, int rotary, int32_t T, const float **cosine, const float **sine, pb_error *err);
/* Floats of scratch, at least n, 64-byte aligned; contents are lost at the next call. */
pb_status pb_pass_work(pb_pass *pass, size_t n, float **out, pb_error *err);

/* unembed.c: logits [rows][vocab] from what the unembedding reads, x [rows][d_embed]; before scale and soft cap. */
pb_status pb_unembed(pb_pass *pass, const float *x, int64_t ldx, int64_t rows, float *logits, pb_error *err);
/* d [rows][vocab] at the logits -> dx [rows][d_embed]. */
pb_status pb_unembed_input_grad(pb_pass *pass, const float *d, int64_t rows, float *dx, int64_t lddx, pb_error *err);

/* One group of lanes in one layer. Offsets are rows in the group's buffers. */
typedef struct pb_member {
    pb_lane *lane;
    int32_t *a_pos, *q_pos, *z_pos, *post_pos; /* positions, ascending */
    int32_t n_a, n_q, n_z, n_post;
    int64_t a0, q0, z0;           /* first row in the group's buffers */
    uint8_t *dirty;               /* [T] afterwards */
    bool skip_mlp;                /* nothing after attention is wanted */
    bool attn_held, mlp_held;     /* as pb_row_sets */
    const float **k_row, **v_row; /* [T] rows of keys and values (all kv heads) */
    const float **q_row;          /* [n_z] rows of queries (all heads) */
} pb_member;

/* Values of the forward pass that its own buffers do not keep, [n][..] each, for groups whose lanes compute all rows. NULL
 * members are not wanted in this architecture. */
typedef struct pb_saved {
    float *pre_norm;              /* [n][D] residual stream that attention reads */
    float *q_raw, *k_raw, *v_raw; /* after the hooks q, k, v; before clip, norm and rotation */
    float *attn_raw, *mlp_raw;    /* before the post norms */
    float *mid;                   /* [n][D] what the norm before the mlp reads */
    float *sum1, *sum2;           /* opt-350m: the sums before their norms */
} pb_saved;

typedef struct pb_group {
    pb_pass *pass;
    const pb_spec *spec;
    const pb_layer *weights;
    int layer;
    pb_member *members; /* in this order: whose mlp is held, whose is not, whose attention is held, both */
    size_t n, n_mlp_held, n_attn_held, n_both_held;
    int64_t n_a, n_q, n_z;
    float *normed;           /* [n_a][D] */
    float *q, *k, *v;        /* [n_q][H dh], [n_a][KV dh] */
    float *z;                /* [n_z][H dh] */
    float *attn_out;         /* [max(n_z, n_q)][D] */
    float *mlp_in, *mlp_out; /* [n_z][D] */
    float *hidden;           /* [n_z][d_mlp] input of the last matrix */
    float *pre,
        *linear; /* [n_z][d_mlp] before the activation; pre is hidden itself unless something is saved; linear: gated */
    struct pb_saved *saved; /* what the reverse pass needs beside the buffers above; NULL in a forward pass */
} pb_group;

pb_status pb_group_attention(pb_group *group, pb_error *err); /* attention.c: z of all members */
pb_status pb_group_project(pb_group *group, pb_error *err);   /* project.c: q, k, v of all members */
pb_status pb_group_mlp(pb_group *group, pb_error *err);       /* mlp.c: resid_mid -> resid_post */
/* Members from .. from + n as a group of their own, with its part of the z rows' buffers (q, k, v are the whole group's). Until
 * pb_group_rejoin their z0 count from its first row. */
pb_group pb_group_part(const pb_group *group, size_t from, size_t n);
void pb_group_rejoin(const pb_group *group, const pb_group *part);
/* Zeros in the z rows of a buffer [n_z][D] of the members from .. from + n: a patch will replace them. */
void pb_group_clear(const pb_group *group, size_t from, size_t n, float *buffer);
/* Buffers for the group's row counts, in the pass's scratch. */
pb_status pb_group_carve(pb_group *group, pb_error *err);
pb_status pb_group_attention_output(pb_group *group, pb_error *err);                        /* layer.c: z -> attn_out */
pb_status pb_layer_run(pb_pass *pass, int layer, pb_lane **lanes, size_t n, pb_error *err); /* layer.c */
/* Set the computed rows of a lane to `pos[n]` (ascending); rows that were not computed come from the base's boundary `layer`. */
void pb_lane_set_rows(const pb_spec *spec, pb_lane *lane, const int32_t *pos, int32_t n, int layer);
/* Norm of rows in place, one step at a time, with the lane's edits and captures at scale_kind and at the site after it. */
pb_status pb_norm_visited(pb_pass *pass, pb_lane *lane, int layer, const pb_norm *norm, float *rows, const int32_t *pos,
                          int32_t n, pb_site_kind scale_kind, pb_error *err);
/* The same for all members' z rows of a group buffer [n_z][D]: untouched ones in one call. */
pb_status pb_group_norm(pb_group *group, pb_norm_weights weights, float *rows, pb_site_kind scale_kind, pb_error *err);
/* The lane's visit of `kind` for every member that has one there; buffer [n_z][width] (or heads). */
pb_status pb_group_visit(pb_group *group, pb_site_kind kind, float *buffer, int64_t width, int heads, pb_error *err);
pb_status pb_group_experts(pb_group *group, const float *in, float *out,
                           pb_error *err);                        /* experts.c: [n_z][D] -> [n_z][D] */
int32_t pb_find_row(const int32_t *rows, int32_t n, int32_t pos); /* -1 if absent */

/* ---- metrics ------------------------------------------------------------------------------------------------------------------ */

struct pb_metric {
    int refs;
    pb_context *ctx;
    pb_metric_kind kind;
    bool listed;
    size_t n_positions;
    int32_t *positions;
    size_t n_answers, n_wrong;
    int32_t *answers, *wrong;
    double *weights; /* [n_answers], of PB_METRIC_LOGITS */
    pb_run *reference;
    pb_metric_fn fn;
    void *user;
};

/* Positions (absolute) that the metric reads in a run of T tokens, into out[T]; *n of them. Checks tokens against the model. */
pb_status pb_metric_positions(const pb_metric *metric, const pb_model *model, int32_t T, int32_t *out, int32_t *n,
                              pb_error *err);
bool pb_metric_needs_all_logits(const pb_metric *metric);
/* Final norm, unembedding and metric of all lanes that have one; captures of final sites; keep nothing. */
pb_status pb_pass_finish(pb_pass *pass, pb_error *err);

/* ---- plans --------------------------------------------------------------------------------------------------------------------- */

typedef struct pb_cost {
    double rows, flops;
    int32_t max_rows;   /* most rows of the residual stream at once */
    int64_t layer_rows; /* most rows of a layer's work at once */
} pb_cost;

/* What a lane will cost; does not change it. */
pb_status pb_lane_cost(const pb_spec *spec, const pb_lane *lane, pb_cost *cost, pb_error *err);
/* Prepare a lane whose sequence and wishes are set: edits resolved and sorted, start, need, limit, stop; then its cost. */
pb_status pb_lane_prepare(pb_arena *arena, pb_model *model, pb_lane *lane, const pb_patch *patches, size_t n_patches,
                          bool allow_unread, pb_cost *cost, pb_error *err);
/* Only the edits: those that the base run holds, then the request's, sorted. */
pb_status pb_lane_resolve(pb_arena *arena, const pb_model *model, pb_lane *lane, const pb_patch *patches, size_t n,
                          pb_error *err);
/* Run prepared lanes, whose costs' max_rows are in lane->cap. done, total: FLOPs of the call before these lanes, and in all. */
pb_status pb_lanes_run(pb_model *model, pb_lane *lanes, size_t n, const char *what, int64_t group_rows, double done,
                       double total, pb_error *err);
/* Rows that go together through a layer so that its buffers take at most `bytes`. */
int64_t pb_group_rows_for(const pb_spec *spec, size_t bytes);
size_t pb_layer_bytes(const pb_spec *spec, int64_t rows);
/* Bytes that a call may use for its work: what the budget leaves, but for a tenth, and at most `most`. */
size_t pb_work_left(const pb_context *ctx, size_t most);

int64_t pb_spec_qkv_width(const pb_spec *spec);

#endif
