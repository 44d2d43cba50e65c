// SPDX-License-Identifier: GPL-2.0-or-later
// "error" and "zero": segments without areas.
#include "lvm/planner.h"

namespace volfs::lvm {
namespace {

class Virtual final : public SegmentType {
 public:
  explicit Virtual(std::string_view target) : target_(target) {}
  Status read(const text::Entry&, const Names&, Segment&) const override { return {}; }
  std::span<const std::string_view> keys() const override { return {}; }
  void write(const VolumeGroup&, const Segment&, Lines&) const override {}
  Status check(const VolumeGroup&, const Segment&) const override { return {}; }
  Status plan(Planner& planner, uint32_t lv, unsigned number) const override {
    const Segment& segment = planner.group().lvs[lv].segments[number];
    planner.row(target_, "", segment.count * planner.group().extent_size);
    return {};
  }

 private:
  std::string_view target_;
};

}  // namespace

const SegmentType& error_type() {
  static const Virtual type("error");
  return type;
}

const SegmentType& zero_type() {
  static const Virtual type("zero");
  return type;
}

}  // namespace volfs::lvm
