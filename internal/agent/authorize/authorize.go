// Package authorize decides which identity a caller gets for its request, or why it gets none. It
// applies the rules of package identity to the last known objects of the cluster, and checks
// whether the identity has arrived on the node.
//
// It answers from memory and never blocks. When the answer may change without a new request, it
// returns how long to wait and for what.
package authorize

import (
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/reason"
)

// Kind is what to do with a request.
type Kind int

// The kinds of decision.
const (
	// Refuse the request with the Refusal. It is the zero value, so that the default is to deny.
	Refuse Kind = iota
	// Allow the request with the identity of the Grant.
	Allow
	// PlainIMDS relays the request of an excepted pod to the metadata service.
	PlainIMDS
	// Wait until Changed closes, at most Limit after the request arrived, then refuse the request.
	Wait
	// Learn the object IDs of the identities in Unknown, then decide again.
	Learn
)

// Decision is what to do with one request at this moment.
type Decision struct {
	Kind    Kind
	Grant   identity.Grant
	Refusal *reason.Refusal
	Limit   time.Duration
	// OnTheWay reports, for Wait, that the identity is certain to be needed. With the flag
	// set-retry-after-header, the client is then asked to retry instead of being held.
	OnTheWay bool
	// Changed is closed when the decision may be a different one.
	Changed <-chan struct{}
	// Warning is what an enforced policy would refuse of PlainIMDS, nil otherwise.
	Warning *reason.Refusal
	// Unknown are granted identities whose object ID is not known yet.
	Unknown []*v1.AzureIdentity
}

// Config are the settings of a Table.
type Config struct {
	Rules identity.Rules
	// Standard reports that MIC brings identities to the node, and that one is
	// used only once its AzureAssignedIdentity says Assigned.
	Standard bool
	// Node is this node's name.
	Node string
	// Types are the identity types that have a source of tokens.
	Types []v1.IdentityType
	// ArrivalLimit is how long a request waits for an identity on its way.
	ArrivalLimit time.Duration
	// BindingLimit is how long it waits for a binding that may never come.
	BindingLimit time.Duration
}

// verdict is what is known about a pod. It is computed once and kept until an object that affects
// it changes.
type verdict struct {
	pod      identity.Pod
	excepted string // name of the exception
	grants   []identity.Grant
	refusals []*reason.Refusal
	// tooMany is the refusal of the identities beyond MaxIdentities, nil if there are none.
	tooMany *reason.Refusal
	// exception is the refusal of an exception that the policy does not allow. warning is the refusal
	// of one that applies anyway, because the policy only warns.
	exception, warning *reason.Refusal

	arrivals map[types.NamespacedName]arrival
	// hostNetwork is set for a pod on the node's own network: MIC writes no assigned identity
	// for it.
	hostNetwork bool
}

// arrival is how far an identity has come on its way to the pod's node.
type arrival struct {
	state, reason, message string
	// kind and resourceID are those of the identity that arrived. The object may have been edited
	// since.
	kind       v1.IdentityType
	resourceID string
	leaving    bool
}

// arrived reports whether the node has the identity. Objects of old MICs, which have no state,
// count as arrived, as in v1.8.17.
func (a arrival) arrived() bool { return !a.leaving && (a.state == v1.StateAssigned || a.state == "") }

func (a arrival) quarantined() bool {
	return !a.leaving && a.reason != "" && a.state != v1.StateAssigned
}

// of reports whether the identity that arrived is id in its current form. MIC has checked no other.
func (a arrival) of(id *v1.AzureIdentity) bool {
	return a.kind == id.Spec.Type && ascii.EqualFold(a.resourceID, id.Spec.ResourceID)
}

// Decide returns what to do with a caller's request. objectID returns the object ID that a token of
// the identity carried, "" when none is cached.
func (t *Table) Decide(pod types.NamespacedName, s identity.Selector, objectID func(*v1.AzureIdentity) string) Decision {
	o, changed := t.outcomeOf(pod)
	if o == nil {
		return Decision{
			Kind: Wait, Limit: t.cfg.BindingLimit, Changed: changed,
			Refusal: reason.PodUnknown.Refuse("this pod is not known yet: try again"),
		}
	}
	if o.excepted != "" {
		return Decision{Kind: PlainIMDS, Changed: changed, Warning: o.warning}
	}
	d := t.decide(o.verdict, s, objectID)
	d.Changed = changed
	return d
}

func (t *Table) decide(v *verdict, s identity.Selector, objectID func(*v1.AzureIdentity) string) Decision {
	if len(v.grants) == 0 {
		return t.withoutGrants(v, s)
	}
	if !s.Named() {
		return t.firstUsable(v)
	}
	g, refusal := identity.Choose(v.grants, s, objectID)
	if refusal == nil {
		return t.judge(v, g)
	}
	if s.ObjectID != "" {
		if unknown := t.unknownObjectIDs(v, objectID); len(unknown) > 0 {
			return Decision{Kind: Learn, Unknown: unknown}
		}
	}
	return t.noMatch(v, s, refusal)
}

// firstUsable decides a request that names no identity: it uses the first by precedence and skips
// those in quarantine, so that one bad identity does not block the others. One that has not arrived
// yet is waited for.
func (t *Table) firstUsable(v *verdict) Decision {
	first := t.judge(v, v.grants[0])
	if first.Kind != Refuse || first.Refusal.Reason != reason.Quarantined {
		return first
	}
	for _, g := range v.grants[1:] {
		if d := t.judge(v, g); d.Kind == Allow || d.Kind == Wait {
			return d
		}
	}
	return first
}

// judge decides about a single identity.
func (t *Table) judge(v *verdict, g identity.Grant) Decision {
	if !t.supported(g.Identity.Spec.Type) {
		return Decision{Refusal: unsupported(g.Identity)}
	}
	if !t.cfg.Standard || g.Identity.Spec.Type != v1.UserAssignedMSI {
		// The binding is enough: identities of other types are not assigned to nodes.
		return Decision{Kind: Allow, Grant: g}
	}
	a, known := v.arrivals[nameOf(g.Identity)]
	known = known && a.of(g.Identity)
	switch {
	case known && a.arrived():
		return Decision{Kind: Allow, Grant: g}
	case known && a.quarantined():
		return Decision{Refusal: quarantined(g.Identity, a)}
	case !known && v.hostNetwork:
		// No assigned identity will ever exist. The binding grants the identity, and the metadata service
		// either has it or refuses.
		return Decision{Kind: Allow, Grant: g}
	default:
		return Decision{Kind: Wait, Limit: t.cfg.ArrivalLimit, OnTheWay: true, Refusal: late(g.Identity, a, known)}
	}
}

func (t *Table) supported(kind v1.IdentityType) bool { return slices.Contains(t.cfg.Types, kind) }

// unknownObjectIDs returns the usable identities whose object ID is neither in the spec nor
// learned.
func (t *Table) unknownObjectIDs(v *verdict, objectID func(*v1.AzureIdentity) string) []*v1.AzureIdentity {
	var unknown []*v1.AzureIdentity
	for _, g := range v.grants {
		if g.Identity.Spec.ObjectID == "" && objectID(g.Identity) == "" && t.judge(v, g).Kind == Allow {
			unknown = append(unknown, g.Identity)
		}
	}
	return unknown
}

// noMatch decides a request whose selector matches none of the granted identities.
func (t *Table) noMatch(v *verdict, s identity.Selector, refusal *reason.Refusal) Decision {
	if s.ObjectID != "" {
		// An identity that has not arrived yet may have the object ID.
		for _, g := range v.grants {
			if d := t.judge(v, g); d.Kind == Wait && g.Identity.Spec.ObjectID == "" {
				return d
			}
		}
	}
	if d, ok := t.broken(v, s); ok {
		return d
	}
	if missing(v.refusals) {
		return Decision{Kind: Wait, Limit: t.cfg.BindingLimit, Refusal: unbound(v.refusals)}
	}
	if v.tooMany != nil {
		return Decision{Refusal: notFound(v.tooMany)} // it may be one of them
	}
	return Decision{Refusal: notFound(refusal)}
}

// withoutGrants decides a request of a pod that may use no identity.
func (t *Table) withoutGrants(v *verdict, s identity.Selector) Decision {
	if v.exception != nil && (len(v.refusals) == 0 || v.refusals[0].Reason == reason.NoLabel || v.refusals[0].Reason == reason.NoBinding) {
		return Decision{Refusal: v.exception}
	}
	if len(v.refusals) == 1 && v.refusals[0].Reason == reason.NoLabel {
		return Decision{Refusal: notFound(v.refusals[0])}
	}
	if d, ok := t.broken(v, s); ok {
		return d
	}
	refusals := v.refusals
	if foreign := t.foreign(v.pod); len(foreign) > 0 {
		own := slices.DeleteFunc(slices.Clone(refusals), func(r *reason.Refusal) bool { return r.Reason == reason.NoBinding })
		refusals = append(foreign, own...)
	}
	return Decision{Kind: Wait, Limit: t.cfg.BindingLimit, Refusal: unbound(refusals)}
}

// broken returns the final refusal when the requested identity lacks a field that its type needs,
// or when the pod may not have it.
func (t *Table) broken(v *verdict, s identity.Selector) (Decision, bool) {
	for _, r := range v.refusals {
		if r.Identity == nil || !matches(s, r.Identity) {
			continue
		}
		switch r.Reason {
		case reason.IdentityBroken, reason.UseForbidden, reason.ClusterIdentity:
			return Decision{Refusal: r}, true
		}
	}
	return Decision{}, false
}

// matches reports whether a selector names the identity, as far as its spec says.
func matches(s identity.Selector, id *v1.AzureIdentity) bool {
	return !s.Named() ||
		s.ClientID != "" && ascii.EqualFold(s.ClientID, id.Spec.ClientID) ||
		s.ResourceID != "" && ascii.EqualFold(s.ResourceID, id.Spec.ResourceID) ||
		s.ObjectID != "" && ascii.EqualFold(s.ObjectID, id.Spec.ObjectID)
}

// missing reports whether a binding selects the pod but the identity that it names does not exist,
// which happens while both are being applied.
func missing(refusals []*reason.Refusal) bool {
	for _, r := range refusals {
		if r.Reason == reason.IdentityMissing {
			return true
		}
	}
	return false
}

func nameOf(id *v1.AzureIdentity) types.NamespacedName {
	return types.NamespacedName{Namespace: id.Namespace, Name: id.Name}
}
