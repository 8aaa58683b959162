/* Ctrl-C, SIGTERM and the time limit. A signal handler reaches nothing but static memory: this file holds the program's
 * only mutable static state, the contexts that are to be stopped. */
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/time.h>

#include "host/private.h"

enum { NESTING = 4 };

static _Atomic(pb_context *) targets[NESTING];
static atomic_int reasons[NESTING];
static atomic_int level;          /* number of targets */
static double deadlines[NESTING]; /* monotonic seconds; 0: none. Not touched by the handlers */
static struct sigaction before[3];
static const int SIGNALS[3] = {SIGINT, SIGTERM, SIGALRM};

static void stop(int i, pb_stop_reason reason) {
    pb_context *ctx = atomic_load(&targets[i]);
    if (!ctx)
        return;
    int none = PB_STOP_NONE;
    atomic_compare_exchange_strong(&reasons[i], &none, (int)reason);
    pb_context_stop(ctx);
}

/* The first Ctrl-C asks, the second one ends the program at once. */
static void on_signal(int number) {
    int n = atomic_load(&level);
    if (n == 0)
        return;
    if (number == SIGALRM) {
        stop(n - 1, PB_STOP_TIME);
        return;
    }
    pb_stop_reason reason = number == SIGINT ? PB_STOP_INTERRUPT : PB_STOP_TERMINATE;
    if (atomic_load(&reasons[n - 1]) == (int)reason) {
        signal(number, SIG_DFL);
        raise(number);
        return;
    }
    for (int i = 0; i < n; i++)
        stop(i, reason);
}

static void arm(double seconds) {
    struct itimerval timer = {{0, 0}, {0, 0}};
    if (seconds > 0) {
        timer.it_value.tv_sec = (time_t)seconds;
        timer.it_value.tv_usec = (suseconds_t)((seconds - (double)(time_t)seconds) * 1e6);
        if (timer.it_value.tv_sec == 0 && timer.it_value.tv_usec == 0)
            timer.it_value.tv_usec = 1;
    }
    setitimer(ITIMER_REAL, &timer, NULL);
}

void pb_interrupt_begin(pb_context *ctx, double seconds) {
    int n = atomic_load(&level);
    if (n >= NESTING)
        return;
    atomic_store(&targets[n], ctx);
    atomic_store(&reasons[n], PB_STOP_NONE);
    deadlines[n] = seconds > 0 ? pb_monotonic_seconds() + seconds : 0;
    atomic_store(&level, n + 1);
    if (n == 0) {
        struct sigaction action = {0};
        action.sa_handler = on_signal;
        sigemptyset(&action.sa_mask);
        action.sa_flags = SA_RESTART;
        for (int i = 0; i < 3; i++)
            sigaction(SIGNALS[i], &action, &before[i]);
    }
    arm(seconds);
}

pb_stop_reason pb_interrupt_reason(void) {
    int n = atomic_load(&level);
    return n ? (pb_stop_reason)atomic_load(&reasons[n - 1]) : PB_STOP_NONE;
}

pb_stop_reason pb_interrupt_end(void) {
    pb_stop_reason reason = pb_interrupt_reason();
    int n = atomic_load(&level) - 1;
    if (n < 0)
        return PB_STOP_NONE;
    arm(0);
    atomic_store(&level, n);
    atomic_store(&targets[n], NULL);
    if (n == 0) {
        for (int i = 0; i < 3; i++)
            sigaction(SIGNALS[i], &before[i], NULL);
    } else if (deadlines[n - 1] > 0) {
        double left = deadlines[n - 1] - pb_monotonic_seconds();
        arm(left > 0 ? left : 1e-6);
    }
    return reason;
}
