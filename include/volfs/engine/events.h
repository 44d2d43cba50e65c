// SPDX-License-Identifier: GPL-2.0-or-later
// What happens on a mount, as lines of JSON that many readers follow at their own pace. One hub
// keeps the last events in bounded memory; a reader that falls behind is told how many it lost.
//
//     {"number":17,"time":"2026-03-01T12:00:00.000250Z","event":"map.suspended","device":"data"}
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "volfs/sync.h"

namespace volfs::engine {

// volfs.control(5) lists the types and their details.
struct Event {
  using Value = std::variant<std::string, uint64_t, bool>;
  std::string type;    // "map.suspended"
  std::string device;  // what it happened to; empty: the mount
  std::vector<std::pair<std::string, Value>> details;
};

class EventHub {
 public:
  struct Limits {
    size_t events = 4096;
    size_t bytes = 1024 * 1024;
  };
  // Woken after every event, by the thread that published it; must not call the hub but take() and
  // finished().
  struct Reader {
    virtual void woken() = 0;

   protected:
    ~Reader() = default;
  };

  // How far a reader is.
  struct Place {
    uint64_t next = 0;        // the event that comes next
    uint64_t generation = 0;  // streams that had ended when it joined
  };

  EventHub() : EventHub(Limits{}) {}
  explicit EventHub(Limits limits) : limits_(limits) {}
  EventHub(const EventHub&) = delete;
  EventHub& operator=(const EventHub&) = delete;

  // Any thread, whatever it holds; does not wait for readers.
  void publish(const Event& event);

  // Readers follow from the next event on.
  Place join(Reader& reader);
  // Waits until the reader is not being woken.
  void leave(Reader& reader);
  // The lines from PLACE on, which moves: whole ones, MOST bytes at most, but one if there is any.
  // Events that are not kept any more become one line {"event":"lost","count":N}.
  std::string take(Place& place, size_t most) const;
  // Whether take() would give something.
  bool has(const Place& place) const;

  // All readers are at the end of the stream with what there is now: the mount is about to be
  // unmounted. Those that join later go on.
  void end();
  // Whether the reader's stream has ended.
  bool finished(const Place& place) const;

  // For who looks for events only while somebody follows. wait_for_reader: false after stop().
  bool has_reader() const;
  bool wait_for_reader();
  // Sleeps; false after stop().
  bool pause(Nanos time);
  void stop();

 private:
  struct Line {
    uint64_t number;
    std::string text;
  };
  void wake();

  const Limits limits_;
  mutable Mutex mutex_;  // guards all up to readers_mutex_
  CondVar changed_;
  std::deque<Line> lines_;
  size_t bytes_ = 0;
  uint64_t next_ = 1;
  uint64_t generation_ = 0;
  size_t reader_count_ = 0;
  bool stopped_ = false;
  Mutex readers_mutex_;  // guards readers_; held while they are woken, never with mutex_
  std::vector<Reader*> readers_;
};

}  // namespace volfs::engine
