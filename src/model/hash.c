/* SHA-256 of a model: of what its numbers come from. Reading many gigabytes takes seconds, so that a digest of files that
 * have not changed since (path, file number, size, time of change) can be kept in a folder: one small file per digest. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/strbuf.h"
#include "model/loading.h"

/* Adds bytes to a digest, in pieces between which the work can be stopped. mapped: they are a file's, and each piece is let go
 * after it. */
static pb_status hash_bytes(const pb_model *model, const void *data, size_t size, bool mapped, pb_sha256 *digest,
                            pb_error *err) {
    enum { PIECE = 8 << 20 };
    for (size_t at = 0; at < size; at += PIECE) {
        size_t n = size - at < PIECE ? size - at : PIECE;
        PB_TRY(pb_context_check(model->ctx, err));
        PB_TRY(pb_sha256_add(digest, (const char *)data + at, n, err));
        if (mapped)
            pb_mapping_release((const char *)data + at, n);
    }
    return PB_OK;
}

static pb_status hash_file(const pb_model *model, const char *name, pb_sha256 *digest, pb_error *err) {
    pb_mapping map = {0};
    char *path = pb_path_join(model->ctx, model->folder, name);
    if (!path)
        return pb_fail_memory(err, model->ctx, strlen(name), "a path");
    pb_status status = pb_file_map(path, &map, err);
    if (status == PB_OK)
        status = hash_bytes(model, map.data, map.size, true, digest, err);
    pb_file_unmap(&map);
    pb_free(path);
    return status;
}

/* A tensor in memory: its name and shape, then its values as they are now. */
static pb_status hash_tensor(const pb_model *model, const pb_entry *entry, pb_sha256 *digest, pb_error *err) {
    char shape[256];
    pb_shape_text(entry->ndim, entry->shape, shape, sizeof shape);
    PB_TRY(pb_sha256_add(digest, entry->name, strlen(entry->name) + 1, err));
    PB_TRY(pb_sha256_add(digest, shape, strlen(shape) + 1, err));
    return hash_bytes(model, entry->data, entry->bytes, false, digest, err);
}

/* The file with the least name above `after` (NULL: of all); NULL if there is none. */
static const char *next_file(const pb_model *model, const char *after) {
    const char *best = NULL;
    for (size_t i = 0; i < model->n_sources; i++) {
        const char *name = model->sources[i]->name;
        if (!pb_source_is_memory(model->sources[i]) && (!after || strcmp(name, after) > 0) &&
            (!best || strcmp(name, best) < 0))
            best = name;
    }
    return best;
}

pb_status pb_model_hash(const pb_model *model, char out[65], pb_error *err) {
    pb_sha256 *digest = NULL;
    PB_TRY(pb_sha256_begin(model->ctx, &digest, err));
    pb_status status = hash_bytes(model, model->config, model->config_length, false, digest, err);
    for (const char *name = next_file(model, NULL); status == PB_OK && name; name = next_file(model, name))
        status = hash_file(model, name, digest, err);
    for (size_t i = 0; status == PB_OK && i < model->n_weights; i++) { /* sorted by name */
        if (pb_source_is_memory(model->weights[i].source))
            status = hash_tensor(model, model->weights[i].entry, digest, err);
    }
    if (status != PB_OK) {
        pb_sha256_drop(digest);
        return status;
    }
    return pb_sha256_end(digest, out, err);
}

/* ---- kept digests ------------------------------------------------------------------------------------------------------ */

/* What the digest depends on, as a digest of its own; *usable false: tensors in memory, or a file so young that a change
 * within the same tick of its clock would not show. */
static pb_status make_key(const pb_model *model, char key[PB_SHA256_TEXT], bool *usable, pb_error *err) {
    enum { YOUNG = 3 /* seconds */ };
    pb_strbuf text;
    pb_strbuf_init(&text, model->ctx);
    pb_strbuf_add_bytes(&text, model->config, model->config_length);
    *usable = true;
    for (const char *name = next_file(model, NULL); *usable && name; name = next_file(model, name)) {
        struct stat info;
        char *path = pb_path_join(model->ctx, model->folder, name);
        *usable = path && stat(path, &info) == 0 && time(NULL) - info.st_mtim.tv_sec > YOUNG;
        if (*usable)
            pb_strbuf_printf(&text, "\n%s %llu.%llu %lld %lld.%09ld", path, (unsigned long long)info.st_dev,
                             (unsigned long long)info.st_ino, (long long)info.st_size, (long long)info.st_mtim.tv_sec,
                             info.st_mtim.tv_nsec);
        pb_free(path);
    }
    for (size_t i = 0; i < model->n_sources; i++)
        *usable = *usable && !pb_source_is_memory(model->sources[i]);
    char *whole = NULL;
    size_t length = 0;
    PB_TRY(pb_strbuf_take(&text, &whole, &length, "a digest's key", err));
    pb_status status = pb_sha256_buffer(model->ctx, whole, length, key, err);
    pb_free(whole);
    return status;
}

static bool is_digest(const char *text, size_t length) {
    return length == PB_SHA256_TEXT - 1 && strspn(text, "0123456789abcdef") == length;
}

static bool read_kept(const pb_model *model, const char *path, char out[PB_SHA256_TEXT]) {
    char *text = NULL;
    size_t length = 0;
    bool kept = pb_file_exists(path) && pb_file_read(model->ctx, path, 4096, &text, &length, NULL) == PB_OK &&
                is_digest(text, length);
    if (kept)
        memcpy(out, text, PB_SHA256_TEXT);
    pb_free(text);
    return kept;
}

pb_status pb_model_hash_cached(const pb_model *model, const char *cache, char out[65], pb_error *err) {
    char key[PB_SHA256_TEXT];
    bool usable = false;
    if (cache && *cache)
        PB_TRY(make_key(model, key, &usable, err));
    if (!usable)
        return pb_model_hash(model, out, err);
    char *path = pb_path_join(model->ctx, cache, key);
    if (!path)
        return pb_fail_memory(err, model->ctx, strlen(cache) + PB_SHA256_TEXT, "a path");
    pb_status status = PB_OK;
    if (!read_kept(model, path, out)) {
        status = pb_model_hash(model, out, err);
        /* a cache that cannot be written is no failure */
        if (status == PB_OK && pb_folder_create(model->ctx, cache, NULL) == PB_OK)
            (void)!pb_file_write(model->ctx, path, out, PB_SHA256_TEXT - 1, NULL);
    }
    pb_free(path);
    return status;
}
