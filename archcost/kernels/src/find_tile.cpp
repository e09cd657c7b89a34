#include "find_tile.h"

#include "fft_tile.h"
#include "winograd.h"

namespace archcost {

const TileTransform* find_tile(long family, long first, long second) {
  if (family == kWinograd) return winograd_tile(int(first));
  return family == kFourier || family == kFourierOfPairs ? fft_tile(first, second, family == kFourier) : nullptr;
}

}  // namespace archcost
