//go:build !linux

package runtime

// PeakRSS is not known on this system.
func PeakRSS() (peak int64, ok bool) { return 0, false }

// RSS is not known on this system.
func RSS() (now int64, ok bool) { return 0, false }

// ResetPeakRSS does nothing on this system.
func ResetPeakRSS() bool { return false }

// TotalMemory is not known on this system.
func TotalMemory() (total int64, ok bool) { return 0, false }
