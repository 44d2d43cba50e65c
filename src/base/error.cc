// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/error.h"

#include <cerrno>
#include <system_error>

namespace volfs {

Error Error::sys(int code, std::string_view what) {
  std::string text(what);
  if (!text.empty()) text += ": ";
  text += std::generic_category().message(code);
  return Error(code, std::move(text));
}

Error Error::invalid(std::string text) {
  return Error(EINVAL, std::move(text));
}

Error Error::in(std::string_view place) && {
  std::string text(place);
  text += ": ";
  text += text_;
  return Error(code_, std::move(text));
}

}  // namespace volfs
