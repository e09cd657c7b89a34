// What the machine can do at most, for the roofline: fixed work, which the caller times.
#pragma once

#include <cstdint>

namespace archcost {

// `count` multiply-adds of floats or some more, on each thread, with nothing but registers; gives how many.
std::int64_t multiply_add(std::int64_t count, int threads);

// Reads the floats `times` times, on each thread its own share of them; gives how many bytes were read in all.
std::int64_t read_floats(const float* data, std::int64_t count, std::int64_t times, int threads);

}  // namespace archcost
