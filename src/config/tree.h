// SPDX-License-Identifier: GPL-2.0-or-later
// A YAML document as a tree that remembers where everything stands. Built from the parser's
// events rather than from its own nodes: those lose duplicate keys and copy what is aliased.
#pragma once

#include <cstddef>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "source.h"
#include "volfs/config/diagnostics.h"

namespace volfs::config {

struct Node {
  enum class Kind { nothing, scalar, list, map };
  struct Entry {
    const Node* key;  // a scalar, named once
    const Node* value;
  };

  Kind kind = Kind::nothing;
  Position at;
  std::string text;
  std::vector<const Node*> items;
  std::vector<Entry> entries;  // those of `<<` too, after its own
  size_t weight = 1;           // nodes below and this one, counting aliased ones each time
  bool open = false;           // still being read, so that an alias to it would hold itself

  // "a list", "nothing", "'text'", shortened and escaped.
  std::string describe() const;
};

// TEXT between quotes, shortened to a bearable length, control characters escaped.
std::string quote(std::string_view text);

class Tree {
 public:
  // Reads the one document of SOURCE. What is wrong goes to DIAGNOSTICS; root() is null if
  // nothing can be said about the content.
  static Tree read(const Source& source, Diagnostics& diagnostics);

  const Node* root() const { return root_; }

 private:
  friend class TreeBuilder;
  std::deque<Node> nodes_;
  const Node* root_ = nullptr;
};

}  // namespace volfs::config
