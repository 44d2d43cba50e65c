// SPDX-License-Identifier: GPL-2.0-or-later
// What include/volfs/block_device.h promises, checked on every device there is.
#include <doctest/doctest.h>

#include <algorithm>
#include <cerrno>

#include "factories.h"
#include "support/byte_model.h"
#include "support/random.h"
#include "volfs/io_batch.h"
#include "volfs/units.h"

using namespace volfs;
using namespace volfs::test;

namespace {

// Calls CHECK_ONE(device, random) on a fresh device of each kind.
template <class Check>
void on_every_device(Check check_one) {
  for (const Factory& factory : all_factories()) {
    const uint64_t seed = test_seed();
    INFO(factory.name, ", VOLFS_SEED=", seed);
    const Subject subject = factory.make();
    if (!subject.device) {
      MESSAGE("skipped: ", factory.name, ": ", subject.skipped);
      continue;
    }
    Random random(seed);
    check_one(*subject.device, random);
  }
}

std::string text_of(const Status& status) {
  return status ? "success" : status.error().text();
}
#define CHECK_OK(expr) CHECK(text_of(expr) == "success")
#define REQUIRE_OK(expr) REQUIRE(text_of(expr) == "success")

int code_of(const Status& status) {
  return status ? 0 : status.error().code();
}

// Writes all of a device with random bytes.
ByteModel filled(BlockDevice& device, Random& random) {
  ByteModel model(device.size());
  const auto bytes = random_bytes(random, device.size());
  REQUIRE_OK(device.write(0, bytes));
  model.write(0, bytes);
  return model;
}

void check_equal(const ByteModel& model, BlockDevice& device) {
  CHECK(model.difference(device).value_or("equal") == "equal");
}

}  // namespace

TEST_CASE("what was written is read back, at any offset, length and scattering") {
  on_every_device([](BlockDevice& device, Random& random) {
    ByteModel model = filled(device, random);
    const uint64_t rounds = test_iterations(150);
    for (uint64_t round = 0; round < rounds; ++round) {
      const Range range = random_range(random, device.size(), device.logical_block(), 128 * KiB);
      ScatterList list(random, range.length);
      if (random.one_in(2)) {
        list.set(random_bytes(random, range.length));
        REQUIRE_OK(device.write(range.offset, list.iov(), random.one_in(8) ? Fua::yes : Fua::no));
        model.write(range.offset, list.bytes());
      } else {
        REQUIRE_OK(device.read(range.offset, list.iov()));
        REQUIRE_FALSE(first_difference(list.bytes(), model.bytes(range.offset, range.length)));
      }
      REQUIRE(list.guards_intact());
    }
    check_equal(model, device);
  });
}

TEST_CASE("a list of more slices than one system call takes is one request") {
  on_every_device([](BlockDevice& device, Random& random) {
    constexpr uint64_t slice = 48, slices = 2048;
    const uint64_t length = slice * slices;
    REQUIRE(length % device.logical_block() == 0);
    auto bytes = random_bytes(random, length);
    std::vector<iovec> list;
    for (uint64_t i = 0; i < slices; ++i) list.push_back({bytes.data() + i * slice, slice});
    REQUIRE_OK(device.write(4096, list));
    std::vector<std::byte> back(length);
    for (uint64_t i = 0; i < slices; ++i) list[i].iov_base = back.data() + i * slice;
    REQUIRE_OK(device.read(4096, list));
    CHECK_FALSE(first_difference(back, bytes));
  });
}

TEST_CASE("misaligned and out-of-range requests are refused and change nothing") {
  on_every_device([](BlockDevice& device, Random& random) {
    const ByteModel model = filled(device, random);
    const uint64_t size = device.size(), block = device.logical_block();
    std::vector<std::byte> bytes(2 * block, std::byte{0x11});
    const std::span<std::byte> one = std::span(bytes).first(block);
    const std::pair<uint64_t, uint64_t> bad[] = {{1, block},
                                                 {0, block - 1},
                                                 {block / 2, block},
                                                 {size, block},
                                                 {size - block, 2 * block},
                                                 {size + block, block},
                                                 {~uint64_t{0} - block + 1, block}};
    for (const auto& [offset, length] : bad) {
      const std::span<std::byte> part = std::span(bytes).first(length);
      CHECK(code_of(device.read(offset, part)) == EINVAL);
      CHECK(code_of(device.write(offset, part)) == EINVAL);
      CHECK(code_of(device.discard(offset, length)) == EINVAL);
      CHECK(code_of(device.write_zeroes(offset, length)) == EINVAL);
      CHECK_FALSE(device.allocation(offset, length));
      CHECK_FALSE(device.read_cached(offset, OneSlice(part)));
    }
    CHECK(code_of(device.write(size, one)) == EINVAL);
    check_equal(model, device);
  });
}

TEST_CASE("requests of no length succeed within the device, its end included") {
  on_every_device([](BlockDevice& device, Random&) {
    for (const uint64_t offset : {uint64_t{0}, device.size()}) {
      CHECK_OK(device.read(offset, IoSpan{}));
      CHECK_OK(device.write(offset, IoSpan{}, Fua::yes));
      CHECK_OK(device.discard(offset, 0));
      CHECK_OK(device.write_zeroes(offset, 0));
      CHECK(device.allocation(offset, 0).has_value());
    }
    CHECK(code_of(device.read(device.size() + device.logical_block(), IoSpan{})) == EINVAL);
  });
}

TEST_CASE("a read-only device is read, and refuses all else with EROFS") {
  size_t seen = 0;
  for (const Factory& factory : all_factories()) {
    if (!factory.make_read_only) continue;
    INFO(factory.name);
    const Subject subject = factory.make_read_only();
    if (!subject.device) {
      MESSAGE("skipped: ", factory.name, ": ", subject.skipped);
      continue;
    }
    ++seen;
    BlockDevice& device = *subject.device;
    const uint64_t block = device.logical_block();
    CHECK(device.read_only());
    std::vector<std::byte> before(device.size());
    REQUIRE_OK(device.read(0, before));
    const std::vector<std::byte> bytes(block, std::byte{0x77});
    CHECK(code_of(device.write(0, bytes)) == EROFS);
    CHECK(code_of(device.write(0, bytes, Fua::yes)) == EROFS);
    CHECK(code_of(device.discard(0, block)) == EROFS);
    CHECK(code_of(device.write_zeroes(0, block)) == EROFS);
    CHECK_OK(device.flush());
    for (const Op op : {Op::write, Op::discard, Op::write_zeroes}) {
      Mapping mapping;
      REQUIRE(device.map(op, 0, block, Wait::yes, mapping));
      REQUIRE(mapping.extents().size() == 1);
      CHECK(mapping.extents()[0].kind == Extent::Kind::error);
      CHECK(mapping.extents()[0].error == EROFS);
    }
    CHECK_FALSE(first_difference(read_bytes(device, 0, device.size()), before));
  }
  CHECK(seen > 0);
}

TEST_CASE("zeroed ranges read as zeros, and their neighbours are kept") {
  on_every_device([](BlockDevice& device, Random& random) {
    ByteModel model = filled(device, random);
    for (int round = 0; round < 30; ++round) {
      const Range range = random_range(random, device.size(), device.logical_block(), 64 * KiB);
      REQUIRE_OK(device.write_zeroes(range.offset, range.length,
                                     random.one_in(2) ? Unmap::yes : Unmap::no));
      model.zero(range.offset, range.length);
    }
    check_equal(model, device);
    REQUIRE_OK(device.write_zeroes(0, device.size()));
    model.zero(0, device.size());
    check_equal(model, device);
  });
}

TEST_CASE("a discard is refused with EOPNOTSUPP or spares its neighbours") {
  on_every_device([](BlockDevice& device, Random& random) {
    ByteModel model = filled(device, random);
    for (int round = 0; round < 30; ++round) {
      const Range range = random_range(random, device.size(), device.logical_block(), 64 * KiB);
      const Status status = device.discard(range.offset, range.length);
      if (!status) {
        REQUIRE(status.error().code() == EOPNOTSUPP);
        CHECK(device.limits().discard_granularity == 0);
        break;
      }
      // What is there now may be anything, but the same at every look; a write makes it known.
      const auto now = read_bytes(device, range.offset, range.length);
      if (random.one_in(2)) {
        model.write(range.offset, now);
      } else {
        const auto bytes = random_bytes(random, range.length);
        REQUIRE_OK(device.write(range.offset, bytes));
        model.write(range.offset, bytes);
      }
    }
    check_equal(model, device);
  });
}

TEST_CASE("a flush succeeds, whatever was written before") {
  on_every_device([](BlockDevice& device, Random& random) {
    CHECK_OK(device.flush());
    const ByteModel model = filled(device, random);
    CHECK_OK(device.flush());
    CHECK_OK(device.write(0, model.bytes(0, device.logical_block()), Fua::yes));
    CHECK_OK(device.flush());
    check_equal(model, device);
  });
}

TEST_CASE("threads that write disjoint ranges do not disturb each other") {
  on_every_device([](BlockDevice& device, Random& random) {
    ByteModel model = filled(device, random);
    constexpr uint64_t writers = 4;
    const uint64_t block = device.logical_block();
    const uint64_t blocks = device.size() / block;
    // Writer t has the blocks t, t + 4, ...: neighbours share pages, chunks and stripes.
    std::vector<std::vector<std::byte>> contents;
    std::vector<Thread> threads;
    std::atomic<int> failures{0};
    for (uint64_t t = 0; t < writers; ++t) contents.push_back(random_bytes(random, block));
    for (uint64_t t = 0; t < writers; ++t) {
      auto thread = Thread::start("writer", [&, t] {
        std::vector<std::byte> back(block);
        for (uint64_t b = t; b < std::min<uint64_t>(blocks, 400); b += writers) {
          if (!device.write(b * block, contents[t])) ++failures;
          if (!device.read(b * block, back) || back != contents[t]) ++failures;
          if (b % 64 == 0 && !device.flush()) ++failures;
        }
      });
      REQUIRE(thread);
      threads.push_back(std::move(*thread));
    }
    threads.clear();
    CHECK(failures == 0);
    for (uint64_t b = 0; b < std::min<uint64_t>(blocks, 400); ++b)
      model.write(b * block, contents[b % writers]);
    check_equal(model, device);
  });
}

TEST_CASE("allocation covers a range without gaps, and holes read as zeros") {
  on_every_device([](BlockDevice& device, Random& random) {
    filled(device, random);
    const uint64_t block = device.logical_block();
    REQUIRE_OK(device.write_zeroes(64 * KiB, 48 * KiB));
    const std::vector<std::byte> zeros(device.size());
    uint64_t at = 0;
    while (at < device.size()) {
      auto part = device.allocation(at, device.size() - at);
      REQUIRE(part);
      REQUIRE(part->length > 0);
      REQUIRE(part->length % block == 0);
      REQUIRE(at + part->length <= device.size());
      if (!part->data)
        CHECK_FALSE(first_difference(read_bytes(device, at, part->length),
                                     std::span(zeros).first(part->length)));
      at += part->length;
    }
    auto less = device.allocation(0, block);
    REQUIRE(less);
    CHECK(less->data);
    CHECK(less->length == block);
  });
}

TEST_CASE("bytes read through the extents of map equal bytes read") {
  on_every_device([](BlockDevice& device, Random& random) {
    ByteModel model = filled(device, random);
    REQUIRE_OK(device.write_zeroes(16 * KiB, 8 * KiB));
    model.zero(16 * KiB, 8 * KiB);
    for (int round = 0; round < 40; ++round) {
      const Range range = random_range(random, device.size(), device.logical_block(), 96 * KiB);
      Mapping mapping;
      REQUIRE(device.map(Op::read, range.offset, range.length, Wait::yes, mapping));
      REQUIRE(mapping.length() == range.length);
      std::vector<std::byte> bytes(range.length, std::byte{0xee});
      uint64_t at = 0;
      for (const Extent& extent : mapping.extents()) {
        const std::span<std::byte> part = std::span(bytes).subspan(at, extent.length);
        REQUIRE(extent.kind != Extent::Kind::error);
        if (extent.kind == Extent::Kind::device)
          REQUIRE_OK(extent.device->read(extent.offset, part));
        else
          std::ranges::fill(part, std::byte{0});
        at += extent.length;
      }
      REQUIRE_FALSE(first_difference(bytes, model.bytes(range.offset, range.length)));
    }
  });
}

TEST_CASE("a batch over the extents of map reads and writes what the device would") {
  on_every_device([](BlockDevice& device, Random& random) {
    ByteModel model = filled(device, random);
    for (int round = 0; round < 40; ++round) {
      const Range range = random_range(random, device.size(), device.logical_block(), 96 * KiB);
      ScatterList list(random, range.length);
      const Op op = random.one_in(2) ? Op::read : Op::write;
      Mapping mapping;
      REQUIRE(device.map(op, range.offset, range.length, Wait::yes, mapping));
      IoBatch batch;
      if (op == Op::write) list.set(random_bytes(random, range.length));
      batch.transfer(op, mapping, list.iov(), random.one_in(8) ? Fua::yes : Fua::no);
      REQUIRE_OK(batch.run());
      if (op == Op::write)
        model.write(range.offset, list.bytes());
      else
        REQUIRE_FALSE(first_difference(list.bytes(), model.bytes(range.offset, range.length)));
      REQUIRE(list.guards_intact());
    }
    check_equal(model, device);
  });
}

TEST_CASE("what lies past the end maps to an error") {
  on_every_device([](BlockDevice& device, Random&) {
    const uint64_t block = device.logical_block();
    Mapping mapping;
    REQUIRE(device.map(Op::read, device.size() - block, 3 * block, Wait::yes, mapping));
    CHECK(mapping.length() == 3 * block);
    REQUIRE_FALSE(mapping.extents().empty());
    CHECK(mapping.extents().back().kind == Extent::Kind::error);
    CHECK(mapping.extents().back().length == 2 * block);
  });
}
