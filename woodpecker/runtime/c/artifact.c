/* Compiled into every artifact: the model, its C interface (woodpecker.h), and in a shared library the parallel
 * entries for tvm-ffi (entries.h), or in a WebAssembly module its exports (wasm.h).
 *
 * config.h is generated, see woodpecker/c_config.py. This file itself runs on every CPU of the architecture.
 */
#define _GNU_SOURCE
#include <math.h> /* this and more than is used, so that no getter below can have a name that kernels or C call */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "woodpecker.h"
#include "config.h"
#include "cpu.h"
#include "ffi.h"
#include "pool.h"

#define WP_CAT_(a, b) a##b
#define WP_CAT(a, b) WP_CAT_(a, b)
#define WP_STR_(x) #x
#define WP_STR(x) WP_STR_(x)
#define WP_SYMBOL(name) WP_CAT(WP_CAT(__tvm_ffi_, WP_PREFIX), WP_CAT(_, name))
#define WP_BLOB_DATA WP_CAT(WP_PREFIX, _blob)

#if defined(_WIN32)
#define WP_EXPORT __declspec(dllexport)
#define WP_HIDDEN
#define WP_BLOB_SECTION ".section .rdata,\"dr\"\n"
#define WP_BLOB_SYMBOL WP_STR(WP_BLOB_DATA)
#define WP_BLOB_ATTRIBUTES
#elif defined(__APPLE__)
#define WP_EXPORT __attribute__((visibility("default")))
#define WP_HIDDEN __attribute__((visibility("hidden")))
#define WP_BLOB_SECTION ".section __TEXT,__const\n"
#define WP_BLOB_SYMBOL "_" WP_STR(WP_BLOB_DATA)
#define WP_BLOB_ATTRIBUTES ".private_extern " WP_BLOB_SYMBOL "\n"
#else
#define WP_EXPORT __attribute__((visibility("default")))
#define WP_HIDDEN __attribute__((visibility("hidden")))
#define WP_BLOB_SECTION ".section .rodata\n"
#define WP_BLOB_SYMBOL WP_STR(WP_BLOB_DATA)
#define WP_BLOB_ATTRIBUTES ".hidden " WP_BLOB_SYMBOL "\n"
#endif

#ifdef __wasm__ /* its assembler takes no data of files */
static const uint8_t WP_BLOB_DATA[WP_BLOB_BYTES] __attribute__((aligned(64))) = {
#embed WP_BLOB
};
#else
__asm__(WP_BLOB_SECTION ".balign 64\n" WP_BLOB_ATTRIBUTES ".globl " WP_BLOB_SYMBOL "\n" WP_BLOB_SYMBOL ":\n"
        ".incbin \"" WP_BLOB "\"\n"
        ".balign 64\n"
        ".text\n");
extern const uint8_t WP_BLOB_DATA[] WP_HIDDEN;
#endif

/* TVM's code reports arguments that it refuses by TVMFFIErrorSetRaisedFromCStrParts of libtvm_ffi. The build renames
 * that symbol in its objects to this one, so that an artifact needs no libtvm_ffi, and uses it where it is there. */
typedef void wp_set_error(const char* kind, const char** parts, int32_t num_parts);
#if defined(_WIN32)
#include <windows.h>
static wp_set_error* wp_ffi_set_error(void) {
  HMODULE library = GetModuleHandleA("tvm_ffi.dll");
  return library ? (wp_set_error*)(void*)GetProcAddress(library, "TVMFFIErrorSetRaisedFromCStrParts") : 0;
}
#elif defined(__APPLE__)
#include <dlfcn.h>
static wp_set_error* wp_ffi_set_error(void) {
  return (wp_set_error*)dlsym(RTLD_DEFAULT, "TVMFFIErrorSetRaisedFromCStrParts");
}
#elif defined(__wasm__)
static wp_set_error* wp_ffi_set_error(void) { return 0; }
#else
extern wp_set_error TVMFFIErrorSetRaisedFromCStrParts __attribute__((weak));
static wp_set_error* wp_ffi_set_error(void) { return TVMFFIErrorSetRaisedFromCStrParts; }
#endif

WP_HIDDEN wp_set_error WP_CAT(WP_PREFIX, _ffi_set_error);
void WP_CAT(WP_PREFIX, _ffi_set_error)(const char* kind, const char** parts, int32_t num_parts) {
  wp_set_error* set_error = wp_ffi_set_error();
  if (set_error) set_error(kind, parts, num_parts);
}

typedef struct {
  wp_entry entry;
  int64_t row_block, scratch_bytes;
} wp_kernel;

#define WP_DECLARE(name, suffix, row_block, scratch_bytes) \
  extern int WP_SYMBOL(name##suffix)(void*, const wp_any*, int32_t, wp_any*);
WP_KERNELS(WP_DECLARE)
WP_TERMS(WP_DECLARE)
#define WP_KERNEL(name, suffix, row_block, scratch_bytes) {WP_SYMBOL(name##suffix), row_block, scratch_bytes},
static const wp_kernel wp_kernels[] = {WP_KERNELS(WP_KERNEL)}; /* WP_N_ENTRIES a level */

/* What computes raw scores of fewer rows than `rows`: two a level, for float32 and for float64. */
typedef struct {
  wp_entry entry;
  int64_t rows;
} wp_few_rows;

#define WP_DECLARE_FEW(name, suffix, rows) extern int WP_SYMBOL(name##suffix)(void*, const wp_any*, int32_t, wp_any*);
WP_FEW(WP_DECLARE_FEW)
#define WP_OF_FEW(name, suffix, rows) {WP_SYMBOL(name##suffix), rows},
static const wp_few_rows wp_few[] = {WP_FEW(WP_OF_FEW)};

/* ---- The C interface ---- */

/* Elements of raw scores and of what methods return. */
typedef WP_ACC wp_real;
enum { WP_REAL_TYPE = sizeof(wp_real) == 4 ? WP_FLOAT32 : WP_FLOAT64 };

enum { WP_RAW_F32, WP_RAW_F64, WP_APPLY_F32, WP_APPLY_F64, WP_LINK };

/* From linked scores to a method's result, as woodpecker/runtime/outputs.py does it in Python. */
typedef enum {
  WP_VALUE,
  WP_BOTH_CLASSES,
  WP_LABEL_ABOVE,
  WP_LABEL_AT_LEAST,
  WP_LABEL,
  WP_INDICATOR,
  WP_OUTLIER
} wp_rule;

typedef struct {
  wp_rule rule;
  int32_t link;         /* -1: raw scores */
  int32_t linked_width, width;
  int32_t labels;       /* how many classes the first output has */
  const int32_t* groups; /* WP_LABEL: the columns of each output; 0: one column, of the second class */
  double number;        /* what is subtracted, or compared with */
} wp_recipe;

#define WP_RECIPE(name, rule, link, linked_width, width, labels, groups, number) \
  {rule, link, linked_width, width, labels, groups, number},
static const wp_recipe wp_recipes[] = {WP_METHODS(WP_RECIPE){WP_VALUE, -1, 0, 0, 0, 0, 0}};

#define WP_METHOD(name, rule, link, linked_width, width, labels, groups, number) {name, width},
static const wp_method wp_methods[] = {WP_METHODS(WP_METHOD){0, 0}};
#define WP_LEVEL(name, features) {name, features},
static const wp_level wp_levels[] = {WP_LEVELS(WP_LEVEL)};

enum {
  WP_NUM_LEVELS = sizeof wp_levels / sizeof *wp_levels,
  WP_NUM_METHODS = sizeof wp_methods / sizeof *wp_methods - 1
};

static int wp_named(const char* name, const char* wanted, size_t length) {
  return strlen(name) == length && !memcmp(name, wanted, length);
}

static int wp_find_level(void) {
  const char* wanted = WP_NUM_LEVELS > 1 ? getenv("WOODPECKER_CPU_LEVEL") : 0;
  size_t length = 0;
  if (wanted) {
    wanted += strspn(wanted, " \t\r\n");
    length = strlen(wanted);
    while (length && strchr(" \t\r\n", wanted[length - 1])) length--;
  }
  int best = -WP_ERROR_CPU;
  for (int level = 0; level < WP_NUM_LEVELS; level++) {
    if (length && wp_named(wp_levels[level].name, wanted, length))
      return wp_has_features(wp_levels[level].features) ? level : -WP_ERROR_CPU_LEVEL;
    if (!wp_has_features(wp_levels[level].features)) continue;
#ifdef WP_UNKNOWN_CPU
    if (best >= 0) continue;
#endif
    best = level;
  }
  return length ? -WP_ERROR_CPU_LEVEL : best;
}

static int32_t wp_level_in_use(void) {
  static _Atomic int32_t found = WP_NUM_LEVELS; /* not looked for yet */
  int32_t level = found;
  if (level == WP_NUM_LEVELS) found = level = wp_find_level(); /* threads find the same */
  return level;
}

static uint64_t wp_round_up(uint64_t bytes) { return (bytes + 63) / 64 * 64; }

/* Rows of a method that are computed together: whole row blocks, enough for every kernel. */
enum { WP_CHUNK = 512 };

static int64_t wp_chunk_rows(const wp_kernel* kernel) {
  return (WP_CHUNK + kernel->row_block - 1) / kernel->row_block * kernel->row_block;
}

/* A task's scratch: that of the kernels, then a chunk of raw and of linked scores. */
static uint64_t wp_task_bytes(const wp_kernel* kernel) {
  uint64_t width = 0;
  for (int i = 0; i < WP_NUM_METHODS; i++)
    if ((uint64_t)wp_recipes[i].linked_width > width) width = (uint64_t)wp_recipes[i].linked_width;
  uint64_t block = (uint64_t)wp_chunk_rows(kernel) * sizeof(wp_real);
  uint64_t scores = WP_NUM_METHODS ? wp_round_up(block * WP_N_OUTPUTS) + wp_round_up(block * width) : 0;
  return wp_round_up((uint64_t)kernel->scratch_bytes) + scores;
}

static uint64_t wp_scratch_bytes(int32_t threads) {
  int32_t level = wp_level_in_use();
  if (level < 0 || threads < 1 || threads > WP_MAX_THREADS) return 0;
  return (uint64_t)threads * wp_task_bytes(&wp_kernels[level * WP_N_ENTRIES]) + 63; /* for any alignment */
}

typedef struct {
  const wp_kernel* kernels;
  const wp_recipe* method; /* 0: raw scores or leaf ids, by the kernel `entry` */
  int32_t entry, x_type;
  const char* X;
  int64_t rows, row_stride;
  char* out;
  char* scratch;
  uint64_t task_bytes;
  wp_rows* shared;
} wp_job;

/* The code for `rows` rows of a kernel of this level. */
static wp_entry wp_entry_for(const wp_kernel* kernel, int64_t rows) {
  ptrdiff_t place = kernel - wp_kernels, level = place / WP_N_ENTRIES, which = place % WP_N_ENTRIES;
  const wp_few_rows* few = &wp_few[2 * level + which];
  return which < WP_APPLY_F32 && rows < few->rows ? few->entry : kernel->entry;
}

/* Run an entry over `rows` rows from X to out. */
static int wp_run_entry(const wp_kernel* kernel, wp_dtype x_type, const void* X, int64_t rows, int64_t columns,
                        int64_t row_stride, wp_dtype out_type, void* out, int64_t out_columns, void* scratch) {
  int64_t x_shape[2] = {rows, columns}, x_strides[2] = {row_stride, 1};
  int64_t out_shape[2] = {rows, out_columns}, out_strides[2] = {out_columns, 1};
  int64_t scratch_shape[1] = {kernel->scratch_bytes}, model_shape[1] = {WP_BLOB_BYTES}, one[1] = {1};
  wp_dtype bytes = {WP_DL_UINT, 8, 1};
  wp_tensor tensors[4] = {
      {(void*)(uintptr_t)X, {WP_DL_CPU, 0}, 2, x_type, x_shape, x_strides, 0},
      {out, {WP_DL_CPU, 0}, 2, out_type, out_shape, out_strides, 0},
      {scratch, {WP_DL_CPU, 0}, 1, bytes, scratch_shape, one, 0},
      {(void*)(uintptr_t)WP_BLOB_DATA, {WP_DL_CPU, 0}, 1, bytes, model_shape, one, 0},
  };
  wp_any result = {0}, args[6];
  for (int i = 0; i < 4; i++) args[i] = wp_any_tensor(&tensors[i]);
  args[4] = wp_any_int(0);
  args[5] = wp_any_int(rows);
  return wp_entry_for(kernel, rows)(0, args, 6, &result) ? WP_ERROR_INTERNAL : WP_OK;
}

/* The largest of n scores, the first of equals, by numpy's rule: a NaN is larger than everything. */
static int32_t wp_largest(const wp_real* scores, int32_t n) {
  int32_t best = 0;
  for (int32_t i = 1; i < n && scores[best] == scores[best]; i++)
    if (!(scores[i] <= scores[best])) best = i;
  return best;
}

/* The result of one row. */
static int wp_finish(const wp_recipe* method, const wp_real* z, wp_real* out) {
  wp_real number = (wp_real)method->number;
  switch (method->rule) {
    case WP_VALUE:
      for (int32_t k = 0; k < method->width; k++) out[k] = method->number != 0 ? z[k] - number : z[k];
      break;
    case WP_BOTH_CLASSES:
      out[0] = (wp_real)1 - z[0];
      out[1] = z[0];
      break;
    case WP_LABEL_ABOVE:
    case WP_LABEL_AT_LEAST:
    case WP_LABEL:
      if (method->groups) {
        for (int32_t group = 0; group < method->width; z += method->groups[group++])
          out[group] = (wp_real)wp_largest(z, method->groups[group]);
      } else {
        wp_real both[2] = {(wp_real)1 - z[0], z[0]};
        int second = method->rule == WP_LABEL_ABOVE      ? z[0] > number
                     : method->rule == WP_LABEL_AT_LEAST ? z[0] >= number
                                                         : wp_largest(both, 2);
        if (second >= method->labels) return WP_ERROR_LABEL;
        out[0] = (wp_real)second;
      }
      break;
    case WP_INDICATOR:
      for (int32_t k = 0; k < method->width; k++) out[k] = z[k] > (wp_real)0.5;
      break;
    case WP_OUTLIER:
      for (int32_t k = 0; k < method->width; k++) out[k] = (method->number != 0 ? z[k] - number : z[k]) < 0 ? -1 : 1;
      break;
  }
  return WP_OK;
}

/* Rows of a method, a chunk at a time: raw scores, linked scores, results. */
static int wp_run_method(const wp_job* job, int64_t begin, int64_t end, char* scratch) {
  const wp_recipe* method = job->method;
  const wp_kernel* kernel = &job->kernels[job->entry];
  int64_t chunk = wp_chunk_rows(kernel);
  wp_dtype real = {WP_DL_FLOAT, 8 * sizeof(wp_real), 1}, x_type = {WP_DL_FLOAT, job->x_type == WP_FLOAT32 ? 32 : 64, 1};
  wp_real* raw = (wp_real*)(void*)(scratch + wp_round_up((uint64_t)kernel->scratch_bytes));
  wp_real* linked = raw;
  if (method->link >= 0)
    linked = (wp_real*)(void*)((char*)raw + wp_round_up((uint64_t)chunk * sizeof(wp_real) * WP_N_OUTPUTS));
  for (int64_t first = begin; first < end; first += chunk) {
    int64_t rows = end - first < chunk ? end - first : chunk;
    const char* X = job->X + (size_t)first * (size_t)job->row_stride * (x_type.bits / 8u);
    int failed =
        wp_run_entry(kernel, x_type, X, rows, WP_N_FEATURES, job->row_stride, real, raw, WP_N_OUTPUTS, scratch);
    if (!failed && method->link >= 0)
      failed = wp_run_entry(&job->kernels[WP_LINK + method->link], real, raw, rows, WP_N_OUTPUTS, WP_N_OUTPUTS, real,
                            linked, method->linked_width, scratch);
    wp_real* out = (wp_real*)(void*)job->out + first * method->width;
    for (int64_t row = 0; row < rows && !failed; row++)
      failed = wp_finish(method, linked + row * method->linked_width, out + row * method->width);
    if (failed) return failed;
  }
  return WP_OK;
}

static int wp_run_range(const wp_job* job, int64_t begin, int64_t end, char* scratch) {
  if (job->method) return wp_run_method(job, begin, end, scratch);
  const wp_kernel* kernel = &job->kernels[job->entry];
  int apply = job->entry >= WP_APPLY_F32;
  wp_dtype out_type = {apply ? WP_DL_INT : WP_DL_FLOAT, apply ? 32 : 8 * sizeof(wp_real), 1};
  wp_dtype x_type = {WP_DL_FLOAT, job->x_type == WP_FLOAT32 ? 32 : 64, 1};
  int64_t width = apply ? WP_N_TREES : WP_N_OUTPUTS;
  const char* X = job->X + (size_t)begin * (size_t)job->row_stride * (x_type.bits / 8u);
  char* out = job->out + (size_t)begin * (size_t)width * (out_type.bits / 8u);
  return wp_run_entry(kernel, x_type, X, end - begin, WP_N_FEATURES, job->row_stride, out_type, out, width, scratch);
}

static int wp_run_job(const void* data, int task, int tasks) {
  const wp_job* job = data;
  char* scratch = job->scratch + (uint64_t)task * job->task_bytes;
  int failed = WP_OK;
  for (int64_t begin, end; !failed && wp_take_rows(job->shared, tasks, &begin, &end);)
    failed = wp_run_range(job, begin, end, scratch);
  return failed;
}

static int32_t wp_predict(int32_t what, int32_t x_type, const void* X, int64_t rows, int64_t row_stride, void* out,
                          uint64_t out_size, void* scratch, uint64_t scratch_bytes, int32_t threads) {
  int32_t level = wp_level_in_use();
  if (level < 0) return -level;
  if (what < WP_APPLY || what >= WP_NUM_METHODS) return WP_ERROR_METHOD;
  if (x_type != WP_FLOAT32 && x_type != WP_FLOAT64) return WP_ERROR_METHOD;
  if (threads < 1 || threads > WP_MAX_THREADS) return WP_ERROR_THREADS;
  if (rows < 0) return WP_ERROR_ROWS;
  if (row_stride < WP_N_FEATURES) return WP_ERROR_STRIDE;
  uint64_t x_size = x_type == WP_FLOAT32 ? 4 : 8;
  uint64_t width = what == WP_RAW ? WP_N_OUTPUTS : what == WP_APPLY ? WP_N_TREES : (uint64_t)wp_recipes[what].width;
  uint64_t row_size = width * (what == WP_APPLY ? 4 : sizeof(wp_real));
  if (rows == 0 || row_size == 0) return WP_OK;
  if (!X || !out || !scratch) return WP_ERROR_NULL;
  /* The last row needs no more than the features; all arithmetic on addresses stays in range. */
  if ((uint64_t)rows > PTRDIFF_MAX / row_size || (row_stride && rows > PTRDIFF_MAX / (int64_t)x_size / row_stride))
    return WP_ERROR_ROWS;
  if ((uintptr_t)X % x_size || (uintptr_t)out % (what == WP_APPLY ? 4 : sizeof(wp_real))) return WP_ERROR_ALIGNMENT;
  if (out_size < (uint64_t)rows * row_size) return WP_ERROR_OUT_SIZE;
  if (scratch_bytes < wp_scratch_bytes(threads)) return WP_ERROR_SCRATCH_SIZE;
  const wp_kernel* kernels = &wp_kernels[level * WP_N_ENTRIES];
  int32_t entry = (what == WP_APPLY ? WP_APPLY_F32 : WP_RAW_F32) + (x_type == WP_FLOAT64);
  int64_t blocks = (rows + kernels->row_block - 1) / kernels->row_block;
  int tasks = threads < blocks ? threads : (int)blocks;
  wp_rows shared = wp_share_rows(0, rows, kernels->row_block, tasks, 0);
  wp_job job = {
      .kernels = kernels,
      .method = what < 0 ? 0 : &wp_recipes[what],
      .entry = entry,
      .x_type = x_type,
      .X = X,
      .rows = rows,
      .row_stride = row_stride,
      .out = out,
      .scratch = (char*)scratch + (64 - (uintptr_t)scratch % 64) % 64,
      .task_bytes = wp_task_bytes(kernels),
      .shared = &shared,
  };
  return wp_run_parallel(wp_run_job, &job, tasks);
}

static const wp_model wp_the_model = {
    .abi_version = WP_ABI_VERSION,
    .struct_size = sizeof(wp_model),
    .prefix = WP_STR(WP_PREFIX),
    .blob = WP_BLOB_DATA,
    .n_features = WP_N_FEATURES,
    .n_outputs = WP_N_OUTPUTS,
    .n_trees = WP_N_TREES,
    .output_type = WP_REAL_TYPE,
    .n_methods = WP_NUM_METHODS,
    .n_levels = WP_NUM_LEVELS,
    .methods = wp_methods,
    .levels = wp_levels,
    .cpu_level = wp_level_in_use,
    .scratch_size = wp_scratch_bytes,
    .predict = wp_predict,
};

#define WP_GETTER(name)                 \
  WP_EXPORT const wp_model* name(void); \
  const wp_model* name(void) { return &wp_the_model; }
WP_GETTERS(WP_GETTER)

#ifdef WP_SHARED
#ifdef __wasm__
#include "wasm.h"
#else
#include "entries.h"
#endif
#endif
