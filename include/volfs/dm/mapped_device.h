// SPDX-License-Identifier: GPL-2.0-or-later
// MappedDevice: a block device made of a device-mapper table that can be replaced while it is in
// use. It has room for two tables: the active one serves I/O, the inactive one was loaded and
// takes over at the next resume. This is the kernel's life cycle: load, suspend, resume.
//
// Threads: everything may be called by any thread. suspend and resume take turns; a Change is a
// turn that is kept for several steps, and what would load or clear a table waits for it, too.
// Lifetime: the devices that a table uses must outlive it; a table is gone when the call that
// removed it (resume, clear, load) has returned.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "volfs/block_device.h"
#include "volfs/dm/table.h"
#include "volfs/dm/target.h"
#include "volfs/error.h"
#include "volfs/gate.h"
#include "volfs/sync.h"
#include "volfs/units.h"

namespace volfs::dm {

class Table;

// The levels of the tallest stack that has DEVICE on top: 1 if nothing is below it. Stops
// counting beyond LIMIT.
unsigned stack_depth(const BlockDevice& device, unsigned limit = max_stack_depth);

class MappedDevice final : public BlockDevice {
 public:
  enum class Which : uint8_t { active, inactive };

  struct LoadOptions {
    bool read_only = false;
    std::string_view place = "table";   // stands before the line in errors
    OriginRegistry* origins = nullptr;  // for the snapshot targets; outlives the table
    bool hold_sync = false;             // as TargetContext's
    // Has the last word on whether the table may be loaded, after any Change that was waited for;
    // absent: it may.
    std::function<Status()> admit = {};
  };
  struct SuspendOptions {
    bool flush = true;           // false: --noflush
    TimePoint deadline = never;  // give up draining then
  };
  struct Info {
    std::string name, uuid;
    bool suspended = false, read_only = false;
    bool active_table = false, inactive_table = false;
    uint32_t open_count = 0, event_nr = 0, target_count = 0;  // targets of the active table
  };

  // Without a table its size is 0.
  explicit MappedDevice(std::string name, std::string uuid = {});
  // No operation may be under way. The tables go, postsuspend is called for the active one.
  ~MappedDevice() override;

  // Makes the inactive table, replacing one that was loaded before. EINVAL with the row, the
  // type, the argument and what was expected; ELOOP if a device below stands on this one or the
  // stack would be deeper than max_stack_depth; EROFS if a writable table would use a read-only
  // device; what RESOLVE says. After an error nothing is changed.
  Status load(std::span<const TableRow> rows, const Resolver& resolve, const LoadOptions& options);
  Status load(std::span<const TableRow> rows, const Resolver& resolve) {
    return load(rows, resolve, LoadOptions());
  }
  // Drops the inactive table, if there is one. EBUSY, as load: a resume is putting it in place.
  Status clear();

  // Lets no new I/O in, waits for what is under way, and flushes. New I/O waits (map with
  // Wait::no is false). ETIMEDOUT when the deadline has passed, of the wait for its turn, too: then
  // nothing is changed. A suspended device stays so. A flush that fails is logged and does not keep
  // the device from being suspended: a broken table must be replaceable.
  Status suspend(const SuspendOptions& options);
  Status suspend() { return suspend(SuspendOptions()); }
  // Swaps the inactive table in, if there is one (suspending first with OPTIONS if need be), and
  // lets I/O through. The size may change. If the new table does not fit any more, nothing is
  // changed; if a target cannot go on (preresume), the device stays
  // suspended.
  Status resume(const SuspendOptions& options);
  Status resume() { return resume(SuspendOptions()); }
  // Makes a table the active one, with load's errors and resume's, and lets I/O through. After an
  // error all is as it was: the active table goes on, unless the device was suspended before. A
  // table that was loaded beside goes when this one is active.
  Status swap(std::span<const TableRow> rows, const Resolver& resolve, const LoadOptions& options);
  bool suspended() const { return gate_.closed(); }
  // Gives the active table, with all that its targets know, to TO, whose own active one goes. Both
  // must be suspended, EBUSY otherwise; TO may also be one that never had a table. Without a table
  // this device keeps its size, so that a new one can be loaded and resumed under its users. Events
  // of the targets count at TO from now on.
  Status give_table(MappedDevice& to);

  // The turn to change the device, for steps of which none may be another's: as long as it lives
  // others wait with what they would change. One thread uses it; the device outlives it. Several
  // are taken in one order, from the top down or from the bottom up, the same by all who take the
  // same devices.
  class Change {
   public:
    Change(Change&& other) noexcept : device_(std::exchange(other.device_, nullptr)) {}
    Change& operator=(Change&&) = delete;
    ~Change();
    MappedDevice& operator*() const { return *device_; }
    const MappedDevice* operator->() const { return device_; }
    // As the device's own.
    Status load(std::span<const TableRow> rows, const Resolver& resolve,
                const LoadOptions& options);
    Status clear();
    Status suspend(const SuspendOptions& options);
    Status resume(const SuspendOptions& options);
    Status suspend() { return suspend(SuspendOptions()); }
    Status resume() { return resume(SuspendOptions()); }
    Status give_table(Change& to);

   private:
    friend class MappedDevice;
    explicit Change(MappedDevice& device) : device_(&device) {}
    MappedDevice* device_;
  };
  // ETIMEDOUT: another change, a suspend or a resume goes on.
  Result<Change> change(TimePoint deadline = never);

  // One row a line, each ended by a newline, as dmsetup prints them; empty without the table.
  std::string table(Which which = Which::active) const;
  std::string status(Which which = Which::active) const;
  // The devices that a table uses, each once, in the order of the table (dmsetup deps).
  std::vector<std::string> deps(Which which = Which::active) const;
  // Of a device that is one raid its array's state.
  std::shared_ptr<const md::ArrayStatus> array_status() const;
  // Carries out a message for the target of the active table at SECTOR. Returns what the target
  // answers, mostly nothing. EINVAL for an unknown message or a sector outside, ENXIO without a
  // table.
  Result<std::string> message(uint64_t sector, std::string_view text);

  Info info() const;
  void rename(std::string name) { set_name(std::move(name)); }
  // Who has it open; only counted.
  void opened() { open_count_.fetch_add(1, std::memory_order_relaxed); }
  void closed() { open_count_.fetch_sub(1, std::memory_order_relaxed); }

  // Events: something a program may want to know has happened to a target.
  void event();
  // Waits until there were more than SEEN events, and returns their number; SEEN at the deadline.
  uint32_t wait_event(uint32_t seen, TimePoint deadline = never);

 private:
  class Turn;
  class Pinned;

  bool do_map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) override;
  Status do_flush() override;
  Service do_service(Op op) const override;
  void do_for_each_below(const Visit& visit) const override;

  bool take_turn(bool several_steps, TimePoint deadline);
  void end_turn();
  Error still_changing() const;
  Result<std::unique_ptr<Table>> build(std::span<const TableRow> rows, const Resolver& resolve,
                                       const LoadOptions& options);
  Status replace_inactive(std::unique_ptr<Table> table, bool in_change,
                          const std::function<Status()>& admit = {});
  Status suspend_in_turn(const SuspendOptions& options);
  Status resume_in_turn(const SuspendOptions& options);
  Status give_in_turn(MappedDevice& to);
  Status enter_in_turn(std::unique_ptr<Table>& table);
  Status start_in_turn();
  void exchange_in_turn(std::unique_ptr<Table>& table);
  void took_table();
  static void retire(std::unique_ptr<Table> table);

  const std::string uuid_;
  mutable Gate gate_;                  // who uses live_
  std::atomic<Table*> live_{nullptr};  // active_, for the data path; changes while gate_ is closed

  mutable Mutex mutex_;  // guards the tables' pointers and the events; held briefly
  CondVar changed_;
  bool turn_taken_ = false;
  bool changing_ = false;  // the turn is a Change's
  uint64_t changes_ = 0;   // that there were
  bool entering_ = false;  // a resume uses inactive_
  std::unique_ptr<Table> active_, inactive_;
  uint32_t event_nr_ = 0;
  std::atomic<uint32_t> open_count_{0};
  std::atomic<int> not_flushed_{0};  // the errno of a suspend's flush; the next flush tells it
};

}  // namespace volfs::dm
