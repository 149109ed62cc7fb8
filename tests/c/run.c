/* Predictions of binary rows, through woodpecker.h alone:
 *
 *     run X-FILE OUT-FILE TYPE STRIDE WHAT THREADS SIZES [MODEL.so]
 *
 * X-FILE holds rows of STRIDE numbers of TYPE (f32, f64). They are predicted in calls of SIZES rows ("0,1,7,1000"); OUT-FILE
 * gets the results of all calls. WHAT is raw, apply or a method. The scratch is not aligned, and bytes around it and around
 * the results must stay as they are. With the macro FORKED, all of it happens once, and again in a child after fork, whose
 * results are kept. With the macro MODEL the model is linked with the program.
 */
#ifndef MODEL
#define WOODPECKER_IMPLEMENTATION
#endif
#include "woodpecker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef FORKED
#include <sys/wait.h>
#include <unistd.h>
#endif

#ifdef MODEL
WP_DECLARE_MODEL(MODEL);
#endif

enum { kGuard = 64, kMark = 0x5a };

static int fail(const char* what) {
  fprintf(stderr, "%s\n", what);
  return 1;
}

static char* guarded(size_t size) {
  char* memory = (char*)malloc(size + 2 * kGuard);
  if (memory) memset(memory, kMark, size + 2 * kGuard);
  return memory;
}

static int intact(const char* memory, size_t size) {
  for (int i = 0; i < kGuard; i++)
    if (memory[i] != kMark || memory[kGuard + size + (size_t)i] != kMark) return 0;
  return 1;
}

static int predictions(const wp_model* model, char** argv, int32_t threads) {
  int wide = !strcmp(argv[3], "f64"), stride = atoi(argv[4]);
  const char* what = argv[5];
  size_t x_size = wide ? 8 : 4, scratch_size = wp_scratch_size(model, threads);
  int32_t method = wp_find_method(model, what);
  int apply = !strcmp(what, "apply");
  size_t row = apply ? 4 * (size_t)wp_n_trees(model)
                     : wp_output_size(model) * (size_t)(method < 0 ? wp_n_outputs(model) : wp_method_width(model, method));
  FILE* file = fopen(argv[1], "rb");
  FILE* results = fopen(argv[2], "wb");
  char* scratch = guarded(scratch_size + 1);
  if (!file || !results || !scratch) return fail("files");
  if (method < 0 && !apply && strcmp(what, "raw")) return fail("no such method");
  for (char* sizes = argv[7]; *sizes; sizes += *sizes == ',') {
    int64_t rows = strtoll(sizes, &sizes, 10);
    size_t out_size = (size_t)rows * row, bytes = (size_t)rows * (size_t)stride * x_size;
    char* x = (char*)malloc(bytes + 1);
    char* memory = guarded(out_size);
    if (!x || !memory || fread(x, 1, bytes, file) != bytes) return fail("rows");
    void *out = memory + kGuard, *space = scratch + kGuard + 1;
    const float* x32 = (const float*)(void*)x;
    const double* x64 = (const double*)(void*)x;
    wp_status status =
        apply ? (wide ? wp_apply_f64(model, x64, rows, stride, (int32_t*)out, out_size, space, scratch_size, threads)
                      : wp_apply_f32(model, x32, rows, stride, (int32_t*)out, out_size, space, scratch_size, threads))
        : method < 0 ? (wide ? wp_predict_raw_f64(model, x64, rows, stride, out, out_size, space, scratch_size, threads)
                             : wp_predict_raw_f32(model, x32, rows, stride, out, out_size, space, scratch_size, threads))
        : wide ? wp_predict_f64(model, method, x64, rows, stride, out, out_size, space, scratch_size, threads)
               : wp_predict_f32(model, method, x32, rows, stride, out, out_size, space, scratch_size, threads);
    if (status != WP_OK) return fail(wp_status_message(status));
    if (!intact(memory, out_size) || !intact(scratch, scratch_size + 1)) return fail("it wrote beyond its memory");
    if (fwrite(out, 1, out_size, results) != out_size) return fail("results");
    free(x);
    free(memory);
  }
  free(scratch);
  fclose(file);
  return fclose(results) ? fail("results") : 0;
}

int main(int argc, char** argv) {
  const wp_model* model;
  int32_t threads = argc > 6 ? atoi(argv[6]) : 0;
#ifdef MODEL
  if (argc != 8) return fail("arguments");
  model = MODEL();
  if (wp_model_status(model) != WP_OK) return fail(wp_status_message(wp_model_status(model)));
#else
  char message[512];
  if (argc != 9) return fail("arguments");
  if (wp_model_load(argv[8], &model, message, sizeof message) != WP_OK) return fail(message);
#endif
#ifdef FORKED
  if (predictions(model, argv, threads)) return 1;
  pid_t child = fork();
  if (child) {
    int status = 1;
    return waitpid(child, &status, 0) != child || status;
  }
#endif
  return predictions(model, argv, threads);
}
