// SPDX-License-Identifier: GPL-2.0-or-later
// zero: reads as zeros, drops what is written. No arguments.
#include "../args.h"
#include "targets.h"

namespace volfs::dm {
namespace {

class Zero final : public Target {
 public:
  explicit Zero(const TargetContext& context) : Target(zero_type, context) {}
  std::string table_params() const override { return {}; }
  void for_each_range(const VisitRange&) const override {}

 private:
  bool do_map(Op, uint64_t, uint64_t length, Wait, Mapping& out) override {
    out.add_zero(length);
    return true;
  }
};

Result<std::unique_ptr<Target>> create_zero(const TargetContext& context, Args args) {
  if (!args.empty()) return fail(bad_count(args, "none"));
  return std::make_unique<Zero>(context);
}

std::vector<size_t> zero_devices(Args) {
  return {};
}

}  // namespace

const TargetType zero_type = {
    .name = "zero",
    .version = {1, 2, 0},
    .create = create_zero,
    .device_args = zero_devices,
};

}  // namespace volfs::dm
