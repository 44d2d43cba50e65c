// SPDX-License-Identifier: GPL-2.0-or-later
// Errors are values. Every operation that can fail returns Result<T> (or Status); the success
// path allocates nothing. An error carries the errno a user of the mounted file sees and a text
// that reads from outside in: "vg0/root: pv1: read 4096 at 1048576: Input/output error".
#pragma once

#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace volfs {

class [[nodiscard]] Error {
 public:
  // A failure of the system: the text becomes "WHAT: strerror(CODE)". CODE is a positive errno.
  static Error sys(int code, std::string_view what);
  // A failure told in our own words; CODE is what a system call would return for it.
  static Error make(int code, std::string text) { return Error(code, std::move(text)); }
  // Bad input (EINVAL).
  static Error invalid(std::string text);

  int code() const { return code_; }
  const std::string& text() const { return text_; }

  // Puts the place in front: Error("x").in("disk0") reads "disk0: x".
  Error in(std::string_view place) &&;

 private:
  Error(int code, std::string text) : code_(code), text_(std::move(text)) {}
  int code_;
  std::string text_;
};

template <class T>
using Result = std::expected<T, Error>;
using Status = Result<void>;

// Shorthands for "return std::unexpected(...)".
inline std::unexpected<Error> fail(Error error) {
  return std::unexpected<Error>(std::move(error));
}
inline std::unexpected<Error> fail_sys(int code, std::string_view what) {
  return fail(Error::sys(code, what));
}
inline std::unexpected<Error> fail_invalid(std::string text) {
  return fail(Error::invalid(std::move(text)));
}

// Prefixes the error of a result, if it has one, with a place.
template <class T>
Result<T> in(std::string_view place, Result<T> result) {
  if (!result) return fail(std::move(result.error()).in(place));
  return result;
}

}  // namespace volfs

// Returns the error of EXPR from the enclosing function, if it has one.
#define VOLFS_TRY(expr)                                    \
  do {                                                     \
    if (auto volfs_try_ = (expr); !volfs_try_)             \
      return ::volfs::fail(std::move(volfs_try_.error())); \
  } while (0)

#define VOLFS_CONCAT_(a, b) a##b
#define VOLFS_CONCAT(a, b) VOLFS_CONCAT_(a, b)
// Declares VAR as the value of EXPR, or returns EXPR's error from the enclosing function.
#define VOLFS_TRY_ASSIGN(var, expr) VOLFS_TRY_ASSIGN_(VOLFS_CONCAT(volfs_r_, __LINE__), var, expr)
#define VOLFS_TRY_ASSIGN_(tmp, var, expr)                 \
  auto tmp = (expr);                                      \
  if (!tmp) return ::volfs::fail(std::move(tmp.error())); \
  var = std::move(*tmp)
