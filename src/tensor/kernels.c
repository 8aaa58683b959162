/* The choice of instruction set, and the kernels of kernels.h that need nothing but it. */
#include "tensor/kernels.h"

#include <math.h>

#include "tensor/gemm_table.h"
#include "tensor/kernel_table.h"

extern const pb_vector_table pb_vector_baseline;
extern const pb_attention_table pb_attention_baseline;
extern const pb_gemm_table pb_gemm_baseline;

#if defined(__x86_64__)
extern const pb_vector_table pb_vector_avx2, pb_vector_avx512;
extern const pb_attention_table pb_attention_avx2, pb_attention_avx512;
extern const pb_gemm_table pb_gemm_avx2, pb_gemm_avx512;

/* Reads what the compiler's runtime found at start-up (a load and a test), so nothing need be remembered here. F16C
 * came before AVX2 on every processor that has both. */
#define CHOOSE(kind)                                                                                                   \
    do {                                                                                                               \
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&                                 \
            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))                                  \
            return &pb_##kind##_avx512;                                                                                \
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))                                           \
            return &pb_##kind##_avx2;                                                                                  \
        return &pb_##kind##_baseline;                                                                                  \
    } while (0)
#else
#define CHOOSE(kind) return &pb_##kind##_baseline
#endif

const pb_vector_table *pb_vector_table_here(void) { CHOOSE(vector); }

const pb_attention_table *pb_attention_table_here(void) { CHOOSE(attention); }

const pb_gemm_table *pb_gemm_table_here(void) { CHOOSE(gemm); }

const char *pb_kernels_name(void) { return pb_vector_table_here()->name; }

void pb_vec_exp(const float *x, float *y, int64_t n) { pb_vector_table_here()->exp(x, y, n); }

void pb_vec_add(const float *a, const float *b, float *y, int64_t n) { pb_vector_table_here()->add(a, b, y, n); }

void pb_vec_axpy(float alpha, const float *x, float *y, int64_t n) { pb_vector_table_here()->axpy(alpha, x, y, n); }

void pb_vec_scale(float alpha, float *x, int64_t n) { pb_vector_table_here()->scale(alpha, x, n); }

float pb_vec_dot(const float *a, const float *b, int64_t n) { return pb_vector_table_here()->dot(a, b, n); }

/* ---- rotary positions ------------------------------------------------------------------------------------------------ */

void pb_rotary_table(const float *inv_freq, int64_t half, int64_t position, float factor, float *cosine, float *sine) {
    for (int64_t i = 0; i < half; i++) {
        float angle = (float)position * inv_freq[i];
        cosine[i] = (float)cos((double)angle) * factor;
        sine[i] = (float)sin((double)angle) * factor;
    }
}

void pb_rotary_apply(float *head, int64_t dims, bool interleaved, const float *cosine, const float *sine) {
    const int64_t half = dims / 2;
    if (!interleaved) {
        pb_vector_table_here()->rotate(head, head + half, cosine, sine, half);
        return;
    }
    for (int64_t i = 0; i < half; i++) {
        float a = head[2 * i], b = head[2 * i + 1];
        head[2 * i] = a * cosine[i] - b * sine[i];
        head[2 * i + 1] = b * cosine[i] + a * sine[i];
    }
}

void pb_rotary_apply_back(float *grad, int64_t dims, bool interleaved, const float *cosine, const float *sine) {
    const int64_t half = dims / 2;
    if (!interleaved) {
        /* The transpose turns the other way, which is the rotation with the halves exchanged. */
        pb_vector_table_here()->rotate(grad + half, grad, cosine, sine, half);
        return;
    }
    for (int64_t i = 0; i < half; i++) {
        float a = grad[2 * i], b = grad[2 * i + 1];
        grad[2 * i] = a * cosine[i] + b * sine[i];
        grad[2 * i + 1] = b * cosine[i] - a * sine[i];
    }
}

/* ---- rows of logits -------------------------------------------------------------------------------------------------- */

double pb_row_logsumexp(const float *x, int64_t n) { return pb_vector_table_here()->logsumexp(x, n); }

float pb_row_max(const float *x, int64_t n) { return pb_vector_table_here()->max(x, n); }

void pb_row_softmax(float *x, int64_t n) { pb_vector_table_here()->softmax(x, n); }

int64_t pb_row_count_greater(const float *x, int64_t n, float value) {
    return pb_vector_table_here()->count_greater(x, n, value);
}

bool pb_rows_finite(const float *x, int64_t ld, int64_t rows, int64_t width) {
    const pb_vector_table *table = pb_vector_table_here();
    for (int64_t r = 0; r < rows; r++)
        if (!table->finite(x + r * ld, width))
            return false;
    return true;
}
