/* Files: whole-file mapping, reading small files, writing that is all or nothing, paths and folders.
 * Every message has the path and what the operating system said. */
#ifndef PB_BASE_FILE_H
#define PB_BASE_FILE_H

#include "patchbay/context.h"

/* ---- reading ------------------------------------------------------------------------------------------------- */

/* A whole file, mapped private and read-only. A file that shrinks while it is mapped raises SIGBUS on access: the
 * operating system gives no way to prevent that. */
typedef struct pb_mapping {
    const unsigned char *data; /* NULL when size is 0 */
    size_t size;
} pb_mapping;

/* Regular files only. PB_ERR_IO. */
pb_status pb_file_map(const char *path, pb_mapping *out, pb_error *err);
void pb_file_unmap(pb_mapping *map); /* idempotent; leaves {NULL, 0} */
/* Advice on bytes of a mapping, widened to whole pages; contents never change. Prefetch asks for them to be read from the disk
 * into the page cache, and does not wait. Release takes them out of this process's resident memory: they stay in the page cache,
 * and the next access brings them back. Only for mappings of pb_file_map: memory of other kinds would lose its contents. */
void pb_mapping_prefetch(const void *data, size_t bytes);
void pb_mapping_release(const void *data, size_t bytes);

/* Lets the mapping's bytes be changed: for this process alone, page by page as they are written, never the file. False: the system
 * does not allow it; reading is as before. */
bool pb_mapping_allow_changes(const pb_mapping *map);

/* Contents into a new block (pb_free) with a NUL behind the last byte. More than max_size bytes: PB_ERR_FORMAT.
 * *size may be NULL. */
pb_status pb_file_read(pb_context *ctx, const char *path, size_t max_size, char **out, size_t *size, pb_error *err);

bool pb_file_exists(const char *path);   /* a regular file, links followed */
bool pb_folder_exists(const char *path); /* a folder, links followed */
/* Size in bytes of a regular file. */
pb_status pb_file_size(const char *path, uint64_t *out, pb_error *err);

/* ---- writing ------------------------------------------------------------------------------------------------- */

/* Writes a temporary file beside the target; commit flushes it to disk and renames it over the target. Until then, and
 * after any failure, the target is untouched. A target that is a device or pipe (/dev/stdout) is written directly.
 * A link is followed; an existing file's permissions are kept. */
typedef struct pb_file_writer pb_file_writer;

pb_status pb_file_writer_open(pb_context *ctx, const char *path, pb_file_writer **out, pb_error *err);
pb_status pb_file_writer_add(pb_file_writer *w, const void *data, size_t size, pb_error *err); /* buffered */
/* Releases w in every case. */
pb_status pb_file_writer_commit(pb_file_writer *w, pb_error *err);
/* Removes the temporary file and releases w. NULL is a no-op. */
void pb_file_writer_drop(pb_file_writer *w);

/* open, add, commit. */
pb_status pb_file_write(pb_context *ctx, const char *path, const void *data, size_t size, pb_error *err);

/* ---- paths and folders --------------------------------------------------------------------------------------- */

/* folder/name in a new block; NULL if out of memory. An absolute name is returned alone; an empty folder is ".". */
char *pb_path_join(pb_context *ctx, const char *folder, const char *name);
/* Part after the last '/'; points into path. */
const char *pb_path_name(const char *path);
/* Part before the last '/' in a new block: "." without one, "/" for the root; NULL if out of memory. */
char *pb_path_folder(pb_context *ctx, const char *path);
/* Makes path and every missing folder above it; existing ones are fine. */
pb_status pb_folder_create(pb_context *ctx, const char *path, pb_error *err);
/* Whether it could be made and written into, as far as permissions say before anything is tried; makes nothing. */
pb_status pb_folder_check(pb_context *ctx, const char *path, pb_error *err);

#endif
