// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/lvm/plan.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <sstream>

#include "golden.h"

using namespace volfs;
using namespace volfs::lvm;

namespace {

std::vector<std::string> lines(const std::string& text) {
  std::vector<std::string> out;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);)
    if (!line.empty() && line != "No devices found") out.push_back(line);
  std::ranges::sort(out);
  return out;
}

// The recorded lines begin with "NAME: ", and rows without parameters end with a blank.
std::string planned_tables(const ActivationPlan& plan) {
  std::string out;
  for (const PlannedDevice& device : plan.devices)
    for (const TableRow& row : device.table) out += device.name + ": " + to_string(row) + "\n";
  return out;
}

VolumeGroup group_of(const std::string& name) {
  auto group = read_group(golden(name + ".text"));
  if (!group) FAIL(group.error().text());
  return std::move(*group);
}

// The PVs stood on /dev/ubda and so on, as the metadata says.
std::vector<std::string> devices_of(const VolumeGroup& group, std::string_view missing = {}) {
  std::vector<std::string> out;
  for (const PhysicalVolume& pv : group.pvs)
    out.push_back(pv.device_hint == missing ? "" : pv.device_hint);
  return out;
}

void check_tables(const ActivationPlan& plan, const std::string& recorded) {
  const auto wanted = lines(recorded), made = lines(planned_tables(plan));
  std::vector<std::string> only_wanted, only_made;
  std::ranges::set_difference(wanted, made, std::back_inserter(only_wanted));
  std::ranges::set_difference(made, wanted, std::back_inserter(only_made));
  for (const std::string& line : only_wanted) MESSAGE("only dmsetup: " << line);
  for (const std::string& line : only_made) MESSAGE("only planned: " << line);
  CHECK(only_wanted.empty());
  CHECK(only_made.empty());
}

const PlannedVolume& volume(const ActivationPlan& plan, std::string_view name) {
  auto found = std::ranges::find(plan.volumes, name, &PlannedVolume::name);
  REQUIRE(found != plan.volumes.end());
  return *found;
}

}  // namespace

TEST_CASE("tables are those that lvm2 loads") {
  for (const std::string name :
       {"linear", "raid", "mirror", "snapshot", "merging", "pvmove", "odd"}) {
    CAPTURE(name);
    const VolumeGroup group = group_of(name);
    PlanOptions options;
    options.skipped = false;
    check_tables(activation_plan(group, devices_of(group), options), golden(name + ".table"));
  }
}

TEST_CASE("devices stand behind those they use, and each is there once") {
  for (const std::string name : {"linear", "raid", "mirror", "snapshot", "merging", "pvmove"}) {
    const VolumeGroup group = group_of(name);
    const ActivationPlan plan = activation_plan(group, devices_of(group));
    std::set<std::string> names, seen, uuids;
    for (const PlannedDevice& device : plan.devices) names.insert(device.name);
    for (const PlannedDevice& device : plan.devices) {
      for (const TableRow& row : device.table) {
        std::istringstream words(row.params);
        for (std::string word; words >> word;)
          if (names.contains(word)) CHECK_MESSAGE(seen.contains(word), word);
      }
      CHECK(seen.insert(device.name).second);
      CHECK(uuids.insert(device.uuid).second);
    }
  }
}

TEST_CASE(
    "a merge comes after the origin's other snapshots, which need copies of what it overwrites") {
  const VolumeGroup group = group_of("merging");
  size_t merges = 0, others = 0;
  std::set<std::string> origins;
  for (const PlannedDevice& device : activation_plan(group, devices_of(group)).devices)
    for (const TableRow& row : device.table) {
      const std::string origin = row.params.substr(0, row.params.find(' '));
      if (row.type == "snapshot-merge") {
        ++merges;
        origins.insert(origin);
      }
      if (row.type != "snapshot") continue;
      ++others;
      CHECK_MESSAGE(!origins.contains(origin), device.name);
    }
  CHECK(merges > 0);
  CHECK(others > 0);
}

TEST_CASE("with a PV missing the activation mode decides, as in lvm2") {
  const VolumeGroup group = group_of("missing");
  for (const auto& [mode, name] : {std::pair(ActivationMode::degraded, "degraded"),
                                   std::pair(ActivationMode::partial, "partial")}) {
    PlanOptions options;
    options.mode = mode;
    const ActivationPlan plan = activation_plan(group, devices_of(group, "/dev/ubdb"), options);
    check_tables(plan, golden(fmt::format("missing-{}.table", name)));
    CHECK(volume(plan, "lin").state == VolumeState::active);
    CHECK(volume(plan, "r1").state == VolumeState::degraded);
    CHECK(volume(plan, "r5").state == VolumeState::degraded);
    CHECK(volume(plan, "r0").state == VolumeState::partial);
    const VolumeState holes =
        mode == ActivationMode::partial ? VolumeState::partial : VolumeState::unavailable;
    CHECK(volume(plan, "hole").state == holes);
    CHECK(volume(plan, "str").state == holes);
    CHECK(volume(plan, "mir").state == holes);
    CHECK(volume(plan, "hole").reason.starts_with("missing PV " + group.pvs[1].id.dashed()));
  }
  PlanOptions options;
  options.mode = ActivationMode::complete;
  const ActivationPlan plan = activation_plan(group, devices_of(group, "/dev/ubdb"), options);
  for (const char* name : {"hole", "str", "r1", "r5", "r0", "mir"})
    CHECK(volume(plan, name).state == VolumeState::unavailable);
  CHECK(volume(plan, "lin").state == VolumeState::active);
}

TEST_CASE("kinds that are not worked with are said so") {
  const VolumeGroup group = group_of("unsupported");
  const ActivationPlan plan = activation_plan(group, devices_of(group));
  CHECK(volume(plan, "plain").state == VolumeState::active);
  CHECK(volume(plan, "thin").reason == "thin: segment type thin is not supported");
  CHECK(volume(plan, "pool").reason == "pool: segment type thin-pool is not supported");
  CHECK(volume(plan, "slow").reason == "slow: segment type cache is not supported");
  CHECK(volume(plan, "integ").reason.find("segment type integrity is not supported") !=
        std::string::npos);
  PlanOptions options;
  options.hidden = true;
  CHECK(volume(activation_plan(group, devices_of(group), options), "pool_tdata").device ==
        "vgu-pool_tdata");
}

TEST_CASE(
    "what is not worked with and misses PVs says both, and no mode is recommended that helps not") {
  const VolumeGroup group = group_of("unsupported");
  const ActivationPlan plan = activation_plan(group, std::vector<std::string>(group.pvs.size()));
  for (const char* name : {"thin", "pool", "slow"}) {
    const std::string& reason = volume(plan, name).reason;
    CHECK_MESSAGE(reason.find("is not supported; missing PV ") != std::string::npos, reason);
    CHECK_MESSAGE(reason.find("activation mode") == std::string::npos, reason);
  }
}

TEST_CASE("an exported group is shown only on demand") {
  const VolumeGroup group = group_of("exported");
  CHECK(activation_plan(group, devices_of(group)).devices.empty());
  PlanOptions options;
  options.exported = true;
  CHECK(activation_plan(group, devices_of(group), options).devices.size() == 1);
}

TEST_CASE("volumes have the size, visibility and permission that lvm2 shows") {
  const VolumeGroup group = group_of("snapshot");
  const ActivationPlan plan = activation_plan(group, devices_of(group));
  CHECK(volume(plan, "root").size == 40u << 20);
  CHECK(volume(plan, "root-snap").size == 40u << 20);
  CHECK(volume(plan, "root-snap").device == "vgs-root--snap");
  CHECK(volume(plan, "root-snap").visible);
  CHECK(volume(plan, "dsnap").read_only);
  CHECK_FALSE(volume(plan, "safe_rimage_0").visible);
  CHECK(volume(plan, "safe_rimage_0").device == "vgs-safe_rimage_0");
  CHECK(volume(plan, "sparse").size == uint64_t{1} << 30);
  CHECK(std::ranges::count(plan.volumes, "snapshot0", &PlannedVolume::name) == 0);
}

TEST_CASE("raid parameters are in the order of the kernel's documentation") {
  VolumeGroup group = group_of("raid");
  LogicalVolume& lv = group.lvs[*group.find_lv("r1")];
  lv.segments[0].write_behind = 100;
  lv.segments[0].min_recovery_rate = 5;
  lv.segments[0].max_recovery_rate = 50;
  lv.segments[0].data_offset = 0;
  group.lvs[*group.find_lv("r1_rimage_0")].status.push_back("REBUILD");
  const ActivationPlan plan = activation_plan(group, devices_of(group));
  auto device = std::ranges::find(plan.devices, "vg--r-r1", &PlannedDevice::name);
  REQUIRE(device != plan.devices.end());
  CHECK(device->table[0].params ==
        "raid1 15 0 rebuild 0 min_recovery_rate 5 max_recovery_rate 50 write_mostly 1 "
        "max_write_behind 100 region_size 4096 data_offset 0 2 vg--r-r1_rmeta_0 "
        "vg--r-r1_rimage_0 vg--r-r1_rmeta_1 vg--r-r1_rimage_1");
}
