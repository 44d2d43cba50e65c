// SPDX-License-Identifier: GPL-2.0-or-later
// What a scan found, for people, as a definition, and for programs.
#pragma once

#include <nlohmann/json_fwd.hpp>

namespace volfs::engine {
struct Scan;
}

namespace volfs::cli {

// To standard output: in plain words, each thing a line or more.
void print_scan(const engine::Scan& scan);
// To standard output: a definition; what cannot be part of it as comments.
void print_scan_yaml(const engine::Scan& scan);
nlohmann::json scan_json(const engine::Scan& scan);

}  // namespace volfs::cli
