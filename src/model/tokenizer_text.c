/* UTF-8 and classes of characters as tokenizer.json files mean them; see tokenizer_internal.h. */
#include <utf8proc.h>

#include "model/tokenizer_internal.h"

/* ---- UTF-8 ---------------------------------------------------------------------------------------------------- */

/* Length of the character that begins at p[0], or 0 and in *bad how many bytes (at least 1) are a maximal wrong part:
 * as many as could still have begun a valid character. */
static size_t sequence_length(const unsigned char *p, size_t n, size_t *bad) {
    *bad = 1;
    if (p[0] < 0x80)
        return 1;
    unsigned char low = 0x80, high = 0xBF; /* allowed for the second byte */
    size_t length;
    if (p[0] >= 0xC2 && p[0] <= 0xDF)
        length = 2;
    else if (p[0] >= 0xE0 && p[0] <= 0xEF)
        length = 3;
    else if (p[0] >= 0xF0 && p[0] <= 0xF4)
        length = 4;
    else
        return 0;
    if (p[0] == 0xE0)
        low = 0xA0;
    else if (p[0] == 0xED)
        high = 0x9F;
    else if (p[0] == 0xF0)
        low = 0x90;
    else if (p[0] == 0xF4)
        high = 0x8F;
    for (size_t i = 1; i < length; i++) {
        if (i >= n || p[i] < low || p[i] > high) {
            *bad = i;
            return 0;
        }
        low = 0x80;
        high = 0xBF;
    }
    return length;
}

size_t pb_tok_utf8_invalid_at(const char *text, size_t n) {
    const unsigned char *p = (const unsigned char *)text;
    size_t at = 0, bad;
    while (at < n) {
        if (p[at] < 0x80) {
            at++;
            continue;
        }
        size_t length = sequence_length(p + at, n - at, &bad);
        if (!length)
            return at;
        at += length;
    }
    return n;
}

size_t pb_tok_utf8_next(const char *text, uint32_t *code_point) {
    const unsigned char *p = (const unsigned char *)text;
    if (p[0] < 0x80) {
        *code_point = p[0];
        return 1;
    }
    if (p[0] < 0xE0) {
        *code_point = (p[0] & 0x1Fu) << 6 | (p[1] & 0x3Fu);
        return 2;
    }
    if (p[0] < 0xF0) {
        *code_point = (p[0] & 0x0Fu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
        return 3;
    }
    *code_point = (p[0] & 0x07u) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu);
    return 4;
}

size_t pb_tok_utf8_before(const char *text, size_t end) {
    do
        end--;
    while (end > 0 && ((unsigned char)text[end] & 0xC0u) == 0x80u);
    return end;
}

size_t pb_tok_utf8_put(uint32_t c, char out[4]) {
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xC0u | c >> 6);
        out[1] = (char)(0x80u | (c & 0x3Fu));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xE0u | c >> 12);
        out[1] = (char)(0x80u | (c >> 6 & 0x3Fu));
        out[2] = (char)(0x80u | (c & 0x3Fu));
        return 3;
    }
    out[0] = (char)(0xF0u | c >> 18);
    out[1] = (char)(0x80u | (c >> 12 & 0x3Fu));
    out[2] = (char)(0x80u | (c >> 6 & 0x3Fu));
    out[3] = (char)(0x80u | (c & 0x3Fu));
    return 4;
}

bool pb_tok_utf8_append_lossy(pb_tok_buffer *out, pb_context *ctx, const char *bytes, size_t n) {
    size_t at = 0;
    while (at < n) {
        size_t valid = pb_tok_utf8_invalid_at(bytes + at, n - at);
        if (!pb_tok_buffer_append(out, ctx, bytes + at, valid))
            return false;
        at += valid;
        if (at == n)
            break;
        size_t bad;
        sequence_length((const unsigned char *)bytes + at, n - at, &bad);
        if (!pb_tok_buffer_append_char(out, ctx, 0xFFFD))
            return false;
        at += bad;
    }
    return true;
}

/* ---- classes -------------------------------------------------------------------------------------------------- */

bool pb_tok_is_white(uint32_t c) {
    if (c < 0x85)
        return c == ' ' || (c >= 9 && c <= 13);
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

bool pb_tok_is_word(uint32_t c) {
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        break;
    }
    /* alphabetic though symbols: circled, squared and negative letters; and the joiners */
    return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
           (c >= 0x1F170 && c <= 0x1F189) || c == 0x200C || c == 0x200D;
}

bool pb_tok_is_numeric(uint32_t c) {
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

bool pb_tok_is_punctuation(uint32_t c) {
    if (c < 0x80)
        return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
}

/* ---- the byte-level alphabet ---------------------------------------------------------------------------------- */

/* Bytes that print keep their Latin-1 character; the 68 others get U+0100 and up in their order. */
uint32_t pb_tok_byte_char(uint8_t byte) {
    if (byte <= 0x20)
        return 0x100u + byte;
    if (byte >= 0x7F && byte <= 0xA0)
        return 0x121u + (byte - 0x7Fu);
    return byte == 0xAD ? 0x143u : byte;
}

int pb_tok_char_byte(uint32_t c) {
    if (c >= 0x100 && c <= 0x120)
        return (int)(c - 0x100);
    if (c >= 0x121 && c <= 0x142)
        return (int)(c - 0x121 + 0x7F);
    if (c == 0x143)
        return 0xAD;
    bool prints = (c > 0x20 && c < 0x7F) || (c > 0xA0 && c <= 0xFF && c != 0xAD);
    return prints ? (int)c : -1;
}
