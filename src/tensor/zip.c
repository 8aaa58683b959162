/* The list of a zip archive's entries (APPNOTE 6.3, with zip64), for archives that lie in memory. The central directory
 * at the end is what counts; a file that was cut short has none. */
#include "tensor/zip.h"

#include <stdlib.h>
#include <string.h>

enum { END_SIZE = 22, END64_SIZE = 56, LOCATOR_SIZE = 20, CENTRAL_SIZE = 46, LOCAL_SIZE = 30, COMMENT_MAX = 65535 };

typedef struct reader {
    const unsigned char *data;
    size_t size;
    const char *path;
    pb_error *err;
} reader;

static uint64_t number(const unsigned char *at, int bytes) {
    uint64_t value = 0;
    for (int i = bytes - 1; i >= 0; i--)
        value = value << 8 | at[i];
    return value;
}

static bool signature(const reader *r, uint64_t at, const char *two, size_t size) {
    return at <= r->size && size <= r->size - at && r->data[at] == 'P' && r->data[at + 1] == 'K' &&
           memcmp(r->data + at + 2, two, 2) == 0;
}

static pb_status damaged(const reader *r, const char *what) {
    return pb_fail(r->err, PB_ERR_FORMAT, "%s: the zip archive is damaged: %s", r->path, what);
}

typedef struct directory {
    uint64_t offset, size, entries;
} directory;

static pb_status read_end64(const reader *r, size_t end, directory *out) {
    if (end < LOCATOR_SIZE || !signature(r, end - LOCATOR_SIZE, "\6\7", LOCATOR_SIZE))
        return damaged(r, "it has no zip64 locator");
    uint64_t at = number(r->data + end - LOCATOR_SIZE + 8, 8);
    if (!signature(r, at, "\6\6", END64_SIZE))
        return damaged(r, "its zip64 directory is not where it should be");
    out->entries = number(r->data + at + 32, 8);
    out->size = number(r->data + at + 40, 8);
    out->offset = number(r->data + at + 48, 8);
    return PB_OK;
}

static pb_status find_directory(const reader *r, directory *out) {
    size_t least = r->size > END_SIZE + COMMENT_MAX ? r->size - END_SIZE - COMMENT_MAX : 0, end = r->size;
    bool found = false;
    for (size_t at = r->size < END_SIZE ? 0 : r->size - END_SIZE + 1; at-- > least && !found;) {
        /* the comment must fill the rest: else these four bytes are somebody's data */
        found = signature(r, at, "\5\6", END_SIZE) && number(r->data + at + 20, 2) == r->size - at - END_SIZE;
        end = at;
    }
    if (!found)
        return damaged(r,
                       "its directory is missing from the end: the file was cut short, or more was written behind it");
    const unsigned char *e = r->data + end;
    if (number(e + 4, 2) != number(e + 6, 2) || number(e + 8, 2) != number(e + 10, 2))
        return pb_fail(r->err, PB_ERR_UNSUPPORTED, "%s: a zip archive in several parts cannot be read", r->path);
    *out = (directory){number(e + 16, 4), number(e + 12, 4), number(e + 10, 2)};
    if (out->offset == 0xffffffffu || out->size == 0xffffffffu || out->entries == 0xffffu)
        PB_TRY(read_end64(r, end, out));
    if (out->offset > end || out->size > end - out->offset)
        return damaged(r, "its directory lies outside of it");
    if (out->entries > out->size / CENTRAL_SIZE)
        return damaged(r, "its directory is too short for its entries");
    return PB_OK;
}

/* Sizes of 0xffffffff are in the zip64 extra field, in this order. */
static pb_status read_extra(const reader *r, const unsigned char *extra, size_t length, uint64_t *const values[3]) {
    while (length >= 4) {
        size_t kind = (size_t)number(extra, 2), size = (size_t)number(extra + 2, 2);
        if (size > length - 4)
            break;
        const unsigned char *at = extra + 4, *end = at + size;
        for (int i = 0; kind == 1 && i < 3; i++) {
            if (*values[i] != 0xffffffffu)
                continue;
            if (end - at < 8)
                return damaged(r, "a zip64 size is missing");
            *values[i] = number(at, 8);
            at += 8;
        }
        extra += 4 + size;
        length -= 4 + size;
    }
    return PB_OK;
}

/* The central header at `at`; *next: behind it. */
static pb_status read_entry(const reader *r, const directory *dir, uint64_t at, pb_zip_entry *out, uint64_t *next) {
    uint64_t end = dir->offset + dir->size;
    if (end - at < CENTRAL_SIZE || !signature(r, at, "\1\2", CENTRAL_SIZE))
        return damaged(r, "an entry of its directory has no header");
    const unsigned char *h = r->data + at;
    size_t name = (size_t)number(h + 28, 2), extra = (size_t)number(h + 30, 2), comment = (size_t)number(h + 32, 2);
    if (end - at - CENTRAL_SIZE < name + extra + comment)
        return damaged(r, "an entry of its directory is cut short");
    out->name = (const char *)h + CENTRAL_SIZE;
    out->name_length = name;
    uint64_t packed = number(h + 20, 4), size = number(h + 24, 4), offset = number(h + 42, 4);
    PB_TRY(read_extra(r, h + CENTRAL_SIZE + name, extra, (uint64_t *const[3]){&size, &packed, &offset}));
    int shown = name > 100 ? 100 : (int)name;
    if (number(h + 8, 2) & 1u)
        return pb_fail(r->err, PB_ERR_UNSUPPORTED, "%s: entry '%.*s' is encrypted", r->path, shown, out->name);
    out->compressed = number(h + 10, 2) != 0;
    if (!out->compressed && packed != size)
        return damaged(r, "an entry has two sizes");
    if (!signature(r, offset, "\3\4", LOCAL_SIZE))
        return damaged(r, "an entry is not where the directory says");
    uint64_t begin = offset + LOCAL_SIZE + number(r->data + offset + 26, 2) + number(r->data + offset + 28, 2);
    if (begin > dir->offset || packed > dir->offset - begin)
        return pb_fail(r->err, PB_ERR_FORMAT, "%s: the zip archive is damaged: entry '%.*s' goes beyond its end",
                       r->path, shown, out->name);
    out->data = r->data + begin;
    out->size = (size_t)packed;
    *next = at + CENTRAL_SIZE + name + extra + comment;
    return PB_OK;
}

static int compare(const char *a, size_t a_length, const char *b, size_t b_length) {
    int order = memcmp(a, b, a_length < b_length ? a_length : b_length);
    if (order != 0)
        return order;
    return a_length == b_length ? 0 : a_length < b_length ? -1 : 1;
}

static int by_name(const void *a, const void *b) {
    const pb_zip_entry *x = a, *y = b;
    return compare(x->name, x->name_length, y->name, y->name_length);
}

pb_status pb_zip_open(pb_context *ctx, const pb_mapping *map, const char *path, pb_zip *out, pb_error *err) {
    reader r = {map->data, map->size, path, err};
    directory dir = {0, 0, 0};
    PB_TRY(find_directory(&r, &dir));
    pb_zip zip = {ctx, pb_alloc(ctx, (size_t)dir.entries, sizeof *zip.entries), 0};
    if (!zip.entries)
        return pb_fail_memory(err, ctx, (size_t)dir.entries * sizeof *zip.entries, "the list of a zip archive");
    pb_status status = PB_OK;
    uint64_t at = dir.offset;
    for (uint64_t i = 0; i < dir.entries && status == PB_OK; i++)
        status = read_entry(&r, &dir, at, &zip.entries[zip.count++], &at);
    if (status == PB_OK && zip.count > 1)
        qsort(zip.entries, zip.count, sizeof *zip.entries, by_name);
    for (size_t i = 1; i < zip.count && status == PB_OK; i++) {
        if (by_name(&zip.entries[i - 1], &zip.entries[i]) == 0)
            status = damaged(&r, "two entries have one name");
    }
    if (status == PB_OK)
        *out = zip;
    else
        pb_zip_close(&zip);
    return status;
}

void pb_zip_close(pb_zip *zip) {
    pb_free(zip->entries);
    zip->entries = NULL;
    zip->count = 0;
}

const pb_zip_entry *pb_zip_find(const pb_zip *zip, const char *name, size_t length) {
    size_t low = 0, high = zip->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const pb_zip_entry *entry = &zip->entries[middle];
        int order = compare(name, length, entry->name, entry->name_length);
        if (order == 0)
            return entry;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}
