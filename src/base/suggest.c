/* Nearest name; see suggest.h. */
#include "base/suggest.h"

#include <stdbool.h>
#include <string.h>

enum { LONGEST = 128 }; /* longer words are compared by their first 128 bytes */

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c; }

static size_t capped_length(const char *text) {
    size_t length = strlen(text);
    return length < LONGEST ? length : LONGEST;
}

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* Optimal string alignment distance, three rows of the table at a time. */
static size_t edit_distance(const char *a, const char *b) {
    size_t rows = capped_length(a), columns = capped_length(b);
    size_t table[3][LONGEST + 1];
    size_t *before = table[0], *previous = table[1], *current = table[2];
    for (size_t j = 0; j <= columns; j++)
        previous[j] = j;
    for (size_t i = 1; i <= rows; i++) {
        current[0] = i;
        for (size_t j = 1; j <= columns; j++) {
            char ca = lower(a[i - 1]), cb = lower(b[j - 1]);
            size_t cost = ca == cb ? 0 : 1;
            size_t best = least(least(previous[j] + 1, current[j - 1] + 1), previous[j - 1] + cost);
            if (i > 1 && j > 1 && ca == lower(b[j - 2]) && lower(a[i - 2]) == cb)
                best = least(best, before[j - 2] + 1);
            current[j] = best;
        }
        size_t *spare = before;
        before = previous;
        previous = current;
        current = spare;
    }
    return previous[columns];
}

static bool separates(char c) { return c == '.' || c == '_' || c == '/'; }

/* "z" is a part of "blocks.0.attn.hook_z". */
static bool is_part(const char *word, const char *name) {
    size_t n = strlen(word), total = strlen(name);
    if (n == 0 || n >= total)
        return false;
    bool ends = memcmp(name + total - n, word, n) == 0 && separates(name[total - n - 1]);
    bool begins = memcmp(name, word, n) == 0 && separates(name[n]);
    return ends || begins;
}

void pb_suggestion_begin(pb_suggestion *s, const char *word) {
    size_t third = capped_length(word) / 3;
    *s = (pb_suggestion){.word = word, .best = NULL, .distance = (third < 2 ? 2 : third) + 1};
}

void pb_suggestion_offer(pb_suggestion *s, const char *candidate) {
    size_t distance = edit_distance(s->word, candidate);
    if (is_part(s->word, candidate))
        distance = least(distance, 1);
    if (distance < s->distance && distance < capped_length(candidate)) {
        s->distance = distance;
        s->best = candidate;
    }
}

const char *pb_suggest(const char *word, const char *const *names, size_t count) {
    pb_suggestion s;
    pb_suggestion_begin(&s, word);
    for (size_t i = 0; i < count; i++)
        pb_suggestion_offer(&s, names[i]);
    return s.best;
}
