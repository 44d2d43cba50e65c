// SPDX-License-Identifier: GPL-2.0-or-later
// What a RAID level does, apart from all that is the same for every level: a personality knows
// where the bytes lie and how redundancy is made and used; it knows no superblock, no bitmap and no
// thread. Its functions run on any thread, inside the array's gates.
//
// Sync space: the range that a resync runs over, in which ranges are locked and bitmap bits count.
// It is member bytes for raid1 and the parity levels, array bytes for raid10.
#pragma once

#include <atomic>
#include <cerrno>
#include <memory>
#include <optional>
#include <vector>

#include "volfs/block_device.h"
#include "volfs/md/layout.h"
#include "volfs/md/superblock.h"
#include "volfs/range_lock.h"
#include "volfs/units.h"

namespace volfs::md {

// What is read, or made anew from the others, by itself where a longer range has an error.
inline constexpr uint64_t correction_unit = 4 * KiB;

// An error of a member's write that says nothing of the medium: what lies below has no room. The
// write of the array fails with it; no member fails and nothing is recorded as bad.
constexpr bool no_room(int error) {
  return error == ENOSPC || error == EDQUOT;
}

// The ranges of a member that are known to be bad. Any thread; those of one place of the array
// change only under the lock of its range.
class BadRanges {
 public:
  bool any() const { return any_.load(std::memory_order_acquire); }
  bool overlap(uint64_t offset, uint64_t length) const;
  // The first byte from OFFSET on, at most END, where bad begins or ends.
  uint64_t same_until(uint64_t offset, uint64_t end) const;
  // True if that changes anything. Neighbours become one.
  bool add(uint64_t offset, uint64_t length);
  bool remove(uint64_t offset, uint64_t length);
  std::vector<BadBlockRange> list() const;
  void assign(std::vector<BadBlockRange> ranges);

 private:
  std::atomic<bool> any_{false};
  mutable Mutex mutex_;
  std::vector<BadBlockRange> ranges_;  // sorted, apart from each other
};

// One place of the array and the member that fills it. Offsets count from the member's data.
struct Slot {
  // These change only while the array's gates are closed.
  BlockDevice* device = nullptr;
  uint64_t data_offset = 0;
  bool write_mostly = false;
  uint64_t log_position = 0, log_size = 0;  // of its partial parity log, on the device
  BadRanges bad;                            // from the start of the data

  std::atomic<bool> faulty{false};
  std::atomic<uint64_t> recovered{0};  // its content is right up to here; all_in_sync: all of it
  // Of who is recovered again after a crash: up to here that is only due where bits are set.
  std::atomic<uint64_t> copied{0};

  bool present() const { return device != nullptr && !faulty.load(std::memory_order_acquire); }
  bool in_sync() const { return present() && recovered.load() == all_in_sync; }
  bool readable(uint64_t offset, uint64_t length) const;
  // Whether recovery of [begin, end) takes it further. Not if it is right up to less than BEGIN: it
  // came while the recovery was under way, which has not been there for it.
  bool joins(uint64_t begin, uint64_t end) const {
    const uint64_t right = recovered.load();
    return present() && begin <= right && right < end;
  }
};

// What a personality asks of the array.
class Host {
 public:
  // The member of SLOT could not be written. At return it counts as failed and the other members
  // say so durably. False: the array does not survive that; it has failed.
  virtual bool fail_member(uint32_t slot, const Error& why) = 0;
  // The range of the member could not be written. At return its bad-block log says so durably, or,
  // if it has none, that is full, or cannot be written, the member counts as failed. False as
  // above.
  virtual bool write_failed(uint32_t slot, uint64_t offset, uint64_t length, const Error& why) = 0;
  // Whether a write error is worth narrowing down: the member has a log.
  virtual bool has_log(uint32_t slot) = 0;
  // The range was written: what was bad of it is not any more.
  virtual void made_good(uint32_t slot, uint64_t offset, uint64_t length) = 0;
  // A member that is being recovered cannot be given what belongs there. False: it has no log for
  // that.
  virtual bool record_bad(uint32_t slot, uint64_t offset, uint64_t length) = 0;
  // Whether what a member could not give is to be written to it anew: not in an array that is only
  // read, or frozen, where a member that cannot take it would fail and all of it be lost by that.
  virtual bool corrects() = 0;
  // A read error of the member was corrected. False: there were too many; it was failed.
  virtual void corrected_read(uint32_t slot, uint64_t length) = 0;
  // A write ended half way, by which copies or parity of [begin, end) of the sync space may
  // disagree though no member failed. At return no reader or writer relies on them, and a resync is
  // to make them right, now or after the next assembly. The range is locked.
  virtual void left_torn(uint64_t begin, uint64_t end) = 0;
  // The last of what was left torn was made right.
  virtual void torn_mended() = 0;
  // Whether sync must look at [begin, end) of the sync space. The range is locked. COPIED: those
  // that are recovered had it already (Slot::copied).
  virtual bool sync_needed(uint64_t begin, uint64_t end, bool copied) = 0;
  // Whether copies of [begin, end) of the sync space may differ. Any thread.
  virtual bool may_differ(uint64_t begin, uint64_t end) = 0;
  // Makes all that was written durable; members that cannot fail. An error: the array has failed.
  virtual Status settle_writes() = 0;
  // Before a write or flush counts, and before a log is used again: what was lost is recorded
  // durably. An error: it is not, there is no room.
  virtual Status record_losses() = 0;

 protected:
  ~Host() = default;
};

// What array and personality share.
struct Members {
  explicit Members(const Geometry& g) : geometry(g), slots(2 * g.raid_disks) {}
  const Geometry geometry;
  uint64_t member_size = 0;     // used of each; 0 for linear and raid0
  std::vector<uint64_t> sizes;  // by slot, for linear and raid0
  // By slot; then the replacements, again by slot: they are written whatever their slot is, and
  // never read. Never resized.
  std::vector<Slot> slots;
  RangeLock lock;  // of the sync space
  // Of the parity levels: where a write ended half way and nobody has made parity right since. What
  // is lost there cannot be computed.
  BadRanges torn;
  // Up to here (sync space) redundancy is known to agree: beyond it every reader must take the same
  // copy.
  std::atomic<uint64_t> agreed{all_in_sync};
  bool led = false;  // where copies may differ the first one is right, and no other is read
  Host* host = nullptr;
  std::optional<uint32_t> ppl_signature;  // raid5: there is a partial parity log

  uint32_t disks() const { return geometry.raid_disks; }
  // The index in `slots` of who is to replace the member of SLOT.
  uint32_t replacement_of(uint32_t slot) const { return disks() + slot; }
  bool is_replacement(uint32_t slot) const { return slot != no_slot && slot >= disks(); }
  SlotSet missing() const;  // slots that are not in sync
  // Those of them that lack data: not of a member that is there to hold nothing but parity.
  SlotSet lacking_data() const;
  // How far from OFFSET on, at most LENGTH, each member is all bad or all good, and all is torn or
  // nothing.
  uint64_t same_run(uint64_t offset, uint64_t length) const;
};

enum class SyncKind : uint8_t { resync, recover, check, repair };
struct SyncStep {
  uint64_t done = 0;        // bytes from the position on
  uint64_t mismatches = 0;  // bytes where redundancy disagreed, as md counts them
};

// What came of a log at assembly: entries that were carried out, and what could not be.
struct LogRecovery {
  uint64_t done = 0, unusable = 0;
};

class Personality {
 public:
  explicit Personality(Members& members) : m_(members) {}
  virtual ~Personality() = default;
  Personality(const Personality&) = delete;
  Personality& operator=(const Personality&) = delete;

  virtual uint64_t size() const = 0;
  // Whether writes only go through (map) and need no care: linear and raid0.
  virtual bool maps_writes() const { return false; }
  // Whether map() may be asked now for all of the range.
  virtual bool mappable(uint64_t offset, uint64_t length) const = 0;
  virtual void map(uint64_t offset, uint64_t length, Mapping& out) const = 0;

  // Once, before anything is read or written: makes right from the array's log, if it has one, what
  // a crash left if the array is DIRTY.
  virtual Result<LogRecovery> recover_log(bool dirty) {
    (void)dirty;
    return LogRecovery();
  }
  virtual Status read(uint64_t offset, IoSpan iov) = 0;
  virtual Status write(uint64_t offset, IoSpan iov, Fua fua) = 0;
  // Makes the range read as zeros.
  virtual Status write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) = 0;
  // The part of the sync space that a write touches.
  struct Span {
    uint64_t begin = 0, end = 0;
  };
  virtual Span sync_span(uint64_t offset, uint64_t length) const = 0;

  virtual uint64_t sync_size() const = 0;
  // Works on at most LENGTH bytes at POSITION: of the sync space, or for `recover` of the members
  // that are present and right up to POSITION but not in sync. Moves their `recovered` on.
  virtual Result<SyncStep> sync(SyncKind kind, uint64_t position, uint64_t length) = 0;

 protected:
  // Makes a range of a member read as zeros, if it is there; who cannot do that fails. An error:
  // the array has failed, or there is no room.
  Status zero_member(uint32_t slot, uint64_t offset, uint64_t length, Unmap unmap);
  // Passes STATUS on, of a write to [begin, end) of the sync space that is still locked.
  Status ended(uint64_t begin, uint64_t end, Status status) const {
    if (!status && no_room(status.error().code())) m_.host->left_torn(begin, end);
    return status;
  }
  Members& m_;
};

// The one list of levels. The geometry is valid and the members' sizes are known.
Result<std::unique_ptr<Personality>> make_personality(Members& members);

Result<std::unique_ptr<Personality>> make_linear(Members& members);
Result<std::unique_ptr<Personality>> make_raid0(Members& members);
Result<std::unique_ptr<Personality>> make_raid1(Members& members);
Result<std::unique_ptr<Personality>> make_raid10(Members& members);
Result<std::unique_ptr<Personality>> make_raid456(Members& members);

}  // namespace volfs::md
