/* The driver's interface over the fake runtime: as much of libcuda.so.1 as pycuda calls for edgekd's adapter. */
#include "fake_cudart.c"

typedef int CUresult;
typedef unsigned long long CUdeviceptr;

static int contexts, pushed;
int fake_contexts(void) { return contexts; }
int fake_pushed(void) { return pushed; }

CUresult cuInit(unsigned int flags) { (void)flags; return 0; }
CUresult cuDriverGetVersion(int *version) { *version = 12060; return 0; }
CUresult cuGetErrorString(CUresult code, const char **text) { *text = cudaGetErrorString(E(code)); return 0; }
CUresult cuDeviceGetCount(int *count) { return cudaGetDeviceCount(count); }
CUresult cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal ? 101 : 0; }
CUresult cuDeviceGetName(char *name, int size, int device) { (void)device; strncpy(name, "Fake Orin", size); return 0; }
CUresult cuDeviceComputeCapability(int *major, int *minor, int device) { (void)device; *major = 8; *minor = 7; return 0; }
CUresult cuDeviceGetAttribute(int *value, int attribute, int device) {
    return cudaDeviceGetAttribute(value, (enum cudaDeviceAttr)attribute, device);
}
CUresult cuDeviceGetPCIBusId(char *place, int size, int device) { return cudaDeviceGetPCIBusId(place, size, device); }
CUresult cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)device; *bytes = 8ul << 30; return 0; }
CUresult cuDevicePrimaryCtxSetFlags_v2(int device, unsigned int flags) { return device ? 101 : contexts ? 708 : (CUresult)cudaSetDeviceFlags(flags); }
CUresult cuDevicePrimaryCtxRetain(void **context, int device) { (void)device; contexts++; *context = &contexts; return 0; }
CUresult cuDevicePrimaryCtxRelease_v2(int device) { (void)device; contexts--; return 0; }
CUresult cuCtxPushCurrent_v2(void *context) { pushed++; return context == &contexts ? 0 : 201; }
CUresult cuCtxPopCurrent_v2(void **context) { if (context) *context = &contexts; return pushed-- > 0 ? 0 : 201; }
CUresult cuCtxGetDevice(int *device) { *device = 0; return pushed ? 0 : 201; }
CUresult cuCtxDetach(void *context) { (void)context; return 0; }
CUresult cuMemAlloc_v2(CUdeviceptr *to, size_t size) {
    void *made = NULL;
    CUresult code = pushed ? (CUresult)cudaMalloc(&made, size) : 201;
    *to = (CUdeviceptr)made;
    return code;
}
CUresult cuMemFree_v2(CUdeviceptr pointer) { return pushed ? (CUresult)cudaFree((void *)pointer) : 201; }
CUresult cuMemHostAlloc(void **to, size_t size, unsigned int flags) { return pushed ? (CUresult)cudaHostAlloc(to, size, flags) : 201; }
CUresult cuMemFreeHost(void *pointer) { return cudaFreeHost(pointer); }
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t size, cudaStream_t stream) {
    return cudaMemcpyAsync((void *)to, from, size, cudaMemcpyHostToDevice, stream);
}
CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t size, cudaStream_t stream) {
    return cudaMemcpyAsync(to, (void *)from, size, cudaMemcpyDeviceToHost, stream);
}
CUresult cuStreamCreate(cudaStream_t *stream, unsigned int flags) { (void)flags; return cudaStreamCreateWithFlags(stream, 1); }
CUresult cuStreamSynchronize(cudaStream_t stream) { return cudaStreamSynchronize(stream); }
CUresult cuStreamDestroy_v2(cudaStream_t stream) { return cudaStreamDestroy(stream); }
CUresult cuEventCreate(cudaEvent_t *event, unsigned int flags) { return cudaEventCreateWithFlags(event, flags); }
CUresult cuEventRecord(cudaEvent_t event, cudaStream_t stream) { return cudaEventRecord(event, stream); }
CUresult cuEventSynchronize(cudaEvent_t event) { return cudaEventSynchronize(event); }
CUresult cuEventElapsedTime_v2(float *ms, cudaEvent_t start, cudaEvent_t end) { return cudaEventElapsedTime(ms, start, end); }
CUresult cuEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end) { return cudaEventElapsedTime(ms, start, end); }
CUresult cuEventDestroy_v2(cudaEvent_t event) { return cudaEventDestroy(event); }
