// SPDX-License-Identifier: GPL-2.0-or-later
// The sections of a definition, each read by itself: what one value or one thing may be. What
// only the whole file can tell (names, uses, cycles) is in checks.h.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>

#include "reader.h"
#include "tree.h"
#include "volfs/config/definition.h"

namespace volfs::config {

// Every name the file defines, good or bad, so that one mistake is not told twice.
class Names {
 public:
  struct Entry {
    Item item;
    Position at;
  };

  // Tells if KEY is a name already, or one that ITEM cannot have.
  void add(Context& context, const Node& key, Item item);
  const Entry* find(const std::string& name) const;
  const std::unordered_map<std::string, Entry>& all() const { return entries_; }

 private:
  std::unordered_map<std::string, Entry> entries_;
};

void read_images(Context& context, const Node& section, Names& names, Definition& out);
void read_arrays(Context& context, const Node& section, Names& names, Definition& out);
void read_volume_groups(Context& context, const Node& section, Names& names, Definition& out);
void read_snapshots(Context& context, const Node& section, Names& names, Definition& out);
void read_maps(Context& context, const Node& section, Names& names, Definition& out);
void read_expose(Context& context, const Node& section, Definition& out);

// Calls EACH(key, value) for the entries of SECTION; tells if it is no map.
template <class Each>
void for_each_entry(Context& context, const Node& section, std::string_view what,
                    std::string_view expected, Each each) {
  if (section.kind == Node::Kind::nothing) return;
  if (section.kind != Node::Kind::map) {
    context.report(section.at, std::string(what) + " is " + section.describe(), expected);
    return;
  }
  for (const Node::Entry& entry : section.entries) each(*entry.key, *entry.value);
}

// Calls EACH(item) for the items of LIST; tells if it is no list or empty.
template <class Each>
void for_each_item(MapReader& reader, std::string_view key, const Node& list,
                   std::string_view expected, Each each) {
  if (list.kind != Node::Kind::list || list.items.empty()) {
    const bool empty = list.kind == Node::Kind::list;
    reader.context().report(list.at,
                            "'" + std::string(key) + "' of " + reader.owner() + " is " +
                                (empty ? "an empty list" : list.describe()),
                            expected);
    return;
  }
  for (const Node* item : list.items) each(*item);
}

}  // namespace volfs::config
