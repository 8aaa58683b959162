/* Lua: models. pb.load(name) opens one; its methods make runs, tokens, text and weights. */
#include <string.h>

#include "base/suggest.h"
#include "host/objects.h"
#include "host/private.h"

static void release_model(void *object) { pb_model_unref(object); }

pb_model *pb_check_model(lua_State *L, int index) { return pb_check_box(L, index, &PB_MODEL_CLASS); }

/* The name for people: the folder's last part, but for snapshots of the hub (whose folders are hashes) what was asked. */
static void push_model_name(lua_State *L, const pb_model *model, const char *asked) {
    if (strstr(pb_model_folder(model), "/snapshots/"))
        lua_pushstring(L, asked);
    else
        lua_pushstring(L, pb_model_name(model));
}

/* pb.load(name [, { fold_ln = ..., ..., stream = ... }]) */
static int load_model(lua_State *L) {
    static const char *const fields[] = {
        "fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases", "stream", NULL};
    pb_check_arity(L, 2);
    const char *name = pb_check_text(L, 1, "name", NULL);
    pb_load_options options = {0};
    if (!lua_isnoneornil(L, 2)) {
        pb_check_fields(L, 2, fields, 0);
        options.fold_ln = pb_field_boolean(L, 2, "fold_ln", false);
        options.center_writing_weights = pb_field_boolean(L, 2, "center_writing_weights", false);
        options.center_unembed = pb_field_boolean(L, 2, "center_unembed", false);
        options.fold_value_biases = pb_field_boolean(L, 2, "fold_value_biases", false);
        options.stream = pb_field_boolean(L, 2, "stream", false);
    }
    const char *folder = pb_host_find_model(L, name);
    pb_box *box = pb_box_new(L, &PB_MODEL_CLASS, PB_MODEL_SLOTS);
    pb_model *opened = NULL;
    PB_LUA(L, pb_model_open(pb_host_context(L), folder, &options, &opened, pb_lua_error(L)));
    box->object = opened;
    push_model_name(L, box->object, name);
    lua_setiuservalue(L, -2, PB_MODEL_NAME);
    return 1;
}

/* ---- properties ------------------------------------------------------------------------------------------------------ */

static int model_name(lua_State *L) {
    pb_model *model = pb_check_model(L, 1);
    if (lua_getiuservalue(L, 1, PB_MODEL_NAME) != LUA_TSTRING)
        lua_pushstring(L, pb_model_name(model));
    return 1;
}

static int model_folder(lua_State *L) {
    lua_pushstring(L, pb_model_folder(pb_check_model(L, 1)));
    return 1;
}

static int model_family(lua_State *L) {
    lua_pushstring(L, pb_model_family(pb_check_model(L, 1)));
    return 1;
}

#define MODEL_NUMBER(function, getter)                                                                                 \
    static int function(lua_State *L) {                                                                                \
        lua_pushinteger(L, (lua_Integer)getter(pb_check_model(L, 1)));                                                 \
        return 1;                                                                                                      \
    }

MODEL_NUMBER(model_layers, pb_model_layers)
MODEL_NUMBER(model_heads, pb_model_heads)
MODEL_NUMBER(model_kv_heads, pb_model_kv_heads)
MODEL_NUMBER(model_d_model, pb_model_d_model)
MODEL_NUMBER(model_d_head, pb_model_d_head)
MODEL_NUMBER(model_d_mlp, pb_model_d_mlp)
MODEL_NUMBER(model_vocab, pb_model_vocab)
MODEL_NUMBER(model_max_positions, pb_model_max_positions)
MODEL_NUMBER(model_parameters, pb_model_parameters)
MODEL_NUMBER(model_weight_bytes, pb_model_weight_bytes)

static int model_streamed(lua_State *L) {
    lua_pushboolean(L, pb_model_streamed(pb_check_model(L, 1)));
    return 1;
}

static int model_tokenizer(lua_State *L) {
    pb_tokenizer *tokenizer = pb_model_needs_tokenizer(L, pb_check_model(L, 1));
    pb_box *box = pb_box_new(L, &PB_TOKENIZER_CLASS, 0);
    box->object = pb_tokenizer_ref(tokenizer);
    return 1;
}

static int model_has_tokenizer(lua_State *L) {
    lua_pushboolean(L, pb_model_tokenizer(pb_check_model(L, 1)) != NULL);
    return 1;
}

/* ---- text and tokens ------------------------------------------------------------------------------------------------- */

static const char *const bos_fields[] = {"bos", NULL};

static pb_special check_bos(lua_State *L, int index, pb_special fallback) {
    if (lua_isnoneornil(L, index))
        return fallback;
    pb_check_fields(L, index, bos_fields, 0);
    return pb_field_special(L, index, fallback);
}

/* model:encode(text [, { bos = }]) -> ids */
static int model_encode(lua_State *L) {
    pb_check_arity(L, 3);
    const pb_model *model = pb_check_model(L, 1);
    size_t length;
    const char *text = pb_check_text(L, 2, "text", &length);
    pb_special special = check_bos(L, 3, PB_SPECIAL_DEFAULT);
    const pb_tokenizer *tokenizer = pb_model_needs_tokenizer(L, model);
    size_t n = 0;
    pb_box *block = pb_new_block(L);
    int32_t *id_block = NULL;
    PB_LUA(L, pb_tokenizer_encode(tokenizer, text, length, special, &id_block, &n, pb_lua_error(L)));
    block->object = id_block;
    pb_push_id_list(L, block->object, n);
    return 1;
}

/* model:decode(ids [, { skip_special = }]) -> text */
static int model_decode(lua_State *L) {
    static const char *const fields[] = {"skip_special", NULL};
    pb_check_arity(L, 3);
    const pb_model *model = pb_check_model(L, 1);
    bool skip = false;
    if (!lua_isnoneornil(L, 3)) {
        pb_check_fields(L, 3, fields, 0);
        skip = pb_field_boolean(L, 3, "skip_special", false);
    }
    pb_model_needs_tokenizer(L, model);
    size_t n = 0;
    const int32_t *ids = pb_check_ids(L, 2, "ids", 0, &n);
    pb_push_text(L, model, ids, n, skip);
    return 1;
}

/* model:token(text) -> id of a text that is exactly one token */
static int model_token(lua_State *L) {
    pb_check_arity(L, 2);
    const pb_model *model = pb_check_model(L, 1);
    lua_pushinteger(L, pb_check_token(L, 2, model, "text"));
    return 1;
}

/* model:label(id) -> the token made visible */
static int model_label(lua_State *L) {
    pb_check_arity(L, 2);
    const pb_model *model = pb_check_model(L, 1);
    int32_t id = (int32_t)pb_check_integer(L, 2, "id", 0, pb_model_vocab(model) - 1);
    pb_push_label(L, model, id);
    return 1;
}

/* ---- runs ------------------------------------------------------------------------------------------------------------ */

/* model:run(text | ids [, { bos = }]) */
static int model_run(lua_State *L) {
    pb_check_arity(L, 3);
    pb_model *model = pb_check_model(L, 1);
    pb_special special = check_bos(L, 3, PB_SPECIAL_DEFAULT);
    size_t n = 0;
    const int32_t *ids = pb_check_prompt(L, 2, model, special, &n);
    pb_box *box = pb_new_run(L, 1);
    pb_run *run = NULL;
    PB_LUA(L, pb_run_create(model, ids, n, &run, pb_lua_error(L)));
    pb_fill_run(L, box, run);
    if (lua_type(L, 2) == LUA_TSTRING) {
        lua_pushvalue(L, 2);
        lua_setiuservalue(L, -2, PB_RUN_TEXT);
    }
    lua_pushinteger(L, special);
    lua_setiuservalue(L, -2, PB_RUN_SPECIAL);
    return 1;
}

/* model:runs(list of texts or id lists [, { bos = }]) -> list of runs, made in one pass over the weights */
static int model_runs(lua_State *L) {
    pb_check_arity(L, 3);
    pb_model *model = pb_check_model(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    pb_special special = check_bos(L, 3, PB_SPECIAL_DEFAULT);
    size_t n = lua_rawlen(L, 2);
    lua_settop(L, 2);
    lua_createtable(L, (int)n, 0);                           /* 3: memory of the prompts */
    const int32_t **ids = pb_lua_scratch(L, n, sizeof *ids); /* 4 */
    size_t *lengths = pb_lua_scratch(L, n, sizeof *lengths); /* 5 */
    pb_run **runs = pb_lua_scratch(L, n, sizeof *runs);      /* 6 */
    for (size_t i = 0; i < n; i++) {
        lua_rawgeti(L, 2, (lua_Integer)i + 1);
        ids[i] = pb_check_prompt(L, lua_gettop(L), model, special, &lengths[i]);
        lua_rawseti(L, 3, (lua_Integer)i + 1);
        lua_settop(L, 6);
    }
    lua_createtable(L, (int)n, 0); /* 7: the boxes, all made before the runs are */
    for (size_t i = 0; i < n; i++) {
        pb_new_run(L, 1);
        lua_rawgeti(L, 2, (lua_Integer)i + 1);
        if (lua_type(L, -1) != LUA_TSTRING) {
            lua_pop(L, 1);
            lua_pushnil(L);
        }
        lua_setiuservalue(L, -2, PB_RUN_TEXT);
        lua_pushinteger(L, special);
        lua_setiuservalue(L, -2, PB_RUN_SPECIAL);
        lua_rawseti(L, 7, (lua_Integer)i + 1);
    }
    if (n > 0)
        PB_LUA(L, pb_run_create_many(model, ids, lengths, n, runs, pb_lua_error(L)));
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++) { /* nothing here raises: rawgeti and touserdata do not allocate */
        lua_rawgeti(L, 7, (lua_Integer)i + 1);
        ((pb_box *)lua_touserdata(L, -1))->object = runs[i];
        bytes += pb_run_bytes(runs[i]);
        lua_pop(L, 1);
    }
    pb_lua_charge(L, bytes);
    return 1;
}

/* ---- weights and sites -------------------------------------------------------------------------------------------------- */

/* model:weight(name) -> tensor, by the checkpoint's own name */
static int model_weight(lua_State *L) {
    pb_check_arity(L, 2);
    pb_model *model = pb_check_model(L, 1);
    const char *name = pb_check_text(L, 2, "name", NULL);
    pb_box *box = pb_new_tensor(L);
    pb_tensor *tensor = NULL;
    PB_LUA(L, pb_model_weight(model, name, &tensor, pb_lua_error(L)));
    pb_fill_tensor(L, box, tensor);
    return 1;
}

/* model:parameter(name) -> tensor, by TransformerLens's name and shape */
static int model_parameter(lua_State *L) {
    pb_check_arity(L, 2);
    pb_model *model = pb_check_model(L, 1);
    const char *name = pb_check_text(L, 2, "name", NULL);
    pb_box *box = pb_new_tensor(L);
    pb_tensor *tensor = NULL;
    PB_LUA(L, pb_model_parameter(model, name, &tensor, pb_lua_error(L)));
    pb_fill_tensor(L, box, tensor);
    return 1;
}

/* model:weights() -> list of the names that model:weight takes */
static int model_weights(lua_State *L) {
    pb_check_arity(L, 1);
    const pb_model *model = pb_check_model(L, 1);
    size_t n = pb_model_weight_count(model);
    lua_createtable(L, (int)n, 0);
    for (size_t i = 0; i < n; i++) {
        lua_pushstring(L, pb_model_weight_name(model, i));
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

/* model:sites() -> list of full names, in the order of the computation */
static int model_sites(lua_State *L) {
    pb_check_arity(L, 1);
    const pb_model *model = pb_check_model(L, 1);
    char name[64];
    lua_Integer n = 0;
    lua_newtable(L);
    /* Before the blocks, the blocks, after them: kinds are ordered so within each part. */
    for (int part = 0; part < 3; part++) {
        int layers = part == 1 ? pb_model_layers(model) : 1;
        for (int layer = 0; layer < layers; layer++) {
            for (int kind = 0; kind < PB_SITE_KINDS; kind++) {
                bool layered = pb_site_has_layer((pb_site_kind)kind);
                int own_part = layered ? 1 : kind < PB_SITE_RESID_PRE ? 0 : 2;
                pb_site site = {(pb_site_kind)kind, layered ? layer : -1, 0};
                bool several = pb_site_has_expert(site.kind);
                for (; own_part == part && pb_site_exists(model, site) && (several || site.expert == 0);
                     site.expert++) {
                    lua_pushstring(L, pb_site_name(site, name, sizeof name));
                    lua_rawseti(L, -2, ++n);
                }
            }
        }
    }
    return 1;
}

static void set_text(lua_State *L, const char *key, const char *text) {
    lua_pushstring(L, text);
    lua_setfield(L, -2, key);
}

static void push_axes(lua_State *L, pb_site_info info) {
    const char *axes[3] = {"head", "dest", "src"};
    int n = 3;
    if (info.shape != PB_SHAPE_HEAD_POS_POS) {
        n = 0;
        axes[n++] = "pos";
        if (info.shape == PB_SHAPE_POS_HEAD_WIDTH)
            axes[n++] = "head";
        axes[n++] = "neuron";
    }
    lua_createtable(L, n, 0);
    for (int i = 0; i < n; i++) {
        lua_pushstring(L, axes[i]);
        lua_rawseti(L, -2, i + 1);
    }
}

/* model:site(name) -> { name, layer, layers, expert, axes, heads, width, width_name }: name short or full. layers: where the
 * site exists (nil for those outside the blocks); layer: that of a full name; expert: the number in the name. */
static int model_site(lua_State *L) {
    pb_check_arity(L, 2);
    const pb_model *model = pb_check_model(L, 1);
    const char *name = pb_check_text(L, 2, "site", NULL);
    char short_name[64];
    pb_site site = {PB_SITE_EMBED, -1, 0};
    PB_LUA(L, pb_site_parse_kind(model, name, &site, pb_lua_error(L)));
    pb_site_info info = pb_site_describe(model, site.kind);
    lua_createtable(L, 0, 8);
    set_text(L, "name", pb_site_short_name(site, short_name, sizeof short_name));
    push_axes(L, info);
    lua_setfield(L, -2, "axes");
    if (info.heads > 0) {
        lua_pushinteger(L, info.heads);
        lua_setfield(L, -2, "heads");
    }
    if (info.shape != PB_SHAPE_HEAD_POS_POS) {
        lua_pushinteger(L, info.width);
        lua_setfield(L, -2, "width");
        set_text(L, "width_name", info.width_name);
    }
    if (pb_site_has_expert(site.kind)) {
        lua_pushinteger(L, site.expert);
        lua_setfield(L, -2, "expert");
    }
    if (!pb_site_has_layer(site.kind))
        return 1;
    if (site.layer >= 0) {
        lua_pushinteger(L, site.layer);
        lua_setfield(L, -2, "layer");
    }
    lua_newtable(L);
    for (int layer = 0, n = 0; layer < pb_model_layers(model); layer++) {
        site.layer = layer;
        if (pb_site_exists(model, site)) {
            lua_pushinteger(L, layer);
            lua_rawseti(L, -2, ++n);
        }
    }
    lua_setfield(L, -2, "layers");
    return 1;
}

/* model:hash() -> SHA-256 of configuration and weights, hexadecimal */
static int model_hash(lua_State *L) {
    pb_check_arity(L, 1);
    const pb_model *model = pb_check_model(L, 1);
    char text[65];
    char cache[4096];
    PB_LUA(L, pb_model_hash_cached(model, pb_hash_cache(cache, sizeof cache), text, pb_lua_error(L)));
    lua_pushstring(L, text);
    return 1;
}

static int model_tostring(lua_State *L) {
    const pb_model *model = pb_check_model(L, 1);
    model_name(L);
    lua_pushfstring(L, "model %s: %s, %d layers, %d heads, d_model %d, vocabulary %d, %I parameters",
                    lua_tostring(L, -1), pb_model_family(model), pb_model_layers(model), pb_model_heads(model),
                    pb_model_d_model(model), pb_model_vocab(model), (LUAI_UACINT)pb_model_parameters(model));
    return 1;
}

/* ---- generation ------------------------------------------------------------------------------------------------------------ */

/* Push the run to continue: one given, or a new one from text or ids. */
static pb_run *push_prompt_run(lua_State *L, int prompt, int options) {
    pb_run *given = pb_to_run(L, prompt);
    if (given) {
        if (pb_run_model(given) != pb_check_model(L, 1))
            pb_bad_argument(L, "prompt", "is a run of another model");
        lua_pushvalue(L, prompt);
        return given;
    }
    lua_pushcfunction(L, model_run);
    lua_pushvalue(L, 1);
    lua_pushvalue(L, prompt);
    if (pb_has_field(L, options, "bos")) {
        lua_newtable(L);
        pb_push_field(L, options, "bos");
        lua_setfield(L, -2, "bos");
    } else {
        lua_pushnil(L);
    }
    lua_call(L, 3, 1);
    return pb_check_run(L, -1);
}

/* The list of stop tokens (texts of one token, or ids); its memory is pushed. */
static const int32_t *push_stops(lua_State *L, int options, const pb_model *model, size_t *n) {
    int32_t *ids = NULL;
    int type = pb_push_field(L, options, "stop");
    int stop = lua_gettop(L);
    *n = type == LUA_TNIL ? 0 : type == LUA_TTABLE ? (size_t)lua_rawlen(L, stop) : 1;
    ids = pb_lua_scratch(L, *n, sizeof *ids);
    for (size_t i = 0; i < *n; i++) {
        if (type == LUA_TTABLE)
            lua_rawgeti(L, stop, (lua_Integer)i + 1);
        else
            lua_pushvalue(L, stop);
        ids[i] = pb_check_token(L, lua_gettop(L), model, "stop");
        lua_settop(L, stop + 1);
    }
    lua_remove(L, stop);
    return ids;
}

/* Text of prompt and continuation together (a list of ids without a tokenizer), then, where asked for, the new ids. */
static int push_generated(lua_State *L, const pb_model *model, const pb_run *prompt, const int32_t *ids, size_t n,
                          bool want_ids) {
    size_t before = pb_run_length(prompt);
    int32_t *all = pb_lua_scratch(L, before + n, sizeof *all);
    memcpy(all, pb_run_tokens(prompt), before * sizeof *all);
    if (n > 0)
        memcpy(all + before, ids, n * sizeof *all);
    if (pb_model_tokenizer(model))
        pb_push_text(L, model, all, before + n, true);
    else
        pb_push_id_list(L, all, before + n);
    if (want_ids)
        pb_push_id_list(L, ids, n);
    return want_ids ? 2 : 1;
}

/* model:generate { prompt, tokens =, temperature =, top_k =, seed =, stop =, patches =, bos =, ids = } */
static int model_generate(lua_State *L) {
    static const char *const fields[] = {"tokens",  "temperature", "top_k", "seed", "stop",
                                         "patches", "bos",         "ids",   NULL};
    pb_check_arity(L, 2);
    pb_model *model = pb_check_model(L, 1);
    pb_check_fields(L, 2, fields, 1);
    pb_generate_options options = {
        .tokens = (int)pb_field_integer(L, 2, "tokens", 20, 1, 1 << 20),
        .temperature = pb_field_number(L, 2, "temperature", 0),
        .top_k = (int)pb_field_integer(L, 2, "top_k", 0, 0, pb_model_vocab(model)),
        .seed = (uint64_t)pb_field_integer(L, 2, "seed", (lua_Integer)pb_host_seed(L), LUA_MININTEGER, LUA_MAXINTEGER),
    };
    if (!(options.temperature >= 0 && options.temperature < 1e6))
        pb_bad_argument(L, "temperature", "must be 0 (always the likeliest token) or more");
    if (options.top_k > 0 && options.temperature == 0)
        pb_bad_argument(L, "top_k", "changes nothing at temperature 0: give temperature = 1, or leave it out");
    bool want_ids = pb_field_boolean(L, 2, "ids", false);
    lua_settop(L, 2);
    lua_rawgeti(L, 2, 1); /* 3 */
    if (lua_isnil(L, 3))
        pb_bad_argument(L, "prompt",
                        "must be a text, a list of token ids, or a run as first entry: generate { \"The\" }");
    pb_run *prompt = push_prompt_run(L, 3, 2); /* 4 */
    options.stop = push_stops(L, 2, model, &options.n_stop);
    pb_batch *batch = pb_batch_new(L);
    if (pb_push_field(L, 2, "patches") != LUA_TNIL) {
        pb_batch_add(L, lua_gettop(L) - 1, 4, lua_gettop(L), NULL, 0);
        size_t n_requests = 0;
        const pb_request *request = pb_batch_requests(batch, &n_requests);
        options.patches = request->patches;
        options.n_patches = request->n_patches;
    }
    size_t n = 0;
    pb_guard_run(L, prompt);
    pb_box *block = pb_new_block(L);
    int32_t *id_block = NULL;
    PB_LUA(L, pb_generate(prompt, &options, &id_block, &n, pb_lua_error(L)));
    block->object = id_block;
    return push_generated(L, model, prompt, block->object, n, want_ids);
}

/* ---- the class -------------------------------------------------------------------------------------------------------------- */

static const luaL_Reg methods[] = {
    {"run", model_run},
    {"runs", model_runs},
    {"encode", model_encode},
    {"decode", model_decode},
    {"token", model_token},
    {"label", model_label},
    {"weight", model_weight},
    {"parameter", model_parameter},
    {"weights", model_weights},
    {"sites", model_sites},
    {"site", model_site},
    {"hash", model_hash},
    {"generate", model_generate},
    {"with", pb_model_with},
    {"refresh", pb_model_refresh_vectors},
    {"save", pb_model_save},
    {NULL, NULL},
};

static const luaL_Reg properties[] = {
    {"name", model_name},
    {"folder", model_folder},
    {"family", model_family},
    {"layers", model_layers},
    {"heads", model_heads},
    {"kv_heads", model_kv_heads},
    {"d_model", model_d_model},
    {"d_head", model_d_head},
    {"d_mlp", model_d_mlp},
    {"vocab", model_vocab},
    {"max_positions", model_max_positions},
    {"parameters", model_parameters},
    {"weight_bytes", model_weight_bytes},
    {"tokenizer", model_tokenizer},
    {"has_tokenizer", model_has_tokenizer},
    {"config", pb_model_config_table},
    {"streamed", model_streamed},
    {"storage", pb_model_storage_text},
    {"dtypes", pb_model_dtypes_text},
    {NULL, NULL},
};

static const luaL_Reg metamethods[] = {{"__tostring", model_tostring}, {NULL, NULL}};

const pb_class PB_MODEL_CLASS = {
    .name = "model",
    .release = release_model,
    .methods = methods,
    .properties = properties,
    .metamethods = metamethods,
};

void pb_open_model(lua_State *L);

void pb_open_model(lua_State *L) {
    static const luaL_Reg functions[] = {{"load", load_model}, {"model", pb_model_make}, {NULL, NULL}};
    pb_class_open(L, &PB_MODEL_CLASS);
    pb_add_functions(L, "", functions);
}
