// SPDX-License-Identifier: GPL-2.0-or-later
// The raid types. Each image is an LV of its own, with another for its metadata (but for raid0).
//     device_count = N (raid0: stripe_count), data_copies (raid10), region_size, stripe_size,
//     writebehind (raid1), min_recovery_rate, max_recovery_rate, data_offset,
//     raids = ["lv_rmeta_0", "lv_rimage_0", ...] (raid0: raid0_lvs = ["lv_rimage_0", ...])
// Row: `raid LEVEL NPARAMS CHUNK [PARAM...] N META DATA ...`, a dash for what is not there.
// Checked against lvm2's lib/raid/raid.c and device_mapper/libdm-deptree.c, and the kernel's
// Documentation/admin-guide/device-mapper/dm-raid.rst.
#include <algorithm>
#include <array>
#include <memory>
#include <vector>

#include "lvm/planner.h"
#include "volfs/units.h"

namespace volfs::lvm {
namespace {

constexpr std::array<RaidKind, 21> kinds = {{
    {"raid0", "raid0", 0, 1},           {"raid0_meta", "raid0", 0, 1},
    {"raid1", "raid1", 0, 1},           {"raid4", "raid4", 1, 2},
    {"raid5", "raid5_ls", 1, 2},        {"raid5_n", "raid5_n", 1, 2},
    {"raid5_la", "raid5_la", 1, 2},     {"raid5_ra", "raid5_ra", 1, 2},
    {"raid5_ls", "raid5_ls", 1, 2},     {"raid5_rs", "raid5_rs", 1, 2},
    {"raid6", "raid6_zr", 2, 3},        {"raid6_zr", "raid6_zr", 2, 3},
    {"raid6_nr", "raid6_nr", 2, 3},     {"raid6_nc", "raid6_nc", 2, 3},
    {"raid6_n_6", "raid6_n_6", 2, 3},   {"raid6_ls_6", "raid6_ls_6", 2, 3},
    {"raid6_rs_6", "raid6_rs_6", 2, 3}, {"raid6_la_6", "raid6_la_6", 2, 3},
    {"raid6_ra_6", "raid6_ra_6", 2, 3}, {"raid10", "raid10", 0, 2},
    {"raid10_near", "raid10", 0, 2},
}};
constexpr unsigned most_devices = 253;

class Raid final : public SegmentType {
 public:
  explicit Raid(const RaidKind& kind) : kind_(kind) {}

  Status read(const text::Entry& section, const Names& names, Segment& segment) const override {
    VOLFS_TRY_ASSIGN(const uint32_t devices, section.number32_or("device_count", 0));
    VOLFS_TRY_ASSIGN(const uint32_t stripes, section.number32_or("stripe_count", 0));
    if ((devices == 0) == (stripes == 0))
      return fail(text::error_at(section, "expected either 'device_count' or 'stripe_count'"));
    VOLFS_TRY_ASSIGN(const uint32_t region, section.number32_or("region_size", 0));
    VOLFS_TRY_ASSIGN(const uint32_t stripe, section.number32_or("stripe_size", 0));
    segment.region_size = region * sector_size;
    segment.stripe_size = stripe * sector_size;
    VOLFS_TRY_ASSIGN(segment.data_copies, section.number32_or("data_copies", 0));
    VOLFS_TRY_ASSIGN(segment.write_behind, section.number32_or("writebehind", 0));
    VOLFS_TRY_ASSIGN(segment.min_recovery_rate, section.number32_or("min_recovery_rate", 0));
    VOLFS_TRY_ASSIGN(segment.max_recovery_rate, section.number32_or("max_recovery_rate", 0));
    if (section.find("data_offset") != nullptr) {
      VOLFS_TRY_ASSIGN(segment.data_offset, section.number32("data_offset"));
    }
    return read_images(section, names, devices + stripes, segment);
  }

  std::span<const std::string_view> keys() const override {
    static constexpr std::array<std::string_view, 11> names = {
        "device_count", "stripe_count", "region_size",       "stripe_size",
        "data_copies",  "writebehind",  "min_recovery_rate", "max_recovery_rate",
        "data_offset",  "raids",        "raid0_lvs"};
    return names;
  }

  void write(const VolumeGroup& group, const Segment& segment, Lines& lines) const override {
    lines.line("{} = {}", raid0() ? "stripe_count" : "device_count", segment.areas.size());
    if (!raid0()) {
      if (raid10() && segment.data_copies > 0) lines.line("data_copies = {}", segment.data_copies);
      if (segment.region_size != 0)
        lines.line("region_size = {}", segment.region_size / sector_size);
    }
    if (segment.stripe_size != 0) lines.line("stripe_size = {}", segment.stripe_size / sector_size);
    if (raid1() && segment.write_behind != 0) lines.line("writebehind = {}", segment.write_behind);
    if (segment.min_recovery_rate != 0)
      lines.line("min_recovery_rate = {}", segment.min_recovery_rate);
    if (segment.max_recovery_rate != 0)
      lines.line("max_recovery_rate = {}", segment.max_recovery_rate);
    if (segment.data_offset) lines.line("data_offset = {}", *segment.data_offset);
    lines.blank();
    lines.line("{} = [", kind_.name == "raid0" ? "raid0_lvs" : "raids");
    for (size_t i = 0; i < segment.areas.size(); i++) {
      std::string pair;
      if (i < segment.metadata_areas.size() && segment.metadata_areas[i].kind == Area::Kind::lv)
        pair = text::quote(group.lvs[segment.metadata_areas[i].index].name) + ", ";
      pair += text::quote(group.lvs[segment.areas[i].index].name);
      lines.line("{}{}", pair, i + 1 == segment.areas.size() ? "" : ",");
    }
    lines.line("]");
  }

  uint32_t area_length(const Segment& segment) const override {
    const auto devices = static_cast<uint32_t>(segment.areas.size());
    if (raid1()) return segment.count;
    const uint32_t copies = raid10() ? std::max(segment.data_copies, 2u) : 1;
    const uint32_t stripes = raid10() ? devices / copies : devices - kind_.parity;
    return static_cast<uint32_t>(div_round_up(segment.count, std::max(stripes, 1u)));
  }

  Status check(const VolumeGroup& group, const Segment& segment) const override {
    const size_t devices = segment.areas.size();
    if (devices < kind_.least || devices > most_devices)
      return fail_invalid(fmt::format("{} devices: {} needs {} to {}", devices, kind_.name,
                                      kind_.least, most_devices));
    if (segment.region_size == 0 && !raid0()) return fail_invalid("the raid has no region size");
    if (!raid1() && (!is_power_of_two(segment.stripe_size) || segment.stripe_size < 4 * KiB))
      return fail_invalid(fmt::format("a stripe size of {} is not a power of two from 4KiB on",
                                      segment.stripe_size));
    if (segment.metadata_areas.size() != segment.areas.size() && !segment.metadata_areas.empty())
      return fail_invalid("some images have metadata and others do not");
    for (const auto* areas : {&segment.areas, &segment.metadata_areas})
      for (const Area& area : *areas)
        if (group.lvs[area.index].extents() == 0)
          return fail_invalid(fmt::format("image {} is empty", group.lvs[area.index].name));
    return {};
  }

  Status plan(Planner& planner, uint32_t lv, unsigned number) const override {
    const VolumeGroup& group = planner.group();
    const Segment& segment = group.lvs[lv].segments[number];
    std::vector<std::string> params;
    if (!raid0() && planner.nosync(lv)) params.emplace_back("nosync");
    VOLFS_TRY(table_params(group, segment, params));
    std::string text = fmt::format("{} {} {}", kind_.target, params.size() + 1,
                                   raid1() ? 0 : segment.stripe_size / sector_size);
    for (const std::string& param : params) text += ' ' + param;
    text += fmt::format(" {}", segment.areas.size());
    for (size_t i = 0; i < segment.areas.size(); i++) {
      const LogicalVolume& image = group.lvs[segment.areas[i].index];
      // An image that was split off, tracking changes, is visible and read-only.
      if (has(image.status, "VISIBLE") && !image.writable()) {
        text += " - -";
        continue;
      }
      std::string metadata = "-";
      if (i < segment.metadata_areas.size()) {
        VOLFS_TRY_ASSIGN(metadata, planner.device(segment.metadata_areas[i].index));
      }
      VOLFS_TRY_ASSIGN(const std::string data, planner.device(segment.areas[i].index));
      text += fmt::format(" {} {}", metadata, data);
    }
    const uint64_t reshape = segment.reshape_count * (segment.areas.size() - kind_.parity);
    if (reshape >= segment.count) return fail_invalid("the reshape space is the whole segment");
    planner.row("raid", std::move(text), (segment.count - reshape) * group.extent_size);
    return {};
  }

 private:
  bool raid0() const { return kind_.target == "raid0"; }
  bool raid1() const { return kind_.target == "raid1"; }
  bool raid10() const { return kind_.target == "raid10"; }

  Status read_images(const text::Entry& section, const Names& names, uint32_t count,
                     Segment& segment) const {
    const std::string_view name = kind_.name == "raid0" ? "raid0_lvs" : "raids";
    const text::Entry* list = section.find(name);
    if (list == nullptr || list->section)
      return fail(text::error_at(section, fmt::format("the list '{}' is missing", name)));
    // As lvm2: a name with "_rmeta_" is the metadata of the image behind it.
    for (const text::Value& value : list->values) {
      auto found =
          value.kind == text::Value::Kind::string ? names.lvs.find(value.string) : names.lvs.end();
      if (found == names.lvs.end())
        return fail(
            text::error_at(*list, fmt::format("there is no LV '{}'", value.string.substr(0, 128))));
      const Area area{Area::Kind::lv, found->second, 0};
      if (value.string.find("_rmeta_") != value.string.npos &&
          segment.metadata_areas.size() <= segment.areas.size())
        segment.metadata_areas.push_back(area);
      else
        segment.areas.push_back(area);
    }
    if (segment.areas.size() != count ||
        (!segment.metadata_areas.empty() && segment.metadata_areas.size() != count))
      return fail(text::error_at(*list, fmt::format("expected {} images", count)));
    return {};
  }

  // The optional parameters, in the order of the kernel's documentation.
  Status table_params(const VolumeGroup& group, const Segment& segment,
                      std::vector<std::string>& params) const {
    auto add = [&](std::string_view name, auto value) {
      params.emplace_back(name);
      params.push_back(fmt::format("{}", value));
    };
    if (raid0()) return {};
    int delta = 0;
    bool more = false, fewer = false;
    for (size_t i = 0; i < segment.areas.size(); i++) {
      const LogicalVolume& image = group.lvs[segment.areas[i].index];
      if (has(image.status, "REBUILD")) add("rebuild", i);
      for (const Segment& part : image.segments) {
        more |= has(part.type_flags, "RESHAPE_DELTA_DISKS_PLUS");
        fewer |= has(part.type_flags, "RESHAPE_DELTA_DISKS_MINUS");
        if (has(part.type_flags, "RESHAPE_DELTA_DISKS_PLUS")) delta++;
        if (has(part.type_flags, "RESHAPE_DELTA_DISKS_MINUS")) delta--;
      }
    }
    if (more && fewer) return fail_invalid("the raid both gains and loses devices");
    if (segment.min_recovery_rate != 0) add("min_recovery_rate", segment.min_recovery_rate);
    if (segment.max_recovery_rate != 0) add("max_recovery_rate", segment.max_recovery_rate);
    if (raid1()) {
      for (size_t i = 0; i < segment.areas.size(); i++)
        if (has(group.lvs[segment.areas[i].index].status, "WRITEMOSTLY")) add("write_mostly", i);
      if (segment.write_behind != 0) add("max_write_behind", segment.write_behind);
    }
    if (segment.region_size != 0) add("region_size", segment.region_size / sector_size);
    if (raid10()) add("raid10_copies", std::max(segment.data_copies, 2u));
    if (delta != 0) add("delta_disks", delta);
    if (segment.data_offset) add("data_offset", *segment.data_offset);
    return {};
  }

  const RaidKind& kind_;
};

}  // namespace

std::span<const RaidKind> raid_kinds() {
  return kinds;
}

const RaidKind* find_raid_kind(std::string_view name) {
  auto found = std::ranges::find(kinds, name, &RaidKind::name);
  return found == kinds.end() ? nullptr : &*found;
}

const SegmentType& raid_type(const RaidKind& kind) {
  static const auto types = [] {
    std::vector<std::unique_ptr<Raid>> made;
    for (const RaidKind& each : kinds) made.push_back(std::make_unique<Raid>(each));
    return made;
  }();
  return *types[static_cast<size_t>(&kind - kinds.data())];
}

}  // namespace volfs::lvm
