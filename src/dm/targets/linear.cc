// SPDX-License-Identifier: GPL-2.0-or-later
// linear <device> <start sector>: a contiguous range of another device.
#include <fmt/format.h>

#include "../args.h"
#include "targets.h"
#include "volfs/units.h"

namespace volfs::dm {
namespace {

class Linear final : public Target {
 public:
  Linear(const TargetContext& context, BlockDevice& below, uint64_t offset)
      : Target(linear_type, context), below_(below), offset_(offset) {
    inherit_limits();
  }
  std::string table_params() const override {
    return fmt::format("{} {}", device_word(below_), offset_ / sector_size);
  }
  void for_each_range(const VisitRange& visit) const override { visit(below_, offset_, size()); }

 private:
  bool do_map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) override {
    return below_.map(op, offset_ + offset, length, wait, out);
  }

  BlockDevice& below_;
  const uint64_t offset_;
};

Result<std::unique_ptr<Target>> create_linear(const TargetContext& context, Args args) {
  if (args.size() != 2) return fail(bad_count(args, "<device> <start sector>"));
  VOLFS_TRY_ASSIGN(const uint64_t offset, sector_arg("start sector", args[1]));
  VOLFS_TRY_ASSIGN(BlockDevice* const below, device_arg(context, args[0]));
  return std::make_unique<Linear>(context, *below, offset);
}

std::vector<size_t> linear_devices(Args) {
  return {0};
}

}  // namespace

const TargetType linear_type = {
    .name = "linear",
    .version = {1, 5, 0},
    .create = create_linear,
    .device_args = linear_devices,
};

}  // namespace volfs::dm
