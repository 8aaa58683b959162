/* Lua: the reverse pass. What C gives is the primitive: requests with sites by full name in, plain tables out.
 * scripts/patchbay/core/grad.lua makes run:grad and pb.grad of it. */
#include <string.h>

#include "host/batch.h"
#include "host/private.h"
#include "patchbay/grad.h"

enum { REQUESTS = 1, OPTIONS = 2, BATCH = 3, WEIGHTS = 4 }; /* stack places of grad() */

/* One call of the engine and where its results go. */
typedef struct grad_call {
    pb_grad_request *requests;
    size_t n, n_weights;
    pb_grad_options options;
    pb_tensor **weights; /* [n_weights], NULL: not wanted; the table at WEIGHTS holds them */
    double *values;
    pb_tensor ***rows;
} grad_call;

/* A failed attempt may have added to the weights' gradients: each begins from zero. */
static pb_status attempt(const grad_call *call, pb_error *err) {
    for (size_t i = 0; i < call->n_weights; i++) {
        if (call->weights[i])
            PB_TRY(pb_tensor_fill(call->weights[i], 0, err));
    }
    return pb_grad(call->requests, call->n, &call->options, call->values, call->rows, err);
}

/* ---- weights ---------------------------------------------------------------------------------------------------------- */

/* A tensor of the weight's stored shape into the table at WEIGHTS and the call. */
static void want_weight(lua_State *L, grad_call *call, const pb_model *model, const char *name) {
    pb_box *box = pb_new_tensor(L);
    pb_tensor *copy = NULL;
    PB_LUA(L, pb_model_weight(model, name, &copy, pb_lua_error(L))); /* its values are overwritten */
    pb_fill_tensor(L, box, copy);
    for (size_t i = 0; i < call->n_weights; i++) {
        if (strcmp(pb_model_weight_name(model, i), name) == 0)
            call->weights[i] = copy;
    }
    lua_setfield(L, WEIGHTS, name);
}

/* options.weights: true, or a list of names. */
static void read_weights(lua_State *L, grad_call *call, const pb_model *model) {
    int type = pb_push_field(L, OPTIONS, "weights");
    int field = lua_gettop(L);
    if (type == LUA_TNIL || (type == LUA_TBOOLEAN && !lua_toboolean(L, field))) {
        lua_pop(L, 1);
        return;
    }
    if (type != LUA_TTABLE && type != LUA_TBOOLEAN)
        pb_bad_argument(L, "weights", "must be true (all) or a list of names as model:weights() gives, got %s",
                        pb_describe(L, field));
    call->n_weights = pb_model_weight_count(model);
    call->weights = pb_lua_scratch(L, call->n_weights, sizeof *call->weights);
    size_t n = type == LUA_TTABLE ? (size_t)lua_rawlen(L, field) : call->n_weights;
    for (size_t i = 0; i < n; i++) {
        const char *name;
        if (type == LUA_TTABLE) {
            lua_rawgeti(L, field, (lua_Integer)i + 1);
            name = pb_check_text(L, -1, "weights", NULL);
        } else {
            name = pb_model_weight_name(model, i);
            lua_pushnil(L);
        }
        want_weight(L, call, model, name);
        lua_pop(L, 1);
    }
    call->options.weights = call->weights;
    lua_replace(L, field); /* the scratch stays on the stack */
}

/* ---- requests --------------------------------------------------------------------------------------------------------- */

/* The list of full names on top, as sites in the batch's memory; field: for messages. */
static const pb_site *read_sites(lua_State *L, const pb_run *run, const char *field, size_t *n) {
    pb_site *sites = NULL;
    *n = 0;
    if (lua_type(L, -1) != LUA_TTABLE)
        return NULL;
    *n = (size_t)lua_rawlen(L, -1);
    if (*n > 0)
        sites = pb_batch_memory(L, pb_check_batch(L, BATCH), *n * sizeof *sites);
    for (size_t i = 0; i < *n; i++) {
        lua_rawgeti(L, -1, (lua_Integer)i + 1);
        const char *name = pb_check_text(L, -1, field, NULL);
        PB_LUA(L, pb_site_parse(pb_run_model(run), name, false, 0, &sites[i], pb_lua_error(L)));
        lua_pop(L, 1);
    }
    return sites;
}

static void read_request(lua_State *L, grad_call *call, size_t i) {
    static const char *const fields[] = {"run", "metric", "sites", "stop", "weight", NULL};
    int top = lua_gettop(L);
    if (lua_rawgeti(L, REQUESTS, (lua_Integer)i + 1) != LUA_TTABLE)
        pb_bad_argument(L, "requests", "must be tables { run =, metric =, sites = }: entry %d is not", (int)i + 1);
    int entry = lua_gettop(L);
    pb_check_fields(L, entry, fields, 0);
    pb_push_field(L, entry, "run");
    int run_index = lua_gettop(L);
    pb_run *run = pb_check_run(L, run_index);
    pb_push_field(L, entry, "metric");
    const pb_metric *metric = pb_batch_metric(L, BATCH, lua_gettop(L), run);
    pb_batch_begin(L, BATCH, run_index, metric, 0); /* the batch keeps both alive */
    pb_push_field(L, entry, "stop");
    pb_grad_request *request = &call->requests[i];
    *request = (pb_grad_request){.run = run, .metric = metric, .weight = pb_field_number(L, entry, "weight", 1)};
    request->stops = read_sites(L, run, "stop", &request->n_stops);
    lua_pop(L, 1);
    pb_push_field(L, entry, "sites");
    request->sites = read_sites(L, run, "sites", &request->n_sites);
    lua_settop(L, top);
}

/* Room for the tensors of all requests, which the batch releases. */
static void make_rows(lua_State *L, grad_call *call) {
    pb_batch *batch = pb_check_batch(L, BATCH);
    size_t total = 0;
    for (size_t i = 0; i < call->n; i++)
        total += call->requests[i].n_sites;
    if (total == 0) {
        call->rows = NULL;
        return;
    }
    batch->captures = pb_alloc_zero(batch->ctx, total, sizeof *batch->captures);
    if (!batch->captures)
        pb_lua_raise(L, pb_fail_memory(pb_lua_error(L), batch->ctx, total * sizeof *batch->captures, "gradients"));
    batch->n_captures = total;
    total = 0;
    for (size_t i = 0; i < call->n; i++) {
        call->rows[i] = batch->captures + total;
        total += call->requests[i].n_sites;
    }
}

/* ---- results ---------------------------------------------------------------------------------------------------------- */

/* Push the list of { value =, [full name of a site] = tensor }. */
static void push_results(lua_State *L, const grad_call *call) {
    char name[64];
    lua_createtable(L, (int)call->n, 0);
    for (size_t i = 0; i < call->n; i++) {
        const pb_grad_request *request = &call->requests[i];
        lua_createtable(L, 0, (int)request->n_sites + 1);
        lua_pushnumber(L, (lua_Number)(float)call->values[i]); /* rounded as a measured metric is */
        lua_setfield(L, -2, "value");
        for (size_t j = 0; j < request->n_sites; j++) {
            pb_box *box = pb_new_tensor(L);
            pb_fill_tensor(L, box, pb_tensor_ref(call->rows[i][j]));
            lua_setfield(L, -2, pb_site_name(request->sites[j], name, sizeof name));
        }
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
}

/* grad(list of { run =, metric =, sites =, stop = lists of full names, weight = 1 } [, { weights =, memory = }])
 * -> list of { value =, [site] = tensor }, { [weight's name] = tensor }. Weights: summed over all requests. */
static int grad(lua_State *L) {
    static const char *const fields[] = {"weights", "memory", NULL};
    pb_check_arity(L, 2);
    if (lua_type(L, REQUESTS) != LUA_TTABLE || lua_rawlen(L, REQUESTS) == 0)
        pb_bad_argument(L, "requests", "must be a list of { run =, metric =, sites = }, got %s",
                        pb_describe(L, REQUESTS));
    lua_settop(L, OPTIONS);
    if (lua_isnil(L, OPTIONS)) {
        lua_newtable(L);
        lua_replace(L, OPTIONS);
    }
    pb_check_fields(L, OPTIONS, fields, 0);
    grad_call call = {.n = (size_t)lua_rawlen(L, REQUESTS)};
    call.options.memory = pb_field_memory(L, OPTIONS);
    pb_batch_new(L);
    lua_newtable(L);
    call.requests = pb_lua_scratch(L, call.n, sizeof *call.requests);
    call.values = pb_lua_scratch(L, call.n, sizeof *call.values);
    call.rows = pb_lua_scratch(L, call.n, sizeof *call.rows);
    for (size_t i = 0; i < call.n; i++)
        read_request(L, &call, i);
    make_rows(L, &call);
    read_weights(L, &call, pb_run_model(call.requests[0].run));
    PB_LUA(L, attempt(&call, pb_lua_error(L)));
    push_results(L, &call);
    lua_pushvalue(L, WEIGHTS);
    return 2;
}

void pb_open_grad(lua_State *L);

void pb_open_grad(lua_State *L) {
    static const luaL_Reg functions[] = {{"grad", grad}, {NULL, NULL}};
    pb_add_functions(L, "", functions);
}
