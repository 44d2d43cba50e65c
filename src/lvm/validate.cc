// SPDX-License-Identifier: GPL-2.0-or-later
// What a text may say and yet cannot be: checked once after reading and after every edit.
#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "lvm/nesting.h"
#include "lvm/segment_type.h"
#include "volfs/lvm/model.h"
#include "volfs/units.h"

namespace volfs::lvm {
namespace {

class Validator {
 public:
  explicit Validator(VolumeGroup& group) : group_(group), state_(group.lvs.size()) {}

  void run() {
    group_.problems.clear();
    check_ids();
    for (LogicalVolume& lv : group_.lvs)
      if (lv.problem.empty())
        if (Status checked = check_lv(lv); !checked) lv.problem = checked.error().text();
    check_overlap();
    for (uint32_t i = 0; i < group_.lvs.size(); i++) check_nesting(i, 1);
  }

 private:
  void check_ids() {
    std::unordered_map<Id, const std::string*> seen;
    for (const LogicalVolume& lv : group_.lvs)
      if (!lv.id.empty() && !seen.emplace(lv.id, &lv.name).second)
        group_.problems.push_back(
            fmt::format("LVs {} and {} have the same uuid", *seen[lv.id], lv.name));
    seen.clear();
    for (const PhysicalVolume& pv : group_.pvs) {
      if (!seen.emplace(pv.id, &pv.key).second)
        group_.problems.push_back(
            fmt::format("PVs {} and {} have the same uuid", *seen[pv.id], pv.key));
      const auto length = checked_mul(pv.extent_count, group_.extent_size);
      const auto end = length ? checked_add(*length, pv.data_start) : std::nullopt;
      if (!end || *end > max_device_size)
        group_.problems.push_back(fmt::format("the extents of PV {} end too far", pv.key));
    }
  }

  Status check_lv(const LogicalVolume& lv) {
    VOLFS_TRY(check_volume_key(lv.name));
    uint64_t next = 0;
    if (lv.segments.empty()) return fail_invalid("it has no segments");
    for (size_t i = 0; i < lv.segments.size(); i++) {
      const Segment& segment = lv.segments[i];
      const std::string place = fmt::format("segment {}", i + 1);
      if (segment.count == 0) return fail_invalid(place + ": has no extents");
      if (segment.start != next)
        return fail_invalid(fmt::format("{}: begins at extent {}, where {} was expected", place,
                                        segment.start, next));
      next += segment.count;
      if (next > UINT32_MAX || next > max_device_size / group_.extent_size)
        return fail_invalid(place + ": ends too far");
      VOLFS_TRY(in(place, check_segment(segment)));
    }
    if (lv.segments.size() > 1)
      for (const Segment& segment : lv.segments)
        if (segment.origin) return fail_invalid("a snapshot can have one segment only");
    return {};
  }

  // Names become file names; what lvm2 would refuse for a new LV may stand in an old text.
  static Status check_volume_key(const std::string& name) {
    return check_group_name(name).has_value()
               ? Status()
               : fail_invalid("its name has characters that are not allowed");
  }

  Status check_segment(const Segment& segment) {
    const SegmentType* type = segment.known_type();
    if (type == nullptr) return {};
    VOLFS_TRY(type->check(group_, segment));
    if (segment.areas.empty()) return {};
    const uint64_t length = type->area_length(segment);
    auto check = [&](const Area& area, uint64_t extents) -> Status {
      const bool on_pv = area.kind == Area::Kind::pv;
      const uint64_t have =
          on_pv ? group_.pvs[area.index].extent_count : group_.lvs[area.index].extents();
      if (!group_.lvs.empty() && !on_pv && !group_.lvs[area.index].raw.empty())
        return fail_invalid(
            fmt::format("it stands on {}, which could not be read", group_.lvs[area.index].name));
      if (range_within(area.extent, extents, have)) return {};
      return fail_invalid(
          fmt::format("extents {}+{} of {} do not exist: it has {}", area.extent, extents,
                      on_pv ? group_.pvs[area.index].key : group_.lvs[area.index].name, have));
    };
    for (const Area& area : segment.areas) VOLFS_TRY(check(area, length));
    for (const Area& area : segment.metadata_areas) VOLFS_TRY(check(area, 1));
    return {};
  }

  void check_overlap() {
    struct Use {
      uint32_t pv, start, length, lv;
    };
    std::vector<Use> uses;
    for (uint32_t lv = 0; lv < group_.lvs.size(); lv++)
      for (const Segment& segment : group_.lvs[lv].segments)
        if (const SegmentType* type = segment.known_type();
            type != nullptr && group_.lvs[lv].problem.empty() && !segment.areas.empty())
          for (const Area& area : segment.areas)
            if (area.kind == Area::Kind::pv)
              uses.push_back({area.index, area.extent, type->area_length(segment), lv});
    std::ranges::sort(uses, {},
                      [](const Use& use) { return (uint64_t{use.pv} << 32) | use.start; });
    for (size_t i = 1; i < uses.size(); i++) {
      const Use &before = uses[i - 1], &use = uses[i];
      if (before.pv != use.pv || uint64_t{before.start} + before.length <= use.start) continue;
      const std::string what =
          fmt::format("LVs {} and {} both use extent {} of PV {}", group_.lvs[before.lv].name,
                      group_.lvs[use.lv].name, use.start, group_.pvs[use.pv].key);
      group_.lvs[before.lv].problem = group_.lvs[use.lv].problem = what;
      // The longer of the two is what the next is compared with.
      if (uint64_t{before.start} + before.length > uint64_t{use.start} + use.length)
        uses[i] = before;
    }
  }

  // Depth first; an LV that is under way is part of itself.
  bool check_nesting(uint32_t index, unsigned depth) {
    if (state_[index] == done) return true;
    LogicalVolume& lv = group_.lvs[index];
    if (state_[index] == under_way || depth > max_nesting) {
      if (lv.problem.empty())
        lv.problem = state_[index] == under_way
                         ? "it is made of itself"
                         : fmt::format("it is made of LVs nested deeper than {}", max_nesting);
      return false;
    }
    state_[index] = under_way;
    bool sound = true;
    auto below = [&](uint32_t other) { sound &= check_nesting(other, depth + 1); };
    for (const Segment& segment : lv.segments) {
      for (const auto* areas : {&segment.areas, &segment.metadata_areas})
        for (const Area& area : *areas)
          if (area.kind == Area::Kind::lv) below(area.index);
      for (const auto& other : {segment.log, segment.origin, segment.cow})
        if (other) below(*other);
      for (uint32_t other : segment.mentions) below(other);
    }
    state_[index] = done;
    if (!sound && lv.problem.empty()) lv.problem = "what it is made of leads to itself";
    return sound;
  }

  enum : uint8_t { fresh, under_way, done };
  VolumeGroup& group_;
  std::vector<uint8_t> state_;
};

}  // namespace

void validate(VolumeGroup& group) {
  Validator(group).run();
}

}  // namespace volfs::lvm
