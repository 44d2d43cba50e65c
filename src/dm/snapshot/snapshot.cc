// SPDX-License-Identifier: GPL-2.0-or-later
#include "snapshot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <mutex>

#include "origin.h"
#include "persistent_store.h"
#include "transient_store.h"
#include "volfs/log.h"

namespace volfs::dm {

std::vector<Exception> exceptions_of(std::span<const Snapshot::Claim> claims) {
  std::vector<Exception> exceptions;
  for (const Snapshot::Claim& claim : claims)
    for (uint64_t i = 0; i < claim.count; ++i)
      exceptions.push_back({claim.old_chunk + i, claim.new_chunk + i});
  return exceptions;
}

Snapshot::Snapshot(std::shared_ptr<Origin> origin, BlockDevice& cow)
    : origin_(std::move(origin)), cow_(cow) {}

Result<std::shared_ptr<Snapshot>> Snapshot::open(std::shared_ptr<Origin> origin, BlockDevice& cow,
                                                 const SnapshotOptions& options) {
  BlockDevice& base = origin->device();
  std::shared_ptr<Snapshot> snapshot(new Snapshot(std::move(origin), cow));
  if (options.persistent) {
    VOLFS_TRY_ASSIGN(
        PersistentStore::Loaded loaded,
        PersistentStore::open(cow, options.chunk_size, base.size(), base.logical_block(),
                              options.read_only ? PersistentStore::IfBlank::as_empty
                                                : PersistentStore::IfBlank::initialise,
                              [&](const Exception& e) { return snapshot->table_.insert(e); }));
    if (!loaded.valid) snapshot->validity_ = Validity::invalid;
    snapshot->store_ = std::move(loaded.store);
  } else {
    const uint32_t block = std::max(cow.logical_block(), base.logical_block());
    const uint64_t chunk_size = options.chunk_size != 0
                                    ? options.chunk_size
                                    : std::max<uint64_t>(default_chunk_size, block);
    VOLFS_TRY(check_chunk_size(chunk_size, block));
    snapshot->store_ = std::make_unique<TransientStore>(cow, chunk_size);
  }
  snapshot->chunk_size_ = snapshot->store_->chunk_size();
  snapshot->keep_ = options.keep;
  snapshot->size_ = options.size != 0 ? options.size : base.size();
  return snapshot;
}

Snapshot::~Snapshot() {
  if (attached_) origin_->detach(*this);
}

void Snapshot::activate() {
  {
    const std::lock_guard lock(mutex_);
    if (std::exchange(attached_, true)) return;
  }
  origin_->attach(*this);
}

Status Snapshot::take(const void* user) {
  const std::lock_guard lock(mutex_);
  if (user_ && user_ != user)
    return fail(Error::make(EBUSY, fmt::format("{}: another device shows this snapshot: suspend it "
                                               "first",
                                               cow_.name())));
  user_ = user;
  return {};
}

void Snapshot::leave(const void* user) {
  const std::lock_guard lock(mutex_);
  if (user_ == user) user_ = nullptr;
}

void Snapshot::set_size(uint64_t size) {
  const std::lock_guard lock(mutex_);
  size_ = size;
}

SnapshotStatus Snapshot::status() const {
  SnapshotStatus status;
  const ExceptionStore::Usage usage = store_->usage();
  const std::lock_guard lock(mutex_);
  status.allocated = usage.allocated;
  status.total = usage.total;
  status.metadata = usage.metadata;
  status.chunk_size = chunk_size_;
  status.exceptions = table_.chunks();
  status.memory = table_.memory();
  status.merging = merging_;
  if (validity_ != Validity::valid)
    status.state = SnapshotStatus::State::invalid;
  else if (merge_failed_)
    status.state = SnapshotStatus::State::merge_failed;
  else if (overflowed_ &&
           !(merging_ && table_.chunks() == 0))  // merged to its end it has room again
    status.state = SnapshotStatus::State::overflowed;
  return status;
}

void Snapshot::for_each_difference(const std::function<void(uint64_t, uint64_t)>& visit) const {
  const std::lock_guard lock(mutex_);
  table_.for_each([&](const Exception& first, uint64_t count) {
    visit(first.old_chunk * chunk_size_, count * chunk_size_);
  });
}

void Snapshot::subscribe(const void* key, std::function<void()> event) {
  const std::lock_guard lock(subscribers_mutex_);
  subscribers_.emplace_back(key, std::move(event));
}

void Snapshot::unsubscribe(const void* key) {
  const std::lock_guard lock(subscribers_mutex_);
  std::erase_if(subscribers_, [key](const auto& each) { return each.first == key; });
}

void Snapshot::tell() {
  const std::lock_guard lock(subscribers_mutex_);
  for (const auto& [key, event] : subscribers_) event();
}

int Snapshot::refused(Op op) const {
  const std::lock_guard lock(mutex_);
  if (validity_ != Validity::valid) return EIO;
  return op != Op::read && overflowed_ ? EIO : 0;
}

void Snapshot::parts_locked(uint64_t offset, uint64_t length, Parts& parts) const {
  while (length > 0) {
    const uint64_t chunk = chunk_of(offset);
    const uint64_t within = offset % chunk_size_;
    const auto run = table_.find(chunk, div_round_up(within + length, chunk_size_));
    const uint64_t here = std::min(length, run.count * chunk_size_ - within);
    const uint64_t at = run.mapped ? run.new_chunk * chunk_size_ + within : offset;
    Part* last = parts.empty() ? nullptr : &parts.back();
    if (last && last->in_cow == run.mapped && last->offset + last->length == at)
      last->length += here;
    else
      parts.push_back({run.mapped, at, here});
    offset += here;
    length -= here;
  }
}

void Snapshot::add_lease_locked(uint64_t begin, uint64_t end, Mapping& out) {
  out.hold(*this, leases_.add(begin, end));
}

void Snapshot::release(uint64_t lease, uint64_t) {
  const std::lock_guard lock(mutex_);
  leases_.remove(lease);
  if (waiters_ > 0) changed_.notify_all();
}

void Snapshot::resolve_read(uint64_t offset, uint64_t length, Parts& parts, Mapping& out) {
  const std::lock_guard lock(mutex_);
  parts_locked(offset, length, parts);
  uint64_t begin = UINT64_MAX, end = 0;
  for (const Part& part : parts) {
    if (part.in_cow) continue;
    begin = std::min(begin, part.offset);
    end = std::max(end, part.offset + part.length);
  }
  if (begin < end) add_lease_locked(begin, end, out);
}

void Snapshot::resolve(uint64_t offset, uint64_t length, Parts& parts) const {
  const std::lock_guard lock(mutex_);
  parts_locked(offset, length, parts);
}

bool Snapshot::shares(uint64_t begin, uint64_t end) const {
  const std::lock_guard lock(mutex_);
  if (validity_ == Validity::invalid) return false;
  if (validity_ == Validity::dropping) return true;
  if (leases_.overlap(begin, end, leases_.next_number())) return true;
  if (merging_) return false;
  end = std::min(end, size_);
  for (uint64_t chunk = chunk_of(begin); chunk * chunk_size_ < end;) {
    const auto run = table_.find(chunk, div_round_up(end, chunk_size_) - chunk);
    if (!run.mapped) return true;
    chunk += run.count;
  }
  return false;
}

bool Snapshot::claim(std::span<const Range> ranges, std::vector<Claim>& claims) {
  const std::lock_guard lock(mutex_);
  changed_.wait(mutex_, [this] { return validity_ != Validity::dropping; });
  if (validity_ != Validity::valid || merging_) return true;
  return claim_locked(ranges, claims);
}

bool Snapshot::claim_locked(std::span<const Range> ranges, std::vector<Claim>& claims) {
  uint64_t next = 0;  // ranges may share a chunk
  for (const Range& range : ranges) {
    const uint64_t first = std::max(next, chunk_of(range.begin));
    const uint64_t end = div_round_up(std::min(range.end, size_), chunk_size_);
    if (first < end && !claim_chunks_locked(first, end, claims)) {
      give_back(claims);
      claims.clear();
      return false;
    }
    next = std::max(next, end);
  }
  return true;
}

bool Snapshot::claim_chunks_locked(uint64_t first, uint64_t end, std::vector<Claim>& claims) {
  for (uint64_t chunk = first; chunk < end;) {
    const auto run = table_.find(chunk, end - chunk);
    for (uint64_t i = 0; !run.mapped && i < run.count; ++i) {
      const auto place = store_->allocate();
      if (!place) return false;
      Claim* last = claims.empty() ? nullptr : &claims.back();
      if (last && last->old_chunk + last->count == chunk + i &&
          last->new_chunk + last->count == *place)
        ++last->count;
      else
        claims.push_back({chunk + i, *place, 1});
    }
    chunk += run.count;
  }
  return true;
}

void Snapshot::give_back(std::span<const Claim> claims) {
  for (const Claim& claim : claims) store_->give_back(claim.new_chunk, claim.count);
}

void Snapshot::publish(std::span<const Claim> claims) {
  const std::lock_guard lock(mutex_);
  if (validity_ != Validity::valid) return;
  for (const Claim& claim : claims)
    for (uint64_t i = 0; i < claim.count; ++i) {
      const bool fresh = table_.insert({claim.old_chunk + i, claim.new_chunk + i});
      assert(fresh);
      (void)fresh;
    }
}

void Snapshot::wait_for_reads(uint64_t begin, uint64_t end) {
  const std::lock_guard lock(mutex_);
  const uint64_t now = leases_.next_number();
  ++waiters_;
  changed_.wait(mutex_, [&] { return !leases_.overlap(begin, end, now); });
  --waiters_;
}

void Snapshot::invalidate(const Error& reason) {
  {
    const std::lock_guard lock(mutex_);
    changed_.wait(mutex_, [this] { return validity_ != Validity::dropping; });
    if (validity_ == Validity::invalid) return;
    validity_ = Validity::dropping;
  }
  log_error("{}: the snapshot becomes invalid: {}", cow_.name(), reason.text());
  if (auto dropped = store_->drop(); !dropped)
    log_error("{}: cannot be marked invalid: {}", cow_.name(), dropped.error().text());
  {
    const std::lock_guard lock(mutex_);
    validity_ = Validity::invalid;
    changed_.notify_all();
  }
  tell();
}

}  // namespace volfs::dm
