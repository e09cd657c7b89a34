// Programs in several threads at once, each with its own arena, give what they give alone.
#include <array>
#include <memory>
#include <thread>

#include "checking.h"
#include "depthwise.h"
#include "direct.h"
#include "fft.h"
#include "find_tile.h"
#include "linear.h"
#include "program.h"
#include "squeeze.h"
#include "tiled_convolution.h"
#include "winograd.h"

extern "C" {

void archcost_direct_pack(const std::int64_t (&window)[6], std::int64_t out, std::int64_t in, std::int64_t blocked,
                          const float* weights, float* packed);
int archcost_run(const ArchcostStep* steps, std::int64_t count, float* const* bases, std::int64_t threads,
                 std::int64_t* nanoseconds);
void archcost_step_direct(const void* arguments, float* const* places, int threads);
void archcost_step_tiles(const void* arguments, float* const* places, int threads);
void archcost_step_fft_depthwise(const void* arguments, float* const* places, int threads);
void archcost_step_global_pool(const void* arguments, float* const* places, int threads);
void archcost_step_linear(const void* arguments, float* const* places, int threads);

}  // extern "C"

namespace checking {
namespace {

enum Base { kArena, kWeights, kInput, kOutput };

// A small network: 3x3 directly, 3x3 by Winograd's tiles, depthwise by Fourier rows, means, a linear layer. Its arena
// holds two maps and the means.
class Network {
 public:
  Network() {
    of_.pad_top = of_.pad_left = 1;
    of_.input = of_.output = images(1, channels_, height_, width_, kBlocked);
    const std::int64_t window[6] = {3, 3, 1, 1, 1, 1};
    const Floats dense = random_floats(channels_ * channels_ * 9);
    const long blocks = divide_up(channels_, kLanes);
    const auto packed = [&](long floats) {
      weights_.resize(round_up(long(weights_.size()), kLanes) + floats);
      return long(weights_.size()) - floats;
    };
    const long first = packed(blocks * kLanes * channels_ * 9);
    archcost_direct_pack(window, channels_, channels_, 1, dense.data(), &weights_[first]);
    int index = 0;
    while (winograd_tile(index)->kernel_height != 3 || winograd_tile(index)->kernel_width != 3) ++index;
    const TileTransform& tile = *winograd_tile(index);
    const long second = packed(packed_floats(tile, channels_, channels_));
    pack_weights(tile, channels_, channels_, dense.data(), &weights_[second]);
    const long size = depthwise_transform_size(7, width_, 3, 3);
    const DepthwiseKernel kernel = {7, 7, size};
    const long third = packed(depthwise_packed_floats(kernel, channels_));
    pack_depthwise(kernel, channels_, random_floats(channels_ * 49).data(), &weights_[third]);
    const long fourth = packed(linear_packed_floats(outs_, channels_));
    pack_linear(outs_, channels_, random_floats(outs_ * channels_).data(), channels_, false, nullptr, &weights_[fourth]);

    const ArchcostActivation relu = {kClamp, 0, INFINITY}, gelu = {kGelu, 0, 0};
    const ArchcostImages& map = of_.input;
    direct_ = {map, map, map, 3, 3, 1, 1, 1, 1, 1, 1, 0, relu, 0, 0};
    tiles_ = {kWinograd, index, 0, of_, relu};
    depthwise_ = {7, 7, size, of_, gelu};
    depthwise_.convolution.pad_top = depthwise_.convolution.pad_left = 3;
    pool_ = {{1, channels_, height_ * width_, map.batch_stride, map.block_stride, kLanes}, {kIdentity, 0, 0},
             blocks * kLanes, 1.0f / float(height_ * width_)};
    linear_ = {{kIdentity, 0, 0}, 1, channels_, outs_, channels_, outs_, outs_};

    const long floats = map.batch_stride;
    const ArchcostPlace none = {-1, 0}, one = {kArena, 0}, two = {kArena, floats}, mean = {kArena, 2 * floats};
    arena_ = 2 * floats + blocks * kLanes;
    step(archcost_step_direct, &direct_, {{kInput, 0}, {kWeights, first}, none, one, none, none, none, none, none});
    step(archcost_step_tiles, &tiles_, {one, {kWeights, second}, none, none, two});
    step(archcost_step_fft_depthwise, &depthwise_, {two, {kWeights, third}, none, none, one});
    step(archcost_step_global_pool, &pool_, {one, mean});
    step(archcost_step_linear, &linear_, {mean, {kWeights, fourth}, none, {kOutput, 0}});
  }

  Floats random_input() const { return random_images(of_.input); }

  Floats run(Floats input, int threads) const {
    std::vector<ArchcostStep> steps;
    for (const Step& one : steps_) {
      steps.push_back({one.function, one.arguments, one.places.data(), std::int64_t(one.places.size())});
    }
    Floats arena(arena_, NAN), output(outs_, NAN);
    float* const bases[] = {arena.data(), const_cast<float*>(weights_.data()), input.data(), output.data()};
    archcost_run(steps.data(), std::int64_t(steps.size()), bases, threads, nullptr);
    return output;
  }

 private:
  struct Step {
    ArchcostStepFunction function;
    const void* arguments;
    std::vector<ArchcostPlace> places;
  };
  void step(ArchcostStepFunction function, const void* arguments, std::vector<ArchcostPlace> places) {
    steps_.push_back({function, arguments, std::move(places)});
  }

  const long channels_ = between(20, 40), height_ = between(8, 15), width_ = between(8, 15), outs_ = 10;
  ArchcostConvolution of_ = {};
  Floats weights_;
  long arena_;
  ArchcostDirect direct_;
  ArchcostTiles tiles_;
  ArchcostFftDepthwise depthwise_;
  ArchcostGlobalPool pool_;
  ArchcostLinear linear_;
  std::vector<Step> steps_;
};

void check_together(const char* what, const Network& first, const Network& second, int threads) {
  struct Work {
    const Network& network;
    Floats input, alone;
    bool wrong = false;
  };
  std::array<Work, 2> all = {Work{first, first.random_input(), {}}, Work{second, second.random_input(), {}}};
  for (Work& work : all) work.alone = work.network.run(work.input, 1);
  std::array<std::thread, 2> running;
  for (int k = 0; k < 2; ++k) {
    running[k] = std::thread([&work = all[k], threads] {
      for (int round = 0; round < 20; ++round) {
        const Floats found = work.network.run(work.input, threads);
        for (std::size_t i = 0; i < found.size(); ++i) {
          work.wrong |= !(std::fabs(found[i] - work.alone[i]) <= 1e-5f * (1 + std::fabs(work.alone[i])));
        }
      }
    });
  }
  for (std::thread& one : running) one.join();
  report(what, threads, all[0].wrong || all[1].wrong, 0);
}

}  // namespace

void check_threads() {
  const auto first = std::make_unique<Network>(), second = std::make_unique<Network>();
  for (int threads : {1, 2}) {
    check_together("two programs in two threads", *first, *second, threads);
    check_together("a program in two threads", *first, *first, threads);
  }
}

}  // namespace checking
