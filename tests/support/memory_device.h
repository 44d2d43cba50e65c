// SPDX-License-Identifier: GPL-2.0-or-later
// A perfect disk: sparse memory that reads as zeros until written, never fails and never tears.
// The fakes of tests (faults, power cuts) are laid over it.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "volfs/block_device.h"

namespace volfs::test {

class MemoryDevice final : public BlockDevice {
 public:
  static constexpr uint64_t page_size = 4096;
  // What discarded bytes read as. `garbage` finds code that takes them for zeros.
  enum class Discard : uint8_t { zeros, garbage, unsupported };
  struct Options {
    Limits limits = {};
    bool read_only = false;
    Discard discard = Discard::zeros;
  };

  MemoryDevice(std::string name, uint64_t size) : MemoryDevice(std::move(name), size, Options{}) {}
  MemoryDevice(std::string name, uint64_t size, const Options& options);
  ~MemoryDevice() override;

  using BlockDevice::set_name;
  using BlockDevice::set_read_only;
  using BlockDevice::set_size;

  // Past the door: any offset and length within the size, read-only or not, no trace, no yield to
  // another thread under a scheduler.
  std::vector<std::byte> peek(uint64_t offset, uint64_t length) const;
  void poke(uint64_t offset, std::span<const std::byte> bytes);
  void poke_zeros(uint64_t offset, uint64_t length);
  // Takes over the other's contents (not its size or options).
  void copy_from(const MemoryDevice& other);
  bool same_contents(const MemoryDevice& other) const;
  // Pages that hold something.
  size_t pages() const { return pages_.size(); }
  uint64_t flushes() const { return flushes_; }

 private:
  using Page = std::array<std::byte, page_size>;
  Status do_read(uint64_t offset, IoSpan iov) override;
  Status do_write(uint64_t offset, IoSpan iov, Fua fua) override;
  Status do_discard(uint64_t offset, uint64_t length) override;
  Status do_write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) override;
  Result<Allocation> do_allocation(uint64_t offset, uint64_t length) override;
  Status do_flush() override;
  Service do_service(Op op) const override;
  void load(uint64_t offset, std::span<std::byte> to) const;
  void fill(uint64_t offset, uint64_t length, std::byte value);

  const Discard discard_;
  mutable Mutex contents_;  // guards pages_ on the way through the door
  std::map<uint64_t, std::unique_ptr<Page>> pages_;
  std::atomic<uint64_t> flushes_{0};
};

}  // namespace volfs::test
