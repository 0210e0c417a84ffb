/* Preloaded: the n-th call that changes something below a folder fails with a chosen error. Passive until `fail_call` is called. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[4096];
static long left = -1, seen = 0, failed = 0;
static int number = EIO;

void fail_call(const char *below, long nth, int error) {
    strncpy(folder, below, sizeof folder - 1);
    left = nth;
    number = error;
    seen = failed = 0;
}

long calls_seen(void) { return seen; }
long calls_failed(void) { return failed; }

static int is_below(const char *path) { return path && folder[0] && strncmp(path, folder, strlen(folder)) == 0; }

static int is_open_below(int file) {
    char link[64], path[4096];
    if (!folder[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return is_below(path);
}

static int fails(int concerned) {
    if (!concerned) return 0;
    __sync_fetch_and_add(&seen, 1);
    if (left < 0 || __sync_sub_and_fetch(&left, 1) != -1) return 0;
    failed++;
    errno = number;
    return 1;
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int file, const void *data, size_t size) { REAL(write); return fails(is_open_below(file)) ? -1 : real(file, data, size); }
ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) { REAL(pwrite64); return fails(is_open_below(file)) ? -1 : real(file, data, size, at); }
ssize_t writev(int file, const struct iovec *parts, int count) { REAL(writev); return fails(is_open_below(file)) ? -1 : real(file, parts, count); }
int fsync(int file) { REAL(fsync); return fails(is_open_below(file)) ? -1 : real(file); }
int rename(const char *from, const char *to) { REAL(rename); return fails(is_below(to)) ? -1 : real(from, to); }
int mkdir(const char *path, mode_t mode) { REAL(mkdir); return fails(is_below(path)) ? -1 : real(path, mode); }
int unlink(const char *path) { REAL(unlink); return fails(is_below(path)) ? -1 : real(path); }

#define OPEN(name)                                                            \
    int name(const char *path, int flags, ...) {                              \
        REAL(name);                                                           \
        va_list rest;                                                         \
        va_start(rest, flags);                                                \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                         \
        return fails((flags & O_CREAT) && is_below(path)) ? -1 : real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
