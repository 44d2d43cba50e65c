// SPDX-License-Identifier: GPL-2.0-or-later
// The inside of an Array. What is shared by its parts: the members and their superblocks, and the
// state that these record.
//
// Locks, in the order in which they are taken: the turn of reconfigurations; the gates; ranges of
// Members::lock; `mutex`, which is never held during I/O.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "personality/personality.h"
#include "superblock_format.h"
#include "volfs/gate.h"
#include "volfs/md/array.h"
#include "write_intent.h"

namespace volfs::md {

inline constexpr Nanos room_delay = std::chrono::seconds(10);  // until there may be room again

struct Array::Member {
  BlockDevice* device = nullptr;    // holds the data
  BlockDevice* metadata = nullptr;  // holds the superblock; with md the same
  MemberMetadata sb;                // sb.array is set when it is written
  uint32_t slot = no_slot;          // index in Members::slots: beyond the slots it replaces another
  bool to_replace = false;          // a spare is to take its place
  uint32_t reserved_for = no_slot;  // of a spare: the slot whose member it is to replace
  uint64_t arrival = 0;             // when it came; md lists who came last first
  bool faulty = false;
  uint64_t written_events = 0;
  // The last update did not reach it, or not all of it: it is told before there is another.
  bool behind = false;
  uint64_t recovered = 0;    // what is on disk of Slot::recovered
  bool by_bitmap = false;    // recovery only looks where bits are set
  uint32_t read_errors = 0;  // corrected, lately
  uint32_t all_read_errors = 0;
  TimePoint last_read_error{};
  std::vector<BadBlockRange> bad;  // while it has no slot; then Slot::bad
  bool log_changed = false;        // the bad-block log on disk is not what is known
  bool spare() const { return slot == no_slot && !faulty; }
};

struct Array::Core final : Host {
  Core(const ArrayOptions& o, const ArrayMetadata& a);
  ~Core();

  // ---- set at assembly, constant then
  const ArrayOptions options;
  std::unique_ptr<SuperblockFormat> format;
  bool read_only = false;
  bool redundant = false;  // not linear or raid0: has a state to keep
  bool forced = false;     // what was assumed with force is recorded at the start
  Members shared;
  std::unique_ptr<Personality> personality;
  std::unique_ptr<WriteIntent> bitmap;

  // ---- the ways in
  Gate maps;   // who holds a mapping
  Gate works;  // who is inside of an operation
  Mutex turn;  // one reconfiguration at a time; not held on the data path
  std::atomic<Service> service{Service::blocking};
  std::atomic<bool> failed{false};
  std::atomic<uint64_t> sync_speed_min, sync_speed_max;  // bytes a second

  // ---- clean or active
  std::atomic<uint64_t> writers{0};
  std::atomic<bool> clean{true};            // as wanted on disk
  std::atomic<bool> active_durable{false};  // the mark that it is active is on disk
  std::atomic<int64_t> last_write{0};
  std::atomic<uint64_t> finished_writes{0};
  // A member was lost, or part of one is bad, and that is not on disk yet: no write and no flush
  // counts until it is, or what was lost would count as good after a crash.
  std::atomic<bool> unrecorded{false};
  std::atomic<bool> sweep_wanted{false};  // bits may be cleared that had to stay before
  std::atomic<uint64_t> operations{0};    // of users, so that sync can stand back

  mutable Mutex mutex;  // guards all below, and changes of what is above
  CondVar changed;
  ArrayMetadata array;
  std::vector<std::unique_ptr<Member>> members;
  uint64_t arrivals = 0;
  uint64_t resync_position = all_in_sync;  // md's recovery_cp, as on disk
  uint64_t torn = all_in_sync;  // first place that a write left torn since the last resync began
  // The partial parity logs do not hold all that is torn: until it is mended, the superblocks say
  // that there are none.
  bool log_short = false;
  bool devices_changed = false, clean_changed = false, member_lost = false;
  bool can_decrease_events = false;
  uint64_t wanted = 0, written = 0;  // changes of the superblocks
  uint64_t active_change = 0;        // which of them marked it active
  bool updating = false;
  bool stopping = false;

  std::unique_ptr<SyncEngine> sync;
  Thread daemon;

  // Host
  bool fail_member(uint32_t slot, const Error& why) override;
  bool write_failed(uint32_t slot, uint64_t offset, uint64_t length, const Error& why) override;
  bool has_log(uint32_t slot) override;
  void made_good(uint32_t slot, uint64_t offset, uint64_t length) override;
  bool record_bad(uint32_t slot, uint64_t offset, uint64_t length) override;
  bool corrects() override;
  void corrected_read(uint32_t slot, uint64_t length) override;
  void left_torn(uint64_t begin, uint64_t end) override;
  void torn_mended() override;
  bool sync_needed(uint64_t begin, uint64_t end, bool copied) override;
  bool may_differ(uint64_t begin, uint64_t end) override {
    return !bitmap || bitmap->needed(begin, end, false);
  }
  Status settle_writes() override { return flush_members(); }
  Status record_losses() override;

  static Status read_bad_blocks(Member& member);
  // The bitmap that the member bears.
  struct OwnBitmap {
    BitmapSuperblock super;
    std::vector<std::byte> image;
  };
  Result<OwnBitmap> read_bitmap(const Member& member) const;
  Status open_bitmap();
  Result<MemberMetadata> new_member(uint64_t device_size) const;
  bool could_be_old(const MemberMetadata& sb) const;
  bool was_apart(const MemberMetadata& sb) const;
  // A write may begin: the array is marked active on disk.
  Status begin_write();
  void end_write();
  // The superblocks of all members say what is so now, durably. The lock is released meanwhile.
  // ENOSPC or EDQUOT: some have no room; the daemon tries again, and nobody fails for it.
  Status commit(std::unique_lock<Mutex>& lock);
  // The same for what is so even if there is no room for it now.
  Status commit_later(std::unique_lock<Mutex>& lock);
  void note(bool devices);
  Status flush_members();
  bool degraded_now() const { return shared.missing().any(); }
  Member* member_of(uint32_t slot) const;
  void attach(Member& member, uint32_t slot, uint64_t recovered);
  void detach(Member& member);
  bool has_failed(const char* why);
  void mark_faulty(Member& member);
  void find_service();
  void run_daemon();
  bool sweep_bitmap(bool now);
  Nanos sweep_interval() const;
  ArrayState state() const;

 private:
  struct LogImage {
    Member* member;
    std::vector<std::byte> bytes;
  };
  // What is written at once, and who could not take it.
  struct Round {
    std::vector<std::pair<Member*, SuperblockFormat::Image>> images;
    std::vector<LogImage> logs;
  };
  static Status write_log(const LogImage& log);
  Status write_superblocks(std::unique_lock<Mutex>& lock);
  Status catch_up(std::unique_lock<Mutex>& lock);
  Round describe(bool nospares, bool only_behind);
  Status send(std::unique_lock<Mutex>& lock, const Round& round, bool with_bitmap);
  void number_members();
  void next_events(bool nospares);
  MemberMetadata described(const Member& member) const;
  bool fail_locked(Member& member);
  bool log_bad(Member& member, uint64_t offset, uint64_t length);
  std::vector<BadBlockRange> bad_ranges(const Member& member) const;
  WriteIntent::Outcome write_bitmap(uint64_t offset, std::span<const std::byte> bytes);
  bool try_clean(std::unique_lock<Mutex>& lock, TimePoint& next);
};

// SIZE bytes at the place of the member's bitmap: superblock and bits.
Status write_new_bitmap(const BitmapSuperblock& bitmap, bool bits_set, uint64_t size,
                        const MemberMetadata& member, BlockDevice& device);

// Inside of a gate for a scope.
class Inside {
 public:
  explicit Inside(Gate& gate) : gate_(gate) { gate_.enter(); }
  ~Inside() { gate_.exit(); }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;

 private:
  Gate& gate_;
};

// Keeps everybody out while members change places.
class Array::Reconfiguration {
 public:
  explicit Reconfiguration(Core& core) : core_(core) {
    // Mappings first: who holds one may still need to get an operation done.
    core_.maps.close();
    core_.works.close();
  }
  ~Reconfiguration() {
    core_.find_service();
    core_.works.open();
    core_.maps.open();
  }
  Reconfiguration(const Reconfiguration&) = delete;
  Reconfiguration& operator=(const Reconfiguration&) = delete;

 private:
  Core& core_;
};

// Resync, recovery, check and repair, on a thread of its own.
class SyncEngine {
 public:
  explicit SyncEngine(Array::Core& core);
  ~SyncEngine() { stop(); }
  Status start();
  void stop();

  Status request(SyncAction action);  // check or repair
  void cancel();
  void hold(bool hold);
  bool held() const;
  bool wait(TimePoint deadline);
  void wake();      // something may be to do; the core's mutex is held
  void postpone();  // so it is, but there is no room now; the core's mutex is held
  SyncProgress progress() const;
  uint64_t mismatches() const { return mismatches_.load(); }
  bool by_bitmap() const { return by_bitmap_.load(); }
  SyncKind kind() const { return kind_.load(); }

 private:
  struct Run {
    SyncKind kind;
    uint64_t start, end;
  };
  void main();
  std::optional<Run> choose() const;  // the core's mutex is held
  bool fill_slots(std::unique_lock<Mutex>& lock);
  bool settled_or_postponed(const Status& status);
  uint64_t right_up_to(uint64_t position) const;
  bool can_fill() const;
  bool may_take_over(uint32_t slot) const;
  bool wants_replacement(uint32_t slot) const;
  Array::Member* spare_for(uint32_t slot) const;
  void let_replacements_take_over();
  void begin_replacements();
  void carry_out(std::unique_lock<Mutex>& lock, const Run& run);
  bool interrupted(const Run& run) const;
  bool checkpoint(std::unique_lock<Mutex>& lock, const Run& run, uint64_t position);
  void finish(std::unique_lock<Mutex>& lock, const Run& run);
  void throttle(std::unique_lock<Mutex>& lock, const Run& run);
  void mark(uint64_t position);

  Array::Core& core_;
  Thread thread_;
  std::atomic<uint64_t> mismatches_{0};
  std::atomic<bool> by_bitmap_{false};
  std::atomic<SyncKind> kind_{SyncKind::resync};

  // Guarded by the core's mutex.
  bool held_, running_ = false, requeue_ = false, stuck_ = false;
  TimePoint retry_ = never;  // when to try again while stuck
  std::optional<SyncAction> requested_;
  SyncAction action_ = SyncAction::idle;
  uint64_t position_ = 0, size_ = 0;
  struct Mark {
    TimePoint when;
    uint64_t position;
  };
  std::array<Mark, 10> marks_{};  // for the speed of the last 30 seconds, as md
  size_t mark_ = 0, oldest_ = 0;
  uint64_t seen_operations_ = 0;
};

}  // namespace volfs::md
