/* What tokenizer_translate.c and tokenizer_class.c share: the state of one translation from Oniguruma to PCRE2. */
#ifndef PB_MODEL_TOKENIZER_TRANSLATE_H
#define PB_MODEL_TOKENIZER_TRANSLATE_H

#include "model/tokenizer_internal.h"

/* Members of a class, as Oniguruma has them with Unicode. */
#define PB_TOK_WHITE "\\p{White_Space}"
#define PB_TOK_WORD  "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
#define PB_TOK_HEX   "0-9A-Fa-f"

enum { PB_TOK_MAX_DEPTH = 100 }; /* of groups, of classes */

typedef struct pb_tok_level {
    size_t start; /* of the group in the output, where a quantifier after it would wrap */
    int closers;  /* groups that a bare option opened inside */
} pb_tok_level;

typedef struct pb_tok_translator {
    const char *source;
    size_t length, at;
    pb_strbuf *out;
    pb_error *err;
    size_t atom; /* where the last atom begins in the output */
    pb_tok_level levels[PB_TOK_MAX_DEPTH];
    int depth;
} pb_tok_translator;

/* An error that says where in the source it is. */
pb_status pb_tok_translate_refuse(const pb_tok_translator *tr, pb_status status, const char *what);
int pb_tok_translate_peek(const pb_tok_translator *tr); /* the byte at tr->at, -1 at the end */
bool pb_tok_translate_looking_at(const pb_tok_translator *tr, const char *text);

/* The escape that stands for a set of characters (\s \w \h \d and their complements): its members as class items, NULL
 * for any other letter. */
const char *pb_tok_translate_set(int letter, bool *negated);
/* Any other escape: one character, or something that PCRE2 knows by the same name. tr->at is behind the letter. */
pb_status pb_tok_translate_escape(pb_tok_translator *tr, int letter, bool in_class, pb_strbuf *out);
/* tr->at is at the opening bracket; afterwards behind the closing one. */
pb_status pb_tok_translate_class(pb_tok_translator *tr);

#endif
