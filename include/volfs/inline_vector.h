// SPDX-License-Identifier: GPL-2.0-or-later
// A vector of trivially copyable values whose first N live in the object itself: the data path
// allocates only for the rare request that needs more. Not thread-safe; neither copied nor moved.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <memory>
#include <span>
#include <type_traits>

namespace volfs {

template <class T, size_t N>
class InlineVector {
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);

 public:
  InlineVector() = default;
  InlineVector(const InlineVector&) = delete;
  InlineVector& operator=(const InlineVector&) = delete;

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  // References and pointers into the vector end with the next push_back or resize.
  T& operator[](size_t i) { return data()[i]; }
  const T& operator[](size_t i) const { return data()[i]; }
  T& back() { return data()[size_ - 1]; }
  T* data() { return heap_ ? heap_.get() : reinterpret_cast<T*>(inline_); }
  const T* data() const { return heap_ ? heap_.get() : reinterpret_cast<const T*>(inline_); }
  T* begin() { return data(); }
  T* end() { return data() + size_; }
  const T* begin() const { return data(); }
  const T* end() const { return data() + size_; }
  operator std::span<const T>() const { return {data(), size_}; }  // NOLINT

  void clear() { size_ = 0; }
  void push_back(const T& value) {
    const T copy = value;
    if (size_ == capacity_) grow(size_ + 1);
    std::construct_at(data() + size_, copy);
    ++size_;
  }
  // New elements are value-initialised.
  void resize(size_t size) {
    if (size > capacity_) grow(size);
    for (size_t i = size_; i < size; ++i) std::construct_at(data() + i);
    size_ = size;
  }

 private:
  void grow(size_t least) {
    const size_t capacity = std::max(least, capacity_ * 2);
    auto larger = std::make_unique<T[]>(capacity);
    std::copy(begin(), end(), larger.get());
    heap_ = std::move(larger);
    capacity_ = capacity;
  }

  alignas(T) std::byte inline_[N * sizeof(T)];
  std::unique_ptr<T[]> heap_;
  size_t size_ = 0;
  size_t capacity_ = N;
};

}  // namespace volfs
