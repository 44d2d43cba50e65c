// SPDX-License-Identifier: GPL-2.0-or-later
// The open files of the directory .volfs.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "data_path.h"
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
// their offsets. A request that was written is carried out even if the writer goes away.
class ControlFile final : public File {
 public:
  using Handler = std::function<std::string(std::string)>;
  static constexpr size_t most_bytes = 1024 * 1024;
  static constexpr size_t most_requests = 16;  // waiting ones; then EBUSY

  // HANDLER and PATH outlive the file.
  ControlFile(const Handler& handler, DataPath& path)
      : shared_(std::make_shared<Shared>(handler, path)) {}

  void handle(DataRequest& request, ServingContext& context) override;
  void release() override;

 private:
  // Outlives the open file while a request is carried out.
  struct Shared : std::enable_shared_from_this<Shared> {
    Shared(const Handler& h, DataPath& p) : handler(h), path(p) {}
    void write(DataRequest& request);
    void read(DataRequest& request);
    void answer(DataRequest& request);
    void submit_partial();
    void submit(std::string text);
    void work();

    const Handler& handler;
    DataPath& path;
    Mutex mutex;  // guards all below
    std::string partial;
    uint64_t partial_end = 0;  // file offset at which it may be continued
    std::deque<std::string> waiting;
    bool running = false;
    std::string reply;
    bool reply_begun = false;
    uint64_t reply_base = 0;            // file offset of the reply's first byte
    std::vector<DataRequest*> readers;  // wait for the reply
  };
  const std::shared_ptr<Shared> shared_;
};

}  // namespace volfs::fuse
