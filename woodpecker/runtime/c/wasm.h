/* What a WebAssembly module exports beside its memory, malloc and free: functions of numbers and addresses alone, as a
 * host can't call through the structure of woodpecker.h. It imports nothing. woodpecker.mjs calls them from JavaScript;
 * other hosts can do the same, once they have called _initialize:
 *
 *     x = malloc(rows * wp_n_features() * 4)                  and copy the rows there
 *     size = wp_scratch_size(), scratch = malloc(size)
 *     y_size = rows * wp_n_outputs() * 4, y = malloc(y_size)  8 where wp_output_type() is 2 (float64)
 *     status = wp_predict(-1, 1, x, rows, wp_n_features(), y, y_size, scratch, size)
 *
 * and 0, no error, means that the results are at y. What is computed: -1 raw scores, -2 leaf ids (int32), else the
 * number of a method, wp_method_width elements a row. X is of type 1 (float32) or 2 (float64), row_stride elements a
 * row. Where malloc returns 0, there is no more memory; memory may grow in every malloc, and hosts' views of it end
 * then.
 */
#ifndef WP_WASM_H
#define WP_WASM_H

#define WP_WASM(type, name, ...)                                      \
  __attribute__((export_name("wp_" #name))) type wp_wasm_##name(__VA_ARGS__); \
  type wp_wasm_##name(__VA_ARGS__)

WP_WASM(int32_t, abi_version, void) { return WP_ABI_VERSION; }
WP_WASM(int32_t, n_features, void) { return WP_N_FEATURES; }
WP_WASM(int32_t, n_outputs, void) { return WP_N_OUTPUTS; }
WP_WASM(int32_t, n_trees, void) { return WP_N_TREES; }
WP_WASM(int32_t, output_type, void) { return WP_REAL_TYPE; }

/* 0 where the checksum of the model's header, directories and manifest is right. Tables have none that is so quick. */
WP_WASM(int32_t, check, void) {
  enum { HEADER = 128, MANIFEST_AT = 32, MANIFEST_SIZE = 40, CRC = 48 };
  const uint8_t* volatile model = WP_BLOB_DATA; /* else the compiler, which knows it, checks it itself */
  const uint8_t* blob = model;
  const uint8_t none[4] = {0, 0, 0, 0}; /* what the field of the checksum counts as */
  uint64_t at = wp__number(blob + MANIFEST_AT, 8), size = wp__number(blob + MANIFEST_SIZE, 8);
  uint32_t crc;
  if (at < HEADER || at > WP_BLOB_BYTES || size > WP_BLOB_BYTES - at) return WP_ERROR_DAMAGED;
  crc = wp__crc(0xffffffffu, blob, CRC);
  crc = wp__crc(crc, none, sizeof none);
  crc = wp__crc(crc, blob + CRC + sizeof none, (size_t)(at + size) - CRC - sizeof none);
  return (crc ^ 0xffffffffu) == wp__number(blob + CRC, 4) ? WP_OK : WP_ERROR_DAMAGED;
}

/* The manifest, a JSON text of that many bytes without a final 0: see docs/artifact-format.md. */
WP_WASM(const char*, manifest, void) { return wp_manifest(&wp_the_model, 0); }
WP_WASM(size_t, manifest_size, void) {
  size_t size;
  wp_manifest(&wp_the_model, &size);
  return size;
}

/* The source model's methods: their names end in a 0; 0 is returned for what is no method. */
WP_WASM(int32_t, n_methods, void) { return WP_NUM_METHODS; }
WP_WASM(const char*, method_name, int32_t method) { return wp_method_name(&wp_the_model, method); }
WP_WASM(int32_t, method_width, int32_t method) { return wp_method_width(&wp_the_model, method); }

/* Bytes of scratch that a prediction needs, of any number of rows. */
WP_WASM(size_t, scratch_size, void) { return wp_scratch_size(&wp_the_model, 1); }

/* A prediction; returns a wp_status of woodpecker.h. */
WP_WASM(int32_t, predict, int32_t what, int32_t x_type, const void* X, int32_t rows, int32_t row_stride, void* out,
        size_t out_size, void* scratch, size_t scratch_size) {
  return wp_predict(what, x_type, X, rows, row_stride, out, out_size, scratch, scratch_size, 1);
}

/* A status in words that end in a 0. */
WP_WASM(const char*, status_message, int32_t status) { return wp_status_message((wp_status)status); }

#endif
