package serve

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// TestDashboards: every metric that the dashboard and the alerts ask for is one that
// /metrics has, with the labels that they pick by.
func TestDashboards(t *testing.T) {
	spec := story(t)
	spec.Shadow, spec.Sparse, spec.Layout = 1, runtime.SparseForce, sparse.LayoutBitmask
	h := start(t, Options{}, spec)
	h.stream(t.Context(), 5, nil)
	_, page, _ := h.get("/metrics")
	have := shape(page)
	for name, s := range promised {
		have[name] = s // what a shadow run adds
	}
	name := regexp.MustCompile(`sparserun_[a-z0-9_]+`)
	for _, file := range []string{"grafana.json", "alerts.yml"} {
		b, err := os.ReadFile(filepath.Join("..", "examples", "serve", "prometheus", file))
		require.NoError(t, err)
		text := string(b)
		if file == "grafana.json" {
			require.True(t, json.Valid(b))
		}
		found := name.FindAllString(text, -1)
		require.Greater(t, len(found), 5, file)
		for _, n := range found {
			base := n
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				if k := have[strings.TrimSuffix(n, suffix)]; strings.HasPrefix(k, "histogram") || strings.HasPrefix(k, "summary") {
					base = strings.TrimSuffix(n, suffix)
				}
			}
			require.Contains(t, have, base, "%s asks for %s", file, n)
		}
		for _, by := range regexp.MustCompile(`sum by \(([a-z, ]+)\) \((?:rate|increase)\((sparserun_[a-z0-9_]+)`).FindAllStringSubmatch(text, -1) {
			n := strings.TrimSuffix(strings.TrimSuffix(by[2], "_bucket"), "_sum")
			for _, label := range strings.Split(by[1], ", ") {
				require.True(t, label == "le" || strings.Contains(have[n]+" ", " "+label+" "), "%s: %s has no label %s: %s", file, n, label, have[n])
			}
		}
	}
}
