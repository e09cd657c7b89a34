// How one algorithm turns a tile of the input into products and the products into a tile of the output.
#pragma once

#include "finish.h"
#include "vector.h"

namespace archcost {

// Each tile of in_height by in_width inputs becomes `planes` numbers; so does each kernel; multiplied and
// summed over the input channels plane by plane, they give out_height by out_width outputs. One vector
// holds kLanes channels of one pixel. Strides count floats. Planes from real_planes on are pairs, the real and the
// imaginary parts of complex numbers.
class TileTransform {
 public:
  TileTransform(int out_height, int out_width, int kernel_height, int kernel_width, int planes, int real_planes)
      : out_height(out_height),
        out_width(out_width),
        kernel_height(kernel_height),
        kernel_width(kernel_width),
        in_height(out_height + kernel_height - 1),
        in_width(out_width + kernel_width - 1),
        planes(planes),
        real_planes(real_planes) {}
  virtual ~TileTransform() = default;

  virtual void input(const float* tile, long row, long column, float* plane, long plane_stride) const = 0;
  virtual void output(const float* plane, long plane_stride, float* tile, long row, long column,
                      const Finish& finish) const = 0;
  // One kernel of kernel_height by kernel_width, in double precision: it is done once.
  virtual void weight(const float* kernel, double* plane) const = 0;

  const int out_height, out_width, kernel_height, kernel_width, in_height, in_width, planes, real_planes;
};

}  // namespace archcost
