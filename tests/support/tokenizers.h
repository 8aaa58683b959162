/* What the tests of tokenizers share. */
#ifndef PB_TEST_TOKENIZERS_H
#define PB_TEST_TOKENIZERS_H

#include <jansson.h>
#include <stdio.h>

#include "patchbay/tokenizer.h"

/* Opened; else the test fails. */
pb_tokenizer *test_tokenizer(pb_context *ctx, const char *path);
/* A tokenizer of these parts (JSON values, NULL: null), with the vocabulary "?", a, b, c, ab, abc, " " (ids 0 to 6), whose
 * merges make ab and abc, and "?" for all else. Added tokens get ids from 7. */
pb_status test_tokenizer_of(pb_context *ctx, const char *normalizer, const char *pre, const char *decoder,
                            const char *added, pb_tokenizer **out, pb_error *err);

void test_write(const char *path, const char *text);
FILE *test_open_lines(const char *path); /* else the test fails and names it */
/* The next line of a .jsonl file, NULL at its end; line and capacity as for getline. */
json_t *test_next_line(FILE *file, char **line, size_t *capacity);

#endif
