/* `patchbay info [MODEL]`: what the program runs on, and what a model is. */
#include <stdio.h>
#include <string.h>

#include "host/commands.h"
#include "host/objects.h"
#include "host/private.h"
#include "patchbay/patchbay.h"
#include "tensor/gemm.h"
#include "tensor/kernels.h"

static void print_size(int64_t bytes) {
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    int unit = 0;
    for (; value >= 1024 && unit < 4; unit++)
        value /= 1024;
    printf(unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
}

static void print_program(pb_context *ctx) {
    printf("patchbay  %s\n", PATCHBAY_VERSION);
    printf("BLAS      %s\n", pb_blas_config());
    printf("  kernels %s (chosen by OpenBLAS; OPENBLAS_CORETYPE overrides)\n", pb_blas_corename());
    printf("  threads %d\n", pb_context_threads(ctx));
    printf("kernels   %s (elementwise, norms, attention)\n", pb_kernels_name());
    printf("memory    ");
    print_size((int64_t)pb_context_memory_limit(ctx));
    printf(" may be used (--memory)\n");
    printf("Lua       %s\n", LUA_RELEASE);
}

/* "[pos, head, d_head]" with numbers for what is fixed: "[pos, 12, 64]" */
static void print_shape(const pb_model *model, pb_site_kind kind) {
    pb_site_info info = pb_site_describe(model, kind);
    if (info.shape == PB_SHAPE_HEAD_POS_POS)
        printf("[head %d, dest pos, src pos]", info.heads);
    else if (info.shape == PB_SHAPE_POS_HEAD_WIDTH)
        printf("[pos, head %d, %s %d]", info.heads, info.width_name, info.width);
    else
        printf("[pos, %s %d]", info.width_name, info.width);
}

static void print_sites(const pb_model *model) {
    int layers = pb_model_layers(model);
    printf("\nsites (a run's value: run[\"blocks.0.hook_resid_pre\"], or run:value(\"resid_pre\", 0))\n");
    for (int k = 0; k < PB_SITE_KINDS; k++) {
        pb_site_kind kind = (pb_site_kind)k;
        bool layered = pb_site_has_layer(kind);
        int first = -1, last = -1, count = 0;
        for (int layer = 0; layer < (layered ? layers : 1); layer++) {
            if (!pb_site_exists(model, (pb_site){kind, layered ? layer : -1, 0}))
                continue;
            first = first < 0 ? layer : first;
            last = layer;
            count++;
        }
        if (!count)
            continue;
        char name[64], short_name[64], full[80];
        pb_site site = {kind, layered ? first : -1, 0};
        pb_site_name(site, name, sizeof name);
        if (layered) {
            const char *rest = strchr(name + strlen("blocks."), '.');
            snprintf(full, sizeof full, "blocks.{layer}%s", rest ? rest : "");
        } else {
            snprintf(full, sizeof full, "%s", name);
        }
        printf("  %-38s %-18s ", full, pb_site_short_name(site, short_name, sizeof short_name));
        print_shape(model, kind);
        if (pb_site_has_expert(kind))
            printf("  and of each other expert");
        if (layered && count < layers)
            printf("  in %d of %d layers (%d to %d)", count, layers, first, last);
        printf("\n");
    }
}

/* The digest, when it can be had: nothing else waits for it. */
static void print_hash(const pb_model *model) {
    char cache[4096], digest[65];
    if (pb_model_hash_cached(model, pb_hash_cache(cache, sizeof cache), digest, NULL) == PB_OK)
        printf("SHA-256    %s\n", digest);
}

static void print_model(const pb_model *model) {
    char dtypes[128], storage[128];
    printf("\nmodel      %s (%s)\n", pb_model_name(model), pb_model_family(model));
    printf("folder     %s\n", pb_model_folder(model));
    printf("layers     %d\n", pb_model_layers(model));
    printf("d_model    %d\n", pb_model_d_model(model));
    printf("heads      %d of width %d", pb_model_heads(model), pb_model_d_head(model));
    if (pb_model_kv_heads(model) != pb_model_heads(model))
        printf(", sharing %d key-value heads", pb_model_kv_heads(model));
    printf("\nd_mlp      %d\nvocabulary %d\n", pb_model_d_mlp(model), pb_model_vocab(model));
    if (pb_model_max_positions(model))
        printf("positions  at most %d\n", pb_model_max_positions(model));
    else
        printf("positions  no limit in the architecture\n");
    printf("parameters %lld, stored as %s, ", (long long)pb_model_parameters(model),
           pb_model_dtypes(model, dtypes, sizeof dtypes));
    print_size(pb_model_weight_bytes(model));
    printf("\nstorage    %s", pb_model_storage(model, storage, sizeof storage));
    if (pb_model_streamed(model)) {
        printf(", streamed: one layer at a time, at most ");
        print_size((int64_t)pb_model_stream_window(model));
    }
    const pb_tokenizer *tokenizer = pb_model_tokenizer(model);
    if (tokenizer)
        printf("\ntokenizer  %s, %d tokens%s\n", pb_tokenizer_kind(tokenizer), (int)pb_tokenizer_size(tokenizer),
               pb_tokenizer_adds_special(tokenizer) ? ", adds special tokens" : "");
    else
        printf("\ntokenizer  none in the folder: token ids only\n");
}

/* ---- memory ------------------------------------------------------------------------------------------------------------ */

static void print_run_memory(pb_model *model, size_t n) {
    size_t kept = 0, work = 0;
    if (pb_plan_run(model, n, &kept, &work, NULL) != PB_OK)
        return;
    printf("  a run of %-6zu tokens keeps ", n);
    print_size((int64_t)kept);
    printf(", and needs ");
    print_size((int64_t)work);
    printf(" more while it is made\n");
}

static void print_sweep_memory(pb_model *model, const char *what, pb_site_kind kind, bool by_head, bool by_pos,
                               size_t n) {
    pb_plan plan;
    pb_error err = {0};
    if (pb_plan_sweep(model, kind, by_head, by_pos, n, &plan, &err) != PB_OK) {
        printf("  %-34s %s\n", what, err.message);
        return;
    }
    printf("  %-34s %7zu variants, %8.1f GFLOP (%.1fx less than whole passes), works in ", what, plan.variants,
           plan.flops * 1e-9, plan.full_flops / plan.flops);
    print_size((int64_t)plan.bytes);
    if (plan.chunks > 1)
        printf(", %zu passes over the weights", plan.chunks);
    printf("\n");
}

/* What the budget (--memory) must hold, beside 25 MB of program: runs, work, and the window of a streamed model. tokens 0: the
 * lengths that say most. */
static void print_memory(pb_model *model, size_t tokens) {
    static const size_t lengths[] = {16, 128, 1024};
    size_t positions = (size_t)pb_model_max_positions(model), prompt = tokens ? tokens : 16;
    printf("\nmemory     (weights are not counted: they are pages of the file%s)\n",
           pb_model_streamed(model) ? "; the window of the streamed layers is" : "");
    for (size_t i = 0; !tokens && i < sizeof lengths / sizeof lengths[0]; i++)
        print_run_memory(model, lengths[i]);
    if (tokens || (positions && positions != 1024 && positions != 128))
        print_run_memory(model, tokens ? tokens : positions);
    if (positions && prompt > positions)
        prompt = positions;
    printf("sweeps of a prompt of %zu tokens\n", prompt);
    print_sweep_memory(model, "resid_pre, layer x pos", PB_SITE_RESID_PRE, false, true, prompt);
    print_sweep_memory(model, "z, layer x head", PB_SITE_Z, true, false, prompt);
    print_sweep_memory(model, "z, layer x head x pos", PB_SITE_Z, true, true, prompt);
}

typedef struct model_request {
    const char *name;
    char folder[4096];
} model_request;

static int find_model(lua_State *L) {
    model_request *request = lua_touserdata(L, 1);
    snprintf(request->folder, sizeof request->folder, "%s", pb_host_find_model(L, request->name));
    return 0;
}

int pb_command_info(const char *name, const pb_command_options *o) {
    pb_error err = {0};
    pb_context *ctx = NULL;
    pb_host *host = NULL;
    pb_model *model = NULL;
    model_request request = {.name = name};
    pb_host_options options = {0};
    pb_status status = pb_command_context(o, &ctx, &err);
    if (status != PB_OK)
        goto done;
    print_program(ctx);
    if (!name)
        goto done;
    status = pb_host_create(ctx, &options, &host, &err);
    if (status == PB_OK)
        status = pb_host_call(host, find_model, &request, &err);
    if (status == PB_OK)
        status = pb_model_open(ctx, request.folder, NULL, &model, &err);
    if (status != PB_OK)
        goto done;
    print_model(model);
    print_hash(model);
    print_memory(model, o ? o->tokens : 0);
    print_sites(model);
done:
    fflush(stdout);
    if (status != PB_OK)
        fprintf(stderr, "patchbay: %s\n", err.message);
    pb_model_unref(model);
    pb_host_free(host);
    pb_context_unref(ctx);
    return status == PB_OK ? 0 : 1;
}
