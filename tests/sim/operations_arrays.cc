// SPDX-License-Identifier: GPL-2.0-or-later
// What happens to arrays: members fail, come and go, and are looked over.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <span>

#include "support/byte_model.h"
#include "volfs/sync.h"
#include "volfs/units.h"
#include "world.h"

namespace volfs::sim {
namespace {

std::vector<md::MemberStatus> in_sync_members(const md::Array& array) {
  auto members = array.status().members;
  std::erase_if(members, [](const auto& m) { return m.state != md::MemberState::in_sync; });
  return members;
}

// Who looks at a superblock while it is being written may find half of it.
uint64_t data_offset_of(BlockDevice& member) {
  for (int i = 0; i < 100; ++i) {
    if (const auto found = md::scan(member); found && *found) return (*found)->data_offset;
    sleep_for(std::chrono::milliseconds(1));
  }
  throw Failure(member.name() + " bears no superblock");
}

}  // namespace

std::string World::lose(test::Random& random) {
  const Running running = *any_array(random);
  md::Array& each = *running.array;
  // Until the resync after a power cut is done, copies (or what parity says) may be of another
  // time than what has been read.
  if (running.plan->torn && !is_whole(each)) return "no loss now";
  running.plan->torn = false;
  machine_.heal();  // no two losses at one place
  const auto members = each.status().members;
  const auto& victim = members[random.below(members.size())];
  if (!each.fail(victim.device)) return fmt::format("{} cannot fail now", victim.device);
  must(each.remove(victim.device));
  return fmt::format("{} of {} fails", victim.device, running.plan->name);
}

std::string World::bring_back_to(const Running& running, test::Random& random) {
  md::Array& each = *running.array;
  for (const auto& member : each.status().members)
    if (member.state == md::MemberState::faulty) must(each.remove(member.device));
  const auto members = members_of(each);
  std::vector<std::string> gone;
  for (const auto& disk : running.plan->disks)
    if (!members.contains(disk)) gone.push_back(disk);
  if (gone.empty()) return "nothing to bring back";
  const std::string& disk = gone[random.below(gone.size())];
  if (random.one_in(2) && each.re_add(device_of(disk))) return disk + " comes back";
  must(each.add(device_of(disk)));
  return disk + " is added";
}

std::string World::bring_back(test::Random& random) {
  return bring_back_to(*any_array(random), random);
}

// A spare takes over from a member that is in sync.
std::string World::replace(test::Random& random) {
  const Running running = *any_array(random);
  md::Array& each = *running.array;
  const auto members = in_sync_members(each);
  if (!is_whole(each) || std::ranges::any_of(members, &md::MemberStatus::to_replace))
    return "no replacement now";
  const auto all = members_of(each);
  for (const auto& disk : running.plan->disks) {
    if (all.contains(disk)) continue;
    must(each.add(device_of(disk)));
    const std::string& old = members[random.below(members.size())].device;
    must(each.replace(old, random.one_in(2) ? disk : ""));
    return fmt::format("{} replaces {}", disk, old);
  }
  return "nothing to replace with";
}

// An array that is a volume of its own is stopped, and set up of what disks bear it.
std::string World::set_up_again(test::Random& random) {
  const auto plan = std::ranges::find(arrays_, true, &ArrayPlan::is_volume);
  if (plan == arrays_.end()) return "no array to stop";
  machine_.heal();
  must(engine_->array_stop(plan->name));
  if (engine_->catalog().find(plan->name)) throw Failure(plan->name + " is there after its stop");
  structure_.at(plan->name).is->oracle.settle();
  engine::NewArray again;
  again.name = plan->name;
  for (const auto& disk : plan->disks)
    if (must(md::scan(machine_.disk(disk)))) again.devices.push_back(disk);
  std::ranges::rotate(
      again.devices,
      again.devices.begin() + static_cast<std::ptrdiff_t>(random.below(again.devices.size())));
  must(engine_->array_assemble(again));
  check_structure();
  return plan->name + " is stopped and assembled";
}

// An image that nobody uses leaves and joins.
std::string World::take_out_and_in(test::Random& random) {
  const Running running = *any_array(random);
  const auto members = members_of(*running.array);
  for (const auto& disk : running.plan->disks) {
    if (members.contains(disk)) {
      if (engine_->image_remove(disk)) throw Failure(disk + " is taken out although it is in use");
      continue;
    }
    must(engine_->image_remove(disk));
    must(engine_->image_add({.name = disk, .path = directory_.path(disk)}));
    return disk + " is taken out and put in";
  }
  return "no disk to take out";
}

std::string World::look_over(test::Random& random) {
  const Running running = *any_array(random);
  md::Array& each = *running.array;
  switch (random.below(5)) {
    case 0:
      (void)each.check();  // one at a time
      return "check " + running.plan->name;
    case 1:
      (void)each.repair();
      return "repair " + running.plan->name;
    case 2:
      each.cancel_check();
      each.release_sync();
      return "idle " + running.plan->name;
    case 3:
      each.hold_sync(true);
      return "freeze " + running.plan->name;
    default:
      each.release_sync();
      (void)each.wait_sync();
      return "wait for " + running.plan->name;
  }
}

// What was recorded as bad or torn is written as it is, so that no later loss comes on top of it.
void World::write_again(md::Array& array) {
  std::vector<std::byte> bytes(64 * KiB);
  for (uint64_t at = 0; at < array.size(); at += bytes.size()) {
    const auto piece = std::span(bytes).first(std::min<uint64_t>(bytes.size(), array.size() - at));
    must(array.read(at, piece));
    must(array.write(at, piece));
  }
}

// A write or flush of one member fails, of data or metadata.
std::string World::fail_writes(test::Random& random) {
  const Running running = *any_array(random);
  md::Array& each = *running.array;
  if (!is_whole(each)) return "no failing writes now";
  const auto members = in_sync_members(each);
  const std::string victim = members[random.below(members.size())].device;
  machine_.heal();
  test::FaultDevice& disk = machine_.disk(victim);
  if (random.one_in(2)) {
    disk.fail_nth(test::FaultOp::write | test::FaultOp::flush, random.below(6), EIO);
  } else {
    const uint64_t data = data_offset_of(disk);
    const auto range = test::random_range(random, disk.size() - data, sector_size, 256 * KiB);
    disk.add({.op = test::FaultOp::write,
              .begin = data + range.offset,
              .end = data + range.offset + range.length,
              .error = EIO});
  }
  for (int i = 0; i < 4; ++i) (void)write(random);
  (void)flush(random);
  for (int i = 0; i < 2; ++i) (void)read(random);
  disk.remove_all();
  write_again(each);
  return fmt::format("writes of {} fail for a while", victim);
}

std::string World::spoil_sectors(test::Random& random) {
  const Running running = *any_array(random);
  md::Array& each = *running.array;
  if (!is_whole(each)) return "no bad sectors now";
  machine_.heal();
  const auto members = in_sync_members(each);
  test::FaultDevice& disk = machine_.disk(members[random.below(members.size())].device);
  const uint64_t data = data_offset_of(disk);
  const auto range = test::random_range(random, disk.size() - data, sector_size, 64 * KiB);
  disk.add_latent(data + range.offset, range.length);
  return fmt::format("{} cannot read {} bytes at {}", disk.name(), range.length,
                     data + range.offset);
}

}  // namespace volfs::sim
