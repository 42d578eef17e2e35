// How the passes of coordinate_mlp.cpp walk over the coordinates of a tensor, and what they know of it.
//
// A tensor with factored second moments is seen as (A, S1, B, S2, C): S1 and S2 are the two factored dimensions in
// memory order. A row is the S2 coordinates at one (a, s1, b, c): of the two factored statistics the outer one is
// constant along it, and the inner one runs along it.
#pragma once
#include <algorithm>
#include <type_traits>
#include <vector>

#include "vector.h"

namespace {

// The order of l2o.rules.features.stack_features, then the means of momenta and second moment
enum { G, P, M, V2 = 5, MR, R = 9, GF, ROW = 13, COL = 16, RROW = 19, RCOL = 22, MF = 25, CLIP = 28, GR, NUM_FEATURES };
enum { MEAN_M = NUM_FEATURES, MEAN_V = MEAN_M + 3, MOVED, NUM_MOMENTS };

constexpr int MAX_LAYERS = 4;
constexpr int64_t CHUNK =
    1 << 16;  // coordinates that one thread takes at a time; fixed, so sums do not depend on threads

}  // namespace

// What momenta and second moments are kept as. Half the memory is read here, and written by `advance` alone.
#if HALF
typedef uint16_t S;  // bfloat16: the upper half of a float
#else
typedef float S;
#endif

extern "C" {

struct Tensor {
  const float *p, *g;  // lanes leading
  const S *m, *v;
  const float *row, *column;  // column is null where all is diagonal
  float* u;
  S *new_m, *new_v;
  float *new_row, *new_column;
  int64_t a, s1, b, s2, c;
  int64_t row_is_outer;
};

struct Plan {
  int64_t num_lanes, num_tensors, hidden, num_layers, num_outputs;
  int64_t measure, extended, residual, normalize, masked;
  const float* rates;   // (lanes, 7), or null where momenta and second moment are new already
  const float* layers;  // lanes and tensors leading, strides below
  int64_t layers_lane, layers_tensor;
  const float* sizes;  // (lanes, tensors), a further factor of every step, or null
  float* moments;      // (lanes, tensors, NUM_MOMENTS): mean squares of the features, means of momenta and
                       // second moment, share of the coordinates that have ever had a gradient
  float eps_second, eps_rms, max_gradient, magnitude_scale, size, eps_diagonal, eps_square;
  int64_t seed;  // of the rounding to bfloat16
};
}

namespace {

template <int N>
struct Sums {
  V part[N];
  double total[N] = {};
  int64_t pending = 0;
  Sums() { clear(); }
  void clear() {
    for (auto& x : part) x = V{};
  }
  void flush() {
    for (int i = 0; i < N; i++) total[i] += sum(part[i]);
    clear();
    pending = 0;
  }
  void after(int64_t vectors) {
    if ((pending += vectors) > 256) flush();
  }
};

struct Rates {
  float m[3], v, f[3];
};

template <class T>
struct Row {
  const float *p, *g;
  const T *m[3], *v;
  T *new_m[3], *new_v;
  float* u;
};

// Calls body(j, k) for stretches of k coordinates from j on: WIDTH as a constant, but for a last shorter one.
template <class Body>
inline __attribute__((always_inline)) void along(int64_t n, Body body) {
  int64_t j = 0;
  for (; j + WIDTH <= n; j += WIDTH) body(j, std::integral_constant<int, WIDTH>{});
  if (j < n) body(j, (int)(n - j));
}

inline V keep(V x, int n) {  // zero from the n-th on
  for (int i = n; i < WIDTH; i++) x[i] = 0.0f;
  return x;
}

inline V keep(V x, std::integral_constant<int, WIDTH>) { return x; }

// One lane of one tensor.
class Walk {
 public:
  Walk(const Plan& plan, const Tensor& t, int64_t lane, int64_t index, bool parallel)
      : plan(plan), t(t), parallel(parallel), factored(t.column != nullptr) {
    size = t.a * t.s1 * t.b * t.s2 * t.c;
    num_outer = t.a * t.s1 * t.b * t.c, num_inner = t.a * t.b * t.s2 * t.c;
    offset = lane * size;
    rates = Rates{};
    if (plan.rates) std::memcpy(&rates, plan.rates + 7 * lane, sizeof rates);
    const int64_t item = lane * plan.num_tensors + index;
    moments = plan.moments + item * NUM_MOMENTS;
    step_size = plan.size * (plan.sizes ? plan.sizes[item] : 1.0f);
    weights = plan.layers + plan.layers_lane * lane + plan.layers_tensor * index;
    p = t.p + offset, g = t.g + offset, v = t.v + offset, u = t.u ? t.u + offset : nullptr;
    new_v = t.new_v ? t.new_v + offset : nullptr;
    const int64_t outer_lane = 3 * num_outer * lane, inner_lane = 3 * num_inner * lane;
    for (int k = 0; k < 3; k++) {
      m[k] = t.m + 3 * offset + k * size;
      new_m[k] = t.new_m ? t.new_m + 3 * offset + k * size : nullptr;
    }
    if (factored) {
      const bool is = t.row_is_outer;
      outer_in = (is ? t.row : t.column) + outer_lane, inner_in = (is ? t.column : t.row) + inner_lane;
      if (plan.measure) {
        outer_out = (is ? t.new_row : t.new_column) + outer_lane;
        inner_out = (is ? t.new_column : t.new_row) + inner_lane;
      }
    } else {
      for (int k = 0; k < 3; k++) {
        d[k] = t.row + 3 * offset + k * size;
        new_d[k] = t.new_row ? t.new_row + 3 * offset + k * size : nullptr;
      }
    }
    split = factored ? t.s1 : size;
    const int64_t most = factored ? std::max<int64_t>(1, split / 4) : std::max<int64_t>(1, split / 4096);
    num_chunks = std::max<int64_t>(1, std::min<int64_t>({64, size / CHUNK, most}));
  }

 protected:
  template <class Body>
  void chunks(Body body) {
#pragma omp parallel for schedule(dynamic) if (parallel)
    for (int64_t i = 0; i < num_chunks; i++) body(i, split * i / num_chunks, split * (i + 1) / num_chunks);
  }

  // Calls body(row, n, outer, inner) for the rows whose s1 lies in the range; what it writes is put in place after it.
  template <class Body>
  void rows(int64_t begin, int64_t end, bool writes_averages, bool writes_u, Body body) {
    std::vector<float> buffer(t.c > 1 ? 11 * t.s2 * t.c : 0);
    const int64_t n = t.s2, slab = t.s2 * t.c;
    for (int64_t a = 0; a < t.a; a++)
      for (int64_t s1 = begin; s1 < end; s1++)
        for (int64_t b = 0; b < t.b; b++) {
          const int64_t group = a * t.b + b, outer = ((a * t.s1 + s1) * t.b + b), base = outer * slab;
          Row<S> r{p + base, g + base, {m[0] + base, m[1] + base, m[2] + base}, v + base, {}, nullptr, nullptr};
          if (writes_averages) {
            for (int k = 0; k < 3; k++) r.new_m[k] = new_m[k] + base;
            r.new_v = new_v + base;
          }
          if (writes_u) r.u = u + base;
          if (t.c == 1) {
            body(r, n, outer, group * n);
            continue;
          }
          float* x = buffer.data();
          const auto in = [&](int i, auto* from) {
            for (int64_t s = 0; s < n; s++)
              for (int64_t c = 0; c < t.c; c++) x[i * slab + c * n + s] = wide(from[s * t.c + c]);
          };
          const auto out = [&](int i, auto* to) {
            for (int64_t c = 0; c < t.c; c++)
              for (int64_t s = 0; s < n; s++) to[s * t.c + c] = x[i * slab + c * n + s];
          };
          in(0, r.p), in(1, r.g), in(2, r.m[0]), in(3, r.m[1]), in(4, r.m[2]), in(5, r.v);
          for (int64_t c = 0; c < t.c; c++) {
            float* y = x + c * n;
            float* z = y + 6 * slab;
            Row<float> one{y,
                           y + slab,
                           {y + 2 * slab, y + 3 * slab, y + 4 * slab},
                           y + 5 * slab,
                           {z, z + slab, z + 2 * slab},
                           z + 3 * slab,
                           z + 4 * slab};
            if (!writes_averages) one.new_v = nullptr;
            body(one, n, outer * t.c + c, (group * t.c + c) * n);
          }
          if (writes_averages) {
            for (int k = 0; k < 3; k++) out(6 + k, r.new_m[k]);
            out(9, r.new_v);
          }
          if (writes_u) out(10, r.u);
        }
  }

  // The same for a tensor without factored statistics: any stretch of it is a row.
  template <class Body>
  void stretch(int64_t begin, int64_t end, bool writes_averages, Body body) {
    Row<S> r{p + begin,
             g + begin,
             {m[0] + begin, m[1] + begin, m[2] + begin},
             v + begin,
             {},
             nullptr,
             u ? u + begin : nullptr};
    if (writes_averages) {
      for (int k = 0; k < 3; k++) r.new_m[k] = new_m[k] + begin;
      r.new_v = new_v + begin;
    }
    body(r, end - begin);
  }

  template <class T>
  inline __attribute__((always_inline)) V gradient(const Row<T>& r, int64_t j, int n) const {
    return clamp(load(r.g + j, n), plan.max_gradient);
  }
  template <class T>
  inline __attribute__((always_inline)) V momentum(const Row<T>& r, int k, V g, int64_t j, int n) const {
    V x = load(r.m[k] + j, n);
    return x + rates.m[k] * (g - x);
  }
  template <class T>
  inline __attribute__((always_inline)) V second(const Row<T>& r, V g, int64_t j, int n) const {
    V x = load(r.v + j, n);
    return x + rates.v * (g * g - x);
  }

  // New factored statistics, the scales that they give, and the mean squares of the features made of them alone.
  void statistics() {
    const bool is = t.row_is_outer;
    outer.resize(3 * num_outer), outer_scale.resize(3 * num_outer);
    inner.resize(3 * num_inner), inner_scale.resize(3 * num_inner);
    for (int k = 0; k < 3; k++) {
      float* o = outer.data() + k * num_outer;
      float* i = inner.data() + k * num_inner;
      std::copy_n(outer_in + k * num_outer, num_outer, o);
      transpose(inner_in + k * num_inner, i, t.s2, t.c);
      if (plan.measure) {
        const float rate = rates.f[k], by1 = 1.0f / t.s2, by2 = 1.0f / t.s1;
        for (int64_t j = 0; j < num_outer; j++) o[j] += rate * (by_row[j] * by1 - o[j]);
        for (int64_t j = 0; j < num_inner; j++) i[j] += rate * (by_column[j] * by2 - i[j]);
        std::copy_n(o, num_outer, outer_out + k * num_outer);
        transpose(i, inner_out + k * num_inner, t.c, t.s2);
        features_of(o, num_outer, k, is), features_of(i, num_inner, k, !is);
      }
      float* os = outer_scale.data() + k * num_outer;
      float* is_ = inner_scale.data() + k * num_inner;
      std::copy_n(o, num_outer, os), std::copy_n(i, num_inner, is_);
      if (is) {
        for (int64_t a = 0; a < t.a; a++)
          for (int64_t bc = 0; bc < t.b * t.c; bc++) relative(os + a * t.s1 * t.b * t.c + bc, t.s1, t.b * t.c);
      } else {
        for (int64_t q = 0; q < t.a * t.b * t.c; q++) relative(is_ + q * t.s2, t.s2, 1);
      }
      inverse_root(os, num_outer), inverse_root(is_, num_inner);
    }
  }

  // Each of the a x b matrices (m, n) of an inner statistic becomes (n, m).
  void transpose(const float* from, float* to, int64_t m, int64_t n) const {
    if (m == 1 || n == 1)
      std::copy_n(from, num_inner, to);
    else
      for (int64_t q = 0; q < num_inner; q += m * n)
        for (int64_t i = 0; i < m; i++)
          for (int64_t j = 0; j < n; j++) to[q + j * m + i] = from[q + i * n + j];
  }

  void features_of(const float* x, int64_t n, int k, bool is_row) {
    Sums<2> sums;
    along(n, [&](int64_t j, auto k) {
      const V y = load(x + j, k);
      sums.part[0] += y * y, sums.part[1] += keep(1.0f / (y + 1e-8f), k);
      sums.after(1);
    });
    sums.flush();
    moments[(is_row ? ROW : COL) + k] = sums.total[0] / n;
    moments[(is_row ? RROW : RCOL) + k] = sums.total[1] / n;
  }

  static void relative(float* x, int64_t n, int64_t stride) {
    double total = 0.0;
    for (int64_t j = 0; j < n; j++) total += x[j * stride];
    const float by = 1.0f / ((float)(total / n) + 1e-9f);
    for (int64_t j = 0; j < n; j++) x[j * stride] *= by;
  }

  static void inverse_root(float* x, int64_t n) {
    along(n, [&](int64_t j, auto k) { store(x + j, rsqrt(at_least(load(x + j, k), 1e-9f)), k); });
  }

  const Plan& plan;
  const Tensor& t;
  const bool parallel, factored;
  int64_t size, num_outer, num_inner, offset, split, num_chunks;
  Rates rates;
  float *moments, step_size;
  const float *weights, *p, *g, *d[3], *outer_in, *inner_in;
  const S *m[3], *v;
  S *new_m[3], *new_v;
  float *new_d[3], *u, *outer_out = nullptr, *inner_out = nullptr;
  std::vector<float> by_row, by_column, outer, inner, outer_scale, inner_scale;
};

}  // namespace
