// A program: a flat list of steps, each a function of this library with its arguments and its places in memory.
#pragma once

#include <cstdint>

extern "C" {

// A float of one of the blocks of memory that a run is given: the arena, inputs, outputs, weights.
struct ArchcostPlace {
  std::int64_t base, offset;  // of the block; floats
};

// Each step reads its own plain structure of arguments; the places come as addresses, in the order that the
// function says. Steps allocate nothing but scratch, and return nothing: what could fail was checked before.
using ArchcostStepFunction = void (*)(const void* arguments, float* const* places, int threads);

struct ArchcostStep {
  ArchcostStepFunction function;
  const void* arguments;
  const ArchcostPlace* places;
  std::int64_t count;
};

}  // extern "C"

namespace archcost {

// `nanoseconds`, where not null, gets the wall time of each step.
void run_program(const ArchcostStep* steps, long count, float* const* bases, int threads,
                 std::int64_t* nanoseconds);

}  // namespace archcost
