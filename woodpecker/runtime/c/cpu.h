/* Which CPU features this machine has, as far as compiled code may need them: by LLVM's names, the same as in
 * woodpecker/runtime/machine.py. Runs on every CPU of the architecture.
 */
#ifndef WP_CPU_H
#define WP_CPU_H

#include <stdint.h>
#include <string.h>

/* Whether a list of features, separated by commas, holds one more; it is cut off the list. */
static int next_feature(const char** list, const char** name, size_t* length) {
  if (!**list) return 0;
  const char* comma = strchr(*list, ',');
  *name = *list;
  *length = comma ? (size_t)(comma - *list) : strlen(*list);
  *list += *length + (comma ? 1 : 0);
  return 1;
}

#if defined(__x86_64__) || defined(__i386__)

#include <cpuid.h>

enum { kEax, kEbx, kEcx, kEdx };
/* The registers that the operating system must save, by their bits of XCR0. */
enum { kNone = 0, kAvx = 0x6, kAvx512 = 0xe6, kApx = 0x80000 };

/* Intel's and AMD's manuals, CPUID: leaf, subleaf, register, bit. */
static const struct {
  char name[16]; /* no pointers, which the dynamic linker would have to relocate */
  uint32_t leaf;
  uint8_t subleaf, reg, bit;
  uint32_t state;
} kFeatures[] = {
    {"sse3", 1, 0, kEcx, 0, kNone},
    {"ssse3", 1, 0, kEcx, 9, kNone},
    {"sse4.1", 1, 0, kEcx, 19, kNone},
    {"sse4.2", 1, 0, kEcx, 20, kNone},
    {"popcnt", 1, 0, kEcx, 23, kNone},
    {"avx", 1, 0, kEcx, 28, kAvx},
    {"avx2", 7, 0, kEbx, 5, kAvx},
    {"fma", 1, 0, kEcx, 12, kAvx},
    {"f16c", 1, 0, kEcx, 29, kAvx},
    {"bmi", 7, 0, kEbx, 3, kNone},
    {"bmi2", 7, 0, kEbx, 8, kNone},
    {"lzcnt", 0x80000001, 0, kEcx, 5, kNone},
    {"movbe", 1, 0, kEcx, 22, kNone},
    {"avx512f", 7, 0, kEbx, 16, kAvx512},
    {"avx512bw", 7, 0, kEbx, 30, kAvx512},
    {"avx512cd", 7, 0, kEbx, 28, kAvx512},
    {"avx512dq", 7, 0, kEbx, 17, kAvx512},
    {"avx512vl", 7, 0, kEbx, 31, kAvx512},
    {"avx512vbmi", 7, 0, kEcx, 1, kAvx512},
    {"avx512vbmi2", 7, 0, kEcx, 6, kAvx512},
    {"avx512vnni", 7, 0, kEcx, 11, kAvx512},
    {"avx512bitalg", 7, 0, kEcx, 12, kAvx512},
    {"avx512vpopcntdq", 7, 0, kEcx, 14, kAvx512},
    {"avx512ifma", 7, 0, kEbx, 21, kAvx512},
    {"avx512bf16", 7, 1, kEax, 5, kAvx512},
    {"avx512fp16", 7, 0, kEdx, 23, kAvx512},
    {"avxvnni", 7, 1, kEax, 4, kAvx},
    {"gfni", 7, 0, kEcx, 8, kNone},
    {"vaes", 7, 0, kEcx, 9, kAvx},
    {"vpclmulqdq", 7, 0, kEcx, 10, kAvx},
    {"adx", 7, 0, kEbx, 19, kNone},
    {"sse4a", 0x80000001, 0, kEcx, 6, kNone},
    {"xop", 0x80000001, 0, kEcx, 11, kAvx},
    {"fma4", 0x80000001, 0, kEcx, 16, kAvx},
    {"tbm", 0x80000001, 0, kEcx, 21, kNone},
    {"avxifma", 7, 1, kEax, 23, kAvx},
    {"avxneconvert", 7, 1, kEdx, 5, kAvx},
    {"avxvnniint8", 7, 1, kEdx, 4, kAvx},
    {"avxvnniint16", 7, 1, kEdx, 10, kAvx},
    {"avx10.2", 0x24, 0, kEbx, 1, kAvx512}, /* the low byte is the version, and 2 the last one: see below */
    {"egpr", 7, 1, kEdx, 21, kApx},
    {"ndd", 7, 1, kEdx, 21, kApx},
    {"nf", 7, 1, kEdx, 21, kApx},
    {"ccmp", 7, 1, kEdx, 21, kApx},
    {"cf", 7, 1, kEdx, 21, kApx},
    {"zu", 7, 1, kEdx, 21, kApx},
    {"ppx", 7, 1, kEdx, 21, kApx},
    {"push2pop2", 7, 1, kEdx, 21, kApx},
};

static uint32_t saved_state(void) {
  uint32_t registers[4];
  __cpuid(1, registers[0], registers[1], registers[2], registers[3]);
  if (!(registers[kEcx] >> 27 & 1)) return 0; /* OSXSAVE */
  uint32_t low, high;
  __asm__ volatile(".byte 0x0f, 0x01, 0xd0" : "=a"(low), "=d"(high) : "c"(0)); /* xgetbv */
  return low;
}

static int has_feature(const char* name, size_t length) {
  for (size_t i = 0; i < sizeof kFeatures / sizeof *kFeatures; i++) {
    if (strlen(kFeatures[i].name) != length || memcmp(kFeatures[i].name, name, length)) continue;
    uint32_t registers[4], state = kFeatures[i].state;
    if (!__get_cpuid_count(kFeatures[i].leaf, kFeatures[i].subleaf, &registers[0], &registers[1], &registers[2],
                           &registers[3]))
      return 0;
    if (state && (saved_state() & state) != state) return 0;
    uint32_t found = registers[kFeatures[i].reg];
    return kFeatures[i].leaf == 0x24 ? (found & 0xff) >= 2 : found >> kFeatures[i].bit & 1;
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
} kFeatures[] = {
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

static int has_feature(const char* name, size_t length) {
  for (size_t i = 0; i < sizeof kFeatures / sizeof *kFeatures; i++)
    if (strlen(kFeatures[i].name) == length && !memcmp(kFeatures[i].name, name, length))
      return getauxval(kFeatures[i].word) >> kFeatures[i].bit & 1;
  return 0;
}

#else

/* Elsewhere nothing is known, and the level that needs least is taken. */
#define WP_UNKNOWN_CPU
static int has_feature(const char* name, size_t length) {
  (void)name, (void)length;
  return 1;
}

#endif

static int has_features(const char* list) {
  const char* name;
  size_t length;
  while (next_feature(&list, &name, &length))
    if (!has_feature(name, length)) return 0;
  return 1;
}

#endif
