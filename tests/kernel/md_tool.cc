// SPDX-License-Identifier: GPL-2.0-or-later
// Works on md images in one process, for the tests that compare with Linux.
//
//   md_tool create LEVEL LAYOUT CHUNK VERSION bitmap|nobitmap clean|resync SLOTS IMAGE...
//   md_tool [ro|rw] [force] [slow] IMAGE... -- OPERATION...
//
// LAYOUT is a name or "-"; an IMAGE of "missing" leaves the slot empty. Operations, in turn:
// put=FILE and get=FILE (the whole array), fail=, remove=, add=, replace=IMAGE, wait, half (lets a
// slow sync come half the way and no further), check (prints the sectors that do not agree),
// mdstat, size, patch=FILE (writes it at the start), die (ends at once, as if killed). Members are
// named by their paths. CREATE's word for the bitmap may be "ppl".
#include <fmt/format.h>

#include <unistd.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "volfs/backing/image.h"
#include "volfs/md/array.h"

namespace {

using namespace volfs;

constexpr size_t piece_size = 1 * MiB;

struct Images {
  std::vector<std::unique_ptr<FileImage>> open;
  Result<BlockDevice*> get(const std::string& path, bool read_only) {
    for (const auto& each : open)
      if (each->path() == path) return each.get();
    ImageOptions options;
    options.read_only = read_only;
    VOLFS_TRY_ASSIGN(auto image, FileImage::open(path, path, options));
    open.push_back(std::move(image));
    return open.back().get();
  }
};

Status put(BlockDevice& device, const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::vector<std::byte> bytes(piece_size);
  for (uint64_t at = 0; at < device.size(); at += bytes.size()) {
    bytes.resize(std::min<uint64_t>(piece_size, device.size() - at));
    if (!in.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size())))
      return fail_sys(EIO, path);
    VOLFS_TRY(device.write(at, bytes));
  }
  return device.flush();
}

Status get(BlockDevice& device, const std::string& path) {
  std::ofstream out(path, std::ios::binary);
  std::vector<std::byte> bytes(piece_size);
  for (uint64_t at = 0; at < device.size(); at += bytes.size()) {
    bytes.resize(std::min<uint64_t>(piece_size, device.size() - at));
    VOLFS_TRY(device.read(at, bytes));
    out.write(reinterpret_cast<const char*>(bytes.data()),
              static_cast<std::streamsize>(bytes.size()));
  }
  return out.flush() ? Status() : Status(fail_sys(EIO, path));
}

Status go_half_way(md::Array& array) {
  for (int i = 0; i < 3000; ++i) {
    const md::SyncProgress progress = array.progress();
    if (progress.size != 0 && progress.position >= progress.size / 2) {
      array.hold_sync(true);
      return {};
    }
    sleep_for(std::chrono::milliseconds(10));
  }
  return fail_sys(ETIMEDOUT, "no sync came half the way");
}

Status operate(md::Array& array, Images& images, const std::string& what) {
  const size_t equals = what.find('=');
  const std::string verb = what.substr(0, equals);
  const std::string value = equals == std::string::npos ? "" : what.substr(equals + 1);
  if (verb == "put") return put(array, value);
  if (verb == "get") return get(array, value);
  if (verb == "fail") return array.fail(value);
  if (verb == "remove") return array.remove(value);
  if (verb == "add") {
    VOLFS_TRY_ASSIGN(BlockDevice * device, images.get(value, false));
    return array.add(*device);
  }
  if (verb == "patch") {
    std::ifstream in(value, std::ios::binary);
    const std::string text(std::istreambuf_iterator<char>(in), {});
    return array.write(0, std::as_bytes(std::span(text)));
  }
  if (verb == "die") _exit(0);
  if (verb == "replace") return array.replace(value, "");
  if (verb == "half") return go_half_way(array);
  if (verb == "wait" || verb == "check") {
    if (verb == "check") VOLFS_TRY(array.check());
    if (!array.wait_sync()) return fail_sys(ETIMEDOUT, "wait");
    if (verb == "check") fmt::print("mismatch_cnt {}\n", array.status().mismatches / sector_size);
    return {};
  }
  if (verb == "mdstat") {
    fmt::print("{}", array.mdstat());
    return {};
  }
  if (verb == "size") {
    fmt::print("{}\n", array.size());
    return {};
  }
  return fail_invalid("no operation: " + what);
}

Status work(std::vector<std::string> arguments) {
  md::ArrayOptions options;
  Images images;
  std::vector<BlockDevice*> members;
  size_t i = 0;
  for (; i < arguments.size() && arguments[i] != "--"; ++i) {
    if (arguments[i] == "ro" || arguments[i] == "rw") {
      options.read_only = arguments[i] == "ro";
    } else if (arguments[i] == "force") {
      options.force = true;
    } else if (arguments[i] == "slow") {
      options.sync_speed_max = 4 * MiB;
    } else {
      VOLFS_TRY_ASSIGN(BlockDevice * device, images.get(arguments[i], options.read_only));
      members.push_back(device);
    }
  }
  options.safe_mode_delay = std::chrono::hours(1);  // clean when it is stopped
  VOLFS_TRY_ASSIGN(auto array, md::Array::assemble(members, options));
  for (++i; i < arguments.size(); ++i)
    VOLFS_TRY(in(arguments[i], operate(*array, images, arguments[i])));
  return array->stop();
}

Status create(const std::vector<std::string>& a) {
  if (a.size() < 8) return fail_invalid("create: too few arguments");
  md::CreateOptions o;
  VOLFS_TRY_ASSIGN(o.level, md::parse_level(a[0]));
  if (a[1] != "-") {
    VOLFS_TRY_ASSIGN(o.layout, md::parse_layout(o.level, a[1]));
  }
  VOLFS_TRY_ASSIGN(o.chunk, parse_size(a[2]));
  VOLFS_TRY_ASSIGN(o.version, md::parse_version(a[3]));
  o.bitmap = a[4] == "bitmap" ? md::BitmapChoice::internal : md::BitmapChoice::none;
  o.ppl = a[4] == "ppl";
  o.assume_clean = a[5] == "clean";
  VOLFS_TRY_ASSIGN(const uint64_t slots, parse_u64(a[6]));
  o.raid_disks = static_cast<uint32_t>(slots);
  o.name = "tool";
  o.now = 1700000000;
  Images images;
  std::vector<BlockDevice*> devices;
  for (size_t i = 7; i < a.size(); ++i) {
    md::CreateDevice device{.missing = a[i] == "missing"};
    devices.push_back(nullptr);
    if (!device.missing) {
      VOLFS_TRY_ASSIGN(devices.back(), images.get(a[i], false));
      device.size = devices.back()->size();
    }
    o.devices.push_back(device);
    o.device_uuids.emplace_back();
    o.device_uuids.back().bytes.fill(static_cast<uint8_t>(0x10 + i));
  }
  // One of its own for each first image, so that arrays do not meet.
  const uint64_t hash = std::hash<std::string>{}(a.back());
  o.uuid.bytes.fill(0x77);
  std::memcpy(o.uuid.bytes.data(), &hash, sizeof hash);
  VOLFS_TRY_ASSIGN(const md::CreatePlan plan, md::plan_create(o));
  return md::write_new_members(plan, devices);
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  Status status = fail_invalid("no arguments");
  if (!arguments.empty() && arguments[0] == "create")
    status = create({arguments.begin() + 1, arguments.end()});
  else if (!arguments.empty())
    status = work(std::move(arguments));
  if (status) return 0;
  fmt::print(stderr, "md_tool: {}\n", status.error().text());
  return 1;
}
