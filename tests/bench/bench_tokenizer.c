/* Speed of tokenizers: how fast they open, encode and decode, and whether time is linear in the length of the text.
 * usage: bench_tokenizer [FILTER]
 *
 * The vocabulary is GPT-2's from the shared folder (PB_SHARED, by default ../shared) where there is one, and the built-in
 * model's. Texts are made here: English-like words with punctuation, numbers and lines, one endless word, and bytes of every
 * script. The ratio of the times of 1 MB and 100 kB is 10 where time is linear. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench_common.h"
#include "patchbay/rng.h"

enum { LARGE = 1000000, SMALL = LARGE / 10, REPEATS = 5 };

/* Seconds that this thread has computed: tokenizers use one, and other users of the machine then do not count. */
static double processor_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- texts ------------------------------------------------------------------------------------------------------------ */

static const char *const words[] = {
    "the",       "of",          "and",      "to",      "a",         "in",      "is",      "that",     "it",
    "was",       "for",         "on",       "are",     "with",      "as",      "his",     "they",     "be",
    "at",        "one",         "have",     "this",    "from",      "or",      "had",     "by",       "but",
    "what",      "some",        "we",       "can",     "out",       "other",   "were",    "all",      "there",
    "when",      "up",          "use",      "your",    "how",       "said",    "each",    "she",      "which",
    "their",     "time",        "if",       "will",    "way",       "about",   "many",    "then",     "them",
    "write",     "would",       "like",     "so",      "these",     "long",    "make",    "thing",    "see",
    "him",       "two",         "has",      "look",    "more",      "day",     "could",   "go",       "come",
    "did",       "number",      "sound",    "no",      "most",      "people",  "my",      "over",     "know",
    "water",     "than",        "call",     "first",   "who",       "may",     "down",    "side",     "been",
    "now",       "find",        "head",     "stand",   "own",       "page",    "should",  "country",  "found",
    "answer",    "school",      "grow",     "study",   "still",     "learn",   "plant",   "cover",    "food",
    "sun",       "between",     "museum",   "capital", "attention", "layer",   "neuron",  "patching", "running",
    "interpret", "mechanism",   "residual", "however", "because",   "through", "another", "sentence", "probability",
    "unusual",   "transformer", "Paris",    "France",
};
enum { WORDS = sizeof words / sizeof words[0] };

/* Frequent words are early in the list: the place is the product of two uniform draws. */
static void write_english(char *text, size_t size) {
    static const char *const ends[] = {" ",  " ",  " ",   " ",  " ",   " ",  " ", " ",
                                       ", ", ". ", ".\n", "; ", "'s ", " (", ") "};
    float draws[1024];
    size_t used = 0, at = 1024;
    for (uint64_t block = 0; used < size;) {
        if (at + 3 > 1024) {
            pb_rng_uniform(7, block++, 0, 1024, draws);
            at = 0;
        }
        const char *word = words[(size_t)((float)WORDS * draws[at] * draws[at + 1])];
        char number[16];
        if (draws[at + 2] < 0.02f) {
            snprintf(number, sizeof number, "%d", (int)(1e5f * draws[at + 1]));
            word = number;
        }
        size_t end = (size_t)((float)(sizeof ends / sizeof ends[0]) * draws[at + 2]);
        char piece[64];
        int n = snprintf(piece, sizeof piece, "%s%s", word, ends[end]);
        size_t length = (size_t)n < size - used ? (size_t)n : size - used;
        memcpy(text + used, piece, length);
        used += length;
        at += 3;
    }
}

/* One word without an end: merging must not look at all of it for every merge. */
static void write_endless(char *text, size_t size) {
    for (size_t i = 0; i < size; i++)
        text[i] = "abcdefghijklmnopqrstuvwxyz"[i * i % 26];
}

/* Characters of two to four bytes, few of which the vocabulary has whole. */
static void write_scripts(char *text, size_t size) {
    static const char *const signs[] = {"\xC3\xA9",     "\xD0\xB6",         "\xE4\xB8\xAD",
                                        "\xE3\x81\x82", "\xF0\x9F\x99\x82", " "};
    size_t used = 0;
    for (size_t i = 0; used < size; i++) {
        const char *sign = signs[i * i % 11 % 6];
        size_t n = strlen(sign);
        if (used + n > size) {
            sign = " ";
            n = 1;
        }
        memcpy(text + used, sign, n);
        used += n;
    }
}

/* ---- tokenizers --------------------------------------------------------------------------------------------------------- */

/* GPT-2's tokenizer.json from its two old files. False: they are not there. */
static bool write_gpt2(const char *shared, const char *path) {
    char name[4200], *line = NULL;
    size_t capacity = 0;
    snprintf(name, sizeof name, "%s/tokenizers/gpt2/vocab.json", shared);
    json_t *vocab = json_load_file(name, 0, NULL), *merges = json_array();
    snprintf(name, sizeof name, "%s/tokenizers/gpt2/merges.txt", shared);
    FILE *file = vocab ? fopen(name, "r") : NULL;
    if (!file) {
        json_decref(vocab);
        json_decref(merges);
        return false;
    }
    for (ssize_t n; (n = getline(&line, &capacity, file)) > 0;)
        if (strncmp(line, "#version", 8) != 0)
            json_array_append_new(merges, json_stringn(line, (size_t)n - (line[n - 1] == '\n')));
    fclose(file);
    free(line);
    json_t *root =
        json_pack("{s:{s:s, s:b}, s:{s:s}, s:{s:o, s:o}}", "pre_tokenizer", "type", "ByteLevel", "add_prefix_space", 0,
                  "decoder", "type", "ByteLevel", "model", "vocab", vocab, "merges", merges);
    bool written = root && json_dump_file(root, path, JSON_COMPACT) == 0;
    json_decref(root);
    return written;
}

static pb_tokenizer *open_timed(const bench *b, const char *path, double *seconds) {
    pb_error err = {0};
    pb_tokenizer *t = NULL;
    for (int i = 0; i < REPEATS; i++) {
        pb_tokenizer_unref(t);
        double start = processor_now();
        bench_need(pb_tokenizer_open(b->ctx, path, &t, &err), &err, "a tokenizer");
        double took = processor_now() - start;
        *seconds = i == 0 || took < *seconds ? took : *seconds;
    }
    return t;
}

/* ---- measuring ------------------------------------------------------------------------------------------------------------ */

/* Best of some; *ids (to be released) and *n are those of the last one. */
static double encode_seconds(const pb_tokenizer *t, const char *text, size_t size, int32_t **ids, size_t *n) {
    pb_error err = {0};
    double best = 0;
    *ids = NULL;
    for (int i = 0; i < REPEATS; i++) {
        pb_free(*ids);
        double start = processor_now();
        bench_need(pb_tokenizer_encode(t, text, size, PB_SPECIAL_OFF, ids, n, &err), &err, "encoding");
        double took = processor_now() - start;
        best = i == 0 || took < best ? took : best;
    }
    return best;
}

/* Seconds of decoding, after a check that it gives the text back. */
static double decode_seconds(const pb_tokenizer *t, const int32_t *ids, size_t n, const char *text, size_t size) {
    pb_error err = {0};
    double best = 0;
    for (int i = 0; i < REPEATS; i++) {
        char *back = NULL;
        size_t length = 0;
        double start = processor_now();
        bench_need(pb_tokenizer_decode(t, ids, n, false, &back, &length, &err), &err, "decoding");
        double took = processor_now() - start;
        best = i == 0 || took < best ? took : best;
        if (length != size || memcmp(back, text, size) != 0)
            bench_need(pb_fail(&err, PB_ERR_NUMERIC, "the text does not come back"), &err, "decoding");
        pb_free(back);
    }
    return best;
}

static void measure(const bench *b, const char *vocabulary, const pb_tokenizer *t) {
    static const struct {
        const char *name;
        void (*write)(char *text, size_t size);
    } texts[] = {{"English", write_english}, {"one word", write_endless}, {"scripts", write_scripts}};
    char *text = bench_memory(LARGE, 1);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s, %s", vocabulary, texts[i].name);
        if (!bench_wanted(b, name))
            continue;
        int32_t *ids, *few;
        size_t n, m;
        texts[i].write(text, SMALL);
        double small = encode_seconds(t, text, SMALL, &few, &m);
        texts[i].write(text, LARGE);
        double large = encode_seconds(t, text, LARGE, &ids, &n);
        double back = decode_seconds(t, ids, n, text, LARGE);
        printf("%-28s %8.2f %10.2f %8.2f %9.1f %9.2f\n", name, 1e-6 * LARGE / large, 1e-6 * (double)n / large,
               1e-6 * LARGE / back, large / small, (double)LARGE / (double)n);
        fflush(stdout);
        pb_free(few);
        pb_free(ids);
    }
    free(text);
}

int main(int argc, char **argv) {
    bench b;
    bench_start(&b, argc, argv, false);
    const char *shared = getenv("PB_SHARED");
    char folder[4096], path[4200];
    double seconds = 0;
    printf("%-28s %8s %10s %8s %9s %9s   (goal: 1 MB in under a second; linear: 10)\n", "vocabulary, text", "MB/s in",
           "Mtokens/s", "MB/s out", "1MB/100kB", "bytes/tok");
    bench_make_folder(folder, sizeof folder);
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    if (write_gpt2(shared && *shared ? shared : "../shared", path)) {
        pb_tokenizer *gpt2 = open_timed(&b, folder, &seconds);
        measure(&b, "GPT-2", gpt2);
        printf("%-28s %8.1f ms\n", "GPT-2, open", 1e3 * seconds);
        pb_tokenizer_unref(gpt2);
    } else {
        printf("%-28s          not measured: no shared folder with its vocabulary\n", "GPT-2");
    }
    bench_remove_folder(folder);
    pb_tokenizer *facts = open_timed(&b, "examples/models/facts", &seconds);
    measure(&b, "facts", facts);
    printf("%-28s %8.1f ms\n", "facts, open", 1e3 * seconds);
    pb_tokenizer_unref(facts);
    bench_end(&b);
    return 0;
}
