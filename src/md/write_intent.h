// SPDX-License-Identifier: GPL-2.0-or-later
// The write-intent bitmap at work. A bit is on disk before what it stands for is written, and is
// taken back some time after: an array that was not stopped cleanly, or a member that was away,
// need only be synced where bits are set.
//
// Any thread. The bits are kept as they are on disk, in one piece; a page of it is written when
// it changes, by one thread at a time, so that pages reach the members in order.
#pragma once

#include <functional>
#include <mutex>
#include <optional>
#include <vector>

#include "volfs/md/bitmap.h"
#include "volfs/sync.h"

namespace volfs::md {

class WriteIntent {
 public:
  // What came of writing: slots of members that failed, and the errno (or 0) of those that have no
  // room now.
  struct Outcome {
    std::vector<uint32_t> failed;
    int no_room = 0;
  };
  // Writes bytes at an offset of the bitmap to all members, durably. Called without locks of this
  // class.
  using Write = std::function<Outcome(uint64_t offset, std::span<const std::byte> bytes)>;
  // Fails members; false: the array has failed.
  using Fail = std::function<bool(const std::vector<uint32_t>& slots)>;

  // ROOM: bytes that may be written from the bitmap's start on. IMAGE: the bits as on disk, with
  // superblock; as long as the geometry needs.
  WriteIntent(const BitmapSuperblock& superblock, uint64_t room, std::vector<std::byte> image,
              Write write, Fail fail);

  const BitmapSuperblock& superblock() const { return superblock_; }

  // Before a write of [begin, end): at return its bits are durable. ENOSPC or EDQUOT: there is no
  // room for them. end() follows in any case.
  Status start(uint64_t begin, uint64_t end);
  // After it. REDUNDANT: it reached all members, or none; else the bits stay until a sync.
  void end(uint64_t begin, uint64_t end, bool redundant);

  // Whether sync must look at any byte of the range: bits that were left over, or (ANY) any bit.
  bool needed(uint64_t begin, uint64_t end, bool any) const;
  // The bits of the range, which is being written, stay set until a sync.
  void need(uint64_t begin, uint64_t end);
  // So do those that are set in IMAGE, of another bitmap of the same geometry.
  void need_too(std::span<const std::byte> image);
  // All set bits wait for a sync; or none does any more.
  void need_all_set();
  void need_everything();
  void need_nothing();
  void synced(uint64_t begin, uint64_t end);

  // Clears bits that nobody needs since the sweep before (NOW: or just now). SETTLE is called
  // before that, without locks: it makes durable on all members what the bits stood for and
  // returns the array's events then; nothing if the array is not whole, which keeps all bits.
  // True if there is something left to do later.
  using Settle = std::function<std::optional<uint64_t>()>;
  bool sweep(bool now, const Settle& settle);
  // The superblock follows the array's; written at once.
  Outcome write_events(uint64_t events);
  uint64_t events_cleared() const;

  struct Usage {
    uint64_t pages, used_pages, dirty_bits;
  };
  Usage usage() const;
  // All of it, for a member that has none yet.
  std::vector<std::byte> image() const;

 private:
  struct Bit {
    uint32_t writers = 0;
    bool needed = false;
    bool idle = false;  // was so at the last sweep
  };
  bool is_set(uint64_t bit) const;
  void set(uint64_t bit, bool value);
  void touch(uint64_t byte);
  uint64_t sync(std::unique_lock<Mutex>& lock, Outcome& outcome);

  BitmapSuperblock superblock_;
  const BitmapGeometry geometry_;
  const uint64_t room_;
  const Write write_;
  const Fail fail_;
  mutable Mutex mutex_;  // guards all below
  CondVar changed_;
  std::vector<std::byte> image_;
  std::vector<Bit> bits_;
  std::vector<bool> dirty_pages_;
  bool any_dirty_ = false, writing_ = false;
  uint64_t wanted_ = 0, durable_ = 0;  // generations of changes
};

}  // namespace volfs::md
