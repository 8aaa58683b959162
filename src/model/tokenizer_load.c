/* A tokenizer from tokenizer.json, and from tokenizer_config.json beside it; see tokenizer_internal.h.
 *
 * "truncation" and "padding" are left aside: they are settings of a training run, and transformers resets them too. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "model/tokenizer_internal.h"

enum { MAX_FILE = 256 * 1024 * 1024, MAX_CONFIG = 16 * 1024 * 1024, ARENA_BLOCK = 64 * 1024 };

static pb_status no_memory(const pb_tokenizer *t, pb_error *err) {
    return pb_fail_memory(err, t->ctx, 0, "a tokenizer");
}

pb_tok_string pb_tok_keep(pb_tokenizer *t, const char *bytes, size_t n) {
    if (n + 1 > t->arena_left) {
        size_t size = n + 1 > ARENA_BLOCK ? n + 1 : ARENA_BLOCK;
        char *block = pb_alloc(t->ctx, size, 1);
        if (!block || !pb_tok_buffer_append(&t->arena_blocks, t->ctx, &block, sizeof block)) {
            pb_free(block);
            return (pb_tok_string){0};
        }
        t->arena = block;
        t->arena_left = size;
    }
    pb_tok_string kept = {.text = t->arena, .length = n};
    memcpy(t->arena, bytes, n);
    t->arena[n] = '\0';
    t->arena += n + 1;
    t->arena_left -= n + 1;
    return kept;
}

/* ---- vocabulary ----------------------------------------------------------------------------------------------- */

/* Make `token` the spelling of `id`, with holes in between. */
static bool set_token(pb_tokenizer *t, int32_t id, pb_tok_string token) {
    static const pb_tok_string hole = {0};
    int32_t none = -1;
    while (PB_TOK_COUNT(t->tokens, pb_tok_string) <= (size_t)id)
        if (!pb_tok_buffer_append(&t->tokens, t->ctx, &hole, sizeof hole))
            return false;
    while (PB_TOK_COUNT(t->added_of_id, int32_t) <= (size_t)id)
        if (!pb_tok_buffer_append(&t->added_of_id, t->ctx, &none, sizeof none))
            return false;
    PB_TOK_ITEMS(t->tokens, pb_tok_string)[id] = token;
    return true;
}

static pb_status load_vocab(pb_tokenizer *t, json_t *vocab, pb_error *err) {
    const char *key;
    json_t *value;
    if (!pb_tok_string_map_reserve(&t->bpe.vocab, t->ctx, json_object_size(vocab)))
        return no_memory(t, err);
    json_object_foreach(vocab, key, value) {
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || id > PB_TOK_MAX_ID) {
            char got[64];
            return pb_fail(err, PB_ERR_FORMAT,
                           "model.vocab[\"%.100s\"]: a token id must be an integer from 0 to %d, got %s", key,
                           PB_TOK_MAX_ID, pb_json_text(value, got, sizeof got));
        }
        pb_tok_string token = pb_tok_keep(t, key, strlen(key));
        if (!token.text || !set_token(t, (int32_t)id, token) ||
            !pb_tok_string_map_set(&t->bpe.vocab, t->ctx, token, (int32_t)id))
            return no_memory(t, err);
    }
    return PB_OK;
}

/* ids of characters and bytes that words are first cut into */
static void fill_symbol_tables(pb_tok_bpe *bpe) {
    for (uint32_t c = 0; c < 512; c++) {
        char text[4];
        size_t n = pb_tok_utf8_put(c, text);
        bpe->by_char[c] = pb_tok_string_map_get(&bpe->vocab, text, n);
    }
    for (unsigned byte = 0; byte < 256; byte++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", byte);
        bpe->byte_id[byte] = pb_tok_string_map_get(&bpe->vocab, text, 6);
    }
}

/* ---- merges --------------------------------------------------------------------------------------------------- */

static pb_status find_merge_token(const pb_tok_bpe *bpe, size_t index, const char *text, size_t n, int32_t *id,
                                  pb_error *err) {
    *id = pb_tok_string_map_get(&bpe->vocab, text, n);
    if (*id >= 0)
        return PB_OK;
    return pb_fail(err, PB_ERR_FORMAT, "model.merges[%zu]: the token \"%.*s\" is not in the vocabulary", index,
                   (int)(n < 200 ? n : 200), text);
}

static pb_status add_merge(pb_tokenizer *t, size_t index, pb_tok_string left, pb_tok_string right,
                           pb_tok_buffer *joined, pb_error *err) {
    pb_tok_bpe *bpe = &t->bpe;
    int32_t left_id, right_id, id;
    PB_TRY(find_merge_token(bpe, index, left.text, left.length, &left_id, err));
    PB_TRY(find_merge_token(bpe, index, right.text, right.length, &right_id, err));
    size_t skip = bpe->continuing.length;
    if (right.length < skip)
        return pb_fail(err, PB_ERR_FORMAT, "model.merges[%zu]: \"%s\" is shorter than continuing_subword_prefix \"%s\"",
                       index, right.text, bpe->continuing.text);
    joined->length = 0;
    if (!pb_tok_buffer_append(joined, t->ctx, left.text, left.length) ||
        !pb_tok_buffer_append(joined, t->ctx, right.text + skip, right.length - skip))
        return no_memory(t, err);
    PB_TRY(find_merge_token(bpe, index, joined->data, joined->length, &id, err));
    uint64_t key = (uint64_t)(uint32_t)left_id << 32 | (uint32_t)right_id;
    if (!pb_tok_pair_map_set(&bpe->merges, t->ctx, key, (uint32_t)index, (uint32_t)id))
        return no_memory(t, err);
    return PB_OK;
}

/* "left right" or ["left", "right"]; *skipped: the first line of an old merges.txt. */
static pb_status read_merge(const json_t *merge, size_t index, pb_tok_string *left, pb_tok_string *right, bool *skipped,
                            pb_error *err) {
    char got[80];
    const json_t *a = json_array_get(merge, 0), *b = json_array_get(merge, 1);
    *skipped = false;
    if (json_array_size(merge) == 2 && json_is_string(a) && json_is_string(b)) {
        *left = (pb_tok_string){json_string_value(a), json_string_length(a)};
        *right = (pb_tok_string){json_string_value(b), json_string_length(b)};
        return PB_OK;
    }
    const char *text = json_string_value(merge);
    size_t n = json_string_length(merge);
    const char *space = text ? memchr(text, ' ', n) : NULL;
    *skipped = text && strncmp(text, "#version", 8) == 0;
    if (*skipped)
        return PB_OK;
    size_t first = space ? (size_t)(space - text) : 0;
    if (!space || memchr(space + 1, ' ', n - first - 1))
        return pb_fail(err, PB_ERR_FORMAT,
                       "model.merges[%zu] must be two tokens, as \"left right\" or [\"left\", \"right\"], got %s",
                       index, pb_json_text(merge, got, sizeof got));
    *left = (pb_tok_string){text, first};
    *right = (pb_tok_string){space + 1, n - first - 1};
    return PB_OK;
}

static pb_status load_merges(pb_tokenizer *t, const json_t *merges, pb_error *err) {
    pb_tok_buffer joined = {0};
    size_t n = json_array_size(merges), rank = 0;
    pb_status status = PB_OK;
    if (n > INT32_MAX || !pb_tok_pair_map_reserve(&t->bpe.merges, t->ctx, n))
        return no_memory(t, err);
    for (size_t i = 0; i < n && status == PB_OK; i++) {
        pb_tok_string left = {0}, right = {0};
        bool skipped;
        status = read_merge(json_array_get(merges, i), i, &left, &right, &skipped, err);
        if (status == PB_OK && !skipped)
            status = add_merge(t, rank++, left, right, &joined, err);
    }
    pb_tok_buffer_free(&joined);
    return status;
}

/* ---- model ---------------------------------------------------------------------------------------------------- */

static pb_status check_model_type(const json_t *model, pb_error *err) {
    const char *type;
    PB_TRY(pb_json_string_or(model, "model", "type", json_object_get(model, "merges") ? "BPE" : NULL, &type, err));
    if (!type)
        return pb_fail(err, PB_ERR_FORMAT, "model: it has neither \"type\" nor \"merges\"");
    if (strcmp(type, "BPE") == 0)
        return PB_OK;
    return pb_fail(err, PB_ERR_UNSUPPORTED,
                   "model: type \"%s\" is not supported; Patchbay reads BPE (byte-level, or with byte fallback)", type);
}

static pb_status load_affix(pb_tokenizer *t, const json_t *model, const char *key, pb_tok_string *out, pb_error *err) {
    const char *text;
    PB_TRY(pb_json_string_or(model, "model", key, "", &text, err));
    *out = pb_tok_keep(t, text, strlen(text));
    return out->text ? PB_OK : no_memory(t, err);
}

static pb_status load_unknown(pb_tokenizer *t, const json_t *model, pb_error *err) {
    const char *unk;
    PB_TRY(pb_json_string_or(model, "model", "unk_token", NULL, &unk, err));
    t->bpe.unk = unk ? pb_tok_string_map_get(&t->bpe.vocab, unk, strlen(unk)) : -1;
    if (unk && t->bpe.unk < 0)
        return pb_fail(err, PB_ERR_FORMAT, "model: the vocabulary lacks the unk_token \"%s\"", unk);
    return PB_OK;
}

static pb_status load_model(pb_tokenizer *t, const json_t *root, pb_error *err) {
    const json_t *model, *vocab, *merges;
    double dropout;
    pb_tok_bpe *bpe = &t->bpe;
    PB_TRY(pb_json_object(root, "the file", "model", &model, err));
    PB_TRY(check_model_type(model, err));
    PB_TRY(pb_json_object(model, "model", "vocab", &vocab, err));
    PB_TRY(pb_json_array(model, "model", "merges", &merges, err));
    PB_TRY(pb_json_bool_or(model, "model", "fuse_unk", false, &bpe->fuse_unk, err));
    PB_TRY(pb_json_bool_or(model, "model", "byte_fallback", false, &bpe->byte_fallback, err));
    PB_TRY(pb_json_bool_or(model, "model", "ignore_merges", false, &bpe->ignore_merges, err));
    PB_TRY(pb_json_number_or(model, "model", "dropout", 0, &dropout, err));
    if (dropout > 0)
        pb_context_warn(t->ctx, "tokenizer: model.dropout %g is ignored, it would make ids random", dropout);
    PB_TRY(load_affix(t, model, "continuing_subword_prefix", &bpe->continuing, err));
    PB_TRY(load_affix(t, model, "end_of_word_suffix", &bpe->word_end, err));
    PB_TRY(load_vocab(t, json_object_get(model, "vocab"), err));
    PB_TRY(load_unknown(t, model, err));
    fill_symbol_tables(bpe);
    return load_merges(t, merges, err);
}

/* ---- added tokens --------------------------------------------------------------------------------------------- */

static pb_status read_added(pb_tokenizer *t, const json_t *json, const char *where, pb_tok_added *a, pb_error *err) {
    const json_t *content = json_object_get(json, "content");
    int64_t id;
    if (!json_is_object(json) || !json_is_string(content))
        return pb_fail(err, PB_ERR_FORMAT, "%s must be an object with a string \"content\"", where);
    PB_TRY(pb_json_int(json, where, "id", 0, PB_TOK_MAX_ID, &id, err));
    PB_TRY(pb_json_bool_or(json, where, "single_word", false, &a->single_word, err));
    PB_TRY(pb_json_bool_or(json, where, "lstrip", false, &a->lstrip, err));
    PB_TRY(pb_json_bool_or(json, where, "rstrip", false, &a->rstrip, err));
    PB_TRY(pb_json_bool_or(json, where, "special", false, &a->special, err));
    PB_TRY(pb_json_bool_or(json, where, "normalized", !a->special, &a->is_normalized, err));
    a->id = (int32_t)id;
    a->content = pb_tok_keep(t, json_string_value(content), json_string_length(content));
    return a->content.text ? PB_OK : no_memory(t, err);
}

static pb_status normalize_added(pb_tokenizer *t, pb_tok_added *a, pb_error *err) {
    a->normalized = a->content;
    if (!a->is_normalized || t->norms.length == 0)
        return PB_OK;
    pb_tok_buffer out = {0};
    pb_tok_pieces scratch = {.ctx = t->ctx};
    pb_status status = pb_tok_normalize_text(t, a->content.text, a->content.length, &out, &scratch, err);
    if (status == PB_OK) {
        a->normalized = pb_tok_keep(t, out.data ? out.data : "", out.length);
        status = a->normalized.text ? PB_OK : no_memory(t, err);
    }
    pb_tok_buffer_free(&out);
    pb_tok_pieces_free(&scratch);
    return status;
}

/* Give a token its id as the library does: the vocabulary's or an earlier added token's if that has the content, else
 * the next free one, whatever the file says. */
static pb_status add_added(pb_tokenizer *t, pb_tok_added *a, int32_t *next_id, pb_error *err) {
    int32_t said = a->id, known = pb_tok_string_map_get(&t->added_by_content, a->content.text, a->content.length);
    if (known < 0)
        known = pb_tok_string_map_get(&t->bpe.vocab, a->content.text, a->content.length);
    if (known < 0 && *next_id > PB_TOK_MAX_ID)
        return pb_fail(err, PB_ERR_FORMAT, "added_tokens: there are more than %d tokens", PB_TOK_MAX_ID);
    a->id = known >= 0 ? known : (*next_id)++;
    if (a->id != said)
        pb_context_warn(t->ctx,
                        "tokenizer: the added token \"%s\" says id %d but gets %d, as in the tokenizers library",
                        a->content.text, (int)said, (int)a->id);
    PB_TRY(normalize_added(t, a, err));
    if (!set_token(t, a->id, a->content) || !pb_tok_string_map_set(&t->added_by_content, t->ctx, a->content, a->id))
        return no_memory(t, err);
    int32_t *index = &PB_TOK_ITEMS(t->added_of_id, int32_t)[a->id];
    if (*index >= 0) { /* given twice: the later flags hold */
        PB_TOK_ITEMS(t->added, pb_tok_added)[*index] = *a;
        return PB_OK;
    }
    *index = (int32_t)PB_TOK_COUNT(t->added, pb_tok_added);
    return pb_tok_buffer_append(&t->added, t->ctx, a, sizeof *a) ? PB_OK : no_memory(t, err);
}

static pb_status load_added(pb_tokenizer *t, const json_t *root, pb_error *err) {
    const json_t *list;
    PB_TRY(pb_json_array_or(root, "the file", "added_tokens", &list, err));
    int32_t next_id = (int32_t)t->bpe.vocab.used;
    for (size_t i = 0; i < json_array_size(list); i++) {
        char where[64];
        pb_tok_added a = {0};
        snprintf(where, sizeof where, "added_tokens[%zu]", i);
        PB_TRY(read_added(t, json_array_get(list, i), where, &a, err));
        if (a.content.length)
            PB_TRY(add_added(t, &a, &next_id, err));
    }
    const pb_tok_added *added = PB_TOK_ITEMS(t->added, const pb_tok_added);
    for (size_t i = 0; i < PB_TOK_COUNT(t->added, pb_tok_added); i++)
        PB_TRY(pb_tok_trie_add(added[i].is_normalized ? &t->normalized_trie : &t->raw_trie, t->ctx, added[i].normalized,
                               (int32_t)i, err));
    return PB_OK;
}

/* What decode skips: tokens whose text for decoding is the content of a special token (so the library looks it up; a
 * special token whose content the normaliser changes stays). */
static pb_status fill_skipped(pb_tokenizer *t, pb_error *err) {
    pb_tok_string_map special = {0};
    const pb_tok_added *added = PB_TOK_ITEMS(t->added, const pb_tok_added);
    bool ok = true;
    for (size_t i = 0; i < PB_TOK_COUNT(t->added, pb_tok_added) && ok; i++)
        ok = !added[i].special || pb_tok_string_map_set(&special, t->ctx, added[i].content, 1);
    for (size_t id = 0; id < PB_TOK_COUNT(t->tokens, pb_tok_string) && ok; id++) {
        int32_t index = PB_TOK_ITEMS(t->added_of_id, const int32_t)[id];
        pb_tok_string text = index >= 0 ? added[index].normalized : PB_TOK_ITEMS(t->tokens, const pb_tok_string)[id];
        bool skipped = text.text && pb_tok_string_map_get(&special, text.text, text.length) == 1;
        ok = pb_tok_buffer_append(&t->skipped, t->ctx, &skipped, sizeof skipped);
    }
    pb_free(special.slots);
    return ok ? PB_OK : no_memory(t, err);
}

/* ---- BOS and EOS ---------------------------------------------------------------------------------------------- */

/* The id of config[key]: a string or an added token's object. *named: the config says something, null included. */
static pb_status config_token(const pb_tokenizer *t, const json_t *config, const char *key, int32_t *id, bool *named,
                              pb_error *err) {
    const json_t *value = json_object_get(config, key);
    *id = -1;
    *named = value != NULL;
    if (json_is_object(value))
        value = json_object_get(value, "content");
    if (!value || json_is_null(value))
        return PB_OK;
    if (!json_is_string(value))
        return pb_fail(err, PB_ERR_FORMAT, "\"%s\" must be a string, null or an object with a string \"content\"", key);
    *id = pb_tokenizer_find(t, json_string_value(value));
    return PB_OK;
}

static int32_t first_special(const pb_tokenizer *t, const char *const *names) {
    for (; *names; names++) {
        int32_t id = pb_tokenizer_find(t, *names);
        if (id >= 0 && pb_tokenizer_is_special(t, id))
            return id;
    }
    return -1;
}

static pb_status add_config_token(pb_tokenizer *t, const json_t *config, const char *key, bool front, int32_t id,
                                  pb_error *err) {
    bool wanted;
    PB_TRY(pb_json_bool_or(config, "the file", key, false, &wanted, err));
    pb_tok_buffer *to = front ? &t->prefix : &t->suffix;
    size_t n = PB_TOK_COUNT(*to, int32_t);
    const int32_t *ids = PB_TOK_ITEMS(*to, const int32_t);
    if (!wanted || id < 0 || (n && ids[front ? 0 : n - 1] == id))
        return PB_OK;
    if (!pb_tok_buffer_append(to, t->ctx, &id, sizeof id))
        return no_memory(t, err);
    if (front) {
        int32_t *items = PB_TOK_ITEMS(*to, int32_t);
        memmove(items + 1, items, n * sizeof *items);
        items[0] = id;
    }
    return PB_OK;
}

/* config may be NULL. Without its word BOS and EOS are known by their usual names. */
static pb_status load_config(pb_tokenizer *t, const json_t *config, pb_error *err) {
    static const char *const bos_names[] = {"<s>",
                                            "<bos>",
                                            "<|begin_of_text|>",
                                            "<|startoftext|>",
                                            "<\xEF\xBD\x9C"
                                            "begin\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",
                                            "<|endoftext|>",
                                            NULL};
    static const char *const eos_names[] = {"</s>",
                                            "<eos>",
                                            "<|end_of_text|>",
                                            "<\xEF\xBD\x9C"
                                            "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",
                                            "<|endoftext|>",
                                            NULL};
    bool bos_named, eos_named;
    if (config && !json_is_object(config))
        return pb_fail(err, PB_ERR_FORMAT, "the top level must be an object");
    PB_TRY(config_token(t, config, "bos_token", &t->bos, &bos_named, err));
    PB_TRY(config_token(t, config, "eos_token", &t->eos, &eos_named, err));
    if (!bos_named && t->prefix.length)
        t->bos = PB_TOK_ITEMS(t->prefix, const int32_t)[0];
    else if (!bos_named)
        t->bos = first_special(t, bos_names);
    if (!eos_named)
        t->eos = first_special(t, eos_names);
    if (!config)
        return PB_OK;
    PB_TRY(add_config_token(t, config, "add_bos_token", true, t->bos, err));
    return add_config_token(t, config, "add_eos_token", false, t->eos, err);
}

/* ---- files ---------------------------------------------------------------------------------------------------- */

static void set_kind(pb_tokenizer *t) {
    bool bytes = false;
    for (size_t i = 0; i < PB_TOK_COUNT(t->pres, pb_tok_pre); i++)
        bytes = bytes || PB_TOK_ITEMS(t->pres, const pb_tok_pre)[i].kind == PB_TOK_PRE_BYTE_LEVEL;
    for (size_t i = 0; i < PB_TOK_COUNT(t->norms, pb_tok_norm); i++)
        bytes = bytes || PB_TOK_ITEMS(t->norms, const pb_tok_norm)[i].kind == PB_TOK_NORM_BYTE_LEVEL;
    t->kind = bytes ? "byte-level BPE" : t->bpe.byte_fallback ? "BPE with byte fallback" : "BPE";
}

static pb_status load_root(pb_tokenizer *t, json_t *root, pb_error *err) {
    const char *version;
    if (!json_is_object(root))
        return pb_fail(err, PB_ERR_FORMAT, "the top level must be an object with a \"model\"");
    PB_TRY(pb_json_string_or(root, "the file", "version", "1.0", &version, err));
    if (strcmp(version, "1.0") != 0)
        return pb_fail(err, PB_ERR_UNSUPPORTED, "version \"%s\" is not supported, only \"1.0\"", version);
    PB_TRY(load_model(t, root, err));
    PB_TRY(pb_tok_load_normalizer(t, json_object_get(root, "normalizer"), "normalizer", err));
    PB_TRY(pb_tok_load_pretokenizer(t, json_object_get(root, "pre_tokenizer"), "pre_tokenizer", err));
    PB_TRY(pb_tok_load_decoder(t, json_object_get(root, "decoder"), "decoder", err));
    PB_TRY(load_added(t, root, err));
    PB_TRY(fill_skipped(t, err));
    PB_TRY(pb_tok_load_postprocessor(t, json_object_get(root, "post_processor"), "post_processor", err));
    set_kind(t);
    return PB_OK;
}

static pb_status load_tokenizer_file(pb_tokenizer *t, const char *path, pb_error *err) {
    json_t *root = NULL;
    uint64_t size;
    PB_TRY(pb_file_size(path, &size, err));
    if (size == 0)
        return pb_fail(err, PB_ERR_FORMAT, "%s: the file is empty; a tokenizer.json was expected", path);
    PB_TRY(pb_json_load(t->ctx, path, MAX_FILE, &root, err));
    pb_status status = load_root(t, root, err);
    json_decref(root);
    return status == PB_OK ? PB_OK : pb_error_prefix(err, status, "%s: ", path);
}

static pb_status load_config_file(pb_tokenizer *t, const char *path, pb_error *err) {
    json_t *config = NULL;
    if (pb_file_exists(path))
        PB_TRY(pb_json_load(t->ctx, path, MAX_CONFIG, &config, err));
    pb_status status = load_config(t, config, err);
    json_decref(config);
    return status == PB_OK ? PB_OK : pb_error_prefix(err, status, "%s: ", path);
}

pb_status pb_tok_load(pb_tokenizer *t, const char *path, pb_error *err) {
    pb_status status = PB_OK;
    char *folder = pb_folder_exists(path) ? pb_strdup(t->ctx, path) : pb_path_folder(t->ctx, path);
    char *file = pb_folder_exists(path) ? pb_path_join(t->ctx, path, "tokenizer.json") : pb_strdup(t->ctx, path);
    char *config = folder ? pb_path_join(t->ctx, folder, "tokenizer_config.json") : NULL;
    if (!folder || !file || !config)
        status = no_memory(t, err);
    if (status == PB_OK && pb_folder_exists(path) && !pb_file_exists(file))
        status =
            pb_fail(err, PB_ERR_IO,
                    "%s: there is no tokenizer.json in this folder (vocab.json and merges.txt or tokenizer.model alone "
                    "are not read; transformers' save_pretrained writes one)",
                    path);
    if (status == PB_OK)
        status = load_tokenizer_file(t, file, err);
    if (status == PB_OK)
        status = load_config_file(t, config, err);
    pb_free(folder);
    pb_free(file);
    pb_free(config);
    return status;
}

pb_status pb_tok_load_json(pb_tokenizer *t, json_t *root, const json_t *config, const char *where, pb_error *err) {
    pb_status status = load_root(t, root, err);
    if (status == PB_OK)
        status = load_config(t, config, err);
    return status == PB_OK ? PB_OK : pb_error_prefix(err, status, "%s: ", where);
}

/* ---- end ------------------------------------------------------------------------------------------------------ */

void pb_tok_destroy(pb_tokenizer *t) {
    for (size_t i = 0; i < PB_TOK_COUNT(t->norms, pb_tok_norm); i++)
        pb_tok_pattern_free(&PB_TOK_ITEMS(t->norms, pb_tok_norm)[i].pattern);
    for (size_t i = 0; i < PB_TOK_COUNT(t->pres, pb_tok_pre); i++)
        pb_tok_pattern_free(&PB_TOK_ITEMS(t->pres, pb_tok_pre)[i].pattern);
    for (size_t i = 0; i < PB_TOK_COUNT(t->decs, pb_tok_dec); i++)
        pb_tok_pattern_free(&PB_TOK_ITEMS(t->decs, pb_tok_dec)[i].pattern);
    for (size_t i = 0; i < PB_TOK_COUNT(t->arena_blocks, char *); i++)
        pb_free(PB_TOK_ITEMS(t->arena_blocks, char *)[i]);
    pb_tok_buffer *buffers[] = {&t->arena_blocks, &t->tokens, &t->added,          &t->added_of_id,
                                &t->skipped,      &t->norms,  &t->pres,           &t->decs,
                                &t->prefix,       &t->suffix, &t->raw_trie.value, &t->normalized_trie.value};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        pb_tok_buffer_free(buffers[i]);
    pb_free(t->bpe.vocab.slots);
    pb_free(t->bpe.merges.slots);
    pb_free(t->added_by_content.slots);
    pb_free(t->raw_trie.edges.slots);
    pb_free(t->normalized_trie.edges.slots);
    pb_context *ctx = t->ctx;
    pb_free(t);
    pb_context_unref(ctx);
}
