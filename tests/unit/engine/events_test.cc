// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/engine/events.h"

#include <doctest/doctest.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <sstream>

#include "engine/watcher.h"

namespace volfs::engine {
namespace {

using nlohmann::json;

struct Follower final : EventHub::Reader {
  explicit Follower(EventHub& followed) : hub(followed), place(followed.join(*this)) {}
  ~Follower() { hub.leave(*this); }
  void woken() override { ++wakes; }
  std::vector<json> read(size_t most = 1 << 20) {
    std::vector<json> events;
    std::istringstream lines(hub.take(place, most));
    for (std::string line; std::getline(lines, line);) events.push_back(json::parse(line));
    return events;
  }
  EventHub& hub;
  EventHub::Place place;
  std::atomic<int> wakes{0};
};

std::vector<std::string> types(const std::vector<Event>& events) {
  std::vector<std::string> all;
  for (const Event& event : events) {
    std::string text = event.type;
    for (const auto& [key, value] : event.details) {
      text += " " + key + "=";
      if (const auto* word = std::get_if<std::string>(&value)) text += *word;
      if (const auto* number = std::get_if<uint64_t>(&value)) text += std::to_string(*number);
    }
    all.push_back(text);
  }
  return all;
}

}  // namespace

TEST_CASE("readers get the events since they joined, each at its own pace") {
  EventHub hub;
  hub.publish({"before", "", {}});
  Follower early(hub);
  CHECK(hub.has_reader());
  CHECK(!hub.has(early.place));
  hub.publish({"map.suspended", "data", {}});
  Follower late(hub);
  hub.publish({"volume.renamed", "b", {{"from", "a\xff\n"}, {"size", uint64_t{7}}, {"ro", true}}});
  CHECK(early.wakes == 2);
  CHECK(late.wakes == 1);
  const auto one = early.read(1);  // a line is never cut, whatever the size
  REQUIRE(one.size() == 1);
  CHECK(one[0]["number"] == 2);
  CHECK(one[0]["event"] == "map.suspended");
  CHECK(one[0]["device"] == "data");
  CHECK(one[0]["time"].get<std::string>().size() ==
        std::string("2026-03-01T12:00:00.000250Z").size());
  const auto two = early.read();
  REQUIRE(two.size() == 1);
  CHECK(two[0]["from"] == "a\uFFFD\n");
  CHECK(two[0]["size"] == 7);
  CHECK(two[0]["ro"] == true);
  CHECK(late.read() == two);
  CHECK(early.read().empty());
}

TEST_CASE("memory is bounded by count and by bytes, and who is slow is told what was lost") {
  EventHub by_count({.events = 10, .bytes = 1 << 20});
  Follower slow(by_count);
  for (int i = 0; i < 25; ++i) by_count.publish({"x", std::to_string(i), {}});
  const auto events = slow.read();
  REQUIRE(events.size() == 11);
  CHECK(events[0] == json{{"event", "lost"}, {"count", 15}});
  CHECK(events[1]["device"] == "15");
  CHECK(events[10]["device"] == "24");

  EventHub by_bytes({.events = 1000, .bytes = 2000});
  Follower other(by_bytes);
  for (int i = 0; i < 100; ++i) by_bytes.publish({"x", std::string(200, 'n'), {}});
  CHECK(other.read().size() < 10);
  by_bytes.publish({"x", std::string(5000, 'n'), {}});  // larger than all that is kept
  CHECK(other.read().size() == 1);
}

TEST_CASE("an end is the end for those who follow, and not for those who come later") {
  EventHub hub;
  Follower before(hub);
  hub.publish({"mount.ending", "", {}});
  hub.end();
  CHECK(before.wakes == 2);
  CHECK(hub.finished(before.place));
  CHECK(before.read().size() == 1);
  Follower after(hub);
  CHECK(!hub.finished(after.place));
  hub.publish({"x", "", {}});
  CHECK(after.read().size() == 1);
}

TEST_CASE("many publish and many follow at once: nobody misses one") {
  EventHub hub;
  constexpr int publishers = 4, each = 500;
  Follower a(hub), b(hub);
  std::vector<Thread> threads;
  for (int i = 0; i < publishers; ++i)
    threads.push_back(*Thread::start("publish", [&hub, i] {
      for (int k = 0; k < each; ++k) hub.publish({"x", std::to_string(i), {{"k", uint64_t(k)}}});
    }));
  std::vector<json> seen;
  while (seen.size() < publishers * each)
    for (json& event : a.read(4096)) seen.push_back(std::move(event));
  for (Thread& thread : threads) thread.join();
  std::map<std::string, uint64_t> next;
  for (size_t i = 0; i < seen.size(); ++i) {
    CHECK(seen[i]["number"] == i + 1);
    CHECK(seen[i]["k"] == next[seen[i]["device"]]++);
  }
  CHECK(b.read().size() == publishers * each);
}

TEST_CASE("what happened to an array is found by comparing what it was and is") {
  md::ArrayStatus before;
  before.members = {{.device = "disk0", .slot = 0, .state = md::MemberState::in_sync},
                    {.device = "disk1", .slot = 1, .state = md::MemberState::in_sync}};
  md::ArrayStatus after = before;
  CHECK(array_events("md0", before, after).empty());
  after.state = md::ArrayState::degraded;
  after.members[1].state = md::MemberState::faulty;
  CHECK(types(array_events("md0", before, after)) ==
        std::vector<std::string>{"member.failed member=disk1",
                                 "array.state state=degraded before=active"});
  before = after;
  after.members[1] = {.device = "disk2", .slot = 1, .state = md::MemberState::recovering};
  after.sync.action = md::SyncAction::recover;
  CHECK(types(array_events("md0", before, after)) ==
        std::vector<std::string>{"member.added member=disk2", "member.recovering member=disk2",
                                 "member.removed member=disk1", "sync.started action=recover"});
  before = after;
  after.state = md::ArrayState::active;
  after.members[1].state = md::MemberState::in_sync;
  after.members[0].read_errors = 3;
  after.sync.action = md::SyncAction::check;
  after.mismatches = 8192;
  CHECK(types(array_events("md0", before, after)) ==
        std::vector<std::string>{
            "member.read_error member=disk0 corrected=3", "member.in_sync member=disk2",
            "array.state state=active before=degraded", "sync.done action=recover mismatch_cnt=16",
            "sync.started action=check"});
}

TEST_CASE("what happened to a snapshot is found in its status") {
  const auto between = [](const char* before, const char* after) {
    return types(map_events("snap", before, after));
  };
  using Types = std::vector<std::string>;
  CHECK(between("0 100 linear disk0 0\n", "0 200 linear disk0 0\n").empty());
  CHECK(between("0 100 snapshot 16/1000 16\n", "0 100 snapshot 799/1000 16\n").empty());
  CHECK(between("0 100 snapshot 799/1000 16\n", "0 100 snapshot 800/1000 16\n") ==
        Types{"snapshot.filling percent=80"});
  CHECK(between("0 100 snapshot 800/1000 16\n", "0 100 snapshot 849/1000 16\n").empty());
  CHECK(between("0 100 snapshot 849/1000 16\n", "0 100 snapshot 960/1000 16\n") ==
        Types{"snapshot.filling percent=96"});
  CHECK(between("0 100 snapshot 960/1000 16\n", "0 100 snapshot Invalid\n") ==
        Types{"snapshot.invalid"});
  CHECK(between("0 100 snapshot 960/1000 16\n", "0 100 snapshot Overflow\n") ==
        Types{"snapshot.full"});
  CHECK(between("0 100 snapshot-merge 96/1000 16\n", "0 100 snapshot-merge 16/1000 16\n") ==
        Types{"snapshot.merged"});
  CHECK(between("0 100 snapshot-merge 96/1000 16\n", "0 100 snapshot-merge Merge failed\n") ==
        Types{"snapshot.merge_failed"});
}

}  // namespace volfs::engine
