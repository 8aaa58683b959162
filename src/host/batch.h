/* A batch from inside: bind_patch.c fills it, bind_measure.c hands it to the engine. */
#ifndef PB_HOST_BATCH_H
#define PB_HOST_BATCH_H

#include "host/objects.h"

typedef struct pb_batch_chunk pb_batch_chunk;

typedef struct pb_batch_hold {
    void *object;
    void (*release)(void *object);
} pb_batch_hold;

typedef struct pb_batch_metric_entry {
    const void *described; /* the Lua metric's box */
    const pb_model *model;
    size_t length;     /* of the run, for a metric of all positions; else 0 */
    pb_metric *metric; /* one reference, in holds */
} pb_batch_metric_entry;

struct pb_batch {
    pb_context *ctx;
    pb_host *host;
    const pb_box *box;    /* this batch's own, anchored: how callbacks find their functions */
    pb_request *requests; /* patches point into the array below once pb_batch_requests was called */
    size_t *first_patch;  /* [n_requests] */
    lua_Integer *numbers; /* [n_requests] see pb_batch_add */
    size_t n_requests, request_capacity;
    pb_patch *patches;
    size_t n_patches, patch_capacity;
    pb_batch_chunk *chunks; /* coordinates and callbacks: never moved */
    pb_batch_hold *holds;
    size_t n_holds, hold_capacity;
    pb_batch_metric_entry *metrics;
    size_t n_metrics, metric_capacity;
    lua_Integer n_functions;
    pb_tensor **captures; /* what the engine filled in, all requests' one after the other; NULL where it did not */
    size_t n_captures;
};

/* The batch of the box at index. */
pb_batch *pb_check_batch(lua_State *L, int index);
/* Memory that lives as long as the batch, zeroed. Raises. */
void *pb_batch_memory(lua_State *L, pb_batch *batch, size_t bytes);
/* The batch releases object when it goes. On failure object is released and an error raised. */
void pb_batch_hold_object(lua_State *L, pb_batch *batch, void *object, void (*release)(void *object));
/* The Lua value at index stays alive as long as the batch's box. */
void pb_batch_keep(lua_State *L, int batch_index, int index);
/* The same for a function; its number, for pb_batch_push_function. */
lua_Integer pb_batch_keep_function(lua_State *L, int batch_index, int index);
/* Push a function that the batch keeps; raises if the batch is gone. */
void pb_batch_push_function(lua_State *L, const pb_batch *batch, lua_Integer number);
/* Room for one more patch, zeroed. */
pb_patch *pb_batch_new_patch(lua_State *L, pb_batch *batch);
/* Begin a request of the run at run_index; the patches that follow are its. */
void pb_batch_begin(lua_State *L, int batch_index, int run_index, const pb_metric *metric, lua_Integer number);

/* Field memory of an options table: a number of bytes, or text such as "200 MB" (powers of 1024); absent: 0. */
size_t pb_field_memory(lua_State *L, int options);

#endif
