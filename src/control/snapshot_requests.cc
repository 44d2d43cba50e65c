// SPDX-License-Identifier: GPL-2.0-or-later
// Requests on snapshots, taken and merged while their origins are in use.
#include <algorithm>
#include <array>
#include <cerrno>

#include "requests.h"
#include "volfs/engine/engine.h"
#include "volfs/engine/snapshots.h"

namespace volfs::control {
namespace {

using nlohmann::json;

Result<json> create_snapshot(const RequestContext& context, const Fields& fields) {
  engine::SnapshotRequest request;
  VOLFS_TRY_ASSIGN(request.name, fields.text("snapshot"));
  VOLFS_TRY_ASSIGN(request.origin, fields.text("origin"));
  VOLFS_TRY_ASSIGN(request.store, fields.text_or("store", ""));
  VOLFS_TRY_ASSIGN(request.size, fields.positive_or("size", 0));
  VOLFS_TRY_ASSIGN(request.chunk_size, fields.positive_or("chunk_size", 0));
  VOLFS_TRY_ASSIGN(request.overflow, fields.flag_or("overflow", false));
  VOLFS_TRY(context.engine.snapshots().create(request));
  return json();
}

Result<json> remove_snapshot(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const std::string name, fields.text("snapshot"));
  VOLFS_TRY(context.engine.snapshots().remove(name));
  return json();
}

Result<json> merge(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const std::string name, fields.text("snapshot"));
  VOLFS_TRY(context.engine.snapshots().merge(name));
  return json();
}

Result<json> status_snapshot(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const std::string name, fields.text("snapshot"));
  VOLFS_TRY_ASSIGN(const engine::SnapshotState state, context.engine.snapshots().state(name));
  json out{{"snapshot", state.name}, {"origin", state.origin}, {"state", state.state}};
  if (state.total != 0) {
    out["used"] = state.used;
    out["total"] = state.total;
    out["metadata"] = state.metadata;
  }
  return out;
}

Result<json> wait_snapshot(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const std::string name, fields.text("snapshot"));
  VOLFS_TRY_ASSIGN(const uint64_t timeout_ms, fields.number_or("timeout_ms", 0));
  const TimePoint deadline =
      timeout_ms == 0 ? never : now() + Nanos(std::chrono::milliseconds(timeout_ms));
  constexpr Nanos slice = std::chrono::milliseconds(200);
  while (true) {
    auto done = context.engine.snapshots().wait(name, std::min(deadline, now() + slice));
    if (done) return json();
    if (done.error().code() != ETIMEDOUT || now() >= deadline) return fail(std::move(done.error()));
    if (context.abandoned()) return fail(Error::make(ECANCELED, "nobody waits any more"));
  }
}

constexpr std::array snapshot_rows{
    RequestType{
        "snapshot.create",
        "snapshot:name,origin:name,store:path?,size:number?,chunk_size:number?,overflow:flag?",
        create_snapshot},
    RequestType{"snapshot.remove", "snapshot:name", remove_snapshot},
    RequestType{"snapshot.merge", "snapshot:name", merge},
    RequestType{"snapshot.status", "snapshot:name", status_snapshot},
    RequestType{"snapshot.wait", "snapshot:name,timeout_ms:ms?", wait_snapshot},
};

}  // namespace

std::span<const RequestType> snapshot_requests() {
  return snapshot_rows;
}

}  // namespace volfs::control
