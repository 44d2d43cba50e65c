// SPDX-License-Identifier: GPL-2.0-or-later
// The devices that the contract suite runs over. Each room lists its own in one function, which
// factories.cc calls.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "volfs/block_device.h"

namespace volfs::test {

// A device and all it stands on, which goes with it.
struct Subject {
  BlockDevice* device = nullptr;  // null: not to be had here
  std::shared_ptr<void> keep;
  std::string skipped;  // why not

  // Of a struct that holds everything, with a member function or field giving the device.
  template <class Holder>
  static Subject of(std::shared_ptr<Holder> holder, BlockDevice& device) {
    return {&device, std::move(holder), {}};
  }
};

struct Factory {
  std::string name;
  // A fresh device, writable, of 128 KiB to 4 MiB, whose contents may be anything.
  std::function<Subject()> make;
  // The same, read-only; empty if there is no such thing.
  std::function<Subject()> make_read_only = {};
};
using Factories = std::vector<Factory>;

const Factories& all_factories();

// One a room.
void add_support_devices(Factories& all);
void add_images(Factories& all);
void add_arrays(Factories& all);

}  // namespace volfs::test
