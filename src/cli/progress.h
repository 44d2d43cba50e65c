// SPDX-License-Identifier: GPL-2.0-or-later
// How far long work has come: on a terminal one line with percent, speed and time left; nothing in
// a pipe.
#pragma once

#include <cstdint>
#include <string>

#include "volfs/sync.h"

namespace volfs::cli {

class Progress {
 public:
  // TOTAL: bytes that are to be done.
  Progress(std::string what, uint64_t total);
  ~Progress() { end(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void show(uint64_t done);
  // Leaves the line.
  void end();

 private:
  const std::string what_;
  const uint64_t total_;
  const bool terminal_;
  TimePoint start_;  // when the first was shown, and how far it had come
  uint64_t first_ = 0;
  bool shown_ = false;
};

}  // namespace volfs::cli
