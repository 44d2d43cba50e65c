// SPDX-License-Identifier: GPL-2.0-or-later
// linear, striped, unstriped, zero and error against byte models.
#include <fmt/format.h>

#include "fixture.h"
#include "support/byte_model.h"

namespace volfs::test {
namespace {

// The disk and offset of a byte of a striped target, worked out byte by byte.
uint64_t stripe_offset(uint64_t offset, uint64_t chunk, uint64_t stripes, uint64_t* stripe) {
  const uint64_t row = offset / (chunk * stripes);
  const uint64_t rest = offset % (chunk * stripes);
  *stripe = rest / chunk;
  return row * chunk + rest % chunk;
}

TEST_CASE("striped deals chunks out in turn, of any size and number") {
  const uint64_t seed = test_seed();
  INFO("VOLFS_SEED=", seed);
  Random random(seed);
  for (uint64_t round = 0; round < test_iterations(20); ++round) {
    const uint64_t stripes = random.between(1, 5), chunk = random.between(1, 9);
    const uint64_t rows = random.between(1, 12), size = stripes * chunk * rows;
    Lab lab(5, 64 * KiB);
    std::string text = fmt::format("0 {} striped {} {}", size, stripes, chunk);
    for (uint64_t i = 0; i < stripes; ++i) text += fmt::format(" disk{} {}", i, 2 * i);
    CAPTURE(text);
    dm::MappedDevice map("map");
    REQUIRE(lab.set(map, text) == "");
    ByteModel model(size * sector_size);
    for (int i = 0; i < 20; ++i) {
      const Range range = random_range(random, model.size(), sector_size, model.size());
      if (random.one_in(4)) {
        REQUIRE(map.write_zeroes(range.offset, range.length));
        model.zero(range.offset, range.length);
      } else {
        const auto bytes = random_bytes(random, range.length);
        REQUIRE(map.write(range.offset, bytes));
        model.write(range.offset, bytes);
      }
    }
    CHECK(model.difference(map) == std::nullopt);
    for (uint64_t sector = 0; sector < size; ++sector) {
      uint64_t stripe = 0;
      const uint64_t at = stripe_offset(sector, chunk, stripes, &stripe) + 2 * stripe;
      CHECK(first_difference(lab.disks[stripe]->peek(at * sector_size, sector_size),
                             model.bytes(sector * sector_size, sector_size)) == std::nullopt);
    }
  }
}

TEST_CASE("a discard of a striped target reaches each stripe once, and nothing else") {
  Lab lab(3, 64 * KiB);
  dm::MappedDevice map("map");
  REQUIRE(lab.set(map, "0 96 striped 3 4 disk0 0 disk1 0 disk2 0") == "");
  const std::vector<std::byte> ones(96 * sector_size, std::byte(1));
  REQUIRE(map.write(0, ones));
  // From the middle of the second chunk to the middle of the last but one of the fourth row.
  const uint64_t offset = 6 * sector_size, length = 38 * sector_size;
  Mapping mapping(Order::any);
  REQUIRE(map.map(Op::discard, offset, length, Wait::no, mapping));
  CHECK(mapping.extents().size() == 3);
  CHECK(mapping.length() == length);
  mapping.clear();
  REQUIRE(map.discard(offset, length));
  ByteModel model(96 * sector_size);
  model.write(0, ones);
  model.zero(offset, length);
  CHECK(model.difference(map) == std::nullopt);
}

// Runs of the volume that are alike, until TAKE says no. The number of questions it took.
template <class Take>
size_t walk_allocation(BlockDevice& device, Take take) {
  size_t questions = 0;
  for (uint64_t at = 0; at < device.size(); ++questions) {
    const auto part = device.allocation(at, device.size() - at);
    REQUIRE(part);
    REQUIRE(part->length > 0);
    if (!take(at, *part)) break;
    at += part->length;
  }
  return questions;
}

TEST_CASE("the allocation of striped and stacked targets is that of the disks") {
  const uint64_t seed = test_seed();
  INFO("VOLFS_SEED=", seed);
  Random random(seed);
  for (uint64_t round = 0; round < test_iterations(20); ++round) {
    const uint64_t stripes = random.between(1, 4), chunk = 8 * random.between(1, 40);
    const uint64_t size = stripes * chunk * random.between(1, 60);
    Lab lab(4, 16 * MiB);
    std::string text = fmt::format("0 {} striped {} {}", size, stripes, chunk);
    for (uint64_t i = 0; i < stripes; ++i) text += fmt::format(" disk{} {}", i, 8 * i);
    text += fmt::format("\n{} 4096 linear disk3 0\n{} 512 zero", size, size + 4096);
    CAPTURE(text);
    dm::MappedDevice map("map");
    REQUIRE(lab.set(map, text) == "");
    std::vector<bool> data(map.size() / 4096);
    for (uint64_t i = random.below(40); i > 0; --i) {
      const Range range = random_range(random, map.size(), 4096, random.one_in(3) ? MiB : 8 * KiB);
      REQUIRE(map.write(range.offset, random_bytes(random, range.length)));
    }
    // Page by page, which is the smallest that a disk here allocates.
    for (uint64_t i = 0; i < data.size(); ++i) {
      const auto page = map.allocation(i * 4096, 4096);
      REQUIRE(page);
      REQUIRE(page->length == 4096);
      data[i] = page->data;
    }
    walk_allocation(map, [&](uint64_t at, Allocation part) {
      REQUIRE(part.length % 4096 == 0);
      for (uint64_t i = at / 4096; i < (at + part.length) / 4096; ++i)
        REQUIRE(data[i] == part.data);
      return true;
    });
  }
}

TEST_CASE("stripes that lie end to end on one disk are not taken for one run") {
  Lab lab(1, 64 * KiB);
  dm::MappedDevice map("map");
  REQUIRE(lab.set(map, "0 128 striped 2 8 disk0 0 disk0 64") == "");
  const std::vector<std::byte> page(4096, std::byte(1));
  REQUIRE(map.write(0, page));
  REQUIRE(map.write(4096, page));  // half the disk further
  const auto first = map.allocation(0, map.size());
  REQUIRE(first);
  CHECK(first->data);
  CHECK(first->length == 8192);
}

TEST_CASE("the largest device there can be is looked through") {
  Lab lab(1);
  dm::MappedDevice map("map");
  REQUIRE(lab.set(map, "0 18014398509481983 zero") == "");
  CHECK(walk_allocation(map, [](uint64_t, Allocation part) { return !part.data; }) < 10);
}

TEST_CASE("what a disk that was cut off still has is told, and the end by its error") {
  Lab lab(2);
  dm::MappedDevice map("map");
  REQUIRE(lab.set(map, "0 8192 linear disk0 0\n8192 8192 linear disk1 0") == "");
  const std::vector<std::byte> page(4096, std::byte(1));
  REQUIRE(map.write(0, page));
  lab.disks[1]->set_size(0);
  const auto first = map.allocation(0, map.size());
  REQUIRE(first);
  CHECK(first->data);
  CHECK(first->length == 4096);
}

TEST_CASE("terabytes in narrow stripes are looked through in a few steps") {
  Lab lab(4, 4 * TiB);
  dm::MappedDevice map("map");
  REQUIRE(lab.set(map, fmt::format("0 {} striped 4 8 disk0 0 disk1 0 disk2 0 disk3 0",
                                   16 * TiB / sector_size)) == "");
  CHECK(walk_allocation(map, [](uint64_t, Allocation part) { return !part.data; }) < 10);
  const uint64_t there = 11 * TiB + 5 * MiB + 4096;
  const std::vector<std::byte> page(4096, std::byte(1));
  REQUIRE(map.write(there, page));
  uint64_t found = 0;
  const size_t questions = walk_allocation(map, [&](uint64_t at, Allocation part) {
    if (part.data) found = at;
    return !part.data;
  });
  CHECK(found == there);
  CHECK(questions < 200);
}

TEST_CASE("striped tells its chunk and stripe as the wished sizes") {
  Lab lab(3);
  dm::MappedDevice map("map");
  REQUIRE(lab.set(map, "0 1200 striped 3 40 disk0 0 disk1 1000 disk2 2000") == "");
  CHECK(map.limits().io_min == 20480);
  CHECK(map.limits().io_opt == 61440);
}

TEST_CASE("unstriped takes one stripe out again") {
  Random random(3);
  Lab lab(3, 1 * MiB);
  dm::MappedDevice striped("striped");
  REQUIRE(lab.set(striped, "0 210 striped 3 7 disk0 0 disk1 0 disk2 0") == "");
  const auto bytes = random_bytes(random, striped.size());
  REQUIRE(striped.write(0, bytes));
  lab.add(striped);
  for (size_t i = 0; i < 3; ++i) {
    dm::MappedDevice one("one");
    REQUIRE(lab.set(one, fmt::format("0 5 zero\n5 70 unstriped 3 7 {} striped 0", i)) == "");
    CHECK(first_difference(read_bytes(one, 5 * sector_size, 70 * sector_size),
                           lab.disks[i]->peek(0, 70 * sector_size)) == std::nullopt);
  }
  // Beyond the striped device's end, as the kernel lets a table say.
  dm::MappedDevice beyond("beyond");
  REQUIRE(lab.set(beyond, "0 140 unstriped 3 7 0 striped 0") == "");
  std::vector<std::byte> buffer(sector_size);
  CHECK(beyond.read(69 * sector_size, buffer));
  const auto failed = beyond.read(70 * sector_size, buffer);
  REQUIRE(!failed);
  CHECK(failed.error().code() == EIO);
  dm::MappedDevice far("far");
  REQUIRE(lab.set(far, "0 140 unstriped 4294967295 140 4294967295 striped 0") == "");
  CHECK(!far.read(0, buffer));
}

TEST_CASE("zero reads zeros and forgets, error fails, and both say so without work") {
  Lab lab(0);
  dm::MappedDevice map("map");
  REQUIRE(lab.set(map, "0 8 zero\n8 8 error") == "");
  std::vector<std::byte> buffer(8 * sector_size, std::byte(7));
  REQUIRE(map.write(0, buffer));
  REQUIRE(map.read(0, buffer));
  CHECK(first_difference(buffer, std::vector<std::byte>(buffer.size())) == std::nullopt);
  REQUIRE(map.discard(0, buffer.size()));
  const auto allocation = map.allocation(0, 16 * sector_size);
  REQUIRE(allocation);
  CHECK(!allocation->data);
  CHECK(allocation->length == 8 * sector_size);
  const auto failed = map.read(8 * sector_size, buffer);
  REQUIRE(!failed);
  CHECK(failed.error().text() == "map: read 4096 at 4096: Input/output error");
  CHECK(!map.write(8 * sector_size, buffer));
  CHECK(!map.discard(8 * sector_size, sector_size));
  CHECK(!map.write_zeroes(0, 16 * sector_size));
  Mapping mapping;
  REQUIRE(map.map(Op::read, 0, map.size(), Wait::no, mapping));
  REQUIRE(mapping.extents().size() == 2);
  CHECK(mapping.extents()[0].kind == Extent::Kind::zero);
  CHECK(mapping.extents()[1].kind == Extent::Kind::error);
  CHECK(map.service(Op::read) == Service::inline_);
}

TEST_CASE("a stack of maps resolves to the disk, whatever its height") {
  Lab lab(1);
  std::vector<std::unique_ptr<dm::MappedDevice>> maps;
  std::string below = "disk0";
  for (int i = 0; i < 20; ++i) {
    maps.push_back(std::make_unique<dm::MappedDevice>("map" + std::to_string(i)));
    REQUIRE(lab.set(*maps.back(), fmt::format("0 {} linear {} 1", 4096 - i, below)) == "");
    lab.add(*maps.back());
    below = maps.back()->name();
  }
  Mapping mapping;
  REQUIRE(maps.back()->map(Op::write, 0, 4096, Wait::no, mapping));
  REQUIRE(mapping.extents().size() == 1);
  CHECK(mapping.extents()[0].device == lab.disks[0].get());
  CHECK(mapping.extents()[0].offset == 20 * sector_size);
}

}  // namespace
}  // namespace volfs::test
