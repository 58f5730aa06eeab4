package runtime

import (
	"bytes"
	"os"
	"strconv"
)

// PeakRSS is the largest resident memory of this process since the last
// ResetPeakRSS, and ok false where the system does not say.
func PeakRSS() (peak int64, ok bool) { return procStatus("VmHWM:") }

// RSS is the resident memory of this process.
func RSS() (now int64, ok bool) { return procStatus("VmRSS:") }

// ResetPeakRSS starts a new measurement of PeakRSS.
func ResetPeakRSS() bool {
	return os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) == nil
}

// TotalMemory is what this process may use: the machine's memory, or its cgroup's
// limit where that is lower.
func TotalMemory() (total int64, ok bool) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, false
	}
	_, rest, found := bytes.Cut(b, []byte("MemTotal:"))
	f := bytes.Fields(rest)
	if !found || len(f) == 0 {
		return 0, false
	}
	kb, err := strconv.ParseInt(string(f[0]), 10, 64)
	if err != nil {
		return 0, false
	}
	total = kb << 10
	if b, err := os.ReadFile("/sys/fs/cgroup/memory.max"); err == nil {
		if n, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64); err == nil {
			total = min(total, n)
		}
	}
	return total, true
}

func procStatus(key string) (int64, bool) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, false
	}
	_, rest, ok := bytes.Cut(b, []byte(key))
	if !ok {
		return 0, false
	}
	f := bytes.Fields(rest)
	if len(f) == 0 {
		return 0, false
	}
	kb, err := strconv.ParseInt(string(f[0]), 10, 64)
	return kb << 10, err == nil
}
