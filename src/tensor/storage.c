/* Refcounted bytes under tensors; see internal.h. The count is atomic: views may be dropped by any thread. */
#include "tensor/internal.h"

#include <stdlib.h>

enum { HEADER = 64 }; /* keeps the bytes behind the header on a 64-byte boundary */
_Static_assert(sizeof(pb_storage) <= HEADER, "the storage header must fit in front of the data");

pb_status pb_storage_create(pb_context *ctx, size_t bytes, bool zero, pb_storage **out, pb_error *err) {
    pb_storage *s = NULL;
    if (bytes <= (size_t)PTRDIFF_MAX - HEADER)
        s = zero ? pb_alloc_zero(ctx, HEADER + bytes, 1) : pb_alloc(ctx, HEADER + bytes, 1);
    if (!s)
        return pb_fail_memory(err, ctx, bytes, "a tensor");
    atomic_init(&s->refs, 1);
    s->ctx = ctx;
    s->data = (char *)s + HEADER;
    s->bytes = bytes;
    s->read_only = false;
    s->release = NULL;
    s->owner = NULL;
    *out = s;
    return PB_OK;
}

pb_status pb_storage_borrow(pb_context *ctx, const void *data, size_t bytes, bool read_only,
                            void (*release)(void *owner), void *owner, pb_storage **out, pb_error *err) {
    pb_storage *s = pb_alloc(ctx, 1, sizeof *s);
    if (!s)
        return pb_fail_memory(err, ctx, sizeof *s, "a tensor");
    atomic_init(&s->refs, 1);
    s->ctx = ctx;
    s->data = (char *)(uintptr_t)data;
    s->bytes = bytes;
    s->read_only = read_only;
    s->release = release;
    s->owner = owner;
    *out = s;
    return PB_OK;
}

pb_storage *pb_storage_ref(pb_storage *s) {
    atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
    return s;
}

void pb_storage_unref(pb_storage *s) {
    if (!s || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
        return;
    void (*release)(void *) = s->release;
    void *owner = s->owner;
    pb_free(s);
    if (release)
        release(owner);
}
