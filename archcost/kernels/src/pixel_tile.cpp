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
  const float* fetched;  // weights to be fetched to the second-level cache meanwhile
  const float* bias;
  const float* addend;
  float* output;
};

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

  ARCHCOST_INLINE void add(const Stretches& of, const float* input, long input_row, const float*& weights,
                           const float*& fetched) {
    for (long stretch = 0; stretch < of.count; ++stretch) {
      const float* rows[kRowsOfTile];
#pragma GCC unroll 2
      for (int r = 0; r < kRowsOfTile; ++r) rows[r] = input + of.offsets[stretch] + r * input_row;
      for (long k = 0; k < of.length; ++k) {
        __builtin_prefetch(fetched, 0, 2);
        fetched += kLanes;
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
        for (int r = 0; r < kRowsOfTile; ++r) ++rows[r];
      }
    }
  }

  static void multiply(const TileProduct& of, const TilePlaces& at) {
    Tile tile;
    const auto out = [&](int i, int j) {
      return at.output + row_of(i) * of.output_row + j * of.output_block + column_of(i) * kLanes;
    };
    tile.each([&](auto& value, int i, int j) {
      using T = std::decay_t<decltype(value)>;
      if (of.begins) {
        value = at.bias ? load_as<T>(at.bias + j * kLanes) : T{};
      } else {
        value = load_as<T>(out(i, j));
      }
    });
    if (of.begins && at.addend) {
      tile.each([&](auto& value, int i, int j) {
        const long from = row_of(i) * of.addend_row + j * of.addend_block + column_of(i) * kLanes;
        value += load_as<std::decay_t<decltype(value)>>(at.addend + from);
      });
    }
    const float *weights = at.weights, *fetched = at.fetched;
    tile.add(of.whole, at.input, of.input_row, weights, fetched);
    tile.add(of.rest, at.input, of.input_row, weights, fetched);
    if (of.ends && of.activation.kind == kClamp) {
      tile.each([&](auto& value, int, int) {
        using T = std::decay_t<decltype(value)>;
        const T low = of.activation.low - T{}, high = of.activation.high - T{};
        value = low > value ? low : value;
        value = high < value ? high : value;
      });
    }
    tile.each([&](auto& value, int i, int j) { store_as(out(i, j), value); });
    if (of.ends && of.activation.kind > kClamp) {
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
    return half ? of_shape<2, kHasHalf, kStep>(rows, columns)
                : of_shape<2, false, kStep>(rows, columns);
  }
  return half ? of_shape<1, kHasHalf, kStep>(rows, columns)
              : of_shape<1, false, kStep>(rows, columns);
}

template <int kStep>
void multiply(const TileProduct& of, const TileRegion& region) {
  const long rows = region.columns <= kRows / 2 ? 2 : 1;
  const Pieces pieces(region.columns, kRows);
  const long tiles = divide_up(region.rows, rows) * pieces.count;
  const auto one = [&](long tile, long panel) {
    const long row = tile / pieces.count * rows, piece = tile % pieces.count;
    const long column = pieces.begin(piece), first = panel * kPanelBlocks;
    TilePlaces at;
    at.input = region.input + row * of.input_row + column * kStep;
    at.weights = region.weights + panel * panel_floats(of.depth());
    at.fetched = at.weights;
    at.bias = region.bias ? region.bias + first * kLanes : nullptr;
    at.output = region.output + first * of.output_block + row * of.output_row + column * kLanes;
    at.addend = region.addend;
    if (at.addend) at.addend += first * of.addend_block + row * of.addend_row + column * kLanes;
    const long channels = std::min<long>(kPanelBlocks * kLanes, region.channels - first * kLanes);
    const int height = int(std::min(rows, region.rows - row));
    multiply_tile<kStep>(height, int(pieces.length(piece)), channels)(of, at);
  };
  const long outer = region.panel_outer ? region.panels : tiles, inner = region.panel_outer ? tiles : region.panels;
  for (long i = 0; i < outer; ++i) {
    for (long j = 0; j < inner; ++j) {
      one(region.panel_outer ? j : i, region.first_panel + (region.panel_outer ? i : j));
    }
  }
}

}  // namespace

void multiply_region(const TileProduct& of, const TileRegion& region, long step) {
  (step == kLanes ? multiply<kLanes> : multiply<1>)(of, region);
}

}  // namespace archcost
