/* Allocation: aligned blocks that are charged to their context's budget, with a fault-injection point.
 *
 * A block is [slack][header][payload], the payload on a 64-byte boundary. The header lies just below the payload, so
 * that a pointer is enough to free, and holds the pointer that malloc gave. Each block holds a reference on its
 * context: a block may outlive every other holder. What is charged is the whole block, slack and header included. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/context_private.h"

enum { ALIGNMENT = 64 };

typedef struct block_header {
    pb_context *ctx;
    void *raw;      /* what malloc returned */
    size_t charged; /* size of the malloc block */
} block_header;

enum { OVERHEAD = sizeof(block_header) + ALIGNMENT };

static block_header *header_of(const void *block) { return (block_header *)((uintptr_t)block - sizeof(block_header)); }

static unsigned char *payload_in(void *raw) {
    uintptr_t first = (uintptr_t)raw + sizeof(block_header);
    return (unsigned char *)((first + ALIGNMENT - 1) & ~(uintptr_t)(ALIGNMENT - 1));
}

/* ---- the budget ---------------------------------------------------------------------------------------------- */

size_t pb_context_memory_limit(const pb_context *ctx) { return atomic_load(&ctx->memory_limit); }

void pb_context_set_memory_limit(pb_context *ctx, size_t bytes) { atomic_store(&ctx->memory_limit, bytes); }

size_t pb_context_memory_used(const pb_context *ctx) { return atomic_load(&ctx->memory_used); }

size_t pb_context_memory_peak(const pb_context *ctx) { return atomic_load(&ctx->memory_peak); }

void pb_context_reset_memory_peak(pb_context *ctx) { atomic_store(&ctx->memory_peak, atomic_load(&ctx->memory_used)); }

bool pb_context_charge(pb_context *ctx, size_t bytes) {
    size_t limit = atomic_load(&ctx->memory_limit);
    size_t ceiling = limit ? limit : SIZE_MAX;
    size_t used = atomic_load(&ctx->memory_used);
    do {
        if (used > ceiling || bytes > ceiling - used)
            return false;
    } while (!atomic_compare_exchange_weak(&ctx->memory_used, &used, used + bytes));
    size_t now = used + bytes;
    size_t peak = atomic_load(&ctx->memory_peak);
    while (now > peak && !atomic_compare_exchange_weak(&ctx->memory_peak, &peak, now)) {}
    return true;
}

void pb_context_discharge(pb_context *ctx, size_t bytes) { atomic_fetch_sub(&ctx->memory_used, bytes); }

void pb_context_fail_allocation(pb_context *ctx, uint64_t n) { atomic_store(&ctx->fail_in, n); }

uint64_t pb_context_allocations(const pb_context *ctx) { return atomic_load(&ctx->allocations); }

static bool injected_failure(pb_context *ctx) {
    uint_fast64_t left = atomic_load(&ctx->fail_in);
    while (left > 0) {
        if (atomic_compare_exchange_weak(&ctx->fail_in, &left, left - 1))
            return left == 1;
    }
    return false;
}

/* ---- blocks -------------------------------------------------------------------------------------------------- */

/* Size of the malloc block for count * size bytes; 0 if that is more than an object can have. */
static size_t block_size(size_t count, size_t size) {
    if (size && count > (size_t)PTRDIFF_MAX / size)
        return 0;
    size_t payload = count * size;
    return payload > (size_t)PTRDIFF_MAX - OVERHEAD ? 0 : payload + OVERHEAD;
}

/* Large blocks are walked through again and again: in pages of 2 MiB they cost a few hundred times fewer page faults
 * and fewer misses of the address cache. A hint only; where it is unknown or refused nothing changes. */
static void prefer_huge_pages(void *raw, size_t size) {
#if defined(MADV_HUGEPAGE)
    enum { LARGE = 8 << 20, PAGE = 1 << 16 }; /* PAGE: a multiple of every base page size */
    if (size < (size_t)LARGE)
        return;
    const uintptr_t begin = ((uintptr_t)raw + PAGE - 1) & ~(uintptr_t)(PAGE - 1);
    const uintptr_t end = ((uintptr_t)raw + size) & ~(uintptr_t)(PAGE - 1);
    (void)madvise((void *)begin, end - begin, MADV_HUGEPAGE);
#else
    (void)raw;
    (void)size;
#endif
}

static void *allocate(pb_context *ctx, size_t count, size_t size, bool zero) {
    size_t total = block_size(count, size);
    if (!total || injected_failure(ctx) || !pb_context_charge(ctx, total))
        return NULL;
    void *raw = zero ? calloc(1, total) : malloc(total);
    if (!raw) {
        pb_context_discharge(ctx, total);
        return NULL;
    }
    prefer_huge_pages(raw, total);
    atomic_fetch_add(&ctx->allocations, 1);
    unsigned char *block = payload_in(raw);
    *header_of(block) = (block_header){.ctx = pb_context_ref(ctx), .raw = raw, .charged = total};
    return block;
}

void *pb_alloc(pb_context *ctx, size_t count, size_t size) { return allocate(ctx, count, size, false); }

void *pb_alloc_zero(pb_context *ctx, size_t count, size_t size) { return allocate(ctx, count, size, true); }

void *pb_realloc(pb_context *ctx, void *block, size_t count, size_t size) {
    if (!block)
        return allocate(ctx, count, size, false);
    block_header old = *header_of(block);
    size_t total = block_size(count, size);
    if (!total || injected_failure(ctx))
        return NULL;
    if (total > old.charged && !pb_context_charge(old.ctx, total - old.charged))
        return NULL;
    size_t offset = (size_t)((uintptr_t)block - (uintptr_t)old.raw);
    unsigned char *raw = realloc(old.raw, total);
    if (!raw) {
        if (total > old.charged)
            pb_context_discharge(old.ctx, total - old.charged);
        return NULL;
    }
    if (total < old.charged)
        pb_context_discharge(old.ctx, old.charged - total);
    atomic_fetch_add(&ctx->allocations, 1);
    unsigned char *moved = payload_in(raw);
    if (moved != raw + offset) { /* the new block sits differently against the 64-byte grid */
        size_t old_payload = old.charged - OVERHEAD;
        size_t new_payload = total - OVERHEAD;
        memmove(moved, raw + offset, old_payload < new_payload ? old_payload : new_payload);
    }
    *header_of(moved) = (block_header){.ctx = old.ctx, .raw = raw, .charged = total};
    return moved;
}

void pb_free(void *block) {
    if (!block)
        return;
    block_header header = *header_of(block);
    free(header.raw);
    pb_context_discharge(header.ctx, header.charged);
    pb_context_unref(header.ctx);
}

char *pb_strdup(pb_context *ctx, const char *text) { return pb_strndup(ctx, text, strlen(text)); }

char *pb_strndup(pb_context *ctx, const char *text, size_t length) {
    if (length == SIZE_MAX)
        return NULL;
    char *copy = pb_alloc(ctx, length + 1, 1);
    if (copy) {
        if (length)
            memcpy(copy, text, length);
        copy[length] = '\0';
    }
    return copy;
}

pb_status pb_fail_memory(pb_error *err, const pb_context *ctx, size_t bytes, const char *what) {
    double mb = 1.0 / (1024.0 * 1024.0);
    size_t limit = pb_context_memory_limit(ctx);
    double used = (double)pb_context_memory_used(ctx);
    if (limit)
        return pb_fail(err, PB_ERR_MEMORY,
                       "out of memory: %.1f MiB for %s; %.1f of the budget of %.1f MiB are in use. A larger memory "
                       "limit or less work at a time would help",
                       (double)bytes * mb, what, used * mb, (double)limit * mb);
    return pb_fail(err, PB_ERR_MEMORY, "out of memory: the system has no %.1f MiB for %s (%.1f MiB are in use)",
                   (double)bytes * mb, what, used * mb);
}
