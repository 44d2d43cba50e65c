// SPDX-License-Identifier: GPL-2.0-or-later
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <algorithm>

#include <map>
#include <set>
#include <utility>
#include <vector>

#include "volfs/md/layout.h"
#include "volfs/units.h"

using namespace volfs;
using namespace volfs::md;

namespace {

const std::vector<uint32_t> raid5_layouts{0, 1, 2, 3, 4, 5};
const std::vector<uint32_t> raid6_layouts{0, 1, 2, 3, 4, 5, 8, 9, 10, 16, 17, 18, 19, 20};

void check_parity_layout(const Geometry& g) {
  CAPTURE(g.level);
  CAPTURE(g.layout);
  CAPTURE(g.raid_disks);
  auto layout = ParityLayout::make(g);
  REQUIRE(layout);
  const uint64_t rows = uint64_t{g.raid_disks} * (g.raid_disks - 1) * 2;
  std::set<std::pair<uint32_t, uint64_t>> taken;
  for (uint64_t row = 0; row < rows; ++row) {
    RowShape s = layout->shape(row);
    REQUIRE(s.p < g.raid_disks);
    if (g.level == 6) {
      REQUIRE(s.q < g.raid_disks);
      REQUIRE(s.p != s.q);
    } else {
      REQUIRE(s.q == no_slot);
    }
    std::set<uint32_t> slots{s.p}, syndromes;
    if (g.level == 6) slots.insert(s.q);
    for (uint32_t i = 0; i < layout->data_disks(); ++i) {
      uint32_t slot = layout->data_slot(s, i);
      REQUIRE(slot < g.raid_disks);
      REQUIRE(ParityLayout::role(s, slot) == RowRole::data);
      REQUIRE(layout->data_index(s, slot) == i);
      slots.insert(slot);
      if (g.level != 6) continue;
      uint32_t syndrome = layout->syndrome_index(s, slot);
      REQUIRE(syndrome < layout->syndrome_count());
      syndromes.insert(syndrome);
    }
    REQUIRE(slots.size() == g.raid_disks);
    if (g.level == 6) REQUIRE(syndromes.size() == layout->data_disks());
  }
  const uint64_t size = layout->array_size(rows * g.chunk);
  REQUIRE(size == rows * g.chunk * layout->data_disks());
  for (uint64_t at = 0; at < size; at += g.chunk / 2) {
    auto place = layout->map(at + 512);
    REQUIRE(place.offset < rows * g.chunk);
    REQUIRE(place.length == g.chunk - (at + 512) % g.chunk);
    REQUIRE(taken.emplace(place.slot, place.offset).second);
    REQUIRE(layout->array_offset(place.slot, place.offset) == at + 512);
    REQUIRE(layout->array_offset_of(place.row, place.index) == round_down(at, g.chunk));
  }
}

void check_raid10(uint32_t number, uint32_t disks, uint64_t chunk, uint64_t rows) {
  Geometry g{10, number, disks, chunk};
  CAPTURE(layout_name(10, number));
  CAPTURE(disks);
  auto layout = Raid10Layout::make(g, rows * chunk + 1024);
  REQUIRE(layout);
  uint32_t copies = layout->copies();
  std::vector<Place> places(copies);
  std::map<std::pair<uint32_t, uint64_t>, uint64_t> taken;
  for (uint64_t at = 0; at < layout->size(); at += chunk) {
    layout->map(at + 512, places.data());
    for (uint32_t c = 0; c < copies; ++c) {
      const Place& p = places[c];
      REQUIRE(p.slot < disks);
      REQUIRE(p.offset < layout->used_member_size());
      REQUIRE(p.offset < rows * chunk);
      REQUIRE(p.length == chunk - 512);
      REQUIRE(taken.emplace(std::pair(p.slot, p.offset), at).second);
      auto back = layout->array_offset(p.slot, p.offset);
      REQUIRE(back);
      REQUIRE(back->array_offset == at + 512);
      REQUIRE(back->copy == c);
    }
  }
  // What the map does not use, the inverse does not claim.
  for (uint32_t slot = 0; slot < disks; ++slot)
    for (uint64_t at = 512; at < rows * chunk; at += chunk)
      REQUIRE(layout->array_offset(slot, at).has_value() == taken.contains({slot, at}));
  // Every set of lost members, against the copies themselves.
  for (uint32_t set = 0; set < 1u << disks; ++set) {
    SlotSet missing(set);
    bool held = true;
    for (uint64_t at = 0; at < layout->size() && held; at += chunk) {
      layout->map(at, places.data());
      bool any = false;
      for (const Place& p : places) any = any || !missing[p.slot];
      held = any;
    }
    REQUIRE(layout->survives(missing) == held);
    REQUIRE(survives(g, missing) == held);
  }
}

}  // namespace

TEST_CASE("raid4 and raid5 map one to one and parity never collides with data") {
  for (uint64_t chunk : {4 * KiB, 64 * KiB})
    for (uint32_t disks = 2; disks <= 8; ++disks) {
      check_parity_layout({4, 0, disks, chunk});
      for (uint32_t layout : raid5_layouts) check_parity_layout({5, layout, disks, chunk});
    }
}

TEST_CASE("raid6 maps one to one in every layout and each chunk has its own syndrome index") {
  for (uint64_t chunk : {4 * KiB, 64 * KiB})
    for (uint32_t disks = 4; disks <= 8; ++disks)
      for (uint32_t layout : raid6_layouts) check_parity_layout({6, layout, disks, chunk});
}

TEST_CASE("raid5 left-symmetric lies as md documents it") {
  auto layout = *ParityLayout::make({5, parity_layout::left_symmetric, 4, 4096});
  CHECK(layout.shape(0).p == 3);
  CHECK(layout.shape(1).p == 2);
  CHECK(layout.shape(4).p == 3);
  CHECK(layout.map(0).slot == 0);
  CHECK(layout.map(3 * 4096).slot == 3);
  CHECK(layout.map(4 * 4096).slot == 0);
  CHECK(layout.map(5 * 4096 + 7).offset == 4096 + 7);
}

TEST_CASE("raid6 left-symmetric counts the syndrome from the slot after Q") {
  auto layout = *ParityLayout::make({6, parity_layout::left_symmetric, 5, 4096});
  RowShape s = layout.shape(0);  // P on 4, Q on 0, data on 1, 2, 3
  CHECK(s.p == 4);
  CHECK(s.q == 0);
  CHECK(layout.syndrome_index(s, 1) == 0);
  CHECK(layout.syndrome_index(s, 3) == 2);
  s = layout.shape(2);  // P on 2, Q on 3, data on 4, 0, 1
  CHECK(layout.syndrome_index(s, 4) == 0);
  CHECK(layout.syndrome_index(s, 0) == 1);
  CHECK(layout.syndrome_index(s, 1) == 2);
  auto ddf = *ParityLayout::make({6, parity_layout::ddf_n_continue, 5, 4096});
  CHECK(ddf.syndrome_count() == 5);
  CHECK(ddf.syndrome_index(ddf.shape(0), 2) == 2);
}

TEST_CASE("raid10 maps one to one, its inverse agrees and survival is that of the copies") {
  for (uint64_t chunk : {4 * KiB, 64 * KiB})
    for (uint32_t disks = 2; disks <= 8; ++disks)
      for (uint32_t near = 1; near <= disks; ++near)
        for (uint32_t far = 1; near * far <= disks; ++far) {
          if (near * far < 2) continue;
          for (uint32_t flags : {0u, 1u << 16, 2u << 17, 1u << 16 | 2u << 17, 1u << 17}) {
            uint32_t number = near | far << 8 | flags;
            if (far == 1 && flags != 0) continue;
            if (!Raid10Layout::make({10, number, disks, chunk}, 64 * chunk)) {
              // Only these may be refused: Linux maps them ambiguously.
              bool wraps = (flags & 1u << 16) != 0 && disks % near != 0;
              CHECK((wraps || (near > 1 && flags >> 17 != 0)));
              continue;
            }
            check_raid10(number, disks, chunk, 13);
          }
        }
}

TEST_CASE("raid0 with equal members is one zone in every layout") {
  for (uint32_t layout : {0u, 1u, 2u}) {
    const std::vector<uint64_t> sizes(3, 1 * MiB + 512);
    auto raid0 = Raid0Layout::make(sizes, 12 * KiB, layout);
    REQUIRE(raid0);
    CHECK(raid0->zone_count() == 1);
    CHECK(raid0->size() == 3 * 1012 * KiB);  // 2024 sectors, 2040 without the bits of 23
    CHECK(raid0->map(5 * 12 * KiB + 1) == Place{2, 12 * KiB + 1, 12 * KiB - 1});
  }
}

TEST_CASE("raid0 zones map one to one in both layouts and differ in turn") {
  for (uint64_t chunk : {4 * KiB, 64 * KiB})
    for (uint32_t layout : {raid0_layout::original, raid0_layout::alternate})
      for (const auto& units : std::vector<std::vector<uint64_t>>{
               {3, 5}, {5, 3}, {2, 4, 7}, {7, 4, 2}, {4, 4, 9, 9, 1}, {1, 2, 3, 4, 5, 6, 7, 8}}) {
        std::vector<uint64_t> sizes;
        uint64_t total = 0;
        for (uint64_t u : units) {
          sizes.push_back(u * chunk + 512);
          total += u * chunk;
        }
        auto raid0 = Raid0Layout::make(sizes, chunk, layout);
        REQUIRE(raid0);
        REQUIRE(raid0->size() == total);
        std::set<std::pair<uint32_t, uint64_t>> taken;
        for (uint64_t at = 1024; at < total; at += chunk) {
          Place p = raid0->map(at);
          REQUIRE(p.slot < sizes.size());
          REQUIRE(p.offset < units[p.slot] * chunk);
          REQUIRE(p.length == chunk - 1024);
          REQUIRE(taken.emplace(p.slot, p.offset).second);
          REQUIRE(raid0->array_offset(p.slot, p.offset) == at);
        }
        REQUIRE(taken.size() == total / chunk);
        REQUIRE(!raid0->array_offset(0, units[0] * chunk));
        // A range in parts holds the same bytes as its pieces in order.
        const uint64_t begin = round_down(total / 5, 512), length = round_down(total / 2, 512);
        std::set<std::pair<uint32_t, uint64_t>> sectors, of_parts;
        for (uint64_t at = begin; at < begin + length; at += 512) {
          const Place p = raid0->map(at);
          sectors.emplace(p.slot, p.offset);
        }
        size_t parts = 0;
        raid0->for_each_part(begin, length, [&](uint32_t slot, uint64_t at, uint64_t size) {
          ++parts;
          for (uint64_t i = 0; i < size; i += 512) REQUIRE(of_parts.emplace(slot, at + i).second);
        });
        REQUIRE(sectors == of_parts);
        REQUIRE(parts <= sizes.size() * raid0->zone_count());
      }
}

// Sizes that Linux 7.2 gave to arrays of such members, KiB.
TEST_CASE("a raid0 whose chunk is no power of two ends where Linux ends it") {
  struct Case {
    uint64_t chunk;
    std::vector<uint64_t> members;
    uint64_t size;
  };
  const Case cases[] = {
      {12, {8184, 13308, 19452, 26616}, 67528}, {4, {8192, 13312, 19456, 26624}, 67584},
      {20, {8180, 13300, 19440, 26620}, 67476}, {24, {8184, 13296}, 21448},
      {12, {8184, 8184, 8184}, 24528},          {12, {8196, 8196, 8196}, 24588},
      {100, {8100, 8200, 11200}, 27404},        {12, {8184, 8196, 8196}, 24568}};
  for (const Case& each : cases)
    for (uint32_t layout : {raid0_layout::original, raid0_layout::alternate}) {
      INFO("chunk ", each.chunk, " KiB, size ", each.size);
      std::vector<uint64_t> sizes;
      for (const uint64_t member : each.members) sizes.push_back(member * KiB);
      const auto raid0 = Raid0Layout::make(sizes, each.chunk * KiB, layout);
      REQUIRE(raid0);
      CHECK(raid0->size() == each.size * KiB);
      const Place last = raid0->map(raid0->size() - 1);
      CHECK(raid0->array_offset(last.slot, last.offset) == raid0->size() - 1);
      if (last.length > 1) CHECK(!raid0->array_offset(last.slot, last.offset + 1));
      if (std::adjacent_find(sizes.begin(), sizes.end(), std::not_equal_to<>()) != sizes.end())
        continue;
      CHECK(array_size({0, 0, static_cast<uint32_t>(sizes.size()), each.chunk * KiB}, sizes[0]) ==
            each.size * KiB);
    }
}

TEST_CASE("raid0 with unequal members and no recorded layout is refused with the choice named") {
  const std::vector<uint64_t> sizes{1 * MiB, 2 * MiB};
  auto raid0 = Raid0Layout::make(sizes, 64 * KiB, raid0_layout::unknown);
  REQUIRE(!raid0);
  CHECK(raid0.error().text().find("original") != std::string::npos);
}

TEST_CASE("linear runs through the members and inverts") {
  const std::vector<uint64_t> sizes{100 * KiB, 50 * KiB, 9 * KiB};
  auto linear = LinearLayout::make(sizes, 0);
  REQUIRE(linear);
  CHECK(linear->size() == 159 * KiB);
  CHECK(linear->map(0) == Place{0, 0, 100 * KiB});
  CHECK(linear->map(100 * KiB) == Place{1, 0, 50 * KiB});
  CHECK(linear->map(159 * KiB - 1) == Place{2, 9 * KiB - 1, 1});
  CHECK(linear->map(159 * KiB).slot == no_slot);
  CHECK(linear->array_offset(2, 1) == 150 * KiB + 1);
  CHECK(!linear->array_offset(2, 9 * KiB));
  CHECK(LinearLayout::make(sizes, 8 * KiB)->size() == (96 + 48 + 8) * KiB);
}

TEST_CASE("survival of the simple levels is a count") {
  auto lost = [](std::initializer_list<uint32_t> slots) {
    SlotSet set;
    for (uint32_t s : slots) set[s] = true;
    return set;
  };
  CHECK(survives({0, 1, 2, 4096}, lost({})));
  CHECK(!survives({0, 1, 2, 4096}, lost({1})));
  CHECK(!survives({level_linear, 0, 2, 0}, lost({0})));
  CHECK(survives({1, 0, 3, 0}, lost({0, 2})));
  CHECK(!survives({1, 0, 2, 0}, lost({0, 1})));
  CHECK(survives({5, 2, 3, 4096}, lost({0})));
  CHECK(!survives({5, 2, 3, 4096}, lost({0, 1})));
  CHECK(survives({6, 2, 4, 4096}, lost({0, 1})));
  CHECK(!survives({6, 2, 4, 4096}, lost({0, 1, 3})));
  // A slot beyond the array does not count.
  CHECK(survives({5, 2, 3, 4096}, lost({0, 3})));
}

TEST_CASE("geometries Linux refuses are refused with the reason") {
  CHECK(check_geometry({5, 2, 3, 4096}));
  for (const Geometry& g :
       {Geometry{5, 6, 3, 4096}, Geometry{5, 2, 1, 4096}, Geometry{6, 2, 3, 4096},
        Geometry{6, 7, 4, 4096}, Geometry{5, 2, 3, 2048}, Geometry{5, 2, 3, 12288},
        Geometry{10, 0x102, 1, 4096}, Geometry{10, 0x101, 2, 4096}, Geometry{10, 0x302, 4, 4096},
        Geometry{10, 0x60102, 4, 4096}, Geometry{0, 3, 2, 4096}, Geometry{0, 1, 2, 0},
        Geometry{1, 0, 0, 0}, Geometry{1, 0, 1921, 0}, Geometry{7, 0, 2, 0},
        Geometry{level_multipath, 0, 2, 0}, Geometry{6, 2, 257, 4096}}) {
    CAPTURE(g.level);
    CAPTURE(g.layout);
    auto status = check_geometry(g);
    REQUIRE(!status);
    CHECK(!status.error().text().empty());
  }
}

TEST_CASE("names of levels and layouts read back") {
  for (int32_t level : {level_linear, 0, 1, 4, 5, 6, 10})
    CHECK(*parse_level(level_name(level)) == level);
  CHECK(*parse_level("5") == 5);
  CHECK(!parse_level("raid7"));
  for (uint32_t layout : raid5_layouts) CHECK(*parse_layout(5, layout_name(5, layout)) == layout);
  for (uint32_t layout : raid6_layouts) CHECK(*parse_layout(6, layout_name(6, layout)) == layout);
  for (uint32_t layout : {0x102u, 0x201u, 0x10201u, 0x202u, 0x10301u, 0x50201u, 0x30201u, 0x40202u})
    CHECK(*parse_layout(10, layout_name(10, layout)) == layout);
  CHECK(layout_name(10, 0x102) == "n2");
  CHECK(layout_name(10, 0x10301) == "o3");
  CHECK(*parse_layout(5, "ls") == 2);
  CHECK(*parse_layout(6, "default") == 2);
  CHECK(*parse_layout(0, "alternate") == 2);
  CHECK(!parse_layout(5, "left-symmetric-6"));
  CHECK(!parse_layout(10, "x2"));
  CHECK(!parse_layout(10, "n2x"));
  CHECK(!parse_layout(1, "n2"));
}

TEST_CASE("array sizes are md's") {
  CHECK(array_size({5, 2, 4, 64 * KiB}, 1 * MiB + 5) == 3 * MiB);
  CHECK(array_size({6, 2, 5, 64 * KiB}, 1 * MiB) == 3 * MiB);
  CHECK(array_size({1, 0, 2, 0}, 12345 * 512) == 12345 * 512);
  CHECK(array_size({10, 0x102, 3, 64 * KiB}, 1 * MiB) == 24 * 64 * KiB);
  CHECK(array_size({10, 0x201, 3, 64 * KiB}, 17 * 64 * KiB) == 24 * 64 * KiB);
  CHECK(array_size({0, 1, 3, 64 * KiB}, 1 * MiB + 1) == 3 * MiB);
}
