/* Random models as Hugging Face folders, a function of shape and seed alone: tests and the bench need no files. */
#ifndef PB_TEST_MODEL_WRITER_H
#define PB_TEST_MODEL_WRITER_H

#include <stdbool.h>
#include <stdint.h>

typedef struct model_shape {
    bool llama; /* else GPT-2: learned positions, LayerNorm, biases, gelu_new, one matrix for q, k and v */
    int layers, heads, d_model, d_mlp, vocab, positions;
    int kv_heads; /* llama; 0: heads */
    int d_head;   /* llama; 0: d_model / heads */
    bool untied;  /* a separate lm_head.weight */
    uint64_t seed;
} model_shape;

/* config.json and model.safetensors (float32) into folder, which exists. Every weight is drawn so that activations stay
 * near 1 and every part of the model matters; norm weights lie around 1, biases around 0 and are not 0. No tokenizer.
 * Returns the number of parameters, or -1 when a file cannot be written (errno says why). */
int64_t model_write(const char *folder, const model_shape *shape);

#endif
