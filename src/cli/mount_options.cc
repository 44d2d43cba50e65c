// SPDX-License-Identifier: GPL-2.0-or-later
#include "mount_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "volfs/units.h"

namespace volfs::cli {
namespace {

// What mount(8), fstab(5) and systemd.mount(5) know and the file system does not see.
constexpr std::array ignored{"defaults", "auto", "noauto", "nofail", "_netdev", "user", "nouser",
                             "users", "nousers", "owner", "noowner", "group", "nogroup", "async",
                             "loud", "silent", "mand", "nomand", "default_permissions",
                             // How times of access are kept means nothing to FUSE, whose server
                             // keeps them, and there are no links to follow.
                             "diratime", "nodiratime", "relatime", "norelatime", "strictatime",
                             "nostrictatime", "lazytime", "nolazytime", "iversion", "noiversion",
                             "nosymfollow", "symfollow"};
// mount(8) adds the name of an ordinary user who may mount (user=) and of helpers to unmount.
constexpr std::array ignored_prefixes{
    "x-", "X-", "comment=", "subtype=", "user=", "uhelper=", "helper=", "fsname="};
// What the kernel or fusermount3 takes as it is.
constexpr std::array passed{"allow_other", "allow_root", "dev",   "nodev",   "suid", "nosuid",
                            "exec",        "noexec",     "atime", "noatime", "sync", "dirsync"};
constexpr std::array passed_prefixes{"context=", "fscontext=", "defcontext=", "rootcontext="};

template <class List>
bool among(const List& list, std::string_view option) {
  return std::ranges::find(list, option) != list.end();
}
template <class List>
bool begins_as(const List& list, std::string_view option) {
  return std::ranges::any_of(list, [&](std::string_view p) { return option.starts_with(p); });
}

Result<unsigned> number(std::string_view option, std::string_view value, unsigned least,
                        unsigned most) {
  const auto parsed = parse_u64(value);
  if (!parsed || *parsed < least || *parsed > most)
    return fail_invalid(
        fmt::format("mount option '{}': expected a number from {} to {}", option, least, most));
  return static_cast<unsigned>(*parsed);
}

Result<unsigned> mode_bits(std::string_view option, std::string_view value) {
  unsigned mode = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), mode, 8);
  if (error != std::errc{} || end != value.data() + value.size() || mode > 0777)
    return fail_invalid(
        fmt::format("mount option '{}': expected permission bits in octal, as 0640", option));
  return mode;
}

// Options with a value: false if NAME is none of them.
Result<bool> take_valued(std::string_view option, std::string_view name, std::string_view value,
                         MountOptions& options) {
  if (name == "transport") {
    if (value != "auto" && value != "ring" && value != "threads")
      return fail_invalid(fmt::format("mount option '{}': expected auto, ring or threads", option));
    options.transport = value == "ring"      ? fuse::Transport::ring
                        : value == "threads" ? fuse::Transport::threads
                                             : fuse::Transport::automatic;
  } else if (name == "threads") {
    VOLFS_TRY_ASSIGN(options.threads, number(option, value, 1, 64));
  } else if (name == "max_background") {
    VOLFS_TRY_ASSIGN(options.max_background, number(option, value, 1, 65535));
  } else if (name == "metadata") {
    VOLFS_TRY_ASSIGN(options.metadata_seqno, number(option, value, 1, UINT32_MAX));
  } else if (name == "mode") {
    VOLFS_TRY_ASSIGN(options.mode, mode_bits(option, value));
  } else if (name == "overlay") {
    if (value.empty())
      return fail_invalid(fmt::format("mount option '{}': expected a directory", option));
    options.overlay = value;
  } else if (name == "uid" || name == "gid") {
    if (value.empty())
      return fail_invalid(fmt::format("mount option '{}': expected a number or a name", option));
    (name == "uid" ? options.owner : options.group) = value;
  } else {
    return false;
  }
  return true;
}

Status take(std::string_view option, MountOptions& options) {
  if (option == "remount")
    return fail_invalid(
        "mount option 'remount': a mount is not changed; expected it to be unmounted and mounted "
        "again with other options");
  if (option == "ro" || option == "rw") {
    options.read_only = option == "ro";
  } else if (option == "writeback_cache") {
    options.writeback_cache = true;
  } else if (option == "direct_io") {
    options.direct_io = true;
  } else if (option == "hidden") {
    options.hidden = true;
  } else if (option == "force") {
    options.force = true;
  } else if (option == "debug") {
    options.debug = true;
  } else if (among(passed, option) || begins_as(passed_prefixes, option)) {
    options.for_kernel.emplace_back(option);
  } else if (!among(ignored, option) && !begins_as(ignored_prefixes, option)) {
    const size_t equals = option.find('=');
    if (equals != std::string_view::npos) {
      VOLFS_TRY_ASSIGN(const bool known, take_valued(option, option.substr(0, equals),
                                                     option.substr(equals + 1), options));
      if (known) return {};
    }
    return fail_invalid(
        fmt::format("unknown mount option '{}'; mount.volfs(8) lists those there are", option));
  }
  return {};
}

}  // namespace

Status parse_mount_options(std::string_view text, MountOptions& options, bool sloppy) {
  // A comma inside double quotes belongs to the value: SELinux contexts contain them.
  while (!text.empty()) {
    size_t end = 0;
    bool quoted = false;
    while (end < text.size() && (quoted || text[end] != ',')) {
      if (text[end] == '"') quoted = !quoted;
      ++end;
    }
    if (auto taken = take(text.substr(0, end), options); end > 0 && !taken && !sloppy) return taken;
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  if (among(options.for_kernel, "allow_other") && among(options.for_kernel, "allow_root"))
    return fail_invalid("mount options 'allow_other' and 'allow_root' exclude each other");
  return {};
}

}  // namespace volfs::cli
