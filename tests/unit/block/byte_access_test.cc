// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/byte_access.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <new>
#include <vector>

#include "support/memory_device.h"
#include "support/random.h"
#include "support/sim_scheduler.h"
#include "volfs/io_batch.h"
#include "volfs/units.h"

namespace {
std::atomic<uint64_t> allocations{0};
}  // namespace

void* operator new(size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}

namespace volfs::test {
namespace {

MemoryDevice make_disk(uint32_t block, uint64_t size = 64 * KiB) {
  return MemoryDevice("disk", size, {.limits = {.logical_block = block, .physical_block = block}});
}

std::vector<std::byte> bytes_of(size_t size, uint64_t seed) {
  std::vector<std::byte> out(size);
  Random(seed).fill(out);
  return out;
}

TEST_CASE("byte access reads, writes and zeroes any range, as a plain array does") {
  const uint64_t seed = test_seed();
  INFO("VOLFS_SEED=", seed);
  Random random(seed);
  for (const uint32_t block : {1U, 512U, 4096U, 8192U}) {
    CAPTURE(block);
    MemoryDevice disk = make_disk(block);
    ByteAccess bytes(disk);
    CHECK(bytes.logical_block() == 1);
    std::vector<std::byte> model(disk.size());
    for (uint64_t round = test_iterations(300); round > 0; --round) {
      const uint64_t offset = random.below(disk.size());
      const uint64_t longest = disk.size() - offset;
      const uint64_t length =
          random.between(1, std::min(longest, random.one_in(4) ? longest : uint64_t{3} * 512 + 7));
      auto data = bytes_of(length, random.next());
      const auto at = model.begin() + static_cast<ptrdiff_t>(offset);
      switch (random.below(4)) {
        case 0:
          REQUIRE(bytes.write_zeroes(offset, length).has_value());
          std::fill_n(at, length, std::byte{});
          break;
        case 1: {
          // Scattered memory.
          const size_t cut = random.below(length + 1);
          const iovec iov[] = {{data.data(), cut}, {data.data() + cut, length - cut}};
          REQUIRE(bytes.write(offset, IoSpan(iov), Fua::yes).has_value());
          std::copy(data.begin(), data.end(), at);
          break;
        }
        case 2:
          REQUIRE(bytes.write(offset, std::span<const std::byte>(data)).has_value());
          std::copy(data.begin(), data.end(), at);
          break;
        default: {
          REQUIRE(bytes.read(offset, data).has_value());
          REQUIRE(std::equal(data.begin(), data.end(), at));
        }
      }
    }
    CHECK(disk.peek(0, disk.size()) == model);
  }
}

TEST_CASE("byte access keeps the borders of the device below") {
  MemoryDevice disk = make_disk(4096);
  ByteAccess bytes(disk);
  std::vector<std::byte> data(10);
  CHECK(bytes.read(disk.size() - 9, data).error().code() == EINVAL);
  CHECK(bytes.write(disk.size() - 10, std::span<const std::byte>(data)).has_value());
  disk.set_read_only(true);
  CHECK(bytes.write(0, std::span<const std::byte>(data)).error().code() == EROFS);
  bytes.refresh();
  CHECK(bytes.read_only());
  disk.set_size(8192);
  bytes.refresh();
  CHECK(bytes.size() == 8192);
}

TEST_CASE("byte access discards only whole blocks") {
  MemoryDevice disk = make_disk(512);
  ByteAccess bytes(disk);
  const auto data = bytes_of(2048, 1);
  disk.poke(0, data);
  REQUIRE(bytes.discard(100, 1500).has_value());
  auto expected = data;
  std::fill(expected.begin() + 512, expected.begin() + 1536, std::byte{});
  CHECK(disk.peek(0, 2048) == expected);
  REQUIRE(bytes.discard(1600, 100).has_value());
  CHECK(disk.peek(0, 2048) == expected);
}

TEST_CASE("byte access tells the allocation from the byte that was asked") {
  MemoryDevice disk = make_disk(4096);
  ByteAccess bytes(disk);
  disk.poke(8192, bytes_of(4096, 1));
  auto hole = bytes.allocation(100, disk.size() - 100);
  REQUIRE(hole.has_value());
  CHECK(!hole->data);
  CHECK(hole->length == 8092);
  auto data = bytes.allocation(8193, disk.size() - 8193);
  REQUIRE(data.has_value());
  CHECK(data->data);
  CHECK(data->length == 4095);
}

TEST_CASE("aligned requests map to the device below, others to byte access itself") {
  MemoryDevice disk = make_disk(512);
  ByteAccess bytes(disk);
  Mapping mapping;
  REQUIRE(bytes.map(Op::write, 512, 1024, Wait::no, mapping));
  REQUIRE(mapping.extents().size() == 1);
  CHECK(mapping.extents()[0].device == &disk);
  Mapping odd;
  REQUIRE(bytes.map(Op::write, 512, 1000, Wait::no, odd));
  CHECK(odd.extents()[0].device == &bytes);
  CHECK(bytes.service(Op::write) == disk.service(Op::write));
}

TEST_CASE("the aligned path allocates nothing") {
  MemoryDevice disk = make_disk(512);
  ByteAccess bytes(disk);
  std::vector<std::byte> data(4096);
  REQUIRE(bytes.write(0, std::span<const std::byte>(data)).has_value());
  const uint64_t before = allocations.load();
  for (int i = 0; i < 10; ++i) {
    Mapping mapping;
    REQUIRE(bytes.map(Op::write, 0, 4096, Wait::no, mapping));
    IoBatch batch;
    const OneSlice slice{std::span<std::byte>(data)};
    batch.transfer(Op::write, mapping, slice);
    if (!batch.run()) break;
    if (!bytes.read(0, data)) break;
  }
  const uint64_t after = allocations.load();
  CHECK(after == before);
}

// Each writer owns every fourth byte of the first block; one more writes whole blocks next to it
// and through a mapping that it holds for a while. All bytes must be there in the end.
void race(ByteAccess& bytes, MemoryDevice& disk, int rounds) {
  std::vector<Thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    auto thread = Thread::start("writer", [&bytes, t, rounds] {
      for (int i = 0; i < rounds; ++i) {
        const std::byte value{static_cast<uint8_t>(t * 50 + static_cast<unsigned>(i))};
        const uint64_t at = (4 * static_cast<uint64_t>(i) + t) % 512;
        if (!bytes.write(at, std::span(&value, 1))) std::abort();
      }
    });
    REQUIRE(thread.has_value());
    threads.push_back(std::move(*thread));
  }
  auto whole = Thread::start("whole", [&bytes, rounds] {
    for (int i = 0; i < rounds; ++i) {
      std::vector<std::byte> data(512, std::byte{static_cast<uint8_t>(i)});
      Mapping mapping;
      while (!bytes.map(Op::write, 512, 512, Wait::no, mapping)) {
        mapping.clear();
        sleep_for(Nanos(1));
      }
      IoBatch batch;
      const OneSlice slice{std::span<std::byte>(data)};
      batch.transfer(Op::write, mapping, slice);
      if (!batch.run()) std::abort();
      mapping.clear();  // who holds a lease must not write what is not aligned
      if (!bytes.write(510, std::span<const std::byte>(data).first(1))) std::abort();
    }
  });
  REQUIRE(whole.has_value());
  whole->join();
  for (auto& thread : threads) thread.join();
  const auto stands = disk.peek(0, 1024);
  for (unsigned t = 0; t < 4; ++t) {
    for (int i = 0; i < rounds; ++i) {
      const size_t at = 4 * static_cast<size_t>(i) + t;
      CHECK(stands[at] == std::byte{static_cast<uint8_t>(t * 50 + static_cast<unsigned>(i))});
    }
  }
  for (size_t at = 512; at < 1024; ++at)
    CHECK(stands[at] == std::byte{static_cast<uint8_t>(rounds - 1)});
}

TEST_CASE("writers of one sector lose no byte, in any order of events") {
  simulate(test_iterations(30), [](uint64_t seed) {
    INFO("VOLFS_SEED=", seed);
    const SimScheduler sim(seed);
    MemoryDevice disk = make_disk(512);
    ByteAccess bytes(disk);
    race(bytes, disk, 5);
  });
}

TEST_CASE("writers of one sector lose no byte with real threads") {
  MemoryDevice disk = make_disk(512);
  ByteAccess bytes(disk);
  race(bytes, disk, 50);
}

}  // namespace
}  // namespace volfs::test
