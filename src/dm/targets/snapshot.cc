// SPDX-License-Identifier: GPL-2.0-or-later
// snapshot <origin> <cow> <P|PO|N> <chunk sectors> [<number of features> <feature>...]: what the
// origin held when the snapshot was resumed for the first time, and what was written to the
// snapshot since. A discard zeroes the chunks that the snapshot has of its own (feature
// discard_zeroes_cow) and is passed to the origin, too (discard_passdown_origin), without a copy.
#include <cerrno>

#include "snapshot_base.h"
#include "targets.h"

namespace volfs::dm {
namespace {

class SnapshotTarget final : public SnapshotBase {
 public:
  SnapshotTarget(const TargetContext& context, SnapshotArgs args)
      : SnapshotBase(snapshot_type, context, std::move(args)) {}
  Status preresume() override;
  void resume() override;
  bool flush_is_plain() const override { return false; }

 private:
  bool do_map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) override;
  Status do_write(uint64_t offset, IoSpan iov, Fua fua) override;
  Status do_write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) override;
  Status do_discard(uint64_t offset, uint64_t length) override;
  // What the snapshot shows of the origin was not written to it.
  Status do_flush() override { return cow().flush(); }
};

Status SnapshotTarget::preresume() {
  VOLFS_TRY(SnapshotBase::preresume());
  return snapshot().set_merging(false);
}

void SnapshotTarget::resume() {
  snapshot().set_size(size());
  snapshot().activate();
}

bool SnapshotTarget::do_map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) {
  if (const int error = snapshot().refused(op)) {
    out.add_error(error, length);
    return true;
  }
  if (op == Op::discard) {
    out.add(*this, offset, length);
    return true;
  }
  Snapshot::Parts parts;
  if (op == Op::read)
    snapshot().resolve_read(offset, length, parts, out);
  else
    snapshot().resolve(offset, length, parts);
  for (const auto& part : parts) {
    if (!part.in_cow && op != Op::read)
      out.add(*this, part.offset, part.length);
    else if (!(part.in_cow ? cow() : origin()).map(op, part.offset, part.length, wait, out))
      return false;
  }
  return true;
}

Status SnapshotTarget::do_write(uint64_t offset, IoSpan iov, Fua fua) {
  return snapshot().write(offset, total_length(iov), &iov, fua, args_.overflow);
}

Status SnapshotTarget::do_write_zeroes(uint64_t offset, uint64_t length, Unmap) {
  return snapshot().write(offset, length, nullptr, Fua::no, args_.overflow);
}

Status SnapshotTarget::do_discard(uint64_t offset, uint64_t length) {
  if (!args_.discard_zeroes_cow) return fail_sys(EOPNOTSUPP, "");
  if (const int error = snapshot().refused(Op::discard)) return fail_sys(error, "");
  VOLFS_TRY(snapshot().discard(offset, length));
  if (!args_.discard_passdown_origin) return {};
  Status passed = origin().discard(offset, length);
  if (!passed && passed.error().code() == EOPNOTSUPP) return {};
  return passed;
}

Result<std::unique_ptr<Target>> create_snapshot(const TargetContext& context, Args args) {
  VOLFS_TRY_ASSIGN(SnapshotArgs parsed, open_snapshot(context, args));
  return std::make_unique<SnapshotTarget>(context, std::move(parsed));
}

}  // namespace

const TargetType snapshot_type = {
    .name = "snapshot",
    .version = {1, 16, 0},
    .create = create_snapshot,
    .device_args = snapshot_device_args,
    .singleton = true,
    .looks_at_devices = true,
};

}  // namespace volfs::dm
