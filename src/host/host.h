/* The host: one Lua state with its sandbox, and the conventions that every binding in this folder keeps.
 *
 * Rules of a binding (all of them follow from one: a Lua error is a longjmp):
 *  1. Read and check every argument first; allocate nothing but Lua memory until that is done.
 *  2. No C resource is held by a C local alone when a Lua function that can raise runs (nearly all of them can: they
 *     allocate). Make the box first (pb_box_new), then fill box->object in the statement after the call that made it.
 *  3. Scratch memory is a Lua userdata (pb_lua_scratch): the collector frees it on every path.
 *  4. Library calls go through PB_LUA(L, call): it passes the host's error, collects garbage and tries once more when
 *     memory was short, and raises with the recipe's line in front. The call must be one whose failure changes nothing.
 *  5. Functions called by the engine (patch functions, metrics) never raise through it: they enter Lua with
 *     pb_lua_protect and return its status; PB_LUA raises the original error object again after the engine has unwound.
 *  6. A Lua object that a box needs alive is kept in the box's user values, never in the registry.
 *  7. Coordinates are 0-based and negative ones count from the end; Lua lists are 1-based.
 *
 * Lua sees `pb` (sealed: unknown names raise, assignment raises) and classes made from pb_class. */
#ifndef PB_HOST_HOST_H
#define PB_HOST_HOST_H

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include "patchbay/context.h"
#include "patchbay/model.h"
#include "patchbay/patch.h"
#include "patchbay/tensor.h"

typedef struct pb_host pb_host;

/* ---- the host of a state ----------------------------------------------------------------------------------------- */

pb_host *pb_host_of(lua_State *L);         /* any coroutine's; cannot fail */
pb_context *pb_host_context(lua_State *L); /* borrowed, never NULL */
uint64_t pb_host_seed(lua_State *L);       /* --seed, or 0: what pb.seed, math.random and unseeded noise start from */
bool pb_host_trusted(lua_State *L);        /* --trust */
/* The state that is running: engine callbacks without their own (metrics made long ago) use it. Cannot fail. */
lua_State *pb_host_current(pb_host *host);

/* ---- errors ------------------------------------------------------------------------------------------------------ */

/* The buffer that PB_LUA's call must pass as err. One per host: a nested call overwrites it, which is fine because only
 * the status that a call returns says whether it failed. */
pb_error *pb_lua_error(lua_State *L);

/* Run a library call; on failure raise. `call` is evaluated a second time after a full collection if the first failed
 * for want of memory, and must be an expression of type pb_status that uses pb_lua_error(L) as its err. */
#define PB_LUA(L, call)                                                                                                \
    do {                                                                                                               \
        pb_lua_enter(L);                                                                                               \
        pb_status pb_lua_status_ = (call);                                                                             \
        if (pb_lua_status_ == PB_ERR_MEMORY && pb_lua_collect(L))                                                      \
            pb_lua_status_ = (call);                                                                                   \
        pb_lua_leave(L);                                                                                               \
        if (pb_lua_status_ != PB_OK)                                                                                   \
            pb_lua_raise(L, pb_lua_status_);                                                                           \
    } while (0)

void pb_lua_enter(lua_State *L);   /* makes L the current state; starts the clock of the progress line */
void pb_lua_leave(lua_State *L);   /* erases the progress line */
bool pb_lua_collect(lua_State *L); /* full collection; true if it gave memory back */

/* Raise the failure that a call put into pb_lua_error(L): the recipe's "file:line: " and the message; the original error
 * object after PB_ERR_CALLBACK; an error that no pcall can hold after PB_ERR_STOPPED. */
_Noreturn void pb_lua_raise(lua_State *L, pb_status status);
/* Raise a message, with the line of the nearest caller that is not of the host's own Lua (scripts/patchbay/core). */
_Noreturn void pb_lua_fail(lua_State *L, const char *format, ...) PB_PRINTF(2, 3);

/* ---- boxes ------------------------------------------------------------------------------------------------------- */

typedef struct pb_box {
    void *object; /* NULL: closed (not yet filled, or closed by the user) */
} pb_box;

/* A class of boxes. Methods and properties are two tables: `model:run(...)` and `model.layers`. A property's function
 * gets the object as its one argument and gives one value. Reading a name that is neither raises, with the nearest name. */
typedef struct pb_class {
    const char *name;              /* "tensor": in messages, in help, and what getmetatable() gives */
    void (*release)(void *object); /* gives the box's reference back; called once, object is never NULL */
    const luaL_Reg *methods;       /* ends with {NULL, NULL}; may be NULL */
    const luaL_Reg *properties;    /* may be NULL */
    const luaL_Reg *metamethods;   /* "__add", "__tostring", "__call" ...; not __gc, __close, __index, __metatable */
    lua_CFunction index; /* (object, key) for keys that are neither method nor property (run["blocks.0.hook_z"]);
                                        * NULL: such a key raises */
} pb_class;

/* Makes the metatable. Once per state and class, before the first pb_box_new. */
void pb_class_open(lua_State *L, const pb_class *class);
/* Push the class's method table: scripts/patchbay/core adds methods written in Lua to it. */
void pb_class_push_methods(lua_State *L, const pb_class *class);

/* Push a closed box, with `uservalues` user value slots. */
pb_box *pb_box_new(lua_State *L, const pb_class *class, int uservalues);
/* The object at a stack index; raises unless it is an open box of the class. */
void *pb_check_box(lua_State *L, int index, const pb_class *class);
/* The same, NULL instead of raising for another type; a closed box still raises. */
void *pb_to_box(lua_State *L, int index, const pb_class *class);
bool pb_is_box(lua_State *L, int index, const pb_class *class);

/* Boxes that C code knows by address (a metric's user pointer): anchor makes the box findable, without keeping it alive;
 * push pushes it again (nil if it is gone). */
void pb_box_anchor(lua_State *L, int index);
int pb_box_push(lua_State *L, const pb_box *box); /* the pushed value's type */

/* Tell the collector of C memory that a new box holds (views of known storage: nothing to tell). May run a collection step. */
void pb_lua_charge(lua_State *L, size_t bytes);

/* A block that the collector owns, pushed on the stack: alive while it is there. Zeroed. */
void *pb_lua_scratch(lua_State *L, size_t count, size_t size);

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

extern const pb_class PB_TENSOR_CLASS;

pb_tensor *pb_check_tensor(lua_State *L, int index);
pb_tensor *pb_to_tensor(lua_State *L, int index); /* NULL if it is something else */
/* Push a closed tensor box. Then:  PB_LUA(L, pb_tensor_clone(t, &result, pb_lua_error(L)));  pb_fill_tensor(L, box, result); */
pb_box *pb_new_tensor(lua_State *L);
/* Store `t` (one reference, taken) and charge its bytes to the collector. box must be on the stack. */
void pb_fill_tensor(lua_State *L, pb_box *box, pb_tensor *t);
/* The value at `index`, a tensor, a number or a (nested) list of numbers, as a new tensor; pushed as a box, returned borrowed. */
pb_tensor *pb_make_tensor(lua_State *L, int index, const char *what);

/* ---- arguments --------------------------------------------------------------------------------------------------- */

/* Raise unless at most `most` arguments were given (self counts): surplus ones are never dropped in silence. */
void pb_check_arity(lua_State *L, int most);
/* Raise "bad argument 'name' of FUNCTION: ..." */
_Noreturn void pb_bad_argument(lua_State *L, const char *name, const char *format, ...) PB_PRINTF(3, 4);

/* Positional arguments; strict: a string is no number, 1.5 is no integer. `name` is for the message. */
lua_Number pb_check_number(lua_State *L, int index, const char *name);
lua_Integer pb_check_integer(lua_State *L, int index, const char *name, lua_Integer low, lua_Integer high);
const char *pb_check_text(lua_State *L, int index, const char *name,
                          size_t *length); /* length may be NULL; then no NUL inside */
bool pb_check_boolean(lua_State *L, int index, const char *name);
/* One of `words` (NULL-terminated); its place. nil or absent: fallback, unless that is -1. */
int pb_check_word(lua_State *L, int index, const char *name, const char *const *words, int fallback);
/* A 0-based coordinate below extent; negative ones count from the end. Returns 0..extent-1. */
int64_t pb_check_coordinate(lua_State *L, int index, const char *name, int64_t extent);

/* A table of named arguments. Raises if it is no table, or has a key that is not in `fields` (NULL-terminated; the nearest
 * is suggested) and not in the list part 1..positional. */
void pb_check_fields(lua_State *L, int index, const char *const *fields, int positional);
/* Fields of such a table (raw access). Absent (nil) gives the fallback. The pushing one leaves the value on the stack
 * and returns its type; the others leave nothing. */
int pb_push_field(lua_State *L, int index, const char *field);
lua_Number pb_field_number(lua_State *L, int index, const char *field, lua_Number fallback);
lua_Integer pb_field_integer(lua_State *L, int index, const char *field, lua_Integer fallback, lua_Integer low,
                             lua_Integer high);
bool pb_field_boolean(lua_State *L, int index, const char *field, bool fallback);
int pb_field_word(lua_State *L, int index, const char *field, const char *const *words, int fallback);
/* Text that lives as long as the table holds it; NULL if absent. */
const char *pb_field_text(lua_State *L, int index, const char *field);
bool pb_has_field(lua_State *L, int index, const char *field);

/* Coordinates along one axis: nil or "all" (not listed), an integer, or a list of integers (no duplicates). Items are
 * 0-based or negative, as given; range-checked against extent if that is >= 0, and then made non-negative. Pushes one
 * value (the items' memory, or nil): keep it on the stack while the choice is used. */
pb_choice pb_check_choice(lua_State *L, int index, const char *name, int64_t extent);
pb_choice pb_field_choice(lua_State *L, int index, const char *field, int64_t extent);
/* A list of token ids or other 32-bit integers >= low; pushes its memory. */
int32_t *pb_check_ids(lua_State *L, int index, const char *name, int32_t low, size_t *n);

/* "a number", "a tensor [3, 4] float32", "the text 'abc'": what is at the index, for messages. Pushes the text it returns. */
const char *pb_describe(lua_State *L, int index);

/* ---- calling Lua from the engine --------------------------------------------------------------------------------- */

/* Call body in protected mode: it sees `user` as a light userdata at index 1 and then the `nargs` topmost values of the
 * stack, which are popped. It may raise; results go out through *user. On an error nothing is left on the stack, the
 * error object is kept for pb_lua_raise, and PB_ERR_CALLBACK (or STOPPED) comes back with its text in err.
 * L's stack is grown as needed. */
pb_status pb_lua_protect(lua_State *L, lua_CFunction body, void *user, int nargs, pb_error *err);

/* ---- files and models -------------------------------------------------------------------------------------------- */

/* Where a recipe may write: `name` is relative to the output folder (-o), has no "..", and meets no symbolic link. The
 * folders above it are made. Pushes the path that C code can open, and returns it. Raises otherwise. */
const char *pb_host_output_path(lua_State *L, const char *name);
/* Note that the file (as pushed above) has been written: it is named when the recipe ends. */
void pb_host_wrote(lua_State *L, const char *path);
/* Where a recipe may read: relative to its own folder, then to the output folder, then to folders given with --read;
 * absolute names must lie in one of these (or anywhere with --trust). Pushes the path. Raises otherwise. */
const char *pb_host_input_path(lua_State *L, const char *name);
/* A model by name: built in (PATCHBAY_MODELS, share/patchbay/models, examples/models), a folder with a config.json
 * (relative to the recipe's folder, then to the current one), or a Hugging Face id in the local hub cache. Pushes its
 * folder. Raises with the places looked at and the nearest built-in name. */
const char *pb_host_find_model(lua_State *L, const char *name);

/* ---- registering ------------------------------------------------------------------------------------------------- */

/* Each binding has one `void pb_open_NAME(lua_State *L)`, named in modules.c, called with the unsealed pb table on top of
 * the stack (and leaving it there): it opens its classes and adds functions with pb_add_functions(L, "", ...) for
 * pb.name or pb_add_functions(L, "metric", ...) for pb.metric.name.
 * Every name so registered needs a page in scripts/patchbay/help/ (a test compares); see help/tensor.lua for the form.
 *
 * Host functions written in Lua: scripts/patchbay/core/NAME.lua, listed in modules.c, run at start as
 *     local pb, core = ...      -- pb unsealed: add functions to it;  core.methods.tensor etc.: method tables of the classes
 * core.raise(message) raises with the recipe's line; core.fields(t, { "a", "b" }, positional) checks named arguments;
 * core.suggest(word, list) gives the nearest name or nil. Frames of these files are left out of tracebacks. */
void pb_add_functions(lua_State *L, const char *table, const luaL_Reg *functions);

#endif
