// SPDX-License-Identifier: GPL-2.0-or-later
// "snapshot": no volume, but the link between a COW store and its origin.
//     chunk_size = SECTORS, origin = "lv", cow_store = "lv" (or merging_store)
// Its rows are made by the planner, for the origin and for the COW store's LV.
#include <array>

#include "lvm/planner.h"
#include "volfs/units.h"

namespace volfs::lvm {
namespace {

class Snapshot final : public SegmentType {
 public:
  Status read(const text::Entry& section, const Names& names, Segment& segment) const override {
    VOLFS_TRY_ASSIGN(const uint32_t chunk, section.number32("chunk_size"));
    segment.chunk_size = chunk * sector_size;
    segment.merging = section.find("merging_store") != nullptr;
    if (segment.merging && section.find("cow_store") != nullptr)
      return fail(text::error_at(section, "has both a cow_store and a merging_store"));
    VOLFS_TRY_ASSIGN(segment.origin, names.lv(section, "origin"));
    VOLFS_TRY_ASSIGN(segment.cow,
                     names.lv(section, segment.merging ? "merging_store" : "cow_store"));
    return {};
  }

  std::span<const std::string_view> keys() const override {
    static constexpr std::array<std::string_view, 4> names = {"chunk_size", "origin", "cow_store",
                                                              "merging_store"};
    return names;
  }

  void write(const VolumeGroup& group, const Segment& segment, Lines& lines) const override {
    lines.line("chunk_size = {}", segment.chunk_size / sector_size);
    lines.line("origin = {}", text::quote(group.lvs[*segment.origin].name));
    lines.line("{} = {}", segment.merging ? "merging_store" : "cow_store",
               text::quote(group.lvs[*segment.cow].name));
  }

  Status check(const VolumeGroup& group, const Segment& segment) const override {
    if (segment.origin == segment.cow)
      return fail_invalid("the snapshot's COW store is its origin");
    if (!is_power_of_two(segment.chunk_size) || segment.chunk_size > 512 * KiB)
      return fail_invalid(
          fmt::format("a chunk size of {} is not a power of two up to 512KiB", segment.chunk_size));
    if (group.lvs[*segment.origin].extents() < segment.count)
      return fail_invalid("the snapshot is larger than its origin");
    return {};
  }

  Status plan(Planner&, uint32_t, unsigned) const override {
    return fail_invalid("a snapshot's link is no device");
  }
};

}  // namespace

const SegmentType& snapshot_type() {
  static const Snapshot type;
  return type;
}

}  // namespace volfs::lvm
