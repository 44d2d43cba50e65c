// SPDX-License-Identifier: GPL-2.0-or-later
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <memory>

#include "golden.h"
#include "lvm/crc.h"
#include "lvm/disk_format.h"
#include "support/memory_device.h"
#include "volfs/lvm/assemble.h"
#include "volfs/lvm/physical_volume.h"
#include "volfs/units.h"

using namespace volfs;
using namespace volfs::lvm;
using volfs::test::MemoryDevice;

namespace {

// A disk as lvm2 left it: lines of "OFFSET HEX" of what is not zero.
std::unique_ptr<MemoryDevice> disk(const std::string& name, const std::string& device) {
  auto made = std::make_unique<MemoryDevice>(device, 256 * MiB);
  const std::string recorded = golden(name);
  for (size_t at = 0; at < recorded.size();) {
    const size_t end = recorded.find('\n', at);
    const std::string_view line = std::string_view(recorded).substr(at, end - at);
    at = end + 1;
    uint64_t offset = 0;
    const auto [digits, error] = std::from_chars(line.data(), line.data() + line.size(), offset);
    REQUIRE(error == std::errc());
    std::array<std::byte, 64> bytes{};
    for (size_t i = 0; i < bytes.size(); i++) {
      unsigned value = 0;
      std::from_chars(digits + 1 + 2 * i, digits + 3 + 2 * i, value, 16);
      bytes[i] = static_cast<std::byte>(value);
    }
    made->poke(offset, bytes);
  }
  return made;
}

PvInfo scanned(BlockDevice& device) {
  auto info = scan(device);
  if (!info) FAIL(info.error().text());
  REQUIRE(info->has_value());
  return std::move(**info);
}

std::string text_of(const Sector& sector) {
  return {reinterpret_cast<const char*>(sector.data()), sector.size()};
}

Sector sector_at(const MemoryDevice& device, uint64_t offset) {
  Sector out;
  std::ranges::copy(device.peek(offset, out.size()), out.begin());
  return out;
}

}  // namespace

TEST_CASE("a PV of lvm2 is found with all its parts") {
  auto device = disk("odd.0.bytes", "disk0");
  const PvInfo info = scanned(*device);
  CHECK(info.device == "disk0");
  CHECK(info.label.sector == 1);
  CHECK(info.label.device_size == 256 * MiB);
  CHECK(info.label.extension_version == 2);
  CHECK(info.label.in_use());
  CHECK(info.label.data_areas == std::vector<DiskArea>{{MiB, 0}});
  REQUIRE(info.areas.size() == 1);
  CHECK(info.areas[0].where == DiskArea{4 * KiB, 1020 * KiB});
  CHECK(info.areas[0].problem.empty());
  // The group was told to keep two copies on three PVs.
  CHECK(info.areas[0].ignored);
  CHECK(info.areas[0].text.empty());
}

TEST_CASE("labels in any sector, two areas, none, and bootloader areas are read") {
  auto first = disk("ring.0.bytes", "a"), second = disk("ring.1.bytes", "b");
  auto third = disk("ring.2.bytes", "c"), fourth = disk("ring.3.bytes", "d");
  CHECK(scanned(*first).label.sector == 3);
  const PvInfo two = scanned(*second);
  REQUIRE(two.areas.size() == 2);
  CHECK(two.areas[0].text == golden("ring.text"));
  CHECK(two.areas[1].text == golden("ring.text"));
  CHECK(two.areas[1].where.offset > 200 * MiB);
  CHECK(scanned(*third).areas.empty());
  const PvInfo boot = scanned(*fourth);
  CHECK(boot.label.sector == 0);
  REQUIRE(boot.label.bootloader_areas.size() == 1);
  CHECK(boot.label.bootloader_areas[0].size == 256 * KiB);
}

TEST_CASE("labels and headers are written as lvm2 writes them, byte by byte") {
  for (const char* name :
       {"odd.0.bytes", "ring.0.bytes", "ring.1.bytes", "ring.2.bytes", "ring.3.bytes"}) {
    auto device = disk(name, "x");
    const PvInfo info = scanned(*device);
    auto label = encode_label(info.label);
    REQUIRE(label.has_value());
    CHECK(text_of(*label) == text_of(sector_at(*device, info.label.sector * sector_size)));
    for (const MetadataArea& area : info.areas)
      CHECK(text_of(encode_area_header(area)) == text_of(sector_at(*device, area.where.offset)));
  }
}

TEST_CASE("a device without a label is none, and a damaged label is none") {
  MemoryDevice blank("blank", MiB);
  CHECK_FALSE(scan(blank).value().has_value());
  MemoryDevice tiny("tiny", 512);
  CHECK_FALSE(scan(tiny).value().has_value());
  auto device = disk("odd.0.bytes", "x");
  for (size_t i = 0; i < 512; i++) {
    MemoryDevice damaged("damaged", 256 * MiB);
    damaged.copy_from(*device);
    auto byte = damaged.peek(512 + i, 1);
    byte[0] ^= std::byte{0x10};
    damaged.poke(512 + i, byte);
    CHECK_FALSE(scan(damaged).value().has_value());
  }
}

TEST_CASE("a valid label with nonsense in it is an error that tells what") {
  auto device = disk("odd.0.bytes", "x");
  const Sector good = sector_at(*device, 512);
  auto with = [&](size_t offset, std::string_view bytes) {
    Sector sector = good;
    std::memcpy(sector.data() + offset, bytes.data(), bytes.size());
    const uint32_t sum = crc(std::span(sector).subspan(20));
    const Le32 stored = sum;
    std::memcpy(sector.data() + 16, &stored, 4);
    return decode_label(sector, 1);
  };
  CHECK(with(20, std::string("\xff\xff\xff\xff", 4)).error().text() ==
        "LVM2 label in sector 1: the PV header at 4294967295 is outside of it");
  CHECK_FALSE(with(32, "?").has_value());
  CHECK(with(72, std::string(440, 'x')).error().text() ==
        "LVM2 label in sector 1: its list of areas has no end");
  CHECK(with(0, "LABELTWO").value() == std::nullopt);
  CHECK(decode_label(good, 2).value() == std::nullopt);
}

TEST_CASE("what is wrong with an area is told, and no other area suffers") {
  auto device = disk("ring.1.bytes", "x");
  const uint64_t at = scanned(*device).areas[0].where.offset;
  struct {
    size_t offset;
    const char* problem;
  } const damages[] = {{0, "wrong checksum"}, {5, "wrong magic"}, {30, "wrong checksum"}};
  for (const auto& damage : damages) {
    MemoryDevice damaged("damaged", 256 * MiB);
    damaged.copy_from(*device);
    auto byte = damaged.peek(at + damage.offset, 1);
    byte[0] ^= std::byte{1};
    damaged.poke(at + damage.offset, byte);
    const PvInfo info = scanned(damaged);
    CHECK(info.areas[0].problem.starts_with(damage.problem));
    CHECK(info.areas[1].text == golden("ring.text"));
    const Assembly assembly = assemble(std::array{info});
    REQUIRE(assembly.groups.size() == 1);
    CHECK(assembly.warnings.size() == 1);
  }
  MemoryDevice damaged("damaged", 256 * MiB);
  damaged.copy_from(*device);
  const uint64_t text = at + scanned(*device).areas[0].committed.offset;
  damaged.poke(text + 10, std::array{std::byte{'?'}});
  CHECK(scanned(damaged).areas[0].text_problem.starts_with("wrong checksum"));
}

TEST_CASE("every text in a ring that wrapped is listed") {
  auto device = disk("ring.0.bytes", "x");
  const PvInfo info = scanned(*device);
  CHECK(info.areas[0].text == golden("ring.text"));
  const auto copies = list_copies(*device, info.areas[0]);
  REQUIRE(copies.has_value());
  CHECK(copies->size() > 3);
  size_t committed = 0;
  for (size_t i = 0; i < copies->size(); i++) {
    const MetadataCopy& copy = (*copies)[i];
    CHECK(copy.group == "vgring");
    if (i > 0) CHECK(copy.seqno > (*copies)[i - 1].seqno);
    committed += copy.committed ? 1 : 0;
  }
  CHECK(committed == 1);
  const MetadataCopy& last = copies->back();
  CHECK(last.committed);
  CHECK(last.text == golden("ring.text"));
  CHECK(last.description.starts_with("Write from lvremove"));
  // lvm2 had less room than it wrote, so some text began before one that is older.
  CHECK(std::ranges::max(*copies, {}, &MetadataCopy::offset).seqno != last.seqno);

  // The LV that was removed last can be had back.
  const auto older = assemble_as(std::array{info}, (*copies)[copies->size() - 2]);
  REQUIRE(older.has_value());
  CHECK(older->group.find_lv("lv8").has_value());
  CHECK_FALSE(older->read_only_reason.empty());
}

TEST_CASE("the texts in a ring are listed although the header of its area is damaged") {
  auto device = disk("ring.0.bytes", "x");
  const auto before = list_copies(*device, scanned(*device).areas[0]);
  const uint64_t at = scanned(*device).areas[0].where.offset;
  device->poke(at + 100, std::array{std::byte{'x'}});
  const PvInfo info = scanned(*device);
  CHECK(info.areas[0].problem.starts_with("wrong checksum"));
  const auto copies = list_copies(*device, info.areas[0]);
  REQUIRE(copies.has_value());
  REQUIRE(copies->size() == before->size());
  for (size_t i = 0; i < copies->size(); i++) {
    CHECK((*copies)[i].text == (*before)[i].text);
    CHECK_FALSE((*copies)[i].committed);
  }
}

TEST_CASE("PVs become groups whatever their order, and missing ones are told") {
  auto first = disk("ring.0.bytes", "a"), second = disk("ring.1.bytes", "b");
  auto third = disk("ring.2.bytes", "c"), fourth = disk("ring.3.bytes", "d");
  std::vector<PvInfo> found = {scanned(*first), scanned(*second), scanned(*third),
                               scanned(*fourth)};
  const Assembly all = assemble(found);
  REQUIRE(all.groups.size() == 1);
  CHECK(all.groups[0].warnings.empty());
  CHECK(all.groups[0].read_only_reason.empty());
  CHECK(all.groups[0].device_names(found) == std::vector<std::string>{"a", "b", "c", "d"});
  std::ranges::reverse(found);
  CHECK(assemble(found).groups[0].device_names(found) ==
        std::vector<std::string>{"a", "b", "c", "d"});
  found.erase(found.begin());
  const Assembly some = assemble(found);
  CHECK(some.groups[0].device_names(found) == std::vector<std::string>{"a", "b", "c", ""});
  CHECK(some.groups[0].warnings.size() == 1);
}

TEST_CASE("copies of PVs are never mixed") {
  auto first = disk("ring.0.bytes", "a"), copy = disk("ring.0.bytes", "a2");
  auto second = disk("ring.1.bytes", "b");
  const std::vector<PvInfo> found = {scanned(*first), scanned(*copy), scanned(*second)};
  const Assembly assembly = assemble(found);
  REQUIRE(assembly.groups.size() == 1);
  CHECK(assembly.groups[0].device_names(found) == std::vector<std::string>{"", "b", "", ""});
  CHECK(assembly.groups[0].warnings.front().find("is on a and a2") != std::string::npos);
}

TEST_CASE(
    "a group with a PV on two devices is not written, and of two whole copies none is mixed") {
  std::vector<std::unique_ptr<MemoryDevice>> devices;
  std::vector<PvInfo> found;
  for (const char* name : {"ring.0.bytes", "ring.1.bytes", "ring.2.bytes", "ring.3.bytes"})
    for (const char* copy : {"", "x"}) {
      devices.push_back(disk(name, fmt::format("{}{}", std::string(name).substr(0, 6), copy)));
      found.push_back(scanned(*devices.back()));
    }
  Assembly assembly = assemble(found);
  REQUIRE(assembly.groups.size() == 1);
  CHECK(assembly.groups[0].device_names(found) == std::vector<std::string>(4));
  CHECK(assembly.groups[0].doubles.size() == 8);
  REQUIRE(assembly.groups[0].warnings.size() == 1);
  CHECK(assembly.groups[0].warnings[0].starts_with(
      "each of its PVs is on several devices (ring.0 and ring.0x, ring.1 and ring.1x, "));

  for (const size_t last : {7, 5, 3}) found.erase(found.begin() + static_cast<ptrdiff_t>(last));
  assembly = assemble(found);
  REQUIRE(assembly.groups.size() == 1);
  const FoundGroup& group = assembly.groups[0];
  CHECK(group.device_names(found) == std::vector<std::string>{"", "ring.1", "ring.2", "ring.3"});
  CHECK(group.doubles == std::vector<size_t>{0, 1});
  CHECK(group.doubled_reason.find("is on ring.0 and ring.0x: it is taken as missing") !=
        std::string::npos);
  CHECK(group.read_only_reason == group.doubled_reason);
}

TEST_CASE("two groups of one name are both shown") {
  auto device = disk("ring.0.bytes", "a");
  PvInfo one = scanned(*device), other = one;
  other.device = "b";
  other.label.id = Id::parse("222222-2222-2222-2222-2222-2222-222222").value();
  std::string& text = other.areas[0].text;
  text.replace(text.find("id = \"") + 6, 6, "333333");
  // Which of them has the name does not depend on who is given first.
  for (const auto& given : {std::array{one, other}, std::array{other, one}}) {
    const Assembly assembly = assemble(given);
    REQUIRE(assembly.groups.size() == 2);
    const FoundGroup* const plain = find_group(assembly, "vgring");
    REQUIRE(plain != nullptr);
    const FoundGroup& second =
        plain == &assembly.groups[0] ? assembly.groups[1] : assembly.groups[0];
    CHECK(plain->group.id < second.group.id);
    CHECK(second.shown_name == "vgring@" + second.group.id.dashed());
    CHECK(second.group.name == "vgring");
    CHECK(find_group(assembly, second.shown_name) == &second);
    CHECK(find_group(assembly, full_name(plain->group)) == plain);
    CHECK(find_group(assembly, "vgring@333333") == nullptr);
    CHECK(goes_by(second.group, "vgring"));
    CHECK_FALSE(goes_by(second.group, full_name(plain->group)));
  }
}

TEST_CASE("copies of a group are told by numbers, as they were") {
  auto device = disk("ring.0.bytes", "a");
  PvInfo one = scanned(*device), copy = one, third = one;
  REQUIRE(assemble(std::array{one}).groups.at(0).group.pvs.size() != 1);
  for (PvInfo* each : {&one, &copy, &third}) each->areas.resize(1);
  std::string& text = one.areas[0].text;
  text =
      "v { id = \"333333-3333-3333-3333-3333-3333-333333\" seqno = 1 status = [\"READ\", "
      "\"WRITE\"] extent_size = 8 physical_volumes { pv0 { id = \"" +
      one.label.id.dashed() +
      "\" status = [\"ALLOCATABLE\"] pe_start = 2048 pe_count = 1 } } }\n"
      "contents = \"Text Format Volume Group\" version = 1\n";
  copy.areas[0].text = third.areas[0].text = text;
  copy.device = "b";
  third.device = "c";
  const Assembly assembly = assemble(std::array{one, copy, third});
  REQUIRE(assembly.groups.size() == 3);
  const std::string full = "v@333333-3333-3333-3333-3333-3333-333333";
  CHECK(assembly.groups[0].shown_name == "v");
  CHECK(assembly.groups[1].shown_name == full);
  CHECK(assembly.groups[2].shown_name == full + ".2");
  CHECK(find_group(assembly, "v") == &assembly.groups[0]);
  CHECK(find_group(assembly, full) == &assembly.groups[1]);
}

TEST_CASE("the newest metadata wins and the older is told") {
  auto first = disk("ring.0.bytes", "a"), second = disk("ring.1.bytes", "b");
  PvInfo old = scanned(*first);
  const auto copies = list_copies(*first, old.areas[0]).value();
  old.areas[0].text = copies.front().text;
  const Assembly assembly = assemble(std::array{old, scanned(*second)});
  REQUIRE(assembly.groups.size() == 1);
  CHECK(assembly.groups[0].group.seqno == copies.back().seqno);
  CHECK(assembly.groups[0].warnings.back().starts_with("a has old metadata of vgring"));
}
