// SPDX-License-Identifier: GPL-2.0-or-later
#include "stack.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <unordered_map>

#include "table.h"
#include "volfs/dm/mapped_device.h"
#include "volfs/units.h"

namespace volfs::dm {
namespace {

// The height of the stack below DEVICE, remembered for each device. A height above LIMIT is
// enough to know. Descends at most LIMIT levels, which ends cycles too.
class HeightFinder {
 public:
  HeightFinder(unsigned limit, const BlockDevice* forbidden)
      : limit_(limit), forbidden_(forbidden) {}
  bool met_forbidden() const { return met_; }

  unsigned height(const BlockDevice& device, unsigned level = 1) {
    if (&device == forbidden_) met_ = true;
    if (met_ || level > limit_) return limit_ + 1;
    if (const auto known = heights_.find(&device); known != heights_.end()) return known->second;
    unsigned tallest = 0;
    device.for_each_below([&](BlockDevice& below) {
      if (tallest <= limit_) tallest = std::max(tallest, height(below, level + 1));
    });
    const unsigned sum = std::min(tallest + 1, limit_ + 1);
    heights_.emplace(&device, sum);
    return sum;
  }

 private:
  const unsigned limit_;
  const BlockDevice* const forbidden_;
  bool met_ = false;
  std::unordered_map<const BlockDevice*, unsigned> heights_;
};

}  // namespace

Status check_stack(const Table& table, const BlockDevice& self) {
  HeightFinder finder(max_stack_depth - 1, &self);
  for (const BlockDevice* below : table.below()) {
    const unsigned height = finder.height(*below);
    if (finder.met_forbidden())
      return fail(Error::make(
          ELOOP, fmt::format("device \"{}\" stands on {} itself", below->name(), self.name())));
    if (height >= max_stack_depth)
      return fail(Error::make(ELOOP, fmt::format("device \"{}\": more than {} devices on top of "
                                                 "each other",
                                                 below->name(), max_stack_depth)));
  }
  return {};
}

unsigned stack_depth(const BlockDevice& device, unsigned limit) {
  return HeightFinder(limit, nullptr).height(device);
}

}  // namespace volfs::dm
