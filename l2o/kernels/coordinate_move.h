// Pass C of coordinate_mlp.cpp: the network.
#pragma once
#include "coordinates.h"

namespace {

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
                x = x + rates.f[q] * (g * g + plan.eps_square - x);
                add(z, both[q], x), add(z, both[3 + q], rsqrt(x + 1e-8f));
                add(z, net.in[GF + q], g * rsqrt(x + 1e-9f)), add(z, net.in[MF + q], m * rsqrt(x + plan.eps_diagonal));
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
    if (plan.masked) direction = moved ? direction : V{};
    store(r.u + j, direction, k);
    sums.part[0] += direction * direction;
  }
};

}  // namespace
