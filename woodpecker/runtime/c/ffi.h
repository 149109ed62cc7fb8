/* The stable C ABIs of tvm-ffi (c_api.h) and DLPack, as far as they are used here. */
#ifndef WP_FFI_H
#define WP_FFI_H

#include <stdint.h>

typedef struct {
  int32_t type_index;
  uint32_t zero_padding;
  union {
    int64_t v_int64;
    void* v_ptr;
  };
} wp_any;

typedef struct {
  uint8_t code, bits;
  uint16_t lanes;
} wp_dtype;

typedef struct {
  void* data;
  struct {
    int32_t type, id;
  } device;
  int32_t ndim;
  wp_dtype dtype;
  int64_t *shape, *strides;
  uint64_t byte_offset;
} wp_tensor;

enum { WP_FFI_INT = 1, WP_FFI_DLTENSOR_PTR = 7, WP_FFI_TENSOR = 70, WP_FFI_HEADER_BYTES = 24 };
enum { WP_DL_CPU = 1, WP_DL_INT = 0, WP_DL_UINT = 1, WP_DL_FLOAT = 2 };

/* What a compiled entry is. */
typedef int (*wp_entry)(void*, const wp_any*, int32_t, wp_any*);

static inline wp_any wp_any_int(int64_t value) { return (wp_any){.type_index = WP_FFI_INT, .v_int64 = value}; }
static inline wp_any wp_any_tensor(wp_tensor* tensor) {
  return (wp_any){.type_index = WP_FFI_DLTENSOR_PTR, .v_ptr = tensor};
}

#endif
