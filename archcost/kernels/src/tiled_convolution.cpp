#include "tiled_convolution.h"

#include <algorithm>
#include <vector>

#include "epilogue.h"
#include "export.h"
#include "find_tile.h"
#include "matrix_product.h"
#include "pixels.h"
#include "scratch.h"
#include "threads.h"

namespace archcost {
namespace {

// Where a plane of products begins behind the one before it: an odd number of cache lines further, so that the
// planes of one tile do not all fall on the same few sets of the cache.
long plane_stride(long floats) { return round_up(floats, 32) + 16; }

// A rectangle of tiles. Rows of tiles are counted through all images; a block of several rows has all columns.
struct Block {
  long first_row, rows, first_column, columns;
  long tiles() const { return rows * columns; }
};

// How one convolution is cut into tiles and blocks, and how much memory a block works in.
class Plan {
 public:
  Plan(const TileTransform& transform, const ArchcostConvolution& of)
      : tile_rows(divide_up(of.output.height, transform.out_height)),
        tile_columns(divide_up(of.output.width, transform.out_width)),
        in_channels(of.input.channels),
        in_chunks(divide_up(in_channels, kLanes)),
        out_chunks(divide_up(of.output.channels, kLanes)),
        threads(int(std::max<long>(1, of.threads))) {
    const long rows = of.output.batch * tile_rows;
    const long wanted = of.block_tiles > 0 ? of.block_tiles : tiles_at_a_time(transform);
    columns_in_block = divide_up(tile_columns, divide_up(tile_columns, wanted));
    const long rows_wanted = columns_in_block < tile_columns ? 1 : std::max<long>(1, wanted / tile_columns);
    columns_of_blocks = divide_up(tile_columns, columns_in_block);
    rows_of_blocks = divide_up(rows, rows_wanted);
    // A thread that has the planes of another to go on with waits for them: blocks are shared only where there
    // are too few. Else each thread takes its own, and as many as the others.
    share_blocks = rows_of_blocks * columns_of_blocks < threads;
    if (!share_blocks) rows_of_blocks = std::min(rows, round_up(rows_of_blocks, threads));
    rows_in_block = divide_up(rows, rows_of_blocks);
    blocks = rows_of_blocks * columns_of_blocks;
    all_rows = rows;

    const long tiles = rows_in_block * columns_in_block;
    input_plane = plane_stride(tiles * in_chunks * kLanes);
    output_plane = plane_stride(tiles * out_chunks * kLanes);
    if (!share_blocks) input_plane = output_plane = std::max(input_plane, output_plane);
    staged_row = ((columns_in_block - 1) * transform.out_width + transform.in_width) * kLanes;
    const long staged_in = ((rows_in_block - 1) * transform.out_height + transform.in_height) * staged_row;
    const long staged_out = transform.out_height * columns_in_block * transform.out_width * kLanes;
    const long one_tile = long(transform.in_height) * transform.in_width * kLanes;
    staging = plane_stride(std::max({staged_in, staged_out, one_tile}));
    // The products of a plane stand where the inputs of the plane or pair before were: half as much to keep in a cache.
    const long before = transform.real_planes < transform.planes ? 2 : 1;
    products_of_input = share_blocks ? transform.planes * input_plane : -before * output_plane;
    products = share_blocks ? transform.planes * (input_plane + output_plane) : (transform.planes + before) * input_plane;
  }

  Block block(long index) const {
    const long place = index / columns_of_blocks, row = place * all_rows / rows_of_blocks;
    const long next_row = (place + 1) * all_rows / rows_of_blocks;
    const long column = index % columns_of_blocks * columns_in_block;
    return {row, next_row - row, column,
            std::min(columns_in_block, tile_columns - column)};
  }

  // Each worker stages by itself; the products belong to a block.
  long floats() const { return threads * staging + (share_blocks ? 1 : threads) * products; }

  const long tile_rows, tile_columns, in_channels, in_chunks, out_chunks;
  const int threads;
  long columns_in_block, rows_in_block, columns_of_blocks, rows_of_blocks, blocks, all_rows;
  bool share_blocks;
  long input_plane, output_plane, staged_row, staging, products;
  long products_of_input;  // from the first plane of inputs to the first one of products

 private:
  // As many as keep the products in the second-level cache beside the weights; but every block reads all weights
  // once, and the further off they lie, the more tiles a block must have to pay for that.
  long tiles_at_a_time(const TileTransform& transform) const {
    constexpr long kCache = 1 << 19, kNear = 3 << 20, kFar = 20 << 20;
    const long chunks = std::max(in_chunks, out_chunks);
    const long bytes_of_tile = transform.planes * chunks * kLanes * long(sizeof(float));
    const long bytes_of_weights =
        transform.planes * in_channels * out_chunks * kLanes * long(sizeof(float));
    const long least = bytes_of_weights <= kNear ? 14 : bytes_of_weights <= kFar ? 28 : 56;
    return round_up(std::max(least, kCache / bytes_of_tile), kRows);
  }
};

class TiledConvolution {
 public:
  TiledConvolution(const TileTransform& transform, const ArchcostConvolution& of, const float* input,
                   const float* packed, const float* bias, const float* addend, float* output,
                   const ArchcostActivation& activation)
      : transform_(transform),
        of_(of),
        epilogue_(of, addend, output, activation),
        limits_(epilogue_.before()),
        plan_(transform, of),
        input_(input),
        packed_(packed),
        output_(output),
        bias_(bias),
        scratch_(plan_.floats()) {}

  void run() {
    if (plan_.share_blocks) {
      for (long index = 0; index < plan_.blocks; ++index) run_block(index, 0, plan_.threads);
    } else {
      parallel_for(plan_.threads, plan_.blocks, [&](long index, int worker) { run_block(index, worker, 1); });
    }
  }

 private:
  void run_block(long index, int owner, int threads) {
    const Block block = plan_.block(index);
    float* const first = scratch_.data() + plan_.threads * plan_.staging + owner * plan_.products;
    float* const in_planes = first + std::max(0L, -plan_.products_of_input);
    float* const out_planes = in_planes + plan_.products_of_input;
    auto staging = [&](int worker) {
      return scratch_.data() + (threads > 1 ? worker : owner) * plan_.staging;
    };
    // In channels_last a row of tiles takes all chunks while its pixels are in the cache; else its rows share the
    // pixels of a chunk.
    const bool by_rows_in = is_last(of_.input), by_rows_out = is_last(of_.output);
    parallel_for(threads, by_rows_in ? block.rows : plan_.in_chunks, [&](long item, int worker) {
      if (by_rows_in) {
        for (long column = 0; column < block.columns; ++column) {
          for (long c = 0; c < plan_.in_chunks; ++c) transform(block, item, column, c, in_planes, staging(worker));
        }
      } else if (is_blocked(of_.input)) {
        for (long row = 0; row < block.rows; ++row) {
          for (long c = 0; c < block.columns; ++c) transform(block, row, c, item, in_planes, staging(worker));
        }
      } else {
        transform_chunk(block, item, in_planes, staging(worker));
      }
    });
    const long real = transform_.real_planes;
    parallel_for(threads, real + (transform_.planes - real) / 2, [&](long item, int) {
      const long plane = std::min(item, real) + 2 * std::max(0L, item - real);
      const long tiles = block.tiles() * kLanes, depth = of_.input.channels;
      const long weights = depth * plan_.out_chunks * kLanes;
      const float *const left = in_planes + plane * plan_.input_plane, *const panels = packed_ + plane * weights;
      float* const result = out_planes + plane * plan_.output_plane;
      if (plane < real) {
        matrix_product(block.tiles(), depth, plan_.out_chunks, left, tiles, panels, result, tiles);
      } else {
        complex_matrix_product(block.tiles(), depth, plan_.out_chunks, {left, left + plan_.input_plane}, tiles,
                               {panels, panels + weights}, {result, result + plan_.output_plane}, tiles);
      }
    });
    parallel_for(threads, by_rows_out ? block.rows : plan_.out_chunks, [&](long item, int worker) {
      if (by_rows_out) {
        restore_row(block, item, 0, plan_.out_chunks, out_planes, staging(worker));
      } else if (is_blocked(of_.output)) {
        for (long row = 0; row < block.rows; ++row) {
          restore_row(block, row, item, item + 1, out_planes, staging(worker));
        }
      } else {
        restore_chunk(block, item, out_planes, staging(worker));
      }
    });
  }

  static bool is_last(const ArchcostImages& of) { return of.channel_stride == 1 && !is_blocked(of); }

  Finish finish_of(long chunk) const { return {bias_of(bias_, chunk * kLanes, of_.output.channels), limits_}; }

  long image_of(const Block& block, long row) const { return (block.first_row + row) / plan_.tile_rows; }
  long tile_row_of(const Block& block, long row) const { return (block.first_row + row) % plan_.tile_rows; }

  // Channels together: a tile is read where it lies; one that reaches over an edge is copied first.
  void transform(const Block& block, long row, long column, long chunk, float* planes, float* staging) {
    const int height = transform_.in_height, width = transform_.in_width;
    const Pixels source(of_.input, input_, image_of(block, row), chunk * kLanes);
    const long top = tile_row_of(block, row) * transform_.out_height - of_.pad_top;
    const long left = (block.first_column + column) * transform_.out_width - of_.pad_left;
    float* const target = planes + (chunk * block.tiles() + row * block.columns + column) * kLanes;
    if (source.contains(top, left, height, width)) {
      transform_.input(source.at(top, left), source.row_stride, source.column_stride, target, plan_.input_plane);
    } else {
      source.gather(top, left, height, width, staging, width * kLanes);
      transform_.input(staging, width * kLanes, kLanes, target, plan_.input_plane);
    }
  }

  // NCHW: all the pixels under the tiles of an image are first transposed, kLanes channels to a vector.
  void transform_chunk(const Block& block, long chunk, float* planes, float* staging) {
    float* target = planes + chunk * block.tiles() * kLanes;
    const long left = block.first_column * transform_.out_width - of_.pad_left;
    const long width = (block.columns - 1) * transform_.out_width + transform_.in_width;
    for (long row = 0, rows; row < block.rows; row += rows) {
      rows = std::min(block.rows - row, plan_.tile_rows - tile_row_of(block, row));
      const Pixels source(of_.input, input_, image_of(block, row), chunk * kLanes);
      const long top = tile_row_of(block, row) * transform_.out_height - of_.pad_top;
      const long height = (rows - 1) * transform_.out_height + transform_.in_height;
      source.gather(top, left, height, width, staging, plan_.staged_row);
      for (long i = 0; i < rows; ++i) {
        const float* const tile = staging + i * transform_.out_height * plan_.staged_row;
        for (long column = 0; column < block.columns; ++column, target += kLanes) {
          transform_.input(tile + column * transform_.out_width * kLanes, plan_.staged_row, kLanes, target,
                           plan_.input_plane);
        }
      }
    }
  }

  void restore_row(const Block& block, long row, long begin, long end, const float* planes, float* staging) {
    const long top = tile_row_of(block, row) * transform_.out_height, image = image_of(block, row);
    const long height = std::min<long>(transform_.out_height, of_.output.height - top);
    const long staged_row = transform_.out_width * kLanes;
    for (long column = 0; column < block.columns; ++column) {
      const long left = (block.first_column + column) * transform_.out_width;
      for (long chunk = begin; chunk < end; ++chunk) {
        const Pixels target(of_.output, output_, image, chunk * kLanes);
        const float* const source = planes + (chunk * block.tiles() + row * block.columns + column) * kLanes;
        const Finish finish = finish_of(chunk);
        if (target.contains(top, left, transform_.out_height, transform_.out_width)) {
          transform_.output(source, plan_.output_plane, target.at(top, left), target.row_stride,
                            target.column_stride, finish);
        } else {
          transform_.output(source, plan_.output_plane, staging, staged_row, kLanes, finish);
          const long width = std::min<long>(transform_.out_width, of_.output.width - left);
          target.scatter(top, left, height, width, staging, staged_row);
        }
      }
    }
    if (!epilogue_) return;
    const long left = block.first_column * transform_.out_width;
    const long width = std::min<long>(block.columns * transform_.out_width, of_.output.width - left);
    epilogue_(image, begin * kLanes, (end - begin) * kLanes, top, left, height, width);
  }

  void restore_chunk(const Block& block, long chunk, const float* planes, float* staging) {
    const float* source = planes + chunk * block.tiles() * kLanes;
    const Finish finish = finish_of(chunk);
    const long staged_row = block.columns * transform_.out_width * kLanes;
    const long left = block.first_column * transform_.out_width;
    const long width = std::min<long>(block.columns * transform_.out_width, of_.output.width - left);
    for (long row = 0; row < block.rows; ++row) {
      for (long column = 0; column < block.columns; ++column, source += kLanes) {
        transform_.output(source, plan_.output_plane, staging + column * transform_.out_width * kLanes,
                          staged_row, kLanes, finish);
      }
      const long top = tile_row_of(block, row) * transform_.out_height;
      const long height = std::min<long>(transform_.out_height, of_.output.height - top);
      Pixels(of_.output, output_, image_of(block, row), chunk * kLanes)
          .scatter(top, left, height, width, staging, staged_row);
      if (epilogue_) epilogue_(image_of(block, row), chunk * kLanes, kLanes, top, left, height, width);
    }
  }

  const TileTransform& transform_;
  const ArchcostConvolution& of_;
  const Epilogue epilogue_;
  const ArchcostConvolution limits_;
  const Plan plan_;
  const float* const input_;
  const float* const packed_;
  float* const output_;
  const float* const bias_;
  Scratch scratch_;
};

}  // namespace

long packed_floats(const TileTransform& transform, long out_channels, long in_channels) {
  return transform.planes * round_up(out_channels, kLanes) * in_channels;
}

void pack_weights(const TileTransform& transform, long out_channels, long in_channels, const float* weights,
                  float* packed) {
  const long chunks = divide_up(out_channels, kLanes);
  const long kernel = long(transform.kernel_height) * transform.kernel_width;
  const long plane_floats = in_channels * chunks * kLanes;
  std::vector<double> plane(transform.planes);
  // A whole vector of every plane at a time, since each plane is far from the next.
  std::vector<float> lanes(transform.planes * kLanes);
  for (long chunk = 0; chunk < chunks; ++chunk) {
    const long panel = chunk / kPanelVectors, within = chunk % kPanelVectors;
    const long vectors = std::min<long>(kPanelVectors, chunks - panel * kPanelVectors);
    const long outs = std::min<long>(kLanes, out_channels - chunk * kLanes);
    float* const column = packed + panel * kPanelVectors * in_channels * kLanes + within * kLanes;
    std::fill(lanes.begin(), lanes.end(), 0.0f);
    for (long in = 0; in < in_channels; ++in) {
      for (long out = 0; out < outs; ++out) {
        transform.weight(weights + ((chunk * kLanes + out) * in_channels + in) * kernel, plane.data());
        for (int p = 0; p < transform.planes; ++p) lanes[p * kLanes + out] = float(plane[p]);
      }
      for (int p = 0; p < transform.planes; ++p) {
        store(column + p * plane_floats + in * vectors * kLanes, load(&lanes[p * kLanes]));
      }
    }
  }
}

long scratch_floats(const TileTransform& transform, const ArchcostConvolution& convolution) {
  return Plan(transform, convolution).floats();
}

void convolve_by_tiles(const TileTransform& transform, const ArchcostConvolution& convolution,
                       const float* input, const float* packed, const float* bias, float* output,
                       const float* addend, const ArchcostActivation& activation) {
  TiledConvolution(transform, convolution, input, packed, bias, addend, output, activation).run();
}

}  // namespace archcost

ARCHCOST_EXPORT void archcost_step_tiles(const void* arguments, float* const* places, int threads) {
  const auto& of = *static_cast<const ArchcostTiles*>(arguments);
  ArchcostConvolution convolution = archcost::with_limits(of.convolution, of.activation);
  convolution.threads = threads;
  archcost::convolve_by_tiles(*archcost::find_tile(of.family, of.first, of.second), convolution, places[0], places[1],
                              places[2], places[4], places[3], of.activation);
}
