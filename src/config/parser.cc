// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/config/parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "checks.h"
#include "names.h"
#include "reader.h"
#include "sections.h"
#include "source.h"
#include "tree.h"

namespace volfs::config {
namespace {

constexpr std::array<std::string_view, 8> top_keys{
    "volfs", "readonly", "images", "arrays", "volume_groups", "snapshots", "maps", "expose"};

constexpr std::string_view version_expected = "'volfs: 1', the version of the format";

// Keys that begin with "x-" hold what a file wants to name with & and use with *.
std::vector<std::string_view> keys_of(const Node& root) {
  std::vector<std::string_view> keys(top_keys.begin(), top_keys.end());
  for (const Node::Entry& entry : root.entries)
    if (entry.key->text.starts_with("x-")) keys.push_back(entry.key->text);
  return keys;
}

// The value of KEY, empty or not.
const Node* section(const Node& root, std::string_view key) {
  for (const Node::Entry& entry : root.entries)
    if (entry.key->text == key) return entry.value;
  return nullptr;
}

// A newer format may mean anything by what else there is, so that nothing else is told of it.
bool check_version(Context& context, const Node& root) {
  const Node* version = section(root, "volfs");
  if (version == nullptr) {
    context.report(root.at, "no 'volfs'", version_expected);
    return true;
  }
  if (version->kind == Node::Kind::scalar && version->text == "1") return true;
  context.report(version->at, fmt::format("'volfs' is {}", version->describe()),
                 "1, the only version of the format that this volfs knows");
  return false;
}

void read_sections(Context& context, const Node& root, Definition& out) {
  const auto keys = keys_of(root);
  MapReader reader(context, root, "the definition", keys);
  if (const Node* node = section(root, "readonly"); node && node->kind != Node::Kind::nothing)
    reader.read("readonly", out.readonly);
  Names names;
  using Read = void (*)(Context&, const Node&, Names&, Definition&);
  constexpr std::array<std::pair<std::string_view, Read>, 5> readers{
      {{"images", read_images},
       {"arrays", read_arrays},
       {"volume_groups", read_volume_groups},
       {"snapshots", read_snapshots},
       {"maps", read_maps}}};
  for (const auto& [key, read] : readers)
    if (const Node* node = section(root, key)) read(context, *node, names, out);
  if (const Node* node = section(root, "expose")) read_expose(context, *node, out);

  const std::vector<Use> uses = collect_uses(context, names, out);
  check_exclusive(context, uses);
  check_paths(context, out);
  check_uuids(context, out);
  check_order(context, uses, out);
}

void read_definition(Context& context, const Node& root, Definition& out) {
  if (root.kind != Node::Kind::map) {
    context.report(root.at, fmt::format("the definition is {}", root.describe()),
                   fmt::format("a map that begins with {}", version_expected));
    return;
  }
  if (check_version(context, root)) read_sections(context, root, out);
}

}  // namespace

std::expected<Definition, Diagnostics> parse(std::string_view text, std::string_view file_name,
                                             const TableScanner& scan_table) {
  Diagnostics diagnostics(file_name);
  Definition definition;
  definition.file_name = file_name;
  const Source source(text);
  if (source.check(diagnostics)) {
    const Tree tree = Tree::read(source, diagnostics);
    Context context{source, diagnostics, scan_table};
    if (tree.root() != nullptr)
      read_definition(context, *tree.root(), definition);
    else if (diagnostics.empty())
      context.report({1, 1}, "an empty file", version_expected);
  }
  if (diagnostics.empty()) return definition;
  diagnostics.sort();
  return std::unexpected(std::move(diagnostics));
}

}  // namespace volfs::config
