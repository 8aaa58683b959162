/* Sites: every spelling, every shape, where each exists, and what a wrong name gets. */
#include "support/support.h"

#include <stdio.h>
#include <string.h>

#include "model/spec.h"

typedef struct fixture {
    pb_context *ctx;
    pb_model *gpt2, *llama;
} fixture;

static int set_up(void **state) {
    static fixture f;
    model_shape gpt2 = test_shape_gpt2(1), llama = test_shape_llama(2);
    f.ctx = test_context();
    f.gpt2 = test_model(f.ctx, &gpt2);
    f.llama = test_model(f.ctx, &llama);
    *state = &f;
    return 0;
}

static int tear_down(void **state) {
    fixture *f = *state;
    pb_model_unref(f->gpt2);
    pb_model_unref(f->llama);
    size_t left = pb_context_memory_used(f->ctx);
    pb_context_unref(f->ctx);
    return left ? -1 : 0;
}

static void expect_site(const pb_model *model, const char *name, bool has_layer, int layer, pb_site_kind kind,
                        int want) {
    pb_error err = {0};
    pb_site site;
    assert_ok(pb_site_parse(model, name, has_layer, layer, &site, &err));
    assert_int_equal(site.kind, kind);
    assert_int_equal(site.layer, want);
}

static void site_parse__every_kind_by_its_full_and_short_name(void **state) {
    const fixture *f = *state;
    const pb_model *models[2] = {f->gpt2, f->llama};
    for (int m = 0; m < 2; m++) {
        for (int kind = 0; kind < PB_SITE_KINDS; kind++) {
            char full[64], name[64];
            bool layered = pb_site_has_layer((pb_site_kind)kind);
            if (!pb_site_exists(models[m], (pb_site){(pb_site_kind)kind, layered ? 1 : -1}))
                continue;
            pb_site_name((pb_site){(pb_site_kind)kind, layered ? 1 : -1}, full, sizeof full);
            expect_site(models[m], full, false, 0, (pb_site_kind)kind, layered ? 1 : -1);
            pb_site_short_name((pb_site){(pb_site_kind)kind, -1}, name, sizeof name);
            expect_site(models[m], name, layered, 1, (pb_site_kind)kind, layered ? 1 : -1);
            if (layered) {
                expect_site(models[m], full, true, 1, (pb_site_kind)kind, 1);
                expect_site(models[m], full + strlen("blocks.1."), true, -1, (pb_site_kind)kind, 1);
            }
        }
    }
}

static void site_parse__spellings_of_transformer_lens(void **state) {
    const pb_model *model = ((fixture *)*state)->gpt2;
    expect_site(model, "blocks.1.attn.hook_z", false, 0, PB_SITE_Z, 1);
    expect_site(model, "attn.hook_z", true, 0, PB_SITE_Z, 0);
    expect_site(model, "hook_z", true, -2, PB_SITE_Z, 0);
    expect_site(model, "z", true, 1, PB_SITE_Z, 1);
    expect_site(model, "hook_resid_pre", true, 1, PB_SITE_RESID_PRE, 1);
    expect_site(model, "mlp.hook_post", true, 1, PB_SITE_MLP_POST, 1);
    expect_site(model, "hook_post", true, 1, PB_SITE_MLP_POST, 1);
    expect_site(model, "post", true, 1, PB_SITE_MLP_POST, 1);
    expect_site(model, "pre", true, 1, PB_SITE_MLP_PRE, 1);
    expect_site(model, "scores", true, 1, PB_SITE_ATTN_SCORES, 1);
    expect_site(model, "ln1.hook_scale", true, 1, PB_SITE_LN1_SCALE, 1);
    expect_site(model, "hook_embed", false, 0, PB_SITE_EMBED, -1);
    expect_site(model, "logits", false, 0, PB_SITE_LOGITS, -1);
    expect_site(model, "logits", true, -1, PB_SITE_LOGITS, -1);
    expect_site(model, "ln_final.hook_scale", false, 0, PB_SITE_LN_FINAL_SCALE, -1);
}

static void site_parse__unknown_site__names_the_nearest(void **state) {
    const pb_model *model = ((fixture *)*state)->gpt2;
    pb_error err = {0};
    pb_site site;
    assert_error(pb_site_parse(model, "resid_prr", true, 0, &site, &err), PB_ERR_ARGUMENT, "did you mean 'resid_pre'");
    assert_error(pb_site_parse(model, "blocks.0.attn.hook_patern", false, 0, &site, &err), PB_ERR_ARGUMENT,
                 "hook_pattern");
    assert_error(pb_site_parse(model, "blocks.0.hook_embed", false, 0, &site, &err), PB_ERR_ARGUMENT, "no site");
    assert_error(pb_site_parse(model, "hook_scale", true, 0, &site, &err), PB_ERR_ARGUMENT,
                 "no site"); /* of which norm? */
    assert_error(pb_site_parse(model, "banana sandwich", true, 0, &site, &err), PB_ERR_ARGUMENT, "banana sandwich");
    assert_error(pb_site_parse(model, "", true, 0, &site, &err), PB_ERR_ARGUMENT, NULL);
    assert_error(pb_site_parse(model, "blocks.x.hook_z", false, 0, &site, &err), PB_ERR_ARGUMENT, "no layer number");
    assert_error(pb_site_parse(model, "blocks.1", false, 0, &site, &err), PB_ERR_ARGUMENT, "no layer number");
}

static void site_parse__layer_out_of_range__says_the_range(void **state) {
    const pb_model *model = ((fixture *)*state)->gpt2;
    pb_error err = {0};
    pb_site site;
    assert_error(pb_site_parse(model, "z", true, 2, &site, &err), PB_ERR_ARGUMENT, "layers 0 to 1");
    assert_error(pb_site_parse(model, "z", true, -3, &site, &err), PB_ERR_ARGUMENT, "layers 0 to 1");
    assert_error(pb_site_parse(model, "blocks.2.attn.hook_z", false, 0, &site, &err), PB_ERR_ARGUMENT, "layers 0 to 1");
    assert_error(pb_site_parse(model, "blocks.-1.attn.hook_z", false, 0, &site, &err), PB_ERR_ARGUMENT,
                 "layers 0 to 1");
    assert_error(pb_site_parse(model, "blocks.99999999999999999999.attn.hook_z", false, 0, &site, &err),
                 PB_ERR_ARGUMENT, "range");
    assert_error(pb_site_parse(model, "blocks.0.attn.hook_z", true, 1, &site, &err), PB_ERR_ARGUMENT,
                 "layer 1 was given");
    assert_error(pb_site_parse(model, "z", false, 0, &site, &err), PB_ERR_ARGUMENT, "is in every layer");
    assert_error(pb_site_parse(model, "logits", true, 1, &site, &err), PB_ERR_ARGUMENT, "belongs to no layer");
}

static void site_parse__absent_in_the_family__says_why(void **state) {
    const fixture *f = *state;
    pb_error err = {0};
    pb_site site = {PB_SITE_LOGITS, 77};
    assert_error(pb_site_parse(f->gpt2, "rot_q", true, 0, &site, &err), PB_ERR_ARGUMENT, "not rotated");
    assert_error(pb_site_parse(f->gpt2, "mlp_pre_linear", true, 0, &site, &err), PB_ERR_ARGUMENT, "no gate");
    assert_error(pb_site_parse(f->gpt2, "ln1_post_scale", true, 0, &site, &err), PB_ERR_ARGUMENT, "gpt2");
    assert_error(pb_site_parse(f->gpt2, "expert_weights", true, 0, &site, &err), PB_ERR_ARGUMENT, "mixture");
    assert_error(pb_site_parse(f->llama, "hook_pos_embed", false, 0, &site, &err), PB_ERR_ARGUMENT,
                 "learned positions");
    assert_int_equal(site.layer, 77); /* not written */
}

static void site_parse_kind__with_and_without_a_number(void **state) {
    const pb_model *model = ((fixture *)*state)->llama;
    pb_error err = {0};
    pb_site site;
    assert_ok(pb_site_parse_kind(model, "resid_post", &site, &err));
    assert_true(pb_site_equal(site, (pb_site){PB_SITE_RESID_POST, -1}));
    assert_ok(pb_site_parse_kind(model, "blocks.1.attn.hook_rot_k", &site, &err));
    assert_true(pb_site_equal(site, (pb_site){PB_SITE_ROT_K, 1}));
    assert_error(pb_site_parse_kind(model, "pos_embed", &site, &err), PB_ERR_ARGUMENT, "learned");
    assert_error(pb_site_parse_kind(model, "blocks.7.attn.hook_z", &site, &err), PB_ERR_ARGUMENT, "range");
    assert_true(pb_site_equal(site, (pb_site){PB_SITE_ROT_K, 1})); /* not written */
}

static void site_parse__of_an_expert(void **state) {
    pb_context *ctx = ((fixture *)*state)->ctx;
    pb_error err = {0};
    pb_model *model = NULL;
    pb_site site;
    char name[64];
    assert_ok(pb_model_open(ctx, test_shared("golden/models/mixtral"), NULL, &model, &err));
    static const char *const spellings[] = {"blocks.1.mlp.experts.2.hook_post", "mlp.experts.2.hook_post",
                                            "experts.2.post"};
    for (size_t i = 0; i < 3; i++) {
        assert_ok(pb_site_parse(model, spellings[i], i > 0, 1, &site, &err));
        assert_true(pb_site_equal(site, (pb_site){PB_SITE_EXPERT_POST, 1, 2}));
    }
    assert_string_equal(pb_site_name(site, name, sizeof name), "blocks.1.mlp.experts.2.hook_post");
    assert_string_equal(pb_site_short_name(site, name, sizeof name), "experts.2.post");
    assert_ok(pb_site_parse(model, "blocks.0.mlp.experts.3.hook_gate", false, 0, &site, &err));
    assert_true(pb_site_equal(site, (pb_site){PB_SITE_EXPERT_GATE, 0, 3}));
    assert_ok(pb_site_parse_kind(model, "experts.3.pre", &site, &err));
    assert_true(pb_site_equal(site, (pb_site){PB_SITE_EXPERT_PRE, -1, 3}));
    assert_error(pb_site_parse(model, "experts.4.post", true, 1, &site, &err), PB_ERR_ARGUMENT, "experts 0 to 3");
    assert_error(pb_site_parse(model, "experts.-1.post", true, 1, &site, &err), PB_ERR_ARGUMENT, "experts 0 to 3");
    assert_error(pb_site_parse(model, "experts.99999999999999999999.post", true, 1, &site, &err), PB_ERR_ARGUMENT,
                 "experts 0 to 3");
    assert_error(pb_site_parse(model, "experts.post", true, 1, &site, &err), PB_ERR_ARGUMENT, "say which");
    assert_error(pb_site_parse(model, "experts.1.pst", true, 1, &site, &err), PB_ERR_ARGUMENT, "did you mean");
    assert_error(pb_site_parse(model, "experts.1.resid_pre", true, 1, &site, &err), PB_ERR_ARGUMENT, "no site");
    assert_error(pb_site_parse(model, "mlp.hook_post", true, 1, &site, &err), PB_ERR_ARGUMENT, "mixture");
    assert_error(pb_site_parse(((fixture *)*state)->llama, "experts.0.post", true, 1, &site, &err), PB_ERR_ARGUMENT,
                 "no mixture");
    assert_true(pb_site_exists(model, (pb_site){PB_SITE_EXPERT_POST, 1, 3}));
    assert_false(pb_site_exists(model, (pb_site){PB_SITE_EXPERT_POST, 1, 4}));
    assert_false(pb_site_exists(model, (pb_site){PB_SITE_RESID_PRE, 1, 1}));
    pb_model_unref(model);
}

static void expect_shape(const pb_model *model, pb_site_kind kind, int ndim, int64_t a, int64_t b, int64_t c) {
    int64_t shape[4] = {0};
    assert_int_equal(pb_site_shape_of(model, kind, 5, shape), ndim);
    assert_int_equal(shape[0], a);
    assert_int_equal(shape[1], b);
    if (ndim > 2)
        assert_int_equal(shape[2], c);
}

static void site_shapes__of_a_grouped_model(void **state) {
    const pb_model *model = ((fixture *)*state)->llama; /* 4 heads of 8, 2 key/value heads, width 24 */
    expect_shape(model, PB_SITE_RESID_PRE, 2, 5, 24, 0);
    expect_shape(model, PB_SITE_LN1_SCALE, 2, 5, 1, 0);
    expect_shape(model, PB_SITE_Q, 3, 5, 4, 8);
    expect_shape(model, PB_SITE_K, 3, 5, 2, 8);
    expect_shape(model, PB_SITE_Q_INPUT, 3, 5, 4, 24);
    expect_shape(model, PB_SITE_V_INPUT, 3, 5, 2, 24);
    expect_shape(model, PB_SITE_PATTERN, 3, 4, 5, 5);
    expect_shape(model, PB_SITE_RESULT, 3, 5, 4, 24);
    expect_shape(model, PB_SITE_MLP_POST, 2, 5, 40, 0);
    expect_shape(model, PB_SITE_LOGITS, 2, 5, 64, 0);
    pb_site_info info = pb_site_describe(model, PB_SITE_MLP_POST);
    assert_string_equal(info.width_name, "neuron");
    assert_int_equal(info.heads, 0);
    assert_int_equal(pb_site_describe(model, PB_SITE_ATTN_SCORES).shape, PB_SHAPE_HEAD_POS_POS);
}

static void site_names__are_all_different(void **state) {
    (void)state;
    for (int a = 0; a < PB_SITE_KINDS; a++) {
        for (int b = 0; b < a; b++) {
            char name_a[64], name_b[64];
            pb_site_name((pb_site){(pb_site_kind)a, 0}, name_a, sizeof name_a);
            pb_site_name((pb_site){(pb_site_kind)b, 0}, name_b, sizeof name_b);
            assert_string_not_equal(name_a, name_b);
            pb_site_short_name((pb_site){(pb_site_kind)a, 0}, name_a, sizeof name_a);
            pb_site_short_name((pb_site){(pb_site_kind)b, 0}, name_b, sizeof name_b);
            assert_string_not_equal(name_a, name_b);
        }
    }
}

/* The sites that a golden case stores are those that exist: no more, no fewer (of the kinds that the cases store). */
static void check_existing_sites(pb_context *ctx, const char *folder) {
    pb_error err = {0};
    pb_model *model = NULL;
    pb_safetensors *expected = NULL;
    char path[4096];
    snprintf(path, sizeof path, "%s", folder);
    assert_ok(pb_model_open(ctx, path, NULL, &model, &err));
    assert_ok(pb_safetensors_open(ctx, test_path(path, "expected.safetensors"), &expected, &err));
    for (int kind = 0; kind < PB_SITE_KINDS; kind++) {
        switch (kind) { /* not stored by the golden cases */
        case PB_SITE_ATTN_IN:
        case PB_SITE_Q_INPUT:
        case PB_SITE_K_INPUT:
        case PB_SITE_V_INPUT:
        case PB_SITE_RESULT:
        case PB_SITE_MLP_IN:
        case PB_SITE_EXPERT_WEIGHTS:
        case PB_SITE_EXPERT_INDICES:
        case PB_SITE_EXPERT_GATE:
        case PB_SITE_EXPERT_PRE:
        case PB_SITE_EXPERT_POST:
            continue;
        default:
            break;
        }
        bool layered = pb_site_has_layer((pb_site_kind)kind);
        for (int layer = layered ? 0 : -1; layer < (layered ? pb_model_layers(model) : 0); layer++) {
            char site[64], name[80];
            snprintf(name, sizeof name, "p1.%s", pb_site_name((pb_site){(pb_site_kind)kind, layer}, site, sizeof site));
            bool stored = pb_safetensors_find(expected, name) != NULL;
            if (stored != pb_site_exists(model, (pb_site){(pb_site_kind)kind, layer})) {
                print_error("%s: %s is %sstored\n", path, name, stored ? "" : "not ");
                fail();
            }
        }
    }
    pb_safetensors_unref(expected);
    pb_model_unref(model);
}

static void site_exists__as_the_golden_models_store(void **state) {
    pb_context *ctx = ((fixture *)*state)->ctx;
    static const char *const own[] = {"gpt2", "gpt2-untied", "llama", "llama-bias"};
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        check_existing_sites(ctx, test_path(test_data("golden/models"), own[i]));
}

static void site_exists__as_the_shared_golden_models_store(void **state) {
    pb_context *ctx = ((fixture *)*state)->ctx;
    static const char *const others[] = {"bloom",
                                         "cohere",
                                         "falcon",
                                         "falcon-alibi",
                                         "falcon-new",
                                         "gemma",
                                         "gemma2",
                                         "gemma3",
                                         "gpt_neo",
                                         "gpt_neox",
                                         "gpt_neox-sequential",
                                         "gptj",
                                         "granite",
                                         "mistral",
                                         "mixtral",
                                         "olmo",
                                         "olmo2",
                                         "opt",
                                         "opt-postnorm",
                                         "phi",
                                         "phi3",
                                         "qwen2",
                                         "qwen3",
                                         "smollm3",
                                         "stablelm",
                                         "stablelm-parallel",
                                         "starcoder2"};
    char folder[4096];
    snprintf(folder, sizeof folder, "%s", test_shared("golden/models"));
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        check_existing_sites(ctx, test_path(folder, others[i]));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(site_parse__every_kind_by_its_full_and_short_name),
        cmocka_unit_test(site_parse__spellings_of_transformer_lens),
        cmocka_unit_test(site_parse__unknown_site__names_the_nearest),
        cmocka_unit_test(site_parse__layer_out_of_range__says_the_range),
        cmocka_unit_test(site_parse__absent_in_the_family__says_why),
        cmocka_unit_test(site_parse_kind__with_and_without_a_number),
        cmocka_unit_test(site_parse__of_an_expert),
        cmocka_unit_test(site_shapes__of_a_grouped_model),
        cmocka_unit_test(site_names__are_all_different),
        cmocka_unit_test(site_exists__as_the_golden_models_store),
        cmocka_unit_test(site_exists__as_the_shared_golden_models_store),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
