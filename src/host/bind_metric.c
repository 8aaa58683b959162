/* Lua: metrics. A Lua metric is a description (kind, answers, positions ...): token texts become ids only when it meets a
 * run, by that run's tokenizer, so one metric serves every model. metric(run) measures a run as it is. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/batch.h"
#include "host/private.h"

/* The description's fields are Lua values in the box's user value, so that functions and runs are seen by the collector. */
typedef struct pb_lua_metric {
    pb_metric_kind kind;
    pb_host *host;
    const pb_box *box; /* finds the user value again when the engine calls the function */
} pb_lua_metric;

enum { SPEC = 1, MEMORY = 2, METRIC_SLOTS = 2 };

/* The object's memory is Lua's, in a user value: the engine may still use it when a function has closed the box. */
static void release_metric(void *object) { (void)object; }

static pb_lua_metric *check_metric(lua_State *L, int index) { return pb_check_box(L, index, &PB_METRIC_CLASS); }

/* ---- making ------------------------------------------------------------------------------------------------------------ */

/* Push a new metric whose description is the table on top, which it replaces. */
static void push_metric(lua_State *L, pb_metric_kind kind) {
    pb_box *box = pb_box_new(L, &PB_METRIC_CLASS, METRIC_SLOTS);
    pb_lua_metric *metric = pb_lua_scratch(L, 1, sizeof *metric);
    lua_setiuservalue(L, -2, MEMORY);
    *metric = (pb_lua_metric){.kind = kind, .host = pb_host_of(L), .box = box};
    box->object = metric;
    pb_box_anchor(L, -1);
    lua_insert(L, -2);
    lua_setiuservalue(L, -2, SPEC);
}

/* An answer: a text, an id, or a list of these; into description[field] as a list. */
static void take_answers(lua_State *L, int index, const char *field, int spec) {
    lua_newtable(L);
    int list = lua_gettop(L);
    lua_Integer n = 0;
    if (lua_type(L, index) == LUA_TTABLE) {
        n = (lua_Integer)lua_rawlen(L, index);
        if (n == 0)
            pb_bad_argument(L, field, "is an empty list");
        for (lua_Integer i = 1; i <= n; i++) {
            lua_rawgeti(L, index, i);
            lua_rawseti(L, list, i);
        }
    } else {
        lua_pushvalue(L, index);
        lua_rawseti(L, list, ++n);
    }
    for (lua_Integer i = 1; i <= n; i++) {
        lua_rawgeti(L, list, i);
        if (lua_type(L, -1) != LUA_TSTRING && !lua_isinteger(L, -1))
            pb_bad_argument(L, field, "must be a token as text (\" Paris\") or id, or a list of them, got %s",
                            pb_describe(L, -1));
        lua_pop(L, 1);
    }
    lua_setfield(L, spec, field);
}

/* Options at index (absent: none): pos, a number, a list, or "all". */
static void take_options(lua_State *L, int index, int spec) {
    static const char *const fields[] = {"pos", NULL};
    if (lua_isnoneornil(L, index))
        return;
    pb_check_fields(L, index, fields, 0);
    pb_field_choice(L, index, "pos", -1); /* checks; its memory is not needed */
    pb_push_field(L, index, "pos");
    lua_setfield(L, spec, "pos");
}

static int make_answer_metric(lua_State *L, pb_metric_kind kind) {
    pb_check_arity(L, 2);
    if (lua_isnoneornil(L, 1))
        pb_bad_argument(L, "answers", "must be the token whose %s is measured", pb_metric_kind_name(kind));
    lua_settop(L, 2);
    lua_newtable(L);
    take_answers(L, 1, "answers", 3);
    take_options(L, 2, 3);
    lua_settop(L, 3);
    push_metric(L, kind);
    return 1;
}

static int make_difference_metric(lua_State *L, pb_metric_kind kind) {
    pb_check_arity(L, 3);
    if (lua_isnoneornil(L, 1) || lua_isnoneornil(L, 2))
        pb_bad_argument(L, lua_isnoneornil(L, 1) ? "answers" : "wrong",
                        "is missing: %s needs the right answer and the wrong one", pb_metric_kind_name(kind));
    lua_settop(L, 3);
    lua_newtable(L);
    take_answers(L, 1, "answers", 4);
    take_answers(L, 2, "wrong", 4);
    take_options(L, 3, 4);
    lua_settop(L, 4);
    push_metric(L, kind);
    return 1;
}

static int metric_logit(lua_State *L) { return make_answer_metric(L, PB_METRIC_LOGIT); }

static int metric_prob(lua_State *L) { return make_answer_metric(L, PB_METRIC_PROB); }

static int metric_log_prob(lua_State *L) { return make_answer_metric(L, PB_METRIC_LOG_PROB); }

static int metric_rank(lua_State *L) {
    if (lua_type(L, 1) == LUA_TTABLE && lua_rawlen(L, 1) != 1)
        pb_bad_argument(L, "answers", "must be one token: it is its rank");
    return make_answer_metric(L, PB_METRIC_RANK);
}

static int metric_logit_diff(lua_State *L) { return make_difference_metric(L, PB_METRIC_LOGIT_DIFF); }

static int metric_prob_diff(lua_State *L) { return make_difference_metric(L, PB_METRIC_PROB_DIFF); }

/* Push the list of the keys of a table of tokens: ids ascending, then texts in the order of their bytes. */
static void push_sorted_keys(lua_State *L, int table) {
    lua_newtable(L);
    int list = lua_gettop(L);
    lua_Integer n = 0;
    for (lua_pushnil(L); lua_next(L, table) != 0;) {
        lua_pop(L, 1);
        if (lua_type(L, -1) != LUA_TSTRING && !lua_isinteger(L, -1))
            pb_bad_argument(L, "weights", "are by token, a text (\" Paris\") or an id; one is by %s",
                            pb_describe(L, -1));
        lua_Integer place = n + 1;
        for (; place > 1; place--) { /* insertion: these lists are short */
            lua_rawgeti(L, list, place - 1);
            bool text = lua_type(L, -2) == LUA_TSTRING, before_is_text = lua_type(L, -1) == LUA_TSTRING;
            bool in_order = text == before_is_text ? lua_compare(L, -1, -2, LUA_OPLT) : !before_is_text;
            if (in_order) {
                lua_pop(L, 1);
                break;
            }
            lua_rawseti(L, list, place);
        }
        lua_pushvalue(L, -1);
        lua_rawseti(L, list, place);
        n++;
    }
}

/* logits({ [token] = weight, ... } [, { pos = }]). Order of a Lua table's entries is by chance, a metric's value must not be:
 * tokens are sorted, ids before texts. */
static int metric_logits(lua_State *L) {
    pb_check_arity(L, 2);
    if (lua_type(L, 1) != LUA_TTABLE)
        pb_bad_argument(
            L, "weights",
            "must be a table of tokens and their weights, as { [\" Paris\"] = 1, [\" Rome\"] = -1 }, got %s",
            pb_describe(L, 1));
    lua_settop(L, 2);
    lua_newtable(L);
    push_sorted_keys(L, 1);
    if (lua_rawlen(L, 4) == 0)
        pb_bad_argument(L, "weights", "is empty: which tokens' logits are summed?");
    lua_newtable(L);
    for (lua_Integer i = 1; i <= (lua_Integer)lua_rawlen(L, 4); i++) {
        lua_rawgeti(L, 4, i);
        lua_pushvalue(L, 6);
        lua_rawget(L, 1);
        if (lua_type(L, 7) != LUA_TNUMBER)
            pb_bad_argument(L, "weights", "are numbers by token, as { [\" Paris\"] = 1 }; that of %s is %s",
                            pb_describe(L, 6), pb_describe(L, 7));
        if (!isfinite(lua_tonumber(L, 7)))
            pb_bad_argument(L, "weights", "are finite numbers; that of %s is %f", pb_describe(L, 6),
                            lua_tonumber(L, 7));
        lua_rawseti(L, 5, i);
        lua_settop(L, 5);
    }
    lua_setfield(L, 3, "weights");
    lua_setfield(L, 3, "answers");
    take_options(L, 2, 3);
    lua_settop(L, 3);
    push_metric(L, PB_METRIC_LOGITS);
    return 1;
}

static int metric_nll(lua_State *L) {
    pb_check_arity(L, 1);
    lua_settop(L, 1);
    lua_newtable(L);
    take_options(L, 1, 2);
    lua_settop(L, 2);
    push_metric(L, PB_METRIC_NLL);
    return 1;
}

static int metric_kl(lua_State *L) {
    pb_check_arity(L, 2);
    pb_check_run(L, 1);
    lua_settop(L, 2);
    lua_newtable(L);
    lua_pushvalue(L, 1);
    lua_setfield(L, 3, "reference");
    take_options(L, 2, 3);
    lua_settop(L, 3);
    push_metric(L, PB_METRIC_KL);
    return 1;
}

static int metric_fn(lua_State *L) {
    pb_check_arity(L, 2);
    if (lua_type(L, 1) != LUA_TFUNCTION)
        pb_bad_argument(L, "function", "must be function(logits, run) ... return number end, got %s",
                        pb_describe(L, 1));
    lua_settop(L, 2);
    lua_newtable(L);
    lua_pushvalue(L, 1);
    lua_setfield(L, 3, "fn");
    take_options(L, 2, 3);
    lua_settop(L, 3);
    push_metric(L, PB_METRIC_FN);
    return 1;
}

/* ---- the engine's form ------------------------------------------------------------------------------------------------------ */

typedef struct fn_call {
    const pb_lua_metric *metric;
    const pb_run *base;
    const pb_tensor *logits;
    double value;
} fn_call;

/* Protected: (light fn_call). Logits are lent to the function as a tensor of its own. */
static int call_fn(lua_State *L) {
    fn_call *call = lua_touserdata(L, 1);
    if (pb_box_push(L, call->metric->box) != LUA_TUSERDATA)
        pb_lua_fail(L, "the metric's function is gone");
    lua_getiuservalue(L, -1, SPEC);
    lua_getfield(L, -1, "fn");
    pb_box *box = pb_new_tensor(L);
    pb_fill_tensor(L, box, pb_tensor_ref((pb_tensor *)call->logits));
    pb_push_run(L, call->base);
    lua_call(L, 2, 1);
    const pb_tensor *result = pb_to_tensor(L, -1);
    if (result)
        PB_LUA(L, pb_tensor_item(result, &call->value, pb_lua_error(L)));
    else if (lua_type(L, -1) == LUA_TNUMBER)
        call->value = lua_tonumber(L, -1);
    else
        pb_lua_fail(L, "the function of a metric must return a number, not %s", pb_describe(L, -1));
    return 0;
}

static pb_status engine_fn(void *user, const struct pb_run *base, size_t variant, const pb_tensor *logits, double *out,
                           pb_error *err) {
    (void)variant;
    const pb_lua_metric *metric = user;
    fn_call call = {metric, base, logits, 0};
    PB_TRY(pb_lua_protect(pb_host_current(metric->host), call_fn, &call, 0, err));
    *out = call.value;
    return PB_OK;
}

/* Ids of description[field]; their memory is pushed (nil if the field is absent). */
static int32_t *push_ids(lua_State *L, int spec, const char *field, const pb_model *model, size_t *n) {
    *n = 0;
    if (lua_getfield(L, spec, field) != LUA_TTABLE)
        return NULL;
    int list = lua_gettop(L);
    *n = (size_t)lua_rawlen(L, list);
    int32_t *ids = pb_lua_scratch(L, *n, sizeof *ids);
    for (size_t i = 0; i < *n; i++) {
        lua_rawgeti(L, list, (lua_Integer)i + 1);
        ids[i] = pb_check_token(L, lua_gettop(L), model, field);
        lua_settop(L, list + 1);
    }
    lua_remove(L, list);
    return ids;
}

typedef struct weighted_token {
    int32_t id;
    double weight;
} weighted_token;

static int by_id(const void *a, const void *b) {
    int32_t x = ((const weighted_token *)a)->id, y = ((const weighted_token *)b)->id;
    return (x > y) - (x < y);
}

/* Weights of the answers, both in the order of the ids; memory is pushed. A text and an id can be one token: the engine says so. */
static const double *push_weights(lua_State *L, int spec, int32_t *ids, size_t n) {
    weighted_token *both = pb_lua_scratch(L, n, sizeof *both);
    lua_getfield(L, spec, "weights");
    for (size_t i = 0; i < n; i++) {
        lua_rawgeti(L, -1, (lua_Integer)i + 1);
        both[i] = (weighted_token){ids[i], lua_tonumber(L, -1)};
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    qsort(both, n, sizeof *both, by_id);
    double *weights = pb_lua_scratch(L, n, sizeof *weights);
    for (size_t i = 0; i < n; i++) {
        ids[i] = both[i].id;
        weights[i] = both[i].weight;
    }
    return weights;
}

bool pb_metric_takes_all(lua_State *L, int index) {
    const pb_lua_metric *metric = pb_to_box(L, index, &PB_METRIC_CLASS);
    if (!metric || metric->kind == PB_METRIC_NLL) /* its default is all that have a next token */
        return false;
    lua_getiuservalue(L, index, SPEC);
    bool all = lua_getfield(L, -1, "pos") == LUA_TSTRING; /* the one text that take_options lets through */
    lua_pop(L, 2);
    return all;
}

/* 0 .. n-1; its memory is pushed. */
static pb_choice push_all_positions(lua_State *L, size_t n) {
    int32_t *items = pb_lua_scratch(L, n, sizeof *items);
    for (size_t i = 0; i < n; i++)
        items[i] = (int32_t)i;
    return (pb_choice){true, n, items};
}

void pb_resolve_metric(lua_State *L, int index, const pb_run *run, pb_metric **out) {
    int top = lua_gettop(L);
    const pb_model *model = pb_run_model(run);
    index = lua_absindex(L, index);
    const pb_lua_metric *metric = pb_to_box(L, index, &PB_METRIC_CLASS);
    if (!metric && lua_type(L, index) == LUA_TSTRING)
        pb_lua_fail(L,
                    "a metric given by name takes its answers from the pairs of a set; for a run say "
                    "pb.metric.%s(...) with the tokens",
                    lua_tostring(L, index));
    if (!metric)
        pb_lua_fail(L, "expected a metric, as pb.metric.logit_diff(\" Paris\", \" Rome\") makes, got %s",
                    pb_describe(L, index));
    lua_getiuservalue(L, index, SPEC);
    int spec = lua_gettop(L);
    pb_metric_options options = {.kind = metric->kind};
    options.positions =
        pb_metric_takes_all(L, index) ? push_all_positions(L, pb_run_length(run)) : pb_field_choice(L, spec, "pos", -1);
    int32_t *answers = push_ids(L, spec, "answers", model, &options.n_answers);
    options.answers = answers;
    if (metric->kind == PB_METRIC_LOGITS)
        options.weights = push_weights(L, spec, answers, options.n_answers);
    options.wrong = push_ids(L, spec, "wrong", model, &options.n_wrong);
    if (metric->kind == PB_METRIC_KL) {
        lua_getfield(L, spec, "reference");
        options.reference = pb_check_run(L, -1);
        if (pb_run_model(options.reference) != model)
            pb_lua_fail(L, "the reference run of a kl metric is of another model (%s)",
                        pb_model_name(pb_run_model(options.reference)));
    } else if (metric->kind == PB_METRIC_FN) {
        options.fn = engine_fn;
        options.user = (void *)metric;
    }
    PB_LUA(L, pb_metric_create(pb_host_context(L), &options, out, pb_lua_error(L)));
    lua_settop(L, top);
}

/* ---- methods ------------------------------------------------------------------------------------------------------------------ */

/* metric(run) -> number, rounded as measure's tensor is, so that differences of equal values are zero */
static int metric_call(lua_State *L) {
    pb_check_arity(L, 2);
    check_metric(L, 1);
    pb_run *run = pb_check_run(L, 2);
    lua_settop(L, 2);
    pb_batch_new(L);
    const pb_metric *metric = pb_batch_metric(L, 3, 1, run);
    pb_batch_begin(L, 3, 2, metric, 0); /* so that the metric's function cannot free the run */
    double value = NAN;
    PB_LUA(L, pb_run_metric(run, metric, &value, pb_lua_error(L)));
    lua_pushnumber(L, (lua_Number)(float)value);
    return 1;
}

static int metric_kind(lua_State *L) {
    lua_pushstring(L, pb_metric_kind_name(check_metric(L, 1)->kind));
    return 1;
}

static int push_spec_field(lua_State *L, const char *field) {
    check_metric(L, 1);
    lua_getiuservalue(L, 1, SPEC);
    lua_getfield(L, -1, field);
    return 1;
}

/* A copy: the description itself never changes. */
static int push_list_copy(lua_State *L, const char *field) {
    push_spec_field(L, field);
    if (lua_type(L, -1) != LUA_TTABLE)
        return 1;
    lua_Integer n = (lua_Integer)lua_rawlen(L, -1);
    lua_createtable(L, (int)n, 0);
    for (lua_Integer i = 1; i <= n; i++) {
        lua_rawgeti(L, -2, i);
        lua_rawseti(L, -2, i);
    }
    return 1;
}

static int metric_answers(lua_State *L) { return push_list_copy(L, "answers"); }

static int metric_wrong(lua_State *L) { return push_list_copy(L, "wrong"); }

static int metric_weights(lua_State *L) { return push_list_copy(L, "weights"); }

static int metric_pos(lua_State *L) { return push_list_copy(L, "pos"); }

static int metric_reference(lua_State *L) { return push_spec_field(L, "reference"); }

static void add_list(lua_State *L, luaL_Buffer *text, int list) {
    lua_Integer n = (lua_Integer)lua_rawlen(L, list);
    for (lua_Integer i = 1; i <= n; i++) {
        if (i > 1)
            luaL_addstring(text, ", ");
        lua_rawgeti(L, list, i);
        bool quoted = lua_type(L, -1) == LUA_TSTRING;
        lua_pushfstring(L, quoted ? "'%s'" : "%s", lua_tostring(L, -1));
        lua_remove(L, -2);
        luaL_addvalue(text);
    }
}

/* "logits({[' Paris'] = 1, [7] = -0.5})"; the description is at 2 */
static int logits_tostring(lua_State *L) {
    lua_getfield(L, 2, "answers");
    lua_getfield(L, 2, "weights");
    luaL_Buffer text;
    luaL_buffinit(L, &text);
    luaL_addstring(&text, "logits({");
    for (lua_Integer i = 1; i <= (lua_Integer)lua_rawlen(L, 3); i++) {
        lua_rawgeti(L, 3, i);
        lua_rawgeti(L, 4, i);
        bool quoted = lua_type(L, -2) == LUA_TSTRING;
        char weight[32];
        snprintf(weight, sizeof weight, "%.15g", lua_tonumber(L, -1));
        lua_pushfstring(L, quoted ? "%s['%s'] = %s" : "%s[%s] = %s", i > 1 ? ", " : "", lua_tostring(L, -2), weight);
        lua_replace(L, -3);
        lua_pop(L, 1);
        luaL_addvalue(&text);
    }
    luaL_addstring(&text, "})");
    luaL_pushresult(&text);
    return 1;
}

/* "logit_diff(' Paris', ' Rome')", several answers in braces: "prob({' a', ' b'})" */
static int metric_tostring(lua_State *L) {
    static const char *const lists[] = {"answers", "wrong"};
    const pb_lua_metric *metric = check_metric(L, 1);
    lua_settop(L, 1);
    lua_getiuservalue(L, 1, SPEC);
    if (metric->kind == PB_METRIC_LOGITS)
        return logits_tostring(L);
    lua_getfield(L, 2, lists[0]);
    lua_getfield(L, 2, lists[1]);
    luaL_Buffer text;
    luaL_buffinit(L, &text);
    luaL_addstring(&text, pb_metric_kind_name(metric->kind));
    for (int i = 0; i < 2; i++) {
        if (lua_type(L, 3 + i) != LUA_TTABLE)
            continue;
        bool several = lua_rawlen(L, 3 + i) > 1;
        luaL_addstring(&text, i ? ", " : "(");
        luaL_addstring(&text, several ? "{" : "");
        add_list(L, &text, 3 + i);
        luaL_addstring(&text, several ? "}" : "");
    }
    if (lua_type(L, 3) == LUA_TTABLE)
        luaL_addstring(&text, ")");
    luaL_pushresult(&text);
    return 1;
}

static const luaL_Reg properties[] = {
    {"kind", metric_kind},
    {"answers", metric_answers},
    {"wrong", metric_wrong},
    {"weights", metric_weights},
    {"pos", metric_pos},
    {"reference", metric_reference},
    {NULL, NULL},
};

static const luaL_Reg metamethods[] = {{"__call", metric_call}, {"__tostring", metric_tostring}, {NULL, NULL}};

const pb_class PB_METRIC_CLASS = {
    .name = "metric",
    .release = release_metric,
    .properties = properties,
    .metamethods = metamethods,
};

void pb_open_metric(lua_State *L);

void pb_open_metric(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"logit", metric_logit},
        {"logit_diff", metric_logit_diff},
        {"logits", metric_logits},
        {"prob", metric_prob},
        {"log_prob", metric_log_prob},
        {"prob_diff", metric_prob_diff},
        {"rank", metric_rank},
        {"nll", metric_nll},
        {"kl", metric_kl},
        {"fn", metric_fn},
        {NULL, NULL},
    };
    pb_class_open(L, &PB_METRIC_CLASS);
    pb_add_functions(L, "metric", functions);
}
