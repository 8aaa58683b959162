/* Where things are: the Lua files of the host, models, and the files that a recipe may read and write. */
#include <dirent.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/suggest.h"
#include "host/private.h"
#include "patchbay/hub.h"
#include "patchbay/model.h"

#ifndef PATCHBAY_SHARE
#define PATCHBAY_SHARE "/usr/local/share/patchbay" /* where `make install` puts things by default */
#endif

/* ---- the program's own folders ----------------------------------------------------------------------------------- */

/* The folder of the executable, "" if the system does not say. */
static void executable_folder(char *buffer, size_t size) {
    ssize_t n = readlink("/proc/self/exe", buffer, size - 1);
    buffer[n > 0 ? (size_t)n : 0] = '\0';
    char *slash = strrchr(buffer, '/');
    if (slash)
        *slash = '\0';
}

/* base/relative into out, if there is a base/relative/probe. */
static bool try_place(char out[PATH_MAX], const char *base, const char *relative, const char *probe) {
    char marker[PATH_MAX];
    int n = snprintf(out, PATH_MAX, "%s/%s", base, relative);
    int m = snprintf(marker, sizeof marker, "%s/%s/%s", base, relative, probe);
    return n > 0 && n < PATH_MAX && m > 0 && m < PATH_MAX && access(marker, R_OK) == 0;
}

/* A folder of the program, relative to the executable: installed, then a source tree with the build folder in it
 * (build/, build/asan/), then the installation prefix, then a source tree that is the current folder. */
static bool own_folder(char out[PATH_MAX], const char *installed, const char *source, const char *probe) {
    char exe[PATH_MAX / 2], base[PATH_MAX];
    executable_folder(exe, sizeof exe);
    static const char *const above[] = {"../share/patchbay", "..", "../.."};
    for (int i = 0; exe[0] && i < 3; i++) {
        snprintf(base, sizeof base, "%s/%s", exe, above[i]);
        if (try_place(out, base, i == 0 ? installed : source, probe))
            return true;
    }
    return try_place(out, PATCHBAY_SHARE, installed, probe) || try_place(out, ".", source, probe);
}

const char *pb_path_push_scripts(lua_State *L) {
    char path[PATH_MAX];
    const char *wish = getenv("PATCHBAY_SCRIPTS");
    if (wish && *wish)
        return lua_pushstring(L, wish);
    if (!own_folder(path, "scripts", "scripts/patchbay", "core/prelude.lua"))
        pb_lua_fail(L, "the program's Lua files (share/patchbay/scripts) are not beside it: reinstall it, or set "
                       "PATCHBAY_SCRIPTS to the folder scripts/patchbay of the source tree");
    return lua_pushstring(L, path);
}

/* ---- models ------------------------------------------------------------------------------------------------------ */

/* Push the path if there is a model at folder/name. */
static bool push_if_model(lua_State *L, const char *folder, const char *name) {
    bool alone = !folder || strcmp(folder, ".") == 0 || name[0] == '/';
    const char *path = alone ? lua_pushstring(L, name) : lua_pushfstring(L, "%s/%s", folder, name);
    bool there = pb_model_is_at(path);
    if (!there)
        lua_pop(L, 1);
    return there;
}

/* Push a list of the folders with built-in models. */
static void push_model_folders(lua_State *L) {
    lua_newtable(L);
    int list = lua_gettop(L);
    lua_Integer n = 0;
    const char *wish = getenv("PATCHBAY_MODELS");
    while (wish && *wish) {
        size_t length = strcspn(wish, ":");
        if (length) {
            lua_pushlstring(L, wish, length);
            lua_rawseti(L, list, ++n);
        }
        wish += length + (wish[length] == ':');
    }
    char own[PATH_MAX];
    if (own_folder(own, "models", "examples/models", ".")) {
        lua_pushstring(L, own);
        lua_rawseti(L, list, ++n);
    }
}

/* The folder of a model in the local hub cache into path; *found: how that went (this fails only for want of memory).
 * *known: the cache has something of that model. */
static pb_status find_in_hub(pb_context *ctx, const char *id, char path[PATH_MAX], bool *known, pb_status *found,
                             pb_error *err) {
    pb_hub *hub = NULL;
    char *folder = NULL;
    *known = false;
    pb_status status = pb_hub_create(ctx, NULL, &hub, err);
    if (status == PB_OK) {
        *known = pb_hub_has(hub, id);
        status = pb_hub_find(hub, id, &folder, err);
    }
    if (status == PB_OK && snprintf(path, PATH_MAX, "%s", folder) >= PATH_MAX)
        status = pb_fail(err, PB_ERR_IO, "the path of '%s' in the hub's cache is too long", id);
    pb_free(folder);
    pb_hub_free(hub);
    *found = status;
    return status == PB_ERR_MEMORY ? status : PB_OK;
}

/* Push the folder of a model in the local hub cache. Where it is not, push what the lookup says about that ("" if the name
 * was hardly meant for the hub) and return false. */
static bool push_from_hub(lua_State *L, const char *id) {
    pb_host *host = pb_host_of(L);
    char path[PATH_MAX];
    bool known = false;
    if (!pb_hub_is_id(id)) {
        lua_pushliteral(L, "");
        return false;
    }
    pb_status found = PB_OK;
    PB_LUA(L, find_in_hub(host->ctx, id, path, &known, &found, pb_lua_error(L)));
    bool meant = known || strpbrk(id, "/@");
    lua_pushstring(L, found == PB_OK ? path : meant ? pb_lua_error(L)->message : "");
    return found == PB_OK;
}

/* The nearest of the models in the listed folders (table at index `list`); pushes its name, or nil. */
static const char *push_nearest_model(lua_State *L, int list, const char *name) {
    char best[256] = "";
    for (lua_Integer i = 1; lua_rawgeti(L, list, i) == LUA_TSTRING; i++) {
        DIR *folder = opendir(lua_tostring(L, -1));
        lua_pop(L, 1);
        for (struct dirent *entry; folder && (entry = readdir(folder));) {
            pb_suggestion s;
            pb_suggestion_begin(&s, name);
            if (best[0])
                pb_suggestion_offer(&s, best);
            if (entry->d_name[0] != '.')
                pb_suggestion_offer(&s, entry->d_name);
            if (s.best == entry->d_name)
                snprintf(best, sizeof best, "%s", entry->d_name);
        }
        if (folder)
            closedir(folder);
    }
    lua_pop(L, 1);
    return lua_pushstring(L, best[0] ? best : NULL);
}

const char *pb_host_find_model(lua_State *L, const char *name) {
    pb_host *host = pb_host_of(L);
    luaL_checkstack(L, 16, "looking for a model");
    int top = lua_gettop(L);
    if (!*name)
        pb_lua_fail(L, "the model's name is empty");
    push_model_folders(L);
    lua_Integer n = (lua_Integer)lua_rawlen(L, top + 1);
    bool found = false;
    bool plain = !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
    for (lua_Integer i = 1; plain && !found && i <= n; i++) {
        lua_rawgeti(L, top + 1, i);
        found = push_if_model(L, lua_tostring(L, -1), name);
    }
    /* The order of pb.read: what the recipe brought, then what it saved. */
    found = found || push_if_model(L, host->recipe_folder, name) || push_if_model(L, host->output, name) ||
            push_if_model(L, ".", name) || push_from_hub(L, name);
    if (!found) {
        const char *said = lua_tostring(L, -1);
        const char *looked = "";
        for (lua_Integer i = 1; i <= n; i++) {
            lua_rawgeti(L, top + 1, i);
            looked = lua_pushfstring(L, "%s%s, ", looked, lua_tostring(L, -1));
        }
        const char *folder = pb_folder_exists(name) ? " (that folder has no config.json and no .gguf)" : "";
        if (*said)
            pb_lua_fail(L,
                        "no model '%s'%s: looked for a folder with a config.json, or a .gguf file, in the recipe's "
                        "folder (%s), the output folder (%s) and the current folder; and %s",
                        name, folder, host->recipe_folder, host->output, said);
        const char *nearest = push_nearest_model(L, top + 1, name);
        if (nearest)
            pb_lua_fail(L,
                        "no model '%s'%s; did you mean '%s'? (looked in %sthe recipe's folder, the output folder, the "
                        "current folder and the local Hugging Face cache)",
                        name, folder, nearest, looked);
        pb_lua_fail(L,
                    "no model '%s'%s: looked for a folder with a config.json, or a .gguf file, in %sthe recipe's "
                    "folder (%s), the output folder (%s), the current folder and the local Hugging Face cache; a model "
                    "of the hub has the form org/name",
                    name, folder, looked, host->recipe_folder, host->output);
    }
    lua_replace(L, top + 1);
    lua_settop(L, top + 1);
    return lua_tostring(L, -1);
}

/* ---- what a recipe may touch ------------------------------------------------------------------------------------- */

/* "..", "." and empty parts are refused, as is an absolute path. Returns what is wrong, or NULL. */
static const char *wrong_with(const char *name) {
    if (!*name)
        return "is empty";
    if (*name == '/')
        return "is absolute: a recipe writes into its output folder only (-o DIR)";
    if (strlen(name) > 512)
        return "is too long";
    for (const char *part = name; part; part = strchr(part, '/') ? strchr(part, '/') + 1 : NULL) {
        size_t n = strcspn(part, "/");
        if (n == 0)
            return "has an empty part";
        if ((n == 1 && part[0] == '.') || (n == 2 && part[0] == '.' && part[1] == '.'))
            return "leaves the output folder: '.' and '..' are not allowed in it";
    }
    return NULL;
}

const char *pb_host_output_path(lua_State *L, const char *name) {
    pb_host *host = pb_host_of(L);
    luaL_checkstack(L, 8, "a path");
    if (host->trust && *name == '/')
        return lua_pushstring(L, name);
    const char *wrong = wrong_with(name);
    if (wrong)
        pb_lua_fail(L, "the file name '%s' %s", name, wrong);
    pb_error *err = pb_lua_error(L);
    const char *path = lua_pushfstring(L, "%s/%s", host->output, name);
    int at = lua_gettop(L);
    /* Every folder between the output folder and the file is made, and none may be a link out of it. */
    for (size_t i = strlen(host->output); path[i]; i++) {
        if (path[i] != '/')
            continue;
        lua_pushlstring(L, path, i);
        const char *folder = lua_tostring(L, -1);
        struct stat info;
        if (i > strlen(host->output) && lstat(folder, &info) == 0 && S_ISLNK(info.st_mode))
            pb_lua_fail(L, "'%s' is a symbolic link: nothing is written through links", folder);
        pb_status status = pb_folder_create(host->ctx, folder, err);
        if (status != PB_OK)
            pb_lua_raise(L, status);
        lua_settop(L, at);
    }
    struct stat info;
    if (lstat(path, &info) == 0 && !S_ISREG(info.st_mode))
        pb_lua_fail(L, "'%s' exists and is %s: it is not written over", path,
                    S_ISLNK(info.st_mode)   ? "a symbolic link"
                    : S_ISDIR(info.st_mode) ? "a folder"
                                            : "no regular file");
    return path;
}

void pb_host_wrote(lua_State *L, const char *path) {
    pb_host *host = pb_host_of(L);
    const char *list = host->written.text ? host->written.text : "";
    size_t n = strlen(path);
    for (const char *line = list; *line; line += strcspn(line, "\n") + 1)
        if (strncmp(line, path, n) == 0 && line[n] == '\n')
            return;
    pb_strbuf_printf(&host->written, "%s\n", path);
}

/* Is `path` (exists) inside `folder`, links resolved? */
static bool lies_in(const char *path, const char *folder) {
    char real[PATH_MAX], root[PATH_MAX];
    if (!realpath(path, real) || !realpath(folder, root))
        return false;
    size_t n = strlen(root);
    if (n == 1)
        return true;
    return strncmp(real, root, n) == 0 && (real[n] == '/' || real[n] == '\0');
}

static bool readable(lua_State *L, const char *path) {
    pb_host *host = pb_host_of(L);
    if (host->trust || host->testing || lies_in(path, host->recipe_folder) || lies_in(path, host->output))
        return true;
    int top = lua_gettop(L);
    push_model_folders(L); /* built-in models come with data: tasks/facts.jsonl */
    bool built_in = false;
    for (lua_Integer i = 1; !built_in && lua_rawgeti(L, top + 1, i) == LUA_TSTRING; i++)
        built_in = lies_in(path, lua_tostring(L, -1));
    lua_settop(L, top);
    if (built_in)
        return true;
    for (char **folder = host->readable; *folder; folder++)
        if (lies_in(path, *folder))
            return true;
    return false;
}

const char *pb_host_input_path(lua_State *L, const char *name) {
    pb_host *host = pb_host_of(L);
    luaL_checkstack(L, 16, "a path");
    if (!*name)
        pb_lua_fail(L, "the file name is empty");
    int top = lua_gettop(L);
    bool seen = false;
    const char *const folders[3] = {host->recipe_folder, host->output, "."};
    for (size_t i = 0; i < 3 || host->readable[i - 3]; i++) {
        const char *folder = i < 3 ? folders[i] : host->readable[i - 3];
        const char *path = name[0] == '/' ? lua_pushstring(L, name) : lua_pushfstring(L, "%s/%s", folder, name);
        if (access(path, F_OK) == 0) {
            seen = true;
            if (readable(L, path))
                return path;
        }
        lua_settop(L, top);
    }
    if (seen)
        pb_lua_fail(L,
                    "'%s' may not be read: a recipe reads in its own folder (%s), its output folder (%s) and the "
                    "folders given with "
                    "--read DIR",
                    name, host->recipe_folder, host->output);
    pb_lua_fail(L, "no file '%s' in the recipe's folder (%s), the output folder (%s) or a folder given with --read DIR",
                name, host->recipe_folder, host->output);
}
