// Overlap-save along a row as a TileTransform: the dense 1-d convolution with many taps.
#pragma once

#include <complex>
#include <vector>

#include "fft.h"
#include "tile_transform.h"

namespace archcost {

// Transforms of `size`, of which size - taps + 1 outputs are right. A product of two complex numbers takes
// three real ones (Gauss), each a plane, or is one of pairs of planes; the first and the last frequency are real and
// take one plane each.
class FftTile final : public TileTransform {
 public:
  FftTile(int size, int taps, bool gauss);

  void input(const float* tile, long row, long column, float* plane, long plane_stride) const override;
  void output(const float* plane, long plane_stride, float* tile, long row, long column,
              const Finish& finish) const override;
  void weight(const float* kernel, double* plane) const override;

 private:
  const RealFft fft_;
  const bool gauss_;
  std::vector<std::complex<double>> turns_;  // for the weights: the roots of unity over `size`
};

// Made when first asked for, and kept; nullptr where there is no such transform.
const FftTile* fft_tile(long size, long taps, bool gauss);

}  // namespace archcost
