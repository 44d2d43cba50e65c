// SPDX-License-Identifier: GPL-2.0-or-later
// What becomes of maps and snapshots.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <sstream>

#include "apply_planner.h"
#include "display.h"
#include "volfs/units.h"

namespace volfs::cli {
namespace {

using nlohmann::json;

std::vector<std::string> words_of(const std::string& row) {
  std::istringstream in(row);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

// Where the last row ends.
uint64_t size_of(const std::string& table) {
  uint64_t end = 0;
  for (const auto& row : rows_of(table))
    if (row.size() >= 2)
      end = (std::strtoull(row[0].c_str(), nullptr, 10) +
             std::strtoull(row[1].c_str(), nullptr, 10)) *
            512;
  return end;
}

}  // namespace

std::vector<std::vector<std::string>> rows_of(const std::string& table) {
  std::vector<std::vector<std::string>> rows;
  std::istringstream lines(table);
  for (std::string line; std::getline(lines, line);) {
    auto words = words_of(line);
    if (!words.empty() && !words.front().starts_with('#')) rows.push_back(std::move(words));
  }
  return rows;
}

std::vector<std::string> Planner::row_of(const json& device, const char* type) {
  const auto rows = rows_of(device.contains("map") ? device["map"].value("table", "") : "");
  std::vector<std::string> row(7);
  if (rows.size() != 1 || rows[0].size() < 4 || rows[0][2] != type) return row;
  std::copy_n(rows[0].begin(), std::min(rows[0].size(), row.size()), row.begin());
  return row;
}

bool Planner::same_table(const json& now, const config::Map& map, const std::string& name) const {
  const std::string running = now.contains("map") ? now["map"].value("table", "") : "";
  if (rows_of(running) == rows_of(map.table())) return true;
  const auto canonical = check_(name, map.table());
  return canonical && rows_of(*canonical) == rows_of(running);
}

void Planner::try_table(const config::Map& map) {
  changing_.insert(map.name.value);
  for (const config::Text& device : map.devices)
    if (changing_.contains(device.value) || !running_.contains(device.value)) return;
  const auto tried = check_(map.name.value, map.table());
  if (tried || tried.error().code() == EOPNOTSUPP || tried.error().code() == ENXIO) return;
  // Who has it now may go before.
  const auto in_other_hands = [&](const config::Text& device) {
    const auto users = running_[device.value]->value("users", std::vector<std::string>());
    return std::ranges::any_of(users, [&](const auto& user) { return !wanted_.contains(user); });
  };
  if (tried.error().code() != EBUSY || std::ranges::none_of(map.devices, in_other_hands))
    problem(fmt::format("map {}", tried.error().text()));
}

void Planner::plan(const config::Map& map) {
  const std::string& name = map.name.value;
  const bool read_only = read_only_ || map.readonly.value;
  const json* now = find(name);
  const uint64_t size = size_of(map.table());
  if (!now) {
    try_table(map);
    json body{{"request", "map.create"}, {"map", name}, {"table", map.table()}};
    if (map.uuid) body["uuid"] = map.uuid->value;
    if (map.readonly.value) body["readonly"] = true;
    if (map.hidden.value) body["hidden"] = true;
    step('+', fmt::format("map {}: {}", name, format_size(size)), {std::move(body)});
    return;
  }
  if (!is(*now, "map", name)) return;
  const std::string device = now->value("name", name);
  const auto before = now->value("size", uint64_t{0});
  const bool same = same_table(*now, map, device) && now->value("read_only", false) == read_only;
  // A snapshot-origin on it has its size.
  const json* const front = device == name ? nullptr : running_[name];
  const bool front_differs = front && front->value("size", uint64_t{0}) != size;
  if (same && !front_differs) {
    plan_resume(name, device);
    if (front) plan_resume(name, name);
    return;
  }
  try_table(map);
  ApplyStep step{'~', fmt::format("map {}: another table", name), {}, false, {}};
  if (size != before)
    step.text += fmt::format(", {} instead of {}", format_size(size), format_size(before));
  if (size < before) {
    step.text += " (what is behind the new end is out of reach)";
    step.loses_data = true;
    if (now->contains("volume")) step.volumes.push_back((*now)["volume"]);
  }
  if (front && size < before)
    return problem(fmt::format(
        "map {}: cannot become smaller while there are snapshots of it, which see all of it",
        name));
  if (!same) swap_table(step, device, map.table(), map.readonly.value);
  if (front_differs)
    swap_table(step, name, fmt::format("0 {} snapshot-origin {}\n", size / sector_size, device),
               false);
  plan_.steps.push_back(std::move(step));
}

void Planner::swap_table(ApplyStep& step, const std::string& map, const std::string& table,
                         bool read_only) {
  step.requests.push_back(
      {{"request", "map.swap"}, {"map", map}, {"table", table}, {"readonly", read_only}});
}

// What somebody began to do to it, and the definition knows nothing of, is taken back.
void Planner::plan_resume(const std::string& map, const std::string& device) {
  const json& now = (*running_[device])["map"];
  std::vector<json> requests;
  std::string text;
  if (now.value("inactive_table", false)) {
    requests.push_back({{"request", "map.clear"}, {"map", device}});
    text = "without the table that is loaded beside";
  }
  if (now.value("suspended", false)) {
    requests.push_back({{"request", "map.resume"}, {"map", device}});
    text = text.empty() ? "resume" : "resume, " + text;
  }
  if (!requests.empty()) step('~', fmt::format("map {}: {}", map, text), std::move(requests));
}

void Planner::plan(const config::Snapshot& snapshot) {
  const std::string& name = snapshot.name.value;
  if (const auto now = running_.find(name); now != running_.end())
    return check_same(snapshot, *now->second);
  if (!snapshot.cow_image || !snapshot.persistent.value || snapshot.readonly.value ||
      snapshot.discard_zeroes_cow.value || snapshot.discard_passdown_origin.value)
    return problem(
        fmt::format("snapshot {}: is not on the mount; only a writable one with a "
                    "file of its own as store and no features for discards can be taken there",
                    name));
  json body{{"request", "snapshot.create"},
            {"snapshot", name},
            {"origin", snapshot.origin.value},
            {"store", absolute(directory_, snapshot.cow_image->path.value)},
            {"chunk_size", snapshot.chunk_size.value}};
  if (snapshot.cow_image->size) body["size"] = snapshot.cow_image->size->value;
  if (snapshot.overflow.value) body["overflow"] = true;
  step('+', fmt::format("snapshot {}: of {}", name, snapshot.origin.value), {std::move(body)});
}

void Planner::check_same(const config::Snapshot& snapshot, const json& now) {
  const std::string& name = snapshot.name.value;
  const auto row = row_of(now, "snapshot");
  const auto differs = [&](const std::string& what, const std::string& found,
                           const std::string& wanted) {
    if (!found.empty() && found != wanted)
      problem(
          fmt::format("snapshot {}: its {} is {} on the mount and {} in the definition; only "
                      "another snapshot can have that",
                      name, what, found, wanted));
  };
  std::string origin = row[3];
  if (constexpr std::string_view real = "-real"; origin.ends_with(real)) {
    const std::string shown = origin.substr(0, origin.size() - real.size());
    if (running_.contains(shown)) origin = shown;
  }
  differs("origin", origin, snapshot.origin.value);
  differs("chunk size in sectors", row[6],
          fmt::format("{}", snapshot.chunk_size.value / sector_size));
  const char* const persistence = !snapshot.persistent.value ? "N"
                                  : snapshot.overflow.value  ? "PO"
                                                             : "P";
  differs("persistence", row[5], persistence);
  if (row[5].empty()) return;
  const auto flag = [](bool set) { return std::string(set ? "true" : "false"); };
  const std::string table = now["map"].value("table", "");
  for (const auto& [key, wanted] :
       {std::pair{"discard_zeroes_cow", snapshot.discard_zeroes_cow.value},
        std::pair{"discard_passdown_origin", snapshot.discard_passdown_origin.value}})
    differs(key, flag(table.find(key) != std::string::npos), flag(wanted));
  differs("readonly", flag(now.value("read_only", false)),
          flag(read_only_ || snapshot.readonly.value));
  if (snapshot.cow_device.value != row[4] && !snapshot.cow_image)
    differs("cow", row[4], snapshot.cow_device.value);
  const auto store = running_.find(name + "-cow");
  if (!snapshot.cow_image || store == running_.end()) return;
  const std::string wanted = absolute(directory_, snapshot.cow_image->path.value);
  const std::string path = store->second->value("path", wanted);
  if (!same_file(path, wanted)) differs("cow", path, wanted);
}

}  // namespace volfs::cli
