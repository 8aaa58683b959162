/* require, and putting `pb` together from the bindings in C and the host's own Lua files. */
#include <ctype.h>
#include <dirent.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/suggest.h"
#include "host/private.h"

enum { SCRIPT_BYTES = 16 << 20 };

/* ---- loading text ------------------------------------------------------------------------------------------------ */

void pb_loader_load(lua_State *L, const char *text, size_t length, const char *name) {
    if (length && text[0] == LUA_SIGNATURE[0])
        pb_lua_fail(L, "'%s' is Lua bytecode: recipes are text", name + 1);
    if (length && text[0] == '#') { /* "#!/usr/bin/env -S patchbay run": keep the newline, for line numbers */
        const char *newline = memchr(text, '\n', length);
        length = newline ? length - (size_t)(newline - text) : 0;
        text = newline ? newline : "";
    }
    if (luaL_loadbufferx(L, text, length, name, "t") != LUA_OK)
        lua_error(L);
    pb_sandbox_push_env(L);
    if (!lua_setupvalue(L, -2, 1))
        lua_pop(L, 1);
}

/* Push the contents of a file as a string. */
static const char *push_file(lua_State *L, const char *path, size_t *length) {
    pb_context *ctx = pb_host_context(L);
    pb_box *box = pb_box_new(L, &PB_MEMORY_CLASS, 0);
    char *text = NULL;
    PB_LUA(L, pb_file_read(ctx, path, SCRIPT_BYTES, &text, length, pb_lua_error(L)));
    box->object = text;
    lua_pushlstring(L, text, *length);
    box->object = NULL;
    pb_free(text);
    lua_remove(L, -2);
    return lua_tostring(L, -1);
}

void pb_loader_load_file(lua_State *L, const char *path, const char *name) {
    size_t length;
    const char *text = push_file(L, path, &length);
    pb_loader_load(L, text, length, name);
    lua_remove(L, -2);
}

static void release_block(void *object) { pb_free(object); }

const pb_class PB_MEMORY_CLASS = {.name = "memory", .release = release_block};

/* ---- require ----------------------------------------------------------------------------------------------------- */

/* "patchbay.trace" -> "trace": dots become folders. Raises for anything that is not a plain module name. */
static const char *push_relative(lua_State *L, const char *name, const char *part) {
    if (!*part || strlen(part) > 200)
        pb_lua_fail(L, "require: '%s' is no module name", name);
    for (const char *c = part; *c; c++) {
        bool dot = *c == '.' && c > part && c[1] && c[1] != '.' && c[-1] != '.';
        if (!isalnum((unsigned char)*c) && *c != '_' && *c != '-' && !dot)
            pb_lua_fail(L, "require: '%s' is no module name: letters, digits, '_' and '-', with '.' between folders",
                        name);
    }
    return luaL_gsub(L, part, ".", "/");
}

/* Does the file exist, inside the folder when links are resolved? */
static bool is_inside(const char *path, const char *folder) {
    char real[PATH_MAX], root[PATH_MAX];
    if (!pb_file_exists(path) || !realpath(path, real) || !realpath(folder, root))
        return false;
    size_t n = strlen(root);
    return strncmp(real, root, n) == 0 && (n == 1 || real[n] == '/');
}

static void offer_modules(lua_State *L, pb_suggestion *s) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &PB_KEY_CORE);
    lua_getfield(L, -1, "modules"); /* list of "patchbay.NAME", made by the prelude */
    for (lua_Integer i = 1; lua_istable(L, -1) && lua_rawgeti(L, -1, i) == LUA_TSTRING; i++) {
        pb_suggestion_offer(s, lua_tostring(L, -1));
        lua_pop(L, 1);
    }
}

/* Push the path and the chunk name of a module, or raise. */
static void find_module(lua_State *L, const char *name) {
    pb_host *host = pb_host_of(L);
    bool own = strncmp(name, "patchbay.", 9) == 0;
    const char *relative = push_relative(L, name, own ? name + 9 : name);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &PB_KEY_CORE);
    lua_getfield(L, -1, "scripts");
    const char *folder = own ? lua_tostring(L, -1) : host->recipe_folder;
    const char *path = lua_pushfstring(L, "%s/%s.lua", folder, relative);
    /* core/ and help/ are the host's own: they run without a sandbox's limits, or are no modules */
    bool reserved = own && (strncmp(relative, "core/", 5) == 0 || strncmp(relative, "help/", 5) == 0);
    if (!reserved && is_inside(path, folder)) {
        lua_pushfstring(L, own ? "@patchbay/%s.lua" : "@%s.lua", relative);
        return;
    }
    if (own) {
        pb_suggestion s;
        pb_suggestion_begin(&s, name);
        offer_modules(L, &s);
        if (s.best)
            pb_lua_fail(L, "require: there is no module '%s'; did you mean '%s'?", name, s.best);
        pb_lua_fail(L, "require: there is no module '%s' (patchbay help lists them)", name);
    }
    pb_lua_fail(L, "require: there is no module '%s': no file %s (Patchbay's own modules are named patchbay.NAME)",
                name, path);
}

/* patchbay.NAME, or a file beside the recipe. */
static bool is_own_module(lua_State *L, const char *name) {
    const char *relative = luaL_gsub(L, name, ".", "/");
    const char *path = lua_pushfstring(L, "%s/%s.lua", pb_host_of(L)->recipe_folder, relative);
    bool own = strncmp(name, "patchbay.", 9) == 0 || pb_file_exists(path);
    lua_pop(L, 2);
    return own;
}

int pb_loader_require(lua_State *L) {
    pb_check_arity(L, 1);
    const char *name = pb_check_text(L, 1, "name", NULL);
    if (strcmp(name, "patchbay") == 0) {
        lua_rawgetp(L, LUA_REGISTRYINDEX, &PB_KEY_PB);
        return 1;
    }
    lua_rawgetp(L, LUA_REGISTRYINDEX, &PB_KEY_LOADED);
    int loaded = lua_gettop(L);
    if (lua_getfield(L, loaded, name) != LUA_TNIL) {
        if (lua_islightuserdata(L, -1))
            pb_lua_fail(L, "require: '%s' requires itself, directly or through another module", name);
        return 1;
    }
    if (pb_host_of(L)->trust && !is_own_module(L, name)) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
        lua_getfield(L, -1, "require"); /* the standard one: package.path, package.cpath */
        lua_pushvalue(L, 1);
        lua_call(L, 1, 1);
        return 1;
    }
    find_module(L, name); /* ..., path, chunk name */
    lua_pushlightuserdata(L, (void *)&PB_KEY_LOADED);
    lua_setfield(L, loaded, name);
    pb_loader_load_file(L, lua_tostring(L, -2), lua_tostring(L, -1));
    lua_pushvalue(L, 1);
    lua_pushcfunction(L, pb_host_traceback);
    lua_insert(L, -3);
    if (lua_pcall(L, 1, 1, -3) != LUA_OK) { /* not half loaded: the next require runs it again */
        lua_pushnil(L);
        lua_setfield(L, loaded, name);
        pb_host_of(L)->keep_trace = true;
        return lua_error(L);
    }
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        lua_pushboolean(L, 1);
    }
    lua_pushvalue(L, -1);
    lua_setfield(L, loaded, name);
    return 1;
}

/* ---- pb ---------------------------------------------------------------------------------------------------------- */

void pb_add_functions(lua_State *L, const char *table, const luaL_Reg *functions) {
    int pb = lua_gettop(L);
    if (*table) {
        if (lua_getfield(L, pb, table) != LUA_TTABLE) {
            lua_pop(L, 1);
            lua_newtable(L);
            lua_pushvalue(L, -1);
            lua_setfield(L, pb, table);
        }
    }
    for (; functions->name; functions++) {
        lua_pushcfunction(L, functions->func);
        lua_setfield(L, -2, functions->name);
    }
    lua_settop(L, pb);
}

/* core.raise(message): an error with the line of the recipe. */
static int core_raise(lua_State *L) { pb_lua_fail(L, "%s", luaL_checkstring(L, 1)); }

/* core.suggest(word, list) -> the nearest name, or nil. */
static int core_suggest(lua_State *L) {
    pb_suggestion s;
    pb_suggestion_begin(&s, luaL_checkstring(L, 1));
    luaL_checktype(L, 2, LUA_TTABLE);
    for (lua_Integer i = 1; lua_rawgeti(L, 2, i) == LUA_TSTRING; i++) {
        pb_suggestion_offer(&s, lua_tostring(L, -1));
        lua_pop(L, 1);
    }
    lua_pushstring(L, s.best);
    return 1;
}

/* core.fields(table, { names }, positional, function's name): raise at an unknown field. */
static int core_fields(lua_State *L) {
    const char *function = luaL_optstring(L, 4, "this function");
    lua_Integer positional = luaL_optinteger(L, 3, 0);
    luaL_checktype(L, 2, LUA_TTABLE);
    if (lua_type(L, 1) != LUA_TTABLE)
        pb_lua_fail(L, "%s takes a table of named arguments, got %s", function, pb_describe(L, 1));
    lua_pushnil(L);
    while (lua_next(L, 1)) {
        lua_pop(L, 1);
        if (lua_isinteger(L, -1) && lua_tointeger(L, -1) >= 1 && lua_tointeger(L, -1) <= positional)
            continue;
        bool known = false;
        int key = lua_gettop(L);
        for (lua_Integer i = 1; !known && lua_rawgeti(L, 2, i) != LUA_TNIL; i++) {
            known = lua_rawequal(L, -1, key);
            lua_pop(L, 1);
        }
        lua_settop(L, key);
        if (known)
            continue;
        if (lua_type(L, key) != LUA_TSTRING)
            pb_lua_fail(L, "%s: the table of arguments has %s as a key", function, pb_describe(L, key));
        pb_suggestion s;
        pb_suggestion_begin(&s, lua_tostring(L, key));
        const char *list = "";
        for (lua_Integer i = 1; lua_rawgeti(L, 2, i) == LUA_TSTRING; i++) {
            pb_suggestion_offer(&s, lua_tostring(L, -1));
            list = lua_pushfstring(L, "%s%s'%s'", list, i == 1 ? "" : ", ", lua_tostring(L, -1));
            luaL_checkstack(L, 8, "listing fields");
        }
        if (s.best)
            pb_lua_fail(L, "%s: unknown field '%s'; did you mean '%s'?", function, s.word, s.best);
        pb_lua_fail(L, "%s: unknown field '%s'; known are %s", function, s.word, list);
    }
    return 0;
}

/* core.where(): "recipe.lua:7: " of the visible caller. core.unseal(proxy): the table behind it. core.write_path and
 * core.wrote, core.read_path: see host.h. core.describe(value). */
static int core_where(lua_State *L) {
    pb_host_where(L, 1);
    return 1;
}

static int core_describe(lua_State *L) {
    luaL_checkany(L, 1);
    pb_describe(L, 1);
    return 1;
}

static int core_write_path(lua_State *L) {
    pb_host_output_path(L, pb_check_text(L, 1, "name", NULL));
    return 1;
}

static int core_wrote(lua_State *L) {
    pb_host_wrote(L, luaL_checkstring(L, 1));
    return 0;
}

static int core_read_path(lua_State *L) {
    pb_host_input_path(L, pb_check_text(L, 1, "name", NULL));
    return 1;
}

/* core.print(text): raw text to where print() goes, without a newline. */
static int core_print(lua_State *L) {
    pb_host *host = pb_host_of(L);
    size_t length;
    const char *text = luaL_checklstring(L, 1, &length);
    pb_progress_erase(host);
    if (host->print)
        host->print(host->print_user, text, length);
    else if (fwrite(text, 1, length, stdout) != length)
        pb_lua_fail(L, "cannot write to standard output");
    return 0;
}

/* core.take_params(): the "key=value" texts of the command line. core.params_taken(): have they been taken before? */
static int core_take_params(lua_State *L) {
    pb_host *host = pb_host_of(L);
    lua_createtable(L, (int)host->n_params, 0);
    for (size_t i = 0; i < host->n_params; i++) {
        lua_pushstring(L, host->params[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_pushboolean(L, host->params_taken);
    host->params_taken = true;
    return 2;
}

/* core.seal(table, name): see pb_lua_seal. */
static int core_seal(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    const char *name = luaL_checkstring(L, 2);
    lua_pushvalue(L, 1);
    pb_lua_seal(L, name);
    return 1;
}

/* core.load(path inside the scripts folder): the chunk, with an environment of its own. */
static int core_load(lua_State *L) {
    const char *relative = luaL_checkstring(L, 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &PB_KEY_CORE);
    lua_getfield(L, -1, "scripts");
    const char *path = lua_pushfstring(L, "%s/%s", lua_tostring(L, -1), relative);
    pb_loader_load_file(L, path, lua_pushfstring(L, "@patchbay/%s", relative));
    return 1;
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* core.list(folder inside the scripts folder): names of its .lua files without the ending, sorted; "" for that itself. */
static int core_list(lua_State *L) {
    const char *relative = luaL_checkstring(L, 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &PB_KEY_CORE);
    lua_getfield(L, -1, "scripts");
    const char *path = lua_pushfstring(L, "%s/%s", lua_tostring(L, -1), relative);
    enum { MOST = 256, LONGEST = 64 };
    char(*names)[LONGEST] = pb_lua_scratch(L, MOST, LONGEST);
    const char **sorted = pb_lua_scratch(L, MOST, sizeof *sorted);
    size_t n = 0;
    DIR *folder = opendir(path);
    for (struct dirent *entry; folder && n < MOST && (entry = readdir(folder));) {
        size_t length = strlen(entry->d_name);
        if (length <= 4 || length >= LONGEST || strcmp(entry->d_name + length - 4, ".lua") != 0 ||
            entry->d_name[0] == '.')
            continue;
        memcpy(names[n], entry->d_name, length - 4);
        sorted[n] = names[n];
        n++;
    }
    if (folder)
        closedir(folder);
    qsort(sorted, n, sizeof *sorted, compare_names);
    lua_createtable(L, (int)n, 0);
    for (size_t i = 0; i < n; i++) {
        lua_pushstring(L, sorted[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

/* [pb]: make the table that core files get, with the method tables of all classes. */
static void push_core(lua_State *L, const char *scripts) {
    static const luaL_Reg functions[] = {{"raise", core_raise},       {"suggest", core_suggest},
                                         {"fields", core_fields},     {"where", core_where},
                                         {"describe", core_describe}, {"write_path", core_write_path},
                                         {"wrote", core_wrote},       {"read_path", core_read_path},
                                         {"print", core_print},       {"take_params", core_take_params},
                                         {"seal", core_seal},         {"load", core_load},
                                         {"list", core_list},         {NULL, NULL}};
    luaL_newlib(L, functions);
    luaL_setfuncs(L, PB_CORE_IO, 0);
    if (pb_host_of(L)->testing)
        luaL_setfuncs(L, PB_CORE_TESTING, 0);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &PB_KEY_LOADED);
    lua_setfield(L, -2, "loaded"); /* modules by name: a core file may be one */
    lua_pushstring(L, scripts);
    lua_setfield(L, -2, "scripts");
    lua_pushlightuserdata(L, NULL);
    lua_setfield(L, -2, "null");
    lua_newtable(L);
    lua_newtable(L);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &PB_KEY_CLASSES);
    lua_pushnil(L);
    while (lua_next(L, -2)) { /* core, methods, properties, classes, name, class */
        const pb_class *class = lua_touserdata(L, -1);
        pb_class_push_methods(L, class);
        lua_setfield(L, -6, class->name);
        pb_class_push_properties(L, class);
        lua_setfield(L, -5, class->name);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    lua_setfield(L, -3, "properties");
    lua_setfield(L, -2, "methods");
}

/* Run scripts/patchbay/core/NAME.lua with (pb, core). */
static void run_core_file(lua_State *L, const char *scripts, const char *name, int pb, int core) {
    int top = lua_gettop(L);
    const char *path = lua_pushfstring(L, "%s/core/%s.lua", scripts, name);
    size_t length;
    const char *text = push_file(L, path, &length);
    /* "=": the name is shown as it is; trace.c hides the frames of files that begin like this */
    pb_loader_load(L, text, length, lua_pushfstring(L, "=patchbay core/%s.lua", name));
    lua_pushvalue(L, pb);
    lua_pushvalue(L, core);
    lua_call(L, 2, 0);
    lua_settop(L, top);
}

static void seal_parts(lua_State *L, int pb) {
    lua_newtable(L); /* names first: the table changes while we replace its values */
    int names = lua_gettop(L);
    lua_pushnil(L);
    while (lua_next(L, pb)) {
        if (lua_istable(L, -1) && lua_type(L, -2) == LUA_TSTRING) {
            lua_pushvalue(L, -2);
            lua_rawseti(L, names, (lua_Integer)lua_rawlen(L, names) + 1);
        }
        lua_pop(L, 1);
    }
    for (lua_Integer i = 1; lua_rawgeti(L, names, i) == LUA_TSTRING; i++) {
        const char *name = lua_tostring(L, -1);
        const char *full = lua_pushfstring(L, "pb.%s", name);
        lua_getfield(L, pb, name);
        pb_lua_seal(L, full);
        lua_setfield(L, pb, name);
        lua_settop(L, names);
    }
    lua_settop(L, names - 1);
}

void pb_loader_open(lua_State *L) {
    pb_host *host = pb_host_of(L);
    pb_class_open(L, &PB_MEMORY_CLASS);
    pb_class_open(L, &PB_STRBUF_CLASS);
    pb_class_open(L, &PB_JSON_CLASS);
    pb_class_open(L, &PB_SAFETENSORS_CLASS);
    pb_class_open(L, &PB_TORCH_CLASS);
    pb_class_open(L, &PB_NESTED_CLASS);
    const char *scripts = pb_path_push_scripts(L);
    lua_newtable(L);
    int pb = lua_gettop(L);
    lua_pushinteger(L, (lua_Integer)host->seed);
    lua_setfield(L, pb, "seed");
    for (size_t i = 0; PB_BINDINGS[i]; i++) {
        PB_BINDINGS[i](L);
        lua_settop(L, pb);
    }
    push_core(L, scripts);
    int core = lua_gettop(L);
    lua_pushvalue(L, core);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &PB_KEY_CORE);
    for (size_t i = 0; PB_CORE_FILES[i]; i++)
        run_core_file(L, scripts, PB_CORE_FILES[i], pb, core);
    lua_settop(L, core);
    seal_parts(L, pb);
    lua_pushvalue(L, pb);
    pb_lua_seal(L, "pb");
    lua_rawsetp(L, LUA_REGISTRYINDEX, &PB_KEY_PB);
    lua_settop(L, 0);
}
