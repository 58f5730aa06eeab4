package oip

import (
	"context"
	"slices"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/serve/registry"
)

// infer answers a request: the outputs that it asks for, in its order.
func (s *server) infer(ctx context.Context, client string, m *registry.Model, q *inferRequest) ([]named, error) {
	own, err := q.params.reserved()
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.deadline(ctx, own)
	defer cancel()
	defer s.used(m.Name)
	if m.LM != nil {
		return s.language(ctx, client, m, q)
	}
	return s.network(ctx, m, q)
}

// reserved takes out the parameters of the protocol itself. timeout (0: none) is in
// microseconds; what asks for something that is not here is an error.
func (p parameters) reserved() (timeout int64, err error) {
	for key, v := range p {
		switch key {
		case "timeout":
			if timeout, err = p.integer(key, 0, 1<<53); err != nil {
				return 0, err
			}
		case "sequence_id", "sequence_start", "sequence_end", "priority":
			if v != int64(0) && v != uint64(0) && v != "" && v != false {
				return 0, bad("parameter %q is not supported", key)
			}
		case "triton_enable_empty_final_response": // the last response always says that it is
		default:
			continue
		}
		delete(p, key)
	}
	return timeout, nil
}

// network runs a network.
func (s *server) network(ctx context.Context, m *registry.Model, q *inferRequest) ([]named, error) {
	g := m.Session.Graph()
	for key := range q.params {
		return nil, bad("a network has no parameter %q", clip(key))
	}
	in := make(map[string]*model.Tensor, len(q.inputs))
	for _, x := range q.inputs {
		i := slices.IndexFunc(g.Inputs, func(id model.ValueID) bool { return g.Values[id].Name == x.name })
		if i < 0 {
			return nil, bad("model %q has no input %q", m.Name, clip(x.name))
		}
		if err := agrees(port(g, g.Inputs[i]), x); err != nil {
			return nil, err
		}
		in[x.name] = x.Tensor
	}
	names := make([]string, 0, len(g.Outputs))
	for _, id := range g.Outputs {
		names = append(names, g.Values[id].Name)
	}
	for _, id := range g.Inputs {
		if name := g.Values[id].Name; in[name] == nil {
			return nil, bad("input %q is missing", name)
		}
	}
	pick := names
	if len(q.outputs) > 0 {
		pick = nil
		for _, w := range q.outputs {
			if !slices.Contains(names, w.name) {
				return nil, bad("model %q has no output %q", m.Name, clip(w.name))
			}
			pick = append(pick, w.name)
		}
	}
	out, err := m.Net.Infer(ctx, in)
	if err != nil {
		return nil, err
	}
	answer := make([]named, 0, len(pick))
	for _, name := range pick {
		t := out[name]
		if t == nil || t.Seq || datatypeOf(t.Elem) == "" {
			return nil, bad("output %q is of a type that this protocol does not have", name)
		}
		answer = append(answer, named{name, t})
	}
	return answer, nil
}

// portInfo is what metadata says of an input or output.
type portInfo struct {
	Name     string  `json:"name"`
	Datatype string  `json:"datatype"`
	Shape    []int64 `json:"shape"`
}

// port describes a value of a graph. Without a stated shape nothing is known, not
// even the rank: [-1].
func port(g *model.Graph, id model.ValueID) portInfo {
	v := g.Values[id]
	p := portInfo{Name: v.Name, Datatype: datatypeOf(v.Elem), Shape: []int64{-1}}
	switch {
	case !g.Tensors():
		p.Datatype, p.Shape = "FP32", []int64{-1, int64(v.Width)}
	case v.Shape != nil:
		p.Shape = []int64{}
		for _, d := range v.Shape {
			p.Shape = append(p.Shape, int64(d))
		}
	}
	return p
}

// agrees holds a tensor to what metadata says.
func agrees(p portInfo, x named) error {
	if got := datatypeOf(x.Elem); p.Datatype != "" && got != p.Datatype {
		return bad("input %q: want datatype %s, got %s", x.name, p.Datatype, got)
	}
	if len(p.Shape) == 1 && p.Shape[0] < 0 {
		return nil // any shape, or a vector of any length: the network knows
	}
	ok := len(p.Shape) == len(x.Shape)
	for i := 0; ok && i < len(p.Shape); i++ {
		ok = p.Shape[i] < 0 || p.Shape[i] == int64(x.Shape[i])
	}
	if !ok {
		return bad("input %q: want shape %v (-1: any), got %v", x.name, p.Shape, x.Shape)
	}
	return nil
}

type metadata struct {
	Name     string     `json:"name"`
	Versions []string   `json:"versions"`
	Platform string     `json:"platform"`
	Inputs   []portInfo `json:"inputs"`
	Outputs  []portInfo `json:"outputs"`
}

func describe(m *registry.Model) metadata {
	d := metadata{Name: m.Name, Versions: []string{m.Version}, Platform: "sparserun_" + orUnknown(m.Info.Format), Inputs: []portInfo{}, Outputs: []portInfo{}}
	if m.LM != nil {
		d.Inputs = languageInputs
		d.Outputs = languageOutputs
		return d
	}
	g := m.Session.Graph()
	for _, id := range g.Inputs {
		d.Inputs = append(d.Inputs, port(g, id))
	}
	for _, id := range g.Outputs {
		d.Outputs = append(d.Outputs, port(g, id))
	}
	return d
}

func orUnknown(s string) string {
	if s == "" {
		return "model"
	}
	return s
}
