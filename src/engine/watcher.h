// SPDX-License-Identifier: GPL-2.0-or-later
// Finds out by looking what arrays and maps do not tell by themselves, as mdadm --monitor and
// dmeventd do.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "volfs/engine/events.h"
#include "volfs/md/array.h"

namespace volfs::engine {

class Engine;

// What happened to an array between two looks.
std::vector<Event> array_events(const std::string& name, const md::ArrayStatus& before,
                                const md::ArrayStatus& after);
// What happened to a map between two looks at its status, as dmsetup prints it.
std::vector<Event> map_events(const std::string& name, const std::string& before,
                              const std::string& after);

// Looks five times a second while somebody follows; returns when the hub is stopped.
void watch_for_events(Engine& engine);

}  // namespace volfs::engine
