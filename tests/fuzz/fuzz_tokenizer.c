/* libFuzzer: the first byte chooses what the rest is: a tokenizer.json, a regular expression with a text behind a NUL, or a
 * text for the tokenizer that PB_FUZZ_TOKENIZER names (by default a golden one). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/tokenizer_internal.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static void use(pb_tokenizer *t, const char *text, size_t n) {
    int32_t *ids;
    size_t count;
    char *out;
    if (pb_tokenizer_encode(t, text, n, PB_SPECIAL_DEFAULT, &ids, &count, NULL) != PB_OK)
        return;
    if (pb_tokenizer_decode(t, ids, count, false, &out, NULL, NULL) == PB_OK)
        pb_free(out);
    for (size_t i = 0; i < count && i < 64; i++)
        if (pb_tokenizer_label(t, ids[i], &out, NULL) == PB_OK)
            pb_free(out);
    pb_free(ids);
}

static void fuzz_file(pb_context *ctx, const char *text, size_t n) {
    static const char sample[] = " Hello w\xC3\xB6rld, 1234\n\t<s> x</s>\xE2\x96\x81 ab abc";
    char path[] = "/tmp/fuzz_tokenizer_XXXXXX";
    int file = mkstemp(path);
    pb_tokenizer *t = NULL;
    if (file >= 0 && write(file, text, n) == (ssize_t)n && pb_tokenizer_open(ctx, path, &t, NULL) == PB_OK)
        use(t, sample, sizeof sample - 1);
    pb_tokenizer_unref(t);
    if (file >= 0) {
        close(file);
        unlink(path);
    }
}

static void fuzz_regex(pb_context *ctx, const char *source, size_t n) {
    const char *end = memchr(source, '\0', n);
    size_t length = end ? (size_t)(end - source) : n, rest = end ? n - length - 1 : 0;
    pb_tok_pattern pattern = {0};
    pb_tok_buffer cuts = {0};
    if (pb_tok_utf8_invalid_at(source, length) < length || pb_tok_utf8_invalid_at(source + n - rest, rest) < rest)
        return;
    if (pb_tok_regex_compile(ctx, source, length, &pattern.regex, NULL) == PB_OK)
        (void)!pb_tok_pattern_cut(ctx, &pattern, source + n - rest, rest, &cuts, NULL);
    pb_tok_buffer_free(&cuts);
    pb_tok_pattern_free(&pattern);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    const char *text = (const char *)data + 1, *named = getenv("PB_FUZZ_TOKENIZER");
    pb_context_options options = {.memory_limit = 256u << 20};
    pb_context *ctx;
    pb_tokenizer *t = NULL;
    if (size == 0 || pb_context_create(&options, &ctx, NULL) != PB_OK)
        return 0;
    if (data[0] % 3 == 0)
        fuzz_file(ctx, text, size - 1);
    else if (data[0] % 3 == 1)
        fuzz_regex(ctx, text, size - 1);
    else if (pb_tokenizer_open(ctx, named ? named : "tests/golden/tokenizers/07_llama2_metaspace", &t, NULL) == PB_OK)
        use(t, text, size - 1);
    pb_tokenizer_unref(t);
    if (pb_context_memory_used(ctx) != 0)
        abort(); /* a leak, or a block of somebody else freed */
    pb_context_unref(ctx);
    return 0;
}
