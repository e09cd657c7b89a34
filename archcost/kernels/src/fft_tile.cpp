#include "fft_tile.h"

#include <cmath>
#include <complex>
#include <map>
#include <memory>
#include <mutex>

namespace archcost {

// Planes: frequency 0, frequency size / 2, then three for each frequency between.
FftTile::FftTile(int size, int taps)
    : TileTransform(1, size - taps + 1, 1, taps, 3 * (size / 2 - 1) + 2), fft_(size) {
  for (int k = 0; k < size; ++k) turns_.push_back(std::polar(1.0 / size, 2 * std::acos(-1.0) * k / size));
}

void FftTile::input(const float* tile, long, long column, float* plane, long plane_stride) const {
  Vector signal[RealFft::kMostSize];
  Complex spectrum[RealFft::kMostSize / 2 + 1];
  const int size = fft_.size;
  for (int j = 0; j < size; ++j) signal[j] = load(tile + j * column);
  fft_.forward(signal, spectrum);
  store(plane, spectrum[0].re);
  store(plane + plane_stride, spectrum[size / 2].re);
  for (int k = 1; k < size / 2; ++k) {
    float* const three = plane + (3 * k - 1) * plane_stride;
    store(three, spectrum[k].re + spectrum[k].im);
    store(three + plane_stride, spectrum[k].re);
    store(three + 2 * plane_stride, spectrum[k].im);
  }
}

void FftTile::output(const float* plane, long plane_stride, float* tile, long, long column,
                     const Finish& finish) const {
  Vector signal[RealFft::kMostSize];
  Complex spectrum[RealFft::kMostSize / 2 + 1];
  const int size = fft_.size;
  spectrum[0] = {load(plane), Vector{}};
  spectrum[size / 2] = {load(plane + plane_stride), Vector{}};
  for (int k = 1; k < size / 2; ++k) {
    const float* const three = plane + (3 * k - 1) * plane_stride;
    const Vector common = load(three);
    spectrum[k] = {common - load(three + 2 * plane_stride), common + load(three + plane_stride)};
  }
  fft_.backward(spectrum, signal);
  for (int j = 0; j < out_width; ++j) store(tile + j * column, finish(signal[j]));
}

// The spectrum of a correlation is conjugate; 1 / size makes up for the way back.
void FftTile::weight(const float* kernel, double* plane) const {
  const int size = fft_.size;
  for (int k = 0; k <= size / 2; ++k) {
    double re = 0, im = 0;
    for (int j = 0, turn = 0; j < kernel_width; ++j, turn = turn + k < size ? turn + k : turn + k - size) {
      re += kernel[j] * turns_[turn].real();
      im += kernel[j] * turns_[turn].imag();
    }
    if (k == 0 || k == size / 2) {
      plane[k == 0 ? 0 : 1] = re;
    } else {
      plane[3 * k - 1] = re;
      plane[3 * k] = im - re;
      plane[3 * k + 1] = re + im;
    }
  }
}

const FftTile* fft_tile(long size, long taps) {
  static std::mutex mutex;
  static auto* const made = new std::map<std::pair<long, long>, std::unique_ptr<FftTile>>;
  if (taps < 1 || taps > size || RealFft::at_least(size) != size) return nullptr;
  std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<FftTile>& tile = (*made)[{size, taps}];
  if (!tile) tile = std::make_unique<FftTile>(int(size), int(taps));
  return tile.get();
}

}  // namespace archcost
