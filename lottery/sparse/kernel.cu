// y = x W^T + bias for a weight in the sparse-bitmask format and few vectors at a time: what decoding one token needs, on a GPU.
//
// A warp computes a row, always in the same order and without atomics, so that results are equal to the bit from run to run. Sums are
// fp32. The caller has checked shapes, bits and offsets (bitmask.checked). NVRTC compiles this file for one dtype of values, one of
// vectors and one number of vectors (gpu.py). It needs no header: cuda_fp16.h is not there where only NVRTC is. The tests compile the same
// body for the host, where they define what stands below between #ifdef and #else in their own way.

struct F16 { unsigned short bits; };
struct BF16 { unsigned short bits; };

#ifdef __CUDACC_RTC__
#define DEVICE static __device__ __forceinline__
DEVICE unsigned shuffled(unsigned number, int lane) { return __shfl_sync(~0u, number, lane); }  // that of another lane of the warp
DEVICE float shuffled(float number, int lane) { return __shfl_sync(~0u, number, lane); }
DEVICE unsigned ones(unsigned word) { return __popc(word); }
DEVICE float as_float(unsigned bits) { return __uint_as_float(bits); }
DEVICE unsigned as_bits(float number) { return __float_as_uint(number); }
DEVICE float widened(F16 half) { float f; asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(half.bits)); return f; }
DEVICE void narrow(float number, F16 *to) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to->bits) : "f"(number)); }
#else
#define DEVICE static inline
DEVICE unsigned shuffled(unsigned number, int lane);
DEVICE float shuffled(float number, int lane);
DEVICE unsigned ones(unsigned word);
DEVICE float as_float(unsigned bits);
DEVICE unsigned as_bits(float number);
DEVICE float widened(F16 half);
DEVICE void narrow(float number, F16 *to);
#endif

enum { WARP = 32, WARPS = 4 };  // lanes of a warp; warps of a block

struct Product {  // that of kernel.c
  const unsigned char *bits;   // [rows][row_bytes]
  const void *values;
  const long long *offsets;    // [rows]
  const void *x;               // [batch][columns]
  void *y;                     // [batch][rows] in the dtype of x
  const void *bias;            // [rows] in the dtype of x, or NULL
  long long rows, columns, count, batch;
  int dtype, x_dtype;          // not read: they are compiled in
};

DEVICE float widened(float number) { return number; }
DEVICE float widened(BF16 half) { return as_float((unsigned)half.bits << 16); }
DEVICE void narrow(float number, float *to) { *to = number; }
DEVICE void narrow(float number, BF16 *to) {  // by hand: sm_70 and sm_75 have no instruction for it
  const unsigned bits = as_bits(number), nan = (bits & 0x7fffffff) > 0x7f800000;
  to->bits = nan ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// Whether a word of bits, and four columns of x, can always be read at once: so it is where the columns are a multiple of 32.
DEVICE bool aligned(const Product &p) {
  return p.columns % 32 == 0 && (unsigned long long)p.bits % 4 == 0 && (unsigned long long)p.x % 16 == 0;
}

// 32 bits of a row, from column 32 * word on; beyond the row 0.
template <bool ALIGNED> DEVICE unsigned word_at(const unsigned char *bits, long long word, long long row_bytes) {
  const long long left = row_bytes - 4 * word;
  if (ALIGNED) return left > 0 ? ((const unsigned *)bits)[word] : 0;
  unsigned found = 0;
  for (int k = 0; k < 4 && k < left; k++) found |= (unsigned)bits[4 * word + k] << 8 * k;
  return found;
}

template <class X> struct alignas(4 * sizeof(X)) Four { X at[4]; };  // read at once

// Four numbers of x; beyond the `left` columns of the row 0.
template <bool ALIGNED, class X> DEVICE Four<X> four(const X *x, long long left) {
  if (ALIGNED) return *(const Four<X> *)x;
  Four<X> found = {};
  for (int k = 0; k < 4 && k < left; k++) found.at[k] = x[k];
  return found;
}

// One thread of a block; its warp computes a row. A step takes 128 columns, which are 4 words: lane l those of 4 bits of word l / 8, from bit
// 4 (l % 8) on. So the lanes read x and the values side by side, however the zeros lie, and count bits once for four columns.
template <bool ALIGNED, class V, class X, int N> DEVICE void multiply_row(const Product &p, int block, int thread) {
  const int lane = thread % WARP, shift = lane % 8 * 4;
  const long long row = (long long)block * WARPS + thread / WARP;
  if (row >= p.rows) return;  // the whole warp: nobody waits for it
  const long long row_bytes = (p.columns + 7) / 8, words = (p.columns + 31) / 32;
  const unsigned char *bits = p.bits + row * row_bytes;
  const V *values = (const V *)p.values + p.offsets[row];
  float sums[N] = {};
  unsigned before = 0;  // values of the row before these 32 words
  unsigned next = word_at<ALIGNED>(bits, lane, row_bytes);
  for (long long first = 0; first < words; first += WARP) {
    const unsigned word = next;
    next = word_at<ALIGNED>(bits, first + WARP + lane, row_bytes);  // asked for early: values are found by it
    unsigned upto = ones(word);  // of all lanes up to this one
    for (int distance = 1; distance < WARP; distance *= 2) {
      const unsigned other = shuffled(upto, (lane - distance) & (WARP - 1));
      if (lane >= distance) upto += other;
    }
    const unsigned start = before + upto - ones(word);
#pragma unroll (ALIGNED ? 8 : 1)
    for (int step = 0; step < 8; step++) {
      const int from = 4 * step + lane / 8;
      const unsigned its = shuffled(word, from), mine = its >> shift & 15;
      unsigned at = shuffled(start, from) + ones(its & ((1u << shift) - 1));
      if (mine) {
        const long long column = (first + from) * 32 + shift;
        float w[4];
        for (int k = 0; k < 4; k++) w[k] = mine >> k & 1 ? widened(values[at++]) : 0.0f;
        for (int n = 0; n < N; n++) {
          const Four<X> x = four<ALIGNED>((const X *)p.x + n * p.columns + column, p.columns - column);
          for (int k = 0; k < 4; k++) sums[n] += w[k] * widened(x.at[k]);
        }
      }
    }
    before += shuffled(upto, WARP - 1);
  }
  for (int n = 0; n < N; n++) {
    for (int distance = WARP / 2; distance; distance /= 2) sums[n] += shuffled(sums[n], lane ^ distance);
    const float added = p.bias ? widened(((const X *)p.bias)[row]) : 0.0f;
    if (lane == 0) narrow(sums[n] + added, (X *)p.y + n * p.rows + row);
  }
}

template <class V, class X, int N> DEVICE void multiply_rows(const Product &p, int block, int thread) {
  if (aligned(p)) multiply_row<true, V, X, N>(p, block, thread);
  else multiply_row<false, V, X, N>(p, block, thread);
}

#ifdef __CUDACC_RTC__
extern "C" __global__ void __launch_bounds__(WARP * WARPS) multiply(const Product p) {
  multiply_rows<VALUES, VECTORS, BATCH>(p, blockIdx.x, threadIdx.x);
}
#endif
