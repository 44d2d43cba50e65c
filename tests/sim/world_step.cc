// SPDX-License-Identifier: GPL-2.0-or-later
#include <array>

#include "world.h"

namespace volfs::sim {

std::string World::step(test::Random& random) {
  struct Kind {
    unsigned weight;
    Operation work;
  };
  static constexpr std::array kinds{Kind{16, &World::write},
                                    Kind{8, &World::write_together},
                                    Kind{12, &World::read},
                                    Kind{6, &World::flush},
                                    Kind{4, &World::zero},
                                    Kind{4, &World::wait},
                                    Kind{2, &World::restart},
                                    Kind{6, &World::cut_power},
                                    Kind{2, &World::reload},
                                    Kind{8, &World::change_group},
                                    Kind{3, &World::lose},
                                    Kind{5, &World::bring_back},
                                    Kind{2, &World::replace},
                                    Kind{4, &World::look_over},
                                    Kind{2, &World::fail_writes},
                                    Kind{2, &World::spoil_sectors},
                                    Kind{2, &World::set_up_again},
                                    Kind{2, &World::take_out_and_in},
                                    Kind{2, &World::run_out_of_room},
                                    Kind{1, &World::refuse_threads},
                                    Kind{1, &World::set_clock}};
  unsigned sum = 0;
  for (const Kind& kind : kinds) sum += kind.weight;
  uint64_t pick = random.below(sum);
  // A log without end would take all memory.
  constexpr size_t most_records = 4000;
  if (machine_.position() > most_records) {
    must(engine_->sync());
    for (auto& [path, shape] : structure_) shape.is->oracle.settle();
    machine_.settle();
  }
  for (const Kind& kind : kinds) {
    if (pick < kind.weight) return (this->*kind.work)(random);
    pick -= kind.weight;
  }
  return {};
}

}  // namespace volfs::sim
