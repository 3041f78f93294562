/* Preloaded: notes every change of files below TINSMITH_RECORD_BELOW, in order, in the file TINSMITH_RECORD_TO.
 *
 * A record is a line `op<TAB>offset<TAB>length<TAB>path<TAB>other path`, followed by `length` bytes. What is mapped into
 * memory (SQLite's -shm) is not seen; SQLite makes that file anew.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int out = -1;
static const char *below;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void) {
    below = getenv("TINSMITH_RECORD_BELOW");
    const char *to = getenv("TINSMITH_RECORD_TO");
    if (below && to) out = REAL(open)(to, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static int ours(const char *path) { return out >= 0 && !strncmp(path, below, strlen(below)); }

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX - 1);
    path[n < 0 ? 0 : n] = 0;
    return n > 0;
}

static void absolute(int dir, const char *given, char *path) {
    char base[PATH_MAX] = "";
    if (given[0] == '/') { snprintf(path, PATH_MAX, "%s", given); return; }
    if (dir == AT_FDCWD) { if (!getcwd(base, sizeof base)) base[0] = 0; } else path_of(dir, base);
    if (snprintf(path, PATH_MAX, "%s/%s", base, given) >= PATH_MAX) abort();
}

static void note(const char *op, long long offset, size_t length, const char *path, const char *other, const void *data) {
    char head[2 * PATH_MAX + 64];
    int saved = errno;
    int n = snprintf(head, sizeof head, "%s\t%lld\t%zu\t%s\t%s\n", op, offset, length, path, other);
    if (n >= (int)sizeof head) abort();
    pthread_mutex_lock(&lock);
    if (REAL(write)(out, head, n) != n) abort();
    if (length && REAL(write)(out, data, length) != (ssize_t)length) abort();
    pthread_mutex_unlock(&lock);
    errno = saved;
}

static void note_fd(const char *op, int fd, long long offset, size_t length, const void *data) {
    char path[PATH_MAX];
    if (out >= 0 && fd != out && path_of(fd, path) && ours(path)) note(op, offset, length, path, "", data);
}

/* Before the call for what begins a promise, after it for what ends one: a sync counts once it has returned. */

static int opened(int fd, int there, int flags) {
    if (fd >= 0 && !there && (flags & O_CREAT)) note_fd("create", fd, 0, 0, NULL);
    else if (fd >= 0 && (flags & O_TRUNC)) note_fd("truncate", fd, 0, 0, NULL);
    return fd;
}

static int there(int dir, const char *path) { struct stat s; return !fstatat(dir, path, &s, 0); }

#define OPEN(name, params, dir, path, call)                                   \
    int name params {                                                         \
        mode_t mode = 0;                                                      \
        if (flags & (O_CREAT | O_TMPFILE)) {                                  \
            va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); \
        }                                                                     \
        int was = there(dir, path);                                           \
        return opened(REAL(name) call, was, flags);                           \
    }
OPEN(open, (const char *path, int flags, ...), AT_FDCWD, path, (path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD, path, (path, flags, mode))
OPEN(openat, (int dir, const char *path, int flags, ...), dir, path, (dir, path, flags, mode))
OPEN(openat64, (int dir, const char *path, int flags, ...), dir, path, (dir, path, flags, mode))

ssize_t write(int fd, const void *data, size_t n) {
    ssize_t done = REAL(write)(fd, data, n);
    if (done > 0) note_fd("write", fd, (long long)lseek(fd, 0, SEEK_CUR) - done, done, data);
    return done;
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    ssize_t total = 0;
    for (int i = 0; i < count; i++) {
        ssize_t done = write(fd, parts[i].iov_base, parts[i].iov_len);
        if (done < 0) return total ? total : done;
        total += done;
        if ((size_t)done < parts[i].iov_len) break;
    }
    return total;
}
#define PWRITE(name, type)                                                    \
    ssize_t name(int fd, const void *data, size_t n, type at) {               \
        ssize_t done = REAL(name)(fd, data, n, at);                           \
        if (done > 0) note_fd("write", fd, at, done, data);                   \
        return done;                                                          \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define TRUNCATE(name, type)                                                  \
    int name(int fd, type length) {                                           \
        int rc = REAL(name)(fd, length);                                      \
        if (!rc) note_fd("truncate", fd, length, 0, NULL);                    \
        return rc;                                                            \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

int fsync(int fd) { int rc = REAL(fsync)(fd); if (!rc) note_fd("sync", fd, 0, 0, NULL); return rc; }
int fdatasync(int fd) { int rc = REAL(fdatasync)(fd); if (!rc) note_fd("sync", fd, 0, 0, NULL); return rc; }

static void note_path(const char *op, int dir, const char *given, int other_dir, const char *other_given) {
    char path[PATH_MAX], other[PATH_MAX] = "";
    absolute(dir, given, path);
    if (other_given) absolute(other_dir, other_given, other);
    if (ours(path) || (other_given && ours(other))) note(op, 0, 0, path, other, NULL);
}
#define AFTER(call, op, d, p, od, o) int rc = call; if (!rc) note_path(op, d, p, od, o); return rc;
int rename(const char *a, const char *b) { AFTER(REAL(rename)(a, b), "rename", AT_FDCWD, a, AT_FDCWD, b) }
int renameat(int d, const char *a, int e, const char *b) { AFTER(REAL(renameat)(d, a, e, b), "rename", d, a, e, b) }
int link(const char *a, const char *b) { AFTER(REAL(link)(a, b), "link", AT_FDCWD, a, AT_FDCWD, b) }
int linkat(int d, const char *a, int e, const char *b, int f) { AFTER(REAL(linkat)(d, a, e, b, f), "link", d, a, e, b) }
int unlink(const char *a) { AFTER(REAL(unlink)(a), "unlink", AT_FDCWD, a, 0, NULL) }
int unlinkat(int d, const char *a, int f) { AFTER(REAL(unlinkat)(d, a, f), "unlink", d, a, 0, NULL) }
int rmdir(const char *a) { AFTER(REAL(rmdir)(a), "unlink", AT_FDCWD, a, 0, NULL) }
int mkdir(const char *a, mode_t m) { AFTER(REAL(mkdir)(a, m), "mkdir", AT_FDCWD, a, 0, NULL) }
int mkdirat(int d, const char *a, mode_t m) { AFTER(REAL(mkdirat)(d, a, m), "mkdir", d, a, 0, NULL) }
