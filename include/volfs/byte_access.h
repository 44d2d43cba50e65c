// SPDX-License-Identifier: GPL-2.0-or-later
// Any offset and any length: the device that stands on top of every exposed volume. What is
// aligned to the blocks of the device below goes straight through (map() answers for it); an
// unaligned write becomes read-modify-write of its first and last block.
#pragma once

#include "volfs/block_device.h"
#include "volfs/gate.h"

namespace volfs {

// Its logical block is 1 byte; its size follows the device below. All writes to the volume must
// go through it: aligned ones enter a gate that an unaligned one closes for the time of its
// read-modify-write, so that neither loses what the other wrote.
class ByteAccess final : public BlockDevice {
 public:
  // BELOW must outlive this.
  explicit ByteAccess(BlockDevice& below);

  BlockDevice& below() const { return below_; }
  // Takes over a changed size or permission of the device below (after a table was swapped).
  void refresh();

 private:
  bool do_map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) override;
  Status do_read(uint64_t offset, IoSpan iov) override;
  Status do_write(uint64_t offset, IoSpan iov, Fua fua) override;
  Status do_discard(uint64_t offset, uint64_t length) override;
  Status do_write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) override;
  Result<Allocation> do_allocation(uint64_t offset, uint64_t length) override;
  Service do_service(Op op) const override;
  void do_for_each_below(const Visit& visit) const override;

  BlockDevice& below_;
  Gate aligned_writes_;
};

}  // namespace volfs
