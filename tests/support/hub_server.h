/* A server on this machine that plays the Hugging Face hub: the API, file contents, and a second port that plays the storage
 * to which large files are redirected. It runs in threads, answers one request per connection, and notes what it was
 * asked. What it does wrong is set by rules, between requests. */
#ifndef PB_TEST_HUB_SERVER_H
#define PB_TEST_HUB_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "patchbay/context.h"

typedef struct hub_file {
    const char *name;
    const void *data;
    size_t size;
    bool large; /* LFS: etag is the SHA-256, and contents come from the second port */
} hub_file;

typedef struct hub_revision {
    const char *name, *commit;
    const hub_file *files; /* up to a NULL name */
} hub_revision;

typedef struct hub_rules {
    const char *token; /* requests to the hub need it; NULL: open to all */
    bool gated;        /* refusals are those of a licence */
    bool echo_token;   /* refusals repeat the Authorization header in X-Error-Message */
    int hide;          /* unknown models are answered with this code (404; the real hub says 401) */
    int cuts;          /* of so many replies with contents only `cut_at` body bytes are sent; -1: of all */
    size_t cut_at;
    bool stall;       /* ... and then the connection stays open, silent */
    pb_context *stop; /* ... and this context is stopped */
    int failures;     /* so many requests for contents are answered with failure_code */
    int failure_code;
    bool ignore_range; /* the whole file, whatever was asked */
    bool wrong_range;  /* 206 from another byte than asked */
    int corrupt;       /* in so many replies with contents one bit is wrong */
    bool no_length;    /* contents without Content-Length: the end is where the connection ends */
    bool limited;      /* only `budget` more bytes are sent, heads included; then every reply ends */
    size_t budget;
    int pause_ms;           /* between the halves of contents */
    int64_t announce;       /* X-Linked-Size is wrong by this */
    const char *etag;       /* instead of the right one */
    const char *commit;     /* X-Repo-Commit instead of the right one */
    size_t api_cut;         /* the API's JSON ends after so many bytes (and says that this is its length) */
    const char *api;        /* the API's JSON instead of the right one */
    const char *redirect;   /* Location of large files, instead of the second port */
    bool relative_redirect; /* small files are redirected to another path of the hub first */
} hub_rules;

typedef struct hub_request {
    bool storage; /* it came to the second port */
    bool head;
    bool authorised;    /* there was an Authorization header */
    int64_t range_from; /* -1: none */
    char path[256];     /* with its query */
} hub_request;

typedef struct hub_server hub_server;

/* repo: "org/name". The arrays are borrowed. The test fails if it cannot listen. */
hub_server *hub_server_start(const char *repo, const hub_revision *revisions, size_t n_revisions);
void hub_server_stop(hub_server *server);
const char *hub_server_url(const hub_server *server);       /* "http://127.0.0.1:PORT" */
void hub_server_rules(hub_server *server, hub_rules rules); /* from the next request on */
void hub_server_forget(hub_server *server);                 /* the requests noted so far */
size_t hub_server_requests(const hub_server *server, hub_request *out,
                           size_t most); /* copies; returns how many there were */
/* Etag of a file as the hub makes it: hexadecimal digits. */
void hub_server_etag(const hub_file *file, char text[65]);

#endif
