// SPDX-License-Identifier: GPL-2.0-or-later
// "mirror": the old mirror with a log in memory or on an LV; also what a pvmove works with.
//     mirror_count = N, extents_moved = N (pvmove), mirror_log = "lv", region_size = SECTORS,
//     mirrors = ["lv_mimage_0", 0, ...]
// Row: `mirror core 1 REGION N DEV OFFSET ... 1 handle_errors`, or with `disk 2 LOGDEV REGION`.
// A pvmove handles no errors; of its segments one runs at a time: those done are linear on the
// second area, those to come on the first.
#include <algorithm>
#include <array>
#include <bit>

#include "lvm/planner.h"
#include "volfs/units.h"

namespace volfs::lvm {
namespace {

// lvm2's activation/raid_region_size, which a pvmove uses.
constexpr uint64_t default_region = 2 * MiB;

class Mirror final : public SegmentType {
 public:
  Status read(const text::Entry& section, const Names& names, Segment& segment) const override {
    VOLFS_TRY_ASSIGN(const uint32_t count, section.number32("mirror_count"));
    if (section.find("extents_moved") != nullptr) {
      VOLFS_TRY_ASSIGN(segment.extents_moved, section.number32("extents_moved"));
    }
    VOLFS_TRY_ASSIGN(const uint32_t region, section.number32_or("region_size", 0));
    segment.region_size = region * sector_size;
    if (section.find("mirror_log") != nullptr) {
      VOLFS_TRY_ASSIGN(segment.log, names.lv(section, "mirror_log"));
    }
    VOLFS_TRY_ASSIGN(segment.areas, names.areas(section, "mirrors", count));
    return {};
  }

  std::span<const std::string_view> keys() const override {
    static constexpr std::array<std::string_view, 5> names = {
        "mirror_count", "extents_moved", "mirror_log", "region_size", "mirrors"};
    return names;
  }

  void write(const VolumeGroup& group, const Segment& segment, Lines& lines) const override {
    lines.line("mirror_count = {}", segment.areas.size());
    if (segment.extents_moved) lines.line("extents_moved = {}", *segment.extents_moved);
    if (segment.log) lines.line("mirror_log = {}", text::quote(group.lvs[*segment.log].name));
    if (segment.region_size != 0) lines.line("region_size = {}", segment.region_size / sector_size);
    lines.areas("mirrors", group, segment.areas);
  }

  Status check(const VolumeGroup&, const Segment& segment) const override {
    if (!segment.extents_moved && segment.areas.size() > 1 && segment.region_size == 0)
      return fail_invalid("the mirror has no region size");
    if (segment.extents_moved && segment.areas.size() < 2)
      return fail_invalid("a pvmove needs two areas");
    return {};
  }

  Status plan(Planner& planner, uint32_t lv, unsigned number) const override {
    const Segment& segment = planner.group().lvs[lv].segments[number];
    const uint64_t length = segment.count * planner.group().extent_size;
    const bool moving = segment.extents_moved.has_value();
    if (segment.areas.size() == 1) return plan_linear(planner, lv, number, 0, length);
    if (moving && *segment.extents_moved == segment.count)
      return plan_linear(planner, lv, number, 1, length);
    if (moving && planner.pvmoves_before() > 0) return plan_linear(planner, lv, number, 0, length);

    const uint64_t region =
        moving ? std::min(default_region, std::bit_floor(length)) : segment.region_size;
    std::string params = "core 1 ";
    if (segment.log) {
      VOLFS_TRY_ASSIGN(const std::string log, planner.device(*segment.log));
      params = fmt::format("disk 2 {} ", log);
    }
    params += fmt::format("{} {}", region / sector_size, segment.areas.size());
    for (unsigned i = 0; i < segment.areas.size(); i++) {
      VOLFS_TRY_ASSIGN(const std::string area, planner.area(lv, number, i));
      params += ' ' + area;
    }
    if (!moving) params += " 1 handle_errors";
    planner.row("mirror", std::move(params), length);
    return {};
  }

 private:
  static Status plan_linear(Planner& planner, uint32_t lv, unsigned number, unsigned area,
                            uint64_t length) {
    VOLFS_TRY_ASSIGN(std::string params, planner.area(lv, number, area));
    planner.row("linear", std::move(params), length);
    return {};
  }
};

}  // namespace

const SegmentType& mirror_type() {
  static const Mirror type;
  return type;
}

}  // namespace volfs::lvm
