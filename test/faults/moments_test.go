// Checks of every moment: an assigned identity is Assigned only if bindings and policy granted it
// just before.
package faults_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
)

// late is how long MIC may act on its knowledge from before a change: a machine that runs several
// control planes can stall for seconds.
const late = 8 * time.Second

// write is one successful write to the API server.
type write struct {
	// began is when the API server received it, ended when it answered.
	began, ended time.Time
	resource     string // as in a URL: pods, azureidentities, ...
	key          string // namespace/name
	object       any    // after the write, nil: it is gone
	mic          bool
}

// retried is a change of these tests that succeeded after failures. Any of the attempts may have
// changed the objects: the API server that was killed neither answered nor recorded it.
type retried struct{ began, ended time.Time }

// moments holds the writes of a run in the order of their ends, and what excuses MIC.
type moments struct {
	writes []write
	rules  identity.Rules
	// never maps resource IDs, in lower case, that no pod can have, to the reason.
	never map[string]string
	// clients maps resource IDs, in lower case, of identities that are never recreated to their
	// client IDs.
	clients map[string]string
	// kept contains assigned identities of pods that stay: once Assigned, they must remain so.
	kept map[types.UID]bool
	// outages lists the times without an API server, in which MIC gets no events.
	outages []outage
	// retries lists the changes whose effect may be older than their record.
	retries []retried
	late    time.Duration

	versions map[string]map[string][]write // what people wrote, by resource and key
	// judged counts the assignments that wrong has checked.
	judged int
}

// wrong returns everything that was wrong at some moment.
func (m *moments) wrong() []string { return slices.Concat(m.wronglyGiven(), m.lost()) }

// lost returns what pods that stay lacked for a moment.
func (m *moments) lost() (wrong []string) {
	had := map[types.UID]bool{}
	for _, w := range m.writes {
		a, ok := w.object.(*v1.AzureAssignedIdentity)
		if !ok || !m.kept[a.UID] {
			continue
		}
		has := a.Status.Status == v1.StateAssigned
		if had[a.UID] && !has {
			wrong = append(wrong, fmt.Sprintf("%s: pod %s/%s, which stays, lost its identity: %s %s", clock(w.ended), a.Spec.PodNamespace, a.Spec.Pod, a.Status.Status, a.Status.Reason))
		}
		had[a.UID] = has
	}
	return wrong
}

// wronglyGiven returns what MIC set to Assigned without a grant.
func (m *moments) wronglyGiven() (wrong []string) {
	m.versions = map[string]map[string][]write{}
	for _, w := range m.writes {
		if w.mic { // what it writes to pods and identities are conditions
			continue
		}
		if m.versions[w.resource] == nil {
			m.versions[w.resource] = map[string][]write{}
		}
		w.began = m.firstAttempt(w)
		m.versions[w.resource][w.key] = append(m.versions[w.resource][w.key], w)
	}
	for _, w := range m.writes {
		a, ok := w.object.(*v1.AzureAssignedIdentity)
		if !ok || !w.mic || a.Status.Status != v1.StateAssigned || a.Spec.AzureIdentityRef == nil {
			continue
		}
		m.judged++
		what := fmt.Sprintf("%s: pod %s/%s was assigned %s/%s (%s)", clock(w.ended), a.Spec.PodNamespace, a.Spec.Pod,
			a.Spec.AzureIdentityRef.Namespace, a.Spec.AzureIdentityRef.Name, short(a.Spec.AzureIdentityRef.Spec.ResourceID))
		if why := m.refused(a.Spec.AzureIdentityRef.Spec); why != "" {
			wrong = append(wrong, what+": "+why)
		} else if !m.given(a, m.back(w.began), w.ended) {
			wrong = append(wrong, what+", which no binding and policy gave it at that time")
		}
	}
	return wrong
}

// refused returns why no pod can have the identity, or "".
func (m *moments) refused(spec v1.AzureIdentitySpec) string {
	if mismatched(spec, m.clients[fold(spec.ResourceID)]) {
		return "its client ID is another identity's"
	}
	return m.never[fold(spec.ResourceID)]
}

// firstAttempt returns the earliest time at which a write of these tests may have had its effect.
func (m *moments) firstAttempt(w write) time.Time {
	for _, r := range m.retries {
		if w.began.After(r.began) && w.began.Before(r.ended) {
			return r.began
		}
	}
	return w.began
}

// back returns the time from which MIC must know every change. An API server that has started and
// is not ready yet sends MIC no events.
func (m *moments) back(t time.Time) time.Time {
	earliest := t.Add(-m.late)
	for _, o := range slices.Backward(m.outages) {
		if !o.ready.After(earliest) || !o.killed.Before(t) {
			continue
		}
		end := o.ready
		if end.After(t) { // it answered MIC before it reported that it is ready
			end = t
		}
		earliest = earliest.Add(-end.Sub(o.killed))
	}
	return earliest
}

// given reports whether the pod could have the identity, given each object as it was at some time
// in between: MIC gets the events of each kind separately.
func (m *moments) given(a *v1.AzureAssignedIdentity, since, until time.Time) bool {
	ref := a.Spec.AzureIdentityRef
	pods := during[*corev1.Pod](m.versions["pods"][a.Spec.PodNamespace+"/"+a.Spec.Pod], since, until)
	identities := during[*v1.AzureIdentity](m.versions["azureidentities"][ref.Namespace+"/"+ref.Name], since, until)
	policies := during[*v1.AzureIdentityPolicy](m.versions["azureidentitypolicies"]["/"+v1.PolicyName], since, until)
	var bindings []*v1.AzureIdentityBinding
	for _, versions := range m.versions["azureidentitybindings"] {
		for _, b := range during[*v1.AzureIdentityBinding](versions, since, until) {
			if b != nil && b.Spec.AzureIdentity == ref.Name {
				bindings = append(bindings, b)
			}
		}
	}
	for _, policy := range policies {
		compiled, err := identity.CompilePolicy(policy)
		if err != nil {
			continue
		}
		for _, pod := range pods {
			for _, id := range identities {
				if pod == nil || id == nil || !strings.EqualFold(id.Spec.ResourceID, ref.Spec.ResourceID) {
					continue
				}
				grants, _ := m.rules.With(compiled).Grants(podOf(pod), bindings, func(string, string) *v1.AzureIdentity { return id })
				if len(grants) > 0 {
					return true
				}
			}
		}
	}
	return false
}

// during returns the states that an object may have had in a time span; nil stands for absence. A
// write has its effect between its beginning and its end.
func during[T any](writes []write, since, until time.Time) []T {
	var none T
	list := []T{none}
	for _, w := range writes {
		if w.began.After(until) {
			break
		}
		if w.ended.Before(since) {
			list = list[:0]
		}
		object, _ := w.object.(T)
		list = append(list, object)
	}
	return list
}

// moments reads the API server's audit log.
func (r *run) moments() *moments {
	r.Helper()
	text, err := os.ReadFile(r.path("audit.log"))
	r.must(err)
	m := &moments{rules: r.rules, late: late, never: map[string]string{}, clients: map[string]string{}, kept: map[types.UID]bool{}}
	for id, reason := range refusals() {
		m.never[id] = "Azure refuses it (" + reason + ")"
	}
	for uid := range r.steady {
		m.kept[uid] = true
	}
	for _, id := range slices.Concat(steadyIDs(), []string{sharedID(), privateID(), clusterID()}) {
		m.clients[fold(id)] = clientOf(id)
	}
	r.mu.Lock()
	m.outages, m.retries = slices.Clone(r.outages), slices.Clone(r.retries)
	r.mu.Unlock()
	for line := range bytes.Lines(text) {
		if w, ok := readWrite(line); ok {
			m.writes = append(m.writes, w)
		}
	}
	slices.SortStableFunc(m.writes, func(a, b write) int { return a.ended.Compare(b.ended) })
	return m
}

// readWrite parses a line of the audit log. ok is false if the line is not a relevant write.
func readWrite(line []byte) (w write, ok bool) {
	var e struct {
		Verb           string
		User           struct{ Username string }
		ObjectRef      struct{ Resource, Namespace, Name string }
		ResponseStatus struct{ Code int }
		RequestObject  json.RawMessage
		ResponseObject json.RawMessage
		Received       time.Time `json:"requestReceivedTimestamp"`
		Answered       time.Time `json:"stageTimestamp"`
	}
	if json.Unmarshal(uncut(line), &e) != nil { // a line that was cut by a kill
		return w, false
	}
	object := newObject(e.ObjectRef.Resource)
	const good, notFound, conflict = 300, 404, 409
	text, code := e.ResponseObject, e.ResponseStatus.Code
	mic := e.User.Username == "mic"
	created := e.Verb == "create" && code == conflict && !mic // an earlier try of these tests, whose answer was lost
	gone := e.Verb == "delete" && (code < good || code == notFound)
	if object == nil || code >= good && !created && !gone {
		return w, false
	}
	if created {
		text = e.RequestObject
	}
	w = write{
		began: e.Received, ended: e.Answered, resource: e.ObjectRef.Resource, mic: mic,
		key: e.ObjectRef.Namespace + "/" + e.ObjectRef.Name,
	}
	if gone && !staysFor(text) {
		return w, true
	}
	w.object = object
	return w, json.Unmarshal(text, object) == nil
}

// uncut returns the last event of a line. If a kill cut an event off, the next API server's first
// one is on the same line.
func uncut(line []byte) []byte {
	return line[max(bytes.LastIndex(line, []byte(`{"kind":"Event","apiVersion":"audit.k8s.io/`)), 0):]
}

// newObject returns an empty object of the kind, or nil for kinds that do not matter here.
func newObject(resource string) any {
	switch resource {
	case "pods":
		return &corev1.Pod{}
	case "azureidentities":
		return &v1.AzureIdentity{}
	case "azureidentitybindings":
		return &v1.AzureIdentityBinding{}
	case "azureidentitypolicies":
		return &v1.AzureIdentityPolicy{}
	case "azureassignedidentities":
		return &v1.AzureAssignedIdentity{}
	default:
		return nil
	}
}

// staysFor reports whether a deletion has only begun: the pod has a grace period.
func staysFor(text json.RawMessage) bool {
	var o struct {
		Kind     string
		Metadata struct{ DeletionGracePeriodSeconds int64 }
	}
	return json.Unmarshal(text, &o) == nil && o.Kind == "Pod" && o.Metadata.DeletionGracePeriodSeconds > 0
}
