/* PNG through libpng, the only file that includes it: writing pixels with iTXt chunks, reading text chunks back.
 *
 * libpng reports errors by longjmp. Every setjmp is in a function whose locals are not changed after it; all state
 * lives in a struct of the caller. libpng's memory comes from the context: budget and fault injection hold for it. */
#include <png.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

#include "base/file.h"
#include "base/strbuf.h"
#include "figure/figure_private.h"

enum { KEY_LIMIT = 79, COMPRESS_FROM = 256, CHUNK_LIMIT = 64 << 20, PIXEL_LIMIT = 1000000, MESSAGE_LIMIT = 200 };

/* ---- shared by both directions -------------------------------------------------------------------------------- */

typedef struct png_job {
    pb_context *ctx;
    bool no_memory;
    char message[MESSAGE_LIMIT];
    png_structp png;
    png_infop info;
} png_job;

static void on_error(png_structp png, png_const_charp text) {
    png_job *job = png_get_error_ptr(png);
    snprintf(job->message, sizeof job->message, "%s", text);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp text) {
    (void)png;
    (void)text;
}

static png_voidp take_memory(png_structp png, png_alloc_size_t size) {
    png_job *job = png_get_mem_ptr(png);
    void *block = pb_alloc(job->ctx, size, 1);
    job->no_memory = job->no_memory || !block;
    return block;
}

static void release_memory(png_structp png, png_voidp block) {
    (void)png;
    pb_free(block);
}

static pb_status memory_error(const png_job *job, pb_error *err) {
    return pb_fail(err, PB_ERR_MEMORY, "out of memory in a PNG file (memory limit %zu bytes, in use %zu; 0: no limit)",
                   pb_context_memory_limit(job->ctx), pb_context_memory_used(job->ctx));
}

/* ---- metadata rules -------------------------------------------------------------------------------------------- */

/* The key in Latin-1 with a NUL. False where it is none that PNG allows. */
static bool latin1_key(const char *key, char out[KEY_LIMIT + 1]) {
    size_t used = 0;
    char last = ' ';
    for (size_t i = 0; key[i];) {
        utf8proc_int32_t c;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)key + i, -1, &c);
        bool printable = n > 0 && ((c >= 0x20 && c <= 0x7E) || (c >= 0xA1 && c <= 0xFF));
        if (!printable || used == KEY_LIMIT || (c == ' ' && last == ' '))
            return false;
        last = (char)(unsigned char)c;
        out[used++] = last;
        i += (size_t)n;
    }
    out[used] = '\0';
    return used > 0 && last != ' ';
}

pb_status pb_metadata_check(const pb_text_pair *pairs, size_t n, pb_error *err) {
    for (size_t i = 0; i < n; i++) {
        char key[KEY_LIMIT + 1];
        if (!pairs[i].key || !latin1_key(pairs[i].key, key))
            return pb_fail(err, PB_ERR_ARGUMENT,
                           "metadata key '%.100s' cannot be written: 1 to %d printable Latin-1 characters were "
                           "expected, without spaces at the ends or two together",
                           pairs[i].key ? pairs[i].key : "(null)", KEY_LIMIT);
        for (size_t k = 0; k < i; k++) {
            if (strcmp(pairs[k].key, pairs[i].key) == 0)
                return pb_fail(err, PB_ERR_ARGUMENT, "metadata key '%s' is given twice", pairs[i].key);
        }
        if (!pairs[i].value)
            return pb_fail(err, PB_ERR_ARGUMENT, "metadata '%s' has no value", pairs[i].key);
        size_t at = 0;
        while (pairs[i].value[at]) {
            utf8proc_int32_t c;
            utf8proc_ssize_t step = utf8proc_iterate((const utf8proc_uint8_t *)pairs[i].value + at, -1, &c);
            if (step <= 0)
                return pb_fail(err, PB_ERR_ARGUMENT, "the value of metadata '%s' is not UTF-8 (byte 0x%02X at %zu)",
                               pairs[i].key, (unsigned)(unsigned char)pairs[i].value[at], at);
            at += (size_t)step;
        }
    }
    return PB_OK;
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

typedef struct png_writing {
    png_job job;
    pb_strbuf bytes;
    png_text *texts;
    char (*keys)[KEY_LIMIT + 1];
    unsigned char *row;
    size_t width, height, stride;
    const unsigned char *pixels;
    double pixels_per_metre;
    size_t n_texts;
} png_writing;

static void write_bytes(png_structp png, png_bytep data, size_t size) {
    png_writing *w = png_get_io_ptr(png);
    pb_strbuf_add_bytes(&w->bytes, data, size);
    if (w->bytes.failed) {
        w->job.no_memory = true;
        png_error(png, "out of memory");
    }
}

static void flush_nothing(png_structp png) { (void)png; }

static void write_rows(png_writing *w) {
    for (size_t y = 0; y < w->height; y++) {
        const unsigned char *from = w->pixels + y * w->stride;
        for (size_t x = 0; x < w->width; x++) {
            uint32_t pixel;
            memcpy(&pixel, from + 4 * x, 4);
            w->row[3 * x] = (unsigned char)(pixel >> 16);
            w->row[3 * x + 1] = (unsigned char)(pixel >> 8);
            w->row[3 * x + 2] = (unsigned char)pixel;
        }
        png_write_row(w->job.png, w->row);
    }
}

/* False after an error; the job says which. */
static bool write_all(png_writing *w) {
    if (setjmp(png_jmpbuf(w->job.png)))
        return false;
    png_structp png = w->job.png;
    w->job.info = png_create_info_struct(png);
    if (!w->job.info)
        png_error(png, "out of memory");
    png_set_write_fn(png, w, write_bytes, flush_nothing);
    png_set_IHDR(png, w->job.info, (png_uint_32)w->width, (png_uint_32)w->height, 8, PNG_COLOR_TYPE_RGB,
                 PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_set_pHYs(png, w->job.info, (png_uint_32)(w->pixels_per_metre + 0.5), (png_uint_32)(w->pixels_per_metre + 0.5),
                 PNG_RESOLUTION_METER);
    png_set_sRGB(png, w->job.info, PNG_sRGB_INTENT_PERCEPTUAL);
    png_set_filter(png, PNG_FILTER_TYPE_BASE, PNG_FILTER_NONE); /* flat colours: rows repeat, filters only cost time */
    png_set_compression_level(png, 6);
    if (w->n_texts)
        png_set_text(png, w->job.info, w->texts, (int)w->n_texts);
    png_write_info(png, w->job.info);
    write_rows(w);
    png_write_end(png, NULL);
    return true;
}

static void fill_texts(png_writing *w, const pb_text_pair *texts) {
    for (size_t i = 0; i < w->n_texts; i++) {
        size_t length = strlen(texts[i].value);
        latin1_key(texts[i].key, w->keys[i]);
        w->texts[i] = (png_text){
            .compression = length >= COMPRESS_FROM ? PNG_ITXT_COMPRESSION_zTXt : PNG_ITXT_COMPRESSION_NONE,
            .key = w->keys[i],
            .text = (png_charp)(uintptr_t)texts[i].value, /* libpng copies it */
            .itxt_length = length,
            .lang = (png_charp)(uintptr_t) "",
            .lang_key = (png_charp)(uintptr_t)texts[i].key,
        };
    }
}

pb_status pb_png_encode(pb_context *ctx, const unsigned char *pixels, size_t width, size_t height, size_t stride,
                        double pixels_per_metre, const pb_text_pair *texts, size_t n_texts, unsigned char **out,
                        size_t *size, pb_error *err) {
    PB_TRY(pb_metadata_check(texts, n_texts, err));
    png_writing w = {.job.ctx = ctx,
                     .width = width,
                     .height = height,
                     .stride = stride,
                     .pixels = pixels,
                     .pixels_per_metre = pixels_per_metre,
                     .n_texts = n_texts};
    pb_strbuf_init(&w.bytes, ctx);
    pb_status status = PB_OK;
    w.texts = pb_alloc_zero(ctx, n_texts, sizeof *w.texts);
    w.keys = pb_alloc_zero(ctx, n_texts, sizeof *w.keys);
    w.row = pb_alloc(ctx, width, 3);
    if (!w.texts || !w.keys || !w.row) {
        status = memory_error(&w.job, err);
        goto done;
    }
    fill_texts(&w, texts);
    w.job.png = png_create_write_struct_2(PNG_LIBPNG_VER_STRING, &w.job, on_error, on_warning, &w.job, take_memory,
                                          release_memory);
    bool written = w.job.png && write_all(&w);
    png_destroy_write_struct(&w.job.png, &w.job.info);
    char *bytes = NULL;
    if (w.job.no_memory)
        status = memory_error(&w.job, err);
    else if (!written)
        status = pb_fail(err, PB_ERR_UNSUPPORTED, "cannot make a PNG of %zu x %zu pixels: %s", width, height,
                         w.job.message[0] ? w.job.message : "libpng does not start");
    else
        status = pb_strbuf_take(&w.bytes, &bytes, size, "a PNG file", err);
    if (status == PB_OK)
        *out = (unsigned char *)bytes;
done:
    pb_strbuf_free(&w.bytes);
    pb_free(w.texts);
    pb_free(w.keys);
    pb_free(w.row);
    return status;
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

struct pb_png_text {
    pb_pool pool;
    size_t n;
    pb_text_pair *pairs;
};

typedef struct png_reading {
    png_job job;
    const unsigned char *data;
    size_t size, at;
    unsigned char *row;
} png_reading;

static void read_bytes(png_structp png, png_bytep out, size_t size) {
    png_reading *r = png_get_io_ptr(png);
    if (size > r->size - r->at)
        png_error(png, "the file ends too early");
    memcpy(out, r->data + r->at, size);
    r->at += size;
}

/* Chunks that say nothing in words are skipped, so that a slip in a colour profile does not hide the texts. */
static bool read_all(png_reading *r) {
    static const png_byte SKIPPED[] =
        "bKGD\0cHRM\0eXIf\0gAMA\0hIST\0iCCP\0oFFs\0pCAL\0pHYs\0sBIT\0sCAL\0sPLT\0sRGB\0tIME\0tRNS";
    if (setjmp(png_jmpbuf(r->job.png)))
        return false;
    png_structp png = r->job.png;
    r->job.info = png_create_info_struct(png);
    if (!r->job.info)
        png_error(png, "out of memory");
    png_set_read_fn(png, r, read_bytes);
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, SKIPPED, (int)(sizeof SKIPPED / 5));
    png_set_benign_errors(png, 0); /* a text that cannot be read is an error, not a text left out */
    png_set_crc_action(png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
    png_set_chunk_malloc_max(png, CHUNK_LIMIT);
    png_set_user_limits(png, PIXEL_LIMIT, PIXEL_LIMIT);
    png_read_info(png, r->job.info);
    int passes = png_set_interlace_handling(png);
    png_read_update_info(png, r->job.info);
    r->row = png_malloc(png, png_get_rowbytes(png, r->job.info));
    png_uint_32 height = png_get_image_height(png, r->job.info);
    for (int pass = 0; pass < passes; pass++)
        for (png_uint_32 y = 0; y < height; y++)
            png_read_row(png, r->row, NULL); /* the pixels are of no interest, but texts may stand behind them */
    png_read_end(png, r->job.info);
    return true;
}

static pb_status latin1_to_utf8(pb_pool *pool, const char *text, size_t length, const char **out, pb_error *err) {
    char *copy = pb_pool_alloc(pool, 2 * length + 1, 1);
    if (!copy)
        return pb_fail_memory(err, pool->ctx, 2 * length + 1, "a PNG's texts");
    size_t used = 0;
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x80) {
            copy[used++] = (char)(0xC0 | c >> 6);
            copy[used++] = (char)(0x80 | (c & 0x3F));
        } else {
            copy[used++] = (char)c;
        }
    }
    *out = copy;
    return PB_OK;
}

static pb_status copy_pairs(pb_png_text *text, const png_reading *r, pb_error *err) {
    png_textp chunks = NULL;
    int n = 0;
    png_get_text(r->job.png, r->job.info, &chunks, &n);
    text->pairs = pb_pool_alloc(&text->pool, (size_t)n, sizeof *text->pairs);
    if (!text->pairs)
        return pb_fail_memory(err, r->job.ctx, (size_t)n * sizeof *text->pairs, "a PNG's texts");
    for (int i = 0; i < n; i++) {
        bool utf8 = chunks[i].compression >= PNG_ITXT_COMPRESSION_NONE;
        size_t length = utf8 ? chunks[i].itxt_length : chunks[i].text_length;
        pb_text_pair *pair = &text->pairs[i];
        PB_TRY(latin1_to_utf8(&text->pool, chunks[i].key, strlen(chunks[i].key), &pair->key, err));
        if (!utf8) {
            PB_TRY(latin1_to_utf8(&text->pool, chunks[i].text, length, &pair->value, err));
            continue;
        }
        char *value = pb_pool_alloc(&text->pool, length + 1, 1);
        if (!value)
            return pb_fail_memory(err, r->job.ctx, length + 1, "a PNG's texts");
        if (length)
            memcpy(value, chunks[i].text, length);
        pair->value = value;
    }
    text->n = (size_t)n;
    return PB_OK;
}

static pb_status read_into(pb_png_text *text, const char *path, png_reading *r, pb_error *err) {
    if (r->size < 8 || png_sig_cmp(r->data, 0, 8) != 0)
        return pb_fail(err, PB_ERR_FORMAT, "'%s' is not a PNG file", path);
    r->job.png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, &r->job, on_error, on_warning, &r->job, take_memory,
                                          release_memory);
    bool done = r->job.png && read_all(r);
    pb_status status;
    if (r->job.no_memory)
        status = pb_error_prefix(err, memory_error(&r->job, err), "'%s': ", path);
    else if (!done)
        status = pb_fail(err, PB_ERR_FORMAT, "'%s' is a broken PNG file: %s", path, r->job.message);
    else
        status = copy_pairs(text, r, err);
    pb_free(r->row);
    png_destroy_read_struct(&r->job.png, &r->job.info, NULL);
    return status;
}

pb_status pb_png_read_text(pb_context *ctx, const char *path, pb_png_text **out, pb_error *err) {
    pb_mapping map;
    PB_TRY(pb_file_map(path, &map, err));
    pb_png_text *text = pb_alloc_zero(ctx, 1, sizeof *text);
    pb_status status;
    if (!text) {
        status = pb_fail_memory(err, ctx, sizeof *text, "a PNG's texts");
        goto done;
    }
    text->pool.ctx = ctx;
    png_reading reading = {.job.ctx = ctx, .data = map.data, .size = map.size};
    status = read_into(text, path, &reading, err);
    if (status == PB_OK)
        *out = text;
    else
        pb_png_text_free(text);
done:
    pb_file_unmap(&map);
    return status;
}

void pb_png_text_free(pb_png_text *text) {
    if (!text)
        return;
    pb_pool_free(&text->pool);
    pb_free(text);
}

size_t pb_png_text_count(const pb_png_text *text) { return text->n; }

const pb_text_pair *pb_png_text_at(const pb_png_text *text, size_t i) { return &text->pairs[i]; }

const char *pb_png_text_find(const pb_png_text *text, const char *key) {
    for (size_t i = 0; i < text->n; i++) {
        if (strcmp(text->pairs[i].key, key) == 0)
            return text->pairs[i].value;
    }
    return NULL;
}
