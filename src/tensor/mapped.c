/* Tensors on the pages of a mapped safetensors file. */
#include "base/file.h"
#include "patchbay/tensorio.h"
#include "tensor/internal.h"
#include "tensor/stored.h"

static void release_file(void *file) { pb_safetensors_unref(file); }

static bool can_lie_in_file(const pb_safetensors *file, const pb_entry *entry) {
    bool same = entry->type == PB_STORED_F32 || entry->type == PB_STORED_I32;
    if (!same || !entry->bytes || (uintptr_t)entry->data % PB_ELEMENT != 0)
        return false;
    pb_mapping map = pb_safetensors_mapping(file);
    return pb_mapping_allow_changes(&map);
}

pb_status pb_safetensors_tensor(pb_context *ctx, pb_safetensors *file, size_t i, pb_tensor **out, pb_error *err) {
    const pb_entry *entry = pb_safetensors_at(file, i);
    if (!can_lie_in_file(file, entry))
        return pb_entry_load(ctx, entry, out, err);
    pb_storage *storage = NULL;
    pb_safetensors *held = pb_safetensors_ref(file);
    pb_status status = pb_storage_borrow(ctx, entry->data, entry->bytes, false, release_file, held, &storage, err);
    if (status != PB_OK) {
        pb_safetensors_unref(held);
        return status;
    }
    status = pb_tensor_on_storage(storage, 0, entry->type == PB_STORED_F32 ? PB_F32 : PB_I32, entry->ndim, entry->shape,
                                  out, err);
    pb_storage_unref(storage);
    return status;
}
