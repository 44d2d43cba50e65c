// SPDX-License-Identifier: GPL-2.0-or-later
// Memory that O_DIRECT accepts on every file system and device.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <span>

namespace volfs {

class AlignedBuffer {
 public:
  static constexpr size_t alignment = 4096;
  // How much is moved through a buffer at a time: stays in a core's cache.
  static constexpr size_t piece = 256 * 1024;

  // At least SIZE bytes; what was there before is gone.
  std::span<std::byte> get(size_t size) {
    if (size > size_) {
      size = (size + alignment - 1) / alignment * alignment;
      memory_.reset(static_cast<std::byte*>(std::aligned_alloc(alignment, size)));
      if (!memory_) throw std::bad_alloc();
      size_ = size;
    }
    return {memory_.get(), size_};
  }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::unique_ptr<std::byte, Free> memory_;
  size_t size_ = 0;
};

}  // namespace volfs
