/* woodpecker.h: predictions of a compiled tree ensemble from C, C++ and everything that calls C.
 *
 * SPDX-License-Identifier: Apache-2.0
 *
 * An artifact (the .so or .a that woodpecker wrote) holds the model, its code and this interface; it needs libc, libm
 * and threads, and nothing of Python. One header is all that a program includes:
 *
 *     #define WOODPECKER_IMPLEMENTATION     // in one C file of the program, for wp_model_load
 *     #include "woodpecker.h"
 *
 *     const wp_model* model;
 *     char message[256];
 *     if (wp_model_load("model.so", &model, message, sizeof message)) { fputs(message, stderr); return 1; }
 *     size_t scratch_size = wp_scratch_size(model, 1);
 *     void* scratch = malloc(scratch_size);
 *     float x[...] = {...}, y[...];         // rows of wp_n_features(model) values
 *     wp_status status = wp_predict_raw_f32(model, x, 1, wp_n_features(model), y, sizeof y, scratch, scratch_size, 1);
 *
 * or, linked with the program and without a file to load:
 *
 *     WP_DECLARE_MODEL(wp_model_0123456789abcdef);   // the name that `woodpecker inspect` shows, or your own
 *     const wp_model* model = wp_model_0123456789abcdef();
 *
 * Rules
 *   - Raw scores and leaf ids have the bits of the library that trained the model, for every number of rows and threads.
 *   - A prediction allocates nothing: the caller gives the scratch, and wp_scratch_size says how much.
 *   - Any number of threads may call at a time, each with a scratch and an output of its own. After fork, the child may
 *     call as well. With threads > 1, threads of the model's own help; they start with the first such call.
 *   - A missing value is NaN. A categorical feature is its code, as a number.
 *   - Do not enable flush-to-zero or denormals-are-zero modes (-ffast-math does): comparisons would change.
 *   - Every function takes NULL, and says WP_ERROR_NULL, 0, -1 or NULL. No function ends the process.
 */
#ifndef WOODPECKER_H
#define WOODPECKER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Changes with what an artifact and this header agree on. A header loads artifacts of its own version only. */
#define WP_ABI_VERSION 1

/* The largest number of threads of a call. */
#define WP_MAX_THREADS 256

typedef enum wp_status {
  WP_OK = 0,
  WP_ERROR_NULL = 1,         /* a pointer is NULL that must not be */
  WP_ERROR_ABI = 2,          /* the artifact's ABI version is not this header's */
  WP_ERROR_CPU = 3,          /* this CPU lacks features that the code needs */
  WP_ERROR_CPU_LEVEL = 4,    /* WOODPECKER_CPU_LEVEL names a level that the model has not, or that can't run here */
  WP_ERROR_ROWS = 5,         /* rows is negative, or so large that X can't be in memory */
  WP_ERROR_STRIDE = 6,       /* row_stride is less than the number of features */
  WP_ERROR_ALIGNMENT = 7,    /* X or out is not aligned to its elements */
  WP_ERROR_OUT_SIZE = 8,     /* out_size is too small for the results */
  WP_ERROR_SCRATCH_SIZE = 9, /* scratch_size is less than wp_scratch_size of that many threads */
  WP_ERROR_THREADS = 10,     /* threads is not from 1 to WP_MAX_THREADS */
  WP_ERROR_METHOD = 11,      /* the model has no such method */
  WP_ERROR_LABEL = 12,       /* a row is of the second class, and the model knows the label of one class only */
  WP_ERROR_INTERNAL = 13,    /* the compiled code refused what it was given: a bug, please report it */
  WP_ERROR_FILE = 14,        /* the file can't be read */
  WP_ERROR_ARTIFACT = 15,    /* the file is no artifact, or was written by another version */
  WP_ERROR_DAMAGED = 16,     /* the file is damaged or cut short */
  WP_ERROR_PLATFORM = 17,    /* the file is for another operating system or architecture */
  WP_ERROR_REPLACED = 18     /* another model was loaded from this path before: give the file another name */
} wp_status;

/* The types of elements. */
typedef enum wp_type { WP_FLOAT32 = 1, WP_FLOAT64 = 2 } wp_type;

/* A method of the source model, such as predict_proba. */
typedef struct wp_method {
  const char* name;
  int32_t width;             /* elements of a row of its result */
} wp_method;

/* Code for one kind of CPU. */
typedef struct wp_level {
  const char* name;
  const char* features;      /* the CPU features that it needs, by LLVM's names, separated by commas */
} wp_level;

/* A model: constant, and valid as long as the program runs. Its fields belong to the functions below. */
typedef struct wp_model wp_model;
struct wp_model {
  uint32_t abi_version;
  uint32_t struct_size;      /* bytes; fields of later versions are added at the end */
  const char* prefix;        /* unique to the model and its options */
  const uint8_t* blob;       /* the model: see the documentation of the artifact format */
  int32_t n_features, n_outputs, n_trees, output_type, n_methods, n_levels;
  const wp_method* methods;
  const wp_level* levels;
  int32_t (*cpu_level)(void);                    /* number of the level in use, or -(a wp_status) */
  uint64_t (*scratch_size)(int32_t threads);
  int32_t (*predict)(int32_t what, int32_t x_type, const void* X, int64_t rows, int64_t row_stride, void* out,
                     uint64_t out_size, void* scratch, uint64_t scratch_size, int32_t threads);
};

/* What `predict` of the structure computes, beside the number of a method. */
enum { WP_RAW = -1, WP_APPLY = -2 };

/* Declare the function that returns a model linked with the program. It never returns NULL; see wp_model_status. */
#ifdef __cplusplus
#define WP_DECLARE_MODEL(name) extern "C" const wp_model* name(void)
#else
#define WP_DECLARE_MODEL(name) extern const wp_model* name(void)
#endif

/* Load a .so by its path and check it: format, checksum, ABI, operating system and CPU. It stays loaded until the program
 * ends; loading it again gives the same model. Nothing of the file runs before these checks, but they find accidents,
 * not malice: load only files that you trust.
 *
 * Needs WOODPECKER_IMPLEMENTATION in one file of the program, and -ldl with a glibc before 2.34.
 *   path      in this process's encoding. Without a slash it is a file of the working directory
 *   model     receives the model, or NULL with an error
 *   message   receives what went wrong, cut to message_size bytes with the final 0, or ""; may be NULL
 */
wp_status wp_model_load(const char* path, const wp_model** model, char* message, size_t message_size);

/* What a status means, in words. */
static inline const char* wp_status_message(wp_status status) {
  switch (status) {
    case WP_OK: return "no error";
    case WP_ERROR_NULL: return "a pointer is NULL that must not be";
    case WP_ERROR_ABI: return "the artifact has another ABI version than woodpecker.h: use the header it came with";
    case WP_ERROR_CPU: return "this CPU lacks features that the model's code needs: compile it for an older CPU";
    case WP_ERROR_CPU_LEVEL:
      return "the environment variable WOODPECKER_CPU_LEVEL names a level that the model has not or that can't run here";
    case WP_ERROR_ROWS: return "rows is negative or too large";
    case WP_ERROR_STRIDE: return "row_stride is less than the number of features";
    case WP_ERROR_ALIGNMENT: return "X or out is not aligned to its elements";
    case WP_ERROR_OUT_SIZE: return "out_size is too small for rows times the width of a result, in bytes";
    case WP_ERROR_SCRATCH_SIZE: return "scratch_size is less than wp_scratch_size(model, threads)";
    case WP_ERROR_THREADS: return "threads must be from 1 to 256";
    case WP_ERROR_METHOD: return "the model has no such method";
    case WP_ERROR_LABEL: return "a row is of the second class, and the model knows the label of one class only";
    case WP_ERROR_INTERNAL: return "the compiled code refused its arguments: a bug, please report it";
    case WP_ERROR_FILE: return "the file can't be read";
    case WP_ERROR_ARTIFACT: return "the file is no woodpecker artifact of this version";
    case WP_ERROR_DAMAGED: return "the file is damaged or cut short: copy it again";
    case WP_ERROR_PLATFORM: return "the artifact was compiled for another operating system or architecture";
    case WP_ERROR_REPLACED:
      return "another model was loaded from this path before: give the new file another name, or start the program again";
  }
  return "unknown status";
}

/* Whether the model can run here: WP_OK, WP_ERROR_NULL, WP_ERROR_ABI, WP_ERROR_CPU or WP_ERROR_CPU_LEVEL. */
static inline wp_status wp_model_status(const wp_model* model) {
  int32_t level;
  if (!model) return WP_ERROR_NULL;
  if (model->abi_version != WP_ABI_VERSION) return WP_ERROR_ABI;
  level = model->cpu_level();
  return level < 0 ? (wp_status)-level : WP_OK;
}

/* Columns of X; K, the width of a row of raw scores; T. 0 for NULL and for another ABI version, as everywhere below. */
static inline int32_t wp_n_features(const wp_model* model) {
  return model && model->abi_version == WP_ABI_VERSION ? model->n_features : 0;
}
static inline int32_t wp_n_outputs(const wp_model* model) {
  return model && model->abi_version == WP_ABI_VERSION ? model->n_outputs : 0;
}
static inline int32_t wp_n_trees(const wp_model* model) {
  return model && model->abi_version == WP_ABI_VERSION ? model->n_trees : 0;
}

/* WP_FLOAT32 or WP_FLOAT64: the type of raw scores and of what methods return, that of the source library's sums. */
static inline int32_t wp_output_type(const wp_model* model) {
  return model && model->abi_version == WP_ABI_VERSION ? model->output_type : 0;
}
/* Bytes of such an element. */
static inline size_t wp_output_size(const wp_model* model) {
  int32_t type = wp_output_type(model);
  return type == WP_FLOAT64 ? 8 : type == WP_FLOAT32 ? 4 : 0;
}

/* Private: a little-endian number of that many bytes, and the CRC-32 of bytes after others whose state is `crc`. */
static inline uint64_t wp__number(const uint8_t* data, int bytes) {
  uint64_t value = 0;
  while (bytes--) value = value << 8 | data[bytes];
  return value;
}
static inline uint32_t wp__crc(uint32_t crc, const uint8_t* data, size_t size) {
  while (size--) {
    int bit;
    crc ^= *data++;
    for (bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (0xedb88320u & (0u - (crc & 1)));
  }
  return crc;
}

/* The manifest, a JSON text that is not terminated by a 0: feature names, class labels, the source model. */
static inline const char* wp_manifest(const wp_model* model, size_t* length) {
  if (length) *length = 0;
  if (!model || model->abi_version != WP_ABI_VERSION) return NULL;
  if (length) *length = (size_t)wp__number(model->blob + 40, 8);
  return (const char*)model->blob + wp__number(model->blob + 32, 8);
}

/* The name of the CPU level in use, such as "x86-64-v3", or NULL where none can run. */
static inline const char* wp_cpu_level(const wp_model* model) {
  if (wp_model_status(model) != WP_OK) return NULL;
  return model->levels[model->cpu_level()].name;
}

/* The source model's methods: how many, the name of each, its number by name (-1: there is none), and the elements of a
 * row of its result. Results are of wp_output_type: values; probabilities, one column a class; for methods that return
 * labels, the number of the class among `classes` of the manifest, one column an output. */
static inline int32_t wp_n_methods(const wp_model* model) {
  return model && model->abi_version == WP_ABI_VERSION ? model->n_methods : 0;
}
static inline const char* wp_method_name(const wp_model* model, int32_t method) {
  return method >= 0 && method < wp_n_methods(model) ? model->methods[method].name : NULL;
}
static inline int32_t wp_method_width(const wp_model* model, int32_t method) {
  return method >= 0 && method < wp_n_methods(model) ? model->methods[method].width : 0;
}
static inline int32_t wp_find_method(const wp_model* model, const char* name) {
  int32_t method;
  size_t i;
  for (method = 0; name && method < wp_n_methods(model); method++) {
    const char* known = model->methods[method].name;
    for (i = 0; known[i] && known[i] == name[i]; i++) {
    }
    if (known[i] == name[i]) return method;
  }
  return -1;
}

/* Bytes of scratch for any call with that many threads; 0 where the model can't run, or threads is out of range. */
static inline size_t wp_scratch_size(const wp_model* model, int32_t threads) {
  return wp_model_status(model) == WP_OK ? (size_t)model->scratch_size(threads) : 0;
}

/* Predictions. X is row-major; all functions compute every one of the rows, or none and return an error.
 *   X             rows x n_features values; read only; may be NULL where rows is 0
 *   row_stride    elements from one row of X to the next, at least n_features
 *   out           rows x width elements without gaps; not X's memory; out_size in bytes
 *   scratch       scratch_size bytes of any alignment, wp_scratch_size(model, threads) at least
 *   threads       how many threads may work on it, 1 to WP_MAX_THREADS; few rows use fewer
 */

/* Raw scores (margins) before the link: rows x n_outputs of wp_output_type. */
static inline wp_status wp_predict_raw_f32(const wp_model* model, const float* X, int64_t rows, int64_t row_stride,
                                           void* out, size_t out_size, void* scratch, size_t scratch_size,
                                           int32_t threads) {
  wp_status status = wp_model_status(model);
  if (status != WP_OK) return status;
  return (wp_status)model->predict(WP_RAW, WP_FLOAT32, X, rows, row_stride, out, out_size, scratch, scratch_size,
                                   threads);
}
static inline wp_status wp_predict_raw_f64(const wp_model* model, const double* X, int64_t rows, int64_t row_stride,
                                           void* out, size_t out_size, void* scratch, size_t scratch_size,
                                           int32_t threads) {
  wp_status status = wp_model_status(model);
  if (status != WP_OK) return status;
  return (wp_status)model->predict(WP_RAW, WP_FLOAT64, X, rows, row_stride, out, out_size, scratch, scratch_size,
                                   threads);
}

/* Leaf ids, numbered as the source library numbers them: rows x n_trees. */
static inline wp_status wp_apply_f32(const wp_model* model, const float* X, int64_t rows, int64_t row_stride,
                                     int32_t* out, size_t out_size, void* scratch, size_t scratch_size,
                                     int32_t threads) {
  wp_status status = wp_model_status(model);
  if (status != WP_OK) return status;
  return (wp_status)model->predict(WP_APPLY, WP_FLOAT32, X, rows, row_stride, out, out_size, scratch, scratch_size,
                                   threads);
}
static inline wp_status wp_apply_f64(const wp_model* model, const double* X, int64_t rows, int64_t row_stride,
                                     int32_t* out, size_t out_size, void* scratch, size_t scratch_size,
                                     int32_t threads) {
  wp_status status = wp_model_status(model);
  if (status != WP_OK) return status;
  return (wp_status)model->predict(WP_APPLY, WP_FLOAT64, X, rows, row_stride, out, out_size, scratch, scratch_size,
                                   threads);
}

/* What a method of the source model returns: rows x wp_method_width of wp_output_type. `method` is its number. */
static inline wp_status wp_predict_f32(const wp_model* model, int32_t method, const float* X, int64_t rows,
                                       int64_t row_stride, void* out, size_t out_size, void* scratch,
                                       size_t scratch_size, int32_t threads) {
  wp_status status = wp_model_status(model);
  if (status != WP_OK) return status;
  if (method < 0) return WP_ERROR_METHOD;
  return (wp_status)model->predict(method, WP_FLOAT32, X, rows, row_stride, out, out_size, scratch, scratch_size,
                                   threads);
}
static inline wp_status wp_predict_f64(const wp_model* model, int32_t method, const double* X, int64_t rows,
                                       int64_t row_stride, void* out, size_t out_size, void* scratch,
                                       size_t scratch_size, int32_t threads) {
  wp_status status = wp_model_status(model);
  if (status != WP_OK) return status;
  if (method < 0) return WP_ERROR_METHOD;
  return (wp_status)model->predict(method, WP_FLOAT64, X, rows, row_stride, out, out_size, scratch, scratch_size,
                                   threads);
}

#ifdef __cplusplus
}
#endif

#endif /* WOODPECKER_H */

/* ------------------------------------------------------------------------------------------------------------------
 * The implementation of wp_model_load: standard C and the operating system's function that loads libraries.
 */
#if defined(WOODPECKER_IMPLEMENTATION) && !defined(WOODPECKER_IMPLEMENTED)
#define WOODPECKER_IMPLEMENTED

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>

#ifdef _WIN32
#include <windows.h>
#else
#include <dlfcn.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define WP__FORMAT 2
#define WP__HEADER ((size_t)128)
#define WP__DIGEST_AT ((size_t)64)
#define WP__CHUNK ((size_t)4096)
#ifdef _WIN32
#define WP__IS_FILE(mode) (((mode) & _S_IFMT) == _S_IFREG)
#else
#define WP__IS_FILE(mode) S_ISREG(mode)
#endif

typedef struct wp__file {
  FILE* stream;
  uint64_t size;
  const char* path;
  char* message;
  size_t message_size;
} wp__file;

static wp_status wp__say(const wp__file* file, wp_status status, const char* format, ...) {
  va_list arguments;
  if (file->message && file->message_size) {
    int used = snprintf(file->message, file->message_size, "%s: ", file->path);
    if (used > 0 && (size_t)used < file->message_size) {
      va_start(arguments, format);
      vsnprintf(file->message + used, file->message_size - (size_t)used, format, arguments);
      va_end(arguments);
    }
  }
  return status;
}

static wp_status wp__fail(const wp__file* file, wp_status status) {
  return wp__say(file, status, "%s", wp_status_message(status));
}

static int wp__read(const wp__file* file, uint64_t at, void* data, size_t size) {
  if (at > file->size || size > file->size - at || at > 0x7fffffff) return 0;
  return !fseek(file->stream, (long)at, SEEK_SET) && fread(data, 1, size, file->stream) == size;
}

/* The dynamic linker maps what an ELF header promises without looking at the file's size, and reading beyond its end
 * kills the process. */
static wp_status wp__check_elf(const wp__file* file) {
  uint8_t head[64], segment[56];
  uint64_t segments_at, sections_at, end;
  unsigned wide, size, count, i, machine = 0;
  uint16_t one = 1;
#if defined(__x86_64__)
  machine = 62;
#elif defined(__aarch64__)
  machine = 183;
#elif defined(__arm__)
  machine = 40;
#elif defined(__riscv)
  machine = 243;
#endif
  if (!wp__read(file, 0, head, sizeof head)) return wp__fail(file, WP_ERROR_ARTIFACT);
  if (memcmp(head, "\177ELF", 4)) {
#ifdef __ELF__
    return memcmp(head, "MZ", 2) && wp__number(head, 4) != 0xfeedfacfu ? wp__fail(file, WP_ERROR_ARTIFACT)
                                                                       : wp__fail(file, WP_ERROR_PLATFORM);
#else
    return WP_OK;
#endif
  }
  wide = head[4] == 2;
  if (wide != (sizeof(void*) == 8) || head[5] != (*(uint8_t*)&one ? 1 : 2) ||
      (machine && wp__number(head + 18, 2) != machine))
    return wp__fail(file, WP_ERROR_PLATFORM);
  segments_at = wide ? wp__number(head + 32, 8) : wp__number(head + 28, 4);
  sections_at = wide ? wp__number(head + 40, 8) : wp__number(head + 32, 4);
  size = (unsigned)wp__number(head + (wide ? 54 : 42), 2);
  count = (unsigned)wp__number(head + (wide ? 56 : 44), 2);
  end = wp__number(head + (wide ? 58 : 46), 2) * wp__number(head + (wide ? 60 : 48), 2);
  if (size != (wide ? 56u : 32u) || sections_at > file->size || end > file->size - sections_at)
    return wp__fail(file, WP_ERROR_DAMAGED);
  for (i = 0; i < count; i++) {
    uint64_t offset, length;
    if (!wp__read(file, segments_at + (uint64_t)i * size, segment, size)) return wp__fail(file, WP_ERROR_DAMAGED);
    offset = wide ? wp__number(segment + 8, 8) : wp__number(segment + 4, 4);
    length = wide ? wp__number(segment + 32, 8) : wp__number(segment + 16, 4);
    if (offset > file->size || length > file->size - offset) return wp__fail(file, WP_ERROR_DAMAGED);
  }
  return WP_OK;
}

/* Where the model begins in the file: its magic at a multiple of 64. */
static int wp__find(const wp__file* file, uint64_t* start) {
  static const uint8_t magic[16] = {0x93, 'W', 'O', 'O', 'D', 'P', 'E', 'C', 'K', 'E', 'R', 13, 10, 26, 10, 0};
  uint8_t chunk[WP__CHUNK];
  uint64_t at;
  for (at = 0; at < file->size; at += WP__CHUNK) {
    size_t size = file->size - at < WP__CHUNK ? (size_t)(file->size - at) : WP__CHUNK, i;
    if (!wp__read(file, at, chunk, size)) return 0;
    for (i = 0; i + sizeof magic <= size; i += 64)
      if (!memcmp(chunk + i, magic, sizeof magic)) return *start = at + i, 1;
  }
  return 0;
}

static wp_status wp__check_blob(const wp__file* file, uint8_t header[128]) {
  uint8_t chunk[WP__CHUNK];
  uint64_t start, at, length, end, stored;
  uint32_t crc, format;
  if (!wp__find(file, &start)) return wp__fail(file, WP_ERROR_ARTIFACT);
  if (!wp__read(file, start, header, WP__HEADER)) return wp__fail(file, WP_ERROR_DAMAGED);
  format = (uint32_t)wp__number(header + 16, 4);
  if (format != WP__FORMAT)
    return wp__say(file, WP_ERROR_ARTIFACT, "format version %u, and this woodpecker.h reads %d: use the header that "
                   "came with the file, or compile the model again", (unsigned)format, WP__FORMAT);
  length = wp__number(header + 24, 8);
  at = wp__number(header + 32, 8);
  end = wp__number(header + 40, 8);
  if (length > file->size - start || at < WP__HEADER || at > length || end > length - at)
    return wp__fail(file, WP_ERROR_DAMAGED);
  end += at;
  stored = wp__number(header + 48, 4);
  memset(header + 48, 0, 4);
  crc = wp__crc(0xffffffffu, header, WP__HEADER);
  for (at = WP__HEADER; at < end;) {
    size_t size = end - at < WP__CHUNK ? (size_t)(end - at) : WP__CHUNK;
    if (!wp__read(file, start + at, chunk, size)) return wp__fail(file, WP_ERROR_DAMAGED);
    crc = wp__crc(crc, chunk, size);
    at += size;
  }
  return (crc ^ 0xffffffffu) == stored ? WP_OK : wp__fail(file, WP_ERROR_DAMAGED);
}

static wp_status wp__open(const wp__file* file, const uint8_t header[128], const wp_model** model) {
  const wp_model* (*get)(void) = NULL;
  const wp_model* found;
  wp_status status;
  void* symbol;
#ifdef _WIN32
  HMODULE library = LoadLibraryA(file->path);
  if (!library) return wp__say(file, WP_ERROR_FILE, "it can't be loaded: error %lu", (unsigned long)GetLastError());
  symbol = (void*)GetProcAddress(library, "woodpecker_model");
#else
  void* library;
  char* local = NULL;
  if (!strchr(file->path, '/')) { /* the dynamic linker would search for it */
    local = (char*)malloc(strlen(file->path) + 3);
    if (!local) return wp__say(file, WP_ERROR_FILE, "no memory");
    strcpy(local, "./");
    strcat(local, file->path);
  }
  library = dlopen(local ? local : file->path, RTLD_NOW | RTLD_LOCAL);
  free(local);
  if (!library) {
    const char* said = dlerror();
    return wp__say(file, WP_ERROR_FILE, "it can't be loaded: %s", said ? said : "no reason given");
  }
  symbol = dlsym(library, "woodpecker_model");
#endif
  if (!symbol)
    return wp__say(file, WP_ERROR_ARTIFACT, "it has no C interface: save the model again with a later woodpecker");
  memcpy(&get, &symbol, sizeof get); /* C has no conversion from objects to functions */
  found = get();
  status = wp_model_status(found);
  if (status == WP_ERROR_CPU)
    return wp__say(file, status, "this CPU can't run the code, which needs at least: %s", found->levels[0].features);
  if (status != WP_OK) return wp__fail(file, status);
  if (memcmp(found->blob + WP__DIGEST_AT, header + WP__DIGEST_AT, WP__HEADER - WP__DIGEST_AT))
    return wp__fail(file, WP_ERROR_REPLACED);
  *model = found;
  return WP_OK;
}

wp_status wp_model_load(const char* path, const wp_model** model, char* message, size_t message_size) {
  wp__file file = {NULL, 0, NULL, NULL, 0};
  uint8_t header[128];
  struct stat facts;
  long size;
  wp_status status;
  if (message && message_size) message[0] = 0;
  if (model) *model = NULL;
  file.path = path ? path : "NULL";
  file.message = message;
  file.message_size = message_size;
  if (!path || !model) return wp__fail(&file, WP_ERROR_NULL);
  if (stat(path, &facts)) return wp__say(&file, WP_ERROR_FILE, "%s", strerror(errno));
  if (!WP__IS_FILE(facts.st_mode)) return wp__say(&file, WP_ERROR_FILE, "it is no regular file");
  file.stream = fopen(path, "rb");
  if (!file.stream) return wp__say(&file, WP_ERROR_FILE, "%s", strerror(errno));
  size = fseek(file.stream, 0, SEEK_END) ? -1 : ftell(file.stream);
  file.size = size < 0 ? 0 : (uint64_t)size;
  status = wp__check_elf(&file);
  if (status == WP_OK) status = wp__check_blob(&file, header);
  fclose(file.stream);
  return status == WP_OK ? wp__open(&file, header, model) : status;
}

#ifdef __cplusplus
}
#endif
#endif /* WOODPECKER_IMPLEMENTATION */
