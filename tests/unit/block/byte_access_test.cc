// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/byte_access.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <vector>

#include "support/allocations.h"
#include "support/memory_device.h"
#include "support/random.h"
#include "support/sim_scheduler.h"
#include "volfs/io_batch.h"
#include "volfs/units.h"

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
  const uint64_t before = allocations();
  for (int i = 0; i < 10; ++i) {
    Mapping mapping;
    REQUIRE(bytes.map(Op::write, 0, 4096, Wait::no, mapping));
    IoBatch batch;
    const OneSlice slice{std::span<std::byte>(data)};
    batch.transfer(Op::write, mapping, slice);
    if (!batch.run()) break;
    if (!bytes.read(0, data)) break;
  }
  const uint64_t after = allocations();
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

// A disk whose reads wait while its gate is closed.
class HeldReads final : public BlockDevice {
 public:
  explicit HeldReads(MemoryDevice& disk)
      : BlockDevice("held", disk.size(), disk.limits()), disk_(disk) {}
  Gate gate;
  std::atomic<bool> waiting{false};

 private:
  Status do_read(uint64_t offset, IoSpan iov) override {
    waiting = true;
    gate.enter();
    gate.exit();
    return disk_.read(offset, iov);
  }
  Status do_write(uint64_t offset, IoSpan iov, Fua fua) override {
    return disk_.write(offset, iov, fua);
  }
  Status do_write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) override {
    return disk_.write_zeroes(offset, length, unmap);
  }
  MemoryDevice& disk_;
};

Thread started(std::function<void()> body) {
  auto thread = Thread::start("test", std::move(body));
  REQUIRE(thread.has_value());
  return std::move(*thread);
}

TEST_CASE("an aligned write waits for a read-modify-write of its own block only") {
  simulate(test_iterations(30), [](uint64_t seed) {
    INFO("VOLFS_SEED=", seed);
    const SimScheduler sim(seed);
    MemoryDevice disk = make_disk(512);
    HeldReads held(disk);
    ByteAccess bytes(held);
    const std::vector<std::byte> whole(1024, std::byte{1});
    const std::byte one{2};
    held.gate.close();
    // It reads block 1 and cannot go on.
    Thread unaligned = started([&] { CHECK(bytes.write(700, std::span(&one, 1)).has_value()); });
    while (!held.waiting) sleep_for(Nanos(1000));
    // Blocks 2 and 3 are free; who tried to wait here would wait for ever.
    CHECK(bytes.write(1024, whole).has_value());
    CHECK(bytes.write_zeroes(2048, 512).has_value());
    // Blocks 0 and 1 are not.
    std::atomic<bool> written{false};
    Thread aligned = started([&] {
      CHECK(bytes.write(0, whole).has_value());
      written = true;
    });
    sleep_for(Nanos(1000));
    CHECK(!written);
    held.gate.open();
    unaligned.join();
    aligned.join();
    CHECK(disk.peek(0, 1024) == whole);
    CHECK(disk.peek(1024, 1024) == whole);
    // The gate is open again: aligned writes are mapped.
    Mapping mapping;
    REQUIRE(bytes.map(Op::write, 0, 512, Wait::no, mapping));
    CHECK(mapping.extents()[0].device == &held);
  });
}

// A disk cut into pieces at any byte, each with one of several writers as its owner.
struct Pieces {
  struct Piece {
    uint64_t offset, length;
    std::byte value{};
  };
  std::vector<std::vector<Piece>> of_writer;

  Pieces(Random& random, uint64_t size, size_t writers) : of_writer(writers) {
    for (uint64_t at = 0; at < size;) {
      uint64_t end = at + random.between(1, 1500);
      if (random.one_in(2)) end = round_up(end, 512);
      end = std::min(end, size);
      of_writer[random.below(writers)].push_back({at, end - at});
      at = end;
    }
  }
};

void write_piece(ByteAccess& bytes, Pieces::Piece& piece, Random& random) {
  piece.value = std::byte{static_cast<uint8_t>(random.next())};
  if (random.one_in(4)) {
    piece.value = {};
    REQUIRE(bytes.write_zeroes(piece.offset, piece.length).has_value());
    return;
  }
  std::vector<std::byte> data(piece.length, piece.value);
  Mapping mapping;
  REQUIRE(bytes.map(Op::write, piece.offset, piece.length, Wait::no, mapping));
  if (mapping.extents()[0].device == &bytes) {
    mapping.clear();
    REQUIRE(bytes.write(piece.offset, data).has_value());
    return;
  }
  IoBatch batch;
  const OneSlice slice{std::span<std::byte>(data)};
  batch.transfer(Op::write, mapping, slice);
  REQUIRE(batch.run().has_value());
}

TEST_CASE("writers of neighbouring bytes, aligned and not, lose nothing, in any order of events") {
  simulate(test_iterations(20), [](uint64_t seed) {
    INFO("VOLFS_SEED=", seed);
    const SimScheduler sim(seed);
    Random random(seed);
    MemoryDevice disk = make_disk(512, 16 * KiB);
    ByteAccess bytes(disk);
    Pieces pieces(random, disk.size(), 4);
    std::vector<Thread> threads;
    for (auto& own : pieces.of_writer) {
      threads.push_back(started([&bytes, &own, mine = Random(random.next())]() mutable {
        for (int i = 0; i < 12 && !own.empty(); ++i)
          write_piece(bytes, own[mine.below(own.size())], mine);
      }));
    }
    for (auto& thread : threads) thread.join();
    std::vector<std::byte> model(disk.size());
    for (const auto& own : pieces.of_writer)
      for (const auto& piece : own)
        std::fill_n(model.begin() + static_cast<ptrdiff_t>(piece.offset), piece.length,
                    piece.value);
    CHECK(disk.peek(0, disk.size()) == model);
  });
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
