// SPDX-License-Identifier: GPL-2.0-or-later
// A catalog as a mounted directory. The request handler knows neither how a request came nor
// which thread answers it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "volfs/engine/catalog.h"
#include "volfs/engine/events.h"
#include "volfs/error.h"

namespace volfs::fuse {

// A file of the directory .volfs: its content is made when it is opened, and stays for that open.
struct InfoFile {
  std::string name;
  std::function<Result<std::string>()> content;  // any thread; may wait
};

// How requests reach the server.
enum class Transport {
  automatic,  // by io_uring where the kernel offers it and every CPU may be used, else threads
  ring,       // by io_uring, or the mount fails
  threads     // by threads that read /dev/fuse
};

struct Options {
  std::string mountpoint;
  std::string source = "volfs";      // what /proc/mounts shows as the device
  std::vector<std::string> options;  // for the kernel and fusermount3: "allow_other", "ro", ...
  bool read_only = false;
  Transport transport = Transport::automatic;
  unsigned threads = 0;  // that read /dev/fuse; 0: chosen by the number of CPUs
  unsigned max_background = 64;
  bool writeback_cache = false;
  bool direct_io = false;  // every open bypasses the page cache (no mmap shared)
  bool debug = false;
};

// Answers one request of the control file; ABANDONED tells, when asked, whether anybody still waits
// for the reply.
using ControlHandler =
    std::function<std::string(std::string request, const std::function<bool()>& abandoned)>;

class Server {
 public:
  // Whether mount() can succeed, as far as that can be told: the same errors.
  static Status check(const Options& options);
  // Mounts: at return the directory answers, once serve() runs. Errors name the mount point and
  // why (busy, stale, no permission, no /dev/fuse).
  static Result<std::unique_ptr<Server>> mount(engine::Catalog& catalog, const Options& options);
  // Unmounts if it still is mounted.
  virtual ~Server() = default;

  // Before serve().
  virtual void add_info_file(InfoFile file) = 0;
  // .volfs/control: each write is one request (JSON text), each read gives the reply to the last
  // one on the same open file. HANDLE may be called by many threads at once and may wait. The
  // file has the owner and mode of the catalog's exposure.
  virtual void set_control(ControlHandler handle) = 0;

  // Before serve(). .volfs/events: each open follows HUB, which outlives the server, from then on.
  virtual void set_events(engine::EventHub& hub) = 0;

  // Serves until it is unmounted or stop() is called; READY is called once requests are answered.
  // At return every request has been answered and no thread of the server runs.
  virtual Status serve(const std::function<void()>& ready) = 0;
  // How requests come, once serve() is ready: "io_uring" or "threads". Any thread.
  virtual const char* transport() const = 0;
  // The same for people, with the reason why it is not io_uring.
  virtual std::string transport_text() const = 0;
  // Any thread or signal handler: unmounts and lets serve() return.
  virtual void stop() = 0;
};

}  // namespace volfs::fuse
