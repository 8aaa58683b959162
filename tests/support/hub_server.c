/* The server that plays the hub; see hub_server.h. */
#include "hub_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "support.h"

enum { MOST_REQUESTS = 4096, HEAD_MAX = 8192, PATIENCE_MS = 5000 };

struct hub_server {
    const char *repo;
    const hub_revision *revisions;
    size_t n_revisions;
    int listeners[2], wake[2]; /* hub, storage; a pipe that ends the thread */
    int ports[2];
    char url[64];
    pthread_t thread;
    pthread_mutex_t lock; /* rules and requests */
    hub_rules rules;
    hub_request *requests;
    size_t n_requests;
    int active; /* connections being served, each in a thread */
};

/* One request being answered, with the rules that hold for it. */
typedef struct exchange {
    hub_server *server;
    int fd;
    bool storage;
    hub_rules rules;
    char head[HEAD_MAX], path[256], authorization[256];
    hub_request request;
} exchange;

void hub_server_etag(const hub_file *file, char text[65]) {
    unsigned char bytes[EVP_MAX_MD_SIZE];
    unsigned int n = 0;
    char blob[64];
    EVP_MD_CTX *digest = EVP_MD_CTX_new();
    EVP_DigestInit_ex(digest, file->large ? EVP_sha256() : EVP_sha1(), NULL);
    if (!file->large)
        EVP_DigestUpdate(digest, blob, (size_t)snprintf(blob, sizeof blob, "blob %zu", file->size) + 1);
    EVP_DigestUpdate(digest, file->data, file->size);
    EVP_DigestFinal_ex(digest, bytes, &n);
    EVP_MD_CTX_free(digest);
    for (unsigned int i = 0; i < n; i++)
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
}

/* ---- sending -------------------------------------------------------------------------------------------------------- */

static void send_bytes(exchange *e, const void *data, size_t size) {
    const char *from = data;
    if (e->rules.limited) {
        hub_server *s = e->server;
        pthread_mutex_lock(&s->lock);
        size = size < s->rules.budget ? size : s->rules.budget;
        s->rules.budget -= size;
        pthread_mutex_unlock(&s->lock);
    }
    while (size) {
        ssize_t n = send(e->fd, from, size, MSG_NOSIGNAL);
        if (n <= 0)
            return;
        from += n;
        size -= (size_t)n;
    }
}

/* A reply whose body is a text. extra: more header lines, each with its end. */
static void reply_text(exchange *e, int code, const char *extra, const char *body) {
    char head[2048];
    int n = snprintf(head, sizeof head, "HTTP/1.1 %d Code\r\nContent-Length: %zu\r\nConnection: close\r\n%s\r\n", code,
                     strlen(body), extra);
    send_bytes(e, head, (size_t)n);
    if (!e->request.head)
        send_bytes(e, body, strlen(body));
}

static void refuse(exchange *e, int code, const char *error) {
    char extra[512], echoed[300] = "nothing to see here";
    if (e->rules.echo_token)
        snprintf(echoed, sizeof echoed, "you sent \033[31m'%s'", e->authorization);
    snprintf(extra, sizeof extra, "X-Error-Code: %s\r\nX-Error-Message: %s\r\n", error, echoed);
    reply_text(e, code, extra, "<html>this page is no JSON</html>");
}

/* Takes one from a counter of the server's rules; -1 is endless. */
static bool take(exchange *e, int *counter, int seen) {
    if (seen == 0)
        return false;
    pthread_mutex_lock(&e->server->lock);
    if (*counter > 0)
        --*counter;
    pthread_mutex_unlock(&e->server->lock);
    return true;
}

/* Contents of a file, with the headers in `extra`, as the rules want it. */
static void reply_contents(exchange *e, const hub_file *file, const char *extra) {
    hub_rules *rules = &e->server->rules;
    char head[2048], length[160] = "";
    if (take(e, &rules->failures, e->rules.failures)) {
        reply_text(e, e->rules.failure_code, "", "not now");
        return;
    }
    size_t from = e->request.range_from > 0 && !e->rules.ignore_range ? (size_t)e->request.range_from : 0;
    if (from >= file->size && from > 0) {
        reply_text(e, 416, "", "");
        return;
    }
    if (from && e->rules.wrong_range)
        from--;
    size_t size = file->size - from;
    if (!e->rules.no_length)
        snprintf(length, sizeof length, "Content-Length: %zu\r\n", size);
    if (from)
        snprintf(length + strlen(length), sizeof length - strlen(length), "Content-Range: bytes %zu-%zu/%zu\r\n", from,
                 file->size - 1, file->size);
    int n = snprintf(head, sizeof head, "HTTP/1.1 %d Code\r\nConnection: close\r\n%s%s\r\n", from ? 206 : 200, length,
                     extra);
    send_bytes(e, head, (size_t)n);
    if (e->request.head)
        return;
    char *body = malloc(size + 1);
    memcpy(body, (const char *)file->data + from, size);
    if (size && take(e, &rules->corrupt, e->rules.corrupt))
        body[size / 2] ^= 1;
    bool cut = e->rules.cut_at < size && take(e, &rules->cuts, e->rules.cuts);
    size_t shown = cut ? e->rules.cut_at : size, half = e->rules.pause_ms ? shown / 2 : 0;
    send_bytes(e, body, half);
    if (half)
        usleep((useconds_t)e->rules.pause_ms * 1000);
    send_bytes(e, body + half, shown - half);
    free(body);
    if (cut && e->rules.stop)
        pb_context_stop(e->rules.stop);
    if (cut && e->rules.stall) {
        struct pollfd wait = {.fd = e->fd, .events = POLLIN};
        poll(&wait, 1, PATIENCE_MS);
    }
}

/* ---- the hub -------------------------------------------------------------------------------------------------------- */

static const hub_revision *find_revision(const hub_server *s, const char *name) {
    for (size_t i = 0; i < s->n_revisions; i++)
        if (strcmp(s->revisions[i].name, name) == 0 ||
            (strlen(name) >= 7 && strncmp(s->revisions[i].commit, name, strlen(name)) == 0))
            return &s->revisions[i];
    return NULL;
}

static void decode(char *text) {
    char *to = text;
    for (; *text; text++) {
        unsigned value;
        if (*text == '%' && sscanf(text + 1, "%2x", &value) == 1) {
            *to++ = (char)value;
            text += 2;
        } else {
            *to++ = *text;
        }
    }
    *to = '\0';
}

static void reply_api(exchange *e, const char *rest) {
    char name[256], body[8192];
    snprintf(name, sizeof name, "%s", rest);
    name[strcspn(name, "?")] = '\0';
    decode(name);
    const hub_revision *revision = find_revision(e->server, name);
    if (!revision) {
        refuse(e, 404, "RevisionNotFound");
        return;
    }
    size_t n = (size_t)snprintf(body, sizeof body, "{\"id\": \"%s\", \"sha\": \"%s\", \"siblings\": [", e->server->repo,
                                revision->commit);
    for (const hub_file *f = revision->files; f->name; f++)
        n += (size_t)snprintf(body + n, sizeof body - n, "%s{\"rfilename\": \"%s\"}", f == revision->files ? "" : ", ",
                              f->name);
    snprintf(body + n, sizeof body - n, "]}");
    if (e->rules.api_cut)
        body[e->rules.api_cut] = '\0';
    reply_text(e, 200, "Content-Type: application/json\r\n", e->rules.api ? e->rules.api : body);
}

static void reply_refs(exchange *e) {
    char body[2048] = "{\"branches\": [", commit[64];
    for (size_t i = 0; i < e->server->n_revisions; i++) {
        size_t n = strlen(body);
        snprintf(commit, sizeof commit, "%s", e->server->revisions[i].commit);
        snprintf(body + n, sizeof body - n, "%s{\"name\": \"%s\", \"targetCommit\": \"%s\"}", i ? ", " : "",
                 e->server->revisions[i].name, commit);
    }
    size_t n = strlen(body);
    snprintf(body + n, sizeof body - n, "], \"tags\": [{\"name\": \"v1.0\", \"targetCommit\": \"%s\"}]}", commit);
    reply_text(e, 200, "", body);
}

static const hub_file *find_file(const hub_revision *revision, const char *name) {
    for (const hub_file *f = revision->files; f->name; f++)
        if (strcmp(f->name, name) == 0)
            return f;
    return NULL;
}

/* REPO/resolve/COMMIT/FILE */
static void reply_resolve(exchange *e, const char *rest) {
    char commit[64], name[256], etag[65], extra[1024];
    if (sscanf(rest, "%63[^/]/%255[^?]", commit, name) != 2)
        return;
    const hub_revision *revision = find_revision(e->server, commit);
    const hub_file *file = revision ? find_file(revision, name) : NULL;
    if (!file) {
        refuse(e, 404, "EntryNotFound");
        return;
    }
    hub_server_etag(file, etag);
    const char *shown = e->rules.etag ? e->rules.etag : etag;
    const char *from = e->rules.commit ? e->rules.commit : revision->commit;
    if (!file->large) {
        if (e->rules.relative_redirect && !strstr(rest, "?cached")) {
            snprintf(extra, sizeof extra, "Location: /%s/resolve/%s?cached\r\nX-Repo-Commit: %s\r\n", e->server->repo,
                     rest, from);
            reply_text(e, 307, extra, "");
            return;
        }
        snprintf(extra, sizeof extra, "ETag: W/\"%s\"\r\nX-Repo-Commit: %s\r\n", shown, from);
        reply_contents(e, file, extra);
        return;
    }
    char location[512];
    snprintf(location, sizeof location, "http://127.0.0.1:%d/storage/%s/%s?Signature=sesame", e->server->ports[1],
             commit, name);
    snprintf(extra, sizeof extra,
             "Location: %s\r\nX-Linked-Etag: \"%s\"\r\nX-Linked-Size: %lld\r\nX-Repo-Commit: %s\r\nETag: "
             "\"of-the-reply\"\r\n",
             e->rules.redirect ? e->rules.redirect : location, shown,
             (long long)file->size + (long long)e->rules.announce, from);
    reply_text(e, 302, extra, "Found. Redirecting");
}

static void answer_storage(exchange *e) {
    char commit[64], name[256];
    const hub_revision *revision = NULL;
    if (sscanf(e->path, "/storage/%63[^/]/%255[^?]", commit, name) == 2)
        revision = find_revision(e->server, commit);
    const hub_file *file = revision ? find_file(revision, name) : NULL;
    if (file)
        reply_contents(e, file, "ETag: \"of-the-storage\"\r\n");
    else
        reply_text(e, 403, "", "AccessDenied");
}

static void answer_hub(exchange *e) {
    char api[300], files[300], expected[256];
    int a = snprintf(api, sizeof api, "/api/models/%s/", e->server->repo);
    int f = snprintf(files, sizeof files, "/%s/resolve/", e->server->repo);
    bool known = strncmp(e->path, api, (size_t)a) == 0 || strncmp(e->path, files, (size_t)f) == 0;
    snprintf(expected, sizeof expected, "Bearer %s", e->rules.token ? e->rules.token : "");
    if (strncmp(e->path, "/api/models?", 12) == 0)
        reply_text(e, 200, "", "[{\"id\": \"org/small\"}, {\"id\": \"someone/small-chat\"}, {\"modelId\": \"x/y\"}]");
    else if (!known)
        refuse(e, e->rules.hide ? e->rules.hide : 404, "RepoNotFound");
    else if (e->rules.token && strcmp(e->authorization, expected) != 0)
        refuse(e, e->rules.gated ? 403 : 401, e->rules.gated ? "GatedRepo" : "RepoNotFound");
    else if (strncmp(e->path, files, (size_t)f) == 0)
        reply_resolve(e, e->path + f);
    else if (strncmp(e->path + a, "revision/", 9) == 0)
        reply_api(e, e->path + a + 9);
    else if (strcmp(e->path + a, "refs") == 0)
        reply_refs(e);
    else
        refuse(e, 404, "EntryNotFound");
}

/* ---- receiving ------------------------------------------------------------------------------------------------------ */

static bool read_head(exchange *e) {
    size_t n = 0;
    while (n < sizeof e->head - 1) {
        struct pollfd wait = {.fd = e->fd, .events = POLLIN};
        if (poll(&wait, 1, PATIENCE_MS) != 1)
            return false;
        ssize_t got = recv(e->fd, e->head + n, sizeof e->head - 1 - n, 0);
        if (got <= 0)
            return false;
        n += (size_t)got;
        e->head[n] = '\0';
        if (strstr(e->head, "\r\n\r\n"))
            return true;
    }
    return false;
}

static void read_request(exchange *e) {
    char method[16] = "";
    sscanf(e->head, "%15s %255s", method, e->path);
    e->request = (hub_request){.storage = e->storage, .head = strcmp(method, "HEAD") == 0, .range_from = -1};
    snprintf(e->request.path, sizeof e->request.path, "%s", e->path);
    for (char *line = strstr(e->head, "\r\n"); line && line[2]; line = strstr(line + 2, "\r\n")) {
        long long from;
        if (strncasecmp(line + 2, "authorization: ", 15) == 0) {
            e->request.authorised = true;
            snprintf(e->authorization, sizeof e->authorization, "%.*s", (int)strcspn(line + 17, "\r"), line + 17);
        } else if (strncasecmp(line + 2, "range: bytes=", 13) == 0 && sscanf(line + 15, "%lld-", &from) == 1) {
            e->request.range_from = from;
        }
    }
}

static void *serve(void *argument) {
    exchange *e = argument;
    hub_server *s = e->server;
    if (read_head(e)) {
        read_request(e);
        pthread_mutex_lock(&s->lock);
        e->rules = s->rules;
        if (s->n_requests < MOST_REQUESTS)
            s->requests[s->n_requests++] = e->request;
        pthread_mutex_unlock(&s->lock);
        if (e->storage)
            answer_storage(e);
        else
            answer_hub(e);
    }
    shutdown(e->fd, SHUT_WR);
    close(e->fd);
    free(e);
    pthread_mutex_lock(&s->lock);
    s->active--;
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static void serve_in_thread(hub_server *s, int fd, bool storage) {
    exchange *e = calloc(1, sizeof *e);
    pthread_t thread;
    if (!e) {
        close(fd);
        return;
    }
    *e = (exchange){.server = s, .fd = fd, .storage = storage};
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)); /* head and body are sent apart */
    pthread_mutex_lock(&s->lock);
    s->active++;
    pthread_mutex_unlock(&s->lock);
    if (pthread_create(&thread, NULL, serve, e) == 0)
        pthread_detach(thread);
    else
        serve(e);
}

static void *run(void *argument) {
    hub_server *s = argument;
    for (;;) {
        struct pollfd wait[3] = {{.fd = s->listeners[0], .events = POLLIN},
                                 {.fd = s->listeners[1], .events = POLLIN},
                                 {.fd = s->wake[0], .events = POLLIN}};
        if (poll(wait, 3, -1) < 0)
            continue;
        if (wait[2].revents)
            return NULL;
        for (int i = 0; i < 2; i++) {
            int fd = wait[i].revents ? accept(s->listeners[i], NULL, NULL) : -1;
            if (fd >= 0)
                serve_in_thread(s, fd, i == 1);
        }
    }
}

/* ---- life ----------------------------------------------------------------------------------------------------------- */

static int listen_here(int *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 64), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    *port = ntohs(address.sin_port);
    return fd;
}

hub_server *hub_server_start(const char *repo, const hub_revision *revisions, size_t n_revisions) {
    hub_server *s = calloc(1, sizeof *s);
    assert_non_null(s);
    s->repo = repo;
    s->revisions = revisions;
    s->n_revisions = n_revisions;
    s->requests = calloc(MOST_REQUESTS, sizeof *s->requests);
    assert_non_null(s->requests);
    for (int i = 0; i < 2; i++)
        s->listeners[i] = listen_here(&s->ports[i]);
    assert_int_equal(pipe(s->wake), 0);
    snprintf(s->url, sizeof s->url, "http://127.0.0.1:%d", s->ports[0]);
    pthread_mutex_init(&s->lock, NULL);
    assert_int_equal(pthread_create(&s->thread, NULL, run, s), 0);
    return s;
}

void hub_server_stop(hub_server *s) {
    if (!s)
        return;
    if (write(s->wake[1], "x", 1) == 1)
        pthread_join(s->thread, NULL);
    for (bool busy = true; busy;) {
        pthread_mutex_lock(&s->lock);
        busy = s->active > 0;
        pthread_mutex_unlock(&s->lock);
        if (busy)
            usleep(1000);
    }
    for (int i = 0; i < 2; i++) {
        close(s->listeners[i]);
        close(s->wake[i]);
    }
    pthread_mutex_destroy(&s->lock);
    free(s->requests);
    free(s);
}

const char *hub_server_url(const hub_server *s) { return s->url; }

void hub_server_rules(hub_server *s, hub_rules rules) {
    pthread_mutex_lock(&s->lock);
    s->rules = rules;
    pthread_mutex_unlock(&s->lock);
}

void hub_server_forget(hub_server *s) {
    pthread_mutex_lock(&s->lock);
    s->n_requests = 0;
    pthread_mutex_unlock(&s->lock);
}

size_t hub_server_requests(const hub_server *server, hub_request *out, size_t most) {
    hub_server *s = (hub_server *)(uintptr_t)server;
    pthread_mutex_lock(&s->lock);
    size_t n = s->n_requests;
    for (size_t i = 0; i < n && i < most; i++)
        out[i] = s->requests[i];
    pthread_mutex_unlock(&s->lock);
    return n;
}
