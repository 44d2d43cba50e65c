// SPDX-License-Identifier: GPL-2.0-or-later
// Reads or writes of many members as one batch: pieces are added in any order, what is contiguous
// on a member becomes one vectored operation. And memory for a request's own buffers.
#pragma once

#include <vector>

#include "personality.h"
#include "volfs/inline_vector.h"
#include "volfs/io_batch.h"

namespace volfs::md {

class SlotIo {
 public:
  explicit SlotIo(Members& members) : m_(members) {}
  void add(uint32_t slot, uint64_t offset, void* memory, size_t length);
  bool empty() const { return pieces_.empty(); }
  void clear();

  // Carries all out; true if nothing failed. Then the failed slots with an error each.
  bool read() { return run(IoOp::Kind::read); }
  bool write(Fua fua);
  struct Failure {
    uint32_t slot;
    int error;
    uint64_t offset, length;
  };
  const std::vector<Failure>& failures() const { return failures_; }
  // After a write that failed: what cannot be written is recorded as bad, or its member fails. An
  // error: the array has failed, or a member had no room (no_room), which is not held against it.
  Status settle_failures();

 private:
  bool run(IoOp::Kind kind);
  Status write_again(const Failure& failure);
  struct Piece {
    uint32_t slot;
    uint64_t offset;
    iovec memory;
  };
  Members& m_;
  InlineVector<Piece, 24> pieces_;
  std::vector<Failure> failures_;
};

// Memory of a request, aligned for direct I/O; given back when it goes. Threads keep one block.
class Scratch {
 public:
  Scratch() = default;
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  // Not initialised; lives as long as the Scratch or until clear().
  std::byte* take(size_t length);
  size_t taken() const { return taken_; }
  void clear();

 private:
  struct Free {
    void operator()(std::byte* memory) const;
  };
  using Memory = std::unique_ptr<std::byte, Free>;
  struct Block {
    Memory memory;
    size_t size = 0, used = 0;
  };
  static thread_local Block kept;
  std::vector<Block> blocks_;
  size_t taken_ = 0;
};

}  // namespace volfs::md
