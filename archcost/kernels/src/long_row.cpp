#include "long_row.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <vector>

#include "fft.h"
#include "finish.h"
#include "scratch.h"
#include "threads.h"

// One transform of a long row leaves no work for the lanes of a vector where there are few channels. So the row
// is cut into frames, kLanes of which are transformed at a time, and the taps into parts as long as frames are
// apart: at each frequency the spectra of the output frames are a short convolution, over the frames, of those
// of the input with those of the parts. (T. G. Stockham 1966; A. Torger and A. Farina, "Real-time partitioned
// convolution for Ambiophonics surround sound", 2001.)

namespace archcost {
namespace {

// Vectors of frames summed up at a time: so many complex sums stay in registers.
constexpr int kFrames = kLanes == 16 ? 4 : 2;
constexpr long kAtOnce = kFrames * kLanes;

class LongRow {
 public:
  LongRow(long taps, long step, long groups, const ArchcostConvolution& of)
      : of_(of),
        step_(step),
        parts_(long_row_parts(taps, step)),
        groups_(groups),
        ins_(of.input.channels / groups),
        outs_(of.output.channels / groups),
        out_frames_(round_up(divide_up(of.output.width, step), kAtOnce)),
        in_frames_(round_up(out_frames_ + parts_ - 1, kLanes)) {}

  int threads() const { return int(std::max<long>(1, of_.threads)); }
  // Of the real parts, or of the imaginary ones, of the spectra of all frames of a channel: frame by frame for
  // each frequency.
  long spectra_floats() const { return frequencies() * in_frames_; }
  long worker_floats() const { return round_up(2 * frequencies() * kAtOnce, 1024) + 16; }
  long scratch_floats() const { return round_up(2 * ins_ * spectra_floats(), 1024) + threads() * worker_floats(); }

  void run(const float* input, const float* packed, const float* bias, float* output) const {
    const RealFft fft(int(2 * step_));
    const Scratch scratch(scratch_floats());
    float* const spectra = scratch.data();
    float* const workers = spectra + round_up(2 * ins_ * spectra_floats(), 1024);
    const long in_blocks = in_frames_ / kLanes, out_blocks = out_frames_ / kAtOnce;
    for (long image = 0; image < of_.input.batch; ++image) {
      for (long group = 0; group < groups_; ++group) {
        parallel_for(threads(), ins_ * in_blocks, [&](long item, int) {
          const long channel = item / in_blocks, block = item % in_blocks;
          const float* const row =
              input + image * of_.input.batch_stride + (group * ins_ + channel) * of_.input.channel_stride;
          transform(fft, row, block * kLanes, spectra + 2 * channel * spectra_floats());
        });
        parallel_for(threads(), outs_ * out_blocks, [&](long item, int worker) {
          const long channel = group * outs_ + item / out_blocks, first = item % out_blocks * kAtOnce;
          float* const sums = workers + worker * worker_floats();
          multiply(spectra, packed + channel * ins_ * frequencies() * parts_ * 2, first, sums);
          const Finish finish(broadcast(bias ? bias[channel] : 0.0f), of_);
          float* const row = output + image * of_.output.batch_stride + channel * of_.output.channel_stride;
          restore(fft, sums, first, finish, row);
        });
      }
    }
  }

 private:
  long frequencies() const { return step_ + 1; }

  // kLanes frames: frame f begins at pixel f * step, padding included.
  void transform(const RealFft& fft, const float* row, long first, float* spectra) const {
    Vector data[RealFft::kMostSize], *const signal = data;
    const long width = of_.input.width, size = 2 * step_;
    for (long j = 0; j < size; j += kLanes) {
      const long count = std::min<long>(kLanes, size - j);
      Vector square[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) {
        square[lane] = pixels(row, width, (first + lane) * step_ + j - of_.pad_left);
      }
      transpose(square);
      for (long p = 0; p < count; ++p) signal[j + p] = square[p];
    }
    float *const re = spectra + first, *const im = re + spectra_floats();
    const long apart = in_frames_;
    fft.forward([=](int j) ARCHCOST_FLAT { return signal[j]; },
                [=](int k, Complex value) ARCHCOST_FLAT {
                  store(re + k * apart, value.re);
                  store(im + k * apart, value.im);
                });
  }

  // A vector of a row, zero outside it.
  static Vector pixels(const float* row, long width, long at) {
    if (at >= 0 && at + kLanes <= width) return load(row + at);
    alignas(64) float lanes[kLanes] = {};
    for (long i = std::max(0L, -at); i < kLanes && at + i < width; ++i) lanes[i] = row[at + i];
    return load(lanes);
  }

  // kAtOnce output frames: at each frequency the sum over input channels and parts.
  void multiply(const float* spectra, const float* packed, long first, float* sums) const {
    for (long k = 0; k < frequencies(); ++k) {
      Complex sum[kFrames] = {};
      for (long channel = 0; channel < ins_; ++channel) {
        const float* const re = spectra + 2 * channel * spectra_floats() + k * in_frames_ + first;
        const float* const im = re + spectra_floats();
        const float* const weights = packed + (channel * frequencies() + k) * parts_ * 2;
        for (long part = 0; part < parts_; ++part) {
          const float weight_re = weights[2 * part], weight_im = weights[2 * part + 1];
#pragma GCC unroll 4
          for (int i = 0; i < kFrames; ++i) {
            const Vector x_re = load(re + part + i * kLanes), x_im = load(im + part + i * kLanes);
            sum[i].re += weight_re * x_re;
            sum[i].im += weight_re * x_im;
            sum[i].re -= weight_im * x_im;
            sum[i].im += weight_im * x_re;
          }
        }
      }
      for (int i = 0; i < kFrames; ++i) {
        store(sums + (2 * k * kFrames + i) * kLanes, sum[i].re);
        store(sums + ((2 * k + 1) * kFrames + i) * kLanes, sum[i].im);
      }
    }
  }

  // Back; of each frame the first `step` outputs are right.
  void restore(const RealFft& fft, const float* sums, long first, const Finish& finish, float* row) const {
    Vector data[RealFft::kMostSize], *const signal = data;
    for (int i = 0; i < kFrames; ++i) {
      const long frame = first + i * kLanes;
      if (frame * step_ >= of_.output.width) return;
      const float* const own = sums + i * kLanes;
      fft.backward(
          [=](int k) ARCHCOST_FLAT {
            return Complex{load(own + 2 * k * kAtOnce), load(own + (2 * k + 1) * kAtOnce)};
          },
          [=](int j, Vector value) ARCHCOST_FLAT { signal[j] = value; });
      for (long j = 0; j < step_; j += kLanes) {
        Vector square[kLanes];
        for (long p = 0; p < kLanes; ++p) square[p] = j + p < step_ ? finish(signal[j + p]) : Vector{};
        transpose(square);
        for (int lane = 0; lane < kLanes; ++lane) {
          const long at = (frame + lane) * step_ + j;
          const long count = std::min<long>(std::min<long>(kLanes, step_ - j), of_.output.width - at);
          if (count > 0) store_first(row + at, square[lane], count);
        }
      }
    }
  }

  const ArchcostConvolution& of_;
  const long step_, parts_, groups_, ins_, outs_, out_frames_, in_frames_;
};

}  // namespace

long long_row_parts(long taps, long step) { return divide_up(taps, step); }

long long_row_packed_floats(long taps, long step, long out_channels, long in_channels) {
  return out_channels * in_channels * (step + 1) * long_row_parts(taps, step) * 2;
}

// [out channel][in channel][frequency][part][re, im], conjugate for a correlation, over what the transforms multiply by.
void pack_long_row(long taps, long step, long out_channels, long in_channels, const float* weights,
                   float* packed) {
  const long size = 2 * step, parts = long_row_parts(taps, step);
  std::vector<std::complex<double>> roots;
  for (long k = 0; k < size; ++k) roots.push_back(std::polar(0.5 / double(size), 2 * std::acos(-1.0) * double(k) / double(size)));
  for (long pair = 0; pair < out_channels * in_channels; ++pair, weights += taps) {
    for (long k = 0; k <= step; ++k) {
      for (long part = 0; part < parts; ++part, packed += 2) {
        std::complex<double> sum = 0;
        const long begin = part * step, end = std::min(taps, begin + step);
        for (long j = begin; j < end; ++j) sum += double(weights[j]) * roots[k * (j - begin) % size];
        packed[0] = float(sum.real());
        packed[1] = float(sum.imag());
      }
    }
  }
}

long long_row_scratch_floats(long taps, long step, long groups, const ArchcostConvolution& convolution) {
  return LongRow(taps, step, groups, convolution).scratch_floats();
}

void convolve_long_row(long taps, long step, long groups, const ArchcostConvolution& convolution,
                       const float* input, const float* packed, const float* bias, float* output) {
  LongRow(taps, step, groups, convolution).run(input, packed, bias, output);
}

}  // namespace archcost
