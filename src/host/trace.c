/* Where an error happened, as the author of a recipe sees it: C functions and the host's own Lua are left out. */
#include <string.h>

#include "host/private.h"

/* Chunks of scripts/patchbay/core are named like this (loader.c). */
static const char HIDDEN[] = "=patchbay core";

static bool visible(const lua_Debug *ar) {
    return ar->currentline > 0 && strncmp(ar->source, HIDDEN, sizeof HIDDEN - 1) != 0;
}

static const char *file_of(const lua_Debug *ar) {
    return ar->source[0] == '@' || ar->source[0] == '=' ? ar->source + 1 : ar->short_src;
}

/* Techniques (scripts/patchbay/NAME.lua) are named like this: they are in tracebacks, but a message names who called them. */
static const char TECHNIQUE[] = "@patchbay/";

void pb_host_where(lua_State *L, int level) {
    lua_Debug ar;
    int own = -1; /* the innermost frame of a technique, if there is no recipe around it */
    for (; lua_getstack(L, level, &ar); level++) {
        lua_getinfo(L, "Sl", &ar);
        if (!visible(&ar))
            continue;
        if (strncmp(ar.source, TECHNIQUE, sizeof TECHNIQUE - 1) != 0) {
            lua_pushfstring(L, "%s:%d: ", file_of(&ar), ar.currentline);
            return;
        }
        own = own < 0 ? level : own;
    }
    if (own >= 0 && lua_getstack(L, own, &ar)) {
        lua_getinfo(L, "Sl", &ar);
        lua_pushfstring(L, "%s:%d: ", file_of(&ar), ar.currentline);
        return;
    }
    lua_pushliteral(L, "");
}

static void add_frame(const lua_Debug *ar, pb_strbuf *out) {
    pb_strbuf_printf(out, "\n    %s:%d: ", file_of(ar), ar->currentline);
    if (strcmp(ar->what, "main") == 0)
        pb_strbuf_add(out, "in the main part");
    else if (ar->name && strcmp(ar->name, "?") != 0)
        pb_strbuf_printf(out, "in function '%s'", ar->name);
    else
        pb_strbuf_printf(out, "in a function of line %d", ar->linedefined);
}

/* The number of levels of the stack. lua_getstack walks from the top, so this searches instead of counting. */
static int stack_depth(lua_State *L) {
    lua_Debug ar;
    int low = 1, high = 1;
    while (lua_getstack(L, high, &ar)) {
        low = high;
        high *= 2;
    }
    while (low < high) {
        int middle = (low + high) / 2;
        if (lua_getstack(L, middle, &ar))
            low = middle + 1;
        else
            high = middle;
    }
    return high;
}

/* Visible frames of levels first .. last - 1, at most `most`; returns how many. */
static int add_frames(lua_State *L, int first, int last, int most, pb_strbuf *out) {
    lua_Debug ar;
    int added = 0;
    for (int level = first; level < last && added < most && lua_getstack(L, level, &ar); level++) {
        lua_getinfo(L, "Slnt", &ar);
        if (!visible(&ar))
            continue;
        add_frame(&ar, out);
        added++;
    }
    return added;
}

int pb_host_traceback(lua_State *L) {
    enum { INNER = 60, OUTER = 20 }; /* levels shown of a deep recursion: its beginning and its end */
    pb_host *host = pb_host_of(L);
    host->reserve_open = true; /* closed where the error is reported or caught */
    if (host->keep_trace) {
        host->keep_trace = false;
        return 1;
    }
    pb_strbuf_free(&host->trace);
    pb_strbuf_init(&host->trace, host->ctx);
    int depth = stack_depth(L), frames;
    if (depth <= INNER + OUTER) {
        frames = add_frames(L, 1, depth, INNER + OUTER, &host->trace);
    } else {
        frames = add_frames(L, 1, INNER, 10, &host->trace);
        pb_strbuf_printf(&host->trace, "\n    ... %d calls", depth - INNER - OUTER);
        frames += add_frames(L, depth - OUTER, depth, OUTER, &host->trace);
    }
    if (frames < 2) /* the message has the only line already */
        pb_strbuf_clear(&host->trace);
    return 1;
}

static int to_text(lua_State *L) {
    luaL_tolstring(L, 1, NULL);
    return 1;
}

const char *pb_host_error_text(lua_State *L, int index) {
    if (lua_type(L, index) == LUA_TSTRING) {
        lua_pushvalue(L, index);
        return lua_tostring(L, -1);
    }
    index = lua_absindex(L, index);
    bool has_text =
        luaL_getmetafield(L, index, "__tostring") != LUA_TNIL || luaL_getmetafield(L, index, "__name") != LUA_TNIL;
    if (has_text)
        lua_pop(L, 1);
    if (has_text || lua_type(L, index) == LUA_TNUMBER) {
        lua_pushcfunction(L, to_text);
        lua_pushvalue(L, index);
        if (lua_pcall(L, 1, 1, 0) == LUA_OK && lua_type(L, -1) == LUA_TSTRING)
            return lua_tostring(L, -1);
        lua_pop(L, 1);
    }
    return lua_pushfstring(L, "the recipe raised an error that is a %s, without a message", luaL_typename(L, index));
}
