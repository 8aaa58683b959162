/* LAPACK as OpenBLAS brings it (Fortran symbols, 32-bit integers), and the checks that come before a call.
 *
 * LAPACK is column-major. A row-major matrix handed over as it lies is the transpose; callers say how they make use of
 * that instead of copying. LAPACK gets finite numbers only: with NaN some of its loops never end. */
#ifndef PB_TENSOR_LAPACK_H
#define PB_TENSOR_LAPACK_H

#include "tensor/internal.h"

/* The lengths of the character arguments come last, as gfortran has it. */
void sgesdd_(const char *jobz, const int *m, const int *n, float *a, const int *lda, float *s, float *u, const int *ldu,
             float *vt, const int *ldvt, float *work, const int *lwork, int *iwork, int *info, size_t jobz_length);
void dsyevd_(const char *jobz, const char *uplo, const int *n, double *a, const int *lda, double *w, double *work,
             const int *lwork, int *iwork, const int *liwork, int *info, size_t jobz_length, size_t uplo_length);
void dgeev_(const char *jobvl, const char *jobvr, const int *n, double *a, const int *lda, double *wr, double *wi,
            double *vl, const int *ldvl, double *vr, const int *ldvr, double *work, const int *lwork, int *info,
            size_t jobvl_length, size_t jobvr_length);
void dgesv_(const int *n, const int *nrhs, double *a, const int *lda, int *ipiv, double *b, const int *ldb, int *info);
void dgecon_(const char *norm, const int *n, const double *a, const int *lda, const double *anorm, double *rcond,
             double *work, int *iwork, int *info, size_t norm_length);
void dpotrf_(const char *uplo, const int *n, double *a, const int *lda, int *info, size_t uplo_length);
void dgelsd_(const int *m, const int *n, const int *nrhs, double *a, const int *lda, double *b, const int *ldb,
             double *s, const double *rcond, int *rank, double *work, const int *lwork, int *iwork, int *info);

/* a is a float32 matrix (square if asked for) that LAPACK's 32-bit integers can index. what: the operation's name. */
pb_status pb_require_matrix(const pb_tensor *a, bool square, const char *what, pb_error *err);
/* PB_ERR_NUMERIC with the place of the first NaN or infinity. */
pb_status pb_require_finite(const pb_tensor *a, const char *what, pb_error *err);
/* |a - a^T| may be rounding of single precision, no more. */
pb_status pb_require_symmetric(const pb_tensor *a, const char *what, pb_error *err);
/* LAPACK's info after an iteration that did not converge. */
pb_status pb_fail_info(const char *what, int info, pb_error *err);
/* Entries (a vector is one column) as double: row-major, or column-major with leading dimension `lead` if by_columns. */
void pb_to_double(const pb_tensor *a, double *out, bool by_columns, int64_t lead);

#endif
