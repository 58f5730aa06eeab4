package runtime

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestEnergy: packages are added up, their parts are not counted again, a counter that
// wraps around goes on, and one that can no longer be read is no figure.
func TestEnergy(t *testing.T) {
	root := t.TempDir()
	set := func(zone, file, text string) {
		require.NoError(t, os.MkdirAll(filepath.Join(root, zone), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, zone, file), []byte(text), 0o644))
	}
	for _, z := range []string{"intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"} {
		set(z, "energy_uj", "1000000\n")
		set(z, "max_energy_range_uj", "5000000\n")
	}
	set("intel-rapl:2", "name", "without a meter")
	e := openEnergy(root)
	j, ok := e.Joules()
	require.True(t, ok)
	require.Zero(t, j)
	set("intel-rapl:0", "energy_uj", "3000000\n")
	set("intel-rapl:1", "energy_uj", "4500000\n")
	set("intel-rapl:0:0", "energy_uj", "2000000\n")
	j, _ = e.Joules()
	require.InDelta(t, 5.5, j, 1e-9)
	set("intel-rapl:1", "energy_uj", "250000\n") // over the top of its range
	j, _ = e.Joules()
	require.InDelta(t, 5.5+0.75, j, 1e-9)
	set("intel-rapl:0", "energy_uj", "none\n")
	_, ok = e.Joules()
	require.False(t, ok)
	_, ok = openEnergy(t.TempDir()).Joules()
	require.False(t, ok, "a machine without meters")
}
