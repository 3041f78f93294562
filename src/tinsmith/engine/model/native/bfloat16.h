// What is computed with where a model's weights are bfloat16, see `float32.h`: the upper half of a float.
//
// Between operations numbers are floats whose lower half is zero. The decoding step's products take two features in one
// word, as the processor's tiles do.

#ifndef TINSMITH_BFLOAT16_H
#define TINSMITH_BFLOAT16_H

#include <immintrin.h>

#include "vectors.h"

typedef uint16_t number;
typedef uint32_t operand __attribute__((may_alias));
#define PACKED 2

static inline vec load_numbers(const number *place)
{
    return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)place)), 16);
}

static inline void store_numbers(number *place, vec value)
{
    _mm256_storeu_si256((void *)place, (__m256i)_mm512_cvtneps_pbh((__m512)value));
}

// The numbers from a place on, zeros behind the last of them.
static inline __mmask16 first_numbers(int64_t count) { return count >= LANES ? 0xffff : (__mmask16)((1u << count) - 1); }

static inline vec take(const number *place, int64_t count)
{
    return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first_numbers(count), place)), 16);
}

static inline void keep(number *place, int64_t count, vec value)
{
    _mm256_mask_storeu_epi16(place, first_numbers(count), (__m256i)_mm512_cvtneps_pbh((__m512)value));
}

// e^x of x <= 0 to some five digits, bit by bit as in torch's kernel (ATen/native/cpu/FlashAttentionKernel.cpp):
// x·log2(e), less a cubic that stands for the difference between 1 + f and 2^f of its fraction f, read as the bits of a
// float (Malossi et al. 2015, "Fast Exponential Computation on SIMD Architectures").
static inline vec power_of_score(vec x)
{
    const __m512 powers = _mm512_mul_ps((__m512)x, _mm512_set1_ps(1.44269504f));
    const __m512 fraction = _mm512_sub_ps(powers, _mm512_floor_ps(powers));
    __m512 less = _mm512_fmadd_ps(fraction, _mm512_set1_ps(-0.079204240219773236f),
                                  _mm512_set1_ps(-0.22433836478672356f));
    less = _mm512_fmadd_ps(fraction, less, _mm512_set1_ps(0.30354260500649682f));
    less = _mm512_fmadd_ps(fraction, less, _mm512_set1_ps(0.00010703434948458272f));
    const __m512 bits = _mm512_fmadd_ps(_mm512_sub_ps(powers, less), _mm512_set1_ps(8388608.0f),
                                        _mm512_set1_ps(8388608.0f * 127.0f));
    const __mmask16 none = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-87.33655f), _CMP_LT_OS);
    const __m512i power = _mm512_mask_mov_epi32(_mm512_cvttps_epi32(bits), none, _mm512_setzero_si512());
    const __mmask16 nan = _mm512_cmp_ps_mask((__m512)x, (__m512)x, _CMP_UNORD_Q);
    return (vec)_mm512_mask_mov_ps((__m512)power, nan, (__m512)x);
}

// Keys whose scores are computed before their values are read, as many as in that kernel: what is rounded depends on the
// largest score among them and those before.
#define KEYS_AT_ONCE 512

// A square of LANES rows of words, the rows of which become columns; only so many of them are written.
static inline void transpose(const void *from, int64_t from_stride, void *to, int64_t to_stride, int64_t written)
{
    __m512i a[LANES], b[LANES];
    for (int i = 0; i < LANES; i++) a[i] = _mm512_loadu_si512((const uint32_t *)from + i * from_stride);
    // Squares of four within each quarter of a register, then the quarters.
    for (int i = 0; i < LANES; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4)
        for (int j = 0; j < 2; j++) {
            a[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + j + 2]);
            a[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + j + 2]);
        }
    for (int j = 0; j < 4; j++)
        for (int i = 0; i < LANES; i += 8) {
            b[i + j] = _mm512_shuffle_i32x4(a[i + j], a[i + j + 4], 0x88);
            b[i + j + 4] = _mm512_shuffle_i32x4(a[i + j], a[i + j + 4], 0xdd);
        }
    for (int j = 0; j < 4; j++) {
        a[j] = _mm512_shuffle_i32x4(b[j], b[j + 8], 0x88);
        a[j + 8] = _mm512_shuffle_i32x4(b[j], b[j + 8], 0xdd);
        a[j + 4] = _mm512_shuffle_i32x4(b[j + 4], b[j + 12], 0x88);
        a[j + 12] = _mm512_shuffle_i32x4(b[j + 4], b[j + 12], 0xdd);
    }
    for (int i = 0; i < LANES && i < written; i++) _mm512_storeu_si512((uint32_t *)to + i * to_stride, a[i]);
}

// Rounded to bfloat16, to the even one of two that are as near.
static inline __m512i words_of(vec value)
{
    return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)value));
}

static inline vec rounded(vec value) { return (vec)_mm512_slli_epi32(words_of(value), 16); }

static inline float to_float(number value)
{
    const uint32_t bits = (uint32_t)value << 16;
    float whole;
    memcpy(&whole, &bits, sizeof whole);
    return whole;
}

static inline number to_number(float value)
{
    return (number)_mm_cvtsi128_si32((__m128i)_mm_cvtneps_pbh(_mm_set_ss(value)));
}

static inline void put(operand *place, int64_t stride, vec first, vec second)
{
    (void)stride;
    _mm512_storeu_si512(place, _mm512_or_si512(words_of(first), (__m512i)rounded(second)));
}

// The same of n features in the place where they are.
static inline const operand *pack(vec *own, int64_t n)
{
    operand *packed = (operand *)own;
    for (int64_t i = 0; i < n; i += 2) put(packed + i / 2 * LANES, LANES, own[i], own[i + 1]);
    return packed;
}

#endif
