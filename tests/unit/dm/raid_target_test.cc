// SPDX-License-Identifier: GPL-2.0-or-later
// The raid target: its arguments, table, status and messages.
#include <fmt/format.h>

#include "fixture.h"
#include "support/byte_model.h"

namespace volfs::test {
namespace {

struct RaidLab : Lab {
  RaidLab() : Lab(4, 64 * KiB) {
    for (int i = 0; i < 4; ++i) add(fmt::format("meta{}", i), 16 * KiB);
  }
  // Status without sync under way.
  std::string settled(dm::MappedDevice& map) {
    for (;;) {
      const uint32_t seen = map.info().event_nr;
      const std::string status = map.status();
      if (status.find(" idle ") != status.npos && status.find(" AAAA ") != status.npos)
        return status;
      map.wait_event(seen, now() + std::chrono::milliseconds(20));
    }
  }
};

constexpr std::string_view raid5 =
    "0 384 raid raid5_ls 3 8 region_size 8 4 meta0 disk0 meta1 disk1 meta2 disk2 meta3 disk3";

TEST_CASE("a raid target is synced, serves, and goes on after a suspend") {
  Random random(test_seed());
  RaidLab lab;
  dm::MappedDevice map("map");
  REQUIRE(lab.set(map, raid5) == "");
  CHECK(map.table() == std::string(raid5) + "\n");
  CHECK(lab.settled(map) == "0 384 raid raid5_ls 4 AAAA 128/128 idle 0 0 -\n");
  ByteModel model(map.size());
  REQUIRE(map.write_zeroes(0, map.size()));
  for (int i = 0; i < 20; ++i) {
    const Range range = random_range(random, model.size(), sector_size, 32 * KiB);
    const auto bytes = random_bytes(random, range.length);
    REQUIRE(map.write(range.offset, bytes));
    model.write(range.offset, bytes);
    if (i == 10) {
      REQUIRE(map.suspend());
      CHECK(map.status() == "0 384 raid raid5_ls 4 AAAA 128/128 idle 0 0 -\n");
      CHECK(!map.message(0, "check"));
      REQUIRE(map.resume());
    }
  }
  CHECK(model.difference(map) == std::nullopt);
  REQUIRE(map.message(0, "check"));
  CHECK(lab.settled(map) == "0 384 raid raid5_ls 4 AAAA 128/128 idle 0 0 -\n");
  REQUIRE(map.flush());
}

TEST_CASE("a raid target serves without a device, and recovers it when it is back") {
  RaidLab lab;
  dm::MappedDevice map("map");
  REQUIRE(lab.set(map, raid5) == "");
  lab.settled(map);
  REQUIRE(lab.set(map,
                  "0 384 raid raid5_ls 3 8 region_size 8 4 meta0 disk0 - - meta2 disk2 "
                  "meta3 disk3") == "");
  CHECK(map.status() == "0 384 raid raid5_ls 4 A-AA 128/128 idle 0 0 -\n");
  const std::vector<std::byte> ones(map.size(), std::byte(1));
  REQUIRE(map.write(0, ones));
  REQUIRE(lab.set(map, raid5) == "");
  CHECK(lab.settled(map) == "0 384 raid raid5_ls 4 AAAA 128/128 idle 0 0 -\n");
  std::vector<std::byte> found(map.size());
  REQUIRE(map.read(0, found));
  CHECK(found == ones);
  // What is asked for once is not done again at each resume.
  REQUIRE(lab.set(map,
                  "0 384 raid raid5_ls 5 8 rebuild 1 region_size 8 4 meta0 disk0 meta1 disk1 "
                  "meta2 disk2 meta3 disk3") == "");
  lab.settled(map);
  REQUIRE(map.suspend());
  REQUIRE(map.message(0, "idle").has_value() == false);
  REQUIRE(map.resume());
  CHECK(map.status() == "0 384 raid raid5_ls 4 AAAA 128/128 idle 0 0 -\n");
}

TEST_CASE("messages of a raid target") {
  RaidLab lab;
  dm::MappedDevice map("map");
  REQUIRE(lab.set(map, raid5) == "");
  lab.settled(map);
  REQUIRE(map.message(0, "frozen"));
  CHECK(map.status().find(" frozen ") != std::string::npos);
  REQUIRE(map.message(0, "idle"));
  REQUIRE(map.message(0, "REPAIR"));
  lab.settled(map);
  CHECK(map.message(0, "polish").error().text() ==
        "map: raid: message \"polish\": expected frozen, idle, resync, recover, check or repair");
}

TEST_CASE("arguments of a raid target that mean nothing") {
  RaidLab lab;
  dm::MappedDevice map("map");
  const auto error = [&](std::string_view args) {
    return lab.set(map, fmt::format("0 384 raid {}", args));
  };
  CHECK(error("raid9 1 0 2 - disk0 - disk1")
            .find("raid type \"raid9\": expected one of raid0, "
                  "raid1") != std::string::npos);
  CHECK(error("raid1 3 0 region_size 7 2 meta0 disk0 meta1 disk1")
            .find("region_size \"7\": expected a power of two") != std::string::npos);
  CHECK(error("raid1 3 0 rebuild 2 2 meta0 disk0 meta1 disk1")
            .find("rebuild \"2\": expected a number from 0 to 1") != std::string::npos);
  CHECK(error("raid1 2 0 rebuild 2 meta0 disk0 meta1 disk1").find("rebuild: expected a value") !=
        std::string::npos);
  CHECK(error("raid1 2 0 polish 2 meta0 disk0 meta1 disk1")
            .find("parameter \"polish\": expected one of sync, nosync") != std::string::npos);
  CHECK(error("raid1 3 0 sync nosync 2 meta0 disk0 meta1 disk1")
            .find("sync and nosync exclude each other") != std::string::npos);
  CHECK(error("raid1 1 0 2 meta0 - meta1 disk1").find("device 0: metadata without data") !=
        std::string::npos);
  CHECK(error("raid1 1 0 3 meta0 disk0 meta1 disk1").find("expected 10, for 3 devices") !=
        std::string::npos);
  CHECK(error("raid5_ls 1 7 3 meta0 disk0 meta1 disk1 meta2 disk2").find("chunk") !=
        std::string::npos);
  CHECK(error("raid5_ls 1 8 4 meta0 disk0 meta1 disk1 meta2 disk2 meta3 nought")
            .find("device \"nought\"") != std::string::npos);
  CHECK(error("raid1 1 0 2 meta0 disk0 meta1 disk1").find("too small") != std::string::npos);
  CHECK(error("raid1 1 0").find("3 arguments: expected <type>") != std::string::npos);
}

TEST_CASE("a raid target of a read-only table writes nothing") {
  RaidLab lab;
  dm::MappedDevice map("map");
  REQUIRE(lab.set(map, "0 64 raid raid1 1 0 2 meta0 disk0 meta1 disk1", true) == "");
  CHECK(map.status() == "0 64 raid raid1 2 aa 0/64 idle 0 0 -\n");
  std::vector<std::byte> sector(512);
  REQUIRE(map.read(0, sector));
  CHECK(!map.write(0, sector));
  CHECK(lab.disks[4]->peek(0, 4) == std::vector<std::byte>(4));
}

}  // namespace
}  // namespace volfs::test
