// SPDX-License-Identifier: GPL-2.0-or-later
// What a running mount tells and is told: the files of .volfs, and the requests of its control
// file. A request is one JSON object {"request": NAME, ...}; the reply is
// {"ok": true, "result": ...} or {"ok": false, "error": {"code", "errno", "message", "place"}};
// volfs.control(5) documents them all.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "volfs/engine/engine.h"

namespace volfs::control {

// What only the process of a mount knows.
struct Host {
  std::string mountpoint;
  // How requests reach it: "threads", "io_uring".
  std::function<const char*()> transport = [] { return ""; };
  int report_fd = -1;  // file that will hold the last word of the daemon; -1: none
};

class Control {
 public:
  // ENGINE outlives this.
  Control(engine::Engine& engine, Host host);

  // Carries out one request; any thread, many at once, may wait. Always gives a reply, ended by
  // a newline, whatever the text. ABANDONED tells, when asked, whether nobody waits for the reply
  // any more; what only waits then ends.
  std::string handle(std::string_view text, const std::function<bool()>& abandoned = {});

  // The files of .volfs, as of now.
  std::string mdstat() const;
  std::string table() const;   // as `dmsetup table`, devices by name
  std::string status() const;  // as `dmsetup status`
  std::string status_json() const;
  std::string metrics() const;  // in Prometheus' text format

 private:
  engine::Engine& engine_;
  const Host host_;
};

}  // namespace volfs::control
