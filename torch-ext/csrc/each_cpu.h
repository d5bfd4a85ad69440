// Loops that are compiled once for each CPU generation; the dynamic loader selects the version to use at program start.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EACH_CPU
#endif
// Inlined into every clone of the calling function.
#define FORCE_INLINE inline __attribute__((always_inline))
