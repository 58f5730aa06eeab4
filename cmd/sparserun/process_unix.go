//go:build unix

package main

import (
	"os/signal"
	"syscall"
	"time"
)

// cpuTime is what this process has used of the processors so far.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// errorsNotSignals has a write beyond the limit on the size of files (ulimit -f)
// fail with an error, as one on a full disk does, and not end the process.
func errorsNotSignals() { signal.Ignore(syscall.SIGXFSZ) }
