/* Growing buffers and hash tables of the tokenizer; see tokenizer_internal.h. */
#include <string.h>

#include "model/tokenizer_internal.h"

/* ---- buffers -------------------------------------------------------------------------------------------------- */

bool pb_tok_buffer_reserve(pb_tok_buffer *b, pb_context *ctx, size_t more) {
    if (more <= b->capacity - b->length)
        return true;
    if (more > SIZE_MAX - b->length)
        return false;
    size_t needed = b->length + more;
    size_t grown = b->capacity + b->capacity / 2 + 64;
    size_t capacity = grown > needed ? grown : needed;
    char *data = pb_realloc(ctx, b->data, capacity, 1);
    if (!data)
        return false;
    b->data = data;
    b->capacity = capacity;
    return true;
}

bool pb_tok_buffer_append(pb_tok_buffer *b, pb_context *ctx, const void *bytes, size_t n) {
    if (!pb_tok_buffer_reserve(b, ctx, n))
        return false;
    if (n)
        memcpy(b->data + b->length, bytes, n);
    b->length += n;
    return true;
}

bool pb_tok_buffer_append_char(pb_tok_buffer *b, pb_context *ctx, uint32_t code_point) {
    char bytes[4];
    size_t n = pb_tok_utf8_put(code_point, bytes);
    return pb_tok_buffer_append(b, ctx, bytes, n);
}

void pb_tok_buffer_free(pb_tok_buffer *b) {
    pb_free(b->data);
    *b = (pb_tok_buffer){0};
}

/* ---- strings -------------------------------------------------------------------------------------------------- */

bool pb_tok_string_equal(pb_tok_string a, pb_tok_string b) {
    return a.length == b.length && (a.length == 0 || memcmp(a.text, b.text, a.length) == 0);
}

static uint64_t mix(uint64_t h) {
    h ^= h >> 32;
    h *= UINT64_C(0xd6e8feb86659fd93);
    return h ^ (h >> 32);
}

uint64_t pb_tok_hash(const char *bytes, size_t n) {
    uint64_t h = UINT64_C(0x9e3779b97f4a7c15) ^ n;
    for (; n >= 8; bytes += 8, n -= 8) {
        uint64_t word;
        memcpy(&word, bytes, 8);
        h = mix(h ^ word);
    }
    uint64_t tail = 0;
    if (n)
        memcpy(&tail, bytes, n);
    return mix(h ^ tail ^ ((uint64_t)n << 56));
}

/* ---- pairs ---------------------------------------------------------------------------------------------------- */

/* Slots for that many entries at a load of at most 2/3; 0 when that overflows. */
static size_t slots_for(size_t entries) {
    size_t slots = 16;
    while (slots / 3 * 2 < entries) {
        if (slots > SIZE_MAX / 64)
            return 0;
        slots *= 2;
    }
    return slots;
}

static pb_tok_pair_slot *pair_slot(pb_tok_pair_slot *slots, size_t mask, uint64_t key) {
    size_t at = (size_t)mix(key) & mask;
    while (slots[at].key != UINT64_MAX && slots[at].key != key)
        at = (at + 1) & mask;
    return &slots[at];
}

bool pb_tok_pair_map_reserve(pb_tok_pair_map *map, pb_context *ctx, size_t entries) {
    size_t wanted = slots_for(entries);
    if (map->slots && wanted <= map->mask + 1 && wanted)
        return true;
    pb_tok_pair_slot *slots = wanted ? pb_alloc(ctx, wanted, sizeof *slots) : NULL;
    if (!slots)
        return false;
    for (size_t i = 0; i < wanted; i++)
        slots[i] = (pb_tok_pair_slot){.key = UINT64_MAX};
    for (size_t i = 0; map->slots && i <= map->mask; i++)
        if (map->slots[i].key != UINT64_MAX)
            *pair_slot(slots, wanted - 1, map->slots[i].key) = map->slots[i];
    pb_free(map->slots);
    map->slots = slots;
    map->mask = wanted - 1;
    return true;
}

bool pb_tok_pair_map_set(pb_tok_pair_map *map, pb_context *ctx, uint64_t key, uint32_t first, uint32_t second) {
    if (!pb_tok_pair_map_reserve(map, ctx, map->used + 1))
        return false;
    pb_tok_pair_slot *slot = pair_slot(map->slots, map->mask, key);
    map->used += slot->key == UINT64_MAX;
    *slot = (pb_tok_pair_slot){.key = key, .first = first, .second = second};
    return true;
}

const pb_tok_pair_slot *pb_tok_pair_map_get(const pb_tok_pair_map *map, uint64_t key) {
    if (!map->slots)
        return NULL;
    const pb_tok_pair_slot *slot = pair_slot(map->slots, map->mask, key);
    return slot->key == key ? slot : NULL;
}

/* ---- strings to ids ------------------------------------------------------------------------------------------- */

static pb_tok_string_slot *string_slot(pb_tok_string_slot *slots, size_t mask, pb_tok_string key, uint32_t hash) {
    size_t at = hash & mask;
    while (slots[at].key.text && (slots[at].hash != hash || !pb_tok_string_equal(slots[at].key, key)))
        at = (at + 1) & mask;
    return &slots[at];
}

bool pb_tok_string_map_reserve(pb_tok_string_map *map, pb_context *ctx, size_t entries) {
    size_t wanted = slots_for(entries);
    if (map->slots && wanted <= map->mask + 1 && wanted)
        return true;
    pb_tok_string_slot *slots = wanted ? pb_alloc_zero(ctx, wanted, sizeof *slots) : NULL;
    if (!slots)
        return false;
    for (size_t i = 0; map->slots && i <= map->mask; i++)
        if (map->slots[i].key.text)
            *string_slot(slots, wanted - 1, map->slots[i].key, map->slots[i].hash) = map->slots[i];
    pb_free(map->slots);
    map->slots = slots;
    map->mask = wanted - 1;
    return true;
}

bool pb_tok_string_map_set(pb_tok_string_map *map, pb_context *ctx, pb_tok_string key, int32_t id) {
    if (!pb_tok_string_map_reserve(map, ctx, map->used + 1))
        return false;
    uint32_t hash = (uint32_t)pb_tok_hash(key.text, key.length);
    pb_tok_string_slot *slot = string_slot(map->slots, map->mask, key, hash);
    map->used += slot->key.text == NULL;
    *slot = (pb_tok_string_slot){.key = key, .hash = hash, .id = id};
    return true;
}

int32_t pb_tok_string_map_get(const pb_tok_string_map *map, const char *text, size_t length) {
    if (!map->slots)
        return -1;
    pb_tok_string key = {.text = text, .length = length};
    const pb_tok_string_slot *slot = string_slot(map->slots, map->mask, key, (uint32_t)pb_tok_hash(text, length));
    return slot->key.text ? slot->id : -1;
}

/* ---- pieces --------------------------------------------------------------------------------------------------- */

void pb_tok_pieces_free(pb_tok_pieces *p) {
    pb_tok_buffer_free(&p->spans);
    pb_tok_buffer_free(&p->next);
    pb_tok_buffer_free(&p->cuts);
    for (int i = 0; i < 2; i++) {
        pb_tok_buffer_free(&p->store[i]);
        pb_tok_buffer_free(&p->scratch[i]);
    }
}

bool pb_tok_pieces_add(pb_tok_pieces *p, size_t start, size_t length, int32_t id, bool at_start) {
    pb_tok_piece piece = {.start = start, .length = length, .id = id, .at_start = at_start};
    return pb_tok_buffer_append(&p->next, p->ctx, &piece, sizeof piece);
}

void pb_tok_pieces_swap(pb_tok_pieces *p) {
    pb_tok_buffer done = p->spans;
    p->spans = p->next;
    p->next = done;
    p->next.length = 0;
}

void pb_tok_pieces_swap_text(pb_tok_pieces *p) {
    pb_tok_pieces_swap(p);
    p->text = p->store[p->active].data;
    p->active = 1 - p->active;
    p->store[p->active].length = 0;
}
