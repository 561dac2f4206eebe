/* SPDX-License-Identifier: Apache-2.0
 *
 * Preloaded into kerf by the crash test: counts the calls that change files and, at the KERF_KILL_AT-th, kills the process
 * before the call happens; when that one is a write, half of it is written first (a torn write). With KERF_KILL_COUNT=FILE
 * the number of calls so far is kept in FILE. Writes to nameless files do not count: nothing can find them after a crash. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long calls;

static int is_named_file(int fd) {
    struct stat status;
    return fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_nlink > 0;
}

static void note(long count) {
    const char* file = getenv("KERF_KILL_COUNT");
    if (!file) return;
    char text[32];
    const int size = snprintf(text, sizeof text, "%ld\n", count);
    const int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0) return;
    ssize_t (*real_write)(int, const void*, size_t) = (ssize_t(*)(int, const void*, size_t))dlsym(RTLD_NEXT, "write");
    if (real_write(fd, text, (size_t)size) < 0) abort();
    close(fd);
}

/* Whether this very call is the one to die at. */
static int is_the_one(void) {
    const char* at = getenv("KERF_KILL_AT");
    const long count = atomic_fetch_add(&calls, 1) + 1;
    note(count);
    return at && count == strtol(at, NULL, 10);
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

ssize_t write(int fd, const void* bytes, size_t count) {
    ssize_t (*real)(int, const void*, size_t) = (ssize_t(*)(int, const void*, size_t))dlsym(RTLD_NEXT, "write");
    if (is_named_file(fd) && is_the_one()) {
        if (real(fd, bytes, count / 2) < 0) abort();
        die();
    }
    return real(fd, bytes, count);
}

ssize_t pwrite(int fd, const void* bytes, size_t count, off_t offset) {
    ssize_t (*real)(int, const void*, size_t, off_t) = (ssize_t(*)(int, const void*, size_t, off_t))dlsym(RTLD_NEXT, "pwrite");
    if (is_named_file(fd) && is_the_one()) {
        if (real(fd, bytes, count / 2, offset) < 0) abort();
        die();
    }
    return real(fd, bytes, count, offset);
}

ssize_t pwrite64(int fd, const void* bytes, size_t count, off64_t offset) { return pwrite(fd, bytes, count, offset); }

int ftruncate(int fd, off_t size) {
    int (*real)(int, off_t) = (int (*)(int, off_t))dlsym(RTLD_NEXT, "ftruncate");
    if (is_named_file(fd) && is_the_one()) die();
    return real(fd, size);
}

int fsync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    if (is_the_one()) die();
    return real(fd);
}

int rename(const char* from, const char* to) {
    int (*real)(const char*, const char*) = (int (*)(const char*, const char*))dlsym(RTLD_NEXT, "rename");
    if (is_the_one()) die();
    return real(from, to);
}

int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) {
    int (*real)(int, const char*, int, const char*, unsigned) =
        (int (*)(int, const char*, int, const char*, unsigned))dlsym(RTLD_NEXT, "renameat2");
    if (is_the_one()) die();
    return real(from_folder, from, to_folder, to, flags);
}

int unlink(const char* path) {
    int (*real)(const char*) = (int (*)(const char*))dlsym(RTLD_NEXT, "unlink");
    if (is_the_one()) die();
    return real(path);
}

int unlinkat(int folder, const char* path, int flags) {
    int (*real)(int, const char*, int) = (int (*)(int, const char*, int))dlsym(RTLD_NEXT, "unlinkat");
    if (is_the_one()) die();
    return real(folder, path, flags);
}

int remove(const char* path) {
    int (*real)(const char*) = (int (*)(const char*))dlsym(RTLD_NEXT, "remove");
    if (is_the_one()) die();
    return real(path);
}
