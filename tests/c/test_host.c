/* The host from C: states that are made with too little memory, by allocation failures, one inside another, and what they
 * give back. What recipes can do is tested in tests/lua. */
#include "support/support.h"

#include <string.h>

#include "host/private.h"

static void printed(void *user, const char *text, size_t length) { pb_strbuf_add_bytes(user, text, length); }

static const char RECIPE[] = "local pb = require 'patchbay'\n"
                             "local t = pb.tensor { { 1, 2 }, { 3, 4 } }\n"
                             "print(t:sum(), pb.params({ n = 1 }).n)\n";

static void host__recipe__runs_and_gives_everything_back(void **state) {
    (void)state;
    pb_error err = {0};
    pb_context *ctx = test_context();
    pb_strbuf out;
    pb_strbuf_init(&out, ctx);
    const char *params[] = {"n=5", NULL};
    pb_host_options options = {.params = params, .print = printed, .print_user = &out};
    pb_host *host = NULL;
    assert_ok(pb_host_create(ctx, &options, &host, &err));
    assert_true(host->lua_charged >= host->lua_used);
    assert_ok(pb_host_run_text(host, RECIPE, strlen(RECIPE), "r.lua", &err));
    assert_ok(pb_host_finish(host, &err));
    assert_string_equal(out.text, "10.0\t5\n");
    pb_host_free(host);
    pb_strbuf_free(&out);
    assert_int_equal(pb_context_memory_used(ctx), 0);
    pb_context_unref(ctx);
}

static pb_status make_and_run(pb_context *ctx, void *user, pb_error *err) {
    (void)user;
    const char *params[] = {"n=5", NULL}, *readable[] = {"/", NULL};
    pb_strbuf out;
    pb_strbuf_init(&out, ctx);
    pb_host_options options = {.recipe = "a/b.lua",
                               .output = "c",
                               .params = params,
                               .readable = readable,
                               .no_retry = true,
                               .print = printed,
                               .print_user = &out};
    pb_host *host = NULL;
    pb_status status = pb_host_create(ctx, &options, &host, err);
    if (status == PB_OK)
        status = pb_host_run_text(host, RECIPE, strlen(RECIPE), "r.lua", err);
    if (status == PB_ERR_CALLBACK && strstr(err->message, "memory"))
        status = PB_ERR_MEMORY; /* raised inside the recipe */
    if (status == PB_OK && out.failed)
        status = pb_fail(err, PB_ERR_MEMORY, "the output was not kept");
    pb_host_free(host);
    pb_strbuf_free(&out);
    return status;
}

static void host__every_allocation_fails__error_and_no_leak(void **state) {
    (void)state;
    pb_context *ctx = test_context();
    assert_true(assert_survives_allocation_failure(ctx, make_and_run, NULL) > 10);
    pb_context_unref(ctx);
}

/* From nothing to enough: every budget gives a state or an error of memory, and leaves nothing. */
static void host__any_budget__state_or_error(void **state) {
    (void)state;
    pb_error err = {0};
    size_t enough = 0;
    for (size_t budget = 1; budget < (size_t)4 << 20 && !enough; budget = budget * 9 / 8 + 3001) {
        pb_context *ctx = NULL;
        const pb_context_options limits = {.memory_limit = budget};
        assert_ok(pb_context_create(&limits, &ctx, &err));
        err.message[0] = '\0';
        pb_status status = make_and_run(ctx, NULL, &err);
        if (status == PB_OK)
            enough = budget;
        else
            assert_int_equal(status, PB_ERR_MEMORY);
        assert_true(status == PB_OK || strstr(err.message, "memory"));
        assert_int_equal(pb_context_memory_used(ctx), 0);
        assert_true(pb_context_memory_peak(ctx) <= budget);
        pb_context_unref(ctx);
    }
    assert_true(enough > 0);
}

static void host__bytecode__refused(void **state) {
    (void)state;
    pb_error err = {0};
    pb_context *ctx = test_context();
    pb_host *host = NULL;
    assert_ok(pb_host_create(ctx, &(pb_host_options){0}, &host, &err));
    assert_error(pb_host_run_text(host, "\033Lua", 4, "r.lua", &err), PB_ERR_CALLBACK, "bytecode");
    /* and the state is still good */
    assert_ok(pb_host_run_text(host, "local x = 1", 11, "r.lua", &err));
    pb_host_free(host);
    pb_context_unref(ctx);
}

static void host__stopped_context__recipe_is_stopped(void **state) {
    (void)state;
    pb_error err = {0};
    pb_context *ctx = test_context();
    pb_host *host = NULL;
    assert_ok(pb_host_create(ctx, &(pb_host_options){0}, &host, &err));
    pb_context_stop(ctx);
    const char *text = "while true do pcall(error) end";
    assert_error(pb_host_run_text(host, text, strlen(text), "r.lua", &err), PB_ERR_STOPPED, NULL);
    assert_true(host->killed);
    pb_host_free(host);
    pb_context_unref(ctx);
}

static void host__interrupts__nest(void **state) {
    (void)state;
    pb_context *outer = test_context(), *inner = test_context();
    pb_interrupt_begin(outer, 0);
    pb_interrupt_begin(inner, 0.02);
    double start = pb_monotonic_seconds();
    while (!pb_context_stopping(inner) && pb_monotonic_seconds() - start < 5)
        ;
    assert_true(pb_context_stopping(inner));
    assert_false(pb_context_stopping(outer));
    assert_int_equal(pb_interrupt_end(), PB_STOP_TIME);
    assert_int_equal(pb_interrupt_end(), PB_STOP_NONE);
    assert_int_equal(pb_interrupt_end(), PB_STOP_NONE);
    pb_context_unref(outer);
    pb_context_unref(inner);
}

/* ---- callbacks --------------------------------------------------------------------------------------------------- */

typedef struct probe {
    pb_status status;
    pb_host *host;
} probe;

static int raise_table(lua_State *L) {
    lua_newtable(L);
    lua_pushinteger(L, 42);
    lua_setfield(L, -2, "code");
    return lua_error(L);
}

/* As the engine does: calls Lua, gets a status, and the binding raises the original object. */
static pb_status engine(lua_State *L, probe *p, pb_error *err) {
    int top = lua_gettop(L);
    p->status = pb_lua_protect(L, raise_table, p, 0, err);
    assert_int_equal(lua_gettop(L), top);
    return p->status;
}

static int binding(lua_State *L) {
    probe *p = lua_touserdata(L, 1);
    PB_LUA(L, engine(L, p, pb_lua_error(L)));
    return 0;
}

static int catching(lua_State *L) {
    probe *p = lua_touserdata(L, 1);
    lua_pushcfunction(L, binding);
    lua_pushlightuserdata(L, p);
    assert_int_equal(lua_pcall(L, 1, 0, 0), LUA_ERRRUN);
    assert_int_equal(lua_type(L, -1), LUA_TTABLE);
    lua_getfield(L, -1, "code");
    assert_int_equal(lua_tointeger(L, -1), 42);
    return 0;
}

static void host__callback_error__raised_again_as_it_was(void **state) {
    (void)state;
    pb_error err = {0};
    pb_context *ctx = test_context();
    probe p = {PB_OK, NULL};
    assert_ok(pb_host_create(ctx, &(pb_host_options){0}, &p.host, &err));
    assert_ok(pb_host_call(p.host, catching, &p, &err));
    assert_int_equal(p.status, PB_ERR_CALLBACK);
    pb_host_free(p.host);
    assert_int_equal(pb_context_memory_used(ctx), 0);
    pb_context_unref(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(host__recipe__runs_and_gives_everything_back),
        cmocka_unit_test(host__every_allocation_fails__error_and_no_leak),
        cmocka_unit_test(host__any_budget__state_or_error),
        cmocka_unit_test(host__bytecode__refused),
        cmocka_unit_test(host__stopped_context__recipe_is_stopped),
        cmocka_unit_test(host__interrupts__nest),
        cmocka_unit_test(host__callback_error__raised_again_as_it_was),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
