/* What the files of the trainer share: bind_train.c (steps), train_sequences.c (batches), train_files.c (checkpoints). */
#ifndef PB_HOST_TRAINING_H
#define PB_HOST_TRAINING_H

#include "host/batch.h"

typedef struct pb_trained {
    const char *name;  /* the model's */
    pb_tensor *weight; /* NULL: stays as it is */
    pb_tensor *gradient, *first, *second;
} pb_trained;

typedef struct pb_trainer {
    pb_model *model;
    size_t n;              /* pb_model_weight_count */
    pb_tensor **gradients; /* [n] as pb_grad takes them; owned by the entries below */
    pb_trained weights[];
} pb_trainer;

pb_trainer *pb_check_trainer(lua_State *L, int index);
/* train_files.c: trainer:save and trainer:load. */
int pb_trainer_save(lua_State *L);
int pb_trainer_load(lua_State *L);

typedef struct pb_sequence {
    const int32_t *ids;
    size_t n_ids;
    pb_choice predict; /* positions whose next token counts; not listed: all but the last */
    size_t n_predict;
    pb_patch *patches;
    size_t n_patches, cap_patches;
} pb_sequence;

/* All arrays have n entries and live, as runs and metrics do, as long as the batch. */
typedef struct pb_sequences {
    pb_sequence *items;
    size_t n, targets; /* targets: sum of n_predict, at least 1 */
    pb_run **runs;     /* with the patches held in place */
    pb_metric **metrics;
} pb_sequences;

/* The list at index, read and run through the model. Sequences without a target are left out. */
const pb_sequences *pb_read_sequences(lua_State *L, int index, int batch_index, pb_model *model);

#endif
