// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/units.h"

#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <charconv>

namespace volfs {
namespace {

struct Unit {
  std::string_view name;
  uint64_t bytes;
};

__extension__ using Wide = unsigned __int128;

constexpr uint64_t PiB = 1024 * TiB;
constexpr uint64_t EiB = 1024 * PiB;

bool equal_ignoring_case(std::string_view a, std::string_view b) {
  auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i)
    if (lower(a[i]) != lower(b[i])) return false;
  return true;
}

std::optional<uint64_t> unit_bytes(std::string_view name) {
  static constexpr std::array<Unit, 15> units{{{"", 1},
                                               {"B", 1},
                                               {"s", sector_size},
                                               {"K", KiB},
                                               {"KiB", KiB},
                                               {"M", MiB},
                                               {"MiB", MiB},
                                               {"G", GiB},
                                               {"GiB", GiB},
                                               {"T", TiB},
                                               {"TiB", TiB},
                                               {"P", PiB},
                                               {"PiB", PiB},
                                               {"E", EiB},
                                               {"EiB", EiB}}};
  for (const Unit& unit : units)
    if (equal_ignoring_case(unit.name, name)) return unit.bytes;
  return std::nullopt;
}

Error bad_size(std::string_view text) {
  return Error::invalid(
      fmt::format("'{}' is not a size; expected a number of bytes, or one with KiB, MiB, GiB, TiB, "
                  "K, M, G, T or s (sectors of 512 bytes)",
                  text));
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

// The value of DIGITS ("5" in "1.5") as a fraction of UNIT, if that is a whole number.
std::optional<uint64_t> fraction_of(std::string_view digits, uint64_t unit) {
  uint64_t value = 0, scale = 1;
  for (char c : digits) {
    if (scale > 100000000) return std::nullopt;
    value = value * 10 + static_cast<uint64_t>(c - '0');
    scale *= 10;
  }
  const auto product = static_cast<Wide>(value) * unit;
  if (product % scale != 0) return std::nullopt;
  return static_cast<uint64_t>(product / scale);
}

}  // namespace

Result<uint64_t> parse_u64(std::string_view text) {
  uint64_t value = 0;
  const char* end = text.data() + text.size();
  auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error == std::errc::result_out_of_range)
    return fail(Error::make(ERANGE, fmt::format("'{}' is too large", text)));
  if (error != std::errc{} || stop != end)
    return fail_invalid(fmt::format("'{}' is not a number", text));
  return value;
}

Result<uint64_t> parse_size(std::string_view text) {
  size_t whole = 0;
  while (whole < text.size() && is_digit(text[whole])) ++whole;
  if (whole == 0) return fail(bad_size(text));
  std::string_view rest = text.substr(whole), fraction;
  if (!rest.empty() && rest[0] == '.') {
    size_t end = 1;
    while (end < rest.size() && is_digit(rest[end])) ++end;
    fraction = rest.substr(1, end - 1);
    if (fraction.empty()) return fail(bad_size(text));
    rest.remove_prefix(end);
  }
  if (rest.size() > 1 && rest[0] == ' ') rest.remove_prefix(1);
  const auto unit = unit_bytes(rest);
  if (!unit) return fail(bad_size(text));
  const auto part = fraction_of(fraction, *unit);
  if (!part) return fail_invalid(fmt::format("'{}' is not a whole number of bytes", text));
  const auto number = parse_u64(text.substr(0, whole));
  const auto bytes = number ? checked_mul(*number, *unit) : std::nullopt;
  const auto sum = bytes ? checked_add(*bytes, *part) : std::nullopt;
  if (!sum || *sum > max_device_size)
    return fail(Error::make(
        ERANGE, fmt::format("'{}' is too large a size; expected less than 8EiB", text)));
  return *sum;
}

std::string format_size(uint64_t bytes) {
  static constexpr std::array<Unit, 6> units{
      {{"EiB", EiB}, {"PiB", PiB}, {"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}}};
  for (const Unit& unit : units)
    if (bytes != 0 && bytes % unit.bytes == 0)
      return fmt::format("{}{}", bytes / unit.bytes, unit.name);
  return fmt::format("{}", bytes);
}

std::string format_size_rounded(uint64_t bytes) {
  static constexpr std::array<Unit, 6> units{
      {{"EiB", EiB}, {"PiB", PiB}, {"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}}};
  for (const Unit& unit : units) {
    if (bytes < unit.bytes) continue;
    if (bytes % unit.bytes == 0) return fmt::format("{}{}", bytes / unit.bytes, unit.name);
    return fmt::format("{:.2f}{}", static_cast<double>(bytes) / static_cast<double>(unit.bytes),
                       unit.name);
  }
  return fmt::format("{}B", bytes);
}

}  // namespace volfs
