// The cluster's own identities, which pods do not get unless they are named for them.

package main

import (
	"context"
	"flag"
	"fmt"
	"regexp"
	"strings"
	"sync"

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
	for _, id := range o.ids() {
		if _, err := identity.ParseResourceID(id); err != nil && !isGUID(id) {
			return fmt.Errorf("--cluster-identities: %q is neither a client ID (a GUID) nor a resource ID of the form %s", id, identity.ResourceIDShape)
		}
	}
	return nil
}

func isGUID(s string) bool {
	return regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`).MatchString(s)
}

func (o *clusterOptions) ids() []string {
	return strings.FieldsFunc(o.list, func(r rune) bool { return r == ',' || r == ' ' })
}

// set is the rules' form of the list.
func (o *clusterOptions) set() map[string]bool {
	set := map[string]bool{}
	for _, id := range o.ids() {
		set[ascii.ToLower(id)] = true
	}
	return set
}

// clusterIdentities are those of the command line and the kubelet's. It is safe for
// concurrent use.
type clusterIdentities struct {
	mu      sync.RWMutex
	known   map[string]bool
	kubelet string // its client ID in lower case, "" when unknown
	first   sync.Once
	learned chan struct{} // closes when the node was read
}

func newClusterIdentities(known map[string]bool) *clusterIdentities {
	return &clusterIdentities{known: known, learned: make(chan struct{})}
}

// has reports whether one of them has this client ID or resource ID.
func (c *clusterIdentities) has(clientID, resourceID string) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	clientID, resourceID = ascii.ToLower(clientID), ascii.ToLower(resourceID)
	return clientID != "" && (c.known[clientID] || clientID == c.kubelet) || resourceID != "" && c.known[resourceID]
}

// learn reads the kubelet's identity from the labels of the node.
func (c *clusterIdentities) learn(node *corev1.Node) {
	c.mu.Lock()
	c.kubelet = ascii.ToLower(node.Labels[v1.KubeletIdentityLabel])
	c.mu.Unlock()
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
