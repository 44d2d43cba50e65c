// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/config/definition.h"

#include <doctest/doctest.h>

#include <fstream>
#include <sstream>

#include "table_words.h"
#include "volfs/config/parser.h"

using namespace volfs;
using namespace volfs::config;

namespace {

std::string read_file(const std::string& name) {
  std::ifstream in(std::string(CONFIG_TEST_DIR "/") + name);
  REQUIRE(in.good());
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

Definition parse_good(const std::string& text) {
  auto definition = parse(text, "lab.yaml", scan_words);
  INFO((definition ? std::string() : definition.error().to_string()));
  REQUIRE(definition);
  return std::move(*definition);
}

std::string messages(const std::string& text) {
  const auto definition = parse(text, "lab.yaml", scan_words);
  return definition ? "" : definition.error().to_string();
}

size_t place_in_order(const Definition& definition, DeviceKind kind, size_t index) {
  for (size_t i = 0; i < definition.build_order.size(); ++i)
    if (definition.build_order[i].kind == kind && definition.build_order[i].index == index)
      return i;
  FAIL("not in the build order");
  return 0;
}

}  // namespace

TEST_CASE("images are read with their places") {
  const Definition d = parse_good(read_file("example.yaml"));
  CHECK(d.file_name == "lab.yaml");
  CHECK(!d.readonly.value);
  REQUIRE(d.images.size() == 7);
  CHECK(d.images[0].name.value == "disk0");
  CHECK(d.images[0].name.at == Position{5, 3});
  CHECK(d.images[0].path.value == "disk0.img");
  CHECK(d.images[0].path.at == Position{5, 10});
  CHECK(!d.images[0].size);
  CHECK(!d.images[0].readonly.value);
  CHECK(!d.images[0].readonly.at.given());
  CHECK(d.images[1].size->value == 256 * MiB);
  CHECK(d.images[1].size->at == Position{6, 34});
  CHECK(d.images[2].partition->value == 2);
  CHECK(d.images[2].readonly.value);
  CHECK(d.images[2].direct->value == false);
  CHECK(d.images[3].path.value == "disk 3.img");
  CHECK(d.images[3].offset.value == MiB);
  CHECK(d.images[3].length->value == 100 * MiB);
}

TEST_CASE("arrays are read with md's numbers") {
  const Definition d = parse_good(read_file("example.yaml"));
  REQUIRE(d.arrays.size() == 2);
  const Array& md0 = d.arrays[0];
  CHECK(md0.level.value == ArrayLevel::raid5);
  REQUIRE(md0.devices.size() == 3);
  CHECK(md0.devices[1].device.value == "disk1");
  CHECK(!md0.devices[1].missing);
  CHECK(md0.devices[2].missing);
  CHECK(md0.devices[2].device.at == Position{13, 47});
  REQUIRE(md0.spares.size() == 1);
  CHECK(md0.chunk->value == 64 * KiB);
  CHECK(md0.layout->value == 2);
  CHECK(md0.metadata.value == ArrayMetadata::v1_2);
  CHECK(md0.bitmap->value == ArrayBitmap::internal);
  CHECK(md0.assume_clean.at.given());
  const Array& md1 = d.arrays[1];
  CHECK(md1.level.value == ArrayLevel::raid1);
  CHECK(md1.devices[0].write_mostly.value);
  CHECK(md1.metadata.value == ArrayMetadata::v0_90);
  CHECK(md1.uuid->value[0] == 0x3a);
  CHECK(md1.uuid->value[15] == 0x71);
  CHECK(md1.force.value);
  CHECK(!md1.bitmap);
}

TEST_CASE("layouts of raid10 and raid6 have md's numbers") {
  const auto layout = [](const std::string& level, const std::string& word) {
    const Definition d = parse_good(
        "volfs: 1\nimages: {a: a, b: b, c: c, d: d}\narrays: {m: {devices: [a, b, c, d], level: " +
        level + ", layout: " + word + "}}\n");
    return d.arrays[0].layout->value;
  };
  CHECK(layout("raid10", "n2") == 0x102);
  CHECK(layout("raid10", "f3") == 0x301);
  CHECK(layout("10", "o2") == 0x10201);
  CHECK(layout("raid6", "ls") == 2);
  CHECK(layout("raid6", "ddf-N-continue") == 10);
  CHECK(layout("raid6", "parity-first-6") == 20);
  CHECK(layout("raid5", "parity-last") == 5);
  CHECK(layout("raid0", "alternate") == 2);
}

TEST_CASE("volume groups are read with lvm2's defaults resolved") {
  const Definition d = parse_good(read_file("example.yaml"));
  REQUIRE(d.volume_groups.size() == 1);
  const VolumeGroup& vg = d.volume_groups[0];
  CHECK(vg.physical_volumes[1].device.value == "disk5");
  CHECK(vg.physical_volumes[1].tags[0].value == "fast");
  CHECK(vg.extent_size.value == 4 * MiB);
  CHECK(vg.activation.value == Activation::partial);
  CHECK(vg.volumes_listed);
  REQUIRE(vg.logical_volumes.size() == 5);
  const auto& lv = vg.logical_volumes;
  CHECK(lv[0].type.value == LvType::linear);
  CHECK(lv[0].size.value.unit == LvSize::Unit::bytes);
  CHECK(lv[0].size.value.value == 128 * MiB);
  CHECK(lv[1].stripes.value == 2);
  CHECK(lv[1].areas() == 2);
  CHECK(lv[2].mirrors.value == 1);
  CHECK(lv[2].areas() == 2);
  CHECK(lv[2].tags[0].value == "safe/1");
  CHECK(lv[3].type.value == LvType::snapshot);
  CHECK(lv[3].origin.value == "root");
  CHECK(lv[4].size.value.unit == LvSize::Unit::percent_free);
  CHECK(lv[4].size.value.value == 100);
  CHECK(lv[4].permission.value == Permission::read_only);
  CHECK(!lv[4].active.value);
  CHECK(lv[4].hidden.value);
}

TEST_CASE("a volume's type follows from its other keys as with lvcreate") {
  const auto volume = [](const std::string& keys) {
    const Definition d = parse_good(
        "volfs: 1\nimages: {a: a, b: b, c: c, d: d, e: e}\nvolume_groups: {v: {physical_volumes: "
        "[a, b, c, d, e], logical_volumes: {o: {size: 8MiB}, x: {size: 8MiB, " +
        keys + "}}}}\n");
    return d.volume_groups[0].logical_volumes[1];
  };
  CHECK(volume("stripes: 3").type.value == LvType::striped);
  CHECK(volume("stripes: 1, mirrors: 0").type.value == LvType::linear);
  CHECK(volume("mirrors: 2").type.value == LvType::raid1);
  CHECK(volume("mirrors: 1, stripes: 2").type.value == LvType::raid10);
  CHECK(volume("mirrors: 1, stripes: 2").areas() == 4);
  CHECK(volume("origin: v/o").type.value == LvType::snapshot);
  CHECK(volume("origin: v/o").origin.value == "o");
  CHECK(volume("type: raid5").type.value == LvType::raid5_ls);
  CHECK(volume("type: raid5").areas() == 3);
  CHECK(volume("type: raid6").type.value == LvType::raid6_zr);
  CHECK(volume("type: raid6").areas() == 5);
  CHECK(volume("type: raid10").areas() == 4);
  CHECK(to_string(volume("type: raid6_nc").type.value) == "raid6_nc");
}

TEST_CASE("snapshots name their store or describe it in place") {
  const Definition d = parse_good(read_file("example.yaml"));
  REQUIRE(d.snapshots.size() == 2);
  CHECK(d.snapshots[0].origin.value == "md0");
  REQUIRE(d.snapshots[0].cow_image);
  CHECK(d.snapshots[0].cow_image->path.value == "before.cow");
  CHECK(d.snapshots[0].cow_image->size->value == 64 * MiB);
  CHECK(d.snapshots[0].cow_device.value.empty());
  CHECK(d.snapshots[1].cow_device.value == "disk6");
  CHECK(d.snapshots[1].chunk_size.value == 16 * KiB);
  CHECK(d.snapshots[1].persistent.value);
}

TEST_CASE("rows of a table stand where they are in the file") {
  const Definition d = parse_good(read_file("example.yaml"));
  REQUIRE(d.maps.size() == 2);
  const Map& scratch = d.maps[0];
  REQUIRE(scratch.rows.size() == 5);
  CHECK(scratch.rows[0].value == "# first the array");
  CHECK(scratch.rows[0].at == Position{38, 7});
  CHECK(scratch.rows[1].value == "  0 2048 linear md1 4096");
  CHECK(scratch.rows[1].at == Position{39, 7});
  CHECK(scratch.rows[4].value == "4096 2048 linear vg0/rest 0");
  CHECK(scratch.rows[4].at == Position{42, 7});
  CHECK(scratch.table() ==
        "# first the array\n  0 2048 linear md1 4096\n\n2048 2048 zero\n4096 2048 linear vg0/rest "
        "0\n");
  REQUIRE(scratch.devices.size() == 2);
  CHECK(scratch.devices[0].value == "md1");
  CHECK(scratch.devices[0].at == Position{39, 23});
  CHECK(scratch.devices[1].at == Position{42, 24});
  const Map& peek = d.maps[1];
  REQUIRE(peek.rows.size() == 2);
  CHECK(peek.rows[1].at == Position{43, 41});
  CHECK(peek.readonly.value);
}

TEST_CASE("rows have places in every style of scalar") {
  const auto rows = [](const std::string& table) {
    return parse_good("volfs: 1\nmaps:\n  m:\n    table: " + table).maps[0].rows;
  };
  CHECK(rows("0 8 zero\n")[0].at == Position{4, 12});
  CHECK(rows("|\n\n     0 8 zero\n")[1].at == Position{6, 6});
  CHECK(rows("| # a comment\n        0 8 zero\n        8 8 zero\n")[1].at == Position{6, 9});
  CHECK(rows("&t |-\n        0 8 zero\n")[0].at == Position{5, 9});
  const auto quoted = rows("\"0 8 zero\\n8 8 zero\"\n");
  REQUIRE(quoted.size() == 2);
  CHECK(quoted[0].at == Position{4, 13});
  CHECK(quoted[1].at == Position{4, 23});
  // Not found as it is: the place of the whole.
  CHECK(rows("\"0 8 \\x7aero\\n8 8 zero\"\n")[0].at == Position{4, 12});
  CHECK(rows("|\r\n     0 8 zero\r\n     8 8 zero\r\n")[1].at == Position{6, 6});
}

TEST_CASE("expose is read") {
  const Definition d = parse_good(read_file("example.yaml"));
  CHECK(d.expose.mode.value == 0640);
  CHECK(d.expose.owner->value.id == 1000u);
  CHECK(d.expose.group->value.name == "disk");
  CHECK(!d.expose.group->value.id);
}

TEST_CASE("what builds on others comes after them") {
  const Definition d = parse_good(read_file("example.yaml"));
  CHECK(d.build_order.size() == 7 + 2 + 1 + 2 + 2);
  const size_t disk0 = place_in_order(d, DeviceKind::image, 0);
  const size_t md0 = place_in_order(d, DeviceKind::array, 0);
  const size_t vg0 = place_in_order(d, DeviceKind::volume_group, 0);
  CHECK(disk0 < md0);
  CHECK(md0 < vg0);
  CHECK(md0 < place_in_order(d, DeviceKind::snapshot, 0));
  CHECK(vg0 < place_in_order(d, DeviceKind::snapshot, 1));
  CHECK(vg0 < place_in_order(d, DeviceKind::map, 0));
  CHECK(disk0 < place_in_order(d, DeviceKind::map, 1));
}

TEST_CASE("the snapshots of an origin come before all else that uses it") {
  const Definition d = parse_good(
      "volfs: 1\nimages: {i: i, j: j, c: c, d: d, e: e}\n"
      "arrays: {a: {level: raid1, devices: [j, missing]}}\n"
      "maps:\n"
      "  merge: {table: 0 8 snapshot-merge i c P 8}\n"
      "  origin: {table: 0 8 snapshot-origin i}\n"
      "  snap: {table: 0 8 snapshot i d P 8}\n"
      // Its store stands on what merges: that goes before.
      "  low: {table: 0 8 linear merge 0}\n"
      "  late: {table: 0 8 snapshot i low P 8}\n"
      "snapshots: {s: {origin: j, cow: e}}\n");
  REQUIRE(d.build_order.size() == 5 + 1 + 5 + 1);
  const auto map = [&](size_t index) { return place_in_order(d, DeviceKind::map, index); };
  CHECK(place_in_order(d, DeviceKind::snapshot, 0) < place_in_order(d, DeviceKind::array, 0));
  CHECK(map(0) < map(3));
  CHECK(map(3) < map(4));
  CHECK(map(2) < map(1));
  CHECK(map(4) < map(1));
}

TEST_CASE("anchors, aliases, merges and x- keys save writing") {
  const Definition d = parse_good(
      "volfs: 1\nx-disk: &disk {size: 64MiB, readonly: true}\nimages:\n"
      "  a: {<<: *disk, path: a.img}\n  b: {<<: [*disk, {direct: true}], path: b.img, size: 1MiB}\n"
      "  c: &c c.img\narrays:\n  m: {level: raid0, force: true, devices: &l [a]}\n");
  CHECK(d.images[0].size->value == 64 * MiB);
  CHECK(d.images[0].readonly.value);
  CHECK(d.images[1].size->value == MiB);
  CHECK(d.images[1].direct->value);
}

TEST_CASE("empty sections, a byte order mark and standard tags are fine") {
  const Definition d = parse_good(
      "\xEF\xBB\xBF%YAML 1.2\n---\nvolfs: !!int 1\nimages:\narrays: {}\nmaps: ~\nexpose:\n...\n");
  CHECK(d.images.empty());
  CHECK(d.expose.mode.value == 0660);
  CHECK(parse_good("volfs: 1").build_order.empty());
}

TEST_CASE("volumes of a group that lists none are known when the disks are read") {
  const Definition d = parse_good(
      "volfs: 1\nimages: {a: a, b: b}\nvolume_groups: {v: {physical_volumes: [a]}}\n"
      "arrays: {m: {level: 1, devices: [v/any, b]}}\n");
  CHECK(!d.volume_groups[0].volumes_listed);
}

TEST_CASE("without a scanner the tables are kept unread") {
  const auto d = parse("volfs: 1\nmaps: {m: {table: 0 8 linear nowhere 0}}\n", "lab.yaml");
  REQUIRE(d);
  CHECK(d->maps[0].table() == "0 8 linear nowhere 0\n");
  CHECK(d->maps[0].devices.empty());
}

TEST_CASE("what may share a device does") {
  const std::string images = "volfs: 1\nimages: {a: a, b: b, c: c, d: d}\n";
  CHECK(messages(images + "maps: {m: {table: 0 8 linear a 0}, n: {table: 0 8 linear a 8}}\n") ==
        "");
  CHECK(messages(images + "arrays: {x: {level: 1, devices: [a, b]}}\nmaps: {m: {table: 0 8 linear "
                          "a 0, readonly: true}}\n") == "");
  CHECK(messages(images +
                 "arrays: {x: {level: 1, devices: [a, b]}}\nsnapshots: {s: {origin: a, cow: c}, "
                 "t: {origin: a, cow: d}}\n") == "");
  CHECK(
      messages("volfs: 1\nimages: {a: {path: f, partition: 1}, b: {path: ./f, partition: 2}}\n") ==
      "");
  CHECK(messages("volfs: 1\nreadonly: true\nimages: {a: f, b: f}\n") == "");
  CHECK(messages("volfs: 1\nimages: {a: {path: f, length: 1MiB}, b: {path: f, offset: 1MiB}}\n") ==
        "");
}
