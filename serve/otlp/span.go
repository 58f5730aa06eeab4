package otlp

import (
	"strconv"
	"time"
)

// Span is the work on one request, as a server saw it.
type Span struct {
	Trace, ID, Parent string // hexadecimal: 32, 16, 16 digits; Parent "" where the trace begins here
	Name              string
	Start, End        time.Time
	Attributes        []Attribute
	Failed            bool // the server's fault
}

// Attribute is a name and a string, int64, float64 or bool; others are not sent.
type Attribute struct {
	Key   string
	Value any
}

type keyValue struct {
	Key   string         `json:"key"`
	Value map[string]any `json:"value"`
}

type resourceSpans struct {
	Resource struct {
		Attributes []keyValue `json:"attributes"`
	} `json:"resource"`
	Scopes []scopeSpans `json:"scopeSpans"`
}

type scopeSpans struct {
	Scope struct {
		Name    string `json:"name"`
		Version string `json:"version,omitempty"`
	} `json:"scope"`
	Spans []span `json:"spans"`
}

type span struct {
	Trace      string         `json:"traceId"`
	ID         string         `json:"spanId"`
	Parent     string         `json:"parentSpanId,omitempty"`
	Name       string         `json:"name"`
	Kind       int            `json:"kind"`
	Start      string         `json:"startTimeUnixNano"`
	End        string         `json:"endTimeUnixNano"`
	Attributes []keyValue     `json:"attributes"`
	Status     map[string]int `json:"status"`
}

const (
	kindServer  = 2
	statusError = 2
)

// request is an ExportTraceServiceRequest.
func (e *Exporter) request(batch []Span) any {
	var r resourceSpans
	r.Resource.Attributes = keyValues([]Attribute{{"service.name", e.o.Service}, {"service.version", e.o.Version}})
	var s scopeSpans
	s.Scope.Name, s.Scope.Version = e.o.Service, e.o.Version
	for _, x := range batch {
		y := span{Trace: x.Trace, ID: x.ID, Parent: x.Parent, Name: x.Name, Kind: kindServer,
			Start: strconv.FormatInt(x.Start.UnixNano(), 10), End: strconv.FormatInt(x.End.UnixNano(), 10),
			Attributes: keyValues(x.Attributes), Status: map[string]int{}}
		if x.Failed {
			y.Status["code"] = statusError
		}
		s.Spans = append(s.Spans, y)
	}
	r.Scopes = []scopeSpans{s}
	return map[string]any{"resourceSpans": []resourceSpans{r}}
}

func keyValues(list []Attribute) []keyValue {
	out := []keyValue{}
	for _, a := range list {
		v := map[string]any{}
		switch x := a.Value.(type) {
		case string:
			v["stringValue"] = x
		case int64:
			v["intValue"] = strconv.FormatInt(x, 10)
		case float64:
			v["doubleValue"] = x
		case bool:
			v["boolValue"] = x
		default:
			continue
		}
		out = append(out, keyValue{a.Key, v})
	}
	return out
}
