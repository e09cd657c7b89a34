// The left side of im2col's product, a block at a time: the inputs under the window, for each output position.
#pragma once

#include <vector>

#include "block_product.h"
#include "im2col_columns.h"

namespace archcost {

class Im2colLeft {
 public:
  // For blocks of about `positions`.
  Im2colLeft(const Im2colColumns& columns, const ArchcostConvolution& of, const float* input, long positions,
             const std::vector<ColumnBlock>& blocks);

  long blocks() const;
  std::vector<Run> block(long index) const;
  long most_positions() const { return most_positions_; }
  long scratch_floats() const { return chunk_floats_ * most_chunks_ + kLanes; }

  // Makes a block of rows and of columns readable, in scratch or where it is.
  void fill(const std::vector<Run>& runs, const ColumnBlock& columns, float* scratch) const;
  // Where the row of the first position of a run begins, from then on.
  const float* row(const std::vector<Run>& runs, std::size_t run, long position_in_block,
                   const float* scratch) const;
  long row_stride() const;
  // Of a block of columns.
  Stretches full(std::size_t block) const { return {offsets_[block].data(), full_[block], length_}; }
  Stretches partial(std::size_t block) const {
    return {offsets_[block].data() + full_[block], long(offsets_[block].size()) - full_[block],
            columns_.channels % kLanes};
  }
  // Rows of the left side follow each other over the ends of runs.
  bool continuous() const { return way_ == kCopied; }
  bool in_place() const { return way_ == kInPlace; }
  // Positions are those of this output: in one row where rows need not be told apart.
  const ArchcostImages& output() const { return output_; }

 private:
  enum Way {
    kInPlace,  // one tap, channels together: the input is the matrix
    kStaged,   // the pixels under a rectangle of positions, read again for every tap
    kCopied    // the matrix written out, where rows are too short to fill registers
  };
  Way way() const;
  long row_stride_in_place() const;
  void find_offsets(const std::vector<ColumnBlock>& blocks);
  void stage(const Run& first, long rows, const ColumnBlock& columns, float* to) const;
  void stage_dense(long image, long top, long left, long height, long width, float* to) const;
  void copy(const Run& run, const ColumnBlock& columns, float* to) const;

  const Im2colColumns& columns_;
  const Window& window_;
  ArchcostImages input_, output_;
  const long pad_top_, pad_left_;
  const float* const data_;
  const float* const behind_;
  Way way_;
  long rows_, row_width_;         // of a block
  long most_positions_, pitch_;   // of a row in staging, in pixels
  long chunk_floats_, most_chunks_ = 0, length_ = kLanes;
  std::vector<std::vector<long>> offsets_;
  std::vector<long> full_;
};

}  // namespace archcost
