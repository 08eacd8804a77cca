/* NVML without a GPU: one at 0000:01:00.0, which says what the test wants said. -DOLD: a driver before 535; -DBARE: one function
   less than is needed. Each reading is refused while its name stands in fake_refuse(). */
#include <string.h>

typedef int nvmlReturn_t;
typedef struct nvmlDevice_st *nvmlDevice_t;
enum { NOT_INITIALISED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6 };

unsigned long long fake_energy, fake_reasons; /* mJ */
unsigned int fake_power, fake_clock, fake_celsius; /* mW */
static char refused[256];
static int started;
static struct { int one; } board; /* its address is above 4 GiB: a handle that is cut to 32 bits is found out */

void fake_refuse(const char *names) { strncpy(refused, names, sizeof refused - 1); }

#define ANSWER(device, ok, to, value) do { \
    if (!started) return NOT_INITIALISED; \
    if ((void *)(device) != (void *)&board || !(ok)) return INVALID_ARGUMENT; \
    if (strstr(refused, __func__)) return NOT_SUPPORTED; \
    *(to) = (value); return 0; } while (0)

nvmlReturn_t nvmlInit_v2(void) { started = !strstr(refused, __func__); return started ? 0 : 9; }
#ifndef BARE
nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *place, nvmlDevice_t *device) {
    if (!started) return NOT_INITIALISED;
    if (strcmp(place, "0000:01:00.0")) return NOT_FOUND;
    *device = (nvmlDevice_t)&board;
    return 0;
}
#endif
nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t d, unsigned long long *to) { ANSWER(d, 1, to, fake_energy); }
nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t d, unsigned int *to) { ANSWER(d, 1, to, fake_power); }
nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t d, int kind, unsigned int *to) { ANSWER(d, kind == 1, to, fake_clock); }
nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t d, int sensor, unsigned int *to) { ANSWER(d, sensor == 0, to, fake_celsius); }
nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t d, unsigned long long *to) { ANSWER(d, 1, to, fake_reasons); }
#ifndef OLD
nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t d, unsigned long long *to) { ANSWER(d, 1, to, fake_reasons); }
#endif
