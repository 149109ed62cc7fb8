/* What the C interface refuses, with which code: argv[1] is a model with 4 features, one float32 output and a method
 * `predict`. Prints each line that is wrong.
 */
#define WOODPECKER_IMPLEMENTATION
#include "woodpecker.h"

#include <stdio.h>
#include <string.h>

static int wrong;

static void expect(int line, int got, int want) {
  if (got != want) printf("line %d: %d, expected %d\n", line, got, want), wrong++;
}
#define EXPECT(got, want) expect(__LINE__, (int)(got), (int)(want))

static float x[40];
static double x64[40];
static float out[10];
static int32_t leaves[4096];
static char scratch[1 << 22];

int main(int argc, char** argv) {
  const wp_model* m;
  char message[300];
  if (argc != 2 || wp_model_load(argv[1], &m, message, sizeof message) != WP_OK) return puts(message), 1;
  size_t need = wp_scratch_size(m, 1), size = sizeof scratch;
  if (need > sizeof scratch / 3) return puts("the scratch is too small for this test"), 1;

  EXPECT(wp_model_status(NULL), WP_ERROR_NULL);
  EXPECT(wp_model_status(m), WP_OK);
  EXPECT(wp_n_features(NULL) + wp_n_outputs(NULL) + wp_n_trees(NULL) + wp_n_methods(NULL) + wp_output_type(NULL), 0);
  EXPECT(wp_output_size(NULL) + wp_scratch_size(NULL, 1), 0);
  EXPECT(wp_cpu_level(NULL) == NULL && wp_method_name(NULL, 0) == NULL, 1);
  EXPECT(wp_n_features(m), 4);
  EXPECT(wp_output_type(m), WP_FLOAT32);
  EXPECT(wp_output_size(m), 4);
  EXPECT(wp_cpu_level(m) != NULL, 1);

  size_t length = 7;
  EXPECT(wp_manifest(NULL, &length) == NULL && length == 0, 1);
  EXPECT(wp_manifest(m, NULL) != NULL, 1);
  const char* text = wp_manifest(m, &length);
  EXPECT(text[0] == '{' && text[length - 1] == '}', 1);

  int32_t predict = wp_find_method(m, "predict");
  EXPECT(predict >= 0 && !strcmp(wp_method_name(m, predict), "predict"), 1);
  EXPECT(wp_method_width(m, predict), 1);
  EXPECT(wp_find_method(m, "predic"), -1);
  EXPECT(wp_find_method(m, "predict_"), -1);
  EXPECT(wp_find_method(m, ""), -1);
  EXPECT(wp_find_method(m, NULL), -1);
  EXPECT(wp_find_method(NULL, "predict"), -1);
  EXPECT(wp_method_name(m, -1) == NULL && wp_method_name(m, wp_n_methods(m)) == NULL, 1);
  EXPECT(wp_method_width(m, -1) + wp_method_width(m, 99), 0);

  EXPECT(wp_scratch_size(m, 0), 0);
  EXPECT(wp_scratch_size(m, -1), 0);
  EXPECT(wp_scratch_size(m, WP_MAX_THREADS + 1), 0);
  EXPECT(wp_scratch_size(m, 2) > need, 1);
  EXPECT(wp_scratch_size(m, WP_MAX_THREADS) > 255 * (need - 63), 1);

#define RAW(...) wp_predict_raw_f32(__VA_ARGS__)
  EXPECT(RAW(m, x, 10, 4, out, sizeof out, scratch, size, 1), WP_OK);
  EXPECT(RAW(m, x, 10, 4, out, sizeof out, scratch, need, 1), WP_OK);
  EXPECT(RAW(m, x, 10, 4, out, sizeof out, scratch + 1, need, 1), WP_OK);
  EXPECT(RAW(m, x, 10, 4, out, sizeof out, scratch, wp_scratch_size(m, 2), 2), WP_OK);
  EXPECT(RAW(m, x, 4, 10, out, sizeof out, scratch, size, 1), WP_OK);
  EXPECT(RAW(m, NULL, 0, 4, NULL, 0, NULL, 0, 1), WP_OK);
  EXPECT(RAW(NULL, x, 10, 4, out, sizeof out, scratch, size, 1), WP_ERROR_NULL);
  EXPECT(RAW(m, NULL, 10, 4, out, sizeof out, scratch, size, 1), WP_ERROR_NULL);
  EXPECT(RAW(m, x, 10, 4, NULL, sizeof out, scratch, size, 1), WP_ERROR_NULL);
  EXPECT(RAW(m, x, 10, 4, out, sizeof out, NULL, size, 1), WP_ERROR_NULL);
  EXPECT(RAW(m, x, -1, 4, out, sizeof out, scratch, size, 1), WP_ERROR_ROWS);
  EXPECT(RAW(m, x, INT64_MIN, 4, out, sizeof out, scratch, size, 1), WP_ERROR_ROWS);
  EXPECT(RAW(m, x, INT64_MAX, 4, out, sizeof out, scratch, size, 1), WP_ERROR_ROWS);
  EXPECT(RAW(m, x, INT64_MAX / 16, 5, out, sizeof out, scratch, size, 1), WP_ERROR_ROWS);
  EXPECT(RAW(m, x, 2, INT64_MAX, out, sizeof out, scratch, size, 1), WP_ERROR_ROWS);
  EXPECT(RAW(m, x, 10, 3, out, sizeof out, scratch, size, 1), WP_ERROR_STRIDE);
  EXPECT(RAW(m, x, 10, 0, out, sizeof out, scratch, size, 1), WP_ERROR_STRIDE);
  EXPECT(RAW(m, x, 10, -4, out, sizeof out, scratch, size, 1), WP_ERROR_STRIDE);
  EXPECT(RAW(m, x, 10, INT64_MIN, out, sizeof out, scratch, size, 1), WP_ERROR_STRIDE);
  EXPECT(RAW(m, x, 10, 4, out, sizeof out - 1, scratch, size, 1), WP_ERROR_OUT_SIZE);
  EXPECT(RAW(m, x, 10, 4, out, 0, scratch, size, 1), WP_ERROR_OUT_SIZE);
  EXPECT(RAW(m, x, 10, 4, out, sizeof out, scratch, need - 1, 1), WP_ERROR_SCRATCH_SIZE);
  EXPECT(RAW(m, x, 10, 4, out, sizeof out, scratch, need, 2), WP_ERROR_SCRATCH_SIZE);
  EXPECT(RAW(m, x, 10, 4, out, sizeof out, scratch, size, 0), WP_ERROR_THREADS);
  EXPECT(RAW(m, x, 10, 4, out, sizeof out, scratch, size, -1), WP_ERROR_THREADS);
  EXPECT(RAW(m, x, 10, 4, out, sizeof out, scratch, size, WP_MAX_THREADS + 1), WP_ERROR_THREADS);
  EXPECT(RAW(m, (const float*)(const void*)((const char*)x + 1), 9, 4, out, sizeof out, scratch, size, 1),
         WP_ERROR_ALIGNMENT);
  EXPECT(RAW(m, x, 9, 4, (char*)out + 2, sizeof out - 2, scratch, size, 1), WP_ERROR_ALIGNMENT);
  EXPECT(wp_predict_raw_f64(m, (const double*)(const void*)((const char*)x64 + 4), 9, 4, out, sizeof out, scratch, size, 1),
         WP_ERROR_ALIGNMENT);
  EXPECT(wp_predict_raw_f64(m, x64, 10, 4, out, sizeof out, scratch, size, 1), WP_OK);
  EXPECT(wp_predict_raw_f64(NULL, x64, 10, 4, out, sizeof out, scratch, size, 1), WP_ERROR_NULL);

  EXPECT(wp_predict_f32(m, predict, x, 10, 4, out, sizeof out, scratch, need, 1), WP_OK);
  EXPECT(wp_predict_f64(m, predict, x64, 10, 4, out, sizeof out, scratch, need, 1), WP_OK);
  EXPECT(wp_predict_f32(NULL, predict, x, 10, 4, out, sizeof out, scratch, size, 1), WP_ERROR_NULL);
  EXPECT(wp_predict_f64(NULL, predict, x64, 10, 4, out, sizeof out, scratch, size, 1), WP_ERROR_NULL);
  EXPECT(wp_predict_f32(m, -1, x, 10, 4, out, sizeof out, scratch, size, 1), WP_ERROR_METHOD);
  EXPECT(wp_predict_f64(m, -2, x64, 10, 4, out, sizeof out, scratch, size, 1), WP_ERROR_METHOD);
  EXPECT(wp_predict_f32(m, wp_n_methods(m), x, 10, 4, out, sizeof out, scratch, size, 1), WP_ERROR_METHOD);

  size_t ids = 10 * sizeof(int32_t) * (size_t)wp_n_trees(m);
  EXPECT(wp_apply_f32(m, x, 10, 4, leaves, ids, scratch, size, 1), WP_OK);
  EXPECT(wp_apply_f64(m, x64, 10, 4, leaves, ids, scratch, size, 1), WP_OK);
  EXPECT(wp_apply_f32(m, x, 10, 4, leaves, ids - 1, scratch, size, 1), WP_ERROR_OUT_SIZE);
  EXPECT(wp_apply_f32(NULL, x, 10, 4, leaves, ids, scratch, size, 1), WP_ERROR_NULL);
  EXPECT(wp_apply_f64(NULL, x64, 10, 4, leaves, ids, scratch, size, 1), WP_ERROR_NULL);

  wp_model other = *m;
  other.abi_version++;
  EXPECT(wp_model_status(&other), WP_ERROR_ABI);
  EXPECT(RAW(&other, x, 10, 4, out, sizeof out, scratch, size, 1), WP_ERROR_ABI);
  EXPECT(wp_n_features(&other) + wp_n_methods(&other) + (int)wp_scratch_size(&other, 1), 0);
  EXPECT(wp_manifest(&other, &length) == NULL && wp_cpu_level(&other) == NULL, 1);

  EXPECT(wp_model_load(NULL, &m, message, sizeof message), WP_ERROR_NULL);
  EXPECT(m == NULL && strlen(message) > 10, 1);
  EXPECT(wp_model_load(argv[1], NULL, NULL, 0), WP_ERROR_NULL);
  EXPECT(wp_model_load("", &m, NULL, 0), WP_ERROR_FILE);
  EXPECT(wp_model_load("/", &m, message, 5), WP_ERROR_FILE);
  EXPECT(strlen(message), 4);
  EXPECT(wp_model_load(argv[1], &m, message, 1), WP_OK);
  EXPECT(message[0], 0);
  EXPECT(wp_model_load(argv[0], &m, message, sizeof message), WP_ERROR_ARTIFACT);
  for (int status = 0; status <= 18; status++) EXPECT(strcmp(wp_status_message((wp_status)status), "unknown status") != 0, 1);
  EXPECT(strcmp(wp_status_message((wp_status)19), "unknown status"), 0);
  return wrong != 0;
}
