// SPDX-License-Identifier: GPL-2.0-or-later
// Disks of memory by name, and mapped devices over them.
#pragma once

#include <doctest/doctest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "support/memory_device.h"
#include "volfs/dm/mapped_device.h"
#include "volfs/units.h"

namespace volfs::test {

struct Lab {
  // disk0, disk1, ... of 4 MiB each unless more is said.
  explicit Lab(size_t count = 4, uint64_t size = 4 * MiB) {
    for (size_t i = 0; i < count; ++i) add("disk" + std::to_string(i), size);
  }
  MemoryDevice& add(const std::string& name, uint64_t size,
                    const MemoryDevice::Options& options = {}) {
    disks.push_back(std::make_unique<MemoryDevice>(name, size, options));
    names[name] = disks.back().get();
    return *disks.back();
  }
  void add(BlockDevice& device) { names[device.name()] = &device; }
  dm::Resolver resolver() {
    return [this](std::string_view name) -> Result<BlockDevice*> {
      const auto found = names.find(name);
      if (found == names.end()) return fail(Error::make(ENOENT, "no such device"));
      return found->second;
    };
  }
  Status load(dm::MappedDevice& map, std::string_view text, bool read_only = false) {
    auto rows = dm::parse_table(text);
    if (!rows) return fail(std::move(rows.error()));
    return map.load(*rows, resolver(), {.read_only = read_only});
  }
  // Loads and resumes; the text of an error is returned, else nothing.
  std::string set(dm::MappedDevice& map, std::string_view text, bool read_only = false) {
    if (auto loaded = load(map, text, read_only); !loaded) return loaded.error().text();
    if (auto resumed = map.resume(); !resumed) return resumed.error().text();
    return "";
  }

  std::vector<std::unique_ptr<MemoryDevice>> disks;
  std::map<std::string, BlockDevice*, std::less<>> names;
};

}  // namespace volfs::test
