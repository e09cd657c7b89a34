// Products of two tensors: batches of matrices, and attention.
#pragma once

#include "linear.h"

extern "C" {

// c = activation(a b), for each of `batch` in two levels (examples and heads): [rows][depth] times [depth][columns], or
// times the transpose of [columns][depth]. Numbers of a row lie together.
struct ArchcostMatmul {
  ArchcostActivation activation;
  std::int64_t batch, heads, rows, depth, columns, transposed;
  std::int64_t a_batch_stride, a_head_stride, a_row_stride;
  std::int64_t b_batch_stride, b_head_stride, b_row_stride;
  std::int64_t out_batch_stride, out_head_stride, out_row_stride;
};

// Of a tensor [batch][heads][rows][numbers], in any order but the last.
struct ArchcostHeads {
  std::int64_t batch_stride, head_stride, row_stride;
};

// Is added to the scores before the softmax: of example n that of n % period (1 for all the same).
struct ArchcostMask {
  std::int64_t period, batch_stride, head_stride, row_stride;
};

// out = softmax(scale q k^T + masks) v.
struct ArchcostAttention {
  std::int64_t batch, heads, queries, keys, depth, values;  // depth: numbers of a query and a key; values: of a value
  ArchcostHeads q, k, v, out;
  ArchcostMask first_mask, second_mask;
  float scale;
};

}  // extern "C"

// archcost_step_matmul: places a, b, out.
// archcost_step_attention: places q, k, v, first mask, second mask (either may be null), out.
