// Exception handling of every function on the C side.
#pragma once
#include <c10/util/Exception.h>

#include <exception>
#include <new>
#include <string>

namespace xplore {

// Returns the text of this thread's last failure.
std::string& last_error();

// Runs `body` and keeps C++ exceptions from crossing into Rust. Returns 0 on success. Otherwise stores the text for
// xt_last_error, and returns 2 if memory could not be allocated, and 1 for any other exception.
template <class F>
int guarded(F&& body) {
  try {
    body();
    return 0;
  } catch (const c10::OutOfMemoryError& e) {
    last_error() = e.what_without_backtrace();
    return 2;
  } catch (const std::bad_alloc& e) {
    last_error() = "out of memory";
    return 2;
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
