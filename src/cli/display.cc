// SPDX-License-Identifier: GPL-2.0-or-later
#include "display.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <nlohmann/json.hpp>

namespace volfs::cli {
namespace {

// Three digits that count, and a unit.
std::string scaled(double value, double step, const std::array<const char*, 6>& units) {
  size_t unit = 0;
  while (value >= step * 0.9995 && unit + 1 < units.size()) {
    value /= step;
    ++unit;
  }
  if (unit == 0 || value >= 99.95) return fmt::format("{:.0f}{}", value, units[unit]);
  return fmt::format("{:.{}f}{}", value, value >= 9.995 ? 1 : 2, units[unit]);
}

}  // namespace

bool wants_colours() {
  static const bool wanted = [] {
    const char* const no = std::getenv("NO_COLOR");
    const char* const terminal = std::getenv("TERM");
    if (no && *no) return false;
    return isatty(STDOUT_FILENO) == 1 && terminal && std::string_view(terminal) != "dumb";
  }();
  return wanted;
}

std::string coloured(std::string_view text, Colour colour) {
  if (colour == Colour::none || !wants_colours()) return std::string(text);
  const char* code = "0";
  switch (colour) {
    case Colour::good:
      code = "32";
      break;
    case Colour::warning:
      code = "1;35";
      break;
    case Colour::bad:
      code = "1;31";
      break;
    case Colour::strong:
      code = "1";
      break;
    case Colour::none:
      break;
  }
  return fmt::format("\033[{}m{}\033[0m", code, text);
}

Colour colour_of_state(std::string_view state) {
  if (state.starts_with("failed") || state.starts_with("faulty")) return Colour::bad;
  if (state.starts_with("active") && state.find("suspended") == std::string_view::npos)
    return Colour::good;
  return Colour::warning;
}

size_t columns_of(std::string_view text) {
  size_t columns = 0;
  for (const char c : text) columns += (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  return columns;
}

std::string shortened(std::string_view text, size_t width) {
  const size_t columns = columns_of(text);
  if (columns <= width || width == 0) return std::string(text);
  const size_t head = width / 2, tail = columns - (width - head - 1);
  std::string out;
  size_t column = 0;
  for (const char c : text) {
    if ((static_cast<unsigned char>(c) & 0xc0) != 0x80 && ++column == head + 1) out += '~';
    if (column <= head || column > tail) out += c;
  }
  return out;
}

std::string padded(std::string_view text, size_t width, bool cut) {
  std::string out = cut ? shortened(text, width) : std::string(text);
  const size_t columns = columns_of(out);
  if (columns < width) out.append(width - columns, ' ');
  return out;
}

size_t room_behind(size_t used) {
  if (isatty(STDOUT_FILENO) != 1) return std::string::npos;
  const size_t columns = terminal_columns();
  return columns > used ? columns - used : 1;
}

std::string short_count(double value) {
  return scaled(value, 1000, {"", "k", "M", "G", "T", "P"});
}

std::string short_bytes(double value) {
  return scaled(value, 1024, {"B", "K", "M", "G", "T", "P"});
}

std::string short_time(double microseconds) {
  if (microseconds <= 0) return "-";
  if (microseconds < 999.5) return fmt::format("{:.0f}us", microseconds);
  if (microseconds < 999500)
    return fmt::format("{:.{}f}ms", microseconds / 1000, microseconds < 99950 ? 1 : 0);
  return fmt::format("{:.{}f}s", microseconds / 1e6, microseconds < 99.95e6 ? 1 : 0);
}

std::string duration(uint64_t seconds) {
  if (seconds < 3600) return fmt::format("{}:{:02}", seconds / 60, seconds % 60);
  return fmt::format("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
}

bool is_utf8(const std::string& text) {
  try {
    (void)nlohmann::json(text).dump();
    return true;
  } catch (const nlohmann::json::exception&) {
    return false;
  }
}

void print_json(const nlohmann::json& value) {
  fmt::print("{}\n", value.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
}

unsigned terminal_columns(int fd) {
  winsize size{};
  if (ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

}  // namespace volfs::cli
