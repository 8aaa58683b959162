/* The name that git gives to a file's contents: SHA-1 of "blob SIZE\0" and the contents. */
#ifndef PB_BASE_GITBLOB_H
#define PB_BASE_GITBLOB_H

#include "patchbay/context.h"

enum { PB_GIT_BLOB_TEXT = 41 }; /* 40 lower-case hexadecimal digits and the NUL */

/* PB_ERR_IO; PB_ERR_UNSUPPORTED where libcrypto offers no SHA-1; can be stopped. */
pb_status pb_git_blob_file(const pb_context *ctx, const char *path, char text[PB_GIT_BLOB_TEXT], pb_error *err);

#endif
