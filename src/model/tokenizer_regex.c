/* Patterns: regular expressions run by PCRE2, literals, classes of characters; see tokenizer_internal.h. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <string.h>

#include "model/tokenizer_internal.h"

struct pb_tok_regex {
    pcre2_code *code;
    pcre2_match_context *limits;
};

/* Steps of backtracking that one match may take; far beyond what any known tokenizer needs for a word. */
enum { MATCH_LIMIT = 20000000 };

/* ---- compiling ------------------------------------------------------------------------------------------------ */

static pb_status compile(pb_context *ctx, const char *source, size_t length, pb_tok_regex *regex, pb_error *err) {
    pb_status status = PB_OK;
    pcre2_compile_context *how = pcre2_compile_context_create(NULL);
    if (!how)
        return pb_fail_memory(err, ctx, 0, "a regular expression");
    pcre2_set_newline(how, PCRE2_NEWLINE_LF);
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
    int code;
    size_t at;
    regex->code = pcre2_compile((PCRE2_SPTR)source, length, options, &code, &at, how);
    regex->limits = pcre2_match_context_create(NULL);
    if (!regex->code && code != PCRE2_ERROR_HEAP_FAILED) {
        unsigned char text[160] = "";
        pcre2_get_error_message(code, text, sizeof text);
        status = pb_fail(err, PB_ERR_FORMAT, "the regular expression does not compile: %s", (const char *)text);
    } else if (!regex->code || !regex->limits) {
        status = pb_fail_memory(err, ctx, length, "a regular expression");
    } else {
        pcre2_set_match_limit(regex->limits, MATCH_LIMIT);
        (void)pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE); /* without it PCRE2 interprets: same answers */
    }
    pcre2_compile_context_free(how);
    return status;
}

pb_status pb_tok_regex_compile_pcre(pb_context *ctx, const char *source, size_t length, pb_tok_regex **out,
                                    pb_error *err) {
    pb_tok_regex *regex = pb_alloc_zero(ctx, 1, sizeof *regex);
    if (!regex)
        return pb_fail_memory(err, ctx, sizeof *regex, "a regular expression");
    pb_status status = compile(ctx, source, length, regex, err);
    if (status != PB_OK) {
        pb_tok_regex_free(regex);
        return status;
    }
    *out = regex;
    return PB_OK;
}

pb_status pb_tok_regex_compile(pb_context *ctx, const char *source, size_t length, pb_tok_regex **out, pb_error *err) {
    pb_strbuf pcre;
    pb_strbuf_init(&pcre, ctx);
    pb_status status = pb_tok_regex_translate(source, length, &pcre, err);
    if (pcre.failed)
        status = pb_fail_memory(err, ctx, length, "a regular expression");
    if (status == PB_OK)
        status = pb_tok_regex_compile_pcre(ctx, pcre.text ? pcre.text : "", pcre.length, out, err);
    pb_strbuf_free(&pcre);
    return status;
}

void pb_tok_regex_free(pb_tok_regex *regex) {
    if (!regex)
        return;
    pcre2_code_free(regex->code);
    pcre2_match_context_free(regex->limits);
    pb_free(regex);
}

void pb_tok_pattern_free(pb_tok_pattern *pattern) {
    pb_tok_regex_free(pattern->regex);
    *pattern = (pb_tok_pattern){0};
}

/* ---- cutting -------------------------------------------------------------------------------------------------- */

typedef struct cutter {
    pb_context *ctx;
    pb_tok_buffer *cuts;
    size_t done; /* end of the last cut */
    bool failed;
} cutter;

/* The match [start, end) and, before it, what lies between it and the last one. */
static void add_match(cutter *c, size_t start, size_t end) {
    pb_tok_cut cuts[2] = {{.start = c->done, .end = start}, {.start = start, .end = end, .is_match = true}};
    bool gap = start > c->done;
    size_t n = gap ? 2 : 1;
    c->failed = c->failed || !pb_tok_buffer_append(c->cuts, c->ctx, cuts + (gap ? 0 : 1), n * sizeof *cuts);
    c->done = end;
}

static void add_rest(cutter *c, size_t n) {
    pb_tok_cut cut = {.start = c->done, .end = n};
    if (n > c->done)
        c->failed = c->failed || !pb_tok_buffer_append(c->cuts, c->ctx, &cut, sizeof cut);
}

static pb_status fail_match(int code, size_t at, pb_error *err) {
    unsigned char text[160] = "";
    pcre2_get_error_message(code, text, sizeof text);
    if (code == PCRE2_ERROR_NOMEMORY)
        return pb_fail(err, PB_ERR_MEMORY, "out of memory in a regular expression");
    return pb_fail(err, PB_ERR_FORMAT, "the tokenizer's regular expression gave up near byte %zu of the text: %s", at,
                   (const char *)text);
}

/* Matches as the tokenizers library finds them: left to right, no empty match right behind the last match. */
static pb_status cut_by_regex(const pb_tok_regex *regex, const char *text, size_t n, cutter *c, pb_error *err) {
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    if (!match)
        return pb_fail_memory(err, c->ctx, 0, "a regular expression");
    const size_t *range = pcre2_get_ovector_pointer(match);
    pb_status status = PB_OK;
    size_t at = 0;
    bool matched_before = false;
    for (unsigned round = 0; at <= n && !c->failed; round++) {
        if (round % 1024 == 1023 && (status = pb_context_check(c->ctx, err)) != PB_OK)
            break;
        int code = pcre2_match(regex->code, (PCRE2_SPTR)text, n, at, PCRE2_NO_UTF_CHECK, match, regex->limits);
        if (code == PCRE2_ERROR_JIT_STACKLIMIT)
            code = pcre2_match(regex->code, (PCRE2_SPTR)text, n, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match,
                               regex->limits);
        if (code == PCRE2_ERROR_NOMATCH)
            break;
        if (code < 0) {
            status = fail_match(code, at, err);
            break;
        }
        size_t start = range[0], end = range[1];
        if (start < c->done || end < start) { /* \K can do that */
            status = pb_fail(err, PB_ERR_UNSUPPORTED, "the tokenizer's regular expression moves backwards");
            break;
        }
        if (start == end && matched_before && end == c->done) {
            uint32_t skipped;
            at += at < n ? pb_tok_utf8_next(text + at, &skipped) : 1;
            continue;
        }
        add_match(c, start, end);
        matched_before = true;
        at = end;
    }
    pcre2_match_data_free(match);
    return status;
}

static void cut_by_literal(pb_tok_string literal, const char *text, size_t n, cutter *c) {
    size_t at = 0;
    while (n - at >= literal.length && !c->failed) {
        const char *found = memchr(text + at, literal.text[0], n - at - literal.length + 1);
        if (!found)
            return;
        at = (size_t)(found - text);
        if (memcmp(found, literal.text, literal.length) == 0) {
            add_match(c, at, at + literal.length);
            at += literal.length;
        } else {
            at++;
        }
    }
}

static void cut_by_chars(bool (*is_member)(uint32_t c), const char *text, size_t n, cutter *c) {
    for (size_t at = 0; at < n && !c->failed;) {
        uint32_t code;
        size_t length = pb_tok_utf8_next(text + at, &code);
        if (is_member(code))
            add_match(c, at, at + length);
        at += length;
    }
}

pb_status pb_tok_pattern_cut(pb_context *ctx, const pb_tok_pattern *pattern, const char *text, size_t n,
                             pb_tok_buffer *cuts, pb_error *err) {
    cutter c = {.ctx = ctx, .cuts = cuts};
    cuts->length = 0;
    if (n == 0)
        return PB_OK;
    switch (pattern->kind) {
    case PB_TOK_PATTERN_REGEX:
        PB_TRY(cut_by_regex(pattern->regex, text, n, &c, err));
        break;
    case PB_TOK_PATTERN_LITERAL:
        cut_by_literal(pattern->literal, text, n, &c);
        break;
    case PB_TOK_PATTERN_CHARS:
        cut_by_chars(pattern->is_member, text, n, &c);
        break;
    }
    add_rest(&c, n);
    return c.failed ? pb_fail_memory(err, ctx, cuts->length, "the pieces of a text") : PB_OK;
}
