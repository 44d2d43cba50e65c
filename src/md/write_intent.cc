// SPDX-License-Identifier: GPL-2.0-or-later
#include "write_intent.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "volfs/units.h"

namespace volfs::md {
namespace {

constexpr uint64_t page_size = 4096;
constexpr uint64_t bits_per_counter_page = 2048;  // how mdstat counts pages

}  // namespace

WriteIntent::WriteIntent(const BitmapSuperblock& superblock, uint64_t room,
                         std::vector<std::byte> image, Write write, Fail fail)
    : superblock_(superblock),
      geometry_(superblock),
      room_(room),
      write_(std::move(write)),
      fail_(std::move(fail)),
      image_(std::move(image)),
      bits_(geometry_.bits()) {
  image_.resize(round_up(geometry_.disk_size(), sector_size));
  dirty_pages_.resize(div_round_up(image_.size(), page_size));
}

bool WriteIntent::is_set(uint64_t bit) const {
  return (std::to_integer<unsigned>(image_[BitmapGeometry::byte_of(bit)]) &
          BitmapGeometry::mask_of(bit)) != 0;
}

void WriteIntent::touch(uint64_t byte) {
  dirty_pages_[byte / page_size] = true;
  any_dirty_ = true;
  ++wanted_;
}

void WriteIntent::set(uint64_t bit, bool value) {
  const auto mask = static_cast<std::byte>(BitmapGeometry::mask_of(bit));
  std::byte& byte = image_[BitmapGeometry::byte_of(bit)];
  byte = value ? byte | mask : byte & ~mask;
  touch(BitmapGeometry::byte_of(bit));
}

// Writes the pages that have changed; the lock is released meanwhile. Returns the generation that
// is then on disk.
uint64_t WriteIntent::sync(std::unique_lock<Mutex>& lock, Outcome& outcome) {
  changed_.wait(mutex_, [this] { return !writing_; });
  const uint64_t generation = wanted_;
  if (!any_dirty_) return generation;
  writing_ = true;
  any_dirty_ = false;
  std::vector<std::pair<uint64_t, std::vector<std::byte>>> pages;
  const auto super = encode_bitmap_superblock(superblock_);
  std::memcpy(image_.data(), super.data(), super.size());
  for (size_t page = 0; page < dirty_pages_.size(); ++page) {
    if (!dirty_pages_[page]) continue;
    dirty_pages_[page] = false;
    const auto begin = static_cast<std::ptrdiff_t>(page * page_size);
    const auto size = static_cast<std::ptrdiff_t>(std::min<uint64_t>(
        {page_size, image_.size() - page * page_size, room_ - page * page_size}));
    pages.emplace_back(page * page_size, std::vector<std::byte>(image_.begin() + begin,
                                                                image_.begin() + begin + size));
  }
  lock.unlock();
  std::vector<uint64_t> again;
  for (const auto& [offset, bytes] : pages) {
    const Outcome one = write_(offset, bytes);
    outcome.failed.insert(outcome.failed.end(), one.failed.begin(), one.failed.end());
    if (one.no_room == 0) continue;
    outcome.no_room = one.no_room;
    again.push_back(offset / page_size);
  }
  lock.lock();
  for (const uint64_t page : again) dirty_pages_[page] = any_dirty_ = true;
  writing_ = false;
  changed_.notify_all();
  return again.empty() ? generation : durable_;
}

Status WriteIntent::start(uint64_t begin, uint64_t end) {
  std::unique_lock lock(mutex_);
  const uint64_t last = std::min(geometry_.bit_of(end - 1), geometry_.bits() - 1);
  for (uint64_t bit = geometry_.bit_of(begin); bit <= last; ++bit) {
    ++bits_[bit].writers;
    bits_[bit].idle = false;
    if (!is_set(bit)) set(bit, true);
  }
  const uint64_t wanted = wanted_;
  while (durable_ < wanted) {
    Outcome outcome;
    const uint64_t written = sync(lock, outcome);
    if (!outcome.failed.empty()) {
      lock.unlock();
      const bool survived = fail_(outcome.failed);
      lock.lock();
      if (!survived) return fail_sys(EIO, "");
    }
    if (outcome.no_room != 0) return fail_sys(outcome.no_room, "bitmap");
    durable_ = std::max(durable_, written);
  }
  return {};
}

void WriteIntent::end(uint64_t begin, uint64_t end, bool redundant) {
  const std::lock_guard lock(mutex_);
  const uint64_t last = std::min(geometry_.bit_of(end - 1), geometry_.bits() - 1);
  for (uint64_t bit = geometry_.bit_of(begin); bit <= last; ++bit) {
    --bits_[bit].writers;
    if (!redundant) bits_[bit].needed = true;
  }
}

bool WriteIntent::needed(uint64_t begin, uint64_t end, bool any) const {
  const std::lock_guard lock(mutex_);
  const uint64_t last = std::min(geometry_.bit_of(end - 1), geometry_.bits() - 1);
  for (uint64_t bit = geometry_.bit_of(begin); bit <= last; ++bit)
    if (bits_[bit].needed || (any && is_set(bit))) return true;
  return false;
}

void WriteIntent::need(uint64_t begin, uint64_t end) {
  const std::lock_guard lock(mutex_);
  const uint64_t last = std::min(geometry_.bit_of(end - 1), geometry_.bits() - 1);
  for (uint64_t bit = geometry_.bit_of(begin); bit <= last; ++bit) bits_[bit].needed = true;
}

void WriteIntent::need_too(std::span<const std::byte> image) {
  const std::lock_guard lock(mutex_);
  for (uint64_t bit = 0; bit < bits_.size(); ++bit) {
    const uint64_t byte = BitmapGeometry::byte_of(bit);
    if (byte >= image.size()) break;
    if ((std::to_integer<unsigned>(image[byte]) & BitmapGeometry::mask_of(bit)) == 0) continue;
    bits_[bit].needed = true;
    if (!is_set(bit)) set(bit, true);
  }
}

void WriteIntent::need_all_set() {
  const std::lock_guard lock(mutex_);
  for (uint64_t bit = 0; bit < bits_.size(); ++bit) bits_[bit].needed = is_set(bit);
}

void WriteIntent::need_everything() {
  const std::lock_guard lock(mutex_);
  for (uint64_t bit = 0; bit < bits_.size(); ++bit) {
    bits_[bit].needed = true;
    if (!is_set(bit)) set(bit, true);
  }
}

void WriteIntent::need_nothing() {
  const std::lock_guard lock(mutex_);
  for (Bit& bit : bits_) bit.needed = false;
}

void WriteIntent::synced(uint64_t begin, uint64_t end) {
  const std::lock_guard lock(mutex_);
  for (uint64_t bit = geometry_.bit_of(begin); bit < bits_.size(); ++bit) {
    if (geometry_.end_of(bit) > end) break;
    if (geometry_.start_of(bit) >= begin) bits_[bit].needed = false;
  }
}

bool WriteIntent::sweep(bool now, const Settle& settle) {
  std::unique_lock lock(mutex_);
  std::vector<uint64_t> ready;
  bool more = false;
  for (uint64_t bit = 0; bit < bits_.size(); ++bit) {
    if (!is_set(bit)) continue;
    if (bits_[bit].writers > 0 || bits_[bit].needed) {
      more = more || bits_[bit].writers > 0;
    } else if (now || bits_[bit].idle) {
      ready.push_back(bit);
    } else {
      bits_[bit].idle = true;
      more = true;
    }
  }
  if (ready.empty()) return more;
  for (const uint64_t bit : ready) bits_[bit].idle = true;
  lock.unlock();
  // A member that is lost from here on has all that the bits stood for.
  const auto events = settle();
  if (!events) return true;
  lock.lock();
  for (const uint64_t bit : ready) {
    // Written again meanwhile: start() took the mark away.
    const Bit& state = bits_[bit];
    if (state.idle && state.writers == 0 && !state.needed && is_set(bit)) set(bit, false);
  }
  if (superblock_.events_cleared < *events) {
    superblock_.events_cleared = *events;
    touch(0);
  }
  Outcome outcome;
  const uint64_t written = sync(lock, outcome);
  lock.unlock();
  if (!outcome.failed.empty()) fail_(outcome.failed);
  lock.lock();
  durable_ = std::max(durable_, written);
  return more;
}

WriteIntent::Outcome WriteIntent::write_events(uint64_t events) {
  std::unique_lock lock(mutex_);
  superblock_.events = events;
  superblock_.events_cleared = std::min(superblock_.events_cleared, events);
  touch(0);
  Outcome outcome;
  const uint64_t written = sync(lock, outcome);
  durable_ = std::max(durable_, written);
  return outcome;
}

uint64_t WriteIntent::events_cleared() const {
  const std::lock_guard lock(mutex_);
  return superblock_.events_cleared;
}

WriteIntent::Usage WriteIntent::usage() const {
  const std::lock_guard lock(mutex_);
  Usage usage{div_round_up(bits_.size(), bits_per_counter_page), 0, 0};
  uint64_t counted = UINT64_MAX;
  for (uint64_t bit = 0; bit < bits_.size(); ++bit) {
    if (!is_set(bit) && bits_[bit].writers == 0) continue;
    ++usage.dirty_bits;
    if (bit / bits_per_counter_page == counted) continue;
    counted = bit / bits_per_counter_page;
    ++usage.used_pages;
  }
  return usage;
}

std::vector<std::byte> WriteIntent::image() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::byte> copy = image_;
  const auto super = encode_bitmap_superblock(superblock_);
  std::memcpy(copy.data(), super.data(), super.size());
  return copy;
}

}  // namespace volfs::md
