// The plain C interface. Functions that can fail return 0, or what went wrong.
#include <cstdint>
#include <exception>

#include "depthwise.h"
#include "depthwise_direct.h"
#include "export.h"
#include "fft.h"
#include "find_tile.h"
#include "im2col.h"
#include "limits.h"
#include "long_row.h"
#include "pool.h"
#include "program.h"
#include "scratch.h"
#include "tiled_convolution.h"
#include "vector.h"
#include "winograd.h"

// What the library was built from: build.py says it, and loading.py compares.
#ifndef ARCHCOST_SOURCES
#define ARCHCOST_SOURCES ""
#endif

namespace {

enum Failure { kNone = 0, kNoSuchTile = 1, kNoMemory = 2 };

using archcost::find_tile;

template <class Work>
int guarded(Work work) {
  try {
    return work(), kNone;
  } catch (const std::exception&) {
    return kNoMemory;
  }
}

}  // namespace

ARCHCOST_EXPORT const char* archcost_sources() { return ARCHCOST_SOURCES; }

ARCHCOST_EXPORT const char* archcost_isa() { return archcost::kIsa; }

// The best set of instructions of this machine that there is a library for.
ARCHCOST_EXPORT const char* archcost_best_isa() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return "avx512";
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "avx2";
#endif
  return archcost::kIsa;
}

ARCHCOST_EXPORT std::int64_t archcost_multiply_add(std::int64_t count, std::int64_t threads) {
  return archcost::multiply_add(count, int(threads));
}

ARCHCOST_EXPORT std::int64_t archcost_read(const float* data, std::int64_t count, std::int64_t times,
                                           std::int64_t threads) {
  return archcost::read_floats(data, count, times, int(threads));
}

// Channels in a block of the blocked layout.
ARCHCOST_EXPORT std::int64_t archcost_lanes() { return archcost::kLanes; }

ARCHCOST_EXPORT int archcost_run(const ArchcostStep* steps, std::int64_t count, float* const* bases,
                                 std::int64_t threads, std::int64_t* nanoseconds) {
  return guarded([&] { archcost::run_program(steps, count, bases, int(threads), nanoseconds); });
}

ARCHCOST_EXPORT std::int64_t archcost_scratch_bytes() { return archcost::scratch_bytes_kept(); }
ARCHCOST_EXPORT void archcost_release_scratch() { archcost::release_scratch(); }
ARCHCOST_EXPORT void archcost_prefer_huge_pages(void* data, std::int64_t bytes) {
  archcost::prefer_huge_pages(data, bytes);
}

// Writes outputs and taps of the vertical and of the horizontal axis: mh, rh, mw, rw. False behind the last.
ARCHCOST_EXPORT int archcost_winograd_tile(int index, std::int64_t (&sizes)[4]) {
  const archcost::TileTransform* const tile = archcost::winograd_tile(index);
  if (!tile) return 0;
  sizes[0] = tile->out_height, sizes[1] = tile->kernel_height;
  sizes[2] = tile->out_width, sizes[3] = tile->kernel_width;
  return 1;
}

// The smallest size of a Fourier transform that is at least so large; 0 if there is none.
ARCHCOST_EXPORT std::int64_t archcost_fft_size(std::int64_t at_least) {
  return archcost::RealFft::at_least(at_least);
}

ARCHCOST_EXPORT std::int64_t archcost_tiles_packed_floats(int family, std::int64_t first, std::int64_t second,
                                                          std::int64_t out_channels, std::int64_t in_channels) {
  const archcost::TileTransform* const tile = find_tile(family, first, second);
  return tile ? archcost::packed_floats(*tile, out_channels, in_channels) : 0;
}

ARCHCOST_EXPORT int archcost_tiles_pack(int family, std::int64_t first, std::int64_t second,
                                        std::int64_t out_channels, std::int64_t in_channels,
                                        const float* weights, float* packed) {
  const archcost::TileTransform* const tile = find_tile(family, first, second);
  if (!tile) return kNoSuchTile;
  return guarded([&] { archcost::pack_weights(*tile, out_channels, in_channels, weights, packed); });
}

ARCHCOST_EXPORT std::int64_t archcost_tiles_scratch_floats(int family, std::int64_t first, std::int64_t second,
                                                           const ArchcostConvolution* of) {
  const archcost::TileTransform* const tile = find_tile(family, first, second);
  return tile ? archcost::scratch_floats(*tile, *of) : 0;
}

ARCHCOST_EXPORT int archcost_tiles(int family, std::int64_t first, std::int64_t second,
                                   const ArchcostConvolution* of, const float* input, const float* packed,
                                   const float* bias, float* output) {
  const archcost::TileTransform* const tile = find_tile(family, first, second);
  if (!tile) return kNoSuchTile;
  return guarded([&] { archcost::convolve_by_tiles(*tile, *of, input, packed, bias, output); });
}

// `addend` lies in memory as the output does, and is added to it before it is limited; it may be null.
ARCHCOST_EXPORT int archcost_tiles_added(int family, std::int64_t first, std::int64_t second,
                                         const ArchcostConvolution* of, const float* input,
                                         const float* packed, const float* bias, const float* addend,
                                         float* output) {
  const archcost::TileTransform* const tile = find_tile(family, first, second);
  if (!tile) return kNoSuchTile;
  return guarded([&] { archcost::convolve_by_tiles(*tile, *of, input, packed, bias, output, addend); });
}

// Of the transform of a row, for rows of `width` pixels and what is padded on either side; 0 if there is none.
ARCHCOST_EXPORT std::int64_t archcost_depthwise_size(std::int64_t taps, std::int64_t width, std::int64_t left,
                                                     std::int64_t right) {
  return archcost::depthwise_transform_size(taps, width, left, right);
}

ARCHCOST_EXPORT std::int64_t archcost_depthwise_packed_floats(std::int64_t height, std::int64_t width,
                                                              std::int64_t size, std::int64_t channels) {
  return archcost::depthwise_packed_floats({height, width, size}, channels);
}

ARCHCOST_EXPORT int archcost_depthwise_pack(std::int64_t height, std::int64_t width, std::int64_t size,
                                            std::int64_t channels, const float* weights, float* packed) {
  return guarded([&] { archcost::pack_depthwise({height, width, size}, channels, weights, packed); });
}

ARCHCOST_EXPORT std::int64_t archcost_depthwise_scratch_floats(std::int64_t height, std::int64_t width,
                                                               std::int64_t size,
                                                               const ArchcostConvolution* of) {
  return archcost::depthwise_scratch_floats({height, width, size}, *of);
}

ARCHCOST_EXPORT int archcost_depthwise(std::int64_t height, std::int64_t width, std::int64_t size,
                                       const ArchcostConvolution* of, const float* input, const float* packed,
                                       const float* bias, float* output) {
  return guarded([&] {
    archcost::convolve_depthwise({height, width, size}, *of, input, packed, bias, output);
  });
}

// Frames are `step` pixels apart; `groups` share the channels. Columns lie together in input and output.
ARCHCOST_EXPORT std::int64_t archcost_long_row_packed_floats(std::int64_t taps, std::int64_t step,
                                                             std::int64_t out_channels,
                                                             std::int64_t in_channels) {
  return archcost::long_row_packed_floats(taps, step, out_channels, in_channels);
}

ARCHCOST_EXPORT int archcost_long_row_pack(std::int64_t taps, std::int64_t step, std::int64_t out_channels,
                                           std::int64_t in_channels, const float* weights, float* packed) {
  return guarded([&] { archcost::pack_long_row(taps, step, out_channels, in_channels, weights, packed); });
}

ARCHCOST_EXPORT std::int64_t archcost_long_row_scratch_floats(std::int64_t taps, std::int64_t step,
                                                              std::int64_t groups,
                                                              const ArchcostConvolution* of) {
  return archcost::long_row_scratch_floats(taps, step, groups, *of);
}

ARCHCOST_EXPORT int archcost_long_row(std::int64_t taps, std::int64_t step, std::int64_t groups,
                                      const ArchcostConvolution* of, const float* input, const float* packed,
                                      const float* bias, float* output) {
  return guarded([&] { archcost::convolve_long_row(taps, step, groups, *of, input, packed, bias, output); });
}

// A window: taps, strides and dilations, each vertical and horizontal.
#define ARCHCOST_WINDOW                                                                                  \
  std::int64_t height, std::int64_t width, std::int64_t row_step, std::int64_t column_step,              \
      std::int64_t row_dilation, std::int64_t column_dilation
#define ARCHCOST_ITS_WINDOW {height, width, row_step, column_step, row_dilation, column_dilation}

ARCHCOST_EXPORT std::int64_t archcost_im2col_packed_floats(ARCHCOST_WINDOW, std::int64_t out_channels,
                                                           std::int64_t in_channels) {
  return archcost::im2col_packed_floats(ARCHCOST_ITS_WINDOW, out_channels, in_channels);
}

ARCHCOST_EXPORT int archcost_im2col_pack(ARCHCOST_WINDOW, std::int64_t out_channels, std::int64_t in_channels,
                                         const float* weights, float* packed) {
  return guarded(
      [&] { archcost::pack_im2col(ARCHCOST_ITS_WINDOW, out_channels, in_channels, weights, packed); });
}

ARCHCOST_EXPORT std::int64_t archcost_im2col_scratch_floats(ARCHCOST_WINDOW, const ArchcostConvolution* of) {
  return archcost::im2col_scratch_floats(ARCHCOST_ITS_WINDOW, *of);
}

ARCHCOST_EXPORT int archcost_im2col(ARCHCOST_WINDOW, const ArchcostConvolution* of, const float* input,
                                    const float* packed, const float* bias, float* output) {
  return guarded([&] { archcost::convolve_im2col(ARCHCOST_ITS_WINDOW, *of, input, packed, bias, output); });
}

ARCHCOST_EXPORT int archcost_im2col_added(ARCHCOST_WINDOW, const ArchcostConvolution* of, const float* input,
                                          const float* packed, const float* bias, const float* addend,
                                          float* output) {
  return guarded(
      [&] { archcost::convolve_im2col(ARCHCOST_ITS_WINDOW, *of, input, packed, bias, output, addend); });
}

ARCHCOST_EXPORT std::int64_t archcost_depthwise_direct_packed_floats(ARCHCOST_WINDOW, std::int64_t channels) {
  return archcost::depthwise_direct_packed_floats(ARCHCOST_ITS_WINDOW, channels);
}

ARCHCOST_EXPORT int archcost_depthwise_direct_pack(ARCHCOST_WINDOW, std::int64_t channels, const float* weights,
                                                   float* packed) {
  return guarded([&] { archcost::pack_depthwise_direct(ARCHCOST_ITS_WINDOW, channels, weights, packed); });
}

// Channels lie together in input and output.
ARCHCOST_EXPORT int archcost_depthwise_direct(ARCHCOST_WINDOW, const ArchcostConvolution* of, const float* input,
                                              const float* packed, const float* bias, const float* addend,
                                              float* output) {
  return guarded([&] {
    archcost::convolve_depthwise_direct(ARCHCOST_ITS_WINDOW, *of, input, packed, bias, addend, output);
  });
}

// Channels lie together in input and output.
ARCHCOST_EXPORT int archcost_max_pool(ARCHCOST_WINDOW, const ArchcostConvolution* of, const float* input,
                                      float* output) {
  return guarded([&] { archcost::max_pool(ARCHCOST_ITS_WINDOW, *of, input, output); });
}
