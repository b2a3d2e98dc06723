// The cluster's own identities, which pods do not get unless they are named for them.

package main

import (
	"context"
	"flag"
	"fmt"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/taint"
	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/identity"
)

// clusterOptions: which identities are the cluster's own.
type clusterOptions struct {
	allow bool
	list  string
}

func (o *clusterOptions) bindFlags(flags *flag.FlagSet) {
	flags.BoolVar(&o.allow, "allow-cluster-identities", false,
		"let pods have identities of the cluster itself, as aad-pod-identity did: those of --cluster-identities, the kubelet's and the system-assigned one")
	flags.StringVar(&o.list, "cluster-identities", "",
		"client IDs or resource IDs, separated by commas, of identities of the cluster itself, such as MIC's; "+
			"the kubelet's is also known by the node's label "+v1.KubeletIdentityLabel)
}

func (o *clusterOptions) validate() error {
	if err := identity.CheckIDs(o.list); err != nil {
		return fmt.Errorf("--cluster-identities: %w", err)
	}
	return nil
}

// set returns the list in the rules' form.
func (o *clusterOptions) set() map[string]bool { return identity.IDSet(identity.SplitIDs(o.list)...) }

// clusterIdentities are those of the command line and the kubelet's. It is safe for
// concurrent use.
type clusterIdentities struct {
	known   map[string]bool
	kubelet atomic.Pointer[string] // its client ID in lower case, nil while it is not known
	first   sync.Once
	learned chan struct{} // closes when the node was read
}

func newClusterIdentities(known map[string]bool) *clusterIdentities {
	return &clusterIdentities{known: known, learned: make(chan struct{})}
}

// has reports whether one of them has this client ID or resource ID, both in lower case. It is
// asked for every token that is handed out.
func (c *clusterIdentities) has(clientID, resourceID string) bool {
	kubelet := c.kubelet.Load()
	return clientID != "" && (kubelet != nil && clientID == *kubelet || c.known[clientID]) || resourceID != "" && c.known[resourceID]
}

// learn reads the kubelet's identity from the labels of the node.
func (c *clusterIdentities) learn(node *corev1.Node) {
	kubelet := ascii.ToLower(node.Labels[v1.KubeletIdentityLabel])
	c.kubelet.Store(&kubelet)
	c.first.Do(func() { close(c.learned) })
}

// learning is the agent's node for the taint remover, which learns from it on the way.
type learning struct {
	taint.Nodes
	identities *clusterIdentities
}

// Watch implements taint.Nodes.
func (l learning) Watch(ctx context.Context, tell func(*corev1.Node)) {
	l.Nodes.Watch(ctx, func(node *corev1.Node) {
		l.identities.learn(node)
		tell(node)
	})
}
