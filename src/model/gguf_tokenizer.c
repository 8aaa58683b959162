/* GGUF's tokenizer -> tokenizer.json. Byte-level BPE ("gpt2") has its merges in the file, but only the name of its way of cutting
 * text into words; SentencePiece's BPE ("llama") has scores, of which merges are made. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "model/gguf.h"

enum { LONGEST_TOKEN = 512 /* bytes */, TOKENS_MAX = 1 << 22 };

/* llama.cpp's types of tokens. */
enum { TOKEN_NORMAL = 1, TOKEN_CONTROL = 3, TOKEN_USER = 4 };

/* ---- ways of cutting text --------------------------------------------------------------------------------------------- */

/* A contraction, letters, digits, others, space: each family's pattern differs in the digits' part. */
#define SPLIT_BY(digits)                                                                                               \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"behavior\":\"Isolated\",\"invert\":false,"        \
    "\"pattern\":{\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|" digits            \
    "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}},"                        \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}]}"
#define BYTE_LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}"
#define SINGLE_DIGITS                                                                                                  \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\",\"individual_digits\":true}," BYTE_LEVEL "]}"

typedef struct cutting {
    const char *name; /* tokenizer.ggml.pre */
    const char *pre_tokenizer;
    bool nfc, ignore_merges, bos; /* bos: added where the file does not say */
} cutting;

static const cutting cuttings[] = {
    {"gpt-2", BYTE_LEVEL, false, false, false},
    {"phi-2", BYTE_LEVEL, false, false, false},
    {"olmo", BYTE_LEVEL, false, false, false},
    {"mpt", BYTE_LEVEL, false, false, false},
    {"llama-bpe", SPLIT_BY("\\\\p{N}{1,3}"), false, true, true},
    {"llama3", SPLIT_BY("\\\\p{N}{1,3}"), false, true, true},
    {"llama-v3", SPLIT_BY("\\\\p{N}{1,3}"), false, true, true},
    {"dbrx", SPLIT_BY("\\\\p{N}{1,3}"), false, false, false},
    {"smaug-bpe", SPLIT_BY("\\\\p{N}{1,3}"), false, true, false},
    {"qwen2", SPLIT_BY("\\\\p{N}"), true, false, false},
    {"stablelm2", SPLIT_BY("\\\\p{N}"), true, false, false},
    {"starcoder", SINGLE_DIGITS, false, false, false},
    {"refact", SINGLE_DIGITS, false, false, false},
    {"smollm", SINGLE_DIGITS, false, false, false},
    {"command-r", SINGLE_DIGITS, true, false, true},
};

static const cutting *find_cutting(const char *name, size_t length) {
    for (size_t i = 0; i < sizeof cuttings / sizeof cuttings[0]; i++) {
        if (strlen(cuttings[i].name) == length && memcmp(cuttings[i].name, name, length) == 0)
            return &cuttings[i];
    }
    return NULL;
}

/* ---- what the parts share --------------------------------------------------------------------------------------------- */

typedef struct builder {
    const pb_gguf_model *model;
    const pb_gguf_value *tokens, *types;
    json_t *vocab; /* token -> id */
    json_t *root;
    json_t *config; /* tokenizer_config.json */
    bool failed;    /* jansson had no memory */
} builder;

static pb_status wrong(const builder *b, const char *problem, pb_error *err) {
    return pb_fail(err, PB_ERR_FORMAT, "%s: tokenizer.ggml.%s", b->model->path, problem);
}

static const pb_gguf_value *get(const builder *b, const char *name) {
    char key[96];
    snprintf(key, sizeof key, "tokenizer.ggml.%s", name);
    return pb_gguf_get(b->model->file, key);
}

/* Takes the value over. */
static void put(builder *b, json_t *object, const char *key, json_t *value) {
    b->failed = json_object_set_new(object, key, value) != 0 || b->failed;
}

static void put_parsed(builder *b, json_t *object, const char *key, const char *text) {
    put(b, object, key, json_loads(text, 0, NULL));
}

static int64_t type_of(const builder *b, uint64_t id) {
    int64_t type = TOKEN_NORMAL;
    if (b->types)
        (void)pb_gguf_integer(b->types, id, &type);
    return type;
}

/* Text of token `id`, NUL-terminated, in the vocabulary's own memory; NULL: there is none. */
static const char *token_text(const builder *b, const char *const *texts, const char *key, int64_t *id) {
    *id = -1;
    if (!pb_gguf_integer(get(b, key), 0, id) || *id < 0 || (uint64_t)*id >= b->tokens->count)
        return NULL;
    return texts[*id];
}

/* ---- vocabulary ------------------------------------------------------------------------------------------------------- */

static pb_status read_tokens(builder *b, const char **texts, pb_error *err) {
    const unsigned char *at = b->tokens->data;
    for (uint64_t i = 0; i < b->tokens->count; i++) {
        const char *bytes;
        size_t length = pb_gguf_next_text(&at, &bytes);
        char text[LONGEST_TOKEN + 1];
        if (length > LONGEST_TOKEN || memchr(bytes, '\0', length))
            return pb_fail(err, PB_ERR_FORMAT,
                           "%s: tokenizer.ggml.tokens: token %llu has %zu bytes or a zero byte in it; at most %d bytes "
                           "were expected",
                           b->model->path, (unsigned long long)i, length, LONGEST_TOKEN);
        memcpy(text, bytes, length);
        text[length] = '\0';
        if (json_object_get(b->vocab, text))
            return pb_fail(err, PB_ERR_FORMAT, "%s: tokenizer.ggml.tokens: token %llu, '%.100s', is there twice",
                           b->model->path, (unsigned long long)i, text);
        json_t *id = json_integer((json_int_t)i);
        if (json_object_set_new(b->vocab, text, id) != 0)
            return pb_fail(err, PB_ERR_FORMAT, "%s: tokenizer.ggml.tokens: token %llu is not UTF-8", b->model->path,
                           (unsigned long long)i);
    }
    const char *key;
    json_t *value;
    json_object_foreach(b->vocab, key, value) texts[json_integer_value(value)] = key;
    return PB_OK;
}

static void add_added(builder *b, const char *const *texts) {
    json_t *list = json_array();
    for (uint64_t i = 0; i < b->tokens->count; i++) {
        int64_t type = type_of(b, i);
        if (type != TOKEN_CONTROL && type != TOKEN_USER)
            continue;
        json_t *token =
            json_pack("{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)i, "content", texts[i], "single_word", 0,
                      "lstrip", 0, "rstrip", 0, "normalized", 0, "special", type == TOKEN_CONTROL);
        b->failed = json_array_append_new(list, token) != 0 || b->failed;
    }
    put(b, b->root, "added_tokens", list);
}

/* ---- merges ----------------------------------------------------------------------------------------------------------- */

static pb_status read_merges(builder *b, json_t *merges, pb_error *err) {
    const pb_gguf_value *list = get(b, "merges");
    if (!list || !list->list || list->type != PB_GGUF_TEXT)
        return wrong(b, "merges must be a list of texts", err);
    const unsigned char *at = list->data;
    for (uint64_t i = 0; i < list->count; i++) {
        const char *text;
        size_t length = pb_gguf_next_text(&at, &text);
        if (json_array_append_new(merges, json_stringn(text, length)) != 0)
            return wrong(b, "merges hold a text that is not UTF-8", err);
    }
    return PB_OK;
}

/* A token that two others make, and where it is cut. */
typedef struct pair {
    double score;
    const char *token;
    size_t left;                 /* bytes */
    int left_signs, right_signs; /* characters */
    int64_t left_id, right_id;
} pair;

/* The best score first; of equal ones the longer left part, the longer right part, the earlier tokens: the order in which
 * transformers lists the merges that it makes of a SentencePiece model. */
static int compare_pairs(const void *a, const void *b) {
    const pair *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    if (x->left_signs != y->left_signs)
        return y->left_signs - x->left_signs;
    if (x->right_signs != y->right_signs)
        return y->right_signs - x->right_signs;
    int order = strcmp(x->token, y->token);
    if (order == 0)
        order = x->left_id != y->left_id ? (x->left_id < y->left_id ? -1 : 1)
                                         : (x->right_id > y->right_id) - (x->right_id < y->right_id);
    return order;
}

typedef struct pair_list {
    pair *items;
    size_t n, capacity;
} pair_list;

static bool append_pair(pb_context *ctx, pair_list *list, pair item) {
    if (list->n == list->capacity) {
        size_t more = list->capacity ? 2 * list->capacity : 1024;
        pair *items = pb_realloc(ctx, list->items, more, sizeof *items);
        if (!items)
            return false;
        list->items = items;
        list->capacity = more;
    }
    list->items[list->n++] = item;
    return true;
}

static bool begins_sign(char c) { return ((unsigned char)c & 0xc0u) != 0x80u; }

/* All ways of cutting a token in two others. */
static bool cut_token(const builder *b, const char *token, double score, pair_list *list) {
    char left[LONGEST_TOKEN + 1];
    size_t length = strlen(token);
    int signs = 0, before = 0;
    for (size_t i = 0; i < length; i++)
        signs += begins_sign(token[i]);
    for (size_t i = 1; i < length; i++) {
        before += begins_sign(token[i - 1]);
        if (!begins_sign(token[i]))
            continue;
        memcpy(left, token, i);
        left[i] = '\0';
        const json_t *first = json_object_get(b->vocab, left), *second = json_object_get(b->vocab, token + i);
        pair item = {score, token, i, before, signs - before, 0, 0};
        if (!first || !second)
            continue;
        item.left_id = json_integer_value(first);
        item.right_id = json_integer_value(second);
        if (!append_pair(b->model->ctx, list, item))
            return false;
    }
    return true;
}

static pb_status merges_from_scores(builder *b, const char *const *texts, json_t *merges, pb_error *err) {
    const pb_gguf_value *scores = get(b, "scores");
    pb_context *ctx = b->model->ctx;
    pair_list list = {0};
    pb_status status = PB_OK;
    for (uint64_t i = 0; status == PB_OK && i < b->tokens->count; i++) {
        double score = 0.0;
        int64_t type = type_of(b, i);
        if (!pb_gguf_number(scores, i, &score) || score != score)
            status = wrong(b, "scores must hold one number for each token", err);
        else if ((type == TOKEN_NORMAL || type == TOKEN_USER) && !cut_token(b, texts[i], score, &list))
            status = pb_fail_memory(err, ctx, list.n * sizeof *list.items, "a tokenizer");
        if (status == PB_OK)
            status = pb_context_check(ctx, err);
    }
    if (status == PB_OK && list.n > 1)
        qsort(list.items, list.n, sizeof *list.items, compare_pairs);
    for (size_t i = 0; status == PB_OK && i < list.n; i++) {
        const pair *p = &list.items[i];
        json_t *two = json_pack("[s%, s]", p->token, p->left, p->token + p->left);
        b->failed = json_array_append_new(merges, two) != 0 || b->failed;
    }
    pb_free(list.items);
    return status;
}

/* ---- the two kinds ---------------------------------------------------------------------------------------------------- */

/* Token `key` of the file, if it has it, at the end of a template. */
static void add_special(builder *b, const char *const *texts, const char *key, json_t *single, json_t *special) {
    int64_t id;
    const char *text = token_text(b, texts, key, &id);
    if (!text)
        return;
    json_array_append_new(single, json_pack("{s:{s:s, s:i}}", "SpecialToken", "id", text, "type_id", 0));
    put(b, special, text, json_pack("{s:s, s:[I], s:[s]}", "id", text, "ids", (json_int_t)id, "tokens", text));
}

/* Which tokens are BOS and EOS; null where the file names none. */
static void add_names(builder *b, const char *const *texts) {
    static const char *const keys[][2] = {{"bos_token_id", "bos_token"}, {"eos_token_id", "eos_token"}};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        int64_t id;
        const char *text = token_text(b, texts, keys[i][0], &id);
        put(b, b->config, keys[i][1], text ? json_string(text) : json_null());
    }
}

/* BOS and EOS around the text, as the file says. */
static void add_template(builder *b, const char *const *texts, bool bos, bool eos) {
    (void)pb_gguf_bool(get(b, "add_bos_token"), &bos);
    (void)pb_gguf_bool(get(b, "add_eos_token"), &eos);
    json_t *single = json_array(), *special = json_object();
    if (bos)
        add_special(b, texts, "bos_token_id", single, special);
    json_array_append_new(single, json_pack("{s:{s:s, s:i}}", "Sequence", "id", "A", "type_id", 0));
    if (eos)
        add_special(b, texts, "eos_token_id", single, special);
    if (json_object_size(special) > 0) {
        json_t *two = json_copy(single);
        json_array_append_new(two, json_pack("{s:{s:s, s:i}}", "Sequence", "id", "B", "type_id", 1));
        put(b, b->root, "post_processor",
            json_pack("{s:s, s:O, s:o, s:O}", "type", "TemplateProcessing", "single", single, "pair", two,
                      "special_tokens", special));
    }
    json_decref(single);
    json_decref(special);
}

static pb_status build_byte_level(builder *b, const cutting *how, const char *const *texts, json_t *model,
                                  pb_error *err) {
    json_t *merges = json_array();
    pb_status status = read_merges(b, merges, err);
    put(b, model, "merges", merges);
    put(b, model, "ignore_merges", json_boolean(how->ignore_merges));
    put(b, b->root, "normalizer", how->nfc ? json_pack("{s:s}", "type", "NFC") : json_null());
    put_parsed(b, b->root, "pre_tokenizer", how->pre_tokenizer);
    put_parsed(b, b->root, "decoder", BYTE_LEVEL);
    add_template(b, texts, how->bos, false);
    return status;
}

static pb_status build_pieces(builder *b, const char *const *texts, json_t *model, pb_error *err) {
    bool prefix = true;
    int64_t id;
    json_t *merges = json_array();
    pb_status status = merges_from_scores(b, texts, merges, err);
    put(b, model, "merges", merges);
    put(b, model, "byte_fallback", json_true());
    put(b, model, "fuse_unk", json_true());
    const char *unknown = token_text(b, texts, "unknown_token_id", &id);
    if (unknown)
        put(b, model, "unk_token", json_string(unknown));
    (void)pb_gguf_bool(get(b, "add_space_prefix"), &prefix);
    put_parsed(b, b->root, "normalizer",
               prefix ? "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\\u2581\"},"
                        "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\\u2581\"}]}"
                      : "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\\u2581\"}");
    put_parsed(b, b->root, "decoder",
               prefix
                   ? "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\\u2581\"},"
                     "\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},"
                     "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]}"
                   : "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\\u2581\"},"
                     "\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}]}");
    add_template(b, texts, true, false);
    return status;
}

/* ---- all together ----------------------------------------------------------------------------------------------------- */

/* Which kind it is; *how NULL: pieces. False: none that is read, which has been said. */
static bool choose_kind(const builder *b, const cutting **how) {
    const char *kind = "", *pre = "";
    size_t length = 0, pre_length = 0;
    if (!pb_gguf_text(get(b, "model"), &kind, &length))
        return false;
    *how = NULL;
    if (length == 5 && memcmp(kind, "llama", 5) == 0 && get(b, "scores"))
        return true;
    bool named = pb_gguf_text(get(b, "pre"), &pre, &pre_length);
    if (!named && strcmp(b->model->arch->name, "gpt2") == 0) {
        pre = "gpt-2"; /* files from before there was a name */
        pre_length = 5;
    }
    if (length == 4 && memcmp(kind, "gpt2", 4) == 0)
        *how = find_cutting(pre, pre_length);
    if (*how)
        return true;
    pb_context_warn(b->model->ctx,
                    "%s: its tokenizer (%.*s, %.*s) is not read from GGUF: the model takes token ids only; a "
                    "tokenizer.json beside the file is used where there is one",
                    b->model->path, length < 40 ? (int)length : 40, kind, pre_length < 40 ? (int)pre_length : 40,
                    pre_length ? pre : "unnamed");
    return false;
}

static pb_status build(builder *b, const cutting *how, pb_error *err) {
    size_t n = (size_t)b->tokens->count;
    const char **texts = pb_alloc(b->model->ctx, n, sizeof *texts);
    json_t *model = json_object();
    b->vocab = json_object();
    if (!texts || !b->vocab || !model) {
        pb_free(texts);
        json_decref(model);
        return pb_fail_memory(err, b->model->ctx, n * sizeof *texts, "a tokenizer");
    }
    put(b, b->root, "version", json_string("1.0"));
    put(b, b->root, "model", json_incref(model));
    put(b, model, "type", json_string("BPE"));
    pb_status status = read_tokens(b, texts, err);
    if (status == PB_OK) {
        add_added(b, texts);
        add_names(b, texts);
        status = how ? build_byte_level(b, how, texts, model, err) : build_pieces(b, texts, model, err);
    }
    put(b, model, "vocab", json_incref(b->vocab));
    pb_free(texts);
    json_decref(model);
    if (status == PB_OK && b->failed)
        status = pb_fail_memory(err, b->model->ctx, n, "a tokenizer");
    return status;
}

pb_status pb_gguf_model_tokenizer(const pb_gguf_model *model, json_t **out, json_t **config, pb_error *err) {
    const cutting *how = NULL;
    builder b = {.model = model};
    *out = *config = NULL;
    if (!choose_kind(&b, &how))
        return PB_OK;
    b.tokens = get(&b, "tokens");
    b.types = get(&b, "token_type");
    if (!b.tokens || !b.tokens->list || b.tokens->type != PB_GGUF_TEXT || !b.tokens->count ||
        b.tokens->count > TOKENS_MAX)
        return wrong(&b, "tokens must be a list of texts", err);
    if (b.types && b.types->count != b.tokens->count)
        return wrong(&b, "token_type must have one number for each token", err);
    b.root = json_object();
    b.config = json_object();
    pb_status status = b.root && b.config ? build(&b, how, err) : pb_fail_memory(err, model->ctx, 0, "a tokenizer");
    json_decref(b.vocab);
    if (status == PB_OK) {
        *out = b.root;
        *config = b.config;
    } else {
        json_decref(b.root);
        json_decref(b.config);
    }
    return status;
}
