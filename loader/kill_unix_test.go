//go:build unix

package loader

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/testenv"
)

// TestSaveLoop is the process that TestKilledWhileSaving kills.
func TestSaveLoop(t *testing.T) {
	path := os.Getenv("SPARSERUN_SAVE_LOOP")
	if path == "" {
		t.Skip("run by TestKilledWhileSaving")
	}
	g, err := Open(testenv.Data(t, "stories260K"))
	require.NoError(t, err)
	for {
		require.NoError(t, Save(g, path, SaveOptions{DType: sparse.F32}))
	}
}

// TestKilledWhileSaving: kill -9 at any moment leaves a whole file, or for a new
// one none.
func TestKilledWhileSaving(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	testenv.Data(t, "stories260K")
	self, err := os.Executable()
	require.NoError(t, err)
	for _, out := range []string{"m.safetensors", "m/"} {
		dir := t.TempDir()
		path := dir + "/" + out
		whole := 0
		for i := range 12 {
			cmd := exec.Command(self, "-test.run=^TestSaveLoop$")
			cmd.Env = append(os.Environ(), "SPARSERUN_SAVE_LOOP="+path)
			require.NoError(t, cmd.Start())
			time.Sleep(time.Duration(20+37*i%120) * time.Millisecond)
			require.NoError(t, cmd.Process.Kill())
			cmd.Wait()
			if _, err := os.Stat(path); os.IsNotExist(err) {
				continue
			}
			g, err := Open(path)
			require.NoError(t, err)
			for _, w := range g.Weights {
				read(t, w.Data)
			}
			require.NoError(t, g.Close())
			whole++
		}
		t.Log(out, whole, "of 12 left a file; what lies in the folder:", len(tree(t, dir)))
	}
}

// TestSaveMemory: saving holds one weight at a time, not the model.
func TestSaveMemory(t *testing.T) {
	g, err := Open(testenv.Model(t))
	require.NoError(t, err)
	defer g.Close()
	path := filepath.Join(t.TempDir(), "m.safetensors")
	peak := watchHeap(func() { err = Save(g, path, SaveOptions{}) })
	require.NoError(t, err)
	t.Logf("saving 134.5 M weights: heap grew by %.1f MB", float64(peak)/1e6)
	require.Less(t, peak, uint64(48<<20))
}
