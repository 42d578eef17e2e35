// Averages, features and a small MLP of every coordinate in a few passes over memory, for many lanes at once.
//
// What is computed stands in l2o/rules/features.py and l2o/rules/network.py; here is only how. What the network makes
// of a factored statistic is a bias of the row for the outer one (see coordinates.h), a table along the row for the
// inner one.
//
//   pass A   new averages, sums of squares of the features that need no factored statistics, sums of g^2 by row, column
//   pass B   sums of squares of g f and m f
//   pass C   the network
#include "coordinate_measure.h"
#include "coordinate_move.h"

namespace {

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
