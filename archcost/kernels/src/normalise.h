// Normalisation by statistics of the input itself, and softmax. Maps are those of squeeze.h: blocked layout or rows, input
// and output each for itself, so that a layer norm also goes from one to the other. The output may be the input.
#pragma once

#include "squeeze.h"

extern "C" {

// Over the channels of each pixel.
struct ArchcostLayerNorm {
  ArchcostMap input, output;
  ArchcostActivation activation;
  float epsilon;
};

// Over the pixels and the channels of each of `groups` groups: an instance norm where there are as many groups as channels.
struct ArchcostGroupNorm {
  ArchcostMap input, output;
  ArchcostActivation activation;
  std::int64_t groups;
  float epsilon;
};

// Over the `length` neighbouring floats of each row.
struct ArchcostSoftmax {
  std::int64_t rows, length, in_stride, out_stride;
};

}  // extern "C"

// archcost_step_layer_norm, archcost_step_group_norm: places input, weight, bias, output; weight and bias are a float per
// channel, whole vectors (round_up(channels, kLanes) floats), and may be null.
// archcost_step_softmax: places input, output.
