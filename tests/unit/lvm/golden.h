// SPDX-License-Identifier: GPL-2.0-or-later
// Files that lvm2 made (tests/golden/lvm).
#pragma once

#include <string>

std::string golden(const std::string& name);
