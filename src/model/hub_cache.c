/* Looking a model up in the hub's local cache, without network; see hub.h for the layout. */
#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/strbuf.h"
#include "base/suggest.h"
#include "model/hub_private.h"

/* ---- is a snapshot complete? --------------------------------------------------------------------------------------- */

pb_status pb_hub_each_shard(const pb_hub *hub, const char *path, pb_hub_shard_fn add, void *user, pb_error *err) {
    json_t *index = NULL, *seen = NULL, *value;
    const json_t *map = NULL;
    const char *tensor;
    pb_status status = pb_json_load(hub->ctx, path, PB_HUB_INDEX, &index, err);
    if (status == PB_OK)
        status = pb_json_object(index, path, "weight_map", &map, err);
    if (status == PB_OK && !(seen = json_object()))
        status = pb_fail_memory(err, hub->ctx, 64, "a list of files");
    if (status != PB_OK)
        goto done;
    json_object_foreach((json_t *)(uintptr_t)map, tensor, value) {
        const char *name = json_string_value(value);
        if (!name || !pb_hub_is_file_name(name)) {
            status =
                pb_fail(err, PB_ERR_FORMAT, "%s: weight_map gives tensor '%.200s' no plain file name", path, tensor);
            goto done;
        }
        if (json_object_get(seen, name))
            continue;
        if (json_object_set_new(seen, name, json_true()) != 0)
            status = pb_fail_memory(err, hub->ctx, 64, "a list of files");
        else
            status = add(user, name, err);
        if (status != PB_OK)
            goto done;
    }
    if (json_object_size(seen) == 0)
        status = pb_fail(err, PB_ERR_FORMAT, "%s: weight_map is empty", path);
done:
    json_decref(seen);
    json_decref(index);
    return status;
}

typedef struct shard_check {
    const pb_hub *hub;
    const char *folder;
    char *missing;
} shard_check;

static pb_status is_there(const pb_hub *hub, const char *folder, const char *name, bool *there, pb_error *err) {
    char *path = pb_path_join(hub->ctx, folder, name);
    if (!path)
        return pb_fail_memory(err, hub->ctx, strlen(folder), "a path");
    *there = pb_file_exists(path);
    pb_free(path);
    return PB_OK;
}

static pb_status check_shard(void *user, const char *name, pb_error *err) {
    shard_check *check = user;
    bool there;
    PB_TRY(is_there(check->hub, check->folder, name, &there, err));
    if (!there && !check->missing[0])
        snprintf(check->missing, PB_HUB_NAME, "%s", name);
    return PB_OK;
}

static bool has_gguf(const char *folder) {
    DIR *dir = opendir(folder);
    bool found = false;
    for (struct dirent *entry; dir && !found && (entry = readdir(dir));) {
        size_t n = strlen(entry->d_name);
        found = n > 5 && strcmp(entry->d_name + n - 5, ".gguf") == 0;
    }
    if (dir)
        closedir(dir);
    return found;
}

pb_status pb_hub_missing(const pb_hub *hub, const char *folder, char missing[PB_HUB_NAME], pb_error *err) {
    static const char *const single[] = {"model.safetensors", "pytorch_model.bin"};
    static const char *const index[] = {"model.safetensors.index.json", "pytorch_model.bin.index.json"};
    bool there;
    missing[0] = '\0';
    PB_TRY(is_there(hub, folder, "config.json", &there, err));
    if (!there) {
        snprintf(missing, PB_HUB_NAME, "config.json");
        return PB_OK;
    }
    for (size_t i = 0; i < 2; i++) {
        PB_TRY(is_there(hub, folder, single[i], &there, err));
        if (there)
            return PB_OK;
        PB_TRY(is_there(hub, folder, index[i], &there, err));
        if (there) {
            char *path = pb_path_join(hub->ctx, folder, index[i]);
            if (!path)
                return pb_fail_memory(err, hub->ctx, strlen(folder), "a path");
            shard_check check = {hub, folder, missing};
            pb_status status = pb_hub_each_shard(hub, path, check_shard, &check, err);
            pb_free(path);
            return status;
        }
    }
    if (!has_gguf(folder))
        snprintf(missing, PB_HUB_NAME, "%s", single[0]);
    return PB_OK;
}

/* ---- which snapshot? ----------------------------------------------------------------------------------------------- */

/* The commit that refs/REVISION stands for; "" if there is no such ref. */
static pb_status read_ref(const pb_hub *hub, const pb_hub_name *name, char commit[65], pb_error *err) {
    char below[PB_HUB_REVISION + 8];
    char *path = NULL, *text = NULL;
    commit[0] = '\0';
    snprintf(below, sizeof below, "refs/%s", name->revision);
    PB_TRY(pb_hub_path(hub, name, below, &path, err));
    pb_status status = PB_OK;
    if (pb_file_exists(path))
        status = pb_file_read(hub->ctx, path, 256, &text, NULL, err);
    if (text) {
        text[strcspn(text, " \t\r\n")] = '\0';
        if (pb_hub_is_hex(text, 40, 64))
            snprintf(commit, 65, "%s", text);
        else
            status = pb_fail(err, PB_ERR_FORMAT,
                             "'%s' should have a commit of 40 hexadecimal digits, but has '%.80s'; "
                             "remove it, and run: patchbay get %s",
                             path, text, name->repo);
    }
    pb_free(text);
    pb_free(path);
    return status;
}

/* The one snapshot whose commit begins with the revision; "" if there is none. */
static pb_status find_prefix(const pb_hub *hub, const pb_hub_name *name, char commit[65], pb_error *err) {
    char *path = NULL;
    commit[0] = '\0';
    if (!pb_hub_is_hex(name->revision, 4, 64))
        return PB_OK;
    PB_TRY(pb_hub_path(hub, name, "snapshots", &path, err));
    pb_status status = PB_OK;
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && status == PB_OK && (entry = readdir(dir));) {
        if (strncmp(entry->d_name, name->revision, strlen(name->revision)) != 0 ||
            !pb_hub_is_hex(entry->d_name, 40, 64))
            continue;
        if (commit[0])
            status = pb_fail(err, PB_ERR_ARGUMENT,
                             "'%s@%s' is the beginning of several commits in the cache: %.12s and "
                             "%.12s; write more of it",
                             name->repo, name->revision, commit, entry->d_name);
        else
            snprintf(commit, 65, "%.64s", entry->d_name);
    }
    if (dir)
        closedir(dir);
    pb_free(path);
    return status;
}

/* Appends the names in a folder, "a, b, c", at most 8. */
static void list_names(pb_strbuf *b, const char *folder, int digits) {
    DIR *dir = opendir(folder);
    int n = 0;
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        if (entry->d_name[0] == '.')
            continue;
        if (n == 8) {
            pb_strbuf_add(b, ", ...");
            break;
        }
        pb_strbuf_printf(b, "%s%.*s", n++ ? ", " : "", digits, entry->d_name);
    }
    if (n == 0)
        pb_strbuf_add(b, "none");
    if (dir)
        closedir(dir);
}

static pb_status fail_revision(const pb_hub *hub, const pb_hub_name *name, pb_error *err) {
    char *refs = NULL, *snapshots = NULL;
    pb_strbuf b;
    pb_strbuf_init(&b, hub->ctx);
    pb_status status = pb_hub_path(hub, name, "refs", &refs, err);
    if (status == PB_OK)
        status = pb_hub_path(hub, name, "snapshots", &snapshots, err);
    if (status == PB_OK) {
        pb_strbuf_add(&b, "revisions there: ");
        list_names(&b, refs, 100);
        pb_strbuf_add(&b, "; commits: ");
        list_names(&b, snapshots, 12);
        status = pb_fail(err, PB_ERR_IO,
                         "'%s' is in the hub's cache (%s), but not its revision '%s' (%s). To download it: "
                         "patchbay get %s%s%s",
                         name->repo, hub->cache, name->revision, b.text ? b.text : "", name->repo,
                         name->given ? "@" : "", name->given ? name->revision : "");
    }
    pb_strbuf_free(&b);
    pb_free(refs);
    pb_free(snapshots);
    return status;
}

/* ---- nothing there ------------------------------------------------------------------------------------------------- */

/* "models--org--name" as "org/name"; false for other names. */
static bool repo_of_folder(const char *folder, char repo[PB_HUB_REPO]) {
    if (strncmp(folder, "models--", 8) != 0 || strlen(folder) >= PB_HUB_REPO)
        return false;
    const char *name = folder + 8, *split = strstr(name, "--");
    if (split)
        snprintf(repo, PB_HUB_REPO, "%.*s/%s", (int)(split - name), name, split + 2);
    else
        snprintf(repo, PB_HUB_REPO, "%s", name);
    return true;
}

static pb_status fail_absent(const pb_hub *hub, const pb_hub_name *name, pb_error *err) {
    char best[PB_HUB_REPO] = "";
    DIR *dir = opendir(hub->cache);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        char repo[PB_HUB_REPO];
        if (!repo_of_folder(entry->d_name, repo))
            continue;
        pb_suggestion s;
        pb_suggestion_begin(&s, name->repo);
        if (best[0])
            pb_suggestion_offer(&s, best);
        pb_suggestion_offer(&s, repo);
        if (s.best == repo)
            memcpy(best, repo, sizeof best);
    }
    char near[PB_HUB_REPO + 32] = "";
    if (best[0])
        snprintf(near, sizeof near, "; did you mean '%s'?", best);
    pb_status status =
        pb_fail(err, PB_ERR_IO, "'%s' is not in the hub's cache (%s%s%s)%s To download it: patchbay get %s%s%s",
                name->repo, hub->cache, dir ? "/" : ", which does not exist", dir ? name->folder : "",
                best[0] ? near : ".", name->repo, name->given ? "@" : "", name->given ? name->revision : "");
    if (dir)
        closedir(dir);
    return status;
}

bool pb_hub_has(const pb_hub *hub, const char *id) {
    pb_hub_name name;
    char *root = NULL;
    bool there = pb_hub_parse(id, &name, NULL) == PB_OK && pb_hub_path(hub, &name, "", &root, NULL) == PB_OK &&
                 pb_folder_exists(root);
    pb_free(root);
    return there;
}

pb_status pb_hub_find(pb_hub *hub, const char *id, char **folder, pb_error *err) {
    pb_hub_name name;
    char commit[65], below[80], missing[PB_HUB_NAME];
    char *root = NULL, *snapshot = NULL;
    PB_TRY(pb_hub_parse(id, &name, err));
    pb_status status = pb_hub_path(hub, &name, "", &root, err);
    if (status == PB_OK && !pb_folder_exists(root))
        status = fail_absent(hub, &name, err);
    if (status == PB_OK)
        status = read_ref(hub, &name, commit, err);
    if (status == PB_OK && !commit[0])
        status = find_prefix(hub, &name, commit, err);
    if (status == PB_OK && !commit[0])
        status = fail_revision(hub, &name, err);
    if (status != PB_OK)
        goto done;
    snprintf(below, sizeof below, "snapshots/%s", commit);
    status = pb_hub_path(hub, &name, below, &snapshot, err);
    if (status == PB_OK)
        status = pb_hub_missing(hub, snapshot, missing, err);
    if (status == PB_OK && missing[0])
        status = pb_fail(err, PB_ERR_IO,
                         "'%s' is in the hub's cache, but not whole: '%s' has no %s. To download what is "
                         "missing: patchbay get %s",
                         id, snapshot, missing, id);
    if (status != PB_OK)
        goto done;
    *folder = snapshot;
    snapshot = NULL;
done:
    pb_free(root);
    pb_free(snapshot);
    return status;
}
