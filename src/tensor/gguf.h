/* GGUF, the container of llama.cpp: typed metadata and named tensors in one file. Versions 2 and 3, little-endian. What the
 * names and values mean is for src/model/gguf*.c. */
#ifndef PB_TENSOR_GGUF_H
#define PB_TENSOR_GGUF_H

#include "base/file.h"
#include "patchbay/tensorio.h"

/* As numbered in files. */
typedef enum pb_gguf_type {
    PB_GGUF_U8,
    PB_GGUF_I8,
    PB_GGUF_U16,
    PB_GGUF_I16,
    PB_GGUF_U32,
    PB_GGUF_I32,
    PB_GGUF_F32,
    PB_GGUF_BOOL,
    PB_GGUF_TEXT,
    PB_GGUF_ARRAY,
    PB_GGUF_U64,
    PB_GGUF_I64,
    PB_GGUF_F64,
    PB_GGUF_TYPES
} pb_gguf_type;

/* One pair of the metadata; the pointers lie in the mapped file, at any alignment, texts without a NUL. */
typedef struct pb_gguf_value {
    const char *key;
    size_t key_length;
    pb_gguf_type type; /* of the items, if it is a list */
    bool list;
    uint64_t count;            /* of a list; 1 else */
    const unsigned char *data; /* numbers one behind the other; texts each behind its u64 length */
} pb_gguf_value;

typedef struct pb_gguf pb_gguf;

/* Maps the file and checks it from end to end but for the numbers themselves: counts, lengths, types, the alignment, twice
 * given keys and names, tensors outside the file or upon each other. Tensors have their shape in row-major order (the file
 * lists the axes from the last to the first). Types read: F32, F16, BF16, F64, I8 to I64, and Q8_0, which is an entry of
 * type PB_STORED_OTHER with dtype "Q8_0"; another one is refused by name. */
pb_status pb_gguf_open(pb_context *ctx, const char *path, pb_gguf **out, pb_error *err);
void pb_gguf_close(pb_gguf *file); /* NULL is a no-op */
pb_mapping pb_gguf_mapping(const pb_gguf *file);
size_t pb_gguf_count(const pb_gguf *file);
const pb_entry *pb_gguf_at(const pb_gguf *file, size_t i); /* in file order */
/* NULL if absent. */
const pb_entry *pb_gguf_find(const pb_gguf *file, const char *name);
const pb_gguf_value *pb_gguf_get(const pb_gguf *file, const char *key);

/* Item i of a value (0 if it is no list); false if it is not of that kind or there is none. Integers: of any width. Numbers:
 * integers and floats. */
bool pb_gguf_integer(const pb_gguf_value *value, uint64_t i, int64_t *out);
bool pb_gguf_number(const pb_gguf_value *value, uint64_t i, double *out);
bool pb_gguf_bool(const pb_gguf_value *value, bool *out);
/* The text at *at, which then points to the next one: begin with value->data and stop after value->count. */
size_t pb_gguf_next_text(const unsigned char **at, const char **text);
/* A value that is one text. */
bool pb_gguf_text(const pb_gguf_value *value, const char **text, size_t *length);

/* Q8_0: blocks of 32 numbers, each a float16 scale and 32 signed bytes. count (of whole blocks) numbers from element first (of
 * a block's beginning) as float32, exactly. */
enum { PB_Q8_0_NUMBERS = 32, PB_Q8_0_BYTES = 34 };
bool pb_entry_is_q8_0(const pb_entry *entry);
void pb_widen_q8_0(const void *data, size_t first, size_t count, float *out);

#endif
