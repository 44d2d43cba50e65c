// SPDX-License-Identifier: GPL-2.0-or-later
// Kinds that a definition may describe and that are not assembled by this version.
#include <fmt/format.h>

#include "assembler.h"

namespace volfs::engine {

void Assembler::build(const config::Array& array) {
  report(array.name.at,
         fmt::format("array '{}': this version does not assemble arrays", array.name.value));
}

}  // namespace volfs::engine
