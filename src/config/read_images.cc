// SPDX-License-Identifier: GPL-2.0-or-later
// Sections `images` and `expose`, and the table of names.
#include <fmt/format.h>

#include <array>

#include "names.h"
#include "sections.h"

namespace volfs::config {
namespace {

constexpr std::array<std::string_view, 8> image_keys{"path",   "size",   "partition", "readonly",
                                                     "direct", "offset", "length",    "pad"};
constexpr std::array<std::string_view, 4> expose_keys{"mode", "owner", "group", "hidden"};

void check_image(MapReader& reader, const Image& image) {
  if (image.size) reader.forbid("pad", "a size of its own", "either 'pad' or 'size'");
  if (image.partition) {
    for (std::string_view key : {"size", "offset", "length"})
      reader.forbid(key, "a partition", "either 'partition' or 'size', 'offset' and 'length'");
    return;
  }
  if (!image.size) return;
  const uint64_t length = image.length ? image.length->value : 0;
  const uint64_t least = image.length ? length : sector_size;
  if (range_within(image.offset.value, least, image.size->value)) return;
  const Position at = image.length ? image.length->at : image.offset.at;
  const std::string found =
      image.length
          ? fmt::format("{} ends at {}", reader.owner(), format_size(image.offset.value + length))
          : fmt::format("{} begins at {}", reader.owner(), format_size(image.offset.value));
  reader.context().report(at, found,
                          fmt::format("it within its size of {}", format_size(image.size->value)));
}

void read_image(Context& context, const Node& node, Image& image) {
  const std::string owner = fmt::format("image {}", quote(image.name.value));
  if (node.kind == Node::Kind::scalar) {
    if (node.text.empty())
      context.report(node.at, owner + " is ''", "the path of a file or block device");
    image.path = {node.text, node.at};
    return;
  }
  if (node.kind != Node::Kind::map) {
    context.report(node.at, fmt::format("{} is {}", owner, node.describe()),
                   fmt::format("a path, or a map with {}", join_words(image_keys)));
    return;
  }
  MapReader reader(context, node, owner, image_keys);
  reader.require("path", "'path: FILE'");
  constexpr SizeRule size_rule{};
  constexpr SizeRule offset_rule{.least = 0};
  reader.read("path", image.path, "the path of a file or block device");
  reader.read("size", image.size, size_rule);
  reader.read("partition", image.partition, 1, 256);
  reader.read("readonly", image.readonly);
  reader.read("direct", image.direct);
  reader.read("offset", image.offset, offset_rule);
  reader.read("length", image.length, size_rule);
  reader.read("pad", image.pad, size_rule);
  check_image(reader, image);
}

std::optional<uint32_t> parse_mode(std::string_view text) {
  if (text.starts_with("0o")) text.remove_prefix(2);
  if (text.size() < 3 || text.size() > 4 || (text.size() == 4 && text[0] != '0'))
    return std::nullopt;
  uint32_t mode = 0;
  for (char c : text) {
    if (c < '0' || c > '7') return std::nullopt;
    mode = mode * 8 + static_cast<uint32_t>(c - '0');
  }
  return mode;
}

// Names are looked up later; here only what no system takes as one is refused.
void read_account(MapReader& reader, std::string_view key, Optional<Account>& out) {
  constexpr std::string_view expected = "a name or a number from 0 to 4294967294";
  Text text;
  reader.read(key, text, expected);
  if (text.value.empty()) return;
  Account account{text.value, std::nullopt};
  const bool is_number = text.value.find_first_not_of("0123456789") == std::string::npos;
  const auto number = parse_u64(text.value);
  if (is_number && number && *number < UINT32_MAX)
    account.id = static_cast<uint32_t>(*number);
  else if (is_number || text.value.front() == '-' || text.value.size() > 255 ||
           text.value.find_first_of(" \t\n:/,") != std::string::npos) {
    reader.context().report(
        text.at, fmt::format("'{}' of {} is {}", key, reader.owner(), quote(text.value)), expected);
    return;
  }
  out = Located<Account>{std::move(account), text.at};
}

std::string_view article(DeviceKind kind) {
  return kind == DeviceKind::image || kind == DeviceKind::array ? "an" : "a";
}

}  // namespace

void Names::add(Context& context, const Node& key, Item item) {
  const auto bad =
      item.kind == DeviceKind::volume_group ? bad_group_name(key.text) : bad_device_name(key.text);
  if (bad)
    context.report(key.at,
                   fmt::format("{} as the name of {} {}", quote(key.text), article(item.kind),
                               to_string(item.kind)),
                   *bad);
  const auto [before, is_new] = entries_.emplace(key.text, Entry{item, key.at});
  if (is_new) return;
  // The sections may stand in any order; the later place is the one to complain about.
  const bool here = before->second.at < key.at;
  const Position first = here ? before->second.at : key.at;
  const DeviceKind first_kind = here ? before->second.item.kind : item.kind;
  const DeviceKind second_kind = here ? item.kind : before->second.item.kind;
  context.report(here ? key.at : before->second.at,
                 fmt::format("{} {} has the name of the {} in line {}", to_string(second_kind),
                             quote(key.text), to_string(first_kind), first.line),
                 "a name of its own");
}

const Names::Entry* Names::find(const std::string& name) const {
  const auto found = entries_.find(name);
  return found == entries_.end() ? nullptr : &found->second;
}

void read_images(Context& context, const Node& section, Names& names, Definition& out) {
  for_each_entry(context, section, "'images'", "a map from names to paths",
                 [&](const Node& key, const Node& value) {
                   names.add(context, key, {DeviceKind::image, out.images.size()});
                   Image& image = out.images.emplace_back();
                   image.name = {key.text, key.at};
                   read_image(context, value, image);
                 });
}

void read_expose(Context& context, const Node& section, Definition& out) {
  if (section.kind == Node::Kind::nothing) return;
  MapReader reader(context, section, "'expose'", expose_keys);
  if (!reader.is_map()) return;
  if (const Node* node = reader.find("mode")) {
    const auto mode =
        node->kind == Node::Kind::scalar ? parse_mode(node->text) : std::optional<uint32_t>{};
    if (mode)
      out.expose.mode = {*mode, node->at};
    else
      reader.report("mode", *node, "an octal mode from \"0000\" to \"0777\"");
  }
  read_account(reader, "owner", out.expose.owner);
  read_account(reader, "group", out.expose.group);
  reader.read("hidden", out.expose.hidden);
}

}  // namespace volfs::config
