// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/md/uuid.h"

#include <fmt/format.h>

#include <span>

#include "volfs/sync.h"

namespace volfs::md {

Uuid random_uuid() {
  Uuid uuid;
  random_bytes(std::as_writable_bytes(std::span(uuid.bytes)));
  return uuid;
}

std::string format_uuid(const Uuid& uuid) {
  std::string text;
  for (size_t i = 0; i < uuid.bytes.size(); ++i) {
    if (i != 0 && i % 4 == 0) text += ':';
    text += fmt::format("{:02x}", uuid.bytes[i]);
  }
  return text;
}

Result<Uuid> parse_uuid(std::string_view text) {
  Uuid uuid;
  size_t digits = 0;
  for (char c : text) {
    if (c == ':' || c == '-' || c == '.' || c == ' ') continue;
    int value = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
    if (value < 0 || digits == 32) {
      digits = 0;
      break;
    }
    auto& byte = uuid.bytes[digits / 2];
    byte = static_cast<uint8_t>(byte << 4 | value);
    ++digits;
  }
  if (digits != 32)
    return fail_invalid(fmt::format("\"{}\" is not a uuid: expected 32 hexadecimal digits", text));
  return uuid;
}

}  // namespace volfs::md
