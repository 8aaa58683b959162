/* The program's commands, behind main.c's reading of the command line. Each returns an exit code: 0 done, 1 failed (a
 * message is on standard error), 2 wrong usage; 130 and 143 when stopped by Ctrl-C and SIGTERM. */
#ifndef PB_HOST_COMMANDS_H
#define PB_HOST_COMMANDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct pb_command_options {
    const char *output;          /* -o */
    const char *const *readable; /* --read, NULL-terminated */
    const char *const *params;   /* key=value, NULL-terminated */
    uint64_t seed;
    int threads;   /* 0: as OpenMP decides */
    size_t memory; /* bytes; 0: three quarters of the machine's */
    double time;   /* seconds; 0: no limit */
    size_t tokens; /* info: length of the run that is planned; 0: several */
    bool trust;
    bool gc_stress; /* test */
} pb_command_options;

int pb_command_run(const char *recipe, const pb_command_options *options);
int pb_command_info(const char *model, const pb_command_options *options); /* model may be NULL */
int pb_command_get(const char *model, const pb_command_options *options);  /* org/name[@revision], from the hub */
int pb_command_help(const char *name, bool markdown);                      /* name may be NULL */
int pb_command_test(const char *const *paths,
                    const pb_command_options *options); /* files or folders, NULL-terminated */

#endif
