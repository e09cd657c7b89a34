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
  for (int k = 0; k < size; ++k) turns_.push_back(std::polar(0.5 / size, 2 * std::acos(-1.0) * k / size));
}

void FftTile::input(const float* tile, long, long column, float* plane, long plane_stride) const {
  const int last = fft_.size / 2;
  fft_.forward([=](int j) ARCHCOST_FLAT { return load(tile + j * column); },
               [=](int k, Complex value) ARCHCOST_FLAT {
                 if (k == 0 || k == last) return store(plane + (k == 0 ? 0 : plane_stride), value.re);
                 float* const three = plane + (3 * k - 1) * plane_stride;
                 store(three, value.re + value.im);
                 store(three + plane_stride, value.re);
                 store(three + 2 * plane_stride, value.im);
               });
}

void FftTile::output(const float* plane, long plane_stride, float* tile, long, long column,
                     const Finish& finish) const {
  const int last = fft_.size / 2, width = out_width;
  const Finish limited = finish;
  fft_.backward(
      [=](int k) ARCHCOST_FLAT {
        if (k == 0 || k == last) return Complex{load(plane + (k == 0 ? 0 : plane_stride)), Vector{}};
        const float* const three = plane + (3 * k - 1) * plane_stride;
        const Vector common = load(three);
        return Complex{common - load(three + 2 * plane_stride), common + load(three + plane_stride)};
      },
      [=](int j, Vector value) ARCHCOST_FLAT {
        if (j < width) store(tile + j * column, limited(value));
      });
}

// The spectrum of a correlation is conjugate; the factor of the roots makes up for those of the transforms.
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
