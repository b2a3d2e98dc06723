// Package events emits the Events about what MIC did and what it could not do. Each kind of Event
// has its own method, so that no call site contains a reason or a text.
//
// The reasons of v1.8.17, such as "binding applied", are kept, so that alerts on them keep working.
package events

import (
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/reason"
)

// The reasons. The first four are v1.8.17's.
const (
	BindingApplied    = "binding applied"
	BindingApplyError = "binding apply error"
	BindingRemoved    = "binding removed"
	BindingRefused    = "binding refused"
	// BindingWouldBeRefused is the reason under a policy that only warns.
	BindingWouldBeRefused = "binding would be refused"

	IdentityAssigned    = "identity assigned"
	IdentityNotAssigned = "identity not assigned"
	IdentityRefused     = "identity refused"
	NotPreassigned      = "identity not pre-assigned"
	NoBroker            = "no broker"
)

// The actions of events.k8s.io: what was attempted.
const (
	actionAssign = "Assign"
	actionRemove = "Remove"
	actionDecide = "Decide"
)

// maxNote is the maximum length of a note. The API server allows 1 KiB.
const maxNote = 1000

// Recorder emits Events. client-go's events.EventRecorder implements it.
type Recorder interface {
	Eventf(regarding, related runtime.Object, eventtype, reason, action, note string, args ...any)
}

// Events emits Events. It is safe for concurrent use, and no method waits for the API server.
type Events struct {
	recorder          Recorder
	normals, warnings *limiter

	// said records the problems that were reported, so that each is reported once per change. It
	// has one entry per object with a problem. Forget drops it.
	mu   sync.Mutex
	said map[string]string
}

// Rate limits of one namespace. In a burst of pods, only a limited number of normal Events are
// emitted. Warnings have a higher limit.
const (
	normalRate, normalBurst   = 2.5, 5
	warningRate, warningBurst = 20, 400
)

// New returns Events that emit through recorder.
func New(recorder Recorder) *Events {
	return &Events{
		recorder: recorder, said: map[string]string{},
		normals: newLimiter(normalRate, normalBurst), warnings: newLimiter(warningRate, warningBurst),
	}
}

// Assigned reports that a pod's node has the identity. pod may be nil if it is already gone.
func (e *Events) Assigned(assigned *v1.AzureAssignedIdentity, pod *corev1.Pod) {
	binding, id := references(assigned)
	e.normal(binding, pod, BindingApplied, actionAssign, "binding %s applied on node %s for pod %s/%s",
		binding.Name, assigned.Spec.NodeName, assigned.Spec.PodNamespace, assigned.Spec.Pod)
	if pod != nil {
		e.normal(podReference(pod), id, IdentityAssigned, actionAssign, "identity %s/%s assigned on node %s",
			id.Namespace, id.Name, assigned.Spec.NodeName)
	}
}

// NotAssigned reports that a pod's node does not get the identity, why, and what to do. pod may be
// nil.
func (e *Events) NotAssigned(assigned *v1.AzureAssignedIdentity, pod *corev1.Pod, why string) {
	binding, id := references(assigned)
	e.warning(binding, pod, BindingApplyError, actionAssign, "identity %s/%s is not assigned on node %s for pod %s/%s: %s",
		id.Namespace, id.Name, assigned.Spec.NodeName, assigned.Spec.PodNamespace, assigned.Spec.Pod, why)
	e.warning(reference(assigned, v1.GroupVersion.String(), "AzureAssignedIdentity"), pod, IdentityNotAssigned, actionAssign,
		"identity %s/%s: %s", id.Namespace, id.Name, why)
	if pod != nil {
		e.warning(podReference(pod), id, IdentityNotAssigned, actionAssign, "identity %s/%s: %s", id.Namespace, id.Name, why)
	}
}

// Removed reports that a pod no longer has the identity.
func (e *Events) Removed(assigned *v1.AzureAssignedIdentity) {
	binding, _ := references(assigned)
	e.normal(binding, nil, BindingRemoved, actionRemove, "binding %s removed from node %s for pod %s/%s",
		binding.Name, assigned.Spec.NodeName, assigned.Spec.PodNamespace, assigned.Spec.Pod)
}

// PodRefused reports why bindings that select a pod grant it nothing. The same refusals are
// reported only once. An empty list clears them.
func (e *Events) PodRefused(pod *corev1.Pod, refusals []*reason.Refusal) {
	texts := make([]string, 0, len(refusals))
	for _, r := range refusals {
		texts = append(texts, r.Text())
	}
	if e.news(podKey(pod.Namespace, pod.Name), strings.Join(texts, "; ")) {
		for _, text := range texts {
			e.warning(podReference(pod), nil, IdentityRefused, actionDecide, "%s", text)
		}
	}
}

// PodOnHostNetwork reports that a pod gets no identity because it shares its node's IP address.
func (e *Events) PodOnHostNetwork(pod *corev1.Pod) {
	why := reason.HostNetwork.Text("the pod uses the host's network, where it cannot be told from the node: its requests reach the node's own " +
		"metadata service; run it with hostNetwork: false, or remove the label " + v1.BindingLabel)
	if e.news(podKey(pod.Namespace, pod.Name), why) {
		e.warning(podReference(pod), nil, IdentityRefused, actionDecide, "%s", why)
	}
}

// PodComplaint reports a recurring failure to assign an identity to a pod's node. It is reported
// once until complaint is "" again.
func (e *Events) PodComplaint(pod *corev1.Pod, id *v1.AzureIdentity, complaint string) {
	complaint = reason.UpdateFailing.Text(complaint)
	if e.news(complaintKey(pod.Namespace, pod.Name), complaint) && complaint != "" {
		e.warning(podReference(pod), identityReference(id), IdentityNotAssigned, actionAssign, "identity %s/%s: %s", id.Namespace, id.Name, complaint)
	}
}

// ForgetPod drops what was reported about a deleted pod.
func (e *Events) ForgetPod(namespace, name string) {
	e.forget(podKey(namespace, name))
	e.forget(complaintKey(namespace, name))
}

// BindingRefused reports what is wrong with a binding or its identity, once per change. A nil
// refusal clears it.
func (e *Events) BindingRefused(binding *v1.AzureIdentityBinding, refusal *reason.Refusal) {
	why := ""
	if refusal != nil {
		why = refusal.Text()
	}
	if e.news(bindingKey(binding.Namespace, binding.Name), why) && why != "" {
		e.warning(bindingReference(binding), nil, BindingRefused, actionDecide, "%s", why)
	}
}

// BindingWarned reports that an enforced policy would refuse a binding, once per change.
func (e *Events) BindingWarned(binding *v1.AzureIdentityBinding, refusal *reason.Refusal) {
	why := "the policy warns and does not enforce yet: " + refusal.Text()
	if e.news(bindingKey(binding.Namespace, binding.Name), why) {
		e.warning(bindingReference(binding), nil, BindingWouldBeRefused, actionDecide, "%s", why)
	}
}

// ForgetBinding drops what was reported about a deleted binding.
func (e *Events) ForgetBinding(namespace, name string) { e.forget(bindingKey(namespace, name)) }

func (e *Events) normal(about, related runtime.Object, name, action, note string, args ...any) {
	if e.normals.allow(namespaceOf(about)) {
		e.recorder.Eventf(about, present(related), corev1.EventTypeNormal, name, action, note, args...)
	}
}

func (e *Events) warning(about, related runtime.Object, name, action, note string, args ...any) {
	for i, arg := range args {
		// ARM limits the length of its messages, but not to what fits here.
		if s, ok := arg.(string); ok {
			args[i] = reason.Cut(s, maxNote/2)
		}
	}
	if e.warnings.allow(namespaceOf(about)) {
		e.recorder.Eventf(about, present(related), corev1.EventTypeWarning, name, action, note, args...)
	}
}

// present converts a nil pod into a nil interface: a nil pointer in an interface is not nil.
func present(related runtime.Object) runtime.Object {
	if pod, ok := related.(*corev1.Pod); ok {
		if pod == nil {
			return nil
		}
		return podReference(pod)
	}
	return related
}

// news reports whether text differs from the last text reported under key.
func (e *Events) news(key, text string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.said[key] == text {
		return false
	}
	if text == "" {
		delete(e.said, key)
	} else {
		e.said[key] = text
	}
	return true
}

func (e *Events) forget(key string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.said, key)
}

func podKey(namespace, name string) string       { return "pod/" + namespace + "/" + name }
func complaintKey(namespace, name string) string { return "complaint/" + namespace + "/" + name }
func bindingKey(namespace, name string) string   { return "binding/" + namespace + "/" + name }
