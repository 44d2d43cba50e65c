// SPDX-License-Identifier: GPL-2.0-or-later
#include <fmt/format.h>

#include "fixture.h"
#include "support/byte_model.h"
#include "support/fault_device.h"
#include "support/sim_scheduler.h"

namespace volfs::test {
namespace {

using dm::MappedDevice;
using Which = dm::MappedDevice::Which;
using std::chrono::seconds;

TEST_CASE("a mapped device joins ranges of disks") {
  Lab lab(2);
  MappedDevice map("map");
  CHECK(map.size() == 0);
  REQUIRE(lab.set(map, "0 8 linear disk0 100\n8 8 zero\n16 16 linear disk1 0\n") == "");
  CHECK(map.size() == 32 * sector_size);
  Random random(1);
  const auto bytes = random_bytes(random, 32 * sector_size);
  REQUIRE(map.write(0, bytes));
  CHECK(first_difference(lab.disks[0]->peek(100 * sector_size, 8 * sector_size),
                         std::span(bytes).subspan(0, 8 * sector_size)) == std::nullopt);
  CHECK(first_difference(lab.disks[1]->peek(0, 16 * sector_size),
                         std::span(bytes).subspan(16 * sector_size)) == std::nullopt);
  CHECK(first_difference(read_bytes(map, 8 * sector_size, 8 * sector_size),
                         std::vector<std::byte>(8 * sector_size)) == std::nullopt);
}

TEST_CASE("load, clear and resume move tables as dmsetup does") {
  Lab lab(2);
  MappedDevice map("map", "LVM-abc");
  // Without a table, as after dmsetup create --notable.
  CHECK(map.resume());
  CHECK(map.table() == "");
  CHECK(map.deps().empty());
  REQUIRE(lab.load(map, "0 8 linear disk0 0"));
  auto info = map.info();
  CHECK(info.name == "map");
  CHECK(info.uuid == "LVM-abc");
  CHECK(!info.active_table);
  CHECK(info.inactive_table);
  CHECK(map.table(Which::inactive) == "0 8 linear disk0 0\n");
  CHECK(map.size() == 0);
  REQUIRE(lab.load(map, "0 16 striped 2 8 disk1 0 disk0 0"));
  REQUIRE(map.resume());
  CHECK(map.size() == 16 * sector_size);
  CHECK(map.deps() == std::vector<std::string>{"disk1", "disk0"});
  CHECK(map.deps(Which::inactive).empty());
  CHECK(map.info().target_count == 1);
  REQUIRE(lab.load(map, "0 8 zero\n8 8 zero\n"));
  map.clear();
  CHECK(map.table(Which::inactive) == "");
  CHECK(map.table() == "0 16 striped 2 8 disk1 0 disk0 0\n");
  map.opened();
  CHECK(map.info().open_count == 1);
  map.rename("other");
  CHECK(map.info().name == "other");
}

TEST_CASE("a table that cannot be loaded is refused with its place and changes nothing") {
  Lab lab(1, 1000 * sector_size);
  MappedDevice map("map");
  const auto refusal = [&](std::string_view text) { return lab.set(map, text); };
  CHECK(refusal("0 8 nosuch") ==
        "table:1: target type \"nosuch\": expected one of linear, striped, zero, error, "
        "unstriped, delay, flakey, dust, mirror, raid, snapshot, snapshot-origin, snapshot-merge");
  CHECK(refusal("\n0 8 linear disk9 0") == "table:2: linear: device \"disk9\": no such device");
  CHECK(refusal("0 8 linear disk0 x") ==
        "table:1: linear: start sector \"x\": expected a decimal number of 512-byte sectors");
  CHECK(refusal("0 8 linear disk0") ==
        "table:1: linear: 1 argument: expected <device> <start sector>");
  CHECK(refusal("0 8 zero\n8 8 linear disk0 993") ==
        "table:2: linear: device \"disk0\": too small: 8 sectors from sector 993 on, but it has "
        "1000");
  CHECK(refusal("0 24 striped 2 9 disk0 0 disk0 500") ==
        "table:1: striped: 24 sectors: expected a multiple of 2 stripes of 9 sectors");
  CHECK(map.info().inactive_table == false);
  REQUIRE(refusal("0 8 zero") == "");
  CHECK(refusal("0 8 zero x") != "");
  CHECK(map.table() == "0 8 zero \n");
}

TEST_CASE("a device that shrank since the load keeps the new table out") {
  Lab lab(1);
  MappedDevice map("map");
  REQUIRE(lab.set(map, "0 8 zero") == "");
  REQUIRE(lab.load(map, "0 8 linear disk0 100"));
  lab.disks[0]->set_size(50 * sector_size);
  const auto resumed = map.resume();
  REQUIRE(!resumed);
  CHECK(resumed.error().text().find("too small") != std::string::npos);
  CHECK(!map.suspended());
  CHECK(map.table() == "0 8 zero \n");
  lab.disks[0]->set_size(200 * sector_size);
  CHECK(map.resume());
}

TEST_CASE("a read-only table refuses writes, a writable one over a read-only disk as well") {
  Lab lab(1);
  MappedDevice map("map");
  REQUIRE(lab.set(map, "0 8 linear disk0 0", true) == "");
  std::vector<std::byte> buffer(sector_size);
  CHECK(map.read_only());
  CHECK(map.info().read_only);
  const auto refused = map.write(0, buffer);
  REQUIRE(!refused);
  CHECK(refused.error().code() == EROFS);
  REQUIRE(lab.set(map, "0 8 linear disk0 0") == "");
  CHECK(!map.read_only());
  CHECK(map.write(0, buffer));
  lab.disks[0]->set_read_only(true);
  const auto below = map.write(0, buffer);
  REQUIRE(!below);
  CHECK(below.error().code() == EROFS);
  CHECK(map.read(0, buffer));
}

TEST_CASE("each device below is flushed once, errors name it") {
  Lab lab(2);
  FaultDevice faulty(*lab.disks[1]);
  lab.names["disk1"] = &faulty;
  MappedDevice map("map");
  std::string text;
  for (int i = 0; i < 10; ++i) text += fmt::format("{} 8 linear disk{} {}\n", 8 * i, i % 2, 8 * i);
  REQUIRE(lab.set(map, text) == "");
  const uint64_t before = lab.disks[0]->flushes();
  REQUIRE(map.flush());
  CHECK(lab.disks[0]->flushes() == before + 1);
  faulty.fail_nth(FaultOp::flush, 0, ENOSPC);
  const auto failed = map.flush();
  REQUIRE(!failed);
  CHECK(failed.error().code() == ENOSPC);
  CHECK(failed.error().text().find("map: ") == 0);
  // A flush that fails does not keep the table from being replaced.
  const auto rule = faulty.fail_nth(FaultOp::flush, 0, EIO);
  REQUIRE(map.suspend());
  CHECK(faulty.hits(rule) == 1);
  CHECK(map.suspended());
  CHECK(map.resume());
}

TEST_CASE("a suspended device waits or says it would, and noflush does not flush") {
  SimScheduler sim(test_seed());
  INFO("VOLFS_SEED=", sim.seed());
  Lab lab(1);
  MappedDevice map("map");
  REQUIRE(lab.set(map, "0 8 linear disk0 0") == "");
  const uint64_t before = lab.disks[0]->flushes();
  REQUIRE(map.suspend({.flush = false}));
  CHECK(lab.disks[0]->flushes() == before);
  CHECK(map.suspend());  // it is already
  Mapping mapping;
  CHECK(!map.map(Op::read, 0, sector_size, Wait::no, mapping));
  mapping.clear();
  CHECK(map.service(Op::read) == Service::blocking);
  CHECK(map.table() == "0 8 linear disk0 0\n");
  std::vector<std::byte> buffer(sector_size);
  bool done = false;
  auto reader = Thread::start("reader", [&] {
    CHECK(map.read(0, buffer));
    CHECK(map.flush());
    done = true;
  });
  REQUIRE(reader);
  sleep_for(seconds(5));
  CHECK(!done);
  REQUIRE(map.resume());
  reader->join();
  CHECK(done);
  REQUIRE(map.suspend());
  CHECK(lab.disks[0]->flushes() > before + 1);
  REQUIRE(map.resume());
}

TEST_CASE("a suspend that cannot flush is told by the next flush, whatever table is there") {
  Lab lab(2);
  FaultDevice faulty(*lab.disks[0]);
  lab.add(faulty);
  MappedDevice map("map"), above("above");
  lab.add(map);
  REQUIRE(lab.set(map, "0 8 linear disk0 0") == "");
  REQUIRE(lab.set(above, "0 8 linear map 0") == "");
  faulty.fail_nth(FaultOp::flush, 0, EIO);
  const std::vector<std::byte> data(sector_size, std::byte{1});
  REQUIRE(map.write(0, data));
  REQUIRE(lab.load(map, "0 8 linear disk1 0"));
  REQUIRE(map.suspend());
  REQUIRE(map.resume());
  const Status told = above.flush();
  REQUIRE(!told);
  CHECK(told.error().code() == EIO);
  CHECK(map.flush());
  CHECK(above.flush());
}

TEST_CASE("a suspend gives up at its deadline and lets I/O go on") {
  SimScheduler sim(test_seed());
  INFO("VOLFS_SEED=", sim.seed());
  Lab lab(1);
  MappedDevice map("map");
  REQUIRE(lab.set(map, "0 8 linear disk0 0") == "");
  {
    Mapping held;
    REQUIRE(map.map(Op::read, 0, sector_size, Wait::no, held));
    const auto gave_up = map.suspend({.deadline = now() + seconds(3)});
    REQUIRE(!gave_up);
    CHECK(gave_up.error().code() == ETIMEDOUT);
    CHECK(!map.suspended());
    REQUIRE(lab.load(map, "0 16 zero"));
    CHECK(!map.resume({.deadline = now() + seconds(3)}));
    CHECK(map.info().inactive_table);
    CHECK(map.size() == 8 * sector_size);
  }
  REQUIRE(map.resume());
  CHECK(map.size() == 16 * sector_size);
}

TEST_CASE("texts and information do not wait for a suspend that waits") {
  SimScheduler sim(test_seed());
  INFO("VOLFS_SEED=", sim.seed());
  Lab lab(1);
  MappedDevice map("map");
  REQUIRE(lab.set(map, "0 8 dust disk0 0 512") == "");
  Mapping held;
  REQUIRE(map.map(Op::read, 0, sector_size, Wait::no, held));
  auto suspender = Thread::start("suspender", [&] { CHECK(map.suspend()); });
  REQUIRE(suspender);
  while (!map.suspended()) sleep_for(seconds(1));
  CHECK(map.status() == "0 8 dust disk0 bypass verbose\n");
  CHECK(map.message(0, "enable"));
  CHECK(map.info().active_table);
  held.clear();
  suspender->join();
  CHECK(map.status() == "0 8 dust disk0 fail_read_on_bad_block verbose\n");
}

TEST_CASE("a table is loaded and dropped beside a suspend that waits, but not under a resume") {
  SimScheduler sim(test_seed());
  INFO("VOLFS_SEED=", sim.seed());
  Lab lab(1);
  MappedDevice map("map");
  REQUIRE(lab.set(map, "0 8 linear disk0 0") == "");
  Mapping held;
  REQUIRE(map.map(Op::read, 0, sector_size, Wait::no, held));
  auto suspender = Thread::start("suspender", [&] { CHECK(map.suspend()); });
  REQUIRE(suspender);
  while (!map.suspended()) sleep_for(seconds(1));
  REQUIRE(lab.load(map, "0 16 zero"));
  CHECK(map.clear());
  CHECK(map.table(Which::inactive) == "");
  REQUIRE(lab.load(map, "0 24 zero"));
  held.clear();
  suspender->join();
  REQUIRE(map.resume());
  CHECK(map.size() == 24 * sector_size);

  REQUIRE(map.map(Op::read, 0, sector_size, Wait::no, held));
  REQUIRE(lab.load(map, "0 8 zero"));
  auto resumer = Thread::start("resumer", [&] { CHECK(map.resume()); });
  REQUIRE(resumer);
  while (!map.suspended()) sleep_for(seconds(1));
  const auto late = lab.load(map, "0 16 zero");
  REQUIRE(!late);
  CHECK(late.error().code() == EBUSY);
  CHECK(map.clear().error().code() == EBUSY);
  CHECK(map.table(Which::inactive) == "0 8 zero \n");
  held.clear();
  resumer->join();
  CHECK(map.size() == 8 * sector_size);
  CHECK(map.clear());
}

TEST_CASE("messages go to the target at their sector") {
  Lab lab(1);
  MappedDevice map("map");
  const auto none = map.message(0, "x");
  REQUIRE(!none);
  CHECK(none.error().code() == ENXIO);
  REQUIRE(lab.set(map, "0 8 linear disk0 0\n8 8 dust disk0 8 512") == "");
  CHECK(*map.message(8, "countbadblocks") == "countbadblocks: 0 badblock(s) found");
  const auto linear = map.message(7, "countbadblocks");
  REQUIRE(!linear);
  CHECK(linear.error().text() ==
        "map: linear: message \"countbadblocks\": target linear takes no messages");
  CHECK(map.message(16, "x").error().text() == "map: message for sector 16: expected one below 16");
  CHECK(map.message(8, " ").error().code() == EINVAL);
}

TEST_CASE("events are counted and waited for") {
  SimScheduler sim(test_seed());
  INFO("VOLFS_SEED=", sim.seed());
  MappedDevice map("map");
  CHECK(map.wait_event(0, now() + seconds(1)) == 0);
  auto thread = Thread::start("events", [&] {
    sleep_for(seconds(1));
    map.event();
  });
  REQUIRE(thread);
  CHECK(map.wait_event(0) == 1);
  CHECK(map.info().event_nr == 1);
  thread->join();
}

TEST_CASE("a table is given away with what its targets know, and taken back") {
  Lab lab(1);
  MappedDevice map("map"), real("map-real");
  REQUIRE(lab.set(map, "0 64 dust disk0 0 512") == "");
  REQUIRE(map.message(0, "addbadblock 3"));
  REQUIRE(map.message(0, "enable"));
  CHECK(map.give_table(real).error().code() == EBUSY);  // not suspended
  const std::string table = map.table(), status = map.status();
  REQUIRE(map.suspend());
  REQUIRE(map.give_table(real));
  CHECK(map.table() == "");
  CHECK(map.size() == 64 * sector_size);
  CHECK(map.suspended());
  CHECK(real.table() == table);
  CHECK(real.size() == 64 * sector_size);
  REQUIRE(real.resume());
  CHECK(real.status() == status);
  std::vector<std::byte> buffer(sector_size);
  CHECK(!real.read(3 * sector_size, buffer));

  lab.add(real);
  REQUIRE(lab.set(map, "0 64 linear map-real 0") == "");
  CHECK(!map.read(3 * sector_size, buffer));
  CHECK(map.read(4 * sector_size, buffer));

  REQUIRE(map.suspend());
  CHECK(real.give_table(map).error().code() == EBUSY);
  REQUIRE(real.suspend());
  REQUIRE(real.give_table(map));
  REQUIRE(map.resume());
  CHECK(map.status() == status);
  CHECK(!map.read(3 * sector_size, buffer));
  CHECK(real.table() == "");
}

TEST_CASE("a device cannot stand on itself, at load or after a swap below") {
  Lab lab(1);
  MappedDevice a("a"), b("b");
  lab.add(a);
  lab.add(b);
  REQUIRE(lab.set(a, "0 8 linear disk0 0") == "");
  CHECK(lab.set(a, "0 8 linear a 0") == "table: device \"a\" stands on a itself");
  REQUIRE(lab.set(b, "0 8 linear a 0") == "");
  CHECK(lab.set(a, "0 8 linear b 0") == "table: device \"b\" stands on a itself");
  // Loaded while there was no cycle, resumed when there is one.
  REQUIRE(lab.set(b, "0 8 zero") == "");
  REQUIRE(lab.load(a, "0 8 linear b 0"));
  REQUIRE(lab.set(b, "0 8 linear a 0") == "");
  const auto resumed = a.resume();
  REQUIRE(!resumed);
  CHECK(resumed.error().code() == ELOOP);
  CHECK(a.table() == "0 8 linear disk0 0\n");
}

TEST_CASE("the height of a stack is bounded") {
  Lab lab(1);
  std::vector<std::unique_ptr<MappedDevice>> maps;
  std::string below = "disk0", error;
  while (error.empty() && maps.size() < 1000) {
    maps.push_back(std::make_unique<MappedDevice>(fmt::format("map{}", maps.size())));
    error = lab.set(*maps.back(), fmt::format("0 8 striped 2 4 {0} 0 {0} 4", below));
    lab.add(*maps.back());
    below = maps.back()->name();
  }
  // The disk is the first level. Each map has two ways down, and the check takes one.
  CHECK(maps.size() == max_stack_depth);
  CHECK(error == "table: device \"map198\": more than 200 devices on top of each other");
  CHECK(dm::stack_depth(*maps[198]) == 200);
  CHECK(dm::stack_depth(*lab.disks[0]) == 1);
  std::vector<std::byte> buffer(8 * sector_size);
  REQUIRE(lab.set(*maps[5], "0 8 zero") == "");
  CHECK(maps[198]->read(0, std::span(buffer).subspan(0, sector_size)));
}

TEST_CASE("a cycle made behind the checks is an error, not a crash") {
  struct Switch final : BlockDevice {
    Switch() : BlockDevice("switch", 8 * sector_size) {}
    BlockDevice* to = nullptr;

   private:
    bool do_map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) override {
      return to->map(op, offset, length, wait, out);
    }
    Status do_flush() override { return to->flush(); }
  };
  Lab lab(1);
  Switch way;
  MappedDevice map("map");
  lab.add(way);
  REQUIRE(lab.set(map, "0 8 linear switch 0") == "");
  way.to = &map;
  std::vector<std::byte> buffer(sector_size);
  const auto read = map.read(0, buffer);
  REQUIRE(!read);
  CHECK(read.error().code() == ELOOP);
  const auto flushed = map.flush();
  REQUIRE(!flushed);
  CHECK(flushed.error().code() == ELOOP);
}

TEST_CASE("rows must respect the logical blocks of what is below") {
  Lab lab(1);
  lab.add("big", 4 * MiB, {.limits = {.logical_block = 4096, .physical_block = 4096}});
  MappedDevice map("map");
  CHECK(lab.set(map, "0 16 linear big 8") == "");
  CHECK(map.logical_block() == 4096);
  CHECK(lab.set(map, "0 16 linear big 4") ==
        "table:1: linear: device \"big\": 16 sectors from sector 4 on: not aligned to its logical "
        "block of 4096 bytes");
  CHECK(lab.set(map, "0 4 linear disk0 0\n4 8 linear big 0") ==
        "table:2: linear: starts at sector 4: not aligned to the logical block of 4096 bytes of "
        "what is below");
  CHECK(lab.set(map, "0 4 linear disk0 0\n4 4 zero\n8 8 linear big 0") == "");
  CHECK(lab.set(map, "0 8 linear big 0\n8 4 linear disk0 0") ==
        "table:2: linear: the table ends at sector 12: not aligned to the logical block of 4096 "
        "bytes");
}

}  // namespace
}  // namespace volfs::test
