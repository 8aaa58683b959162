/* PyTorch state dicts: what torch wrote is read, nothing is executed, and no file, however damaged, does harm. */
#include "support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "tensor/pickle.h"

static const char *sample(const char *name) { return test_path(test_data("golden/storage/files"), name); }

static pb_torch *open_sample(pb_context *ctx, const char *name) {
    pb_error err = {0};
    pb_torch *file = NULL;
    assert_ok(pb_torch_open(ctx, sample(name), &file, &err));
    return file;
}

static void assert_values(pb_context *ctx, const pb_entry *entry, const char *name, pb_stored type, int ndim,
                          const int64_t *shape, const double *values) {
    pb_error err = {0};
    pb_tensor *t = NULL;
    assert_string_equal(entry->name, name);
    assert_int_equal(entry->type, type);
    assert_int_equal(entry->ndim, ndim);
    for (int i = 0; i < ndim; i++)
        assert_int_equal(entry->shape[i], shape[i]);
    assert_ok(pb_entry_load(ctx, entry, &t, &err));
    for (int64_t i = 0; i < pb_tensor_count(t); i++) {
        double got = pb_tensor_dtype(t) == PB_F32 ? (double)pb_tensor_floats(t)[i] : (double)pb_tensor_ints(t)[i];
        assert_true(got == values[i]);
    }
    pb_tensor_unref(t);
}

/* ---- what torch wrote --------------------------------------------------------------------------------------------------- */

static void torch_open__types_views_and_orders(void **state) {
    pb_torch *file = open_sample(*state, "small.pt");
    assert_int_equal(pb_torch_count(file), 8);
    assert_null(pb_torch_at(file, 8));
    static const double up[] = {0, 1, 2, 3, 4, 5}, turned[] = {0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11};
    assert_values(*state, pb_torch_at(file, 0), "a", PB_STORED_F32, 2, (int64_t[]){2, 3}, up);
    assert_values(*state, pb_torch_at(file, 1), "b", PB_STORED_I64, 1, (int64_t[]){4}, up);
    assert_values(*state, pb_torch_at(file, 2), "c", PB_STORED_F16, 0, NULL, (double[]){2.5});
    assert_values(*state, pb_torch_at(file, 3), "d", PB_STORED_F32, 2, (int64_t[]){0, 3}, NULL);
    assert_values(*state, pb_torch_at(file, 4), "e", PB_STORED_F32, 2, (int64_t[]){4, 3}, turned);
    assert_values(*state, pb_torch_at(file, 5), "f", PB_STORED_F32, 1, (int64_t[]){4}, (double[]){3, 4, 5, 6});
    assert_values(*state, pb_torch_at(file, 6), "g", PB_STORED_BOOL, 1, (int64_t[]){2}, (double[]){1, 0});
    assert_values(*state, pb_torch_at(file, 7), "h", PB_STORED_I32, 1, (int64_t[]){5}, up);
    pb_torch_close(file);
}

static pb_model *open_model(pb_context *ctx, const char *folder) {
    pb_error err = {0};
    pb_model *model = NULL;
    assert_ok(pb_model_open(ctx, folder, NULL, &model, &err));
    return model;
}

static pb_tensor *logits_of(pb_model *model) {
    pb_error err = {0};
    int32_t ids[7];
    pb_run *run = NULL;
    pb_tensor *logits = NULL;
    test_tokens(pb_model_vocab(model), 5, ids, 7);
    assert_ok(pb_run_create(model, ids, 7, &run, &err));
    assert_ok(pb_run_value(run, (pb_site){PB_SITE_LOGITS, -1}, &logits, &err));
    pb_run_unref(run);
    return logits;
}

/* gpt2's golden folder as torch saved it: as it is; bf16 parameters of protocol 5, one not row-major, in a checkpoint; two
 * shards, one of them f16 views of one storage, the other float64. */
static void model_open__pytorch_folders__give_the_logits_of_safetensors(void **state) {
    static const struct {
        const char *folder;
        pb_stored type;
    } cases[] = {{"bin", PB_STORED_F32}, {"bin-bf16", PB_STORED_BF16}, {"bin-sharded", PB_STORED_F16}};
    pb_error err = {0};
    pb_model *golden = open_model(*state, test_data("golden/models/gpt2"));
    for (size_t i = 0; i < 3; i++) {
        char *folder = test_folder();
        assert_ok(pb_model_export(golden, folder, cases[i].type, &err));
        pb_model *wanted = open_model(*state, folder);
        test_folder_remove(folder);
        pb_model *model = open_model(*state, test_path(test_data("golden/storage"), cases[i].folder));
        pb_tensor *x = logits_of(model), *y = logits_of(wanted);
        assert_tensor_equal(x, y);
        assert_int_equal(pb_model_parameters(model), pb_model_parameters(golden));
        pb_tensor_unref(x);
        pb_tensor_unref(y);
        pb_model_unref(model);
        pb_model_unref(wanted);
    }
    pb_model_unref(golden);
}

/* ---- what is refused ------------------------------------------------------------------------------------------------------ */

static void torch_open__what_is_no_state_dict__is_refused_by_name(void **state) {
    static const struct {
        const char *name, *text;
        pb_status status;
    } cases[] = {
        {"forbidden.pt", "'posix.system'", PB_ERR_UNSUPPORTED},
        {"module.pt", "'torch.nn.modules.linear.Linear'", PB_ERR_UNSUPPORTED},
        {"number.pt", "'n' of the state dict is no tensor", PB_ERR_UNSUPPORTED},
        {"list.pt", "something else than a state dict", PB_ERR_UNSUPPORTED},
        {"legacy.pt", "before version 1.6", PB_ERR_UNSUPPORTED},
        {"script.pt", "TorchScript", PB_ERR_UNSUPPORTED},
        {"deflated.pt", "compressed", PB_ERR_UNSUPPORTED},
        {"expanded.pt", "'a' of shape [1000]", PB_ERR_FORMAT},
    };
    pb_error err = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        pb_torch *file = NULL;
        assert_error(pb_torch_open(*state, sample(cases[i].name), &file, &err), cases[i].status, cases[i].text);
        assert_non_null(strstr(err.message, cases[i].name));
    }
    pb_torch *file = NULL;
    assert_error(pb_torch_open(*state, test_data("golden/models/gpt2/model.safetensors"), &file, &err), PB_ERR_FORMAT,
                 "does not begin as a zip archive");
    assert_int_equal(access("was_executed", F_OK), -1);
}

static void write_file(const char *path, const void *data, size_t size) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static void torch_open__cut_at_every_byte__is_an_error(void **state) {
    pb_error err = {0};
    char *data = NULL, *folder = test_folder();
    size_t size = 0;
    assert_ok(pb_file_read(*state, sample("tiny.pt"), 1 << 20, &data, &size, &err));
    for (size_t n = 0; n < size; n++) {
        pb_torch *file = NULL;
        write_file(test_path(folder, "cut.pt"), data, n);
        assert_error(pb_torch_open(*state, test_path(folder, "cut.pt"), &file, &err), PB_ERR_FORMAT, "cut.pt");
    }
    pb_free(data);
    test_folder_remove(folder);
}

/* Any byte changed: the file is read or refused; what is read lies in the file (the sanitizers watch). */
static void torch_open__every_byte_changed__does_no_harm(void **state) {
    static const unsigned char masks[] = {0xff, 0x01, 0x80};
    pb_error err = {0};
    char *data = NULL, *folder = test_folder();
    size_t size = 0;
    assert_ok(pb_file_read(*state, sample("tiny.pt"), 1 << 20, &data, &size, &err));
    int refused = 0;
    for (size_t n = 0; n < size; n++) {
        pb_torch *file = NULL;
        data[n] = (char)(data[n] ^ masks[n % 3]);
        write_file(test_path(folder, "bad.pt"), data, size);
        data[n] = (char)(data[n] ^ masks[n % 3]);
        if (pb_torch_open(*state, test_path(folder, "bad.pt"), &file, &err) != PB_OK) {
            refused++;
            continue;
        }
        for (size_t i = 0; i < pb_torch_count(file); i++) {
            pb_tensor *t = NULL;
            if (pb_entry_load(*state, pb_torch_at(file, i), &t, &err) == PB_OK)
                pb_tensor_unref(t);
        }
        pb_torch_close(file);
    }
    assert_true(refused > 150); /* padding, dates and checksums say nothing */
    pb_free(data);
    test_folder_remove(folder);
}

/* ---- pickles ------------------------------------------------------------------------------------------------------------------ */

static pb_status read_pickle(pb_context *ctx, const void *data, size_t size, size_t *n, pb_error *err) {
    pb_pickled *tensors = NULL;
    pb_status status = pb_pickle_read(ctx, data, size, "x.pkl", &tensors, n, err);
    if (status == PB_OK)
        pb_free(tensors);
    return status;
}

#define PICKLE(text) read_pickle(*state, "\x80\x02" text, sizeof("\x80\x02" text) - 1, &n, &err)

static void pickle_read__forbidden_names__are_refused(void **state) {
    pb_error err = {0};
    size_t n;
    assert_error(PICKLE("cos\nsystem\n."), PB_ERR_UNSUPPORTED, "'os.system'");
    assert_error(PICKLE("cbuiltins\neval\n)R."), PB_ERR_UNSUPPORTED, "'builtins.eval'");
    assert_error(PICKLE("X\2\0\0\0osX\6\0\0\0system\x93."), PB_ERR_UNSUPPORTED, "'os.system'");
    assert_error(PICKLE("ctorch._utils\n_rebuild_tensor\n."), PB_ERR_UNSUPPORTED, "_rebuild_tensor'");
    assert_error(PICKLE("ctorch\nFloatStorage.x\n."), PB_ERR_UNSUPPORTED, "FloatStorage.x");
    assert_error(PICKLE("ccollections\nOrderedDict\nX\1\0\0\0a\x85R."), PB_ERR_FORMAT, "OrderedDict");
    assert_error(PICKLE("ctorch\nFloatStorage\n)R."), PB_ERR_FORMAT, "no function");
    assert_error(PICKLE("i__main__\nX\n."), PB_ERR_UNSUPPORTED, "opcode 0x69");
    assert_error(PICKLE("(cos\nsystem\no."), PB_ERR_UNSUPPORTED, "'os.system'");
    assert_ok(PICKLE("}}b."));
}

static void pickle_read__nonsense__is_refused(void **state) {
    pb_error err = {0};
    size_t n;
    assert_ok(PICKLE("}."));
    assert_int_equal(n, 0);
    assert_error(PICKLE("."), PB_ERR_FORMAT, "missing from the stack");
    assert_error(PICKLE(""), PB_ERR_FORMAT, "no end");
    assert_error(PICKLE("}"), PB_ERR_FORMAT, "no end");
    assert_error(PICKLE("}K\1s."), PB_ERR_FORMAT, "");
    assert_error(PICKLE("}(K\1u."), PB_ERR_FORMAT, "key without a value");
    assert_error(PICKLE("](K\1u."), PB_ERR_FORMAT, "");
    assert_error(PICKLE("}K\1K\2s."), PB_ERR_FORMAT, "key 0");
    assert_error(PICKLE("}X\1\0\0\0aK\2s."), PB_ERR_UNSUPPORTED, "'a'");
    assert_error(PICKLE("h\0."), PB_ERR_FORMAT, "not kept");
    assert_error(PICKLE("}r\xff\xff\xff\xff."), PB_ERR_FORMAT, "memo");
    assert_error(PICKLE("X\xff\xff\xff\xff."), PB_ERR_FORMAT, "middle of a value");
    assert_error(PICKLE("\x8d\xff\xff\xff\xff\xff\xff\xff\xff."), PB_ERR_FORMAT, "middle of a value");
    assert_error(PICKLE("\x8a\x09\1\1\1\1\1\1\1\1\1."), PB_ERR_FORMAT, "64 bits");
    assert_error(PICKLE("t."), PB_ERR_FORMAT, "mark");
    assert_error(PICKLE("1."), PB_ERR_FORMAT, "mark");
    assert_error(PICKLE("((\x86."), PB_ERR_FORMAT, "missing from the stack");
    assert_error(PICKLE("K\1Q."), PB_ERR_FORMAT, "no storage");
    assert_error(PICKLE("ctorch._utils\n_rebuild_tensor_v2\n)R."), PB_ERR_FORMAT, "no storage");
    assert_error(PICKLE("ctorch._utils\n_rebuild_parameter\n(K\1K\1K\1tR."), PB_ERR_FORMAT, "no tensor");
    assert_error(read_pickle(*state, "\x80\x06}.", 4, &n, &err), PB_ERR_UNSUPPORTED, "protocol 6");
    assert_error(read_pickle(*state, "}.", 2, &n, &err), PB_ERR_FORMAT, "protocol");
}

/* Deep nesting, a list in itself, and counts beyond everything cost what their bytes cost. */
static void pickle_read__bombs__cost_little(void **state) {
    enum { SIZE = 1 << 20 };
    pb_error err = {0};
    size_t n;
    char *text = malloc(SIZE);
    static const char openers[] = {']', '(', ')', '2', '}'};
    for (size_t k = 0; k < sizeof openers; k++) {
        memset(text, openers[k], SIZE);
        memcpy(text, "\x80\x02]", 3);
        text[SIZE - 1] = '.';
        assert_true(read_pickle(*state, text, SIZE, &n, &err) != PB_OK || openers[k] == '}');
    }
    memset(text + 3, '\x85', SIZE - 4); /* a tuple in a tuple in a tuple ... */
    assert_error(read_pickle(*state, text, SIZE, &n, &err), PB_ERR_UNSUPPORTED, "something else");
    assert_error(PICKLE("]q\0h\0a."), PB_ERR_UNSUPPORTED, "something else");
    assert_error(PICKLE("}q\0X\1\0\0\0ah\0s."), PB_ERR_UNSUPPORTED, "'a'");
    assert_true(pb_context_memory_peak(*state) < 200u * SIZE);
    free(text);
    char *large = calloc(1, 17 << 20);
    assert_error(read_pickle(*state, large, 17 << 20, &n, &err), PB_ERR_UNSUPPORTED, "at most");
    free(large);
}

/* Opcodes at random, from those that the machine knows. */
static void pickle_read__random_programs__do_no_harm(void **state) {
    static const char opcodes[] = "(N\x88\x89JKM\x8a\x8bGX\x8c"
                                  "BC)]}tld\x85\x86\x87"
                                  "aesub\x93R\x81Qqrhj012\x94\x95";
    static const char names[][44] = {"ccollections\nOrderedDict\n", "ctorch._utils\n_rebuild_tensor_v2\n",
                                     "ctorch\nFloatStorage\n", "X\7\0\0\0storage", "X\1\0\0\0a"};
    pb_error err = {0};
    uint64_t seed = 12345;
    int accepted = 0;
    for (int round = 0; round < 20000; round++) {
        char text[256] = "\x80\x02";
        size_t at = 2, n;
        while (at < 150) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            size_t pick = (size_t)(seed >> 33) % 60;
            if (pick < 5) {
                size_t length = pick == 3 ? 12 : pick == 4 ? 6 : strlen(names[pick]);
                memcpy(text + at, names[pick], length);
                at += length;
            } else {
                text[at++] = opcodes[pick % (sizeof opcodes - 1)];
                if (pick % 7 == 0)
                    text[at++] = (char)(seed >> 60);
            }
        }
        text[at++] = '.';
        accepted += read_pickle(*state, text, at, &n, &err) == PB_OK;
    }
    assert_true(accepted >= 0);
}

static void pickle_read__every_byte_changed__does_no_harm(void **state) {
    pb_error err = {0};
    char *data = NULL;
    size_t size = 0, n;
    assert_ok(pb_file_read(*state, sample("small.pt"), 1 << 20, &data, &size, &err));
    static const char begin[] = "\x80\x02}q";
    char *pickle = NULL;
    for (size_t i = 0; i + 4 < size && !pickle; i++)
        pickle = memcmp(data + i, begin, 4) == 0 ? data + i : NULL;
    assert_non_null(pickle);
    size_t length = 0;
    while (memcmp(pickle + length, "u.PK", 4) != 0)
        length++;
    length += 2;
    assert_ok(read_pickle(*state, pickle, length, &n, &err));
    assert_int_equal(n, 8);
    for (size_t i = 0; i < length; i++) {
        char old = pickle[i];
        for (int c = 0; c < 256; c++) {
            pickle[i] = (char)c;
            (void)read_pickle(*state, pickle, length, &n, &err);
        }
        pickle[i] = old;
        assert_true(read_pickle(*state, pickle, i, &n, &err) != PB_OK);
    }
    pb_free(data);
}

/* ---- allocation ---------------------------------------------------------------------------------------------------------------- */

static pb_status open_once(pb_context *ctx, void *user, pb_error *err) {
    pb_torch *file = NULL;
    pb_status status = pb_torch_open(ctx, user, &file, err);
    pb_torch_close(file);
    return status;
}

static pb_status open_model_once(pb_context *ctx, void *user, pb_error *err) {
    pb_model *model = NULL;
    pb_status status = pb_model_open(ctx, user, NULL, &model, err);
    pb_model_unref(model);
    return status;
}

static void torch_open__failing_allocations__leak_nothing(void **state) {
    char path[4096];
    snprintf(path, sizeof path, "%s", sample("small.pt"));
    assert_true(assert_survives_allocation_failure(*state, open_once, path) > 10);
    snprintf(path, sizeof path, "%s", test_data("golden/storage/bin-sharded"));
    assert_true(assert_survives_allocation_failure(*state, open_model_once, path) > 30);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH_CONTEXT(torch_open__types_views_and_orders),
        WITH_CONTEXT(model_open__pytorch_folders__give_the_logits_of_safetensors),
        WITH_CONTEXT(torch_open__what_is_no_state_dict__is_refused_by_name),
        WITH_CONTEXT(torch_open__cut_at_every_byte__is_an_error),
        WITH_CONTEXT(torch_open__every_byte_changed__does_no_harm),
        WITH_CONTEXT(pickle_read__forbidden_names__are_refused),
        WITH_CONTEXT(pickle_read__nonsense__is_refused),
        WITH_CONTEXT(pickle_read__bombs__cost_little),
        WITH_CONTEXT(pickle_read__random_programs__do_no_harm),
        WITH_CONTEXT(pickle_read__every_byte_changed__does_no_harm),
        WITH_CONTEXT(torch_open__failing_allocations__leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
