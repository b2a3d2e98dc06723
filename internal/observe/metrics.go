// The metrics of both daemons, one method each.
//
// Names, labels and buckets of the first group are those of AAD Pod Identity v1.8.17 (its
// pkg/metrics), so that dashboards and alerts keep working. If its buckets start at half a second,
// finer ones are added below.

package observe

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/podid-io/podid/internal/build"
)

// prefix begins every name, as it did in v1.8.17.
const prefix = "aadpodidentity"

// Labels, as v1.8.17 calls them.
const (
	labelOperation = "operation_type"
	labelStatus    = "status_code"
	labelNamespace = "namespace"
	labelResource  = "resource"
)

// Operations against IMDS and Entra ID, as v1.8.17 labels them.
const (
	OpTokenUserAssigned = "adal_token_msi_userassignedid" //nolint:gosec // a label, not a token
	OpTokenEntra        = "adal_token"
)

// Operations against the API server, as v1.8.17 labels them.
const (
	OpAssignedIdentityAddition = "assigned_identity_addition"
	OpAssignedIdentityDeletion = "assigned_identity_deletion"
	OpAssignedIdentityUpdate   = "assigned_identity_update"
	OpAssignedIdentityStatus   = "update_azure_assigned_identity_status"
	OpGetPodList               = "get_pod_list"
	OpGetSecret                = "get_secret"
)

// Metrics records the measurements. A metric appears on /metrics once it was first recorded, so
// that MIC does not export NMI's metrics or the other way around. Methods are safe for concurrent
// use. Those on the request path take well under a microsecond and do not allocate.
type Metrics struct {
	mic micMetrics
	nmi nmiMetrics

	kubernetesErrors *prometheus.CounterVec
}

// NewMetrics registers the metrics and the build information. With a nil registerer, for tests,
// they are recorded but not exported. Metrics that are already registered are shared, so it may be
// called twice for one registerer.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	r := register{reg}
	info := build.Describe()
	r.gauge("build_info", "The build of this program; the value is always 1.", "version", "commit", "go_version").
		WithLabelValues(info.Version, info.Commit, info.GoVersion).Set(1)
	return &Metrics{
		mic: newMICMetrics(r),
		nmi: newNMIMetrics(r),
		kubernetesErrors: r.counter("kubernetes_api_operations_errors_count",
			"Total number of errors in Kubernetes API operations.", labelOperation),
	}
}

// KubernetesError counts a failed request to the API server. operation is one of the Op constants,
// or method and kind such as "patch_events".
func (m *Metrics) KubernetesError(operation string) {
	m.kubernetesErrors.WithLabelValues(operation).Inc()
}

// register makes collectors and registers them.
type register struct{ reg prometheus.Registerer }

func (r register) counter(name, help string, labels ...string) *prometheus.CounterVec {
	return registered(r.reg, prometheus.NewCounterVec(
		prometheus.CounterOpts{Namespace: prefix, Name: name, Help: help}, labels))
}

func (r register) gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	return registered(r.reg, prometheus.NewGaugeVec(
		prometheus.GaugeOpts{Namespace: prefix, Name: name, Help: help}, labels))
}

func (r register) histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return registered(r.reg, prometheus.NewHistogramVec(
		prometheus.HistogramOpts{Namespace: prefix, Name: name, Help: help, Buckets: buckets}, labels))
}

// registered registers c, or returns the same collector from an earlier call. Other errors mean
// that names clash, which the tests would find. The metric is then recorded but not exported, so
// that the daemon keeps running.
func registered[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	if reg == nil {
		return c
	}
	if earlier, ok := errors.AsType[prometheus.AlreadyRegisteredError](reg.Register(c)); ok {
		if same, ok := earlier.ExistingCollector.(C); ok {
			return same
		}
	}
	return c
}

// subSecondBuckets returns v1.8.17's buckets for operations of at most a second, in seconds.
func subSecondBuckets() []float64 {
	return []float64{0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 2, 3, 4, 5, 10, 30, 60, 120, 300}
}

// longBuckets returns v1.8.17's buckets for cycles and Azure's slow operations, in seconds.
func longBuckets() []float64 {
	return []float64{0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1200}
}

// requestBuckets returns v1.8.17's buckets for requests of pods, with finer ones below that a cache
// needs, in seconds.
func requestBuckets() []float64 {
	return []float64{
		0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
		0.5, 1, 2, 3, 4, 5, 10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 90, 100,
	}
}
