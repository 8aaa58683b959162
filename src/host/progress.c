/* The progress line: on standard error, for work of more than a second, erased when the work ends. */
#include <stdio.h>
#include <time.h>

#include "host/private.h"

double pb_monotonic_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void duration_text(double seconds, char *buffer, size_t size) {
    long s = (long)(seconds + 0.5);
    if (s < 60)
        snprintf(buffer, size, "%ld s", s);
    else if (s < 3600)
        snprintf(buffer, size, "%ld min %02ld s", s / 60, s % 60);
    else
        snprintf(buffer, size, "%ld h %02ld min", s / 3600, s % 3600 / 60);
}

void pb_progress_begin(pb_host *host) {
    if (!host->progress.enabled)
        return;
    host->progress.start = host->progress.part = pb_monotonic_seconds();
    host->progress.last = host->progress.share = 0;
}

static void on_progress(void *user, const char *what, double done, double total) {
    pb_host *host = user;
    if (!host->progress.enabled)
        return;
    double now = pb_monotonic_seconds();
    double share = total > 0 ? done / total : 0;
    share = share < 0 ? 0 : share > 1 ? 1 : share;
    if (share < host->progress.share) /* the next part: it began when the last one ended */
        host->progress.part = host->progress.last > host->progress.part ? host->progress.last : now;
    host->progress.share = share;
    if (now - host->progress.start < 1 || now - host->progress.last < 0.1)
        return;
    host->progress.last = now;
    host->progress.shown = true;
    char left[48] = "";
    double elapsed = now - host->progress.part;
    if (share > 0.01 && elapsed > 0.5) {
        char duration[32];
        duration_text(elapsed * (1 - share) / share, duration, sizeof duration);
        snprintf(left, sizeof left, ", %s left", duration);
    }
    fprintf(stderr, "\r\033[K%s: %.0f%%%s", what, 100 * share, left);
    fflush(stderr);
}

void pb_progress_erase(pb_host *host) {
    if (host->progress.shown) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
        host->progress.shown = false;
    }
}

void pb_progress_attach(pb_host *host) { pb_context_on_progress(host->ctx, on_progress, host); }
