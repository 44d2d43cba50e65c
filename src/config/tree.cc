// SPDX-License-Identifier: GPL-2.0-or-later
#include "tree.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <array>
#include <istream>
#include <streambuf>
#include <unordered_map>

#include "volfs/config/parser.h"

namespace volfs::config {
namespace {

// Leaves yaml-cpp's parser after a fatal error has been told.
struct Stop {};

// Reads a text in place, where a stringstream would copy it.
class TextBuffer : public std::streambuf {
 public:
  explicit TextBuffer(std::string_view text) {
    char* begin = const_cast<char*>(text.data());
    setg(begin, begin, begin + text.size());
  }
};

struct SyntaxError {
  std::string_view message;  // yaml-cpp's
  std::string_view found, expected;
};

constexpr std::array<SyntaxError, 26> syntax_errors{{
    {"end of map not found", "text that does not belong to the map around it",
     "'KEY: VALUE' at the indentation of the keys above"},
    {"end of map flow not found", "a '{' map that does not go on", "',' or '}'"},
    {"end of sequence not found", "text that does not belong to the list around it",
     "'- ITEM' at the indentation of the items above"},
    {"end of sequence flow not found", "a '[' list that does not go on", "',' or ']'"},
    {"illegal tab when looking for indentation", "a tab in the indentation", "blanks"},
    {"illegal EOF in scalar", "the end of the file within quotes", "the closing quote"},
    {"illegal document indicator in scalar", "a document marker within quotes",
     "the closing quote"},
    {"illegal map value", "a ':' where no value can stand",
     "one 'KEY: VALUE' a line, or quotes around a text that holds ': '"},
    {"illegal map key", "a '?' where no key can stand", "'KEY: VALUE'"},
    {"illegal block entry", "a '-' where no list item can stand", "'- ITEM' on its own line"},
    {"illegal flow end", "a ']' or '}' that nothing opened", "its '[' or '{' before it"},
    {"unknown token", "a character that begins nothing in YAML", "a key or value, or quotes"},
    {"alias not found after *", "a '*' without a name", "'*NAME', or quotes"},
    {"anchor not found after &", "a '&' without a name", "'&NAME', or quotes"},
    {"illegal character found while scanning alias", "a bad character in an alias", "'*NAME'"},
    {"illegal character found while scanning anchor", "a bad character in an anchor", "'&NAME'"},
    {"the referenced anchor is not defined", "an alias of something unknown",
     "an '&NAME' before its '*NAME'"},
    {"cannot assign multiple tags to the same node", "two tags", "no tag"},
    {"cannot assign multiple anchors to the same node", "two anchors", "one"},
    {"aliases can't have any content, *including* tags", "an alias with content", "'*NAME'"},
    {"unexpected character in block scalar", "a bad character after '|' or '>'",
     "a new line and the text below"},
    {"cannot set zero indentation for a block scalar", "an indentation of 0 after '|' or '>'",
     "1 to 9"},
    {"bad character found while scanning hex number", "a bad hexadecimal escape",
     "'\\x' and two digits"},
    {"tag handle with no suffix", "a tag without a name", "no tag"},
    {"illegal character found while scanning tag handle", "a bad character in a tag", "no tag"},
    {"repeated YAML directive", "a second %YAML", "one"},
}};

SyntaxError explain(std::string_view message) {
  for (const SyntaxError& known : syntax_errors)
    if (message == known.message) return known;
  return {message, {}, {}};
}

bool is_standard_tag(std::string_view tag) {
  static constexpr std::array<std::string_view, 9> known{"",
                                                         "?",
                                                         "!",
                                                         "tag:yaml.org,2002:str",
                                                         "tag:yaml.org,2002:int",
                                                         "tag:yaml.org,2002:float",
                                                         "tag:yaml.org,2002:bool",
                                                         "tag:yaml.org,2002:seq",
                                                         "tag:yaml.org,2002:map"};
  for (std::string_view name : known)
    if (tag == name) return true;
  return false;
}

constexpr std::string_view merge_key = "<<";

}  // namespace

class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(Tree& tree, const Source& source, Diagnostics& diagnostics)
      : tree_(tree), source_(source), diagnostics_(diagnostics) {}

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ > 1) stop(place(mark), "a second document", "one definition a file");
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    Node& node = make(mark, Node::Kind::nothing, anchor);
    // Nothing stands nowhere: the mark is that of whatever comes next. Its key is the better place.
    if (!open_.empty() && open_.back().key != nullptr) node.at = open_.back().key->at;
    attach(node);
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    Node& node = make(mark, Node::Kind::scalar, anchor);
    check_tag(node, tag);
    // No name, path or table has one, and the calls that take them would end there.
    if (value.find('\0') != std::string::npos)
      stop(place(mark), "a text with a NUL byte", "a text without");
    node.text = value;
    attach(node);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end())
      stop(place(mark), "an alias of something unknown", "an '&NAME' before its '*NAME'");
    if (found->second->open)
      stop(place(mark), "an alias of a value that holds this alias",
           "an alias of a value that ends before it");
    attach(*found->second, place(mark));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    begin(mark, Node::Kind::list, tag, anchor);
  }
  void OnSequenceEnd() override { end(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    begin(mark, Node::Kind::map, tag, anchor);
  }
  void OnMapEnd() override {
    finish_map(*open_.back().node);
    end();
  }

  Position place(const YAML::Mark& mark) const {
    if (mark.line < 0) return {1, 1};
    return source_.position(static_cast<size_t>(mark.line), static_cast<size_t>(mark.column));
  }

 private:
  struct Frame {
    Node* node;
    const Node* key = nullptr;
  };

  [[noreturn]] void stop(Position at, std::string_view found, std::string_view expected) {
    diagnostics_.add(at, found, expected);
    throw Stop{};
  }

  Node& make(const YAML::Mark& mark, Node::Kind kind, YAML::anchor_t anchor) {
    Node& node = tree_.nodes_.emplace_back();
    node.kind = kind;
    node.at = place(mark);
    if (anchor != 0) anchors_[anchor] = &node;
    return node;
  }

  void check_tag(const Node& node, std::string_view tag) {
    if (!is_standard_tag(tag)) diagnostics_.add(node.at, "tag " + quote(tag), "no tag");
  }

  void begin(const YAML::Mark& mark, Node::Kind kind, const std::string& tag,
             YAML::anchor_t anchor) {
    Node& node = make(mark, kind, anchor);
    check_tag(node, tag);
    if (open_.size() >= max_yaml_depth)
      stop(node.at, fmt::format("maps and lists {} deep", open_.size() + 1),
           fmt::format("at most {}", max_yaml_depth));
    node.open = true;
    open_.push_back({&node});
  }

  void end() {
    Node& node = *open_.back().node;
    node.open = false;
    open_.pop_back();
    attach(node);
  }

  void attach(const Node& node) { attach(node, node.at); }

  // Puts NODE, met at AT, where the parser stands: key, value, item or the root.
  void attach(const Node& node, Position at) {
    if (open_.empty()) {
      tree_.root_ = &node;
      return;
    }
    Frame& frame = open_.back();
    frame.node->weight += node.weight;
    if (frame.node->weight > max_yaml_nodes)
      stop(at, "too many values (aliases count each time they are used)",
           fmt::format("at most {}", max_yaml_nodes));
    if (frame.node->kind == Node::Kind::list) {
      frame.node->items.push_back(&node);
    } else if (frame.key == nullptr) {
      frame.key = &node;
    } else {
      frame.node->entries.push_back({frame.key, &node});
      frame.key = nullptr;
    }
  }

  // Drops keys that are no text and those given twice, and takes in what `<<` names.
  void finish_map(Node& map) {
    std::vector<Node::Entry> given;
    given.swap(map.entries);
    std::unordered_map<std::string_view, const Node*> keys;
    std::vector<const Node*> merges;
    for (const Node::Entry& entry : given) {
      if (entry.key->kind != Node::Kind::scalar) {
        diagnostics_.add(entry.key->at, entry.key->describe() + " as a key", "a text");
        continue;
      }
      if (entry.key->text == merge_key) {
        merges.push_back(entry.value);
        continue;
      }
      const auto [before, is_new] = keys.emplace(entry.key->text, entry.key);
      if (is_new) {
        map.entries.push_back(entry);
      } else {
        diagnostics_.add(entry.key->at,
                         fmt::format("key {} again (first in line {})", quote(entry.key->text),
                                     before->second->at.line),
                         "each key once");
      }
    }
    for (const Node* merge : merges) take_in(map, *merge, keys);
  }

  void take_in(Node& map, const Node& merge,
               std::unordered_map<std::string_view, const Node*>& keys) {
    if (merge.kind == Node::Kind::list) {
      for (const Node* item : merge.items) {
        if (item->kind == Node::Kind::map)
          take_in(map, *item, keys);
        else
          diagnostics_.add(item->at, "'<<' of " + item->describe(), "a map");
      }
    } else if (merge.kind == Node::Kind::map) {
      for (const Node::Entry& entry : merge.entries)
        if (keys.emplace(entry.key->text, entry.key).second) map.entries.push_back(entry);
    } else {
      diagnostics_.add(merge.at, "'<<' of " + merge.describe(), "a map or a list of maps");
    }
  }

  Tree& tree_;
  const Source& source_;
  Diagnostics& diagnostics_;
  std::vector<Frame> open_;
  std::unordered_map<YAML::anchor_t, Node*> anchors_;
  int documents_ = 0;
};

namespace {

void report_syntax(const Source& source, const TreeBuilder& builder, const YAML::Exception& error,
                   Diagnostics& diagnostics) {
  const Position at = builder.place(error.mark);
  const size_t line_number = at.line - 1;
  // yaml-cpp takes a tab for a part of the text and stumbles over what follows.
  const std::string_view line = source.line(line_number);
  const size_t tab = line.find_first_not_of(' ');
  if (tab != std::string_view::npos && line[tab] == '\t') {
    diagnostics.add(source.position(line_number, tab), "a tab in the indentation", "blanks");
    return;
  }
  const SyntaxError known = explain(error.msg);
  if (known.expected.empty()) {
    diagnostics.add(at, fmt::format("no YAML ({})", error.msg), "YAML");
  } else if (known.message.ends_with(" flow not found") && source.is_last(line_number)) {
    const bool is_map = known.message.find("map") != std::string_view::npos;
    diagnostics.add(at,
                    fmt::format("the end of the file within a '{}' or quotes", is_map ? '{' : '['),
                    fmt::format("'{}' or the closing quote", is_map ? '}' : ']'));
  } else {
    diagnostics.add(at, known.found, known.expected);
  }
}

}  // namespace

Tree Tree::read(const Source& source, Diagnostics& diagnostics) {
  Tree tree;
  TreeBuilder builder(tree, source, diagnostics);
  const auto give_up = [&] { tree.root_ = nullptr; };
  try {
    TextBuffer buffer(source.text());
    std::istream stream(&buffer);
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const Stop&) {
    give_up();
  } catch (const YAML::Exception& error) {
    give_up();
    report_syntax(source, builder, error, diagnostics);
  } catch (const std::exception& error) {
    give_up();
    diagnostics.add({1, 1}, fmt::format("no YAML ({})", error.what()), "YAML");
  }
  return tree;
}

std::string quote(std::string_view text) {
  constexpr size_t longest = 80;
  std::string quoted = "'";
  size_t i = 0;
  for (; i < text.size() && quoted.size() < longest; ++i) {
    const char c = text[i];
    if (c == '\n')
      quoted += "\\n";
    else if (c == '\t')
      quoted += "\\t";
    else if ((c >= 0 && c < 0x20) || c == 0x7F)
      quoted += fmt::format("\\x{:02x}", c);
    else
      quoted += c;
  }
  // A character is not cut in its middle.
  for (; i < text.size() && (text[i] & 0xC0) == 0x80; ++i) quoted += text[i];
  return quoted + (i < text.size() ? "...'" : "'");
}

std::string Node::describe() const {
  switch (kind) {
    case Kind::nothing:
      return "nothing";
    case Kind::scalar:
      return quote(text);
    case Kind::list:
      return "a list";
    case Kind::map:
      return "a map";
  }
  return {};
}

}  // namespace volfs::config
