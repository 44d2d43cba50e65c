// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/dm/mapped_device.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <utility>

#include "stack.h"
#include "table.h"
#include "volfs/io_batch.h"
#include "volfs/log.h"
#include "volfs/units.h"

namespace volfs::dm {
namespace {

// Tables below may be swapped after a check for the stack's depth, so each thread counts how deep
// it is: the bound on the stack holds whatever happens.
thread_local unsigned current_depth = 0;
class Descent {
 public:
  Descent() { ++current_depth; }
  ~Descent() { --current_depth; }
  Descent(const Descent&) = delete;
  Descent& operator=(const Descent&) = delete;
  bool too_deep() const { return current_depth > 2 * max_stack_depth; }
};

}  // namespace

// One of suspend, resume and changes in several steps at a time. They may wait long, so it is not a
// Mutex. False if it was not had by the deadline.
bool MappedDevice::take_turn(bool several_steps, TimePoint deadline) {
  const std::lock_guard lock(mutex_);
  if (!changed_.wait_until(mutex_, deadline, [this] { return !turn_taken_; })) return false;
  turn_taken_ = true;
  changing_ = several_steps;
  if (several_steps) ++changes_;
  return true;
}

void MappedDevice::end_turn() {
  const std::lock_guard lock(mutex_);
  turn_taken_ = false;
  changing_ = false;
  changed_.notify_all();
}

class MappedDevice::Turn {
 public:
  explicit Turn(MappedDevice& device, TimePoint deadline = never)
      : device_(device), taken_(device.take_turn(false, deadline)) {}
  ~Turn() {
    if (taken_) device_.end_turn();
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
  explicit operator bool() const { return taken_; }

 private:
  MappedDevice& device_;
  const bool taken_;
};

Result<MappedDevice::Change> MappedDevice::change(TimePoint deadline) {
  if (take_turn(true, deadline)) return Change(*this);
  return fail(still_changing());
}

Error MappedDevice::still_changing() const {
  return Error::make(ETIMEDOUT, fmt::format("{}: another change of it is still under way", name()));
}

MappedDevice::Change::~Change() {
  if (device_) device_->end_turn();
}

Status MappedDevice::Change::load(std::span<const TableRow> rows, const Resolver& resolve,
                                  const LoadOptions& options) {
  VOLFS_TRY_ASSIGN(auto table, device_->build(rows, resolve, options));
  return device_->replace_inactive(std::move(table), true, options.admit);
}

Status MappedDevice::Change::clear() {
  return device_->replace_inactive(nullptr, true);
}

Status MappedDevice::Change::suspend(const SuspendOptions& options) {
  return device_->suspend_in_turn(options);
}

Status MappedDevice::Change::resume(const SuspendOptions& options) {
  return device_->resume_in_turn(options);
}

Status MappedDevice::Change::give_table(Change& to) {
  return device_->give_in_turn(*to.device_);
}

// Keeps one of the tables from being destroyed, without keeping it from being swapped out.
class MappedDevice::Pinned {
 public:
  Pinned(const MappedDevice& device, Which which) {
    const std::lock_guard lock(device.mutex_);
    table_ = (which == Which::active ? device.active_ : device.inactive_).get();
    if (table_ && !table_->users().try_enter()) table_ = nullptr;
  }
  ~Pinned() {
    if (table_) table_->users().exit();
  }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  explicit operator bool() const { return table_ != nullptr; }
  const Table* operator->() const { return table_; }

 private:
  Table* table_;
};

MappedDevice::MappedDevice(std::string name, std::string uuid)
    : BlockDevice(std::move(name), 0), uuid_(std::move(uuid)) {}

MappedDevice::~MappedDevice() {
  if (!active_) return;
  if (!suspended()) {
    for (const auto& target : active_->targets()) target->presuspend();
    for (const auto& target : active_->targets()) target->postsuspend();
  }
}

void MappedDevice::retire(std::unique_ptr<Table> table) {
  if (table) table->users().close();
}

Result<std::unique_ptr<Table>> MappedDevice::build(std::span<const TableRow> rows,
                                                   const Resolver& resolve,
                                                   const LoadOptions& options) {
  VOLFS_TRY(check_rows(rows, options.place));
  VOLFS_TRY_ASSIGN(auto table, Table::build(rows, name(), options.place, options.read_only, resolve,
                                            std::make_shared<EventSink>(*this), options.origins,
                                            options.hold_sync));
  VOLFS_TRY(in(options.place, check_stack(*table, *this)));
  return table;
}

Status MappedDevice::load(std::span<const TableRow> rows, const Resolver& resolve,
                          const LoadOptions& options) {
  VOLFS_TRY_ASSIGN(auto table, build(rows, resolve, options));
  return replace_inactive(std::move(table), false, options.admit);
}

Status MappedDevice::clear() {
  return replace_inactive(nullptr, false);
}

// Waits for a Change, but not for its turn: a suspend that waits for its I/O must not keep a table
// from being loaded.
Status MappedDevice::replace_inactive(std::unique_ptr<Table> table, bool in_change,
                                      const std::function<Status()>& admit) {
  for (bool done = false; !done;) {
    uint64_t as_of = 0;
    {
      const std::lock_guard lock(mutex_);
      if (!in_change) changed_.wait(mutex_, [this] { return !changing_; });
      as_of = changes_;
    }
    if (admit) VOLFS_TRY(admit());
    const std::lock_guard lock(mutex_);
    if (changes_ != as_of) continue;  // what was admitted may be wrong by now
    if (entering_)
      return fail(Error::make(
          EBUSY,
          fmt::format("{}: the table that is loaded is just becoming the active one", name())));
    std::swap(inactive_, table);
    done = true;
  }
  retire(std::move(table));
  return {};
}

Status MappedDevice::suspend(const SuspendOptions& options) {
  const Turn turn(*this, options.deadline);
  if (!turn) return fail(still_changing());
  return suspend_in_turn(options);
}

Status MappedDevice::suspend_in_turn(const SuspendOptions& options) {
  if (suspended()) return {};
  // Only who has the turn changes active_, so it may be read without the mutex.
  if (active_)
    for (const auto& target : active_->targets()) target->presuspend();
  if (!gate_.close(options.deadline)) {
    if (active_)
      for (const auto& target : active_->targets()) target->presuspend_undo();
    return fail(Error::make(ETIMEDOUT, fmt::format("{}: suspend: I/O is still under way", name())));
  }
  if (!active_) return {};
  if (options.flush) {
    IoBatch batch;
    for (BlockDevice* device : active_->to_flush()) batch.flush(*device);
    // The next table may stand on other devices: whoever flushes next is told nonetheless.
    if (auto flushed = batch.run(); !flushed) {
      log_warning("{}: suspend: flush: {}", name(), flushed.error().text());
      not_flushed_.store(flushed.error().code());
    }
  }
  for (const auto& target : active_->targets()) target->postsuspend();
  return {};
}

Status MappedDevice::resume(const SuspendOptions& options) {
  const Turn turn(*this, options.deadline);
  if (!turn) return fail(still_changing());
  return resume_in_turn(options);
}

Status MappedDevice::resume_in_turn(const SuspendOptions& options) {
  const auto enter = [this](bool on) {
    const std::lock_guard lock(mutex_);
    entering_ = on && inactive_;
    return entering_;
  };
  if (enter(true)) {
    const auto swap = [&]() -> Status {
      VOLFS_TRY(in(name(), inactive_->check_ranges()));
      VOLFS_TRY(in(name(), check_stack(*inactive_, *this)));
      VOLFS_TRY(suspend_in_turn(options));
      std::unique_ptr<Table> table;
      {
        const std::lock_guard lock(mutex_);
        table = std::move(inactive_);
      }
      exchange_in_turn(table);
      retire(std::move(table));
      return {};
    };
    Status swapped = swap();
    enter(false);
    VOLFS_TRY(std::move(swapped));
  }
  return start_in_turn();
}

// Lets I/O through the active table; if a target cannot go on, the device stays suspended.
Status MappedDevice::start_in_turn() {
  if (!suspended()) return {};
  if (active_) {
    for (const auto& target : active_->targets()) VOLFS_TRY(in(name(), target->preresume()));
    for (const auto& target : active_->targets()) target->resume();
  }
  gate_.open();
  return {};
}

Status MappedDevice::swap(std::span<const TableRow> rows, const Resolver& resolve,
                          const LoadOptions& options) {
  VOLFS_TRY_ASSIGN(auto table, build(rows, resolve, options));
  const Turn turn(*this);
  if (options.admit) {
    VOLFS_TRY(options.admit());
  }
  Status entered = enter_in_turn(table);
  retire(std::move(table));
  if (entered) {
    VOLFS_TRY(clear());
  }
  return entered;
}

// TABLE becomes the active one, and the one before is in its place; or TABLE stays.
Status MappedDevice::enter_in_turn(std::unique_ptr<Table>& table) {
  VOLFS_TRY(in(name(), table->check_ranges()));
  VOLFS_TRY(in(name(), check_stack(*table, *this)));
  const bool ran = !suspended();
  const uint64_t before = size();  // without a table, too
  VOLFS_TRY(suspend_in_turn(SuspendOptions()));
  exchange_in_turn(table);
  Status started;
  for (auto target = active_->targets().begin(); target != active_->targets().end(); ++target) {
    started = in(name(), (*target)->preresume());
    if (started) continue;
    // Those before it have begun.
    for (auto begun = active_->targets().begin(); begun != target; ++begun) {
      (*begun)->presuspend();
      (*begun)->postsuspend();
    }
    break;
  }
  if (started) {
    for (const auto& target : active_->targets()) target->resume();
    gate_.open();
    return {};
  }
  exchange_in_turn(table);
  set_size(before);
  if (ran) {
    if (const Status back = start_in_turn(); !back)
      log_error("{}: cannot go on with the table of before either: {}", name(),
                back.error().text());
  }
  return started;
}

// The gate is closed.
void MappedDevice::exchange_in_turn(std::unique_ptr<Table>& table) {
  {
    const std::lock_guard lock(mutex_);
    std::swap(active_, table);
  }
  took_table();
}

// There is another active table; the gate is closed.
void MappedDevice::took_table() {
  live_.store(active_.get(), std::memory_order_release);
  if (!active_) return;
  set_limits(active_->limits());
  set_read_only(active_->read_only());
  set_size(active_->size());
}

Status MappedDevice::give_table(MappedDevice& to) {
  const Turn turn(*this), other(to);
  return give_in_turn(to);
}

Status MappedDevice::give_in_turn(MappedDevice& to) {
  const auto refuse = [](const MappedDevice& device, const char* what) {
    return fail(Error::make(EBUSY, fmt::format("{}: {}", device.name(), what)));
  };
  if (!suspended() || !active_) return refuse(*this, "expected a suspended device with a table");
  if (!to.suspended() && to.active_) return refuse(to, "expected a suspended device");
  if (!to.suspended()) to.gate_.close();
  std::unique_ptr<Table> given, old;
  {
    const std::lock_guard lock(mutex_);
    given = std::move(active_);
  }
  live_.store(nullptr, std::memory_order_release);
  given->events().set_owner(to);
  {
    const std::lock_guard lock(to.mutex_);
    old = std::exchange(to.active_, std::move(given));
  }
  to.took_table();
  retire(std::move(old));
  return {};
}

bool MappedDevice::do_map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) {
  const Descent descent;
  if (descent.too_deep()) {
    out.add_error(ELOOP, length);
    return true;
  }
  if (!out.holds(gate_)) {
    if (wait == Wait::yes)
      gate_.enter();
    else if (!gate_.try_enter())
      return false;
    out.hold(gate_);
  }
  // The door checked against the size and the mode of before; the table may be another one.
  const Table* table = live_.load(std::memory_order_acquire);
  const uint64_t size = table ? table->size() : 0;
  uint64_t inside = offset >= size ? 0 : std::min(length, size - offset);
  const uint64_t outside = length - inside;
  if (inside > 0 && op != Op::read && table->read_only()) {
    out.add_error(EROFS, inside);
    inside = 0;
  }
  for (size_t i = inside > 0 ? table->find(offset) : 0; inside > 0; ++i) {
    Target& target = *table->targets()[i];
    const uint64_t piece = std::min(inside, table->end_of(i) - offset);
    if (!target.map(op, offset - target.start(), piece, wait, out)) return false;
    offset += piece;
    inside -= piece;
  }
  out.add_error(EIO, outside);
  return true;
}

Status MappedDevice::do_flush() {
  const Descent descent;
  if (descent.too_deep()) return fail_sys(ELOOP, "flush");
  Mapping lease;
  gate_.enter();
  lease.hold(gate_);
  const Table* table = live_.load(std::memory_order_acquire);
  if (!table) return {};
  IoBatch batch;
  for (BlockDevice* device : table->to_flush()) batch.flush(*device);
  Status flushed = batch.run();
  if (const int error = not_flushed_.load(std::memory_order_relaxed); error != 0 && flushed) {
    not_flushed_.store(0);
    return fail_sys(error, "flush");
  }
  return flushed;
}

Service MappedDevice::do_service(Op op) const {
  const Descent descent;
  // A suspended device may keep who asks waiting for long.
  if (descent.too_deep() || !gate_.try_enter()) return Service::blocking;
  Service service = Service::inline_;
  if (const Table* table = live_.load(std::memory_order_acquire))
    for (const auto& target : table->targets())
      if (target->service(op) != Service::inline_) {
        service = Service::blocking;
        break;
      }
  gate_.exit();
  return service;
}

void MappedDevice::do_for_each_below(const Visit& visit) const {
  const Pinned table(*this, Which::active);
  if (!table) return;
  for (BlockDevice* device : table->below()) visit(*device);
}

std::string MappedDevice::table(Which which) const {
  const Pinned table(*this, which);
  return table ? table->table_text() : std::string();
}

std::string MappedDevice::status(Which which) const {
  const Pinned table(*this, which);
  return table ? table->status_text() : std::string();
}

std::vector<std::string> MappedDevice::deps(Which which) const {
  std::vector<std::string> names;
  if (const Pinned table(*this, which); table)
    for (const BlockDevice* device : table->below()) names.push_back(device->name());
  return names;
}

std::shared_ptr<const md::ArrayStatus> MappedDevice::array_status() const {
  const Pinned table(*this, Which::active);
  if (!table || table->targets().size() != 1) return nullptr;
  return table->targets().front()->array_status();
}

Result<std::string> MappedDevice::message(uint64_t sector, std::string_view text) {
  VOLFS_TRY_ASSIGN(const auto words, split_message(text));
  const Pinned table(*this, Which::active);
  if (!table) return fail(Error::make(ENXIO, fmt::format("{}: message: no active table", name())));
  if (sector >= table->size() / sector_size)
    return fail_invalid(fmt::format("{}: message for sector {}: expected one below {}", name(),
                                    sector, table->size() / sector_size));
  Target& target = *table->targets()[table->find(sector * sector_size)];
  return in(fmt::format("{}: {}", name(), target.type().name), target.message(words));
}

MappedDevice::Info MappedDevice::info() const {
  Info info;
  info.name = name();
  info.uuid = uuid_;
  info.suspended = suspended();
  info.read_only = read_only();
  info.open_count = open_count_.load(std::memory_order_relaxed);
  const std::lock_guard lock(mutex_);
  info.active_table = active_ != nullptr;
  info.inactive_table = inactive_ != nullptr;
  info.event_nr = event_nr_;
  if (active_) info.target_count = static_cast<uint32_t>(active_->targets().size());
  return info;
}

void MappedDevice::event() {
  const std::lock_guard lock(mutex_);
  ++event_nr_;
  changed_.notify_all();
}

uint32_t MappedDevice::wait_event(uint32_t seen, TimePoint deadline) {
  const std::lock_guard lock(mutex_);
  changed_.wait_until(mutex_, deadline, [&] { return event_nr_ != seen; });
  return event_nr_;
}

}  // namespace volfs::dm
