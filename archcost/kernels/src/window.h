// The window of a convolution of any stride and dilation, and runs of output positions under it.
#pragma once

#include "convolution.h"

extern "C" {

struct ArchcostWindow {
  std::int64_t height, width, row_step, column_step, row_dilation, column_dilation;
};

}  // extern "C"

namespace archcost {

struct Window {
  long height, width, row_step, column_step, row_dilation, column_dilation;

  long taps() const { return height * width; }
  long row_of(long tap) const { return tap / width * row_dilation; }
  long column_of(long tap) const { return tap % width * column_dilation; }
  // Input rows or columns that so many neighbouring outputs look at.
  long rows_under(long outputs) const { return (outputs - 1) * row_step + (height - 1) * row_dilation + 1; }
  long columns_under(long outputs) const {
    return (outputs - 1) * column_step + (width - 1) * column_dilation + 1;
  }
};

inline Window window_of(const ArchcostWindow& of) {
  return {long(of.height), long(of.width), long(of.row_step), long(of.column_step), long(of.row_dilation),
          long(of.column_dilation)};
}

// Neighbouring positions in a row of one image.
struct Run {
  long image, row, column, count;
};

// The same images with all pixels in one row, where they lie in memory like that.
inline ArchcostImages flattened(ArchcostImages of) {
  if (rows_end_to_end(of)) of.width *= of.height, of.height = 1;
  return of;
}

}  // namespace archcost
