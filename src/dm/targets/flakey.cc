// SPDX-License-Identifier: GPL-2.0-or-later
// flakey <device> <start sector> <up seconds> <down seconds> [<number of words> <feature>...]:
// a linear range that misbehaves in the down intervals. Features:
//   error_reads, error_writes            fail with EIO (both, if no feature is given)
//   drop_writes                          say that writes succeeded and forget them
//   corrupt_bio_byte <n> <r|w> <value> <flags>   set the n-th byte (from 1) of a request
//   random_read_corrupt <p>, random_write_corrupt <p>   set a random byte of one request in 10^9/p
// A request is what reaches the target in one piece. FLAGS are bits of the kernel's bi_opf that a
// request must have; requests here have bit 0 (write) and bit 17 (FUA) at most.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cerrno>

#include "../args.h"
#include "targets.h"
#include "volfs/inline_vector.h"
#include "volfs/sync.h"
#include "volfs/units.h"

namespace volfs::dm {
namespace {

constexpr uint32_t probability_base = 1'000'000'000;
constexpr uint32_t flag_write = 1;
constexpr uint32_t flag_fua = 1u << 17;

struct Features {
  bool error_reads = false, error_writes = false, drop_writes = false;
  uint32_t corrupt_byte = 0;  // counted from 1; 0: none
  bool corrupt_writes = false;
  uint32_t corrupt_value = 0, corrupt_flags = 0;
  uint32_t random_read = 0, random_write = 0;

  bool corrupts_read() const { return (corrupt_byte > 0 && !corrupt_writes) || random_read > 0; }
  bool corrupts_write() const { return (corrupt_byte > 0 && corrupt_writes) || random_write > 0; }
};

struct Place {
  BlockDevice* device;
  uint64_t offset;
  uint32_t up, down;  // seconds
};

class Flakey final : public Target {
 public:
  Flakey(const TargetContext& context, const Place& place, const Features& features)
      : Target(flakey_type, context),
        place_(place),
        features_(features),
        start_time_(now()),
        random_(static_cast<uint64_t>(wall_clock().count())) {
    inherit_limits();
  }
  std::string table_params() const override;
  void for_each_range(const VisitRange& visit) const override {
    visit(*place_.device, place_.offset, size());
  }
  bool flush_is_plain() const override { return false; }

 private:
  bool do_map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) override;
  Status do_read(uint64_t offset, IoSpan iov) override;
  Status do_write(uint64_t offset, IoSpan iov, Fua fua) override;
  Status do_flush() override;

  bool down() const;
  uint64_t random();
  bool happens(uint32_t probability) {
    return probability > 0 && random() % probability_base < probability;
  }
  bool fixed_hits(uint32_t flags, uint64_t length) const {
    return features_.corrupt_byte > 0 && features_.corrupt_byte <= length &&
           (flags & features_.corrupt_flags) == features_.corrupt_flags;
  }

  const Place place_;
  const Features features_;
  const TimePoint start_time_;
  std::atomic<uint64_t> random_;
};

bool Flakey::down() const {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(now() - start_time_);
  const uint64_t period = uint64_t{place_.up} + place_.down;
  return static_cast<uint64_t>(seconds.count()) % period >= place_.up;
}

// splitmix64: any number of threads, and under a simulated clock the same numbers again.
uint64_t Flakey::random() {
  uint64_t z = random_.fetch_add(0x9e3779b97f4a7c15, std::memory_order_relaxed);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

bool Flakey::do_map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) {
  if (down()) {
    const bool read = op == Op::read;
    if (read ? features_.error_reads : features_.error_writes) {
      out.add_error(EIO, length);
      return true;
    }
    if (!read && features_.drop_writes) {
      out.add_zero(length);
      return true;
    }
    if (read ? features_.corrupts_read() : op == Op::write && features_.corrupts_write()) {
      out.add(*this, offset, length);
      return true;
    }
  }
  return place_.device->map(op, place_.offset + offset, length, wait, out);
}

Status Flakey::do_read(uint64_t offset, IoSpan iov) {
  const bool bad = down();
  if (bad && features_.error_reads) return fail_sys(EIO, "");
  VOLFS_TRY(place_.device->read(place_.offset + offset, iov));
  if (!bad) return {};
  const uint64_t length = total_length(iov);
  const auto set = [iov](uint64_t at, std::byte value) { copy_to_slices(iov, at, {&value, 1}); };
  if (!features_.corrupt_writes && fixed_hits(0, length))
    set(features_.corrupt_byte - 1, std::byte(features_.corrupt_value));
  if (happens(features_.random_read)) {
    const uint64_t value = random();
    set(random() % length, std::byte(value & 0xff));
  }
  return {};
}

// Writes the list with one byte replaced, without touching the writer's memory.
Status write_with(BlockDevice& device, uint64_t offset, IoSpan iov, Fua fua, uint64_t at,
                  std::byte value) {
  InlineVector<iovec, 20> pieces;
  const auto take = [&pieces](iovec piece) { pieces.push_back(piece); };
  for_each_slice(iov, 0, at, take);
  pieces.push_back({&value, 1});
  for_each_slice(iov, at + 1, total_length(iov) - at - 1, take);
  return device.write(offset, IoSpan(pieces.data(), pieces.size()), fua);
}

Status Flakey::do_write(uint64_t offset, IoSpan iov, Fua fua) {
  BlockDevice& device = *place_.device;
  const uint64_t at = place_.offset + offset;
  if (!down()) return device.write(at, iov, fua);
  if (features_.error_writes) return fail_sys(EIO, "");
  if (features_.drop_writes) return {};
  const uint64_t length = total_length(iov);
  const uint32_t flags = flag_write | (fua == Fua::yes ? flag_fua : 0);
  // A random byte comes after the fixed one and wins; the kernel sets both, and so do we.
  std::byte fixed{static_cast<unsigned char>(features_.corrupt_value)};
  const bool fixed_hit = features_.corrupt_writes && fixed_hits(flags, length);
  if (happens(features_.random_write)) {
    const std::byte value{static_cast<unsigned char>(random() & 0xff)};
    const uint64_t where = random() % length;
    if (!fixed_hit || where == features_.corrupt_byte - 1)
      return write_with(device, at, iov, fua, where, value);
    InlineVector<iovec, 20> pieces;
    const auto take = [&pieces](iovec piece) { pieces.push_back(piece); };
    const uint64_t second = features_.corrupt_byte - 1;
    for_each_slice(iov, 0, second, take);
    pieces.push_back({&fixed, 1});
    for_each_slice(iov, second + 1, length - second - 1, take);
    return write_with(device, at, IoSpan(pieces.data(), pieces.size()), fua, where, value);
  }
  if (fixed_hit) return write_with(device, at, iov, fua, features_.corrupt_byte - 1, fixed);
  return device.write(at, iov, fua);
}

Status Flakey::do_flush() {
  if (down()) {
    if (features_.error_writes) return fail_sys(EIO, "");
    if (features_.drop_writes) return {};
  }
  return place_.device->flush();
}

std::string Flakey::table_params() const {
  const Features& f = features_;
  std::string words;
  if (f.error_reads) words += " error_reads";
  if (f.drop_writes) words += " drop_writes";
  if (f.error_writes) words += " error_writes";
  if (f.corrupt_byte > 0)
    words += fmt::format(" corrupt_bio_byte {} {} {} {}", f.corrupt_byte,
                         f.corrupt_writes ? 'w' : 'r', f.corrupt_value, f.corrupt_flags);
  if (f.random_read > 0) words += fmt::format(" random_read_corrupt {}", f.random_read);
  if (f.random_write > 0) words += fmt::format(" random_write_corrupt {}", f.random_write);
  return fmt::format("{} {} {} {} {}{}", device_word(*place_.device), place_.offset / sector_size,
                     place_.up, place_.down, std::count(words.begin(), words.end(), ' '), words);
}

// Reads the features, one after the other, from the words after their count.
class FeatureReader {
 public:
  explicit FeatureReader(Args words) : words_(words) {}
  Result<Features> read();

 private:
  Status one(const std::string& name);
  Status flag(const std::string& name, bool& set);
  Status corrupt();
  Status random(const std::string& name, uint32_t& probability);
  Status check() const;

  Args words_;
  Features out_;
};

Status FeatureReader::flag(const std::string& name, bool& set) {
  if (std::exchange(set, true)) return fail_invalid(fmt::format("feature {}: given twice", name));
  if (out_.drop_writes && out_.error_writes)
    return fail_invalid("feature drop_writes: expected not together with error_writes");
  return {};
}

Status FeatureReader::corrupt() {
  if (words_.size() < 4)
    return fail_invalid("feature corrupt_bio_byte: expected <byte> <r|w> <value> <flags>");
  if (out_.corrupt_byte > 0) return fail_invalid("feature corrupt_bio_byte: given twice");
  VOLFS_TRY_ASSIGN(out_.corrupt_byte, u32_arg("corrupt_bio_byte: byte", words_[0], 1));
  if (same_word(words_[1], "w"))
    out_.corrupt_writes = true;
  else if (same_word(words_[1], "r"))
    out_.corrupt_writes = false;
  else
    return fail(bad_arg("corrupt_bio_byte: direction", words_[1], "r or w"));
  VOLFS_TRY_ASSIGN(out_.corrupt_value, u32_arg("corrupt_bio_byte: value", words_[2], 0, 255));
  VOLFS_TRY_ASSIGN(out_.corrupt_flags, u32_arg("corrupt_bio_byte: flags", words_[3]));
  words_ = words_.subspan(4);
  return {};
}

Status FeatureReader::random(const std::string& name, uint32_t& probability) {
  if (words_.empty())
    return fail_invalid(
        fmt::format("feature {}: expected a number of requests in {}", name, probability_base));
  if (probability > 0) return fail_invalid(fmt::format("feature {}: given twice", name));
  VOLFS_TRY_ASSIGN(probability, u32_arg(name, words_[0], 0, probability_base));
  words_ = words_.subspan(1);
  return {};
}

Status FeatureReader::one(const std::string& name) {
  if (same_word(name, "error_reads")) return flag(name, out_.error_reads);
  if (same_word(name, "drop_writes")) return flag(name, out_.drop_writes);
  if (same_word(name, "error_writes")) return flag(name, out_.error_writes);
  if (same_word(name, "corrupt_bio_byte")) return corrupt();
  if (same_word(name, "random_read_corrupt")) return random(name, out_.random_read);
  if (same_word(name, "random_write_corrupt")) return random(name, out_.random_write);
  return fail(bad_arg("feature", name,
                      "error_reads, error_writes, drop_writes, corrupt_bio_byte, "
                      "random_read_corrupt or random_write_corrupt"));
}

Status FeatureReader::check() const {
  if (out_.drop_writes && out_.corrupts_write())
    return fail_invalid("feature drop_writes: expected not together with corrupted writes");
  if (out_.error_writes && out_.corrupts_write())
    return fail_invalid("feature error_writes: expected not together with corrupted writes");
  if (out_.error_reads && out_.corrupts_read())
    return fail_invalid("feature error_reads: expected not together with corrupted reads");
  return {};
}

Result<Features> FeatureReader::read() {
  while (!words_.empty()) {
    const std::string& name = words_[0];
    words_ = words_.subspan(1);
    VOLFS_TRY(one(name));
  }
  VOLFS_TRY(check());
  const bool none = !out_.error_reads && !out_.error_writes && !out_.drop_writes &&
                    !out_.corrupts_read() && !out_.corrupts_write();
  if (none) out_.error_reads = out_.error_writes = true;
  return out_;
}

Result<std::unique_ptr<Target>> create_flakey(const TargetContext& context, Args args) {
  if (args.size() < 4)
    return fail(bad_count(
        args, "<device> <start sector> <up seconds> <down seconds> [<count> <feature>...]"));
  Place place{};
  VOLFS_TRY_ASSIGN(place.offset, sector_arg("start sector", args[1]));
  VOLFS_TRY_ASSIGN(place.up, u32_arg("up seconds", args[2]));
  VOLFS_TRY_ASSIGN(place.down, u32_arg("down seconds", args[3]));
  const uint64_t period = uint64_t{place.up} + place.down;
  if (period == 0 || period > std::numeric_limits<uint32_t>::max())
    return fail_invalid(fmt::format("up and down seconds: {} in all: expected 1 to {}", period,
                                    std::numeric_limits<uint32_t>::max()));
  uint32_t count = 0;
  if (args.size() > 4) {
    VOLFS_TRY_ASSIGN(count, u32_arg("number of feature words", args[4], 0, 11));
    if (args.size() - 5 < count)
      return fail_invalid(fmt::format("{} feature words: expected {}", args.size() - 5, count));
  }
  const Args words = count > 0 ? args.subspan(5, count) : Args();
  VOLFS_TRY_ASSIGN(const Features features, FeatureReader(words).read());
  VOLFS_TRY_ASSIGN(place.device, device_arg(context, args[0]));
  return std::make_unique<Flakey>(context, place, features);
}

std::vector<size_t> flakey_devices(Args) {
  return {0};
}

}  // namespace

const TargetType flakey_type = {
    .name = "flakey",
    .version = {1, 5, 0},
    .create = create_flakey,
    .device_args = flakey_devices,
};

}  // namespace volfs::dm
