// SPDX-License-Identifier: GPL-2.0-or-later
// For LD_PRELOAD before a user-mode Linux. Kernels up to 6.9 set a process's extended state from a
// buffer of a fixed size; on processors with a larger state (AMX) the host refuses that, and the
// guest dies at its first process. Here what such a kernel leaves out stays as it is.
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static long call(long request, long pid, long addr, long data) {
  return syscall(SYS_ptrace, request, pid, addr, data);
}

long ptrace(enum __ptrace_request request, ...) {
  va_list list;
  va_start(list, request);
  const long pid = va_arg(list, int);
  const long addr = va_arg(list, long);
  const long data = va_arg(list, long);
  va_end(list);
  if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
    long word = 0;  // as libc's: the word is what is returned
    const long result = call(request, pid, addr, (long)&word);
    if (result < 0) return result;
    errno = 0;
    return word;
  }
  if (request == PTRACE_SETREGSET && addr == NT_X86_XSTATE) {
    static _Thread_local unsigned char state[64 * 1024] __attribute__((aligned(64)));
    const struct iovec* given = (const struct iovec*)data;
    struct iovec whole = {state, sizeof state};
    if (call(PTRACE_GETREGSET, pid, addr, (long)&whole) == 0 && whole.iov_len > given->iov_len) {
      memcpy(state, given->iov_base, given->iov_len);
      return call(request, pid, addr, (long)&whole);
    }
  }
  return call(request, pid, addr, data);
}
