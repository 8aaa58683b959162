/* Normalisers; see tokenizer_internal.h. Each is a function from one valid UTF-8 text to another. */
#include <string.h>
#include <utf8proc.h>

#include "model/tokenizer_internal.h"

/* ---- Unicode normal forms ----------------------------------------------------------------------------------------
 * utf8proc decomposes and composes; the order of combining marks is ours, since its own takes quadratic time on a long
 * run of them. */

static uint8_t mark_class(int32_t c) { return c < 0x300 ? 0 : (uint8_t)utf8proc_get_property(c)->combining_class; }

/* Stable sort of marks[n] by class. scratch holds n more. */
static void sort_marks(int32_t *marks, size_t n, int32_t *scratch) {
    if (n <= 16) {
        for (size_t i = 1; i < n; i++) {
            int32_t mark = marks[i];
            size_t j = i;
            for (; j > 0 && mark_class(marks[j - 1]) > mark_class(mark); j--)
                marks[j] = marks[j - 1];
            marks[j] = mark;
        }
        return;
    }
    size_t start[257] = {0};
    for (size_t i = 0; i < n; i++)
        start[mark_class(marks[i]) + 1]++;
    for (int k = 0; k < 256; k++)
        start[k + 1] += start[k];
    for (size_t i = 0; i < n; i++)
        scratch[start[mark_class(marks[i])]++] = marks[i];
    memcpy(marks, scratch, n * sizeof *marks);
}

static void order_marks(int32_t *points, size_t n, int32_t *scratch) {
    for (size_t i = 0; i < n;) {
        if (mark_class(points[i]) == 0) {
            i++;
            continue;
        }
        size_t end = i + 1;
        while (end < n && mark_class(points[end]) != 0)
            end++;
        sort_marks(points + i, end - i, scratch);
        i = end;
    }
}

/* Append the decomposition of the characters of text to points (int32_t). */
static bool decompose(pb_context *ctx, const char *text, size_t n, utf8proc_option_t options, pb_tok_buffer *points) {
    enum { MOST = 32 }; /* longest decomposition of one character has 18 */
    for (size_t at = 0; at < n;) {
        uint32_t c;
        at += pb_tok_utf8_next(text + at, &c);
        if (!pb_tok_buffer_reserve(points, ctx, MOST * sizeof(int32_t)))
            return false;
        int32_t *out = PB_TOK_ITEMS(*points, int32_t) + PB_TOK_COUNT(*points, int32_t);
        int last_boundclass = 0;
        utf8proc_ssize_t made =
            c < 0x80 ? 0 : utf8proc_decompose_char((int32_t)c, out, MOST, options, &last_boundclass);
        if (made <= 0 || made > MOST) {
            out[0] = (int32_t)c;
            made = 1;
        }
        points->length += (size_t)made * sizeof *out;
    }
    return true;
}

static pb_status normal_form(pb_context *ctx, bool compose, bool compatible, const char *text, size_t n,
                             pb_tok_buffer *out, pb_error *err) {
    bool ascii = true;
    for (size_t i = 0; i < n && ascii; i++)
        ascii = (unsigned char)text[i] < 0x80;
    pb_tok_buffer points = {0};
    int32_t *scratch = NULL;
    bool ok;
    if (ascii) {
        ok = pb_tok_buffer_append(out, ctx, text, n);
        goto done;
    }
    utf8proc_option_t options =
        (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0));
    ok = decompose(ctx, text, n, options, &points);
    size_t count = PB_TOK_COUNT(points, int32_t);
    scratch = ok ? pb_alloc(ctx, count, sizeof *scratch) : NULL;
    ok = scratch != NULL;
    if (!ok)
        goto done;
    order_marks(PB_TOK_ITEMS(points, int32_t), count, scratch);
    if (compose) {
        utf8proc_option_t how = (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        utf8proc_ssize_t left = utf8proc_normalize_utf32(PB_TOK_ITEMS(points, int32_t), (utf8proc_ssize_t)count, how);
        count = left > 0 ? (size_t)left : 0;
    }
    for (size_t i = 0; i < count && ok; i++)
        ok = pb_tok_buffer_append_char(out, ctx, (uint32_t)PB_TOK_ITEMS(points, int32_t)[i]);
done:
    pb_free(scratch);
    pb_tok_buffer_free(&points);
    return ok ? PB_OK : pb_fail_memory(err, ctx, n, "a normalised text");
}

/* ---- character by character ----------------------------------------------------------------------------------- */

static bool is_mark(uint32_t c) {
    utf8proc_category_t category = utf8proc_category((int32_t)c);
    return category >= UTF8PROC_CATEGORY_MN && category <= UTF8PROC_CATEGORY_ME;
}

static bool is_chinese(uint32_t c) {
    static const uint32_t ranges[][2] = {{0x4E00, 0x9FFF},   {0x3400, 0x4DBF},   {0x20000, 0x2A6DF},
                                         {0x2A700, 0x2B73F}, {0x2B740, 0x2B81F}, {0x2B920, 0x2CEAF},
                                         {0xF900, 0xFAFF},   {0x2F800, 0x2FA1F}};
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (c >= ranges[i][0] && c <= ranges[i][1])
            return true;
    return false;
}

/* What BertNormalizer deletes: controls but for line ends and tabs, formats, unassigned and private characters. */
static bool is_bert_control(uint32_t c) {
    utf8proc_category_t category = utf8proc_category((int32_t)c);
    bool other = category == UTF8PROC_CATEGORY_CN || category >= UTF8PROC_CATEGORY_CC;
    return c == 0 || c == 0xFFFD || (other && c != '\t' && c != '\n' && c != '\r');
}

static bool is_nmt_deleted(uint32_t c) {
    return (c >= 1 && c <= 8) || c == 0x0B || (c >= 0x0E && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F;
}

static bool is_nmt_space(uint32_t c) {
    return c == 9 || c == 10 || c == 12 || c == 13 || c == 0x1680 || (c >= 0x200B && c <= 0x200F) || c == 0x2028 ||
           c == 0x2029 || c == 0x2581 || c == 0xFEFF || c == 0xFFFD;
}

/* Append what the normaliser makes of one character. */
static bool append_mapped(pb_context *ctx, pb_tok_norm_kind kind, uint32_t c, pb_tok_buffer *out) {
    switch (kind) {
    case PB_TOK_NORM_LOWERCASE:
        if (c == 0x130) /* the only character whose lower case has two */
            return pb_tok_buffer_append(out, ctx, "i\xCC\x87", 3);
        return pb_tok_buffer_append_char(out, ctx, (uint32_t)utf8proc_tolower((int32_t)c));
    case PB_TOK_NORM_STRIP_ACCENTS:
        return is_mark(c) || pb_tok_buffer_append_char(out, ctx, c);
    case PB_TOK_NORM_BERT_ACCENTS:
        return utf8proc_category((int32_t)c) == UTF8PROC_CATEGORY_MN || pb_tok_buffer_append_char(out, ctx, c);
    case PB_TOK_NORM_NMT:
        return is_nmt_deleted(c) || pb_tok_buffer_append_char(out, ctx, is_nmt_space(c) ? ' ' : c);
    case PB_TOK_NORM_BERT_CLEAN:
        return is_bert_control(c) || pb_tok_buffer_append_char(out, ctx, pb_tok_is_white(c) ? ' ' : c);
    case PB_TOK_NORM_BERT_CHINESE:
        if (!is_chinese(c))
            return pb_tok_buffer_append_char(out, ctx, c);
        return pb_tok_buffer_append(out, ctx, " ", 1) && pb_tok_buffer_append_char(out, ctx, c) &&
               pb_tok_buffer_append(out, ctx, " ", 1);
    default:
        return false;
    }
}

static pb_status map_chars(pb_context *ctx, pb_tok_norm_kind kind, const char *text, size_t n, pb_tok_buffer *out,
                           pb_error *err) {
    for (size_t at = 0; at < n;) {
        uint32_t c;
        at += pb_tok_utf8_next(text + at, &c);
        if (!append_mapped(ctx, kind, c, out))
            return pb_fail_memory(err, ctx, out->length + 4, "a normalised text");
    }
    return PB_OK;
}

/* ---- the others ----------------------------------------------------------------------------------------------- */

static void strip(const pb_tok_norm *norm, const char **text, size_t *n) {
    uint32_t c;
    while (norm->left && *n) {
        size_t length = pb_tok_utf8_next(*text, &c);
        if (!pb_tok_is_white(c))
            break;
        *text += length;
        *n -= length;
    }
    while (norm->right && *n) {
        size_t before = pb_tok_utf8_before(*text, *n);
        pb_tok_utf8_next(*text + before, &c);
        if (!pb_tok_is_white(c))
            break;
        *n = before;
    }
}

static pb_status replace(const pb_tok_norm *norm, const char *text, size_t n, pb_tok_buffer *out, pb_tok_pieces *p,
                         pb_error *err) {
    PB_TRY(pb_tok_pattern_cut(p->ctx, &norm->pattern, text, n, &p->cuts, err));
    const pb_tok_cut *cuts = PB_TOK_ITEMS(p->cuts, const pb_tok_cut);
    for (size_t i = 0; i < PB_TOK_COUNT(p->cuts, pb_tok_cut); i++) {
        bool ok = cuts[i].is_match
                      ? pb_tok_buffer_append(out, p->ctx, norm->content.text, norm->content.length)
                      : pb_tok_buffer_append(out, p->ctx, text + cuts[i].start, cuts[i].end - cuts[i].start);
        if (!ok)
            return pb_fail_memory(err, p->ctx, out->length + n, "a normalised text");
    }
    return PB_OK;
}

static pb_status apply(const pb_tok_norm *norm, const char *text, size_t n, pb_tok_buffer *out, pb_tok_pieces *p,
                       pb_error *err) {
    pb_context *ctx = p->ctx;
    bool ok = true;
    switch (norm->kind) {
    case PB_TOK_NORM_NFC:
        return normal_form(ctx, true, false, text, n, out, err);
    case PB_TOK_NORM_NFKC:
        return normal_form(ctx, true, true, text, n, out, err);
    case PB_TOK_NORM_NFD:
        return normal_form(ctx, false, false, text, n, out, err);
    case PB_TOK_NORM_NFKD:
        return normal_form(ctx, false, true, text, n, out, err);
    case PB_TOK_NORM_REPLACE:
        return replace(norm, text, n, out, p, err);
    case PB_TOK_NORM_STRIP:
        strip(norm, &text, &n);
        ok = pb_tok_buffer_append(out, ctx, text, n);
        break;
    case PB_TOK_NORM_PREPEND:
        ok = n == 0 || (pb_tok_buffer_append(out, ctx, norm->content.text, norm->content.length) &&
                        pb_tok_buffer_append(out, ctx, text, n));
        break;
    case PB_TOK_NORM_BYTE_LEVEL:
        for (size_t i = 0; i < n && ok; i++)
            ok = pb_tok_buffer_append_char(out, ctx, pb_tok_byte_char((uint8_t)text[i]));
        break;
    default:
        return map_chars(ctx, norm->kind, text, n, out, err);
    }
    return ok ? PB_OK : pb_fail_memory(err, ctx, out->length + n, "a normalised text");
}

pb_status pb_tok_normalize_text(const pb_tokenizer *t, const char *text, size_t n, pb_tok_buffer *out, pb_tok_pieces *p,
                                pb_error *err) {
    const pb_tok_norm *norms = PB_TOK_ITEMS(t->norms, const pb_tok_norm);
    size_t count = PB_TOK_COUNT(t->norms, pb_tok_norm);
    int active = 0;
    for (size_t i = 0; i < count; i++) {
        pb_tok_buffer *to = i + 1 == count ? out : &p->scratch[active];
        if (to != out)
            to->length = 0;
        PB_TRY(apply(&norms[i], text, n, to, p, err));
        text = to->data;
        n = to->length;
        active = 1 - active;
    }
    if (count == 0 && !pb_tok_buffer_append(out, p->ctx, text, n))
        return pb_fail_memory(err, p->ctx, n, "a normalised text");
    return PB_OK;
}

pb_status pb_tok_normalize(const pb_tokenizer *t, pb_tok_pieces *p, pb_error *err) {
    if (t->norms.length == 0)
        return PB_OK;
    pb_tok_buffer *out = &p->store[p->active];
    size_t n = PB_TOK_COUNT(p->spans, pb_tok_piece);
    for (size_t i = 0; i < n; i++) {
        pb_tok_piece piece = PB_TOK_ITEMS(p->spans, pb_tok_piece)[i];
        size_t start = out->length;
        if (piece.id < 0)
            PB_TRY(pb_tok_normalize_text(t, p->text + piece.start, piece.length, out, p, err));
        if ((piece.id >= 0 || out->length > start) &&
            !pb_tok_pieces_add(p, start, out->length - start, piece.id, piece.at_start))
            return pb_fail_memory(err, p->ctx, p->next.length + sizeof piece, "the pieces of a text");
    }
    pb_tok_pieces_swap_text(p);
    return PB_OK;
}
