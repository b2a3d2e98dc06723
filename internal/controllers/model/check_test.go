// The checks at every moment, and at rest.

package model

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/reason"
)

// look records what MIC can know at this moment.
func (w *world) look() {
	if w.mic == nil {
		return
	}
	w.contest()
	seen := w.seen()
	w.azure.want(seen.wanted(groups(), w.keys()))
	ready, wrong := w.due(seen)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ready.keep(ready)
	w.wrong.keep(wrong)
}

// contest records which identities have had a wrong client ID.
func (w *world) contest() {
	for _, id := range w.truth().identities {
		if w.misnamed(id) {
			w.azure.mu.Lock()
			w.azure.contested[strings.ToLower(id.Spec.ResourceID)] = true
			w.azure.mu.Unlock()
		}
	}
}

// misnamed reports whether Azure has another client ID for the identity.
func (w *world) misnamed(id *v1.AzureIdentity) bool {
	has, _ := w.azure.fake.IDsOf(id.Spec.ResourceID)
	return id.Spec.Type == v1.UserAssignedMSI && id.Spec.ClientID != "" && !strings.EqualFold(id.Spec.ClientID, has)
}

// due returns the claims that MIC knows to be fulfilled on Azure, whose objects must be Assigned.
// It also returns the objects that MIC knows to be obsolete.
func (w *world) due(seen *view) (ready, wrong map[string]bool) {
	ready, wrong = map[string]bool{}, map[string]bool{}
	claims := seen.claims()
	ledgers := map[compute.Group]map[string]bool{}
	for _, group := range groups() {
		ledgers[group] = w.ledger(group)
	}
	w.azure.mu.Lock()
	defer w.azure.mu.Unlock()
	for _, c := range claims {
		op := w.azure.updating(c.slot.group)
		// MIC cannot know what an update attaches that began before this MIC did.
		there := w.azure.known[c.slot.group][c.slot.key] && !w.azure.leaving[c.slot] && !w.azure.blind[c.slot.group] &&
			(op == nil || !op.attach[c.slot.key] && !op.detach[c.slot.key] && op.began.After(w.mic.since) && !w.azure.unsure[c.slot.group][c.slot.key])
		verified := ledgers[c.slot.group][c.slot.key] && !w.azure.contested[c.slot.key]
		if c.lost || c.azure && (!there || !verified) {
			continue
		}
		ready[fmt.Sprintf("%s (%s)|%s|%s|%s|%s", c.String(), short(c.slot.key), c.pod.UID, c.identity.UID, c.identity.Spec.ResourceID, c.node.Spec.ProviderID)] = true
	}
	for _, o := range seen.assigned {
		if !slices.ContainsFunc(claims, func(c claim) bool { return c.of(o) && c.node.Name == o.Spec.NodeName }) {
			wrong[key(o)+" "+string(o.UID)] = true
		}
	}
	return ready, wrong
}

// prompt is how long MIC may take for work that does not depend on Azure.
func (w *world) prompt() time.Duration { return 3*time.Second + 30*w.setup.Write }

// checkNow checks what must hold whatever Azure does.
func (w *world) checkNow() {
	if w.failed() || time.Since(w.mic.since) < w.prompt() {
		return
	}
	w.look()
	w.mu.Lock()
	calm := time.Since(w.disturbed) > 20*time.Second
	ready, wrong := maps.Clone(w.ready), maps.Clone(w.wrong)
	w.mu.Unlock()
	if !calm {
		return
	}
	truth, seen := w.truth(), w.seen()
	claims := seen.claims()
	for what, since := range ready {
		if time.Since(since) > w.prompt() && !says(w.rules, truth, seen, claims, what) {
			w.fail("on the group, and not Assigned", "%s, on the group since %s", what, clock(since))
		}
	}
	for what, since := range wrong {
		name, uid, _ := strings.Cut(what, " ")
		ns, name, _ := strings.Cut(name, "/")
		o := w.server.get(kindOf(&v1.AzureAssignedIdentity{}), client.ObjectKey{Namespace: ns, Name: name})
		if time.Since(since) > w.prompt() && o != nil && string(o.GetUID()) == uid {
			w.fail("of no use, and still there", "%s, since %s", what, clock(since))
		}
	}
}

// says reports whether the claim has an object in state Assigned. An object that MIC's cache lacks
// in its current version counts as well, if it occupies the name: the claim's own, or one that an
// older release created for another pair.
func says(rules identity.Rules, truth, seen *view, claims []claim, what string) bool {
	for _, c := range claims {
		if !strings.HasPrefix(what, c.String()+" (") {
			continue
		}
		return slices.ContainsFunc(truth.assigned, func(o *v1.AzureAssignedIdentity) bool {
			mine, named := c.of(o), o.Namespace == c.namespace(rules) && c.named(o)
			return mine && o.Status.Status == v1.StateAssigned && o.Spec.NodeName == c.node.Name || (mine || named) && !seen.has(o)
		})
	}
	return true
}

// has reports whether the view contains the object in its current version.
func (v *view) has(o *v1.AzureAssignedIdentity) bool {
	return slices.ContainsFunc(v.assigned, func(s *v1.AzureAssignedIdentity) bool {
		return s.UID == o.UID && s.ResourceVersion == o.ResourceVersion
	})
}

// rest waits until everything in progress has ended, and checks the result.
func (w *world) rest() {
	for i := range kinds() {
		w.informer(i).hold(false)
	}
	w.server.mu.Lock()
	w.server.fails = nil
	w.server.mu.Unlock()
	w.azure.mu.Lock()
	w.azure.patches, w.azure.reads = nil, nil
	w.azure.mu.Unlock()
	if w.setup.Repair && w.setup.Drift > 0 {
		w.azure.endFaults()
		w.byHand = true
	}
	for end := time.Now().Add(w.settleLimit()); time.Now().Before(end) && !w.failed(); {
		w.wait(min(time.Until(end), 20*time.Second))
		w.checkNow()
	}
	if !w.failed() {
		w.checkRest()
	}
	if !w.failed() && w.content() {
		w.checkCalm()
		w.checkAfterlife()
	}
}

// settleLimit is how long it may take to reach the desired state, given the faults of the history.
func (w *world) settleLimit() time.Duration {
	d := w.prompt() + 30*time.Second + 6*w.setup.Update + 20*w.setup.Read + w.setup.Grace
	w.azure.mu.Lock()
	defer w.azure.mu.Unlock()
	if w.azure.ill { // an update that hangs, a pause of a minute, and 429 responses
		d += 5*time.Minute + 2*time.Minute + 2*time.Minute
	}
	if w.azure.refusing { // quarantine
		d += 11*time.Minute + 20*w.setup.Update
	}
	if w.byHand { // two comparisons
		d += 3 * w.setup.Drift
	}
	return d
}

// checkRest checks the world at rest.
func (w *world) checkRest() {
	truth := w.truth()
	claims := truth.claims()
	for _, o := range truth.assigned {
		n := 0
		for _, c := range claims {
			if !c.of(o) {
				continue
			}
			n++
			if why := c.wrong(w.rules, o); why != "" {
				w.fail("object", "%s for %s: %s", key(o), c.String(), why)
			}
		}
		if n == 0 {
			w.fail("object left over", "%s for pod %s/%s", key(o), o.Spec.PodNamespace, o.Spec.Pod)
		}
	}
	for _, c := range claims {
		var of []*v1.AzureAssignedIdentity
		for _, o := range truth.assigned {
			if c.of(o) {
				of = append(of, o)
			}
		}
		if len(of) != 1 {
			w.fail("objects of a claim", "%s has %d", c.String(), len(of))
			return
		}
		w.checkState(&c, of[0])
	}
	w.checkAzure(truth)
	w.checkConditions(truth)
}

// checkState checks the state in an object.
func (w *world) checkState(c *claim, o *v1.AzureAssignedIdentity) {
	said := o.Status.Status + "/" + o.Status.Reason
	expect := func(states ...string) {
		if !slices.Contains(states, said) {
			w.fail("state", "%s for %s says %s (%s), want %v", key(o), c.String(), said, o.Status.Message, states)
		}
	}
	assigned, created := v1.StateAssigned+"/", v1.StateCreated+"/"
	switch {
	case c.lost:
		expect(created + reason.NodeNotOnAzure.Name())
	case !c.azure:
		expect(assigned)
	default:
		have, exists := w.azure.has(c.slot.group)
		clientID, _ := w.azure.fake.IDsOf(c.slot.key)
		listed := setOf(have.UserAssigned)[c.slot.key]
		reasons := w.reasons(c.slot, have, clientID != "")
		w.azure.mu.Lock()
		foreign, contested := w.azure.foreign[c.slot.group][c.slot.key] || w.azure.bookless[c.slot.group], w.azure.contested[c.slot.key]
		w.azure.mu.Unlock()
		renewing := setOf(have.Orphaned)[c.slot.key] || w.azure.isFixed(c.slot.key)
		switch {
		case exists && w.misnamed(c.identity) && clientID != "" && !renewing && !w.setup.StaleIDs:
			expect(append(reasons, created+reason.ClientIDMismatch.Name())...)
		case contested && (w.misnamed(c.identity) || renewing):
			// What MIC knows of it depends on when it read the group.
		case foreign && listed && len(reasons) > 0:
			expect(append(reasons, assigned)...) // Azure may refuse an identity that was there before
		case !exists:
			expect(append(reasons, created+reason.GroupMissing.Name())...) // an earlier refusal of the identity stays
		case listed && !setOf(have.Orphaned)[c.slot.key]:
			expect(assigned)
		case listed && w.azure.isFixed(c.slot.key):
			expect(assigned) // the operator declared it immutable
		case listed && (w.azure.forbidden[c.slot.group] || clientID == "" || len(reasons) > 0):
			expect(append(reasons, assigned)...) // it cannot be detached and attached again
		case len(reasons) == 0:
			w.fail("not on Azure", "%s needs %s on %s", c.String(), short(c.slot.key), c.slot.group)
		default:
			expect(reasons...)
		}
	}
}

// reasons returns what may keep an identity from a group.
func (w *world) reasons(s slot, have compute.Identities, exists bool) (out []string) {
	w.azure.mu.Lock()
	defer w.azure.mu.Unlock()
	add := func(reason string) { out = append(out, v1.StateCreated+"/"+reason) }
	if w.azure.forbidden[s.group] {
		add(reason.GroupForbidden.Name())
	}
	if !exists || w.azure.fates[s.key] == cursed {
		add(reason.IdentityRefused.Name())
	}
	if w.azure.fates[s.key] == forbidden {
		add(reason.IdentityForbidden.Name())
	}
	for _, id := range have.Orphaned {
		if client, _ := w.azure.fake.IDsOf(id); client == "" && w.setup.Strict {
			add(reason.GroupBlocked.Name())
		}
	}
	return out
}

// checkAzure checks what the groups have.
func (w *world) checkAzure(truth *view) {
	wanted, populated := truth.wanted(groups(), w.keys()), truth.groups()
	for _, group := range groups() {
		have, exists := w.azure.has(group)
		if !exists {
			continue
		}
		listed, orphaned, ledger := setOf(have.UserAssigned), setOf(have.Orphaned), w.ledger(group)
		for _, k := range w.keys() {
			s := slot{group, k}
			client, _ := w.azure.fake.IDsOf(k)
			w.azure.mu.Lock()
			foreign, mine := w.azure.foreign[group][k], w.azure.mine[group][k] && !w.azure.bookless[group]
			contested := w.azure.contested[k]
			w.azure.mu.Unlock()
			stuck := len(w.reasons(s, have, client != "")) > 0
			switch {
			case foreign && !listed[k] && !stuck:
				w.fail("somebody else's is gone", "%s from %s", short(k), group)
			case contested && (wanted[s] || listed[k]):
			case wanted[s] && listed[k] && orphaned[k] && client != "" && !stuck && !w.azure.isFixed(k) && w.setup.Drift > 0 && populated[group]:
				w.fail("not renewed", "%s on %s", short(k), group)
			case wanted[s] && !listed[k] && !stuck && populated[group]:
				w.fail("not on Azure", "%s is to be on %s", short(k), group)
			case mine && listed[k] && !ledger[k]:
				w.fail("lost from the ledger", "%s on %s", short(k), group)
			case ledger[k] && !listed[k] && !wanted[s] && !stuck && w.setup.Drift > 0:
				w.fail("left over in the ledger", "%s on %s", short(k), group)
			case mine && listed[k] && !wanted[s] && !w.azure.isFixed(k) && !w.azure.forbidden[group] && !stuck:
				w.fail("left over on Azure", "%s on %s", short(k), group)
			}
		}
	}
}

// content reports whether nothing blocks a wanted identity.
func (w *world) content() bool {
	for s := range w.truth().wanted(groups(), w.keys()) {
		have, exists := w.azure.has(s.group)
		client, _ := w.azure.fake.IDsOf(s.key)
		if !exists || len(have.Orphaned) > 0 || len(w.reasons(s, have, client != "")) > 0 {
			return false
		}
	}
	for _, group := range groups() {
		if have, exists := w.azure.has(group); exists && w.setup.Strict && len(have.Orphaned) > 0 {
			return false
		}
	}
	w.azure.mu.Lock()
	defer w.azure.mu.Unlock()
	return !slices.Contains(slices.Collect(maps.Values(w.azure.forbidden)), true)
}

// checkCalm checks that a world at rest stays at rest.
func (w *world) checkCalm() {
	w.azure.mu.Lock()
	updates := w.azure.updates
	w.azure.mu.Unlock()
	w.mu.Lock()
	writes := w.writes
	w.mu.Unlock()
	w.wait(2 * time.Minute)
	w.azure.mu.Lock()
	updates = w.azure.updates - updates
	w.azure.mu.Unlock()
	w.mu.Lock()
	writes = w.writes - writes
	w.mu.Unlock()
	if updates > 0 || writes > 0 {
		w.fail("no rest", "%d updates of Azure and %d writes of objects in two minutes", updates, writes)
	}
}
