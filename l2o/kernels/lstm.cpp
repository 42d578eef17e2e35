// One step of a small LSTM for every coordinate of a network, and the way back, for many lanes at once.
//
// What is computed stands in l2o/rules/lstm_reference.py; here is only how. The coordinates of all tensors of a lane
// are one row, cut into tiles: a tile's states are copied next to each other, so that they stay in the first cache, and
// all products run on them with accumulators in registers, weights broadcast. The way back makes the gates again from
// the states before the step. Sums over coordinates are made chunk by chunk, so they do not depend on the threads.
#include "lstm_blocks.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

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
  void run(const Packed* packed, const float* output, int64_t lane, int64_t begin, int64_t end, int64_t next,
           float* sums) {
    count = end - begin, vectors = (count + WIDTH - 1) / WIDTH;
    gather(lane, begin, end);
    look_ahead(lane, begin, end, next);
    inputs();
    for (int l = 0; l < layers; l++) {
      const float* from = l ? state(now, 2 * l - 2) : x;
      float *h0 = state(old, 2 * l), *c0 = state(old, 2 * l + 1), *h1 = state(now, 2 * l), *c1 = state(now, 2 * l + 1);
      const auto ahead = [&] { fetch(rows_at_once); };
      if (plan.back)
        layer<true>(packed[l], vectors, from, h0, c0, h1, c1, kept + l * 5 * H * TILE, ahead);
      else
        layer<false>(packed[l], vectors, from, h0, c0, h1, c1, kept, ahead);
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
      if (t.d_step)
        copy(t.d_step + lane * t.size + from, d_step + to, n);
      else
        std::fill_n(d_step + to, n, 0.0f);
      if (t.d_new_hidden)
        state_rows([&](int64_t r, int64_t q) { copy(t.d_new_hidden + states + r * t.size, d_now + q * TILE + to, n); });
      else
        state_rows([&](int64_t, int64_t q) { std::fill_n(d_now + q * TILE + to, n, 0.0f); });
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
      if (l)
        back_rows<BACK, true>(p.input, H, vectors, gates, state(d_now, 2 * l - 2));
      else if (plan.wants_input)
        back_rows<2, false>(p.input, 2, vectors, gates, d_x);
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
    in_large_pages(plan.back ? tensors[i].d_hidden : tensors[i].new_hidden,
                   plan.num_lanes * 2 * num * h * tensors[i].size);
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
