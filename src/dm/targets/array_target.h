// SPDX-License-Identifier: GPL-2.0-or-later
// What the targets have in common that an array of room md works for: it runs from resume to
// suspend, so that the state of its members is read when nobody writes it.
#pragma once

#include <memory>

#include "volfs/dm/target.h"
#include "volfs/md/array.h"
#include "volfs/sync.h"

namespace volfs::dm {

class ArrayTarget : public Target {
 public:
  Status preresume() override;
  void postsuspend() override;
  bool flush_is_plain() const override { return false; }
  std::shared_ptr<const md::ArrayStatus> array_status() const override;

 protected:
  ArrayTarget(const TargetType& type, const TargetContext& context);

  // Called by preresume(), in turn with postsuspend().
  virtual Result<std::shared_ptr<md::Array>> assemble(const md::ArrayOptions& options) = 0;
  // Null while suspended.
  std::shared_ptr<md::Array> running() const;

  md::ArrayOptions options_;  // to be changed by constructors only

 private:
  bool do_map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) override {
    return array_->map(op, offset, length, wait, out);
  }
  Status do_flush() override { return array_->flush(); }
  Service do_service(Op op) const override;

  mutable Mutex mutex_;  // guards what follows; I/O only is where array_ does not change
  std::shared_ptr<md::Array> array_;
  std::shared_ptr<const md::ArrayStatus> last_;  // when it was suspended
};

}  // namespace volfs::dm
