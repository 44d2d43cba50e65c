// SPDX-License-Identifier: GPL-2.0-or-later
// error: all I/O fails. The kernel takes any arguments, uses <device> <start sector> for zoned
// devices only, and prints none; so do we.
#include <cerrno>

#include "targets.h"

namespace volfs::dm {
namespace {

class AlwaysError final : public Target {
 public:
  explicit AlwaysError(const TargetContext& context) : Target(error_type, context) {}
  std::string table_params() const override { return {}; }
  void for_each_range(const VisitRange&) const override {}

 private:
  bool do_map(Op, uint64_t, uint64_t length, Wait, Mapping& out) override {
    out.add_error(EIO, length);
    return true;
  }
};

Result<std::unique_ptr<Target>> create_error(const TargetContext& context, Args) {
  return std::make_unique<AlwaysError>(context);
}

std::vector<size_t> error_devices(Args) {
  return {};
}

}  // namespace

const TargetType error_type = {
    .name = "error",
    .version = {1, 7, 0},
    .create = create_error,
    .device_args = error_devices,
};

}  // namespace volfs::dm
