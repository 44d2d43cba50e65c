// SPDX-License-Identifier: GPL-2.0-or-later
// volfs scan: tells what is on images, and writes a definition of it.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "cli.h"
#include "volfs/engine/scan.h"

namespace volfs::cli {
namespace {

using nlohmann::json;

// A word that YAML and our own grammar read back as it is.
std::string quoted(const std::string& text) {
  return json(text).dump();
}

void print_yaml(const config::Definition& definition) {
  fmt::print("volfs: 1\nreadonly: true\nimages:\n");
  for (const config::Image& image : definition.images) {
    fmt::print("  {}: {{path: {}", quoted(image.name.value), quoted(image.path.value));
    if (image.partition) fmt::print(", partition: {}", image.partition->value);
    fmt::print("}}\n");
  }
  if (definition.volume_groups.empty()) return;
  fmt::print("volume_groups:\n");
  for (const config::VolumeGroup& group : definition.volume_groups) {
    fmt::print("  {}:\n    physical_volumes:\n", quoted(group.name.value));
    for (const config::PhysicalVolume& pv : group.physical_volumes)
      fmt::print("      - {}\n", quoted(pv.device.value));
  }
}

void print_text(const engine::Scan& scan) {
  for (const config::VolumeGroup& group : scan.definition.volume_groups) {
    fmt::print("volume group '{}' on", group.name.value);
    for (const config::PhysicalVolume& pv : group.physical_volumes)
      fmt::print(" {}", pv.device.value);
    fmt::print("\n");
  }
  for (const std::string& remark : scan.remarks) fmt::print("{}\n", remark);
  if (scan.definition.volume_groups.empty() && scan.remarks.empty()) fmt::print("nothing found\n");
}

void print_json(const engine::Scan& scan) {
  json images = json::array(), groups = json::array();
  for (const config::Image& image : scan.definition.images) {
    json entry{{"name", image.name.value}, {"path", image.path.value}};
    if (image.partition) entry["partition"] = image.partition->value;
    images.push_back(std::move(entry));
  }
  for (const config::VolumeGroup& group : scan.definition.volume_groups) {
    json pvs = json::array();
    for (const config::PhysicalVolume& pv : group.physical_volumes) pvs.push_back(pv.device.value);
    groups.push_back({{"name", group.name.value}, {"physical_volumes", std::move(pvs)}});
  }
  const json all{{"images", images}, {"volume_groups", groups}, {"remarks", scan.remarks}};
  fmt::print("{}\n", all.dump(2, ' ', false, json::error_handler_t::replace));
}

}  // namespace

void add_scan(CLI::App& app, Session& session) {
  struct Arguments {
    std::vector<std::string> images;
    bool yaml = false;
  };
  auto arguments = std::make_shared<Arguments>();
  auto* command = app.add_subcommand("scan", "tell what is on images; changes nothing");
  command->add_option("IMAGE", arguments->images, "image files or block devices")->required();
  command->add_flag("--yaml", arguments->yaml, "write a definition of it");
  add_json_option(*command, session);
  set_examples(*command,
               "  volfs scan sda.img sdb.img\n"
               "  volfs scan sda.img sdb.img --yaml > found.yaml\n");
  command->callback([arguments, &session] {
    const auto scan = engine::scan_images(arguments->images);
    if (!scan) return session.fail(scan.error());
    if (session.json)
      print_json(*scan);
    else if (arguments->yaml)
      print_yaml(scan->definition);
    else
      print_text(*scan);
  });
}

}  // namespace volfs::cli
