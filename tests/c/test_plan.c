/* Plans of runs and sweeps that were not run. */
#include "support/support.h"

/* What is announced is what happens: bytes of a run, peak of the work, and the plan of the same sweep on real runs. */
static void plan__of_runs_and_sweeps__is_what_they_cost(void **state) {
    enum { N = 11, MOST = 64 };
    pb_error err = {0};
    pb_context *ctx = *state;
    for (int llama = 0; llama < 2; llama++) {
        model_shape shape = llama ? test_shape_llama(7) : test_shape_gpt2(7);
        shape.d_model = 64;
        shape.d_head = 0;
        pb_model *model = test_model(ctx, &shape);
        int32_t ids[N], others[N];
        pb_run *base = NULL, *source = NULL;
        size_t kept, work;
        test_tokens(shape.vocab, 1, ids, N);
        for (int i = 0; i < N; i++)
            others[i] = (ids[i] + 1) % shape.vocab;
        assert_ok(pb_plan_run(model, N, &kept, &work, &err));
        size_t before = pb_context_memory_used(ctx);
        pb_context_reset_memory_peak(ctx);
        assert_ok(pb_run_create(model, ids, N, &base, &err));
        size_t peak = pb_context_memory_peak(ctx) - before;
        assert_true(pb_run_bytes(base) >= kept && pb_run_bytes(base) < kept + 4096);
        assert_true(peak > kept + work / 2);
        /* beside it: blocks' heads, the packing of products (4 MiB at most), and tables of a few kilobytes */
        assert_true(peak < kept + work + ((size_t)4 << 20) + (128 << 10));
        assert_ok(pb_run_create(model, others, N, &source, &err));

        for (int by_head = 0; by_head < 2; by_head++) {
            const pb_site_kind kind = by_head ? PB_SITE_Z : PB_SITE_RESID_PRE;
            int32_t index[N];
            pb_patch patches[MOST];
            pb_request requests[MOST];
            size_t n = 0;
            const int32_t answer = 0;
            pb_metric *metric = NULL;
            pb_metric_options options = {.kind = PB_METRIC_LOGIT, .answers = &answer, .n_answers = 1};
            assert_ok(pb_metric_create(ctx, &options, &metric, &err));
            for (int32_t i = 0; i < N; i++)
                index[i] = i;
            for (int layer = 0; layer < shape.layers; layer++)
                for (int i = 0; i < (by_head ? shape.heads : N); i++, n++) {
                    patches[n] = (pb_patch){.site = {kind, layer, 0}, .value = PB_VALUE_RUN, .run = source};
                    *(by_head ? &patches[n].head : &patches[n].pos) = (pb_choice){true, 1, &index[i]};
                    requests[n] = (pb_request){.base = base, .patches = &patches[n], .n_patches = 1, .metric = metric};
                }
            pb_measure_options dry = {.dry = true, .allow_unread = true};
            pb_plan real, planned;
            assert_ok(pb_measure(requests, n, &dry, NULL, NULL, &real, &err));
            assert_ok(pb_plan_sweep(model, kind, by_head, !by_head, N, &planned, &err));
            assert_int_equal(planned.variants, real.variants);
            assert_int_equal(planned.chunks, real.chunks);
            assert_int_equal(planned.bytes, real.bytes);
            assert_true(planned.flops == real.flops && planned.rows == real.rows);
            assert_true(planned.full_flops == real.full_flops && planned.full_rows == real.full_rows);
            pb_metric_unref(metric);
        }
        pb_plan unused;
        assert_error(pb_plan_run(model, 0, &kept, NULL, &err), PB_ERR_ARGUMENT, "1 to 32 tokens, not 0");
        assert_error(pb_plan_sweep(model, PB_SITE_Z, true, true, 33, &unused, &err), PB_ERR_ARGUMENT, "not 33");
        pb_run_unref(base);
        pb_run_unref(source);
        pb_model_unref(model);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {WITH_CONTEXT(plan__of_runs_and_sweeps__is_what_they_cost)};
    return cmocka_run_group_tests_name("plan", tests, NULL, NULL);
}
