/* SPDX-License-Identifier: Apache-2.0
 * The DLPack 1.x tensor structures that cross the kerf ABI, declared with the standard's own names and layout. When the
 * program already sees another copy of the standard header (LibTorch ships one), that one is used. */
#ifndef KERF_DLPACK_H
#define KERF_DLPACK_H

#include <stddef.h>
#include <stdint.h>

#ifndef DLPACK_DLPACK_H_
#if defined(__has_include)
#if __has_include(<ATen/dlpack.h>)
#include <ATen/dlpack.h>
#define KERF_DLPACK_FROM_TORCH
#endif
#endif
#ifndef KERF_DLPACK_FROM_TORCH
#define DLPACK_DLPACK_H_
#ifdef __cplusplus
extern "C" {
#endif
#ifdef __cplusplus
typedef enum : int32_t {
#else
typedef enum {
#endif
    kDLCPU = 1,
    kDLCUDA = 2,
    kDLCUDAHost = 3
} DLDeviceType;
typedef struct {
    DLDeviceType device_type;
    int32_t device_id;
} DLDevice;
typedef enum { kDLInt = 0U, kDLUInt = 1U, kDLFloat = 2U, kDLBfloat = 4U, kDLBool = 6U } DLDataTypeCode;
typedef struct {
    uint8_t code, bits;
    uint16_t lanes;
} DLDataType;
typedef struct {
    void* data;
    DLDevice device;
    int32_t ndim;
    DLDataType dtype;
    int64_t* shape;
    int64_t* strides; /* in elements; kerf never leaves it NULL */
    uint64_t byte_offset;
} DLTensor;
#ifdef __cplusplus
}
#endif
#endif /* KERF_DLPACK_FROM_TORCH */
#endif /* DLPACK_DLPACK_H_ */

#endif /* KERF_DLPACK_H */
