// SPDX-License-Identifier: GPL-2.0-or-later
// A loaded table: the targets, found by offset, and what they add up to.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "volfs/block_device.h"
#include "volfs/dm/mapped_device.h"
#include "volfs/dm/table.h"
#include "volfs/dm/target.h"
#include "volfs/gate.h"
#include "volfs/sync.h"

namespace volfs::dm {

// Where the events of a table's targets go: to the device that has the table. Any thread.
class EventSink {
 public:
  explicit EventSink(MappedDevice& owner) : owner_(&owner) {}
  void tell() {
    const std::lock_guard lock(mutex_);
    owner_->event();
  }
  // Nothing is told to the former owner any more when this has returned.
  void set_owner(MappedDevice& owner) {
    const std::lock_guard lock(mutex_);
    owner_ = &owner;
  }

 private:
  Mutex mutex_;
  MappedDevice* owner_;
};

class Table {
 public:
  // ROWS have passed check_rows.
  static Result<std::unique_ptr<Table>> build(std::span<const TableRow> rows,
                                              std::string_view device, std::string_view place,
                                              bool read_only, const Resolver& resolve,
                                              std::shared_ptr<EventSink> events,
                                              OriginRegistry* origins, bool hold_sync);

  uint64_t size() const { return ends_.back(); }
  bool read_only() const { return read_only_; }
  const Limits& limits() const { return limits_; }
  const std::vector<std::unique_ptr<Target>>& targets() const { return targets_; }
  // The devices directly below, each once.
  const std::vector<BlockDevice*>& below() const { return below_; }
  // What a flush must flush: devices below and targets that flush in their own way.
  const std::vector<BlockDevice*>& to_flush() const { return to_flush_; }

  // The index of the target that serves OFFSET, which is less than size().
  size_t find(uint64_t offset) const;
  uint64_t end_of(size_t target) const { return ends_[target]; }

  std::string table_text() const;
  std::string status_text() const;

  // Checks that the devices below still hold the ranges used: they may have been swapped.
  Status check_ranges() const;

  EventSink& events() { return *events_; }

  // Who reads the table besides the data path: closed before the table goes.
  Gate& users() { return users_; }

 private:
  Table() = default;
  Status check_blocks() const;
  Error at(size_t target, const std::string& text) const;
  void collect_below();

  std::shared_ptr<EventSink> events_;
  std::vector<std::unique_ptr<Target>> targets_;
  std::vector<uint64_t> ends_;
  std::vector<unsigned> lines_;
  std::string place_;
  std::vector<BlockDevice*> below_, to_flush_;
  Limits limits_;
  bool read_only_ = false;
  Gate users_;
};

}  // namespace volfs::dm
