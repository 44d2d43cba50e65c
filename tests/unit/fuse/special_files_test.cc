// SPDX-License-Identifier: GPL-2.0-or-later
#include "special_files.h"

#include <doctest/doctest.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <mutex>

namespace volfs::fuse {
namespace {

// A request as a transport makes it, for one thread that waits for the answer.
class TestRequest final : public DataRequest {
 public:
  TestRequest(Kind what, uint64_t at, std::string text) : data_(std::move(text)) {
    kind = what;
    offset = at;
    memory = {reinterpret_cast<std::byte*>(data_.data()), data_.size()};
  }
  void reply(int error, size_t count) override {
    error_ = error;
    count_ = count;
  }
  void recycle() override {
    const std::lock_guard lock(mutex_);
    done_ = true;
    changed_.notify_all();
  }
  bool is_done() {
    const std::lock_guard lock(mutex_);
    return done_;
  }
  int wait() {
    const std::lock_guard lock(mutex_);
    changed_.wait(mutex_, [this] { return done_; });
    return error_;
  }
  std::string data() const { return data_.substr(0, count_); }

 private:
  std::string data_;
  int error_ = -1;
  size_t count_ = 0;
  Mutex mutex_;
  CondVar changed_;
  bool done_ = false;
};

struct Conversation {
  ControlFile::Handler handler = [this](std::string text, const std::function<bool()>& abandoned) {
    gate.enter();
    gate.exit();
    while (text == "wait" && !abandoned()) sleep_for(std::chrono::milliseconds(1));
    handled.push_back(text);
    return "re: " + text;
  };
  std::vector<std::string> handled;
  Gate gate;
  WorkerPool workers;
  DataPath path{workers};
  std::atomic<bool> ending{false};
  ControlFile* file = new ControlFile(handler, path, ending);
  ServingContext context;

  ~Conversation() {
    file->release();
    workers.drain();
  }
  int write(std::string text, uint64_t offset) {
    TestRequest request(DataRequest::Kind::write, offset, std::move(text));
    file->handle(request, context);
    return request.wait();
  }
  std::string read(size_t size, uint64_t offset) {
    TestRequest request(DataRequest::Kind::read, offset, std::string(size, '\0'));
    file->handle(request, context);
    CHECK(request.wait() == 0);
    return request.data();
  }
};

TEST_CASE("a reply begins where reading begins, and goes on by offset") {
  Conversation talk;
  // Who reads first is told so.
  const std::string told = talk.read(200, 0);
  CHECK(told.find(R"("code":"EINVAL")") != std::string::npos);
  CHECK(talk.read(200, told.size()).empty());
  CHECK(talk.write("hello", 0) == 0);
  CHECK(talk.read(4, 5) == "re: ");
  CHECK(talk.read(100, 9) == "hello");
  CHECK(talk.read(100, 14).empty());
  CHECK(talk.write("again", 14) == 0);
  CHECK(talk.read(100, 0) == "re: again");
}

TEST_CASE("pieces of nearly the most the kernel sends are one request") {
  Conversation talk;
  const std::string piece(ControlFile::most_bytes - 4096, 'a');
  CHECK(talk.write(piece, 7) == 0);
  CHECK(talk.write("end", 7 + piece.size()) == 0);
  CHECK(talk.read(100, 0).size() == 100);
  REQUIRE(talk.handled.size() == 1);
  CHECK(talk.handled[0] == piece + "end");
  // Not continued: what comes elsewhere is the next request.
  CHECK(talk.write(piece, 0) == 0);
  CHECK(talk.write("next", 0) == 0);
  CHECK(talk.read(100, 0) == "re: next");
  REQUIRE(talk.handled.size() == 3);
  CHECK(talk.handled[1] == piece);
  // Too long.
  CHECK(talk.write(std::string(ControlFile::most_bytes, 'a'), 0) == 0);
  CHECK(talk.write("x", ControlFile::most_bytes) == EFBIG);
  CHECK(talk.read(200, 0).find(R"("code":"EFBIG")") != std::string::npos);
  CHECK(talk.handled.size() == 3);
}

TEST_CASE(
    "requests of one open wait for each other, a reader for the last, and too many are busy") {
  Conversation talk;
  talk.gate.close();
  int busy = 0;
  for (size_t i = 0; i < ControlFile::most_requests + 3; ++i)
    if (talk.write("r" + std::to_string(i), 0) == EBUSY) ++busy;
  CHECK(busy >= 2);
  TestRequest reader(DataRequest::Kind::read, 0, std::string(100, '\0'));
  talk.file->handle(reader, talk.context);
  CHECK(!reader.is_done());
  talk.gate.open();
  CHECK(reader.wait() == 0);
  CHECK(reader.data().starts_with("re: r"));
  CHECK(reader.data() == "re: " + talk.handled.back());
}

TEST_CASE("a request that only waits ends when its file is closed, or the server") {
  {
    Conversation talk;
    CHECK(talk.write("wait", 0) == 0);
  }  // release, then drain: it would not come back
  Conversation talk;
  CHECK(talk.write("wait", 0) == 0);
  talk.ending.store(true);
  CHECK(talk.read(100, 0) == "re: wait");
}

}  // namespace
}  // namespace volfs::fuse
