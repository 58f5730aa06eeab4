// Package check holds the manifests beside it to Kubernetes' own types: every key must
// exist, every value must have its type, and the numbers must agree with one another. It
// is a module of its own, so that the server depends on nothing of Kubernetes'.
package check

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// documents splits a file into its YAML documents.
func documents(t *testing.T, file string) [][]byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Split(b, []byte("\n---\n"))
}

func decode(t *testing.T, doc []byte, v any) {
	t.Helper()
	if err := yaml.UnmarshalStrict(doc, v); err != nil {
		t.Errorf("%v in\n%s", err, doc)
	}
}

func TestDeployment(t *testing.T) {
	kinds := map[string]bool{}
	for _, doc := range documents(t, "../deployment.yaml") {
		var meta metav1.TypeMeta
		if err := yaml.Unmarshal(doc, &meta); err != nil {
			t.Fatal(err)
		}
		kinds[meta.APIVersion+" "+meta.Kind] = true
		switch meta.Kind {
		case "Deployment":
			var d appsv1.Deployment
			decode(t, doc, &d)
			pod(t, &d)
		case "Service":
			var s corev1.Service
			decode(t, doc, &s)
			if len(s.Spec.Ports) != 2 || s.Spec.Ports[0].TargetPort.StrVal != "http" {
				t.Errorf("service ports %+v", s.Spec.Ports)
			}
		case "PodDisruptionBudget":
			decode(t, doc, &policyv1.PodDisruptionBudget{})
		case "HorizontalPodAutoscaler":
			decode(t, doc, &autoscalingv2.HorizontalPodAutoscaler{})
		default:
			t.Errorf("kind %s is not checked", meta.Kind)
		}
	}
	for _, k := range []string{"apps/v1 Deployment", "v1 Service", "policy/v1 PodDisruptionBudget", "autoscaling/v2 HorizontalPodAutoscaler"} {
		if !kinds[k] {
			t.Errorf("no %s", k)
		}
	}
}

// pod holds the drain of a pod to its parts, and the ports to what the server is told.
func pod(t *testing.T, d *appsv1.Deployment) {
	spec := d.Spec.Template.Spec
	c := spec.Containers[0]
	args := map[string]string{}
	for _, a := range c.Args {
		if name, value, ok := strings.Cut(strings.TrimPrefix(a, "--"), "="); ok && strings.HasPrefix(a, "--") {
			args[name] = value
		}
	}
	seconds := func(name string) float64 {
		d, err := time.ParseDuration(args[name])
		if err != nil {
			t.Errorf("--%s: %v", name, err)
		}
		return d.Seconds()
	}
	need := float64(c.Lifecycle.PreStop.Sleep.Seconds) + seconds("grace") + seconds("drain")
	if got := float64(*spec.TerminationGracePeriodSeconds); got <= need {
		t.Errorf("terminationGracePeriodSeconds: want more than preStop + grace + drain = %v, got %v", need, got)
	}
	ports := map[string]string{}
	for _, p := range c.Ports {
		ports[p.Name] = fmt.Sprintf(":%d", p.ContainerPort)
	}
	if ports["http"] != args["addr"] || ports["grpc"] != args["grpc-addr"] {
		t.Errorf("ports %v, arguments %v", ports, args)
	}
	for name, p := range map[string]*corev1.Probe{"/readyz": c.ReadinessProbe, "/livez": c.LivenessProbe} {
		if p == nil || p.HTTPGet == nil || p.HTTPGet.Path != name || p.HTTPGet.Port.StrVal != "http" {
			t.Errorf("probe of %s: %+v", name, p)
		}
	}
	if c.StartupProbe == nil || c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() {
		t.Error("want a startup probe, a memory limit and a CPU request")
	}
	for k, v := range d.Spec.Selector.MatchLabels {
		if d.Spec.Template.Labels[k] != v {
			t.Errorf("selector %s=%s does not select the pod", k, v)
		}
	}
}

// ServingRuntime and InferenceService are as much of KServe's types as the file may use
// (its Go module is not on the module proxy; kserve_check.py holds the same file to the
// types of KServe's Python SDK). Pods are Kubernetes' own type, decoded strictly.
type ServingRuntime struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Annotations           map[string]string `json:"annotations"`
		MultiModel            *bool             `json:"multiModel"`
		ProtocolVersions      []string          `json:"protocolVersions"`
		SupportedModelFormats []struct {
			Name       string  `json:"name"`
			Version    *string `json:"version"`
			AutoSelect *bool   `json:"autoSelect"`
			Priority   *int32  `json:"priority"`
		} `json:"supportedModelFormats"`
		Containers []corev1.Container `json:"containers"`
	} `json:"spec"`
}

// InferenceService is the same for a model.
type InferenceService struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Predictor struct {
			MinReplicas *int32 `json:"minReplicas"`
			Model       struct {
				Runtime     *string `json:"runtime"`
				ModelFormat struct {
					Name    string  `json:"name"`
					Version *string `json:"version"`
				} `json:"modelFormat"`
				StorageURI *string `json:"storageUri"`
			} `json:"model"`
		} `json:"predictor"`
	} `json:"spec"`
}

func TestKServe(t *testing.T) {
	docs := documents(t, "../kserve.yaml")
	if len(docs) != 2 {
		t.Fatalf("want 2 documents, got %d", len(docs))
	}
	var r ServingRuntime
	decode(t, docs[0], &r)
	var i InferenceService
	decode(t, docs[1], &i)
	if r.APIVersion != "serving.kserve.io/v1alpha1" || i.APIVersion != "serving.kserve.io/v1beta1" || *i.Spec.Predictor.Model.Runtime != r.Name {
		t.Errorf("%s %s, runtime %v", r.APIVersion, i.APIVersion, *i.Spec.Predictor.Model.Runtime)
	}
	if len(r.Spec.Containers) != 1 || r.Spec.Containers[0].Name != "kserve-container" {
		t.Error("KServe wants one container called kserve-container")
	}
	formats := map[string]bool{}
	for _, f := range r.Spec.SupportedModelFormats {
		formats[f.Name] = true
	}
	if !formats[i.Spec.Predictor.Model.ModelFormat.Name] {
		t.Errorf("the runtime does not support %s", i.Spec.Predictor.Model.ModelFormat.Name)
	}
}
