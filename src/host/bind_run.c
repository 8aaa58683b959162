/* Lua: runs. One forward pass over one prompt; gives any site's value, forks to another prompt, holds patches. */
#include <string.h>

#include "base/suggest.h"
#include "host/objects.h"
#include "host/private.h"

static void release_run(void *object) { pb_run_unref(object); }

pb_run *pb_check_run(lua_State *L, int index) { return pb_check_box(L, index, &PB_RUN_CLASS); }

pb_run *pb_to_run(lua_State *L, int index) { return pb_to_box(L, index, &PB_RUN_CLASS); }

pb_box *pb_new_run(lua_State *L, int model_index) {
    model_index = lua_absindex(L, model_index);
    pb_box *box = pb_box_new(L, &PB_RUN_CLASS, PB_RUN_SLOTS);
    lua_pushvalue(L, model_index);
    lua_setiuservalue(L, -2, PB_RUN_MODEL);
    return box;
}

void pb_fill_run(lua_State *L, pb_box *box, pb_run *run) {
    box->object = run;
    pb_lua_charge(L, pb_run_bytes(run));
}

void pb_push_run(lua_State *L, const pb_run *run) {
    pb_box *model = pb_box_new(L, &PB_MODEL_CLASS, PB_MODEL_SLOTS);
    model->object = pb_model_ref(pb_run_model(run));
    pb_box *box = pb_new_run(L, -1);
    box->object = pb_run_ref((pb_run *)run);
    lua_remove(L, -2);
}

void pb_guard_run(lua_State *L, const pb_run *run) {
    if (pb_run_patch_count(run) > 0)
        pb_push_run(L, run);
    else
        lua_pushnil(L);
}

/* ---- properties ------------------------------------------------------------------------------------------------------ */

static int run_model(lua_State *L) {
    pb_check_run(L, 1);
    lua_getiuservalue(L, 1, PB_RUN_MODEL);
    return 1;
}

static int run_tokens(lua_State *L) {
    const pb_run *run = pb_check_run(L, 1);
    pb_push_id_list(L, pb_run_tokens(run), pb_run_length(run));
    return 1;
}

static int run_labels(lua_State *L) {
    const pb_run *run = pb_check_run(L, 1);
    const int32_t *ids = pb_run_tokens(run);
    size_t n = pb_run_length(run);
    lua_createtable(L, (int)n, 0);
    for (size_t i = 0; i < n; i++) {
        pb_push_label(L, pb_run_model(run), ids[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

/* The prompt as it was given; of a run made of tokens, their text (nil without a tokenizer). */
static int run_text(lua_State *L) {
    const pb_run *run = pb_check_run(L, 1);
    if (lua_getiuservalue(L, 1, PB_RUN_TEXT) != LUA_TSTRING)
        pb_push_text(L, pb_run_model(run), pb_run_tokens(run), pb_run_length(run), false);
    return 1;
}

static int run_length(lua_State *L) {
    lua_pushinteger(L, (lua_Integer)pb_run_length(pb_check_run(L, 1)));
    return 1;
}

static int run_patches(lua_State *L) {
    lua_pushinteger(L, (lua_Integer)pb_run_patch_count(pb_check_run(L, 1)));
    return 1;
}

static int run_bytes(lua_State *L) {
    lua_pushinteger(L, (lua_Integer)pb_run_bytes(pb_check_run(L, 1)));
    return 1;
}

static int run_tostring(lua_State *L) {
    const pb_run *run = pb_check_run(L, 1);
    size_t patches = pb_run_patch_count(run);
    lua_settop(L, 1);
    run_text(L);
    lua_pushfstring(L, "run of %s: %d tokens", pb_model_name(pb_run_model(run)), (int)pb_run_length(run));
    if (patches > 0)
        lua_pushfstring(L, "%s, %d patches", lua_tostring(L, -1), (int)patches);
    if (lua_type(L, 2) == LUA_TSTRING)
        lua_pushfstring(L, "%s, '%s'", lua_tostring(L, -1), lua_tostring(L, 2));
    return 1;
}

/* ---- values ------------------------------------------------------------------------------------------------------------ */

static void push_value(lua_State *L, pb_run *run, pb_site site) {
    pb_guard_run(L, run);
    pb_box *box = pb_new_tensor(L);
    pb_tensor *value = NULL;
    PB_LUA(L, pb_run_value(run, site, &value, pb_lua_error(L)));
    pb_fill_tensor(L, box, value);
}

static pb_site check_site(lua_State *L, const pb_run *run, const char *name, bool has_layer, int layer) {
    pb_site site = {PB_SITE_EMBED, -1};
    PB_LUA(L, pb_site_parse(pb_run_model(run), name, has_layer, layer, &site, pb_lua_error(L)));
    return site;
}

/* run:value(site [, layer]) or run:value { site =, layer =, pos = ... } */
static int run_value(lua_State *L) {
    pb_check_arity(L, 3);
    pb_run *run = pb_check_run(L, 1);
    if (lua_type(L, 2) == LUA_TTABLE) {
        pb_check_arity(L, 2);
        pb_push_value_at(L, 1, 2);
        return 1;
    }
    const char *name = pb_check_text(L, 2, "site", NULL);
    bool has_layer = !lua_isnoneornil(L, 3);
    int layer = has_layer ? (int)pb_check_integer(L, 3, "layer", INT32_MIN, INT32_MAX) : -1;
    push_value(L, run, check_site(L, run, name, has_layer, layer));
    return 1;
}

/* Nearest method or property of runs, or NULL: for `run:sweeep`. */
static const char *nearest_method(lua_State *L, const char *word) {
    pb_suggestion s;
    pb_suggestion_begin(&s, word);
    pb_class_push_methods(L, &PB_RUN_CLASS);
    for (lua_pushnil(L); lua_next(L, -2) != 0; lua_pop(L, 1)) {
        if (lua_type(L, -2) == LUA_TSTRING)
            pb_suggestion_offer(&s, lua_tostring(L, -2));
    }
    lua_pop(L, 1); /* the names live on in the class's table */
    for (const luaL_Reg *p = PB_RUN_CLASS.properties; p->name; p++)
        pb_suggestion_offer(&s, p->name);
    return s.best;
}

/* run["blocks.9.attn.hook_z"], run.logits, run[at] */
static int run_index(lua_State *L) {
    pb_run *run = pb_check_run(L, 1);
    if (lua_type(L, 2) == LUA_TTABLE) {
        pb_push_value_at(L, 1, 2);
        return 1;
    }
    if (lua_type(L, 2) != LUA_TSTRING)
        pb_lua_fail(L, "a run is indexed by a site's name or by { site =, layer =, pos = ... }, not by %s",
                    pb_describe(L, 2));
    const char *name = lua_tostring(L, 2);
    pb_site site;
    pb_error *err = pb_lua_error(L);
    pb_status status = pb_site_parse(pb_run_model(run), name, false, 0, &site, err);
    if (status == PB_OK) {
        push_value(L, run, site);
        return 1;
    }
    const char *method = nearest_method(L, name);
    if (method)
        pb_error_prefix(err, status, "a run has no '%s' (did you mean '%s'?): ", name, method);
    pb_lua_raise(L, status);
}

/* ---- other prompts ------------------------------------------------------------------------------------------------------- */

static pb_special special_of(lua_State *L, int run_index_on_stack) {
    pb_special special = PB_SPECIAL_DEFAULT;
    if (lua_getiuservalue(L, run_index_on_stack, PB_RUN_SPECIAL) == LUA_TNUMBER)
        special = (pb_special)lua_tointeger(L, -1);
    lua_pop(L, 1);
    return special;
}

static void refuse_other_length(lua_State *L, const pb_run *run, const pb_run *fork) {
    const char *table = pb_push_side_by_side(L, run, "this run", fork, "the fork");
    pb_lua_fail(
        L,
        "the prompts have %d and %d tokens, so a position of one is not the same position of the other:\n%s\n"
        "Change one of them, or say fork(text, { length = \"any\" }) and give from_pos with every patch between them.",
        (int)pb_run_length(run), (int)pb_run_length(fork), table);
}

/* run:fork(text | ids [, { length = "same" | "any", bos = }]) */
static int run_fork(lua_State *L) {
    static const char *const fields[] = {"length", "bos", NULL};
    static const char *const lengths[] = {"same", "any", NULL};
    pb_check_arity(L, 3);
    pb_run *run = pb_check_run(L, 1);
    pb_special special = special_of(L, 1);
    int length = 0;
    if (!lua_isnoneornil(L, 3)) {
        pb_check_fields(L, 3, fields, 0);
        length = pb_field_word(L, 3, "length", lengths, 0);
        special = pb_field_special(L, 3, special);
    }
    size_t n = 0;
    const int32_t *ids = pb_check_prompt(L, 2, pb_run_model(run), special, &n);
    lua_getiuservalue(L, 1, PB_RUN_MODEL);
    pb_box *box = pb_new_run(L, -1);
    pb_run *fork = NULL;
    if (length == 0 && n != pb_run_length(run)) {
        PB_LUA(L, pb_run_create(pb_run_model(run), ids, n, &fork, pb_lua_error(L))); /* for its labels */
        pb_fill_run(L, box, fork);
        refuse_other_length(L, run, fork);
    }
    PB_LUA(L, pb_run_fork(run, ids, n, &fork, pb_lua_error(L)));
    pb_fill_run(L, box, fork);
    if (lua_type(L, 2) == LUA_TSTRING) {
        lua_pushvalue(L, 2);
        lua_setiuservalue(L, -2, PB_RUN_TEXT);
    }
    lua_pushinteger(L, special);
    lua_setiuservalue(L, -2, PB_RUN_SPECIAL);
    return 1;
}

/* run:patched(patches) -> the run with patches held in place */
static int run_patched(lua_State *L) {
    pb_check_arity(L, 2);
    pb_run *run = pb_check_run(L, 1);
    lua_settop(L, 2);
    pb_batch *batch = pb_batch_new(L); /* 3 */
    pb_batch_add(L, 3, 1, 2, NULL, 0);
    size_t n_requests = 0;
    const pb_request *request = pb_batch_requests(batch, &n_requests);
    lua_getiuservalue(L, 1, PB_RUN_MODEL); /* 4 */
    lua_createtable(L, 2, 0);              /* 5: keep */
    lua_pushvalue(L, 3);
    lua_rawseti(L, 5, 1);
    lua_pushvalue(L, 1);
    lua_rawseti(L, 5, 2);
    pb_box *box = pb_new_run(L, 4);
    lua_getiuservalue(L, 1, PB_RUN_TEXT);
    lua_setiuservalue(L, -2, PB_RUN_TEXT);
    lua_getiuservalue(L, 1, PB_RUN_SPECIAL);
    lua_setiuservalue(L, -2, PB_RUN_SPECIAL);
    lua_pushvalue(L, 5);
    lua_setiuservalue(L, -2, PB_RUN_KEEP);
    pb_run *patched = NULL;
    PB_LUA(L, pb_run_patched(run, request->patches, request->n_patches, &patched, pb_lua_error(L)));
    pb_fill_run(L, box, patched);
    return 1;
}

/* ---- finding text ------------------------------------------------------------------------------------------------------------ */

/* The pieces of all tokens joined into one text; ends[i]: where token i ends in it. Pushes the text. */
static const char *push_joined(lua_State *L, const pb_run *run, size_t *ends, size_t *length) {
    const pb_tokenizer *tokenizer = pb_model_needs_tokenizer(L, pb_run_model(run));
    const int32_t *ids = pb_run_tokens(run);
    size_t n = pb_run_length(run), total = 0;
    int parts = lua_gettop(L) + 1;
    lua_createtable(L, (int)n, 0);
    luaL_Buffer text;
    luaL_buffinit(L, &text);
    for (size_t i = 0; i < n; i++) {
        size_t bytes = 0;
        if (!pb_tokenizer_is_special(tokenizer, ids[i])) { /* <|endoftext|> is not part of the text */
            pb_box *block = pb_new_block(L);
            char *text_block = NULL;
            PB_LUA(L, pb_tokenizer_piece(tokenizer, ids[i], &text_block, &bytes, pb_lua_error(L)));
            block->object = text_block;
            lua_pushlstring(L, block->object, bytes);
            lua_remove(L, -2);
            luaL_addvalue(&text);
        }
        total += bytes;
        ends[i] = total;
    }
    luaL_pushresult(&text);
    lua_replace(L, parts);
    lua_settop(L, parts);
    return lua_tolstring(L, parts, length);
}

/* First (or last) place of needle in text at or after (before) nothing in particular; length: not found. */
static size_t find_bytes(const char *text, size_t length, const char *needle, size_t n, size_t from) {
    for (size_t i = from; n <= length && i <= length - n; i++) {
        if (memcmp(text + i, needle, n) == 0)
            return i;
    }
    return length;
}

static size_t push_span(lua_State *L, const size_t *ends, size_t tokens, size_t begin, size_t end, lua_Integer *count) {
    size_t added = 0;
    for (size_t i = 0; i < tokens; i++) {
        size_t start = i ? ends[i - 1] : 0;
        if (start < end && ends[i] > begin) {
            lua_pushinteger(L, (lua_Integer)i);
            lua_rawseti(L, -2, ++*count);
            added++;
        }
    }
    return added;
}

static void push_all_labels(lua_State *L, const pb_run *run) {
    luaL_Buffer text;
    luaL_buffinit(L, &text);
    for (size_t i = 0; i < pb_run_length(run); i++) {
        lua_pushfstring(L, "%s%d '", i ? ", " : "", (int)i);
        luaL_addvalue(&text);
        pb_push_label(L, pb_run_model(run), pb_run_tokens(run)[i]);
        luaL_addvalue(&text);
        luaL_addstring(&text, "'");
    }
    luaL_pushresult(&text);
}

/* run:find(text [, { which = "first" | "last" | "all" }]) -> list of the positions whose tokens hold it */
static int run_find(lua_State *L) {
    static const char *const fields[] = {"which", NULL};
    static const char *const words[] = {"first", "last", "all", NULL};
    pb_check_arity(L, 3);
    const pb_run *run = pb_check_run(L, 1);
    size_t n;
    const char *needle = pb_check_text(L, 2, "text", &n);
    int which = 0;
    if (!lua_isnoneornil(L, 3)) {
        pb_check_fields(L, 3, fields, 0);
        which = pb_field_word(L, 3, "which", words, 0);
    }
    if (n == 0)
        pb_bad_argument(L, "text", "is empty: there is nothing to find");
    size_t tokens = pb_run_length(run), length = 0, *ends = pb_lua_scratch(L, tokens, sizeof *ends);
    const char *text = push_joined(L, run, ends, &length);
    size_t at = find_bytes(text, length, needle, n, 0);
    if (at == length) {
        push_all_labels(L, run);
        pb_lua_fail(L, "'%s' is not in the prompt, whose tokens are: %s", needle, lua_tostring(L, -1));
    }
    lua_Integer count = 0;
    lua_newtable(L);
    if (which == 0) {
        push_span(L, ends, tokens, at, at + n, &count);
        return 1;
    }
    size_t last = at, free_from = 0;
    for (; at < length; at = find_bytes(text, length, needle, n, at + 1)) {
        last = at;
        if (which == 2 && at >= free_from) {
            lua_Integer before = count;
            push_span(L, ends, tokens, at, at + n, &count);
            /* Two finds can meet in one token: it is listed once. */
            if (before > 0 && count > before) {
                lua_rawgeti(L, -1, before);
                lua_rawgeti(L, -2, before + 1);
                bool twice = lua_rawequal(L, -1, -2);
                lua_pop(L, 2);
                for (lua_Integer i = before + 1; twice && i <= count; i++) {
                    lua_rawgeti(L, -1, i + 1);
                    lua_rawseti(L, -2, i);
                }
                count -= twice;
            }
            free_from = at + n;
        }
    }
    if (which == 1)
        push_span(L, ends, tokens, last, last + n, &count);
    return 1;
}

/* run:side_by_side(other [, name, other's name]) -> text: both prompts, one position a line, the first difference marked */
static int run_side_by_side(lua_State *L) {
    pb_check_arity(L, 4);
    const pb_run *run = pb_check_run(L, 1), *other = pb_check_run(L, 2);
    const char *name = lua_isnoneornil(L, 3) ? "this run" : pb_check_text(L, 3, "name", NULL);
    const char *other_name = lua_isnoneornil(L, 4) ? "the other" : pb_check_text(L, 4, "name", NULL);
    pb_push_side_by_side(L, run, name, other, other_name);
    return 1;
}

/* ---- the class ----------------------------------------------------------------------------------------------------------------- */

static const luaL_Reg methods[] = {
    {"value", run_value},
    {"fork", run_fork},
    {"patched", run_patched},
    {"find", run_find},
    {"side_by_side", run_side_by_side},
    {NULL, NULL},
};

static const luaL_Reg properties[] = {
    {"model", run_model},   {"tokens", run_tokens},   {"labels", run_labels}, {"text", run_text},
    {"length", run_length}, {"patches", run_patches}, {"bytes", run_bytes},   {NULL, NULL},
};

static const luaL_Reg metamethods[] = {{"__len", run_length}, {"__tostring", run_tostring}, {NULL, NULL}};

const pb_class PB_RUN_CLASS = {
    .name = "run",
    .release = release_run,
    .methods = methods,
    .properties = properties,
    .metamethods = metamethods,
    .index = run_index,
};

void pb_open_run(lua_State *L);

void pb_open_run(lua_State *L) { pb_class_open(L, &PB_RUN_CLASS); }
