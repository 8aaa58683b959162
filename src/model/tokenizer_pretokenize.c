/* Pre-tokenisers: how a text falls into words; see tokenizer_internal.h. */
#include <string.h>

#include "model/tokenizer_internal.h"

/* ---- what happens to the parts that a pattern cut -------------------------------------------------------------- */

/* Does the cut join the one before it (after it, for MERGED_WITH_NEXT, where we walk backwards)? */
static bool joins(pb_tok_behavior behavior, bool is_match, bool last_was_match) {
    switch (behavior) {
    case PB_TOK_CONTIGUOUS:
        return is_match == last_was_match;
    case PB_TOK_MERGED_WITH_PREVIOUS:
    case PB_TOK_MERGED_WITH_NEXT:
        return is_match && !last_was_match;
    case PB_TOK_REMOVED:
    case PB_TOK_ISOLATED:
        return false;
    }
    return false;
}

static void reverse(pb_tok_cut *cuts, size_t n) {
    for (size_t i = 0; i < n / 2; i++) {
        pb_tok_cut other = cuts[n - 1 - i];
        cuts[n - 1 - i] = cuts[i];
        cuts[i] = other;
    }
}

pb_status pb_tok_behave(pb_context *ctx, const pb_tok_buffer *cuts, pb_tok_behavior behavior, bool invert,
                        pb_tok_buffer *out, pb_error *err) {
    const pb_tok_cut *in = PB_TOK_ITEMS(*cuts, const pb_tok_cut);
    size_t n = PB_TOK_COUNT(*cuts, pb_tok_cut), first = PB_TOK_COUNT(*out, pb_tok_cut), made = 0;
    bool backwards = behavior == PB_TOK_MERGED_WITH_NEXT;
    if (n == 0)
        return PB_OK;
    if (!pb_tok_buffer_reserve(out, ctx, n * sizeof *in))
        return pb_fail_memory(err, ctx, n * sizeof *in, "the pieces of a text");
    pb_tok_cut *to = PB_TOK_ITEMS(*out, pb_tok_cut) + first;
    bool last_was_match = false;
    for (size_t k = 0; k < n; k++) {
        pb_tok_cut cut = in[backwards ? n - 1 - k : k];
        bool is_match = cut.is_match != invert;
        if (behavior == PB_TOK_REMOVED && is_match)
            continue;
        if (made && joins(behavior, is_match, last_was_match)) {
            if (backwards)
                to[made - 1].start = cut.start;
            else
                to[made - 1].end = cut.end;
        } else {
            to[made++] = cut;
        }
        last_was_match = is_match;
    }
    if (backwards)
        reverse(to, made);
    out->length += made * sizeof *to;
    return PB_OK;
}

/* ---- stages --------------------------------------------------------------------------------------------------- */

/* Cut text[n], which lies at `base` of the pieces' text, and add the words. */
static pb_status add_split(const pb_tok_pre *pre, pb_tok_pieces *p, const char *text, size_t n, size_t base,
                           bool at_start, pb_error *err) {
    PB_TRY(pb_tok_pattern_cut(p->ctx, &pre->pattern, text, n, &p->cuts, err));
    const pb_tok_buffer *parts = &p->cuts;
    if (pre->behavior != PB_TOK_ISOLATED) {
        p->scratch[0].length = 0;
        PB_TRY(pb_tok_behave(p->ctx, &p->cuts, pre->behavior, pre->invert, &p->scratch[0], err));
        parts = &p->scratch[0];
    }
    const pb_tok_cut *cuts = PB_TOK_ITEMS(*parts, const pb_tok_cut);
    for (size_t i = 0; i < PB_TOK_COUNT(*parts, pb_tok_cut); i++) {
        size_t length = cuts[i].end - cuts[i].start;
        if (length && !pb_tok_pieces_add(p, base + cuts[i].start, length, -1, at_start && cuts[i].start == 0))
            return pb_fail_memory(err, p->ctx, p->next.length, "the pieces of a text");
    }
    return PB_OK;
}

static pb_status split(const pb_tok_pre *pre, pb_tok_pieces *p, pb_tok_piece piece, pb_error *err) {
    return add_split(pre, p, p->text + piece.start, piece.length, piece.start, piece.at_start, err);
}

static pb_status fixed_length(const pb_tok_pre *pre, pb_tok_pieces *p, pb_tok_piece piece, pb_error *err) {
    const char *text = p->text + piece.start;
    for (size_t start = 0; start < piece.length;) {
        size_t end = start;
        for (size_t i = 0; i < pre->fixed_length && end < piece.length; i++) {
            uint32_t c;
            end += pb_tok_utf8_next(text + end, &c);
        }
        if (!pb_tok_pieces_add(p, piece.start + start, end - start, -1, piece.at_start && start == 0))
            return pb_fail_memory(err, p->ctx, p->next.length, "the pieces of a text");
        start = end;
    }
    return PB_OK;
}

/* Words of the piece with an optional space in front, then each byte as its printable character. */
static pb_status byte_level(const pb_tok_pre *pre, pb_tok_pieces *p, pb_tok_piece piece, pb_error *err) {
    const char *text = p->text + piece.start;
    size_t n = piece.length, first = p->next.length;
    pb_tok_buffer *spaced = &p->scratch[1];
    if (pre->add_prefix_space && text[0] != ' ') {
        spaced->length = 0;
        if (!pb_tok_buffer_append(spaced, p->ctx, " ", 1) || !pb_tok_buffer_append(spaced, p->ctx, text, n))
            return pb_fail_memory(err, p->ctx, n + 1, "the pieces of a text");
        text = spaced->data;
        n++;
    }
    if (pre->use_pattern)
        PB_TRY(add_split(pre, p, text, n, 0, piece.at_start, err));
    else if (!pb_tok_pieces_add(p, 0, n, -1, piece.at_start))
        return pb_fail_memory(err, p->ctx, p->next.length, "the pieces of a text");
    /* The words cover text[0..n) in order: map it, and move each word to where it went. */
    pb_tok_buffer *out = &p->store[p->active];
    if (n > SIZE_MAX / 2 || !pb_tok_buffer_reserve(out, p->ctx, 2 * n))
        return pb_fail_memory(err, p->ctx, n, "the pieces of a text");
    size_t words = (p->next.length - first) / sizeof(pb_tok_piece);
    pb_tok_piece *word = PB_TOK_ITEMS(p->next, pb_tok_piece) + first / sizeof *word;
    for (size_t w = 0; w < words; w++) {
        char *start = out->data + out->length, *to = start;
        for (size_t i = 0; i < word[w].length; i++)
            to += pb_tok_utf8_put(pb_tok_byte_char((uint8_t)text[word[w].start + i]), to);
        word[w].start = out->length;
        word[w].length = (size_t)(to - start);
        out->length += word[w].length;
    }
    return PB_OK;
}

/* Spaces become the replacement, one may be put in front, and the replacement may begin words. */
static pb_status metaspace(const pb_tok_pre *pre, pb_tok_pieces *p, pb_tok_piece piece, pb_error *err) {
    const char *text = p->text + piece.start;
    pb_tok_buffer *out = &p->store[p->active];
    pb_tok_string mark = pre->replacement;
    size_t start = out->length;
    bool begins = text[0] == ' ' || (piece.length >= mark.length && memcmp(text, mark.text, mark.length) == 0);
    bool wanted = pre->prepend == PB_TOK_PREPEND_ALWAYS || (pre->prepend == PB_TOK_PREPEND_FIRST && piece.at_start);
    bool ok = begins || !wanted || pb_tok_buffer_append(out, p->ctx, mark.text, mark.length);
    for (size_t at = 0; at < piece.length && ok;) {
        const char *space = memchr(text + at, ' ', piece.length - at);
        size_t end = space ? (size_t)(space - text) : piece.length;
        ok = pb_tok_buffer_append(out, p->ctx, text + at, end - at) &&
             (!space || pb_tok_buffer_append(out, p->ctx, mark.text, mark.length));
        at = end + (space ? 1 : 0);
    }
    if (!ok)
        return pb_fail_memory(err, p->ctx, out->length, "the pieces of a text");
    if (pre->use_pattern)
        return add_split(pre, p, out->data + start, out->length - start, start, piece.at_start, err);
    if (!pb_tok_pieces_add(p, start, out->length - start, -1, piece.at_start))
        return pb_fail_memory(err, p->ctx, p->next.length, "the pieces of a text");
    return PB_OK;
}

pb_status pb_tok_pretokenize(const pb_tokenizer *t, pb_tok_pieces *p, pb_error *err) {
    const pb_tok_pre *pres = PB_TOK_ITEMS(t->pres, const pb_tok_pre);
    for (size_t k = 0; k < PB_TOK_COUNT(t->pres, pb_tok_pre); k++) {
        size_t n = PB_TOK_COUNT(p->spans, pb_tok_piece);
        for (size_t i = 0; i < n; i++) {
            pb_tok_piece piece = PB_TOK_ITEMS(p->spans, pb_tok_piece)[i];
            if (piece.id >= 0) {
                if (!pb_tok_pieces_add(p, 0, 0, piece.id, false))
                    return pb_fail_memory(err, p->ctx, p->next.length, "the pieces of a text");
                continue;
            }
            switch (pres[k].kind) {
            case PB_TOK_PRE_SPLIT:
                PB_TRY(split(&pres[k], p, piece, err));
                break;
            case PB_TOK_PRE_BYTE_LEVEL:
                PB_TRY(byte_level(&pres[k], p, piece, err));
                break;
            case PB_TOK_PRE_METASPACE:
                PB_TRY(metaspace(&pres[k], p, piece, err));
                break;
            case PB_TOK_PRE_FIXED_LENGTH:
                PB_TRY(fixed_length(&pres[k], p, piece, err));
                break;
            }
        }
        if (pres[k].kind == PB_TOK_PRE_BYTE_LEVEL || pres[k].kind == PB_TOK_PRE_METASPACE)
            pb_tok_pieces_swap_text(p);
        else
            pb_tok_pieces_swap(p);
    }
    return PB_OK;
}
