// SPDX-License-Identifier: GPL-2.0-or-later
#include "rescue.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "cli.h"
#include "client.h"
#include "display.h"
#include "scan_text.h"
#include "tree.h"
#include "volfs/backing/image.h"
#include "volfs/backing/partitions.h"
#include "volfs/dm/table.h"
#include "volfs/engine/scan.h"
#include "volfs/units.h"

namespace volfs::cli {
namespace {

using nlohmann::json;

struct LeftOut {
  std::string image, reason;
  int code = EIO;
};

// All that the report tells.
struct Report {
  engine::Scan scan;
  std::vector<LeftOut> left_out;
  json status;  // of the mount
  std::string mountpoint, overlay;
};

// Those that can be looked at, each file once; the others are put on the list.
std::vector<std::string> readable(const std::vector<std::string>& paths,
                                  std::vector<LeftOut>& left_out) {
  std::vector<std::string> good;
  std::set<std::string> seen;
  for (const std::string& path : paths) {
    std::error_code error;
    const auto whole = std::filesystem::canonical(path, error);
    if (!error && !seen.insert(whole.string()).second) {
      left_out.push_back({path, "the same file as another one that is given"});
    } else if (const auto size = std::filesystem::file_size(path, error);
               !error && size < sector_size) {
      left_out.push_back({path, fmt::format("cut off: {} bytes are left", size)});
    } else if (auto alone = engine::scan_images({path}, {.pad = true}); !alone) {
      left_out.push_back({path, alone.error().text(), alone.error().code()});
    } else {
      good.push_back(path);
    }
  }
  return good;
}

// What a volume seems to hold: `ext4 file system, label "root", ...`.
std::string content_of(const Report& report, const json& device) {
  const std::string path = report.mountpoint + "/" + device.value("volume", "");
  const auto found = probe_signatures(path);
  if (!found || found->empty()) return {};
  return describe(found->front());
}

// Bytes in [BEGIN, END) of an image that lay behind the end of its file; 0 of one that is whole.
uint64_t lost_bytes(const config::Image& image, uint64_t begin, uint64_t end) {
  if (!image.pad) return 0;
  std::error_code error;
  const uint64_t size = std::filesystem::file_size(image.path.value, error);
  const auto opened = FileImage::open(image.name.value, image.path.value,
                                      {.read_only = true,
                                       .lock = false,
                                       .partition = image.partition ? image.partition->value : 0,
                                       .pad = image.pad->value});
  if (error || !opened) return 0;
  const uint64_t kept = size > (*opened)->start() ? size - (*opened)->start() : 0;
  end = std::min(end, (*opened)->size());
  return end > kept ? end - std::min(end, std::max(begin, kept)) : 0;
}

// The images that are cut off where a device needs them, and whether there is redundancy between.
struct CutBelow {
  std::set<std::string> images;
  bool array = false;
};

bool has_redundancy(const json& device) {
  if (device.contains("raid"))
    return device["map"].value("table", "").find(" raid raid0 ") == std::string::npos;
  if (!device.contains("array")) return false;
  const std::string level = device["array"].value("level", "");
  return level != "raid0" && level != "linear";
}

bool is_linear(const dm::TableRow& row) {
  return row.type == "linear" && row.args.size() == 2;
}

// Below [BEGIN, END) of a device. Exact through linear rows; what else stands on a device is taken
// to need all of it.
void find_cut(const Report& report, const std::string& name, uint64_t begin, uint64_t end,
              CutBelow& below) {
  for (const config::Image& image : report.scan.definition.images)
    if (image.name.value == name && lost_bytes(image, begin, end) > 0) below.images.insert(name);
  for (const json& device : report.status["devices"]) {
    if (device.value("name", "") != name) continue;
    CutBelow here;
    const auto rows =
        dm::parse_table(device.contains("map") ? device["map"].value("table", "") : std::string());
    if (rows && std::ranges::all_of(*rows, is_linear) && !rows->empty()) {
      for (const dm::TableRow& row : *rows) {
        const uint64_t from = std::max(begin, row.start),
                       to = std::min(end, row.start + row.length);
        const uint64_t place = std::stoull(row.args[1]) * sector_size - row.start;
        if (from < to) find_cut(report, row.args[0], place + from, place + to, here);
      }
    } else {
      for (const json& each : device["devices"])
        find_cut(report, each.get<std::string>(), 0, UINT64_MAX, here);
    }
    if (here.images.empty()) continue;
    below.images.merge(here.images);
    below.array |= here.array || has_redundancy(device);
  }
}

// Bytes of a volume that lay behind the end of an image's file; 0 if none did.
uint64_t lost_bytes(const Report& report, const json& device, const std::set<std::string>& cut) {
  const auto where = request(report.mountpoint, {{"request", "where"},
                                                 {"volume", device["volume"]},
                                                 {"offset", 0},
                                                 {"length", device["size"]}});
  if (!where) return 0;
  uint64_t lost = 0;
  for (const config::Image& image : report.scan.definition.images) {
    if (!cut.contains(image.name.value)) continue;
    for (const json& extent : (*where)["extents"]) {
      // Below the overlay, or above it where an array stands on it.
      const std::string place = extent.value("device", "");
      if (place != image.name.value && place != image.name.value + "-base") continue;
      const uint64_t from = extent.value("device_offset", uint64_t{0});
      lost += lost_bytes(image, from, from + extent.value("length", uint64_t{0}));
    }
  }
  return lost;
}

// Says of a volume on images that are cut off what became of its bytes.
void tell_cut(const Report& report, const json& device, json& entry) {
  if (entry["state"] == "failed") return;  // nothing is left that an end could take away
  CutBelow below;
  find_cut(report, device.value("name", ""), 0, UINT64_MAX, below);
  if (below.images.empty()) return;
  std::string names;
  for (const std::string& name : below.images) names += (names.empty() ? "" : ", ") + name;
  if (below.array) {
    entry["problem"] = fmt::format(
        "of {}, below it, the end is missing: what no other member of the array has reads as an "
        "error",
        names);
  } else if (const uint64_t lost = lost_bytes(report, device, below.images); lost > 0) {
    entry["lost"] = lost;
    entry["problem"] =
        fmt::format("{} bytes are lost with the end of {}, and read as errors", lost, names);
  } else {
    return;
  }
  if (entry["state"] == "active") entry["state"] = below.array ? "degraded" : "partial";
}

json volumes_of(const Report& report) {
  json volumes = json::array();
  for (const json& device : report.status["devices"]) {
    if (!device.contains("volume")) continue;
    json entry{{"volume", device["volume"]},
               {"type", type_of(device)},
               {"size", device["size"]},
               {"state", device["state"]}};
    if (device.contains("problem")) entry["problem"] = device["problem"];
    tell_cut(report, device, entry);
    if (const std::string content = content_of(report, device); !content.empty())
      entry["content"] = content;
    volumes.push_back(std::move(entry));
  }
  return volumes;
}

using Steps = std::vector<std::string>;

// Whether a device holds data of the array, now that it is assembled.
bool takes_part(const json& status, const std::string& array, const std::string& member) {
  for (const json& device : status["devices"]) {
    if (device.value("name", "") != array || !device.contains("array")) continue;
    for (const json& each : device["array"]["members"])
      if (each.value("device", "") == member) return each.contains("slot");
  }
  return false;
}

void steps_for_found(const Report& report, const engine::FoundArray& array, Steps& steps) {
  if (!array.problem.empty())
    steps.push_back(fmt::format(
        "array '{}' is not there: find its other members and start again with them", array.name));
  using State = engine::FoundMember::State;
  for (const engine::FoundMember& member : array.members) {
    const bool apart = member.state == State::apart, faulty = member.state == State::faulty;
    if ((member.state != State::stale && !faulty && !apart) || !array.problem.empty()) continue;
    if (takes_part(report.status, array.name, member.device))
      steps.push_back(fmt::format(
          "{}: was taken although it is {} ({} events), for '{}' cannot do without it: what was "
          "written later may be damaged; check the files",
          member.device, engine::to_string(member.state), member.events, array.name));
    else if (apart)
      steps.push_back(fmt::format(
          "{}: is left out of '{}', for it was written apart from the members that are taken: to "
          "see what it holds, rescue it by itself; keep both until you know which you want",
          member.device, array.name));
    else
      steps.push_back(fmt::format(
          "{}: is left out of '{}', for {}: keep it as it is until you have your data",
          member.device, array.name,
          faulty ? "the others say that it failed or was removed" : "it is out of date"));
  }
}

void steps_for_array(const Report& report, const json& device, Steps& steps) {
  const std::string name = device.value("name", "");
  const std::string path = report.mountpoint + "/" + name;
  if (device["array"]["sync"].value("pending", false))
    steps.push_back(fmt::format(
        "{}: is to be synced, which is held back: `volfs array idle {}` lets it start, into the "
        "overlay",
        name, path));
  if (device.value("state", "") == "degraded")
    steps.push_back(fmt::format(
        "{}: is degraded: copy first what you need; a new member joins only where the images are "
        "written: `volfs mount -o rw IMAGE... MOUNTPOINT`, `volfs image add` and `volfs array add`",
        name));
}

// What a person would do next, a line each.
Steps next_steps(const Report& report, const json& volumes) {
  Steps steps;
  for (const LeftOut& image : report.left_out)
    steps.push_back(
        fmt::format("{} is left out; a better copy may help: {}", image.image, image.reason));
  for (const engine::FoundArray& array : report.scan.arrays) steps_for_found(report, array, steps);
  for (const json& device : report.status["devices"])
    if (device.contains("array")) steps_for_array(report, device, steps);
  for (const json& volume : volumes)
    if (volume.contains("problem") && volume.value("state", "") != "failed")
      steps.push_back(
          fmt::format("{0}/{1}: {2}: copy what can be read, `ddrescue {0}/{1} COPY MAP` or `dd "
                      "conv=noerror,sync`, "
                      "or start again with a whole copy of what is missing",
                      report.mountpoint, volume.value("volume", ""), volume.value("problem", "")));
  for (const json& volume : volumes)
    if (volume.value("content", "").find("file system") != std::string::npos)
      steps.push_back(
          fmt::format("{0}/{1}: check it, then mount it: `fsck -n {0}/{1}`, `mount -o loop,ro "
                      "{0}/{1} DIRECTORY`",
                      report.mountpoint, volume.value("volume", "")));
  steps.push_back(
      fmt::format("end: `volfs umount {}`; then `volfs overlay discard {}` forgets what was "
                  "written, `volfs overlay commit {}` writes it into the images",
                  report.mountpoint, report.overlay, report.overlay));
  return steps;
}

json report_json(const Report& report) {
  json left_out = json::array();
  for (const LeftOut& image : report.left_out)
    left_out.push_back({{"image", image.image}, {"reason", image.reason}});
  json volumes = volumes_of(report);
  json steps = next_steps(report, volumes);
  return {{"mountpoint", report.mountpoint}, {"overlay", report.overlay},
          {"found", scan_json(report.scan)}, {"left_out", std::move(left_out)},
          {"volumes", std::move(volumes)},   {"unavailable", report.status["unavailable"]},
          {"next_steps", std::move(steps)}};
}

void print_found(const Report& report) {
  fmt::print("On the images:\n");
  print_scan(report.scan);
  for (const LeftOut& image : report.left_out)
    fmt::print("{}: {}: {}\n", image.image, coloured("left out", Colour::bad), image.reason);
}

void print_mounted(const Report& report) {
  fmt::print("\nMounted on {}; what is written goes to {}, the images stay as they are:\n",
             report.mountpoint, report.overlay);
  const json volumes = volumes_of(report);
  for (const json& volume : volumes) {
    const std::string state = volume.value("state", "");
    fmt::print("  {}  {}  {}  {}{}{}\n", volume.value("volume", ""), volume.value("type", ""),
               format_size_rounded(volume.value("size", uint64_t{0})),
               coloured(state, colour_of_state(state)), volume.contains("content") ? "  " : "",
               volume.value("content", ""));
    if (volume.contains("problem")) fmt::print("    {}\n", volume.value("problem", ""));
  }
  for (const json& missing : report.status["unavailable"])
    fmt::print("  {}  {}: {}\n", missing.value("volume", ""), coloured("not there", Colour::bad),
               missing.value("reason", ""));
  fmt::print("\nNext:\n");
  for (const std::string& text : next_steps(report, volumes)) fmt::print("  {}\n", text);
}

// On standard error, and as JSON: there is an answer on standard output in any case.
int complain(const Error& error, const Report& report, bool as_json) {
  fmt::print(stderr, "volfs: {}\n", error.text());
  if (!as_json) return exit_failed;
  json left_out = json::array();
  for (const LeftOut& image : report.left_out)
    left_out.push_back({{"image", image.image}, {"reason", image.reason}});
  print_json({{"error", to_json(Session::Failure{error.code(), error.text(), ""})},
              {"found", scan_json(report.scan)},
              {"left_out", std::move(left_out)},
              {"mountpoint", nullptr}});
  return exit_failed;
}

}  // namespace

int rescue(MountRequest request, bool as_json) {
  Report report;
  request.sources = readable(request.sources, report.left_out);
  const bool own_overlay = request.options.overlay.empty();
  // Arrays are forced; images that changed behind the overlay are not.
  if (!own_overlay && !request.options.force) {
    const auto unforced =
        engine::scan_images(request.sources, {.overlay = request.options.overlay, .pad = true});
    if (!unforced) return complain(unforced.error(), report, as_json);
  }
  auto scan = engine::scan_images(request.sources,
                                  {.force = true, .overlay = request.options.overlay, .pad = true});
  if (!scan) return complain(scan.error(), report, as_json);
  report.scan = std::move(*scan);
  if (!as_json) print_found(report);
  if (report.scan.definition.arrays.empty() && report.scan.definition.volume_groups.empty())
    return complain(
        Error::make(
            request.sources.empty() && !report.left_out.empty() ? report.left_out[0].code : EIO,
            "nothing on the images can be assembled; expected members of md arrays or LVM "
            "physical volumes"),
        report, as_json);
  request.private_overlay = own_overlay;
  Sources sources = sources_of(report.scan);
  for (config::VolumeGroup& group : sources.definition.volume_groups)
    group.activation.value = config::Activation::partial;
  request.options.force = true;
  request.frozen = true;
  std::fflush(stdout);  // before the fork
  if (const int mounted = mount_sources(request, sources); mounted != exit_done)
    return complain(Error::make(EIO, "it could not be mounted"), report, as_json), mounted;
  const auto target = find_target(request.mountpoint);
  const auto status =
      target ? cli::request(target->mountpoint, {{"request", "status"}}) : fail(target.error());
  if (!status) return complain(status.error(), report, as_json);
  report.status = *status;
  report.mountpoint = target->mountpoint;
  report.overlay = status->value("overlay", "");
  if (as_json)
    print_json(report_json(report));
  else
    print_mounted(report);
  return exit_done;
}

}  // namespace volfs::cli
