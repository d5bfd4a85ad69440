// Exception handling of every function on the C side.
#pragma once
#include <c10/util/Exception.h>

#include <exception>
#include <string>

namespace xplore {

// Returns the text of this thread's last failure.
std::string& last_error();

// Runs `body` and keeps C++ exceptions from crossing into Rust: returns 0, or 1 and stores the text for xt_last_error.
template <class F>
int guarded(F&& body) {
  try {
    body();
    return 0;
  } catch (const c10::Error& e) {
    last_error() = e.what_without_backtrace();
  } catch (const std::exception& e) {
    last_error() = e.what();
  } catch (...) {
    last_error() = "unknown C++ exception";
  }
  return 1;
}

}  // namespace xplore
