// SPDX-License-Identifier: GPL-2.0-or-later
#include "support/allocations.h"

#include <atomic>
#include <cstddef>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define VOLFS_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define VOLFS_SANITIZED 1
#endif
#endif

namespace {
std::atomic<uint64_t> count{0};
}  // namespace

#ifdef VOLFS_SANITIZED

// Sanitizers have a malloc of their own, and tell of its use.
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void*,
                                                                           size_t),
                                                         void (*on_free)(const volatile void*));

uint64_t volfs::test::allocations() {
  static const int installed = __sanitizer_install_malloc_and_free_hooks(
      [](const volatile void*, size_t) { count.fetch_add(1, std::memory_order_relaxed); },
      [](const volatile void*) {});
  (void)installed;
  return count.load(std::memory_order_relaxed);
}

#else

extern "C" {
// The C library's own, under their other names.
void* __libc_malloc(size_t size) noexcept;                      // NOLINT
void* __libc_memalign(size_t alignment, size_t size) noexcept;  // NOLINT

void* malloc(size_t size) noexcept {
  count.fetch_add(1, std::memory_order_relaxed);
  return __libc_malloc(size);
}
void* aligned_alloc(size_t alignment, size_t size) noexcept {
  count.fetch_add(1, std::memory_order_relaxed);
  return __libc_memalign(alignment, size);
}
}

uint64_t volfs::test::allocations() {
  return count.load(std::memory_order_relaxed);
}

#endif
