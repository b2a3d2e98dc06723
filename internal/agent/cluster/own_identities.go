// The cluster's own identities as the agent knows them: those of its flags, and the kubelet's from
// the node's label.

package cluster

import (
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/ascii"
)

// OwnIdentities are the identities of the command line, and the kubelet's, which a label of the
// node names. It is safe for concurrent use.
type OwnIdentities struct {
	configured map[string]bool
	kubelet    atomic.Pointer[string] // its client ID in lower case, nil while unknown
	once       sync.Once
	known      chan struct{}
}

// NewOwnIdentities returns the identities with these client IDs and resource IDs, in lower case.
func NewOwnIdentities(ids map[string]bool) *OwnIdentities {
	return &OwnIdentities{configured: ids, known: make(chan struct{})}
}

// Has reports whether one of the identities has this client ID or resource ID, both in lower case.
// It is called for every issued token.
func (o *OwnIdentities) Has(clientID, resourceID string) bool {
	kubelet := o.kubelet.Load()
	return clientID != "" && (kubelet != nil && clientID == *kubelet || o.configured[clientID]) || resourceID != "" && o.configured[resourceID]
}

// Known is closed once the node was read.
func (o *OwnIdentities) Known() <-chan struct{} { return o.known }

// SetNode reads the kubelet's identity from the node's labels.
func (o *OwnIdentities) SetNode(node *corev1.Node) {
	kubelet := ascii.ToLower(node.Labels[v1.KubeletIdentityLabel])
	o.kubelet.Store(&kubelet)
	o.once.Do(func() { close(o.known) })
}
