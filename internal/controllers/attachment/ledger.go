// What podid itself attached, kept where a restart cannot lose it.

package attachment

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/compute"
)

// The ledger's ConfigMaps.
const (
	// ManagedByLabel and ManagedBy tell them from others.
	ManagedByLabel = "app.kubernetes.io/managed-by"
	ManagedBy      = "podid-mic"

	groupKey      = "group"      // data: the node group, as JSON
	identitiesKey = "identities" // data: its entries, as JSON
)

// Entry is one identity that podid attached to a node group, or was about to.
type Entry struct {
	// ResourceID as podid sends it to Azure.
	ResourceID string `json:"resourceID"`
	// ClientID as the AzureIdentity said, for the immutable list; may be empty.
	ClientID string `json:"clientID,omitempty"`
	// PrincipalID as Azure said when it was there: another one later means
	// that the identity was deleted and made again.
	PrincipalID string `json:"principalID,omitempty"`
	// Namespace of the AzureIdentity that it was attached for: whose share of the
	// ledger it takes. Entries of older releases have none.
	Namespace string `json:"namespace,omitempty"`
	// Keep tells that podid only renewed it: it took away, to put it back, what
	// somebody else had put there and what was deleted and made again. It is not
	// ours, and stays.
	Keep bool `json:"keep,omitempty"`
	// Foreign reports that another writer had attached it, and that Azure took it from podid in
	// an update all the same: podid may assign it. It stays.
	Foreign bool `json:"foreign,omitempty"`
	// Renewing tells that it was taken away for that and has not been put back yet:
	// it is, whether or not a pod still needs it.
	Renewing bool `json:"renewing,omitempty"`
}

// others reports whether another writer attached it: podid never takes it away.
func (e Entry) others() bool { return e.Keep || e.Foreign }

func (e Entry) clientKey() string { return lower(e.ClientID) }

// Ledger is the durable record of what podid attached: of every node group one ConfigMap, or more
// where one does not suffice (see pages.go). It is written before Azure is asked, so an entry means "ours if it is
// there": an identity that the group had before is not in it (but for Keep and Foreign), and
// what is not in it is never detached, but to be put back at once.
type Ledger struct {
	// Reader reads past the cache: a ledger is read once per leadership.
	Reader client.Reader
	Writer client.Writer
	// Namespace of the ConfigMaps, and the first part of their names.
	Namespace, Name string
}

// groupDocument is a node group in a ConfigMap.
type groupDocument struct {
	Kind           compute.Kind `json:"kind"`
	SubscriptionID string       `json:"subscriptionID"`
	ResourceGroup  string       `json:"resourceGroup"`
	Name           string       `json:"name"`
}

// Load returns the record of a group, an empty one when there is no ConfigMap.
func (l Ledger) Load(ctx context.Context, group compute.Group) (Record, error) {
	return l.book(group).load(ctx, l.Reader)
}

func (l Ledger) book(group compute.Group) book { return book{l.Namespace, l.nameOf(group), group} }

// All returns the records that exist, by the names of their first ConfigMaps, and the groups that
// they are about, also those without nodes.
func (l Ledger) All(ctx context.Context) (records map[string]Record, groups []compute.Group, err error) {
	var configMaps []corev1.ConfigMap
	for next := ""; ; {
		var list corev1.ConfigMapList
		err := l.Reader.List(ctx, &list, client.InNamespace(l.Namespace), client.MatchingLabels{ManagedByLabel: ManagedBy},
			client.Limit(listLimit), client.Continue(next))
		if err != nil {
			return nil, nil, fmt.Errorf("list ledgers in namespace %s: %w", l.Namespace, err)
		}
		configMaps = append(configMaps, list.Items...)
		if next = list.Continue; next == "" {
			break
		}
	}
	records = map[string]Record{}
	for _, record := range Records(configMaps) {
		records[record.Name] = record
		if record.Group != (compute.Group{}) {
			groups = append(groups, record.Group)
		}
	}
	return records, groups, nil
}

// listLimit bounds one answer of the API server.
const listLimit = 100

// nameOf is the name of the first ConfigMap: groups' own names may hold characters that no
// object's may, and may be too long.
func (l Ledger) nameOf(group compute.Group) string {
	sum := sha256.Sum256([]byte(group.ResourceID()))
	return l.Name + "-" + hex.EncodeToString(sum[:])[:nameDigits]
}

// nameDigits is how many hexadecimal digits of the group's hash a name has.
const nameDigits = 10

func lower(s string) string { return ascii.ToLower(strings.TrimSpace(s)) }
