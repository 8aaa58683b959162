/* The reverse pass: what its files share. Lanes are whole runs; row r of lane i is row info[i].row0 + r of every buffer. */
#ifndef PB_ENGINE_BACKWARD_H
#define PB_ENGINE_BACKWARD_H

#include "engine/internal.h"
#include "patchbay/grad.h"

typedef struct pb_back_info {
    const pb_grad_request *request;
    pb_capture *grads; /* one per site of the request */
    size_t n_grads;
    int64_t row0;
    double value;
} pb_back_info;

typedef struct pb_back {
    pb_pass pass;
    pb_group group; /* of the present layer; members are the lanes */
    pb_saved saved;
    pb_lane *lanes;
    pb_back_info *info;
    size_t n;
    int64_t rows;
    pb_tensor *const *weights; /* see pb_grad_options */
    float *dx;                 /* [rows][D] gradient at the residual stream, from the top down */
    float *d_attn;             /* [rows][D] at attn_out, then at what it is made of */
    float *d_norm;             /* [rows][D] at a norm's output, then at its input */
    float *d_shared;           /* [rows][D] mlp's part at ln1's output in PARALLEL_SHARED blocks; NULL elsewhere */
    float *dz, *dq;            /* [rows][heads * d_head] */
    float *dk, *dv;            /* [rows][kv heads * d_head] */
    float *d_post, *d_pre, *d_linear; /* [rows][d_mlp] */
} pb_back;

/* Does anybody want gradients at these sites, does the gradient end at one, or is anything patched there? */
bool pb_back_touches(const pb_back *back, size_t lane, int layer, pb_site_kind first, pb_site_kind last);
bool pb_back_stops(const pb_back *back, size_t lane, pb_site site); /* does the gradient end there? */
/* For lane i: note the gradient at the site, then take it back through the site's patches; a stop lets nothing through. */
pb_status pb_back_visit(pb_back *back, size_t i, int layer, pb_site_kind kind, const pb_view *view, pb_error *err);
/* The same for all lanes and a buffer of all rows [rows][heads][width] (heads 0: none). */
pb_status pb_back_visit_all(pb_back *back, int layer, pb_site_kind kind, float *buffer, int heads, int64_t width,
                            pb_error *err);

/* Gradient at a norm's output -> gradient at its input, in place in d [rows][D]; x: the norm's input. */
pb_status pb_back_norm(pb_back *back, int layer, pb_norm_weights weights, const float *x, float *d,
                       pb_site_kind scale_kind, pb_error *err);
/* One lane's rows of the same. positions: of the n rows; layer as in visits. */
pb_status pb_back_norm_rows(pb_back *back, size_t lane, int layer, pb_norm_weights weights, const float *x, float *d,
                            const int32_t *positions, int32_t n, pb_site_kind scale_kind, pb_error *err);

/* Parameters. The gradient of a vector of the spec as it lies in the wanted tensor; NULL when it is not wanted. */
float *pb_back_vector(const pb_back *back, const float *parameter);
/* dw += x^T dy and dbias += sum dy for a map of the spec, if they are wanted. */
pb_status pb_back_linear(const pb_back *back, const pb_matrix *w, const float *x, int64_t ldx, const float *dy,
                         int64_t lddy, int64_t rows, pb_error *err);
/* Row `index` of a table ([index][width], embeddings) += d. */
void pb_back_table_row(const pb_back *back, const pb_matrix *table, int64_t index, const float *d);

pb_status pb_back_attention(pb_back *back, int layer, pb_error *err); /* dz -> dq, dk, dv */
pb_status pb_back_layer(pb_back *back, int layer, pb_error *err);     /* dx at the layer's end -> at its beginning */
pb_status pb_back_experts(pb_back *back, int layer,
                          pb_error *err);              /* mixture of experts: d_attn-like d in d_norm out */
pb_status pb_back_final(pb_back *back, pb_error *err); /* metric -> dx after the last layer */

/* d metric / d logits of one row, times scale, into out[vocab]; adds the row's value to *value. */
void pb_metric_row_grad(const pb_metric *metric, const pb_lane *lane, int32_t pos, const float *logits, int64_t vocab,
                        const float *reference, double scale, float *out, double *value);
#endif
