// SPDX-License-Identifier: GPL-2.0-or-later
// A request that is mapped to images costs no memory but its own, which is reused.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>

#include "mounted.h"
#include "support/allocations.h"
#include "support/temp_dir.h"
#include "volfs/backing/image.h"
#include "volfs/dm/mapped_device.h"
#include "volfs/dm/table.h"
#include "volfs/units.h"

namespace volfs::test {
namespace {

constexpr uint64_t image_size = 8 * MiB;

// Two images with a linear and a striped map on them.
struct Maps {
  TempDir dir;
  std::unique_ptr<FileImage> disks[2];
  dm::MappedDevice linear{"linear"}, striped{"striped"};
  Mounted mount;

  explicit Maps(bool direct) {
    for (int i = 0; i < 2; ++i) {
      const std::string name = "disk" + std::to_string(i);
      auto image = FileImage::open(name, dir.file(name, image_size), {.direct = direct});
      REQUIRE(image.has_value());
      disks[i] = std::move(*image);
    }
    load(linear, "0 8192 linear disk0 0\n8192 8192 linear disk1 0");
    load(striped, "0 16384 striped 2 16 disk0 8192 disk1 8192");
    mount.start();
  }

  void load(dm::MappedDevice& map, const char* table) {
    const auto rows = dm::parse_table(table);
    REQUIRE(rows.has_value());
    const auto resolve = [this](std::string_view name) -> Result<BlockDevice*> {
      return disks[name == "disk1" ? 1 : 0].get();
    };
    REQUIRE(map.load(*rows, resolve, {}).has_value());
    REQUIRE(map.resume().has_value());
    REQUIRE(mount.catalog().add(map.name(), map).has_value());
  }
};

// Reads and writes of 4 KiB and 64 KiB (8 stripes) by O_DIRECT, so that each is a request.
uint64_t allocations_of_requests(int fd, std::byte* memory) {
  bool good = true;
  const uint64_t before = allocations();
  for (size_t i = 0; i < 200; ++i) {
    const size_t length = i % 2 == 0 ? 4096 : 65536;
    // Some span the border between the rows of the linear map.
    const auto offset = static_cast<off_t>(4 * MiB - 32768 + (i % 8) * 4096);
    good &= pwrite(fd, memory, length, offset) == static_cast<ssize_t>(length);
    good &= pread(fd, memory, length, offset) == static_cast<ssize_t>(length);
  }
  const uint64_t after = allocations();
  CHECK(good);
  return after - before;
}

}  // namespace

TEST_CASE("reads and writes of linear and striped maps allocate nothing") {
  const uint64_t before = allocations();
  REQUIRE(pattern(1000, 1).size() == 1000);
  REQUIRE(allocations() > before);  // it does count
  for (const bool direct : {false, true}) {
    CAPTURE(direct);
    Maps maps(direct);
    const std::unique_ptr<std::byte, void (*)(void*)> memory(
        static_cast<std::byte*>(std::aligned_alloc(4096, 65536)), std::free);
    std::fill_n(memory.get(), 65536, std::byte{0x5a});
    for (const char* name : {"linear", "striped"}) {
      CAPTURE(name);
      const Fd file(maps.mount.path(name), O_RDWR | O_DIRECT);
      // The first ones start rings and find memory for requests; a serving thread may join in
      // later and do so, too.
      uint64_t least = ~uint64_t{0};
      for (int round = 0; round < 5; ++round)
        least = std::min(least, allocations_of_requests(file, memory.get()));
      CHECK(least == 0);
    }
  }
}

}  // namespace volfs::test
