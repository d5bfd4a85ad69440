// The kernels of products.h for the instruction set that isa.h selects. The including file includes <cstdlib> and
// <utility> before its `#pragma GCC target`. No standard library templates are instantiated after it, because the
// linker might keep their code for this instruction set for all callers.
#pragma once
#include "isa.h"
#include "products.h"

namespace xplore {
namespace {

// Size in bytes of a block of rows. The block and the panel parts that it iterates over (kDepth deep, kGroup in number)
// stay in the L2 cache. A single panel part (32 KiB in fp32) stays in or near the L1 cache; with a group, the tile of
// rows does. Deeper parts save a round trip of y to memory; groups let a tile write y line after line.
constexpr int64_t kBlockBytes = 160 << 10;

FORCE_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
FORCE_INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// A buffer that grows on demand.
template <class T>
struct Room {
  T* data = nullptr;
  int64_t size = 0;
  ~Room() { std::free(data); }
  T* at_least(int64_t count) {
    if (count > size) {
      std::free(data);
      data = static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64));
      if (!data) std::abort();
      size = count;
    }
    return data;
  }
};

template <int R, int C>
FORCE_INLINE void add_products(Vec (&acc)[R][C], const float* a, int64_t a_row, const Vec (&b)[C]) {
  for (int r = 0; r < R; ++r) {
    const Vec x = broadcast(a[r * a_row]);
    for (int c = 0; c < C; ++c) acc[r][c] = fma(x, b[c], acc[r][c]);
  }
}

struct FloatPanel {
  using X = float;
  using W = float;
  static constexpr int kStep = 1;
  template <int R, int P>
  static FORCE_INLINE void step(Vec (&acc)[R][2 * P], const float* a, int64_t a_row, const float* w, int64_t next) {
    Vec b[2 * P];
    for (int c = 0; c < 2 * P; ++c) b[c] = load(w + c / 2 * next + c % 2 * kLanes);
    add_products<R, 2 * P>(acc, a, a_row, b);
  }
};

struct WidenedPanel {
  using X = float;
  using W = uint16_t;
  static constexpr int kStep = 1;
  template <int R, int P>
  static FORCE_INLINE void step(Vec (&acc)[R][2 * P], const float* a, int64_t a_row, const uint16_t* w, int64_t next) {
    Vec b[2 * P];
    for (int p = 0; p < P; ++p) load_interleaved(w + p * next, b[2 * p], b[2 * p + 1]);
    add_products<R, 2 * P>(acc, a, a_row, b);
  }
};

// The location of a tile's rows in the left operand.
template <class X>
struct Rows {
  const X* data;
  int64_t row, step;
};

// R rows by P panels, `next` elements apart, over `depth`. Prefetches `ahead` elements beyond the weights.
template <class How, int R, int P>
FORCE_INLINE void tile(Rows<typename How::X> a, const typename How::W* w, int64_t next, int64_t ahead, float* y,
                       int64_t y_row, int64_t depth, bool add) {
  Vec acc[R][2 * P];
  // The rows below are processed next.
  for (int r = 0; r < R; ++r) prefetch(y + (R + r) * y_row);
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < 2 * P; ++c) acc[r][c] = add ? load(y + r * y_row + c * kLanes) : zero();
  for (int64_t k = 0; k < depth; k += How::kStep, a.data += How::kStep * a.step, w += kPanel * How::kStep) {
    for (int p = 0; p < P; ++p) prefetch(w + ahead + p * next);
    How::template step<R, P>(acc, a.data, a.row, w, next);
  }
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < 2 * P; ++c) store(y + r * y_row + c * kLanes, acc[r][c]);
}

// A panel of which only `count` columns exist.
template <class How, int R>
FORCE_INLINE void last_tile(Rows<typename How::X> a, const typename How::W* w, float* y, int64_t y_row, int64_t depth,
                            int64_t count, bool add) {
  // The rows, and as many more that are only prefetched.
  float own[2 * R * kPanel];
  for (int r = 0; r < R; ++r)
    for (int64_t c = 0; c < kPanel; ++c) own[r * kPanel + c] = add && c < count ? y[r * y_row + c] : 0;
  tile<How, R, 1>(a, w, 0, 0, own, kPanel, depth, true);
  for (int r = 0; r < R; ++r)
    for (int64_t c = 0; c < count; ++c) y[r * y_row + c] = own[r * kPanel + c];
}

// Number of panels that a tile of R rows covers at once: several with few rows, or each multiply-add would wait for the
// previous one.
template <int R>
constexpr int kPanels = R == 1   ? 4
                        : R == 2 ? 3
                        : R == 3 ? 2
                                 : 1;

// R rows over `count` columns. `fetch`: prefetches the panels after the current ones.
template <class How, int R>
void row_tile(Rows<typename How::X> a, const typename How::W* w, int64_t next, bool fetch, float* y, int64_t y_row,
              int64_t depth, int64_t count, bool add) {
  constexpr int P = kPanels<R>;
  int64_t c = 0;
  for (; c + P * kPanel <= count; c += P * kPanel, w += P * next)
    tile<How, R, P>(a, w, next, fetch ? P * next : 0, y + c, y_row, depth, add);
  for (; c + kPanel <= count; c += kPanel, w += next)
    tile<How, R, 1>(a, w, next, fetch ? next : 0, y + c, y_row, depth, add);
  if (c < count) last_tile<How, R>(a, w, y + c, y_row, depth, count - c, add);
}

template <class How>
using RowTile = void (*)(Rows<typename How::X>, const typename How::W*, int64_t, bool, float*, int64_t, int64_t,
                         int64_t, bool);

template <class How, int... R>
FORCE_INLINE RowTile<How> row_tile_of(int64_t rows, std::integer_sequence<int, R...>) {
  static constexpr RowTile<How> kTiles[] = {row_tile<How, R + 1>...};
  return kTiles[rows - 1];
}

// m rows in tiles of nearly equal height.
struct Tiles {
  int64_t count, height, taller;  // the first `taller` have one row more
  explicit Tiles(int64_t m)
      : count((m + kTileRows - 1) / kTileRows), height(count ? m / count : 0), taller(count ? m % count : 0) {}
  FORCE_INLINE int64_t first(int64_t t) const { return t * height + least(t, taller); }
  FORCE_INLINE int64_t rows(int64_t t) const { return height + (t < taller); }
};

template <class How>
void multiply_as(Left left, const void* panels, float* y, int64_t y_row, int64_t m, int64_t k, int64_t count,
                 bool add) {
  using X = typename How::X;
  const X* a = static_cast<const X*>(left.data);
  const auto* w = static_cast<const typename How::W*>(panels);
  const int64_t padded = (k + How::kStep - 1) / How::kStep * How::kStep, next = kPanel * padded;
  const Tiles tiles(m);
  // A single tile of rows iterates over all panels; several tiles take turns on a group of panels.
  const int64_t columns = tiles.count == 1 ? count : kGroup * kPanel;
  // Rows that are not contiguous along k are copied, so that a tile reads them sequentially. Rows a multiple of a page
  // apart collide in a cache, so they are copied too where that pays off.
  const bool collide = left.row * static_cast<int64_t>(sizeof(X)) % 4096 == 0 && tiles.count > 1 && count >= 256;
  const bool copies = How::kStep == 1 && (left.col != 1 || collide);
  Room<X> room;
  const int64_t parts = (k + kDepth - 1) / kDepth;
  for (int64_t part = 0; part < parts; ++part) {
    // Parts of nearly equal depth, in whole steps.
    const int64_t from = padded / How::kStep * part / parts * How::kStep;
    const int64_t depth = padded / How::kStep * (part + 1) / parts * How::kStep - from;
    const int64_t block = most(1, kBlockBytes / (kTileRows * depth * static_cast<int64_t>(sizeof(X))));
    for (int64_t begin = 0; begin < tiles.count; begin += block) {
      const int64_t end = least(tiles.count, begin + block), top = tiles.first(begin);
      // Where a tile's copy starts: offset from a page multiple by a cache line, or all tiles would map to the same few
      // lines.
      const auto place = [&](int64_t t) { return (tiles.first(t) - top) * depth + (t - begin) * 32; };
      if (copies) {
        X* copy = room.at_least(place(end));
        const auto copy_tile = [&](int64_t t, int64_t i) {
          const int64_t row = tiles.first(t), rows = tiles.rows(t);
          X* to = copy + place(t) + i * rows;
          const X* at = a + row * left.row + (from + i) * left.col;
          for (int64_t r = 0; r < rows; ++r) to[r] = at[r * left.row];
        };
        // In the memory order of the operand.
        if (left.row == 1) {
          for (int64_t i = 0; i < depth; ++i)
            for (int64_t t = begin; t < end; ++t) copy_tile(t, i);
        } else {
          for (int64_t t = begin; t < end; ++t)
            for (int64_t i = 0; i < depth; ++i) copy_tile(t, i);
        }
      }
      for (int64_t c = 0; c < count; c += columns) {
        for (int64_t t = begin; t < end; ++t) {
          const int64_t row = tiles.first(t), rows = tiles.rows(t);
          const Rows<X> at =
              copies ? Rows<X>{room.data + place(t), 1, rows} : Rows<X>{a + row * left.row + from, left.row, 1};
          row_tile_of<How>(rows, std::make_integer_sequence<int, kTileRows>())(
              at, w + c / kPanel * next + from * kPanel, next, t == begin, y + row * y_row + c, y_row, depth,
              least(columns, count - c), add || from > 0);
        }
      }
    }
  }
}

// For the formats that multiply fp32 values.
[[maybe_unused]] void multiply_floats(Format format, Left a, const void* panels, float* y, int64_t y_row, int64_t m,
                                      int64_t k, int64_t count, bool add) {
  (format == Format::kFloat ? multiply_as<FloatPanel> : multiply_as<WidenedPanel>)(a, panels, y, y_row, m, k, count,
                                                                                   add);
}

// Returns the position of column `c` within a row of a panel. bf16 columns are interleaved, so that one load yields two
// vectors.
FORCE_INLINE int64_t column_place(bool bf16, int64_t c) {
  return !bf16 ? c : c < kLanes ? 2 * c : 2 * (c - kLanes) + 1;
}

// T: float, or uint16_t for kWidened.
template <class T>
void pack(Strided<T> b, int64_t k, int64_t first, int64_t count, T* panels) {
  constexpr bool bf16 = sizeof(T) == 2;
  // Depth at which the part of the panel being filled stays in the L1 cache.
  constexpr int64_t kPart = 64;
  for (int64_t p = 0; p < count; p += kPanel, panels += kPanel * k) {
    const int64_t columns = least(kPanel, count - p);
    const T* from = b.data + (first + p) * b.col;
    for (int64_t i = 0; i < k; i += kPart) {
      const int64_t last = least(k, i + kPart);
      if (columns < kPanel) std::memset(panels + i * kPanel, 0, (last - i) * kPanel * sizeof(T));
      if (b.col == 1) {
        for (int64_t r = i; r < last; ++r)
          for (int64_t c = 0; c < columns; ++c) panels[r * kPanel + column_place(bf16, c)] = from[r * b.row + c];
      } else {
        for (int64_t c = 0; c < columns; ++c)
          for (int64_t r = i; r < last; ++r) panels[r * kPanel + column_place(bf16, c)] = from[r * b.row + c * b.col];
      }
    }
  }
}

// For kPairs: [k / 2][column][2].
FORCE_INLINE void pack_pairs(Strided<uint16_t> b, int64_t k, int64_t first, int64_t count, uint16_t* panels) {
  const int64_t padded = (k + 1) / 2 * 2;
  for (int64_t p = 0; p < count; p += kPanel, panels += kPanel * padded)
    for (int64_t r = 0; r < padded; ++r)
      for (int64_t c = 0; c < kPanel; ++c)
        panels[(r / 2 * kPanel + c) * 2 + r % 2] =
            r < k && p + c < count ? b.data[r * b.row + (first + p + c) * b.col] : uint16_t{0};
}

[[maybe_unused]] void pack_bf16(Format format, Strided<uint16_t> b, int64_t k, int64_t first, int64_t count,
                                uint16_t* panels) {
  if (format == Format::kPairs)
    pack_pairs(b, k, first, count, panels);
  else
    pack<uint16_t>(b, k, first, count, panels);
}

}  // namespace
}  // namespace xplore
