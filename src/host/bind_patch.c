/* Lua patch tables -> the engine's patches: sites and coordinates, values, functions, and run[at], the value at a patch's
 * coordinates in another run. One table may name several sites and layers: it becomes one patch for each. */
#include <string.h>

#include "host/batch.h"
#include "host/private.h"

static const char *const PATCH_FIELDS[] = {
    "site",       "layer",    "pos",       "head",      "neuron",   "dest",  "src", "from",
    "value",      "zero",     "mean",      "add",       "scale",    "noise", "fn",  "from_site",
    "from_layer", "from_pos", "from_head", "from_dest", "from_src", NULL,
};

/* A patch table while it is read. Index numbers are stack positions. */
typedef struct reading {
    lua_State *L;
    pb_batch *batch;
    int batch_index, patch_index, run_index;
    const pb_run *run;
    const pb_model *model;
    lua_Integer number; /* of the variant, from 1; 0: not one of several */
} reading;

/* ---- messages ---------------------------------------------------------------------------------------------------------- */

_Noreturn static void refuse(const reading *r, const char *message) { pb_lua_fail(r->L, "%s", message); }

static void check_status(const reading *r, pb_status status) {
    if (status != PB_OK)
        pb_lua_raise(r->L, status);
}

/* ---- coordinates ------------------------------------------------------------------------------------------------------- */

/* The choice of a field, its items in the batch. Leaves the stack as it was. */
static pb_choice read_choice(const reading *r, const char *field) {
    lua_State *L = r->L;
    int top = lua_gettop(L);
    pb_choice choice = {false, 0, NULL};
    int type = pb_push_field(L, r->patch_index, field);
    if (type != LUA_TNIL) {
        const pb_choice read = pb_check_choice(L, -1, field, -1);
        if (read.listed) {
            int32_t *items = pb_batch_memory(L, r->batch, read.n * sizeof *items);
            memcpy(items, read.items, read.n * sizeof *items);
            choice = (pb_choice){true, read.n, items};
        }
    }
    lua_settop(L, top);
    return choice;
}

static void read_coordinates(const reading *r, pb_patch *patch) {
    patch->pos = read_choice(r, "pos");
    patch->head = read_choice(r, "head");
    patch->neuron = read_choice(r, "neuron");
    patch->dest = read_choice(r, "dest");
    patch->src = read_choice(r, "src");
}

/* One site by name, with or without a layer of its own. */
static pb_site one_site(const reading *r, const char *name, bool has_layer, int layer) {
    pb_site site = {PB_SITE_EMBED, -1};
    check_status(r, pb_site_parse(r->model, name, has_layer, layer, &site, pb_lua_error(r->L)));
    return site;
}

/* ---- picking entries out of a whole site's value ------------------------------------------------------------------------ */

/* Replace the tensor on top by its rows `choice` along axis. */
static void pick(lua_State *L, pb_choice choice, int axis) {
    if (!choice.listed)
        return;
    int whole = lua_gettop(L);
    int64_t *indices = pb_lua_scratch(L, choice.n, sizeof *indices);
    for (size_t i = 0; i < choice.n; i++)
        indices[i] = choice.items[i];
    pb_box *box = pb_new_tensor(L);
    pb_tensor *picked = NULL;
    PB_LUA(L, pb_tensor_index(pb_check_tensor(L, whole), axis, indices, (int64_t)choice.n, &picked, pb_lua_error(L)));
    pb_fill_tensor(L, box, picked);
    lua_replace(L, whole);
    lua_settop(L, whole);
}

/* Replace the whole value on top by the entries that the patch chooses; every axis stays. has_pos: the first axis is
 * positions (false: a mean over them, one row that broadcasts). */
static void pick_entries(lua_State *L, pb_site_shape shape, const pb_patch *patch, bool has_pos) {
    if (shape == PB_SHAPE_HEAD_POS_POS) {
        pick(L, patch->head, 0);
        pick(L, patch->dest, 1);
        pick(L, patch->src, 2);
        return;
    }
    if (has_pos)
        pick(L, patch->pos, 0);
    if (shape == PB_SHAPE_POS_HEAD_WIDTH)
        pick(L, patch->head, 1);
    pick(L, patch->neuron, shape == PB_SHAPE_POS_HEAD_WIDTH ? 2 : 1);
}

static void push_whole(lua_State *L, pb_run *run, pb_site site) {
    pb_guard_run(L, run);
    pb_box *box = pb_new_tensor(L);
    pb_tensor *value = NULL;
    PB_LUA(L, pb_run_value(run, site, &value, pb_lua_error(L)));
    pb_fill_tensor(L, box, value);
    lua_remove(L, -2);
}

/* The same from the run's weak cache: a patch function asks for one site once per variant. */
static void push_cached(lua_State *L, int run_index, pb_site site) {
    char name[64];
    pb_run *run = pb_check_run(L, run_index);
    pb_site_name(site, name, sizeof name);
    if (lua_getiuservalue(L, run_index, PB_RUN_CACHE) != LUA_TTABLE) {
        lua_pop(L, 1);
        lua_newtable(L);
        lua_createtable(L, 0, 1);
        lua_pushliteral(L, "v");
        lua_setfield(L, -2, "__mode");
        lua_setmetatable(L, -2);
        lua_pushvalue(L, -1);
        lua_setiuservalue(L, run_index, PB_RUN_CACHE);
    }
    if (lua_getfield(L, -1, name) == LUA_TNIL) {
        lua_pop(L, 1);
        push_whole(L, run, site);
        lua_pushvalue(L, -1);
        lua_setfield(L, -3, name);
    }
    lua_remove(L, -2);
}

void pb_push_value_at(lua_State *L, int run_index, int at_index) {
    static const char *const fields[] = {"site", "layer", "pos", "head", "neuron", "dest", "src", "variant", NULL};
    run_index = lua_absindex(L, run_index);
    at_index = lua_absindex(L, at_index);
    pb_run *run = pb_check_run(L, run_index);
    pb_check_fields(L, at_index, fields, 0);
    const char *name = pb_field_text(L, at_index, "site");
    if (!name)
        pb_bad_argument(L, "site", "is missing: run[{ site = \"z\", layer = 3, pos = -1 }]");
    bool has_layer = pb_has_field(L, at_index, "layer");
    int layer = has_layer ? (int)pb_field_integer(L, at_index, "layer", 0, INT32_MIN, INT32_MAX) : -1;
    pb_batch *batch = pb_batch_new(L);
    int top = lua_gettop(L);
    reading r = {L, batch, top, at_index, run_index, run, pb_run_model(run), 0};
    pb_patch patch = {.value = PB_VALUE_NUMBER};
    PB_LUA(L, pb_site_parse(r.model, name, has_layer, layer, &patch.site, pb_lua_error(L)));
    read_coordinates(&r, &patch);
    int ndim = 0;
    int64_t shape[3];
    PB_LUA(L, pb_patch_shape(r.model, &patch, (int64_t)pb_run_length(run), &ndim, shape, pb_lua_error(L)));
    push_cached(L, run_index, patch.site);
    int cached = lua_gettop(L);
    pick_entries(L, pb_site_describe(r.model, patch.site.kind).shape, &patch, true);
    bool picked = patch.pos.listed || patch.head.listed || patch.neuron.listed || patch.dest.listed || patch.src.listed;
    if (!picked) { /* what the cache holds is never given away: it could be changed in place */
        pb_box *box = pb_new_tensor(L);
        pb_tensor *copy = NULL;
        PB_LUA(L, pb_tensor_clone(pb_check_tensor(L, cached), &copy, pb_lua_error(L)));
        pb_fill_tensor(L, box, copy);
    }
}

/* ---- values -------------------------------------------------------------------------------------------------------------- */

static void release_tensor_hold(void *object) { pb_tensor_unref(object); }

static void release_run_hold(void *object) { pb_run_unref(object); }

/* The value on top (number, tensor, or list of numbers) becomes the patch's; popped. */
static void take_number_or_tensor(const reading *r, pb_patch *patch, pb_patch_op op, const char *field) {
    lua_State *L = r->L;
    patch->op = op;
    if (lua_type(L, -1) == LUA_TNUMBER) {
        patch->value = PB_VALUE_NUMBER;
        patch->number = lua_tonumber(L, -1);
    } else {
        if (!pb_to_tensor(L, -1) && lua_type(L, -1) != LUA_TTABLE)
            pb_bad_argument(L, field, "must be a number or a tensor, got %s", pb_describe(L, -1));
        pb_tensor *tensor = pb_make_tensor(L, -1, field);
        pb_batch_keep(L, r->batch_index, -1);
        pb_batch_hold_object(L, r->batch, pb_tensor_ref(tensor), release_tensor_hold);
        patch->value = PB_VALUE_TENSOR;
        patch->tensor = tensor;
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

static void check_same_length(const reading *r, const pb_run *from, const char *what) {
    if (pb_run_length(from) == pb_run_length(r->run))
        return;
    const char *table = pb_push_side_by_side(r->L, r->run, "this run", from, what);
    pb_lua_fail(r->L,
                "%s has %d tokens and this run %d, so the same position is not the same place:\n%s\n"
                "Give pos and from_pos (lists of equal length), or prompts of one length.",
                what, (int)pb_run_length(from), (int)pb_run_length(r->run), table);
}

static void take_from(const reading *r, pb_patch *patch) {
    lua_State *L = r->L;
    pb_run *from = pb_to_run(L, -1);
    if (!from)
        pb_bad_argument(L, "from", "must be a run, got %s", pb_describe(L, -1));
    patch->op = PB_PATCH_SET;
    patch->value = PB_VALUE_RUN;
    patch->run = from;
    patch->from_pos = read_choice(r, "from_pos");
    patch->from_head = read_choice(r, "from_head");
    patch->from_dest = read_choice(r, "from_dest");
    patch->from_src = read_choice(r, "from_src");
    bool mapped = patch->from_pos.listed || (patch->from_dest.listed && patch->from_src.listed);
    if (!mapped)
        check_same_length(r, from, "'from'");
    pb_batch_keep(L, r->batch_index, -1);
    if (r->batch->n_holds == 0 || r->batch->holds[r->batch->n_holds - 1].object != from)
        pb_batch_hold_object(L, r->batch, pb_run_ref(from), release_run_hold);
    lua_pop(L, 1);
}

/* noise = std, or { std =, seed =, draw =, replace = } */
static void take_noise(const reading *r, pb_patch *patch) {
    static const char *const fields[] = {"std", "seed", "draw", "replace", NULL};
    lua_State *L = r->L;
    patch->op = PB_PATCH_ADD;
    patch->value = PB_VALUE_NOISE;
    patch->noise_seed = pb_host_seed(L);
    if (lua_type(L, -1) == LUA_TNUMBER) {
        patch->noise_std = lua_tonumber(L, -1);
    } else {
        if (lua_type(L, -1) != LUA_TTABLE)
            pb_bad_argument(L, "noise", "must be its standard deviation or { std =, seed =, draw = }, got %s",
                            pb_describe(L, -1));
        pb_check_fields(L, -1, fields, 0);
        if (!pb_has_field(L, -1, "std"))
            pb_bad_argument(L, "noise", "needs std, the standard deviation");
        patch->noise_std = pb_field_number(L, -1, "std", 0);
        patch->noise_seed =
            (uint64_t)pb_field_integer(L, -1, "seed", (lua_Integer)patch->noise_seed, LUA_MININTEGER, LUA_MAXINTEGER);
        patch->noise_draw = (uint64_t)pb_field_integer(L, -1, "draw", 0, 0, LUA_MAXINTEGER);
        if (pb_field_boolean(L, -1, "replace", false))
            patch->op = PB_PATCH_SET;
    }
    if (!(patch->noise_std >= 0 && patch->noise_std <= 1e30))
        pb_bad_argument(L, "noise", "the standard deviation must be finite and not negative");
    lua_pop(L, 1);
}

/* ---- means ------------------------------------------------------------------------------------------------------------------ */

/* The sum on top becomes a mean. */
static void divide_top(lua_State *L, double n) {
    PB_LUA(L, pb_tensor_binary_scalar_in_place(PB_DIV, pb_check_tensor(L, -1), n, pb_lua_error(L)));
}

/* Replace the value on top by its sum over positions, the axis kept. */
static void sum_positions(lua_State *L) {
    int whole = lua_gettop(L);
    pb_box *box = pb_new_tensor(L);
    pb_tensor *sum = NULL;
    PB_LUA(L, pb_tensor_reduce(PB_SUM, pb_check_tensor(L, whole), 0, true, &sum, pb_lua_error(L)));
    pb_fill_tensor(L, box, sum);
    lua_replace(L, whole);
}

/* Push the mean of a site over runs (a list at index mean, each checked), position by position, or over positions too. */
static void push_mean(const reading *r, int mean, pb_site site, bool over_positions) {
    lua_State *L = r->L;
    size_t n = (size_t)lua_rawlen(L, mean), rows = 0;
    int sum = lua_gettop(L) + 1;
    for (size_t i = 0; i < n; i++) {
        lua_rawgeti(L, mean, (lua_Integer)i + 1);
        pb_run *run = pb_to_run(L, -1);
        if (!run || pb_run_model(run) != r->model)
            pb_bad_argument(L, "mean", "entry %d must be a run of the same model, got %s", (int)i + 1,
                            pb_describe(L, -1));
        if (!over_positions)
            check_same_length(r, run, "a run of the mean");
        rows += over_positions ? pb_run_length(run) : 1;
        push_whole(L, run, site);
        lua_remove(L, -2);
        if (over_positions)
            sum_positions(L);
        if (i > 0) {
            PB_LUA(L,
                   pb_tensor_binary_in_place(PB_ADD, pb_check_tensor(L, sum), pb_check_tensor(L, -1), pb_lua_error(L)));
            lua_pop(L, 1);
        }
    }
    divide_top(L, (double)rows);
}

/* The mean's whole value is made once per call and site. It is found again by key, the address of the user's list (which
 * the variants hold) or of the run whose own mean it is. */
static void push_mean_once(const reading *r, int mean, const void *key, pb_site site, bool over_positions) {
    lua_State *L = r->L;
    char name[64];
    pb_site_name(site, name, sizeof name);
    lua_getiuservalue(L, r->batch_index, 1);
    lua_pushfstring(L, "mean %p %s", key, name);
    lua_pushvalue(L, -1);
    if (lua_rawget(L, -3) == LUA_TNIL) {
        lua_pop(L, 1);
        push_mean(r, mean, site, over_positions);
        lua_pushvalue(L, -1);
        lua_insert(L, -3); /* [keep, value, key, value] */
        lua_rawset(L, -4);
        lua_remove(L, -2);
        return;
    }
    lua_replace(L, -3);
    lua_pop(L, 1);
}

/* mean = { runs } (position by position), { runs, over = "pos" } (over positions too), or "pos" (of this run's positions).
 * A new tensor value for the patch's own site. */
static void resolve_mean(const reading *r, pb_patch *patch) {
    static const char *const fields[] = {"over", NULL};
    static const char *const overs[] = {"runs", "pos", NULL};
    lua_State *L = r->L;
    int top = lua_gettop(L);
    bool over_positions = true;
    const void *key = lua_topointer(L, r->run_index);
    if (pb_push_field(L, r->patch_index, "mean") == LUA_TTABLE) {
        key = lua_topointer(L, -1);
        pb_check_fields(L, -1, fields, INT32_MAX);
        over_positions = pb_field_word(L, -1, "over", overs, 0) == 1;
        if (lua_rawlen(L, -1) == 0)
            pb_bad_argument(L, "mean", "is an empty list of runs");
    } else {
        pb_check_word(L, -1, "mean", overs + 1, -1);
        lua_createtable(L, 1, 0);
        lua_pushvalue(L, r->run_index);
        lua_rawseti(L, -2, 1);
        lua_replace(L, top + 1);
    }
    pb_site_shape shape = pb_site_describe(r->model, patch->site.kind).shape;
    if (over_positions && shape == PB_SHAPE_HEAD_POS_POS)
        refuse(r, "scores and patterns have no mean over positions: give runs of one length, mean = { run, ... }");
    push_mean_once(r, top + 1, key, patch->site, over_positions);
    pick_entries(L, shape, patch, !over_positions);
    patch->op = PB_PATCH_SET;
    patch->value = PB_VALUE_TENSOR;
    patch->tensor = pb_check_tensor(L, -1);
    pb_batch_keep(L, r->batch_index, -1);
    pb_batch_hold_object(L, r->batch, pb_tensor_ref(patch->tensor), release_tensor_hold);
    lua_settop(L, top);
}

/* ---- functions ---------------------------------------------------------------------------------------------------------------- */

typedef struct patch_function {
    const pb_batch *batch;
    lua_Integer number;  /* of the Lua function in the batch */
    lua_Integer variant; /* 1-based place in the user's list; 0: none */
} patch_function;

typedef struct function_call {
    const patch_function *function;
    const pb_patch *patch;
    const pb_run *base;
    pb_tensor *act, *replacement;
} function_call;

/* t[name] = list of the chosen coordinates, resolved: 0 .. extent-1 where all are chosen. */
static void set_coordinates(lua_State *L, const char *name, pb_choice choice, int64_t extent) {
    size_t n = choice.listed ? choice.n : (size_t)extent;
    lua_createtable(L, (int)n, 0);
    for (size_t i = 0; i < n; i++) {
        lua_Integer item = choice.listed ? choice.items[i] : (lua_Integer)i;
        lua_pushinteger(L, item < 0 ? item + extent : item);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_setfield(L, -2, name);
}

/* Push `at`: where a patch function is. run[at] gives another run's value there. */
static void push_at(lua_State *L, const function_call *call) {
    const pb_patch *patch = call->patch;
    const pb_site_info info = pb_site_describe(pb_run_model(call->base), patch->site.kind);
    int64_t T = (int64_t)pb_run_length(call->base);
    char name[64];
    lua_createtable(L, 0, 8);
    lua_pushstring(L, pb_site_name(patch->site, name, sizeof name));
    lua_setfield(L, -2, "site");
    if (patch->site.layer >= 0) {
        lua_pushinteger(L, patch->site.layer);
        lua_setfield(L, -2, "layer");
    }
    if (call->function->variant > 0) {
        lua_pushinteger(L, call->function->variant);
        lua_setfield(L, -2, "variant");
    }
    if (info.shape != PB_SHAPE_POS_WIDTH)
        set_coordinates(L, "head", patch->head, info.heads);
    if (info.shape == PB_SHAPE_HEAD_POS_POS) {
        set_coordinates(L, "dest", patch->dest, T);
        set_coordinates(L, "src", patch->src, T);
        return;
    }
    set_coordinates(L, "pos", patch->pos, T);
    if (patch->neuron.listed)
        set_coordinates(L, "neuron", patch->neuron, info.width);
}

/* The function's result, at the top of the stack, as a replacement of act's shape (or into act itself). */
static void take_result(lua_State *L, function_call *call) {
    pb_tensor *result = pb_to_tensor(L, -1);
    if (lua_isnil(L, -1) || result == call->act)
        return; /* changed in place, or not at all */
    if (lua_type(L, -1) == LUA_TNUMBER) {
        PB_LUA(L, pb_tensor_fill(call->act, lua_tonumber(L, -1), pb_lua_error(L)));
        return;
    }
    if (!result)
        pb_lua_fail(L, "a patch function must return a tensor, a number, or nothing (act changed in place), not %s",
                    pb_describe(L, -1));
    if (!pb_tensor_same_shape(result, call->act)) {
        char want[96], got[96];
        pb_status status = pb_tensor_copy_from(call->act, result, pb_lua_error(L)); /* broadcasts */
        if (status == PB_ERR_ARGUMENT) {
            pb_shape_text(pb_tensor_ndim(call->act), pb_tensor_shape(call->act), want, sizeof want);
            pb_shape_text(pb_tensor_ndim(result), pb_tensor_shape(result), got, sizeof got);
            pb_lua_fail(L, "a patch function returned a tensor %s where act is %s", got, want);
        }
        if (status != PB_OK)
            pb_lua_raise(L, status);
        return;
    }
    if (pb_tensor_dtype(result) != PB_F32)
        pb_lua_fail(L, "a patch function must return float32 numbers, not %s", pb_describe(L, -1));
    call->replacement = pb_tensor_ref(result); /* the last act: nothing raises after it */
}

static int call_function(lua_State *L) {
    function_call *call = lua_touserdata(L, 1);
    pb_batch_push_function(L, call->function->batch, call->function->number);
    pb_box *box = pb_new_tensor(L);
    pb_fill_tensor(L, box, pb_tensor_ref(call->act));
    push_at(L, call);
    lua_call(L, 2, 1);
    take_result(L, call);
    return 0;
}

static pb_status engine_function(void *user, const pb_patch *patch, const pb_run *base, size_t variant, pb_tensor *act,
                                 pb_tensor **out, pb_error *err) {
    (void)variant; /* a place in the engine's list; the user's own is in the patch_function */
    const patch_function *function = user;
    function_call call = {function, patch, base, act, NULL};
    PB_TRY(pb_lua_protect(pb_host_current(function->batch->host), call_function, &call, 0, err));
    if (call.replacement)
        *out = call.replacement;
    return PB_OK;
}

static void take_function(const reading *r, pb_patch *patch) {
    lua_State *L = r->L;
    if (lua_type(L, -1) != LUA_TFUNCTION)
        pb_bad_argument(L, "fn", "must be function(act, at) ... end, got %s", pb_describe(L, -1));
    patch_function *function = pb_batch_memory(L, r->batch, sizeof *function);
    *function = (patch_function){r->batch, pb_batch_keep_function(L, r->batch_index, -1), r->number};
    patch->op = PB_PATCH_FN;
    patch->fn = engine_function;
    patch->user = function;
    lua_pop(L, 1);
}

/* ---- one table ------------------------------------------------------------------------------------------------------------------ */

/* The one field that says what to do. Returns whether it is a mean, which is resolved for each site. */
static bool read_action(const reading *r, pb_patch *patch) {
    static const char *const actions[] = {"from", "value", "zero", "mean", "add", "scale", "noise", "fn", NULL};
    lua_State *L = r->L;
    const char *found = "";
    for (int i = 0; actions[i]; i++) {
        if (!pb_has_field(L, r->patch_index, actions[i]))
            continue;
        if (*found)
            pb_lua_fail(L, "'%s' and '%s' exclude each other: one patch does one thing (give two patches)", found,
                        actions[i]);
        found = actions[i];
    }
    if (!*found)
        refuse(r, "it says where but not what: give one of from, value, zero, mean, add, scale, noise, fn");
    for (int i = 0; i < 4; i++) {
        static const char *const froms[] = {"from_pos", "from_head", "from_dest", "from_src"};
        if (strcmp(found, "from") != 0 && pb_has_field(L, r->patch_index, froms[i]))
            pb_lua_fail(L, "'%s' has a meaning with 'from' only", froms[i]);
    }
    pb_push_field(L, r->patch_index, found);
    switch (found[0]) {
    case 'v':
        take_number_or_tensor(r, patch, PB_PATCH_SET, found);
        break;
    case 'a':
        take_number_or_tensor(r, patch, PB_PATCH_ADD, found);
        break;
    case 's':
        take_number_or_tensor(r, patch, PB_PATCH_SCALE, found);
        break;
    case 'z':
        if (!pb_check_boolean(L, -1, found))
            refuse(r, "zero = false does nothing: leave the patch out");
        lua_pop(L, 1);
        break; /* op SET, value NUMBER, number 0: all zeros already */
    case 'n':
        take_noise(r, patch);
        break;
    case 'm':
        lua_pop(L, 1);
        return true;
    default:
        if (strcmp(found, "fn") == 0)
            take_function(r, patch);
        else
            take_from(r, patch);
    }
    return false;
}

/* Where values come from if not the same site: from_site, from_layer. index: which of `count` layers this is. */
static void resolve_from(const reading *r, pb_patch *patch, size_t index, size_t count) {
    lua_State *L = r->L;
    bool has_site = pb_has_field(L, r->patch_index, "from_site"),
         has_layer = pb_has_field(L, r->patch_index, "from_layer");
    if (!has_site && !has_layer)
        return;
    if (patch->value != PB_VALUE_RUN)
        refuse(r, "from_site and from_layer have a meaning with 'from' only");
    int top = lua_gettop(L), layer = patch->site.layer;
    if (has_layer) {
        if (pb_push_field(L, r->patch_index, "from_layer") == LUA_TTABLE) {
            if (lua_rawlen(L, -1) != count)
                refuse(r, "from_layer must have one entry for each layer that is patched");
            lua_rawgeti(L, -1, (lua_Integer)index + 1);
        }
        layer = (int)pb_check_integer(L, -1, "from_layer", INT32_MIN, INT32_MAX);
    }
    char own[64];
    pb_site from = {PB_SITE_EMBED, -1, 0};
    if (has_site)
        snprintf(own, sizeof own, "%s", pb_field_text(L, r->patch_index, "from_site"));
    else
        pb_site_short_name(patch->site, own, sizeof own);
    check_status(r, pb_site_parse_kind(r->model, own, &from, pb_lua_error(L)));
    bool layered = pb_site_has_layer(from.kind) && (from.layer < 0 || has_layer);
    patch->from_site = one_site(r, own, layered, layer);
    patch->has_from_site = true;
    lua_settop(L, top);
}

static void emit(const reading *r, const pb_patch *prototype, pb_site site, bool mean, size_t index, size_t count) {
    int ndim = 0;
    int64_t shape[3];
    pb_patch patch = *prototype;
    patch.site = site;
    check_status(r, pb_patch_shape(r->model, &patch, (int64_t)pb_run_length(r->run), &ndim, shape, pb_lua_error(r->L)));
    if (mean)
        resolve_mean(r, &patch);
    resolve_from(r, &patch, index, count);
    *pb_batch_new_patch(r->L, r->batch) = patch;
}

/* All layers of one named site. */
static void emit_layers(const reading *r, const pb_patch *prototype, const char *name, bool mean) {
    lua_State *L = r->L;
    int top = lua_gettop(L);
    int type = pb_push_field(L, r->patch_index, "layer");
    if (type == LUA_TNUMBER || type == LUA_TNIL) {
        bool has_layer = type == LUA_TNUMBER;
        int layer = has_layer ? (int)pb_check_integer(L, -1, "layer", INT32_MIN, INT32_MAX) : -1;
        emit(r, prototype, one_site(r, name, has_layer, layer), mean, 0, 1);
        lua_settop(L, top);
        return;
    }
    pb_site site = {PB_SITE_EMBED, -1, 0};
    check_status(r, pb_site_parse_kind(r->model, name, &site, pb_lua_error(L)));
    if (!pb_site_has_layer(site.kind) || site.layer >= 0)
        pb_lua_fail(L, "site '%s' %s: leave out the list of layers", name,
                    site.layer >= 0 ? "names its layer already" : "is not in the layers");
    pb_choice layers = pb_check_choice(L, -1, "layer", pb_model_layers(r->model));
    if (!layers.listed) {
        int total = pb_model_layers(r->model), n = 0;
        for (site.layer = 0; site.layer < total; site.layer++)
            n += pb_site_exists(r->model, site);
        int i = 0;
        for (site.layer = 0; site.layer < total; site.layer++) {
            if (pb_site_exists(r->model, site))
                emit(r, prototype, site, mean, (size_t)i++, (size_t)n);
        }
    }
    for (size_t i = 0; layers.listed && i < layers.n; i++)
        emit(r, prototype, one_site(r, name, true, layers.items[i]), mean, i, layers.n);
    lua_settop(L, top);
}

static void read_patch(reading *r) {
    lua_State *L = r->L;
    pb_check_fields(L, r->patch_index, PATCH_FIELDS, 0);
    pb_patch prototype = {.op = PB_PATCH_SET, .value = PB_VALUE_NUMBER};
    read_coordinates(r, &prototype);
    bool mean = read_action(r, &prototype);
    int type = pb_push_field(L, r->patch_index, "site");
    int site = lua_gettop(L);
    if (type == LUA_TSTRING) {
        emit_layers(r, &prototype, lua_tostring(L, site), mean);
    } else if (type == LUA_TTABLE && lua_rawlen(L, site) > 0) {
        for (lua_Integer i = 1; i <= (lua_Integer)lua_rawlen(L, site); i++) {
            lua_rawgeti(L, site, i);
            emit_layers(r, &prototype, pb_check_text(L, -1, "site", NULL), mean);
            lua_pop(L, 1);
        }
    } else {
        pb_bad_argument(L, "site", "must be a site's name, as site = \"resid_pre\", or a list of them, got %s",
                        pb_describe(L, site));
    }
    lua_settop(L, site - 1);
}

/* One table, or a list of them. place: of the host, which errors are told by. */
static void read_variant(reading *r, int variant_index, lua_Integer *place) {
    static const char *const no_fields[] = {NULL};
    lua_State *L = r->L;
    if (lua_type(L, variant_index) != LUA_TTABLE)
        pb_lua_fail(L, "a variant is a list of patches, { { site = ... }, ... }, not %s",
                    pb_describe(L, variant_index));
    *place = 1;
    if (pb_has_field(L, variant_index, "site")) { /* one patch, not in a list */
        read_patch(r);
        return;
    }
    lua_Integer n = (lua_Integer)lua_rawlen(L, variant_index);
    if (n == 0)
        lua_pushnil(L);
    if (n == 0 && lua_next(L, variant_index)) /* fields, but no list: it is meant as one patch */
        refuse(r, "it has no 'site': a patch says where, as { site = \"resid_pre\", layer = 3, ... }");
    *place = 0;
    pb_check_fields(L, variant_index, no_fields, INT32_MAX);
    for (lua_Integer i = 1; i <= n; i++) {
        *place = i;
        lua_rawgeti(L, variant_index, i);
        if (lua_type(L, -1) != LUA_TTABLE)
            pb_lua_fail(L, "it must be a table, { site = ... }, not %s", pb_describe(L, -1));
        r->patch_index = lua_gettop(L);
        read_patch(r);
        lua_pop(L, 1);
    }
}

void pb_batch_add(lua_State *L, int batch_index, int run_index, int variant_index, const pb_metric *metric,
                  lua_Integer number) {
    pb_host *host = pb_host_of(L);
    const lua_Integer outer_variant = host->place.variant, outer_patch = host->place.patch;
    batch_index = lua_absindex(L, batch_index);
    run_index = lua_absindex(L, run_index);
    variant_index = lua_absindex(L, variant_index);
    luaL_checkstack(L, 30, "reading patches");
    host->place.variant = number;
    host->place.patch = 0;
    pb_batch_begin(L, batch_index, run_index, metric, number);
    const pb_run *run = pb_check_run(L, run_index);
    reading r = {L,     pb_check_batch(L, batch_index), batch_index, variant_index, run_index, run, pb_run_model(run),
                 number};
    read_variant(&r, variant_index, &host->place.patch);
    host->place.variant = outer_variant;
    host->place.patch = outer_patch;
}
