// Dense convolution in blocked layout, of any window, stride and dilation, from blocked tensors or, with few
// channels, from NCHW (column_stride 1).
#pragma once

#include "activation.h"
#include "convolution.h"

extern "C" {

// Places: input, packed weights, bias, output, addend, scale, shift, gate, offsets; of those from bias on all
// but the output may be null.
// - bias: whole blocks of floats.
// - addend: as many pixels and channels as the output, by its own strides; added before the activation.
// - scale and shift (both or none): a float of each input channel, whole blocks. Inputs are multiplied, shifted
//   and limited to input_low and input_high before the window looks at them; what is padded stays zero.
// - gate: a float of each input channel of each image, whole blocks, gate_batch_stride from an image to the
//   next; inputs are multiplied by it (after scale and shift).
// - offsets: for each input channel how many floats (int64) behind the input it begins, in place of where `input`
//   says: for blocked input, windows of one pixel, no padding, column_step 1, neither scale nor shift.
// Lanes behind the last output channel may be written or not.
struct ArchcostDirect {
  ArchcostImages input, output, addend;
  std::int64_t height, width, row_step, column_step, row_dilation, column_dilation;
  std::int64_t pad_top, pad_left;
  std::int64_t gate_batch_stride;
  ArchcostActivation activation;
  float input_low, input_high;
};

}  // extern "C"
