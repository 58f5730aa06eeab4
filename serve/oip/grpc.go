package oip

import (
	"context"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"github.com/sparserun/sparserun/serve/oip/inference"
	"github.com/sparserun/sparserun/serve/registry"
)

// grpcServer answers the protocol's calls. What it does not have answers Unimplemented.
type grpcServer struct {
	inference.UnimplementedGRPCInferenceServiceServer
	*server
}

// NewGRPC serves the protocol over gRPC, with grpc.health.v1 and reflection, from the
// models of r.
func NewGRPC(r *registry.Registry, o Options, opts ...grpc.ServerOption) *grpc.Server {
	s := newServer(r, o)
	g := grpc.NewServer(opts...)
	inference.RegisterGRPCInferenceServiceServer(g, &grpcServer{server: s})
	grpc_health_v1.RegisterHealthServer(g, &health{server: s})
	reflection.Register(g)
	return g
}

// client is who calls.
func (s *server) client(ctx context.Context) string {
	return s.o.Client((&http.Request{Header: http.Header{}}).WithContext(ctx))
}

// ServerLive says that the process answers.
func (g *grpcServer) ServerLive(context.Context, *inference.ServerLiveRequest) (*inference.ServerLiveResponse, error) {
	return &inference.ServerLiveResponse{Live: true}, nil
}

// ServerReady says whether requests should come here.
func (g *grpcServer) ServerReady(context.Context, *inference.ServerReadyRequest) (*inference.ServerReadyResponse, error) {
	return &inference.ServerReadyResponse{Ready: g.o.Ready()}, nil
}

// ModelReady says whether a known model is loaded.
func (g *grpcServer) ModelReady(ctx context.Context, r *inference.ModelReadyRequest) (*inference.ModelReadyResponse, error) {
	_, release, err := g.acquire(ctx, r.GetName(), r.GetVersion())
	if err != nil {
		if f := explain(err); f.grpc == codes.Unavailable {
			return &inference.ModelReadyResponse{}, nil
		}
		return nil, g.status(ctx, err)
	}
	release()
	return &inference.ModelReadyResponse{Ready: true}, nil
}

// ServerMetadata names the server.
func (g *grpcServer) ServerMetadata(context.Context, *inference.ServerMetadataRequest) (*inference.ServerMetadataResponse, error) {
	return &inference.ServerMetadataResponse{Name: "sparserun", Version: g.o.Version, Extensions: extensions}, nil
}

// ModelMetadata lists a model's inputs and outputs.
func (g *grpcServer) ModelMetadata(ctx context.Context, r *inference.ModelMetadataRequest) (*inference.ModelMetadataResponse, error) {
	m, release, err := g.acquire(ctx, r.GetName(), r.GetVersion())
	if err != nil {
		return nil, g.status(ctx, err)
	}
	defer release()
	d := describe(m)
	ports := func(list []portInfo) (out []*inference.ModelMetadataResponse_TensorMetadata) {
		for _, p := range list {
			out = append(out, &inference.ModelMetadataResponse_TensorMetadata{Name: p.Name, Datatype: p.Datatype, Shape: p.Shape})
		}
		return out
	}
	return &inference.ModelMetadataResponse{Name: d.Name, Versions: d.Versions, Platform: d.Platform, Inputs: ports(d.Inputs), Outputs: ports(d.Outputs)}, nil
}

// ModelStatistics tells what one model, or all, did.
func (g *grpcServer) ModelStatistics(ctx context.Context, r *inference.ModelStatisticsRequest) (*inference.ModelStatisticsResponse, error) {
	list := g.allStatistics
	if r.GetName() != "" {
		m, release, err := g.acquire(ctx, r.GetName(), r.GetVersion())
		if err != nil {
			return nil, g.status(ctx, err)
		}
		defer release()
		list = func() []modelStatistics { return []modelStatistics{g.statistics(m)} }
	}
	out := &inference.ModelStatisticsResponse{}
	d := func(d duration) *inference.StatisticDuration {
		return &inference.StatisticDuration{Count: d.Count, Ns: d.NS}
	}
	for _, st := range list() {
		x := &inference.ModelStatistics{Name: st.Name, Version: st.Version, LastInference: st.Last, InferenceCount: st.Inferences, ExecutionCount: st.Executions,
			InferenceStats: &inference.InferStatistics{Success: d(st.Stats.Success), Fail: d(st.Stats.Fail), Queue: d(st.Stats.Queue), ComputeInput: d(st.Stats.ComputeInput),
				ComputeInfer: d(st.Stats.ComputeInfer), ComputeOutput: d(st.Stats.ComputeOutput), CacheHit: d(st.Stats.CacheHit), CacheMiss: d(st.Stats.CacheMiss)}}
		for _, u := range st.Memory {
			x.MemoryUsage = append(x.MemoryUsage, &inference.MemoryUsage{Type: u.Type, Id: u.ID, ByteSize: u.Bytes})
		}
		out.ModelStats = append(out.ModelStats, x)
	}
	return out, nil
}

// RepositoryIndex lists the models that are known.
func (g *grpcServer) RepositoryIndex(_ context.Context, r *inference.RepositoryIndexRequest) (*inference.RepositoryIndexResponse, error) {
	out := &inference.RepositoryIndexResponse{}
	for _, x := range g.index(r.GetReady()) {
		out.Models = append(out.Models, &inference.RepositoryIndexResponse_ModelIndex{Name: x.Name, Version: x.Version, State: x.State, Reason: x.Reason})
	}
	return out, nil
}

// RepositoryModelLoad loads a known model again.
func (g *grpcServer) RepositoryModelLoad(ctx context.Context, r *inference.RepositoryModelLoadRequest) (*inference.RepositoryModelLoadResponse, error) {
	err := g.control()
	if err == nil && len(r.GetParameters()) > 0 {
		err = bad("parameters are not supported")
	}
	if err == nil {
		if err = g.reg.Reload(ctx, r.GetModelName()); err != nil {
			err = loadFailure(err)
		}
	}
	if err != nil {
		return nil, g.status(ctx, err)
	}
	return &inference.RepositoryModelLoadResponse{}, nil
}

// RepositoryModelUnload takes a model out of service.
func (g *grpcServer) RepositoryModelUnload(ctx context.Context, r *inference.RepositoryModelUnloadRequest) (*inference.RepositoryModelUnloadResponse, error) {
	err := g.control()
	for key := range r.GetParameters() {
		if err == nil && key != "unload_dependents" { // there are none
			err = bad("parameter %q is not supported", clip(key))
		}
	}
	if err == nil {
		if err = g.reg.Unload(ctx, r.GetModelName()); err != nil {
			err = unloadFailure(err)
		}
	}
	if err != nil {
		return nil, g.status(ctx, err)
	}
	return &inference.RepositoryModelUnloadResponse{}, nil
}

// health is grpc.health.v1: of the server (""), of the service, or of a model by name.
type health struct {
	grpc_health_v1.UnimplementedHealthServer
	*server
}

const watchEvery = time.Second

func (h *health) state(service string) (grpc_health_v1.HealthCheckResponse_ServingStatus, bool) {
	known := service == "" || service == inference.GRPCInferenceService_ServiceDesc.ServiceName || service == grpc_health_v1.Health_ServiceDesc.ServiceName
	ready := h.o.Ready()
	if !known {
		_, release, err := h.reg.Acquire(service)
		if err == nil {
			release()
		} else if explain(err).grpc == codes.NotFound {
			return grpc_health_v1.HealthCheckResponse_SERVICE_UNKNOWN, false
		}
		ready = ready && err == nil
	}
	if ready {
		return grpc_health_v1.HealthCheckResponse_SERVING, true
	}
	return grpc_health_v1.HealthCheckResponse_NOT_SERVING, true
}

// Check answers once.
func (h *health) Check(_ context.Context, r *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	st, known := h.state(r.GetService())
	if !known {
		return nil, status.Error(codes.NotFound, "unknown service")
	}
	return &grpc_health_v1.HealthCheckResponse{Status: st}, nil
}

// Watch answers at once and at every change until the caller leaves.
func (h *health) Watch(r *grpc_health_v1.HealthCheckRequest, w grpc_health_v1.Health_WatchServer) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	last := grpc_health_v1.HealthCheckResponse_ServingStatus(-1)
	for {
		if st, _ := h.state(r.GetService()); st != last {
			if err := w.Send(&grpc_health_v1.HealthCheckResponse{Status: st}); err != nil {
				return err
			}
			last = st
		}
		select {
		case <-tick.C:
		case <-w.Context().Done():
			return status.FromContextError(w.Context().Err()).Err()
		}
	}
}
