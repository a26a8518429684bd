// One token through a decoder at batch 1: the products of kernel.c, and the small operations between them, in fp32. Blocks of the Llama
// kind (RMSNorm, gated SiLU) and of the Phi kind (LayerNorm, attention and MLP side by side, GELU), with grouped heads and rotary positions.

#include <math.h>

#include "kernel.c"

typedef struct {
  Product qkv[3], out, up[2], down;  // the gate first, where there is one; x and y point into the buffers of Decoder
  const float *norm, *norm_bias, *mlp_norm;  // mlp_norm is NULL where attention and MLP read the same
  float *keys, *values;        // [kv_heads][room][head]
} Block;

typedef struct {
  Block *blocks;
  Product head;
  const void *embedding;       // [vocabulary][hidden]
  const float *norm, *norm_bias;  // the last
  const float *cosine, *sine;  // [room][rotated / 2]
  float *state, *normed, *qkv, *mixed, *inner, *added;  // [hidden], [hidden], [(heads + 2 kv_heads) head], [heads head], [2 intermediate], [hidden]
  int64_t n_blocks, hidden, heads, kv_heads, head_size, rotated, intermediate, room, window;
  int32_t embedding_dtype, gated, layer_norm;
  float epsilon;
} Decoder;

typedef struct {
  const Decoder *d;
  const Block *block;
  int64_t position;
  int failed;
} Step;

// e^x to about two units in the last place, in a form that compilers turn into vector instructions.
INLINE float exponential(float x) {
  x = x < -87.3f ? -87.3f : x > 88.7f ? 88.7f : x;
  const float n = __builtin_rintf(x * 1.44269504f), r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1;
  const int32_t power = ((int32_t)n + 127) << 23;
  float scale;
  memcpy(&scale, &power, 4);
  return p * scale;
}

INLINE void normalize(const Decoder *d, const float *x, const float *weight, const float *bias, float *y) {
  double mean = 0, squares = 0;
  if (d->layer_norm) {
    for (int64_t i = 0; i < d->hidden; i++) mean += x[i];
    mean /= d->hidden;
  }
  for (int64_t i = 0; i < d->hidden; i++) squares += (x[i] - mean) * (x[i] - mean);
  const float scale = (float)(1 / sqrt(squares / d->hidden + d->epsilon)), middle = (float)mean;
  for (int64_t i = 0; i < d->hidden; i++) y[i] = (x[i] - middle) * scale * weight[i] + (bias ? bias[i] : 0);
}

INLINE void rotate(const Decoder *d, float *x, int64_t position) {  // the first `rotated` numbers of a head
  const int64_t half = d->rotated / 2;
  const float *c = d->cosine + position * half, *s = d->sine + position * half;
  for (int64_t i = 0; i < half; i++) {
    const float a = x[i], b = x[i + half];
    x[i] = a * c[i] - b * s[i];
    x[i + half] = b * c[i] + a * s[i];
  }
}

// Heads from `begin` to `end` attend to all that is cached.
INLINE void attend(const Step *step, int64_t begin, int64_t end) {
  const Decoder *d = step->d;
  const int64_t size = d->head_size, until = step->position + 1, from = d->window && until > d->window ? until - d->window : 0;
  float *weights = malloc((until - from) * sizeof(float));
  if (!weights) { ((Step *)step)->failed = 1; return; }
  const float scale = 1 / sqrtf((float)size);
  for (int64_t h = begin; h < end; h++) {
    const float *q = d->qkv + h * size;
    const int64_t shared = h / (d->heads / d->kv_heads) * d->room * size;
    const float *keys = step->block->keys + shared, *values = step->block->values + shared;
    float most = -INFINITY, sum = 0, *y = d->mixed + h * size;
    for (int64_t t = from; t < until; t++) {
      float dot = 0;
#pragma omp simd reduction(+ : dot)
      for (int64_t i = 0; i < size; i++) dot += q[i] * keys[t * size + i];
      weights[t - from] = dot * scale;
      most = weights[t - from] > most ? weights[t - from] : most;
    }
#pragma omp simd reduction(+ : sum)
    for (int64_t t = 0; t < until - from; t++) sum += weights[t] = exponential(weights[t] - most);
    memset(y, 0, size * sizeof(float));
    for (int64_t t = from; t < until; t++) {
      const float w = weights[t - from] / sum;
      for (int64_t i = 0; i < size; i++) y[i] += w * values[t * size + i];
    }
  }
  free(weights);
}

INLINE void activate(const Decoder *d) {
  float *x = d->inner;
  if (d->gated) {
    const float *up = x + d->intermediate;
#pragma omp simd
    for (int64_t i = 0; i < d->intermediate; i++) x[i] = x[i] / (1 + exponential(-x[i])) * up[i];
  } else {
#pragma omp simd
    for (int64_t i = 0; i < d->intermediate; i++) {  // GELU by tanh: x / (1 + e^-2z)
      const float z = 0.7978845608f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
      x[i] = x[i] / (1 + exponential(-2 * z));
    }
  }
}

// The same C for each set of instructions.
#define SMALL(target, set)                                                                                  \
  target static void attend_##set(void *step, int64_t begin, int64_t end) { attend(step, begin, end); }     \
  target static void normalize_##set(const Decoder *d, const float *x, const float *w, const float *b, float *y) { normalize(d, x, w, b, y); } \
  target static void activate_##set(const Decoder *d) { activate(d); }
SMALL(, portable)
#ifdef X86
SMALL(TARGET(S2), avx2)
SMALL(TARGET(S512), avx512)
#define PICK(name, isa) (isa >= AVX512F ? name##_avx512 : isa == AVX2 ? name##_avx2 : name##_portable)
#else
#define PICK(name, isa) name##_portable
#endif

INLINE void add(float *x, const float *y, int64_t n) { for (int64_t i = 0; i < n; i++) x[i] += y[i]; }

// Returns 0, or 1 where there was no memory. head.y holds the logits.
EXPORT int lottery_decode(const Decoder *d, int64_t token, int64_t position, int isa, int threads) {
  const int64_t size = d->head_size;
  for (int64_t i = 0; i < d->hidden; i++) d->state[i] = value(d->embedding, token * d->hidden + i, d->embedding_dtype);
  for (int64_t n = 0; n < d->n_blocks; n++) {
    const Block *b = d->blocks + n;
    Step step = {d, b, position, 0};
    PICK(normalize, isa)(d, d->state, b->norm, b->norm_bias, d->normed);
    if (lottery_multiply(b->qkv, 3, isa, threads)) return 1;
    for (int64_t h = 0; h < d->heads + d->kv_heads; h++) rotate(d, d->qkv + h * size, position);
    for (int64_t h = 0; h < d->kv_heads; h++) {
      const int64_t at = (h * d->room + position) * size;
      memcpy(b->keys + at, d->qkv + (d->heads + h) * size, size * sizeof(float));
      memcpy(b->values + at, d->qkv + (d->heads + d->kv_heads + h) * size, size * sizeof(float));
    }
    share_out(PICK(attend, isa), &step, d->heads, d->heads * size * position > 1 << 15 ? threads : 1);
    if (step.failed || lottery_multiply(&b->out, 1, isa, threads)) return 1;
    if (b->mlp_norm) {
      add(d->state, d->added, d->hidden);
      PICK(normalize, isa)(d, d->state, b->mlp_norm, NULL, d->normed);
    }
    if (lottery_multiply(b->up, d->gated ? 2 : 1, isa, threads)) return 1;
    PICK(activate, isa)(d);
    if (!b->mlp_norm) add(d->state, d->added, d->hidden);
    if (lottery_multiply(&b->down, 1, isa, threads)) return 1;
    add(d->state, d->added, d->hidden);
  }
  PICK(normalize, isa)(d, d->state, d->norm, d->norm_bias, d->normed);
  return lottery_multiply(&d->head, 1, isa, threads);
}
