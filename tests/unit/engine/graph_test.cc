// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/engine/graph.h"

#include <doctest/doctest.h>

#include <cerrno>

#include "support/memory_device.h"
#include "volfs/dm/mapped_device.h"
#include "volfs/dm/table.h"

using namespace volfs;
using namespace volfs::engine;

namespace {

struct Lab {
  Node& image(const std::string& name) {
    auto device = std::make_unique<test::MemoryDevice>(name, 1 << 20);
    return *graph.add(name, Kind::image, std::move(device)).value();
  }
  Node& map(const std::string& name, std::string_view table) {
    Node& node = *graph.add(name, Kind::map, std::make_unique<dm::MappedDevice>(name)).value();
    load(node, table);
    REQUIRE(mapped(node).resume());
    return node;
  }
  void load(Node& node, std::string_view table) {
    REQUIRE(mapped(node).load(dm::parse_table(table).value(), resolve));
  }
  static dm::MappedDevice& mapped(Node& node) {
    return dynamic_cast<dm::MappedDevice&>(*node.device);
  }

  using Names = std::vector<std::string>;
  // What is told of all at once and what is told of each are the same.
  Names users(const Node& node) {
    const auto all = graph.all_users();
    for (const Node* each : graph.nodes()) {
      const auto found = all.find(each);
      CHECK((found == all.end() ? Names() : found->second) == graph.users(*each->device));
    }
    return graph.users(*node.device);
  }

  Graph graph;
  const dm::Resolver resolve = [this](std::string_view name) -> Result<BlockDevice*> {
    Node* node = graph.find(name);
    if (!node) return fail(Error::make(ENOENT, "no such device"));
    return &node->shown();
  };
};

using Names = Lab::Names;

}  // namespace

TEST_CASE("users are told in the order of building, each once") {
  Lab lab;
  Node& disk = lab.image("disk");
  Node& other = lab.image("other");
  Node& z = lab.map("z", "0 8 linear disk 0\n8 8 linear other 0\n16 8 linear disk 8");
  Node& a = lab.map("a", "0 8 linear disk 64\n8 8 linear z 0");
  CHECK(lab.users(disk) == Names{"z", "a"});
  CHECK(lab.users(other) == Names{"z"});
  CHECK(lab.users(z) == Names{"a"});
  CHECK(lab.users(a).empty());
  CHECK(lab.graph.remove("disk").error().code() == EBUSY);
}

TEST_CASE("a table that is only loaded keeps what it names, too") {
  Lab lab;
  Node& disk = lab.image("disk");
  Node& next = lab.image("next");
  Node& map = lab.map("map", "0 8 linear disk 0");
  lab.load(map, "0 8 linear next 0");
  CHECK(lab.users(disk) == Names{"map"});
  CHECK(lab.users(next) == Names{"map"});
  lab.load(map, "0 8 linear disk 8");
  CHECK(lab.users(disk) == Names{"map"});
  CHECK(lab.users(next).empty());
}

TEST_CASE("who stands on a device's front stands on the device; the front itself does not count") {
  Lab lab;
  Node& disk = lab.image("disk");
  auto front = std::make_unique<dm::MappedDevice>("front");
  REQUIRE(front->load(dm::parse_table("0 64 linear disk 0").value(), lab.resolve));
  REQUIRE(front->resume());
  lab.graph.set_front(disk, std::move(front));
  CHECK(lab.users(disk).empty());
  lab.map("map", "0 8 linear disk 0");
  CHECK(lab.users(disk) == Names{"map"});
}
