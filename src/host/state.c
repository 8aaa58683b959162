/* The Lua state: its memory, the hook that stops it, running a recipe and telling what went wrong. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "host/private.h"

const char PB_KEY_BASE = 0, PB_KEY_LIBRARIES = 0, PB_KEY_LOADED = 0, PB_KEY_CLASSES = 0, PB_KEY_ANCHORS = 0,
           PB_KEY_PENDING = 0, PB_KEY_PB = 0, PB_KEY_CORE = 0;

enum { HOOK_INSTRUCTIONS = 10000, STRESS_INSTRUCTIONS = 200 };

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/* A finaliser is running (the collector is then switched off; scripts cannot do that). It must not fail for want of
 * memory for its own call: the object would go without being released. */
static bool finalising(const pb_host *host) { return host->L && lua_gc(host->L, LUA_GCISRUNNING) <= 0; }

/* Charges are made a slab at a time: one atomic operation per 64 KiB instead of one per table. */
static bool charge(pb_host *host, size_t used) {
    if (used <= host->lua_charged)
        return true;
    size_t slab = (used + PB_HOST_SLAB - 1) / PB_HOST_SLAB * PB_HOST_SLAB;
    if (pb_context_charge(host->ctx, slab - host->lua_charged)) {
        host->lua_charged = slab;
        return true;
    }
    if (pb_context_charge(host->ctx, used - host->lua_charged)) {
        host->lua_charged = used;
        return true;
    }
    return (host->reserve_open || finalising(host)) && used - host->lua_charged <= PB_HOST_RESERVE;
}

static void discharge(pb_host *host) {
    if (host->lua_charged > host->lua_used + 2 * PB_HOST_SLAB) {
        size_t keep = host->lua_used + PB_HOST_SLAB;
        pb_context_discharge(host->ctx, host->lua_charged - keep);
        host->lua_charged = keep;
    }
}

/* lua_Alloc. Without a block, old_size is a type tag. Shrinking must not fail. */
static void *allocate(void *user, void *block, size_t old_size, size_t new_size) {
    pb_host *host = user;
    if (!block)
        old_size = 0;
    if (new_size == 0) {
        free(block);
        host->lua_used -= old_size;
        discharge(host);
        return NULL;
    }
    if (new_size > old_size) {
        host->lua_allocations++;
        bool counts = (host->lua_failing || host->fail_lua_in) && !finalising(host);
        if (counts && (host->lua_failing || --host->fail_lua_in == 0)) {
            /* Lua collects and tries again: the second attempt fails too */
            host->lua_failing = !host->lua_failing;
            return NULL;
        }
        if (!charge(host, host->lua_used + (new_size - old_size)))
            return NULL;
    }
    void *moved = realloc(block, new_size);
    if (!moved) {
        if (new_size > old_size)
            return NULL;
        moved = block; /* realloc could not shrink: the larger block serves */
    }
    host->lua_used = host->lua_used - old_size + new_size;
    discharge(host);
    return moved;
}

/* ---- stopping ---------------------------------------------------------------------------------------------------- */

static void hook(lua_State *L, lua_Debug *ar) {
    (void)ar;
    pb_host *host = pb_host_of(L);
    if (host->hook_closed)
        return;
    if (host->gc_stress)
        lua_gc(L, LUA_GCSTEP, 0);
    if (host->killed || pb_context_stopping(host->ctx)) {
        pb_host_kill(L, host);
        luaL_error(L, "stopped");
    }
}

void pb_host_kill(lua_State *L, pb_host *host) {
    /* A pcall that is not ours (a coroutine's, a library's) may catch the error: the next instruction raises again. */
    host->killed = true;
    lua_sethook(L, hook, LUA_MASKCOUNT, 1);
}

/* ---- making and freeing ------------------------------------------------------------------------------------------ */

static char **copy_list(pb_context *ctx, const char *const *list, size_t *count) {
    size_t n = 0;
    while (list && list[n])
        n++;
    char **copy = pb_alloc_zero(ctx, n + 1, sizeof *copy);
    for (size_t i = 0; copy && i < n; i++) {
        copy[i] = pb_strdup(ctx, list[i]);
        if (!copy[i]) {
            while (i--)
                pb_free(copy[i]);
            pb_free(copy);
            return NULL;
        }
    }
    if (count)
        *count = n;
    return copy;
}

static void free_list(char **list) {
    for (char **item = list; item && *item; item++)
        pb_free(*item);
    pb_free(list);
}

/* "trace.out" for examples/trace.lua, in the current folder. */
static char *default_output(pb_context *ctx, const char *recipe) {
    const char *name = recipe ? pb_path_name(recipe) : "patchbay";
    size_t n = strlen(name);
    if (n > 4 && strcmp(name + n - 4, ".lua") == 0)
        n -= 4;
    char *path = pb_alloc(ctx, n + 5, 1);
    if (path) {
        memcpy(path, name, n);
        memcpy(path + n, ".out", 5);
    }
    return path;
}

static pb_status copy_options(pb_host *host, const pb_host_options *o, pb_error *err) {
    pb_context *ctx = host->ctx;
    host->recipe = o->recipe ? pb_strdup(ctx, o->recipe) : NULL;
    host->recipe_folder = o->recipe ? pb_path_folder(ctx, o->recipe) : pb_strdup(ctx, ".");
    host->output = o->output ? pb_strdup(ctx, o->output) : default_output(ctx, o->recipe);
    host->readable = copy_list(ctx, o->readable, NULL);
    host->params = copy_list(ctx, o->params, &host->n_params);
    if ((o->recipe && !host->recipe) || !host->recipe_folder || !host->output || !host->readable || !host->params)
        return pb_fail_memory(err, ctx, 4096, "a Lua state");
    host->seed = o->seed;
    host->next_draw = UINT64_C(1) << 62; /* out of the way of the draws that recipes number themselves */
    host->trust = o->trust;
    host->testing = o->testing;
    host->no_retry = o->no_retry;
    host->gc_stress = o->gc_stress;
    host->print = o->print;
    host->print_user = o->print_user;
    host->progress.enabled = o->show_progress;
    return PB_OK;
}

static void new_registry_table(lua_State *L, const void *key, const char *mode) {
    lua_newtable(L);
    if (mode) {
        lua_createtable(L, 0, 1);
        lua_pushstring(L, mode);
        lua_setfield(L, -2, "__mode");
        lua_setmetatable(L, -2);
    }
    lua_rawsetp(L, LUA_REGISTRYINDEX, key);
}

static int set_up(lua_State *L) {
    pb_host *host = pb_host_of(L);
    luaL_checkversion(L);
    new_registry_table(L, &PB_KEY_CLASSES, NULL);
    new_registry_table(L, &PB_KEY_LOADED, NULL);
    new_registry_table(L, &PB_KEY_ANCHORS, "v");
    lua_pushboolean(L, 0);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &PB_KEY_PENDING);
    if (host->gc_stress)
        lua_gc(L, LUA_GCINC, 1, 400, 4); /* start a cycle as soon as one ends, in small steps */
    pb_sandbox_open(L);
    pb_loader_open(L);
    lua_sethook(L, hook, LUA_MASKCOUNT, host->gc_stress ? STRESS_INSTRUCTIONS : HOOK_INSTRUCTIONS);
    return 0;
}

pb_status pb_host_create(pb_context *ctx, const pb_host_options *options, pb_host **out, pb_error *err) {
    pb_host *host = pb_alloc_zero(ctx, 1, sizeof *host);
    if (!host)
        return pb_fail_memory(err, ctx, sizeof *host, "a Lua state");
    host->ctx = pb_context_ref(ctx);
    pb_strbuf_init(&host->trace, ctx);
    pb_strbuf_init(&host->written, ctx);
    pb_status status = copy_options(host, options, err);
    if (status != PB_OK)
        goto fail;
    host->L = lua_newstate(allocate, host);
    if (!host->L) {
        status = pb_fail_memory(err, ctx, 32768, "a Lua state");
        goto fail;
    }
    memcpy(lua_getextraspace(host->L), &host, sizeof host);
    host->current = host->L;
    pb_progress_attach(host);
    status = pb_host_call(host, set_up, NULL, err);
    if (status != PB_OK)
        goto fail;
    *out = host;
    return PB_OK;
fail:
    pb_host_free(host);
    return status;
}

void pb_host_free(pb_host *host) {
    if (!host)
        return;
    host->hook_closed = true;
    if (host->L) {
        lua_close(host->L); /* needs the allocator to the end */
        pb_context_on_progress(host->ctx, NULL, NULL);
    }
    pb_context_discharge(host->ctx, host->lua_charged);
    pb_strbuf_free(&host->trace);
    pb_strbuf_free(&host->written);
    pb_free(host->recipe);
    pb_free(host->recipe_folder);
    pb_free(host->output);
    free_list(host->readable);
    free_list(host->params);
    pb_context *ctx = host->ctx;
    pb_free(host);
    pb_context_unref(ctx);
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

static void size_text(size_t bytes, char buffer[32]) {
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    int unit = 0;
    for (; value >= 1024 && unit < 4; unit++)
        value /= 1024;
    snprintf(buffer, 32, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
}

/* What a failed pcall left on the stack -> status and message. Runs outside protection: touches light things only. */
static pb_status report(pb_host *host, int lua_status, pb_error *err) {
    lua_State *L = host->L;
    if (host->killed)
        return pb_fail(err, PB_ERR_STOPPED, "stopped");
    if (lua_status == LUA_ERRMEM) {
        char limit[32], lua[32], rest[32];
        size_t used = pb_context_memory_used(host->ctx);
        size_text(pb_context_memory_limit(host->ctx), limit);
        size_text(host->lua_used, lua);
        size_text(used > host->lua_charged ? used - host->lua_charged : 0, rest);
        host->out_of_memory = true;
        return pb_fail(err, PB_ERR_MEMORY,
                       "out of memory: the recipe's Lua values and its tensors may hold %s together (--memory SIZE); "
                       "Lua holds %s, tensors and models %s",
                       limit, lua, rest);
    }
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "an error without a message";
    return pb_fail(err, PB_ERR_CALLBACK, "%s%s", text, host->trace.text ? host->trace.text : "");
}

typedef struct call {
    lua_CFunction body;
    void *user;
} call;

static int run_body(lua_State *L) {
    const call *c = lua_touserdata(L, 1);
    lua_settop(L, 0);
    lua_pushlightuserdata(L, c->user);
    return c->body(L);
}

/* The handler of the outermost call: the traceback, and the error as text. */
static int handle(lua_State *L) {
    pb_host_traceback(L);
    pb_host_error_text(L, 1);
    return 1;
}

pb_status pb_host_call(pb_host *host, lua_CFunction body, void *user, pb_error *err) {
    lua_State *L = host->L;
    call c = {body, user};
    pb_strbuf_clear(&host->trace);
    lua_pushcfunction(L, handle);
    lua_pushcfunction(L, run_body);
    lua_pushlightuserdata(L, &c);
    int lua_status = lua_pcall(L, 1, 0, -3);
    pb_progress_erase(host);
    pb_status status = lua_status == LUA_OK ? PB_OK : report(host, lua_status, err);
    lua_settop(L, 0);
    host->reserve_open = false;
    return status;
}

typedef struct script {
    const char *path; /* or: */
    const char *text;
    size_t length;
    const char *name;
} script;

static int run_script(lua_State *L) {
    const script *s = lua_touserdata(L, 1);
    if (s->path) {
        /* Lua cuts long names in messages: show the file's own name then. */
        const char *shown = strlen(s->path) < LUA_IDSIZE - 8 ? s->path : pb_path_name(s->path);
        pb_loader_load_file(L, s->path, lua_pushfstring(L, "@%s", shown));
    } else {
        pb_loader_load(L, s->text, s->length, lua_pushfstring(L, "@%s", s->name));
    }
    lua_call(L, 0, 0);
    return 0;
}

pb_status pb_host_run_file(pb_host *host, const char *path, pb_error *err) {
    script s = {path, NULL, 0, NULL};
    return pb_host_call(host, run_script, &s, err);
}

pb_status pb_host_run_text(pb_host *host, const char *text, size_t length, const char *name, pb_error *err) {
    script s = {NULL, text, length, name};
    return pb_host_call(host, run_script, &s, err);
}

pb_status pb_host_finish(pb_host *host, pb_error *err) {
    if (host->n_params && !host->params_taken)
        return pb_fail(err, PB_ERR_ARGUMENT,
                       "'%s' was given, but the recipe takes no parameters (it does not call pb.params)",
                       host->params[0]);
    return PB_OK;
}
