// SPDX-License-Identifier: GPL-2.0-or-later
// "striped": runs of extents, one (lvm2 then calls it linear) or several in stripes.
//     stripe_count = N, stripe_size = SECTORS (if N > 1), stripes = ["pv0", 0, ...]
// Rows: `linear DEV OFFSET`, or `striped N STRIPE_SECTORS DEV OFFSET ...`.
#include <array>

#include "lvm/planner.h"
#include "volfs/units.h"

namespace volfs::lvm {
namespace {

class Striped final : public SegmentType {
 public:
  Status read(const text::Entry& section, const Names& names, Segment& segment) const override {
    VOLFS_TRY_ASSIGN(const uint32_t count, section.number32("stripe_count"));
    if (count != 1) {
      VOLFS_TRY_ASSIGN(const uint32_t sectors, section.number32("stripe_size"));
      segment.stripe_size = sectors * sector_size;
    }
    VOLFS_TRY_ASSIGN(segment.areas, names.areas(section, "stripes", count));
    return {};
  }

  std::span<const std::string_view> keys() const override {
    static constexpr std::array<std::string_view, 3> names = {"stripe_count", "stripe_size",
                                                              "stripes"};
    return names;
  }

  void write(const VolumeGroup& group, const Segment& segment, Lines& lines) const override {
    lines.line("stripe_count = {}", segment.areas.size());
    if (segment.areas.size() > 1) lines.line("stripe_size = {}", segment.stripe_size / sector_size);
    lines.areas("stripes", group, segment.areas);
  }

  uint32_t area_length(const Segment& segment) const override {
    return segment.count / static_cast<uint32_t>(segment.areas.size());
  }

  Status check(const VolumeGroup& group, const Segment& segment) const override {
    const size_t stripes = segment.areas.size();
    if (stripes == 1) return {};
    if (segment.count % stripes != 0)
      return fail_invalid(
          fmt::format("{} extents are not a multiple of {} stripes", segment.count, stripes));
    if (segment.stripe_size == 0 || group.extent_size % segment.stripe_size != 0)
      return fail_invalid(
          fmt::format("a stripe size of {} does not divide the extent size", segment.stripe_size));
    return {};
  }

  Status plan(Planner& planner, uint32_t lv, unsigned number) const override {
    const Segment& segment = planner.group().lvs[lv].segments[number];
    std::string params;
    if (segment.areas.size() > 1)
      params = fmt::format("{} {} ", segment.areas.size(), segment.stripe_size / sector_size);
    for (unsigned i = 0; i < segment.areas.size(); i++) {
      VOLFS_TRY_ASSIGN(const std::string area, planner.area(lv, number, i));
      if (i > 0) params += ' ';
      params += area;
    }
    planner.row(segment.areas.size() == 1 ? "linear" : "striped", std::move(params),
                segment.count * planner.group().extent_size);
    return {};
  }
};

}  // namespace

const SegmentType& striped_type() {
  static const Striped type;
  return type;
}

}  // namespace volfs::lvm
