/* Names of the files that an export may write. */
#ifndef PB_MODEL_EXPORT_H
#define PB_MODEL_EXPORT_H

/* Weights first, then what goes with a tokenizer, config.json last; ends with NULL. */
extern const char *const PB_EXPORT_FILES[];

#endif
