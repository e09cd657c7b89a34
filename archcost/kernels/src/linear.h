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

// archcost_step_linear: places x, packed weights, addend (may be null), y. y may be the addend.
