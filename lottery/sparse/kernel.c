// Products of weights in the sparse-bitmask format, and of dense ones, with few vectors at a time: what decoding one token needs.
//
// Every function computes whole rows, each on one thread and always in the same order, so that results are equal to the bit from run to
// run and whatever the number of threads. Sums are fp32. The caller has checked shapes, bits and offsets (bitmask.checked).

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && !defined(LOTTERY_PORTABLE)
#include <cpuid.h>
#include <immintrin.h>
#define X86 1
#endif

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline, unused))

enum { F32, F16, BF16 };                             // dtypes
enum { PORTABLE, AVX2, AVX512F, AVX512_VBMI2 };      // instruction sets, each with those before it
enum { MOST = 4, WORD = 64 };                        // vectors at a time; columns a step
enum { AHEAD = 6144, SMALL = 1 << 16 };               // bytes: how far to look ahead; what is not worth a second thread

typedef struct {
  const uint8_t *bits;      // [rows][row_bytes]; NULL for a dense weight
  const void *values;       // in dtype
  const int64_t *offsets;   // [rows]
  const void *x;            // [batch][columns] in x_dtype
  void *y;                  // [batch][rows] in x_dtype
  const void *bias;         // [rows] in x_dtype, or NULL
  int64_t rows, columns, count, batch;
  int32_t dtype, x_dtype;
} Product;

typedef struct {
  const Product *p;         // the first of `products`, which share x, batch, columns and dtypes
  int64_t padded;           // columns, rounded up to whole words; x is 0 beyond the last
  const float *x;           // [batch][padded]
  const uint16_t *hi, *lo;  // the same as sums of two bf16; lo is NULL where all of it would be 0
  int isa, products, failed;
} Job;

static void (*parallel)(void (*)(void *), void *, unsigned, unsigned);
static int (*thread_number)(void);
static int expands;  // whether vexpandps is fast here, as it is on Intel; on Zen 5 it takes six cycles

// torch's own threads (GOMP_parallel and omp_get_thread_num of the OpenMP that torch has loaded): a second pool would fight with them.
EXPORT void lottery_threads(void *start, void *number) {
  parallel = (void (*)(void (*)(void *), void *, unsigned, unsigned))start;
  thread_number = (int (*)(void))number;
}

// Makes or unmakes the choice of vexpandps: for tests, which try both ways on any processor.
EXPORT void lottery_expands(int fast) { expands = fast; }

// What the processor and the operating system have, asked of them directly: __builtin_cpu_supports knows nothing under zig.
EXPORT int lottery_best_isa(void) {
#ifdef X86
  enum { OSXSAVE = 1 << 27, FMA_F16C_POPCNT = 1 << 12 | 1 << 29 | 1 << 23 };        // leaf 1, ecx
  enum { AVX2_BMI2 = 1 << 5 | 1 << 8, F_DQ_BW_VL = 1 << 16 | 1 << 17 | 1 << 30 };    // leaf 7, ebx; VL is the sign
  unsigned a, b, c, d, low, high;
  expands = __get_cpuid(0, &a, &b, &c, &d) && b == 0x756e6547;  // "Genu", of GenuineIntel
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & OSXSAVE) == 0 || (c & FMA_F16C_POPCNT) != FMA_F16C_POPCNT) return PORTABLE;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & 0x06) != 0x06 || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b & AVX2_BMI2) != AVX2_BMI2) return PORTABLE;
  if ((low & 0xe6) != 0xe6 || (b & F_DQ_BW_VL) != F_DQ_BW_VL || b >> 31 == 0) return AVX2;
  const unsigned vbmi2 = c >> 6 & 1;
  return vbmi2 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && a >> 5 & 1 ? AVX512_VBMI2 : AVX512F;  // and BF16
#else
  return PORTABLE;
#endif
}

INLINE int64_t size_of(int dtype) { return dtype == F32 ? 4 : 2; }
INLINE float from_bf16(uint16_t h) { uint32_t u = (uint32_t)h << 16; float f; memcpy(&f, &u, 4); return f; }
INLINE uint16_t to_bf16(float f) {
  uint32_t u; memcpy(&u, &f, 4);
  if ((u & 0x7fffffff) > 0x7f800000) return (u >> 16) | 0x40;
  return (u + 0x7fff + (u >> 16 & 1)) >> 16;
}
INLINE float from_f16(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7fff, u; float f;
  if (rest >= 0x7c00) u = 0x7f800000 | (rest & 0x3ff) << 13;
  else if (rest >= 0x400) u = (rest << 13) + 0x38000000;
  else { f = rest * 0x1p-24f; memcpy(&u, &f, 4); }
  u |= sign; memcpy(&f, &u, 4);
  return f;
}
INLINE uint16_t to_f16(float f) {
  uint32_t u; memcpy(&u, &f, 4);
  uint32_t sign = u >> 16 & 0x8000, rest = u & 0x7fffffff;
  if (rest > 0x7f800000) return sign | 0x7e00;
  if (rest >= 0x477ff000) return sign | 0x7c00;
  if (rest < 0x38800000) {  // subnormal: a sum with 2^-1 rounds to the last bit as hardware does
    float g, half = 0.5f; uint32_t v; memcpy(&g, &rest, 4); g += half; memcpy(&v, &g, 4);
    return sign | (v - 0x3f000000);
  }
  return sign | ((rest + 0xfff + (rest >> 13 & 1) - 0x38000000) >> 13);
}
INLINE float value(const void *p, int64_t i, int dtype) {
  if (dtype == F32) return ((const float *)p)[i];
  uint16_t h = ((const uint16_t *)p)[i];
  return dtype == BF16 ? from_bf16(h) : from_f16(h);
}
INLINE void store(void *p, int64_t i, float f, int dtype) {
  if (dtype == F32) ((float *)p)[i] = f;
  else ((uint16_t *)p)[i] = dtype == BF16 ? to_bf16(f) : to_f16(f);
}
INLINE uint64_t word_at(const uint8_t *bits, int64_t c, int64_t row_bytes) {  // 64 bits from column c on; beyond the row 0
  uint64_t word = 0;
  int64_t left = row_bytes - c / 8;
  if (left >= 8) memcpy(&word, bits + c / 8, 8); else memcpy(&word, bits + c / 8, left);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  word = __builtin_bswap64(word);
#endif
  return word;
}

// The same as eight bytes in memory, of which the instructions below read masks; the last word of a row is copied into `last`.
INLINE const uint8_t *word_or_last(const uint8_t *bits, int64_t c, int64_t row_bytes, uint64_t *last) {
  if (row_bytes - c / 8 >= 8) return bits + c / 8;
  memcpy(last, bits + c / 8, row_bytes - c / 8);
  return (const uint8_t *)last;
}

// Asks for values long before they are read. They are read at a pace that the hardware does not foresee: without this, a product of a weight
// of 90% zeros takes more than twice as long, and with a tenth of this distance one of 50% half as long again.
INLINE void soon(const void *values, int lines) {
  for (int n = 0; n < lines; n++) __builtin_prefetch((const char *)values + AHEAD + 64 * n);
}

// A row: sums[n] = row . x[n]. Sparse: `v` points to the values of the row, with 64 readable bytes behind the last. Dense: to the row.
#define ROW(name)                                                                                                                     \
  INLINE void name(const Job *job, const uint8_t *bits __attribute__((unused)), const void *v, int64_t first, int batch, float *sums)

ROW(sparse_portable) {
  const Product *p = job->p;
  const int64_t row_bytes = (p->columns + 7) / 8;
  for (int n = 0; n < batch; n++) sums[n] = 0;
  int64_t i = 0;
  for (int64_t c = 0; c < p->columns; c += WORD)
    for (uint64_t word = word_at(bits, c, row_bytes); word; word &= word - 1, i++) {
      const float w = value(v, i, p->dtype);
      const float *x = job->x + first * job->padded + c + __builtin_ctzll(word);
      for (int n = 0; n < batch; n++) sums[n] += w * x[n * job->padded];
    }
}

ROW(dense_portable) {
  const Product *p = job->p;
  for (int n = 0; n < batch; n++) {
    const float *x = job->x + (first + n) * job->padded;
    float lanes[16] = {0};
    int64_t c = 0;
    for (; c + 16 <= p->columns; c += 16)
      for (int k = 0; k < 16; k++) lanes[k] += value(v, c + k, p->dtype) * x[c + k];
    for (; c < p->columns; c++) lanes[0] += value(v, c, p->dtype) * x[c];
    sums[n] = 0;
    for (int k = 0; k < 16; k++) sums[n] += lanes[k];
  }
}

#ifdef X86
#define TARGET(set) __attribute__((target(set)))
#define S512 "avx512f,avx512bw,avx512vl,avx512dq,bmi2,popcnt,fma,f16c"
#define S512B S512 ",avx512vbmi2,avx512bf16"
#define S2 "avx2,fma,bmi2,popcnt,f16c"

// Keeps a load apart from what uses it: the forms of vexpandps and vpexpandw that read memory themselves are microcode on AMD, ten times slower.
#define IN_REGISTER(v) __asm__("" : "+v"(v))

// --- AVX-512F: 16 values at a time

TARGET(S512) INLINE __m512 widened(const void *values, int dtype) {  // 16 values from memory, as fp32
  if (dtype == F32) return _mm512_loadu_ps(values);
  const __m256i half = _mm256_loadu_si256(values);
  return dtype == F16 ? _mm512_cvtph_ps(half) : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

TARGET(S512) INLINE void dense_avx512(const Job *job, const void *v, int64_t first, int batch, float *sums, int dtype) {
  const int64_t columns = job->p->columns, padded = job->padded, size = size_of(dtype);
  const char *w = v;
  const float *x = job->x + first * padded;
  __m512 a[MOST][4];
  for (int n = 0; n < batch; n++)
    for (int k = 0; k < 4; k++) a[n][k] = _mm512_setzero_ps();
  int64_t c = 0;
  for (; c + WORD <= columns; c += WORD) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      const __m512 e = widened(w + size * (c + 16 * k), dtype);
      for (int n = 0; n < batch; n++) a[n][k] = _mm512_fmadd_ps(e, _mm512_loadu_ps(x + n * padded + c + 16 * k), a[n][k]);
    }
  }
  for (; c < columns; c++)  // lane 0 of the first sum
    for (int n = 0; n < batch; n++)
      a[n][0] = _mm512_add_ps(a[n][0], _mm512_maskz_mov_ps(1, _mm512_set1_ps(value(w, c, dtype) * x[n * padded + c])));
  for (int n = 0; n < batch; n++)
    sums[n] = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a[n][0], a[n][1]), _mm512_add_ps(a[n][2], a[n][3])));
}
TARGET(S512) ROW(dense_f32_avx512) { dense_avx512(job, v, first, batch, sums, F32); }
TARGET(S512) ROW(dense_f16_avx512) { dense_avx512(job, v, first, batch, sums, F16); }
TARGET(S512) ROW(dense_bf16_avx512) { dense_avx512(job, v, first, batch, sums, BF16); }

// --- AVX-512 with VBMI2 and BF16: 32 values of 16 bits at a time

static const uint8_t column_of[64] __attribute__((aligned(64))) = {
  0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
  32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63,
};

TARGET(S512B) INLINE __m512i expanded(uint32_t mask, const uint16_t *values) {
  __m512i v = _mm512_loadu_si512(values);
  IN_REGISTER(v);
  return _mm512_maskz_expand_epi16(mask, v);
}
TARGET(S512B) ROW(sparse_bf16_vbmi2) {
  const int64_t columns = job->p->columns, row_bytes = (columns + 7) / 8, padded = job->padded;
  const uint16_t *values = v, *hi = job->hi + first * padded, *lo = job->lo ? job->lo + first * padded : NULL;
  uint64_t last = 0;
  __m512 a[MOST], b[MOST];
  for (int n = 0; n < batch; n++) a[n] = b[n] = _mm512_setzero_ps();
  for (int64_t c = 0; c < columns; c += WORD) {
    const uint8_t *word = word_or_last(bits, c, row_bytes, &last);
    soon(values, 1);
    uint32_t left, right;
    memcpy(&left, word, 4);
    memcpy(&right, word + 4, 4);
    const __m512bh e = (__m512bh)expanded(left, values);
    values += _mm_popcnt_u32(left);
    const __m512bh f = (__m512bh)expanded(right, values);
    values += _mm_popcnt_u32(right);
    for (int n = 0; n < batch; n++) {
      a[n] = _mm512_dpbf16_ps(a[n], e, (__m512bh)_mm512_loadu_si512(hi + n * padded + c));
      b[n] = _mm512_dpbf16_ps(b[n], f, (__m512bh)_mm512_loadu_si512(hi + n * padded + c + 32));
      if (lo) {
        a[n] = _mm512_dpbf16_ps(a[n], e, (__m512bh)_mm512_loadu_si512(lo + n * padded + c));
        b[n] = _mm512_dpbf16_ps(b[n], f, (__m512bh)_mm512_loadu_si512(lo + n * padded + c + 32));
      }
    }
  }
  for (int n = 0; n < batch; n++) sums[n] = _mm512_reduce_add_ps(_mm512_add_ps(a[n], b[n]));
}

// Few values in a word: their columns are listed (a byte each), and 16 at a time take their numbers of the vector out of four registers.
#define FEW(type, dtype)                                                                                                      \
  TARGET(S512B) ROW(few_##type##_vbmi2) {                                                                                     \
    const int64_t columns = job->p->columns, row_bytes = (columns + 7) / 8, padded = job->padded;                             \
    const char *values = v;                                                                                                   \
    const float *x = job->x + first * padded;                                                                                 \
    const __m512i all = _mm512_load_si512(column_of);                                                                         \
    __m512 a[MOST];                                                                                                           \
    for (int n = 0; n < batch; n++) a[n] = _mm512_setzero_ps();                                                               \
    for (int64_t c = 0; c < columns; c += WORD) {                                                                             \
      const uint64_t word = word_at(bits, c, row_bytes);                                                                      \
      soon(values, 1);                                                                                                        \
      __m512i listed = _mm512_maskz_compress_epi8(word, all);                                                                 \
      for (int64_t left = _mm_popcnt_u64(word); left > 0; left -= 16) {                                                       \
        const __mmask16 there = _bzhi_u32(0xffff, left < 16 ? left : 16);                                                     \
        const __m512i at = _mm512_cvtepu8_epi32(_mm512_castsi512_si128(listed));                                              \
        const __mmask16 upper = _mm512_test_epi32_mask(at, _mm512_set1_epi32(32));                                            \
        const __m512 e = widened(values, dtype);                                                                              \
        for (int n = 0; n < batch; n++) {                                                                                     \
          const float *y = x + n * padded + c;                                                                                \
          const __m512 low = _mm512_permutex2var_ps(_mm512_loadu_ps(y), at, _mm512_loadu_ps(y + 16));                         \
          const __m512 high = _mm512_permutex2var_ps(_mm512_loadu_ps(y + 32), at, _mm512_loadu_ps(y + 48));                   \
          a[n] = _mm512_mask3_fmadd_ps(e, _mm512_mask_mov_ps(low, upper, high), a[n], there);                                 \
        }                                                                                                                     \
        values += size_of(dtype) * (left < 16 ? left : 16);                                                                   \
        if (left > 16) listed = _mm512_maskz_alignr_epi32(0xfff, listed, listed, 4);                                          \
      }                                                                                                                       \
    }                                                                                                                         \
    for (int n = 0; n < batch; n++) sums[n] = _mm512_reduce_add_ps(a[n]);                                                     \
  }
FEW(f32, F32)
FEW(f16, F16)
FEW(bf16, BF16)

TARGET(S512B) ROW(dense_bf16_vbmi2) {
  const int64_t columns = job->p->columns, padded = job->padded;
  const uint16_t *w = v, *hi = job->hi + first * padded, *lo = job->lo ? job->lo + first * padded : NULL;
  __m512 a[MOST][2];
  for (int n = 0; n < batch; n++) a[n][0] = a[n][1] = _mm512_setzero_ps();
  for (int64_t c = 0; c < columns; c += WORD) {
    const int64_t left = columns - c;
    const __mmask64 inside = left >= WORD ? ~0ull : (1ull << left) - 1;
    const __m512bh e = (__m512bh)(left >= WORD ? _mm512_loadu_si512(w + c) : _mm512_maskz_loadu_epi16((__mmask32)inside, w + c));
    const __m512bh f = (__m512bh)(left >= WORD ? _mm512_loadu_si512(w + c + 32) : _mm512_maskz_loadu_epi16((__mmask32)(inside >> 32), w + c + 32));
    for (int n = 0; n < batch; n++) {
      a[n][0] = _mm512_dpbf16_ps(a[n][0], e, (__m512bh)_mm512_loadu_si512(hi + n * padded + c));
      a[n][1] = _mm512_dpbf16_ps(a[n][1], f, (__m512bh)_mm512_loadu_si512(hi + n * padded + c + 32));
      if (lo) {
        a[n][0] = _mm512_dpbf16_ps(a[n][0], e, (__m512bh)_mm512_loadu_si512(lo + n * padded + c));
        a[n][1] = _mm512_dpbf16_ps(a[n][1], f, (__m512bh)_mm512_loadu_si512(lo + n * padded + c + 32));
      }
    }
  }
  for (int n = 0; n < batch; n++) sums[n] = _mm512_reduce_add_ps(_mm512_add_ps(a[n][0], a[n][1]));
}

// --- AVX2: 8 values at a time, put in their places by a permutation from a table. Permutations take a cycle everywhere, vexpandps six on
// Zen 5: there, for 32 bits and for fp16, this is the faster way with AVX-512, too.

static int32_t lanes_of[256][8];   // for each byte of bits, which of the next 8 values each lane takes; 8 for none
static uint8_t halves_of[256][16]; // the same of values of 16 bits, as bytes for pshufb; 128 for none
static uint8_t tops_of[256][32];   // the same, into the upper half of lanes of 32 bits: what makes bf16 fp32

__attribute__((constructor)) static void fill_tables(void) {
  memset(tops_of, 128, sizeof tops_of);
  for (int byte = 0; byte < 256; byte++)
    for (int lane = 0, next = 0; lane < 8; lane++) {
      const int there = byte >> lane & 1;
      for (int k = 0; k < 2; k++) {
        halves_of[byte][2 * lane + k] = there ? 2 * next + k : 128;
        if (there) tops_of[byte][4 * lane + 2 + k] = 2 * next + k;
      }
      lanes_of[byte][lane] = there ? next : 8;
      next += there;
    }
}

TARGET(S2) INLINE __m256 placed_avx2(const char *values, uint8_t byte, int dtype) {
  if (dtype == F16) return _mm256_cvtph_ps(_mm_shuffle_epi8(_mm_loadu_si128((const void *)values), _mm_loadu_si128((const void *)halves_of[byte])));
  if (dtype == BF16) {
    const __m256i both = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)values));
    return _mm256_castsi256_ps(_mm256_shuffle_epi8(both, _mm256_loadu_si256((const void *)tops_of[byte])));
  }
  const __m256i lanes = _mm256_loadu_si256((const void *)lanes_of[byte]);
  const __m256 none = _mm256_castsi256_ps(_mm256_cmpgt_epi32(lanes, _mm256_set1_epi32(7)));
  return _mm256_andnot_ps(none, _mm256_permutevar8x32_ps(_mm256_loadu_ps((const void *)values), lanes));
}

TARGET(S512) INLINE __m256 placed_avx512(const char *values, uint8_t byte, int dtype) {
  if (dtype != F32) return placed_avx2(values, byte, dtype);
  const __m256i lanes = _mm256_loadu_si256((const void *)lanes_of[byte]);
  return _mm256_permutex2var_ps(_mm256_loadu_ps((const void *)values), lanes, _mm256_setzero_ps());
}

TARGET(S2) INLINE __m256 widened8(const void *values, int dtype) {
  if (dtype == F32) return _mm256_loadu_ps(values);
  const __m128i half = _mm_loadu_si128(values);
  return dtype == F16 ? _mm256_cvtph_ps(half) : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

TARGET(S2) INLINE float sum8(__m256 v) {
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

#define SPARSE(target, set, type, dtype)                                                                                      \
  target ROW(sparse_##type##_##set) {                                                                                         \
    const int64_t columns = job->p->columns, row_bytes = (columns + 7) / 8, padded = job->padded;                             \
    const char *values = v;                                                                                                   \
    const float *x = job->x + first * padded;                                                                                 \
    uint64_t last = 0;                                                                                                        \
    __m256 a[MOST][4];                                                                                                        \
    for (int n = 0; n < batch; n++)                                                                                           \
      for (int k = 0; k < 4; k++) a[n][k] = _mm256_setzero_ps();                                                              \
    const int sums_each = batch == 1 ? 4 : 2;                                                                                 \
    for (int64_t c = 0; c < columns; c += WORD) {                                                                             \
      const uint8_t *word = word_or_last(bits, c, row_bytes, &last);                                                          \
      soon(values, size_of(dtype) / 2);                                                                                       \
      _Pragma("GCC unroll 8") for (int k = 0; k < 8; k++) {                                                                   \
        const __m256 e = placed_##set(values, word[k], dtype);                                                                \
        values += size_of(dtype) * _mm_popcnt_u32(word[k]);                                                                   \
        for (int n = 0; n < batch; n++)                                                                                       \
          a[n][k % sums_each] = _mm256_fmadd_ps(e, _mm256_loadu_ps(x + n * padded + c + 8 * k), a[n][k % sums_each]);         \
      }                                                                                                                       \
    }                                                                                                                         \
    for (int n = 0; n < batch; n++) sums[n] = sum8(_mm256_add_ps(_mm256_add_ps(a[n][0], a[n][1]), _mm256_add_ps(a[n][2], a[n][3]))); \
  }
SPARSE(TARGET(S2), avx2, f32, F32)
SPARSE(TARGET(S2), avx2, f16, F16)
SPARSE(TARGET(S2), avx2, bf16, BF16)
SPARSE(TARGET(S512), avx512, f32, F32)
SPARSE(TARGET(S512), avx512, f16, F16)
SPARSE(TARGET(S512), avx512, bf16, BF16)

// --- AVX-512F where vexpandps is fast: 16 values at a time
#define EXPANDED(type, dtype)                                                                                                 \
  TARGET(S512) ROW(sparse_##type##_expand) {                                                                                  \
    const int64_t columns = job->p->columns, row_bytes = (columns + 7) / 8, padded = job->padded;                             \
    const char *values = v;                                                                                                   \
    const float *x = job->x + first * padded;                                                                                 \
    uint64_t last = 0;                                                                                                        \
    __m512 a[MOST][4];                                                                                                        \
    for (int n = 0; n < batch; n++)                                                                                           \
      for (int k = 0; k < 4; k++) a[n][k] = _mm512_setzero_ps();                                                              \
    const int sums_each = batch == 1 ? 4 : 2;                                                                                 \
    for (int64_t c = 0; c < columns; c += WORD) {                                                                             \
      const uint8_t *word = word_or_last(bits, c, row_bytes, &last);                                                          \
      soon(values, size_of(dtype) / 2);                                                                                       \
      _Pragma("GCC unroll 4") for (int k = 0; k < 4; k++) {                                                                   \
        uint16_t mask;                                                                                                        \
        memcpy(&mask, word + 2 * k, 2);                                                                                       \
        __m512 e = widened(values, dtype);                                                                                    \
        IN_REGISTER(e);                                                                                                       \
        e = _mm512_maskz_expand_ps(mask, e);                                                                                  \
        values += size_of(dtype) * _mm_popcnt_u32(mask);                                                                      \
        for (int n = 0; n < batch; n++)                                                                                       \
          a[n][k % sums_each] = _mm512_fmadd_ps(e, _mm512_loadu_ps(x + n * padded + c + 16 * k), a[n][k % sums_each]);        \
      }                                                                                                                       \
    }                                                                                                                         \
    for (int n = 0; n < batch; n++)                                                                                           \
      sums[n] = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a[n][0], a[n][1]), _mm512_add_ps(a[n][2], a[n][3])));         \
  }
EXPANDED(f32, F32)
EXPANDED(f16, F16)
EXPANDED(bf16, BF16)

TARGET(S2) INLINE void dense_avx2(const Job *job, const void *v, int64_t first, int batch, float *sums, int dtype) {
  const int64_t columns = job->p->columns, padded = job->padded, size = size_of(dtype);
  const char *w = v;
  const float *x = job->x + first * padded;
  for (int n = 0; n < batch; n++) {
    __m256 a[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    int64_t c = 0;
    for (; c + 32 <= columns; c += 32)
#pragma GCC unroll 4
      for (int k = 0; k < 4; k++)
        a[k] = _mm256_fmadd_ps(widened8(w + size * (c + 8 * k), dtype), _mm256_loadu_ps(x + n * padded + c + 8 * k), a[k]);
    sums[n] = sum8(_mm256_add_ps(_mm256_add_ps(a[0], a[1]), _mm256_add_ps(a[2], a[3])));
    for (; c < columns; c++) sums[n] += value(w, c, dtype) * x[n * padded + c];
  }
}
TARGET(S2) ROW(dense_f32_avx2) { dense_avx2(job, v, first, batch, sums, F32); }
TARGET(S2) ROW(dense_f16_avx2) { dense_avx2(job, v, first, batch, sums, F16); }
TARGET(S2) ROW(dense_bf16_avx2) { dense_avx2(job, v, first, batch, sums, BF16); }
#endif

// Rows from `begin` to `end`, by one of the functions above. Where reading 64 bytes behind a row would leave the values, they are copied.
#define RANGE(target, row)                                                                                                            \
  target static void range_##row(Job *job, int64_t begin, int64_t end) {                                                              \
    const Product *p = job->p;                                                                                                        \
    const int64_t size = size_of(p->dtype), row_bytes = (p->columns + 7) / 8, total = p->count * size;                                \
    char *copy = NULL;                                                                                                                \
    for (int64_t r = begin; r < end; r++) {                                                                                           \
      const uint8_t *bits = p->bits ? p->bits + r * row_bytes : NULL;                                                                 \
      const char *v = (const char *)p->values + (p->bits ? p->offsets[r] : r * p->columns) * size;                                    \
      if (p->bits) {                                                                                                                  \
        const int64_t stop = (r + 1 < p->rows ? p->offsets[r + 1] : p->count) * size, bytes = stop - p->offsets[r] * size;            \
        if (stop + 64 > total) {                                                                                                      \
          if (!copy && !(copy = malloc(p->columns * size + 64))) { job->failed = 1; return; }                                         \
          if (bytes) memcpy(copy, v, bytes);                                                                                          \
          memset(copy + bytes, 0, 64);                                                                                                \
          v = copy;                                                                                                                   \
        }                                                                                                                             \
      }                                                                                                                               \
      for (int64_t first = 0; first < p->batch;) {                                                                                    \
        const int n = p->batch - first >= 4 ? 4 : p->batch - first >= 2 ? 2 : 1;                                                      \
        float sums[MOST];                                                                                                             \
        if (n == 1) row(job, bits, v, first, 1, sums);                                                                                \
        else if (n == 2) row(job, bits, v, first, 2, sums);                                                                           \
        else row(job, bits, v, first, 4, sums);                                                                                       \
        for (int k = 0; k < n; k++)                                                                                                   \
          store(p->y, (first + k) * p->rows + r, sums[k] + (p->bias ? value(p->bias, r, p->x_dtype) : 0), p->x_dtype);                \
        first += n;                                                                                                                   \
      }                                                                                                                               \
    }                                                                                                                                 \
    free(copy);                                                                                                                       \
  }

RANGE(, sparse_portable)
RANGE(, dense_portable)
#ifdef X86
RANGE(TARGET(S2), sparse_f32_avx2) RANGE(TARGET(S2), sparse_f16_avx2) RANGE(TARGET(S2), sparse_bf16_avx2)
RANGE(TARGET(S2), dense_f32_avx2) RANGE(TARGET(S2), dense_f16_avx2) RANGE(TARGET(S2), dense_bf16_avx2)
RANGE(TARGET(S512), sparse_f32_avx512) RANGE(TARGET(S512), sparse_f16_avx512) RANGE(TARGET(S512), sparse_bf16_avx512)
RANGE(TARGET(S512), sparse_f32_expand) RANGE(TARGET(S512), sparse_f16_expand) RANGE(TARGET(S512), sparse_bf16_expand)
RANGE(TARGET(S512), dense_f32_avx512) RANGE(TARGET(S512), dense_f16_avx512) RANGE(TARGET(S512), dense_bf16_avx512)
RANGE(TARGET(S512B), few_f32_vbmi2) RANGE(TARGET(S512B), few_f16_vbmi2) RANGE(TARGET(S512B), few_bf16_vbmi2)
RANGE(TARGET(S512B), sparse_bf16_vbmi2) RANGE(TARGET(S512B), dense_bf16_vbmi2)
#endif

typedef void (*Range)(Job *, int64_t, int64_t);

static Range range_for(int isa, const Product *p) {
  const int sparse = p->bits != NULL, dtype = p->dtype;
#ifdef X86
  static const Range few[3] = {range_few_f32_vbmi2, range_few_f16_vbmi2, range_few_bf16_vbmi2};
  if (isa == AVX512_VBMI2 && sparse && p->count * 4 < p->rows * p->columns) return few[dtype];
  static const Range expanded[3] = {range_sparse_f32_expand, range_sparse_f16_expand, range_sparse_bf16_expand};
  if (isa >= AVX512F && sparse && expands && !(isa == AVX512_VBMI2 && dtype == BF16)) return expanded[dtype];
  static const Range table[4][2][3] = {  // isa; dense, sparse; dtype
    {{range_dense_portable, range_dense_portable, range_dense_portable}, {range_sparse_portable, range_sparse_portable, range_sparse_portable}},
    {{range_dense_f32_avx2, range_dense_f16_avx2, range_dense_bf16_avx2}, {range_sparse_f32_avx2, range_sparse_f16_avx2, range_sparse_bf16_avx2}},
    {{range_dense_f32_avx512, range_dense_f16_avx512, range_dense_bf16_avx512}, {range_sparse_f32_avx512, range_sparse_f16_avx512, range_sparse_bf16_avx512}},
    {{range_dense_f32_avx512, range_dense_f16_avx512, range_dense_bf16_vbmi2}, {range_sparse_f32_avx512, range_sparse_f16_avx512, range_sparse_bf16_vbmi2}},
  };
  return table[isa][sparse][dtype];
#else
  (void)isa;
  (void)dtype;
  return sparse ? range_sparse_portable : range_dense_portable;
#endif
}

// Rows in equal shares, a share a thread.
typedef struct {
  void (*rows)(void *data, int64_t begin, int64_t end);
  void *data;
  int64_t count;
  int threads;
} Work;

static void on_thread(void *given) {
  const Work *work = given;
  const int me = work->threads > 1 ? thread_number() : 0;
  const int64_t share = (work->count + work->threads - 1) / work->threads;
  const int64_t begin = me * share < work->count ? me * share : work->count;
  work->rows(work->data, begin, begin + share < work->count ? begin + share : work->count);
}

static void share_out(void (*rows)(void *, int64_t, int64_t), void *data, int64_t count, int threads) {
  Work work = {rows, data, count, parallel && threads > 1 ? threads : 1};
  if (work.threads > 1) parallel(on_thread, &work, work.threads, 0);
  else on_thread(&work);
}

// Rows of all products of a job, numbered through.
static void multiply_rows(void *data, int64_t begin, int64_t end) {
  Job job = *(const Job *)data;
  for (int n = 0; n < job.products; n++, job.p++) {
    const int64_t rows = job.p->rows, from = begin > 0 ? begin : 0, to = end < rows ? end : rows;
    if (from < to) range_for(job.isa, job.p)(&job, from, to);
    begin -= rows;
    end -= rows;
  }
  if (job.failed) ((Job *)data)->failed = 1;
}

// y = x W^T + bias for several weights and the same x. Returns 0, or 1 where there was no memory for what a call needs.
EXPORT int lottery_multiply(const Product *p, int products, int isa, int threads) {
  Job job = {.p = p, .products = products, .padded = (p->columns + WORD - 1) / WORD * WORD, .isa = isa};
  const int64_t n = p->batch * job.padded;
  char *room = aligned_alloc(64, 2 * n * sizeof(float));  // n is a multiple of 64
  if (!room) return 1;
  float *x = (float *)room;
  uint16_t *hi = (uint16_t *)(x + n), *lo = hi + n, rest = 0;
  for (int64_t b = 0; b < p->batch; b++)
    for (int64_t c = 0; c < job.padded; c++) x[b * job.padded + c] = c < p->columns ? value(p->x, b * p->columns + c, p->x_dtype) : 0;
  job.x = x;
  if (isa == AVX512_VBMI2 && p->dtype == BF16) {
    for (int64_t i = 0; i < n; i++) {
      hi[i] = to_bf16(x[i]);
      lo[i] = (hi[i] & 0x7f80) == 0x7f80 ? 0 : to_bf16(x[i] - from_bf16(hi[i]));  // infinity less infinity is no number
      rest |= lo[i] & 0x7fff;
    }
    job.hi = hi;
    job.lo = rest ? lo : NULL;
  }
  int64_t rows = 0, bytes = 0;
  for (int k = 0; k < products; k++) {
    rows += p[k].rows;
    bytes += p[k].count * size_of(p[k].dtype);
  }
  share_out(multiply_rows, &job, rows, bytes < SMALL ? 1 : threads);
  free(room);
  return job.failed;
}

// --- To the format and back. A step for each: bits and counts, then values, which begin where the counts say; and all again as a weight.

typedef struct {
  char *weight;         // [rows][columns]
  uint8_t *bits;        // [rows][row_bytes]
  char *values;
  int64_t *offsets;     // [rows]; `mark` writes counts into it
  int64_t rows, columns, count;
  int32_t size;         // bytes of a number
} Layout;

#define EACH(type, magnitude)                                                                       \
  INLINE void mark_##type(const Layout *l, int64_t r) {                                             \
    const type *w = (const type *)l->weight + r * l->columns;                                       \
    uint8_t *bits = l->bits + r * ((l->columns + 7) / 8);                                           \
    int64_t count = 0, c = 0;                                                                       \
    for (; c + 8 <= l->columns; c += 8) {                                                           \
      uint8_t byte = 0;                                                                             \
      for (int k = 0; k < 8; k++) byte |= (uint8_t)((w[c + k] & magnitude) != 0) << k;              \
      bits[c / 8] = byte;                                                                           \
      count += __builtin_popcount(byte);                                                            \
    }                                                                                               \
    if (c < l->columns) {                                                                           \
      uint8_t byte = 0;                                                                             \
      for (int k = 0; c + k < l->columns; k++) byte |= (uint8_t)((w[c + k] & magnitude) != 0) << k; \
      bits[c / 8] = byte;                                                                           \
      count += __builtin_popcount(byte);                                                            \
    }                                                                                               \
    l->offsets[r] = count;                                                                          \
  }                                                                                                 \
  INLINE void pack_##type(const Layout *l, int64_t r) {                                             \
    const type *w = (const type *)l->weight + r * l->columns;                                       \
    type *out = (type *)l->values + l->offsets[r];                                                  \
    const int64_t n = (r + 1 < l->rows ? l->offsets[r + 1] : l->count) - l->offsets[r];             \
    for (int64_t c = 0, i = 0; i < n; c++) {                                                        \
      out[i] = w[c];                                                                                \
      i += (w[c] & magnitude) != 0;                                                                 \
    }                                                                                               \
  }                                                                                                 \
  INLINE void unpack_##type(const Layout *l, int64_t r) {                                           \
    const int64_t row_bytes = (l->columns + 7) / 8;                                                 \
    const type *v = (const type *)l->values + l->offsets[r];                                        \
    type *w = (type *)l->weight + r * l->columns;                                                   \
    memset(w, 0, l->columns * sizeof(type));                                                        \
    for (int64_t c = 0; c < l->columns; c += WORD)                                                  \
      for (uint64_t word = word_at(l->bits + r * row_bytes, c, row_bytes); word; word &= word - 1)  \
        w[c + __builtin_ctzll(word)] = *v++;                                                        \
  }
EACH(uint32_t, 0x7fffffffu)
EACH(uint16_t, 0x7fffu)

#define STEP(name)                                                                                  \
  static void name##_rows(void *data, int64_t begin, int64_t end) {                                 \
    const Layout *l = data;                                                                         \
    for (int64_t r = begin; r < end; r++)                                                           \
      if (l->size == 4) name##_uint32_t(l, r);                                                      \
      else name##_uint16_t(l, r);                                                                   \
  }                                                                                                 \
  EXPORT void lottery_##name(Layout *l, int threads) { share_out(name##_rows, l, l->rows, threads); }
STEP(mark)
STEP(pack)
STEP(unpack)
