// Averages, features and a small MLP of every coordinate in a few passes over memory, for many lanes at once.
//
// What is computed stands in l2o/rules/features.py and l2o/rules/network.py; here is only how. What the network makes
// of a factored statistic is a bias of the row for the outer one (see coordinates.h), a table along the row for the
// inner one.
//
//   pass A   new averages, sums of squares of the features that need no factored statistics, sums of g^2 by row, column
//   pass B   sums of squares of g f and m f
//   pass C   the network
#include "coordinates.h"

namespace {

// The averages after one more gradient, and the moments. Momenta and second moment may be left as they are: then they
// are made again where they are needed, from the old ones and the rates.
class Measure : Walk {
 public:
  using Walk::Walk;

  void run() {
    pass_a();
    if (factored) statistics(), pass_b();
  }

 private:
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
    const int places[17] = {G, P,    M,  M + 1,  M + 2,      V2,         MR,     MR + 1, MR + 2,
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
};

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

// The step.
template <int H>
class Move : Walk {
 public:
  using Walk::Walk;

  void run() {
    std::fill(rates.f, rates.f + 3, 0.0f);  // factored averages are always new by now
    if (factored) statistics();
    pass_c();
  }

 private:
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
    if (plan.normalize) {
      const float by =
          step_size / std::sqrt((float)(square / std::max(std::round((double)moments[MOVED] * size), 1.0)) + 1e-9f);
      const int64_t num = std::max<int64_t>(1, size / CHUNK);
#pragma omp parallel for if (parallel)
      for (int64_t i = 0; i < num; i++)
        for (int64_t j = size * i / num; j < size * (i + 1) / num; j++) u[j] *= by;
    }
  }

  template <class T, class Count, class Factored>
  inline __attribute__((always_inline)) void move(const Net<H>& net, const Row<T>& r, int64_t j, Count k, V (&z)[H],
                                                  Sums<1>& sums, Factored factored) const {
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
};

template <class Pass>
void all(const Plan& plan, const Tensor* tensors) {
  std::vector<int64_t> small, large;
  for (int64_t i = 0; i < plan.num_tensors; i++) {
    const Tensor& t = tensors[i];
    const int64_t size = t.a * t.s1 * t.b * t.s2 * t.c;
    (size >= 2 * CHUNK && plan.num_lanes < 16 ? large : small).push_back(i);
  }
  const auto work = [&](int64_t lane, int64_t index, bool parallel) {
    Pass(plan, tensors[index], lane, index, parallel).run();
  };
  const int64_t num = plan.num_lanes * (int64_t)small.size();
#pragma omp parallel for schedule(dynamic) if (num > 1)
  for (int64_t i = 0; i < num; i++) work(i / (int64_t)small.size(), small[i % small.size()], false);
  for (int64_t index : large)
    for (int64_t lane = 0; lane < plan.num_lanes; lane++) work(lane, index, true);
}

}  // namespace

extern "C" void coordinate_mlp(const Plan* plan, const Tensor* tensors) {
  plan->measure ? all<Measure>(*plan, tensors) : all<Move<HIDDEN>>(*plan, tensors);
}

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
