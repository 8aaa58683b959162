/* Lua tables of training sequences -> runs with their patches (attention masks, dropout) and the metrics that are their loss:
 *     { tokens = ids, predict = positions, patches = { { site =, layer =, pos/head/neuron/dest/src =, value|add|scale|dropout = } } }
 * Fewer kinds of patches than bind_patch.c reads, because there is no run yet that they could be measured against. */
#include <string.h>

#include "host/private.h"
#include "host/training.h"

typedef struct reader {
    lua_State *L;
    pb_batch *batch;
    pb_model *model;
    pb_sequence *sequence;
    lua_Integer number, place; /* of the sequence and the patch, from 1, for messages */
    int index;                 /* of the patch's table */
} reader;

_Noreturn static void refuse(const reader *r, const char *message) {
    pb_lua_fail(r->L, "sequence %d, patch %d: %s", (int)r->number, (int)r->place, message);
}

static pb_choice read_choice(const reader *r, const char *field) {
    lua_State *L = r->L;
    int top = lua_gettop(L);
    pb_choice choice = {false, 0, NULL};
    if (pb_push_field(L, r->index, field) != LUA_TNIL) {
        pb_choice read = pb_check_choice(L, -1, field, -1);
        if (read.listed) {
            int32_t *items = pb_batch_memory(L, r->batch, read.n * sizeof *items);
            memcpy(items, read.items, read.n * sizeof *items);
            choice = (pb_choice){true, read.n, items};
        }
    }
    lua_settop(L, top);
    return choice;
}

/* dropout = rate, or { rate =, seed =, draw = } */
static void read_dropout(const reader *r, pb_patch *patch) {
    static const char *const fields[] = {"rate", "seed", "draw", NULL};
    lua_State *L = r->L;
    patch->op = PB_PATCH_SCALE;
    patch->value = PB_VALUE_DROPOUT;
    patch->noise_seed = pb_host_seed(L);
    if (pb_push_field(L, r->index, "dropout") == LUA_TNUMBER) {
        patch->noise_std = lua_tonumber(L, -1);
    } else {
        pb_check_fields(L, -1, fields, 0);
        patch->noise_std = pb_field_number(L, -1, "rate", -1);
        patch->noise_seed =
            (uint64_t)pb_field_integer(L, -1, "seed", (lua_Integer)patch->noise_seed, LUA_MININTEGER, LUA_MAXINTEGER);
        patch->noise_draw = (uint64_t)pb_field_integer(L, -1, "draw", 0, 0, LUA_MAXINTEGER);
    }
    if (!(patch->noise_std >= 0 && patch->noise_std < 1))
        refuse(r, "dropout's rate must be from 0 to below 1");
    lua_pop(L, 1);
}

static void read_action(const reader *r, pb_patch *patch) {
    static const char *const actions[] = {"value", "add", "scale", "dropout"};
    static const pb_patch_op ops[] = {PB_PATCH_SET, PB_PATCH_ADD, PB_PATCH_SCALE};
    int found = -1;
    for (int i = 0; i < 4; i++) {
        if (!pb_has_field(r->L, r->index, actions[i]))
            continue;
        if (found >= 0)
            refuse(r, "has two actions; one of value, add, scale, dropout");
        found = i;
    }
    if (found < 0)
        refuse(r, "has no action: one of value, add, scale, dropout");
    if (found == 3) {
        read_dropout(r, patch);
        return;
    }
    patch->op = ops[found];
    patch->value = PB_VALUE_NUMBER;
    patch->number = pb_field_number(r->L, r->index, actions[found], 0);
}

static void emit(const reader *r, const pb_patch *prototype, pb_site site) {
    int ndim = 0;
    int64_t shape[3];
    pb_sequence *s = r->sequence;
    pb_patch patch = *prototype;
    patch.site = site;
    PB_LUA(r->L, pb_patch_shape(r->model, &patch, (int64_t)s->n_ids, &ndim, shape, pb_lua_error(r->L)));
    if (s->n_patches == s->cap_patches) {
        size_t wanted = s->cap_patches ? 2 * s->cap_patches : 16;
        pb_patch *bigger = pb_batch_memory(r->L, r->batch, wanted * sizeof *bigger);
        if (s->n_patches)
            memcpy(bigger, s->patches, s->n_patches * sizeof *bigger);
        s->patches = bigger;
        s->cap_patches = wanted;
    }
    s->patches[s->n_patches++] = patch;
}

/* All layers that the patch names: one, a list, or (a site of the layers without one) all of them. */
static void read_patch(reader *r) {
    static const char *const fields[] = {"site", "layer", "pos", "head",  "neuron",  "dest",
                                         "src",  "value", "add", "scale", "dropout", NULL};
    lua_State *L = r->L;
    int top = lua_gettop(L);
    pb_check_fields(L, r->index, fields, 0);
    const char *name = pb_field_text(L, r->index, "site");
    if (!name)
        refuse(r, "has no site");
    pb_patch patch = {.pos = read_choice(r, "pos"),
                      .head = read_choice(r, "head"),
                      .neuron = read_choice(r, "neuron"),
                      .dest = read_choice(r, "dest"),
                      .src = read_choice(r, "src")};
    read_action(r, &patch);
    pb_site site = {PB_SITE_EMBED, -1, 0};
    PB_LUA(L, pb_site_parse_kind(r->model, name, &site, pb_lua_error(L)));
    if (!pb_site_has_layer(site.kind) || site.layer >= 0) {
        emit(r, &patch, site);
    } else {
        pb_choice layers = pb_field_choice(L, r->index, "layer", pb_model_layers(r->model));
        int n = layers.listed ? (int)layers.n : pb_model_layers(r->model);
        for (int i = 0; i < n; i++) {
            site.layer = layers.listed ? layers.items[i] : i;
            if (!layers.listed && !pb_site_exists(r->model, site))
                continue;
            PB_LUA(L, pb_site_parse(r->model, name, true, site.layer, &site, pb_lua_error(L)));
            emit(r, &patch, site);
        }
    }
    lua_settop(L, top);
}

static void read_patches(reader *r, int sequence) {
    lua_State *L = r->L;
    int top = lua_gettop(L);
    int type = pb_push_field(L, sequence, "patches");
    if (type != LUA_TNIL && type != LUA_TTABLE)
        pb_bad_argument(L, "patches", "of sequence %d must be a list, got %s", (int)r->number, pb_describe(L, -1));
    for (r->place = 1; type == LUA_TTABLE && r->place <= (lua_Integer)lua_rawlen(L, top + 1); r->place++) {
        if (lua_rawgeti(L, top + 1, r->place) != LUA_TTABLE)
            refuse(r, "is no table { site = ... }");
        r->index = lua_gettop(L);
        read_patch(r);
        lua_pop(L, 1);
    }
    lua_settop(L, top);
}

/* Tokens and positions of the table on top of the stack. */
static void read_sequence(reader *r, int table) {
    static const char *const fields[] = {"tokens", "predict", "patches", NULL};
    lua_State *L = r->L;
    pb_sequence *s = r->sequence;
    int top = lua_gettop(L);
    if (lua_type(L, table) != LUA_TTABLE)
        pb_bad_argument(L, "sequences", "must be tables { tokens =, predict =, patches = }: entry %d is %s",
                        (int)r->number, pb_describe(L, table));
    pb_check_fields(L, table, fields, 0);
    pb_push_field(L, table, "tokens");
    const int32_t *ids = pb_check_ids(L, -1, "tokens", 0, &s->n_ids);
    int32_t *copy = pb_batch_memory(L, r->batch, s->n_ids * sizeof *copy);
    memcpy(copy, ids, s->n_ids * sizeof *copy);
    s->ids = copy;
    r->index = table;
    s->predict = read_choice(r, "predict");
    s->n_predict = s->predict.listed ? s->predict.n : s->n_ids ? s->n_ids - 1 : 0;
    for (size_t i = 0; s->predict.listed && i < s->predict.n; i++)
        if (s->predict.items[i] < 0 || (size_t)s->predict.items[i] + 1 >= s->n_ids)
            pb_bad_argument(L, "predict", "of sequence %d has position %d; the %d tokens have successors at 0 to %d",
                            (int)r->number, (int)s->predict.items[i], (int)s->n_ids, (int)s->n_ids - 2);
    lua_settop(L, top);
    if (s->n_predict > 0)
        read_patches(r, table);
    lua_settop(L, top);
}

static void release_run(void *object) { pb_run_unref(object); }
static void release_metric(void *object) { pb_metric_unref(object); }

static void make_metrics(lua_State *L, pb_batch *batch, pb_sequences *s) {
    for (size_t i = 0; i < s->n; i++) {
        const pb_metric_options options = {.kind = PB_METRIC_NLL, .positions = s->items[i].predict};
        PB_LUA(L, pb_metric_create(pb_host_context(L), &options, &s->metrics[i], pb_lua_error(L)));
        pb_batch_hold_object(L, batch, s->metrics[i], release_metric);
    }
}

/* Room in the batch's list is made first: then taking in the runs cannot fail half way. */
static void make_runs(lua_State *L, pb_batch *batch, pb_sequences *s, pb_model *model) {
    const int32_t **ids = pb_batch_memory(L, batch, s->n * sizeof *ids);
    const pb_patch **patches = pb_batch_memory(L, batch, s->n * sizeof *patches);
    size_t *lengths = pb_batch_memory(L, batch, s->n * sizeof *lengths),
           *counts = pb_batch_memory(L, batch, s->n * sizeof *counts);
    for (size_t i = 0; i < s->n; i++) {
        ids[i] = s->items[i].ids;
        lengths[i] = s->items[i].n_ids;
        patches[i] = s->items[i].patches;
        counts[i] = s->items[i].n_patches;
    }
    size_t first = batch->n_holds;
    for (size_t i = 0; i < s->n; i++)
        pb_batch_hold_object(L, batch, NULL, release_run);
    PB_LUA(L, pb_run_create_patched(model, ids, lengths, patches, counts, s->n, s->runs, pb_lua_error(L)));
    for (size_t i = 0; i < s->n; i++)
        batch->holds[first + i].object = s->runs[i];
}

const pb_sequences *pb_read_sequences(lua_State *L, int index, int batch_index, pb_model *model) {
    pb_batch *batch = pb_check_batch(L, batch_index);
    if (lua_type(L, index) != LUA_TTABLE || lua_rawlen(L, index) == 0)
        pb_bad_argument(L, "sequences", "must be a list of { tokens =, predict =, patches = }, got %s",
                        pb_describe(L, index));
    size_t given = (size_t)lua_rawlen(L, index);
    pb_sequences *s = pb_batch_memory(L, batch, sizeof *s);
    s->items = pb_batch_memory(L, batch, given * sizeof *s->items);
    luaL_checkstack(L, 20, "reading sequences");
    for (size_t i = 0; i < given; i++) {
        pb_sequence *item = &s->items[s->n];
        reader r = {L, batch, model, item, (lua_Integer)i + 1, 0, 0};
        lua_rawgeti(L, index, (lua_Integer)i + 1);
        read_sequence(&r, lua_gettop(L));
        lua_pop(L, 1);
        s->targets += item->n_predict;
        if (item->n_predict > 0)
            s->n++;
        else
            *item = (pb_sequence){0};
    }
    if (s->n == 0)
        pb_bad_argument(L, "sequences", "have no token to predict");
    s->runs = pb_batch_memory(L, batch, s->n * sizeof *s->runs);
    s->metrics = pb_batch_memory(L, batch, s->n * sizeof *s->metrics);
    make_metrics(L, batch, s);
    make_runs(L, batch, s, model);
    return s;
}
