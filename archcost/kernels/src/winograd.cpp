#include "winograd.h"

namespace archcost {
namespace {

template <int m, int r>
const WinogradTile<m, r, m, r> kSquare{};
// One axis alone: along the row, and along the column.
template <int m, int r>
const WinogradTile<1, 1, m, r> kAlongRow{};
template <int m, int r>
const WinogradTile<m, r, 1, 1> kAlongColumn{};

const TileTransform* const kTiles[] = {
    &kSquare<2, 2>, &kSquare<4, 2>, &kSquare<6, 2>, &kSquare<2, 3>, &kSquare<4, 3>, &kSquare<6, 3>,
    &kSquare<2, 4>, &kSquare<4, 4>, &kSquare<6, 4>, &kSquare<2, 5>, &kSquare<4, 5>, &kSquare<6, 5>,
    &kAlongRow<2, 2>, &kAlongRow<4, 2>, &kAlongRow<6, 2>,
    &kAlongColumn<2, 2>, &kAlongColumn<4, 2>, &kAlongColumn<6, 2>,
    &kAlongRow<2, 3>, &kAlongRow<4, 3>, &kAlongRow<6, 3>,
    &kAlongColumn<2, 3>, &kAlongColumn<4, 3>, &kAlongColumn<6, 3>,
    &kAlongRow<2, 5>, &kAlongRow<4, 5>, &kAlongRow<6, 5>,
    &kAlongColumn<2, 5>, &kAlongColumn<4, 5>, &kAlongColumn<6, 5>,
    &kAlongRow<2, 7>, &kAlongRow<4, 7>, &kAlongRow<6, 7>,
    &kAlongColumn<2, 7>, &kAlongColumn<4, 7>, &kAlongColumn<6, 7>,
};

}  // namespace

const TileTransform* winograd_tile(int index) {
  constexpr int count = sizeof(kTiles) / sizeof(kTiles[0]);
  return index >= 0 && index < count ? kTiles[index] : nullptr;
}

}  // namespace archcost
