// SPDX-License-Identifier: GPL-2.0-or-later
// Kinds that a definition may describe and that are not assembled by this version.
#include <fmt/format.h>

#include "assembler.h"

namespace volfs::engine {

void Assembler::build(const config::Array& array) {
  report(array.name.at,
         fmt::format("array '{}': this version does not assemble arrays", array.name.value));
}

void Assembler::build(const config::VolumeGroup& group) {
  report(group.name.at, fmt::format("volume group '{}': this version does not activate volume groups",
                                    group.name.value));
}

void Assembler::build(const config::Snapshot& snapshot) {
  report(snapshot.name.at, fmt::format("snapshot '{}': this version does not assemble snapshots "
                                       "(a map with the snapshot target does)",
                                       snapshot.name.value));
}

}  // namespace volfs::engine
