// The metrics of the controller.

package observe

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type micMetrics struct {
	additionDuration *prometheus.HistogramVec
	additions        *prometheus.CounterVec
	deletionDuration *prometheus.HistogramVec
	deletions        *prometheus.CounterVec
	updateDuration   *prometheus.HistogramVec
	updates          *prometheus.CounterVec
	cycleDuration    *prometheus.HistogramVec
	cycles           *prometheus.CounterVec
	newLeaders       *prometheus.CounterVec
	cloudErrors      *prometheus.CounterVec
	cloudDuration    *prometheus.HistogramVec

	leader      *prometheus.GaugeVec
	assigned    *prometheus.GaugeVec
	quarantined *prometheus.GaugeVec
	inFlight    *prometheus.GaugeVec
	batch       *prometheus.HistogramVec
	throttled   *prometheus.CounterVec
	nodes       *prometheus.GaugeVec
}

func newMICMetrics(r register) micMetrics {
	m := micMetrics{
		additionDuration: r.histogram("assigned_identity_addition_duration_seconds",
			"Duration in seconds of assigned identity addition operations.", subSecondBuckets()),
		additions: r.counter("assigned_identity_addition_count", "Total number of assigned identity addition operations."),
		deletionDuration: r.histogram("assigned_identity_deletion_duration_seconds",
			"Duration in seconds of assigned identity deletion operations.", subSecondBuckets()),
		deletions: r.counter("assigned_identity_deletion_count", "Total number of assigned identity deletion operations."),
		updateDuration: r.histogram("assigned_identity_update_duration_seconds",
			"Duration in seconds of assigned identity update operations.", subSecondBuckets()),
		updates:       r.counter("assigned_identity_update_count", "Total number of assigned identity update operations."),
		cycleDuration: r.histogram("mic_cycle_duration_seconds", "Duration in seconds for a single MIC sync cycle.", longBuckets()),
		cycles:        r.counter("mic_cycle_count", "Total number of cycles executed in MIC."),
		newLeaders:    r.counter("mic_new_leader_election_count", "Total number of new leader elections in MIC."),
		cloudErrors: r.counter("cloud_provider_operations_errors_count",
			"Total number of errors in cloud provider operations.", labelOperation),
		cloudDuration: r.histogram("cloud_provider_operations_duration_seconds",
			"Duration in seconds of cloud provider operations.", longBuckets(), labelOperation),
	}
	m.leader = r.gauge("mic_leader", "1 while this MIC leads, else 0.")
	m.assigned = r.gauge("mic_assigned_identities", "Assigned identities in the cluster, by state.", "state")
	m.quarantined = r.gauge("mic_quarantined_identities",
		"Identities that Azure refuses and that are left out until they change; the value is always 1. Page on any.",
		labelNamespace, "identity", "reason")
	m.inFlight = r.gauge("mic_attachments_in_flight", "Updates of VMs and scale sets under way.")
	m.batch = r.histogram("mic_attachment_identities", "Identities attached and detached by one update of a VM or scale set.",
		[]float64{1, 2, 5, 10, 20, 50, 100, 150})
	m.nodes = r.gauge("mic_nodes",
		"Nodes of the cluster, by what Azure assigns their identities to: vm, vmss, or other for nodes that are not Azure's.", "group_kind")
	m.throttled = r.counter("mic_arm_throttled_total", "Answers 429 of Azure's resource manager.", labelOperation)
	return m
}

// AssignedIdentityAdded records an assigned identity that became Assigned. took is the time since
// its pod was first seen without it.
func (m *Metrics) AssignedIdentityAdded(took time.Duration) {
	m.mic.additions.WithLabelValues().Inc()
	m.mic.additionDuration.WithLabelValues().Observe(took.Seconds())
}

// AssignedIdentityDeleted records a deleted assigned identity. took is the time since its pod was
// seen to be gone.
func (m *Metrics) AssignedIdentityDeleted(took time.Duration) {
	m.mic.deletions.WithLabelValues().Inc()
	m.mic.deletionDuration.WithLabelValues().Observe(took.Seconds())
}

// AssignedIdentityUpdated records an assigned identity that was rewritten.
func (m *Metrics) AssignedIdentityUpdated(took time.Duration) {
	m.mic.updates.WithLabelValues().Inc()
	m.mic.updateDuration.WithLabelValues().Observe(took.Seconds())
}

// Cycle records one reconciliation that changed something.
func (m *Metrics) Cycle(took time.Duration) {
	m.mic.cycles.WithLabelValues().Inc()
	m.mic.cycleDuration.WithLabelValues().Observe(took.Seconds())
}

// Leading records whether this process leads. Every change to true counts as a new election.
func (m *Metrics) Leading(leads bool) {
	if !leads {
		m.mic.leader.WithLabelValues().Set(0)
		// Only the leader reports the current state. A standby's values would be counted twice.
		m.mic.assigned.Reset()
		m.mic.quarantined.Reset()
		m.mic.nodes.Reset()
		return
	}
	m.mic.leader.WithLabelValues().Set(1)
	m.mic.newLeaders.WithLabelValues().Inc()
}

// CloudOperation records a finished call to Azure Resource Manager: its duration when err is nil,
// else an error. operation is one of the labels of package compute.
func (m *Metrics) CloudOperation(operation string, took time.Duration, err error) {
	if err != nil {
		m.mic.cloudErrors.WithLabelValues(operation).Inc()
		return
	}
	m.mic.cloudDuration.WithLabelValues(operation).Observe(took.Seconds())
}

// Throttled counts a 429 response of Azure Resource Manager.
func (m *Metrics) Throttled(operation string) { m.mic.throttled.WithLabelValues(operation).Inc() }

// AttachmentBegan records the start of an update of a VM or scale set that changes this many
// identities.
func (m *Metrics) AttachmentBegan(identities int) {
	m.mic.inFlight.WithLabelValues().Inc()
	m.mic.batch.WithLabelValues().Observe(float64(identities))
}

// AttachmentEnded records the end of an update, successful or not.
func (m *Metrics) AttachmentEnded() { m.mic.inFlight.WithLabelValues().Dec() }

// AssignedIdentities sets how many assigned identities are in a state (one of
// v1's State constants).
func (m *Metrics) AssignedIdentities(state string, n int) {
	m.mic.assigned.WithLabelValues(state).Set(float64(n))
}

// Nodes sets how many nodes there are of a kind: vm, vmss or other.
func (m *Metrics) Nodes(kind string, n int) { m.mic.nodes.WithLabelValues(kind).Set(float64(n)) }

// Quarantined records that an identity is in quarantine, with a reason of one word. It replaces an
// earlier reason of the same identity.
func (m *Metrics) Quarantined(namespace, identity, reason string) {
	m.QuarantineLifted(namespace, identity)
	m.mic.quarantined.WithLabelValues(namespace, identity, label(reason)).Set(1)
}

// QuarantineLifted records that an identity is in use again, or was deleted.
func (m *Metrics) QuarantineLifted(namespace, identity string) {
	m.mic.quarantined.DeletePartialMatch(prometheus.Labels{labelNamespace: namespace, "identity": identity})
}
