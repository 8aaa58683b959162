/* exp, tanh and erf of vectors, for the *_isa.c files. Polynomials fitted here (weighted minimax, coefficients rounded
 * to float32); the errors stated are the largest found against double over a dense sample, see test_kernels. */
#ifndef PB_TENSOR_VECMATH_H
#define PB_TENSOR_VECMATH_H

#include "tensor/simd.h"

/* exp(x) = value * 2^n with |n| as large as x asks for. */
typedef struct vscaled {
    vf value;
    vi n;
} vscaled;

PB_INLINE vscaled vexp_scaled(vf x) {
    const vf round_by_adding = vset1(0x1.8p23f);
    /* x = n ln 2 + r; ln 2 in two parts, the first with few enough bits that n times it is exact. */
    vf shifted = vfma(x, vset1(0x1.715476p+0f), round_by_adding);
    vf n = shifted - round_by_adding;
    vf r = vfma(n, vset1(-0x1.62e4p-1f), x);
    r = vfma(n, vset1(-0x1.7f7d1cp-20f), r);

    vf p = vset1(0x1.6a1a6ep-10f);
    p = vfma(p, r, vset1(0x1.123fc6p-7f));
    p = vfma(p, r, vset1(0x1.555916p-5f));
    p = vfma(p, r, vset1(0x1.55548ap-3f));
    p = vfma(p, r, vset1(0x1.fffffcp-2f));
    return (vscaled){vfma(p, r * r, r) + vset1(1.0f), (vi)shifted - (vi)round_by_adding};
}

/* At most 1 ulp. Below -104 exactly 0 (the true value rounds to 0 there), above 88.73 +inf, NaN stays NaN, denormal
 * results are kept (within 2 units of them) unless the processor flushes them. */
PB_INLINE vf vexp(vf x) {
    x = vat_most(x, vset1(100.0f));
    x = vat_least(x, vset1(-110.0f));
    vscaled e = vexp_scaled(x);
    /* 2^n in two factors: n reaches 145 and -159. */
    vi half = e.n >> 1;
    vf first = (vf)((half + 127) << 23);
    vf second = (vf)((e.n - half + 127) << 23);
    return e.value * first * second;
}

/* The same for -87 < x < 88 (or NaN). */
PB_INLINE vf vexp_moderate(vf x) {
    vscaled e = vexp_scaled(x);
    return e.value * (vf)((e.n + 127) << 23);
}

/* At most 1.3 ulp. */
PB_INLINE vf vtanh(vf x) {
    vf size = vabs(x);
    vf square = x * x;
    vf p = vset1(-0x1.7364280p-8f);
    p = vfma(p, square, vset1(0x1.519c96p-6f));
    p = vfma(p, square, vset1(-0x1.b827fep-5f));
    p = vfma(p, square, vset1(0x1.110692p-3f));
    p = vfma(p, square, vset1(-0x1.555530p-2f));
    vf small = vfma(p * square, x, x);

    vf t = vat_most(size, vset1(10.0f)); /* where tanh is 1 to the last bit */
    vf large = vset1(1.0f) - vset1(2.0f) / (vexp_moderate(t + t) + vset1(1.0f));
    return vcopysign(vselect(size < vset1(0.625f), small, large), x); /* keeps the sign of a zero */
}

/* At most 1.4 ulp. */
PB_INLINE vf verf(vf x) {
    vf size = vabs(x);
    vf square = x * x;
    vf p = vset1(-0x1.38277cp-11f);
    p = vfma(p, square, vset1(0x1.46c2b8p-8f));
    p = vfma(p, square, vset1(-0x1.b676e6p-6f));
    p = vfma(p, square, vset1(0x1.ce1906p-4f));
    p = vfma(p, square, vset1(-0x1.8126dcp-2f));
    p = vfma(p, square, vset1(0x1.06eba6p-3f));
    vf small = vfma(p, x, x);

    /* 1 - exp(q(|x|)), q the logarithm of erfc; beyond 4 erf is 1 to the last bit. */
    vf t = vat_most(size, vset1(4.0f));
    vf q = vset1(0x1.9fb2eep-13f);
    q = vfma(q, t, vset1(-0x1.91cd1ap-9f));
    q = vfma(q, t, vset1(0x1.6d9cf0p-6f));
    q = vfma(q, t, vset1(-0x1.aa732cp-4f));
    q = vfma(q, t, vset1(-0x1.4621b8p-1f));
    q = vfma(q, t, vset1(-0x1.20b752p+0f));
    q = vfma(q, t, vset1(-0x1.5d0c4ep-13f));
    vf large = vset1(1.0f) - vexp_moderate(q);
    return vcopysign(vselect(size < vset1(0.921875f), small, large), x);
}

#endif
