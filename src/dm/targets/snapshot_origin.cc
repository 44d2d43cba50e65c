// SPDX-License-Identifier: GPL-2.0-or-later
// snapshot-origin <device>: the device, each of whose chunks is copied to the snapshots that
// still share it before it is overwritten. Discards are not supported: they would have to copy.
#include <array>
#include <cerrno>

#include "../args.h"
#include "../snapshot/origin.h"
#include "snapshot_base.h"
#include "targets.h"
#include "volfs/dm/snapshot.h"
#include "volfs/io_batch.h"

namespace volfs::dm {
namespace {

class OriginTarget final : public Target {
 public:
  OriginTarget(const TargetContext& context, BlockDevice& device);
  std::string table_params() const override { return device_word(device_); }
  void for_each_range(const VisitRange& visit) const override { visit(device_, 0, size()); }

 private:
  bool do_map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) override;
  Status do_write(uint64_t offset, IoSpan iov, Fua fua) override;
  Status do_write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) override;
  Status do_discard(uint64_t, uint64_t) override { return fail_sys(EOPNOTSUPP, ""); }
  Service do_service(Op op) const override { return service_with_copies(op, std::array{&device_}); }

  BlockDevice& device_;
  const std::shared_ptr<Origin> origin_;
};

OriginTarget::OriginTarget(const TargetContext& context, BlockDevice& device)
    : Target(snapshot_origin_type, context),
      device_(device),
      origin_(context.origins->origin(device)) {
  Limits limits = stacked_limits();
  limits.discard_granularity = 0;
  set_limits(limits);
}

bool OriginTarget::do_map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) {
  if (op == Op::discard) {
    out.add_error(EOPNOTSUPP, length);
    return true;
  }
  if (op == Op::read || origin_->writable(offset, length, nullptr))
    return device_.map(op, offset, length, wait, out);
  out.add(*this, offset, length);
  return true;
}

Status OriginTarget::do_write(uint64_t offset, IoSpan iov, Fua fua) {
  const uint64_t length = total_length(iov);
  origin_->make_writable(offset, length, nullptr);
  Mapping mapping;
  device_.map(Op::write, offset, length, Wait::yes, mapping);
  IoBatch batch;
  batch.transfer(Op::write, mapping, iov, fua);
  return batch.run();
}

Status OriginTarget::do_write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) {
  origin_->make_writable(offset, length, nullptr);
  return device_.write_zeroes(offset, length, unmap);
}

Result<std::unique_ptr<Target>> create_snapshot_origin(const TargetContext& context, Args args) {
  if (args.size() != 1) return fail(bad_count(args, "<device>"));
  VOLFS_TRY_ASSIGN(BlockDevice* const device, device_arg(context, args[0]));
  if (!context.origins) return fail_invalid("snapshots cannot be made here");
  return std::make_unique<OriginTarget>(context, *device);
}

std::vector<size_t> origin_devices(Args args) {
  return args.empty() ? std::vector<size_t>{} : std::vector<size_t>{0};
}

}  // namespace

const TargetType snapshot_origin_type = {
    .name = "snapshot-origin",
    .version = {1, 9, 0},
    .create = create_snapshot_origin,
    .device_args = origin_devices,
    .singleton = true,
    .looks_at_devices = true,
};

}  // namespace volfs::dm
