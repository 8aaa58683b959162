/* What the hub has of a model, which of its files a load needs, and what the hub's refusals mean. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/strbuf.h"
#include "base/suggest.h"
#include "model/hub_private.h"

enum { API_MAX = 32 << 20 };

/* Percent-encodes everything but letters, digits and "-_." (keep: also these). */
static void add_encoded(pb_strbuf *b, const char *text, const char *keep) {
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr("-_.", c);
        if (plain || strchr(keep, c))
            pb_strbuf_add_char(b, (char)c);
        else
            pb_strbuf_printf(b, "%%%02X", c);
    }
}

static pb_status take_url(pb_strbuf *b, char **out, pb_error *err) {
    return pb_strbuf_take(b, out, NULL, "a URL", err);
}

pb_status pb_hub_file_url(const pb_hub *hub, const pb_hub_plan *plan, const pb_hub_file *file, char **out,
                          pb_error *err) {
    pb_strbuf b;
    pb_strbuf_init(&b, hub->ctx);
    pb_strbuf_printf(&b, "%s/%s/resolve/%s/", hub->endpoint, plan->name.repo, plan->commit);
    add_encoded(&b, file->name, "");
    return take_url(&b, out, err);
}

/* GET of a JSON reply. *out is NULL, with PB_OK, when the code is not 200. A failure on the way is tried again. */
static pb_status get_json(pb_hub *hub, const char *url, json_t **out, pb_http_reply *reply, pb_error *err) {
    char shown[512], *text = NULL;
    size_t size = 0;
    double wait = hub->retry_seconds;
    pb_status status;
    *out = NULL;
    for (int attempt = 0;; attempt++) {
        status = pb_http_text(hub->http, url, API_MAX, &text, &size, reply, err);
        bool again = status == PB_OK ? reply->code >= 500 || reply->code == 429 : reply->transient;
        if (!again || attempt >= hub->retries)
            break;
        if (reply->retry_after > 0 && hub->retry_seconds > 0)
            wait = reply->retry_after < 60 ? (double)reply->retry_after : 60;
        PB_TRY(pb_hub_wait(hub, &wait, err));
    }
    if (status == PB_OK && text)
        status = pb_json_parse(text, size, pb_http_shown(url, shown, sizeof shown), out, err);
    pb_free(text);
    return status;
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

/* "; did you mean 'a/b'?" or "; the hub has: a/b, c/d" for names that a search for the last part finds. Never fails. */
static void suggest_repo(pb_hub *hub, const pb_hub_name *name, pb_strbuf *out) {
    const char *last = strchr(name->repo, '/') ? strchr(name->repo, '/') + 1 : name->repo;
    const char *names[5];
    size_t n = 0;
    char *url = NULL;
    json_t *list = NULL;
    pb_http_reply reply;
    pb_strbuf b;
    pb_strbuf_init(&b, hub->ctx);
    pb_strbuf_printf(&b, "%s/api/models?limit=5&search=", hub->endpoint);
    add_encoded(&b, last, "");
    if (take_url(&b, &url, NULL) != PB_OK || get_json(hub, url, &list, &reply, NULL) != PB_OK)
        goto done;
    for (size_t i = 0; i < json_array_size(list) && n < 5; i++) {
        const json_t *entry = json_array_get(list, i);
        const char *id = json_string_value(json_object_get(entry, "id"));
        if (!id)
            id = json_string_value(json_object_get(entry, "modelId"));
        if (id && pb_hub_is_id(id) && !strchr(id, '@') && strcmp(id, name->repo) != 0)
            names[n++] = id;
    }
    const char *best = n ? pb_suggest(name->repo, names, n) : NULL;
    for (size_t i = 0; !best && i < n; i++) /* "gpt2" for "openai-community/gpt2" */
        if (strchr(names[i], '/') && strcmp(strchr(names[i], '/') + 1, last) == 0)
            best = names[i];
    if (best) {
        pb_strbuf_printf(out, "; did you mean '%s'?", best);
    } else if (n) {
        for (size_t i = 0; i < n; i++)
            pb_strbuf_printf(out, "%s%s", i ? ", " : "; names like it: ", names[i]);
    }
done:
    json_decref(list);
    pb_free(url);
}

/* "; did you mean '...'?" and the branches and tags that there are. Never fails. */
static void suggest_revision(pb_hub *hub, const pb_hub_name *name, pb_strbuf *out) {
    static const char *const kinds[] = {"branches", "tags"};
    enum { MOST = 64, SHOWN = 8 };
    const char *names[MOST];
    size_t n = 0;
    char *url = NULL;
    json_t *refs = NULL;
    pb_http_reply reply;
    pb_strbuf b;
    pb_strbuf_init(&b, hub->ctx);
    pb_strbuf_printf(&b, "%s/api/models/%s/refs", hub->endpoint, name->repo);
    if (take_url(&b, &url, NULL) != PB_OK || get_json(hub, url, &refs, &reply, NULL) != PB_OK)
        goto done;
    for (size_t k = 0; k < 2; k++) {
        const json_t *list = json_object_get(refs, kinds[k]);
        for (size_t i = 0; i < json_array_size(list) && n < MOST; i++) {
            const char *one = json_string_value(json_object_get(json_array_get(list, i), "name"));
            if (one && strlen(one) < PB_HUB_REVISION && !strpbrk(one, "\r\n\033"))
                names[n++] = one;
        }
    }
    const char *best = n ? pb_suggest(name->revision, names, n) : NULL;
    if (best)
        pb_strbuf_printf(out, "; did you mean '%s@%s'?", name->repo, best);
    for (size_t i = 0; i < n && i < SHOWN; i++)
        pb_strbuf_printf(out, "%s%s%s",
                         i      ? ", "
                         : best ? " There are: "
                                : "; there are: ",
                         names[i], i + 1 == SHOWN && n > SHOWN ? ", ..." : "");
done:
    json_decref(refs);
    pb_free(url);
}

static pb_status fail_access(const pb_hub *hub, const pb_hub_name *name, const pb_http_reply *r, const char *near,
                             pb_error *err) {
    bool sent = hub->token && pb_http_is_private(hub->endpoint);
    char said[PB_HTTP_MESSAGE + 32] = "";
    if (r->error_text[0])
        snprintf(said, sizeof said, " The hub says: %s", r->error_text);
    if (strcmp(r->error_code, "GatedRepo") == 0)
        return pb_fail(err, PB_ERR_IO, "'%s' is behind a licence (%d): accept it at %s/%s%s%s", name->repo, r->code,
                       hub->endpoint, name->repo,
                       sent ? " with the account that the token belongs to."
                            : ", and set HF_TOKEN to a token of the account that did.",
                       said);
    if (sent)
        return pb_fail(err, PB_ERR_IO,
                       "the hub refuses '%s' (%d) to the token of %s: the token is wrong or old, or may not "
                       "read it, or there is no such model%s%s",
                       name->repo, r->code, hub->token_source, near, said);
    return pb_fail(err, PB_ERR_IO,
                   "the hub refuses '%s' (%d): there is no such model, or it is private; for a private one "
                   "set HF_TOKEN to a token that may read it (%s/settings/tokens)%s%s",
                   name->repo, r->code, hub->endpoint, near, said);
}

pb_status pb_hub_refused(pb_hub *hub, const pb_hub_name *name, const char *file, const pb_http_reply *reply,
                         pb_error *err) {
    const pb_http_reply r = *reply;
    char said[PB_HTTP_MESSAGE + 32] = "";
    if (r.error_text[0])
        snprintf(said, sizeof said, " (%s)", r.error_text);
    pb_strbuf near;
    pb_strbuf_init(&near, hub->ctx);
    bool no_revision = strcmp(r.error_code, "RevisionNotFound") == 0;
    bool no_repo = strcmp(r.error_code, "RepoNotFound") == 0 || (r.code == 404 && !file && !no_revision);
    if (no_repo)
        suggest_repo(hub, name, &near);
    else if (no_revision)
        suggest_revision(hub, name, &near);
    pb_status status = pb_context_check(hub->ctx, err);
    const char *text = near.text ? near.text : "";
    if (status != PB_OK)
        ;
    else if (r.code == 401 || r.code == 403)
        status = fail_access(hub, name, &r, text, err);
    else if (r.code == 404 && no_revision)
        status = pb_fail(err, PB_ERR_IO, "'%s' has no revision '%s' on the hub%s", name->repo, name->revision, text);
    else if (r.code == 404 && file)
        status = pb_fail(err, PB_ERR_IO, "'%s' lists the file %s, but the hub does not have it (404)%s", name->repo,
                         file, said);
    else if (r.code == 404)
        status = pb_fail(err, PB_ERR_IO, "no model '%s' on the hub %s (404)%s", name->repo, hub->endpoint, text);
    else if (r.code == 429)
        status =
            pb_fail(err, PB_ERR_IO, "the hub %s asks to wait (429): too many requests; try again in a few minutes%s",
                    hub->endpoint, said);
    else
        status = pb_fail(err, PB_ERR_IO, "the hub %s answers %d to the request for '%s'%s%s%s", hub->endpoint, r.code,
                         name->repo, file ? ", file " : "", file ? file : "", said);
    pb_strbuf_free(&near);
    return status;
}

/* ---- the plan ---------------------------------------------------------------------------------------------------- */

pb_status pb_hub_plan_add(pb_hub_plan *plan, const char *name, pb_error *err) {
    for (size_t i = 0; i < plan->n; i++)
        if (strcmp(plan->files[i].name, name) == 0)
            return PB_OK;
    if (plan->n == PB_HUB_FILES)
        return pb_fail(err, PB_ERR_FORMAT, "'%s' has weights in more than %d files", plan->name.repo, PB_HUB_FILES);
    if (plan->n == plan->capacity) {
        size_t capacity = plan->capacity ? 2 * plan->capacity : 16;
        pb_hub_file *grown = pb_realloc(plan->ctx, plan->files, capacity, sizeof *grown);
        if (!grown)
            return pb_fail_memory(err, plan->ctx, capacity * sizeof *grown, "a list of files");
        plan->files = grown;
        plan->capacity = capacity;
    }
    pb_hub_file *file = &plan->files[plan->n++];
    *file = (pb_hub_file){.size = -1};
    snprintf(file->name, sizeof file->name, "%s", name);
    return PB_OK;
}

static bool lists(const json_t *siblings, const char *name) {
    for (size_t i = 0; i < json_array_size(siblings); i++) {
        const char *one = json_string_value(json_object_get(json_array_get(siblings, i), "rfilename"));
        if (one && strcmp(one, name) == 0)
            return true;
    }
    return false;
}

/* Weights of a kind that is not read: the first such file's name, for the message. */
static const char *foreign_weights(const json_t *siblings) {
    static const char *const endings[] = {".gguf", ".h5", ".msgpack", ".onnx", ".pth", ".pt", ".bin", ".safetensors"};
    for (size_t k = 0; k < sizeof endings / sizeof *endings; k++) {
        for (size_t i = 0; i < json_array_size(siblings); i++) {
            const char *one = json_string_value(json_object_get(json_array_get(siblings, i), "rfilename"));
            size_t n = one ? strlen(one) : 0, m = strlen(endings[k]);
            if (n > m && strcmp(one + n - m, endings[k]) == 0)
                return one;
        }
    }
    return NULL;
}

static pb_status choose_files(pb_hub_plan *plan, const json_t *siblings, pb_error *err) {
    static const char *const wanted[] = {"config.json", "tokenizer.json", "tokenizer_config.json"};
    static const char *const weights[] = {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                                          "pytorch_model.bin.index.json"};
    for (size_t i = 0; i < 3; i++)
        if (lists(siblings, wanted[i]))
            PB_TRY(pb_hub_plan_add(plan, wanted[i], err));
        else if (i == 0)
            return pb_fail(err, PB_ERR_UNSUPPORTED,
                           "'%s' has no config.json on the hub: it is no model that transformers "
                           "would load (is it one in another format, or an adapter of another model?)",
                           plan->name.repo);
    if (!lists(siblings, wanted[1]))
        pb_context_warn(plan->ctx, "'%s' has no tokenizer.json on the hub: the model will take token ids, but no text",
                        plan->name.repo);
    for (size_t i = 0; i < 4; i++) {
        if (!lists(siblings, weights[i]))
            continue;
        if (i % 2)
            snprintf(plan->index, sizeof plan->index, "%s", weights[i]);
        return pb_hub_plan_add(plan, weights[i], err);
    }
    const char *other = foreign_weights(siblings);
    return pb_fail(err, PB_ERR_UNSUPPORTED,
                   "'%s' has no weights that Patchbay reads: neither model.safetensors nor "
                   "pytorch_model.bin, nor an index of either%s%.200s%s",
                   plan->name.repo, other ? " (it has " : "", other ? other : "", other ? ")" : "");
}

pb_status pb_hub_plan_make(pb_hub *hub, pb_hub_plan *plan, pb_error *err) {
    char shown[512], *url = NULL;
    const char *commit;
    const json_t *siblings;
    json_t *reply = NULL;
    pb_http_reply head;
    pb_strbuf b;
    pb_strbuf_init(&b, hub->ctx);
    pb_strbuf_printf(&b, "%s/api/models/%s/revision/", hub->endpoint, plan->name.repo);
    add_encoded(&b, plan->name.revision, "");
    pb_status status = take_url(&b, &url, err);
    if (status == PB_OK)
        status = get_json(hub, url, &reply, &head, err);
    if (status == PB_OK && !reply)
        status = pb_hub_refused(hub, &plan->name, NULL, &head, err);
    if (status != PB_OK)
        goto done;
    pb_http_shown(url, shown, sizeof shown);
    status = pb_json_string(reply, shown, "sha", &commit, err);
    if (status == PB_OK && !pb_hub_is_hex(commit, 40, 64))
        status = pb_fail(err, PB_ERR_FORMAT, "%s: 'sha' should be a commit of 40 hexadecimal digits", shown);
    if (status == PB_OK)
        status = pb_json_array(reply, shown, "siblings", &siblings, err);
    if (status != PB_OK)
        goto done;
    snprintf(plan->commit, sizeof plan->commit, "%s", commit);
    status = choose_files(plan, siblings, err);
done:
    json_decref(reply);
    pb_free(url);
    return status;
}

pb_status pb_hub_plan_look(pb_hub *hub, const pb_hub_plan *plan, pb_hub_file *file, pb_error *err) {
    char *url = NULL;
    pb_http_reply r;
    PB_TRY(pb_hub_file_url(hub, plan, file, &url, err));
    double wait = hub->retry_seconds;
    pb_status status;
    for (int attempt = 0;; attempt++) {
        status = pb_http_head(hub->http, url, &r, err);
        bool again = status == PB_OK ? r.code >= 500 || r.code == 429 : r.transient;
        if (!again || attempt >= hub->retries)
            break;
        status = pb_hub_wait(hub, &wait, err);
        if (status != PB_OK)
            break;
    }
    pb_free(url);
    if (status != PB_OK)
        return status;
    if (r.code != 200 && (r.code < 300 || r.code > 399))
        return pb_hub_refused(hub, &plan->name, file->name, &r, err);
    if (r.commit[0] && strcmp(r.commit, plan->commit) != 0)
        return pb_fail(err, PB_ERR_FORMAT, "the hub was asked for commit %.12s of '%s' and answers with another one",
                       plan->commit, plan->name.repo);
    const char *etag = r.linked_etag[0] ? r.linked_etag : r.etag;
    if (!pb_hub_is_file_name(etag) || strlen(etag) >= PB_HUB_ETAG)
        return pb_fail(err, PB_ERR_FORMAT, "the hub gives %s of '%s' no usable etag, so it has no name in the cache",
                       file->name, plan->name.repo);
    snprintf(file->etag, sizeof file->etag, "%.131s", etag);
    file->size = r.linked_size >= 0 ? r.linked_size : r.code == 200 ? r.length : -1;
    return PB_OK;
}
