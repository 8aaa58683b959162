/* The sandbox: what a recipe finds in its environment, and what the standard functions do differently there.
 *
 * A guard rail, not a wall: it keeps a recipe from a stranger away from files, processes and endless loops by accident
 * or by simple intent. Whoever runs hostile programs needs a process with rlimits or a virtual machine around it.
 *
 * Allow-list: what is not named in a table below does not exist. Every script (recipe, module) has its own _ENV with
 * its own copies of the library tables, so that no script changes another's, and reading an undefined global raises. */
#include <string.h>

#include "base/suggest.h"
#include "host/private.h"

static const char *const BASE[] = {"assert", "error",  "ipairs",   "next",     "pairs", "rawequal", "rawget", "rawlen",
                                   "rawset", "select", "tonumber", "tostring", "type",  "_VERSION", NULL};
static const char *const TABLE[] = {"concat", "pack", "sort", "unpack", NULL}; /* insert, move, remove: below */
static const char *const STRING[] = {
    "byte",    "char", "format", "len",   "lower", "pack", "packsize",
    "reverse", "sub",  "unpack", "upper", NULL}; /* rep: below; find, gmatch, gsub, match: pattern.c; no dump: it makes bytecode */
static const char *const OS[] = {"clock", "date", "difftime", "time", NULL};
/* Known names that are left out: their absence is explained. */
static const char *const WITHHELD[] = {"io",         "debug",   "package", "dofile", "loadfile",
                                       "loadstring", "setfenv", "getfenv", NULL};

/* ---- base functions ---------------------------------------------------------------------------------------------- */

/* After an error was caught: is it one that may be caught? */
static void let_kill_through(lua_State *L, int status) {
    pb_host *host = pb_host_of(L);
    if (host->killed) {
        lua_settop(L, 0);
        lua_pushliteral(L, "stopped");
        lua_error(L);
    }
    if (status == LUA_ERRMEM)
        host->out_of_memory = host->caught_out_of_memory = true;
    host->reserve_open = host->keep_trace = false;
    host->place.variant = host->place.patch = 0;
}

static int after_pcall(lua_State *L, int status, lua_KContext skipped) {
    if (status != LUA_OK && status != LUA_YIELD) {
        let_kill_through(L, status);
        lua_pushboolean(L, 0);
        lua_insert(L, -2);
        return 2;
    }
    return lua_gettop(L) - (int)skipped;
}

static int safe_pcall(lua_State *L) {
    luaL_checkany(L, 1);
    lua_pushboolean(L, 1);
    lua_insert(L, 1); /* true, function, arguments */
    return after_pcall(L, lua_pcallk(L, lua_gettop(L) - 2, LUA_MULTRET, 0, 0, after_pcall), 0);
}

/* A script's handler runs with hooks off when the hook raised: it is not called then. */
static int guarded_handler(lua_State *L) {
    if (pb_host_of(L)->killed)
        return 1;
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, 1);
    return 1;
}

static int safe_xpcall(lua_State *L) {
    luaL_checktype(L, 2, LUA_TFUNCTION);
    int n = lua_gettop(L);
    lua_pushvalue(L, 2);
    lua_pushcclosure(L, guarded_handler, 1);
    lua_replace(L, 2); /* f, handler, arguments */
    lua_pushboolean(L, 1);
    lua_pushvalue(L, 1);
    lua_rotate(L, 3, 2); /* f, handler, true, f, arguments */
    return after_pcall(L, lua_pcallk(L, n - 2, LUA_MULTRET, 2, 2, after_pcall), 2);
}

static int safe_setmetatable(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    int type = lua_type(L, 2);
    luaL_argexpected(L, type == LUA_TNIL || type == LUA_TTABLE, 2, "nil or table");
    if (type == LUA_TTABLE) {
        lua_pushliteral(L, "__gc");
        if (lua_rawget(L, 2) != LUA_TNIL)
            pb_lua_fail(L, "__gc is not for recipes: a finaliser would run outside every limit (use a <close> variable "
                           "and __close)");
    }
    if (luaL_getmetafield(L, 1, "__metatable") != LUA_TNIL)
        return luaL_error(L, "cannot change a protected metatable");
    lua_settop(L, 2);
    lua_setmetatable(L, 1);
    return 1;
}

static int safe_getmetatable(lua_State *L) {
    luaL_checkany(L, 1);
    if (!lua_getmetatable(L, 1))
        return lua_pushnil(L), 1;
    luaL_getmetafield(L, 1, "__metatable"); /* pushes nothing if absent: the metatable is on top then */
    return 1;
}

static int safe_collectgarbage(lua_State *L) {
    static const char *const options[] = {"collect", "count", "step", NULL};
    const char *option = luaL_optstring(L, 1, "collect");
    for (int i = 0; options[i]; i++) {
        if (strcmp(option, options[i]) != 0)
            continue;
        if (i == 1)
            lua_pushnumber(L, (lua_Number)pb_host_of(L)->lua_used / 1024);
        else
            lua_pushinteger(L, lua_gc(L, LUA_GCCOLLECT));
        return 1;
    }
    pb_lua_fail(
        L,
        "collectgarbage takes \"collect\" and \"count\" in a recipe, got '%s': the collector is not a recipe's to stop",
        option);
}

/* load(chunk, name, mode, env): text only; without env, the environment of the script with this `load` (upvalue 1). */
static int safe_load(lua_State *L) {
    bool has_env = !lua_isnone(L, 4);
    const char *mode = luaL_optstring(L, 3, "t");
    if (!strchr(mode, 't'))
        pb_lua_fail(L, "load reads text only in a recipe: bytecode can crash the program (mode '%s')", mode);
    size_t length;
    const char *text;
    lua_settop(L, 4);
    if (lua_type(L, 1) == LUA_TSTRING) {
        text = lua_tolstring(L, 1, &length);
    } else {
        luaL_checktype(L, 1, LUA_TFUNCTION);
        luaL_Buffer buffer; /* pieces of a reader function, joined; the buffer keeps its own place on the stack */
        luaL_buffinit(L, &buffer);
        for (;;) {
            lua_pushvalue(L, 1);
            lua_call(L, 0, 1);
            if (lua_isnil(L, -1))
                break;
            if (lua_type(L, -1) != LUA_TSTRING)
                return luaL_error(L, "reader function must return a string");
            if (lua_rawlen(L, -1) == 0)
                break;
            luaL_addvalue(&buffer);
        }
        lua_pop(L, 1);
        luaL_pushresult(&buffer);
        text = lua_tolstring(L, -1, &length);
    }
    const char *name = luaL_optstring(L, 2, lua_type(L, 1) == LUA_TSTRING ? text : "=(load)");
    if (luaL_loadbufferx(L, text, length, name, "t") != LUA_OK) {
        lua_pushnil(L);
        lua_insert(L, -2);
        return 2;
    }
    lua_pushvalue(L, has_env ? 4 : lua_upvalueindex(1));
    if (!lua_setupvalue(L, -2, 1))
        lua_pop(L, 1);
    return 1;
}

static int to_print(lua_State *L) {
    pb_host *host = pb_host_of(L);
    pb_progress_erase(host);
    int n = lua_gettop(L);
    luaL_Buffer buffer;
    luaL_buffinit(L, &buffer);
    for (int i = 1; i <= n; i++) {
        if (i > 1)
            luaL_addchar(&buffer, '\t');
        luaL_tolstring(L, i, NULL);
        luaL_addvalue(&buffer);
    }
    luaL_addchar(&buffer, '\n');
    luaL_pushresult(&buffer);
    size_t length;
    const char *text = lua_tolstring(L, -1, &length);
    if (host->print)
        host->print(host->print_user, text, length);
    else if (fwrite(text, 1, length, stdout) != length)
        pb_lua_fail(L, "cannot write to standard output");
    return 0;
}

static int to_warn(lua_State *L) {
    int n = lua_gettop(L);
    for (int i = 1; i <= n; i++)
        luaL_checkstring(L, i);
    lua_concat(L, n);
    const char *text = lua_tostring(L, -1);
    if (text && text[0] != '@') /* "@on", "@off": control messages of stand-alone Lua */
        pb_context_warn(pb_host_context(L), "%s", text);
    return 0;
}

/* ---- library functions that could run for ever ------------------------------------------------------------------- */

/* A C function on a huge range is out of the hook's reach: table functions refuse lengths that no real table has. */
enum { LONGEST_TABLE = 1 << 27 };

/* Calls the standard function in upvalue 1 after a check of the length of argument 1. */
static int with_sane_length(lua_State *L) {
    luaL_checkany(L, 1);
    if (luaL_len(L, 1) > LONGEST_TABLE)
        return luaL_error(L, "the table says that it is longer than %d", LONGEST_TABLE);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    return lua_gettop(L);
}

static int sane_move(lua_State *L) {
    lua_Integer first = luaL_checkinteger(L, 2), last = luaL_checkinteger(L, 3);
    if (last >= first && ((lua_Unsigned)last - (lua_Unsigned)first) > LONGEST_TABLE)
        return luaL_error(L, "table.move of more than %d elements", LONGEST_TABLE);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    return lua_gettop(L);
}

static int sane_rep(lua_State *L) {
    size_t length, separator;
    luaL_checklstring(L, 1, &length);
    luaL_optlstring(L, 3, "", &separator);
    if (length + separator == 0) {
        lua_pushliteral(L, "");
        return 1;
    }
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, 1);
    return 1;
}

static int seeded_only(lua_State *L) {
    if (lua_isnone(L, 1))
        pb_lua_fail(
            L,
            "math.randomseed needs a number: a recipe's results must not depend on the clock (the recipe starts with "
            "math.randomseed(pb.seed))");
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    return lua_gettop(L);
}

/* ---- putting it together ----------------------------------------------------------------------------------------- */

/* [from, to]: copy the named fields. */
static void copy_named(lua_State *L, int from, int to, const char *const *names) {
    for (; *names; names++) {
        lua_getfield(L, from, *names);
        lua_setfield(L, to, *names);
    }
}

static void copy_every(lua_State *L, int from, int to) {
    lua_pushnil(L);
    while (lua_next(L, from)) {
        lua_pushvalue(L, -2);
        lua_insert(L, -2);
        lua_rawset(L, to);
    }
}

static void wrap(lua_State *L, int from, int to, const char *name, lua_CFunction fn) {
    lua_getfield(L, from, name);
    lua_pushcclosure(L, fn, 1);
    lua_setfield(L, to, name);
}

/* Open a standard library without making it global; pushes it. */
static int open_library(lua_State *L, const char *name, lua_CFunction open) {
    luaL_requiref(L, name, open, 0);
    return lua_gettop(L);
}

static void open_string(lua_State *L, int libraries) {
    int from = open_library(L, LUA_STRLIBNAME, luaopen_string);
    lua_newtable(L);
    int to = lua_gettop(L);
    copy_named(L, from, to, STRING);
    wrap(L, from, to, "rep", sane_rep);
    pb_sandbox_patterns(L, to);
    lua_pushvalue(L, to);
    lua_setfield(L, libraries, "string");
    /* ("x"):upper() goes through the metatable of strings: a copy that no script can reach */
    lua_pushliteral(L, "");
    lua_getmetatable(L, -1);
    lua_newtable(L);
    copy_every(L, to, lua_gettop(L));
    lua_setfield(L, -2, "__index");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_settop(L, from - 1);
}

static void open_table(lua_State *L, int libraries) {
    int from = open_library(L, LUA_TABLIBNAME, luaopen_table);
    lua_newtable(L);
    int to = lua_gettop(L);
    copy_named(L, from, to, TABLE);
    wrap(L, from, to, "insert", with_sane_length);
    wrap(L, from, to, "remove", with_sane_length);
    wrap(L, from, to, "move", sane_move);
    lua_setfield(L, libraries, "table");
    lua_settop(L, from - 1);
}

static void open_math(lua_State *L, int libraries) {
    int from = open_library(L, LUA_MATHLIBNAME, luaopen_math);
    lua_getfield(L, from, "randomseed");
    lua_pushinteger(L, (lua_Integer)pb_host_of(L)->seed);
    lua_call(L, 1, 0);
    lua_newtable(L);
    int to = lua_gettop(L);
    copy_every(L, from, to);
    wrap(L, from, to, "randomseed", seeded_only);
    lua_setfield(L, libraries, "math");
    lua_settop(L, from - 1);
}

static void open_os(lua_State *L, int libraries) {
    int from = open_library(L, LUA_OSLIBNAME, luaopen_os);
    lua_newtable(L);
    int to = lua_gettop(L);
    if (pb_host_of(L)->trust)
        copy_every(L, from, to);
    else
        copy_named(L, from, to, OS);
    lua_setfield(L, libraries, "os");
    lua_settop(L, from - 1);
}

static void open_trusted(lua_State *L, int base, int libraries, int full) {
    static const luaL_Reg more[] = {
        {LUA_IOLIBNAME, luaopen_io}, {LUA_DBLIBNAME, luaopen_debug}, {LUA_LOADLIBNAME, luaopen_package}, {NULL, NULL}};
    static const char *const lifted[] = {"dofile", "loadfile", "setmetatable", "collectgarbage", NULL};
    for (const luaL_Reg *library = more; library->name; library++) {
        open_library(L, library->name, library->func);
        lua_setfield(L, libraries, library->name);
    }
    copy_named(L, full, base, lifted);
}

void pb_sandbox_open(lua_State *L) {
    static const luaL_Reg replaced[] = {{"pcall", safe_pcall},
                                        {"xpcall", safe_xpcall},
                                        {"setmetatable", safe_setmetatable},
                                        {"getmetatable", safe_getmetatable},
                                        {"collectgarbage", safe_collectgarbage},
                                        {"print", to_print},
                                        {"warn", to_warn},
                                        {NULL, NULL}};
    int full = open_library(L, LUA_GNAME, luaopen_base);
    lua_newtable(L);
    int base = lua_gettop(L);
    lua_newtable(L);
    int libraries = lua_gettop(L);
    copy_named(L, full, base, BASE);
    lua_pushvalue(L, base);
    luaL_setfuncs(L, replaced, 0);
    lua_pop(L, 1);
    pb_sandbox_coroutine(L);
    lua_setfield(L, libraries, "coroutine");
    open_library(L, LUA_UTF8LIBNAME, luaopen_utf8);
    lua_setfield(L, libraries, "utf8");
    open_string(L, libraries);
    open_table(L, libraries);
    open_math(L, libraries);
    open_os(L, libraries);
    if (pb_host_of(L)->trust)
        open_trusted(L, base, libraries, full);
    lua_pushvalue(L, base);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &PB_KEY_BASE);
    lua_pushvalue(L, libraries);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &PB_KEY_LIBRARIES);
    lua_settop(L, full - 1);
}

/* __index of an environment. */
static int undefined_global(lua_State *L) {
    if (lua_type(L, 2) != LUA_TSTRING)
        return lua_pushnil(L), 1;
    const char *name = lua_tostring(L, 2);
    for (int i = 0; WITHHELD[i]; i++)
        if (strcmp(WITHHELD[i], name) == 0)
            pb_lua_fail(L,
                        "'%s' is not there: recipes read and write files with pb.read and pb.write, and load code with "
                        "require (run "
                        "with --trust to lift the sandbox)",
                        name);
    pb_suggestion s;
    pb_suggestion_begin(&s, name);
    lua_pushnil(L);
    while (lua_next(L, 1)) {
        lua_pop(L, 1);
        if (lua_type(L, -1) == LUA_TSTRING)
            pb_suggestion_offer(&s, lua_tostring(L, -1));
    }
    if (s.best)
        pb_lua_fail(L, "the variable '%s' is not defined; did you mean '%s'?", name, s.best);
    pb_lua_fail(L, "the variable '%s' is not defined%s", name,
                strcmp(name, "pb") == 0 ? ": begin with  local pb = require \"patchbay\"" : "");
}

void pb_sandbox_push_env(lua_State *L) {
    luaL_checkstack(L, 10, "a script's environment");
    lua_newtable(L);
    int env = lua_gettop(L);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &PB_KEY_BASE);
    copy_every(L, env + 1, env);
    lua_settop(L, env);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &PB_KEY_LIBRARIES);
    lua_pushnil(L);
    while (lua_next(L, env + 1)) { /* ..., name, library */
        lua_newtable(L);
        copy_every(L, lua_gettop(L) - 1, lua_gettop(L));
        lua_setfield(L, env, lua_tostring(L, -3));
        lua_pop(L, 1);
    }
    lua_settop(L, env);
    lua_pushvalue(L, env);
    lua_pushcclosure(L, safe_load, 1);
    lua_setfield(L, env, "load");
    lua_pushcfunction(L, pb_loader_require);
    lua_setfield(L, env, "require");
    lua_pushvalue(L, env);
    lua_setfield(L, env, "_G");
    lua_createtable(L, 0, 2);
    lua_pushcfunction(L, undefined_global);
    lua_setfield(L, -2, "__index");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_setmetatable(L, env);
}

/* ---- sealed tables ----------------------------------------------------------------------------------------------- */

/* Upvalues of both: the real table, its name. */
static int sealed_index(lua_State *L) {
    lua_pushvalue(L, 2);
    if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL)
        return 1;
    const char *table = lua_tostring(L, lua_upvalueindex(2));
    if (lua_type(L, 2) != LUA_TSTRING)
        pb_lua_fail(L, "%s has no field with %s as its name", table, pb_describe(L, 2));
    pb_suggestion s;
    pb_suggestion_begin(&s, lua_tostring(L, 2));
    lua_pushnil(L);
    while (lua_next(L, lua_upvalueindex(1))) {
        lua_pop(L, 1);
        if (lua_type(L, -1) == LUA_TSTRING)
            pb_suggestion_offer(&s, lua_tostring(L, -1));
    }
    if (s.best)
        pb_lua_fail(L, "%s.%s does not exist; did you mean '%s.%s'?", table, s.word, table, s.best);
    pb_lua_fail(L, "%s.%s does not exist (patchbay help lists what does)", table, s.word);
}

static int sealed_newindex(lua_State *L) {
    pb_lua_fail(L, "%s cannot be changed (assignment to %s)", lua_tostring(L, lua_upvalueindex(2)), pb_describe(L, 2));
}

static int sealed_next(lua_State *L) {
    lua_settop(L, 2);
    if (lua_next(L, lua_upvalueindex(1)))
        return 2;
    lua_pushnil(L);
    return 1;
}

static int sealed_pairs(lua_State *L) {
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_pushcclosure(L, sealed_next, 1);
    lua_pushnil(L);
    lua_pushnil(L);
    return 3;
}

static void sealed_closure(lua_State *L, int real, const char *name, lua_CFunction fn, const char *event) {
    lua_pushvalue(L, real);
    lua_pushstring(L, name);
    lua_pushcclosure(L, fn, 2);
    lua_setfield(L, -2, event);
}

static const char SEALED = 0;

void pb_lua_seal(lua_State *L, const char *name) {
    int real = lua_gettop(L);
    lua_newtable(L);
    lua_createtable(L, 0, 6);
    sealed_closure(L, real, name, sealed_index, "__index");
    sealed_closure(L, real, name, sealed_newindex, "__newindex");
    sealed_closure(L, real, name, sealed_pairs, "__pairs");
    lua_pushstring(L, name);
    lua_setfield(L, -2, "__metatable");
    lua_pushstring(L, name);
    lua_setfield(L, -2, "__name");
    if (lua_getmetatable(L, real)) { /* a table that can be called stays so */
        if (lua_getfield(L, -1, "__call") != LUA_TNIL)
            lua_setfield(L, -3, "__call");
        else
            lua_pop(L, 1);
        lua_pop(L, 1);
    }
    lua_pushvalue(L, real);
    lua_rawsetp(L, -2, &SEALED);
    lua_setmetatable(L, -2);
    lua_remove(L, real);
}

void pb_sandbox_unseal(lua_State *L, int index) {
    if (lua_type(L, index) != LUA_TTABLE || !lua_getmetatable(L, index)) {
        lua_pushnil(L);
        return;
    }
    lua_rawgetp(L, -1, &SEALED);
    lua_remove(L, -2);
}
