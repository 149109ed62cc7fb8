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
} Any;

typedef struct {
  uint8_t code, bits;
  uint16_t lanes;
} DLDataType;

typedef struct {
  void* data;
  struct {
    int32_t type, id;
  } device;
  int32_t ndim;
  DLDataType dtype;
  int64_t *shape, *strides;
  uint64_t byte_offset;
} DLTensor;

enum { kInt = 1, kDLTensorPtr = 7, kTensor = 70, kObjectHeaderBytes = 24 };
enum { kCpu = 1, kDLInt = 0, kDLUInt = 1, kDLFloat = 2 };

/* What a compiled entry is. */
typedef int (*Entry)(void*, const Any*, int32_t, Any*);

static inline Any any_int(int64_t value) { return (Any){.type_index = kInt, .v_int64 = value}; }
static inline Any any_tensor(DLTensor* tensor) { return (Any){.type_index = kDLTensorPtr, .v_ptr = tensor}; }

#endif
