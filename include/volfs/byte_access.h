// SPDX-License-Identifier: GPL-2.0-or-later
// Any offset and any length: the device that stands on top of every exposed volume. What is
// aligned to the blocks of the device below goes straight through (map() answers for it); an
// unaligned write becomes read-modify-write of its first and last block.
#pragma once

#include "volfs/block_device.h"
#include "volfs/gate.h"
#include "volfs/range_lock.h"
#include "volfs/sync.h"

namespace volfs {

// Its logical block is 1 byte; its size follows the device below. All writes to the volume must
// go through it. A read-modify-write holds the range lock of its blocks; aligned writes take part
// in that lock only while one is under way, and else pass a gate, which costs one atomic operation.
// So none loses what another wrote, and writes to other ranges never wait for it.
class ByteAccess final : public BlockDevice {
 public:
  // BELOW must outlive this.
  explicit ByteAccess(BlockDevice& below);

  BlockDevice& below() const { return below_; }
  // Takes over a changed size or permission of the device below (after a table was swapped).
  void refresh();

 private:
  class AlignedWrite;
  class Exclusive;
  bool do_map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) override;
  Status do_read(uint64_t offset, IoSpan iov) override;
  Status do_write(uint64_t offset, IoSpan iov, Fua fua) override;
  Status do_discard(uint64_t offset, uint64_t length) override;
  Status do_write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) override;
  Result<Allocation> do_allocation(uint64_t offset, uint64_t length) override;
  Service do_service(Op op) const override;
  void do_for_each_below(const Visit& visit) const override;

  BlockDevice& below_;
  // Aligned writes that hold no range of blocks_ are in here; it is closed while anybody is
  // exclusive, and who comes then takes a range.
  Gate fast_;
  RangeLock blocks_;  // bytes, in whole blocks
  Mutex mutex_;       // guards the next two
  CondVar closed_;
  unsigned exclusive_ = 0;      // how many are, or wait to be
  bool fast_is_empty_ = false;  // the gate is closed and all have left
};

}  // namespace volfs
