// The inner loops, written once over the vector extension that g++ and clang++ share. A file
// vector_<isa>.cpp defines vector_width and includes this inside an unnamed namespace: nothing here
// may have external linkage or call an inline function of a header, or the linker could pick a copy
// that was compiled for a newer processor than the one it runs on.

constexpr int width = vector_width;
typedef float F __attribute__((vector_size(width * 4)));
typedef float UnalignedF __attribute__((vector_size(width * 4), aligned(4), may_alias));
typedef std::int32_t I __attribute__((vector_size(width * 4)));
typedef std::uint32_t U __attribute__((vector_size(width * 4)));
typedef std::uint32_t UnalignedU __attribute__((vector_size(width * 4), aligned(4), may_alias));
typedef std::uint16_t H __attribute__((vector_size(width * 2)));
typedef std::uint16_t UnalignedH __attribute__((vector_size(width * 2), aligned(2), may_alias));
typedef std::int8_t B __attribute__((vector_size(width)));
typedef std::int8_t UnalignedB __attribute__((vector_size(width), aligned(1), may_alias));
typedef UnalignedU UnalignedI;

#define TCAST_INLINE static inline __attribute__((always_inline))

TCAST_INLINE F splat(float value) { return F{} + value; }
TCAST_INLINE F load(const float* p) { return *reinterpret_cast<const UnalignedF*>(p); }

// Conversions between lane sizes. A file may bring them as intrinsics (TCAST_NATIVE_CONVERSIONS):
// GCC 12 takes vectors apart to convert their elements.
#if defined(TCAST_NATIVE_CONVERSIONS)
TCAST_INLINE U load_u16(const Bf16* p) { return (U)native_load_u16(p); }
TCAST_INLINE F load_i8(const std::int8_t* p) { return (F)native_load_i8(p); }
// `v` holds whole numbers in the range of int8.
TCAST_INLINE void store_i8(std::int8_t* p, F v) { native_store_i8(p, (NativeF)v); }
#else
TCAST_INLINE U load_u16(const Bf16* p) {
  return __builtin_convertvector(*reinterpret_cast<const UnalignedH*>(p), U);
}
TCAST_INLINE F load_i8(const std::int8_t* p) {
  const B bytes = *reinterpret_cast<const UnalignedB*>(p);
  return __builtin_convertvector(__builtin_convertvector(bytes, I), F);
}
TCAST_INLINE void store_i8(std::int8_t* p, F v) {
  *reinterpret_cast<UnalignedB*>(p) = __builtin_convertvector(__builtin_convertvector(v, I), B);
}
#endif

TCAST_INLINE F load(const Bf16* p) { return (F)(load_u16(p) << 16); }
TCAST_INLINE void store(float* p, F v) { *reinterpret_cast<UnalignedF*>(p) = v; }
// Rounds to nearest even. NaN does not occur in what is computed here, or stays one: its quiet bit
// is the highest of the mantissa.
#if defined(TCAST_NATIVE_CONVERSIONS)
TCAST_INLINE void store(Bf16* p, F v) { native_store_bf16(p, (NativeF)v); }
#else
TCAST_INLINE void store(Bf16* p, F v) {
  const U bits = (U)v;
  const U rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  *reinterpret_cast<UnalignedH*>(p) = __builtin_convertvector(rounded, H);
}
#endif
TCAST_INLINE float scalar(float v) { return v; }
TCAST_INLINE float scalar(Bf16 v) {
  const std::uint32_t bits = static_cast<std::uint32_t>(v.bits) << 16;
  float result;
  __builtin_memcpy(&result, &bits, 4);
  return result;
}
TCAST_INLINE void put(float* p, float v) { *p = v; }
TCAST_INLINE void put(Bf16* p, float v) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &v, 4);
  p->bits = static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

TCAST_INLINE F maximum(F a, F b) { return a > b ? a : b; }
TCAST_INLINE F minimum(F a, F b) { return a < b ? a : b; }
TCAST_INLINE F absolute(F a) { return (F)((U)a & 0x7fffffffu); }
TCAST_INLINE float sum_of(F v) {
  float result = 0;
  for (int i = 0; i < width; ++i) result += v[i];
  return result;
}
TCAST_INLINE float maximum_of(F v) {
  float result = v[0];
  for (int i = 1; i < width; ++i) result = v[i] > result ? v[i] : result;
  return result;
}

// Runs `body(i, n)` over whole vectors and then once over the rest through padded copies; here the
// rest of a row is loaded into a full vector of `fill` and stored back in part.
template <class T>
TCAST_INLINE F load_part(const T* p, std::int64_t count, float fill) {
  F v = splat(fill);
  for (std::int64_t i = 0; i < count; ++i) v[i] = scalar(p[i]);
  return v;
}
template <class T>
TCAST_INLINE void store_part(T* p, F v, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) put(p + i, v[i]);
}

// exp(x): x = n ln 2 + r, |r| <= ln 2 / 2, a polynomial of degree 6 for exp(r) (relative error below
// 3e-8 before rounding); 0 below -87.3, finite above 88.3.
TCAST_INLINE F exponential(F x) {
  const F limited = minimum(maximum(x, splat(-87.3f)), splat(88.3f));
  const F magic = splat(12582912.0f);
  const F n = (limited * 1.44269504f + magic) - magic;
  const F r = (limited - n * 0.693359375f) - n * -2.12194440e-4f;
  F p = splat(1.0f / 720.0f);
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const I power = (__builtin_convertvector(n, I) + 127) << 23;
  const F result = p * (F)power;
  return x < splat(-87.3f) ? F{} : result;
}
TCAST_INLINE F logistic(F x) { return 1.0f / (1.0f + exponential(-x)); }
// Near 0 the difference would cancel: a Taylor polynomial there.
TCAST_INLINE F hyperbolic_tangent(F x) {
  const F x2 = x * x;
  const F near = x * (1.0f + x2 * (-1.0f / 3.0f + x2 * (2.0f / 15.0f - x2 * (17.0f / 315.0f))));
  const F far = 1.0f - 2.0f / (exponential(2.0f * x) + 1.0f);
  return absolute(x) < splat(0.2f) ? near : far;
}
// Abramowitz and Stegun 7.1.26, absolute error below 1.5e-7.
TCAST_INLINE F error_function(F x) {
  const F a = absolute(x);
  const F t = 1.0f / (1.0f + 0.3275911f * a);
  F p = splat(1.061405429f);
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const F positive = 1.0f - p * t * exponential(-a * a);
  return x < F{} ? -positive : positive;
}
TCAST_INLINE F within(F x, float limit) { return maximum(minimum(x, splat(limit)), splat(-limit)); }
TCAST_INLINE F clamped_swiglu(F gate, F up, float limit) {
  const F a = minimum(gate, splat(limit));
  return (within(up, limit) + 1.0f) * a * logistic(static_cast<float>(clamped_swiglu_alpha) * a);
}
TCAST_INLINE F gelu(F x) { return 0.5f * x * (1.0f + error_function(x * 0.70710678f)); }
TCAST_INLINE F gelu_tanh(F x) {
  return 0.5f * x * (1.0f + hyperbolic_tangent(0.79788456f * (x + 0.044715f * x * x * x)));
}

template <class T>
static void softmax(const T* x, T* y, std::int64_t rows, std::int64_t columns, const float* sink,
                    float* scratch) {
  const std::int64_t whole = columns - columns % width;
  const std::int64_t rest = columns - whole;
  for (std::int64_t row = 0; row < rows; ++row, x += columns, y += columns) {
    F high = splat(-__builtin_inff());
    for (std::int64_t i = 0; i < whole; i += width) high = maximum(high, load(x + i));
    if (rest > 0) high = maximum(high, load_part(x + whole, rest, -__builtin_inff()));
    float top = maximum_of(high);
    if (sink != nullptr && *sink > top) top = *sink;
    if (top == -__builtin_inff()) {
      // Masked entirely: equal parts, as with the smallest finite number for a mask, and not NaN.
      for (std::int64_t i = 0; i < columns; ++i) put(y + i, 1.0f / static_cast<float>(columns));
      continue;
    }
    const F shift = splat(top);
    F sum{};
    for (std::int64_t i = 0; i < whole; i += width) {
      const F e = exponential(load(x + i) - shift);
      sum += e;
      store(scratch + i, e);
    }
    if (rest > 0) {
      const F e = exponential(load_part(x + whole, rest, -__builtin_inff()) - shift);
      sum += e;
      store_part(scratch + whole, e, rest);
    }
    float total = sum_of(sum);
    if (sink != nullptr) total += exponential(splat(*sink - top))[0];
    const float factor = 1.0f / total;
    for (std::int64_t i = 0; i < whole; i += width) store(y + i, load(scratch + i) * factor);
    for (std::int64_t i = whole; i < columns; ++i) put(y + i, scratch[i] * factor);
  }
}

template <class T>
TCAST_INLINE float squares_of(const T* x, std::int64_t row_width, float mean) {
  const std::int64_t whole = row_width - row_width % width;
  F squares{};
  for (std::int64_t i = 0; i < whole; i += width) {
    const F v = load(x + i) - mean;
    squares += v * v;
  }
  float total = sum_of(squares);
  for (std::int64_t i = whole; i < row_width; ++i) {
    const float v = scalar(x[i]) - mean;
    total += v * v;
  }
  return total;
}

template <class T>
static void sum_squares(const T* x, float* sums, std::int64_t rows, std::int64_t row_width) {
  for (std::int64_t row = 0; row < rows; ++row) sums[row] = squares_of(x + row * row_width, row_width, 0);
}

template <class T>
static void norm(NormKind kind, const T* x, const float* weight, const float* bias, T* y,
                 std::int64_t rows, std::int64_t row_width, const float* sums,
                 std::int64_t elements, float epsilon) {
  const std::int64_t whole = row_width - row_width % width;
  const auto count = static_cast<float>(elements);
  for (std::int64_t row = 0; row < rows; ++row, x += row_width, y += row_width) {
    float mean = 0;
    if (kind == NormKind::layer) {
      F sum{};
      for (std::int64_t i = 0; i < whole; i += width) sum += load(x + i);
      mean = sum_of(sum);
      for (std::int64_t i = whole; i < row_width; ++i) mean += scalar(x[i]);
      mean /= count;
    }
    const float total = sums != nullptr ? sums[row] : squares_of(x, row_width, mean);
    const float factor = 1.0f / __builtin_sqrtf(total / count + epsilon);
    for (std::int64_t i = 0; i < whole; i += width) {
      F v = (load(x + i) - mean) * factor;
      if (weight != nullptr) v *= load(weight + i);
      if (bias != nullptr) v += load(bias + i);
      store(y + i, v);
    }
    for (std::int64_t i = whole; i < row_width; ++i) {
      float v = (scalar(x[i]) - mean) * factor;
      if (weight != nullptr) v *= weight[i];
      if (bias != nullptr) v += bias[i];
      put(y + i, v);
    }
  }
}

template <class T, class Function>
TCAST_INLINE void map_pairs(const T* a, const T* b, T* y, std::int64_t count, Function function) {
  const std::int64_t whole = count - count % width;
  for (std::int64_t i = 0; i < whole; i += width) store(y + i, function(load(a + i), load(b + i)));
  if (whole < count) {
    const std::int64_t rest = count - whole;
    store_part(y + whole, function(load_part(a + whole, rest, 0), load_part(b + whole, rest, 0)),
               rest);
  }
}

template <class T, class Function>
TCAST_INLINE void map_values(const T* a, T* y, std::int64_t count, Function function) {
  const std::int64_t whole = count - count % width;
  for (std::int64_t i = 0; i < whole; i += width) store(y + i, function(load(a + i)));
  if (whole < count) {
    const std::int64_t rest = count - whole;
    store_part(y + whole, function(load_part(a + whole, rest, 0)), rest);
  }
}

/// Calls use(f) with the function that an activation, or the activation of a gated form, computes;
/// false for other kinds.
template <class Use>
TCAST_INLINE bool with_activation(ElementwiseKind kind, const Use& use) {
  switch (kind) {
    case ElementwiseKind::silu:
    case ElementwiseKind::silu_mul:
      use([](F u) { return u * logistic(u); });
      return true;
    case ElementwiseKind::gelu:
    case ElementwiseKind::gelu_mul:
      use([](F u) { return gelu(u); });
      return true;
    case ElementwiseKind::gelu_tanh:
    case ElementwiseKind::gelu_tanh_mul:
      use([](F u) { return gelu_tanh(u); });
      return true;
    case ElementwiseKind::relu:
    case ElementwiseKind::relu_mul:
      use([](F u) { return maximum(u, F{}); });
      return true;
    case ElementwiseKind::relu2:
    case ElementwiseKind::relu2_mul:
      use([](F u) { return maximum(u, F{}) * maximum(u, F{}); });
      return true;
    case ElementwiseKind::sigmoid:
    case ElementwiseKind::sigmoid_mul:
      use([](F u) { return logistic(u); });
      return true;
    case ElementwiseKind::quick_gelu:
    case ElementwiseKind::quick_gelu_mul:
      use([](F u) { return u * logistic(static_cast<float>(quick_gelu_alpha) * u); });
      return true;
    case ElementwiseKind::tanh:
    case ElementwiseKind::tanh_mul:
      use([](F u) { return hyperbolic_tangent(u); });
      return true;
    default:
      return false;
  }
}

// Activations go through f32 once; the gated ones round the activation as the unfused pair of
// operators would not, which is within one unit of the last place of the result.
template <class T>
static void elementwise(ElementwiseKind kind, const T* a, const T* b, T* y, std::int64_t count,
                        float constant) {
  const bool gated = takes_two(kind);
  const bool activation = with_activation(kind, [&](auto function) {
    if (gated) {
      map_pairs(a, b, y, count, [function](F u, F v) { return function(u) * v; });
    } else {
      map_values(a, y, count, function);
    }
  });
  if (activation) return;
  switch (kind) {
    case ElementwiseKind::add:
    case ElementwiseKind::mask_add:
      map_pairs(a, b, y, count, [](F u, F v) { return u + v; });
      break;
    case ElementwiseKind::multiply:
      map_pairs(a, b, y, count, [](F u, F v) { return u * v; });
      break;
    case ElementwiseKind::scale:
      map_values(a, y, count, [constant](F u) { return u * constant; });
      break;
    case ElementwiseKind::negate:
      map_values(a, y, count, [](F u) { return -u; });
      break;
    case ElementwiseKind::clamp:
      map_values(a, y, count, [constant](F u) { return within(u, constant); });
      break;
    case ElementwiseKind::clamped_swiglu:
      map_pairs(a, b, y, count, [constant](F u, F v) { return clamped_swiglu(u, v, constant); });
      break;
    default:  // activations
      break;
  }
}

template <class T>
static void elementwise_scalar(ElementwiseKind kind, const T* a, float b, T* y, std::int64_t count,
                               float constant) {
  if (!takes_two(kind)) return elementwise<T>(kind, a, a, y, count, constant);
  const bool activation = with_activation(kind, [&](auto function) {
    map_values(a, y, count, [b, function](F u) { return function(u) * b; });
  });
  if (activation) return;
  switch (kind) {
    case ElementwiseKind::add:
    case ElementwiseKind::mask_add:
      map_values(a, y, count, [b](F u) { return u + b; });
      break;
    case ElementwiseKind::multiply:
      map_values(a, y, count, [b](F u) { return u * b; });
      break;
    case ElementwiseKind::clamped_swiglu:
      map_values(a, y, count,
                 [b, constant](F u) { return clamped_swiglu(u, splat(b), constant); });
      break;
    default:  // activations
      break;
  }
}

template <class T>
static void rotate(const T* x, const T* cos, const T* sin, T* y, std::int64_t head_dim,
                   std::int64_t rotary_dim, bool interleaved) {
  const std::int64_t half = rotary_dim / 2;
  if (interleaved) {
    for (std::int64_t i = 0; i < half; ++i) {
      const float a = scalar(x[2 * i]);
      const float b = scalar(x[2 * i + 1]);
      put(y + 2 * i, a * scalar(cos[i]) - b * scalar(sin[i]));
      put(y + 2 * i + 1, b * scalar(cos[i]) + a * scalar(sin[i]));
    }
  } else {
    std::int64_t i = 0;
    for (; i + width <= half; i += width) {
      const F a = load(x + i);
      const F b = load(x + half + i);
      store(y + i, a * load(cos + i) - b * load(sin + i));
      store(y + half + i, b * load(cos + half + i) + a * load(sin + half + i));
    }
    for (; i < half; ++i) {
      const float a = scalar(x[i]);
      const float b = scalar(x[half + i]);
      put(y + i, a * scalar(cos[i]) - b * scalar(sin[i]));
      put(y + half + i, b * scalar(cos[half + i]) + a * scalar(sin[half + i]));
    }
  }
  if (y != x) {
    for (std::int64_t i = 2 * half; i < head_dim; ++i) y[i] = x[i];
  }
}

template <class T>
static float quantize(const T* x, std::int8_t* y, std::int64_t count, float fixed_scale) {
  const std::int64_t whole = count - count % width;
  float scale = fixed_scale;
  if (scale <= 0) {
    F high{};
    for (std::int64_t i = 0; i < whole; i += width) high = maximum(high, absolute(load(x + i)));
    if (whole < count) high = maximum(high, absolute(load_part(x + whole, count - whole, 0)));
    scale = maximum_of(high) / 127.0f;
  }
  // A row of zeros: any scale will do.
  const float inverse = scale > 0 ? 1.0f / scale : 0.0f;
  const F magic = splat(12582912.0f);
  for (std::int64_t i = 0; i < whole; i += width) {
    F v = minimum(maximum(load(x + i) * inverse, splat(-127.0f)), splat(127.0f));
    v = (v + magic) - magic;
    store_i8(y + i, v);
  }
  if (whole < count) {
    F v = load_part(x + whole, count - whole, 0) * inverse;
    v = minimum(maximum(v, splat(-127.0f)), splat(127.0f));
    v = (v + magic) - magic;
    for (std::int64_t i = whole; i < count; ++i) {
      y[i] = static_cast<std::int8_t>(static_cast<int>(v[i - whole]));
    }
  }
  return scale;
}

template <class T>
static void add_scaled(float* sum, const T* x, float weight, std::int64_t count) {
  std::int64_t i = 0;
  for (; i + width <= count; i += width) store(sum + i, load(sum + i) + load(x + i) * weight);
  for (; i < count; ++i) sum[i] += scalar(x[i]) * weight;
}

template <class T>
static void to_f32(const T* x, float* y, std::int64_t count) {
  std::int64_t i = 0;
  for (; i + width <= count; i += width) store(y + i, load(x + i));
  for (; i < count; ++i) y[i] = scalar(x[i]);
}

template <class T>
static void from_f32(const float* x, T* y, std::int64_t count) {
  std::int64_t i = 0;
  for (; i + width <= count; i += width) store(y + i, load(x + i));
  for (; i < count; ++i) put(y + i, x[i]);
}

template <class T>
static void scale_i32(const std::int32_t* x, const float* scale, float row_scale, const float* bias,
                      T* y, std::int64_t count) {
  std::int64_t i = 0;
  for (; i + width <= count; i += width) {
    F v = __builtin_convertvector((I)(*reinterpret_cast<const UnalignedI*>(x + i)), F) * row_scale;
    if (scale != nullptr) v *= load(scale + i);
    if (bias != nullptr) v += load(bias + i);
    store(y + i, v);
  }
  for (; i < count; ++i) {
    float v = static_cast<float>(x[i]) * row_scale;
    if (scale != nullptr) v *= scale[i];
    if (bias != nullptr) v += bias[i];
    put(y + i, v);
  }
}

template <class T>
static void widen_i8(const std::int8_t* x, float scale, T* y, std::int64_t count) {
  std::int64_t i = 0;
  for (; i + width <= count; i += width) store(y + i, load_i8(x + i) * scale);
  for (; i < count; ++i) put(y + i, static_cast<float>(x[i]) * scale);
}

template <int rows>
static void dot_i8_rows(const float* x, std::int64_t x_stride, const std::int8_t* w,
                        std::int64_t count, float* sums) {
  F low[rows] = {};
  F high[rows] = {};
  std::int64_t i = 0;
  for (; i + 2 * width <= count; i += 2 * width) {
    const F w0 = load_i8(w + i);
    const F w1 = load_i8(w + i + width);
    for (int row = 0; row < rows; ++row) {
      low[row] += load(x + row * x_stride + i) * w0;
      high[row] += load(x + row * x_stride + i + width) * w1;
    }
  }
  for (int row = 0; row < rows; ++row) {
    float sum = sum_of(low[row] + high[row]);
    for (std::int64_t j = i; j < count; ++j) sum += x[row * x_stride + j] * static_cast<float>(w[j]);
    sums[row] = sum;
  }
}

static void dot_i8(const float* x, std::int64_t x_stride, int rows, const std::int8_t* w,
                   std::int64_t count, float* sums) {
  switch (rows) {
    case 1: dot_i8_rows<1>(x, x_stride, w, count, sums); break;
    case 2: dot_i8_rows<2>(x, x_stride, w, count, sums); break;
    case 3: dot_i8_rows<3>(x, x_stride, w, count, sums); break;
    case 4: dot_i8_rows<4>(x, x_stride, w, count, sums); break;
    case 5: dot_i8_rows<5>(x, x_stride, w, count, sums); break;
    case 6: dot_i8_rows<6>(x, x_stride, w, count, sums); break;
    case 7: dot_i8_rows<7>(x, x_stride, w, count, sums); break;
    default: dot_i8_rows<8>(x, x_stride, w, count, sums); break;
  }
}

// `rows` x two vectors of results stay in registers over the whole of k.
template <int rows>
TCAST_INLINE void multiply_strip(int n, int k, const float* a, std::int64_t lda, const float* b,
                                 std::int64_t ldb, float* c, std::int64_t ldc, bool accumulate) {
  for (int column = 0; column < n; column += 2 * width) {
    F left[rows];
    F right[rows];
    for (int row = 0; row < rows; ++row) {
      left[row] = accumulate ? load(c + row * ldc + column) : F{};
      right[row] = accumulate ? load(c + row * ldc + column + width) : F{};
    }
    const float* line = b + column;
    for (int i = 0; i < k; ++i, line += ldb) {
      const F b0 = load(line);
      const F b1 = load(line + width);
      for (int row = 0; row < rows; ++row) {
        const float value = a[row * lda + i];
        left[row] += b0 * value;
        right[row] += b1 * value;
      }
    }
    for (int row = 0; row < rows; ++row) {
      store(c + row * ldc + column, left[row]);
      store(c + row * ldc + column + width, right[row]);
    }
  }
}

static void multiply_f32(int m, int n, int k, const float* a, std::int64_t lda, const float* b,
                         std::int64_t ldb, float* c, std::int64_t ldc, bool accumulate) {
  constexpr int strip = width >= 16 ? 8 : 4;
  int row = 0;
  for (; row + strip <= m; row += strip) {
    multiply_strip<strip>(n, k, a + row * lda, lda, b, ldb, c + row * ldc, ldc, accumulate);
  }
  for (; row < m; ++row) {
    multiply_strip<1>(n, k, a + row * lda, lda, b, ldb, c + row * ldc, ldc, accumulate);
  }
}

template <int rows>
static void column_block_rows(std::int64_t k, const float* a, std::int64_t lda, const float* b,
                              float* c) {
  constexpr int parts = 64 / width;
  F sums[rows][parts] = {};
  for (std::int64_t i = 0; i < k; ++i, b += 64) {
    for (int part = 0; part < parts; ++part) {
      const F column = load(b + part * width);
      for (int row = 0; row < rows; ++row) sums[row][part] += column * a[row * lda + i];
    }
  }
  for (int row = 0; row < rows; ++row) {
    for (int part = 0; part < parts; ++part) store(c + row * 64 + part * width, sums[row][part]);
  }
}

static void column_block_f32(int m, std::int64_t k, const float* a, std::int64_t lda,
                             const float* b, float* c) {
  if (m == 1) return column_block_rows<1>(k, a, lda, b, c);
  if (m == 2) return column_block_rows<2>(k, a, lda, b, c);
  if (m == 3) return column_block_rows<3>(k, a, lda, b, c);
  column_block_rows<4>(k, a, lda, b, c);
}

#if !defined(TCAST_HAVE_TRANSPOSE16)
// The words are pairs of bf16, or floats.
typedef std::uint32_t AliasingWord __attribute__((may_alias));
static void transpose16(const std::uint32_t* src, std::int64_t src_stride, std::uint32_t* dst,
                        std::int64_t dst_stride, std::int64_t columns) {
  const AliasingWord* from = src;
  AliasingWord* to = dst;
  for (std::int64_t column = 0; column < columns; ++column) {
    for (int row = 0; row < 16; ++row) {
      to[column * dst_stride + row] = from[row * src_stride + column];
    }
  }
}
#endif

static void interleave(const Bf16* even, const Bf16* odd, Bf16* dst, std::int64_t count) {
  std::int64_t i = 0;
  for (; i + width <= count; i += width) {
    *reinterpret_cast<UnalignedU*>(dst + 2 * i) = load_u16(even + i) | (load_u16(odd + i) << 16);
  }
  for (; i < count; ++i) {
    dst[2 * i] = even[i];
    dst[2 * i + 1] = odd[i];
  }
}

// `count` is a multiple of 16, so of every width up to that.
template <class T>
static float attend(const float* scores, int count, int begin, int end, float scale, float softcap,
                    ScoreRow* row, T* p) {
  if (begin >= end) {
    for (int i = 0; i < count; i += width) store(p + i, F{});
    return 1.0f;
  }
  const int first = begin - begin % width;
  F high = splat(-__builtin_inff());
  const auto score = [&](int i) {
    F s = load(scores + i) * scale;
    if (softcap > 0) s = softcap * hyperbolic_tangent(s * (1.0f / softcap));
    if (i < begin || i + width > end) {
      for (int lane = 0; lane < width; ++lane) {
        if (i + lane < begin || i + lane >= end) s[lane] = -__builtin_inff();
      }
    }
    return s;
  };
  for (int i = first; i < end; i += width) high = maximum(high, score(i));
  const float top = maximum_of(high);
  const float before = row->maximum;
  const float now = top > before ? top : before;
  F sum{};
  for (int i = 0; i < first; i += width) store(p + i, F{});
  int i = first;
  for (; i < end; i += width) {
    const F e = exponential(score(i) - now);
    sum += e;
    store(p + i, e);
  }
  for (; i < count; i += width) store(p + i, F{});
  const float factor = exponential(splat(before - now))[0];
  row->maximum = now;
  row->sum = row->sum * factor + sum_of(sum);
  return factor;
}

static void scale_row(float* x, float factor, std::int64_t count) {
  std::int64_t i = 0;
  for (; i + width <= count; i += width) store(x + i, load(x + i) * factor);
  for (; i < count; ++i) x[i] *= factor;
}

static float total(const float* x, std::int64_t count) {
  F sums[4] = {};
  std::int64_t i = 0;
  for (; i + 4 * width <= count; i += 4 * width) {
    for (int strand = 0; strand < 4; ++strand) sums[strand] += load(x + i + strand * width);
  }
  float sum = sum_of((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; i < count; ++i) sum += x[i];
  return sum;
}

template <class T>
constexpr RowFunctions<T> row_functions() {
  return {softmax<T>,  norm<T>, sum_squares<T>,       elementwise<T>, elementwise_scalar<T>, rotate<T>, quantize<T>,
          add_scaled<T>, to_f32<T>, from_f32<T>,    scale_i32<T>,          widen_i8<T>};
}

constexpr VectorFunctions generic_functions(Isa isa) {
  return {isa,         row_functions<float>(), row_functions<Bf16>(), dot_i8,       multiply_f32,
          nullptr,     column_block_f32,       nullptr,               transpose16,   interleave,
          attend<float>, attend<Bf16>,         scale_row,             total};
}
