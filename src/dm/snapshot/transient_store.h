// SPDX-License-Identifier: GPL-2.0-or-later
// The store that forgets: data from chunk 0 on, no record. What Linux calls "N".
#pragma once

#include <atomic>

#include "exception_store.h"

namespace volfs::dm {

class TransientStore final : public ExceptionStore {
 public:
  TransientStore(BlockDevice& device, uint64_t chunk_size) : ExceptionStore(device) {
    chunk_size_ = chunk_size;
  }
  Usage usage() const override { return {next_ * chunk_size_, device_.size(), 0}; }
  std::optional<uint64_t> allocate() override {
    if (!given_back_.empty()) return given_back_.take();
    if (next_ >= device_.size() / chunk_size_) return std::nullopt;
    return next_++;
  }
  void give_back(uint64_t first, uint64_t count) override { given_back_.add(first, count); }
  Status drop() override { return {}; }

 private:
  std::atomic<uint64_t> next_{0};
  FreeChunks given_back_;
};

}  // namespace volfs::dm
