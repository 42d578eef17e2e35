// Functions that networks are made of, on vectors.
#pragma once
#include "vector.h"

namespace {

constexpr float LOG2E = 1.44269504f;

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

}  // namespace
