/* "did you mean ...?": the nearest of many names to one that is unknown, by edit distance (insert, delete, replace,
 * swap of neighbours), letters' case aside. Allocates nothing; cannot fail. */
#ifndef PB_BASE_SUGGEST_H
#define PB_BASE_SUGGEST_H

#include <stddef.h>

typedef struct pb_suggestion {
    const char *word; /* borrowed */
    const char *best; /* borrowed from the caller; NULL while nothing is near enough */
    size_t distance;  /* of best; before that, one more than is near enough */
} pb_suggestion;

/* Offer candidates one after the other; of equally near ones the first wins. s->best is the answer. */
void pb_suggestion_begin(pb_suggestion *s, const char *word);
void pb_suggestion_offer(pb_suggestion *s, const char *candidate);

/* The nearest of names[count]; NULL if none is near: more than a third of word's letters (at least 2) differ.
 * A name that begins or ends with word after a '.', '_' or '/' counts as near. */
const char *pb_suggest(const char *word, const char *const *names, size_t count);

#endif
