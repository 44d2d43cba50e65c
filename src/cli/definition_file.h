// SPDX-License-Identifier: GPL-2.0-or-later
// Reading definitions for the commands that take one.
#pragma once

#include <expected>
#include <string>
#include <vector>

#include "volfs/config/definition.h"
#include "volfs/engine/volume_group.h"

namespace volfs::engine {
struct Scan;
struct ScanOptions;
}  // namespace volfs::engine

namespace volfs::cli {

// Whether a source is a definition, by its name: .yaml or .yml.
bool is_definition(const std::string& path);
// The directory that the relative paths of a definition start at, absolute.
std::string directory_of(const std::string& path);
// Reads and checks a definition, tables of maps included. The error is text to print: all that is
// wrong, one line each.
std::expected<config::Definition, std::string> load_definition(const std::string& path);
struct Sources {
  config::Definition definition;
  std::vector<engine::Unavailable> unavailable;  // arrays that a scan could not assemble
};
Sources sources_of(const engine::Scan& scan);
// The same for what `volfs mount` takes: one definition, or images, which are scanned with those
// OPTIONS. What a scan remarks goes to standard error.
std::expected<Sources, std::string> load_sources(const std::vector<std::string>& sources,
                                                 const engine::ScanOptions& options);

}  // namespace volfs::cli
