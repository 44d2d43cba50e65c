// SPDX-License-Identifier: GPL-2.0-or-later
// What the bytes of a device must be, and scattered memory to read and write them with.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "support/random.h"
#include "volfs/block_device.h"

namespace volfs::test {

// Memory of LENGTH bytes cut into a random list of slices: some empty, some at odd addresses,
// none next to another, with guards between them.
class ScatterList {
 public:
  ScatterList(Random& random, uint64_t length, size_t most_slices = 20);
  IoSpan iov() const { return iov_; }
  std::vector<std::byte> bytes() const;
  void set(std::span<const std::byte> bytes);
  // Whether nothing was written outside of the slices.
  bool guards_intact() const;

 private:
  std::vector<std::byte> memory_;
  std::vector<iovec> iov_;
};

// A device of known bytes. Ranges must lie within.
class ByteModel {
 public:
  explicit ByteModel(uint64_t size) : bytes_(size) {}
  uint64_t size() const { return bytes_.size(); }
  void write(uint64_t offset, std::span<const std::byte> from);
  void zero(uint64_t offset, uint64_t length);
  std::span<const std::byte> bytes(uint64_t offset, uint64_t length) const;
  std::span<const std::byte> bytes() const { return bytes_; }
  // Reads all of DEVICE. Nothing if it is equal, else where the first difference is.
  std::optional<std::string> difference(BlockDevice& device) const;

 private:
  std::vector<std::byte> bytes_;
};

std::vector<std::byte> random_bytes(Random& random, uint64_t length);
// Reads a range through the door; the text of an error is thrown (std::runtime_error).
std::vector<std::byte> read_bytes(BlockDevice& device, uint64_t offset, uint64_t length);
// Nothing if equal, else "byte N is 0xAA, should be 0xBB".
std::optional<std::string> first_difference(std::span<const std::byte> is,
                                            std::span<const std::byte> should);
// A random range of blocks within SIZE: mostly short, sometimes long; never empty.
struct Range {
  uint64_t offset, length;
};
Range random_range(Random& random, uint64_t size, uint64_t block, uint64_t most);

}  // namespace volfs::test
