/* Streaming: models whose weights are more than memory should hold. They stay in the mapped files like all weights; what
 * streaming adds is when their pages are resident. Whoever goes through the layers asks for the next layer's pages before it
 * computes the present one, and lets go of a layer's pages when it is done with it; the tables of the embedding and of the
 * unembedding, which can be larger than a layer, are used in parts. So no more is resident than a layer (the window), which
 * is charged to the context's budget for as long as the model lives. Values do not depend on any of this.
 *
 * All functions do nothing for a model that is not streamed. They only advise the operating system: threads may be reading
 * the same pages, and a page that was let go is read again on access. */
#ifndef PB_MODEL_STREAM_H
#define PB_MODEL_STREAM_H

#include "model/spec.h"

typedef struct pb_stream pb_stream;

/* Layers that can be asked for and let go; PB_STREAM_EMBED comes before layer 0. */
enum { PB_STREAM_EMBED = -1 };

/* Ask for the pages of a layer. rows: that will go through it; few rows do not need all experts of a layer with experts. */
void pb_stream_ahead(const pb_model *model, int layer, double rows);
/* Let go of a layer's pages; PB_STREAM_EMBED: of the embedding tables and what belongs to them; the number of layers: of the
 * unembedding and what belongs to it. */
void pb_stream_done(const pb_model *model, int layer);

/* Outputs of a map [out, in] of the spec that should be used at once: a multiple of 256, or all. */
int64_t pb_stream_outputs(const pb_model *model, const pb_matrix *w);
/* The same as above for outputs first .. first + n - 1 of such a map. */
void pb_stream_outputs_ahead(const pb_model *model, const pb_matrix *w, int64_t first, int64_t n);
void pb_stream_outputs_done(const pb_model *model, const pb_matrix *w, int64_t first, int64_t n);

/* Output o of any map of the spec was read, after the ones before it: lets go of them now and then, and of all at the end. */
void pb_stream_output_read(const pb_model *model, const pb_matrix *w, int64_t o);

/* Let go of everything. */
void pb_stream_done_all(const pb_model *model);

/* Why a model might be streamed. */
typedef enum pb_stream_choice {
    PB_STREAM_IF_NEEDED, /* when its files do not fit what the budget leaves; a warning says so */
    PB_STREAM_ASKED,     /* refused where matrices cannot be used as they lie in the files */
    PB_STREAM_LIKE_BASE  /* made from a model that is streamed */
} pb_stream_choice;
/* Decides for a model whose weights are bound, and charges the window to the budget. */
pb_status pb_stream_prepare(pb_model *model, pb_stream_choice choice, pb_error *err);
void pb_stream_free(pb_model *model);

#endif
