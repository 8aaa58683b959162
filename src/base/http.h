/* HTTP(S) GET and HEAD through libcurl: to memory, or to a file with resume. The only place that includes curl headers.
 *
 * Redirects are followed here, not by libcurl, so that two things are certain: the token is sent to one origin (scheme,
 * host and port) only, and https never becomes http. Messages name hosts and paths, never queries (which carry the
 * signatures of storage servers) and never the token. All waiting can be stopped (PB_ERR_STOPPED, within a second).
 * libcurl's memory is malloc's, not charged to the context. Proxies are libcurl's: https_proxy, NO_PROXY. */
#ifndef PB_BASE_HTTP_H
#define PB_BASE_HTTP_H

#include "patchbay/context.h"

typedef struct pb_http pb_http; /* open connections and settings; one request at a time */

typedef struct pb_http_options {
    const char *agent;     /* User-Agent; NULL: "patchbay" */
    const char *token;     /* sent as "Authorization: Bearer TOKEN"; NULL: none */
    const char *token_url; /* ... to the origin of this URL alone; needed with a token */
    const char *ca_file;   /* certificates to trust instead of the system's; NULL: the system's */
    int stall_seconds;     /* give up when nothing came for so long; 0: 30 */
} pb_http_options;

enum { PB_HTTP_VALUE = 256, PB_HTTP_MESSAGE = 512, PB_HTTP_REDIRECTS = 10 };

/* What came back. Header values are "" or -1 where absent or malformed, without control characters. Only error_text is meant
 * to be shown: the token is taken out of it. */
typedef struct pb_http_reply {
    int code;                 /* of the last reply: 200, 206, 404...; 0: none came */
    int64_t length;           /* Content-Length of the last reply */
    int64_t range_start;      /* of Content-Range: bytes START-END/TOTAL */
    int64_t retry_after;      /* seconds */
    char etag[PB_HTTP_VALUE]; /* of the last reply that came from the first URL's origin, without quotes and W/ */
    char linked_etag[PB_HTTP_VALUE]; /* X-Linked-Etag and the like: of the first reply that has one */
    int64_t linked_size;
    char commit[PB_HTTP_VALUE];       /* X-Repo-Commit */
    char error_code[PB_HTTP_VALUE];   /* X-Error-Code */
    char error_text[PB_HTTP_MESSAGE]; /* X-Error-Message */
    bool transient;   /* the failure is one of the way (connection cut, nothing came): trying again may help */
    bool unreachable; /* no connection was made at all */
} pb_http_reply;

/* libcurl is initialised here and released in pb_http_free (it counts). PB_ERR_ARGUMENT for a token that has anything
 * but printable ASCII, or a token_url that is no http(s) URL. */
pb_status pb_http_create(pb_context *ctx, const pb_http_options *options, pb_http **out, pb_error *err);
void pb_http_free(pb_http *http); /* NULL is a no-op */

/* For all of these: PB_OK whenever a complete reply came, whatever its code; *reply is filled on failure too, as far as
 * it came. PB_ERR_IO: no or no complete reply. */

/* Redirects to another origin are not followed: the reply is then the redirect (3xx). */
pb_status pb_http_head(pb_http *http, const char *url, pb_http_reply *reply, pb_error *err);

/* The body of a 200 in a new block (pb_free) with a NUL behind it; *text is NULL for other codes. More than max_size bytes:
 * PB_ERR_FORMAT. */
pb_status pb_http_text(pb_http *http, const char *url, size_t max_size, char **text, size_t *size, pb_http_reply *reply,
                       pb_error *err);

/* done: bytes of the file that are there now. */
typedef void (*pb_http_progress_fn)(void *user, uint64_t done);

/* Append to the file at path what it lacks of url's body: a file of n > 0 bytes is continued with "Range: bytes=n-"; a server
 * that answers with the whole body (200) has the file begun anew. What came stays in the file on failure, so that the next
 * call goes on. Codes other than 200 and 206 leave the file as it was (it may have been created empty).
 * size: of the whole body, -1 if unknown; more than that is never written (PB_ERR_FORMAT). */
pb_status pb_http_file(pb_http *http, const char *url, const char *path, int64_t size, pb_http_progress_fn progress,
                       void *user, pb_http_reply *reply, pb_error *err);

/* ---- URLs -------------------------------------------------------------------------------------------------------- */

/* "https://host:port/path" of a URL for messages, without user, query and fragment. Returns buffer. */
const char *pb_http_shown(const char *url, char *buffer, size_t size);
/* An absolute http or https URL without a user name in it? */
bool pb_http_is_url(const char *url);
/* https, or http to this machine itself (localhost, 127.x.x.x, ::1). */
bool pb_http_is_private(const char *url);

#endif
