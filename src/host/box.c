/* Classes and their boxes: userdata that own one reference to an object of the library. */
#include <string.h>

#include "base/suggest.h"
#include "host/private.h"

/* The metatable of a class sits in the registry under the class's address, its method table in the metatable under
 * METHODS, out of a script's reach (__metatable hides the metatable). */
static const char METHODS[] = "methods", PROPERTIES[] = "properties";

static const pb_class *class_of(lua_State *L, int index) {
    const pb_class *class = NULL;
    if (lua_type(L, index) == LUA_TUSERDATA && lua_getmetatable(L, index)) {
        if (lua_rawgetp(L, -1, &PB_KEY_CLASSES) == LUA_TLIGHTUSERDATA)
            class = lua_touserdata(L, -1);
        lua_pop(L, 2);
    }
    return class;
}

bool pb_is_box(lua_State *L, int index, const pb_class *class) { return class_of(L, index) == class; }

void *pb_to_box(lua_State *L, int index, const pb_class *class) {
    if (class_of(L, index) != class)
        return NULL;
    const pb_box *box = lua_touserdata(L, index);
    if (!box->object)
        pb_lua_fail(L, "this %s was closed: it cannot be used any more", class->name);
    return box->object;
}

void *pb_check_box(lua_State *L, int index, const pb_class *class) {
    void *object = pb_to_box(L, index, class);
    if (!object)
        pb_lua_fail(L, "expected a %s, got %s%s", class->name, pb_describe(L, index),
                    index == 1 ? " (a method is called with a colon: object:method(...))" : "");
    return object;
}

pb_box *pb_box_new(lua_State *L, const pb_class *class, int uservalues) {
    luaL_checkstack(L, 4, "too many values on the stack");
    pb_box *box = lua_newuserdatauv(L, sizeof *box, uservalues);
    box->object = NULL;
    lua_rawgetp(L, LUA_REGISTRYINDEX, class);
    lua_setmetatable(L, -2);
    return box;
}

/* __gc and __close. The class is an upvalue, and the argument is checked against it: a stolen finaliser harms nothing. */
static int release(lua_State *L) {
    const pb_class *class = lua_touserdata(L, lua_upvalueindex(1));
    if (class_of(L, 1) != class)
        return luaL_error(L, "expected a %s", class->name);
    pb_box *box = lua_touserdata(L, 1);
    void *object = box->object;
    box->object = NULL;
    if (object)
        class->release(object);
    return 0;
}

/* ---- reading fields ---------------------------------------------------------------------------------------------- */

static void offer_names(lua_State *L, int table, pb_suggestion *s) {
    lua_pushnil(L);
    while (lua_next(L, table)) {
        lua_pop(L, 1);
        if (lua_type(L, -1) == LUA_TSTRING)
            pb_suggestion_offer(s, lua_tostring(L, -1)); /* the table keeps the text alive */
    }
}

static int unknown_name(lua_State *L, const pb_class *class) {
    if (lua_type(L, 2) != LUA_TSTRING)
        pb_lua_fail(L, "a %s has no field with %s as its name%s", class->name, pb_describe(L, 2),
                    class == &PB_TENSOR_CLASS ? ": t:get(i, j) gives a number, t:select(axis, i) a part" : "");
    pb_suggestion s;
    pb_suggestion_begin(&s, lua_tostring(L, 2));
    offer_names(L, lua_upvalueindex(1), &s);
    offer_names(L, lua_upvalueindex(2), &s);
    if (s.best)
        pb_lua_fail(L, "a %s has no field or method '%s'; did you mean '%s'?", class->name, s.word, s.best);
    pb_lua_fail(L, "a %s has no field or method '%s' (patchbay help %s lists them)", class->name, s.word, class->name);
}

/* __index(object, key); upvalues: methods, properties, class. */
static int read_field(lua_State *L) {
    lua_settop(L, 2);
    lua_pushvalue(L, 2);
    if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL)
        return 1;
    lua_pushvalue(L, 2);
    if (lua_rawget(L, lua_upvalueindex(2)) != LUA_TNIL) {
        lua_pushvalue(L, 1);
        lua_call(L, 1, 1);
        return 1;
    }
    lua_settop(L, 2);
    const pb_class *class = lua_touserdata(L, lua_upvalueindex(3));
    if (class->index)
        return class->index(L);
    return unknown_name(L, class);
}

static int refuse_assignment(lua_State *L) {
    const pb_class *class = lua_touserdata(L, lua_upvalueindex(1));
    pb_lua_fail(L, "a %s's field %s cannot be assigned", class->name, pb_describe(L, 2));
}

static int default_text(lua_State *L) {
    const pb_class *class = lua_touserdata(L, lua_upvalueindex(1));
    const pb_box *box = lua_touserdata(L, 1);
    lua_pushfstring(L, box && box->object ? "%s" : "%s (closed)", class->name);
    return 1;
}

/* object:close(): the same as leaving the scope of a <close> variable. */
static int close_method(lua_State *L) {
    pb_check_arity(L, 1);
    const pb_class *class = lua_touserdata(L, lua_upvalueindex(1));
    if (class_of(L, 1) != class)
        pb_check_box(L, 1, class);
    return release(L);
}

static void add_closure(lua_State *L, const pb_class *class, lua_CFunction fn, const char *name) {
    lua_pushlightuserdata(L, (void *)class);
    lua_pushcclosure(L, fn, 1);
    lua_setfield(L, -2, name);
}

static void add_all(lua_State *L, const luaL_Reg *functions) {
    for (; functions && functions->name; functions++) {
        lua_pushcfunction(L, functions->func);
        lua_setfield(L, -2, functions->name);
    }
}

void pb_class_open(lua_State *L, const pb_class *class) {
    lua_createtable(L, 0, 24); /* [meta] */
    lua_pushlightuserdata(L, (void *)class);
    lua_rawsetp(L, -2, &PB_KEY_CLASSES);
    lua_pushstring(L, class->name);
    lua_setfield(L, -2, "__metatable");
    lua_pushstring(L, class->name);
    lua_setfield(L, -2, "__name");
    add_closure(L, class, release, "__gc");
    add_closure(L, class, release, "__close");
    add_closure(L, class, refuse_assignment, "__newindex");
    add_closure(L, class, default_text, "__tostring");
    add_all(L, class->metamethods);

    lua_newtable(L); /* [meta, methods] */
    add_all(L, class->methods);
    add_closure(L, class, close_method, "close");
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, METHODS);
    lua_newtable(L); /* [meta, methods, properties] */
    add_all(L, class->properties);
    lua_pushvalue(L, -1);
    lua_setfield(L, -4, PROPERTIES);
    lua_pushlightuserdata(L, (void *)class);
    lua_pushcclosure(L, read_field, 3);
    lua_setfield(L, -2, "__index");
    lua_rawsetp(L, LUA_REGISTRYINDEX, class); /* [] */

    /* core.methods and the test of the reference find classes by name */
    lua_rawgetp(L, LUA_REGISTRYINDEX, &PB_KEY_CLASSES);
    lua_pushlightuserdata(L, (void *)class);
    lua_setfield(L, -2, class->name);
    lua_pop(L, 1);
}

static void push_part(lua_State *L, const pb_class *class, const char *part) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, class);
    lua_getfield(L, -1, part);
    lua_remove(L, -2);
}

void pb_class_push_methods(lua_State *L, const pb_class *class) { push_part(L, class, METHODS); }

void pb_class_push_properties(lua_State *L, const pb_class *class) { push_part(L, class, PROPERTIES); }

/* ---- boxes known by address -------------------------------------------------------------------------------------- */

void pb_box_anchor(lua_State *L, int index) {
    index = lua_absindex(L, index);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &PB_KEY_ANCHORS);
    lua_pushvalue(L, index);
    lua_rawsetp(L, -2, lua_touserdata(L, index));
    lua_pop(L, 1);
}

int pb_box_push(lua_State *L, const pb_box *box) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &PB_KEY_ANCHORS);
    int type = lua_rawgetp(L, -1, box);
    lua_remove(L, -2);
    return type;
}
