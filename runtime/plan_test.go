package runtime

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// TestPlanBuffers walks the steps and follows which value every buffer holds: no
// step may read a buffer whose value was overwritten, and the fused residual must
// be the Add's other summand.
func TestPlanBuffers(t *testing.T) {
	g := tinyLlama(false)
	o := Options{}
	require.NoError(t, o.defaults(g))
	p, err := newPlan(g, o, func(n *model.Node) (*Choice, error) {
		return &Choice{Kernel: Kernel{Op: n.Op, Layout: sparse.LayoutDense, Weight: sparse.F32, Act: sparse.F32}}, nil
	})
	require.NoError(t, err)
	holds := map[int]model.ValueID{}
	for i, b := range p.Inputs {
		holds[b] = g.Inputs[i]
	}
	adds := map[model.ValueID]*model.Node{}
	for _, n := range g.Nodes {
		if n.Op == model.OpAdd {
			for _, v := range n.In {
				adds[v] = n
			}
		}
	}
	fused := 0
	for _, s := range p.Steps {
		for i, b := range s.In {
			require.Equal(t, s.Node.In[i], holds[b], "step %s input %d", s.Node.Name, i)
			require.NotEqual(t, b, s.Out, "step %s writes what it reads", s.Node.Name)
			require.GreaterOrEqual(t, p.Buffers[b].Width, g.Values[s.Node.In[i]].Width)
		}
		out := s.Node.Out
		if s.Residual >= 0 {
			fused++
			add := adds[s.Node.Out]
			require.NotNil(t, add)
			other := add.In[0]
			if other == s.Node.Out {
				other = add.In[1]
			}
			require.Equal(t, other, holds[s.Residual], "residual of %s", s.Node.Name)
			out = add.Out
		}
		require.GreaterOrEqual(t, p.Buffers[s.Out].Width, g.Values[out].Width)
		holds[s.Out] = out
	}
	require.Equal(t, 2*g.Config.Layers, fused, "every residual add is fused")
	require.Equal(t, g.Outputs[0], holds[p.Outputs[0]])
	// Buffers do not overlap in the arena.
	end := map[int]int{}
	for _, b := range p.Buffers {
		if b.Input >= 0 {
			continue
		}
		rows := p.MaxRows
		if b.Selected {
			rows = p.MaxSelect
		}
		for lo, hi := range end {
			require.False(t, b.Offset < hi && lo < b.Offset+b.Width*rows, "buffers overlap")
		}
		end[b.Offset] = b.Offset + b.Width*rows
		require.LessOrEqual(t, b.Offset+b.Width*rows, p.Arena)
	}
	require.Less(t, len(p.Buffers), 16, "buffers are reused")
}

func TestOptionsRange(t *testing.T) {
	g := tinyLlama(false)
	for _, o := range []Options{{Chunk: -1}, {Select: -1}, {Context: -1}, {Group: -1}, {DType: sparse.Q4_1}, {Chunk: 1 << 20}} {
		_, err := New(g, &fakeBackend{}, WithOptions(o))
		require.ErrorIs(t, err, ErrOption, "%+v", o)
	}
}

// TestStoredGroup: a model stored in int4 or int8 runs in the groups it is stored in,
// unless it is asked for in another type.
func TestStoredGroup(t *testing.T) {
	for _, c := range []struct {
		stored       sparse.DType
		group        int
		int8s, int4s int // groups of the model in these types
	}{
		{sparse.Int4, 8, 0, 8},
		{sparse.Int8, 32, 32, defaultGroup},
		{sparse.Int8, 0, 0, defaultGroup},
		{sparse.Int8, 8, 0, defaultGroup}, // no kernel takes these
		{sparse.F32, 0, 0, defaultGroup},
	} {
		g := tinyLlama(false)
		for _, n := range g.Linears() {
			m, err := sparse.Pack(n.Weight.Data, sparse.LayoutDense, c.stored, c.group)
			require.NoError(t, err)
			n.Weight.Data = m
		}
		for typ, want := range map[sparse.DType]int{sparse.Int8: c.int8s, sparse.Int4: c.int4s, sparse.F16: 0} {
			o := Options{DType: typ}
			require.NoError(t, o.defaults(g))
			require.Equal(t, want, o.Group, "stored in %v, groups of %d, run in %v", c.stored, c.group, typ)
			var asked Kernel
			b := &fakeBackend{has: func(k Kernel) bool {
				if k.Weight == typ {
					asked = k
				}
				return true
			}}
			s, err := New(g, b, WithOptions(o))
			require.NoError(t, err)
			require.NoError(t, s.Close())
			require.Equal(t, want, asked.Group, "the planner asks for kernels of the model's groups")
		}
	}
}
