// SPDX-License-Identifier: GPL-2.0-or-later
// raid5 with a partial parity log: after a power cut nothing but what was being written is lost,
// even if a member is lost with it.
#include <algorithm>

#include "array_rig.h"
#include "md/ppl_format.h"
#include "support/sim_scheduler.h"

namespace volfs::md {
namespace {

using namespace test;

Shape with_ppl(uint32_t layout, uint32_t disks, SuperblockVersion version) {
  Shape shape{5, layout, disks, 4 * KiB, version};
  shape.ppl = true;
  return shape;
}

TEST_CASE("a PPL header reads back, and is none with any byte changed") {
  PplHeaderBytes bytes;
  const PplEntry entries[] = {{64 * KiB, 8 * KiB, 4 * KiB, 2, 0x1234}, {0, 12 * KiB, 0, 2, 0}};
  encode_ppl_header(77, 5, entries, bytes);
  const auto header = decode_ppl_header(77, bytes);
  REQUIRE(header);
  CHECK(header->generation == 5);
  REQUIRE(header->entries.size() == 2);
  CHECK(header->entries[0].data_offset == 64 * KiB);
  CHECK(header->entries[0].checksum == 0x1234);
  CHECK(header->partial_size() == 4 * KiB);
  CHECK(!decode_ppl_header(78, bytes));
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] ^= std::byte{0x40};
    CHECK(!decode_ppl_header(77, bytes));
    bytes[i] ^= std::byte{0x40};
  }
}

struct Change {
  size_t begun, ended;
  Range range;
};

// No sector that no write since the START of the log touched has changed.
void must_keep(const std::vector<std::byte>& is, const std::vector<std::byte>& was,
               const std::vector<Change>& changes, size_t point) {
  for (uint64_t at = 0; at < was.size(); at += 512) {
    const bool in_the_air = std::any_of(changes.begin(), changes.end(), [&](const Change& c) {
      return c.begun <= point && at >= c.range.offset && at < c.range.offset + c.range.length;
    });
    const auto from = static_cast<std::ptrdiff_t>(at);
    if (!in_the_air && !std::equal(is.begin() + from, is.begin() + from + 512, was.begin() + from))
      FAIL("the sector at ", at, " was lost, which nobody wrote");
  }
}

// Writes that are never flushed, each cut at every point; then one member is gone, too.
void cut_and_lose(uint64_t seed, const Shape& shape, bool lose) {
  Random random(seed);
  CrashRig rig(shape, 64 * KiB);
  auto array = must(Array::assemble(rig.devices, {}));
  const auto content = random_bytes(random, array->size());
  must(array->write(0, content));
  must(array->flush());
  const size_t start = rig.log.size();
  std::vector<Change> changes;
  for (int i = 0; i < 8; ++i) {
    const size_t begun = rig.log.size();
    const auto range =
        random_range(random, array->size(), 512, random.one_in(3) ? 32 * KiB : 4 * KiB);
    if (random.one_in(5))
      must(array->write_zeroes(range.offset, range.length));
    else
      must(array->write(range.offset, random_bytes(random, range.length)));
    changes.push_back({begun, rig.log.size(), range});
  }
  const uint64_t size = array->size();
  array.reset();
  for (size_t point = start; point <= changes.back().ended; point += 1 + random.below(2)) {
    const size_t lost = lose ? random.below(rig.disks.size()) : rig.disks.size();
    INFO("cut at ", point, ", lost ", lost);
    const auto left = rig.cut(point, CrashKeep::some(seed + point), lost);
    auto again = must(Array::assemble(left.devices, {}));
    const auto bytes = read_bytes(*again, 0, size);
    must_keep(bytes, content, changes, point);
    REQUIRE(again->wait_sync());
    if (!lose) must_agree(*again);
    CHECK(read_bytes(*again, 0, size) == bytes);
  }
}

TEST_CASE("with a PPL a power cut with the loss of a member costs only what was being written") {
  simulate(1, [](uint64_t seed) {
    const SimScheduler sim(seed);
    for (const Shape& shape :
         {with_ppl(2, 3, SuperblockVersion::v1_2), with_ppl(0, 4, SuperblockVersion::v1_1),
          with_ppl(3, 5, SuperblockVersion::v1_2)}) {
      INFO("VOLFS_SEED=", seed, " ", shape.text());
      cut_and_lose(seed, shape, true);
    }
  });
}

TEST_CASE("with a PPL parity agrees after a power cut, without a resync") {
  simulate(1, [](uint64_t seed) {
    const SimScheduler sim(seed);
    cut_and_lose(seed, with_ppl(2, 4, SuperblockVersion::v1_2), false);
  });
}

TEST_CASE(
    "no log with a right checksum and wrong entries makes assembly crash or write outside of "
    "parity") {
  simulate(1, [](uint64_t seed) {
    const SimScheduler sim(seed);
    INFO("VOLFS_SEED=", seed);
    Random random(seed);
    const Shape shape = with_ppl(2, 4, SuperblockVersion::v1_2);
    Rig rig(shape);
    ArrayOptions options;
    options.hold_sync = true;
    options.safe_mode_delay = std::chrono::hours(1);
    Array& dirty = rig.assemble(options);
    const auto content = random_bytes(random, dirty.size());
    must(dirty.write(0, content));
    const auto sb = must(scan(*rig.disks[0]));
    const uint32_t signature = ppl_signature(sb->array.uuid);
    const auto number = [&]() -> uint64_t {
      const uint64_t units[] = {0, 512, 4 * KiB, 4 * KiB * random.below(40),
                                512 * random.below(4000)};
      return random.one_in(8) ? random.next() >> random.below(40) & ~uint64_t{511}
                              : units[random.below(5)];
    };
    for (int i = 0; i < 300; ++i) {
      Rig after(shape);
      for (size_t d = 0; d < 4; ++d) after.disks[d]->copy_from(*rig.disks[d]);
      for (size_t d = 0; d < 4; ++d) {
        std::vector<PplEntry> entries(random.below(4));
        for (PplEntry& entry : entries) {
          const auto size = static_cast<uint32_t>(number());
          // What it stands for is zeros.
          const std::vector<std::byte> partial(std::min<uint32_t>(size, 1 * MiB));
          entry = {number() & (max_device_size - 1), static_cast<uint32_t>(number()), size,
                   static_cast<uint32_t>(random.below(5)), ~ppl_checksum(~0u, partial)};
        }
        PplHeaderBytes header;
        encode_ppl_header(signature, 1, entries, header);
        after.disks[d]->poke_zeros(sb->ppl_position(), sb->ppl_size);
        must(after.disks[d]->write(sb->ppl_position(), header));
      }
      if (auto array = Array::assemble(after.devices(), options))
        CHECK(read_bytes(**array, 0, content.size()) == content);
    }
  });
}

// Writes to an array without one member of which some find no room half the way, each cut at every
// point.
TEST_CASE("an array whose PPL does not hold what found no room is not started without a member") {
  simulate(2, [](uint64_t seed) {
    const SimScheduler sim(seed);
    INFO("VOLFS_SEED=", seed);
    Random random(seed);
    CrashRig rig(with_ppl(2, 3, SuperblockVersion::v1_2), 64 * KiB);
    std::vector<std::unique_ptr<FaultDevice>> faults;
    std::vector<BlockDevice*> devices;
    for (const auto& disk : rig.disks) {
      faults.push_back(std::make_unique<FaultDevice>(*disk, faults.size() + 1));
      devices.push_back(faults.back().get());
    }
    auto array = must(Array::assemble(devices, {}));
    const auto content = random_bytes(random, array->size());
    must(array->write(0, content));
    const size_t lost = random.below(3);
    must(array->fail(rig.disks[lost]->name()));
    must(array->remove(rig.disks[lost]->name()));
    must(array->flush());
    const size_t start = rig.log.size();
    for (const auto& fault : faults)
      fault->add({.op = FaultOp::write,
                  .begin = must(scan(*fault))->data_offset,
                  .one_in = 6,
                  .error = ENOSPC,
                  .torn = 512});
    std::vector<Change> changes;
    for (int full = 0; full < 2;) {
      const size_t begun = rig.log.size();
      const auto range = random_range(random, array->size(), 512, 6 * KiB);
      full += !array->write(range.offset, random_bytes(random, range.length));
      changes.push_back({begun, rig.log.size(), range});
    }
    for (const auto& fault : faults) fault->remove_all();
    array.reset();
    size_t started = 0, refused = 0;
    for (size_t point = start; point <= rig.log.size(); ++point) {
      INFO("cut at ", point, ", lost ", lost);
      const auto left = rig.cut(point, CrashKeep::some(seed + point), lost);
      const auto again = Array::assemble(left.devices, {});
      ++(again ? started : refused);
      if (again) must_keep(read_bytes(**again, 0, content.size()), content, changes, point);
    }
    CHECK(started > 0);
    CHECK(refused > 0);
  });
}

TEST_CASE("what a resync had yet to do when the power went it does then, log or not") {
  simulate(1, [](uint64_t seed) {
    const SimScheduler sim(seed);
    INFO("VOLFS_SEED=", seed);
    Random random(seed);
    const Shape shape = with_ppl(2, 3, SuperblockVersion::v1_2);
    Rig rig(shape);
    ArrayOptions held;
    held.hold_sync = true;
    held.safe_mode_delay = std::chrono::hours(1);
    must(rig.assemble(held).write(0, random_bytes(random, 64 * KiB)));
    const auto crashed = [&shape](const Rig& from) {
      auto after = std::make_unique<Rig>(shape);
      for (size_t i = 0; i < 3; ++i) after->disks[i]->copy_from(*from.disks[i]);
      return after;
    };
    // No log: a resync is due.
    const auto second = crashed(rig);
    const auto sb = must(scan(*second->disks[1]));
    second->disks[1]->poke_zeros(sb->ppl_position(), sb->ppl_size);
    second->disks[1]->poke(sb->data_offset, random_bytes(random, 32 * KiB));
    CHECK(!second->assemble(held).status().clean);
    for (uint64_t chunk = 8; chunk < 14; ++chunk)
      must(second->array->write(chunk * 4 * KiB, random_bytes(random, 512)));
    const auto third = crashed(*second);
    CHECK(!third->assemble(held).status().clean);
    third->array->hold_sync(false);
    REQUIRE(third->array->wait_sync());
    must_agree(*third->array);
  });
}

TEST_CASE("logs of members are used only if they are sound, and never by who only reads") {
  Rig rig(with_ppl(2, 3, SuperblockVersion::v1_2));
  std::vector<std::byte> block(4 * KiB, std::byte{1});
  ArrayOptions held;
  held.hold_sync = true;
  held.safe_mode_delay = std::chrono::hours(1);
  must(rig.assemble(held).write(0, block));
  // As if the power had gone here.
  Rig after(with_ppl(2, 3, SuperblockVersion::v1_2));
  for (size_t i = 0; i < 3; ++i) after.disks[i]->copy_from(*rig.disks[i]);
  std::vector<std::vector<std::byte>> before;
  for (size_t i = 0; i < 3; ++i)
    before.push_back(read_bytes(*after.disks[i], 0, after.disks[i]->size()));
  ArrayOptions read_only;
  read_only.read_only = true;
  after.assemble(read_only);
  after.array.reset();
  for (size_t i = 0; i < 3; ++i)
    CHECK(read_bytes(*after.disks[i], 0, after.disks[i]->size()) == before[i]);
  // Chunk 0 of a left-symmetric raid5 of 3: its parity is on the last.
  const uint64_t log = must(scan(*after.disks[2]))->ppl_position();
  for (const bool torn : {false, true}) {
    for (size_t i = 0; i < 3; ++i) after.disks[i]->copy_from(*rig.disks[i]);
    if (torn) must(after.disks[2]->write(log + 4096, std::span<const std::byte>(block).first(512)));
    CHECK(after.assemble(held).status().clean == !torn);
    after.array->hold_sync(false);
    REQUIRE(after.array->wait_sync());
    must_agree(*after.array);
    after.array.reset();
  }
}

}  // namespace
}  // namespace volfs::md
