// SPDX-License-Identifier: GPL-2.0-or-later
#include "support/byte_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "volfs/units.h"

namespace volfs::test {
namespace {
constexpr std::byte guard{0xa7};
}  // namespace

ScatterList::ScatterList(Random& random, uint64_t length, size_t most_slices) {
  const uint64_t slices = random.between(1, most_slices);
  std::vector<uint64_t> cuts{0, length};
  for (uint64_t i = 1; i < slices; ++i)
    cuts.push_back(random.one_in(2) ? round_down(random.below(length + 1), 512)
                                    : random.below(length + 1));
  std::ranges::sort(cuts);
  std::vector<uint64_t> gaps;
  uint64_t total = 64;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    gaps.push_back(random.between(1, 64));
    total += gaps.back();
  }
  memory_.assign(length + total, guard);
  uint64_t at = 0;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    at += gaps[i];
    iov_.push_back({memory_.data() + at, cuts[i + 1] - cuts[i]});
    at += cuts[i + 1] - cuts[i];
  }
}

std::vector<std::byte> ScatterList::bytes() const {
  std::vector<std::byte> all(total_length(iov_));
  copy_from_slices(iov_, 0, all);
  return all;
}

void ScatterList::set(std::span<const std::byte> bytes) {
  copy_to_slices(iov_, 0, bytes);
}

bool ScatterList::guards_intact() const {
  const std::byte* at = memory_.data();
  const auto clean = [](const std::byte* from, const std::byte* to) {
    return std::all_of(from, to, [](std::byte b) { return b == guard; });
  };
  for (const iovec& piece : iov_) {
    const auto* start = static_cast<const std::byte*>(piece.iov_base);
    if (!clean(at, start)) return false;
    at = start + piece.iov_len;
  }
  return clean(at, memory_.data() + memory_.size());
}

void ByteModel::write(uint64_t offset, std::span<const std::byte> from) {
  std::ranges::copy(from, bytes_.begin() + static_cast<ptrdiff_t>(offset));
}

void ByteModel::zero(uint64_t offset, uint64_t length) {
  std::fill_n(bytes_.begin() + static_cast<ptrdiff_t>(offset), length, std::byte{0});
}

std::span<const std::byte> ByteModel::bytes(uint64_t offset, uint64_t length) const {
  return std::span(bytes_).subspan(offset, length);
}

std::optional<std::string> ByteModel::difference(BlockDevice& device) const {
  if (device.size() != size())
    return fmt::format("{} has {} bytes, should have {}", device.name(), device.size(), size());
  return first_difference(read_bytes(device, 0, size()), bytes_);
}

std::vector<std::byte> random_bytes(Random& random, uint64_t length) {
  std::vector<std::byte> bytes(length);
  random.fill(bytes);
  return bytes;
}

std::vector<std::byte> read_bytes(BlockDevice& device, uint64_t offset, uint64_t length) {
  std::vector<std::byte> bytes(length);
  if (auto status = device.read(offset, bytes); !status)
    throw std::runtime_error(status.error().text());
  return bytes;
}

std::optional<std::string> first_difference(std::span<const std::byte> is,
                                            std::span<const std::byte> should) {
  if (is.size() != should.size())
    return fmt::format("{} bytes, should be {}", is.size(), should.size());
  const auto at = std::ranges::mismatch(is, should);
  if (at.in1 == is.end()) return std::nullopt;
  return fmt::format("byte {} is {:#04x}, should be {:#04x}", at.in1 - is.begin(),
                     static_cast<unsigned>(*at.in1), static_cast<unsigned>(*at.in2));
}

Range random_range(Random& random, uint64_t size, uint64_t block, uint64_t most) {
  const uint64_t blocks = size / block;
  const uint64_t longest = std::max<uint64_t>(std::min(most / block, blocks), 1);
  const uint64_t length = random.one_in(4) ? random.between(1, longest)
                                           : random.between(1, std::min<uint64_t>(longest, 9));
  return {random.below(blocks - length + 1) * block, length * block};
}

}  // namespace volfs::test
