#include "depthwise_direct.h"

#include <algorithm>
#include <vector>

#include "addend.h"
#include "finish.h"
#include "threads.h"
#include "under_window.h"

namespace archcost {
namespace {

// Output pixels of a row that are computed together: each pixel that is loaded serves all that see it.
constexpr int kColumns = 7;
constexpr int kBandsPerThread = 4;

// Where the channels of pixels under the window begin, one row behind the other.
using Seen = std::vector<const float*>;

class Depthwise {
 public:
  Depthwise(const Window& window, const ArchcostConvolution& of, const float* input, const float* packed,
            const float* bias, const float* addend, float* output)
      : window_(window),
        of_(Addend::without_limits(of, addend)),
        input_(input),
        packed_(packed),
        output_(output),
        addend_(of, addend, output),
        zeros_(of.input.channels + kLanes),
        bias_(of.input.channels + kLanes) {
    if (bias) std::copy(bias, bias + of.input.channels, bias_.begin());
  }

  void run() const {
    const ArchcostImages& out = of_.output;
    const long threads = std::max<long>(1, of_.threads);
    // Neighbouring rows look at the same pixels: they stay with one thread.
    const long rows = threads == 1 ? out.height : divide_up(out.height, kBandsPerThread * threads);
    const long bands = divide_up(out.height, rows);
    parallel_for(int(threads), out.batch * bands, [&](long item, int) {
      const long image = item / bands, first = item % bands * rows;
      Seen seen;
      for (long row = first; row < std::min(first + rows, out.height); ++row) run_row(image, row, seen);
    });
  }

 private:
  void run_row(long image, long row, Seen& seen) const {
    if (window_.column_dilation != 1 || of_.output.width < kColumns || of_.output.channels < kLanes) {
      columns_of_any_width(image, row, seen);
    } else if (window_.width == 3 && window_.column_step < 3) {
      window_.column_step == 1 ? columns<3, 1>(image, row, seen) : columns<3, 2>(image, row, seen);
    } else if (window_.width == 5 && window_.column_step < 3) {
      window_.column_step == 1 ? columns<5, 1>(image, row, seen) : columns<5, 2>(image, row, seen);
    } else if (window_.width == 7 && window_.column_step < 3) {
      window_.column_step == 1 ? columns<7, 1>(image, row, seen) : columns<7, 2>(image, row, seen);
    } else {
      columns_of_any_width(image, row, seen);
    }
    if (addend_) addend_(image, 0, of_.output.channels, row, 0, 1, of_.output.width);
  }

  template <int kWidth, int kStep>
  void columns(long image, long row, Seen& seen) const {
    constexpr int kUnder = (kColumns - 1) * kStep + kWidth;
    const ArchcostImages& in = of_.input;
    for (long next = 0; next < of_.output.width; next += kColumns) {
      // The last ones overlap those before, so as to be as many.
      const long column = std::min(next, of_.output.width - kColumns), left = column * kStep - of_.pad_left;
      const bool inside = left >= 0 && left + kUnder <= in.width;
      const long first_row = look(image, row, left, inside ? 1 : kUnder, seen);
      const float* const weights = weights_of(first_row);
      float* const to = at(image, row, column);
      if (inside) {
        blocks<kWidth, kStep>(Inside{seen.data(), 0, in.column_stride}, long(seen.size()), weights, to);
      } else {
        blocks<kWidth, kStep>(AtBorder<kUnder>{seen.data()}, long(seen.size()) / kUnder, weights, to);
      }
    }
  }

  template <int kWidth, int kStep, class Pixels>
  void blocks(const Pixels& pixels, long rows, const float* weights, float* to) const {
    const long channels = of_.output.channels;
    for (long c = 0; c < channels; c += kLanes) {
      block<kWidth, kStep>(pixels, rows, weights, std::min(c, channels - kLanes), to);
    }
  }

  template <int kWidth, int kStep, class Pixels>
  ARCHCOST_INLINE void block(const Pixels& pixels, long rows, const float* weights, long channel, float* to) const {
    constexpr int kUnder = (kColumns - 1) * kStep + kWidth;
    const long channels = of_.output.channels;
    Vector sums[kColumns] = {};
    for (long i = 0; i < rows; ++i, weights += kWidth * channels) {
      Vector taps[kWidth];
#pragma GCC unroll 7
      for (int j = 0; j < kWidth; ++j) taps[j] = load(weights + j * channels + channel);
#pragma GCC unroll 19
      for (int pixel = 0; pixel < kUnder; ++pixel) {
        const Vector value = load(pixels.at(i, pixel) + channel);
#pragma GCC unroll 7
        for (int column = 0; column < kColumns; ++column) {
          const int tap = pixel - column * kStep;
          if (tap >= 0 && tap < kWidth) sums[column] += value * taps[tap];
        }
      }
    }
    const Finish finish(load(bias_.data() + channel), of_);
#pragma GCC unroll 7
    for (int column = 0; column < kColumns; ++column) {
      store(to + column * of_.output.column_stride + channel, finish(sums[column]));
    }
  }

  void columns_of_any_width(long image, long row, Seen& seen) const {
    const long channels = of_.output.channels;
    for (long column = 0; column < of_.output.width; ++column) {
      const long first_row = look(image, row, column * window_.column_step - of_.pad_left, window_.width, seen);
      const float* const weights = weights_of(first_row);
      float* const to = at(image, row, column);
      for (long c = 0; c < channels; c += kLanes) {
        const long count = std::min<long>(kLanes, channels - c);
        Vector sum = {};
        for (std::size_t tap = 0; tap < seen.size(); ++tap) {
          sum += load_first(seen[tap] + c, count) * load_first(weights + tap * channels + c, count);
        }
        store_first(to + c, Finish(load(bias_.data() + c), of_)(sum), count);
      }
    }
  }

  // The pixels from a column on, in those rows under the window that are in the image; the first of them.
  long look(long image, long row, long left, long count, Seen& seen) const {
    const ArchcostImages& in = of_.input;
    seen.clear();
    long first_row = window_.height;
    for (long i = 0; i < window_.height; ++i) {
      const long y = row * window_.row_step + i * window_.row_dilation - of_.pad_top;
      if (y < 0 || y >= in.height) continue;
      first_row = std::min(first_row, i);
      const float* const line = input_ + image * in.batch_stride + y * in.row_stride;
      for (long j = 0; j < count; ++j) {
        const long x = left + j * window_.column_dilation;
        seen.push_back(x < 0 || x >= in.width ? zeros_.data() : line + x * in.column_stride);
      }
    }
    return first_row;
  }

  const float* weights_of(long row) const { return packed_ + row * window_.width * of_.output.channels; }

  float* at(long image, long row, long column) const {
    const ArchcostImages& out = of_.output;
    return output_ + image * out.batch_stride + row * out.row_stride + column * out.column_stride;
  }

  const Window& window_;
  const ArchcostConvolution of_;
  const float* const input_;
  const float* const packed_;
  float* const output_;
  const Addend addend_;
  const std::vector<float> zeros_;
  std::vector<float> bias_;
};

}  // namespace

long depthwise_direct_packed_floats(const Window& window, long channels) { return window.taps() * channels; }

void pack_depthwise_direct(const Window& window, long channels, const float* weights, float* packed) {
  for (long tap = 0; tap < window.taps(); ++tap) {
    for (long c = 0; c < channels; ++c) packed[tap * channels + c] = weights[c * window.taps() + tap];
  }
}

void convolve_depthwise_direct(const Window& window, const ArchcostConvolution& convolution, const float* input,
                               const float* packed, const float* bias, const float* addend, float* output) {
  Depthwise(window, convolution, input, packed, bias, addend, output).run();
}

}  // namespace archcost
