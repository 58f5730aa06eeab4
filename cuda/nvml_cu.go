//go:build cuda

package cuda

/*
#include <dlfcn.h>
#include <stddef.h>
#include <stdlib.h>

// NVML is opened at run time: it comes with the driver, and nothing here needs it.
static int (*energy)(void *, unsigned long long *);

static void *nvml_open(const char *bus) {
    void *lib = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (!lib) return NULL;
    int (*init)(void) = (int (*)(void))dlsym(lib, "nvmlInit_v2");
    int (*get)(const char *, void **) = (int (*)(const char *, void **))dlsym(lib, "nvmlDeviceGetHandleByPciBusId_v2");
    energy = (int (*)(void *, unsigned long long *))dlsym(lib, "nvmlDeviceGetTotalEnergyConsumption");
    void *dev = NULL;
    if (!init || !get || !energy || init() || get(bus, &dev)) return NULL;
    return dev;
}

static int nvml_energy(void *dev, unsigned long long *mj) { return energy(dev, mj); }
*/
import "C"

import "unsafe"

// nvml reads a GPU's energy meter: millijoules since the driver was loaded, on GPUs
// that have one (Volta and newer data-centre cards, many others).
type nvml struct{ dev unsafe.Pointer }

// openNVML takes the device by its PCI bus id, which CUDA and NVML agree on; their
// numbering differs.
func openNVML(bus string) *nvml {
	s := C.CString(bus)
	defer C.free(unsafe.Pointer(s))
	if dev := C.nvml_open(s); dev != nil {
		return &nvml{dev}
	}
	return nil
}

func (n *nvml) joules() (float64, bool) {
	if n == nil {
		return 0, false
	}
	var mj C.ulonglong
	if C.nvml_energy(n.dev, &mj) != 0 {
		return 0, false
	}
	return float64(mj) / 1000, true
}
