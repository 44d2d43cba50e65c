// SPDX-License-Identifier: GPL-2.0-or-later
// Words of messages.
#pragma once

#include <string>

#include "volfs/engine/graph.h"

namespace volfs::engine {

// "a map", "an image".
inline std::string one_of(Kind kind) {
  const bool plain = kind == Kind::map || kind == Kind::snapshot;
  return (plain ? "a " : "an ") + std::string(to_string(kind));
}

}  // namespace volfs::engine
