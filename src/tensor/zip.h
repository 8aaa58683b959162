/* Zip archives as PyTorch writes them: entries that are stored, not compressed, read where they are mapped. */
#ifndef PB_TENSOR_ZIP_H
#define PB_TENSOR_ZIP_H

#include "base/file.h"

typedef struct pb_zip_entry {
    const char *name; /* not NUL-terminated */
    size_t name_length;
    const unsigned char *data;
    size_t size;     /* as it lies there */
    bool compressed; /* data is not what was put in */
} pb_zip_entry;

typedef struct pb_zip {
    pb_context *ctx;
    pb_zip_entry *entries; /* [count], sorted by name; all pointers lie in the mapping */
    size_t count;
} pb_zip;

/* The map must outlive the list. Checked: every offset and length, names that occur twice. Encrypted and split archives are
 * refused. path: for messages. On failure there is nothing to free. */
pb_status pb_zip_open(pb_context *ctx, const pb_mapping *map, const char *path, pb_zip *out, pb_error *err);
void pb_zip_close(pb_zip *zip);
const pb_zip_entry *pb_zip_find(const pb_zip *zip, const char *name, size_t length); /* NULL if absent */

#endif
