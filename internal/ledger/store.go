// Reading ledgers from the API server.

package ledger

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podid-io/podid/internal/compute"
)

// Store is where MIC keeps its ledgers. It may be used concurrently.
type Store struct {
	// Reader reads from the API server, not from a cache: a ledger is read once per leadership.
	Reader client.Reader
	Writer client.Writer
	// Namespace of the ConfigMaps, and the first part of their names.
	Namespace, Name string
}

// listLimit bounds one response of the API server.
const listLimit = 100

// Load returns the record of a group, an empty one if there is no ConfigMap.
func (s Store) Load(ctx context.Context, group compute.Group) (Record, error) {
	record := Record{Namespace: s.Namespace, Name: s.nameOf(group), Group: group, Entries: map[string]Entry{}}
	for number := 1; ; number++ {
		var cm corev1.ConfigMap
		err := s.Reader.Get(ctx, client.ObjectKey{Namespace: s.Namespace, Name: pageName(record.Name, number)}, &cm)
		if apierrors.IsNotFound(err) {
			return record, nil
		}
		if err != nil {
			return Record{}, fmt.Errorf("read ledger of %s: %w", group, err)
		}
		record.add(&cm, number)
	}
}

// All returns all records by the names of their first ConfigMaps, and their groups, including those
// without nodes.
func (s Store) All(ctx context.Context) (records map[string]Record, groups []compute.Group, err error) {
	var configMaps []corev1.ConfigMap
	for next := ""; ; {
		var list corev1.ConfigMapList
		err := s.Reader.List(ctx, &list,
			client.InNamespace(s.Namespace), client.MatchingLabels{ManagedByLabel: ManagedBy},
			client.Limit(listLimit), client.Continue(next))
		if err != nil {
			return nil, nil, fmt.Errorf("list ledgers in namespace %s: %w", s.Namespace, err)
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

// nameDigits is how many hexadecimal digits of the group's hash are in a name.
const nameDigits = 10

// nameOf returns the name of a group's first ConfigMap. It has a hash, because a group's name may
// be too long for an object's, or have letters that are not allowed there.
func (s Store) nameOf(group compute.Group) string {
	sum := sha256.Sum256([]byte(group.ResourceID()))
	return s.Name + "-" + hex.EncodeToString(sum[:])[:nameDigits]
}

// pageName returns the name of a page, given that of the first one.
func pageName(first string, number int) string {
	if number == 1 {
		return first
	}
	return first + "-" + strconv.Itoa(number)
}
