/* The table of sites: names, shapes, and where each exists. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/suggest.h"
#include "model/loading.h"

#define EXPERTS "experts."

typedef enum exists_rule {
    IN_ALL,
    IF_LEARNED, /* learned positions */
    IF_ROTATED, /* the layer rotates q and k */
    IF_LN1,     /* a norm before attention, or (post-add) after it */
    IF_LN2,     /* a norm of the mlp's own */
    IF_POST,    /* norms of attention's and mlp's outputs */
    IF_SEQUENTIAL,
    IF_OWN_MLP_IN, /* the mlp reads the stream by itself, not what attention's norm gave */
    IF_DENSE,
    IF_GATED,
    IF_EXPERTS,
    IF_GATED_EXPERTS,
    IF_FINAL_NORM
} exists_rule;

typedef enum width_rule { BY_MODEL, BY_HEAD, BY_NEURON, BY_ONE, BY_VOCAB, BY_EXPERT, BY_CHOICE, BY_NONE } width_rule;
typedef enum heads_rule { HEADS_NONE, HEADS_ALL, HEADS_KV } heads_rule;

typedef struct site_row {
    const char *name; /* within the layer, or whole */
    const char *short_name;
    const char *alias; /* another short name; NULL: none */
    bool layer;
    exists_rule exists;
    width_rule width;
    heads_rule heads;
    bool expert; /* names have the expert's number after "experts." */
} site_row;

static const site_row rows[PB_SITE_KINDS] = {
    [PB_SITE_EMBED] = {"hook_embed", "embed", NULL, false, IN_ALL, BY_MODEL, HEADS_NONE},
    [PB_SITE_POS_EMBED] = {"hook_pos_embed", "pos_embed", NULL, false, IF_LEARNED, BY_MODEL, HEADS_NONE},
    [PB_SITE_RESID_PRE] = {"hook_resid_pre", "resid_pre", NULL, true, IN_ALL, BY_MODEL, HEADS_NONE},
    [PB_SITE_ATTN_IN] = {"hook_attn_in", "attn_in", NULL, true, IN_ALL, BY_MODEL, HEADS_ALL},
    [PB_SITE_Q_INPUT] = {"hook_q_input", "q_input", NULL, true, IN_ALL, BY_MODEL, HEADS_ALL},
    [PB_SITE_K_INPUT] = {"hook_k_input", "k_input", NULL, true, IN_ALL, BY_MODEL, HEADS_KV},
    [PB_SITE_V_INPUT] = {"hook_v_input", "v_input", NULL, true, IN_ALL, BY_MODEL, HEADS_KV},
    [PB_SITE_LN1_SCALE] = {"ln1.hook_scale", "ln1_scale", NULL, true, IF_LN1, BY_ONE, HEADS_NONE},
    [PB_SITE_LN1_NORMALIZED] = {"ln1.hook_normalized", "ln1_normalized", NULL, true, IF_LN1, BY_MODEL, HEADS_NONE},
    [PB_SITE_Q] = {"attn.hook_q", "q", NULL, true, IN_ALL, BY_HEAD, HEADS_ALL},
    [PB_SITE_K] = {"attn.hook_k", "k", NULL, true, IN_ALL, BY_HEAD, HEADS_KV},
    [PB_SITE_V] = {"attn.hook_v", "v", NULL, true, IN_ALL, BY_HEAD, HEADS_KV},
    [PB_SITE_ROT_Q] = {"attn.hook_rot_q", "rot_q", NULL, true, IF_ROTATED, BY_HEAD, HEADS_ALL},
    [PB_SITE_ROT_K] = {"attn.hook_rot_k", "rot_k", NULL, true, IF_ROTATED, BY_HEAD, HEADS_KV},
    [PB_SITE_ATTN_SCORES] = {"attn.hook_attn_scores", "attn_scores", "scores", true, IN_ALL, BY_NONE, HEADS_ALL},
    [PB_SITE_PATTERN] = {"attn.hook_pattern", "pattern", NULL, true, IN_ALL, BY_NONE, HEADS_ALL},
    [PB_SITE_Z] = {"attn.hook_z", "z", NULL, true, IN_ALL, BY_HEAD, HEADS_ALL},
    [PB_SITE_RESULT] = {"attn.hook_result", "result", NULL, true, IN_ALL, BY_MODEL, HEADS_ALL},
    [PB_SITE_LN1_POST_SCALE] = {"ln1_post.hook_scale", "ln1_post_scale", NULL, true, IF_POST, BY_ONE, HEADS_NONE},
    [PB_SITE_LN1_POST_NORMALIZED] = {"ln1_post.hook_normalized", "ln1_post_normalized", NULL, true, IF_POST, BY_MODEL,
                                     HEADS_NONE},
    [PB_SITE_ATTN_OUT] = {"hook_attn_out", "attn_out", NULL, true, IN_ALL, BY_MODEL, HEADS_NONE},
    [PB_SITE_RESID_MID] = {"hook_resid_mid", "resid_mid", NULL, true, IF_SEQUENTIAL, BY_MODEL, HEADS_NONE},
    [PB_SITE_MLP_IN] = {"hook_mlp_in", "mlp_in", NULL, true, IF_OWN_MLP_IN, BY_MODEL, HEADS_NONE},
    [PB_SITE_LN2_SCALE] = {"ln2.hook_scale", "ln2_scale", NULL, true, IF_LN2, BY_ONE, HEADS_NONE},
    [PB_SITE_LN2_NORMALIZED] = {"ln2.hook_normalized", "ln2_normalized", NULL, true, IF_LN2, BY_MODEL, HEADS_NONE},
    [PB_SITE_EXPERT_WEIGHTS] = {"mlp.hook_expert_weights", "expert_weights", NULL, true, IF_EXPERTS, BY_EXPERT,
                                HEADS_NONE},
    [PB_SITE_EXPERT_INDICES] = {"mlp.hook_expert_indices", "expert_indices", NULL, true, IF_EXPERTS, BY_CHOICE,
                                HEADS_NONE},
    [PB_SITE_EXPERT_GATE] = {"mlp.experts.hook_gate", "experts.gate", NULL, true, IF_GATED_EXPERTS, BY_NEURON,
                             HEADS_NONE, true},
    [PB_SITE_EXPERT_PRE] = {"mlp.experts.hook_pre", "experts.pre", NULL, true, IF_EXPERTS, BY_NEURON, HEADS_NONE, true},
    [PB_SITE_EXPERT_POST] = {"mlp.experts.hook_post", "experts.post", NULL, true, IF_EXPERTS, BY_NEURON, HEADS_NONE,
                             true},
    [PB_SITE_MLP_PRE] = {"mlp.hook_pre", "mlp_pre", "pre", true, IF_DENSE, BY_NEURON, HEADS_NONE},
    [PB_SITE_MLP_PRE_LINEAR] = {"mlp.hook_pre_linear", "mlp_pre_linear", "pre_linear", true, IF_GATED, BY_NEURON,
                                HEADS_NONE},
    [PB_SITE_MLP_POST] = {"mlp.hook_post", "mlp_post", "post", true, IF_DENSE, BY_NEURON, HEADS_NONE},
    [PB_SITE_LN2_POST_SCALE] = {"ln2_post.hook_scale", "ln2_post_scale", NULL, true, IF_POST, BY_ONE, HEADS_NONE},
    [PB_SITE_LN2_POST_NORMALIZED] = {"ln2_post.hook_normalized", "ln2_post_normalized", NULL, true, IF_POST, BY_MODEL,
                                     HEADS_NONE},
    [PB_SITE_MLP_OUT] = {"hook_mlp_out", "mlp_out", NULL, true, IN_ALL, BY_MODEL, HEADS_NONE},
    [PB_SITE_RESID_POST] = {"hook_resid_post", "resid_post", NULL, true, IN_ALL, BY_MODEL, HEADS_NONE},
    [PB_SITE_LN_FINAL_SCALE] = {"ln_final.hook_scale", "ln_final_scale", NULL, false, IF_FINAL_NORM, BY_ONE,
                                HEADS_NONE},
    [PB_SITE_LN_FINAL_NORMALIZED] = {"ln_final.hook_normalized", "ln_final_normalized", NULL, false, IF_FINAL_NORM,
                                     BY_MODEL, HEADS_NONE},
    [PB_SITE_LOGITS] = {"logits", "logits", NULL, false, IN_ALL, BY_VOCAB, HEADS_NONE},
};

/* ---- looking ------------------------------------------------------------------------------------------------------------ */

bool pb_site_has_layer(pb_site_kind kind) { return rows[kind].layer; }

bool pb_site_has_expert(pb_site_kind kind) { return rows[kind].expert; }

bool pb_site_equal(pb_site a, pb_site b) { return a.kind == b.kind && a.layer == b.layer && a.expert == b.expert; }

/* The table's name with the expert's number in its place. */
static void put_name(const char *prefix, const char *name, pb_site site, char *buffer, size_t size) {
    const char *after = rows[site.kind].expert ? strstr(name, EXPERTS) + strlen(EXPERTS) : name;
    if (after == name)
        snprintf(buffer, size, "%s%s", prefix, name);
    else
        snprintf(buffer, size, "%s%.*s%d.%s", prefix, (int)(after - name), name, site.expert, after);
}

char *pb_site_name(pb_site site, char *buffer, size_t size) {
    char prefix[32] = "";
    if (rows[site.kind].layer)
        snprintf(prefix, sizeof prefix, "blocks.%d.", site.layer);
    put_name(prefix, rows[site.kind].name, site, buffer, size);
    return buffer;
}

char *pb_site_short_name(pb_site site, char *buffer, size_t size) {
    put_name("", rows[site.kind].short_name, site, buffer, size);
    return buffer;
}

static bool rotates(const pb_spec *spec, int layer) {
    for (int i = 0; i < spec->layers; i++) {
        if ((layer < 0 || i == layer) && spec->layer[i].rotary >= 0)
            return true;
    }
    return false;
}

/* Whether the architecture has the site in this layer; layer -1: in any. */
static bool exists(const pb_spec *spec, pb_site_kind kind, int layer) {
    bool post = spec->norm_place == PB_NORM_SANDWICH || spec->norm_place == PB_NORM_OUTPUT;
    switch (rows[kind].exists) {
    case IN_ALL:
        return true;
    case IF_LEARNED:
        return spec->position == PB_POSITION_LEARNED;
    case IF_ROTATED:
        return rotates(spec, layer);
    case IF_LN1:
        return spec->norm_place != PB_NORM_OUTPUT;
    case IF_LN2:
        return spec->norm_place != PB_NORM_OUTPUT && spec->block != PB_BLOCK_PARALLEL_SHARED;
    case IF_POST:
        return post;
    case IF_SEQUENTIAL:
        return spec->block == PB_BLOCK_SEQUENTIAL;
    case IF_OWN_MLP_IN:
        return spec->block != PB_BLOCK_PARALLEL_SHARED;
    case IF_DENSE:
        return spec->experts == 0;
    case IF_GATED:
        return spec->gated && spec->experts == 0;
    case IF_EXPERTS:
        return spec->experts > 0;
    case IF_GATED_EXPERTS:
        return spec->experts > 0 && spec->gated;
    case IF_FINAL_NORM:
        return spec->has_final_norm;
    }
    return false;
}

static bool expert_in_range(const pb_spec *spec, pb_site site) {
    return site.expert >= 0 && site.expert < (rows[site.kind].expert ? spec->experts : 1);
}

bool pb_site_exists(const pb_model *model, pb_site site) {
    if (rows[site.kind].layer && (site.layer < -1 || site.layer >= model->spec.layers))
        return false;
    return exists(&model->spec, site.kind, site.layer) && expert_in_range(&model->spec, site);
}

pb_site_info pb_site_describe(const pb_model *model, pb_site_kind kind) {
    const pb_spec *spec = &model->spec;
    const site_row *row = &rows[kind];
    const struct {
        int width;
        const char *name;
    } widths[] = {
        [BY_MODEL] = {spec->d_model, "d_model"},
        [BY_HEAD] = {spec->d_head, "d_head"},
        [BY_NEURON] = {spec->d_mlp, "neuron"},
        [BY_ONE] = {1, "scale"},
        [BY_VOCAB] = {spec->vocab, "vocab"},
        [BY_EXPERT] = {spec->experts, "expert"},
        [BY_CHOICE] = {spec->experts_per_token, "choice"},
        [BY_NONE] = {0, "src"},
    };
    return (pb_site_info){
        .shape = row->width == BY_NONE      ? PB_SHAPE_HEAD_POS_POS
                 : row->heads == HEADS_NONE ? PB_SHAPE_POS_WIDTH
                                            : PB_SHAPE_POS_HEAD_WIDTH,
        .heads = row->heads == HEADS_NONE  ? 0
                 : row->heads == HEADS_ALL ? spec->heads
                                           : spec->kv_heads,
        .width = widths[row->width].width,
        .width_name = widths[row->width].name,
    };
}

int pb_site_shape_of(const pb_model *model, pb_site_kind kind, int64_t T, int64_t shape[4]) {
    pb_site_info info = pb_site_describe(model, kind);
    switch (info.shape) {
    case PB_SHAPE_POS_WIDTH:
        shape[0] = T;
        shape[1] = info.width;
        return 2;
    case PB_SHAPE_POS_HEAD_WIDTH:
        shape[0] = T;
        shape[1] = info.heads;
        shape[2] = info.width;
        return 3;
    case PB_SHAPE_HEAD_POS_POS:
        break;
    }
    shape[0] = info.heads;
    shape[1] = T;
    shape[2] = T;
    return 3;
}

/* ---- names ---------------------------------------------------------------------------------------------------------------- */

/* "blocks.7.rest": the layer and the rest. False if the text has not that form. */
static bool cut_layer(const char *name, long *layer, const char **rest) {
    if (strncmp(name, "blocks.", 7) != 0)
        return false;
    char *end;
    *layer = strtol(name + 7, &end, 10);
    *rest = end + 1;
    return end != name + 7 && *end == '.';
}

/* All spellings of a site within a layer: "attn.hook_z", "hook_z", "z", and the table's own short names. The last part
 * alone counts where it means one site only: "hook_scale" does not. */
static bool spells(const site_row *row, const char *text) {
    if (strcmp(text, row->name) == 0 || strcmp(text, row->short_name) == 0 ||
        (row->alias && strcmp(text, row->alias) == 0))
        return true;
    const char *hook = strstr(row->name, "hook_");
    bool several = row->width == BY_ONE || strstr(row->name, "hook_normalized") || row->expert;
    return hook && !several && strcmp(text, hook) == 0;
}

static bool find_kind(const char *text, pb_site_kind *out) {
    for (int kind = 0; kind < PB_SITE_KINDS; kind++) {
        if (spells(&rows[kind], text)) {
            *out = (pb_site_kind)kind;
            return true;
        }
    }
    return false;
}

static pb_status unknown(const pb_model *model, const char *name, const char *part, pb_error *err) {
    pb_suggestion near;
    char names[PB_SITE_KINDS][2][64]; /* the suggestion borrows them */
    pb_suggestion_begin(&near, part);
    for (int kind = 0; kind < PB_SITE_KINDS; kind++) {
        if (!exists(&model->spec, (pb_site_kind)kind, -1))
            continue;
        pb_site site = {(pb_site_kind)kind, -1, 0};
        pb_suggestion_offer(&near, pb_site_short_name(site, names[kind][0], sizeof names[kind][0]));
        put_name("", rows[kind].name, site, names[kind][1], sizeof names[kind][1]);
        pb_suggestion_offer(&near, names[kind][1]);
        if (rows[kind].alias)
            pb_suggestion_offer(&near, rows[kind].alias);
    }
    if (near.best)
        return pb_fail(err, PB_ERR_ARGUMENT, "there is no site '%.200s'; did you mean '%s'?", name, near.best);
    return pb_fail(err, PB_ERR_ARGUMENT,
                   "there is no site '%.200s'; sites have names like 'resid_pre', 'z' or 'blocks.0.attn.hook_pattern' "
                   "(patchbay info lists those of a model)",
                   name);
}

/* Why an architecture lacks a site, for the message. */
static const char *reason(exists_rule rule) {
    switch (rule) {
    case IF_LEARNED:
        return "it has no learned positions";
    case IF_ROTATED:
        return "q and k are not rotated there";
    case IF_LN1:
        return "it has no norm before attention";
    case IF_LN2:
        return "its mlp has no norm of its own";
    case IF_POST:
        return "it has no norms after attention and mlp";
    case IF_SEQUENTIAL:
        return "attention and mlp work side by side, there is no stream between them";
    case IF_OWN_MLP_IN:
        return "its mlp reads what attention's norm gives; there is no input of its own";
    case IF_DENSE:
        return "its mlp is a mixture of experts";
    case IF_GATED:
        return "its mlp has no gate";
    case IF_EXPERTS:
        return "its mlp is no mixture of experts";
    case IF_GATED_EXPERTS:
        return "it has no experts with a gate";
    case IF_FINAL_NORM:
        return "it has no final norm";
    case IN_ALL:
        break;
    }
    return "of its architecture";
}

static pb_status check_exists(const pb_model *model, pb_site site, pb_error *err) {
    char where[32] = "";
    if (!exists(&model->spec, site.kind, site.layer)) {
        if (site.layer >= 0)
            snprintf(where, sizeof where, " in layer %d", site.layer);
        return pb_fail(err, PB_ERR_ARGUMENT, "model '%s' (%s) has no site %s%s: %s", model->name,
                       model->family->model_type, rows[site.kind].name, where, reason(rows[site.kind].exists));
    }
    if (!expert_in_range(&model->spec, site))
        return pb_fail(err, PB_ERR_ARGUMENT, "expert %d is out of range; model '%s' has experts 0 to %d", site.expert,
                       model->name, model->spec.experts - 1);
    return PB_OK;
}

/* "mlp.experts.3.hook_pre" -> "mlp.experts.hook_pre" in out, and 3; other texts as they are, and -1. */
static void cut_expert(const char *text, char *out, size_t size, long *expert) {
    const char *at = strstr(text, EXPERTS);
    char *end = NULL;
    *expert = -1;
    if (at && (at == text || at[-1] == '.')) {
        at += strlen(EXPERTS);
        long number = strtol(at, &end, 10);
        if (end != at && *end == '.') {
            *expert = number < 0 || number > INT_MAX ? INT_MAX : number;
            snprintf(out, size, "%.*s%s", (int)(at - text), text, end + 1);
            return;
        }
    }
    snprintf(out, size, "%s", text);
}

/* What a name stands for; out->layer: the number in the name, -1 without one. */
static pb_status parse(const pb_model *model, const char *name, pb_site *out, pb_error *err) {
    const char *rest = name;
    char part[256];
    long layer = -1, expert;
    bool full = cut_layer(name, &layer, &rest);
    pb_site_kind kind;
    if (!full) {
        rest = name;
        layer = -1;
        if (strncmp(name, "blocks.", 7) == 0)
            return pb_fail(err, PB_ERR_ARGUMENT,
                           "site '%.200s' has no layer number after 'blocks.'; as in 'blocks.0.hook_resid_pre'", name);
    }
    cut_expert(rest, part, sizeof part, &expert);
    if (!find_kind(part, &kind) || (full && !rows[kind].layer) || (expert >= 0 && !rows[kind].expert))
        return unknown(model, name, rest, err);
    if (full && (layer < 0 || layer >= model->spec.layers))
        return pb_fail(err, PB_ERR_ARGUMENT, "site '%.200s': layer %ld is out of range; model '%s' has layers 0 to %d",
                       name, layer, model->name, model->spec.layers - 1);
    *out = (pb_site){kind, (int)layer, expert >= 0 ? (int)expert : 0};
    PB_TRY(check_exists(model, *out, err));
    if (rows[kind].expert && expert < 0)
        return pb_fail(err, PB_ERR_ARGUMENT,
                       "site '%.200s' is one of each expert: say which (0 to %d), as in 'blocks.0.mlp.experts.3.%s'",
                       name, model->spec.experts - 1, strstr(rows[kind].name, "hook_"));
    return PB_OK;
}

pb_status pb_site_parse_kind(const pb_model *model, const char *name, pb_site *out, pb_error *err) {
    pb_site site;
    PB_TRY(parse(model, name, &site, err));
    *out = site;
    return PB_OK;
}

pb_status pb_site_parse(const pb_model *model, const char *name, bool has_layer, int layer, pb_site *out,
                        pb_error *err) {
    pb_site site;
    int layers = model->spec.layers;
    PB_TRY(parse(model, name, &site, err));
    if (!rows[site.kind].layer) {
        if (has_layer && layer != -1)
            return pb_fail(err, PB_ERR_ARGUMENT, "site '%.200s' belongs to no layer, but layer %d was given", name,
                           layer);
        *out = site;
        return PB_OK;
    }
    if (has_layer && (layer < -layers || layer >= layers))
        return pb_fail(err, PB_ERR_ARGUMENT,
                       "site '%.200s': layer %d is out of range; model '%s' has layers 0 to %d (or -%d to -1)", name,
                       layer, model->name, layers - 1, layers);
    int index = has_layer && layer < 0 ? layer + layers : layer;
    if (site.layer >= 0 && has_layer && index != site.layer)
        return pb_fail(err, PB_ERR_ARGUMENT, "site '%.200s' names layer %d, but layer %d was given", name, site.layer,
                       layer);
    if (site.layer < 0 && !has_layer) {
        char own[64];
        put_name("", rows[site.kind].name, site, own, sizeof own);
        return pb_fail(err, PB_ERR_ARGUMENT,
                       "site '%.200s' is in every layer: give one, or the full name 'blocks.N.%s'", name, own);
    }
    if (site.layer < 0)
        site.layer = index;
    PB_TRY(check_exists(model, site, err));
    *out = site;
    return PB_OK;
}
