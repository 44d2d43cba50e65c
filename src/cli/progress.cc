// SPDX-License-Identifier: GPL-2.0-or-later
#include "progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "display.h"
#include "volfs/units.h"

namespace volfs::cli {

Progress::Progress(std::string what, uint64_t total)
    : what_(std::move(what)), total_(total), terminal_(isatty(STDERR_FILENO) != 0), start_(now()) {}

void Progress::show(uint64_t done) {
  if (!terminal_ || total_ == 0) return;
  if (!shown_) {
    start_ = now();
    first_ = done;
  }
  const double seconds = std::chrono::duration<double>(now() - start_).count();
  const double rate = seconds > 0 ? static_cast<double>(done - first_) / seconds : 0;
  std::string left;
  if (rate > 0 && done < total_) {
    const auto rest = static_cast<uint64_t>(static_cast<double>(total_ - done) / rate);
    left = fmt::format(", {}:{:02}:{:02} left", rest / 3600, rest / 60 % 60, rest % 60);
  }
  const std::string far =
      fmt::format(": {:.1f} %, {}/s{}",
                  100.0 * static_cast<double>(std::min(done, total_)) / static_cast<double>(total_),
                  format_size_rounded(static_cast<uint64_t>(rate)), left);
  // A line that wraps would not be drawn over.
  const size_t columns = terminal_columns(STDERR_FILENO);
  const size_t room = columns > far.size() + 1 ? columns - far.size() - 1 : 1;
  fmt::print(stderr, "\r\033[K{}{}", shortened(what_, room), far);
  std::fflush(stderr);
  shown_ = true;
}

void Progress::end() {
  if (shown_) fmt::print(stderr, "\n");
  shown_ = false;
}

}  // namespace volfs::cli
