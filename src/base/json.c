/* JSON helpers; see json.h. */
#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"

pb_status pb_json_parse(const char *text, size_t size, const char *where, json_t **out, pb_error *err) {
    json_error_t problem;
    json_t *value =
        json_loadb(text ? text : "", size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, &problem);
    if (value) {
        *out = value;
        return PB_OK;
    }
    if (json_error_code(&problem) == json_error_out_of_memory)
        return pb_fail(err, PB_ERR_MEMORY, "%s: out of memory while its JSON was parsed (%zu bytes)", where, size);
    return pb_fail(err, PB_ERR_FORMAT, "%s: line %d, column %d: %s", where, problem.line, problem.column, problem.text);
}

pb_status pb_json_load(pb_context *ctx, const char *path, size_t max_size, json_t **out, pb_error *err) {
    char *text = NULL;
    size_t size;
    PB_TRY(pb_file_read(ctx, path, max_size, &text, &size, err));
    pb_status status = pb_json_parse(text, size, path, out, err);
    pb_free(text);
    return status;
}

static const char *kind_name(const json_t *value) {
    if (!value)
        return "nothing";
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
        return "true";
    case JSON_FALSE:
        return "false";
    case JSON_NULL:
        return "null";
    }
    return "an unknown kind";
}

/* As much of a JSON text as fits. jansson hands it over piece by piece. */
typedef struct excerpt {
    char *text;
    size_t size, length;
    bool cut;
} excerpt;

static int add_piece(const char *piece, size_t length, void *user) {
    excerpt *e = user;
    size_t room = e->size - 1 - e->length;
    e->cut = length > room;
    if (e->cut)
        length = room;
    memcpy(e->text + e->length, piece, length);
    e->length += length;
    return e->cut ? -1 : 0; /* -1 ends the dump */
}

char *pb_json_text(const json_t *value, char *buffer, size_t size) {
    if (!value || json_is_object(value)) {
        snprintf(buffer, size, "%s", kind_name(value));
        return buffer;
    }
    excerpt e = {.text = buffer, .size = size};
    int failed = json_dump_callback(value, add_piece, &e, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(9));
    buffer[e.length] = '\0';
    if (e.cut && size > 4) {
        size_t end = size - 4;
        while (end > 0 && ((unsigned char)buffer[end] & 0xC0u) == 0x80u)
            end--;
        memcpy(buffer + end, "...", 4);
    } else if (failed) {
        snprintf(buffer, size, "%s", kind_name(value));
    }
    return buffer;
}

static const json_t *field(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

static pb_status fail_field(pb_error *err, const char *where, const char *key, const char *expected,
                            const json_t *got) {
    char text[64];
    if (!got)
        return pb_fail(err, PB_ERR_FORMAT, "%s: \"%s\" is missing; it must be %s", where, key, expected);
    return pb_fail(err, PB_ERR_FORMAT, "%s: \"%s\" must be %s, got %s", where, key, expected,
                   pb_json_text(got, text, sizeof text));
}

/* ---- required ------------------------------------------------------------------------------------------------ */

pb_status pb_json_int(const json_t *object, const char *where, const char *key, int64_t low, int64_t high, int64_t *out,
                      pb_error *err) {
    const json_t *value = field(object, key);
    bool whole = json_is_integer(value);
    int64_t number = whole ? json_integer_value(value) : 0;
    if (json_is_real(value)) { /* 64.0, as some exporters write whole numbers */
        double real = json_real_value(value);
        whole = floor(real) == real && fabs(real) <= 0x1p53;
        number = whole ? (int64_t)real : 0;
    }
    if (whole && number >= low && number <= high) {
        *out = number;
        return PB_OK;
    }
    char expected[96];
    if (low == INT64_MIN && high == INT64_MAX)
        snprintf(expected, sizeof expected, "an integer");
    else if (low == 1 && (high >= INT32_MAX || !whole || number < low))
        snprintf(expected, sizeof expected, "a positive integer");
    else if (high == INT64_MAX)
        snprintf(expected, sizeof expected, "an integer of at least %lld", (long long)low);
    else
        snprintf(expected, sizeof expected, "an integer from %lld to %lld", (long long)low, (long long)high);
    if (whole && low == 1 && number > high)
        snprintf(expected, sizeof expected, "a positive integer of at most %lld", (long long)high);
    return fail_field(err, where, key, expected, value);
}

pb_status pb_json_number(const json_t *object, const char *where, const char *key, double *out, pb_error *err) {
    const json_t *value = field(object, key);
    if (!json_is_number(value))
        return fail_field(err, where, key, "a number", value);
    *out = json_number_value(value);
    return PB_OK;
}

pb_status pb_json_bool(const json_t *object, const char *where, const char *key, bool *out, pb_error *err) {
    const json_t *value = field(object, key);
    if (!json_is_boolean(value))
        return fail_field(err, where, key, "true or false", value);
    *out = json_is_true(value);
    return PB_OK;
}

pb_status pb_json_string(const json_t *object, const char *where, const char *key, const char **out, pb_error *err) {
    const json_t *value = field(object, key);
    if (!json_is_string(value))
        return fail_field(err, where, key, "a string", value);
    if (strlen(json_string_value(value)) != json_string_length(value))
        return fail_field(err, where, key, "a string without NUL characters", value);
    *out = json_string_value(value);
    return PB_OK;
}

pb_status pb_json_object(const json_t *object, const char *where, const char *key, const json_t **out, pb_error *err) {
    const json_t *value = field(object, key);
    if (!json_is_object(value))
        return fail_field(err, where, key, "an object", value);
    *out = value;
    return PB_OK;
}

pb_status pb_json_array(const json_t *object, const char *where, const char *key, const json_t **out, pb_error *err) {
    const json_t *value = field(object, key);
    if (!json_is_array(value))
        return fail_field(err, where, key, "an array", value);
    *out = value;
    return PB_OK;
}

/* ---- optional ------------------------------------------------------------------------------------------------ */

pb_status pb_json_int_or(const json_t *object, const char *where, const char *key, int64_t low, int64_t high,
                         int64_t fallback, int64_t *out, pb_error *err) {
    if (field(object, key))
        return pb_json_int(object, where, key, low, high, out, err);
    *out = fallback;
    return PB_OK;
}

pb_status pb_json_number_or(const json_t *object, const char *where, const char *key, double fallback, double *out,
                            pb_error *err) {
    if (field(object, key))
        return pb_json_number(object, where, key, out, err);
    *out = fallback;
    return PB_OK;
}

pb_status pb_json_bool_or(const json_t *object, const char *where, const char *key, bool fallback, bool *out,
                          pb_error *err) {
    if (field(object, key))
        return pb_json_bool(object, where, key, out, err);
    *out = fallback;
    return PB_OK;
}

pb_status pb_json_string_or(const json_t *object, const char *where, const char *key, const char *fallback,
                            const char **out, pb_error *err) {
    if (field(object, key))
        return pb_json_string(object, where, key, out, err);
    *out = fallback;
    return PB_OK;
}

pb_status pb_json_object_or(const json_t *object, const char *where, const char *key, const json_t **out,
                            pb_error *err) {
    if (field(object, key))
        return pb_json_object(object, where, key, out, err);
    *out = NULL;
    return PB_OK;
}

pb_status pb_json_array_or(const json_t *object, const char *where, const char *key, const json_t **out,
                           pb_error *err) {
    if (field(object, key))
        return pb_json_array(object, where, key, out, err);
    *out = NULL;
    return PB_OK;
}
