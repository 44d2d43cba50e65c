// SPDX-License-Identifier: GPL-2.0-or-later
// What the editing functions share.
#pragma once

#include <fmt/format.h>

#include <string>
#include <vector>

#include "lvm/allocate.h"
#include "volfs/lvm/edit.h"

namespace volfs::lvm {

// Runs CHANGE on a copy, validates it, and takes it over only if all is well.
template <class Change>
auto edit(VolumeGroup& group, std::string_view place, Change change) -> decltype(change(group)) {
  VolumeGroup copy = group;
  auto result = change(copy);
  if (!result) return fail(std::move(result.error()).in(place));
  validate(copy);
  for (const LogicalVolume& lv : copy.lvs)
    if (!lv.problem.empty())
      return fail(Error::invalid(fmt::format("{}: {}", lv.name, lv.problem)).in(place));
  if (!copy.problems.empty()) return fail(Error::invalid(copy.problems.front()).in(place));
  group = std::move(copy);
  return result;
}

// A new LV at the end of lvs; its index.
uint32_t add_lv(VolumeGroup& group, std::string name, const IdSource& ids,
                const Provenance& provenance, bool visible, bool writable);
Status check_new_name(const VolumeGroup& group, std::string_view name);
// An LV that stands alone may be changed: visible, sound, not being moved.
Status check_changeable(const VolumeGroup& group, uint32_t lv);

// Adds pieces to an LV as linear segments, joining what is adjacent.
void append_linear(LogicalVolume& lv, const std::vector<Piece>& pieces);
// Adds a striped segment for each piece of the legs.
void append_striped(LogicalVolume& lv, const std::vector<std::vector<Piece>>& legs,
                    uint64_t stripe_size);
// Cuts an LV of linear, striped, error or zero segments down to EXTENTS.
Status cut(LogicalVolume& lv, uint32_t extents);

// Puts a status word where lvm2 has it.
void set_status(Words& status, std::string_view word, bool wanted);

}  // namespace volfs::lvm
