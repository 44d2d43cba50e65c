// SPDX-License-Identifier: GPL-2.0-or-later
// What event counts decide, and where they are not enough: halves of an array that were written
// apart.
#include <fmt/ranges.h>

#include <algorithm>
#include <string>

#include "array_rig.h"

namespace volfs::md {
namespace {

using namespace test;

constexpr SuperblockVersion versions[] = {SuperblockVersion::v0_90, SuperblockVersion::v1_0,
                                          SuperblockVersion::v1_1, SuperblockVersion::v1_2};

using Half = std::vector<size_t>;

std::vector<BlockDevice*> members_of(const Rig& rig, const Half& half) {
  std::vector<BlockDevice*> list;
  for (const size_t disk : half) list.push_back(rig.faults[disk].get());
  return list;
}

// Each half is started without the other, and written.
void write_apart(Rig& rig, const std::vector<Half>& halves) {
  for (size_t i = 0; i < halves.size(); ++i) {
    rig.array.reset();
    Array& alone = rig.assemble(members_of(rig, halves[i]));
    must(alone.write(i * 4 * KiB, std::vector<std::byte>(4 * KiB, std::byte(i + 1))));
    must(alone.stop());
  }
  rig.array.reset();
}

std::vector<std::vector<std::byte>> contents(const Rig& rig) {
  std::vector<std::vector<std::byte>> all;
  all.reserve(rig.disks.size());
  for (const auto& disk : rig.disks) all.push_back(read_bytes(*disk, 0, disk->size()));
  return all;
}

// Assembles all and lets sync do what it wants: TAKEN is shown and nothing of the others changes.
void check_taken(Rig& rig, const std::vector<Half>& halves, size_t taken) {
  const auto before = contents(rig);
  for (const bool backwards : {false, true})
    for (const bool force : {false, true}) {
      INFO("backwards ", backwards, ", force ", force);
      auto devices = rig.devices();
      if (backwards) std::ranges::reverse(devices);
      ArrayOptions options;
      options.force = force;
      Array& array = rig.assemble(devices, options);
      (void)array.wait_sync();
      CHECK(array.status().state == ArrayState::degraded);
      CHECK(array.status().members.size() == halves[taken].size());
      CHECK(read_bytes(array, taken * 4 * KiB, 512)[0] == std::byte(taken + 1));
      CHECK(read_bytes(array, (1 - taken) * 4 * KiB, 512)[0] == std::byte(0));
      must(array.write(64 * KiB, std::vector<std::byte>(4 * KiB, std::byte{9})));
      must(array.stop());
      rig.array.reset();
      const auto after = contents(rig);
      for (const size_t disk : halves[1 - taken]) CHECK(after[disk] == before[disk]);
      for (size_t i = 0; i < before.size(); ++i) must(rig.disks[i]->write(0, before[i]));
    }
}

void let_differ(Rig& rig, const Half& half, uint64_t events, uint64_t seconds) {
  for (const size_t disk : half)
    change(rig, disk, [&](MemberMetadata& sb) {
      sb.array.events += events;
      sb.array.utime.seconds += seconds;
    });
}

TEST_CASE("of halves that were written apart the freshest is taken, and the other left as it is") {
  struct Case {
    Shape shape;
    std::vector<Half> halves;
  };
  const Case cases[] = {{{1, 0, 2}, {{0}, {1}}},
                        {{1, 0, 3}, {{0, 2}, {1}}},
                        {{5, 2, 2}, {{1}, {0}}},
                        {{6, 2, 4}, {{0, 1}, {2, 3}}},
                        {{10, 0x102, 4}, {{0, 2}, {1, 3}}}};
  for (const Case& each : cases)
    for (const SuperblockVersion version : versions)
      for (const bool bitmap : {false, true})
        for (const uint64_t events : {0, 1, 50})
          for (const size_t taken : {0, 1}) {
            Shape shape = each.shape;
            shape.version = version;
            shape.bitmap = bitmap;
            INFO(shape.text(), ", ", events, " events, half ", taken);
            Rig rig(shape);
            must(rig.assemble().stop());
            write_apart(rig, each.halves);
            // Where the counts are the same, who was updated last.
            let_differ(rig, each.halves[taken], events, events == 0 ? 100 : 0);
            check_taken(rig, each.halves, taken);
          }
}

// Of one half a disk was rebuilt into the slot of the other: by number and slot they do not meet.
TEST_CASE("a half whose missing member was replaced is not taken for spares of the other") {
  for (const SuperblockVersion version : versions) {
    INFO("metadata ", version_name(version));
    Rig rig({1, 0, 2, 0, version});
    rig.add_disk();
    {
      Array& half = rig.assemble(members_of(rig, {1}));
      must(half.add(*rig.faults[2]));
      REQUIRE(half.wait_sync());
      must(half.write(0, std::vector<std::byte>(4 * KiB, std::byte{2})));
      must(half.stop());
      rig.array.reset();
    }
    while (rig.superblock(0).array.events < rig.superblock(1).array.events) {
      Array& alone = rig.assemble(members_of(rig, {0}));
      must(alone.write(0, std::vector<std::byte>(4 * KiB, std::byte{1})));
      must(alone.stop());
      rig.array.reset();
    }
    const uint64_t events = rig.superblock(0).array.events;
    // The one, the other, and both as fresh.
    for (const int ahead : {-1, 0, 1}) {
      INFO("ahead ", ahead);
      for (size_t disk = 0; disk < 3; ++disk)
        change(rig, disk, [&](MemberMetadata& sb) {
          sb.array.events = events + 2 + static_cast<uint64_t>(disk == 0 ? ahead : 0);
        });
      const auto before = contents(rig);
      if (version == SuperblockVersion::v0_90 && ahead == 0) {
        // Two with one number.
        CHECK(!Array::assemble(rig.devices(), {}));
        continue;
      }
      for (const bool backwards : {false, true}) {
        auto devices = rig.devices();
        if (backwards) std::ranges::reverse(devices);
        Array& array = rig.assemble(devices);
        (void)array.wait_sync();
        const auto shown = read_bytes(array, 0, 4 * KiB);
        const auto first = shown.front();
        CHECK(std::ranges::all_of(shown, [&](std::byte b) { return b == first; }));
        const bool is_second = first == std::byte{2};
        must(array.stop());
        rig.array.reset();
        const auto after = contents(rig);
        for (const size_t disk : is_second ? Half{0} : Half{1, 2})
          CHECK(after[disk] == before[disk]);
        for (size_t i = 0; i < before.size(); ++i) must(rig.disks[i]->write(0, before[i]));
      }
    }
  }
}

// Starts HALF alone, rebuilds NEW disks into the empty slots, and writes it all over with BYTE.
void rebuild_half(Rig& rig, const Half& half, size_t news, std::byte byte) {
  Array& alone = rig.assemble(members_of(rig, half));
  for (size_t i = 0; i < news; ++i) must(alone.add(*rig.faults[rig.add_disk()]));
  REQUIRE(alone.wait_sync());
  must(alone.write(0, std::vector<std::byte>(alone.size(), byte)));
  must(alone.stop());
  rig.array.reset();
}

// Slots and numbers of 0.90 are given anew: only by them the other half's devices look like one's
// own.
TEST_CASE("halves whose missing members were replaced are not put together, one event apart") {
  struct Case {
    Shape shape;
    Half first, second;
    size_t news[2];
    std::vector<Half> given;
  };
  const Case cases[] = {
      {{1, 0, 2}, {0}, {1}, {1, 0}, {{0, 1}, {1, 2}, {0, 1, 2}}},
      {{1, 0, 2}, {0}, {1}, {1, 1}, {{0, 1}, {2, 3}, {1, 3, 0}}},
      {{1, 0, 3}, {1}, {2}, {1, 1}, {{1, 4}, {2, 3}, {1, 2, 4}}},
      {{6, 2, 4}, {0, 1}, {2, 3}, {2, 0}, {{2, 3, 4}, {2, 3, 5}, {0, 1, 3}, {0, 4, 2}}},
      {{10, 0x102, 4}, {0, 2}, {1, 3}, {2, 2}, {{0, 2, 1, 3}, {0, 2, 1}, {1, 3, 4, 5}}}};
  for (const Case& each : cases)
    for (const SuperblockVersion version : versions)
      for (const int ahead : {-1, 0, 1}) {
        Shape shape = each.shape;
        shape.version = version;
        INFO(shape.text(), ", ahead ", ahead);
        Rig rig(shape);
        must(rig.assemble().stop());
        rig.array.reset();
        rebuild_half(rig, each.first, each.news[0], std::byte{1});
        rebuild_half(rig, each.second, each.news[1], std::byte{2});
        const auto of_first = [&](size_t disk) {
          return std::ranges::find(each.first, disk) != each.first.end() ||
                 (disk >= shape.disks && disk < shape.disks + each.news[0]);
        };
        for (size_t disk = 0; disk < rig.disks.size(); ++disk)
          change(rig, disk, [&](MemberMetadata& sb) {
            sb.array.events = 100 + static_cast<uint64_t>(of_first(disk) ? ahead : 0);
          });
        for (const Half& given : each.given)
          for (const bool backwards : {false, true}) {
            Half order = given;
            if (backwards) std::ranges::reverse(order);
            INFO("given ", fmt::format("{}", fmt::join(order, " ")));
            ArrayOptions options;
            options.read_only = true;
            const auto array = Array::assemble(members_of(rig, order), options);
            if (!array) continue;
            const auto shown = read_bytes(**array, 0, (*array)->size());
            CHECK((shown.front() == std::byte{1} || shown.front() == std::byte{2}));
            CHECK(std::ranges::all_of(shown, [&](std::byte b) { return b == shown.front(); }));
            for (const MemberStatus& member : (*array)->status().members) {
              const size_t disk = std::stoul(member.device.substr(4));
              CHECK(of_first(disk) == (shown.front() == std::byte{1}));
            }
          }
      }
}

TEST_CASE("of halves that cannot be told apart by age the one with the lower slot is taken") {
  for (const SuperblockVersion version : versions) {
    Rig rig({1, 0, 2, 64 * KiB, version});
    must(rig.assemble().stop());
    write_apart(rig, {{0}, {1}});
    for (const size_t disk : {0, 1})
      change(rig, disk, [](MemberMetadata& sb) { sb.array.utime = {1700000000, 0}; });
    REQUIRE(rig.superblock(0).array.events == rig.superblock(1).array.events);
    check_taken(rig, {{0}, {1}}, 0);
  }
}

// Too few are left of either half.
TEST_CASE(
    "what was written apart is only put together where it is forced and nothing else is there") {
  Rig rig({6, 2, 4});
  must(rig.assemble().stop());
  write_apart(rig, {{0, 1}, {2, 3}});
  const auto left = members_of(rig, {0, 2});
  const auto refused = Array::assemble(left, {});
  REQUIRE(!refused);
  CHECK(refused.error().text() ==
        "md0: too few members of 4: slots 1, 2, 3 are missing or not in sync; force would use "
        "disk2, which was written apart, and mix what they hold");
  ArrayOptions force;
  force.force = force.read_only = true;
  CHECK(rig.assemble(left, force).status().members.size() == 2);
}

TEST_CASE("a half that is added gets all anew that it was written alone, with a bitmap too") {
  for (const bool again : {true, false})
    for (const bool bitmap : {true, false}) {
      if (again && !bitmap) continue;
      INFO("bitmap ", bitmap, ", re-add ", again);
      Rig rig({1, 0, 2, 64 * KiB, SuperblockVersion::v1_2, bitmap});
      must(rig.assemble().stop());
      write_apart(rig, {{0}, {1}});
      let_differ(rig, {0}, 3, 0);
      Array& array = rig.assemble();
      must(again ? array.re_add(*rig.faults[1]) : array.add(*rig.faults[1]));
      REQUIRE(array.wait_sync());
      CHECK(array.status().state == ArrayState::active);
      must_agree(array);
      CHECK(read_bytes(array, 0, 512)[0] == std::byte(1));
      CHECK(read_bytes(array, 4 * KiB, 512)[0] == std::byte(0));
    }
}

// As md: its last update may just not have reached it.
TEST_CASE("a member that is one event behind is in sync, one that is two behind is out of date") {
  for (const SuperblockVersion version : versions)
    for (const Shape& like : {Shape{1, 0, 2}, Shape{5, 2, 3}, Shape{6, 2, 4}, Shape{10, 0x102, 4}})
      for (const bool bitmap : {false, true})
        for (const bool dirty : {false, true})
          for (const size_t behind : {size_t{0}, like.disks - size_t{1}}) {
            Shape shape = like;
            shape.version = version;
            shape.bitmap = bitmap;
            INFO(shape.text(), dirty ? ", dirty" : ", clean", ", member ", behind);
            for (const uint64_t events : {1, 2}) {
              Rig rig(shape);
              for (size_t disk = 0; disk < shape.disks; ++disk)
                change(rig, disk, [&](MemberMetadata& sb) {
                  sb.array.events = 10 - (disk == behind ? events : 0);
                  if (dirty) sb.array.resync_offset = 0;
                });
              ArrayOptions options;
              options.read_only = true;
              const ArrayStatus status = rig.assemble(options).status();
              CHECK(status.state == (events == 1 ? ArrayState::active : ArrayState::degraded));
              CHECK(status.clean == !dirty);
              CHECK(status.members.size() == shape.disks - (events == 1 ? 0 : 1));
            }
          }
}

}  // namespace
}  // namespace volfs::md
