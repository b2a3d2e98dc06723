// The metrics of the node agent.

package observe

import (
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// CacheOutcome is the result of a lookup in the token cache.
type CacheOutcome int

// The outcomes.
const (
	// CacheHit: a fresh token was cached.
	CacheHit CacheOutcome = iota
	// CacheMiss: no token was cached, and the source was asked.
	CacheMiss
	// CacheShared: no token was cached, and an earlier request to the source was in flight.
	CacheShared
	// CacheStale: the source failed, and a cached token that is still valid was served.
	CacheStale
	// CacheRefused: the source refused a moment ago and was not asked again.
	CacheRefused
)

// String returns the outcome as a label value.
func (o CacheOutcome) String() string {
	switch o {
	case CacheHit:
		return "hit"
	case CacheMiss:
		return "miss"
	case CacheShared:
		return "shared"
	case CacheStale:
		return "stale"
	case CacheRefused:
		return "refused"
	default:
		return "unknown"
	}
}

type nmiMetrics struct {
	operations    *children[operationKey, prometheus.Observer]
	tokenRequests *children[tokenRequestKey, prometheus.Counter]
	cacheRequests *children[CacheOutcome, prometheus.Counter]
	waiting       func() prometheus.Gauge

	waitDuration    *prometheus.HistogramVec
	cacheEntries    *prometheus.GaugeVec
	redirectReady   *prometheus.GaugeVec
	captureInPods   *prometheus.GaugeVec
	wireProbe       *prometheus.GaugeVec
	cilium          *prometheus.GaugeVec
	redirectChanges *prometheus.CounterVec
	auditDropped    *prometheus.CounterVec
	eventsDropped   *prometheus.CounterVec
	imdsErrors      *prometheus.CounterVec
	imdsDuration    *prometheus.HistogramVec
}

type operationKey struct {
	operation           string
	status              int
	namespace, resource string
}

func (k operationKey) clone() operationKey {
	k.namespace, k.resource = strings.Clone(k.namespace), strings.Clone(k.resource)
	return k
}

type tokenRequestKey struct {
	status int
	reason string
}

// Limits on the series that requests can create. Pods choose the resource, and one pod must neither
// exhaust the memory nor use up the series of other namespaces.
const (
	maxOperationSeries    = 1000
	maxNamespaceSeries    = 50
	maxTokenRequestSeries = 200
)

func newNMIMetrics(r register) nmiMetrics {
	operations := r.histogram("nmi_operations_duration_seconds", "Duration in seconds for NMI operations.",
		requestBuckets(), labelOperation, labelStatus, labelNamespace, labelResource)
	tokens := r.counter("nmi_token_requests_total", "Token requests answered, by status and by reason.",
		labelStatus, "reason")
	cache := r.counter("nmi_token_cache_requests_total",
		"How the token cache answered: hit, miss, shared (with a request already asking) or stale (source down, token valid).", "outcome")
	waiting := r.gauge("nmi_waiting_requests", "Token requests held until their identity arrives.")
	return nmiMetrics{
		operations: &children[operationKey, prometheus.Observer]{
			max: maxOperationSeries, perGroup: maxNamespaceSeries,
			own:      operationKey.clone,
			group:    func(k operationKey) string { return k.namespace },
			fallback: func(k operationKey) operationKey { k.resource = other; return k },
			create: func(k operationKey) (prometheus.Observer, error) {
				return operations.GetMetricWithLabelValues(k.operation, strconv.Itoa(k.status), k.namespace, k.resource)
			},
		},
		tokenRequests: &children[tokenRequestKey, prometheus.Counter]{
			max: maxTokenRequestSeries, perGroup: maxTokenRequestSeries,
			fallback: func(k tokenRequestKey) tokenRequestKey { k.reason = other; return k },
			create: func(k tokenRequestKey) (prometheus.Counter, error) {
				return tokens.GetMetricWithLabelValues(strconv.Itoa(k.status), label(k.reason))
			},
		},
		cacheRequests: &children[CacheOutcome, prometheus.Counter]{
			max: maxTokenRequestSeries, perGroup: maxTokenRequestSeries,
			create: func(o CacheOutcome) (prometheus.Counter, error) { return cache.GetMetricWithLabelValues(o.String()) },
		},
		waiting: sync.OnceValue(func() prometheus.Gauge { return waiting.WithLabelValues() }),
		waitDuration: r.histogram("nmi_wait_duration_seconds",
			"How long token requests were held for their identity, by the status they got.", requestBuckets(), labelStatus),
		cacheEntries: r.gauge("nmi_token_cache_entries", "Tokens held."),
		redirectReady: r.gauge("nmi_redirect_ready",
			"1 while requests to the metadata service are redirected to the agent, else 0. Page on 0."),
		captureInPods: r.gauge("nmi_capture_in_pods",
			"1 while requests to the metadata service are captured inside pods, else 0. With --capture=wire it is 0."),
		wireProbe: r.gauge("nmi_wire_probe",
			"1 for the result of the last probe on the node's network: arrives, passes (by the redirect: pods may reach the metadata service itself) or unknown.", "result"),
		cilium: r.gauge("nmi_cilium",
			"1 for what is known of Cilium's host routing on this node: none (there is no Cilium), legacy or unknown (if it is eBPF, pods reach the metadata service itself).", "host_routing"),
		redirectChanges: r.counter("nmi_redirect_changes_total",
			"How often the redirect had to be set: set (first), repaired (somebody changed it) or failed.", "result"),
		auditDropped: r.counter("nmi_audit_lines_dropped_total",
			"Lines of the audit log that could not be written."),
		eventsDropped: r.counter("nmi_events_dropped_total",
			"Events about refusals that were not written, because there were too many or the API server did not take them."),
		imdsErrors: r.counter("imds_operations_errors_count",
			"Total number of errors in IMDS token operations.", labelOperation),
		imdsDuration: r.histogram("imds_operations_duration_seconds",
			"Duration in seconds of IMDS token operations.", subSecondBuckets(), labelOperation),
	}
}

// Operation records a finished request of a pod. route is a constant such as
// "/metadata/identity/oauth2/token", never the path as sent. status is that of the response.
// namespace is the pod's ("" when unknown), resource the requested one ("" when none). It is on the
// request path.
func (m *Metrics) Operation(route string, status int, namespace, resource string, took time.Duration) {
	if o, ok := m.nmi.operations.get(operationKey{route, status, label(namespace), label(resource)}); ok {
		o.Observe(took.Seconds())
	}
}

// TokenRequest counts a token request by the status of its response. reason is one of podid's own
// reason names, "" when a token was returned. It is on the request path.
func (m *Metrics) TokenRequest(status int, reason string) {
	if c, ok := m.nmi.tokenRequests.get(tokenRequestKey{status, reason}); ok {
		c.Inc()
	}
}

// TokenCache counts a lookup in the cache. It is on the request path.
func (m *Metrics) TokenCache(outcome CacheOutcome) {
	if c, ok := m.nmi.cacheRequests.get(outcome); ok {
		c.Inc()
	}
}

// TokenCacheEntries sets how many tokens are cached.
func (m *Metrics) TokenCacheEntries(n int) { m.nmi.cacheEntries.WithLabelValues().Set(float64(n)) }

// WaitBegan records that a request is now held. It is on the request path.
func (m *Metrics) WaitBegan() { m.nmi.waiting().Inc() }

// WaitEnded records that a held request was answered with status after took. Use 499 for a client
// that disconnected.
func (m *Metrics) WaitEnded(status int, took time.Duration) {
	m.nmi.waiting().Dec()
	m.nmi.waitDuration.WithLabelValues(strconv.Itoa(status)).Observe(took.Seconds())
}

// RedirectState records whether the redirect is in place. Call it at startup too, so that the
// metric exists.
func (m *Metrics) RedirectState(ready bool) {
	value := 0.0
	if ready {
		value = 1
	}
	m.nmi.redirectReady.WithLabelValues().Set(value)
}

// CaptureState records whether requests are captured inside pods. Call it at startup too, so that
// the metric exists.
func (m *Metrics) CaptureState(inPods bool) {
	value := 0.0
	if inPods {
		value = 1
	}
	m.nmi.captureInPods.WithLabelValues().Set(value)
}

// WireProbed records the result of a probe on the node's network.
func (m *Metrics) WireProbed(result string) {
	m.nmi.wireProbe.Reset()
	m.nmi.wireProbe.WithLabelValues(result).Set(1)
}

// CiliumHostRouting records what is known of Cilium's host routing.
func (m *Metrics) CiliumHostRouting(known string) {
	m.nmi.cilium.Reset()
	m.nmi.cilium.WithLabelValues(known).Set(1)
}

// RedirectSet counts a redirect that was written where there was none.
func (m *Metrics) RedirectSet() { m.nmi.redirectChanges.WithLabelValues("set").Inc() }

// RedirectRepaired counts a redirect that was found changed and was restored.
func (m *Metrics) RedirectRepaired() { m.nmi.redirectChanges.WithLabelValues("repaired").Inc() }

// RedirectFailed counts a failed attempt to write the redirect.
func (m *Metrics) RedirectFailed() { m.nmi.redirectChanges.WithLabelValues("failed").Inc() }

// SourceOperation records a finished call to IMDS or Entra ID: its duration when err is nil, else
// an error. operation is one of the OpToken constants.
func (m *Metrics) SourceOperation(operation string, took time.Duration, err error) {
	if err != nil {
		m.nmi.imdsErrors.WithLabelValues(operation).Inc()
		return
	}
	m.nmi.imdsDuration.WithLabelValues(operation).Observe(took.Seconds())
}

// AuditDropped counts a line of the audit log that was lost.
func (m *Metrics) AuditDropped() { m.nmi.auditDropped.WithLabelValues().Inc() }

// EventDropped counts an Event about a refusal that was not written.
func (m *Metrics) EventDropped() { m.nmi.eventsDropped.WithLabelValues().Inc() }
