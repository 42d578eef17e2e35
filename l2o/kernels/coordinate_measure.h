// Passes A and B of coordinate_mlp.cpp: averages, and what the features' sizes are.
#pragma once
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
      const V g = gradient(r, j, k), square = keep(g * g + plan.eps_square, k);
#pragma GCC unroll 3
      for (int i = 0; i < 3; i++) {
        V x = load(d[i] + begin + j, k);
        x = x + rates.f[i] * (square - x);
        if (new_d[i]) store(new_d[i] + begin + j, x, k);
        const V gf = g * rsqrt(x + 1e-9f), mf = keep(momentum(r, i, g, j, k) * rsqrt(x + plan.eps_diagonal), k);
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

}  // namespace
