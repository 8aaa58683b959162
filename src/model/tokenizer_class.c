/* Escapes, properties and classes of regular expressions, from Oniguruma to PCRE2; see tokenizer_translate.c. */
#include <string.h>

#include "model/tokenizer_translate.h"

static int hex_value(int c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Up to max hexadecimal digits; how many were read. */
static int read_hex(pb_tok_translator *tr, int max, uint32_t *value) {
    int n = 0;
    *value = 0;
    while (n < max && hex_value(pb_tok_translate_peek(tr)) >= 0) {
        *value = *value << 4 | (uint32_t)hex_value(pb_tok_translate_peek(tr));
        tr->at++;
        n++;
    }
    return n;
}

/* ---- escapes and properties ----------------------------------------------------------------------------------- */

/* Names that PCRE2 10.42 lacks or reads differently. */
static const char *const property_names[][2] = {
    {"letter", "L"},
    {"uppercase_letter", "Lu"},
    {"lowercase_letter", "Ll"},
    {"titlecase_letter", "Lt"},
    {"modifier_letter", "Lm"},
    {"other_letter", "Lo"},
    {"mark", "M"},
    {"nonspacing_mark", "Mn"},
    {"spacing_mark", "Mc"},
    {"enclosing_mark", "Me"},
    {"number", "N"},
    {"decimal_number", "Nd"},
    {"letter_number", "Nl"},
    {"other_number", "No"},
    {"punctuation", "P"},
    {"connector_punctuation", "Pc"},
    {"dash_punctuation", "Pd"},
    {"open_punctuation", "Ps"},
    {"close_punctuation", "Pe"},
    {"initial_punctuation", "Pi"},
    {"final_punctuation", "Pf"},
    {"other_punctuation", "Po"},
    {"symbol", "S"},
    {"math_symbol", "Sm"},
    {"currency_symbol", "Sc"},
    {"modifier_symbol", "Sk"},
    {"other_symbol", "So"},
    {"separator", "Z"},
    {"space_separator", "Zs"},
    {"line_separator", "Zl"},
    {"paragraph_separator", "Zp"},
    {"other", "C"},
    {"control", "Cc"},
    {"format", "Cf"},
    {"private_use", "Co"},
    {"unassigned", "Cn"},
    {"alpha", "Alphabetic"},
    {"digit", "Nd"},
    {"space", "White_Space"},
    {"upper", "Uppercase"},
    {"lower", "Lowercase"},
    {"cntrl", "Cc"},
    {"punct", "P"},
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
static pb_status translate_property(pb_tok_translator *tr, char letter, pb_strbuf *out) {
    if (pb_tok_translate_peek(tr) != '{')
        return pb_tok_translate_refuse(tr, PB_ERR_FORMAT, "\\p must be followed by {name}");
    const char *name = tr->source + tr->at + 1;
    const char *end = memchr(name, '}', tr->length - tr->at - 1);
    if (!end)
        return pb_tok_translate_refuse(tr, PB_ERR_FORMAT, "\\p{ without }");
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
static pb_status translate_code_point(pb_tok_translator *tr, char letter, pb_strbuf *out) {
    uint32_t value;
    if (letter == 'x' && pb_tok_translate_peek(tr) == '{') {
        tr->at++;
        if (!read_hex(tr, 8, &value) || pb_tok_translate_peek(tr) != '}')
            return pb_tok_translate_refuse(tr, PB_ERR_FORMAT, "\\x{ must be followed by hexadecimal digits and }");
        tr->at++;
    } else if (letter == 'x') {
        if (read_hex(tr, 2, &value) && value >= 0x80)
            return pb_tok_translate_refuse(tr, PB_ERR_UNSUPPORTED,
                                           "single bytes (\\x80 and above) are not supported, write \\x{...}");
    } else if (read_hex(tr, 4, &value) != 4) {
        return pb_tok_translate_refuse(tr, PB_ERR_FORMAT, "\\u must be followed by four hexadecimal digits");
    }
    pb_strbuf_printf(out, "\\x{%X}", value);
    return PB_OK;
}

const char *pb_tok_translate_set(int letter, bool *negated) {
    *negated = letter == 'S' || letter == 'W' || letter == 'H' || letter == 'D';
    switch (letter) {
    case 's':
    case 'S':
        return PB_TOK_WHITE;
    case 'w':
    case 'W':
        return PB_TOK_WORD;
    case 'h':
    case 'H':
        return PB_TOK_HEX;
    case 'd':
    case 'D':
        return "\\p{Nd}";
    default:
        return NULL;
    }
}

pb_status pb_tok_translate_escape(pb_tok_translator *tr, int letter, bool in_class, pb_strbuf *out) {
    if (letter == 'p' || letter == 'P')
        return translate_property(tr, (char)letter, out);
    if (letter == 'x' || letter == 'u')
        return translate_code_point(tr, (char)letter, out);
    if (letter == 'v') {
        pb_strbuf_add(out, "\\x0B");
        return PB_OK;
    }
    const char *same = in_class ? "nrtfaebc01234567" : "nrtfaec0123456789RXAzZGBkKgb";
    bool is_letter =
        (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') || (letter >= '0' && letter <= '9');
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
    pb_strbuf others;  /* "|expr" each */
    pb_strbuf earlier; /* "(?=expr)" of each part before an && */
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

static bool is_simple(const class_parts *c) { return !c->others.length && !c->earlier.length; }

static void add_class(const class_parts *c, pb_strbuf *out) {
    if (is_simple(c)) {
        add_brackets(c, c->negated ? "[^" : "[", out);
        return;
    }
    pb_strbuf_add(out, c->negated ? "(?:(?!" : "(?:");
    if (c->earlier.length)
        pb_strbuf_add_bytes(out, c->earlier.text, c->earlier.length);
    add_operand(c, out);
    pb_strbuf_add(out, c->negated ? ")(?s:.))" : ")");
}

static const char *posix_items(const char *name, size_t n) {
    static const char *const known[][2] = {
        {"alpha", "\\p{Alphabetic}"}, {"digit", "\\p{Nd}"},        {"alnum", "\\p{Alphabetic}\\p{Nd}"},
        {"space", PB_TOK_WHITE},      {"upper", "\\p{Uppercase}"}, {"lower", "\\p{Lowercase}"},
        {"punct", "\\p{P}$+<=>^`|~"}, {"word", PB_TOK_WORD},       {"cntrl", "\\p{Cc}"},
        {"xdigit", PB_TOK_HEX},       {"blank", "\\p{Zs}\\t"},     {"ascii", "\\x00-\\x7F"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strlen(known[i][0]) == n && memcmp(known[i][0], name, n) == 0)
            return known[i][1];
    return NULL;
}

/* At "[:": true and behind it if this is a name of POSIX. */
static pb_status translate_posix(pb_tok_translator *tr, class_parts *c, bool *taken) {
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
        return pb_tok_translate_refuse(tr, PB_ERR_UNSUPPORTED, "this [:name:] is not supported");
    if (negated)
        pb_strbuf_printf(&c->others, "|[^%s]", items);
    else
        pb_strbuf_add(&c->items, items);
    tr->at += 2 + negated + n + 2;
    *taken = true;
    return PB_OK;
}

static pb_status parse_class(pb_tok_translator *tr, class_parts *c, int depth);

static pb_status parse_nested_class(pb_tok_translator *tr, class_parts *c, int depth) {
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
static bool range_follows(const pb_tok_translator *tr) {
    size_t next = tr->at + 1;
    if (next >= tr->length || tr->source[next] == ']' || tr->source[next] == '[')
        return false;
    if (tr->source[next] == '&' && next + 1 < tr->length && tr->source[next + 1] == '&')
        return false;
    return tr->source[next] != '\\' || next + 1 >= tr->length || !strchr("sSdDwWhHpP", tr->source[next + 1]);
}

/* tr->at is at a backslash inside a class; *single: it stands for one character. */
static pb_status parse_class_escape(pb_tok_translator *tr, class_parts *c, bool *single) {
    tr->at++;
    int letter = pb_tok_translate_peek(tr);
    if (letter < 0)
        return pb_tok_translate_refuse(tr, PB_ERR_FORMAT, "it ends in a backslash");
    tr->at++;
    bool negated;
    const char *items = pb_tok_translate_set(letter, &negated);
    *single = !items && letter != 'p' && letter != 'P';
    if (!items)
        return pb_tok_translate_escape(tr, letter, true, &c->items);
    if (!negated)
        pb_strbuf_add(&c->items, items);
    else if (letter == 'W' || letter == 'H')
        pb_strbuf_printf(&c->others, "|[^%s]", items);
    else
        pb_strbuf_printf(&c->items, "\\P%s", items + 2); /* one property: \p{...} -> \P{...} */
    return PB_OK;
}

static void copy_char(pb_tok_translator *tr, pb_strbuf *out) {
    uint32_t code;
    size_t n = pb_tok_utf8_next(tr->source + tr->at, &code);
    pb_strbuf_add_bytes(out, tr->source + tr->at, n);
    tr->at += n;
}

/* tr->at is at a hyphen; *single: the last item was one character, and then whether this is one. */
static pb_status parse_hyphen(pb_tok_translator *tr, class_parts *c, bool first, bool *single) {
    bool range = *single && range_follows(tr);
    pb_strbuf_add(&c->items, range ? "-" : "\\-");
    tr->at++;
    *single = first; /* a range may begin with the hyphen that begins a class */
    if (!range)
        return PB_OK;
    if (pb_tok_translate_peek(tr) == '\\')
        PB_TRY(parse_class_escape(tr, c, single));
    else
        copy_char(tr, &c->items);
    *single = false;
    return PB_OK;
}

static pb_status check_not_empty(const pb_tok_translator *tr, const class_parts *c) {
    if (c->items.length || c->others.length || c->items.failed || c->others.failed)
        return PB_OK;
    return pb_tok_translate_refuse(tr, PB_ERR_FORMAT, "a character class is empty");
}

/* tr->at is at "&&": what was before it is one operand. */
static pb_status parse_and(pb_tok_translator *tr, class_parts *c) {
    PB_TRY(check_not_empty(tr, c));
    tr->at += 2;
    if (c->items.failed || c->others.failed)
        return PB_OK; /* told by the caller */
    pb_strbuf_add(&c->earlier, "(?=");
    add_operand(c, &c->earlier);
    pb_strbuf_add_char(&c->earlier, ')');
    pb_strbuf_clear(&c->items);
    pb_strbuf_clear(&c->others);
    return PB_OK;
}

/* tr->at is at an opening bracket inside a class. */
static pb_status parse_bracket(pb_tok_translator *tr, class_parts *c, int depth) {
    bool taken = false;
    if (pb_tok_translate_looking_at(tr, "[:"))
        PB_TRY(translate_posix(tr, c, &taken));
    if (taken)
        return PB_OK;
    tr->at++;
    return parse_nested_class(tr, c, depth);
}

/* tr->at is behind the opening bracket; afterwards behind the closing one. */
static pb_status parse_class(pb_tok_translator *tr, class_parts *c, int depth) {
    if (depth > PB_TOK_MAX_DEPTH)
        return pb_tok_translate_refuse(tr, PB_ERR_FORMAT, "character classes are nested too deeply");
    if (pb_tok_translate_peek(tr) == '^') {
        c->negated = true;
        tr->at++;
    }
    bool first = true, single = false; /* single: the last item was one character, a range may begin there */
    for (;; first = false) {
        int ch = pb_tok_translate_peek(tr);
        bool last_single = single;
        single = false;
        if (ch < 0)
            return pb_tok_translate_refuse(tr, PB_ERR_FORMAT, "a character class has no closing ]");
        if (ch == ']' && !first)
            break;
        if (ch == '[') {
            PB_TRY(parse_bracket(tr, c, depth));
        } else if (ch == '\\') {
            PB_TRY(parse_class_escape(tr, c, &single));
        } else if (ch == '-') {
            single = last_single;
            PB_TRY(parse_hyphen(tr, c, first, &single));
        } else if (pb_tok_translate_looking_at(tr, "&&")) {
            PB_TRY(parse_and(tr, c));
        } else {
            if (strchr("]^:.=", ch)) /* the last three: "[:a:]" is no name of POSIX here */
                pb_strbuf_add_char(&c->items, '\\');
            copy_char(tr, &c->items);
            single = true;
        }
    }
    tr->at++;
    return check_not_empty(tr, c);
}

pb_status pb_tok_translate_class(pb_tok_translator *tr) {
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
