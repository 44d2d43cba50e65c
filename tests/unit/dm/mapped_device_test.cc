// SPDX-License-Identifier: GPL-2.0-or-later
#include "fixture.h"
#include "support/byte_model.h"

namespace volfs::test {
namespace {

TEST_CASE("a mapped device joins ranges of disks") {
  Lab lab(2);
  dm::MappedDevice map("map");
  CHECK(map.size() == 0);
  REQUIRE(lab.set(map, "0 8 linear disk0 100\n8 8 zero\n16 16 linear disk1 0\n") == "");
  CHECK(map.size() == 32 * sector_size);
  CHECK(map.table() == "0 8 linear disk0 100\n8 8 zero \n16 16 linear disk1 0\n");
  CHECK(map.status() == "0 8 linear \n8 8 zero \n16 16 linear \n");
  Random random(1);
  const auto bytes = random_bytes(random, 32 * sector_size);
  REQUIRE(map.write(0, bytes));
  CHECK(first_difference(lab.disks[0]->peek(100 * sector_size, 8 * sector_size),
                         std::span(bytes).subspan(0, 8 * sector_size)) == std::nullopt);
  CHECK(first_difference(lab.disks[1]->peek(0, 16 * sector_size),
                         std::span(bytes).subspan(16 * sector_size)) == std::nullopt);
  const auto back = read_bytes(map, 8 * sector_size, 8 * sector_size);
  CHECK(std::all_of(back.begin(), back.end(), [](std::byte b) { return b == std::byte(0); }));
}

}  // namespace
}  // namespace volfs::test
