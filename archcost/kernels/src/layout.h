// Tensors of images from one layout to another, and channels gathered from several.
#pragma once

#include "convolution.h"

extern "C" {

// Sizes are equal; channels or columns lie together on either side (else it is done float by float). An output
// in blocked layout (block_stride not 0) gets zeros in the lanes behind the
// last channel. [batch][pixels][channels] are images of height 1.
struct ArchcostConversion {
  ArchcostImages input, output;
};

constexpr int kArchcostMostSources = 16;

// Channel c of the output is the channel from[c] % 2^32 of the source from[c] / 2^32; all tensors are in blocked
// layout, rows end to end. The table follows this structure: `channels` numbers of 64 bits.
struct ArchcostGather {
  std::int64_t batch, channels, pixels, sources;
  std::int64_t batch_stride, block_stride;  // of the output
  std::int64_t source_batch_stride[kArchcostMostSources], source_block_stride[kArchcostMostSources];
};

}  // extern "C"

// archcost_step_convert: places input, output.
// archcost_step_gather: places of all sources, output.
