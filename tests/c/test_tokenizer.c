/* Tokenizers against the answers of the tokenizers library (tests/golden/tokenizers; more in the shared folder), and what
 * no golden file holds: refused files, error texts, labels, hostile input. The parts alone: test_tokenizer_parts.c. */
#include "support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "model/tokenizer_internal.h"
#include "support/tokenizers.h"

/* ---- golden cases --------------------------------------------------------------------------------------------------- */

static int32_t *ids_of(const json_t *array, size_t *n) {
    *n = json_array_size(array);
    int32_t *ids = calloc(*n + 1, sizeof *ids);
    assert_non_null(ids);
    for (size_t i = 0; i < *n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(array, i));
    return ids;
}

/* encode(text) is json[key]; a text or ids that differ are shown. */
static void check_encode(const pb_tokenizer *t, const json_t *json, const char *key, pb_special special) {
    pb_error err = {0};
    const json_t *text = json_object_get(json, "text");
    int32_t *ids, *wanted;
    size_t n, wanted_n;
    assert_ok(pb_tokenizer_encode(t, json_string_value(text), json_string_length(text), special, &ids, &n, &err));
    wanted = ids_of(json_object_get(json, key), &wanted_n);
    if (n != wanted_n || memcmp(ids, wanted, n * sizeof *ids) != 0) {
        print_error("%s of '%s':", key, json_string_value(text));
        for (size_t i = 0; i < n; i++)
            print_error(" %d", (int)ids[i]);
        print_error(" instead of");
        for (size_t i = 0; i < wanted_n; i++)
            print_error(" %d", (int)wanted[i]);
        print_error("\n");
        fail();
    }
    free(wanted);
    pb_free(ids);
}

static void check_decode(const pb_tokenizer *t, const json_t *json, const char *key, bool skip_special) {
    pb_error err = {0};
    const json_t *wanted = json_object_get(json, key);
    char *text;
    size_t n, length;
    int32_t *ids = ids_of(json_object_get(json, "ids"), &n);
    assert_ok(pb_tokenizer_decode(t, ids, n, skip_special, &text, &length, &err));
    if (length != json_string_length(wanted) || memcmp(text, json_string_value(wanted), length) != 0) {
        print_error("%s is '%s' instead of '%s'\n", key, text, json_string_value(wanted));
        fail();
    }
    free(ids);
    pb_free(text);
}

/* Every line of folder/cases.jsonl and folder/decode.jsonl. */
static void check_folder(const char *folder) {
    pb_context *ctx = test_context();
    pb_tokenizer *t = test_tokenizer(ctx, folder);
    char *line = NULL;
    size_t capacity = 0;
    int lines = 0;
    for (int k = 0; k < 2; k++) {
        FILE *file = test_open_lines(test_path(folder, k ? "decode.jsonl" : "cases.jsonl"));
        for (json_t *json; (json = test_next_line(file, &line, &capacity)) != NULL; json_decref(json), lines++) {
            if (k == 0) {
                check_encode(t, json, "ids", PB_SPECIAL_DEFAULT);
                check_encode(t, json, "ids_no_special", PB_SPECIAL_OFF);
            }
            check_decode(t, json, "decoded", false);
            check_decode(t, json, "decoded_skip_special", true);
        }
        fclose(file);
    }
    assert_true(lines > 100);
    free(line);
    pb_tokenizer_unref(t);
    pb_context_unref(ctx);
}

static void golden__own_shape(void **state) {
    char name[128];
    snprintf(name, sizeof name, "golden/tokenizers/%s", (const char *)*state);
    check_folder(test_data(name));
}

static void golden__shared_shape(void **state) {
    char name[128];
    snprintf(name, sizeof name, "golden/tokenizers/%s", (const char *)*state);
    check_folder(test_shared(name));
}

/* ---- refused files -------------------------------------------------------------------------------------------------- */

static void open__bad_files__refused_with_the_reason(void **state) {
    (void)state;
    static const struct {
        const char *name, *message;
        pb_status status;
    } cases[] = {
        {"truncated.json", "premature end", PB_ERR_FORMAT},
        {"trailing_garbage.json", "end of file expected", PB_ERR_FORMAT},
        {"empty.json", "is empty", PB_ERR_FORMAT},
        {"not_an_object.json", "must be an object", PB_ERR_FORMAT},
        {"invalid_utf8.json", "unable to decode byte", PB_ERR_FORMAT},
        {"too_deep.json", "maximum parsing depth", PB_ERR_FORMAT},
        {"no_model.json", "\"model\" is missing", PB_ERR_FORMAT},
        {"unigram.json", "\"Unigram\" is not supported", PB_ERR_UNSUPPORTED},
        {"wordpiece.json", "\"WordPiece\" is not supported", PB_ERR_UNSUPPORTED},
        {"unknown_model.json", "\"Banana\" is not supported", PB_ERR_UNSUPPORTED},
        {"merge_absent_token.json", "model.merges[2]: the token \"zz\" is not in the vocabulary", PB_ERR_FORMAT},
        {"merge_absent_result.json", "model.merges[2]: the token \"bc\" is not in the vocabulary", PB_ERR_FORMAT},
        {"merge_three_parts.json", "must be two tokens", PB_ERR_FORMAT},
        {"negative_id.json", "got -1", PB_ERR_FORMAT},
        {"huge_id.json", "got 1e300", PB_ERR_FORMAT},
        {"bad_regex.json", "no closing parenthesis", PB_ERR_FORMAT},
        {"unknown_pre_tokenizer.json", "pre_tokenizer: type \"Banana\"", PB_ERR_UNSUPPORTED},
        {"unknown_normalizer.json", "normalizer: type \"Banana\"", PB_ERR_UNSUPPORTED},
        {"unknown_decoder.json", "decoder: type \"Banana\"", PB_ERR_UNSUPPORTED},
        {"template_without_token.json", "\"<s>\", which \"special_tokens\" lacks", PB_ERR_FORMAT},
    };
    pb_context *ctx = test_context();
    size_t used = pb_context_memory_used(ctx);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pb_error err = {0};
        pb_tokenizer *t = NULL;
        char name[128];
        snprintf(name, sizeof name, "golden/tokenizers/bad/%s", cases[i].name);
        assert_error(pb_tokenizer_open(ctx, test_data(name), &t, &err), cases[i].status, cases[i].message);
        assert_null(t);
        assert_non_null(strstr(err.message, cases[i].name)); /* every message names the file */
        assert_int_equal(pb_context_memory_used(ctx), used);
    }
    pb_context_unref(ctx);
}

static void open__other_mistakes__named(void **state) {
    (void)state;
    static const struct {
        const char *json, *message;
    } cases[] = {
        {"{\"version\":\"2.0\",\"model\":{\"vocab\":{},\"merges\":[]}}", "version \"2.0\""},
        {"{\"model\":{\"vocab\":{}}}", "neither \"type\" nor \"merges\""},
        {"{\"model\":{\"type\":\"BPE\",\"merges\":[]}}", "model: \"vocab\" is missing"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", "model.merges[0]"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"unk_token\":\"b\"}}", "lacks the unk_token \"b\""},
        {"{\"model\":{\"vocab\":{\"a\":16777216},\"merges\":[]}}", "from 0 to 16777215"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"added_tokens\":[{\"content\":\"x\"}]}",
         "added_tokens[0]: \"id\""},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"added_tokens\":[7]}", "added_tokens[0] must be an object"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{"
         "\"type\":"
         "\"NFC\"},{\"type\":\"Precompiled\"}]}}",
         "normalizer.normalizers[1]: type \"Precompiled\""},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":"
         "\"a\"},"
         "\"behavior\":\"Sideways\"}}",
         "\"behavior\" is \"Sideways\""},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":"
         "\"ab\"}}",
         "must be one character"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":["
         "\"a\",9],"
         "\"sep\":[\"a\",0]}}",
         "the id 9, which is no token"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"post_processor\":{\"type\":\"TemplateProcessing\","
         "\"single\":[],"
         "\"special_tokens\":{}}}",
         "the text would vanish"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"pre_tokenizer\":7}",
         "pre_tokenizer must be null or an object"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":"
         "\"Removed\"}}",
         "\"pattern\" must be {\"String\": text}"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_"
         "\","
         "\"prepend_scheme\":\"sometimes\"}}",
         "it must be always, first or never"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"_\","
         "\"prepend_scheme\":\"first\",\"add_prefix_space\":false}}",
         "\"add_prefix_space\" is false but"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"normalizer\":{\"type\":\"Prepend\"}}",
         "\"prepend\" must be a string"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"post_processor\":{\"type\":\"Banana\"}}",
         "post_processor: type \"Banana\""},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"post_processor\":{\"type\":\"TemplateProcessing\","
         "\"single\":"
         "[{\"Sequence\":{\"id\":\"B\"}}],\"special_tokens\":{}}}",
         "must have the sequence A once"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"post_processor\":{\"type\":\"TemplateProcessing\","
         "\"single\":"
         "[7],\"special_tokens\":{}}}",
         "single[0] must be a SpecialToken or a Sequence"},
        {"{\"model\":{\"continuing_subword_prefix\":\"##\",\"vocab\":{\"a\":0},\"merges\":[\"a a\"]}}",
         "shorter than continuing_subword_prefix"},
        {"{\"model\":{\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]}}", "duplicate object key"},
    };
    pb_context *ctx = test_context();
    char *folder = test_folder();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pb_error err = {0};
        pb_tokenizer *t = NULL;
        test_write(test_path(folder, "tokenizer.json"), cases[i].json);
        pb_status status = pb_tokenizer_open(ctx, folder, &t, &err);
        assert_error(status, status == PB_ERR_UNSUPPORTED ? status : PB_ERR_FORMAT, cases[i].message);
    }
    test_write(test_path(folder, "tokenizer.json"), "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]}}");
    test_write(test_path(folder, "tokenizer_config.json"), "{\"bos_token\":");
    pb_error err = {0};
    pb_tokenizer *t = NULL;
    assert_error(pb_tokenizer_open(ctx, folder, &t, &err), PB_ERR_FORMAT, "tokenizer_config.json");
    test_write(test_path(folder, "tokenizer_config.json"), "{\"bos_token\":7}");
    assert_error(pb_tokenizer_open(ctx, folder, &t, &err), PB_ERR_FORMAT, "\"bos_token\" must be a string");
    test_folder_remove(folder);
    folder = test_folder();
    assert_error(pb_tokenizer_open(ctx, folder, &t, &err), PB_ERR_IO, "no tokenizer.json in this folder");
    assert_error(pb_tokenizer_open(ctx, test_path(folder, "absent.json"), &t, &err), PB_ERR_IO, "absent.json");
    test_folder_remove(folder);
    pb_context_unref(ctx);
}

/* ---- special tokens ------------------------------------------------------------------------------------------------- */

static size_t count_ids(const pb_tokenizer *t, const char *text, pb_special special, int32_t *first) {
    pb_error err = {0};
    int32_t *ids;
    size_t n;
    assert_ok(pb_tokenizer_encode(t, text, strlen(text), special, &ids, &n, &err));
    *first = n ? ids[0] : -1;
    pb_free(ids);
    return n;
}

static void special__default_off_on(void **state) {
    (void)state;
    pb_context *ctx = test_context();
    int32_t first;
    pb_tokenizer *gpt2 = test_tokenizer(ctx, test_data("golden/tokenizers/01_gpt2"));
    assert_false(pb_tokenizer_adds_special(gpt2));
    assert_int_equal(pb_tokenizer_bos(gpt2), 700);
    assert_int_equal(pb_tokenizer_eos(gpt2), 700);
    assert_true(pb_tokenizer_is_special(gpt2, 700));
    assert_false(pb_tokenizer_is_special(gpt2, 0));
    assert_false(pb_tokenizer_is_special(gpt2, -1));
    assert_false(pb_tokenizer_is_special(gpt2, 701));
    assert_int_equal(count_ids(gpt2, "", PB_SPECIAL_DEFAULT, &first), 0);
    assert_int_equal(count_ids(gpt2, "", PB_SPECIAL_ON, &first), 1); /* asked for: the file's BOS */
    assert_int_equal(first, 700);
    pb_tokenizer *llama = test_tokenizer(ctx, test_data("golden/tokenizers/06_llama2"));
    assert_true(pb_tokenizer_adds_special(llama));
    assert_int_equal(pb_tokenizer_bos(llama), 1);
    assert_int_equal(pb_tokenizer_eos(llama), 2);
    assert_int_equal(count_ids(llama, "", PB_SPECIAL_DEFAULT, &first), 1);
    assert_int_equal(first, 1);
    assert_int_equal(count_ids(llama, "", PB_SPECIAL_ON, &first), 1);
    assert_int_equal(count_ids(llama, "", PB_SPECIAL_OFF, &first), 0);
    assert_string_equal(pb_tokenizer_kind(gpt2), "byte-level BPE");
    assert_string_equal(pb_tokenizer_kind(llama), "BPE with byte fallback");
    pb_tokenizer_unref(gpt2);
    pb_tokenizer_unref(llama);

    pb_error err = {0};
    pb_tokenizer *t = NULL;
    int32_t *ids = NULL;
    size_t n;
    assert_ok(test_tokenizer_of(ctx, NULL, NULL, NULL, NULL, &t, &err));
    assert_int_equal(pb_tokenizer_bos(t), -1);
    assert_int_equal(pb_tokenizer_eos(t), -1);
    assert_error(pb_tokenizer_encode(t, "a", 1, PB_SPECIAL_ON, &ids, &n, &err), PB_ERR_ARGUMENT, "no BOS token");
    assert_null(ids);
    pb_tokenizer_unref(t);
    pb_context_unref(ctx);
}

static void config__add_bos_and_eos__around_the_text(void **state) {
    (void)state;
    pb_context *ctx = test_context();
    pb_error err = {0};
    char *folder = test_folder();
    test_write(
        test_path(folder, "tokenizer.json"),
        "{\"model\":{\"vocab\":{\"a\":0,\"B\":1,\"E\":2},\"merges\":[]},\"post_processor\":{\"type\":"
        "\"RobertaProcessing\",\"cls\":[\"B\",1],\"sep\":[\"E\",2],\"trim_offsets\":true,\"add_prefix_space\":true}}");
    test_write(test_path(folder, "tokenizer_config.json"),
               "{\"bos_token\":{\"content\":\"B\"},\"eos_token\":\"E\",\"add_bos_token\":true,\"add_eos_token\":true}");
    for (int k = 0; k < 2; k++) { /* with a post-processor that adds them already, and without */
        pb_tokenizer *t = test_tokenizer(ctx, folder);
        int32_t *ids;
        size_t n;
        assert_ok(pb_tokenizer_encode(t, "a", 1, PB_SPECIAL_DEFAULT, &ids, &n, &err));
        assert_int_equal(n, 3);
        assert_int_equal(ids[0], 1);
        assert_int_equal(ids[1], 0);
        assert_int_equal(ids[2], 2);
        pb_free(ids);
        pb_tokenizer_unref(t);
        test_write(test_path(folder, "tokenizer.json"),
                   "{\"model\":{\"vocab\":{\"a\":0,\"B\":1,\"E\":2},\"merges\":[]}}");
    }
    test_folder_remove(folder);
    pb_context_unref(ctx);
}

static void count_warning(void *user, const char *message) {
    assert_non_null(strstr(message, "\"x\" says id 99 but gets 7"));
    ++*(int *)user;
}

static void added_token__with_another_id_than_the_library_gives__warns(void **state) {
    (void)state;
    pb_context *ctx = test_context();
    pb_error err = {0};
    pb_tokenizer *t = NULL;
    int warnings = 0;
    pb_context_on_warning(ctx, count_warning, &warnings);
    assert_ok(test_tokenizer_of(ctx, NULL, NULL, NULL, "[{\"id\":99,\"content\":\"x\"}]", &t, &err));
    assert_int_equal(warnings, 1);
    assert_int_equal(pb_tokenizer_find(t, "x"), 7);
    pb_tokenizer_unref(t);
    pb_context_unref(ctx);
}

/* The later of two added tokens with the same text holds. */
static void added_token__given_twice__later_flags_hold(void **state) {
    (void)state;
    pb_context *ctx = test_context();
    pb_error err = {0};
    pb_tokenizer *t = NULL;
    assert_ok(test_tokenizer_of(ctx, NULL, NULL, NULL,
                                "[{\"id\":7,\"content\":\"x\"},{\"id\":7,\"content\":\"x\",\"special\":true,\"lstrip\":"
                                "true},{\"id\":8,\"content\":\"\"}]",
                                &t, &err));
    assert_int_equal(pb_tokenizer_size(t), 8);
    assert_true(pb_tokenizer_is_special(t, 7));
    int32_t first;
    assert_int_equal(count_ids(t, "  x", PB_SPECIAL_OFF, &first), 1);
    assert_int_equal(first, 7);
    pb_tokenizer_unref(t);
    pb_context_unref(ctx);
}

/* ---- texts ---------------------------------------------------------------------------------------------------------- */

static void encode__invalid_utf8__names_the_byte(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t n;
        const char *message;
    } cases[] = {
        {"ab\xFF", 3, "byte 2 (0xFF)"},           {"\x80", 1, "byte 0 (0x80)"},     {"a\xC3", 2, "byte 1 (0xC3)"},
        {"a\xC3(", 3, "byte 1 (0xC3)"},           {"\xC0\xAF", 2, "byte 0 (0xC0)"}, /* overlong */
        {"\xE0\x80\x80", 3, "byte 0 (0xE0)"},                                       /* overlong */
        {"x\xED\xA0\x80", 4, "byte 1 (0xED)"},                                      /* surrogate */
        {"\xF4\x90\x80\x80", 4, "byte 0 (0xF4)"},                                   /* beyond U+10FFFF */
    };
    pb_context *ctx = test_context();
    pb_tokenizer *t = test_tokenizer(ctx, test_data("golden/tokenizers/01_gpt2"));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pb_error err = {0};
        int32_t *ids = NULL;
        size_t n = 77;
        assert_error(pb_tokenizer_encode(t, cases[i].text, cases[i].n, PB_SPECIAL_OFF, &ids, &n, &err), PB_ERR_ARGUMENT,
                     cases[i].message);
        assert_null(ids);
        assert_int_equal(n, 77);
    }
    pb_tokenizer_unref(t);
    pb_context_unref(ctx);
}

/* A text of n bytes of random valid characters, NUL and line ends among them; malloc'ed. */
static char *random_text(uint64_t seed, size_t n) {
    char *text = malloc(n + 4);
    assert_non_null(text);
    uint64_t x = seed * UINT64_C(0x9E3779B97F4A7C15) + 1;
    for (size_t at = 0; at < n;) {
        static const uint32_t limits[] = {0x80, 0x80, 0x80, 0x800, 0x3000, 0x10FFFF};
        x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        uint32_t c = (uint32_t)(x >> 33) % limits[(x >> 20) % 6];
        char bytes[4];
        size_t length = pb_tok_utf8_put(c >= 0xD800 && c < 0xE000 ? ' ' : c, bytes);
        if (at + length > n) {
            length = n - at;
            memset(bytes, 'z', sizeof bytes);
        }
        memcpy(text + at, bytes, length);
        at += length;
    }
    return text;
}

static void check_round_trip(const pb_tokenizer *t, const char *text, size_t n) {
    pb_error err = {0};
    int32_t *ids;
    size_t count, length;
    char *back;
    assert_ok(pb_tokenizer_encode(t, text, n, PB_SPECIAL_DEFAULT, &ids, &count, &err));
    assert_ok(pb_tokenizer_decode(t, ids, count, true, &back, &length, &err));
    assert_int_equal(length, n);
    assert_memory_equal(back, text, n);
    pb_free(ids);
    pb_free(back);
}

static void round_trip__random_texts__come_back(void **state) {
    (void)state;
    pb_context *ctx = test_context();
    static const char *const names[] = {"golden/tokenizers/01_gpt2", "golden/tokenizers/06_llama2",
                                        "golden/tokenizers/07_llama2_metaspace"};
    for (size_t k = 0; k < 3; k++) {
        pb_tokenizer *t = test_tokenizer(ctx, test_data(names[k]));
        for (size_t seed = 0; seed < 60; seed++) {
            size_t n = seed * seed / 3 + 1;
            char *text = random_text(seed, n);
            check_round_trip(t, text, n);
            free(text);
        }
        pb_tokenizer_unref(t);
    }
    pb_context_unref(ctx);
}

/* What a piece is: in running text the pieces join to it, whatever the bytes. */
static void piece__of_a_text_s_ids__join_to_the_text(void **state) {
    (void)state;
    pb_context *ctx = test_context();
    pb_error err = {0};
    static const char text[] = " Paris is \xE4\xB8\xAD\xF0\x9F\x98\x80<|endoftext|>\n\x00 end";
    pb_tokenizer *t = test_tokenizer(ctx, test_data("golden/tokenizers/01_gpt2"));
    int32_t *ids;
    size_t n;
    assert_ok(pb_tokenizer_encode(t, text, sizeof text - 1, PB_SPECIAL_OFF, &ids, &n, &err));
    pb_tok_buffer joined = {0};
    for (size_t i = 0; i < n; i++) {
        char *piece;
        size_t length;
        assert_ok(pb_tokenizer_piece(t, ids[i], &piece, &length, &err));
        assert_true(length > 0);
        assert_int_equal(piece[length], 0);
        assert_true(pb_tok_buffer_append(&joined, ctx, piece, length));
        pb_free(piece);
    }
    assert_int_equal(joined.length, sizeof text - 1);
    assert_memory_equal(joined.data, text, sizeof text - 1);
    pb_tok_buffer_free(&joined);
    pb_free(ids);
    pb_tokenizer_unref(t);

    t = test_tokenizer(ctx, test_data("golden/tokenizers/06_llama2"));
    char *piece;
    size_t length;
    assert_ok(pb_tokenizer_piece(t, pb_tokenizer_find(t, "<0xE4>"), &piece, &length, &err));
    assert_int_equal(length, 1);
    assert_memory_equal(piece, "\xE4", 2);
    pb_free(piece);
    assert_ok(pb_tokenizer_piece(t,
                                 pb_tokenizer_find(t, "\xE2\x96\x81"
                                                      "that"),
                                 &piece, &length, &err));
    assert_string_equal(piece, " that"); /* Strip belongs to whole texts */
    pb_free(piece);
    assert_error(pb_tokenizer_piece(t, 740, &piece, &length, &err), PB_ERR_ARGUMENT, "ids are 0 to 739");
    assert_error(pb_tokenizer_piece(t, -1, &piece, &length, &err), PB_ERR_ARGUMENT, "the token id -1");
    pb_tokenizer_unref(t);
    pb_context_unref(ctx);
}

static void label__of_awkward_tokens__is_visible(void **state) {
    (void)state;
    static const char added[] =
        "[{\"id\":7,\"content\":\" Paris\"},{\"id\":8,\"content\":\"\\n\"},{\"id\":9,\"content\":\"a\\tb\"},{\"id\":10,"
        "\"content\":\"\\u0000\\u0007\"},{\"id\":11,\"content\":\"   \"},{\"id\":12,\"content\":\" a b \"},{\"id\":13,"
        "\"content\":\" <s>\\n\",\"special\":true},{\"id\":14,\"content\":\"\\u0085\\u00e9\"}]";
    static const struct {
        int32_t id;
        const char *label;
    } cases[] = {
        {7, "\xE2\x90\xA3Paris"},
        {8, "\xE2\x86\xB5"},
        {9, "a\xE2\x87\xA5"
            "b"},
        {10, "\\x00\\x07"},
        {11, "\xE2\x90\xA3\xE2\x90\xA3\xE2\x90\xA3"},
        {12, "\xE2\x90\xA3"
             "a b\xE2\x90\xA3"},
        {13, " <s>\n"}, /* a special token's own name */
        {14, "\\xC2\\x85\xC3\xA9"},
        {5, "abc"},
    };
    pb_context *ctx = test_context();
    pb_error err = {0};
    pb_tokenizer *t = NULL;
    char *label;
    assert_ok(test_tokenizer_of(ctx, NULL, NULL, "{\"type\":\"Fuse\"}", added, &t, &err));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_ok(pb_tokenizer_label(t, cases[i].id, &label, &err));
        assert_string_equal(label, cases[i].label);
        pb_free(label);
    }
    assert_error(pb_tokenizer_label(t, 99, &label, &err), PB_ERR_ARGUMENT, "99");
    pb_tokenizer_unref(t);
    t = test_tokenizer(ctx, test_data("golden/tokenizers/01_gpt2"));
    assert_ok(pb_tokenizer_label(t, pb_tokenizer_find(t, "\xC3\xA4"), &label, &err)); /* byte E4 */
    assert_string_equal(label, "\\xE4");
    pb_free(label);
    pb_tokenizer_unref(t);
    pb_context_unref(ctx);
}

static void single__one_token_or_an_error_that_shows_the_pieces(void **state) {
    (void)state;
    pb_context *ctx = test_context();
    pb_error err = {0};
    pb_tokenizer *t = NULL;
    int32_t id = -5;
    assert_ok(test_tokenizer_of(ctx, NULL, NULL, NULL, "[{\"id\":7,\"content\":\" x\"},{\"id\":8,\"content\":\"\\n\"}]",
                                &t, &err));
    assert_ok(pb_tokenizer_single(t, "abc", 3, &id, &err));
    assert_int_equal(id, 5);
    assert_error(pb_tokenizer_single(t, "abcb", 4, &id, &err), PB_ERR_ARGUMENT,
                 "'abcb' is 2 tokens: 'abc' (5) 'b' (2); a metric needs exactly one");
    assert_error(pb_tokenizer_single(t, "a\n", 2, &id, &err), PB_ERR_ARGUMENT, "'a' (1) '\xE2\x86\xB5' (8)");
    assert_error(pb_tokenizer_single(t, "", 0, &id, &err), PB_ERR_ARGUMENT, "'' is no token at all");
    assert_error(pb_tokenizer_single(t, "aaaaaaaaaaaaaaaa", 16, &id, &err), PB_ERR_ARGUMENT, "16 tokens: 'a' (1)");
    assert_non_null(strstr(err.message, "..."));
    assert_error(pb_tokenizer_single(t, "\xFF", 1, &id, &err), PB_ERR_ARGUMENT, "not valid UTF-8");
    assert_int_equal(id, 5);
    pb_tokenizer_unref(t);

    t = test_tokenizer(ctx, test_data("golden/tokenizers/01_gpt2"));
    assert_ok(pb_tokenizer_single(t, " causal", 7, &id, &err));
    assert_int_equal(id, pb_tokenizer_find(t, "\xC4\xA0"
                                              "causal"));
    assert_error(pb_tokenizer_single(t, "causal", 6, &id, &err), PB_ERR_ARGUMENT,
                 "' causal', with a space in front, is one");
    pb_tokenizer_unref(t);
    pb_context_unref(ctx);
}

static void lookup__tokens_by_spelling_and_id(void **state) {
    (void)state;
    pb_context *ctx = test_context();
    pb_error err = {0};
    pb_tokenizer *t = NULL;
    assert_ok(test_tokenizer_of(ctx, NULL, NULL, NULL, "[{\"id\":7,\"content\":\"<x>\",\"special\":true}]", &t, &err));
    assert_int_equal(pb_tokenizer_size(t), 8);
    assert_int_equal(pb_tokenizer_find(t, "ab"), 4);
    assert_int_equal(pb_tokenizer_find(t, "<x>"), 7);
    assert_int_equal(pb_tokenizer_find(t, "nothing"), -1);
    assert_string_equal(pb_tokenizer_token(t, 4), "ab");
    assert_string_equal(pb_tokenizer_token(t, 7), "<x>");
    assert_null(pb_tokenizer_token(t, 8));
    assert_null(pb_tokenizer_token(t, -1));
    char *text;
    int32_t ids[] = {4, 8};
    assert_error(pb_tokenizer_decode(t, ids, 2, false, &text, NULL, &err), PB_ERR_ARGUMENT, "the token id 8");
    pb_tokenizer *same = pb_tokenizer_ref(t);
    pb_tokenizer_unref(t);
    assert_int_equal(pb_tokenizer_find(same, "ab"), 4);
    pb_tokenizer_unref(same);
    pb_tokenizer_unref(NULL);
    pb_context_unref(ctx);
}

/* Words that come again are copied from where they were; the ids are those of each word alone. */
static void encode__repeated_words__same_ids_as_alone(void **state) {
    (void)state;
    pb_context *ctx = test_context();
    pb_error err = {0};
    pb_tokenizer *t = test_tokenizer(ctx, test_data("golden/tokenizers/01_gpt2"));
    pb_tok_buffer text = {0}, wanted = {0};
    uint64_t x = 1;
    for (int i = 0; i < 4000; i++) {
        char word[8] = " ";
        size_t length = 1;
        x = x * UINT64_C(6364136223846793005) + 99;
        for (uint64_t y = x >> 40; length < 2 + (x >> 60) % 5; y /= 5)
            word[length++] = "their"[y % 5];
        int32_t *ids;
        size_t n;
        assert_ok(pb_tokenizer_encode(t, word, length, PB_SPECIAL_OFF, &ids, &n, &err));
        assert_true(pb_tok_buffer_append(&text, ctx, word, length));
        assert_true(pb_tok_buffer_append(&wanted, ctx, ids, n * sizeof *ids));
        pb_free(ids);
    }
    int32_t *ids;
    size_t n;
    assert_ok(pb_tokenizer_encode(t, text.data, text.length, PB_SPECIAL_OFF, &ids, &n, &err));
    assert_int_equal(n, PB_TOK_COUNT(wanted, int32_t));
    assert_memory_equal(ids, wanted.data, wanted.length);
    pb_free(ids);
    pb_tok_buffer_free(&text);
    pb_tok_buffer_free(&wanted);
    pb_tokenizer_unref(t);
    pb_context_unref(ctx);
}

/* Quadratic time would take hours here, linear takes some milliseconds each. */
static void encode__long_monotonous_texts__take_linear_time(void **state) {
    (void)state;
    enum { N = 300000 };
    static const char *const units[] = {"a", " ", "\n", "7", "!", " \n", "\xCC\x96\xCC\x80", "\xE4\xB8\xAD", "a "};
    pb_context *ctx = test_context();
    pb_tokenizer *parts[3] = {test_tokenizer(ctx, test_data("golden/tokenizers/01_gpt2")),
                              test_tokenizer(ctx, test_data("golden/tokenizers/06_llama2")), NULL};
    pb_error err = {0};
    assert_ok(test_tokenizer_of(
        ctx, "{\"type\":\"NFC\"}",
        "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\s+$\"},\"behavior\":\"Isolated\",\"invert\":false}", NULL,
        NULL, &parts[2], &err));
    char *text = malloc(N);
    assert_non_null(text);
    clock_t begin = clock();
    for (size_t u = 0; u < sizeof units / sizeof *units; u++)
        for (int k = 0; k < 3; k++) {
            size_t length = strlen(units[u]), n = N - 1 - (N - 1) % length;
            for (size_t at = 0; at < n; at += length)
                memcpy(text + at, units[u], length);
            text[n] = 'x'; /* so that a run of white space does not end the text */
            int32_t *ids;
            size_t count;
            assert_ok(pb_tokenizer_encode(parts[k], text, n + 1, PB_SPECIAL_OFF, &ids, &count, &err));
            assert_true(count > 0);
            pb_free(ids);
        }
    assert_true((double)(clock() - begin) / CLOCKS_PER_SEC < 60);
    free(text);
    for (int k = 0; k < 3; k++)
        pb_tokenizer_unref(parts[k]);
    pb_context_unref(ctx);
}

static void encode__stop_requested__ends(void **state) {
    (void)state;
    pb_context *ctx = test_context();
    pb_error err = {0};
    pb_tokenizer *t = test_tokenizer(ctx, test_data("golden/tokenizers/01_gpt2"));
    char *text = malloc(100000);
    assert_non_null(text);
    for (int i = 0; i < 100000; i++)
        text[i] = "a "[i % 2];
    int32_t *ids = NULL;
    size_t n;
    pb_context_stop(ctx);
    assert_error(pb_tokenizer_encode(t, text, 100000, PB_SPECIAL_OFF, &ids, &n, &err), PB_ERR_STOPPED, NULL);
    assert_null(ids);
    free(text);
    pb_tokenizer_unref(t);
    pb_context_unref(ctx);
}

/* ---- failing allocations -------------------------------------------------------------------------------------------- */

static pb_status body_open(pb_context *ctx, void *user, pb_error *err) {
    pb_tokenizer *t = NULL;
    pb_status status = pb_tokenizer_open(ctx, user, &t, err);
    pb_tokenizer_unref(t);
    return status;
}

typedef struct text_case {
    pb_tokenizer *tokenizer;
    const char *text;
} text_case;

static pb_status body_encode(pb_context *ctx, void *user, pb_error *err) {
    (void)ctx;
    const text_case *c = user;
    int32_t *ids;
    size_t n;
    PB_TRY(pb_tokenizer_encode(c->tokenizer, c->text, strlen(c->text), PB_SPECIAL_DEFAULT, &ids, &n, err));
    char *text = NULL;
    pb_status status = pb_tokenizer_decode(c->tokenizer, ids, n, false, &text, NULL, err);
    pb_free(text);
    pb_free(ids);
    return status;
}

static pb_status body_pieces(pb_context *ctx, void *user, pb_error *err) {
    (void)ctx;
    const text_case *c = user;
    char *text;
    size_t length;
    PB_TRY(pb_tokenizer_piece(c->tokenizer, 300, &text, &length, err));
    pb_free(text);
    PB_TRY(pb_tokenizer_label(c->tokenizer, 300, &text, err));
    pb_free(text);
    int32_t id;
    pb_error inner = {0};
    pb_status status = pb_tokenizer_single(c->tokenizer, c->text, strlen(c->text), &id, &inner);
    if (status == PB_ERR_MEMORY && err)
        *err = inner;
    return status == PB_ERR_ARGUMENT ? PB_OK : status; /* more than one token: its message was made */
}

static void allocations__each_fails_once__nothing_leaks(void **state) {
    (void)state;
    static const char *const names[] = {"golden/tokenizers/02_opt", "golden/tokenizers/06_llama2",
                                        "golden/tokenizers/07_llama2_metaspace"};
    pb_context *ctx = test_context();
    for (size_t k = 0; k < 3; k++) {
        char path[512];
        snprintf(path, sizeof path, "%s", test_data(names[k]));
        assert_true(assert_survives_allocation_failure(ctx, body_open, path) > 20);
        text_case c = {.tokenizer = test_tokenizer(ctx, path),
                       .text = "a text of \xE4\xB8\xAD <mask> words</s> and words"};
        assert_true(assert_survives_allocation_failure(ctx, body_encode, &c) > 5);
        assert_true(assert_survives_allocation_failure(ctx, body_pieces, &c) > 3);
        pb_tokenizer_unref(c.tokenizer);
    }
    char *folder = test_folder(); /* parts that those lack */
    test_write(
        test_path(folder, "tokenizer.json"),
        "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"end_of_word_suffix\":\"</w>\"},\"added_tokens\":[{\"id\":1,"
        "\"content\":\"\\u00c9\",\"normalized\":true}],\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{"
        "\"type\":\"NFKC\"},{\"type\":\"BertNormalizer\"},{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"[a-c[^\\\\d&&"
        "[^b]]]x\"},\"content\":\"y\"}]},\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":"
        "\"Whitespace\"},{\"type\":\"Punctuation\",\"behavior\":\"MergedWithNext\"}]},\"decoder\":{\"type\":"
        "\"Replace\","
        "\"pattern\":{\"Regex\":\"a|b\"},\"content\":\"\"}}");
    assert_true(assert_survives_allocation_failure(ctx, body_open, folder) > 20);
    text_case c = {.tokenizer = test_tokenizer(ctx, folder), .text = "\xC3\x89 a e\xCC\x81, b!\xE4\xB8\xAD ax"};
    assert_true(assert_survives_allocation_failure(ctx, body_encode, &c) > 5);
    pb_tokenizer_unref(c.tokenizer);
    test_folder_remove(folder);
    pb_context_unref(ctx);
}

/* ---- real vocabularies ---------------------------------------------------------------------------------------------- */

/* vocab.json and merges.txt of shared/tokenizers/gpt2 as one tokenizer.json. */
static void write_gpt2(const char *path) {
    json_t *vocab = json_load_file(test_shared("tokenizers/gpt2/vocab.json"), 0, NULL), *merges = json_array();
    assert_non_null(vocab);
    FILE *file = test_open_lines(test_shared("tokenizers/gpt2/merges.txt"));
    char *line = NULL;
    size_t capacity = 0;
    for (ssize_t n; (n = getline(&line, &capacity, file)) > 0;)
        if (line[0] != '#' || line[1] != 'v')
            json_array_append_new(merges, json_stringn(line, (size_t)n - (line[n - 1] == '\n')));
    free(line);
    fclose(file);
    json_t *root = json_pack("{s:[{s:i,s:s,s:b,s:b}],s:{s:s,s:b,s:b},s:{s:s,s:b},s:{s:o,s:o}}", "added_tokens", "id",
                             50256, "content", "<|endoftext|>", "special", 1, "normalized", 1, "pre_tokenizer", "type",
                             "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "decoder", "type", "ByteLevel",
                             "add_prefix_space", 1, "model", "vocab", vocab, "merges", merges);
    assert_non_null(root);
    assert_int_equal(json_dump_file(root, path, JSON_COMPACT), 0);
    json_decref(root);
}

static char *read_all(const char *path, size_t *n) {
    FILE *file = test_open_lines(path);
    char *text = malloc(1 << 16);
    assert_non_null(text);
    *n = fread(text, 1, (1 << 16) - 1, file);
    text[*n] = '\0';
    fclose(file);
    return text;
}

/* llama.cpp's 47 texts and their ids. */
static void check_vectors(const pb_tokenizer *t, const char *texts_path, const char *ids_path) {
    static const char separator[] = "\n__ggml_vocab_test__\n";
    size_t n;
    char *texts = read_all(texts_path, &n), *ids_text = read_all(ids_path, &n), *line = ids_text, *text = texts;
    int cases = 0;
    for (char *end; (end = strstr(text, separator)) != NULL || cases < 47; text = end + strlen(separator), cases++) {
        pb_error err = {0};
        int32_t *ids;
        size_t count, length = end ? (size_t)(end - text) : strlen(text);
        assert_ok(pb_tokenizer_encode(t, text, length, PB_SPECIAL_OFF, &ids, &count, &err));
        char *line_end = line + strcspn(line, "\n"), *number = line;
        for (size_t i = 0; i < count; i++) {
            long wanted = strtol(number, &number, 10);
            assert_true(number <= line_end);
            assert_int_equal(ids[i], wanted);
        }
        assert_int_equal(strspn(number, " "), (size_t)(line_end - number));
        pb_free(ids);
        line = line_end + 1;
        if (!end) {
            cases++;
            break;
        }
    }
    assert_int_equal(cases, 47);
    free(texts);
    free(ids_text);
}

static void check_real(const pb_tokenizer *t, const char *lines_path) {
    FILE *file = test_open_lines(lines_path);
    char *line = NULL;
    size_t capacity = 0;
    int lines = 0;
    for (json_t *json; (json = test_next_line(file, &line, &capacity)) != NULL; json_decref(json), lines++)
        check_encode(t, json, "ids", PB_SPECIAL_DEFAULT);
    assert_true(lines > 100);
    free(line);
    fclose(file);
}

static void real__gpt2_vocabulary__same_ids(void **state) {
    (void)state;
    char lines[512], texts[512], ids[512];
    snprintf(lines, sizeof lines, "%s", test_shared("golden/tokenizers/real_gpt2.jsonl"));
    snprintf(texts, sizeof texts, "%s", test_shared("tokenizers/vectors/ggml-vocab-gpt-2.gguf.inp"));
    snprintf(ids, sizeof ids, "%s", test_shared("tokenizers/vectors/ggml-vocab-gpt-2.gguf.out"));
    test_shared("tokenizers/gpt2/vocab.json");
    pb_context *ctx = test_context();
    char *folder = test_folder();
    write_gpt2(test_path(folder, "tokenizer.json"));
    pb_tokenizer *t = test_tokenizer(ctx, folder);
    assert_int_equal(pb_tokenizer_size(t), 50257);
    check_real(t, lines);
    check_vectors(t, texts, ids);
    pb_tokenizer_unref(t);
    test_folder_remove(folder);
    pb_context_unref(ctx);
}

static void real__qwen3_vocabulary__same_ids(void **state) {
    (void)state;
    char lines[512], texts[512], ids[512], command[2048];
    snprintf(lines, sizeof lines, "%s", test_shared("golden/tokenizers/real_qwen3.jsonl"));
    snprintf(texts, sizeof texts, "%s", test_shared("tokenizers/vectors/ggml-vocab-qwen2.gguf.inp"));
    snprintf(ids, sizeof ids, "%s", test_shared("tokenizers/vectors/ggml-vocab-qwen2.gguf.out"));
    const char *packed = test_shared("tokenizers/qwen3/tokenizer.json.gz");
    pb_context *ctx = test_context();
    char *folder = test_folder();
    snprintf(command, sizeof command, "gzip -dc '%s' > '%s'", packed, test_path(folder, "tokenizer.json"));
    if (system(command) != 0) { /* the vocabulary's file is packed, and we unpack nothing ourselves */
        test_folder_remove(folder);
        pb_context_unref(ctx);
        print_message("skipped: gzip does not run here\n");
        skip();
    }
    pb_tokenizer *t = test_tokenizer(ctx, folder);
    check_real(t, lines);
    check_vectors(t, texts, ids);
    pb_tokenizer_unref(t);
    test_folder_remove(folder);
    pb_context_unref(ctx);
}

static void real__small_models__load_and_round_trip(void **state) {
    (void)state;
    const char *facts_folder = test_shared("models/facts"), *stories_folder = test_shared("models/stories260K");
    pb_context *ctx = test_context();
    pb_tokenizer *facts = test_tokenizer(ctx, facts_folder);
    assert_string_equal(pb_tokenizer_kind(facts), "byte-level BPE");
    assert_int_equal(pb_tokenizer_bos(facts), 2047);
    assert_false(pb_tokenizer_adds_special(facts)); /* add_bos_token is false */
    pb_tokenizer *stories = test_tokenizer(ctx, stories_folder);
    assert_true(pb_tokenizer_adds_special(stories));
    assert_int_equal(pb_tokenizer_bos(stories), 1);
    static const char text[] = "Once upon a time, the capital of France \xE4\xB8\xAD was  in Paris.\n";
    check_round_trip(facts, text, strlen(text));
    check_round_trip(stories, text, strlen(text));
    pb_tokenizer_unref(facts);
    pb_tokenizer_unref(stories);
    pb_context_unref(ctx);
}

#define OWN(name)                                                                                                      \
    { "golden__" name, golden__own_shape, NULL, NULL, name }
#define SHARED(name)                                                                                                   \
    { "golden__" name, golden__shared_shape, NULL, NULL, name }

int main(void) {
    const struct CMUnitTest tests[] = {
        OWN("01_gpt2"),
        OWN("02_opt"),
        OWN("06_llama2"),
        OWN("07_llama2_metaspace"),
        SHARED("03_llama3"),
        SHARED("04_qwen"),
        SHARED("05_gptneox"),
        SHARED("08_gemma"),
        SHARED("09_deepseek"),
        SHARED("10_starcoder"),
        SHARED("11_phi3"),
        SHARED("12_bloom"),
        SHARED("13_olmo"),
        SHARED("14_codegen"),
        SHARED("15_gptoss"),
        SHARED("16_deepseek_v3"),
        SHARED("17_flags"),
        cmocka_unit_test(open__bad_files__refused_with_the_reason),
        cmocka_unit_test(open__other_mistakes__named),
        cmocka_unit_test(special__default_off_on),
        cmocka_unit_test(config__add_bos_and_eos__around_the_text),
        cmocka_unit_test(added_token__with_another_id_than_the_library_gives__warns),
        cmocka_unit_test(added_token__given_twice__later_flags_hold),
        cmocka_unit_test(encode__invalid_utf8__names_the_byte),
        cmocka_unit_test(round_trip__random_texts__come_back),
        cmocka_unit_test(piece__of_a_text_s_ids__join_to_the_text),
        cmocka_unit_test(label__of_awkward_tokens__is_visible),
        cmocka_unit_test(single__one_token_or_an_error_that_shows_the_pieces),
        cmocka_unit_test(lookup__tokens_by_spelling_and_id),
        cmocka_unit_test(encode__repeated_words__same_ids_as_alone),
        cmocka_unit_test(encode__long_monotonous_texts__take_linear_time),
        cmocka_unit_test(encode__stop_requested__ends),
        cmocka_unit_test(allocations__each_fails_once__nothing_leaks),
        cmocka_unit_test(real__gpt2_vocabulary__same_ids),
        cmocka_unit_test(real__qwen3_vocabulary__same_ids),
        cmocka_unit_test(real__small_models__load_and_round_trip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
