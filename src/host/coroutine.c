/* The coroutine library of the sandbox. A recipe that is being stopped must not go on in another coroutine: an error
 * that ends it passes through resume and wrap, and nothing (a __close handler of a dead coroutine, where hooks are off)
 * runs after it. */
#include "host/private.h"

static lua_State *check_thread(lua_State *L, int index) {
    lua_State *co = lua_tothread(L, index);
    luaL_argexpected(L, co, index, "coroutine");
    return co;
}

static void raise_if_killed(lua_State *L) {
    if (pb_host_of(L)->killed) {
        lua_settop(L, 0);
        lua_pushliteral(L, "stopped");
        lua_error(L);
    }
}

/* Resume co with nargs values from the top of L. Returns how many results were moved to L, or -1 with the error on L. */
static int resume(lua_State *L, lua_State *co, int nargs) {
    if (!lua_checkstack(co, nargs)) {
        lua_pushliteral(L, "too many arguments to resume");
        return -1;
    }
    lua_xmove(L, co, nargs);
    int results = 0;
    int status = lua_resume(co, L, nargs, &results);
    pb_host *host = pb_host_of(L);
    host->current = L;
    if (status == LUA_OK || status == LUA_YIELD) {
        if (!lua_checkstack(L, results + 1)) {
            lua_pop(co, results);
            lua_pushliteral(L, "too many results to resume");
            return -1;
        }
        lua_xmove(co, L, results);
        return results;
    }
    raise_if_killed(L);
    host->place.variant = host->place.patch = 0;
    if (status == LUA_ERRMEM)
        host->out_of_memory = true;
    lua_xmove(co, L, 1);
    return -1;
}

static int co_create(lua_State *L) {
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_State *co = lua_newthread(L); /* takes over the hook of L */
    lua_pushvalue(L, 1);
    lua_xmove(L, co, 1);
    return 1;
}

static int co_resume(lua_State *L) {
    lua_State *co = check_thread(L, 1);
    int n = resume(L, co, lua_gettop(L) - 1);
    if (n < 0) {
        lua_pushboolean(L, 0);
        lua_insert(L, -2);
        return 2;
    }
    lua_pushboolean(L, 1);
    lua_insert(L, -(n + 1));
    return n + 1;
}

static int wrapped(lua_State *L) {
    lua_State *co = lua_tothread(L, lua_upvalueindex(1));
    int n = resume(L, co, lua_gettop(L));
    if (n >= 0)
        return n;
    int status = lua_status(co);
    if (status != LUA_OK && status != LUA_YIELD) { /* it died of the error: run what it had to close */
        status = lua_resetthread(co);
        raise_if_killed(L);
        if (status != LUA_OK) {
            lua_pop(L, 1);
            lua_xmove(co, L, 1);
        }
    }
    return lua_error(L);
}

static int co_wrap(lua_State *L) {
    co_create(L);
    lua_pushcclosure(L, wrapped, 1);
    return 1;
}

static const char *status_of(lua_State *L, lua_State *co) {
    if (L == co)
        return "running";
    switch (lua_status(co)) {
    case LUA_YIELD:
        return "suspended";
    case LUA_OK: {
        lua_Debug ar;
        if (lua_getstack(co, 0, &ar))
            return "normal"; /* it resumed another one */
        return lua_gettop(co) ? "suspended" : "dead";
    }
    default:
        return "dead";
    }
}

static int co_status(lua_State *L) {
    lua_pushstring(L, status_of(L, check_thread(L, 1)));
    return 1;
}

static int co_close(lua_State *L) {
    lua_State *co = check_thread(L, 1);
    const char *state = status_of(L, co);
    raise_if_killed(L);
    if (state[0] != 's' && state[0] != 'd')
        return luaL_error(L, "cannot close a %s coroutine", state);
    if (lua_resetthread(co) == LUA_OK) {
        raise_if_killed(L);
        lua_pushboolean(L, 1);
        return 1;
    }
    raise_if_killed(L);
    lua_pushboolean(L, 0);
    lua_xmove(co, L, 1);
    return 2;
}

static int co_yield (lua_State *L) { return lua_yield(L, lua_gettop(L)); }

static int co_isyieldable(lua_State *L) {
    lua_State *co = lua_isnone(L, 1) ? L : check_thread(L, 1);
    lua_pushboolean(L, lua_isyieldable(co));
    return 1;
}

static int co_running(lua_State *L) {
    lua_pushboolean(L, lua_pushthread(L));
    return 2;
}

int pb_sandbox_coroutine(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"close", co_close},   {"create", co_create},   {"isyieldable", co_isyieldable},
        {"resume", co_resume}, {"running", co_running}, {"status", co_status},
        {"wrap", co_wrap},     {"yield", co_yield },    {NULL, NULL}};
    luaL_newlib(L, functions);
    return 1;
}
