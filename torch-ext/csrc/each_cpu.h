// Loops that are compiled once for each generation of CPUs; the right one is taken when the program starts.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EACH_CPU
#endif
// Becomes part of every clone of the function that calls it.
#define FORCE_INLINE inline __attribute__((always_inline))
