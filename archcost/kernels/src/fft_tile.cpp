#include "fft_tile.h"

#include <cmath>
#include <complex>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>

namespace archcost {

// Planes: frequency 0, frequency size / 2, then three or a pair for each frequency between.
FftTile::FftTile(int size, int taps, bool gauss)
    : TileTransform(1, size - taps + 1, 1, taps, (gauss ? 3 : 2) * (size / 2 - 1) + 2,
                    gauss ? 3 * (size / 2 - 1) + 2 : 2),
      fft_(size),
      gauss_(gauss) {
  for (int k = 0; k < size; ++k) turns_.push_back(std::polar(0.5 / size, 2 * std::acos(-1.0) * k / size));
}

void FftTile::input(const float* tile, long, long column, float* plane, long plane_stride) const {
  const int last = fft_.size / 2;
  const bool gauss = gauss_;
  fft_.forward([=](int j) ARCHCOST_FLAT { return load(tile + j * column); },
               [=](int k, Complex value) ARCHCOST_FLAT {
                 if (k == 0 || k == last) return store(plane + (k == 0 ? 0 : plane_stride), value.re);
                 float* to = plane + (gauss ? 3 * k - 1 : 2 * k) * plane_stride;
                 if (gauss) store(to, value.re + value.im), to += plane_stride;
                 store(to, value.re);
                 store(to + plane_stride, value.im);
               });
}

void FftTile::output(const float* plane, long plane_stride, float* tile, long, long column,
                     const Finish& finish) const {
  const int last = fft_.size / 2, width = out_width;
  const bool gauss = gauss_;
  const Finish limited = finish;
  fft_.backward(
      [=](int k) ARCHCOST_FLAT {
        if (k == 0 || k == last) return Complex{load(plane + (k == 0 ? 0 : plane_stride)), Vector{}};
        const float* const from = plane + (gauss ? 3 * k - 1 : 2 * k) * plane_stride;
        const Vector first = load(from), second = load(from + plane_stride);
        return gauss ? Complex{first - load(from + 2 * plane_stride), first + second} : Complex{first, second};
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
    } else if (!gauss_) {
      plane[2 * k] = re;
      plane[2 * k + 1] = im;
    } else {
      plane[3 * k - 1] = re;
      plane[3 * k] = im - re;
      plane[3 * k + 1] = re + im;
    }
  }
}

const FftTile* fft_tile(long size, long taps, bool gauss) {
  static std::mutex mutex;
  static auto* const made = new std::map<std::tuple<long, long, bool>, std::unique_ptr<FftTile>>;
  if (taps < 1 || taps > size || RealFft::at_least(size) != size) return nullptr;
  std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<FftTile>& tile = (*made)[{size, taps, gauss}];
  if (!tile) tile = std::make_unique<FftTile>(int(size), int(taps), gauss);
  return tile.get();
}

}  // namespace archcost
