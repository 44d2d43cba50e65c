// SPDX-License-Identifier: GPL-2.0-or-later
// snapshot-merge <origin> <cow> <P|PO> <chunk sectors> [features]: what the snapshot shows, while
// its chunks are moved into the origin from the first resume on, unless the table is read-only; it
// takes the place of the origin's snapshot-origin. Other snapshots of the origin get their copies;
// one of them can be merged when this merge has ended. When the status says that what is allocated
// is metadata only, it can be replaced by the origin. A snapshot that is invalid is not merged:
// this is the origin then. Discards are dropped.
#include <cerrno>

#include "../snapshot/merge.h"
#include "../snapshot/origin.h"
#include "snapshot_base.h"
#include "targets.h"
#include "volfs/io_batch.h"
#include "volfs/log.h"

namespace volfs::dm {
namespace {

class MergeTarget final : public SnapshotBase {
 public:
  MergeTarget(const TargetContext& context, SnapshotArgs args)
      : SnapshotBase(snapshot_merge_type, context, std::move(args)), merge_(snapshot()) {}
  Status preresume() override;
  void resume() override;
  void presuspend() override { merge_.stop(); }
  void presuspend_undo() override { start(); }

 private:
  bool do_map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) override;
  Status do_write(uint64_t offset, IoSpan iov, Fua fua) override;
  Status do_write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) override;
  Status do_discard(uint64_t offset, uint64_t length) override;
  void start();
  void map_write(Op op, uint64_t offset, uint64_t length, Mapping& out);

  Merge merge_;
};

Status MergeTarget::preresume() {
  VOLFS_TRY(SnapshotBase::preresume());
  Status status = snapshot().set_merging(true);
  if (!status) snapshot().leave(this);  // for whoever shows it next
  return status;
}

void MergeTarget::resume() {
  snapshot().activate();
  start();
}

// A table that may not write shows the same without.
void MergeTarget::start() {
  if (read_only()) return;
  if (auto started = merge_.start(); !started) snapshot().merge_failed(started.error());
}

bool MergeTarget::do_map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) {
  if (op == Op::discard) {
    out.add(*this, offset, length);
    return true;
  }
  Snapshot::Parts parts;
  if (snapshot().refused(Op::read) != 0) {
    parts.push_back({false, offset, length});
  } else if (op == Op::read) {
    snapshot().resolve(offset, length, parts);
  } else if (!snapshot().resolve_merging_write(offset, length, Wait::no, parts, out)) {
    out.add(*this, offset, length);
    return true;
  }
  for (const auto& part : parts) {
    if (!part.in_cow && op != Op::read &&
        !snapshot().origin().writable(part.offset, part.length, &snapshot()))
      out.add(*this, part.offset, part.length);
    else if (!(part.in_cow ? cow() : origin()).map(op, part.offset, part.length, wait, out))
      return false;
  }
  return true;
}

// Where a write goes, after whatever had to be waited for.
void MergeTarget::map_write(Op op, uint64_t offset, uint64_t length, Mapping& out) {
  Snapshot::Parts parts;
  if (snapshot().refused(Op::read) != 0)
    parts.push_back({false, offset, length});
  else
    snapshot().resolve_merging_write(offset, length, Wait::yes, parts, out);
  for (const auto& part : parts)
    if (!part.in_cow) snapshot().origin().make_writable(part.offset, part.length, &snapshot());
  for (const auto& part : parts)
    (part.in_cow ? cow() : origin()).map(op, part.offset, part.length, Wait::yes, out);
}

Status MergeTarget::do_write(uint64_t offset, IoSpan iov, Fua fua) {
  Mapping mapping;
  map_write(Op::write, offset, total_length(iov), mapping);
  IoBatch batch;
  batch.transfer(Op::write, mapping, iov, fua);
  return batch.run();
}

Status MergeTarget::do_write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) {
  Mapping mapping;
  map_write(Op::write_zeroes, offset, length, mapping);
  for (const Extent& extent : mapping.extents()) {
    if (extent.kind == Extent::Kind::error) return fail_sys(extent.error, "");
    if (extent.kind == Extent::Kind::device)
      VOLFS_TRY(extent.device->write_zeroes(extent.offset, extent.length, unmap));
  }
  return {};
}

Status MergeTarget::do_discard(uint64_t, uint64_t) {
  if (!args_.discard_zeroes_cow) return fail_sys(EOPNOTSUPP, "");
  return {};
}

Result<std::unique_ptr<Target>> create_snapshot_merge(const TargetContext& context, Args args) {
  VOLFS_TRY_ASSIGN(SnapshotArgs parsed, open_snapshot(context, args));
  if (!parsed.persistent)
    return fail_invalid("store \"N\": expected P or PO: a transient snapshot cannot be merged");
  return std::make_unique<MergeTarget>(context, std::move(parsed));
}

}  // namespace

const TargetType snapshot_merge_type = {
    .name = "snapshot-merge",
    .version = {1, 5, 0},
    .create = create_snapshot_merge,
    .device_args = snapshot_device_args,
    .singleton = true,
    .looks_at_devices = true,
};

}  // namespace volfs::dm
