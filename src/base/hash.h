/* SHA-256 as lower-case hexadecimal text, through libcrypto. */
#ifndef PB_BASE_HASH_H
#define PB_BASE_HASH_H

#include "patchbay/context.h"

enum { PB_SHA256_TEXT = 65 }; /* 64 digits and the NUL */

typedef struct pb_sha256 pb_sha256; /* a digest in the making */

/* Streaming: begin, add as often as needed, end (writes the digits and releases) or drop (releases; NULL is a no-op). */
pb_status pb_sha256_begin(pb_context *ctx, pb_sha256 **out, pb_error *err);
pb_status pb_sha256_add(pb_sha256 *h, const void *data, size_t size, pb_error *err);
pb_status pb_sha256_end(pb_sha256 *h, char text[PB_SHA256_TEXT], pb_error *err);
void pb_sha256_drop(pb_sha256 *h);

pb_status pb_sha256_buffer(pb_context *ctx, const void *data, size_t size, char text[PB_SHA256_TEXT], pb_error *err);
/* Of the file's whole contents; can be stopped (PB_ERR_STOPPED). */
pb_status pb_sha256_file(pb_context *ctx, const char *path, char text[PB_SHA256_TEXT], pb_error *err);

#endif
