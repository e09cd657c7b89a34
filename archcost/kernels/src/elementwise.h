// Operations on floats one by one: out = activation(a op b), and activation(a * scale + shift).
//
// Tensors are runs of neighbouring floats, `length` for each image and block: height * width * kLanes in blocked
// layout; a whole tensor, or a channel of NCHW, or a row, in any other. Strides count floats; `out` may be `a` or
// `b`. Only lengths that are no multiple of kLanes are read and written float by float at their end.
#pragma once

#include "activation.h"

extern "C" {

struct ArchcostRuns {
  std::int64_t batch, blocks, length;
};

struct ArchcostRun {
  std::int64_t batch_stride, block_stride;  // from a run to the one of the next image, and of the next block
};

// operation is one of archcost::Operation; second says how b lies, one of archcost::Second.
struct ArchcostElementwise {
  ArchcostActivation activation;
  std::int64_t operation, second;
  ArchcostRuns runs;
  ArchcostRun a, b, out;
};

struct ArchcostAffine {
  ArchcostActivation activation;
  std::int64_t second;  // of scale and shift: kVector or kFloat
  ArchcostRuns runs;
  ArchcostRun a, factors, out;
};

}  // extern "C"

namespace archcost {

enum Operation : std::int64_t {
  kAdd = 0,
  kSubtract = 1,
  kMultiply = 2,
  kDivide = 3,
  kMaximum = 4,  // what is not a number stays so, as in torch.maximum
  kMinimum = 5,
  kNone = 6,     // activation(a); there is no b
  kSubtractFrom = 7,  // b - a
  kDivideInto = 8,    // b / a
};

enum Second : std::int64_t {
  kRun = 0,     // a run as long as that of a
  kVector = 1,  // kLanes floats for the whole run: a vector per channel (batch_stride 0, block_stride kLanes) or a
                // gate [batch][channels], in blocked layout; whole vectors are read
  kFloat = 2,   // one float for the whole run: a scalar (both strides 0), or per channel in NCHW
};

}  // namespace archcost

// archcost_step_elementwise: places a, b (null where there is none), out.
// archcost_step_affine: places a, scale, shift, out.
