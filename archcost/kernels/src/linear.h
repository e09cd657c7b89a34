// A linear layer: y = activation(x W^T + bias + addend), rows of x being examples or tokens.
#pragma once

#include "activation.h"

extern "C" {

// Strides count floats, from a row to the next; the numbers of a row lie together.
struct ArchcostLinear {
  ArchcostActivation activation;
  std::int64_t rows, in, out;
  std::int64_t in_stride, out_stride, addend_stride;
};

}  // extern "C"

namespace archcost {

// Panels as in matrix_product.h, and the bias behind them.
long linear_packed_floats(long out, long in);
// Weights [out][in], or [in][out], a row `stride` floats behind the other; bias may be null.
void pack_linear(long out, long in, const float* weights, long stride, bool in_first, const float* bias, float* packed);
void linear(const ArchcostLinear& of, const float* x, const float* packed, const float* addend, float* y, int threads);

}  // namespace archcost

// archcost_step_linear: places x, packed weights, addend (may be null), y. y may be the addend.
