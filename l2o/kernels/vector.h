// A vector of floats as wide as the processor's registers, in GCC's and Clang's vector extensions.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int WIDTH = 16;
#else
constexpr int WIDTH = 8;
#endif

typedef float V __attribute__((vector_size(WIDTH * 4)));
typedef int32_t VI __attribute__((vector_size(WIDTH * 4)));

static inline V splat(float x) { return V{} + x; }

static inline V load(const float* p) {
  V x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

static inline void store(float* p, V x) { std::memcpy(p, &x, sizeof x); }

// The first `n` of WIDTH; the rest is zero, and is not read.
static inline V load(const float* p, int n) {
  if (n == WIDTH) return load(p);
#if defined(__AVX512F__)
  return (V)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
  V x{};
  for (int i = 0; i < n; i++) x[i] = p[i];
  return x;
#endif
}

static inline void store(float* p, V x, int n) {
  if (n == WIDTH) return store(p, x);
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)x);
#else
  for (int i = 0; i < n; i++) p[i] = x[i];
#endif
}

typedef uint16_t VH __attribute__((vector_size(WIDTH * 2)));
typedef uint32_t VU __attribute__((vector_size(WIDTH * 4)));

static inline float wide(float x) { return x; }

// bfloat16 is the upper half of a float.
static inline float wide(uint16_t x) {
  const uint32_t bits = (uint32_t)x << 16;
  float y;
  std::memcpy(&y, &bits, sizeof y);
  return y;
}

static inline V load(const uint16_t* p, int n = WIDTH) {
  VH half{};
  std::memcpy(&half, p, 2 * n);
  const VU bits = __builtin_convertvector(half, VU) << 16;
  V x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// Rounds up with the probability of what is cut off, so that small changes of an average are not lost: `random` has 16
// random bits in the lower half of each number.
static inline void store(uint16_t* p, V x, int n, VU random) {
  VU bits;
  std::memcpy(&bits, &x, sizeof bits);
  const VH half = __builtin_convertvector((bits + (random & 0xffff)) >> 16, VH);
  std::memcpy(p, &half, 2 * n);
}

static inline void store(uint16_t* p, V x, int n) { store(p, x, n, VU{} + 0x8000); }
static inline void store(float* p, V x, int n, VU) { store(p, x, n); }

// 32 bits that look random, of a place and a seed.
static inline VU random_bits(uint32_t seed, int64_t at) {
  VU x;
  for (int i = 0; i < WIDTH; i++) x[i] = (uint32_t)at + i;
  x = (x ^ (seed * 0x9e3779b1u)) * 0x85ebca6bu;
  x = (x ^ (x >> 15)) * 0xc2b2ae35u;
  x = (x ^ (x >> 13)) * 0x27d4eb2fu;
  return x ^ (x >> 16);
}

static inline V square_root(V x) {
#if defined(__AVX512F__)
  return (V)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
  return (V)_mm256_sqrt_ps((__m256)x);
#else
  V y;
  for (int i = 0; i < WIDTH; i++) y[i] = std::sqrt(x[i]);
  return y;
#endif
}

static inline V rsqrt(V x) { return 1.0f / square_root(x); }

// Comparisons with nan are false, so nan passes through all of these, as it does in torch.
static inline V at_least(V x, float low) { return x < low ? splat(low) : x; }
static inline V at_most(V x, float high) { return x > high ? splat(high) : x; }
static inline V clamp(V x, float bound) { return at_most(at_least(x, -bound), bound); }
static inline V relu(V x) { return at_least(x, 0.0f); }

static inline float sum(V x) {
  float parts[WIDTH];
  store(parts, x);
  for (int n = WIDTH / 2; n; n /= 2)
    for (int i = 0; i < n; i++) parts[i] += parts[i + n];
  return parts[0];
}

// e^x to about 2 ulp (Cephes); saturates at the ends of float's range.
static inline V exponential(V x) {
  V y = at_most(at_least(x, -87.3f), 88.3f);
  V rounded = (y * 1.44269504f + 12582912.0f) - 12582912.0f;  // to the nearest integer
  V r = y - rounded * 0.693359375f + rounded * 2.12194440e-4f;
  V p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  VI power = (__builtin_convertvector(rounded, VI) + 127) << 23;
  V scale;
  std::memcpy(&scale, &power, sizeof scale);
  return p * scale;
}
