/* One file of the hub: lock, resume, check, rename, link. See hub.h for what others may rely on. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/gitblob.h"
#include "base/hash.h"
#include "model/hub_private.h"

static pb_status fail_errno(pb_error *err, const char *verb, const char *path) {
    char reason[256];
    int number = errno;
    if (strerror_r(number, reason, sizeof reason) != 0)
        snprintf(reason, sizeof reason, "error %d", number);
    return pb_fail(err, PB_ERR_IO, "cannot %s '%s': %s", verb, path, reason);
}

/* ---- waiting ------------------------------------------------------------------------------------------------------- */

/* Sleeps, looking at the stop flag ten times a second. */
static pb_status sleep_for(const pb_context *ctx, double seconds, pb_error *err) {
    pb_status status = pb_context_check(ctx, err);
    while (status == PB_OK && seconds > 0) {
        double part = seconds < 0.1 ? seconds : 0.1;
        struct timespec pause = {0, (long)(part * 1e9)};
        nanosleep(&pause, NULL);
        seconds -= part;
        status = pb_context_check(ctx, err);
    }
    return status;
}

pb_status pb_hub_wait(pb_hub *hub, double *seconds, pb_error *err) {
    double now = *seconds;
    *seconds = 2 * now < 30 ? 2 * now : now > 30 ? now : 30;
    return sleep_for(hub->ctx, now, err);
}

/* Bytes in a file; 0 if there is none. */
static uint64_t size_of(const char *path) {
    uint64_t size = 0;
    return pb_file_size(path, &size, NULL) == PB_OK ? size : 0;
}

/* ---- one download of a file at a time -------------------------------------------------------------------------------- */

/* The lock's descriptor. Waits while another process downloads the same file, as long as that one gets on with it. */
static pb_status take_lock(pb_hub *hub, const char *path, const char *incomplete, const char *name, int *out,
                           pb_error *err) {
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0)
        return fail_errno(err, "write", path);
    uint64_t seen = size_of(incomplete);
    double idle = 0;
    bool told = false;
    pb_status status = PB_OK;
    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR) {
            status = fail_errno(err, "lock", path);
            break;
        }
        if (!told)
            pb_context_warn(hub->ctx, "%s is being downloaded by another process; waiting for it", name);
        told = true;
        if (idle > hub->stall_seconds)
            status = pb_fail(err, PB_ERR_IO,
                             "another process downloads %s, but gained nothing in %d seconds; end it, or "
                             "wait for it and try again (it holds the lock '%s')",
                             name, hub->stall_seconds, path);
        else
            status = sleep_for(hub->ctx, 0.1, err);
        if (status != PB_OK)
            break;
        uint64_t now = size_of(incomplete);
        idle = now == seen ? idle + 0.1 : 0;
        seen = now;
    }
    if (status == PB_OK)
        *out = fd;
    else
        close(fd);
    return status;
}

/* ---- the bytes ------------------------------------------------------------------------------------------------------- */

static void on_bytes(void *user, uint64_t done) {
    pb_hub_progress *p = user;
    if (done > p->last)
        p->came += done - p->last;
    p->last = done;
    pb_context_progress(p->ctx, p->what, (double)(p->before + done), (double)p->total);
}

static pb_status fail_short(const pb_hub_file *file, uint64_t have, pb_status status, pb_error *err) {
    return pb_fail(err, status, "%s: %llu of the %lld bytes that the hub announced came", file->name,
                   (unsigned long long)have, (long long)file->size);
}

/* One request. *again: it failed on the way, or what came is not all. */
static pb_status fetch_once(pb_hub *hub, const pb_hub_plan *plan, const pb_hub_file *file, const char *url,
                            const char *incomplete, pb_hub_progress *progress, pb_http_reply *reply, bool *again,
                            pb_error *err) {
    progress->last = size_of(incomplete);
    pb_status status = pb_http_file(hub->http, url, incomplete, file->size, on_bytes, progress, reply, err);
    *again = status != PB_OK ? reply->transient : reply->code >= 500 || reply->code == 429 || reply->code == 416;
    if (status != PB_OK)
        return status;
    if (reply->code != 200 && reply->code != 206)
        return pb_hub_refused(hub, &plan->name, file->name, reply, err);
    uint64_t have = size_of(incomplete);
    if (file->size >= 0 && have < (uint64_t)file->size) {
        *again = true;
        return fail_short(file, have, PB_ERR_IO, err);
    }
    return PB_OK;
}

/* Requests until the file is as long as it should be. What came stays when that fails, unless it cannot be of use. */
static pb_status fetch_all(pb_hub *hub, const pb_hub_plan *plan, const pb_hub_file *file, const char *incomplete,
                           pb_hub_progress *progress, pb_error *err) {
    char *url = NULL;
    PB_TRY(pb_hub_file_url(hub, plan, file, &url, err));
    double wait = hub->retry_seconds;
    bool begun_anew = false;
    pb_status status;
    for (int failures = 0;;) {
        pb_http_reply reply;
        bool again;
        uint64_t before = size_of(incomplete);
        if (file->size >= 0 && before == (uint64_t)file->size && pb_file_exists(incomplete)) {
            status = PB_OK;
            break;
        }
        if (file->size >= 0 && before > (uint64_t)file->size)
            unlink(incomplete);
        status = fetch_once(hub, plan, file, url, incomplete, progress, &reply, &again, err);
        if (status == PB_ERR_FORMAT)
            unlink(incomplete);
        if (status == PB_OK || !again)
            break;
        if (reply.code == 416) { /* no such bytes: what is here is longer than the file, or as long */
            unlink(incomplete);
            if (begun_anew) {
                status = fail_short(file, before, PB_ERR_FORMAT, err);
                break;
            }
            begun_anew = true;
            continue;
        }
        uint64_t now = size_of(incomplete);
        if (now > before) {
            failures = 0;
            wait = hub->retry_seconds;
        }
        if (++failures > hub->retries)
            break;
        pb_context_warn(hub->ctx, "%s: cut after %llu bytes; trying again", file->name, (unsigned long long)now);
        if ((status = pb_hub_wait(hub, &wait, err)) != PB_OK)
            break;
    }
    pb_free(url);
    return status;
}

/* ---- is it the right file? ------------------------------------------------------------------------------------------- */

/* The etag of a large file is its SHA-256, of a small one git's SHA-1 of it; a mirror may have others. */
static pb_status check_contents(const pb_hub *hub, const pb_hub_file *file, const char *path, pb_error *err) {
    char text[PB_SHA256_TEXT];
    const char *kind = NULL;
    uint64_t size;
    PB_TRY(pb_file_size(path, &size, err));
    if (file->size >= 0 && size != (uint64_t)file->size)
        return fail_short(file, size, PB_ERR_FORMAT, err);
    if (pb_hub_is_hex(file->etag, 64, 64)) {
        kind = "SHA-256";
        PB_TRY(pb_sha256_file(hub->ctx, path, text, err));
    } else if (pb_hub_is_hex(file->etag, 40, 40)) {
        kind = "git SHA-1";
        pb_status status = pb_git_blob_file(hub->ctx, path, text, err);
        if (status == PB_ERR_UNSUPPORTED)
            return PB_OK; /* a machine that forbids SHA-1: the size is what is left */
        PB_TRY(status);
    }
    if (kind && strcmp(text, file->etag) != 0)
        return pb_fail(err, PB_ERR_FORMAT,
                       "%s is damaged: its %s should be %s, but what came has %s. It was removed; try "
                       "again (if that does not help, the server or a proxy on the way changes it)",
                       file->name, kind, file->etag, text);
    return PB_OK;
}

/* Fetch and check. Contents that are wrong are removed; if part of them was from an earlier download, that part may be what
 * is wrong, and everything is fetched once more. */
static pb_status fetch_checked(pb_hub *hub, const pb_hub_plan *plan, const pb_hub_file *file, const char *incomplete,
                               pb_hub_progress *progress, pb_error *err) {
    pb_status status;
    for (;;) {
        bool resumed = size_of(incomplete) > 0;
        PB_TRY(fetch_all(hub, plan, file, incomplete, progress, err));
        status = check_contents(hub, file, incomplete, err);
        if (status != PB_ERR_FORMAT)
            return status;
        unlink(incomplete);
        if (!resumed)
            return status;
        pb_context_warn(hub->ctx, "%s: what an earlier download left is damaged; starting it anew", file->name);
    }
}

static pb_status publish(const char *incomplete, const char *blob, pb_error *err) {
    int fd = open(incomplete, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fail_errno(err, "open", incomplete);
    pb_status status = fsync(fd) == 0 ? PB_OK : fail_errno(err, "write", incomplete);
    close(fd);
    if (status == PB_OK && rename(incomplete, blob) != 0)
        status = fail_errno(err, "write", blob);
    return status;
}

/* The snapshot's link, made under another name and renamed: there is never none where there was one. */
static pb_status link_blob(pb_hub *hub, const pb_hub_plan *plan, const pb_hub_file *file, pb_error *err) {
    char target[PB_HUB_ETAG + 16], below[PB_HUB_NAME + 96], temporary[PB_HUB_NAME + 128];
    char *link = NULL, *made = NULL;
    snprintf(target, sizeof target, "../../blobs/%s", file->etag);
    snprintf(below, sizeof below, "snapshots/%s/%s", plan->commit, file->name);
    snprintf(temporary, sizeof temporary, "snapshots/%s/.%s.%ld.tmp", plan->commit, file->name, (long)getpid());
    pb_status status = pb_hub_path(hub, &plan->name, below, &link, err);
    if (status == PB_OK)
        status = pb_hub_path(hub, &plan->name, temporary, &made, err);
    if (status == PB_OK) {
        unlink(made);
        if (symlink(target, made) != 0) {
            status = fail_errno(err, "make the link", made);
        } else if (rename(made, link) != 0) {
            status = fail_errno(err, "make the link", link);
            unlink(made);
        }
    }
    pb_free(made);
    pb_free(link);
    return status;
}

pb_status pb_hub_download(pb_hub *hub, const pb_hub_plan *plan, const pb_hub_file *file, pb_hub_progress *progress,
                          bool *downloaded, pb_error *err) {
    char below[PB_HUB_ETAG + 32];
    char *blob = NULL, *incomplete = NULL, *locks = NULL, *lock = NULL;
    int fd = -1;
    snprintf(below, sizeof below, "blobs/%s", file->etag);
    pb_status status = pb_hub_path(hub, &plan->name, below, &blob, err);
    snprintf(below, sizeof below, "blobs/%s.incomplete", file->etag);
    if (status == PB_OK)
        status = pb_hub_path(hub, &plan->name, below, &incomplete, err);
    size_t room = strlen(hub->cache) + sizeof plan->name.folder + 16;
    snprintf(below, sizeof below, "%s.lock", file->etag);
    if (status == PB_OK && !(locks = pb_alloc(hub->ctx, room, 1)))
        status = pb_fail_memory(err, hub->ctx, room, "a path");
    if (status != PB_OK)
        goto done;
    snprintf(locks, room, "%s/.locks/%s", hub->cache, plan->name.folder);
    if (!(lock = pb_path_join(hub->ctx, locks, below)))
        status = pb_fail_memory(err, hub->ctx, room, "a path");
    else
        status = pb_folder_create(hub->ctx, locks, err);
    if (status == PB_OK)
        status = take_lock(hub, lock, incomplete, file->name, &fd, err);
    if (status != PB_OK)
        goto done;
    *downloaded = false;
    if (pb_file_exists(blob) && file->size >= 0 && size_of(blob) != (uint64_t)file->size) {
        pb_context_warn(hub->ctx, "%s has %llu bytes in the cache instead of %lld: it is downloaded anew", file->name,
                        (unsigned long long)size_of(blob), (long long)file->size);
        if (unlink(blob) != 0)
            status = fail_errno(err, "remove", blob);
    }
    if (status == PB_OK && !pb_file_exists(blob)) {
        status = fetch_checked(hub, plan, file, incomplete, progress, err);
        if (status == PB_OK)
            status = publish(incomplete, blob, err);
        *downloaded = true;
    }
    if (status == PB_OK)
        status = link_blob(hub, plan, file, err);
done:
    if (fd >= 0)
        close(fd); /* and with it the lock */
    pb_free(lock);
    pb_free(locks);
    pb_free(incomplete);
    pb_free(blob);
    return status;
}
