/* `patchbay get org/name[@revision]`: downloads a model into the hub's cache, with a bar on a terminal. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "host/commands.h"
#include "host/private.h"
#include "patchbay/hub.h"
#include "patchbay/patchbay.h"

typedef struct bar {
    bool terminal, shown;
    double last;       /* when it was drawn */
    double mark, from; /* the speed is measured since then, from so many bytes on */
    double speed;      /* bytes per second; 0: not known yet */
} bar;

/* "548 MB": three digits and a unit. */
static const char *bytes_text(double bytes, char *buffer, size_t size) {
    static const char *const units[] = {"bytes", "kB", "MB", "GB", "TB"};
    int unit = 0;
    while (bytes >= 999.5 && unit < 4) {
        bytes /= 1000;
        unit++;
    }
    snprintf(buffer, size, "%.*f %s", unit && bytes < 9.995 ? 2 : unit && bytes < 99.95 ? 1 : 0, bytes, units[unit]);
    return buffer;
}

static const char *left_text(double seconds, char *buffer, size_t size) {
    long s = (long)(seconds + 0.5);
    if (s < 60)
        snprintf(buffer, size, "%ld s left", s);
    else if (s < 3600)
        snprintf(buffer, size, "%ld min left", (s + 30) / 60);
    else
        snprintf(buffer, size, "%ld h %02ld min left", s / 3600, s % 3600 / 60);
    return buffer;
}

static void erase(bar *b) {
    if (b->shown) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
    }
    b->shown = false;
}

/* Speed over the last seconds: a new mark every 4 s. What an earlier download left is no speed. */
static void measure(bar *b, double now, double done) {
    if (b->mark == 0 || done < b->from) {
        b->mark = now;
        b->from = done;
    } else if (now - b->mark > 1) {
        b->speed = (done - b->from) / (now - b->mark);
    }
    if (now - b->mark > 4) {
        b->mark = now;
        b->from = done;
    }
}

static void on_progress(void *user, const char *what, double done, double total) {
    enum { WIDTH = 24 };
    bar *b = user;
    double now = pb_monotonic_seconds();
    if (!b->terminal || (b->shown && now - b->last < 0.1))
        return;
    measure(b, now, done);
    char cells[WIDTH + 1], have[32], all[32], speed[48] = "", left[48] = "";
    double share = total > 0 ? done / total : 0;
    share = share > 1 ? 1 : share;
    int full = (int)(share * WIDTH);
    for (int i = 0; i < WIDTH; i++)
        cells[i] = i < full ? '#' : '-';
    cells[WIDTH] = '\0';
    if (b->speed > 0) {
        char rate[32];
        snprintf(speed, sizeof speed, ", %s/s", bytes_text(b->speed, rate, sizeof rate));
        left[0] = ',';
        left[1] = ' ';
        left_text((total - done) / b->speed, left + 2, sizeof left - 2);
    }
    if (total > 0)
        fprintf(stderr, "\r\033[K%.40s [%s] %3.0f%% of %s%s%s", what, cells, 100 * share,
                bytes_text(total, all, sizeof all), speed, left);
    else if (done > 0)
        fprintf(stderr, "\r\033[K%.40s %s%s", what, bytes_text(done, have, sizeof have), speed);
    else
        fprintf(stderr, "\r\033[K%.40s ...", what);
    fflush(stderr);
    b->last = now;
    b->shown = true;
}

static void on_warning(void *user, const char *message) {
    erase(user);
    fprintf(stderr, "patchbay: %s\n", message);
}

static int report(pb_status status, const pb_error *err, pb_stop_reason reason, double seconds) {
    if (status != PB_ERR_STOPPED || reason == PB_STOP_NONE) {
        fprintf(stderr, "patchbay: %s\n", err->message);
        return 1;
    }
    if (reason == PB_STOP_TIME)
        fprintf(stderr, "patchbay: stopped: the time of %g s is over; the same command goes on from here\n", seconds);
    else
        fprintf(stderr, "patchbay: stopped by %s; the same command goes on from here\n",
                reason == PB_STOP_INTERRUPT ? "Ctrl-C" : "SIGTERM");
    return reason == PB_STOP_INTERRUPT ? 130 : reason == PB_STOP_TERMINATE ? 143 : 1;
}

int pb_command_get(const char *id, const pb_command_options *o) {
    pb_error err = {0};
    pb_context *ctx = NULL;
    pb_hub *hub = NULL;
    pb_hub_report got = {0};
    char *folder = NULL;
    bar b = {.terminal = isatty(STDERR_FILENO) == 1};
    pb_hub_options options = {.agent = "patchbay/" PATCHBAY_VERSION};
    int code = 0;
    pb_status status = pb_command_context(o, &ctx, &err);
    if (status != PB_OK)
        return report(status, &err, PB_STOP_NONE, 0);
    pb_context_on_progress(ctx, on_progress, &b);
    pb_context_on_warning(ctx, on_warning, &b);
    pb_interrupt_begin(ctx, o->time);
    status = pb_hub_create(ctx, &options, &hub, &err);
    if (status == PB_OK)
        status = pb_hub_get(hub, id, &got, &folder, &err);
    pb_stop_reason reason = pb_interrupt_end();
    erase(&b);
    if (status != PB_OK) {
        code = report(status, &err, reason, o->time);
    } else {
        char all[32], came[32];
        if (got.files)
            fprintf(stderr, "%s: commit %.12s, %zu files, %s; downloaded now: %zu (%s)\n", id, got.commit, got.files,
                    bytes_text((double)got.bytes, all, sizeof all), got.downloaded,
                    bytes_text((double)got.transferred, came, sizeof came));
        code = printf("%s\n", folder) > 0 && fflush(stdout) == 0 ? 0 : 1;
    }
    pb_free(folder);
    pb_hub_free(hub);
    pb_context_unref(ctx);
    return code;
}
