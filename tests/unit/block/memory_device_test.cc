// SPDX-License-Identifier: GPL-2.0-or-later
#include "support/memory_device.h"

#include <doctest/doctest.h>

#include <cerrno>

#include "support/byte_model.h"
#include "volfs/units.h"

using namespace volfs;
using namespace volfs::test;

TEST_CASE("a memory device holds a page only where something was written") {
  MemoryDevice disk("disk", 4 * TiB);
  CHECK(disk.pages() == 0);
  const std::vector<std::byte> ones(512, std::byte{1});
  REQUIRE(disk.write(3 * TiB + 512, ones));
  CHECK(disk.pages() == 1);
  CHECK(disk.peek(3 * TiB + 511, 2) == std::vector{std::byte{0}, std::byte{1}});
  auto hole = disk.allocation(0, 4 * TiB);
  REQUIRE(hole);
  CHECK_FALSE(hole->data);
  CHECK(hole->length == 3 * TiB);
  auto data = disk.allocation(3 * TiB, 1 * TiB);
  REQUIRE(data);
  CHECK(data->data);
  CHECK(data->length == MemoryDevice::page_size);
  REQUIRE(disk.write_zeroes(0, 4 * TiB));
  CHECK(disk.pages() == 0);
}

TEST_CASE("what a discard leaves is what the options say") {
  const std::vector<std::byte> ones(8192, std::byte{1});
  MemoryDevice zeros("zeros", 8192);
  MemoryDevice garbage("garbage", 8192, {.discard = MemoryDevice::Discard::garbage});
  MemoryDevice none("none", 8192, {.discard = MemoryDevice::Discard::unsupported});
  for (MemoryDevice* disk : {&zeros, &garbage, &none}) REQUIRE(disk->write(0, ones));
  CHECK(zeros.discard(512, 4096));
  CHECK(garbage.discard(512, 4096));
  CHECK(none.discard(512, 4096).error().code() == EOPNOTSUPP);
  CHECK(zeros.peek(512, 1)[0] == std::byte{0});
  CHECK(garbage.peek(512, 1)[0] == std::byte{0xd5});
  CHECK(garbage.peek(511, 1)[0] == std::byte{1});
  CHECK(garbage.peek(512 + 4096, 1)[0] == std::byte{1});
  CHECK(none.limits().discard_granularity == 0);
}

TEST_CASE("contents are compared by what they read as") {
  MemoryDevice a("a", MiB), b("b", MiB);
  CHECK(a.same_contents(b));
  REQUIRE(a.write(0, std::vector<std::byte>(512)));
  CHECK(a.same_contents(b));
  CHECK(b.same_contents(a));
  REQUIRE(a.write(512, std::vector<std::byte>(512, std::byte{7})));
  CHECK_FALSE(a.same_contents(b));
  CHECK_FALSE(b.same_contents(a));
  b.copy_from(a);
  CHECK(a.same_contents(b));
}
