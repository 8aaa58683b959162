/* Lua: pb.trainer, the mechanism of training: one call for the loss and all gradients of a batch, one for the optimiser's step.
 * What a training run is (schedules, checkpoints, figures) is Lua: scripts/patchbay/train.lua. */
#include <math.h>
#include <string.h>

#include "host/batch.h"
#include "host/private.h"
#include "host/training.h"
#include "model/loading.h"
#include "patchbay/grad.h"
#include "patchbay/optim.h"

static void release_trainer(void *object) {
    pb_trainer *t = object;
    for (size_t i = 0; i < t->n; i++) {
        pb_tensor_unref(t->weights[i].weight);
        pb_tensor_unref(t->weights[i].gradient);
        pb_tensor_unref(t->weights[i].first);
        pb_tensor_unref(t->weights[i].second);
    }
    pb_free(t->gradients);
    pb_model_unref(t->model);
    pb_free(t);
}

static const pb_class PB_TRAINER_CLASS;

pb_trainer *pb_check_trainer(lua_State *L, int index) { return pb_check_box(L, index, &PB_TRAINER_CLASS); }

/* ---- making ---------------------------------------------------------------------------------------------------------- */

/* Is weight i one matrix with another one that is given, by whose name it is trained? Else it would move twice. */
static bool is_given_twice(lua_State *L, const pb_trainer *t, size_t i, int table) {
    size_t original = pb_model_weight_original(t->model, i);
    bool twice = original < t->n && lua_getfield(L, table, pb_model_weight_name(t->model, original)) != LUA_TNIL;
    if (original < t->n)
        lua_pop(L, 1);
    return twice;
}

/* The tensor at index becomes the one that weight i is trained in: it must be the very memory that the model reads. */
static void adopt(lua_State *L, pb_trainer *t, size_t i, int index) {
    pb_trained *w = &t->weights[i];
    pb_tensor *tensor = pb_check_tensor(L, index);
    const pb_weight *weight = pb_files_find(t->model, w->name);
    if (!weight || pb_tensor_floats(tensor) != weight->entry->data || !pb_tensor_contiguous(tensor) ||
        pb_tensor_count(tensor) * (int64_t)sizeof(float) != (int64_t)weight->entry->bytes)
        pb_lua_fail(
            L,
            "pb.trainer: '%s' is not the tensor that model %s was made of; give pb.model and pb.trainer the same "
            "table of weights",
            w->name, pb_model_name(t->model));
    w->weight = pb_tensor_ref(tensor);
    pb_tensor **made[] = {&w->gradient, &w->first, &w->second};
    for (int k = 0; k < 3; k++)
        PB_LUA(L, pb_tensor_zeros(pb_host_context(L), PB_F32, pb_tensor_ndim(tensor), pb_tensor_shape(tensor), made[k],
                                  pb_lua_error(L)));
    t->gradients[i] = w->gradient;
}

/* pb.trainer(model, weights) -> trainer */
static int new_trainer(lua_State *L) {
    pb_check_arity(L, 2);
    pb_model *model = pb_check_model(L, 1);
    if (lua_type(L, 2) != LUA_TTABLE)
        pb_bad_argument(L, "weights", "must be the table of tensors that the model was made of, got %s",
                        pb_describe(L, 2));
    size_t n = pb_model_weight_count(model), found = 0, given = 0, bytes = 0;
    pb_box *box = pb_box_new(L, &PB_TRAINER_CLASS, 1);
    pb_context *ctx = pb_host_context(L);
    pb_trainer *t = pb_alloc_zero(ctx, 1, sizeof *t + n * sizeof *t->weights);
    if (!t)
        pb_lua_raise(L, pb_fail_memory(pb_lua_error(L), ctx, n * sizeof *t->weights, "a trainer"));
    box->object = t;
    t->model = pb_model_ref(model);
    t->gradients = pb_alloc_zero(ctx, n, sizeof(pb_tensor *));
    if (!t->gradients)
        pb_lua_raise(L, pb_fail_memory(pb_lua_error(L), ctx, n * sizeof(pb_tensor *), "a trainer"));
    t->n = n;
    for (size_t i = 0; i < n; i++) {
        t->weights[i].name = pb_model_weight_name(model, i);
        if (lua_getfield(L, 2, t->weights[i].name) != LUA_TNIL) {
            found++;
            if (!is_given_twice(L, t, i, 2)) {
                adopt(L, t, i, -1);
                bytes += 3 * pb_tensor_bytes(t->weights[i].gradient);
            }
        }
        lua_pop(L, 1);
    }
    for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1))
        given++;
    if (given != found || found == 0)
        pb_lua_fail(L, "pb.trainer: of %d given weights %d are weights of model %s; model:weights() lists their names",
                    (int)given, (int)found, pb_model_name(model));
    pb_lua_charge(L, bytes);
    return 1;
}

/* ---- gradients ------------------------------------------------------------------------------------------------------- */

/* Gradients are set, not added to, so that a second try after a failed one counts nothing twice. */
static pb_status gradients_of(pb_trainer *t, const pb_grad_request *requests, size_t n, double *values, pb_error *err) {
    for (size_t i = 0; i < t->n; i++)
        if (t->gradients[i])
            PB_TRY(pb_tensor_fill(t->gradients[i], 0, err));
    const pb_grad_options options = {.weights = t->gradients};
    return pb_grad(requests, n, &options, values, NULL, err);
}

static double norm_of(const pb_trainer *t) {
    double sum = 0;
    for (size_t i = 0; i < t->n; i++) {
        const float *g = t->gradients[i] ? pb_tensor_floats(t->gradients[i]) : NULL;
        int64_t count = g ? pb_tensor_count(t->gradients[i]) : 0;
        double part = 0;
        for (int64_t j = 0; j < count; j++)
            part += (double)g[j] * g[j];
        sum += part;
    }
    return sqrt(sum);
}

static double weighted_mean(const pb_sequences *s, const double *values) {
    double sum = 0;
    for (size_t i = 0; i < s->n; i++)
        sum += values[i] * (double)s->items[i].n_predict;
    return sum / (double)s->targets;
}

/* The batch (box at index) is released at once: its runs are large beside what the collector sees of them. */
static void drop_batch(lua_State *L, int index) {
    pb_box *box = lua_touserdata(L, index);
    void *batch = box->object;
    box->object = NULL;
    PB_BATCH_CLASS.release(batch);
}

/* trainer:gradients(sequences) -> loss, norm, targets */
static int trainer_gradients(lua_State *L) {
    pb_check_arity(L, 2);
    pb_trainer *t = pb_check_trainer(L, 1);
    lua_settop(L, 2);
    pb_batch_new(L); /* 3 */
    const pb_sequences *s = pb_read_sequences(L, 2, 3, t->model);
    pb_grad_request *requests = pb_batch_memory(L, pb_check_batch(L, 3), s->n * sizeof *requests);
    double *values = pb_batch_memory(L, pb_check_batch(L, 3), s->n * sizeof *values);
    for (size_t i = 0; i < s->n; i++)
        requests[i] = (pb_grad_request){
            .run = s->runs[i], .metric = s->metrics[i], .weight = (double)s->items[i].n_predict / (double)s->targets};
    PB_LUA(L, gradients_of(t, requests, s->n, values, pb_lua_error(L)));
    lua_pushnumber(L, weighted_mean(s, values));
    lua_pushnumber(L, norm_of(t));
    lua_pushinteger(L, (lua_Integer)s->targets);
    drop_batch(L, 3);
    return 3;
}

/* trainer:loss(sequences) -> loss, targets */
static int trainer_loss(lua_State *L) {
    pb_check_arity(L, 2);
    pb_trainer *t = pb_check_trainer(L, 1);
    lua_settop(L, 2);
    pb_batch_new(L); /* 3 */
    const pb_sequences *s = pb_read_sequences(L, 2, 3, t->model);
    pb_request *requests = pb_batch_memory(L, pb_check_batch(L, 3), s->n * sizeof *requests);
    double *values = pb_batch_memory(L, pb_check_batch(L, 3), s->n * sizeof *values);
    for (size_t i = 0; i < s->n; i++)
        requests[i] = (pb_request){.base = s->runs[i], .metric = s->metrics[i]};
    PB_LUA(L, pb_measure(requests, s->n, NULL, values, NULL, NULL, pb_lua_error(L)));
    lua_pushnumber(L, weighted_mean(s, values));
    lua_pushinteger(L, (lua_Integer)s->targets);
    drop_batch(L, 3);
    return 2;
}

/* ---- the step --------------------------------------------------------------------------------------------------------- */

static double positive(lua_State *L, const char *field, double fallback, double most) {
    double value = pb_field_number(L, 2, field, fallback);
    if (!(value >= 0 && value <= most))
        pb_bad_argument(L, field, "must be from 0 to %f, got %f", most, value);
    return value;
}

/* trainer:adamw { rate =, step =, beta1 =, beta2 =, eps =, scale =, decay = number | { [name] = number } } */
static int trainer_adamw(lua_State *L) {
    static const char *const fields[] = {"rate", "step", "beta1", "beta2", "eps", "scale", "decay", NULL};
    pb_check_arity(L, 2);
    pb_trainer *t = pb_check_trainer(L, 1);
    pb_check_fields(L, 2, fields, 0);
    if (!pb_has_field(L, 2, "rate") || !pb_has_field(L, 2, "step"))
        pb_lua_fail(L, "trainer:adamw needs rate and step (1 for the first)");
    pb_adamw o = {.rate = positive(L, "rate", 0, 1e6),
                  .beta1 = positive(L, "beta1", 0.9, 1),
                  .beta2 = positive(L, "beta2", 0.999, 1),
                  .eps = positive(L, "eps", 1e-8, 1),
                  .grad_scale = positive(L, "scale", 1, 1e30),
                  .step = pb_field_integer(L, 2, "step", 1, 1, INT64_MAX)};
    if (o.beta1 >= 1 || o.beta2 >= 1)
        pb_bad_argument(L, "beta1 and beta2", "must be below 1");
    lua_settop(L, 2);
    bool table = pb_push_field(L, 2, "decay") == LUA_TTABLE; /* 3 */
    double decay = table || lua_isnil(L, 3) ? 0 : pb_check_number(L, 3, "decay");
    for (size_t i = 0; i < t->n; i++) { /* all are checked before the first one changes */
        if (table && lua_getfield(L, 3, t->weights[i].name) != LUA_TNIL)
            pb_check_number(L, -1, "decay");
        lua_settop(L, 3);
    }
    for (size_t i = 0; i < t->n; i++) {
        pb_trained *w = &t->weights[i];
        o.decay = decay;
        if (table && lua_getfield(L, 3, w->name) != LUA_TNIL)
            o.decay = lua_tonumber(L, -1);
        if (w->weight)
            PB_LUA(L, pb_adamw_step(&o, w->weight, w->gradient, w->first, w->second, pb_lua_error(L)));
        lua_settop(L, 3);
    }
    PB_LUA(L, pb_model_refresh(t->model, pb_lua_error(L)));
    return 0;
}

/* ---- its tensors ---------------------------------------------------------------------------------------------------------- */

/* trainer:tensors("weight" | "gradient" | "first" | "second") -> { [name] = tensor }, sharing memory */
static int trainer_tensors(lua_State *L) {
    static const char *const kinds[] = {"weight", "gradient", "first", "second", NULL};
    pb_check_arity(L, 2);
    pb_trainer *t = pb_check_trainer(L, 1);
    int kind = pb_check_word(L, 2, "kind", kinds, -1);
    lua_createtable(L, 0, (int)t->n);
    for (size_t i = 0; i < t->n; i++) {
        pb_trained *w = &t->weights[i];
        pb_tensor *const all[] = {w->weight, w->gradient, w->first, w->second};
        if (!w->weight)
            continue;
        pb_box *box = pb_new_tensor(L);
        pb_fill_tensor(L, box, pb_tensor_ref(all[kind]));
        lua_setfield(L, -2, w->name);
    }
    return 1;
}

/* trainer:names() -> list, in the model's order */
static int trainer_names(lua_State *L) {
    pb_check_arity(L, 1);
    pb_trainer *t = pb_check_trainer(L, 1);
    lua_createtable(L, (int)t->n, 0);
    for (size_t i = 0, n = 0; i < t->n; i++) {
        if (!t->weights[i].weight)
            continue;
        lua_pushstring(L, t->weights[i].name);
        lua_rawseti(L, -2, (lua_Integer)++n);
    }
    return 1;
}

/* Seconds of a clock that only goes forward, for rates. */
static int trainer_seconds(lua_State *L) {
    pb_check_arity(L, 1);
    pb_check_trainer(L, 1);
    lua_pushnumber(L, pb_monotonic_seconds());
    return 1;
}

static const luaL_Reg methods[] = {
    {"gradients", trainer_gradients}, {"loss", trainer_loss},    {"adamw", trainer_adamw},
    {"tensors", trainer_tensors},     {"names", trainer_names},  {"seconds", trainer_seconds},
    {"save", pb_trainer_save},        {"load", pb_trainer_load}, {NULL, NULL},
};

static const pb_class PB_TRAINER_CLASS = {.name = "trainer", .release = release_trainer, .methods = methods};

void pb_open_train(lua_State *L);

void pb_open_train(lua_State *L) {
    static const luaL_Reg functions[] = {{"trainer", new_trainer}, {NULL, NULL}};
    pb_class_open(L, &PB_TRAINER_CLASS);
    pb_add_functions(L, "", functions);
}
