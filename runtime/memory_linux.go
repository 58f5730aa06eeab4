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
