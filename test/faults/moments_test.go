// The judge of every moment: an assigned identity says Assigned only for what bindings and policy gave just before.
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

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
)

// late is how long MIC may go on with what it knew before a change: a machine that runs several control planes stands
// still for seconds.
const late = 8 * time.Second

// write is one write to the API server that succeeded.
type write struct {
	// began is when the API server received it, ended when it answered.
	began, ended time.Time
	resource     string // as in a URL: pods, azureidentities, ...
	key          string // namespace/name
	object       any    // after the write, nil: it is gone
	mic          bool
}

// moments are the writes of a run in the order of their beginning, with what excuses MIC.
type moments struct {
	writes []write
	rules  identity.Rules
	// never are resource IDs, folded, that no pod can have.
	never map[string]string
	// away are the times without an API server, in which MIC hears of nothing.
	away []span
	late time.Duration

	now   map[string]map[string]any // by resource and key
	undos []func()
	// judged is how many assignments wrong has looked at.
	judged int
}

// wrong returns what MIC called Assigned although nothing gave it.
func (m *moments) wrong() (wrong []string) {
	m.now = map[string]map[string]any{}
	var people []write
	for _, w := range m.writes {
		if !w.mic { // what MIC writes to pods and identities are conditions
			people = append(people, w)
		}
	}
	slices.SortStableFunc(people, func(a, b write) int { return a.began.Compare(b.began) })
	next := 0
	for _, w := range m.writes {
		a, ok := w.object.(*v1.AzureAssignedIdentity)
		if !ok || !w.mic || a.Status.Status != v1.StateAssigned || a.Spec.AzureIdentityRef == nil {
			continue
		}
		for ; next < len(people) && !people[next].began.After(w.ended); next++ {
			m.apply(people[next])
		}
		m.judged++
		what := fmt.Sprintf("%s: pod %s/%s was assigned %s/%s (%s)", clock(w.ended), a.Spec.PodNamespace, a.Spec.Pod,
			a.Spec.AzureIdentityRef.Namespace, a.Spec.AzureIdentityRef.Name, short(a.Spec.AzureIdentityRef.Spec.ResourceID))
		if why := m.never[fold(a.Spec.AzureIdentityRef.Spec.ResourceID)]; why != "" {
			wrong = append(wrong, what+": "+why)
		} else if !m.given(a, people[:next], m.back(w.began)) {
			wrong = append(wrong, what+", which no binding and policy gave it at that time")
		}
	}
	return wrong
}

// back is the moment from which MIC must have heard of every change.
func (m *moments) back(t time.Time) time.Time {
	earliest := t.Add(-m.late)
	for _, s := range slices.Backward(m.away) {
		if s.to.After(earliest) && s.from.Before(t) {
			earliest = earliest.Add(-s.to.Sub(s.from))
		}
	}
	return earliest
}

// given reports whether the pod had the identity at some moment since then. It goes back change by change.
func (m *moments) given(a *v1.AzureAssignedIdentity, done []write, since time.Time) bool {
	last := len(done)
	defer func() {
		for _, w := range done[last:] {
			m.apply(w)
		}
	}()
	for {
		if m.grants(a) {
			return true
		}
		if last == 0 || done[last-1].began.Before(since) {
			return false
		}
		last--
		m.undo()
	}
}

func (m *moments) apply(w write) {
	objects := m.now[w.resource]
	if objects == nil {
		objects = map[string]any{}
		m.now[w.resource] = objects
	}
	before, there := objects[w.key]
	m.undos = append(m.undos, func() {
		if there {
			objects[w.key] = before
		} else {
			delete(objects, w.key)
		}
	})
	if w.object == nil {
		delete(objects, w.key)
	} else {
		objects[w.key] = w.object
	}
}

func (m *moments) undo() {
	last := len(m.undos) - 1
	m.undos[last]()
	m.undos = m.undos[:last]
}

// grants asks the rules about the objects of this moment.
func (m *moments) grants(a *v1.AzureAssignedIdentity) bool {
	pod, ok := m.now["pods"][a.Spec.PodNamespace+"/"+a.Spec.Pod].(*corev1.Pod)
	if !ok {
		return false
	}
	policy, _ := m.now["azureidentitypolicies"]["/"+v1.PolicyName].(*v1.AzureIdentityPolicy)
	compiled, err := identity.CompilePolicy(policy)
	if err != nil {
		return false
	}
	var bindings []*v1.AzureIdentityBinding
	for _, o := range m.now["azureidentitybindings"] {
		if b, ok := o.(*v1.AzureIdentityBinding); ok && b.Spec.Selector == pod.Labels[v1.BindingLabel] {
			bindings = append(bindings, b)
		}
	}
	grants, _ := m.rules.With(compiled).Grants(podOf(pod), bindings, func(namespace, name string) *v1.AzureIdentity {
		id, _ := m.now["azureidentities"][namespace+"/"+name].(*v1.AzureIdentity)
		return id
	})
	return slices.ContainsFunc(grants, func(g identity.Grant) bool {
		ref := a.Spec.AzureIdentityRef
		return g.Identity.Namespace == ref.Namespace && g.Identity.Name == ref.Name && strings.EqualFold(g.Identity.Spec.ResourceID, ref.Spec.ResourceID)
	})
}

// moments reads what the API server wrote down.
func (r *run) moments() *moments {
	r.Helper()
	text, err := os.ReadFile(r.path("audit.log"))
	r.must(err)
	m := &moments{rules: r.rules, late: late, never: map[string]string{}}
	for id, reason := range refusals() {
		m.never[id] = "Azure refuses it (" + reason + ")"
	}
	r.mu.Lock()
	m.away = slices.Clone(r.away)
	r.mu.Unlock()
	for line := range bytes.Lines(text) {
		if w, ok := readWrite(line); ok {
			m.writes = append(m.writes, w)
		}
	}
	slices.SortStableFunc(m.writes, func(a, b write) int { return a.ended.Compare(b.ended) })
	return m
}

// readWrite reads a line of the audit log; ok is false when it is about something else.
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
	if json.Unmarshal(line, &e) != nil { // a line that was cut by a kill
		return w, false
	}
	object := newObject(e.ObjectRef.Resource)
	const good, notFound, conflict = 300, 404, 409
	text, code := e.ResponseObject, e.ResponseStatus.Code
	created := e.Verb == "create" && code == conflict // an earlier try of these tests, whose answer was lost
	gone := e.Verb == "delete" && (code < good || code == notFound)
	if object == nil || code >= good && !created && !gone {
		return w, false
	}
	if created {
		text = e.RequestObject
	}
	w = write{
		began: e.Received, ended: e.Answered, resource: e.ObjectRef.Resource, mic: e.User.Username == "mic",
		key: e.ObjectRef.Namespace + "/" + e.ObjectRef.Name,
	}
	if gone && !staysFor(text) {
		return w, true
	}
	w.object = object
	return w, json.Unmarshal(text, object) == nil
}

// newObject returns an empty object of the kind, nil for kinds that do not matter here.
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

// staysFor reports whether a deletion has only begun: the pod has time to end.
func staysFor(text json.RawMessage) bool {
	var o struct {
		Kind     string
		Metadata struct{ DeletionGracePeriodSeconds int64 }
	}
	return json.Unmarshal(text, &o) == nil && o.Kind == "Pod" && o.Metadata.DeletionGracePeriodSeconds > 0
}
