/* Settings of the hub and the names of models; see hub.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/file.h"
#include "base/strbuf.h"
#include "model/hub_private.h"

/* ---- names ------------------------------------------------------------------------------------------------------- */

static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); }

bool pb_hub_is_hex(const char *text, size_t least, size_t most) {
    size_t n = strspn(text, "0123456789abcdef");
    return text[n] == '\0' && n >= least && n <= most;
}

bool pb_hub_is_file_name(const char *name) {
    if (!*name || *name == '.' || strlen(name) >= PB_HUB_NAME)
        return false;
    for (const char *c = name; *c; c++)
        if (*c == '/' || *c == '\\' || (unsigned char)*c < 33 || *c == 127 || strchr("?#%\"<>", *c))
            return false;
    return true;
}

/* The hub's rules: letters, digits, '-', '_', '.'; neither "--" nor ".."; no '-' or '.' at the ends. */
static const char *wrong_with_part(const char *part, size_t n) {
    if (n == 0)
        return "has an empty part";
    if (n > 96)
        return "has a part of more than 96 letters";
    for (size_t i = 0; i < n; i++) {
        if (!is_letter(part[i]) && !strchr("-_.", part[i]))
            return "has a character that no name on the hub has (letters, digits, '-', '_' and '.' are allowed)";
        if (i && (part[i] == '-' || part[i] == '.') && part[i - 1] == part[i])
            return "has '--' or '..' in it";
    }
    return strchr("-.", part[0]) || strchr("-.", part[n - 1]) ? "has a part that begins or ends with '-' or '.'" : NULL;
}

/* git's rules, a little stricter. */
static const char *wrong_with_revision(const char *revision) {
    size_t n = strlen(revision);
    if (n == 0)
        return "has nothing behind the '@', where a branch, a tag or a commit should be";
    if (n >= PB_HUB_REVISION)
        return "has a revision that is too long";
    for (const char *c = revision; *c; c++)
        if (!is_letter(*c) && !strchr("-_./+", *c))
            return "has a character in its revision that is not allowed there";
    if (strstr(revision, "..") || strstr(revision, "//") || strstr(revision, "/.") || strchr("/.-", revision[0]) ||
        strchr("/.", revision[n - 1]))
        return "has a revision that no branch, tag or commit can have";
    return NULL;
}

pb_status pb_hub_parse(const char *id, pb_hub_name *out, pb_error *err) {
    const char *at = strchr(id, '@');
    size_t length = at ? (size_t)(at - id) : strlen(id);
    const char *slash = memchr(id, '/', length);
    size_t first = slash ? (size_t)(slash - id) : length;
    const char *wrong = wrong_with_part(id, first);
    if (!wrong && slash)
        wrong = wrong_with_part(slash + 1, length - first - 1);
    if (!wrong && at)
        wrong = wrong_with_revision(at + 1);
    if (wrong)
        return pb_fail(err, PB_ERR_ARGUMENT,
                       "'%.300s' is no name of a model on the hub: it %s (expected org/name or "
                       "org/name@revision)",
                       id, wrong);
    *out = (pb_hub_name){.given = at != NULL};
    snprintf(out->repo, sizeof out->repo, "%.*s", (int)length, id);
    snprintf(out->revision, sizeof out->revision, "%s", at ? at + 1 : "main");
    if (slash)
        snprintf(out->folder, sizeof out->folder, "models--%.*s--%.*s", (int)first, id, (int)(length - first - 1),
                 slash + 1);
    else
        snprintf(out->folder, sizeof out->folder, "models--%.*s", (int)length, id);
    return PB_OK;
}

bool pb_hub_is_id(const char *text) {
    pb_hub_name unused;
    return pb_hub_parse(text, &unused, NULL) == PB_OK;
}

pb_status pb_hub_path(const pb_hub *hub, const pb_hub_name *name, const char *below, char **out, pb_error *err) {
    size_t size = strlen(hub->cache) + strlen(name->folder) + strlen(below) + 3;
    char *path = pb_alloc(hub->ctx, size, 1);
    if (!path)
        return pb_fail_memory(err, hub->ctx, size, "a path in the hub's cache");
    snprintf(path, size, "%s/%s%s%s", hub->cache, name->folder, *below ? "/" : "", below);
    *out = path;
    return PB_OK;
}

/* ---- the environment --------------------------------------------------------------------------------------------- */

/* The variable's value, NULL if it is unset or empty. */
static const char *setting(const char *variable) {
    const char *value = getenv(variable);
    return value && *value ? value : NULL;
}

static bool is_true(const char *value) {
    static const char *const words[] = {"1", "on", "yes", "true"};
    for (size_t i = 0; value && i < sizeof words / sizeof *words; i++)
        if (strcasecmp(value, words[i]) == 0)
            return true;
    return false;
}

/* folder + below in a new block; "~" at the front is the home folder. NULL: out of memory. */
static char *expand(pb_context *ctx, const char *folder, const char *below) {
    const char *home = folder[0] == '~' && (folder[1] == '/' || !folder[1]) ? setting("HOME") : NULL;
    const char *rest = home ? folder + 1 : folder;
    size_t size = (home ? strlen(home) : 0) + strlen(rest) + strlen(below) + 1;
    char *path = pb_alloc(ctx, size, 1);
    if (path)
        snprintf(path, size, "%s%s%s", home ? home : "", rest, below);
    return path;
}

/* A path below HF_HOME, wherever that is. */
static pb_status home_path(pb_context *ctx, const char *below, char **out, pb_error *err) {
    const char *home = setting("HF_HOME"), *xdg = setting("XDG_CACHE_HOME");
    char tail[64];
    snprintf(tail, sizeof tail, "%s%s", home ? "" : xdg ? "/huggingface" : "/.cache/huggingface", below);
    const char *base = home ? home : xdg ? xdg : setting("HOME");
    if (!base)
        return pb_fail(err, PB_ERR_ARGUMENT,
                       "there is no place for the hub's cache: none of HF_HUB_CACHE, HF_HOME and "
                       "HOME is set");
    *out = expand(ctx, base, tail);
    return *out ? PB_OK : pb_fail_memory(err, ctx, strlen(base) + sizeof tail, "the path of the hub's cache");
}

static pb_status find_cache(pb_hub *hub, const pb_hub_options *o, pb_error *err) {
    const char *cache = o->cache ? o->cache : setting("HF_HUB_CACHE");
    if (!cache)
        cache = setting("HUGGINGFACE_HUB_CACHE");
    if (!cache)
        return home_path(hub->ctx, "/hub", &hub->cache, err);
    hub->cache = expand(hub->ctx, cache, "");
    if (!hub->cache)
        return pb_fail_memory(err, hub->ctx, strlen(cache) + 1, "the path of the hub's cache");
    for (size_t n = strlen(hub->cache); n > 1 && hub->cache[n - 1] == '/'; n--)
        hub->cache[n - 1] = '\0';
    return PB_OK;
}

static pb_status find_endpoint(pb_hub *hub, const pb_hub_options *o, pb_error *err) {
    const char *endpoint = o->endpoint ? o->endpoint : setting("HF_ENDPOINT");
    if (!endpoint)
        endpoint = "https://huggingface.co";
    if (!pb_http_is_url(endpoint) || strpbrk(endpoint, "?# "))
        return pb_fail(err, PB_ERR_ARGUMENT,
                       "the hub's address is not usable: HF_ENDPOINT should be like "
                       "https://huggingface.co, without a user name, '?' or '#'");
    hub->endpoint = pb_strdup(hub->ctx, endpoint);
    if (!hub->endpoint)
        return pb_fail_memory(err, hub->ctx, strlen(endpoint) + 1, "the hub's address");
    for (size_t n = strlen(hub->endpoint); n > 1 && hub->endpoint[n - 1] == '/'; n--)
        hub->endpoint[n - 1] = '\0';
    return PB_OK;
}

/* The token without the white space around it; NULL if nothing is left. */
static pb_status keep_token(pb_hub *hub, const char *text, const char *source, pb_error *err) {
    text += strspn(text, " \t\r\n");
    size_t n = strlen(text);
    while (n && strchr(" \t\r\n", text[n - 1]))
        n--;
    if (n == 0)
        return PB_OK;
    hub->token = pb_strndup(hub->ctx, text, n);
    if (!hub->token)
        return pb_fail_memory(err, hub->ctx, n + 1, "a token");
    hub->token_source = source;
    return PB_OK;
}

static pb_status find_token(pb_hub *hub, const pb_hub_options *o, pb_error *err) {
    static const char *const variables[] = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"};
    if (o->token)
        return keep_token(hub, o->token, "the caller", err);
    for (size_t i = 0; i < 2; i++)
        if (setting(variables[i]))
            return keep_token(hub, setting(variables[i]), variables[i], err);
    char *path = NULL, *text = NULL;
    const char *named = setting("HF_TOKEN_PATH");
    pb_status status = PB_OK;
    if (named) {
        path = expand(hub->ctx, named, "");
        if (!path)
            status = pb_fail_memory(err, hub->ctx, strlen(named), "a path");
    } else if (setting("HF_HOME") || setting("XDG_CACHE_HOME") || setting("HOME")) {
        status = home_path(hub->ctx, "/token", &path, err);
    }
    if (status == PB_OK && path && pb_file_exists(path))
        status = pb_file_read(hub->ctx, path, 4096, &text, NULL, err);
    if (status == PB_OK && text)
        status = keep_token(hub, text, "the file 'token' beside the cache", err);
    pb_free(text);
    pb_free(path);
    return status;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

pb_status pb_hub_create(pb_context *ctx, const pb_hub_options *options, pb_hub **out, pb_error *err) {
    static const pb_hub_options none = {0};
    const pb_hub_options *o = options ? options : &none;
    pb_hub *hub = pb_alloc_zero(ctx, 1, sizeof *hub);
    if (!hub)
        return pb_fail_memory(err, ctx, sizeof *hub, "the hub's settings");
    hub->ctx = pb_context_ref(ctx);
    hub->offline = o->offline ? o->offline > 0 : is_true(setting("HF_HUB_OFFLINE"));
    hub->retries = o->retries < 0 ? 0 : o->retries ? o->retries : 5;
    hub->retry_seconds = o->retry_seconds < 0 ? 0 : o->retry_seconds > 0 ? o->retry_seconds : 1;
    hub->stall_seconds = o->stall_seconds > 0 ? o->stall_seconds : 30;
    const char *ca = setting("CURL_CA_BUNDLE") ? setting("CURL_CA_BUNDLE") : setting("SSL_CERT_FILE");
    hub->ca_file = ca ? pb_strdup(ctx, ca) : NULL;
    hub->agent = pb_strdup(ctx, o->agent ? o->agent : "patchbay");
    pb_status status = hub->agent && (hub->ca_file || !ca) ? PB_OK : pb_fail_memory(err, ctx, 64, "the hub's settings");
    if (status == PB_OK)
        status = find_cache(hub, o, err);
    if (status == PB_OK)
        status = find_endpoint(hub, o, err);
    if (status == PB_OK)
        status = find_token(hub, o, err);
    if (status != PB_OK) {
        pb_hub_free(hub);
        return status;
    }
    *out = hub;
    return PB_OK;
}

void pb_hub_free(pb_hub *hub) {
    if (!hub)
        return;
    pb_http_free(hub->http);
    pb_free(hub->cache);
    pb_free(hub->endpoint);
    pb_free(hub->token);
    pb_free(hub->agent);
    pb_free(hub->ca_file);
    pb_context *ctx = hub->ctx;
    pb_free(hub);
    pb_context_unref(ctx);
}

const char *pb_hub_cache(const pb_hub *hub) { return hub->cache; }

const char *pb_hub_endpoint(const pb_hub *hub) { return hub->endpoint; }

pb_status pb_hub_connect(pb_hub *hub, pb_error *err) {
    if (hub->http)
        return PB_OK;
    bool private = pb_http_is_private(hub->endpoint);
    if (hub->token && !private)
        pb_context_warn(hub->ctx, "the token of %s is not sent: %s is not encrypted (https)", hub->token_source,
                        hub->endpoint);
    pb_http_options options = {.agent = hub->agent,
                               .token = private ? hub->token : NULL,
                               .token_url = hub->endpoint,
                               .ca_file = hub->ca_file,
                               .stall_seconds = hub->stall_seconds};
    pb_status status = pb_http_create(hub->ctx, &options, &hub->http, err);
    return status == PB_ERR_ARGUMENT ? pb_error_prefix(err, status, "the token of %s: ", hub->token_source) : status;
}
