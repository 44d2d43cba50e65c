// SPDX-License-Identifier: GPL-2.0-or-later
// Where a snapshot keeps its exceptions: the space on the copy-on-write device and, if it is
// persistent, the record of them.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <set>

#include "volfs/block_device.h"
#include "volfs/error.h"

namespace volfs::dm {

class PersistentStore;

// Chunks that were given back, the lowest first.
class FreeChunks {
 public:
  bool empty() const { return chunks_.empty(); }
  void add(uint64_t first, uint64_t count) {
    for (uint64_t i = 0; i < count; ++i) chunks_.insert(first + i);
  }
  void clear() { chunks_.clear(); }
  uint64_t take() { return chunks_.extract(chunks_.begin()).value(); }

 private:
  std::set<uint64_t> chunks_;
};

class ExceptionStore {
 public:
  // Bytes.
  struct Usage {
    uint64_t allocated = 0;  // of TOTAL, metadata included
    uint64_t total = 0;
    uint64_t metadata = 0;
  };

  virtual ~ExceptionStore() = default;

  BlockDevice& device() const { return device_; }
  uint64_t chunk_size() const { return chunk_size_; }
  virtual Usage usage() const = 0;

  // The chunk for the next exception; none when the device is full. The caller sees to it that
  // one thread at a time allocates.
  virtual std::optional<uint64_t> allocate() = 0;
  // Gives back chunks that allocate() gave and that will not be committed.
  virtual void give_back(uint64_t first, uint64_t count) = 0;
  // Notes durably that the snapshot is of no use any more.
  virtual Status drop() = 0;
  // The store that records exceptions, if this is one.
  virtual PersistentStore* persistent() { return nullptr; }

 protected:
  explicit ExceptionStore(BlockDevice& device) : device_(device) {}
  BlockDevice& device_;
  uint64_t chunk_size_ = 0;
};

}  // namespace volfs::dm
