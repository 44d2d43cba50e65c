// SPDX-License-Identifier: GPL-2.0-or-later
// md arrays as block devices: what the kernel's md.c is to its personalities. An Array knows its
// members, keeps their superblocks, the clean or active state and the write-intent bitmap, fails
// members and brings redundancy back in the background.
//
// Threads: everything may be called by any thread; fail, remove, add and stop take turns. Lifetime:
// the members' devices must outlive the array; nothing else may write to them. Sizes and offsets
// are bytes.
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "volfs/block_device.h"
#include "volfs/gate.h"
#include "volfs/md/superblock.h"
#include "volfs/sync.h"
#include "volfs/units.h"

namespace volfs::md {

class Personality;
class WriteIntent;
class SyncEngine;
struct Members;

// Which superblock is meant where a device bears more than one.
struct SuperblockChoice {
  std::optional<Uuid> uuid;
  std::optional<SuperblockVersion> version;
};

// The superblock that a device bears, of any version; nothing if it bears none. Of more than one
// that of CHOICE, else the one made last; but never that of an array whose member is the array that
// the device is a member of. An error if it bears one that is damaged or not supported, or if it
// bears none where it can be read, but not all places can; it names device and place.
Result<std::optional<MemberMetadata>> scan(BlockDevice& device,
                                           const SuperblockChoice& choice = {});

struct ArrayOptions {
  std::string name = "md0";  // of the device
  bool read_only = false;    // not one byte is written, whatever state the members are in
  // Start although data may be lost: a dirty, degraded raid4, 5 or 6 is taken for clean, and
  // members that are stale or have failed are used when too few others are left, the freshest
  // first. Recorded unless read-only.
  bool force = false;
  std::optional<uint32_t> raid0_layout;  // where the superblock does not say
  Nanos safe_mode_delay = std::chrono::milliseconds(200);
  std::optional<Nanos> bitmap_sweep;  // default: what the bitmap says
  // Bytes a second. Sync goes no slower than the least while others use the array.
  uint64_t sync_speed_min = 1000 * KiB, sync_speed_max = 200000 * KiB;
  // Until release_sync() sync waits, and what a member cannot give is not written to it anew.
  bool hold_sync = false;
  bool quiet = false;  // slots that are missing and members left out are not told to the log
  SuperblockChoice choice;
  // Called when a member failed or a sync has ended. Any thread, with locks held: returns at once.
  std::function<void()> changed;
};

enum class ArrayState : uint8_t { active, degraded, failed };
enum class MemberState : uint8_t { in_sync, recovering, spare, faulty };
enum class SyncAction : uint8_t { idle, resync, recover, check, repair };
std::string_view array_state_name(ArrayState state);
std::string_view member_state_name(MemberState state);
std::string_view sync_action_name(SyncAction action);  // as md's sync_action

struct MemberStatus {
  std::string device;
  uint32_t number = 0;  // md's, in brackets in mdstat
  std::optional<uint32_t> slot;
  MemberState state = MemberState::spare;
  bool write_mostly = false;
  uint32_t read_errors = 0;  // corrected
  bool replacement = false;  // replaces the member of its slot, which serves until that is done
  bool to_replace = false;   // a spare replaces it, or will when there is one
  bool failfast = false;
  uint64_t data_offset = 0;  // where its data begins
};

struct SyncProgress {
  SyncAction action = SyncAction::idle;
  bool pending = false;  // something is to be done, but is held back
  bool held = false;     // hold_sync() holds it back, or would
  uint64_t position = 0, size = 0;
  uint64_t speed = 0;         // bytes a second, lately
  uint64_t seconds_left = 0;  // at that speed
};

struct ArrayStatus {
  ArrayState state = ArrayState::active;
  bool clean = true;  // as the superblocks say
  SuperblockVersion version = SuperblockVersion::v1_2;
  Uuid uuid;
  std::string name;  // of the superblock
  Geometry geometry;
  uint64_t size = 0, member_size = 0, events = 0;
  std::vector<MemberStatus> members;  // in the order of mdstat
  SyncProgress sync;
  uint64_t mismatches = 0;  // bytes; md's mismatch_cnt counts sectors
  // Of the range that a resync runs over: its size, and up to where redundancy is in sync.
  uint64_t sync_size = 0, resynced = all_in_sync;
  bool read_only = false;
  uint64_t sync_speed_min = 0, sync_speed_max = 0;
  struct Bitmap {
    uint64_t chunk = 0, pages = 0, used_pages = 0, dirty_bits = 0;
    uint32_t write_behind = 0;  // writes; 0: none
  };
  std::optional<Bitmap> bitmap;
  bool has_ppl = false;  // a partial parity log is kept
};

class Array final : public BlockDevice {
 public:
  // Makes one array of devices that bear superblocks of it, in any order. EINVAL: not all belong to
  // one array, a member is given twice, no superblock, an unsupported reshape or layout; EIO: too
  // few members are fresh enough. Says why and what would force it.
  static Result<std::unique_ptr<Array>> assemble(std::span<BlockDevice* const> devices,
                                                 const ArrayOptions& options);
  // Stops.
  ~Array() override;

  // Where members have no room for data, or for what they record of the array, a write or flush
  // fails with ENOSPC or EDQUOT: no member fails for that, and all goes on when there is room.
  // Until then nothing counts that a crash could undo.

  // Ends sync, marks the array clean and flushes. No operation may be under way, nor come later.
  Status stop();

  // A member by the name of its device: marks it faulty (EBUSY if the array would not survive),
  // takes a faulty or spare one away (EBUSY if it is in use).
  Status fail(std::string_view device);
  Status remove(std::string_view device);
  // Adds a device as a spare, which fills an empty slot at once; a former member comes back to its
  // slot (with a bitmap only what has changed is copied). ENOSPC if it is too small. What it
  // bore is overwritten.
  Status add(BlockDevice& device);
  // Whether a device of that superblock was written apart from this array, whose uuid it has: it
  // holds what the array does not (agreement.h).
  bool was_apart(const MemberMetadata& superblock) const;
  // Has the member DEVICE replaced: by the spare WITH, or ("") by any, as soon as there is one. It
  // serves until its replacement has all that it has, and is faulty then. Nothing changes if
  // WITH is replacing it already. EINVAL if WITH is no spare, EBUSY if DEVICE is not in sync.
  Status replace(std::string_view device, std::string_view with);
  // Only a former member whose slot is empty and whose data the bitmap covers; else EINVAL.
  Status re_add(BlockDevice& device);

  // EBUSY if another sync runs.
  Status check();
  Status repair();
  // Ends a check or repair.
  void cancel_check();
  // Waits until nothing is to be synced, or sync cannot go on. False at the deadline.
  bool wait_sync(TimePoint deadline = never);
  // Bytes a second, from now on; see ArrayOptions. EINVAL if MIN is more than MAX, or MAX is 0.
  Status set_sync_speed(uint64_t min, uint64_t max);
  void hold_sync(bool hold);
  void release_sync() { hold_sync(false); }

  ArrayStatus status() const;
  SyncProgress progress() const;
  // The lines of /proc/mdstat for it, each ended by a newline.
  std::string mdstat() const;

 private:
  friend class Assembler;
  friend class RaidSetAssembler;
  friend class SyncEngine;
  struct Member;
  struct Core;
  class Reconfiguration;

  Array(const ArrayOptions& options, std::unique_ptr<Core> core, uint64_t size,
        const Limits& limits);

  bool do_map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) override;
  Status do_read(uint64_t offset, IoSpan iov) override;
  Status do_write(uint64_t offset, IoSpan iov, Fua fua) override;
  Status do_discard(uint64_t offset, uint64_t length) override;
  Status do_write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) override;
  Status do_flush() override;
  Service do_service(Op op) const override;
  void do_for_each_below(const Visit& visit) const override;

  template <class Work>
  Status guarded_write(uint64_t offset, uint64_t length, Work work);
  Status start();
  Result<Member*> find_member(std::string_view device);
  Status add_member(BlockDevice& device, bool only_old);

  std::unique_ptr<Core> core_;
};

// The limits of an array of such members.
Limits array_limits(const Geometry& geometry, std::span<BlockDevice* const> members);

// What `volfs create` and mdadm --create write: bitmaps, then superblocks, durably. DEVICES as in
// the plan's options.
Status write_new_members(const CreatePlan& plan, std::span<BlockDevice* const> devices);

}  // namespace volfs::md
