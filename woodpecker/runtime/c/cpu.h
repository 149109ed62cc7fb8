/* Which CPU features this machine has, as far as compiled code may need them: by LLVM's names, the same as in
 * woodpecker/runtime/machine.py. Runs on every CPU of the architecture.
 */
#ifndef WP_CPU_H
#define WP_CPU_H

#include <stdint.h>
#include <string.h>

/* Whether a list of features, separated by commas, holds one more; it is cut off the list. */
static int wp_next_feature(const char** list, const char** name, size_t* length) {
  if (!**list) return 0;
  const char* comma = strchr(*list, ',');
  *name = *list;
  *length = comma ? (size_t)(comma - *list) : strlen(*list);
  *list += *length + (comma ? 1 : 0);
  return 1;
}

#if defined(__x86_64__) || defined(__i386__)

#include <cpuid.h>

enum { WP_EAX, WP_EBX, WP_ECX, WP_EDX };
/* The registers that the operating system must save, by their bits of XCR0. */
enum { WP_NO_STATE = 0, WP_AVX = 0x6, WP_AVX512 = 0xe6, WP_APX = 0x80000 };

/* Intel's and AMD's manuals, CPUID: leaf, subleaf, register, bit. */
static const struct {
  char name[16]; /* no pointers, which the dynamic linker would have to relocate */
  uint32_t leaf;
  uint8_t subleaf, reg, bit;
  uint32_t state;
} wp_features[] = {
    {"sse3", 1, 0, WP_ECX, 0, WP_NO_STATE},
    {"ssse3", 1, 0, WP_ECX, 9, WP_NO_STATE},
    {"sse4.1", 1, 0, WP_ECX, 19, WP_NO_STATE},
    {"sse4.2", 1, 0, WP_ECX, 20, WP_NO_STATE},
    {"popcnt", 1, 0, WP_ECX, 23, WP_NO_STATE},
    {"avx", 1, 0, WP_ECX, 28, WP_AVX},
    {"avx2", 7, 0, WP_EBX, 5, WP_AVX},
    {"fma", 1, 0, WP_ECX, 12, WP_AVX},
    {"f16c", 1, 0, WP_ECX, 29, WP_AVX},
    {"bmi", 7, 0, WP_EBX, 3, WP_NO_STATE},
    {"bmi2", 7, 0, WP_EBX, 8, WP_NO_STATE},
    {"lzcnt", 0x80000001, 0, WP_ECX, 5, WP_NO_STATE},
    {"movbe", 1, 0, WP_ECX, 22, WP_NO_STATE},
    {"avx512f", 7, 0, WP_EBX, 16, WP_AVX512},
    {"avx512bw", 7, 0, WP_EBX, 30, WP_AVX512},
    {"avx512cd", 7, 0, WP_EBX, 28, WP_AVX512},
    {"avx512dq", 7, 0, WP_EBX, 17, WP_AVX512},
    {"avx512vl", 7, 0, WP_EBX, 31, WP_AVX512},
    {"avx512vbmi", 7, 0, WP_ECX, 1, WP_AVX512},
    {"avx512vbmi2", 7, 0, WP_ECX, 6, WP_AVX512},
    {"avx512vnni", 7, 0, WP_ECX, 11, WP_AVX512},
    {"avx512bitalg", 7, 0, WP_ECX, 12, WP_AVX512},
    {"avx512vpopcntdq", 7, 0, WP_ECX, 14, WP_AVX512},
    {"avx512ifma", 7, 0, WP_EBX, 21, WP_AVX512},
    {"avx512bf16", 7, 1, WP_EAX, 5, WP_AVX512},
    {"avx512fp16", 7, 0, WP_EDX, 23, WP_AVX512},
    {"avxvnni", 7, 1, WP_EAX, 4, WP_AVX},
    {"gfni", 7, 0, WP_ECX, 8, WP_NO_STATE},
    {"vaes", 7, 0, WP_ECX, 9, WP_AVX},
    {"vpclmulqdq", 7, 0, WP_ECX, 10, WP_AVX},
    {"adx", 7, 0, WP_EBX, 19, WP_NO_STATE},
    {"sse4a", 0x80000001, 0, WP_ECX, 6, WP_NO_STATE},
    {"xop", 0x80000001, 0, WP_ECX, 11, WP_AVX},
    {"fma4", 0x80000001, 0, WP_ECX, 16, WP_AVX},
    {"tbm", 0x80000001, 0, WP_ECX, 21, WP_NO_STATE},
    {"avxifma", 7, 1, WP_EAX, 23, WP_AVX},
    {"avxneconvert", 7, 1, WP_EDX, 5, WP_AVX},
    {"avxvnniint8", 7, 1, WP_EDX, 4, WP_AVX},
    {"avxvnniint16", 7, 1, WP_EDX, 10, WP_AVX},
    {"avx10.2", 0x24, 0, WP_EBX, 1, WP_AVX512}, /* the low byte is the version, and 2 the last one: see below */
    {"egpr", 7, 1, WP_EDX, 21, WP_APX},
    {"ndd", 7, 1, WP_EDX, 21, WP_APX},
    {"nf", 7, 1, WP_EDX, 21, WP_APX},
    {"ccmp", 7, 1, WP_EDX, 21, WP_APX},
    {"cf", 7, 1, WP_EDX, 21, WP_APX},
    {"zu", 7, 1, WP_EDX, 21, WP_APX},
    {"ppx", 7, 1, WP_EDX, 21, WP_APX},
    {"push2pop2", 7, 1, WP_EDX, 21, WP_APX},
};

static uint32_t wp_saved_state(void) {
  uint32_t registers[4];
  __cpuid(1, registers[0], registers[1], registers[2], registers[3]);
  if (!(registers[WP_ECX] >> 27 & 1)) return 0; /* OSXSAVE */
  uint32_t low, high;
  __asm__ volatile(".byte 0x0f, 0x01, 0xd0" : "=a"(low), "=d"(high) : "c"(0)); /* xgetbv */
  return low;
}

static int wp_has_feature(const char* name, size_t length) {
  for (size_t i = 0; i < sizeof wp_features / sizeof *wp_features; i++) {
    if (strlen(wp_features[i].name) != length || memcmp(wp_features[i].name, name, length)) continue;
    uint32_t registers[4], state = wp_features[i].state;
    if (!__get_cpuid_count(wp_features[i].leaf, wp_features[i].subleaf, &registers[0], &registers[1], &registers[2],
                           &registers[3]))
      return 0;
    if (state && (wp_saved_state() & state) != state) return 0;
    uint32_t found = registers[wp_features[i].reg];
    return wp_features[i].leaf == 0x24 ? (found & 0xff) >= 2 : found >> wp_features[i].bit & 1;
  }
  return 0;
}

#elif defined(__linux__) && (defined(__aarch64__) || defined(__arm__) || defined(__riscv))

#include <sys/auxv.h>

/* The kernel's arch/<arch>/include/uapi/asm/hwcap.h: an entry of the auxiliary vector, AT_HWCAP (16) or AT_HWCAP2 (26),
 * and its bit. */
static const struct {
  char name[16];
  uint8_t word, bit;
} wp_features[] = {
#if defined(__aarch64__)
    {"fp-armv8", 16, 0}, {"neon", 16, 1}, {"lse", 16, 8}, {"fullfp16", 16, 10}, {"rdm", 16, 12}, {"jsconv", 16, 13},
    {"complxnum", 16, 14}, {"rcpc", 16, 15}, {"sha3", 16, 17}, {"dotprod", 16, 20}, {"sve", 16, 22},
    {"fp16fml", 16, 23}, {"lse2", 16, 25}, {"rcpc-immo", 16, 26}, {"flagm", 16, 27}, {"sve2", 26, 1},
    {"altnzcv", 26, 7}, {"fptoint", 26, 8}, {"i8mm", 26, 13}, {"bf16", 26, 14}, {"sme", 26, 23}, {"wfxt", 26, 31},
    {"cssc", 26, 34}, {"sve2p1", 26, 36}, {"sme2", 26, 37}, {"mops", 26, 43}, {"hbc", 26, 44},
#elif defined(__arm__)
    {"neon", 16, 12}, {"vfp3d16", 16, 13}, {"vfp4d16", 16, 16}, {"hwdiv-arm", 16, 17}, {"hwdiv", 16, 18},
    {"d32", 16, 19},
#else
    {"m", 16, 12}, {"a", 16, 0}, {"f", 16, 5}, {"d", 16, 3}, {"c", 16, 2}, {"v", 16, 21},
#endif
};

static int wp_has_feature(const char* name, size_t length) {
  for (size_t i = 0; i < sizeof wp_features / sizeof *wp_features; i++)
    if (strlen(wp_features[i].name) == length && !memcmp(wp_features[i].name, name, length))
      return getauxval(wp_features[i].word) >> wp_features[i].bit & 1;
  return 0;
}

#else

/* Elsewhere nothing is known, and the level that needs least is taken. */
#define WP_UNKNOWN_CPU
static int wp_has_feature(const char* name, size_t length) {
  (void)name, (void)length;
  return 1;
}

#endif

static int wp_has_features(const char* list) {
  const char* name;
  size_t length;
  while (wp_next_feature(&list, &name, &length))
    if (!wp_has_feature(name, length)) return 0;
  return 1;
}

#endif
