#include "depthwise_direct.h"

#include <algorithm>

#include "epilogue.h"
#include "export.h"
#include "under_window.h"

namespace archcost {
namespace {

class Depthwise {
 public:
  Depthwise(const UnderWindow& under, const float* packed, const float* bias)
      : under_(under), window_(under.window), of_(under.of), packed_(packed), bias_(bias) {}

  // kWidth 0: any window.
  template <int kWidth, int kStep, class Layout>
  ARCHCOST_INLINE void tile(const Layout& in, const Layout& out, const Tile& tile) const {
    // Fewer channels than a vector are no matter for speed.
    if constexpr (kWidth == 0 || std::is_same_v<Layout, Narrow>) {
      any_window(in, out, tile);
    } else if (tile.inside) {
      window<kWidth, kStep, true>(in, out, tile);
    } else {
      window<kWidth, kStep, false>(in, out, tile);
    }
  }

 private:
  const float* weights(const Tile& tile) const {
    return packed_ + (tile.block * window_.height + tile.skipped) * window_.width * kLanes;
  }
  Vector bias(const Tile& tile) const { return bias_of(bias_, tile.first_channel, of_.output.channels); }

  template <int kWidth, int kStep, bool kInside, class Layout>
  ARCHCOST_INLINE void window(const Layout& in, const Layout& out, const Tile& tile) const {
    constexpr int kUnder = (kColumns - 1) * kStep + kWidth;
    const unsigned inside = inside_of<kUnder>(tile, of_.input.width);
    const long row_stride = window_.row_dilation * of_.input.row_stride;
    const float *line = tile.from, *weight = weights(tile);
    Vector sums[kColumns];
    const Vector first = bias(tile);
#pragma GCC unroll 7
    for (int column = 0; column < kColumns; ++column) sums[column] = first;
    for (long i = 0; i < tile.rows; ++i, line += row_stride, weight += kWidth * kLanes) {
      Vector taps[kWidth];
#pragma GCC unroll 7
      for (int j = 0; j < kWidth; ++j) taps[j] = load(weight + j * kLanes);
#pragma GCC unroll 19
      for (int pixel = 0; pixel < kUnder; ++pixel) {
        if (!kInside && !(inside >> pixel & 1)) continue;
        const Vector value = in.load(line + pixel * in.column_stride);
#pragma GCC unroll 7
        for (int column = 0; column < kColumns; ++column) {
          const int tap = pixel - column * kStep;
          if (tap >= 0 && tap < kWidth) sums[column] += value * taps[tap];
        }
      }
    }
    finish_tile<kInside>(out, tile, sums, of_);
  }

  template <class Layout>
  ARCHCOST_INLINE void any_window(const Layout& in, const Layout& out, const Tile& tile) const {
    Vector sums[kColumns];
    const Vector first = bias(tile);
#pragma GCC unroll 7
    for (int column = 0; column < kColumns; ++column) sums[column] = first;
    const float* weight = weights(tile);
    for (long i = 0; i < tile.rows; ++i) {
      const float* const line = tile.from + i * window_.row_dilation * of_.input.row_stride;
      for (long j = 0; j < window_.width; ++j, weight += kLanes) {
        const Vector tap = load(weight);
        under_.each_output(tile, j, [&](int column, long x) ARCHCOST_FLAT {
          sums[column] += in.load(line + x * in.column_stride) * tap;
        });
      }
    }
    finish_tile<false>(out, tile, sums, of_);
  }

  const UnderWindow& under_;
  const Window& window_;
  const ArchcostConvolution& of_;
  const float* const packed_;
  const float* const bias_;
};

}  // namespace

// One block more than there are: the last whole one in channels_last, see UnderWindow.
long depthwise_direct_packed_floats(const Window& window, long channels) {
  return (divide_up(channels, kLanes) + 1) * window.taps() * kLanes;
}

// [block][tap][channel]
void pack_depthwise_direct(const Window& window, long channels, const float* weights, float* packed) {
  const long blocks = divide_up(channels, kLanes);
  for (long block = 0; block <= blocks; ++block) {
    const long first = block < blocks ? block * kLanes : std::max(0L, channels - kLanes);
    for (long tap = 0; tap < window.taps(); ++tap) {
      for (long c = first; c < first + kLanes; ++c) {
        *packed++ = c < channels ? weights[c * window.taps() + tap] : 0.0f;
      }
    }
  }
}

void convolve_depthwise_direct(const Window& window, const ArchcostConvolution& convolution, const float* input,
                               const float* packed, const float* bias, const float* addend, float* output,
                               const ArchcostActivation& activation) {
  const Epilogue epilogue(convolution, addend, output, activation);
  const UnderWindow under(window, epilogue.before(), input, output);
  const Depthwise depthwise(under, packed, bias);
  with_width_and_step<3, 5, 7>(window, [&](auto width, auto step) {
    under.each_row([&](long image, long slice, long row) {
      under.each_tile(image, slice, row, [&](const auto& in, const auto& out, const Tile& tile) ARCHCOST_FLAT {
        depthwise.tile<width, step>(in, out, tile);
      });
      if (epilogue) epilogue(image, slice * kLanes, under.channels(), row, 0, 1, convolution.output.width);
    });
  });
}

}  // namespace archcost

ARCHCOST_EXPORT void archcost_step_depthwise(const void* arguments, float* const* places, int threads) {
  const auto& of = *static_cast<const ArchcostDepthwise*>(arguments);
  const ArchcostConvolution convolution =
      archcost::with_limits({of.input, of.output, of.pad_top, of.pad_left, threads, 0, 0, 0}, of.activation);
  archcost::convolve_depthwise_direct(archcost::window_of(of.window), convolution, places[0], places[1], places[2],
                                      places[3], places[4], of.activation);
}
