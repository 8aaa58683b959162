/* HTTP; see http.h. One libcurl handle, reset for every hop; connections stay open between requests. */
#include "base/http.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { DEFAULT_STALL = 30, DISCARDED_MAX = 1 << 20 };

/* Takes the body of a 200 or 206. begin: once, before the first byte, also of an empty body. */
typedef struct body_sink {
    pb_status (*begin)(void *user, const pb_http_reply *reply, pb_error *err);
    pb_status (*add)(void *user, const void *data, size_t size, pb_error *err);
    void *user;
    bool begun;
} body_sink;

struct pb_http {
    pb_context *ctx;
    bool initialised; /* curl_global_init succeeded */
    CURL *easy;
    struct curl_slist *bearer; /* the Authorization header; NULL: no token */
    char *token, *token_url, *agent, *ca_file;
    long stall;
    /* The request under way. */
    pb_http_reply *reply;
    body_sink *sink;
    bool own_origin; /* this hop goes to where the request began */
    size_t discarded;
    double alive;      /* when something came last, seconds of the monotonic clock */
    curl_off_t so_far; /* body bytes then */
    bool stalled;
    bool head_ended;  /* the empty line behind the headers came: libcurl takes a head that is cut for a whole one */
    pb_status failed; /* why a callback ended the transfer */
    pb_error *err;
};

/* ---- URLs -------------------------------------------------------------------------------------------------------- */

typedef struct url_parts {
    char *scheme, *host, *port, *path, *user;
} url_parts;

static void release_parts(url_parts *p) {
    curl_free(p->scheme);
    curl_free(p->host);
    curl_free(p->port);
    curl_free(p->path);
    curl_free(p->user);
    *p = (url_parts){0};
}

/* False for what is no URL, or if memory ran out. */
static bool split_url(const char *url, url_parts *out) {
    *out = (url_parts){0};
    CURLU *u = curl_url();
    bool ok = u && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK &&
              curl_url_get(u, CURLUPART_SCHEME, &out->scheme, 0) == CURLUE_OK &&
              curl_url_get(u, CURLUPART_HOST, &out->host, 0) == CURLUE_OK &&
              curl_url_get(u, CURLUPART_PORT, &out->port, CURLU_DEFAULT_PORT) == CURLUE_OK &&
              curl_url_get(u, CURLUPART_PATH, &out->path, 0) == CURLUE_OK;
    if (ok)
        curl_url_get(u, CURLUPART_USER, &out->user, 0);
    else
        release_parts(out);
    curl_url_cleanup(u);
    return ok;
}

static bool same_origin(const char *a, const char *b) {
    url_parts p, q = {0};
    bool same = split_url(a, &p) && split_url(b, &q) && strcasecmp(p.scheme, q.scheme) == 0 &&
                strcasecmp(p.host, q.host) == 0 && strcmp(p.port, q.port) == 0;
    release_parts(&p);
    release_parts(&q);
    return same;
}

const char *pb_http_shown(const char *url, char *buffer, size_t size) {
    url_parts p;
    if (split_url(url, &p)) {
        bool usual = strcmp(p.port, strcmp(p.scheme, "https") == 0 ? "443" : "80") == 0;
        snprintf(buffer, size, "%s://%s%s%s%s", p.scheme, p.host, usual ? "" : ":", usual ? "" : p.port, p.path);
    } else {
        snprintf(buffer, size, "(no URL)");
    }
    release_parts(&p);
    return buffer;
}

static bool is_http(const char *scheme) { return strcmp(scheme, "https") == 0 || strcmp(scheme, "http") == 0; }

bool pb_http_is_url(const char *url) {
    url_parts p;
    bool ok = split_url(url, &p) && is_http(p.scheme) && !p.user;
    release_parts(&p);
    return ok;
}

bool pb_http_is_private(const char *url) {
    url_parts p;
    bool ok = split_url(url, &p) && (strcmp(p.scheme, "https") == 0 || strcmp(p.host, "localhost") == 0 ||
                                     strncmp(p.host, "127.", 4) == 0 || strcmp(p.host, "[::1]") == 0);
    release_parts(&p);
    return ok;
}

/* ---- headers ----------------------------------------------------------------------------------------------------- */

/* Without control characters. secret (may be NULL) becomes "***": a server's text may repeat what it was sent. */
static void copy_clean(char *out, size_t room, const char *text, size_t length, const char *secret) {
    size_t n = 0, hidden = secret ? strlen(secret) : 0;
    for (size_t i = 0; i < length && n + 4 < room; i++) {
        if (hidden && length - i >= hidden && strncmp(text + i, secret, hidden) == 0) {
            memcpy(out + n, "***", 3);
            n += 3;
            i += hidden - 1;
        } else if ((unsigned char)text[i] >= 32 && text[i] != 127) {
            out[n++] = text[i];
        }
    }
    out[n] = '\0';
}

/* A non-negative decimal number that is the whole text; else -1. */
static int64_t read_count(const char *text) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    return *text >= '0' && *text <= '9' && end != text && !*end && !errno ? (int64_t)value : -1;
}

static void copy_etag(char out[PB_HTTP_VALUE], const char *value) {
    if (strncmp(value, "W/", 2) == 0)
        value += 2;
    size_t n = strlen(value);
    if (n >= 2 && value[0] == '"' && value[n - 1] == '"') {
        value++;
        n -= 2;
    }
    memcpy(out, value, n);
    out[n] = '\0';
}

static void take_header(pb_http *http, const char *name, const char *value) {
    pb_http_reply *r = http->reply;
    if (strcasecmp(name, "content-length") == 0) {
        r->length = read_count(value);
    } else if (strcasecmp(name, "content-range") == 0 && strncasecmp(value, "bytes ", 6) == 0) {
        char start[32];
        snprintf(start, sizeof start, "%.*s", (int)(strcspn(value + 6, "-") % sizeof start), value + 6);
        r->range_start = read_count(start);
    } else if (strcasecmp(name, "retry-after") == 0) {
        r->retry_after = read_count(value);
    } else if (strcasecmp(name, "etag") == 0 && http->own_origin) {
        copy_etag(r->etag, value);
    } else if (strcasecmp(name, "x-linked-etag") == 0 && !r->linked_etag[0]) {
        copy_etag(r->linked_etag, value);
    } else if (strcasecmp(name, "x-linked-size") == 0 && r->linked_size < 0) {
        r->linked_size = read_count(value);
    } else if (strcasecmp(name, "x-repo-commit") == 0 && !r->commit[0]) {
        snprintf(r->commit, sizeof r->commit, "%s", value);
    } else if (strcasecmp(name, "x-error-code") == 0) {
        snprintf(r->error_code, sizeof r->error_code, "%s", value);
    }
}

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* curl: one line, also the status line and the empty last one. */
static size_t on_header(char *data, size_t unit, size_t count, void *user) {
    pb_http *http = user;
    size_t length = unit * count, whole = length;
    while (length && (data[length - 1] == '\r' || data[length - 1] == '\n'))
        length--;
    http->alive = seconds_now();
    if (length == 0)
        http->head_ended = true;
    else if (length > 5 && strncmp(data, "HTTP/", 5) == 0)
        http->head_ended = false;
    const char *colon = memchr(data, ':', length);
    char name[64], value[PB_HTTP_VALUE];
    if (!colon || colon == data || (size_t)(colon - data) >= sizeof name)
        return whole;
    memcpy(name, data, (size_t)(colon - data));
    name[colon - data] = '\0';
    const char *from = colon + 1;
    while (from < data + length && (*from == ' ' || *from == '\t'))
        from++;
    size_t left = (size_t)(data + length - from);
    copy_clean(value, sizeof value, from, left, NULL);
    if (strcasecmp(name, "x-error-message") == 0)
        copy_clean(http->reply->error_text, PB_HTTP_MESSAGE, from, left, http->token);
    else
        take_header(http, name, value);
    return whole;
}

/* ---- the transfer ------------------------------------------------------------------------------------------------ */

static pb_status begin_body(pb_http *http) {
    body_sink *sink = http->sink;
    if (sink->begun)
        return PB_OK;
    sink->begun = true;
    return sink->begin ? sink->begin(sink->user, http->reply, http->err) : PB_OK;
}

static bool is_wanted(const pb_http *http) {
    return http->sink && (http->reply->code == 200 || http->reply->code == 206);
}

/* curl: a piece of the body. Anything but the size ends the transfer. */
static size_t on_body(char *data, size_t unit, size_t count, void *user) {
    pb_http *http = user;
    size_t size = unit * count;
    long code = 0;
    curl_easy_getinfo(http->easy, CURLINFO_RESPONSE_CODE, &code);
    http->reply->code = (int)code;
    if (!is_wanted(http)) { /* the page that goes with an error: read it, within reason, to keep the connection */
        http->discarded += size;
        return http->discarded <= DISCARDED_MAX ? size : 0;
    }
    http->failed = begin_body(http);
    if (http->failed == PB_OK)
        http->failed = http->sink->add(http->sink->user, data, size, http->err);
    return http->failed == PB_OK ? size : 0;
}

/* curl: now and then, at least once a second. */
static int on_tick(void *user, curl_off_t expected, curl_off_t came, curl_off_t to_send, curl_off_t sent) {
    pb_http *http = user;
    (void)expected, (void)to_send, (void)sent;
    double now = seconds_now();
    if (came != http->so_far) {
        http->so_far = came;
        http->alive = now;
    }
    http->stalled = now - http->alive > (double)http->stall;
    if (http->failed == PB_OK)
        http->failed = pb_context_check(http->ctx, http->err);
    return http->failed != PB_OK || http->stalled;
}

static pb_status fail_transfer(pb_http *http, CURLcode code, const char *url, const char *detail) {
    char shown[512];
    pb_http_shown(url, shown, sizeof shown);
    pb_http_reply *r = http->reply;
    switch (code) {
    case CURLE_OUT_OF_MEMORY:
        return pb_fail(http->err, PB_ERR_MEMORY, "out of memory while asking for %s", shown);
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
        r->unreachable = true;
        return pb_fail(http->err, PB_ERR_IO,
                       "cannot reach %s: no machine of that name is known here (is there a network?)", shown);
    case CURLE_COULDNT_CONNECT:
        r->transient = r->unreachable = true;
        return pb_fail(http->err, PB_ERR_IO, "cannot reach %s: %s", shown, detail);
    case CURLE_OPERATION_TIMEDOUT:
        r->transient = true;
        return pb_fail(http->err, PB_ERR_IO, "%s: nothing came for %ld seconds", shown, http->stall);
    case CURLE_PARTIAL_FILE:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
        r->transient = true;
        return pb_fail(http->err, PB_ERR_IO, "%s: the connection was cut (%s)", shown, detail);
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CONNECT_ERROR:
        return pb_fail(http->err, PB_ERR_IO,
                       "%s: no secure connection: %s (SSL_CERT_FILE names the certificates to trust)", shown, detail);
    default:
        return pb_fail(http->err, PB_ERR_IO, "cannot get %s: %s", shown, detail);
    }
}

/* Options of one hop. All setopt calls that copy can fail for memory alone: one sum of their codes is enough. */
static bool set_options(pb_http *http, const char *url, bool head, const char *range, char *detail) {
    CURL *e = http->easy;
    curl_easy_reset(e);
    int bad = 0;
    bad |= (int)curl_easy_setopt(e, CURLOPT_URL, url);
    bad |= (int)curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    bad |= (int)curl_easy_setopt(e, CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
    bad |= (int)curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    bad |= (int)curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
    bad |= (int)curl_easy_setopt(e, CURLOPT_USERAGENT, http->agent);
    bad |= (int)curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT, http->stall);
    bad |= (int)curl_easy_setopt(e, CURLOPT_ERRORBUFFER, detail);
    bad |= (int)curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header);
    bad |= (int)curl_easy_setopt(e, CURLOPT_HEADERDATA, http);
    bad |= (int)curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
    bad |= (int)curl_easy_setopt(e, CURLOPT_WRITEDATA, http);
    bad |= (int)curl_easy_setopt(e, CURLOPT_NOPROGRESS, 0L);
    bad |= (int)curl_easy_setopt(e, CURLOPT_XFERINFOFUNCTION, on_tick);
    bad |= (int)curl_easy_setopt(e, CURLOPT_XFERINFODATA, http);
    if (head)
        bad |= (int)curl_easy_setopt(e, CURLOPT_NOBODY, 1L);
    if (range)
        bad |= (int)curl_easy_setopt(e, CURLOPT_RANGE, range);
    if (http->ca_file)
        bad |= (int)curl_easy_setopt(e, CURLOPT_CAINFO, http->ca_file);
    if (http->bearer && same_origin(url, http->token_url))
        bad |= (int)curl_easy_setopt(e, CURLOPT_HTTPHEADER, http->bearer);
    return bad == 0;
}

static pb_status one_hop(pb_http *http, const char *url, bool head, const char *range) {
    char detail[CURL_ERROR_SIZE] = "";
    pb_http_reply *r = http->reply;
    r->code = 0;
    r->length = r->range_start = r->retry_after = -1;
    r->error_code[0] = r->error_text[0] = '\0';
    http->discarded = 0;
    http->alive = seconds_now();
    http->so_far = 0;
    http->stalled = http->head_ended = false;
    http->failed = PB_OK;
    PB_TRY(pb_context_check(http->ctx, http->err));
    if (!set_options(http, url, head, range, detail))
        return pb_fail(http->err, PB_ERR_MEMORY, "out of memory while preparing a request");
    CURLcode code = curl_easy_perform(http->easy);
    curl_easy_setopt(http->easy, CURLOPT_ERRORBUFFER, NULL); /* it is on this stack */
    long answer = 0;
    curl_easy_getinfo(http->easy, CURLINFO_RESPONSE_CODE, &answer);
    r->code = (int)answer;
    if (http->failed != PB_OK)
        return http->failed;
    if (code == CURLE_WRITE_ERROR && http->discarded > DISCARDED_MAX)
        return PB_OK; /* an error's page without end: its code is known */
    if (http->stalled && code == CURLE_ABORTED_BY_CALLBACK)
        code = CURLE_OPERATION_TIMEDOUT;
    if (code == CURLE_OK && !http->head_ended)
        code = CURLE_GOT_NOTHING;
    if (code != CURLE_OK)
        return fail_transfer(http, code, url, detail[0] ? detail : curl_easy_strerror(code));
    return is_wanted(http) ? begin_body(http) : PB_OK;
}

/* from: first byte wanted. stay: see pb_http_head. */
static pb_status send_request(pb_http *http, const char *first, bool head, bool stay, uint64_t from, body_sink *sink,
                              pb_http_reply *reply, pb_error *err) {
    char range[32], shown[512], next_shown[512];
    snprintf(range, sizeof range, "%llu-", (unsigned long long)from);
    *reply = (pb_http_reply){.length = -1, .range_start = -1, .retry_after = -1, .linked_size = -1};
    http->reply = reply;
    http->sink = sink;
    http->err = err;
    pb_status status = PB_OK;
    char *url = pb_strdup(http->ctx, first);
    if (!url)
        return pb_fail_memory(err, http->ctx, strlen(first), "a URL");
    for (int hop = 0; status == PB_OK; hop++) {
        http->own_origin = same_origin(url, first);
        status = one_hop(http, url, head, from ? range : NULL);
        char *next = NULL; /* libcurl's; relative ones made absolute */
        curl_easy_getinfo(http->easy, CURLINFO_REDIRECT_URL, &next);
        if (status != PB_OK || reply->code < 300 || reply->code > 399 || !next)
            break;
        if (stay && !same_origin(next, first))
            break;
        pb_http_shown(url, shown, sizeof shown);
        pb_http_shown(next, next_shown, sizeof next_shown);
        if (hop == PB_HTTP_REDIRECTS)
            status = pb_fail(err, PB_ERR_IO, "%s: more than %d redirects, the last one to %s", shown, PB_HTTP_REDIRECTS,
                             next_shown);
        else if (!pb_http_is_url(next) || (strncasecmp(url, "https:", 6) == 0 && strncasecmp(next, "https:", 6) != 0))
            status = pb_fail(err, PB_ERR_IO, "%s redirects to %s, which is not followed: https may only lead to https",
                             shown, next_shown);
        char *copy = status == PB_OK ? pb_strdup(http->ctx, next) : NULL;
        if (status == PB_OK && !copy)
            status = pb_fail_memory(err, http->ctx, strlen(next), "a URL");
        pb_free(url);
        url = copy;
    }
    pb_free(url);
    http->reply = NULL;
    http->sink = NULL;
    http->err = NULL;
    return status;
}

pb_status pb_http_head(pb_http *http, const char *url, pb_http_reply *reply, pb_error *err) {
    return send_request(http, url, true, true, 0, NULL, reply, err);
}

/* ---- to memory --------------------------------------------------------------------------------------------------- */

typedef struct text_sink {
    pb_context *ctx;
    char *text;
    size_t length, capacity, max;
} text_sink;

static pb_status add_text(void *user, const void *data, size_t size, pb_error *err) {
    text_sink *t = user;
    if (size > t->max - t->length)
        return pb_fail(err, PB_ERR_FORMAT, "the reply has more than %zu bytes", t->max);
    if (t->length + size >= t->capacity) {
        size_t capacity = 2 * (t->length + size) + 4096;
        char *grown = pb_realloc(t->ctx, t->text, capacity, 1);
        if (!grown)
            return pb_fail_memory(err, t->ctx, capacity, "a server's reply");
        t->text = grown;
        t->capacity = capacity;
    }
    memcpy(t->text + t->length, data, size);
    t->length += size;
    t->text[t->length] = '\0';
    return PB_OK;
}

static pb_status begin_text(void *user, const pb_http_reply *reply, pb_error *err) {
    (void)reply;
    return add_text(user, "", 0, err);
}

pb_status pb_http_text(pb_http *http, const char *url, size_t max_size, char **text, size_t *size, pb_http_reply *reply,
                       pb_error *err) {
    text_sink t = {.ctx = http->ctx, .max = max_size};
    body_sink sink = {begin_text, add_text, &t, false};
    pb_status status = send_request(http, url, false, false, 0, &sink, reply, err);
    if (status == PB_OK && reply->code == 200) {
        *text = t.text;
        *size = t.length;
        return PB_OK;
    }
    pb_free(t.text);
    if (status == PB_OK) {
        *text = NULL;
        *size = 0;
    }
    return status;
}

/* ---- to a file --------------------------------------------------------------------------------------------------- */

typedef struct file_sink {
    int fd;
    const char *path;
    uint64_t have; /* bytes in the file */
    int64_t size;  /* of the whole; -1: unknown */
    pb_http_progress_fn progress;
    void *user;
} file_sink;

static pb_status fail_file(pb_error *err, const char *verb, const char *path, int number) {
    char reason[256];
    if (strerror_r(number, reason, sizeof reason) != 0)
        snprintf(reason, sizeof reason, "error %d", number);
    return pb_fail(err, PB_ERR_IO, "cannot %s '%s': %s", verb, path, reason);
}

static pb_status begin_file(void *user, const pb_http_reply *reply, pb_error *err) {
    file_sink *f = user;
    if (reply->code == 200) { /* all of it, asked for or not */
        if (f->have && (ftruncate(f->fd, 0) != 0 || lseek(f->fd, 0, SEEK_SET) != 0))
            return fail_file(err, "write", f->path, errno);
        f->have = 0;
    } else if (reply->range_start < 0 || (uint64_t)reply->range_start != f->have) {
        return pb_fail(err, PB_ERR_FORMAT, "the server was asked for the bytes from %llu and sends those from %lld",
                       (unsigned long long)f->have, (long long)reply->range_start);
    }
    if (f->progress)
        f->progress(f->user, f->have);
    return PB_OK;
}

static pb_status add_file(void *user, const void *data, size_t size, pb_error *err) {
    file_sink *f = user;
    const char *from = data;
    if (f->size >= 0 && size > (uint64_t)f->size - f->have)
        return pb_fail(err, PB_ERR_FORMAT, "the server sends more than the %lld bytes that it announced",
                       (long long)f->size);
    while (size) {
        ssize_t put = write(f->fd, from, size);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return fail_file(err, "write", f->path, put < 0 ? errno : ENOSPC);
        from += put;
        size -= (size_t)put;
        f->have += (uint64_t)put;
    }
    if (f->progress)
        f->progress(f->user, f->have);
    return PB_OK;
}

pb_status pb_http_file(pb_http *http, const char *url, const char *path, int64_t size, pb_http_progress_fn progress,
                       void *user, pb_http_reply *reply, pb_error *err) {
    *reply = (pb_http_reply){.length = -1, .range_start = -1, .retry_after = -1, .linked_size = -1};
    file_sink f = {.path = path, .size = size, .progress = progress, .user = user};
    f.fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (f.fd < 0)
        return fail_file(err, "write", path, errno);
    struct stat info;
    pb_status status = PB_OK;
    if (fstat(f.fd, &info) != 0)
        status = fail_file(err, "look at", path, errno);
    if (status == PB_OK) {
        f.have = (uint64_t)info.st_size;
        if (size >= 0 && f.have > (uint64_t)size)
            status =
                pb_fail(err, PB_ERR_FORMAT, "'%s' has %llu bytes already, more than the %lld that the whole file has",
                        path, (unsigned long long)f.have, (long long)size);
    }
    body_sink sink = {begin_file, add_file, &f, false};
    if (status == PB_OK)
        status = send_request(http, url, false, false, f.have, &sink, reply, err);
    if (close(f.fd) != 0 && status == PB_OK && errno != EINTR)
        status = fail_file(err, "write", path, errno);
    return status;
}

/* ---- settings ---------------------------------------------------------------------------------------------------- */

static pb_status set_token(pb_http *http, const pb_http_options *o, pb_error *err) {
    for (const char *c = o->token; *c; c++)
        if (*c <= 32 || *c > 126)
            return pb_fail(err, PB_ERR_ARGUMENT, "the token has a space or another character that no token has");
    if (!o->token_url || !pb_http_is_url(o->token_url))
        return pb_fail(err, PB_ERR_ARGUMENT, "a token needs the http or https URL that it is for");
    http->token = pb_strdup(http->ctx, o->token);
    http->token_url = pb_strdup(http->ctx, o->token_url);
    size_t size = strlen(o->token) + 32;
    char *line = pb_alloc(http->ctx, size, 1);
    if (line) {
        snprintf(line, size, "Authorization: Bearer %s", o->token);
        http->bearer = curl_slist_append(NULL, line);
        memset(line, 0, size);
    }
    pb_free(line);
    return http->token && http->token_url && http->bearer ? PB_OK : pb_fail_memory(err, http->ctx, size, "a token");
}

pb_status pb_http_create(pb_context *ctx, const pb_http_options *options, pb_http **out, pb_error *err) {
    static const pb_http_options none = {0};
    const pb_http_options *o = options ? options : &none;
    pb_http *http = pb_alloc_zero(ctx, 1, sizeof *http);
    if (!http)
        return pb_fail_memory(err, ctx, sizeof *http, "a connection");
    http->ctx = pb_context_ref(ctx);
    http->stall = o->stall_seconds > 0 ? o->stall_seconds : DEFAULT_STALL;
    http->initialised = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
    http->easy = http->initialised ? curl_easy_init() : NULL;
    http->agent = pb_strdup(ctx, o->agent ? o->agent : "patchbay");
    http->ca_file = o->ca_file ? pb_strdup(ctx, o->ca_file) : NULL;
    pb_status status = PB_OK;
    if (!http->easy)
        status = pb_fail(err, PB_ERR_UNSUPPORTED, "libcurl cannot be initialised");
    else if (!http->agent || (o->ca_file && !http->ca_file))
        status = pb_fail_memory(err, ctx, sizeof *http, "a connection");
    else if (o->token)
        status = set_token(http, o, err);
    if (status != PB_OK) {
        pb_http_free(http);
        return status;
    }
    *out = http;
    return PB_OK;
}

void pb_http_free(pb_http *http) {
    if (!http)
        return;
    curl_easy_cleanup(http->easy);
    curl_slist_free_all(http->bearer);
    if (http->initialised)
        curl_global_cleanup();
    pb_free(http->token);
    pb_free(http->token_url);
    pb_free(http->agent);
    pb_free(http->ca_file);
    pb_context *ctx = http->ctx;
    pb_free(http);
    pb_context_unref(ctx);
}
