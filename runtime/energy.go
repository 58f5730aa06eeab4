package runtime

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Energy reads the CPU packages' energy meters (Linux powercap, Intel and AMD
// RAPL). Most virtual machines and unprivileged users have none: then Joules
// reports false and callers print "not measured".
type Energy struct {
	files []string
	wrap  []float64 // the counters' ranges in µJ
	last  []float64
	sum   float64
}

// OpenEnergy finds the meters and starts counting.
func OpenEnergy() *Energy { return openEnergy("/sys/class/powercap") }

func openEnergy(root string) *Energy {
	e := &Energy{}
	zones, _ := filepath.Glob(filepath.Join(root, "intel-rapl:*"))
	for _, z := range zones {
		if strings.Count(filepath.Base(z), ":") != 1 { // packages only, not their parts
			continue
		}
		f := filepath.Join(z, "energy_uj")
		v, ok := readFloat(f)
		if !ok {
			continue
		}
		w, _ := readFloat(filepath.Join(z, "max_energy_range_uj"))
		e.files, e.wrap, e.last = append(e.files, f), append(e.wrap, w), append(e.last, v)
	}
	return e
}

// Joules is the energy used since OpenEnergy; call it at least once a minute, as
// the meters wrap around.
func (e *Energy) Joules() (float64, bool) {
	for i, f := range e.files {
		v, ok := readFloat(f)
		if !ok {
			return 0, false
		}
		d := v - e.last[i]
		if d < 0 {
			d += e.wrap[i]
		}
		e.sum += d
		e.last[i] = v
	}
	return e.sum / 1e6, len(e.files) > 0
}

func readFloat(path string) (float64, bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	v, err := strconv.ParseFloat(strings.TrimSpace(string(b)), 64)
	return v, err == nil
}
