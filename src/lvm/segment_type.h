// SPDX-License-Identifier: GPL-2.0-or-later
// What differs between the kinds of segments: their fields in the text, and the device-mapper
// rows they become. One explicit list of them in segment_types.cc.
#pragma once

#include <functional>
#include <span>
#include <string_view>
#include <unordered_map>

#include "lvm/lines.h"
#include "volfs/lvm/model.h"

namespace volfs::lvm {

class Planner;

// Names of a group while its text is read.
struct Names {
  std::unordered_map<std::string_view, uint32_t> pvs, lvs;

  Result<uint32_t> lv(const text::Entry& segment, std::string_view key) const;
  // `name = ["pv0", 5, "lv", 0]` of COUNT pairs.
  Result<std::vector<Area>> areas(const text::Entry& segment, std::string_view name,
                                  uint32_t count) const;
};

class SegmentType {
 public:
  virtual ~SegmentType() = default;

  // Reads what is special to the type. Common fields are there already.
  virtual Status read(const text::Entry& section, const Names& names, Segment& segment) const = 0;
  // The entries read() understands, beyond the common ones.
  virtual std::span<const std::string_view> keys() const = 0;
  virtual void write(const VolumeGroup& group, const Segment& segment, Lines& lines) const = 0;
  // How many extents each area has.
  virtual uint32_t area_length(const Segment& segment) const { return segment.count; }
  virtual Status check(const VolumeGroup& group, const Segment& segment) const = 0;
  // Adds the rows of this segment, and plans what they stand on. NUMBER counts from 0.
  virtual Status plan(Planner& planner, uint32_t lv, unsigned number) const = 0;
};

// By its name in the text ("raid5_ls"); null if volfs does not work with it.
const SegmentType* find_segment_type(std::string_view name);
// Whether lvm2 has a type of this name that volfs knows of and does not work with.
bool recognised_segment_type(std::string_view name);

const SegmentType& striped_type();
const SegmentType& mirror_type();
const SegmentType& snapshot_type();
const SegmentType& error_type();
const SegmentType& zero_type();

// The RAID names of lvm2 and what they need.
struct RaidKind {
  std::string_view name;    // in the text
  std::string_view target;  // in the table
  unsigned parity;          // devices that may fail; raid1 and raid10 count otherwise
  unsigned least;           // devices it must have
};
std::span<const RaidKind> raid_kinds();
const RaidKind* find_raid_kind(std::string_view name);
const SegmentType& raid_type(const RaidKind& kind);

}  // namespace volfs::lvm
