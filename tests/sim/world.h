// SPDX-License-Identifier: GPL-2.0-or-later
// A machine whose disks carry arrays, a volume group and maps, run by the engine, and what its
// volumes should hold. All is a function of a seed: the stack, each operation, the order of the
// threads and the time.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "machine.h"
#include "oracle.h"
#include "support/random.h"
#include "support/temp_dir.h"
#include "volfs/config/definition.h"
#include "volfs/engine/engine.h"
#include "volfs/md/array.h"

namespace volfs::sim {

// The run has come to an end that is right, although there are steps left: data was refused to
// whoever did not force it.
struct Ended : std::runtime_error {
  using std::runtime_error::runtime_error;
};
// Something is not as it should be; the text says what.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class T>
T must(Result<T> result) {
  if (!result) throw Failure(result.error().text());
  return std::move(*result);
}
inline void must(const Status& status) {
  if (!status) throw Failure(status.error().text());
}

struct ArrayPlan {
  std::string name;
  std::vector<std::string> disks;  // the first `raid_disks` are its first members, one is to spare
  size_t raid_disks = 0;
  int level = 0;
  std::string words;  // of its definition
  bool has_ppl = false;
  bool torn = false;       // after a power cut, until all agrees again
  bool is_volume = false;  // not below the volume group
};

// What is known of a volume. Outlives the volume itself: a power cut may bring it back.
struct Expectation {
  explicit Expectation(uint64_t sectors, SectorId start) : oracle(sectors, start) {}
  Oracle oracle;
  std::string origin;         // of a snapshot: its volume's path
  bool may_overflow = false;  // of a snapshot with little room
  std::string table_device;   // of a map: what its table is on
};
struct Shape {
  std::shared_ptr<Expectation> is;
  uint64_t size = 0;
};
using Structure = std::map<std::string, Shape>;  // by path

class World {
 public:
  explicit World(uint64_t seed);
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  // Does one operation, drawn from RANDOM; what it was, in words.
  std::string step(test::Random& random);
  // Brings all to rest, and looks at everything.
  void finish();

  const std::string& definition_text() const { return text_; }
  // What there is, in the words of /proc/mdstat and dmsetup.
  std::string describe() const;

 private:
  using Operation = std::string (World::*)(test::Random&);
  // The stack.
  void design(test::Random& random);
  std::string definition();
  void create();
  std::string try_to_assemble();
  void assemble();
  void forget_invalid();
  void start_again(bool at_risk);
  void close();
  void adopt_structure(const Structure& before, const Structure& after, size_t position,
                       Span change);

  // Volumes.
  std::shared_ptr<engine::Volume> volume(const std::string& path) const;
  std::string any_volume(test::Random& random) const;
  std::vector<std::string> volumes_of_group(bool snapshots) const;
  std::vector<SectorId> ids(BlockDevice& device, uint64_t first, uint64_t count) const;
  bool is_invalid(BlockDevice& device) const;
  std::optional<std::vector<SectorId>> ids_if_valid(const std::string& path, uint64_t first,
                                                    uint64_t count);
  void check(const std::string& path, uint64_t first, uint64_t count);
  void check_all();
  void check_structure() const;
  struct Write {
    std::string path;
    uint64_t first, count;
    SectorId id;
    bool fua;
  };
  Write draw_write(test::Random& random, const std::string& path);
  void do_write(const Write& write);
  Span span_since(size_t begin) const { return {begin, machine_.position()}; }
  // A thread that writes while something else is done. It has ended when work_beside has returned,
  // and its error is thrown then.
  void work_beside(const Write& write, const std::function<void()>& work);
  void write_without_room(const Write& write);
  void learn_both(const std::string& path, const Write& write, const std::vector<SectorId>& old);

  // Operations, in operations_*.cc.
  std::string write(test::Random& random);
  std::string write_together(test::Random& random);
  std::string read(test::Random& random);
  std::string flush(test::Random& random);
  std::string zero(test::Random& random);
  std::string wait(test::Random& random);
  std::string restart(test::Random& random);
  std::string cut_power(test::Random& random);
  std::string reload(test::Random& random);
  std::string change_group(test::Random& random);
  std::string create_volume(test::Random& random);
  std::string create_snapshot(test::Random& random);
  std::string merge_snapshot(test::Random& random);
  std::string remove_volume(test::Random& random);
  std::string resize_volume(test::Random& random);
  std::string rename_volume(test::Random& random);
  std::string lose(test::Random& random);
  std::string bring_back(test::Random& random);
  std::string replace(test::Random& random);
  std::string look_over(test::Random& random);
  std::string fail_writes(test::Random& random);
  std::string spoil_sectors(test::Random& random);
  std::string set_up_again(test::Random& random);
  std::string take_out_and_in(test::Random& random);
  std::string run_out_of_room(test::Random& random);
  std::string refuse_threads(test::Random& random);
  std::string set_clock(test::Random& random);

  // Arrays.
  struct Running {
    ArrayPlan* plan = nullptr;
    md::Array* array = nullptr;
  };
  std::optional<Running> any_array(test::Random& random);
  md::Array* array(const std::string& name) const;
  BlockDevice& device_of(const std::string& disk) const;
  bool is_whole(md::Array& array) const;
  void write_again(md::Array& array);
  // Whether a power cut now leaves all that was flushed, whatever else.
  bool survives_cut() const;
  std::set<std::string> members_of(md::Array& array) const;
  std::string bring_back_to(const Running& running, test::Random& random);

  test::TempDir directory_;
  Machine machine_;
  std::vector<ArrayPlan> arrays_;
  std::vector<std::string> plain_;  // disks below the group and maps
  std::vector<std::string> pvs_;    // what the group is on
  std::string map_disk_;
  std::string map_type_;
  std::string text_;
  std::optional<config::Definition> definition_;
  std::unique_ptr<engine::Engine> engine_;
  Structure structure_;
  SectorId next_id_ = 1;
  unsigned next_name_ = 0;
};

}  // namespace volfs::sim
