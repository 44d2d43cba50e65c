// SPDX-License-Identifier: GPL-2.0-or-later
#include "ring_transport.h"

#include <fmt/format.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <mutex>
#include <string>

#include "volfs/log.h"
#include "volfs/units.h"

namespace volfs::fuse {
namespace {

// Where there are many CPUs, their queues begin with fewer entries each, so that the memory of all
// stays small.
constexpr unsigned most_entries = 48;

std::string line_of(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// Whether this process may run on CPU.
bool is_ours(unsigned cpu) {
  constexpr size_t most = 8192;
  const size_t size = CPU_ALLOC_SIZE(most);
  std::vector<std::byte> memory(size);
  auto* const set = reinterpret_cast<cpu_set_t*>(memory.data());
  return sched_getaffinity(0, size, set) == 0 && CPU_ISSET_S(cpu, size, set) != 0;
}

// What the CPUs of each thread are: first its own, then some that are offline.
Result<std::vector<std::vector<unsigned>>> distribute() {
  const auto possible = parse_cpu_list(line_of("/sys/devices/system/cpu/possible"));
  auto online = parse_cpu_list(line_of("/sys/devices/system/cpu/online"));
  if (possible.empty() || online.empty())
    return fail(Error::make(ENOENT, "/sys does not tell which CPUs there are"));
  // The kernel has one queue for each possible CPU and takes their numbers to be without gaps.
  if (possible.back() + 1 != possible.size())
    return fail(Error::make(EINVAL, "the numbers of the CPUs have gaps"));
  std::vector<std::vector<unsigned>> out;
  for (const unsigned cpu : online) {
    // Requests from there would wait for another CPU, longer than those that come by /dev/fuse.
    if (!is_ours(cpu)) return fail(Error::make(EPERM, fmt::format("CPU {} may not be used", cpu)));
    out.push_back({cpu});
  }
  size_t next = 0;
  for (const unsigned cpu : possible)
    if (std::ranges::find(online, cpu) == online.end()) out[next++ % out.size()].push_back(cpu);
  return out;
}

}  // namespace

std::vector<unsigned> parse_cpu_list(const std::string& text) {
  std::vector<unsigned> out;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at < end) {
    unsigned first = 0, last = 0;
    auto parsed = std::from_chars(at, end, first);
    if (parsed.ec != std::errc{}) return {};
    last = first;
    if (parsed.ptr < end && *parsed.ptr == '-') parsed = std::from_chars(parsed.ptr + 1, end, last);
    constexpr unsigned most = 65535;  // a queue's number has 16 bits
    if (parsed.ec != std::errc{} || last < first || last > most) return {};
    for (unsigned cpu = first; cpu <= last; ++cpu) out.push_back(cpu);
    at = parsed.ptr;
    if (at == end) break;
    if (*at != ',') return {};
    ++at;
  }
  return out;
}

RingTransport::~RingTransport() {
  give_up();
}

Status RingTransport::prepare(size_t most_data) {
  const size_t payload = round_up(std::max(most_data, least_payload), size_t{4096});
  VOLFS_TRY_ASSIGN(const auto groups, distribute());
  RingHost& host = *this;
  const auto cpus = static_cast<unsigned>(groups.size());
  const unsigned depth = std::clamp(most_entries / cpus, 2U, 8U);
  const unsigned most = std::clamp(most_entries / cpus, 8U, 32U);
  for (const std::vector<unsigned>& group : groups) {
    const std::vector<unsigned> others(group.begin() + 1, group.end());
    auto queue = std::make_unique<RingQueue>(host, group.front(), others, payload, depth, most);
    queues_.push_back(std::move(queue));
    VOLFS_TRY(queues_.back()->start());
  }
  return {};
}

void RingTransport::start() {
  active_.store(true);
  for (const auto& queue : queues_) queue->register_entries();
}

void RingTransport::give_up() {
  for (const auto& queue : queues_) queue->give_up();
  join();
}

void RingTransport::join() {
  for (const auto& queue : queues_) queue->join();
}

void RingTransport::refused(int error) {
  if (active_.exchange(false))
    log_warning("io_uring is refused by the kernel ({}): requests come by threads",
                std::strerror(error));
}

void RingTransport::process(RingEntry& entry) {
  const std::span<std::byte> all = entry.in_one_piece();
  {
    const std::lock_guard lock(mutex_);
    entry.next = std::exchange(bucket(entry.unique()), &entry);
  }
  fuse_buf buffer{};
  buffer.mem = all.data();
  buffer.size = all.size();
  set_request_in_hand(entry.unique());
  fuse_session_process_buf(session_, &buffer);
  set_request_in_hand(0);
}

bool RingTransport::answer(const iovec* iov, int count) {
  if (count < 1 || iov[0].iov_len != sizeof(fuse_out_header)) return false;
  fuse_out_header out;
  std::memcpy(&out, iov[0].iov_base, sizeof out);
  if (out.unique == 0) return false;  // a notification
  RingEntry* entry = nullptr;
  {
    const std::lock_guard lock(mutex_);
    RingEntry** link = &bucket(out.unique);
    while (*link && (*link)->unique() != out.unique) link = &(*link)->next;
    entry = *link;
    if (entry) *link = entry->next;
  }
  if (!entry) return false;
  if (!entry->answer_with(iov, count)) {
    log_error("an answer of {} bytes has no room in a ring", out.len);
    entry->answer(EIO, 0);
  }
  entry->queue().commit(*entry);
  return true;
}

}  // namespace volfs::fuse
