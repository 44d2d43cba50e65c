// SPDX-License-Identifier: GPL-2.0-or-later
#include "definition_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <climits>
#include <cstdlib>
#include <cstring>

#include "volfs/config/parser.h"
#include "volfs/dm/table.h"
#include "volfs/engine/scan.h"

namespace volfs::cli {
namespace {

// A definition is read once and whole; a FIFO or device is none.
std::expected<std::string, std::string> read_file(const std::string& path) {
  const auto trouble = [&path](const char* what) {
    return std::unexpected(fmt::format("volfs: {}: {}\n", path, what));
  };
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return trouble(strerror(errno));
  struct stat status{};
  std::string text;
  const char* problem = nullptr;
  if (fstat(fd, &status) != 0) {
    problem = strerror(errno);
  } else if (!S_ISREG(status.st_mode)) {
    problem = "not a regular file; expected a definition";
  } else {
    char buffer[65536];
    ssize_t got = 0;
    while ((got = read(fd, buffer, sizeof buffer)) > 0 &&
           text.size() <= config::max_definition_size)
      text.append(buffer, static_cast<size_t>(got));
    if (got < 0) problem = strerror(errno);
  }
  close(fd);
  if (problem) return trouble(problem);
  return text;
}

// What room dm says of a table's text, in the form that config asks for.
config::TableScan scan_table(std::string_view table) {
  config::TableScan scan;
  const auto rows = dm::parse_table(table);
  if (!rows) {
    // "table:LINE: what is wrong"
    std::string_view text = rows.error().text();
    size_t line = 1;
    if (text.starts_with("table:")) {
      text.remove_prefix(6);
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), line);
      text.remove_prefix(static_cast<size_t>(end - text.data()));
      if (text.starts_with(": ")) text.remove_prefix(2);
    }
    scan.problems.push_back(
        {.row = line - 1, .column = 0, .found = std::string(text), .expected = {}});
    return scan;
  }
  for (const dm::DeviceUse& use : dm::devices_of(*rows))
    scan.references.push_back({use.name, use.line - 1});
  for (dm::RowProblem& problem : dm::check_targets(*rows))
    scan.problems.push_back(
        {.row = problem.line - 1, .column = 0, .found = std::move(problem.text), .expected = {}});
  return scan;
}

}  // namespace

bool is_definition(const std::string& path) {
  return path.ends_with(".yaml") || path.ends_with(".yml");
}

std::string directory_of(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  char* whole = realpath(directory.c_str(), nullptr);
  if (!whole) return directory;
  std::string result(whole);
  free(whole);
  return result;
}

std::expected<config::Definition, std::string> load_definition(const std::string& path) {
  auto text = read_file(path);
  if (!text) return std::unexpected(std::move(text.error()));
  auto definition = config::parse(*text, path, scan_table);
  if (!definition) return std::unexpected(definition.error().to_string());
  return std::move(*definition);
}

Sources sources_of(const engine::Scan& scan) {
  Sources found{scan.definition, {}};
  for (const engine::FoundArray& array : scan.arrays)
    if (!array.problem.empty()) found.unavailable.push_back({array.name, array.problem});
  return found;
}

std::expected<Sources, std::string> load_sources(const std::vector<std::string>& sources,
                                                 const engine::ScanOptions& options) {
  if (sources.size() == 1 && is_definition(sources.front())) {
    auto definition = load_definition(sources.front());
    if (!definition) return std::unexpected(std::move(definition.error()));
    return Sources{std::move(*definition), {}};
  }
  for (const std::string& source : sources)
    if (is_definition(source))
      return std::unexpected(fmt::format(
          "volfs: {}: a definition stands alone; expected one definition or images\n", source));
  auto scan = engine::scan_images(sources, options);
  if (!scan) return std::unexpected(fmt::format("volfs: {}\n", scan.error().text()));
  for (const std::string& remark : scan->remarks) fmt::print(stderr, "volfs: {}\n", remark);
  for (const engine::FoundArray& array : scan->arrays) {
    if (!array.problem.empty())
      fmt::print(stderr, "volfs: {}: not assembled: {}\n", array.name, array.problem);
    for (const std::string& note : array.notes)
      fmt::print(stderr, "volfs: {}: {}\n", array.name, note);
  }
  if (scan->definition.volume_groups.empty() && scan->definition.arrays.empty())
    return std::unexpected(
        fmt::format("volfs: {}: nothing on it that can be assembled; expected a definition (.yaml "
                    "or .yml) or images with members of md arrays or LVM physical volumes\n",
                    sources.front()));
  return sources_of(*scan);
}

}  // namespace volfs::cli
