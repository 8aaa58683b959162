/* Private declarations of the tokenizer's files. The way of a text through them:
 *
 *   tokenizer.c              checks the UTF-8, runs the stages below, puts special tokens around
 *   tokenizer_added.c        cuts out added tokens of the raw text, later those of the normalised text
 *   tokenizer_normalize.c    normalises what lies between them
 *   tokenizer_pretokenize.c  splits that into words (tokenizer_regex.c holds the regular expressions)
 *   tokenizer_bpe.c          turns each word into ids
 *   tokenizer_decode.c       goes back: ids to text, and one id to its piece and its label
 *
 * tokenizer_load.c and tokenizer_parts.c read the JSON; tokenizer_text.c and tokenizer_table.c hold characters, buffers
 * and hash tables. Everything here is immutable after load; a call keeps its scratch memory on its own stack frame. */
#ifndef PB_MODEL_TOKENIZER_INTERNAL_H
#define PB_MODEL_TOKENIZER_INTERNAL_H

#include <jansson.h>
#include <stdatomic.h>

#include "base/strbuf.h"
#include "patchbay/tokenizer.h"

/* ---- buffers and tables (tokenizer_table.c) ------------------------------------------------------------------- */

/* Growing array of count items of item_size bytes; {0} is empty. Memory of the context given to each growth. */
typedef struct pb_tok_buffer {
    char *data;
    size_t length;   /* bytes in use */
    size_t capacity; /* bytes */
} pb_tok_buffer;

bool pb_tok_buffer_reserve(pb_tok_buffer *b, pb_context *ctx, size_t more); /* false: no memory, nothing changed */
bool pb_tok_buffer_append(pb_tok_buffer *b, pb_context *ctx, const void *bytes, size_t n);
bool pb_tok_buffer_append_char(pb_tok_buffer *b, pb_context *ctx, uint32_t code_point); /* as UTF-8 */
void pb_tok_buffer_free(pb_tok_buffer *b);

/* The bytes of a string that may hold NUL; always followed by a NUL that length does not count. */
typedef struct pb_tok_string {
    const char *text;
    size_t length;
} pb_tok_string;

bool pb_tok_string_equal(pb_tok_string a, pb_tok_string b);
uint64_t pb_tok_hash(const char *bytes, size_t n);

/* Open addressing from 64-bit keys to two 32-bit values; keys must not be UINT64_MAX. */
typedef struct pb_tok_pair_slot {
    uint64_t key;
    uint32_t first, second;
} pb_tok_pair_slot;

typedef struct pb_tok_pair_map {
    pb_tok_pair_slot *slots;
    size_t mask; /* number of slots - 1; slots is NULL while the map is empty */
    size_t used;
} pb_tok_pair_map;

bool pb_tok_pair_map_set(pb_tok_pair_map *map, pb_context *ctx, uint64_t key, uint32_t first, uint32_t second);
bool pb_tok_pair_map_reserve(pb_tok_pair_map *map, pb_context *ctx, size_t entries);
const pb_tok_pair_slot *pb_tok_pair_map_get(const pb_tok_pair_map *map, uint64_t key); /* NULL if absent */

/* From strings (owned by somebody else, alive as long as the map) to ids. */
typedef struct pb_tok_string_slot {
    pb_tok_string key; /* text is NULL in a free slot */
    uint32_t hash;
    int32_t id;
} pb_tok_string_slot;

typedef struct pb_tok_string_map {
    pb_tok_string_slot *slots;
    size_t mask, used;
} pb_tok_string_map;

bool pb_tok_string_map_set(pb_tok_string_map *map, pb_context *ctx, pb_tok_string key, int32_t id); /* last one wins */
bool pb_tok_string_map_reserve(pb_tok_string_map *map, pb_context *ctx, size_t entries);
int32_t pb_tok_string_map_get(const pb_tok_string_map *map, const char *text, size_t length); /* -1 if absent */

/* ---- characters (tokenizer_text.c) ---------------------------------------------------------------------------- */

/* Offset of the first byte that is not part of valid UTF-8 (surrogates and overlong forms are invalid); n if none. */
size_t pb_tok_utf8_invalid_at(const char *text, size_t n);
/* Code point at text[0] and its length in bytes; the text must be valid and not empty. */
size_t pb_tok_utf8_next(const char *text, uint32_t *code_point);
/* Start of the character that ends at text + end (end > 0). */
size_t pb_tok_utf8_before(const char *text, size_t end);
size_t pb_tok_utf8_put(uint32_t code_point, char out[4]);
/* bytes with each maximal wrong part replaced by U+FFFD, as Unicode recommends. */
bool pb_tok_utf8_append_lossy(pb_tok_buffer *out, pb_context *ctx, const char *bytes, size_t n);

bool pb_tok_is_white(uint32_t c);       /* Unicode White_Space */
bool pb_tok_is_word(uint32_t c);        /* \w of regular expressions: letters, marks, digits, connectors */
bool pb_tok_is_numeric(uint32_t c);     /* general category N */
bool pb_tok_is_punctuation(uint32_t c); /* ASCII punctuation or general category P */

/* Byte-level alphabet: each byte has a printable character. */
uint32_t pb_tok_byte_char(uint8_t byte);
int pb_tok_char_byte(uint32_t code_point); /* -1 if it is no such character */

/* ---- patterns (tokenizer_regex.c) ----------------------------------------------------------------------------- */

typedef struct pb_tok_regex pb_tok_regex; /* a compiled regular expression in the dialect of tokenizer.json files */

/* One part of a text, cut by a pattern: parts lie side by side and cover the text; empty matches are kept. */
typedef struct pb_tok_cut {
    size_t start, end; /* bytes */
    bool is_match;
} pb_tok_cut;

typedef enum pb_tok_pattern_kind {
    PB_TOK_PATTERN_REGEX,
    PB_TOK_PATTERN_LITERAL,
    PB_TOK_PATTERN_CHARS /* each character for which is_member holds is one match */
} pb_tok_pattern_kind;

typedef struct pb_tok_pattern {
    pb_tok_pattern_kind kind;
    pb_tok_regex *regex;
    pb_tok_string literal;
    bool (*is_member)(uint32_t c);
} pb_tok_pattern;

/* Ruby-style (Oniguruma) source, as the files have it. */
pb_status pb_tok_regex_compile(pb_context *ctx, const char *source, size_t length, pb_tok_regex **out, pb_error *err);
/* PCRE2 source, for expressions of our own. */
pb_status pb_tok_regex_compile_pcre(pb_context *ctx, const char *source, size_t length, pb_tok_regex **out,
                                    pb_error *err);
void pb_tok_regex_free(pb_tok_regex *regex);
/* Append what PCRE2 is given for an Oniguruma source. */
pb_status pb_tok_regex_translate(const char *source, size_t length, pb_strbuf *out, pb_error *err);

/* Replace *cuts (items of pb_tok_cut) by the cuts of text, which must be valid UTF-8. */
pb_status pb_tok_pattern_cut(pb_context *ctx, const pb_tok_pattern *pattern, const char *text, size_t n,
                             pb_tok_buffer *cuts, pb_error *err);
void pb_tok_pattern_free(pb_tok_pattern *pattern);

/* ---- the parts of a tokenizer --------------------------------------------------------------------------------- */

typedef enum pb_tok_norm_kind {
    PB_TOK_NORM_NFC,
    PB_TOK_NORM_NFD,
    PB_TOK_NORM_NFKC,
    PB_TOK_NORM_NFKD,
    PB_TOK_NORM_LOWERCASE,
    PB_TOK_NORM_STRIP,
    PB_TOK_NORM_STRIP_ACCENTS,
    PB_TOK_NORM_NMT,
    PB_TOK_NORM_PREPEND,
    PB_TOK_NORM_REPLACE,
    PB_TOK_NORM_BYTE_LEVEL,
    PB_TOK_NORM_BERT_CLEAN, /* the four parts of BertNormalizer that have no name of their own */
    PB_TOK_NORM_BERT_CHINESE,
    PB_TOK_NORM_BERT_ACCENTS
} pb_tok_norm_kind;

typedef struct pb_tok_norm {
    pb_tok_norm_kind kind;
    bool left, right;       /* STRIP */
    pb_tok_pattern pattern; /* REPLACE */
    pb_tok_string content;  /* PREPEND, REPLACE */
} pb_tok_norm;

typedef enum pb_tok_behavior {
    PB_TOK_REMOVED,
    PB_TOK_ISOLATED,
    PB_TOK_MERGED_WITH_PREVIOUS,
    PB_TOK_MERGED_WITH_NEXT,
    PB_TOK_CONTIGUOUS
} pb_tok_behavior;

typedef enum pb_tok_prepend { PB_TOK_PREPEND_ALWAYS, PB_TOK_PREPEND_FIRST, PB_TOK_PREPEND_NEVER } pb_tok_prepend;

typedef enum pb_tok_pre_kind {
    PB_TOK_PRE_SPLIT,
    PB_TOK_PRE_BYTE_LEVEL,
    PB_TOK_PRE_METASPACE,
    PB_TOK_PRE_FIXED_LENGTH
} pb_tok_pre_kind;

typedef struct pb_tok_pre {
    pb_tok_pre_kind kind;
    pb_tok_pattern pattern; /* SPLIT; BYTE_LEVEL with its expression */
    pb_tok_behavior behavior;
    bool invert;           /* SPLIT: what the pattern does not match counts as match */
    bool add_prefix_space; /* BYTE_LEVEL */
    bool use_pattern;      /* BYTE_LEVEL, METASPACE: also split */
    pb_tok_prepend prepend;
    pb_tok_string replacement; /* METASPACE: one character */
    size_t fixed_length;       /* characters */
} pb_tok_pre;

typedef enum pb_tok_dec_kind {
    PB_TOK_DEC_BYTE_LEVEL,
    PB_TOK_DEC_METASPACE,
    PB_TOK_DEC_REPLACE,
    PB_TOK_DEC_BYTE_FALLBACK,
    PB_TOK_DEC_FUSE,
    PB_TOK_DEC_STRIP,
    PB_TOK_DEC_BPE
} pb_tok_dec_kind;

typedef struct pb_tok_dec {
    pb_tok_dec_kind kind;
    pb_tok_pattern pattern;
    pb_tok_string content;  /* REPLACE; STRIP: one character; METASPACE: its replacement; BPE: the suffix */
    bool drop_first_prefix; /* METASPACE */
    size_t start, stop;     /* STRIP: characters at most */
} pb_tok_dec;

typedef struct pb_tok_added {
    pb_tok_string content;    /* as in the file */
    pb_tok_string normalized; /* what the normaliser makes of it; content itself where flag normalized is off */
    int32_t id;
    bool single_word, lstrip, rstrip, is_normalized, special;
} pb_tok_added;

/* Leftmost-longest search among added tokens: a trie whose edges are (node << 8 | byte) -> node. */
typedef struct pb_tok_trie {
    pb_tok_pair_map edges;
    int32_t root[256];   /* -1: no token begins with this byte */
    pb_tok_buffer value; /* int32_t per node: index into added tokens, -1 */
} pb_tok_trie;

typedef struct pb_tok_bpe {
    pb_tok_string_map vocab;
    pb_tok_pair_map merges;   /* (left << 32 | right) -> rank, new id */
    int32_t by_char[512];     /* id of the one-character token of a code point below 512, -1 */
    int32_t byte_id[256];     /* id of <0xHH>, -1 */
    pb_tok_string continuing; /* prefix of all characters of a word but the first; mostly empty */
    pb_tok_string word_end;   /* suffix of the last; mostly empty */
    int32_t unk;              /* -1: none */
    bool fuse_unk, byte_fallback, ignore_merges;
} pb_tok_bpe;

struct pb_tokenizer {
    atomic_int references;
    pb_context *ctx;
    pb_tok_buffer arena_blocks; /* char *: blocks of strings, freed with the tokenizer */
    char *arena;                /* the block in use */
    size_t arena_left;

    pb_tok_bpe bpe;
    pb_tok_buffer tokens;      /* pb_tok_string per id, text NULL in holes: the file's spelling */
    pb_tok_buffer added;       /* pb_tok_added */
    pb_tok_buffer added_of_id; /* int32_t per id: index into added, -1 */
    pb_tok_buffer skipped;     /* bool per id: decode leaves it out on demand */
    pb_tok_string_map added_by_content;
    pb_tok_trie raw_trie, normalized_trie;

    pb_tok_buffer norms; /* pb_tok_norm */
    pb_tok_buffer pres;  /* pb_tok_pre */
    pb_tok_buffer decs;  /* pb_tok_dec */
    bool has_decoder;    /* without one decode joins tokens by a space */

    pb_tok_buffer prefix, suffix; /* int32_t: special tokens by default */
    int32_t bos, eos;             /* -1: not known */
    const char *kind;
};

#define PB_TOK_COUNT(buffer, type) ((buffer).length / sizeof(type))
#define PB_TOK_ITEMS(buffer, type) ((type *)(void *)(buffer).data)

/* A copy of the bytes that lives as long as t; text NULL when there is no memory. */
pb_tok_string pb_tok_keep(pb_tokenizer *t, const char *bytes, size_t n);

/* ---- pieces of the text under work ---------------------------------------------------------------------------- */

typedef struct pb_tok_piece {
    size_t start, length; /* bytes of pieces.text */
    int32_t id;           /* of an added token; -1: text still to be tokenised */
    bool at_start;        /* of the whole raw text */
} pb_tok_piece;

typedef struct pb_tok_pieces {
    pb_context *ctx;
    const char *text;       /* the caller's, or one of the two buffers below */
    pb_tok_buffer spans;    /* pb_tok_piece, in order, none empty */
    pb_tok_buffer next;     /* the spans that the running stage makes */
    pb_tok_buffer store[2]; /* texts of the last and of the running stage that changes text */
    int active;             /* the store that the running stage writes to */
    pb_tok_buffer cuts;     /* pb_tok_cut, scratch */
    pb_tok_buffer scratch[2];
} pb_tok_pieces;

void pb_tok_pieces_free(pb_tok_pieces *p);
bool pb_tok_pieces_add(pb_tok_pieces *p, size_t start, size_t length, int32_t id, bool at_start); /* to p->next */
void pb_tok_pieces_swap(pb_tok_pieces *p);      /* the running stage is done, its spans become p->spans */
void pb_tok_pieces_swap_text(pb_tok_pieces *p); /* the same, and its store becomes p->text */

/* ---- stages --------------------------------------------------------------------------------------------------- */

pb_status pb_tok_trie_add(pb_tok_trie *trie, pb_context *ctx, pb_tok_string token, int32_t index, pb_error *err);
pb_status pb_tok_added_split(const pb_tokenizer *t, const pb_tok_trie *trie, pb_tok_pieces *p, pb_error *err);

pb_status pb_tok_normalize(const pb_tokenizer *t, pb_tok_pieces *p, pb_error *err);
/* Append the normal form of text to *out. */
pb_status pb_tok_normalize_text(const pb_tokenizer *t, const char *text, size_t n, pb_tok_buffer *out,
                                pb_tok_pieces *scratch, pb_error *err);

pb_status pb_tok_pretokenize(const pb_tokenizer *t, pb_tok_pieces *p, pb_error *err);
/* Append the pieces into which cuts fall by behavior as pb_tok_cut (is_match is not used). For tests and stages. */
pb_status pb_tok_behave(pb_context *ctx, const pb_tok_buffer *cuts, pb_tok_behavior behavior, bool invert,
                        pb_tok_buffer *out, pb_error *err);

/* Append int32_t ids of all pieces. */
pb_status pb_tok_bpe_encode(const pb_tokenizer *t, pb_tok_pieces *p, pb_tok_buffer *ids, pb_error *err);

/* ---- loading -------------------------------------------------------------------------------------------------- */

pb_status pb_tok_load_normalizer(pb_tokenizer *t, json_t *json, const char *where, pb_error *err);
pb_status pb_tok_load_pretokenizer(pb_tokenizer *t, json_t *json, const char *where, pb_error *err);
pb_status pb_tok_load_decoder(pb_tokenizer *t, json_t *json, const char *where, pb_error *err);
pb_status pb_tok_load_postprocessor(pb_tokenizer *t, json_t *json, const char *where, pb_error *err);

enum { PB_TOK_MAX_ID = 16777215 }; /* a damaged file must not make us allocate gigabytes for ids in between */

void pb_tok_destroy(pb_tokenizer *t);
pb_status pb_tok_load(pb_tokenizer *t, const char *path, pb_error *err); /* t is zeroed but for references and ctx */
/* The same from what would be in tokenizer.json and tokenizer_config.json (NULL: none); where: for messages. */
pb_status pb_tok_load_json(pb_tokenizer *t, json_t *root, const json_t *config, const char *where, pb_error *err);
pb_status pb_tokenizer_from_json(pb_context *ctx, json_t *root, const json_t *config, const char *where,
                                 pb_tokenizer **out, pb_error *err);

#endif
