// SPDX-License-Identifier: GPL-2.0-or-later
#include "factories.h"
#include "support/crash_device.h"
#include "support/fault_device.h"
#include "support/memory_device.h"
#include "volfs/units.h"

namespace volfs::test {
namespace {

Subject memory(const MemoryDevice::Options& options) {
  auto device = std::make_shared<MemoryDevice>("memory", MiB, options);
  return Subject::of(device, *device);
}

struct Faulty {
  MemoryDevice memory{"memory", MiB};
  FaultDevice device{memory};
};

struct Crashing {
  CrashLog log;
  CrashDevice device{log, "crash", 256 * KiB};
};

}  // namespace

void add_support_devices(Factories& all) {
  all.push_back({.name = "memory",
                 .make = [] { return memory({}); },
                 .make_read_only = [] { return memory({.read_only = true}); }});
  all.push_back({.name = "memory with garbage where it was discarded",
                 .make = [] { return memory({.discard = MemoryDevice::Discard::garbage}); }});
  all.push_back({.name = "memory with blocks of 4096 and no discard", .make = [] {
                   return memory({.limits = {.logical_block = 4096, .physical_block = 4096},
                                  .discard = MemoryDevice::Discard::unsupported});
                 }});
  all.push_back({.name = "fault device without faults", .make = [] {
                   auto all_of_it = std::make_shared<Faulty>();
                   return Subject::of(all_of_it, all_of_it->device);
                 }});
  all.push_back({.name = "crash device", .make = [] {
                   auto all_of_it = std::make_shared<Crashing>();
                   return Subject::of(all_of_it, all_of_it->device);
                 }});
}

}  // namespace volfs::test
