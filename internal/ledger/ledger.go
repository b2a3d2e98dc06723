// Package ledger records durably which identities podid attached to which node group. Nothing
// that is not in the ledger is ever detached.
//
// A node group's ledger is a Record, stored as JSON in one ConfigMap or, where that is too small,
// in several pages. A Store reads records, Record.Save writes one. MIC writes an entry before it
// asks Azure to attach an identity, so an entry means "podid attached this, if it is attached".
package ledger

import (
	"encoding/json"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/identity"
)

// The ledger's ConfigMaps.
const (
	// ManagedByLabel has the value ManagedBy on each of them.
	ManagedByLabel = "app.kubernetes.io/managed-by"
	ManagedBy      = "podid-mic"

	groupKey      = "group"      // data: the node group, as JSON
	identitiesKey = "identities" // data: its entries, as JSON
)

// Entry is one identity that podid attached to a node group, or was about to.
type Entry struct {
	// ResourceID as podid sends it to Azure.
	ResourceID string `json:"resourceID"`
	// ClientID of the AzureIdentity, for the list of immutable identities; may be empty.
	ClientID string `json:"clientID,omitempty"`
	// PrincipalID that Azure reported after the identity was attached. A different one later means
	// that the identity was deleted and recreated.
	PrincipalID string `json:"principalID,omitempty"`
	// Namespace of the AzureIdentity that it was attached for, whose share of the ledger it uses.
	// Entries of older releases have none.
	Namespace string `json:"namespace,omitempty"`
	// Keep marks an identity of another writer that podid only renewed: it had been deleted and
	// recreated, so podid detached it and attached it again. It is never removed.
	Keep bool `json:"keep,omitempty"`
	// Foreign marks an identity of another writer that Azure also accepted in one of podid's
	// updates, so podid may assign it. It is never removed.
	Foreign bool `json:"foreign,omitempty"`
	// Renewing marks an identity that was detached for renewal and is not attached again yet. It
	// will be, whether or not a pod still needs it.
	Renewing bool `json:"renewing,omitempty"`
}

// Owned reports whether podid attached the identity, and so may detach it.
func (e Entry) Owned() bool { return !e.Keep && !e.Foreign }

// ClientKey is the client ID in canonical form.
func (e Entry) ClientKey() string { return canonical(e.ClientID) }

// groupDocument is a node group in a ConfigMap.
type groupDocument struct {
	Kind           compute.Kind `json:"kind"`
	SubscriptionID string       `json:"subscriptionID"`
	ResourceGroup  string       `json:"resourceGroup"`
	Name           string       `json:"name"`
}

// Parse returns the node group and the entries of a ledger's ConfigMap. It fails for a ConfigMap
// that is damaged or no ledger; the group is empty if it cannot be read.
func Parse(cm *corev1.ConfigMap) (compute.Group, []Entry, error) {
	var doc groupDocument
	if err := json.Unmarshal([]byte(cm.Data[groupKey]), &doc); err != nil || doc.Name == "" {
		return compute.Group{}, nil, fmt.Errorf("read ledger: ConfigMap %s/%s: key %q names no node group",
			cm.Namespace, cm.Name, groupKey)
	}
	var entries []Entry
	if err := json.Unmarshal([]byte(cm.Data[identitiesKey]), &entries); err != nil {
		return compute.Group(doc), nil, fmt.Errorf("read ledger: ConfigMap %s/%s is damaged: key %q: %w",
			cm.Namespace, cm.Name, identitiesKey, err)
	}
	return compute.Group(doc), entries, nil
}

// SetEntries replaces the entries of a ledger's ConfigMap in memory.
func SetEntries(cm *corev1.ConfigMap, entries []Entry) error {
	text, err := json.MarshalIndent(entries, "", "  ")
	if err != nil {
		return fmt.Errorf("write ledger %s/%s: %w", cm.Namespace, cm.Name, err)
	}
	cm.Data[identitiesKey] = string(text)
	return nil
}

// Key returns the canonical form of a resource ID, by which entries are found. It also accepts IDs
// that Azure spells in a way that cannot be parsed.
func Key(resourceID string) string {
	if id, err := identity.ParseResourceID(resourceID); err == nil {
		return id.Key()
	}
	return canonical(resourceID)
}

func canonical(s string) string { return ascii.ToLower(strings.TrimSpace(s)) }
