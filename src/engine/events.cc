// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/engine/events.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <nlohmann/json.hpp>

namespace volfs::engine {
namespace {

using Json = nlohmann::ordered_json;

std::string time_text(Nanos time) {
  const auto seconds = std::chrono::floor<std::chrono::seconds>(time);
  const auto micros = std::chrono::duration_cast<std::chrono::microseconds>(time - seconds);
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:06}Z", fmt::gmtime(std::time_t{seconds.count()}),
                     micros.count());
}

std::string line_of(const Event& event, uint64_t number) {
  Json line{{"number", number}, {"time", time_text(wall_clock())}, {"event", event.type}};
  if (!event.device.empty()) line["device"] = event.device;
  for (const auto& [key, value] : event.details)
    std::visit([&, &name = key](const auto& plain) { line[name] = plain; }, value);
  return line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

void EventHub::publish(const Event& event) {
  {
    const std::lock_guard lock(mutex_);
    std::string text = line_of(event, next_);
    bytes_ += text.size();
    lines_.push_back({next_++, std::move(text)});
    while (lines_.size() > limits_.events || (bytes_ > limits_.bytes && lines_.size() > 1)) {
      bytes_ -= lines_.front().text.size();
      lines_.pop_front();
    }
  }
  wake();
}

void EventHub::wake() {
  const std::lock_guard lock(readers_mutex_);
  for (Reader* reader : readers_) reader->woken();
}

EventHub::Place EventHub::join(Reader& reader) {
  {
    const std::lock_guard lock(readers_mutex_);
    readers_.push_back(&reader);
  }
  const std::lock_guard lock(mutex_);
  ++reader_count_;
  changed_.notify_all();
  return {next_, generation_};
}

void EventHub::leave(Reader& reader) {
  {
    const std::lock_guard lock(readers_mutex_);
    std::erase(readers_, &reader);
  }
  const std::lock_guard lock(mutex_);
  --reader_count_;
}

std::string EventHub::take(Place& place, size_t most) const {
  const std::lock_guard lock(mutex_);
  std::string text;
  if (lines_.empty()) return text;
  const uint64_t first = lines_.front().number;
  if (place.next < first) {
    text = Json{{"event", "lost"}, {"count", first - place.next}}.dump() + "\n";
    place.next = first;
  }
  for (size_t i = place.next - first; i < lines_.size(); ++i) {
    if (!text.empty() && text.size() + lines_[i].text.size() > most) break;
    text += lines_[i].text;
    ++place.next;
  }
  return text;
}

bool EventHub::has(const Place& place) const {
  const std::lock_guard lock(mutex_);
  return place.next < next_;
}

void EventHub::end() {
  {
    const std::lock_guard lock(mutex_);
    ++generation_;
  }
  wake();
}

bool EventHub::finished(const Place& place) const {
  const std::lock_guard lock(mutex_);
  return place.generation < generation_;
}

bool EventHub::has_reader() const {
  const std::lock_guard lock(mutex_);
  return reader_count_ > 0;
}

bool EventHub::wait_for_reader() {
  const std::lock_guard lock(mutex_);
  changed_.wait(mutex_, [this] { return stopped_ || reader_count_ > 0; });
  return !stopped_;
}

bool EventHub::pause(Nanos time) {
  const std::lock_guard lock(mutex_);
  changed_.wait_until(mutex_, now() + time, [this] { return stopped_; });
  return !stopped_;
}

void EventHub::stop() {
  const std::lock_guard lock(mutex_);
  stopped_ = true;
  changed_.notify_all();
}

}  // namespace volfs::engine
