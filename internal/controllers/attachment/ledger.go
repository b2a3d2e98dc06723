// What podid itself attached, kept where a restart cannot lose it.

package attachment

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

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
	// Keep tells that podid only renewed it: it took away, to put it back, what
	// somebody else had put there and what was deleted and made again. It is not
	// ours, and stays.
	Keep bool `json:"keep,omitempty"`
	// Renewing tells that it was taken away for that and has not been put back yet:
	// it is, whether or not a pod still needs it.
	Renewing bool `json:"renewing,omitempty"`
}

func (e Entry) clientKey() string { return lower(e.ClientID) }

// Ledger is the durable record of what podid attached, one ConfigMap a node
// group. It is written before Azure is asked, so an entry means "ours if it is
// there": an identity that the group had before is never in it (but for Keep), and
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

// Page is the ledger of one group.
type Page struct {
	// Entries by canonical resource ID.
	Entries map[string]Entry
	// Version of the object, empty when there is none.
	Version string
	// Damaged says why the object cannot be read; there are no Entries then.
	Damaged error
}

// Load returns the page of a group, an empty one when there is no ConfigMap.
func (l Ledger) Load(ctx context.Context, group compute.Group) (Page, error) {
	var cm corev1.ConfigMap
	err := l.Reader.Get(ctx, client.ObjectKey{Namespace: l.Namespace, Name: l.nameOf(group)}, &cm)
	if apierrors.IsNotFound(err) {
		return Page{}, nil
	}
	if err != nil {
		return Page{}, fmt.Errorf("read ledger of %s: %w", group, err)
	}
	return pageOf(&cm), nil
}

func pageOf(cm *corev1.ConfigMap) Page {
	page := Page{Entries: map[string]Entry{}, Version: cm.ResourceVersion}
	var list []Entry
	if err := json.Unmarshal([]byte(cm.Data[identitiesKey]), &list); err != nil {
		page.Damaged = &damagedError{cm.Namespace + "/" + cm.Name, err}
		list = nil // the parser leaves what it made of the rest
	}
	for _, e := range list {
		page.Entries[keyOf(e.ResourceID)] = e
	}
	return page
}

// damagedError is a ledger that somebody wrote who should not have.
type damagedError struct {
	configMap string
	err       error
}

// Error names the ConfigMap.
func (e *damagedError) Error() string {
	return fmt.Sprintf("read ledger: ConfigMap %s is damaged: key %q: %v", e.configMap, identitiesKey, e.err)
}

// Unwrap returns the parser's error.
func (e *damagedError) Unwrap() error { return e.err }

// Save replaces the entries of a group and returns the new version. Without
// entries the ConfigMap goes. version is that of the page that the entries began
// as: a page that somebody else wrote meanwhile, another leader, is a conflict.
func (l Ledger) Save(ctx context.Context, group compute.Group, entries map[string]Entry, version string) (string, error) {
	cm, err := l.document(group, entries)
	if err != nil {
		return version, wrap(group, err)
	}
	cm.ResourceVersion = version
	switch {
	case len(entries) == 0 && version == "":
		return "", nil
	case len(entries) == 0:
		err = l.Writer.Delete(ctx, cm, client.Preconditions(metav1.Preconditions{ResourceVersion: &version}))
		return "", wrap(group, client.IgnoreNotFound(err))
	case version == "":
		err = l.Writer.Create(ctx, cm)
	default:
		err = l.Writer.Update(ctx, cm)
	}
	return cm.ResourceVersion, wrap(group, err)
}

func wrap(group compute.Group, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("write ledger of %s: %w", group, err)
}

func (l Ledger) document(group compute.Group, entries map[string]Entry) (*corev1.ConfigMap, error) {
	list := make([]Entry, 0, len(entries))
	for _, e := range entries {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b Entry) int { return cmp.Compare(a.ResourceID, b.ResourceID) })
	identities, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return nil, err
	}
	name, err := json.Marshal(groupDocument(group))
	if err != nil {
		return nil, err
	}
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: l.Namespace, Name: l.nameOf(group), Labels: map[string]string{ManagedByLabel: ManagedBy},
		},
		Data: map[string]string{groupKey: string(name), identitiesKey: string(identities)},
	}, nil
}

// All returns the pages there are, by the names of their ConfigMaps, and the
// groups they are about, also those that no node belongs to any more.
func (l Ledger) All(ctx context.Context) (pages map[string]Page, groups []compute.Group, err error) {
	var list corev1.ConfigMapList
	if err := l.Reader.List(ctx, &list, client.InNamespace(l.Namespace), client.MatchingLabels{ManagedByLabel: ManagedBy}); err != nil {
		return nil, nil, fmt.Errorf("list ledgers in namespace %s: %w", l.Namespace, err)
	}
	pages = map[string]Page{}
	for i := range list.Items {
		pages[list.Items[i].Name] = pageOf(&list.Items[i])
		var doc groupDocument
		// A ConfigMap that is not a ledger, or a damaged one, has no group to
		// look after; load complains about it when its group comes up.
		if json.Unmarshal([]byte(list.Items[i].Data[groupKey]), &doc) == nil && doc.Name != "" {
			groups = append(groups, compute.Group(doc))
		}
	}
	return pages, groups, nil
}

// nameOf is the ConfigMap's name: groups' own names may hold characters that no
// object's may, and may be too long.
func (l Ledger) nameOf(group compute.Group) string {
	const digits = 10
	sum := sha256.Sum256([]byte(group.ResourceID()))
	return l.Name + "-" + hex.EncodeToString(sum[:])[:digits]
}

func lower(s string) string { return strings.ToLower(strings.TrimSpace(s)) }
