/* SHA-256; see hash.h. The only place that includes openssl headers. */
#include "base/hash.h"

#include <openssl/evp.h>
#include <string.h>

#include "base/file.h"

struct pb_sha256 {
    EVP_MD_CTX *digest;
};

pb_status pb_sha256_begin(pb_context *ctx, pb_sha256 **out, pb_error *err) {
    pb_sha256 *h = pb_alloc_zero(ctx, 1, sizeof *h);
    if (!h)
        return pb_fail_memory(err, ctx, sizeof *h, "a SHA-256 digest");
    h->digest = EVP_MD_CTX_new();
    if (!h->digest || EVP_DigestInit_ex(h->digest, EVP_sha256(), NULL) != 1) {
        pb_sha256_drop(h);
        return pb_fail(err, PB_ERR_UNSUPPORTED, "libcrypto offers no SHA-256 (a restricted OpenSSL configuration?)");
    }
    *out = h;
    return PB_OK;
}

pb_status pb_sha256_add(pb_sha256 *h, const void *data, size_t size, pb_error *err) {
    if (size && EVP_DigestUpdate(h->digest, data, size) != 1)
        return pb_fail(err, PB_ERR_UNSUPPORTED, "libcrypto failed while it computed a SHA-256");
    return PB_OK;
}

pb_status pb_sha256_end(pb_sha256 *h, char text[PB_SHA256_TEXT], pb_error *err) {
    static const char digits[] = "0123456789abcdef";
    unsigned char bytes[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    int ok = EVP_DigestFinal_ex(h->digest, bytes, &size);
    pb_sha256_drop(h);
    if (ok != 1 || size != 32)
        return pb_fail(err, PB_ERR_UNSUPPORTED, "libcrypto failed while it computed a SHA-256");
    for (unsigned int i = 0; i < size; i++) {
        text[2 * i] = digits[bytes[i] >> 4];
        text[2 * i + 1] = digits[bytes[i] & 15];
    }
    text[64] = '\0';
    return PB_OK;
}

void pb_sha256_drop(pb_sha256 *h) {
    if (!h)
        return;
    EVP_MD_CTX_free(h->digest);
    pb_free(h);
}

pb_status pb_sha256_buffer(pb_context *ctx, const void *data, size_t size, char text[PB_SHA256_TEXT], pb_error *err) {
    pb_sha256 *h = NULL;
    PB_TRY(pb_sha256_begin(ctx, &h, err));
    pb_status status = pb_sha256_add(h, data, size, err);
    if (status != PB_OK) {
        pb_sha256_drop(h);
        return status;
    }
    return pb_sha256_end(h, text, err);
}

pb_status pb_sha256_file(pb_context *ctx, const char *path, char text[PB_SHA256_TEXT], pb_error *err) {
    const size_t step = (size_t)8 << 20; /* between two looks at the stop flag */
    pb_mapping map = {0};
    pb_sha256 *h = NULL;
    pb_status status = pb_file_map(path, &map, err);
    if (status == PB_OK)
        status = pb_sha256_begin(ctx, &h, err);
    for (size_t at = 0; status == PB_OK && at < map.size; at += step) {
        status = pb_context_check(ctx, err);
        if (status == PB_OK)
            status = pb_sha256_add(h, map.data + at, map.size - at < step ? map.size - at : step, err);
    }
    if (status == PB_OK)
        status = pb_sha256_end(h, text, err);
    else
        pb_sha256_drop(h);
    pb_file_unmap(&map);
    return status;
}
