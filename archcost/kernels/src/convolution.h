// One convolution of stride 1, as the interface hands it over: sizes, and where the numbers lie.
#pragma once

#include <cstdint>

extern "C" {

// Strides count floats. Either channels or columns lie next to each other (stride 1), in input and output
// each for itself: channels_last and NCHW. What the padding adds on the far sides follows from the sizes.
// In blocked layout, [batch][block][row][column][kLanes], a pixel's channels lie together kLanes at a time:
// channel_stride 1, column_stride kLanes, and block_stride from a block to the next. Lanes behind the last
// channel hold numbers that nobody may let into a result.
struct ArchcostImages {
  std::int64_t batch, channels, height, width;
  std::int64_t batch_stride, channel_stride, row_stride, column_stride;
  std::int64_t block_stride;  // from a channel to the one kLanes behind it; 0: kLanes * channel_stride
};

struct ArchcostConvolution {
  ArchcostImages input, output;
  std::int64_t pad_top, pad_left;
  std::int64_t threads;     // at most this many
  std::int64_t block_tiles; // tiles worked on at a time; 0 chooses
  float low, high;          // outputs are limited to these: 0 and infinity for ReLU
};

}  // extern "C"

namespace archcost {

inline bool is_blocked(const ArchcostImages& of) { return of.block_stride != 0; }

inline bool rows_end_to_end(const ArchcostImages& of) {
  return of.height == 1 || of.row_stride == of.width * of.column_stride;
}

}  // namespace archcost
