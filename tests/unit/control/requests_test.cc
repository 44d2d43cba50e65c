// SPDX-License-Identifier: GPL-2.0-or-later
#include <doctest/doctest.h>

#include <fstream>
#include <set>
#include <sstream>

#include "mounted_engine.h"
#include "requests.h"
#include "schema.h"

namespace volfs::control {
namespace {

using nlohmann::json;

std::string manual() {
  std::ifstream file(MAN_PAGE);
  std::ostringstream text;
  text << file.rdbuf();
  return std::move(text).str();
}

}  // namespace

TEST_CASE("every request and each of its keys stands in volfs.control(5)") {
  const std::string page = manual();
  REQUIRE(!page.empty());
  for (const RequestType* type : all_requests()) {
    CAPTURE(type->name);
    const size_t begin = page.find("\n*" + std::string(type->name) + "*");
    CHECK(begin != std::string::npos);
    if (begin == std::string::npos) continue;
    const std::string entry = page.substr(begin, page.find("\n\n", begin + 1) - begin);
    for (const Key& key : parse_keys(type->keys)) {
      CAPTURE(key.name);
      CHECK(key.type != "any");
      CHECK(entry.find("_" + std::string(key.name) + "_") != std::string::npos);
    }
  }
}

TEST_CASE("requests have one name each, and their keys types that are known") {
  const std::set<std::string_view> types{"name",     "text", "path",   "list",
                                         "requests", "flag", "number", "ms"};
  std::set<std::string_view> names;
  for (const RequestType* type : all_requests()) {
    CHECK(names.insert(type->name).second);
    std::set<std::string_view> keys;
    for (const Key& key : parse_keys(type->keys)) {
      CHECK(types.contains(key.type));
      CHECK(keys.insert(key.name).second);
    }
  }
}

TEST_CASE("mount.requests gives a schema of each request") {
  const MountedEngine mounted;
  const json reply = mounted.ask(R"({"request":"mount.requests"})");
  REQUIRE(reply["ok"] == true);
  const json& load = reply["result"]["map.load"];
  CHECK(load["required"] == json{"request", "map", "table"});
  CHECK(load["additionalProperties"] == false);
  CHECK(load["properties"]["request"]["const"] == "map.load");
  CHECK(load["properties"]["map"] == json{{"type", "string"}, {"minLength", 1}});
  CHECK(load["properties"]["readonly"]["type"] == "boolean");
  CHECK(reply["result"]["map.suspend"]["properties"]["timeout_ms"] ==
        json{{"type", "integer"}, {"minimum", 0}, {"maximum", 86400000}});
  CHECK(reply["result"].size() == all_requests().size());
}

TEST_CASE("a good request is carried out and says what came of it") {
  const MountedEngine mounted;
  CHECK(mounted.ask(R"({"request":"map.create","map":"new","table":"0 8 zero"})") ==
        json{{"ok", true}, {"result", nullptr}});
  CHECK(mounted.ask(R"({"request":"map.table","map":"new"})")["result"] == "0 8 zero \n");
  CHECK(mounted.ask(R"({"request":"map.remove","map":"new"})")["ok"] == true);
  CHECK(mounted.ask(R"({"request":"map.table","map":"new"})")["error"]["code"] == "ENOENT");
  const json where =
      mounted.ask(R"({"request":"where","volume":"top","offset":512,"length":1024})");
  CHECK(where["result"]["extents"] == json{{{"offset", 512},
                                            {"length", 1024},
                                            {"kind", "image"},
                                            {"device", "disk1"},
                                            {"device_offset", 4608}}});
}

TEST_CASE("a suspend that waits for I/O keeps nobody else waiting, nor a table from being loaded") {
  const MountedEngine mounted;
  const auto data = mounted.engine->catalog().find("data");
  REQUIRE(data);
  Mapping held;  // I/O under way, which suspend waits for
  REQUIRE(data->device().map(Op::read, 0, 512, Wait::no, held));
  json suspended;
  auto suspend = Thread::start(
      "suspend", [&] { suspended = mounted.ask(R"({"request":"map.suspend","map":"data"})"); });
  // Whether it has begun: then no new I/O gets in.
  const auto closed = [&] {
    Mapping one;
    return !data->device().map(Op::read, 0, 512, Wait::no, one);
  };
  while (!closed()) sleep_for(std::chrono::milliseconds(1));
  CHECK(mounted.ask(R"({"request":"map.load","map":"data","table":"0 64 zero"})")["ok"] == true);
  CHECK(mounted.ask(R"({"request":"status"})")["ok"] == true);
  CHECK(mounted.ask(R"({"request":"map.create","map":"new","table":"0 8 zero"})")["ok"] == true);
  CHECK(mounted.ask(R"({"request":"map.remove","map":"new"})")["ok"] == true);
  CHECK(suspended.is_null());
  held.clear();
  suspend->join();
  CHECK(suspended["ok"] == true);
  CHECK(mounted.ask(R"({"request":"map.resume","map":"data"})")["ok"] == true);
  CHECK(mounted.ask(R"({"request":"map.table","map":"data"})")["result"] == "0 64 zero \n");
}

}  // namespace volfs::control
