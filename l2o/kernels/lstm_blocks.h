// The products of an LSTM on a tile of coordinates, with accumulators in registers and weights broadcast.
#pragma once
#include <algorithm>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "functions.h"

namespace {

constexpr int H = HIDDEN, GATES = 4 * H;  // hidden units, padded; rows of a layer's weights
constexpr int TILE = 64, VECTORS = TILE / WIDTH;
constexpr int64_t CHUNK = 16 * TILE, MAX_CHUNKS = 64;  // coordinates that one thread takes at a time

// Shapes of the blocks of accumulators, for 32 registers or 16
constexpr int UNITS = WIDTH == 16 ? 2 : 1;  // x 4 gates x 2 vectors
constexpr int BACK = WIDTH == 16 ? (H % 10 == 0 ? 10 : H % 8 == 0 ? 8 : 4) : (H % 5 == 0 ? 5 : 4);  // x 2 vectors
constexpr int TO = GATES / WIDTH % 5 == 0 ? 5 : GATES / WIDTH % 4 == 0 ? 4 : GATES / WIDTH % 2 == 0 ? 2 : 1;
constexpr int FROM = WIDTH == 16 ? (H % 5 == 0 ? 5 : 4) : 2;  // x TO vectors
static_assert(H % 4 == 0 && H % BACK == 0, "blocks are whole");

}  // namespace

extern "C" {

struct Tensor {  // lanes leading, then the rows named, then coordinates
  int64_t size;
  const float *grad, *features;  // features (2) only where plan.features
  const float* hidden;           // (2 layers hidden)
  float *step, *new_hidden;
  const float *d_step, *d_new_hidden;  // null where they are zero
  float *d_input, *d_hidden;           // d_input of grad or of features, null where it is not wanted
};

struct Layer {
  const float *weight, *bias;      // (4 hidden, inputs + hidden), (4 hidden)
  int64_t weight_lane, bias_lane;  // from one lane to the next, 0 where they share it
  float *d_weight, *d_bias;        // lanes leading
};

struct Plan {
  int64_t num_lanes, num_tensors, num_layers, hidden;
  int64_t back, wants_input, features, squash;
  const float* output;  // (hidden)
  int64_t output_lane;
  float* d_output;
  float scale, p, smallest, inverse;  // of the step; of the logarithm: p, e^-p, e^p
};
}

namespace {

struct Free {
  void operator()(float* x) const { ::operator delete[](x, std::align_val_t(64)); }
};
typedef std::unique_ptr<float[], Free> Buffer;

Buffer buffer(int64_t size) { return Buffer(static_cast<float*>(::operator new[](4 * size, std::align_val_t(64)))); }

// The weights of a layer as the loops read them.
struct Packed {
  int inputs;
  const float* gates;   // [unit / UNITS][inputs, then hidden][unit % UNITS][gate], for powers of two
  const float* bias;    // [unit / UNITS][unit % UNITS][gate]
  const float* hidden;  // [hidden / BACK][row][hidden % BACK], plain
  const float* input;   // the same of inputs; with 2 inputs [row][2]

  static int64_t size(int inputs) { return GATES * (2 * (inputs + H) + 1); }

  Packed(int inputs, const float* x) : inputs(inputs) {
    gates = x;
    bias = gates + (inputs + H) * GATES;
    hidden = bias + GATES;
    input = hidden + H * GATES;
  }
};

void pack(float* to, const Layer& layer, int64_t lane, int inputs, int padded, int h, bool back) {
  std::fill_n(to, Packed::size(padded), 0.0f);
  const Packed p(padded, to);
  const auto at = [&](const float* x) { return to + (x - to); };
  float *gates = at(p.gates), *bias = at(p.bias), *hidden = at(p.hidden), *input = at(p.input);
  const float *w = layer.weight + lane * layer.weight_lane, *b = layer.bias + lane * layer.bias_lane;
  for (int gate = 0; gate < 4; gate++) {
    // i, f, o are read as 2^-(x log2 e); g is a tanh, read as it is
    const float scale = gate == 2 ? 1.0f : -LOG2E;
    for (int u = 0; u < h; u++) {
      const float* row = w + (gate * h + u) * (inputs + h);
      float* block = gates + (u / UNITS) * (padded + H) * 4 * UNITS + (u % UNITS) * 4 + gate;
      for (int k = 0; k < inputs; k++) block[k * 4 * UNITS] = scale * row[k];
      for (int k = 0; k < h; k++) block[(padded + k) * 4 * UNITS] = scale * row[inputs + k];
      bias[u * 4 + gate] = scale * (b[gate * h + u] + (gate == 1 ? 1.0f : 0.0f));
      if (!back) continue;
      const int r = gate * H + u;
      for (int k = 0; k < h; k++) hidden[(k / BACK * GATES + r) * BACK + k % BACK] = row[inputs + k];
      const int width = padded == 2 ? 2 : BACK;
      for (int k = 0; k < inputs; k++) input[(k / width * GATES + r) * width + k % width] = row[k];
    }
  }
}

// UNITS units of a layer for N vectors of coordinates; all rows are TILE long. `kept`: i, f, g, o, tanh c, or null.
template <int N, bool KEEP>
inline __attribute__((always_inline)) void units(const float* w, const float* bias, int inputs, const float* x,
                                                 const float* h, const float* c, float* new_h, float* new_c,
                                                 float* kept) {
  V z[4 * UNITS][N];
#pragma GCC unroll 16
  for (int a = 0; a < 4 * UNITS; a++)
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) z[a][n] = V{} + bias[a];
  const auto add = [&](const float* rows, int num) __attribute__((always_inline)) {
    for (int k = 0; k < num; k++, w += 4 * UNITS) {
      V y[N];
#pragma GCC unroll 4
      for (int n = 0; n < N; n++) y[n] = load(rows + k * TILE + n * WIDTH);
#pragma GCC unroll 16
      for (int a = 0; a < 4 * UNITS; a++)
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) z[a][n] += w[a] * y[n];
    }
  };
  add(x, inputs);
  add(h, H);
#pragma GCC unroll 4
  for (int u = 0; u < UNITS; u++)
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) {
      const int64_t at = u * TILE + n * WIDTH;
      const V i = 1.0f + power(z[4 * u][n]), f = 1.0f + power(z[4 * u + 1][n]), o = 1.0f + power(z[4 * u + 3][n]);
      const Ratio g = tangent(z[4 * u + 2][n]);
      const V before = load(c + at), gi = g.q * i, by = 1.0f / (gi * f);
      const V now = (before * gi + g.p * f) * by;
      const Ratio t = tangent(now);
      const V by_o = 1.0f / (t.q * o);
      store(new_c + at, now);
      store(new_h + at, t.p * by_o);
      if (KEEP) {
        store(kept + at, g.q * f * by);
        store(kept + H * TILE + at, gi * by);
        store(kept + 2 * H * TILE + at, g.p * (i * f) * by);
        store(kept + 3 * H * TILE + at, t.q * by_o);
        store(kept + 4 * H * TILE + at, t.p * o * by_o);
      }
    }
}

template <bool KEEP, class Meanwhile>
void layer(const Packed& p, int vectors, const float* x, const float* h, const float* c, float* new_h, float* new_c,
           float* kept, Meanwhile meanwhile) {
  for (int u = 0; u < H; u += UNITS) {
    meanwhile();
    const float *w = p.gates + u * 4 * (p.inputs + H), *bias = p.bias + 4 * u;
    const int64_t row = u * TILE;
    int j = 0;
    for (; j + 2 <= vectors; j += 2) {
      const int64_t v = j * WIDTH, at = row + v;
      units<2, KEEP>(w, bias, p.inputs, x + v, h + v, c + at, new_h + at, new_c + at, kept + at);
    }
    if (j < vectors) {
      const int64_t v = j * WIDTH, at = row + v;
      units<1, KEEP>(w, bias, p.inputs, x + v, h + v, c + at, new_h + at, new_c + at, kept + at);
    }
  }
}

// K rows of the derivatives of what the gates were made of: `to` (+)= w^T gates.
template <int K, int N, bool ADD>
inline __attribute__((always_inline)) void back_block(const float* w, const float* gates, float* to) {
  V z[K][N];
#pragma GCC unroll 16
  for (int k = 0; k < K; k++)
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) z[k][n] = ADD ? load(to + k * TILE + n * WIDTH) : V{};
  for (int r = 0; r < GATES; r++, w += K, gates += TILE) {
    V y[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) y[n] = load(gates + n * WIDTH);
#pragma GCC unroll 16
    for (int k = 0; k < K; k++)
#pragma GCC unroll 4
      for (int n = 0; n < N; n++) z[k][n] += w[k] * y[n];
  }
#pragma GCC unroll 16
  for (int k = 0; k < K; k++)
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) store(to + k * TILE + n * WIDTH, z[k][n]);
}

template <int K, bool ADD>
void back_rows(const float* w, int rows, int vectors, const float* gates, float* to) {
  for (int k = 0; k < rows; k += K, w += GATES * K, to += K * TILE) {
    int j = 0;
    for (; j + 2 <= vectors; j += 2) back_block<K, 2, ADD>(w, gates + j * WIDTH, to + j * WIDTH);
    if (j < vectors) back_block<K, 1, ADD>(w, gates + j * WIDTH, to + j * WIDTH);
  }
}

// Derivatives of weights: `sums` [row of x][GATES] += x gates^T over the coordinates; gates come coordinates first.
template <int K>
inline __attribute__((always_inline)) void outer_block(const float* x, const float* turned, int count, float* sums) {
  for (int r = 0; r < GATES; r += TO * WIDTH) {
    V z[K][TO];
#pragma GCC unroll 8
    for (int k = 0; k < K; k++)
#pragma GCC unroll 8
      for (int a = 0; a < TO; a++) z[k][a] = load(sums + k * GATES + r + a * WIDTH);
    for (int n = 0; n < count; n++) {
      V y[TO];
#pragma GCC unroll 8
      for (int a = 0; a < TO; a++) y[a] = load(turned + n * GATES + r + a * WIDTH);
#pragma GCC unroll 8
      for (int k = 0; k < K; k++)
#pragma GCC unroll 8
        for (int a = 0; a < TO; a++) z[k][a] += x[k * TILE + n] * y[a];
    }
#pragma GCC unroll 8
    for (int k = 0; k < K; k++)
#pragma GCC unroll 8
      for (int a = 0; a < TO; a++) store(sums + k * GATES + r + a * WIDTH, z[k][a]);
  }
}

void outer(const float* x, int rows, const float* turned, int count, float* sums) {
  int k = 0;
  for (; k + FROM <= rows; k += FROM) outer_block<FROM>(x + k * TILE, turned, count, sums + k * GATES);
  for (; k < rows; k += 2) outer_block<2>(x + k * TILE, turned, count, sums + k * GATES);
}

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLES
#endif
#endif

#if defined(SHUFFLES)
// Exchanges the off-diagonal blocks of size S in every two rows of a matrix that lie S apart.
template <int S, int... J>
inline __attribute__((always_inline)) void exchange(V (&x)[WIDTH], std::integer_sequence<int, J...>) {
#pragma GCC unroll 16
  for (int i = 0; i < WIDTH; i++)
    if (!(i & S)) {
      const V a = x[i], b = x[i + S];
      x[i] = __builtin_shufflevector(a, b, ((J & S) ? WIDTH + J - S : J)...);
      x[i + S] = __builtin_shufflevector(a, b, ((J & S) ? WIDTH + J : J + S)...);
    }
}

inline __attribute__((always_inline)) void transpose(const float* from, int64_t rows, float* to, int64_t columns) {
  V x[WIDTH];
#pragma GCC unroll 16
  for (int i = 0; i < WIDTH; i++) x[i] = load(from + i * rows);
  constexpr auto all = std::make_integer_sequence<int, WIDTH>();
  exchange<1>(x, all), exchange<2>(x, all), exchange<4>(x, all);
#if defined(__AVX512F__)
  exchange<8>(x, all);
#endif
#pragma GCC unroll 16
  for (int i = 0; i < WIDTH; i++) store(to + i * columns, x[i]);
}
#else
inline void transpose(const float* from, int64_t rows, float* to, int64_t columns) {
  for (int i = 0; i < WIDTH; i++)
    for (int j = 0; j < WIDTH; j++) to[j * columns + i] = from[i * rows + j];
}
#endif

void turn(const float* from, float* to, int vectors) {  // (GATES, TILE) to (TILE, GATES)
  for (int j = 0; j < vectors * WIDTH; j += WIDTH)
    for (int r = 0; r < GATES; r += WIDTH) transpose(from + r * TILE + j, TILE, to + j * GATES + r, GATES);
}

}  // namespace
