/* AdamW against its formula in double. */
#include "support/support.h"

#include <math.h>

#include "patchbay/optim.h"

static pb_error err;

static void adamw__three_steps__follow_the_formula(void **state) {
    (void)state;
    pb_context *ctx = test_context();
    int64_t n = 5;
    const float start[5] = {1, -2, 0.5f, 0, 3},
                grads[3][5] = {{0.1f, -0.2f, 0, 1, -3}, {0.5f, 0.1f, 0.2f, -1, 2}, {0, 0, 0, 0, 1e-3f}};
    pb_tensor *w = NULL, *m = NULL, *v = NULL;
    assert_ok(pb_tensor_from_floats(ctx, 1, &n, start, &w, &err));
    assert_ok(pb_tensor_zeros(ctx, PB_F32, 1, &n, &m, &err));
    assert_ok(pb_tensor_zeros(ctx, PB_F32, 1, &n, &v, &err));
    double dw[5], dm[5] = {0}, dv[5] = {0};
    for (int i = 0; i < 5; i++)
        dw[i] = start[i];
    for (int step = 1; step <= 3; step++) {
        pb_adamw o = {
            .rate = 0.1, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .decay = 0.05, .grad_scale = 0.5, .step = step};
        pb_tensor *g = NULL;
        assert_ok(pb_tensor_from_floats(ctx, 1, &n, grads[step - 1], &g, &err));
        assert_ok(pb_adamw_step(&o, w, g, m, v, &err));
        pb_tensor_unref(g);
        for (int i = 0; i < 5; i++) {
            double d = grads[step - 1][i] * 0.5;
            dm[i] = 0.9 * dm[i] + 0.1 * d;
            dv[i] = 0.99 * dv[i] + 0.01 * d * d;
            dw[i] -= 0.1 * 0.05 * dw[i];
            double update = 0.1 * (dm[i] / (1 - pow(0.9, step))) / (sqrt(dv[i] / (1 - pow(0.99, step))) + 1e-8);
            if (dm[i] != 0)
                dw[i] -= update;
            assert_close(pb_tensor_floats(w)[i], dw[i], 1e-5);
        }
    }
    int64_t other = 4;
    pb_tensor *bad = NULL;
    pb_adamw o = {.rate = 0.1, .step = 1};
    assert_ok(pb_tensor_zeros(ctx, PB_F32, 1, &other, &bad, &err));
    assert_error(pb_adamw_step(&o, w, bad, m, v, &err), PB_ERR_ARGUMENT, "one shape");
    pb_tensor_unref(bad);
    pb_tensor_unref(w);
    pb_tensor_unref(m);
    pb_tensor_unref(v);
    pb_context_unref(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(adamw__three_steps__follow_the_formula)};
    return cmocka_run_group_tests_name("optim", tests, NULL, NULL);
}
