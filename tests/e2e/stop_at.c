// SPDX-License-Identifier: GPL-2.0-or-later
// For LD_PRELOAD before a volfs that is to be killed at an exact point: before the Nth call that
// changes files, counted from when the file $STOP_AT_FILE, which holds N, is there.
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long calls;

// How many calls there are to be; 0 if they are not counted yet.
static long wanted(void) {
  const char* const path = getenv("STOP_AT_FILE");
  const int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC) : -1;
  if (fd < 0) return 0;
  char text[24] = {0};
  const ssize_t length = read(fd, text, sizeof text - 1);
  syscall(SYS_close, fd);
  return length > 0 ? atol(text) : 0;
}

static void step(void) {
  const long n = wanted();
  if (n > 0 && atomic_fetch_add(&calls, 1) + 1 >= n) kill(getpid(), SIGKILL);
}

#define STEP(result, name, parameters, arguments)        \
  result name parameters {                               \
    static result(*real) parameters;                     \
    if (!real) *(void**)&real = dlsym(RTLD_NEXT, #name); \
    step();                                              \
    return real arguments;                               \
  }

STEP(int, rename, (const char* from, const char* to), (from, to))
STEP(int, unlink, (const char* path), (path))
STEP(int, fsync, (int fd), (fd))
STEP(int, fdatasync, (int fd), (fd))
STEP(int, ftruncate64, (int fd, off64_t size), (fd, size))
STEP(int, fallocate64, (int fd, int mode, off64_t at, off64_t size), (fd, mode, at, size))
STEP(ssize_t, pwrite64, (int fd, const void* from, size_t size, off64_t at), (fd, from, size, at))
STEP(ssize_t, pwritev64, (int fd, const struct iovec* list, int count, off64_t at),
     (fd, list, count, at))
STEP(ssize_t, pwritev64v2, (int fd, const struct iovec* list, int count, off64_t at, int flags),
     (fd, list, count, at, flags))
STEP(int, io_uring_submit, (void* ring), (ring))
STEP(int, io_uring_submit_and_wait, (void* ring, unsigned count), (ring, count))
