/* Regular expressions of tokenizer.json files are written for Oniguruma with Ruby's syntax. PCRE2 understands most of
 * it, but not all means the same; this file rewrites what differs:
 *
 *   \s \w \h and [:names:]    Unicode properties as Oniguruma has them (PCRE2's \s takes U+180E, its \h is blanks)
 *   [a[bc]&&d]                classes inside classes, intersections: flattened, or written with look-ahead
 *   x{2}+ x{2}? {,n}          not possessive and not lazy in Ruby
 *   (?m) and (?i)rest         Ruby's m is PCRE2's s; a bare option makes the rest of its group a group
 *   \uHHHH \v                 escapes of other meaning or none in PCRE2 */
#include <string.h>

#include "model/tokenizer_translate.h"

pb_status pb_tok_translate_refuse(const pb_tok_translator *tr, pb_status status, const char *what) {
    return pb_fail(tr->err, status, "at byte %zu of the regular expression: %s", tr->at, what);
}

bool pb_tok_translate_looking_at(const pb_tok_translator *tr, const char *text) {
    size_t n = strlen(text);
    return tr->length - tr->at >= n && memcmp(tr->source + tr->at, text, n) == 0;
}

int pb_tok_translate_peek(const pb_tok_translator *tr) {
    return tr->at < tr->length ? (unsigned char)tr->source[tr->at] : -1;
}

/* ---- groups, quantifiers, the rest ------------------------------------------------------------------------------ */

static void wrap_atom(pb_tok_translator *tr) {
    pb_strbuf *out = tr->out;
    pb_strbuf_add(out, "(?:)"); /* room for what moves */
    if (out->failed)
        return;
    memmove(out->text + tr->atom + 3, out->text + tr->atom, out->length - 4 - tr->atom);
    memcpy(out->text + tr->atom, "(?:", 3);
    out->text[out->length - 1] = ')';
}

/* At '{'. An interval is written as {n,m}; a plus behind it repeats again in Ruby, a question mark behind {n} makes the
 * whole optional. */
static void translate_brace(pb_tok_translator *tr) {
    size_t at = tr->at + 1;
    unsigned long bounds[2] = {0, 0};
    int digits[2] = {0, 0}, part = 0;
    for (; at < tr->length; at++) {
        char c = tr->source[at];
        if (c == ',' && part == 0)
            part = 1;
        else if (c >= '0' && c <= '9' && digits[part] < 6) {
            bounds[part] = bounds[part] * 10 + (unsigned long)(c - '0');
            digits[part]++;
        } else
            break;
    }
    if (at >= tr->length || tr->source[at] != '}' || digits[0] + digits[1] == 0) {
        tr->atom = tr->out->length;
        pb_strbuf_add(tr->out, "\\{");
        tr->at++;
        return;
    }
    tr->at = at + 1;
    if (part == 0)
        pb_strbuf_printf(tr->out, "{%lu}", bounds[0]);
    else if (digits[1])
        pb_strbuf_printf(tr->out, "{%lu,%lu}", bounds[0], bounds[1]);
    else
        pb_strbuf_printf(tr->out, "{%lu,}", bounds[0]);
    if (pb_tok_translate_peek(tr) == '+' || (pb_tok_translate_peek(tr) == '?' && part == 0))
        wrap_atom(tr);
}

static pb_status open_level(pb_tok_translator *tr) {
    if (tr->depth + 1 >= PB_TOK_MAX_DEPTH)
        return pb_tok_translate_refuse(tr, PB_ERR_FORMAT, "groups are nested too deeply");
    tr->levels[++tr->depth] = (pb_tok_level){.start = tr->out->length};
    return PB_OK;
}

static void close_level(pb_tok_translator *tr) {
    for (; tr->levels[tr->depth].closers > 0; tr->levels[tr->depth].closers--)
        pb_strbuf_add_char(tr->out, ')');
}

/* At "(?" followed by option letters. */
static pb_status translate_options(pb_tok_translator *tr) {
    char text[24] = "(?";
    size_t n = 2;
    tr->at += 2;
    for (; n < sizeof text - 2; n++, tr->at++) {
        int c = pb_tok_translate_peek(tr);
        if (c == ':' || c == ')')
            break;
        if (c != 'i' && c != 'x' && c != 'm' && c != '-')
            return pb_tok_translate_refuse(tr, PB_ERR_UNSUPPORTED, "this kind of group or option is not supported");
        text[n] = c == 'm' ? 's' : (char)c;
    }
    bool bare = pb_tok_translate_peek(tr) == ')';
    if (!bare)
        PB_TRY(open_level(tr));
    else
        tr->levels[tr->depth].closers++; /* a(?i)b|c is a(?i:b|c) in Ruby */
    text[n] = ':';
    pb_strbuf_add_bytes(tr->out, text, n + 1);
    tr->at++;
    return PB_OK;
}

static pb_status translate_group(pb_tok_translator *tr) {
    if (pb_tok_translate_looking_at(tr, "(*"))
        return pb_tok_translate_refuse(tr, PB_ERR_FORMAT, "a quantifier without anything to repeat");
    if (pb_tok_translate_looking_at(tr, "(?#")) {
        const char *end = memchr(tr->source + tr->at, ')', tr->length - tr->at);
        if (!end)
            return pb_tok_translate_refuse(tr, PB_ERR_FORMAT, "a comment has no closing parenthesis");
        tr->at = (size_t)(end - tr->source) + 1;
        return PB_OK;
    }
    if (pb_tok_translate_looking_at(tr, "(?~"))
        return pb_tok_translate_refuse(tr, PB_ERR_UNSUPPORTED, "the absence operator (?~...) is not supported");
    int kind = pb_tok_translate_looking_at(tr, "(?") && tr->at + 2 < tr->length ? tr->source[tr->at + 2] : 0;
    if (kind && !strchr(":=!<>'(", kind))
        return translate_options(tr);
    PB_TRY(open_level(tr));
    size_t n = kind == 0 ? 1 : kind == '(' ? 2 : 3;
    pb_strbuf_add_bytes(tr->out, tr->source + tr->at, n);
    tr->at += n;
    if (kind == '<' && (pb_tok_translate_peek(tr) == '=' ||
                        pb_tok_translate_peek(tr) == '!')) { /* look-behind; otherwise a name follows */
        pb_strbuf_add_char(tr->out, tr->source[tr->at]);
        tr->at++;
    }
    return PB_OK;
}

static pb_status translate_escape(pb_tok_translator *tr) {
    tr->at++;
    int letter = pb_tok_translate_peek(tr);
    if (letter < 0)
        return pb_tok_translate_refuse(tr, PB_ERR_FORMAT, "it ends in a backslash");
    tr->at++;
    tr->atom = tr->out->length;
    bool negated;
    const char *items = pb_tok_translate_set(letter, &negated);
    if (items) {
        pb_strbuf_printf(tr->out, "[%s%s]", negated ? "^" : "", items);
    } else if (letter == 'b') {
        pb_strbuf_add(tr->out,
                      "(?:(?<=[" PB_TOK_WORD "])(?![" PB_TOK_WORD "])|(?<![" PB_TOK_WORD "])(?=[" PB_TOK_WORD "]))");
    } else if (letter == 'B') {
        pb_strbuf_add(tr->out,
                      "(?:(?<=[" PB_TOK_WORD "])(?=[" PB_TOK_WORD "])|(?<![" PB_TOK_WORD "])(?![" PB_TOK_WORD "]))");
    } else {
        return pb_tok_translate_escape(tr, letter, false, tr->out);
    }
    return PB_OK;
}

static pb_status translate_one(pb_tok_translator *tr) {
    int c = pb_tok_translate_peek(tr);
    if (c == '\\')
        return translate_escape(tr);
    if (c == '[') {
        tr->atom = tr->out->length;
        return pb_tok_translate_class(tr);
    }
    if (c == '(')
        return translate_group(tr);
    if (c == ')') {
        if (tr->depth == 0)
            return pb_tok_translate_refuse(tr, PB_ERR_FORMAT, "a closing parenthesis without an opening one");
        close_level(tr);
        tr->atom = tr->levels[tr->depth--].start;
    } else if (c == '{') {
        translate_brace(tr);
        return PB_OK;
    } else if (!strchr("*+?|", c)) {
        uint32_t code;
        size_t n = pb_tok_utf8_next(tr->source + tr->at, &code);
        tr->atom = tr->out->length;
        pb_strbuf_add_bytes(tr->out, tr->source + tr->at, n);
        tr->at += n;
        return PB_OK;
    }
    pb_strbuf_add_char(tr->out, (char)c);
    tr->at++;
    return PB_OK;
}

pb_status pb_tok_regex_translate(const char *source, size_t length, pb_strbuf *out, pb_error *err) {
    pb_tok_translator tr = {.source = source, .length = length, .out = out, .err = err};
    if (memchr(source, '\0', length))
        return pb_tok_translate_refuse(&tr, PB_ERR_UNSUPPORTED, "a NUL character is not supported, write \\x00");
    /* White space before the end of a line: where a run of it goes on to something else, trying every position of the
     * run takes quadratic time. A match begins where a run does, or where the last match ended. */
    if (length == 4 && memcmp(source, "\\s+$", 4) == 0) {
        pb_strbuf_add(out, "(?:(?<!" PB_TOK_WHITE ")|\\G)" PB_TOK_WHITE "+$");
        return PB_OK;
    }
    while (tr.at < length)
        PB_TRY(translate_one(&tr));
    if (tr.depth > 0)
        return pb_tok_translate_refuse(&tr, PB_ERR_FORMAT, "a group has no closing parenthesis");
    close_level(&tr);
    return PB_OK;
}
