/* Raising errors, calling the engine, being called by it. */
#include <stdarg.h>
#include <string.h>

#include "host/private.h"

pb_host *pb_host_of(lua_State *L) {
    pb_host *host;
    memcpy(&host, lua_getextraspace(L), sizeof host);
    return host;
}

pb_context *pb_host_context(lua_State *L) { return pb_host_of(L)->ctx; }

uint64_t pb_host_seed(lua_State *L) { return pb_host_of(L)->seed; }

bool pb_host_trusted(lua_State *L) { return pb_host_of(L)->trust; }

lua_State *pb_host_current(pb_host *host) { return host->current; }

pb_error *pb_lua_error(lua_State *L) { return &pb_host_of(L)->error; }

void pb_lua_enter(lua_State *L) {
    pb_host *host = pb_host_of(L);
    host->current = L;
    if (host->progress.depth++ == 0)
        pb_progress_begin(host);
}

void pb_lua_leave(lua_State *L) {
    pb_host *host = pb_host_of(L);
    if (--host->progress.depth == 0)
        pb_progress_erase(host);
}

bool pb_lua_collect(lua_State *L) {
    pb_context *ctx = pb_host_context(L);
    if (pb_host_of(L)->no_retry)
        return false;
    size_t before = pb_context_memory_used(ctx);
    lua_gc(L, LUA_GCCOLLECT);
    return pb_context_memory_used(ctx) < before;
}

/* Push the kept error object of the last failed callback and forget it; false if there is none. The slot always holds a
 * value, so that filling it never makes the registry grow. */
static void push_pending(lua_State *L) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &PB_KEY_PENDING);
    lua_pushboolean(L, 0);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &PB_KEY_PENDING);
}

/* "variant 3, patch 2: " while a patch is read. */
static void push_place(lua_State *L, pb_host *host) {
    const lua_Integer variant = host->place.variant, patch = host->place.patch;
    host->place.variant = host->place.patch = 0;
    if (variant > 0 && patch > 0)
        lua_pushfstring(L, "variant %I, patch %I: ", (LUAI_UACINT)variant, (LUAI_UACINT)patch);
    else if (variant > 0 || patch > 0)
        lua_pushfstring(L, "%s %I: ", variant > 0 ? "variant" : "patch", (LUAI_UACINT)(variant + patch));
    else
        lua_pushliteral(L, "");
}

_Noreturn void pb_lua_raise(lua_State *L, pb_status status) {
    pb_host *host = pb_host_of(L);
    if (status == PB_ERR_STOPPED || pb_context_stopping(host->ctx))
        pb_host_kill(L, host);
    luaL_checkstack(L, 8, "raising an error");
    if (status == PB_ERR_CALLBACK) {
        push_pending(L);
        if (lua_toboolean(L, -1)) {
            host->keep_trace = true;
            lua_error(L);
        }
        lua_pop(L, 1);
    }
    pb_host_where(L, 0);
    push_place(L, host);
    lua_pushstring(L, host->error.message);
    lua_concat(L, 3);
    lua_error(L);
    pb_fail(NULL, status, "unreachable"); /* lua_error does not return; its declaration does not say so */
    for (;;) {}
}

_Noreturn void pb_lua_fail(lua_State *L, const char *format, ...) {
    /* The host's buffer is free for this: whatever it held was raised or is of no interest any more. */
    pb_host *host = pb_host_of(L);
    va_list args;
    va_start(args, format);
    pb_status status = pb_failv(&host->error, PB_ERR_ARGUMENT, format, args);
    va_end(args);
    pb_lua_raise(L, status);
}

/* ---- protected calls --------------------------------------------------------------------------------------------- */

pb_status pb_lua_protect(lua_State *L, lua_CFunction body, void *user, int nargs, pb_error *err) {
    pb_host *host = pb_host_of(L);
    lua_State *saved = host->current;
    int depth = host->progress.depth;
    if (pb_context_stopping(host->ctx)) {
        lua_pop(L, nargs);
        return pb_context_check(host->ctx, err);
    }
    if (!lua_checkstack(L, LUA_MINSTACK)) {
        lua_pop(L, nargs);
        return pb_fail(err, PB_ERR_CALLBACK, "the Lua stack is full: too many nested calls");
    }
    /* None of these can raise: light values only. */
    int base = lua_gettop(L) - nargs;
    lua_pushcfunction(L, pb_host_traceback);
    lua_insert(L, base + 1);
    lua_pushcfunction(L, body);
    lua_insert(L, base + 2);
    lua_pushlightuserdata(L, user);
    lua_insert(L, base + 3);
    int status = lua_pcall(L, nargs + 1, 0, base + 1);
    host->current = saved;
    host->progress.depth = depth;
    if (status != LUA_OK)
        host->place.variant = host->place.patch = 0;
    if (status == LUA_OK) {
        lua_settop(L, base);
        return PB_OK;
    }
    if (status == LUA_ERRMEM)
        host->out_of_memory = true;
    const char *text =
        lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "a callback raised a value that is no text";
    pb_status result = pb_fail(err, host->killed ? PB_ERR_STOPPED : PB_ERR_CALLBACK, "%s", text);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &PB_KEY_PENDING); /* replaces an existing slot: allocates nothing */
    lua_settop(L, base);
    return result;
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

void pb_lua_charge(lua_State *L, size_t bytes) {
    enum { TELL = 1 << 14 };
    pb_host *host = pb_host_of(L);
    host->gc_debt += bytes;
    if (host->gc_stress) {
        lua_gc(L, LUA_GCCOLLECT);
        host->gc_debt = 0;
    } else if (host->gc_debt >= TELL) {
        size_t kilobytes = host->gc_debt >> 10;
        host->gc_debt = 0;
        lua_gc(L, LUA_GCSTEP, kilobytes > (1 << 21) ? (1 << 21) : (int)kilobytes);
    }
}

void *pb_lua_scratch(lua_State *L, size_t count, size_t size) {
    if (size && count > ((size_t)1 << 46) / size)
        pb_lua_fail(L, "a list of %zu items is too long", count);
    void *block = lua_newuserdatauv(L, count * size, 0);
    memset(block, 0, count * size);
    return block;
}
