// SPDX-License-Identifier: GPL-2.0-or-later
// raid <type> <number of parameters> <chunk sectors> [<parameter>...] <devices>
//   (<metadata device>|- <data device>|-)...
// A RAID whose members keep their state on devices of their own: lvm2's. Arguments, table and
// status are those of Linux's drivers/md/dm-raid.c.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <optional>

#include "../args.h"
#include "array_target.h"
#include "targets.h"
#include "volfs/dm/mapped_device.h"
#include "volfs/md/raid_set.h"
#include "volfs/units.h"

namespace volfs::dm {
namespace {

struct RaidType {
  std::string_view name;
  int32_t level;
  uint32_t layout;
  unsigned least;  // devices
};
namespace layouts = md::parity_layout;
constexpr std::array<RaidType, 18> raid_types = {{
    {"raid0", 0, 0, 1},
    {"raid1", 1, 0, 1},
    {"raid10", 10, 0, 2},
    {"raid10_near", 10, 0, 2},
    {"raid4", 5, layouts::parity_first, 2},
    {"raid5_n", 5, layouts::parity_last, 2},
    {"raid5_ls", 5, layouts::left_symmetric, 2},
    {"raid5_rs", 5, layouts::right_symmetric, 2},
    {"raid5_la", 5, layouts::left_asymmetric, 2},
    {"raid5_ra", 5, layouts::right_asymmetric, 2},
    {"raid6_zr", 6, layouts::ddf_zero_restart, 4},
    {"raid6_nr", 6, layouts::ddf_n_restart, 4},
    {"raid6_nc", 6, layouts::ddf_n_continue, 4},
    {"raid6_n_6", 6, layouts::parity_last, 4},
    {"raid6_ls_6", 6, layouts::left_symmetric_6, 4},
    {"raid6_rs_6", 6, layouts::right_symmetric_6, 4},
    {"raid6_la_6", 6, layouts::left_asymmetric_6, 4},
    {"raid6_ra_6", 6, layouts::right_asymmetric_6, 4},
}};
constexpr uint32_t most_raid_devices = 253;
constexpr std::string_view raid_form =
    "<type> <number of parameters> <chunk sectors> [<parameter>...] <devices> (<metadata|-> "
    "<data|->)...";

enum class RaidKey : uint8_t {  // in the order in which Linux's table has them
  sync,
  nosync,
  rebuild,
  daemon_sleep,
  min_recovery_rate,
  max_recovery_rate,
  write_mostly,
  max_write_behind,
  stripe_cache,
  region_size,
  raid10_copies,
  raid10_format,
  data_offset,
};
constexpr std::array<std::string_view, 13> raid_keys = {"sync",
                                                        "nosync",
                                                        "rebuild",
                                                        "daemon_sleep",
                                                        "min_recovery_rate",
                                                        "max_recovery_rate",
                                                        "write_mostly",
                                                        "max_write_behind",
                                                        "stripe_cache",
                                                        "region_size",
                                                        "raid10_copies",
                                                        "raid10_format",
                                                        "data_offset"};

struct RaidParameter {
  RaidKey key;
  uint64_t value = 0;
  std::string text;  // as it was given
};

// What the table says, before any device is looked at.
struct RaidArgs {
  const RaidType* type = nullptr;
  uint64_t chunk = 0;
  uint32_t count = 0;
  std::vector<RaidParameter> parameters;  // in the order of the keys
  Args devices;

  std::optional<uint64_t> value(RaidKey key) const {
    const auto found = std::ranges::find(parameters, key, &RaidParameter::key);
    return found == parameters.end() ? std::nullopt : std::optional(found->value);
  }
  bool marks(RaidKey key, uint32_t slot) const {
    return std::ranges::any_of(parameters, [&](const RaidParameter& each) {
      return each.key == key && each.value == slot;
    });
  }
};

Result<uint64_t> raid_value(RaidKey key, std::string_view name, const std::string& text,
                            uint32_t devices) {
  switch (key) {
    case RaidKey::rebuild:
    case RaidKey::write_mostly:
      return u32_arg(name, text, 0, devices - 1);
    case RaidKey::raid10_copies:
      return u32_arg(name, text, 2, std::min<uint32_t>(devices, 255));
    case RaidKey::raid10_format:
      if (text != "near") return fail(bad_arg(name, text, "near"));
      return 0;
    case RaidKey::region_size: {
      VOLFS_TRY_ASSIGN(const uint64_t size, sector_arg(name, text));
      // A bitmap records it in 32 bits.
      if (!is_power_of_two(size) || size < 4 * KiB || size > 2 * GiB)
        return fail(bad_arg(name, text, "a power of two of 8 to 4194304 sectors"));
      return size;
    }
    case RaidKey::data_offset:
      return sector_arg(name, text);
    default:
      return u32_arg(name, text);
  }
}

Status read_raid_parameters(Args words, RaidArgs& out) {
  for (size_t i = 0; i < words.size(); ++i) {
    const auto found = std::ranges::find_if(
        raid_keys, [&](std::string_view name) { return same_word(words[i], name); });
    if (found == raid_keys.end())
      return fail(
          bad_arg("parameter", words[i], fmt::format("one of {}", fmt::join(raid_keys, ", "))));
    RaidParameter parameter{static_cast<RaidKey>(found - raid_keys.begin()), 0, {}};
    if (parameter.key != RaidKey::sync && parameter.key != RaidKey::nosync) {
      if (++i == words.size()) return fail_invalid(fmt::format("{}: expected a value", *found));
      parameter.text = words[i];
      VOLFS_TRY_ASSIGN(parameter.value, raid_value(parameter.key, *found, words[i], out.count));
    }
    out.parameters.push_back(std::move(parameter));
  }
  std::ranges::stable_sort(out.parameters, {}, [](const RaidParameter& each) {
    return std::pair(each.key, each.value);
  });
  if (out.value(RaidKey::sync) && out.value(RaidKey::nosync))
    return fail_invalid("sync and nosync exclude each other");
  return {};
}

Result<RaidArgs> read_raid_args(Args args) {
  if (args.size() < 4) return fail(bad_count(args, raid_form));
  RaidArgs out;
  const auto type = std::ranges::find(raid_types, args[0], &RaidType::name);
  if (type == raid_types.end()) {
    std::string names;
    for (const RaidType& each : raid_types)
      names += fmt::format("{}{}", names.empty() ? "" : ", ", each.name);
    return fail(bad_arg("raid type", args[0], "one of " + names));
  }
  out.type = &*type;
  VOLFS_TRY_ASSIGN(const uint32_t count, u32_arg("number of parameters", args[1], 1, 1024));
  if (args.size() < 3 + size_t{count}) return fail(bad_count(args, raid_form));
  const size_t place = 2 + size_t{count};  // of the number of devices
  VOLFS_TRY_ASSIGN(out.count,
                   u32_arg("number of devices", args[place], type->least, most_raid_devices));
  if (args.size() != place + 1 + size_t{2} * out.count)
    return fail(bad_count(
        args, fmt::format("{}, for {} devices", place + 1 + size_t{2} * out.count, out.count)));
  VOLFS_TRY_ASSIGN(out.chunk, sector_arg("chunk sectors", args[2]));
  VOLFS_TRY(read_raid_parameters(args.subspan(3, count - 1), out));
  out.devices = args.subspan(place + 1);
  return out;
}

// Whether a device answers with errors only, because of its table.
bool is_hole(const BlockDevice& device) {
  const auto* map = dynamic_cast<const MappedDevice*>(&device);
  if (!map) return false;
  bool bottom = true, holes = true;
  map->for_each_below([&](BlockDevice& below) {
    bottom = false;
    holes = holes && is_hole(below);
  });
  return bottom ? map->table().find(" error") != std::string::npos : holes;
}

Result<md::RaidSet> raid_set_of(const TargetContext& context, const RaidArgs& args) {
  md::RaidSet set;
  const RaidType& type = *args.type;
  set.geometry = {type.level, type.layout, args.count, type.level == 1 ? 0 : args.chunk};
  if (type.level == 10)
    set.geometry.layout =
        1u << 8 | static_cast<uint32_t>(args.value(RaidKey::raid10_copies).value_or(2));
  set.size = context.length;
  set.data_offset = args.value(RaidKey::data_offset).value_or(0);
  set.region_size = args.value(RaidKey::region_size).value_or(0);
  set.nosync = args.value(RaidKey::nosync).has_value();
  set.sync = args.value(RaidKey::sync).has_value();
  for (uint32_t slot = 0; slot < args.count; ++slot) {
    md::RaidSetMember& member = set.members.emplace_back();
    const std::string &metadata = args.devices[2 * slot], &data = args.devices[2 * slot + 1];
    if (metadata != "-") {
      if (data == "-") return fail_invalid(fmt::format("device {}: metadata without data", slot));
      VOLFS_TRY_ASSIGN(member.metadata, device_arg(context, metadata));
    }
    if (data != "-") {
      VOLFS_TRY_ASSIGN(member.data, device_arg(context, data));
    }
    member.hole = member.metadata && is_hole(*member.metadata);
    member.rebuild = args.marks(RaidKey::rebuild, slot);
    member.write_mostly = args.marks(RaidKey::write_mostly, slot);
  }
  VOLFS_TRY(md::check_geometry(set.geometry));
  VOLFS_TRY(md::raid_set_member_size(set));
  return set;
}

std::vector<BlockDevice*> data_devices(const md::RaidSet& set) {
  std::vector<BlockDevice*> devices;
  for (const md::RaidSetMember& member : set.members)
    if (member.data) devices.push_back(member.data);
  return devices;
}

class RaidTarget final : public ArrayTarget {
 public:
  RaidTarget(const TargetContext& context, const RaidArgs& args, md::RaidSet set)
      : ArrayTarget(raid_type, context),
        type_(*args.type),
        chunk_(args.chunk),
        parameters_(args.parameters),
        set_(std::move(set)) {
    if (const auto rate = args.value(RaidKey::max_recovery_rate); rate && *rate > 0)
      options_.sync_speed_max = *rate * KiB;
    options_.sync_speed_min =
        std::min(options_.sync_speed_max, args.value(RaidKey::min_recovery_rate)
                                              .transform([](uint64_t rate) { return rate * KiB; })
                                              .value_or(options_.sync_speed_min));
    if (const auto sleep = args.value(RaidKey::daemon_sleep); sleep && *sleep > 0)
      options_.bitmap_sweep = std::chrono::milliseconds(*sleep);
    set_limits(md::array_limits(set_.geometry, data_devices(set_)));
  }

  std::string table_params() const override;
  std::string status_params() const override;
  Result<std::string> message(Args args) override;
  void for_each_range(const VisitRange& visit) const override {
    for (const md::RaidSetMember& member : set_.members)
      for (BlockDevice* device : {member.metadata, member.data})
        if (device) visit(*device, 0, device->size());
  }

 private:
  Result<std::shared_ptr<md::Array>> assemble(const md::ArrayOptions& options) override;

  const RaidType& type_;
  const uint64_t chunk_;
  const std::vector<RaidParameter> parameters_;
  md::RaidSet set_;
};

std::string RaidTarget::table_params() const {
  size_t words = 1;
  std::string text;
  for (const RaidParameter& each : parameters_) {
    text += fmt::format(" {}", raid_keys[static_cast<size_t>(each.key)]);
    if (!each.text.empty()) text += ' ' + each.text;
    words += each.text.empty() ? 1 : 2;
  }
  std::string out = fmt::format("{} {} {}{} {}", type_.name, words, chunk_ / sector_size, text,
                                set_.members.size());
  for (const md::RaidSetMember& member : set_.members)
    for (const BlockDevice* device : {member.metadata, member.data})
      out += ' ' + (device ? device_word(*device) : "-");
  return out;
}

// As raid_status and rs_get_progress: `raid5_ls 3 AAA 8192/8192 idle 0 0 -`.
std::string RaidTarget::status_params() const {
  const auto known = array_status();
  const md::ArrayStatus status = known ? *known : md::ArrayStatus();
  const bool idle = status.sync.action == md::SyncAction::idle;
  const uint64_t total = type_.level == 0 ? status.member_size : status.sync_size;
  const uint64_t done = std::min(idle ? status.resynced : status.sync.position, total);
  // While a first sync or a resync is due nobody counts as whole.
  const bool resyncing = status.sync.action == md::SyncAction::resync || (idle && done < total);
  std::string health(set_.members.size(), 'D');
  for (size_t i = 0; i < set_.members.size(); ++i)
    if (!set_.members[i].data) health[i] = '-';
  for (const md::MemberStatus& member : status.members) {
    if (!member.slot || member.state == md::MemberState::faulty) continue;
    health[*member.slot] = member.state == md::MemberState::in_sync && !resyncing ? 'A' : 'a';
  }
  return fmt::format("{} {} {} {}/{} {} {} {} -", type_.name, set_.members.size(), health,
                     done / sector_size, total / sector_size,
                     status.sync.held ? "frozen" : md::sync_action_name(status.sync.action),
                     status.mismatches / sector_size, set_.data_offset / sector_size);
}

Result<std::string> RaidTarget::message(Args args) {
  const auto array = running();
  if (!array) return fail(Error::make(EBUSY, "suspended"));
  const auto is = [&](std::string_view word) { return same_word(args[0], word); };
  if (type_.level == 0) return fail_invalid("raid0 takes no messages");
  if (is("frozen") || is("idle")) {
    array->cancel_check();
    array->hold_sync(is("frozen"));
    return std::string();
  }
  if (!is("resync") && !is("recover") && !is("check") && !is("repair"))
    return fail(bad_arg("message", args[0], "frozen, idle, resync, recover, check or repair"));
  if (array->progress().action != md::SyncAction::idle)
    return fail(Error::make(EBUSY, "another sync has not ended"));
  array->release_sync();
  if (is("check")) VOLFS_TRY(array->check());
  if (is("repair")) VOLFS_TRY(array->repair());
  return std::string();
}

Result<std::shared_ptr<md::Array>> RaidTarget::assemble(const md::ArrayOptions& options) {
  VOLFS_TRY_ASSIGN(std::shared_ptr<md::Array> array, md::assemble_raid_set(set_, options));
  // They were asked for once.
  set_.sync = false;
  for (md::RaidSetMember& member : set_.members) member.rebuild = false;
  return array;
}

Result<std::unique_ptr<Target>> create_raid(const TargetContext& context, Args args) {
  VOLFS_TRY_ASSIGN(const RaidArgs wanted, read_raid_args(args));
  VOLFS_TRY_ASSIGN(md::RaidSet set, raid_set_of(context, wanted));
  return std::make_unique<RaidTarget>(context, wanted, std::move(set));
}

std::vector<size_t> raid_device_args(Args args) {
  std::vector<size_t> indices;
  const auto wanted = read_raid_args(args);
  if (!wanted) return indices;
  for (size_t i = args.size() - wanted->devices.size(); i < args.size(); ++i)
    if (args[i] != "-") indices.push_back(i);
  return indices;
}

}  // namespace

const TargetType raid_type = {"raid", {1, 15, 1}, create_raid, raid_device_args};

}  // namespace volfs::dm
