// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/mapping.h"

#include <doctest/doctest.h>

#include <cerrno>
#include <vector>

#include "support/memory_device.h"
#include "volfs/gate.h"
#include "volfs/units.h"

using namespace volfs;
using namespace volfs::test;

TEST_CASE("extents that continue each other are one") {
  MemoryDevice a("a", MiB), b("b", MiB);
  Mapping mapping;
  mapping.add(a, 0, 512);
  mapping.add(a, 512, 512);
  mapping.add(a, 0, 0);
  mapping.add(a, 2048, 512);
  mapping.add(b, 2560, 512);
  mapping.add_zero(512);
  mapping.add_zero(1024);
  mapping.add_error(EIO, 512);
  mapping.add_error(EIO, 512);
  mapping.add_error(ENXIO, 512);
  const auto extents = mapping.extents();
  REQUIRE(extents.size() == 6);
  CHECK(extents[0].length == 1024);
  CHECK(extents[1].offset == 2048);
  CHECK(extents[2].device == &b);
  CHECK(extents[3].length == 1536);
  CHECK(extents[4].length == 1024);
  CHECK(extents[5].error == ENXIO);
  CHECK(mapping.length() == 5120);
  mapping.clear();
  CHECK(mapping.extents().empty());
  CHECK(mapping.length() == 0);
}

TEST_CASE("a mapping grows beyond what it holds in itself") {
  MemoryDevice a("a", MiB);
  Mapping mapping;
  for (uint64_t i = 0; i < 200; ++i) mapping.add(a, i * 1024, 512);
  REQUIRE(mapping.extents().size() == 200);
  for (uint64_t i = 0; i < 200; ++i) CHECK(mapping.extents()[i].offset == i * 1024);
}

TEST_CASE("leases end with the mapping, each once, the last first") {
  struct Owner final : LeaseOwner {
    void release(uint64_t a, uint64_t b) override { released.push_back(a * 100 + b); }
    std::vector<uint64_t> released;
  } owner;
  {
    Mapping mapping;
    mapping.hold(owner, 1, 2);
    mapping.hold(owner, 3, 4);
    CHECK(owner.released.empty());
    mapping.clear();
    CHECK(owner.released == std::vector<uint64_t>{304, 102});
    for (uint64_t i = 0; i < 20; ++i) mapping.hold(owner, i);
  }
  CHECK(owner.released.size() == 22);
  CHECK(owner.released.back() == 0);
}

TEST_CASE("a gate that a mapping holds closes when the mapping has ended") {
  Gate gate;
  Mapping mapping;
  REQUIRE(gate.try_enter());
  mapping.hold(gate);
  CHECK_FALSE(gate.close(now()));
  CHECK_FALSE(gate.closed());
  mapping.clear();
  CHECK(gate.close(now()));
  CHECK_FALSE(gate.try_enter());
  gate.open();
  CHECK(gate.try_enter());
  gate.exit();
}
