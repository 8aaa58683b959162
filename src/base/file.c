/* Files; see file.h. Descriptors never outlive the function or writer that opened them. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* `verb` as in "cannot open 'x': No such file or directory". */
static pb_status fail_errno(pb_error *err, const char *verb, const char *path, int number) {
    char reason[256];
    if (strerror_r(number, reason, sizeof reason) != 0)
        snprintf(reason, sizeof reason, "error %d", number);
    const char *hint = number == ENOSPC   ? " (the disk is full; nothing was changed)"
                       : number == EDQUOT ? " (the disk quota is used up; nothing was changed)"
                                          : "";
    return pb_fail(err, PB_ERR_IO, "cannot %s '%s': %s%s", verb, path, reason, hint);
}

/* ---- reading ------------------------------------------------------------------------------------------------- */

static pb_status open_regular(const char *path, int *out, size_t *size, pb_error *err) {
    int fd;
    do {
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* non-blocking: a pipe must not hang us */
    } while (fd < 0 && errno == EINTR);
    if (fd < 0)
        return fail_errno(err, "open", path, errno);
    struct stat info;
    pb_status status = PB_OK;
    if (fstat(fd, &info) != 0)
        status = fail_errno(err, "look at", path, errno);
    else if (S_ISDIR(info.st_mode))
        status = pb_fail(err, PB_ERR_IO, "cannot read '%s': it is a folder, a file was expected", path);
    else if (!S_ISREG(info.st_mode))
        status = pb_fail(err, PB_ERR_IO, "cannot read '%s': it is not a regular file", path);
    else if ((uintmax_t)info.st_size > (uintmax_t)PTRDIFF_MAX)
        status = pb_fail(err, PB_ERR_IO, "cannot read '%s': too large for this machine's address space", path);
    if (status != PB_OK) {
        close(fd);
        return status;
    }
    *out = fd;
    *size = (size_t)info.st_size;
    return PB_OK;
}

pb_status pb_file_map(const char *path, pb_mapping *out, pb_error *err) {
    int fd;
    size_t size;
    PB_TRY(open_regular(path, &fd, &size, err));
    pb_mapping map = {NULL, size};
    pb_status status = PB_OK;
    if (size > 0) {
        void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED)
            status = fail_errno(err, "map", path, errno);
        else
            map.data = data;
    }
    close(fd);
    if (status == PB_OK)
        *out = map;
    return status;
}

void pb_file_unmap(pb_mapping *map) {
    if (map->data)
        munmap((void *)(uintptr_t)map->data, map->size);
    *map = (pb_mapping){NULL, 0};
}

bool pb_mapping_allow_changes(const pb_mapping *map) {
    return map->data && mprotect((void *)(uintptr_t)map->data, map->size, PROT_READ | PROT_WRITE) == 0;
}

/* The whole pages that bytes lie in. */
static char *page_span(const void *data, size_t bytes, size_t *length) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)data / page * page,
                    end = ((uintptr_t)data + bytes + page - 1) / page * page;
    *length = bytes ? end - begin : 0;
    return (char *)begin;
}

void pb_mapping_prefetch(const void *data, size_t bytes) {
    enum { STEP = 128 << 10 }; /* Linux reads no more than a device's read-ahead for one piece of advice */
    size_t length;
    char *begin = page_span(data, bytes, &length);
    for (size_t at = 0; at < length; at += STEP)
        (void)madvise(begin + at, length - at < STEP ? length - at : STEP, MADV_WILLNEED);
}

void pb_mapping_release(const void *data, size_t bytes) {
    size_t length;
    char *begin = page_span(data, bytes, &length);
    if (length)
        (void)madvise(begin, length, MADV_DONTNEED);
}

static pb_status read_all(int fd, const char *path, char *buffer, size_t size, pb_error *err) {
    size_t done = 0;
    while (done < size) {
        ssize_t got = read(fd, buffer + done, size - done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail_errno(err, "read", path, errno);
        if (got == 0)
            return pb_fail(err, PB_ERR_IO, "cannot read '%s': it became shorter while it was read", path);
        done += (size_t)got;
    }
    return PB_OK;
}

pb_status pb_file_read(pb_context *ctx, const char *path, size_t max_size, char **out, size_t *size, pb_error *err) {
    int fd;
    size_t length;
    PB_TRY(open_regular(path, &fd, &length, err));
    pb_status status = PB_OK;
    char *buffer = NULL;
    if (length > max_size) {
        status =
            pb_fail(err, PB_ERR_FORMAT, "'%s' has %zu bytes; at most %zu are accepted here", path, length, max_size);
        goto done;
    }
    buffer = pb_alloc(ctx, length + 1, 1);
    if (!buffer) {
        status = pb_fail_memory(err, ctx, length + 1, path);
        goto done;
    }
    status = read_all(fd, path, buffer, length, err);
    if (status != PB_OK)
        goto done;
    buffer[length] = '\0';
    *out = buffer;
    buffer = NULL;
    if (size)
        *size = length;
done:
    pb_free(buffer);
    close(fd);
    return status;
}

bool pb_file_exists(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

bool pb_folder_exists(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

pb_status pb_file_size(const char *path, uint64_t *out, pb_error *err) {
    struct stat info;
    if (stat(path, &info) != 0)
        return fail_errno(err, "look at", path, errno);
    if (!S_ISREG(info.st_mode))
        return pb_fail(err, PB_ERR_IO, "'%s' is not a regular file", path);
    *out = (uint64_t)info.st_size;
    return PB_OK;
}

/* ---- writing ------------------------------------------------------------------------------------------------- */

enum { WRITE_BUFFER = 1 << 16 };

struct pb_file_writer {
    int fd;
    bool direct;     /* target is a device or pipe: no temporary file */
    char *target;    /* links resolved */
    char *temporary; /* NULL when direct */
    size_t filled;
    unsigned char buffer[WRITE_BUFFER];
};

/* The file that a write to path ends in, in a new block: links resolved where the target exists. */
static pb_status resolve_target(pb_context *ctx, const char *path, char **out, struct stat *info, bool *exists,
                                pb_error *err) {
    *exists = stat(path, info) == 0;
    if (!*exists && errno != ENOENT)
        return fail_errno(err, "write", path, errno);
    if (*exists && S_ISDIR(info->st_mode))
        return pb_fail(err, PB_ERR_IO, "cannot write '%s': it is a folder, a file name was expected", path);
    if (*exists && S_ISREG(info->st_mode) && access(path, W_OK) != 0)
        return fail_errno(err, "write", path, errno);
    char resolved[PATH_MAX];
    bool follow = *exists && S_ISREG(info->st_mode) && realpath(path, resolved);
    char *copy = pb_strdup(ctx, follow ? resolved : path);
    if (!copy)
        return pb_fail_memory(err, ctx, strlen(path) + 1, "a file name");
    *out = copy;
    return PB_OK;
}

/* A new file beside the target. The name carries the process and a counter, so that open(2) applies the umask, which
 * mkstemp would not. */
static pb_status open_temporary(pb_context *ctx, pb_file_writer *w, pb_error *err) {
    size_t size = strlen(w->target) + 48;
    w->temporary = pb_alloc(ctx, size, 1);
    if (!w->temporary)
        return pb_fail_memory(err, ctx, size, "a file name");
    const char *name = pb_path_name(w->target);
    int folder = (int)(name - w->target);
    for (unsigned attempt = 0; attempt < 1000; attempt++) {
        snprintf(w->temporary, size, "%.*s.%s.%ld-%u.tmp", folder, w->target, name, (long)getpid(), attempt);
        w->fd = open(w->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (w->fd >= 0)
            return PB_OK;
        if (errno != EEXIST && errno != EINTR)
            break;
    }
    int number = errno;
    pb_free(w->temporary);
    w->temporary = NULL;
    return fail_errno(err, "write", w->target, number);
}

pb_status pb_file_writer_open(pb_context *ctx, const char *path, pb_file_writer **out, pb_error *err) {
    pb_file_writer *w = pb_alloc(ctx, 1, sizeof *w);
    if (!w)
        return pb_fail_memory(err, ctx, sizeof *w, "a file to write");
    w->fd = -1;
    w->direct = false;
    w->target = w->temporary = NULL;
    w->filled = 0;
    struct stat info;
    bool exists;
    pb_status status = resolve_target(ctx, path, &w->target, &info, &exists, err);
    if (status != PB_OK)
        goto done;
    w->direct = exists && !S_ISREG(info.st_mode);
    if (w->direct) {
        w->fd = open(w->target, O_WRONLY | O_CLOEXEC);
        if (w->fd < 0)
            status = fail_errno(err, "write", path, errno);
    } else {
        status = open_temporary(ctx, w, err);
        if (status == PB_OK && exists && fchmod(w->fd, info.st_mode & 0777) != 0)
            status = fail_errno(err, "set the permissions of", w->temporary, errno);
    }
    if (status != PB_OK)
        goto done;
    *out = w;
    w = NULL;
done:
    pb_file_writer_drop(w);
    return status;
}

static pb_status write_through(pb_file_writer *w, const unsigned char *data, size_t size, pb_error *err) {
    while (size > 0) {
        ssize_t put = write(w->fd, data, size);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return fail_errno(err, "write", w->target, errno);
        data += put;
        size -= (size_t)put;
    }
    return PB_OK;
}

static pb_status flush_buffer(pb_file_writer *w, pb_error *err) {
    PB_TRY(write_through(w, w->buffer, w->filled, err));
    w->filled = 0;
    return PB_OK;
}

pb_status pb_file_writer_add(pb_file_writer *w, const void *data, size_t size, pb_error *err) {
    if (size > WRITE_BUFFER - w->filled)
        PB_TRY(flush_buffer(w, err));
    if (size >= WRITE_BUFFER)
        return write_through(w, data, size, err);
    if (size)
        memcpy(w->buffer + w->filled, data, size);
    w->filled += size;
    return PB_OK;
}

/* So that the rename itself survives a power cut. Some file systems cannot; that is no failure. */
static void sync_folder_of(const char *target) {
    char folder[PATH_MAX];
    size_t length = (size_t)(pb_path_name(target) - target);
    if (length >= sizeof folder)
        return;
    memcpy(folder, target, length);
    folder[length] = '\0';
    int fd = open(length ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
}

pb_status pb_file_writer_commit(pb_file_writer *w, pb_error *err) {
    pb_status status = flush_buffer(w, err);
    if (status == PB_OK && !w->direct && fsync(w->fd) != 0)
        status = fail_errno(err, "write", w->target, errno);
    if (status == PB_OK) {
        int fd = w->fd;
        w->fd = -1;
        if (close(fd) != 0 && errno != EINTR)
            status = fail_errno(err, "write", w->target, errno);
    }
    if (status == PB_OK && !w->direct) {
        if (rename(w->temporary, w->target) != 0) {
            status = fail_errno(err, "write", w->target, errno);
        } else {
            sync_folder_of(w->target);
            pb_free(w->temporary); /* it has become the target: drop must not remove it */
            w->temporary = NULL;
        }
    }
    pb_file_writer_drop(w);
    return status;
}

void pb_file_writer_drop(pb_file_writer *w) {
    if (!w)
        return;
    if (w->fd >= 0)
        close(w->fd);
    if (w->temporary)
        unlink(w->temporary);
    pb_free(w->temporary);
    pb_free(w->target);
    pb_free(w);
}

pb_status pb_file_write(pb_context *ctx, const char *path, const void *data, size_t size, pb_error *err) {
    pb_file_writer *w = NULL;
    PB_TRY(pb_file_writer_open(ctx, path, &w, err));
    pb_status status = pb_file_writer_add(w, data, size, err);
    if (status != PB_OK) {
        pb_file_writer_drop(w);
        return status;
    }
    return pb_file_writer_commit(w, err);
}

/* ---- paths and folders --------------------------------------------------------------------------------------- */

char *pb_path_join(pb_context *ctx, const char *folder, const char *name) {
    if (name[0] == '/')
        return pb_strdup(ctx, name);
    if (!folder[0])
        folder = ".";
    size_t length = strlen(folder), name_length = strlen(name);
    bool slash = folder[length - 1] != '/';
    char *path = pb_alloc(ctx, length + slash + name_length + 1, 1);
    if (!path)
        return NULL;
    memcpy(path, folder, length);
    if (slash)
        path[length] = '/';
    memcpy(path + length + slash, name, name_length + 1);
    return path;
}

const char *pb_path_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

char *pb_path_folder(pb_context *ctx, const char *path) {
    const char *slash = strrchr(path, '/');
    if (!slash)
        return pb_strdup(ctx, ".");
    return pb_strndup(ctx, path, slash == path ? 1 : (size_t)(slash - path));
}

static pb_status make_one(const char *path, pb_error *err) {
    if (mkdir(path, 0777) == 0)
        return PB_OK;
    int number = errno;
    if (pb_folder_exists(path))
        return PB_OK;
    if (number == EEXIST)
        return pb_fail(err, PB_ERR_IO, "cannot make the folder '%.400s': a file of this name is there", path);
    return fail_errno(err, "make the folder", path, number);
}

pb_status pb_folder_check(pb_context *ctx, const char *path, pb_error *err) {
    char *there = pb_strdup(ctx, path);
    if (!there)
        return pb_fail_memory(err, ctx, strlen(path) + 1, "a folder name");
    struct stat info;
    while (stat(there, &info) != 0 && (errno == ENOENT || errno == ENOTDIR) && strcmp(there, ".") != 0) {
        char *up = pb_path_folder(ctx, there);
        pb_free(there);
        if (!up)
            return pb_fail_memory(err, ctx, strlen(path) + 1, "a folder name");
        there = up;
    }
    pb_status status = PB_OK;
    if (stat(there, &info) == 0 && !S_ISDIR(info.st_mode))
        status = pb_fail(err, PB_ERR_IO, "cannot write into '%.400s': it is a file, a folder was expected", there);
    else if (access(there, W_OK | X_OK) != 0)
        status = fail_errno(err, "write into the folder", there, errno);
    pb_free(there);
    return status;
}

pb_status pb_folder_create(pb_context *ctx, const char *path, pb_error *err) {
    if (!path[0])
        return pb_fail(err, PB_ERR_ARGUMENT, "the name of the folder to make is empty");
    char *part = pb_strdup(ctx, path);
    if (!part)
        return pb_fail_memory(err, ctx, strlen(path) + 1, "a folder name");
    pb_status status = PB_OK;
    for (char *c = part + 1; status == PB_OK && *c; c++) {
        if (*c != '/')
            continue;
        *c = '\0';
        status = make_one(part, err);
        *c = '/';
    }
    if (status == PB_OK)
        status = make_one(part, err);
    pb_free(part);
    return status;
}
