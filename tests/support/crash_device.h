// SPDX-License-Identifier: GPL-2.0-or-later
// Power cuts. A CrashLog records what several disks were told, in the order in which it was
// completed, and can say what each of them holds when the power goes at any point: what a
// completed flush covered or FUA wrote, and of the rest any subset of 512-byte sectors.
//
//   CrashLog log;
//   CrashDevice a(log, "a", size), b(log, "b", size);
//   ... work ...
//   for (size_t point = 0; point <= log.size(); ++point) {
//     MemoryDevice after("a", size);
//     log.materialise(a, point, CrashKeep::some(seed), after);
//     ... assemble and check ...
//   }
#pragma once

#include <string>
#include <vector>

#include "support/memory_device.h"

namespace volfs::test {

class CrashDevice;

// What became of the sectors that no flush covers.
struct CrashKeep {
  enum class Kind : uint8_t { all, none, some };
  Kind kind;
  uint64_t seed;
  // As if every write had reached the disk at once: the plain prefix.
  static CrashKeep all() { return {Kind::all, 0}; }
  static CrashKeep none() { return {Kind::none, 0}; }
  // Each sector of each write by itself, and often whole writes, by the seed. What was under way
  // at the point may have reached the disk too (but not what began after a mark() there).
  static CrashKeep some(uint64_t seed) { return {Kind::some, seed}; }
};

struct CrashRecord {
  enum class Kind : uint8_t { write, discard, write_zeroes, flush, mark };
  const CrashDevice* device = nullptr;
  Kind kind = Kind::write;
  bool fua = false;
  uint64_t offset = 0;
  uint64_t length = 0;
  std::vector<std::byte> bytes;  // of a write
  size_t begun = 0;              // size of the log when it began; of a flush: what it covers
  std::string text;              // of a mark
};

// Thread-safe, except that `records` is only for when nothing is under way.
class CrashLog {
 public:
  // The number of records: the points at which the power can go are 0 to size().
  size_t size() const;
  const std::vector<CrashRecord>& records() const { return records_; }
  // A note in the log, for the test; the point just after it.
  size_t mark(std::string text);
  // Sets OUT to what DEVICE holds after a power cut at POINT.
  void materialise(const CrashDevice& device, size_t point, CrashKeep keep,
                   MemoryDevice& out) const;
  // Forgets the records; what the devices hold now is their (durable) start.
  void restart();

 private:
  friend class CrashDevice;
  void add(CrashRecord record);
  size_t durable_before(const CrashDevice& device, size_t point) const;
  mutable Mutex mutex_;
  std::vector<CrashRecord> records_;
  std::vector<CrashDevice*> devices_;
};

class CrashDevice final : public BlockDevice {
 public:
  CrashDevice(CrashLog& log, std::string name, uint64_t size);
  // Starts with the contents of START.
  CrashDevice(CrashLog& log, std::string name, const MemoryDevice& start);
  ~CrashDevice() override;

  // What it holds now, with all that was written.
  const MemoryDevice& contents() const { return now_; }

 private:
  friend class CrashLog;
  Status do_read(uint64_t offset, IoSpan iov) override;
  Status do_write(uint64_t offset, IoSpan iov, Fua fua) override;
  Status do_discard(uint64_t offset, uint64_t length) override;
  Status do_write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) override;
  Result<Allocation> do_allocation(uint64_t offset, uint64_t length) override;
  Status do_flush() override;
  Service do_service(Op op) const override;

  CrashLog& log_;
  MemoryDevice start_, now_;
};

}  // namespace volfs::test
