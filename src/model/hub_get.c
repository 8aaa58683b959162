/* A whole model from the hub; see hub.h. The order matters: contents, then links, then the revision's name, so that what is
 * found through a name is whole. */
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

#include "base/file.h"
#include "model/hub_private.h"

static pb_status make_folder(const pb_hub *hub, const pb_hub_plan *plan, const char *below, pb_error *err) {
    char *path = NULL;
    PB_TRY(pb_hub_path(hub, &plan->name, below, &path, err));
    pb_status status = pb_folder_create(hub->ctx, path, err);
    pb_free(path);
    return status;
}

/* Which of the files from `first` on are in the snapshot already? Asks the hub about the others. */
static pb_status look_at_files(pb_hub *hub, pb_hub_plan *plan, const char *snapshot, size_t first, pb_error *err) {
    for (size_t i = first; i < plan->n; i++) {
        pb_hub_file *file = &plan->files[i];
        char *path = pb_path_join(hub->ctx, snapshot, file->name);
        if (!path)
            return pb_fail_memory(err, hub->ctx, strlen(snapshot), "a path");
        uint64_t size;
        file->present = pb_file_exists(path) && pb_file_size(path, &size, NULL) == PB_OK;
        if (file->present)
            file->size = (int64_t)size;
        pb_free(path);
        pb_context_progress(hub->ctx, "asking for sizes", 0, 0);
        if (!file->present)
            PB_TRY(pb_hub_plan_look(hub, plan, file, err));
    }
    return PB_OK;
}

static pb_status add_shard(void *user, const char *name, pb_error *err) { return pb_hub_plan_add(user, name, err); }

/* The index comes before the weight files: it has their names. */
static pb_status read_index(pb_hub *hub, pb_hub_plan *plan, const char *snapshot, pb_hub_progress *progress,
                            bool *downloaded, pb_error *err) {
    pb_hub_file *file = NULL;
    for (size_t i = 0; i < plan->n; i++)
        if (strcmp(plan->files[i].name, plan->index) == 0)
            file = &plan->files[i];
    *downloaded = false;
    if (!file)
        return PB_OK;
    if (!file->present) {
        progress->what = file->name;
        progress->before = 0;
        progress->total = file->size > 0 ? (uint64_t)file->size : 0;
        PB_TRY(pb_hub_download(hub, plan, file, progress, downloaded, err));
        file->present = true;
    }
    char *path = pb_path_join(hub->ctx, snapshot, plan->index);
    if (!path)
        return pb_fail_memory(err, hub->ctx, strlen(snapshot), "a path");
    size_t first = plan->n;
    pb_status status = pb_hub_each_shard(hub, path, add_shard, plan, err);
    pb_free(path);
    return status == PB_OK ? look_at_files(hub, plan, snapshot, first, err) : status;
}

/* Room on the disk for what is still to come (what an interrupted download left counts as present). */
static pb_status check_space(const pb_hub *hub, const pb_hub_plan *plan, pb_error *err) {
    uint64_t needed = 0;
    for (size_t i = 0; i < plan->n; i++) {
        const pb_hub_file *file = &plan->files[i];
        if (file->present || file->size <= 0)
            continue;
        char below[PB_HUB_ETAG + 32], *path = NULL;
        uint64_t have = 0;
        snprintf(below, sizeof below, "blobs/%s", file->etag);
        PB_TRY(pb_hub_path(hub, &plan->name, below, &path, err));
        bool there = pb_file_exists(path);
        pb_free(path);
        snprintf(below, sizeof below, "blobs/%s.incomplete", file->etag);
        PB_TRY(pb_hub_path(hub, &plan->name, below, &path, err));
        if (pb_file_size(path, &have, NULL) != PB_OK || have > (uint64_t)file->size)
            have = 0;
        pb_free(path);
        if (!there)
            needed += (uint64_t)file->size - have;
    }
    struct statvfs disk;
    if (statvfs(hub->cache, &disk) != 0)
        return PB_OK; /* it does not say: writing will */
    double room = (double)disk.f_bavail * (double)disk.f_frsize;
    if ((double)needed > room)
        return pb_fail(err, PB_ERR_IO,
                       "'%s' needs %.1f GB more on the disk of '%s', which has %.1f GB left (HF_HUB_CACHE or "
                       "HF_HOME names another place)",
                       plan->name.repo, (double)needed / 1e9, hub->cache, room / 1e9);
    return PB_OK;
}

/* refs/REVISION, unless the revision is the commit itself or the beginning of it. */
static pb_status write_ref(const pb_hub *hub, const pb_hub_plan *plan, pb_error *err) {
    char below[PB_HUB_REVISION + 8], *path = NULL, *folder = NULL;
    const char *revision = plan->name.revision;
    if (strncmp(plan->commit, revision, strlen(revision)) == 0)
        return PB_OK;
    snprintf(below, sizeof below, "refs/%s", revision);
    PB_TRY(pb_hub_path(hub, &plan->name, below, &path, err));
    pb_status status = PB_OK;
    if (!(folder = pb_path_folder(hub->ctx, path)))
        status = pb_fail_memory(err, hub->ctx, strlen(path), "a path");
    if (status == PB_OK)
        status = pb_folder_create(hub->ctx, folder, err);
    if (status == PB_OK)
        status = pb_file_write(hub->ctx, path, plan->commit, strlen(plan->commit), err);
    pb_free(folder);
    pb_free(path);
    return status;
}

static pb_status get_files(pb_hub *hub, pb_hub_plan *plan, const char *snapshot, pb_hub_report *report, pb_error *err) {
    pb_hub_progress progress = {.ctx = hub->ctx};
    bool downloaded;
    PB_TRY(look_at_files(hub, plan, snapshot, 0, err));
    PB_TRY(read_index(hub, plan, snapshot, &progress, &downloaded, err));
    report->downloaded = downloaded;
    PB_TRY(check_space(hub, plan, err));
    progress.before = progress.total = 0;
    for (size_t i = 0; i < plan->n; i++)
        progress.total += plan->files[i].size > 0 ? (uint64_t)plan->files[i].size : 0;
    for (size_t i = 0; i < plan->n; i++) {
        pb_hub_file *file = &plan->files[i];
        progress.what = file->name;
        if (!file->present) {
            PB_TRY(pb_hub_download(hub, plan, file, &progress, &downloaded, err));
            report->downloaded += downloaded;
        }
        progress.before += file->size > 0 ? (uint64_t)file->size : progress.last;
        pb_context_progress(hub->ctx, file->name, (double)progress.before, (double)progress.total);
    }
    snprintf(report->commit, sizeof report->commit, "%s", plan->commit);
    report->files = plan->n;
    report->bytes = progress.before;
    report->transferred = progress.came;
    return PB_OK;
}

static pb_status get_online(pb_hub *hub, pb_hub_plan *plan, pb_hub_report *report, char **folder, pb_error *err) {
    char below[96], *snapshot = NULL;
    PB_TRY(pb_hub_connect(hub, err));
    PB_TRY(pb_hub_plan_make(hub, plan, err));
    snprintf(below, sizeof below, "snapshots/%s", plan->commit);
    PB_TRY(pb_hub_path(hub, &plan->name, below, &snapshot, err));
    pb_status status = make_folder(hub, plan, below, err);
    if (status == PB_OK)
        status = make_folder(hub, plan, "blobs", err);
    if (status == PB_OK)
        status = get_files(hub, plan, snapshot, report, err);
    if (status == PB_OK)
        status = write_ref(hub, plan, err);
    if (status == PB_OK)
        *folder = snapshot;
    else
        pb_free(snapshot);
    return status;
}

/* Servers choose parts of messages (names, places of redirects), and could repeat what they were sent. */
static void hide_token(const pb_hub *hub, pb_error *err) {
    size_t n = hub->token ? strlen(hub->token) : 0;
    if (!err || n < 8) /* shorter ones are in words by chance */
        return;
    for (char *at = err->message; (at = strstr(at, hub->token));) {
        memcpy(at, "***", 3);
        memmove(at + 3, at + n, strlen(at + n) + 1);
    }
}

pb_status pb_hub_get(pb_hub *hub, const char *id, pb_hub_report *report, char **folder, pb_error *err) {
    pb_hub_plan plan = {.ctx = hub->ctx};
    pb_hub_report unused, *r = report ? report : &unused;
    PB_TRY(pb_hub_parse(id, &plan.name, err));
    *r = (pb_hub_report){0};
    if (hub->offline) {
        pb_status status = pb_hub_find(hub, id, folder, err);
        return status == PB_OK ? PB_OK
                               : pb_error_prefix(err, status, "HF_HUB_OFFLINE is set, so nothing is downloaded: ");
    }
    pb_status status = get_online(hub, &plan, r, folder, err);
    if (status != PB_OK)
        hide_token(hub, err);
    pb_free(plan.files);
    return status;
}
