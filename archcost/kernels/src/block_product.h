// The small matrix product of im2col: its left side is read where it lies, and its sums may go on from an earlier
// block of the depth. The weights are laid out as in matrix_product.h.
#pragma once

#include "finish.h"

namespace archcost {

// The columns of the left side: `count` stretches of `length` neighbouring floats, each at an offset from where
// its row begins.
struct Stretches {
  const long* offsets;
  long count, length;
  long depth() const { return count * length; }
};

// Up to kRows rows of the left side, and where their results go.
struct RowGroup {
  const float* left;
  float* result;
  long rows;
};

struct BlockProduct {
  const RowGroup* groups;
  long group_count;
  long left_row;                 // from one row of a group to the next
  bool fetches_rows;             // they lie one behind another in memory, and may be far from the processor
  Stretches full, partial;       // chunks of channels, then those with fewer of them
  const float* panels;
  long whole_depth, first_depth; // of the panels, and where in them the stretches begin
  long column_chunks;
  long result_row, result_chunk; // from one row, and from one chunk of columns, to the next
  bool adds;                     // to what is in the result
  const float* bias;             // for all chunks, where these are the final sums; else null
  const ArchcostConvolution* limits;

  long depth() const { return full.depth() + partial.depth(); }
};

void multiply_block(const BlockProduct& of);

}  // namespace archcost
