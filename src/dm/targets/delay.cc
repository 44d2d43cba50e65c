// SPDX-License-Identifier: GPL-2.0-or-later
// delay <device> <start sector> <ms> [<device> <start sector> <ms> [<device> <start sector> <ms>]]
// The first group is for reads, the second (if missing, the first) for writes, the third (if
// missing, the second) for flushes. While the device is being suspended nothing is delayed.
#include <fmt/format.h>

#include <array>

#include "../args.h"
#include "targets.h"
#include "volfs/sync.h"
#include "volfs/units.h"

namespace volfs::dm {
namespace {

struct Group {
  BlockDevice* device = nullptr;
  uint64_t offset = 0;
  uint32_t milliseconds = 0;
};

enum Class : size_t { reads, writes, flushes };

class Delay final : public Target {
 public:
  // GROUPS is complete; GIVEN says how many groups were written in the table.
  Delay(const TargetContext& context, const std::array<Group, 3>& groups, size_t given)
      : Target(delay_type, context), groups_(groups), given_(given) {
    inherit_limits();
  }
  std::string table_params() const override;
  std::string status_params() const override;
  void for_each_range(const VisitRange& visit) const override {
    for (size_t i = 0; i < given_; ++i) visit(*groups_[i].device, groups_[i].offset, size());
  }
  void presuspend() override { set_delaying(false); }
  void presuspend_undo() override { set_delaying(true); }
  void resume() override { set_delaying(true); }
  bool flush_is_plain() const override { return false; }

 private:
  const Group& group(Op op) const { return groups_[op == Op::read ? reads : writes]; }
  bool do_map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) override;
  Status do_read(uint64_t offset, IoSpan iov) override;
  Status do_write(uint64_t offset, IoSpan iov, Fua fua) override;
  Status do_discard(uint64_t offset, uint64_t length) override;
  Status do_write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) override;
  Result<Allocation> do_allocation(uint64_t offset, uint64_t length) override;
  Status do_flush() override;
  Service do_service(Op op) const override;

  void hold_back(Class which);
  void set_delaying(bool delaying);

  const std::array<Group, 3> groups_;
  const size_t given_;
  mutable Mutex mutex_;  // guards all below
  CondVar changed_;
  bool delaying_ = true;
  std::array<uint32_t, 3> held_{};  // how many of each class wait now
};

bool Delay::do_map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) {
  const Group& to = group(op);
  if (to.milliseconds == 0) return to.device->map(op, to.offset + offset, length, wait, out);
  out.add(*this, offset, length);
  return true;
}

void Delay::hold_back(Class which) {
  if (groups_[which].milliseconds == 0) return;
  const TimePoint until = now() + std::chrono::milliseconds(groups_[which].milliseconds);
  const std::lock_guard lock(mutex_);
  ++held_[which];
  changed_.wait_until(mutex_, until, [this] { return !delaying_; });
  --held_[which];
}

void Delay::set_delaying(bool delaying) {
  const std::lock_guard lock(mutex_);
  delaying_ = delaying;
  changed_.notify_all();
}

Status Delay::do_read(uint64_t offset, IoSpan iov) {
  hold_back(reads);
  return groups_[reads].device->read(groups_[reads].offset + offset, iov);
}

Status Delay::do_write(uint64_t offset, IoSpan iov, Fua fua) {
  hold_back(writes);
  return groups_[writes].device->write(groups_[writes].offset + offset, iov, fua);
}

Status Delay::do_discard(uint64_t offset, uint64_t length) {
  hold_back(writes);
  return groups_[writes].device->discard(groups_[writes].offset + offset, length);
}

Status Delay::do_write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) {
  hold_back(writes);
  return groups_[writes].device->write_zeroes(groups_[writes].offset + offset, length, unmap);
}

// Asking where holes are is no I/O and is not delayed.
Result<Allocation> Delay::do_allocation(uint64_t offset, uint64_t length) {
  return groups_[reads].device->allocation(groups_[reads].offset + offset, length);
}

Status Delay::do_flush() {
  hold_back(flushes);
  return groups_[flushes].device->flush();
}

Service Delay::do_service(Op op) const {
  const Group& to = group(op);
  return to.milliseconds == 0 && to.device->service(op) == Service::inline_ ? Service::inline_
                                                                            : Service::blocking;
}

std::string Delay::table_params() const {
  std::string out;
  for (size_t i = 0; i < given_; ++i)
    out += fmt::format("{}{} {} {}", i == 0 ? "" : " ", device_word(*groups_[i].device),
                       groups_[i].offset / sector_size, groups_[i].milliseconds);
  return out;
}

std::string Delay::status_params() const {
  const std::lock_guard lock(mutex_);
  return fmt::format("{} {} {}", held_[reads], held_[writes], held_[flushes]);
}

Result<std::unique_ptr<Target>> create_delay(const TargetContext& context, Args args) {
  if (args.size() != 3 && args.size() != 6 && args.size() != 9)
    return fail(bad_count(args, "one to three groups of <device> <start sector> <milliseconds>"));
  std::array<Group, 3> groups;
  const size_t given = args.size() / 3;
  for (size_t i = 0; i < given; ++i) {
    VOLFS_TRY_ASSIGN(groups[i].offset, sector_arg("start sector", args[3 * i + 1]));
    VOLFS_TRY_ASSIGN(groups[i].milliseconds, u32_arg("milliseconds", args[3 * i + 2]));
    VOLFS_TRY_ASSIGN(groups[i].device, device_arg(context, args[3 * i]));
  }
  for (size_t i = given; i < 3; ++i) groups[i] = groups[i - 1];
  return std::make_unique<Delay>(context, groups, given);
}

std::vector<size_t> delay_devices(Args args) {
  std::vector<size_t> indices;
  for (size_t i = 0; i < 9 && i < args.size(); i += 3) indices.push_back(i);
  return indices;
}

}  // namespace

const TargetType delay_type = {
    .name = "delay",
    .version = {1, 5, 0},
    .create = create_delay,
    .device_args = delay_devices,
};

}  // namespace volfs::dm
