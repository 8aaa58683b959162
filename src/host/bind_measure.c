/* Lua: run:measure, run:capture and pb.measure: many variants, one pass over the weights. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/batch.h"
#include "host/private.h"

static const char *const OPTION_FIELDS[] = {"dry", "memory", "allow_unread", "first", NULL};

size_t pb_field_memory(lua_State *L, int options) {
    static const char *const units[] = {"", "K", "M", "G", "T"};
    double bytes = 0;
    int type = pb_push_field(L, options, "memory");
    if (type == LUA_TNUMBER) {
        bytes = lua_tonumber(L, -1);
    } else if (type == LUA_TSTRING) {
        char *end = NULL, unit[4] = "";
        const char *text = lua_tostring(L, -1);
        bytes = strtod(text, &end);
        end += strspn(end, " ");
        size_t n = strlen(end);
        if (n > 0 && (end[n - 1] == 'B' || end[n - 1] == 'b'))
            n--;
        bool known = false;
        for (size_t i = 0; i < sizeof units / sizeof units[0] && n < sizeof unit; i++) {
            if (n == strlen(units[i]) && (n == 0 || (end[0] & ~0x20) == units[i][0])) {
                known = true;
                bytes *= (double)(UINT64_C(1) << (10 * i));
            }
        }
        bytes = known ? bytes : -1;
    } else if (type != LUA_TNIL) {
        bytes = -1;
    }
    if (!(bytes >= 0 && bytes < 9e18))
        pb_bad_argument(L, "memory", "must be a number of bytes or a text such as \"200 MB\", got %s",
                        pb_describe(L, -1));
    lua_pop(L, 1);
    return (size_t)bytes;
}

static pb_measure_options check_options(lua_State *L, int index) {
    pb_measure_options options = {.first_number = 1};
    if (lua_isnoneornil(L, index))
        return options;
    pb_check_fields(L, index, OPTION_FIELDS, 0);
    options.dry = pb_field_boolean(L, index, "dry", false);
    options.allow_unread = pb_field_boolean(L, index, "allow_unread", false);
    options.memory = pb_field_memory(L, index);
    options.first_number = (size_t)pb_field_integer(L, index, "first", 1, 1, LUA_MAXINTEGER / 2);
    return options;
}

static void set_number(lua_State *L, const char *key, double value) {
    if (value == floor(value) && fabs(value) < 9e15)
        lua_pushinteger(L, (lua_Integer)value);
    else
        lua_pushnumber(L, value);
    lua_setfield(L, -2, key);
}

static void push_plan(lua_State *L, const pb_plan *plan) {
    lua_createtable(L, 0, 7);
    set_number(L, "variants", (double)plan->variants);
    set_number(L, "chunks", (double)plan->chunks);
    set_number(L, "rows", plan->rows);
    set_number(L, "full_rows", plan->full_rows);
    set_number(L, "flops", plan->flops);
    set_number(L, "full_flops", plan->full_flops);
    set_number(L, "bytes", (double)plan->bytes);
}

/* Measure all requests of the batch at batch_index; push a tensor [n], or with dry the plan. */
static void push_measured(lua_State *L, int batch_index, const pb_measure_options *options) {
    size_t n = 0;
    pb_batch *batch = pb_check_batch(L, batch_index);
    const pb_request *requests = pb_batch_requests(batch, &n);
    double *values = pb_lua_scratch(L, n, sizeof *values);
    pb_plan plan = {0};
    if (n > 0)
        PB_LUA(L, pb_measure(requests, n, options, values, NULL, &plan, pb_lua_error(L)));
    if (options->dry) {
        push_plan(L, &plan);
        return;
    }
    const int64_t shape[1] = {(int64_t)n};
    pb_box *box = pb_new_tensor(L);
    pb_tensor *result = NULL;
    PB_LUA(L, pb_tensor_create(pb_host_context(L), PB_F32, 1, shape, &result, pb_lua_error(L)));
    float *out = pb_tensor_floats(result);
    for (size_t i = 0; i < n; i++)
        out[i] = (float)values[i];
    pb_fill_tensor(L, box, result);
}

static size_t check_list(lua_State *L, int index, const char *name, const char *what) {
    static const char *const no_fields[] = {NULL};
    if (lua_type(L, index) != LUA_TTABLE)
        pb_bad_argument(L, name, "must be a list of %s, got %s", what, pb_describe(L, index));
    if (pb_has_field(L, index, "site"))
        pb_bad_argument(L, name, "must be a list of %s, { { patch, ... }, ... }, and is one patch", what);
    pb_check_fields(L, index, no_fields, INT32_MAX);
    return (size_t)lua_rawlen(L, index);
}

/* run:measure(variants, metric [, options]) -> tensor [n] */
static int run_measure(lua_State *L) {
    pb_check_arity(L, 4);
    const pb_run *run = pb_check_run(L, 1);
    size_t n = check_list(L, 2, "variants", "variants");
    lua_settop(L, 4);
    pb_measure_options options = check_options(L, 4);
    pb_batch_new(L); /* 5 */
    const pb_metric *metric = pb_batch_metric(L, 5, 3, run);
    for (size_t i = 0; i < n; i++) {
        lua_rawgeti(L, 2, (lua_Integer)i + 1);
        pb_batch_add(L, 5, 1, 6, metric, (lua_Integer)(options.first_number + i));
        lua_settop(L, 5);
    }
    push_measured(L, 5, &options);
    return 1;
}

/* pb.measure(list of { run =, patches =, metric = } [, options]) -> tensor [n] */
static int measure(lua_State *L) {
    static const char *const fields[] = {"run", "patches", "metric", NULL};
    pb_check_arity(L, 2);
    size_t n = check_list(L, 1, "requests", "{ run =, patches =, metric = }");
    lua_settop(L, 2);
    pb_measure_options options = check_options(L, 2);
    pb_batch_new(L);          /* 3 */
    lua_createtable(L, 0, 0); /* 4: no patches */
    pb_host *host = pb_host_of(L);
    for (size_t i = 0; i < n; i++) {
        const lua_Integer number = (lua_Integer)(options.first_number + i);
        host->place.variant = number; /* for errors, until it is read */
        if (lua_rawgeti(L, 1, (lua_Integer)i + 1) != LUA_TTABLE)
            pb_bad_argument(L, "requests", "must be tables { run =, patches =, metric = }, not %s", pb_describe(L, -1));
        pb_check_fields(L, 5, fields, 0);
        pb_push_field(L, 5, "run");                     /* 6 */
        if (pb_push_field(L, 5, "patches") == LUA_TNIL) /* 7 */
            lua_copy(L, 4, 7);
        pb_push_field(L, 5, "metric"); /* 8 */
        const pb_metric *metric = pb_batch_metric(L, 3, 8, pb_check_run(L, 6));
        pb_batch_add(L, 3, 6, 7, metric, number);
        host->place.variant = 0;
        lua_settop(L, 4);
    }
    push_measured(L, 3, &options);
    return 1;
}

/* ---- captures ------------------------------------------------------------------------------------------------------------- */

/* The sites of the list (or the one name) at index, in the batch's memory. */
static const pb_site *check_sites(lua_State *L, int index, int batch_index, const pb_run *run, size_t *n) {
    bool list = lua_type(L, index) == LUA_TTABLE;
    *n = list ? (size_t)lua_rawlen(L, index) : 1;
    if (*n == 0)
        pb_bad_argument(L, "sites", "is an empty list");
    pb_site *sites = pb_batch_memory(L, pb_check_batch(L, batch_index), *n * sizeof *sites);
    for (size_t i = 0; i < *n; i++) {
        if (list)
            lua_rawgeti(L, index, (lua_Integer)i + 1);
        else
            lua_pushvalue(L, index);
        const char *name = pb_check_text(L, -1, "sites", NULL);
        PB_LUA(L, pb_site_parse(pb_run_model(run), name, false, 0, &sites[i], pb_lua_error(L)));
        lua_pop(L, 1);
    }
    return sites;
}

/* Push a list, one table per variant: site's name as given -> tensor. */
static void push_captures(lua_State *L, const pb_batch *batch, int sites, size_t n, size_t per_variant) {
    lua_createtable(L, (int)n, 0);
    for (size_t i = 0; i < n; i++) {
        lua_createtable(L, 0, (int)per_variant);
        for (size_t j = 0; j < per_variant; j++) {
            if (lua_type(L, sites) == LUA_TTABLE)
                lua_rawgeti(L, sites, (lua_Integer)j + 1);
            else
                lua_pushvalue(L, sites);
            pb_box *box = pb_new_tensor(L);
            pb_fill_tensor(L, box, pb_tensor_ref(batch->captures[i * per_variant + j]));
            lua_rawset(L, -3);
        }
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
}

/* run:capture(variants, sites [, options]) -> list of { [site] = tensor }, one per variant */
static int run_capture(lua_State *L) {
    pb_check_arity(L, 4);
    const pb_run *run = pb_check_run(L, 1);
    size_t n = check_list(L, 2, "variants", "variants"), n_sites = 0;
    lua_settop(L, 4);
    pb_measure_options options = check_options(L, 4);
    pb_batch *batch = pb_batch_new(L); /* 5 */
    const pb_site *sites = check_sites(L, 3, 5, run, &n_sites);
    for (size_t i = 0; i < n; i++) {
        lua_rawgeti(L, 2, (lua_Integer)i + 1);
        pb_batch_add(L, 5, 1, 6, NULL, (lua_Integer)(options.first_number + i));
        lua_settop(L, 5);
    }
    pb_tensor ***rows = pb_lua_scratch(L, n, sizeof *rows);
    batch->captures = pb_alloc_zero(batch->ctx, n * n_sites, sizeof *batch->captures);
    if (!batch->captures)
        pb_lua_raise(L, pb_fail_memory(pb_lua_error(L), batch->ctx, n * n_sites * sizeof *batch->captures, "captures"));
    batch->n_captures = n * n_sites;
    pb_request *requests = pb_batch_requests(batch, &n);
    for (size_t i = 0; i < n; i++) {
        requests[i].captures = sites;
        requests[i].n_captures = n_sites;
        rows[i] = batch->captures + i * n_sites;
    }
    pb_plan plan = {0};
    if (n > 0)
        PB_LUA(L, pb_measure(requests, n, &options, NULL, rows, &plan, pb_lua_error(L)));
    if (options.dry)
        push_plan(L, &plan);
    else
        push_captures(L, batch, 3, n, n_sites);
    return 1;
}

void pb_open_measure(lua_State *L);

void pb_open_measure(lua_State *L) {
    static const luaL_Reg functions[] = {{"measure", measure}, {NULL, NULL}};
    static const luaL_Reg run_methods[] = {{"measure", run_measure}, {"capture", run_capture}, {NULL, NULL}};
    pb_class_open(L, &PB_BATCH_CLASS);
    pb_add_functions(L, "", functions);
    pb_class_push_methods(L, &PB_RUN_CLASS);
    luaL_setfuncs(L, run_methods, 0);
    lua_pop(L, 1);
}
