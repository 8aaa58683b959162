#include "model_writer.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "patchbay/rng.h"

enum { MAX_TENSORS = 4096, CHUNK = 1 << 16 };

typedef struct tensor_plan {
    char name[80];
    int64_t rows, columns; /* rows 0: a vector of `columns` */
    double centre, deviation;
} tensor_plan;

typedef struct model_plan {
    int n;
    bool overflow;
    tensor_plan tensors[MAX_TENSORS];
} model_plan;

static void plan(model_plan *p, int64_t rows, int64_t columns, double centre, double deviation, const char *format, ...)
    __attribute__((format(printf, 6, 7)));

static void plan(model_plan *p, int64_t rows, int64_t columns, double centre, double deviation, const char *format,
                 ...) {
    if (p->n == MAX_TENSORS) {
        p->overflow = true;
        return;
    }
    tensor_plan *t = &p->tensors[p->n++];
    va_list args;
    va_start(args, format);
    vsnprintf(t->name, sizeof t->name, format, args);
    va_end(args);
    t->rows = rows;
    t->columns = columns;
    t->centre = centre;
    t->deviation = deviation;
}

static double fan(int64_t inputs) { return 1.0 / sqrt((double)inputs); }

static void plan_gpt2(model_plan *p, const model_shape *s) {
    const int64_t D = s->d_model, M = s->d_mlp;
    plan(p, s->vocab, D, 0, 0.5, "transformer.wte.weight");
    plan(p, s->positions, D, 0, 0.3, "transformer.wpe.weight");
    for (int i = 0; i < s->layers; i++) {
        plan(p, 0, D, 1, 0.1, "transformer.h.%d.ln_1.weight", i);
        plan(p, 0, D, 0, 0.1, "transformer.h.%d.ln_1.bias", i);
        plan(p, D, 3 * D, 0, fan(D), "transformer.h.%d.attn.c_attn.weight", i);
        plan(p, 0, 3 * D, 0, 0.1, "transformer.h.%d.attn.c_attn.bias", i);
        plan(p, D, D, 0, fan(D), "transformer.h.%d.attn.c_proj.weight", i);
        plan(p, 0, D, 0, 0.1, "transformer.h.%d.attn.c_proj.bias", i);
        plan(p, 0, D, 1, 0.1, "transformer.h.%d.ln_2.weight", i);
        plan(p, 0, D, 0, 0.1, "transformer.h.%d.ln_2.bias", i);
        plan(p, D, M, 0, fan(D), "transformer.h.%d.mlp.c_fc.weight", i);
        plan(p, 0, M, 0, 0.1, "transformer.h.%d.mlp.c_fc.bias", i);
        plan(p, M, D, 0, fan(M), "transformer.h.%d.mlp.c_proj.weight", i);
        plan(p, 0, D, 0, 0.1, "transformer.h.%d.mlp.c_proj.bias", i);
    }
    plan(p, 0, D, 1, 0.1, "transformer.ln_f.weight");
    plan(p, 0, D, 0, 0.1, "transformer.ln_f.bias");
}

static void plan_llama(model_plan *p, const model_shape *s, int kv_heads, int d_head) {
    const int64_t D = s->d_model, M = s->d_mlp, Q = (int64_t)s->heads * d_head, KV = (int64_t)kv_heads * d_head;
    plan(p, s->vocab, D, 0, 0.5, "model.embed_tokens.weight");
    for (int i = 0; i < s->layers; i++) {
        plan(p, 0, D, 1, 0.1, "model.layers.%d.input_layernorm.weight", i);
        plan(p, Q, D, 0, fan(D), "model.layers.%d.self_attn.q_proj.weight", i);
        plan(p, KV, D, 0, fan(D), "model.layers.%d.self_attn.k_proj.weight", i);
        plan(p, KV, D, 0, fan(D), "model.layers.%d.self_attn.v_proj.weight", i);
        plan(p, D, Q, 0, fan(Q), "model.layers.%d.self_attn.o_proj.weight", i);
        plan(p, 0, D, 1, 0.1, "model.layers.%d.post_attention_layernorm.weight", i);
        plan(p, M, D, 0, fan(D), "model.layers.%d.mlp.gate_proj.weight", i);
        plan(p, M, D, 0, fan(D), "model.layers.%d.mlp.up_proj.weight", i);
        plan(p, D, M, 0, fan(M), "model.layers.%d.mlp.down_proj.weight", i);
    }
    plan(p, 0, D, 1, 0.1, "model.norm.weight");
}

static int64_t count_of(const tensor_plan *t) { return (t->rows > 0 ? t->rows : 1) * t->columns; }

static void write_header(FILE *file, const model_plan *p) {
    /* the length of the header comes first: written once with 0, then again when it is known */
    fwrite("\0\0\0\0\0\0\0", 1, 8, file);
    fputs("{\"__metadata__\":{\"format\":\"pt\"}", file);
    int64_t offset = 0;
    for (int i = 0; i < p->n; i++) {
        const tensor_plan *t = &p->tensors[i];
        int64_t end = offset + 4 * count_of(t);
        fprintf(file, ",\"%s\":{\"dtype\":\"F32\",\"shape\":[", t->name);
        if (t->rows > 0)
            fprintf(file, "%lld,", (long long)t->rows);
        fprintf(file, "%lld],\"data_offsets\":[%lld,%lld]}", (long long)t->columns, (long long)offset, (long long)end);
        offset = end;
    }
    fputs("}", file);
    while (ftell(file) % 8 != 0)
        fputc(' ', file);
    long length = ftell(file) - 8;
    unsigned char bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)((unsigned long long)length >> (8 * i));
    fseek(file, 0, SEEK_SET);
    fwrite(bytes, 1, 8, file);
    fseek(file, 8 + length, SEEK_SET);
}

/* Uniform draws of the wanted mean and deviation: several times faster than normal ones, and as good here. */
static void write_values(FILE *file, const tensor_plan *t, uint64_t seed, uint64_t draw, float *chunk) {
    const float width = (float)(t->deviation * sqrt(12.0)), low = (float)t->centre - width / 2;
    int64_t count = count_of(t);
    for (int64_t first = 0; first < count; first += CHUNK) {
        size_t n = (size_t)(count - first < CHUNK ? count - first : CHUNK);
        pb_rng_uniform(seed, draw, (uint64_t)first, n, chunk);
        for (size_t i = 0; i < n; i++)
            chunk[i] = low + width * chunk[i];
        fwrite(chunk, sizeof *chunk, n, file);
    }
}

static void write_config(FILE *file, const model_shape *s, int kv_heads, int d_head) {
    const char *tied = s->untied ? "false" : "true";
    if (s->llama)
        fprintf(
            file,
            "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_act\": \"silu\",\n"
            " \"hidden_size\": %d, \"intermediate_size\": %d, \"num_hidden_layers\": %d, \"num_attention_heads\": %d,\n"
            " \"num_key_value_heads\": %d, \"head_dim\": %d, \"max_position_embeddings\": %d, \"vocab_size\": %d,\n"
            " \"rms_norm_eps\": 1e-05, \"rope_theta\": 10000.0, \"attention_bias\": false, \"mlp_bias\": false,\n"
            " \"tie_word_embeddings\": %s, \"bos_token_id\": 1, \"eos_token_id\": 2, \"torch_dtype\": \"float32\"}\n",
            s->d_model, s->d_mlp, s->layers, s->heads, kv_heads, d_head, s->positions, s->vocab, tied);
    else
        fprintf(
            file,
            "{\"architectures\": [\"GPT2LMHeadModel\"], \"model_type\": \"gpt2\", \"activation_function\": "
            "\"gelu_new\",\n"
            " \"n_embd\": %d, \"n_inner\": %d, \"n_layer\": %d, \"n_head\": %d, \"n_positions\": %d, \"n_ctx\": %d,\n"
            " \"vocab_size\": %d, \"layer_norm_epsilon\": 1e-05, \"tie_word_embeddings\": %s,\n"
            " \"bos_token_id\": 0, \"eos_token_id\": 0, \"torch_dtype\": \"float32\"}\n",
            s->d_model, s->d_mlp, s->layers, s->heads, s->positions, s->positions, s->vocab, tied);
}

static FILE *open_in(const char *folder, const char *name) {
    char path[4096];
    int n = snprintf(path, sizeof path, "%s/%s", folder, name);
    return n > 0 && (size_t)n < sizeof path ? fopen(path, "wb") : NULL;
}

static bool close_written(FILE *file) {
    bool good = ferror(file) == 0;
    return fclose(file) == 0 && good;
}

int64_t model_write(const char *folder, const model_shape *shape) {
    static model_plan p; /* tests are single-threaded, and it is too large for the stack */
    static float chunk[CHUNK];
    int kv_heads = shape->kv_heads > 0 ? shape->kv_heads : shape->heads;
    int d_head = shape->d_head > 0 ? shape->d_head : shape->d_model / shape->heads;

    memset(&p, 0, sizeof p);
    if (shape->llama)
        plan_llama(&p, shape, kv_heads, d_head);
    else
        plan_gpt2(&p, shape);
    if (shape->untied)
        plan(&p, shape->vocab, shape->d_model, 0, fan(shape->d_model), "lm_head.weight");
    if (p.overflow)
        return -1;

    FILE *config = open_in(folder, "config.json");
    if (!config)
        return -1;
    write_config(config, shape, kv_heads, d_head);
    if (!close_written(config))
        return -1;

    FILE *weights = open_in(folder, "model.safetensors");
    if (!weights)
        return -1;
    write_header(weights, &p);
    int64_t parameters = 0;
    for (int i = 0; i < p.n; i++) {
        write_values(weights, &p.tensors[i], shape->seed, (uint64_t)i, chunk);
        parameters += count_of(&p.tensors[i]);
    }
    return close_written(weights) ? parameters : -1;
}
