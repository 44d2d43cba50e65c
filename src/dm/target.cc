// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/dm/target.h"

#include <fmt/format.h>

namespace volfs::dm {

Target::Target(const TargetType& type, const TargetContext& context)
    : BlockDevice(std::string(type.name), context.length, {}, context.read_only),
      type_(type),
      start_(context.start) {}

Result<std::string> Target::message(Args args) {
  return fail_invalid(
      fmt::format("message \"{}\": target {} takes no messages", args[0], type_.name));
}

Limits Target::stacked_limits() const {
  Limits sum;
  for_each_range([&sum](BlockDevice& device, uint64_t, uint64_t) {
    sum = Limits::stack(sum, device.limits());
  });
  return sum;
}

void Target::do_for_each_below(const Visit& visit) const {
  for_each_range([&visit](BlockDevice& device, uint64_t, uint64_t) { visit(device); });
}

}  // namespace volfs::dm
