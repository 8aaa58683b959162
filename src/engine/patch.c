/* Patches: checking them against a model and a sequence, resolving their coordinates, owning copies of them. */
#include "engine/internal.h"

#include <assert.h>
#include <string.h>

/* ---- arena ------------------------------------------------------------------------------------------------------------- */

enum { ARENA_CHUNK = 64 * 1024 };

void *pb_arena_get(pb_arena *arena, size_t bytes) {
    bytes = (bytes + 15) & ~(size_t)15;
    if (bytes > arena->left) {
        size_t size = bytes + 64 > ARENA_CHUNK ? bytes + 64 : ARENA_CHUNK;
        char *block = pb_alloc_zero(arena->ctx, size, 1);
        if (!block)
            return NULL;
        memcpy(block, &arena->blocks, sizeof arena->blocks);
        arena->blocks = block;
        arena->next = block + 64;
        arena->left = size - 64;
    }
    void *p = arena->next;
    arena->next += bytes;
    arena->left -= bytes;
    return p;
}

void pb_arena_free(pb_arena *arena) {
    void *block = arena->blocks;
    while (block) {
        void *next;
        memcpy(&next, block, sizeof next);
        pb_free(block);
        block = next;
    }
    arena->blocks = NULL;
    arena->left = 0;
}

/* ---- checking ---------------------------------------------------------------------------------------------------------- */

typedef struct axis_info {
    const char *name; /* for messages */
    int64_t length;
    const pb_choice *choice;
    const pb_choice *from; /* NULL: no re-mapping on this axis */
} axis_info;

static pb_status site_axes(const pb_model *model, const pb_patch *p, int64_t T, axis_info axes[3], bool *by_head,
                           pb_error *err) {
    char name[64];
    pb_site_name(p->site, name, sizeof name);
    if (!pb_site_exists(model, p->site))
        return pb_fail(err, PB_ERR_ARGUMENT, "site '%s' does not exist in this model (%s, %d layers)", name,
                       pb_model_family(model), pb_model_layers(model));
    pb_site_info info = pb_site_describe(model, p->site.kind);
    *by_head = info.shape == PB_SHAPE_HEAD_POS_POS;
    if (*by_head) {
        if (p->pos.listed || p->neuron.listed)
            return pb_fail(err, PB_ERR_ARGUMENT,
                           "site '%s' has the axes head, dest, src: choose with head, dest and src, not with %s", name,
                           p->pos.listed ? "pos" : "neuron");
        axes[0] = (axis_info){"head", info.heads, &p->head, &p->from_head};
        axes[1] = (axis_info){"dest", T, &p->dest, &p->from_dest};
        axes[2] = (axis_info){"src", T, &p->src, &p->from_src};
    } else {
        if (p->dest.listed || p->src.listed)
            return pb_fail(err, PB_ERR_ARGUMENT, "site '%s' has no %s axis: choose with pos", name,
                           p->dest.listed ? "dest" : "src");
        if (p->head.listed && info.heads == 0)
            return pb_fail(err, PB_ERR_ARGUMENT, "site '%s' has no head axis; its axes are pos and %s", name,
                           info.width_name);
        axes[0] = (axis_info){"pos", T, &p->pos, &p->from_pos};
        axes[1] = (axis_info){"head", info.heads ? info.heads : 1, &p->head, &p->from_head};
        axes[2] = (axis_info){info.width_name, info.width, &p->neuron, NULL};
    }
    return PB_OK;
}

static pb_status check_choice(const axis_info *axis, const char *site, int64_t length, const pb_choice *choice,
                              pb_error *err) {
    for (size_t i = 0; i < choice->n; i++)
        if (choice->items[i] >= length || choice->items[i] < -length)
            return pb_fail(
                err, PB_ERR_ARGUMENT,
                "%s %d is out of range at site '%s': there are %lld (0 to %lld; negative counts from the end)",
                axis->name, choice->items[i], site, (long long)length, (long long)length - 1);
    return PB_OK;
}

pb_status pb_patch_shape(const pb_model *model, const pb_patch *patch, int64_t T, int *ndim, int64_t shape[3],
                         pb_error *err) {
    axis_info axes[3];
    bool by_head;
    char name[64];
    PB_TRY(site_axes(model, patch, T, axes, &by_head, err));
    pb_site_name(patch->site, name, sizeof name);
    bool has_heads = by_head || pb_site_describe(model, patch->site.kind).heads > 0;
    *ndim = 0;
    for (int a = 0; a < 3; a++) {
        if (axes[a].choice->listed) {
            PB_TRY(check_choice(&axes[a], name, axes[a].length, axes[a].choice, err));
            if (axes[a].choice->n == 0)
                return pb_fail(err, PB_ERR_ARGUMENT, "the list of %s at site '%s' is empty: nothing would be patched",
                               axes[a].name, name);
        }
        if (a == 1 && !has_heads)
            continue;
        shape[(*ndim)++] = axes[a].choice->listed ? (int64_t)axes[a].choice->n : axes[a].length;
    }
    return PB_OK;
}

/* ---- resolving ---------------------------------------------------------------------------------------------------------- */

/* Absolute coordinates of a choice; *out stays NULL for "all". */
static pb_status resolve_list(pb_arena *arena, const axis_info *axis, const char *site, int64_t length,
                              const pb_choice *choice, const int32_t **out, int32_t *n, pb_error *err) {
    *out = NULL;
    *n = (int32_t)length;
    if (!choice->listed)
        return PB_OK;
    PB_TRY(check_choice(axis, site, length, choice, err));
    int32_t *list = pb_arena_get(arena, choice->n * sizeof *list + 1);
    if (!list)
        return pb_fail_memory(err, arena->ctx, choice->n * sizeof *list, "coordinates of a patch");
    for (size_t i = 0; i < choice->n; i++)
        list[i] = choice->items[i] < 0 ? (int32_t)(choice->items[i] + length) : choice->items[i];
    *out = list;
    *n = (int32_t)choice->n;
    return PB_OK;
}

static pb_status check_duplicates(pb_arena *arena, const axis_info *axis, const char *site, const int32_t *list,
                                  int32_t n, pb_error *err) {
    if (!list || n < 2)
        return PB_OK;
    if (n <= 32) {
        for (int32_t i = 0; i < n; i++)
            for (int32_t j = i + 1; j < n; j++)
                if (list[i] == list[j])
                    return pb_fail(err, PB_ERR_ARGUMENT, "%s %d is chosen twice at site '%s'", axis->name, list[i],
                                   site);
        return PB_OK;
    }
    uint8_t *seen = pb_arena_get(arena, (size_t)axis->length);
    if (!seen)
        return pb_fail_memory(err, arena->ctx, (size_t)axis->length, "coordinates of a patch");
    for (int32_t i = 0; i < n; i++) {
        if (seen[list[i]])
            return pb_fail(err, PB_ERR_ARGUMENT, "%s %d is chosen twice at site '%s'", axis->name, list[i], site);
        seen[list[i]] = 1;
    }
    return PB_OK;
}

static pb_status resolve_tensor(const pb_patch *patch, pb_edit *edit, bool has_heads, const char *site, pb_error *err) {
    const pb_tensor *t = patch->tensor;
    if (!t || pb_tensor_dtype(t) != PB_F32)
        return pb_fail(err, PB_ERR_ARGUMENT, "the value of a patch at '%s' must be a float32 tensor", site);
    /* numpy broadcasting, from the last axis; the chosen shape leaves the head axis out where the site has none */
    int axis_of[3], n_axes = 0;
    for (int a = 0; a < 3; a++)
        if (a != 1 || has_heads || edit->by_head)
            axis_of[n_axes++] = a;
    int nd = pb_tensor_ndim(t);
    bool fits = nd <= n_axes;
    memset(edit->stride, 0, sizeof edit->stride);
    for (int i = 0; fits && i < nd; i++) {
        int a = axis_of[n_axes - nd + i];
        int64_t length = pb_tensor_shape(t)[i];
        if (length == edit->n[a])
            edit->stride[a] = pb_tensor_strides(t)[i];
        else
            fits = length == 1;
    }
    if (!fits) {
        char got[96], want[96];
        int64_t shape[3];
        for (int i = 0; i < n_axes; i++)
            shape[i] = edit->n[axis_of[i]];
        return pb_fail(
            err, PB_ERR_ARGUMENT,
            "the value of the patch at '%s' has shape %s, which does not broadcast to the chosen entries, %s", site,
            pb_shape_text(nd, pb_tensor_shape(t), got, sizeof got), pb_shape_text(n_axes, shape, want, sizeof want));
    }
    edit->tensor = pb_tensor_floats(t);
    return PB_OK;
}

/* Coordinates in the source run, and its agreement with the target. */
static pb_status resolve_source(pb_arena *arena, const pb_model *model, const pb_patch *patch, axis_info axes[3],
                                int32_t T, const char *site, pb_edit *edit, pb_error *err) {
    const pb_run *source = patch->run;
    if (!source)
        return pb_fail(err, PB_ERR_ARGUMENT, "the patch at '%s' names no run to take its value from", site);
    if (source->model != model)
        return pb_fail(err, PB_ERR_ARGUMENT, "the patch at '%s' takes its value from a run of another model", site);
    pb_site from = patch->has_from_site ? patch->from_site : patch->site;
    pb_site_info target = pb_site_describe(model, patch->site.kind), there = pb_site_describe(model, from.kind);
    if (!pb_site_exists(model, from) || there.shape != target.shape || there.width != target.width) {
        char other[64];
        return pb_fail(err, PB_ERR_ARGUMENT,
                       "the patch at '%s' cannot take its value from '%s': the sites have different shapes", site,
                       pb_site_name(from, other, sizeof other));
    }
    int64_t lengths[3] = {source->T, there.heads ? there.heads : 1, target.width};
    if (edit->by_head) {
        lengths[0] = there.heads;
        lengths[1] = lengths[2] = source->T;
    }
    for (int a = 0; a < 3; a++) {
        const pb_choice *choice = axes[a].from;
        if (choice && choice->listed) {
            int32_t n;
            PB_TRY(resolve_list(arena, &axes[a], site, lengths[a], choice, &edit->from[a], &n, err));
            if (n != edit->n[a])
                return pb_fail(err, PB_ERR_ARGUMENT, "from_%s lists %d, but %d are patched at '%s'", axes[a].name, n,
                               edit->n[a], site);
        } else if (lengths[a] != axes[a].length) {
            if (axes[a].length == T)
                return pb_fail(err, PB_ERR_ARGUMENT,
                               "the patch at '%s' takes its value from a run of %d tokens, the patched run has %d: "
                               "give from_%s, the source's "
                               "position for each patched one",
                               site, source->T, T, axes[a].name);
            return pb_fail(
                err, PB_ERR_ARGUMENT,
                "the patch at '%s': the source site has %lld heads, the target %lld; list head and from_head", site,
                (long long)lengths[a], (long long)axes[a].length);
        }
    }
    return PB_OK;
}

int32_t pb_edit_known_rows(const pb_edit *edit, const pb_run *base) {
    const pb_patch *p = edit->patch;
    if (!base || p->op != PB_PATCH_SET || p->value != PB_VALUE_RUN || edit->from[0] || edit->from[1] || edit->from[2])
        return 0;
    if (p->has_from_site && !pb_site_equal(p->from_site, p->site))
        return 0;
    return p->run == base ? base->T : (int32_t)pb_run_shared_prefix(p->run, base);
}

pb_status pb_edit_drop_rows(pb_arena *arena, pb_edit *edit, int32_t below, pb_error *err) {
    int a = pb_edit_row_axis(edit);
    int32_t kept = 0;
    int32_t *list = pb_arena_get(arena, (size_t)edit->n[a] * sizeof *list + 1);
    if (!list)
        return pb_fail_memory(err, arena->ctx, (size_t)edit->n[a] * sizeof *list, "coordinates of a patch");
    for (int32_t i = 0; i < edit->n[a]; i++)
        if (pb_edit_at(edit, a, i) >= below)
            list[kept++] = pb_edit_at(edit, a, i);
    edit->at[a] = list;
    edit->n[a] = kept;
    return PB_OK;
}

pb_status pb_edit_resolve(pb_arena *arena, const pb_model *model, const pb_patch *patch, int32_t T, pb_edit *edit,
                          pb_error *err) {
    axis_info axes[3];
    char site[64];
    int ndim;
    int64_t shape[3];
    memset(edit, 0, sizeof *edit);
    PB_TRY(pb_patch_shape(model, patch, T, &ndim, shape, err));
    PB_TRY(site_axes(model, patch, T, axes, &edit->by_head, err));
    pb_site_name(patch->site, site, sizeof site);
    edit->patch = patch;
    edit->kind = patch->site.kind;
    edit->layer = patch->site.layer;
    edit->expert = patch->site.expert;
    if (edit->kind >= PB_SITE_LN_FINAL_SCALE)
        edit->layer = pb_model_layers(model);
    for (int a = 0; a < 3; a++) {
        PB_TRY(resolve_list(arena, &axes[a], site, axes[a].length, axes[a].choice, &edit->at[a], &edit->n[a], err));
        PB_TRY(check_duplicates(arena, &axes[a], site, edit->at[a], edit->n[a], err));
    }
    if (patch->op == PB_PATCH_FN) {
        if (!patch->fn)
            return pb_fail(err, PB_ERR_ARGUMENT, "the patch at '%s' has no function", site);
        return PB_OK;
    }
    switch (patch->value) {
    case PB_VALUE_NUMBER:
    case PB_VALUE_NOISE:
        break;
    case PB_VALUE_DROPOUT:
        if (patch->op != PB_PATCH_SCALE || !(patch->noise_std >= 0 && patch->noise_std < 1))
            return pb_fail(err, PB_ERR_ARGUMENT,
                           "dropout at '%s' scales by draws, with a probability from 0 to below 1", site);
        break;
    case PB_VALUE_TENSOR:
        PB_TRY(resolve_tensor(patch, edit, pb_site_describe(model, edit->kind).heads > 0, site, err));
        break;
    case PB_VALUE_RUN:
        PB_TRY(resolve_source(arena, model, patch, axes, T, site, edit, err));
        break;
    }
    return PB_OK;
}

/* ---- owned copies ------------------------------------------------------------------------------------------------------- */

static bool copy_choice(pb_context *ctx, pb_choice *c) {
    if (!c->listed || c->n == 0) {
        c->items = NULL;
        return true;
    }
    int32_t *items = pb_alloc(ctx, c->n, sizeof *items);
    if (!items) {
        c->items = NULL;
        return false;
    }
    memcpy(items, c->items, c->n * sizeof *items);
    c->items = items;
    return true;
}

enum { N_CHOICES = 9 };
static void choices_of(pb_patch *p, pb_choice *out[N_CHOICES]) {
    pb_choice *all[N_CHOICES] = {&p->pos,      &p->head,      &p->neuron,    &p->dest,    &p->src,
                                 &p->from_pos, &p->from_head, &p->from_dest, &p->from_src};
    memcpy(out, all, sizeof all);
}

static bool own_patch(pb_context *ctx, pb_patch *p) {
    pb_choice *choices[N_CHOICES];
    choices_of(p, choices);
    bool ok = true;
    for (int i = 0; i < N_CHOICES; i++) /* all of them, so that none keeps a borrowed pointer */
        ok = copy_choice(ctx, choices[i]) && ok;
    p->tensor = p->value == PB_VALUE_TENSOR && p->tensor ? pb_tensor_ref(p->tensor) : NULL;
    p->run = p->value == PB_VALUE_RUN && p->run ? pb_run_ref((pb_run *)(uintptr_t)p->run) : NULL;
    return ok;
}

void pb_patch_list_unref(pb_patch_list *list) {
    if (!list || --list->refs > 0)
        return;
    for (size_t i = 0; i < list->n; i++) {
        pb_choice *choices[N_CHOICES];
        choices_of(&list->items[i], choices);
        for (int c = 0; c < N_CHOICES; c++)
            pb_free((void *)(uintptr_t)choices[c]->items);
        pb_tensor_unref(list->items[i].tensor);
        pb_run_unref((pb_run *)(uintptr_t)list->items[i].run);
    }
    pb_free(list->items);
    pb_free(list);
}

pb_status pb_patch_list_create(pb_context *ctx, const pb_patch_list *base, const pb_patch *patches, size_t n,
                               pb_patch_list **out, pb_error *err) {
    size_t before = base ? base->n : 0;
    pb_patch_list *list = pb_alloc_zero(ctx, 1, sizeof *list);
    if (list)
        list->items = pb_alloc_zero(ctx, before + n, sizeof *list->items);
    if (!list || !list->items) {
        pb_free(list);
        return pb_fail_memory(err, ctx, (before + n) * sizeof(pb_patch), "patches of a run");
    }
    list->refs = 1;
    for (size_t i = 0; i < before + n; i++) {
        list->items[i] = i < before ? base->items[i] : patches[i - before];
        list->n = i + 1;
        if (!own_patch(ctx, &list->items[i])) {
            pb_patch_list_unref(list);
            return pb_fail_memory(err, ctx, sizeof(pb_patch), "patches of a run");
        }
    }
    *out = list;
    return PB_OK;
}
