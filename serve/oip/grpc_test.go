package oip

import (
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/sparserun/sparserun/serve/oip/inference"
	"github.com/sparserun/sparserun/serve/registry"
)

func dial(t *testing.T, reg *registry.Registry, o Options) *grpc.ClientConn {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	s := NewGRPC(reg, o)
	go func() { _ = s.Serve(l) }() // ends with Stop
	conn, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close(); s.Stop() })
	return conn
}

type (
	inferInput  = inference.ModelInferRequest_InferInputTensor
	inferOutput = inference.ModelInferRequest_InferRequestedOutputTensor
	typed       = inference.InferTensorContents
)

func TestGRPC(t *testing.T) {
	var seen atomic.Value
	conn := dial(t, newRegistry(t), Options{Version: "1.2", Seen: func(_ context.Context, m string) { seen.Store(m) }})
	c := inference.NewGRPCInferenceServiceClient(conn)
	ctx := t.Context()

	live, err := c.ServerLive(ctx, &inference.ServerLiveRequest{})
	require.NoError(t, err)
	require.True(t, live.GetLive())
	ready, err := c.ServerReady(ctx, &inference.ServerReadyRequest{})
	require.NoError(t, err)
	require.True(t, ready.GetReady())
	server, err := c.ServerMetadata(ctx, &inference.ServerMetadataRequest{})
	require.NoError(t, err)
	require.Equal(t, "1.2", server.GetVersion())
	for name, want := range map[string]bool{"affine": true, "gone": false} {
		r, err := c.ModelReady(ctx, &inference.ModelReadyRequest{Name: name})
		require.NoError(t, err)
		require.Equal(t, want, r.GetReady())
	}
	_, err = c.ModelReady(ctx, &inference.ModelReadyRequest{Name: "nobody"})
	require.Equal(t, codes.NotFound, status.Code(err))
	meta, err := c.ModelMetadata(ctx, &inference.ModelMetadataRequest{Name: "affine"})
	require.NoError(t, err)
	require.Equal(t, "FP32", meta.GetInputs()[0].GetDatatype())
	require.Equal(t, []int64{-1, 3}, meta.GetInputs()[0].GetShape())

	in := func() *inferInput { return &inferInput{Name: "x", Datatype: "FP32", Shape: []int64{2, 3}} }
	withContents := in()
	withContents.Contents = &typed{Fp32Contents: []float32{1, 0, 0, 0, 1, 1}}
	a, err := c.ModelInfer(ctx, &inference.ModelInferRequest{ModelName: "affine", Id: "5", Inputs: []*inferInput{withContents}})
	require.NoError(t, err)
	require.Equal(t, "5", a.GetId())
	require.Empty(t, a.GetRawOutputContents())
	require.Equal(t, []float32{1, 2, 8, 10}, a.GetOutputs()[0].GetContents().GetFp32Contents())
	require.Equal(t, "affine", seen.Load())

	raw := le(float32(1), float32(0), float32(0), float32(0), float32(1), float32(1))
	a, err = c.ModelInfer(ctx, &inference.ModelInferRequest{ModelName: "affine", Inputs: []*inferInput{in()}, RawInputContents: [][]byte{raw}, Outputs: []*inferOutput{{Name: "y"}}})
	require.NoError(t, err)
	require.Nil(t, a.GetOutputs()[0].GetContents())
	require.Equal(t, le(float32(1), float32(2), float32(8), float32(10)), a.GetRawOutputContents()[0])

	for what, r := range map[string]*inference.ModelInferRequest{
		"both":            {Inputs: []*inferInput{withContents}, RawInputContents: [][]byte{raw}},
		"too few raw":     {Inputs: []*inferInput{in(), {Name: "z", Datatype: "FP32", Shape: []int64{1}}}, RawInputContents: [][]byte{raw}},
		"raw of no input": {RawInputContents: [][]byte{raw}},
		"none":            {Inputs: []*inferInput{in()}},
		"short":           {Inputs: []*inferInput{in()}, RawInputContents: [][]byte{raw[:8]}},
		"wrong field":     {Inputs: []*inferInput{{Name: "x", Datatype: "FP32", Shape: []int64{1, 3}, Contents: &typed{Fp64Contents: []float64{1, 2, 3}}}}},
		"overflow":        {Inputs: []*inferInput{{Name: "x", Datatype: "FP32", Shape: []int64{1 << 40, 1 << 40}}}, RawInputContents: [][]byte{{}}},
		"negative":        {Inputs: []*inferInput{{Name: "x", Datatype: "FP32", Shape: []int64{-1, 3}}}, RawInputContents: [][]byte{{}}},
		"half contents":   {Inputs: []*inferInput{{Name: "x", Datatype: "FP16", Shape: []int64{1}, Contents: &typed{}}}},
		"out of range":    {Inputs: []*inferInput{{Name: "x", Datatype: "INT8", Shape: []int64{1}, Contents: &typed{IntContents: []int32{128}}}}},
		"no output":       {Inputs: []*inferInput{withContents}, Outputs: []*inferOutput{{Name: "q"}}},
		"parameter":       {Inputs: []*inferInput{withContents}, Parameters: map[string]*inference.InferParameter{"x": {ParameterChoice: &inference.InferParameter_BoolParam{BoolParam: true}}}},
		"empty parameter": {Inputs: []*inferInput{withContents}, Parameters: map[string]*inference.InferParameter{"x": {}}},
	} {
		r.ModelName = "affine"
		_, err := c.ModelInfer(ctx, r)
		require.Equal(t, codes.InvalidArgument, status.Code(err), "%s: %v", what, err)
	}

	stats, err := c.ModelStatistics(ctx, &inference.ModelStatisticsRequest{Name: "affine"})
	require.NoError(t, err)
	require.EqualValues(t, 2, stats.GetModelStats()[0].GetInferenceStats().GetSuccess().GetCount())
	index, err := c.RepositoryIndex(ctx, &inference.RepositoryIndexRequest{Ready: true})
	require.NoError(t, err)
	require.Len(t, index.GetModels(), 3)
	_, err = c.RepositoryModelUnload(ctx, &inference.RepositoryModelUnloadRequest{ModelName: "affine"})
	require.Equal(t, codes.PermissionDenied, status.Code(err))
	_, err = c.RepositoryModelLoad(ctx, &inference.RepositoryModelLoadRequest{ModelName: "affine"})
	require.Equal(t, codes.PermissionDenied, status.Code(err))
}

// TestGRPCRepository: a server that may take models out of service does so once.
func TestGRPCRepository(t *testing.T) {
	c := inference.NewGRPCInferenceServiceClient(dial(t, newRegistry(t), Options{Control: true}))
	unload := &inference.RepositoryModelUnloadRequest{ModelName: "affine"}
	_, err := c.RepositoryModelUnload(t.Context(), unload)
	require.NoError(t, err)
	_, err = c.RepositoryModelUnload(t.Context(), unload)
	require.Equal(t, codes.FailedPrecondition, status.Code(err), err)
	_, err = c.RepositoryModelLoad(t.Context(), &inference.RepositoryModelLoadRequest{ModelName: "affine"})
	require.NoError(t, err)
}

// TestGRPCDatatypes: every type raw, and every type that has contents in these.
func TestGRPCDatatypes(t *testing.T) {
	c := inference.NewGRPCInferenceServiceClient(dial(t, newRegistry(t), Options{}))
	r := &inference.ModelInferRequest{ModelName: "echo"}
	for _, d := range echoTypes {
		r.Inputs = append(r.Inputs, &inferInput{Name: d, Datatype: d, Shape: []int64{2, 2}})
		r.RawInputContents = append(r.RawInputContents, echoed[d].raw)
	}
	a, err := c.ModelInfer(t.Context(), r)
	require.NoError(t, err)
	for i, d := range echoTypes {
		require.Equal(t, echoed[d].raw, a.GetRawOutputContents()[i], d)
	}
	for d, want := range echoed {
		raw, err := decodeRaw(d, []int64{2, 2}, want.raw)
		require.NoError(t, err)
		if d == "FP16" || d == "BF16" {
			continue
		}
		back, err := decodeContents(d, []int64{2, 2}, contents(raw))
		require.NoError(t, err, d)
		require.Equal(t, raw, back, d)
	}
}

func TestGRPCStream(t *testing.T) {
	reg := newRegistry(t)
	c := inference.NewGRPCInferenceServiceClient(dial(t, reg, Options{}))
	stream, err := c.ModelStreamInfer(t.Context())
	require.NoError(t, err)
	prompt := func(id, text string, more ...*inferInput) *inference.ModelInferRequest {
		return &inference.ModelInferRequest{ModelName: "org/abc", Id: id, Inputs: append([]*inferInput{{Name: "text_input", Datatype: "BYTES", Shape: []int64{1}, Contents: &typed{BytesContents: [][]byte{[]byte(text)}}}}, more...),
			Parameters: map[string]*inference.InferParameter{"max_tokens": {ParameterChoice: &inference.InferParameter_Int64Param{Int64Param: 4}}}}
	}
	for _, r := range []*inference.ModelInferRequest{
		prompt("1", "a"), prompt("2", "u"),
		prompt("3", "c", &inferInput{Name: "stream", Datatype: "BOOL", Shape: []int64{1}, Contents: &typed{BoolContents: []bool{false}}}),
		prompt("4", ""),
		{ModelName: "nobody", Id: "5"},
		{ModelName: "affine", Id: "6", Inputs: []*inferInput{{Name: "x", Datatype: "FP32", Shape: []int64{1, 3}, Contents: &typed{Fp32Contents: []float32{1, 0, 0}}}}},
	} {
		require.NoError(t, stream.Send(r))
	}
	require.NoError(t, stream.CloseSend())
	texts, finals, failed, responses := map[string]string{}, map[string]int{}, map[string]string{}, map[string]int{}
	for {
		a, err := stream.Recv()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		r := a.GetInferResponse()
		responses[r.GetId()]++
		if a.GetErrorMessage() != "" {
			failed[r.GetId()] = a.GetErrorMessage()
			continue
		}
		if r.GetParameters()["triton_final_response"].GetBoolParam() {
			finals[r.GetId()]++
		}
		if r.GetModelName() == "org/abc" {
			texts[r.GetId()] += string(r.GetOutputs()[0].GetContents().GetBytesContents()[0])
		}
	}
	require.Equal(t, map[string]string{"1": "bcde", "2": "vwxy", "3": "defg"}, texts)
	require.Equal(t, map[string]int{"1": 1, "2": 1, "3": 1, "6": 1}, finals)
	require.Equal(t, 1, responses["3"], "stream: false is one response")
	require.Contains(t, failed["4"], "at least one token")
	require.Contains(t, failed["5"], "no such model")
	require.Len(t, failed, 2)
}

// TestGRPCCancel: the end of a call frees what runs for it.
func TestGRPCCancel(t *testing.T) {
	reg := newRegistry(t)
	m, release, err := reg.Acquire("org/abc")
	require.NoError(t, err)
	release()
	c := inference.NewGRPCInferenceServiceClient(dial(t, reg, Options{}))
	long := func() *inference.ModelInferRequest {
		return &inference.ModelInferRequest{ModelName: "org/abc", Inputs: []*inferInput{{Name: "text_input", Datatype: "BYTES", Shape: []int64{1}, Contents: &typed{BytesContents: [][]byte{[]byte("a")}}}},
			Parameters: map[string]*inference.InferParameter{"max_tokens": {ParameterChoice: &inference.InferParameter_Int64Param{Int64Param: 1 << 20}},
				"ignore_eos": {ParameterChoice: &inference.InferParameter_BoolParam{BoolParam: true}}}}
	}
	for range 10 {
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := c.ModelStreamInfer(ctx)
		require.NoError(t, err)
		for range 3 {
			require.NoError(t, stream.Send(long()))
		}
		_, err = stream.Recv()
		require.NoError(t, err)
		cancel()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = c.ModelInfer(ctx, long())
	require.Equal(t, codes.DeadlineExceeded, status.Code(err))
	require.Eventually(t, func() bool { s := m.LM.Stats(); return s.Running == 0 && s.Waiting == 0 }, time.Minute, time.Millisecond)

	r := long()
	r.Parameters["timeout"] = &inference.InferParameter{ParameterChoice: &inference.InferParameter_Int64Param{Int64Param: 5000}} // microseconds
	_, err = c.ModelInfer(t.Context(), r)
	require.Equal(t, codes.DeadlineExceeded, status.Code(err))
}

func TestHealthAndReflection(t *testing.T) {
	var ready atomic.Bool
	ready.Store(true)
	conn := dial(t, newRegistry(t), Options{Ready: ready.Load})
	c := grpc_health_v1.NewHealthClient(conn)
	check := func(service string) grpc_health_v1.HealthCheckResponse_ServingStatus {
		r, err := c.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: service})
		require.NoError(t, err)
		return r.GetStatus()
	}
	const serving, not = grpc_health_v1.HealthCheckResponse_SERVING, grpc_health_v1.HealthCheckResponse_NOT_SERVING
	require.Equal(t, serving, check(""))
	require.Equal(t, serving, check("inference.GRPCInferenceService"))
	require.Equal(t, serving, check("affine"))
	require.Equal(t, not, check("gone"))
	_, err := c.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: "nobody"})
	require.Equal(t, codes.NotFound, status.Code(err))

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w, err := c.Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
	require.NoError(t, err)
	r, err := w.Recv()
	require.NoError(t, err)
	require.Equal(t, serving, r.GetStatus())
	ready.Store(false)
	r, err = w.Recv()
	require.NoError(t, err)
	require.Equal(t, not, r.GetStatus())
	require.Equal(t, not, check(""))

	info, err := grpc_reflection_v1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	require.NoError(t, err)
	require.NoError(t, info.Send(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}}))
	list, err := info.Recv()
	require.NoError(t, err)
	names := []string{}
	for _, s := range list.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	require.Contains(t, names, "inference.GRPCInferenceService")
	require.Contains(t, names, "grpc.health.v1.Health")
}
