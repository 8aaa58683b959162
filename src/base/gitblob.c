/* Git's name of a blob; see gitblob.h. */
#include "base/gitblob.h"

#include <openssl/evp.h>
#include <stdio.h>

#include "base/file.h"

pb_status pb_git_blob_file(const pb_context *ctx, const char *path, char text[PB_GIT_BLOB_TEXT], pb_error *err) {
    const size_t step = (size_t)8 << 20; /* between two looks at the stop flag */
    static const char digits[] = "0123456789abcdef";
    pb_mapping map = {0};
    PB_TRY(pb_file_map(path, &map, err));
    char head[32];
    int n = snprintf(head, sizeof head, "blob %zu", map.size);
    EVP_MD_CTX *digest = EVP_MD_CTX_new();
    bool ok = digest && EVP_DigestInit_ex(digest, EVP_sha1(), NULL) == 1 &&
              EVP_DigestUpdate(digest, head, (size_t)n + 1) == 1;
    pb_status status = PB_OK;
    for (size_t at = 0; ok && status == PB_OK && at < map.size; at += step) {
        status = pb_context_check(ctx, err);
        ok = EVP_DigestUpdate(digest, map.data + at, map.size - at < step ? map.size - at : step) == 1;
    }
    unsigned char bytes[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    ok = ok && (status != PB_OK || (EVP_DigestFinal_ex(digest, bytes, &size) == 1 && size == 20));
    if (status == PB_OK && !ok)
        status = pb_fail(err, PB_ERR_UNSUPPORTED, "libcrypto offers no SHA-1 (a restricted OpenSSL configuration?)");
    for (unsigned int i = 0; status == PB_OK && i < 20; i++) {
        text[2 * i] = digits[bytes[i] >> 4];
        text[2 * i + 1] = digits[bytes[i] & 15];
    }
    text[status == PB_OK ? 40 : 0] = '\0';
    EVP_MD_CTX_free(digest);
    pb_file_unmap(&map);
    return status;
}
