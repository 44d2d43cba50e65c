// SPDX-License-Identifier: GPL-2.0-or-later
#include "merge_record.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "assembler.h"
#include "small_file.h"

namespace volfs::engine {
namespace {

using nlohmann::json;

constexpr const char* suffix = ".merging";
constexpr const char* magic = "volfs_merge";

Result<MergeRecord> parse(const std::string& text) {
  const json body = json::parse(text, nullptr, false);
  if (!body.is_object() || !body.contains(magic)) return fail_invalid("not the record of a merge");
  MergeRecord record;
  try {
    body.at("definition").get_to(record.definition);
    body.at("overlay").get_to(record.overlay);
    body.at("snapshot").get_to(record.snapshot);
    body.at("origin").get_to(record.origin);
    body.at("store").get_to(record.store);
    body.at("kind").get_to(record.kind);
    body.at("chunk_size").get_to(record.chunk_size);
    body.at("made").get_to(record.made);
  } catch (const json::exception& error) {
    return fail_invalid(error.what());
  }
  return record;
}

}  // namespace

std::string marker_of(const std::string& store) {
  return store + suffix;
}

std::string record_of(const std::string& directory, const std::string& snapshot) {
  return resolve_path(directory, snapshot + suffix);
}

Status write_record(const std::string& directory, const MergeRecord& record) {
  const json body{{magic, 1},
                  {"definition", record.definition},
                  {"overlay", record.overlay},
                  {"snapshot", record.snapshot},
                  {"origin", record.origin},
                  {"store", record.store},
                  {"kind", record.kind},
                  {"chunk_size", record.chunk_size},
                  {"made", record.made}};
  return replace_file(record_of(directory, record.snapshot),
                      body.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
}

std::vector<MergeRecord> read_records(const std::string& directory, const std::string& definition,
                                      const std::string& overlay) {
  std::vector<MergeRecord> found;
  std::error_code ignored;
  for (const auto& entry :
       std::filesystem::directory_iterator(directory.empty() ? "." : directory, ignored)) {
    if (!entry.path().native().ends_with(suffix)) continue;
    const auto text = read_file(entry.path().native());
    if (!text) continue;
    auto record = parse(*text);
    if (record && record->definition == definition && record->overlay == overlay)
      found.push_back(std::move(*record));
  }
  return found;
}

}  // namespace volfs::engine
