/* Compiled into every artifact: the model, its C interface (woodpecker.h), and the parallel entries for tvm-ffi.
 *
 * For each entry E of the calling convention  E(X, out, scratch, model, row_begin, row_end)  a shared library exports
 * E_parallel(X, out, scratch, model, row_begin, row_end, num_tasks), where scratch holds num_tasks scratches. Rows are
 * shared out in whole row blocks, one share a task; every row is computed by one task alone, so results do not depend
 * on num_tasks.
 *
 * config.h is generated, see woodpecker/c_config.py. This file itself runs on every CPU of the architecture.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "woodpecker.h"
#include "config.h"
#include "cpu.h"
#include "ffi.h"
#include "pool.h"

#define CAT_(a, b) a##b
#define CAT(a, b) CAT_(a, b)
#define STR_(x) #x
#define STR(x) STR_(x)
#define SYMBOL(name) CAT(CAT(__tvm_ffi_, WP_PREFIX), CAT(_, name))
#define BLOB_BYTES CAT(WP_PREFIX, _blob)

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#define HIDDEN
#define BLOB_SECTION ".section .rdata,\"dr\"\n"
#define BLOB_SYMBOL STR(BLOB_BYTES)
#define BLOB_ATTRIBUTES
#elif defined(__APPLE__)
#define EXPORT __attribute__((visibility("default")))
#define HIDDEN __attribute__((visibility("hidden")))
#define BLOB_SECTION ".section __TEXT,__const\n"
#define BLOB_SYMBOL "_" STR(BLOB_BYTES)
#define BLOB_ATTRIBUTES ".private_extern " BLOB_SYMBOL "\n"
#else
#define EXPORT __attribute__((visibility("default")))
#define HIDDEN __attribute__((visibility("hidden")))
#define BLOB_SECTION ".section .rodata\n"
#define BLOB_SYMBOL STR(BLOB_BYTES)
#define BLOB_ATTRIBUTES ".hidden " BLOB_SYMBOL "\n"
#endif

#ifdef __wasm__ /* its assembler takes no data of files */
static const uint8_t BLOB_BYTES[WP_BLOB_BYTES] __attribute__((aligned(64))) = {
#embed WP_BLOB
};
#else
__asm__(BLOB_SECTION ".balign 64\n" BLOB_ATTRIBUTES ".globl " BLOB_SYMBOL "\n" BLOB_SYMBOL ":\n"
        ".incbin \"" WP_BLOB "\"\n"
        ".balign 64\n"
        ".text\n");
extern const uint8_t BLOB_BYTES[] HIDDEN;
#endif

/* TVM's code reports arguments that it refuses by TVMFFIErrorSetRaisedFromCStrParts of libtvm_ffi. The build renames
 * that symbol in its objects to this one, so that an artifact needs no libtvm_ffi, and uses it where it is there. */
typedef void SetError(const char* kind, const char** parts, int32_t num_parts);
#if defined(_WIN32)
#include <windows.h>
static SetError* ffi_set_error(void) {
  HMODULE library = GetModuleHandleA("tvm_ffi.dll");
  return library ? (SetError*)(void*)GetProcAddress(library, "TVMFFIErrorSetRaisedFromCStrParts") : 0;
}
#elif defined(__APPLE__)
#include <dlfcn.h>
static SetError* ffi_set_error(void) { return (SetError*)dlsym(RTLD_DEFAULT, "TVMFFIErrorSetRaisedFromCStrParts"); }
#elif defined(__wasm__)
static SetError* ffi_set_error(void) { return 0; }
#else
extern SetError TVMFFIErrorSetRaisedFromCStrParts __attribute__((weak));
static SetError* ffi_set_error(void) { return TVMFFIErrorSetRaisedFromCStrParts; }
#endif

HIDDEN SetError CAT(WP_PREFIX, _ffi_set_error);
void CAT(WP_PREFIX, _ffi_set_error)(const char* kind, const char** parts, int32_t num_parts) {
  SetError* set_error = ffi_set_error();
  if (set_error) set_error(kind, parts, num_parts);
}

typedef struct {
  Entry entry;
  int64_t row_block, scratch_bytes;
} Kernel;

#define DECLARE(name, suffix, row_block, scratch_bytes) extern int SYMBOL(name##suffix)(void*, const Any*, int32_t, Any*);
WP_KERNELS(DECLARE)
WP_TERMS(DECLARE)
#define ROW(name, suffix, row_block, scratch_bytes) {SYMBOL(name##suffix), row_block, scratch_bytes},
static const Kernel kKernels[] = {WP_KERNELS(ROW)}; /* WP_N_ENTRIES a level */

/* ---- The C interface ---- */

/* Elements of raw scores and of what methods return. */
typedef WP_ACC Real;
enum { kRealType = sizeof(Real) == 4 ? WP_FLOAT32 : WP_FLOAT64 };

enum { kRawF32, kRawF64, kApplyF32, kApplyF64, kLink };

/* From linked scores to a method's result, as woodpecker/runtime/outputs.py does it in Python. */
typedef enum { kValue, kBothClasses, kLabelAbove, kLabelAtLeast, kLabel, kIndicator, kOutlier } Rule;

typedef struct {
  Rule rule;
  int32_t link;         /* -1: raw scores */
  int32_t linked_width, width;
  int32_t labels;       /* how many classes the first output has */
  const int32_t* groups; /* kLabel: the columns of each output; 0: one column, of the second class */
  double number;        /* what is subtracted, or compared with */
} Method;

#define METHOD(name, rule, link, linked_width, width, labels, groups, number) \
  {rule, link, linked_width, width, labels, groups, number},
static const Method kMethods[] = {WP_METHODS(METHOD){kValue, -1, 0, 0, 0, 0, 0}};

#define METHOD_INFO(name, rule, link, linked_width, width, labels, groups, number) {name, width},
static const wp_method kMethodInfo[] = {WP_METHODS(METHOD_INFO){0, 0}};
#define LEVEL_INFO(name, features) {name, features},
static const wp_level kLevelInfo[] = {WP_LEVELS(LEVEL_INFO)};

enum {
  kLevels = sizeof kLevelInfo / sizeof *kLevelInfo,
  kNumMethods = sizeof kMethodInfo / sizeof *kMethodInfo - 1
};

static int named(const char* name, const char* wanted, size_t length) {
  return strlen(name) == length && !memcmp(name, wanted, length);
}

static int find_level(void) {
  const char* wanted = kLevels > 1 ? getenv("WOODPECKER_CPU_LEVEL") : 0;
  size_t length = 0;
  if (wanted) {
    wanted += strspn(wanted, " \t\r\n");
    length = strlen(wanted);
    while (length && strchr(" \t\r\n", wanted[length - 1])) length--;
  }
  int best = -WP_ERROR_CPU;
  for (int level = 0; level < kLevels; level++) {
    if (length && named(kLevelInfo[level].name, wanted, length))
      return has_features(kLevelInfo[level].features) ? level : -WP_ERROR_CPU_LEVEL;
    if (!has_features(kLevelInfo[level].features)) continue;
#ifdef WP_UNKNOWN_CPU
    if (best >= 0) continue;
#endif
    best = level;
  }
  return length ? -WP_ERROR_CPU_LEVEL : best;
}

static int32_t cpu_level(void) {
  static _Atomic int32_t found = kLevels; /* not looked for yet */
  int32_t level = found;
  if (level == kLevels) found = level = find_level(); /* threads find the same */
  return level;
}

static uint64_t round_up(uint64_t bytes) { return (bytes + 63) / 64 * 64; }

/* Rows of a method that are computed together: whole row blocks, enough for every kernel. */
enum { kChunk = 512 };

static int64_t chunk_rows(const Kernel* kernel) {
  return (kChunk + kernel->row_block - 1) / kernel->row_block * kernel->row_block;
}

/* A task's scratch: that of the kernels, then a chunk of raw and of linked scores. */
static uint64_t task_bytes(const Kernel* kernel) {
  uint64_t width = 0;
  for (int i = 0; i < kNumMethods; i++)
    if ((uint64_t)kMethods[i].linked_width > width) width = (uint64_t)kMethods[i].linked_width;
  uint64_t block = (uint64_t)chunk_rows(kernel) * sizeof(Real);
  uint64_t scores = kNumMethods ? round_up(block * WP_N_OUTPUTS) + round_up(block * width) : 0;
  return round_up((uint64_t)kernel->scratch_bytes) + scores;
}

static uint64_t scratch_size(int32_t threads) {
  int32_t level = cpu_level();
  if (level < 0 || threads < 1 || threads > WP_MAX_THREADS) return 0;
  return (uint64_t)threads * task_bytes(&kKernels[level * WP_N_ENTRIES]) + 63; /* for any alignment */
}

typedef struct {
  const Kernel* kernels;
  const Method* method; /* 0: raw scores or leaf ids, by the kernel `entry` */
  int32_t entry, x_type;
  const char* X;
  int64_t rows, row_stride;
  char* out;
  char* scratch;
  uint64_t task_bytes;
} Job;

/* Run an entry over `rows` rows from X to out. */
static int run_entry(const Kernel* kernel, DLDataType x_type, const void* X, int64_t rows, int64_t columns,
                     int64_t row_stride, DLDataType out_type, void* out, int64_t out_columns, void* scratch) {
  int64_t x_shape[2] = {rows, columns}, x_strides[2] = {row_stride, 1};
  int64_t out_shape[2] = {rows, out_columns}, out_strides[2] = {out_columns, 1};
  int64_t scratch_shape[1] = {kernel->scratch_bytes}, model_shape[1] = {WP_BLOB_BYTES}, one[1] = {1};
  DLDataType bytes = {kDLUInt, 8, 1};
  DLTensor tensors[4] = {
      {(void*)(uintptr_t)X, {kCpu, 0}, 2, x_type, x_shape, x_strides, 0},
      {out, {kCpu, 0}, 2, out_type, out_shape, out_strides, 0},
      {scratch, {kCpu, 0}, 1, bytes, scratch_shape, one, 0},
      {(void*)(uintptr_t)BLOB_BYTES, {kCpu, 0}, 1, bytes, model_shape, one, 0},
  };
  Any result = {0}, args[6];
  for (int i = 0; i < 4; i++) args[i] = any_tensor(&tensors[i]);
  args[4] = any_int(0);
  args[5] = any_int(rows);
  return kernel->entry(0, args, 6, &result) ? WP_ERROR_INTERNAL : WP_OK;
}

/* The largest of n scores, the first of equals, by numpy's rule: a NaN is larger than everything. */
static int32_t largest(const Real* scores, int32_t n) {
  int32_t best = 0;
  for (int32_t i = 1; i < n && scores[best] == scores[best]; i++)
    if (!(scores[i] <= scores[best])) best = i;
  return best;
}

/* The result of one row. */
static int finish(const Method* method, const Real* z, Real* out) {
  Real number = (Real)method->number;
  switch (method->rule) {
    case kValue:
      for (int32_t k = 0; k < method->width; k++) out[k] = method->number != 0 ? z[k] - number : z[k];
      break;
    case kBothClasses:
      out[0] = (Real)1 - z[0];
      out[1] = z[0];
      break;
    case kLabelAbove:
    case kLabelAtLeast:
    case kLabel:
      if (method->groups) {
        for (int32_t group = 0; group < method->width; z += method->groups[group++])
          out[group] = (Real)largest(z, method->groups[group]);
      } else {
        Real both[2] = {(Real)1 - z[0], z[0]};
        int second = method->rule == kLabelAbove     ? z[0] > number
                     : method->rule == kLabelAtLeast ? z[0] >= number
                                                     : largest(both, 2);
        if (second >= method->labels) return WP_ERROR_LABEL;
        out[0] = (Real)second;
      }
      break;
    case kIndicator:
      for (int32_t k = 0; k < method->width; k++) out[k] = z[k] > (Real)0.5;
      break;
    case kOutlier:
      for (int32_t k = 0; k < method->width; k++) out[k] = (method->number != 0 ? z[k] - number : z[k]) < 0 ? -1 : 1;
      break;
  }
  return WP_OK;
}

/* Rows of a method, a chunk at a time: raw scores, linked scores, results. */
static int run_method(const Job* job, int64_t begin, int64_t end, char* scratch) {
  const Method* method = job->method;
  const Kernel* kernel = &job->kernels[job->entry];
  int64_t chunk = chunk_rows(kernel);
  DLDataType real = {kDLFloat, 8 * sizeof(Real), 1}, x_type = {kDLFloat, job->x_type == WP_FLOAT32 ? 32 : 64, 1};
  Real* raw = (Real*)(void*)(scratch + round_up((uint64_t)kernel->scratch_bytes));
  Real* linked = raw;
  if (method->link >= 0)
    linked = (Real*)(void*)((char*)raw + round_up((uint64_t)chunk * sizeof(Real) * WP_N_OUTPUTS));
  for (int64_t first = begin; first < end; first += chunk) {
    int64_t rows = end - first < chunk ? end - first : chunk;
    const char* X = job->X + (size_t)first * (size_t)job->row_stride * (x_type.bits / 8u);
    int failed = run_entry(kernel, x_type, X, rows, WP_N_FEATURES, job->row_stride, real, raw, WP_N_OUTPUTS, scratch);
    if (!failed && method->link >= 0)
      failed = run_entry(&job->kernels[kLink + method->link], real, raw, rows, WP_N_OUTPUTS, WP_N_OUTPUTS, real, linked,
                         method->linked_width, scratch);
    Real* out = (Real*)(void*)job->out + first * method->width;
    for (int64_t row = 0; row < rows && !failed; row++)
      failed = finish(method, linked + row * method->linked_width, out + row * method->width);
    if (failed) return failed;
  }
  return WP_OK;
}

static int run_job(const void* data, int task, int tasks) {
  const Job* job = data;
  const Kernel* kernel = &job->kernels[job->entry];
  int64_t blocks = (job->rows + kernel->row_block - 1) / kernel->row_block;
  int64_t share = (blocks + tasks - 1) / tasks * kernel->row_block;
  int64_t begin = task * share, end = begin + share < job->rows ? begin + share : job->rows;
  char* scratch = job->scratch + (uint64_t)task * job->task_bytes;
  if (begin >= end) return WP_OK;
  if (job->method) return run_method(job, begin, end, scratch);
  int apply = job->entry >= kApplyF32;
  DLDataType out_type = {apply ? kDLInt : kDLFloat, apply ? 32 : 8 * sizeof(Real), 1};
  DLDataType x_type = {kDLFloat, job->x_type == WP_FLOAT32 ? 32 : 64, 1};
  int64_t width = apply ? WP_N_TREES : WP_N_OUTPUTS;
  const char* X = job->X + (size_t)begin * (size_t)job->row_stride * (x_type.bits / 8u);
  char* out = job->out + (size_t)begin * (size_t)width * (out_type.bits / 8u);
  return run_entry(kernel, x_type, X, end - begin, WP_N_FEATURES, job->row_stride, out_type, out, width, scratch);
}

static int32_t predict(int32_t what, int32_t x_type, const void* X, int64_t rows, int64_t row_stride, void* out,
                       uint64_t out_size, void* scratch, uint64_t scratch_bytes, int32_t threads) {
  int32_t level = cpu_level();
  if (level < 0) return -level;
  if (what < WP_APPLY || what >= kNumMethods || (x_type != WP_FLOAT32 && x_type != WP_FLOAT64)) return WP_ERROR_METHOD;
  if (threads < 1 || threads > WP_MAX_THREADS) return WP_ERROR_THREADS;
  if (rows < 0) return WP_ERROR_ROWS;
  if (row_stride < WP_N_FEATURES) return WP_ERROR_STRIDE;
  uint64_t x_size = x_type == WP_FLOAT32 ? 4 : 8;
  uint64_t width = what == WP_RAW ? WP_N_OUTPUTS : what == WP_APPLY ? WP_N_TREES : (uint64_t)kMethods[what].width;
  uint64_t row_size = width * (what == WP_APPLY ? 4 : sizeof(Real));
  if (rows == 0 || row_size == 0) return WP_OK;
  if (!X || !out || !scratch) return WP_ERROR_NULL;
  /* The last row needs no more than the features; all arithmetic on addresses stays in range. */
  if ((uint64_t)rows > PTRDIFF_MAX / row_size || (row_stride && rows > PTRDIFF_MAX / (int64_t)x_size / row_stride))
    return WP_ERROR_ROWS;
  if ((uintptr_t)X % x_size || (uintptr_t)out % (what == WP_APPLY ? 4 : sizeof(Real))) return WP_ERROR_ALIGNMENT;
  if (out_size < (uint64_t)rows * row_size) return WP_ERROR_OUT_SIZE;
  if (scratch_bytes < scratch_size(threads)) return WP_ERROR_SCRATCH_SIZE;
  const Kernel* kernels = &kKernels[level * WP_N_ENTRIES];
  int32_t entry = (what == WP_APPLY ? kApplyF32 : kRawF32) + (x_type == WP_FLOAT64);
  Job job = {
      .kernels = kernels,
      .method = what < 0 ? 0 : &kMethods[what],
      .entry = entry,
      .x_type = x_type,
      .X = X,
      .rows = rows,
      .row_stride = row_stride,
      .out = out,
      .scratch = (char*)scratch + (64 - (uintptr_t)scratch % 64) % 64,
      .task_bytes = task_bytes(kernels),
  };
  int64_t blocks = (rows + kernels->row_block - 1) / kernels->row_block;
  return run_parallel(run_job, &job, threads < blocks ? threads : (int)blocks);
}

static const wp_model kModel = {
    .abi_version = WP_ABI_VERSION,
    .struct_size = sizeof(wp_model),
    .prefix = STR(WP_PREFIX),
    .blob = BLOB_BYTES,
    .n_features = WP_N_FEATURES,
    .n_outputs = WP_N_OUTPUTS,
    .n_trees = WP_N_TREES,
    .output_type = kRealType,
    .n_methods = kNumMethods,
    .n_levels = kLevels,
    .methods = kMethodInfo,
    .levels = kLevelInfo,
    .cpu_level = cpu_level,
    .scratch_size = scratch_size,
    .predict = predict,
};

#define GETTER(name)                         \
  EXPORT const wp_model* name(void);         \
  const wp_model* name(void) { return &kModel; }
WP_GETTERS(GETTER)

/* ---- The entries for tvm-ffi ---- */

#ifdef WP_SHARED

typedef struct {
  const Kernel* kernel;
  const Any* args;
  const DLTensor* scratch;
} Call;

static int run_call(const void* data, int task, int tasks) {
  const Call* call = data;
  const Kernel* kernel = call->kernel;
  int64_t begin = call->args[4].v_int64, end = call->args[5].v_int64;
  int64_t blocks = (end - begin + kernel->row_block - 1) / kernel->row_block;
  int64_t share = (blocks + tasks - 1) / tasks * kernel->row_block;
  int64_t first = begin + task * share;
  if (first >= end) return 0;
  DLTensor mine = *call->scratch;
  mine.data = (char*)mine.data + (int64_t)task * kernel->scratch_bytes;
  Any own[6], result = {0};
  memcpy(own, call->args, sizeof own);
  own[2] = any_tensor(&mine);
  own[4].v_int64 = first;
  own[5].v_int64 = first + share < end ? first + share : end;
  return kernel->entry(0, own, 6, &result);
}

static int parallel(const Kernel* kernel, const Any* args, int32_t num_args, Any* result) {
  if (num_args != 7 || (args[2].type_index != kDLTensorPtr && args[2].type_index != kTensor) ||
      args[4].type_index != kInt || args[5].type_index != kInt || args[6].type_index != kInt)
    return kernel->entry(0, args, num_args, result); /* raises the error about its arguments */
  const char* tensor = args[2].v_ptr;
  const void* scratch = tensor + (args[2].type_index == kTensor ? kObjectHeaderBytes : 0);
  int64_t wanted = args[6].v_int64;
  int tasks = wanted < 1 ? 1 : wanted > kMaxTasks ? kMaxTasks : (int)wanted;
  Call call = {kernel, args, scratch};
  /* An error belongs to the thread that met it: meet it here, so that the caller sees it. */
  return run_parallel(run_call, &call, tasks) ? kernel->entry(0, args, 6, result) : 0;
}

#define EXPORT_PARALLEL(name, suffix, row_block, scratch_bytes)                                                   \
  EXPORT int SYMBOL(name##_parallel##suffix)(void* self, const Any* args, int32_t n, Any* result);                \
  int SYMBOL(name##_parallel##suffix)(void* self, const Any* args, int32_t n, Any* result) {                      \
    static const Kernel kernel = {SYMBOL(name##suffix), row_block, scratch_bytes};                                \
    (void)self;                                                                                                   \
    return parallel(&kernel, args, n, result);                                                                    \
  }
WP_KERNELS(EXPORT_PARALLEL)
WP_TERMS(EXPORT_PARALLEL)

/* () -> the address of the model blob. */
EXPORT int SYMBOL(model)(void* self, const Any* args, int32_t num_args, Any* result);
int SYMBOL(model)(void* self, const Any* args, int32_t num_args, Any* result) {
  (void)self, (void)args, (void)num_args;
  *result = any_int((int64_t)(uintptr_t)BLOB_BYTES);
  return 0;
}

#endif
