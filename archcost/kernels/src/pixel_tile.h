// The matrix product under convolutions in blocked layout: some pixels times two blocks of output channels stay
// in registers. Inputs are read one float at a time and multiply whole vectors of weights, which lie in the order
// in which they are read.
#pragma once

#include <algorithm>
#include <cstdint>

#include "activation.h"
#include "vector.h"

namespace archcost {

constexpr int kPanelBlocks = 2;  // blocks of output channels in a tile

// `count` stretches of neighbouring floats, each at an offset from where a pixel's inputs begin.
struct Stretches {
  const std::int64_t* offsets;
  long count, length;
  long depth() const { return count * length; }
};

// The panel of weights of a pair of blocks, or of the last one: [depth][blocks][kLanes].
constexpr long panel_floats(long depth) { return depth * kPanelBlocks * kLanes; }

// What all tiles of a convolution share.
struct TileProduct {
  Stretches whole, rest;                 // the depth: first these, then those
  long input_row;                        // from one row of a tile to the next
  long output_row, output_block;
  long addend_row, addend_block;
  ArchcostActivation activation;

  long depth() const { return whole.depth() + rest.depth(); }
};

// A rectangle of pixels and some panels of output channels. Pointers are to the first pixel and the first of all
// channels. Where the last block is half empty its second half may be left as it is.
struct TileRegion {
  const float* input;
  const float* weights;
  const float* bias;
  const float* addend;
  float* output;
  long rows, columns;
  long channels;              // of the output
  long first_panel, panels;
  bool panel_outer;           // else each tile is multiplied by all panels, one after the other
};

inline long panels_of(long channels) { return divide_up(divide_up(channels, kLanes), kPanelBlocks); }

// Pixels lie kLanes floats apart, or side by side: `step` is kLanes or 1.
void multiply_region(const TileProduct& of, const TileRegion& region, long step);

// A row of pixels in pieces of about the same size, none larger than `most`.
struct Pieces {
  Pieces(long pixels, long most)
      : count(divide_up(pixels, most)), size(pixels / count), larger(pixels % count) {}
  long begin(long piece) const { return piece * size + std::min(piece, larger); }
  long length(long piece) const { return size + (piece < larger); }

  const long count, size, larger;
};

}  // namespace archcost
