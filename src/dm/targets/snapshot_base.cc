// SPDX-License-Identifier: GPL-2.0-or-later
#include "snapshot_base.h"

#include <fmt/format.h>

#include <array>
#include <utility>

#include "../args.h"
#include "../snapshot/store_format.h"
#include "volfs/units.h"

namespace volfs::dm {
namespace {

// As Linux reads it: what follows N, or the O of PO, does not count.
Status read_kind(const std::string& text, SnapshotArgs& out) {
  out.persistent = same_word(text.substr(0, 1), "P");
  out.overflow = out.persistent && same_word(text.substr(1, 1), "O");
  const bool known =
      out.persistent ? out.overflow || text.size() == 1 : same_word(text.substr(0, 1), "N");
  if (!known) return fail(bad_arg("store", text, "P, PO or N"));
  return {};
}

Status read_features(Args args, SnapshotArgs& out) {
  if (args.empty()) return {};
  VOLFS_TRY_ASSIGN(const uint32_t count, u32_arg("number of features", args[0], 0, 2));
  // Linux does not look at what follows them.
  if (args.size() < 1 + size_t{count})
    return fail(bad_arg("number of features", args[0],
                        fmt::format("as many features to follow, found {}", args.size() - 1)));
  for (const std::string& name : args.subspan(1, count)) {
    if (same_word(name, "discard_zeroes_cow"))
      out.discard_zeroes_cow = true;
    else if (same_word(name, "discard_passdown_origin"))
      out.discard_passdown_origin = true;
    else
      return fail(bad_arg("feature", name, "discard_zeroes_cow or discard_passdown_origin"));
  }
  if (out.discard_passdown_origin && !out.discard_zeroes_cow)
    return fail_invalid("feature discard_passdown_origin: expected discard_zeroes_cow along");
  return {};
}

}  // namespace

Result<SnapshotArgs> open_snapshot(const TargetContext& context, Args args) {
  if (args.size() < 4)
    return fail(bad_count(args,
                          "<origin> <cow> <P|PO|N> <chunk sectors> [<number of features> "
                          "<feature>...]"));
  SnapshotArgs out;
  VOLFS_TRY(read_kind(args[2], out));
  VOLFS_TRY_ASSIGN(const uint32_t chunk_sectors, u32_arg("chunk sectors", args[3]));
  if (!out.persistent && chunk_sectors == 0)
    return fail(bad_arg("chunk sectors", args[3], "the size of a chunk: no store tells it"));
  VOLFS_TRY(read_features(args.subspan(4), out));
  VOLFS_TRY_ASSIGN(out.origin, device_arg(context, args[0]));
  VOLFS_TRY_ASSIGN(out.cow, device_arg(context, args[1]));
  if (!context.origins) return fail_invalid("snapshots cannot be made here");
  VOLFS_TRY_ASSIGN(out.snapshot, context.origins->open(*out.origin, *out.cow,
                                                       {.persistent = out.persistent,
                                                        .chunk_size = chunk_sectors * sector_size,
                                                        .size = context.length,
                                                        .read_only = context.read_only}));
  if (out.snapshot->persistent() != out.persistent)
    return fail(bad_arg("store", args[2], "the kind that the device in use has"));
  return out;
}

std::vector<size_t> snapshot_device_args(Args args) {
  std::vector<size_t> indices;
  for (size_t i = 0; i < args.size() && i < 2; ++i) indices.push_back(i);
  return indices;
}

SnapshotBase::SnapshotBase(const TargetType& type, const TargetContext& context, SnapshotArgs args)
    : Target(type, context), args_(std::move(args)) {
  Limits limits = stacked_limits();
  limits.discard_granularity =
      args_.discard_zeroes_cow ? static_cast<uint32_t>(snapshot().chunk_size()) : 0;
  set_limits(limits);
  snapshot().subscribe(this, context.event);
}

SnapshotBase::~SnapshotBase() {
  snapshot().unsubscribe(this);
}

std::string SnapshotBase::table_params() const {
  std::string out = fmt::format("{} {} {} {}", device_word(origin()), device_word(cow()),
                                args_.overflow     ? "PO"
                                : args_.persistent ? "P"
                                                   : "N",
                                snapshot().chunk_size() / sector_size);
  const int features = args_.discard_zeroes_cow + args_.discard_passdown_origin;
  if (features > 0) out += fmt::format(" {}", features);
  if (args_.discard_zeroes_cow) out += " discard_zeroes_cow";
  if (args_.discard_passdown_origin) out += " discard_passdown_origin";
  return out;
}

std::string SnapshotBase::status_params() const {
  const SnapshotStatus status = snapshot().status();
  switch (status.state) {
    case SnapshotStatus::State::invalid:
      return "Invalid";
    case SnapshotStatus::State::merge_failed:
      return "Merge failed";
    case SnapshotStatus::State::overflowed:
      return "Overflow";
    case SnapshotStatus::State::active:
      break;
  }
  return fmt::format("{}/{} {}", status.allocated / sector_size, status.total / sector_size,
                     status.metadata / sector_size);
}

void SnapshotBase::for_each_range(const VisitRange& visit) const {
  visit(origin(), 0, size());
  visit(cow(), 0, cow().size());
}

Service service_with_copies(Op op, std::span<BlockDevice* const> below) {
  if (op != Op::read) return Service::blocking;
  for (const BlockDevice* device : below)
    if (device->service(op) != Service::inline_) return Service::blocking;
  return Service::inline_;
}

Service SnapshotBase::do_service(Op op) const {
  return service_with_copies(op, std::array{&origin(), &cow()});
}

}  // namespace volfs::dm
