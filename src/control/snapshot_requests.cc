// SPDX-License-Identifier: GPL-2.0-or-later
// Requests on snapshots, taken and merged while their origins are in use.
#include <array>

#include "requests.h"
#include "volfs/engine/engine.h"
#include "volfs/engine/snapshots.h"

namespace volfs::control {
namespace {

using nlohmann::json;

Result<json> create(const RequestContext& context, const Fields& fields) {
  engine::SnapshotRequest request;
  VOLFS_TRY_ASSIGN(request.name, fields.text("snapshot"));
  VOLFS_TRY_ASSIGN(request.origin, fields.text("origin"));
  VOLFS_TRY_ASSIGN(request.store, fields.text_or("store", ""));
  VOLFS_TRY_ASSIGN(request.size, fields.number_or("size", 0));
  VOLFS_TRY_ASSIGN(request.chunk_size, fields.number_or("chunk_size", 0));
  VOLFS_TRY_ASSIGN(request.overflow, fields.flag_or("overflow", false));
  VOLFS_TRY(context.engine.snapshots().create(request));
  return json();
}

Result<json> remove(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const std::string name, fields.text("snapshot"));
  VOLFS_TRY(context.engine.snapshots().remove(name));
  return json();
}

Result<json> merge(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const std::string name, fields.text("snapshot"));
  VOLFS_TRY(context.engine.snapshots().merge(name));
  return json();
}

Result<json> status(const RequestContext& context, const Fields& fields) {
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

Result<json> wait(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const std::string name, fields.text("snapshot"));
  VOLFS_TRY_ASSIGN(const uint64_t timeout_ms, fields.number_or("timeout_ms", 0));
  if (timeout_ms > 86400000) return fail_invalid("'timeout_ms' is more than a day");
  const TimePoint deadline =
      timeout_ms == 0 ? never : now() + Nanos(std::chrono::milliseconds(timeout_ms));
  VOLFS_TRY(context.engine.snapshots().wait(name, deadline));
  return json();
}

constexpr std::array requests{
    RequestType{"snapshot.create", "snapshot,origin,store,size,chunk_size,overflow", create},
    RequestType{"snapshot.remove", "snapshot", remove},
    RequestType{"snapshot.merge", "snapshot", merge},
    RequestType{"snapshot.status", "snapshot", status},
    RequestType{"snapshot.wait", "snapshot,timeout_ms", wait},
};

}  // namespace

std::span<const RequestType> snapshot_requests() {
  return requests;
}

}  // namespace volfs::control
