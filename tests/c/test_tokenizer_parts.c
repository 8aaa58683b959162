/* The parts of tokenizers, each alone: regular expressions and what splits do with them, normalisers, pre-tokenisers, decoders,
 * and the model's corners. Whole tokenizers: test_tokenizer.c. */
#include "support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_internal.h"
#include "support/tokenizers.h"

/* ---- patterns ------------------------------------------------------------------------------------------------------- */

/* The pieces of an isolating split, as one string with '|' between; in a buffer of 2000 bytes. */
static pb_status split_by(pb_context *ctx, const pb_tok_pattern *pattern, const char *text, size_t n,
                          pb_tok_behavior behavior, bool invert, pb_tok_buffer *pieces, pb_error *err) {
    pb_tok_buffer cuts = {0};
    pieces->length = 0;
    pb_status status = pb_tok_pattern_cut(ctx, pattern, text, n, &cuts, err);
    if (status == PB_OK)
        status = pb_tok_behave(ctx, &cuts, behavior, invert, pieces, err);
    pb_tok_buffer_free(&cuts);
    return status;
}

/* Compares with json's "pieces"; true if they are equal (empty pieces do not count). */
static bool pieces_equal(const pb_tok_buffer *pieces, const char *text, const json_t *wanted) {
    const pb_tok_cut *cuts = PB_TOK_ITEMS(*pieces, const pb_tok_cut);
    size_t k = 0;
    for (size_t i = 0; i < PB_TOK_COUNT(*pieces, pb_tok_cut); i++) {
        size_t length = cuts[i].end - cuts[i].start;
        if (length == 0)
            continue;
        const json_t *piece = json_array_get(wanted, k++);
        if (json_string_length(piece) != length || memcmp(json_string_value(piece), text + cuts[i].start, length) != 0)
            return false;
    }
    return k == json_array_size(wanted);
}

/* How many lines of a file of patterns, texts and pieces agree, and how many there are. */
static int count_regex_lines(const char *path, int *lines) {
    pb_context *ctx = test_context();
    pb_error err = {0};
    FILE *file = test_open_lines(path);
    char *line = NULL, last[4096] = "";
    size_t capacity = 0;
    int good = 0;
    pb_tok_pattern pattern = {0};
    pb_tok_buffer pieces = {0};
    *lines = 0;
    for (json_t *json; (json = test_next_line(file, &line, &capacity)) != NULL; json_decref(json)) {
        const json_t *source = json_object_get(json, "pattern"), *text = json_object_get(json, "text");
        if (!source)
            continue;
        if (strcmp(last, json_string_value(source)) != 0) {
            pb_tok_pattern_free(&pattern);
            assert_ok(
                pb_tok_regex_compile(ctx, json_string_value(source), json_string_length(source), &pattern.regex, &err));
            snprintf(last, sizeof last, "%s", json_string_value(source));
        }
        assert_ok(split_by(ctx, &pattern, json_string_value(text), json_string_length(text), PB_TOK_ISOLATED, false,
                           &pieces, &err));
        good += pieces_equal(&pieces, json_string_value(text), json_object_get(json, "pieces"));
        ++*lines;
    }
    fclose(file);
    free(line);
    pb_tok_pattern_free(&pattern);
    pb_tok_buffer_free(&pieces);
    pb_context_unref(ctx);
    return good;
}

static void regex__golden_patterns__same_pieces(void **state) {
    (void)state;
    int lines, good = count_regex_lines(test_data("golden/tokenizers/regex.jsonl"), &lines);
    assert_int_equal(lines, 1020);
    assert_int_equal(good, lines);
}

/* Unicode grows; what PCRE2 does not know yet is reported, not failed. The four lines that Unicode 14 settles must hold. */
static void regex__characters_of_new_unicode__as_far_as_known(void **state) {
    (void)state;
    int lines, good = count_regex_lines(test_shared("golden/tokenizers/unicode_edge.jsonl"), &lines);
    print_message("unicode_edge: %d of %d patterns agree\n", good, lines);
    assert_true(good >= 4);
}

/* The one pattern that is rewritten for speed means what it meant: compared with a spelling that is left alone. */
static void regex__white_space_at_line_ends__rewritten_to_the_same(void **state) {
    (void)state;
    pb_context *ctx = test_context();
    pb_error err = {0};
    pb_tok_pattern fast = {0}, plain = {0};
    pb_tok_buffer a = {0}, b = {0};
    assert_ok(pb_tok_regex_compile(ctx, "\\s+$", 4, &fast.regex, &err));
    assert_ok(pb_tok_regex_compile(ctx, "(?:\\s)+$", 8, &plain.regex, &err));
    uint64_t x = 7;
    for (int round = 0; round < 3000; round++) {
        char text[24];
        size_t n = 1 + (size_t)round % sizeof text;
        for (size_t i = 0; i < n; i++) {
            x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            text[i] = "  \n\ta"[(x >> 40) % 5];
        }
        assert_ok(split_by(ctx, &fast, text, n, PB_TOK_ISOLATED, false, &a, &err));
        assert_ok(split_by(ctx, &plain, text, n, PB_TOK_ISOLATED, false, &b, &err));
        assert_int_equal(a.length, b.length);
        for (size_t i = 0; i < PB_TOK_COUNT(a, pb_tok_cut); i++)
            assert_int_equal(PB_TOK_ITEMS(a, pb_tok_cut)[i].end, PB_TOK_ITEMS(b, pb_tok_cut)[i].end);
    }
    pb_tok_buffer_free(&a);
    pb_tok_buffer_free(&b);
    pb_tok_pattern_free(&fast);
    pb_tok_pattern_free(&plain);
    pb_context_unref(ctx);
}

static void join_pieces(const pb_tok_buffer *pieces, const char *text, char *out, size_t size) {
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; i < PB_TOK_COUNT(*pieces, pb_tok_cut); i++) {
        pb_tok_cut cut = PB_TOK_ITEMS(*pieces, const pb_tok_cut)[i];
        int made =
            snprintf(out + used, size - used, "%s%.*s", i ? "/" : "", (int)(cut.end - cut.start), text + cut.start);
        used += (size_t)made;
        assert_true(used < size);
    }
}

static void regex__what_ruby_means_otherwise__is_rewritten(void **state) {
    (void)state;
    static const struct {
        const char *source, *text, *pieces;
    } cases[] = {
        {"\\h+", "xyzBEEF09xyz", "xyz/BEEF09/xyz"},
        {"\\H+", "xyzBEEF", "xyz/BEEF"},
        {"a\\vb", "za\vbz", "z/a\vb/z"},
        {"\\u0061+", "baab", "b/aa/b"},
        {"\\x61|\\x{4E2D}",
         "ba\xE4\xB8\xAD"
         "c",
         "b/a/\xE4\xB8\xAD/c"},
        {"[a[bc]]+", "xabcx", "x/abc/x"},
        {"[^a[bc]]+", "xabcx", "x/abc/x"},
        {"[a-z&&[^aeiou]]+", "hello", "h/e/ll/o"},
        {"[a-z&&a-m&&h-z]+", "ghijklmno", "g/hijklm/no"},
        {"[a[^b-z]]+", "abAz", "a/b/A/z"},
        {"[^\\W\\d]+", "ab12!", "ab/12!"},
        {"[\\w-]+", "a-b c", "a-b/ /c"},
        {"[a\\-z]+", "a-zb", "a-z/b"},
        {"[]a]+", "x]a]x", "x/]a]/x"},
        {"[^\\S\n]+", "a \t\nb", "a/ \t/\nb"},
        {"[a-\\x63]+", "xabcd", "x/abc/d"},
        {"[:a:]+", "xa:b", "x/a:/b"},
        {"[[:sp ace:]]+", "xace:]", "x/ace:/]"}, /* no name of POSIX: a class */
        {"[\\p{Lu}\\P{L}]+", "aB1c", "a/B1/c"},
        {"[--/]+", "a-./b", "a/-.//b"},
        {"[a-c-e]+", "bd-e", "b/d/-e"},
        {"[^]x]+", "a]x", "a/]x"},
        {"[a^]+", "b^a", "b/^a"},
        {"[&a&]+", "b&a", "b/&a"},
        {"[[:alpha:]]+",
         "ab\xC3\xA9"
         "12",
         "ab\xC3\xA9/12"},
        {"[[:^digit:]]+", "ab12", "ab/12"},
        {"a{2}+", "aaaaab", "aaaa/ab"}, /* (?:a{2})+, not possessive */
        {"a{2,3}+b", "aaaaab", "aaaaab"},
        {"xa{2}?", "xaaxa", "xaa/x/a"}, /* optional, not lazy */
        {"a{,2}b", "aaab", "a/aab"},
        {"a{b", "xa{bx", "x/a{b/x"},
        {"a(?i)b|c", "aBCacC", "aB/C/ac/C"}, /* a(?i:b|c) */
        {"(?m)a.b", "xa\nbx", "x/a\nb/x"},
        {"(?m-i:.)x", "\nx", "\nx"},
        {"^a", "ba\na", "ba\n/a"}, /* ^ and $ are about lines */
        {"a$", "a\nba", "a/\nb/a"},
        {"(?<year>\\d+)-\\k<year>", "x12-12y", "x/12-12/y"},
        {"(?<=a)b(?=c)(?!d)(?<!x)", "abc", "a/b/c"},
        {"(?#comment)a", "bab", "b/a/b"},
        {"\\p{Letter}+|\\p{^L}", "ab1", "ab/1"},
        {"\\p{Uppercase_Letter}\\P{Lu}", "aBc", "a/Bc"},
        {"\\bab\\b", "ab cab", "ab/ cab"},
        {"\\Bb", "ab b", "a/b/ b"},
        {"\\s",
         "a\xE1\xA0\x8E"
         "b\xC2\x85"
         "c",
         "a\xE1\xA0\x8E"
         "b/\xC2\x85/c"}, /* U+180E is no space, U+0085 is */
        {"\\s+$", "a  \n  b \n", "a/  /\n  b/ \n"},
        {"\\.\\\xC3\xA9", "a.\xC3\xA9", "a/.\xC3\xA9"},
        {"x*", "axb", "/a/x/b/"}, /* no empty match right behind a match */
    };
    pb_context *ctx = test_context();
    pb_tok_buffer pieces = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pb_error err = {0};
        pb_tok_pattern pattern = {0};
        char got[256];
        assert_ok(pb_tok_regex_compile(ctx, cases[i].source, strlen(cases[i].source), &pattern.regex, &err));
        assert_ok(split_by(ctx, &pattern, cases[i].text, strlen(cases[i].text), PB_TOK_ISOLATED, false, &pieces, &err));
        join_pieces(&pieces, cases[i].text, got, sizeof got);
        if (strcmp(got, cases[i].pieces) != 0)
            print_error("pattern %s on '%s'\n", cases[i].source, cases[i].text);
        assert_string_equal(got, cases[i].pieces);
        pb_tok_pattern_free(&pattern);
    }
    pb_tok_buffer_free(&pieces);
    pb_context_unref(ctx);
}

static void regex__malformed_or_unknown__says_where(void **state) {
    (void)state;
    static const struct {
        const char *source, *message;
        pb_status status;
    } cases[] = {
        {"(a", "no closing parenthesis", PB_ERR_FORMAT},
        {"a)", "without an opening one", PB_ERR_FORMAT},
        {"[ab", "no closing ]", PB_ERR_FORMAT},
        {"[a&&]", "is empty", PB_ERR_FORMAT},
        {"[&&a]", "is empty", PB_ERR_FORMAT},
        {"a\\", "ends in a backslash", PB_ERR_FORMAT},
        {"[a\\", "ends in a backslash", PB_ERR_FORMAT},
        {"\\p{Nonsense}", "does not compile", PB_ERR_FORMAT},
        {"\\p{L", "without }", PB_ERR_FORMAT},
        {"\\pL", "{name}", PB_ERR_FORMAT},
        {"\\u12", "four hexadecimal digits", PB_ERR_FORMAT},
        {"\\x{zz}", "hexadecimal", PB_ERR_FORMAT},
        {"\\xE4", "single bytes", PB_ERR_UNSUPPORTED},
        {"(?~a)", "absence", PB_ERR_UNSUPPORTED},
        {"(*FAIL)", "anything to repeat", PB_ERR_FORMAT},
        {"(?R)", "not supported", PB_ERR_UNSUPPORTED},
        {"*a", "does not compile", PB_ERR_FORMAT},
        {"[[:sorry:]]", "not supported", PB_ERR_UNSUPPORTED},
        {"(?#", "comment", PB_ERR_FORMAT},
    };
    pb_context *ctx = test_context();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pb_error err = {0};
        pb_tok_regex *regex = NULL;
        assert_error(pb_tok_regex_compile(ctx, cases[i].source, strlen(cases[i].source), &regex, &err), cases[i].status,
                     cases[i].message);
        assert_null(regex);
    }
    char deep[2001];
    memset(deep, '(', 2000);
    deep[2000] = '\0';
    pb_error err = {0};
    pb_tok_regex *regex = NULL;
    assert_error(pb_tok_regex_compile(ctx, deep, 2000, &regex, &err), PB_ERR_FORMAT, "nested too deeply");
    memset(deep, '[', 2000);
    assert_error(pb_tok_regex_compile(ctx, deep, 2000, &regex, &err), PB_ERR_FORMAT, "nested too deeply");
    pb_context_unref(ctx);
}

static void regex__exponential_pattern__gives_up_with_an_error(void **state) {
    (void)state;
    pb_context *ctx = test_context();
    pb_error err = {0};
    pb_tokenizer *t = NULL;
    assert_ok(test_tokenizer_of(
        ctx, NULL,
        "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?:a|aa)+$\"},\"behavior\":\"Isolated\",\"invert\":false}", NULL,
        NULL, &t, &err));
    char text[64];
    memset(text, 'a', sizeof text);
    int32_t *ids = NULL;
    size_t n = 0;
    text[63] = 'c';
    assert_error(pb_tokenizer_encode(t, text, sizeof text, PB_SPECIAL_OFF, &ids, &n, &err), PB_ERR_FORMAT, "limit");
    assert_null(ids);
    pb_tokenizer_unref(t);
    pb_context_unref(ctx);
}

/* A match that needs more stack than PCRE2's compiled code has is done by its interpreter. */
static void regex__deep_backtracking__falls_back(void **state) {
    (void)state;
    enum { N = 20000 };
    pb_context *ctx = test_context();
    pb_error err = {0};
    pb_tok_pattern pattern = {0};
    pb_tok_buffer cuts = {0};
    char *text = malloc(N);
    assert_non_null(text);
    for (int i = 0; i < N; i++)
        text[i] = "abb"[i % 3];
    assert_ok(pb_tok_regex_compile(ctx, "(?:a(b)|(b))+", 13, &pattern.regex, &err));
    assert_ok(pb_tok_pattern_cut(ctx, &pattern, text, N - N % 3, &cuts, &err));
    assert_int_equal(PB_TOK_COUNT(cuts, pb_tok_cut), 1);
    assert_int_equal(PB_TOK_ITEMS(cuts, pb_tok_cut)[0].end, N - N % 3);
    free(text);
    pb_tok_buffer_free(&cuts);
    pb_tok_pattern_free(&pattern);
    pb_context_unref(ctx);
}

static void split__every_behavior__as_in_the_library(void **state) {
    (void)state;
    static const struct {
        pb_tok_behavior behavior;
        bool invert;
        const char *pieces;
    } cases[] = {
        {PB_TOK_REMOVED, false, "the/final/countdown"},
        {PB_TOK_ISOLATED, false, "the/-/final/-/-/countdown"},
        {PB_TOK_MERGED_WITH_PREVIOUS, false, "the-/final-/-/countdown"},
        {PB_TOK_MERGED_WITH_NEXT, false, "the/-final/-/-countdown"},
        {PB_TOK_CONTIGUOUS, false, "the/-/final/--/countdown"},
        {PB_TOK_REMOVED, true, "-/-/-"},
        {PB_TOK_CONTIGUOUS, true, "the/-/final/--/countdown"},
    };
    static const char text[] = "the-final--countdown";
    pb_context *ctx = test_context();
    pb_error err = {0};
    pb_tok_buffer pieces = {0};
    pb_tok_pattern pattern = {.kind = PB_TOK_PATTERN_LITERAL, .literal = {"-", 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char got[128];
        assert_ok(split_by(ctx, &pattern, text, strlen(text), cases[i].behavior, cases[i].invert, &pieces, &err));
        join_pieces(&pieces, text, got, sizeof got);
        assert_string_equal(got, cases[i].pieces);
    }
    pb_tok_buffer_free(&pieces);
    pb_context_unref(ctx);
}

/* ---- parts that no golden file has ------------------------------------------------------------------------------------ */

static void normalizers__each__gives_the_library_s_text(void **state) {
    (void)state;
    static const struct {
        const char *json, *text, *normal;
    } cases[] = {
        {"{\"type\":\"NFC\"}", "e\xCC\x81 a", "\xC3\xA9 a"},
        {"{\"type\":\"NFD\"}", "\xC3\xA9", "e\xCC\x81"},
        {"{\"type\":\"NFKC\"}", "\xEF\xAC\x81\xE2\x91\xA0", "fi1"},
        {"{\"type\":\"NFKD\"}", "\xE2\x84\xAB\xEF\xAC\x81",
         "A\xCC\x8A"
         "fi"},
        {"{\"type\":\"NFC\"}", "\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB", "\xED\x95\x9C"}, /* Hangul */
        {"{\"type\":\"Lowercase\"}",
         "\xC3\x89"
         "A\xC4\xB0\xCE\xA3",
         "\xC3\xA9"
         "ai\xCC\x87\xCF\x83"},
        {"{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":true}", " \xE3\x80\x80 a b\t\n", "a b"},
        {"{\"type\":\"Strip\",\"strip_left\":false,\"strip_right\":true}", " a ", " a"},
        {"{\"type\":\"StripAccents\"}",
         "e\xCC\x81"
         "a",
         "ea"},
        {"{\"type\":\"Nmt\"}",
         "a\x01"
         "b\tc\xE2\x80\x8B"
         "d",
         "ab c d"},
        {"{\"type\":\"Prepend\",\"prepend\":\"_\"}", "a", "_a"},
        {"{\"type\":\"Prepend\",\"prepend\":\"_\"}", "", ""},
        {"{\"type\":\"Replace\",\"pattern\":{\"String\":\"ab\"},\"content\":\"x\"}", "aababb", "axxb"},
        {"{\"type\":\"Replace\",\"pattern\":{\"Regex\":\" {2,}\"},\"content\":\" \"}", "a   b c", "a b c"},
        {"{\"type\":\"ByteLevel\"}", "a \xC3\xA9", "a\xC4\xA0\xC3\x83\xC2\xA9"},
        {"{\"type\":\"BertNormalizer\",\"clean_text\":true,\"handle_chinese_chars\":true,\"strip_accents\":null,"
         "\"lowercase\":true}",
         "\xC3\x89\t\xE4\xB8\xAD\x01", "e  \xE4\xB8\xAD "},
        {"{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFD\"},{\"type\":\"StripAccents\"},{\"type\":"
         "\"Lowercase\"}]}",
         "\xC3\x89"
         "A",
         "ea"},
        {"{\"type\":\"Sequence\",\"normalizers\":[]}", "\xC3\x89", "\xC3\x89"},
    };
    pb_context *ctx = test_context();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pb_error err = {0};
        pb_tokenizer *t = NULL;
        pb_tok_buffer out = {0};
        pb_tok_pieces scratch = {.ctx = ctx};
        assert_ok(test_tokenizer_of(ctx, cases[i].json, NULL, NULL, NULL, &t, &err));
        assert_ok(pb_tok_normalize_text(t, cases[i].text, strlen(cases[i].text), &out, &scratch, &err));
        if (out.length != strlen(cases[i].normal) ||
            (out.length && memcmp(out.data, cases[i].normal, out.length) != 0)) {
            print_error("%s makes '%.*s' of '%s'\n", cases[i].json, (int)out.length, out.data, cases[i].text);
            fail();
        }
        pb_tok_buffer_free(&out);
        pb_tok_pieces_free(&scratch);
        pb_tokenizer_unref(t);
    }
    pb_context_unref(ctx);
}

/* Canonical order of marks does not depend on how long their run is (two ways of sorting). */
static void nfd__long_run_of_marks__same_order_as_short(void **state) {
    (void)state;
    pb_context *ctx = test_context();
    pb_error err = {0};
    pb_tokenizer *t = NULL;
    assert_ok(test_tokenizer_of(ctx, "{\"type\":\"NFD\"}", NULL, NULL, NULL, &t, &err));
    for (size_t pairs = 1; pairs < 40; pairs++) {
        char text[200] = "a";
        for (size_t i = 0; i < pairs; i++)
            memcpy(text + 1 + 4 * i, "\xCC\x80\xCC\x96", 4); /* classes 230, 220 */
        pb_tok_buffer out = {0};
        pb_tok_pieces scratch = {.ctx = ctx};
        assert_ok(pb_tok_normalize_text(t, text, 1 + 4 * pairs, &out, &scratch, &err));
        assert_int_equal(out.length, 1 + 4 * pairs);
        for (size_t i = 0; i < 2 * pairs; i++)
            assert_memory_equal(out.data + 1 + 2 * i, i < pairs ? "\xCC\x96" : "\xCC\x80", 2);
        pb_tok_buffer_free(&out);
        pb_tok_pieces_free(&scratch);
    }
    pb_tokenizer_unref(t);
    pb_context_unref(ctx);
}

static void pretokenizers__each__gives_the_library_s_words(void **state) {
    (void)state;
    static const struct {
        const char *json, *text, *words;
    } cases[] = {
        {"{\"type\":\"Whitespace\"}",
         "Hey man!  Good?\xC2\xA0"
         "a_b",
         "Hey/man/!/Good/?/a_b"},
        {"{\"type\":\"WhitespaceSplit\"}", "Hey man,  Good?", "Hey/man,/Good?"},
        {"{\"type\":\"Punctuation\"}", "Hey friend!\xE2\x80\x94 $?", "Hey friend/!/\xE2\x80\x94/ /$/?"},
        {"{\"type\":\"Punctuation\",\"behavior\":\"Removed\"}", "a,b", "a/b"},
        {"{\"type\":\"Digits\",\"individual_digits\":true}", "a12\xC2\xBD b3", "a/1/2/\xC2\xBD/ b/3"},
        {"{\"type\":\"Digits\",\"individual_digits\":false}", "a12 b3", "a/12/ b/3"},
        {"{\"type\":\"BertPreTokenizer\"}", "Hey, man !", "Hey/,/man/!"},
        {"{\"type\":\"CharDelimiterSplit\",\"delimiter\":\",\"}", "a,b,,c", "a/b/c"},
        {"{\"type\":\"FixedLength\",\"length\":2}",
         "ab\xC3\xA9"
         "de",
         "ab/\xC3\xA9"
         "d/e"},
        {"{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"always\"}", "Hey  man", "_Hey/_/_man"},
        {"{\"type\":\"Metaspace\",\"replacement\":\"_\",\"add_prefix_space\":false}", "Hey man", "Hey/_man"},
        {"{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"first\",\"split\":false}", "Hey man",
         "_Hey_man"},
        {"{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"use_regex\":true}", "Hey man's",
         "\xC4\xA0Hey/\xC4\xA0man/'s"},
        {"{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}", "Hey man", "Hey\xC4\xA0man"},
        {"{\"type\":\"Split\",\"pattern\":{\"String\":\" \"},\"behavior\":\"MergedWithPrevious\",\"invert\":false}",
         "a b c", "a /b /c"},
        {"{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"WhitespaceSplit\"},{\"type\":\"Punctuation\"}]}",
         "a, b", "a/,/b"},
    };
    pb_context *ctx = test_context();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pb_error err = {0};
        pb_tokenizer *t = NULL;
        assert_ok(test_tokenizer_of(ctx, NULL, cases[i].json, NULL, NULL, &t, &err));
        pb_tok_pieces p = {.ctx = ctx, .text = cases[i].text};
        assert_true(pb_tok_pieces_add(&p, 0, strlen(cases[i].text), -1, true));
        pb_tok_pieces_swap(&p);
        assert_ok(pb_tok_pretokenize(t, &p, &err));
        pb_tok_buffer cuts = {0};
        for (size_t k = 0; k < PB_TOK_COUNT(p.spans, pb_tok_piece); k++) {
            pb_tok_piece piece = PB_TOK_ITEMS(p.spans, const pb_tok_piece)[k];
            pb_tok_cut cut = {.start = piece.start, .end = piece.start + piece.length};
            assert_true(pb_tok_buffer_append(&cuts, ctx, &cut, sizeof cut));
        }
        char got[128];
        join_pieces(&cuts, p.text, got, sizeof got);
        assert_string_equal(got, cases[i].words);
        pb_tok_buffer_free(&cuts);
        pb_tok_pieces_free(&p);
        pb_tokenizer_unref(t);
    }
    pb_context_unref(ctx);
}

static void decoders__each__gives_the_library_s_text(void **state) {
    (void)state;
    /* ids of test_tokenizer_of: ? a b c ab abc ' ' = 0..6; added tokens follow */
    static const char added[] =
        "[{\"id\":7,\"content\":\"_x_\"},{\"id\":8,\"content\":\"<0xC3>\"},{\"id\":9,\"content\":"
        "\"<0xA9>\"},{\"id\":10,\"content\":\"b</w>\"},{\"id\":11,\"content\":\"  a  \"}]";
    static const struct {
        const char *json;
        int32_t ids[4];
        size_t n;
        const char *text;
    } cases[] = {
        {NULL, {1, 4}, 2, "a ab"},
        {"{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"always\"}", {7, 7}, 2, "x x "},
        {"{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"never\"}", {7, 7}, 2, " x  x "},
        {"{\"type\":\"ByteFallback\"}",
         {8, 9, 1, 8},
         4,
         "\xC3\xA9"
         "a\xEF\xBF\xBD"},
        {"{\"type\":\"ByteFallback\"}", {9, 8}, 2, "\xEF\xBF\xBD\xEF\xBF\xBD"},
        {"{\"type\":\"BPEDecoder\",\"suffix\":\"</w>\"}", {10, 1, 10}, 3, "b ab"},
        {"{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":3}", {11}, 1, " a"},
        {"{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"[ab]\"},\"content\":\"-\"}", {4, 5}, 2, "----c"},
        {"{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\"a\",\"start\":1,"
         "\"stop\":0}]}",
         {4, 4},
         2,
         "bab"},
    };
    pb_context *ctx = test_context();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pb_error err = {0};
        pb_tokenizer *t = NULL;
        char *text;
        assert_ok(test_tokenizer_of(ctx, NULL, NULL, cases[i].json, added, &t, &err));
        assert_ok(pb_tokenizer_decode(t, cases[i].ids, cases[i].n, false, &text, NULL, &err));
        assert_string_equal(text, cases[i].text);
        pb_free(text);
        pb_tokenizer_unref(t);
    }
    pb_context_unref(ctx);
}

/* An unknown character: <unk>, fused or not; affixes of words. */
static void bpe__unknown_characters_and_affixes(void **state) {
    (void)state;
    static const struct {
        const char *model, *text;
        int32_t ids[6];
        size_t n;
    } cases[] = {
        {"\"unk_token\":\"?\",\"fuse_unk\":false,\"vocab\":{\"?\":0,\"a\":1},\"merges\":[]", "xya", {0, 0, 1}, 3},
        {"\"unk_token\":\"?\",\"fuse_unk\":true,\"vocab\":{\"?\":0,\"a\":1},\"merges\":[]", "xyax", {0, 1, 0}, 3},
        {"\"vocab\":{\"a\":1},\"merges\":[]", "xya", {1}, 1},
        {"\"continuing_subword_prefix\":\"##\",\"vocab\":{\"a\":0,\"##b\":1,\"ab\":2,\"##c\":3},\"merges\":[\"a ##b\"]",
         "abc",
         {2, 3},
         2},
        {"\"end_of_word_suffix\":\"</w>\",\"vocab\":{\"a\":0,\"b</w>\":1,\"ab</w>\":2,\"b\":3},\"merges\":[\"a "
         "b</w>\"]",
         "bab",
         {3, 2},
         2},
        {"\"byte_fallback\":true,\"unk_token\":\"?\",\"vocab\":{\"?\":0,\"<0xC3>\":1,\"<0xA9>\":2,\"a\":3},\"merges\":["
         "]",
         "a\xC3\xA9\xC3\xA0",
         {3, 1, 2, 0},
         4},
        {"\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"#version: 0.2\",\"a b\"]", "abb", {2, 1}, 2},
        {"\"ignore_merges\":true,\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[]", "ab", {2}, 1},
    };
    pb_context *ctx = test_context();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pb_error err = {0};
        char *folder = test_folder(), json[600];
        snprintf(json, sizeof json, "{\"model\":{\"type\":\"BPE\",%s}}", cases[i].model);
        test_write(test_path(folder, "tokenizer.json"), json);
        pb_tokenizer *t = test_tokenizer(ctx, folder);
        int32_t *ids;
        size_t n;
        assert_ok(pb_tokenizer_encode(t, cases[i].text, strlen(cases[i].text), PB_SPECIAL_DEFAULT, &ids, &n, &err));
        assert_int_equal(n, cases[i].n);
        assert_memory_equal(ids, cases[i].ids, n * sizeof *ids);
        pb_free(ids);
        pb_tokenizer_unref(t);
        test_folder_remove(folder);
    }
    pb_context_unref(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(regex__golden_patterns__same_pieces),
        cmocka_unit_test(regex__characters_of_new_unicode__as_far_as_known),
        cmocka_unit_test(regex__white_space_at_line_ends__rewritten_to_the_same),
        cmocka_unit_test(regex__what_ruby_means_otherwise__is_rewritten),
        cmocka_unit_test(regex__malformed_or_unknown__says_where),
        cmocka_unit_test(regex__exponential_pattern__gives_up_with_an_error),
        cmocka_unit_test(regex__deep_backtracking__falls_back),
        cmocka_unit_test(split__every_behavior__as_in_the_library),
        cmocka_unit_test(normalizers__each__gives_the_library_s_text),
        cmocka_unit_test(nfd__long_run_of_marks__same_order_as_short),
        cmocka_unit_test(pretokenizers__each__gives_the_library_s_words),
        cmocka_unit_test(decoders__each__gives_the_library_s_text),
        cmocka_unit_test(bpe__unknown_characters_and_affixes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
