// One step of a small LSTM for every coordinate of a network, and the way back, for many lanes at once.
//
// What is computed stands in l2o/rules/lstm_reference.py; here is only how. The coordinates of all tensors of a lane are one
// row, cut into tiles: a tile's states are copied next to each other, so that they stay in the first cache, and all
// products run on them with accumulators in registers, weights broadcast. The way back makes the gates again from the
// states before the step. Sums over coordinates are made chunk by chunk, so they do not depend on the threads.
#include "vector.h"

#include <algorithm>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

constexpr int H = HIDDEN, GATES = 4 * H;  // hidden units, padded; rows of a layer's weights
constexpr int TILE = 64, VECTORS = TILE / WIDTH;
constexpr int64_t CHUNK = 16 * TILE, MAX_CHUNKS = 64;  // coordinates that one thread takes at a time

// Shapes of the blocks of accumulators, for 32 registers or 16
constexpr int UNITS = WIDTH == 16 ? 2 : 1;                                                // x 4 gates x 2 vectors
constexpr int BACK = WIDTH == 16 ? (H % 10 == 0 ? 10 : H % 8 == 0 ? 8 : 4) : (H % 5 == 0 ? 5 : 4);  // x 2 vectors
constexpr int TO = GATES / WIDTH % 5 == 0 ? 5 : GATES / WIDTH % 4 == 0 ? 4 : GATES / WIDTH % 2 == 0 ? 2 : 1;
constexpr int FROM = WIDTH == 16 ? (H % 5 == 0 ? 5 : 4) : 2;  // x TO vectors
static_assert(H % 4 == 0 && H % BACK == 0, "blocks are whole");

constexpr float LOG2E = 1.44269504f;

}  // namespace

extern "C" {

struct Tensor {  // lanes leading, then the rows named, then coordinates
  int64_t size;
  const float *grad, *features;  // features (2) only where plan.features
  const float *hidden;           // (2 layers hidden)
  float *step, *new_hidden;
  const float *d_step, *d_new_hidden;  // null where they are zero
  float *d_input, *d_hidden;           // d_input of grad or of features, null where it is not wanted
};

struct Layer {
  const float *weight, *bias;  // (4 hidden, inputs + hidden), (4 hidden)
  int64_t weight_lane, bias_lane;  // from one lane to the next, 0 where they share it
  float *d_weight, *d_bias;  // lanes leading
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

#if defined(__AVX512DQ__)
inline V least(V x, float high) { return (V)_mm512_min_ps(_mm512_set1_ps(high), (__m512)x); }  // nan passes
inline V most(V x, float low) { return (V)_mm512_max_ps(_mm512_set1_ps(low), (__m512)x); }
#else
inline V least(V x, float high) { return at_most(x, high); }
inline V most(V x, float low) { return at_least(x, low); }
#endif

// 2^x to 2e-7, up to 2^40: products of three of them are finite.
inline V power(V x) {
  x = least(x, 40.0f);
#if defined(__AVX512DQ__)
  const V r = (V)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);  // x - floor(x)
#else
  x = most(x, -126.0f);
  const V rounded = (x + 12582912.0f) - 12582912.0f, floor = rounded > x ? rounded - 1.0f : rounded, r = x - floor;
#endif
  V y = r * 1.8775767e-3f + 8.9893406e-3f;
  y = y * r + 5.5826318e-2f;
  y = y * r + 2.4015361e-1f;
  y = y * r + 6.9315308e-1f;
  y = y * r + 0.99999994f;
#if defined(__AVX512DQ__)
  return (V)_mm512_scalef_ps((__m512)y, (__m512)x);
#else
  VI exponent = (__builtin_convertvector(floor, VI) + 127) << 23;
  V scale;
  std::memcpy(&scale, &exponent, sizeof scale);
  return y * scale;
#endif
}

// tanh(x) = p / q to 4e-7 (Eigen's coefficients); q lies in (0.004, 1).
struct Ratio {
  V p, q;
};

inline Ratio tangent(V x) {
  x = most(least(x, 7.90531110763549805f), -7.90531110763549805f);
  const V s = x * x;
  V p = s * -2.76076847742355e-16f + 2.00018790482477e-13f;
  p = p * s - 8.60467152213735e-11f;
  p = p * s + 5.12229709037114e-08f;
  p = p * s + 1.48572235717979e-05f;
  p = p * s + 6.37261928875436e-04f;
  p = p * s + 4.89352455891786e-03f;
  V q = s * 1.19825839466702e-06f + 1.18534705686654e-04f;
  q = q * s + 2.26843463243900e-03f;
  q = q * s + 4.89352518554385e-03f;
  return {x * p, q};
}

// Natural logarithm of normal numbers, to 1e-7 (Cephes); infinity and nan stay as they are.
inline V logarithm(V x) {
  VI bits;
  std::memcpy(&bits, &x, sizeof bits);
  V e = __builtin_convertvector((bits >> 23) - 126, V);
  bits = (bits & 0x7fffff) | 0x3f000000;
  V m;
  std::memcpy(&m, &bits, sizeof m);
  const VI low = m < 0.707106781f;
  e = low ? e - 1.0f : e;
  m = (low ? m + m : m) - 1.0f;
  V y = m * 7.0376836292e-2f - 1.1514610310e-1f;
  y = y * m + 1.1676998740e-1f;
  y = y * m - 1.2420140846e-1f;
  y = y * m + 1.4249322787e-1f;
  y = y * m - 1.6668057665e-1f;
  y = y * m + 2.0000714765e-1f;
  y = y * m - 2.4999993993e-1f;
  y = y * m + 3.3333331174e-1f;
  y = y * m * m * m - e * 2.12194440e-4f - m * m * 0.5f;
  return x < INFINITY ? m + y + e * 0.693359375f : x;
}

inline V magnitude(V x) { return x < 0.0f ? -x : x; }

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
inline __attribute__((always_inline)) void units(
    const float* w, const float* bias, int inputs, const float* x, const float* h, const float* c, float* new_h,
    float* new_c, float* kept) {
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
void layer(
    const Packed& p, int vectors, const float* x, const float* h, const float* c, float* new_h, float* new_c,
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

// All coordinates of a lane, as one row.
class Row {
 public:
  Row(const Plan& plan, const Tensor* tensors) : tensors(tensors), starts(1, 0) {
    for (int64_t i = 0; i < plan.num_tensors; i++) starts.push_back(starts.back() + tensors[i].size);
    chunk = std::max(CHUNK, (total() / MAX_CHUNKS + TILE) / TILE * TILE);
    num_chunks = (total() + chunk - 1) / chunk;
  }

  int64_t total() const { return starts.back(); }

  // Calls body(tensor, first coordinate in it, place in the tile, number) for the parts of a tile.
  template <class Body>
  void parts(int64_t begin, int64_t end, Body body) const {
    int64_t i = std::upper_bound(starts.begin(), starts.end(), begin) - starts.begin() - 1;
    for (int64_t at = begin; at < end; i++) {
      const int64_t stop = std::min(end, starts[i + 1]);
      if (stop > at) body(tensors[i], at - starts[i], at - begin, stop - at), at = stop;
    }
  }

  int64_t chunk, num_chunks;

 private:
  const Tensor* tensors;
  std::vector<int64_t> starts;
};

inline void copy(const float* from, float* to, int64_t n) {
  int64_t j = 0;
  for (; j + WIDTH <= n; j += WIDTH) store(to + j, load(from + j));
  if (j < n) store(to + j, load(from + j, n - j), n - j);
}

// Sums over coordinates: of each layer [inputs, hidden, bias][GATES], then of the output [H].
int64_t sums_size(int layers) { return GATES * (int64_t)(2 + H + 1 + (layers - 1) * (2 * H + 1)) + H; }

// One thread's tile.
class Tile {
 public:
  Tile(const Plan& plan, const Row& row) : plan(plan), row(row), layers(plan.num_layers), h(plan.hidden) {
    const int64_t states = 2 * layers * H * TILE, kept_size = plan.back ? 5 * layers * H * TILE : TILE;
    const int64_t back = plan.back ? 2 * states + 2 * GATES * TILE + 3 * TILE + H * WIDTH : 0;
    memory = buffer(2 * states + kept_size + 4 * TILE + back);
    float* at = memory.get();
    const auto take = [&](int64_t size) { return std::exchange(at, at + size); };
    old = take(states), now = take(states), kept = take(kept_size), x = take(2 * TILE);
    grad = take(TILE), step = take(TILE);
    std::fill(memory.get(), memory.get() + 2 * states, 0.0f);  // rows of padding stay zero
    if (!plan.back) return;
    d_now = take(states), d_old = take(states), gates = take(GATES * TILE), turned = take(GATES * TILE);
    d_x = take(2 * TILE), d_step = take(TILE), d_output = take(H * WIDTH);
    std::fill(d_now, d_now + 2 * states, 0.0f);
  }

  // `next`: where the tile after this one ends.
  void run(
      const Packed* packed, const float* output, int64_t lane, int64_t begin, int64_t end, int64_t next, float* sums) {
    count = end - begin, vectors = (count + WIDTH - 1) / WIDTH;
    gather(lane, begin, end);
    look_ahead(lane, begin, end, next);
    inputs();
    for (int l = 0; l < layers; l++) {
      const float* from = l ? state(now, 2 * l - 2) : x;
      float *h0 = state(old, 2 * l), *c0 = state(old, 2 * l + 1), *h1 = state(now, 2 * l), *c1 = state(now, 2 * l + 1);
      const auto ahead = [&] { fetch(rows_at_once); };
      if (plan.back) layer<true>(packed[l], vectors, from, h0, c0, h1, c1, kept + l * 5 * H * TILE, ahead);
      else layer<false>(packed[l], vectors, from, h0, c0, h1, c1, kept, ahead);
    }
    respond(output);
    if (plan.back) back(packed, output, sums);
    scatter(lane, begin, end);
  }

  void begin() {
    if (plan.back) std::fill(d_output, d_output + H * WIDTH, 0.0f);
  }

  void finish(float* sums) {
    if (plan.back)
      for (int u = 0; u < H; u++) sums[sums_size(layers) - H + u] = sum(load(d_output + u * WIDTH));
  }

 private:
  float* state(float* of, int64_t index) const { return of + index * H * TILE; }

  // body(row of the tensor's states, row of the tile's)
  template <class Body>
  void state_rows(Body body) const {
    for (int s = 0; s < 2 * layers; s++)
      for (int u = 0; u < h; u++) body(s * h + u, s * H + u);
  }

  void clear(float* rows, int num) const {  // what lies behind the last coordinate in its vector
    const int n = vectors * WIDTH - count;
    if (n)
      for (int r = 0; r < num; r++) std::fill_n(rows + r * TILE + count, n, 0.0f);
  }

  void gather(int64_t lane, int64_t begin, int64_t end) {
    row.parts(begin, end, [&](const Tensor& t, int64_t from, int64_t to, int64_t n) {
      const int64_t states = lane * 2 * layers * h * t.size + from;
      copy(t.grad + lane * t.size + from, grad + to, n);
      if (plan.features)
        for (int k = 0; k < 2; k++) copy(t.features + (2 * lane + k) * t.size + from, x + k * TILE + to, n);
      state_rows([&](int64_t r, int64_t q) { copy(t.hidden + states + r * t.size, old + q * TILE + to, n); });
      if (!plan.back) return;
      if (t.d_step) copy(t.d_step + lane * t.size + from, d_step + to, n);
      else std::fill_n(d_step + to, n, 0.0f);
      if (t.d_new_hidden)
        state_rows([&](int64_t r, int64_t q) { copy(t.d_new_hidden + states + r * t.size, d_now + q * TILE + to, n); });
      else state_rows([&](int64_t, int64_t q) { std::fill_n(d_now + q * TILE + to, n, 0.0f); });
    });
    clear(grad, 1), clear(x, 2), clear(old, 2 * layers * H);
    if (plan.back) clear(d_step, 1), clear(d_now, 2 * layers * H);
  }

  // Notes the rows of memory that will be written at the end of this tile and read for the next one.
  void look_ahead(int64_t lane, int64_t begin, int64_t end, int64_t next) {
    lines.clear();
    const auto note = [&](const float* states, const Tensor& t, int64_t from) {
      if (states) lines.push_back({states + lane * 2 * layers * h * t.size + from, t.size, 0});
    };
    row.parts(begin, end, [&](const Tensor& t, int64_t from, int64_t, int64_t n) {
      if (n == TILE) note(plan.back ? t.d_hidden : t.new_hidden, t, from);
    });
    row.parts(end, next, [&](const Tensor& t, int64_t from, int64_t, int64_t n) {
      if (n == TILE) note(t.hidden, t, from), note(plan.back ? t.d_new_hidden : nullptr, t, from);
    });
    const int calls = layers * H / UNITS;
    rows_at_once = ((int)lines.size() * 2 * layers * h + calls - 1) / calls;
  }

  // Asks for the next few of these rows, while the processor is busy with products.
  void fetch(int rows) {
    for (; rows && !lines.empty(); rows--) {
      Lines& last = lines.back();
      const float* at = last.at + last.row * last.stride;
      for (int j = 0; j < TILE; j += 16) __builtin_prefetch(at + j, 0, 2);
      if (++last.row == 2 * layers * h) lines.pop_back();
    }
  }

  void inputs() {
    if (plan.features) return;
    for (int j = 0; j < vectors * WIDTH; j += WIDTH) {
      const V g = load(grad + j);
      store(x + j, logarithm(at_least(magnitude(g), plan.smallest)) * (1.0f / plan.p));
      store(x + TILE + j, clamp(g * plan.inverse, 1.0f));
    }
  }

  void respond(const float* output) {
    const float* top = state(now, 2 * layers - 2);
    for (int j = 0; j < vectors * WIDTH; j += WIDTH) {
      V s[4] = {};
      for (int u = 0; u < H; u += 4)
#pragma GCC unroll 4
        for (int a = 0; a < 4; a++) s[a] += output[u + a] * load(top + (u + a) * TILE + j);
      V y = (s[0] + s[1]) + (s[2] + s[3]);
      if (plan.squash) {
        const Ratio t = tangent(y);
        y = t.p / t.q;
      }
      const V g = load(grad + j), moved = g != 0.0f ? plan.scale * y : V{};
      if (!plan.back) {
        store(step + j, moved);
        continue;
      }
      V d = plan.scale * load(d_step + j);
      if (plan.squash) d *= 1.0f - y * y;
      store(step + j, g != 0.0f ? d : V{});  // derivative of output . h
    }
  }

  void back(const Packed* packed, const float* output, float* sums) {
    const float* top = state(now, 2 * layers - 2);
    float* d_top = state(d_now, 2 * layers - 2);
    for (int u = 0; u < H; u++) {
      V s = load(d_output + u * WIDTH);
      for (int j = 0; j < vectors * WIDTH; j += WIDTH) {
        const V d = load(step + j);
        s += d * load(top + u * TILE + j);
        store(d_top + u * TILE + j, load(d_top + u * TILE + j) + output[u] * d);
      }
      store(d_output + u * WIDTH, s);
    }
    float* sums_of = sums + sums_size(layers) - H;
    for (int l = layers - 1; l >= 0; l--) {
      const Packed& p = packed[l];
      sums_of -= GATES * (p.inputs + H + 1);
      pointwise(l);
      turn(gates, turned, vectors);
      outer(l ? state(now, 2 * l - 2) : x, p.inputs, turned, count, sums_of);
      outer(state(old, 2 * l), H, turned, count, sums_of + p.inputs * GATES);
      bias(sums_of + (p.inputs + H) * GATES);
      back_rows<BACK, false>(p.hidden, H, vectors, gates, state(d_old, 2 * l));
      if (l) back_rows<BACK, true>(p.input, H, vectors, gates, state(d_now, 2 * l - 2));
      else if (plan.wants_input) back_rows<2, false>(p.input, 2, vectors, gates, d_x);
    }
  }

  // From the derivatives of a layer's new states to those of its gates before their activations, and of the old c.
  void pointwise(int l) {
    const float *kept_of = kept + l * 5 * H * TILE, *c = state(old, 2 * l + 1);
    const float *d_h = state(d_now, 2 * l), *d_c = state(d_now, 2 * l + 1);
    float* d_c_old = state(d_old, 2 * l + 1);
    for (int u = 0; u < H; u++)
      for (int j = 0; j < vectors * WIDTH; j += WIDTH) {
        const int64_t at = u * TILE + j;
        const auto get = [&](int which) { return load(kept_of + which * H * TILE + at); };
        const V i = get(0), f = get(1), g = get(2), o = get(3), t = get(4), dh = load(d_h + at);
        const V dc = load(d_c + at) + dh * o * (1.0f - t * t);
        store(gates + at, dc * g * (i * (1.0f - i)));
        store(gates + H * TILE + at, dc * load(c + at) * (f * (1.0f - f)));
        store(gates + 2 * H * TILE + at, dc * i * (1.0f - g * g));
        store(gates + 3 * H * TILE + at, dh * t * (o * (1.0f - o)));
        store(d_c_old + at, dc * f);
      }
  }

  void bias(float* sums) const {
    for (int r = 0; r < GATES; r += WIDTH) {
      V s = load(sums + r);
      for (int n = 0; n < count; n++) s += load(turned + n * GATES + r);
      store(sums + r, s);
    }
  }

  void scatter(int64_t lane, int64_t begin, int64_t end) {
    if (plan.wants_input && !plan.features)
      for (int j = 0; j < vectors * WIDTH; j += WIDTH) {
        const V g = load(grad + j), y = g * plan.inverse;
        const V log = magnitude(g) >= plan.smallest ? load(d_x + j) / (plan.p * g) : V{};
        const V inside = magnitude(y) <= 1.0f ? plan.inverse * load(d_x + TILE + j) : V{};
        store(d_x + j, log + inside);
      }
    row.parts(begin, end, [&](const Tensor& t, int64_t to, int64_t from, int64_t n) {
      const int64_t states = lane * 2 * layers * h * t.size + to;
      const float* rows = plan.back ? d_old : now;
      float* target = (plan.back ? t.d_hidden : t.new_hidden) + states;
      state_rows([&](int64_t r, int64_t q) { copy(rows + q * TILE + from, target + r * t.size, n); });
      if (!plan.back) copy(step + from, t.step + lane * t.size + to, n);
      if (!plan.wants_input) return;
      const int num = plan.features ? 2 : 1;
      for (int k = 0; k < num; k++) copy(d_x + k * TILE + from, t.d_input + (num * lane + k) * t.size + to, n);
    });
  }

  const Plan& plan;
  const Row& row;
  const int layers, h;
  struct Lines {
    const float* at;
    int64_t stride;
    int row;
  };

  int count = 0, vectors = 0, rows_at_once = 0;
  std::vector<Lines> lines;
  Buffer memory;
  float *old, *now, *kept, *x, *grad, *step;
  float *d_now = nullptr, *d_old = nullptr, *gates = nullptr, *turned = nullptr, *d_x = nullptr, *d_step = nullptr;
  float* d_output = nullptr;
};

// Memory about to be written for the first time comes in large pages, if the system has them: hundreds of times fewer.
void in_large_pages(float* x, int64_t size) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = 1 << 21;
  const uintptr_t begin = ((uintptr_t)x + page - 1) / page * page, end = (uintptr_t)(x + size) / page * page;
  if (x && end > begin + page) madvise((void*)begin, end - begin, MADV_HUGEPAGE);
#endif
}

// The sums of all chunks of a lane, in order, to where they belong.
void reduce(const Plan& plan, const Layer* layers, float* sums, int64_t chunks, int64_t lane) {
  const int64_t size = sums_size(plan.num_layers), h = plan.hidden;
  for (int64_t i = 1; i < chunks; i++)
    for (int64_t j = 0; j < size; j++) sums[j] += sums[i * size + j];
  const float* at = sums;
  for (int64_t l = 0; l < plan.num_layers; l++) {
    const int64_t inputs = l ? h : 2, padded = l ? H : 2, width = inputs + h;
    float* d = layers[l].d_weight + lane * 4 * h * width;
    for (int64_t r = 0; r < 4 * h; r++) {
      const float* column = at + r / h * H + r % h;
      for (int64_t k = 0; k < inputs; k++) d[r * width + k] = column[k * GATES];
      for (int64_t k = 0; k < h; k++) d[r * width + inputs + k] = column[(padded + k) * GATES];
      layers[l].d_bias[lane * 4 * h + r] = column[(padded + H) * GATES];
    }
    at += GATES * (padded + H + 1);
  }
  std::copy_n(at, h, plan.d_output + lane * h);
}

void all(const Plan& plan, const Tensor* tensors, const Layer* layers) {
  const Row row(plan, tensors);
  const int num = plan.num_layers, h = plan.hidden;
  bool shared = plan.output_lane == 0;
  for (int l = 0; l < num; l++) shared &= layers[l].weight_lane == 0 && layers[l].bias_lane == 0;
  const int64_t thetas = shared ? 1 : plan.num_lanes;
  int64_t size = H;
  std::vector<int64_t> starts;
  for (int l = 0; l < num; l++) starts.push_back(size), size += Packed::size(l ? H : 2);
  const Buffer packed = buffer(thetas * size);
#pragma omp parallel for if (thetas > 1)
  for (int64_t lane = 0; lane < thetas; lane++) {
    float* at = packed.get() + lane * size;
    std::fill_n(at, H, 0.0f);
    std::copy_n(plan.output + lane * plan.output_lane, h, at);
    for (int l = 0; l < num; l++) pack(at + starts[l], layers[l], lane, l ? h : 2, l ? H : 2, h, plan.back);
  }
  for (int64_t i = 0; i < plan.num_tensors; i++)
    in_large_pages(plan.back ? tensors[i].d_hidden : tensors[i].new_hidden, plan.num_lanes * 2 * num * h * tensors[i].size);
  const int64_t items = plan.num_lanes * row.num_chunks, sums_num = sums_size(num);
  const Buffer sums = buffer(plan.back ? std::max<int64_t>(items, plan.num_lanes) * sums_num : 1);
  if (plan.back && !items) std::fill_n(sums.get(), plan.num_lanes * sums_num, 0.0f);
#pragma omp parallel if (items > 1)
  {
    Tile tile(plan, row);
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < items; item++) {
      const int64_t lane = item / row.num_chunks, begin = item % row.num_chunks * row.chunk;
      const int64_t end = std::min(begin + row.chunk, row.total());
      const float* theta = packed.get() + (shared ? 0 : lane * size);
      std::vector<Packed> cells;
      for (int l = 0; l < num; l++) cells.emplace_back(l ? H : 2, theta + starts[l]);
      float* sums_of = plan.back ? sums.get() + item * sums_num : nullptr;
      if (plan.back) std::fill_n(sums_of, sums_num, 0.0f);
      tile.begin();
      for (int64_t at = begin; at < end; at += TILE)
        tile.run(cells.data(), theta, lane, at, std::min(at + TILE, end), std::min(at + 2 * TILE, end), sums_of);
      tile.finish(sums_of);
    }
  }
  if (!plan.back) return;
  const int64_t chunks = std::max<int64_t>(1, row.num_chunks);
#pragma omp parallel for if (plan.num_lanes > 1)
  for (int64_t lane = 0; lane < plan.num_lanes; lane++)
    reduce(plan, layers, sums.get() + lane * chunks * sums_num, chunks, lane);
}

}  // namespace

extern "C" void lstm(const Plan* plan, const Tensor* tensors, const Layer* layers) { all(*plan, tensors, layers); }
