/* Normalisers, pre-tokenisers, decoders and post-processors from JSON; see tokenizer_internal.h.
 *
 * Each loader appends the steps of a part to the tokenizer, sequences flattened. What it does not know it refuses by
 * name: a tokenizer that is nearly right gives wrong ids without a word. `where` names the part in messages. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "model/tokenizer_internal.h"

/* GPT-2's expression, which ByteLevel applies by itself. */
static const char byte_level_regex[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* The library's Whitespace: words and runs of other visible characters, in Rust's \w. */
#define RUST_WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200C}\\x{200D}"
static const char whitespace_regex[] = "[" RUST_WORD "]+|[^" RUST_WORD "\\p{White_Space}]+";

typedef pb_status (*part_loader)(pb_tokenizer *t, json_t *json, const char *where, pb_error *err);

/* ---- members -------------------------------------------------------------------------------------------------- */

static pb_status no_memory(const pb_tokenizer *t, pb_error *err) {
    return pb_fail_memory(err, t->ctx, 0, "a tokenizer");
}

/* A string that may hold NUL, kept with the tokenizer. */
static pb_status load_text(pb_tokenizer *t, const json_t *json, const char *where, const char *key, pb_tok_string *out,
                           pb_error *err) {
    const json_t *value = json_object_get(json, key);
    if (!json_is_string(value))
        return pb_fail(err, PB_ERR_FORMAT, "%s: \"%s\" must be a string", where, key);
    *out = pb_tok_keep(t, json_string_value(value), json_string_length(value));
    return out->text ? PB_OK : no_memory(t, err);
}

static pb_status load_char(pb_tokenizer *t, const json_t *json, const char *where, const char *key, pb_tok_string *out,
                           pb_error *err) {
    uint32_t c;
    PB_TRY(load_text(t, json, where, key, out, err));
    if (out->length == 0 || pb_tok_utf8_next(out->text, &c) != out->length)
        return pb_fail(err, PB_ERR_FORMAT, "%s: \"%s\" must be one character, got \"%s\"", where, key, out->text);
    return PB_OK;
}

static pb_status load_regex(pb_tokenizer *t, const char *source, size_t n, const char *where, pb_tok_pattern *out,
                            pb_error *err) {
    out->kind = PB_TOK_PATTERN_REGEX;
    pb_status status = pb_tok_regex_compile(t->ctx, source, n, &out->regex, err);
    if (status == PB_ERR_MEMORY)
        return status;
    return status == PB_OK ? PB_OK
                           : pb_error_prefix(err, status, "%s: \"%.120s%s\": ", where, source, n > 120 ? "..." : "");
}

/* "pattern": {"String": text} or {"Regex": source} */
static pb_status load_pattern(pb_tokenizer *t, const json_t *json, const char *where, pb_tok_pattern *out,
                              pb_error *err) {
    const json_t *pattern = json_object_get(json, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex");
    if (json_is_string(regex))
        return load_regex(t, json_string_value(regex), json_string_length(regex), where, out, err);
    if (!json_is_string(json_object_get(pattern, "String")))
        return pb_fail(err, PB_ERR_FORMAT, "%s: \"pattern\" must be {\"String\": text} or {\"Regex\": text}", where);
    PB_TRY(load_text(t, pattern, where, "String", &out->literal, err));
    if (out->literal.length == 0) /* the empty expression matches between all characters */
        return load_regex(t, "", 0, where, out, err);
    out->kind = PB_TOK_PATTERN_LITERAL;
    return PB_OK;
}

static pb_status load_behavior(const json_t *json, const char *where, const char *fallback, pb_tok_behavior *out,
                               pb_error *err) {
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const char *name;
    PB_TRY(fallback ? pb_json_string_or(json, where, "behavior", fallback, &name, err)
                    : pb_json_string(json, where, "behavior", &name, err));
    for (int i = 0; i < 5; i++)
        if (strcmp(names[i], name) == 0) {
            *out = (pb_tok_behavior)i;
            return PB_OK;
        }
    return pb_fail(err, PB_ERR_FORMAT,
                   "%s: \"behavior\" is \"%s\", it must be Removed, Isolated, MergedWithPrevious, MergedWithNext or "
                   "Contiguous",
                   where, name);
}

static pb_status load_type(const json_t *json, const char *where, const char **type, pb_error *err) {
    if (!json_is_object(json))
        return pb_fail(err, PB_ERR_FORMAT, "%s must be null or an object with a \"type\"", where);
    return pb_json_string(json, where, "type", type, err);
}

static pb_status load_sequence(pb_tokenizer *t, const json_t *json, const char *where, const char *key,
                               part_loader loader, pb_error *err) {
    const json_t *parts;
    PB_TRY(pb_json_array(json, where, key, &parts, err));
    for (size_t i = 0; i < json_array_size(parts); i++) {
        char inner[200];
        snprintf(inner, sizeof inner, "%.160s.%s[%zu]", where, key, i);
        json_t *part = json_array_get(parts, i);
        if (json_is_null(part))
            return pb_fail(err, PB_ERR_FORMAT, "%s must be an object with a \"type\"", inner);
        PB_TRY(loader(t, part, inner, err));
    }
    return PB_OK;
}

/* ---- normalisers ---------------------------------------------------------------------------------------------- */

static pb_status add_norm(pb_tokenizer *t, pb_tok_norm *norm, pb_status loaded, pb_error *err) {
    if (loaded == PB_OK && pb_tok_buffer_append(&t->norms, t->ctx, norm, sizeof *norm))
        return PB_OK;
    pb_tok_pattern_free(&norm->pattern);
    return loaded == PB_OK ? no_memory(t, err) : loaded;
}

static pb_status add_norm_kind(pb_tokenizer *t, pb_tok_norm_kind kind, pb_error *err) {
    return add_norm(t, &(pb_tok_norm){.kind = kind}, PB_OK, err);
}

static pb_status load_bert(pb_tokenizer *t, json_t *json, const char *where, pb_error *err) {
    bool clean, chinese, lower, accents;
    PB_TRY(pb_json_bool_or(json, where, "clean_text", true, &clean, err));
    PB_TRY(pb_json_bool_or(json, where, "handle_chinese_chars", true, &chinese, err));
    PB_TRY(pb_json_bool_or(json, where, "lowercase", true, &lower, err));
    PB_TRY(pb_json_bool_or(json, where, "strip_accents", lower, &accents, err));
    if (clean)
        PB_TRY(add_norm_kind(t, PB_TOK_NORM_BERT_CLEAN, err));
    if (chinese)
        PB_TRY(add_norm_kind(t, PB_TOK_NORM_BERT_CHINESE, err));
    if (accents) {
        PB_TRY(add_norm_kind(t, PB_TOK_NORM_NFD, err));
        PB_TRY(add_norm_kind(t, PB_TOK_NORM_BERT_ACCENTS, err));
    }
    return lower ? add_norm_kind(t, PB_TOK_NORM_LOWERCASE, err) : PB_OK;
}

static pb_status load_replace(pb_tokenizer *t, const json_t *json, const char *where, pb_tok_pattern *pattern,
                              pb_tok_string *content, pb_error *err) {
    PB_TRY(load_text(t, json, where, "content", content, err));
    return load_pattern(t, json, where, pattern, err);
}

static pb_status load_norm(pb_tokenizer *t, const json_t *json, const char *where, pb_tok_norm *norm, pb_error *err) {
    switch (norm->kind) {
    case PB_TOK_NORM_STRIP:
        PB_TRY(pb_json_bool(json, where, "strip_left", &norm->left, err));
        return pb_json_bool(json, where, "strip_right", &norm->right, err);
    case PB_TOK_NORM_PREPEND:
        return load_text(t, json, where, "prepend", &norm->content, err);
    case PB_TOK_NORM_REPLACE:
        return load_replace(t, json, where, &norm->pattern, &norm->content, err);
    default:
        return PB_OK;
    }
}

pb_status pb_tok_load_normalizer(pb_tokenizer *t, json_t *json, const char *where, pb_error *err) {
    static const struct {
        const char *type;
        pb_tok_norm_kind kind;
    } known[] = {
        {"NFC", PB_TOK_NORM_NFC},
        {"NFD", PB_TOK_NORM_NFD},
        {"NFKC", PB_TOK_NORM_NFKC},
        {"NFKD", PB_TOK_NORM_NFKD},
        {"Lowercase", PB_TOK_NORM_LOWERCASE},
        {"Strip", PB_TOK_NORM_STRIP},
        {"StripAccents", PB_TOK_NORM_STRIP_ACCENTS},
        {"Nmt", PB_TOK_NORM_NMT},
        {"Prepend", PB_TOK_NORM_PREPEND},
        {"Replace", PB_TOK_NORM_REPLACE},
        {"ByteLevel", PB_TOK_NORM_BYTE_LEVEL},
    };
    const char *type;
    if (!json || json_is_null(json))
        return PB_OK;
    PB_TRY(load_type(json, where, &type, err));
    if (strcmp(type, "Sequence") == 0)
        return load_sequence(t, json, where, "normalizers", pb_tok_load_normalizer, err);
    if (strcmp(type, "BertNormalizer") == 0)
        return load_bert(t, json, where, err);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].type, type) == 0) {
            pb_tok_norm norm = {.kind = known[i].kind};
            return add_norm(t, &norm, load_norm(t, json, where, &norm, err), err);
        }
    return pb_fail(err, PB_ERR_UNSUPPORTED,
                   "%s: type \"%s\" is not supported; supported are NFC, NFD, NFKC, NFKD, Lowercase, Strip, "
                   "StripAccents, Nmt, Prepend, Replace, ByteLevel, BertNormalizer and Sequence",
                   where, type);
}

/* ---- pre-tokenisers ------------------------------------------------------------------------------------------- */

static pb_status add_pre(pb_tokenizer *t, pb_tok_pre *pre, pb_status loaded, pb_error *err) {
    if (loaded == PB_OK && pb_tok_buffer_append(&t->pres, t->ctx, pre, sizeof *pre))
        return PB_OK;
    pb_tok_pattern_free(&pre->pattern);
    return loaded == PB_OK ? no_memory(t, err) : loaded;
}

static pb_status load_split(pb_tokenizer *t, json_t *json, const char *where, pb_tok_pre *pre, pb_error *err) {
    PB_TRY(load_behavior(json, where, NULL, &pre->behavior, err));
    PB_TRY(pb_json_bool_or(json, where, "invert", false, &pre->invert, err));
    return load_pattern(t, json, where, &pre->pattern, err);
}

static pb_status load_byte_level(pb_tokenizer *t, json_t *json, const char *where, pb_tok_pre *pre, pb_error *err) {
    pre->kind = PB_TOK_PRE_BYTE_LEVEL;
    pre->behavior = PB_TOK_ISOLATED;
    PB_TRY(pb_json_bool(json, where, "add_prefix_space", &pre->add_prefix_space, err));
    PB_TRY(pb_json_bool_or(json, where, "use_regex", true, &pre->use_pattern, err));
    if (!pre->use_pattern)
        return PB_OK;
    return load_regex(t, byte_level_regex, sizeof byte_level_regex - 1, where, &pre->pattern, err);
}

/* Metaspace's prepend_scheme; older files have add_prefix_space instead. */
static pb_status load_prepend(const json_t *json, const char *where, pb_tok_prepend *out, pb_error *err) {
    static const char *const names[] = {"always", "first", "never"};
    const char *name;
    bool add_prefix_space;
    PB_TRY(pb_json_bool_or(json, where, "add_prefix_space", true, &add_prefix_space, err));
    PB_TRY(pb_json_string_or(json, where, "prepend_scheme", add_prefix_space ? "always" : "never", &name, err));
    for (int i = 0; i < 3; i++)
        if (strcmp(names[i], name) == 0) {
            *out = (pb_tok_prepend)i;
            if (!add_prefix_space && *out != PB_TOK_PREPEND_NEVER)
                return pb_fail(err, PB_ERR_FORMAT, "%s: \"add_prefix_space\" is false but \"prepend_scheme\" is \"%s\"",
                               where, name);
            return PB_OK;
        }
    return pb_fail(err, PB_ERR_FORMAT, "%s: \"prepend_scheme\" is \"%s\", it must be always, first or never", where,
                   name);
}

static pb_status load_metaspace(pb_tokenizer *t, json_t *json, const char *where, pb_tok_pre *pre, pb_error *err) {
    pre->kind = PB_TOK_PRE_METASPACE;
    pre->behavior = PB_TOK_MERGED_WITH_NEXT;
    PB_TRY(load_char(t, json, where, "replacement", &pre->replacement, err));
    PB_TRY(load_prepend(json, where, &pre->prepend, err));
    pre->pattern = (pb_tok_pattern){.kind = PB_TOK_PATTERN_LITERAL, .literal = pre->replacement};
    return pb_json_bool_or(json, where, "split", true, &pre->use_pattern, err);
}

static pb_status load_digits(pb_tokenizer *t, json_t *json, const char *where, pb_tok_pre *pre, pb_error *err) {
    bool individual;
    (void)t;
    PB_TRY(pb_json_bool(json, where, "individual_digits", &individual, err));
    pre->pattern = (pb_tok_pattern){.kind = PB_TOK_PATTERN_CHARS, .is_member = pb_tok_is_numeric};
    pre->behavior = individual ? PB_TOK_ISOLATED : PB_TOK_CONTIGUOUS;
    return PB_OK;
}

static pb_status load_punctuation(pb_tokenizer *t, json_t *json, const char *where, pb_tok_pre *pre, pb_error *err) {
    (void)t;
    pre->pattern = (pb_tok_pattern){.kind = PB_TOK_PATTERN_CHARS, .is_member = pb_tok_is_punctuation};
    return load_behavior(json, where, "Isolated", &pre->behavior, err);
}

static pb_status load_whitespace_split(pb_tokenizer *t, json_t *json, const char *where, pb_tok_pre *pre,
                                       pb_error *err) {
    (void)t, (void)json, (void)where, (void)err;
    pre->pattern = (pb_tok_pattern){.kind = PB_TOK_PATTERN_CHARS, .is_member = pb_tok_is_white};
    pre->behavior = PB_TOK_REMOVED;
    return PB_OK;
}

static pb_status load_whitespace(pb_tokenizer *t, json_t *json, const char *where, pb_tok_pre *pre, pb_error *err) {
    (void)json, (void)where;
    pre->behavior = PB_TOK_REMOVED;
    pre->invert = true;
    pre->pattern.kind = PB_TOK_PATTERN_REGEX;
    return pb_tok_regex_compile_pcre(t->ctx, whitespace_regex, sizeof whitespace_regex - 1, &pre->pattern.regex, err);
}

static pb_status load_delimiter(pb_tokenizer *t, json_t *json, const char *where, pb_tok_pre *pre, pb_error *err) {
    pre->behavior = PB_TOK_REMOVED;
    pre->pattern.kind = PB_TOK_PATTERN_LITERAL;
    return load_char(t, json, where, "delimiter", &pre->pattern.literal, err);
}

static pb_status load_fixed_length(pb_tokenizer *t, json_t *json, const char *where, pb_tok_pre *pre, pb_error *err) {
    int64_t length;
    (void)t;
    PB_TRY(pb_json_int_or(json, where, "length", 1, INT32_MAX, 5, &length, err));
    pre->kind = PB_TOK_PRE_FIXED_LENGTH;
    pre->fixed_length = (size_t)length;
    return PB_OK;
}

pb_status pb_tok_load_pretokenizer(pb_tokenizer *t, json_t *json, const char *where, pb_error *err) {
    static const struct {
        const char *type;
        pb_status (*load)(pb_tokenizer *t, json_t *json, const char *where, pb_tok_pre *pre, pb_error *err);
    } known[] = {
        {"Split", load_split},
        {"ByteLevel", load_byte_level},
        {"Metaspace", load_metaspace},
        {"Digits", load_digits},
        {"Punctuation", load_punctuation},
        {"WhitespaceSplit", load_whitespace_split},
        {"Whitespace", load_whitespace},
        {"CharDelimiterSplit", load_delimiter},
        {"FixedLength", load_fixed_length},
    };
    const char *type;
    if (!json || json_is_null(json))
        return PB_OK;
    PB_TRY(load_type(json, where, &type, err));
    if (strcmp(type, "Sequence") == 0)
        return load_sequence(t, json, where, "pretokenizers", pb_tok_load_pretokenizer, err);
    if (strcmp(type, "BertPreTokenizer") == 0) {
        pb_tok_pre words = {0}, marks = {0};
        PB_TRY(add_pre(t, &words, load_whitespace_split(t, json, where, &words, err), err));
        return add_pre(t, &marks, load_punctuation(t, json, where, &marks, err), err);
    }
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].type, type) == 0) {
            pb_tok_pre pre = {.kind = PB_TOK_PRE_SPLIT};
            return add_pre(t, &pre, known[i].load(t, json, where, &pre, err), err);
        }
    return pb_fail(err, PB_ERR_UNSUPPORTED,
                   "%s: type \"%s\" is not supported; supported are ByteLevel, Split, Metaspace, Digits, "
                   "Punctuation, Whitespace, WhitespaceSplit, CharDelimiterSplit, FixedLength, BertPreTokenizer and "
                   "Sequence",
                   where, type);
}

/* ---- decoders ------------------------------------------------------------------------------------------------- */

static pb_status load_strip_decoder(pb_tokenizer *t, const json_t *json, const char *where, pb_tok_dec *dec,
                                    pb_error *err) {
    int64_t start, stop;
    PB_TRY(load_char(t, json, where, "content", &dec->content, err));
    PB_TRY(pb_json_int(json, where, "start", 0, INT32_MAX, &start, err));
    PB_TRY(pb_json_int(json, where, "stop", 0, INT32_MAX, &stop, err));
    dec->start = (size_t)start;
    dec->stop = (size_t)stop;
    return PB_OK;
}

static pb_status load_dec(pb_tokenizer *t, const json_t *json, const char *where, pb_tok_dec *dec, pb_error *err) {
    pb_tok_prepend prepend;
    switch (dec->kind) {
    case PB_TOK_DEC_METASPACE:
        PB_TRY(load_prepend(json, where, &prepend, err));
        dec->drop_first_prefix = prepend != PB_TOK_PREPEND_NEVER;
        return load_char(t, json, where, "replacement", &dec->content, err);
    case PB_TOK_DEC_REPLACE:
        return load_replace(t, json, where, &dec->pattern, &dec->content, err);
    case PB_TOK_DEC_STRIP:
        return load_strip_decoder(t, json, where, dec, err);
    case PB_TOK_DEC_BPE:
        return load_text(t, json, where, "suffix", &dec->content, err);
    default:
        return PB_OK;
    }
}

pb_status pb_tok_load_decoder(pb_tokenizer *t, json_t *json, const char *where, pb_error *err) {
    static const struct {
        const char *type;
        pb_tok_dec_kind kind;
    } known[] = {
        {"ByteLevel", PB_TOK_DEC_BYTE_LEVEL},
        {"Metaspace", PB_TOK_DEC_METASPACE},
        {"Replace", PB_TOK_DEC_REPLACE},
        {"ByteFallback", PB_TOK_DEC_BYTE_FALLBACK},
        {"Fuse", PB_TOK_DEC_FUSE},
        {"Strip", PB_TOK_DEC_STRIP},
        {"BPEDecoder", PB_TOK_DEC_BPE},
    };
    const char *type;
    if (!json || json_is_null(json))
        return PB_OK;
    PB_TRY(load_type(json, where, &type, err));
    t->has_decoder = true;
    if (strcmp(type, "Sequence") == 0)
        return load_sequence(t, json, where, "decoders", pb_tok_load_decoder, err);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(known[i].type, type) != 0)
            continue;
        pb_tok_dec dec = {.kind = known[i].kind};
        pb_status status = load_dec(t, json, where, &dec, err);
        if (status == PB_OK && !pb_tok_buffer_append(&t->decs, t->ctx, &dec, sizeof dec))
            status = no_memory(t, err);
        if (status != PB_OK)
            pb_tok_pattern_free(&dec.pattern);
        return status;
    }
    return pb_fail(err, PB_ERR_UNSUPPORTED,
                   "%s: type \"%s\" is not supported; supported are ByteLevel, Metaspace, Replace, "
                   "ByteFallback, Fuse, Strip, BPEDecoder and Sequence",
                   where, type);
}

/* ---- post-processors ------------------------------------------------------------------------------------------ */

static pb_status load_special_id(const pb_tokenizer *t, const json_t *value, const char *where, int32_t *id,
                                 pb_error *err) {
    json_int_t number = json_is_integer(value) ? json_integer_value(value) : -1;
    if (number < 0 || number >= (json_int_t)PB_TOK_COUNT(t->tokens, pb_tok_string) ||
        !PB_TOK_ITEMS(t->tokens, const pb_tok_string)[number].text)
        return pb_fail(err, PB_ERR_FORMAT, "%s: it adds the id %lld, which is no token of the vocabulary", where,
                       (long long)number);
    *id = (int32_t)number;
    return PB_OK;
}

/* Special tokens of a later post-processor lie outside those of an earlier one. */
static pb_status surround(pb_tokenizer *t, const pb_tok_buffer *before, const pb_tok_buffer *after, pb_error *err) {
    pb_tok_buffer prefix = {0};
    if (!pb_tok_buffer_append(&prefix, t->ctx, before->data, before->length) ||
        !pb_tok_buffer_append(&prefix, t->ctx, t->prefix.data, t->prefix.length) ||
        !pb_tok_buffer_append(&t->suffix, t->ctx, after->data, after->length)) {
        pb_tok_buffer_free(&prefix);
        return no_memory(t, err);
    }
    pb_tok_buffer_free(&t->prefix);
    t->prefix = prefix;
    return PB_OK;
}

/* Append the ids of template token `name` by the table special_tokens. */
static pb_status add_template_token(pb_tokenizer *t, const json_t *table, const char *name, const char *where,
                                    pb_tok_buffer *out, pb_error *err) {
    const json_t *entry = json_object_get(table, name), *ids = json_object_get(entry, "ids");
    if (!entry)
        return pb_fail(err, PB_ERR_FORMAT, "%s: \"single\" names the token \"%s\", which \"special_tokens\" lacks",
                       where, name);
    if (!json_is_array(ids))
        return pb_fail(err, PB_ERR_FORMAT, "%s: special_tokens[\"%s\"]: \"ids\" must be an array", where, name);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        int32_t id;
        PB_TRY(load_special_id(t, json_array_get(ids, i), where, &id, err));
        if (!pb_tok_buffer_append(out, t->ctx, &id, sizeof id))
            return no_memory(t, err);
    }
    return PB_OK;
}

static pb_status read_template(pb_tokenizer *t, const json_t *json, const char *where, pb_tok_buffer *before,
                               pb_tok_buffer *after, pb_error *err) {
    const json_t *single, *table;
    bool seen_text = false;
    PB_TRY(pb_json_array(json, where, "single", &single, err));
    PB_TRY(pb_json_object(json, where, "special_tokens", &table, err));
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *piece = json_array_get(single, i);
        const char *name = json_string_value(json_object_get(json_object_get(piece, "SpecialToken"), "id"));
        const char *sequence = json_string_value(json_object_get(json_object_get(piece, "Sequence"), "id"));
        if (name) {
            PB_TRY(add_template_token(t, table, name, where, seen_text ? after : before, err));
        } else if (!sequence) {
            return pb_fail(err, PB_ERR_FORMAT, "%s: single[%zu] must be a SpecialToken or a Sequence with an \"id\"",
                           where, i);
        } else if (seen_text || strcmp(sequence, "A") != 0) {
            return pb_fail(err, PB_ERR_UNSUPPORTED, "%s: \"single\" must have the sequence A once and no other", where);
        } else {
            seen_text = true;
        }
    }
    if (!seen_text)
        return pb_fail(err, PB_ERR_UNSUPPORTED, "%s: \"single\" lacks the sequence A: the text would vanish", where);
    return PB_OK;
}

static pb_status load_template(pb_tokenizer *t, const json_t *json, const char *where, pb_error *err) {
    pb_tok_buffer before = {0}, after = {0};
    pb_status status = read_template(t, json, where, &before, &after, err);
    if (status == PB_OK)
        status = surround(t, &before, &after, err);
    pb_tok_buffer_free(&before);
    pb_tok_buffer_free(&after);
    return status;
}

/* BertProcessing, RobertaProcessing: "cls" and "sep" are [token, id]. */
static pb_status load_cls_sep(pb_tokenizer *t, const json_t *json, const char *where, pb_error *err) {
    int32_t cls, sep;
    PB_TRY(load_special_id(t, json_array_get(json_object_get(json, "cls"), 1), where, &cls, err));
    PB_TRY(load_special_id(t, json_array_get(json_object_get(json, "sep"), 1), where, &sep, err));
    pb_tok_buffer before = {.data = (char *)&cls, .length = sizeof cls};
    pb_tok_buffer after = {.data = (char *)&sep, .length = sizeof sep};
    return surround(t, &before, &after, err);
}

pb_status pb_tok_load_postprocessor(pb_tokenizer *t, json_t *json, const char *where, pb_error *err) {
    const char *type;
    if (!json || json_is_null(json))
        return PB_OK;
    PB_TRY(load_type(json, where, &type, err));
    if (strcmp(type, "Sequence") == 0)
        return load_sequence(t, json, where, "processors", pb_tok_load_postprocessor, err);
    if (strcmp(type, "ByteLevel") == 0) /* trims offsets, which we do not give out */
        return PB_OK;
    if (strcmp(type, "TemplateProcessing") == 0)
        return load_template(t, json, where, err);
    if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0)
        return load_cls_sep(t, json, where, err);
    return pb_fail(err, PB_ERR_UNSUPPORTED,
                   "%s: type \"%s\" is not supported; supported are TemplateProcessing, ByteLevel, "
                   "BertProcessing, RobertaProcessing and Sequence",
                   where, type);
}
