/* Runs one entry of an artifact's code, linked into this program, without Python:
 *
 *     device ENTRY X-FILE OUT-FILE ROWS FEATURES WIDTH SCRATCH-BYTES MODEL-BYTES
 *
 * X-FILE holds (ROWS, FEATURES) numbers, float32 or float64 as ENTRY says ("raw_f32", "apply_f64", ...); OUT-FILE gets
 * (ROWS, WIDTH) numbers of the entry's own type. The macro WP_PREFIX is the model's, ACC_BYTES the bytes of a score.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CAT_(a, b) a##b
#define CAT(a, b) CAT_(a, b)
#define SYMBOL(name) CAT(CAT(__tvm_ffi_, WP_PREFIX), CAT(_, name))

typedef struct { int32_t type_index; uint32_t zero_padding; union { int64_t v_int64; void* v_ptr; }; } Any;
typedef struct { uint8_t code, bits; uint16_t lanes; } DLDataType;
typedef struct {
  void* data;
  struct { int32_t type, id; } device;
  int32_t ndim;
  DLDataType dtype;
  int64_t *shape, *strides;
  uint64_t byte_offset;
} DLTensor;
_Static_assert(sizeof(Any) == 16, "the calling convention's values have 16 bytes");

typedef int Entry(void*, const Any*, int32_t, Any*);
extern Entry SYMBOL(raw_f32), SYMBOL(raw_f64), SYMBOL(apply_f32), SYMBOL(apply_f64), SYMBOL(model);

void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t n) {
  fprintf(stderr, "%s: ", kind);
  for (int32_t i = 0; i < n; i++) fputs(parts[i], stderr);
  fputc('\n', stderr);
}

static int failed(const char* what) {
  perror(what);
  return 1;
}

int main(int argc, char** argv) {
  if (argc != 9) return 2;
  const char* name = argv[1];
  int wide = strstr(name, "64") != 0, raw = name[0] == 'r';
  int64_t rows = atoll(argv[4]), features = atoll(argv[5]), width = atoll(argv[6]);
  int64_t scratch_bytes = atoll(argv[7]), model_bytes = atoll(argv[8]);
  int x_bytes = wide ? 8 : 4, out_bytes = raw ? ACC_BYTES : 4;
  size_t x_size = (size_t)(rows * features) * x_bytes, out_size = (size_t)(rows * width) * out_bytes;
  void *x = malloc(x_size + 1), *out = malloc(out_size + 1);
  void* scratch = aligned_alloc(64, (size_t)((scratch_bytes + 63) / 64 * 64));
  Any result = {0};
  if (!x || !out || !scratch || SYMBOL(model)(0, 0, 0, &result)) return failed("memory");
  FILE* file = fopen(argv[2], "rb");
  if (!file || fread(x, 1, x_size, file) != x_size) return failed(argv[2]);
  fclose(file);
  int64_t x_shape[2] = {rows, features}, x_strides[2] = {features, 1};
  int64_t out_shape[2] = {rows, width}, out_strides[2] = {width, 1}, one[1] = {1};
  DLTensor tensors[4] = {
      {x, {1, 0}, 2, {2, (uint8_t)(8 * x_bytes), 1}, x_shape, x_strides, 0},
      {out, {1, 0}, 2, {raw ? 2 : 0, (uint8_t)(8 * out_bytes), 1}, out_shape, out_strides, 0},
      {scratch, {1, 0}, 1, {1, 8, 1}, &scratch_bytes, one, 0},
      {(void*)(intptr_t)result.v_int64, {1, 0}, 1, {1, 8, 1}, &model_bytes, one, 0},
  };
  Any args[6] = {0};
  for (int i = 0; i < 4; i++) args[i].type_index = 7, args[i].v_ptr = &tensors[i];
  for (int i = 4; i < 6; i++) args[i].type_index = 1;
  args[5].v_int64 = rows;
  Entry* entries[] = {SYMBOL(apply_f32), SYMBOL(apply_f64), SYMBOL(raw_f32), SYMBOL(raw_f64)};
  if (entries[2 * raw + wide](0, args, 6, &result)) return 3;
  file = fopen(argv[3], "wb");
  if (!file || fwrite(out, 1, out_size, file) != out_size || fclose(file)) return failed(argv[3]);
  return 0;
}
