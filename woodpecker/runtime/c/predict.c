/* Predictions of a woodpecker artifact in C, without Python:
 *
 *     predict MODEL.so [METHOD [THREADS]] < rows.csv
 *
 * reads rows of numbers, one line a row and an empty field for a missing value, and prints one line of results for each.
 * METHOD is raw (the default), apply, or a method of the source model, such as predict_proba. To compile it:
 *
 *     cc -O2 -o predict predict.c -ldl
 *
 * Linked with the model instead, a static library whose function is fraud_model: predict [METHOD [THREADS]] < rows.csv
 *
 *     cc -O2 -DMODEL=fraud_model -o predict predict.c libfraud.a -lm -lpthread
 */
#ifndef MODEL
#define WOODPECKER_IMPLEMENTATION
#endif
#include "woodpecker.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 1024, LINE = 1 << 20 };

static int fail(const char* what, const char* why) {
  fprintf(stderr, "error: %s: %s\n", what, why);
  return 1;
}

/* The numbers of a line; 0 where there are not n of them. */
static int parse(char* line, double* row, int32_t n) {
  int32_t i;
  for (i = 0; i < n; i++) {
    char* end;
    while (*line == ' ') line++;
    row[i] = strtod(line, &end);
    if (end == line) row[i] = NAN; /* an empty field */
    while (isspace((unsigned char)*end)) end++;
    if (*end != (i + 1 < n ? ',' : 0)) return 0;
    line = end + 1;
  }
  return 1;
}

static void print(const wp_model* model, const void* out, int64_t rows, int32_t width, int leaves) {
  int64_t i;
  for (i = 0; i < rows * width; i++) {
    char end = (i + 1) % width ? ',' : '\n';
    if (leaves) printf("%d%c", (int)((const int32_t*)out)[i], end);
    else if (wp_output_type(model) == WP_FLOAT32) printf("%.9g%c", (double)((const float*)out)[i], end);
    else printf("%.17g%c", ((const double*)out)[i], end);
  }
}

#ifdef MODEL
WP_DECLARE_MODEL(MODEL);
#endif

int main(int argc, char** argv) {
  const wp_model* model;
  const char* name;
  int32_t method = -1, width, features, threads = 1;
  size_t scratch_size, out_size;
  int64_t rows = 0, number = 0;
  int leaves, more = 1;
  double* x;
  void *out, *scratch;
  char* line;
#ifdef MODEL
  model = MODEL();
  argv--, argc++;
#else
  char message[512];
  if (argc < 2) return fail("usage", "predict MODEL.so [METHOD [THREADS]] < rows.csv");
  if (wp_model_load(argv[1], &model, message, sizeof message) != WP_OK) return fail("the model", message);
#endif
  if (wp_model_status(model) != WP_OK) return fail("the model", wp_status_message(wp_model_status(model)));
  name = argc > 2 ? argv[2] : "raw";
  if (argc > 3) threads = atoi(argv[3]);
  leaves = !strcmp(name, "apply");
  if (leaves) width = wp_n_trees(model);
  else if (!strcmp(name, "raw")) width = wp_n_outputs(model);
  else {
    method = wp_find_method(model, name);
    if (method < 0) return fail(name, "the model has no such method");
    width = wp_method_width(model, method);
  }
  features = wp_n_features(model);
  scratch_size = wp_scratch_size(model, threads);
  out_size = (size_t)BATCH * (size_t)width * 8;
  x = (double*)malloc((size_t)BATCH * (size_t)features * sizeof *x + 1);
  out = malloc(out_size + 1);
  scratch = malloc(scratch_size + 1);
  line = (char*)malloc(LINE);
  if (!x || !out || !scratch || !line) return fail("memory", "there is not enough");
  while (more) {
    wp_status status;
    more = fgets(line, LINE, stdin) != NULL;
    if (more) {
      number++;
      if (!parse(line, x + rows * features, features)) {
        fprintf(stderr, "error: line %ld does not hold %d numbers\n", (long)number, (int)features);
        return 1;
      }
      rows++;
    }
    if (rows < BATCH && more) continue;
    if (leaves) status = wp_apply_f64(model, x, rows, features, (int32_t*)out, out_size, scratch, scratch_size, threads);
    else if (method < 0)
      status = wp_predict_raw_f64(model, x, rows, features, out, out_size, scratch, scratch_size, threads);
    else
      status = wp_predict_f64(model, method, x, rows, features, out, out_size, scratch, scratch_size, threads);
    if (status != WP_OK) return fail("predicting", wp_status_message(status));
    print(model, out, rows, width, leaves);
    rows = 0;
  }
  if (ferror(stdin)) return fail("reading", "the input can't be read to its end");
  if (fflush(stdout) || ferror(stdout)) return fail("writing", "the output can't be written");
  return 0;
}
