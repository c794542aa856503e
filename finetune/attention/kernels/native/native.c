/* Self-adjust softmax attention on a CPU, forward and backward, without a (query, key) tensor.
 *
 * One task is some queries of one head (forward) or one key head (backward). It packs that head's keys and
 * values, then goes through its queries a block at a time: all scores of the block, the weights in their
 * place, the product with the values. The backward pass recomputes the scores and applies the exact gradient
 * (x a row's scores, p = softmax(x), a its weights, da = dO V^T, m = min(x_min, 0), M = max(x_max, 0),
 * R = M - m + eps, g = (x - m) / R, D1 = sum(a da), D0 = sum(p da)):
 *
 *     sa-softmax      a = g p   dx = p (da (1/R + g) - D1)  + (D1 - D0)/R at argmin x if x_min < 0
 *                                                           - D1/R        at argmax x if x_max > 0
 *     sa-softmax-raw  a = x p   dx = p (da (1 + x) - D1)
 *     softmax         a = p     dx = p (da - D1)          (to see what a variant costs; models use torch's)
 *
 * Keys that no query of a block may see are left out of its products: padding and the future cost nothing.
 * Kept from forward to backward: 1 / sum(exp(x - x_max)) of each row.
 *
 * Tensors are float32, bfloat16 or float16, and all is computed in float32, but: where all are bfloat16 and the
 * processor multiplies pairs of those, weights and dx are rounded to it for their products, as in FlashAttention.
 */
#define _GNU_SOURCE /* RTLD_DEFAULT */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include "threads.h"

enum { SOFTMAX, SELF_ADJUST, RAW };                    /* variants.py, in the order it lists them */

#define INLINE static inline __attribute__((always_inline))

/* Lanes of a vector; and which make a vector of one's first halves, lane by lane in turn, and of the second. */
#if defined(__AVX512F__)
enum { LANES = 16 };
#define FIRST_HALVES 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define SECOND_HALVES 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif defined(__AVX__)
enum { LANES = 8 };
#define FIRST_HALVES 0, 8, 1, 9, 2, 10, 3, 11
#define SECOND_HALVES 4, 12, 5, 13, 6, 14, 7, 15
#else
enum { LANES = 4 };
#define FIRST_HALVES 0, 4, 1, 5
#define SECOND_HALVES 2, 6, 3, 7
#endif
#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (integers){__VA_ARGS__})
#endif
enum { ROWS = 8, PANEL = 2 * LANES };                  /* the tile that a product keeps in registers */
enum { WIDEST = 4 };                                   /* vectors in a row of a tile */
enum { STEP = LANES > (int)ROWS ? LANES : ROWS };          /* rows of scores are computed in whole steps */
enum { DEPTH = 128 };                                  /* keys of V or K that a product reads at a time */
enum { FORWARD_QUERIES = 256, MOST_ROWS = 64 };        /* queries of a forward task, and of a block */
enum { SCORES = 128 * 1024 };                          /* floats of a block of scores: they fit the cache */

typedef float vec __attribute__((vector_size(LANES * 4)));
typedef int32_t integers __attribute__((vector_size(LANES * 4)));
typedef float unaligned_vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef uint32_t word __attribute__((may_alias));      /* a float, or a pair of bfloat16 */
typedef uint16_t half_word __attribute__((may_alias));

enum { FLOAT32, BFLOAT16, FLOAT16 };                   /* what the elements of a tensor are */
typedef struct { void *data; int64_t batch, head, row, column, type; } Tensor;  /* strides in elements */
typedef struct { const uint8_t *data; int64_t batch, head, row, column; } Mask;

typedef struct {
    int64_t batch, heads, key_heads, query_len, key_len, width;
    int64_t variant, causal, threads, forked;  /* forked: since torch's threads may have been made */
    uint64_t seed;                   /* of dropout */
    float scaling, eps, dropout;
    Tensor query, key, value, bias, out, grad_out, grad_query, grad_key, grad_value;
    Mask allowed;
    float *inverse_sum;              /* (batch, heads, query), contiguous */
    float *grad_by_distance;         /* (batch, heads, query + key - 1), contiguous, or NULL: see below */
} Call;

typedef struct {
    int64_t begin, end;              /* keys that are packed */
    float *key_panels, *value_panels, *key_rows, *value_rows, *grad_key, *grad_value;
    float *query, *grad_out, *scores, *grads, *out, *row;
    int32_t *room_for_live;
    const int32_t *live;             /* of the row at hand: see live_keys */
    int64_t next_batch, next_head;   /* of the task that this thread will probably have next; batch -1: none */
    int64_t width, stride;           /* padded: of a packed row, and from one row of scores to the next */
    int pairs;                       /* whether products are of pairs of bfloat16 */
} Work;

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

INLINE float as_float(uint32_t bits) { union { uint32_t i; float f; } u = {bits}; return u.f; }
INLINE uint32_t as_bits(float value) { union { float f; uint32_t i; } u = {value}; return u.i; }

/* ---- elements of 16 bits -------------------------------------------------------------------------------- */

INLINE float from_bfloat16(uint16_t half) { return as_float((uint32_t)half << 16); }

/* To the nearest, ties to even, as torch rounds. */
INLINE uint16_t to_bfloat16(float value) {
    const uint32_t bits = as_bits(value);
    return value != value ? 0x7FC0 : (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
}

/* The exponent is moved by a product, which numbers below the smallest normal one come through as well. */
INLINE float from_float16(uint16_t half) {
    const uint32_t size = (uint32_t)(half & 0x7FFF) << 13, sign = (uint32_t)(half & 0x8000) << 16;
    const uint32_t moved = as_bits(as_float(size) * 0x1p112f);
    return as_float((size >= 0x0F800000 ? size | 0x7F800000 : moved) | sign);  /* infinity, NaN */
}

/* Below the smallest normal number the step is 2^-24, and a sum with .5, whose own step that is, rounds. */
INLINE uint16_t to_float16(float value) {
    const uint32_t bits = as_bits(value), size = bits & 0x7FFFFFFF, sign = (bits >> 16) & 0x8000;
    const uint32_t rounded = (size - 0x38000000 + 0xFFF + ((size >> 13) & 1)) >> 13;
    const uint32_t small = as_bits(as_float(size) + 0.5f) - 0x3F000000;
    const uint32_t finite = size < 0x38800000 ? small : rounded;
    return sign | (size > 0x7F800000 ? 0x7E00 : size >= 0x477FF000 ? 0x7C00 : finite);
}

INLINE float element(Tensor t, int64_t at, const int type) {
    return type == BFLOAT16  ? from_bfloat16(((const uint16_t *)t.data)[at])
           : type == FLOAT16 ? from_float16(((const uint16_t *)t.data)[at])
                             : ((const float *)t.data)[at];
}

INLINE int64_t size_of(Tensor t) { return t.type == FLOAT32 ? sizeof(float) : sizeof(uint16_t); }

INLINE int64_t offset_of(Tensor t, int64_t batch, int64_t head, int64_t row) {
    return batch * t.batch + head * t.head + row * t.row;
}

/* n elements of a row, from an offset on, times a factor, into floats. */
INLINE void load(Tensor t, int64_t offset, int64_t n, float factor, float *to) {
    switch (t.type) {
    case BFLOAT16: for (int64_t d = 0; d < n; d++) to[d] = factor * element(t, offset + d, BFLOAT16); break;
    case FLOAT16: for (int64_t d = 0; d < n; d++) to[d] = factor * element(t, offset + d, FLOAT16); break;
    default: for (int64_t d = 0; d < n; d++) to[d] = factor * element(t, offset + d, FLOAT32);
    }
}

/* n floats, times a factor, into a row. */
INLINE void store(Tensor t, int64_t offset, int64_t n, float factor, const float *from) {
    float *whole = (float *)t.data + offset;
    uint16_t *half = (uint16_t *)t.data + offset;
    switch (t.type) {
    case BFLOAT16: for (int64_t d = 0; d < n; d++) half[d] = to_bfloat16(factor * from[d]); break;
    case FLOAT16: for (int64_t d = 0; d < n; d++) half[d] = to_float16(factor * from[d]); break;
    default: for (int64_t d = 0; d < n; d++) whole[d] = factor * from[d];
    }
}

/* ---- products ------------------------------------------------------------------------------------------ */

/* A factor is a word: a float, or a pair of bfloat16 of which both products are added to a float. Pairs halve
 * the depth of a product, and else change nothing in the order of what is packed. */
#ifdef __AVX512BF16__
enum { PAIRS = 1 };
INLINE vec add_product(vec sum, word a, vec b, const int pairs) {
    return pairs ? (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32((int)a), (__m512bh)b)
                 : sum + as_float(a) * b;
}
#else
enum { PAIRS = 0 };
INLINE vec add_product(vec sum, word a, vec b, const int pairs) {
    (void)pairs;
    return sum + as_float(a) * b;
}
#endif

/* One tile: c (rows, vectors * LANES) (+)= a (rows, depth) b (depth, vectors * LANES); an element of a is
 * a[row * ar + k * ak]. */
INLINE void tile(const float *a, int64_t ar, int64_t ak, const float *b, int64_t ldb, int64_t depth, float *c,
                 int64_t ldc, int add, const int pairs, float scale, const int rows, const int vectors) {
    vec sum[ROWS][WIDEST];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            sum[r][v] = (vec){0};
            if (add) sum[r][v] = *(const unaligned_vec *)(c + r * ldc + v * LANES);
        }
    for (int64_t k = 0; k < depth; k++)
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            const word factor = *(const word *)(a + r * ar + k * ak);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++)
                sum[r][v] = add_product(sum[r][v], factor, *(const unaligned_vec *)(b + k * ldb + v * LANES),
                                        pairs);
        }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            if (pairs && !add) sum[r][v] *= scale;
            *(unaligned_vec *)(c + r * ldc + v * LANES) = sum[r][v];
        }
}

/* The tiles of one panel of columns, or of the half that is left of one, over all rows of c. */
INLINE void column_of_tiles(const float *a, int64_t ar, int64_t ak, const float *b, int64_t ldb, int64_t depth,
                            int64_t rows, float *c, int64_t ldc, int add, const int pairs, float scale,
                            const int vectors) {
    for (int64_t i = 0; i < rows; i += ROWS)
        tile(a + i * ar, ar, ak, b, ldb, depth, c + i * ldc, ldc, add, pairs, scale, ROWS, vectors);
}

INLINE void tiles(const float *a, int64_t ar, int64_t ak, const float *b, int64_t ldb, int64_t depth,
                  int64_t rows, int64_t columns, float *c, int64_t ldc, int add, int pairs, float scale) {
    if (PAIRS && pairs && columns > LANES)
        column_of_tiles(a, ar, ak, b, ldb, depth, rows, c, ldc, add, 1, scale, 2);
    else if (PAIRS && pairs)
        column_of_tiles(a, ar, ak, b, ldb, depth, rows, c, ldc, add, 1, scale, 1);
    else if (columns > LANES)
        column_of_tiles(a, ar, ak, b, ldb, depth, rows, c, ldc, add, 0, scale, 2);
    else
        column_of_tiles(a, ar, ak, b, ldb, depth, rows, c, ldc, add, 0, scale, 1);
}

/* c (rows, n) = a (rows, depth) panels^T: scores from packed queries and packed keys. Scaled if of pairs. */
static void product_with_panels(const float *a, int64_t depth, const float *panels, int64_t rows, int64_t n,
                                float *c, int64_t ldc, int pairs, float scale) {
    for (int64_t j = 0; j < n; j += PANEL)
        tiles(a, depth, 1, panels + j * depth, PANEL, depth, rows, n - j, c + j, ldc, 0, pairs, scale);
}

/* c (rows, width) = a (rows, depth) b (depth, width). */
static void product(const float *a, int64_t lda, const float *b, int64_t width, int64_t rows, int64_t depth,
                    float *c, int pairs) {
    for (int64_t k = 0; k == 0 || k < depth; k += DEPTH)
        for (int64_t j = 0; j < width; j += PANEL)
            tiles(a + k, lda, 1, b + k * width + j, width, smaller(DEPTH, depth - k), rows, width - j, c + j,
                  width, k > 0, pairs, 1);
}

/* c (n, width) += a^T b with a (depth, n), b (depth, width). */
static void add_transposed_product(const float *a, int64_t lda, const float *b, int64_t width, int64_t depth,
                                   int64_t n, float *c, int pairs) {
    for (int64_t j = 0; j < width; j += PANEL)
        tiles(a, 1, lda, b + j, width, depth, n, width - j, c + j, width, 1, pairs, 1);
}

/* Rows of a square of LANES numbers become its columns. Each round shuffles like a pack of cards: half of the
 * rows in between the other half. */
INLINE void transpose(vec square[LANES]) {
    for (int round = 1; round < LANES; round *= 2) {
        vec next[LANES];
#pragma GCC unroll 16
        for (int r = 0; r < LANES / 2; r++) {
            next[2 * r] = SHUFFLE(square[r], square[r + LANES / 2], FIRST_HALVES);
            next[2 * r + 1] = SHUFFLE(square[r], square[r + LANES / 2], SECOND_HALVES);
        }
#pragma GCC unroll 16
        for (int r = 0; r < LANES; r++) square[r] = next[r];
    }
}

/* ---- packing ------------------------------------------------------------------------------------------- */

/* rows [begin, end) of a head -> (end - begin, padded width), times a factor; the padding is 0. */
static void pack_rows(Tensor t, int64_t batch, int64_t head, int64_t begin, int64_t end, int64_t width,
                      int64_t padded, float factor, float *packed) {
    for (int64_t i = begin; i < end; i++, packed += padded) {
        load(t, offset_of(t, batch, head, i), width, factor, packed);
        for (int64_t d = width; d < padded; d++) packed[d] = 0;
    }
}

/* The same of bfloat16 as they are: pairs of neighbors. */
static void copy_rows(Tensor t, int64_t batch, int64_t head, int64_t begin, int64_t end, int64_t width,
                      int64_t padded, float *packed) {
    half_word *row = (half_word *)packed;
    for (int64_t i = begin; i < end; i++, row += padded) {
        memcpy(row, (const uint16_t *)t.data + offset_of(t, batch, head, i), width * sizeof(half_word));
        memset(row + width, 0, (padded - width) * sizeof(half_word));
    }
}

/* (n, padded) rows of bfloat16 -> (n / 2, padded) pairs of one row and the next. */
static void pair_rows(const float *rows, int64_t n, int64_t padded, float *pairs) {
    const half_word *row = (const half_word *)rows;
    word *to = (word *)pairs;
    for (int64_t i = 0; i < n; i += 2, row += 2 * padded, to += padded)
        if (i + 1 < n)
            for (int64_t d = 0; d < padded; d++) to[d] = row[d] | (uint32_t)row[padded + d] << 16;
        else
            for (int64_t d = 0; d < padded; d++) to[d] = row[d];
}

/* (n, depth) packed rows -> panels of PANEL rows each, (depth, PANEL) transposed; missing rows are 0. There is
 * room for them behind the rows. */
static void pack_panels(float *rows, int64_t n, int64_t depth, float *panels) {
    memset(rows + n * depth, 0, sizeof(float) * (round_up(n, PANEL) - n) * depth);
    for (int64_t j = 0; j < n; j += PANEL, panels += depth * PANEL)
        for (int64_t half = 0; half < PANEL; half += LANES)
            for (int64_t d = 0; d < depth; d += LANES) {
                vec square[LANES];
#pragma GCC unroll 16
                for (int r = 0; r < LANES; r++)
                    square[r] = *(const unaligned_vec *)(rows + (j + half + r) * depth + d);
                transpose(square);
#pragma GCC unroll 16
                for (int r = 0; r < LANES; r++)
                    *(unaligned_vec *)(panels + (d + r) * PANEL + half) = square[r];
            }
}

#ifdef __AVX512BF16__
/* n floats, times a factor, -> bfloat16 in their place; what is missing to a whole panel is 0. */
static void narrow(float *row, int64_t n, float factor) {
    const __m512 factors = _mm512_set1_ps(factor);
    for (int64_t j = n; j < round_up(n, PANEL); j++) row[j] = 0;
    for (int64_t j = 0; j < n; j += PANEL) {
        const __m512 first = _mm512_mul_ps(_mm512_loadu_ps(row + j), factors);
        const __m512 second = _mm512_mul_ps(_mm512_loadu_ps(row + j + LANES), factors);
        _mm512_storeu_si512((half_word *)row + j, (__m512i)_mm512_cvtne2ps_pbh(second, first));
    }
}

/* n floats of one row and of the next -> pairs of bfloat16, in the place of one of them if need be. */
static void narrow_across(const float *even, const float *odd, int64_t n, float *pairs) {
    for (int64_t j = 0; j < n; j += LANES) {
        const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(even + j)));
        const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(odd + j)));
        _mm512_storeu_si512(pairs + j, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
}
#else
static void narrow(float *row, int64_t n, float factor) { (void)row, (void)n, (void)factor; }
static void narrow_across(const float *even, const float *odd, int64_t n, float *pairs) {
    (void)even, (void)odd, (void)n, (void)pairs;
}
#endif

/* ---- masks --------------------------------------------------------------------------------------------- */

INLINE int64_t last_visible(const Call *call, int64_t query) {
    return call->causal ? smaller(query + 1, call->key_len) : call->key_len;
}

/* The keys that any of the queries [first, last) may see lie in [begin, end). */
static void visible(const Call *call, int64_t batch, int64_t head, int64_t first, int64_t last,
                    int64_t *begin, int64_t *end) {
    const Mask mask = call->allowed;
    if (!mask.data) {
        *begin = 0;
        *end = last_visible(call, last - 1);
        return;
    }
    *begin = call->key_len;
    *end = 0;
    const int64_t rows_alike = mask.row == 0;
    for (int64_t i = rows_alike ? last - 1 : first; i < last; i++) {
        const uint8_t *row = mask.data + batch * mask.batch + head * mask.head + i * mask.row;
        const int64_t limit = last_visible(call, i);
        int64_t a = 0, b = limit;
        while (a < *begin && a < limit && !row[a * mask.column]) a++;
        while (b > *end && b > a && !row[(b - 1) * mask.column]) b--;
        if (a < limit && row[a * mask.column]) *begin = smaller(*begin, a);
        if (b > a) *end = larger(*end, b);
    }
    *begin = smaller(*begin, *end);
}

/* Of each key of [begin, begin + n), in whole steps: -1 if a query may see it, else 0. NULL where it may see
 * all, and they fill their steps. */
static const int32_t *live_keys(const Call *call, int64_t batch, int64_t head, int64_t query, int64_t begin,
                                int64_t n, int32_t *buffer) {
    const Mask mask = call->allowed;
    const int64_t steps = round_up(n, STEP), limit = larger(0, smaller(n, last_visible(call, query) - begin));
    int32_t all = limit == steps ? -1 : 0;
    if (mask.data) {
        const uint8_t *row = mask.data + batch * mask.batch + head * mask.head + query * mask.row
                             + begin * mask.column;
        if (mask.column == 1)
            for (int64_t j = 0; j < limit; j++) all &= buffer[j] = row[j] ? -1 : 0;
        else
            for (int64_t j = 0; j < limit; j++) all &= buffer[j] = row[j * mask.column] ? -1 : 0;
    } else if (!all)
        for (int64_t j = 0; j < limit; j++) buffer[j] = -1;
    for (int64_t j = limit; j < steps; j++) buffer[j] = 0;
    return all ? NULL : buffer;
}

/* ---- element-wise -------------------------------------------------------------------------------------- */

/* exp(x) for x <= 0 (or next to it), 0 below the smallest normal number: 2^n e^r, |r| < .35, by a polynomial
 * whose relative error is smallest there (3e-9, and 8e-8 with the rounding). */
INLINE float exponential(float x) {
    const float magic = 12582912.0f;  /* 1.5 * 2^23: adding it rounds to a whole number, in the lowest bits */
    const float inside = x < -87.0f ? -87.0f : x;
    const float shifted = inside * 1.44269504f + magic;
    const float n = shifted - magic;
    const float r = (inside - n * 0.693145752f) - n * 1.42860677e-6f;
    float e = 0.0013814569f * r + 0.008368727f;
    e = e * r + 0.04166839f;
    e = e * r + 0.16666521f;
    e = e * r + 0.49999994f;
    e = e * r + 1.0f;
    e = e * r + 1.0f;
    const float scaled = as_float(as_bits(e) + (as_bits(shifted) << 23));  /* n into the exponent */
    return x < -87.0f ? 0.0f : scaled;
}

typedef struct { uint32_t first, second, threshold; float scale; } Dropout;

/* The dropout of one row, whose keys are counted from begin. */
static Dropout dropout_of(const Call *call, int64_t row, int64_t begin) {
    uint64_t z = call->seed + 0x9E3779B97F4A7C15u * (uint64_t)(row + 1);  /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return (Dropout){(uint32_t)z + 0x9E3779B1u * (uint32_t)begin, (uint32_t)(z >> 32),
                     (uint32_t)((double)call->dropout * 4294967296.0), 1.0f / (1.0f - call->dropout)};
}

/* 0, or 1 / (1 - dropout): a hash of the seed, the row and the key, so that backward can draw it again. */
INLINE float kept(Dropout dropout, int32_t key) {
    uint32_t h = (uint32_t)key * 0x9E3779B1u + dropout.first;
    h = (h ^ (h >> 16)) * 0x21F0AAADu;
    h = (h ^ (h >> 15) ^ dropout.second) * 0xD35A2D97u;
    h ^= h >> 15;
    return h < dropout.threshold ? 0.0f : dropout.scale;
}

typedef struct { float low, high, range, top; int64_t lowest, highest; } Extremes;

/* Minimum and maximum over the live keys (each at its first index), and the bounds m, M; dead scores -> 0. */
INLINE Extremes extremes(float *x, const int32_t *live, int64_t n, float eps, int indices) {
    float low = INFINITY, high = -INFINITY;
#pragma omp simd reduction(min : low) reduction(max : high)
    for (int64_t j = 0; j < n; j++) {
        const float down = live && !live[j] ? INFINITY : x[j], up = live && !live[j] ? -INFINITY : x[j];
        low = down < low ? down : low;
        high = up > high ? up : high;
        if (live) x[j] = live[j] ? x[j] : 0.0f;
    }
    int32_t lowest = INT32_MAX, highest = INT32_MAX;
    if (indices) {
#pragma omp simd reduction(min : lowest, highest)
        for (int32_t j = 0; j < (int32_t)n; j++) {
            const int seen = !live || live[j];
            const int32_t at_low = seen && x[j] == low ? j : INT32_MAX;
            const int32_t at_high = seen && x[j] == high ? j : INT32_MAX;
            lowest = at_low < lowest ? at_low : lowest;
            highest = at_high < highest ? at_high : highest;
        }
    }
    const float m = low < 0 ? low : 0, M = high > 0 ? high : 0;
    return (Extremes){m, M, M - m + eps, high, low < 0 ? lowest : -1, high > 0 ? highest : -1};
}

/* Scores of one row -> weights without their divisor, which is returned: a = x / divisor. The size of the weight
 * of the greatest score, where it is no less than a bound, else 1, is its peak. */
INLINE float weigh(const Call *call, float *x, const int32_t *live, int64_t n,
                   const Dropout *dropout, const int variant, float *inverse_sum, float *peak) {
    const Extremes bounds = extremes(x, live, n, call->eps, 0);
    const float low = variant == RAW ? 0.0f : bounds.low, top = bounds.top;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < n; j++) {
        float e = exponential(x[j] - top);
        if (live) e = live[j] ? e : 0.0f;
        sum += e;
        x[j] = variant == SOFTMAX ? e : (x[j] - low) * e;
        if (dropout) x[j] *= kept(*dropout, (int32_t)j);
    }
    *inverse_sum = sum > 0 ? 1.0f / sum : 0.0f;
    *peak = variant == SOFTMAX || !(fabsf(top - low) > 1e-6f && sum > 0) ? 1.0f : fabsf(top - low);
    return variant == SELF_ADJUST ? *inverse_sum / bounds.range : *inverse_sum;
}

/* Scores x and da of one row -> weights a (in x) and dx (in da). p and product are room for a row each.
 *
 * D1 is summed from the very products that it is subtracted from, not as dO . O: in a row that attends to one
 * key they cancel, and must be rounded alike. */
INLINE void differentiate(const Call *call, float *x, float *da, float *p, float *product,
                          const int32_t *live, int64_t n, const Dropout *dropout, const int variant,
                          float inverse_sum) {
    const Extremes bounds = extremes(x, live, n, call->eps, variant == SELF_ADJUST);
    const float low = variant == RAW ? 0.0f : bounds.low, top = bounds.top;
    const float inverse = variant == SELF_ADJUST ? 1.0f / bounds.range : variant == RAW ? 1.0f : 0.0f;  /* dg/dx */
    float d0 = 0, d1 = 0;
#pragma omp simd reduction(+ : d0, d1)
    for (int64_t j = 0; j < n; j++) {
        float weight = exponential(x[j] - top) * inverse_sum;
        if (live) weight = live[j] ? weight : 0.0f;
        const float keep = dropout ? kept(*dropout, (int32_t)j) : 1.0f;
        const float g = variant == SOFTMAX ? 1.0f : (x[j] - low) * inverse;
        const float arriving = live && !live[j] ? 0.0f : da[j] * keep;
        p[j] = weight;
        product[j] = g * arriving;
        d0 += weight * arriving;
        d1 += weight * product[j];
        x[j] = g * weight * keep;
        da[j] = arriving;
    }
#pragma omp simd
    for (int64_t j = 0; j < n; j++) da[j] = p[j] * (da[j] * inverse + (product[j] - d1));
    if (variant == SELF_ADJUST && inverse_sum > 0) {
        if (bounds.lowest >= 0) da[bounds.lowest] += (d1 - d0) * inverse;
        if (bounds.highest >= 0) da[bounds.highest] -= d1 * inverse;
    }
}

INLINE void add_elements(Tensor t, int64_t offset, int64_t n, float *x, const int type) {
    if (t.column == 1)
        for (int64_t j = 0; j < n; j++) x[j] += element(t, offset + j, type);
    else
        for (int64_t j = 0; j < n; j++) x[j] += element(t, offset + j * t.column, type);
}

static void add_bias(const Call *call, int64_t batch, int64_t head, int64_t query, int64_t begin, int64_t n,
                     float *x) {
    const Tensor bias = call->bias;
    const int64_t offset = offset_of(bias, batch, head, query) + begin * bias.column;
    switch (bias.type) {
    case BFLOAT16: add_elements(bias, offset, n, x, BFLOAT16); break;
    case FLOAT16: add_elements(bias, offset, n, x, FLOAT16); break;
    default: add_elements(bias, offset, n, x, FLOAT32);
    }
}

/* The gradient of a bias by distance, from dx of one row: keys j of query i have the place query_len - 1 - i + j,
 * so that equal distances meet. A batch and head has places of its own, which one task alone adds to. */
static void add_to_distances(const Call *call, int64_t batch, int64_t head, int64_t query, int64_t begin,
                             int64_t n, const float *dx) {
    float *row = call->grad_by_distance
                 + (batch * call->heads + head) * (call->query_len + call->key_len - 1)
                 + (call->query_len - 1 - query) + begin;
    for (int64_t j = 0; j < n; j++) row[j] += dx[j];
}

/* ---- one block of queries ------------------------------------------------------------------------------ */

typedef struct { int64_t batch, head, first, rows, begin, n; } Block;  /* n keys from begin */

INLINE int64_t row_number(const Call *call, const Block *block, int64_t row) {
    return (block->batch * call->heads + block->head) * call->query_len + block->first + row;
}

/* Packed keys start at a panel of the work; a block starts at the panel that holds its first visible key. */
static Block block_of(const Call *call, const Work *work, int64_t batch, int64_t head, int64_t first,
                      int64_t rows) {
    int64_t begin, end;
    visible(call, batch, head, first, first + rows, &begin, &end);
    if (end > begin) begin = work->begin + (begin - work->begin) / PANEL * PANEL;
    return (Block){batch, head, first, rows, begin, end - begin};
}

/* Words of a packed row. */
INLINE int64_t depth_of(const Work *work) { return work->pairs ? work->width / 2 : work->width; }

/* The place of the pairs across rows, behind the rows. */
INLINE float *across(const Work *work, float *packed, int64_t rows) { return packed + rows * work->width / 2; }

/* The rows of a block, scaled unless they are of pairs; those have their pairs across rows behind them. The
 * last step is filled with 0. */
static void pack_queries(const Call *call, const Work *work, const Block *block, Tensor t, float scaling,
                         float *packed) {
    const int64_t padded = round_up(block->rows, ROWS), last = block->first + block->rows;
    const int64_t depth = depth_of(work);
    memset(packed + block->rows * depth, 0, sizeof(float) * (padded - block->rows) * depth);
    if (work->pairs) {
        copy_rows(t, block->batch, block->head, block->first, last, call->width, work->width, packed);
        pair_rows(packed, padded, work->width, across(work, packed, padded));
    } else {
        pack_rows(t, block->batch, block->head, block->first, last, call->width, work->width, scaling, packed);
    }
}

static void block_scores(const Call *call, Work *work, const Block *block) {
    const int64_t padded = round_up(block->rows, ROWS), depth = depth_of(work);
    pack_queries(call, work, block, call->query, call->scaling, work->query);
    product_with_panels(work->query, depth, work->key_panels + (block->begin - work->begin) * depth, padded,
                        block->n, work->scores, work->stride, work->pairs, call->scaling);
    if (call->bias.data)
        for (int64_t i = 0; i < block->rows; i++)
            add_bias(call, block->batch, block->head, block->first + i, block->begin, block->n,
                     work->scores + i * work->stride);
}

/* Asks memory for a row that will be read, or written, some time later. */
INLINE void fetch(Tensor t, int64_t batch, int64_t head, int64_t row, int64_t width, const int write) {
    const char *first = (const char *)t.data + offset_of(t, batch, head, row) * size_of(t);
    for (int64_t at = 0; at < width * size_of(t); at += 64) {
        if (write) __builtin_prefetch(first + at, 1, 2);  /* constants, as clang asks for */
        else __builtin_prefetch(first + at, 0, 2);
    }
}

/* With each row of a block, what its head will write and the next will read: packing all rows of a head at
 * once would wait for memory, which is idle meanwhile. */
INLINE void look_ahead(const Call *call, const Work *work, const Block *block, int64_t i, const int backward) {
    const int64_t row = block->first + i, groups = call->heads / call->key_heads;
    fetch(backward ? call->grad_query : call->out, block->batch, block->head, row, call->width, 1);
    if (backward && row < call->key_len) {
        fetch(call->grad_key, block->batch, block->head / groups, row, call->width, 1);
        fetch(call->grad_value, block->batch, block->head / groups, row, call->width, 1);
    }
    if (work->next_batch < 0) return;
    fetch(call->query, work->next_batch, work->next_head, row, call->width, 0);
    if (backward) fetch(call->grad_out, work->next_batch, work->next_head, row, call->width, 0);
    if (row < call->key_len) {
        fetch(call->key, work->next_batch, work->next_head / groups, row, call->width, 0);
        fetch(call->value, work->next_batch, work->next_head / groups, row, call->width, 0);
    }
}

/* The live keys of a row into work, unless they are those of the row before. */
INLINE void find_live(const Call *call, Work *work, const Block *block, int64_t i) {
    if (i == 0 || call->causal || call->allowed.row)
        work->live = live_keys(call, block->batch, block->head, block->first + i, block->begin, block->n,
                               work->room_for_live);
}

INLINE float weigh_row(const Call *call, Work *work, const Block *block, int64_t i, const int variant) {
    const int64_t row = row_number(call, block, i), n = round_up(block->n, STEP);
    float *x = work->scores + i * work->stride, *sum = call->inverse_sum + row, peak;
    const int32_t *live = work->live;
    const Dropout dropout = dropout_of(call, row, block->begin);
    float divisor;
    if (call->dropout > 0)
        divisor = live ? weigh(call, x, live, n, &dropout, variant, sum, &peak)
                       : weigh(call, x, NULL, n, &dropout, variant, sum, &peak);
    else
        divisor = live ? weigh(call, x, live, n, NULL, variant, sum, &peak)
                       : weigh(call, x, NULL, n, NULL, variant, sum, &peak);
    if (!work->pairs) return divisor;
    /* To 1 where the score is greatest, which is rounded to itself as in softmax. */
    narrow(x, block->n, 1 / peak);
    return divisor * peak;
}

/* Words of a row of weights. */
INLINE int64_t keys_of(const Work *work, const Block *block) {
    return work->pairs ? (block->n + 1) / 2 : block->n;
}

/* Scores of a block -> weights without their divisors. */
static void weigh_rows(const Call *call, Work *work, const Block *block, float *divisor) {
    for (int64_t i = 0; i < block->rows; i++) {
        look_ahead(call, work, block, i, 0);
        find_live(call, work, block, i);
        switch (call->variant) {
        case SELF_ADJUST: divisor[i] = weigh_row(call, work, block, i, SELF_ADJUST); break;
        case RAW: divisor[i] = weigh_row(call, work, block, i, RAW); break;
        default: divisor[i] = weigh_row(call, work, block, i, SOFTMAX);
        }
    }
}

static void write_queries(const Call *call, const Work *work, const Block *block, const float *divisor) {
    for (int64_t i = 0; i < block->rows; i++) {
        const int64_t row = offset_of(call->out, block->batch, block->head, block->first + i);
        store(call->out, row, call->width, divisor[i], work->out + i * work->width);
    }
}

static void forward_block(const Call *call, Work *work, const Block *block) {
    float divisor[MOST_ROWS];
    block_scores(call, work, block);
    weigh_rows(call, work, block, divisor);
    const int64_t offset = (block->begin - work->begin) * depth_of(work);
    product(work->scores, work->stride, work->value_rows + offset, work->width, round_up(block->rows, ROWS),
            keys_of(work, block), work->out, work->pairs);
    write_queries(call, work, block, divisor);
}

INLINE void differentiate_row(const Call *call, Work *work, const Block *block, int64_t i, const int variant) {
    const int64_t row = row_number(call, block, i), n = round_up(block->n, STEP);
    float *x = work->scores + i * work->stride, *da = work->grads + i * work->stride;
    float *p = work->row, *product = work->row + work->stride;
    const int32_t *live = work->live;
    const float sum = call->inverse_sum[row];
    const Dropout dropout = dropout_of(call, row, block->begin);
    if (call->dropout > 0) {
        if (live) differentiate(call, x, da, p, product, live, n, &dropout, variant, sum);
        else differentiate(call, x, da, p, product, NULL, n, &dropout, variant, sum);
    } else {
        if (live) differentiate(call, x, da, p, product, live, n, NULL, variant, sum);
        else differentiate(call, x, da, p, product, NULL, n, NULL, variant, sum);
    }
}

/* Weights and dx of one row and of the next -> bfloat16: pairs across rows of weights in the place of the one,
 * of dx in that of the other, and in their own place pairs of neighbors of dx. */
static void narrow_rows(const Work *work, const Block *block) {
    for (int64_t i = 0; i < block->rows; i += 2) {
        float *x = work->scores + i * work->stride, *dx = work->grads + i * work->stride;
        float *next_x = x + work->stride, *next_dx = dx + work->stride;
        if (i + 1 == block->rows) {
            memset(next_x, 0, sizeof(float) * round_up(block->n, PANEL));
            memset(next_dx, 0, sizeof(float) * round_up(block->n, PANEL));
        }
        narrow_across(x, next_x, block->n, x);
        narrow_across(dx, next_dx, block->n, next_x);
        narrow(dx, block->n, 1);
        narrow(next_dx, block->n, 1);
    }
}

static void backward_block(const Call *call, Work *work, const Block *block) {
    const int64_t padded = round_up(block->rows, ROWS), offset = (block->begin - work->begin) * work->width;
    const int64_t depth = depth_of(work), word_offset = (block->begin - work->begin) * depth;
    block_scores(call, work, block);
    pack_queries(call, work, block, call->grad_out, 1, work->grad_out);
    product_with_panels(work->grad_out, depth, work->value_panels + word_offset, padded, block->n, work->grads,
                        work->stride, work->pairs, 1);
    for (int64_t i = 0; i < block->rows; i++) {
        look_ahead(call, work, block, i, 1);
        find_live(call, work, block, i);
        switch (call->variant) {
        case SELF_ADJUST: differentiate_row(call, work, block, i, SELF_ADJUST); break;
        case RAW: differentiate_row(call, work, block, i, RAW); break;
        default: differentiate_row(call, work, block, i, SOFTMAX);
        }
        if (call->grad_by_distance)
            add_to_distances(call, block->batch, block->head, block->first + i, block->begin, block->n,
                             work->grads + i * work->stride);
    }
    if (work->pairs) {
        narrow_rows(work, block);
        add_transposed_product(work->scores, 2 * work->stride, across(work, work->grad_out, padded),
                               work->width, (block->rows + 1) / 2, block->n, work->grad_value + offset, 1);
        add_transposed_product(work->scores + work->stride, 2 * work->stride,
                               across(work, work->query, padded), work->width, (block->rows + 1) / 2, block->n,
                               work->grad_key + offset, 1);
    } else {
        add_transposed_product(work->scores, work->stride, work->grad_out, work->width, block->rows, block->n,
                               work->grad_value + offset, 0);
        add_transposed_product(work->grads, work->stride, work->query, work->width, block->rows, block->n,
                               work->grad_key + offset, 0);
    }
    product(work->grads, work->stride, work->key_rows + word_offset, work->width, padded,
            keys_of(work, block), work->out, work->pairs);
    for (int64_t i = 0; i < block->rows; i++) {
        const int64_t row = offset_of(call->grad_query, block->batch, block->head, block->first + i);
        store(call->grad_query, row, call->width, call->scaling, work->out + i * work->width);
    }
}

/* ---- tasks --------------------------------------------------------------------------------------------- */

/* So many queries that their scores stay in the cache. */
static int64_t block_rows(const Call *call, int64_t buffers) {
    const int64_t fit = SCORES / buffers / larger(call->key_len, 1) / ROWS * ROWS;
    return larger(ROWS, smaller(MOST_ROWS, fit));
}

/* In narrower heads most of a query's gradient may cancel, and there the rounding of dx shows: up to half of it
 * at a width of 1, no more than in torch's own kernel from 8 on. */
enum { NARROWEST_PAIRED = 16 };

INLINE int is_paired(const Call *call) {
    return PAIRS && call->width >= NARROWEST_PAIRED && call->query.type == BFLOAT16
           && call->key.type == BFLOAT16 && call->value.type == BFLOAT16;
}

/* One allocation for all buffers of a thread; NULL where memory is out. */
static float *new_work(const Call *call, int64_t rows, int backward, Work *work) {
    const int64_t keys = round_up(call->key_len, PANEL) + PANEL;
    const int64_t width = round_up(call->width, is_paired(call) ? PANEL : LANES);
    const int64_t stride = keys + LANES;  /* not a power of two: rows would share cache sets */
    const int64_t packs = backward ? 5 : 2, blocks = backward ? 2 : 1;
    float *memory = NULL;
    const size_t floats = packs * keys * width + (blocks * rows + 2) * stride + 3 * rows * width + keys;
    if (posix_memalign((void **)&memory, 64, floats * sizeof(float))) return NULL;
    float *next = memory;
    *work = (Work){.width = width, .stride = stride, .pairs = is_paired(call)};
    work->key_panels = next, next += keys * width;
    if (backward) {
        work->value_panels = next, next += keys * width;
        work->key_rows = next, next += keys * width;
        work->grad_key = next, next += keys * width;
        work->grad_value = next, next += keys * width;
        work->value_rows = work->grad_value;  /* needed only until the panels are packed */
    } else {
        work->value_rows = next, next += keys * width;
        work->key_rows = work->value_rows;
    }
    work->scores = next, next += rows * stride;
    if (backward) work->grads = next, next += rows * stride;
    work->row = next, next += 2 * stride;
    work->query = next, next += rows * width;
    work->grad_out = next, next += rows * width;
    work->out = next, next += rows * width;
    work->room_for_live = (int32_t *)next;
    return memory;
}

static void pack(const Call *call, Work *work, int64_t batch, int64_t head, int64_t begin, int64_t end,
                 int backward) {
    const int64_t key_head = head / (call->heads / call->key_heads), n = end - begin, depth = depth_of(work);
    work->begin = begin, work->end = end;
    if (work->pairs) {
        float *rows = work->value_rows + round_up(n, PANEL) * depth;
        copy_rows(call->key, batch, key_head, begin, end, call->width, work->width, rows);
        pack_panels(rows, n, depth, work->key_panels);
        if (backward) pair_rows(rows, n, work->width, work->key_rows);
        copy_rows(call->value, batch, key_head, begin, end, call->width, work->width, rows);
        if (backward) pack_panels(rows, n, depth, work->value_panels);
        else pair_rows(rows, n, work->width, work->value_rows);
        return;
    }
    pack_rows(call->key, batch, key_head, begin, end, call->width, work->width, 1, work->key_rows);
    pack_panels(work->key_rows, n, work->width, work->key_panels);
    pack_rows(call->value, batch, key_head, begin, end, call->width, work->width, 1, work->value_rows);
    if (backward) pack_panels(work->value_rows, n, work->width, work->value_panels);
}

static int64_t forward_chunks(const Call *call) {
    return (call->query_len + FORWARD_QUERIES - 1) / FORWARD_QUERIES;
}

static void forward_task(const Call *call, Work *work, int64_t rows, int64_t batch, int64_t head,
                         int64_t first) {
    const int64_t last = smaller(first + FORWARD_QUERIES, call->query_len);
    int64_t begin, end;
    visible(call, batch, head, first, last, &begin, &end);
    pack(call, work, batch, head, begin, end, 0);
    for (int64_t i = first; i < last; i += rows) {
        const Block block = block_of(call, work, batch, head, i, smaller(rows, last - i));
        forward_block(call, work, &block);
    }
}

static void write_rows(Tensor t, int64_t batch, int64_t head, int64_t n, const Work *work, int64_t width,
                       float factor, const float *packed) {
    for (int64_t i = 0; i < n; i++) {
        const int64_t row = offset_of(t, batch, head, i);
        if (i >= work->begin && i < work->end)
            store(t, row, width, factor, packed + (i - work->begin) * work->width);
        else
            memset((char *)t.data + row * size_of(t), 0, width * size_of(t));
    }
}

static void backward_task(const Call *call, Work *work, int64_t rows, int64_t batch, int64_t key_head) {
    const int64_t groups = call->heads / call->key_heads, first = key_head * groups;
    int64_t begin = call->key_len, end = 0;
    for (int64_t head = first; head < first + groups; head++) {
        int64_t a, b;
        visible(call, batch, head, 0, call->query_len, &a, &b);
        if (b > a) begin = smaller(begin, a), end = larger(end, b);
    }
    begin = smaller(begin, end);
    pack(call, work, batch, first, begin, end, 1);
    const size_t floats = (end - begin + PANEL) * work->width;
    memset(work->grad_key, 0, floats * sizeof(float));
    memset(work->grad_value, 0, floats * sizeof(float));
    for (int64_t head = first; head < first + groups; head++)
        for (int64_t i = 0; i < call->query_len; i += rows) {
            const Block block = block_of(call, work, batch, head, i, smaller(rows, call->query_len - i));
            backward_block(call, work, &block);
        }
    write_rows(call->grad_key, batch, key_head, call->key_len, work, call->width,
               work->pairs ? call->scaling : 1, work->grad_key);  /* else the queries are scaled already */
    write_rows(call->grad_value, batch, key_head, call->key_len, work, call->width, 1, work->grad_value);
}

/* The head that a thread will probably compute after a task of some head, where that is another one. */
static void set_next(const Call *call, Work *work, int64_t head, int64_t next) {
    const int is_another = next != head && next < call->batch * call->heads;
    work->next_batch = is_another ? next / call->heads : -1;
    work->next_head = next % call->heads;
}

static void forward_worker(void *shared) {
    Job *job = shared;
    const Call *call = job->call;
    const int64_t rows = block_rows(call, 1), chunks = forward_chunks(call);
    Work work;
    float *memory = new_work(call, rows, 0, &work);
    if (!memory) fail(job);
    for (int64_t task; memory && (task = next_task(job)) < job->tasks;) {
        const int64_t head = task / chunks;
        set_next(call, &work, head, (task + call->threads) / chunks);
        forward_task(call, &work, rows, head / call->heads, head % call->heads,
                     task % chunks * FORWARD_QUERIES);
    }
    free(memory);
}

static void backward_worker(void *shared) {
    Job *job = shared;
    const Call *call = job->call;
    const int64_t rows = block_rows(call, 2), groups = call->heads / call->key_heads;
    Work work;
    float *memory = new_work(call, rows, 1, &work);
    if (!memory) fail(job);
    for (int64_t task; memory && (task = next_task(job)) < job->tasks;) {
        set_next(call, &work, task * groups, (task + call->threads) * groups);
        backward_task(call, &work, rows, task / call->key_heads, task % call->key_heads);
    }
    free(memory);
}

/* ---- few queries --------------------------------------------------------------------------------------- */

/* So many at most, as in steps of generation: packing would take longer than the products. Keys and values are
 * read where they are, in runs of rows; what is not whole vectors of floats is packed a run at a time. */
enum { FEW = 4, RUN = 2 * LANES };

/* One allocation for the buffers of a thread; NULL where memory is out. */
static float *new_work_for_few(const Call *call, Work *work) {
    const int64_t width = round_up(call->width, LANES), stride = round_up(call->key_len, STEP) + STEP;
    const int64_t rows = call->query_len;
    float *memory = NULL;
    if (posix_memalign((void **)&memory, 64, sizeof(float) * ((RUN + 2 * rows) * width + (rows + 1) * stride)))
        return NULL;
    *work = (Work){.width = width, .stride = stride, .next_batch = -1};
    float *next = memory;
    work->key_rows = work->value_rows = next, next += RUN * width;
    work->query = next, next += rows * width;
    work->out = next, next += rows * width;
    work->scores = next, next += rows * stride;
    work->room_for_live = (int32_t *)next;
    return memory;
}

/* The first of count rows, stride floats apart, of a key head: in place or packed into room. Of a whole run all
 * rows can be read, whatever their count. */
static const float *run_of_rows(const Call *call, Tensor t, const Block *block, int64_t first, int64_t count,
                                int64_t padded, float *room, int64_t *stride) {
    const int64_t key_head = block->head / (call->heads / call->key_heads), end = block->begin + block->n;
    for (int64_t i = first + RUN; i < smaller(first + 2 * RUN, end); i++)
        fetch(t, block->batch, key_head, i, call->width, 0);
    *stride = t.row;
    if (t.type == FLOAT32 && call->width == padded && count == RUN)
        return (const float *)t.data + offset_of(t, block->batch, key_head, first);
    *stride = padded;
    pack_rows(t, block->batch, key_head, first, first + count, call->width, padded, 1, room);
    return room;
}

/* Scores of LANES keys at a time: products lane by lane, and the sums over lanes by transposing. */
static void scores_of_few(const Call *call, Work *work, const Block *block) {
    pack_rows(call->query, block->batch, block->head, 0, block->rows, call->width, work->width, call->scaling,
              work->query);
    for (int64_t j = 0; j < block->n; j += RUN) {
        int64_t stride;
        const float *keys = run_of_rows(call, call->key, block, block->begin + j, smaller(RUN, block->n - j),
                                        work->width, work->key_rows, &stride);
        for (int64_t part = j; part < smaller(j + RUN, block->n); part += LANES, keys += LANES * stride)
            for (int64_t i = 0; i < block->rows; i++) {
                const float *query = work->query + i * work->width;
                vec sums[LANES];
#pragma GCC unroll 16
                for (int r = 0; r < LANES; r++) sums[r] = (vec){0};
                for (int64_t d = 0; d < work->width; d += LANES) {
                    const vec part_of_query = *(const unaligned_vec *)(query + d);
#pragma GCC unroll 16
                    for (int r = 0; r < LANES; r++)
                        sums[r] += part_of_query * *(const unaligned_vec *)(keys + r * stride + d);
                }
                transpose(sums);
#pragma GCC unroll 16
                for (int r = 1; r < LANES; r++) sums[0] += sums[r];
                *(unaligned_vec *)(work->scores + i * work->stride + part) = sums[0];
            }
    }
    if (call->bias.data)
        for (int64_t i = 0; i < block->rows; i++)
            add_bias(call, block->batch, block->head, i, block->begin, block->n,
                     work->scores + i * work->stride);
}

/* out (1, width) += weights (1, count) values (count, width). */
static void add_values(const float *weights, const float *values, int64_t stride, int64_t count, int64_t width,
                       float *out) {
    for (int64_t d = 0; d < width; d += WIDEST * LANES)
        switch (smaller(WIDEST, (width - d) / LANES)) {
        case 1: tile(weights, 0, 1, values + d, stride, count, out + d, 0, 1, 0, 1, 1, 1); break;
        case 2: tile(weights, 0, 1, values + d, stride, count, out + d, 0, 1, 0, 1, 1, 2); break;
        case 3: tile(weights, 0, 1, values + d, stride, count, out + d, 0, 1, 0, 1, 1, 3); break;
        default: tile(weights, 0, 1, values + d, stride, count, out + d, 0, 1, 0, 1, 1, WIDEST);
        }
}

static void forward_few(const Call *call, Work *work, int64_t batch, int64_t head) {
    float divisor[FEW];
    Block block = {.batch = batch, .head = head, .rows = call->query_len};
    int64_t end;
    visible(call, batch, head, 0, call->query_len, &block.begin, &end);
    block.n = end - block.begin;
    scores_of_few(call, work, &block);
    weigh_rows(call, work, &block, divisor);
    memset(work->out, 0, sizeof(float) * block.rows * work->width);
    for (int64_t j = 0; j < block.n; j += RUN) {
        const int64_t count = smaller(RUN, block.n - j);
        int64_t stride;
        const float *values = run_of_rows(call, call->value, &block, block.begin + j, count, work->width,
                                          work->value_rows, &stride);
        for (int64_t i = 0; i < block.rows; i++)
            add_values(work->scores + i * work->stride + j, values, stride, count, work->width,
                       work->out + i * work->width);
    }
    write_queries(call, work, &block, divisor);
}

static void worker_for_few(void *shared) {
    Job *job = shared;
    const Call *call = job->call;
    Work work;
    float *memory = new_work_for_few(call, &work);
    if (!memory) fail(job);
    for (int64_t task; memory && (task = next_task(job)) < job->tasks;)
        forward_few(call, &work, task / call->heads, task % call->heads);
    free(memory);
}

/* Fills out and inverse_sum. Returns 0, or 1 where memory is out. */
int attention_forward(const Call *call) {
    Job few = {.call = call, .worker = worker_for_few, .tasks = call->batch * call->heads};
    if (call->query_len <= FEW) return run_job(&few, call->threads, (int)call->forked);
    Job job = {.call = call, .worker = forward_worker, .tasks = call->batch * call->heads * forward_chunks(call)};
    return run_job(&job, call->threads, (int)call->forked);
}

/* Fills grad_query, grad_key and grad_value. Returns 0, or 1 where memory is out. */
int attention_backward(const Call *call) {
    Job job = {.call = call, .worker = backward_worker, .tasks = call->batch * call->key_heads};
    return run_job(&job, call->threads, (int)call->forked);
}

/* ---- the machine's peak -------------------------------------------------------------------------------- */

#if defined(__AVX512F__) || defined(__aarch64__)
enum { CHAINS = 24 };  /* sums that do not wait for each other; all stay in registers */
#else
enum { CHAINS = 12 };
#endif
static volatile float peak_factor = 0.9999f, peak_sum;  /* volatile, or the compiler would leave the sums out */

static void peak_worker(void *shared) {
    Job *job = shared;
    const int64_t rounds = *(const int64_t *)job->call;
    const vec factor = peak_factor - (vec){0};
    while (next_task(job) < job->tasks) {
        vec sum[CHAINS];
        for (int c = 0; c < CHAINS; c++) sum[c] = (vec){0} + (float)c;
        for (int64_t round = 0; round < rounds; round++)
#pragma GCC unroll 24
            for (int c = 0; c < CHAINS; c++) sum[c] = sum[c] * factor + factor;
        for (int c = 1; c < CHAINS; c++) sum[0] += sum[c];
        peak_sum = sum[0][0];
    }
}

/* Multiplies and adds in registers alone, rounds times on each of some threads: as fast as this processor can
 * by the flags that the kernel itself is compiled with. Returns the operations done, an addition and a
 * multiplication counted as one each. */
int64_t peak_operations(int64_t rounds, int64_t threads) {
    Job job = {.call = &rounds, .worker = peak_worker, .tasks = threads};
    run_job(&job, threads, 0);
    return 2 * rounds * CHAINS * LANES * threads;
}
