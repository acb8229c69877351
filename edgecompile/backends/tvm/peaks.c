/* What one core can do at most, measured: multiply-accumulates a second of the instructions that the kernels are made
 * of, and bytes a second that it reads. A roofline's roof (Williams, Waterman and Patterson, "Roofline: An Insightful
 * Visual Performance Model for Multicore Architectures", 2009).
 *
 * Compiled for each variant's processor, with MEASURE for its own name, unlike driver.c, which has to run everywhere to
 * say that the model can't run here.
 */

#include <stdint.h>
#include <string.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

enum { CHAINS = 12, TURNS = 200000, ROUNDS = 5 };

#if defined(__AVX512F__)
typedef __m512 Floats;
#define LANES 16
#define MULTIPLY_ADD(sum, a, b) _mm512_fmadd_ps(a, b, sum)
#define FLOATS(x) _mm512_set1_ps(x)
#elif defined(__AVX2__)
typedef __m256 Floats;
#define LANES 8
#define MULTIPLY_ADD(sum, a, b) _mm256_fmadd_ps(a, b, sum)
#define FLOATS(x) _mm256_set1_ps(x)
#elif defined(__aarch64__)
typedef float32x4_t Floats;
#define LANES 4
#define MULTIPLY_ADD(sum, a, b) vfmaq_f32(sum, a, b)
#define FLOATS(x) vdupq_n_f32(x)
#endif

/* Products of bytes that one instruction adds to sums; without such an instruction, of 16-bit numbers. */
#if defined(__AVX512VNNI__)
typedef __m512i Integers;
#define PRODUCTS 64
#define DOT(sum, a, b) _mm512_dpbusd_epi32(sum, a, b)
#define INTEGERS(x) _mm512_set1_epi32(x)
#elif defined(__AVXVNNI__)
typedef __m256i Integers;
#define PRODUCTS 32
#define DOT(sum, a, b) _mm256_dpbusd_avx_epi32(sum, a, b)
#define INTEGERS(x) _mm256_set1_epi32(x)
#elif defined(__AVX512BW__)
typedef __m512i Integers;
#define PRODUCTS 32
#define DOT(sum, a, b) _mm512_add_epi32(sum, _mm512_madd_epi16(a, b))
#define INTEGERS(x) _mm512_set1_epi32(x)
#elif defined(__AVX2__)
typedef __m256i Integers;
#define PRODUCTS 16
#define DOT(sum, a, b) _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
#define INTEGERS(x) _mm256_set1_epi32(x)
#elif defined(__ARM_FEATURE_MATMUL_INT8)
typedef int32x4_t Integers;
#define PRODUCTS 32
#define DOT(sum, a, b) vmmlaq_s32(sum, vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b))
#define INTEGERS(x) vdupq_n_s32(x)
#elif defined(__ARM_FEATURE_DOTPROD)
typedef int32x4_t Integers;
#define PRODUCTS 16
#define DOT(sum, a, b) vdotq_s32(sum, vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b))
#define INTEGERS(x) vdupq_n_s32(x)
#elif defined(__aarch64__)
typedef int32x4_t Integers;
#define PRODUCTS 4
#define DOT(sum, a, b) vmlal_s16(sum, vreinterpret_s16_s32(vget_low_s32(a)), vreinterpret_s16_s32(vget_low_s32(b)))
#define INTEGERS(x) vdupq_n_s32(x)
#endif

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* The sums depend on values that the compiler can't know, and are given to it as used. */
#define RATE(name, type, op, make, each)                                                 \
    static double name(void) {                                                           \
        volatile int seed = 1;                                                           \
        double best = 0;                                                                 \
        for (int round = 0; round < ROUNDS; round++) {                                   \
            type sums[CHAINS], a = make(seed), b = make(seed);                           \
            for (int i = 0; i < CHAINS; i++) sums[i] = make(seed + i);                   \
            double start = now();                                                        \
            for (int turn = 0; turn < TURNS; turn++) {                                   \
                _Pragma("GCC unroll 12") for (int i = 0; i < CHAINS; i++) sums[i] = op(sums[i], a, b); \
            }                                                                            \
            __asm__ volatile("" ::"r"(sums) : "memory");                                 \
            double rate = (double)CHAINS * TURNS * each / (now() - start);               \
            if (rate > best) best = rate;                                                \
        }                                                                                \
        return best;                                                                     \
    }

RATE(floats, Floats, MULTIPLY_ADD, FLOATS, LANES)
#if !defined(__AMX_INT8__)
RATE(integers, Integers, DOT, INTEGERS, PRODUCTS)
#else
/* Products of whole tiles. */
static double integers(void) {
    enum { ROWS = 16, BYTES = 64, TILES = 8 };
    uint8_t configuration[64] = {1}, ones[ROWS * BYTES];
    double best = 0;
    for (int tile = 0; tile < TILES; tile++) {
        configuration[16 + 2 * tile] = BYTES;
        configuration[48 + tile] = ROWS;
    }
    memset(ones, 1, sizeof ones);
    _tile_loadconfig(configuration);
    _tile_loadd(6, ones, BYTES);
    _tile_loadd(7, ones, BYTES);
    for (int round = 0; round < ROUNDS; round++) {
        double start = now();
        for (int turn = 0; turn < TURNS / ROWS; turn++) {
            _tile_dpbusd(0, 6, 7);
            _tile_dpbusd(1, 6, 7);
            _tile_dpbusd(2, 6, 7);
            _tile_dpbusd(3, 6, 7);
        }
        double rate = 4.0 * (TURNS / ROWS) * ROWS * ROWS * BYTES / (now() - start);
        if (rate > best) best = rate;
    }
    _tile_release();
    return best;
}
#endif

/* `memory` is read over and over, a cache line at a time: as much as a model has stays where the model's does. */
static double reading(const uint8_t *memory, size_t bytes) {
    double best = 0;
    for (int round = 0; round < ROUNDS; round++) {
        Integers total[4];
        memset(total, 0, sizeof total);
        size_t turns = (16u << 20) / bytes + 1, step = 4 * sizeof(Integers);
        double start = now();
        for (size_t turn = 0; turn < turns; turn++) {
            for (size_t at = 0; at + step <= bytes; at += step) {
                for (int i = 0; i < 4; i++) {
                    Integers part;
                    memcpy(&part, memory + at + (size_t)i * sizeof part, sizeof part);
                    total[i] ^= part;
                }
            }
            __asm__ volatile("" ::"r"(total) : "memory");
        }
        double rate = (double)turns * (double)bytes / (now() - start);
        if (rate > best) best = rate;
    }
    return best;
}

/* found: float32 and int8 multiply-accumulates a second, bytes read a second, the best of five rounds each. */
void MEASURE(const uint8_t *memory, size_t bytes, double *found) {
    found[0] = floats();
    found[1] = integers();
    found[2] = reading(memory, bytes);
}
