// SPDX-License-Identifier: GPL-2.0-or-later
#include "args.h"

#include <fmt/format.h>
#include <strings.h>

#include "volfs/dm/table.h"
#include "volfs/units.h"

namespace volfs::dm {

Error bad_arg(std::string_view what, std::string_view text, std::string_view expected) {
  return Error::invalid(fmt::format("{} \"{}\": expected {}", what, text, expected));
}

Error bad_count(Args args, std::string_view expected) {
  return Error::invalid(fmt::format("{} argument{}: expected {}", args.size(),
                                    args.size() == 1 ? "" : "s", expected));
}

Result<uint64_t> sector_arg(std::string_view what, const std::string& text) {
  const auto value = parse_u64(text);
  if (!value) return fail(bad_arg(what, text, "a decimal number of 512-byte sectors"));
  if (*value > max_device_size / sector_size)
    return fail(
        bad_arg(what, text, fmt::format("at most {} sectors", max_device_size / sector_size)));
  return *value * sector_size;
}

Result<uint32_t> u32_arg(std::string_view what, const std::string& text, uint32_t least,
                         uint32_t most) {
  const auto value = parse_u64(text);
  if (!value || *value < least || *value > most)
    return fail(bad_arg(what, text, fmt::format("a number from {} to {}", least, most)));
  return static_cast<uint32_t>(*value);
}

Result<uint32_t> signed_u32_arg(std::string_view what, const std::string& text, uint32_t least,
                                uint32_t most) {
  return u32_arg(what, text.starts_with('+') ? text.substr(1) : text, least, most);
}

Result<BlockDevice*> device_arg(const TargetContext& context, const std::string& name) {
  return in(fmt::format("device \"{}\"", name), context.resolve(name));
}

bool same_word(std::string_view a, std::string_view b) {
  return a.size() == b.size() && strncasecmp(a.data(), b.data(), a.size()) == 0;
}

std::string device_word(const BlockDevice& device) {
  return escape_word(device.name());
}

}  // namespace volfs::dm
