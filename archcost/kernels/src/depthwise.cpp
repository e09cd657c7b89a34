#include "depthwise.h"

#include <algorithm>
#include <cmath>
#include <complex>

#include "epilogue.h"
#include "export.h"
#include "fft.h"
#include "finish.h"
#include "pixels.h"
#include "row_fetch.h"
#include "scratch.h"
#include "threads.h"

// A row of the output is the sum, over the rows of the kernel, of one-dimensional correlations. In the spectrum of
// the rows each is a product for every frequency, and the sum over the rows is left as it is: with registers
// full of output rows it runs at the processor's full speed, which a transform of the columns would not.

namespace archcost {
namespace {

// Output rows summed up at a time: so many complex sums, and the input row and the weight, in registers.
constexpr int kRowsAtOnce = kLanes == 16 ? 6 : 4;
// Rows of the input that are fetched ahead.
constexpr long kAhead = 2;
// A complex vector is stored as two.
constexpr long kStep = 2 * kLanes;

ARCHCOST_INLINE Complex load_complex(const float* from) { return {load(from), load(from + kLanes)}; }
ARCHCOST_INLINE void store_complex(float* to, Complex value) {
  store(to, value.re);
  store(to + kLanes, value.im);
}

class DepthwiseConvolution {
 public:
  DepthwiseConvolution(const DepthwiseKernel& kernel, const ArchcostConvolution& of)
      : kernel_(kernel),
        of_(of),
        frequencies_(kernel.transform_size / 2 + 1),
        // Rows of zeros above and below, for the rows at once that begin or end a little outside.
        in_rows_(of.input.height + 2 * (kRowsAtOnce - 1)),
        out_rows_(round_up(of.output.height, kRowsAtOnce)),
        chunks_(divide_up(of.input.channels, kLanes)) {}

  int threads() const { return int(std::max<long>(1, of_.threads)); }
  long row_floats() const { return std::max(of_.input.width, of_.output.width) * kLanes; }
  long worker_floats() const {
    return round_up(frequencies_ * (in_rows_ + out_rows_) * kStep + row_floats(), 1024) + 16;
  }

  void run(const float* input, const float* packed, const float* bias, float* output, const float* addend,
           const ArchcostActivation& activation) const {
    const RealFft& fft = real_fft(int(kernel_.transform_size));
    const Epilogue epilogue(of_, addend, output, activation);
    const ArchcostConvolution limits = epilogue.before();
    const Scratch scratch(threads() * worker_floats());
    parallel_for(threads(), of_.input.batch * chunks_, [&](long item, int worker) {
      const long image = item / chunks_, chunk = item % chunks_;
      float* const row = scratch.data() + worker * worker_floats();
      float* const in = row + row_floats();
      float* const out = in + frequencies_ * in_rows_ * kStep;
      const Finish finish(bias_of(bias, chunk * kLanes, of_.input.channels), limits);
      transform_rows(fft, Pixels(of_.input, input, image, chunk * kLanes), row, in);
      for (long k = 0; k < frequencies_; ++k) {
        const long weights = (chunk * frequencies_ + k) * kernel_.height * kStep;
        sum_columns(in + k * in_rows_ * kStep, packed + weights, out + k * out_rows_ * kStep);
      }
      restore_rows(fft, out, Pixels(of_.output, output, image, chunk * kLanes), row, finish);
      if (epilogue) epilogue(image, chunk * kLanes, kLanes, 0, 0, of_.output.height, of_.output.width);
    });
  }

 private:
  void transform_rows(const RealFft& fft, const Pixels& source, float* row, float* spectra) const {
    alignas(64) static const float zeros[kLanes] = {};
    const long border = kRowsAtOnce - 1, height = of_.input.height, width = of_.input.width;
    for (long k = 0; k < frequencies_; ++k) {
      for (long i = 0; i < border; ++i) {
        store_complex(spectra + (k * in_rows_ + i) * kStep, Complex{});
        store_complex(spectra + (k * in_rows_ + border + height + i) * kStep, Complex{});
      }
    }
    for (long i = 0; i < height; ++i) {
      fetch_row<false>(source, of_.input, i + kAhead);
      const bool in_place = source.channels_together() && source.contains(i, 0, 1, width);
      if (!in_place) source.gather(i, 0, 1, width, row, 0);
      const float* const pixels = in_place ? source.at(i, 0) : row;
      const long step = in_place ? source.column_stride : kLanes;
      float* const target = spectra + (border + i) * kStep;
      const long apart = in_rows_ * kStep;
      fft.forward([=](int j) ARCHCOST_FLAT { return load(j < width ? pixels + j * step : zeros); },
                  [=](int k, Complex value) ARCHCOST_FLAT { store_complex(target + k * apart, value); });
    }
  }

  // One frequency: the sum over the rows of the kernel, for every output row.
  void sum_columns(const float* in, const float* weights, float* out) const {
    for (long first = 0; first < of_.output.height; first += kRowsAtOnce) {
      // Of the first row at once; the kernel's rows outside the image for all of them are left out.
      const long top = first - of_.pad_top;
      const long begin = std::max(0L, 1 - kRowsAtOnce - top);
      const long end = std::min<long>(kernel_.height, of_.input.height - top);
      Complex sum[kRowsAtOnce] = {};
      for (long a = begin; a < end; ++a) {
        const Complex weight = load_complex(weights + a * kStep);
        const float* const rows = in + (top + a + kRowsAtOnce - 1) * kStep;
#pragma GCC unroll 6
        for (int i = 0; i < kRowsAtOnce; ++i) {
          const Complex x = load_complex(rows + i * kStep);
          sum[i].re += x.re * weight.re;
          sum[i].im += x.re * weight.im;
          sum[i].re -= x.im * weight.im;
          sum[i].im += x.im * weight.re;
        }
      }
#pragma GCC unroll 6
      for (int i = 0; i < kRowsAtOnce; ++i) store_complex(out + (first + i) * kStep, sum[i]);
    }
  }

  void restore_rows(const RealFft& fft, const float* spectra, const Pixels& target, float* row,
                    const Finish& finish) const {
    for (long i = 0; i < of_.output.height; ++i) {
      fetch_row<true>(target, of_.output, i + 1);
      const float* const source = spectra + i * kStep;
      const bool in_place = target.channels_together() && target.contains(i, 0, 1, of_.output.width);
      float* const pixels = in_place ? target.at(i, 0) : row;
      const long step = in_place ? target.column_stride : kLanes;
      // Output j stands pad_left places before its first tap: the first ones come from the end of the circle.
      const long apart = out_rows_ * kStep, left = of_.pad_left, width = of_.output.width, size = fft.size;
      fft.backward([=](int k) ARCHCOST_FLAT { return load_complex(source + k * apart); },
                   [=](int place, Vector value) ARCHCOST_FLAT {
                     const long j = place + left < size ? place + left : place + left - size;
                     if (j < width) store(pixels + j * step, finish(value));
                   });
      if (!in_place) target.scatter(i, 0, 1, of_.output.width, row, 0);
    }
  }

  const DepthwiseKernel& kernel_;
  const ArchcostConvolution& of_;
  const long frequencies_, in_rows_, out_rows_, chunks_;
};

}  // namespace

// Zeros on the left and zeros on the right may be the same ones, as the transform is circular.
long depthwise_transform_size(long taps, long width, long pad_left, long pad_right) {
  return RealFft::at_least(std::max({width + pad_left, width + pad_right, taps}));
}

long depthwise_packed_floats(const DepthwiseKernel& kernel, long channels) {
  return divide_up(channels, kLanes) * (kernel.transform_size / 2 + 1) * kernel.height * kStep;
}

// [chunk of channels][frequency][row of the kernel][re, im][channel]
void pack_depthwise(const DepthwiseKernel& kernel, long channels, const float* weights, float* packed) {
  const long size = kernel.transform_size, frequencies = size / 2 + 1;
  const double step = 2 * std::acos(-1.0) / double(size);
  std::fill(packed, packed + depthwise_packed_floats(kernel, channels), 0.0f);
  for (long channel = 0; channel < channels; ++channel) {
    for (long row = 0; row < kernel.height; ++row) {
      const float* const taps = weights + (channel * kernel.height + row) * kernel.width;
      for (long k = 0; k < frequencies; ++k) {
        std::complex<double> sum = 0;  // the factor makes up for those of the transforms
        for (long j = 0; j < kernel.width; ++j) sum += double(taps[j]) * std::polar(1.0, step * (k * j % size));
        const long place = ((channel / kLanes * frequencies + k) * kernel.height + row) * kStep;
        packed[place + channel % kLanes] = float(sum.real() / double(2 * size));
        packed[place + kLanes + channel % kLanes] = float(sum.imag() / double(2 * size));
      }
    }
  }
}

long depthwise_scratch_floats(const DepthwiseKernel& kernel, const ArchcostConvolution& convolution) {
  const DepthwiseConvolution of(kernel, convolution);
  return of.threads() * of.worker_floats();
}

void convolve_depthwise(const DepthwiseKernel& kernel, const ArchcostConvolution& convolution,
                        const float* input, const float* packed, const float* bias, float* output,
                        const float* addend, const ArchcostActivation& activation) {
  DepthwiseConvolution(kernel, convolution).run(input, packed, bias, output, addend, activation);
}

}  // namespace archcost

ARCHCOST_EXPORT void archcost_step_fft_depthwise(const void* arguments, float* const* places, int threads) {
  const auto& of = *static_cast<const ArchcostFftDepthwise*>(arguments);
  ArchcostConvolution convolution = archcost::with_limits(of.convolution, of.activation);
  convolution.threads = threads;
  archcost::convolve_depthwise({of.height, of.width, of.transform_size}, convolution, places[0], places[1], places[2],
                               places[4], places[3], of.activation);
}
