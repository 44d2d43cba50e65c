// SPDX-License-Identifier: GPL-2.0-or-later
#include "merge_record.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "assembler.h"
#include "small_file.h"

namespace volfs::engine {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr std::string_view merging_suffix = ".merging";
constexpr const char* merge_magic = "volfs_merge";
constexpr int merge_version = 1;
constexpr std::string_view on_image = "image ";

fs::path folder_of(const std::string& file) {
  return fs::absolute(file).lexically_normal().parent_path();
}

std::string relative_to(const fs::path& folder, const std::string& path) {
  return fs::absolute(path).lexically_normal().lexically_proximate(folder);
}

std::string absolute_from(const fs::path& folder, const std::string& path) {
  return (folder / path).lexically_normal();
}

// Throws what nlohmann's library throws for a wrong type or a missing key.
MergeRecord merge_from_json(const json& body, const fs::path& folder) {
  MergeRecord record;
  body.at("definition").get_to(record.definition);
  body.at("overlay").get_to(record.overlay);
  body.at("snapshot").get_to(record.snapshot);
  body.at("origin").get_to(record.origin);
  record.store = absolute_from(folder, body.at("store").get<std::string>());
  body.at("kind").get_to(record.kind);
  body.at("chunk_size").get_to(record.chunk_size);
  body.at("made").get_to(record.made);
  body.at("merged").get_to(record.merged);
  body.at("origin_size").get_to(record.origin_size);
  body.at("store_size").get_to(record.store_size);
  body.at("first_old").get_to(record.first_old);
  body.at("first_new").get_to(record.first_new);
  body.at("stands_on").get_to(record.stands_on);
  for (std::string& each : record.stands_on)
    if (each.starts_with(on_image))
      each = std::string(on_image) + absolute_from(folder, each.substr(on_image.size()));
  return record;
}

json merge_to_json(const MergeRecord& record, const fs::path& folder) {
  std::vector<std::string> stands_on = record.stands_on;
  for (std::string& each : stands_on)
    if (each.starts_with(on_image))
      each = std::string(on_image) + relative_to(folder, each.substr(on_image.size()));
  return {{merge_magic, merge_version},
          {"definition", record.definition},
          {"overlay", record.overlay},
          {"snapshot", record.snapshot},
          {"origin", record.origin},
          {"store", relative_to(folder, record.store)},
          {"kind", record.kind},
          {"chunk_size", record.chunk_size},
          {"made", record.made},
          {"merged", record.merged},
          {"origin_size", record.origin_size},
          {"store_size", record.store_size},
          {"stands_on", std::move(stands_on)},
          {"first_old", record.first_old},
          {"first_new", record.first_new}};
}

// Whether it says of itself that it is a record, whatever else it is.
bool is_record(const json& body) {
  return body.is_object() && body.contains(merge_magic);
}

Result<MergeRecord> parse_record(const std::string& path, const json& body) {
  const auto broken = [&](const std::string& what) {
    return fail(Error::make(EUCLEAN, fmt::format("{}: {}", path, what)));
  };
  if (!is_record(body)) return broken("not the record of a merge");
  try {
    if (body.at(merge_magic) != merge_version) return broken("of a newer version of volfs");
    return merge_from_json(body, folder_of(path));
  } catch (const json::exception& error) {
    return broken(error.what());
  }
}

}  // namespace

std::string marker_of(const std::string& store) {
  return store + std::string(merging_suffix);
}

std::string record_of(const std::string& directory, const std::string& snapshot) {
  return resolve_path(directory, snapshot + std::string(merging_suffix));
}

Status write_record(const std::string& path, const MergeRecord& record) {
  return replace_file(
      path,
      merge_to_json(record, folder_of(path)).dump(2, ' ', false, json::error_handler_t::replace) +
          "\n");
}

Result<MergeRecord> read_record(const std::string& path) {
  VOLFS_TRY_ASSIGN(const std::string text, read_file(path));
  return parse_record(path, json::parse(text, nullptr, false));
}

FoundRecords read_records(const std::string& directory, const std::string& definition,
                          const std::string& overlay) {
  FoundRecords found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(directory.empty() ? "." : directory, ignored)) {
    const std::string& path = entry.path().native();
    if (!path.ends_with(merging_suffix)) continue;
    const auto text = read_file(path);
    const json body = text ? json::parse(*text, nullptr, false) : json();
    if (!is_record(body)) {
      found.foreign.push_back(path + ": not the record of a merge");
      continue;
    }
    auto record = parse_record(path, body);
    if (!record)
      found.broken.push_back(std::move(record.error()));
    else if (entry.path().filename() == record->snapshot + std::string(merging_suffix) &&
             record->definition == definition && record->overlay == overlay)
      found.records.push_back(std::move(*record));
  }
  return found;
}

Status check_record(const MergeRecord& begun, const MergeRecord& now) {
  const auto differs = [&](std::string_view what, const auto& was, const auto& is) {
    return fail(Error::make(ESTALE, fmt::format("{} was {} and is {}", what, was, is)));
  };
  if (begun.overlay != now.overlay)
    return differs("the overlay", begun.overlay.empty() ? "none" : begun.overlay,
                   now.overlay.empty() ? "none" : now.overlay);
  if (begun.origin != now.origin) return differs("the origin", begun.origin, now.origin);
  if (begun.origin_size != now.origin_size)
    return differs("the origin's size", begun.origin_size, now.origin_size);
  if (begun.stands_on != now.stands_on)
    return differs("what the origin lies on", fmt::format("{}", fmt::join(begun.stands_on, ", ")),
                   fmt::format("{}", fmt::join(now.stands_on, ", ")));
  if (begun.store_size != now.store_size)
    return differs("the store's size", begun.store_size, now.store_size);
  if (begun.chunk_size != now.chunk_size)
    return differs("the store's chunk size", begun.chunk_size, now.chunk_size);
  const bool none = now.first_old == 0 && now.first_new == 0;
  if (!none && (begun.first_old != now.first_old || begun.first_new != now.first_new))
    return differs("the store's first exception",
                   fmt::format("{} in {}", begun.first_old, begun.first_new),
                   fmt::format("{} in {}", now.first_old, now.first_new));
  return {};
}

}  // namespace volfs::engine
