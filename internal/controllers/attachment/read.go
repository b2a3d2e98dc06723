// Ledgers for readers that are not MIC.

package attachment

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/podid-io/podid/internal/compute"
)

// ReadLedger says what a ledger's ConfigMap records: of which group, and what
// podid attached to it. The error is that of a ConfigMap which is no ledger, or a
// damaged one; the group is empty where that cannot be read.
func ReadLedger(cm *corev1.ConfigMap) (compute.Group, []Entry, error) {
	var doc groupDocument
	if err := json.Unmarshal([]byte(cm.Data[groupKey]), &doc); err != nil || doc.Name == "" {
		return compute.Group{}, nil, fmt.Errorf("read ledger: ConfigMap %s/%s: key %q names no node group", cm.Namespace, cm.Name, groupKey)
	}
	var entries []Entry
	if err := json.Unmarshal([]byte(cm.Data[identitiesKey]), &entries); err != nil {
		return compute.Group(doc), nil, fmt.Errorf("read ledger: ConfigMap %s/%s is damaged: key %q: %w", cm.Namespace, cm.Name, identitiesKey, err)
	}
	return compute.Group(doc), entries, nil
}

// SetEntries replaces, in memory, what a ledger's ConfigMap records of its group.
func SetEntries(cm *corev1.ConfigMap, entries []Entry) error {
	text, err := json.MarshalIndent(entries, "", "  ")
	if err != nil {
		return fmt.Errorf("write ledger %s/%s: %w", cm.Namespace, cm.Name, err)
	}
	cm.Data[identitiesKey] = string(text)
	return nil
}
