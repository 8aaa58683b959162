/* What the files of the hub share: hub.c (settings, names), hub_cache.c (lookup), hub_plan.c (what the hub has, what a load
 * needs), hub_download.c (one file), hub_get.c (all of them). */
#ifndef PB_MODEL_HUB_PRIVATE_H
#define PB_MODEL_HUB_PRIVATE_H

#include "base/http.h"
#include "patchbay/hub.h"

struct pb_hub {
    pb_context *ctx;
    char *cache, *endpoint, *token, *agent, *ca_file; /* token, ca_file: NULL for none */
    const char *token_source;                         /* where the token is from, for messages */
    bool offline;
    int retries; /* at least 0 */
    double retry_seconds;
    int stall_seconds;
    pb_http *http; /* NULL before the first request */
};

enum {
    PB_HUB_REPO = 200,
    PB_HUB_REVISION = 256,
    PB_HUB_ETAG = 132,
    PB_HUB_NAME = 256,
    PB_HUB_FILES = 4200,    /* most files that a load needs */
    PB_HUB_INDEX = 64 << 20 /* largest index of shards, bytes */
};

/* "org/name@revision" taken apart and found well-formed: safe in paths and URLs. */
typedef struct pb_hub_name {
    char repo[PB_HUB_REPO];
    char revision[PB_HUB_REVISION]; /* "main" if none was given */
    char folder[PB_HUB_REPO + 16];  /* models--org--name */
    bool given;                     /* a revision was given */
} pb_hub_name;

pb_status pb_hub_parse(const char *id, pb_hub_name *out, pb_error *err);
bool pb_hub_is_hex(const char *text, size_t least, size_t most);
/* A plain file name: no '/', not hidden, not "..". */
bool pb_hub_is_file_name(const char *name);
/* CACHE/models--org--name/below in a new block. */
pb_status pb_hub_path(const pb_hub *hub, const pb_hub_name *name, const char *below, char **out, pb_error *err);
pb_status pb_hub_connect(pb_hub *hub, pb_error *err);

/* ---- hub_cache.c ------------------------------------------------------------------------------------------------- */

/* Is a snapshot's folder complete? If not, *missing is the first file that a load needs and that is not there. */
pb_status pb_hub_missing(const pb_hub *hub, const char *folder, char missing[PB_HUB_NAME], pb_error *err);
/* Calls add for every file that the index of shards at path names, each once. PB_ERR_FORMAT. */
typedef pb_status (*pb_hub_shard_fn)(void *user, const char *name, pb_error *err);
pb_status pb_hub_each_shard(const pb_hub *hub, const char *path, pb_hub_shard_fn add, void *user, pb_error *err);

/* ---- hub_plan.c -------------------------------------------------------------------------------------------------- */

typedef struct pb_hub_file {
    char name[PB_HUB_NAME];
    char etag[PB_HUB_ETAG]; /* also the name of the blob */
    int64_t size;           /* -1: the hub does not say */
    bool present;           /* in the snapshot already */
} pb_hub_file;

typedef struct pb_hub_plan {
    pb_context *ctx;
    pb_hub_name name;
    char commit[65];
    char index[PB_HUB_NAME]; /* the index that names the weight files; "": the files are listed already */
    pb_hub_file *files;
    size_t n, capacity;
} pb_hub_plan;

/* Ask the hub for the commit and the names of the files; list those that a load needs. plan->name is set. */
pb_status pb_hub_plan_make(pb_hub *hub, pb_hub_plan *plan, pb_error *err);
pb_status pb_hub_plan_add(pb_hub_plan *plan, const char *name, pb_error *err);
/* Etag and size of a file, by a HEAD request. */
pb_status pb_hub_plan_look(pb_hub *hub, const pb_hub_plan *plan, pb_hub_file *file, pb_error *err);
/* URL of a file's contents in a new block. */
pb_status pb_hub_file_url(const pb_hub *hub, const pb_hub_plan *plan, const pb_hub_file *file, char **out,
                          pb_error *err);
/* The message for a reply that is not what was asked for; file may be NULL. Asks for near names after a 404. */
pb_status pb_hub_refused(pb_hub *hub, const pb_hub_name *name, const char *file, const pb_http_reply *reply,
                         pb_error *err);

/* ---- hub_download.c ---------------------------------------------------------------------------------------------- */

typedef struct pb_hub_progress {
    pb_context *ctx;
    const char *what;
    uint64_t before; /* bytes of the files that are done */
    uint64_t total;  /* of all */
    uint64_t last;   /* of the present file, when it was last told */
    uint64_t came;   /* over the network, all files together */
} pb_hub_progress;

/* Wait for a new try of something that failed on the way; doubles *seconds. */
pb_status pb_hub_wait(pb_hub *hub, double *seconds, pb_error *err);
/* Make the blob, if it is not there, and the snapshot's link to it. *downloaded: it was not there. */
pb_status pb_hub_download(pb_hub *hub, const pb_hub_plan *plan, const pb_hub_file *file, pb_hub_progress *progress,
                          bool *downloaded, pb_error *err);

#endif
