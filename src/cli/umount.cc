// SPDX-License-Identifier: GPL-2.0-or-later
// volfs umount: flushes, unmounts, and waits for the daemon's end and its last word.
#include <fcntl.h>
#include <fmt/format.h>
#include <getopt.h>
#include <grp.h>
#include <poll.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <vector>

#include "cli.h"
#include "client.h"
#include "display.h"
#include "unmount.h"
#include "volfs/control/open_users.h"
#include "volfs/sync.h"

namespace volfs::cli {
namespace {

// What is known of a mount's daemon before it ends.
struct Daemon {
  pid_t pid = 0;
  int pid_fd = -1;                // readable when it has ended; -1: cannot be waited for
  std::vector<std::string> also;  // the ids of other mounts of the file system, which keep it alive
  int report_fd = -1;             // its last word, once it has ended; -1: may not be read
};

int open_report(pid_t pid, int fd) {
  const std::string path = fmt::format("/proc/{}/fd/{}", pid, fd);
  std::array<char, 256> target{};
  if (readlink(path.c_str(), target.data(), target.size() - 1) < 0) return -1;
  if (!std::string_view(target.data()).starts_with("/memfd:volfs")) return -1;
  return open(path.c_str(), O_RDONLY | O_CLOEXEC);
}

// The mounts that there are: what VISIT is told of each is its id, its device, its path and what
// else mountinfo says.
template <class Visit>
void for_each_mount(Visit visit) {
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    std::istringstream words(line);
    std::string id, parent, device, root, path;
    if (words >> id >> parent >> device >> root >> path) visit(id, device, path, line);
  }
}

struct MountId {
  std::string id, device;
};
std::optional<MountId> mount_id(const std::string& mountpoint) {
  struct statx status{};
  if (statx(AT_FDCWD, mountpoint.c_str(), AT_STATX_DONT_SYNC, STATX_MNT_ID, &status) != 0)
    return std::nullopt;
  return MountId{fmt::format("{}", uint64_t{status.stx_mnt_id}),
                 fmt::format("{}:{}", status.stx_dev_major, status.stx_dev_minor)};
}

// Who may unmount it with fusermount3, besides root.
std::optional<uid_t> user_of(const std::string& mountpoint) {
  constexpr std::string_view option = ",user_id=";
  const auto own = mount_id(mountpoint);
  std::optional<uid_t> user;
  for_each_mount([&](const std::string& id, const auto&, const auto&, const std::string& line) {
    const size_t at = line.rfind(option);
    if (own && id == own->id && at != std::string::npos)
      user = static_cast<uid_t>(std::strtoul(line.c_str() + at + option.size(), nullptr, 10));
  });
  return user;
}

// A bind mount keeps a file system alive. They are looked for before the unmount, for its device's
// number is another mount's soon after.
std::vector<std::string> other_mounts(const std::string& mountpoint) {
  const auto own = mount_id(mountpoint);
  if (!own) return {};
  std::vector<std::string> others;
  for_each_mount([&](const std::string& id, const std::string& device, const auto&, const auto&) {
    if (device == own->device && id != own->id) others.push_back(id);
  });
  return others;
}

// The path of one of them that is there still; empty if there is none.
std::string still_mounted(const std::vector<std::string>& ids) {
  std::string found;
  if (ids.empty()) return found;
  for_each_mount([&](const std::string& id, const auto&, const std::string& path, const auto&) {
    if (std::ranges::find(ids, id) != ids.end()) found = path;
  });
  return found;
}

Result<Daemon> find_daemon(const std::string& mountpoint) {
  VOLFS_TRY_ASSIGN(const auto info, request(mountpoint, {{"request", "mount.info"}}));
  Daemon daemon;
  daemon.also = other_mounts(mountpoint);
  daemon.pid = info.value("pid", 0);
  daemon.pid_fd = static_cast<int>(syscall(SYS_pidfd_open, daemon.pid, 0));
  daemon.report_fd = open_report(daemon.pid, info.value("report_fd", -1));
  return daemon;
}

// Flushing waits for I/O, and that of a suspended map waits until it is resumed.
Status check_suspended(const std::string& mountpoint) {
  VOLFS_TRY_ASSIGN(const auto status, request(mountpoint, {{"request", "status"}}));
  for (const auto& device : status["devices"])
    if (device.contains("map") && device["map"].value("suspended", false))
      return fail(Error::make(EBUSY, fmt::format("{}: '{}' is suspended; `volfs map resume {}/{}` "
                                                 "lets its I/O end",
                                                 mountpoint, device.value("name", ""), mountpoint,
                                                 device.value("name", ""))));
  return {};
}

Status flush_all(const std::string& mountpoint) {
  VOLFS_TRY(check_suspended(mountpoint));
  // First what the kernel still holds for the volumes, then the volumes themselves.
  if (const int fd = open(mountpoint.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); fd >= 0) {
    const int result = syncfs(fd);
    const int error = errno;
    close(fd);
    if (result != 0 && error != ENOSYS) return fail_sys(error, mountpoint + ": syncfs");
  }
  VOLFS_TRY(request(mountpoint, {{"request", "mount.sync"}}));
  return {};
}

Status wait_for_end(const Daemon& daemon) {
  for (int waits = 0; daemon.pid_fd >= 0; ++waits) {
    pollfd ended{daemon.pid_fd, POLLIN, 0};
    if (poll(&ended, 1, 250) > 0) break;
    if (const std::string where = still_mounted(daemon.also); !where.empty()) {
      fmt::print(stderr, "volfs: also mounted at {}: the daemon goes on\n", where);
      return {};
    }
    if (waits == 20)
      fmt::print(stderr, "volfs: waiting for the daemon, process {}, to write everything and end\n",
                 daemon.pid);
  }
  if (daemon.report_fd < 0) return {};
  std::array<char, 4096> text{};
  const ssize_t length = pread(daemon.report_fd, text.data(), text.size(), 0);
  if (length <= 0) return fail(Error::make(EIO, "the daemon ended without a last flush"));
  const std::string_view word(text.data(), static_cast<size_t>(length));
  if (word == "ok") return {};
  return fail(Error::make(EIO, std::string(word)));
}

Status remove_dead(const std::string& path) {
  VOLFS_TRY(unmount(path, Detach::yes));
  fmt::print(stderr, "volfs: {}: removed a mount whose daemon had ended\n", path);
  return {};
}

// Those who follow events have it open, too: they are told that it ends, and given a moment to let
// go. Not before nobody else is seen to use it: then it would go on, and they had been told wrong.
Status unmount_served(const std::string& mountpoint, Detach detach) {
  const std::string events = mountpoint + "/.volfs/events";
  const bool lazy = detach == Detach::yes;
  const TimePoint deadline = now() + std::chrono::seconds(1);
  for (bool told = false;;) {
    if (!told && (lazy || control::open_users(mountpoint, control::Below::yes, events).empty()))
      told = request(mountpoint, {{"request", "mount.ending"}, {"lazy", lazy}}).has_value();
    auto done = unmount(mountpoint, detach);
    if (done || done.error().code() != EBUSY) return done;
    if (now() < deadline) {
      sleep_for(std::chrono::milliseconds(20));
      continue;
    }
    const std::string users =
        to_string(control::open_users(mountpoint, control::Below::yes, events));
    if (users.empty()) return done;
    return fail(Error::make(EBUSY, fmt::format("{}: {}", done.error().text(), users)));
  }
}

// In whose name the mount at PATH answers.
struct Owner {
  uid_t user = 0;
  gid_t group = 0;
};
std::optional<Owner> owner_of_mount(const std::string& path) {
  // Whoever asks for nothing is told the device, and may be anybody.
  struct statx status{};
  if (statx(AT_FDCWD, path.c_str(), AT_STATX_DONT_SYNC, 0, &status) != 0) return std::nullopt;
  const std::string number = fmt::format("{}:{}", status.stx_dev_major, status.stx_dev_minor);
  const auto value = [](const std::string& options, std::string_view name) -> unsigned long {
    const size_t at = options.find(name);
    return at == std::string::npos ? 0 : std::strtoul(&options[at + name.size()], nullptr, 10);
  };
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    std::istringstream words(line);
    std::string skip, device, word, options;
    if (!(words >> skip >> skip >> device) || device != number) continue;
    while (words >> word && word != "-") continue;
    if (words >> word >> skip >> options && word == "fuse.volfs")
      return Owner{static_cast<uid_t>(value(options, "user_id=")),
                   static_cast<gid_t>(value(options, "group_id="))};
  }
  return std::nullopt;
}

// Becomes, for good, the user whose mount is at PATH: without allow_other it answers nobody else,
// root included. False if that is not for us, or is the case already.
bool become_owner(const std::string& path) {
  if (geteuid() != 0) return false;
  const auto owner = owner_of_mount(path);
  return owner && owner->user != 0 && setgroups(0, nullptr) == 0 &&
         setresgid(owner->group, owner->group, owner->group) == 0 &&
         setresuid(owner->user, owner->user, owner->user) == 0;
}

Status umount_command(const std::string& path, bool lazy, bool force) {
  auto target = find_target(path);
  if (!target && target.error().code() == EACCES && become_owner(path)) target = find_target(path);
  if (!target && target.error().code() == ENOTCONN) return remove_dead(path);
  if (!target && target.error().code() == EACCES) {
    // Another user's mount, who cannot be asked either.
    VOLFS_TRY(unmount(path, lazy ? Detach::yes : Detach::no));
    fmt::print(stderr, "volfs: {}: unmounted; its daemon cannot be waited for by this user\n",
               path);
    return {};
  }
  if (!target) return fail(Error(target.error()));
  if (!target->volume.empty())
    return fail_invalid(
        fmt::format("{}: not a mount point; the mount is {}", path, target->mountpoint));
  auto daemon = find_daemon(target->mountpoint);
  if (!daemon && daemon.error().code() == ENOTCONN) return remove_dead(path);
  if (!daemon) return fail(std::move(daemon.error()));
  if (auto flushed = flush_all(target->mountpoint); !flushed) {
    if (!force)
      return fail(Error::make(flushed.error().code(),
                              flushed.error().text() +
                                  "; still mounted (--force unmounts and loses what cannot be "
                                  "written)"));
    fmt::print(stderr, "volfs: {}\n", flushed.error().text());
  }
  VOLFS_TRY(unmount_served(target->mountpoint, lazy ? Detach::yes : Detach::no));
  if (lazy) return {};
  return in(target->mountpoint, wait_for_end(*daemon));
}

std::unexpected<Error> in_use(const std::string& mountpoint) {
  return fail(Error::make(
      EBUSY, fmt::format("{}: in use: a file is open or a process works in it", mountpoint)));
}

Status run_fusermount(const std::string& mountpoint, Detach detach) {
  std::string program = "fusermount3", unmount_flag = "-u", quiet = "-q", lazy_flag = "-z",
              end = "--", path = mountpoint;
  std::array<char*, 7> arguments{program.data(), unmount_flag.data(), quiet.data(), nullptr};
  size_t count = 3;
  if (detach == Detach::yes) arguments[count++] = lazy_flag.data();
  arguments[count++] = end.data();
  arguments[count] = path.data();
  pid_t child = 0;
  if (const int error =
          posix_spawnp(&child, program.c_str(), nullptr, nullptr, arguments.data(), environ);
      error != 0)
    return fail_sys(error, "fusermount3");
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  // Quiet fusermount3 gives no reason.
  if (const auto user = user_of(mountpoint); user && *user != getuid())
    return fail(Error::make(EPERM, fmt::format("{}: cannot be unmounted: it was mounted by user {}",
                                               mountpoint, *user)));
  return in_use(mountpoint);
}

}  // namespace

Status unmount(const std::string& mountpoint, Detach detach) {
  const int flags = UMOUNT_NOFOLLOW | (detach == Detach::yes ? MNT_DETACH : 0);
  if (umount2(mountpoint.c_str(), flags) == 0) return {};
  if (errno == EBUSY) return in_use(mountpoint);
  if (errno != EPERM) return fail_sys(errno, mountpoint);
  return run_fusermount(mountpoint, detach);
}

int umount_helper(int argc, char** argv) {
  constexpr int usage = 1, failure = 32;  // umount(8)'s exit statuses
  constexpr const char* help =
      "Usage: umount.volfs MOUNTPOINT [-flnrv] [-N NAMESPACE] [-t TYPE] [-O OPTIONS]\n"
      "Called by umount(8) for the types volfs and fuse.volfs; see mount.volfs(8).\n";
  bool lazy = false, force = false;
  optind = 1;
  for (int c = 0; (c = getopt(argc, argv, "flnrvhVN:t:O:")) != -1;) {
    switch (c) {
      case 'l':
        lazy = true;
        break;
      case 'f':
        force = true;
        break;
      case 'n':
      case 'r':  // a mount is not made read-only where it cannot be unmounted
      case 'v':
      case 'N':
      case 't':
      case 'O':
        break;
      case 'V':
        fmt::print("umount.volfs {}\n", VOLFS_VERSION);
        return 0;
      case 'h':
        fmt::print("{}", help);
        return 0;
      default:
        fmt::print(stderr, "{}", help);
        return usage;
    }
  }
  if (argc - optind != 1) {
    fmt::print(stderr, "{}", help);
    return usage;
  }
  if (auto done = umount_command(argv[optind], lazy, force); !done) {
    fmt::print(stderr, "umount.volfs: {}\n", done.error().text());
    return failure;
  }
  return 0;
}

void add_umount(CLI::App& app, Session& session) {
  struct Arguments {
    std::string path;
    bool lazy = false, force = false;
  };
  auto arguments = std::make_shared<Arguments>();
  auto* command = app.add_subcommand(
      "umount", "unmount; at return everything is on disk and the daemon has ended");
  command->add_option("MOUNTPOINT", arguments->path, "where it is mounted")->required();
  command->add_flag("-l,--lazy", arguments->lazy, "take it off the tree, end with its last user");
  command->add_flag("-f,--force", arguments->force, "unmount although data cannot be written");
  add_json_option(*command, session);
  set_examples(*command, "  volfs umount /mnt\n");
  command->callback([arguments, &session] {
    if (auto done = umount_command(arguments->path, arguments->lazy, arguments->force); !done)
      return session.fail(done.error());
    if (session.json) print_json({{"mountpoint", arguments->path}, {"unmounted", true}});
  });
}

}  // namespace volfs::cli
