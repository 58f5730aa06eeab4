package prune

import (
	"context"
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/sparse"
)

func TestQuantisedFormsHoldWhatWasFitted(t *testing.T) {
	for _, cols := range []int{1, 7, 43, 64, 172} {
		for _, s := range []Store{{DType: sparse.Int8}, {DType: sparse.Int4}, {DType: sparse.Int4, Group: 32}, {DType: sparse.Int8, Group: 64},
			{DType: sparse.Int4, Group: 32, Asymmetric: true}, {DType: sparse.Int8, Asymmetric: true}} {
			for _, layout := range sparse.Layouts {
				const rows = 9
				l := randomLayer(t, uint64(cols), rows, cols, 20, Pattern24)
				for i := range l.w {
					l.w[i] += 0.5 // skewed, for the asymmetric ones
				}
				require.NoError(t, Wanda{}.solve(context.Background(), l))
				clear(l.w[cols : 2*cols]) // an empty row
				before := append([]float32(nil), l.w...)
				q := newQuantiser(s, rows, cols)
				q.nearest(nil, l.w)
				m, err := q.pack(layout)
				name := fmt.Sprintf("%v %+v cols %d", layout, s, cols)
				require.NoError(t, err, name)
				require.Equal(t, layout, m.Layout())
				require.Equal(t, s.DType, m.DType())
				got, err := sparse.Read(m)
				require.NoError(t, err, name)
				require.Equal(t, l.w, got, name)
				if c, ok := m.(interface{ Check() error }); ok {
					require.NoError(t, c.Check(), name)
				}
				step := 2.0 / 15
				if s.DType == sparse.Int8 {
					step = 2.0 / 255
				}
				for i, v := range before {
					if v == 0 {
						require.Zero(t, got[i], name)
					}
				}
				// No row is off by more than half a step of its range, as a mean square.
				for r := range rows {
					var e, top float64
					for c := range cols {
						e += math.Pow(float64(before[r*cols+c]-got[r*cols+c]), 2)
						top = max(top, math.Abs(float64(before[r*cols+c])))
					}
					require.LessOrEqual(t, math.Sqrt(e/float64(cols)), step*top/2+1e-9, "%s row %d", name, r)
				}
			}
		}
	}
}

// Spreading rounding errors must beat rounding each weight by itself, for every
// method that can.
func TestJointQuantisationBeatsNearest(t *testing.T) {
	ctx := context.Background()
	for _, s := range []Store{{DType: sparse.Int4, Group: 32}, {DType: sparse.Int4}, {DType: sparse.Int4, Group: 128, Asymmetric: true}, {DType: sparse.Int8}} {
		for _, m := range []calibrated{SparseGPT{}, ALPS{}, Resolved{Of: Wanda{}}} {
			for _, p := range []Pattern{Pattern24, Unstructured{Sparsity: 0.5}, NM{3, 5}} {
				p = resolveScope(p, m.scope())
				l := randomLayer(t, 3, 16, 172, 400, p)
				goal := append([]float32(nil), l.w...)
				require.NoError(t, m.solve(ctx, l))
				plain := l.error
				newQuantiser(s, l.rows, l.cols).nearest(nil, l.w)
				nearest := l.outputError(goal)

				l = randomLayer(t, 3, 16, 172, 400, p)
				l.quant = newQuantiser(s, l.rows, l.cols)
				require.NoError(t, m.solve(ctx, l))
				require.NoError(t, checkHeld(l))
				name := fmt.Sprintf("%s %v %+v: plain %.4f nearest %.4f joint %.4f", m.Name(), p, s, plain, nearest, l.error)
				if s.DType == sparse.Int8 && m.Name() == "sparsegpt" {
					// So fine a rounding changes less than the other mask that comes with it.
					require.InEpsilon(t, plain, l.error, 0.03, name)
				} else {
					require.Less(t, l.error, nearest, name)
				}
				require.Greater(t, l.error, plain*0.97, name)
				packed, err := l.quant.pack(sparse.LayoutBitmask)
				require.NoError(t, err)
				got, err := sparse.Read(packed)
				require.NoError(t, err)
				require.Equal(t, l.w, got, name)
			}
		}
	}
}

func TestQuantisedRuns(t *testing.T) {
	cfg := tinyConfig()
	c := randomCalib(cfg.Vocab, 4, 30)
	for _, m := range []Method{Magnitude{}, Wanda{Calib: c}, SparseGPT{Calib: c}, Best{Calib: c}} {
		g := randomGraph(t, cfg, 1)
		rep, err := Run(context.Background(), g, m, Pattern24, Options{Store: Store{DType: sparse.Int4, Group: 32}})
		require.NoError(t, err)
		_, err = Verify(g, rep.Recipe)
		require.NoError(t, err)
		for _, n := range g.Linears() {
			require.Equal(t, sparse.LayoutNM24, n.Weight.Data.Layout())
			require.Equal(t, sparse.Int4, n.Weight.Data.DType())
		}
		// 2 bits a weight, 1 of mask, 16 of scale a group; odd widths cost a little more.
		require.Less(t, rep.BitsPerWeight, 4.6)
		require.Equal(t, "int4 group 32 asymmetric false nearest false", rep.Recipe["prune.quant"])
	}
	_, err := Run(context.Background(), randomGraph(t, cfg, 1), Magnitude{}, Pattern24, Options{Store: Store{DType: sparse.Q4_K}})
	require.ErrorIs(t, err, sparse.ErrType)
}
