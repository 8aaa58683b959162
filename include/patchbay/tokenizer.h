/* Tokenizer: text to token ids and back, from a Hugging Face tokenizer.json (byte-level BPE and SentencePiece-style BPE
 * with byte fallback; Unigram and WordPiece are refused by name). Immutable after load; no context state is used in
 * encode and decode but memory. Token ids are 0-based, as in the file. */
#ifndef PATCHBAY_TOKENIZER_H
#define PATCHBAY_TOKENIZER_H

#include "patchbay/context.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pb_tokenizer pb_tokenizer;

/* path: a tokenizer.json, or the folder that holds it (tokenizer_config.json beside it is read for add_bos_token). */
pb_status pb_tokenizer_open(pb_context *ctx, const char *path, pb_tokenizer **out, pb_error *err);
pb_tokenizer *pb_tokenizer_ref(pb_tokenizer *t);
void pb_tokenizer_unref(pb_tokenizer *t);

/* Special tokens around the text (BOS, EOS of the file's post-processor): as the file says, or the caller's word.
 * PB_SPECIAL_ON on a file that has none: the file's BOS token if it names one, else PB_ERR_ARGUMENT. */
typedef enum pb_special { PB_SPECIAL_DEFAULT, PB_SPECIAL_OFF, PB_SPECIAL_ON } pb_special;

/* text: UTF-8, length bytes, may hold NUL; invalid UTF-8 is an error that names the byte offset. *ids: new block of *n
 * ids (pb_free), never NULL. Time is linear in length. */
pb_status pb_tokenizer_encode(const pb_tokenizer *t, const char *text, size_t length, pb_special special, int32_t **ids,
                              size_t *n, pb_error *err);

/* *text: new NUL-terminated block of *length bytes (pb_free). An id outside the vocabulary is an error. */
pb_status pb_tokenizer_decode(const pb_tokenizer *t, const int32_t *ids, size_t n, bool skip_special, char **text,
                              size_t *length, pb_error *err);

/* The one id of text (without special tokens). More than one token, or none: an error that shows the pieces:
 * "' Parisian' is 2 tokens: ' Paris' (412) 'ian' (87); a metric needs exactly one". */
pb_status pb_tokenizer_single(const pb_tokenizer *t, const char *text, size_t length, int32_t *id, pb_error *err);

/* What one token stands for in running text: bytes decoded, so that pieces of one text join to it (a leading space kept;
 * a piece of a character is shown as its raw bytes). New block (pb_free). */
pb_status pb_tokenizer_piece(const pb_tokenizer *t, int32_t id, char **text, size_t *length, pb_error *err);
/* The same made visible for labels: spaces at either end as U+2423 (open box), newline as U+21B5, tab as U+21E5, other
 * controls and incomplete UTF-8 as \xHH; the special token's own name as it is. New NUL-terminated UTF-8 block (pb_free). */
pb_status pb_tokenizer_label(const pb_tokenizer *t, int32_t id, char **label, pb_error *err);

int32_t pb_tokenizer_size(const pb_tokenizer *t);                    /* largest id + 1 */
int32_t pb_tokenizer_find(const pb_tokenizer *t, const char *token); /* the file's spelling; -1 if absent */
const char *pb_tokenizer_token(const pb_tokenizer *t, int32_t id);   /* the file's spelling; NULL if none */
bool pb_tokenizer_is_special(const pb_tokenizer *t, int32_t id);
int32_t pb_tokenizer_bos(const pb_tokenizer *t); /* -1 if none is known */
int32_t pb_tokenizer_eos(const pb_tokenizer *t);
bool pb_tokenizer_adds_special(const pb_tokenizer *t); /* PB_SPECIAL_DEFAULT adds something */
const char *pb_tokenizer_kind(const pb_tokenizer *t);  /* "byte-level BPE", "BPE with byte fallback", ... */

#ifdef __cplusplus
}
#endif
#endif
