/* Byte-pair encoding of words; see tokenizer_internal.h.
 *
 * A word is a linked list of symbols. A heap holds the merges that are possible, lowest rank first and of equal ranks
 * the leftmost; entries that a merge beside them has outdated are recognised when they come up. n log n in the length
 * of a word, whatever the word. Words that come again in one call are copied from where their ids already are. */
#include <string.h>

#include "model/tokenizer_internal.h"

typedef struct symbol {
    int32_t id; /* -1: merged into the one before */
    int32_t previous, next;
} symbol;

typedef struct merge {
    uint64_t order; /* rank << 32 | position: the heap's key */
    int32_t id;     /* of the result */
} merge;

/* A word that this call has encoded. Direct-mapped: a word that lands on another one's place replaces it. */
typedef struct known_word {
    uint64_t hash;
    size_t start;  /* bytes of the pieces' text */
    size_t ids_at; /* index into the ids */
    uint32_t length, count;
} known_word;

enum { KNOWN_WORD_BYTES = 64, KNOWN_WORDS_MOST = 32768 };

typedef struct encoder {
    const pb_tok_bpe *bpe;
    pb_context *ctx;
    pb_tok_buffer symbols; /* symbol */
    pb_tok_buffer heap;    /* merge */
    pb_tok_buffer affixed; /* scratch for prefix + character + suffix */
    known_word *known;     /* NULL for short texts */
    size_t known_mask;
} encoder;

/* ---- heap ----------------------------------------------------------------------------------------------------- */

static bool heap_push(encoder *e, merge entry) {
    size_t at = PB_TOK_COUNT(e->heap, merge);
    if (!pb_tok_buffer_append(&e->heap, e->ctx, &entry, sizeof entry))
        return false;
    merge *heap = PB_TOK_ITEMS(e->heap, merge);
    while (at > 0 && heap[(at - 1) / 2].order > entry.order) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = entry;
    return true;
}

static merge heap_pop(encoder *e) {
    merge *heap = PB_TOK_ITEMS(e->heap, merge), top = heap[0];
    e->heap.length -= sizeof top;
    size_t n = PB_TOK_COUNT(e->heap, merge), at = 0;
    merge last = heap[n];
    while (2 * at + 1 < n) {
        size_t child = 2 * at + 1;
        if (child + 1 < n && heap[child + 1].order < heap[child].order)
            child++;
        if (heap[child].order >= last.order)
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return top;
}

/* ---- symbols -------------------------------------------------------------------------------------------------- */

static bool add_symbol(encoder *e, int32_t id) {
    int32_t at = (int32_t)PB_TOK_COUNT(e->symbols, symbol);
    symbol s = {.id = id, .previous = at - 1, .next = at + 1};
    return pb_tok_buffer_append(&e->symbols, e->ctx, &s, sizeof s);
}

/* The id of text[n] as a symbol with the word's affixes; -1 if there is none. *out, *out_n: that spelling. */
static bool symbol_id(encoder *e, const char *text, size_t n, bool first, bool last, int32_t *id, const char **out,
                      size_t *out_n) {
    const pb_tok_bpe *bpe = e->bpe;
    size_t before = first ? 0 : bpe->continuing.length, after = last ? bpe->word_end.length : 0;
    *out = text;
    *out_n = n;
    if (before + after == 0) {
        uint32_t c;
        pb_tok_utf8_next(text, &c);
        *id = c < 512 ? bpe->by_char[c] : pb_tok_string_map_get(&bpe->vocab, text, n);
        return true;
    }
    e->affixed.length = 0;
    if (!pb_tok_buffer_append(&e->affixed, e->ctx, bpe->continuing.text, before) ||
        !pb_tok_buffer_append(&e->affixed, e->ctx, text, n) ||
        !pb_tok_buffer_append(&e->affixed, e->ctx, bpe->word_end.text, after))
        return false;
    *out = e->affixed.data;
    *out_n = e->affixed.length;
    *id = pb_tok_string_map_get(&bpe->vocab, *out, *out_n);
    return true;
}

/* Add the bytes of text[n] as <0xHH> symbols; *done: all have one. */
static bool add_bytes(encoder *e, const char *text, size_t n, bool *done) {
    *done = true;
    for (size_t i = 0; i < n; i++)
        *done = *done && e->bpe->byte_id[(unsigned char)text[i]] >= 0;
    for (size_t i = 0; i < n && *done; i++)
        if (!add_symbol(e, e->bpe->byte_id[(unsigned char)text[i]]))
            return false;
    return true;
}

/* The characters of a word as symbols. A character that the vocabulary lacks becomes its bytes, else the unknown token,
 * else nothing. An unknown token waits for the next known character (bytes pass it by, as in the library). */
static bool make_symbols(encoder *e, const char *word, size_t n) {
    const pb_tok_bpe *bpe = e->bpe;
    bool unknown = false;
    e->symbols.length = 0;
    for (size_t at = 0; at < n;) {
        uint32_t c;
        size_t length = pb_tok_utf8_next(word + at, &c);
        const char *spelling;
        size_t spelling_n;
        int32_t id;
        if (!symbol_id(e, word + at, length, at == 0, at + length == n, &id, &spelling, &spelling_n))
            return false;
        at += length;
        if (id >= 0) {
            if ((unknown && !add_symbol(e, bpe->unk)) || !add_symbol(e, id))
                return false;
            unknown = false;
            continue;
        }
        bool done = false;
        if (bpe->byte_fallback && !add_bytes(e, spelling, spelling_n, &done))
            return false;
        if (done || bpe->unk < 0)
            continue;
        if (unknown && !bpe->fuse_unk && !add_symbol(e, bpe->unk))
            return false;
        unknown = true;
    }
    return !unknown || add_symbol(e, bpe->unk);
}

static const pb_tok_pair_slot *find_merge(const encoder *e, int32_t left, int32_t right) {
    return pb_tok_pair_map_get(&e->bpe->merges, (uint64_t)(uint32_t)left << 32 | (uint32_t)right);
}

/* Push the merge of the symbol at `left` with the one after it, if there is such a merge. */
static bool offer(encoder *e, const symbol *symbols, int32_t left, int32_t n) {
    int32_t right = symbols[left].next;
    if (right >= n)
        return true;
    const pb_tok_pair_slot *found = find_merge(e, symbols[left].id, symbols[right].id);
    if (!found)
        return true;
    merge entry = {.order = (uint64_t)found->first << 32 | (uint32_t)left, .id = (int32_t)found->second};
    return heap_push(e, entry);
}

static bool merge_symbols(encoder *e) {
    symbol *symbols = PB_TOK_ITEMS(e->symbols, symbol);
    int32_t n = (int32_t)PB_TOK_COUNT(e->symbols, symbol);
    e->heap.length = 0;
    for (int32_t i = 0; i + 1 < n; i++)
        if (!offer(e, symbols, i, n))
            return false;
    while (e->heap.length) {
        merge top = heap_pop(e);
        int32_t at = (int32_t)(uint32_t)top.order;
        int32_t right = symbols[at].next;
        if (symbols[at].id < 0 || right >= n)
            continue;
        const pb_tok_pair_slot *found = find_merge(e, symbols[at].id, symbols[right].id);
        if (!found || (int32_t)found->second != top.id)
            continue; /* outdated */
        symbols[at].id = top.id;
        symbols[at].next = symbols[right].next;
        symbols[right].id = -1;
        if (symbols[at].next < n)
            symbols[symbols[at].next].previous = at;
        if (symbols[at].previous >= 0 && !offer(e, symbols, symbols[at].previous, n))
            return false;
        if (!offer(e, symbols, at, n))
            return false;
    }
    return true;
}

/* ---- words ---------------------------------------------------------------------------------------------------- */

static bool encode_word(encoder *e, const char *word, size_t n, pb_tok_buffer *ids) {
    if (e->bpe->ignore_merges) {
        int32_t id = pb_tok_string_map_get(&e->bpe->vocab, word, n);
        if (id >= 0)
            return pb_tok_buffer_append(ids, e->ctx, &id, sizeof id);
    }
    if (!make_symbols(e, word, n) || !merge_symbols(e))
        return false;
    const symbol *symbols = PB_TOK_ITEMS(e->symbols, const symbol);
    int32_t count = (int32_t)PB_TOK_COUNT(e->symbols, symbol);
    for (int32_t i = 0; i < count; i = symbols[i].next)
        if (!pb_tok_buffer_append(ids, e->ctx, &symbols[i].id, sizeof(int32_t)))
            return false;
    return true;
}

static bool encode_known_word(encoder *e, const char *text, size_t start, size_t n, pb_tok_buffer *ids) {
    if (!e->known || n > KNOWN_WORD_BYTES)
        return encode_word(e, text + start, n, ids);
    uint64_t hash = pb_tok_hash(text + start, n);
    known_word *known = &e->known[hash & e->known_mask];
    if (known->length == n && known->hash == hash && memcmp(text + known->start, text + start, n) == 0) {
        size_t bytes = known->count * sizeof(int32_t);
        if (bytes == 0)
            return true;
        if (!pb_tok_buffer_reserve(ids, e->ctx, bytes)) /* before the pointer into it is taken */
            return false;
        return pb_tok_buffer_append(ids, e->ctx, ids->data + known->ids_at * sizeof(int32_t), bytes);
    }
    size_t at = PB_TOK_COUNT(*ids, int32_t);
    if (!encode_word(e, text + start, n, ids))
        return false;
    *known = (known_word){.hash = hash, .start = start, .ids_at = at, .length = (uint32_t)n};
    known->count = (uint32_t)(PB_TOK_COUNT(*ids, int32_t) - at);
    return true;
}

pb_status pb_tok_bpe_encode(const pb_tokenizer *t, pb_tok_pieces *p, pb_tok_buffer *ids, pb_error *err) {
    encoder e = {.bpe = &t->bpe, .ctx = p->ctx};
    const pb_tok_piece *pieces = PB_TOK_ITEMS(p->spans, const pb_tok_piece);
    size_t n = PB_TOK_COUNT(p->spans, pb_tok_piece);
    pb_status status = PB_OK;
    if (n >= 64) {
        size_t slots = 64;
        while (slots < n && slots < KNOWN_WORDS_MOST)
            slots *= 2;
        e.known = pb_alloc_zero(e.ctx, slots, sizeof *e.known);
        e.known_mask = slots - 1;
        if (!e.known)
            status = pb_fail_memory(err, e.ctx, slots * sizeof *e.known, "the words of a text");
    }
    for (size_t i = 0; i < n && status == PB_OK; i++) {
        if (i % 4096 == 4095)
            status = pb_context_check(e.ctx, err);
        if (pieces[i].length > INT32_MAX) { /* a normaliser can blow a text up */
            status =
                pb_fail(err, PB_ERR_ARGUMENT, "a word has %zu bytes, more than can be tokenised", pieces[i].length);
            break;
        }
        bool ok = pieces[i].id >= 0 ? pb_tok_buffer_append(ids, e.ctx, &pieces[i].id, sizeof(int32_t))
                                    : encode_known_word(&e, p->text, pieces[i].start, pieces[i].length, ids);
        if (!ok)
            status = pb_fail_memory(err, e.ctx, ids->length + pieces[i].length, "the ids of a text");
    }
    pb_free(e.known);
    pb_tok_buffer_free(&e.symbols);
    pb_tok_buffer_free(&e.heap);
    pb_tok_buffer_free(&e.affixed);
    return status;
}
