// Winograd's F(MH x MW, RH x RW) as a TileTransform: one axis after the other, each by its own matrices.
#pragma once

#include "straight_line.h"
#include "tile_transform.h"
#include "toom_cook.h"

namespace archcost {

template <int m, int r>
constexpr ToomCook<m, r> kToomCook{};

template <int m, int r>
struct InputMatrix {
  static constexpr auto matrix = kToomCook<m, r>.input;
};
template <int m, int r>
struct OutputMatrix {
  static constexpr auto matrix = kToomCook<m, r>.output;
};

template <int MH, int RH, int MW, int RW>
class WinogradTile final : public TileTransform {
  static constexpr int NH = MH + RH - 1, NW = MW + RW - 1;

 public:
  WinogradTile() : TileTransform(MH, MW, RH, RW, NH * NW, NH * NW) {}

  void input(const float* tile, long row, long column, float* plane, long plane_stride) const override {
    Vector half[NH][NW];
    for (int j = 0; j < NW; ++j) {
      Vector x[NH], y[NH];
      for (int i = 0; i < NH; ++i) x[i] = load(tile + i * row + j * column);
      multiply<InputMatrix<MH, RH>>(x, y);
      for (int i = 0; i < NH; ++i) half[i][j] = y[i];
    }
    for (int i = 0; i < NH; ++i) {
      Vector y[NW];
      multiply<InputMatrix<MW, RW>>(half[i], y);
      for (int j = 0; j < NW; ++j) store(plane + (i * NW + j) * plane_stride, y[j]);
    }
  }

  void output(const float* plane, long plane_stride, float* tile, long row, long column,
              const Finish& finish) const override {
    Vector half[MH][NW];
    for (int j = 0; j < NW; ++j) {
      Vector x[NH], y[MH];
      for (int i = 0; i < NH; ++i) x[i] = load(plane + (i * NW + j) * plane_stride);
      multiply_folded<OutputMatrix<MH, RH>>(x, y);
      for (int i = 0; i < MH; ++i) half[i][j] = y[i];
    }
    for (int i = 0; i < MH; ++i) {
      Vector y[MW];
      multiply_folded<OutputMatrix<MW, RW>>(half[i], y);
      for (int j = 0; j < MW; ++j) store(tile + i * row + j * column, finish(y[j]));
    }
  }

  void weight(const float* kernel, double* plane) const override {
    constexpr auto& vertical = kToomCook<MH, RH>.weight.at;
    constexpr auto& horizontal = kToomCook<MW, RW>.weight.at;
    for (int i = 0; i < NH; ++i) {
      double half[RW] = {};
      for (int a = 0; a < RH; ++a) {
        for (int b = 0; b < RW; ++b) half[b] += vertical[i][a] * kernel[a * RW + b];
      }
      for (int j = 0; j < NW; ++j) {
        double sum = 0;
        for (int b = 0; b < RW; ++b) sum += half[b] * horizontal[j][b];
        plane[i * NW + j] = sum;
      }
    }
  }
};

// Every F there is, in the order in which the interface numbers them; nullptr behind the last.
const TileTransform* winograd_tile(int index);

}  // namespace archcost
