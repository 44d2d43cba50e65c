// SPDX-License-Identifier: GPL-2.0-or-later
// What a snapshot does for the merge of itself.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <mutex>

#include "origin.h"
#include "snapshot.h"
#include "volfs/log.h"

namespace volfs::dm {

Status Snapshot::set_merging(bool merging) {
  if (merging && !persistent())
    return fail_invalid("a snapshot with a transient store (N) cannot be merged");
  if (merging && origin_->merges_another(*this))
    return fail(Error::make(
        EBUSY,
        "another snapshot of the origin is being merged: this one can be when that has ended"));
  const std::lock_guard lock(mutex_);
  merging_ = merging;
  return {};
}

void Snapshot::merge_failed(const Error& reason) {
  log_error("{}: the merge failed: {}", cow_.name(), reason.text());
  {
    const std::lock_guard lock(mutex_);
    merge_failed_ = true;
  }
  tell();
}

bool Snapshot::being_merged_locked(uint64_t offset, uint64_t length) const {
  return std::any_of(being_merged_.begin(), being_merged_.end(), [&](const Claim& claim) {
    return offset < (claim.old_chunk + claim.count) * chunk_size_ &&
           claim.old_chunk * chunk_size_ < offset + length;
  });
}

bool Snapshot::resolve_merging_write(uint64_t offset, uint64_t length, Wait wait, Parts& parts,
                                     Mapping& out) {
  const std::lock_guard lock(mutex_);
  if (being_merged_locked(offset, length)) {
    if (wait == Wait::no) return false;
    ++waiters_;
    changed_.wait(mutex_, [&] { return !being_merged_locked(offset, length); });
    --waiters_;
  }
  parts_locked(offset, length, parts);
  if (std::any_of(parts.begin(), parts.end(), [](const Part& part) { return part.in_cow; }))
    add_lease_locked(offset, offset + length, out);
  return true;
}

Status Snapshot::hold_off_writes(std::span<const Claim> claims) {
  const std::lock_guard lock(mutex_);
  for (const Claim& claim : claims)
    for (uint64_t i = 0; i < claim.count;) {
      const auto run = table_.find(claim.old_chunk + i, claim.count - i);
      if (!run.mapped || run.new_chunk != claim.new_chunk + i)
        return fail(Error::make(
            EUCLEAN, fmt::format("{}: chunk {}: recorded as chunk {}, but not "
                                 "when the store was opened",
                                 cow_.name(), claim.old_chunk + i, claim.new_chunk + i)));
      i += run.count;
    }
  being_merged_.assign(claims.begin(), claims.end());
  const uint64_t now = leases_.next_number();
  ++waiters_;
  for (const Claim& claim : claims)
    changed_.wait(mutex_, [&] {
      return !leases_.overlap(claim.old_chunk * chunk_size_,
                              (claim.old_chunk + claim.count) * chunk_size_, now);
    });
  --waiters_;
  return {};
}

void Snapshot::let_writes_go(bool merged) {
  const std::lock_guard lock(mutex_);
  for (const Claim& claim : being_merged_)
    for (uint64_t i = 0; merged && i < claim.count; ++i) table_.erase(claim.old_chunk + i);
  being_merged_.clear();
  changed_.notify_all();
}

}  // namespace volfs::dm
