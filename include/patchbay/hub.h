/* The Hugging Face hub: models in its local cache, and downloads into that cache, in the layout that the hub's own tools
 * use and share:
 *     CACHE/models--ORG--NAME/refs/REVISION            the commit that a branch or tag stands for
 *     CACHE/models--ORG--NAME/snapshots/COMMIT/FILE    a relative link to
 *     CACHE/models--ORG--NAME/blobs/ETAG               contents; revisions share what is equal
 *
 * A model is written "org/name" or "org/name@revision"; the revision is a branch, a tag, or (the beginning of) a commit,
 * by default "main". */
#ifndef PATCHBAY_HUB_H
#define PATCHBAY_HUB_H

#include "patchbay/context.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pb_hub pb_hub; /* settings and open connections; makes no request before pb_hub_get */

/* NULL and 0 mean: as the environment says, like the hub's own tools. */
typedef struct pb_hub_options {
    const char *cache;    /* HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub,
                             ~/.cache/huggingface/hub */
    const char *endpoint; /* HF_ENDPOINT, https://huggingface.co */
    const char *token;    /* HF_TOKEN, HUGGING_FACE_HUB_TOKEN, the file HF_TOKEN_PATH or HF_HOME/token; "" for none.
                             Sent to the endpoint alone, and over plain http only to this machine itself. */
    const char *agent;    /* User-Agent; NULL: "patchbay" */
    int offline;          /* 1: no requests, -1: requests; 0: HF_HUB_OFFLINE */
    int retries;          /* how often a cut connection is tried again without a byte gained; -1: never; 0: 5 */
    double retry_seconds; /* before the first new try, doubled each time up to 30; negative: at once; 0: 1 */
    int stall_seconds;    /* a connection on which nothing comes for so long counts as cut, and so does another download
                             that holds the lock and gains nothing; 0: 30 */
} pb_hub_options;

/* options may be NULL. PB_ERR_ARGUMENT: an endpoint that is no http(s) URL, a token with spaces; no place for the cache. */
pb_status pb_hub_create(pb_context *ctx, const pb_hub_options *options, pb_hub **out, pb_error *err);
void pb_hub_free(pb_hub *hub); /* NULL is a no-op */

const char *pb_hub_cache(const pb_hub *hub);    /* borrowed */
const char *pb_hub_endpoint(const pb_hub *hub); /* borrowed, without a '/' at its end */

/* Could text be "org/name", "name", or one of these with "@revision"? */
bool pb_hub_is_id(const char *text);

/* Is anything of the model in the cache, of whatever revision and however little? False for a malformed id. */
bool pb_hub_has(const pb_hub *hub, const char *id);

/* The folder of a model's snapshot in the cache, in a new block (pb_free). Uses no network. PB_ERR_ARGUMENT: id is
 * malformed, or the beginning of several commits. PB_ERR_IO: it is not there, or not all of it; the message says where
 * was looked, what is there, and how to get it. */
pb_status pb_hub_find(pb_hub *hub, const char *id, char **folder, pb_error *err);

typedef struct pb_hub_report {
    char commit[65];
    size_t files;      /* that a load needs */
    size_t downloaded; /* of these, now; the others were there */
    uint64_t bytes;    /* that all of them have together */
    uint64_t
        transferred; /* bytes that came now: less than the sizes of what was downloaded if a download was resumed */
} pb_hub_report;

/* Download what a load needs, as far as it is not there: config.json, tokenizer.json, tokenizer_config.json, and
 * model.safetensors or the files that its index names (else the same of pytorch_model.bin). Returns the snapshot's
 * folder as pb_hub_find does. report may be NULL.
 *
 * Every file is written as blobs/ETAG.incomplete, resumed where it ended (also by another process, later), checked
 * (SHA-256 of large files, git's SHA-1 of small ones, size of all), and only then given its name; the revision is written
 * last. One download of a file at a time, by a lock that the hub's own tools respect too. Progress: bytes of all files
 * (pb_context_progress). Can be stopped.
 *
 * PB_ERR_ARGUMENT: malformed id. PB_ERR_IO: refused (401, 403), unknown (404; near names are suggested), connection, disk.
 * PB_ERR_FORMAT: what came is not what was announced; the wrong file is removed. PB_ERR_UNSUPPORTED: no weights in a known
 * format. */
pb_status pb_hub_get(pb_hub *hub, const char *id, pb_hub_report *report, char **folder, pb_error *err);

#ifdef __cplusplus
}
#endif
#endif
