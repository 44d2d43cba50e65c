// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/engine/catalog.h"

#include <doctest/doctest.h>

#include <cerrno>

using namespace volfs;
using namespace volfs::engine;

namespace {

struct Dummy final : BlockDevice {
  Dummy() : BlockDevice("dummy", 4096) {}
};

struct Record final : Catalog::Listener {
  void name_changed(uint64_t parent, const std::string& name, uint64_t) override {
    told.push_back(std::to_string(parent) + "/" + name);
  }
  void volume_changed(uint64_t inode) override { changed.push_back(inode); }
  std::vector<std::string> told;
  std::vector<uint64_t> changed;
};

std::vector<std::string> names(const Catalog& catalog, uint64_t directory) {
  std::vector<std::string> all;
  for (const auto& node : catalog.list(directory)) all.push_back(node.name);
  return all;
}

}  // namespace

TEST_CASE("volumes are found by path and by inode, in directories that come and go") {
  Dummy device;
  Catalog catalog({});
  Record record;
  catalog.set_listener(&record);
  const auto volume = catalog.add("vg0/root", device).value();
  CHECK(volume->path() == "vg0/root");
  const auto directory = catalog.lookup(Catalog::root, "vg0");
  REQUIRE(directory);
  CHECK(!directory->volume);
  CHECK(catalog.lookup(directory->inode, "root")->volume == volume);
  CHECK(catalog.get(volume->inode())->volume == volume);
  CHECK(catalog.find("vg0/root") == volume);
  CHECK(catalog.find("vg0") == nullptr);
  REQUIRE(catalog.remove("vg0/root"));
  CHECK(names(catalog, Catalog::root).empty());
  CHECK(!catalog.get(volume->inode()));
  CHECK(record.told == std::vector<std::string>{"1/vg0", "2/root", "2/root", "1/vg0"});
}

TEST_CASE("a device that has changed is told by its inode, and its size is read anew") {
  struct Sized final : BlockDevice {
    Sized() : BlockDevice("sized", 4096) {}
    void grow() { set_size(8192); }
  } device;
  Catalog catalog({});
  Record record;
  catalog.set_listener(&record);
  const auto volume = catalog.add("map", device).value();
  device.grow();
  CHECK(volume->size() == 4096);
  catalog.changed(*volume);
  CHECK(volume->size() == 8192);
  CHECK(record.changed == std::vector<uint64_t>{volume->inode()});
}

TEST_CASE("waiting until a volume is not open ends with its last close or in time") {
  Dummy device;
  Catalog catalog({});
  const auto volume = catalog.add("md0", device).value();
  CHECK(volume->wait_unused(now()));
  REQUIRE(volume->open());
  CHECK_FALSE(volume->wait_unused(now()));
  volume->close();
  CHECK(volume->wait_unused(now()));
}

TEST_CASE("a name is taken once, and a volume is no directory") {
  Dummy device;
  Catalog catalog({});
  REQUIRE(catalog.add("md0", device));
  CHECK(catalog.add("md0", device).error().code() == EEXIST);
  CHECK(catalog.add("md0/x", device).error().code() == EEXIST);
  REQUIRE(catalog.add("vg/a", device));
  CHECK(catalog.add("vg", device).error().code() == EEXIST);
  for (const char* bad : {"", "/", "a/", "/a", "a/b/c", ".hidden", "vg/..", "vg/."}) {
    CAPTURE(bad);
    CHECK(catalog.add(bad, device).error().code() == EINVAL);
  }
  CHECK(names(catalog, Catalog::root) == std::vector<std::string>{"md0", "vg"});
}

TEST_CASE("an open volume stays, and one that goes cannot be opened") {
  Dummy device;
  Catalog catalog({});
  const auto volume = catalog.add("md0", device).value();
  REQUIRE(volume->open());
  const auto refused = catalog.remove("md0");
  REQUIRE(!refused);
  CHECK(refused.error().text() == "md0: in use: 1 open file");
  volume->close();
  REQUIRE(catalog.remove("md0"));
  CHECK(!volume->open());
}

TEST_CASE("a rename keeps inode and volume, and moves between directories") {
  Dummy device;
  Catalog catalog({});
  const auto volume = catalog.add("vg/a", device).value();
  REQUIRE(catalog.add("vg/b", device));
  CHECK(catalog.rename("vg/a", "vg/b").error().code() == EEXIST);
  CHECK(catalog.rename("vg/x", "vg/y").error().code() == ENOENT);
  REQUIRE(catalog.rename("vg/a", "other/c"));
  CHECK(volume->path() == "other/c");
  CHECK(catalog.find("other/c") == volume);
  CHECK(names(catalog, Catalog::root) == std::vector<std::string>{"other", "vg"});
  REQUIRE(catalog.rename("other/c", "c"));
  CHECK(names(catalog, Catalog::root) == std::vector<std::string>{"c", "vg"});
}
