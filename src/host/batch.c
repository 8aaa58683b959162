/* The batch: requests for one engine call, and everything that they point to. It owns the C memory, so that a Lua error
 * while it is filled loses nothing, and keeps Lua values alive while the engine, which borrows them, runs. */
#include <string.h>

#include "host/batch.h"
#include "host/private.h"

struct pb_batch_chunk {
    pb_batch_chunk *next;
    size_t used, size;
    _Alignas(16) unsigned char data[];
};

enum { CHUNK_BYTES = 1 << 14, KEEP = 1 };

static void release_batch(void *object) {
    pb_batch *batch = object;
    for (size_t i = 0; i < batch->n_captures; i++)
        pb_tensor_unref(batch->captures[i]);
    for (size_t i = batch->n_holds; i > 0; i--)
        batch->holds[i - 1].release(batch->holds[i - 1].object);
    for (pb_batch_chunk *chunk = batch->chunks, *next; chunk; chunk = next) {
        next = chunk->next;
        pb_free(chunk);
    }
    pb_free(batch->captures);
    pb_free(batch->metrics);
    pb_free(batch->holds);
    pb_free(batch->patches);
    pb_free(batch->numbers);
    pb_free(batch->first_patch);
    pb_free(batch->requests);
    pb_free(batch);
}

const pb_class PB_BATCH_CLASS = {.name = "batch", .release = release_batch};

_Noreturn static void out_of_memory(lua_State *L, size_t bytes) {
    pb_lua_raise(L, pb_fail_memory(pb_lua_error(L), pb_host_context(L), bytes, "the patches of a call"));
}

pb_batch *pb_check_batch(lua_State *L, int index) { return pb_check_box(L, index, &PB_BATCH_CLASS); }

pb_batch *pb_batch_new(lua_State *L) {
    pb_box *box = pb_box_new(L, &PB_BATCH_CLASS, 1);
    pb_batch *batch = pb_alloc_zero(pb_host_context(L), 1, sizeof *batch);
    if (!batch)
        out_of_memory(L, sizeof *batch);
    box->object = batch;
    *batch = (pb_batch){.ctx = pb_host_context(L), .host = pb_host_of(L), .box = box};
    lua_newtable(L);
    lua_setiuservalue(L, -2, KEEP);
    return batch;
}

/* The array, moved if need be, so that it holds one more than n entries. Raises; then the array is as before. */
static void *grown(lua_State *L, pb_batch *batch, void *array, size_t *capacity, size_t n, size_t size) {
    if (n < *capacity)
        return array;
    size_t wanted = *capacity ? *capacity * 2 : 16;
    void *bigger = pb_realloc(batch->ctx, array, wanted, size);
    if (!bigger)
        out_of_memory(L, wanted * size);
    *capacity = wanted;
    return bigger;
}

void *pb_batch_memory(lua_State *L, pb_batch *batch, size_t bytes) {
    bytes = (bytes + 15) / 16 * 16;
    pb_batch_chunk *chunk = batch->chunks;
    if (!chunk || chunk->size - chunk->used < bytes) {
        size_t size = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
        chunk = pb_alloc(batch->ctx, 1, sizeof *chunk + size);
        if (!chunk)
            out_of_memory(L, sizeof *chunk + size);
        *chunk = (pb_batch_chunk){batch->chunks, 0, size};
        batch->chunks = chunk;
    }
    void *block = chunk->data + chunk->used;
    chunk->used += bytes;
    memset(block, 0, bytes);
    return block;
}

void pb_batch_hold_object(lua_State *L, pb_batch *batch, void *object, void (*release)(void *object)) {
    void *array = batch->holds;
    if (batch->n_holds == batch->hold_capacity) {
        size_t wanted = batch->hold_capacity ? batch->hold_capacity * 2 : 16;
        array = pb_realloc(batch->ctx, array, wanted, sizeof *batch->holds);
        if (!array) {
            release(object);
            out_of_memory(L, wanted * sizeof *batch->holds);
        }
        batch->holds = array;
        batch->hold_capacity = wanted;
    }
    batch->holds[batch->n_holds++] = (pb_batch_hold){object, release};
}

void pb_batch_keep(lua_State *L, int batch_index, int index) {
    batch_index = lua_absindex(L, batch_index);
    index = lua_absindex(L, index);
    lua_getiuservalue(L, batch_index, KEEP);
    lua_pushvalue(L, index);
    lua_pushboolean(L, 1);
    lua_rawset(L, -3);
    lua_pop(L, 1);
}

lua_Integer pb_batch_keep_function(lua_State *L, int batch_index, int index) {
    pb_batch *batch = pb_check_batch(L, batch_index);
    batch_index = lua_absindex(L, batch_index);
    index = lua_absindex(L, index);
    if (batch->n_functions == 0)
        pb_box_anchor(L, batch_index);
    lua_getiuservalue(L, batch_index, KEEP);
    lua_pushvalue(L, index);
    lua_rawseti(L, -2, batch->n_functions + 1);
    lua_pop(L, 1);
    return ++batch->n_functions;
}

void pb_batch_push_function(lua_State *L, const pb_batch *batch, lua_Integer number) {
    if (pb_box_push(L, batch->box) != LUA_TUSERDATA)
        pb_lua_fail(L, "the function of this patch is gone: keep the patched run that it was given to");
    lua_getiuservalue(L, -1, KEEP);
    lua_rawgeti(L, -1, number);
    lua_replace(L, -3);
    lua_pop(L, 1);
}

pb_patch *pb_batch_new_patch(lua_State *L, pb_batch *batch) {
    batch->patches = grown(L, batch, batch->patches, &batch->patch_capacity, batch->n_patches, sizeof *batch->patches);
    pb_patch *patch = &batch->patches[batch->n_patches++];
    memset(patch, 0, sizeof *patch);
    batch->requests[batch->n_requests - 1].n_patches++;
    return patch;
}

static void release_run_hold(void *object) { pb_run_unref(object); }

void pb_batch_begin(lua_State *L, int batch_index, int run_index, const pb_metric *metric, lua_Integer number) {
    pb_batch *batch = pb_check_batch(L, batch_index);
    pb_run *run = pb_check_run(L, run_index);
    if (batch->n_requests == 0 || batch->requests[batch->n_requests - 1].base != run) {
        pb_batch_keep(L, batch_index, run_index);
        pb_batch_hold_object(L, batch, pb_run_ref(run), release_run_hold);
    }
    /* Three arrays of one length: they grow together, the shared capacity is set by the last. */
    size_t capacity = batch->request_capacity, same = capacity;
    batch->first_patch = grown(L, batch, batch->first_patch, &same, batch->n_requests, sizeof *batch->first_patch);
    same = capacity;
    batch->numbers = grown(L, batch, batch->numbers, &same, batch->n_requests, sizeof *batch->numbers);
    batch->requests =
        grown(L, batch, batch->requests, &batch->request_capacity, batch->n_requests, sizeof *batch->requests);
    batch->first_patch[batch->n_requests] = batch->n_patches;
    batch->numbers[batch->n_requests] = number;
    batch->requests[batch->n_requests++] = (pb_request){.base = run, .metric = metric};
}

pb_request *pb_batch_requests(pb_batch *batch, size_t *n) {
    for (size_t i = 0; i < batch->n_requests; i++) {
        pb_request *request = &batch->requests[i];
        request->patches = request->n_patches ? batch->patches + batch->first_patch[i] : NULL;
    }
    *n = batch->n_requests;
    return batch->requests;
}

static void release_metric_hold(void *object) { pb_metric_unref(object); }

const pb_metric *pb_batch_metric(lua_State *L, int batch_index, int metric_index, const pb_run *run) {
    pb_batch *batch = pb_check_batch(L, batch_index);
    const void *described = lua_touserdata(L, metric_index);
    const pb_model *model = pb_run_model(run);
    size_t length = pb_metric_takes_all(L, metric_index) ? pb_run_length(run) : 0;
    for (size_t i = batch->n_metrics; described && i > 0; i--) { /* most often the one asked for before */
        const pb_batch_metric_entry *entry = &batch->metrics[i - 1];
        if (entry->described == described && entry->model == model && entry->length == length)
            return entry->metric;
    }
    batch->metrics = grown(L, batch, batch->metrics, &batch->metric_capacity, batch->n_metrics, sizeof *batch->metrics);
    pb_metric *metric = NULL;
    pb_resolve_metric(L, metric_index, run, &metric);
    pb_batch_hold_object(L, batch, metric, release_metric_hold);
    pb_batch_keep(L, batch_index, metric_index);
    batch->metrics[batch->n_metrics++] = (pb_batch_metric_entry){described, model, length, metric};
    return metric;
}
