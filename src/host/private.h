/* What the files of the host share among themselves. Bindings need host.h only. */
#ifndef PB_HOST_PRIVATE_H
#define PB_HOST_PRIVATE_H

#include <stdio.h>

#include "base/strbuf.h"
#include "host/host.h"

/* ---- options ----------------------------------------------------------------------------------------------------- */

/* Where print() goes. text has length bytes and need not end with NUL. */
typedef void (*pb_print_fn)(void *user, const char *text, size_t length);

typedef struct pb_host_options {
    const char *recipe; /* path of the recipe, for its folder and the name of the default output folder; may be NULL */
    const char *output; /* -o: where the recipe writes; NULL: "<recipe's name without .lua>.out" */
    const char *const *readable; /* --read: more folders that it may read, NULL-terminated; may be NULL */
    const char *const *params;   /* "key=value", NULL-terminated; may be NULL */
    uint64_t seed;
    bool trust;
    bool testing;       /* `patchbay test`: pb.read may reach everything, require "patchbay.check" is complete */
    bool gc_stress;     /* a collection at every box and every few instructions: for tests */
    bool no_retry;      /* for tests: a call that ran out of memory is not tried again after a collection */
    bool show_progress; /* a progress line on stderr */
    pb_print_fn print;  /* NULL: standard output */
    void *print_user;
} pb_host_options;

struct pb_host {
    pb_context *ctx;
    lua_State *L;
    lua_State *current; /* see pb_host_current */

    /* Owned copies of the options' texts. */
    char *recipe, *recipe_folder, *output;
    char **readable, **params; /* NULL-terminated */
    size_t n_params;
    bool params_taken; /* pb.params was called */
    uint64_t seed;
    uint64_t next_draw; /* of pb.randn and pb.rand without a draw of their own */
    bool trust, testing, gc_stress;
    pb_print_fn print;
    void *print_user;

    /* The Lua heap: `lua_used` bytes live, of which `lua_charged` (rounded up to slabs) are counted in the context's budget.
     * While reserve_open, the heap may pass the budget by PB_HOST_RESERVE bytes, so that an error can be told. */
    size_t lua_used, lua_charged;
    bool reserve_open;
    uint64_t fail_lua_in; /* tests: the n-th growing allocation of Lua from now fails; 0: off */
    bool lua_failing;     /* ... and the attempt after it */
    uint64_t lua_allocations;
    bool no_retry;    /* tests: PB_LUA does not try again after a failed allocation */
    bool hook_closed; /* the state is being closed: no hook raises any more */

    bool killed;               /* the recipe is being stopped: no pcall holds the error */
    bool out_of_memory;        /* Lua itself ran out */
    bool caught_out_of_memory; /* ... and the recipe caught that */
    size_t gc_debt;            /* bytes of boxes not told to the collector yet */

    /* The variant and patch that are being read, from 1; 0: none. Errors begin with "variant 3, patch 2: ". Cleared where they are
     * raised and where they are caught. */
    struct {
        lua_Integer variant, patch;
    } place;

    pb_error error;    /* pb_lua_error */
    pb_strbuf trace;   /* traceback of the innermost error in flight */
    bool keep_trace;   /* the error is being raised again: the next handler keeps the trace */
    pb_strbuf written; /* paths of files written, one a line */

    struct {
        bool enabled, shown;
        int depth;          /* nesting of library calls */
        double start, last; /* seconds of the monotonic clock: of the outermost call, of the line as it is */
        double part,
            share; /* when the present part began, and how much of it was done: a call may have several parts */
    } progress;
};

enum { PB_HOST_RESERVE = 1 << 20, PB_HOST_SLAB = 1 << 16 };

/* ---- state.c ----------------------------------------------------------------------------------------------------- */

/* A state with its sandbox and all of pb in it. ctx is kept alive by the host. */
pb_status pb_host_create(pb_context *ctx, const pb_host_options *options, pb_host **out, pb_error *err);
void pb_host_free(pb_host *host); /* NULL is a no-op */
/* Run a file as the recipe, or a text under a name. err: the message with its line and a traceback of the recipe's frames. */
pb_status pb_host_run_file(pb_host *host, const char *path, pb_error *err);
pb_status pb_host_run_text(pb_host *host, const char *text, size_t length, const char *name, pb_error *err);
/* Call body(L) protected, with `user` as a light userdata, outside any recipe (help, info, tests). */
pb_status pb_host_call(pb_host *host, lua_CFunction body, void *user, pb_error *err);
/* Arm the hook so that the next instruction raises. */
void pb_host_kill(lua_State *L, pb_host *host);

/* Keys of the registry: the addresses of these. */
extern const char PB_KEY_BASE, PB_KEY_LIBRARIES, PB_KEY_LOADED, PB_KEY_CLASSES, PB_KEY_ANCHORS, PB_KEY_PENDING,
    PB_KEY_PB, PB_KEY_CORE;

/* ---- trace.c: where an error is, and the way to it --------------------------------------------------------------- */

void pb_host_where(lua_State *L, int level); /* push "file:line: " of the nearest visible frame, or "" */
int pb_host_traceback(lua_State *L); /* message handler: fills host->trace, returns the error object as it was */
/* Text of an error object, never raising; pushes it. */
const char *pb_host_error_text(lua_State *L, int index);

/* ---- sandbox.c --------------------------------------------------------------------------------------------------- */

void pb_sandbox_open(lua_State *L);     /* libraries, filtered, into the registry */
void pb_sandbox_push_env(lua_State *L); /* a new _ENV for one script */
/* The table at the top becomes a sealed proxy of itself: unknown names raise with the nearest, assignment raises. */
void pb_lua_seal(lua_State *L, const char *name);
void pb_sandbox_unseal(lua_State *L, int index);         /* push the real table of a proxy, or nil */
int pb_sandbox_coroutine(lua_State *L);                  /* pushes the coroutine library */
int pb_sandbox_patterns(lua_State *L, int string_table); /* find, match, gmatch, gsub that can be stopped */

/* ---- loader.c ---------------------------------------------------------------------------------------------------- */

int pb_loader_require(lua_State *L); /* require(name) */
void pb_loader_open(lua_State *L);   /* pb, the bindings and the core files */
/* Load Lua text with a new sandbox _ENV; pushes the function. Raises. name: chunk name ("@recipe.lua"). */
void pb_loader_load(lua_State *L, const char *text, size_t length, const char *name);
void pb_loader_load_file(lua_State *L, const char *path, const char *name);
extern const pb_class PB_MEMORY_CLASS; /* a pb_alloc block that the collector frees */
void pb_class_push_properties(lua_State *L, const pb_class *class);
extern void (*const PB_BINDINGS[])(lua_State *L); /* modules.c; NULL-terminated */
extern const char *const PB_CORE_FILES[];         /* modules.c; NULL-terminated */

/* ---- paths.c ----------------------------------------------------------------------------------------------------- */

/* Push the folder of Lua files: PATCHBAY_SCRIPTS, beside the executable (../share/patchbay/scripts, or a source tree above
 * it), the place of installation, a source tree that is the current folder. Raises if it is nowhere. */
const char *pb_path_push_scripts(lua_State *L);

/* ---- interrupt.c ------------------------------------------------------------------------------------------------- */

typedef enum pb_stop_reason { PB_STOP_NONE, PB_STOP_INTERRUPT, PB_STOP_TERMINATE, PB_STOP_TIME } pb_stop_reason;
/* From now on Ctrl-C and SIGTERM stop ctx, and so does the clock after `seconds` (0: never). Calls nest (4 deep). */
void pb_interrupt_begin(pb_context *ctx, double seconds);
pb_stop_reason pb_interrupt_end(void);
pb_stop_reason pb_interrupt_reason(void);

/* ---- commands.c: a context with the command line's limits; options may be NULL ----------------------------------- */

struct pb_command_options;
pb_status pb_command_context(const struct pb_command_options *options, pb_context **out, pb_error *err);

/* ---- progress.c -------------------------------------------------------------------------------------------------- */

void pb_progress_attach(pb_host *host);
void pb_progress_begin(pb_host *host); /* the outermost library call begins */
void pb_progress_erase(pb_host *host);
double pb_monotonic_seconds(void);

/* ---- bindings and commands of the core --------------------------------------------------------------------------- */

void pb_open_tensor(lua_State *L);
void pb_open_tensor_make(lua_State *L);

/* What a recipe left undone, looked at after it ended well: parameters of the command line that it never took. */
pb_status pb_host_finish(pb_host *host, pb_error *err);

/* Methods of the tensor class, shared by the bind_tensor*.c files. */
extern const luaL_Reg PB_TENSOR_MATH_METHODS[];
extern const luaL_Reg PB_TENSOR_OPERATORS[];
/* Shape from arguments first..last (integers, or one list of them). Returns ndim. */
int pb_check_shape(lua_State *L, int first, int64_t shape[PB_MAX_DIMS], bool allow_inferred);

/* A text in the making that the collector frees: push a box, append, push the text (or raise). */
extern const pb_class PB_STRBUF_CLASS, PB_JSON_CLASS, PB_SAFETENSORS_CLASS, PB_TORCH_CLASS, PB_NESTED_CLASS;
pb_strbuf *pb_new_strbuf(lua_State *L);
/* What is there: `where` is "file 'x.json'" for messages. Push JSON text for the value at index; push the value of a text. */
void pb_json_encode(lua_State *L, int index, const char *where);
void pb_json_decode(lua_State *L, const char *text, size_t length, const char *where);

/* Functions of the table that core files get, apart from those of loader.c. */
extern const luaL_Reg PB_CORE_IO[], PB_CORE_TESTING[];

#endif
