/* The hub: names, the local cache, and downloads from a server on this machine that plays the hub. */
#include "support.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/gitblob.h"
#include "base/http.h"
#include "hub_server.h"
#include "patchbay/hub.h"

#define COMMIT_A "aaaa1111aaaa1111aaaa1111aaaa1111aaaa1111"
#define COMMIT_B "bbbb2222bbbb2222bbbb2222bbbb2222bbbb2222"
#define COMMIT_C "aaaa3333cccc3333cccc3333cccc3333cccc3333"
#define TOKEN    "hf_abcDEF0123456789secret"

/* ---- what the hub has ------------------------------------------------------------------------------------------------ */

enum { WEIGHTS = 3000, LARGER = 300000 };
static unsigned char weights[WEIGHTS], larger[LARGER];
static const char config_a[] = "{\"model_type\": \"gpt2\"}\n", config_b[] = "{\"model_type\": \"llama\"}\n";
static const char tokenizer[] = "{\"version\": \"1.0\"}";
static const char index_text[] = "{\"metadata\": {}, \"weight_map\": {\"a\": \"model-00001-of-00002.safetensors\", "
                                 "\"b\": \"model-00002-of-00002.safetensors\", "
                                 "\"c\": \"model-00001-of-00002.safetensors\"}}";
#define TEXT(name, text)                                                                                               \
    { name, text, sizeof(text) - 1, false }

static const hub_file files_a[] = {TEXT("README.md", "read me"),
                                   TEXT("config.json", config_a),
                                   TEXT("tokenizer.json", tokenizer),
                                   TEXT("tokenizer_config.json", "{}"),
                                   TEXT("generation_config.json", "{}"),
                                   {"consolidated.safetensors", weights, 10, true},
                                   {"model.safetensors", weights, WEIGHTS, true},
                                   {"pytorch_model.bin", weights, 20, true},
                                   {NULL, NULL, 0, false}};
static const hub_file files_b[] = {TEXT("config.json", config_b),
                                   TEXT("tokenizer.json", tokenizer),
                                   {"model.safetensors", weights, WEIGHTS, true},
                                   {NULL, NULL, 0, false}};
static const hub_file files_sharded[] = {TEXT("config.json", config_a),
                                         TEXT("model.safetensors.index.json", index_text),
                                         {"model-00001-of-00002.safetensors", weights, 700, true},
                                         {"model-00002-of-00002.safetensors", weights + 700, 800, true},
                                         {NULL, NULL, 0, false}};
static const hub_revision revisions[] = {
    {"main", COMMIT_A, files_a}, {"feature/x", COMMIT_B, files_b}, {"sharded", COMMIT_C, files_sharded}};

/* One file as a model of its own: the smallest thing with contents to cut. */
static const hub_file files_tiny[] = {
    TEXT("config.json", "{}"), {"model.safetensors", weights, 41, true}, {NULL, NULL, 0, false}};
static const hub_revision tiny[] = {{"main", COMMIT_A, files_tiny}};

/* ---- a test's own hub ------------------------------------------------------------------------------------------------- */

typedef struct fixture {
    pb_context *ctx;
    char *folder;
    hub_server *server;
    char cache[4096];
    char warnings[4096];
    int release; /* descriptor of a lock, closed as soon as we say that we wait for it; -1: none */
} fixture;

static void on_warning(void *user, const char *message) {
    fixture *f = user;
    size_t n = strlen(f->warnings);
    snprintf(f->warnings + n, sizeof f->warnings - n, "%s\n", message);
    if (f->release >= 0 && strstr(message, "another process")) {
        close(f->release);
        f->release = -1;
    }
}

static int setup(void **state) {
    static const char *const variables[] = {"HF_HUB_CACHE",   "HUGGINGFACE_HUB_CACHE",
                                            "HF_HOME",        "HF_TOKEN",
                                            "HF_TOKEN_PATH",  "HUGGING_FACE_HUB_TOKEN",
                                            "HF_ENDPOINT",    "HF_HUB_OFFLINE",
                                            "XDG_CACHE_HOME", "http_proxy",
                                            "https_proxy",    "HTTP_PROXY",
                                            "HTTPS_PROXY",    "all_proxy",
                                            "ALL_PROXY"};
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++)
        unsetenv(variables[i]);
    fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->ctx = test_context();
    f->folder = test_folder();
    f->release = -1;
    snprintf(f->cache, sizeof f->cache, "%s/hub", f->folder);
    setenv("HOME", f->folder, 1);
    pb_context_on_warning(f->ctx, on_warning, f);
    for (size_t i = 0; i < WEIGHTS; i++)
        weights[i] = (unsigned char)(i * 7 + i / 256);
    for (size_t i = 0; i < LARGER; i++)
        larger[i] = (unsigned char)(i * 11 + i / 251);
    *state = f;
    return 0;
}

static int teardown(void **state) {
    fixture *f = *state;
    hub_server_stop(f->server);
    size_t left = pb_context_memory_used(f->ctx);
    pb_context_unref(f->ctx);
    test_folder_remove(f->folder);
    free(f);
    return left != 0;
}

static void serve_all(fixture *f) { f->server = hub_server_start("org/small", revisions, 3); }

static void serve_tiny(fixture *f) { f->server = hub_server_start("org/small", tiny, 1); }

static pb_hub_options options_of(const fixture *f) {
    return (pb_hub_options){.cache = f->cache,
                            .endpoint = f->server ? hub_server_url(f->server) : "http://127.0.0.1:9",
                            .token = "",
                            .retries = -1,
                            .retry_seconds = -1,
                            .stall_seconds = 5};
}

static pb_hub *make_hub(const fixture *f, const pb_hub_options *o) {
    pb_error err = {0};
    pb_hub *hub = NULL;
    assert_ok(pb_hub_create(f->ctx, o, &hub, &err));
    return hub;
}

/* One download with its own settings; the folder goes to path (may be NULL). */
static pb_status get_with(fixture *f, const pb_hub_options *o, const char *id, char *path, pb_hub_report *report,
                          pb_error *err) {
    pb_hub *hub = make_hub(f, o);
    char *folder = NULL;
    pb_status status = pb_hub_get(hub, id, report, &folder, err);
    if (status == PB_OK && path)
        snprintf(path, 4096, "%s", folder);
    if (status != PB_OK)
        assert_null(folder);
    pb_free(folder);
    pb_hub_free(hub);
    return status;
}

static pb_status get(fixture *f, const char *id, pb_error *err) {
    pb_hub_options o = options_of(f);
    return get_with(f, &o, id, NULL, NULL, err);
}

static pb_status find(fixture *f, const char *id, char *path, pb_error *err) {
    pb_hub_options o = options_of(f);
    pb_hub *hub = make_hub(f, &o);
    char *folder = NULL;
    pb_status status = pb_hub_find(hub, id, &folder, err);
    if (status == PB_OK && path)
        snprintf(path, 4096, "%s", folder);
    pb_free(folder);
    pb_hub_free(hub);
    return status;
}

/* ---- looking at the cache ---------------------------------------------------------------------------------------------- */

static void write_text(const char *path, const char *text) {
    pb_error err = {0};
    pb_context *ctx = test_context();
    char *folder = pb_path_folder(ctx, path);
    assert_ok(pb_folder_create(ctx, folder, &err));
    pb_free(folder);
    assert_ok(pb_file_write(ctx, path, text, strlen(text), &err));
    pb_context_unref(ctx);
}

static bool has_contents(const char *path, const void *data, size_t size) {
    pb_mapping map = {0};
    bool same =
        pb_file_map(path, &map, NULL) == PB_OK && map.size == size && (size == 0 || memcmp(map.data, data, size) == 0);
    pb_file_unmap(&map);
    return same;
}

/* Files in a folder, "." ones included; -1 if there is no folder. */
static int count_entries(const char *folder) {
    DIR *dir = opendir(folder);
    int n = dir ? 0 : -1;
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    if (dir)
        closedir(dir);
    return n;
}

static const char *in_cache(const fixture *f, const char *below) {
    return test_path(test_path(f->cache, "models--org--small"), below);
}

static const char *blob_path(const fixture *f, const hub_file *file, const char *ending) {
    char etag[65], below[128];
    hub_server_etag(file, etag);
    snprintf(below, sizeof below, "blobs/%s%s", etag, ending);
    return in_cache(f, below);
}

static const hub_file *file_of(const hub_file *files, const char *name) {
    while (strcmp(files->name, name) != 0)
        files++;
    return files;
}

/* Requests since the last hub_server_forget whose path contains `part`, of the kind ('h': hub, 's': storage, 'g': any GET,
 * 'a': with an Authorization header, ' ': any). */
static int count_requests(const fixture *f, char kind, const char *part) {
    enum { MOST = 4096 };
    hub_request *list = calloc(MOST, sizeof *list);
    assert_non_null(list);
    size_t n = hub_server_requests(f->server, list, MOST);
    int count = 0;
    for (size_t i = 0; i < n && i < MOST; i++) {
        const hub_request *r = &list[i];
        bool right = kind == 'h'   ? !r->storage
                     : kind == 's' ? r->storage
                     : kind == 'g' ? !r->head
                     : kind == 'a' ? r->authorised
                                   : true;
        count += right && strstr(r->path, part) != NULL;
    }
    free(list);
    return count;
}

/* Start of the Range of the last GET at the storage; -1 without one, -2 without such a GET. */
static long last_range(const fixture *f) {
    enum { MOST = 512 };
    static hub_request list[MOST];
    size_t n = hub_server_requests(f->server, list, MOST);
    for (size_t i = n < MOST ? n : MOST; i-- > 0;)
        if (list[i].storage && !list[i].head)
            return (long)list[i].range_from;
    return -2;
}

/* ---- downloads that succeed -------------------------------------------------------------------------------------------- */

static void hub_get__whole_model__has_the_layout_of_the_hubs_tools(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    pb_hub_report report;
    char path[4096], link[4096] = "", expected[128] = "../../blobs/";
    serve_all(f);
    pb_hub_options o = options_of(f);
    assert_ok(get_with(f, &o, "org/small", path, &report, &err));
    assert_string_equal(path, in_cache(f, "snapshots/" COMMIT_A));
    static const char *const needed[] = {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"};
    for (size_t i = 0; i < 4; i++) {
        const hub_file *file = file_of(files_a, needed[i]);
        assert_true(has_contents(test_path(path, needed[i]), file->data, file->size));
        assert_true(has_contents(blob_path(f, file, ""), file->data, file->size));
    }
    assert_int_equal(count_entries(path), 4);
    assert_int_equal(count_entries(in_cache(f, "blobs")), 4);
    hub_server_etag(file_of(files_a, "model.safetensors"), expected + strlen(expected));
    assert_true(readlink(test_path(path, "model.safetensors"), link, sizeof link - 1) > 0);
    assert_string_equal(link, expected);
    assert_true(has_contents(in_cache(f, "refs/main"), COMMIT_A, 40));
    assert_string_equal(report.commit, COMMIT_A);
    assert_int_equal(report.files, 4);
    assert_int_equal(report.downloaded, 4);
    size_t bytes = WEIGHTS + sizeof config_a + sizeof tokenizer + 2 - 2;
    assert_int_equal(report.bytes, bytes);
    assert_int_equal(report.transferred, bytes);
    assert_int_equal(count_requests(f, 'a', ""), 0);
    assert_int_equal(count_requests(f, 's', "consolidated"), 0);
    assert_int_equal(count_requests(f, ' ', "README"), 0);
    assert_string_equal(f->warnings, "");

    char found[4096];
    assert_ok(find(f, "org/small", found, &err));
    assert_string_equal(found, path);
    hub_server_forget(f->server);
    assert_ok(get_with(f, &o, "org/small", path, &report, &err));
    assert_int_equal(report.downloaded, 0);
    assert_int_equal(report.bytes, bytes);
    assert_int_equal(report.transferred, 0);
    assert_int_equal(count_requests(f, ' ', ""), 1);
}

static void hub_get__two_revisions__share_equal_files(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    pb_hub_report report;
    char path[4096];
    serve_all(f);
    pb_hub_options o = options_of(f);
    assert_ok(get(f, "org/small", &err));
    hub_server_forget(f->server);
    assert_ok(get_with(f, &o, "org/small@feature/x", path, &report, &err));
    assert_string_equal(path, in_cache(f, "snapshots/" COMMIT_B));
    assert_int_equal(report.downloaded, 1);
    assert_int_equal(count_requests(f, 's', ""), 0);
    assert_int_equal(count_entries(in_cache(f, "blobs")), 5);
    assert_true(has_contents(test_path(path, "config.json"), config_b, sizeof config_b - 1));
    assert_true(has_contents(in_cache(f, "refs/feature/x"), COMMIT_B, 40));
    assert_ok(find(f, "org/small@feature/x", path, &err));
    assert_ok(find(f, "org/small@" COMMIT_B, path, &err));
    assert_ok(find(f, "org/small@bbbb2", path, &err));
    assert_string_equal(path, in_cache(f, "snapshots/" COMMIT_B));
    assert_ok(find(f, "org/small", path, &err));
    assert_string_equal(path, in_cache(f, "snapshots/" COMMIT_A));
}

static void hub_get__beginning_of_a_commit__writes_no_ref(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    serve_all(f);
    assert_ok(get(f, "org/small@bbbb2222", &err));
    assert_int_equal(count_entries(in_cache(f, "refs")), -1);
    assert_ok(find(f, "org/small@bbbb2222", NULL, &err));
    assert_error(find(f, "org/small", NULL, &err), PB_ERR_IO, "not its revision 'main'");
    assert_non_null(strstr(err.message, "bbbb2222bbbb"));
}

static void hub_get__shards__are_those_of_the_index(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    pb_hub_report report;
    char path[4096];
    serve_all(f);
    pb_hub_options o = options_of(f);
    assert_ok(get_with(f, &o, "org/small@sharded", path, &report, &err));
    assert_int_equal(report.files, 4);
    assert_int_equal(report.downloaded, 4);
    assert_true(has_contents(test_path(path, "model-00002-of-00002.safetensors"), weights + 700, 800));
    assert_ok(find(f, "org/small@sharded", NULL, &err));

    assert_int_equal(unlink(blob_path(f, &files_sharded[3], "")), 0);
    assert_error(find(f, "org/small@sharded", NULL, &err), PB_ERR_IO, "has no model-00002-of-00002.safetensors");
    assert_non_null(strstr(err.message, "patchbay get org/small@sharded"));
    assert_ok(get_with(f, &o, "org/small@sharded", path, &report, &err));
    assert_int_equal(report.downloaded, 1);
    assert_ok(find(f, "org/small@sharded", NULL, &err));
}

static void hub_get__only_bin_files__takes_them(void **state) {
    static const hub_file files[] = {TEXT("config.json", "{}"),
                                     {"pytorch_model.bin", weights, 100, true},
                                     {"tf_model.h5", weights, 9, true},
                                     {NULL, NULL, 0, false}};
    static const hub_revision only[] = {{"main", COMMIT_A, files}};
    fixture *f = *state;
    pb_error err = {0};
    f->server = hub_server_start("org/small", only, 1);
    assert_ok(get(f, "org/small", &err));
    assert_true(has_contents(in_cache(f, "snapshots/" COMMIT_A "/pytorch_model.bin"), weights, 100));
    assert_int_equal(count_entries(in_cache(f, "snapshots/" COMMIT_A)), 2);
    assert_non_null(strstr(f->warnings, "has no tokenizer.json on the hub"));
}

static void hub_get__redirects_within_the_hub__are_followed(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    serve_all(f);
    hub_server_rules(f->server, (hub_rules){.relative_redirect = true, .token = TOKEN});
    pb_hub_options o = options_of(f);
    o.token = TOKEN;
    assert_ok(get_with(f, &o, "org/small", NULL, NULL, &err));
    assert_true(count_requests(f, 'a', "?cached") > 0);
    assert_true(has_contents(blob_path(f, &files_a[1], ""), config_a, sizeof config_a - 1));
}

static void hub_get__no_content_length__is_whole(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    serve_all(f);
    hub_server_rules(f->server, (hub_rules){.no_length = true});
    assert_ok(get(f, "org/small", &err));
    assert_ok(find(f, "org/small", NULL, &err));
}

/* ---- the token ----------------------------------------------------------------------------------------------------------- */

static void hub_get__token__goes_to_the_hub_alone(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    serve_all(f);
    hub_server_rules(f->server, (hub_rules){.token = TOKEN});
    pb_hub_options o = options_of(f);
    o.token = " " TOKEN "\n";
    assert_ok(get_with(f, &o, "org/small", NULL, NULL, &err));
    enum { MOST = 64 };
    hub_request list[MOST];
    size_t n = hub_server_requests(f->server, list, MOST), storage = 0;
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(list[i].authorised, !list[i].storage);
        storage += list[i].storage;
    }
    assert_int_equal(storage, 1);
    snprintf(f->cache, sizeof f->cache, "%s/hub2", f->folder);
    hub_server_rules(f->server,
                     (hub_rules){.token = "aaaa1111"}); /* part of the commit: hiding it must change no header */
    o.token = "aaaa1111";
    assert_ok(get_with(f, &o, "org/small", NULL, NULL, &err));
}

static void hub_get__token__is_read_where_the_hubs_tools_keep_it(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    serve_all(f);
    hub_server_rules(f->server, (hub_rules){.token = TOKEN});
    pb_hub_options o = options_of(f);
    o.token = NULL;
    assert_error(get_with(f, &o, "org/small", NULL, NULL, &err), PB_ERR_IO, "set HF_TOKEN");
    write_text(test_path(f->folder, ".cache/huggingface/token"), TOKEN "\n");
    assert_ok(get_with(f, &o, "org/small", NULL, NULL, &err));
    setenv("HF_HOME", test_path(f->folder, "elsewhere"), 1);
    assert_error(get_with(f, &o, "org/small", NULL, NULL, &err), PB_ERR_IO, "set HF_TOKEN");
    setenv("HF_TOKEN", TOKEN, 1);
    assert_ok(get_with(f, &o, "org/small", NULL, NULL, &err));
}

static void hub_get__refusals__never_show_the_token(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    serve_all(f);
    pb_hub_options o = options_of(f);
    hub_server_rules(f->server, (hub_rules){.token = "hf_another", .echo_token = true});
    assert_error(get_with(f, &o, "org/small", NULL, NULL, &err), PB_ERR_IO, "refuses 'org/small' (401)");
    assert_non_null(strstr(err.message, "private"));
    o.token = TOKEN;
    assert_error(get_with(f, &o, "org/small", NULL, NULL, &err), PB_ERR_IO, "the token is wrong or old");
    assert_non_null(strstr(err.message, "you sent [31m'Bearer ***'"));
    assert_null(strstr(err.message, TOKEN));
    assert_null(strchr(err.message, 27));
    hub_server_rules(f->server, (hub_rules){.token = "hf_another", .gated = true});
    assert_error(get_with(f, &o, "org/small", NULL, NULL, &err), PB_ERR_IO, "behind a licence (403)");
    assert_null(strstr(err.message, TOKEN));
    static const hub_rules echoes[] = {{.token = TOKEN, .redirect = "ftp://127.0.0.1/" TOKEN "/x"},
                                       {.token = TOKEN, .etag = TOKEN " " TOKEN},
                                       {.token = TOKEN, .commit = TOKEN},
                                       {.token = TOKEN, .api = "{\"sha\": " TOKEN}};
    for (size_t i = 0; i < sizeof echoes / sizeof *echoes; i++) {
        hub_server_rules(f->server, echoes[i]);
        assert_error(get_with(f, &o, "org/small", NULL, NULL, &err), i ? PB_ERR_FORMAT : PB_ERR_IO, NULL);
        assert_null(strstr(err.message, TOKEN));
    }
    assert_null(strstr(f->warnings, TOKEN));
    o.token = "two words";
    assert_error(get_with(f, &o, "org/small", NULL, NULL, &err), PB_ERR_ARGUMENT, "has a space");
    assert_null(strstr(err.message, "two words"));
}

static void hub_get__plain_http_to_elsewhere__sends_no_token(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    pb_hub_options o = options_of(f);
    o.endpoint = "http://hub.invalid";
    o.token = TOKEN;
    o.stall_seconds = 1;
    assert_error(get_with(f, &o, "org/small", NULL, NULL, &err), PB_ERR_IO, "cannot reach http://hub.invalid");
    assert_non_null(strstr(f->warnings, "is not sent"));
    assert_null(strstr(f->warnings, TOKEN));
    assert_true(pb_http_is_private("https://hub.invalid") && pb_http_is_private("http://localhost:80/x"));
    assert_false(pb_http_is_private("http://127.evil.example/") && pb_http_is_private("http://hub.invalid"));
}

/* ---- what is not there ----------------------------------------------------------------------------------------------------- */

static void hub_get__unknown_model__suggests_near_names(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    serve_all(f);
    assert_error(get(f, "org/smal", &err), PB_ERR_IO, "no model 'org/smal' on the hub");
    assert_non_null(strstr(err.message, "did you mean 'org/small'?"));
    assert_error(get(f, "entirely/different", &err), PB_ERR_IO, "names like it: org/small, someone/small-chat, x/y");
    hub_server_rules(f->server, (hub_rules){.hide = 401});
    assert_error(get(f, "org/smal", &err), PB_ERR_IO, "there is no such model, or it is private");
    assert_non_null(strstr(err.message, "did you mean 'org/small'?"));
    assert_int_equal(count_entries(f->cache), -1);
}

static void hub_get__unknown_revision__lists_those_there_are(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    serve_all(f);
    assert_error(get(f, "org/small@mian", &err), PB_ERR_IO, "'org/small' has no revision 'mian' on the hub");
    assert_non_null(strstr(err.message, "did you mean 'org/small@main'?"));
    assert_non_null(strstr(err.message, "There are: main, feature/x, sharded, v1.0"));
}

static void hub_get__no_server__says_so(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    pb_hub_options o = options_of(f);
    o.endpoint = "http://127.0.0.1:1";
    assert_error(get_with(f, &o, "org/small", NULL, NULL, &err), PB_ERR_IO,
                 "cannot reach http://127.0.0.1:1/api/models");
}

static void hub_get__offline__takes_what_is_there(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    serve_all(f);
    pb_hub_options o = options_of(f);
    setenv("HF_HUB_OFFLINE", "yes", 1);
    assert_error(get_with(f, &o, "org/small", NULL, NULL, &err), PB_ERR_IO, "HF_HUB_OFFLINE is set");
    assert_int_equal(count_requests(f, ' ', ""), 0);
    setenv("HF_HUB_OFFLINE", "0", 1);
    assert_ok(get_with(f, &o, "org/small", NULL, NULL, &err));
    setenv("HF_HUB_OFFLINE", "1", 1);
    hub_server_forget(f->server);
    assert_ok(get_with(f, &o, "org/small", NULL, NULL, &err));
    assert_int_equal(count_requests(f, ' ', ""), 0);
}

/* ---- cut, resumed ------------------------------------------------------------------------------------------------------------ */

static void hub_get__cut_at_any_byte__goes_on_there(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    serve_tiny(f);
    const hub_file *file = &files_tiny[1];
    for (size_t at = 0; at < file->size; at++) {
        pb_hub_options o = options_of(f);
        pb_hub_report report;
        char path[4096];
        snprintf(f->cache, sizeof f->cache, "%s/hub%zu", f->folder, at);
        o.cache = f->cache;
        hub_server_rules(f->server, (hub_rules){0});
        write_text(in_cache(f, "x"), "");
        /* config.json whole, so that the cut meets the weights */
        hub_server_rules(f->server, (hub_rules){.cuts = -1, .cut_at = at > 2 ? at : 2, .no_length = at % 2});
        assert_error(get_with(f, &o, "org/small", path, NULL, &err), PB_ERR_IO,
                     at % 2 ? "that the hub announced" : "was cut");
        size_t have = at > 2 ? at : 2;
        assert_true(has_contents(blob_path(f, file, ".incomplete"), weights, have));
        assert_false(pb_file_exists(in_cache(f, "refs/main")));
        assert_error(find(f, "org/small", NULL, &err), PB_ERR_IO, "not its revision 'main'");
        assert_error(find(f, "org/small@" COMMIT_A, NULL, &err), PB_ERR_IO, "has no model.safetensors");
        hub_server_rules(f->server, (hub_rules){0});
        hub_server_forget(f->server);
        assert_ok(get_with(f, &o, "org/small", path, &report, &err));
        assert_int_equal(last_range(f), (long)have);
        assert_int_equal(report.transferred, file->size - have);
        assert_true(has_contents(test_path(path, "model.safetensors"), weights, file->size));
        assert_false(pb_file_exists(blob_path(f, file, ".incomplete")));
    }
}

/* Anywhere in what the server sends, in heads, the API's reply and contents: an error, nothing half-written under a final
 * name, and the next call completes it. */
static void hub_get__cut_anywhere_in_the_conversation__is_an_error_and_goes_on(void **state) {
    enum { STEP = 7 };
    fixture *f = *state;
    pb_error err = {0};
    char path[4096];
    serve_tiny(f);
    pb_status status = PB_ERR_IO;
    size_t budget = 0;
    for (; status != PB_OK; budget += STEP) {
        snprintf(f->cache, sizeof f->cache, "%s/hub%zu", f->folder, budget);
        hub_server_rules(f->server, (hub_rules){.limited = true, .budget = budget});
        pb_hub_options o = options_of(f);
        status = get_with(f, &o, "org/small", path, NULL, &err);
        if (status != PB_OK) {
            if (status != PB_ERR_IO)
                fail_msg("after %zu bytes: %s", budget, err.message);
            for (size_t i = 0; i < 2; i++) { /* there and right, or not there */
                const char *blob = blob_path(f, &files_tiny[i], "");
                if (pb_file_exists(blob))
                    assert_true(has_contents(blob, files_tiny[i].data, files_tiny[i].size));
            }
            assert_false(pb_file_exists(in_cache(f, "refs/main")));
            hub_server_rules(f->server, (hub_rules){0});
            assert_ok(get_with(f, &o, "org/small", path, NULL, &err));
        }
        assert_true(has_contents(test_path(path, "config.json"), "{}", 2));
        assert_true(has_contents(test_path(path, "model.safetensors"), weights, 41));
    }
    assert_true(budget > 1000);
}

static void hub_get__cut_before_the_first_byte__leaves_nothing_that_is_found(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    serve_tiny(f);
    for (size_t at = 0; at < 2; at++) {
        hub_server_rules(f->server, (hub_rules){.cuts = 1, .cut_at = at});
        assert_error(get(f, "org/small", &err), PB_ERR_IO, "was cut");
        assert_non_null(strstr(err.message, "config.json"));
        assert_error(find(f, "org/small@" COMMIT_A, NULL, &err), PB_ERR_IO, "has no config.json");
    }
    assert_ok(get(f, "org/small", &err));
}

static void hub_get__cut_connections__are_tried_again(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    pb_hub_report report;
    char path[4096];
    serve_all(f);
    pb_hub_options o = options_of(f);
    o.retries = 2;
    hub_server_rules(f->server, (hub_rules){.cuts = 5, .cut_at = 500});
    assert_ok(get_with(f, &o, "org/small", path, &report, &err)); /* each try gains bytes */
    assert_true(has_contents(test_path(path, "model.safetensors"), weights, WEIGHTS));
    assert_int_equal(report.transferred, report.bytes);
    assert_int_equal(last_range(f), 2500);
    assert_non_null(strstr(f->warnings, "model.safetensors: cut after 2500 bytes; trying again"));
    snprintf(f->cache, sizeof f->cache, "%s/hub2", f->folder);
    o.cache = f->cache;
    hub_server_rules(f->server, (hub_rules){.failures = 2, .failure_code = 503});
    assert_ok(get_with(f, &o, "org/small", path, &report, &err));
    snprintf(f->cache, sizeof f->cache, "%s/hub3", f->folder);
    hub_server_rules(f->server, (hub_rules){.failures = -1, .failure_code = 503});
    hub_server_forget(f->server);
    assert_error(get_with(f, &o, "org/small", path, &report, &err), PB_ERR_IO, "answers 503");
    assert_int_equal(count_requests(f, ' ', "config.json"), 3);
}

static void hub_get__server_ignores_range__begins_anew(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    pb_hub_report report;
    serve_tiny(f);
    hub_server_rules(f->server, (hub_rules){.cuts = 1, .cut_at = 30});
    assert_error(get(f, "org/small", &err), PB_ERR_IO, "was cut");
    hub_server_rules(f->server, (hub_rules){.ignore_range = true});
    hub_server_forget(f->server);
    pb_hub_options o = options_of(f);
    assert_ok(get_with(f, &o, "org/small", NULL, &report, &err));
    assert_int_equal(last_range(f), 30);
    assert_true(has_contents(blob_path(f, &files_tiny[1], ""), weights, 41));
}

static void hub_get__range_from_elsewhere__is_refused_and_removed(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    serve_tiny(f);
    hub_server_rules(f->server, (hub_rules){.cuts = 1, .cut_at = 30, .wrong_range = true});
    assert_error(get(f, "org/small", &err), PB_ERR_IO, "was cut");
    assert_error(get(f, "org/small", &err), PB_ERR_FORMAT, "was asked for the bytes from 30 and sends those from 29");
    assert_ok(get(f, "org/small", &err));
}

/* ---- what is not what was announced ---------------------------------------------------------------------------------------------- */

static void hub_get__wrong_hash__removes_the_file(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    serve_all(f);
    hub_server_rules(f->server, (hub_rules){.corrupt = 1});
    assert_error(get(f, "org/small", &err), PB_ERR_FORMAT, "config.json is damaged: its git SHA-1 should be");
    assert_int_equal(count_entries(in_cache(f, "blobs")), 0);
    assert_int_equal(count_entries(in_cache(f, "snapshots/" COMMIT_A)), 0);
    assert_ok(get(f, "org/small", &err));
    snprintf(f->cache, sizeof f->cache, "%s/hub2", f->folder);
    hub_server_rules(f->server, (hub_rules){.corrupt = -1});
    write_text(in_cache(f, "snapshots/" COMMIT_A "/config.json"), config_a);
    write_text(in_cache(f, "snapshots/" COMMIT_A "/tokenizer.json"), tokenizer);
    write_text(in_cache(f, "snapshots/" COMMIT_A "/tokenizer_config.json"), "{}");
    assert_error(get(f, "org/small", &err), PB_ERR_FORMAT, "model.safetensors is damaged: its SHA-256 should be");
    assert_non_null(strstr(err.message, "It was removed; try again"));
    assert_int_equal(count_entries(in_cache(f, "blobs")), 0);
}

static void hub_get__damaged_beginning__is_fetched_anew(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    serve_tiny(f);
    write_text(blob_path(f, &files_tiny[1], ".incomplete"), "not what the hub has");
    assert_ok(get(f, "org/small", &err));
    assert_non_null(strstr(f->warnings, "what an earlier download left is damaged"));
    assert_true(has_contents(blob_path(f, &files_tiny[1], ""), weights, 41));
}

static void hub_get__beginning_longer_than_the_file__is_fetched_anew(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    serve_tiny(f);
    write_text(blob_path(f, &files_tiny[1], ".incomplete"), "more than the forty-one bytes that this file really has");
    assert_ok(get(f, "org/small", &err));
    assert_true(has_contents(blob_path(f, &files_tiny[1], ""), weights, 41));
}

static void hub_get__blob_of_wrong_size__is_fetched_anew(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    serve_tiny(f);
    write_text(blob_path(f, &files_tiny[1], ""), "cut by a full disk");
    assert_ok(get(f, "org/small", &err));
    assert_non_null(strstr(f->warnings, "has 18 bytes in the cache instead of 41"));
    assert_true(has_contents(blob_path(f, &files_tiny[1], ""), weights, 41));
}

static void hub_get__size_mismatch__is_an_error(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    serve_tiny(f);
    hub_server_rules(f->server, (hub_rules){.announce = 5});
    assert_error(get(f, "org/small", &err), PB_ERR_IO,
                 "model.safetensors: 41 of the 46 bytes that the hub announced came");
    assert_true(pb_file_exists(blob_path(f, &files_tiny[1], ".incomplete")));
    assert_error(get(f, "org/small", &err), PB_ERR_IO, "41 of the 46 bytes");
    pb_hub_options o = options_of(f);
    o.retries = 3;
    assert_error(get_with(f, &o, "org/small", NULL, NULL, &err), PB_ERR_FORMAT, "41 of the 46 bytes");
    assert_false(pb_file_exists(blob_path(f, &files_tiny[1], ".incomplete")));
    hub_server_rules(f->server, (hub_rules){.announce = -5});
    assert_error(get(f, "org/small", &err), PB_ERR_FORMAT, "more than the 36 bytes that it announced");
    assert_false(pb_file_exists(blob_path(f, &files_tiny[1], ".incomplete")));
    hub_server_rules(f->server, (hub_rules){0});
    assert_ok(get(f, "org/small", &err));
}

static void hub_get__hostile_headers__are_refused(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    serve_tiny(f);
    static const char *const etags[] = {"../../../evil", "", ".hidden", "a/b", "..", "a b"};
    for (size_t i = 0; i < sizeof etags / sizeof *etags; i++) {
        hub_server_rules(f->server, (hub_rules){.etag = etags[i]});
        assert_error(get(f, "org/small", &err), PB_ERR_FORMAT, "no usable etag");
    }
    hub_server_rules(f->server, (hub_rules){.commit = COMMIT_B});
    assert_error(get(f, "org/small", &err), PB_ERR_FORMAT, "asked for commit aaaa1111aaaa");
    static const char *const places[] = {"file:///etc/passwd", "http://me:pw@127.0.0.1/x", "ftp://127.0.0.1/x"};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        hub_server_rules(f->server, (hub_rules){.redirect = places[i]});
        assert_error(get(f, "org/small", &err), PB_ERR_IO, "which is not followed");
        assert_null(strstr(err.message, "me:pw"));
    }
    hub_server_rules(f->server, (hub_rules){.redirect = "/org/small/resolve/" COMMIT_A "/model.safetensors"});
    assert_error(get(f, "org/small", &err), PB_ERR_IO, "more than 10 redirects");
    assert_int_equal(count_entries(f->folder), 1); /* the cache */
}

static void hub_get__malformed_api__is_an_error(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    serve_tiny(f);
    size_t whole =
        strlen("{\"id\": \"org/small\", \"sha\": \"" COMMIT_A "\", \"siblings\": [{\"rfilename\": \"config.json\"}, "
               "{\"rfilename\": \"model.safetensors\"}]}");
    for (size_t n = 1; n < whole; n++) {
        hub_server_rules(f->server, (hub_rules){.api_cut = n});
        assert_error(get(f, "org/small", &err), PB_ERR_FORMAT, "/api/models/org/small/revision/main");
    }
    static const struct {
        const char *text, *message;
        pb_status status;
    } cases[] = {
        {"[]", "sha", PB_ERR_FORMAT},
        {"{\"siblings\": []}", "sha", PB_ERR_FORMAT},
        {"{\"sha\": \"../../../../evil\", \"siblings\": []}", "commit of 40", PB_ERR_FORMAT},
        {"{\"sha\": \"" COMMIT_A "\"}", "siblings", PB_ERR_FORMAT},
        {"{\"sha\": \"" COMMIT_A "\", \"siblings\": {}}", "siblings", PB_ERR_FORMAT},
        {"{\"sha\": \"" COMMIT_A "\", \"siblings\": [1, {}, {\"rfilename\": 3}]}", "no config.json",
         PB_ERR_UNSUPPORTED},
        {"{\"sha\": \"" COMMIT_A
         "\", \"siblings\": [{\"rfilename\": \"config.json\"}, {\"rfilename\": \"m.Q4.gguf\"}]}",
         "(it has m.Q4.gguf)", PB_ERR_UNSUPPORTED},
        {"{\"sha\": \"" COMMIT_A
         "\", \"siblings\": [{\"rfilename\": \"config.json\"}, {\"rfilename\": \"pytorch_model.bin\"}]}",
         "but the hub does not have it (404)", PB_ERR_IO},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        hub_server_rules(f->server, (hub_rules){.api = cases[i].text});
        assert_error(get(f, "org/small", &err), cases[i].status, cases[i].message);
    }
}

static void hub_get__malformed_index__is_an_error(void **state) {
    static const char *const texts[] = {"{\"weight_map\": {\"a\": \"../../../evil\"}}", "{\"weight_map\": {\"a\": 3}}",
                                        "{\"weight_map\": {}}", "{\"weight_map\": [", "{}"};
    fixture *f = *state;
    pb_error err = {0};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const hub_file files[] = {TEXT("config.json", "{}"),
                                  {"model.safetensors.index.json", texts[i], strlen(texts[i]), false},
                                  {NULL, NULL, 0, false}};
        const hub_revision one[] = {{"main", COMMIT_A, files}};
        snprintf(f->cache, sizeof f->cache, "%s/hub%zu", f->folder, i);
        f->server = hub_server_start("org/small", one, 1);
        assert_error(get(f, "org/small", &err), PB_ERR_FORMAT, "model.safetensors.index.json");
        hub_server_stop(f->server);
        f->server = NULL;
    }
}

/* ---- the machine --------------------------------------------------------------------------------------------------------------- */

static void hub_get__disk_errors__are_told(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    static const hub_file files[] = {
        TEXT("config.json", "{}"), {"model.safetensors", larger, LARGER, true}, {NULL, NULL, 0, false}};
    static const hub_revision one[] = {{"main", COMMIT_A, files}};
    f->server = hub_server_start("org/small", one, 1);
    write_text(f->cache, "a file where the cache should be");
    assert_error(get(f, "org/small", &err), PB_ERR_IO, "/hub");
    assert_int_equal(unlink(f->cache), 0);

    struct rlimit before, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 100000;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    pb_status status = get(f, "org/small", &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, handler);
    assert_error(status, PB_ERR_IO, "cannot write");
    assert_non_null(strstr(err.message, "File too large"));
    assert_true(has_contents(blob_path(f, &files[1], ".incomplete"), larger, 100000));
    assert_ok(get(f, "org/small", &err));
    assert_int_equal(last_range(f), 100000);
    assert_true(has_contents(blob_path(f, &files[1], ""), larger, LARGER));
}

static void hub_get__another_download__is_waited_for(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    char etag[65], lock[4200];
    serve_tiny(f);
    hub_server_etag(&files_tiny[1], etag);
    snprintf(lock, sizeof lock, "%s/.locks/models--org--small/%s.lock", f->cache, etag);
    write_text(lock, "");
    int fd = open(lock, O_RDWR);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    pb_hub_options o = options_of(f);
    o.stall_seconds = 1;
    assert_error(get_with(f, &o, "org/small", NULL, NULL, &err), PB_ERR_IO,
                 "another process downloads model.safetensors");
    assert_int_equal(count_requests(f, 's', ""), 0);
    f->release = fd; /* the other ends as soon as we say that we wait */
    assert_ok(get_with(f, &o, "org/small", NULL, NULL, &err));
    assert_int_equal(f->release, -1);
}

static void hub_get__stopped__goes_on_later(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    serve_tiny(f);
    hub_server_rules(f->server, (hub_rules){.cuts = -1, .cut_at = 20, .stall = true, .stop = f->ctx});
    assert_error(get(f, "org/small", &err), PB_ERR_STOPPED, NULL);
    assert_error(get(f, "org/small", &err), PB_ERR_STOPPED, NULL);
    pb_context_clear_stop(f->ctx);
    hub_server_rules(f->server, (hub_rules){0});
    uint64_t have = 0; /* the stop may come before the bytes do */
    assert_ok(pb_file_size(blob_path(f, &files_tiny[1], ".incomplete"), &have, &err));
    assert_true(have == 0 || have == 20);
    assert_ok(get(f, "org/small", &err));
    assert_int_equal(last_range(f), have ? 20 : -1);
}

static void hub_get__silent_connection__is_given_up(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    serve_tiny(f);
    pb_hub_options o = options_of(f);
    o.stall_seconds = 1;
    hub_server_rules(f->server, (hub_rules){.cuts = 1, .cut_at = 20, .stall = true});
    assert_error(get_with(f, &o, "org/small", NULL, NULL, &err), PB_ERR_IO, "nothing came for 1 seconds");
    assert_null(strstr(err.message, "sesame")); /* the storage's signature */
    assert_ok(get(f, "org/small", &err));
    assert_int_equal(last_range(f), 20);
}

static void on_progress(void *user, const char *what, double done, double total) {
    double *seen = user;
    assert_non_null(what);
    assert_true(total == 0 || done <= total);
    seen[0] = done > seen[0] ? done : seen[0];
    seen[1] = total > seen[1] ? total : seen[1];
    seen[2]++;
}

static void hub_get__progress__counts_bytes_of_all_files(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    pb_hub_report report;
    double seen[3] = {0, 0, 0};
    serve_all(f);
    pb_context_on_progress(f->ctx, on_progress, seen);
    pb_hub_options o = options_of(f);
    assert_ok(get_with(f, &o, "org/small", NULL, &report, &err));
    assert_true(seen[2] > 4);
    assert_int_equal((int)seen[0], (int)report.bytes);
    assert_int_equal((int)seen[1], (int)report.bytes);
}

/* ---- failed allocations ----------------------------------------------------------------------------------------------------------- */

static pb_status find_once(pb_context *ctx, void *user, pb_error *err) {
    fixture *f = user;
    pb_hub_options o = options_of(f);
    pb_hub *hub = NULL;
    char *folder = NULL;
    pb_status status = pb_hub_create(ctx, &o, &hub, err);
    if (status == PB_OK)
        status = pb_hub_find(hub, "org/small@sharded", &folder, err);
    pb_free(folder);
    pb_hub_free(hub);
    return status;
}

static pb_status get_once(pb_context *ctx, void *user, pb_error *err) {
    fixture *f = user;
    pb_hub_options o = options_of(f);
    pb_hub *hub = NULL;
    char *folder = NULL;
    o.token = TOKEN;
    pb_status status = pb_hub_create(ctx, &o, &hub, err);
    if (status == PB_OK)
        status = pb_hub_get(hub, "org/small@sharded", NULL, &folder, err);
    pb_free(folder);
    pb_hub_free(hub);
    return status;
}

static void hub__failed_allocations__leave_nothing(void **state) {
    fixture *f = *state;
    serve_all(f);
    uint64_t first =
        assert_survives_allocation_failure(f->ctx, get_once, f); /* each try goes on where the last one ended */
    assert_true(first > 20);
    assert_survives_allocation_failure(f->ctx, get_once, f);
    assert_true(assert_survives_allocation_failure(f->ctx, find_once, f) > 5);
}

/* ---- lookups without a network ------------------------------------------------------------------------------------------------------ */

static void put_snapshot(const fixture *f, const char *model, const char *commit) {
    char path[4400];
    snprintf(path, sizeof path, "%s/%s/snapshots/%s/config.json", f->cache, model, commit);
    write_text(path, "{}");
    snprintf(path, sizeof path, "%s/%s/snapshots/%s/model.safetensors", f->cache, model, commit);
    write_text(path, "weights");
}

static void hub_find__names__are_checked(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    static const char *const wrong[] = {"",        "/",     "a/",          "/b",         "a/b/c",  "a//b",   "../b",
                                        "a/..",    "a/b@",  "a/b@..",      "a/b@x/../y", "a/b@/x", "a/b@-x", "a/b@x y",
                                        "a b/c",   "-a/b",  "a-/b",        "a--b/c",     ".a/b",   "a\\b/c", "a/b@x@y",
                                        "a/b@x\n", "a/b:c", "a/b@.hidden", "a/b@x//y",   "a/b@x."};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_error(find(f, wrong[i], NULL, &err), PB_ERR_ARGUMENT, "no name of a model on the hub");
        assert_false(pb_hub_is_id(wrong[i]));
    }
    char big[400];
    memset(big, 'a', sizeof big);
    big[sizeof big - 1] = '\0';
    assert_false(pb_hub_is_id(big));
    static const char *const right[] = {"gpt2", "org/name", "EleutherAI/pythia-70m@step1000", "a/b@refs/pr/1",
                                        "a/b_c.d-e@v1.0"};
    for (size_t i = 0; i < sizeof right / sizeof *right; i++)
        assert_true(pb_hub_is_id(right[i]));
}

static void hub_find__absent__says_where_it_looked_and_how_to_get_it(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    assert_error(find(f, "org/small", NULL, &err), PB_ERR_IO, "which does not exist");
    assert_non_null(strstr(err.message, f->cache));
    put_snapshot(f, "models--org--small", COMMIT_A);
    write_text(in_cache(f, "refs/main"), COMMIT_A "\n");
    assert_ok(find(f, "org/small", NULL, &err));
    assert_error(find(f, "org/smal@v2", NULL, &err), PB_ERR_IO, "did you mean 'org/small'?");
    assert_non_null(strstr(err.message, "patchbay get org/smal@v2"));
    assert_non_null(strstr(err.message, "models--org--smal"));
}

static void hub_find__commits__by_their_beginning(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    char path[4096];
    put_snapshot(f, "models--org--small", COMMIT_A);
    put_snapshot(f, "models--org--small", COMMIT_C);
    assert_ok(find(f, "org/small@aaaa1", path, &err));
    assert_string_equal(path, in_cache(f, "snapshots/" COMMIT_A));
    assert_error(find(f, "org/small@aaaa", NULL, &err), PB_ERR_ARGUMENT, "beginning of several commits");
    assert_error(find(f, "org/small@aaa", NULL, &err), PB_ERR_IO, "not its revision 'aaa'");
    assert_error(find(f, "org/small", NULL, &err), PB_ERR_IO, "revisions there: none; commits: aaaa");
    write_text(in_cache(f, "refs/aaaa"), COMMIT_C); /* a branch of that name comes first */
    assert_ok(find(f, "org/small@aaaa", path, &err));
    assert_string_equal(path, in_cache(f, "snapshots/" COMMIT_C));
    write_text(in_cache(f, "refs/broken"), "../../../../etc");
    assert_error(find(f, "org/small@broken", NULL, &err), PB_ERR_FORMAT,
                 "should have a commit of 40 hexadecimal digits");
    write_text(in_cache(f, "refs/gone"), COMMIT_B);
    assert_error(find(f, "org/small@gone", NULL, &err), PB_ERR_IO, "has no config.json");
}

static void hub_find__parts_of_a_snapshot__are_named(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    write_text(in_cache(f, "refs/main"), COMMIT_A);
    write_text(in_cache(f, "snapshots/" COMMIT_A "/tokenizer.json"), "{}");
    assert_error(find(f, "org/small", NULL, &err), PB_ERR_IO, "not whole: ");
    write_text(in_cache(f, "snapshots/" COMMIT_A "/config.json"), "{}");
    assert_error(find(f, "org/small", NULL, &err), PB_ERR_IO, "has no model.safetensors. To download");
    assert_int_equal(symlink("../../blobs/gone", in_cache(f, "snapshots/" COMMIT_A "/model.safetensors")), 0);
    assert_error(find(f, "org/small", NULL, &err), PB_ERR_IO, "has no model.safetensors. To download");
    write_text(in_cache(f, "blobs/gone"), "back");
    assert_ok(find(f, "org/small", NULL, &err));
    assert_int_equal(unlink(in_cache(f, "snapshots/" COMMIT_A "/model.safetensors")), 0);
    write_text(in_cache(f, "snapshots/" COMMIT_A "/model.Q8_0.gguf"), "GGUF");
    assert_ok(find(f, "org/small", NULL, &err));
}

static void hub_create__environment__names_the_cache(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    pb_hub *hub = NULL;
    static const struct {
        const char *variable, *value, *cache; /* later ones win */
    } cases[] = {
        {"HOME", "/h", "/h/.cache/huggingface/hub"},
        {"XDG_CACHE_HOME", "/xdg", "/xdg/huggingface/hub"},
        {"HF_HOME", "/hf", "/hf/hub"},
        {"HF_HOME", "~/hf", "/h/hf/hub"},
        {"HUGGINGFACE_HUB_CACHE", "/old/", "/old"},
        {"HF_HUB_CACHE", "/new", "/new"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        setenv(cases[i].variable, cases[i].value, 1);
        assert_ok(pb_hub_create(f->ctx, NULL, &hub, &err));
        assert_string_equal(pb_hub_cache(hub), cases[i].cache);
        assert_string_equal(pb_hub_endpoint(hub), "https://huggingface.co");
        pb_hub_free(hub);
    }
    setenv("HF_ENDPOINT", "https://mirror.example/hub/", 1);
    assert_ok(pb_hub_create(f->ctx, NULL, &hub, &err));
    assert_string_equal(pb_hub_endpoint(hub), "https://mirror.example/hub");
    pb_hub_free(hub);
    static const char *const wrong[] = {"mirror", "ftp://x/", "https://me:pw@x/", "https://x/?q", "https://x /"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        setenv("HF_ENDPOINT", wrong[i], 1);
        assert_error(pb_hub_create(f->ctx, NULL, &hub, &err), PB_ERR_ARGUMENT, "HF_ENDPOINT");
        assert_null(strstr(err.message, "pw@"));
    }
    unsetenv("HF_ENDPOINT");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        unsetenv(cases[i].variable);
    assert_error(pb_hub_create(f->ctx, NULL, &hub, &err), PB_ERR_ARGUMENT, "no place for the hub's cache");
}

/* ---- below ------------------------------------------------------------------------------------------------------------------------------- */

static void git_blob__known_contents__known_names(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    char text[PB_GIT_BLOB_TEXT];
    const char *path = test_path(f->folder, "x");
    write_text(path, "hello\n");
    assert_ok(pb_git_blob_file(f->ctx, path, text, &err));
    assert_string_equal(text, "ce013625030ba8dba906f756967f9e9ca394464a");
    write_text(path, "");
    assert_ok(pb_git_blob_file(f->ctx, path, text, &err));
    assert_string_equal(text, "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
    assert_error(pb_git_blob_file(f->ctx, "/nowhere/at/all", text, &err), PB_ERR_IO, "/nowhere");
}

static void http_text__too_long__is_an_error(void **state) {
    fixture *f = *state;
    pb_error err = {0};
    pb_http *http = NULL;
    pb_http_reply reply;
    char url[256], shown[256], *text = NULL;
    size_t size;
    serve_all(f);
    assert_ok(pb_http_create(f->ctx, NULL, &http, &err));
    snprintf(url, sizeof url, "%s/org/small/resolve/" COMMIT_A "/config.json?secret=1", hub_server_url(f->server));
    assert_ok(pb_http_text(http, url, sizeof config_a - 1, &text, &size, &reply, &err));
    assert_int_equal(size, sizeof config_a - 1);
    assert_string_equal(text, config_a);
    assert_int_equal(reply.code, 200);
    pb_free(text);
    assert_error(pb_http_text(http, url, 5, &text, &size, &reply, &err), PB_ERR_FORMAT, "more than 5 bytes");
    assert_null(strstr(pb_http_shown(url, shown, sizeof shown), "secret"));
    assert_string_equal(pb_http_shown("https://me:pw@host.example:443/a?b#c", shown, sizeof shown),
                        "https://host.example/a");
    pb_http_free(http);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    static const struct CMUnitTest tests[] = {
        TEST(hub_get__whole_model__has_the_layout_of_the_hubs_tools),
        TEST(hub_get__two_revisions__share_equal_files),
        TEST(hub_get__beginning_of_a_commit__writes_no_ref),
        TEST(hub_get__shards__are_those_of_the_index),
        TEST(hub_get__only_bin_files__takes_them),
        TEST(hub_get__redirects_within_the_hub__are_followed),
        TEST(hub_get__no_content_length__is_whole),
        TEST(hub_get__token__goes_to_the_hub_alone),
        TEST(hub_get__token__is_read_where_the_hubs_tools_keep_it),
        TEST(hub_get__refusals__never_show_the_token),
        TEST(hub_get__plain_http_to_elsewhere__sends_no_token),
        TEST(hub_get__unknown_model__suggests_near_names),
        TEST(hub_get__unknown_revision__lists_those_there_are),
        TEST(hub_get__no_server__says_so),
        TEST(hub_get__offline__takes_what_is_there),
        TEST(hub_get__cut_at_any_byte__goes_on_there),
        TEST(hub_get__cut_anywhere_in_the_conversation__is_an_error_and_goes_on),
        TEST(hub_get__cut_before_the_first_byte__leaves_nothing_that_is_found),
        TEST(hub_get__cut_connections__are_tried_again),
        TEST(hub_get__server_ignores_range__begins_anew),
        TEST(hub_get__range_from_elsewhere__is_refused_and_removed),
        TEST(hub_get__wrong_hash__removes_the_file),
        TEST(hub_get__damaged_beginning__is_fetched_anew),
        TEST(hub_get__beginning_longer_than_the_file__is_fetched_anew),
        TEST(hub_get__blob_of_wrong_size__is_fetched_anew),
        TEST(hub_get__size_mismatch__is_an_error),
        TEST(hub_get__hostile_headers__are_refused),
        TEST(hub_get__malformed_api__is_an_error),
        TEST(hub_get__malformed_index__is_an_error),
        TEST(hub_get__disk_errors__are_told),
        TEST(hub_get__another_download__is_waited_for),
        TEST(hub_get__stopped__goes_on_later),
        TEST(hub_get__silent_connection__is_given_up),
        TEST(hub_get__progress__counts_bytes_of_all_files),
        TEST(hub__failed_allocations__leave_nothing),
        TEST(hub_find__names__are_checked),
        TEST(hub_find__absent__says_where_it_looked_and_how_to_get_it),
        TEST(hub_find__commits__by_their_beginning),
        TEST(hub_find__parts_of_a_snapshot__are_named),
        TEST(hub_create__environment__names_the_cache),
        TEST(git_blob__known_contents__known_names),
        TEST(http_text__too_long__is_an_error),
    };
    if (access("/dev/shm", W_OK) == 0) /* hundreds of downloads, each flushed to disk: memory is quicker */
        setenv("TMPDIR", "/dev/shm", 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
