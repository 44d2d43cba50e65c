// SPDX-License-Identifier: GPL-2.0-or-later
// volfs top: what goes on in a mount, by volume and image.
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <poll.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli.h"
#include "client.h"
#include "display.h"
#include "tree.h"
#include "volfs/sync.h"

namespace volfs::cli {
namespace {

using nlohmann::json;

struct TopArguments {
  std::string path;
  double delay = 2;
  unsigned count = 0;
};

struct Sample {
  TimePoint taken{};
  json status;
};

// What a device did between two looks, a second.
struct Rates {
  double reads = 0, writes = 0, read_bytes = 0, write_bytes = 0;
  double read_us = 0, write_us = 0;          // mean latencies
  double read_p99_us = 0, write_p99_us = 0;  // upper bounds of the 99th percentile; 0: unknown
  uint64_t in_flight = 0, errors = 0;
};

double number(const json& object, const char* key) {
  return static_cast<double>(object.value(key, uint64_t{0}));
}

// The bound of the bucket in which the 99th of a hundred falls; "inf" has none.
double percentile(const json& before, const json& after) {
  std::map<uint64_t, double> counts;
  double all = 0;
  for (const auto& [bound, count] : after.items()) {
    const double more = count.get<double>() - before.value(bound, 0.0);
    all += more;
    if (bound != "inf") counts[std::stoull(bound)] += more;
  }
  double sum = 0;
  for (const auto& [bound, count] : counts)
    if (sum += count; all > 0 && sum >= all * 0.99) return static_cast<double>(bound);
  return 0;
}

Rates rates_of(const json& before, const json& after, double seconds) {
  const auto risen = [&](const char* key) { return number(after, key) - number(before, key); };
  const auto time = [&](const char* op) {
    return number(after["time_us"], op) - number(before["time_us"], op);
  };
  Rates rates;
  if (seconds <= 0) return rates;
  const double reads = risen("reads"), writes = risen("writes");
  rates.reads = reads / seconds;
  rates.writes = writes / seconds;
  rates.read_bytes = risen("bytes_read") / seconds;
  rates.write_bytes = risen("bytes_written") / seconds;
  if (reads > 0) rates.read_us = time("read") / reads;
  if (writes > 0) rates.write_us = time("write") / writes;
  rates.read_p99_us = percentile(before["latency_us"]["read"], after["latency_us"]["read"]);
  rates.write_p99_us = percentile(before["latency_us"]["write"], after["latency_us"]["write"]);
  rates.in_flight = after.value("in_flight", uint64_t{0});
  rates.errors = static_cast<uint64_t>(risen("errors"));
  return rates;
}

const json* device_in(const json& status, const std::string& name) {
  for (const json& device : status["devices"])
    if (device.value("name", "") == name) return &device;
  return nullptr;
}

void print_line(const std::string& name, const Rates& r, size_t width) {
  const std::string line = fmt::format(
      "{} {:>6} {:>6} {:>6} {:>6} {:>7} {:>7} {:>4}", padded(name, width, true),
      short_count(r.reads), short_count(r.writes), short_bytes(r.read_bytes),
      short_bytes(r.write_bytes), short_time(r.read_us), short_time(r.write_us), r.in_flight);
  const bool quiet = r.reads == 0 && r.writes == 0 && r.in_flight == 0;
  fmt::print("{}{}\n", coloured(line, quiet ? Colour::none : Colour::strong),
             r.errors > 0 ? coloured(fmt::format(" {} err", r.errors), Colour::bad) : "");
}

void print_sync(const json& device) {
  const std::string state = state_of(device);
  const json& sync = (*array_in(device))["sync"];
  if (sync.value("action", "idle") == "idle" && state.starts_with("active")) return;
  std::string text = ": " + state;
  if (const auto speed = sync.value("speed", uint64_t{0}); speed > 0)
    text += fmt::format(", {}/s, {} left", short_bytes(static_cast<double>(speed)),
                        duration(sync.value("seconds_left", uint64_t{0})));
  text = shortened(device.value("name", ""), room_behind(columns_of(text))) + text;
  fmt::print("{}\n", coloured(text, colour_of_state(state)));
}

void print_table(const Sample& before, const Sample& after, bool with_screen) {
  const double seconds = std::chrono::duration<double>(after.taken - before.taken).count();
  const size_t fixed = 50;
  const size_t room = terminal_columns() > fixed + 12 ? terminal_columns() - fixed - 8 : 20;
  size_t width = 6;
  for (const json& device : after.status["devices"])
    width = std::max(width, columns_of(device.value("volume", device.value("name", ""))));
  width = std::min(width, room);
  const auto since_epoch = std::chrono::duration_cast<std::chrono::seconds>(wall_clock());
  fmt::print("volfs {}  {:%H:%M:%S}{}\n", after.status.value("mountpoint", ""),
             fmt::localtime(std::time_t{since_epoch.count()}), with_screen ? "   q: quit" : "");
  for (const bool images : {false, true}) {
    bool first = true;
    for (const json& device : after.status["devices"]) {
      if (!device.contains("counters") || (device.value("kind", "") == "image") != images) continue;
      const std::string name = device.value("name", "");
      const json* old = device_in(before.status, name);
      const Rates rates = old && old->contains("counters")
                              ? rates_of((*old)["counters"], device["counters"], seconds)
                              : Rates{};
      if (std::exchange(first, false))
        fmt::print("{} {:>6} {:>6} {:>6} {:>6} {:>7} {:>7} {:>4}\n",
                   padded(images ? "IMAGE" : "VOLUME", width), "r/s", "w/s", "rB/s", "wB/s",
                   "r-lat", "w-lat", "busy");
      print_line(device.value("volume", name), rates, width);
    }
  }
  for (const json& device : after.status["devices"])
    if (array_in(device)) print_sync(device);
}

json to_json(const Sample& before, const Sample& after) {
  const double seconds = std::chrono::duration<double>(after.taken - before.taken).count();
  json devices = json::array();
  for (const json& device : after.status["devices"]) {
    const json* old = device_in(before.status, device.value("name", ""));
    if (!device.contains("counters") || !old || !old->contains("counters")) continue;
    const Rates r = rates_of((*old)["counters"], device["counters"], seconds);
    json entry{{"name", device["name"]},
               {"kind", device["kind"]},
               {"state", device["state"]},
               {"reads_per_second", r.reads},
               {"writes_per_second", r.writes},
               {"read_bytes_per_second", r.read_bytes},
               {"write_bytes_per_second", r.write_bytes},
               {"read_latency_us", r.read_us},
               {"write_latency_us", r.write_us},
               {"read_p99_us", r.read_p99_us},
               {"write_p99_us", r.write_p99_us},
               {"in_flight", r.in_flight},
               {"errors", r.errors}};
    if (device.contains("volume")) entry["volume"] = device["volume"];
    if (const json* array = array_in(device)) entry["sync"] = (*array)["sync"];
    devices.push_back(std::move(entry));
  }
  return {{"seconds", seconds}, {"devices", std::move(devices)}};
}

Result<Sample> sample(const std::string& mountpoint) {
  Sample taken;
  VOLFS_TRY_ASSIGN(taken.status, request(mountpoint, {{"request", "status"}}));
  taken.taken = now();
  return taken;
}

// The terminal's alternate screen, and keys without Enter; all as before at the end.
class Screen {
 public:
  Screen() {
    active_ = isatty(STDOUT_FILENO) == 1 && isatty(STDIN_FILENO) == 1 &&
              tcgetattr(STDIN_FILENO, &before_) == 0;
    if (!active_) return;
    termios raw = before_;
    raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO | ISIG);
    tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    fmt::print("\033[?1049h\033[?25l");
  }
  ~Screen() {
    if (!active_) return;
    fmt::print("\033[?25h\033[?1049l");
    std::fflush(stdout);
    tcsetattr(STDIN_FILENO, TCSANOW, &before_);
  }
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;
  bool active() const { return active_; }

  // False when a key asked to end.
  bool wait(double seconds) {
    const TimePoint deadline =
        now() + std::chrono::duration_cast<Nanos>(std::chrono::duration<double>(seconds));
    if (!active_) {
      sleep_for(deadline - now());
      return true;
    }
    while (now() < deadline) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - now());
      pollfd keys{STDIN_FILENO, POLLIN, 0};
      if (poll(&keys, 1, static_cast<int>(left.count())) <= 0) continue;
      char key = 0;
      if (read(STDIN_FILENO, &key, 1) <= 0 || key == 'q' || key == 'Q' || key == 3) return false;
    }
    return true;
  }

 private:
  termios before_{};
  bool active_ = false;
};

Status top(const TopArguments& arguments, bool as_json) {
  VOLFS_TRY_ASSIGN(const std::string mountpoint, find_mount(arguments.path));
  if (!(arguments.delay > 0)) return fail_invalid("--delay: expected a number of seconds");
  VOLFS_TRY_ASSIGN(Sample before, sample(mountpoint));
  std::unique_ptr<Screen> screen;
  if (!as_json && arguments.count == 0 && isatty(STDOUT_FILENO) == 1)
    screen = std::make_unique<Screen>();
  const bool drawing = screen && screen->active();
  if (drawing) print_table(before, before, true);
  for (unsigned shown = 0; arguments.count == 0 || shown < arguments.count; ++shown) {
    std::fflush(stdout);
    if (drawing) {
      if (!screen->wait(arguments.delay)) break;
    } else {
      sleep_for(std::chrono::duration_cast<Nanos>(std::chrono::duration<double>(arguments.delay)));
    }
    VOLFS_TRY_ASSIGN(Sample after, sample(mountpoint));
    if (drawing) fmt::print("\033[H\033[J");
    if (as_json)
      fmt::print("{}\n", to_json(before, after).dump());
    else
      print_table(before, after, drawing);
    if (!drawing && !as_json && arguments.count != 1) fmt::print("\n");
    before = std::move(after);
  }
  return {};
}

}  // namespace

void add_top(CLI::App& app, Session& session) {
  auto arguments = std::make_shared<TopArguments>();
  auto* command = app.add_subcommand(
      "top", "show live rates, latencies and sync progress, by volume and image");
  command->add_option("MOUNTPOINT", arguments->path)->required();
  command->add_option("-d,--delay", arguments->delay, "seconds between two looks")
      ->check(CLI::Range(0.1, 86400.0))
      ->capture_default_str();
  command->add_option("-n,--count", arguments->count, "end after so many; default: go on")
      ->check(CLI::Range(1U, 4294967295U));
  add_json_option(*command, session);
  set_examples(*command,
               "  volfs top /mnt                   (q quits)\n"
               "  volfs top /mnt -n 1 -d 10        (one table, of ten seconds)\n"
               "  volfs top /mnt --json | jq .     (one object an interval)\n");
  command->callback([arguments, &session] {
    if (auto done = top(*arguments, session.json); !done) session.fail(done.error());
  });
}

}  // namespace volfs::cli
