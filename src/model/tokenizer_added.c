/* Added tokens: cutting them out of a text; see tokenizer_internal.h. */
#include <string.h>

#include "model/tokenizer_internal.h"

static uint64_t edge_key(int32_t node, unsigned char byte) { return (uint64_t)(uint32_t)node << 8 | byte; }

static pb_status new_node(pb_tok_trie *trie, pb_context *ctx, int32_t *node, pb_error *err) {
    int32_t none = -1;
    *node = (int32_t)PB_TOK_COUNT(trie->value, int32_t);
    if (*node == 0)
        memset(trie->root, -1, sizeof trie->root);
    if (!pb_tok_buffer_append(&trie->value, ctx, &none, sizeof none))
        return pb_fail_memory(err, ctx, sizeof none, "added tokens");
    return PB_OK;
}

pb_status pb_tok_trie_add(pb_tok_trie *trie, pb_context *ctx, pb_tok_string token, int32_t index, pb_error *err) {
    int32_t node = -1;
    if (token.length == 0) /* the normaliser left nothing of it: it never matches */
        return PB_OK;
    for (size_t i = 0; i < token.length; i++) {
        unsigned char byte = (unsigned char)token.text[i];
        const pb_tok_pair_slot *edge = i ? pb_tok_pair_map_get(&trie->edges, edge_key(node, byte)) : NULL;
        int32_t next = i ? (edge ? (int32_t)edge->first : -1) : (trie->value.length ? trie->root[byte] : -1);
        if (next < 0) {
            PB_TRY(new_node(trie, ctx, &next, err));
            if (i == 0)
                trie->root[byte] = next;
            else if (!pb_tok_pair_map_set(&trie->edges, ctx, edge_key(node, byte), (uint32_t)next, 0))
                return pb_fail_memory(err, ctx, sizeof *edge, "added tokens");
        }
        node = next;
    }
    int32_t *value = PB_TOK_ITEMS(trie->value, int32_t) + node;
    if (*value < 0) /* of two tokens that are normalised to the same text the first wins */
        *value = index;
    return PB_OK;
}

/* The longest token that begins at text[0]; its index or -1. */
static int32_t longest_at(const pb_tok_trie *trie, const char *text, size_t n, size_t *length) {
    int32_t found = -1, node = trie->root[(unsigned char)text[0]];
    const int32_t *value = PB_TOK_ITEMS(trie->value, const int32_t);
    for (size_t i = 1; node >= 0; i++) {
        if (value[node] >= 0) {
            found = value[node];
            *length = i;
        }
        if (i == n)
            break;
        const pb_tok_pair_slot *edge = pb_tok_pair_map_get(&trie->edges, edge_key(node, (unsigned char)text[i]));
        node = edge ? (int32_t)edge->first : -1;
    }
    return found;
}

static bool word_before(const char *text, size_t at) {
    uint32_t c;
    if (at == 0)
        return false;
    pb_tok_utf8_next(text + pb_tok_utf8_before(text, at), &c);
    return pb_tok_is_word(c);
}

static bool word_after(const char *text, size_t at, size_t n) {
    uint32_t c;
    if (at == n)
        return false;
    pb_tok_utf8_next(text + at, &c);
    return pb_tok_is_word(c);
}

/* Where the white space that ends at `at` begins, not before `floor`. */
static size_t white_start(const char *text, size_t floor, size_t at) {
    while (at > floor) {
        uint32_t c;
        size_t before = pb_tok_utf8_before(text, at);
        pb_tok_utf8_next(text + before, &c);
        if (!pb_tok_is_white(c))
            break;
        at = before;
    }
    return at;
}

static size_t white_end(const char *text, size_t at, size_t n) {
    while (at < n) {
        uint32_t c;
        size_t length = pb_tok_utf8_next(text + at, &c);
        if (!pb_tok_is_white(c))
            break;
        at += length;
    }
    return at;
}

static bool split_piece(const pb_tokenizer *t, const pb_tok_trie *trie, pb_tok_pieces *p, pb_tok_piece piece) {
    const pb_tok_added *added = PB_TOK_ITEMS(t->added, const pb_tok_added);
    const char *text = p->text + piece.start;
    size_t n = piece.length, done = 0, at = 0, length = 0;
    while (at < n) {
        int32_t index = longest_at(trie, text + at, n - at, &length);
        if (index < 0) {
            at++;
            continue;
        }
        const pb_tok_added *token = &added[index];
        size_t start = at, stop = at + length;
        at = stop; /* a token in the middle of a word is passed over as a whole, not tried again inside */
        if (token->single_word && (word_before(text, start) || word_after(text, stop, n)))
            continue;
        if (token->lstrip)
            start = white_start(text, done, start);
        if (token->rstrip)
            stop = white_end(text, stop, n);
        if (start > done && !pb_tok_pieces_add(p, piece.start + done, start - done, -1, piece.at_start && done == 0))
            return false;
        if (!pb_tok_pieces_add(p, piece.start + start, stop - start, token->id, false))
            return false;
        at = done = stop;
    }
    return done == n || pb_tok_pieces_add(p, piece.start + done, n - done, -1, piece.at_start && done == 0);
}

pb_status pb_tok_added_split(const pb_tokenizer *t, const pb_tok_trie *trie, pb_tok_pieces *p, pb_error *err) {
    if (trie->value.length == 0)
        return PB_OK;
    size_t n = PB_TOK_COUNT(p->spans, pb_tok_piece);
    for (size_t i = 0; i < n; i++) {
        pb_tok_piece piece = PB_TOK_ITEMS(p->spans, pb_tok_piece)[i];
        bool ok = piece.id >= 0 ? pb_tok_pieces_add(p, piece.start, piece.length, piece.id, false)
                                : split_piece(t, trie, p, piece);
        if (!ok)
            return pb_fail_memory(err, p->ctx, p->next.length + sizeof piece, "the pieces of a text");
    }
    pb_tok_pieces_swap(p);
    return PB_OK;
}
