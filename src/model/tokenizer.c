/* The tokenizer's public functions, and the way of a text through the stages; see tokenizer_internal.h. */
#include "patchbay/tokenizer.h"

#include <string.h>

#include "model/tokenizer_internal.h"

static pb_status create(pb_context *ctx, pb_tokenizer **out, pb_error *err) {
    pb_tokenizer *t = pb_alloc_zero(ctx, 1, sizeof *t);
    if (!t)
        return pb_fail_memory(err, ctx, sizeof *t, "a tokenizer");
    atomic_init(&t->references, 1);
    t->ctx = pb_context_ref(ctx);
    t->bos = t->eos = -1;
    *out = t;
    return PB_OK;
}

pb_status pb_tokenizer_open(pb_context *ctx, const char *path, pb_tokenizer **out, pb_error *err) {
    pb_tokenizer *t = NULL;
    PB_TRY(create(ctx, &t, err));
    pb_status status = pb_tok_load(t, path, err);
    if (status == PB_OK)
        *out = t;
    else
        pb_tok_destroy(t);
    return status;
}

pb_status pb_tokenizer_from_json(pb_context *ctx, json_t *root, const json_t *config, const char *where,
                                 pb_tokenizer **out, pb_error *err) {
    pb_tokenizer *t = NULL;
    PB_TRY(create(ctx, &t, err));
    pb_status status = pb_tok_load_json(t, root, config, where, err);
    if (status == PB_OK)
        *out = t;
    else
        pb_tok_destroy(t);
    return status;
}

pb_tokenizer *pb_tokenizer_ref(pb_tokenizer *t) {
    if (t)
        atomic_fetch_add(&t->references, 1);
    return t;
}

void pb_tokenizer_unref(pb_tokenizer *t) {
    if (t && atomic_fetch_sub(&t->references, 1) == 1)
        pb_tok_destroy(t);
}

/* ---- encode --------------------------------------------------------------------------------------------------- */

/* Append the ids of the text itself. */
static pb_status encode_text(const pb_tokenizer *t, const char *text, size_t n, pb_tok_buffer *ids, pb_error *err) {
    pb_tok_pieces p = {.ctx = t->ctx, .text = text};
    pb_status status = PB_OK;
    if (n && !pb_tok_pieces_add(&p, 0, n, -1, true))
        status = pb_fail_memory(err, t->ctx, sizeof(pb_tok_piece), "the pieces of a text");
    pb_tok_pieces_swap(&p);
    if (status == PB_OK)
        status = pb_tok_added_split(t, &t->raw_trie, &p, err);
    if (status == PB_OK)
        status = pb_tok_normalize(t, &p, err);
    if (status == PB_OK)
        status = pb_tok_added_split(t, &t->normalized_trie, &p, err);
    if (status == PB_OK)
        status = pb_tok_pretokenize(t, &p, err);
    if (status == PB_OK)
        status = pb_tok_bpe_encode(t, &p, ids, err);
    pb_tok_pieces_free(&p);
    return status;
}

/* Which special tokens go around the text. */
static pb_status choose_special(const pb_tokenizer *t, pb_special special, pb_tok_buffer *prefix, pb_tok_buffer *suffix,
                                int32_t *bos, pb_error *err) {
    *prefix = *suffix = (pb_tok_buffer){0};
    if (special == PB_SPECIAL_OFF)
        return PB_OK;
    *prefix = t->prefix;
    *suffix = t->suffix;
    if (special != PB_SPECIAL_ON || pb_tokenizer_adds_special(t))
        return PB_OK;
    if (t->bos < 0)
        return pb_fail(err, PB_ERR_ARGUMENT,
                       "special tokens were asked for, but this tokenizer adds none and names no BOS token");
    *bos = t->bos;
    *prefix = (pb_tok_buffer){.data = (char *)bos, .length = sizeof *bos};
    return PB_OK;
}

pb_status pb_tokenizer_encode(const pb_tokenizer *t, const char *text, size_t length, pb_special special, int32_t **ids,
                              size_t *n, pb_error *err) {
    if (length > INT32_MAX / 4)
        return pb_fail(err, PB_ERR_ARGUMENT, "the text has %zu bytes; at most %d can be tokenised at once", length,
                       INT32_MAX / 4);
    size_t invalid = pb_tok_utf8_invalid_at(text, length);
    if (invalid < length)
        return pb_fail(err, PB_ERR_ARGUMENT, "the text is not valid UTF-8 at byte %zu (0x%02X)", invalid,
                       (unsigned)(unsigned char)text[invalid]);
    pb_tok_buffer out = {0}, prefix, suffix;
    int32_t bos;
    PB_TRY(choose_special(t, special, &prefix, &suffix, &bos, err));
    pb_status status = PB_OK;
    if (!pb_tok_buffer_append(&out, t->ctx, prefix.data, prefix.length))
        status = pb_fail_memory(err, t->ctx, prefix.length, "the ids of a text");
    if (status == PB_OK)
        status = encode_text(t, text, length, &out, err);
    if (status == PB_OK && (!pb_tok_buffer_append(&out, t->ctx, suffix.data, suffix.length) ||
                            !pb_tok_buffer_reserve(&out, t->ctx, 1))) /* so that there is a block even for no ids */
        status = pb_fail_memory(err, t->ctx, out.length, "the ids of a text");
    if (status != PB_OK) {
        pb_tok_buffer_free(&out);
        return status;
    }
    *ids = PB_TOK_ITEMS(out, int32_t);
    *n = PB_TOK_COUNT(out, int32_t);
    return PB_OK;
}

/* ---- one token ------------------------------------------------------------------------------------------------ */

/* " 'piece' (id)" for the first tokens of ids. */
static pb_status list_pieces(const pb_tokenizer *t, const int32_t *ids, size_t n, pb_strbuf *out, pb_error *err) {
    enum { MOST = 12 };
    for (size_t i = 0; i < n && i < MOST; i++) {
        char *piece;
        size_t length;
        PB_TRY(pb_tokenizer_piece(t, ids[i], &piece, &length, err));
        bool whole = length > 0 && pb_tok_utf8_invalid_at(piece, length) == length && !memchr(piece, '\n', length);
        pb_free(piece);
        if (!whole) { /* part of a character, or a line end: as in labels */
            PB_TRY(pb_tokenizer_label(t, ids[i], &piece, err));
        } else {
            PB_TRY(pb_tokenizer_piece(t, ids[i], &piece, &length, err));
        }
        pb_strbuf_printf(out, " '%s' (%d)", piece, (int)ids[i]);
        pb_free(piece);
    }
    if (n > MOST)
        pb_strbuf_add(out, " ...");
    return PB_OK;
}

/* " (' Paris' with a space is one: 412)", if that is so. */
static pb_status hint_space(const pb_tokenizer *t, const char *text, size_t length, pb_strbuf *out, pb_error *err) {
    int32_t *ids;
    size_t n;
    if (length == 0 || length > 200 || text[0] == ' ')
        return PB_OK;
    char spaced[202] = " ";
    memcpy(spaced + 1, text, length);
    PB_TRY(pb_tokenizer_encode(t, spaced, length + 1, PB_SPECIAL_OFF, &ids, &n, err));
    if (n == 1)
        pb_strbuf_printf(out, " (' %.*s', with a space in front, is one: %d)", (int)length, text, (int)ids[0]);
    pb_free(ids);
    return PB_OK;
}

static pb_status fail_single(const pb_tokenizer *t, const char *text, size_t length, const int32_t *ids, size_t n,
                             pb_error *err) {
    pb_strbuf pieces, hint;
    pb_strbuf_init(&pieces, t->ctx);
    pb_strbuf_init(&hint, t->ctx);
    pb_status status = list_pieces(t, ids, n, &pieces, err);
    if (status == PB_OK)
        status = hint_space(t, text, length, &hint, err);
    int shown = length < 200 ? (int)length : 200;
    while (shown > 0 && shown < (int)length && ((unsigned char)text[shown] & 0xC0u) == 0x80u)
        shown--;
    if (status != PB_OK)
        ;
    else if (pieces.failed || hint.failed)
        status = pb_fail_memory(err, t->ctx, length, "a message");
    else if (n == 0)
        status = pb_fail(err, PB_ERR_ARGUMENT, "'%.*s' is no token at all; a metric needs exactly one", shown, text);
    else
        status = pb_fail(err, PB_ERR_ARGUMENT, "'%.*s%s' is %zu tokens:%s; a metric needs exactly one%s", shown, text,
                         (size_t)shown < length ? "..." : "", n, pieces.text, hint.text ? hint.text : "");
    pb_strbuf_free(&pieces);
    pb_strbuf_free(&hint);
    return status;
}

pb_status pb_tokenizer_single(const pb_tokenizer *t, const char *text, size_t length, int32_t *id, pb_error *err) {
    int32_t *ids;
    size_t n;
    PB_TRY(pb_tokenizer_encode(t, text, length, PB_SPECIAL_OFF, &ids, &n, err));
    pb_status status = PB_OK;
    if (n == 1)
        *id = ids[0];
    else
        status = fail_single(t, text, length, ids, n, err);
    pb_free(ids);
    return status;
}

/* ---- questions ------------------------------------------------------------------------------------------------ */

int32_t pb_tokenizer_size(const pb_tokenizer *t) { return (int32_t)PB_TOK_COUNT(t->tokens, pb_tok_string); }

int32_t pb_tokenizer_find(const pb_tokenizer *t, const char *token) {
    size_t n = strlen(token);
    int32_t id = pb_tok_string_map_get(&t->added_by_content, token, n);
    return id >= 0 ? id : pb_tok_string_map_get(&t->bpe.vocab, token, n);
}

const char *pb_tokenizer_token(const pb_tokenizer *t, int32_t id) {
    return id >= 0 && id < pb_tokenizer_size(t) ? PB_TOK_ITEMS(t->tokens, const pb_tok_string)[id].text : NULL;
}

bool pb_tokenizer_is_special(const pb_tokenizer *t, int32_t id) {
    if (id < 0 || id >= pb_tokenizer_size(t))
        return false;
    int32_t index = PB_TOK_ITEMS(t->added_of_id, const int32_t)[id];
    return index >= 0 && PB_TOK_ITEMS(t->added, const pb_tok_added)[index].special;
}

int32_t pb_tokenizer_bos(const pb_tokenizer *t) { return t->bos; }
int32_t pb_tokenizer_eos(const pb_tokenizer *t) { return t->eos; }
bool pb_tokenizer_adds_special(const pb_tokenizer *t) { return t->prefix.length + t->suffix.length > 0; }
const char *pb_tokenizer_kind(const pb_tokenizer *t) { return t->kind; }
