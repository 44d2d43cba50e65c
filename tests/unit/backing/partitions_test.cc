// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/backing/partitions.h"

#include <doctest/doctest.h>

#include <cerrno>
#include <cstdlib>

#include "support/byte_model.h"
#include "support/disk_tables.h"
#include "support/temp_dir.h"
#include "volfs/backing/image.h"
#include "volfs/units.h"

using namespace volfs;
using namespace volfs::test;

namespace {

// Whether the command could be run and succeeded.
bool run(const std::string& command) {
  return std::system(("PATH=$PATH:/sbin:/usr/sbin; " + command + " >/dev/null 2>&1").c_str()) == 0;
}

}  // namespace

TEST_CASE(
    "primary, extended and logical partitions of an MBR are listed with the kernel's numbers") {
  const TempDir dir;
  const std::string path = dir.file("disk.img", mbr_disk_size);
  write_mbr(path);
  auto list = list_partitions(path);
  REQUIRE(list);
  REQUIRE(list->size() == 5);
  const struct {
    unsigned number;
    uint64_t first, count;
    const char* type;
    bool extended;
  } expected[] = {{1, 2048, 1024, "0x83", false},
                  {2, 3072, 512, "0xfd", false},
                  {3, 4096, 4096, "0x05", true},
                  {5, 4160, 1000, "0x83", false},
                  {6, 6208, 1984, "0x8e", false}};
  for (size_t i = 0; i < 5; ++i) {
    const Partition& is = (*list)[i];
    CHECK(is.number == expected[i].number);
    CHECK(is.offset == expected[i].first * 512);
    CHECK(is.length == expected[i].count * 512);
    CHECK(is.type == expected[i].type);
    CHECK(is.extended == expected[i].extended);
  }
}

TEST_CASE("two partitions of a disk are written side by side") {
  const TempDir dir;
  const std::string path = dir.file("disk.img", mbr_disk_size);
  write_mbr(path);
  auto one = FileImage::open("one", path, {.partition = 1});
  auto six = FileImage::open("six", path, {.partition = 6});
  auto whole = FileImage::open("whole", path, {.read_only = true});
  REQUIRE(one);
  REQUIRE(six);
  REQUIRE(whole);
  CHECK((*one)->size() == 1024 * 512);
  CHECK((*six)->size() == 1984 * 512);
  CHECK((*one)->write((*one)->size() - 512, std::vector<std::byte>(512, std::byte{1})));
  CHECK((*six)->write(0, std::vector<std::byte>(512, std::byte{6})));
  CHECK(read_bytes(**whole, 3071 * 512, 512)[0] == std::byte{1});
  CHECK(read_bytes(**whole, 3072 * 512, 512)[0] == std::byte{0});
  CHECK(read_bytes(**whole, 6208 * 512, 512)[0] == std::byte{6});
  CHECK((*one)->flush());
}

TEST_CASE(
    "a partition that is not there, or holds others, or passes the end, is refused with a reason") {
  const TempDir dir;
  const std::string path = dir.file("disk.img", mbr_disk_size);
  write_mbr(path);
  auto none = FileImage::open("x", path, {.partition = 4});
  REQUIRE_FALSE(none);
  CHECK(none.error().code() == ENOENT);
  CHECK(none.error().text() == path + ": partition 4: there is none; found 1, 2, 3, 5, 6");
  auto extended = FileImage::open("x", path, {.partition = 3});
  REQUIRE_FALSE(extended);
  CHECK(extended.error().code() == EINVAL);
  CHECK(extended.error().text().find("is an extended partition") != std::string::npos);
  const std::string cut = dir.file("cut.img", 3 * MiB);
  write_mbr(cut);
  auto beyond = FileImage::open("x", cut, {.partition = 6});
  REQUIRE_FALSE(beyond);
  CHECK(FileImage::open("x", cut, {.partition = 2}).has_value());
}

TEST_CASE(
    "the partitions of a GPT have names, types and identities, with sectors of 512 and 4096") {
  const TempDir dir;
  const std::string path = dir.file("disk.img", 8 * MiB);
  const std::string script =
      "printf 'label: "
      "gpt\\nstart=2048,size=2048,type=E6D6D379-F507-44C2-A23C-238F2A3DF928,name=\"pv one\"\\n"
      "start=8192,size=4096\\n' | sfdisk -q ";
  if (!run(script + path)) {
    MESSAGE("skipped: there is no sfdisk");
    return;
  }
  auto list = list_partitions(path);
  REQUIRE(list);
  REQUIRE(list->size() == 2);
  CHECK((*list)[0].number == 1);
  CHECK((*list)[0].offset == 2048 * 512);
  CHECK((*list)[0].length == 2048 * 512);
  CHECK((*list)[0].name == "pv one");
  CHECK((*list)[0].type == "e6d6d379-f507-44c2-a23c-238f2a3df928");
  CHECK((*list)[0].uuid.size() == 36);
  CHECK((*list)[1].number == 2);
  CHECK((*list)[1].offset == 8192 * 512);
  auto image = FileImage::open("disk", path, {.partition = 2});
  REQUIRE(image);
  CHECK((*image)->start() == 8192 * 512);
}

TEST_CASE("a disk without a table has no partitions") {
  const TempDir dir;
  auto list = list_partitions(dir.file("disk.img", MiB));
  REQUIRE(list);
  CHECK(list->empty());
  CHECK(list_partitions(dir.path("missing")).error().code() == ENOENT);
  CHECK(list_partitions(dir.path("")).error().code() == EISDIR);
}

TEST_CASE("signatures are found and named, also in a range") {
  const TempDir dir;
  const std::string path = dir.file("disk.img", mbr_disk_size);
  auto none = probe_signatures(path);
  REQUIRE(none);
  CHECK(none->empty());
  write_mbr(path);
  auto table = probe_signatures(path);
  REQUIRE(table);
  REQUIRE(table->size() == 1);
  CHECK((*table)[0].type == "dos");
  CHECK((*table)[0].usage == "partition table");
  CHECK((*table)[0].offset == 510);
  CHECK(describe((*table)[0]) == "dos partition table, at 510");
  const std::string swap = dir.file("swap.img", MiB);
  if (!run("mkswap -L tired -U 11111111-2222-3333-4444-555555555555 " + swap)) {
    MESSAGE("skipped: there is no mkswap");
    return;
  }
  auto found = probe_signatures(swap);
  REQUIRE(found);
  REQUIRE(found->size() == 1);
  CHECK(describe((*found)[0]) ==
        "swap signature, label \"tired\", UUID 11111111-2222-3333-4444-555555555555, at 4086");
  REQUIRE(run("dd bs=512 seek=3072 conv=notrunc if=" + swap + " count=512 of=" + path));
  auto inside = probe_signatures(path, 3072 * 512, 512 * 512);
  REQUIRE(inside);
  REQUIRE(inside->size() == 1);
  CHECK((*inside)[0].label == "tired");
  CHECK((*inside)[0].offset == 4086);
}
