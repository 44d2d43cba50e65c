// SPDX-License-Identifier: GPL-2.0-or-later
// volfs inspect: every superblock, label and metadata area on images, the damaged ones too.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "cli.h"
#include "display.h"
#include "volfs/backing/image.h"
#include "volfs/backing/partitions.h"
#include "volfs/lvm/physical_volume.h"
#include "volfs/md/superblock.h"
#include "volfs/units.h"

namespace volfs::cli {
namespace {

using nlohmann::json;

json superblock_of(const md::MemberMetadata& found) {
  const md::ArrayMetadata& a = found.array;
  json out{{"metadata", md::version_name(a.version)},
           {"offset", found.super_offset},
           {"uuid", md::format_uuid(a.uuid)},
           {"level", md::level_name(a.geometry.level)},
           {"layout", md::layout_name(a.geometry.level, a.geometry.layout)},
           {"raid_disks", a.geometry.raid_disks},
           {"chunk", a.geometry.chunk},
           {"member_size", a.member_size},
           {"events", a.events},
           {"clean", a.resync_offset == md::all_in_sync},
           {"device_number", found.dev_number},
           {"data_offset", found.data_offset},
           {"data_size", found.data_size},
           {"created", a.ctime.seconds},
           {"updated", a.utime.seconds}};
  if (!a.name.empty()) out["name"] = a.name;
  if (found.role() < md::max_role) out["slot"] = found.role();
  if (a.has_bitmap) out["bitmap_offset"] = found.bitmap_position();
  return out;
}

json md_superblocks(BlockDevice& device) {
  json all = json::array();
  const uint64_t size = round_down(device.size(), sector_size);
  for (const md::SuperblockVersion version : md::superblock_versions) {
    const auto offset = md::superblock_offset(version, size);
    if (!offset || !range_within(*offset, md::superblock_size, size)) continue;
    md::SuperblockBytes bytes;
    auto read = device.read(*offset, bytes);
    if (read && !md::looks_like_superblock(version, bytes)) continue;
    json entry{{"metadata", md::version_name(version)}, {"offset", *offset}};
    if (read) {
      if (auto found = md::decode_superblock(version, bytes, size))
        entry = superblock_of(*found);
      else
        entry["problem"] = found.error().text();
    } else {
      entry["problem"] = read.error().text();
    }
    all.push_back(std::move(entry));
  }
  return all;
}

json copies_of(BlockDevice& device, const lvm::MetadataArea& area) {
  json copies = json::array();
  const auto found = lvm::list_copies(device, area);
  if (!found) return copies;
  for (const lvm::MetadataCopy& copy : *found)
    copies.push_back({{"offset", area.where.offset + copy.offset},
                      {"size", copy.size},
                      {"current", copy.committed},
                      {"group", copy.group},
                      {"seqno", copy.seqno},
                      {"description", copy.description},
                      {"time", copy.creation_time}});
  return copies;
}

json physical_volume(BlockDevice& device) {
  auto found = lvm::scan(device);
  if (!found) return {{"problem", found.error().text()}};
  if (!*found) return nullptr;
  const lvm::PvInfo& pv = **found;
  json areas = json::array();
  for (const lvm::MetadataArea& area : pv.areas) {
    json entry{{"offset", area.where.offset},
               {"size", area.where.size},
               {"ignored", area.ignored},
               {"copies", copies_of(device, area)}};
    if (!area.problem.empty()) entry["problem"] = area.problem;
    if (!area.text_problem.empty()) entry["text_problem"] = area.text_problem;
    areas.push_back(std::move(entry));
  }
  json data = json::array();
  for (const lvm::DiskArea& area : pv.label.data_areas)
    data.push_back({{"offset", area.offset}, {"size", area.size}});
  return {{"uuid", pv.label.id.dashed()},        {"label_sector", pv.label.sector},
          {"device_size", pv.label.device_size}, {"in_use", pv.label.in_use()},
          {"data_areas", std::move(data)},       {"metadata_areas", std::move(areas)}};
}

json device_of(const std::string& name, FileImage& image) {
  json entry{
      {"name", name}, {"path", image.path()}, {"offset", image.start()}, {"size", image.size()}};
  entry["md"] = md_superblocks(image);
  if (json pv = physical_volume(image); !pv.is_null()) entry["lvm"] = std::move(pv);
  json others = json::array();
  if (const auto signatures = probe_signatures(image.path(), image.start(), image.size()))
    for (const Signature& each : *signatures) others.push_back(describe(each));
  entry["signatures"] = std::move(others);
  return entry;
}

Result<json> inspect(const std::vector<std::string>& paths) {
  json all = json::array();
  for (const std::string& path : paths) {
    const auto look = [&](const std::string& name, unsigned partition) -> Status {
      ImageOptions options;
      options.read_only = true;
      options.lock = false;
      options.partition = partition;
      VOLFS_TRY_ASSIGN(const auto image, FileImage::open(name, path, options));
      all.push_back(device_of(name, *image));
      return {};
    };
    VOLFS_TRY(look(path, 0));
    VOLFS_TRY_ASSIGN(const auto partitions, list_partitions(path));
    for (const Partition& partition : partitions)
      if (!partition.extended)
        if (auto looked = look(fmt::format("{}p{}", path, partition.number), partition.number);
            !looked)
          all.push_back({{"name", fmt::format("{}p{}", path, partition.number)},
                         {"problem", looked.error().text()}});
  }
  return all;
}

std::string text_of(const json& value, const char* key) {
  const json& found = value[key];
  return found.is_string() ? found.get<std::string>() : found.dump();
}

void print_md(const json& entry) {
  fmt::print("  md superblock {} at {}", text_of(entry, "metadata"), text_of(entry, "offset"));
  if (entry.contains("problem")) {
    fmt::print(": DAMAGED: {}\n", text_of(entry, "problem"));
    return;
  }
  fmt::print(": {}, {} devices, {}, events {}, {}, uuid {}\n", text_of(entry, "level"),
             text_of(entry, "raid_disks"),
             entry.contains("slot") ? "slot " + text_of(entry, "slot") : "spare",
             text_of(entry, "events"), entry["clean"] == true ? "clean" : "not in sync",
             text_of(entry, "uuid"));
}

void print_lvm(const json& pv) {
  if (pv.contains("problem")) {
    fmt::print("  LVM label: DAMAGED: {}\n", text_of(pv, "problem"));
    return;
  }
  fmt::print("  LVM physical volume {}, label in sector {}, {} bytes{}\n", text_of(pv, "uuid"),
             text_of(pv, "label_sector"), text_of(pv, "device_size"),
             pv["in_use"] == true ? ", in use" : "");
  for (const json& area : pv["metadata_areas"]) {
    fmt::print("    metadata area at {}, {} bytes{}\n", text_of(area, "offset"),
               text_of(area, "size"), area["ignored"] == true ? ", ignored" : "");
    for (const char* key : {"problem", "text_problem"})
      if (area.contains(key)) fmt::print("      DAMAGED: {}\n", text_of(area, key));
    for (const json& copy : area["copies"])
      fmt::print("      seqno {} of {} at {}, {} bytes{}: {}\n", text_of(copy, "seqno"),
                 text_of(copy, "group"), text_of(copy, "offset"), text_of(copy, "size"),
                 copy["current"] == true ? ", current" : "", text_of(copy, "description"));
  }
}

void print(const json& all) {
  for (const json& device : all) {
    if (device.contains("problem")) {
      fmt::print("{}: {}\n", text_of(device, "name"), text_of(device, "problem"));
      continue;
    }
    fmt::print("{}: {} bytes\n", text_of(device, "name"), text_of(device, "size"));
    for (const json& entry : device["md"]) print_md(entry);
    if (device.contains("lvm")) print_lvm(device["lvm"]);
    for (const json& signature : device["signatures"])
      fmt::print("  signature: {}\n", signature.get<std::string>());
  }
}

}  // namespace

void add_inspect(CLI::App& app, Session& session) {
  auto paths = std::make_shared<std::vector<std::string>>();
  auto* command = app.add_subcommand(
      "inspect", "decode every superblock, label and metadata area on images, damaged ones too");
  command->add_option("IMAGE", *paths)->required();
  add_json_option(*command, session);
  set_examples(*command,
               "  volfs inspect disk.img\n"
               "  volfs inspect --json disk*.img\n");
  command->callback([paths, &session] {
    const auto found = inspect(*paths);
    if (!found) return session.fail(found.error());
    if (session.json)
      print_json(*found);
    else
      print(*found);
  });
}

}  // namespace volfs::cli
