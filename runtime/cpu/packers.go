package cpu

import "github.com/sparserun/sparserun/runtime"

// packerFor is the constructor of the fastest form of kernel k on this machine,
// nil where only the portable form has it.
func packerFor(runtime.Kernel) packFunc { return nil }
