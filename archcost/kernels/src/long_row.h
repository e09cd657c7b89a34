// The convolution along a row with many taps: partitioned overlap-save.
#pragma once

#include "convolution.h"

namespace archcost {

// Taps are cut into parts of `step`, the signal into frames of 2 * step that overlap by half.
long long_row_parts(long taps, long step);

// out_channels by in_channels of a group.
long long_row_packed_floats(long taps, long step, long out_channels, long in_channels);
void pack_long_row(long taps, long step, long out_channels, long in_channels, const float* weights, float* packed);

// Columns lie together in input and output; `groups` share the channels of both.
long long_row_scratch_floats(long taps, long step, long groups, const ArchcostConvolution& convolution);
void convolve_long_row(long taps, long step, long groups, const ArchcostConvolution& convolution,
                       const float* input, const float* packed, const float* bias, float* output);

}  // namespace archcost
