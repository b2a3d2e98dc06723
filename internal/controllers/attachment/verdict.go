// What Azure says about an identity, against what AzureIdentity objects say.

package attachment

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/assignment"
)

// there reports whether the machines have the identity, whoever attached it. mu is held.
func (st *state) there(key string) bool {
	return st.current.Has(key) && !st.leaving[key] && !st.arriving[key]
}

// vouched reports whether podid may assign the identity: it attached it, or Azure took it from
// podid in an update although it was there already. mu is held.
func (st *state) vouched(key string) bool {
	if _, ok := st.ledger[key]; ok || ascii.Is(key) {
		return ok
	}
	for other := range st.ledger { // Azure may take both spellings for one
		if ascii.Loose(other) == ascii.Loose(key) {
			return true
		}
	}
	return false
}

// objection is why pods do not get an identity by that AzureIdentity, zero when nothing is known
// against it. pending reports that Azure has not been asked yet which of two client IDs is right.
// mu is held.
func (st *state) objection(key string, u user) (why assignment.State, pending bool) {
	has := st.clients[key]
	if has == "" || st.stale[key] {
		return assignment.State{}, false
	}
	if !u.named && st.cluster[has] {
		return refusal(assignment.ReasonClusterIdentity, fmt.Sprintf("the resource ID of AzureIdentity %s is that of an identity of the cluster itself "+
			"(the kubelet's, or MIC's), which pods do not get: use another identity, name this one in an AzureIdentityPolicy, "+
			"or run MIC and NMI with --allow-cluster-identities", u.identity)), false
	}
	if u.clientID == "" || u.clientID == has {
		return assignment.State{}, false
	}
	if st.cleared[suspicion{key, u.clientID, has}] == unheard {
		return assignment.State{}, true
	}
	return refusal(assignment.ReasonClientIDMismatch, fmt.Sprintf("spec.clientID of AzureIdentity %s is not the client ID that Azure has for its "+
		"spec.resourceID (%s): correct spec.clientID or spec.resourceID; az identity show --ids <resourceID> --query clientId tells the right one",
		u.identity, shortClientID(has))), false
}

func refusal(reason, message string) assignment.State {
	return assignment.State{Status: v1.StateCreated, Reason: reason, Message: message}
}

// shortClientID is the beginning of a client ID: objects and logs have no whole ones.
func shortClientID(id string) string {
	const length = 8
	if len(id) <= length {
		return id
	}
	return id[:length] + "…"
}

// suspected reports whether Azure has to be asked about an AzureIdentity's client ID. mu is held.
func (st *state) suspected(key string, u user) bool {
	_, pending := st.objection(key, u)
	return pending
}

// rememberClients keeps the client IDs of identities that pods need and that the group has no more:
// an AzureIdentity with a wrong one must not have its identity attached again and again. mu is held.
func (st *state) rememberClients(now map[string]string) {
	for key, clientID := range st.clients {
		if _, listed := now[key]; !listed && !st.current.Has(key) && st.needs[key] != nil {
			now[key] = clientID
		}
	}
	st.clients = now
}

// readClusterIdentities notes the client IDs of the identities that are the cluster's own.
func (r *Reconciler) readClusterIdentities(ctx context.Context, p *pass) error {
	if r.settings.AllowClusterIdentities {
		return nil
	}
	var nodes corev1.NodeList
	err := r.client.List(ctx, &nodes, client.MatchingFields{NodesByGroup: p.group.ResourceID()}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return fmt.Errorf("list nodes of %s: %w", p.group, err)
	}
	cluster := map[string]bool{}
	for id := range r.settings.ClusterIdentities {
		cluster[ascii.ToLower(id)] = true
	}
	for i := range nodes.Items {
		if id := nodes.Items[i].Labels[v1.KubeletIdentityLabel]; id != "" {
			cluster[ascii.ToLower(id)] = true
		}
	}
	p.state.mu.Lock()
	defer p.state.mu.Unlock()
	p.state.cluster = cluster
	return nil
}
