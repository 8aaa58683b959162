/* Streamed models: the same bits as ever, and no more of the files resident than a layer. */
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "model/spec.h"
#include "patchbay/grad.h"

enum { TOKENS = 9 };

/* ---- models ---------------------------------------------------------------------------------------------------------------- */

/* Vocabularies of several parts of the unembedding, the last one not whole. */
static model_shape wide_shape(bool llama) {
    model_shape shape = llama ? test_shape_llama(6) : test_shape_gpt2(6);
    shape.layers = 3;
    shape.vocab = 1000;
    return shape;
}

static pb_model *open_model(pb_context *ctx, const char *folder, bool stream) {
    pb_error err = {0};
    pb_model *model = NULL;
    pb_load_options options = {.stream = stream};
    assert_ok(pb_model_open(ctx, folder, &options, &model, &err));
    assert_true(pb_model_streamed(model) == stream);
    assert_true((pb_model_stream_window(model) > 0) == stream);
    return model;
}

/* ---- everything that the engine computes, of one model ------------------------------------------------------------------------ */

typedef struct outcome {
    pb_tensor *logits, *sites[3 * PB_SITE_KINDS + 8], *grads[3], *parameters[8];
    size_t n_sites, n_parameters;
    double values[256], metric;
    size_t n_values;
    int32_t *ids;
    size_t n_ids;
} outcome;

static pb_metric *metric_of(pb_context *ctx, pb_metric_kind kind, pb_run *reference) {
    pb_error err = {0};
    pb_metric *metric = NULL;
    const int32_t answer = 5, wrong = 9;
    pb_metric_options options = {.kind = kind, .reference = reference};
    if (kind != PB_METRIC_KL) {
        options.answers = &answer;
        options.n_answers = 1;
    }
    if (kind == PB_METRIC_LOGIT_DIFF) {
        options.wrong = &wrong;
        options.n_wrong = 1;
    }
    assert_ok(pb_metric_create(ctx, &options, &metric, &err));
    return metric;
}

/* One patch per layer and position from another run, at sites that runs keep and sites that they do not. */
static void sweep(pb_run *clean, pb_run *corrupt, const pb_metric *metric, bool chunked, outcome *out) {
    static const pb_site_kind kinds[] = {PB_SITE_RESID_PRE, PB_SITE_ATTN_OUT};
    pb_error err = {0};
    pb_patch patches[64] = {0};
    pb_request requests[64] = {0};
    static const int32_t positions[] = {2, 5, TOKENS - 1};
    size_t n = 0;
    for (int layer = 0; layer < pb_model_layers(pb_run_model(clean)); layer++)
        for (size_t k = 0; k < 2; k++)
            for (size_t p = 0; p < 3; p++, n++) {
                patches[n] = (pb_patch){
                    .site = {kinds[k], layer}, .pos = {true, 1, &positions[p]}, .value = PB_VALUE_RUN, .run = clean};
                requests[n] = (pb_request){.base = corrupt, .patches = &patches[n], .n_patches = 1, .metric = metric};
            }
    pb_measure_options options = {.allow_unread = true, .dry = true};
    pb_plan plan;
    assert_ok(pb_measure(requests, n, &options, NULL, NULL, &plan, &err));
    while (chunked && plan.chunks == 1) { /* a little less, until it does not go in one */
        options.memory = plan.bytes - 1;
        assert_ok(pb_measure(requests, n, &options, NULL, NULL, &plan, &err));
    }
    options.dry = false;
    assert_ok(pb_measure(requests, n, &options, out->values + out->n_values, NULL, &plan, &err));
    out->n_values += n;
}

static void take_gradients(pb_run *run, const pb_metric *metric, outcome *out) {
    pb_error err = {0};
    const pb_site sites[3] = {
        {PB_SITE_RESID_PRE, 0}, {PB_SITE_Z, 1}, {PB_SITE_MLP_OUT, pb_model_layers(pb_run_model(run)) - 1}};
    pb_grad_request request = {.run = run, .metric = metric, .sites = sites, .n_sites = 3, .weight = 1};
    pb_tensor **grads = out->grads;
    assert_ok(pb_grad(&request, 1, NULL, &out->metric, &grads, &err));
}

static void compute(pb_model *model, outcome *out) {
    pb_error err = {0};
    pb_context *ctx = pb_model_context(model);
    int32_t ids[TOKENS], others[TOKENS];
    pb_run *clean = NULL, *corrupt = NULL;
    memset(out, 0, sizeof *out);
    test_tokens(pb_model_vocab(model), 1, ids, TOKENS);
    test_tokens(pb_model_vocab(model), 2, others, TOKENS);
    memcpy(others, ids, 2 * sizeof *ids); /* a shared prefix */
    assert_ok(pb_run_create(model, ids, TOKENS, &clean, &err));
    assert_ok(pb_run_fork(clean, others, TOKENS, &corrupt, &err));
    assert_ok(pb_run_value(corrupt, (pb_site){PB_SITE_LOGITS, -1}, &out->logits, &err));
    for (int kind = 0; kind < PB_SITE_KINDS; kind++)
        for (int layer = -1; layer < pb_model_layers(model); layer++) {
            pb_site site = {(pb_site_kind)kind, layer};
            if (layer < 3 && pb_site_has_layer(site.kind) == (layer >= 0) && pb_site_exists(model, site))
                assert_ok(pb_run_value(clean, site, &out->sites[out->n_sites++], &err));
        }
    pb_metric *metric = metric_of(ctx, PB_METRIC_LOGIT_DIFF, NULL), *kl = metric_of(ctx, PB_METRIC_KL, clean);
    sweep(clean, corrupt, kl, false, out);
    sweep(clean, corrupt, metric, true, out);
    take_gradients(corrupt, kl, out);
    pb_generate_options generate = {.tokens = 6};
    assert_ok(pb_generate(clean, &generate, &out->ids, &out->n_ids, &err));
    static const char *const names[] = {"embed.W_E", "unembed.W_U", "blocks.1.attn.W_K", "blocks.0.attn.W_O"};
    for (size_t i = 0; i < 4; i++)
        assert_ok(pb_model_parameter(model, names[i], &out->parameters[out->n_parameters++], &err));
    for (size_t i = 0; i < 4; i++)
        assert_ok(pb_model_weight(model, pb_model_weight_name(model, i), &out->parameters[out->n_parameters++], &err));
    pb_metric_unref(kl);
    pb_metric_unref(metric);
    pb_run_unref(corrupt);
    pb_run_unref(clean);
}

static void assert_same(const outcome *a, const outcome *b) {
    assert_tensor_equal(a->logits, b->logits);
    assert_int_equal(a->n_sites, b->n_sites);
    for (size_t i = 0; i < a->n_sites; i++)
        assert_tensor_equal(a->sites[i], b->sites[i]);
    for (size_t i = 0; i < 3; i++)
        assert_tensor_equal(a->grads[i], b->grads[i]);
    for (size_t i = 0; i < a->n_parameters; i++)
        assert_tensor_equal(a->parameters[i], b->parameters[i]);
    assert_memory_equal(a->values, b->values, a->n_values * sizeof *a->values);
    assert_memory_equal(&a->metric, &b->metric, sizeof a->metric);
    assert_int_equal(a->n_ids, b->n_ids);
    assert_memory_equal(a->ids, b->ids, a->n_ids * sizeof *a->ids);
}

static void drop(outcome *out) {
    pb_tensor_unref(out->logits);
    for (size_t i = 0; i < out->n_sites; i++)
        pb_tensor_unref(out->sites[i]);
    for (size_t i = 0; i < 3; i++)
        pb_tensor_unref(out->grads[i]);
    for (size_t i = 0; i < out->n_parameters; i++)
        pb_tensor_unref(out->parameters[i]);
    pb_free(out->ids);
}

static void assert_folder_streams_alike(pb_context *ctx, const char *folder) {
    outcome plain, streamed;
    pb_model *model = open_model(ctx, folder, false);
    compute(model, &plain);
    pb_model_unref(model);
    model = open_model(ctx, folder, true);
    compute(model, &streamed);
    pb_model_unref(model);
    assert_same(&plain, &streamed);
    drop(&plain);
    drop(&streamed);
}

/* Runs, forks, every site, sweeps in one and several chunks, gradients, generation, weights. */
static void stream__gpt2_and_llama__same_bits(void **state) {
    for (int llama = 0; llama < 2; llama++) {
        char *folder = test_folder();
        model_shape shape = wide_shape(llama == 1);
        assert_true(model_write(folder, &shape) > 0);
        assert_folder_streams_alike(*state, folder);
        test_folder_remove(folder);
    }
}

/* Shards, 16-bit types, a head projected to a narrower embedding, experts, fused and grouped q k v, PyTorch files. */
static void stream__every_storage_and_form__same_bits(void **state) {
    static const char *const names[] = {"files-sharded", "files-bf16", "files-f16",    "mixtral",
                                        "gpt_neox",      "falcon-new", "opt-postnorm", "bloom"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[4096];
        snprintf(path, sizeof path, "golden/models/%s", names[i]);
        assert_folder_streams_alike(*state, test_shared(path));
    }
}

static void stream__pytorch_file__same_bits(void **state) {
    assert_folder_streams_alike(*state, test_data("golden/storage/bin"));
}

/* ---- weights of the parameters' gradients ------------------------------------------------------------------------------------ */

static pb_tensor *embedding_gradient(pb_model *model) {
    pb_error err = {0};
    int32_t ids[TOKENS];
    pb_run *run = NULL;
    size_t n = pb_model_weight_count(model);
    pb_tensor **weights = calloc(n, sizeof *weights), *wanted = NULL;
    test_tokens(pb_model_vocab(model), 1, ids, TOKENS);
    assert_ok(pb_run_create(model, ids, TOKENS, &run, &err));
    for (size_t i = 0; i < n; i++) {
        pb_tensor *w = NULL;
        assert_ok(pb_model_weight(model, pb_model_weight_name(model, i), &w, &err));
        assert_ok(
            pb_tensor_zeros(pb_model_context(model), PB_F32, pb_tensor_ndim(w), pb_tensor_shape(w), &weights[i], &err));
        pb_tensor_unref(w);
        if (strstr(pb_model_weight_name(model, i), "embed_tokens"))
            wanted = weights[i];
    }
    assert_non_null(wanted);
    pb_metric_options nll = {.kind = PB_METRIC_NLL};
    pb_metric *metric = NULL;
    assert_ok(pb_metric_create(pb_model_context(model), &nll, &metric, &err));
    pb_grad_request request = {.run = run, .metric = metric, .weight = 1};
    pb_grad_options options = {.weights = weights};
    double value;
    assert_ok(pb_grad(&request, 1, &options, &value, NULL, &err));
    for (size_t i = 0; i < n; i++)
        if (weights[i] != wanted)
            pb_tensor_unref(weights[i]);
    free(weights);
    pb_metric_unref(metric);
    pb_run_unref(run);
    return wanted;
}

static void stream__gradients_of_weights__same_bits(void **state) {
    char *folder = test_folder();
    model_shape shape = wide_shape(true);
    assert_true(model_write(folder, &shape) > 0);
    pb_model *plain = open_model(*state, folder, false), *streamed = open_model(*state, folder, true);
    pb_tensor *a = embedding_gradient(plain), *b = embedding_gradient(streamed);
    assert_tensor_equal(a, b);
    pb_tensor_unref(a);
    pb_tensor_unref(b);
    pb_model_unref(plain);
    pb_model_unref(streamed);
    test_folder_remove(folder);
}

/* ---- a weight that is not finite ------------------------------------------------------------------------------------------------ */

/* A folder whose model is base with one number of a weight replaced. */
static void write_spoilt(const pb_model *base, const char *folder, const char *name, int64_t row, int64_t column,
                         float value) {
    pb_error err = {0};
    pb_tensor *w = NULL;
    pb_model *spoilt = NULL;
    assert_ok(pb_model_weight(base, name, &w, &err));
    pb_tensor_floats(w)[row * pb_tensor_shape(w)[1] + column] = value;
    pb_named_tensor given = {name, w};
    assert_ok(pb_model_with_weights(base, &given, 1, &spoilt, &err));
    assert_ok(pb_model_export(spoilt, folder, PB_STORED_OTHER, &err));
    pb_tensor_unref(w);
    pb_model_unref(spoilt);
}

static void stream__nan_in_a_file__the_tensor_is_named(void **state) {
    static const struct {
        const char *name, *says;
        int64_t row, column;
        float value;
    } cases[] = {
        {"transformer.h.2.mlp.c_fc.weight", "in layer 2", 3, 5, NAN},
        {"transformer.h.1.attn.c_attn.weight", "in layer 1", 0, 9, INFINITY},
        {"transformer.wpe.weight", "position 4", 4, 0, NAN},
    };
    static const pb_load_options options[] = {{.stream = false}, {.stream = true}, {.fold_ln = true}};
    pb_error err = {0};
    char *folder = test_folder();
    model_shape shape = wide_shape(false);
    pb_model *base = test_model(*state, &shape);
    int32_t ids[TOKENS];
    test_tokens(shape.vocab, 1, ids, TOKENS);
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        write_spoilt(base, folder, cases[c].name, cases[c].row, cases[c].column, cases[c].value);
        for (size_t o = 0; o < sizeof options / sizeof options[0]; o++) {
            char tensor[256];
            pb_model *model = NULL;
            pb_run *run = NULL;
            assert_ok(pb_model_open(*state, folder, &options[o], &model, &err));
            snprintf(tensor, sizeof tensor, "tensor '%s' of model.safetensors is %s at [%d, %d]", cases[c].name,
                     isnan(cases[c].value) ? "NaN" : "infinite", (int)cases[c].row, (int)cases[c].column);
            assert_error(pb_run_create(model, ids, TOKENS, &run, &err), PB_ERR_NUMERIC, tensor);
            assert_non_null(strstr(err.message, cases[c].says));
            pb_model_unref(model);
        }
    }
    pb_model_unref(base);
    test_folder_remove(folder);
}

/* ---- what is resident ---------------------------------------------------------------------------------------------------------- */

/* Kilobytes of files below the folder that are resident in this process; -1 where the system does not say. */
static long resident_kilobytes(const char *folder) {
    FILE *maps = fopen("/proc/self/smaps", "r");
    char line[8192];
    long total = 0;
    bool inside = false;
    if (!maps)
        return -1;
    while (fgets(line, sizeof line, maps)) {
        char first[64];
        if (sscanf(line, "%63s", first) == 1 && strchr(first, '-'))
            inside = strstr(line, folder) != NULL;
        else if (inside && strncmp(line, "Rss:", 4) == 0)
            total += atol(line + 4);
    }
    fclose(maps);
    return total;
}

typedef struct watch {
    const char *folder;
    long most;
} watch;

/* A patch that changes nothing, and looks at what is resident when its layer computes. */
static pb_status look(void *user, const pb_patch *patch, const pb_run *base, size_t variant, pb_tensor *act,
                      pb_tensor **out, pb_error *err) {
    watch *w = user;
    (void)patch;
    (void)base;
    (void)variant;
    (void)act;
    (void)out;
    (void)err;
    long now = resident_kilobytes(w->folder);
    w->most = now > w->most ? now : w->most;
    return PB_OK;
}

/* 16 layers of about 1 MiB and an embedding of 6: the layers before and after the present one, and the tables, are let go. */
static void stream__resident_pages__a_layer_at_a_time(void **state) {
    pb_error err = {0};
    char *folder = test_folder();
    model_shape shape = {.llama = true,
                         .layers = 16,
                         .heads = 4,
                         .d_model = 160,
                         .d_mlp = 416,
                         .vocab = 10000,
                         .positions = 64,
                         .seed = 3};
    long parameters = (long)model_write(folder, &shape);
    assert_true(parameters > 0);
    if (resident_kilobytes(folder) < 0) {
        test_folder_remove(folder);
        skip();
    }
    for (int stream = 0; stream < 2; stream++) {
        pb_model *model = open_model(*state, folder, stream == 1);
        pb_run *run = NULL, *patched = NULL;
        watch w = {folder, 0};
        int32_t ids[TOKENS];
        pb_patch patches[16] = {0};
        for (int l = 0; l < shape.layers; l++)
            patches[l] = (pb_patch){.site = {PB_SITE_MLP_OUT, l}, .op = PB_PATCH_FN, .fn = look, .user = &w};
        test_tokens(shape.vocab, 8, ids, TOKENS);
        assert_ok(pb_run_create(model, ids, TOKENS, &run, &err));
        assert_ok(pb_run_patched(run, patches, (size_t)shape.layers, &patched, &err));
        pb_tensor *logits = NULL;
        assert_ok(pb_run_value(patched, (pb_site){PB_SITE_LOGITS, -1}, &logits, &err));
        long after = resident_kilobytes(folder), window = (long)(pb_model_stream_window(model) / 1024);
        long all = parameters * 4 / 1024;
        if (stream) {
            assert_true(window > all / 40 && window < all / 14);
            assert_true(w.most > window / 2 && w.most < window + 512);
            assert_true(after < 256);
        } else { /* or the figures above say nothing */
            assert_true(w.most > all / 2);
            assert_true(after > all / 2);
        }
        pb_tensor_unref(logits);
        pb_run_unref(patched);
        pb_run_unref(run);
        pb_model_unref(model);
    }
    test_folder_remove(folder);
}

/* ---- when it happens ---------------------------------------------------------------------------------------------------------- */

static void note_warning(void *user, const char *message) { snprintf(user, 1024, "%s", message); }

static void stream__weights_do_not_fit_the_budget__by_itself_with_one_warning(void **state) {
    pb_error err = {0};
    pb_context *ctx = *state;
    char *folder = test_folder(), warning[1024] = "";
    model_shape shape = {
        .layers = 8, .heads = 4, .d_model = 128, .d_mlp = 512, .vocab = 3000, .positions = 64, .seed = 3};
    assert_true(model_write(folder, &shape) > 0);
    pb_model *roomy = open_model(ctx, folder, false), *tight = NULL, *edited = NULL;
    outcome plain, streamed;
    compute(roomy, &plain);
    size_t bytes = (size_t)pb_model_weight_bytes(roomy), before = pb_context_memory_used(ctx);
    pb_context_on_warning(ctx, note_warning, warning);
    pb_context_set_memory_limit(ctx, before + bytes + (1 << 20));
    assert_ok(pb_model_open(ctx, folder, NULL, &tight, &err));
    assert_false(pb_model_streamed(tight));
    pb_model_unref(tight);
    assert_string_equal(warning, "");

    pb_context_set_memory_limit(ctx, before + bytes - 1);
    assert_ok(pb_model_open(ctx, folder, NULL, &tight, &err));
    assert_true(pb_model_streamed(tight));
    assert_non_null(strstr(warning, "is streamed"));
    assert_non_null(strstr(warning, "memory budget"));
    assert_null(strchr(warning, '\n'));
    assert_true(pb_context_memory_used(ctx) >= before + pb_model_stream_window(tight)); /* the window is charged */
    compute(tight, &streamed);
    assert_same(&plain, &streamed);
    drop(&streamed);

    /* what is made from it is streamed too, without another word; the replaced weight is in memory and is never let go */
    warning[0] = '\0';
    pb_tensor *w = NULL;
    const char *name = "transformer.h.3.mlp.c_fc.weight";
    assert_ok(pb_model_weight(tight, name, &w, &err));
    pb_named_tensor given = {name, w};
    assert_ok(pb_model_with_weights(tight, &given, 1, &edited, &err));
    pb_tensor_unref(w);
    assert_true(pb_model_streamed(edited));
    assert_string_equal(warning, "");
    compute(edited, &streamed);
    assert_same(&plain, &streamed);
    drop(&streamed);
    pb_model_unref(edited);
    pb_model_unref(tight);

    /* not even a layer fits */
    pb_context_set_memory_limit(ctx, before + (300 << 10));
    assert_error(pb_model_open(ctx, folder, NULL, &tight, &err), PB_ERR_MEMORY, "largest layer");
    assert_int_equal(pb_context_memory_used(ctx), before);
    pb_context_set_memory_limit(ctx, 0);
    drop(&plain);
    pb_model_unref(roomy);
    test_folder_remove(folder);
}

static void stream__weight_processing_or_copies__refused_with_the_reason(void **state) {
    pb_error err = {0};
    pb_model *model = NULL;
    pb_load_options options = {.stream = true, .fold_ln = true};
    assert_error(pb_model_open(*state, test_data("golden/models/gpt2"), &options, &model, &err), PB_ERR_UNSUPPORTED,
                 "stream and fold_ln");
    options = (pb_load_options){.stream = true, .center_unembed = true};
    assert_error(pb_model_open(*state, test_data("golden/models/gpt2"), &options, &model, &err), PB_ERR_UNSUPPORTED,
                 "stream and center_unembed");
    options = (pb_load_options){.stream = true};
    assert_error(pb_model_open(*state, test_data("golden/storage/bin-sharded"), &options, &model, &err),
                 PB_ERR_UNSUPPORTED, "F64");
    assert_error(pb_model_open(*state, test_data("golden/storage/bin-bf16"), &options, &model, &err),
                 PB_ERR_UNSUPPORTED, "order of its numbers");
}

static pb_status open_streamed(pb_context *ctx, void *user, pb_error *err) {
    pb_model *model = NULL;
    pb_load_options options = {.stream = true};
    PB_TRY(pb_model_open(ctx, user, &options, &model, err));
    pb_model_unref(model);
    return PB_OK;
}

static void stream__allocation_failures__say_so(void **state) {
    char *folder = test_folder();
    model_shape shape = wide_shape(false);
    assert_true(model_write(folder, &shape) > 0);
    assert_true(assert_survives_allocation_failure(*state, open_streamed, folder) > 20);
    test_folder_remove(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH_CONTEXT(stream__gpt2_and_llama__same_bits),
        WITH_CONTEXT(stream__every_storage_and_form__same_bits),
        WITH_CONTEXT(stream__pytorch_file__same_bits),
        WITH_CONTEXT(stream__gradients_of_weights__same_bits),
        WITH_CONTEXT(stream__nan_in_a_file__the_tensor_is_named),
        WITH_CONTEXT(stream__resident_pages__a_layer_at_a_time),
        WITH_CONTEXT(stream__weights_do_not_fit_the_budget__by_itself_with_one_warning),
        WITH_CONTEXT(stream__weight_processing_or_copies__refused_with_the_reason),
        WITH_CONTEXT(stream__allocation_failures__say_so),
    };
    return cmocka_run_group_tests_name("stream", tests, NULL, NULL);
}
