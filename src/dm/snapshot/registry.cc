// SPDX-License-Identifier: GPL-2.0-or-later
#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <mutex>
#include <vector>

#include "origin.h"
#include "snapshot.h"
#include "store_format.h"
#include "volfs/dm/snapshot.h"

namespace volfs::dm {

std::shared_ptr<Origin> OriginRegistry::origin_locked(BlockDevice& device) {
  std::erase_if(origins_, [](const auto& each) { return each.second.expired(); });
  std::weak_ptr<Origin>& known = origins_[&device];
  std::shared_ptr<Origin> origin = known.lock();
  if (!origin) known = origin = std::make_shared<Origin>(device);
  return origin;
}

std::shared_ptr<Origin> OriginRegistry::origin(BlockDevice& device) {
  const std::lock_guard lock(mutex_);
  return origin_locked(device);
}

Result<std::shared_ptr<Snapshot>> OriginRegistry::open(BlockDevice& origin, BlockDevice& cow,
                                                       const SnapshotOptions& options) {
  if (&origin == &cow) return fail_invalid("the copy-on-write device cannot be the origin");
  const std::lock_guard lock(mutex_);
  std::erase_if(snapshots_, [](const auto& each) { return each.second.expired(); });
  if (const auto known = snapshots_.find(&cow); known != snapshots_.end()) {
    if (auto snapshot = known->second.lock()) {
      if (&snapshot->origin().device() != &origin)
        return fail(Error::make(EBUSY, fmt::format("{}: holds a snapshot of {}", cow.name(),
                                                   snapshot->origin().device().name())));
      return snapshot;
    }
  }
  VOLFS_TRY_ASSIGN(std::shared_ptr<Snapshot> snapshot,
                   Snapshot::open(origin_locked(origin), cow, options));
  snapshots_[&cow] = snapshot;
  return snapshot;
}

SnapshotStatus status_of(const Snapshot& snapshot) {
  return snapshot.status();
}

void for_each_difference(const Snapshot& snapshot,
                         const std::function<void(uint64_t, uint64_t)>& visit) {
  snapshot.for_each_difference(visit);
}

Result<StoreInfo> inspect_store(BlockDevice& device) {
  std::vector<std::byte> first(device.logical_block());
  VOLFS_TRY(device.read(0, first));
  DiskSnapshotHeader header;
  std::memcpy(&header, first.data(), sizeof header);
  StoreInfo info;
  if (header.magic == 0) return info;
  info.kind = header.magic == snapshot_magic ? StoreInfo::Kind::store : StoreInfo::Kind::other;
  info.valid = header.valid != 0;
  info.version = header.version;
  info.chunk_size = uint64_t{header.chunk_sectors} * sector_size;
  const bool readable = info.kind == StoreInfo::Kind::store && info.valid &&
                        check_chunk_size(info.chunk_size, device.logical_block()) &&
                        device.size() >= 2 * info.chunk_size;
  if (!readable) return info;
  VOLFS_TRY(device.read(StoreGeometry{info.chunk_size}.area_chunk(0) * info.chunk_size, first));
  DiskException exception;
  std::memcpy(&exception, first.data(), sizeof exception);
  if (exception.new_chunk == 0) return info;
  info.first_old = exception.old_chunk;
  info.first_new = exception.new_chunk;
  return info;
}

Status invalidate_store(BlockDevice& device) {
  std::vector<std::byte> first(device.logical_block());
  VOLFS_TRY(device.read(0, first));
  DiskSnapshotHeader header;
  std::memcpy(&header, first.data(), sizeof header);
  if (header.magic != snapshot_magic) return {};
  header.valid = 0;
  std::memcpy(first.data(), &header, sizeof header);
  return device.write(0, first, Fua::yes);
}

Status check_chunk_size(uint64_t bytes, uint32_t logical_block) {
  if (bytes < sector_size || bytes > max_chunk_size || !is_power_of_two(bytes))
    return fail_invalid(fmt::format("chunk size {}: expected a power of two from {} to {}",
                                    format_size(bytes), sector_size, format_size(max_chunk_size)));
  if (bytes % logical_block != 0)
    return fail_invalid(fmt::format("chunk size {}: not a multiple of the logical block size {}",
                                    format_size(bytes), logical_block));
  return {};
}

uint64_t full_store_size(uint64_t origin_size, uint64_t chunk_size) {
  const StoreGeometry geometry{chunk_size};
  const uint64_t chunks = div_round_up(origin_size, chunk_size);
  const uint64_t exact = chunks + chunks / geometry.per_area() + 2;
  // Chunks that were handed out and not recorded when the power went are not found again.
  constexpr uint64_t least_spare = 1024;
  return (exact + exact / 8 + least_spare) * chunk_size;
}

}  // namespace volfs::dm
