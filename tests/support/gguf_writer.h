/* Writes GGUF files for tests: what the loader reads is made here from the format's description, and not by the loader. */
#ifndef PB_TEST_GGUF_WRITER_H
#define PB_TEST_GGUF_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Types of tensors by their number in files. */
enum { GGUF_F32 = 0, GGUF_F16 = 1, GGUF_Q8_0 = 8, GGUF_BF16 = 30 };

typedef struct gguf_bytes {
    unsigned char *data;
    size_t size, capacity;
} gguf_bytes;

/* Zero-initialised: an empty file of version 3 with the alignment 32. Fields may be changed before gguf_finish. */
typedef struct gguf_writer {
    uint32_t version;   /* 0: 3 */
    uint64_t alignment; /* 0: 32; of the data; said in the metadata only where the test says it */
    uint64_t n_pairs, n_tensors;
    gguf_bytes pairs, tensors, data;
    size_t header; /* bytes before the data: set by gguf_finish */
} gguf_writer;

void gguf_add(gguf_bytes *bytes, const void *data, size_t size);
void gguf_add_number(gguf_bytes *bytes, uint64_t value, size_t size); /* little-endian */
void gguf_add_text(gguf_bytes *bytes, const char *text);

void gguf_text(gguf_writer *w, const char *key, const char *text);
void gguf_u32(gguf_writer *w, const char *key, uint32_t value);
void gguf_f32(gguf_writer *w, const char *key, float value);
void gguf_bool(gguf_writer *w, const char *key, bool value);
/* A list's head; its n items follow by gguf_add_number and gguf_add_text to w->pairs. type: 4 u32, 5 i32, 6 f32, 8 text. */
void gguf_list(gguf_writer *w, const char *key, uint32_t type, uint64_t n);

/* The numbers as this type (rounded to nearest; Q8_0: the scale is the greatest size / 127 as float16); shape from the first axis
 * to the last. stored (may be NULL) gets what a reader has to make of them. */
void gguf_tensor(gguf_writer *w, const char *name, uint32_t type, int ndim, const int64_t *shape, const float *values,
                 float *stored);

/* The whole file; w is emptied. */
gguf_bytes gguf_finish(gguf_writer *w);
void gguf_save(gguf_writer *w, const char *path); /* finish, and into a file */
void gguf_write(const char *path, const void *data, size_t size);

#endif
