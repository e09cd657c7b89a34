#include "pixel_tile.h"

namespace archcost {
namespace {

// A vector of half as many lanes, for a last block that is half empty.
#if defined(__AVX512F__)
constexpr bool kHasHalf = true;
#else
constexpr bool kHasHalf = false;
#endif
constexpr int kHalfLanes = kHasHalf ? kLanes / 2 : kLanes;
typedef float HalfVector __attribute__((vector_size(kHalfLanes * sizeof(float))));
typedef float UnalignedHalf __attribute__((vector_size(kHalfLanes * sizeof(float)), aligned(4), may_alias));

// One tile. `bias` and `addend` may be null; `bias` is whole vectors.
struct TilePlaces {
  const float* input;
  const float* weights;
  const float* bias;
  const float* addend;
  float* output;
  const float* next_input;  // of the next tile, to be fetched meanwhile
};

constexpr int kLine = 16;  // floats of a cache line

using MultiplyTile = void (*)(const TileProduct&, const TilePlaces&);

template <int kRowsOfTile, int kColumns, int kBlocks, bool kHalf, int kStep>
struct Tile {
  static constexpr int kPixels = kRowsOfTile * kColumns;
  static constexpr int kWhole = kHalf ? kBlocks - 1 : kBlocks;

  Vector sum[kPixels][kWhole ? kWhole : 1];
  HalfVector half[kPixels];

  static ARCHCOST_INLINE HalfVector load_half(const float* from) {
    return *reinterpret_cast<const UnalignedHalf*>(from);
  }
  static ARCHCOST_INLINE void store_half(float* to, HalfVector value) {
    *reinterpret_cast<UnalignedHalf*>(to) = value;
  }
  static constexpr int row_of(int pixel) { return pixel / kColumns; }
  static constexpr int column_of(int pixel) { return pixel % kColumns; }

  template <class Each>
  ARCHCOST_INLINE void each(Each&& change) {
#pragma GCC unroll 16
    for (int i = 0; i < kPixels; ++i) {
#pragma GCC unroll 2
      for (int j = 0; j < kWhole; ++j) change(sum[i][j], i, j);
      if constexpr (kHalf) change(half[i], i, kWhole);
    }
  }

  template <class T>
  static ARCHCOST_INLINE T load_as(const float* from) {
    if constexpr (sizeof(T) == sizeof(Vector)) {
      return load(from);
    } else {
      return load_half(from);
    }
  }
  template <class T>
  static ARCHCOST_INLINE void store_as(float* to, T value) {
    if constexpr (sizeof(T) == sizeof(Vector)) {
      store(to, value);
    } else {
      store_half(to, value);
    }
  }

  // Blocked pixels of a stretch are lines of their own, far from those of the next.
  template <bool kWritten>
  static ARCHCOST_INLINE void fetch(const float* pixels, long row) {
#pragma GCC unroll 2
    for (int r = 0; r < kRowsOfTile; ++r) {
#pragma GCC unroll 16
      for (int i = 0; i < kColumns * kLanes; i += kLine) __builtin_prefetch(pixels + r * row + i, kWritten);
    }
  }

  // `behind`: where the inputs of what follows begin.
  ARCHCOST_INLINE void add(const Stretches& of, const TilePlaces& at, long input_row, const float* behind,
                           const float*& weights) {
    for (long stretch = 0; stretch < of.count; ++stretch) {
      const float* rows[kRowsOfTile];
#pragma GCC unroll 2
      for (int r = 0; r < kRowsOfTile; ++r) rows[r] = at.input + of.offsets[stretch] + r * input_row;
      if (kStep == kLanes && of.length > 1) {
        fetch<false>(stretch + 1 < of.count ? at.input + of.offsets[stretch + 1] : behind, input_row);
      }
      for (long k = 0; k < of.length; ++k) {
        Vector factors[kWhole ? kWhole : 1];
        HalfVector half_factor;
#pragma GCC unroll 2
        for (int j = 0; j < kWhole; ++j) factors[j] = load(weights + j * kLanes);
        if constexpr (kHalf) half_factor = load_half(weights + kWhole * kLanes);
        weights += kBlocks * kLanes;
#pragma GCC unroll 16
        for (int i = 0; i < kPixels; ++i) {
          const float value = rows[row_of(i)][column_of(i) * kStep];
#pragma GCC unroll 2
          for (int j = 0; j < kWhole; ++j) sum[i][j] += broadcast(value) * factors[j];
          if constexpr (kHalf) half[i] += (value - HalfVector{}) * half_factor;
        }
#pragma GCC unroll 2
        for (int r = 0; r < kRowsOfTile; ++r) {
          ++rows[r];
          // Not to be known to the compiler, which keeps what neighbours share in registers that it has not.
          asm("" : "+r"(rows[r]));
        }
      }
    }
  }

  static void multiply(const TileProduct& of, const TilePlaces& at) {
    Tile tile;
    const auto out = [&](int i, int j) {
      return at.output + row_of(i) * of.output_row + j * of.output_block + column_of(i) * kLanes;
    };
    const auto addend = [&](int i, int j) {
      return at.addend + row_of(i) * of.addend_row + j * of.addend_block + column_of(i) * kLanes;
    };
    for (int j = 0; j < kBlocks; ++j) {
      fetch<true>(out(0, j), of.output_row);
      if (at.addend) fetch<false>(addend(0, j), of.addend_row);
    }
    tile.each([&](auto& value, int, int j) {
      using T = std::decay_t<decltype(value)>;
      value = at.bias ? load_as<T>(at.bias + j * kLanes) : T{};
    });
    const float* weights = at.weights;
    const float* const behind = at.next_input + of.whole.offsets[0];
    const float* const rest = of.rest.count ? at.input + of.rest.offsets[0] : behind;
    tile.add(of.whole, at, of.input_row, rest, weights);
    tile.add(of.rest, at, of.input_row, behind, weights);
    if (at.addend) {
      tile.each([&](auto& value, int i, int j) {
        value += load_as<std::decay_t<decltype(value)>>(addend(i, j));
      });
    }
    if (of.activation.kind == kClamp) {
      tile.each([&](auto& value, int, int) {
        using T = std::decay_t<decltype(value)>;
        value = within(value, of.activation.low - T{}, of.activation.high - T{});
      });
    }
    tile.each([&](auto& value, int i, int j) { store_as(out(i, j), value); });
    if (of.activation.kind > kClamp) {
      for (int r = 0; r < kRowsOfTile; ++r) {
        for (int j = 0; j < kBlocks; ++j) activate(of.activation, out(r * kColumns, j), kColumns * kLanes);
      }
    }
  }
};

template <int kRowsOfTile, int kBlocks, bool kHalf, int kStep, int... less>
MultiplyTile of_columns(int columns, std::integer_sequence<int, less...>) {
  static constexpr MultiplyTile all[] = {Tile<kRowsOfTile, less + 1, kBlocks, kHalf, kStep>::multiply...};
  return all[columns - 1];
}

template <int kBlocks, bool kHalf, int kStep>
MultiplyTile of_shape(int rows, int columns) {
  if (rows == 1) {
    return of_columns<1, kBlocks, kHalf, kStep>(columns, std::make_integer_sequence<int, kRows>{});
  }
  return of_columns<2, kBlocks, kHalf, kStep>(columns, std::make_integer_sequence<int, kRows / 2>{});
}

// Of one row of up to kRows pixels, or two of up to half as many, times one or two blocks of which `channels`
// channels are in use. Where those end in a half-empty block, only its first half is written.
template <int kStep>
MultiplyTile multiply_tile(int rows, int columns, long channels) {
  const bool half = kHasHalf && (channels - 1) % kLanes < kHalfLanes;
  if (channels > kLanes) {
    return half ? of_shape<2, kHasHalf, kStep>(rows, columns) : of_shape<2, false, kStep>(rows, columns);
  }
  return half ? of_shape<1, kHasHalf, kStep>(rows, columns) : of_shape<1, false, kStep>(rows, columns);
}

template <int kStep>
void multiply(const TileProduct& of, const TileRegion& region) {
  const long rows = region.columns <= kRows / 2 ? 2 : 1;
  const Pieces pieces(region.columns, kRows);
  const long tiles = divide_up(region.rows, rows) * pieces.count;
  const auto input_of = [&](long tile) {
    const long row = tile / pieces.count * rows;
    return region.input + row * of.input_row + pieces.begin(tile % pieces.count) * kStep;
  };
  const auto one = [&](long tile, long panel, long next_tile) {
    const long row = tile / pieces.count * rows, piece = tile % pieces.count;
    const long column = pieces.begin(piece), first = panel * kPanelBlocks;
    TilePlaces at;
    at.input = input_of(tile);
    at.weights = region.weights + panel * panel_floats(of.depth());
    at.bias = region.bias ? region.bias + first * kLanes : nullptr;
    at.output = region.output + first * of.output_block + row * of.output_row + column * kLanes;
    at.addend = region.addend;
    if (at.addend) at.addend += first * of.addend_block + row * of.addend_row + column * kLanes;
    at.next_input = input_of(next_tile);
    const long channels = std::min<long>(kPanelBlocks * kLanes, region.channels - first * kLanes);
    const int height = int(std::min(rows, region.rows - row));
    multiply_tile<kStep>(height, int(pieces.length(piece)), channels)(of, at);
  };
  const long end = region.first_panel + region.panels;
  if (region.panel_outer) {
    for (long panel = region.first_panel; panel < end; ++panel) {
      for (long tile = 0; tile < tiles; ++tile) one(tile, panel, tile + 1 < tiles ? tile + 1 : 0);
    }
  } else {
    for (long tile = 0; tile < tiles; ++tile) {
      for (long panel = region.first_panel; panel < end; ++panel) {
        one(tile, panel, panel + 1 == end && tile + 1 < tiles ? tile + 1 : tile);
      }
    }
  }
}

}  // namespace

void multiply_region(const TileProduct& of, const TileRegion& region, long step) {
  (step == kLanes ? multiply<kLanes> : multiply<1>)(of, region);
}

}  // namespace archcost
