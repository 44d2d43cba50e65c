// SPDX-License-Identifier: GPL-2.0-or-later
#include "signatures.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "volfs/backing/image.h"
#include "volfs/unique_fd.h"
#include "volfs/units.h"

namespace volfs::engine {
namespace {

constexpr uint64_t looked_at = MiB;

Status copy(BlockDevice& device, uint64_t from, uint64_t end, int to) {
  std::vector<std::byte> bytes(64 * KiB);
  for (uint64_t at = from; at < end;) {
    const std::span piece(bytes.data(), std::min<uint64_t>(bytes.size(), end - at));
    VOLFS_TRY(device.read(at, piece));
    const ssize_t put = pwrite(to, piece.data(), piece.size(), static_cast<off_t>(at));
    if (put < 0) return fail_sys(errno, "memory file");
    at += piece.size();
  }
  return {};
}

}  // namespace

Result<std::vector<Signature>> signatures_on(BlockDevice& device) {
  if (const auto* image = dynamic_cast<const FileImage*>(&device))
    return probe_signatures(image->path(), image->start(), image->size());
  const UniqueFd file(memfd_create("volfs-probe", MFD_CLOEXEC));
  if (!file || ftruncate(file.get(), static_cast<off_t>(device.size())) != 0)
    return fail_sys(errno, "memory file");
  const uint64_t block = device.logical_block();
  const uint64_t head = std::min(looked_at, device.size());
  VOLFS_TRY(copy(device, 0, round_down(head, block), file.get()));
  const uint64_t tail = device.size() - std::min(looked_at, device.size() - head);
  VOLFS_TRY(copy(device, round_down(tail, block), round_down(device.size(), block), file.get()));
  return in(device.name(), probe_signatures(fmt::format("/proc/self/fd/{}", file.get())));
}

Status wipe_signatures(BlockDevice& device) {
  constexpr int most_rounds = 64;
  for (int round = 0; round < most_rounds; ++round) {
    VOLFS_TRY_ASSIGN(const auto found, signatures_on(device));
    if (found.empty()) return {};
    const uint64_t block = std::max<uint64_t>(device.logical_block(), sector_size);
    for (const Signature& signature : found) {
      const uint64_t at = round_down(signature.offset, block);
      if (range_within(at, block, device.size())) VOLFS_TRY(device.write_zeroes(at, block));
    }
  }
  return fail(Error::make(EBUSY, device.name() + ": its signatures cannot be wiped"));
}

}  // namespace volfs::engine
