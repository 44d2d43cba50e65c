// SPDX-License-Identifier: GPL-2.0-or-later
// The order that the kernel makes between threads that serve one connection, told to
// ThreadSanitizer; nothing without it.
//
// The kernel names a file in a request only after it has read the answer that told it of the file,
// and releases a file only after it has read the answers to all its requests. So what a thread did
// before it wrote an answer happened before what a thread does that reads a request thereafter.
// ThreadSanitizer sees no order through a device, as its own table of descriptors forgets them at
// fork(2).
#pragma once

#if defined(__SANITIZE_THREAD__)
#define VOLFS_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define VOLFS_THREAD_SANITIZER 1
#endif
#endif

#ifdef VOLFS_THREAD_SANITIZER
extern "C" void __tsan_acquire(void* address);
extern "C" void __tsan_release(void* address);
#endif

namespace volfs::fuse {

// Both by any thread, just before an answer is written and just after a request was read.
#ifdef VOLFS_THREAD_SANITIZER
inline char kernel_order;
inline void before_answer() {
  __tsan_release(&kernel_order);
}
inline void after_request() {
  __tsan_acquire(&kernel_order);
}
#else
inline void before_answer() {}
inline void after_request() {}
#endif

}  // namespace volfs::fuse
