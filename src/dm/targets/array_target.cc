// SPDX-License-Identifier: GPL-2.0-or-later
#include "array_target.h"

#include <mutex>
#include <utility>

#include "volfs/log.h"

namespace volfs::dm {

ArrayTarget::ArrayTarget(const TargetType& type, const TargetContext& context)
    : Target(type, context) {
  options_.name = context.device;
  options_.read_only = context.read_only;
  options_.hold_sync = context.hold_sync;
  options_.changed = context.event;
}

std::shared_ptr<md::Array> ArrayTarget::running() const {
  const std::lock_guard lock(mutex_);
  return array_;
}

std::shared_ptr<const md::ArrayStatus> ArrayTarget::array_status() const {
  if (const auto array = running()) return std::make_shared<md::ArrayStatus>(array->status());
  const std::lock_guard lock(mutex_);
  return last_;
}

Service ArrayTarget::do_service(Op op) const {
  const auto array = running();
  return array ? array->service(op) : Service::blocking;
}

Status ArrayTarget::preresume() {
  if (array_) return {};
  VOLFS_TRY_ASSIGN(std::shared_ptr<md::Array> array, assemble(options_));
  const std::lock_guard lock(mutex_);
  array_ = std::move(array);
  return {};
}

void ArrayTarget::postsuspend() {
  if (!array_) return;
  if (auto stopped = array_->stop(); !stopped)
    log_error("{}: {}", options_.name, stopped.error().text());
  auto last = std::make_shared<md::ArrayStatus>(array_->status());
  const std::lock_guard lock(mutex_);
  last_ = std::move(last);
  array_.reset();
}

}  // namespace volfs::dm
