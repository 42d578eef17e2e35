// Averages, features and a small MLP of every coordinate in a few passes over memory, for many lanes at once.
//
// What is computed stands in l2o/rules/features.py and l2o/rules/network.py; here is only how. A tensor with factored
// second moments is seen as (A, S1, B, S2, C): S1 and S2 are the two factored dimensions in memory order. A row is the S2
// coordinates at one (a, s1, b, c): of the two factored statistics the outer one is constant along it, and the inner one
// runs along it, so what the network makes of the outer one is a bias of the row, of the inner one a table.
//
//   pass A   new averages, sums of squares of the features that need no factored statistics, sums of g^2 by row, column
//   pass B   sums of squares of g f and m f
//   pass C   the network
#include "vector.h"

#include <algorithm>
#include <type_traits>
#include <vector>

namespace {

// The order of l2o.rules.features.stack_features, then the means of momenta and second moment
enum { G, P, M, V2 = 5, MR, R = 9, GF, ROW = 13, COL = 16, RROW = 19, RCOL = 22, MF = 25, CLIP = 28, GR, NUM_FEATURES };
enum { MEAN_M = NUM_FEATURES, MEAN_V = MEAN_M + 3, MOVED, NUM_MOMENTS };

constexpr int MAX_LAYERS = 4;
constexpr int64_t CHUNK = 1 << 16;  // coordinates that one thread takes at a time; fixed, so sums do not depend on threads

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
  float *u;
  S *new_m, *new_v;
  float *new_row, *new_column;
  int64_t a, s1, b, s2, c;
  int64_t row_is_outer;
};

struct Plan {
  int64_t num_lanes, num_tensors, hidden, num_layers, num_outputs;
  int64_t measure, extended, residual, normalize;
  const float *rates;  // (lanes, 7), or null where momenta and second moment are new already
  const float *layers;  // lanes and tensors leading, strides below
  int64_t layers_lane, layers_tensor;
  const float *sizes;  // (lanes, tensors), a further factor of every step, or null
  float *moments;  // (lanes, tensors, NUM_MOMENTS): mean squares of the features, means of momenta and
                   // second moment, share of the coordinates that have ever had a gradient
  float *norms;  // (lanes, tensors): sum of squares of the step before it is scaled, or null
  float eps_second, eps_rms, max_gradient, magnitude_scale, size;
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
  float *u;
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

template <int H>
struct Net {
  float in[NUM_FEATURES][H];  // times the features' scale
  float bias[H];
  float inner[MAX_LAYERS][H][H];  // [layer][from][to]
  float inner_bias[MAX_LAYERS][H];
  float out[2][H], out_bias[2], adam_scale;
  int num_inner;

  void fill(const Plan& plan, const float* w, const float* scale) {
    const int hidden = plan.hidden, inputs = plan.extended ? NUM_FEATURES : CLIP;
    std::memset(this, 0, sizeof *this);
    for (int h = 0; h < hidden; h++)
      for (int f = 0; f < inputs; f++) in[f][h] = *w++ * scale[f];
    for (int h = 0; h < hidden; h++) bias[h] = *w++;
    num_inner = plan.num_layers - 1;
    for (int l = 0; l < num_inner; l++) {
      for (int h = 0; h < hidden; h++)
        for (int k = 0; k < hidden; k++) inner[l][k][h] = *w++;
      for (int h = 0; h < hidden; h++) inner_bias[l][h] = *w++;
    }
    for (int o = 0; o < plan.num_outputs; o++)
      for (int h = 0; h < hidden; h++) out[o][h] = *w++;
    for (int o = 0; o < plan.num_outputs; o++) out_bias[o] = *w++;
    adam_scale = plan.residual ? scale[MR] : 0.0f;
  }
};

template <int H>
inline __attribute__((always_inline)) void add(V (&z)[H], const float (&w)[H], V x) {
#pragma GCC unroll 32
  for (int h = 0; h < H; h++) z[h] += w[h] * x;
}

// One lane of one tensor on its way through the passes.
template <int H>
class Step {
 public:
  Step(const Plan& plan, const Tensor& t, int64_t lane, int64_t index, bool parallel)
      : plan(plan), t(t), parallel(parallel), factored(t.column != nullptr) {
    size = t.a * t.s1 * t.b * t.s2 * t.c;
    num_outer = t.a * t.s1 * t.b * t.c, num_inner = t.a * t.b * t.s2 * t.c;
    offset = lane * size;
    rates = Rates{};
    if (plan.rates) std::memcpy(&rates, plan.rates + 7 * lane, sizeof rates);
    const int64_t item = lane * plan.num_tensors + index;
    moments = plan.moments + item * NUM_MOMENTS;
    norm = plan.norms ? plan.norms + item : nullptr;
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

  // The averages after one more gradient, and the moments. Momenta and second moment may be left as they are: then they
  // are made again where they are needed, from the old ones and the rates.
  void measure() {
    pass_a();
    if (factored) statistics(), pass_b();
  }

  void move() {
    std::fill(rates.f, rates.f + 3, 0.0f);  // factored averages are always new by now
    if (factored) statistics();
    pass_c();
  }

 private:
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
            Row<float> one{y, y + slab, {y + 2 * slab, y + 3 * slab, y + 4 * slab}, y + 5 * slab,
                    {z, z + slab, z + 2 * slab}, z + 3 * slab, z + 4 * slab};
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
    Row<S> r{p + begin, g + begin, {m[0] + begin, m[1] + begin, m[2] + begin}, v + begin, {}, nullptr, u ? u + begin : nullptr};
    if (writes_averages) {
      for (int k = 0; k < 3; k++) r.new_m[k] = new_m[k] + begin;
      r.new_v = new_v + begin;
    }
    body(r, end - begin);
  }

  template <class T>
  inline __attribute__((always_inline)) V gradient(const Row<T>& r, int64_t j, int n) const { return clamp(load(r.g + j, n), plan.max_gradient); }
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

  using SumsA = Sums<17>;  // g p m m m v mr mr mr r clip gr, m m m v, moved

  template <class T>
  void measure_row(const Row<T>& r, int64_t n, V (&sums)[17], float* by_column, V* by_row) const {
    V row = V{}, s[17];  // locals stay in registers
    std::copy(sums, sums + 17, s);
    along(n, [&](int64_t j, auto k) {
      const V g = gradient(r, j, k), p = load(r.p + j, k), v = second(r, g, j, k), square = g * g;
      V inverse = rsqrt(v + plan.eps_second);
      inverse = keep(inverse, k);
      const V clip = clamp(g, 0.1f), gr = g * inverse;
      if (r.new_v) store(r.new_v + j, v, k);
      s[0] += square, s[1] += p * p, s[5] += v * v, s[9] += inverse * inverse, s[10] += clip * clip, s[11] += gr * gr;
      s[15] += v;
#pragma GCC unroll 3
      for (int i = 0; i < 3; i++) {
        const V m = momentum(r, i, g, j, k), mr = m * inverse;
        if (r.new_v) store(r.new_m[i] + j, m, k);
        s[2 + i] += m * m, s[6 + i] += mr * mr, s[12 + i] += m;
        if (i == 2) s[16] += m != 0.0f ? splat(1.0f) : V{};
      }
      if (by_column) store(by_column + j, load(by_column + j, k) + square, k);
      row += square;
    });
    std::copy(s, s + 17, sums);
    *by_row = row;
  }

  void pass_a() {
    std::vector<SumsA> found(num_chunks);
    const int64_t vectors = (t.s2 + WIDTH - 1) / WIDTH;
    if (factored) {
      by_row.assign(num_outer, 0.0f);
      std::vector<float> partial(num_chunks * num_inner, 0.0f);
      chunks([&](int64_t i, int64_t begin, int64_t end) {
        auto& sums = found[i];
        float* columns = partial.data() + i * num_inner;
        rows(begin, end, new_v != nullptr, false, [&](const auto& r, int64_t n, int64_t outer, int64_t inner) {
          V total;
          measure_row(r, n, sums.part, columns + inner, &total);
          by_row[outer] = sum(total);
          sums.after(vectors);
        });
        sums.flush();
      });
      by_column.assign(partial.begin(), partial.begin() + num_inner);
      for (int64_t i = 1; i < num_chunks; i++)
        for (int64_t j = 0; j < num_inner; j++) by_column[j] += partial[i * num_inner + j];
    } else {
      std::vector<Sums<12>> more(num_chunks);  // g f, d, 1/sqrt d, m f
      chunks([&](int64_t i, int64_t begin, int64_t end) {
        for (int64_t at = begin; at < end; at += 2048) {
          const int64_t stop = std::min(end, at + 2048);
          stretch(at, stop, new_v != nullptr, [&](const auto& r, int64_t n) {
            V total;
            measure_row(r, n, found[i].part, nullptr, &total);
            measure_diagonal(r, n, at, more[i].part);
          });
          found[i].flush(), more[i].flush();
        }
      });
      const int places[4] = {GF, ROW, RROW, MF};
      for (int q = 0; q < 12; q++) {
        double total = 0.0;
        for (auto& sums : more) total += sums.total[q];
        const int at = places[q / 3] + q % 3;
        moments[at] = total / size;
        if (q / 3 == 1) moments[COL + q % 3] = moments[at];
        if (q / 3 == 2) moments[RCOL + q % 3] = moments[at];
      }
    }
    const int places[17] = {G,      P, M,  M + 1,  M + 2,      V2,         MR,     MR + 1, MR + 2,
                            R, CLIP, GR, MEAN_M, MEAN_M + 1, MEAN_M + 2, MEAN_V, MOVED};
    for (int q = 0; q < 17; q++) {
      double total = 0.0;
      for (auto& sums : found) total += sums.total[q];
      moments[places[q]] = total / size;
    }
  }

  template <class T>
  void measure_diagonal(const Row<T>& r, int64_t n, int64_t begin, V (&sums)[12]) const {
    V s[12];
    std::copy(sums, sums + 12, s);
    along(n, [&](int64_t j, auto k) {
      const V g = gradient(r, j, k);
#pragma GCC unroll 3
      for (int i = 0; i < 3; i++) {
        V x = load(d[i] + begin + j, k);
        x = x + rates.f[i] * (g * g - x);
        if (new_d[i]) store(new_d[i] + begin + j, x, k);
        const V gf = g * rsqrt(x + 1e-9f), mf = momentum(r, i, g, j, k) * rsqrt(x + 1e-6f);
        V inverse = rsqrt(x + 1e-8f);
        inverse = keep(inverse, k);
        s[i] += gf * gf, s[3 + i] += x * x, s[6 + i] += inverse * inverse, s[9 + i] += mf * mf;
      }
    });
    std::copy(s, s + 12, sums);
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
    if (m == 1 || n == 1) std::copy_n(from, num_inner, to);
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

  void pass_b() {
    std::vector<Sums<6>> found(num_chunks);
    const int64_t vectors = (t.s2 + WIDTH - 1) / WIDTH;
    chunks([&](int64_t i, int64_t begin, int64_t end) {
      auto& sums = found[i];
      rows(begin, end, false, false, [&](const auto& r, int64_t n, int64_t outer, int64_t inner) {
        V s[6];
        std::copy(sums.part, sums.part + 6, s);
        along(n, [&](int64_t j, auto k) {
          const V g = gradient(r, j, k);
#pragma GCC unroll 3
          for (int q = 0; q < 3; q++) {
            const V f = load(&inner_scale[q * num_inner + inner] + j, k) * outer_scale[q * num_outer + outer];
            const V gf = g * f, mf = momentum(r, q, g, j, k) * f;
            s[q] += gf * gf, s[3 + q] += mf * mf;
          }
        });
        std::copy(s, s + 6, sums.part);
        sums.after(vectors);
      });
      sums.flush();
    });
    for (int q = 0; q < 6; q++) {
      double total = 0.0;
      for (auto& sums : found) total += sums.total[q];
      moments[(q < 3 ? GF : MF) + q % 3] = total / size;
    }
  }

  void pass_c() {
    float scale[NUM_FEATURES];
    for (int f = 0; f < NUM_FEATURES; f++) scale[f] = 1.0f / std::sqrt(moments[f] + plan.eps_rms);
    Net<H> net;
    net.fill(plan, weights, scale);
    std::vector<Sums<1>> found(num_chunks);
    if (factored) {
      const int into = t.row_is_outer ? COL : ROW, from = t.row_is_outer ? ROW : COL;
      const int r_into = t.row_is_outer ? RCOL : RROW, r_from = t.row_is_outer ? RROW : RCOL;
      std::vector<float> table(H * num_inner);  // what the first layer makes of the inner statistics
      along(num_inner, [&](int64_t j, auto n) {
        V z[H] = {};
        for (int k = 0; k < 3; k++) {
          const V x = load(&inner[k * num_inner] + j, n);
          add(z, net.in[into + k], x), add(z, net.in[r_into + k], rsqrt(x + 1e-8f));
        }
        for (int h = 0; h < H; h++) store(&table[h * num_inner] + j, z[h], n);
      });
      const int64_t vectors = (t.s2 + WIDTH - 1) / WIDTH;
      chunks([&](int64_t i, int64_t begin, int64_t end) {
        auto& sums = found[i];
        rows(begin, end, false, true, [&](const auto& r, int64_t n, int64_t at, int64_t inner) {
          float bias[H], scales[3];
          for (int h = 0; h < H; h++) bias[h] = net.bias[h];
          for (int k = 0; k < 3; k++) {
            const float x = outer[k * num_outer + at], inverse = 1.0f / std::sqrt(x + 1e-8f);
            for (int h = 0; h < H; h++) bias[h] += net.in[from + k][h] * x + net.in[r_from + k][h] * inverse;
            scales[k] = outer_scale[k * num_outer + at];
          }
          along(n, [&](int64_t j, auto k) {
            V z[H];
#pragma GCC unroll 32
            for (int h = 0; h < H; h++) z[h] = bias[h] + load(&table[h * num_inner + inner] + j, k);
            move(net, r, j, k, z, sums, [&](int q, V g, V m) {
              const V f = load(&inner_scale[q * num_inner + inner] + j, k) * scales[q];
              add(z, net.in[GF + q], g * f), add(z, net.in[MF + q], m * f);
            });
          });
          sums.after(vectors);
        });
        sums.flush();
      });
    } else {
      float both[6][H];  // row and column are the same here
      for (int k = 0; k < 3; k++)
        for (int h = 0; h < H; h++) {
          both[k][h] = net.in[ROW + k][h] + net.in[COL + k][h];
          both[3 + k][h] = net.in[RROW + k][h] + net.in[RCOL + k][h];
        }
      chunks([&](int64_t i, int64_t begin, int64_t end) {
        auto& sums = found[i];
        for (int64_t at = begin; at < end; at += 2048) {
          stretch(at, std::min(end, at + 2048), false, [&](const auto& r, int64_t n) {
            along(n, [&](int64_t j, auto k) {
              V z[H];
              for (int h = 0; h < H; h++) z[h] = splat(net.bias[h]);
              move(net, r, j, k, z, sums, [&](int q, V g, V m) {
                V x = load(d[q] + at + j, k);
                x = x + rates.f[q] * (g * g - x);
                add(z, both[q], x), add(z, both[3 + q], rsqrt(x + 1e-8f));
                add(z, net.in[GF + q], g * rsqrt(x + 1e-9f)), add(z, net.in[MF + q], m * rsqrt(x + 1e-6f));
              });
            });
          });
          sums.flush();
        }
      });
    }
    double square = 0.0;
    for (auto& sums : found) square += sums.total[0];
    if (norm) *norm = square;
    if (plan.normalize) {
      const float by = step_size / std::sqrt((float)(square / std::max(std::round((double)moments[MOVED] * size), 1.0)) + 1e-9f);
      const int64_t num = std::max<int64_t>(1, size / CHUNK);
#pragma omp parallel for if (parallel)
      for (int64_t i = 0; i < num; i++)
        for (int64_t j = size * i / num; j < size * (i + 1) / num; j++) u[j] *= by;
    }
  }

  template <class T, class Count, class Factored>
  inline __attribute__((always_inline)) void move(const Net<H>& net, const Row<T>& r, int64_t j, Count k, V (&z)[H], Sums<1>& sums, Factored factored) const {
    const V g = gradient(r, j, k), v = second(r, g, j, k), inverse = rsqrt(v + plan.eps_second);
    V slowest, adam;
    add(z, net.in[G], g), add(z, net.in[P], load(r.p + j, k)), add(z, net.in[V2], v), add(z, net.in[R], inverse);
    if (plan.extended) add(z, net.in[CLIP], clamp(g, 0.1f)), add(z, net.in[GR], g * inverse);
#pragma GCC unroll 3
    for (int q = 0; q < 3; q++) {
      const V m = momentum(r, q, g, j, k), mr = m * inverse;
      if (q == 0) adam = mr;
      slowest = m;
      add(z, net.in[M + q], m), add(z, net.in[MR + q], mr);
      factored(q, g, m);
    }
    for (int l = 0; l < net.num_inner; l++) {
      V y[H];
#pragma GCC unroll 32
      for (int h = 0; h < H; h++) y[h] = relu(z[h]), z[h] = splat(net.inner_bias[l][h]);
#pragma GCC unroll 32
      for (int h = 0; h < H; h++) add(z, net.inner[l][h], y[h]);
    }
    V direction = splat(net.out_bias[0]), magnitude = splat(net.out_bias[1]);
#pragma GCC unroll 32
    for (int h = 0; h < H; h++) {
      const V y = relu(z[h]);
      direction += net.out[0][h] * y, magnitude += net.out[1][h] * y;
    }
    if (plan.num_outputs == 2) direction *= exponential(magnitude * plan.magnitude_scale);
    if (plan.residual) direction += adam * net.adam_scale;
    if (!plan.normalize) direction *= step_size;
    const VI moved = slowest != 0.0f;
    direction = moved ? direction : V{};
    store(r.u + j, direction, k);
    sums.part[0] += direction * direction;
  }

  const Plan& plan;
  const Tensor& t;
  const bool parallel, factored;
  int64_t size, num_outer, num_inner, offset, split, num_chunks;
  Rates rates;
  float *moments, *norm, step_size;
  const float *weights, *p, *g, *d[3], *outer_in, *inner_in;
  const S *m[3], *v;
  S *new_m[3], *new_v;
  float *new_d[3], *u, *outer_out = nullptr, *inner_out = nullptr;
  std::vector<float> by_row, by_column, outer, inner, outer_scale, inner_scale;
};

template <int H>
void all(const Plan& plan, const Tensor* tensors) {
  std::vector<int64_t> small, large;
  for (int64_t i = 0; i < plan.num_tensors; i++) {
    const Tensor& t = tensors[i];
    const int64_t size = t.a * t.s1 * t.b * t.s2 * t.c;
    (size >= 2 * CHUNK && plan.num_lanes < 16 ? large : small).push_back(i);
  }
  const auto work = [&](int64_t lane, int64_t index, bool parallel) {
    Step<H> step(plan, tensors[index], lane, index, parallel);
    plan.measure ? step.measure() : step.move();
  };
  const int64_t num = plan.num_lanes * (int64_t)small.size();
#pragma omp parallel for schedule(dynamic) if (num > 1)
  for (int64_t i = 0; i < num; i++) {
    const int64_t lane = i / (int64_t)small.size(), index = small[i % small.size()];
    work(lane, index, false);
  }
  for (int64_t index : large)
    for (int64_t lane = 0; lane < plan.num_lanes; lane++) work(lane, index, true);
}

}  // namespace

extern "C" void coordinate_mlp(const Plan* plan, const Tensor* tensors) { all<HIDDEN>(*plan, tensors); }

// Brings momenta and second moments up to date in place, from the same gradients.
extern "C" void coordinate_mlp_advance(const Plan* plan, const Tensor* tensors) {
  Rates rates;
  std::memcpy(&rates, plan->rates, sizeof rates);
  for (int64_t i = 0; i < plan->num_tensors; i++) {
    const Tensor& t = tensors[i];
    const int64_t size = t.a * t.s1 * t.b * t.s2 * t.c, num = std::max<int64_t>(1, size / CHUNK);
    const uint32_t seed = (uint32_t)(plan->seed * 1000003 + i);
#pragma omp parallel for if (num > 1)
    for (int64_t chunk = 0; chunk < num; chunk++) {
      const int64_t begin = size * chunk / num, end = size * (chunk + 1) / num;
      along(end - begin, [&](int64_t j, auto n) {
        const int64_t at = begin + j;
        const V g = clamp(load(t.g + at, n), plan->max_gradient), v = load(t.v + at, n);
        VU bits = random_bits(seed, at);
        store(t.new_v + at, v + rates.v * (g * g - v), n, bits);
        for (int k = 0; k < 3; k++) {
          const V m = load(t.m + k * size + at, n);
          bits = k == 1 ? random_bits(~seed, at) : bits >> 16;
          store(t.new_m + k * size + at, m + rates.m[k] * (g - m), n, bits);
        }
      });
    }
  }
}
