/* JSON on top of jansson: parsing with errors that name the file and line, and typed getters with errors that name the
 * file, the field, what was expected and what was there.
 *
 * `where` is the text before the colon in a message, usually the file's path. All json_t that getters return are
 * borrowed from the object; what a parse returns is the caller's (json_decref). jansson's memory is malloc's, not
 * charged to the context. */
#ifndef PB_BASE_JSON_H
#define PB_BASE_JSON_H

#include <jansson.h>

#include "patchbay/context.h"

/* Text of one JSON value. Rejects duplicate keys and trailing text; allows \u0000 in strings. */
pb_status pb_json_parse(const char *text, size_t size, const char *where, json_t **out, pb_error *err);
/* A whole file, of at most max_size bytes. */
pb_status pb_json_load(pb_context *ctx, const char *path, size_t max_size, json_t **out, pb_error *err);

/* The value as short JSON text (cut with "..."), for messages; NULL is "nothing". Returns buffer. */
char *pb_json_text(const json_t *value, char *buffer, size_t size);

/* Required fields. PB_ERR_FORMAT when absent, null or of another kind. */
pb_status pb_json_int(const json_t *object, const char *where, const char *key, int64_t low, int64_t high, int64_t *out,
                      pb_error *err);
pb_status pb_json_number(const json_t *object, const char *where, const char *key, double *out, pb_error *err);
pb_status pb_json_bool(const json_t *object, const char *where, const char *key, bool *out, pb_error *err);
pb_status pb_json_string(const json_t *object, const char *where, const char *key, const char **out, pb_error *err);
pb_status pb_json_object(const json_t *object, const char *where, const char *key, const json_t **out, pb_error *err);
pb_status pb_json_array(const json_t *object, const char *where, const char *key, const json_t **out, pb_error *err);

/* Optional fields: absent or null gives the fallback; another kind is still an error. */
pb_status pb_json_int_or(const json_t *object, const char *where, const char *key, int64_t low, int64_t high,
                         int64_t fallback, int64_t *out, pb_error *err);
pb_status pb_json_number_or(const json_t *object, const char *where, const char *key, double fallback, double *out,
                            pb_error *err);
pb_status pb_json_bool_or(const json_t *object, const char *where, const char *key, bool fallback, bool *out,
                          pb_error *err);
pb_status pb_json_string_or(const json_t *object, const char *where, const char *key, const char *fallback,
                            const char **out, pb_error *err);
pb_status pb_json_object_or(const json_t *object, const char *where, const char *key, const json_t **out,
                            pb_error *err); /* NULL if absent */
pb_status pb_json_array_or(const json_t *object, const char *where, const char *key, const json_t **out,
                           pb_error *err); /* NULL if absent */

#endif
