/* A CUDA runtime without a GPU, to hold edgekd's ctypes adapter against: real calls, host memory in place of a GPU's.

   Strict where a real one is: work given to a stream runs only when somebody waits for it; device and host pointers are
   not to be mixed up; a handle or a pointer that it did not hand out, or took back, is an error; recording forbids waiting.
   Beyond CUDA: fake_live() counts what was not given back (fake_forget() stops counting it), fake_fail() lets the n-th call of a function fail,
   fake_calls() counts calls. With -DWITH_HEADER the compiler holds every signature against NVIDIA's own header. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef WITH_HEADER
#include <cuda_runtime_api.h>
#define OK cudaSuccess
#else
typedef int cudaError_t;
typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;
typedef struct CUgraph_st *cudaGraph_t;
typedef struct CUgraphExec_st *cudaGraphExec_t;
typedef void (*cudaHostFn_t)(void *);
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone = 0, cudaStreamCaptureStatusActive = 1 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16, cudaDevAttrComputeCapabilityMajor = 75, cudaDevAttrComputeCapabilityMinor = 76 };
struct cudaDeviceProp { char name[256]; };
#define OK 0
#endif

#define E(code) ((cudaError_t)(code))
enum { INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_HANDLE = 400, NOT_READY = 600, CAPTURING = 900, NO_CAPTURE = 901 };
enum kind { DEVICE, HOST, STREAM, EVENT, GRAPH, EXEC };

typedef struct op { int what; void *to; const void *from; size_t size; cudaHostFn_t run; struct op *next; } op;
enum { COPY, RUN, MARK };
typedef struct thing { enum kind kind; char *memory; size_t size; op *first, *last; int recording; double stamp; struct thing *next; } thing;

static thing *things;
static char failing[64];
static int countdown, failure, devices = 1;
static struct { char name[64]; int count; } calls[64];

/* ---- what the tests ask -------------------------------------------------------------------------------------------- */
int fake_live(void) { int n = 0; for (thing *t = things; t; t = t->next) n++; return n; }
void fake_forget(void) { while (things) { thing *t = things; things = t->next; free(t); } }
void fake_fail(const char *name, int nth, int code) { strncpy(failing, name, 63); countdown = nth; failure = code; }
void fake_devices(int count) { devices = count; }
void fake_reset(void) { failing[0] = 0; countdown = 0; devices = 1; memset(calls, 0, sizeof calls); }
int fake_calls(const char *name) { for (int k = 0; k < 64; k++) if (!strcmp(calls[k].name, name)) return calls[k].count; return 0; }

static int enter(const char *name) {
    for (int k = 0; k < 64; k++) {
        if (!calls[k].name[0]) strncpy(calls[k].name, name, 63);
        if (!strcmp(calls[k].name, name)) { calls[k].count++; break; }
    }
    if (!strcmp(failing, name) && --countdown == 0) return failure;
    return 0;
}
#define ENTER do { int wrong = enter(__func__); if (wrong) return E(wrong); } while (0)

/* ---- bookkeeping --------------------------------------------------------------------------------------------------- */
static thing *make(enum kind kind, size_t size) {
    thing *t = calloc(1, sizeof *t);
    t->kind = kind; t->size = size; t->next = things; things = t;
    /* addresses of malloc are above 4 GiB here, as a GPU's are: one that is cut to 32 bits is found out */
    if (kind == DEVICE || kind == HOST) { t->memory = malloc(size ? size : 1); memset(t->memory, 0xA5, size); }
    return t;
}
static thing *find(const void *handle, enum kind kind) {
    for (thing *t = things; t; t = t->next)
        if (t->kind == kind && (t->memory ? (void *)t->memory : (void *)t) == handle) return t;
    return NULL;
}
static int within(const void *pointer, size_t size, enum kind kind) {
    for (thing *t = things; t; t = t->next)
        if (t->kind == kind && (const char *)pointer >= t->memory && (const char *)pointer + size <= t->memory + t->size) return 1;
    return 0;
}
static void clear(thing *t) { while (t->first) { op *o = t->first; t->first = o->next; free(o); } t->last = NULL; }
static cudaError_t drop(const void *handle, enum kind kind) {
    for (thing **at = &things; *at; at = &(*at)->next) {
        thing *t = *at;
        if (t->kind != kind || (t->memory ? (void *)t->memory : (void *)t) != handle) continue;
        *at = t->next;
        clear(t); free(t->memory); free(t);
        return OK;
    }
    return E(kind == DEVICE || kind == HOST ? INVALID_VALUE : INVALID_HANDLE);
}
static void append(thing *t, op o) {
    op *kept = malloc(sizeof *kept);
    *kept = o; kept->next = NULL;
    if (t->last) t->last->next = kept; else t->first = kept;
    t->last = kept;
}
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1e3 + t.tv_nsec / 1e6; }
static void work(thing *stream) {
    while (stream->first) {
        op *o = stream->first;
        stream->first = o->next;
        if (!stream->first) stream->last = NULL;
        if (o->what == COPY) memcpy(o->to, o->from, o->size);
        else if (o->what == RUN) o->run(o->to);
        else { thing *event = find(o->to, EVENT); if (event) event->stamp = now(); }
        free(o);
    }
}

/* ---- CUDA ---------------------------------------------------------------------------------------------------------- */
const char *cudaGetErrorString(cudaError_t error) {
    return (int)error == OUT_OF_MEMORY ? "out of memory" : (int)error == INVALID_HANDLE ? "invalid resource handle" : "some error";
}
cudaError_t cudaGetDeviceCount(int *count) { ENTER; *count = devices; return OK; }
cudaError_t cudaRuntimeGetVersion(int *version) { ENTER; *version = 12060; return OK; }
cudaError_t cudaDriverGetVersion(int *version) { ENTER; *version = 12060; return OK; }
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device) {
    ENTER; if (device) return E(INVALID_VALUE); strcpy(prop->name, "Fake Orin"); return OK;
}
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
    ENTER; if (device) return E(INVALID_VALUE);
    if (attribute == cudaDevAttrComputeCapabilityMajor) *value = 8;
    else if (attribute == cudaDevAttrComputeCapabilityMinor) *value = 7;
    else if (attribute == cudaDevAttrMultiProcessorCount) *value = 8;
    else return E(INVALID_VALUE);
    return OK;
}
cudaError_t cudaDeviceGetPCIBusId(char *place, int size, int device) {
    ENTER; if (device || size < 13) return E(INVALID_VALUE); strcpy(place, "0000:01:00.0"); return OK;
}
cudaError_t cudaSetDeviceFlags(unsigned int flags) {
    ENTER; if (flags != 1) return E(INVALID_VALUE); return OK;
}
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) { ENTER; *free_bytes = 6ul << 30; *total = 8ul << 30; return OK; }
cudaError_t cudaMalloc(void **pointer, size_t size) {
    ENTER; if (size > 6ul << 30) return E(OUT_OF_MEMORY); *pointer = make(DEVICE, size)->memory; return OK;
}
cudaError_t cudaFree(void *pointer) { ENTER; return drop(pointer, DEVICE); }
cudaError_t cudaHostAlloc(void **pointer, size_t size, unsigned int flags) {
    ENTER; (void)flags; *pointer = make(HOST, size)->memory; return OK;
}
cudaError_t cudaFreeHost(void *pointer) { ENTER; return drop(pointer, HOST); }
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind, cudaStream_t handle) {
    ENTER;
    thing *stream = find(handle, STREAM);
    if (!stream) return E(INVALID_HANDLE);
    int in = kind == cudaMemcpyHostToDevice;
    if (!in && kind != cudaMemcpyDeviceToHost) return E(INVALID_VALUE);
    if (!within(to, size, in ? DEVICE : HOST) || !within(from, size, in ? HOST : DEVICE)) return E(INVALID_VALUE);
    append(stream, (op){.what = COPY, .to = to, .from = from, .size = size});
    return OK;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t run, void *data) {
    ENTER;
    thing *stream = find(handle, STREAM);
    if (!stream) return E(INVALID_HANDLE);
    append(stream, (op){.what = RUN, .run = run, .to = data});
    return OK;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *handle, unsigned int flags) {
    ENTER; if (flags != 1) return E(INVALID_VALUE); *handle = (cudaStream_t)make(STREAM, 0); return OK;
}
cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
    ENTER;
    thing *stream = find(handle, STREAM);
    if (!stream) return E(INVALID_HANDLE);
    if (stream->recording) return E(CAPTURING);
    work(stream);
    return OK;
}
cudaError_t cudaStreamDestroy(cudaStream_t handle) { ENTER; return drop(handle, STREAM); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *handle, unsigned int flags) {
    ENTER; (void)flags; *handle = (cudaEvent_t)make(EVENT, 0); return OK;
}
cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t where) {
    ENTER;
    thing *stream = find(where, STREAM), *event = find(handle, EVENT);
    if (!stream || !event) return E(INVALID_HANDLE);
    event->stamp = 0;
    append(stream, (op){.what = MARK, .to = handle});
    return OK;
}
cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
    ENTER;
    if (!find(handle, EVENT)) return E(INVALID_HANDLE);
    for (thing *t = things; t; t = t->next) if (t->kind == STREAM) { if (t->recording) return E(CAPTURING); work(t); }
    return OK;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end) {
    ENTER;
    thing *a = find(start, EVENT), *b = find(end, EVENT);
    if (!a || !b) return E(INVALID_HANDLE);
    if (a->stamp == 0 || b->stamp == 0) return E(NOT_READY);
    *ms = (float)(b->stamp - a->stamp);
    return OK;
}
cudaError_t cudaEventDestroy(cudaEvent_t handle) { ENTER; return drop(handle, EVENT); }
cudaError_t cudaStreamBeginCapture(cudaStream_t handle, enum cudaStreamCaptureMode mode) {
    ENTER;
    thing *stream = find(handle, STREAM);
    if (!stream) return E(INVALID_HANDLE);
    if (stream->recording || mode != cudaStreamCaptureModeThreadLocal) return E(INVALID_VALUE);
    work(stream); /* what was given before is no part of the graph */
    stream->recording = 1;
    return OK;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t handle, enum cudaStreamCaptureStatus *status) {
    ENTER;
    thing *stream = find(handle, STREAM);
    if (!stream) return E(INVALID_HANDLE);
    *status = stream->recording ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return OK;
}
cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t *graph) {
    int wrong = enter(__func__);
    thing *stream = find(handle, STREAM);
    if (!stream) return E(INVALID_HANDLE);
    if (wrong) { clear(stream); stream->recording = 0; return E(wrong); } /* a recording that failed is over, too */
    if (!stream->recording) return E(NO_CAPTURE);
    thing *made = make(GRAPH, 0);
    made->first = stream->first; made->last = stream->last;
    stream->first = stream->last = NULL; stream->recording = 0;
    *graph = (cudaGraph_t)made;
    return OK;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags) {
    ENTER;
    thing *source = find(graph, GRAPH);
    if (!source || flags) return E(INVALID_VALUE);
    thing *made = make(EXEC, 0);
    for (op *o = source->first; o; o = o->next) append(made, *o);
    *exec = (cudaGraphExec_t)made;
    return OK;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { ENTER; return drop(graph, GRAPH); }
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t handle) {
    ENTER;
    thing *source = find(exec, EXEC), *stream = find(handle, STREAM);
    if (!source || !stream) return E(INVALID_HANDLE);
    for (op *o = source->first; o; o = o->next) append(stream, *o);
    return OK;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { ENTER; return drop(exec, EXEC); }
