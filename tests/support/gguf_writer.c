#include "gguf_writer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support.h"

/* ---- bytes ------------------------------------------------------------------------------------------------------------ */

void gguf_add(gguf_bytes *bytes, const void *data, size_t size) {
    if (bytes->size + size > bytes->capacity) {
        bytes->capacity = 2 * (bytes->size + size) + 256;
        bytes->data = realloc(bytes->data, bytes->capacity);
        assert_non_null(bytes->data);
    }
    if (size)
        memcpy(bytes->data + bytes->size, data, size);
    bytes->size += size;
}

void gguf_add_number(gguf_bytes *bytes, uint64_t value, size_t size) {
    for (size_t i = 0; i < size; i++) {
        unsigned char byte = (unsigned char)(value >> (8 * i));
        gguf_add(bytes, &byte, 1);
    }
}

void gguf_add_text(gguf_bytes *bytes, const char *text) {
    gguf_add_number(bytes, strlen(text), 8);
    gguf_add(bytes, text, strlen(text));
}

static void pad(gguf_bytes *bytes, uint64_t alignment) {
    while (bytes->size % alignment != 0)
        gguf_add_number(bytes, 0, 1);
}

/* ---- metadata --------------------------------------------------------------------------------------------------------- */

static void begin_pair(gguf_writer *w, const char *key, uint32_t type) {
    gguf_add_text(&w->pairs, key);
    gguf_add_number(&w->pairs, type, 4);
    w->n_pairs++;
}

void gguf_text(gguf_writer *w, const char *key, const char *text) {
    begin_pair(w, key, 8);
    gguf_add_text(&w->pairs, text);
}

void gguf_u32(gguf_writer *w, const char *key, uint32_t value) {
    begin_pair(w, key, 4);
    gguf_add_number(&w->pairs, value, 4);
}

void gguf_f32(gguf_writer *w, const char *key, float value) {
    begin_pair(w, key, 6);
    gguf_add(&w->pairs, &value, sizeof value);
}

void gguf_bool(gguf_writer *w, const char *key, bool value) {
    begin_pair(w, key, 7);
    gguf_add_number(&w->pairs, value, 1);
}

void gguf_list(gguf_writer *w, const char *key, uint32_t type, uint64_t n) {
    begin_pair(w, key, 9);
    gguf_add_number(&w->pairs, type, 4);
    gguf_add_number(&w->pairs, n, 8);
}

/* ---- tensors ---------------------------------------------------------------------------------------------------------- */

static void add_half(gguf_bytes *data, pb_stored type, float value, float *stored) {
    uint16_t half[32]; /* pb_narrow wants its type's alignment */
    (void)pb_narrow(type, &value, 1, half);
    pb_widen(type, half, 0, 1, stored);
    gguf_add(data, half, sizeof half[0]);
}

static void add_q8_0(gguf_bytes *data, const float *values, float *stored) {
    float largest = 0.0f, scale;
    for (int i = 0; i < 32; i++)
        largest = fmaxf(largest, fabsf(values[i]));
    add_half(data, PB_STORED_F16, largest / 127.0f, &scale);
    for (int i = 0; i < 32; i++) {
        float q = scale > 0.0f ? fmaxf(-127.0f, fminf(127.0f, roundf(values[i] / scale))) : 0.0f;
        int8_t byte = (int8_t)q;
        gguf_add(data, &byte, 1);
        stored[i] = scale * (float)byte;
    }
}

void gguf_tensor(gguf_writer *w, const char *name, uint32_t type, int ndim, const int64_t *shape, const float *values,
                 float *stored) {
    int64_t count = 1;
    pad(&w->data, w->alignment ? w->alignment : 32);
    gguf_add_text(&w->tensors, name);
    gguf_add_number(&w->tensors, (uint64_t)ndim, 4);
    for (int i = ndim; i-- > 0;) {
        gguf_add_number(&w->tensors, (uint64_t)shape[i], 8);
        count *= shape[i];
    }
    gguf_add_number(&w->tensors, type, 4);
    gguf_add_number(&w->tensors, w->data.size, 8);
    w->n_tensors++;
    float kept[32];
    for (int64_t i = 0; i < count; i += type == GGUF_Q8_0 ? 32 : 1) {
        float *out = stored ? stored + i : kept;
        if (type == GGUF_Q8_0) {
            add_q8_0(&w->data, values + i, out);
        } else if (type == GGUF_F32) {
            gguf_add(&w->data, values + i, sizeof *values);
            *out = values[i];
        } else {
            add_half(&w->data, type == GGUF_F16 ? PB_STORED_F16 : PB_STORED_BF16, values[i], out);
        }
    }
}

/* ---- the file --------------------------------------------------------------------------------------------------------- */

gguf_bytes gguf_finish(gguf_writer *w) {
    gguf_bytes file = {0};
    gguf_add(&file, "GGUF", 4);
    gguf_add_number(&file, w->version ? w->version : 3, 4);
    gguf_add_number(&file, w->n_tensors, 8);
    gguf_add_number(&file, w->n_pairs, 8);
    gguf_add(&file, w->pairs.data, w->pairs.size);
    gguf_add(&file, w->tensors.data, w->tensors.size);
    pad(&file, w->alignment ? w->alignment : 32);
    w->header = file.size;
    gguf_add(&file, w->data.data, w->data.size);
    free(w->pairs.data);
    free(w->tensors.data);
    free(w->data.data);
    *w = (gguf_writer){.header = w->header};
    return file;
}

void gguf_write(const char *path, const void *data, size_t size) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

void gguf_save(gguf_writer *w, const char *path) {
    gguf_bytes file = gguf_finish(w);
    gguf_write(path, file.data, file.size);
    free(file.data);
}
