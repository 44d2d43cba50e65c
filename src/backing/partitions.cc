// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/backing/partitions.h"

#include <blkid/blkid.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>

#include <array>
#include <cerrno>
#include <memory>
#include <string_view>

#include "backing/claim.h"
#include "volfs/endian.h"
#include "volfs/unique_fd.h"
#include "volfs/units.h"

namespace volfs {
namespace {

struct FreeProbe {
  void operator()(blkid_probe probe) const { blkid_free_probe(probe); }
};
using Probe = std::unique_ptr<std::remove_pointer_t<blkid_probe>, FreeProbe>;

// A table or a chain of signatures longer than this is damage or malice.
constexpr int most_partitions = 4096;
constexpr int most_signatures = 64;

std::string text_of(const char* text) {
  return text ? text : "";
}

Result<Probe> make_probe(int fd, const std::string& path, uint64_t offset, uint64_t length) {
  Probe probe(blkid_new_probe());
  if (!probe) return fail_sys(ENOMEM, path);
  errno = 0;
  if (blkid_probe_set_device(probe.get(), fd, static_cast<blkid_loff_t>(offset),
                             static_cast<blkid_loff_t>(length)) != 0)
    return fail_sys(errno != 0 ? errno : EIO, path + ": probe");
  return probe;
}

Partition convert(blkid_partition from) {
  Partition to;
  to.number = static_cast<unsigned>(std::max(blkid_partition_get_partno(from), 0));
  // libblkid counts in sectors of 512 bytes, whatever those of the disk are.
  const auto start =
      checked_mul(static_cast<uint64_t>(blkid_partition_get_start(from)), sector_size);
  const auto length =
      checked_mul(static_cast<uint64_t>(blkid_partition_get_size(from)), sector_size);
  to.offset = start.value_or(max_device_size);
  to.length = length.value_or(max_device_size);
  to.name = text_of(blkid_partition_get_name(from));
  to.uuid = text_of(blkid_partition_get_uuid(from));
  const char* type = blkid_partition_get_type_string(from);
  to.type =
      type ? type : fmt::format("{:#04x}", static_cast<unsigned>(blkid_partition_get_type(from)));
  to.extended = blkid_partition_is_extended(from) != 0;
  return to;
}

// SECTOR 0: what the device says.
Result<std::vector<Partition>> partitions_by(int fd, const std::string& path, unsigned sector,
                                             std::string* table) {
  VOLFS_TRY_ASSIGN(const Probe probe, make_probe(fd, path, 0, 0));
  if (sector != 0) blkid_probe_set_sectorsize(probe.get(), sector);
  blkid_probe_enable_partitions(probe.get(), 1);
  blkid_probe_set_partitions_flags(probe.get(), BLKID_PARTS_ENTRY_DETAILS);
  std::vector<Partition> all;
  errno = 0;
  blkid_partlist list = blkid_probe_get_partitions(probe.get());
  if (!list) {
    if (errno != 0 && errno != ENOENT && errno != EINVAL) return fail_sys(errno, path + ": probe");
    return all;
  }
  // Without a disk's table there are "partitions" of a boot sector that is a file system's.
  const char* type = nullptr;
  if (blkid_do_fullprobe(probe.get()) == 0) {
    size_t length = 0;
    blkid_probe_lookup_value(probe.get(), "PTTYPE", &type, &length);
  }
  *table = text_of(type);
  const int count = blkid_partlist_numof_partitions(list);
  for (int i = 0; i < count && i < most_partitions; ++i)
    if (blkid_partition part = blkid_partlist_get_partition(list, i)) all.push_back(convert(part));
  return all;
}

}  // namespace

namespace {

// What is of the size SIZE and begins as the image does: libblkid does not believe a GPT that ends
// beyond the file.
Result<UniqueFd> padded(int fd, const std::string& path, uint64_t size) {
  UniqueFd copy(memfd_create("volfs-table", MFD_CLOEXEC));
  if (!copy || ::ftruncate(copy.get(), static_cast<off_t>(size)) != 0)
    return fail_sys(errno, path + ": probe");
  std::vector<std::byte> head(1 * MiB);  // more than any table of a GPT
  const ssize_t got = ::pread(fd, head.data(), head.size(), 0);
  if (got < 0 || ::pwrite(copy.get(), head.data(), static_cast<size_t>(got), 0) != got)
    return fail_sys(errno, path);
  return copy;
}

}  // namespace

Result<std::vector<Partition>> list_partitions(int fd, const std::string& path, uint64_t size) {
  if (size != 0) {
    VOLFS_TRY_ASSIGN(const UniqueFd whole, padded(fd, path, size));
    return list_partitions(whole.get(), path, 0);
  }
  std::string table;
  VOLFS_TRY_ASSIGN(auto partitions, partitions_by(fd, path, 0, &table));
  struct stat st{};
  if (table == "gpt" || ::fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) return partitions;
  // An image of a disk with sectors of 4096 bytes: read by 512, its GPT is not found, or only
  // the MBR that protects it.
  const bool protective = partitions.size() == 1 && partitions.front().type == "0xee";
  if (!partitions.empty() && !protective) return partitions;
  VOLFS_TRY_ASSIGN(auto large, partitions_by(fd, path, 4096, &table));
  if (table == "gpt") return large;
  return partitions;
}

Result<std::vector<Partition>> list_partitions(const std::string& path, uint64_t size) {
  VOLFS_TRY(stat_image(path));
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!fd) return fail_sys(errno, path);
  return list_partitions(fd.get(), path, size);
}

uint64_t partitioned_size(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  for (const uint64_t sector : {uint64_t{512}, uint64_t{4096}}) {
    // UEFI 5.3.2: the signature, and from byte 32 on the LBA of the header at the disk's end.
    struct {
      std::array<char, 8> signature;
      std::array<std::byte, 24> other;
      Le64 alternate;
    } header{};
    static_assert(sizeof header == 40);
    if (!fd || ::pread(fd.get(), &header, sizeof header, static_cast<off_t>(sector)) !=
                   static_cast<ssize_t>(sizeof header))
      return 0;
    if (std::string_view(header.signature.data(), 8) != "EFI PART") continue;
    if (header.alternate < max_device_size / sector) return (header.alternate + 1) * sector;
  }
  return 0;
}

Result<std::vector<Signature>> probe_signatures(const std::string& path, uint64_t offset,
                                                uint64_t length) {
  VOLFS_TRY(stat_image(path));
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!fd) return fail_sys(errno, path);
  VOLFS_TRY_ASSIGN(const Probe probe, make_probe(fd.get(), path, offset, length));
  blkid_probe_enable_superblocks(probe.get(), 1);
  blkid_probe_set_superblocks_flags(probe.get(), BLKID_SUBLKS_MAGIC | BLKID_SUBLKS_TYPE |
                                                     BLKID_SUBLKS_USAGE | BLKID_SUBLKS_LABEL |
                                                     BLKID_SUBLKS_UUID | BLKID_SUBLKS_BADCSUM);
  blkid_probe_enable_partitions(probe.get(), 1);
  blkid_probe_set_partitions_flags(probe.get(), BLKID_PARTS_MAGIC);
  const auto value = [&probe](const char* name) {
    const char* text = nullptr;
    blkid_probe_lookup_value(probe.get(), name, &text, nullptr);
    return text_of(text);
  };
  std::vector<Signature> all;
  int found = 0;
  while (all.size() < most_signatures && (found = blkid_do_probe(probe.get())) == 0) {
    Signature signature;
    signature.type = value("TYPE");
    std::string at = value("SBMAGIC_OFFSET");
    if (signature.type.empty()) {
      signature.type = value("PTTYPE");
      signature.usage = "partition table";
      signature.uuid = value("PTUUID");
      at = value("PTMAGIC_OFFSET");
    } else {
      signature.usage = value("USAGE");
      signature.label = value("LABEL");
      signature.uuid = value("UUID");
    }
    if (signature.type.empty()) continue;
    signature.offset = parse_u64(at).value_or(0);
    all.push_back(std::move(signature));
  }
  if (found < 0) return fail_sys(EIO, path + ": probe");
  return all;
}

std::string describe(const Signature& signature) {
  std::string text = signature.type;
  text += signature.usage == "filesystem" ? " file system"
          : signature.usage == "raid" || signature.usage == "crypto" || signature.usage == "other"
              ? " signature"
              : " " + signature.usage;
  if (!signature.label.empty()) text += fmt::format(", label \"{}\"", signature.label);
  if (!signature.uuid.empty()) text += ", UUID " + signature.uuid;
  return text + fmt::format(", at {}", signature.offset);
}

}  // namespace volfs
