// SPDX-License-Identifier: GPL-2.0-or-later
// A whole small image through what `volfs scan` and a read-only mount do with it: partition table,
// signatures, arrays, volume groups; every volume that comes out of it is read.
#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <vector>

#include "sparse_input.h"
#include "support/temp_dir.h"
#include "volfs/engine/engine.h"
#include "volfs/engine/scan.h"
#include "volfs/log.h"
#include "volfs/unique_fd.h"

using namespace volfs;

namespace {

constexpr uint64_t image_size = 32 * 1024 * 1024;

void read_volumes(engine::Engine& engine) {
  std::vector<std::byte> bytes(64 * 1024);
  engine.for_each_node([&](engine::Node& node) {
    BlockDevice& device = node.shown();
    if (device.size() < bytes.size()) return;
    (void)device.read(0, bytes);
    (void)device.read((device.size() - bytes.size()) / 4096 * 4096, bytes);
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  log_level(LogLevel::error);
  // One file, which is emptied for each input; a scan goes by its name.
  static const test::TempDir directory;
  const std::string path = directory.file("fuzz.img", 0);
  const UniqueFd file(open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!file || ftruncate(file.get(), 0) != 0 || ftruncate(file.get(), image_size) != 0)
    std::abort();
  test::for_each_record(data, size, image_size, [&](uint64_t offset, auto bytes) {
    if (pwrite(file.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset)) < 0)
      std::abort();
  });
  const auto scan = engine::scan_images({path}, {.force = true});
  if (!scan) return 0;
  const auto engine =
      engine::Engine::assemble(scan->definition, {.read_only = true, .force = true, .quiet = true});
  if (engine) read_volumes(**engine);
  return 0;
}
