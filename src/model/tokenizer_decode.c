/* Ids to text: decoders, and what one token is shown as; see tokenizer_internal.h. */
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_internal.h"

/* Tokens on their way through the decoders: texts one after the other and where each ends. */
typedef struct token_list {
    pb_tok_buffer text;
    pb_tok_buffer ends; /* size_t */
} token_list;

static bool end_token(token_list *list, pb_context *ctx) {
    return pb_tok_buffer_append(&list->ends, ctx, &list->text.length, sizeof(size_t));
}

static bool add_token(token_list *list, pb_context *ctx, const char *text, size_t n) {
    return pb_tok_buffer_append(&list->text, ctx, text, n) && end_token(list, ctx);
}

static size_t token_count(const token_list *list) { return PB_TOK_COUNT(list->ends, size_t); }

static pb_tok_string token_at(const token_list *list, size_t i) {
    const size_t *ends = PB_TOK_ITEMS(list->ends, const size_t);
    size_t start = i ? ends[i - 1] : 0;
    return (pb_tok_string){.text = list->text.data ? list->text.data + start : "", .length = ends[i] - start};
}

static void free_list(token_list *list) {
    pb_tok_buffer_free(&list->text);
    pb_tok_buffer_free(&list->ends);
}

/* ---- what a decoder does to one token ------------------------------------------------------------------------- */

/* The bytes of a token in the byte-level alphabet; a token with any other character stands for itself. */
static bool append_bytes(pb_tok_buffer *out, pb_context *ctx, pb_tok_string token) {
    size_t start = out->length;
    if (!pb_tok_buffer_reserve(out, ctx, token.length))
        return false;
    for (size_t at = 0; at < token.length;) {
        uint32_t c;
        at += pb_tok_utf8_next(token.text + at, &c);
        int byte = pb_tok_char_byte(c);
        if (byte < 0) {
            out->length = start;
            return pb_tok_buffer_append(out, ctx, token.text, token.length);
        }
        out->data[out->length++] = (char)(unsigned char)byte;
    }
    return true;
}

/* The byte of "<0xHH>"; -1 for any other token. */
static int fallback_byte(pb_tok_string token) {
    if (token.length != 6 || memcmp(token.text, "<0x", 3) != 0 || token.text[5] != '>')
        return -1;
    int value = 0;
    for (int i = 3; i < 5; i++) {
        char c = token.text[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

static pb_status append_replaced(pb_context *ctx, const pb_tok_pattern *pattern, pb_tok_string content,
                                 pb_tok_string token, pb_tok_buffer *cuts, pb_tok_buffer *out, pb_error *err) {
    PB_TRY(pb_tok_pattern_cut(ctx, pattern, token.text, token.length, cuts, err));
    const pb_tok_cut *cut = PB_TOK_ITEMS(*cuts, const pb_tok_cut);
    for (size_t i = 0; i < PB_TOK_COUNT(*cuts, pb_tok_cut); i++) {
        bool ok = cut[i].is_match
                      ? pb_tok_buffer_append(out, ctx, content.text, content.length)
                      : pb_tok_buffer_append(out, ctx, token.text + cut[i].start, cut[i].end - cut[i].start);
        if (!ok)
            return pb_fail_memory(err, ctx, out->length, "a decoded text");
    }
    return PB_OK;
}

/* token with up to dec->start characters `content` off its front and up to dec->stop off its end. */
static pb_tok_string stripped(const pb_tok_dec *dec, pb_tok_string token) {
    size_t n = dec->content.length;
    for (size_t i = 0; i < dec->start && token.length >= n && memcmp(token.text, dec->content.text, n) == 0; i++) {
        token.text += n;
        token.length -= n;
    }
    for (size_t i = 0; i < dec->stop && token.length >= n; i++) {
        if (memcmp(token.text + token.length - n, dec->content.text, n) != 0)
            break;
        token.length -= n;
    }
    return token;
}

/* ---- decoders over all tokens --------------------------------------------------------------------------------- */

static bool decode_byte_level(pb_context *ctx, const token_list *in, token_list *out) {
    pb_tok_buffer bytes = {0};
    bool ok = true;
    for (size_t i = 0; i < token_count(in) && ok; i++)
        ok = append_bytes(&bytes, ctx, token_at(in, i));
    ok = ok && pb_tok_utf8_append_lossy(&out->text, ctx, bytes.data, bytes.length) && end_token(out, ctx);
    pb_tok_buffer_free(&bytes);
    return ok;
}

/* A run of byte tokens: its text if that is valid UTF-8, else one U+FFFD for each. */
static bool flush_fallback(pb_context *ctx, pb_tok_buffer *bytes, token_list *out) {
    size_t n = bytes->length;
    bool ok = true;
    if (n && pb_tok_utf8_invalid_at(bytes->data, n) == n)
        ok = add_token(out, ctx, bytes->data, n);
    else
        for (size_t i = 0; i < n && ok; i++)
            ok = add_token(out, ctx, "\xEF\xBF\xBD", 3);
    bytes->length = 0;
    return ok;
}

static bool decode_byte_fallback(pb_context *ctx, const token_list *in, token_list *out) {
    pb_tok_buffer bytes = {0};
    bool ok = true;
    for (size_t i = 0; i < token_count(in) && ok; i++) {
        pb_tok_string token = token_at(in, i);
        int byte = fallback_byte(token);
        char c = (char)(unsigned char)byte;
        if (byte >= 0)
            ok = pb_tok_buffer_append(&bytes, ctx, &c, 1);
        else
            ok = flush_fallback(ctx, &bytes, out) && add_token(out, ctx, token.text, token.length);
    }
    ok = ok && flush_fallback(ctx, &bytes, out);
    pb_tok_buffer_free(&bytes);
    return ok;
}

/* What token i of n becomes under a decoder that looks at one token at a time. */
static pb_status decode_token(const pb_tok_dec *dec, pb_context *ctx, pb_tok_string token, size_t i, size_t n,
                              pb_tok_buffer *cuts, pb_tok_buffer *out, pb_error *err) {
    static const pb_tok_string space = {.text = " ", .length = 1}, nothing = {.text = "", .length = 0};
    pb_tok_pattern pattern = {.kind = PB_TOK_PATTERN_LITERAL, .literal = dec->content};
    switch (dec->kind) {
    case PB_TOK_DEC_REPLACE:
        return append_replaced(ctx, &dec->pattern, dec->content, token, cuts, out, err);
    case PB_TOK_DEC_METASPACE: /* in the first token all of them go, as in the library */
        return append_replaced(ctx, &pattern, i == 0 && dec->drop_first_prefix ? nothing : space, token, cuts, out,
                               err);
    case PB_TOK_DEC_BPE:
        if (dec->content.length == 0)
            break;
        return append_replaced(ctx, &pattern, i + 1 == n ? nothing : space, token, cuts, out, err);
    case PB_TOK_DEC_STRIP:
        token = stripped(dec, token);
        break;
    default:
        break;
    }
    if (!pb_tok_buffer_append(out, ctx, token.text, token.length))
        return pb_fail_memory(err, ctx, out->length, "a decoded text");
    return PB_OK;
}

static pb_status decode_each(const pb_tok_dec *dec, pb_context *ctx, const token_list *in, token_list *out,
                             pb_error *err) {
    pb_tok_buffer cuts = {0};
    pb_status status = PB_OK;
    size_t n = token_count(in);
    for (size_t i = 0; i < n && status == PB_OK; i++) {
        status = decode_token(dec, ctx, token_at(in, i), i, n, &cuts, &out->text, err);
        if (status == PB_OK && !end_token(out, ctx))
            status = pb_fail_memory(err, ctx, out->ends.length, "a decoded text");
    }
    pb_tok_buffer_free(&cuts);
    return status;
}

static pb_status decode_step(const pb_tok_dec *dec, pb_context *ctx, const token_list *in, token_list *out,
                             pb_error *err) {
    bool ok;
    switch (dec->kind) {
    case PB_TOK_DEC_BYTE_LEVEL:
        ok = decode_byte_level(ctx, in, out);
        break;
    case PB_TOK_DEC_BYTE_FALLBACK:
        ok = decode_byte_fallback(ctx, in, out);
        break;
    case PB_TOK_DEC_FUSE:
        ok = add_token(out, ctx, in->text.data, in->text.length);
        break;
    default:
        return decode_each(dec, ctx, in, out, err);
    }
    return ok ? PB_OK : pb_fail_memory(err, ctx, in->text.length, "a decoded text");
}

static pb_status fail_id(const pb_tokenizer *t, int32_t id, pb_error *err) {
    return pb_fail(err, PB_ERR_ARGUMENT, "the token id %d is not in the vocabulary (ids are 0 to %d%s)", (int)id,
                   (int)pb_tokenizer_size(t) - 1, id >= 0 && id < pb_tokenizer_size(t) ? ", with gaps" : "");
}

/* The text that decoders see for an id: an added token that was matched in normalised text is its normal form. */
static pb_tok_string decoder_text(const pb_tokenizer *t, int32_t id) {
    int32_t index = PB_TOK_ITEMS(t->added_of_id, const int32_t)[id];
    return index >= 0 ? PB_TOK_ITEMS(t->added, const pb_tok_added)[index].normalized
                      : PB_TOK_ITEMS(t->tokens, const pb_tok_string)[id];
}

static pb_status collect_tokens(const pb_tokenizer *t, const int32_t *ids, size_t n, bool skip_special, token_list *out,
                                pb_error *err) {
    for (size_t i = 0; i < n; i++) {
        if (!pb_tokenizer_token(t, ids[i]))
            return fail_id(t, ids[i], err);
        if (skip_special && PB_TOK_ITEMS(t->skipped, const bool)[ids[i]])
            continue;
        pb_tok_string token = decoder_text(t, ids[i]);
        bool spaced = !t->has_decoder && token_count(out) > 0; /* the library joins by spaces then */
        if ((spaced && !add_token(out, t->ctx, " ", 1)) || !add_token(out, t->ctx, token.text, token.length))
            return pb_fail_memory(err, t->ctx, out->text.length, "a decoded text");
    }
    return PB_OK;
}

/* Hand out the bytes of *b, NUL-terminated. */
static pb_status take_text(pb_context *ctx, pb_tok_buffer *b, char **text, size_t *length, pb_error *err) {
    if (!pb_tok_buffer_append(b, ctx, "", 1))
        return pb_fail_memory(err, ctx, b->length + 1, "a decoded text");
    *text = b->data;
    if (length)
        *length = b->length - 1;
    *b = (pb_tok_buffer){0};
    return PB_OK;
}

pb_status pb_tokenizer_decode(const pb_tokenizer *t, const int32_t *ids, size_t n, bool skip_special, char **text,
                              size_t *length, pb_error *err) {
    token_list lists[2] = {{{0}, {0}}, {{0}, {0}}};
    const pb_tok_dec *decs = PB_TOK_ITEMS(t->decs, const pb_tok_dec);
    int active = 0;
    pb_status status = collect_tokens(t, ids, n, skip_special, &lists[0], err);
    for (size_t i = 0; i < PB_TOK_COUNT(t->decs, pb_tok_dec) && status == PB_OK; i++) {
        token_list *out = &lists[1 - active];
        out->text.length = out->ends.length = 0;
        status = decode_step(&decs[i], t->ctx, &lists[active], out, err);
        active = 1 - active;
    }
    if (status == PB_OK)
        status = take_text(t->ctx, &lists[active].text, text, length, err);
    free_list(&lists[0]);
    free_list(&lists[1]);
    return status;
}

/* ---- one token ------------------------------------------------------------------------------------------------ */

/* Through one decoder, for running text: no stripping at the ends, bytes left raw. literal: an added token that is
 * matched as it is written, so that the byte-level alphabet is not meant. */
static pb_status piece_step(const pb_tok_dec *dec, pb_context *ctx, bool literal, pb_tok_string token,
                            pb_tok_buffer *out, pb_error *err) {
    pb_tok_buffer cuts = {0};
    pb_status status = PB_OK;
    int byte = dec->kind == PB_TOK_DEC_BYTE_FALLBACK ? fallback_byte(token) : -1;
    char c = (char)(unsigned char)byte;
    bool ok = true;
    if (byte >= 0)
        ok = pb_tok_buffer_append(out, ctx, &c, 1);
    else if (dec->kind == PB_TOK_DEC_BYTE_LEVEL && !literal)
        ok = append_bytes(out, ctx, token);
    else if (dec->kind == PB_TOK_DEC_REPLACE || dec->kind == PB_TOK_DEC_METASPACE || dec->kind == PB_TOK_DEC_BPE)
        status = decode_token(dec, ctx, token, 1, 3, &cuts, out, err); /* as a token in the middle */
    else
        ok = pb_tok_buffer_append(out, ctx, token.text, token.length);
    pb_tok_buffer_free(&cuts);
    return ok ? status : pb_fail_memory(err, ctx, token.length, "the text of a token");
}

pb_status pb_tokenizer_piece(const pb_tokenizer *t, int32_t id, char **text, size_t *length, pb_error *err) {
    if (!pb_tokenizer_token(t, id))
        return fail_id(t, id, err);
    int32_t index = PB_TOK_ITEMS(t->added_of_id, const int32_t)[id];
    const pb_tok_added *added = index >= 0 ? &PB_TOK_ITEMS(t->added, const pb_tok_added)[index] : NULL;
    pb_tok_string token = decoder_text(t, id);
    bool literal = added && pb_tok_string_equal(added->content, added->normalized);
    pb_tok_buffer store[2] = {{0}, {0}};
    const pb_tok_dec *decs = PB_TOK_ITEMS(t->decs, const pb_tok_dec);
    size_t n = PB_TOK_COUNT(t->decs, pb_tok_dec);
    int active = 0;
    pb_status status = PB_OK;
    if (n == 0 && !pb_tok_buffer_append(&store[1], t->ctx, token.text, token.length))
        status = pb_fail_memory(err, t->ctx, token.length, "the text of a token");
    bool bytes = false; /* once a byte is raw, what follows would take it for text */
    for (size_t i = 0; i < n && status == PB_OK && !bytes; i++) {
        store[active].length = 0;
        status = piece_step(&decs[i], t->ctx, literal, token, &store[active], err);
        token = (pb_tok_string){.text = store[active].data ? store[active].data : "", .length = store[active].length};
        active = 1 - active;
        bytes = pb_tok_utf8_invalid_at(token.text, token.length) < token.length;
    }
    if (status == PB_OK)
        status = take_text(t->ctx, &store[1 - active], text, length, err);
    pb_tok_buffer_free(&store[0]);
    pb_tok_buffer_free(&store[1]);
    return status;
}

/* ---- labels --------------------------------------------------------------------------------------------------- */

static bool is_control(uint32_t c) { return c < 0x20 || (c >= 0x7F && c < 0xA0); }

static void add_hex(pb_strbuf *out, const char *bytes, size_t n) {
    for (size_t i = 0; i < n; i++)
        pb_strbuf_printf(out, "\\x%02X", (unsigned)(unsigned char)bytes[i]);
}

/* Spaces at the ends are visible, those inside are left. */
static void add_label(pb_strbuf *out, const char *text, size_t n) {
    size_t first = 0, last = n;
    while (first < n && text[first] == ' ')
        first++;
    while (last > first && text[last - 1] == ' ')
        last--;
    for (size_t at = 0; at < n;) {
        size_t valid = pb_tok_utf8_invalid_at(text + at, n - at < 4 ? n - at : 4);
        uint32_t c = 0;
        size_t length = valid || (unsigned char)text[at] < 0x80 ? pb_tok_utf8_next(text + at, &c) : 0;
        if (length == 0) {
            add_hex(out, text + at, 1);
            length = 1;
        } else if (c == ' ' && (at < first || at >= last)) {
            pb_strbuf_add(out, "\xE2\x90\xA3"); /* U+2423 */
        } else if (c == '\n') {
            pb_strbuf_add(out, "\xE2\x86\xB5"); /* U+21B5 */
        } else if (c == '\t') {
            pb_strbuf_add(out, "\xE2\x87\xA5"); /* U+21E5 */
        } else if (is_control(c)) {
            add_hex(out, text + at, length);
        } else {
            pb_strbuf_add_bytes(out, text + at, length);
        }
        at += length;
    }
}

pb_status pb_tokenizer_label(const pb_tokenizer *t, int32_t id, char **label, pb_error *err) {
    pb_strbuf out;
    pb_strbuf_init(&out, t->ctx);
    if (pb_tokenizer_is_special(t, id)) {
        pb_strbuf_add(&out, pb_tokenizer_token(t, id));
    } else {
        char *text;
        size_t length;
        PB_TRY(pb_tokenizer_piece(t, id, &text, &length, err));
        add_label(&out, text, length);
        pb_free(text);
    }
    pb_status status = pb_strbuf_take(&out, label, NULL, "the label of a token", err);
    pb_strbuf_free(&out);
    return status;
}
