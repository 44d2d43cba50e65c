// SPDX-License-Identifier: GPL-2.0-or-later
// The open files of the directory .volfs.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "data_path.h"
#include "volfs/engine/events.h"
#include "volfs/fuse/server.h"
#include "volfs/sync.h"
#include "volfs/worker_pool.h"

namespace volfs::fuse {

// A text that was made when the file was opened.
class InfoText final : public File {
 public:
  explicit InfoText(std::string content) : content_(std::move(content)) {}
  void handle(DataRequest& request, ServingContext& context) override;

 private:
  const std::string content_;
};

// One open of the control file: a conversation of its own.
//
// What one write(2) brings is a request. The kernel cuts a write that does not fit into 256 pages;
// so a piece of nearly that size is kept until it is continued by a write at its end, or until
// somebody reads or closes. Requests of one open are carried out one after the other; a read waits
// until all are done and gives the reply to the last one. The first read after a request begins
// at the reply's first byte, wherever in the file it is; those that follow go on from there by
// their offsets. A request that was written is carried out even if the writer goes away; only one
// that does nothing but wait is told of it and ends.
class ControlFile final : public File {
 public:
  using Handler = ControlHandler;
  static constexpr size_t most_bytes = 1024 * 1024;
  static constexpr size_t most_requests = 16;  // waiting ones; then EBUSY

  // HANDLER, PATH and ENDING, which is true when the server ends, outlive the file.
  ControlFile(const Handler& handler, DataPath& path, const std::atomic<bool>& ending)
      : shared_(std::make_shared<Shared>(handler, path, ending)) {}

  void handle(DataRequest& request, ServingContext& context) override;
  void release() override;

 private:
  // Outlives the open file while a request is carried out.
  struct Shared : std::enable_shared_from_this<Shared> {
    Shared(const Handler& h, DataPath& p, const std::atomic<bool>& e)
        : handler(h), path(p), ending(e) {}
    void write(DataRequest& request);
    void read(DataRequest& request);
    void answer(DataRequest& request);
    void submit_partial();
    void submit(std::string text);
    void work();

    const Handler& handler;
    DataPath& path;
    const std::atomic<bool>& ending;
    Mutex mutex;  // guards all below
    std::string partial;
    uint64_t partial_end = 0;  // file offset at which it may be continued
    std::deque<std::string> waiting;
    bool running = false;
    // Until there was a request. The kernel tells of no empty write, so this is its answer, too.
    std::string reply =
        R"({"ok":false,"error":{"code":"EINVAL","errno":22,"message":"no request was written; expected a JSON object","place":""}})"
        "\n";
    bool reply_begun = false;
    uint64_t reply_base = 0;            // file offset of the reply's first byte
    std::vector<DataRequest*> readers;  // wait for the reply
    std::atomic<bool> closed{false};    // nobody will read a reply any more
  };
  const std::shared_ptr<Shared> shared_;
};

// One open of the stream of events: each read gives whole lines of what happened since the open,
// and waits if nothing did.
class EventFile final : public File, private engine::EventHub::Reader {
 public:
  // Both outlive the file.
  EventFile(engine::EventHub& hub, DataPath& path)
      : hub_(hub), path_(path), place_(hub.join(*this)) {}

  void handle(DataRequest& request, ServingContext& context) override;
  unsigned poll(fuse_pollhandle* handle) override;
  void release() override;

 private:
  void woken() override;
  bool ready() const { return !rest_.empty() || hub_.has(place_) || hub_.finished(place_); }
  void read(DataRequest& request);
  void drop_cancelled();
  void set_handle(fuse_pollhandle* handle);

  engine::EventHub& hub_;
  DataPath& path_;
  Mutex mutex_;  // guards all below
  engine::EventHub::Place place_;
  std::string rest_;  // of a line that was longer than a read
  std::deque<DataRequest*> readers_;
  fuse_pollhandle* handle_ = nullptr;
};

}  // namespace volfs::fuse
