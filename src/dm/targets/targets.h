// SPDX-License-Identifier: GPL-2.0-or-later
// The target types, each defined in the file of its name.
#pragma once

#include "volfs/dm/target.h"

namespace volfs::dm {

extern const TargetType linear_type;
extern const TargetType striped_type;
extern const TargetType zero_type;
extern const TargetType error_type;
extern const TargetType unstriped_type;
extern const TargetType delay_type;
extern const TargetType flakey_type;
extern const TargetType dust_type;
extern const TargetType mirror_type;
extern const TargetType raid_type;
extern const TargetType snapshot_type;
extern const TargetType snapshot_origin_type;
extern const TargetType snapshot_merge_type;

}  // namespace volfs::dm
