// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/units.h"

#include <doctest/doctest.h>

#include <cerrno>

using namespace volfs;

TEST_CASE("sizes are read as definitions write them") {
  CHECK(parse_size("0").value() == 0);
  CHECK(parse_size("4096").value() == 4096);
  CHECK(parse_size("4KiB").value() == 4096);
  CHECK(parse_size("4k").value() == 4096);
  CHECK(parse_size("3 MiB").value() == 3 * MiB);
  CHECK(parse_size("8s").value() == 4096);
  CHECK(parse_size("1.5GiB").value() == GiB + GiB / 2);
  CHECK(parse_size("2T").value() == 2 * TiB);
}

TEST_CASE("what is no size is refused, with what was found") {
  for (const char* text :
       {"", "x", "-1", "4 KB", "4KiBs", "1.", ".5K", "1.5", "0x10", "4  K", "4 "}) {
    CAPTURE(text);
    const auto size = parse_size(text);
    REQUIRE(!size);
    CHECK(size.error().code() == EINVAL);
    CHECK(size.error().text().find("'" + std::string(text) + "'") == 0);
  }
  CHECK(parse_size("99999999999999999999").error().code() == ERANGE);
  CHECK(parse_size("9000PiB").error().code() == ERANGE);
}

TEST_CASE("a written size reads back as itself") {
  for (uint64_t size : {uint64_t{0}, uint64_t{1}, sector_size, KiB, 3 * MiB, MiB + 1, 5 * TiB})
    CHECK(parse_size(format_size(size)).value() == size);
  CHECK(format_size_rounded(GiB + GiB / 2) == "1.50GiB");
}

TEST_CASE("range_within knows no overflow") {
  CHECK(range_within(0, 10, 10));
  CHECK(range_within(10, 0, 10));
  CHECK(!range_within(1, 10, 10));
  CHECK(!range_within(~uint64_t{0}, 2, 10));
  CHECK(!range_within(5, ~uint64_t{0}, 10));
}
