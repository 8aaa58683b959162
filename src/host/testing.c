/* What `patchbay test` gives to scripts/patchbay/core/check.lua: running a recipe in a state of its own, and making
 * allocations fail. Not there in recipes. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/private.h"

/* ---- a recipe inside a test -------------------------------------------------------------------------------------- */

typedef struct nested {
    pb_context *ctx;
    pb_host *host;
    pb_strbuf printed;
} nested;

static void release_nested(void *object) {
    nested *n = object;
    pb_host_free(n->host);
    pb_context_unref(n->ctx);
    pb_strbuf_free(&n->printed);
    pb_free(n);
}

const pb_class PB_NESTED_CLASS = {.name = "nested recipe", .release = release_nested};

static void collect_print(void *user, const char *text, size_t length) { pb_strbuf_add_bytes(user, text, length); }

static void collect_warning(void *user, const char *message) { pb_strbuf_printf(user, "warning: %s\n", message); }

/* A list of texts in a field -> NULL-terminated array; pushes its memory. */
static const char *const *field_texts(lua_State *L, const char *field) {
    if (pb_push_field(L, 1, field) != LUA_TTABLE) {
        lua_pop(L, 1);
        lua_pushnil(L);
        return NULL;
    }
    size_t n = lua_rawlen(L, -1);
    const char **texts = pb_lua_scratch(L, n + 1, sizeof *texts);
    for (size_t i = 0; i < n; i++) {
        lua_rawgeti(L, -2, (lua_Integer)i + 1);
        texts[i] = luaL_checkstring(L, -1);
        lua_pop(L, 1);
    }
    return texts;
}

/* core.check_counts() of a state that has run a file of tests */
static int read_failed(lua_State *L) {
    lua_Integer *counts = lua_touserdata(L, 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &PB_KEY_CORE);
    lua_getfield(L, -1, "check_counts");
    lua_call(L, 0, 3);
    for (int i = 0; i < 3; i++)
        counts[i] = lua_tointeger(L, -3 + i);
    return 0;
}

/* run_recipe { text or file =, params =, memory = bytes, time = seconds, seed =, trust =, recipe = path, output = folder }
 * -> { ok =, status =, message =, printed =, seconds =, leaked = bytes }; testing = true: a file of tests, and passed,
 * failed, skipped in the result. */
static int run_recipe(lua_State *L) {
    static const char *const fields[] = {"text",  "file",   "params", "readable",  "memory",  "time", "seed",
                                         "trust", "recipe", "output", "gc_stress", "testing", NULL};
    pb_check_fields(L, 1, fields, 0);
    const char *text = pb_field_text(L, 1, "text"), *file = pb_field_text(L, 1, "file");
    double seconds = pb_field_number(L, 1, "time", 0);
    pb_context_options limits = {.memory_limit = (size_t)pb_field_integer(L, 1, "memory", 0, 0, LUA_MAXINTEGER)};
    pb_host *outer = pb_host_of(L);
    pb_host_options options = {.recipe = file ? file : pb_field_text(L, 1, "recipe"),
                               .output = pb_field_text(L, 1, "output"),
                               .params = field_texts(L, "params"),
                               .readable = field_texts(L, "readable"),
                               .seed = (uint64_t)pb_field_integer(L, 1, "seed", 0, LUA_MININTEGER, LUA_MAXINTEGER),
                               .trust = pb_field_boolean(L, 1, "trust", false),
                               .testing = pb_field_boolean(L, 1, "testing", false),
                               .gc_stress = pb_field_boolean(L, 1, "gc_stress", outer->gc_stress),
                               .print = collect_print};
    if (!options.output)
        options.output = outer->output;

    pb_box *box = pb_box_new(L, &PB_NESTED_CLASS, 0);
    nested *n = pb_alloc_zero(outer->ctx, 1, sizeof *n);
    if (!n)
        pb_lua_raise(L, pb_fail_memory(&outer->error, outer->ctx, sizeof *n, "a nested recipe"));
    pb_strbuf_init(&n->printed, outer->ctx);
    box->object = n;
    options.print_user = &n->printed;
    PB_LUA(L, pb_context_create(&limits, &n->ctx, pb_lua_error(L)));
    pb_context_on_warning(n->ctx, collect_warning, &n->printed);

    pb_error *err = pb_lua_scratch(L, 1, sizeof *err);
    double start = pb_monotonic_seconds();
    pb_interrupt_begin(n->ctx, seconds);
    pb_status status = pb_host_create(n->ctx, &options, &n->host, err);
    if (status == PB_OK && (file || text))
        status = file ? pb_host_run_file(n->host, file, err)
                      : pb_host_run_text(n->host, text, strlen(text), "recipe.lua", err);
    if (status == PB_OK)
        status = pb_host_finish(n->host, err);
    lua_Integer counts[3] = {0, 0, 0};
    if (status == PB_OK && options.testing)
        status = pb_host_call(n->host, read_failed, counts, err);
    pb_interrupt_end();
    double elapsed = pb_monotonic_seconds() - start;
    pb_host_free(n->host);
    n->host = NULL;

    lua_newtable(L);
    lua_pushboolean(L, status == PB_OK);
    lua_setfield(L, -2, "ok");
    lua_pushstring(L, status == PB_OK ? "ok" : pb_status_name(status));
    lua_setfield(L, -2, "status");
    lua_pushstring(L, err->message);
    lua_setfield(L, -2, "message");
    lua_pushlstring(L, n->printed.text ? n->printed.text : "", n->printed.length);
    lua_setfield(L, -2, "printed");
    lua_pushnumber(L, elapsed);
    lua_setfield(L, -2, "seconds");
    lua_pushinteger(L, (lua_Integer)pb_context_memory_used(n->ctx));
    lua_setfield(L, -2, "leaked");
    static const char *const names[3] = {"passed", "failed", "skipped"};
    for (int i = 0; i < 3; i++) {
        lua_pushinteger(L, counts[i]);
        lua_setfield(L, -2, names[i]);
    }
    return 1;
}

/* ---- failing allocations ----------------------------------------------------------------------------------------- */

/* with_failure(n, "library" or "lua", f) -> did the n-th allocation come, did f return, its error. */
static int with_failure(lua_State *L) {
    static const char *const kinds[] = {"library", "lua", NULL};
    pb_host *host = pb_host_of(L);
    uint64_t n = (uint64_t)pb_check_integer(L, 1, "n", 1, LUA_MAXINTEGER);
    bool library = pb_check_word(L, 2, "kind", kinds, -1) == 0;
    luaL_checktype(L, 3, LUA_TFUNCTION);
    lua_settop(L, 3);
    uint64_t before = library ? pb_context_allocations(host->ctx) : host->lua_allocations;
    if (library)
        pb_context_fail_allocation(host->ctx, n);
    else
        host->fail_lua_in = n;
    bool no_retry = host->no_retry;
    host->no_retry = true;
    int status = lua_pcall(L, 0, 0, 0);
    host->no_retry = no_retry;
    pb_context_fail_allocation(host->ctx, 0);
    host->fail_lua_in = 0;
    host->lua_failing = host->keep_trace = host->reserve_open = false;
    uint64_t made = (library ? pb_context_allocations(host->ctx) : host->lua_allocations) - before;
    lua_pushboolean(L, made >= n || status != LUA_OK); /* a failed allocation is not counted as made */
    lua_pushboolean(L, status == LUA_OK);
    if (status == LUA_OK)
        return 2;
    lua_pushvalue(L, -3);
    return 3;
}

static int memory_used(lua_State *L) {
    pb_host *host = pb_host_of(L);
    lua_gc(L, LUA_GCCOLLECT);
    lua_gc(L, LUA_GCCOLLECT);
    lua_pushinteger(L, (lua_Integer)(pb_context_memory_used(host->ctx) - host->lua_charged));
    return 1;
}

static int output_folder(lua_State *L) {
    lua_pushstring(L, pb_host_of(L)->output);
    return 1;
}

/* getenv(name), for tests that use more when it is there (PB_SHARED). */
static int environment(lua_State *L) {
    lua_pushstring(L, getenv(luaL_checkstring(L, 1)));
    return 1;
}

/* link(target, name): a symbolic link, for tests of paths. */
static int make_link(lua_State *L) {
    lua_pushboolean(L, symlink(luaL_checkstring(L, 1), luaL_checkstring(L, 2)) == 0);
    return 1;
}

const luaL_Reg PB_CORE_TESTING[] = {{"run_recipe", run_recipe},
                                    {"with_failure", with_failure},
                                    {"memory_used", memory_used},
                                    {"output_folder", output_folder},
                                    {"environment", environment},
                                    {"link", make_link},
                                    {NULL, NULL}};
