// SPDX-License-Identifier: GPL-2.0-or-later
// A device that passes everything on to the one below, except what its rules spoil. What it does
// to a request is the sum of the rules that match it, in the order in which they were added.
#pragma once

#include <limits>
#include <list>
#include <optional>
#include <set>
#include <string>

#include "support/random.h"
#include "volfs/block_device.h"

namespace volfs::test {

enum class FaultOp : uint8_t {
  read = 1,
  write = 2,
  flush = 4,
  discard = 8,
  write_zeroes = 16,
  any = 31
};
constexpr FaultOp operator|(FaultOp a, FaultOp b) {
  return static_cast<FaultOp>(static_cast<uint8_t>(a) | static_cast<uint8_t>(b));
}

struct FaultRule {
  // Which requests: these operations, touching [begin, end) (flushes touch everything) ...
  FaultOp op = FaultOp::any;
  uint64_t begin = 0;
  uint64_t end = std::numeric_limits<uint64_t>::max();
  uint64_t skip = 0;                                      // ... not the first so many of them
  uint64_t times = std::numeric_limits<uint64_t>::max();  // ... and after so many no more
  uint64_t one_in = 1;  // ... and of those only one in so many, by the device's seed

  // What happens, in this order.
  Nanos delay{0};     // it takes longer (volfs::sleep_for)
  bool hang = false;  // it waits until the rule is removed
  int error = 0;      // it fails with this errno; a write: after writing the first `torn` bytes
  uint64_t torn = 0;  // multiple of 512
  bool lost = false;  // a write, flush, discard: done, it says, and does nothing
  std::optional<uint64_t> redirect;  // a read or write goes to this offset instead
  // This bit of the device (byte offset, bit 0 to 7) is wrong in what is read or written.
  std::optional<uint64_t> flip_offset;
  uint8_t flip_bit = 0;
};

class FaultDevice final : public BlockDevice {
 public:
  using RuleId = uint64_t;
  explicit FaultDevice(BlockDevice& below, uint64_t seed = 0);
  ~FaultDevice() override;

  // All of these: any thread, any time.
  RuleId add(const FaultRule& rule);
  void remove(RuleId id);
  void remove_all();
  // Shorthand: the NTH (from 0) matching request from now on fails, once.
  RuleId fail_nth(FaultOp op, uint64_t nth, int error);
  // Sectors that cannot be read (EIO) until they are written.
  void add_latent(uint64_t offset, uint64_t length);
  // The member is gone (true: every request fails with ENXIO) or back.
  void vanish(bool gone);
  // How many requests there were, and how often a rule did something.
  uint64_t count(FaultOp op) const;
  uint64_t hits(RuleId id) const;

 private:
  struct Entry {
    RuleId id;
    FaultRule rule;
    uint64_t matched = 0, hits = 0;
  };
  struct Verdict {
    Nanos delay{0};
    int error = 0;
    uint64_t torn = 0;
    bool lost = false;
    std::optional<uint64_t> redirect;
    bool flips = false;
  };
  Status do_read(uint64_t offset, IoSpan iov) override;
  Status do_write(uint64_t offset, IoSpan iov, Fua fua) override;
  Status do_discard(uint64_t offset, uint64_t length) override;
  Status do_write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) override;
  Result<Allocation> do_allocation(uint64_t offset, uint64_t length) override;
  Status do_flush() override;
  Service do_service(Op op) const override;
  void do_for_each_below(const Visit& visit) const override;
  Verdict judge(FaultOp op, uint64_t offset, uint64_t length,
                std::set<std::pair<uint64_t, uint8_t>>& flips);
  Entry* find(RuleId id);
  void heal(uint64_t offset, uint64_t length);

  BlockDevice& below_;
  mutable Mutex mutex_;  // guards all below
  CondVar changed_;
  Random random_;
  std::list<Entry> rules_;
  std::set<uint64_t> latent_;  // sectors, by offset
  uint64_t counts_[5] = {};
  RuleId last_id_ = 0;
  bool gone_ = false;
};

}  // namespace volfs::test
