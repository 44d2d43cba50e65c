// SPDX-License-Identifier: GPL-2.0-or-later
#include "support/memory_device.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <utility>

namespace volfs::test {
namespace {

// Calls VISIT(page index, offset in the page, length) for each page of a range.
template <class Visit>
void for_each_page(uint64_t offset, uint64_t length, Visit visit) {
  while (length > 0) {
    const uint64_t within = offset % MemoryDevice::page_size;
    const uint64_t part = std::min(length, MemoryDevice::page_size - within);
    visit(offset / MemoryDevice::page_size, within, part);
    offset += part;
    length -= part;
  }
}

Limits with_discard(Limits limits, MemoryDevice::Discard discard) {
  if (discard == MemoryDevice::Discard::unsupported) limits.discard_granularity = 0;
  return limits;
}

}  // namespace

MemoryDevice::MemoryDevice(std::string name, uint64_t size, const Options& options)
    : BlockDevice(std::move(name), size, with_discard(options.limits, options.discard),
                  options.read_only),
      discard_(options.discard) {}
MemoryDevice::~MemoryDevice() = default;

void MemoryDevice::load(uint64_t offset, std::span<std::byte> to) const {
  std::byte* out = to.data();
  for_each_page(offset, to.size(), [&](uint64_t index, uint64_t within, uint64_t part) {
    const auto page = pages_.find(index);
    if (page == pages_.end())
      std::memset(out, 0, part);
    else
      std::memcpy(out, page->second->data() + within, part);
    out += part;
  });
}

std::vector<std::byte> MemoryDevice::peek(uint64_t offset, uint64_t length) const {
  std::vector<std::byte> bytes(length);
  load(offset, bytes);
  return bytes;
}

void MemoryDevice::poke(uint64_t offset, std::span<const std::byte> bytes) {
  const std::byte* in = bytes.data();
  for_each_page(offset, bytes.size(), [&](uint64_t index, uint64_t within, uint64_t part) {
    auto& page = pages_[index];
    if (!page) page = std::make_unique<Page>();
    std::memcpy(page->data() + within, in, part);
    in += part;
  });
}

void MemoryDevice::fill(uint64_t offset, uint64_t length, std::byte value) {
  // Only pages that exist: a range of any length may be given.
  const uint64_t end = offset + length;
  auto page = pages_.lower_bound(offset / page_size);
  while (page != pages_.end() && page->first * page_size < end) {
    const uint64_t start = page->first * page_size;
    const uint64_t from = std::max(start, offset), to = std::min(start + page_size, end);
    if (value == std::byte{0} && to - from == page_size) {
      page = pages_.erase(page);
      continue;
    }
    std::fill(page->second->begin() + static_cast<ptrdiff_t>(from - start),
              page->second->begin() + static_cast<ptrdiff_t>(to - start), value);
    ++page;
  }
}

void MemoryDevice::poke_zeros(uint64_t offset, uint64_t length) {
  fill(offset, length, std::byte{0});
}

void MemoryDevice::copy_from(const MemoryDevice& other) {
  if (this == &other) return;
  pages_.clear();
  for (const auto& [index, page] : other.pages_) pages_[index] = std::make_unique<Page>(*page);
}

bool MemoryDevice::same_contents(const MemoryDevice& other) const {
  static const Page zeros{};
  const auto covers = [](const MemoryDevice& a, const MemoryDevice& b) {
    return std::ranges::all_of(a.pages_, [&b](const auto& entry) {
      const auto there = b.pages_.find(entry.first);
      return *entry.second == (there == b.pages_.end() ? zeros : *there->second);
    });
  };
  return covers(*this, other) && covers(other, *this);
}

Status MemoryDevice::do_read(uint64_t offset, IoSpan iov) {
  const std::lock_guard lock(contents_);
  for (const iovec& piece : iov) {
    load(offset, {static_cast<std::byte*>(piece.iov_base), piece.iov_len});
    offset += piece.iov_len;
  }
  return {};
}

Status MemoryDevice::do_write(uint64_t offset, IoSpan iov, Fua) {
  const std::lock_guard lock(contents_);
  for (const iovec& piece : iov) {
    poke(offset, {static_cast<const std::byte*>(piece.iov_base), piece.iov_len});
    offset += piece.iov_len;
  }
  return {};
}

Status MemoryDevice::do_discard(uint64_t offset, uint64_t length) {
  if (discard_ == Discard::unsupported) return fail_sys(EOPNOTSUPP, "");
  const std::lock_guard lock(contents_);
  fill(offset, length, discard_ == Discard::zeros ? std::byte{0} : std::byte{0xd5});
  return {};
}

Status MemoryDevice::do_write_zeroes(uint64_t offset, uint64_t length, Unmap) {
  const std::lock_guard lock(contents_);
  fill(offset, length, std::byte{0});
  return {};
}

Result<Allocation> MemoryDevice::do_allocation(uint64_t offset, uint64_t length) {
  const std::lock_guard lock(contents_);
  const uint64_t end = offset + length;
  uint64_t at = offset;
  const bool data = pages_.contains(at / page_size);
  while (at < end && pages_.contains(at / page_size) == data) {
    // Holes may be huge: jump to the next page that exists.
    const auto next = data ? pages_.end() : pages_.lower_bound(at / page_size);
    if (data)
      at = (at / page_size + 1) * page_size;
    else
      at = next == pages_.end() ? end : next->first * page_size;
  }
  return Allocation{.data = data, .length = std::min(at, end) - offset};
}

Status MemoryDevice::do_flush() {
  ++flushes_;
  return {};
}

Service MemoryDevice::do_service(Op) const {
  return Service::inline_;
}

}  // namespace volfs::test
