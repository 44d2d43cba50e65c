// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <system_error>

#include "accounts.h"
#include "cli.h"
#include "definition_file.h"
#include "notify.h"
#include "volfs/control/control.h"
#include "volfs/control/open_users.h"
#include "volfs/engine/engine.h"
#include "volfs/engine/scan.h"
#include "volfs/fuse/server.h"
#include "volfs/log.h"
#include "volfs/sync.h"

namespace volfs::cli {
namespace {

void say(std::string_view text) {
  fmt::print(stderr, "volfs: {}\n", text);
}

// The signals that end a mount, taken by a thread of their own: they are blocked everywhere else.
class SignalThread {
 public:
  static void block() {
    const sigset_t set = signals();
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
  }
  SignalThread(const std::string& mountpoint, fuse::Server& server, engine::Engine& engine) {
    auto thread = Thread::start("signals", [mountpoint, &server, &engine] {
      const sigset_t set = signals();
      int signal = 0;
      while (sigwait(&set, &signal) == 0 && signal != SIGUSR1)
        if (signal != SIGHUP) {
          // Requests that wait for a suspended map would keep the mount from ending.
          engine.release_suspended();
          const auto users = control::open_users(mountpoint, control::Below::yes);
          server.stop();
          if (users.empty()) continue;
          log_warning("{}: in use by {}: it is unmounted, and ends when they let go", mountpoint,
                      control::to_string(users));
          // Whoever grows tired of waiting may kill us.
          if (auto synced = engine.sync(); !synced) log_error("{}", synced.error().text());
        }
    });
    if (thread)
      thread_ = std::move(*thread);
    else
      log_warning("{}; signals are not handled", thread.error().text());
  }
  ~SignalThread() {
    if (thread_.joinable()) kill(getpid(), SIGUSR1);
  }

 private:
  static sigset_t signals() {
    sigset_t set;
    sigemptyset(&set);
    for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1}) sigaddset(&set, signal);
    return set;
  }
  Thread thread_;
};

// The pipe over which the daemon tells whoever started it how that went: one byte, the exit
// status. Nothing at all means that it died.
class Launch {
 public:
  // False: whoever started it has gone meanwhile (it was interrupted), and wants no mount.
  bool tell(int status) {
    if (fd_ < 0) return true;
    const auto byte = static_cast<unsigned char>(status);
    const bool told = write(fd_, &byte, 1) == 1;
    close(fd_);
    fd_ = -1;
    return told;
  }
  // Whether somebody has a mount.
  bool mounted() const { return mounted_; }
  void set_mounted() { mounted_ = true; }
  void set(int fd) { fd_ = fd; }
  bool detached() const { return detached_; }
  void detach() { detached_ = true; }

 private:
  int fd_ = -1;
  bool detached_ = false, mounted_ = false;
};

// As long as one lives the user's wish to end waits.
class Uninterrupted {
 public:
  Uninterrupted() {
    sigset_t ends;
    sigemptyset(&ends);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&ends, signal);
    pthread_sigmask(SIG_BLOCK, &ends, &before_);
  }
  ~Uninterrupted() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  Uninterrupted(const Uninterrupted&) = delete;
  Uninterrupted& operator=(const Uninterrupted&) = delete;

 private:
  sigset_t before_{};
};

// A directory where large files that outlive a restart belong.
Result<std::string> private_directory() {
  const char* const chosen = std::getenv("TMPDIR");
  std::string path = fmt::format("{}/volfs-rescue-XXXXXX", chosen && *chosen ? chosen : "/var/tmp");
  if (!mkdtemp(path.data())) return fail_sys(errno, path);
  return path;
}

// Leaves the terminal: messages go to the system's log from here on.
void leave_terminal() {
  log_to(LogSink::syslog);
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (null >= 0) dup2(null, fd);
  if (null > STDERR_FILENO) close(null);
  if (chdir("/") != 0) log_warning("chdir /: {}", strerror(errno));
}

fuse::Options server_options(const MountRequest& request, const engine::Engine& engine) {
  fuse::Options options;
  options.mountpoint = request.mountpoint;
  options.source = request.sources.front();
  options.options = request.options.for_kernel;
  options.read_only = engine.read_only();
  options.transport = request.options.transport;
  options.threads = request.options.threads;
  if (request.options.max_background != 0) options.max_background = request.options.max_background;
  options.writeback_cache = request.options.writeback_cache;
  options.direct_io = request.options.direct_io;
  options.debug = request.options.debug;
  return options;
}

void add_info_files(fuse::Server& server, const control::Control& control) {
  const std::array<std::pair<const char*, std::string (control::Control::*)() const>, 5> files{
      {{"mdstat", &control::Control::mdstat},
       {"table", &control::Control::table},
       {"status", &control::Control::status},
       {"status.json", &control::Control::status_json},
       {"metrics", &control::Control::metrics}}};
  for (const auto& [name, content] : files)
    server.add_info_file(
        {name, [&control, make = content]() -> Result<std::string> { return (control.*make)(); }});
}

Result<engine::AssembleOptions> assemble_options(const MountRequest& request) {
  engine::AssembleOptions options;
  options.directory = directory_of(request.sources.front());
  options.read_only = request.options.read_only;
  // Images given directly may be evidence: nothing is written unless that was asked for.
  options.overlay = request.options.overlay;
  if (!is_definition(request.sources.front()) && !options.read_only && options.overlay.empty())
    options.read_only = true;
  options.hidden = request.options.hidden;
  options.force = request.options.force;
  options.frozen = request.frozen;
  options.metadata_seqno = request.options.metadata_seqno;
  if (options.metadata_seqno) options.read_only = true;
  options.mode = request.options.mode;
  if (request.options.owner) {
    VOLFS_TRY_ASSIGN(options.owner, user_number(*request.options.owner));
  }
  if (request.options.group) {
    VOLFS_TRY_ASSIGN(options.group, group_number(*request.options.group));
  }
  return options;
}

// The daemon: assembles, mounts, serves to the end. The exit status.
int serve(const MountRequest& request, const Sources& sources, Launch& launch) {
  auto options = assemble_options(request);
  if (!options) {
    say(options.error().text());
    return exit_usage;
  }
  fuse::Options place;
  place.mountpoint = request.mountpoint;
  place.options = request.options.for_kernel;
  if (auto fits = fuse::Server::check(place); !fits) {
    say(fits.error().text());
    return exit_failed;
  }
  SignalThread::block();
  signal(SIGPIPE, SIG_IGN);  // nobody need read what is written
  options->unavailable = sources.unavailable;
  auto engine = engine::Engine::assemble(sources.definition, *options);
  if (!engine) {
    fmt::print(stderr, "{}", engine.error().to_string());
    return exit_failed;
  }
  auto server = fuse::Server::mount((*engine)->catalog(), server_options(request, **engine));
  if (!server) {
    say(server.error().text());
    return exit_failed;
  }
  // Whoever unmounts reads the last word here, when the process has ended.
  const int report = memfd_create("volfs-report", MFD_CLOEXEC);
  control::Control control(
      **engine, {request.mountpoint, [&server] { return (*server)->transport(); }, report});
  add_info_files(**server, control);
  (*server)->set_control(
      [&control](const std::string& text, const std::function<bool()>& abandoned) {
        return control.handle(text, abandoned);
      });
  (*server)->set_events((*engine)->events());
  if (auto watched = (*engine)->watch(); !watched) log_warning("{}", watched.error().text());
  Status served;
  {
    const SignalThread signals(request.mountpoint, **server, **engine);
    served = (*server)->serve([&] {
      if (request.verbosity > 0) log_info("requests come by {}", (*server)->transport_text());
      if (launch.detached()) leave_terminal();
      notify_service_manager("READY=1");
      if (launch.tell(exit_done)) return launch.set_mounted();
      log_warning("whoever asked for the mount has gone: it ends");
      (*server)->stop();
    });
  }
  notify_service_manager("STOPPING=1");
  server->reset();
  Status closed = (*engine)->close();
  if (!served) log_error("{}", served.error().text());
  if (!closed) log_error("the last flush failed: {}", closed.error().text());
  const Status& last = closed ? served : closed;
  const std::string word = last ? "ok" : last.error().text();
  if (report >= 0 && write(report, word.data(), word.size()) < 0)
    log_warning("report: {}", strerror(errno));
  return last ? exit_done : exit_failed;
}

int serve_and_clean_up(const MountRequest& request, const Sources& sources, Launch& launch) {
  const int status = serve(request, sources, launch);
  if (request.private_overlay && !launch.mounted()) {
    std::error_code ignored;
    std::filesystem::remove_all(request.options.overlay, ignored);
  }
  return status;
}

// Waits until the daemon says how the mount went.
int wait_for_launch(pid_t child, int fd) {
  unsigned char status = exit_failed;
  ssize_t got = 0;
  while ((got = read(fd, &status, 1)) < 0 && errno == EINTR) {
  }
  close(fd);
  if (got == 1) return status;
  int how = 0;
  while (waitpid(child, &how, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(how)) return WEXITSTATUS(how) == exit_done ? exit_failed : WEXITSTATUS(how);
  say(fmt::format("the daemon was killed by signal {} ({}) before it had mounted", WTERMSIG(how),
                  strsignal(WTERMSIG(how))));
  return exit_failed;
}

}  // namespace

int mount_volumes(const MountRequest& request) {
  const auto sources =
      load_sources(request.sources, {.force = request.options.force,
                                     .overlay = request.options.overlay,
                                     .metadata_seqno = request.options.metadata_seqno});
  if (!sources) {
    fmt::print(stderr, "{}", sources.error());
    return exit_usage;
  }
  return mount_sources(request, *sources);
}

int mount_sources(MountRequest request, const Sources& sources) {
  // The daemon changes its directory.
  if (char* whole = realpath(request.mountpoint.c_str(), nullptr)) {
    request.mountpoint = whole;
    free(whole);
  }
  if (!request.options.overlay.empty()) {
    const auto overlay = std::filesystem::weakly_canonical(request.options.overlay);
    const auto past = std::filesystem::relative(overlay, request.mountpoint);
    if (!past.empty() && *past.begin() != "..") {
      say(fmt::format("overlay {}: expected a directory that the mount at {} does not hide",
                      request.options.overlay, request.mountpoint));
      return exit_usage;
    }
    request.options.overlay = std::filesystem::absolute(request.options.overlay).string();
  }
  if (request.verbosity > 1 || request.options.debug) log_level(LogLevel::debug);
  std::array<int, 2> ends{};
  if (!request.foreground && pipe2(ends.data(), O_CLOEXEC) != 0) {
    say(fmt::format("pipe: {}", strerror(errno)));
    return exit_failed;
  }
  // Until there is a process that takes the directory away again.
  std::optional<Uninterrupted> uninterrupted;
  if (request.private_overlay) {
    uninterrupted.emplace();
    auto directory = private_directory();
    if (!directory) {
      say(directory.error().text());
      return exit_failed;
    }
    request.options.overlay = std::filesystem::absolute(*directory).string();
  }
  Launch launch;
  if (request.foreground) {
    if (under_service_manager()) log_to(LogSink::journal);
    return serve_and_clean_up(request, sources, launch);
  }
  // No thread runs yet, so the child may do anything.
  const pid_t child = fork();
  if (child < 0) {
    say(fmt::format("fork: {}", strerror(errno)));
    if (request.private_overlay) std::filesystem::remove(request.options.overlay);
    return exit_failed;
  }
  uninterrupted.reset();
  if (child > 0) {
    close(ends[1]);
    return wait_for_launch(child, ends[0]);
  }
  // What the caller had open (a lock, a pipe somebody reads to its end) is none of the daemon's.
  const auto kept = static_cast<unsigned>(ends[1]);
  if (kept > STDERR_FILENO + 1) close_range(STDERR_FILENO + 1, kept - 1, 0);
  close_range(kept + 1, UINT_MAX, 0);
  setsid();
  launch.set(ends[1]);
  launch.detach();
  const int status = serve_and_clean_up(request, sources, launch);
  launch.tell(status);
  fflush(nullptr);
  // Destructors of the parent's copies are its own affair.
  _exit(status);
}

}  // namespace volfs::cli
