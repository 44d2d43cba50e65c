// SPDX-License-Identifier: GPL-2.0-or-later
#include "accounts.h"

#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>

#include <cerrno>
#include <limits>

#include "volfs/units.h"

namespace volfs::cli {
namespace {

Result<uint32_t> number_or(const std::string& text, bool found, uint32_t id, const char* what) {
  if (found) return id;
  const auto number = parse_u64(text);
  if (number && *number < std::numeric_limits<uint32_t>::max())
    return static_cast<uint32_t>(*number);
  return fail(Error::make(ENOENT, fmt::format("there is no {} '{}'", what, text)));
}

}  // namespace

Result<uid_t> user_number(const std::string& text) {
  const passwd* entry = getpwnam(text.c_str());
  return number_or(text, entry != nullptr, entry ? entry->pw_uid : 0, "user");
}

Result<gid_t> group_number(const std::string& text) {
  const group* entry = getgrnam(text.c_str());
  return number_or(text, entry != nullptr, entry ? entry->gr_gid : 0, "group");
}

}  // namespace volfs::cli
