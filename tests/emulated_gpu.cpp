// kernel.cu on the host: the lanes of a warp are coroutines, which take turns wherever a lane reads of another.

#include <cstdint>
#include <cstring>
#include <ucontext.h>

#include "kernel.cu"

static struct {
  ucontext_t lanes[WARP], outside;
  alignas(16) char stacks[WARP][1 << 15];
  unsigned shown[2][WARP];  // what each lane shows at this shuffle, and showed at the last
  int shuffles[WARP], now, ended;
  bool parted;  // some lanes shuffle where others have ended, which is undefined on a GPU
  void (*body)(const Product &, int, int);
  const Product *product;
  int block, warp;
} gpu;

static void part() {
  gpu.parted = true;
  setcontext(&gpu.outside);
}

static unsigned exchanged(unsigned number, int lane) {
  if (gpu.ended) part();
  const int me = gpu.now, turn = gpu.shuffles[me]++ % 2;
  gpu.shown[turn][me] = number;
  gpu.now = (me + 1) % WARP;
  swapcontext(&gpu.lanes[me], &gpu.lanes[gpu.now]);
  return gpu.shown[turn][lane % WARP];
}
static inline unsigned as_bits(float number) { unsigned bits; memcpy(&bits, &number, 4); return bits; }
static inline float as_float(unsigned bits) { float number; memcpy(&number, &bits, 4); return number; }
static inline unsigned shuffled(unsigned number, int lane) { return exchanged(number, lane); }
static inline float shuffled(float number, int lane) { return as_float(exchanged(as_bits(number), lane)); }
static inline unsigned ones(unsigned word) { return __builtin_popcount(word); }
static inline float widened(F16 half) {
  const unsigned rest = half.bits & 0x7fff, sign = (half.bits & 0x8000u) << 16;
  if (rest < 0x400) return as_float(sign | as_bits(rest * 0x1p-24f));
  return as_float(sign | (rest >= 0x7c00 ? 0x7f800000 | rest << 13 : (rest << 13) + 0x38000000));
}
static inline void narrow(float number, F16 *to) {  // no NaN: rounding is the GPU's own work
  const unsigned bits = as_bits(number), rest = bits & 0x7fffffff;
  to->bits = bits >> 16 & 0x8000;
  if (rest < 0x38800000) to->bits |= as_bits(as_float(rest) + 0.5f) - 0x3f000000;
  else to->bits |= (rest + 0xfff + (rest >> 13 & 1) - 0x38000000) >> 13;
}

static void lane() {
  gpu.body(*gpu.product, gpu.block, gpu.warp * WARP + gpu.now);
  if (gpu.shuffles[gpu.now] != gpu.shuffles[0]) part();
  gpu.ended++;
  gpu.now++;
  setcontext(gpu.now == WARP ? &gpu.outside : &gpu.lanes[gpu.now]);
}

template <class V, class X> static auto body_for(int batch) {
  switch (batch) {
    case 1: return multiply_rows<V, X, 1>;
    case 2: return multiply_rows<V, X, 2>;
    case 3: return multiply_rows<V, X, 3>;
    default: return multiply_rows<V, X, 8>;
  }
}
template <class V> static auto body_for(int x_dtype, int batch) {
  return x_dtype == 0 ? body_for<V, float>(batch) : x_dtype == 1 ? body_for<V, F16>(batch) : body_for<V, BF16>(batch);
}

// Runs a grid of blocks. Returns 0, or 1 where lanes of a warp part ways at a shuffle.
extern "C" int emulate(const Product *p, int blocks) {
  const int v = p->dtype, x = p->x_dtype, batch = (int)p->batch;
  gpu.body = v == 0 ? body_for<float>(x, batch) : v == 1 ? body_for<F16>(x, batch) : body_for<BF16>(x, batch);
  gpu.product = p;
  gpu.parted = false;
  for (gpu.block = 0; gpu.block < blocks; gpu.block++)
    for (gpu.warp = 0; gpu.warp < WARPS; gpu.warp++) {
      for (int n = 0; n < WARP; n++) {
        gpu.shuffles[n] = 0;
        getcontext(&gpu.lanes[n]);
        gpu.lanes[n].uc_stack.ss_sp = gpu.stacks[n];
        gpu.lanes[n].uc_stack.ss_size = sizeof gpu.stacks[n];
        makecontext(&gpu.lanes[n], lane, 0);
      }
      gpu.now = gpu.ended = 0;
      swapcontext(&gpu.outside, &gpu.lanes[0]);
      if (gpu.parted) return 1;
    }
  return 0;
}
