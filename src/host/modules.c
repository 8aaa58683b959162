/* What pb is made of: the bindings in C, in the order in which they open, then the host's own Lua files
 * (scripts/patchbay/core). A new binding is one line here. */
#include "host/private.h"

void pb_open_model(lua_State *L);
void pb_open_tokenizer(lua_State *L);
void pb_open_run(lua_State *L);
void pb_open_metric(lua_State *L);
void pb_open_measure(lua_State *L);
void pb_open_grad(lua_State *L);
void pb_open_figure(lua_State *L);
void pb_open_train(lua_State *L);

void (*const PB_BINDINGS[])(lua_State *L) = {
    pb_open_tensor,  pb_open_tensor_make, pb_open_tokenizer, pb_open_model, pb_open_metric, pb_open_run,
    pb_open_measure, pb_open_grad,        pb_open_figure,    pb_open_train, NULL,
};

const char *const PB_CORE_FILES[] = {
    "prelude", /* first: it also marks the folder as the one that paths.c looks for */
    "io",      "options", "params", "help", "check", "runs", "grad", "grid", "sweep", "pairs", "plot", "stats", NULL,
};
