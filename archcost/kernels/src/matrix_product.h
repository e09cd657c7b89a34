// The small matrix product under everything dense: [rows][depth] times [depth][columns].
//
// The left side and the result come in chunks of kLanes columns, [chunk][row][kLanes], so that a few rows of a
// chunk are a few neighbouring cache lines. The right side, the weights, comes in panels of two vectors,
// [panel][depth][2 * kLanes], the last one with a single vector where the number of chunks is odd. The last
// chunk of the left side may have fewer columns in use.
#pragma once

namespace archcost {

constexpr int kPanelVectors = 2;

// A chunk of the left side begins `left_stride` floats behind the one before it, a chunk of the result
// `result_stride` floats.
void matrix_product(long rows, long depth, long column_chunks, const float* left, long left_stride,
                    const float* panels, float* result, long result_stride);

// The same of complex numbers, real and imaginary parts apart; a part's strides are those of the other.
struct ComplexLeft {
  const float *re, *im;
};
struct ComplexResult {
  float *re, *im;
};
void complex_matrix_product(long rows, long depth, long column_chunks, ComplexLeft left, long left_stride,
                            ComplexLeft panels, ComplexResult result, long result_stride);

}  // namespace archcost
