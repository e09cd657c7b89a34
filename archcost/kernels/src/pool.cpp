#include "pool.h"

#include <cmath>

#include "export.h"
#include "under_window.h"

namespace archcost {
namespace {

// Independent sums: one alone would wait for each addition.
constexpr int kChains = kLanes == 16 ? 4 : 2;

// The largest, in two instructions a pixel: it is right where the sum of them all is a number.
struct Largest {
  Vector sums[kChains] = {};

  static Vector nothing() { return broadcast(-INFINITY); }
  static ARCHCOST_INLINE Vector both(Vector a, Vector b) { return a > b ? a : b; }
  ARCHCOST_INLINE Vector take(Vector before, Vector value, int chain) {
    sums[chain % kChains] += value;
    return both(before, value);
  }
  // Whether it may be wrong in one of the first lanes.
  bool doubtful(long lanes) const {
    Vector sum = sums[0];
    for (int k = 1; k < kChains; ++k) sum += sums[k];
    sum -= sum;
    const IntVector wrong = sum != sum;
    int any = 0;
    for (int k = 0; k < kLanes; ++k) any |= k < lanes ? wrong[k] : 0;
    return any != 0;
  }
};

// What is not a number wins, and stays, as in torch.nn.functional.max_pool2d.
struct LargestExactly {
  static Vector nothing() { return broadcast(-INFINITY); }
  static ARCHCOST_INLINE Vector both(Vector a, Vector b) { return ((b > a) | (b != b)) ? b : a; }
  static ARCHCOST_INLINE Vector take(Vector before, Vector value, int) { return both(before, value); }
};

struct Sum {
  static Vector nothing() { return Vector{}; }
  static ARCHCOST_INLINE Vector both(Vector a, Vector b) { return a + b; }
  static ARCHCOST_INLINE Vector take(Vector before, Vector value, int) { return before + value; }
};

// The pixels under windows, taken together by Operation; finish(column of the tile, value) is what is stored.
// kWidth 0: any window.
template <int kWidth, int kStep, class Operation, class Layout, class End>
class PoolOfTile {
 public:
  PoolOfTile(const UnderWindow& under, const Layout& in, const Layout& out, const Tile& tile,
             Operation& operation, const End& end)
      : under_(under),
        window_(under.window),
        width_(under.of.input.width),
        row_stride_(under.window.row_dilation * under.of.input.row_stride),
        in_(in),
        out_(out),
        tile_(tile),
        operation_(operation),
        end_(end) {}

  ARCHCOST_INLINE void run() const {
    // Fewer channels than a vector are no matter for speed.
    if constexpr (kWidth > 0 && !std::is_same_v<Layout, Narrow>) {
      return tile_.inside ? columns<true>() : columns<false>();
    } else if (tile_.count == 1 && window_.column_dilation == 1) {
      return whole();
    } else {
      return any_window();
    }
  }

 private:
  // First what stands in a column, then neighbouring columns.
  template <bool kInside>
  ARCHCOST_INLINE void columns() const {
    constexpr int kUnder = (kColumns - 1) * kStep + kWidth;
    const unsigned inside = inside_of<kUnder>(tile_, width_);
    Operation operation = operation_;
    Vector column[kUnder];
#pragma GCC unroll 15
    for (int pixel = 0; pixel < kUnder; ++pixel) column[pixel] = Operation::nothing();
    const float* line = tile_.from;
    for (long i = 0; i < tile_.rows; ++i, line += row_stride_) {
#pragma GCC unroll 15
      for (int pixel = 0; pixel < kUnder; ++pixel) {
        if (!kInside && !(inside >> pixel & 1)) continue;
        column[pixel] = operation.take(column[pixel], in_.load(line + pixel * in_.column_stride), pixel);
      }
    }
#pragma GCC unroll 7
    for (int k = 0; k < kColumns; ++k) {
      if (!kInside && k >= tile_.count) break;
      Vector value = column[k * kStep];
#pragma GCC unroll 3
      for (int j = 1; j < kWidth; ++j) value = Operation::both(value, column[k * kStep + j]);
      finish(k, value);
    }
    operation_ = operation;
  }

  // A single output, of a window as large as the image for the most part.
  ARCHCOST_INLINE void whole() const {
    constexpr int kAtOnce = 4;
    const long first = std::max(0L, -tile_.left), end = std::min(window_.width, width_ - tile_.left);
    Vector values[kAtOnce];
    for (Vector& value : values) value = Operation::nothing();
    for (long i = 0; i < tile_.rows; ++i) {
      const float* const line = tile_.from + i * row_stride_;
      long j = first;
      for (; j + kAtOnce <= end; j += kAtOnce) {
#pragma GCC unroll 4
        for (int k = 0; k < kAtOnce; ++k) {
          values[k] = operation_.take(values[k], in_.load(line + (j + k) * in_.column_stride), k);
        }
      }
      for (int k = 0; j < end; ++j, ++k) {
        values[k] = operation_.take(values[k], in_.load(line + j * in_.column_stride), k);
      }
    }
    finish(0, Operation::both(Operation::both(values[0], values[1]), Operation::both(values[2], values[3])));
  }

  ARCHCOST_INLINE void any_window() const {
    Vector values[kColumns];
#pragma GCC unroll 7
    for (int k = 0; k < kColumns; ++k) values[k] = Operation::nothing();
    for (long i = 0; i < tile_.rows; ++i) {
      const float* const line = tile_.from + i * row_stride_;
      for (long j = 0; j < window_.width; ++j) {
        under_.each_output(tile_, j, [&](int k, long x) ARCHCOST_FLAT {
          values[k] = operation_.take(values[k], in_.load(line + x * in_.column_stride), k);
        });
      }
    }
#pragma GCC unroll 7
    for (int k = 0; k < kColumns; ++k) {
      if (k < tile_.count) finish(k, values[k]);
    }
  }

  ARCHCOST_INLINE void finish(int column, Vector value) const {
    out_.store(tile_.to + column * out_.column_stride, end_(column, value));
  }

  const UnderWindow& under_;
  const Window& window_;
  const long width_, row_stride_;
  const Layout &in_, &out_;
  const Tile& tile_;
  Operation& operation_;
  const End& end_;
};

template <int kWidth, int kStep, class Operation, class Layout, class End>
ARCHCOST_INLINE void pool_tile(const UnderWindow& under, const Layout& in, const Layout& out, const Tile& tile,
                               Operation& operation, const End& end) {
  PoolOfTile<kWidth, kStep, Operation, Layout, End>(under, in, out, tile, operation, end).run();
}

template <int kWidth, int kStep>
void max_of_row(const UnderWindow& under, long image, long slice, long row) {
  const auto as_it_is = [](int, Vector value) ARCHCOST_FLAT { return value; };
  Largest quick;
  under.each_tile(image, slice, row, [&](const auto& in, const auto& out, const Tile& tile) ARCHCOST_FLAT {
    pool_tile<kWidth, kStep>(under, in, out, tile, quick, as_it_is);
  });
  // Lanes behind the last channel do not matter.
  if (!quick.doubtful(std::min<long>(kLanes, under.of.output.channels - slice * kLanes))) return;
  under.each_tile(image, slice, row, [&](const auto& in, const auto& out, const Tile& tile) {
    LargestExactly exactly;
    pool_tile<0, 0>(under, in, out, tile, exactly, as_it_is);
  });
}

// How many taps of a window, along one axis, count.
class Counted {
 public:
  Counted(long taps, long step, long padding, long size, bool with_padding)
      : taps_(taps), step_(step), padding_(padding), size_(size), with_padding_(with_padding) {}

  long operator()(long output) const {
    const long first = output * step_ - padding_;
    if (with_padding_) return std::min(first + taps_, size_ + padding_) - first;
    return std::min(first + taps_, size_) - std::max(0L, first);
  }

 private:
  const long taps_, step_, padding_, size_;
  const bool with_padding_;
};

void avg_pool(const ArchcostPool& pool, const ArchcostConvolution& of, const float* input, float* output) {
  const UnderWindow under(window_of(pool.window), of, input, output);
  const Window& window = under.window;
  const bool with_padding = pool.count_include_pad != 0;
  const Counted rows(window.height, window.row_step, of.pad_top, of.input.height, with_padding);
  const Counted columns(window.width, window.column_step, of.pad_left, of.input.width, with_padding);
  with_width_and_step<2, 3>(window, [&](auto width, auto step) {
    under.each_row([&](long image, long slice, long row) {
      const long in_height = rows(row);
      under.each_tile(image, slice, row, [&](const auto& in, const auto& out, const Tile& tile) ARCHCOST_FLAT {
        const long first = (tile.left + of.pad_left) / window.column_step;
        const long same = pool.divisor ? pool.divisor : tile.inside ? in_height * window.width : 0;
        const float factor = same ? 1.0f / float(same) : 0.0f;
        Sum sum;
        pool_tile<width, step>(under, in, out, tile, sum, [&](int column, Vector value) ARCHCOST_FLAT {
          return value * (same ? factor : 1.0f / float(in_height * columns(first + column)));
        });
      });
    });
  });
}

ArchcostConvolution sizes_of(const ArchcostPool& of, int threads) {
  return {of.input, of.output, of.pad_top, of.pad_left, threads, 0, 0, 0};
}

}  // namespace

void max_pool(const Window& window, const ArchcostConvolution& of, const float* input, float* output) {
  const UnderWindow under(window, of, input, output);
  with_width_and_step<2, 3>(window, [&](auto width, auto step) {
    under.each_row([&](long image, long slice, long row) { max_of_row<width, step>(under, image, slice, row); });
  });
}

}  // namespace archcost

ARCHCOST_EXPORT void archcost_step_max_pool(const void* arguments, float* const* places, int threads) {
  const auto& of = *static_cast<const ArchcostPool*>(arguments);
  archcost::max_pool(archcost::window_of(of.window), archcost::sizes_of(of, threads), places[0], places[1]);
}

ARCHCOST_EXPORT void archcost_step_avg_pool(const void* arguments, float* const* places, int threads) {
  const auto& of = *static_cast<const ArchcostPool*>(arguments);
  archcost::avg_pool(of, archcost::sizes_of(of, threads), places[0], places[1]);
}
