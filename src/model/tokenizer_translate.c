/* Regular expressions of tokenizer.json files are written for Oniguruma with Ruby's syntax. PCRE2 understands most of
 * it, but not all means the same; this file rewrites what differs:
 *
 *   \s \w \h and [:names:]    Unicode properties as Oniguruma has them (PCRE2's \s takes U+180E, its \h is blanks)
 *   [a[bc]&&d]                classes inside classes, intersections: flattened, or written with look-ahead
 *   x{2}+ x{2}? {,n}          not possessive and not lazy in Ruby
 *   (?m) and (?i)rest         Ruby's m is PCRE2's s; a bare option makes the rest of its group a group
 *   \uHHHH \v                 escapes of other meaning or none in PCRE2 */
#include <string.h>

#include "model/tokenizer_internal.h"

#define WHITE "\\p{White_Space}"
#define WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
#define HEX "0-9A-Fa-f"
#define ANY "(?s:.)"

enum { MAX_DEPTH = 100 };

typedef struct level {
    size_t start;   /* of the group in the output, where a quantifier after it would wrap */
    int closers;    /* groups that a bare option opened inside */
} level;

typedef struct translator {
    const char *source;
    size_t length, at;
    pb_strbuf *out;
    pb_error *err;
    size_t atom; /* where the last atom begins in the output */
    level levels[MAX_DEPTH];
    int depth;
} translator;

static pb_status refuse(const translator *tr, pb_status status, const char *what) {
    return pb_fail(tr->err, status, "at byte %zu of the regular expression: %s", tr->at, what);
}

static bool looking_at(const translator *tr, const char *text) {
    size_t n = strlen(text);
    return tr->length - tr->at >= n && memcmp(tr->source + tr->at, text, n) == 0;
}

static int peek(const translator *tr) {
    return tr->at < tr->length ? (unsigned char)tr->source[tr->at] : -1;
}

static int hex_value(int c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Up to max hexadecimal digits; how many were read. */
static int read_hex(translator *tr, int max, uint32_t *value) {
    int n = 0;
    *value = 0;
    while (n < max && hex_value(peek(tr)) >= 0) {
        *value = *value << 4 | (uint32_t)hex_value(peek(tr));
        tr->at++;
        n++;
    }
    return n;
}

/* ---- escapes and properties ----------------------------------------------------------------------------------- */

/* Names that PCRE2 10.42 lacks or reads differently. */
static const char *const property_names[][2] = {
    {"letter", "L"}, {"uppercase_letter", "Lu"}, {"lowercase_letter", "Ll"}, {"titlecase_letter", "Lt"},
    {"modifier_letter", "Lm"}, {"other_letter", "Lo"}, {"mark", "M"}, {"nonspacing_mark", "Mn"},
    {"spacing_mark", "Mc"}, {"enclosing_mark", "Me"}, {"number", "N"}, {"decimal_number", "Nd"},
    {"letter_number", "Nl"}, {"other_number", "No"}, {"punctuation", "P"}, {"connector_punctuation", "Pc"},
    {"dash_punctuation", "Pd"}, {"open_punctuation", "Ps"}, {"close_punctuation", "Pe"},
    {"initial_punctuation", "Pi"}, {"final_punctuation", "Pf"}, {"other_punctuation", "Po"}, {"symbol", "S"},
    {"math_symbol", "Sm"}, {"currency_symbol", "Sc"}, {"modifier_symbol", "Sk"}, {"other_symbol", "So"},
    {"separator", "Z"}, {"space_separator", "Zs"}, {"line_separator", "Zl"}, {"paragraph_separator", "Zp"},
    {"other", "C"}, {"control", "Cc"}, {"format", "Cf"}, {"private_use", "Co"}, {"unassigned", "Cn"},
    {"alpha", "Alphabetic"}, {"digit", "Nd"}, {"space", "White_Space"}, {"upper", "Uppercase"},
    {"lower", "Lowercase"}, {"cntrl", "Cc"}, {"punct", "P"},
};

/* name[n], letters' case and separators aside, as PCRE2 spells it; NULL if it may stay as it is. */
static const char *property_name(const char *name, size_t n) {
    for (size_t i = 0; i < sizeof property_names / sizeof *property_names; i++) {
        const char *known = property_names[i][0];
        size_t k = 0, j = 0;
        for (; k < n; k++) {
            char c = name[k] >= 'A' && name[k] <= 'Z' ? (char)(name[k] - 'A' + 'a') : name[k];
            if (c == '_' || c == ' ' || c == '-')
                continue;
            while (known[j] == '_')
                j++;
            if (known[j] != c)
                break;
            j++;
        }
        if (k == n && known[j] == '\0' && n > 1)
            return property_names[i][1];
    }
    return NULL;
}

/* After "\p" or "\P". */
static pb_status translate_property(translator *tr, char letter, pb_strbuf *out) {
    if (peek(tr) != '{')
        return refuse(tr, PB_ERR_FORMAT, "\\p must be followed by {name}");
    const char *name = tr->source + tr->at + 1;
    const char *end = memchr(name, '}', tr->length - tr->at - 1);
    if (!end)
        return refuse(tr, PB_ERR_FORMAT, "\\p{ without }");
    bool negated = letter == 'P';
    size_t n = (size_t)(end - name);
    tr->at += n + 2;
    if (n && name[0] == '^') {
        negated = !negated;
        name++;
        n--;
    }
    const char *known = property_name(name, n);
    pb_strbuf_add(out, negated ? "\\P{" : "\\p{");
    if (known)
        pb_strbuf_add(out, known);
    else
        pb_strbuf_add_bytes(out, name, n);
    pb_strbuf_add_char(out, '}');
    return PB_OK;
}

/* \xHH, \x{H..}, \uHHHH: one code point. */
static pb_status translate_code_point(translator *tr, char letter, pb_strbuf *out) {
    uint32_t value;
    if (letter == 'x' && peek(tr) == '{') {
        tr->at++;
        if (!read_hex(tr, 8, &value) || peek(tr) != '}')
            return refuse(tr, PB_ERR_FORMAT, "\\x{ must be followed by hexadecimal digits and }");
        tr->at++;
    } else if (letter == 'x') {
        if (read_hex(tr, 2, &value) && value >= 0x80)
            return refuse(tr, PB_ERR_UNSUPPORTED, "single bytes (\\x80 and above) are not supported, write \\x{...}");
    } else if (read_hex(tr, 4, &value) != 4) {
        return refuse(tr, PB_ERR_FORMAT, "\\u must be followed by four hexadecimal digits");
    }
    pb_strbuf_printf(out, "\\x{%X}", value);
    return PB_OK;
}

/* The escape that stands for a set of characters: its members as class items, and whether it is the complement. */
static const char *set_escape(int letter, bool *negated) {
    *negated = letter == 'S' || letter == 'W' || letter == 'H' || letter == 'D';
    switch (letter) {
    case 's': case 'S': return WHITE;
    case 'w': case 'W': return WORD;
    case 'h': case 'H': return HEX;
    case 'd': case 'D': return "\\p{Nd}";
    default: return NULL;
    }
}

/* An escape that means one character or something that PCRE2 knows by the same name; tr->at is behind the letter. */
static pb_status translate_plain_escape(translator *tr, int letter, bool in_class, pb_strbuf *out) {
    if (letter == 'p' || letter == 'P')
        return translate_property(tr, (char)letter, out);
    if (letter == 'x' || letter == 'u')
        return translate_code_point(tr, (char)letter, out);
    if (letter == 'v') {
        pb_strbuf_add(out, "\\x0B");
        return PB_OK;
    }
    const char *same = in_class ? "nrtfaebc01234567" : "nrtfaec0123456789RXAzZGBkKgb";
    bool is_letter = (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') ||
                     (letter >= '0' && letter <= '9');
    if (letter < 0x80 && (!is_letter || strchr(same, letter)))
        pb_strbuf_add_char(out, '\\');
    if (letter < 0x80) {
        pb_strbuf_add_char(out, (char)letter);
        return PB_OK;
    }
    tr->at--; /* a character of several bytes: the backslash does nothing */
    uint32_t c;
    size_t n = pb_tok_utf8_next(tr->source + tr->at, &c);
    pb_strbuf_add_bytes(out, tr->source + tr->at, n);
    tr->at += n;
    return PB_OK;
}

/* ---- character classes ---------------------------------------------------------------------------------------- */

/* One class between brackets. items go between PCRE2's brackets; what cannot is an alternative in others. */
typedef struct class_parts {
    bool negated;
    pb_strbuf items;
    pb_strbuf others;   /* "|expr" each */
    pb_strbuf earlier;  /* "(?=expr)" of each part before an && */
} class_parts;

static void class_parts_free(class_parts *c) {
    pb_strbuf_free(&c->items);
    pb_strbuf_free(&c->others);
    pb_strbuf_free(&c->earlier);
}

static void add_brackets(const class_parts *c, const char *open, pb_strbuf *out) {
    pb_strbuf_add(out, open);
    pb_strbuf_add_bytes(out, c->items.text, c->items.length);
    pb_strbuf_add_char(out, ']');
}

/* One operand of &&: "[items]" or "(?:[items]|other|other)". */
static void add_operand(const class_parts *c, pb_strbuf *out) {
    if (!c->others.length) {
        add_brackets(c, "[", out);
        return;
    }
    pb_strbuf_add(out, "(?:");
    if (c->items.length)
        add_brackets(c, "[", out);
    pb_strbuf_add(out, c->others.text + (c->items.length ? 0 : 1));
    pb_strbuf_add_char(out, ')');
}

static bool is_simple(const class_parts *c) {
    return !c->others.length && !c->earlier.length;
}

static void add_class(const class_parts *c, pb_strbuf *out) {
    if (is_simple(c)) {
        add_brackets(c, c->negated ? "[^" : "[", out);
        return;
    }
    pb_strbuf_add(out, c->negated ? "(?:(?!" : "(?:");
    if (c->earlier.length)
        pb_strbuf_add_bytes(out, c->earlier.text, c->earlier.length);
    add_operand(c, out);
    pb_strbuf_add(out, c->negated ? ")" ANY ")" : ")");
}

static const char *posix_items(const char *name, size_t n) {
    static const char *const known[][2] = {
        {"alpha", "\\p{Alphabetic}"}, {"digit", "\\p{Nd}"}, {"alnum", "\\p{Alphabetic}\\p{Nd}"}, {"space", WHITE},
        {"upper", "\\p{Uppercase}"}, {"lower", "\\p{Lowercase}"}, {"punct", "\\p{P}$+<=>^`|~"}, {"word", WORD},
        {"cntrl", "\\p{Cc}"}, {"xdigit", HEX}, {"blank", "\\p{Zs}\\t"}, {"ascii", "\\x00-\\x7F"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strlen(known[i][0]) == n && memcmp(known[i][0], name, n) == 0)
            return known[i][1];
    return NULL;
}

/* At "[:": true and behind it if this is a name of POSIX. */
static pb_status translate_posix(translator *tr, class_parts *c, bool *taken) {
    *taken = false;
    const char *name = tr->source + tr->at + 2;
    size_t rest = tr->length - tr->at - 2, n = 0;
    bool negated = rest && name[0] == '^';
    name += negated;
    rest -= negated;
    while (n < rest && name[n] >= 'a' && name[n] <= 'z')
        n++;
    if (n + 2 > rest || name[n] != ':' || name[n + 1] != ']')
        return PB_OK;
    const char *items = posix_items(name, n);
    if (!items)
        return refuse(tr, PB_ERR_UNSUPPORTED, "this [:name:] is not supported");
    if (negated)
        pb_strbuf_printf(&c->others, "|[^%s]", items);
    else
        pb_strbuf_add(&c->items, items);
    tr->at += 2 + negated + n + 2;
    *taken = true;
    return PB_OK;
}

static pb_status parse_class(translator *tr, class_parts *c, int depth);

static pb_status parse_nested_class(translator *tr, class_parts *c, int depth) {
    class_parts inner = {0};
    pb_strbuf_init(&inner.items, tr->out->ctx);
    pb_strbuf_init(&inner.others, tr->out->ctx);
    pb_strbuf_init(&inner.earlier, tr->out->ctx);
    pb_status status = parse_class(tr, &inner, depth + 1);
    if (status == PB_OK && is_simple(&inner) && !inner.negated && inner.items.length) {
        pb_strbuf_add(&c->items, inner.items.text);
    } else if (status == PB_OK) {
        pb_strbuf_add_char(&c->others, '|');
        add_class(&inner, &c->others);
    }
    c->items.failed = c->items.failed || inner.items.failed || inner.others.failed || inner.earlier.failed;
    class_parts_free(&inner);
    return status;
}

/* A hyphen makes a range only between two single characters. */
static bool range_follows(const translator *tr) {
    size_t next = tr->at + 1;
    if (next >= tr->length || tr->source[next] == ']' || tr->source[next] == '[')
        return false;
    if (tr->source[next] == '&' && next + 1 < tr->length && tr->source[next + 1] == '&')
        return false;
    return tr->source[next] != '\\' || next + 1 >= tr->length || !strchr("sSdDwWhHpP", tr->source[next + 1]);
}

/* tr->at is at a backslash inside a class; *single: it stands for one character. */
static pb_status parse_class_escape(translator *tr, class_parts *c, bool *single) {
    tr->at++;
    int letter = peek(tr);
    if (letter < 0)
        return refuse(tr, PB_ERR_FORMAT, "it ends in a backslash");
    tr->at++;
    bool negated;
    const char *items = set_escape(letter, &negated);
    *single = !items && letter != 'p' && letter != 'P';
    if (!items)
        return translate_plain_escape(tr, letter, true, &c->items);
    if (!negated)
        pb_strbuf_add(&c->items, items);
    else if (letter == 'W' || letter == 'H')
        pb_strbuf_printf(&c->others, "|[^%s]", items);
    else
        pb_strbuf_printf(&c->items, "\\P%s", items + 2); /* one property: \p{...} -> \P{...} */
    return PB_OK;
}

/* tr->at is behind the opening bracket; afterwards behind the closing one. */
static pb_status parse_class(translator *tr, class_parts *c, int depth) {
    if (depth > MAX_DEPTH)
        return refuse(tr, PB_ERR_FORMAT, "character classes are nested too deeply");
    if (peek(tr) == '^') {
        c->negated = true;
        tr->at++;
    }
    bool first = true, single = false; /* single: the last item was one character, a range may begin there */
    for (;; first = false) {
        int ch = peek(tr);
        if (ch < 0)
            return refuse(tr, PB_ERR_FORMAT, "a character class has no closing ]");
        if (ch == ']' && !first) {
            tr->at++;
            break;
        }
        if (ch == '[') {
            bool taken = false;
            single = false;
            if (looking_at(tr, "[:"))
                PB_TRY(translate_posix(tr, c, &taken));
            if (taken)
                continue;
            tr->at++;
            PB_TRY(parse_nested_class(tr, c, depth));
        } else if (looking_at(tr, "&&")) {
            tr->at += 2;
            pb_strbuf_add(&c->earlier, "(?=");
            add_operand(c, &c->earlier);
            pb_strbuf_add_char(&c->earlier, ')');
            pb_strbuf_clear(&c->items);
            pb_strbuf_clear(&c->others);
            single = false;
        } else if (ch == '\\') {
            PB_TRY(parse_class_escape(tr, c, &single));
        } else if (ch == '-') {
            bool range = single && range_follows(tr);
            pb_strbuf_add(&c->items, range ? "-" : "\\-");
            tr->at++;
            if (!range) {
                single = false;
                continue;
            }
            if (peek(tr) == '\\') {
                PB_TRY(parse_class_escape(tr, c, &single));
            } else {
                uint32_t code;
                size_t n = pb_tok_utf8_next(tr->source + tr->at, &code);
                pb_strbuf_add_bytes(&c->items, tr->source + tr->at, n);
                tr->at += n;
            }
            single = false;
        } else {
            uint32_t code;
            size_t n = pb_tok_utf8_next(tr->source + tr->at, &code);
            if (ch == ']' || ch == '^')
                pb_strbuf_add_char(&c->items, '\\');
            pb_strbuf_add_bytes(&c->items, tr->source + tr->at, n);
            tr->at += n;
            single = true;
        }
    }
    if (!c->items.length && !c->others.length && !c->items.failed && !c->others.failed)
        return refuse(tr, PB_ERR_FORMAT, "a character class is empty");
    return PB_OK;
}

static pb_status translate_class(translator *tr) {
    class_parts c = {0};
    pb_strbuf_init(&c.items, tr->out->ctx);
    pb_strbuf_init(&c.others, tr->out->ctx);
    pb_strbuf_init(&c.earlier, tr->out->ctx);
    tr->at++;
    pb_status status = parse_class(tr, &c, 0);
    bool failed = c.items.failed || c.others.failed || c.earlier.failed;
    if (status == PB_OK && !failed)
        add_class(&c, tr->out);
    tr->out->failed = tr->out->failed || failed;
    class_parts_free(&c);
    return status;
}

/* ---- groups, quantifiers, the rest ------------------------------------------------------------------------------ */

static void wrap_atom(translator *tr) {
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
static void translate_brace(translator *tr) {
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
    if (peek(tr) == '+' || (peek(tr) == '?' && part == 0))
        wrap_atom(tr);
}

static pb_status open_level(translator *tr) {
    if (tr->depth + 1 >= MAX_DEPTH)
        return refuse(tr, PB_ERR_FORMAT, "groups are nested too deeply");
    tr->levels[++tr->depth] = (level){.start = tr->out->length};
    return PB_OK;
}

static void close_level(translator *tr) {
    for (; tr->levels[tr->depth].closers > 0; tr->levels[tr->depth].closers--)
        pb_strbuf_add_char(tr->out, ')');
}

/* At "(?" followed by option letters. */
static pb_status translate_options(translator *tr) {
    char text[24] = "(?";
    size_t n = 2;
    tr->at += 2;
    for (; n < sizeof text - 2; n++, tr->at++) {
        int c = peek(tr);
        if (c == ':' || c == ')')
            break;
        if (c != 'i' && c != 'x' && c != 'm' && c != '-')
            return refuse(tr, PB_ERR_UNSUPPORTED, "this kind of group or option is not supported");
        text[n] = c == 'm' ? 's' : (char)c;
    }
    bool bare = peek(tr) == ')';
    if (!bare)
        PB_TRY(open_level(tr));
    else
        tr->levels[tr->depth].closers++; /* a(?i)b|c is a(?i:b|c) in Ruby */
    text[n] = ':';
    pb_strbuf_add_bytes(tr->out, text, n + 1);
    tr->at++;
    return PB_OK;
}

static pb_status translate_group(translator *tr) {
    if (looking_at(tr, "(*"))
        return refuse(tr, PB_ERR_FORMAT, "a quantifier without anything to repeat");
    if (looking_at(tr, "(?#")) {
        const char *end = memchr(tr->source + tr->at, ')', tr->length - tr->at);
        if (!end)
            return refuse(tr, PB_ERR_FORMAT, "a comment has no closing parenthesis");
        tr->at = (size_t)(end - tr->source) + 1;
        return PB_OK;
    }
    if (looking_at(tr, "(?~"))
        return refuse(tr, PB_ERR_UNSUPPORTED, "the absence operator (?~...) is not supported");
    int kind = looking_at(tr, "(?") && tr->at + 2 < tr->length ? tr->source[tr->at + 2] : 0;
    if (kind && !strchr(":=!<>'(", kind))
        return translate_options(tr);
    PB_TRY(open_level(tr));
    size_t n = kind == 0 ? 1 : kind == '(' ? 2 : 3;
    pb_strbuf_add_bytes(tr->out, tr->source + tr->at, n);
    tr->at += n;
    if (kind == '<' && (peek(tr) == '=' || peek(tr) == '!')) { /* look-behind; otherwise a name follows */
        pb_strbuf_add_char(tr->out, tr->source[tr->at]);
        tr->at++;
    }
    return PB_OK;
}

static pb_status translate_escape(translator *tr) {
    tr->at++;
    int letter = peek(tr);
    if (letter < 0)
        return refuse(tr, PB_ERR_FORMAT, "it ends in a backslash");
    tr->at++;
    tr->atom = tr->out->length;
    bool negated;
    const char *items = set_escape(letter, &negated);
    if (items) {
        pb_strbuf_printf(tr->out, "[%s%s]", negated ? "^" : "", items);
    } else if (letter == 'b') {
        pb_strbuf_add(tr->out, "(?:(?<=[" WORD "])(?![" WORD "])|(?<![" WORD "])(?=[" WORD "]))");
    } else if (letter == 'B') {
        pb_strbuf_add(tr->out, "(?:(?<=[" WORD "])(?=[" WORD "])|(?<![" WORD "])(?![" WORD "]))");
    } else {
        return translate_plain_escape(tr, letter, false, tr->out);
    }
    return PB_OK;
}

static pb_status translate_one(translator *tr) {
    int c = peek(tr);
    if (c == '\\')
        return translate_escape(tr);
    if (c == '[') {
        tr->atom = tr->out->length;
        return translate_class(tr);
    }
    if (c == '(')
        return translate_group(tr);
    if (c == ')') {
        if (tr->depth == 0)
            return refuse(tr, PB_ERR_FORMAT, "a closing parenthesis without an opening one");
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
    translator tr = {.source = source, .length = length, .out = out, .err = err};
    if (memchr(source, '\0', length))
        return refuse(&tr, PB_ERR_UNSUPPORTED, "a NUL character is not supported, write \\x00");
    /* White space before the end of a line: where a run of it goes on to something else, trying every position of the
     * run takes quadratic time. A match begins where a run does, or where the last match ended. */
    if (length == 4 && memcmp(source, "\\s+$", 4) == 0) {
        pb_strbuf_add(out, "(?:(?<!" WHITE ")|\\G)" WHITE "+$");
        return PB_OK;
    }
    while (tr.at < length)
        PB_TRY(translate_one(&tr));
    if (tr.depth > 0)
        return refuse(&tr, PB_ERR_FORMAT, "a group has no closing parenthesis");
    close_level(&tr);
    return PB_OK;
}
