// SPDX-License-Identifier: GPL-2.0-or-later
// Real block devices: a loop device, where one can be had.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "support/byte_model.h"
#include "support/disk_tables.h"
#include "support/temp_dir.h"
#include "volfs/backing/image.h"
#include "volfs/units.h"

using namespace volfs;
using namespace volfs::test;

namespace {

class LoopDevice {
 public:
  explicit LoopDevice(const std::string& file, const std::string& options = "") {
    const std::string command =
        "PATH=$PATH:/sbin:/usr/sbin; losetup --show " + options + " -f " + file + " 2>/dev/null";
    FILE* output = ::popen(command.c_str(), "r");
    if (!output) return;
    char line[128] = {};
    if (std::fgets(line, sizeof line, output)) path = line;
    ::pclose(output);
    while (!path.empty() && path.back() == '\n') path.pop_back();
  }
  ~LoopDevice() {
    if (!path.empty())
      (void)!std::system(("PATH=$PATH:/sbin:/usr/sbin; losetup -d " + path).c_str());
  }
  std::string path;
};

}  // namespace

TEST_CASE("a block device is an image with the sizes it tells, for one writer") {
  const TempDir dir;
  const std::string file = dir.file("disk.img", mbr_disk_size);
  write_mbr(file);
  const LoopDevice loop(file);
  if (::geteuid() != 0 || loop.path.empty()) {
    MESSAGE("skipped: no loop device to be had");
    return;
  }
  Random random(test_seed());
  for (const bool direct : {false, true}) {
    auto one = FileImage::open("one", loop.path, {.direct = direct, .partition = 1});
    if (!one) FAIL(one.error().text());
    auto six = FileImage::open("six", loop.path, {.direct = direct, .partition = 6});
    if (!six) FAIL(six.error().text());
    CHECK((*one)->size() == 1024 * 512);
    CHECK((*one)->logical_block() == 512);
    CHECK((*one)->direct() == direct);
    // Nobody else gets it for writing, not even mount(8).
    CHECK(::open(loop.path.c_str(), O_RDWR | O_EXCL | O_CLOEXEC) == -1);
    CHECK(errno == EBUSY);
    const auto bytes = random_bytes(random, 64 * KiB);
    CHECK((*one)->write(512, bytes));
    CHECK((*six)->write(0, bytes, Fua::yes));
    CHECK((*one)->flush());
    CHECK_FALSE(first_difference(read_bytes(**one, 512, 64 * KiB), bytes));
    CHECK((*one)->write_zeroes(512, 4096));
    CHECK(read_bytes(**one, 512, 4096) == std::vector<std::byte>(4096));
    CHECK_FALSE(first_difference(read_bytes(**one, 512 + 4096, 4096),
                                 std::span(bytes).subspan(4096, 4096)));
    if ((*six)->limits().discard_granularity != 0) CHECK((*six)->discard(0, 64 * KiB));
    CHECK((*six)->allocation(0, 4096).has_value());
  }
  auto whole = FileImage::open("whole", loop.path, {.read_only = true});
  REQUIRE(whole);
  CHECK((*whole)->size() == mbr_disk_size);
}

TEST_CASE("a block device of 4096-byte sectors is an image of 4096-byte blocks") {
  const TempDir dir;
  const LoopDevice loop(dir.file("disk.img", MiB), "--sector-size 4096");
  if (::geteuid() != 0 || loop.path.empty()) {
    MESSAGE("skipped: no loop device of 4096-byte sectors to be had");
    return;
  }
  auto image = FileImage::open("disk", loop.path, {.direct = true});
  if (!image) FAIL(image.error().text());
  CHECK((*image)->logical_block() == 4096);
  std::vector<std::byte> bytes(4096, std::byte{3});
  CHECK_FALSE((*image)->write(512, std::span(bytes).first(512)));
  CHECK((*image)->write(4096, bytes));
  CHECK(read_bytes(**image, 4096, 4096) == bytes);
}
