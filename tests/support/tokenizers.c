#include "support.h"

#include <stdlib.h>
#include <string.h>

#include "tokenizers.h"

pb_tokenizer *test_tokenizer(pb_context *ctx, const char *path) {
    pb_error err = {0};
    pb_tokenizer *t = NULL;
    assert_ok(pb_tokenizer_open(ctx, path, &t, &err));
    return t;
}

void test_write(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fputs(text, file) < 0, 0);
    assert_int_equal(fclose(file), 0);
}

pb_status test_tokenizer_of(pb_context *ctx, const char *normalizer, const char *pre, const char *decoder,
                            const char *added, pb_tokenizer **out, pb_error *err) {
    static const char model[] =
        "{\"type\":\"BPE\",\"unk_token\":\"?\",\"vocab\":{\"?\":0,\"a\":1,\"b\":2,\"c\":3,\"ab\":4,"
        "\"abc\":5,\" \":6},\"merges\":[\"a b\",\"ab c\"]}";
    size_t size = sizeof model + 4096;
    char *text = malloc(size), *folder = test_folder();
    assert_non_null(text);
    snprintf(text, size, "{\"normalizer\":%s,\"pre_tokenizer\":%s,\"decoder\":%s,\"added_tokens\":%s,\"model\":%s}",
             normalizer ? normalizer : "null", pre ? pre : "null", decoder ? decoder : "null", added ? added : "[]",
             model);
    test_write(test_path(folder, "tokenizer.json"), text);
    pb_status status = pb_tokenizer_open(ctx, folder, out, err);
    test_folder_remove(folder);
    free(text);
    return status;
}

json_t *test_next_line(FILE *file, char **line, size_t *capacity) {
    ssize_t n = getline(line, capacity, file);
    if (n <= 0)
        return NULL;
    json_t *json = json_loadb(*line, (size_t)n, JSON_ALLOW_NUL, NULL);
    assert_non_null(json);
    return json;
}

FILE *test_open_lines(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file)
        print_error("cannot open %s\n", path);
    assert_non_null(file);
    return file;
}
